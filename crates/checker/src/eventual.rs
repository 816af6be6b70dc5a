//! Level eventual: once updates stop, all reads of a key agree, show nothing that was replaced, and invent nothing.
//!
//! Nobody outside can tell how long convergence may take, so the history says when it is to be judged: at a fault line
//! `settled`, which the writer puts down once updates have stopped and all faults are healed. Without such a line, the
//! reads that begin after the last update ended are taken. Without such reads there is nothing to judge, and the
//! verdict is *undecided*.
//!
//! - Registers: the final reads of a key are equal; what they show was written, and was not replaced by an acknowledged
//!   write whose session had written or seen it (so a deleted value that comes back is found); on a key with siblings,
//!   an acknowledged write that nobody had seen is shown.
//! - Sets are complete: every acknowledged element is in every final read. Counters: every final read is the sum of
//!   what was acknowledged, and of any of what is unknown.

use std::collections::{BTreeMap, BTreeSet};

use history::{Function, Operation, Outcome, Value};

use crate::causal::{Broken, Guarantee};
use crate::check::CheckError;
use crate::claims::{ABSENT, Claim, Claims, Seen, Word};
use crate::growing::{amount, elements};
use crate::options::Model;
use crate::sight::Sight;

/// What a history shows of convergence.
#[derive(Debug)]
pub(crate) enum Converged {
    /// No read was made late enough.
    NothingToJudge,
    Judged(Vec<Broken>),
}

/// Judges; `settled` is the line from which on reads are final.
pub(crate) fn judge(claims: &Claims<'_>, model: Model, settled: Option<u64>) -> Result<Converged, CheckError> {
    let finals = final_reads(claims, settled);
    if finals.is_empty() && !claims.claims.is_empty() {
        return Ok(Converged::NothingToJudge);
    }
    let sight = Sight::of(claims);
    let mut broken = Vec::new();
    for (key, reads) in &finals {
        let found = differing(claims, reads).map_or_else(
            || match model {
                Model::Set => incomplete_set(claims, *key, reads[0]),
                Model::Counter => incomplete_counter(claims, *key, reads[0]),
                Model::Register | Model::Lock => Ok(replaced(claims, &sight, *key, reads[0])),
            },
            |differing| Ok(Some(differing)),
        )?;
        broken.extend(found);
    }
    Ok(Converged::Judged(broken))
}

/// The reads of each key that were made late enough: after the line `settled`, or after the last update ended.
pub(crate) fn final_reads(claims: &Claims<'_>, settled: Option<u64>) -> BTreeMap<u32, Vec<u32>> {
    let update = |claim: &&crate::claims::Claim<'_>| claim.operation.f != Function::Read;
    let ends = claims
        .claims
        .iter()
        .filter(update)
        .map(|claim| claim.operation.completed_at.unwrap_or(claim.operation.invoked_at));
    let from = settled.unwrap_or_else(|| ends.max().unwrap_or(0));
    let mut finals: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, claim) in claims.claims.iter().enumerate() {
        let read = claim.operation.f == Function::Read && claim.operation.outcome == Outcome::Ok;
        if read && claim.operation.invoked_at > from {
            finals.entry(claim.key).or_default().push(index as u32);
        }
    }
    finals
}

fn of(what: &'static str, claims: Vec<u32>) -> Broken {
    Broken { guarantee: Guarantee::Causality, what, claims }
}

/// Two final reads that do not agree.
fn differing(claims: &Claims<'_>, reads: &[u32]) -> Option<Broken> {
    let shown = |read: &u32| -> BTreeSet<Value> {
        match &claims.claims[*read as usize].operation.output {
            Value::List(list) => list.iter().cloned().collect(),
            one => BTreeSet::from([one.clone()]),
        }
    };
    let first = shown(&reads[0]);
    let other = reads.iter().find(|read| shown(read) != first)?;
    Some(of("two reads after everything had settled do not agree", vec![*other, reads[0]]))
}

/// A register's final value that nobody wrote, or that was replaced; or a write that is missing beside it.
fn replaced(claims: &Claims<'_>, sight: &Sight<'_, '_>, key: u32, read: u32) -> Option<Broken> {
    let shown = shown_words(claims, read)?;
    let writes = writes_of(claims, key);
    for word in &shown {
        let writers = claims.writers(key, *word);
        if writers.is_empty() && *word != ABSENT {
            return Some(of("a value that no operation wrote", vec![read]));
        }
        let replacement = |writer: Option<u32>| writes.iter().copied().find(|by| replaces(claims, sight, *by, writer));
        let all: Option<Vec<u32>> = match writers {
            [] => replacement(None).map(|by| vec![by]),
            writers => writers.iter().map(|writer| replacement(Some(*writer))).collect(),
        };
        if let Some(by) = all {
            let mut evidence = vec![read];
            evidence.extend(writers.iter().chain(&by));
            return Some(of("a value that had been replaced has come back", evidence));
        }
    }
    let missing = writes.iter().copied().filter(|_| sight.keeps_siblings(key)).find(|write| {
        claims.claims[*write as usize].must
            && is_unshown(claims, *write, &shown)
            && !is_over(claims, sight, *write, &writes)
    });
    missing.map(|write| of("an acknowledged write is neither shown nor replaced", vec![read, write]))
}

