//! The deterministic whole-fleet simulator: the real cores, the real log and the real encoding, in one thread, in
//! virtual time, from one seed.
//!
//! A run draws its own mix of faults ([`Swarm`]): loss, duplication, delay and reordering of messages, crashes that
//! lose what was not synced and tear what was being written, failing syncs, full disks, pauses, partitions, power cuts,
//! a lost disk; clocks that drift and jump, a slow disk. Clients ask through the gateway's own dispatch. Invariants of
//! registers and ring are checked after every event that touched them, the clients' history by the linearizability
//! checker at the end. When the faults have stopped every operation must have ended, the ring must become ideal, and
//! every question must be answered. A seed names a run: the same seed gives the same event log, byte for byte.
//!
//! What this is *not*: it opens no socket and no file, and it does not run the shells. What only a shell does (HTTP,
//! discovery, processes) is tested on real processes. Nodes join, leave, crash and return while keys move; a node that
//! lost its disk comes back as a new member; discovery itself is a value that changes by compare-and-set.
//!
//! Sources: FoundationDB's simulation (SIGMOD 2021), TigerBeetle's VOPR; swarm testing (ISSTA 2012).
//!
//! ```
//! let report = sim::run(3, sim::Options::default());
//! assert_eq!(report.violation, None);
//! ```

pub mod across;
pub mod available;
pub mod balance;
mod client;
mod clock;
pub mod command;
mod event_log;
mod invariants;
mod joining;
pub mod large;
pub mod litmus;
pub mod model;
mod network;
mod node;
mod node_log;
mod planted;
mod recorder;
mod ring_host;
mod ring_watch;
pub mod steady;
mod swarm;
mod words;
mod world;

pub use clock::Timing;
pub use event_log::EventLog;
pub use invariants::Violation;
pub use planted::{Planted, UnknownPlanted};
pub use swarm::{Only, Steady, Swarm};
pub use world::Counts;

/// Transitions that the checker may try on one run's history. Usual runs need some thousands.
const CHECK_STEPS_MAX: u64 = 5_000_000;

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The planted bug; none for the real thing.
    pub planted: Option<Planted>,
    /// Whether to keep the event log's text.
    pub keep_log: bool,
}

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

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Report {
    match options.planted {
        Some(Planted::PublishedChord) => run_with::<chord::rules::Published2001>(seed, options),
        Some(Planted::FingersNeverFixed) => run_with::<chord::rules::FingersNeverFixed>(seed, options),
        _ => run_with::<chord::Correct>(seed, options),
    }
}

fn run_with<C: chord::Rules>(seed: u64, options: Options) -> Report {
    let mut world = world::World::<C>::new(seed, options, None);
    let violation = match world.run() {
        Ok(mut history) => {
            let of_locks = |operation: &history::Operation| matches!(operation.f, history::Function::Other(_));
            let (locks, records) = history.operations.into_iter().partition(of_locks);
            history.operations = records;
            let locks = history::History { operations: locks, ..history::History::default() };
            judge(&history, checker::Model::Register, checker::Level::Strict)
                .or_else(|| judge(&locks, checker::Model::Lock, checker::Level::Strict))
                .or_else(|| {
                    let sessions = world.swarm.sessions;
                    let judged = || judge(&history, checker::Model::Register, checker::Level::Sequential);
                    sessions.then(judged).flatten()
                })
        }
        Err(violation) => Some(violation),
    };
    Report { seed, swarm: world.swarm, violation, log: world.log, counts: world.counts }
}

/// Runs a load without faults, and judges what its clients were told.
///
/// # Errors
/// What was broken.
pub fn run_steady(seed: u64, steady: Steady) -> Result<Counts, Violation> {
    let (prng, swarm) = (stdx::Prng::from_seed(seed), Swarm::steady(steady));
    let mut world = world::World::<chord::Correct>::of(swarm, prng, Options::default(), None);
    let history = world.run_load()?;
    let level = match steady.only {
        Some(Only::SequentialReads) => checker::Level::Sequential,
        _ => checker::Level::Strict,
    };
    match judge(&history, checker::Model::Register, level) {
        None => Ok(world.counts),
        Some(violation) => Err(violation),
    }
}

/// Runs one seed's faults with the sessions of a litmus test as its clients; what they were shown, or what was broken.
///
/// # Errors
/// An invariant or a level is broken.
pub fn run_litmus(
    seed: u64,
    test: &'static checker::litmus::Litmus,
    level: litmus::ReadLevel,
) -> Result<litmus::Shown, Violation> {
    let running = litmus::Running::new(test, level);
    let mut world = world::World::<chord::Correct>::new(seed, Options::default(), Some(running));
    let history = world.run()?;
    let at = |level| judge(&history, checker::Model::Register, level);
    let found = at(checker::Level::Strict).or_else(|| at(checker::Level::Sequential));
    found.map_or_else(|| Ok(world.shown().unwrap_or_default()), Err)
}

/// What a checker says of a history, if it is anything but valid; `invariant` names what was judged.
pub(crate) fn broken_by(
    invariant: &'static str,
    judged: Result<checker::Report, checker::CheckError>,
) -> Option<Violation> {
    let report = match judged {
        Ok(report) => report,
        Err(error) => return Some(Violation { invariant: "the_history_is_readable", found: error.to_string() }),
    };
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

/// What the checker, which knows nothing of the cores, says of the history.
fn judge(history: &history::History, model: checker::Model, level: checker::Level) -> Option<Violation> {
    let limit = checker::Limit::steps(CHECK_STEPS_MAX);
    let options = checker::Options { model, level, limit, ..checker::Options::default() };
    let report = match checker::check_operations(&history.operations, &options) {
        Ok(report) => report,
        Err(error) => return Some(Violation { invariant: "the_history_is_readable", found: error.to_string() }),
    };
    match (report.verdict, report.violations.first()) {
        (checker::Verdict::Valid, _) => None,
        (checker::Verdict::Violated, violation) => {
            let found = violation.map_or_else(String::new, |v| format!("{} (line {})", v.sentence, v.line));
            let invariant = match (model, level) {
                (checker::Model::Lock, _) => "mutual_exclusion",
                (_, checker::Level::Strict) => "linearizable",
                _ => "sequential",
            };
            Some(Violation { invariant, found })
        }
        (checker::Verdict::Undecided, _) => {
            let found = format!("keys {:?} after {} steps", report.undecided, report.steps);
            Some(Violation { invariant: "the_history_is_decided", found })
        }
    }
}
