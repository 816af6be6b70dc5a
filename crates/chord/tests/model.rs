//! The model check: every order of events in small rings, with the production step functions.

use chord::rules::{Correct, NoLivenessOnRectify, NoLivenessOnStabilize, NoPullOnJoin, Published2001, SelfInList};
use chord::testing::explore::{Explored, Grain, Scope, explore, find_bug};

const SMALL: Scope = Scope {
    successors: 2,
    founders: 4,
    newcomers: 1,
    crashes: 1,
    leaves: 0,
    seeds: 0,
    grain: Grain::Operations,
    states_max: 400_000,
    repair_one_in: 16,
};

fn holds(name: &str, scope: &Scope) -> Explored {
    let found = explore::<Correct>(scope);
    println!(
        "{name}: {} states, depth {}, {} steps, {} repaired",
        found.states, found.depth, found.steps, found.repaired
    );
    if let Some((violation, way)) = &found.violation {
        panic!("{name}: {violation}\n{}", way.join("\n"));
    }
    found
}

#[test]
fn every_order_of_operations_keeps_the_invariants() {
    let found = holds("five members", &SMALL);
    assert!(found.complete, "only {} states were reached", found.states);
    assert!(found.states > 1_000 && found.repaired > 50, "{found:?}");
}

#[test]
fn every_order_of_messages_keeps_the_invariants() {
    let scope = Scope { founders: 3, newcomers: 1, crashes: 0, grain: Grain::Messages, ..SMALL };
    let found = holds("four members, single messages", &scope);
    assert!(found.complete && found.states > 10_000 && found.repaired > 500, "{found:?}");
}

#[test]
fn leaving_and_being_told_who_lives_keep_the_invariants() {
    let scope = Scope { crashes: 0, leaves: 1, seeds: 1, ..SMALL };
    let found = holds("five members, one leaves", &scope);
    assert!(found.complete && found.states > 1_000 && found.repaired > 50, "{found:?}");
    let without = explore::<Correct>(&Scope { leaves: 0, seeds: 0, ..scope });
    assert!(without.states < found.states / 2, "{} states without: nobody left or was told", without.states);
}

#[test]
fn a_scope_that_is_cut_is_not_complete() {
    let found = explore::<Correct>(&Scope { states_max: 100, ..SMALL });
    assert!(!found.complete && found.violation.is_none(), "{found:?}");
}

#[test]
fn each_planted_protocol_is_found() {
    let found = [
        ("the protocol of 2001", find_bug::<Published2001>()),
        ("no liveness check on stabilize", find_bug::<NoLivenessOnStabilize>()),
        ("no liveness check on rectify", find_bug::<NoLivenessOnRectify>()),
        ("no liveness check on join", find_bug::<NoPullOnJoin>()),
        ("oneself in the list", find_bug::<SelfInList>()),
    ];
    let mut missed = Vec::new();
    for (name, found) in found {
        match found.violation {
            Some((violation, way)) => {
                println!("{name}: {} states, depth {}: {violation}\n  {}", found.states, found.depth, way.join("\n  "));
            }
            None => missed.push(format!("{name} ({} states)", found.states)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
