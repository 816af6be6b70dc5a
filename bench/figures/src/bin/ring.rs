//! `make figures-ring`: the figures of the ring, measured on this machine, ending in one line of JSON.
//!
//! It drives the `everring` program and reads its reports. Each part is a function of its own that answers some of the
//! figures; a new part is a line of `AREA`. A figure that no part has measured is null, and named as missed.
//!
//! The same object, with the machine, the commit, the commands and the details, is written to a file.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

#[path = "../ring/bars.rs"]
mod bars;
#[path = "../ring/changes.rs"]
mod changes;
#[path = "../everring.rs"]
mod everring;
#[path = "../found.rs"]
mod found;
#[path = "../parts.rs"]
mod parts;
#[path = "../reports.rs"]
mod reports;
#[path = "../ring/simulated.rs"]
mod simulated;

use parts::{Area, Cli};

const AREA: Area = Area {
    names: &[
        "hops",
        "sim_million_gib",
        "sim_million_seconds",
        "sim_million_wrong_owner",
        "churn",
        "balance_max_over_mean",
        "tokens_max",
        "schedules",
        "violations",
        "planted_found",
        "planted_total",
        "model_states",
        "model_depth",
        "model_scopes_cut",
        "model_planted_found",
        "model_planted_total",
        "join",
        "leave",
        "restart_moved_keys",
    ],
    parts: &[
        ("balance", simulated::balance),
        ("model", simulated::model),
        ("hops", simulated::hops),
        ("churn", simulated::churn),
        ("million", simulated::million),
        ("schedules", simulated::schedules),
        ("planted", simulated::planted),
        ("changes", changes::changes),
    ],
    missed: bars::missed,
};

fn main() -> Result<ExitCode> {
    AREA.run(Cli::parse())
}
