use history::{Operation, Outcome, Value};
use serde::Serialize;

use crate::check::Judgement;
use crate::options::{Level, Model, Options};

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
    /// Of these, those that were left out: reads at a weaker level and keys written at one, which promise less, and
    /// (below level strict) keys whose values grow by steps of untold result.
    pub left_out: u64,
    /// Keys in the history.
    pub keys: u64,
    /// Of these, how many were decided.
    pub decided: u64,
    /// The keys that were not decided within the limit.
    pub undecided: Vec<Value>,
    /// One for every key whose history nothing explains.
    pub violations: Vec<Violation>,
    /// In how many pieces the history was judged; in more than one, a contradiction that spans pieces can be missed.
    pub windows: u64,
    /// Transitions tried: what the decision cost, the same on every machine.
    pub steps: u64,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Report {
        Report {
            verdict: Verdict::Valid,
            model: options.model,
            level: options.level,
            ops: 0,
            unknown: 0,
            left_out: 0,
            keys: 0,
            decided: 0,
            undecided: Vec::new(),
            violations: Vec::new(),
            windows: 1,
            steps: 0,
        }
    }

    /// Takes what is known of one key.
    pub(crate) fn add(&mut self, key: &Value, judgement: Judgement) {
        match judgement {
            Judgement::Valid => self.decided += 1,
            Judgement::Violated(violation) => {
                self.decided += 1;
                self.violations.push(violation);
            }
            Judgement::Undecided => self.undecided.push(key.clone()),
        }
    }

    /// Sums up. A history of which everything was left out decides nothing.
    pub(crate) fn conclude(&mut self) {
        let nothing_judged = self.ops > 0 && self.left_out >= self.ops;
        self.verdict = match (self.violations.is_empty(), self.undecided.is_empty() && !nothing_judged) {
            (false, _) => Verdict::Violated,
            (true, false) => Verdict::Undecided,
            (true, true) => Verdict::Valid,
        };
    }
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
