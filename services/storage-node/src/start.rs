//! What a start needs before anything is promised: the data directory, an identity, an incarnation, a place in the
//! ring.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::consul::Consul;
use client::ring_changes::{self, Raise};
use client::ring_forming::{self, EnterError, Newcomer};
use membership::{ChangeError, ClusterId, FormError, KeyHasher, NodeId, View};
use replication::LogPosition;
use stdx::Prng;
use store::identity::{self, Doubt, Identity};
use store::{Disk, Log, LogConfig, OpenError, RealDisk};
use wire::node::PROTOCOL;

use crate::doubt::{self, is_at_work};
use crate::host::Host;
use crate::serve::{Config, StartError};

/// The file beside the log that holds the last view and addresses, for a start without discovery.
const FLEET_FILE: &str = "fleet.json";
/// The file that says that the node has left the ring: it must not come back as the one it was.
pub const RETIRED_FILE: &str = "retired";
/// How often a node that waits to enter looks whether its turn has come.
const TURN_AGAIN_AFTER: Duration = Duration::from_millis(500);

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
    if config.data.join(RETIRED_FILE).exists() {
        if !config.rejoin {
            return Err(StartError::Retired { path: config.data.clone() });
        }
        forget_past(config).map_err(failed)?;
    }
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let mut disk = RealDisk::open(&directory).map_err(|error| data_error(config, error))?;
    if let Some(identity) = identity::load(&mut disk).map_err(|error| data_error(config, error))? {
        identity.check(cluster.0, None).map_err(|error| data_error(config, error))?;
        return Ok(Claimed { disk, identity });
    }
    first_start(config, cluster, &directory, disk)
}

/// Marks the data directory as that of a node that has left the ring.
pub(crate) fn note_retired(config: &Config) -> Result<(), StartError> {
    std::fs::write(config.data.join(RETIRED_FILE), "this node has left the ring\n")
        .map_err(|error| data_error(config, error))
}

