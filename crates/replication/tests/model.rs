//! The model check: every way that a few operations on three replicas can go, with the production step functions.

use replication::testing::explore::explore;
use replication::testing::scopes::{FIRST_WAYS, PLANTED, Planted, SHORT};

#[test]
fn every_way_within_the_short_scopes_keeps_the_levels() {
    for named in &SHORT {
        let found = explore(&named.scope, None);
        println!(
            "{}: {} states, depth {}, {} steps, {} histories; {} states after a drop, {} after a change",
            named.name, found.states, found.depth, found.steps, found.histories, found.dropped, found.changed
        );
        if let Some((sentence, way)) = &found.violation {
            panic!("{}: not so: {sentence}\n{}", named.name, way.join("\n"));
        }
        assert!(found.complete, "{}: only {} states were reached", named.name, found.states);
        assert!(found.histories > 0, "{}: nobody was told anything", named.name);
        assert!(named.scope.passes == 0 || found.dropped > 0, "{}: no tombstone was dropped", named.name);
    }
}

/// Too many ways to go them all within a minute: as far as this goes, nothing is broken.
#[test]
fn the_first_ways_of_a_replacement_keep_the_levels() {
    let found = explore(&FIRST_WAYS.scope, None);
    println!("{} states, depth {}, {} after the change", found.states, found.depth, found.changed);
    assert_eq!(found.violation, None);
    assert!(found.changed > 0, "no change has ended");
}

#[test]
fn each_planted_rule_is_found() {
    let mut missed = Vec::new();
    for Planted { name, rule, scope } in &PLANTED {
        let found = explore(scope, Some(*rule));
        match found.violation {
            Some((sentence, way)) => {
                println!(
                    "{name}: {} states, depth {}: not so: {sentence}\n  {}",
                    found.states,
                    found.depth,
                    way.join("\n  ")
                );
            }
            None => missed.push(format!("{name} ({} states, complete: {})", found.states, found.complete)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
