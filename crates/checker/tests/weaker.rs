//! The levels below strict and the models that go with them: known histories, the litmus table, second checkers that
//! try everything on small histories, and planted bugs.

mod support;

use std::collections::BTreeMap;

use checker::litmus::{self, Litmus, Step};
use checker::{Guarantee, Level, Limit, Model, Options, Report, Verdict, check, check_operations, session_guarantees};
use history::{Operation, Value};
use proptest::prelude::*;
use support::{Asked, jsonl, operations};

fn judged(model: Model, level: Level, script: &str) -> Report {
    let options = Options { model, level, limit: Limit::steps(2_000_000), ..Options::default() };
    check(jsonl(script).as_bytes(), &options).expect("a readable history")
}

fn verdict(level: Level, operations: &[Operation]) -> Verdict {
    let options = Options { level, limit: Limit::steps(2_000_000), ..Options::default() };
    check_operations(operations, &options).expect("operations of the model").verdict
}

/// The history in which a litmus test had this outcome.
fn litmus_history(test: &Litmus, outcome: &[u8]) -> Vec<Operation> {
    let mut shown = outcome.iter();
    let mut asked = Vec::new();
    for (session, steps) in test.sessions.iter().enumerate() {
        for step in *steps {
            asked.push(match step {
                Step::Write(key, value) => Asked::write(session, *key, *value),
                Step::Read(key) => Asked::read(session, *key, *shown.next().expect("one value a read")),
            });
        }
    }
    operations(&asked, test.one_after_another)
}

#[test]
fn every_litmus_outcome_is_forbidden_from_its_level_on_and_allowed_below() {
    for test in litmus::ALL.iter().chain(litmus::ACROSS) {
        assert_eq!(test.outcome.len(), test.reads(), "{}", test.name);
        let history = litmus_history(test, test.outcome);
        for level in [Level::Causal, Level::Sequential, Level::Strict] {
            let found = verdict(level, &history);
            // Strict is judged key by key, in real time; these run side by side unless they wait.
            if level == Level::Strict && !test.one_after_another {
                continue;
            }
            let expected = if test.allowed_at(level) { Verdict::Valid } else { Verdict::Violated };
            assert_eq!(found, expected, "{} at level {level}", test.name);
        }
    }
}

#[test]
fn the_session_guarantees_are_told_apart() {
    let of = |name: &str| {
        let test = litmus::ALL.iter().find(|test| test.name == name).expect("a test of this name");
        let broken = session_guarantees(&litmus_history(test, test.outcome)).expect("operations of the model");
        broken.first().map(|broken| broken.guarantee)
    };
    assert_eq!(of("RYW"), Some(Guarantee::ReadYourWrites));
    assert_eq!(of("MR"), Some(Guarantee::MonotonicReads));
    assert_eq!(of("MP"), Some(Guarantee::MonotonicWrites));
    assert_eq!(of("MW"), Some(Guarantee::MonotonicWrites));
    assert_eq!(of("WFR"), Some(Guarantee::WritesFollowReads));
    assert_eq!(of("LB"), Some(Guarantee::Causality));
    assert_eq!(of("SB"), None);
}

#[test]
fn a_sequential_history_may_be_stale_but_not_inconsistent() {
    let stale = "0 invoke write x 1
         0 ok write x 1
         1 invoke read x
         1 ok read x null";
    assert_eq!(judged(Model::Register, Level::Strict, stale).verdict, Verdict::Violated);
    assert_eq!(judged(Model::Register, Level::Sequential, stale).verdict, Verdict::Valid);
    let report = judged(
        Model::Register,
        Level::Sequential,
        "5 invoke write z 9
         5 ok write z 9
         0 invoke write x 1
         0 ok write x 1
         0 invoke read y
         0 ok read y null
         5 invoke read z
         5 ok read z 9
         1 invoke write y 1
         1 ok write y 1
         1 invoke read x
         1 ok read x null",
    );
    assert_eq!(report.verdict, Verdict::Violated);
    let parts = &report.violations[0].operations;
    assert_eq!(parts.len(), 4, "store buffering, and no word of z: {parts:#?}");
    assert_eq!(report.violations[0].trace_ids.len(), 4);
}

