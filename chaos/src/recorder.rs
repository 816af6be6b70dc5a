//! The history as it is made: written to a file line by line, and kept for the checks at the end.
//!
//! An invocation is recorded before its request is sent, a completion after its answer is there: the order of the lines
//! then never claims an order that was not. A run that would outgrow its bound stops taking requests and says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use history::{Event, EventKind, Function, History, Process, Value};
use wire::http::{Level, Receipt};

use crate::acknowledged::{Acknowledged, Held, Sent};
use crate::history_file::{HistoryFile, Values};
use crate::operation::{End, Kind, Operation};

/// A request as its client is about to send it.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who asks.
    pub process: u64,
    /// What.
    pub kind: Kind,
    /// Of values of which kind.
    pub values: Values,
    /// At which level.
    pub level: Level,
    /// Of which key.
    pub key: String,
    /// What a conditional write demands that the key holds.
    pub old: Held,
    /// What a write leaves in the key, and an addition adds to it; none for a deletion, and for a read.
    pub new: Held,
    /// The trace of the request, 32 hex digits.
    pub trace_id: String,
    /// Its request id.
    pub request_id: String,
}

/// A question that is recorded and not yet answered.
#[derive(Debug)]
pub struct Asked {
    question: Question,
    invoked_ns: u64,
    number: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A read showed this.
    Held(Held),
    /// A read of a key whose values stay side by side showed these, or a read of a set its elements.
    Shown(Vec<String>),
    /// A read of a counter showed this.
    Number(i64),
    /// A write took effect.
    Applied,
    /// A conditional write found another value, and had no effect.
    NotApplied,
    /// A write under a lock was refused, for its token is lower than one that was seen: no effect.
    FencedOff,
    /// Surely no effect, and nothing observed.
    Failed,
    /// A write that may or may not act.
    Unknown,
}

/// What else is known about the end of a request.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// A problem's code, `deadline` or `unreachable`.
    pub code: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// How the answer came about.
    pub receipt: Option<Receipt>,
    /// Its deadline.
    pub deadline: Duration,
}

/// A read that showed an older value although a newer one was acknowledged before it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleRead {
    /// The key.
    pub key: String,
    /// What it showed.
    pub held: Held,
    /// How many acknowledged writes it should have seen.
    pub missed: u64,
    /// Its trace.
    pub trace_id: String,
}

/// Everything recorded, handed over at the end.
#[derive(Debug, Default)]
pub struct Record {
    /// The histories for the checker.
    pub histories: BTreeMap<Values, History>,
    /// Every finished request, in the order of their ends.
    pub operations: Vec<Operation>,
    /// The first few reads that missed an acknowledged write.
    pub stale_reads: Vec<StaleRead>,
    /// All of them.
    pub stale_reads_total: u64,
    /// Acknowledged writes of ordered keys, by level.
    pub acknowledged: BTreeMap<Level, u64>,
    /// What is wrong with the record itself, if anything: then it proves nothing.
    pub trouble: Option<String>,
}

/// Counts for a live display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that ended.
    pub total: u64,
    /// Answered in time.
    pub ok: u64,
    /// Surely without effect, or answered too late.
    pub failed: u64,
    /// Writes with an unknown outcome.
    pub unknown: u64,
    /// Reads that missed an acknowledged write.
    pub stale: u64,
}

/// The recorder. Shared by all clients and by the fault injector.
pub struct Recorder {
    start: Instant,
    started_at: SystemTime,
    last_answer_ns: AtomicU64,
    next_process: AtomicU64,
    /// The number of the fault in force; 0 for none.
    fault_in_force: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    histories: BTreeMap<Values, HistoryFile>,
    /// Questions so far.
    asked: u64,
    operations: Vec<Operation>,
    /// Of ordered keys: at which level its traffic reads one, and what was acknowledged of it.
    keys: BTreeMap<String, (Level, Acknowledged)>,
    stale_reads: Vec<StaleRead>,
    tally: Tally,
    recent_us: Vec<u64>,
}

