//! `everring sim`: seeds from the command line.

use std::io::{BufRead, BufReader};

use rustix::process::Signal;

use crate::support::{assert_refused, everring, run, signal};

fn json(arguments: &[&str]) -> serde_json::Value {
    let output = run(&[arguments, &["--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn large_rings_are_measured_from_the_command_line() {
    let ring = json(&["sim", "ring", "--nodes", "300", "--churn", "5m", "--for", "30s", "--lookups", "50"]);
    assert_eq!((&ring["wrong_owner"], &ring["looks_with_a_broken_invariant"]), (&0.into(), &0.into()), "{ring}");
    assert!(ring["crashes"].as_u64().is_some_and(|crashes| crashes > 5), "{ring}");
    let hops = json(&["sim", "hops", "--power", "8"]);
    assert!(hops["hops"].as_f64().is_some_and(|hops| hops > 1.0 && hops <= 5.0), "{hops}");
    let balance = json(&["sim", "balance", "--nodes", "5"]);
    assert_eq!(balance.as_array().map(Vec::len), Some(12), "{balance}");
    let directory = tempfile::TempDir::new().expect("a directory");
    let folder = directory.path().to_str().expect("text");
    assert_eq!(run(&["sim", "ring", "--nodes", "2"]).status.code(), Some(2));
    assert_refused(&run(&["sim", "lookups", "--power-max", "3", "--write", folder]), &["4..=22"]);
}

#[test]
fn small_rings_and_few_registers_are_explored_from_the_command_line() {
    let model = json(&["sim", "model", "--short"]);
    let explored = model["explored"].as_array().expect("scopes");
    for scope in explored {
        // Of a replaced replica only the first ways are gone, and the scope's name says so.
        let partly = scope["scope"].as_str().is_some_and(|name| name.ends_with(", in part"));
        let whole = scope["complete"] == true || partly;
        assert!(whole && scope["shown"] == true && scope["violation"].is_null(), "{scope}");
    }
    let scopes = |core: &str| explored.iter().filter(|scope| scope["core"] == core).count();
    assert!(scopes("ring") > 1 && scopes("registers") > 9, "{model}");
    assert!(model["planted"].as_array().expect("bugs").iter().all(|bug| bug["found"] == true), "{model}");
}

#[test]
fn seeds_hold_and_a_planted_bug_is_found_by_its_exit_status() {
    let held = run(&["sim", "run", "--seeds", "3", "--output", "json"]);
    assert_eq!(held.status.code(), Some(0), "{}", String::from_utf8_lossy(&held.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&held.stdout).expect("JSON");
    assert_eq!((&summary["schedules"], &summary["violations"]), (&3.into(), &0.into()), "{summary}");

    let found = run(&["sim", "run", "--seeds", "1000", "--planted", "ack-before-sync", "--until-found"]);
    assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
    let stderr = String::from_utf8_lossy(&found.stderr);
    let command = stderr.split_once("everring ").and_then(|(_, rest)| rest.lines().next()).expect("how to see it");
    let arguments: Vec<&str> = command.split(' ').collect();
    let (first, second) = (run(&arguments), run(&arguments));
    assert_eq!(first.status.code(), Some(1));
    assert!(first.stdout == second.stdout && first.stdout.len() > 1_000, "the same log, byte for byte");
    assert_refused(&run(&["sim", "replay", "1", "--planted", "nothing"]), &["ack-before-sync"]);
    assert!(String::from_utf8_lossy(&run(&["sim", "bugs"]).stdout).contains("minority-read\n"));
}

#[test]
fn a_run_without_an_end_ends_by_its_time_or_a_signal_with_its_summary() {
    let arguments = ["sim", "run", "--first", "500", "--threads", "1", "--output", "json"];
    let timed = run(&[&arguments[..], &["--for", "1ms"]].concat());
    let summary: serde_json::Value = serde_json::from_slice(&timed.stdout).expect("JSON");
    let next = summary["schedules"].as_u64().map(|ran| 500 + ran);
    assert_eq!((timed.status.code(), summary["next"].as_u64()), (Some(0), next), "{summary}");

    let planted = ["--for", "1h", "--planted", "minority-read"];
    let mut child = everring(&[&arguments[..], &planted[..]].concat()).spawn().expect("the program starts");
    // It tells each seed that broke something when it has, and does not stop at that.
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines();
    let seeds = told.by_ref().map_while(Result::ok).filter(|line| line.contains("everring sim replay"));
    assert_eq!(seeds.take(2).count(), 2);
    signal(child.id(), Signal::INT);
    let rest = told.map_while(Result::ok).filter(|line| line.contains("everring sim replay")).count();
    let output = child.wait_with_output().expect("it ends");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), summary["violations"].as_u64()), (Some(1), Some(2 + rest as u64)), "{summary}");
}