#[test]
fn an_unknown_write_counts_once_it_was_seen() {
    let script = |last: &str| {
        format!(
            "0 invoke write x 1
             0 info write x 1
             1 invoke read x
             1 ok read x 1
             1 invoke read x
             1 ok read x {last}"
        )
    };
    for level in [Level::Causal, Level::Sequential] {
        assert_eq!(judged(Model::Register, level, &script("1")).verdict, Verdict::Valid);
        assert_eq!(judged(Model::Register, level, &script("null")).verdict, Verdict::Violated);
    }
}

#[test]
fn appends_that_tell_their_result_are_judged_and_those_that_do_not_are_left_out() {
    let script = |seen: &str| {
        format!(
            "0 invoke write x \"-\"
             0 ok write x \"-\"
             0 invoke append x \"a\"
             0 ok append x \"-a\"
             1 invoke append x \"b\"
             1 ok append x \"-ab\"
             1 invoke read x
             1 ok read x {seen}"
        )
    };
    let verdict = |seen: &str| judged(Model::Register, Level::Sequential, &script(seen)).verdict;
    assert_eq!(verdict("\"-ab\""), Verdict::Valid);
    assert_eq!(verdict("\"-a\""), Verdict::Violated, "it goes back behind its own append");
    let untold = "0 invoke append x \"a\"\n0 ok append x \"a\"\n0 invoke read x\n0 ok read x \"a\"";
    let report = judged(Model::Register, Level::Sequential, untold);
    assert_eq!((report.verdict, report.left_out), (Verdict::Undecided, 2), "an answer that repeats its argument");
}

#[test]
fn siblings_are_all_shown_or_replaced() {
    let script = |last: &str| {
        format!(
            "0 invoke write x 1
             1 invoke write x 2
             0 ok write x 1
             1 ok write x 2
             2 invoke read x
             2 ok read x [1,2]
             2 invoke read x
             2 ok read x {last}"
        )
    };
    assert_eq!(judged(Model::Register, Level::Causal, &script("[2,1]")).verdict, Verdict::Valid);
    let lost = judged(Model::Register, Level::Causal, &script("1"));
    assert_eq!(lost.verdict, Verdict::Violated);
    assert!(lost.violations[0].sentence.contains("neither shown nor replaced"), "{}", lost.violations[0].sentence);
}

/// Verdicts on a script whose end varies.
fn verdicts(level: Level, script: &str, ends: &[(&str, Verdict)]) {
    for (end, expected) in ends {
        let report = judged(Model::Register, level, &format!("{script}\n{end}"));
        assert_eq!(report.verdict, *expected, "at level {level}, {end}: {:#?}", report.violations);
    }
}

#[test]
fn a_list_of_one_or_none_is_what_stays_side_by_side() {
    let own = "0 invoke write x 1\n0 ok write x 1\n0 invoke read x";
    verdicts(Level::Causal, own, &[("0 ok read x [1]", Verdict::Valid), ("0 ok read x []", Verdict::Violated)]);
    verdicts(Level::Causal, own, &[("0 ok read x [2]", Verdict::Violated), ("0 ok read x [1,2]", Verdict::Violated)]);
    // Who promises one order shows one value.
    for one_order in [Level::Sequential, Level::Strict] {
        let ends = [("0 ok read x 1", Verdict::Valid), ("0 ok read x [1]", Verdict::Violated)];
        verdicts(one_order, own, &ends);
        verdicts(one_order, own, &[("0 ok read x []", Verdict::Violated)]);
    }
    // A list that was written as a list is one value.
    let list = "0 invoke write x [1]\n0 ok write x [1]\n1 invoke write x 1\n1 ok write x 1\n0 invoke read x";
    verdicts(Level::Causal, list, &[("0 ok read x [1]", Verdict::Valid), ("0 ok read x []", Verdict::Violated)]);
    verdicts(Level::Sequential, list, &[("0 ok read x [1]", Verdict::Valid)]);
    let settled = "0 invoke write x 1\n0 ok write x 1\n\"nemesis\" info settled x\n1 invoke read x";
    verdicts(Level::Eventual, settled, &[("1 ok read x [1]", Verdict::Valid), ("1 ok read x []", Verdict::Violated)]);
}

