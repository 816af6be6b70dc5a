//! The steps of one key made small for the search: values as numbers, events in order, what nobody could notice
//! taken away.

use std::collections::{BTreeMap, HashMap};

use history::Value;

use crate::register::{Action, OPEN, Step, integer};

/// A value's number; [`ABSENT`] is `null`, [`UNSEEN`] stands for all values that no operation asks about.
pub(crate) type Word = u32;
pub(crate) const ABSENT: Word = 0;
pub(crate) const UNSEEN: Word = 1;

/// An [`Action`] on words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    Read(Word),
    NotEqual(Word),
    Write(Word),
    Cas(Word, Word),
    Add(i128, Option<Word>),
    Append(String, Option<Word>),
}

impl Act {
    pub(crate) fn only_observes(&self) -> bool {
        matches!(self, Act::Read(_) | Act::NotEqual(_))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub act: Act,
    pub must: bool,
    pub call: u64,
    pub ret: u64,
    /// Its place among the operations open at the same time.
    pub slot: usize,
    /// Operations with equal acts have equal classes.
    pub class: usize,
    pub source: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub at: u64,
    pub op: usize,
    pub is_return: bool,
}

#[derive(Debug)]
pub(crate) struct Problem {
    pub ops: Vec<Op>,
    pub events: Vec<Event>,
    pub classes: usize,
    /// How many operations are open at once, at most.
    pub slots: usize,
    /// Nothing but appends and reads: the value only ever grows at its end.
    pub append_only: bool,
    /// Operations whose effect depends on the value exist, so that every value matters.
    every_value_matters: bool,
    /// When the last operation that asks whether the value is this word ends.
    last_asked: Vec<u64>,
    /// When the last operation that asks whether the value is *not* something ends; 0 if none does.
    last_not_equal: u64,
    words: Words,
}

impl Problem {
    pub(crate) fn new(steps: &[Step]) -> Problem {
        let adds = steps.iter().any(|step| matches!(step.action, Action::Add { .. }));
        let appends = steps.iter().any(|step| matches!(step.action, Action::Append { .. }));
        let mut words = Words::new();
        let mut ops: Vec<Op> = steps.iter().map(|step| op(step, &mut words)).collect();
        let mut problem = Problem {
            append_only: appends && ops.iter().all(|op| matches!(op.act, Act::Append(..) | Act::Read(_))),
            every_value_matters: adds || appends,
            last_asked: Vec::new(),
            last_not_equal: 0,
            classes: 0,
            slots: 0,
            events: Vec::new(),
            ops: Vec::new(),
            words,
        };
        problem.note_questions(&ops);
        if !problem.every_value_matters {
            // Taking one away may take away the only question about another's value.
            loop {
                let before = ops.len();
                ops.retain(|op| op.must || problem.is_noticed(op, op.call));
                if ops.len() == before {
                    break;
                }
                problem.note_questions(&ops);
            }
            for op in &mut ops {
                if let Act::Write(new) | Act::Cas(_, new) = &mut op.act
                    && problem.last_asked[*new as usize] == 0
                {
                    *new = UNSEEN;
                }
            }
        }
        problem.ops = ops;
        problem.number();
        problem
    }

    fn note_questions(&mut self, ops: &[Op]) {
        self.last_asked = vec![0; self.words.values.len()];
        self.last_not_equal = 0;
        for op in ops {
            match op.act {
                Act::Read(word) | Act::Cas(word, _) => {
                    let last = &mut self.last_asked[word as usize];
                    *last = op.ret.max(*last);
                }
                Act::NotEqual(word) => {
                    self.last_not_equal = op.ret.max(self.last_not_equal);
                    // Not a question that the word answers, but its number must not be taken for another's.
                    let last = &mut self.last_asked[word as usize];
                    *last = op.ret.max(*last);
                }
                _ => {}
            }
        }
    }

    /// Whether anything that ends after `at` can tell that `op`, which sets a value, took effect.
    pub(crate) fn is_noticed(&self, op: &Op, at: u64) -> bool {
        match op.act {
            Act::Write(new) | Act::Cas(_, new) => {
                self.every_value_matters || self.last_asked[new as usize] > at || self.last_not_equal > at
            }
            _ => true,
        }
    }

