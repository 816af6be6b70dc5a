//! Histories whose verdict is known, each a few lines.

use checker::{Limit, Model, Options, Report, Verdict, check, exit_code, lost_writes};
use std::collections::BTreeMap;
use std::time::Duration;

use history::Value;

/// A history from a script, one event a line: `process type f key value [applied]`.
fn jsonl(script: &str) -> String {
    let mut text = String::new();
    for (index, line) in script.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().unwrap_or("null");
        let (process, kind, f, key, rest) = (word(), word(), word(), word(), word());
        let (value, applied) = match rest.split_once(" applied=") {
            Some((value, applied)) => (value, format!(",\"applied\":{applied}")),
            None => (rest, String::new()),
        };
        let trace = if kind == "invoke" { format!(",\"trace_id\":\"trace-{}\"", index + 1) } else { String::new() };
        text += &format!("{{\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\"key\":\"{key}\",");
        text += &format!("\"value\":{value}{applied}{trace}}}\n");
    }
    text
}

fn judged(model: Model, script: &str) -> Report {
    let options = Options { model, ..Options::default() };
    check(jsonl(script).as_bytes(), &options).expect("a readable history")
}

fn valid(script: &str) {
    let report = judged(Model::Register, script);
    assert_eq!(report.verdict, Verdict::Valid, "{report:#?}");
}

/// Checks that a script is violated, that the sentence says `words`, and that the evidence begins on `lines`.
fn violated(script: &str, words: &str, lines: &[u64]) {
    let report = judged(Model::Register, script);
    assert_eq!(report.verdict, Verdict::Violated, "{script}");
    let violation = &report.violations[0];
    assert!(violation.sentence.contains(words), "{}", violation.sentence);
    let found: Vec<u64> = violation.operations.iter().map(|operation| operation.invoked_line).collect();
    assert_eq!(found, lines, "{violation:#?}");
    let traces: Vec<String> = lines.iter().map(|line| format!("trace-{line}")).collect();
    assert_eq!(violation.trace_ids, traces);
}

#[test]
fn an_empty_history_and_one_of_faults_alone_are_valid() {
    valid("");
    valid("\"nemesis\" info kill k {\"target\":\"n1\"}");
}

#[test]
fn what_one_client_does_in_order_is_valid() {
    valid(
        "0 invoke read k
         0 ok read k null
         0 invoke write k 1
         0 ok write k 1
         0 invoke cas k [1,2]
         0 ok cas k [1,2] applied=true
         0 invoke cas k [1,3]
         0 ok cas k [1,3] applied=false
         0 invoke delete k
         0 ok delete k
         0 invoke read k
         0 ok read k null",
    );
}

#[test]
fn a_stale_read_is_violated_and_only_its_three_operations_are_named() {
    violated(
        "9 invoke write other 5
         9 ok write other 5
         0 invoke read k
         0 ok read k null
         0 invoke write k 1
         0 ok write k 1
         1 invoke read k
         1 ok read k 1
         0 invoke write k 2
         0 ok write k 2
         2 invoke read k
         2 ok read k 1",
        "which the write by process 0 (line 10) had replaced",
        &[5, 9, 11],
    );
}

#[test]
fn a_lost_update_is_violated() {
    violated(
        "0 invoke write k 1
         0 ok write k 1
         1 invoke read k
         1 ok read k null",
        "found null, which the write by process 0 (line 2) had replaced",
        &[1, 3],
    );
}

#[test]
fn of_two_swaps_of_one_value_only_one_applies() {
    violated(
        "0 invoke write k 1
         0 ok write k 1
         1 invoke cas k [1,2]
         2 invoke cas k [1,3]
         1 ok cas k [1,2] applied=true
         2 ok cas k [1,3] applied=true",
        "was told that it had replaced 1",
        &[1, 3, 4],
    );
}

