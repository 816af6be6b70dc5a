//! Changes of a formed ring's membership: each a step from one view to the next, taken by compare-and-set in discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use membership::{ChangeError, Epoch, Leaving, NodeId, View};

use crate::backoff::Backoff;
use crate::consul::{Consul, ConsulError, HealthQuery};
use crate::fleet::{NodeAddress, STORAGE_NODE_SERVICE, VIEW_KEY, read_nodes};
use crate::ring_forming::{ATTEMPTS_MAX, EnterError, read_view};

/// Why the membership was not changed. Unless it says otherwise the view is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RingChangeError {
    /// The ring does not allow it, or not now.
    #[error("{0}")]
    Refused(ChangeError),
    /// Nobody has ever entered.
    #[error("discovery holds no ring yet; start its storage nodes first")]
    NoRing,
    /// Discovery gave no answer. The change may have begun or not; `everring ring` shows it.
    #[error("the ring's view cannot be read or changed; is discovery running, and is its address right?")]
    Discovery(#[source] ConsulError),
    /// What stands in discovery is no view, or was changed by others without end.
    #[error("the ring's view cannot be used")]
    View(#[source] EnterError),
}

/// The view as discovery holds it.
///
/// # Errors
/// See [`RingChangeError`].
pub async fn read(consul: &Consul) -> Result<View, RingChangeError> {
    let held = consul.kv_get(VIEW_KEY, None).await.map_err(RingChangeError::Discovery)?.value;
    let pair = held.ok_or(RingChangeError::NoRing)?;
    read_view(&pair.value).map_err(RingChangeError::View)
}

/// Takes one step: `step` is given the view that discovery holds, and again if somebody else was quicker. Answers with
/// what it made of the last one.
///
/// # Errors
/// The step's own refusal, or discovery's; see [`RingChangeError`].
pub async fn change<T: AsRef<View>>(
    consul: &Consul,
    mut step: impl FnMut(&View) -> Result<T, ChangeError>,
) -> Result<T, RingChangeError> {
    let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));
    for _ in 0..ATTEMPTS_MAX {
        let held = consul.kv_get(VIEW_KEY, None).await.map_err(RingChangeError::Discovery)?.value;
        let pair = held.ok_or(RingChangeError::NoRing)?;
        let view = read_view(&pair.value).map_err(RingChangeError::View)?;
        let next = step(&view).map_err(RingChangeError::Refused)?;
        if *next.as_ref() == view {
            return Ok(next);
        }
        let text = wire::view::to_json(next.as_ref());
        if consul.kv_cas(VIEW_KEY, text.as_bytes(), pair.modify_index).await.map_err(RingChangeError::Discovery)? {
            return Ok(next);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    Err(RingChangeError::View(EnterError::Contended { key: VIEW_KEY.to_owned() }))
}

/// Says that `node` holds all that these changes make it a replica of. One that is over by now is passed over.
///
/// # Errors
/// See [`RingChangeError`]; what was said before it stands.
pub async fn note_copied(consul: &Consul, node: NodeId, changes: &[Epoch]) -> Result<Option<View>, RingChangeError> {
    let mut newest = None;
    for id in changes {
        match change(consul, |view| view.note_copied(*id, node)).await {
            Ok(view) => newest = Some(view),
            Err(RingChangeError::Refused(ChangeError::NoSuchChange(_) | ChangeError::NotAwaited { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(newest)
}

/// Takes a member out of the ring that has been away for too long, unless discovery's checks say that it lives, or
/// another change is under way. The view that has it on its way out, if this was the call that put it there.
///
/// # Errors
/// See [`RingChangeError`]: an arc may have nobody left to copy from, or nobody to copy to. It is worth another try
/// when somebody is back.
pub async fn give_up(consul: &Consul, absent: NodeId) -> Result<Option<View>, RingChangeError> {
    let living = registered(consul, true).await?;
    if living.contains_key(&absent) {
        return Ok(None);
    }
    let mut before = None;
    let after = change(consul, |view| {
        before = Some(view.epoch);
        if !view.pending.is_empty() || view.member(absent).is_none() {
            return Ok(view.clone());
        }
        let leaving = view.begin_leave_among(BTreeSet::from([absent]), false, |node| living.contains_key(&node))?;
        Ok(leaving.view)
    });
    let after = after.await?;
    Ok((before != Some(after.epoch)).then_some(after))
}

/// Lets members leave, if the change can end: discovery's checks say who can be reached. By `force`, those of them that
/// cannot are given up where an arc has no majority without them.
///
/// # Errors
/// See [`RingChangeError`].
pub async fn leave(consul: &Consul, nodes: &BTreeSet<NodeId>, force: bool) -> Result<Leaving, RingChangeError> {
    let living = registered(consul, true).await?;
    change(consul, |view| view.begin_leave_among(nodes.clone(), force, |node| living.contains_key(&node))).await
}

/// What became of the wish that the ring speak another protocol.
#[derive(Debug)]
pub enum Raise {
    /// It speaks it, or a later one.
    Raised(View),
    /// These other members are at work, and speak the one of before; their names.
    Awaits(Vec<String>),
    /// It is not for this node to say: it is no member.
    NotAMember,
}

/// Has the ring speak `protocol`, if it is for `member` to say: one of the members, of whom no other is at work as far
/// as discovery's checks tell. The number only grows.
///
/// Who is at work unseen by discovery is cut off from those of the new number, as by any network: nothing is decided
/// twice, since a majority has one number or the other.
///
/// # Errors
/// See [`RingChangeError`].
pub async fn raise_protocol(consul: &Consul, member: NodeId, protocol: u16) -> Result<Raise, RingChangeError> {
    let view = read(consul).await?;
    if view.member(member).is_none() {
        return Ok(Raise::NotAMember);
    }
    let living = registered(consul, true).await?;
    let others = view.members.iter().filter(|other| other.id != member && living.contains_key(&other.id));
    let names: Vec<String> = others.map(|other| other.name.clone()).collect();
    if !names.is_empty() && view.protocol < protocol {
        return Ok(Raise::Awaits(names));
    }
    change(consul, |view| Ok(view.speaking(protocol))).await.map(Raise::Raised)
}

/// The storage nodes that are registered, with their addresses; if `passing`, only those whose checks pass, which lived
/// a few seconds ago.
///
/// # Errors
/// Discovery gave no answer.
pub async fn registered(consul: &Consul, passing: bool) -> Result<BTreeMap<NodeId, NodeAddress>, RingChangeError> {
    let query = HealthQuery { passing, ..HealthQuery::default() };
    let found = consul.health_service(STORAGE_NODE_SERVICE, &query, None).await.map_err(RingChangeError::Discovery)?;
    Ok(read_nodes(&found.value).await)
}
