mod connection;
mod dial;
mod handshake;
mod links;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use available::{Listing, ListingPage};
use chord::NextHop;
use membership::{Epoch, NodeId, Position};
use replication::{Operation, Outcome, Receipt, Refusal, Scan, ScanOutcome};
use stdx::TraceContext;
use tokio::sync::{mpsc, oneshot, watch};
use wire::http::Durability;
use wire::node::{AvailableCall, Finding, Frame, Hello, Inquiry, LookupBy, OperationCall, Payload, ScanCall, Sender};

use connection::{Connection, Enqueued, Waiting};
pub use handshake::ConnectError;
use links::Links;

/// Names one connection while it lives; never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// What [`Peers`] tells its owner.
#[allow(clippy::large_enum_variant, reason = "nearly all are frames; a box each would cost an allocation a message")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A frame came in that is not an answer to a call of ours: a replica's or ring member's message, or a call to
    /// be answered by [`Peers::reply`].
    Frame {
        /// Who sent it, as its Hello said.
        from: Sender,
        /// Over which connection; where the reply goes.
        via: ConnectionId,
        /// The frame.
        frame: Frame,
    },
    /// The first connection with a node was established. Up and Down of a node alternate, beginning with Up.
    Up(NodeId),
    /// The last connection with a node broke.
    Down(NodeId),
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection to the node: surely not sent. Ask another.
    #[error("there is no connection to the node")]
    NotConnected,
    /// The connection broke while the call was waiting: it may have acted or not.
    #[error("the connection broke before the answer came")]
    Reset,
    /// The time is up: it may have acted or not.
    #[error("no answer came within the deadline")]
    Deadline,
    /// The node said that it is leaving: surely not sent. Ask another.
    #[error("the node is leaving")]
    GoingAway,
    /// Too much waits for this node already, or the message is too large: surely not sent.
    #[error("too many calls wait for the node")]
    QueueFull,
}

/// The bounds of each connection and of all together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frames that wait to be written to one peer; more are refused. 4096: a peer that lags further is as good as gone.
    pub queue_frames_max: usize,
    /// Bytes that wait to be written to one peer; a frame of 4 KiB or more that does not fit is refused. 32 MiB: 32 of
    /// the largest values.
    pub queue_bytes_max: usize,
    /// Calls on one connection that wait for their answer (the credits); more are refused. 1024: what a replica has
    /// in hand at most from one gateway.
    pub calls_max: usize,
    /// Frames that wait for the owner; past it reading stops, and TCP slows the senders down.
    pub events_max: usize,
    /// Connections accepted at a time; more are closed at once.
    pub accepted_max: usize,
    /// How long a TCP connection may take to establish.
    pub connect_timeout: Duration,
    /// How long the other end may take to say Hello.
    pub hello_timeout: Duration,
    /// How often each end shows that it lives.
    pub ping_interval: Duration,
    /// How long a peer may be silent; four pings.
    pub silence_max: Duration,
    /// The longest pause between two attempts to connect; the actual ones are drawn evenly below a doubling bound.
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queue_frames_max: 4096,
            queue_bytes_max: 32 << 20,
            calls_max: 1024,
            events_max: 8192,
            accepted_max: 1024,
            connect_timeout: Duration::from_millis(500),
            hello_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_millis(500),
            silence_max: Duration::from_secs(2),
            backoff_max: Duration::from_millis(250),
        }
    }
}

/// The connections of one process. Copies share them.
///
/// Everything that starts connections (`set_addresses`, `listen`) is to be called within a tokio runtime. Connections
/// live until [`Peers::close`], also when every copy is gone.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

/// What the copies and the connections' tasks share.
struct Shared {
    hello: Hello,
    limits: Limits,
    events: mpsc::Sender<PeerEvent>,
    links: Mutex<Links>,
    next_connection: AtomicU64,
    next_call: AtomicU64,
    closed: watch::Sender<bool>,
}

impl Peers {
    /// Connections of the process that `hello` introduces, with the default limits. The events must be received
    /// steadily: when [`Limits::events_max`] wait, nothing more is read from any peer.
    pub fn new(hello: Hello) -> (Peers, mpsc::Receiver<PeerEvent>) {
        Peers::with_limits(hello, Limits::default())
    }

    /// As [`Peers::new`], with other limits.
    pub fn with_limits(hello: Hello, limits: Limits) -> (Peers, mpsc::Receiver<PeerEvent>) {
        let (events, receiver) = mpsc::channel(limits.events_max);
        let shared = Shared {
            hello,
            limits,
            events,
            links: Mutex::new(Links::default()),
            next_connection: AtomicU64::new(1),
            next_call: AtomicU64::new(1),
            closed: watch::Sender::new(false),
        };
        (Peers { shared: Arc::new(shared) }, receiver)
    }

