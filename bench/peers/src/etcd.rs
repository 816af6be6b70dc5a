//! etcd: a cluster of three members on loopback with its defaults (each write is synced by a majority, reads are
//! linearizable), and its requests by gRPC and by JSON.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use etcd_client::{Client, KvClient};
use hyper::{Method, StatusCode};
use processes::{Process, free_ports};
use serde_json::{Value, json};

use crate::http::HttpConnection;
use crate::target::{Protocol, Server, Target};

/// Members.
const MEMBERS: usize = 3;
/// How long the cluster may take to have a leader.
const READY_MAX: Duration = Duration::from_secs(60);
/// Between two tries to write the first record.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A cluster that runs.
pub struct Cluster {
    /// The members' client addresses.
    pub addresses: Vec<SocketAddr>,
    /// Its version and size.
    pub description: String,
    /// The members.
    pub servers: Arc<Vec<Server>>,
}

/// Starts a cluster and waits until each member takes writes.
pub async fn start(program: &Path, directory: &Path) -> Result<Cluster> {
    let ports = free_ports(2 * MEMBERS)?;
    let (clients, peers) = ports.split_at(MEMBERS);
    let members = peers.iter().enumerate().map(|(at, port)| format!("e{}=http://127.0.0.1:{port}", at + 1));
    let members = members.collect::<Vec<_>>().join(",");
    let mut servers = Vec::new();
    for (at, (client, peer)) in clients.iter().zip(peers).enumerate() {
        let name = format!("e{}", at + 1);
        let client = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut command = Command::new(program);
        command.args(["--name", &name, "--data-dir", &directory.join(&name).display().to_string()]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &members, "--initial-cluster-state", "new"]);
        command.args(["--initial-cluster-token", "bench", "--logger", "zap"]);
        // Settings of another etcd on this machine must not leak in.
        for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("ETCD_")) {
            command.env_remove(variable);
        }
        servers.push(Server { role: "etcd", process: Process::start(&name, command, directory)? });
    }
    let addresses: Vec<SocketAddr> = clients.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
    for address in &addresses {
        wait_for_writes(*address).await.with_context(|| format!("etcd at {address} is not ready"))?;
    }
    let description = format!("etcd {}, {MEMBERS} members, defaults", version(addresses[0]).await?);
    Ok(Cluster { addresses, description, servers: Arc::new(servers) })
}

/// One way to ask a cluster.
pub fn target(name: &str, cluster: Cluster) -> Target {
    let protocol = if name == "etcd-json" { Protocol::EtcdJson } else { Protocol::EtcdGrpc };
    let Cluster { addresses, description, servers } = cluster;
    Target { name: name.to_owned(), description, protocol, addresses, servers }
}

/// A connection of its own for one client.
pub async fn connect(address: SocketAddr) -> Result<KvClient> {
    let client = Client::connect([format!("http://{address}")], None).await;
    Ok(client.with_context(|| format!("connecting to etcd at {address}"))?.kv_client())
}

/// `Put`: acknowledged when a majority of the members has synced it.
pub async fn write_grpc(client: &mut KvClient, key: &str, value: Bytes) -> Result<()> {
    client.put(key, value, None).await?;
    Ok(())
}

/// `Range` of one key, linearizable by default.
pub async fn read_grpc(client: &mut KvClient, key: &str) -> Result<Bytes> {
    let answer = client.get(key, None).await?;
    let pair = answer.kvs().first().context("no such key")?;
    Ok(Bytes::copy_from_slice(pair.value()))
}

/// `Put` as JSON.
pub async fn write_json(http: &mut HttpConnection, key: &str, value: &[u8]) -> Result<()> {
    let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)});
    ask_json(http, "/v3/kv/put", &body).await?;
    Ok(())
}

/// `Range` as JSON.
pub async fn read_json(http: &mut HttpConnection, key: &str) -> Result<Bytes> {
    let answer = ask_json(http, "/v3/kv/range", &json!({"key": STANDARD.encode(key)})).await?;
    let value = answer["kvs"][0]["value"].as_str().context("no such key")?;
    Ok(STANDARD.decode(value).context("a value is base64")?.into())
}

async fn ask_json(http: &mut HttpConnection, path: &str, body: &Value) -> Result<Value> {
    let (status, answer) = http.ask(Method::POST, path.to_owned(), body.to_string().into()).await?;
    ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&answer));
    serde_json::from_slice(&answer).context("an answer is JSON")
}

async fn version(address: SocketAddr) -> Result<String> {
    let mut http = HttpConnection::open(address).await?;
    let (_, body) = http.ask(Method::GET, "/version".to_owned(), Bytes::new()).await?;
    let answer: Value = serde_json::from_slice(&body).context("etcd's version is JSON")?;
    Ok(answer["etcdserver"].as_str().unwrap_or("of an unknown version").to_owned())
}

async fn wait_for_writes(address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let tried = async {
            let mut http = HttpConnection::open(address).await?;
            write_json(&mut http, "first", b"first").await
        };
        match tried.await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
}