    /// Gives events their order, operations their slots and classes.
    fn number(&mut self) {
        let mut classes: BTreeMap<Act, usize> = BTreeMap::new();
        for (index, op) in self.ops.iter_mut().enumerate() {
            let next = classes.len();
            op.class = *classes.entry(op.act.clone()).or_insert(next);
            self.events.push(Event { at: op.call, op: index, is_return: false });
            if op.ret != OPEN {
                self.events.push(Event { at: op.ret, op: index, is_return: true });
            }
        }
        self.classes = classes.len();
        // Operations made weaker by the explanation all begin at 0 and never end: only calls can share a position.
        self.events.sort_by_key(|event| (event.at, event.is_return));
        let mut vacant: Vec<usize> = Vec::new();
        for event in &self.events {
            let op = &mut self.ops[event.op];
            if event.is_return {
                vacant.push(op.slot);
            } else {
                op.slot = vacant.pop().unwrap_or_else(|| {
                    self.slots += 1;
                    self.slots - 1
                });
            }
        }
    }

    /// What `op` makes of `state`; `None` if it cannot take effect there as it was answered.
    pub(crate) fn apply(&mut self, op: usize, state: Word) -> Option<Word> {
        match &self.ops[op].act {
            Act::Read(word) => (state == *word).then_some(state),
            Act::NotEqual(word) => (state != *word).then_some(state),
            Act::Write(new) => Some(*new),
            Act::Cas(old, new) => (state == *old).then_some(*new),
            Act::Add(by, seen) => {
                let sum = match &self.words.values[state as usize] {
                    Value::Null => *by,
                    value => integer(value)?.checked_add(*by)?,
                };
                let seen = *seen;
                let sum = self.words.word(Value::Text(sum.to_string()));
                (seen.is_none() || seen == Some(sum)).then_some(sum)
            }
            Act::Append(text, seen) => {
                let seen = *seen;
                let class = self.ops[op].class;
                let whole = match self.words.joined.get(&(class, state)) {
                    Some(&whole) => whole,
                    None => {
                        let before = self.words.text(state)?;
                        let whole = Value::Text(format!("{before}{text}"));
                        let whole = self.words.word(whole);
                        self.words.joined.insert((class, state), whole);
                        whole
                    }
                };
                (seen.is_none() || seen == Some(whole)).then_some(whole)
            }
        }
    }

    /// Whether `state` is how `later` begins, both as strings.
    pub(crate) fn begins(&self, state: Word, later: Word) -> bool {
        match (self.words.text(state), self.words.text(later)) {
            (Some(state), Some(later)) => later.starts_with(state),
            _ => false,
        }
    }

    /// Values held, as a measure of memory.
    pub(crate) fn words_held(&self) -> usize {
        self.words.values.len()
    }
}

fn op(step: &Step, words: &mut Words) -> Op {
    let act = match &step.action {
        Action::Read(value) => Act::Read(words.word(value.clone())),
        Action::NotEqual(old) => Act::NotEqual(words.word(old.clone())),
        Action::Write(new) => Act::Write(words.word(new.clone())),
        Action::Cas { old, new } => Act::Cas(words.word(old.clone()), words.word(new.clone())),
        Action::Add { by, seen } => Act::Add(*by, seen.clone().map(|seen| words.word(seen))),
        Action::Append { text, seen } => Act::Append(text.clone(), seen.clone().map(|seen| words.word(seen))),
    };
    Op { act, must: step.must, call: step.call, ret: step.ret, slot: 0, class: 0, source: step.source }
}

/// The values of one key, numbered.
#[derive(Debug)]
struct Words {
    values: Vec<Value>,
    numbers: HashMap<Value, Word>,
    /// What (class of append, state) gave: joining long strings again and again would cost their length each time.
    joined: HashMap<(usize, Word), Word>,
}

impl Words {
    fn new() -> Words {
        // The place of UNSEEN is filled by a value that is never looked up: its number is handed out here only.
        Words {
            values: vec![Value::Null, Value::Null],
            numbers: HashMap::from([(Value::Null, ABSENT)]),
            joined: HashMap::new(),
        }
    }

    fn word(&mut self, value: Value) -> Word {
        if let Some(&word) = self.numbers.get(&value) {
            return word;
        }
        let word = Word::try_from(self.values.len()).expect("fewer values than a search has steps");
        self.values.push(value.clone());
        self.numbers.insert(value, word);
        word
    }

    fn text(&self, word: Word) -> Option<&str> {
        match &self.values[word as usize] {
            Value::Null => Some(""),
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}
