//! What the command line runs: many seeds on some threads, or one seed again.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::litmus::{ReadLevel, Shown};
use crate::{Counts, Options, Planted, Report, Violation, run};

/// What many seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub schedules: u64,
    /// Of these, how many broke something.
    pub violations: u64,
    /// The lowest seed that broke something, and what.
    pub first_violation: Option<(u64, Violation)>,
    /// Operations that were answered.
    pub answered: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Virtual time that passed.
    pub simulated_seconds: f64,
    /// Real time that passed.
    pub wall_seconds: f64,
    /// Everything that was counted, added up.
    pub counts: Counts,
}

/// One seed, run again with its event log kept.
#[derive(Debug)]
pub struct Replay {
    /// The run.
    pub report: Report,
}

/// Runs the seeds from `first` on, `count` of them, on `threads` threads (at least one).
pub fn run_seeds(first: u64, count: u64, planted: Option<Planted>, threads: usize) -> Summary {
    sweep(first, count, planted, threads, false)
}

/// Runs seeds from `first` on until one breaks something, `count` of them at most.
pub fn run_until_found(first: u64, count: u64, planted: Option<Planted>, threads: usize) -> Summary {
    sweep(first, count, planted, threads, true)
}

/// Runs one seed and keeps its event log.
pub fn replay(seed: u64, planted: Option<Planted>) -> Replay {
    Replay { report: run(seed, Options { planted, keep_log: true }) }
}

/// How many times as many seeds an outcome gets that a level allows.
const ALLOWED_SEEDS_FACTOR: u64 = 12;

/// What one litmus test has shown at one level, over many seeds.
#[derive(Clone, Debug)]
pub struct LitmusRow {
    /// The level at which its reads were made.
    pub level: ReadLevel,
    /// The test's name.
    pub test: &'static str,
    /// Whether the level forbids the outcome.
    pub forbidden: bool,
    /// How often it was asked, and how often the outcome was seen.
    pub shown: Shown,
    /// The first seed that broke something, and what.
    pub violation: Option<(u64, Violation)>,
}

/// Runs every litmus test at every level that reads may ask for, under the faults of `seeds` seeds from `first` on.
pub fn run_litmus(first: u64, seeds: u64) -> Vec<LitmusRow> {
    let levels = [(ReadLevel::Strict, checker::Level::Strict), (ReadLevel::Sequential, checker::Level::Sequential)];
    let mut rows = Vec::new();
    for (level, promised) in levels {
        for test in checker::litmus::ALL {
            let forbidden = !test.allowed_at(promised);
            let mut row = LitmusRow { level, test: test.name, forbidden, shown: Shown::default(), violation: None };
            // What may be seen is looked for longer: it takes a replica that lags, and an arc that is confirmed there.
            let seeds = if forbidden { seeds } else { seeds.saturating_mul(ALLOWED_SEEDS_FACTOR) };
            for seed in (first..).take(usize::try_from(seeds).unwrap_or(usize::MAX)) {
                match crate::run_litmus(seed, test, level) {
                    Ok(shown) => row.shown.add(shown),
                    Err(violation) => row.violation = row.violation.or(Some((seed, violation))),
                }
            }
            rows.push(row);
        }
    }
    rows
}

fn sweep(first: u64, count: u64, planted: Option<Planted>, threads: usize, until_found: bool) -> Summary {
    // Real time is only told, it decides nothing.
    let started = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let end = AtomicU64::new(count);
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = first.wrapping_add(at);
                    let (violation, counts) = run_guarded(seed, planted);
                    if until_found && violation.is_some() {
                        // Seeds before this one are still run: the lowest is to be named.
                        end.fetch_min(at, Ordering::Relaxed);
                    }
                    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    total.add(seed, violation, &counts);
                }
            });
        }
    });
    let mut summary = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.wall_seconds = started.elapsed().as_secs_f64();
    summary
}

/// A broken assertion of a core is a violation like any other, and its seed must be known.
fn run_guarded(seed: u64, planted: Option<Planted>) -> (Option<Violation>, Counts) {
    let ran = catch_unwind(AssertUnwindSafe(|| run(seed, Options { planted, keep_log: false })));
    match ran {
        Ok(report) => (report.violation, report.counts),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let found = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned();
            (Some(Violation { invariant: "no_assertion_fails", found }), Counts::default())
        }
    }
}

impl Summary {
    fn add(&mut self, seed: u64, violation: Option<Violation>, counts: &Counts) {
        self.schedules += 1;
        self.counts.add(counts);
        self.answered = self.counts.answered;
        self.faults = self.counts.faults;
        self.simulated_seconds = self.counts.simulated_ms as f64 / 1_000.0;
        if let Some(violation) = violation {
            self.violations += 1;
            if self.first_violation.as_ref().is_none_or(|(first, _)| seed < *first) {
                self.first_violation = Some((seed, violation));
            }
        }
    }

    /// Simulated seconds per real second, over all threads.
    pub fn speed(&self) -> f64 {
        self.simulated_seconds / self.wall_seconds.max(1e-9)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { unknown, disk_refusals, disks_full, segments_cleaned, events, .. } = self.counts;
        let Counts { ring_checks, rings_healed, second_rings, .. } = self.counts;
        writeln!(f, "{} schedules, {} violations", self.schedules, self.violations)?;
        if let Some((seed, violation)) = &self.first_violation {
            writeln!(f, "first: seed {seed}: {violation}")?;
        }
        writeln!(
            f,
            "{} operations answered, {unknown} unknown, {} faults, {events} events",
            self.answered, self.faults
        )?;
        writeln!(f, "{disks_full} full disks, {disk_refusals} refusals, {segments_cleaned} segments cleaned")?;
        writeln!(f, "{ring_checks} checks of the ring, ideal {rings_healed} times, {second_rings} second rings")?;
        let Counts { changes_begun, changes_done, arcs_copied, arcs_confirmed, released, .. } = self.counts;
        let moved = self.counts.tokens_moved;
        writeln!(f, "{changes_begun} changes of membership, {changes_done} ended, {moved} tokens moved")?;
        writeln!(f, "{arcs_copied} arcs copied, {arcs_confirmed} confirmed, {released} registers dropped")?;
        writeln!(f, "{} tombstones collected", self.counts.collected)?;
        let (simulated, wall) = (self.simulated_seconds, self.wall_seconds);
        writeln!(f, "{simulated:.0} s simulated in {wall:.1} s: {:.0} times as fast as life", self.speed())
    }
}

/// The log, the mix, and how it ended.
impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, swarm, violation, log, .. } = &self.report;
        write!(f, "{}", log.text())?;
        writeln!(f, "seed {seed}\n{swarm}{} events, fingerprint {:016x}", log.lines(), log.fingerprint())?;
        match violation {
            None => writeln!(f, "all held"),
            Some(violation) => writeln!(f, "VIOLATION {violation}"),
        }
    }
}
