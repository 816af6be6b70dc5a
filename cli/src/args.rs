//! The command line. Each flag has an environment variable, so that a container needs no arguments.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use client::consul::Address;

use crate::cluster::ChaosArgs;
use crate::duration::parse as parse_duration;
use crate::lock;
use crate::out::Form;
use crate::people;
use crate::ring;
use crate::up::UpArgs;

/// A ring of storage nodes that keeps its word while its processes are killed.
#[derive(Debug, Parser)]
#[command(name = "everring", version, about, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// Which log lines go to standard error: error, warn, info, debug, trace, or by crate (info,gateway=debug).
    /// Services: info; commands: error
    #[arg(long, global = true, env = "EVERRING_LOG", value_name = "LEVELS")]
    pub log_level: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  everring up                                 a whole fleet on this machine, until Ctrl-C
  everring up --chaos --for 60s               the same under a Chaos Monkey and a verifier, with a verdict
  everring put greeting hello                 writes a record (EVERRING_GATEWAY or --gateway names a gateway)
  everring check history.jsonl                judges a recorded history

Exit status: 0 done, valid or kept; 1 refused, violated or broken; 2 the call could not be carried out;
3 unknown, undecided or invalid.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole fleet on this machine, and kill its nodes if asked to.
    Up(Box<UpArgs>),
    /// Read a record.
    Get(people::GetArgs),
    /// Write a record.
    Put(people::PutArgs),
    /// Delete a record.
    Del(people::DelArgs),
    /// Add to a record that holds a decimal integer.
    Add(people::AddArgs),
    /// Hold a lock while a command runs; or take, renew or give one back.
    Lock(lock::LockArgs),
    /// Save all that a bucket holds to a file, each arc of the ring as it was at one point of its order.
    Backup(crate::backup::BackupArgs),
    /// Write what a file holds into a bucket, as new writes.
    Restore(crate::backup::RestoreArgs),
    /// Show which node holds a key, and how that was found out.
    Route(people::RouteArgs),
    /// Show the members of the ring, or let some of them leave.
    Ring(ring::RingArgs),
    /// Show all there is to know about a key: its place, its replicas, its version.
    Explain(people::KeyArgs),
    /// Ask a running fleet for a while, as many clients at once, and judge its answers.
    Verify(VerifyArgs),
    /// Run the litmus tests of consistency against a running fleet, at every level.
    Litmus(LitmusArgs),
    /// Judge a history: is there an order of its operations that explains every answer?
    Check(CheckArgs),
    /// Play a recorded trace against gateways, and judge the answers.
    Replay(ReplayArgs),
    /// Run the whole fleet in simulated time, from seeds.
    Sim(SimArgs),
    /// Service: who is there, who is well, and the ring's view (Consul's HTTP API).
    Discovery(DiscoveryArgs),
    /// Service: finds the node that holds a key, hop by hop.
    Router(RouterArgs),
    /// Service: keeps and replicates records as a member of the ring.
    StorageNode(StorageNodeArgs),
    /// Service: the HTTP interface for clients.
    Gateway(GatewayArgs),
    /// Service: on Kubernetes, kills pods that opted in, one run after the other, and judges each run.
    Chaos(Box<ChaosArgs>),
    /// Not offered yet; known, so that it can say so.
    #[command(hide = true)]
    Functions {
        /// Whatever was asked for.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<OsString>,
    },
}

/// `everring discovery`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DiscoveryArgs {
    /// What to ask a running discovery. Without it, the service itself runs.
    #[command(subcommand)]
    pub ask: Option<DiscoveryCommand>,
    #[command(flatten)]
    pub serve: DiscoveryServeArgs,
}

