//! What is measured without processes: in virtual time.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::everring::Everring;
use crate::found::{Part, rounded};
use crate::reports::{self, number, report};

/// How often the speed is measured; the median counts.
const SPEED_RUNS: usize = 5;
/// Operations a second of the moderate load.
const MODERATE_PER_SECOND: &str = "20";
/// Other loads that are worth knowing.
const OTHER_PER_SECOND: [&str; 3] = ["1", "100", "1000"];

/// How fast five nodes under a moderate load are simulated, in one thread.
pub fn speed(everring: &Everring, quick: bool) -> Result<Part> {
    let length = if quick { "30s" } else { "100s" };
    let run = |per_second: &str| {
        report(everring, &["sim", "speed", "--per-second", per_second, "--length", length, "--output", "json"])
    };
    let mut runs = Vec::new();
    for _ in 0..SPEED_RUNS {
        runs.push(run(MODERATE_PER_SECOND)?);
    }
    let mut times = runs.iter().map(|run| number(run, "times")).collect::<Result<Vec<f64>>>()?;
    times.sort_unstable_by(f64::total_cmp);
    let mut others = Map::new();
    for per_second in OTHER_PER_SECOND {
        others.insert(per_second.to_owned(), run(per_second)?);
    }
    let figures = vec![("sim_speed_x", json!(times[times.len() / 2].round()))];
    Ok(Part { figures, details: json!({"runs": runs, "by_operations_a_second": others}) })
}

/// Messages and syncs of each kind of operation.
pub fn costs(everring: &Everring, _quick: bool) -> Result<Part> {
    let counted = report(everring, &["sim", "costs", "--output", "json"])?;
    let (mut messages, mut syncs) = (Map::new(), Map::new());
    for (operation, cost) in counted.as_object().context("the report is no object")? {
        let trips = json!({
            "messages": rounded(number(cost, "messages")?),
            "round_trips": rounded(number(cost, "round_trips")?),
        });
        messages.insert(operation.clone(), trips);
        syncs.insert(operation.clone(), json!(rounded(number(cost, "syncs_per_replica")?)));
    }
    let figures = vec![("messages", Value::Object(messages)), ("syncs", Value::Object(syncs))];
    Ok(Part { figures, details: counted })
}

/// The model check of the registers.
pub fn model(everring: &Everring, quick: bool) -> Result<Part> {
    let checked = reports::model(everring, "registers", quick)?;
    if checked.planted_found < checked.planted_total {
        bail!("the model check found {} of {} planted bugs", checked.planted_found, checked.planted_total);
    }
    let figures = vec![
        ("model_states", json!(checked.states)),
        ("model_depth", json!(checked.depth)),
        ("model_scopes_cut", json!(checked.cut)),
    ];
    Ok(Part { figures, details: checked.report })
}

/// The litmus tests at every level, under faults.
pub fn litmus(everring: &Everring, quick: bool) -> Result<Part> {
    let seeds = if quick { "5" } else { "50" };
    let found = report(everring, &["sim", "litmus", "--seeds", seeds, "--output", "json"])?;
    let figures = vec![("litmus", found["litmus"].clone()), ("litmus_violations", found["violations"].clone())];
    Ok(Part { figures, details: found })
}

/// What two replicas send each other until they hold the same, beside the newer states of the keys that differed.
pub fn reconcile(everring: &Everring, quick: bool) -> Result<Part> {
    let keys = if quick { "20000" } else { "1000000" };
    let found = report(everring, &["sim", "reconcile", "--keys", keys, "--output", "json"])?;
    let figures = vec![("reconcile_bytes_over_difference", json!(rounded(number(&found, "times")?)))];
    Ok(Part { figures, details: found })
}

/// The bugs planted in the cores.
pub fn planted(everring: &Everring, _quick: bool) -> Result<Part> {
    reports::planted(everring, 1_000)
}

/// Simulated schedules of the whole fleet: its ordered keys, and its available ones.
pub fn schedules(everring: &Everring, quick: bool) -> Result<Part> {
    reports::schedules(everring, if quick { 150 } else { 50_000 }, &["ordered", "available"])
}
