use history::{Operation, Outcome, Value};
use serde::Serialize;

use crate::options::{Level, Model};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `violated` if any key is; else `undecided` if any key is; else `valid`.
    pub verdict: Verdict,
    /// The model that was checked.
    pub model: Model,
    /// The level that was checked.
    pub level: Level,
    /// Operations in the history, whatever became of them.
    pub ops: u64,
    /// Of these, how many have an unknown outcome.
    pub unknown: u64,
    /// Of these, reads at a weaker level, which promise less and were left out.
    pub left_out: u64,
    /// Keys in the history.
    pub keys: u64,
    /// Of these, how many were decided.
    pub decided: u64,
    /// The keys that were not decided within the limit.
    pub undecided: Vec<Value>,
    /// One for every key whose history nothing explains.
    pub violations: Vec<Violation>,
    /// Transitions tried: what the decision cost, the same on every machine.
    pub steps: u64,
}

/// A judgement. Violated outweighs undecided, undecided outweighs valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Some order of the operations explains every answer.
    Valid,
    /// No order does.
    Violated,
    /// The limit was reached before either was known.
    Undecided,
}

/// A key whose history nothing explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The key.
    pub key: Value,
    /// What is wrong, in a sentence for people.
    pub sentence: String,
    /// The line of the completion at which no explanation was left.
    pub line: u64,
    /// The trace ids of `operations`, in their order, those that have one.
    pub trace_ids: Vec<String>,
    /// The smallest part that was found to contradict itself, in the order of invocation.
    pub operations: Vec<OffendingOperation>,
}

impl Violation {
    pub(crate) fn new(key: Value, sentence: String, line: u64, operations: Vec<OffendingOperation>) -> Violation {
        let trace_ids = operations.iter().filter_map(|operation| operation.trace_id.clone()).collect();
        Violation { key, sentence, line, trace_ids, operations }
    }
}

/// An operation that takes part in a violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OffendingOperation {
    /// Who asked, as in the history.
    pub process: String,
    /// What was asked.
    pub f: String,
    /// The argument.
    pub input: Value,
    /// The answer.
    pub output: Value,
    /// What the answer said about `applied`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
    /// `ok` or `info`.
    pub outcome: &'static str,
    /// The line of the invocation.
    pub invoked_line: u64,
    /// The line of the completion, unless the outcome is unknown.
    pub completed_line: Option<u64>,
    /// The trace of the request.
    pub trace_id: Option<String>,
    /// The id of the request.
    pub request_id: Option<String>,
    /// False: the contradiction stands even if this one took effect at any other time, or never.
    pub timing_matters: bool,
}

impl OffendingOperation {
    pub(crate) fn new(operation: &Operation, timing_matters: bool) -> OffendingOperation {
        OffendingOperation {
            process: operation.process.to_string(),
            f: operation.f.to_string(),
            input: operation.input.clone(),
            output: operation.output.clone(),
            applied: operation.applied,
            outcome: match operation.outcome {
                Outcome::Ok => "ok",
                Outcome::Fail => "fail",
                Outcome::Info => "info",
            },
            invoked_line: operation.invoked_at,
            completed_line: operation.completed_at,
            trace_id: operation.trace_id.clone(),
            request_id: operation.request_id.clone(),
            timing_matters,
        }
    }
}