/// What people ask a discovery.
#[derive(Debug, Subcommand)]
pub enum DiscoveryCommand {
    /// Show its replicas: who votes, and who leads.
    Members {
        #[command(flatten)]
        discovery: DiscoveryAddress,
        /// Take the replica with this name or id out for good, before showing those that are left.
        #[arg(long, env = "EVERRING_REMOVE", value_name = "REPLICA")]
        remove: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Save everything that it holds to a file.
    Snapshot {
        /// The file; `-` is standard output.
        file: PathBuf,
        #[command(flatten)]
        discovery: DiscoveryAddress,
    },
    /// Replace everything that it holds by a snapshot.
    Restore {
        /// The file; `-` is standard input.
        file: PathBuf,
        #[command(flatten)]
        discovery: DiscoveryAddress,
    },
}

/// Where discovery is reached, and how.
#[derive(Clone, Debug, Args)]
pub struct DiscoveryAddress {
    /// The base URL of discovery (or of a Consul agent); several, separated by commas, are tried in turn.
    #[arg(long, env = "EVERRING_DISCOVERY", default_value = "http://127.0.0.1:8500", value_name = "URL")]
    pub discovery: String,
    /// The secret of a token, if discovery keeps access lists. Use the environment variable: flags can be seen by
    /// others.
    #[arg(long, env = "EVERRING_DISCOVERY_TOKEN", value_name = "SECRET", hide_env_values = true)]
    pub discovery_token: Option<String>,
    /// Trust certificates of this authority (PEM) at https addresses of discovery. Without it: the system's
    /// authorities.
    #[arg(long, env = "EVERRING_DISCOVERY_AUTHORITY", value_name = "FILE")]
    pub discovery_authority: Option<PathBuf>,
    /// The certificate to show to a discovery that asks for one, in PEM.
    #[arg(long, env = "EVERRING_DISCOVERY_CERTIFICATE", value_name = "FILE", requires = "discovery_key")]
    pub discovery_certificate: Option<PathBuf>,
    /// The private key of that certificate in PEM.
    #[arg(long, env = "EVERRING_DISCOVERY_KEY", value_name = "FILE", requires = "discovery_certificate")]
    pub discovery_key: Option<PathBuf>,
}

impl DiscoveryAddress {
    /// As the client takes it.
    pub fn address(&self) -> Address {
        Address {
            urls: self.discovery.clone(),
            token: self.discovery_token.clone(),
            authority: self.discovery_authority.clone(),
            certificate: self.discovery_certificate.clone().zip(self.discovery_key.clone()),
        }
    }
}

/// The service.
#[derive(Debug, Args)]
pub struct DiscoveryServeArgs {
    /// What people call this process.
    #[arg(long, env = "EVERRING_NAME", default_value = "d1")]
    pub name: String,
    /// Where to serve HTTP (host:port; port 0 takes a free one).
    #[arg(long, env = "EVERRING_LISTEN", default_value = "127.0.0.1:8500")]
    pub listen: String,
    /// Its `service.instance.id` in traces (a pod's UID), unlike for any other process. Without it: name and process
    /// id.
    #[arg(long, env = "EVERRING_INSTANCE_ID", value_name = "ID")]
    pub instance_id: Option<String>,
    /// Where to keep the state. Without it, it is in memory only and ends with the process.
    #[arg(long, env = "EVERRING_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to answer DNS over UDP and TCP (host:port; usually 127.0.0.1:8600). Without it, nowhere.
    #[arg(long, env = "EVERRING_DNS", value_name = "HOST:PORT")]
    pub dns: Option<String>,
    /// Hold requests against access lists; what no rule speaks of is allowed, or denied.
    #[arg(long, env = "EVERRING_ACL", value_name = "DEFAULT")]
    pub acl: Option<AclDefault>,
    /// A token that may do everything, known from the start. Use the environment variable: flags can be seen by others.
    #[arg(long, env = "EVERRING_ACL_TOKEN", value_name = "SECRET", hide_env_values = true, requires = "acl")]
    pub acl_token: Option<String>,
    /// The certificate of the HTTP API in PEM, with those that lead to its authority; with it the API speaks TLS only.
    #[arg(long, env = "EVERRING_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[arg(long, env = "EVERRING_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Take only clients whose certificate comes from this authority (PEM).
    #[arg(long, env = "EVERRING_TLS_CLIENT_AUTHORITY", value_name = "FILE", requires = "tls_certificate")]
    pub tls_client_authority: Option<PathBuf>,
    /// The replicas that begin together, this one included: NAME=HOST:PORT, separated by commas. Without it, it is
    /// alone.
    #[arg(
        long,
        env = "EVERRING_REPLICAS",
        value_delimiter = ',',
        value_name = "NAME=HOST:PORT",
        value_parser = replica
    )]
    pub replicas: Vec<(String, String)>,
    /// Where the other replicas reach it (host:port). Without it: what --replicas says of its name.
    #[arg(long, env = "EVERRING_PEER_LISTEN", value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// What other replicas are told to reach it at (host:port), if it is not where it listens.
    #[arg(long, env = "EVERRING_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// The address of its HTTP interface (host:port) that people and replicas are told, if it is not where it listens.
    #[arg(long, env = "EVERRING_ADVERTISE_HTTP", value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,
    #[command(flatten)]
    pub secret: SecretArgs,
}

