use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use membership::NodeId;
use tokio::task::AbortHandle;
use wire::node::Sender;

use super::ConnectionId;
use super::connection::Connection;
use super::handshake::ConnectError;

/// Which connections live, and which nodes are dialled.
#[derive(Default)]
pub(super) struct Links {
    connections: BTreeMap<ConnectionId, Arc<Connection>>,
    nodes: BTreeMap<NodeId, NodeLinks>,
    going_away: bool,
}

/// What is known of one node. Kept when it is gone, for its incarnation; there are as many as the ring ever had
/// members.
#[derive(Default)]
struct NodeLinks {
    /// Registered connections, oldest first.
    live: Vec<Arc<Connection>>,
    /// The newest start of the node that said Hello.
    incarnation: u64,
    dialler: Option<Dialler>,
    last_error: Option<ConnectError>,
}

struct Dialler {
    address: SocketAddr,
    task: AbortHandle,
}

/// What a registration or removal changed about a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Up(NodeId),
    Down(NodeId),
}

impl Links {
    /// The connection over which frames go to a node: of those that live, one that we dialled if there is one, so that
    /// messages keep to one connection and arrive in order.
    pub(super) fn connection_to(&self, node: NodeId) -> Option<Arc<Connection>> {
        self.pick(node, Connection::is_open)
    }

    /// The same for new calls: not to a node that is leaving.
    pub(super) fn connection_for_calls(&self, node: NodeId) -> Option<Arc<Connection>> {
        self.pick(node, |connection| connection.is_open() && !connection.is_going_away())
    }

    fn pick(&self, node: NodeId, fit: impl Fn(&Connection) -> bool) -> Option<Arc<Connection>> {
        let live = &self.nodes.get(&node)?.live;
        let usable = || live.iter().filter(|connection| fit(connection));
        usable().find(|connection| connection.dialled.is_some()).or_else(|| usable().next()).cloned()
    }

    pub(super) fn by_id(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.connections.get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Connection>> {
        self.connections.values().cloned().collect()
    }

    pub(super) fn is_going_away(&self) -> bool {
        self.going_away
    }

    pub(super) fn announce_going_away(&mut self) -> Vec<Arc<Connection>> {
        self.going_away = true;
        self.all()
    }

    pub(super) fn last_error(&self, node: NodeId) -> Option<ConnectError> {
        self.nodes.get(&node)?.last_error.clone()
    }

    /// Notes how the last attempt to dial a node went; whether that is news.
    pub(super) fn note_dial(&mut self, node: NodeId, error: Option<ConnectError>) -> bool {
        let links = self.nodes.entry(node).or_default();
        let is_news = links.last_error != error;
        links.last_error = error;
        is_news
    }

    /// Takes in a connection whose Hello was exchanged.
    ///
    /// Of two processes with one identity the older is fenced off: it is refused, or if it came first, cut off now.
    pub(super) fn register(&mut self, connection: &Arc<Connection>) -> Result<Change, ConnectError> {
        let mut change = Change::None;
        if let Sender::Node { id, incarnation, .. } = &connection.peer {
            let links = self.nodes.entry(*id).or_default();
            if *incarnation < links.incarnation {
                return Err(ConnectError::Fenced { theirs: *incarnation, newest: links.incarnation });
            }
            if connection.dialled.is_some()
                && connection.dialled != links.dialler.as_ref().map(|dialler| dialler.address)
            {
                return Err(ConnectError::AddressGone);
            }
            if *incarnation > links.incarnation {
                links.incarnation = *incarnation;
                links.live.iter().for_each(|older| older.close());
            }
            if links.live.is_empty() {
                change = Change::Up(*id);
            }
            links.live.push(Arc::clone(connection));
        }
        self.connections.insert(connection.id, Arc::clone(connection));
        Ok(change)
    }

    pub(super) fn remove(&mut self, connection: &Connection) -> Change {
        self.connections.remove(&connection.id);
        let Some(node) = connection.peer.node_id() else { return Change::None };
        let Some(links) = self.nodes.get_mut(&node) else { return Change::None };
        let before = links.live.len();
        links.live.retain(|live| live.id != connection.id);
        if before > 0 && links.live.is_empty() { Change::Down(node) } else { Change::None }
    }

    /// Ends the diallers of nodes that are no longer wanted, or wanted elsewhere, and closes what they had dialled.
    /// Returns the nodes to dial.
    pub(super) fn retarget(&mut self, addresses: &BTreeMap<NodeId, SocketAddr>) -> Vec<(NodeId, SocketAddr)> {
        for (node, links) in &mut self.nodes {
            let wanted = addresses.get(node);
            if links.dialler.as_ref().is_some_and(|dialler| Some(&dialler.address) != wanted) {
                links.dialler.take().into_iter().for_each(|dialler| dialler.task.abort());
                links.last_error = None;
                links.live.iter().filter(|live| live.dialled.is_some()).for_each(|live| live.close());
            }
        }
        let is_new = |node: &NodeId| self.nodes.get(node).is_none_or(|links| links.dialler.is_none());
        addresses.iter().filter(|(node, _)| is_new(node)).map(|(node, address)| (*node, *address)).collect()
    }

    pub(super) fn set_dialler(&mut self, node: NodeId, address: SocketAddr, task: AbortHandle) {
        self.nodes.entry(node).or_default().dialler = Some(Dialler { address, task });
    }
}
