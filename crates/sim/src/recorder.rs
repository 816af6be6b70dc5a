//! The clients' history: what they asked and were told, and what they later learned about unknown ends.

use std::collections::BTreeMap;

use history::{Event, EventKind, Function, History, Outcome, Pairing, Process, Value};
use replication::{Effect, REQUESTS_AGE_MAX_MS, Write};

use crate::client::{Drawn, End, applied, lock_output};
use crate::invariants::Violation;

/// Writes a run's history.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pairing: Pairing,
    line: u64,
    /// The time of what is written down next, in nanoseconds since the run began.
    pub now_ns: i64,
    /// Writes that ended unknown, by the line of their invocation.
    pub unknown: BTreeMap<u64, Unknown>,
    /// By how much less than its lease a client relies on a lock, in milliseconds.
    pub allowance_ms: u64,
}

/// A write that ended unknown, and what was learned of it.
#[derive(Clone, Debug)]
pub(crate) struct Unknown {
    /// Which key, by its index.
    pub key: usize,
    /// The write.
    pub write: Write,
    /// Surely not in effect before this line.
    not_before: Option<u64>,
    /// In effect by this line, and how.
    done: Option<(u64, Effect)>,
}

impl Recorder {
    pub fn new(allowance_ms: u64) -> Recorder {
        Recorder { allowance_ms, ..Recorder::default() }
    }

    /// A line of its own for something that is not part of the history but has its place in it.
    pub fn next_line(&mut self) -> u64 {
        self.line += 1;
        self.line
    }

    /// Writes an invocation down; its line.
    pub fn invoke(&mut self, process: u64, drawn: &Drawn) -> u64 {
        self.push(process, EventKind::Invoke, drawn, drawn.input.clone(), None);
        self.line
    }

    /// Writes the completion of what was invoked on `line` down.
    pub fn complete(&mut self, process: u64, line: u64, drawn: &Drawn, end: &End) {
        let (kind, value, applied) = match end {
            End::Ok { output, applied, .. } => (EventKind::Ok, output.clone(), *applied),
            End::Fail(_) | End::Remembered(_) => (EventKind::Fail, drawn.input.clone(), None),
            End::Info => (EventKind::Info, drawn.input.clone(), None),
        };
        if let (End::Info, replication::Operation::Write(write)) = (end, &drawn.operation) {
            let unknown = Unknown { key: drawn.key, write: write.clone(), not_before: None, done: None };
            self.unknown.insert(line, unknown);
        }
        self.push(process, kind, drawn, value, applied);
    }

    /// The request memory was asked, on line `asked`, what became of the write of `of_line`.
    ///
    /// What it says is held to: a write that is remembered took effect before the answer; one that is not had no effect
    /// when it was asked, though it may have one later. And it must not change its mind.
    pub fn learn(&mut self, of_line: u64, asked: u64, effect: Option<Effect>, wall_ms: u64) -> Result<(), Violation> {
        let answered = self.next_line();
        let Some(unknown) = self.unknown.get_mut(&of_line) else { return Ok(()) };
        if effect.is_none() && wall_ms > unknown.write.first_sent_ms + REQUESTS_AGE_MAX_MS {
            // It may be remembered no longer, and that tells nothing.
            return Ok(());
        }
        match (unknown.done, effect) {
            (None, Some(effect)) => unknown.done = Some((answered, effect)),
            (None, None) => unknown.not_before = Some(asked),
            (Some((_, before)), now) if now == Some(before) => {}
            (Some((_, before)), now) => {
                let found = format!("the write of line {of_line} was {before:?}, and is now {now:?}");
                return Err(Violation { invariant: "what_is_remembered_stays", found });
            }
        }
        Ok(())
    }

    /// The whole history, with what was learned put where it belongs.
    pub fn finish(self) -> History {
        let mut history = self.pairing.finish();
        for operation in &mut history.operations {
            let Some(unknown) = self.unknown.get(&operation.invoked_at) else { continue };
            if let Some(not_before) = unknown.not_before {
                operation.invoked_at = not_before;
            }
            if let Some((line, effect)) = unknown.done {
                operation.completed_at = Some(line);
                if matches!(operation.f, Function::Other(_)) {
                    let output = lock_output(&operation.input, &unknown.write, effect, self.allowance_ms);
                    operation.outcome = if output.is_some() { Outcome::Ok } else { Outcome::Fail };
                    operation.output = output.unwrap_or_default();
                    continue;
                }
                operation.outcome = Outcome::Ok;
                operation.applied = applied(&unknown.write, effect);
                // An addition's result was not told.
                let told = !matches!(operation.f, Function::Add | Function::Append);
                operation.output = if told { operation.input.clone() } else { Value::Null };
            }
        }
        history.operations.sort_by_key(|operation| operation.invoked_at);
        history
    }

    fn push(&mut self, process: u64, kind: EventKind, drawn: &Drawn, value: Value, applied: Option<bool>) {
        let line = self.next_line();
        let process = Process::Client(process as i64);
        let kind_of_key = if drawn.is_of_lock() { "lock" } else { "k" };
        let key = Value::from(format!("{kind_of_key}{}", drawn.key));
        let ttl_ms = drawn.ttl_ms().filter(|_| kind == EventKind::Invoke);
        let level = drawn.sequential.then(|| "sequential".to_owned());
        let new = Event::new(process, kind, drawn.function.clone(), key, value);
        let event = Event { applied, ttl_ms, level, time: Some(self.now_ns), ..new };
        self.pairing.push(line, event).expect("a client asks once at a time and completes what it asked");
    }
}
