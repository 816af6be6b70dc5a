//! Everring: a fleet of its roles, each a process, as `everring up` starts them (without its collector of traces), and
//! its requests.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use processes::Process;

use crate::http::HttpConnection;
use crate::target::{Protocol, Server, Target};

/// How long a process may take to be ready, and the ring to form.
const READY_MAX: Duration = Duration::from_secs(60);
/// Between two tries to write the first record.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// As many as `everring up` has.
const GATEWAYS: usize = 2;
/// Copies of each key: as many as etcd's three members hold.
const REPLICATION: usize = 3;

/// Starts a fleet of `nodes` storage nodes and waits until it takes writes.
pub async fn start(name: &str, program: &Path, nodes: usize, directory: &Path) -> Result<Target> {
    let role = |role: &'static str, name: String, args: &[String]| -> Result<(Server, SocketAddr)> {
        let mut command = Command::new(program);
        command.arg(role).args(["--name", &name, "--listen", "127.0.0.1:0"]).args(args);
        // A collector set for the caller's own sake would be asked to take part.
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env("EVERRING_CLUSTER_SECRET", "bench");
        let (process, line) = Process::start_until(&name, command, directory, "everring ", READY_MAX)?;
        let http = line.split_whitespace().find_map(|word| word.strip_prefix("http="));
        let http = http.with_context(|| format!("no http= in {line:?}"))?.parse()?;
        Ok((Server { role, process }, http))
    };
    let folder = |name: &str| directory.join(name).display().to_string();
    let (discovery, at) = role("discovery", "d1".into(), &["--data".into(), folder("d1")])?;
    let discovery_url = ["--discovery".to_owned(), format!("http://{at}")];
    let mut servers = vec![discovery];
    for number in 1..=nodes {
        let name = format!("n{number}");
        let mut args = discovery_url.to_vec();
        args.extend(["--peer-listen".into(), "127.0.0.1:0".into(), "--data".into(), folder(&name)]);
        args.extend(["--ring-size".into(), nodes.to_string(), "--replication".into(), REPLICATION.to_string()]);
        servers.push(role("storage-node", name, &args)?.0);
    }
    let mut addresses = Vec::new();
    for number in 1..=GATEWAYS {
        let (gateway, address) = role("gateway", format!("g{number}"), &discovery_url)?;
        servers.push(gateway);
        addresses.push(address);
    }
    for address in &addresses {
        wait_for_writes(*address).await?;
    }
    let description = format!(
        "Everring, {nodes} storage nodes, {REPLICATION} copies of each key, {GATEWAYS} gateways, HTTP/1.1; no tracing"
    );
    Ok(Target {
        name: name.to_owned(),
        description,
        protocol: Protocol::Records,
        addresses,
        servers: Arc::new(servers),
    })
}

async fn wait_for_writes(address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let mut connection = HttpConnection::open(address).await?;
        match write(&mut connection, "first", Bytes::from_static(b"first")).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.context("the ring did not form")),
            Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
}

/// `PUT`: acknowledged when a majority of the replicas has synced it.
pub async fn write(http: &mut HttpConnection, key: &str, value: Bytes) -> Result<()> {
    let (status, body) = http.ask(Method::PUT, format!("/v1/kv/records/{key}"), value).await?;
    let acknowledged = status == StatusCode::OK || status == StatusCode::CREATED;
    ensure!(acknowledged, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

/// `GET` at the bucket's own level, which is strict.
pub async fn read(http: &mut HttpConnection, key: &str) -> Result<Bytes> {
    let (status, body) = http.ask(Method::GET, format!("/v1/kv/records/{key}"), Bytes::new()).await?;
    ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}
