use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Data};
use actix_web::{App, HttpServer};
use registry::{CheckDefinition, Command, Limits, NodeDefinition, Registry, Status};
use stdx::Instant;
use telemetry::metrics::HttpMetrics;
use telemetry::ops::{Check, Ops};

use crate::access::AclConfig;
use crate::api::call;
use crate::checker;
use crate::disk::Disk;
use crate::dns::Resolver;
use crate::host::{Host, NODE};
use crate::page::page;
use crate::session::NODE_CHECK;
use crate::tls::{self, TlsConfig, TlsError};
use crate::writer::Writer;

/// A blocked connection costs no thread, and the work of a call is small.
const WORKERS: usize = 1;
/// Longer than our client keeps an idle connection, so that no call is sent into a connection that is being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long calls in flight may take to end once it stops; blocking queries are answered at once.
const STOP_S: u64 = 2;

/// How long a DNS connection may be silent, and how much may wait to be sent on one.
const DNS_IDLE: Duration = Duration::from_secs(10);
const DNS_BUFFER: usize = 64 << 10;

/// How a discovery runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` of the HTTP API; port 0 takes a free one. Usually `127.0.0.1:8500`.
    pub listen: String,
    /// Where the state is kept; none keeps it in memory only, and it ends with the process.
    pub data: Option<PathBuf>,
    /// What people call this process, in the line it prints when it is ready.
    pub name: String,
    /// Access lists; off unless they are switched on.
    pub acl: AclConfig,
    /// `host:port` of DNS, over UDP and TCP; none answers none. Usually `127.0.0.1:8600`.
    pub dns: Option<String>,
    /// The API's certificate; none speaks plain HTTP.
    pub tls: Option<TlsConfig>,
}

impl Config {
    /// In memory, in plain HTTP, open to everybody.
    pub fn new(listen: &str, name: &str) -> Config {
        let (listen, name) = (listen.to_owned(), name.to_owned());
        Config { listen, data: None, name, acl: AclConfig::default(), dns: None, tls: None }
    }
}

/// Why it did not start. Nothing runs then; each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken.
    #[error("{0} is in use by another process; stop that one, or give another address with --listen")]
    PortInUse(String),
    /// The address cannot be listened at.
    #[error("cannot listen at {address} ({why}); give host:port of this machine with --listen")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        why: String,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {dir} ({why}); give one that this user may write to with --data")]
    Data {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another process uses the data directory.
    #[error(
        "the data directory {dir} is in use by another process; stop that one, or give another directory with --data"
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The snapshot is unusable. It is left as it is.
    #[error(
        "cannot read the registry in {path}: {why}; bring back a good copy, or move it away to begin with an \
         empty registry"
    )]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// The system refused a thread or the server.
    #[error("the HTTP server failed ({0}); look for limits on threads or open files")]
    Server(String),
}

/// A discovery that holds its address and its data, and does not serve yet.
#[derive(Debug)]
pub struct Discovery {
    listener: TcpListener,
    host: Arc<Host>,
    writer: Writer,
    dns: Option<(UdpSocket, TcpListener)>,
    tls: Option<rustls::ServerConfig>,
    name: String,
}

/// Runs a discovery until `shutdown` is done; prints one line when it is ready.
///
/// # Errors
/// See [`StartError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let discovery = Discovery::bind(config)?;
    discovery.announce();
    discovery.serve(shutdown).await
}

impl Discovery {
    /// Locks and reads the data, takes the address, and writes the first snapshot: what cannot work fails here.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: Config) -> Result<Discovery, StartError> {
        let disk = config.data.as_deref().map(Disk::open).transpose()?;
        let started = std::time::Instant::now();
        let restored = disk.as_ref().map(restore).transpose()?.flatten();
        let tls = config.tls.as_ref().map(tls::server_config).transpose()?;
        let listener = listen(&config.listen)?;
        let dns = config.dns.as_deref().map(listen_dns).transpose()?;
        let server_error = |error: io::Error| StartError::Server(error.to_string());
        let address = listener.local_addr().map_err(server_error)?;
        let mut registry = restored.unwrap_or_default();
        let own_id = registry.node(NODE).map(|node| node.definition.id.clone());
        for command in own_commands(own_node(address, own_id)) {
            registry.apply(Instant::ZERO, command);
            registry.take_changes();
        }
        if let Some(disk) = &disk {
            let data_error = |error: io::Error| StartError::Data {
                dir: config.data.clone().unwrap_or_default(),
                why: error.to_string(),
            };
            disk.write(&registry.encode()).map_err(data_error)?;
        }
        let host = Arc::new(Host::new(registry, started, address, config.acl));
        let writer = Writer::start(Arc::clone(&host), disk).map_err(server_error)?;
        Ok(Discovery { listener, host, writer, dns, tls, name: config.name })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.host.address
    }

    /// Where it answers DNS.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns.as_ref().and_then(|(socket, _)| socket.local_addr().ok())
    }

    fn announce(&self) {
        let mut stdout = io::stdout().lock();
        // Nobody may be reading our output; that is no reason to stop.
        let dns = self.dns_address().map(|address| format!(" dns={address}")).unwrap_or_default();
        let _ = writeln!(stdout, "everring discovery {} ready http={}{dns}", self.name, self.address());
        let _ = stdout.flush();
    }

    /// Serves until `shutdown` is done; calls in flight are answered, and all that was acknowledged is on the disk.
    ///
    /// # Errors
    /// [`StartError::Server`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let Discovery { listener, host, writer, dns, tls, .. } = self;
        let (metrics, ops) = operations(&host);
        let data = Data::from(Arc::clone(&host));
        let app = move || {
            let ops = ops.clone();
            let routes = [
                "kv",
                "kv/{key:.*}",
                "health/{call:.*}",
                "catalog/{call:.*}",
                "agent/{call:.*}",
                "session/{call:.*}",
                "txn",
            ];
            let app = App::new().wrap(metrics.clone()).app_data(data.clone()).configure(|config| ops.configure(config));
            // One handler behind several routes, so that the metrics tell the kinds of calls apart.
            let app = routes.iter().fold(app, |app, route| app.route(&format!("/v1/{route}"), web::to(call)));
            let app = app
                .route("/", web::get().to(page))
                .route("/ui", web::get().to(page))
                .route("/ui/", web::get().to(page));
            app.default_service(web::to(call))
        };
        let server_error = |error: io::Error| StartError::Server(error.to_string());
        let server =
            HttpServer::new(app).workers(WORKERS).keep_alive(KEEP_ALIVE).shutdown_timeout(STOP_S).disable_signals();
        let server = match tls {
            None => server.listen(listener),
            Some(tls) => server.listen_rustls_0_23(listener, tls),
        };
        let mut server = server.map_err(server_error)?.run();
        let mut names = dns.map(|sockets| serve_dns(&host, sockets)).transpose().map_err(server_error)?;
        let checker = tokio::spawn(checker::run(Arc::clone(&host)));
        let ticker = tokio::spawn({
            let host = Arc::clone(&host);
            async move { host.tick().await }
        });
        let ended = tokio::select! {
            ended = &mut server => ended,
            () = shutdown => {
                host.close();
                let stopped = server.handle().stop(true);
                // The server does its own stopping, so it has to be driven on meanwhile.
                tokio::join!(&mut server, stopped).0
            }
        };
        ticker.abort();
        checker.abort();
        if let Some(names) = &mut names
            && let Err(error) = names.shutdown_gracefully().await
        {
            tracing::warn!(%error, "DNS did not stop well");
        }
        // Dropping the writer joins its thread, which may be in the middle of a sync.
        let _ = tokio::task::spawn_blocking(move || drop(writer)).await;
        ended.map_err(server_error)
    }
}

