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
    /// How long the written value lives at least, in milliseconds; none for ever.
    pub ttl_ms: Option<u64>,
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
    /// The operation that the invocation on `line` begins; unknown until it is completed.
    fn invoked(line: u64, event: Event) -> Operation {
        Operation {
            process: event.process,
            f: event.f,
            key: event.key,
            input: event.value,
            output: Value::Null,
            applied: None,
            ttl_ms: event.ttl_ms,
            invoked_at: line,
            completed_at: None,
            invoked_ns: event.time,
            completed_ns: None,
            outcome: Outcome::Info,
            level: event.level,
            trace_id: event.trace_id,
            request_id: event.request_id,
        }
    }

    /// Takes its completion; unchanged if that does not fit.
    fn complete(&mut self, line: u64, event: Event) -> Result<(), Reason> {
        let mismatch = if event.f != Function::Other(String::new()) && event.f != self.f {
            Some("f")
        } else if !event.key.is_null() && event.key != self.key {
            Some("key")
        } else {
            None
        };
        if let Some(field) = mismatch {
            return Err(Reason::Mismatch { process: event.process, field, open: self.invoked_at });
        }
        self.outcome = match event.kind {
            EventKind::Ok => Outcome::Ok,
            EventKind::Fail => Outcome::Fail,
            EventKind::Info | EventKind::Invoke => Outcome::Info,
        };
        self.completed_at = (self.outcome != Outcome::Info).then_some(line);
        self.completed_ns = event.time;
        self.output = event.value;
        self.applied = event.applied;
        // Some writers know a request's level and ids only with its answer.
        self.level = event.level.or(self.level.take());
        self.trace_id = event.trace_id.or(self.trace_id.take());
        self.request_id = event.request_id.or(self.request_id.take());
        Ok(())
    }

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
        self.history.operations.push(Operation::invoked(line, event));
        Ok(())
    }

    fn complete(&mut self, line: u64, event: Event) -> Result<(), Reason> {
        let process = event.process.clone();
        let Some(&open) = self.open.get(&process) else { return Err(Reason::NeverInvoked { process }) };
        self.history.operations[open].complete(line, event)?;
        self.open.remove(&process);
        Ok(())
    }

    /// The operations so far, in the order of their invocations; what is still open is unknown.
    pub fn operations(&self) -> &[Operation] {
        &self.history.operations
    }

    /// Hands over what was read so far, to go on event by event: the operations that ended, in the order of their
    /// invocations, the faults, and those still open.
    pub fn into_stream(self) -> (Vec<Operation>, Vec<Fault>, OpenOperations) {
        let still_open: std::collections::BTreeSet<usize> = self.open.values().copied().collect();
        let mut open = OpenOperations { last_line: self.last_line, ..OpenOperations::default() };
        let mut ended = Vec::with_capacity(self.history.operations.len());
        for (index, operation) in self.history.operations.into_iter().enumerate() {
            if still_open.contains(&index) {
                open.open.insert(operation.process.clone(), operation);
            } else {
                ended.push(operation);
            }
        }
        (ended, self.history.faults, open)
    }

    /// The history so far; what is still open is unknown.
    pub fn finish(self) -> History {
        self.history
    }
}

/// The operations that are open, for a reader who keeps no others: pairs events one by one, as [`Pairing`] does.
#[derive(Clone, Debug, Default)]
pub struct OpenOperations {
    open: BTreeMap<Process, Operation>,
    last_line: u64,
}

/// What an event meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paired {
    /// An operation began; it is among the open ones.
    Begun,
    /// An operation ended, with an answer or as unknown.
    Ended(Operation),
    /// A fault's line.
    Fault(Fault),
}

impl OpenOperations {
    /// Takes the event that stands on `line`; lines must rise.
    ///
    /// # Errors
    /// The event does not fit what went before.
    pub fn push(&mut self, line: u64, event: Event) -> Result<Paired, HistoryError> {
        assert!(line > self.last_line, "events come in the order of their lines");
        self.last_line = line;
        self.push_event(line, event).map_err(|reason| HistoryError { line, reason })
    }

    fn push_event(&mut self, line: u64, event: Event) -> Result<Paired, Reason> {
        if event.process == Process::Nemesis {
            return Ok(Paired::Fault(Fault { line, event }));
        }
        let process = event.process.clone();
        if event.kind == EventKind::Invoke {
            if let Some(open) = self.open.get(&process) {
                return Err(Reason::StillOpen { process, open: open.invoked_at });
            }
            self.open.insert(process, Operation::invoked(line, event));
            return Ok(Paired::Begun);
        }
        let Some(operation) = self.open.get_mut(&process) else { return Err(Reason::NeverInvoked { process }) };
        operation.complete(line, event)?;
        let ended = self.open.remove(&process).ok_or(Reason::NeverInvoked { process })?;
        Ok(Paired::Ended(ended))
    }

    /// Has an operation open that was paired before.
    pub fn begin(&mut self, operation: Operation) {
        self.open.insert(operation.process.clone(), operation);
    }

    /// Has none of this process open any more.
    pub fn end(&mut self, process: &Process) {
        self.open.remove(process);
    }

    /// Those that are open, in no order of meaning.
    pub fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.open.values()
    }
}
