//! What a start needs before anything is promised: the data directory, an identity, an incarnation, a place in the
//! ring.

use std::path::{Path, PathBuf};

use client::consul::Consul;
use client::ring_forming::{self, EnterError, Newcomer};
use membership::{ClusterId, KeyHasher, NodeId, View};
use replication::LogPosition;
use stdx::Prng;
use store::identity::{self, Identity};
use store::{Disk, Log, LogConfig, RealDisk};

use crate::host::Host;
use crate::serve::{Config, StartError};

/// The file beside the log that holds the last view and addresses, for a start without discovery.
const FLEET_FILE: &str = "fleet.json";

/// The data directory, locked for this process, and whose it is.
pub(crate) struct Claimed {
    disk: RealDisk,
    pub identity: Identity,
}

/// Where the last known fleet is kept.
pub(crate) fn fleet_file(config: &Config) -> PathBuf {
    config.data.join(FLEET_FILE)
}

/// Opens the data directory, or makes it; refuses another cluster's, and one that another process has.
pub(crate) fn claim(config: &Config, cluster: ClusterId) -> Result<Claimed, StartError> {
    let directory = config.data.join("log");
    let failed = |error| data_error(config, error);
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let mut disk = RealDisk::open(&directory).map_err(|error| data_error(config, error))?;
    if let Some(identity) = identity::load(&mut disk).map_err(|error| data_error(config, error))? {
        identity.check(cluster.0, None).map_err(|error| data_error(config, error))?;
        return Ok(Claimed { disk, identity });
    }
    first_start(config, cluster, &directory, disk)
}

/// Makes the log first and the identity last, so that an identity without a log always means a loss. Files without an
/// identity are those of a first start that was cut short: nothing was promised on them.
fn first_start(
    config: &Config,
    cluster: ClusterId,
    directory: &Path,
    mut disk: RealDisk,
) -> Result<Claimed, StartError> {
    let log_id = rand::random();
    for entry in disk.list().map_err(|error| data_error(config, error))? {
        disk.remove(&entry.name).map_err(|error| data_error(config, error))?;
    }
    let log_config = LogConfig { may_create: true, ..log_config(config, log_id) };
    Log::open(disk, log_config, &mut |_, _| {}).map_err(|error| data_error(config, error))?;
    let mut disk = RealDisk::open(directory).map_err(|error| data_error(config, error))?;
    let identity = Identity { cluster: cluster.0, node: rand::random(), log: log_id, incarnation: 0 };
    identity::create(&mut disk, identity).map_err(|error| data_error(config, error))?;
    Ok(Claimed { disk, identity })
}

impl Claimed {
    /// Notes this start on the disk: a greater incarnation than any before, as far as discovery and the disk know.
    pub fn note_start(&mut self, config: &Config, handed_out: Option<u64>) -> Result<(), StartError> {
        let noted = identity::bump_incarnation(&mut self.disk, self.identity, handed_out.unwrap_or(0));
        self.identity = noted.map_err(|error| data_error(config, error))?;
        Ok(())
    }

    /// Opens the log and gives each of its records back to the replica.
    pub fn open_log(self, config: &Config, host: &mut Host) -> Result<Log, StartError> {
        let log_config = LogConfig { may_create: false, ..log_config(config, self.identity.log) };
        let mut unreadable = None;
        let log = Log::open(self.disk, log_config, &mut |sequence, body| match wire::codec::decode_record(body) {
            Ok(record) => host.replica.restore(LogPosition(sequence), record),
            Err(error) => unreadable = Some(error),
        });
        let log = log.map_err(|error| data_error(config, error))?;
        match unreadable {
            None => Ok(log),
            Some(error) => Err(data_error(config, error)),
        }
    }
}

fn log_config(config: &Config, log_id: u64) -> LogConfig {
    let base = LogConfig::new(log_id);
    LogConfig {
        segment_bytes: config.segment_bytes.unwrap_or(base.segment_bytes),
        data_bytes_max: config.data_bytes_max,
        ..base
    }
}

fn data_error(config: &Config, error: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Data { path: config.data.clone(), source: Box::new(error) }
}

/// The cluster that a secret names. One secret, one cluster: who does not know it can neither join nor aim keys.
pub(crate) fn cluster_of(secret: &str) -> ClusterId {
    ClusterId(KeyHasher::new(format!("cluster of {secret}").as_bytes()).fingerprint())
}

/// A place in the ring: from discovery, or from the last known view when discovery cannot be reached.
pub(crate) async fn enter(
    config: &Config,
    consul: &Consul,
    identity: &Identity,
    last_view: Option<View>,
) -> Result<View, StartError> {
    let newcomer = Newcomer {
        id: NodeId(identity.node),
        name: config.name.clone(),
        zone: config.zone.clone(),
        cluster: Some(ClusterId(identity.cluster)),
        hash_fingerprint: KeyHasher::new(config.cluster_secret.as_bytes()).fingerprint(),
        replication: config.replication,
        forms_with: config.ring_size,
        weight: config.weight,
        last_view: last_view.clone(),
    };
    let mut prng = Prng::from_seed(rand::random());
    let view = match ring_forming::enter(consul, &newcomer, &mut prng).await {
        Ok(view) => view,
        Err(EnterError::Discovery(error)) => match last_view {
            Some(view) if view.member(newcomer.id).is_some() => {
                tracing::warn!(%error, "discovery cannot be reached; starting with the last known view");
                view
            }
            _ => return Err(StartError::NoDiscovery { url: consul.base().to_owned(), source: error }),
        },
        Err(error) => return Err(StartError::Enter(error)),
    };
    match view.member(newcomer.id) {
        Some(member) if member.name != config.name => Err(StartError::OtherName {
            path: config.data.clone(),
            found: member.name.clone(),
            ours: config.name.clone(),
        }),
        _ => Ok(view),
    }
}

/// The incarnation that discovery hands out; none when it cannot be reached (the disk's own count then has to do).
pub(crate) async fn incarnation(consul: &Consul, identity: &Identity) -> Result<Option<u64>, StartError> {
    match ring_forming::next_incarnation(consul, NodeId(identity.node), identity.incarnation).await {
        Ok(number) => Ok(Some(number)),
        Err(EnterError::Discovery(error)) => {
            tracing::warn!(%error, "discovery cannot be reached; counting starts by the data directory alone");
            Ok(None)
        }
        Err(error) => Err(StartError::Enter(error)),
    }
}
