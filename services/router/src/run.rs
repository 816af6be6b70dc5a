//! The life of a router process: start, serve, stop.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::web::Data;
use actix_web::{App, HttpServer};
use client::consul::{Address, Consul, ConsulError};
use client::fleet::{Directory, Fleet};
use client::registration::{Registration, ServiceRegistration};
use membership::KeyHasher;
use prometheus_client::registry::Registry;
use telemetry::metrics::HttpMetrics;
use telemetry::ops::{Check, Ops};

use crate::nodes::{LiveNodes, Nodes};
use crate::ring_check::RingCheck;
use crate::server::{self, Router};

/// What the program's service is called.
pub const SERVICE: &str = "everring-router";

/// How one router is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// What people call it (`r1`).
    pub name: String,
    /// Where to serve HTTP; port 0 takes a free one. Default `127.0.0.1:8085`.
    pub listen: SocketAddr,
    /// The host that others are told to reach it at. None, the default: the address that it listens on.
    pub advertise: Option<String>,
    /// Where discovery is. Default `http://127.0.0.1:8500`.
    pub discovery: Address,
    /// The secret that places keys on the ring; the same at every process of the cluster.
    pub cluster_secret: String,
    /// Where to keep the last known fleet, so that a start without discovery finds the nodes. None: not kept.
    pub fleet_cache: Option<PathBuf>,
    /// Threads that serve HTTP. Default 1.
    pub workers: usize,
    /// How long requests are still served after the process has said that it is not ready any more. Default 200 ms.
    pub drain: Duration,
    /// The version to tell.
    pub version: String,
}

/// Why a router did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {why}; choose another address with --listen, or port 0 for a free one")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system says.
        why: String,
    },
    /// Discovery cannot be used.
    #[error("{0}; start one with `everring discovery`, or name it with --discovery URL")]
    Discovery(String),
    /// The HTTP server ended by an error.
    #[error("the HTTP server cannot go on: {0}; see the system's limits on files and sockets")]
    Server(String),
}

/// How long lookups in progress may take to end before the process stops, in seconds.
const FINISH_S: u64 = 5;

impl Config {
    /// The defaults, with this name.
    pub fn new(name: &str) -> Config {
        Config {
            name: name.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8085)),
            advertise: None,
            discovery: Address::from("http://127.0.0.1:8500"),
            cluster_secret: "everring-local".to_owned(),
            fleet_cache: None,
            workers: 1,
            drain: Duration::from_millis(200),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Runs a router until `shutdown` completes. Telemetry is the caller's to end, last.
///
/// # Errors
/// See [`StartError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let listener = TcpListener::bind(config.listen).map_err(|error| listen_error(&config, &error))?;
    let address = listener.local_addr().map_err(|error| listen_error(&config, &error))?;
    let consul = Consul::open(&config.discovery).map_err(|error| discovery_error(&error))?;
    let registration = register(&consul, &config, address).await?;
    let directory = Directory::start(consul, config.fleet_cache.clone());
    let nodes = LiveNodes::new(&config.name);
    let following = tokio::spawn(nodes.clone().follow(directory.watch()));

    let mut registry = Registry::default();
    let http_metrics = HttpMetrics::register(&mut registry);
    telemetry::metrics::register_export(&mut registry);
    let check = RingCheck::default();
    registry.register_collector(Box::new(check.clone()));
    let looking = tokio::spawn(check.clone().follow(directory.watch()));
    let router = Data::new(Router {
        nodes: Arc::new(nodes.clone()),
        fleet: directory.watch(),
        hasher: KeyHasher::new(config.cluster_secret.as_bytes()),
        directory: Mutex::default(),
        check: check.clone(),
    });
    let leaving = Arc::new(AtomicBool::new(false));
    let (checked, left) = (router.clone(), Arc::clone(&leaving));
    let ops = Ops::new(SERVICE, &config.version, registry, move || {
        let fleet = Arc::clone(&checked.fleet.borrow());
        readiness(&fleet, &*checked.nodes, left.load(Ordering::Acquire))
    });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(router.clone())
            .wrap(http_metrics.clone())
            .configure(|config| ops.configure(config))
            .configure(server::configure)
    })
    .workers(config.workers.max(1))
    .shutdown_timeout(FINISH_S)
    .disable_signals()
    .listen(listener)
    .map_err(|error| listen_error(&config, &error))?
    .run();
    let handle = server.handle();
    let mut serving = tokio::spawn(server);
    println!("everring router {} ready http={address}", config.name);
    tracing::info!(name = config.name, %address, "the router serves");

    let ended = tokio::select! {
        () = shutdown => None,
        ended = &mut serving => Some(ended),
    };
    if ended.is_none() {
        leaving.store(true, Ordering::Release);
        tokio::time::sleep(config.drain).await;
        handle.stop(true).await;
    }
    if let Err(error) = registration.deregister().await {
        tracing::warn!(error = stdx::error_chain(&error), "not deregistered; the check will turn critical by itself");
    }
    following.abort();
    looking.abort();
    nodes.close();
    match if let Some(ended) = ended { ended } else { serving.await } {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StartError::Server(error.to_string())),
        Err(error) => Err(StartError::Server(error.to_string())),
    }
}

/// Registers with discovery. Without discovery a router starts only if it remembers the fleet from before.
async fn register(consul: &Consul, config: &Config, address: SocketAddr) -> Result<Registration, StartError> {
    let host = config.advertise.clone().unwrap_or_else(|| address.ip().to_string());
    let registration = ServiceRegistration::new(SERVICE, &config.name, &host, address.port());
    match Registration::register(consul.clone(), registration.clone()).await {
        Ok(registered) => Ok(registered),
        Err(error) if config.fleet_cache.as_ref().is_some_and(|cache| cache.exists()) => {
            let error = stdx::error_chain(&error);
            tracing::warn!(error, "discovery does not answer; starting with the fleet remembered from before");
            Ok(Registration::start(consul.clone(), registration))
        }
        Err(error) => Err(discovery_error(&error)),
    }
}

fn readiness(fleet: &Fleet, nodes: &dyn Nodes, leaving: bool) -> Vec<Check> {
    let members = &fleet.view.members;
    let connected = members.iter().filter(|member| nodes.is_up(member.id)).count();
    let formed = fleet.view.is_formed();
    let ring = if formed { format!("epoch {}", fleet.view.epoch) } else { "the ring is not formed yet".to_owned() };
    vec![
        Check::new("serving", !leaving, if leaving { "about to stop" } else { "in service" }),
        Check::new("ring", formed, ring),
        Check::new("nodes", connected > 0, format!("{connected} of {} connected", members.len())),
    ]
}

fn listen_error(config: &Config, error: &std::io::Error) -> StartError {
    StartError::Listen { listen: config.listen, why: error.to_string() }
}

fn discovery_error(error: &ConsulError) -> StartError {
    StartError::Discovery(stdx::error_chain(error))
}
