use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use client::consul::{Address, Consul, ConsulError};
use client::fleet::{Directory, STORAGE_NODE_SERVICE};
use client::registration::{Registration, ServiceRegistration};
use client::ring_forming::EnterError;
use membership::NodeId;
use runtime::{Clock, LogEvent, LogThread, Peers};
use store::Log;
use store::identity::{Doubt, Identity};
use tokio::sync::mpsc;
use wire::node::{Hello, PROTOCOL, Sender};

use crate::host::Host;
use crate::node_loop::{Discovery, Ended, NodeLoop, Parting, Parts};
use crate::start::{Claim, Opened};
use crate::status::Board;
use crate::timings::Timings;
use crate::{doubt, http, start};

/// What a storage node is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, unique in the ring.
    pub name: String,
    /// Where its HTTP side listens; port 0 for any.
    pub listen: SocketAddr,
    /// Where peers and gateways reach it; port 0 for any.
    pub peer_listen: SocketAddr,
    /// The host that others are told; the listening address itself when none.
    pub advertise: Option<String>,
    /// Where discovery is.
    pub discovery: Address,
    /// Its data directory.
    pub data: PathBuf,
    /// The cluster's secret: the same for all.
    pub cluster_secret: String,
    /// Its failure domain, where known.
    pub zone: Option<String>,
    /// How much it takes beside the others, 1 or more; told when it enters the ring for the first time.
    pub weight: u32,
    /// Copies of each key. Must be the same for all that form a ring.
    pub replication: usize,
    /// How many nodes the ring forms with. Must be the same for all.
    pub ring_size: usize,
    /// The most that the log may take, in bytes; none for the disk's size.
    pub data_bytes_max: Option<u64>,
    /// The size of the log's segments, in bytes; none for the store's own default.
    pub segment_bytes: Option<u64>,
    /// How much moves at most while it copies arcs that it is to hold, registers and available keys together, in bytes
    /// a second; none for the default.
    pub transfer_bytes_per_second: Option<u64>,
    /// How much of its log it reads again to see whether the disk has spoiled it, in bytes a second; 0 never.
    pub scrub_bytes_per_second: u64,
    /// How long a member may be away and keep its place in the ring. None: for any time.
    pub grace: Option<Duration>,
    /// Whether to enter as a new member on the data directory of a node that has left the ring, instead of refusing it.
    pub rejoin: bool,
    /// Whether to use the data directory though it may not hold all that its node promised, instead of refusing it.
    pub trust_data: bool,
}

/// Why a storage node did not start, or ended by itself. Nothing was left half done.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; is the port taken by another process? choose another, or 0 for any free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("the data directory {} cannot be used", path.display())]
    Data {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The data directory is another node's.
    #[error(
        "the data directory {} belongs to {found}, but this node is called {ours}; give it its own directory, or its \
         old name",
        path.display()
    )]
    OtherName {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        ours: String,
    },
    /// Discovery's address is none, or what is needed to speak with it cannot be used.
    #[error("the settings for discovery cannot be used")]
    DiscoveryAddress(#[source] ConsulError),
    /// Discovery does not answer, and there is no last known view to start with.
    #[error("discovery at {url} cannot be reached; start it first, or give its address with --discovery")]
    NoDiscovery {
        /// Where it was looked for.
        url: String,
        /// What went wrong.
        source: ConsulError,
    },
    /// The ring does not take this node.
    #[error("{name} cannot enter the ring", name = "this node")]
    Enter(#[source] EnterError),
    /// The data directory may not hold all that its node promised, and others cannot fill a new one.
    #[error(
        "the data directory {} cannot be used as it is: {doubt}. Start the other nodes, so that this one can begin \
         anew and copy from them; or, if the directory is known to hold all that its node ever acknowledged (it was \
         moved whole, while its node was stopped), start once with --trust-data",
        path.display()
    )]
    Doubted {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        doubt: Doubt,
    },
    /// A thread or server could not be started.
    #[error("the node cannot start its own parts")]
    Start(#[source] std::io::Error),
    /// The data directory is that of a node that has left the ring.
    #[error(
        "the node whose data {} holds has left the ring, and others hold its records; to join again as a new member \
         start on an empty directory, or with --rejoin",
        path.display()
    )]
    Retired {
        /// The directory.
        path: PathBuf,
    },
    /// Another process runs under the identity in the data directory.
    #[error(
        "another process is at work under the identity in {}; it is a copy of a data directory in use: stop that \
         process first, or start {name} on an empty directory",
        path.display()
    )]
    Twin {
        /// The directory.
        path: PathBuf,
        /// Who we are.
        name: String,
    },
    /// A later start of this node is at work, so this one had to end.
    #[error(
        "a later start of this node (number {by}) is at work; this process has ended, so that only one speaks for it"
    )]
    Superseded {
        /// The later start.
        by: u64,
    },
    /// The disk failed while the node ran: it must start again from what the disk really holds.
    #[error("the node had to stop: {0}")]
    DiskFailed(String),
}

