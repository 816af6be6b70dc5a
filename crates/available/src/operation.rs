//! What clients ask of an available key, and what they are told.

use bytes::Bytes;
use membership::{Epoch, NodeId};
use replication::{RegisterKey, RequestId, Value};

use crate::kind::Kind;
use crate::version::{Context, Dot, VersionVector};

/// How much an operation waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// One node.
    Eventual,
    /// Whatever the session has seen, and all that led to it.
    #[default]
    Causal,
}

/// What a session has seen, of all keys: enough for a replica to tell whether it lags behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The session's id, so that its own writes replace each other; 0 for none.
    pub session: u64,
    /// All that led to what it has seen has Lamport counters up to this one.
    pub bound: u64,
    /// What it has seen itself, by actor.
    pub seen: VersionVector,
    /// The newest view's epoch in which it was answered: a home that does not know that view may lack what a later home
    /// took.
    pub epoch: Epoch,
}

impl Past {
    /// The greatest counter that it names.
    pub fn counter_max(&self) -> u64 {
        self.bound.max(self.seen.counter_max())
    }
}

/// What to do with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a value: it replaces what the writer has seen, and stays beside what it has not (type value), or replaces
    /// everything that is earlier (type last-writer).
    Put(Value),
    /// Delete what the writer has seen; everything that is earlier, if it does not say what it has seen.
    Delete,
    /// Add to a counter.
    Add(i64),
    /// Add an element to a set.
    Insert(Bytes),
    /// Remove an element from a set.
    Remove(Bytes),
    /// Write a field of a map.
    Set {
        /// The field.
        name: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// Remove a field from a map.
    Unset(Bytes),
}

/// A write as a coordinator receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: RegisterKey,
    /// The merge type of its bucket.
    pub kind: Kind,
    /// The retry id.
    pub request: RequestId,
    /// When the client's request was first received, milliseconds of the Unix epoch by a gateway's clock.
    /// Orders nothing.
    pub first_sent_ms: u64,
    /// What the writer has seen of this key (`If-Match`, or its session's token); none if it does not say.
    pub context: Option<Context>,
    /// Where it stands among other writes of the key that did not see each other: the same in all attempts, for an
    /// attempt that comes late must not become a later write than the first one was. Whoever asks takes a Lamport time
    /// above all that it knows of; below what the session has seen it counts as just above that ([`Write::rank`]).
    pub order: u64,
    /// Whether it is made though a later write is there already. If not, it is refused ([`Refusal::Behind`]),
    /// and whoever
    /// asks gives it a later order. That is right only while no other attempt of it can be under way.
    pub firm: bool,
    /// What to do.
    pub change: Change,
}

/// The order of writes that did not see each other: by `order`, then by request.
pub type Rank = (u64, RequestId);

impl Write {
    /// Its place among the writes of its key. It depends on nothing but what all attempts have in common, and is above
    /// that of every write that its session has seen.
    pub fn rank(&self, past: &Past) -> Rank {
        let named = self.context.as_ref().map_or(0, Context::counter_max);
        let seen = past.counter_max().max(named);
        (self.order.max(seen.saturating_add(1)), self.request)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, from a message into the core")]
pub enum Action {
    /// The key's value.
    Read {
        /// The merge type of the key's bucket.
        kind: Kind,
    },
    /// A write.
    Write(Write),
    /// What became of an earlier write.
    Outcome {
        /// Its retry id.
        request: RequestId,
    },
}

/// An operation as a coordinator receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: RegisterKey,
    /// How much to wait for.
    pub level: Level,
    /// What the session has seen.
    pub past: Past,
    /// Whether a node that is no home of the key may take an eventual write, and keep it until a home is back.
    pub stand_in: bool,
    /// What is asked.
    pub action: Action,
}

/// What a key shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing: never written, or deleted.
    Nothing,
    /// Values side by side, at least one, in the order of their Lamport times.
    Values(Vec<(Dot, Value)>),
    /// A counter's number.
    Number(i64),
    /// A set's elements, sorted.
    Elements(Vec<Bytes>),
    /// A map's fields with their values, sorted by name.
    Fields(Vec<(Bytes, Bytes)>),
}

/// What an answer adds to its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What has been seen of the key: the next write with it replaces exactly that.
    pub context: Context,
    /// Everything of the key that the answer may rest on.
    pub vector: VersionVector,
    /// All that led to it has Lamport counters up to this one.
    pub deps: u64,
    /// All that it shows or did has its place among other writes up to here: the session's next write goes above it.
    pub time: u64,
    /// The epoch of the view in which it was answered.
    pub epoch: Epoch,
}

/// How a write acted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// There was nothing; now there is.
    Created,
    /// There was something; now there is this too, or instead.
    Replaced,
    /// What was to go is gone.
    Deleted,
    /// A stand-in keeps it until a home of the key is back.
    Hinted,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A read's answer.
    Read {
        /// What is there.
        shown: Shown,
        /// What it adds to the session.
        seen: Seen,
    },
    /// A write took its course, once.
    Done {
        /// How it acted.
        effect: Effect,
        /// The new number of a counter.
        number: Option<i64>,
        /// What it adds to the session.
        seen: Seen,
    },
    /// The answer to [`Action::Outcome`]: whether the key contains the request; `Some` with how it acted, and with what
    /// that adds to the session: whoever was told that a write is done finds it from then on.
    Remembered(Option<(Effect, Seen)>),
    /// Surely not done by this attempt.
    Refused(Refusal),
    /// A write that may or may not take effect, now or later.
    Unknown,
}

/// Why an operation was surely not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This node is no home of the key in its view: ask one that is.
    NotReplica(Epoch),
    /// The deadline passed before enough homes answered, and nothing was stamped.
    NoQuorum,
    /// Too many operations, or hints, are waiting here.
    Overloaded,
    /// The disk cannot take more.
    DiskFull,
    /// The node is leaving; ask another.
    Draining,
    /// The node lost its data and is not yet back at what the others hold; ask another.
    Refilling,
    /// The request is from before the key's memory.
    TooOld,
    /// The key holds as many values side by side as it may: read it, and write with the `ETag` that covers them all.
    TooManySiblings,
    /// A set or a map would grow past its bounds.
    TooLarge,
    /// The change does not fit the bucket's merge type.
    OtherKind(Kind),
    /// A write that this one would have to take the place of is later, with this order: ask again above it, unless some
    /// attempt may have been made elsewhere; then ask for it as it is ([`Write::firm`]).
    Behind(u64),
}

/// How an answer came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The view's epoch.
    pub epoch: Epoch,
    /// The homes that are known to hold what the answer rests on, coordinator first.
    pub voters: Vec<NodeId>,
    /// Round trips to other homes that were waited for.
    pub rounds: u32,
}
