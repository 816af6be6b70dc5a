//! What the figures must reach. A figure that was not measured reaches nothing and is named.

use serde_json::{Map, Value};

use crate::reports::{entries, unmeasured};

/// Simulated over real time, in one thread.
const SPEED_MIN: f64 = 1_000.0;
/// Schedules of the long form, of both contracts together.
const SCHEDULES_MIN: f64 = 100_000.0;
/// The length of the live run.
const LIVE_SECONDS_MIN: f64 = 600.0;
/// Kills in it: one each 5 s on average, less what chance and the waits for the fleet's full strength take away.
const LIVE_KILLS_MIN: f64 = 80.0;
/// The kinds of writes that there must be in the live run: that none is lost says nothing of a kind that was not tried.
const KINDS_ACKED: [&str; 6] = ["strict", "sequential", "causal", "eventual", "sets", "counters"];
/// Load buffering: both values would have to be read before they were written. No level forbids more than causal does,
/// and no store that answers with what was written shows it.
const NEVER_SEEN: &str = "LB";
/// Planted bugs that there are at least.
const PLANTED_MIN: f64 = 20.0;
/// Traffic of a reconciliation, as a multiple of the data that differ.
const RECONCILE_MAX: f64 = 3.0;
/// The most round trips and the most syncs of each replica that an operation may take, up to what is done by the way.
const COSTS_MAX: [(&str, f64, f64); 8] = [
    ("strict write", 1.0, 1.0),
    ("strict write in a session", 1.0, 1.0),
    ("strict read", 1.0, 0.0),
    ("sequential read", 0.0, 0.0),
    ("causal write", 1.0, 1.0),
    ("causal read", 0.0, 0.0),
    ("eventual write", 0.0, 1.0),
    ("eventual read", 0.0, 0.0),
];
/// What is done by the way, for each operation.
const BY_THE_WAY: f64 = 0.02;

/// A sentence for each figure that misses its bar.
pub fn missed(figures: &Map<String, Value>, quick: bool) -> Vec<String> {
    let mut missed = unmeasured(figures);
    let number = |name: &str| figures.get(name).and_then(Value::as_f64);
    for name in ["violations", "litmus_violations", "live_violations", "live_lost"] {
        if let Some(value) = number(name).filter(|value| *value > 0.0) {
            missed.push(format!("{name} is {value}, and must be 0"));
        }
    }
    if let Some(value) = number("reconcile_bytes_over_difference").filter(|value| *value > RECONCILE_MAX) {
        missed.push(format!("reconcile_bytes_over_difference is {value}, and may be {RECONCILE_MAX}"));
    }
    // The short form is too short for these.
    let least = [
        ("sim_speed_x", SPEED_MIN),
        ("schedules", SCHEDULES_MIN),
        ("planted_total", PLANTED_MIN),
        ("live_seconds", LIVE_SECONDS_MIN),
        ("live_kills", LIVE_KILLS_MIN),
    ];
    for (name, least) in least.into_iter().filter(|_| !quick) {
        if let Some(value) = number(name).filter(|value| *value < least) {
            missed.push(format!("{name} is {value}, and must be {least}"));
        }
    }
    if number("planted_found") != number("planted_total") {
        missed.push(format!("{:?} of {:?} planted bugs were found", number("planted_found"), number("planted_total")));
    }
    if let Some(downtime) = figures.get("downtime_ms").filter(|downtime| !downtime.is_null()) {
        for kind in ["strict", "sequential", "causal", "eventual", "lock"] {
            if downtime[kind] != 0 {
                missed.push(format!("{} ms of downtime ({kind}) around a fault", downtime[kind]));
            }
        }
        if downtime["steady"] != 0 {
            missed.push(format!("{} ms of downtime without a fault", downtime["steady"]));
        }
    }
    if let Some(acked) = figures.get("live_acked").filter(|acked| !acked.is_null()) {
        for kind in KINDS_ACKED.into_iter().filter(|kind| acked[kind].as_u64().is_none_or(|total| total == 0)) {
            missed.push(format!("the live run had no acknowledged write of its kind: {kind}"));
        }
    }
    if let Some(verdict) = figures.get("live_verdict").filter(|verdict| !verdict.is_null() && **verdict != "kept") {
        missed.push(format!("the live run's verdict is {verdict}"));
    }
    missed.extend(outcomes_missed(figures.get("litmus"), !quick));
    // A live fleet shows what it happens to show.
    missed.extend(outcomes_missed(figures.get("litmus_live"), false));
    missed.extend(costs_missed(figures));
    missed
}

