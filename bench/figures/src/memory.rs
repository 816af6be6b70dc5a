//! The resident memory of an idle fleet's processes.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use processes::{Process, resident_mib};
use serde_json::{Value, json};

use crate::everring::{Everring, words};
use crate::{Extent, Part, rounded};

/// How long the fleet may take to be ready.
const READY_MAX: Duration = Duration::from_secs(90);
/// How long it is left alone before it is measured: a start's buffers are given back, timers have run.
const IDLE: Duration = Duration::from_secs(10);

/// Starts `everring up` without any load; the figure of a role is that of its largest process.
pub fn measure(everring: &Everring, _extent: Extent, _seed: u64) -> Result<Part> {
    let data = everring.file("idle").display().to_string();
    let command = everring.command(&words(&["up", "--data", &data, "--output", "json"]));
    let (fleet, line) = Process::start_until("idle-fleet", command, everring.work(), "{", READY_MAX)?;
    let addresses: Value = serde_json::from_str(&line).context("the addresses of the fleet are no JSON")?;
    thread::sleep(IDLE);
    let children = addresses["children"].as_array().context("the fleet names no processes")?;
    let mut details = Vec::new();
    for child in children {
        let pid = child["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("a process has an id")?;
        let mib = resident_mib(pid).with_context(|| format!("{} is gone", child["name"]))?;
        details.push(json!({"name": child["name"], "role": child["role"], "rss_mib": rounded(mib)}));
    }
    let largest = |role: &str| -> Result<f64> {
        let sizes = details.iter().filter(|child| child["role"] == role).filter_map(|child| child["rss_mib"].as_f64());
        sizes.reduce(f64::max).with_context(|| format!("the fleet has no {role}"))
    };
    let figures =
        vec![("rss_node_mib", json!(largest("storage-node")?)), ("rss_gateway_mib", json!(largest("gateway")?))];
    ensure!(fleet.end(), "the idle fleet did not end by itself, with status 0");
    Ok(Part { figures, details: Value::Array(details) })
}
