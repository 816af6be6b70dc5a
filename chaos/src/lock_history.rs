//! What the clients of locks asked and were told: a history of its own, for the checker's model `lock`, judged
//! while the run goes on.
//!
//! It is cut into *generations*. One uses its own set of locks for a while; when all of its clients have ended, its
//! history is judged and forgotten, while the next generation is busy with the other set. What must outlive the cut is
//! carried to the set's next turn: the greatest token that was granted, and the greatest that was let through.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checker::{Limit, Model, Options};
use history::{Event, EventKind, Function, Operation, Outcome, Pairing, Process, Value};

use crate::recorder::Recorder;
use crate::verdict::{Check, LockReport};

/// A call as its client is about to make it.
#[derive(Clone, Debug)]
pub struct LockQuestion {
    /// Which generation the client belongs to.
    pub generation: u64,
    /// Who asks.
    pub process: u64,
    /// `acquire`, `renew`, `release` or `use`.
    pub f: &'static str,
    /// The lock.
    pub lock: String,
    /// What it is asked with: `{"fence":N}`, with `ttl_ms` for a renewal; `null` for an acquisition.
    pub input: Value,
    /// The trace of the request, 32 hex digits; empty while it is not known.
    pub trace_id: String,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockFinding {
    /// The lock was granted under this token, or its lease renewed, for at least so many milliseconds.
    Granted(u64, u64),
    /// Another holds it.
    Held,
    /// A release or a use took effect.
    Done,
    /// A renewal or a use was refused, for its token.
    FencedOff,
    /// Surely no effect.
    Failed,
    /// It may or may not act.
    Unknown,
}

/// The record of all calls on locks.
pub struct LockBook {
    recorder: Arc<Recorder>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    file: Option<history::Writer<BufWriter<File>>>,
    lines: u64,
    generations: BTreeMap<u64, Pairing>,
    /// By lock: what its next generation begins with.
    carried: BTreeMap<Value, Vec<Operation>>,
    check: Check,
    report: LockReport,
    trouble: Option<String>,
}

/// Violations told as examples.
const EXAMPLES_MAX: usize = 8;

impl LockBook {
    /// A book on the recorder's clock, whose history also goes to `file`, if one is named.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(recorder: Arc<Recorder>, file: Option<&Path>) -> std::io::Result<LockBook> {
        let file = match file {
            Some(path) => Some(history::Writer::new(BufWriter::new(File::create(path)?))),
            None => None,
        };
        let check = Check { name: "locks".to_owned(), level: "strict".to_owned(), decided: true, ..Check::default() };
        Ok(LockBook { recorder, inner: Mutex::new(Inner { file, check, ..Inner::default() }) })
    }

    /// Records a call. To be called before its request is sent.
    pub fn ask(&self, question: &LockQuestion) {
        self.lock().write(question, EventKind::Invoke, question.input.clone(), None, self.recorder.now_ns());
    }

    /// Records its answer. To be called once it is there. Returns the process number to go on with.
    pub fn answer(&self, question: &LockQuestion, finding: LockFinding) -> u64 {
        let (kind, value, applied) = match finding {
            LockFinding::Granted(fence, ttl_ms) => (EventKind::Ok, grant_value(fence, Some(ttl_ms)), None),
            LockFinding::Done => (EventKind::Ok, Value::Null, None),
            LockFinding::FencedOff => (EventKind::Ok, Value::Null, Some(false)),
            LockFinding::Held | LockFinding::Failed => (EventKind::Fail, Value::Null, None),
            LockFinding::Unknown => (EventKind::Info, Value::Null, None),
        };
        let mut inner = self.lock();
        inner.write(question, kind, value, applied, self.recorder.now_ns());
        inner.count(question.f, finding);
        drop(inner);
        if finding == LockFinding::Unknown { self.recorder.new_process() } else { question.process }
    }

