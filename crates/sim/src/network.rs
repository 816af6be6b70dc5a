use std::collections::BTreeSet;
use std::time::Duration;

use stdx::Prng;

use crate::swarm::Swarm;

/// The soonest that a message comes again as an echo.
const ECHO_MIN: Duration = Duration::from_millis(500);
/// How much later it may be, in milliseconds: long past whatever was under way with it.
const ECHO_MORE_MS: u64 = 9_000;

/// Where a message comes from or goes to: a storage node by its index, or the clients.
///
/// Clients reach every node; only nodes are cut off from each other, and from the clients by crashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A storage node.
    Node(usize),
    /// A client.
    Client(usize),
}

/// The directed links between nodes that are cut.
#[derive(Debug, Default)]
pub(crate) struct Links {
    cut: BTreeSet<(usize, usize)>,
}

impl Links {
    pub fn is_cut(&self, link: (usize, usize)) -> bool {
        self.cut.contains(&link)
    }

    /// Cuts a random set of nodes off from the rest, in both directions unless the cut may be (`one_way`) and is one
    /// way; the links that were cut.
    pub fn partition(&mut self, prng: &mut Prng, one_way: bool, nodes: usize) -> Vec<(usize, usize)> {
        let side: Vec<bool> = (0..nodes).map(|_| prng.one_in(2)).collect();
        let one_way = one_way && prng.one_in(2);
        let mut links = Vec::new();
        for a in (0..nodes).filter(|a| side[*a]) {
            for b in (0..nodes).filter(|b| !side[*b]) {
                links.push((a, b));
                if !one_way {
                    links.push((b, a));
                }
            }
        }
        self.cut.extend(links.iter().copied());
        links
    }

    /// Joins links again.
    pub fn heal(&mut self, links: &[(usize, usize)]) {
        for link in links {
            self.cut.remove(link);
        }
    }

    /// Joins all links again.
    pub fn heal_all(&mut self) {
        self.cut.clear();
    }
}

/// The simulated network: what becomes of each message.
#[derive(Debug)]
pub(crate) struct Network {
    prng: Prng,
    links: Links,
    /// Whether faults are over.
    pub calm: bool,
}

impl Network {
    pub fn new(prng: Prng) -> Network {
        Network { prng, links: Links::default(), calm: false }
    }

    /// The delays after which copies of a message arrive; none when it is lost.
    pub fn fates(&mut self, swarm: &Swarm, from: Place, to: Place) -> Vec<Duration> {
        if let (Place::Node(from), Place::Node(to)) = (from, to)
            && self.links.is_cut((from, to))
        {
            return Vec::new();
        }
        if self.calm {
            return vec![Duration::from_micros(200)];
        }
        if self.prng.chance(swarm.loss) {
            return Vec::new();
        }
        let mut fates = vec![self.delay(swarm)];
        // What a client asks may be lost with its connection, but a connection delivers nothing twice. (Between nodes a
        // question is repeated by its asker.)
        let between_nodes = matches!((from, to), (Place::Node(_), Place::Node(_)));
        if self.prng.chance(swarm.duplication) && between_nodes {
            fates.push(self.delay(swarm));
        }
        if swarm.echoes > 0.0 && between_nodes && self.prng.chance(swarm.echoes) {
            fates.push(ECHO_MIN + Duration::from_millis(self.prng.below(ECHO_MORE_MS)));
        }
        fates
    }

    fn delay(&mut self, swarm: &Swarm) -> Duration {
        let ordinary = Duration::from_nanos(50_000 + self.prng.below(swarm.delay_max.as_nanos() as u64));
        if self.prng.chance(swarm.straggling) {
            // Long enough to be overtaken by a retry, a restart or a whole other round.
            return ordinary + Duration::from_millis(20 + self.prng.below(400));
        }
        ordinary
    }

    /// Cuts a random set of nodes off from the rest; the links that were cut.
    pub fn partition(&mut self, swarm: &Swarm, nodes: usize) -> Vec<(usize, usize)> {
        self.links.partition(&mut self.prng, swarm.one_way, nodes)
    }

    /// Cuts these links.
    pub fn cut(&mut self, links: &[(usize, usize)]) {
        self.links.cut.extend(links);
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
