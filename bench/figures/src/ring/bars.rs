//! What the figures must reach. A figure that was not measured reaches nothing and is named.

use serde_json::{Map, Value};

use crate::reports::{entries, unmeasured};

/// The most that the fullest member may own, as a multiple of its due share.
const BALANCE_MAX: f64 = 1.10;
/// The most memory that a million members may take.
const MILLION_GIB_MAX: f64 = 8.0;
/// Tokens that a member of weight 1 may have.
const TOKENS_MAX: f64 = 32.0;
/// Schedules of the long form.
const SCHEDULES_MIN: f64 = 10_000.0;
/// Planted bugs that there are at least.
const PLANTED_MIN: f64 = 8.0;
/// The longest that simulating them may take.
const MILLION_SECONDS_MAX: f64 = 600.0;

/// A sentence for each figure that misses its bar.
pub fn missed(figures: &Map<String, Value>, quick: bool) -> Vec<String> {
    let mut missed = unmeasured(figures);
    for (size, hops) in entries(figures.get("hops")) {
        let power: f64 = size.trim_start_matches("2^").parse().unwrap_or(0.0);
        let most = 0.5 * power + 1.0;
        if hops.as_f64().is_none_or(|hops| hops > most) {
            missed.push(format!("hops at {size} are {hops}, and may be {most}"));
        }
    }
    for (minutes, churn) in entries(figures.get("churn")) {
        if churn["wrong_owner"] != 0 {
            missed.push(format!("{} lookups ended at the wrong owner at {minutes} minutes", churn["wrong_owner"]));
        }
        let broken = &churn["looks_with_a_broken_invariant"];
        if *broken != 0 {
            missed.push(format!("an invariant was broken at {broken} looks at {minutes} minutes"));
        }
        let failed = churn["failed_per_10k"].as_f64();
        if minutes == "10" && !quick && failed.is_none_or(|failed| failed >= 1.0) {
            missed.push(format!("{} of 10,000 lookups failed at 10 minutes", churn["failed_per_10k"]));
        }
    }
    for (kind, by_nodes) in entries(figures.get("balance_max_over_mean")) {
        for (nodes, worst) in entries(Some(by_nodes)) {
            if worst.as_f64().is_none_or(|worst| worst > BALANCE_MAX) {
                missed.push(format!(
                    "the fullest of {nodes} ({kind}) has {worst} of its share, and may have {BALANCE_MAX}"
                ));
            }
        }
    }
    for change in ["join", "leave"] {
        for (name, most) in [("moved_over_ideal", 1.1), ("failed_requests", 0.0), ("p99_ratio", 2.0)] {
            let Some(figure) = figures.get(change).filter(|figure| !figure.is_null()) else { continue };
            if figure[name].as_f64().is_none_or(|value| value > most) {
                missed.push(format!("{change}.{name} is {}, and may be {most}", figure[name]));
            }
        }
    }
    let number = |name: &str| figures.get(name).and_then(Value::as_f64);
    for (name, most) in [
        ("sim_million_gib", MILLION_GIB_MAX),
        ("sim_million_seconds", MILLION_SECONDS_MAX),
        ("sim_million_wrong_owner", 0.0),
        ("model_scopes_cut", 0.0),
        ("tokens_max", TOKENS_MAX),
        ("violations", 0.0),
        ("restart_moved_keys", 0.0),
    ] {
        if let Some(value) = number(name).filter(|value| *value > most) {
            missed.push(format!("{name} is {value}, and may be {most}"));
        }
    }
    for (name, least) in [("schedules", SCHEDULES_MIN), ("planted_total", PLANTED_MIN)] {
        if let Some(value) = number(name).filter(|value| *value < least && !quick) {
            missed.push(format!("{name} is {value}, and must be {least}"));
        }
    }
    for (found, total) in [("planted_found", "planted_total"), ("model_planted_found", "model_planted_total")] {
        if number(found) < number(total) {
            missed.push(format!("{found} is {:?} of {:?}", number(found), number(total)));
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(figures: Value) -> Vec<String> {
        missed(figures.as_object().expect("an object"), false)
    }

    #[test]
    fn good_figures_miss_nothing_and_each_bad_one_is_named() {
        let good = json!({"hops": {"2^10": 5.9}, "schedules": 10_000,
            "churn": {"10": {"wrong_owner": 0, "failed_per_10k": 0.5, "looks_with_a_broken_invariant": 0}},
            "tokens_max": 32, "model_scopes_cut": 0, "sim_million_wrong_owner": 0,
            "balance_max_over_mean": {"by_nodes": {"3": 1.1}}, "sim_million_gib": 3.0, "violations": 0,
            "planted_found": 8, "planted_total": 8, "restart_moved_keys": 0,
            "join": {"moved_over_ideal": 1.02, "failed_requests": 0, "p99_ratio": 1.4}});
        assert_eq!(of(good), Vec::<String>::new());
        let bad = json!({"hops": {"2^10": 6.1}, "schedules": 9_999,
            "churn": {"10": {"wrong_owner": 1, "failed_per_10k": 1.5, "looks_with_a_broken_invariant": 2}},
            "tokens_max": 33, "model_scopes_cut": 1, "sim_million_wrong_owner": 1,
            "balance_max_over_mean": {"by_nodes": {"3": 1.11}}, "sim_million_gib": 9.0, "violations": 1,
            "planted_found": 2, "planted_total": 3, "join": null, "restart_moved_keys": 1,
            "leave": {"moved_over_ideal": 1.2, "failed_requests": 1, "p99_ratio": null}});
        assert_eq!(of(bad).len(), 18);
    }
}
