//! What the command line runs: many seeds on some threads, or one seed again.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ::available::{Level, Rule};

use checker::litmus::Placing;

use crate::litmus::{ReadLevel, Shown};
use crate::{Counts, Options, Planted, Report, UnknownPlanted, Violation, across, available, run};

/// What many seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub schedules: u64,
    /// Of these, how many broke something.
    pub violations: u64,
    /// The lowest seed that broke something, and what.
    pub first_violation: Option<(u64, Violation)>,
    /// The seed after the last one that was begun.
    pub next: u64,
    /// Operations that were answered.
    pub answered: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Virtual time that passed.
    pub simulated_seconds: f64,
    /// Real time that passed.
    pub wall_seconds: f64,
    /// Everything that was counted, added up; of available keys, what both kinds of fleet have.
    pub counts: Counts,
    /// What was counted of available keys alone, if these were run.
    pub available: Option<available::Counts>,
    /// What was counted of the fleet of both contracts, if that was run.
    pub across: Option<across::Counts>,
}

/// A simulated fleet: of ordered keys, of available ones, or of both, with the bug that is planted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fleet {
    /// Registers, at levels strict and sequential.
    Ordered(Option<Planted>),
    /// Levels causal and eventual.
    Available(Option<Rule>),
    /// Keys of both kinds, and sessions that go from the one to the other.
    Both(Option<across::Planted>),
}

impl Fleet {
    /// Each with each of its planted bugs.
    pub fn with_bugs() -> impl Iterator<Item = Fleet> {
        let ordered = Planted::ALL.into_iter().map(|planted| Fleet::Ordered(Some(planted)));
        let available = Rule::all().map(|rule| Fleet::Available(Some(rule)));
        ordered.chain(available).chain(across::Planted::OWN.into_iter().map(|planted| Fleet::Both(Some(planted))))
    }

    /// What follows the seed in the call that runs it again.
    pub fn replay_flags(self) -> String {
        match (self.bug(), self) {
            (Some(bug), _) => format!(" --planted {bug}"),
            (None, Fleet::Available(_)) => " --contract available".to_owned(),
            (None, Fleet::Both(_)) => " --contract both".to_owned(),
            (None, Fleet::Ordered(_)) => String::new(),
        }
    }

    /// The planted bug's name.
    pub fn bug(self) -> Option<&'static str> {
        match self {
            Fleet::Ordered(planted) => planted.map(Planted::name),
            Fleet::Available(planted) => planted.map(Rule::name),
            Fleet::Both(planted) => planted.map(across::Planted::name),
        }
    }
}

/// The fleet that a bug's name belongs to, with the bug.
impl FromStr for Fleet {
    type Err = UnknownPlanted;

    fn from_str(name: &str) -> Result<Fleet, UnknownPlanted> {
        if let Some(planted) = across::Planted::OWN.into_iter().find(|planted| planted.name() == name) {
            return Ok(Fleet::Both(Some(planted)));
        }
        match name.parse::<Rule>() {
            Ok(rule) => Ok(Fleet::Available(Some(rule))),
            Err(_) => name.parse().map(|planted| Fleet::Ordered(Some(planted))),
        }
    }
}

/// What one seed came to.
#[derive(Default)]
struct Ran {
    violation: Option<Violation>,
    counts: Counts,
    available: Option<available::Counts>,
    across: Option<across::Counts>,
}

/// What goes on beside a run of many seeds, and may end it.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// Whether no further seed is begun after one that broke something.
    pub until_found: bool,
    /// Asked before each seed: whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Told of each seed that broke something, as soon as it has.
    pub found: &'a (dyn Fn(u64, &Violation) + Sync),
}

impl Beside<'_> {
    /// Nothing: all seeds are run.
    pub const NOTHING: Beside<'static> = Beside { until_found: false, stop: &|| false, found: &|_, _| {} };
    /// Nothing, and the first seed that breaks something is the last.
    pub const UNTIL_FOUND: Beside<'static> = Beside { until_found: true, ..Beside::NOTHING };
}

/// One seed, run again with its event log kept.
#[derive(Debug)]
pub struct Replay {
    /// The run.
    pub report: Report,
}

