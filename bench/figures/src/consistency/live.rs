//! A fleet of processes under its monkey, with clients at all four levels at once and on sets and counters, the litmus
//! tests at all four levels beside them, and its verdict.

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStderr, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::everring::{Everring, words};
use crate::found::Part;
use crate::verdict::{self, Checks};

/// How long a fleet may take until it says where its gateways are.
const READY_MAX: Duration = Duration::from_secs(120);
/// Requests of the shared strict keys in a second. The loops that measure the downtime ask 450 times besides, and the
/// other levels 180: two cores that run the fleet, its clients and the judge keep some room, so that the kills are
/// measured and not the want of time.
const RATE: &str = "100";
/// Rounds of litmus tests in a second, some four requests each. Unpaced they would take all that is left.
const LITMUS_RATE: &str = "15";
/// How the line with the gateways begins.
const GATEWAYS: &str = "gateways ";

/// Runs `everring up --chaos` and `everring litmus` beside it, and reads their reports.
pub fn live(everring: &Everring, quick: bool) -> Result<Part> {
    let report = everring.file("live-report.json");
    let (data, file) = (everring.file("live").display().to_string(), report.display().to_string());
    let (length, litmus_length) = if quick { ("40s", "30s") } else { ("10m", "590s") };
    let args = ["up", "--chaos", "--for", length, "--mean", "5s", "--deadline", "1s", "--rate", RATE];
    let mut command = everring.command(&words(&[&args[..], &["--data", &data, "--report", &file]].concat()));
    let mut up = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("everring up does not start")?;
    let gateways = follow(up.stderr.take().context("its standard error is piped")?);
    let litmus = gateways.recv_timeout(READY_MAX).context("the fleet named no gateways").and_then(|gateways| {
        let args = ["litmus", "--gateway", &gateways, "--for", litmus_length, "--lanes", "4", "--rate", LITMUS_RATE];
        let finished = everring.run(&words(&[&args[..], &["--output", "json"]].concat()))?;
        ensure!(finished.code != Some(3), "a litmus test was never answered whole");
        finished.json()
    });
    // Whatever came of the one, the other ends by itself and is waited for.
    let ended = up.wait_with_output().context("everring up cannot be waited for")?;
    // The verdict for people.
    eprint!("{}", String::from_utf8_lossy(&ended.stdout));
    ensure!(ended.status.code() != Some(2), "the run did not begin");
    let litmus = litmus?;
    let text = std::fs::read_to_string(&report).context("the run left no report")?;
    let mut part = read(&serde_json::from_str(&text).context("the report is no JSON")?)?;
    part.figures.push(("litmus_live", litmus["litmus"].clone()));
    part.details["litmus"] = litmus;
    Ok(part)
}

/// Passes on what a fleet says on standard error; the gateways, separated by commas, once it names them.
fn follow(stderr: ChildStderr) -> Receiver<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if let Some(gateways) = line.strip_prefix(GATEWAYS) {
                // Who asked may have given up.
                let _ = tell.send(gateways.split_whitespace().collect::<Vec<_>>().join(","));
            }
        }
    });
    told
}

fn read(verdict: &Value) -> Result<Part> {
    let kills = verdict::kills(verdict)?;
    let Checks { decided, violations } = verdict::checks(verdict)?;
    ensure!(decided, "no check was made, or some are undecided: {}", verdict["checks"]);
    let figures = vec![
        ("live_seconds", verdict["duration_s"].clone()),
        ("live_kills", json!(kills)),
        ("live_violations", json!(violations)),
        ("live_lost", verdict["acked_writes"]["lost"].clone()),
        ("live_acked", acknowledged(verdict)),
        ("live_verdict", verdict["verdict"].clone()),
        ("downtime_ms", verdict["downtime_ms"].clone()),
    ];
    let kept = ["verdict", "because", "seed", "gaps", "requests", "checks", "latency_ms", "acked_writes", "traces"];
    Ok(Part { figures, details: verdict::kept(verdict, &kept) })
}

/// How many writes of each kind were acknowledged.
fn acknowledged(verdict: &Value) -> Value {
    let kinds = verdict["acked_writes"]["by"].as_object();
    kinds.into_iter().flatten().map(|(kind, acked)| (kind.clone(), acked["total"].clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_verdict_are_read() {
        let mut verdict = json!({
            "duration_s": 30.0, "faults": [{"kind": "kill"}, {"kind": "kill", "not_injected": "halted"}],
            "acked_writes": {"lost": 1, "by": {"sets": {"total": 3, "lost": 1}, "strict": {"total": 9, "lost": 0}}},
            "downtime_ms": {"strict": 100, "sequential": 0}, "verdict": "broken",
            "checks": [{"decided": true, "violations": 1}, {"decided": true, "violations": 2}],
        });
        let part = read(&verdict).expect("a whole report");
        let figure = |name: &str| part.figures.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        assert_eq!(figure("live_kills"), Some(json!(1)));
        assert_eq!(figure("live_violations"), Some(json!(3)));
        assert_eq!(figure("live_lost"), Some(json!(1)));
        assert_eq!(figure("live_acked"), Some(json!({"sets": 3, "strict": 9})));
        assert_eq!(figure("live_verdict"), Some(json!("broken")));
        assert_eq!(figure("downtime_ms"), Some(json!({"strict": 100, "sequential": 0})));
        verdict["checks"][0]["decided"] = json!(false);
        assert!(read(&verdict).is_err(), "what is undecided is no proof");
    }
}
