use std::collections::BTreeMap;

use history::{History, Operation, Outcome, Value};
use serde::Serialize;

use crate::check::{CheckError, by_key, settled};
use crate::claims::{ABSENT, Claims};
use crate::eventual::{final_reads, is_over, is_unshown, shown_words, took_place, updates, writes_of};
use crate::growing::{amount, elements};
use crate::options::{Budget, Limit, Model, Options};
use crate::register::{self, Action, OPEN, Step};
use crate::report::OffendingOperation;
use crate::search::{self, Found};
use crate::sight::Sight;
use crate::weaker;

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
    /// The trace of the read that found it, where the history has that read and names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// How many of its acknowledged writes are lost, at least.
    pub at_least: u64,
    /// The acknowledged writes that began after everything that could have made `found` was over, except those that
    /// another of them surely replaced. At least one of them is lost; which, a history cannot tell. Empty where values
    /// are appended or added (any may be missing) and where the value was invented but nothing acknowledged. Of
    /// [`lost_once_settled`]: the lost updates themselves, the first 32 of them.
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
                let (key, found) = (key.clone(), found.clone());
                result.lost.push(LostKey { key, found, trace_id: None, at_least: 1, suspects });
            }
            Found::GaveUp => result.undecided.push(key.clone()),
            Found::Unexplained { .. } => result.contradicting.push(key.clone()),
        }
    }
    Ok(result)
}

/// Holds what was read after everything had settled against the acknowledged updates of keys at the levels below
/// sequential, however many replicas took them. A key with several such reads is held by the worst of them.
///
/// What it claims, exactly, of an acknowledged update:
/// - Model register, values side by side: neither it is shown nor may anything have taken its place: no write or
///   deletion whose session had written or seen it. A deletion is lost when a value is shown that it had removed so.
/// - Model register, one value: what is shown, or the absence of anything, is what it had replaced.
/// - Model set: its element is not shown.
/// - Model counter: the number is below the sum of all that was acknowledged; `at_least` is how many additions must be
///   missing for that, and `suspects` is empty, since any may be.
///
/// Updates of unknown outcome may be there or not. So it never accuses a store that kept its word; like
/// [`lost_writes`], it does not see a loss that another write has covered.
///
/// # Errors
/// An operation has no meaning in the model.
pub fn lost_once_settled(history: &History, model: Model) -> Result<LostWrites, CheckError> {
    let operations: Vec<&Operation> = history.operations.iter().collect();
    if let (Model::Lock, Some(first)) = (model, operations.first()) {
        return Err(register::refused(first, "model lock is judged at level strict"));
    }
    let claims = weaker::read(&operations, &Options { model, ..Options::default() })?;
    let (sight, finals) = (Sight::of(&claims), final_reads(&claims, settled(&history.faults)));
    let mut result = LostWrites::default();
    for key in 0..claims.keys.len() as u32 {
        let updates = updates_of(&claims, model, key);
        let answered = |update: &u32| claims.claims[*update as usize].operation.outcome == Outcome::Ok;
        let acknowledged: Vec<u32> = updates.iter().copied().filter(answered).collect();
        result.acknowledged += acknowledged.len() as u64;
        let Some(reads) = finals.get(&key) else {
            let unread = Some(claims.keys[key as usize].clone()).filter(|_| !acknowledged.is_empty());
            result.unread.extend(unread);
            continue;
        };
        let mut worst: Option<LostKey> = None;
        for read in reads {
            let (at_least, lost) = match model {
                Model::Set => missing_elements(&claims, &acknowledged, *read)?,
                Model::Counter => missing_sum(&claims, key, *read)?,
                Model::Register | Model::Lock => {
                    missing_writes(&claims, &sight, (key, *read), (&updates, &acknowledged))
                }
            };
            if at_least > worst.as_ref().map_or(0, |worst| worst.at_least) {
                let named = |write: &u32| OffendingOperation::new(claims.claims[*write as usize].operation, true);
                let suspects = lost.iter().take(SUSPECTS_MAX).map(named).collect();
                let read = claims.claims[*read as usize].operation;
                let (key, found) = (claims.keys[key as usize].clone(), read.output.clone());
                worst = Some(LostKey { key, found, trace_id: read.trace_id.clone(), at_least, suspects });
            }
        }
        result.lost.extend(worst);
    }
    Ok(result)
}

