//! An area's figures: its parts, run one after the other, and what came of them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::BoolishValueParser;
use processes::machine;
use serde_json::{Map, Value};

use crate::everring::Everring;
use crate::found::{Found, Part};

/// Measures the figures of an area.
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
pub struct Cli {
    /// The `everring` program, as it is released.
    #[arg(long, env = "EVERRING_BIN")]
    everring: PathBuf,
    /// A short form with the same names: less of everything.
    #[arg(long, env = "QUICK", value_parser = BoolishValueParser::new())]
    quick: bool,
    /// Where the figures are written with their circumstances.
    #[arg(long)]
    out: PathBuf,
    /// Where work files go, such as the data of a live fleet; a folder there is made and removed. Without it, beside
    /// the figures. Five nodes that share one disk wait for it together: what is measured on a file system in memory
    /// tells the kills from the disk.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Only these parts, separated by commas. The other figures are null, and not asked for.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// A part: takes the program, and whether the short form is wanted.
pub type Measure = fn(&Everring, bool) -> Result<Part>;

/// An area.
pub struct Area {
    /// The names of the figures, in their order.
    pub names: &'static [&'static str],
    /// The parts, in their order.
    pub parts: &'static [(&'static str, Measure)],
    /// A sentence for each figure that misses its bar, in the long form or the short one.
    pub missed: fn(&Map<String, Value>, bool) -> Vec<String>,
}

impl Area {
    /// Measures all that is asked for, and tells it. Failure if a bar was missed.
    pub fn run(&self, cli: Cli) -> Result<ExitCode> {
        if let Some(unknown) = cli.only.iter().find(|only| self.parts.iter().all(|(name, _)| name != only)) {
            let parts: Vec<&str> = self.parts.iter().map(|(name, _)| *name).collect();
            anyhow::bail!("{unknown:?} is no part; there are {parts:?}");
        }
        let folder = cli.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let work = cli.work.as_deref().unwrap_or(folder).join(format!("work-{}", std::process::id()));
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be made", work.display()))?;
        let machine = machine(&work);
        let everring = Everring::new(cli.everring, work.clone());
        let mut figures: Map<String, Value> = self.names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        let (mut details, mut trouble) = (Map::new(), Vec::new());
        for (name, measure) in self.parts {
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
                    details.insert((*name).to_owned(), part.details);
                }
                // The other parts are worth having all the same.
                Err(error) => trouble.push(format!("{name}: {error:#}")),
            }
        }
        let mut asked = figures.clone();
        if !cli.only.is_empty() {
            asked.retain(|_, value| !value.is_null());
        }
        trouble.extend((self.missed)(&asked, cli.quick));
        let missed = !trouble.is_empty();
        Found { figures, details, trouble }.write(&cli.out, &everring, machine, cli.quick)?;
        std::fs::remove_dir_all(everring.work()).with_context(|| format!("{} cannot be removed", work.display()))?;
        Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
