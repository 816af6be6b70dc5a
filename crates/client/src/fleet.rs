//! Who belongs to the ring and where they are: the view (the KV key [`VIEW_KEY`]) and the storage nodes' addresses,
//! both followed by blocking queries.
//!
//! An address here is only a hint: who is alive is judged by connections, and who owns what by the view. So a node
//! whose check is critical keeps its address, and so does a member that discovery has forgotten. When discovery is
//! gone, the last known fleet stays in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use membership::{ClusterId, Epoch, NodeId, Position, Ring, View};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::consul::{Blocking, Consul, ConsulError, HealthQuery, ServiceEntry};
use crate::fleet_cache;

/// The key that holds the ring's view (JSON of `wire::view`), changed by compare-and-set only.
pub const VIEW_KEY: &str = "everring/view";

/// The service that storage nodes register as.
pub const STORAGE_NODE_SERVICE: &str = "everring-storage-node";

/// How long one blocking query waits. Short enough that a discovery that was moved away is found out about.
const WATCH_WAIT: Duration = Duration::from_secs(60);

/// The pauses between attempts while discovery does not answer.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// What is known of the ring and its nodes at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The newest view seen. Until one was seen: epoch 0, without members, of cluster 0.
    pub view: Arc<View>,
    /// The view's arcs with their replica sets.
    pub ring: Arc<Ring>,
    /// Where each storage node was last known to be, whether it is a member or not.
    pub nodes: BTreeMap<NodeId, NodeAddress>,
}

/// Where a storage node was last known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// What people call it.
    pub name: String,
    /// Where peers and gateways reach it by framed TCP.
    pub peer: SocketAddr,
    /// `host:port` of its HTTP side; empty if it did not say.
    pub http: String,
    /// Which start of the node this was; of two, the greater is the living one.
    pub incarnation: u64,
}

/// Follows the fleet. Clones share one set of watches, which end with the last clone.
#[derive(Clone, Debug)]
pub struct Directory {
    shared: Arc<Shared>,
}

impl Fleet {
    /// The fleet of somebody who has seen nothing yet.
    pub fn unknown() -> Fleet {
        let view = View::forming(ClusterId(0), 1, 0, 0);
        Fleet { ring: Arc::new(view.ring()), view: Arc::new(view), nodes: BTreeMap::new() }
    }

    /// Whether a view was ever seen, formed or not.
    pub fn is_known(&self) -> bool {
        self.view.cluster != ClusterId(0) || self.view.epoch > Epoch(0)
    }

    /// A node's name: from the view, else from discovery, else its identity.
    pub fn name_of(&self, id: NodeId) -> String {
        let member = self.view.member(id).map(|member| member.name.clone());
        member.or_else(|| self.nodes.get(&id).map(|node| node.name.clone())).unwrap_or_else(|| id.to_string())
    }

    /// The replica set that the arc of a position is changing to, in words.
    pub fn pending_change_at(&self, position: Position) -> Option<String> {
        let next = self.ring.arc_of(position)?.next.as_ref()?;
        let names: Vec<String> = next.iter().map(|node| self.name_of(*node)).collect();
        Some(format!("to {}", names.join(", ")))
    }
}

impl Directory {
    /// Starts following the fleet in the background; answers at once, with what the cache file holds if there is one.
    ///
    /// Must be called within a tokio runtime. A cache file that cannot be read or written is logged and done without.
    pub fn start(consul: Consul, cache: Option<PathBuf>) -> Directory {
        let known = cache.as_deref().and_then(fleet_cache::load);
        let origin = if known.is_some() { Origin::Cache } else { Origin::Discovery };
        let (fleet, _) = watch::channel(Arc::new(known.unwrap_or_else(Fleet::unknown)));
        let board = Arc::new(Board { fleet, origin: Mutex::new(origin), registered: Mutex::default(), cache });
        let tasks = vec![
            tokio::spawn(follow_view(consul.clone(), Arc::clone(&board))),
            tokio::spawn(follow_nodes(consul, Arc::clone(&board))),
        ];
        Directory { shared: Arc::new(Shared { board, tasks }) }
    }

    /// The fleet as it is known now.
    pub fn current(&self) -> Arc<Fleet> {
        Arc::clone(&self.shared.board.fleet.borrow())
    }

    /// A receiver that is told of each change.
    pub fn watch(&self) -> watch::Receiver<Arc<Fleet>> {
        self.shared.board.fleet.subscribe()
    }

    /// Takes a view from elsewhere (a peer that knows a newer one); an older one is ignored.
    pub fn learn(&self, view: View) {
        self.shared.board.take_view(view, Origin::Peer);
    }
}

