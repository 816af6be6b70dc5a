//! A disk that spoils what it holds: a running node mends its log, one that starts on it begins anew; nothing is lost.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Up, eventually, get_json, run, signal};

const KEYS: usize = 30;
/// A byte of the first record's body: behind the segment's head (40 bytes) and the record's own.
const SPOILED_AT: u64 = 40 + 24 + 3;

fn fill(up: &Up) {
    for key in 0..KEYS {
        let output = run(&["put", &format!("k{key}"), &format!("v{key}"), "--gateway", up.gateway()]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn expect_filled(up: &Up) {
    for key in 0..KEYS {
        let output = run(&["get", &format!("k{key}"), "--gateway", up.gateway()]);
        assert_eq!(output.stdout, format!("v{key}").as_bytes(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The node's status, once it is ready.
fn ready(up: &Up, name: &str) -> Result<Value, String> {
    let status = get_json(&up.http(name), "/status")?;
    if status["state"] == "ready" { Ok(status) } else { Err(status.to_string()) }
}

/// The log of a node that was started on an empty directory.
fn log_of(up: &Up, name: &str) -> PathBuf {
    up.data().join(name).join("log").join("segment-0000000000000001.log")
}

fn spoil(up: &Up, name: &str) {
    let path = log_of(up, name);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut byte = [0];
    file.read_exact_at(&mut byte, SPOILED_AT).expect("it is there");
    file.write_all_at(&[byte[0] ^ 0x10], SPOILED_AT).expect("it can be written");
    file.sync_all().expect("the disk works");
}

#[test]
fn a_running_node_finds_the_damage_and_mends_its_log_from_memory() {
    let up = Up::start_with(&[], &[("EVERRING_SCRUB_BYTES_PER_SECOND", "134217728")]);
    fill(&up);
    let before = eventually("n2 is not ready", || ready(&up, "n2"));
    assert_eq!(before["scrub"]["damage_found"], 0, "{before}");
    spoil(&up, "n2");
    let mended = eventually("n2 has not found and mended it", || {
        let status = ready(&up, "n2")?;
        let scrub = &status["scrub"];
        if scrub["damage_found"] == 1 && scrub["damaged_segments"] == 0 { Ok(status) } else { Err(scrub.to_string()) }
    });
    assert_eq!(mended["id"], before["id"]);
    assert!(!log_of(&up, "n2").exists(), "the damaged segment is given up");

    signal(up.pid("n2"), Signal::KILL);
    let after = eventually("n2 does not come back", || {
        let status = ready(&up, "n2")?;
        if status["incarnation"] != before["incarnation"] { Ok(status) } else { Err("it is the old one".to_owned()) }
    });
    assert_eq!(after["id"], before["id"], "its log is whole, so it is still the same member");
    expect_filled(&up);
}

#[test]
fn a_node_that_starts_on_damage_begins_anew_and_is_filled_by_its_peers() {
    let up = Up::start_with(&[], &[("EVERRING_SCRUB_BYTES_PER_SECOND", "0")]);
    fill(&up);
    let before = eventually("n3 is not ready", || ready(&up, "n3"));
    spoil(&up, "n3");
    signal(up.pid("n3"), Signal::KILL);
    let after = eventually("n3 does not come back as a new member", || {
        let status = ready(&up, "n3")?;
        if status["id"] != before["id"] { Ok(status) } else { Err("it is the old one".to_owned()) }
    });
    assert_eq!(after["scrub"]["damage_found"], 1, "{after}");
    // What it held before may have lacked the last write, which two others sufficed for; a copy lacks none.
    assert!(after["registers"].as_u64() >= Some(KEYS as u64), "{after}");
    let aside = std::fs::read_dir(up.data().join("n3")).expect("its directory");
    let names: Vec<String> = aside.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.starts_with("log.aside-")), "what was spoiled is kept: {names:?}");

    // The others alone would not be a majority of every arc, so the new member is needed.
    signal(up.pid("n1"), Signal::STOP);
    expect_filled(&up);
    signal(up.pid("n1"), Signal::CONT);
}
