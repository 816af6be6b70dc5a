//! Whether a data directory may come back as the node that it says it is (decision 0073), and who else is at work.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use client::consul::Consul;
use client::{ring_changes, ring_forming};
use membership::{NodeId, View};
use runtime::{PeerEvent, Peers};
use store::identity::{Doubt, Identity};
use tokio::sync::watch;
use wire::node::{Hello, PROTOCOL, Sender};

use crate::serve::{Config, StartError};
use crate::start::cluster_of;

/// How long an address has to take a connection, where somebody may listen.
const DIAL_PATIENCE: Duration = Duration::from_millis(500);
/// How long processes have to take a connection and to say who they are.
const ANSWER_PATIENCE: Duration = Duration::from_millis(1_000);
/// How often discovery is told how far the log is synced, at most: each time is a write there.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Whether a directory that raises this doubt is to be set aside, for its node to join as a new member. False: the one
/// who runs it answers for it.
///
/// Only where the others are at work who hold what it may have forgotten: when all directories of a fleet were moved,
/// or put back from a backup, there is nobody to copy from, and people must decide.
pub(crate) async fn must_go(
    config: &Config,
    consul: &Consul,
    identity: &Identity,
    doubt: Doubt,
) -> Result<bool, StartError> {
    let path = config.data.clone();
    if config.trust_data {
        let data = path.display();
        tracing::error!(%data, %doubt, "the data directory is in doubt, and used as it is (--trust-data)");
        return Ok(false);
    }
    let id = NodeId(identity.node);
    let others_can_fill = match (ring_changes::read(consul).await, ring_changes::registered(consul, false).await) {
        (Ok(view), Ok(known)) => {
            let others = known.into_iter().filter(|(node, _)| *node != id);
            let at_work = at_work(config, others.map(|(node, known)| (node, known.peer)).collect()).await;
            can_be_filled(&view, id, &at_work)
        }
        // Without discovery nobody knows who they are.
        _ => false,
    };
    if !others_can_fill {
        return Err(StartError::Doubted { path, doubt });
    }
    tracing::warn!(data = %path.display(), %doubt, "the data directory is in doubt");
    Ok(true)
}

/// The doubt that a log raises which ends at record `held`, by what its node told discovery.
pub(crate) async fn of_end(consul: &Consul, identity: &Identity, held: u64) -> Result<Option<Doubt>, StartError> {
    match ring_forming::synced(consul, NodeId(identity.node)).await {
        Ok(told) => Ok(Doubt::of_end(held, told)),
        Err(ring_forming::EnterError::Discovery(error)) => {
            tracing::warn!(%error, "discovery cannot be reached; the log is taken for whole");
            Ok(None)
        }
        Err(error) => Err(StartError::Enter(error)),
    }
}

/// Begins to tell discovery how far the log is synced, from `durable` on; answers where to say it.
pub(crate) fn start_telling(consul: Consul, node: NodeId, durable: u64) -> watch::Sender<u64> {
    let (sender, mut synced) = watch::channel(durable);
    synced.mark_changed();
    tokio::spawn(keep_telling(consul, node, synced));
    sender
}

/// Tells discovery how far the log is synced, at most every [`TELL_EVERY`], until the log is closed. What it was not
/// told of, nobody misses in a directory that was put back.
async fn keep_telling(consul: Consul, node: NodeId, mut synced: watch::Receiver<u64>) {
    while synced.changed().await.is_ok() {
        let record = *synced.borrow_and_update();
        if let Err(error) = ring_forming::tell_synced(&consul, node, record).await {
            tracing::debug!(error = stdx::error_chain(&error), "discovery was not told how far the log is synced");
            synced.mark_changed();
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Whether a majority of each arc's replicas is at work without `node`, so that all that was ever decided can be
/// copied.
fn can_be_filled(view: &View, node: NodeId, at_work: &BTreeSet<NodeId>) -> bool {
    if !view.is_formed() {
        // Nothing was promised yet.
        return true;
    }
    let ring = view.ring();
    let mut its_arcs = ring.arcs().iter().filter(|arc| arc.replicas.contains(&node));
    its_arcs.all(|arc| {
        let there = arc.replicas.iter().filter(|replica| **replica != node && at_work.contains(replica)).count();
        there > arc.replicas.len() / 2
    })
}

/// Refuses to start beside a process that answers under our own identity: the data directory is a copy of one in use.
///
/// Whoever was known at `own`, the address that this start has taken, is gone.
pub(crate) async fn refuse_twin(
    config: &Config,
    consul: &Consul,
    identity: &Identity,
    own: SocketAddr,
) -> Result<(), StartError> {
    if is_at_work(config, consul, NodeId(identity.node), own).await {
        return Err(StartError::Twin { path: config.data.clone(), name: config.name.clone() });
    }
    Ok(())
}

/// Whether a process answers as `node` where discovery last knew it, unless that is our `own` address.
pub(crate) async fn is_at_work(config: &Config, consul: &Consul, node: NodeId, own: SocketAddr) -> bool {
    // Without discovery nobody knows of another process, nor where to look for it.
    let Ok(registered) = ring_changes::registered(consul, false).await else { return false };
    let Some(known) = registered.get(&node).filter(|known| known.peer != own) else { return false };
    // Where nobody listens nobody is waited for: whoever was killed and starts elsewhere comes by here.
    let dial = tokio::time::timeout(DIAL_PATIENCE, tokio::net::TcpStream::connect(known.peer));
    matches!(dial.await, Ok(Ok(_))) && !at_work(config, BTreeMap::from([(node, known.peer)])).await.is_empty()
}

/// Those of `known` that answer there as who they are: an address may be another process's by now.
async fn at_work(config: &Config, known: BTreeMap<NodeId, SocketAddr>) -> BTreeSet<NodeId> {
    let sender = Sender::Client { name: format!("start of {}", config.name) };
    let cluster = cluster_of(&config.cluster_secret);
    let (peers, mut events) = Peers::new(Hello { protocol: PROTOCOL, cluster, sender });
    let awaited = known.len();
    peers.set_addresses(known);
    let mut answered = BTreeSet::new();
    // Those who have answered by then have answered; that it ran out is nothing more to say.
    let _ = tokio::time::timeout(ANSWER_PATIENCE, async {
        while answered.len() < awaited {
            match events.recv().await {
                Some(PeerEvent::Up(node)) => drop(answered.insert(node)),
                Some(_) => {}
                None => break,
            }
        }
    })
    .await;
    peers.close();
    answered
}

#[cfg(test)]
mod tests {
    use membership::{ClusterId, Epoch, Member, Position};

    use super::*;

    #[test]
    fn a_directory_goes_only_where_the_others_hold_all() {
        let mut view = View::forming(ClusterId(1), 3, 3, 0);
        assert!(can_be_filled(&view, NodeId(1), &BTreeSet::new()), "nothing was promised");
        view.epoch = Epoch(1);
        view.members = (1..=3)
            .map(|id| Member {
                id: NodeId(id),
                name: format!("n{id}"),
                zone: None,
                weight: 1,
                tokens: vec![Position(id << 60)],
            })
            .collect();
        let with = |nodes: &[u64]| can_be_filled(&view, NodeId(1), &nodes.iter().map(|id| NodeId(*id)).collect());
        assert!(with(&[2, 3]));
        assert!(!with(&[2]), "the third may be the only one that holds a decided write");
        assert!(!with(&[1, 2]), "its own word counts for nothing");
        assert!(can_be_filled(&view, NodeId(9), &BTreeSet::new()), "who is no member held nothing");
    }
}