/// Runs the seeds from `first` on, `count` of them, on `threads` threads (at least one).
pub fn run_seeds(first: u64, count: u64, planted: Option<Planted>, threads: usize) -> Summary {
    sweep(first, count, threads, Beside::NOTHING, |seed| ordered(seed, planted))
}

/// Runs seeds from `first` on until one breaks something, `count` of them at most.
pub fn run_until_found(first: u64, count: u64, planted: Option<Planted>, threads: usize) -> Summary {
    sweep(first, count, threads, Beside::UNTIL_FOUND, |seed| ordered(seed, planted))
}

/// Runs the seeds from `first` on of a fleet, `count` of them, or until what goes on beside it ends it.
pub fn run_fleet(fleet: Fleet, (first, count): (u64, u64), threads: usize, beside: Beside<'_>) -> Summary {
    match fleet {
        Fleet::Ordered(planted) => sweep(first, count, threads, beside, |seed| ordered(seed, planted)),
        Fleet::Available(planted) => sweep(first, count, threads, beside, |seed| of_available(seed, planted)),
        Fleet::Both(planted) => sweep(first, count, threads, beside, |seed| of_both(seed, planted)),
    }
}

/// Runs one seed of a fleet; its whole event log and how it ended, in words, and what it broke.
pub fn replay_fleet(fleet: Fleet, seed: u64) -> (String, Option<Violation>) {
    match fleet {
        Fleet::Ordered(planted) => {
            let replay = replay(seed, planted);
            (replay.to_string(), replay.report.violation)
        }
        Fleet::Available(planted) => {
            let report = available::run(seed, planted, true);
            let end = report.violation.as_ref().map_or("all held".to_owned(), |found| format!("VIOLATION {found}"));
            (format!("{}seed {seed}\n{}{end}\n", report.log.text(), report.swarm), report.violation)
        }
        Fleet::Both(planted) => {
            let report = across::run(seed, planted, true);
            let end = report.violation.as_ref().map_or("all held".to_owned(), |found| format!("VIOLATION {found}"));
            (format!("{}seed {seed}\n{}{end}\n", report.log.text(), report.swarm), report.violation)
        }
    }
}

fn ordered(seed: u64, planted: Option<Planted>) -> Ran {
    let Report { violation, counts, .. } = run(seed, Options { planted, ..Options::default() });
    Ran { violation, counts, ..Ran::default() }
}

fn of_available(seed: u64, planted: Option<Rule>) -> Ran {
    let available::Report { violation, counts, .. } = available::run(seed, planted, false);
    let available::Counts { answered, unknown, faults, events, simulated_ms, .. } = counts;
    let shared = Counts { answered, unknown, faults, events, simulated_ms, ..Counts::default() };
    Ran { violation, counts: shared, available: Some(counts), ..Ran::default() }
}

fn of_both(seed: u64, planted: Option<across::Planted>) -> Ran {
    let across::Report { violation, counts, .. } = across::run(seed, planted, false);
    let across::Counts { answered, unknown, faults, events, simulated_ms, .. } = counts;
    let shared = Counts { answered, unknown, faults, events, simulated_ms, ..Counts::default() };
    Ran { violation, counts: shared, across: Some(counts), ..Ran::default() }
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
    /// The level at which its reads were made; or which of its variables were kept under which contract.
    pub column: &'static str,
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
    let levels = [
        (ReadLevel::Strict, checker::Level::Strict),
        (ReadLevel::Sequential, checker::Level::Sequential),
        (ReadLevel::Causal, checker::Level::Causal),
        (ReadLevel::Eventual, checker::Level::Eventual),
    ];
    let mut rows = Vec::new();
    for (level, promised) in levels {
        for test in checker::litmus::ALL {
            rows.push(litmus_row((level.name(), promised), test, (first, seeds), |seed| match level {
                ReadLevel::Strict | ReadLevel::Sequential => crate::run_litmus(seed, test, level),
                ReadLevel::Causal => available::run_litmus(seed, test, Level::Causal),
                ReadLevel::Eventual => available::run_litmus(seed, test, Level::Eventual),
            }));
        }
    }
    rows.extend(Placing::ALL.into_iter().flat_map(|placing| run_litmus_across(placing, first, seeds)));
    rows
}

