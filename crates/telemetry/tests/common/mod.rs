//! A sink of the test's own on port 0, and waiting for a condition.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::future::Future;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use telemetry::query::TraceQuery;
use telemetry::sink::{Limits, TraceSink, serve};
use telemetry::{LogFormat, Pipeline, Settings};

/// A sink that is served until the test's process ends.
pub struct Sink {
    pub sink: TraceSink,
    pub url: String,
    pub query: TraceQuery,
}

pub fn start_sink(limits: Limits) -> Sink {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let sink = TraceSink::new(limits);
    let served = sink.clone();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async { serve(listener, served).expect("served").await })
    });
    Sink { sink, query: TraceQuery::new(&url), url }
}

pub fn settings(service: &str, instance: &str, endpoint: Option<&str>) -> Settings {
    Settings {
        service_name: service.to_string(),
        instance_id: instance.to_string(),
        version: "1.2.3".to_string(),
        otlp_endpoint: endpoint.map(str::to_string),
        log_format: LogFormat::Json,
        log_filter: None,
    }
}

pub fn pipeline(service: &str, instance: &str, endpoint: &str) -> Pipeline {
    Pipeline::build(&settings(service, instance, Some(endpoint))).expect("a pipeline")
}

/// Ends the pipelines outside the async runtime, as a service does.
pub async fn shut_down(pipelines: Vec<Pipeline>) {
    let all_sent = tokio::task::spawn_blocking(move || pipelines.iter().all(Pipeline::shutdown));
    assert!(all_sent.await.expect("no panic"), "the collector took all spans");
}

/// Asks again until there is an answer; says what the last one was when there is none in 30 s.
pub async fn wait_for<T, E, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Debug,
{
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if Instant::now() > deadline => panic!("waited for {what}; last seen: {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
