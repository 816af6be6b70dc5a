use std::collections::BTreeMap;

use history::{Operation, Value};
use serde::Serialize;

use crate::check::{CheckError, by_key};
use crate::options::{Budget, Limit};
use crate::register::{self, Action, OPEN, Step};
use crate::report::OffendingOperation;
use crate::search::{self, Found};

/// What a final read of everything says about the acknowledged writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LostWrites {
    /// Acknowledged operations that changed something: writes, deletes, appends, additions, and cas that applied.
    pub acknowledged: u64,
    /// Keys whose final value cannot be, one entry each: at least one acknowledged write of each is lost or undone, or
    /// the value was invented. Empty means that no loss was seen.
    pub lost: Vec<LostKey>,
    /// Keys whose history nothing explains even without the final read: it can say nothing about them.
    pub contradicting: Vec<Value>,
    /// Keys that were not decided within the limit.
    pub undecided: Vec<Value>,
    /// Keys of the history without a final read.
    pub unread: Vec<Value>,
}

/// A key whose final value cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostKey {
    /// The key.
    pub key: Value,
    /// What the final read found; `null` is absent.
    pub found: Value,
    /// The acknowledged writes that began after everything that could have made `found` was over, except those that
    /// another of them surely replaced. At least one of them is lost; which, a history cannot tell. Empty where values
    /// are appended or added (any may be missing) and where the value was invented but nothing acknowledged.
    pub suspects: Vec<OffendingOperation>,
}

/// Holds a final read of every key, made after all clients had stopped, against the history.
///
/// What it claims, exactly: a key is in `lost` when its history can be explained (linearizable), and can no longer be
/// once a strict read of the given value is put at its end. Writes of unknown outcome may take effect as late as that,
/// or never. So it never accuses a store that kept its word, and it does not see a lost write that was replaced
/// afterwards unseen; nobody could.
///
/// # Errors
/// An operation has no meaning in model register.
pub fn lost_writes(
    operations: &[Operation],
    found: &BTreeMap<Value, Value>,
    limit: &Limit,
) -> Result<LostWrites, CheckError> {
    let mut budget = Budget::new(limit);
    let mut result = LostWrites::default();
    for (key, operations) in by_key(operations, crate::Level::Strict).0 {
        let mut steps = register::steps(&operations)?;
        result.acknowledged += steps.iter().filter(|step| step.must && !step.action.only_observes()).count() as u64;
        let Some(found) = found.get(key) else {
            result.unread.push(key.clone());
            continue;
        };
        // Nothing else ends or begins so late.
        let (call, ret) = (OPEN - 2, OPEN - 1);
        steps.push(Step { action: Action::Read(found.clone()), call, ret, must: true, source: operations.len() });
        register::spell_numbers(&mut steps);
        match search::search(&steps, &mut budget) {
            Found::Explained => continue,
            Found::GaveUp => {
                result.undecided.push(key.clone());
                continue;
            }
            Found::Unexplained { .. } => {
                steps.pop();
            }
        }
        match search::search(&steps, &mut budget) {
            Found::Explained => {
                let suspects = suspects(&operations, &steps, found);
                result.lost.push(LostKey { key: key.clone(), found: found.clone(), suspects });
            }
            Found::GaveUp => result.undecided.push(key.clone()),
            Found::Unexplained { .. } => result.contradicting.push(key.clone()),
        }
    }
    Ok(result)
}

fn suspects(operations: &[&Operation], steps: &[Step], found: &Value) -> Vec<OffendingOperation> {
    if steps.iter().any(|step| matches!(step.action, Action::Add { .. } | Action::Append { .. })) {
        return Vec::new();
    }
    let sets = |step: &Step| match &step.action {
        Action::Write(new) | Action::Cas { new, .. } => Some(new == found),
        _ => None,
    };
    // An absent value needs no writer: the beginning explains it. A writer of unknown outcome never ends, and would
    // have explained the final read.
    let explained_until = steps.iter().filter(|step| sets(step) == Some(true)).map(|step| step.ret).max().unwrap_or(0);
    let later: Vec<&Step> =
        steps.iter().filter(|step| step.must && sets(step) == Some(false) && step.call > explained_until).collect();
    let last = later.iter().filter(|step| !later.iter().any(|other| step.ret < other.call));
    last.map(|step| OffendingOperation::new(operations[step.source], true)).collect()
}
