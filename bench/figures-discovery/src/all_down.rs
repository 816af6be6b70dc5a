//! Every discovery and router process is dead, storage nodes are killed and come back, and clients go on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use processes::{Process, free_ports};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::http::Connection;

const NODES: usize = 5;
const READY_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// What Everring's own bars give every request.
const DEADLINE: &str = "1s";
const KILL_EVERY: Duration = Duration::from_secs(10);
/// For how long after discovery's return it is watched whether anything flaps: longer than any TTL of the fleet.
const WATCHED: Duration = Duration::from_secs(15);

struct Child {
    name: String,
    args: Vec<String>,
    http: SocketAddr,
    process: Option<Process>,
}

struct Fleet {
    everring: PathBuf,
    work: PathBuf,
    children: Vec<Child>,
    starts: usize,
}

/// Runs a fleet without discovery and routers for `seconds`.
pub fn measure(everring: &Path, work: &Path, seconds: u64) -> Result<(u64, Value)> {
    let work = work.join("all-down");
    std::fs::create_dir_all(&work)?;
    let mut fleet = Fleet::plan(everring, &work)?;
    fleet.start("d")?;
    fleet.start("")?;
    for name in fleet.names(|name| name.starts_with(['d', 'r'])) {
        fleet.kill(&name)?;
    }
    let gateways = fleet.urls("g").join(",");
    let report = work.join("verify.json");
    let mut verify = Command::new(everring);
    verify.args(["verify", "--gateway", &gateways, "--for", &format!("{seconds}s"), "--deadline", DEADLINE]);
    verify.args(["--quiet", "--report"]).arg(&report);
    let verifier = Process::start("verify", verify, &work)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut kills = 0;
    while Instant::now() + KILL_EVERY < end {
        let name = format!("n{}", kills % NODES + 1);
        let round = Instant::now();
        fleet.kill(&name)?;
        kills += 1;
        fleet.start(&name)?;
        std::thread::sleep(KILL_EVERY.saturating_sub(round.elapsed()));
    }
    let kept = verifier.wait(Duration::from_secs(seconds + 180))?;
    let text = std::fs::read(&report).context("the verifier left no report")?;
    let verdict: Value = serde_json::from_slice(&text)?;
    let number = |name: &str| verdict["requests"][name].as_u64().unwrap_or(u64::MAX);
    let failed = number("failed").saturating_add(number("unknown"));
    fleet.start("d")?;
    let flaps = fleet.flaps()?;
    let details = json!({
        "seconds": seconds,
        "node_kills": kills,
        "requests": verdict["requests"],
        "deadline": DEADLINE,
        "latency_ms": verdict["latency_ms"],
        "verdict": verdict["verdict"],
        "verdict_kept": kept,
        "acked_writes": verdict["acked_writes"],
        "flaps_after_return": flaps,
    });
    Ok((failed, details))
}

impl Fleet {
    fn plan(everring: &Path, work: &Path) -> Result<Fleet> {
        let ports = free_ports(2 * 3 + 2 * NODES + 3)?;
        let mut next = ports.into_iter().map(|port| format!("127.0.0.1:{port}"));
        let mut take = || next.next().context("enough ports were taken");
        let mut children = Vec::new();
        let discovery: Vec<(String, String)> = (0..3).map(|_| Ok((take()?, take()?))).collect::<Result<_>>()?;
        let urls = discovery.iter().map(|(http, _)| format!("http://{http}")).collect::<Vec<_>>().join(",");
        let replicas: Vec<String> =
            discovery.iter().enumerate().map(|(at, (_, peer))| format!("d{}={peer}", at + 1)).collect();
        let mut add = |name: String, role: &str, http: String, more: &[&str]| -> Result<()> {
            let mut args = vec![role.to_owned(), "--name".into(), name.clone(), "--listen".into(), http.clone()];
            args.extend(more.iter().map(|arg| (*arg).to_owned()));
            children.push(Child { name, args, http: http.parse()?, process: None });
            Ok(())
        };
        let data = |name: &str| work.join(name).display().to_string();
        for (at, (http, _)) in discovery.iter().enumerate() {
            let name = format!("d{}", at + 1);
            let more = ["--data", &data(&name), "--replicas", &replicas.join(",")];
            add(name, "discovery", http.clone(), &more)?;
        }
        for number in 1..=NODES {
            let name = format!("n{number}");
            let more = ["--peer-listen", &take()?, "--data", &data(&name), "--discovery", &urls];
            add(name, "storage-node", take()?, &more)?;
        }
        add("r1".into(), "router", take()?, &["--discovery", &urls])?;
        for name in ["g1", "g2"] {
            add(name.into(), "gateway", take()?, &["--discovery", &urls])?;
        }
        Ok(Fleet { everring: everring.to_owned(), work: work.to_owned(), children, starts: 0 })
    }

    fn names(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.children.iter().map(|child| child.name.clone()).filter(|name| wanted(name)).collect()
    }

    fn urls(&self, prefix: &str) -> Vec<String> {
        let found = self.children.iter().filter(|child| child.name.starts_with(prefix));
        found.map(|child| format!("http://{}", child.http)).collect()
    }

    /// Starts those that do not run and whose names begin so, and waits until they are ready.
    fn start(&mut self, prefix: &str) -> Result<()> {
        for child in self.children.iter_mut().filter(|child| child.name.starts_with(prefix)) {
            if child.process.is_none() {
                self.starts += 1;
                let mut command = Command::new(&self.everring);
                command.args(&child.args);
                for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("EVERRING_")) {
                    command.env_remove(variable);
                }
                let log = format!("{}-{}", child.name, self.starts);
                child.process = Some(Process::start(&log, command, &self.work)?);
            }
        }
        let deadline = Instant::now() + READY_MAX;
        for child in self.children.iter().filter(|child| child.name.starts_with(prefix)) {
            while !is_ready(child.http) {
                if Instant::now() > deadline {
                    bail!("{} was not ready within {READY_MAX:?}; its logs are in {}", child.name, self.work.display());
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }

    fn kill(&mut self, name: &str) -> Result<()> {
        let child = self.children.iter_mut().find(|child| child.name == name).context("it is in the fleet")?;
        let process = child.process.take().context("it runs")?;
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::KILL).context("it is ours to kill")?;
        drop(process);
        Ok(())
    }

    /// Whether any node is seen critical or missing in the time after discovery's return.
    fn flaps(&self) -> Result<u64> {
        let discovery = self.children.iter().find(|child| child.name == "d1").context("there is one")?.http;
        let until = Instant::now() + WATCHED;
        let mut flaps = 0;
        while Instant::now() < until {
            let mut connection = Connection::new(discovery, Duration::from_secs(5));
            let path = "/v1/health/service/everring-storage-node?passing";
            if let Ok((200, body)) = connection.ask("GET", path, b"") {
                let found: Vec<Value> = serde_json::from_slice(&body)?;
                flaps += u64::from(found.len() < NODES);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(flaps)
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let mut connection = Connection::new(address, Duration::from_secs(1));
    matches!(connection.ask("GET", "/readyz", b""), Ok((200, _)))
}