/// The cluster's secret.
#[derive(Clone, Debug, Args)]
pub struct SecretArgs {
    /// The cluster's secret, the same for all its processes: places keys on the ring, signs tokens, and lets the
    /// replicas of discovery know each other.
    #[arg(
        long,
        env = "EVERRING_CLUSTER_SECRET",
        default_value = DEFAULT_SECRET,
        hide_env_values = true,
        hide_default_value = true,
        value_name = "SECRET"
    )]
    pub cluster_secret: String,
}

/// What access lists say where they say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AclDefault {
    /// It is allowed.
    Allow,
    /// It is denied.
    Deny,
}

fn replica(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() && name.len() < 256 && address.contains(':') => {
            Ok((name.to_owned(), address.to_owned()))
        }
        _ => Err(format!("`{text}` names no replica; write one such as d1=127.0.0.1:8300")),
    }
}

/// What every service but discovery itself needs.
#[derive(Debug, Args)]
pub struct FleetArgs {
    #[command(flatten)]
    pub discovery: DiscoveryAddress,
    #[command(flatten)]
    pub secret: SecretArgs,
    /// How long to wait at the start for a discovery that does not answer yet.
    #[arg(
        long,
        env = "EVERRING_DISCOVERY_WAIT",
        default_value = "0s",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    pub discovery_wait: Duration,
}

/// Known to everybody, so only good on one's own machine.
pub const DEFAULT_SECRET: &str = "everring-local";

/// `everring router`.
#[derive(Debug, Args)]
pub struct RouterArgs {
    /// What people call this process.
    #[arg(long, env = "EVERRING_NAME", default_value = "r1")]
    pub name: String,
    /// Where to serve HTTP (host:port; port 0 takes a free one).
    #[arg(long, env = "EVERRING_LISTEN", default_value = "127.0.0.1:8085")]
    pub listen: SocketAddr,
    /// The host that others are told, if it is not the one that it listens at.
    #[arg(long, env = "EVERRING_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,
    /// Its `service.instance.id` in traces (a pod's UID), unlike for any other process. Without it: name and process
    /// id.
    #[arg(long, env = "EVERRING_INSTANCE_ID", value_name = "ID")]
    pub instance_id: Option<String>,
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Where to keep the last known fleet, so that a start without discovery finds the nodes.
    #[arg(long, env = "EVERRING_FLEET_CACHE", value_name = "FILE")]
    pub fleet_cache: Option<PathBuf>,
    /// Threads that serve HTTP.
    #[arg(long, env = "EVERRING_WORKERS", default_value_t = 1, value_parser = value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// How long requests are still served after it said that it is not ready any more.
    #[arg(long, env = "EVERRING_DRAIN", default_value = "200ms", value_parser = parse_duration)]
    pub drain: Duration,
}

/// `everring gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// What people call this process.
    #[arg(long, env = "EVERRING_NAME", default_value = "g1")]
    pub name: String,
    /// Where to serve HTTP (host:port; port 0 takes a free one).
    #[arg(long, env = "EVERRING_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The host that others are told, if it is not the one that it listens at.
    #[arg(long, env = "EVERRING_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,
    /// Its `service.instance.id` in traces (a pod's UID), unlike for any other process. Without it: name and process
    /// id.
    #[arg(long, env = "EVERRING_INSTANCE_ID", value_name = "ID")]
    pub instance_id: Option<String>,
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Where to keep the last known fleet, so that a start without discovery finds the nodes.
    #[arg(long, env = "EVERRING_FLEET_CACHE", value_name = "FILE")]
    pub fleet_cache: Option<PathBuf>,
    /// Threads that serve HTTP.
    #[arg(long, env = "EVERRING_WORKERS", default_value_t = 2, value_parser = value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// How long requests are still served after it said that it is not ready any more.
    #[arg(long, env = "EVERRING_DRAIN", default_value = "500ms", value_parser = parse_duration)]
    pub drain: Duration,
}

