//! Simulated schedules of the whole fleet, without a planted bug.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::everring::{Everring, words};
use crate::{Extent, Part};

/// Runs `everring sim run`.
pub fn measure(everring: &Everring, extent: Extent, _seed: u64) -> Result<Part> {
    let seeds = extent.schedules.to_string();
    let finished = everring.run(&words(&["sim", "run", "--seeds", &seeds, "--output", "json"]))?;
    let summary = finished.json()?;
    let number = |name: &str| summary[name].as_u64().with_context(|| format!("the summary has no {name}"));
    let figures =
        vec![("sim_schedules", json!(number("schedules")?)), ("sim_violations", json!(number("violations")?))];
    let kept = ["first", "answered", "unknown", "faults", "simulated_s", "wall_s", "first_violation"];
    let details = kept.iter().map(|name| ((*name).to_owned(), summary[name].clone())).collect();
    Ok(Part { figures, details: Value::Object(details) })
}
