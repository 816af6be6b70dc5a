//! The search of level sequential: an order that keeps what is forced and explains every answer.
//!
//! One operation after another is put into the order; what is there so far is a place in each chain, and a value on
//! each key. Two moves cost nothing and are made at once: an observation that fits what stands now, and a write that
//! nobody asks about over one that nobody asks about any more. Otherwise a write is chosen, the one that had to be over
//! first, and taken back when nothing fits any more. Places that led nowhere are remembered.
//!
//! What a failed swap saw is only what did *not* stand: a *denial*. It takes two further rules, without which every
//! write of its key, and every one of unknown outcome, would be tried at every place:
//! 1. A write `w` that nobody asks about comes at once in spite of a denial `d` on its key, unless `d` denies its own
//!    value and may come before it, or denies a value that is still to be written by an `x` and `x`, `w`, `d` may come
//!    in this order. For, where an order from here on explains all, it still does with `w` moved to its beginning: what
//!    stood first is asked for no more, and denied less than before; and where `w` had replaced `x`, `x` stands on
//!    instead, which nobody asked for there, and nobody denies. What need not be, and asked for what stood first, is
//!    left out: `w` stands in its place.
//! 2. A write that need not be, and that nobody asks about, comes only to replace what a denial that is next denies.
//!    For, where no denial of what it replaced comes before what replaces it, it can be left out; and where one does,
//!    it can wait until right before the first. Of several such writes that nobody denies any is as good as another,
//!    but that one which asks for what stands may not get another chance.

use std::collections::{HashMap, HashSet};

use stdx::mix;

use crate::claims::{ABSENT, Claims, Seen, Source, Word};
use crate::options::Budget;
use crate::order::Order;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Searched {
    Explained,
    Unexplained,
    GaveUp,
}

/// Places that are remembered; past it the search gives up.
const PLACES_MAX: usize = 4_000_000;

/// What stands on a key: who wrote it, if not the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    word: Word,
    by: Option<u32>,
}

struct Search<'s, 'a> {
    claims: &'s Claims<'a>,
    order: &'s Order,
    /// Who waits for each claim, and for how many each waits.
    after: Vec<Vec<u32>>,
    waits: Vec<u32>,
    done: Vec<bool>,
    /// Claims that wait for nobody.
    ready: Vec<u32>,
    standing: Vec<Standing>,
    /// For each claim that wrote, and for the beginning of each key: who surely read it and is not done.
    readers: Vec<u32>,
    readers_of_beginning: Vec<u32>,
    /// Whether all observations of the key, but for denials, have one source, and no write that need not be is asked
    /// for.
    plain: Vec<bool>,
    /// What is asked for of each key, by whomever.
    asked: HashSet<(u32, Word)>,
    /// Who observes of each key that a value does not stand, and which.
    denials: Vec<Vec<(u32, Word)>>,
    /// Who observes a value of a key that several operations wrote.
    ambiguous: HashMap<(u32, Word), Vec<u32>>,
    /// When each should be over: its own end, or the first end of a reader.
    due: Vec<u64>,
    left: usize,
    hash: u128,
}

struct Frame {
    moves: Vec<u32>,
    next: usize,
    trail: usize,
}

pub(crate) fn search(claims: &Claims<'_>, order: &Order, budget: &mut Budget<'_>) -> Searched {
    let mut search = Search::new(claims, order);
    let mut trail: Vec<(u32, Standing)> = Vec::new();
    let mut places: HashSet<u128> = HashSet::new();
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let start = trail.len();
        if !search.free_moves(&mut trail, budget) {
            return Searched::GaveUp;
        }
        if search.left == 0 {
            return Searched::Explained;
        }
        let moves = if places.insert(search.hash) { search.moves() } else { Vec::new() };
        if places.len() > PLACES_MAX {
            return Searched::GaveUp;
        }
        frames.push(Frame { moves, next: 0, trail: start });
        // The next move of the last frame that has one.
        loop {
            let Some(frame) = frames.last_mut() else { return Searched::Unexplained };
            let Some(&claim) = frame.moves.get(frame.next) else {
                let to = frame.trail;
                frames.pop();
                // What the frame did freely, and the move that led to it.
                search.undo(&mut trail, to.saturating_sub(usize::from(!frames.is_empty())));
                continue;
            };
            frame.next += 1;
            if !budget.spend() {
                return Searched::GaveUp;
            }
            search.make(claim, &mut trail);
            break;
        }
    }
}

