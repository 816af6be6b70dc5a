//! Discovery as processes of its own: what people ask it, and a fleet that goes on when all of it is dead.

use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ending, assert_refused, eventually, get_json, run, service};

/// Replicas of discovery that can end and start again at the same addresses.
struct Discovery<'a> {
    directory: &'a Path,
    /// Name, HTTP address, address for the other replicas.
    replicas: Vec<(String, String, String)>,
    running: Vec<Option<Ending>>,
}

impl Discovery<'_> {
    fn plan(directory: &Path, count: usize) -> Discovery<'_> {
        // Held until all are chosen, so that they differ.
        let held: Vec<_> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let address = |at: usize| held[at].local_addr().expect("bound").to_string();
        let replicas = (0..count).map(|at| (format!("d{}", at + 1), address(2 * at), address(2 * at + 1))).collect();
        Discovery { directory, replicas, running: (0..count).map(|_| None).collect() }
    }

    fn run(&mut self, at: usize) {
        let list: Vec<String> = self.replicas.iter().map(|(name, _, peer)| format!("{name}={peer}")).collect();
        let (name, http, _) = &self.replicas[at];
        let data = self.directory.join(name);
        let arguments = ["discovery", "--name", name, "--listen", http, "--replicas", &list.join(",")];
        let (ending, _) = service(&[&arguments[..], &["--data", data.to_str().expect("text")]].concat());
        self.running[at] = Some(ending);
    }

    fn run_all(&mut self) {
        for at in 0..self.replicas.len() {
            self.run(at);
        }
        eventually("they do not all vote", || {
            let members = self.members()?;
            let voters = members.iter().filter(|member| member["Voter"] == true).count();
            if voters == self.replicas.len() { Ok(()) } else { Err(format!("{members:?}")) }
        });
    }

    fn kill_all(&mut self) {
        self.running.iter_mut().for_each(|running| *running = None);
    }

    fn urls(&self) -> String {
        self.replicas.iter().map(|(_, http, _)| format!("http://{http}")).collect::<Vec<_>>().join(",")
    }

    fn members(&self) -> Result<Vec<Value>, String> {
        let output = run(&["discovery", "members", "--output", "json", "--discovery", &self.urls()]);
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).map_err(|_| said())
    }

    /// The storage nodes that the first replica shows as well.
    fn passing(&self) -> Result<usize, String> {
        let found = get_json(&self.replicas[0].1, "/v1/health/service/everring-storage-node?passing")?;
        found.as_array().map(Vec::len).ok_or_else(|| found.to_string())
    }
}

#[test]
fn people_see_save_and_restore_a_discovery() {
    let directory = TempDir::new().expect("a directory");
    let mut discovery = Discovery::plan(directory.path(), 3);
    discovery.run_all();
    let members = discovery.members().expect("members");
    assert_eq!(members.iter().filter(|member| member["Leader"] == true).count(), 1, "{members:?}");

    let (file, urls) = (directory.path().join("saved"), discovery.urls());
    let file = file.to_str().expect("text");
    let ask = |arguments: &[&str]| {
        let output = run(&[&["discovery"][..], arguments, &["--discovery", &urls]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    ask(&["snapshot", file]);
    // One of three is away: nobody notices.
    discovery.running[0] = None;
    ask(&["restore", file]);
    assert_refused(
        &run(&["discovery", "restore", file, "--discovery", "http://127.0.0.1:9"]),
        &["nothing was restored"],
    );
    assert_refused(&run(&["discovery", "members", "--remove", "d9", "--discovery", &urls]), &["no replica d9"]);
    ask(&["members", "--remove", "d1"]);
    eventually("it is still there", || {
        let members = discovery.members()?;
        if members.len() == 2 { Ok(()) } else { Err(format!("{members:?}")) }
    });
}

#[test]
fn a_fleet_goes_on_without_discovery_and_router_and_nothing_flaps_when_they_return() {
    let directory = TempDir::new().expect("a directory");
    let mut discovery = Discovery::plan(directory.path(), 3);
    discovery.run_all();
    let urls = discovery.urls();
    let node = |name: &str| {
        let data = directory.path().join(name);
        let arguments = ["storage-node", "--name", name, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"];
        let more = ["--ring-size", "3", "--discovery", &urls, "--data", data.to_str().expect("text")];
        service(&[&arguments[..], &more].concat())
    };
    let mut nodes: Vec<_> = ["n1", "n2", "n3"].map(node).into();
    let front = ["--listen", "127.0.0.1:0", "--discovery", &urls];
    let router = service(&[&["router"][..], &front].concat());
    let (_gateway, gateway) = service(&[&["gateway"][..], &front].concat());
    let gateway = format!("http://{gateway}");
    let put = |value: &str| {
        let output = run(&["put", "greeting", value, "--gateway", &gateway]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    };
    let get = || {
        let output = run(&["get", "greeting", "--gateway", &gateway]);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    eventually("the fleet does not come up", || put("before"));
    eventually("not all nodes pass", || match discovery.passing() {
        Ok(3) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    drop(router);
    discovery.kill_all();
    // Not once refused, from here on.
    put("without discovery").expect("written");
    assert_eq!(get(), "without discovery");
    let (n1, n1_http) = nodes.remove(0);
    drop(n1);
    put("without n1").expect("written");
    assert_eq!(get(), "without n1");
    nodes.insert(0, node("n1"));
    let state = |http: &str| get_json(http, "/status").map(|status| status["state"].clone());
    eventually("n1 does not come back", || match state(&nodes[0].1) {
        Ok(state) if state == "ready" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(nodes.remove(1));
    put("without n2").expect("n1 and n3 are a majority");
    assert_eq!(get(), "without n2");

    discovery.run_all();
    // Whoever never went away passes at every look; n1, which discovery last saw at another address, is found there.
    eventually("n1 is not found where it is now", || {
        let passing = discovery.passing()?;
        assert!(passing >= 2, "somebody who was well is not shown");
        let found = get_json(&discovery.replicas[0].1, "/v1/health/service/everring-storage-node")?;
        let text = found.to_string();
        let moved = text.contains(&format!("{:?}", nodes[0].1)) && !text.contains(&format!("{n1_http:?}"));
        if moved { Ok(()) } else { Err(text) }
    });
    put("after").expect("written");
    assert_eq!(get(), "after");
}
