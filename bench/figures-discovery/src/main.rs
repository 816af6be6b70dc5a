//! `make figures-discovery`: how discovery's replicas bear the loss of their leader beside a real Consul and etcd, what
//! watching costs beside Consul, whether other people's clients work, and how the fleet bears the loss of all of
//! discovery. Measured on this machine, ending in one line of JSON.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::BoolishValueParser;
use processes::{commit, machine};
use serde_json::{Map, Value, json};

mod all_down;
mod failover;
mod http;
mod systems;
mod watch;

use crate::systems::{Cluster, Kind};

/// Measures the figures of discovery.
#[derive(Debug, Parser)]
#[command(name = "figures-discovery", max_term_width = 110)]
struct Cli {
    /// The `everring` program, as it is released.
    #[arg(long, env = "EVERRING_BIN")]
    everring: PathBuf,
    /// A real Consul (`tests/tools/build.sh consul`); without it there are no figures of it.
    #[arg(long, env = "EVERRING_CONSUL_BIN")]
    consul: Option<PathBuf>,
    /// A real etcd (`tests/tools/etcd/build.sh`); without it there are no figures of it.
    #[arg(long, env = "ETCD_BIN")]
    etcd: Option<PathBuf>,
    /// A short form with the same names: 3 kills instead of 30, 2,000 instances instead of 10,000, the clients that
    /// need no building, 25 s without discovery instead of 60.
    #[arg(long, env = "QUICK", value_parser = BoolishValueParser::new())]
    quick: bool,
    /// Where the figures are written with their circumstances; work files go beside it and are removed.
    #[arg(long, default_value = "target/figures/discovery.json")]
    out: PathBuf,
    /// The script that runs other people's clients.
    #[arg(long, default_value = "tests/clients/consul/run.sh")]
    clients: PathBuf,
    /// Only these parts, separated by commas: failover, watch, clients, all-down. The other figures are null.
    #[arg(long, value_delimiter = ',', value_parser = ["failover", "watch", "clients", "all-down"])]
    only: Vec<String>,
}

/// What was measured so far.
#[derive(Default)]
struct Measured {
    failover: Map<String, Value>,
    watch: Map<String, Value>,
    clients: [Value; 2],
    all_down: Value,
    details: Map<String, Value>,
    /// What was missed, or could not be measured.
    trouble: Vec<String>,
}

fn main() -> Result<std::process::ExitCode> {
    let cli = Cli::parse();
    let folder = cli.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let work = folder.join(format!("work-discovery-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be made", work.display()))?;
    let work = std::fs::canonicalize(&work).with_context(|| format!("{} cannot be found", work.display()))?;
    let everring = std::fs::canonicalize(&cli.everring).context("--everring names no program")?;
    let wants = |part: &str| cli.only.is_empty() || cli.only.iter().any(|only| only == part);
    let systems =
        [(Kind::Ours, Some(everring.clone())), (Kind::Consul, cli.consul.clone()), (Kind::Etcd, cli.etcd.clone())];
    let mut measured = Measured::default();
    for (kind, program) in systems.iter().filter(|_| wants("failover")) {
        measured.failover_of(*kind, program.as_deref(), &everring, &work, if cli.quick { 3 } else { 30 });
    }
    let (instances, seconds) = if cli.quick { (2_000, 10) } else { (10_000, 60) };
    for (kind, program) in systems.iter().filter(|(kind, _)| wants("watch") && *kind != Kind::Etcd) {
        measured.watch_of(*kind, program.as_deref(), &work, instances, seconds);
    }
    if wants("clients") {
        measured.clients(&cli, &everring, &work);
    }
    if wants("all-down") {
        measured.all_down(&everring, &work, if cli.quick { 25 } else { 60 });
    }
    finish(&cli, &work, measured)
}

impl Measured {
    fn failover_of(&mut self, kind: Kind, program: Option<&Path>, everring: &Path, work: &Path, kills: usize) {
        eprintln!("figures: failover of {}", kind.name());
        let measured = program.context("it was not given").and_then(|program| {
            let cluster = Cluster::start(kind, program, &work.join(kind.name()))?;
            failover::measure(cluster, everring, work, kills)
        });
        let (figures, details) = measured.unwrap_or_else(|error| {
            self.trouble.push(format!("failover of {}: {error:#}", kind.name()));
            (Value::Null, Value::Null)
        });
        if !figures.is_null() {
            self.trouble.extend(missed(kind, &figures, &details));
        }
        self.failover.insert(kind.name().to_owned(), figures);
        self.details.insert(format!("failover_{}", kind.name()), details);
    }