impl<'s, 'a> Search<'s, 'a> {
    fn new(claims: &'s Claims<'a>, order: &'s Order) -> Search<'s, 'a> {
        let n = claims.claims.len();
        let mut search = Search {
            claims,
            order,
            after: vec![Vec::new(); n],
            waits: vec![0; n],
            done: vec![false; n],
            ready: Vec::new(),
            standing: vec![Standing { word: ABSENT, by: None }; claims.keys.len()],
            readers: vec![0; n],
            readers_of_beginning: vec![0; claims.keys.len()],
            plain: vec![true; claims.keys.len()],
            asked: HashSet::new(),
            denials: vec![Vec::new(); claims.keys.len()],
            ambiguous: HashMap::new(),
            due: claims.claims.iter().map(|claim| claim.operation.completed_at.unwrap_or(u64::MAX)).collect(),
            left: claims.claims.iter().filter(|claim| claim.must).count(),
            hash: 0,
        };
        for claim in 0..n as u32 {
            for earlier in order.predecessors(claim) {
                search.after[earlier as usize].push(claim);
                search.waits[claim as usize] += 1;
            }
        }
        for index in 0..n as u32 {
            search.note_observation(index);
        }
        for claim in &claims.claims {
            let asked = claim.wrote.is_some_and(|word| search.asked.contains(&(claim.key, word)));
            search.plain[claim.key as usize] &= claim.must || !asked;
        }
        search.ready = (0..n as u32).filter(|claim| search.waits[*claim as usize] == 0).collect();
        search
    }

    /// Notes what the claim observed: whose value, or that something did not stand.
    fn note_observation(&mut self, index: u32) {
        let claim = &self.claims.claims[index as usize];
        let key = claim.key as usize;
        let word = match claim.seen {
            Seen::Nothing => return,
            Seen::NotEqual(word) => return self.denials[key].push((index, word)),
            Seen::Siblings(_) => return self.plain[key] = false,
            Seen::Equal(word) => word,
        };
        self.asked.insert((claim.key, word));
        if !claim.must {
            return;
        }
        match self.claims.source(claim.key, word) {
            Source::Write(write) => {
                self.readers[write as usize] += 1;
                self.due[write as usize] = self.due[write as usize].min(self.due[index as usize]);
            }
            Source::Beginning => self.readers_of_beginning[key] += 1,
            Source::Several | Source::Nobody => {
                self.ambiguous.entry((claim.key, word)).or_default().push(index);
                self.plain[key] = false;
            }
        }
    }

    /// Whether the claim can come next.
    fn fits(&self, index: u32) -> bool {
        let claim = &self.claims.claims[index as usize];
        let standing = self.standing[claim.key as usize];
        let seen = match &claim.seen {
            Seen::Nothing => true,
            Seen::Equal(word) => standing.word == *word,
            Seen::NotEqual(word) => standing.word != *word,
            // One order has no siblings.
            Seen::Siblings(_) => false,
        };
        if !seen || claim.wrote.is_none() {
            return seen;
        }
        // What is replaced must not be asked for any more, but by this claim itself.
        let own = u32::from(self.reads_surely(index));
        self.awaited(claim.key) <= own
    }

    /// Whether the claim is counted among the readers of what stands.
    fn reads_surely(&self, index: u32) -> bool {
        let claim = &self.claims.claims[index as usize];
        match claim.seen {
            Seen::Equal(word) if claim.must => {
                matches!(self.claims.source(claim.key, word), Source::Write(_) | Source::Beginning)
            }
            _ => false,
        }
    }

    fn awaited(&self, key: u32) -> u32 {
        match self.standing[key as usize].by {
            Some(write) => self.readers[write as usize],
            None => self.readers_of_beginning[key as usize],
        }
    }

    /// Whether putting it next surely spoils nothing.
    fn is_free(&self, index: u32) -> bool {
        let claim = &self.claims.claims[index as usize];
        if !claim.must {
            return false;
        }
        match claim.wrote {
            None => true,
            Some(word) => {
                let unasked = self.plain[claim.key as usize] && self.readers[index as usize] == 0;
                unasked && !self.is_denied_early(index, word)
            }
        }
    }

    /// Whether some denial on the key of `index`, which writes `word`, may be broken if that write comes now (1).
    fn is_denied_early(&self, index: u32, word: Word) -> bool {
        let key = self.claims.claims[index as usize].key;
        let mut denials = self.denials[key as usize].iter().filter(|(denial, _)| !self.done[*denial as usize]);
        denials.any(|&(denial, denied)| {
            let between = |other: &&u32| {
                let replaced = **other != index && !self.done[**other as usize];
                replaced && !self.order.precedes(index, **other) && !self.order.precedes(denial, **other)
            };
            let own = denied == word && !self.order.precedes(index, denial);
            own || self.claims.writers(key, denied).iter().any(|other| between(&other))
        })
    }

    /// Whether the claim is a write that need not be and that nobody asks about; and whether nobody denies it either.
    fn is_idle(&self, index: u32) -> (bool, bool) {
        let claim = &self.claims.claims[index as usize];
        let Some(word) = claim.wrote.filter(|_| !claim.must) else { return (false, false) };
        let denied = self.denials[claim.key as usize].iter().any(|(_, denied)| *denied == word);
        (!self.asked.contains(&(claim.key, word)), !denied)
    }

