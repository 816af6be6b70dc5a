//! A simulated client with its gateway: one operation at a time, retried at other replicas under one request id.

use std::collections::BTreeMap;

use bytes::Bytes;
use history::{Event, EventKind, Function, Pairing, Process, Value};
use membership::NodeId;
use replication::{
    Change, Condition, Effect, Operation, Outcome, RegisterKey, RequestId, Value as Stored, Version, Write,
};
use stdx::{Instant, Prng};

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its process number in the history; a new one after each unknown outcome.
    pub process: u64,
    /// What it does now.
    pub current: Option<Current>,
    /// The last version and text it saw of each key.
    seen: BTreeMap<usize, (Option<Version>, Option<String>)>,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    /// Its number in the run.
    pub serial: u64,
    /// Which key, by its index.
    pub key: usize,
    /// What is asked.
    pub operation: Operation,
    /// How the history calls it.
    pub function: Function,
    /// The history's value of the invocation.
    pub input: Value,
    /// When the client gives up.
    pub deadline: Instant,
    /// The replicas in the order in which they are asked.
    pub order: Vec<NodeId>,
    /// Attempts so far.
    pub attempts: usize,
    /// Attempts that were surely refused.
    pub refused: usize,
}

/// How an operation ended for the client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Answered; the write's request id if it is one that must now be durable.
    Ok { output: Value, applied: Option<bool>, acknowledged: Option<RequestId> },
    /// Surely nothing happened.
    Fail,
    /// Nobody knows.
    Info,
}

impl Client {
    pub fn new(process: u64) -> Client {
        Client { process, current: None, seen: BTreeMap::new() }
    }

    /// Draws the next operation.
    pub fn draw(&mut self, prng: &mut Prng, serial: u64, key: usize, register: &RegisterKey, wall_ms: u64) -> Current {
        let text = format!("v{serial}");
        let put =
            Change::Put(Stored { body: Bytes::from(text.clone()), content_type: Bytes::from_static(b"text/plain") });
        let seen = self.seen.get(&key).cloned();
        let write = |condition, change| {
            let request = RequestId(u128::from(serial) << 64 | u128::from(self.process) + 1);
            let key = register.clone();
            Operation::Write(Write { key, request, first_sent_ms: wall_ms, retry: false, condition, change })
        };
        let new = Value::from(text.as_str());
        let (operation, function, input) = match (prng.below(20), seen) {
            (0..=6, _) => (Operation::Read { key: register.clone() }, Function::Read, Value::Null),
            (7..=11, _) | (12..=17, None) => (write(Condition::Always, put), Function::Write, new),
            (12..=17, Some((version, old))) => {
                let condition = version.map_or(Condition::Absent, Condition::Matches);
                let old = old.as_deref().map_or(Value::Null, Value::from);
                (write(condition, put), Function::Cas, Value::List(vec![old, new]))
            }
            _ => (write(Condition::Always, Change::Delete), Function::Delete, Value::Null),
        };
        Current {
            serial,
            key,
            operation,
            function,
            input,
            deadline: Instant::ZERO,
            order: Vec::new(),
            attempts: 0,
            refused: 0,
        }
    }

    /// The operation that the next attempt sends: writes of a later attempt say that they are repeats.
    pub fn attempt(current: &Current) -> Operation {
        let mut operation = current.operation.clone();
        if let Operation::Write(write) = &mut operation {
            write.retry = current.attempts > 0;
        }
        operation
    }

    /// Reads an answer; none when it decides nothing.
    pub fn judge(&mut self, outcome: &Outcome) -> Option<End> {
        let current = self.current.as_mut()?;
        match outcome {
            Outcome::Value(found) => {
                let text = found.as_ref().map(|(_, value)| String::from_utf8_lossy(&value.body).into_owned());
                let version = found.as_ref().map(|(version, _)| *version);
                self.seen.insert(current.key, (version, text.clone()));
                let output = text.as_deref().map_or(Value::Null, Value::from);
                Some(End::Ok { output, applied: None, acknowledged: None })
            }
            Outcome::Done { effect, .. } => {
                let Operation::Write(write) = &current.operation else { return None };
                let (request, key) = (write.request, current.key);
                let cas = current.function == Function::Cas;
                let applied = match effect {
                    Effect::Created(version) | Effect::Replaced(version) => {
                        if let Change::Put(value) = &write.change {
                            let text = String::from_utf8_lossy(&value.body).into_owned();
                            self.seen.insert(key, (Some(*version), Some(text)));
                        }
                        true
                    }
                    Effect::Deleted(_) => {
                        self.seen.insert(key, (None, None));
                        true
                    }
                    Effect::ConditionFailed(_) | Effect::Unfit => {
                        self.seen.remove(&key);
                        false
                    }
                };
                let output = current.input.clone();
                Some(End::Ok { output, applied: cas.then_some(applied), acknowledged: Some(request) })
            }
            Outcome::Refused(_) => {
                current.refused += 1;
                None
            }
            Outcome::Unknown | Outcome::Remembered(_) => None,
        }
    }

    /// How the operation ends when its time is up.
    pub fn late(current: &Current) -> End {
        let is_read = matches!(current.operation, Operation::Read { .. });
        // Each attempt that was not surely refused may still take effect.
        if is_read || current.refused == current.attempts { End::Fail } else { End::Info }
    }
}

/// Writes an invocation down.
pub(crate) fn record_invoke(pairing: &mut Pairing, line: u64, client: &Client, current: &Current) {
    let process = Process::Client(client.process as i64);
    let key = Value::from(format!("k{}", current.key).as_str());
    let event = Event::new(process, EventKind::Invoke, current.function.clone(), key, current.input.clone());
    pairing.push(line, event).expect("a client invokes once at a time");
}

/// Writes a completion down.
pub(crate) fn record_end(pairing: &mut Pairing, line: u64, client: &Client, current: &Current, end: &End) {
    let process = Process::Client(client.process as i64);
    let key = Value::from(format!("k{}", current.key).as_str());
    let (kind, value, applied) = match end {
        End::Ok { output, applied, .. } => (EventKind::Ok, output.clone(), *applied),
        End::Fail => (EventKind::Fail, current.input.clone(), None),
        End::Info => (EventKind::Info, current.input.clone(), None),
    };
    let mut event = Event::new(process, kind, current.function.clone(), key, value);
    event.applied = applied;
    pairing.push(line, event).expect("a client completes what it invoked");
}
