//! What the figures must reach. A figure that was not measured reaches nothing and is named by its part.

use serde_json::{Map, Value};

use crate::Extent;

/// The most that the checker may take, in seconds.
const CHECKER_SECONDS_MAX: f64 = 10.0;
/// The most that an idle storage node or gateway may hold, in MiB.
const RSS_MIB_MAX: f64 = 40.0;
/// The figures that must be 0, however busy the machine is.
const NONE: [&str; 5] = ["lost_writes", "violations", "kills_without_requests", "contradicting", "sim_violations"];
/// The figures that must be 0 on a machine that has time for the fleet.
const NONE_IN_TIME: [&str; 2] = ["failed_requests", "downtime_ms"];

/// A sentence for each figure that misses its bar, apart from those of time and room.
pub fn missed(figures: &Map<String, Value>, extent: Extent) -> Vec<String> {
    let number = |name: &str| figures.get(name).and_then(Value::as_f64);
    let mut missed = not_none(figures, &NONE);
    if figures.get("decided") == Some(&Value::Bool(false)) {
        missed.push("a history was not decided".to_owned());
    }
    if let Some(kills) = number("kills").filter(|kills| *kills < extent.kills_min as f64) {
        missed.push(format!("kills is {kills}, and must be {} or more", extent.kills_min));
    }
    if let (Some(found), Some(total)) = (number("planted_found"), number("planted_total"))
        && found < total
    {
        missed.push(format!("{found} of {total} planted bugs were found"));
    }
    missed
}

/// A sentence for each figure that misses a bar of time or room: how busy the machine is has a part in these.
pub fn missed_in_time(figures: &Map<String, Value>) -> Vec<String> {
    let mut missed = not_none(figures, &NONE_IN_TIME);
    let mut at_most = |name: &str, most: f64| {
        if let Some(value) = figures.get(name).and_then(Value::as_f64).filter(|value| *value > most) {
            missed.push(format!("{name} is {value}, and may be {most}"));
        }
    };
    at_most("checker_seconds", CHECKER_SECONDS_MAX);
    at_most("rss_node_mib", RSS_MIB_MAX);
    at_most("rss_gateway_mib", RSS_MIB_MAX);
    missed
}

fn not_none(figures: &Map<String, Value>, names: &[&str]) -> Vec<String> {
    let count = |name: &str| figures.get(name).and_then(Value::as_f64).filter(|count| *count != 0.0);
    let missed = names.iter().filter_map(|name| Some(format!("{name} is {}, and must be 0", count(name)?)));
    missed.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::FULL;

    fn of(figures: Value) -> Vec<String> {
        let figures = figures.as_object().expect("an object");
        let mut all = missed(figures, FULL);
        all.extend(missed_in_time(figures));
        all
    }

    #[test]
    fn good_figures_miss_nothing_and_each_bad_one_is_named() {
        let good = json!({"kills": 20, "failed_requests": 0, "downtime_ms": 0, "decided": true, "checker_seconds": 9.9,
            "rss_node_mib": 40.0, "planted_found": 14, "planted_total": 14});
        assert_eq!(of(good), Vec::<String>::new());
        let bad = json!({"kills": 19, "failed_requests": 1, "downtime_ms": 100, "decided": false,
            "checker_seconds": 10.1, "rss_gateway_mib": 40.1, "planted_found": 13, "planted_total": 14});
        assert_eq!(of(bad).len(), 7);
    }
}
