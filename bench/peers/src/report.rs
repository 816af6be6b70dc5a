//! The tables and the line of JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use processes::{commit, machine_sentence};
use serde_json::{Map, Value, json};

use crate::load::{Phase, PhaseResult};
use crate::target::Target;

/// Everything that was measured.
pub struct Report {
    /// The machine, as JSON.
    pub machine: Value,
    /// One entry a target.
    pub measured: Vec<Measured>,
    /// Clients.
    pub clients: usize,
    /// The other settings.
    pub args: Settings,
}

/// How it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rounds.
    pub rounds: u32,
    /// Seconds of a phase that count.
    pub seconds: f64,
    /// Seconds before them.
    pub warm_up_s: f64,
    /// Keys.
    pub keys: u32,
    /// The size of a value.
    pub value_bytes: usize,
}

/// One target's results, one of each phase a round.
pub struct Measured {
    name: String,
    description: String,
    writes: Vec<PhaseResult>,
    reads: Vec<PhaseResult>,
}

/// What is divided by what.
const RATIOS: [(&str, &str); 7] = [
    ("everring-3", "etcd-grpc"),
    ("everring-3", "etcd-json"),
    ("everring-3", "actix"),
    ("everring-5", "etcd-grpc"),
    ("everring-5", "etcd-json"),
    ("everring-5", "actix"),
    ("etcd-json", "actix"),
];
const PHASES: [Phase; 2] = [Phase::Write, Phase::Read];

impl Measured {
    /// Nothing measured yet.
    pub fn new(target: &Target) -> Measured {
        let Target { name, description, .. } = target;
        Measured { name: name.clone(), description: description.clone(), writes: Vec::new(), reads: Vec::new() }
    }

    /// The results of a phase, a round each.
    pub fn results_mut(&mut self, phase: Phase) -> &mut Vec<PhaseResult> {
        match phase {
            Phase::Write => &mut self.writes,
            Phase::Read => &mut self.reads,
        }
    }

    fn results(&self, phase: Phase) -> &[PhaseResult] {
        match phase {
            Phase::Write => &self.writes,
            Phase::Read => &self.reads,
        }
    }

    fn summary(&self, phase: Phase) -> Summary {
        let results = self.results(phase);
        let mut latency: Option<Histogram<u64>> = None;
        let mut server_cpu: BTreeMap<&'static str, f64> = BTreeMap::new();
        for result in results {
            match &mut latency {
                // Histograms of one shape can always be added.
                Some(all) => all.add(&result.latency).unwrap_or_default(),
                None => latency = Some(result.latency.clone()),
            }
            for (role, seconds) in &result.server_cpu {
                *server_cpu.entry(role).or_default() += seconds;
            }
        }
        let sum = |of: fn(&PhaseResult) -> f64| results.iter().map(of).sum::<f64>();
        let quantile_ms = |quantile: f64| {
            latency.as_ref().map_or(0.0, |latency| latency.value_at_quantile(quantile) as f64 / 1_000.0)
        };
        Summary {
            per_second: Spread::of(results.iter().map(PhaseResult::per_second)),
            p50_ms: quantile_ms(0.50),
            p99_ms: quantile_ms(0.99),
            max_ms: quantile_ms(1.0),
            answered: results.iter().map(|result| result.answered).sum(),
            errors: results.iter().map(|result| result.errors).sum(),
            seconds: sum(|result| result.seconds),
            client_cpu: sum(|result| result.client_cpu),
            server_cpu,
        }
    }
}

struct Summary {
    per_second: Spread,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    answered: u64,
    errors: u64,
    seconds: f64,
    client_cpu: f64,
    server_cpu: BTreeMap<&'static str, f64>,
}

impl Summary {
    /// Microseconds of processor time for each answered request.
    fn each_us(&self, cpu_seconds: f64) -> f64 {
        cpu_seconds * 1e6 / self.answered.max(1) as f64
    }

    fn server_us(&self) -> f64 {
        self.each_us(self.server_cpu.values().sum())
    }

    fn json(&self) -> Value {
        let by_role: Map<String, Value> = self
            .server_cpu
            .iter()
            .map(|(role, seconds)| ((*role).to_owned(), json!(rounded(self.each_us(*seconds)))))
            .collect();
        json!({
            "per_second": self.per_second.json(),
            "p50_ms": self.p50_ms, "p99_ms": self.p99_ms, "max_ms": self.max_ms,
            "answered": self.answered, "errors": self.errors,
            "server_cpu_us_each": rounded(self.server_us()),
            "server_cpu_us_each_by_role": by_role,
            "client_cpu_us_each": rounded(self.each_us(self.client_cpu)),
        })
    }
}

