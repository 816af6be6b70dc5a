//! `make figures-ring`: the figures of the ring, measured on this machine, ending in one line of JSON.
//!
//! It drives the `everring` program and reads its reports. Each part is a function of its own that answers some of the
//! figures; a new part is a line in `PARTS`. A figure that no part has measured is null, and named as missed.
//!
//! The same object, with the machine, the commit, the commands and the details, is written to a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::BoolishValueParser;
use processes::machine;
use serde_json::{Map, Value};

#[path = "../ring/bars.rs"]
mod bars;
#[path = "../ring/changes.rs"]
mod changes;
#[path = "../everring.rs"]
mod everring;
#[path = "../found.rs"]
mod found;
#[path = "../ring/simulated.rs"]
mod simulated;

use everring::Everring;
use found::{Found, rounded};

/// Measures the figures of the ring.
#[derive(Debug, Parser)]
#[command(name = "ring", max_term_width = 110)]
struct Cli {
    /// The `everring` program, as it is released.
    #[arg(long, env = "EVERRING_BIN")]
    everring: PathBuf,
    /// A short form with the same names: smaller rings, shorter runs, fewer schedules.
    #[arg(long, env = "QUICK", value_parser = BoolishValueParser::new())]
    quick: bool,
    /// Where the figures are written with their circumstances; work files go beside it and are removed.
    #[arg(long, default_value = "target/figures/ring.json")]
    out: PathBuf,
    /// Only these parts, separated by commas. The other figures are null, and not asked for.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// What a part of the run measured.
#[derive(Debug, Default)]
struct Part {
    /// Figures by name.
    figures: Vec<(&'static str, Value)>,
    /// What else is worth keeping.
    details: Value,
}

/// A part: takes the program, and whether the short form is wanted.
type Measure = fn(&Everring, bool) -> Result<Part>;

/// The parts, in their order.
const PARTS: [(&str, Measure); 8] = [
    ("balance", simulated::balance),
    ("model", simulated::model),
    ("hops", simulated::hops),
    ("churn", simulated::churn),
    ("million", simulated::million),
    ("schedules", simulated::schedules),
    ("planted", simulated::planted),
    ("changes", changes::changes),
];

/// The names of the figures, in their order.
const NAMES: [&str; 15] = [
    "hops",
    "sim_million_gib",
    "sim_million_seconds",
    "churn",
    "balance_max_over_mean",
    "schedules",
    "violations",
    "planted_found",
    "planted_total",
    "model_states",
    "model_planted_found",
    "model_planted_total",
    "join",
    "leave",
    "restart_moved_keys",
];

fn main() -> Result<std::process::ExitCode> {
    let cli = Cli::parse();
    if let Some(unknown) = cli.only.iter().find(|only| PARTS.iter().all(|(name, _)| name != only)) {
        anyhow::bail!("{unknown:?} is no part; there are {:?}", PARTS.map(|(name, _)| name));
    }
    let folder = cli.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let work = folder.join(format!("work-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be made", work.display()))?;
    let machine = machine(&work);
    let everring = Everring::new(cli.everring, work.clone());
    let mut figures: Map<String, Value> = NAMES.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    let (mut details, mut trouble) = (Map::new(), Vec::new());
    for (name, measure) in PARTS {
        if !cli.only.is_empty() && !cli.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("figures: {name}");
        match measure(&everring, cli.quick) {
            Ok(part) => {
                figures.extend(part.figures.into_iter().map(|(name, value)| (name.to_owned(), value)));
                // A run that is ended halfway leaves what it had.
                std::fs::write(everring.file(&format!("{name}.json")), part.details.to_string())
                    .with_context(|| format!("{} cannot be written to", work.display()))?;
                details.insert(name.to_owned(), part.details);
            }
            // The other parts are worth having all the same.
            Err(error) => trouble.push(format!("{name}: {error:#}")),
        }
    }
    let mut asked = figures.clone();
    if !cli.only.is_empty() {
        asked.retain(|_, value| !value.is_null());
    }
    trouble.extend(bars::missed(&asked, cli.quick));
    let missed = !trouble.is_empty();
    Found { figures, details, trouble }.write(&cli.out, &everring, machine, cli.quick)?;
    std::fs::remove_dir_all(everring.work()).with_context(|| format!("{} cannot be removed", work.display()))?;
    Ok(if missed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS })
}