/// The same of the tests whose variables are kept under both contracts: together these promise level causal.
fn run_litmus_across(placing: Placing, first: u64, seeds: u64) -> impl Iterator<Item = LitmusRow> {
    checker::litmus::ACROSS.iter().map(move |test| {
        let column = (placing.name(), checker::Level::Causal);
        litmus_row(column, test, (first, seeds), |seed| across::run_litmus(seed, test, placing, None))
    })
}

/// What a test shows in a column, of which `promised` is what it promises, over so many seeds from the first on.
fn litmus_row(
    (column, promised): (&'static str, checker::Level),
    test: &checker::litmus::Litmus,
    (first, seeds): (u64, u64),
    play: impl Fn(u64) -> Result<Shown, Violation>,
) -> LitmusRow {
    let forbidden = !test.allowed_at(promised);
    let mut row = LitmusRow { column, test: test.name, forbidden, shown: Shown::default(), violation: None };
    // What may be seen is looked for longer: it takes a replica that lags, and an arc that is confirmed there.
    let seeds = if forbidden { seeds } else { seeds.saturating_mul(ALLOWED_SEEDS_FACTOR) };
    for seed in (first..).take(usize::try_from(seeds).unwrap_or(usize::MAX)) {
        match play(seed) {
            Ok(shown) => row.shown.add(shown),
            Err(violation) => row.violation = row.violation.or(Some((seed, violation))),
        }
    }
    row
}

fn sweep(first: u64, count: u64, threads: usize, beside: Beside<'_>, run: impl Fn(u64) -> Ran + Sync) -> Summary {
    // Real time is only told, it decides nothing.
    let started = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let end = AtomicU64::new(count);
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !(beside.stop)() {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = first.wrapping_add(at);
                    let ran = guarded(seed, &run);
                    if let Some(violation) = &ran.violation {
                        (beside.found)(seed, violation);
                        if beside.until_found {
                            // Seeds before this one are still run: the lowest is to be named.
                            end.fetch_min(at, Ordering::Relaxed);
                        }
                    }
                    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    total.add(seed, ran);
                }
            });
        }
    });
    let mut summary = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.wall_seconds = started.elapsed().as_secs_f64();
    summary.next = first.wrapping_add(next.into_inner().min(count));
    summary
}

thread_local! {
    static UNDER_WAY: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The seed that this thread is running, if it runs one of many: for the hook of a panic that ends the process.
pub fn seed_under_way() -> Option<u64> {
    UNDER_WAY.get()
}

/// A broken assertion of a core is a violation like any other, and its seed must be known. Where a panic ends the
/// process, as in a release build, nothing is caught: there the panic's hook is to tell [`seed_under_way`].
fn guarded(seed: u64, run: &impl Fn(u64) -> Ran) -> Ran {
    UNDER_WAY.set(Some(seed));
    let ran = caught(seed, run);
    UNDER_WAY.set(None);
    ran
}

fn caught(seed: u64, run: &impl Fn(u64) -> Ran) -> Ran {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let found = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned();
        Ran { violation: Some(Violation { invariant: "no_assertion_fails", found }), ..Ran::default() }
    })
}