    /// Judges a generation whose clients have all ended, in a thread of its own, within `limit`.
    pub async fn judge(self: Arc<LockBook>, generation: u64, limit: Duration) {
        let operations = self.lock().take(generation);
        let ops = operations.len() as u64;
        let judged = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let limit = Limit::time(limit, move || start.elapsed());
            checker::check_operations(&operations, &Options { model: Model::Lock, limit, ..Options::default() })
        })
        .await;
        let mut inner = self.lock();
        let check = &mut inner.check;
        check.ops += ops;
        let sentences: Vec<String> = match judged {
            Ok(Ok(report)) => {
                check.decided &= report.undecided.is_empty() && report.decided == report.keys;
                check.violations += report.violations.len() as u64;
                let sentence = |violation: &checker::Violation| {
                    format!("{} (traces {})", violation.sentence, violation.trace_ids.join(", "))
                };
                report.violations.iter().map(sentence).collect()
            }
            Ok(Err(error)) => {
                check.decided = false;
                vec![stdx::error_chain(&error)]
            }
            Err(error) => {
                check.decided = false;
                vec![format!("the check did not come to an end: {error}")]
            }
        };
        for sentence in sentences {
            tracing::error!(generation, sentence, "a history of locks is not explained");
            if check.examples.len() < EXAMPLES_MAX {
                check.examples.push(sentence);
            }
        }
    }

    /// The sum of all judgements, the counts, and what is wrong with the record itself.
    pub fn conclude(&self) -> (Check, LockReport, Option<String>) {
        let mut inner = self.lock();
        if let Some(file) = inner.file.as_mut()
            && let Err(error) = file.flush()
        {
            inner.trouble.get_or_insert(format!("the history of locks could not be written: {error}"));
        }
        (inner.check.clone(), inner.report, inner.trouble.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, question: &LockQuestion, kind: EventKind, value: Value, applied: Option<bool>, now_ns: u64) {
        let process = Process::Client(i64::try_from(question.process).unwrap_or(i64::MAX));
        let lock = Value::Text(question.lock.clone());
        let mut event = Event::new(process, kind, Function::from(question.f), lock, value);
        event.time = i64::try_from(now_ns).ok();
        event.level = Some("strict".to_owned());
        event.trace_id = Some(question.trace_id.clone()).filter(|id| !id.is_empty());
        event.applied = applied;
        self.lines += 1;
        if let Some(file) = self.file.as_mut()
            && let Err(error) = file.write(&event)
        {
            self.trouble.get_or_insert(format!("the history of locks could not be written: {error}"));
        }
        let pairing = self.generations.entry(question.generation).or_default();
        if let Err(error) = pairing.push(self.lines, event) {
            self.trouble.get_or_insert(format!("the history of locks contradicts itself: {error}"));
        }
    }

    fn count(&mut self, f: &str, finding: LockFinding) {
        let report = &mut self.report;
        match (f, finding) {
            ("renew", LockFinding::Granted(..)) => report.renewed += 1,
            (_, LockFinding::Granted(..)) => report.granted += 1,
            (_, LockFinding::Held) => report.held += 1,
            ("use", LockFinding::Done) => report.writes += 1,
            ("use", LockFinding::FencedOff) => report.fenced_off += 1,
            ("renew", LockFinding::FencedOff) => report.lost += 1,
            _ => {}
        }
    }

    /// A generation's operations, behind what they have to agree with; what it found is carried on.
    fn take(&mut self, generation: u64) -> Vec<Operation> {
        let ended = self.generations.remove(&generation).unwrap_or_default().finish().operations;
        let mut operations = Vec::new();
        let mut locks: Vec<Value> = ended.iter().map(|operation| operation.key.clone()).collect();
        locks.sort();
        locks.dedup();
        for lock in locks {
            let own = || ended.iter().filter(|operation| operation.key == lock);
            let before = self.carried.remove(&lock).unwrap_or_default();
            operations.extend(before.iter().cloned());
            let greatest = |f: &str| {
                let all = before.iter().chain(own()).filter(|operation| operation.f == Function::from(f));
                all.filter(|operation| fence_of(operation).is_some())
                    .max_by_key(|operation| fence_of(operation))
                    .cloned()
            };
            let granted = greatest("acquire").map(|acquired| {
                // Its lease is over by the set's next turn, however it ended; what binds is the token.
                let over = fence_of(&acquired).and_then(|fence| u64::try_from(fence).ok());
                Operation { output: over.map_or(Value::Null, |fence| grant_value(fence, Some(0))), ..acquired }
            });
            let carried = [granted, greatest("use")].into_iter().flatten().collect();
            self.carried.insert(lock, carried);
        }
        operations.extend(ended);
        operations
    }
}