/// `api.md`: a `PUT` settles what its client saw. What led to it otherwise was not seen, and stays beside it.
#[test]
fn a_write_takes_the_place_of_what_its_session_saw_of_the_key() {
    // Session 1 knows of `x` by way of `y` only.
    let told = "0 invoke write x 1
         0 ok write x 1
         0 invoke write y 7
         0 ok write y 7
         1 invoke read y
         1 ok read y 7
         1 invoke write x 2
         1 ok write x 2
         2 invoke read x";
    verdicts(Level::Causal, told, &[("2 ok read x [1,2]", Verdict::Valid)]);
    let own = told.replace("2 invoke", "1 invoke");
    verdicts(Level::Causal, &own, &[("1 ok read x [1,2]", Verdict::Valid), ("1 ok read x [1]", Verdict::Violated)]);
    // On a key of single values there is one order, and what led to a write comes before it.
    verdicts(Level::Causal, &own, &[("1 ok read x 2", Verdict::Valid), ("1 ok read x 1", Verdict::Violated)]);
    // Now session 1 has seen it.
    let seen = told.replace("1 invoke read y\n         1 ok read y 7", "1 invoke read x\n         1 ok read x [1]");
    assert_ne!(seen, told);
    let ends = [
        ("2 ok read x [2]", Verdict::Valid),
        ("2 ok read x [1]", Verdict::Valid),
        ("2 ok read x [1,2]", Verdict::Violated),
    ];
    verdicts(Level::Causal, &seen, &ends);
    // And who wrote both has.
    let both = "0 invoke write x 1\n0 ok write x 1\n0 invoke write x 2\n0 ok write x 2\n2 invoke read x";
    verdicts(Level::Causal, both, &[("2 ok read x [2]", Verdict::Valid), ("2 ok read x [1,2]", Verdict::Violated)]);
}

#[test]
fn a_deletion_leaves_nothing_to_show_but_excuses_no_earlier_read() {
    let deleted = "0 invoke write x 1
         0 ok write x 1
         1 invoke read x
         1 ok read x [1]
         1 invoke delete x
         1 OUTCOME delete x";
    for (outcome, still_there) in [("ok", Verdict::Violated), ("info", Verdict::Valid)] {
        let deleted = deleted.replace("OUTCOME", outcome);
        let reader = if outcome == "ok" { "1" } else { "0" };
        let script = format!("{deleted}\n{reader} invoke read x");
        let gone = format!("{reader} ok read x []");
        let there = format!("{reader} ok read x [1]");
        verdicts(Level::Causal, &script, &[(&gone, Verdict::Valid), (&there, still_there)]);
        // A value written beside it stays.
        let beside = format!("{deleted}\n2 invoke write x 3\n2 ok write x 3\n2 invoke read x");
        let ends = [("2 ok read x [3]", Verdict::Valid), ("2 ok read x []", Verdict::Violated)];
        verdicts(Level::Causal, &beside, &ends);
    }
    // The value was missed before it was deleted, by the very session that deleted it then.
    let early = "0 invoke write x 1
         0 ok write x 1
         0 invoke read x
         0 ok read x SHOWN
         0 invoke delete x
         0 ok delete x";
    verdicts(Level::Causal, &early.replace("SHOWN", "[1]"), &[("", Verdict::Valid)]);
    verdicts(Level::Causal, &early.replace("SHOWN", "[]"), &[("", Verdict::Violated)]);
}

