//! Range-based set reconciliation (Meyer 2023): two replicas find out where they differ by comparing fingerprints of
//! ranges of the ring, and of parts of those that differ, down to lists of what is there.
//!
//! One side asks and compares, the other only answers, so that the asker knows when it is through: a *pass*. It fetches
//! what it lacks, and sends what the other lacks. Each step is asked again until it is answered.

use std::collections::{BTreeSet, VecDeque};

use membership::{Epoch, Position};
use replication::RegisterKey;

use crate::table::Table;
use crate::version::VersionVector;

/// Parts that a range is cut into.
pub const PARTS: u64 = 16;
/// A range of at most this many keys is told key by key.
pub const LEAF_MAX: u64 = 32;
/// Ranges in one question.
pub const RANGES_MAX: usize = 64;
/// How often a pass asks whether an arc is equal before it says that it differs.
const CHECKS_MAX: u32 = 3;
/// Bytes of states in one message, about, beyond the first state.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;

/// A part of the circle that does not wrap, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first position.
    pub first: u64,
    /// The last position, not before the first.
    pub last: u64,
}

/// A fingerprint of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print(pub [u8; 12]);

/// A fingerprint of one key's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortHash(pub u64);

/// A range to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The range.
    pub range: Range,
    /// How it looks to the asker; none where it is known to differ.
    pub print: Option<Print>,
}

/// How a range looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it does to the asker.
    Same,
    /// So, part by part ([`Range::parts`]).
    Parts(Vec<Print>),
    /// These are the states in it.
    Leaf(Vec<ShortHash>),
}

/// States that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The range that they lie in.
    pub range: Range,
    /// Which.
    pub hashes: Vec<ShortHash>,
}

impl Range {
    /// Whether they have a position in common.
    pub(crate) fn meets(self, other: Range) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The range cut into `PARTS` parts of equal size, or into single positions if it has fewer.
    pub fn parts(self) -> Vec<Range> {
        let width = u128::from(self.last - self.first) + 1;
        let parts = u128::from(PARTS).min(width);
        let at = |part: u128| self.first + u64::try_from(width * part / parts).unwrap_or(u64::MAX);
        (0..parts)
            .map(|part| Range { first: at(part), last: if part + 1 == parts { self.last } else { at(part + 1) - 1 } })
            .collect()
    }
}

/// The arc (`low`, `high`] as ranges, of which it is two if it reaches over the end of the numbers.
pub(crate) fn ranges_of(low: Position, high: Position) -> Vec<Range> {
    let first = low.0.wrapping_add(1);
    if low == high {
        vec![Range { first: 0, last: u64::MAX }]
    } else if first <= high.0 {
        vec![Range { first, last: high.0 }]
    } else {
        vec![Range { first: 0, last: high.0 }, Range { first, last: u64::MAX }]
    }
}

/// An arc by its ends: (`low`, `high`].
pub(crate) type Extent = (Position, Position);

/// The ranges of arcs, in ring order, joined where they touch.
pub(crate) fn joined_ranges(arcs: &[Extent]) -> Vec<Range> {
    let mut ranges: Vec<Range> = arcs.iter().flat_map(|(low, high)| ranges_of(*low, *high)).collect();
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.last.checked_add(1) == Some(range.first) => last.last = range.last,
            _ => joined.push(range),
        }
    }
    joined
}

/// What the other side answers.
pub(crate) fn answer(table: &Table, pass: u64, question: &Question) -> Answer {
    let (print, count) = table.print(question.range, pass);
    if question.print == Some(print) {
        return Answer::Same;
    }
    if count <= LEAF_MAX || question.range.first == question.range.last {
        return Answer::Leaf(table.range(question.range).map(|(_, held)| held.digest().short(pass)).collect());
    }
    Answer::Parts(question.range.parts().into_iter().map(|part| table.print(part, pass).0).collect())
}

