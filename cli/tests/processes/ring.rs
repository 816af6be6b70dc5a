//! `everring ring`: a running fleet grows and shrinks, and says no with a reason.

use std::process::Output;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Up, eventually, everring, get_json, run, runs, service_with, signal};

const KEYS: usize = 40;

fn discovery(up: &Up) -> String {
    up.addresses["discovery"].as_str().expect("an address").to_owned()
}

fn ring(up: &Up, arguments: &[&str]) -> Output {
    let discovery = discovery(up);
    run(&[&["ring"], arguments, &["--discovery", &discovery, "--output", "json"]].concat())
}

fn done(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn refused(output: &Output, word: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    told(output, word);
}

fn told(output: &Output, word: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(word), "`{word}` is missing in: {stderr}");
}

/// The arguments of a storage node that nobody keeps, beside the fleet of `up`.
fn storage_node<'a>(name: &'a str, discovery: &'a str, data: &'a str) -> Vec<&'a str> {
    let node = ["storage-node", "--name", name, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"];
    [&node[..], &["--discovery", discovery, "--data", data]].concat()
}

fn n4<'a>(discovery: &'a str, data: &'a str) -> Vec<&'a str> {
    storage_node("n4", discovery, data)
}

/// Each member's name and state, as a gateway sees them.
fn members(up: &Up) -> Result<Vec<(String, String)>, String> {
    let output = run(&["ring", "--output", "json", "--gateway", up.gateway()]);
    let ring: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let text = |member: &Value, field: &str| member[field].as_str().unwrap_or_default().to_owned();
    let members = ring["members"].as_array().ok_or("no members")?;
    Ok(members.iter().map(|member| (text(member, "name"), text(member, "state"))).collect())
}

