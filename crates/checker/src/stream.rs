//! Histories too long to be held: judged piece by piece, in memory that does not grow with their length.
//!
//! Level strict, model register: each key by itself. A key's history is cut where a read shows what is there while
//! nothing else is under way on the key: what comes before ends with that value, what comes after begins with it. An
//! operation of unknown outcome whose value has not been seen yet is carried over; it is tried where its value is seen,
//! and elsewhere only if nothing else explains a piece. What this can miss: one of unknown
//! outcome that writes what others write too (a deletion, above all) may be taken to have acted once in each piece.
//!
//! Levels sequential and causal: windows of operations that overlap by half, as in `sequential.rs`. What this can miss:
//! a contradiction that spans more than half a window. What it relies on: no two operations write the same value to a
//! key (deletions apart), or one of them may be taken for the other from another window.
//!
//! Models set, counter and lock, and level eventual, need all of a key at once: a history that is too long for them is
//! undecided, never guessed at.

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead;

use history::{Function, OpenOperations, Operation, Outcome, Paired, Pairing, Reader, Value};

use crate::check::{CheckError, Judgement, is_weaker};
use crate::explain::{self, VIOLATIONS_EXPLAINED_MAX};
use crate::options::{Budget, Level, Model, Options};
use crate::register::{self, Action, OPEN, Step};
use crate::report::Report;
use crate::search::{self, Found};
use crate::sequential::WINDOW_OPERATIONS;
use crate::weaker;

/// A key is not cut before it has so many operations: cutting costs, too.
const PIECE_OPERATIONS_MIN: usize = 256;
/// A key that offers no place to cut for so long is given up.
const PIECE_OPERATIONS_MAX: usize = 200_000;
/// Unknown outcomes that are carried on one key.
const CARRIED_MAX: usize = 10_000;
/// An operation that stays open for so many lines is taken as unknown, so that windows can go on.
const OPEN_LINES_MAX: u64 = 4 * WINDOW_OPERATIONS as u64;

/// Goes on from what has been read so far.
pub(crate) fn check(pairing: Pairing, reader: Reader<impl BufRead>, options: &Options) -> Result<Report, CheckError> {
    let mut budget = Budget::new(&options.limit);
    let mut report = Report::new(options);
    let (ended, _, mut open) = pairing.into_stream();
    let whole_only = options.level == Level::Eventual || options.model != Model::Register;
    let mut windows = Windows { options, ended: BTreeMap::new(), count: 0 };
    let mut keys: BTreeMap<Value, Pieces> = BTreeMap::new();
    let mut last = 0;
    let mut take = |operation: Option<Operation>, line: u64, open: &OpenOperations, report: &mut Report| {
        if let Some(operation) = operation {
            report.ops += 1;
            report.unknown += u64::from(operation.outcome == Outcome::Info);
            if is_weaker(&operation, options.level) {
                report.left_out += 1;
                if operation.f == Function::Read {
                    return Ok(());
                }
            }
            if whole_only {
                keys.entry(operation.key).or_default().given_up = true;
            } else if options.level == Level::Strict {
                let pieces = keys.entry(operation.key.clone()).or_default();
                pieces.take(operation, open, options, report, &mut budget)?;
            } else {
                windows.take(operation);
            }
        }
        windows.judge(line, open, false, report, &mut budget)
    };
    replay(ended, &open, |operation, line, under_way| {
        last = line;
        take(Some(operation), line, under_way, &mut report)
    })?;
    for event in reader {
        let (line, event) = event?;
        match open.push(line, event)? {
            Paired::Ended(operation) => take(Some(operation), line, &open, &mut report)?,
            Paired::Begun | Paired::Fault(_) => {}
        }
        last = line;
    }
    let still_open: Vec<Operation> = open.iter().cloned().collect();
    let nobody = OpenOperations::default();
    for operation in still_open {
        take(Some(operation), last, &nobody, &mut report)?;
    }
    windows.judge(last, &nobody, true, &mut report, &mut budget)?;
    report.keys = keys.len() as u64;
    for (key, mut pieces) in keys {
        let judgement = pieces.finish(&key, &mut report, &mut budget)?;
        report.add(&key, judgement);
    }
    report.steps = budget.steps();
    report.conclude();
    Ok(report)
}