#[test]
fn at_the_end_only_a_deletion_can_have_acted_unnoticed() {
    let script = |what: &str| {
        format!(
            "0 invoke write x 1
             0 ok write x 1
             1 invoke read x
             1 ok read x [1]
             1 invoke {what}
             1 info {what}
             \"nemesis\" info settled x
             2 invoke read x"
        )
    };
    let deletion = script("delete x");
    verdicts(Level::Eventual, &deletion, &[("2 ok read x []", Verdict::Valid), ("2 ok read x [1]", Verdict::Valid)]);
    let write = script("write x 2");
    let ends = [
        ("2 ok read x [1]", Verdict::Valid),
        ("2 ok read x [2]", Verdict::Valid),
        ("2 ok read x []", Verdict::Violated),
    ];
    verdicts(Level::Eventual, &write, &ends);
}

/// Who sees nothing may have seen the beginning: that is no proof of having seen somebody else's deletion.
#[test]
fn whose_deletion_was_seen_is_known_of_ones_own_only() {
    let script = |writer: &str| {
        format!(
            "0 invoke write x 1
             0 ok write x 1
             0 invoke delete x
             0 ok delete x
             {writer} invoke read x
             {writer} ok read x null
             {writer} invoke write x 2
             {writer} ok write x 2
             \"nemesis\" info settled x
             3 invoke read x"
        )
    };
    let ends =
        |gone| [("3 ok read x 2", Verdict::Valid), ("3 ok read x null", gone), ("3 ok read x 1", Verdict::Violated)];
    verdicts(Level::Eventual, &script("1"), &ends(Verdict::Valid));
    verdicts(Level::Eventual, &script("0"), &ends(Verdict::Violated));
}

#[test]
fn replicas_that_do_not_converge_and_deleted_values_that_come_back_are_found() {
    let script = |a: &str, b: &str| {
        format!(
            "0 invoke write x 1
             0 ok write x 1
             0 invoke delete x
             0 ok delete x
             \"nemesis\" info settled x
             1 invoke read x
             1 ok read x {a}
             2 invoke read x
             2 ok read x {b}"
        )
    };
    let verdict = |a, b| judged(Model::Register, Level::Eventual, &script(a, b)).verdict;
    assert_eq!(verdict("null", "null"), Verdict::Valid);
    assert_eq!(verdict("null", "1"), Verdict::Violated);
    let back = judged(Model::Register, Level::Eventual, &script("1", "1"));
    assert!(back.violations[0].sentence.contains("come back"), "{:#?}", back.violations);
    let no_reads = "0 invoke write x 1\n0 ok write x 1";
    assert_eq!(judged(Model::Register, Level::Eventual, no_reads).verdict, Verdict::Undecided);
}

#[test]
fn sets_and_counters_are_complete_at_the_end() {
    let set = |last: &str| {
        format!("0 invoke add x 1\n0 ok add x 1\n0 invoke add x 2\n0 info add x 2\n1 invoke read x\n1 ok read x {last}")
    };
    let verdict = |model, level, script: &str| judged(model, level, script).verdict;
    for good in ["[1]", "[1,2]"] {
        assert_eq!(verdict(Model::Set, Level::Eventual, &set(good)), Verdict::Valid, "{good}");
    }
    for bad in ["[2]", "[1,3]", "null"] {
        assert_eq!(verdict(Model::Set, Level::Eventual, &set(bad)), Verdict::Violated, "{bad}");
    }
    assert_eq!(verdict(Model::Set, Level::Sequential, &set("null")), Verdict::Valid, "stale, but in order");
    for (last, expected) in
        [("1", Verdict::Valid), ("3", Verdict::Valid), ("2", Verdict::Valid), ("0", Verdict::Violated)]
    {
        assert_eq!(verdict(Model::Counter, Level::Eventual, &set(last)), expected, "{last}");
    }
    let own = "0 invoke add x 1\n0 ok add x 1\n0 invoke read x\n0 ok read x null";
    assert_eq!(verdict(Model::Set, Level::Causal, own), Verdict::Violated);
    assert_eq!(verdict(Model::Counter, Level::Causal, own), Verdict::Violated);
    let twisted = "0 invoke add x 1\n0 ok add x 1\n1 invoke add x 2\n1 ok add x 2
         2 invoke read x\n2 ok read x [1]\n3 invoke read x\n3 ok read x [2]";
    assert_eq!(verdict(Model::Set, Level::Sequential, twisted), Verdict::Violated);
    assert_eq!(verdict(Model::Set, Level::Causal, twisted), Verdict::Valid);
}

