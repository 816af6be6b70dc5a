use super::*;

const LIMIT: Duration = Duration::from_secs(60);
const SETTLED: &str = r#"{"process":"nemesis","type":"info","f":"settled","value":{}}"#;

/// One operation of a process at a level, from its call to its answer; its trace is named after what was asked.
fn operation(process: u64, level: &str, f: &str, asked: &str, answered: &str) -> String {
    of_key("k", process, level, f, (asked, answered))
}

fn of_key(key: &str, process: u64, level: &str, f: &str, (asked, answered): (&str, &str)) -> String {
    let trace = format!("trace-{f}-{}", asked.trim_matches('"'));
    let line = |kind: &str, value: &str| {
        let told = format!(r#""type":"{kind}","value":{value},"level":"{level}","trace_id":"{trace}""#);
        format!(r#"{{"process":{process},"f":"{f}","key":"{key}",{told}}}"#)
    };
    format!("{}\n{}", line("invoke", asked), line("ok", answered))
}

fn histories(values: Values, lines: &[String]) -> BTreeMap<Values, History> {
    let history = history::read(lines.join("\n").as_bytes()).expect("a history");
    BTreeMap::from([(values, history)])
}

fn named(name: &str) -> Judged {
    *JUDGED.iter().find(|judged| judged.name == name).expect("a check of this name")
}

async fn judged(name: &str, lines: &[String]) -> Check {
    let judged = named(name);
    check(&histories(judged.part.values, lines), judged, LIMIT).await
}

async fn counted(name: &str, lines: &[String]) -> Acked {
    let (_, part) = *COUNTED.iter().find(|(known, _)| *known == name).expect("a count of this name");
    acknowledged(&histories(part.values, lines), part).await.expect("it can be judged")
}

#[tokio::test]
async fn a_session_that_misses_its_own_write_is_found_and_only_at_its_level() {
    let write = operation(1, "causal", "write", r#""a""#, r#""a""#);
    let sound = [write.clone(), operation(1, "causal", "read", "null", r#"["a"]"#)];
    let check = judged("causal keys", &sound).await;
    assert_eq!((check.decided, check.violations, check.ops), (true, 0, 2), "{check:?}");
    let forgetful = [write, operation(1, "causal", "read", "null", "[]")];
    let check = judged("causal keys", &forgetful).await;
    assert!(check.violations > 0, "{check:?}");
    assert_eq!(judged("registers", &forgetful).await.ops, 0, "of another level");
}

#[tokio::test]
async fn a_session_that_goes_back_from_key_to_key_is_found_at_level_sequential() {
    let write = |key, value: &str| of_key(key, 1, "sequential", "write", (value, value));
    let read = |key, shown| of_key(key, 2, "sequential", "read", ("null", shown));
    // The data were written before the flag; whoever has seen the flag sees the data.
    let written = [write("data", r#""d""#), write("flag", r#""f""#)];
    let stale = [&written[..], &[read("data", "null"), read("flag", r#""f""#)]].concat();
    let check = judged("sequential keys", &stale).await;
    assert_eq!((check.decided, check.violations, check.ops), (true, 0, 4), "it may be stale: {check:?}");
    let back = [&written[..], &[read("flag", r#""f""#), read("data", "null")]].concat();
    let check = judged("sequential keys", &back).await;
    assert_eq!((check.decided, check.violations), (true, 1), "{check:?}");
    assert!(check.examples[0].contains("traces") && check.examples[0].contains("trace-write-d"), "{check:?}");
}

#[tokio::test]
async fn replicas_that_do_not_agree_once_all_has_settled_are_found() {
    let read = |process, shown| operation(process, "eventual", "read", "null", shown);
    let begin = [
        operation(1, "eventual", "write", r#""a""#, r#""a""#),
        operation(2, "eventual", "write", r#""b""#, r#""b""#),
        // Before everything has settled, replicas may differ.
        read(3, r#"["a"]"#),
        read(4, r#"["b"]"#),
        SETTLED.to_owned(),
    ];
    let both = r#"["a","b"]"#;
    let check = judged("eventual keys", &[&begin[..], &[read(5, both), read(6, both)]].concat()).await;
    assert_eq!((check.decided, check.violations), (true, 0), "{check:?}");
    let apart = judged("eventual keys", &[&begin[..], &[read(5, both), read(6, r#"["b"]"#)]].concat()).await;
    assert!(apart.violations > 0, "{apart:?}");
    let unread = judged("eventual keys", &begin).await;
    assert!(!unread.decided, "no final read shows nothing: {unread:?}");
}

#[tokio::test]
async fn an_acknowledged_write_that_is_gone_is_counted_with_its_key_and_trace() {
    let write = |process, level: &str, value: &str| operation(process, level, "write", value, value);
    let read = |level: &str, shown| operation(9, level, "read", "null", shown);
    for level in ["causal", "eventual"] {
        let begin = [write(1, level, r#""a""#), write(2, level, r#""b""#), SETTLED.to_owned()];
        let whole = counted(level, &[&begin[..], &[read(level, r#"["a","b"]"#)]].concat()).await;
        assert_eq!((whole.total, whole.lost, whole.examples.len()), (2, 0, 0), "{whole:?}");
        let gone = counted(level, &[&begin[..], &[read(level, r#"["b"]"#)]].concat()).await;
        assert_eq!((gone.total, gone.lost), (2, 1), "{gone:?}");
        assert_eq!(gone.examples, [r#"key "k" lacks 1 (traces trace-write-a)"#]);
        let other = if level == "causal" { "eventual" } else { "causal" };
        assert_eq!(counted(other, &begin).await.total, 0, "of another level");
    }
}

#[tokio::test]
async fn an_element_that_is_missing_at_the_end_is_found_and_counted() {
    let add = |process, level: &str, value: &str| operation(process, level, "add", value, value);
    let read = |process, level: &str, shown| operation(process, level, "read", "null", shown);
    let begin = [add(1, "causal", r#""a""#), add(2, "causal", r#""b""#), SETTLED.to_owned()];
    let whole = [&begin[..], &[read(3, "causal", r#"["a","b"]"#)]].concat();
    for name in ["sets", "causal sets"] {
        let check = judged(name, &whole).await;
        assert_eq!((check.decided, check.violations, check.ops), (true, 0, 3), "{name}: {check:?}");
    }
    let gone = [&begin[..], &[read(3, "causal", r#"["a"]"#)]].concat();
    let check = judged("sets", &gone).await;
    assert_eq!((check.decided, check.violations), (true, 1), "{check:?}");
    assert!(check.examples[0].contains("trace-add-b"), "{check:?}");
    let lost = counted("sets", &gone).await;
    assert_eq!((lost.total, lost.lost), (2, 1), "{lost:?}");
    assert_eq!(lost.examples, [r#"key "k" lacks 1 (traces trace-add-b)"#]);
    // A session that does not see what it added itself, long before the end.
    let forgetful = [add(1, "causal", r#""a""#), read(1, "causal", "[]")];
    assert_eq!(judged("causal sets", &forgetful).await.violations, 1);
}

#[tokio::test]
async fn a_counter_that_is_not_the_sum_of_what_was_added_is_found_and_counted() {
    let add = |process, level: &str, value: &str| operation(process, level, "add", value, value);
    let read = |level: &str, shown| operation(9, level, "read", "null", shown);
    let begin = [add(1, "eventual", "5"), add(2, "eventual", "2"), SETTLED.to_owned()];
    let check = judged("counters", &[&begin[..], &[read("eventual", "7")]].concat()).await;
    assert_eq!((check.decided, check.violations, check.ops), (true, 0, 3), "{check:?}");
    for (shown, lost) in [("5", 1), ("0", 2), ("12", 0)] {
        let wrong = [&begin[..], &[read("eventual", shown)]].concat();
        let check = judged("counters", &wrong).await;
        assert_eq!((check.decided, check.violations), (true, 1), "{shown}: {check:?}");
        assert!(check.examples[0].contains("trace-read"), "{check:?}");
        let acked = counted("counters", &wrong).await;
        assert_eq!((acked.total, acked.lost), (2, lost), "{shown}: {acked:?}");
    }
    let lost = counted("counters", &[&begin[..], &[read("eventual", "5")]].concat()).await;
    assert_eq!(lost.examples, [r#"key "k" reads 5 and lacks 1 at least (trace trace-read-null)"#]);
    let forgetful = [add(1, "causal", "3"), operation(1, "causal", "read", "null", "0")];
    assert_eq!(judged("causal counters", &forgetful).await.violations, 1);
}
