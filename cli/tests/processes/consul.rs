//! The whole of Everring with a real Consul agent in discovery's place: it uses documented calls only, so nothing of it
//! may notice.
//!
//! Runs when EVERRING_CONSUL_BIN names the binary, which `tests/tools/build.sh consul` builds and prints the path of.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ending, eventually, get_json, run, service};

/// As [`get_json`], but by HTTP/1.0: Consul sends long answers of 1.1 in chunks.
fn ask(address: &str, path: &str) -> Result<Value, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {answer}"))?;
    serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
}

/// An agent of the test's own, in memory; gives its address.
fn consul(binary: &str) -> (Ending, String) {
    // Held until all are chosen, so that they differ.
    let held: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let ports: Vec<String> = held.iter().map(|port| port.local_addr().expect("bound").port().to_string()).collect();
    drop(held);
    let off = ["-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1", "-log-level", "error"];
    let mut command = Command::new(binary);
    command.args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1"]).args(off);
    for (flag, port) in ["-http-port", "-server-port", "-serf-lan-port", "-serf-wan-port"].iter().zip(&ports) {
        command.args([*flag, port]);
    }
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap_or_else(|error| panic!("EVERRING_CONSUL_BIN={binary} does not start: {error}"));
    let address = format!("127.0.0.1:{}", ports[0]);
    let ending = Ending(child);
    eventually("Consul finds nobody in charge", || {
        let leader = ask(&address, "/v1/status/leader")?;
        if leader.as_str().is_some_and(|leader| !leader.is_empty()) { Ok(()) } else { Err(leader.to_string()) }
    });
    (ending, address)
}

fn node(number: u16, directory: &TempDir, discovery: &str) -> (Ending, String) {
    let name = format!("n{number}");
    let data = directory.path().join(&name);
    let arguments = ["storage-node", "--name", &name, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"];
    let more = ["--ring-size", "3", "--discovery", discovery, "--data", data.to_str().expect("text")];
    service(&[&arguments[..], &more].concat())
}

#[test]
fn everring_runs_on_a_real_consul() {
    let Ok(binary) = std::env::var("EVERRING_CONSUL_BIN") else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let _ = writeln!(
            std::io::stderr(),
            "!!! SKIPPED everring_runs_on_a_real_consul: set EVERRING_CONSUL_BIN (tests/tools/build.sh consul)"
        );
        return;
    };
    let (_consul, address) = consul(&binary);
    let discovery = format!("http://{address}");
    let directory = TempDir::new().expect("a directory");
    let mut nodes: Vec<_> = (1..=3).map(|number| node(number, &directory, &discovery)).collect();
    let front = ["--listen", "127.0.0.1:0", "--discovery", &discovery];
    let (_router, router) = service(&[&["router"][..], &front].concat());
    let (_gateway, gateway) = service(&[&["gateway"][..], &front].concat());

    // What Consul itself knows of the fleet.
    eventually("Consul does not list three nodes that pass", || {
        let found = ask(&address, "/v1/health/service/everring-storage-node?passing")?;
        if found.as_array().is_some_and(|found| found.len() == 3) { Ok(()) } else { Err(found.to_string()) }
    });
    let view = ask(&address, "/v1/kv/everring/?keys").expect("the view's key");
    assert!(view.as_array().is_some_and(|keys| !keys.is_empty()), "{view}");

    let gateway = format!("http://{gateway}");
    let put = |key: &str, value: &str| {
        eventually("the write is not taken", || {
            let output = run(&["put", key, value, "--gateway", &gateway]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        });
    };
    let get = |key: &str| {
        let output = run(&["get", key, "--gateway", &gateway]);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    put("greeting", "hello");
    assert_eq!(get("greeting"), "hello");

    // A node dies and comes back with its data, under the same name at another port.
    drop(nodes.remove(0));
    put("greeting", "hello again");
    assert_eq!(get("greeting"), "hello again");
    nodes.push(node(1, &directory, &discovery));
    eventually("the node that came back is not found", || {
        let found = ask(&address, "/v1/health/service/everring-storage-node?passing")?;
        if found.as_array().is_some_and(|found| found.len() == 3) { Ok(()) } else { Err(found.to_string()) }
    });
    eventually("the router does not answer", || get_json(&router, "/version"));
    assert_eq!(get("greeting"), "hello again");
}
