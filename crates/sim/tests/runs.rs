//! Whole runs: they repeat byte for byte, the correct rules keep every invariant, and each planted bug is found.

use sim::command::{Summary, replay, run_seeds, run_until_found};
use sim::{Counts, Options, Planted, run};

/// Seeds that each planted bug is given to be found.
const SEEDS_MAX: u64 = 1_000;

fn seeds(otherwise: u64) -> u64 {
    std::env::var("EVERRING_SIM_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn a_seed_gives_the_same_log_byte_for_byte() {
    for seed in [1, 6, 27, 308, 1092] {
        let keep = Options { keep_log: true, ..Options::default() };
        let [once, again] = [run(seed, keep), run(seed, keep)];
        assert!(once.log.text().len() > 100_000, "the log of seed {seed} is {} bytes", once.log.text().len());
        assert!(once.log.text() == again.log.text(), "two runs of seed {seed} differ");
        assert_eq!(once.counts, again.counts);
        let unkept = run(seed, Options::default());
        assert_eq!(unkept.log.text(), "");
        assert_eq!(unkept.log.fingerprint(), once.log.fingerprint(), "keeping the log changes nothing");
    }
}

/// Every operation ends, a calm fleet answers everything, the ring heals, histories are linearizable: a run that broke
/// any of it would be a violation. And the runs are not quiet.
#[test]
fn the_correct_rules_keep_every_invariant() {
    let count = seeds(300);
    let summary = run_seeds(0, count, None, 1);
    println!("{summary}");
    if let Some((seed, violation)) = &summary.first_violation {
        panic!("{} of {count} seeds broke something; seed {seed}: {violation}", summary.violations);
    }
    assert_eq!(summary.schedules, count);
    quiet_runs_prove_nothing(&summary);
}

/// Where a copy is taken for the node itself, the older one of the two is fenced off at least. (That nothing is lost by
/// it is more than fencing can do: see decision 0073.)
#[test]
fn a_later_start_fences_the_older_one_off() {
    let options = Options { planted: Some(Planted::CopyTrusted), ..Options::default() };
    let counts: Vec<Counts> = (0..300).map(|seed| run(seed, options).counts).collect();
    let copies: u64 = counts.iter().map(|counts| counts.copies_started).sum();
    let fenced: u64 = counts.iter().map(|counts| counts.twins_fenced).sum();
    assert!(fenced > 0, "of {copies} nodes that ran twice no older one was fenced off");
}

fn quiet_runs_prove_nothing(summary: &Summary) {
    let Summary { counts, schedules, answered, faults, .. } = summary;
    assert!(*answered >= 150 * schedules, "only {answered} operations were answered in {schedules} runs");
    assert!(*faults >= 2 * schedules, "only {faults} faults in {schedules} runs");
    assert!(counts.ring_checks >= *schedules, "the ring was checked only {} times", counts.ring_checks);
    assert!(counts.ring_checks_at_rest >= *schedules, "a ring at rest only {} times", counts.ring_checks_at_rest);
    assert!(counts.rings_healed > *schedules, "rings were never broken: {}", counts.rings_healed);
    assert!(10 * counts.unknown >= *schedules, "only {} unknown ends", counts.unknown);
    assert!(10 * counts.disks_full >= *schedules, "only {} full disks", counts.disks_full);
    assert!(10 * counts.disk_refusals >= *schedules, "only {} writes met one", counts.disk_refusals);
    assert!(2 * counts.changes_begun >= *schedules, "only {} changes of membership", counts.changes_begun);
    assert!(counts.changes_done == counts.changes_begun, "{} of them ended", counts.changes_done);
    assert!(10 * counts.tokens_moved >= *schedules, "only {} tokens moved", counts.tokens_moved);
    assert!(counts.arcs_copied >= *schedules, "only {} arcs were copied", counts.arcs_copied);
    assert!(10 * counts.released >= *schedules, "only {} registers were dropped", counts.released);
    assert!(5 * counts.collected >= *schedules, "only {} tombstones were dropped", counts.collected);
    assert!(counts.clock_jumps >= *schedules, "only {} jumps of clocks", counts.clock_jumps);
    assert!(10 * counts.segments_cleaned >= *schedules, "only {} segments were cleaned", counts.segments_cleaned);
    assert!(8 * counts.bits_rotted >= *schedules, "only {} bits rotted", counts.bits_rotted);
    assert!(10 * counts.damage_scrubbed >= *schedules, "only {} were found by scrubbing", counts.damage_scrubbed);
    assert!(100 * counts.doubted >= *schedules, "only {} directories were in doubt", counts.doubted);
    assert!(20 * counts.syncs_lost >= *schedules, "only {} nodes lost acknowledged syncs", counts.syncs_lost);
    assert!(100 * counts.syncs_lost_together >= *schedules, "only {} not alone", counts.syncs_lost_together);
    assert!(30 * counts.damage_at_start >= *schedules, "only {} were found by a start", counts.damage_at_start);
}

#[test]
fn each_planted_bug_is_found() {
    let mut missed = Vec::new();
    for planted in Planted::ALL {
        match run_until_found(0, SEEDS_MAX, Some(planted), 1).first_violation {
            Some((seed, violation)) => println!("{planted}: seed {seed}: {violation}"),
            None => missed.push(planted.name()),
        }
    }
    assert!(missed.is_empty(), "not found in their seeds: {missed:?}");
}

/// Lookups end at the owner by way of the lists alone, and nothing is lost: but a join must leave right fingers behind.
#[test]
fn what_only_the_invariants_of_joins_can_find_is_found_by_them() {
    let found = run_until_found(0, 3, Some(Planted::FingersNeverFixed), 1).first_violation;
    let (seed, violation) = found.expect("fingers that nobody looks for are missing at the end of each run");
    assert_eq!((seed, violation.invariant), (0, "join_invariant_full_fingers"), "{violation}");
}

#[test]
fn a_replay_shows_the_log_the_mix_and_the_end() {
    let found = run_until_found(0, SEEDS_MAX, Some(Planted::MinorityRead), 2).first_violation;
    let (seed, violation) = found.expect("a planted bug is found");
    let text = replay(seed, Some(Planted::MinorityRead)).to_string();
    assert!(text.contains(&format!("seed {seed}\nnodes=5")), "the mix is missing");
    assert!(text.ends_with(&format!("VIOLATION {violation}\n")), "{}", &text[text.len().saturating_sub(300)..]);
    assert!(text.contains("accept r") && text.contains("ring "), "the messages are missing");
    assert!(replay(seed, None).to_string().ends_with("all held\n"));
}

#[test]
fn two_threads_find_what_one_finds() {
    let planted = Some(Planted::RetryTwice);
    let [one, two] = [1, 2].map(|threads| run_seeds(40, 12, planted, threads));
    assert_eq!(one.first_violation, two.first_violation);
    assert_eq!((one.violations, one.counts), (two.violations, two.counts));
    assert_eq!(one.schedules, 12);
}

/// Each of these broke something once, and says what.
#[test]
fn what_was_found_stays_mended() {
    let found = [
        (3023, "rot before a last batch that ended with zeros was cut off as a torn tail"),
        (1256, "the same"),
        (2350, "the same, after a restart"),
        (
            1071,
            "the end did not wait for the one who replaces a node that finds its damage only then: the judge's fault",
        ),
        (1503, "a newcomer whose successor had named a dead predecessor did not heed whom it named next"),
        (
            1101,
            "a vote of an abandoned change was not counted where a later change made its replica give up what it held",
        ),
        (313, "a list that was read before the ring was ideal arrived afterwards: the judge's fault"),
        (1077, "a newcomer had taken a living one for dead before the ring was ideal: the judge's fault"),
        (1279, "two nodes had one place while a change replaced a living one: the judge's fault"),
        (
            7747,
            "the state that was chosen already, at a higher ballot below a confirmation, is nothing new: the judge's",
        ),
        (8201, "what a node had given up was lost with what was not synced: the judge's fault"),
        (40407, "a vote was dropped between a copy of its record and the sync of both: the judge's fault"),
        (2467, "a vote of an abandoned change was forgotten where its replica took the same again: the judge's fault"),
        (6937, "undecided: leases that may have run out in any order were searched through in every order"),
        (7858, "undecided: values that may have ended by themselves were told apart for ever after"),
        (8870, "the same"),
        (8873, "the same"),
        (11883, "undecided: who was denied a swap kept every write of its key from being placed at once"),
        (18876, "the same"),
        (10384, "a quorum was asked for before those left of an arc without one of its disks had scanned: the judge's"),
        (9562, "an echo of one that had left took its place in the ring while the end was judged: the judge's fault"),
    ];
    for (seed, once) in found {
        let violation = run(seed, Options::default()).violation;
        assert_eq!(violation.map(|found| found.to_string()), None, "seed {seed}: {once}");
    }
}

#[test]
fn litmus_outcomes_that_a_level_forbids_are_never_seen_and_those_that_it_allows_are() {
    let rows = sim::command::run_litmus(0, 12);
    for row in &rows {
        let (level, test, shown) = (row.column, row.test, row.shown);
        println!("{level} {test}: {} of {} rounds", shown.outcomes, shown.rounds);
        if let Some((seed, violation)) = &row.violation {
            panic!("{test} at {level}, seed {seed}: {violation}");
        }
        assert!(shown.rounds > 100, "{test} at {level}: only {} rounds were whole", shown.rounds);
        if row.forbidden {
            assert_eq!(shown.outcomes, 0, "{test} at {level}");
        } else if test != "LB" {
            // LB takes values that are read before they are written: nobody shows that.
            assert!(shown.outcomes > 0, "{test} is allowed at {level}, and never seen: the levels must differ");
        }
    }
}