/// `everring storage-node`.
#[derive(Debug, Args)]
pub struct StorageNodeArgs {
    /// Its name, unique in the ring. It belongs to the data directory for ever.
    #[arg(long, env = "EVERRING_NAME", default_value = "n1")]
    pub name: String,
    /// Where to serve HTTP for probes and people (host:port; port 0 takes a free one).
    #[arg(long, env = "EVERRING_LISTEN", default_value = "127.0.0.1:8610")]
    pub listen: SocketAddr,
    /// Where other nodes and gateways reach it (host:port; port 0 takes a free one).
    #[arg(long, env = "EVERRING_PEER_LISTEN", default_value = "127.0.0.1:8611")]
    pub peer_listen: SocketAddr,
    /// The host that others are told, if it is not the one that it listens at.
    #[arg(long, env = "EVERRING_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// The data directory; made if it does not exist.
    #[arg(long, env = "EVERRING_DATA", value_name = "DIR")]
    pub data: PathBuf,
    /// Its failure domain.
    #[arg(long, env = "EVERRING_ZONE")]
    pub zone: Option<String>,
    /// How much it takes beside the others: a node of weight 2 owns twice what one of weight 1 does.
    #[arg(long, env = "EVERRING_WEIGHT", default_value_t = 1, value_parser = value_parser!(u32).range(1..=64))]
    pub weight: u32,
    /// Copies of each key; the same for all nodes of a ring.
    #[arg(long, env = "EVERRING_REPLICATION", default_value_t = 3, value_parser = value_parser!(u16).range(1..=7))]
    pub replication: u16,
    /// How many nodes the ring forms with; the same for all nodes of a ring.
    #[arg(long, env = "EVERRING_RING_SIZE", default_value_t = 5, value_parser = value_parser!(u16).range(1..=1024))]
    pub ring_size: u16,
    /// The most that its log may take on the disk, in bytes. Without it: the whole disk.
    #[arg(long, env = "EVERRING_DATA_BYTES_MAX", value_name = "BYTES")]
    pub data_bytes_max: Option<u64>,
    /// The size of the log's segments, in bytes. Without it: the store's own default.
    #[arg(long, env = "EVERRING_SEGMENT_BYTES", value_name = "BYTES")]
    pub segment_bytes: Option<u64>,
    /// How much of its log it reads again to see whether the disk has spoiled it, in bytes a second; 0 never does.
    #[arg(
        long,
        env = "EVERRING_SCRUB_BYTES_PER_SECOND",
        value_name = "BYTES",
        default_value_t = storage_node::BYTES_PER_SECOND_DEFAULT
    )]
    pub scrub_bytes_per_second: u64,
    /// How much moves at most while it copies what it is to hold, ordered and available, in bytes a second. Without it:
    /// 32 MiB.
    #[arg(
        long,
        env = "EVERRING_TRANSFER_BYTES_PER_SECOND",
        value_name = "BYTES",
        value_parser = value_parser!(u64).range(1..)
    )]
    pub transfer_bytes_per_second: Option<u64>,
    /// When told to end (SIGTERM), leave the ring first, and take at most this long: others copy what this node holds.
    /// For a node that does not come back. Without it, it merely drains.
    #[arg(long, env = "EVERRING_LEAVE_WITHIN", value_parser = parse_duration, value_name = "TIME")]
    pub leave_within: Option<Duration>,
    /// With --leave-within: leave only when this StatefulSet, whose pod the node is, was scaled down below it, and
    /// merely drain whenever the pod is to come back. Its namespace is that of the pod's service account.
    #[cfg(feature = "kubernetes")]
    #[arg(long, env = "EVERRING_STATEFUL_SET", value_name = "NAME", requires = "leave_within")]
    pub stateful_set: Option<String>,
    /// How long a member of the ring may be away and keep its place. After that it is taken out, and others copy what
    /// it held; it comes back as a new member. 0s: for any time.
    #[arg(long, env = "EVERRING_GRACE", default_value = "5m", value_parser = parse_duration, value_name = "TIME")]
    pub grace: Duration,
    /// On the data directory of a node that has left the ring: remove what is in it and join as a new member, instead
    /// of refusing to start.
    #[arg(long, env = "EVERRING_REJOIN")]
    pub rejoin: bool,
    /// Use a data directory that was copied or moved, or is older than what its node is known to have synced, instead
    /// of refusing it or joining as a new member. Only where it is known to hold all that its node acknowledged:
    /// moved whole, while its node was stopped.
    #[arg(long)]
    pub trust_data: bool,
}