/// The least, the median and the most of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Spread { min: 0.0, median: 0.0, max: 0.0 };
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Spread { min: *min, median, max: *max }
    }

    fn json(&self) -> Value {
        json!({"min": rounded(self.min), "median": rounded(self.median), "max": rounded(self.max)})
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let Settings { rounds, seconds, warm_up_s, keys, value_bytes } = self.args;
        writeln!(
            out,
            "{} clients, one connection and one request at a time each; {value_bytes} B values over {keys} keys; \
             {rounds} interleaved rounds of {seconds} s a phase after {warm_up_s} s of warm-up; clients share \
             the machine",
            self.clients
        )?;
        writeln!(out, "Machine: {}; commit {}.\n", machine_sentence(&self.machine), commit())?;
        writeln!(
            out,
            "| target | phase | requests/s, median (min-max) | p50 ms | p99 ms | max ms | errors | CPU us each, \
             servers | clients | cores, servers |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
        for phase in PHASES {
            for measured in &self.measured {
                let summary = measured.summary(phase);
                let Spread { min, median, max } = summary.per_second;
                writeln!(
                    out,
                    "| {} | {} | {median:.0} ({min:.0}-{max:.0}) | {:.2} | {:.2} | {:.1} | {} | {:.0} | {:.0} | \
                     {:.2} |",
                    measured.name,
                    phase.name(),
                    summary.p50_ms,
                    summary.p99_ms,
                    summary.max_ms,
                    summary.errors,
                    summary.server_us(),
                    summary.each_us(summary.client_cpu),
                    summary.server_cpu.values().sum::<f64>() / summary.seconds
                )?;
            }
        }
        self.write_ratios(out)?;
        self.write_roles(out)?;
        writeln!(out)?;
        for Measured { name, description, .. } in &self.measured {
            writeln!(out, "- {name}: {description}")?;
        }
        Ok(())
    }

    fn write_ratios(&self, out: &mut String) -> std::fmt::Result {
        let ratios = self.ratios();
        if ratios.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n| requests/s, ratio within a round | writes, median (min-max) | reads, median (min-max) |")?;
        writeln!(out, "|---|---|---|")?;
        for (name, [writes, reads]) in ratios {
            let cell = |Spread { min, median, max }| format!("{median:.3} ({min:.3}-{max:.3})");
            writeln!(out, "| {name} | {} | {} |", cell(writes), cell(reads))?;
        }
        Ok(())
    }

    fn write_roles(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n| CPU us for each request | writes | reads |")?;
        writeln!(out, "|---|---|---|")?;
        for measured in &self.measured {
            let [writes, reads] = PHASES.map(|phase| measured.summary(phase));
            for (role, seconds) in &writes.server_cpu {
                let read_seconds = reads.server_cpu.get(role).copied().unwrap_or(0.0);
                let (write_us, read_us) = (writes.each_us(*seconds), reads.each_us(read_seconds));
                writeln!(out, "| {} {role} | {write_us:.1} | {read_us:.1} |", measured.name)?;
            }
        }
        Ok(())
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let Settings { rounds, seconds, warm_up_s, keys, value_bytes } = self.args;
        let targets: Map<String, Value> = self
            .measured
            .iter()
            .map(|measured| {
                let [write, read] = PHASES.map(|phase| measured.summary(phase).json());
                let entry = json!({"description": measured.description, "write": write, "read": read});
                (measured.name.clone(), entry)
            })
            .collect();
        let ratios: Map<String, Value> = self
            .ratios()
            .into_iter()
            .map(|(name, [writes, reads])| (name, json!({"write": writes.json(), "read": reads.json()})))
            .collect();
        json!({
            "bench": "peers", "commit": commit(), "machine": self.machine, "clients": self.clients, "rounds": rounds,
            "seconds": seconds, "warm_up_s": warm_up_s, "keys": keys, "value_bytes": value_bytes, "targets": targets,
            "ratios": ratios,
        })
    }

    fn ratios(&self) -> Vec<(String, [Spread; 2])> {
        let find = |name: &str| self.measured.iter().find(|measured| measured.name == name);
        let both = RATIOS.iter().filter_map(|(over, under)| Some((find(over)?, find(under)?)));
        both.map(|(over, under)| {
            let spreads = PHASES.map(|phase| {
                let pairs = over.results(phase).iter().zip(under.results(phase));
                Spread::of(pairs.map(|(over, under)| over.per_second() / under.per_second()))
            });
            (format!("{} / {}", over.name, under.name), spreads)
        })
        .collect()
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(answered: u64, seconds: f64) -> PhaseResult {
        let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds");
        latency.record_n(2_000, answered).expect("in bounds");
        let server_cpu = BTreeMap::from([("etcd", 1.0)]);
        PhaseResult { answered, errors: 0, seconds, latency, server_cpu, client_cpu: 0.5 }
    }

    fn measured(name: &str, per_second: &[u64]) -> Measured {
        let results: Vec<PhaseResult> = per_second.iter().map(|each| result(each * 2, 2.0)).collect();
        Measured { name: name.to_owned(), description: "d".to_owned(), writes: results.clone(), reads: results }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let report = Report {
            machine: json!({}),
            measured: vec![measured("everring-3", &[100, 400, 90]), measured("actix", &[200, 400, 300])],
            clients: 1,
            args: Settings { rounds: 3, seconds: 2.0, warm_up_s: 0.5, keys: 1, value_bytes: 100 },
        };
        let json = report.json();
        assert_eq!(json["ratios"]["everring-3 / actix"]["write"], json!({"min": 0.3, "median": 0.5, "max": 1.0}));
        assert_eq!(json["targets"]["actix"]["read"]["per_second"]["median"], json!(300.0));
        assert_eq!(json["targets"]["actix"]["read"]["p50_ms"], json!(2.0));
        // Three rounds of one second of processor time, 1,800 answers.
        assert_eq!(json["targets"]["actix"]["read"]["server_cpu_us_each"], json!(1_666.667));
        assert!(report.text().contains("| everring-3 / actix | 0.500 (0.300-1.000) |"), "{}", report.text());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of([4.0, 1.0].into_iter()), Spread { min: 1.0, median: 2.5, max: 4.0 });
    }
}
