use std::time::Duration;

use stdx::Prng;

use super::swarm::Swarm;
use crate::network::Links;

/// The simulated network between nodes: what becomes of each message.
#[derive(Debug)]
pub(super) struct Network {
    prng: Prng,
    links: Links,
    /// Directed links on which messages go the long way.
    far: Vec<(usize, usize)>,
    /// Whether faults are over.
    pub calm: bool,
}

impl Network {
    pub fn new(swarm: &Swarm, mut prng: Prng) -> Network {
        let far = if swarm.far.is_some() { drawn_far(swarm.nodes, &mut prng) } else { Vec::new() };
        Network { prng, links: Links::default(), far, calm: false }
    }

    /// Two nodes that are far from each other, if any are.
    pub fn far_apart(&self) -> Option<(usize, usize)> {
        self.far.first().copied()
    }

    /// The delays after which copies of a message arrive; none when it is lost. Clients reach every node, and what they
    /// ask is delivered once at most.
    pub fn fates(&mut self, swarm: &Swarm, nodes: Option<(usize, usize)>) -> Vec<Duration> {
        if nodes.is_some_and(|link| self.links.is_cut(link)) {
            return Vec::new();
        }
        if self.calm {
            return vec![Duration::from_micros(200)];
        }
        if self.prng.chance(swarm.loss) {
            return Vec::new();
        }
        let mut fates = vec![self.delay(swarm, nodes)];
        if nodes.is_some() && self.prng.chance(swarm.duplication) {
            fates.push(self.delay(swarm, nodes));
        }
        fates
    }

    fn delay(&mut self, swarm: &Swarm, nodes: Option<(usize, usize)>) -> Duration {
        let mut ordinary = Duration::from_nanos(50_000 + self.prng.below(swarm.delay_max.as_nanos() as u64));
        if let Some(most) = swarm.far.filter(|_| nodes.is_some_and(|link| self.far.contains(&link))) {
            ordinary += most.mul_f64(0.5 + self.prng.unit() / 2.0);
        }
        if self.prng.chance(swarm.straggling) {
            // Long enough to be overtaken by a retry, a restart, or a deletion and its burial.
            return ordinary + Duration::from_nanos(self.prng.below(swarm.straggle_max.as_nanos() as u64));
        }
        ordinary
    }

    /// Cuts a random set of nodes off from the rest; the links that were cut.
    pub fn partition(&mut self, swarm: &Swarm, nodes: usize) -> Vec<(usize, usize)> {
        self.links.partition(&mut self.prng, swarm.one_way, nodes)
    }

    /// Joins links again.
    pub fn heal(&mut self, links: &[(usize, usize)]) {
        self.links.heal(links);
    }

    /// No more faults.
    pub fn settle(&mut self) {
        self.links.heal_all();
        self.calm = true;
    }
}

/// The links between two nodes that are far from each other: both ways, or one.
fn drawn_far(nodes: usize, prng: &mut Prng) -> Vec<(usize, usize)> {
    let one = prng.index(nodes);
    let other = (one + 1 + prng.index(nodes - 1)) % nodes;
    let mut links = vec![(one, other), (other, one)];
    links.truncate(if prng.one_in(3) { 1 } else { 2 });
    links
}