/// A node that has its sockets, its data directory and its place in the ring's view, and takes no part yet.
pub struct Node {
    config: Config,
    consul: Consul,
    directory: Directory,
    identity: Identity,
    host: Host,
    log: Log,
    /// Whether what the directory held was damaged, so that this is a new member.
    damaged: bool,
    http: TcpListener,
    peer: TcpListener,
    /// Whether discovery answered; if not, the last known view has to do.
    met_discovery: bool,
}

/// How a storage node ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It was told to end, and may come back.
    Drained,
    /// It has left the ring: others hold all that it held, and its data directory is of no more use.
    Retired,
}

/// Runs a storage node until `shutdown` is told, and ends as it says.
///
/// # Errors
/// See [`StartError`].
pub async fn run(config: Config, shutdown: impl Future<Output = Parting>) -> Result<Farewell, StartError> {
    Node::enter(config).await?.run(shutdown).await
}

impl Node {
    /// Takes everything that a start can fail on, and counts this start. Apart from [`Node::run`], so that the program
    /// can name its telemetry after the incarnation before anything is traced.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn enter(config: Config) -> Result<Node, StartError> {
        let http = listen(config.listen)?;
        let peer = listen(config.peer_listen)?;
        let consul = Consul::open(&config.discovery).map_err(StartError::DiscoveryAddress)?;
        let claimed = start::claim(&config, start::cluster_of(&config.cluster_secret))?;
        let directory = Directory::start(consul.clone(), Some(start::fleet_file(&config)));
        let last_view = Some(directory.current()).filter(|fleet| fleet.is_known()).map(|fleet| (*fleet.view).clone());
        let own = address_of(&peer)?;
        doubt::refuse_twin(&config, &consul, &claimed.identity, own).await?;
        let (mut claimed, mut claim) = claimed.count_own_start(&config, &consul, last_view.as_ref()).await?;
        let mut view = start::enter(&config, &consul, &claimed.identity, last_view.clone(), own).await?;
        let mut damaged = false;
        let (identity, host, log) = loop {
            let identity = claimed.identity;
            let mut host =
                Host::new(NodeId(identity.node), identity.incarnation, view.clone(), config.cluster_secret.as_bytes());
            match claimed.open_log(&config, &mut host)? {
                Opened::Whole(log) => match doubt::of_end(&consul, &identity, log.last_sequence()).await? {
                    Some(doubt) if doubt::must_go(&config, &consul, &identity, doubt).await? => {
                        drop(log);
                        claimed = start::give_up(&config, identity)?;
                    }
                    _ => break (identity, host, *log),
                },
                Opened::Damaged(damage) => {
                    claimed = start::give_up_damaged(&config, identity, &view, damage)?;
                    damaged = true;
                }
            }
            claim = claimed.count_start(&config, &consul, 0).await?;
            view = start::enter(&config, &consul, &claimed.identity, last_view.clone(), own).await?;
        };
        directory.learn(view);
        let met_discovery = claim == Claim::Latest;
        Ok(Node { config, consul, directory, identity, host, log, damaged, http, peer, met_discovery })
    }

    /// The number of this start: greater than that of any earlier one.
    pub fn incarnation(&self) -> u64 {
        self.identity.incarnation
    }

    /// Runs until `shutdown` is told, and ends as it says.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn run(self, shutdown: impl Future<Output = Parting>) -> Result<Farewell, StartError> {
        let Node { config, consul, directory, identity, mut host, log, damaged, http, peer, met_discovery } = self;
        let (http_address, peer_address) = (address_of(&http)?, address_of(&peer)?);
        let cluster = start::cluster_of(&config.cluster_secret);
        let (id, incarnation) = (NodeId(identity.node), identity.incarnation);
        if !met_discovery {
            tracing::warn!("discovery did not answer; started with the last known view");
        }

        let synced = doubt::start_telling(consul.clone(), id, log.durable());
        let clock = Clock::start();
        if let Some(bytes_per_second) = config.transfer_bytes_per_second {
            host.set_transfer_rate(bytes_per_second);
        }
        let timings = Timings::default();
        let (log, log_events) = start_log(log, &timings)?;

        let sender = Sender::Node { id, incarnation, name: config.name.clone() };
        let (peers, peer_events) = Peers::new(Hello { protocol: PROTOCOL, cluster, sender });
        peers.listen(peer).map_err(StartError::Start)?;
        let board = Board::default();
        let server = http::serve(http, board.clone(), &timings).map_err(StartError::Start)?;
        let http_handle = server.handle();
        let http_task = tokio::spawn(server);
        let registration = register(&config, &consul, id, incarnation, http_address, peer_address);
        println!("everring storage-node {} ready http={http_address} peer={peer_address}", config.name);
        tracing::info!(name = %config.name, %id, incarnation, registers = host.replica.registers(), "started");

        let fleet = directory.watch();
        let name = config.name.clone();
        let discovery = Discovery { consul: consul.clone(), directory };
        let (grace, scrub_bytes_per_second) = (config.grace, config.scrub_bytes_per_second);
        let parts = Parts {
            id,
            name,
            incarnation,
            clock,
            host,
            peers,
            peer_events,
            log,
            log_events,
            synced,
            fleet,
            discovery,
            board,
            timings,
            grace,
            scrub_bytes_per_second,
            damaged_at_start: damaged,
        };
        let ended = NodeLoop::new(parts).run(shutdown).await;
        if let Err(error) = registration.deregister().await {
            tracing::warn!(%error, "could not be taken out of discovery; its check will turn critical by itself");
        }
        http_handle.stop(true).await;
        http_task.abort();
        match ended {
            Ended::Drained => Ok(Farewell::Drained),
            Ended::Retired => {
                start::note_retired(&config)?;
                // Who listened for the first line may have stopped listening; it is no reason to end badly.
                let _ = writeln!(std::io::stdout(), "everring storage-node {} has left the ring", config.name);
                Ok(Farewell::Retired)
            }
            Ended::Superseded(by) => Err(StartError::Superseded { by }),
            Ended::DiskFailed(sentence) => Err(StartError::DiskFailed(sentence)),
        }
    }
}

