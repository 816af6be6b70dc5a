//! The search of level sequential: an order that keeps what is forced and explains every answer.
//!
//! One operation after another is put into the order; what is there so far is a place in each chain, and a value on
//! each key. Two moves cost nothing and are made at once: an observation that fits what stands now, and a write that
//! nobody asks about over one that nobody asks about any more. Otherwise a write is chosen, the one that had to be over
//! first, and taken back when nothing fits any more. Places that led nowhere are remembered.

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
    /// Whether all observations of the key have one source.
    plain: Vec<bool>,
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
    fn new(claims: &'s Claims<'a>, order: &Order) -> Search<'s, 'a> {
        let n = claims.claims.len();
        let mut search = Search {
            claims,
            after: vec![Vec::new(); n],
            waits: vec![0; n],
            done: vec![false; n],
            ready: Vec::new(),
            standing: vec![Standing { word: ABSENT, by: None }; claims.keys.len()],
            readers: vec![0; n],
            readers_of_beginning: vec![0; claims.keys.len()],
            plain: vec![true; claims.keys.len()],
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
        for (index, claim) in claims.claims.iter().enumerate() {
            search.plain[claim.key as usize] &= match claim.seen {
                Seen::Nothing => claim.must,
                Seen::Equal(_) if !claim.must => false,
                Seen::Equal(word) => match claims.source(claim.key, word) {
                    Source::Write(write) => {
                        search.readers[write as usize] += 1;
                        search.due[write as usize] = search.due[write as usize].min(search.due[index]);
                        true
                    }
                    Source::Beginning => {
                        search.readers_of_beginning[claim.key as usize] += 1;
                        true
                    }
                    Source::Several | Source::Nobody => {
                        search.ambiguous.entry((claim.key, word)).or_default().push(index as u32);
                        false
                    }
                },
                Seen::NotEqual(_) | Seen::Siblings(_) => false,
            };
        }
        search.ready = (0..n as u32).filter(|claim| search.waits[*claim as usize] == 0).collect();
        search
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
            Some(_) => self.plain[claim.key as usize] && self.readers[index as usize] == 0,
        }
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
