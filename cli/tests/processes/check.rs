//! `everring check`: the exit status is the judgement.

use crate::support::{assert_refused, run, run_with_input};

const KEPT: &str = r#"{"process":0,"type":"invoke","f":"write","key":"records/k","value":1}
{"process":0,"type":"ok","f":"write","key":"records/k","value":1}
{"process":1,"type":"invoke","f":"read","key":"records/k"}
{"process":1,"type":"ok","f":"read","key":"records/k","value":1}
"#;
const LOST: &str = r#"{"process":0,"type":"invoke","f":"write","key":"records/k","value":1,"trace_id":"aa"}
{"process":0,"type":"ok","f":"write","key":"records/k","value":1,"trace_id":"aa"}
{"process":1,"type":"invoke","f":"read","key":"records/k","trace_id":"bb"}
{"process":1,"type":"ok","f":"read","key":"records/k","value":null,"trace_id":"bb"}
"#;

#[test]
fn valid_is_0_violated_1_unreadable_2_undecided_3() {
    assert_eq!(run_with_input(&["check"], KEPT).status.code(), Some(0));
    assert_eq!(run_with_input(&["check", "-"], KEPT).status.code(), Some(0));
    let violated = run_with_input(&["check"], LOST);
    assert_eq!(violated.status.code(), Some(1));
    let text = String::from_utf8_lossy(&violated.stdout);
    assert!(text.contains("VIOLATED") && text.contains("records/k") && text.contains("trace bb"), "{text}");
    assert_refused(&run_with_input(&["check"], "nonsense\n"), &["line 1"]);
    assert_refused(&run(&["check", "no-such-file"]), &["no-such-file"]);
    assert_refused(&run(&["check", "--model", "heap"]), &["heap"]);
    assert_refused(&run(&["check", "--level", "lax"]), &["lax"]);
    assert_eq!(run_with_input(&["check", "--limit", "0"], KEPT).status.code(), Some(3));
}

#[test]
fn a_history_in_a_file_is_judged_with_a_report() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let (history, report) = (directory.path().join("history.jsonl"), directory.path().join("report.json"));
    std::fs::write(&history, LOST).expect("a file");
    let (history, report) = (history.to_str().expect("text"), report.to_str().expect("text"));
    let output = run(&["check", history, "--report", report, "--output", "json", "--limit", "10"]);
    assert_eq!(output.status.code(), Some(1));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
    assert_eq!(shown, written);
    assert_eq!(shown["verdict"], "violated");
}
