//! `everring up --chaos` and `--replay`: from flags to a verdict.

use std::io::Write;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{everring, run};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

#[test]
fn a_chaos_run_ends_in_a_verdict_that_the_exit_status_and_the_report_repeat() {
    let directory = TempDir::new().expect("a directory");
    let report = directory.path().join("report.json");
    // A generous deadline: here the way from flags to verdict is the subject, and not how fast this machine is.
    let output = everring(&["up", "--chaos", "--for", "8s", "--mean", "1s", "--seed", "11", "--deadline", "10s"])
        .args(["--output", "json", "--data"])
        .arg(directory.path().join("data"))
        .arg("--report")
        .arg(&report)
        .output()
        .expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let verdict = json(&output.stdout);
    assert_eq!(verdict, json(&std::fs::read(&report).expect("a report")));
    let expected = match verdict["verdict"].as_str() {
        Some("kept") => 0,
        Some("broken") => 1,
        _ => 3,
    };
    assert_eq!(output.status.code(), Some(expected), "{verdict}\n{stderr}");
    assert_eq!(verdict["seed"], 11);
    assert!(stderr.contains("--seed 11"), "{stderr}");
    assert!(!verdict["faults"].as_array().expect("a list").is_empty(), "{verdict}");
    assert_eq!(verdict["acked_writes"]["lost"], 0, "{verdict}");
    assert_eq!(verdict["checks"][0]["violations"], 0, "{verdict}");
    assert_eq!(verdict["traces"]["contradicting"], 0, "{verdict}");

    // The history that it left is one that `check` reads, with the same judgement.
    let history = report.with_extension("history.jsonl");
    let checked = run(&["check", history.to_str().expect("text")]);
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn a_dry_run_kills_nobody_and_a_halt_file_stops_the_monkey() {
    let directory = TempDir::new().expect("a directory");
    let halt = directory.path().join("halt");
    std::fs::File::create(&halt).expect("a file").write_all(b"stop").expect("written");
    let base = ["up", "--nodes", "3", "--for", "3s", "--mean", "500ms", "--deadline", "10s", "--output", "json"];
    let report = directory.path().join("report.json");
    for more in [&["--dry-run"][..], &["--halt-file", halt.to_str().expect("text")]] {
        let output = everring(&base).arg("--chaos").arg("--report").arg(&report).args(more).output().expect("it ends");
        let verdict = json(&output.stdout);
        assert_eq!(verdict["faults"].as_array().map(Vec::len), Some(0), "{more:?}: {verdict}");
        assert_eq!(verdict["acked_writes"]["lost"], 0, "{verdict}");
        if let Some((_, kept)) = String::from_utf8_lossy(&output.stderr).rsplit_once("are left in ") {
            std::fs::remove_dir_all(kept.trim()).expect("what was kept");
        }
    }
}

#[test]
fn a_recorded_trace_is_played_while_the_monkey_kills_and_ctrl_c_ends_it_with_a_verdict() {
    let directory = TempDir::new().expect("a directory");
    let trace = directory.path().join("trace.csv");
    let mut text = String::from("version,time,op,size,lbn\n");
    for at in 0..20_000 {
        let op = if at % 3 == 0 { "28" } else { "2a" };
        text.push_str(&format!("1,{at},{op},512,{}\n", at % 500));
    }
    std::fs::write(&trace, text).expect("a file");
    let report = directory.path().join("report.json");
    let child = everring(&["up", "--mean", "1s", "--rate", "200", "--deadline", "10s", "--output", "json", "--replay"])
        .arg(&trace)
        .arg("--report")
        .arg(&report)
        .arg("--data")
        .arg(directory.path().join("data"))
        .spawn()
        .expect("the program starts");
    crate::support::eventually("no fault is recorded", || {
        let history = std::fs::read_to_string(report.with_extension("history.jsonl")).unwrap_or_default();
        if history.contains("nemesis") { Ok(()) } else { Err(format!("{} bytes of history", history.len())) }
    });
    crate::support::signal(child.id(), Signal::INT);
    let output = child.wait_with_output().expect("it ends");
    let verdict = json(&output.stdout);
    let played = verdict["replay"]["played"].as_u64().expect("a number");
    assert!(played > 0 && played < 20_000, "{verdict}");
    assert_eq!(verdict["acked_writes"]["lost"], 0, "{verdict}");
    assert_eq!(verdict["replay"]["corrupt"], 0, "{verdict}");
}
