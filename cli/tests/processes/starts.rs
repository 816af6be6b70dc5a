//! Starts that cannot succeed: one sentence on standard error, exit status 2, nothing half-started.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;

use tempfile::TempDir;

use crate::support::{assert_refused, everring, run};

/// Nothing ever listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let data = TempDir::new().expect("a directory");
    let data = data.path().to_str().expect("text");
    for role in ["discovery", "router", "gateway"] {
        assert_refused(&run(&[role, "--listen", &address]), &[&address]);
    }
    let node = ["storage-node", "--data", data, "--listen", &address];
    assert_refused(&run(&node), &[&address]);
    let node = ["storage-node", "--data", data, "--listen", "127.0.0.1:0", "--peer-listen", &address];
    assert_refused(&run(&node), &[&address]);
}

#[test]
fn a_data_directory_that_cannot_be_one_is_named() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").expect("a file");
    // Below a file nobody can make a directory, not even root, as whom tests often run.
    let below = file.join("data");
    let below = below.to_str().expect("text");
    assert_refused(&run(&["discovery", "--listen", "127.0.0.1:0", "--data", below]), &[below]);
    let node = ["storage-node", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--data", below];
    assert_refused(&run(&node), &[below]);
    assert_refused(&run(&["up", "--data", below]), &[below, "--data"]);
}

#[test]
fn one_discovery_uses_a_data_directory() {
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().to_str().expect("text");
    let arguments = ["discovery", "--listen", "127.0.0.1:0", "--data", data];
    let mut first = everring(&arguments).spawn().expect("the program starts");
    let mut line = String::new();
    BufReader::new(first.stdout.take().expect("piped")).read_line(&mut line).expect("its line");
    assert!(line.starts_with("everring discovery d1 ready http=127.0.0.1:"), "{line}");
    let second = run(&arguments);
    first.kill().expect("our child");
    first.wait().expect("our child");
    assert_refused(&second, &[data, "another process"]);
}

#[test]
fn without_discovery_nothing_starts_for_the_first_time() {
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().join("node");
    let data = data.to_str().expect("text");
    for role in ["router", "gateway"] {
        let output = run(&[role, "--listen", "127.0.0.1:0", "--discovery", NOWHERE]);
        assert_refused(&output, &["discovery", "--discovery"]);
    }
    let node = ["storage-node", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--data", data];
    assert_refused(&run(&[&node[..], &["--discovery", NOWHERE]].concat()), &["discovery", "--discovery"]);
}

#[test]
fn an_address_or_a_collector_of_another_form_is_refused() {
    let gateway = ["gateway", "--listen", "127.0.0.1:0"];
    assert_refused(&run(&["gateway", "--listen", "here"]), &["--listen"]);
    assert_refused(&run(&[&gateway[..], &["--discovery", "nonsense"]].concat()), &["discovery"]);
    let output = everring(&gateway).env("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense").output().expect("it ends");
    assert_refused(&output, &["OTLP endpoint", "nonsense"]);
    assert_refused(&run(&[&gateway[..], &["--log-level", "a=b=c"]].concat()), &["log filter"]);
    assert_refused(&run(&["get", "k", "--gateway", "https://127.0.0.1:1"]), &["base URL"]);
}

#[test]
fn what_is_not_known_is_a_usage_error() {
    for wrong in
        [&["--nonsense"][..], &["up", "--nonsense"], &["nonsense"], &[], &["up", "--for", "60"], &["check", "a", "b"]]
    {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_refused(&run(&["up", "--nodes", "2"]), &["3..=64"]);
    assert_refused(&run(&["up", "--chaos", "--faults", "flood"]), &["no fault `flood`", "kill or pause"]);
    assert_refused(&run(&["functions", "--any", "thing"]), &["not offered yet"]);
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&help.stdout).contains("functions"));
}

#[test]
fn the_cluster_monkey_says_what_it_lacks() {
    // With the feature: a cluster. Without: the feature. Both say what to do.
    let words = if cfg!(feature = "kubernetes") { "KUBECONFIG" } else { "--features kubernetes" };
    let output = everring(&["chaos", "--listen", "127.0.0.1:0"])
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", "/nonexistent")
        .output()
        .expect("the program starts");
    assert_refused(&output, &[words]);
    assert_refused(&run(&["chaos", "--faults", "pause"]), &["pause", "kill, delete or evict"]);
}

#[test]
fn a_process_number_that_is_not_the_parent_is_no_keeper() {
    let output = everring(&["check"]).env("EVERRING_PARENT", "1").output().expect("it ends");
    assert_refused(&output, &["EVERRING_PARENT"]);
}

#[test]
fn a_fleet_that_is_not_there_is_named_with_what_to_do() {
    let output = run(&["ring", "--gateway", NOWHERE]);
    assert_refused(&output, &["127.0.0.1:1", "everring up", "--gateway"]);
    assert_refused(&run(&["get", "k", "--gateway", NOWHERE]), &["127.0.0.1:1", "everring up"]);
    assert_refused(&run(&["replay", "no-such-file", "--gateway", NOWHERE]), &["no-such-file"]);
}
