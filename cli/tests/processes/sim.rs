//! `everring sim`: seeds from the command line.

use crate::support::{assert_refused, run};

#[test]
fn seeds_hold_and_a_planted_bug_is_found_by_its_exit_status() {
    let held = run(&["sim", "run", "--seeds", "3", "--output", "json"]);
    assert_eq!(held.status.code(), Some(0), "{}", String::from_utf8_lossy(&held.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&held.stdout).expect("JSON");
    assert_eq!((&summary["schedules"], &summary["violations"]), (&3.into(), &0.into()), "{summary}");

    let found = run(&["sim", "run", "--seeds", "1000", "--planted", "ack-before-sync", "--until-found"]);
    assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
    let stderr = String::from_utf8_lossy(&found.stderr);
    let command = stderr.split_once("everring ").expect("how to see it").1.trim().to_owned();
    let arguments: Vec<&str> = command.split(' ').collect();
    let (first, second) = (run(&arguments), run(&arguments));
    assert_eq!(first.status.code(), Some(1));
    assert!(first.stdout == second.stdout && first.stdout.len() > 1_000, "the same log, byte for byte");
    assert_refused(&run(&["sim", "replay", "1", "--planted", "nothing"]), &["ack-before-sync"]);
    assert!(String::from_utf8_lossy(&run(&["sim", "bugs"]).stdout).contains("minority-read\n"));
}
