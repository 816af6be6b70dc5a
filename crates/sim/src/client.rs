//! A simulated client with the gateway it talks to: one operation at a time, dispatched as the gateway does it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dispatch::budget::RetryBudget;
use dispatch::{Dispatch, Verdict};
use history::{Function, Value};
use membership::NodeId;
use replication::{
    Ballot, Change, Condition, Effect, LockCall, Operation, Outcome, Refusal, RegisterKey, RequestId, Terms,
    Value as Stored, Version, Write,
};
use stdx::{Instant, Prng};

use crate::swarm::Only;

/// How long a node that was silent while another answered is asked last; as in the gateway.
const DOUBT: Duration = Duration::from_secs(1);

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its process number in the history; a new one after each unknown outcome.
    pub process: u64,
    /// What it does now.
    pub current: Option<Current>,
    /// What pays for its gateway's retries.
    pub budget: RetryBudget,
    /// Nodes that are asked last, and until when.
    doubts: BTreeMap<NodeId, Instant>,
    /// The time of its session, as the gateway's token carries it.
    pub time: Ballot,
    /// The last version and text it saw of each register.
    seen: BTreeMap<usize, (Option<Version>, Option<String>)>,
    /// The tokens of the locks that it believes to hold.
    pub holds: BTreeMap<usize, u64>,
    /// By how much less than its lease it relies on a lock, in milliseconds.
    allowance_ms: u64,
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// Writes, swaps, deletes.
    Register,
    /// Additions.
    Counter,
    /// Appendings.
    Journal,
    /// Taking, giving back, and writing under its token to the key after it.
    Lock,
    /// What is written under the token of the lock before it, and by nobody else.
    Guarded,
}

/// Below it an operation that is drawn is a read.
const CHOICE_PUT: u64 = 7;
/// One that is a read.
const CHOICE_READ: u64 = 0;

/// What the clients of a run do besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The gateway's clock.
    pub wall_ms: u64,
    /// Whether they are sessions.
    pub sessions: bool,
    /// Whether some of what they write lives for a time only.
    pub lives: bool,
    /// The one kind of operation that they do, if they do not do all kinds.
    pub only: Option<Only>,
    /// Whether they delete more than usual.
    pub deletes: bool,
}

/// An operation that was drawn.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    /// Which key, by its index.
    pub key: usize,
    /// What is asked.
    pub operation: Operation,
    /// How the history calls it.
    pub function: Function,
    /// The history's value of the invocation.
    pub input: Value,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether it is a read at level sequential.
    pub sequential: bool,
}

impl Drawn {
    /// Whether it is part of a lock's history.
    pub fn is_of_lock(&self) -> bool {
        matches!(self.function, Function::Other(_))
    }

    /// How long what it writes lives.
    pub fn ttl_ms(&self) -> Option<u64> {
        self.operation.write().and_then(|write| write.terms.ttl_ms)
    }
}

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is part of the history.
    History,
    /// It asks what became of the write that was invoked on this line.
    Outcome {
        /// The write's line.
        of_line: u64,
    },
}

/// An operation under way.
#[derive(Debug)]
pub(crate) struct Current {
    /// Its number in the run.
    pub serial: u64,
    /// The line of its invocation.
    pub line: u64,
    /// What it is.
    pub drawn: Drawn,
    /// When the client gives up.
    pub deadline: Instant,
    /// Its attempts.
    pub dispatch: Dispatch,
    /// When it is to be woken.
    pub wake_at: Option<Instant>,
}

/// How an operation ended for the client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Answered.
    Ok {
        /// What was told.
        output: Value,
        /// Of a conditional write: whether it took effect.
        applied: Option<bool>,
        /// The write that must now be durable.
        acknowledged: Option<RequestId>,
    },
    /// What the request memory holds of an earlier write.
    Remembered(Option<Effect>),
    /// Surely nothing happened.
    Fail(Option<Refusal>),
    /// Nobody knows.
    Info,
}

impl Client {
    pub fn new(process: u64, allowance_ms: u64) -> Client {
        let (doubts, seen, holds) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (current, budget, time) = (None, RetryBudget::default(), Ballot::ZERO);
        Client { process, current, budget, doubts, time, seen, holds, allowance_ms }
    }

    /// Whether a node was silent a moment ago.
    pub fn doubts(&self, node: NodeId, now: Instant) -> bool {
        self.doubts.get(&node).is_some_and(|until| now < *until)
    }

    /// Remembers who was silent while another answered.
    pub fn doubt(&mut self, silent: impl Iterator<Item = NodeId>, now: Instant) {
        self.doubts.extend(silent.map(|node| (node, now + DOUBT)));
    }

