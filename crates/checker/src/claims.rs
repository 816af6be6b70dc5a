//! What the operations of a history claim, across all keys: who asked in which order, what each observed, what each
//! wrote. The levels weaker than strict are judged on this.
//!
//! A session is a process: its operations in the order of their invocations. One of unknown outcome comes after what
//! its process did before, and before nothing, so it stands in a chain of its own.
//!
//! Whatever makes a history valid makes any *part* of it valid, as long as no observation is kept whose cause is left
//! out. [`Claims::restrict`] cuts such parts; windows over long histories and the search for the smallest offending
//! part are made of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use history::{Operation, Outcome, Value};

use crate::check::CheckError;
use crate::register::{Action, Step, action, integer, spell_numbers};
use crate::sight::words;

/// A value's number; [`ABSENT`] is `null`, which is what every key holds at first.
pub(crate) type Word = u32;
pub(crate) const ABSENT: Word = 0;

/// What an operation observed of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Equal(Word),
    NotEqual(Word),
    /// Several values side by side.
    Siblings(Vec<Word>),
}

#[derive(Clone, Debug)]
pub(crate) struct Claim<'a> {
    pub operation: &'a Operation,
    /// The chain, and the place in it, from 1.
    pub chain: u32,
    pub place: u32,
    /// For an operation alone in its chain because its outcome is unknown: what its process did before.
    pub after: Option<u32>,
    pub key: u32,
    pub seen: Seen,
    pub wrote: Option<Word>,
    /// Whether it surely took effect.
    pub must: bool,
}

/// All claims of a history or of a part of it, in the order of invocation.
#[derive(Clone, Debug)]
pub(crate) struct Claims<'a> {
    pub claims: Vec<Claim<'a>>,
    pub chains: usize,
    pub keys: Vec<&'a Value>,
    /// Whether nothing was left out: only then may something be missed.
    pub whole: bool,
    /// Operations on keys whose history these rules cannot read (values that grow by unknown steps).
    pub left_out: u64,
    /// For each key and word, who may have written it.
    writers: HashMap<(u32, Word), Vec<u32>>,
}

