//! The storage nodes as the gateway sees them: something to call, and whether there is a connection.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use available::{Listing, ListingPage};
use client::fleet::Fleet;
use dispatch::Answer;
use membership::{ClusterId, Epoch, NodeId};
use replication::{Operation, Outcome, Scan, ScanOutcome};
use runtime::{CallError, Peers};
use stdx::TraceContext;
use tokio::sync::watch;
use wire::http::Durability;
use wire::node::{Finding, Hello, Inquiry, PROTOCOL, Sender};

/// What a call comes to.
pub type CallResult<O = Outcome> = Result<(O, <O as Answer>::Receipt), CallError>;
/// A call under way.
pub type Calling<O = Outcome> = Pin<Box<dyn Future<Output = CallResult<O>> + Send>>;

/// A question to one node that no other may answer in its stead.
pub type Questioning<T> = Pin<Box<dyn Future<Output = Result<T, CallError>> + Send>>;

/// The storage nodes. [`LiveNodes`] are real ones; tests make up their own.
pub trait Nodes: Send + Sync + 'static {
    /// Whether a call would find a connection and a node that is not about to leave.
    fn is_up(&self, node: NodeId) -> bool;

    /// Has a node coordinate an operation. Ends by the deadline, and at once when the connection breaks.
    fn call(&self, to: NodeId, operation: Operation, deadline: Duration, context: TraceContext) -> Calling;

    /// The same for a key of an available bucket.
    fn call_available(
        &self,
        to: NodeId,
        operation: (Durability, available::Operation),
        deadline: Duration,
        context: TraceContext,
    ) -> Calling<available::Outcome>;

    /// Asks a node for a page of what a bucket's registers hold.
    fn scan(&self, to: NodeId, scan: Scan, deadline: Duration, context: TraceContext) -> Questioning<ScanOutcome>;

    /// Asks a node which keys of an available bucket it knows of.
    fn list(
        &self,
        to: NodeId,
        listing: (Durability, Listing),
        deadline: Duration,
        context: TraceContext,
    ) -> Questioning<Result<ListingPage, Epoch>>;

    /// Asks a node what it holds.
    fn inquire(&self, to: NodeId, inquiry: Inquiry, deadline: Duration, context: TraceContext) -> Questioning<Finding>;
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
        let mut held = self.lock();
        let of_this_cluster = held.as_ref().is_some_and(|(cluster, _)| *cluster == fleet.view.cluster);
        if !of_this_cluster {
            if let Some((_, old)) = held.take() {
                old.close();
            }
            let sender = Sender::Client { name: self.name.clone() };
            let (peers, mut events) = Peers::new(Hello { protocol: PROTOCOL, cluster: fleet.view.cluster, sender });
            // Answers find their calls by themselves; what else nodes may say is of no interest to a gateway.
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            *held = Some((fleet.view.cluster, peers));
        }
        if let Some((_, peers)) = held.as_ref() {
            peers.set_addresses(addresses);
        }
    }

    fn peers(&self) -> Option<Peers> {
        self.lock().as_ref().map(|(_, peers)| peers.clone())
    }

    /// Asks over the connections, if there are any yet.
    fn asked<T: Send + 'static>(&self, ask: impl FnOnce(Peers) -> Questioning<T>) -> Questioning<T> {
        match self.peers() {
            Some(peers) => ask(peers),
            None => Box::pin(std::future::ready(Err(CallError::NotConnected))),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(ClusterId, Peers)>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes for LiveNodes {
    fn is_up(&self, node: NodeId) -> bool {
        self.peers().is_some_and(|peers| peers.is_up(node) && !peers.is_going_away(node))
    }

    fn call(&self, to: NodeId, operation: Operation, deadline: Duration, context: TraceContext) -> Calling {
        self.asked(|peers| Box::pin(peers.call(to, operation, deadline, context)))
    }

    fn call_available(
        &self,
        to: NodeId,
        operation: (Durability, available::Operation),
        deadline: Duration,
        context: TraceContext,
    ) -> Calling<available::Outcome> {
        self.asked(|peers| Box::pin(peers.call_available(to, operation, deadline, context)))
    }

    fn scan(&self, to: NodeId, scan: Scan, deadline: Duration, context: TraceContext) -> Questioning<ScanOutcome> {
        self.asked(|peers| Box::pin(peers.scan(to, scan, deadline, context)))
    }

    fn list(
        &self,
        to: NodeId,
        listing: (Durability, Listing),
        deadline: Duration,
        context: TraceContext,
    ) -> Questioning<Result<ListingPage, Epoch>> {
        self.asked(|peers| Box::pin(peers.list(to, listing, deadline, context)))
    }

    fn inquire(&self, to: NodeId, inquiry: Inquiry, deadline: Duration, context: TraceContext) -> Questioning<Finding> {
        self.asked(|peers| Box::pin(peers.inquire(to, inquiry, deadline, context)))
    }
}
