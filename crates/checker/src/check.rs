use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

use history::{Fault, Function, History, HistoryError, Operation, Outcome, Pairing, Reader, Value};

use crate::counter;
use crate::explain::{self, VIOLATIONS_EXPLAINED_MAX};
use crate::lock;
use crate::options::{Budget, Level, Model, Options};
use crate::register;
use crate::report::{Report, Verdict, Violation};
use crate::search::{self, Found};
use crate::set;
use crate::stream;
use crate::weaker;

/// Why nothing can be said of a history.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A line that cannot be read, or that does not fit what went before.
    #[error("the history is unreadable: {0}")]
    History(#[from] HistoryError),
    /// An operation that the model has no meaning for; another model may.
    #[error("line {line}: `{f}`: {why}")]
    Operation {
        /// The line of its invocation.
        line: u64,
        /// What was asked.
        f: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads a history and judges it, in memory that does not grow with its length once it is longer than
/// [`Options::whole_max`]: see `stream.rs` for what that costs.
///
/// # Errors
/// It cannot be read, or an operation has no meaning in the model.
pub fn check(input: impl BufRead, options: &Options) -> Result<Report, CheckError> {
    let mut pairing = Pairing::default();
    let mut reader = Reader::new(input);
    while let Some(event) = reader.next() {
        let (line, event) = event?;
        pairing.push(line, event)?;
        if pairing.operations().len() > options.whole_max {
            return stream::check(pairing, reader, options);
        }
    }
    check_history(&pairing.finish(), options)
}

/// Judges a history that is in memory already.
///
/// # Errors
/// An operation has no meaning in the model.
pub fn check_operations(operations: &[Operation], options: &Options) -> Result<Report, CheckError> {
    judge_all(operations, None, options)
}

/// Judges a paired history; level eventual heeds its fault line `settled`.
///
/// # Errors
/// An operation has no meaning in the model.
pub fn check_history(history: &History, options: &Options) -> Result<Report, CheckError> {
    judge_all(&history.operations, settled(&history.faults), options)
}

/// The line from which on everything had settled, if the history says so.
pub(crate) fn settled(faults: &[Fault]) -> Option<u64> {
    let named = |fault: &&Fault| matches!(&fault.event.f, Function::Other(name) if name == SETTLED);
    faults.iter().filter(named).map(|fault| fault.line).max()
}

/// The fault line that says that updates have stopped and everything is healed.
pub const SETTLED: &str = "settled";

fn judge_all(operations: &[Operation], settled: Option<u64>, options: &Options) -> Result<Report, CheckError> {
    let mut budget = Budget::new(&options.limit);
    let (keys, left_out) = by_key(operations, options.level);
    let mut report = Report::new(options);
    report.ops = operations.len() as u64;
    report.unknown = operations.iter().filter(|operation| operation.outcome == Outcome::Info).count() as u64;
    report.left_out = left_out;
    report.keys = keys.len() as u64;
    if options.level == Level::Strict {
        for (key, operations) in &keys {
            let explained = report.violations.len() < VIOLATIONS_EXPLAINED_MAX;
            let judgement = judge(key, operations, options.model, explained, &mut budget)?;
            report.add(key, judgement);
        }
    } else {
        let operations: Vec<&Operation> = keys.into_values().flatten().collect();
        weaker::judge(&operations, settled, options, &mut budget, &mut report)?;
    }
    report.steps = budget.steps();
    report.conclude();
    Ok(report)
}

/// The exit code of a command that checks: 0 valid, 1 violated, 2 unreadable, 3 undecided.
pub fn exit_code(result: &Result<Report, CheckError>) -> u8 {
    match result.as_ref().map(|report| report.verdict) {
        Ok(Verdict::Valid) => 0,
        Ok(Verdict::Violated) => 1,
        Err(_) => 2,
        Ok(Verdict::Undecided) => 3,
    }
}

/// What is known of one key.
pub(crate) enum Judgement {
    Valid,
    Violated(Violation),
    Undecided,
}

pub(crate) fn judge(
    key: &Value,
    operations: &[&Operation],
    model: Model,
    explained: bool,
    budget: &mut Budget<'_>,
) -> Result<Judgement, CheckError> {
    match model {
        Model::Register => {
            let steps = register::steps(operations)?;
            Ok(match search::search(&steps, budget) {
                Found::Explained => Judgement::Valid,
                Found::GaveUp => Judgement::Undecided,
                Found::Unexplained { at, source } => {
                    let place = explain::Place { at, source };
                    Judgement::Violated(explain::violation(key, operations, &steps, place, explained))
                }
            })
        }
        Model::Set => set::judge(key, operations, budget),
        Model::Counter => counter::judge(key, operations, budget),
        Model::Lock => lock::judge(key, operations, budget),
    }
}

/// Operations by key, in the order of invocation, and how many were left out because they promise less than `level`:
/// reads that asked for less, and all of a key that was written at a weaker level.
pub(crate) fn by_key(operations: &[Operation], level: Level) -> (BTreeMap<&Value, Vec<&Operation>>, u64) {
    let mut keys: BTreeMap<&Value, Vec<&Operation>> = BTreeMap::new();
    let weaker_writes =
        operations.iter().filter(|operation| operation.f != Function::Read && is_weaker(operation, level));
    let weaker_keys: BTreeSet<&Value> = weaker_writes.map(|operation| &operation.key).collect();
    let mut left_out = 0;
    for operation in operations {
        if is_weaker(operation, level) || weaker_keys.contains(&operation.key) {
            left_out += 1;
        } else {
            keys.entry(&operation.key).or_default().push(operation);
        }
    }
    (keys, left_out)
}

/// Whether an operation promises less than `level`. One that names no level promises what is checked.
pub(crate) fn is_weaker(operation: &Operation, level: Level) -> bool {
    operation.level.as_deref().and_then(|name| name.parse::<Level>().ok()).is_some_and(|own| own < level)
}
