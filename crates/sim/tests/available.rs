//! Runs of the fleet of available keys: they repeat byte for byte, the rules that hold keep every level, each planted
//! bug is found, and what was found once stays mended.

use available::Rule;
use sim::available::{Asking, Counts, Theme, run, run_asking, run_trusting};

/// Seeds that each planted bug is given to be found.
const SEEDS_MAX: u64 = 1_000;

fn seeds(otherwise: u64) -> u64 {
    std::env::var("EVERRING_SIM_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn a_seed_gives_the_same_log_byte_for_byte() {
    // One of each theme.
    for seed in [0, 16, 17, 10, 12, 3, 6, 8, 14, 23] {
        let [once, again] = [run(seed, None, true), run(seed, None, true)];
        assert!(once.log.text().len() > 10_000, "the log of seed {seed} is {} bytes", once.log.text().len());
        assert!(once.log.text() == again.log.text(), "two runs of seed {seed} differ");
        assert_eq!(once.counts, again.counts);
        assert_eq!(once.log.fingerprint(), run(seed, None, false).log.fingerprint(), "keeping the log changes nothing");
    }
}

#[test]
fn the_rules_keep_every_level() {
    let (count, mut counts) = (seeds(200), Counts::default());
    for seed in 0..count {
        let report = run(seed, None, false);
        assert_eq!(report.violation.map(|found| found.to_string()), None, "seed {seed}\n{}", report.swarm);
        counts.add(&report.counts);
    }
    println!("{count} schedules: {counts:?}");
    // Quiet runs prove nothing.
    let each =
        [counts.faults, counts.siblings, counts.local_reads, counts.causal_reads - counts.local_reads, counts.hinted];
    assert!(each.iter().all(|seen| *seen >= count), "{counts:?}");
    assert!(counts.answered >= 150 * count && 2 * counts.buried >= count && 4 * counts.refilled >= count, "{counts:?}");
    // Logs are cleaned, disks fill up and rot, clocks jump.
    assert!(counts.segments_cleaned >= count && counts.clock_jumps >= count, "{counts:?}");
    assert!(4 * counts.disks_full >= count && 2 * counts.bits_rotted >= count, "{counts:?}");
    assert!(4 * counts.damage_scrubbed >= count && 4 * counts.damage_at_start >= count, "{counts:?}");
    // A quarter of all are about changes.
    assert!(counts.changes >= count / 2 && counts.released >= count / 2, "{counts:?}");
}

#[test]
fn each_planted_bug_is_found() {
    let found = |rule: Rule| (0..SEEDS_MAX).find_map(|seed| Some((seed, run(seed, Some(rule), false).violation?)));
    let mut missed = Vec::new();
    for rule in Rule::all() {
        match found(rule) {
            Some((seed, violation)) => println!("{rule}: seed {seed}: {}", violation.invariant),
            None => missed.push(rule.name()),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds: {missed:?}");
}

/// A session that is told that its write is done finds it from then on, wherever it asks; and it is noticed if not.
#[test]
fn what_is_told_to_be_done_is_found_from_then_on() {
    let (count, mut counts) = (seeds(300), Counts::default());
    for seed in 0..count {
        let report = run_asking(seed, Asking::Asks);
        assert_eq!(report.violation.map(|found| found.to_string()), None, "seed {seed}\n{}", report.swarm);
        counts.add(&report.counts);
    }
    println!("{count} schedules, {} writes told to be done", counts.remembered);
    assert!(counts.remembered >= count / 2, "{counts:?}");
    let found = (0..SEEDS_MAX).find_map(|seed| Some((seed, run_asking(seed, Asking::Forgets).violation?)));
    let (seed, violation) = found.expect("a session that forgets what it was told is found");
    println!("forgotten: seed {seed}: {violation}");
    assert_eq!(violation.invariant, "causal");
}

/// Disks that say that they have synced, and have not, cost one node its place and nobody a write; and it is noticed if
/// such a node is trusted.
#[test]
fn syncs_that_are_lost_are_noticed() {
    let lying = || (0..).filter(|seed| Theme::of(*seed) == Theme::Lying);
    let (count, mut counts) = (seeds(300) / 10, Counts::default());
    for seed in lying().take(count as usize) {
        let report = run(seed, None, false);
        assert_eq!(report.violation.map(|found| found.to_string()), None, "seed {seed}\n{}", report.swarm);
        counts.add(&report.counts);
    }
    println!(
        "{count} schedules: {} disks lost syncs, {} nodes were given up",
        counts.syncs_lost, counts.damage_at_start
    );
    assert!(counts.syncs_lost >= 2 * count && counts.damage_at_start >= count, "{counts:?}");
    let found = lying().take(SEEDS_MAX as usize).find_map(|seed| Some((seed, run_trusting(seed).violation?)));
    let (seed, violation) = found.expect("a node that forgot what it vouched for is found");
    println!("trusted: seed {seed}: {violation}");
}

/// A home that says that it holds the same means what it was asked about. If it were taken to mean what is held by the
/// time its word arrives, a write would be shown that nobody else has.
#[test]
fn what_a_late_report_means_is_noticed() {
    let late = || (0..).filter(|seed| Theme::of(*seed) == Theme::Late);
    for seed in late().take(seeds(300) as usize / 10) {
        assert_eq!(run(seed, None, false).violation.map(|found| found.to_string()), None, "seed {seed}");
    }
    let broken = |seed| Some((seed, run(seed, Some(Rule::ReportOfAnother), false).violation?));
    let (seed, violation) = late().take(300).find_map(broken).expect("one in fifty shows it");
    println!("seed {seed}: {violation}");
}

/// Each of these broke something once, and says what.
#[test]
fn what_was_found_stays_mended() {
    let found = [
        (139, "two requests, each stamped by several replicas, took each other's place"),
        (423, "the same, in an earlier build"),
        (510, "the same, in an earlier build"),
        (752, "the same, in an earlier build"),
        (50, "a tombstone named a write that an earlier tombstone had buried, and stayed for ever"),
        (469, "a merge that forgot as much as it learned was taken for none, and replicas stayed unequal"),
        (5353, "a report about one key, of before a restart, was taken for an answer about another"),
        (388, "a causal read showed a stamp that was on its way to the disk as if a majority had it"),
        (606, "a hint came again when the homes had forgotten its request"),
        (3725, "an attempt that lay in a stopped node's socket acted after all else had settled: the schedule's fault"),
        (3693, "violated in an earlier build, without a cause known; not since"),
        (63, "who had left an arc stopped owing and went on claiming, and what it handed on was taken for gone"),
        (262, "a pass took a state that had changed under it for fetched, and a new home lacked it"),
        (355, "a node that was a home of nothing went on owing those that were homes no more, and never ended"),
        (680, "a node that had lost its memory trusted marks of one who had been a home before"),
        (815, "a node that had missed the view that removed it took itself for a home all along"),
        (399, "an arc of two parts took what one of them had inherited for true of both, and a stamp for gone"),
        (1347, "two new homes, both still empty, found each other equal, and one took the other's old stamps for gone"),
        (4568, "a new home compared with one that had lost its memory, and took what that had stamped before for gone"),
        (6168, "the same"),
        (2212, "a retry was told of what its other attempt had just done at one home alone"),
        (9427, "what a former home brought late was shown by two homes, and then not by the third"),
        (1408, "who ended a write that was closed remembered its request, and replicas stayed unequal"),
        (28527, "a late report that all was the same as asked was taken to mean what was held by then"),
        (33448, "the same, in a fleet whose homes do not change"),
        (31679, "a home vouched for its stamps up to its clock, restarted, and stamped below that"),
        (
            28491,
            "a token had no room for a write of its session, which the judge held against it: the schedule's fault",
        ),
        (9792, "a pass that was due again and again took all of the budget, and a change never ended"),
    ];
    for (seed, once) in found {
        assert_eq!(run(seed, None, false).violation.map(|found| found.to_string()), None, "seed {seed}: {once}");
    }
}

/// The same in the schedules that found it, which are others since a rule was added.
#[test]
fn what_was_found_stays_mended_in_the_schedules_of_then() {
    for (seed, rule) in [(9427, Rule::LedUnheard), (1408, Rule::LedUnheard), (9792, Rule::ReportOfAnother)] {
        let violation = run(seed, Some(rule), false).violation;
        assert_eq!(violation.map(|found| found.to_string()), None, "seed {seed}");
    }
}
