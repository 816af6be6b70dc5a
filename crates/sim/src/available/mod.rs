//! The fleet of available keys: crate `available`'s core, the real encoding, and the real log over simulated disks,
//! under the faults that [`Swarm`] draws. Clients are sessions at level causal or eventual; what they were told is
//! judged by the checkers, which know nothing of the core, and when faults have stopped replicas must become equal,
//! hints must be taken, and tombstones must go away.

mod asks;
mod changes;
mod client;
mod clocks;
pub mod costs;
mod counts;
mod disks;
mod lies;
mod network;
mod node;
pub mod reconcile;
mod still;
mod swarm;
mod watch;
mod world;

use available::{Level, Rule};
use checker::litmus::Litmus;
use history::History;

use crate::event_log::EventLog;
use crate::invariants::Violation;
use crate::litmus::{ReadLevel, Running, Shown};

pub use counts::Counts;
pub use swarm::{Swarm, Theme};
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

/// What becomes of a session that was left without an answer to a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    /// It ends, and its client begins another one.
    #[default]
    Never,
    /// It asks what became of the write, and goes on if it is told that it is done.
    Asks,
    /// The same, and it forgets what that answer adds to what it has seen: a planted bug.
    Forgets,
}

/// Runs one seed, with a rule broken if one is planted.
pub fn run(seed: u64, planted: Option<Rule>, keep_log: bool) -> Report {
    ended(seed, World::new(seed, planted, keep_log, None))
}

/// Runs one seed with sessions that ask what became of their writes.
pub fn run_asking(seed: u64, asking: Asking) -> Report {
    let mut world = World::new(seed, None, false, None);
    world.swarm.asking = asking;
    ended(seed, world)
}

/// Runs one seed with nodes that trust a log which is shorter than discovery was told: a planted bug.
pub fn run_trusting(seed: u64) -> Report {
    let mut world = World::new(seed, None, false, None);
    world.swarm.disks.trusts_shorter = true;
    ended(seed, world)
}

fn ended(seed: u64, mut world: World) -> Report {
    let violation = match world.run() {
        Ok(history) => judge(&history),
        Err(violation) => Some(violation),
    };
    Report { seed, swarm: world.swarm, violation, log: world.log, counts: world.counts }
}

/// Runs one seed's faults with the sessions of a litmus test as its clients; what they were shown, or what was broken.
///
/// # Errors
/// An invariant or the level is broken.
pub fn run_litmus(seed: u64, test: &'static Litmus, level: Level) -> Result<Shown, Violation> {
    let read_level = match level {
        Level::Causal => ReadLevel::Causal,
        Level::Eventual => ReadLevel::Eventual,
    };
    let running = Running::new(test, read_level);
    let mut world = World::new(seed, None, false, Some((running, level)));
    let history = world.run()?;
    let shown = world.litmus.as_ref().map(|running| running.shown).unwrap_or_default();
    judge(&history).map_or(Ok(shown), Err)
}

/// What the checkers, which know nothing of the core, say of a run's history.
fn judge(history: &History) -> Option<Violation> {
    let models = [
        (checker::Model::Register, ["value", "last-writer"].as_slice()),
        (checker::Model::Counter, ["counter"].as_slice()),
        (checker::Model::Set, ["set"].as_slice()),
    ];
    for (model, kinds) in models {
        let of_kind = |operation: &history::Operation| {
            let name = operation.key.as_text().unwrap_or_default();
            kinds.iter().any(|kind| name.split_once('-').is_some_and(|(_, rest)| rest.starts_with(kind)))
        };
        let operations = history.operations.iter().filter(|operation| of_kind(operation)).cloned().collect();
        let part = History { operations, faults: history.faults.clone(), events: history.events };
        if part.operations.is_empty() {
            continue;
        }
        for level in [checker::Level::Causal, checker::Level::Eventual] {
            if let Some(violation) = judge_at(&part, model, level) {
                return Some(violation);
            }
        }
    }
    None
}

fn judge_at(history: &History, model: checker::Model, level: checker::Level) -> Option<Violation> {
    let limit = checker::Limit::steps(crate::CHECK_STEPS_MAX);
    let options = checker::Options { model, level, limit, ..checker::Options::default() };
    let invariant = if level == checker::Level::Causal { "causal" } else { "eventual" };
    let judged = checker::check_history(history, &options);
    let undecided = judged.as_ref().is_ok_and(|report| report.verdict == checker::Verdict::Undecided);
    if undecided && level == checker::Level::Causal {
        // Where all keys are eventual, nothing is to be judged at level causal.
        return None;
    }
    let found = crate::broken_by(invariant, judged)?;
    Some(Violation { found: format!("model {model}: {}", found.found), ..found })
}
