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

/// Who sets a word, and who sees that it stands.
#[derive(Clone, Copy, Debug, Default)]
struct Setters {
    count: usize,
    /// When the last one begins, and when the last one ends.
    call: u64,
    ret: u64,
    /// What stood before, if the only one who sets it is a swap.
    home: Option<Word>,
    /// When the last operation ends that asks for it and is no ending, of which back to `home`: one that need not be.
    seen: u64,
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
    /// For each word who sets it, and who sees it.
    setters: Vec<Setters>,
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
            setters: Vec::new(),
            classes: 0,
            slots: 0,
            events: Vec::new(),
            ops: Vec::new(),
            words,
        };
        problem.note_questions(&ops);
        if !problem.every_value_matters {
            problem.leave_out(&mut ops);
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

    /// Leaves out what nobody could notice, and what could never be; ends what could not be any more.
    fn leave_out(&mut self, ops: &mut Vec<Op>) {
        // Taking one away may take away the only question about another's value.
        loop {
            let before = ops.len();
            self.end_endings(ops);
            // Whoever ends where it begins may notice it: begins come first.
            let noticed = |op: &Op| self.is_noticed(op, op.call.saturating_sub(1));
            ops.retain(|op| op.must || (noticed(op) && self.may_be(op) && !self.is_for_nothing(op)));
            self.note_questions(ops);
            if ops.len() == before {
                break;
            }
        }
    }

    /// Whether what `op` asks for is ever set, as far as it asks for something.
    fn may_be(&self, op: &Op) -> bool {
        match op.act {
            Act::Read(word) | Act::Cas(word, _) => word == ABSENT || self.setters[word as usize].count > 0,
            _ => true,
        }
    }

    /// Whether `op` is a swap that need not be, from where all go back that ask for what it sets, and these need not be
    /// either: whatever order explains all with it, explains all without it. While what it set stood, nothing else
    /// was seen, and what replaced it can replace what was before.
    fn is_for_nothing(&self, op: &Op) -> bool {
        let Act::Cas(old, new) = op.act else { return false };
        let of = &self.setters[new as usize];
        !op.must && of.home == Some(old) && of.seen == 0 && self.last_not_equal == 0
    }

    /// Gives each swap that need not be, and stayed open for ever, an end: when what it asks for is gone for good. That
    /// is once all who set it have ended, and something has begun after that and has ended, which surely left or
    /// found something else. It could not take effect later anyway.
    fn end_endings(&self, ops: &mut Vec<Op>) {
        // By their beginnings, with what stood when they took effect: the first ends from there on, of two words.
        let mut tells: Vec<(u64, u64, Word)> = Vec::new();
        for op in ops.iter().filter(|op| op.must && op.ret != OPEN) {
            if let Act::Read(word) | Act::Write(word) | Act::Cas(_, word) = op.act {
                tells.push((op.call, op.ret, word));
            }
        }
        tells.sort_unstable();
        let mut ends = vec![[(OPEN, ABSENT); 2]; tells.len() + 1];
        for (index, (_, ret, word)) in tells.iter().enumerate().rev() {
            let [mut first, mut second] = ends[index + 1];
            if *word == first.1 || first.0 == OPEN {
                first = (first.0.min(*ret), *word);
            } else if *ret < first.0 {
                (first, second) = ((*ret, *word), first);
            } else {
                second = if *word == second.1 || *ret < second.0 { (second.0.min(*ret), *word) } else { second };
            }
            ends[index] = [first, second];
        }
        for op in ops.iter_mut().filter(|op| !op.must && op.ret == OPEN) {
            let Act::Cas(old, _) = op.act else { continue };
            let of = &self.setters[old as usize];
            if old != ABSENT && of.ret != OPEN {
                let next = tells.partition_point(|(call, ..)| *call <= of.ret);
                let of_another = ends[next].iter().filter(|(_, word)| *word != old);
                op.ret = of_another.map(|(ret, _)| *ret).min().unwrap_or(OPEN);
            }
        }
        // One that begins where it ends may still come before what ends there.
        ops.retain(|op| op.must || op.call <= op.ret);
    }

    fn note_questions(&mut self, ops: &[Op]) {
        self.note_setters(ops);
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

    fn note_setters(&mut self, ops: &[Op]) {
        self.setters = vec![Setters::default(); self.words.values.len()];
        for op in ops {
            if let Act::Write(new) | Act::Cas(_, new) = op.act {
                let of = &mut self.setters[new as usize];
                of.count += 1;
                (of.call, of.ret) = (of.call.max(op.call), of.ret.max(op.ret));
                of.home = match op.act {
                    Act::Cas(old, _) if of.count == 1 && new != ABSENT => Some(old),
                    _ => None,
                };
            }
        }
        for op in ops {
            if let Act::Read(word) | Act::NotEqual(word) | Act::Cas(word, _) = op.act {
                let of = &mut self.setters[word as usize];
                let leads_home = matches!(op.act, Act::Cas(_, new) if !op.must && of.home == Some(new));
                if !leads_home {
                    of.seen = of.seen.max(op.ret);
                }
            }
        }
    }

    /// Whether all who set `word` have begun before `at`.
    pub(crate) fn is_set_no_more(&self, word: Word, at: u64) -> bool {
        !self.every_value_matters && word != ABSENT && self.setters[word as usize].call < at
    }

    /// Whether `act` cannot take effect unless `word` stands, which only those make that set it.
    pub(crate) fn needs(&self, act: &Act) -> Option<Word> {
        match act {
            Act::Read(word) | Act::Cas(word, _) if !self.every_value_matters => Some(*word),
            _ => None,
        }
    }

    /// Whether what `op` sets is seen by nobody who ends at `at` or later, except by those who may lead back to what
    /// was before it.
    pub(crate) fn is_unseen_swap(&self, op: &Op, at: u64) -> bool {
        let Act::Cas(old, new) = op.act else { return false };
        let of = &self.setters[new as usize];
        !self.every_value_matters && of.home == Some(old) && of.seen < at && self.last_not_equal < at
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
        // So can ends, of swaps that need not be: what shows that they are over may have needed them.
        self.events.sort_by_key(|event| (event.at, event.is_return, event.is_return && !self.ops[event.op].must));
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
