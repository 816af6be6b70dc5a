//! Model `lock`, level strict: mutual exclusion, and fencing tokens that only grow.
//!
//! Operations: `acquire` (its answer is the fencing token, or `{"fence":N,"ttl_ms":T}`; `fail` where another holds it),
//! `renew` (asked with `{"fence":N,"ttl_ms":T}`), `release` (of the token that it names, or of what the process
//! acquired last), and `use`, a write that carries a token: `ok` where it was let through. A `renew` or `use` that
//! is `ok` with `"applied":false` was refused because of its token, which is an observation too.
//!
//! 1. Acquisitions and releases are those of one mutex: there is an order, agreeing with real time, in which nobody
//!    acquires what another holds, and in which who renews still holds. A lease may run out by itself once its time has
//!    passed since it was asked for (or renewed), by the clock of the history; without `ttl_ms` it never does. This is
//!    decided as swaps and reads of a register that holds the holder.
//! 2. A token that was granted after another one is greater.
//! 3. A use with a token is not let through after one with a greater token was: this is what protects from a holder who
//!    slept.
//! 4. A use is refused for its token only if a greater one may have been granted by then.

use history::{Function, Operation, Outcome, Process, Value};

use crate::check::{CheckError, Judgement};
use crate::options::Budget;
use crate::register::{Action, OPEN, Step, integer, refused};
use crate::report::{OffendingOperation, Violation};
use crate::search::{self, Found};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Acquire,
    Renew,
    Release,
    Use,
}

/// An acquisition as those who come back to it name it.
struct Grant<'a> {
    process: &'a Process,
    /// None where its answer is not known.
    token: Option<i128>,
    /// What the register holds while it lasts.
    holder: Value,
    leased: bool,
}

pub(crate) fn judge(key: &Value, operations: &[&Operation], budget: &mut Budget<'_>) -> Result<Judgement, CheckError> {
    let mut kinds = Vec::with_capacity(operations.len());
    for operation in operations {
        kinds.push(match &operation.f {
            Function::Other(name) if name == "acquire" => Kind::Acquire,
            Function::Other(name) if name == "renew" => Kind::Renew,
            Function::Other(name) if name == "release" => Kind::Release,
            Function::Other(name) if name == "use" => Kind::Use,
            _ => return Err(refused(operation, "model lock knows acquire, renew, release and use")),
        });
    }
    if let Some((sentence, evidence)) = refused_for_nothing(key, operations, &kinds)? {
        return Ok(Judgement::Violated(violation(key, sentence, &evidence)));
    }
    if let Some((sentence, evidence)) = shrinking_token(key, operations, &kinds)? {
        return Ok(Judgement::Violated(violation(key, sentence, &evidence)));
    }
    let steps = steps(operations, &kinds)?;
    Ok(match search::search(&steps, budget) {
        Found::Explained => Judgement::Valid,
        Found::GaveUp => Judgement::Undecided,
        Found::Unexplained { at, source } => {
            let place = crate::explain::Place { at, source };
            Judgement::Violated(crate::explain::violation(key, operations, &steps, place, true))
        }
    })
}

fn violation(key: &Value, sentence: String, evidence: &[&Operation]) -> Violation {
    let line = evidence.iter().filter_map(|operation| operation.completed_at).max().unwrap_or(OPEN);
    let named = evidence.iter().map(|operation| OffendingOperation::new(operation, true)).collect();
    Violation::new(key.clone(), sentence, line, named)
}

/// The token of an acquisition's answer, or that of what comes back to it.
fn token(operation: &Operation, kind: Kind) -> Result<i128, CheckError> {
    let value = if kind == Kind::Acquire { &operation.output } else { &operation.input };
    token_in(value).ok_or_else(|| refused(operation, "it must carry a fencing token, a whole number"))
}

fn token_in(value: &Value) -> Option<i128> {
    match value {
        Value::Map(map) => map.get("fence").and_then(integer),
        Value::List(list) => list.first().and_then(integer),
        value => integer(value),
    }
}

/// Whether it was answered, and not refused for its token.
fn took_effect(operation: &Operation) -> bool {
    operation.outcome == Outcome::Ok && operation.applied != Some(false)
}

