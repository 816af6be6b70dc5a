//! How a storage node enters the ring's view, and how it gets its incarnation: both by compare-and-set in discovery.

use std::time::Duration;

use membership::{
    Change, ChangeError, ClusterId, Common, FormError, Member, NodeId, View, choose_tokens, tokens_of_weight,
};
use stdx::Prng;
use wire::view::ViewJsonError;

use crate::backoff::Backoff;
use crate::consul::{Consul, ConsulError};
use crate::fleet::VIEW_KEY;

/// Under this prefix, each node's last incarnation, as decimal text.
pub const INCARNATION_PREFIX: &str = "everring/incarnation/";
/// Under this prefix, a record of each node's log that it has synced, as decimal text: of late, not the last.
pub const SYNCED_PREFIX: &str = "everring/synced/";

/// How often a lost compare-and-set is tried again. Each loss means that somebody else got in, and a forming ring has
/// few members: running out means that something rewrites the key without end.
pub(crate) const ATTEMPTS_MAX: usize = 100;

/// A storage node that wants to enter.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The identity from its data directory.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Its failure domain, where known.
    pub zone: Option<String>,
    /// The cluster that its data directory belongs to; none on its first start.
    pub cluster: Option<ClusterId>,
    /// [`membership::KeyHasher::fingerprint`] of its cluster secret.
    pub hash_fingerprint: u64,
    /// R, if it is the one that starts the ring.
    pub replication: usize,
    /// How many members the ring forms with, if it is the one that starts it.
    pub forms_with: usize,
    /// The protocol that its program speaks with other nodes.
    pub protocol: u16,
    /// How much it takes beside the others; see [`Member::weight`].
    pub weight: u32,
    /// The last view that it kept on its disk. Put back when discovery has lost the view: tokens must not change.
    pub last_view: Option<View>,
    /// The identity of this name whose place it may take: its data is known to be lost, and its process to be gone.
    pub replaces: Option<NodeId>,
}

impl Newcomer {
    /// What it has in common with the ring of `view`, or should have.
    pub fn common(&self, view: &View) -> Common {
        let cluster = self.cluster.unwrap_or(view.cluster);
        Common { cluster, hash_fingerprint: self.hash_fingerprint, protocol: self.protocol }
    }
}

/// Why a node did not enter. Unless it says otherwise the view is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The ring does not take this node; its people must act.
    #[error("{0}")]
    Refused(FormError),
    /// The ring is formed, and cannot take this node, or not now.
    #[error("{0}")]
    Change(ChangeError),
    /// The ring that this node would start could never hold R copies.
    #[error(
        "a ring of {forms_with} nodes cannot hold {replication} copies of a key; raise the number of nodes or lower \
         the replication"
    )]
    TooFewMembers {
        /// How many members were asked for.
        forms_with: usize,
        /// How many copies.
        replication: usize,
    },
    /// Discovery gave no answer. The node may have entered or not; entering again is harmless.
    #[error("the ring's view cannot be read or changed; is discovery running, and is its address right?")]
    Discovery(#[source] ConsulError),
    /// What stands under the key is no view; its people must look at it.
    #[error("what discovery holds under {VIEW_KEY} cannot be used; look at it, and delete it if it is left over")]
    View(#[source] ViewJsonError),
    /// What stands under the node's incarnation, or what it has synced, is no number.
    #[error("what discovery holds under {key} is not a number: {found:?}; delete it to begin anew")]
    Number {
        /// The key.
        key: String,
        /// What stood there.
        found: String,
    },
    /// The key changed under every attempt.
    #[error(
        "{key} was changed by others {ATTEMPTS_MAX} times in a row; look for something that rewrites it without end"
    )]
    Contended {
        /// The key.
        key: String,
    },
}