/// Operations kept at most: about a gigabyte. A run that reaches it ends its traffic.
pub const OPERATIONS_MAX: usize = 1_000_000;
/// Stale reads kept as examples; the rest is counted.
const STALE_READS_MAX: usize = 32;
/// Latencies kept for the live display between two looks at it.
const RECENT_MAX: usize = 20_000;

impl Recorder {
    /// A recorder whose run begins now, and whose history of registers also goes to `file`, if one is named.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(file: Option<&Path>) -> std::io::Result<Recorder> {
        let recorder = Recorder {
            start: Instant::now(),
            started_at: SystemTime::now(),
            last_answer_ns: AtomicU64::new(0),
            next_process: AtomicU64::new(0),
            fault_in_force: AtomicU64::new(0),
            inner: Mutex::default(),
        };
        recorder.keep(Values::Registers, file)?;
        Ok(recorder)
    }

    /// Has the history of these values go to `file` too, if one is named. To be called before the first of its
    /// questions: then it has all faults as well.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn keep(&self, values: Values, file: Option<&Path>) -> std::io::Result<()> {
        self.lock().histories.insert(values, HistoryFile::new(file)?);
        Ok(())
    }

    /// The same recorder with its clock set to zero, before anything is recorded.
    pub fn restarted(mut self) -> Recorder {
        self.start = Instant::now();
        self.started_at = SystemTime::now();
        self
    }

    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The wall clock when the run began; only for comparison with the times of spans.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// A process number that nobody has had.
    pub fn new_process(&self) -> u64 {
        self.next_process.fetch_add(1, Ordering::Relaxed)
    }

    /// How long ago any client last got an answer: the verifier's heartbeat, for the dead-man switch.
    pub fn silent_for(&self) -> Duration {
        Duration::from_nanos(self.now_ns().saturating_sub(self.last_answer_ns.load(Ordering::Relaxed)))
    }

    /// A fault is about to be injected: until it ends, requests that end are named for the trace store to keep.
    pub fn fault_begins(&self, id: u64) {
        self.fault_in_force.store(id, Ordering::Relaxed);
    }

    /// The fault's victim is back, or was never struck.
    pub fn fault_ends(&self) {
        self.fault_in_force.store(0, Ordering::Relaxed);
    }

    /// The fault in force.
    pub fn fault_in_force(&self) -> Option<u64> {
        Some(self.fault_in_force.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }

    /// A client outside the history got an answer.
    pub fn heard(&self) {
        self.last_answer_ns.fetch_max(self.now_ns(), Ordering::Relaxed);
    }

    /// Whether the record has reached its bound, or cannot be kept.
    pub fn is_full(&self) -> bool {
        let inner = self.lock();
        inner.operations.len() >= OPERATIONS_MAX || inner.histories.values().any(|history| history.trouble().is_some())
    }

    /// Counts so far.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    /// The latencies, in microseconds, of the requests that ended since the last call.
    pub fn take_recent_us(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().recent_us)
    }

    /// Records a question. To be called before its request is sent.
    pub fn ask(&self, question: Question) -> Asked {
        let mut inner = self.lock();
        let invoked_ns = self.now_ns();
        inner.asked += 1;
        let mut event = event_of(&question, EventKind::Invoke, invoked_ns);
        event.value = input_of(&question);
        inner.history(question.values).write(event);
        let asked = Asked { question, invoked_ns, number: inner.asked };
        if asked.question.is_ordered() && asked.question.kind.is_write() {
            inner.key(&asked.question).sent(&asked.write());
        }
        asked
    }

    /// Records an answer. To be called once it is there. Returns the process number to go on with: another one after an
    /// unknown outcome, since that operation stays open for ever.
    pub fn answer(&self, asked: Asked, finding: &Finding, details: Details) -> u64 {
        let mut inner = self.lock();
        let ended_ns = self.now_ns();
        inner.history(asked.question.values).write(completion_of(&asked.question, finding, ended_ns));
        inner.weigh(&asked, finding, ended_ns);
        let Asked { question, invoked_ns, .. } = asked;
        let end = finding.end();
        let operation = Operation {
            kind: question.kind,
            level: question.level,
            key: question.key,
            invoked_ns,
            ended_ns,
            end,
            late: Duration::from_nanos(ended_ns.saturating_sub(invoked_ns)) > details.deadline,
            code: details.code,
            status: details.status,
            trace_id: question.trace_id,
            request_id: question.request_id,
            receipt: details.receipt,
        };
        inner.count(&operation);
        inner.operations.push(operation);
        drop(inner);
        match end {
            End::Ok => {
                self.last_answer_ns.fetch_max(ended_ns, Ordering::Relaxed);
                question.process
            }
            End::Failed => question.process,
            End::Unknown => self.new_process(),
        }
    }

    /// Counts and keeps a request whose history stands elsewhere: a call on a lock.
    pub fn ended(&self, operation: Operation) {
        if operation.end == End::Ok {
            self.last_answer_ns.fetch_max(operation.ended_ns, Ordering::Relaxed);
        }
        let mut inner = self.lock();
        // They lie in the order of their ends.
        let ended_ns = inner.operations.last().map_or(0, |last| last.ended_ns).max(operation.ended_ns);
        let operation = Operation { ended_ns, ..operation };
        inner.count(&operation);
        inner.operations.push(operation);
    }

    /// Records a fault, in every history: `value` is its target and ids.
    pub fn fault(&self, kind: &str, value: BTreeMap<String, Value>) {
        let mut inner = self.lock();
        let function = Function::from(kind);
        let mut event = Event::new(Process::Nemesis, EventKind::Info, function, Value::Null, Value::Map(value));
        event.time = i64::try_from(self.now_ns()).ok();
        for history in inner.histories.values_mut() {
            history.write(event.clone());
            // To the file at once: a fault that ends us too must still stand in it.
            history.flush();
        }
    }

    /// How many acknowledged writes of the key are missing from what a read showed that is above all of them.
    pub fn lost(&self, key: &str, held: &Held) -> u64 {
        let now_ns = self.now_ns();
        self.lock().keys.get(key).map_or(0, |(_, known)| known.lost(held, now_ns))
    }

    /// The ordered keys that were ever written to, and at which level their traffic reads them.
    pub fn keys(&self) -> Vec<(String, Level)> {
        self.lock().keys.iter().map(|(key, (level, _))| (key.clone(), *level)).collect()
    }

    /// The finished requests that were in flight at some moment of [from, to], in nanoseconds since the run began.
    pub fn overlapping(&self, from_ns: u64, to_ns: u64) -> Vec<Operation> {
        let inner = self.lock();
        // They lie in the order of their ends, so those that ended before are a prefix.
        let first = inner.operations.partition_point(|operation| operation.ended_ns < from_ns);
        inner.operations[first..].iter().filter(|operation| operation.overlaps(from_ns, to_ns)).cloned().collect()
    }

    /// Ends the record and hands it over; whatever is asked afterwards begins another one.
    pub fn take(&self) -> Record {
        let mut inner = self.lock();
        let mut record = Record {
            operations: std::mem::take(&mut inner.operations),
            stale_reads: std::mem::take(&mut inner.stale_reads),
            stale_reads_total: inner.tally.stale,
            ..Record::default()
        };
        for (level, known) in inner.keys.values() {
            *record.acknowledged.entry(*level).or_default() += known.total();
        }
        for (values, history) in std::mem::take(&mut inner.histories) {
            let (history, trouble) = history.end();
            record.histories.insert(values, history);
            record.trouble = record.trouble.or(trouble);
        }
        record
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A client that panicked while holding it has at worst left out its own line, and the panic ends the program.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn history(&mut self, values: Values) -> &mut HistoryFile {
        self.histories.entry(values).or_default()
    }

    fn key(&mut self, question: &Question) -> &mut Acknowledged {
        &mut self.keys.entry(question.key.clone()).or_insert_with(|| (question.level, Acknowledged::default())).1
    }

    /// The online check: acknowledged writes are noted, and every strict read is held against them. A read at a lower
    /// level may miss some of them: that is for the checker.
    fn weigh(&mut self, asked: &Asked, finding: &Finding, ended_ns: u64) {
        let question = &asked.question;
        if !question.is_ordered() {
            return;
        }
        match finding {
            Finding::Applied => self.key(question).acknowledged(&asked.write(), ended_ns),
            Finding::NotApplied | Finding::FencedOff => self.key(question).withdrawn(&asked.write()),
            Finding::Failed if question.kind.is_write() => self.key(question).withdrawn(&asked.write()),
            Finding::Failed | Finding::Unknown | Finding::Shown(_) | Finding::Number(_) => {}
            Finding::Held(held) if question.level == Level::Strict => {
                let missed = self.keys.get(&question.key).map_or(0, |(_, known)| known.lost(held, asked.invoked_ns));
                if missed > 0 {
                    self.tally.stale += 1;
                    if self.stale_reads.len() < STALE_READS_MAX {
                        let (key, trace_id) = (question.key.clone(), question.trace_id.clone());
                        self.stale_reads.push(StaleRead { key, held: held.clone(), missed, trace_id });
                    }
                }
            }
            Finding::Held(_) => {}
        }
    }

    fn count(&mut self, operation: &Operation) {
        self.tally.total += 1;
        match operation.end {
            End::Unknown => self.tally.unknown += 1,
            End::Ok if !operation.late => self.tally.ok += 1,
            End::Ok | End::Failed => self.tally.failed += 1,
        }
        if self.recent_us.len() < RECENT_MAX && !operation.kind.is_lock_call() {
            self.recent_us.push(operation.latency_ns() / 1_000);
        }
    }
}

