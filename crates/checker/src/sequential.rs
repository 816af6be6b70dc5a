//! Level sequential: is there one order of all operations, on all keys, that agrees with each session's order and
//! explains every answer? Real time plays no part.
//!
//! Deciding this is NP-complete (Gibbons and Korach 1997), so it is done in two steps:
//! 1. What must be so, in polynomial time: whoever reads a value comes after its writer; a write of the same key that
//!    comes before the reader comes before the writer too; one that comes after the writer comes after the reader.
//!    Whoever was denied a swap comes before the value that it names, or something comes between them.
//!    These are applied until nothing new follows. A circle is a violation.
//! 2. A search for an order that keeps all this, oldest answers first. It tries every order before it says that there
//!    is none; when its steps run out, the verdict is *undecided*.
//!
//! Bounds: values that several operations wrote (deletions above all) only take part in step 2. A key whose values grow
//! by additions or appends of untold result is left out. A history of more than [`WINDOW_OPERATIONS`] operations is
//! judged in windows that overlap by half: a contradiction that spans more operations than half a window may be missed;
//! nothing is ever seen that is not there, since a part of a sequential history is sequential.

use crate::claims::{Claim, Claims, Seen, Source};
use crate::options::Budget;
use crate::order::Order;
use crate::sequential_search::{Searched, search};
use crate::shrink;
use crate::sight::words;

/// Operations that are judged together.
pub(crate) const WINDOW_OPERATIONS: usize = 16_384;

/// What is known of a history at level sequential.
#[derive(Debug)]
pub(crate) enum Found {
    Valid,
    Violated,
    Undecided,
}

/// Decides; a violation is not reduced yet.
pub(crate) fn decide(claims: &Claims<'_>, budget: &mut Budget<'_>) -> Found {
    if invented(claims).is_some() {
        return Found::Violated;
    }
    let mut order = Order::of(claims);
    match forced(claims, &mut order, budget) {
        Forced::Circle => Found::Violated,
        Forced::GaveUp => Found::Undecided,
        Forced::Order => match search(claims, &order, budget) {
            Searched::Explained => Found::Valid,
            Searched::Unexplained => Found::Violated,
            Searched::GaveUp => Found::Undecided,
        },
    }
}

/// The few claims that contradict each other.
pub(crate) fn smallest<'a>(claims: &Claims<'a>) -> Claims<'a> {
    shrink::smallest(claims, |part| {
        let limit = crate::Limit::steps(shrink::ATTEMPT_STEPS_MAX);
        let mut budget = Budget::new(&limit);
        let violated = matches!(decide(part, &mut budget), Found::Violated);
        (violated, budget.steps())
    })
}

/// An observation of a value that no operation wrote, by somebody who surely observed something.
pub(crate) fn invented(claims: &Claims<'_>) -> Option<u32> {
    let nobody = |key, word| claims.source(key, word) == Source::Nobody;
    let invents = |claim: &Claim<'_>| claim.must && words(&claim.seen).iter().any(|word| nobody(claim.key, *word));
    let position = claims.claims.iter().position(invents)?;
    Some(position as u32)
}

enum Forced {
    Order,
    Circle,
    GaveUp,
}

/// The writes of each key that surely took effect, by chain, in the order of the chain.
pub(crate) fn writes_by_key(claims: &Claims<'_>) -> Vec<Vec<(u32, Vec<u32>)>> {
    let mut keys: Vec<Vec<(u32, Vec<u32>)>> = vec![Vec::new(); claims.keys.len()];
    for (index, claim) in claims.claims.iter().enumerate() {
        if claim.wrote.is_none() || !claim.must {
            continue;
        }
        let chains = &mut keys[claim.key as usize];
        match chains.iter_mut().find(|(chain, _)| *chain == claim.chain) {
            Some((_, writes)) => writes.push(index as u32),
            None => chains.push((claim.chain, vec![index as u32])),
        }
    }
    keys
}