fn expect_members(up: &Up, names: &[&str]) {
    eventually("the ring has other members", || {
        let mut found = members(up)?;
        found.sort();
        let wanted: Vec<_> = names.iter().map(|name| ((*name).to_owned(), "member".to_owned())).collect();
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn fill(up: &Up) {
    fill_with(up, "");
}

/// The same with more behind each value.
fn fill_with(up: &Up, more: &str) {
    for key in 0..KEYS {
        let (key, value) = (format!("k{key}"), format!("v{key}{more}"));
        let output = run(&["put", &key, &value, "--gateway", up.gateway()]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn expect_filled(up: &Up) {
    expect_filled_with(up, "");
}

fn expect_filled_with(up: &Up, more: &str) {
    for key in 0..KEYS {
        let output = run(&["get", &format!("k{key}"), "--gateway", up.gateway()]);
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(found, format!("v{key}{more}"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_running_fleet_grows_and_shrinks_and_stays_so_the_next_time() {
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().to_str().expect("text");
    let up = Up::start(&["--data", data]);
    fill(&up);
    refused(&ring(&up, &["remove", "n1"]), "2 members would be left");
    refused(&ring(&up, &["remove", "n9"]), "no member n9");
    refused(&ring(&up, &["add", "n2"]), "a member called n2 already");
    refused(&ring(&up, &["add", "g1"]), "a process called g1 already");
    refused(&ring(&up, &["add", "No Name"]), "is no name");

    let added = done(&ring(&up, &["add", "n4"]));
    assert_eq!(added["complete"], true, "{added}");
    expect_members(&up, &["n1", "n2", "n3", "n4"]);
    expect_filled(&up);

    let n1 = up.pid("n1");
    let removed = done(&ring(&up, &["remove", "n1"]));
    assert_eq!(removed["members"], serde_json::json!(["n2", "n3", "n4"]), "{removed}");
    expect_members(&up, &["n2", "n3", "n4"]);
    eventually("n1 does not end", || if runs(n1) { Err("it runs".to_owned()) } else { Ok(()) });
    expect_filled(&up);
    refused(&ring(&up, &["add", "n1"]), "n1 already");

    up.signal(Signal::INT);
    let (status, stderr) = up.wait();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("n1 ended with exit status 5; it is not started again"), "{stderr}");

    let up = Up::start(&["--data", data]);
    expect_members(&up, &["n2", "n3", "n4"]);
    expect_filled(&up);
}

/// While a change is under way, `everring ring` tells how far each member is.
#[test]
fn the_ring_tells_how_far_copying_is() {
    let up = Up::start(&[]);
    fill_with(&up, &"x".repeat(20_000));
    let (directory, discovery) = (TempDir::new().expect("a directory"), discovery(&up));
    let data = directory.path().join("n4");
    let slow = [("EVERRING_TRANSFER_BYTES_PER_SECOND", "100000")];
    let _n4 = service_with(&n4(&discovery, data.to_str().expect("text")), &slow);
    eventually("n4's progress is not shown", || {
        let output = run(&["ring", "--gateway", up.gateway()]);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let row = table.lines().find(|line| line.starts_with("n4 ")).ok_or(table.clone())?;
        let shown = row.contains("joining") && row.contains(" keys, ") && !row.contains(" 0 keys, ");
        if shown { Ok(()) } else { Err(table) }
    });
    expect_members(&up, &["n1", "n2", "n3", "n4"]);
    let output = run(&["ring", "--gateway", up.gateway()]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("CAME IN"), "nothing is under way");
    expect_filled_with(&up, &"x".repeat(20_000));
}

/// A node that is told to end drains and comes back, or leaves for good, as it was started.
#[test]
fn sigterm_drains_a_node_that_comes_back_and_takes_leave_where_asked_to() {
    let up = Up::start(&[]);
    let (directory, discovery) = (TempDir::new().expect("a directory"), discovery(&up));
    let data = directory.path().join("n4");
    let base = n4(&discovery, data.to_str().expect("text"));
    let mut first = everring(&base).spawn().expect("it starts");
    expect_members(&up, &["n1", "n2", "n3", "n4"]);
    fill(&up);
    signal(first.id(), Signal::TERM);
    assert_eq!(first.wait().expect("it ends").code(), Some(0));
    expect_members(&up, &["n1", "n2", "n3", "n4"]);

    let second = everring(&[&base[..], &["--leave-within", "60s"]].concat()).spawn().expect("it starts");
    eventually("n4 does not come back", || {
        let output = run(&["ring", "--output", "json", "--gateway", up.gateway()]);
        let ring: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let alive = ring["members"].as_array().is_some_and(|list| list.iter().all(|member| member["alive"] == true));
        if alive { Ok(()) } else { Err(ring.to_string()) }
    });
    signal(second.id(), Signal::TERM);
    let left = second.wait_with_output().expect("it ends");
    assert_eq!(left.status.code(), Some(5), "{}", String::from_utf8_lossy(&left.stderr));
    expect_members(&up, &["n1", "n2", "n3"]);
    expect_filled(&up);
    let again = run(&base);
    assert!(String::from_utf8_lossy(&again.stderr).contains("left the ring"), "{again:?}");

    // Asked to, it begins anew on what is left of the directory.
    let mut third = everring(&[&base[..], &["--rejoin"]].concat()).spawn().expect("it starts");
    expect_members(&up, &["n1", "n2", "n3", "n4"]);
    expect_filled(&up);
    signal(third.id(), Signal::TERM);
    assert_eq!(third.wait().expect("it ends").code(), Some(0));
}

/// A member that is away for longer than the grace period is taken out by the others, and is somebody new when it
/// returns.
#[test]
fn a_member_that_stays_away_is_taken_out_and_returns_as_another() {
    let grace = [("EVERRING_GRACE", "1s")];
    let up = Up::start_with(&[], &grace);
    let (directory, discovery) = (TempDir::new().expect("a directory"), discovery(&up));
    let data = directory.path().join("n4");
    let base = n4(&discovery, data.to_str().expect("text"));
    let id_of = |http: &str| get_json(http, "/status").map(|status| status["id"].as_str().unwrap_or("").to_owned());
    let (first, http) = service_with(&base, &grace);
    expect_members(&up, &["n1", "n2", "n3", "n4"]);
    let id = id_of(&http).expect("it answers");
    fill(&up);

    drop(first);
    expect_members(&up, &["n1", "n2", "n3"]);
    expect_filled(&up);

    let (_again, http) = service_with(&base, &grace);
    expect_members(&up, &["n1", "n2", "n3", "n4"]);
    assert_ne!(id_of(&http).expect("it answers"), id);
    let aside = std::fs::read_dir(&data).expect("a directory").flatten();
    assert!(aside.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("aside")), "kept beside");
    expect_filled(&up);
}

/// Waits until these storage nodes' checks pass and no others', as discovery tells.
fn expect_passing(up: &Up, names: &[&str]) {
    let discovery = discovery(up);
    let first = discovery.split(',').next().unwrap_or_default().trim_start_matches("http://").to_owned();
    eventually("other nodes are at work", || {
        let found = get_json(&first, "/v1/health/service/everring-storage-node?passing=1")?;
        let entries = found.as_array().ok_or("no list")?;
        let name = |entry: &Value| entry["Service"]["Meta"]["name"].as_str().unwrap_or_default().to_owned();
        let mut passing: Vec<String> = entries.iter().map(name).collect();
        passing.sort();
        if passing == names { Ok(()) } else { Err(format!("{passing:?}")) }
    });
}

fn epoch(up: &Up) -> u64 {
    let output = run(&["ring", "--output", "json", "--gateway", up.gateway()]);
    let ring: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    ring["epoch"].as_u64().expect("a number")
}

/// `--force` gives up what is lost with the nodes that are named, and nothing else: who lives hands over, and whoever
/// is not named may come back.
#[test]
fn force_gives_up_the_lost_and_nobody_else() {
    let up = Up::start(&[]);
    let (directory, discovery) = (TempDir::new().expect("a directory"), discovery(&up));
    let mut names = vec!["n1", "n2", "n3"];
    let mut others = Vec::new();
    for name in ["n4", "n5", "n6"] {
        let data = directory.path().join(name);
        others.push(service_with(&storage_node(name, &discovery, data.to_str().expect("text")), &[]).0);
        names.push(name);
        expect_members(&up, &names);
    }
    fill(&up);
    expect_passing(&up, &names);

    // Nothing is lost by the leave of one that lives.
    let polite = ring(&up, &["remove", "n6", "--force"]);
    assert_eq!(done(&polite)["members"], serde_json::json!(["n1", "n2", "n3", "n4", "n5"]));
    assert!(!String::from_utf8_lossy(&polite.stderr).contains("giv"), "{polite:?}");
    let mut n6 = others.pop().expect("three");
    assert_eq!(n6.0.wait().expect("it ends").code(), Some(5), "it has handed over");
    expect_filled(&up);

    drop(others);
    expect_passing(&up, &["n1", "n2", "n3"]);
    let before = epoch(&up);
    for (arguments, away) in [
        (&["remove", "n4"][..], "(n4, n5 cannot)"),
        (&["remove", "n4", "n5"], "(n4, n5 cannot)"),
        (&["remove", "n1", "--force"], "(n4, n5 cannot)"),
        (&["remove", "n4", "--force"], "(n5 cannot)"),
    ] {
        let output = ring(&up, arguments);
        refused(&output, away);
        refused(&output, "have no majority of replicas that can be reached");
        refused(&output, "remove them with --force, which gives up what only they held");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("giving up"), "{output:?}");
    }
    assert_eq!(epoch(&up), before, "nothing has begun");

    let forced = ring(&up, &["remove", "n4", "n5", "--force"]);
    assert_eq!(done(&forced)["members"], serde_json::json!(["n1", "n2", "n3"]));
    told(&forced, "giving up what only n4, n5 held: up to ");
    told(&forced, "n4, n5 given up: ");
    expect_members(&up, &["n1", "n2", "n3"]);
    fill_with(&up, "again");
    expect_filled_with(&up, "again");
}

/// The node that copies is killed, and then one that it copies from: the copy goes on, and nothing is lost.
#[test]
fn a_copy_outlives_its_target_and_its_source() {
    let slow = [("EVERRING_TRANSFER_BYTES_PER_SECOND", "20000")];
    let up = Up::start_with(&[], &slow);
    let more = ".".repeat(4_000);
    fill_with(&up, &more);
    let (directory, discovery) = (TempDir::new().expect("a directory"), discovery(&up));
    let data = directory.path().join("n4");
    let base = n4(&discovery, data.to_str().expect("text"));
    let expect_copying = |http: &str| {
        eventually("n4 copies nothing", || {
            let copying = get_json(http, "/status")?["copying"].clone();
            let is_midway =
                copying["bytes"].as_u64() > Some(0) && copying["arcs_copied"].as_u64() < copying["arcs"].as_u64();
            if is_midway { Ok(()) } else { Err(copying.to_string()) }
        });
    };
    let (target, http) = service_with(&base, &slow);
    expect_copying(&http);
    drop(target);

    let (_target, http) = service_with(&base, &slow);
    expect_copying(&http);
    signal(up.pid("n2"), Signal::KILL);
    expect_members(&up, &["n1", "n2", "n3", "n4"]);
    expect_filled_with(&up, &more);
}