    /// A node answered.
    pub fn trust(&mut self, node: NodeId) {
        self.doubts.remove(&node);
    }

    /// Draws the next operation on the key.
    pub fn draw(
        &mut self,
        prng: &mut Prng,
        serial: u64,
        (key, kind): (usize, KeyKind),
        register: &RegisterKey,
        load: Load,
    ) -> Drawn {
        let Load { wall_ms, sessions, lives, only, deletes } = load;
        let request = RequestId((u128::from(serial) << 64) | (u128::from(self.process) + 1));
        // Half of what may live for a time does; most of it runs out while others look.
        let ttl_ms = if lives && prng.one_in(2) { 1 + prng.below(400) } else { 0 };
        let write = |condition, change| {
            let key = register.clone();
            let brief = lives && matches!(change, Change::Put(_)) && ttl_ms > 0;
            let terms = Terms { fence: None, ttl_ms: brief.then_some(ttl_ms) };
            Operation::Write(Write { key, request, first_sent_ms: wall_ms, retry: false, condition, change, terms })
        };
        let read = (Operation::Read { key: register.clone() }, Function::Read, Value::Null);
        // Sessions read more, and mostly at level sequential.
        // Nor do they delete: what is absent does not name who made it so, and an order is hard to find.
        let choice = match only {
            Some(Only::Writes | Only::SessionWrites) => CHOICE_PUT,
            Some(Only::StrictReads | Only::SequentialReads) => CHOICE_READ,
            None if sessions && prng.one_in(3) => CHOICE_READ,
            None if sessions => prng.below(18),
            None => prng.below(if deletes { 26 } else { 20 }),
        };
        let (operation, function, input) = match kind {
            _ if choice < CHOICE_PUT => read,
            KeyKind::Lock | KeyKind::Guarded => unreachable!("locks are drawn by `draw_lock`"),
            KeyKind::Register => self.draw_change(choice, serial, key, write),
            KeyKind::Counter => {
                let by = prng.below(9) as i64 - 3;
                (write(Condition::Always, Change::Add(by)), Function::Add, Value::from(by))
            }
            KeyKind::Journal => {
                let text = format!("{serial};");
                let change = Change::Append(Bytes::from(text.clone()));
                (write(Condition::Always, change), Function::Append, Value::from(text))
            }
        };
        let sequential = match only {
            Some(only) => only == Only::SequentialReads,
            None => sessions && function == Function::Read && !prng.one_in(4),
        };
        Drawn { key, operation, function, input, purpose: Purpose::History, sequential }
    }

    /// Draws what is done with a lock, or under it with what it guards.
    pub fn draw_lock(
        &self,
        prng: &mut Prng,
        serial: u64,
        (key, lock, guarded): (usize, &RegisterKey, &RegisterKey),
        wall_ms: u64,
    ) -> Drawn {
        let request = RequestId((u128::from(serial) << 64) | (u128::from(self.process) + 1));
        let write = |key: &RegisterKey, change, fence| {
            let (key, condition, terms) = (key.clone(), Condition::Always, Terms { fence, ttl_ms: None });
            Operation::Write(Write { key, request, first_sent_ms: wall_ms, retry: false, condition, change, terms })
        };
        let (operation, name, input) = match self.holds.get(&key) {
            Some(fence) if !prng.one_in(3) => {
                let body = Bytes::from(format!("u{serial}"));
                let put = Change::Put(Stored { body, content_type: Bytes::new() });
                (write(guarded, put, Some(*fence)), "use", Value::from(*fence as i64))
            }
            Some(fence) => {
                let release = Change::Lock(LockCall::Release { fence: *fence });
                (write(lock, release, None), "release", Value::Null)
            }
            None => {
                let owner = Bytes::from(self.process.to_string());
                // What it relies on is a part of what it asks for.
                let ttl_ms = self.allowance_ms + 1 + prng.below(60);
                let wait_ms = if prng.one_in(2) { prng.below(100) } else { 0 };
                let acquire = Change::Lock(LockCall::Acquire { owner, ttl_ms, wait_ms });
                (write(lock, acquire, None), "acquire", Value::Null)
            }
        };
        let (function, purpose) = (Function::Other(name.to_owned()), Purpose::History);
        Drawn { key, operation, function, input, purpose, sequential: false }
    }

