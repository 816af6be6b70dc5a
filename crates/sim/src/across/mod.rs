//! A fleet of both contracts: each node has a replica of registers and one of available keys over one log, as in
//! production, and sessions go from the one kind of bucket to the other with one token. What they were told is judged
//! at level causal over the keys of both kinds together, and at level sequential over the ordered ones.
//!
//! The fleets of one contract each ([`crate::run`], [`crate::available`]) look closer at their own: here the ring does
//! not change, no disk is lost, and nothing is deleted.

mod asks;
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

/// Transitions that the checker may try on one run's history.
const CHECK_STEPS_MAX: u64 = 5_000_000;

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
    match judge(&history) {
        // A planted bug is to be shown by the test itself.
        Some(violation) if planted.is_none() => Err(violation),
        _ => Ok(world.shown()),
    }
}

/// What the checkers, which know nothing of the cores, say of a run's history.
fn judge(history: &History) -> Option<Violation> {
    let is_ordered = |operation: &&history::Operation| operation.level.as_deref() == Some("sequential");
    let ordered: Vec<history::Operation> = history.operations.iter().filter(is_ordered).cloned().collect();
    judge_at(&history.operations, checker::Level::Causal)
        .or_else(|| judge_at(&ordered, checker::Level::Sequential).filter(|_| !ordered.is_empty()))
}

fn judge_at(operations: &[history::Operation], level: checker::Level) -> Option<Violation> {
    let limit = checker::Limit::steps(CHECK_STEPS_MAX);
    let options = checker::Options { level, limit, ..checker::Options::default() };
    let report = match checker::check_operations(operations, &options) {
        Ok(report) => report,
        Err(error) => return Some(Violation { invariant: "the_history_is_readable", found: error.to_string() }),
    };
    let invariant = if level == checker::Level::Causal { "causal_across_contracts" } else { "sequential" };
    match (report.verdict, report.violations.first()) {
        (checker::Verdict::Violated, violation) => {
            let told = |v: &checker::Violation| {
                let lines: Vec<String> = v.operations.iter().map(|operation| format!("{operation:?}")).collect();
                format!("{} (line {}): {}", v.sentence, v.line, lines.join("; "))
            };
            Some(Violation { invariant, found: violation.map_or_else(String::new, told) })
        }
        (checker::Verdict::Undecided, _) => {
            let found = format!("keys {:?} after {} steps", report.undecided, report.steps);
            Some(Violation { invariant: "the_history_is_decided", found })
        }
        (checker::Verdict::Valid, _) => None,
    }
}
