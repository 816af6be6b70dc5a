//! Level sequential where swaps are denied, and where writes of unknown outcome may be why: a second checker that tries
//! every interleaving, and stores of many keys whose answers no search finds an order for that tries all of them.

mod support;

use std::collections::BTreeMap;

use checker::{Level, Limit, Options, Verdict, check_operations};
use history::{Function, Operation, Value};
use proptest::prelude::*;
use stdx::Prng;

/// What a session asked, and was told; 0 is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read(u32),
    Write(u32),
    Swap(u32, u32, bool),
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    session: usize,
    key: usize,
    what: What,
    unknown: bool,
}

/// The history: nothing is known of real time, but for the order of each session.
fn operations(asked: &[Asked]) -> Vec<Operation> {
    let value = |word: u32| if word == 0 { Value::Null } else { Value::from(i64::from(word)) };
    let operation = |(index, asked): (usize, &Asked)| {
        let (f, input, output, applied) = match asked.what {
            What::Read(shown) => (Function::Read, Value::Null, value(shown), None),
            What::Write(0) => (Function::Delete, Value::Null, Value::Null, None),
            What::Write(new) => (Function::Write, value(new), value(new), None),
            What::Swap(old, new, applied) => {
                let pair = Value::List(vec![value(old), value(new)]);
                (Function::Cas, pair.clone(), pair, (!asked.unknown).then_some(applied))
            }
        };
        let (line, key) = (2 * index as u64 + 1, Value::from(format!("k{}", asked.key)));
        Operation { input, output, applied, ..support::untold(asked.session, f, key, (line, line + 1), asked.unknown) }
    };
    asked.iter().enumerate().map(operation).collect()
}

fn verdict(asked: &[Asked], steps: u64) -> Verdict {
    let options = Options { level: Level::Sequential, limit: Limit::steps(steps), ..Options::default() };
    check_operations(&operations(asked), &options).expect("operations of the model").verdict
}

/// A drawn operation; what it says of values is made to fit by [`fitting`].
type Draw = (usize, usize, u8, u8, u8);

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec((0..3usize, 0..2usize, 0..10u8, 0..8u8, 0..10u8), 1..=8)
}

/// A small history: values are mostly written once, and whoever asks for one asks for one that somebody writes.
fn fitting(draws: &[Draw]) -> Vec<Asked> {
    let mut written: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut asked = Vec::new();
    for (index, &(session, key, what, _, chance)) in draws.iter().enumerate() {
        let new = match chance {
            8 if what == 0 => 0,
            9 if what < 2 => 1,
            _ => index as u32 + 2,
        };
        let what = match what {
            0..4 => What::Write(new),
            4..6 => What::Read(0),
            6..9 => What::Swap(0, new, false),
            _ => What::Swap(0, new, true),
        };
        if what != What::Read(0) {
            written.entry(key).or_default().push(new);
        }
        let unknown = chance < 3 && what != What::Read(0);
        asked.push(Asked { session, key, what, unknown });
    }
    for (asked, &(.., choice, _)) in asked.iter_mut().zip(draws) {
        let choices = written.get(&asked.key).map_or(&[][..], Vec::as_slice);
        let chosen = choices.get(usize::from(choice) % (choices.len() + 1)).copied().unwrap_or(0);
        match &mut asked.what {
            What::Read(seen) | What::Swap(seen, ..) => *seen = chosen,
            What::Write(_) => {}
        }
    }
    asked
}