#[test]
fn a_lock_has_one_holder_and_growing_tokens() {
    let verdict = |script: &str| judged(Model::Lock, Level::Strict, script).verdict;
    let held = "0 invoke acquire l\n0 ok acquire l 1\n1 invoke acquire l";
    assert_eq!(verdict(&format!("{held}\n1 fail acquire l")), Verdict::Valid);
    assert_eq!(verdict(&format!("{held}\n1 ok acquire l 2")), Verdict::Violated, "two holders");
    let released = "0 invoke acquire l\n0 ok acquire l 1\n0 invoke release l\n0 ok release l\n1 invoke acquire l";
    assert_eq!(verdict(&format!("{released}\n1 ok acquire l 2")), Verdict::Valid);
    assert_eq!(verdict(&format!("{released}\n1 ok acquire l 1")), Verdict::Violated, "a token twice");
    let slept =
        "0 invoke acquire l\n0 info acquire l\n1 invoke acquire l\n1 ok acquire l 2\n1 invoke use l 2\n1 ok use l 2";
    assert_eq!(verdict(slept), Verdict::Valid);
    assert_eq!(verdict(&format!("{slept}\n9 invoke use l 1\n9 ok use l 1")), Verdict::Violated, "an old token");
    assert_eq!(verdict(&format!("{slept}\n9 invoke use l 1\n9 fail use l 1")), Verdict::Valid);
}

