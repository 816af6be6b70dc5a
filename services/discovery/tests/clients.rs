//! Other people's clients against our discovery, by the script that obtains them.
//!
//! Runs when EVERRING_CONSUL_CLIENTS names the clients (`all`, or some of: go python node rust prometheus
//! consul-template), since they come from package registries.

mod common;

use std::io::Write;
use std::path::Path;

use common::Fixture;

#[tokio::test]
async fn other_peoples_clients_find_a_consul() {
    let Ok(wanted) = std::env::var("EVERRING_CONSUL_CLIENTS") else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let _ = writeln!(
            std::io::stderr(),
            "!!! SKIPPED other_peoples_clients_find_a_consul: set EVERRING_CONSUL_CLIENTS=all"
        );
        return;
    };
    let discovery = Fixture::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/consul/run.sh");
    let mut command = tokio::process::Command::new(script);
    command.arg(&discovery.address);
    if wanted != "all" {
        command.args(wanted.split_whitespace());
    }
    let output = command.output().await.expect("the script starts");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // What it skipped must be seen, also when the test passes.
    let _ = writeln!(std::io::stderr(), "{complained}{said}");
    assert!(output.status.success(), "{said}\n{complained}");
    discovery.stop().await;
}
