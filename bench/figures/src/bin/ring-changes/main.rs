//! `make figures-ring-changes`: a node joins a fleet of five under load, one leaves it, one is killed and comes back.
//! The last line is JSON; the same names stand in `make figures-ring`.
//!
//! Beside each time stands what this machine's disk and loopback allow, measured in the same run.

mod limit;
mod load;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use processes::{Process, commit, machine};
use serde_json::{Value, json};

use crate::load::{Load, fill};

/// Measures joining and leaving.
#[derive(Debug, Parser)]
struct Cli {
    /// The program.
    #[arg(long)]
    everring: PathBuf,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/figures/ring-changes.json")]
    out: PathBuf,
    /// The short form: fewer keys.
    #[arg(long)]
    quick: bool,
    /// Records in the ring.
    #[arg(long)]
    keys: Option<u64>,
    /// Where a line for each request under foreground load goes, for looking into a figure.
    #[arg(long)]
    samples: Option<PathBuf>,
}

/// Nodes before the join.
const NODES: u64 = 5;
/// Copies of each key.
const COPIES: u64 = 3;
/// Clients that ask while the ring changes.
const CLIENTS: u64 = 8;
/// Clients that fill it: many writes share a sync.
const FILLERS: u64 = 48;
/// How long a fleet may take to come up, a killed node to come back, and a change to end.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often a node's status is asked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let keys = cli.keys.unwrap_or(if cli.quick { 20_000 } else { 1_000_000 });
    let folder = cli.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let work = folder.join(format!("ring-changes-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be made", work.display()))?;
    let samples = cli.samples.as_ref().map(|path| File::create(path).map(BufWriter::new)).transpose()?;
    let measured = measure(&cli.everring, &work, keys, cli.quick, samples);
    std::fs::remove_dir_all(&work).with_context(|| format!("{} cannot be removed", work.display()))?;
    let figures = measured?;
    let missed = missed(&figures);
    let mut whole = figures.clone();
    whole["machine"] = machine(folder);
    whole["commit"] = json!(commit());
    whole["quick"] = json!(cli.quick);
    whole["missed"] = json!(missed);
    std::fs::write(&cli.out, serde_json::to_string_pretty(&whole)? + "\n")
        .with_context(|| format!("{} cannot be written", cli.out.display()))?;
    missed.iter().for_each(|missed| eprintln!("figures: MISSED: {missed}"));
    println!("{figures}");
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The bars that are not reached, in words.
fn missed(figures: &Value) -> Vec<String> {
    let mut missed = Vec::new();
    for change in ["join", "leave"] {
        let of = |name: &str| figures[change][name].as_f64().unwrap_or(f64::INFINITY);
        for (name, most) in [("moved_over_ideal", 1.1), ("failed_requests", 0.0), ("p99_ratio", 2.0)] {
            if of(name) > most {
                missed.push(format!("{change}.{name} is {} and may be {most}", figures[change][name]));
            }
        }
    }
    if figures["restart_moved_keys"] != json!(0) {
        missed.push(format!("restart_moved_keys is {} and may be 0", figures["restart_moved_keys"]));
    }
    if figures["restart"]["caught_up"] == json!(0) {
        missed.push("nothing was written while the node was away that it had to catch up".to_owned());
    }
    if figures["restart"]["failed_requests"] != json!(0) {
        missed.push(format!("{} requests failed while a node was away", figures["restart"]["failed_requests"]));
    }
    missed
}

fn measure(everring: &Path, work: &Path, keys: u64, quick: bool, samples: Option<BufWriter<File>>) -> Result<Value> {
    let limit = limit::mib_per_second(work)?;
    let fleet = Fleet::start(everring, work)?;
    eprintln!("figures: {keys} records are written");
    let began = Instant::now();
    fill(&fleet.gateways, keys, FILLERS)?;
    eprintln!("figures: that took {:.0} s", began.elapsed().as_secs_f64());
    let mut change = Change { fleet: &fleet, keys, quick, limit, samples };
    let join = change.measure(&["add", "n6"], keys * COPIES / (NODES + 1))?;
    let leave = change.measure(&["remove", "n2"], keys * COPIES / (NODES + 1))?;
    let away = Duration::from_secs(if quick { 5 } else { 20 });
    let Returned { moved, caught_up, written, failed } = fleet.kill_and_return("n3", keys, away)?;
    let restart = json!({"caught_up": caught_up, "written": written, "failed_requests": failed});
    Ok(json!({"join": join, "leave": leave, "restart_moved_keys": moved, "restart": restart, "keys": keys}))
}

