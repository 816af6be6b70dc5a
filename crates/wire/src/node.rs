//! What travels between nodes, and from gateways and routers to nodes.

use available::{Known, Listing, ListingPage};
use chord::NextHop;
use membership::{ClusterId, Epoch, NodeId, Position};
use replication::{Ballot, Operation, Outcome, Receipt, RegisterKey, RequestId, Scan, ScanOutcome, Version};
use stdx::TraceContext;

use crate::http::Durability;

/// The protocol's number, told in every [`Hello`]. Two ends with different numbers do not talk. 2 brought sessions:
/// confirmations of arcs, operations with a time, receipts with a time. 3 brought changes of membership: epochs of
/// arcs, copying, views among nodes. 4 brought tokens that move when a member leaves, and lookups by neighbours alone.
/// 5 brought available buckets. 6 brought scans and listings, fingerprints of copied arcs, and the collection of
/// tombstones. 7 brought inquiries. 8 brought writes whose time is later than the ballot they are accepted at (the same
/// bytes, but who speaks 7 would tell sessions the ballot), what a session has seen with the answer to what became of
/// its write, and fingerprints of what is copied page by page.
pub const PROTOCOL: u16 = 8;

/// The first frame in both directions of every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Normally [`PROTOCOL`].
    pub protocol: u16,
    /// The sender's cluster; another cluster's connection is closed.
    pub cluster: ClusterId,
    /// Who speaks.
    pub sender: Sender,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A storage node.
    Node {
        /// Its identity.
        id: NodeId,
        /// The number of its start; of two processes with one identity the older is fenced off.
        incarnation: u64,
        /// Its name, for people.
        name: String,
    },
    /// A gateway, a router or a tool: asks, and is not addressed by itself.
    Client {
        /// Its name, for people.
        name: String,
    },
}

impl Sender {
    /// The node's identity, if it is a node.
    pub fn node_id(&self) -> Option<NodeId> {
        match self {
            Sender::Node { id, .. } => Some(*id),
            Sender::Client { .. } => None,
        }
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        match self {
            Sender::Node { name, .. } | Sender::Client { name } => name,
        }
    }
}

/// A client's operation on its way to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationCall {
    /// The asker's number; the answer returns it.
    pub call: u64,
    /// How long the asker still waits, in milliseconds from receipt. A budget and not a point in time, since two
    /// machines' clocks differ.
    pub deadline_ms: u32,
    /// What to do.
    pub operation: Operation,
}

/// A client's operation on a key of an available bucket, on its way to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableCall {
    /// As [`OperationCall::call`].
    pub call: u64,
    /// As [`OperationCall::deadline_ms`].
    pub deadline_ms: u32,
    /// Where the bucket's keys are kept: they are two sets of keys, with a replica of its own for each.
    pub durability: Durability,
    /// What to do.
    pub operation: available::Operation,
}

/// A question about a bucket's registers on a stretch of the ring, on its way to a replica in charge of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanCall {
    /// As [`OperationCall::call`].
    pub call: u64,
    /// As [`OperationCall::deadline_ms`].
    pub deadline_ms: u32,
    /// What is wanted.
    pub scan: Scan,
}

/// A question about what one node holds, which only that node can answer: for explanations, and to find a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// What does it hold of this register?
    Register(RegisterKey),
    /// What does it know of this key of an available bucket?
    Available(Durability, RegisterKey),
    /// Which keys did it last see a write with this request of?
    Request(RequestId),
}

/// What a node holds of a register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldRegister {
    /// The epoch of its view.
    pub epoch: Epoch,
    /// Whether it is a replica of the register in that view.
    pub replica: bool,
    /// The ballot at which it accepted what it holds; zero for nothing.
    pub ballot: Ballot,
    /// The version of the last write in it; zero for none.
    pub version: Version,
    /// How many bytes the value has; none when there is no value.
    pub size: Option<u64>,
}

/// The answer to an [`Inquiry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// To [`Inquiry::Register`].
    Register(HeldRegister),
    /// To [`Inquiry::Available`].
    Available(Known),
    /// To [`Inquiry::Request`]: the keys. A request acts once for each key, and may have been made of several.
    Request(Vec<RegisterKey>),
}

/// What a node keeps in its log: records of the replicas whose keys are kept on disk, in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// Of the registers of ordered buckets.
    Register(replication::Record),
    /// Of available buckets.
    Available(available::Record),
}

/// Which pointers a lookup goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LookupBy {
    /// Fingers and successor list: about half of log2 N steps.
    #[default]
    Fingers,
    /// The successor and the predecessor alone: about a quarter of N steps.
    Neighbours,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Who speaks; the first frame of each direction, and no later one.
    Hello(Hello),
    /// A replica to a replica.
    Replica(replication::Message),
    /// A ring member to a ring member.
    Chord(chord::Envelope),
    /// An operation to coordinate.
    Operation(OperationCall),
    /// The answer to [`Payload::Operation`].
    OperationReply {
        /// The call it answers.
        call: u64,
        /// How the operation ended.
        outcome: Outcome,
        /// How that came about.
        receipt: Receipt,
    },
    /// Which way to this position?
    Lookup {
        /// The asker's number; the answer returns it.
        call: u64,
        /// The position.
        target: Position,
        /// Which token of the asked node is meant; none for the one that knows best.
        at: Option<Position>,
        /// By which of its pointers.
        by: LookupBy,
    },
    /// The answer to [`Payload::Lookup`].
    LookupReply {
        /// The call it answers.
        call: u64,
        /// The way; none when the node is no member of the ring (yet).
        hop: Option<NextHop>,
    },
    /// A replica of available keys to another one.
    Available {
        /// Which of a node's two replicas speaks, and to which.
        durability: Durability,
        /// What it says.
        message: available::Message,
    },
    /// An operation on a key of an available bucket, to coordinate.
    AvailableOperation(AvailableCall),
    /// The answer to [`Payload::AvailableOperation`].
    AvailableReply {
        /// The call it answers.
        call: u64,
        /// How the operation ended.
        outcome: available::Outcome,
        /// How that came about.
        receipt: available::Receipt,
    },
    /// What do a bucket's registers on a stretch of the ring hold?
    Scan(ScanCall),
    /// The answer to [`Payload::Scan`].
    ScanReply {
        /// The call it answers.
        call: u64,
        /// A page, or why there is none.
        outcome: ScanOutcome,
    },
    /// Which keys of an available bucket does a home know of?
    List {
        /// The asker's number; the answer returns it.
        call: u64,
        /// Where the bucket's keys are kept.
        durability: Durability,
        /// What is wanted.
        listing: Listing,
    },
    /// The answer to [`Payload::List`].
    ListReply {
        /// The call it answers.
        call: u64,
        /// A page; or the view's epoch at a node that is no home of the arc in the epoch that was named.
        listed: Result<ListingPage, Epoch>,
    },
    /// What does the node hold?
    Inquiry {
        /// The asker's number; the answer returns it.
        call: u64,
        /// What about.
        inquiry: Inquiry,
    },
    /// The answer to [`Payload::Inquiry`].
    InquiryReply {
        /// The call it answers.
        call: u64,
        /// What the node holds.
        finding: Finding,
    },
    /// The sender is leaving: start no new call with it. It still answers those it has.
    GoAway,
    /// Nothing; shows that the sender lives. Not answered, since both ends send their own.
    Ping,
}

/// One message with the trace it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The trace.
    pub context: TraceContext,
    /// The message.
    pub payload: Payload,
}
