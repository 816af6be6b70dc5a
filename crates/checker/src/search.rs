//! The search for an order of one key's operations that explains every answer.
//!
//! It walks the events in order and keeps the *frontier*: every configuration - the value, and which open operations
//! have taken effect - in which some order explains all answers up to here. Just-in-time linearization (Lowe 2017,
//! section 4): nothing needs to take effect before some operation returns, and then only a sequence that ends with
//! that one. Where nothing is open a configuration is a bare value, so that quiet points cut the history by
//! themselves; and the event at which the frontier runs empty ends the shortest prefix that nothing explains.
//!
//! What keeps the frontier small, and why no explanation is lost by it:
//! 1. An observation that agrees with the value takes effect at once: it changes nothing, and may be needed.
//! 2. A blind write *releases* the open blind writes: each could have taken effect just before it, unseen. A released
//!    one may still take effect or may be dropped at its return, which is the union of "done" and "pending". So may
//!    an open write of the very value that stands. Unknown operations are released from the start.
//! 3. Before the returning operation only those take effect that a pending operation may be waiting for; a blind write
//!    that nobody sees before the next one replaces it is as good as released.
//! 4. Of open operations that are equal, the one that returns first goes first: they can change places.
//! 5. A configuration with more released, and otherwise the same, can do all that another can; the other is dropped.
//! 6. Where there are only appends, a value must begin every later read.
//! 7. Unknown writes of values that nobody asks about are left out, and all such values are one (`problem.rs`). So is
//!    an unknown swap to a value that nobody asks about but unknown swaps back.
//! 8. A swap that need not be ends when what it asks for surely is gone (`problem.rs`). Where that is gone sooner, it
//!    does not matter whether the swap was done: it counts as released.
//! 9. A swap to a value that only swaps back ask for, which need not be, is done together with one of them as soon as
//!    both may be: whatever comes while its value stands could come as well while the one before it stands.
//! 10. Before an operation that needs a value which neither stands nor is set by an open one, nothing is tried.
//!
//! Nothing here recurses. A brute-force search over all orders agrees on small histories (`tests/brute.rs`).

use std::collections::{HashMap, HashSet};

use crate::options::Budget;
use crate::problem::{ABSENT, Act, Event, Op, Problem, Word};
use crate::register::Step;

/// What the search of one key found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An order explains every answer.
    Explained,
    /// None does. At the return of operation `source`, which stands at position `at`, no configuration was left.
    Unexplained { at: u64, source: usize },
    /// The budget, the memory or the slots ran out.
    GaveUp,
}

/// The most configurations held at once, by their size together: 256 MiB.
const CONFIGURATION_BYTES_MAX: usize = 256 << 20;
/// The most values of one key held: each append or add to a new value makes one.
const WORDS_MAX: usize = 4 << 20;
/// Larger groups of configurations are only freed of duplicates: comparing each with each would cost too much.
const COMPARED_MAX: usize = 512;
/// The most operations that are open at once on one key, unknown ones that matter included.
const SLOTS_MAX: usize = 64 * 64;

/// Decides the history of one key.
pub(crate) fn search(steps: &[Step], budget: &mut Budget<'_>) -> Found {
    let problem = Problem::new(steps);
    match problem.slots {
        0..=64 => Search::<1>::new(problem).run(budget),
        65..=256 => Search::<4>::new(problem).run(budget),
        257..=1024 => Search::<16>::new(problem).run(budget),
        1025..=SLOTS_MAX => Search::<64>::new(problem).run(budget),
        _ => Found::GaveUp,
    }
}

/// A set of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Slots<const N: usize>([u64; N]);

impl<const N: usize> Slots<N> {
    const NONE: Slots<N> = Slots([0; N]);

    fn has(&self, slot: usize) -> bool {
        self.0[slot / 64] & (1 << (slot % 64)) != 0
    }