impl Question {
    /// Whether its key's writes have one order, in real time.
    fn is_ordered(&self) -> bool {
        self.values == Values::Registers && matches!(self.level, Level::Strict | Level::Sequential)
    }
}

impl Finding {
    fn end(&self) -> End {
        match self {
            Finding::Held(_)
            | Finding::Shown(_)
            | Finding::Number(_)
            | Finding::Applied
            | Finding::NotApplied
            | Finding::FencedOff => End::Ok,
            Finding::Failed => End::Failed,
            Finding::Unknown => End::Unknown,
        }
    }
}

impl Asked {
    fn write(&self) -> Sent {
        Sent { held: self.question.new.clone(), at_ns: self.invoked_ns, number: self.number }
    }
}

fn event_of(question: &Question, kind: EventKind, time_ns: u64) -> Event {
    let process = Process::Client(i64::try_from(question.process).unwrap_or(i64::MAX));
    let function = Function::from(question.kind.name());
    let mut event = Event::new(process, kind, function, Value::Text(question.key.clone()), Value::Null);
    event.time = i64::try_from(time_ns).ok();
    event.level = Some(question.level.name().to_owned());
    event.trace_id = Some(question.trace_id.clone());
    event.request_id = Some(question.request_id.clone());
    event
}

fn completion_of(question: &Question, finding: &Finding, time_ns: u64) -> Event {
    let kind = match finding {
        Finding::Held(_) | Finding::Shown(_) | Finding::Number(_) | Finding::Applied | Finding::NotApplied => {
            EventKind::Ok
        }
        // A register has no tokens: to its judge, a write that was fenced off is one that was not done.
        Finding::Failed | Finding::FencedOff => EventKind::Fail,
        Finding::Unknown => EventKind::Info,
    };
    let mut event = event_of(question, kind, time_ns);
    event.value = match finding {
        Finding::Held(held) => held_value(held),
        Finding::Shown(values) => Value::List(values.iter().cloned().map(Value::Text).collect()),
        Finding::Number(number) => Value::Integer(i128::from(*number)),
        _ => input_of(question),
    };
    if question.kind == Kind::Cas && kind == EventKind::Ok {
        event.applied = Some(*finding == Finding::Applied);
    }
    event
}