    fn draw_change(
        &self,
        choice: u64,
        serial: u64,
        key: usize,
        write: impl Fn(Condition, Change) -> Operation,
    ) -> (Operation, Function, Value) {
        let text = format!("v{serial}");
        let body = Bytes::from(text.clone());
        let put = Change::Put(Stored { body, content_type: Bytes::from_static(b"text/plain") });
        let new = Value::from(text);
        match (choice, self.seen.get(&key)) {
            (12..=17, Some((version, old))) => {
                let condition = version.map_or(Condition::Absent, Condition::Matches);
                let old = old.as_deref().map_or(Value::Null, Value::from);
                (write(condition, put), Function::Cas, Value::List(vec![old, new]))
            }
            (0..=10, _) | (12..=17, None) => (write(Condition::Always, put), Function::Write, new),
            (11, _) => (write(Condition::Exists, put), Function::Write, new),
            _ => (write(Condition::Always, Change::Delete), Function::Delete, Value::Null),
        }
    }

    /// How the operation ended, from what its dispatch says.
    pub fn judge(&mut self, drawn: &Drawn, verdict: Verdict) -> End {
        let outcome = match verdict {
            Verdict::Answered { outcome, .. } => outcome,
            Verdict::NotDone(refusal) => return End::Fail(Some(refusal)),
            Verdict::Unknown => return End::Info,
            Verdict::Late => return End::Fail(None),
        };
        match outcome {
            Outcome::Value(found) => {
                let text = found.as_ref().map(|(_, value)| String::from_utf8_lossy(&value.body).into_owned());
                let version = found.as_ref().map(|(version, _)| *version);
                let output = text.as_deref().map_or(Value::Null, Value::from);
                self.seen.insert(drawn.key, (version, text));
                End::Ok { output, applied: None, acknowledged: None }
            }
            Outcome::Done { effect, value } => self.judge_done(drawn, effect, value),
            Outcome::Remembered(effect) => End::Remembered(effect),
            Outcome::Refused(_) | Outcome::Unknown => unreachable!("a dispatch ends with neither"),
        }
    }

    fn judge_lock(&mut self, drawn: &Drawn, write: &Write, effect: Effect) -> End {
        match effect {
            Effect::Granted { fence, .. } => drop(self.holds.insert(drawn.key, fence)),
            Effect::Released | Effect::NotHeld | Effect::FencedOff(_) => drop(self.holds.remove(&drawn.key)),
            _ => {}
        }
        match lock_output(&drawn.input, write, effect, self.allowance_ms) {
            Some(output) => End::Ok { output, applied: None, acknowledged: Some(write.request) },
            None => End::Fail(None),
        }
    }

    fn judge_done(&mut self, drawn: &Drawn, effect: Effect, value: Option<Stored>) -> End {
        let Operation::Write(write) = &drawn.operation else {
            unreachable!("only a write is done");
        };
        if drawn.is_of_lock() {
            return self.judge_lock(drawn, write, effect);
        }
        match (effect, &write.change) {
            (Effect::Created(version) | Effect::Replaced(version), Change::Put(value)) => {
                let text = String::from_utf8_lossy(&value.body).into_owned();
                self.seen.insert(drawn.key, (Some(version), Some(text)));
            }
            (Effect::Deleted(_), _) => {
                self.seen.insert(drawn.key, (None, None));
            }
            _ => {
                self.seen.remove(&drawn.key);
            }
        }
        let output = match drawn.function {
            Function::Add | Function::Append => {
                value.map_or(Value::Null, |value| Value::from(String::from_utf8_lossy(&value.body).into_owned()))
            }
            _ => drawn.input.clone(),
        };
        End::Ok { output, applied: applied(write, effect), acknowledged: Some(write.request) }
    }
}

/// What a lock's history says of an effect; none where the client was refused.
///
/// The lease began no earlier than the call did; but clocks that are apart see it up to `allowance_ms` shorter, two
/// right ones of whole milliseconds up to one.
pub(crate) fn lock_output(input: &Value, write: &Write, effect: Effect, allowance_ms: u64) -> Option<Value> {
    match (&write.change, effect) {
        (Change::Lock(LockCall::Acquire { ttl_ms, .. }), Effect::Granted { fence, .. }) => {
            let members = [("fence", fence), ("ttl_ms", ttl_ms.saturating_sub(allowance_ms))];
            let members = members.map(|(name, number)| (name.to_owned(), Value::from(number as i64)));
            Some(Value::Map(members.into_iter().collect()))
        }
        (_, Effect::Held { .. } | Effect::FencedOff(_)) => None,
        _ => Some(input.clone()),
    }
}

/// Whether a conditional write took effect; none for an unconditional one.
pub(crate) fn applied(write: &Write, effect: Effect) -> Option<bool> {
    let acted = matches!(effect, Effect::Created(_) | Effect::Replaced(_) | Effect::Deleted(_));
    (write.condition != Condition::Always).then_some(acted)
}