    fn watch_of(&mut self, kind: Kind, program: Option<&Path>, work: &Path, instances: usize, seconds: u64) {
        eprintln!("figures: {instances} instances and those who watch them, with {}", kind.name());
        let measured = program.context("it was not given").and_then(|program| {
            let cluster = Cluster::start(kind, program, &work.join(format!("watch-{}", kind.name())))?;
            watch::measure(&cluster, instances, seconds)
        });
        let (figures, details) = measured.unwrap_or_else(|error| {
            self.trouble.push(format!("watch with {}: {error:#}", kind.name()));
            (Value::Null, Value::Null)
        });
        if kind == Kind::Ours {
            if figures["foreign_wakeups"] != 0 || details["changes_never_shown"] != 0 {
                self.trouble.push(format!("watch with ours: {figures} {details}"));
            }
            self.watch.extend(figures.as_object().cloned().unwrap_or_default());
        } else {
            self.watch.insert(kind.name().to_owned(), figures);
        }
        self.details.insert(format!("watch_{}", kind.name()), details);
    }

    fn clients(&mut self, cli: &Cli, everring: &Path, work: &Path) {
        eprintln!("figures: other people's clients");
        // The others have to be built first, which takes minutes.
        let wanted: &[&str] = if cli.quick { &["go", "python", "node"] } else { &[] };
        let said = Cluster::start(Kind::Ours, everring, &work.join("clients"))
            .and_then(|cluster| watch::clients(&cli.clients, cluster.addresses[0], wanted));
        let said = said.unwrap_or_else(|error| {
            self.trouble.push(format!("clients: {error:#}"));
            Value::Null
        });
        if said["clients_passed"] != said["clients_total"] || said["clients_skipped"] != 0 {
            self.trouble.push(format!("not all clients passed: {said}"));
        }
        self.clients = [said["clients_passed"].clone(), said["clients_total"].clone()];
        self.details.insert("clients".to_owned(), said);
    }

    fn all_down(&mut self, everring: &Path, work: &Path, seconds: u64) {
        eprintln!("figures: {seconds} s without discovery and routers");
        match all_down::measure(everring, work, seconds) {
            Ok((count, details)) => {
                if count > 0 || details["flaps_after_return"] != 0 || details["verdict_kept"] != true {
                    self.trouble.push(format!("without discovery {count} requests failed: {details}"));
                }
                self.all_down = json!(count);
                self.details.insert("all_down".to_owned(), details);
            }
            Err(error) => self.trouble.push(format!("without discovery: {error:#}")),
        }
    }
}

/// What of the bars was missed: nothing acknowledged is lost, and the history has an order that explains it.
fn missed(kind: Kind, figures: &Value, details: &Value) -> Option<String> {
    let whole = figures["lost"] == 0 && details["everring_check_exit"] == 0 && details["answered_after_each"] == true;
    (kind == Kind::Ours && !whole).then(|| format!("failover of ours: {figures} {details}"))
}

fn finish(cli: &Cli, work: &Path, measured: Measured) -> Result<std::process::ExitCode> {
    let Measured { failover, watch, clients: [passed, total], all_down, details, trouble } = measured;
    let figures = json!({
        "failover": failover,
        "watch": watch,
        "clients_passed": passed,
        "clients_total": total,
        "all_down_failed_requests": all_down,
    });
    let mut whole = figures.as_object().cloned().unwrap_or_default();
    whole.insert("quick".to_owned(), json!(cli.quick));
    whole.insert("machine".to_owned(), machine(work));
    whole.insert("commit".to_owned(), json!(commit()));
    whole.insert("command".to_owned(), json!(std::env::args().collect::<Vec<_>>().join(" ")));
    whole.insert("details".to_owned(), Value::Object(details));
    whole.insert("missed".to_owned(), json!(trouble));
    let text = serde_json::to_string_pretty(&whole).context("figures are JSON")?;
    std::fs::write(&cli.out, text + "\n").with_context(|| format!("{} cannot be written", cli.out.display()))?;
    if trouble.is_empty() {
        std::fs::remove_dir_all(work).with_context(|| format!("{} cannot be removed", work.display()))?;
    }
    for missed in &trouble {
        eprintln!("figures: MISSED: {missed}");
    }
    eprintln!("figures: written to {}", cli.out.display());
    println!("{figures}");
    Ok(if trouble.is_empty() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}
