//! Model `lock`, level strict: mutual exclusion, and fencing tokens that only grow.
//!
//! Operations: `acquire` (its answer is the fencing token, or `{"fence":N,"ttl_ms":T}`; `fail` where another holds it),
//! `release` (of what the process acquired last), and `use`, a write that carries a token: `ok` where it was let
//! through.
//!
//! 1. Acquisitions and releases are those of one mutex: there is an order, agreeing with real time, in which nobody
//!    acquires what another holds. A lease may run out by itself once its time has passed since it was asked for, by
//!    the clock of the history; without `ttl_ms` it never does. This is decided as swaps of a register that holds the
//!    holder.
//! 2. A token that was granted after another one is greater.
//! 3. A use with a token is not let through after one with a greater token was: this is what protects from a holder who
//!    slept.

use std::collections::HashMap;

use history::{Function, Operation, Outcome, Process, Value};

use crate::check::{CheckError, Judgement};
use crate::options::Budget;
use crate::register::{Action, OPEN, Step, integer, refused};
use crate::report::{OffendingOperation, Violation};
use crate::search::{self, Found};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Acquire,
    Release,
    Use,
}

pub(crate) fn judge(key: &Value, operations: &[&Operation], budget: &mut Budget<'_>) -> Result<Judgement, CheckError> {
    let mut kinds = Vec::with_capacity(operations.len());
    for operation in operations {
        kinds.push(match &operation.f {
            Function::Other(name) if name == "acquire" => Kind::Acquire,
            Function::Other(name) if name == "release" => Kind::Release,
            Function::Other(name) if name == "use" => Kind::Use,
            _ => return Err(refused(operation, "model lock knows acquire, release and use")),
        });
    }
    if let Some((sentence, evidence)) = shrinking_token(key, operations, &kinds)? {
        return Ok(Judgement::Violated(violation(key, sentence, evidence)));
    }
    let steps = steps(operations, &kinds);
    Ok(match search::search(&steps, budget) {
        Found::Explained => Judgement::Valid,
        Found::GaveUp => Judgement::Undecided,
        Found::Unexplained { at, source } => {
            let place = crate::explain::Place { at, source };
            Judgement::Violated(crate::explain::violation(key, operations, &steps, place, true))
        }
    })
}

fn violation(key: &Value, sentence: String, evidence: [&Operation; 2]) -> Violation {
    let line = evidence.iter().filter_map(|operation| operation.completed_at).max().unwrap_or(OPEN);
    let named = evidence.into_iter().map(|operation| OffendingOperation::new(operation, true)).collect();
    Violation::new(key.clone(), sentence, line, named)
}

/// The token of an acquisition's answer or of a use.
fn token(operation: &Operation, kind: Kind) -> Result<i128, CheckError> {
    let value = if kind == Kind::Use { &operation.input } else { &operation.output };
    let number = match value {
        Value::Map(map) => map.get("fence").and_then(integer),
        Value::List(list) => list.first().and_then(integer),
        value => integer(value),
    };
    number.ok_or_else(|| refused(operation, "it must carry a fencing token, a whole number"))
}

/// Two grants, or two uses, of which the later has the lower token.
fn shrinking_token<'a>(
    key: &Value,
    operations: &[&'a Operation],
    kinds: &[Kind],
) -> Result<Option<(String, [&'a Operation; 2])>, CheckError> {
    for kind in [Kind::Acquire, Kind::Use] {
        let mut ended: Vec<(u64, i128, &Operation)> = Vec::new();
        let mut all = Vec::new();
        for (operation, of) in operations.iter().zip(kinds) {
            if *of == kind && operation.outcome == Outcome::Ok {
                all.push((token(operation, kind)?, *operation));
            }
        }
        ended.extend(all.iter().filter_map(|(token, operation)| Some((operation.completed_at?, *token, *operation))));
        ended.sort_by_key(|(end, ..)| *end);
        // The greatest token among those that ended so far.
        let mut greatest: Vec<(u64, i128, &Operation)> = Vec::with_capacity(ended.len());
        for entry in ended {
            let last = greatest.last().copied().filter(|last| last.1 >= entry.1);
            greatest.push(last.map_or(entry, |(_, token, by)| (entry.0, token, by)));
        }
        for (token, operation) in all {
            let before = greatest.partition_point(|(end, ..)| *end < operation.invoked_at);
            let Some((_, earlier, by)) = before.checked_sub(1).map(|last| greatest[last]) else { continue };
            if token < earlier || (kind == Kind::Acquire && token == earlier) {
                let what = if kind == Kind::Use { "was let through" } else { "was granted" };
                let sentence = format!("of lock {key}, token {token} {what} after token {earlier} had been");
                return Ok(Some((sentence, [by, operation])));
            }
        }
    }
    Ok(None)
}

/// The mutex as a register that holds its holder: `null`, or the line of the acquisition.
fn steps(operations: &[&Operation], kinds: &[Kind]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut held: HashMap<&Process, Value> = HashMap::new();
    for (source, (operation, kind)) in operations.iter().zip(kinds).enumerate() {
        let must = operation.outcome == Outcome::Ok;
        if operation.outcome == Outcome::Fail || *kind == Kind::Use {
            continue;
        }
        let (call, ret) = (operation.invoked_at, operation.completed_at.unwrap_or(OPEN));
        if *kind == Kind::Acquire {
            let holder = Value::Integer(i128::from(call));
            held.insert(&operation.process, holder.clone());
            let action = Action::Cas { old: Value::Null, new: holder.clone() };
            steps.push(Step { action, call, ret, must, source });
            // It may be released by time alone; one of unknown outcome, by a client that has given it up.
            let over = if must { runs_out(operations, operation) } else { Some(call) };
            if let Some(over) = over {
                let action = Action::Cas { old: holder, new: Value::Null };
                steps.push(Step { action, call: over, ret: OPEN, must: false, source });
            }
        } else if let Some(holder) = held.get(&operation.process) {
            // It may have run out before: then releasing it changes nothing.
            let action = Action::Cas { old: holder.clone(), new: Value::Null };
            let leased = operations.iter().any(|other| other.process == operation.process && ttl_ns(other).is_some());
            steps.push(Step { action, call, ret: if leased { OPEN } else { ret }, must: must && !leased, source });
        }
    }
    // Operations of one line begin in the order in which they were made.
    steps.sort_by_key(|step| step.call);
    steps
}

fn ttl_ns(operation: &Operation) -> Option<i64> {
    let Value::Map(map) = &operation.output else { return None };
    i64::try_from(map.get("ttl_ms")?.as_integer()?).ok()?.checked_mul(1_000_000)
}

/// The first line by whose time the lease may be over: it was granted no earlier than it was asked for.
fn runs_out(operations: &[&Operation], acquired: &Operation) -> Option<u64> {
    let over = acquired.invoked_ns?.checked_add(ttl_ns(acquired)?)?;
    let begins = operations.iter().filter(|other| other.invoked_ns.is_some_and(|at| at >= over));
    let ends = operations.iter().filter(|other| other.completed_ns.is_some_and(|at| at >= over));
    let lines = begins.map(|other| other.invoked_at).chain(ends.filter_map(|other| other.completed_at));
    // Just before that line: positions of lines are all taken, and a begin may share one.
    lines.min().map(|line| line.saturating_sub(1).max(acquired.invoked_at))
}