    fn insert(&mut self, slot: usize) {
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    fn remove(&mut self, slot: usize) {
        self.0[slot / 64] &= !(1 << (slot % 64));
    }

    fn is_within(&self, other: &Slots<N>) -> bool {
        (0..N).all(|i| self.0[i] & !other.0[i] == 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Configuration<const N: usize> {
    state: Word,
    /// Open operations that have taken effect.
    done: Slots<N>,
    /// Open operations that have not, and may be dropped; never one of `done`.
    released: Slots<N>,
}

impl<const N: usize> Configuration<N> {
    /// Whether it can do all that `other`, which has the same state, can.
    fn covers(&self, other: &Configuration<N>) -> bool {
        (0..N).all(|i| {
            let (mine, theirs) = (self.released.0[i], other.released.0[i]);
            theirs & !mine == 0 && (self.done.0[i] ^ other.done.0[i]) & !mine == 0
        })
    }
}

struct Search<const N: usize> {
    problem: Problem,
    frontier: Vec<Configuration<N>>,
    /// Open operations that change the value, the earliest return first.
    effects: Vec<usize>,
    /// Open operations that only observe.
    observers: Vec<usize>,
    /// For each class the last expansion that tried it.
    tried: Vec<u64>,
    expansion: u64,
    /// For each event the value of the next read that is invoked from there on, in histories of appends alone.
    next_read: Vec<Option<Word>>,
    event: usize,
    /// Swaps that need not be, of values that only open operations set (8).
    passing: Vec<Passing<N>>,
    /// Swaps that can be undone unseen: what they ask for, and their slots (9).
    undone: Vec<(Word, usize)>,
}

/// A swap that need not be, of a value that only open operations set.
struct Passing<const N: usize> {
    slot: usize,
    old: Word,
    /// Those who set its old value.
    setters: Slots<N>,
}

impl<const N: usize> Search<N> {
    fn new(problem: Problem) -> Search<N> {
        let mut next_read = Vec::new();
        if problem.append_only {
            let mut next = None;
            for event in problem.events.iter().rev() {
                if let (false, Act::Read(word)) = (event.is_return, &problem.ops[event.op].act) {
                    next = Some(*word);
                }
                next_read.push(next);
            }
            next_read.reverse();
        }
        Search {
            frontier: vec![Configuration { state: ABSENT, done: Slots::NONE, released: Slots::NONE }],
            effects: Vec::new(),
            observers: Vec::new(),
            tried: vec![0; problem.classes],
            expansion: 0,
            next_read,
            event: 0,
            passing: Vec::new(),
            undone: Vec::new(),
            problem,
        }
    }

    fn run(mut self, budget: &mut Budget<'_>) -> Found {
        if budget.is_over() {
            return Found::GaveUp;
        }
        for index in 0..self.problem.events.len() {
            self.event = index;
            let Event { at, op, is_return } = self.problem.events[index];
            if !budget.spend() {
                return Found::GaveUp;
            }
            if !is_return {
                self.invoke(op);
                continue;
            }
            if !self.returned(op, budget) {
                return Found::GaveUp;
            }
            if self.frontier.is_empty() {
                return Found::Unexplained { at, source: self.problem.ops[op].source };
            }
        }
        Found::Explained
    }

    fn invoke(&mut self, index: usize) {
        let op = &self.problem.ops[index];
        if op.act.only_observes() {
            self.observers.push(index);
        } else {
            // Of equal ones those that must be go first: another may be left out (4).
            let rank = |op: &Op| (!op.must, op.ret);
            let place = self.effects.partition_point(|&open| rank(&self.problem.ops[open]) <= rank(op));
            self.effects.insert(place, index);
        }
        self.look_at_swaps();
        let op = &self.problem.ops[index];
        let mut frontier = std::mem::take(&mut self.frontier);
        frontier.retain_mut(|configuration| {
            if !op.must {
                configuration.released.insert(op.slot);
            }
            self.settle(configuration)
        });
        self.frontier = frontier;
    }

    /// Notes which open swaps are of the kinds that (8) and (9) are about.
    fn look_at_swaps(&mut self) {
        self.passing.clear();
        self.undone.clear();
        let (problem, at) = (&self.problem, self.problem.events[self.event].at);
        let swap = |index: usize| match problem.ops[index].act {
            Act::Cas(old, new) => Some((old, new, &problem.ops[index])),
            _ => None,
        };
        let mut setters: HashMap<Word, Slots<N>> = HashMap::new();
        let mut backs: HashSet<(Word, Word)> = HashSet::new();
        for (old, new, _) in self.effects.iter().filter_map(|&index| swap(index)).filter(|(.., op)| !op.must) {
            backs.insert((new, old));
            if problem.is_set_no_more(old, at) {
                setters.insert(old, Slots::NONE);
            }
        }
        if backs.is_empty() {
            return;
        }
        for &index in &self.effects {
            let op = &problem.ops[index];
            if let Act::Write(new) | Act::Cas(_, new) = op.act
                && let Some(slots) = setters.get_mut(&new)
            {
                slots.insert(op.slot);
            }
        }
        for (old, new, op) in self.effects.iter().filter_map(|&index| swap(index)) {
            if op.must && backs.contains(&(old, new)) && problem.is_unseen_swap(op, at) {
                self.undone.push((old, op.slot));
            } else if let Some(&setters) = setters.get(&old).filter(|_| !op.must) {
                self.passing.push(Passing { slot: op.slot, old, setters });
            }
        }
    }

    /// Lets take effect what changes nothing (1, 9), forgets what cannot be any more (8), releases writes of the value
    /// that stands (2); false if no later read agrees with the value (6).
    fn settle(&self, configuration: &mut Configuration<N>) -> bool {
        let state = configuration.state;
        for &index in &self.observers {
            let op = &self.problem.ops[index];
            match op.act {
                Act::Read(word) if word == state => configuration.done.insert(op.slot),
                Act::NotEqual(word) if word != state => configuration.done.insert(op.slot),
                Act::Read(word)
                    if self.problem.append_only
                        && !configuration.done.has(op.slot)
                        && !self.problem.begins(state, word) =>
                {
                    return false;
                }
                _ => {}
            }
        }
        for &index in &self.effects {
            let op = &self.problem.ops[index];
            if op.act == Act::Write(state) && !configuration.done.has(op.slot) {
                configuration.released.insert(op.slot);
            }
        }
        for &(old, slot) in &self.undone {
            if old == state {
                configuration.done.insert(slot);
            }
        }
        for passing in &self.passing {
            if passing.old != state && passing.setters.is_within(&configuration.done) {
                configuration.done.remove(passing.slot);
                configuration.released.insert(passing.slot);
            }
        }
        match self.next_read.get(self.event + 1) {
            Some(Some(later)) => self.problem.begins(state, *later),
            _ => true,
        }
    }

    /// Moves the frontier over the return of `index`; false when the budget or the memory ran out.
    fn returned(&mut self, index: usize, budget: &mut Budget<'_>) -> bool {
        let slot = self.problem.ops[index].slot;
        let noticed = self.problem.is_noticed(&self.problem.ops[index], self.problem.ops[index].ret);
        self.look_at_swaps();
        let mut next = HashSet::new();
        for mut configuration in std::mem::take(&mut self.frontier) {
            if configuration.done.has(slot) {
                configuration.done.remove(slot);
                next.insert(configuration);
                continue;
            }
            if configuration.released.has(slot) {
                let mut dropped = configuration;
                dropped.released.remove(slot);
                next.insert(dropped);
                if !noticed {
                    continue;
                }
            }
            if self.is_hopeless(&configuration, index) {
                continue;
            }
            if !self.sequences(configuration, index, &mut next, budget) {
                return false;
            }
        }
        self.effects.retain(|&open| open != index);
        self.observers.retain(|&open| open != index);
        self.frontier = uncovered(next);
        true
    }

    /// Whether what `index` needs neither stands nor can be set before it returns (10).
    fn is_hopeless(&self, from: &Configuration<N>, index: usize) -> bool {
        let ops = &self.problem.ops;
        let Some(word) = self.problem.needs(&ops[index].act).filter(|word| *word != from.state) else { return false };
        let sets = |other: &&usize| match ops[**other].act {
            Act::Write(new) | Act::Cas(_, new) => new == word && **other != index && !from.done.has(ops[**other].slot),
            _ => false,
        };
        !self.effects.iter().any(|other| sets(&other))
    }

    /// Adds to `next` what every sequence of open operations that ends with `last` leads to from `start`.
    fn sequences(
        &mut self,
        start: Configuration<N>,
        last: usize,
        next: &mut HashSet<Configuration<N>>,
        budget: &mut Budget<'_>,
    ) -> bool {
        let slot = self.problem.ops[last].slot;
        let mut seen = HashSet::from([start]);
        let mut stack = vec![start];
        while let Some(from) = stack.pop() {
            self.expansion += 1;
            for place in 0..self.effects.len() {
                let op = self.effects[place];
                let (op_slot, class) = (self.problem.ops[op].slot, self.problem.ops[op].class);
                if from.done.has(op_slot) || std::mem::replace(&mut self.tried[class], self.expansion) == self.expansion
                {
                    continue;
                }
                if self.problem.needs(&self.problem.ops[op].act).is_some_and(|word| word != from.state) {
                    continue;
                }
                if !budget.spend() {
                    return false;
                }
                let Some(state) = self.problem.apply(op, from.state) else { continue };
                if op != last && !self.is_awaited(&from, op, state) {
                    continue;
                }
                let mut to = from;
                to.state = state;
                to.done.insert(op_slot);
                to.released.remove(op_slot);
                if matches!(self.problem.ops[op].act, Act::Write(_)) {
                    self.release_writes(&mut to);
                }
                if !self.settle(&mut to) {
                    continue;
                }
                if to.done.has(slot) {
                    to.done.remove(slot);
                    next.insert(to);
                } else if seen.insert(to) {
                    stack.push(to);
                }
            }
            let held = (seen.len() + next.len()) * size_of::<Configuration<N>>();
            if held > CONFIGURATION_BYTES_MAX || self.problem.words_held() > WORDS_MAX {
                return false;
            }
        }
        true
    }

    fn release_writes(&self, configuration: &mut Configuration<N>) {
        for &index in &self.effects {
            let op = &self.problem.ops[index];
            if matches!(op.act, Act::Write(_)) && !configuration.done.has(op.slot) {
                configuration.released.insert(op.slot);
            }
        }
    }

    /// Whether some open operation may need `op` to take effect in `from`, making `result` of its value, right before
    /// itself (3).
    fn is_awaited(&self, from: &Configuration<N>, op: usize, result: Word) -> bool {
        let ops = &self.problem.ops;
        let (act, must) = (&ops[op].act, ops[op].must);
        // It can be done only while its old value stands, and it must be done.
        if must && matches!(act, Act::Cas(..)) {
            return true;
        }
        let sets = matches!(act, Act::Write(_) | Act::Cas(..));
        let plain_add = matches!(act, Act::Add(_, None));
        self.observers.iter().chain(&self.effects).any(|&index| {
            let other = &ops[index];
            if index == op || from.done.has(other.slot) {
                return false;
            }
            match &other.act {
                Act::Read(word) => !sets || *word == result,
                // It is pending, so that the value now is the one that it denies.
                Act::NotEqual(word) => !sets || *word != result,
                Act::Cas(old, _) => !sets || *old == result,
                Act::Write(_) => !sets && must,
                // Plain additions change places freely.
                Act::Add(_, None) => !plain_add,
                Act::Add(_, Some(_)) | Act::Append(..) => true,
            }
        })
    }
}

/// The configurations that no other covers (5), in a fixed order.
fn uncovered<const N: usize>(configurations: HashSet<Configuration<N>>) -> Vec<Configuration<N>> {
    let mut all: Vec<_> = configurations.into_iter().collect();
    if all.len() < 2 {
        return all;
    }
    all.sort_unstable();
    let mut kept = Vec::with_capacity(all.len());
    for group in all.chunk_by(|a, b| a.state == b.state) {
        if group.len() > COMPARED_MAX {
            kept.extend_from_slice(group);
            continue;
        }
        // No two are equal, and covering is an order: of each chain its top stays.
        kept.extend(group.iter().filter(|one| !group.iter().any(|other| other != *one && other.covers(one))));
    }
    kept
}
