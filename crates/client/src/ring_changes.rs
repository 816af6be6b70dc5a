//! Changes of a formed ring's membership: each a step from one view to the next, taken by compare-and-set in discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use membership::{ChangeError, Epoch, NodeId, View};

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

/// Takes one step: `step` is given the view that discovery holds, and again if somebody else was quicker.
///
/// # Errors
/// The step's own refusal, or discovery's; see [`RingChangeError`].
pub async fn change(
    consul: &Consul,
    mut step: impl FnMut(&View) -> Result<View, ChangeError>,
) -> Result<View, RingChangeError> {
    let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));
    for _ in 0..ATTEMPTS_MAX {
        let held = consul.kv_get(VIEW_KEY, None).await.map_err(RingChangeError::Discovery)?.value;
        let pair = held.ok_or(RingChangeError::NoRing)?;
        let view = read_view(&pair.value).map_err(RingChangeError::View)?;
        let next = step(&view).map_err(RingChangeError::Refused)?;
        if next == view {
            return Ok(next);
        }
        let text = wire::view::to_json(&next);
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
/// See [`RingChangeError`]: the ring may not survive without it.
pub async fn give_up(consul: &Consul, absent: NodeId) -> Result<Option<View>, RingChangeError> {
    if registered(consul, true).await?.contains_key(&absent) {
        return Ok(None);
    }
    let mut before = None;
    let after = change(consul, |view| {
        before = Some(view.epoch);
        if !view.pending.is_empty() || view.member(absent).is_none() {
            return Ok(view.clone());
        }
        view.begin_leave(BTreeSet::from([absent]), false)
    });
    let after = after.await?;
    Ok((before != Some(after.epoch)).then_some(after))
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
