//! Histories of a simulated register: valid as they are, and mostly not so after one change.

use checker::generate::{Mix, Settings, history};
use checker::{Limit, Options, Verdict, check_operations};
use history::{Event, EventKind, Function, Operation, Pairing, Value};
use stdx::Prng;

fn paired(events: &[Event]) -> Vec<Operation> {
    let mut pairing = Pairing::default();
    for (index, event) in events.iter().enumerate() {
        pairing.push(index as u64 + 1, event.clone()).expect("a generated history is well formed");
    }
    pairing.finish().operations
}

/// Enough for every history here many times over: a search that explodes fails the test instead of hanging it.
fn options() -> Options {
    Options { limit: Limit::steps(20_000_000), ..Options::default() }
}

fn verdict(events: &[Event]) -> Verdict {
    check_operations(&paired(events), &options()).expect("operations of the model").verdict
}

const REGISTER: Mix = Mix { reads: 40, writes: 30, cas: 20, deletes: 10, adds: 0, appends: 0 };

#[test]
fn a_simulated_register_is_valid_whatever_the_load() {
    let mixes = [
        REGISTER,
        Mix { reads: 10, writes: 80, deletes: 10, ..Mix::default() },
        Mix { reads: 30, cas: 60, writes: 10, ..Mix::default() },
        Mix { reads: 30, adds: 70, ..Mix::default() },
        Mix { reads: 30, adds: 50, deletes: 10, writes: 10, ..Mix::default() },
        Mix { reads: 60, appends: 40, ..Mix::default() },
    ];
    for (number, mix) in mixes.into_iter().enumerate() {
        for seed in 0..12 {
            let clients = [2, 5, 10][seed as usize % 3];
            let unknown_per_mille = [0, 10, 100][seed as usize / 4];
            let settings = Settings { operations: 400, clients, keys: 2, unknown_per_mille, failed_per_mille: 20, mix };
            let events = history(settings, &mut Prng::from_seed(seed));
            assert_eq!(verdict(&events), Verdict::Valid, "mix {number}, seed {seed}");
        }
    }
}

#[test]
fn one_hot_key_with_twenty_clients_is_decided() {
    let settings = Settings {
        operations: 5_000,
        clients: 20,
        keys: 1,
        unknown_per_mille: 20,
        failed_per_mille: 5,
        mix: Mix { reads: 50, writes: 40, cas: 5, deletes: 5, ..Mix::default() },
    };
    let events = history(settings, &mut Prng::from_seed(3));
    assert_eq!(verdict(&events), Verdict::Valid);
}

#[test]
fn a_short_form_of_the_yardstick_is_decided_and_one_seed_names_one_history() {
    let settings = Settings { operations: 10_000, keys: 20, ..Settings::yardstick() };
    let events = history(settings, &mut Prng::from_seed(7));
    assert_eq!(events, history(settings, &mut Prng::from_seed(7)));
    let report = check_operations(&paired(&events), &options()).expect("operations of the model");
    assert_eq!((report.verdict, report.ops, report.decided), (Verdict::Valid, 10_000, 20));
    assert!((50..200).contains(&report.unknown), "{} unknown", report.unknown);
}

/// Changes one answer; false if the history has none to change.
fn mutate(events: &mut [Event], prng: &mut Prng) -> bool {
    let answers = |events: &[Event], f: Function| -> Vec<usize> {
        let of = |(index, event): (usize, &Event)| (event.kind == EventKind::Ok && event.f == f).then_some(index);
        events.iter().enumerate().filter_map(of).collect()
    };
    if prng.one_in(3) {
        let swaps = answers(events, Function::Cas);
        if swaps.is_empty() {
            return false;
        }
        let event = &mut events[swaps[prng.index(swaps.len())]];
        event.applied = event.applied.map(|applied| !applied);
        return true;
    }
    let reads = answers(events, Function::Read);
    if reads.len() < 2 {
        return false;
    }
    let (read, other) = (reads[prng.index(reads.len())], reads[prng.index(reads.len())]);
    if events[read].value == events[other].value {
        return false;
    }
    events[read].value = events[other].value.clone();
    true
}

#[test]
fn most_single_changes_are_caught_and_the_evidence_is_small() {
    let settings =
        Settings { operations: 200, clients: 4, keys: 1, unknown_per_mille: 10, failed_per_mille: 10, mix: REGISTER };
    let (mut changed, mut caught, mut parts) = (0, 0, 0);
    for seed in 0..300 {
        let mut prng = Prng::from_seed(seed);
        let mut events = history(settings, &mut prng);
        if !mutate(&mut events, &mut prng) {
            continue;
        }
        changed += 1;
        let report = check_operations(&paired(&events), &options()).expect("operations of the model");
        assert_ne!(report.verdict, Verdict::Undecided, "seed {seed}");
        if let Some(violation) = report.violations.first() {
            caught += 1;
            parts += violation.operations.len();
            assert!(!violation.operations.is_empty());
        }
    }
    assert!(changed > 200, "only {changed} histories were changed");
    assert!(caught * 5 >= changed * 4, "{caught} of {changed} changes were caught");
    assert!(parts <= caught * 6, "{parts} operations in {caught} violations");
}

#[test]
fn a_lost_write_in_a_long_history_is_found_in_few_operations() {
    let settings = Settings { operations: 4_000, clients: 10, keys: 4, ..Settings::yardstick() };
    let mut events = history(settings, &mut Prng::from_seed(11));
    let last_read =
        events.iter().rposition(|event| event.kind == EventKind::Ok && event.f == Function::Read).expect("many reads");
    let key = events[last_read].key.clone();
    let first_write = events
        .iter()
        .find(|event| event.kind == EventKind::Ok && event.f == Function::Write && event.key == key)
        .expect("many writes");
    events[last_read].value = first_write.value.clone();
    let report = check_operations(&paired(&events), &options()).expect("operations of the model");
    assert_eq!(report.violations.len(), 1);
    let violation = &report.violations[0];
    assert_eq!((&violation.key, violation.line), (&key, last_read as u64 + 1));
    assert_eq!(violation.operations.len(), 3, "{violation:#?}");
    assert!(violation.sentence.contains("had replaced before it began"), "{}", violation.sentence);
    assert_ne!(violation.operations[2].output, Value::Null);
}