#[test]
fn a_refusal_for_a_token_needs_a_greater_one_that_may_be_there() {
    let verdict = |lines: &[(u8, &str, &str, &str)]| {
        let line = |(process, kind, f, rest): &(u8, &str, &str, &str)| {
            format!("{{\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\"key\":\"l\",\"value\":{rest}}}\n")
        };
        let text: String = lines.iter().map(line).collect();
        check(text.as_bytes(), &Options { model: Model::Lock, ..Options::default() }).expect("readable").verdict
    };
    let refused = [(0, "invoke", "use", "{\"fence\":1}"), (0, "ok", "use", "{\"fence\":1},\"applied\":false")];
    let held = [(0, "invoke", "acquire", "null"), (0, "ok", "acquire", "1")];
    let then =
        |more: &[(u8, &'static str, &'static str, &'static str)]| verdict(&[&held[..], more, &refused[..]].concat());
    assert_eq!(then(&[]), Verdict::Violated);
    let released = [(0, "invoke", "release", "{\"fence\":1}"), (0, "ok", "release", "null")];
    let again = [(1, "invoke", "acquire", "null"), (1, "ok", "acquire", "2")];
    assert_eq!(then(&[&released[..], &again[..]].concat()), Verdict::Valid);
    assert_eq!(then(&[&released[..], &[again[0]], &[(1, "info", "acquire", "null")]].concat()), Verdict::Valid);
    assert_eq!(then(&[&[again[0]][..], &[(1, "fail", "acquire", "null")]].concat()), Verdict::Violated);
}

#[test]
fn a_renewed_lease_lasts_longer_and_who_renews_still_holds() {
    let line = |process: u8, kind: &str, f: &str, value: &str, ms: u64| {
        let fields = format!("\"f\":\"{f}\",\"key\":\"l\",\"value\":{value},\"time\":{}", ms * 1_000_000);
        format!("{{\"process\":{process},\"type\":\"{kind}\",{fields}}}\n")
    };
    let grant = |fence: u8| format!("{{\"fence\":{fence},\"ttl_ms\":10}}");
    let acquired = |process: u8, ms: u64| {
        line(process, "invoke", "acquire", "null", ms) + &line(process, "ok", "acquire", &grant(process + 1), ms)
    };
    let renewed = |ms: u64| line(0, "invoke", "renew", &grant(1), ms) + &line(0, "ok", "renew", &grant(1), ms);
    let options = || Options { model: Model::Lock, ..Options::default() };
    let verdict = |text: String| check(text.as_bytes(), &options()).expect("readable").verdict;
    assert_eq!(verdict(acquired(0, 0) + &renewed(8) + &acquired(1, 12)), Verdict::Violated, "it lasts until 18");
    assert_eq!(verdict(acquired(0, 0) + &renewed(8) + &acquired(1, 19)), Verdict::Valid);
    assert_eq!(verdict(acquired(0, 0) + &acquired(1, 12) + &renewed(13)), Verdict::Violated, "another holds it");
    let unknown = line(0, "invoke", "renew", &grant(1), 8) + &line(0, "info", "renew", "null", 9);
    assert_eq!(verdict(acquired(0, 0) + &unknown + &acquired(1, 12)), Verdict::Valid, "it may never have acted");
}

#[test]
fn a_lease_runs_out_by_time_and_not_before() {
    let line = |process: u8, kind: &str, value: &str, time: u64| {
        let fields = format!("\"f\":\"acquire\",\"key\":\"l\",\"value\":{value},\"time\":{time}");
        format!("{{\"process\":{process},\"type\":\"{kind}\",{fields}}}\n")
    };
    let history = |second_ns: u64| {
        let grant = "{\"fence\":1,\"ttl_ms\":10}";
        line(0, "invoke", "null", 0)
            + &line(0, "ok", grant, 1_000)
            + &line(1, "invoke", "null", second_ns)
            + &line(1, "ok", "{\"fence\":2,\"ttl_ms\":10}", second_ns + 1_000)
    };
    let options = || Options { model: Model::Lock, ..Options::default() };
    let verdict = |second_ns| check(history(second_ns).as_bytes(), &options()).expect("readable").verdict;
    assert_eq!(verdict(5_000_000), Verdict::Violated);
    assert_eq!(verdict(10_000_001), Verdict::Valid);
}

#[test]
fn keys_written_at_a_weaker_level_are_left_out_and_counted() {
    let text = r#"{"process":0,"type":"invoke","f":"write","key":"k","value":1,"level":"eventual"}
{"process":0,"type":"ok","f":"write","key":"k","value":1}
{"process":0,"type":"invoke","f":"read","key":"k","level":"causal"}
{"process":0,"type":"ok","f":"read","key":"k","value":null}"#;
    let options = Options { level: Level::Causal, ..Options::default() };
    let report = check(text.as_bytes(), &options).expect("readable");
    assert_eq!((report.left_out, report.verdict), (2, Verdict::Undecided), "nothing was left to judge");
}

/// A small history at random: few sessions, few keys, values that are each written once, reads of anything.
fn small() -> impl Strategy<Value = Vec<Asked>> {
    let step = (0..3usize, 0..2u8, 0..6u8, 0..10u8);
    prop::collection::vec(step, 1..=7).prop_map(|steps| {
        let mut written: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut asked = Vec::new();
        for (index, (session, key, what, outcome)) in steps.iter().enumerate() {
            if *what < 3 {
                let value = if *what == 0 && index % 3 == 0 { 0 } else { index as u8 + 1 };
                written.entry(*key).or_default().push(value);
                let mut write = Asked::write(*session, *key, value);
                write.unknown = *outcome == 0;
                asked.push(write);
            } else {
                asked.push(Asked::read(*session, *key, *outcome));
            }
        }
        // Reads show something that was written to the key, or nothing.
        for read in asked.iter_mut().filter(|asked| asked.read.is_some()) {
            let choices = written.get(&read.key).cloned().unwrap_or_default();
            let draw = usize::from(read.read.unwrap_or(0)) % (choices.len() + 1);
            read.read = Some(choices.get(draw).copied().unwrap_or(0));
        }
        asked
    })
}

/// Whether some interleaving of the sessions explains every read: tries them all.
fn some_interleaving(asked: &[Asked], done: &mut Vec<bool>, state: &mut BTreeMap<u8, u8>) -> bool {
    if asked.iter().zip(done.iter()).all(|(asked, done)| *done || asked.unknown) {
        return true;
    }
    for index in 0..asked.len() {
        let blocked = |(earlier, before): (&Asked, &bool)| {
            earlier.session == asked[index].session && !earlier.unknown && !*before
        };
        if done[index] || asked[..index].iter().zip(done.iter()).any(blocked) {
            continue;
        }
        let step = asked[index];
        let old = state.get(&step.key).copied().unwrap_or(0);
        if step.read.is_some_and(|read| read != old) {
            continue;
        }
        done[index] = true;
        if step.read.is_none() {
            state.insert(step.key, step.value);
        }
        let explained = some_interleaving(asked, done, state);
        state.insert(step.key, old);
        done[index] = false;
        if explained {
            return true;
        }
    }
    false
}

/// Causal convergence by its definition, on histories whose values are each written once: some order of all writes,
/// such that each read shows the last write, in that order, of those of its key that led to it.
fn some_arbitration(asked: &[Asked]) -> bool {
    let n = asked.len();
    let mut led = vec![vec![false; n]; n];
    for b in 0..n {
        for a in 0..b {
            led[a][b] |= asked[a].session == asked[b].session && !asked[b].unknown && !asked[a].unknown;
            // Whoever is unknown comes after what its session did before.
            led[a][b] |= asked[a].session == asked[b].session && asked[b].unknown && !asked[a].unknown;
        }
    }
    for (r, read) in asked.iter().enumerate() {
        let Some(value) = read.read.filter(|value| *value != 0) else { continue };
        let Some(w) = asked.iter().position(|w| w.read.is_none() && w.key == read.key && w.value == value) else {
            return false;
        };
        led[w][r] = true;
    }
    for k in 0..n {
        for a in 0..n {
            for b in 0..n {
                led[a][b] |= led[a][k] && led[k][b];
            }
        }
    }
    if (0..n).any(|a| led[a][a]) {
        return false;
    }
    let writes: Vec<usize> = (0..n).filter(|index| asked[*index].read.is_none()).collect();
    permutations(&writes, &mut Vec::new(), &mut |order| {
        let place = |write: usize| order.iter().position(|other| *other == write).expect("all writes are in order");
        let agrees = writes.iter().all(|a| writes.iter().all(|b| !led[*a][*b] || place(*a) < place(*b)));
        agrees
            && asked.iter().enumerate().all(|(r, read)| {
                let Some(value) = read.read else { return true };
                let last = order.iter().rev().find(|w| asked[**w].key == read.key && led[**w][r]);
                last.map_or(0, |w| asked[*w].value) == value
            })
    })
}

fn permutations(left: &[usize], order: &mut Vec<usize>, judge: &mut impl FnMut(&[usize]) -> bool) -> bool {
    if left.is_empty() {
        return judge(order);
    }
    for index in 0..left.len() {
        let mut rest = left.to_vec();
        order.push(rest.remove(index));
        if permutations(&rest, order, judge) {
            return true;
        }
        order.pop();
    }
    false
}

proptest! {
    // More than a third of what is drawn is no subject of the causal judge.
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::with_cases(3_000) })]

    #[test]
    fn sequential_agrees_with_trying_every_interleaving(asked in small()) {
        let expected = some_interleaving(&asked, &mut vec![false; asked.len()], &mut BTreeMap::new());
        let found = verdict(Level::Sequential, &operations(&asked, false));
        prop_assert_eq!(found, if expected { Verdict::Valid } else { Verdict::Violated });
    }

    #[test]
    fn causal_agrees_with_trying_every_arbitration(asked in small()) {
        // A deletion's source is not named by its value, and an unknown write need not have happened.
        let asked: Vec<Asked> =
            asked.into_iter().filter(|a| a.read.is_some() || (a.value != 0 && !a.unknown)).collect();
        let expected = some_arbitration(&asked);
        let found = verdict(Level::Causal, &operations(&asked, false));
        prop_assert_eq!(found, if expected { Verdict::Valid } else { Verdict::Violated });
    }

    #[test]
    fn levels_are_ordered(asked in small()) {
        let history = operations(&asked, false);
        if verdict(Level::Sequential, &history) == Verdict::Valid {
            prop_assert_eq!(verdict(Level::Causal, &history), Verdict::Valid);
        }
    }
}