/// Adds all that must be so.
fn forced(claims: &Claims<'_>, order: &mut Order, budget: &mut Budget<'_>) -> Forced {
    let keys = writes_by_key(claims);
    let mut reads: Vec<(u32, Source)> = Vec::new();
    for (index, claim) in claims.claims.iter().enumerate() {
        let Seen::Equal(word) = claim.seen else { continue };
        if !claim.must {
            continue;
        }
        let source = claims.source(claim.key, word);
        match source {
            Source::Write(write) if write == index as u32 => return Forced::Circle,
            Source::Write(write) => order.add(write, index as u32),
            Source::Beginning => {}
            Source::Several | Source::Nobody => continue,
        }
        reads.push((index as u32, source));
    }
    let denials = denials(claims);
    loop {
        if order.settle().is_err() {
            return Forced::Circle;
        }
        for _ in 0..order.cost() / 1024 + 1 {
            if !budget.spend() {
                return Forced::GaveUp;
            }
        }
        let mut edges = Vec::new();
        for (read, source) in &reads {
            for (chain, writes) in &keys[claims.claims[*read as usize].key as usize] {
                let (earlier, later) = around(order, *read, *source, *chain, writes);
                match (source, earlier) {
                    (Source::Write(source), Some(write)) => edges.push((write, *source)),
                    // It comes before the beginning, too: a circle of two.
                    (_, Some(_)) => return Forced::Circle,
                    (_, None) => {}
                }
                edges.extend(later.map(|write| (*read, write)));
            }
        }
        for denial in &denials {
            if !denial.forces(claims, order, &mut edges) {
                return Forced::Circle;
            }
        }
        edges.sort_unstable();
        edges.dedup();
        edges.retain(|(before, after)| !order.precedes(*before, *after));
        if edges.is_empty() {
            return Forced::Order;
        }
        for (before, after) in edges {
            order.add(before, after);
        }
    }
}

/// A failed swap: what it named did not stand.
struct Denial {
    claim: u32,
    /// Who surely wrote what it named; none for the beginning.
    named: Option<u32>,
    /// Who wrote anything else to the key, or may have.
    others: Vec<u32>,
}

/// The failed swaps that named a value of one source that surely was there.
fn denials(claims: &Claims<'_>) -> Vec<Denial> {
    let mut denials = Vec::new();
    let mut writes: Vec<Vec<u32>> = vec![Vec::new(); claims.keys.len()];
    for (index, claim) in claims.claims.iter().enumerate().filter(|(_, claim)| claim.wrote.is_some()) {
        writes[claim.key as usize].push(index as u32);
    }
    for (index, claim) in claims.claims.iter().enumerate() {
        let Seen::NotEqual(word) = claim.seen else { continue };
        let named = match claims.source(claim.key, word) {
            Source::Write(write) if claims.claims[write as usize].must => Some(write),
            Source::Beginning => None,
            Source::Write(_) | Source::Several | Source::Nobody => continue,
        };
        let others = writes[claim.key as usize].iter().copied().filter(|write| Some(*write) != named).collect();
        denials.push(Denial { claim: index as u32, named, others });
    }
    denials
}

impl Denial {
    /// Adds what must be so: somebody wrote something else between the value and the denial, unless that came first.
    /// False if it cannot be.
    fn forces(&self, claims: &Claims<'_>, order: &Order, edges: &mut Vec<(u32, u32)>) -> bool {
        let early = |write: u32| self.named.is_some_and(|named| order.precedes(write, named));
        let between = |write: &&u32| !early(**write) && !order.precedes(self.claim, **write);
        let mut between = self.others.iter().filter(between);
        let was_there = self.named.is_none_or(|named| order.precedes(named, self.claim));
        match (between.next(), between.next()) {
            (None, _) if was_there => return false,
            (None, _) => edges.extend(self.named.map(|named| (self.claim, named))),
            (Some(&only), None) if was_there && claims.claims[only as usize].must => {
                edges.extend(self.named.map(|named| (named, only)));
                edges.push((only, self.claim));
            }
            (Some(_), _) => {}
        }
        true
    }
}

/// Of one chain's writes: the last that comes before the read and is not what it read, and the first that comes after
/// what it read.
fn around(order: &Order, read: u32, source: Source, chain: u32, writes: &[u32]) -> (Option<u32>, Option<u32>) {
    let reached = if order.chain(read) == chain { order.place(read) - 1 } else { order.reached(read, chain) };
    let before = writes.partition_point(|write| order.place(*write) <= reached);
    let earlier = before.checked_sub(1).map(|last| writes[last]);
    let later = match source {
        Source::Write(source) => {
            let first = writes.partition_point(|write| *write == source || !order.precedes(source, *write));
            let after = writes[first..].iter().copied();
            after.into_iter().find(|write| *write != read)
        }
        _ => writes.iter().copied().find(|write| *write != read),
    };
    let is_source = |write: &u32| source == Source::Write(*write);
    (earlier.filter(|write| !is_source(write)), later)
}