/// Enters the ring's view, or finds its place in it again; starts the view when there is none. Answers with the view in
/// which the node is a member: formed or not yet.
///
/// # Errors
/// See [`EnterError`].
pub async fn enter(consul: &Consul, newcomer: &Newcomer, prng: &mut Prng) -> Result<View, EnterError> {
    let mut backoff = contention_backoff();
    for _ in 0..ATTEMPTS_MAX {
        let held = consul.kv_get(VIEW_KEY, None).await.map_err(EnterError::Discovery)?.value;
        let (view, modify_index) = match &held {
            Some(pair) => (Some(read_view(&pair.value)?), pair.modify_index),
            None => (None, 0),
        };
        let next = next_view(view.as_ref(), newcomer, prng)?;
        if view.as_ref() == Some(&next) {
            return Ok(next);
        }
        let text = wire::view::to_json(&next);
        if consul.kv_cas(VIEW_KEY, text.as_bytes(), modify_index).await.map_err(EnterError::Discovery)? {
            return Ok(next);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    Err(EnterError::Contended { key: VIEW_KEY.to_owned() })
}

/// Tells discovery that `node` starts as `incarnation`, which its disk holds already. Some: discovery has seen this
/// start or a later one, the one that is answered, so the disk is a copy, or older than the node's last start.
///
/// # Errors
/// See [`EnterError`].
pub async fn claim_incarnation(consul: &Consul, node: NodeId, incarnation: u64) -> Result<Option<u64>, EnterError> {
    raise(consul, format!("{INCARNATION_PREFIX}{node}"), incarnation).await
}

/// Tells discovery that `node` has synced its log up to `record`, unless it knows of a later one: a directory that
/// holds less than that forgot something (decision 0073).
///
/// # Errors
/// See [`EnterError`].
pub async fn tell_synced(consul: &Consul, node: NodeId, record: u64) -> Result<(), EnterError> {
    raise(consul, format!("{SYNCED_PREFIX}{node}"), record).await.map(drop)
}

/// A record that `node` is known to have synced; none if it never told.
///
/// # Errors
/// See [`EnterError`].
pub async fn synced(consul: &Consul, node: NodeId) -> Result<Option<u64>, EnterError> {
    let key = format!("{SYNCED_PREFIX}{node}");
    let held = consul.kv_get(&key, None).await.map_err(EnterError::Discovery)?.value;
    held.map(|pair| read_number(&key, &pair.value)).transpose()
}

/// Raises the number under `key`. Some: it stood there already, or a greater one, the one that is answered.
async fn raise(consul: &Consul, key: String, number: u64) -> Result<Option<u64>, EnterError> {
    let mut backoff = contention_backoff();
    for _ in 0..ATTEMPTS_MAX {
        let held = consul.kv_get(&key, None).await.map_err(EnterError::Discovery)?.value;
        let (last, modify_index) = match &held {
            Some(pair) => (read_number(&key, &pair.value)?, pair.modify_index),
            None => (0, 0),
        };
        if held.is_some() && last >= number {
            return Ok(Some(last));
        }
        let text = number.to_string();
        if consul.kv_cas(&key, text.as_bytes(), modify_index).await.map_err(EnterError::Discovery)? {
            return Ok(None);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    Err(EnterError::Contended { key })
}

/// Short pauses: whoever won the race is done already.
fn contention_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(2), Duration::from_millis(50))
}

/// The view with the newcomer in it; the held one itself if it already belongs.
fn next_view(held: Option<&View>, newcomer: &Newcomer, prng: &mut Prng) -> Result<View, EnterError> {
    let base = match (held, &newcomer.last_view) {
        (Some(view), _) => view.clone(),
        (None, Some(last)) => last.clone(),
        (None, None) => start_view(newcomer, prng)?,
    };
    let mut member = Member {
        id: newcomer.id,
        name: newcomer.name.clone(),
        zone: newcomer.zone.clone(),
        weight: newcomer.weight,
        tokens: Vec::new(),
    };
    if base.member(newcomer.id).is_none() {
        member.tokens = choose_tokens(&base.members, base.replication, &member, tokens_of_weight(member.weight), prng);
    }
    // Both ways into a formed ring lead through here, so nobody begins a change who could not take part in its end.
    match base.admit(&member, &newcomer.common(&base)) {
        Err(FormError::RingFormed { .. }) => base.begin_join(member).map_err(EnterError::Change),
        Err(FormError::Amnesia { theirs, .. }) if newcomer.replaces == Some(theirs) => replace(&base, theirs, member),
        admitted => admitted.map_err(EnterError::Refused),
    }
}

/// The view in which the newcomer takes the place of an identity whose data is lost. Whatever waits for the lost one is
/// given up first: it would wait for ever.
fn replace(view: &View, gone: NodeId, newcomer: Member) -> Result<View, EnterError> {
    if !view.is_formed() {
        // Nothing was kept or promised yet: the entry changes hands.
        let mut next = view.clone();
        next.members.retain(|member| member.id != gone);
        next.members.push(newcomer);
        return Ok(next);
    }
    let waits_for = |pending: &&membership::Pending| {
        pending.change.concerns(gone) || view.awaited(pending.id).is_ok_and(|awaited| awaited.contains(&gone))
    };
    if let Some(pending) = view.pending.iter().find(waits_for) {
        // One that is leaving with its data lost is gone: nothing to take over.
        let joining = pending.change == Change::Join { node: gone };
        let back = view.abandon(pending.id).map_err(EnterError::Change)?;
        return if joining {
            back.begin_join(newcomer).map_err(EnterError::Change)
        } else {
            replace(&back, gone, newcomer)
        };
    }
    view.begin_replace(gone, newcomer).map_err(EnterError::Change)
}

fn start_view(newcomer: &Newcomer, prng: &mut Prng) -> Result<View, EnterError> {
    let Newcomer { forms_with, replication, .. } = *newcomer;
    if forms_with < replication || forms_with == 0 {
        return Err(EnterError::TooFewMembers { forms_with, replication });
    }
    // Cluster 0 stands for "no cluster", so the draw avoids it.
    let cluster = newcomer.cluster.unwrap_or_else(|| ClusterId(prng.next_u64().max(1)));
    let forming = View::forming(cluster, replication, forms_with, newcomer.hash_fingerprint);
    Ok(View { protocol: newcomer.protocol, ..forming })
}

pub(crate) fn read_view(value: &[u8]) -> Result<View, EnterError> {
    wire::view::from_json(&String::from_utf8_lossy(value)).map_err(EnterError::View)
}

fn read_number(key: &str, value: &[u8]) -> Result<u64, EnterError> {
    let found = String::from_utf8_lossy(value).into_owned();
    found.trim().parse().map_err(|_| EnterError::Number { key: key.to_owned(), found })
}

#[cfg(test)]
mod tests {
    use membership::{Epoch, PROTOCOL_UNTOLD, TOKENS};

    use super::*;

    fn newcomer(id: u64) -> Newcomer {
        Newcomer {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: None,
            cluster: None,
            hash_fingerprint: 7,
            replication: 2,
            forms_with: 2,
            protocol: PROTOCOL_UNTOLD,
            weight: 1,
            last_view: None,
            replaces: None,
        }
    }

    #[test]
    fn the_first_starts_the_ring_and_the_last_forms_it() {
        let mut prng = Prng::from_seed(1);
        let one = next_view(None, &newcomer(1), &mut prng).expect("the first may enter");
        assert_eq!((one.epoch, one.members[0].tokens.len()), (Epoch(0), TOKENS));
        let two = next_view(Some(&one), &newcomer(2), &mut prng).expect("the second may enter");
        assert_eq!(two.epoch, Epoch(1));
        two.validate().expect("the formed ring is sound");
        assert_eq!(next_view(Some(&two), &newcomer(1), &mut prng).expect("a member returns"), two);
    }

    #[test]
    fn a_view_that_discovery_lost_is_put_back_with_its_tokens() {
        let mut prng = Prng::from_seed(1);
        let one = next_view(None, &newcomer(1), &mut prng).expect("the first may enter");
        let two = next_view(Some(&one), &newcomer(2), &mut prng).expect("the second may enter");
        let returning = Newcomer { last_view: Some(two.clone()), cluster: Some(two.cluster), ..newcomer(1) };
        assert_eq!(next_view(None, &returning, &mut prng).expect("it may put the view back"), two);
    }

    #[test]
    fn a_ring_that_cannot_hold_its_copies_is_not_started() {
        let small = Newcomer { forms_with: 2, replication: 3, ..newcomer(1) };
        assert!(matches!(
            next_view(None, &small, &mut Prng::from_seed(1)),
            Err(EnterError::TooFewMembers { forms_with: 2, replication: 3 })
        ));
    }
}
