//! A discovery on a free port, and what the tests ask it with.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::Path;
use std::time::Duration;

use client::consul::Consul;
use discovery::{Config, Discovery, StartError};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything takes; a test that reaches it has failed.
pub const LONG: Duration = Duration::from_secs(30);

pub struct Fixture {
    pub base: String,
    pub address: String,
    pub dns: Option<std::net::SocketAddr>,
    pub consul: Consul,
    pub http: reqwest::Client,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), StartError>>,
}

impl Fixture {
    pub fn start() -> Fixture {
        Fixture::start_at("127.0.0.1:0", None)
    }

    pub fn start_at(listen: &str, data: Option<&Path>) -> Fixture {
        let data = data.map(Path::to_path_buf);
        Fixture::start_with(Config { data, ..Config::new(listen, "discovery") })
    }

    pub fn start_with(config: Config) -> Fixture {
        let discovery = Discovery::bind(config).expect("the address and the directory are free");
        let dns = discovery.dns_address();
        let address = discovery.address().to_string();
        let base = format!("http://{address}");
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(discovery.serve(async move {
            let _ = stopped.await;
        }));
        let consul = Consul::new(&base).expect("an address");
        Fixture { base, address, dns, consul, http: reqwest::Client::new(), stop, served }
    }

    /// Stops it and waits until its address and its data are free.
    pub async fn stop(self) {
        self.stop.send(()).expect("it is running");
        within(self.served).await.expect("no panic").expect("it ends well");
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.base)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        within(self.http.get(self.url(path)).send()).await.expect("an answer")
    }

    pub async fn get_json(&self, path: &str) -> Value {
        self.get(path).await.json().await.expect("JSON")
    }

    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
        read(within(self.http.put(self.url(path)).body(body).send()).await.expect("an answer")).await
    }

    pub async fn delete(&self, path: &str) -> (u16, String) {
        read(within(self.http.delete(self.url(path)).send()).await.expect("an answer")).await
    }
}

pub async fn read(response: reqwest::Response) -> (u16, String) {
    (response.status().as_u16(), response.text().await.expect("a body"))
}

pub fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or_default()
}

pub fn index(response: &reqwest::Response) -> u64 {
    header(response, "X-Consul-Index").parse().expect("an index")
}

/// The future's value, or a failed test when it takes too long.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("this must not take so long")
}