/// Where the fleet is reached.
#[derive(Clone, Debug, Args)]
pub struct GatewaysArgs {
    /// A gateway's base URL; several, separated by commas, are tried in turn.
    #[arg(
        long,
        env = "EVERRING_GATEWAY",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = gateway_address
    )]
    pub gateway: Vec<String>,
}

fn gateway_address(text: &str) -> Result<String, String> {
    let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if plain.is_empty() || plain.contains("://") || plain.contains('/') {
        return Err(format!("`{text}` is no gateway's base URL; write one such as http://127.0.0.1:8080"));
    }
    Ok(plain.to_owned())
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// The form of what is written to standard output.
    #[arg(long, env = "EVERRING_OUTPUT", value_enum, default_value_t = Form::Table)]
    pub output: Form,
}

/// What every run that ends in a verdict takes.
#[derive(Clone, Debug, Args)]
pub struct JudgedArgs {
    /// Names the run's faults and requests. Without it one is drawn and shown.
    #[arg(long, env = "EVERRING_SEED")]
    pub seed: Option<u64>,
    /// Where the verdict is written as JSON; the history goes beside it.
    #[arg(long, env = "EVERRING_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Requests a second, all clients together; 0 asks as fast as answers come. Traffic: 300; replay: 0.
    #[arg(long, env = "EVERRING_RATE")]
    pub rate: Option<u32>,
    /// Clients of the traffic, or requests at a time of a replay.
    #[arg(long, env = "EVERRING_CLIENTS", value_parser = value_parser!(u16).range(1..=1024))]
    pub clients: Option<u16>,
    /// How long a client waits for an answer. Traffic: 1s; replay: 5s.
    #[arg(long, env = "EVERRING_DEADLINE", value_parser = parse_duration)]
    pub deadline: Option<Duration>,
    /// How long the check of the history may take.
    #[arg(long, env = "EVERRING_CHECK_LIMIT", default_value = "120s", value_parser = parse_duration)]
    pub check_limit: Duration,
    /// Show no progress on standard error.
    #[arg(long, env = "EVERRING_QUIET", value_parser = BoolishValueParser::new())]
    pub quiet: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How long a run against gateways takes.
#[derive(Debug, Args)]
pub struct LengthArgs {
    /// How long to ask.
    #[arg(
        long = "for",
        env = "EVERRING_FOR",
        default_value = "30s",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    pub duration: Duration,
}

/// `everring verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    #[command(flatten)]
    pub length: LengthArgs,
    /// Keys that the clients share.
    #[arg(long, env = "EVERRING_KEYS", default_value_t = 64, value_parser = value_parser!(u32).range(1..=100_000))]
    pub keys: u32,
    #[command(flatten)]
    pub judged: JudgedArgs,
}

/// `everring litmus`.
#[derive(Debug, Args)]
pub struct LitmusArgs {
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    #[command(flatten)]
    pub length: LengthArgs,
    /// Rounds at a time.
    #[arg(long, env = "EVERRING_LANES", default_value_t = 8, value_parser = value_parser!(u16).range(1..=256))]
    pub lanes: u16,
    /// Rounds begun in a second, by all lanes together, some three to five requests each. 0 is the next one as soon as
    /// one has ended: all that the fleet can give.
    #[arg(long, env = "EVERRING_RATE", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000))]
    pub rate: u32,
    /// How long a session waits for an answer.
    #[arg(long, env = "EVERRING_DEADLINE", default_value = "1s", value_parser = parse_duration)]
    pub deadline: Duration,
    /// Names the run's keys. Without it one is drawn.
    #[arg(long, env = "EVERRING_SEED")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `everring replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The trace, packed by gzip or not.
    pub trace: PathBuf,
    /// How it is written: cloudphysics or twitter.
    #[arg(long, env = "EVERRING_FORMAT", default_value = "cloudphysics")]
    pub format: String,
    /// Play only the first so many requests.
    #[arg(long, env = "EVERRING_LIMIT", value_name = "REQUESTS")]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    #[command(flatten)]
    pub judged: JudgedArgs,
}