/// Empties the data directory of a node that has left the ring, the mark last: cut short, it is done again. Others hold
/// what was in it, in newer states.
fn forget_past(config: &Config) -> std::io::Result<()> {
    tracing::warn!(data = %config.data.display(), "what is left here of a node that left the ring is removed");
    for entry in std::fs::read_dir(&config.data)? {
        let entry = entry?;
        if entry.file_name() == RETIRED_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_file(config.data.join(RETIRED_FILE))
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
    let place = Some(disk.place().map_err(|error| data_error(config, error))?);
    let identity = Identity { cluster: cluster.0, node: rand::random(), log: log_id, incarnation: 0, place };
    identity::create(&mut disk, identity).map_err(|error| data_error(config, error))?;
    Ok(Claimed { disk, identity })
}

impl Claimed {
    /// Counts this start where the directory is the one that its node had last. Otherwise the directory is set aside,
    /// and this is the first start of a new member.
    pub async fn count_own_start(
        mut self,
        config: &Config,
        consul: &Consul,
        last_view: Option<&View>,
    ) -> Result<(Claimed, Claim), StartError> {
        // Before the start is counted, which notes where the directory is.
        let found = self.disk.place().map_err(|error| data_error(config, error))?;
        if let Some(doubt) = Doubt::of_place(self.identity.place, found)
            && doubt::must_go(config, consul, &self.identity, doubt).await?
        {
            return self.set_aside(config, consul).await;
        }
        let mut claim = self.count_start(config, consul, 0).await?;
        if let Claim::Stale { last } = claim {
            if doubt::must_go(config, consul, &self.identity, Doubt::Older { last }).await? {
                return self.set_aside(config, consul).await;
            }
            claim = self.count_start(config, consul, last.saturating_add(1)).await?;
        }
        if was_removed(consul, &self.identity, last_view).await {
            tracing::warn!("the ring gave this node up while it was away");
            return self.set_aside(config, consul).await;
        }
        Ok((self, claim))
    }

    /// Notes this start on the disk, under a greater incarnation than any that the disk knows of, and then with
    /// discovery: so that discovery never knows of a start that the directory does not.
    pub async fn count_start(&mut self, config: &Config, consul: &Consul, at_least: u64) -> Result<Claim, StartError> {
        let noted = identity::bump_incarnation(&mut self.disk, self.identity, at_least);
        self.identity = noted.map_err(|error| data_error(config, error))?;
        claim_incarnation(consul, &self.identity).await
    }

    /// Sets the directory aside and counts the first start on an empty one, under a new identity. What was in it stays
    /// beside it.
    async fn set_aside(self, config: &Config, consul: &Consul) -> Result<(Claimed, Claim), StartError> {
        let Claimed { disk, identity } = self;
        drop(disk);
        let mut claimed = give_up(config, identity)?;
        let claim = claimed.count_start(config, consul, 0).await?;
        Ok((claimed, claim))
    }

    /// Opens the log and gives each of its records back to the replicas. Where the log is damaged, nothing that was
    /// given back may be used.
    pub fn open_log(self, config: &Config, host: &mut Host) -> Result<Opened, StartError> {
        let log_config = LogConfig { may_create: false, ..log_config(config, self.identity.log) };
        let mut unreadable = None;
        let log = Log::open(self.disk, log_config, &mut |sequence, body| match wire::codec::decode_log_record(body) {
            Ok(record) => host.restore(LogPosition(sequence), record),
            Err(error) => unreadable = Some(error),
        });
        match (log, unreadable) {
            (Ok(log), None) => Ok(Opened::Whole(Box::new(log))),
            (Err(damage @ OpenError::Damaged { .. }), _) => Ok(Opened::Damaged(damage)),
            (Err(error), _) => Err(data_error(config, error)),
            (Ok(_), Some(error)) => Err(data_error(config, error)),
        }
    }
}

/// A log as it was found.
pub(crate) enum Opened {
    /// Its records are given back.
    Whole(Box<Log>),
    /// Something that was acknowledged cannot be read.
    Damaged(OpenError),
}

/// What is to become of a node whose log is damaged: it has forgotten a promise, and nobody knows which. It must not
/// come back as the one it was; where others hold copies, it begins anew, and is filled from them.
pub(crate) fn give_up_damaged(
    config: &Config,
    identity: Identity,
    view: &View,
    damage: OpenError,
) -> Result<Claimed, StartError> {
    if view.replication < 2 || view.members.len() < 2 {
        // Nobody else has what is lost: whoever runs this must decide.
        return Err(data_error(config, damage));
    }
    let (claimed, aside) = begin_anew(config, identity, cluster_of(&config.cluster_secret))?;
    tracing::error!(
        damage = stdx::error_chain(&damage),
        aside = %aside.display(),
        "the disk has spoiled the log, so that this node forgot something that it promised; the directory is set \
         aside, and the node joins as a new member, which copies all that it is to hold from the others; look at the \
         disk, and remove what was set aside once the copy is complete"
    );
    Ok(claimed)
}

/// Sets the log's directory aside and makes an empty one, under a new identity. What was in it stays beside it.
pub(crate) fn give_up(config: &Config, identity: Identity) -> Result<Claimed, StartError> {
    let (claimed, aside) = begin_anew(config, identity, cluster_of(&config.cluster_secret))?;
    tracing::warn!(aside = %aside.display(), "the data directory is set aside, and the node joins as a new member");
    Ok(claimed)
}

/// Sets the log's directory aside and makes an empty one, under a new identity; also answers where the old one is.
fn begin_anew(config: &Config, identity: Identity, cluster: ClusterId) -> Result<(Claimed, PathBuf), StartError> {
    let failed = |error: std::io::Error| data_error(config, error);
    let directory = config.data.join("log");
    let aside = config.data.join(format!("log.aside-{:016x}-{}", identity.node, identity.incarnation));
    std::fs::rename(&directory, &aside).map_err(failed)?;
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let disk = RealDisk::open(&directory).map_err(|error| data_error(config, error))?;
    Ok((first_start(config, cluster, &directory, disk)?, aside))
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
///
/// Waits its turn while another change of the same arcs is under way.
pub(crate) async fn enter(
    config: &Config,
    consul: &Consul,
    identity: &Identity,
    last_view: Option<View>,
    own: SocketAddr,
) -> Result<View, StartError> {
    let mut newcomer = Newcomer {
        id: NodeId(identity.node),
        name: config.name.clone(),
        zone: config.zone.clone(),
        cluster: Some(ClusterId(identity.cluster)),
        hash_fingerprint: KeyHasher::new(config.cluster_secret.as_bytes()).fingerprint(),
        replication: config.replication,
        forms_with: config.ring_size,
        protocol: PROTOCOL,
        weight: config.weight,
        last_view: last_view.clone(),
        replaces: None,
    };
    let mut prng = Prng::from_seed(rand::random());
    let mut awaited = Vec::new();
    let view = loop {
        match ring_forming::enter(consul, &newcomer, &mut prng).await {
            Ok(view) => break view,
            Err(EnterError::Discovery(error)) => match last_view {
                Some(view) if view.member(newcomer.id).is_some() => {
                    // What else must be in common the data directory was compared for already.
                    let common = view.check_common(&newcomer.common(&view));
                    common.map_err(|refusal| StartError::Enter(EnterError::Refused(refusal)))?;
                    tracing::warn!(%error, "discovery cannot be reached; starting with the last known view");
                    break view;
                }
                _ => return Err(StartError::NoDiscovery { url: consul.base().to_owned(), source: error }),
            },
            Err(EnterError::Refused(refusal @ FormError::Amnesia { theirs, .. })) if newcomer.replaces.is_none() => {
                // The ring does not know our identity: whatever we hold, we enter as somebody new, and copy all.
                if is_at_work(config, consul, theirs, own).await {
                    return Err(StartError::Enter(EnterError::Refused(refusal)));
                }
                let name = &config.name;
                tracing::warn!(name, lost = %theirs, "the data of this name is lost; a new member replaces it");
                newcomer.replaces = Some(theirs);
            }
            Err(EnterError::Refused(refusal @ FormError::OtherProtocol { .. })) => {
                raise_protocol(config, consul, &newcomer, refusal, &mut awaited).await?;
            }
            Err(EnterError::Change(wait @ (ChangeError::Overlaps { .. } | ChangeError::TokenTaken(_)))) => {
                tracing::info!(%wait, "waiting to enter the ring");
                eprintln!("{}: waiting to enter the ring: {wait}", config.name);
                tokio::time::sleep(TURN_AGAIN_AFTER).await;
            }
            Err(error) => return Err(StartError::Enter(error)),
        }
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

/// Has the ring speak this program's protocol once none of its other members runs; waits for that.
///
/// Whoever is no member is refused instead, and so is an older program: it could not read what a later one wrote.
async fn raise_protocol(
    config: &Config,
    consul: &Consul,
    newcomer: &Newcomer,
    refusal: FormError,
    awaited: &mut Vec<String>,
) -> Result<(), StartError> {
    let refused = |refusal| Err(StartError::Enter(EnterError::Refused(refusal)));
    let FormError::OtherProtocol { ours, theirs } = refusal else { return refused(refusal) };
    if ours < theirs {
        return refused(refusal);
    }
    match ring_changes::raise_protocol(consul, newcomer.id, ours).await {
        Ok(Raise::Raised(view)) => {
            tracing::warn!(protocol = view.protocol, from = theirs, "the ring speaks a later protocol from now on");
        }
        Ok(Raise::NotAMember) => return refused(refusal),
        Ok(Raise::Awaits(names)) => {
            if *awaited != names {
                let (name, list) = (&config.name, names.join(", "));
                eprintln!("{name}: waiting until {list} have stopped: they speak protocol {theirs}, and this {ours}");
                *awaited = names;
            }
            tokio::time::sleep(TURN_AGAIN_AFTER).await;
        }
        Err(error) => {
            tracing::warn!(error = stdx::error_chain(&error), "discovery was not told of the later protocol");
            tokio::time::sleep(TURN_AGAIN_AFTER).await;
        }
    }
    Ok(())
}

/// What discovery says to this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the latest of this node.
    Latest,
    /// It is not: the data directory is a copy, or older than the node's last start.
    Stale {
        /// The latest one.
        last: u64,
    },
    /// Nothing: it cannot be reached. The disk's own count has to do.
    Unheard,
}

/// Tells discovery of this start.
async fn claim_incarnation(consul: &Consul, identity: &Identity) -> Result<Claim, StartError> {
    match ring_forming::claim_incarnation(consul, NodeId(identity.node), identity.incarnation).await {
        Ok(None) => Ok(Claim::Latest),
        Ok(Some(last)) => Ok(Claim::Stale { last }),
        Err(EnterError::Discovery(error)) => {
            tracing::warn!(%error, "discovery cannot be reached; counting starts by the data directory alone");
            Ok(Claim::Unheard)
        }
        Err(error) => Err(StartError::Enter(error)),
    }
}

/// Whether the ring has given this node up while it was away: it was a member when it last knew, and is none now.
async fn was_removed(consul: &Consul, identity: &Identity, last_view: Option<&View>) -> bool {
    let me = NodeId(identity.node);
    if last_view.is_none_or(|view| view.member(me).is_none()) {
        return false;
    }
    // Without discovery the last known view has to do.
    let Ok(view) = ring_changes::read(consul).await else { return false };
    view.is_formed() && view.member(me).is_none()
}