#[test]
fn a_stale_store_is_sequential_until_one_session_goes_back() {
    let mut asked = support::replicated(4_000, 12, 7);
    assert_eq!(verdict(Level::Sequential, &operations(&asked, false)), Verdict::Valid);
    assert_eq!(verdict(Level::Causal, &operations(&asked, false)), Verdict::Valid);
    // One read late in the history shows what its session had seen replaced.
    let last = asked.iter().rposition(|asked| asked.read.is_some_and(|read| read != 0)).expect("many reads");
    let (session, key) = (asked[last].session, asked[last].key);
    let before = *asked[..last]
        .iter()
        .find(|earlier| earlier.session == session && earlier.key == key && earlier.read.is_some())
        .expect("an earlier read");
    assert_ne!(before.value_of_read(), asked[last].value_of_read());
    (asked[last].read, asked[last].wide) = (before.read, before.wide);
    for level in [Level::Sequential, Level::Causal] {
        let options = Options { level, limit: Limit::steps(20_000_000), ..Options::default() };
        let report = check_operations(&operations(&asked, false), &options).expect("operations of the model");
        assert_eq!(report.verdict, Verdict::Violated, "{level}");
        assert!(report.violations[0].operations.len() <= 8, "{level}: {:#?}", report.violations[0]);
    }
}

