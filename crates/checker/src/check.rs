use std::collections::BTreeMap;
use std::io::BufRead;

use history::{Function, HistoryError, Operation, Outcome, Value};

use crate::counter;
use crate::explain::{self, VIOLATIONS_EXPLAINED_MAX};
use crate::options::{Budget, Model, Options};
use crate::register;
use crate::report::{Report, Verdict, Violation};
use crate::search::{self, Found};
use crate::set;

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

/// Reads a history and judges it.
///
/// # Errors
/// It cannot be read, or an operation has no meaning in the model.
pub fn check(input: impl BufRead, options: &Options) -> Result<Report, CheckError> {
    check_operations(&history::read(input)?.operations, options)
}

/// Judges a history that is in memory already.
///
/// # Errors
/// An operation has no meaning in the model.
pub fn check_operations(operations: &[Operation], options: &Options) -> Result<Report, CheckError> {
    let mut budget = Budget::new(&options.limit);
    let (keys, left_out) = by_key(operations)?;
    let mut report = Report {
        verdict: Verdict::Valid,
        model: options.model,
        level: options.level,
        ops: operations.len() as u64,
        unknown: operations.iter().filter(|operation| operation.outcome == Outcome::Info).count() as u64,
        left_out,
        keys: keys.len() as u64,
        decided: 0,
        undecided: Vec::new(),
        violations: Vec::new(),
        steps: 0,
    };
    for (key, operations) in &keys {
        let explained = report.violations.len() < VIOLATIONS_EXPLAINED_MAX;
        match judge(key, operations, options.model, explained, &mut budget)? {
            Judgement::Valid => report.decided += 1,
            Judgement::Violated(violation) => {
                report.decided += 1;
                report.violations.push(violation);
            }
            Judgement::Undecided => report.undecided.push((*key).clone()),
        }
    }
    report.steps = budget.steps();
    report.verdict = match (report.violations.is_empty(), report.undecided.is_empty()) {
        (false, _) => Verdict::Violated,
        (true, false) => Verdict::Undecided,
        (true, true) => Verdict::Valid,
    };
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

fn judge(
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
    }
}

/// Operations by key, in the order of invocation, without the reads of weaker levels, which are counted.
pub(crate) fn by_key(operations: &[Operation]) -> Result<(BTreeMap<&Value, Vec<&Operation>>, u64), CheckError> {
    let mut keys: BTreeMap<&Value, Vec<&Operation>> = BTreeMap::new();
    let mut left_out = 0;
    for operation in operations {
        let list = keys.entry(&operation.key).or_default();
        match operation.level.as_deref() {
            None | Some("strict") => list.push(operation),
            // It promises less than what is checked, and changes nothing for the others.
            Some("sequential" | "causal" | "eventual") if operation.f == Function::Read => left_out += 1,
            Some(level) => {
                let why = format!("its level is `{level}`, and this build checks level strict");
                return Err(register::refused(operation, &why));
            }
        }
    }
    Ok((keys, left_out))
}