/// Lost updates of one key that are named; the others are counted.
const SUSPECTS_MAX: usize = 32;

/// The updates of a key that took effect or may have.
fn updates_of(claims: &Claims<'_>, model: Model, key: u32) -> Vec<u32> {
    match model {
        Model::Register => writes_of(claims, key),
        _ => updates(claims, key).map(|(add, _)| add).collect(),
    }
}

/// The acknowledged writes and deletions that a register's final read shows to be lost, and how many they are.
fn missing_writes(
    claims: &Claims<'_>,
    sight: &Sight<'_, '_>,
    (key, read): (u32, u32),
    (writes, acknowledged): (&[u32], &[u32]),
) -> (u64, Vec<u32>) {
    let Some(shown) = shown_words(claims, read) else { return (0, Vec::new()) };
    let invented = |word: &u32| *word != ABSENT && claims.writers(key, *word).is_empty();
    if shown.iter().any(invented) {
        // What nobody wrote tells nothing of what somebody did; that it is there is for the judge to say.
        return (0, Vec::new());
    }
    let had_removed = |by: u32| {
        shown.iter().any(|word| match (claims.writers(key, *word), *word) {
            // Nothing is shown, and nobody ever deleted: whatever was acknowledged replaced that.
            ([], ABSENT) => claims.claims[by as usize].wrote != Some(ABSENT),
            ([], _) => false,
            (writers, _) => writers.iter().all(|writer| took_place(claims, sight, by, *writer)),
        })
    };
    let is_lost = |write: &u32| {
        let deletes = claims.claims[*write as usize].wrote == Some(ABSENT);
        if deletes {
            return !shown.contains(&ABSENT) && had_removed(*write);
        }
        let gone = is_unshown(claims, *write, &shown) && !is_over(claims, sight, *write, writes);
        gone && (sight.keeps_siblings(key) || had_removed(*write))
    };
    let lost: Vec<u32> = acknowledged.iter().copied().filter(is_lost).collect();
    (lost.len() as u64, lost)
}

fn missing_elements(claims: &Claims<'_>, acknowledged: &[u32], read: u32) -> Result<(u64, Vec<u32>), CheckError> {
    let shown = elements(claims.claims[read as usize].operation)?;
    let missing = |add: &u32| !shown.contains(&claims.claims[*add as usize].operation.input);
    let lost: Vec<u32> = acknowledged.iter().copied().filter(missing).collect();
    Ok((lost.len() as u64, lost))
}

/// How many additions must be missing at least for a counter to read as low as it does.
fn missing_sum(claims: &Claims<'_>, key: u32, read: u32) -> Result<(u64, Vec<u32>), CheckError> {
    let (mut least, mut sums) = (0, Vec::new());
    for (_, operation) in updates(claims, key) {
        let by = amount(operation)?;
        let known = operation.outcome == Outcome::Ok;
        least += if known || by < 0 { by } else { 0 };
        sums.extend(Some(by).filter(|by| known && *by > 0));
    }
    let output = &claims.claims[read as usize].operation.output;
    let found = if output.is_null() { Some(0) } else { register::integer(output) };
    let Some(mut short) = found.map(|found| least - found) else { return Ok((0, Vec::new())) };
    sums.sort_unstable_by(|a, b| b.cmp(a));
    let mut missing = 0;
    while short > 0 {
        // Below the sum of nothing at all, it was not by a loss that it came there.
        let Some(by) = sums.get(missing) else { break };
        short -= by;
        missing += 1;
    }
    Ok((missing as u64, Vec::new()))
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
