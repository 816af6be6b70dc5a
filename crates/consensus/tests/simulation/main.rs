//! Replicas in virtual time, over disks that forget and a network that loses: what must hold, holds after each event;
//! and each planted bug is found.

mod clients;
mod judge;
mod world;

use consensus::{Rules, Sound, planted};
use world::World;

/// What a seed's run came to.
fn run<R: Rules>(seed: u64) -> Result<String, String> {
    World::<R>::new(seed).run()
}

/// Runs seeds until one breaks what must hold. A replica whose own invariants break ends itself: that is a finding too.
fn is_found<R: Rules>(seeds: u64) -> Option<(u64, String)> {
    (1..=seeds).find_map(|seed| {
        let ended = std::panic::catch_unwind(|| run::<R>(seed));
        let outcome = ended.unwrap_or_else(|_| Err("a replica ended itself: its state made no sense".to_owned()));
        outcome.err().map(|why| (seed, why))
    })
}

fn assert_found<R: Rules>(name: &str) {
    let found = is_found::<R>(400);
    let (seed, why) = found.unwrap_or_else(|| panic!("the planted bug {name} was not found in 400 seeds"));
    println!("{name}: seed {seed}: {why}");
}

#[test]
fn the_promises_hold() {
    // More of them: SEEDS=10000 cargo test -p consensus --test simulation the_promises
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for seed in 1..=seeds {
        if let Err(why) = run::<Sound>(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn a_seed_names_one_run() {
    for seed in [3, 8] {
        assert_eq!(run::<Sound>(seed), run::<Sound>(seed));
    }
}

#[test]
fn acknowledging_before_the_sync_is_found() {
    assert_found::<planted::AckBeforeSync>("ack-before-sync");
}

#[test]
fn acting_again_on_a_retry_is_found() {
    assert_found::<planted::RetryTwice>("retry-twice");
}

#[test]
fn reading_from_a_believed_leader_is_found() {
    assert_found::<planted::BelievedLeaderRead>("believed-leader-read");
}

#[test]
fn a_clock_that_runs_on_is_found() {
    assert_found::<planted::ClockRunsOn>("clock-runs-on");
}

#[test]
fn an_image_without_its_deadlines_is_found() {
    assert_found::<planted::FreshDeadlines>("fresh-deadlines");
}

#[test]
fn not_hearing_out_who_is_to_go_is_found() {
    assert_found::<planted::DeafToTheLeaving>("deaf-to-the-leaving");
}

#[test]
fn a_configuration_that_is_forgotten_is_found() {
    assert_found::<planted::ConfigurationForgotten>("configuration-forgotten");
}