fn restore(disk: &Disk) -> Result<Option<Registry>, StartError> {
    let unusable = |why: String| StartError::Snapshot { path: disk.snapshot_path(), why };
    let Some(bytes) = disk.read().map_err(|error| unusable(error.to_string()))? else { return Ok(None) };
    let registry = Registry::decode(&bytes, Instant::ZERO, Limits::default());
    registry.map(Some).map_err(|error| unusable(stdx::error_chain(&error)))
}

fn listen(address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse(address.to_owned()),
        _ => StartError::Listen { address: address.to_owned(), why: error.to_string() },
    })
}

/// UDP and TCP at one port. A free one for both may take some tries.
fn listen_dns(address: &str) -> Result<(UdpSocket, TcpListener), StartError> {
    const TRIES: usize = 20;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse(address.to_owned()),
        _ => StartError::Listen { address: address.to_owned(), why: error.to_string() },
    };
    let mut last = None;
    for _ in 0..TRIES {
        let socket = UdpSocket::bind(address).map_err(failed)?;
        match TcpListener::bind(socket.local_addr().map_err(failed)?) {
            Ok(listener) => {
                socket.set_nonblocking(true).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                return Ok((socket, listener));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(failed(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))))
}

fn serve_dns(host: &Arc<Host>, sockets: (UdpSocket, TcpListener)) -> io::Result<hickory_server::Server<Resolver>> {
    let mut server = hickory_server::Server::new(Resolver { host: Arc::clone(host) });
    server.register_socket(tokio::net::UdpSocket::from_std(sockets.0)?);
    server.register_listener(tokio::net::TcpListener::from_std(sockets.1)?, DNS_IDLE, DNS_BUFFER);
    Ok(server)
}

/// The node that services registered with this agent run on. It keeps its identity across restarts.
fn own_node(listening: SocketAddr, id: Option<String>) -> NodeDefinition {
    let ip = if listening.ip().is_unspecified() { "127.0.0.1".to_owned() } else { listening.ip().to_string() };
    let networks = ["lan", "wan"].map(|network| (network.to_owned(), ip.clone()));
    NodeDefinition {
        name: NODE.to_owned(),
        id: id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        address: ip,
        tagged_addresses: BTreeMap::from(networks),
        meta: BTreeMap::new(),
    }
}

/// What makes this agent's node known: itself, and the check on which sessions hang.
fn own_commands(node: NodeDefinition) -> [Command; 2] {
    let check = CheckDefinition {
        id: NODE_CHECK.to_owned(),
        name: "Serf Health Status".to_owned(),
        output: "Agent alive and reachable".to_owned(),
        status: Status::Passing,
        ..CheckDefinition::default()
    };
    let name = node.name.clone();
    [Command::RegisterNode(node), Command::RegisterCheck { node: name, check }]
}

fn operations(host: &Arc<Host>) -> (HttpMetrics, Ops) {
    let mut metrics = prometheus_client::registry::Registry::default();
    let http = HttpMetrics::register(&mut metrics);
    telemetry::metrics::register_export(&mut metrics);
    let host = Arc::clone(host);
    let ready = move || {
        let failure = host.write_failure();
        let detail = failure.clone().unwrap_or_else(|| "the registry is on the disk".to_owned());
        vec![
            Check::new("disk", failure.is_none(), detail),
            Check::new("open", !host.is_closing(), format!("{} things are waited for", host.waiting_len())),
        ]
    };
    (http, Ops::new("everring-discovery", env!("CARGO_PKG_VERSION"), metrics, ready))
}
