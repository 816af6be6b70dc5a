//! The ring under faults, many seeds: it keeps its invariants, it heals, and the checks find what was planted.

use chord::rules::{
    Correct, NoHealing, NoLivenessOnRectify, NoLivenessOnStabilize, NoPullOnJoin, Published2001, Rules, SelfInList,
};
use chord::testing::{Kind, Plan, run};

/// Seeds that each variant is given to be found.
const SEEDS_MAX: u64 = 1_000;

fn seeds(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(otherwise)
}

/// The seed that finds the planted variant, and what it finds.
fn found<R: Rules>(kind: Kind) -> (u64, String) {
    let hit = (0..SEEDS_MAX).find_map(|seed| {
        let (_, violation) = run::<R>(&Plan::draw(seed, kind), false).violation?;
        Some((seed, violation.to_string()))
    });
    hit.unwrap_or_else(|| panic!("not found in {SEEDS_MAX} seeds"))
}

#[test]
fn one_seed_gives_the_same_bytes_twice() {
    for kind in [Kind::Accurate, Kind::Wild] {
        let plan = Plan::draw(11, kind);
        let [once, again] = [run::<Correct>(&plan, true), run::<Correct>(&plan, true)];
        assert!(once.log.len() > 10_000, "the log is {} bytes", once.log.len());
        assert!(once == again, "two runs of one seed differ");
    }
}

#[test]
fn the_correct_rules_keep_every_invariant_and_heal() {
    let (mut events, mut crashes, mut slowest) = (0, 0, std::time::Duration::ZERO);
    for seed in 0..seeds("EVERRING_CHORD_SEEDS", 400) {
        let plan = Plan::draw(seed, Kind::Accurate);
        let outcome = run::<Correct>(&plan, false);
        if let Some((at, violation)) = outcome.violation {
            panic!("at {at}: {violation}\n{plan:#?}");
        }
        events += outcome.events;
        crashes += outcome.crashes;
        slowest = slowest.max(outcome.healed_after.expect("a run ends with a violation or an ideal ring"));
    }
    println!("{events} events, {crashes} crashes, slowest healing {slowest:?}");
    assert!(crashes > 400, "only {crashes} crashes: too quiet to prove anything");
}

/// The invariants are the paper's doing: our healing does not hide a breach.
#[test]
fn the_papers_protocol_alone_keeps_every_invariant_and_heals() {
    for seed in 0..seeds("EVERRING_CHORD_SEEDS", 100) {
        let plan = Plan::draw(seed, Kind::Accurate);
        if let Some((at, violation)) = run::<NoHealing>(&plan, false).violation {
            panic!("at {at}: {violation}\n{plan:#?}");
        }
    }
}

#[test]
fn the_ring_heals_even_from_wrong_suspicions_cuts_and_dry_lists() {
    for seed in 0..seeds("EVERRING_CHORD_SEEDS", 300) {
        let plan = Plan::draw(seed, Kind::Wild);
        if let Some((at, violation)) = run::<Correct>(&plan, false).violation {
            panic!("at {at}: {violation}\n{plan:#?}");
        }
    }
}

#[test]
fn each_planted_variant_is_found() {
    let finds = [
        ("Published2001", found::<Published2001>(Kind::Accurate)),
        ("NoLivenessOnStabilize", found::<NoLivenessOnStabilize>(Kind::Accurate)),
        ("NoLivenessOnRectify", found::<NoLivenessOnRectify>(Kind::Accurate)),
        ("NoPullOnJoin", found::<NoPullOnJoin>(Kind::Accurate)),
        ("SelfInList", found::<SelfInList>(Kind::Accurate)),
        ("NoHealing", found::<NoHealing>(Kind::Wild)),
    ];
    for (name, (seed, violation)) in finds {
        println!("{name}: seed {seed}: {violation}");
    }
}