#[derive(Debug)]
struct Shared {
    board: Arc<Board>,
    tasks: Vec<JoinHandle<()>>,
}

/// The watches hold the board, not this, so that the last directory's end is theirs too.
impl Drop for Shared {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Where the held view came from, which decides what may replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Cache,
    Discovery,
    Peer,
}

#[derive(Debug)]
struct Board {
    fleet: watch::Sender<Arc<Fleet>>,
    origin: Mutex<Origin>,
    /// Who was registered when that was read last.
    registered: Mutex<BTreeSet<NodeId>>,
    cache: Option<PathBuf>,
}

impl Board {
    fn take_view(&self, view: View, origin: Origin) {
        let mut held_from = self.origin.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let held = Arc::clone(&self.fleet.borrow());
        if !may_replace(&held, *held_from, &view, origin) {
            tracing::warn!(held = %held.view.epoch, offered = %view.epoch, "an older or foreign view was ignored");
            return;
        }
        *held_from = origin;
        let registered = self.registered.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        self.publish(|fleet| {
            let ring = if view == *fleet.view { Arc::clone(&fleet.ring) } else { Arc::new(view.ring()) };
            let mut nodes = fleet.nodes.clone();
            // The address of a member is kept though it is not registered now; not that of one that is no member any
            // more.
            let was_member = |id: &NodeId| fleet.view.member(*id).is_some();
            nodes.retain(|id, _| view.member(*id).is_some() || registered.contains(id) || !was_member(id));
            Fleet { ring, view: Arc::new(view), nodes }
        });
    }

    fn take_nodes(&self, mut nodes: BTreeMap<NodeId, NodeAddress>) {
        let registered = nodes.keys().copied().collect();
        *self.registered.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = registered;
        self.publish(|fleet| {
            for (id, address) in &fleet.nodes {
                if fleet.view.member(*id).is_some() {
                    nodes.entry(*id).or_insert_with(|| address.clone());
                }
            }
            Fleet { view: Arc::clone(&fleet.view), ring: Arc::clone(&fleet.ring), nodes }
        });
    }

    /// Replaces the fleet; watchers and the cache hear of it only if it differs.
    fn publish(&self, change: impl FnOnce(&Fleet) -> Fleet) {
        let changed = self.fleet.send_if_modified(|held| {
            let next = change(held);
            let differs = next != **held;
            if differs {
                *held = Arc::new(next);
            }
            differs
        });
        if let (true, Some(cache)) = (changed, &self.cache) {
            fleet_cache::save(cache, &self.fleet.borrow());
        }
    }
}

/// Whether `view` may take the place of the held one: a newer or equal epoch of the same cluster always may.
fn may_replace(held: &Fleet, held_from: Origin, view: &View, origin: Origin) -> bool {
    if !held.is_known() {
        return true;
    }
    if held.view.cluster == view.cluster {
        return view.epoch >= held.view.epoch;
    }
    // Another cluster: only discovery's word counts, and only against a cache left by somebody else, or a ring that
    // has never formed. A ring in use is not given up because discovery was emptied and filled anew.
    origin == Origin::Discovery && (held_from == Origin::Cache || !held.view.is_formed())
}

/// Follows the view's key for ever.
async fn follow_view(consul: Consul, board: Arc<Board>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let mut index = 0;
    loop {
        match consul.kv_get(VIEW_KEY, Some(Blocking { index, wait: WATCH_WAIT })).await {
            Ok(answer) => {
                backoff.reset();
                index = next_index(index, answer.index);
                let text = answer.value.map(|pair| String::from_utf8_lossy(&pair.value).into_owned());
                match text.as_deref().map(wire::view::from_json) {
                    Some(Ok(view)) => board.take_view(view, Origin::Discovery),
                    Some(Err(error)) => {
                        tracing::warn!(error = stdx::error_chain(&error), "the view in discovery cannot be used");
                    }
                    // No view: the ring has not begun to form, or discovery lost it. What is known stays.
                    None => {}
                }
            }
            Err(error) => pause(&error, &mut backoff, &mut index).await,
        }
    }
}

/// Follows the storage nodes' registrations for ever.
async fn follow_nodes(consul: Consul, board: Arc<Board>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let mut index = 0;
    loop {
        let blocking = Some(Blocking { index, wait: WATCH_WAIT });
        match consul.health_service(STORAGE_NODE_SERVICE, &HealthQuery::default(), blocking).await {
            Ok(answer) => {
                backoff.reset();
                index = next_index(index, answer.index);
                board.take_nodes(read_nodes(&answer.value).await);
            }
            Err(error) => pause(&error, &mut backoff, &mut index).await,
        }
    }
}