/// Whether some interleaving of the sessions explains every answer: tries them all.
fn some_interleaving(asked: &[Asked], done: &mut Vec<bool>, state: &mut BTreeMap<usize, u32>) -> bool {
    if asked.iter().zip(done.iter()).all(|(asked, done)| *done || asked.unknown) {
        return true;
    }
    for index in 0..asked.len() {
        let Asked { session, key, what, unknown } = asked[index];
        let blocked = |(earlier, done): (&Asked, &bool)| earlier.session == session && !earlier.unknown && !*done;
        if done[index] || asked[..index].iter().zip(done.iter()).any(blocked) {
            continue;
        }
        let old = state.get(&key).copied().unwrap_or(0);
        let new = match what {
            What::Read(seen) if seen == old => old,
            What::Write(new) => new,
            What::Swap(seen, new, applied) if seen == old && (applied || unknown) => new,
            What::Swap(seen, _, false) if seen != old && !unknown => old,
            What::Read(_) | What::Swap(..) => continue,
        };
        done[index] = true;
        state.insert(key, new);
        let explained = some_interleaving(asked, done, state);
        state.insert(key, old);
        done[index] = false;
        if explained {
            return true;
        }
    }
    false
}

fn is_explained(asked: &[Asked]) -> bool {
    some_interleaving(asked, &mut vec![false; asked.len()], &mut BTreeMap::new())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6_000) })]

    #[test]
    fn trying_every_interleaving_says_the_same(draws in draws()) {
        let asked = fitting(&draws);
        let expected = if is_explained(&asked) { Verdict::Valid } else { Verdict::Violated };
        prop_assert_eq!(verdict(&asked, 2_000_000), expected);
    }
}

/// The comparison is worth something only if both verdicts occur often, also where a swap is denied.
#[test]
fn the_drawn_histories_are_of_both_kinds() {
    let mut prng = Prng::from_seed(1);
    let (mut valid, mut denied) = (0, 0);
    for _ in 0..2_000 {
        let mut draw = |_| {
            let [what, choice, chance] = [10, 8, 10].map(|below| prng.below(below) as u8);
            (prng.index(3), prng.index(2), what, choice, chance)
        };
        let asked = fitting(&(0..7).map(&mut draw).collect::<Vec<Draw>>());
        let explained = is_explained(&asked);
        assert_eq!(verdict(&asked, 2_000_000) == Verdict::Valid, explained, "{asked:#?}");
        if asked.iter().any(|asked| matches!(asked.what, What::Swap(.., false)) && !asked.unknown) {
            denied += 1;
            valid += u32::from(explained);
        }
    }
    assert!(denied > 1_000, "{denied} of 2,000 deny something");
    assert!((denied / 10..=denied * 9 / 10).contains(&valid), "{valid} of {denied} are valid");
}

/// Who need not have taken effect has seen nothing: what it asked for need not have been there.
#[test]
fn an_unknown_swap_is_no_proof_of_what_it_asked_for() {
    let ask = |session, what, unknown| Asked { session, key: 0, what, unknown };
    let mut asked = vec![
        ask(0, What::Write(1), false),
        ask(1, What::Swap(9, 2, true), true),
        ask(2, What::Swap(2, 3, true), true),
        ask(3, What::Write(9), true),
        ask(0, What::Read(1), false),
    ];
    assert!(is_explained(&asked));
    assert_eq!(verdict(&asked, 1_000), Verdict::Valid);
    // Now 9 is overwritten before anybody can have swapped it, and 2 is seen nevertheless.
    asked[3].unknown = false;
    let before = [ask(3, What::Read(1), false), ask(0, What::Read(2), false)];
    asked.extend(before);
    assert_eq!(is_explained(&asked), verdict(&asked, 1_000) == Verdict::Valid);
}