/// Hands over what had ended when the history turned out to be too long: one by one as they ended, with what was under
/// way at that moment. Who cuts a history must know that. One of unknown outcome is handed over as it begins, for it is
/// under way for ever, and its place is where its effect may first be seen.
fn replay(
    ended: Vec<Operation>,
    open: &OpenOperations,
    mut take: impl FnMut(Operation, u64, &OpenOperations) -> Result<(), CheckError>,
) -> Result<(), CheckError> {
    let mut moments: Vec<(u64, Moment)> = Vec::with_capacity(2 * ended.len());
    for (at, operation) in ended.iter().enumerate() {
        if let Some(completed_at) = operation.completed_at {
            moments.push((operation.invoked_at, Moment::Begins(at)));
            moments.push((completed_at, Moment::Ends(at)));
        } else {
            moments.push((operation.invoked_at, Moment::Ends(at)));
        }
    }
    moments.extend(open.iter().map(|operation| (operation.invoked_at, Moment::Stays(operation))));
    moments.sort_by_key(|(line, _)| *line);
    let mut ended: Vec<Option<Operation>> = ended.into_iter().map(Some).collect();
    let mut under_way = OpenOperations::default();
    for (line, moment) in moments {
        match moment {
            Moment::Stays(operation) => under_way.begin(operation.clone()),
            Moment::Begins(at) => ended[at].iter().for_each(|operation| under_way.begin(operation.clone())),
            Moment::Ends(at) => {
                if let Some(operation) = ended[at].take() {
                    under_way.end(&operation.process);
                    take(operation, line, &under_way)?;
                }
            }
        }
    }
    Ok(())
}

/// What a line of a history means for its operation.
enum Moment<'o> {
    Begins(usize),
    Ends(usize),
    /// It begins, and has not ended yet.
    Stays(&'o Operation),
}

/// Windows over all keys, for the levels below strict.
struct Windows<'o> {
    options: &'o Options,
    /// By their invocation.
    ended: BTreeMap<u64, Operation>,
    count: u64,
}

impl Windows<'_> {
    fn take(&mut self, operation: Operation) {
        self.ended.insert(operation.invoked_at, operation);
    }

    /// Judges a window if there is one that nothing can be added to any more, or what is left at the end.
    fn judge(
        &mut self,
        line: u64,
        open: &OpenOperations,
        end: bool,
        report: &mut Report,
        budget: &mut Budget<'_>,
    ) -> Result<(), CheckError> {
        if self.ended.len() < WINDOW_OPERATIONS && (!end || self.ended.is_empty()) {
            return Ok(());
        }
        let patient = |operation: &&Operation| line < operation.invoked_at + OPEN_LINES_MAX;
        let first_open = open.iter().filter(patient).map(|operation| operation.invoked_at).min();
        let complete = self.ended.range(..first_open.unwrap_or(u64::MAX)).count();
        if complete < WINDOW_OPERATIONS && !end {
            return Ok(());
        }
        let operations: Vec<&Operation> = self.ended.values().take(WINDOW_OPERATIONS).collect();
        let weaker_keys: HashSet<&Value> =
            operations.iter().filter(|o| is_weaker(o, self.options.level)).map(|o| &o.key).collect();
        let judged: Vec<&Operation> = operations.into_iter().filter(|o| !weaker_keys.contains(&o.key)).collect();
        let mut claims = weaker::read(&judged, self.options)?;
        // What the first window begins with is the beginning; the others begin in the middle.
        if self.count > 0 {
            claims = claims.in_the_middle();
        }
        self.count += 1;
        report.windows = self.count;
        let window = weaker::judge_window(&claims, self.options, budget)?;
        weaker::take(window, &claims.keys, report);
        let half = if end { self.ended.len().min(WINDOW_OPERATIONS) } else { WINDOW_OPERATIONS / 2 };
        if let Some(from) = self.ended.keys().nth(half).copied() {
            self.ended = self.ended.split_off(&from);
            if end {
                return self.judge(line, open, end, report, budget);
            }
        } else {
            self.ended.clear();
        }
        Ok(())
    }
}

/// One key's history since the last cut.
#[derive(Default)]
struct Pieces {
    operations: Vec<Operation>,
    /// Whether the first operation is the read that the last cut was made at.
    begun: bool,
    /// Those of unknown outcome that nobody has seen yet.
    carried: Vec<Operation>,
    /// The last line on which an update began or ended, as far as is known.
    updated_at: u64,
    violated: bool,
    given_up: bool,
}

impl Pieces {
    fn take(
        &mut self,
        operation: Operation,
        open: &OpenOperations,
        options: &Options,
        report: &mut Report,
        budget: &mut Budget<'_>,
    ) -> Result<(), CheckError> {
        if self.given_up || self.violated {
            return Ok(());
        }
        if is_weaker(&operation, options.level) {
            // A key that is written at a weaker level promises nothing.
            self.given_up = true;
            return Ok(());
        }
        let pins = operation.f == Function::Read
            && operation.outcome == Outcome::Ok
            && operation.invoked_at > self.updated_at
            && self.operations.len() >= PIECE_OPERATIONS_MIN
            && !open.iter().any(|other| other.key == operation.key);
        if operation.f != Function::Read {
            self.updated_at = self.updated_at.max(operation.completed_at.unwrap_or(operation.invoked_at));
        }
        let key = operation.key.clone();
        self.operations.push(operation);
        if pins {
            report.windows += 1;
            self.cut(&key, report, budget)?;
        }
        self.given_up |= self.operations.len() > PIECE_OPERATIONS_MAX || self.carried.len() > CARRIED_MAX;
        if self.given_up {
            self.operations.clear();
        }
        Ok(())
    }