/// A use that was refused for its token, although no greater one can have been granted by then.
fn refused_for_nothing<'a>(
    key: &Value,
    operations: &[&'a Operation],
    kinds: &[Kind],
) -> Result<Option<(String, Vec<&'a Operation>)>, CheckError> {
    let of =
        |kind: Kind| operations.iter().zip(kinds).filter(move |(_, of)| **of == kind).map(|(operation, _)| *operation);
    // An acquisition without an answer may have been given any token.
    let mut grants = Vec::new();
    for operation in of(Kind::Acquire).filter(|operation| operation.outcome != Outcome::Fail) {
        let known = operation.outcome == Outcome::Ok;
        grants.push((operation.invoked_at, if known { token(operation, Kind::Acquire)? } else { i128::MAX }));
    }
    grants.sort_unstable();
    let mut greatest = i128::MIN;
    for grant in &mut grants {
        greatest = greatest.max(grant.1);
        grant.1 = greatest;
    }
    for operation in of(Kind::Use).filter(|o| o.outcome == Outcome::Ok && o.applied == Some(false)) {
        let used = token(operation, Kind::Use)?;
        let begun = grants.partition_point(|(invoked_at, _)| Some(*invoked_at) < operation.completed_at);
        let greatest = begun.checked_sub(1).map_or(i128::MIN, |last| grants[last].1);
        if greatest <= used {
            let sentence = format!("of lock {key}, token {used} was fenced off, and no greater one had been granted");
            return Ok(Some((sentence, vec![operation])));
        }
    }
    Ok(None)
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
            if *of == kind && took_effect(operation) {
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
fn steps(operations: &[&Operation], kinds: &[Kind]) -> Result<Vec<Step>, CheckError> {
    let mut steps = Vec::new();
    let mut grants: Vec<Grant<'_>> = Vec::new();
    for (source, (operation, kind)) in operations.iter().zip(kinds).enumerate() {
        let must = took_effect(operation);
        if operation.outcome == Outcome::Fail || operation.applied == Some(false) {
            continue;
        }
        let (call, ret) = (operation.invoked_at, operation.completed_at.unwrap_or(OPEN));
        match kind {
            Kind::Use => {}
            Kind::Acquire => {
                let holder = Value::Integer(i128::from(call));
                let token = if must { Some(token(operation, *kind)?) } else { None };
                let leased = ttl_ns(&operation.output).is_some();
                grants.push(Grant { process: &operation.process, token, holder: holder.clone(), leased });
                let action = Action::Cas { old: Value::Null, new: holder.clone() };
                steps.push(Step { action, call, ret, must, source });
                // It may be released by time alone; one of unknown outcome, by a client that has given it up.
                let over = if must { runs_out(operations, kinds, operation) } else { Some(call) };
                if let Some(over) = over {
                    let action = Action::Cas { old: holder, new: Value::Null };
                    steps.push(Step { action, call: over, ret: OPEN, must: false, source });
                }
            }
            Kind::Renew => {
                let token = token(operation, *kind)?;
                let grant = grants.iter().rev().find(|grant| grant.token == Some(token));
                if let Some(grant) = grant.filter(|_| must) {
                    steps.push(Step { action: Action::Read(grant.holder.clone()), call, ret, must, source });
                }
            }
            Kind::Release => {
                let named = token_in(&operation.input);
                let is_meant = |grant: &&Grant<'_>| match named {
                    Some(token) => grant.token == Some(token),
                    None => *grant.process == operation.process,
                };
                let Some(grant) = grants.iter().rev().find(is_meant) else { continue };
                // It may have run out before: then releasing it changes nothing.
                let action = Action::Cas { old: grant.holder.clone(), new: Value::Null };
                let surely = must && !grant.leased;
                steps.push(Step { action, call, ret: if grant.leased { OPEN } else { ret }, must: surely, source });
            }
        }
    }
    // Operations of one line begin in the order in which they were made.
    steps.sort_by_key(|step| step.call);
    Ok(steps)
}

fn ttl_ns(value: &Value) -> Option<i64> {
    let Value::Map(map) = value else { return None };
    i64::try_from(map.get("ttl_ms")?.as_integer()?).ok()?.checked_mul(1_000_000)
}

/// The first line by whose time the lease may be over: it was granted no earlier than it was asked for, and renewed no
/// earlier than that was.
fn runs_out(operations: &[&Operation], kinds: &[Kind], acquired: &Operation) -> Option<u64> {
    let token = token_in(&acquired.output);
    let (mut from, mut ttl) = (acquired.invoked_ns?, ttl_ns(&acquired.output)?);
    for (operation, kind) in operations.iter().zip(kinds) {
        let renews = *kind == Kind::Renew && token_in(&operation.input) == token;
        if !renews || operation.outcome == Outcome::Fail || operation.applied == Some(false) {
            continue;
        }
        // Two that overlap may have been applied in either order, and a shorter one cuts the lease short.
        ttl = ttl.min(ttl_ns(&operation.input).unwrap_or(ttl));
        if operation.outcome == Outcome::Ok {
            from = from.max(operation.invoked_ns?);
        }
    }
    let over = from.checked_add(ttl)?;
    let begins = operations.iter().filter(|other| other.invoked_ns.is_some_and(|at| at >= over));
    let ends = operations.iter().filter(|other| other.completed_ns.is_some_and(|at| at >= over));
    let lines = begins.map(|other| other.invoked_at).chain(ends.filter_map(|other| other.completed_at));
    // Just before that line: positions of lines are all taken, but of one that is shared the begin comes first.
    lines.min().map(|line| line.max(acquired.invoked_at))
}
