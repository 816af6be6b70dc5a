//! What a client's session has seen, and its form as bytes: the part of the `Everring-Token` that is about available
//! buckets.
//!
//! It is bounded: [`Session::encode`] leaves out what does not fit. What is left out costs nothing but time and
//! siblings, never truth: an actor that is left out is covered by the bound, which then asks replicas for more than
//! needed; a key that is left out was "not seen", so that its next write stays beside what is there, unless the client
//! says `If-Match`.

use std::collections::VecDeque;

use membership::{Epoch, NodeId};
use replication::{Ballot, RequestId};

use crate::operation::{Past, Seen};
use crate::version::{Actor, Context, Dot, VersionVector};

/// Actors that are named one by one; of more, the oldest are covered by the bound.
const ACTORS_MAX: usize = 24;
/// Keys whose contexts are kept.
const RECENT_MAX: usize = 32;

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// What it has seen of all keys.
    pub past: Past,
    /// All that it was shown or did, at any level, has its place among other writes up to here.
    time: u64,
    /// What it has seen of the keys it used last, by a number that stands for the key; the newest first.
    recent: VecDeque<(u32, Context)>,
}

/// Bytes that are no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session's part of the token cannot be read")]
pub struct BadSession;

/// When the last of what a session has seen happened, in buckets of either contract: its next operation on an ordered
/// bucket happens after that. `time` is the session's time in ordered buckets, `session` what it has seen in available
/// ones; none before it has used one.
///
/// The two kinds of Lamport clocks bound each other in this way, and in that of [`Session::follow`]. Not by one common
/// time: what a session saw in available buckets is no reason for its next read there to ask for all that any replica
/// stamped up to then.
pub fn since(time: Ballot, session: Option<&Session>) -> Ballot {
    let counter = session.map_or(0, Session::counter_max);
    time.max(Ballot { counter, ..Ballot::ZERO })
}

impl Session {
    /// A session that has seen nothing; `id` is drawn at random, and not 0.
    pub fn new(id: u64) -> Session {
        Session { past: Past { session: id, ..Past::default() }, time: 0, recent: VecDeque::new() }
    }

    /// What it has seen of a key, as far as it remembers.
    pub fn context(&self, key: u32) -> Option<&Context> {
        self.recent.iter().find(|(known, _)| *known == key).map(|(_, context)| context)
    }

    /// Takes an answer about a key in. An answer at level eventual adds what it showed of the key, for the
    /// next write of
    /// it, and nothing to what other replicas must have.
    ///
    /// After a write, `wrote`, what was kept as a hint before has its place taken.
    pub fn observe(&mut self, key: u32, seen: &Seen, causal: bool, wrote: bool) {
        self.time = self.time.max(seen.time);
        self.past.epoch = self.past.epoch.max(seen.epoch);
        if causal {
            self.past.bound = self.past.bound.max(seen.deps);
            self.past.seen.merge(&seen.vector);
            while self.past.seen.len() > ACTORS_MAX {
                let (_, counter) = self.past.seen.pop_oldest().unwrap_or_default();
                self.past.bound = self.past.bound.max(counter);
            }
        }
        let mut context = self.context(key).cloned().unwrap_or_default();
        context.observe(&seen.context, wrote);
        self.recent.retain(|(known, _)| *known != key);
        if !context.is_empty() {
            self.recent.push_front((key, context));
            self.recent.truncate(RECENT_MAX);
        }
    }

    /// All that the session has seen happened up to this counter: for operations on ordered buckets.
    pub fn counter_max(&self) -> u64 {
        self.past.counter_max()
    }

    /// The order that its next write is to have at least: above all that it was shown or did.
    pub fn order(&self) -> u64 {
        self.time.max(self.past.counter_max()).saturating_add(1)
    }

    /// Whatever buckets of contract ordered showed the session, up to this counter and in views up to this epoch, led
    /// to what it does next in available ones. All that led to *that* has lower counters: each write there happens
    /// after all that its own session had seen ([`since`]).
    pub fn follow(&mut self, counter: u64, epoch: Epoch) {
        self.past.bound = self.past.bound.max(counter);
        self.past.epoch = self.past.epoch.max(epoch);
    }

    /// The session in at most `bytes_max` bytes (at least 20).
    pub fn encode(&self, bytes_max: usize) -> Vec<u8> {
        let mut kept = self.clone();
        loop {
            let bytes = kept.encode_all();
            if bytes.len() <= bytes_max {
                return bytes;
            }
            if kept.recent.pop_back().is_none() {
                let Some((_, counter)) = kept.past.seen.pop_oldest() else { return bytes };
                kept.past.bound = kept.past.bound.max(counter);
            }
        }
    }

    fn encode_all(&self) -> Vec<u8> {
        // Actors are named once, and meant by their number from then on.
        let mut actors: Vec<Actor> = self.past.seen.iter().map(|(actor, _)| actor).collect();
        for (_, context) in &self.recent {
            actors.extend(context.vector.iter().map(|(actor, _)| actor));
            actors.extend(context.dots().iter().map(|dot| dot.actor));
        }
        actors.sort_unstable();
        actors.dedup();
        let number = |actor: Actor| actors.binary_search(&actor).unwrap_or_default() as u64;
        let mut out = self.past.session.to_le_bytes().to_vec();
        push(&mut out, self.past.bound);
        push(&mut out, self.time);
        push(&mut out, self.past.epoch.0);
        push(&mut out, actors.len() as u64);
        for actor in &actors {
            out.extend_from_slice(&actor.node.0.to_le_bytes());
            push(&mut out, actor.birth);
        }
        push_vector(&mut out, &self.past.seen, number);
        push(&mut out, self.recent.len() as u64);
        for (key, context) in &self.recent {
            out.extend_from_slice(&key.to_le_bytes());
            push_vector(&mut out, &context.vector, number);
            push(&mut out, context.dots().len() as u64);
            for dot in context.dots() {
                push(&mut out, number(dot.actor));
                push(&mut out, dot.counter);
            }
            push(&mut out, context.requests.len() as u64);
            context.requests.iter().for_each(|request| out.extend_from_slice(&request.0.to_le_bytes()));
        }
        out
    }