#[test]
fn what_is_too_long_to_be_held_is_judged_piece_by_piece() {
    let mix = checker::generate::Mix { reads: 60, writes: 40, ..checker::generate::Mix::default() };
    let settings =
        checker::generate::Settings { operations: 30_000, keys: 10, mix, ..checker::generate::Settings::yardstick() };
    let mut events = checker::generate::history(settings, &mut stdx::Prng::from_seed(5));
    let text = |events: &[history::Event]| {
        let mut text = Vec::new();
        let mut writer = history::Writer::new(&mut text);
        for event in events {
            writer.write(event).expect("a vector takes everything");
        }
        text
    };
    for level in [Level::Strict, Level::Sequential, Level::Causal] {
        let limit = || Limit::steps(50_000_000);
        let options = || Options { level, limit: limit(), whole_max: 2_000, ..Options::default() };
        let report = check(text(&events).as_slice(), &options()).expect("readable");
        assert_eq!(report.verdict, Verdict::Valid, "{level}: {:#?}", report.violations);
        assert!(report.windows > 2, "{level}: {} windows", report.windows);
        assert_eq!(report.ops, 30_000);
    }
    // A read near the end shows the value of a read shortly before that another write had replaced.
    let reads: Vec<usize> = (0..events.len())
        .filter(|index| events[*index].kind == history::EventKind::Ok && events[*index].f == history::Function::Read)
        .filter(|index| events[*index].key == Value::from("records/k3") && !events[*index].value.is_null())
        .collect();
    let [.., old, _, _, _, _, last] = reads[..] else { panic!("many reads") };
    assert_ne!(events[old].value, events[last].value);
    events[last].value = events[old].value.clone();
    let options = Options { whole_max: 2_000, ..Options::default() };
    let report = check(text(&events).as_slice(), &options).expect("readable");
    assert_eq!((report.verdict, report.violations.len()), (Verdict::Violated, 1));
}
