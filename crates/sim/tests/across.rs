//! Runs of the fleet of both contracts: sessions that go from one kind of bucket to the other lose nothing on the way,
//! and each planted bug that would make them is found.

use checker::Level;
use checker::litmus::{ACROSS, Placing};
use sim::across::{Counts, Planted, run, run_litmus};
use sim::litmus::Shown;

/// Seeds that each planted bug is given to be found.
const SEEDS_MAX: u64 = 1_000;

fn seeds(otherwise: u64) -> u64 {
    std::env::var("EVERRING_SIM_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn a_seed_gives_the_same_log_byte_for_byte() {
    for seed in 0..4 {
        let [once, again] = [run(seed, None, true), run(seed, None, true)];
        assert!(once.log.text().len() > 10_000, "the log of seed {seed} is {} bytes", once.log.text().len());
        assert!(once.log.text() == again.log.text(), "two runs of seed {seed} differ");
        assert_eq!(once.counts, again.counts);
        assert_eq!(once.log.fingerprint(), run(seed, None, false).log.fingerprint(), "keeping the log changes nothing");
    }
}

#[test]
fn what_a_session_has_seen_in_one_contract_stays_visible_to_it_in_the_other() {
    let (count, mut counts) = (seeds(300), Counts::default());
    for seed in 0..count {
        let report = run(seed, None, false);
        assert_eq!(report.violation.map(|found| found.to_string()), None, "seed {seed}\n{}", report.swarm);
        counts.add(&report.counts);
    }
    println!("{count} schedules: {counts:?}");
    // Quiet runs prove nothing; and a read that asks a majority would show all that there is, whatever the token says.
    let each = [counts.faults, counts.local_available, counts.local_ordered, counts.crossings];
    assert!(each.iter().all(|seen| *seen >= 2 * count), "{counts:?}");
    // In a quarter of them nodes join and leave, and in an eighth some are lost with their disks.
    assert!(counts.changes >= count && 2 * counts.disks_lost >= count / 8, "{counts:?}");
}

#[test]
fn litmus_outcomes_across_the_contracts_are_not_seen() {
    let count = seeds(40);
    for placing in Placing::ALL {
        for test in ACROSS {
            let mut shown = Shown::default();
            for seed in 0..count {
                match run_litmus(seed, test, placing, None) {
                    Ok(seen) => shown.add(seen),
                    Err(violation) => panic!("{}, {}, seed {seed}: {violation}", test.name, placing.name()),
                }
            }
            println!("{}, {}: {} of {} rounds", test.name, placing.name(), shown.outcomes, shown.rounds);
            assert!(shown.rounds >= 8 * count, "{}: only {} rounds were whole", test.name, shown.rounds);
            assert!(!test.allowed_at(Level::Causal) && shown.outcomes == 0, "{}, {}", test.name, placing.name());
        }
    }
}

#[test]
fn each_planted_bug_is_found() {
    let found = |planted| (0..SEEDS_MAX).find_map(|seed| Some((seed, run(seed, Some(planted), false).violation?)));
    let mut missed = Vec::new();
    for planted in Planted::ALL {
        match found(planted) {
            Some((seed, violation)) => println!("{planted:?}: seed {seed}: {violation}"),
            None => missed.push(planted),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds: {missed:?}");
}

/// The tests see by themselves what a session loses on its way, not only the judge of whole histories.
#[test]
fn each_bug_on_the_way_from_one_contract_to_the_other_is_seen_by_a_litmus_test() {
    let mp = ACROSS.iter().find(|test| test.name == "MP").expect("message passing");
    let cases = [
        (Planted::OrderedDropped, Placing::OddOrdered),
        (Planted::LaggingRead, Placing::OddOrdered),
        (Planted::AvailableDropped, Placing::EvenOrdered),
    ];
    for (planted, placing) in cases {
        let is_seen = |seed: &u64| run_litmus(*seed, mp, placing, Some(planted)).is_ok_and(|shown| shown.outcomes > 0);
        let seed = (0..SEEDS_MAX).find(is_seen);
        println!("{planted:?}, {}: seed {seed:?}", placing.name());
        assert!(seed.is_some(), "{planted:?}: not seen in {SEEDS_MAX} seeds, {}", placing.name());
    }
}

/// This broke something once: a home showed a write that it had made while it lacked what had led to that.
#[test]
fn what_was_found_stays_mended() {
    let broken = |planted| run(14_701, planted, false).violation.map(|found| found.invariant);
    assert_eq!(broken(None), None);
    assert_eq!(broken(Some(Planted::LedUnheard)), Some("causal_across_contracts"));
}
