//! What is measured without a fleet: in virtual time, or by exploring.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::everring::Everring;
use crate::found::{Part, rounded};
use crate::reports::{self, number, report};

/// How even the chosen tokens are.
pub fn balance(everring: &Everring, quick: bool) -> Result<Part> {
    let nodes = if quick { "100" } else { "1000" };
    let lines = report(everring, &["sim", "balance", "--nodes", nodes, "--output", "json"])?;
    let mut tokens_max = 0;
    let (mut joined, mut changed) = (Map::new(), Map::new());
    let (mut weighted, mut weighted_changed) = (Map::new(), Map::new());
    for line in lines.as_array().context("the report is no list")? {
        let now = number(line, "max_over_mean_by_arc")?.max(number(line, "max_over_mean_by_keys")?);
        // After each of the changes, not after the last alone.
        let worst = line["max_over_mean_by_arc_worst"].as_f64().map_or(now, |worst| worst.max(now));
        let into = match (line["weights"].as_str(), line["changes"].as_u64()) {
            (Some("equal"), Some(0)) => &mut joined,
            (Some("equal"), _) => &mut changed,
            (_, Some(0)) => &mut weighted,
            _ => &mut weighted_changed,
        };
        tokens_max = tokens_max.max(line["tokens_max"].as_u64().context("the report names no tokens")?);
        into.insert(line["began_with"].to_string(), json!((worst * 1_000.0).round() / 1_000.0));
    }
    let figure = json!({
        "by_nodes": joined,
        "after_100_changes": changed,
        "weighted": weighted,
        "weighted_after_100_changes": weighted_changed,
    });
    let figures = vec![("balance_max_over_mean", figure), ("tokens_max", json!(tokens_max))];
    Ok(Part { figures, details: lines })
}

/// The model check of small rings.
pub fn model(everring: &Everring, quick: bool) -> Result<Part> {
    let checked = reports::model(everring, "ring", quick)?;
    let figures = vec![
        ("model_states", json!(checked.states)),
        ("model_depth", json!(checked.depth)),
        ("model_scopes_cut", json!(checked.cut)),
        ("model_planted_found", json!(checked.planted_found)),
        ("model_planted_total", json!(checked.planted_total)),
    ];
    Ok(Part { figures, details: checked.report })
}

/// Mean hops by finger tables on rings at rest, from the simulator's own lookups.
pub fn hops(everring: &Everring, quick: bool) -> Result<Part> {
    let powers: &[u32] = if quick { &[10, 12] } else { &[10, 14, 17, 20] };
    let (mut hops, mut details) = (Map::new(), Vec::new());
    for power in powers {
        let power = power.to_string();
        let report = report(everring, &["sim", "hops", "--power", &power, "--output", "json"])?;
        hops.insert(format!("2^{power}"), json!(rounded(number(&report, "hops")?)));
        details.push(report);
    }
    Ok(Part { figures: vec![("hops", Value::Object(hops))], details: Value::Array(details) })
}

/// A thousand members whose lives have a median of 1, 10 and 60 minutes.
pub fn churn(everring: &Everring, quick: bool) -> Result<Part> {
    let (nodes, length) = if quick { ("200", "60s") } else { ("1000", "10m") };
    let (mut churn, mut details) = (Map::new(), Vec::new());
    for minutes in ["1", "10", "60"] {
        let session = format!("{minutes}m");
        let args = ["sim", "ring", "--nodes", nodes, "--churn", &session, "--for", length, "--output", "json"];
        let report = report(everring, &args)?;
        let figure = json!({
            "wrong_owner": report["wrong_owner"],
            "looks_with_a_broken_invariant": report["looks_with_a_broken_invariant"],
            "failed_per_10k": rounded(number(&report, "failed_per_10k")?),
            "messages_per_node_second": rounded(number(&report, "messages_per_node_second")?),
        });
        churn.insert(minutes.to_owned(), figure);
        details.push(report);
    }
    Ok(Part { figures: vec![("churn", Value::Object(churn))], details: Value::Array(details) })
}

/// A million members, at work for some virtual seconds.
pub fn million(everring: &Everring, quick: bool) -> Result<Part> {
    let nodes = if quick { "20000" } else { "1000000" };
    let args =
        ["sim", "ring", "--nodes", nodes, "--churn", "60m", "--period", "10s", "--for", "30s", "--output", "json"];
    let report = report(everring, &args)?;
    let figures = vec![
        ("sim_million_gib", json!(rounded(number(&report, "peak_gib")?))),
        ("sim_million_seconds", json!(rounded(number(&report, "wall_s")?))),
        ("sim_million_wrong_owner", report["wrong_owner"].clone()),
    ];
    Ok(Part { figures, details: report })
}

/// Simulated schedules of the whole fleet, whose ordered keys move with every change.
pub fn schedules(everring: &Everring, quick: bool) -> Result<Part> {
    reports::schedules(everring, if quick { 300 } else { 10_000 }, &["ordered"])
}

/// The bugs planted in the cores.
pub fn planted(everring: &Everring, _quick: bool) -> Result<Part> {
    reports::planted(everring, 1_000)
}
