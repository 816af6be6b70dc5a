use std::collections::BTreeMap;

use crate::event::{Event, EventKind, Function, Process};
use crate::reader::{HistoryError, Reason};
use crate::value::Value;

/// How an operation ended, as far as its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It took effect between its invocation and its completion.
    Ok,
    /// It surely had no effect and observed nothing.
    Fail,
    /// Unknown: it may take effect at any time after its invocation, or never.
    Info,
}

/// A question and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub process: Process,
    /// What was asked.
    pub f: Function,
    /// Of which key; `null` in histories of a single object.
    pub key: Value,
    /// The argument: the value to write, `[old, new]` of a cas, `null` of a read.
    pub input: Value,
    /// The value in the answer; `null` where there was none.
    pub output: Value,
    /// What the answer said about `applied`.
    pub applied: Option<bool>,
    /// The place of the invocation in the order of events: its line, from 1.
    pub invoked_at: u64,
    /// The place of the completion, later than `invoked_at`; `None` exactly when the outcome is [`Outcome::Info`].
    pub completed_at: Option<u64>,
    /// The writer's clock at the invocation, in nanoseconds since the run began.
    pub invoked_ns: Option<i64>,
    /// The writer's clock at the completion (also of an `info`), in nanoseconds since the run began.
    pub completed_ns: Option<i64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The consistency level that was asked for.
    pub level: Option<String>,
    /// The trace of the request.
    pub trace_id: Option<String>,
    /// The id under which it may have been repeated.
    pub request_id: Option<String>,
}

impl Operation {
    /// Whether it was over before `other` began.
    pub fn precedes(&self, other: &Operation) -> bool {
        self.completed_at.is_some_and(|end| end < other.invoked_at)
    }
}

/// A fault's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its line, from 1.
    pub line: u64,
    /// What was done, to what.
    pub event: Event,
}

/// A history, paired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// All operations in the order of their invocations.
    pub operations: Vec<Operation>,
    /// All faults in their order.
    pub faults: Vec<Fault>,
    /// How many lines carried an event.
    pub events: u64,
}

/// Pairs invocations with completions, event by event.
#[derive(Clone, Debug, Default)]
pub struct Pairing {
    history: History,
    /// The open operation of each process, as an index into `history.operations`.
    open: BTreeMap<Process, usize>,
    last_line: u64,
}

impl Pairing {
    /// Takes the event that stands on `line`; lines must rise.
    ///
    /// # Errors
    /// The event does not fit what went before; the pairing is unchanged by it.
    pub fn push(&mut self, line: u64, event: Event) -> Result<(), HistoryError> {
        assert!(line > self.last_line, "events come in the order of their lines");
        self.last_line = line;
        self.push_event(line, event).map_err(|reason| HistoryError { line, reason })
    }

    fn push_event(&mut self, line: u64, event: Event) -> Result<(), Reason> {
        if event.process == Process::Nemesis {
            self.history.faults.push(Fault { line, event });
        } else if event.kind == EventKind::Invoke {
            self.invoke(line, event)?;
        } else {
            self.complete(line, event)?;
        }
        self.history.events += 1;
        Ok(())
    }

    fn invoke(&mut self, line: u64, event: Event) -> Result<(), Reason> {
        if let Some(&open) = self.open.get(&event.process) {
            let open = self.history.operations[open].invoked_at;
            return Err(Reason::StillOpen { process: event.process, open });
        }
        self.open.insert(event.process.clone(), self.history.operations.len());
        self.history.operations.push(Operation {
            process: event.process,
            f: event.f,
            key: event.key,
            input: event.value,
            output: Value::Null,
            applied: None,
            invoked_at: line,
            completed_at: None,
            invoked_ns: event.time,
            completed_ns: None,
            outcome: Outcome::Info,
            level: event.level,
            trace_id: event.trace_id,
            request_id: event.request_id,
        });
        Ok(())
    }

    fn complete(&mut self, line: u64, event: Event) -> Result<(), Reason> {
        let Some(&open) = self.open.get(&event.process) else {
            return Err(Reason::NeverInvoked { process: event.process });
        };
        let operation = &mut self.history.operations[open];
        let mismatch = if event.f != Function::Other(String::new()) && event.f != operation.f {
            Some("f")
        } else if !event.key.is_null() && event.key != operation.key {
            Some("key")
        } else {
            None
        };
        if let Some(field) = mismatch {
            return Err(Reason::Mismatch { process: event.process, field, open: operation.invoked_at });
        }
        operation.outcome = match event.kind {
            EventKind::Ok => Outcome::Ok,
            EventKind::Fail => Outcome::Fail,
            EventKind::Info | EventKind::Invoke => Outcome::Info,
        };
        operation.completed_at = (operation.outcome != Outcome::Info).then_some(line);
        operation.completed_ns = event.time;
        operation.output = event.value;
        operation.applied = event.applied;
        // Some writers know a request's level and ids only with its answer.
        operation.level = event.level.or(operation.level.take());
        operation.trace_id = event.trace_id.or(operation.trace_id.take());
        operation.request_id = event.request_id.or(operation.request_id.take());
        self.open.remove(&event.process);
        Ok(())
    }

    /// The history so far; what is still open is unknown.
    pub fn finish(self) -> History {
        self.history
    }
}