/// What the other side sends: as many of the wanted states as fit, the first in any case. What is left out is wanted
/// again.
pub(crate) fn fetch(table: &Table, pass: u64, wanted: &[Wanted]) -> Vec<(RegisterKey, crate::state::State)> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for wanted in wanted {
        for (key, held) in table.range(wanted.range) {
            if !wanted.hashes.contains(&held.digest().short(pass)) {
                continue;
            }
            bytes += held.state.size();
            if bytes > PAGE_BYTES_MAX && !found.is_empty() {
                return found;
            }
            found.push((key.clone(), held.state.clone()));
        }
    }
    found
}

/// One pass, as its asker sees it.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Its number; also its salt.
    pub id: u64,
    /// The generation that it began in: it settles what is to be settled up to there.
    pub generation: u64,
    /// The number of the step that is under way.
    pub question: u32,
    /// The epoch of the view that it began in: who acts on an older one answers nothing that counts.
    pub epoch: Epoch,
    /// The arcs that it is about, by the tokens at their ends.
    pub arcs: Vec<Position>,
    /// Of these, ranges that we only hand on.
    foreign: Vec<Range>,
    /// Whether the other has always said that it is whole.
    pub whole: bool,
    /// How far the other had come when it began to answer.
    pub marks: VersionVector,
    heard: bool,
    /// Ranges still to be asked about.
    queue: VecDeque<Question>,
    /// What is under way.
    pub step: Step,
    /// Leaves that were told, whose wanted states are on their way: what is ours there, and not theirs, is sent next.
    leaves: Vec<(Range, Vec<ShortHash>)>,
    /// Of the told leaves, what was wanted and answered.
    answered: BTreeSet<ShortHash>,
    /// What is ours there and not theirs, and waits until what was sent before has arrived.
    surplus: VecDeque<RegisterKey>,
    /// States that were fetched.
    pub fetched: usize,
    /// States that were sent.
    pub sent: usize,
    check: Check,
}

/// Arcs of a pass that are compared as wholes in the end. Only those that are not known to be equal are asked about,
/// and a few times, since a write that is under way makes them differ.
#[derive(Clone, Debug, Default)]
struct Check {
    arcs: Vec<Extent>,
    /// How often they were asked about.
    rounds: u32,
    /// Of them, by the tokens at their ends, those that a range lies in that differed when it was last asked about.
    differing: BTreeSet<Position>,
}

/// What a pass waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: the next step can begin.
    Ready,
    /// An answer to these.
    Asked(Vec<Question>),
    /// These states.
    Wanted(Vec<Wanted>),
    /// That the other has stored what we sent, under this id.
    Sent(u64, Vec<RegisterKey>),
}

/// What to do next in a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Ask(Vec<Question>),
    Want(Vec<Wanted>),
    Send(Vec<RegisterKey>),
    Over,
    /// Wait.
    Nothing,
}

impl Pass {
    /// A pass about `shared` arcs, and about `handed` ones, of which nothing is fetched.
    pub fn new(
        (id, generation, epoch): (u64, u64, Epoch),
        (shared, handed): (&[Extent], &[Extent]),
        table: &Table,
    ) -> Pass {
        let arcs = shared.iter().chain(handed).map(|(_, high)| *high).collect();
        let foreign = joined_ranges(handed);
        let mut ranges = joined_ranges(shared);
        ranges.extend(&foreign);
        let question = |range: &Range| Question { range: *range, print: Some(table.print(*range, id).0) };
        Pass {
            id,
            generation,
            question: 0,
            epoch,
            arcs,
            foreign,
            whole: true,
            marks: VersionVector::new(),
            heard: false,
            queue: ranges.iter().map(question).collect(),
            step: Step::Ready,
            leaves: Vec::new(),
            answered: BTreeSet::new(),
            surplus: VecDeque::new(),
            fetched: 0,
            sent: 0,
            check: Check::default(),
        }
    }

    /// Compares these arcs as wholes, too.
    pub fn check(&mut self, arcs: Vec<Extent>) {
        self.check.arcs = arcs;
    }

    /// The arcs to be compared as wholes, by the tokens at their ends, in which all looked the same to both.
    pub fn agreed(&self) -> BTreeSet<Position> {
        let highs = self.check.arcs.iter().map(|(_, high)| *high);
        highs.filter(|high| !self.check.differing.contains(high)).collect()
    }