/// The words that a read showed; none where it observed nothing by itself.
pub(crate) fn shown_words(claims: &Claims<'_>, read: u32) -> Option<Vec<Word>> {
    match &claims.claims[read as usize].seen {
        Seen::Equal(word) => Some(vec![*word]),
        Seen::Siblings(words) => Some(words.clone()),
        Seen::Nothing | Seen::NotEqual(_) => None,
    }
}

/// The writes and deletions of a key, in the order of their begins.
pub(crate) fn writes_of(claims: &Claims<'_>, key: u32) -> Vec<u32> {
    let of_key = claims.claims.iter().enumerate().filter(|(_, claim)| claim.key == key && claim.wrote.is_some());
    of_key.map(|(index, _)| index as u32).collect()
}

/// Whether the write left a value, and that value is not among those shown.
pub(crate) fn is_unshown(claims: &Claims<'_>, write: u32, shown: &[Word]) -> bool {
    claims.claims[write as usize].wrote.is_some_and(|word| word != ABSENT && !shown.contains(&word))
}

/// Whether some other write of the key may have taken the place of this one. Those that began later are asked first,
/// since it is one of them as a rule.
pub(crate) fn is_over(claims: &Claims<'_>, sight: &Sight<'_, '_>, write: u32, writes: &[u32]) -> bool {
    let (earlier, later) = writes.split_at(writes.partition_point(|other| *other < write));
    let takes_place = |by: &u32| may_be_unnoticed(claims, *by) && took_place(claims, sight, *by, write);
    later.iter().chain(earlier).any(takes_place)
}

/// Whether the write can have taken another one's place and left no trace: it surely took effect; or, of unknown
/// outcome, it was a deletion. A value of unknown outcome would be shown now, or would have been shown to
/// whoever replaced it; unless that is of unknown outcome itself.
fn may_be_unnoticed(claims: &Claims<'_>, by: u32) -> bool {
    let claim = &claims.claims[by as usize];
    let Some(word) = claim.wrote.filter(|word| !claim.must && *word != ABSENT) else { return true };
    let alone = claims.writers(claim.key, word).len() == 1;
    let swaps = |other: &Claim<'_>| !other.must && other.key == claim.key && other.seen == Seen::Equal(word);
    !alone || claims.claims.iter().any(swaps)
}

/// Whether the acknowledged write `by` surely replaced what `writer` (none: the beginning) wrote, since its session had
/// written or seen that.
fn replaces(claims: &Claims<'_>, sight: &Sight<'_, '_>, by: u32, writer: Option<u32>) -> bool {
    let claim = &claims.claims[by as usize];
    match writer {
        None => claim.must && claim.wrote != Some(ABSENT),
        Some(writer) => claim.must && took_place(claims, sight, by, writer),
    }
}

/// Whether `by`, if it took effect, replaced what `writer` wrote.
pub(crate) fn took_place(claims: &Claims<'_>, sight: &Sight<'_, '_>, by: u32, writer: u32) -> bool {
    if by == writer {
        return false;
    }
    let claim = &claims.claims[by as usize];
    let word = claims.claims[writer as usize].wrote.unwrap_or_default();
    // Who sees nothing may have seen the beginning, and not the deletion.
    let alone = word != ABSENT && claims.writers(claim.key, word).len() == 1;
    sight.had_written(by, writer) || (alone && sight.had_seen(by, writer))
}

/// The additions to a key that took effect or may have.
pub(crate) fn updates<'c, 'a>(claims: &'c Claims<'a>, key: u32) -> impl Iterator<Item = (u32, &'a Operation)> + 'c {
    let of_key = claims.claims.iter().enumerate().filter(move |(_, claim)| claim.key == key);
    of_key.filter(|(_, claim)| claim.operation.f == Function::Add).map(|(index, claim)| (index as u32, claim.operation))
}

fn incomplete_set(claims: &Claims<'_>, key: u32, read: u32) -> Result<Option<Broken>, CheckError> {
    let shown = elements(claims.claims[read as usize].operation)?;
    let mut added = BTreeSet::new();
    for (add, operation) in updates(claims, key) {
        added.insert(&operation.input);
        if operation.outcome == Outcome::Ok && !shown.contains(&operation.input) {
            return Ok(Some(of("an acknowledged element is missing at the end", vec![read, add])));
        }
    }
    let invented = shown.iter().any(|element| !added.contains(element));
    Ok(invented.then(|| of("an element that nobody had added", vec![read])))
}

fn incomplete_counter(claims: &Claims<'_>, key: u32, read: u32) -> Result<Option<Broken>, CheckError> {
    let (mut low, mut high) = (0, 0);
    for (_, operation) in updates(claims, key) {
        let by = amount(operation)?;
        let known = operation.outcome == Outcome::Ok;
        low += if known || by < 0 { by } else { 0 };
        high += if known || by > 0 { by } else { 0 };
    }
    let output = &claims.claims[read as usize].operation.output;
    let found = if output.is_null() { Some(0) } else { crate::register::integer(output) };
    let outside = found.is_none_or(|found| found < low || found > high);
    Ok(outside.then(|| of("the number at the end is not the sum of what was added", vec![read])))
}
