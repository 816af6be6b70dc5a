//! Reading the program's own reports, and what more than one area measures by them.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::everring::{Everring, words};
use crate::found::Part;

/// A number of a report.
pub fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("the report has no {name}"))
}

/// What a command reports as JSON.
pub fn report(everring: &Everring, args: &[&str]) -> Result<Value> {
    let finished = everring.run(&words(args))?;
    match finished.code {
        // 1 says that something was broken; the report says what.
        Some(0 | 1) => finished.json(),
        code => bail!("everring {} ended with {code:?}", args.join(" ")),
    }
}

/// The entries of an object; none if it is no object.
pub fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

/// A sentence for each figure that no part has measured.
pub fn unmeasured(figures: &Map<String, Value>) -> Vec<String> {
    let nulls = figures.iter().filter(|(_, value)| value.is_null());
    nulls.map(|(name, _)| format!("{name} was not measured")).collect()
}

/// Simulated schedules of the whole fleet, so many for each of these contracts.
pub fn schedules(everring: &Everring, seeds: u64, contracts: &[&str]) -> Result<Part> {
    let (mut schedules, mut violations, mut details) = (0.0, 0.0, Map::new());
    for contract in contracts {
        let seeds = seeds.to_string();
        let args = ["sim", "run", "--seeds", &seeds, "--contract", contract, "--output", "json"];
        let summary = report(everring, &args)?;
        schedules += number(&summary, "schedules")?;
        violations += number(&summary, "violations")?;
        details.insert((*contract).to_owned(), summary);
    }
    let figures = vec![("schedules", json!(schedules as u64)), ("violations", json!(violations as u64))];
    Ok(Part { figures, details: Value::Object(details) })
}

/// The bugs planted in the cores, each searched for in at most so many schedules.
pub fn planted(everring: &Everring, seeds: u64) -> Result<Part> {
    let bugs = everring.run(&words(&["sim", "bugs"]))?.stdout;
    let (mut found, mut total, mut by_name) = (0, 0, Map::new());
    for bug in bugs.lines().filter(|line| !line.is_empty()) {
        let seeds = seeds.to_string();
        let args = ["sim", "run", "--seeds", &seeds, "--planted", bug, "--until-found", "--output", "json"];
        let report = report(everring, &args)?;
        let violations = number(&report, "violations")?;
        total += 1;
        found += u32::from(violations > 0.0);
        by_name.insert(bug.to_owned(), report["first_violation"].clone());
    }
    let figures = vec![("planted_found", json!(found)), ("planted_total", json!(total))];
    Ok(Part { figures, details: Value::Object(by_name) })
}

/// What the model check of a core came to.
pub struct Checked {
    /// States of all scopes.
    pub states: u64,
    /// The most steps to any of them.
    pub depth: u64,
    /// Scopes that were not explored to their end, though nothing says that they are partial.
    pub cut: usize,
    /// Planted bugs that it found.
    pub planted_found: usize,
    /// Of so many.
    pub planted_total: usize,
    /// The whole report.
    pub report: Value,
}

/// The model check of a core, `ring` or `registers`.
///
/// # Errors
/// It cannot be run, or something can be broken.
pub fn model(everring: &Everring, core: &str, quick: bool) -> Result<Checked> {
    let mut args = vec!["sim", "model", "--of", core, "--output", "json"];
    if quick {
        args.push("--short");
    }
    let report = report(everring, &args)?;
    let explored = report["explored"].as_array().context("the report has no scopes")?;
    let states = explored.iter().filter_map(|scope| scope["states"].as_u64()).sum();
    let broken = explored.iter().filter(|scope| !scope["violation"].is_null()).count();
    if broken > 0 {
        bail!("the model check broke what must hold in {broken} scopes: {}", report["explored"]);
    }
    let depth = explored.iter().filter_map(|scope| scope["depth"].as_u64()).max().unwrap_or(0);
    let cut = explored.iter().filter(|scope| scope["shown"] != true).count();
    let planted = report["planted"].as_array().context("the report has no planted bugs")?;
    let planted_found = planted.iter().filter(|one| one["found"] == true).count();
    Ok(Checked { states, depth, cut, planted_found, planted_total: planted.len(), report })
}
