//! `make figures-consistency`: the figures of the consistency levels, measured on this machine, ending in one line of
//! JSON.
//!
//! It drives the `everring` program and reads its reports. Each part is a function of its own that answers some of the
//! figures; a new part is a line of `AREA`. A figure that no part has measured is null, and named as missed.
//!
//! The same object, with the machine, the commit, the commands and the details, is written to a file.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

#[path = "../consistency/bars.rs"]
mod bars;
#[path = "../everring.rs"]
mod everring;
#[path = "../found.rs"]
mod found;
#[path = "../consistency/live.rs"]
mod live;
#[path = "../parts.rs"]
mod parts;
#[path = "../reports.rs"]
mod reports;
#[path = "../consistency/simulated.rs"]
mod simulated;
#[path = "../verdict.rs"]
mod verdict;

use parts::{Area, Cli};

const AREA: Area = Area {
    names: &[
        "sim_speed_x",
        "schedules",
        "violations",
        "planted_found",
        "planted_total",
        "litmus",
        "litmus_violations",
        "litmus_live",
        "live_seconds",
        "live_kills",
        "live_violations",
        "live_lost",
        "live_acked",
        "live_verdict",
        "downtime_ms",
        "messages",
        "syncs",
        "reconcile_bytes_over_difference",
        "model_states",
        "model_depth",
        "model_scopes_cut",
    ],
    parts: &[
        ("speed", simulated::speed),
        ("costs", simulated::costs),
        ("model", simulated::model),
        ("litmus", simulated::litmus),
        ("reconcile", simulated::reconcile),
        ("planted", simulated::planted),
        ("schedules", simulated::schedules),
        ("live", live::live),
    ],
    missed: bars::missed,
};

fn main() -> Result<ExitCode> {
    AREA.run(Cli::parse())
}