    /// Whether it is about arcs that we are to copy.
    pub fn is_copy(&self) -> bool {
        !self.check.arcs.is_empty()
    }

    /// Whether its next step moves states.
    pub fn moves_states(&self) -> bool {
        self.step == Step::Ready && !(self.leaves.is_empty() && self.surplus.is_empty())
    }

    /// Whether it has fetched or sent any states.
    pub fn has_moved_states(&self) -> bool {
        self.fetched + self.sent > 0
    }

    /// Whether it waits until states that it sent have arrived.
    pub fn sends_states(&self) -> bool {
        matches!(self.step, Step::Sent(..))
    }

    /// The next step, if none is under way.
    pub fn next(&mut self, table: &Table) -> Next {
        if self.step != Step::Ready {
            return Next::Nothing;
        }
        self.question += 1;
        if let Some((wanted, surplus)) = self.leaf_work(table) {
            if !wanted.is_empty() {
                self.step = Step::Wanted(wanted.clone());
                return Next::Want(wanted);
            }
            self.leaves.clear();
            self.answered.clear();
            self.surplus.extend(surplus);
        }
        if !self.surplus.is_empty() {
            return Next::Send(self.surplus.drain(..self.surplus.len().min(RANGES_MAX)).collect());
        }
        if self.queue.is_empty() {
            self.check_again(table);
        }
        if self.queue.is_empty() {
            return Next::Over;
        }
        let asked: Vec<Question> = self.queue.drain(..self.queue.len().min(RANGES_MAX)).collect();
        self.step = Step::Asked(asked.clone());
        Next::Ask(asked)
    }

    /// All is done: asks about whole arcs that did not look the same. How that comes out changes nothing but what is
    /// told.
    fn check_again(&mut self, table: &Table) {
        if self.check.rounds == CHECKS_MAX {
            return;
        }
        self.check.rounds += 1;
        let differing = std::mem::take(&mut self.check.differing);
        let again: Vec<Extent> = self.check.arcs.iter().filter(|(_, high)| differing.contains(high)).copied().collect();
        let ask = |range: Range| Question { range, print: Some(table.print(range, self.id).0) };
        self.queue.extend(again.iter().flat_map(|(low, high)| ranges_of(*low, *high)).map(ask));
    }

    /// These did not fit.
    pub fn send_later(&mut self, keys: Vec<RegisterKey>) {
        keys.into_iter().rev().for_each(|key| self.surplus.push_front(key));
    }

    /// What is still wanted of the told leaves, and what is to be sent. Computed anew after each answer: what has been
    /// fetched, or came otherwise, is ours by now.
    fn leaf_work(&self, table: &Table) -> Option<(Vec<Wanted>, Vec<RegisterKey>)> {
        if self.leaves.is_empty() {
            return None;
        }
        let (mut wanted, mut surplus) = (Vec::new(), Vec::new());
        for (range, theirs) in &self.leaves {
            let handed_on = self.foreign.iter().any(|foreign| foreign.meets(*range));
            let mut lacking = if handed_on { Vec::new() } else { theirs.clone() };
            lacking.retain(|hash| !self.answered.contains(hash));
            for (key, held) in table.range(*range) {
                let short = held.digest().short(self.id);
                if theirs.contains(&short) {
                    lacking.retain(|hash| *hash != short);
                } else {
                    surplus.push(key.clone());
                }
            }
            if !lacking.is_empty() {
                wanted.push(Wanted { range: *range, hashes: lacking });
            }
        }
        Some((wanted, surplus))
    }

    /// The other says whether it is whole, and how far it has come. What it has told of is at least as new as the first
    /// such word.
    pub fn heard(&mut self, whole: bool, marks: VersionVector) {
        self.whole &= whole;
        self.marks = if self.heard { self.marks.common(&marks) } else { marks };
        self.heard = true;
    }

