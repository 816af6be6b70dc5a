//! The trace check against a real Jaeger v2 in the place of our own sink.
//!
//! Runs when EVERRING_JAEGER_BIN names the binary, which `tests/tools/build.sh jaeger` builds and prints the path of.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{eventually, everring, get_json};

/// A Jaeger of the test's own, killed at the end of the test however it ends.
struct Jaeger {
    child: Child,
    otlp: u16,
    query: u16,
}

impl Jaeger {
    fn start(binary: &str) -> Jaeger {
        // Held until all are chosen, so that they differ.
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<u16> = held.iter().map(|port| port.local_addr().expect("bound").port()).collect();
        drop(held);
        let child = Command::new(binary)
            .arg("--config")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../observability/jaeger/local.yaml"))
            .env("JAEGER_OTLP_PORT", ports[0].to_string())
            .env("JAEGER_QUERY_PORT", ports[1].to_string())
            .env("JAEGER_QUERY_GRPC_PORT", ports[2].to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("EVERRING_JAEGER_BIN={binary} does not start: {error}"));
        let jaeger = Jaeger { child, otlp: ports[0], query: ports[1] };
        eventually("Jaeger does not answer", || get_json(&format!("127.0.0.1:{}", ports[1]), "/api/services"));
        eventually("Jaeger takes no spans", || {
            TcpStream::connect(("127.0.0.1", ports[0])).map_err(|error| error.to_string())
        });
        jaeger
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        // It may have ended by itself; then the test has said so already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_trace_check_asks_a_real_jaeger() {
    let Ok(binary) = std::env::var("EVERRING_JAEGER_BIN") else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED: the trace check against a real Jaeger; set EVERRING_JAEGER_BIN to what \
             tests/tools/build.sh jaeger prints"
        );
        return;
    };
    let jaeger = Jaeger::start(&binary);
    let directory = TempDir::new().expect("a directory");
    // A generous deadline and a low rate: the traces are the subject here, not how fast this machine is.
    let arguments =
        ["up", "--chaos", "--for", "10s", "--mean", "1s", "--seed", "5", "--deadline", "10s", "--rate", "60"];
    let output = everring(&arguments)
        .args(["--output", "json", "--data"])
        .arg(directory.path().join("data"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", jaeger.otlp))
        .env("EVERRING_JAEGER_QUERY", format!("http://127.0.0.1:{}", jaeger.query))
        .output()
        .expect("it ends");
    let verdict: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let faults = verdict["faults"].as_array().expect("a list");
    assert!(!faults.is_empty(), "{verdict}");
    assert!(verdict["traces"]["checked"].as_u64().is_some_and(|checked| checked > 0), "{verdict}");
    assert_eq!(verdict["traces"]["complete"], verdict["traces"]["checked"], "{verdict}");
    assert_eq!(verdict["traces"]["contradicting"], 0, "{verdict}");
}