    /// Whether a denial of what stands on the key could come next, if it did not stand.
    fn waits_for_another(&self, key: u32) -> bool {
        let standing = self.standing[key as usize].word;
        let mut denials = self.denials[key as usize].iter();
        denials.any(|(denial, word)| *word == standing && self.ready.contains(denial))
    }

    fn free_moves(&mut self, trail: &mut Vec<(u32, Standing)>, budget: &mut Budget<'_>) -> bool {
        let mut at = 0;
        while at < self.ready.len() {
            let claim = self.ready[at];
            if self.is_free(claim) && self.fits(claim) {
                if !budget.spend() {
                    return false;
                }
                self.make(claim, trail);
                at = 0;
            } else {
                at += 1;
            }
        }
        true
    }

    /// The writes that can come next, the most urgent first; last those that may replace too early what somebody who
    /// asked at the same time still wants to see.
    fn moves(&self) -> Vec<u32> {
        let mut moves: Vec<u32> = self.ready.iter().copied().filter(|claim| self.fits(*claim)).collect();
        // Idle ones only where they are needed, and of those that nobody denies one, rather one that asks (2).
        moves.sort_by_key(|claim| (self.claims.claims[*claim as usize].seen == Seen::Nothing, *claim));
        let mut served: HashSet<u32> = HashSet::new();
        moves.retain(|claim| {
            let key = self.claims.claims[*claim as usize].key;
            match self.is_idle(*claim) {
                (false, _) => true,
                (true, undenied) => self.waits_for_another(key) && (!undenied || served.insert(key)),
            }
        });
        moves.sort_by_key(|claim| {
            let optional = !self.claims.claims[*claim as usize].must;
            (self.replaces_early(*claim), optional, self.due[*claim as usize], *claim)
        });
        moves
    }

    fn replaces_early(&self, index: u32) -> bool {
        let key = self.claims.claims[index as usize].key;
        let Some(readers) = self.ambiguous.get(&(key, self.standing[key as usize].word)) else { return false };
        let due = self.due[index as usize];
        let waits = |reader: &u32| {
            let asked = self.claims.claims[*reader as usize].operation.invoked_at < due;
            asked && *reader != index && !self.done[*reader as usize]
        };
        readers.iter().any(waits)
    }

    fn make(&mut self, index: u32, trail: &mut Vec<(u32, Standing)>) {
        let claim = &self.claims.claims[index as usize];
        let key = claim.key as usize;
        trail.push((index, self.standing[key]));
        self.count_reader(index, false);
        if let Some(word) = claim.wrote {
            self.stand(key, Standing { word, by: Some(index) });
        }
        self.done[index as usize] = true;
        self.left -= usize::from(claim.must);
        self.hash ^= number(1, u64::from(index));
        if let Some(at) = self.ready.iter().position(|ready| *ready == index) {
            self.ready.swap_remove(at);
        }
        for position in 0..self.after[index as usize].len() {
            let next = self.after[index as usize][position];
            self.waits[next as usize] -= 1;
            if self.waits[next as usize] == 0 {
                self.ready.push(next);
            }
        }
    }

    fn undo(&mut self, trail: &mut Vec<(u32, Standing)>, to: usize) {
        while trail.len() > to {
            let Some((index, standing)) = trail.pop() else { return };
            for position in 0..self.after[index as usize].len() {
                let next = self.after[index as usize][position];
                if self.waits[next as usize] == 0
                    && let Some(at) = self.ready.iter().position(|ready| *ready == next)
                {
                    self.ready.swap_remove(at);
                }
                self.waits[next as usize] += 1;
            }
            let claim = &self.claims.claims[index as usize];
            self.ready.push(index);
            self.hash ^= number(1, u64::from(index));
            self.left += usize::from(claim.must);
            self.done[index as usize] = false;
            self.stand(claim.key as usize, standing);
            self.count_reader(index, true);
        }
    }

    fn stand(&mut self, key: usize, standing: Standing) {
        let name = |standing: Standing| standing.by.map_or(0, |by| u64::from(by) + 1);
        let place = (key as u64) << 32;
        self.hash ^= number(2, place | name(self.standing[key])) ^ number(2, place | name(standing));
        self.standing[key] = standing;
    }

    fn count_reader(&mut self, index: u32, back: bool) {
        let claim = &self.claims.claims[index as usize];
        let Seen::Equal(word) = claim.seen else { return };
        if !claim.must {
            return;
        }
        let count = match self.claims.source(claim.key, word) {
            Source::Write(write) => &mut self.readers[write as usize],
            Source::Beginning => &mut self.readers_of_beginning[claim.key as usize],
            Source::Several | Source::Nobody => return,
        };
        if back {
            *count += 1;
        } else {
            *count -= 1;
        }
    }
}

/// A number that stands for `what`, as good as drawn at random.
fn number(kind: u64, what: u64) -> u128 {
    let high = mix(what ^ mix(kind));
    (u128::from(high) << 64) | u128::from(mix(high ^ what.rotate_left(17)))
}
