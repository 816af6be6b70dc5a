//! The life of a gateway process: start, serve, drain, stop.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use client::consul::{Address, Consul, ConsulError};
use client::fleet::Directory;
use client::registration::{Registration, ServiceRegistration};
use prometheus_client::registry::Registry;
use rand::Rng;
use telemetry::metrics::HttpMetrics;
use telemetry::ops::{Check, Ops};
use wire::http::DEADLINE_MAX_MS;

use crate::gateway::{Gateway, Parts, Phase};
use crate::metrics::Metrics;
use crate::nodes::LiveNodes;
use crate::router_client::RouterClient;
use crate::server;
use crate::statuses::Statuses;

/// What the program and its service are called.
pub const SERVICE: &str = "everring-gateway";

/// How one gateway is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// What people call it (`g1`).
    pub name: String,
    /// Where to serve HTTP; port 0 takes a free one. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// The host that others are told to reach it at. None, the default: the address that it listens on.
    pub advertise: Option<String>,
    /// Where discovery is. Default `http://127.0.0.1:8500`.
    pub discovery: Address,
    /// The secret that places keys on the ring and signs tokens; the same at every process of the cluster.
    pub cluster_secret: String,
    /// Where to keep the last known fleet, so that a start without discovery finds the nodes. None: not kept.
    pub fleet_cache: Option<PathBuf>,
    /// Threads that serve HTTP. Default 2: the work is on the nodes.
    pub workers: usize,
    /// How long requests are still served after the process has said that it is not ready any more, so that whoever
    /// spreads requests over the gateways has seen it. Default 500 ms.
    pub drain: Duration,
    /// The version to tell.
    pub version: String,
}

/// Why a gateway did not start. Nothing is left behind.
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

/// How long requests in progress may take to end before the process stops: the longest deadline.
const FINISH_MAX: Duration = Duration::from_millis(DEADLINE_MAX_MS as u64);
/// How often it is looked whether they have ended.
const FINISH_POLL: Duration = Duration::from_millis(10);
/// Between two requests on one connection. Longer than common clients keep a connection, so that they close first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

impl Config {
    /// The defaults, with this name.
    pub fn new(name: &str) -> Config {
        Config {
            name: name.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            advertise: None,
            discovery: Address::from("http://127.0.0.1:8500"),
            cluster_secret: "everring-local".to_owned(),
            fleet_cache: None,
            workers: 2,
            drain: Duration::from_millis(500),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Runs a gateway until `shutdown` completes; then drains and stops. Telemetry is the caller's to end, last.
///
/// # Errors
/// See [`StartError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let listener = TcpListener::bind(config.listen).map_err(|error| listen_error(&config, &error))?;
    let address = listener.local_addr().map_err(|error| listen_error(&config, &error))?;
    let consul = Consul::open(&config.discovery).map_err(|error| discovery_error(&error))?;
    let registration = register(&consul, &config, address).await?;
    let directory = Directory::start(consul.clone(), config.fleet_cache.clone());
    let nodes = LiveNodes::new(&config.name);
    let following = tokio::spawn(nodes.clone().follow(directory.watch()));

    let mut registry = Registry::default();
    let http_metrics = HttpMetrics::register(&mut registry);
    telemetry::metrics::register_export(&mut registry);
    let no_client = |error: reqwest::Error| StartError::Server(stdx::error_chain(&error));
    let gateway = Data::new(Gateway::new(Parts {
        nodes: Arc::new(nodes.clone()),
        fleet: directory.watch(),
        secret: config.cluster_secret.clone(),
        router: Some(RouterClient::new(consul.clone()).map_err(no_client)?),
        statuses: Some(Statuses::new().map_err(no_client)?),
        views: Some(Arc::new(consul)),
        metrics: Metrics::register(&mut registry),
        seed: rand::rng().next_u64(),
    }));
    let checked = gateway.clone();
    let ops = Ops::new(SERVICE, &config.version, registry, move || readiness(&checked));
    let served = gateway.clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(served.clone())
            .wrap(from_fn(server::typed))
            .wrap(http_metrics.clone())
            .configure(|config| ops.configure(config))
            .configure(server::configure)
    })
    .workers(config.workers.max(1))
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)
    .map_err(|error| listen_error(&config, &error))?
    .run();
    let handle = server.handle();
    let mut serving = tokio::spawn(server);
    println!("everring gateway {} ready http={address}", config.name);
    tracing::info!(name = config.name, %address, "the gateway serves");

    let ended = tokio::select! {
        () = shutdown => None,
        ended = &mut serving => Some(ended),
    };
    if ended.is_none() {
        drain(&gateway, config.drain).await;
        handle.stop(true).await;
    }
    if let Err(error) = registration.deregister().await {
        tracing::warn!(error = stdx::error_chain(&error), "not deregistered; the check will turn critical by itself");
    }
    following.abort();
    nodes.close();
    let ended = match ended {
        Some(ended) => ended,
        None => serving.await,
    };
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StartError::Server(error.to_string())),
        Err(error) => Err(StartError::Server(error.to_string())),
    }
}

/// Registers with discovery. Without discovery a gateway starts only if it remembers the fleet from before.
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

/// Ready means: the ring is formed, most of its nodes are connected, and the process is not on its way out.
fn readiness(gateway: &Gateway) -> Vec<Check> {
    let fleet = gateway.fleet();
    let members = &fleet.view.members;
    let connected = members.iter().filter(|member| gateway.nodes.is_up(member.id)).count();
    let formed = fleet.view.is_formed();
    let ring = if formed { format!("epoch {}", fleet.view.epoch) } else { "the ring is not formed yet".to_owned() };
    let serving = gateway.phase() == Phase::Serving;
    vec![
        Check::new("serving", serving, if serving { "in service" } else { "about to stop" }),
        Check::new("ring", formed, ring),
        Check::new("nodes", connected * 2 > members.len(), format!("{connected} of {} connected", members.len())),
    ]
}

/// Says not ready, serves on for a while, then refuses what is new and waits for what is in progress.
async fn drain(gateway: &Gateway, while_serving: Duration) {
    gateway.advance(Phase::Draining);
    tracing::info!(in_flight = gateway.in_flight(), "draining");
    tokio::time::sleep(while_serving).await;
    gateway.advance(Phase::Stopping);
    let finished = async {
        while gateway.in_flight() > 0 {
            tokio::time::sleep(FINISH_POLL).await;
        }
    };
    if tokio::time::timeout(FINISH_MAX, finished).await.is_err() {
        tracing::warn!(in_flight = gateway.in_flight(), "stopping with requests in progress");
    }
}

fn listen_error(config: &Config, error: &std::io::Error) -> StartError {
    StartError::Listen { listen: config.listen, why: error.to_string() }
}

fn discovery_error(error: &ConsulError) -> StartError {
    StartError::Discovery(stdx::error_chain(error))
}