/// The index to block on next; one that went backwards means that the server started anew (Consul's rule: begin at 0).
fn next_index(asked: u64, answered: u64) -> u64 {
    if answered < asked { 0 } else { answered }
}

async fn pause(error: &ConsulError, backoff: &mut Backoff, index: &mut u64) {
    tracing::debug!(error = stdx::error_chain(error), "discovery gave no answer; the last known fleet stays in use");
    // Whoever answers next may be another server with other indexes.
    *index = 0;
    tokio::time::sleep(backoff.pause()).await;
}

pub(crate) async fn read_nodes(entries: &[ServiceEntry]) -> BTreeMap<NodeId, NodeAddress> {
    let mut nodes: BTreeMap<NodeId, NodeAddress> = BTreeMap::new();
    for entry in entries {
        let Some((id, address)) = read_node(entry).await else {
            tracing::warn!(service = entry.service.id, "a storage node's registration cannot be used");
            continue;
        };
        let newer = nodes.get(&id).is_none_or(|known| known.incarnation <= address.incarnation);
        if newer {
            nodes.insert(id, address);
        }
    }
    nodes
}

async fn read_node(entry: &ServiceEntry) -> Option<(NodeId, NodeAddress)> {
    let service = &entry.service;
    let id = NodeId(u64::from_str_radix(service.meta.get("node_id")?, 16).ok()?);
    let host = if service.address.is_empty() { &entry.node.address } else { &service.address };
    let peer = match host.parse() {
        Ok(ip) => SocketAddr::new(ip, service.port),
        // A name: looked up once a change, which is when pods get new addresses.
        Err(_) => tokio::net::lookup_host((host.as_str(), service.port)).await.ok()?.next()?,
    };
    let incarnation = service.meta.get("incarnation").and_then(|text| text.parse().ok())?;
    let name = service.meta.get("name").cloned().unwrap_or_else(|| id.to_string());
    let http = service.meta.get("http").cloned().unwrap_or_default();
    Some((id, NodeAddress { name, peer, http, incarnation }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(cluster: u64, epoch: u64) -> Fleet {
        let view = View { epoch: Epoch(epoch), ..View::forming(ClusterId(cluster), 3, 5, 0) };
        Fleet { ring: Arc::new(view.ring()), view: Arc::new(view), nodes: BTreeMap::new() }
    }

    #[test]
    fn a_view_never_goes_back_and_a_ring_in_use_is_not_given_up() {
        let replaces = |held: &Fleet, from, view: &Fleet, origin| may_replace(held, from, &view.view, origin);
        let (old, new, foreign) = (fleet(1, 1), fleet(1, 2), fleet(2, 9));
        assert!(replaces(&Fleet::unknown(), Origin::Discovery, &old, Origin::Discovery));
        assert!(replaces(&old, Origin::Discovery, &new, Origin::Peer));
        assert!(!replaces(&new, Origin::Peer, &old, Origin::Discovery));
        assert!(!replaces(&old, Origin::Discovery, &foreign, Origin::Discovery));
        assert!(!replaces(&old, Origin::Cache, &foreign, Origin::Peer));
        assert!(replaces(&old, Origin::Cache, &foreign, Origin::Discovery), "a cache left by another fleet gives way");
        assert!(replaces(&fleet(1, 0), Origin::Discovery, &foreign, Origin::Discovery));
    }

    #[test]
    fn a_member_that_discovery_forgot_keeps_its_address() {
        let member =
            membership::Member { id: NodeId(1), name: "n1".to_owned(), zone: None, weight: 1, tokens: Vec::new() };
        let mut held = fleet(1, 0);
        held.view = Arc::new(View { members: vec![member], ..(*held.view).clone() });
        let address = |port| NodeAddress {
            name: "n".to_owned(),
            peer: SocketAddr::from(([127, 0, 0, 1], port)),
            http: String::new(),
            incarnation: 1,
        };
        held.nodes = BTreeMap::from([(NodeId(1), address(1)), (NodeId(2), address(2))]);
        let (fleet, _) = watch::channel(Arc::new(held));
        let board = Board { fleet, origin: Mutex::new(Origin::Discovery), registered: Mutex::default(), cache: None };
        board.take_nodes(BTreeMap::from([(NodeId(3), address(3))]));
        let known: Vec<u64> = board.fleet.borrow().nodes.keys().map(|id| id.0).collect();
        assert_eq!(known, [1, 3], "the member stays, the stranger goes");
    }
}
