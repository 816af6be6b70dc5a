//! A fleet of both contracts: each node has a replica of registers and one of available keys, numbering the records of
//! one log as in production, and sessions go from the one kind of bucket to the other with one token. What they were
//! told is judged at level causal over the keys of both kinds together, and at level sequential over the ordered ones.
//!
//! The fleets of one contract each ([`crate::run`], [`crate::available`]) look closer at their own: here nothing
//! is deleted, and the log is a list that loses an end of what was not synced.

mod asks;
mod changes;
mod client;
mod node;
mod planted;
mod swarm;
mod world;

use checker::litmus::{Litmus, Placing};
use history::History;

use crate::event_log::EventLog;
use crate::invariants::Violation;
use crate::litmus::{ReadLevel, Running, Shown};

pub use planted::Planted;
pub use swarm::Swarm;
pub use world::Counts;
use world::World;

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The run's name.
    pub seed: u64,
    /// The mix it drew.
    pub swarm: Swarm,
    /// What was broken; none when all held.
    pub violation: Option<Violation>,
    /// The event log.
    pub log: EventLog,
    /// What happened, in numbers.
    pub counts: Counts,
}

/// Runs one seed, with a bug if one is planted.
pub fn run(seed: u64, planted: Option<Planted>, keep_log: bool) -> Report {
    let mut world = World::new(seed, planted, keep_log, None);
    let violation = match world.run() {
        Ok(history) => judge(&history),
        Err(violation) => Some(violation),
    };
    Report { seed, swarm: world.swarm, violation, log: world.log, counts: world.counts }
}

/// Runs one seed's faults with the sessions of a litmus test across both contracts as its clients; what they were
/// shown, or what was broken.
///
/// # Errors
/// A level is broken, or an operation did not end.
pub fn run_litmus(
    seed: u64,
    test: &'static Litmus,
    placing: Placing,
    planted: Option<Planted>,
) -> Result<Shown, Violation> {
    let running = Running::new(test, ReadLevel::Causal);
    let mut world = World::new(seed, planted, false, Some((running, placing)));
    let history = world.run()?;
    // A planted bug is to be shown by the test itself.
    let broken = if planted.is_none() { judge(&history) } else { None };
    broken.map_or_else(|| Ok(world.shown()), Err)
}

/// What the checkers, which know nothing of the cores, say of a run's history.
fn judge(history: &History) -> Option<Violation> {
    let is_ordered = |operation: &&history::Operation| operation.level.as_deref() == Some("sequential");
    let ordered: Vec<history::Operation> = history.operations.iter().filter(is_ordered).cloned().collect();
    judge_at(&history.operations, checker::Level::Causal)
        .or_else(|| judge_at(&ordered, checker::Level::Sequential).filter(|_| !ordered.is_empty()))
}

fn judge_at(operations: &[history::Operation], level: checker::Level) -> Option<Violation> {
    let limit = checker::Limit::steps(crate::CHECK_STEPS_MAX);
    let options = checker::Options { level, limit, ..checker::Options::default() };
    let invariant = if level == checker::Level::Causal { "causal_across_contracts" } else { "sequential" };
    crate::broken_by(invariant, checker::check_operations(operations, &options))
}
