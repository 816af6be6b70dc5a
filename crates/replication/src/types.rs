//! The nouns of a register: keys, ballots, versions, values, requests and their outcomes.

use std::fmt;

use bytes::Bytes;
use membership::{BucketId, Epoch, NodeId, Position};

/// Which register: a key of a bucket, at its place on the ring.
///
/// Ordered by position first, so that a replica's data lies in ring order and an arc is one scan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterKey {
    /// The key's identifier on the ring.
    pub position: Position,
    /// The bucket.
    pub bucket: BucketId,
    /// The key within the bucket: 1 to 1,024 bytes.
    pub key: Bytes,
}

impl RegisterKey {
    /// Before every register of this position.
    pub(crate) fn first_at(position: u64) -> RegisterKey {
        RegisterKey { position: Position(position), bucket: BucketId(0), key: Bytes::new() }
    }
}

/// A Lamport timestamp that orders all attempts on all registers: counter first, then the coordinator's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// The Lamport counter; 0 is "never".
    pub counter: u64,
    /// The coordinator whose ballot it is.
    pub node: NodeId,
}

/// Names one applied write: the time of the round that applied it and its place in that round.
///
/// That time is the round's ballot, or a later one (see [`crate::State::time`]). A round that is finished by another
/// coordinator keeps the version, so a version is a stable `ETag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The time of the round that applied the write, on the scale of ballots.
    pub ballot: Ballot,
    /// Which of the round's writes, from 0.
    pub index: u32,
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The bytes, exactly as they were put.
    pub body: Bytes,
    /// The `Content-Type` they came with; empty for none.
    pub content_type: Bytes,
}

/// The id that makes a retry harmless, 128 bits (a hash of what the client sent, or random).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// What a write demands of the value it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Nothing.
    Always,
    /// That the register holds exactly this version (`If-Match: "<etag>"`).
    Matches(Version),
    /// That it holds some value (`If-Match: *`).
    Exists,
    /// That it holds none (`If-None-Match: *`).
    Absent,
}

/// A function of a register's old value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Replace the value.
    Put(Value),
    /// Remove the value.
    Delete,
    /// Add to a decimal integer; an absent value counts as 0.
    Add(i64),
    /// Append bytes; an absent value counts as empty.
    Append(Bytes),
    /// Leave the value as it is and let it live for the write's [`Terms::ttl_ms`] from now, or for ever. Needs a value.
    Touch,
    /// A call on the lock that the register holds.
    Lock(LockCall),
}

/// What a client asks of a lock. Times are durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LockCall {
    /// Take the lock, or keep it if this owner has it, or wait for it.
    Acquire {
        /// Who asks. An owner is told apart from others by this name alone.
        owner: Bytes,
        /// How long it is held without being renewed.
        ttl_ms: u64,
        /// How long to stay in the queue; 0 not to enter it, and to leave it.
        wait_ms: u64,
    },
    /// Hold it for so long from now.
    Renew {
        /// The grant's token.
        fence: u64,
        /// How long.
        ttl_ms: u64,
    },
    /// Give it back.
    Release {
        /// The grant's token.
        fence: u64,
    },
}

/// What a write says beside its condition and its change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The fencing token of the lock under which it is made: it acts only if the register has seen none that is
    /// greater.
    pub fence: Option<u64>,
    /// How long the value lives, in milliseconds from when the request was first received; none for ever.
    pub ttl_ms: Option<u64>,
}

/// A write as a coordinator receives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The register.
    pub key: RegisterKey,
    /// The retry id.
    pub request: RequestId,
    /// When the client's request was first received, in milliseconds of the Unix epoch, as that gateway's clock had it.
    /// Used only to *refuse* retries that are too old to be told apart, never to order anything.
    pub first_sent_ms: u64,
    /// Whether an earlier attempt may have reached some coordinator. A first attempt cannot have acted yet, so it is
    /// never refused as too old.
    pub retry: bool,
    /// What the old value must be.
    pub condition: Condition,
    /// What to do with it.
    pub change: Change,
    /// What else it says.
    pub terms: Terms,
}

/// An operation as a coordinator receives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A strict read.
    Read {
        /// The register.
        key: RegisterKey,
    },
    /// A write.
    Write(Write),
    /// What became of an earlier write: answered from the register's request memory by a strict read.
    Outcome {
        /// The register that the write named.
        key: RegisterKey,
        /// The write's id.
        request: RequestId,
    },
    /// An operation of a session that has a time; never one within another.
    InSession {
        /// The time, on the Lamport scale of ballots: the operation happens after it.
        since: Ballot,
        /// Whether a read may be answered at level sequential.
        sequential: bool,
        /// The operation.
        operation: Box<Operation>,
    },
}

