//! `make figures-discovery`: how discovery's replicas bear the loss of their leader beside a real Consul and etcd, and
//! how
//! the fleet bears the loss of all of discovery. Measured on this machine, ending in one line of JSON.

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

use crate::systems::{Cluster, Kind};

/// Measures the figures of discovery.
#[derive(Debug, Parser)]
#[command(name = "figures-discovery", max_term_width = 110)]
struct Cli {
    /// The `everring` program, as it is released.
    #[arg(long, env = "EVERRING_BIN")]
    everring: PathBuf,
    /// A real Consul (`tests/tools/consul/build.sh`); without it there are no figures of it.
    #[arg(long, env = "EVERRING_CONSUL_BIN")]
    consul: Option<PathBuf>,
    /// A real etcd (`tests/tools/etcd/build.sh`); without it there are no figures of it.
    #[arg(long, env = "ETCD_BIN")]
    etcd: Option<PathBuf>,
    /// A short form with the same names: 3 kills instead of 30, 25 s without discovery instead of 60.
    #[arg(long, env = "QUICK", value_parser = BoolishValueParser::new())]
    quick: bool,
    /// Where the figures are written with their circumstances; work files go beside it and are removed.
    #[arg(long, default_value = "target/figures/discovery.json")]
    out: PathBuf,
    /// Only these parts, separated by commas: failover, all-down. The other figures are null.
    #[arg(long, value_delimiter = ',', value_parser = ["failover", "all-down"])]
    only: Vec<String>,
}

fn main() -> Result<std::process::ExitCode> {
    let cli = Cli::parse();
    let folder = cli.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let work = folder.join(format!("work-discovery-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be made", work.display()))?;
    let work = std::fs::canonicalize(&work).with_context(|| format!("{} cannot be found", work.display()))?;
    let everring = std::fs::canonicalize(&cli.everring).context("--everring names no program")?;
    let wants = |part: &str| cli.only.is_empty() || cli.only.iter().any(|only| only == part);
    let (kills, seconds) = if cli.quick { (3, 25) } else { (30, 60) };
    let (mut failover, mut details, mut trouble) = (Map::new(), Map::new(), Vec::new());
    let systems =
        [(Kind::Ours, Some(everring.clone())), (Kind::Consul, cli.consul.clone()), (Kind::Etcd, cli.etcd.clone())];
    for (kind, program) in systems.into_iter().filter(|_| wants("failover")) {
        eprintln!("figures: failover of {}", kind.name());
        let measured = program.context("it was not given").and_then(|program| {
            let cluster = Cluster::start(kind, &program, &work.join(kind.name()))?;
            failover::measure(cluster, &everring, &work, kills)
        });
        match measured {
            Ok((figures, detail)) => {
                trouble.extend(missed(kind, &figures, &detail));
                failover.insert(kind.name().to_owned(), figures);
                details.insert(kind.name().to_owned(), detail);
            }
            Err(error) => {
                failover.insert(kind.name().to_owned(), Value::Null);
                trouble.push(format!("failover of {}: {error:#}", kind.name()));
            }
        }
    }
    let mut failed = Value::Null;
    if wants("all-down") {
        eprintln!("figures: {seconds} s without discovery");
        match all_down::measure(&everring, &work, seconds) {
            Ok((count, detail)) => {
                if count > 0 || detail["flaps_after_return"] != 0 {
                    trouble.push(format!("without discovery {count} requests failed: {detail}"));
                }
                failed = json!(count);
                details.insert("all_down".to_owned(), detail);
            }
            Err(error) => trouble.push(format!("without discovery: {error:#}")),
        }
    }
    let figures = json!({"failover": failover, "all_down_failed_requests": failed});
    finish(&cli, &work, figures, details, &trouble)
}

/// What of the bars was missed: nothing acknowledged is lost, and the history has an order that explains it.
fn missed(kind: Kind, figures: &Value, details: &Value) -> Option<String> {
    let whole = figures["lost"] == 0 && details["everring_check_exit"] == 0 && details["answered_after_each"] == true;
    (kind == Kind::Ours && !whole).then(|| format!("failover of ours: {figures} {details}"))
}

fn finish(
    cli: &Cli,
    work: &Path,
    figures: Value,
    details: Map<String, Value>,
    trouble: &[String],
) -> Result<std::process::ExitCode> {
    let mut whole = figures.as_object().cloned().unwrap_or_default();
    whole.insert("quick".to_owned(), json!(cli.quick));
    whole.insert("machine".to_owned(), machine(work));
    whole.insert("commit".to_owned(), json!(commit()));
    whole.insert("details".to_owned(), Value::Object(details));
    whole.insert("missed".to_owned(), json!(trouble));
    let text = serde_json::to_string_pretty(&whole).context("figures are JSON")?;
    std::fs::write(&cli.out, text + "\n").with_context(|| format!("{} cannot be written", cli.out.display()))?;
    if trouble.is_empty() {
        std::fs::remove_dir_all(work).with_context(|| format!("{} cannot be removed", work.display()))?;
    }
    for missed in trouble {
        eprintln!("figures: MISSED: {missed}");
    }
    eprintln!("figures: written to {}", cli.out.display());
    println!("{figures}");
    Ok(if trouble.is_empty() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}
