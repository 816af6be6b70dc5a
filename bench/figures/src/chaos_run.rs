//! The fleet under its monkey, and its verdict.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::everring::{Everring, words};
use crate::verdict::{self, Checks};
use crate::{Extent, Part};

/// Runs `everring up --chaos` and reads the report.
pub fn measure(everring: &Everring, extent: Extent, seed: u64) -> Result<Part> {
    let report = everring.file("report.json");
    let (length, seed) = (format!("{}s", extent.chaos_s), seed.to_string());
    let (data, file) = (everring.file("chaos").display().to_string(), report.display().to_string());
    let finished = everring.run(&words(&[
        "up",
        "--chaos",
        "--for",
        &length,
        "--seed",
        &seed,
        "--deadline",
        "1s",
        "--data",
        &data,
        "--report",
        &file,
    ]))?;
    // The verdict for people.
    eprint!("{}", finished.stdout);
    ensure!(finished.code != Some(2), "the run did not begin");
    let text = std::fs::read_to_string(&report).context("the run left no report")?;
    // It says which faults and requests; the history beside it is too large to keep.
    let kept = everring.work().with_file_name("fleet-report.json");
    std::fs::write(&kept, &text).with_context(|| format!("{} cannot be written", kept.display()))?;
    let verdict: Value = serde_json::from_str(&text).context("the report is no JSON")?;
    read(&verdict)
}

/// The figures of a verdict.
fn read(verdict: &Value) -> Result<Part> {
    let number = |pointer: &str| -> Result<u64> {
        verdict.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("the report has no {pointer}"))
    };
    let kills = verdict::kills(verdict)?;
    let Checks { decided, violations } = verdict::checks(verdict)?;
    // A request whose outcome stayed unknown was not answered in time either.
    let unanswered = ["/requests/failed", "/requests/unknown", "/ticks/failed", "/ticks/unknown"];
    let unanswered = unanswered.iter().map(|pointer| number(pointer)).sum::<Result<u64>>()?;
    let figures = vec![
        ("chaos_seconds", verdict["duration_s"].clone()),
        ("kills", json!(kills)),
        ("failed_requests", json!(unanswered)),
        ("lost_writes", json!(number("/acked_writes/lost")?)),
        ("decided", json!(decided)),
        ("violations", json!(violations)),
        ("kills_without_requests", json!(number("/kills_without_requests")?)),
        ("contradicting", json!(number("/traces/contradicting")?)),
        ("downtime_ms", json!(number("/downtime_ms/strict")?)),
    ];
    let kept =
        ["verdict", "because", "seed", "requests", "ticks", "downtime_ms", "latency_ms", "acked_writes", "traces"];
    Ok(Part { figures, details: verdict::kept(verdict, &kept) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_verdict_are_read() {
        let verdict = json!({
            "verdict": "broken", "duration_s": 30.0,
            "faults": [{"kind": "kill"}, {"kind": "pause"}, {"kind": "kill", "not_injected": "halted"}],
            "requests": {"total": 10, "ok": 8, "failed": 1, "unknown": 1}, "ticks": {"failed": 1, "unknown": 2},
            "acked_writes": {"total": 5, "lost": 1}, "kills_without_requests": 0, "downtime_ms": {"strict": 100},
            "checks": [{"decided": true, "violations": 1}, {"decided": false, "violations": 2}],
            "traces": {"checked": 4, "complete": 4, "contradicting": 3},
        });
        let part = read(&verdict).expect("a whole report");
        let figure = |name: &str| part.figures.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        assert_eq!(figure("kills"), Some(json!(1)));
        assert_eq!(figure("failed_requests"), Some(json!(5)));
        assert_eq!(figure("decided"), Some(json!(false)));
        assert_eq!(figure("violations"), Some(json!(3)));
        assert_eq!(figure("contradicting"), Some(json!(3)));
        assert!(read(&json!({"faults": [], "checks": []})).is_err(), "a report without figures is no report");
    }
}