/// Starts the log's thread; what it tells comes in order.
fn start_log(log: Log, timings: &Timings) -> Result<(LogThread, mpsc::UnboundedReceiver<LogEvent>), StartError> {
    let (sender, events) = mpsc::unbounded_channel();
    let timings = timings.clone();
    // The loop may be gone already when the last events come: then nobody needs them.
    let log = LogThread::start(log, move |event| drop(sender.send(event)), move |took| timings.sync(took));
    Ok((log.map_err(StartError::Start)?, events))
}

fn register(
    config: &Config,
    consul: &Consul,
    id: NodeId,
    incarnation: u64,
    http: SocketAddr,
    peer: SocketAddr,
) -> Registration {
    let host = |address: SocketAddr| config.advertise.clone().unwrap_or_else(|| address.ip().to_string());
    let mut service = ServiceRegistration::new(STORAGE_NODE_SERVICE, &config.name, &host(peer), peer.port());
    service.meta.insert("node_id".to_owned(), id.to_string());
    service.meta.insert("name".to_owned(), config.name.clone());
    service.meta.insert("incarnation".to_owned(), incarnation.to_string());
    service.meta.insert("http".to_owned(), format!("{}:{}", host(http), http.port()));
    Registration::start(consul.clone(), service)
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::Start)
}