    /// Reads what [`Session::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are none of that kind.
    pub fn decode(bytes: &[u8]) -> Result<Session, BadSession> {
        let mut input = Input(bytes);
        let session = input.fixed_u64()?;
        let (bound, time, epoch) = (input.varint()?, input.varint()?, Epoch(input.varint()?));
        let mut actors = Vec::new();
        for _ in 0..input.count()? {
            let node = NodeId(input.fixed_u64()?);
            actors.push(Actor { node, birth: input.varint()? });
        }
        let seen = input.vector(&actors)?;
        let mut recent = VecDeque::new();
        for _ in 0..input.count()? {
            let key = input.fixed_u32()?;
            let vector = input.vector(&actors)?;
            let mut dots = Vec::new();
            for _ in 0..input.count()? {
                let actor = input.actor(&actors)?;
                dots.push(Dot { actor, counter: input.varint()? });
            }
            let mut context = Context::new(vector, dots);
            for _ in 0..input.count()? {
                context.requests.push(RequestId(input.fixed_u128()?));
            }
            recent.push_back((key, context));
        }
        if !input.0.is_empty() {
            return Err(BadSession);
        }
        Ok(Session { past: Past { session, bound, seen, epoch }, time, recent })
    }
}

fn push(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn push_vector(out: &mut Vec<u8>, vector: &VersionVector, number: impl Fn(Actor) -> u64) {
    push(out, vector.len() as u64);
    for (actor, counter) in vector.iter() {
        push(out, number(actor));
        push(out, counter);
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, BadSession> {
        let (first, rest) = self.0.split_first().ok_or(BadSession)?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, BadSession> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(BadSession)?;
            if byte < 0x80 {
                // The tenth byte holds one bit.
                return if shift == 63 && byte > 1 { Err(BadSession) } else { Ok(number) };
            }
        }
        Err(BadSession)
    }

    fn fixed_u64(&mut self) -> Result<u64, BadSession> {
        let (head, rest) = self.0.split_first_chunk().ok_or(BadSession)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*head))
    }

    fn fixed_u128(&mut self) -> Result<u128, BadSession> {
        let (head, rest) = self.0.split_first_chunk().ok_or(BadSession)?;
        self.0 = rest;
        Ok(u128::from_le_bytes(*head))
    }

    fn fixed_u32(&mut self) -> Result<u32, BadSession> {
        let (head, rest) = self.0.split_first_chunk().ok_or(BadSession)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*head))
    }

    /// A number of things that follow, each of at least a byte.
    fn count(&mut self) -> Result<usize, BadSession> {
        let count = usize::try_from(self.varint()?).map_err(|_| BadSession)?;
        if count > self.0.len() { Err(BadSession) } else { Ok(count) }
    }

    fn actor(&mut self, actors: &[Actor]) -> Result<Actor, BadSession> {
        let at = usize::try_from(self.varint()?).map_err(|_| BadSession)?;
        actors.get(at).copied().ok_or(BadSession)
    }

    fn vector(&mut self, actors: &[Actor]) -> Result<VersionVector, BadSession> {
        let mut vector = VersionVector::new();
        for _ in 0..self.count()? {
            let actor = self.actor(actors)?;
            vector.include(actor, self.varint()?);
        }
        Ok(vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(node: u64) -> Actor {
        Actor { node: NodeId(node << 32), birth: node }
    }

    fn busy(actors: u64, keys: u32) -> Session {
        let mut session = Session::new(7);
        for node in 1..=actors {
            let dot = Dot { counter: 1_000_000 + node, actor: actor(node) };
            let vector: VersionVector = [(dot.actor, dot.counter)].into_iter().collect();
            for key in 0..keys {
                let (vector, epoch) = (vector.clone(), Epoch(node));
                let seen = Seen { context: Context::of(dot), vector, deps: node, time: dot.counter, epoch };
                session.observe(key, &seen, true, false);
            }
        }
        session
    }

    #[test]
    fn a_session_survives_the_way_there_and_back() {
        let session = busy(3, 4);
        assert_eq!(Session::decode(&session.encode(1_000)), Ok(session.clone()));
        assert_eq!(Session::decode(&Session::new(9).encode(100)), Ok(Session::new(9)));
    }

    #[test]
    fn what_does_not_fit_asks_for_more_and_never_for_less() {
        let session = busy(20, 20);
        for bytes_max in [40, 100, 200, 340] {
            let bytes = session.encode(bytes_max);
            assert!(bytes.len() <= bytes_max, "{} of {bytes_max}", bytes.len());
            let kept = Session::decode(&bytes).expect("our own bytes");
            for (actor, counter) in session.past.seen.iter() {
                assert!(kept.past.seen.get(actor).max(kept.past.bound) >= counter, "{actor} is no longer covered");
            }
            assert_eq!((kept.order(), kept.past.epoch), (session.order(), session.past.epoch));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let bytes = busy(5, 5).encode(400);
        for cut in 0..bytes.len() {
            assert!(Session::decode(&bytes[..cut]).is_err());
            let mut wrong = bytes.clone();
            wrong[cut] = 0xff;
            let _ = Session::decode(&wrong);
        }
    }
}
