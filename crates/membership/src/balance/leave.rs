//! Who takes over what a leaver owned.

use super::layout::{Change, Layout};
use super::{TOKENS, TOKENS_MAX};
use crate::{Member, NodeId, Position};

/// Rounds in which all borders are moved, at most.
const ROUNDS_MAX: usize = 24;
/// A round that makes things better by less than this is the last.
const ROUND_WORTH: f64 = 1e-7;
/// Pieces that are given to a third, at most.
const GIFTS_MAX: usize = 64;
/// Candidates for such a piece.
const HEIRS: usize = 16;
/// A member that owns more than this multiple of its due share has a piece too many.
const FULL: f64 = 1.05;
/// What a gift must make better, for each is one more token to keep up.
const TOKEN_PRICE: f64 = 1e-5;
/// What may move besides the leaver's arcs, as a share of them.
const SPARE_SHARE: f64 = 0.08;
/// A member that owns more than this multiple of its due share lets some of it go to a neighbour, out of the spare.
const TOO_FULL_FOR_GOOD: f64 = 1.07;
/// Members that are relieved so, at most.
const RELIEFS_MAX: usize = 64;

/// Adjacent arcs of the leaver, from one token of another member (excluded) to its own last one (included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    low: Position,
    high: Position,
}

/// What the leaver owned; empty when nobody else has a token.
pub(super) fn stretches(members: &[Member], leaver: NodeId) -> Vec<Stretch> {
    let of = members.iter().flat_map(|member| member.tokens.iter().map(|token| (*token, member.id)));
    let mut tokens: Vec<(Position, NodeId)> = of.collect();
    tokens.sort_unstable();
    let Some(first) = tokens.iter().position(|token| token.1 != leaver) else { return Vec::new() };
    tokens.rotate_left(first);
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut low = tokens[0].0;
    for (at, (position, owner)) in tokens.iter().enumerate() {
        let next = tokens[(at + 1) % tokens.len()].1;
        match *owner == leaver {
            true if next != leaver => stretches.push(Stretch { low, high: *position }),
            true => {}
            false => low = *position,
        }
    }
    stretches
}

/// A token that may stand anywhere between two places without moving anything but what the leaver owned.
#[derive(Clone, Copy, Debug)]
struct Border {
    now: Position,
    stretch: Stretch,
}

/// A piece of a stretch, and who has it now.
#[derive(Clone, Copy, Debug)]
struct Piece {
    low: Position,
    high: Position,
    owner: usize,
    stretch: Stretch,
    /// How much of it may go to another.
    free: u64,
}

/// The ring without the leaver, and what it left.
#[derive(Debug)]
pub(super) struct Estate {
    layout: Layout,
    stretches: Vec<Stretch>,
    borders: Vec<Border>,
    /// What may move besides.
    spare: f64,
}

impl Estate {
    /// `layout` is the ring in which each stretch has fallen to the next token.
    pub fn new(layout: Layout, stretches: &[Stretch]) -> Estate {
        let owned: f64 = stretches.iter().map(|stretch| stretch.low.distance_to(stretch.high) as f64).sum();
        let borders = stretches.iter().map(|stretch| Border { now: stretch.low, stretch: *stretch }).collect();
        Estate { layout, stretches: stretches.to_vec(), borders, spare: SPARE_SHARE * owned }
    }

    /// The ring once all has found an owner.
    pub fn settled(mut self) -> Layout {
        self.move_borders();
        let mut tried = Vec::new();
        for _ in 0..GIFTS_MAX {
            let Some(full) = self.fullest(&tried) else { break };
            match self.give_to_a_third(full) {
                true => self.move_borders(),
                false => tried.push(full),
            }
        }
        self.relieve();
        self.merge();
        self.layout
    }