    /// Judges what there is, and begins anew with the last read.
    fn cut(&mut self, key: &Value, report: &mut Report, budget: &mut Budget<'_>) -> Result<(), CheckError> {
        // The last one that ended; of those that are judged, another one may have begun last.
        let Some(mut pin) = self.operations.last().cloned() else { return Ok(()) };
        match self.judge(key, report, budget)? {
            Judgement::Valid => {}
            Judgement::Undecided => self.given_up = true,
            Judgement::Violated(violation) => {
                self.violated = true;
                report.violations.push(violation);
            }
        }
        let mut all = self.operations.iter().chain(&self.carried);
        // What it stands for may end in a later piece.
        pin.ttl_ms = all.find(|o| o.ttl_ms.is_some() && written(o) == Some(&pin.output)).and_then(|o| o.ttl_ms);
        let seen: HashSet<&Value> = self.operations.iter().flat_map(observed).chain([&pin.output]).collect();
        let unknown = |operation: &Operation| operation.outcome == Outcome::Info && operation.f != Function::Read;
        let unseen = |operation: &Operation| written(operation).is_none_or(|value| !seen.contains(value));
        let mut carried: Vec<Operation> = self.operations.iter().filter(|o| unknown(o) && unseen(o)).cloned().collect();
        carried.extend(self.carried.iter().filter(|o| unseen(o)).cloned());
        // What grows by an unknown step cannot be told to have been seen.
        self.given_up |= carried.iter().any(|o| matches!(o.f, Function::Add | Function::Append));
        self.carried = carried;
        self.operations = vec![pin];
        self.begun = true;
        Ok(())
    }

    fn judge(&mut self, key: &Value, report: &Report, budget: &mut Budget<'_>) -> Result<Judgement, CheckError> {
        self.operations.sort_by_key(|operation| operation.invoked_at);
        let seen: HashSet<&Value> = self.operations.iter().flat_map(observed).collect();
        // Of what is carried, hardly anything is seen in this piece, and all of it would be tried everywhere. The rest
        // can still matter, unseen: it may be why a condition did not hold.
        let is_seen = |operation: &&Operation| written(operation).is_some_and(|value| seen.contains(value));
        let likely: Vec<&Operation> = self.carried.iter().filter(is_seen).collect();
        if likely.len() < self.carried.len() {
            let found = self.judge_with(&likely, key, report, budget)?;
            if matches!(found, Judgement::Valid) {
                return Ok(found);
            }
        }
        self.judge_with(&self.carried.iter().collect::<Vec<_>>(), key, report, budget)
    }

    /// Judges the piece with these of the carried operations; they may act in it, and need not.
    fn judge_with(
        &self,
        carried: &[&Operation],
        key: &Value,
        report: &Report,
        budget: &mut Budget<'_>,
    ) -> Result<Judgement, CheckError> {
        let all: Vec<&Operation> = self.operations.iter().chain(carried.iter().copied()).collect();
        let mut steps = register::steps(&all)?;
        for step in &mut steps {
            // Room before the first line for what the piece begins with and for what is carried.
            let carried = step.source >= self.operations.len();
            step.call = if carried { 2 } else { step.call.saturating_add(3) };
            step.ret = if carried { OPEN } else { step.ret.saturating_add(3) };
        }
        if self.begun
            && let Some(first) = steps.iter_mut().find(|step| step.source == 0 && step.must)
            && let Action::Read(value) = &first.action
        {
            *first = Step { action: Action::Write(value.clone()), call: 0, ret: 1, must: true, source: 0 };
        }
        steps.sort_by_key(|step| step.call);
        let explained = report.violations.len() < VIOLATIONS_EXPLAINED_MAX;
        Ok(match search::search(&steps, budget) {
            Found::Explained => Judgement::Valid,
            Found::GaveUp => Judgement::Undecided,
            Found::Unexplained { at, source } => {
                let place = explain::Place { at, source };
                Judgement::Violated(explain::violation(key, &all, &steps, place, explained))
            }
        })
    }

    fn finish(&mut self, key: &Value, report: &mut Report, budget: &mut Budget<'_>) -> Result<Judgement, CheckError> {
        if self.violated {
            // It stands in the report already, and counts as decided.
            let found = report.violations.iter().position(|violation| violation.key == *key);
            return Ok(found.map_or(Judgement::Undecided, |at| Judgement::Violated(report.violations.remove(at))));
        }
        if self.given_up { Ok(Judgement::Undecided) } else { self.judge(key, report, budget) }
    }
}

/// What an operation was told to be there before it.
fn observed(operation: &Operation) -> Option<&Value> {
    match (&operation.f, operation.input.as_list()) {
        (Function::Read, _) if operation.outcome == Outcome::Ok => Some(&operation.output),
        (Function::Cas, Some([old, _])) if operation.applied != Some(false) => Some(old),
        _ => None,
    }
}

/// What an operation leaves there.
fn written(operation: &Operation) -> Option<&Value> {
    match (&operation.f, operation.input.as_list()) {
        (Function::Write, _) => Some(&operation.input),
        (Function::Cas, Some([_, new])) => Some(new),
        _ => None,
    }
}
