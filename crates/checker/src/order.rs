//! A partial order on claims: chains (sessions), edges between them, and who comes before whom.
//!
//! Since claims lie in chains, all that precedes one is told by one number for each chain: how far that chain has come.
//! These numbers are Fidge's and Mattern's vector clocks (1988), here of the history and not of any process.

use std::collections::VecDeque;

use crate::claims::Claims;

#[derive(Clone, Debug)]
pub(crate) struct Order {
    chain: Vec<u32>,
    place: Vec<u32>,
    /// The claims of each chain, in order.
    members: Vec<Vec<u32>>,
    /// Edges besides the chains: who comes before each.
    before: Vec<Vec<u32>>,
    /// For each claim, how far each chain has come before it, itself included.
    clock: Vec<u32>,
    chains: usize,
}

impl Order {
    /// The order of the sessions alone.
    pub fn of(claims: &Claims<'_>) -> Order {
        let mut members = vec![Vec::new(); claims.chains];
        let mut before = vec![Vec::new(); claims.claims.len()];
        for (index, claim) in claims.claims.iter().enumerate() {
            members[claim.chain as usize].push(index as u32);
            before[index].extend(claim.after);
        }
        Order {
            chain: claims.claims.iter().map(|claim| claim.chain).collect(),
            place: claims.claims.iter().map(|claim| claim.place).collect(),
            members,
            before,
            clock: vec![0; claims.claims.len() * claims.chains],
            chains: claims.chains,
        }
    }

    pub fn len(&self) -> usize {
        self.chain.len()
    }

    /// How much computing the clocks costs.
    pub fn cost(&self) -> u64 {
        (self.clock.len() + self.len()) as u64
    }

    pub fn add(&mut self, before: u32, after: u32) {
        self.before[after as usize].push(before);
    }

    /// Who comes right before: the edges, and the one in the same chain.
    pub fn predecessors(&self, claim: u32) -> impl Iterator<Item = u32> + '_ {
        let (chain, place) = (self.chain[claim as usize] as usize, self.place[claim as usize] as usize);
        let in_chain = (place > 1).then(|| self.members[chain][place - 2]);
        self.before[claim as usize].iter().copied().chain(in_chain)
    }

    /// The members of a chain that lie before `claim`.
    pub fn reached(&self, claim: u32, chain: u32) -> u32 {
        self.clock[claim as usize * self.chains + chain as usize]
    }

    pub fn chain(&self, claim: u32) -> u32 {
        self.chain[claim as usize]
    }

    pub fn place(&self, claim: u32) -> u32 {
        self.place[claim as usize]
    }

    /// Whether `a` comes before `b`, which is another one.
    pub fn precedes(&self, a: u32, b: u32) -> bool {
        a != b && self.reached(b, self.chain[a as usize]) >= self.place[a as usize]
    }

    /// Computes who comes before whom.
    ///
    /// # Errors
    /// The claims on a circle, if there is one: then no order exists.
    pub fn settle(&mut self) -> Result<(), Vec<u32>> {
        let n = self.len();
        let mut waits = vec![0u32; n];
        let mut after: Vec<Vec<u32>> = vec![Vec::new(); n];
        for claim in 0..n as u32 {
            for earlier in self.predecessors(claim) {
                waits[claim as usize] += 1;
                after[earlier as usize].push(claim);
            }
        }
        let mut ready: VecDeque<u32> = (0..n as u32).filter(|claim| waits[*claim as usize] == 0).collect();
        let mut done = 0;
        self.clock.fill(0);
        while let Some(claim) = ready.pop_front() {
            done += 1;
            self.clock[claim as usize * self.chains + self.chain[claim as usize] as usize] = self.place[claim as usize];
            for next in std::mem::take(&mut after[claim as usize]) {
                let (from, to) = (claim as usize * self.chains, next as usize * self.chains);
                for chain in 0..self.chains {
                    self.clock[to + chain] = self.clock[to + chain].max(self.clock[from + chain]);
                }
                waits[next as usize] -= 1;
                if waits[next as usize] == 0 {
                    ready.push_back(next);
                }
            }
        }
        if done == n { Ok(()) } else { Err(self.circle(&waits)) }
    }

    /// A circle among those that still wait for each other.
    fn circle(&self, waits: &[u32]) -> Vec<u32> {
        let stuck = |claim: &u32| waits[*claim as usize] > 0;
        let Some(mut at) = (0..self.len() as u32).find(stuck) else { return Vec::new() };
        let mut seen = vec![usize::MAX; self.len()];
        let mut path = Vec::new();
        while seen[at as usize] == usize::MAX {
            seen[at as usize] = path.len();
            path.push(at);
            // Whoever waits, waits for one that waits too.
            let Some(next) = self.predecessors(at).find(stuck) else { return path };
            at = next;
        }
        let mut circle = path.split_off(seen[at as usize]);
        circle.reverse();
        circle
    }

    /// The fewest claims that lead from `from` to `to`, both included; a step within a session counts as one, however
    /// long. Empty if none do.
    pub fn path(&self, from: u32, to: u32) -> Vec<u32> {
        let mut next: Vec<Option<u32>> = vec![None; self.len()];
        let mut walked: Vec<u32> = vec![0; self.chains];
        let mut queue = VecDeque::from([to]);
        next[to as usize] = Some(to);
        while let Some(at) = queue.pop_front() {
            if at == from {
                let mut path = vec![from];
                let mut here = from;
                while here != to {
                    here = next[here as usize].unwrap_or(to);
                    path.push(here);
                }
                return path;
            }
            let chain = self.chain[at as usize] as usize;
            let place = self.place[at as usize];
            let in_chain = (walked[chain] + 1..place).map(|place| self.members[chain][place as usize - 1]);
            let earlier: Vec<u32> = self.before[at as usize].iter().copied().chain(in_chain).collect();
            walked[chain] = walked[chain].max(place.saturating_sub(1));
            for earlier in earlier {
                if next[earlier as usize].is_none() {
                    next[earlier as usize] = Some(at);
                    queue.push_back(earlier);
                }
            }
        }
        Vec::new()
    }
}
