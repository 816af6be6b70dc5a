//! Dots, version vectors, and causal contexts.
//!
//! A *dot* names one write: who stamped it, and that one's Lamport counter at the time. A *version vector* says "of
//! this actor, everything up to here". A *context* is a version vector and some lone dots beyond it: what somebody has
//! seen of one key. The lone dots are what makes a version vector *dotted* (Preguica, Baquero, Almeida, Fonte and
//! Goncalves, "Dotted version vectors", 2010/2012): a client that wrote without having read has seen its own write and
//! nothing of what the same replica took before; a plain vector could not say so, and its next write would replace
//! what it never saw.

use std::fmt;

use membership::NodeId;
use replication::RequestId;

/// Who stamps writes: a storage node, as long as its log lives.
///
/// The incarnation at which the log was begun is part of it: a node that lost its disk has forgotten which dots it gave
/// away, and must never give one of them to another write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// The node.
    pub node: NodeId,
    /// The incarnation in which it began its log.
    pub birth: u64,
}

/// One write: its Lamport time. Ordered as Lamport ordered them, the counter first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The actor's Lamport counter; 0 is "never".
    pub counter: u64,
    /// Who stamped it.
    pub actor: Actor,
}

/// Of each actor, everything up to a counter. Kept sorted, without zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VersionVector(Vec<(Actor, u64)>);

impl VersionVector {
    /// Nothing.
    pub fn new() -> VersionVector {
        VersionVector::default()
    }

    /// Up to where the actor's dots are included; 0 for none.
    pub fn get(&self, actor: Actor) -> u64 {
        self.0.binary_search_by_key(&actor, |(known, _)| *known).map_or(0, |at| self.0[at].1)
    }

    /// Includes the actor's dots up to `counter`.
    pub fn include(&mut self, actor: Actor, counter: u64) {
        match self.0.binary_search_by_key(&actor, |(known, _)| *known) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(counter),
            Err(_) if counter == 0 => {}
            Err(at) => self.0.insert(at, (actor, counter)),
        }
    }

    /// Includes all that `other` does.
    pub fn merge(&mut self, other: &VersionVector) {
        for (actor, counter) in &other.0 {
            self.include(*actor, *counter);
        }
    }

    /// What both include.
    pub fn common(&self, other: &VersionVector) -> VersionVector {
        self.0.iter().map(|(actor, counter)| (*actor, (*counter).min(other.get(*actor)))).collect()
    }

    /// Whether the dot is included.
    pub fn covers(&self, dot: Dot) -> bool {
        dot.counter <= self.get(dot.actor)
    }

    /// Whether all that `other` includes is included.
    pub fn includes(&self, other: &VersionVector) -> bool {
        other.0.iter().all(|(actor, counter)| *counter <= self.get(*actor))
    }

    /// The actors with their counters, in the order of the actors.
    pub fn iter(&self) -> impl Iterator<Item = (Actor, u64)> + '_ {
        self.0.iter().copied()
    }

    /// How many actors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is included.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The greatest counter of any actor; 0 for none.
    pub fn counter_max(&self) -> u64 {
        self.0.iter().map(|(_, counter)| *counter).max().unwrap_or(0)
    }

    /// Takes the entry with the smallest counter out; none of an empty one.
    pub(crate) fn pop_oldest(&mut self) -> Option<(Actor, u64)> {
        let at = (0..self.0.len()).min_by_key(|at| self.0[*at].1)?;
        Some(self.0.remove(at))
    }
}

impl FromIterator<(Actor, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Actor, u64)>>(entries: I) -> VersionVector {
        let mut vector = VersionVector::new();
        for (actor, counter) in entries {
            vector.include(actor, counter);
        }
        vector
    }
}

/// What has been seen of one key: everything up to a vector, and some dots beyond it (as in Almeida, Shoker and
/// Baquero, "Delta state replicated data types", 2018).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Context {
    /// Everything up to here.
    pub vector: VersionVector,
    /// And these; sorted, none of them within the vector.
    dots: Vec<Dot>,
    /// And the writes of these requests, whatever their dots will be: they are kept as hints. Only in what clients have
    /// seen, never in a replica's state.
    pub requests: Vec<RequestId>,
}

impl Context {
    /// Exactly one write.
    pub fn of(dot: Dot) -> Context {
        Context { dots: vec![dot], ..Context::default() }
    }

    /// A vector, and dots beyond it.
    pub fn new(vector: VersionVector, dots: impl IntoIterator<Item = Dot>) -> Context {
        let mut context = Context { vector, ..Context::default() };
        for dot in dots {
            context.add(dot);
        }
        context
    }

    /// Whether the dot has been seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.vector.covers(dot) || self.dots.binary_search(&dot).is_ok()
    }

    /// Adds one write.
    pub fn add(&mut self, dot: Dot) {
        if let Err(at) = self.dots.binary_search(&dot)
            && !self.vector.covers(dot)
        {
            self.dots.insert(at, dot);
        }
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: &Context) {
        self.vector.merge(&other.vector);
        for dot in &other.dots {
            self.add(*dot);
        }
        self.settle();
    }

    /// Adds what an answer has shown; after a write, the requests that it took the place of are done with.
    pub fn observe(&mut self, seen: &Context, wrote: bool) {
        if wrote {
            self.requests.clear();
        }
        self.merge(seen);
        for request in &seen.requests {
            if !self.requests.contains(request) {
                self.requests.push(*request);
            }
        }
    }

    /// Adds everything of `actor` up to `counter`: only for one who knows all of that.
    pub fn include(&mut self, actor: Actor, counter: u64) {
        self.vector.include(actor, counter);
        self.settle();
    }

    /// The dots beyond the vector.
    pub fn dots(&self) -> &[Dot] {
        &self.dots
    }

    /// The greatest counter in it.
    pub fn counter_max(&self) -> u64 {
        self.dots.iter().map(|dot| dot.counter).max().unwrap_or(0).max(self.vector.counter_max())
    }

    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.vector.is_empty() && self.dots.is_empty() && self.requests.is_empty()
    }

    /// Whether all that `other` has seen has been seen here.
    pub fn includes(&self, other: &Context) -> bool {
        self.vector.includes(&other.vector) && other.dots.iter().all(|dot| self.covers(*dot))
    }

    fn settle(&mut self) {
        let vector = &self.vector;
        self.dots.retain(|dot| !vector.covers(*dot));
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{}", self.node.0, self.birth)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.counter, self.actor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(node: u64) -> Actor {
        Actor { node: NodeId(node), birth: 1 }
    }

    fn dot(node: u64, counter: u64) -> Dot {
        Dot { counter, actor: actor(node) }
    }

    #[test]
    fn a_lone_dot_says_nothing_of_those_before_it() {
        let mut seen = Context::of(dot(1, 7));
        assert!(seen.covers(dot(1, 7)));
        assert!(!seen.covers(dot(1, 3)), "the same replica's earlier write was never seen");
        seen.merge(&Context::new([(actor(1), 9)].into_iter().collect(), []));
        assert!(seen.covers(dot(1, 3)));
        assert!(seen.dots().is_empty(), "what the vector includes needs no dot");
    }

    #[test]
    fn an_actor_of_another_birth_is_another_actor() {
        let vector: VersionVector = [(actor(1), 9)].into_iter().collect();
        let reborn = Actor { birth: 2, ..actor(1) };
        assert!(!vector.covers(Dot { counter: 1, actor: reborn }));
    }
}