impl Operation {
    /// The operation as a session asks it: after `since`, and at level sequential if it is a read that may be. One that
    /// has seen nothing asks as anyone does.
    pub fn in_session(self, since: Ballot, sequential: bool) -> Operation {
        if since == Ballot::ZERO && !sequential {
            return self;
        }
        Operation::InSession { since, sequential, operation: Box::new(self) }
    }

    /// The register that the operation is about.
    pub fn key(&self) -> &RegisterKey {
        match self {
            Operation::Read { key } | Operation::Outcome { key, .. } => key,
            Operation::Write(write) => &write.key,
            Operation::InSession { operation, .. } => operation.key(),
        }
    }

    /// The write in it, if it is one.
    pub fn write(&self) -> Option<&Write> {
        match self {
            Operation::Write(write) => Some(write),
            Operation::InSession { operation, .. } => operation.write(),
            Operation::Read { .. } | Operation::Outcome { .. } => None,
        }
    }

    /// The write in it, to be changed, if it is one.
    pub fn write_mut(&mut self) -> Option<&mut Write> {
        match self {
            Operation::Write(write) => Some(write),
            Operation::InSession { operation, .. } => operation.write_mut(),
            Operation::Read { .. } | Operation::Outcome { .. } => None,
        }
    }
}

/// How a write acted. Remembered with its request id, so that a repeat gets the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// There was no value; now there is.
    Created(Version),
    /// There was a value; now there is this one.
    Replaced(Version),
    /// There is no value now (whether or not there was one).
    Deleted(Version),
    /// The condition did not hold; nothing changed. The version that was there instead, if any.
    ConditionFailed(Option<Version>),
    /// The change does not fit the value (adding to what is no integer, or past the value's bounds); nothing changed.
    Unfit,
    /// The register has seen this greater fencing token; nothing changed.
    FencedOff(u64),
    /// The lock is the caller's.
    Granted {
        /// The fencing token: greater than that of any grant before, for ever.
        fence: u64,
        /// When it ends unless renewed, milliseconds of the Unix epoch by the clock of the replica that coordinated.
        ends_ms: u64,
    },
    /// Another owner has the lock.
    Held {
        /// The caller's place in the queue, from 1, or the one it would have had.
        place: u32,
        /// When the holder's lease ends, as above.
        ends_ms: u64,
    },
    /// The lock was the caller's, and is not any more.
    Released,
    /// The lock is not held under this token (any more); nothing changed.
    NotHeld,
}

/// The end of an operation, as the coordinator answers it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A read's answer: the value and its version, or none.
    Value(Option<(Version, Value)>),
    /// A write took its course, once. `value` is the new value for changes that compute one (add, append).
    Done {
        /// How it acted.
        effect: Effect,
        /// The resulting value of an add or append.
        value: Option<Value>,
    },
    /// The answer to [`Operation::Outcome`]: what the request memory holds; `None` is "not in the memory".
    Remembered(Option<Effect>),
    /// Surely not done by this attempt; nothing happened and nothing will.
    Refused(Refusal),
    /// A write that may or may not take effect, now or later.
    Unknown,
}

/// Why an operation was surely not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// This node is no replica of the key in its view: ask one that is. Its epoch says whose view is newer.
    NotReplica(Epoch),
    /// The deadline passed before a majority answered, and nothing had been proposed.
    NoQuorum,
    /// Too many operations are waiting here.
    Overloaded,
    /// The disk cannot take more.
    DiskFull,
    /// The node is leaving; ask another.
    Draining,
    /// The request is from before the register's memory. This attempt did nothing, but whether an earlier one of the
    /// same id acted cannot be told any more: with an id that may have been sent before, the write's outcome is
    /// unknown.
    TooOld,
}

/// What a coordinator tells about how an answer came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The view's epoch in which the answer was agreed.
    pub epoch: Epoch,
    /// The replicas that voted for it, coordinator first.
    pub voters: Vec<NodeId>,
    /// Rounds it took; 1 on the hot path, 0 for a read that was answered from what is confirmed.
    pub rounds: u32,
    /// When it happened, on the Lamport scale of ballots; the session's next operation happens after it. 0 where
    /// nothing was done or seen.
    pub time: Ballot,
}

impl Ballot {
    /// Before any ballot.
    pub const ZERO: Ballot = Ballot { counter: 0, node: NodeId(0) };

    /// After every ballot with this counter: the time of a read that rests on a confirmation up to it.
    pub const fn end_of(counter: u64) -> Ballot {
        Ballot { counter, node: NodeId(u64::MAX) }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}", self.counter, self.node.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ballot, self.index)
    }
}
