//! `everring up`: it comes up, heals, ends, and leaves nobody behind.

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Up, assert_refused, eventually, everring, get_json, run, runs, signal, wait_for_end_of};

fn put(up: &Up, key: &str, value: &str) {
    let output = run(&["put", key, value, "--gateway", up.gateway()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

fn get(up: &Up, key: &str) -> String {
    let output = run(&["get", key, "--gateway", up.gateway()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn incarnation(up: &Up, name: &str) -> Result<u64, String> {
    let status = get_json(&up.http(name), "/status")?;
    match (status["state"].as_str(), status["incarnation"].as_u64()) {
        (Some("ready"), Some(incarnation)) => Ok(incarnation),
        _ => Err(status.to_string()),
    }
}

/// All four lookups, over the live ring. After a kill the ring may need a moment until its pointers are right again.
fn every_strategy_finds_the_owner(up: &Up, owner: &serde_json::Value) {
    for lookup in ["index", "index", "table", "neighbours", "fingers"] {
        eventually("a lookup does not end at the owner", || {
            let found = run(&["route", "greeting", "--lookup", lookup, "--output", "json", "--gateway", up.gateway()]);
            let found: serde_json::Value =
                serde_json::from_slice(&found.stdout).map_err(|error| format!("{lookup}: {error}: {found:?}"))?;
            let right = found["lookup"] == lookup && found["owner"] == *owner && found["agrees_with_view"] == true;
            if right { Ok(()) } else { Err(format!("{lookup}: {found}")) }
        });
    }
}

/// Each hop of a lookup is a span of its trace, and the lookup says how many there were.
fn each_hop_is_a_span(up: &Up) {
    eventually("a lookup and its hops are not in the traces", || {
        // A gateway looks into its table itself.
        let of = |service: &str| get_json(up.traces(), &format!("/api/traces?service=everring-{service}&limit=100"));
        let traces = [of("router")?, of("gateway")?];
        let mut seen = std::collections::BTreeSet::new();
        for trace in traces.iter().flat_map(|traces| traces["data"].as_array().into_iter().flatten()) {
            let spans = trace["spans"].as_array().ok_or("no spans")?;
            let tag = |span: &serde_json::Value, name: &str| {
                let tags = span["tags"].as_array().into_iter().flatten();
                tags.filter(|tag| tag["key"] == name).map(|tag| tag["value"].clone()).next()
            };
            for lookup in spans.iter().filter(|span| tag(span, "everring.lookup.hops").is_some()) {
                let is_hop = |span: &&serde_json::Value| {
                    span["operationName"] == "lookup hop"
                        && tag(span, "span.kind") == Some("client".into())
                        && span["references"][0]["spanID"] == lookup["spanID"]
                };
                let hops = spans.iter().filter(is_hop).count();
                if tag(lookup, "everring.lookup.hops") != Some(hops.into()) {
                    return Err(format!("{lookup} has {hops} hops in {trace}"));
                }
                seen.insert(lookup["operationName"].as_str().unwrap_or_default().to_owned());
            }
        }
        let all = ["lookup fingers", "lookup index", "lookup neighbours", "lookup table"];
        if all.iter().all(|name| seen.contains(*name)) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// The router looks at the ring by itself, and finds every invariant kept.
fn the_ring_is_in_order(up: &Up) {
    eventually("the ring is not in order", || {
        let ring = get_json(&up.http("r1"), "/v1/ring")?;
        let invariants = ring["invariants"].as_array().ok_or("no invariants yet")?;
        let hold = invariants.iter().all(|state| state["holds"] == true);
        let whole = ring["members"] == 48 && ring["silent"] == serde_json::json!([]) && ring["stale_fingers"] == 0.0;
        if hold && whole && invariants.len() == 11 { Ok(()) } else { Err(ring.to_string()) }
    });
}

#[test]
fn a_fleet_serves_and_a_killed_node_comes_back_on_its_port_with_its_data() {
    let up = Up::start(&[]);
    let data = up.data().to_owned();
    put(&up, "greeting", "hello");
    assert_eq!(get(&up, "greeting"), "hello");

    let before = eventually("n2 is not ready", || incarnation(&up, "n2"));
    signal(up.pid("n2"), Signal::KILL);
    let after = eventually("n2 does not come back", || {
        incarnation(&up, "n2").and_then(|now| if now > before { Ok(now) } else { Err(format!("still {now}")) })
    });
    assert!(after > before);
    assert!(!runs(up.pid("n2")), "the first life is over");
    assert_eq!(get(&up, "greeting"), "hello");

    // The people's other commands, on the same fleet.
    let ring = run(&["ring", "--output", "json", "--gateway", up.gateway()]);
    let ring: serde_json::Value = serde_json::from_slice(&ring.stdout).expect("JSON");
    assert_eq!(ring["members"].as_array().map(Vec::len), Some(3), "{ring}");
    let route = run(&["route", "greeting", "--output", "json", "--gateway", up.gateway()]);
    let route: serde_json::Value = serde_json::from_slice(&route.stdout).expect("JSON");
    assert_eq!(route["replicas"].as_array().map(Vec::len), Some(3), "{route}");
    every_strategy_finds_the_owner(&up, &route["owner"]);
    each_hop_is_a_span(&up);
    the_ring_is_in_order(&up);
    let added = run(&["add", "counter", "-7", "--gateway", up.gateway()]);
    assert_eq!(String::from_utf8_lossy(&added.stdout), "-7\n");
    let explained = run(&["explain", "greeting", "--gateway", up.gateway()]);
    assert!(String::from_utf8_lossy(&explained.stdout).contains("level=strict"), "{explained:?}");
    assert_eq!(run(&["put", "greeting", "x", "--create", "--gateway", up.gateway()]).status.code(), Some(1));
    assert_eq!(run(&["del", "greeting", "--gateway", up.gateway()]).status.code(), Some(0));
    assert_eq!(run(&["get", "greeting", "--gateway", up.gateway()]).status.code(), Some(1));

    let pids = up.pids();
    up.signal(Signal::INT);
    let (status, stderr) = up.wait();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("n2 was ended by signal 9"), "{stderr}");
    wait_for_end_of(&pids);
    assert!(!data.exists(), "the temporary directory is removed");
}

#[test]
fn ctrl_c_leaves_no_process_and_the_data_serves_the_next_fleet() {
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().to_str().expect("text");
    let up = Up::start(&["--data", data]);
    put(&up, "greeting", "hello");

    // Another keeper, another node and another cluster are kept away from it.
    assert_refused(&run(&["up", "--nodes", "3", "--data", data]), &["in use by another `everring up`", "--data"]);
    let discovery = up.addresses["discovery"].as_str().expect("an address").to_owned();
    let n1 = up.data().join("n1");
    let n1 = n1.to_str().expect("text");
    let node = ["storage-node", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--discovery", &discovery];
    let with = |more: &[&str]| run(&[&node[..], more].concat());
    assert_refused(&with(&["--name", "n1", "--data", n1]), &["data directory", "another process"]);

    let pids = up.pids();
    up.signal(Signal::INT);
    assert_eq!(up.wait().0, Some(0));
    wait_for_end_of(&pids);

    assert_refused(&with(&["--name", "n1", "--data", n1, "--cluster-secret", "another"]), &["cluster"]);
    assert_refused(&run(&["up", "--nodes", "4", "--data", data]), &["3 storage nodes", "--nodes 3"]);

    let up = Up::start(&["--data", data]);
    assert_eq!(get(&up, "greeting"), "hello");
    let pids = up.pids();
    // The second one does not wait for anybody.
    up.signal(Signal::INT);
    up.signal(Signal::INT);
    up.wait();
    wait_for_end_of(&pids);
    assert!(directory.path().join("n1").exists(), "given data stays");
}

#[test]
fn a_data_directory_belongs_to_one_name() {
    let directory = TempDir::new().expect("a directory");
    let up = Up::start(&["--data", directory.path().to_str().expect("text")]);
    let discovery = up.addresses["discovery"].as_str().expect("an address").to_owned();
    let copy = TempDir::new().expect("a directory");
    std::fs::create_dir(copy.path().join("log")).expect("a directory");
    for entry in std::fs::read_dir(up.data().join("n1").join("log")).expect("n1's log") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join("log").join(entry.file_name())).expect("a copy");
    }
    let copy = copy.path().to_str().expect("text");
    let node = ["storage-node", "--name", "n9", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"];
    let output = run(&[&node[..], &["--discovery", &discovery, "--data", copy]].concat());
    assert_refused(&output, &["another process is at work under the identity", "start n9 on an empty directory"]);
}

#[test]
fn no_child_outlives_an_up_that_is_killed() {
    let up = Up::start(&["--keep"]);
    let (pids, data) = (up.pids(), up.data().to_owned());
    assert!(pids.len() >= 7 && pids.iter().all(|pid| runs(*pid)), "{pids:?}");
    up.signal(Signal::KILL);
    up.wait();
    wait_for_end_of(&pids);
    std::fs::remove_dir_all(data).expect("what was kept");
}

#[test]
fn a_child_that_cannot_start_ends_the_whole_start_with_its_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = everring(&["up", "--nodes", "3", "--gateways", "1", "--port", &port]).output().expect("it ends");
    assert_refused(&output, &["gateway g1 did not start", "cannot listen on", &port, "left in"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let kept = stderr.lines().find_map(|line| line.split_once("are left in ")).expect("a directory").1;
    std::fs::remove_dir_all(kept.trim()).expect("what was kept");
}