fn input_of(question: &Question) -> Value {
    match question.kind {
        Kind::Read | Kind::Delete | Kind::Acquire | Kind::Renew | Kind::Release => Value::Null,
        Kind::Add if question.values == Values::Counters => {
            let by = question.new.as_deref().and_then(|by| by.parse().ok());
            by.map_or(Value::Null, Value::Integer)
        }
        Kind::Write | Kind::Add => held_value(&question.new),
        Kind::Cas => Value::List(vec![held_value(&question.old), held_value(&question.new)]),
    }
}

fn held_value(held: &Held) -> Value {
    held.clone().map_or(Value::Null, Value::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(process: u64, kind: Kind, old: Option<&str>, new: Option<&str>) -> Question {
        Question {
            process,
            kind,
            values: Values::Registers,
            level: Level::Strict,
            key: "k".to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            request_id: "request-1".to_owned(),
        }
    }

    fn details() -> Details {
        Details { deadline: Duration::from_secs(60), ..Details::default() }
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_history() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::new(Some(&path)).expect("the file can be made");
        let process = recorder.new_process();
        let write = recorder.ask(question(process, Kind::Write, None, Some("a")));
        assert_eq!(recorder.answer(write, &Finding::Applied, details()), process);
        let cas = recorder.ask(question(process, Kind::Cas, Some("a"), Some("b")));
        assert_eq!(recorder.answer(cas, &Finding::NotApplied, details()), process);
        recorder.fault("kill", BTreeMap::from([("target".to_owned(), Value::Text("n3".to_owned()))]));
        let delete = recorder.ask(question(process, Kind::Delete, None, None));
        let next = recorder.answer(delete, &Finding::Unknown, details());
        assert_ne!(next, process, "a process whose operation stays open asks nothing more");
        let record = recorder.take();
        assert_eq!(record.trouble, None);
        let read_back = history::read(std::io::BufReader::new(std::fs::File::open(&path).expect("it was made")));
        let read_back = read_back.expect("our own history is readable");
        assert_eq!(read_back, {
            let mut expected = record.histories[&Values::Registers].clone();
            // The writer numbers the lines; the copy in memory does without.
            for (at, fault) in expected.faults.iter_mut().enumerate() {
                fault.event.index = read_back.faults[at].event.index;
            }
            expected
        });
        assert_eq!(read_back.operations[1].applied, Some(false));
        assert_eq!(read_back.operations[2].outcome, history::Outcome::Info);
        assert_eq!(read_back.faults.len(), 1);
    }

    #[test]
    fn a_read_that_misses_an_acknowledged_write_is_seen_at_once() {
        let recorder = Recorder::new(None).expect("no file is needed");
        for value in ["a", "b"] {
            let write = recorder.ask(question(0, Kind::Write, None, Some(value)));
            recorder.answer(write, &Finding::Applied, details());
        }
        let read = recorder.ask(question(0, Kind::Read, None, None));
        recorder.answer(read, &Finding::Held(Some("a".to_owned())), details());
        assert_eq!(recorder.tally().stale, 1);
        assert_eq!(recorder.lost("k", &Some("a".to_owned())), 1);
        assert_eq!(recorder.lost("k", &Some("b".to_owned())), 0);
        assert_eq!(recorder.take().stale_reads[0].missed, 1);
    }

    #[test]
    fn below_strict_a_read_may_miss_a_write_and_shows_a_list() {
        let recorder = Recorder::new(None).expect("no file is needed");
        let causal = |kind, new| Question { level: Level::Causal, ..question(0, kind, None, new) };
        let write = recorder.ask(causal(Kind::Write, Some("a")));
        recorder.answer(write, &Finding::Applied, details());
        let read = recorder.ask(causal(Kind::Read, None));
        recorder.answer(read, &Finding::Shown(Vec::new()), details());
        assert_eq!(recorder.tally().stale, 0);
        assert_eq!(recorder.keys(), Vec::new(), "the final strict read is of ordered keys");
        let record = recorder.take();
        assert_eq!(record.operations[0].level, Level::Causal);
        let read = &record.histories[&Values::Registers].operations[1];
        assert_eq!((read.level.as_deref(), &read.output), (Some("causal"), &Value::List(Vec::new())));
    }

    #[test]
    fn a_sequential_read_may_be_stale_and_what_is_lost_at_the_end_is_counted() {
        let recorder = Recorder::new(None).expect("no file is needed");
        let sequential = |kind, new| Question { level: Level::Sequential, ..question(0, kind, None, new) };
        for value in ["a", "b"] {
            let write = recorder.ask(sequential(Kind::Write, Some(value)));
            recorder.answer(write, &Finding::Applied, details());
        }
        let read = recorder.ask(sequential(Kind::Read, None));
        recorder.answer(read, &Finding::Held(Some("a".to_owned())), details());
        assert_eq!(recorder.tally().stale, 0);
        assert_eq!(recorder.keys(), [("k".to_owned(), Level::Sequential)]);
        assert_eq!(recorder.lost("k", &Some("a".to_owned())), 1, "a strict read at the end may not be stale");
        assert_eq!(recorder.take().acknowledged, BTreeMap::from([(Level::Sequential, 2)]));
    }

    #[test]
    fn sets_and_counters_have_histories_of_their_own_with_every_fault() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("counters.jsonl");
        let recorder = Recorder::new(None).expect("no file is needed");
        recorder.keep(Values::Counters, Some(&path)).expect("the file can be made");
        let of = |values, kind, new| Question { values, level: Level::Causal, ..question(0, kind, None, new) };
        let element = recorder.ask(of(Values::Sets, Kind::Add, Some("e")));
        recorder.answer(element, &Finding::Applied, details());
        let add = recorder.ask(of(Values::Counters, Kind::Add, Some("5")));
        recorder.answer(add, &Finding::Applied, details());
        recorder.fault("kill", BTreeMap::new());
        let read = recorder.ask(of(Values::Counters, Kind::Read, None));
        recorder.answer(read, &Finding::Number(5), details());
        assert_eq!(recorder.tally().ok, 3);
        let record = recorder.take();
        let set = &record.histories[&Values::Sets];
        assert_eq!((&set.operations[0].input, set.faults.len()), (&Value::from("e"), 1));
        let counter = history::read(std::io::BufReader::new(std::fs::File::open(&path).expect("it was made")));
        let counter = counter.expect("our own history is readable");
        assert_eq!(counter.operations, record.histories[&Values::Counters].operations);
        assert_eq!((&counter.operations[0].input, &counter.operations[1].output), (&5.into(), &5.into()));
        assert_eq!(counter.faults.len(), 1);
    }

    #[test]
    fn an_answer_after_the_deadline_counts_as_failed_and_stays_in_the_history_as_it_was() {
        let recorder = Recorder::new(None).expect("no file is needed");
        let write = recorder.ask(question(0, Kind::Write, None, Some("a")));
        recorder.answer(write, &Finding::Applied, Details { deadline: Duration::ZERO, ..Details::default() });
        assert_eq!(recorder.tally(), Tally { total: 1, failed: 1, ..Tally::default() });
        assert_eq!(recorder.take().histories[&Values::Registers].operations[0].outcome, history::Outcome::Ok);
    }
}