/// Of the writes that may explain a denial, one is to be taken that is of no use for another.
#[test]
fn a_denial_takes_from_the_unknown_writes_what_another_does_not_need() {
    let ask = |session, what, unknown| Asked { session, key: 0, what, unknown };
    let denied = |word| ask(0, What::Swap(word, 50 + word, false), false);
    let write = |word| ask(0, What::Write(word), false);
    let unseen = |session, what| ask(session, what, true);
    // Only a blind write can replace 2.
    let swap_first =
        vec![unseen(1, What::Write(9)), write(1), denied(1), write(2), denied(2), unseen(2, What::Swap(1, 8, true))];
    // Who replaces 1 by 9 has nothing left for 2.
    let undenied_first =
        vec![unseen(1, What::Write(9)), unseen(2, What::Write(7)), write(1), denied(1), denied(9), write(2), denied(2)];
    for asked in [swap_first, undenied_first] {
        assert!(is_explained(&asked));
        assert_eq!(verdict(&asked, 10_000), Verdict::Valid, "{asked:#?}");
        let known = |asked: &Asked| !asked.unknown;
        let first = asked.iter().position(|asked| asked.unknown).expect("two are");
        let fewer: Vec<Asked> = asked.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, a)| *a).collect();
        assert_eq!(is_explained(&fewer), verdict(&fewer, 10_000) == Verdict::Valid, "{fewer:#?}");
        let none: Vec<Asked> = asked.iter().copied().filter(known).collect();
        assert_eq!((is_explained(&none), verdict(&none, 10_000)), (false, Verdict::Violated), "{none:#?}");
    }
}

/// A store of one order, whose clients read from replicas that lag, swap what they saw last, and often never hear what
/// became of their writes; then they go on as somebody else.
fn store(count: usize, keys: usize, prng: &mut Prng) -> Vec<Asked> {
    const CLIENTS: usize = 7;
    let mut log: Vec<(usize, u32)> = Vec::new();
    let (mut at, mut session) = ([0; CLIENTS], std::array::from_fn::<usize, CLIENTS, _>(|client| client));
    let mut sessions = CLIENTS;
    let mut seen: BTreeMap<(usize, usize), u32> = BTreeMap::new();
    let mut asked = Vec::new();
    let stands = |log: &[(usize, u32)], key| log.iter().rev().find(|(of, _)| *of == key).map_or(0, |(_, word)| *word);
    for serial in 1..=count as u32 {
        let (client, key) = (prng.index(CLIENTS), prng.index(keys));
        let mut unknown = false;
        let what = if prng.one_in(2) {
            at[client] += prng.index(log.len() - at[client] + 1).min(6);
            What::Read(stands(&log[..at[client]], key))
        } else {
            unknown = prng.one_in(3);
            let acts = !unknown || prng.one_in(2);
            let head = stands(&log, key);
            let old = seen.get(&(client, key)).copied().filter(|_| prng.one_in(2));
            let applied = old.is_none_or(|old| old == head);
            if acts && applied {
                log.push((key, serial));
            }
            old.map_or(What::Write(serial), |old| What::Swap(old, serial, applied))
        };
        asked.push(Asked { session: session[client], key, what, unknown });
        match what {
            _ if unknown => {
                (session[client], at[client]) = (sessions, log.len() - prng.index(log.len() + 1).min(9));
                sessions += 1;
                continue;
            }
            What::Read(word) => drop(seen.insert((client, key), word)),
            What::Write(word) | What::Swap(_, word, true) => drop(seen.insert((client, key), word)),
            What::Swap(..) => {}
        }
        if !matches!(what, What::Read(_)) {
            at[client] = log.len();
        }
    }
    asked
}

#[test]
fn denials_and_unknown_writes_on_many_keys_are_decided() {
    for seed in 0..60 {
        let mut asked = store(360, 20, &mut Prng::from_seed(seed));
        assert_eq!(verdict(&asked, 200_000), Verdict::Valid, "seed {seed}");
        // Of a key of its own: what it wrote is denied to it, and nobody else can have replaced it.
        let (key, session) = (77, 3_000);
        let ask = |session, what, unknown| Asked { session, key, what, unknown };
        let denied = [ask(session, What::Write(9_001), false), ask(session, What::Swap(9_001, 9_002, false), false)];
        let middle = asked.len() / 2;
        asked.splice(middle..middle, denied);
        assert_eq!(verdict(&asked, 200_000), Verdict::Violated, "seed {seed}");
        asked.insert(0, ask(session + 1, What::Write(9_003), true));
        assert_eq!(verdict(&asked, 200_000), Verdict::Valid, "seed {seed}: it may have been replaced");
    }
}