impl Summary {
    fn add(&mut self, seed: u64, ran: Ran) {
        let Ran { violation, counts, available, across } = ran;
        self.schedules += 1;
        self.counts.add(&counts);
        if let Some(counts) = available {
            self.available.get_or_insert_default().add(&counts);
        }
        if let Some(counts) = across {
            self.across.get_or_insert_default().add(&counts);
        }
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

    fn write_speed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (simulated, wall) = (self.simulated_seconds, self.wall_seconds);
        writeln!(f, "{simulated:.0} s simulated in {wall:.1} s: {:.0} times as fast as life", self.speed())
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
        if let Some(counts) = &self.available {
            let available::Counts { siblings, causal_reads, local_reads, hinted, buried, .. } = *counts;
            let available::Counts { stale_refused, passes, refilled, changes, released, .. } = *counts;
            writeln!(f, "{siblings} reads of siblings, {local_reads} of {causal_reads} causal reads by one replica")?;
            writeln!(
                f,
                "{hinted} writes kept by a stand-in, {buried} tombstones dropped, {stale_refused} late copies"
            )?;
            writeln!(f, "{passes} passes of reconciliation, {refilled} replicas filled again")?;
            writeln!(f, "{changes} changes of membership ended, {released} keys dropped")?;
            let available::Counts { disks_full, segments_cleaned, clock_jumps, .. } = *counts;
            writeln!(f, "{disks_full} full disks, {segments_cleaned} segments cleaned, {clock_jumps} clocks set")?;
            let available::Counts { bits_rotted, damage_scrubbed, damage_at_start, syncs_lost, .. } = *counts;
            writeln!(f, "{bits_rotted} bits rotted, {damage_scrubbed} found by scrubbing")?;
            writeln!(f, "{syncs_lost} nodes lost syncs that were acknowledged; {damage_at_start} starts were refused")?;
            return self.write_speed(f);
        }
        if let Some(counts) = &self.across {
            let across::Counts { crossings, changes, available_reads, local_available, local_ordered, .. } = *counts;
            writeln!(f, "{crossings} times a session went from one contract to the other; {changes} changes ended")?;
            writeln!(
                f,
                "{local_available} of {available_reads} available reads and {local_ordered} ordered ones by one replica"
            )?;
            return self.write_speed(f);
        }
        writeln!(f, "{disks_full} full disks, {disk_refusals} refusals, {segments_cleaned} segments cleaned")?;
        let Counts { bits_rotted, damage_scrubbed, damage_at_start, .. } = self.counts;
        writeln!(f, "{bits_rotted} bits rotted, {damage_scrubbed} found by scrubbing, {damage_at_start} by a start")?;
        writeln!(f, "{ring_checks} checks of the ring, ideal {rings_healed} times, {second_rings} second rings")?;
        let Counts { copies_started, put_back, doubted, .. } = self.counts;
        writeln!(
            f,
            "{copies_started} copies of directories were started and {put_back} put back; {doubted} were set aside"
        )?;
        let Counts { syncs_lost, syncs_lost_together, .. } = self.counts;
        writeln!(f, "{syncs_lost} nodes lost syncs that were acknowledged, {syncs_lost_together} of them not alone")?;
        let Counts { changes_begun, changes_done, arcs_copied, arcs_confirmed, released, .. } = self.counts;
        let moved = self.counts.tokens_moved;
        writeln!(f, "{changes_begun} changes of membership, {changes_done} ended, {moved} tokens moved")?;
        writeln!(f, "{arcs_copied} arcs copied, {arcs_confirmed} confirmed, {released} registers dropped")?;
        writeln!(f, "{} tombstones collected, {} clocks set", self.counts.collected, self.counts.clock_jumps)?;
        self.write_speed(f)
    }
}

/// The log, the mix, and how it ended.
impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, swarm, violation, log, counts } = &self.report;
        write!(f, "{}", log.text())?;
        writeln!(f, "seed {seed}\n{swarm}{} events, fingerprint {:016x}", counts.events, log.fingerprint())?;
        match violation {
            None => writeln!(f, "all held"),
            Some(violation) => writeln!(f, "VIOLATION {violation}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_knows_its_seed_and_a_broken_assertion_is_told_with_it() {
        let told = Mutex::new(Vec::new());
        let found = |seed: u64, _: &Violation| told.lock().expect("no panic").push(seed);
        let summary = sweep(7, 3, 2, Beside { found: &found, ..Beside::NOTHING }, |_| {
            assert_ne!(seed_under_way(), Some(8), "the ninth life");
            Ran { violation: None, ..Ran::default() }
        });
        let (seed, violation) = summary.first_violation.expect("one of three broke");
        assert_eq!((seed, summary.violations, summary.schedules), (8, 1, 3));
        assert_eq!(violation.invariant, "no_assertion_fails");
        assert!(violation.found.contains("the ninth life"), "{}", violation.found);
        assert_eq!(seed_under_way(), None);
        assert_eq!((told.into_inner().expect("no panic"), summary.next), (vec![8], 10));
    }

    #[test]
    fn a_run_that_is_stopped_begins_no_further_seed() {
        let begun = AtomicU64::new(0);
        let stop = || begun.load(Ordering::Relaxed) >= 5;
        let summary = sweep(100, u64::MAX, 1, Beside { stop: &stop, ..Beside::NOTHING }, |_| {
            begun.fetch_add(1, Ordering::Relaxed);
            Ran::default()
        });
        assert_eq!((summary.schedules, summary.violations, summary.next), (5, 0, 105));
    }
}
