//! The storage nodes as the router sees them.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chord::NextHop;
use client::fleet::Fleet;
use membership::{ClusterId, NodeId, Position};
use runtime::{CallError, Peers};
use stdx::TraceContext;
use tokio::sync::watch;
use wire::node::{Hello, LookupBy, PROTOCOL, Sender};

/// A question under way.
pub type Looking = Pin<Box<dyn Future<Output = Result<Option<NextHop>, CallError>> + Send>>;

/// The storage nodes. [`LiveNodes`] are real ones; tests make up their own.
pub trait Nodes: Send + Sync + 'static {
    /// Whether there is a connection.
    fn is_up(&self, node: NodeId) -> bool;

    /// Asks a node the way to a position, at one of its tokens (none: at the one that knows best), by these pointers.
    fn lookup(
        &self,
        to: NodeId,
        target: Position,
        at: Option<Position>,
        by: LookupBy,
        within: Duration,
        context: TraceContext,
    ) -> Looking;
}

/// The fleet's nodes over framed TCP.
#[derive(Clone)]
pub struct LiveNodes {
    name: String,
    /// None until discovery has told which cluster this is.
    peers: Arc<Mutex<Option<(ClusterId, Peers)>>>,
}

impl LiveNodes {
    /// Nobody yet; `name` is what the nodes will know this process by.
    pub fn new(name: &str) -> LiveNodes {
        LiveNodes { name: name.to_owned(), peers: Arc::default() }
    }

    /// Keeps connections to all storage nodes of the fleet, as it changes, until the directory ends.
    pub async fn follow(self, mut fleet: watch::Receiver<Arc<Fleet>>) {
        loop {
            let known = Arc::clone(&fleet.borrow_and_update());
            if known.is_known() {
                self.connect(&known);
            }
            if fleet.changed().await.is_err() {
                return;
            }
        }
    }

    /// Closes all connections.
    pub fn close(&self) {
        if let Some((_, peers)) = self.lock().take() {
            peers.close();
        }
    }

    fn connect(&self, fleet: &Fleet) {
        let addresses: BTreeMap<NodeId, SocketAddr> = fleet.nodes.iter().map(|(id, node)| (*id, node.peer)).collect();
        let cluster = fleet.view.cluster;
        let mut held = self.lock();
        if held.as_ref().is_none_or(|(known, _)| *known != cluster) {
            if let Some((_, old)) = held.take() {
                old.close();
            }
            let sender = Sender::Client { name: self.name.clone() };
            let (peers, mut events) = Peers::new(Hello { protocol: PROTOCOL, cluster, sender });
            // Answers find their calls by themselves; what else nodes may say is of no interest to a router.
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            *held = Some((cluster, peers));
        }
        if let Some((_, peers)) = held.as_ref() {
            peers.set_addresses(addresses);
        }
    }

    fn peers(&self) -> Option<Peers> {
        self.lock().as_ref().map(|(_, peers)| peers.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<(ClusterId, Peers)>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes for LiveNodes {
    fn is_up(&self, node: NodeId) -> bool {
        self.peers().is_some_and(|peers| peers.is_up(node))
    }

    fn lookup(
        &self,
        to: NodeId,
        target: Position,
        at: Option<Position>,
        by: LookupBy,
        within: Duration,
        context: TraceContext,
    ) -> Looking {
        match self.peers() {
            Some(peers) => Box::pin(peers.lookup(to, target, at, by, within, context)),
            None => Box::pin(std::future::ready(Err(CallError::NotConnected))),
        }
    }
}