/// `everring check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The history, one JSON object a line; `-` reads standard input.
    #[arg(default_value = "-")]
    pub history: PathBuf,
    /// What the operations mean: register, set, counter or lock.
    #[arg(long, env = "EVERRING_MODEL", default_value = "register")]
    pub model: checker::Model,
    /// The promise that the history is held against: strict, sequential, causal or eventual.
    #[arg(long, env = "EVERRING_LEVEL", default_value = "strict")]
    pub level: checker::Level,
    /// After how many seconds to give up.
    #[arg(long, env = "EVERRING_LIMIT", default_value_t = 60.0, value_name = "SECONDS", value_parser = seconds)]
    pub limit: f64,
    /// Where the whole result is written as JSON.
    #[arg(long, env = "EVERRING_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('s').parse::<f64>() {
        Ok(seconds) if (0.0..=1e6).contains(&seconds) => Ok(seconds),
        _ => Err(format!("`{text}` is no number of seconds")),
    }
}

/// `everring sim`.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// What to simulate.
    #[command(subcommand)]
    pub command: SimCommand,
}

/// What the buckets of a simulated fleet promise about writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contract {
    /// Levels strict and sequential.
    Ordered,
    /// Levels causal and eventual.
    Available,
    /// Buckets of both kinds, and sessions that go from the one to the other.
    Both,
}

/// What the model check explores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModelCore {
    /// Small rings, by Chord.
    Ring,
    /// Three replicas of two keys: floors, deletion, a replaced replica.
    Registers,
}