impl<'a> Claims<'a> {
    /// Reads the claims of model register.
    pub fn of(operations: &[&'a Operation]) -> Result<Claims<'a>, CheckError> {
        let mut steps = Vec::with_capacity(operations.len());
        for (source, operation) in operations.iter().enumerate() {
            let must = operation.outcome == Outcome::Ok;
            if operation.outcome != Outcome::Fail
                && let Some(action) = action(operation, must)?
            {
                steps.push(Step { action, call: 0, ret: 0, must, source });
            }
        }
        let mut by_key: BTreeMap<&Value, Vec<Step>> = BTreeMap::new();
        for step in steps {
            by_key.entry(&operations[step.source].key).or_default().push(step);
        }
        let (mut keys, mut words, mut left_out) = (Vec::new(), Words::default(), 0);
        let mut claims = Vec::new();
        let ends: HashSet<&Value> = operations.iter().filter(|o| o.ttl_ms.is_some()).map(|o| &o.key).collect();
        for (key, mut steps) in by_key {
            if ends.contains(key) {
                // Whose value may go away by itself is judged key by key, at level strict.
                left_out += steps.len() as u64;
                continue;
            }
            spell_numbers(&mut steps);
            let Some(swaps) = without_growth(&steps) else {
                left_out += steps.len() as u64;
                continue;
            };
            let siblings = written(&swaps);
            let number = keys.len() as u32;
            keys.push(key);
            for step in swaps {
                let (seen, wrote) = words.claim(&step.action, &siblings);
                let (operation, must) = (operations[step.source], step.must);
                claims.push(Claim { operation, chain: 0, place: 0, after: None, key: number, seen, wrote, must });
            }
        }
        claims.sort_by_key(|claim| claim.operation.invoked_at);
        let mut all = Claims { claims, chains: 0, keys, whole: true, left_out, writers: HashMap::new() };
        all.settle_unknown();
        all.number();
        Ok(all)
    }

    /// The sessions alone: for models that have rules of their own for what is observed.
    pub fn sessions(operations: &[&'a Operation]) -> Claims<'a> {
        let (mut claims, mut keys) = (Vec::new(), BTreeMap::new());
        for operation in operations.iter().copied().filter(|operation| operation.outcome != Outcome::Fail) {
            let next = keys.len() as u32;
            let key = *keys.entry(&operation.key).or_insert(next);
            let must = operation.outcome == Outcome::Ok;
            claims.push(Claim {
                operation,
                chain: 0,
                place: 0,
                after: None,
                key,
                seen: Seen::Nothing,
                wrote: None,
                must,
            });
        }
        claims.sort_by_key(|claim| claim.operation.invoked_at);
        let mut named = vec![&Value::Null; keys.len()];
        for (key, number) in keys {
            named[number as usize] = key;
        }
        let mut all = Claims { claims, chains: 0, keys: named, whole: true, left_out: 0, writers: HashMap::new() };
        all.number();
        all
    }

    /// Those of unknown outcome whose value, which nobody else wrote, was seen did take effect; those that nobody can
    /// have noticed are left out. Who need not have taken effect saw nothing for sure.
    fn settle_unknown(&mut self) {
        self.note_writers();
        let mut seen: HashSet<(u32, Word)> = HashSet::new();
        let mut surely: Vec<(u32, Word)> = Vec::new();
        let mut denied: HashSet<u32> = HashSet::new();
        // Where values stay side by side, a deletion shows in what is missing only.
        let mut several: HashSet<u32> = HashSet::new();
        for claim in &self.claims {
            match &claim.seen {
                Seen::Siblings(_) => drop(several.insert(claim.key)),
                Seen::NotEqual(_) => drop(denied.insert(claim.key)),
                Seen::Nothing | Seen::Equal(_) => {}
            }
            let words = words(&claim.seen).iter().map(|word| (claim.key, *word));
            if claim.must {
                surely.extend(words.clone());
            }
            seen.extend(words);
        }
        let mut settled: HashSet<(u32, Word)> = HashSet::new();
        while let Some((key, word)) = surely.pop() {
            if word == ABSENT || !settled.insert((key, word)) {
                continue;
            }
            let Some(&[writer]) = self.writers.get(&(key, word)).map(Vec::as_slice) else { continue };
            let writer = &mut self.claims[writer as usize];
            if !writer.must {
                writer.must = true;
                surely.extend(words(&writer.seen).iter().map(|word| (key, *word)));
            }
        }
        self.claims.retain(|claim| {
            let Some(word) = claim.wrote.filter(|_| !claim.must) else { return true };
            let noticed = seen.contains(&(claim.key, word));
            noticed || denied.contains(&claim.key) || (word == ABSENT && several.contains(&claim.key))
        });
        self.writers.clear();
    }

    fn note_writers(&mut self) {
        self.writers.clear();
        for (index, claim) in self.claims.iter().enumerate() {
            if let Some(word) = claim.wrote {
                self.writers.entry((claim.key, word)).or_default().push(index as u32);
            }
        }
    }

    /// Gives chains and places, and notes the writers.
    fn number(&mut self) {
        let mut chains: HashMap<&history::Process, (u32, u32, u32)> = HashMap::new();
        self.chains = 0;
        for index in 0..self.claims.len() {
            let claim = &mut self.claims[index];
            let last = chains.get(&claim.operation.process).copied();
            (claim.place, claim.after) = (1, None);
            claim.chain = self.chains as u32;
            match last {
                Some((chain, place, _)) if claim.operation.outcome == Outcome::Ok => {
                    (claim.chain, claim.place) = (chain, place + 1);
                    chains.insert(&claim.operation.process, (chain, place + 1, index as u32));
                    continue;
                }
                Some((_, _, before)) => claim.after = Some(before),
                None if claim.operation.outcome == Outcome::Ok => {
                    chains.insert(&claim.operation.process, (claim.chain, 1, index as u32));
                }
                None => {}
            }
            self.chains += 1;
        }
        self.note_writers();
    }

    /// Who may have written what was seen: nobody but the listed ones, and the beginning for [`ABSENT`].
    pub fn writers(&self, key: u32, word: Word) -> &[u32] {
        self.writers.get(&(key, word)).map_or(&[], Vec::as_slice)
    }

    /// Where a seen word surely came from.
    pub fn source(&self, key: u32, word: Word) -> Source {
        match (self.writers(key, word), word) {
            ([], ABSENT) => Source::Beginning,
            ([], _) => Source::Nobody,
            ([one], word) if word != ABSENT => Source::Write(*one),
            _ => Source::Several,
        }
    }

    /// The claims of a window whose beginning is not the history's: what was there first is unknown, and so are the
    /// values whose writers lie before it.
    pub fn in_the_middle(mut self) -> Claims<'a> {
        let writers = std::mem::take(&mut self.writers);
        self.claims.retain_mut(|claim| {
            let known = |word: &Word| *word != ABSENT && writers.contains_key(&(claim.key, *word));
            let explained = match &claim.seen {
                Seen::Nothing => true,
                Seen::Equal(word) => known(word),
                Seen::Siblings(words) => words.iter().all(known),
                Seen::NotEqual(_) => false,
            };
            if !explained {
                claim.seen = Seen::Nothing;
            }
            // A model with rules of its own observes in its own way.
            explained || claim.wrote.is_some()
        });
        self.whole = false;
        self.number();
        self
    }

    /// The part of the claims that `keep` names, less the observations whose cause is not kept.
    pub fn restrict(&self, keep: impl Fn(usize) -> bool) -> Claims<'a> {
        let mut gone_words: HashSet<(u32, Word)> = HashSet::new();
        let mut gone_keys: HashSet<u32> = HashSet::new();
        for (index, claim) in self.claims.iter().enumerate() {
            if let Some(word) = claim.wrote.filter(|_| !keep(index)) {
                gone_words.insert((claim.key, word));
                gone_keys.insert(claim.key);
            }
        }
        let mut claims = Vec::new();
        for (index, claim) in self.claims.iter().enumerate() {
            let explained = match &claim.seen {
                Seen::Nothing => true,
                Seen::Equal(word) => !gone_words.contains(&(claim.key, *word)),
                Seen::Siblings(words) => !words.iter().any(|word| gone_words.contains(&(claim.key, *word))),
                Seen::NotEqual(_) => !gone_keys.contains(&claim.key),
            };
            if keep(index) && (explained || claim.wrote.is_some()) {
                let seen = if explained { claim.seen.clone() } else { Seen::Nothing };
                claims.push(Claim { seen, ..claim.clone() });
            }
        }
        let whole = self.whole && claims.len() == self.claims.len();
        let (keys, left_out) = (self.keys.clone(), self.left_out);
        let mut part = Claims { claims, chains: 0, keys, whole, left_out, writers: HashMap::new() };
        part.number();
        part
    }
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was there before any operation.
    Beginning,
    /// From this claim alone.
    Write(u32),
    /// From one of several, or the beginning.
    Several,
    /// No operation wrote it.
    Nobody,
}

/// Additions and appends whose answer tells the whole value are swaps of what it must have been before; a key with one
/// that does not tell cannot be read, unless it does not matter.
fn without_growth(steps: &[Step]) -> Option<Vec<Step>> {
    let grows = |step: &Step| matches!(step.action, Action::Add { .. } | Action::Append { .. });
    if !steps.iter().any(grows) {
        return Some(steps.to_vec());
    }
    let numbers = steps.iter().any(|step| matches!(step.action, Action::Add { .. }));
    // An absent value counts as the empty one, and the empty one as absent.
    let empty = Value::from(if numbers { "0" } else { "" });
    let plain = |value: &Value| if *value == empty { Value::Null } else { value.clone() };
    let mut swaps = Vec::with_capacity(steps.len());
    for step in steps {
        let action = match &step.action {
            Action::Read(value) => Action::Read(plain(value)),
            Action::NotEqual(value) => Action::NotEqual(plain(value)),
            Action::Write(value) => Action::Write(plain(value)),
            Action::Cas { old, new } => Action::Cas { old: plain(old), new: plain(new) },
            Action::Add { by, seen: Some(new) } => {
                let old = Value::Text(integer(new)?.checked_sub(*by)?.to_string());
                Action::Cas { old: plain(&old), new: plain(new) }
            }
            Action::Append { text, seen: Some(Value::Text(new)) } if !text.is_empty() => {
                let old = Value::from(new.strip_suffix(text.as_str())?);
                Action::Cas { old: plain(&old), new: Value::from(new.as_str()) }
            }
            _ => return None,
        };
        swaps.push(Step { action, ..*step });
    }
    Some(swaps)
}

fn written(steps: &[Step]) -> HashSet<Value> {
    let value = |step: &Step| match &step.action {
        Action::Write(new) | Action::Cas { new, .. } => Some(new.clone()),
        _ => None,
    };
    steps.iter().filter_map(value).collect()
}

/// Values by their numbers.
#[derive(Default)]
struct Words(HashMap<Value, Word>);

impl Words {
    fn word(&mut self, value: &Value) -> Word {
        if value.is_null() {
            return ABSENT;
        }
        let next = self.0.len() as Word + 1;
        *self.0.entry(value.clone()).or_insert(next)
    }

    fn claim(&mut self, action: &Action, written: &HashSet<Value>) -> (Seen, Option<Word>) {
        match action {
            // A list of values that were each written, be it of one or none: this key keeps them side by side.
            Action::Read(whole @ Value::List(list))
                if !written.contains(whole) && list.iter().all(|value| written.contains(value)) =>
            {
                let mut words: Vec<Word> = list.iter().map(|value| self.word(value)).collect();
                words.sort_unstable();
                words.dedup();
                (Seen::Siblings(words), None)
            }
            Action::Read(value) => (Seen::Equal(self.word(value)), None),
            Action::NotEqual(value) => (Seen::NotEqual(self.word(value)), None),
            Action::Write(value) => (Seen::Nothing, Some(self.word(value))),
            Action::Cas { old, new } => (Seen::Equal(self.word(old)), Some(self.word(new))),
            Action::Add { .. } | Action::Append { .. } => unreachable!("growing values were made swaps"),
        }
    }
}
