//! `make figures-fleet`: the figures of the fleet, measured on this machine, ending in one line of JSON.
//!
//! It drives the `everring` program as anybody would, and reads its reports; only the planted variants of the Chord
//! core and the checker's yardstick are taken from the crates, because no command offers them. It judges nothing
//! anew: each figure is what a report says.
//!
//! The same object, with the machine, the commit, the commands and the details, is written to a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::BoolishValueParser;
use processes::machine;
use serde_json::{Map, Value, json};

mod bars;
mod chaos_run;
mod checker_run;
mod everring;
mod found;
mod memory;
mod planted;
mod simulated;
mod verdict;

use crate::everring::Everring;
use crate::found::{Found, Part, rounded};

/// Measures the figures of the fleet.
#[derive(Debug, Parser)]
#[command(name = "figures", max_term_width = 110)]
struct Cli {
    /// The `everring` program, as it is released.
    #[arg(long, env = "EVERRING_BIN")]
    everring: PathBuf,
    /// A short form with the same names: 30 s of chaos, 300 schedules. Bars of time and room are told and do not fail
    /// it.
    #[arg(long, env = "QUICK", value_parser = BoolishValueParser::new())]
    quick: bool,
    /// Where the figures are written with their circumstances; work files go beside it and are removed.
    #[arg(long, default_value = "target/figures/fleet.json")]
    out: PathBuf,
    /// Only these parts, separated by commas: chaos, sim, planted, checker, memory. The other figures are null.
    #[arg(long, value_delimiter = ',', value_parser = ["chaos", "sim", "planted", "checker", "memory"])]
    only: Vec<String>,
    /// The seed of the chaos run.
    #[arg(long, default_value_t = 20_011)]
    seed: u64,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Extent {
    chaos_s: u64,
    kills_min: u64,
    schedules: u64,
}

const FULL: Extent = Extent { chaos_s: 300, kills_min: 20, schedules: 10_000 };
const QUICK: Extent = Extent { chaos_s: 30, kills_min: 1, schedules: 300 };

/// The names of the figures, in their order.
const NAMES: [&str; 17] = [
    "chaos_seconds",
    "kills",
    "failed_requests",
    "lost_writes",
    "decided",
    "violations",
    "kills_without_requests",
    "contradicting",
    "downtime_ms",
    "sim_schedules",
    "sim_violations",
    "planted_found",
    "planted_total",
    "checker_seconds",
    "rss_node_mib",
    "rss_gateway_mib",
    "binary_mib",
];

type Measure = fn(&Everring, Extent, u64) -> Result<Part>;

fn main() -> Result<std::process::ExitCode> {
    let cli = Cli::parse();
    let folder = cli.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let work = folder.join(format!("work-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be made", work.display()))?;
    let work = std::fs::canonicalize(&work).with_context(|| format!("{} cannot be found", work.display()))?;
    let machine = machine(&work);
    let everring = Everring::new(cli.everring, work.clone());
    let extent = if cli.quick { QUICK } else { FULL };

    let parts: [(&str, Measure); 5] = [
        ("memory", memory::measure),
        ("checker", checker_run::measure),
        ("planted", planted::measure),
        ("sim", simulated::measure),
        ("chaos", chaos_run::measure),
    ];
    let mut figures: Map<String, Value> = NAMES.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    figures.insert("binary_mib".to_owned(), json!(everring.binary_mib()?));
    let (mut details, mut trouble) = (Map::new(), Vec::new());
    for (name, measure) in parts {
        if !cli.only.is_empty() && !cli.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("figures: {name}");
        match measure(&everring, extent, cli.seed) {
            Ok(part) => {
                figures.extend(part.figures.into_iter().map(|(name, value)| (name.to_owned(), value)));
                details.insert(name.to_owned(), part.details);
            }
            // The other parts are worth having all the same.
            Err(error) => trouble.push(format!("{name}: {error:#}")),
        }
    }
    let clean = trouble.is_empty();
    trouble.extend(bars::missed(&figures, extent));
    let late = bars::missed_in_time(&figures);
    // The short form is for machines that do other work too: it says what was late, and fails for the rest only.
    let failed = !trouble.is_empty() || !(cli.quick || late.is_empty());
    trouble.extend(late);
    let found = Found { figures, details, trouble };
    found.write(&cli.out, &everring, machine, cli.quick)?;
    if clean {
        std::fs::remove_dir_all(&work).with_context(|| format!("{} cannot be removed", work.display()))?;
    }
    Ok(if failed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS })
}