#[test]
fn a_swap_that_did_not_apply_observed_another_value() {
    violated(
        "0 invoke write k 1
         0 ok write k 1
         1 invoke cas k [1,2]
         1 ok cas k [1,2] applied=false",
        "no order of these 2 operations",
        &[1, 3],
    );
    // Jepsen's failed cas says nothing at all.
    valid(
        "0 invoke write k 1
         0 ok write k 1
         1 invoke cas k [1,2]
         1 fail cas k [1,2]",
    );
    // An unknown write that nobody reads can be what it observed.
    valid(
        "0 invoke write k 1
         0 ok write k 1
         2 invoke write k 7
         2 info write k 7
         1 invoke cas k [1,2]
         1 ok cas k [1,2] applied=false",
    );
}

#[test]
fn the_write_of_a_failed_operation_is_never_read() {
    violated(
        "0 invoke write k 1
         0 fail write k 1
         1 invoke read k
         1 ok read k 1",
        "which no operation had written, unless one that failed",
        &[3],
    );
}

#[test]
fn a_value_is_not_read_before_it_is_written() {
    violated(
        "1 invoke read k
         1 ok read k 1
         0 invoke write k 1
         0 ok write k 1",
        "which was written only later",
        &[1],
    );
}

#[test]
fn a_deleted_value_does_not_return() {
    violated(
        "0 invoke write k \"a\"
         0 ok write k \"a\"
         0 invoke delete k
         0 ok delete k
         1 invoke read k
         1 ok read k \"a\"",
        "which the delete by process 0 (line 4) had replaced",
        &[1, 3, 5],
    );
}

#[test]
fn an_append_acts_once() {
    violated(
        "0 invoke append k \"a\"
         0 ok append k \"a\"
         1 invoke read k
         1 ok read k \"aa\"",
        "no order of these",
        &[1, 3],
    );
    valid(
        "0 invoke append k \"a\"
         1 invoke append k \"b\"
         0 ok append k \"ba\"
         1 ok append k \"b\"
         1 invoke read k
         1 ok read k \"ba\"",
    );
}

#[test]
fn an_addition_acts_once_and_absent_counts_nought() {
    valid(
        "0 invoke add k 5
         0 ok add k 5
         1 invoke add k 2
         1 ok add k 7
         1 invoke read k
         1 ok read k \"7\"",
    );
    violated(
        "0 invoke add k 5
         0 ok add k 5
         1 invoke read k
         1 ok read k 10",
        "no order of these",
        &[1, 3],
    );
}

#[test]
fn reads_do_not_go_back_while_a_write_is_open() {
    violated(
        "0 invoke write k 1
         1 invoke read k
         1 ok read k 1
         2 invoke read k
         2 ok read k null
         0 ok write k 1",
        "found null",
        &[1, 2, 4],
    );
}

#[test]
fn an_unknown_write_takes_effect_late_or_never_but_not_twice() {
    let begin = "0 invoke write k 1
         0 info write k 1
         1 invoke write k 2
         1 ok write k 2
         1 invoke read k
         1 ok read k 2\n";
    valid(begin);
    valid(&format!("{begin}1 invoke read k\n1 ok read k 1"));
    let twice = format!("{begin}1 invoke read k\n1 ok read k 1\n1 invoke read k\n1 ok read k 2");
    assert_eq!(judged(Model::Register, &twice).verdict, Verdict::Violated);
}

#[test]
fn a_request_that_was_never_answered_is_unknown() {
    valid("0 invoke write k 1\n1 invoke read k\n1 ok read k 1");
    valid("0 invoke write k 1\n1 invoke read k\n1 ok read k null\n2 invoke cas k [1,2]\n2 ok cas k [1,2] applied=true");
}

