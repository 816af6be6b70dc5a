//! Level causal, model register: what a session has seen, and all that led to it, stays visible to it.
//!
//! What led to an operation is what its session did before, what those before had read from, and so on: the closure of
//! session order and reads-from, decided in polynomial time where values name their writers (Bouajjani, Enea, Guerraoui
//! and Hamza, "On verifying causal consistency", 2017; the names of the patterns are theirs):
//! - *CyclicCO*: something led to itself;
//! - *ThinAirRead*: a value that no operation wrote;
//! - *WriteCORead*, *WriteCOInitRead*: a value, or the beginning, that had been replaced by something that led to the
//!   very read;
//! - *CyclicCF*: sessions that settle concurrent writes of a key of single values in contradicting orders;
//! - a *lost sibling*, on keys whose reads show several values: a write that led to the read is neither shown, nor was
//!   what replaced it, nor had a deletion seen it that the read did not lead to.
//!
//! On keys whose values stay side by side (a read that shows a list of written values, be it of one or none, makes a
//! key one of those) a write takes the place of what its session had written or seen *of that key*, and of nothing
//! else: what led to it by way of other keys stays beside it, until a client that saw both writes again.
//!
//! A violation of the second kind is told by the session guarantee that it breaks (Terry et al. 1994), from what lies
//! between the forgotten write and the read.
//!
//! Bounds: deletions, and values that several operations wrote, are explained by any of their writers.

use std::collections::HashMap;
use std::fmt;

use crate::claims::{ABSENT, Claims, Seen, Source};
use crate::order::Order;
use crate::sequential::writes_by_key;
use crate::sight::{Sight, words};

/// What a session may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// Its reads show its writes.
    ReadYourWrites,
    /// Its reads never go back behind what an earlier one showed.
    MonotonicReads,
    /// Whoever sees a write sees what the same session wrote before.
    MonotonicWrites,
    /// Whoever sees a write sees what its session had read before.
    WritesFollowReads,
    /// All the rest of causality: longer ways, circles, contradicting orders, lost siblings, invented values.
    Causality,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guarantee::ReadYourWrites => "read your writes",
            Guarantee::MonotonicReads => "monotonic reads",
            Guarantee::MonotonicWrites => "monotonic writes",
            Guarantee::WritesFollowReads => "writes follow reads",
            Guarantee::Causality => "causality",
        })
    }
}

/// A contradiction: what it breaks, and the claims that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub guarantee: Guarantee,
    pub what: &'static str,
    /// The observation, then what shows that it cannot be.
    pub claims: Vec<u32>,
}

/// All that contradicts causality, one for each observation at most.
pub(crate) fn broken(claims: &Claims<'_>) -> Vec<Broken> {
    if let Some(invented) = crate::sequential::invented(claims) {
        return vec![of_all("a value that no operation wrote", vec![invented])];
    }
    let mut order = Order::of(claims);
    let sources = sources(claims);
    for (read, write) in &sources {
        if read == write {
            return vec![of_all("it observed what it wrote itself", vec![*read])];
        }
        order.add(*write, *read);
    }
    if let Err(circle) = order.settle() {
        return vec![of_all("each of these operations led to the others", circle)];
    }
    let look = Look {
        claims,
        order: &order,
        writes: writes_by_key(claims),
        sight: Sight::of(claims),
        deletions: deletions(claims),
    };
    let mut broken: Vec<Broken> = (0..claims.claims.len() as u32).filter_map(|read| look.stale(read)).collect();
    if broken.is_empty() {
        broken.extend(look.contradicting_orders(order.clone()));
        broken.extend((0..claims.claims.len() as u32).filter_map(|read| look.lost_sibling(read)));
    }
    broken
}

fn of_all(what: &'static str, claims: Vec<u32>) -> Broken {
    Broken { guarantee: Guarantee::Causality, what, claims }
}

/// Who surely read from whom.
fn sources(claims: &Claims<'_>) -> Vec<(u32, u32)> {
    let mut sources = Vec::new();
    for (index, claim) in claims.claims.iter().enumerate().filter(|(_, claim)| claim.must) {
        for word in words(&claim.seen) {
            if let Source::Write(write) = claims.source(claim.key, *word) {
                sources.push((index as u32, write));
            }
        }
    }
    sources
}

struct Look<'s, 'a> {
    claims: &'s Claims<'a>,
    order: &'s Order,
    writes: Vec<Vec<(u32, Vec<u32>)>>,
    sight: Sight<'s, 'a>,
    /// The deletions of each key, those of unknown outcome too.
    deletions: HashMap<u32, Vec<u32>>,
}

fn deletions(claims: &Claims<'_>) -> HashMap<u32, Vec<u32>> {
    let mut deletions: HashMap<u32, Vec<u32>> = HashMap::new();
    for (index, claim) in claims.claims.iter().enumerate().filter(|(_, claim)| claim.wrote == Some(ABSENT)) {
        deletions.entry(claim.key).or_default().push(index as u32);
    }
    deletions
}

