use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::web::{self, Data};
use actix_web::{App, HttpServer};
use consensus::{Journal, Member, OpenError, Role, Sound};
use registry::{CheckDefinition, Command, NodeDefinition, Registry, Status};
use stdx::{Instant, Prng};
use store::{DiskError, RealDisk, SimDisk};
use telemetry::metrics::HttpMetrics;
use telemetry::ops::{Check, Ops};
use tokio::sync::oneshot;

use crate::access::AclConfig;
use crate::agreement::{Agreement, Job, Running};
use crate::api::call;
use crate::checker;
use crate::dns::Resolver;
use crate::host::{Host, NODE};
use crate::page::page;
use crate::peers::Links;
use crate::session::NODE_CHECK;
use crate::shown::Shown;
use crate::tls::{self, TlsConfig, TlsError};

/// A blocked connection costs no thread, and the work of a call is small.
const WORKERS: usize = 1;
/// Longer than our client keeps an idle connection, so that no call is sent into a connection that is being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long calls in flight may take to end once it stops; blocking queries are answered at once.
const STOP_S: u64 = 2;
/// How long another replica may take to lead instead.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

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
    /// What people call this process. Its name among the replicas.
    pub name: String,
    /// Access lists; off unless they are switched on.
    pub acl: AclConfig,
    /// `host:port` of DNS, over UDP and TCP; none answers none. Usually `127.0.0.1:8600`.
    pub dns: Option<String>,
    /// The API's certificate; none speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// The other replicas; none runs it alone.
    pub replicas: Option<Replicas>,
}

/// How a discovery finds its other replicas.
#[derive(Clone, Debug)]
pub struct Replicas {
    /// Where the others reach this one (`host:port`); port 0 is of no use.
    pub listen: String,
    /// Where the others are told to reach it, if not at `listen`; a name is looked up at each attempt.
    pub advertise: Option<String>,
    /// The HTTP address that people and members are told, if not the one that it listens at.
    pub advertise_http: Option<String>,
    /// Names and addresses (`host:port`) of the replicas that begin together, this one included. When they are part of
    /// a discovery already, the list only says where to ask.
    pub founders: Vec<(String, String)>,
    /// The cluster's secret, the same for all.
    pub secret: String,
}

impl Config {
    /// In memory, in plain HTTP, open to everybody.
    pub fn new(listen: &str, name: &str) -> Config {
        let (listen, name) = (listen.to_owned(), name.to_owned());
        Config { listen, data: None, name, acl: AclConfig::default(), dns: None, tls: None, replicas: None }
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
    /// What the data directory holds cannot be used. It is left as it is.
    #[error("the data directory {dir} cannot be used: {why}")]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The replica could vouch for nothing any more, and ended. It can be started again.
    #[error("the replica cannot go on: {0}; look at the disk, and start it again")]
    Replica(String),
    /// The certificate cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// The system refused a thread or the server.
    #[error("the HTTP server failed ({0}); look for limits on threads or open files")]
    Server(String),
}

/// A discovery that holds its addresses and its data, and does not serve yet.
pub struct Discovery {
    sockets: Sockets,
    host: Arc<Host>,
    agreement: Agreement,
    jobs: Sender<Job>,
    links: LinksConfig,
    tls: Option<rustls::ServerConfig>,
}

/// Nothing of what it holds is worth printing whole.
impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("name", &self.links.name).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Where it is reached.
struct Sockets {
    http: TcpListener,
    peers: Option<TcpListener>,
    dns: Option<(UdpSocket, TcpListener)>,
}

/// What the connections to other replicas need once there is a runtime.
struct LinksConfig {
    id: u64,
    name: String,
    secret: String,
    addresses: Vec<String>,
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
    /// Locks and reads the data, and takes the addresses: what cannot work fails here.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: Config) -> Result<Discovery, StartError> {
        let settings = settings(&config);
        let mut prng = Prng::from_seed(rand::random());
        let journal = open_journal(config.data.as_deref(), &settings, &mut prng)?;
        let tls = config.tls.as_ref().map(tls::server_config).transpose()?;
        let sockets = Sockets {
            http: listen(&config.listen)?,
            peers: config.replicas.as_ref().map(|replicas| listen(&replicas.listen)).transpose()?,
            dns: config.dns.as_deref().map(listen_dns).transpose()?,
        };
        let address = sockets.http.local_addr().map_err(|error| StartError::Server(error.to_string()))?;
        let member = own_member(&config, address);
        let own_node = own_node(address);
        let mut registry = Registry::new();
        // A replica that begins a discovery begins it with this; all others take over what there is.
        for command in own_commands(own_node.clone()) {
            registry.apply(Instant::ZERO, command);
            registry.take_changes();
        }
        let shown = Arc::new(Shown::new(registry));
        let id = journal.id();
        let own_address = (settings.founders.len() == 1).then_some(own_node);
        let opened = Agreement::new(journal, Arc::clone(&shown), settings, member, prng, own_address);
        let (agreement, jobs, status) = opened.map_err(|error| unusable(config.data.as_deref(), &error))?;
        let host = Arc::new(Host::new(shown, jobs.clone(), status, address, config.acl));
        let (secret, founders) = config.replicas.map(|own| (own.secret, own.founders)).unwrap_or_default();
        let others = founders.into_iter().filter(|(name, _)| *name != config.name);
        let addresses = others.map(|(_, address)| address).collect();
        let links = LinksConfig { id, name: config.name, secret, addresses };
        Ok(Discovery { sockets, host, agreement, jobs, links, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.host.address
    }

    /// Where it answers DNS.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.sockets.dns.as_ref().and_then(|(socket, _)| socket.local_addr().ok())
    }