/// The kinds of simulation.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Run many seeds, each once, and show whether one breaks what must hold.
    Run {
        /// How many. Without it: 1000, or any number with --for.
        #[arg(long, env = "EVERRING_SEEDS", value_parser = value_parser!(u64).range(1..))]
        seeds: Option<u64>,
        /// Begin no further seed after this time. SIGINT and SIGTERM end a run in the same way, with its summary.
        #[arg(long = "for", env = "EVERRING_FOR", value_name = "TIME", value_parser = parse_duration)]
        duration: Option<Duration>,
        /// The first one; the others follow it.
        #[arg(long, env = "EVERRING_FIRST", default_value_t = 1)]
        first: u64,
        /// The buckets' contract.
        #[arg(long, env = "EVERRING_CONTRACT", value_enum, default_value_t = Contract::Ordered)]
        contract: Contract,
        /// Plant this bug, to see whether it is found (its name as `everring sim bugs` lists them); it names its
        /// contract, too.
        #[arg(long, env = "EVERRING_PLANTED", value_name = "NAME")]
        planted: Option<sim::command::Fleet>,
        /// Stop at the first seed that breaks something.
        #[arg(long, env = "EVERRING_UNTIL_FOUND", value_parser = BoolishValueParser::new())]
        until_found: bool,
        /// Threads; each runs a seed of its own. Without it: as many as there are processors.
        #[arg(long, env = "EVERRING_THREADS", value_parser = value_parser!(u16).range(1..=256))]
        threads: Option<u16>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Run one seed again, with its whole event log on standard output.
    Replay {
        /// The seed.
        seed: u64,
        /// The buckets' contract.
        #[arg(long, env = "EVERRING_CONTRACT", value_enum, default_value_t = Contract::Ordered)]
        contract: Contract,
        /// The bug that was planted; it names its contract, too.
        #[arg(long, env = "EVERRING_PLANTED", value_name = "NAME")]
        planted: Option<sim::command::Fleet>,
    },
    /// Run the litmus tests at every level, under faults, and tell which outcomes were seen.
    Litmus {
        /// How many seeds of faults for each test and level.
        #[arg(long, env = "EVERRING_SEEDS", default_value_t = 50, value_parser = value_parser!(u64).range(1..))]
        seeds: u64,
        /// The first one; the others follow it.
        #[arg(long, env = "EVERRING_FIRST", default_value_t = 1)]
        first: u64,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the bugs that can be planted.
    Bugs,
    /// How fast a fleet of five without faults is simulated in one thread, under an even load.
    Speed {
        /// Operations a second.
        #[arg(long, env = "EVERRING_PER_SECOND", default_value_t = 20)]
        #[arg(value_parser = value_parser!(u32).range(1..=10_000))]
        per_second: u32,
        /// How long, in virtual time.
        #[arg(long, env = "EVERRING_LENGTH", default_value = "100s", value_parser = parse_duration)]
        length: Duration,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Messages, round trips and syncs of each kind of operation, counted in a fleet without faults.
    Costs {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// What two replicas of an available bucket send each other until they hold the same, beside what differed.
    Reconcile {
        /// Keys of the bucket.
        #[arg(long, env = "EVERRING_KEYS", default_value_t = 1_000_000)]
        #[arg(value_parser = value_parser!(u64).range(1..=100_000_000))]
        keys: u64,
        /// Those of which one of the two has an older state. Without it: one in a hundred.
        #[arg(long, env = "EVERRING_DIFFERING", value_parser = value_parser!(u64).range(1..))]
        differing: Option<u64>,
        /// The size of each value.
        #[arg(long, env = "EVERRING_VALUE_BYTES", default_value_t = 100)]
        #[arg(value_parser = value_parser!(u32).range(0..=1_048_576))]
        value_bytes: u32,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// A ring of many members, in virtual time: lookups, staleness and messages, also while members come and go.
    Ring(SimRingArgs),
    /// The four lookup strategies on rings of many sizes, as a page with a table and a plot.
    Lookups {
        /// The folder for lookups.md and lookups.svg; without it, the page goes to standard output.
        #[arg(long, env = "EVERRING_WRITE", value_name = "DIR")]
        write: Option<PathBuf>,
        /// Keeps the rows of staleness in this file as they are measured, and takes from it those that it has: of the
        /// same program only.
        #[arg(long, env = "EVERRING_ROWS", value_name = "FILE")]
        rows: Option<PathBuf>,
        /// The largest ring has 2 to the power of this many members.
        #[arg(long, env = "EVERRING_POWER_MAX", default_value_t = 20, value_parser = value_parser!(u8).range(4..=22))]
        power_max: u8,
    },
    /// Hops, entries and the longest way over finger tables on a ring of one size, at rest.
    Hops {
        /// The ring has 2 to the power of this many members.
        #[arg(long, env = "EVERRING_POWER", default_value_t = 10, value_parser = value_parser!(u8).range(2..=22))]
        power: u8,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// How even the load is that the chosen tokens give, from 3 nodes to many, also after changes and with weights.
    Balance {
        /// The largest ring.
        #[arg(long, env = "EVERRING_NODES", default_value_t = 1_000)]
        #[arg(value_parser = value_parser!(u32).range(3..=10_000))]
        nodes: u32,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Explore every order of events in small rings, and among three replicas of two keys, with the cores' own step
    /// functions.
    Model {
        /// Only this core.
        #[arg(long, env = "EVERRING_OF", value_enum)]
        of: Option<ModelCore>,
        /// Only the scopes that take seconds.
        #[arg(long, env = "EVERRING_SHORT", value_parser = BoolishValueParser::new())]
        short: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `everring sim ring`.
#[derive(Debug, Args)]
pub struct SimRingArgs {
    /// Members.
    #[arg(long, env = "EVERRING_NODES", default_value_t = 1_000)]
    #[arg(value_parser = value_parser!(u32).range(3..=4_000_000))]
    pub nodes: u32,
    /// The median of a member's life; for each that dies another comes at once. Without it, nobody dies.
    #[arg(long, env = "EVERRING_CHURN", value_name = "MEDIAN", value_parser = parse_duration)]
    pub churn: Option<Duration>,
    /// How long, in virtual time.
    #[arg(long = "for", env = "EVERRING_FOR", value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub length: Duration,
    /// Lookups in each virtual second, in all.
    #[arg(long, env = "EVERRING_LOOKUPS", default_value_t = 200.0)]
    pub lookups: f64,
    /// The mean time between two stabilizations of a member, and between two repairs of a finger.
    #[arg(long, env = "EVERRING_PERIOD", value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    pub period: Duration,
    /// The name of the run: one seed, one course of events.
    #[arg(long, env = "EVERRING_SEED", default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub output: OutputArgs,
}