    /// Dials these nodes, and no others from now on, and keeps a connection to each (not to itself). A node whose
    /// address changed is dialled anew; its old connection is closed.
    pub fn set_addresses(&self, addresses: BTreeMap<NodeId, SocketAddr>) {
        dial::set_addresses(&self.shared, addresses);
    }

    /// Accepts connections on this listener until [`Peers::close`].
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking or registered; nothing is listening then.
    pub fn listen(&self, listener: std::net::TcpListener) -> std::io::Result<()> {
        dial::listen(&self.shared, listener)
    }

    /// Puts a frame in the queue to a node. False: not connected, queue full, or frame too large; surely not sent. True
    /// is no promise that it arrives. Never waits.
    pub fn send(&self, to: NodeId, frame: Frame) -> bool {
        let connection = self.shared.links().connection_to(to);
        connection.is_some_and(|connection| connection.enqueue(&frame) == Enqueued::Queued)
    }

    /// Puts a frame in the queue of the connection over which something came in. False as for [`Peers::send`].
    ///
    /// An answer that is too large for the queue is replaced by a short one that is as true: a value that was read by
    /// [`Refusal::Overloaded`], the end of a write by [`Outcome::Unknown`]. Silence would cost the caller its deadline.
    pub fn reply(&self, via: ConnectionId, frame: Frame) -> bool {
        let Some(connection) = self.shared.links().by_id(via) else { return false };
        match connection.enqueue(&frame) {
            Enqueued::Queued => true,
            Enqueued::Closed => false,
            Enqueued::Full => match shorter(frame) {
                Some(frame) => connection.enqueue(&frame) == Enqueued::Queued,
                None => false,
            },
        }
    }

    /// Whether there is a connection with the node.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.shared.links().connection_to(node).is_some()
    }

    /// Whether the node is connected and has said that it is leaving: calls to it are refused.
    pub fn is_going_away(&self, node: NodeId) -> bool {
        let links = self.shared.links();
        links.connection_to(node).is_some() && links.connection_for_calls(node).is_none()
    }

    /// Why the node that is being dialled cannot be reached; none while it can.
    pub fn last_error(&self, node: NodeId) -> Option<ConnectError> {
        self.shared.links().last_error(node)
    }

    /// Has a node coordinate an operation. Nothing happens before the future is first polled; dropping it forgets the
    /// call, whose fate is then unknown.
    pub fn call(
        &self,
        to: NodeId,
        operation: Operation,
        deadline: Duration,
        context: TraceContext,
    ) -> impl Future<Output = Result<(Outcome, Receipt), CallError>> + Send + 'static {
        let deadline_ms = in_ms(deadline);
        self.ask(to, (deadline, context), Waiting::Operation, move |call| {
            Payload::Operation(OperationCall { call, deadline_ms, operation })
        })
    }

    /// Has a node coordinate an operation on a key of an available bucket. As for [`Peers::call`].
    pub fn call_available(
        &self,
        to: NodeId,
        (durability, operation): (Durability, available::Operation),
        deadline: Duration,
        context: TraceContext,
    ) -> impl Future<Output = Result<(available::Outcome, available::Receipt), CallError>> + Send + 'static {
        let deadline_ms = in_ms(deadline);
        self.ask(to, (deadline, context), Waiting::Available, move |call| {
            Payload::AvailableOperation(AvailableCall { call, deadline_ms, durability, operation })
        })
    }

    /// Asks a node for a page of what a bucket's registers hold. As for [`Peers::call`].
    pub fn scan(
        &self,
        to: NodeId,
        scan: Scan,
        deadline: Duration,
        context: TraceContext,
    ) -> impl Future<Output = Result<ScanOutcome, CallError>> + Send + 'static {
        let deadline_ms = in_ms(deadline);
        self.ask(to, (deadline, context), Waiting::Scan, move |call| {
            Payload::Scan(ScanCall { call, deadline_ms, scan })
        })
    }

    /// Asks a node which keys of an available bucket it knows of. As for [`Peers::call`].
    pub fn list(
        &self,
        to: NodeId,
        (durability, listing): (Durability, Listing),
        deadline: Duration,
        context: TraceContext,
    ) -> impl Future<Output = Result<Result<ListingPage, Epoch>, CallError>> + Send + 'static {
        self.ask(to, (deadline, context), Waiting::List, move |call| Payload::List { call, durability, listing })
    }

    /// Asks a node what it holds. As for [`Peers::call`].
    pub fn inquire(
        &self,
        to: NodeId,
        inquiry: Inquiry,
        deadline: Duration,
        context: TraceContext,
    ) -> impl Future<Output = Result<Finding, CallError>> + Send + 'static {
        self.ask(to, (deadline, context), Waiting::Inquiry, move |call| Payload::Inquiry { call, inquiry })
    }

    /// Asks a node the way to a position, at one of its tokens (none: at the one that knows best). As for
    /// [`Peers::call`].
    pub fn lookup(
        &self,
        to: NodeId,
        target: Position,
        at: Option<Position>,
        by: LookupBy,
        deadline: Duration,
        context: TraceContext,
    ) -> impl Future<Output = Result<Option<NextHop>, CallError>> + Send + 'static {
        self.ask(to, (deadline, context), Waiting::Lookup, move |call| Payload::Lookup { call, target, at, by })
    }

    /// Makes a call, and waits for what answers it. As for [`Peers::call`].
    fn ask<T: Send + 'static>(
        &self,
        to: NodeId,
        (deadline, context): (Duration, TraceContext),
        waiting: fn(oneshot::Sender<T>) -> Waiting,
        payload: impl FnOnce(u64) -> Payload + Send + 'static,
    ) -> impl Future<Output = Result<T, CallError>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move {
            let (answer, received) = oneshot::channel();
            let call = shared.next_call();
            // The frame goes before the answer is waited for: a large value is not kept that long.
            let _open = shared.start_call(to, call, waiting(answer), &Frame { context, payload: payload(call) })?;
            receive(received, deadline).await
        }
    }

    /// Tells everyone, now and at every later Hello, to start no new call here. Calls that have come in are still
    /// answered.
    pub fn go_away(&self) {
        for connection in self.shared.links().announce_going_away() {
            connection.enqueue(&Frame { context: TraceContext::NONE, payload: Payload::GoAway });
        }
    }

    /// Waits until everything queued has been handed to the operating system, or the time is up; whether it was in
    /// time.
    pub async fn flush(&self, within: Duration) -> bool {
        let connections = self.shared.links().all();
        let flushed = async {
            for connection in connections {
                connection.flushed().await;
            }
        };
        tokio::time::timeout(within, flushed).await.is_ok()
    }

    /// Closes every connection, and dials and accepts no more. What is still queued is lost: see [`Peers::flush`].
    pub fn close(&self) {
        self.shared.closed.send_replace(true);
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Links> {
        lock(&self.links)
    }

    fn next_call(&self) -> u64 {
        self.next_call.fetch_add(1, Ordering::Relaxed)
    }

    fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// Resolves when the whole is closed.
    async fn wait_closed(&self) {
        // An error means that the sender is gone, and it is part of `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    fn start_call(&self, to: NodeId, call: u64, waiting: Waiting, frame: &Frame) -> Result<OpenCall, CallError> {
        let connection = {
            let links = self.links();
            match links.connection_for_calls(to) {
                Some(connection) => connection,
                None if links.connection_to(to).is_some() => return Err(CallError::GoingAway),
                None => return Err(CallError::NotConnected),
            }
        };
        connection.open_call(call, waiting)?;
        let open = OpenCall { call, connection };
        match open.connection.enqueue(frame) {
            Enqueued::Queued => Ok(open),
            Enqueued::Full => Err(CallError::QueueFull),
            Enqueued::Closed => Err(CallError::NotConnected),
        }
    }
}

