//! Model `set`: a set that only grows, with `add` of an element and `read` of all. Decided exactly.
//!
//! Every element has a moment from which it is there, between the begin of the first add of it and the end of the
//! first that was acknowledged; every read has a moment within its interval. An element is in a read if its moment
//! comes first. All that is a set of orderings, and they can be met exactly when
//! 1. the reads are a chain: of each two, one holds the other, and
//! 2. along that chain - new elements, the reads that show them, the next elements, … - the latest begin so far is
//!    always before the end of what comes next.

use std::collections::{BTreeMap, BTreeSet};

use history::{Function, Operation, Outcome, Value};

use crate::check::{CheckError, Judgement};
use crate::options::Budget;
use crate::register::{OPEN, refused};
use crate::report::{OffendingOperation, Violation};

/// An element, or a read: a moment that lies after `begin` and before `end`.
#[derive(Clone, Copy)]
struct Moment<'a> {
    begin: u64,
    begun_by: &'a Operation,
    end: u64,
    ended_by: &'a Operation,
}

struct Read<'a> {
    operation: &'a Operation,
    elements: BTreeSet<&'a Value>,
}

pub(crate) fn judge(key: &Value, operations: &[&Operation], budget: &mut Budget<'_>) -> Result<Judgement, CheckError> {
    let mut added: BTreeMap<&Value, Moment<'_>> = BTreeMap::new();
    let mut reads = Vec::new();
    for operation in operations.iter().filter(|operation| operation.outcome != Outcome::Fail) {
        match operation.f {
            Function::Add => {
                let new = moment(operation);
                let old = added.entry(&operation.input).or_insert(new);
                // Operations come in the order of their begins.
                if new.end < old.end {
                    (old.end, old.ended_by) = (new.end, operation);
                }
            }
            Function::Read if operation.outcome == Outcome::Ok => {
                let elements = match &operation.output {
                    Value::Null => BTreeSet::new(),
                    Value::List(list) => list.iter().collect(),
                    _ => return Err(refused(operation, "its answer must be a list")),
                };
                reads.push(Read { operation, elements });
            }
            Function::Read => {}
            _ => return Err(refused(operation, "model set does not know it")),
        }
    }
    let work: usize = reads.iter().map(|read| read.elements.len() + 1).sum();
    if !(0..work).all(|_| budget.spend()) {
        return Ok(Judgement::Undecided);
    }
    Ok(match contradiction(added, reads) {
        None => Judgement::Valid,
        Some((what, mut evidence)) => {
            evidence.sort_by_key(|operation| operation.invoked_at);
            evidence.dedup_by_key(|operation| operation.invoked_at);
            let line = evidence.iter().filter_map(|operation| operation.completed_at).max().unwrap_or(OPEN);
            let evidence = evidence.into_iter().map(|operation| OffendingOperation::new(operation, true)).collect();
            Judgement::Violated(Violation::new(key.clone(), format!("of key {key}, {what}"), line, evidence))
        }
    })
}

fn moment(operation: &Operation) -> Moment<'_> {
    let end = operation.completed_at.unwrap_or(OPEN);
    Moment { begin: operation.invoked_at, begun_by: operation, end, ended_by: operation }
}

fn contradiction<'a>(
    mut added: BTreeMap<&'a Value, Moment<'a>>,
    mut reads: Vec<Read<'a>>,
) -> Option<(String, Vec<&'a Operation>)> {
    reads.sort_by_key(|read| (read.elements.len(), read.operation.invoked_at));
    // The latest begin so far, and the read or add that it belongs to: among elements and reads, and among reads.
    let mut latest: Option<(u64, &Operation)> = None;
    let mut latest_read: Option<(u64, &Operation)> = None;
    let mut before: Option<&Read<'_>> = None;
    for read in &reads {
        if let Some(before) = before
            && let Some(missing) = before.elements.iter().find(|element| !read.elements.contains(**element))
        {
            let what = format!("two reads contradict each other: {missing} is in one, something else in the other");
            return Some((what, vec![before.operation, read.operation]));
        }
        for element in &read.elements {
            if before.is_some_and(|before| before.elements.contains(*element)) {
                continue;
            }
            let Some(moment) = added.remove(*element) else {
                return Some((format!("a read found {element}, which nobody had added"), vec![read.operation]));
            };
            if let Some((begin, by)) = latest_read.filter(|(begin, _)| *begin > moment.end) {
                let what = format!("{element} was added before line {begin} and is missing afterwards");
                return Some((what, vec![moment.ended_by, by]));
            }
            latest = later(later(latest, latest_read), Some((moment.begin, moment.begun_by)));
        }
        let own = moment(read.operation);
        if let Some((begin, by)) = latest.filter(|(begin, _)| *begin > own.end) {
            let what = format!("a read that ended on line {} shows what came about only after line {begin}", own.end);
            return Some((what, vec![read.operation, by]));
        }
        latest_read = later(latest_read, later(latest, Some((own.begin, read.operation))));
        before = Some(read);
    }
    for (element, moment) in added {
        if let Some((begin, by)) = latest_read.filter(|(begin, _)| *begin > moment.end) {
            let what = format!("{element} was added before line {begin} and is missing afterwards");
            return Some((what, vec![moment.ended_by, by]));
        }
    }
    None
}

fn later<'a>(a: Option<(u64, &'a Operation)>, b: Option<(u64, &'a Operation)>) -> Option<(u64, &'a Operation)> {
    if b.map(|b| b.0) > a.map(|a| a.0) { b } else { a }
}