#[test]
fn keys_are_independent_and_each_violated_one_is_reported() {
    let report = judged(
        Model::Register,
        "0 invoke write a 1
         0 ok write a 1
         0 invoke read b
         0 ok read b 1
         0 invoke read c
         0 ok read c 1
         0 invoke read a
         0 ok read a 1",
    );
    assert_eq!((report.keys, report.decided, report.ops), (3, 3, 4));
    let keys: Vec<String> = report.violations.iter().map(|violation| violation.key.to_string()).collect();
    assert_eq!(keys, ["\"b\"", "\"c\""]);
    let json = serde_json::to_value(&report).expect("a report is JSON");
    assert_eq!(json["verdict"], "violated");
    assert_eq!(json["violations"][0]["operations"][0]["output"], 1);
}

#[test]
fn exit_codes_tell_the_four_ends_apart() {
    let run = |text: &str, limit| {
        let options = Options { limit, ..Options::default() };
        exit_code(&check(text.as_bytes(), &options))
    };
    let good = jsonl("0 invoke write k 1\n0 ok write k 1");
    assert_eq!(run(&good, Limit::none()), 0);
    assert_eq!(run(&jsonl("0 invoke read k\n0 ok read k 1"), Limit::none()), 1);
    assert_eq!(run("{", Limit::none()), 2);
    assert_eq!(run(&jsonl("0 invoke enqueue k 1"), Limit::none()), 2);
    assert_eq!(run(&good, Limit::steps(1)), 3);
    assert_eq!(run(&good, Limit::time(Duration::from_secs(1), || Duration::from_secs(1))), 3);
}

#[test]
fn what_promises_less_is_left_out_and_counted() {
    let weaker = r#"{"process":0,"type":"invoke","f":"read","key":"k","level":"sequential"}
{"process":0,"type":"ok","f":"read","key":"k","value":7}
{"process":0,"type":"invoke","f":"write","key":"other","value":1,"level":"causal"}
{"process":0,"type":"ok","f":"write","key":"other","value":1}
"#;
    let report = check(weaker.as_bytes(), &Options::default()).expect("a readable history");
    assert_eq!((report.verdict, report.left_out), (Verdict::Undecided, 2), "nothing is left to judge");
    let strict = weaker.to_owned() + &jsonl("0 invoke read k\n0 ok read k null");
    let report = check(strict.as_bytes(), &Options::default()).expect("a readable history");
    assert_eq!((report.verdict, report.left_out), (Verdict::Valid, 2));
    assert!("quantum".parse::<checker::Level>().expect_err("none such").to_string().contains("not offered"));
    assert!("queue".parse::<Model>().expect_err("none such").to_string().contains("not offered"));
}

#[test]
fn a_counter_stays_within_its_bounds() {
    let script = "0 invoke add k 2
         0 ok add k 2
         1 invoke add k 3
         1 info add k 3
         2 invoke add k -1
         0 invoke read k\n";
    for (found, verdict) in [(0, Verdict::Violated), (1, Verdict::Valid), (5, Verdict::Valid), (6, Verdict::Violated)] {
        let report = judged(Model::Counter, &format!("{script}0 ok read k {found}"));
        assert_eq!(report.verdict, verdict, "{found}");
    }
}

#[test]
fn a_set_keeps_what_was_acknowledged_and_invents_nothing() {
    let script = "0 invoke add k 1
         0 ok add k 1
         1 invoke add k 2
         1 info add k 2
         2 invoke add k 3
         2 fail add k 3
         0 invoke read k\n";
    for (found, verdict) in [
        ("[1]", Verdict::Valid),
        ("[2,1]", Verdict::Valid),
        ("[2]", Verdict::Violated),
        ("[1,3]", Verdict::Violated),
        ("null", Verdict::Violated),
    ] {
        let report = judged(Model::Set, &format!("{script}0 ok read k {found}"));
        assert_eq!(report.verdict, verdict, "{found}");
    }
}

fn lost(script: &str, found: &[(&str, Value)]) -> checker::LostWrites {
    let history = history::read(jsonl(script).as_bytes()).expect("a readable history");
    let found: BTreeMap<Value, Value> = found.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect();
    lost_writes(&history.operations, &found, &Limit::none()).expect("operations of the model")
}