    /// Moves all borders, one by one and again, until that makes nothing better.
    fn move_borders(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut better = 0.0;
            for index in 0..self.borders.len() {
                let Border { now, stretch } = self.borders[index];
                let at = self.layout.place_of(now);
                assert_eq!(self.layout.tokens[at].0, now, "a border is a token");
                let next = self.layout.tokens[self.layout.after(at)].0;
                let on = now.distance_to(stretch.high).min(now.distance_to(next) - 1);
                // The first of a stretch stands on where it stood; others stay clear of the one before.
                let back = stretch.low.distance_to(now).min(self.layout.arc(at) - 1);
                let (by, cost) = self.layout.best_shift(at, back, on);
                if cost < 0.0 && by != 0 {
                    self.layout.shift(at, by);
                    self.borders[index].now = Position((i128::from(now.0) + by) as u64);
                    better -= cost;
                }
            }
            if better < ROUND_WORTH {
                break;
            }
        }
    }

    /// The fullest of those that got anything, if it has too much; but for some.
    fn fullest(&self, but_for: &[usize]) -> Option<usize> {
        let ratio = |member: &usize| self.layout.loads[*member].owned_ratio();
        let owners = self.pieces().into_iter().map(|piece| piece.owner);
        let full = owners.filter(|member| ratio(member) > FULL && !but_for.contains(member));
        full.max_by(|a, b| ratio(a).total_cmp(&ratio(b)))
    }

    /// Gives a piece of what a full member got to the one that is best served with it. Whether there was any.
    fn give_to_a_third(&mut self, full: usize) -> bool {
        let pieces = self.pieces();
        let ratio = |member: usize| self.layout.loads[member].owned_ratio();
        let mut heirs: Vec<usize> = (0..self.layout.loads.len())
            .filter(|member| (1..TOKENS_MAX).contains(&self.layout.loads[*member].tokens) && *member != full)
            .collect();
        // Half of them for the room that they have, half for how much they lack of their own share.
        let room = |member: usize| self.layout.loads[member].owned_due - self.layout.loads[member].owned;
        heirs.sort_by(|a, b| room(*b).total_cmp(&room(*a)));
        let half = heirs.len().min(HEIRS / 2);
        heirs[half..].sort_by(|a, b| ratio(*a).total_cmp(&ratio(*b)));
        heirs.truncate(HEIRS);
        let excess = self.layout.loads[full].owned - self.layout.loads[full].owned_due;
        let mut best: Option<(f64, Piece, usize, u64)> = None;
        for piece in pieces.into_iter().filter(|piece| piece.owner == full) {
            for heir in &heirs {
                let length = (piece.free as f64).min(excess).min(room(*heir));
                if length < 2.0 {
                    continue;
                }
                let cost = self.layout.cost_of(&self.gift(piece, *heir, length)) + TOKEN_PRICE;
                if cost < 0.0 && best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                    best = Some((cost, piece, *heir, (length as u64).min(piece.free)));
                }
            }
        }
        let Some((_, piece, heir, length)) = best else { return false };
        self.give(piece, heir, length)
    }

    /// The parts of the stretches, each with its owner.
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for stretch in &self.stretches {
            let Stretch { mut low, high } = *stretch;
            // Where nothing has moved the token at the low end still stands there, and its arc lies before.
            let mut at = self.layout.place_of(Position(low.0.wrapping_add(1)));
            while low != high {
                let (position, owner) = self.layout.tokens[at];
                let end = if low.distance_to(position) < low.distance_to(high) { position } else { high };
                let length = low.distance_to(end);
                // The token that stood at the low end may step back onto its old place, others onto no other token.
                let kept = if end == position && self.layout.is_taken(low) { length / 8 + 1 } else { 0 };
                let free = length.saturating_sub(kept);
                pieces.push(Piece { low, high: end, owner, stretch: *stretch, free });
                (low, at) = (end, self.layout.after(at));
            }
        }
        pieces
    }

    /// What it would mean that `heir` got so much of a piece.
    fn gift(&self, piece: Piece, heir: usize, length: f64) -> Change {
        let at = self.layout.place_of(piece.high);
        if self.layout.tokens[at].0 != piece.high {
            return self.layout.insertion(at, length, heir);
        }
        // Its own token steps back, and the heir's stands where it stood.
        let mut change = self.layout.shifting(at).times(-length);
        change.add(self.layout.insertion(self.layout.after(at), length, heir));
        change
    }

    fn give(&mut self, piece: Piece, heir: usize, length: u64) -> bool {
        let at = self.layout.place_of(piece.high);
        let now = if self.layout.tokens[at].0 == piece.high {
            let back = Position(piece.high.0.wrapping_sub(length));
            if let Some(border) = self.borders.iter_mut().find(|border| border.now == piece.high) {
                border.now = back;
            }
            self.layout.shift(at, -i128::from(length));
            piece.high
        } else {
            Position(piece.low.0.wrapping_add(length))
        };
        if self.layout.is_taken(now) {
            return false;
        }
        self.layout.insert(self.layout.place_of(now), now, heir);
        self.borders.push(Border { now, stretch: piece.stretch });
        true
    }

    /// Lets those that are too full all the same push a border of their own, as far as the spare goes.
    fn relieve(&mut self) {
        let mut tried = Vec::new();
        for _ in 0..RELIEFS_MAX {
            let ratio = |member: &usize| self.layout.loads[*member].owned_ratio();
            let full = (0..self.layout.loads.len()).filter(|member| ratio(member) > TOO_FULL_FOR_GOOD);
            let fullest = full.filter(|member| !tried.contains(member)).max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
            let Some(full) = fullest else { break };
            let mut best: Option<(f64, usize, i128)> = None;
            for at in (0..self.layout.tokens.len()).filter(|at| self.layout.tokens[*at].1 == full) {
                let most = (self.spare as u64).min(self.layout.arc(at) - 1);
                let (back, on) =
                    (self.layout.best_shift(at, most, 0), self.layout.best_shift(self.layout.before(at), 0, most));
                for (place, (by, cost)) in [(at, back), (self.layout.before(at), on)] {
                    if cost < 0.0 && best.is_none_or(|(least, ..)| cost < least) {
                        best = Some((cost, place, by));
                    }
                }
            }
            let Some((_, at, by)) = best else {
                tried.push(full);
                continue;
            };
            self.spare -= by.unsigned_abs() as f64;
            self.layout.shift(at, by);
        }
    }

    /// Two arcs of one owner side by side are one, and the token between them says nothing. It stays as a place to cut
    /// while its owner has few.
    fn merge(&mut self) {
        for at in (0..self.layout.tokens.len()).rev() {
            let (_, owner) = self.layout.tokens[at];
            let next = self.layout.tokens[self.layout.after(at)].1;
            if owner == next && self.layout.loads[owner].tokens > TOKENS {
                self.layout.remove(at);
            }
        }
    }
}