/// What must not be seen; and, of the long form of the simulated tests, what must.
fn outcomes_missed(litmus: Option<&Value>, all_allowed: bool) -> Vec<String> {
    let mut missed = Vec::new();
    for (level, tests) in entries(litmus) {
        for (test, shown) in entries(Some(tests)) {
            if shown["forbidden_seen"] != 0 {
                missed.push(format!("{test} was seen {} times at level {level}", shown["forbidden_seen"]));
            }
            let never = test.as_str() == NEVER_SEEN;
            if all_allowed && !never && shown["forbidden"] == false && shown["allowed_seen"] == 0 {
                missed.push(format!("{test} is allowed at level {level} and was never seen: do the levels differ?"));
            }
        }
    }
    missed
}

fn costs_missed(figures: &Map<String, Value>) -> Vec<String> {
    let mut missed = Vec::new();
    for (operation, trips_max, syncs_max) in COSTS_MAX {
        let measured = |name: &str| figures.get(name).filter(|figure| !figure.is_null());
        let trips = measured("messages").map(|messages| messages[operation]["round_trips"].clone());
        let syncs = measured("syncs").map(|syncs| syncs[operation].clone());
        for (what, value, most) in [("round trips", trips, trips_max), ("syncs", syncs, syncs_max)] {
            // What was measured names every operation.
            let Some(value) = value else { continue };
            if value.as_f64().is_none_or(|value| value > most + BY_THE_WAY) {
                missed.push(format!("a {operation} takes {value} {what}, and may take {most}"));
            }
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn each_cost(told: impl Fn(f64, f64) -> Value) -> Value {
        COSTS_MAX.iter().map(|(operation, trips, syncs)| ((*operation).to_owned(), told(*trips, *syncs))).collect()
    }

    fn good() -> Map<String, Value> {
        let figures = json!({
            "sim_speed_x": 1200, "schedules": 100_000, "violations": 0, "planted_found": 25, "planted_total": 25,
            "litmus": {"strict": {"SB": {"forbidden": true, "forbidden_seen": 0, "allowed_seen": 0}},
                "sequential": {"stale": {"forbidden": false, "forbidden_seen": 0, "allowed_seen": 9}},
                "eventual": {"LB": {"forbidden": false, "forbidden_seen": 0, "allowed_seen": 0}}},
            "litmus_violations": 0, "live_verdict": "kept",
            "live_seconds": 600.0, "live_kills": 110, "live_violations": 0, "live_lost": 0,
            "live_acked": {"strict": 9, "sequential": 9, "causal": 9, "eventual": 9, "sets": 9, "counters": 9},
            "downtime_ms": {"strict": 0, "strict_read": 0, "strict_write": 0, "sequential": 0, "causal": 0,
                "eventual": 0, "lock": 0, "steady": 0},
            "messages": each_cost(|trips, _| json!({"round_trips": trips})),
            "syncs": each_cost(|_, syncs| json!(syncs)),
            "reconcile_bytes_over_difference": 2.5, "model_states": 100,
        });
        figures.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn each_bar_that_is_missed_is_named() {
        assert_eq!(missed(&good(), false), Vec::<String>::new());
        let spoilt = [
            ("sim_speed_x", json!(900)),
            ("schedules", json!(99_999)),
            ("violations", json!(1)),
            ("planted_found", json!(24)),
            ("litmus", json!({"strict": {"SB": {"forbidden_seen": 1, "allowed_seen": 0}}})),
            ("litmus", json!({"sequential": {"stale": {"forbidden": false, "forbidden_seen": 0, "allowed_seen": 0}}})),
            ("litmus_violations", json!(1)),
            ("live_lost", json!(2)),
            ("live_seconds", json!(599.0)),
            ("live_kills", json!(20)),
            ("live_verdict", json!("broken")),
            ("downtime_ms", json!({"strict": 0, "causal": 100})),
            ("live_acked", json!({"strict": 9, "sequential": 9, "causal": 9, "eventual": 9, "sets": 0, "counters": 9})),
            ("downtime_ms", json!({"strict": 0, "causal": 0, "eventual": 0, "lock": 0, "steady": 0})),
            (
                "downtime_ms",
                json!({"strict": 0, "sequential": 0, "causal": 0, "eventual": 0, "lock": 0, "steady": 100}),
            ),
            ("messages", each_cost(|trips, _| json!({"round_trips": trips + 0.1}))),
            ("syncs", each_cost(|_, syncs| json!(syncs + 0.1))),
            ("syncs", json!({"strict write": 1.0})),
            ("reconcile_bytes_over_difference", json!(3.1)),
            ("model_states", Value::Null),
        ];
        for (name, value) in spoilt {
            let mut figures = good();
            figures.insert(name.to_owned(), value.clone());
            assert!(!missed(&figures, false).is_empty(), "{name} is {value}");
        }
    }
}
