//! A small simulation of one ring: virtual time, one thread, one seed. It runs the production core and checks the
//! invariants after every event; the seed alone fixes the run, byte by byte.
//!
//! Two kinds of run. In an [`Kind::Accurate`] run the network may lose, delay, repeat and reorder messages, nodes die
//! and come back and death is noticed late, but never wrongly, and bursts of deaths are smaller than the successor
//! list with time for repair in between: these are the assumptions of Zave's proof, and all invariants
//! must hold at every moment. In a [`Kind::Wild`] run live members are suspected, links are cut and lists run dry:
//! there only the way back counts, to the ideal ring within [`Plan::heal_max`] once the faults have stopped, with
//! discovery's seeds at hand.

pub mod explore;
mod network;
mod world;

use std::time::Duration;

use stdx::{Instant, Prng};

use crate::config::Config;
use crate::invariants::Violation;
use crate::rules::Rules;

/// Which assumptions a run keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The paper's: failure detection is late but never wrong.
    Accurate,
    /// None.
    Wild,
}

/// What a seed draws: the ring and the mix of faults. Printed with every failure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Which assumptions hold.
    pub kind: Kind,
    /// The members' configuration.
    pub config: Config,
    /// Nodes at the start.
    pub nodes: usize,
    /// Tokens of each node.
    pub tokens: usize,
    /// Nodes that come later.
    pub latecomers: usize,
    /// A message is lost once in so many; 0 for never.
    pub loss_one_in: u64,
    /// A message is repeated once in so many; 0 for never.
    pub repeat_one_in: u64,
    /// The longest one-way delay of a message that is not a late copy.
    pub delay_max: Duration,
    /// How many bursts of deaths there are.
    pub bursts: u32,
    /// The rest between two bursts: long enough for repair.
    pub rest: Duration,
    /// Whether members too get seeds from discovery, now and then. In a wild run they always do.
    pub seeds: bool,
    /// How long after the last fault the ring may take to become ideal.
    pub heal_max: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Events simulated.
    pub events: u64,
    /// Nodes that died.
    pub crashes: u64,
    /// Members that came in, the first ones and those that came back included.
    pub joins: u64,
    /// How long the ring took from the last fault to the ideal ring.
    pub healed_after: Option<Duration>,
    /// The first violation, with the time at which it was found.
    pub violation: Option<(Instant, Violation)>,
    /// Every event, a line each; empty unless asked for.
    pub log: String,
}

impl Plan {
    /// The plan that `seed` names.
    pub fn draw(seed: u64, kind: Kind) -> Plan {
        let mut prng = Prng::from_seed(seed);
        let successors = 2 + prng.index(3);
        let config = Config {
            successors,
            stabilize_period: Duration::from_millis(200),
            finger_period: Duration::from_millis(300),
            answer_timeout: Duration::from_millis(60),
            attempts: 4,
            hops_max: 64,
        };
        // A node's death takes all its tokens, and a burst of r - 1 tokens must be able to hold one node at least.
        let tokens = if successors > 2 && prng.one_in(3) { 2 } else { 1 };
        let repair = config.stabilize_period.mul_f64(1.25) + config.silence_max() * 3;
        Plan {
            seed,
            kind,
            config,
            nodes: (2 * successors).div_ceil(tokens) + prng.index(5),
            tokens,
            latecomers: prng.index(4),
            loss_one_in: [0, 5, 20, 100][prng.index(4)],
            repeat_one_in: [0, 5, 50][prng.index(3)],
            delay_max: Duration::from_millis([2, 10, 25][prng.index(3)]),
            bursts: 3,
            rest: repair * 2 * successors as u32,
            seeds: kind == Kind::Wild || prng.one_in(2),
            heal_max: Duration::from_secs(60),
        }
    }
}

/// Runs `plan` under the rules `R`.
pub fn run<R: Rules>(plan: &Plan, log: bool) -> Outcome {
    world::World::<R>::new(plan, log).run()
}
