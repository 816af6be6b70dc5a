//! One request as the verifier saw it: what every part of the proof looks at.

use wire::http::{Level, Receipt};

/// What a request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A read.
    Read,
    /// An unconditional write.
    Write,
    /// A write on the condition that the key still holds what was last seen.
    Cas,
    /// A deletion.
    Delete,
    /// An addition to a set or a counter.
    Add,
    /// Taking a lock.
    Acquire,
    /// Holding a lock for longer.
    Renew,
    /// Giving a lock back.
    Release,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Answered: it acted, or observed something.
    Ok,
    /// Surely without effect.
    Failed,
    /// It may or may not act, now or later.
    Unknown,
}

/// A finished request.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it did.
    pub kind: Kind,
    /// At which level.
    pub level: Level,
    /// Its key: in the bucket of its kind, unless it names another one before a slash; of a call on a lock its name.
    pub key: String,
    /// When it was sent, in nanoseconds since the run began.
    pub invoked_ns: u64,
    /// When its end was known, in nanoseconds since the run began.
    pub ended_ns: u64,
    /// How it ended.
    pub end: End,
    /// Answered, but only after its deadline: a failed request to its client all the same.
    pub late: bool,
    /// What went wrong: a problem's code, `deadline` or `unreachable`.
    pub code: Option<String>,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// Its trace, 32 hex digits.
    pub trace_id: String,
    /// Its request id.
    pub request_id: String,
    /// How the answer came about.
    pub receipt: Option<Receipt>,
}

impl Kind {
    /// The name in a history's `f`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Cas => "cas",
            Kind::Delete => "delete",
            Kind::Add => "add",
            Kind::Acquire => "acquire",
            Kind::Renew => "renew",
            Kind::Release => "release",
        }
    }

    /// Whether it can change a record.
    pub const fn is_write(self) -> bool {
        match self {
            Kind::Write | Kind::Cas | Kind::Delete | Kind::Add => true,
            Kind::Read | Kind::Acquire | Kind::Renew | Kind::Release => false,
        }
    }

    /// Whether it is a call on a lock: it may wait for its turn, so its duration says nothing about the fleet's.
    pub const fn is_lock_call(self) -> bool {
        matches!(self, Kind::Acquire | Kind::Renew | Kind::Release)
    }

    /// The bucket that its key is in.
    pub const fn bucket(self) -> &'static str {
        if self.is_lock_call() { "locks" } else { "records" }
    }
}

impl Operation {
    /// How long its client waited, in nanoseconds.
    pub fn latency_ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.invoked_ns)
    }

    /// Whether its client got what it asked for in time.
    pub fn kept(&self) -> bool {
        self.end == End::Ok && !self.late
    }

    /// Whether it was in flight at some moment of [from, to], in nanoseconds since the run began.
    pub fn overlaps(&self, from_ns: u64, to_ns: u64) -> bool {
        self.invoked_ns <= to_ns && self.ended_ns >= from_ns
    }

    /// The replica that coordinated the answer.
    pub fn coordinator(&self) -> Option<&str> {
        self.receipt.as_ref().and_then(|receipt| receipt.replicas.first()).map(String::as_str)
    }
}