impl Look<'_, '_> {
    /// The last write of the key in each chain that led to the claim.
    fn led(&self, claim: u32) -> impl Iterator<Item = u32> + '_ {
        let key = self.claims.claims[claim as usize].key as usize;
        self.writes[key].iter().filter_map(move |(chain, writes)| {
            let own = self.order.chain(claim) == *chain;
            let reached = if own { self.order.place(claim) - 1 } else { self.order.reached(claim, *chain) };
            let count = writes.partition_point(|write| self.order.place(*write) <= reached);
            count.checked_sub(1).map(|last| writes[last])
        })
    }

    /// What was read though something that led to the read had replaced it.
    fn stale(&self, read: u32) -> Option<Broken> {
        let claim = &self.claims.claims[read as usize];
        if !claim.must {
            return None;
        }
        words(&claim.seen).iter().find_map(|word| {
            let writers = self.claims.writers(claim.key, *word);
            let beginning = (*word == ABSENT).then_some(None);
            let several = self.sight.keeps_siblings(claim.key);
            let mut forgotten = None;
            for writer in writers.iter().copied().map(Some).chain(beginning) {
                // A writer that the read led to explains nothing.
                if writer.is_some_and(|writer| self.order.precedes(read, writer)) {
                    continue;
                }
                let replaced = |by: &u32| writer.is_none_or(|writer| self.order.precedes(writer, *by));
                let by = match writer {
                    // Where values stay side by side, only who had seen one on that key takes its place.
                    Some(writer) if several => self.successor(read, writer)?,
                    _ => self.led(read).find(|by| Some(*by) != writer && replaced(by))?,
                };
                forgotten = Some((writer, by));
            }
            let Some((writer, by)) = forgotten else {
                return Some(of_all("a value that is written only because of this read", vec![read]));
            };
            let mut evidence = vec![read];
            evidence.extend(writer);
            let way = self.order.path(by, read);
            evidence.extend(&way);
            evidence.sort_unstable();
            evidence.dedup();
            evidence.retain(|claim| *claim != read);
            evidence.insert(0, read);
            Some(Broken {
                guarantee: self.guarantee(&way),
                what: "a value that had been replaced by what led to this read",
                claims: evidence,
            })
        })
    }

    /// Which guarantee the way from a forgotten write to the read is a case of.
    fn guarantee(&self, way: &[u32]) -> Guarantee {
        let same = |a: usize, b: usize| self.order.chain(way[a]) == self.order.chain(way[b]);
        match way.len() {
            2 if same(0, 1) => Guarantee::ReadYourWrites,
            3 if !same(0, 1) && same(1, 2) => Guarantee::MonotonicReads,
            4 if same(0, 1) && !same(1, 2) && same(2, 3) => Guarantee::MonotonicWrites,
            5 if !same(0, 1) && same(1, 2) && !same(2, 3) && same(3, 4) => Guarantee::WritesFollowReads,
            _ => Guarantee::Causality,
        }
    }

    /// A write that led to the read and took the place of `writer`'s value: its session had written or seen that.
    fn successor(&self, read: u32, writer: u32) -> Option<u32> {
        let key = self.claims.claims[writer as usize].key as usize;
        let writes = self.writes[key].iter().flat_map(|(_, writes)| writes.iter().copied());
        writes
            .filter(|by| *by != writer && self.had_seen(*by, writer))
            .find(|by| self.order.precedes(writer, *by) && self.order.precedes(*by, read))
    }

    /// Whether the session of `by` had written or seen, before, what `writer` wrote.
    fn had_seen(&self, by: u32, writer: u32) -> bool {
        self.sight.had_written(by, writer) || self.sight.had_seen(by, writer)
    }

    /// If one read shows `w` after `v` led to it, `v` was settled before `w`, for everyone.
    fn contradicting_orders(&self, mut order: Order) -> Option<Broken> {
        for (read, write) in sources(self.claims) {
            let key = self.claims.claims[read as usize].key;
            if self.sight.keeps_siblings(key) {
                continue;
            }
            for by in self.led(read).filter(|by| *by != write && *by != read) {
                if !self.order.precedes(by, write) {
                    order.add(by, write);
                }
            }
        }
        let circle = order.settle().err()?;
        Some(of_all("sessions that saw the same writes settle in contradicting orders", circle))
    }

    /// A write that led to a read, is not shown by it, and was not replaced by anything that is shown.
    fn lost_sibling(&self, read: u32) -> Option<Broken> {
        let claim = &self.claims.claims[read as usize];
        let shows = matches!(claim.seen, Seen::Siblings(_) | Seen::Equal(_)) && claim.wrote.is_none();
        if !shows || !self.sight.keeps_siblings(claim.key) {
            return None;
        }
        let mut shown: Vec<u32> = Vec::new();
        for word in words(&claim.seen) {
            let writers = self.claims.writers(claim.key, *word);
            if *word != ABSENT && writers.len() != 1 {
                return None;
            }
            shown.extend(writers);
        }
        // In a part of a history the way to what replaced an old write may begin before the part.
        let certain = if self.claims.whole { 0 } else { self.claims.claims.len() as u32 / 4 };
        // Of a deletion there is nothing to show: what it saw goes, and what was written beside it stays.
        let deletion = |write: u32| self.claims.claims[write as usize].wrote == Some(ABSENT);
        // One of unknown outcome may have taken effect; one that the read led to came too late.
        let deleted = |write: u32| {
            let deletions = self.deletions.get(&claim.key).map_or(&[][..], Vec::as_slice);
            deletions.iter().any(|by| self.order.precedes(write, *by) && !self.order.precedes(read, *by))
        };
        let lost = self.led(read).find(|write| {
            *write >= certain
                && !deletion(*write)
                && !shown.iter().any(|by| by == write || self.order.precedes(*write, *by))
                && !deleted(*write)
        })?;
        let mut evidence = vec![read];
        evidence.extend(self.order.path(lost, read).into_iter().filter(|claim| *claim != read));
        Some(of_all("a write that led to this read is neither shown nor replaced", evidence))
    }
}