/// The token that was granted, or let through; none where neither is sure.
fn fence_of(operation: &Operation) -> Option<i128> {
    let sure = operation.outcome == Outcome::Ok && operation.applied != Some(false);
    let value = if operation.f == Function::from("acquire") { &operation.output } else { &operation.input };
    let Value::Map(words) = value else { return None };
    words.get("fence").filter(|_| sure).and_then(Value::as_integer)
}

/// A token as the history writes it, with the time that it is relied on.
pub fn grant_value(fence: u64, ttl_ms: Option<u64>) -> Value {
    let mut words = BTreeMap::from([("fence".to_owned(), Value::Integer(i128::from(fence)))]);
    if let Some(ttl_ms) = ttl_ms {
        words.insert("ttl_ms".to_owned(), Value::Integer(i128::from(ttl_ms)));
    }
    Value::Map(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn book(file: Option<&Path>) -> Arc<LockBook> {
        let recorder = Arc::new(Recorder::new(None).expect("no file is needed"));
        Arc::new(LockBook::new(recorder, file).expect("the file can be made"))
    }

    fn tell(book: &LockBook, generation: u64, f: &'static str, fence: Option<u64>, finding: LockFinding) -> u64 {
        let input = fence.map_or(Value::Null, |fence| grant_value(fence, None));
        let process = book.recorder.new_process();
        let trace_id = "0af7651916cd43dd8448eb211c80319c".to_owned();
        let question = LockQuestion { generation, process, f, lock: "l".to_owned(), input, trace_id };
        book.ask(&question);
        book.answer(&question, finding)
    }

    /// One client that takes the lock under `fence`, writes, and gives it back.
    fn cycle(book: &LockBook, generation: u64, fence: u64) {
        tell(book, generation, "acquire", None, LockFinding::Granted(fence, 60_000));
        tell(book, generation, "use", Some(fence), LockFinding::Done);
        tell(book, generation, "release", Some(fence), LockFinding::Done);
    }

    #[tokio::test]
    async fn each_generation_is_judged_and_what_it_found_binds_the_next() {
        let book = book(None);
        cycle(&book, 0, 5);
        Arc::clone(&book).judge(0, LIMIT).await;
        cycle(&book, 1, 6);
        tell(&book, 1, "use", Some(5), LockFinding::FencedOff);
        Arc::clone(&book).judge(1, LIMIT).await;
        let (check, report, trouble) = book.conclude();
        assert_eq!((check.violations, check.decided, trouble), (0, true, None), "{check:?}");
        assert_eq!((report.granted, report.writes, report.fenced_off), (2, 2, 1));
        tell(&book, 2, "use", Some(5), LockFinding::Done);
        Arc::clone(&book).judge(2, LIMIT).await;
        assert_eq!(book.conclude().0.violations, 1, "an old token was let through, two generations later");
        tell(&book, 3, "acquire", None, LockFinding::Granted(6, 10));
        Arc::clone(&book).judge(3, LIMIT).await;
        assert_eq!(book.conclude().0.violations, 2, "a token was granted twice");
    }

    #[tokio::test]
    async fn two_holders_are_found_and_the_file_says_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("locks.jsonl");
        let book = book(Some(&path));
        tell(&book, 0, "acquire", None, LockFinding::Granted(1, 60_000));
        tell(&book, 0, "acquire", None, LockFinding::Held);
        let next = tell(&book, 0, "acquire", None, LockFinding::Unknown);
        assert!(next > 2, "a process whose operation stays open asks nothing more");
        tell(&book, 0, "acquire", None, LockFinding::Granted(2, 60_000));
        Arc::clone(&book).judge(0, LIMIT).await;
        let (check, ..) = book.conclude();
        assert_eq!((check.violations, check.ops), (1, 4), "{check:?}");
        let file = std::io::BufReader::new(File::open(&path).expect("it was made"));
        let report = checker::check(file, &Options { model: Model::Lock, ..Options::default() }).expect("readable");
        assert_eq!(report.violations.len(), 1);
    }
}