/// A change under load.
struct Change<'a> {
    fleet: &'a Fleet,
    keys: u64,
    quick: bool,
    limit: f64,
    /// Where a line for each request goes, if anywhere.
    samples: Option<BufWriter<File>>,
}

impl Change<'_> {
    /// Carries out `everring ring` with these words, which should move `ideal` registers and no more.
    fn measure(&mut self, words: &[&str], ideal: u64) -> Result<Value> {
        eprintln!("figures: everring ring {}", words.join(" "));
        let steady = Load::start(&self.fleet.gateways, self.keys, CLIENTS);
        std::thread::sleep(Duration::from_secs(if self.quick { 5 } else { 20 }));
        let steady = steady.end();
        let before = self.fleet.copied()?;
        let load = Load::start(&self.fleet.gateways, self.keys, CLIENTS);
        let began = Instant::now();
        self.fleet.ring(words)?;
        let seconds = began.elapsed().as_secs_f64();
        let seen = load.end();
        if let Some(samples) = &mut self.samples {
            steady.write_samples(&format!("before-{}", words[0]), samples)?;
            seen.write_samples(words[0], samples)?;
            samples.flush()?;
        }
        let after = self.fleet.copied()?;
        let (mut moved, mut bytes) = (0, 0);
        for (name, now) in after {
            // A node that is new began at nothing.
            let was = before.get(&name).copied().unwrap_or_default();
            moved += now.0 - was.0;
            bytes += now.1 - was.1;
        }
        let mib_per_second = bytes as f64 / f64::from(1 << 20) / seconds;
        Ok(json!({
            "moved_over_ideal": rounded(moved as f64 / ideal as f64),
            "failed_requests": seen.failed,
            "p99_ratio": rounded(seen.p99_ms() / steady.p99_ms().max(0.001)),
            "seconds": rounded(seconds),
            "moved": moved,
            "mib_per_second": rounded(mib_per_second),
            "limit_mib_per_second": rounded(self.limit),
            "requests": seen.requests(),
            "steady_p99_ms": rounded(steady.p99_ms()),
            "p99_ms": rounded(seen.p99_ms()),
            "first_failure": seen.first_failure,
        }))
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// A fleet of `everring up`.
struct Fleet {
    everring: PathBuf,
    gateways: Vec<String>,
    discovery: String,
    /// The storage nodes' HTTP sides of the start, and their processes.
    nodes: BTreeMap<String, (String, u32)>,
    _up: Process,
}

impl Fleet {
    fn start(everring: &Path, work: &Path) -> Result<Fleet> {
        let mut command = program(everring);
        let nodes = NODES.to_string();
        let fleet = ["up", "--nodes", &nodes, "--gateways", "2", "--output", "json", "--data"];
        command.args(fleet).arg(work.join("fleet"));
        let (up, line) = Process::start_until("up", command, work, "{", PATIENCE)?;
        let addresses: Value = serde_json::from_str(&line).context("`up` says where everything is")?;
        let host = |url: &Value| url.as_str().unwrap_or_default().trim_start_matches("http://").to_owned();
        let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
        let children = list(&addresses["children"]).into_iter().filter(|child| child["role"] == "storage-node");
        Ok(Fleet {
            everring: everring.to_owned(),
            gateways: list(&addresses["gateways"]).iter().map(host).collect(),
            discovery: addresses["discovery"].as_str().context("an address of discovery")?.to_owned(),
            nodes: children
                .map(|child| {
                    let pid = child["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
                    (child["name"].as_str().unwrap_or_default().to_owned(), (host(&child["http"]), pid))
                })
                .collect(),
            _up: up,
        })
    }

    fn ring(&self, words: &[&str]) -> Result<()> {
        let mut command = program(&self.everring);
        command.arg("ring").args(words).args(["--discovery", &self.discovery]).stdout(Stdio::null());
        let status = command.status().context("`everring ring` cannot be run")?;
        if !status.success() {
            bail!("`everring ring {}` {status}", words.join(" "));
        }
        Ok(())
    }

    /// Registers and bytes that each node that is there has copied since its start.
    fn copied(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let mut copied = BTreeMap::new();
        for (name, http) in self.registered()? {
            let status = get_json(&http, "/status").with_context(|| format!("{name} does not say how it is"))?;
            let count = |field: &str| status["copying"][field].as_u64().unwrap_or(0);
            copied.insert(name, (count("registers"), count("bytes")));
        }
        Ok(copied)
    }

    /// The newest view that any node acts on.
    fn epoch(&self) -> Result<u64> {
        let mut newest = 0;
        for (name, http) in self.registered()? {
            let status = get_json(&http, "/status").with_context(|| format!("{name} does not say how it is"))?;
            newest = newest.max(status["epoch"].as_u64().context("a node says its epoch")?);
        }
        Ok(newest)
    }

    /// The storage nodes' HTTP sides as discovery has them.
    fn registered(&self) -> Result<BTreeMap<String, String>> {
        // Several replicas, with commas between: any of them knows.
        let discovery = self.discovery.split(',').next().unwrap_or_default().trim_start_matches("http://");
        let services = get_json(discovery, "/v1/health/service/everring-storage-node")?;
        let meta = |service: &Value, field: &str| service["Service"]["Meta"][field].as_str().unwrap_or("").to_owned();
        let services = services.as_array().context("a list of services")?;
        Ok(services.iter().map(|service| (meta(service, "name"), meta(service, "http"))).collect())
    }

    /// Stops a node under load, kills it after a while, and waits until it is back and has caught up.
    fn kill_and_return(&self, name: &str, keys: u64, away: Duration) -> Result<Returned> {
        let (http, pid) = self.nodes.get(name).context("a node of the start")?;
        let pid = pid.to_string();
        let incarnation = |status: &Value| status["incarnation"].as_u64().unwrap_or(0);
        let before = get_json(http, "/status")?;
        let others = |copied: BTreeMap<String, (u64, u64)>| -> u64 {
            copied.iter().filter(|(node, _)| *node != name).map(|(_, (registers, _))| registers).sum()
        };
        let (copied_before, epoch_before) = (others(self.copied()?), self.epoch()?);
        let load = Load::start(&self.gateways, keys, CLIENTS);
        // Stopped, it is away for as long as is wanted; killed, it would be started again at once.
        Command::new("kill").args(["-STOP", &pid]).status().context("no `kill`")?;
        std::thread::sleep(away);
        Command::new("kill").args(["-KILL", &pid]).status().context("no `kill`")?;
        let end = Instant::now() + PATIENCE;
        let after = loop {
            match get_json(http, "/status") {
                Ok(status) if status["state"] == "ready" && incarnation(&status) > incarnation(&before) => {
                    break status;
                }
                _ if Instant::now() > end => bail!("{name} did not come back"),
                _ => std::thread::sleep(LOOK_EVERY),
            }
        };
        let seen = load.end();
        let copied = self.copied()?;
        // It began at nothing when it came back.
        let own = copied.get(name).map_or(0, |(registers, _)| *registers);
        let caught_up = after["caught_up"].as_u64().context("a node says what it caught up")?;
        let unasked = caught_up.saturating_sub(seen.writes);
        let epoch_after = self.epoch()?;
        if epoch_after != epoch_before {
            bail!("the ring changed while {name} was away: epoch {epoch_before} became {epoch_after}");
        }
        let moved = own + others(copied) - copied_before + unasked;
        Ok(Returned { moved, caught_up, written: seen.writes, failed: seen.failed })
    }
}

/// What became of a node that was away and came back.
struct Returned {
    /// Registers that were copied because of it, and those that it caught up although nobody had written them.
    moved: u64,
    /// Registers that it caught up.
    caught_up: u64,
    /// Writes meanwhile.
    written: u64,
    /// Requests that failed meanwhile.
    failed: u64,
}

/// The program, untouched by flags that somebody set for a fleet of their own.
fn program(everring: &Path) -> Command {
    let mut command = Command::new(everring);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EVERRING_")) {
        command.env_remove(name);
    }
    command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command
}

fn get_json(host: &str, path: &str) -> Result<Value> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    serde_json::from_str(body).context("the answer is no JSON")
}