#[test]
fn a_final_value_older_than_an_acknowledged_write_names_it() {
    let script = "0 invoke write k 1
         0 ok write k 1
         0 invoke write k 2
         0 ok write k 2
         0 invoke write k 3
         0 ok write k 3
         1 invoke write u 1
         1 ok write u 1";
    let result = lost(script, &[("k", 1.into())]);
    assert_eq!(result.acknowledged, 4);
    assert_eq!(result.unread, [Value::from("u")]);
    assert_eq!(result.lost.len(), 1);
    let suspects: Vec<u64> = result.lost[0].suspects.iter().map(|operation| operation.invoked_line).collect();
    assert_eq!(suspects, [5], "the write of 2 was replaced by the one of 3");
    assert!(lost(script, &[("k", 3.into()), ("u", 1.into())]).lost.is_empty());
    assert_eq!(lost(script, &[("k", Value::Null)]).lost.len(), 1);
    assert_eq!(lost(script, &[("k", 9.into())]).lost.len(), 1, "an invented value");
}

#[test]
fn unknown_writes_and_open_ends_never_accuse() {
    let script = "0 invoke write k 1
         0 info write k 1
         1 invoke write k 2
         2 invoke write k 3
         1 ok write k 2
         2 ok write k 3";
    for found in [1, 2, 3] {
        assert!(lost(script, &[("k", found.into())]).lost.is_empty(), "{found}");
    }
    assert_eq!(lost(script, &[("k", Value::Null)]).lost[0].suspects.len(), 2);
    let counted = "0 invoke add k 1\n0 ok add k 1\n0 invoke add k 1\n0 ok add k 2";
    assert!(lost(counted, &[("k", "2".into())]).lost.is_empty());
    assert_eq!(lost(counted, &[("k", "1".into())]).lost.len(), 1);
}

/// A history of one key whose value was written with `ttl_ms`.
fn with_ttl(lines: &[&str]) -> Verdict {
    let text: String = lines.iter().map(|line| format!("{{\"key\":\"k\",{line}}}\n")).collect();
    check(text.as_bytes(), &Options::default()).expect("a readable history").verdict
}