    fn announce(&self) {
        let mut stdout = io::stdout().lock();
        // Nobody may be reading our output; that is no reason to stop.
        let dns = self.dns_address().map(|address| format!(" dns={address}")).unwrap_or_default();
        let _ = writeln!(stdout, "everring discovery {} ready http={}{dns}", self.links.name, self.address());
        let _ = stdout.flush();
    }

    /// Serves until `shutdown` is done: somebody else leads by then, and calls in flight are answered.
    ///
    /// # Errors
    /// [`StartError::Server`], [`StartError::Replica`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let Discovery { sockets, host, agreement, jobs, links, tls } = self;
        let server_error = |error: io::Error| StartError::Server(error.to_string());
        let (failed, failure) = oneshot::channel();
        let tell_failure = {
            let host = Arc::clone(&host);
            move |why: String| {
                host.fail(why.clone());
                // Nobody listens any more when it is being stopped anyway.
                let _ = failed.send(why);
            }
        };
        let started = start_replica(agreement, jobs, links, sockets.peers, tell_failure);
        let (running, links) = started.map_err(server_error)?;
        let mut server = http_server(sockets.http, tls, &host).map_err(server_error)?;
        let mut names = sockets.dns.map(|sockets| serve_dns(&host, sockets)).transpose().map_err(server_error)?;
        let checker = tokio::spawn(checker::run(Arc::clone(&host)));
        let ended = tokio::select! {
            ended = &mut server => ended.map_err(server_error),
            Ok(why) = failure => Err(StartError::Replica(why)),
            () = shutdown => Ok(()),
        };
        if ended.is_ok() {
            hand_over(&host).await;
        }
        host.close();
        checker.abort();
        let stopped = server.handle().stop(true);
        // The server does its own stopping, so it has to be driven on meanwhile.
        let (served, ()) = tokio::join!(&mut server, stopped);
        if let Some(names) = &mut names
            && let Err(error) = names.shutdown_gracefully().await
        {
            tracing::warn!(%error, "DNS did not stop well");
        }
        // Joins the replica's thread, which may be in the middle of a sync.
        let _ = tokio::task::spawn_blocking(move || drop(running)).await;
        links.close();
        ended.and(served.map_err(server_error))
    }
}

/// Starts the replica's thread and its connections.
fn start_replica(
    agreement: Agreement,
    jobs: Sender<Job>,
    config: LinksConfig,
    listener: Option<TcpListener>,
    failed: impl FnOnce(String) + Send + 'static,
) -> io::Result<(Running, Links)> {
    let links = Links::new(config.id, &config.name, &config.secret, jobs.clone());
    if let Some(listener) = listener {
        links.listen(listener)?;
    }
    for address in &config.addresses {
        links.dial(address);
    }
    Ok((agreement.start(links.clone(), jobs, failed)?, links))
}

