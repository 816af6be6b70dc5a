//! The ceiling: a bare actix-web handler that keeps values in memory, not durable, not replicated. What HTTP alone
//! costs on this machine; no store behind HTTP can be faster.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::web::{Bytes, Data, Path as UrlPath, get};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::{Context, Result};
use processes::Process;

use crate::target::{Protocol, Server, Target};

/// Threads that serve: as many as a gateway of Everring has by default.
const WORKERS: usize = 2;
/// How long it may take to be ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// Parts of the map, each with a lock of its own.
const SHARDS: usize = 16;

/// Starts it in a process of its own.
pub fn start(name: &str, directory: &Path) -> Result<Target> {
    let mut command = Command::new(std::env::current_exe().context("this program's path")?);
    command.args(["ceiling", "--workers", &WORKERS.to_string()]);
    let (process, line) = Process::start_until("actix", command, directory, "ceiling ready ", READY_MAX)?;
    let address = line.trim_start_matches("ceiling ready ").parse().context("its address")?;
    Ok(Target {
        name: name.to_owned(),
        description: format!("a bare actix-web handler, {WORKERS} workers, values in memory, HTTP/1.1"),
        protocol: Protocol::Records,
        addresses: vec![address],
        servers: Arc::new(vec![Server { role: "actix", process }]),
    })
}

/// Serves until it is told to end.
pub fn serve(workers: usize) -> Result<()> {
    let map = Data::new(Map::new());
    let server = HttpServer::new(move || {
        let put = actix_web::web::put().to(store);
        App::new().app_data(map.clone()).route(PATH, get().to(answer)).route(PATH, put)
    });
    let server = server.workers(workers).bind("127.0.0.1:0").context("a free port on loopback")?;
    println!("ceiling ready {}", server.addrs()[0]);
    let runtime = actix_web::rt::System::new();
    Ok(runtime.block_on(server.run())?)
}

const PATH: &str = "/v1/kv/records/{key}";

struct Map {
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<String, Bytes>>>,
}

impl Map {
    fn new() -> Map {
        Map { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, key: &str) -> &Mutex<HashMap<String, Bytes>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

async fn store(map: Data<Map>, key: UrlPath<String>, value: Bytes) -> HttpResponse {
    let shard = map.shard(&key);
    shard.lock().unwrap_or_else(PoisonError::into_inner).insert(key.into_inner(), value);
    HttpResponse::Ok().finish()
}

async fn answer(map: Data<Map>, key: UrlPath<String>) -> HttpResponse {
    let shard = map.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
    match shard.get(key.as_str()) {
        Some(value) => HttpResponse::Ok().content_type("application/octet-stream").body(value.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}
