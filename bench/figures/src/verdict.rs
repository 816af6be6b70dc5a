//! Reading the report of `everring up --chaos`.

use anyhow::{Context, Result};
use serde_json::Value;

/// What the checks of the histories came to, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Whether there were some, and each was decided.
    pub decided: bool,
    /// Violations that they found.
    pub violations: u64,
}

/// The kills that took place.
pub fn kills(verdict: &Value) -> Result<usize> {
    let faults = verdict["faults"].as_array().context("the report has no faults")?;
    Ok(faults.iter().filter(|fault| fault["kind"] == "kill" && fault["not_injected"].is_null()).count())
}

/// What its checks came to.
pub fn checks(verdict: &Value) -> Result<Checks> {
    let checks = verdict["checks"].as_array().context("the report has no checks")?;
    let decided = !checks.is_empty() && checks.iter().all(|check| check["decided"] == true);
    let violations = checks.iter().filter_map(|check| check["violations"].as_u64()).sum();
    Ok(Checks { decided, violations })
}

/// These of the verdict's entries, to be kept with the figures.
pub fn kept(verdict: &Value, names: &[&str]) -> Value {
    Value::Object(names.iter().map(|name| ((*name).to_owned(), verdict[name].clone())).collect())
}