    /// Takes the answers to a question in. `skip_last` is a planted bug.
    pub fn told(&mut self, question: u32, answers: Vec<Answer>, table: &Table, skip_last: bool) {
        let Step::Asked(asked) = &self.step else { return };
        if question != self.question || asked.len() != answers.len() {
            return;
        }
        let asked = asked.clone();
        self.step = Step::Ready;
        for (asked, answer) in asked.into_iter().zip(answers) {
            if asked.print.is_some() && answer != Answer::Same {
                let arcs = self.check.arcs.iter();
                let in_it =
                    arcs.filter(|(low, high)| ranges_of(*low, *high).iter().any(|part| part.meets(asked.range)));
                self.check.differing.extend(in_it.map(|(_, high)| *high));
            }
            if self.check.rounds > 0 {
                continue;
            }
            match answer {
                Answer::Same => {}
                Answer::Leaf(theirs) => self.leaves.push((asked.range, theirs)),
                Answer::Parts(prints) => {
                    let parts = asked.range.parts();
                    let compared = parts.len().min(prints.len()) - usize::from(skip_last && parts.len() > 1);
                    for (part, print) in parts.into_iter().zip(prints).take(compared) {
                        if table.print(part, self.id).0 != print {
                            self.queue.push_back(Question { range: part, print: None });
                        }
                    }
                }
            }
        }
        if skip_last && self.leaves.len() > 1 {
            self.leaves.pop();
        }
    }

    /// The wanted states have come, with these hashes, and are in the table; none if the other no longer holds any.
    /// `skip_changed` is a planted bug.
    pub fn had(&mut self, question: u32, got: &[ShortHash], skip_changed: bool) {
        let Step::Wanted(wanted) = &self.step else { return };
        if question != self.question {
            return;
        }
        // What was left out of a full page is wanted again. What is not there any more has become another state: the
        // pass is not through before it has seen that one.
        if got.is_empty() {
            self.answered.extend(wanted.iter().flat_map(|wanted| &wanted.hashes));
            let again = wanted.iter().filter(|_| !skip_changed);
            self.queue.extend(again.map(|wanted| Question { range: wanted.range, print: None }));
        }
        self.answered.extend(got);
        self.fetched += got.len();
        self.step = Step::Ready;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::DigestKey;
    use crate::version::{Actor, Dot};
    use bytes::Bytes;
    use membership::BucketId;
    use replication::LogPosition;

    fn put(table: &mut Table, position: u64, counter: u64) {
        let key = RegisterKey { position: Position(position), bucket: BucketId(1), key: Bytes::from_static(b"k") };
        let context = crate::version::Context::of(Dot { counter, actor: Actor::default() });
        table.put(&key, crate::state::State { context, ..Default::default() }, LogPosition(1));
    }

    /// A pass of somebody who holds nothing, about two arcs; in the end the other one writes this often to the second.
    fn agreed_after(writes: u64) -> BTreeSet<Position> {
        let tables = || Table::new(DigestKey::new(b"s"));
        let (mut mine, mut theirs) = (tables(), tables());
        (1..200).for_each(|position| put(&mut theirs, position, position));
        let arcs = [(Position(0), Position(100)), (Position(100), Position(200))];
        let mut pass = Pass::new((1, 0, Epoch(1)), (&arcs, &[]), &mine);
        pass.check(arcs.to_vec());
        let mut left = writes;
        loop {
            match pass.next(&mine) {
                Next::Ask(ranges) => {
                    if pass.check.rounds > 0 && left > 0 {
                        left -= 1;
                        put(&mut theirs, 150, 1_000 + left);
                    }
                    let answers = ranges.iter().map(|question| answer(&theirs, 1, question)).collect();
                    pass.told(pass.question, answers, &mine, false);
                }
                Next::Want(wanted) => {
                    let entries = fetch(&theirs, 1, &wanted);
                    entries.iter().for_each(|(key, state)| mine.put(key, state.clone(), LogPosition(1)));
                    let got: Vec<ShortHash> =
                        entries.iter().filter_map(|(key, _)| Some(mine.get(key)?.digest().short(1))).collect();
                    pass.had(pass.question, &got, false);
                }
                Next::Over => return pass.agreed(),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_pass_says_which_arcs_were_the_same_in_the_end() {
        let both = BTreeSet::from([Position(100), Position(200)]);
        assert_eq!(agreed_after(0), both);
        assert_eq!(agreed_after(1), BTreeSet::from([Position(100)]), "what differs is told, not hidden");
    }
}