/// A call in its connection's table; taken out, and its credit given back, when it is no longer waited for.
struct OpenCall {
    call: u64,
    connection: Arc<Connection>,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.connection.forget_call(self.call);
    }
}

/// A short frame in the place of an answer that did not fit.
fn shorter(frame: Frame) -> Option<Frame> {
    let payload = match frame.payload {
        Payload::OperationReply { call, outcome, receipt } => {
            Payload::OperationReply { call, outcome: shorter_outcome(outcome)?, receipt }
        }
        Payload::AvailableReply { call, outcome: available::Outcome::Read { .. }, receipt } => {
            let outcome = available::Outcome::Refused(available::Refusal::Overloaded);
            Payload::AvailableReply { call, outcome, receipt }
        }
        Payload::ScanReply { call, outcome: ScanOutcome::Page(_) } => {
            Payload::ScanReply { call, outcome: ScanOutcome::Refused(Refusal::Overloaded) }
        }
        // Whatever else is said is short already.
        _ => return None,
    };
    Some(Frame { context: frame.context, payload })
}

fn shorter_outcome(outcome: Outcome) -> Option<Outcome> {
    match outcome {
        Outcome::Value(Some(_)) => Some(Outcome::Refused(Refusal::Overloaded)),
        Outcome::Done { value: Some(_), .. } => Some(Outcome::Unknown),
        Outcome::Value(None)
        | Outcome::Done { value: None, .. }
        | Outcome::Remembered(_)
        | Outcome::Refused(_)
        | Outcome::Unknown => None,
    }
}

/// A deadline as a call names it.
fn in_ms(deadline: Duration) -> u32 {
    u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX)
}

async fn receive<T>(received: oneshot::Receiver<T>, deadline: Duration) -> Result<T, CallError> {
    match tokio::time::timeout(deadline, received).await {
        Ok(Ok(answer)) => Ok(answer),
        // The table of open calls was dropped: the connection broke.
        Ok(Err(_)) => Err(CallError::Reset),
        Err(_) => Err(CallError::Deadline),
    }
}

/// A lock whose holder panicked is taken over: no critical section here leaves its data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