#[test]
fn a_value_that_was_given_a_time_may_go_by_itself_but_stays_away() {
    let write = [
        r#""process":0,"type":"invoke","f":"write","value":"v","ttl_ms":50"#,
        r#""process":0,"type":"ok","f":"write","value":"v""#,
    ];
    let read = r#""process":1,"type":"invoke","f":"read""#;
    let found = r#""process":1,"type":"ok","f":"read","value":"v""#;
    let absent = r#""process":1,"type":"ok","f":"read","value":null"#;
    let with = |rest: &[&str]| with_ttl(&[&write[..], rest].concat());
    assert_eq!(with(&[read, found, read, absent, read, absent]), Verdict::Valid);
    assert_eq!(with(&[read, absent, read, found]), Verdict::Violated, "what is over does not come back");
    let for_ever = [write[0].replace(r#","ttl_ms":50"#, ""), write[1].to_owned()];
    let lines: Vec<&str> = for_ever.iter().map(String::as_str).chain([read, absent]).collect();
    assert_eq!(with_ttl(&lines), Verdict::Violated, "what was given no time does not go");
    let broken = r#"{"process":0,"type":"invoke","f":"write","key":"k","value":1,"ttl_ms":"soon"}"#;
    check(broken.as_bytes(), &Options::default()).expect_err("a time is a number");
}

/// `count` acquisitions that overlap, each answered long after it was asked for; of those in `kept` nobody may let go.
fn many_leases(count: u64, kept: &[u64]) -> String {
    let line = |process: u64, kind: &str, value: &str, ms: u64| {
        let fields = format!("\"f\":\"acquire\",\"key\":\"l\",\"value\":{value},\"time\":{}", ms * 1_000_000);
        format!("{{\"process\":{process},\"type\":\"{kind}\",{fields}}}\n")
    };
    let mut text: String = (0..count).map(|at| line(at, "invoke", "null", 20 * at)).collect();
    for at in 0..count {
        let ttl = if kept.contains(&at) { 1_000_000 } else { 10 };
        text += &line(at, "ok", &format!("{{\"fence\":{},\"ttl_ms\":{ttl}}}", at + 1), 20 * (count + at));
    }
    text
}

/// Each may have ended before the next began, in any order: that makes many orders, and it must not make many steps.
#[test]
fn leases_that_nobody_sees_do_not_multiply() {
    let options = || Options { model: Model::Lock, limit: Limit::steps(20_000), ..Options::default() };
    let verdict = |kept: &[u64]| check(many_leases(40, kept).as_bytes(), &options()).expect("readable").verdict;
    assert_eq!(verdict(&[]), Verdict::Valid);
    assert_eq!(verdict(&[17]), Verdict::Valid, "it may be the last");
    assert_eq!(verdict(&[17, 30]), Verdict::Violated, "one of the two was granted while the other was held");
}

/// Values that may have ended or been replaced, whichever came first, while one write is open all the time.
#[test]
fn values_that_may_have_ended_do_not_multiply() {
    let line = |process: u64, kind: &str, f: &str, value: &str| {
        format!("{{\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\"key\":\"k\",\"value\":{value}}}\n")
    };
    let with_time = |line: String| line.replace("}\n", ",\"ttl_ms\":5}\n");
    let mut text = line(99, "invoke", "delete", "null") + &line(98, "invoke", "write", "\"w\"");
    for round in 0..40 {
        let value = format!("\"v{round}\"");
        text += &with_time(line(0, "invoke", "write", &value));
        text += &with_time(line(1, "invoke", "cas", &format!("[null,\"c{round}\"]")));
        text += &(line(0, "ok", "write", &value) + &line(1, "ok", "cas", &format!("[null,\"c{round}\"]")));
    }
    text += &line(99, "ok", "delete", "null");
    let verdict = |found: &str| {
        let read = line(0, "invoke", "read", "null") + &line(0, "ok", "read", found);
        let options = Options { limit: Limit::steps(100_000), ..Options::default() };
        check((text.clone() + &read).as_bytes(), &options).expect("readable").verdict
    };
    for found in ["null", "\"w\"", "\"v39\"", "\"c39\""] {
        assert_eq!(verdict(found), Verdict::Valid, "{found}");
    }
    assert_eq!(verdict("\"c38\""), Verdict::Violated, "what was replaced does not come back");
}

/// A lease that runs out while a line is written does so after the line before it.
#[test]
fn a_lease_has_not_run_out_a_line_too_soon() {
    let line = |process: u64, kind: &str, value: &str, ms: u64| {
        let fields = format!("\"f\":\"acquire\",\"key\":\"l\",\"value\":{value},\"time\":{}", ms * 1_000_000);
        format!("{{\"process\":{process},\"type\":\"{kind}\",{fields}}}\n")
    };
    let verdict = |second_ms: u64| {
        let text = line(0, "invoke", "null", 0)
            + &line(0, "ok", "{\"fence\":1,\"ttl_ms\":10}", 1)
            + &line(1, "invoke", "null", 2)
            + &line(1, "ok", "{\"fence\":2,\"ttl_ms\":10}", second_ms)
            // One whose end is not known may ask for the lock at any time.
            + &line(2, "invoke", "null", 20);
        check(text.as_bytes(), &Options { model: Model::Lock, ..Options::default() }).expect("readable").verdict
    };
    assert_eq!(verdict(9), Verdict::Violated, "it lasts until 10");
    assert_eq!(verdict(10), Verdict::Valid);
}