fn http_server(listener: TcpListener, tls: Option<rustls::ServerConfig>, host: &Arc<Host>) -> io::Result<Server> {
    let (metrics, ops) = operations(host);
    let data = Data::from(Arc::clone(host));
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
        let pages = ["/", "/ui", "/ui/"];
        let app = pages.iter().fold(app, |app, route| app.route(route, web::get().to(page)));
        app.default_service(web::to(call))
    };
    let server = HttpServer::new(app).workers(WORKERS).keep_alive(KEEP_ALIVE).shutdown_timeout(STOP_S);
    let server = server.disable_signals();
    let server = match tls {
        None => server.listen(listener),
        Some(tls) => server.listen_rustls_0_23(listener, tls),
    };
    Ok(server?.run())
}

/// Has somebody else lead before this one goes: so nobody has to find out that it is gone.
async fn hand_over(host: &Host) {
    let status = host.status();
    if status.role != Role::Leader || status.voters.len() < 2 {
        return;
    }
    host.leave();
    let mut statuses = host.statuses();
    let handed_over = statuses.wait_for(|seen| !seen.leads());
    // Nobody may be there to take it; then they find out by themselves.
    let _ = tokio::time::timeout(HAND_OVER_MAX, handed_over).await;
}

fn settings(config: &Config) -> consensus::Config {
    let founders = config.replicas.as_ref().map(|replicas| &replicas.founders).filter(|founders| !founders.is_empty());
    let names = founders.map(|founders| founders.iter().map(|(name, _)| name.clone()).collect());
    consensus::Config::new(names.unwrap_or_else(|| vec![config.name.clone()]))
}

fn own_member(config: &Config, address: SocketAddr) -> Member {
    let replicas = config.replicas.as_ref();
    let peer = replicas.map(|own| own.advertise.clone().unwrap_or_else(|| own.listen.clone())).unwrap_or_default();
    let http = replicas.and_then(|own| own.advertise_http.clone()).unwrap_or_else(|| address.to_string());
    Member { id: 0, name: config.name.clone(), peer, http }
}

fn open_journal(data: Option<&Path>, settings: &consensus::Config, prng: &mut Prng) -> Result<Journal, StartError> {
    let Some(dir) = data else {
        let disks = (SimDisk::new(prng.next_u64()), SimDisk::new(prng.next_u64()));
        return Journal::open::<Sound>(disks.0, disks.1, settings, prng).map_err(|error| unusable(None, &error));
    };
    let open = |part: &str| {
        RealDisk::open(dir.join(part)).map_err(|error| match error {
            DiskError::Locked { .. } => StartError::Locked { dir: dir.to_owned() },
            error => StartError::Data { dir: dir.to_owned(), why: stdx::error_chain(&error) },
        })
    };
    // The small files' directory is locked first: who has it has the whole.
    let files = open("replica")?;
    let log = open("log")?;
    Journal::open::<Sound>(log, files, settings, prng).map_err(|error| unusable(Some(dir), &error))
}

fn unusable(dir: Option<&Path>, error: &OpenError) -> StartError {
    let dir = dir.unwrap_or(Path::new("(in memory)")).to_owned();
    StartError::Unusable { dir, why: stdx::error_chain(error) }
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

/// The node that services registered with discovery run on.
fn own_node(listening: SocketAddr) -> NodeDefinition {
    let ip = if listening.ip().is_unspecified() { "127.0.0.1".to_owned() } else { listening.ip().to_string() };
    let networks = ["lan", "wan"].map(|network| (network.to_owned(), ip.clone()));
    NodeDefinition {
        name: NODE.to_owned(),
        id: uuid::Uuid::new_v4().to_string(),
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
        let status = host.status();
        let role = format!("{:?} in term {}, {} entries applied", status.role, status.term, status.applied);
        let votes = status.voters.contains(&status.id) && status.roster.formed;
        let removed = "it was taken out; start it with an empty data directory to join as a new replica";
        let place = if status.removed { removed.to_owned() } else { role };
        let leader = host.contact().known_leader;
        let failure = host.failure();
        vec![
            Check::new("replica", votes && !status.removed, place),
            Check::new("leader", leader, if leader { "there is one" } else { "No cluster leader" }.to_owned()),
            Check::new(
                "disk",
                failure.is_none(),
                failure.cloned().unwrap_or_else(|| "it takes what it is given".to_owned()),
            ),
            Check::new("open", !host.is_closing(), format!("{} things are waited for", host.waiting_len())),
        ]
    };
    (http, Ops::new("everring-discovery", env!("CARGO_PKG_VERSION"), metrics, ready))
}
