//! What a run found, and how it is told: in a file with its circumstances, and as one line of JSON.

use std::path::Path;

use anyhow::{Context, Result};
use processes::commit;
use serde_json::{Map, Value, json};

use crate::everring::Everring;

/// What a part of the run measured.
#[derive(Debug, Default)]
pub struct Part {
    /// Figures by name.
    pub figures: Vec<(&'static str, Value)>,
    /// What else is worth keeping.
    pub details: Value,
}

/// What a run found.
pub struct Found {
    /// The figures, by name.
    pub figures: Map<String, Value>,
    /// What else is worth keeping, by part.
    pub details: Map<String, Value>,
    /// A sentence for each bar that was missed, and for each part that failed.
    pub trouble: Vec<String>,
}

impl Found {
    /// Writes all of it to `out`, says what was missed, and prints the figures as the last line.
    pub fn write(self, out: &Path, everring: &Everring, machine: Value, quick: bool) -> Result<()> {
        let mut whole = self.figures.clone();
        whole.insert("quick".to_owned(), json!(quick));
        whole.insert("binary_mib".to_owned(), json!(everring.binary_mib()?));
        whole.insert("machine".to_owned(), machine);
        whole.insert("commit".to_owned(), json!(commit()));
        whole.insert("commands".to_owned(), json!(everring.commands()));
        whole.insert("details".to_owned(), Value::Object(self.details));
        whole.insert("missed".to_owned(), json!(self.trouble));
        let text = serde_json::to_string_pretty(&whole).context("figures are JSON")?;
        std::fs::write(out, text + "\n").with_context(|| format!("{} cannot be written", out.display()))?;
        for missed in &self.trouble {
            eprintln!("figures: MISSED: {missed}");
        }
        eprintln!("figures: written to {}", out.display());
        println!("{}", Value::Object(self.figures));
        Ok(())
    }
}

/// A number with two decimals.
pub fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
