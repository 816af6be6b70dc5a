//! Joins, leaves and restarts of a live fleet: what `make figures-ring-changes` measured.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::everring::Everring;
use crate::found::Part;

/// The file that it writes, beside that of this run.
const FILE: &str = "ring-changes.json";
/// What it measures.
const NAMES: [&str; 3] = ["join", "leave", "restart_moved_keys"];

/// Takes over the figures of the last run; its own bars are in its own program, and what they name is passed on.
pub fn changes(everring: &Everring, quick: bool) -> Result<Part> {
    let folder = everring.work().parent().context("the work folder has no parent")?;
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read; run `make figures-ring-changes` first", path.display()))?;
    let whole: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    ensure!(quick || whole["quick"] == false, "{} is of the short form; measure it in full", path.display());
    let (then, now) = (&whole["commit"], processes::commit());
    ensure!(*then == *now, "{} is of {then}, and this is {now}; run `make figures-ring-changes` again", path.display());
    let figures = NAMES.map(|name| (name, whole[name].clone())).into();
    Ok(Part { figures, details: whole })
}
