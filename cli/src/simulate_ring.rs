//! `everring sim ring|lookups|balance|model`: the ring by itself, measured in virtual time; it and the registers
//! explored exhaustively.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sim::balance::{Balance, Changed, Ringful};
use sim::large::{self, Churned, Plan, Row, Stale};
use sim::model::{self, Core};

use crate::args::{ModelCore, SimRingArgs};
use crate::out::{self, Form};
use crate::simulate::EXIT_VIOLATED;

/// Lookups by which the hops of a ring at rest are measured.
const LOOKUPS: u64 = 20_000;
/// Members that come and go, after which the balance is measured again.
const CHANGES: usize = 100;
/// Weights in turn.
const EQUAL: &[u32] = &[1];
/// Weights in turn.
const WEIGHTED: &[u32] = &[1, 2, 4];
/// The sizes at which staleness is measured, as powers of two: each second or third of them, since it hardly depends on
/// them and the last one takes most of an hour.
const STALE_POWERS: [u8; 9] = [3, 5, 8, 10, 12, 14, 16, 18, 20];
/// The lives of `docs/lookups.md`.
const SESSIONS: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3_600)];

/// `everring sim ring`: exit status 1 when a lookup ended at the wrong owner.
///
/// # Errors
/// Standard output is closed.
pub fn ring(args: &SimRingArgs) -> anyhow::Result<u8> {
    let began = Instant::now();
    let config = chord_config(args.period);
    let plan = Plan {
        nodes: args.nodes as usize,
        config,
        session: args.churn,
        length: args.length,
        lookups_per_s: args.lookups.max(0.0),
        seed: args.seed,
    };
    let found = large::churn(&plan);
    let wall_s = began.elapsed().as_secs_f64();
    let peak_gib = peak_memory_bytes().map(|bytes| bytes as f64 / f64::from(1 << 30));
    let described = json!({
        "nodes": args.nodes,
        "median_session_s": args.churn.map(|median| median.as_secs_f64()),
        "simulated_s": args.length.as_secs_f64(),
        "period_ms": args.period.as_millis() as u64,
        "seed": args.seed,
        "lookups": found.lookups,
        "wrong_owner": found.wrong_owner,
        "failed": found.failed,
        "failed_per_10k": per_10k(&found),
        "hops": found.hops,
        "p99_ms": found.p99_ms,
        "messages_per_node_second": found.messages_per_node_second,
        "crashes": found.crashes,
        "stale_successors": found.stale_successors,
        "stale_fingers": found.stale_fingers,
        "wrong_successor": found.wrong_successor,
        "entries": found.entries,
        "looks": found.looks,
        "looks_with_a_broken_invariant": found.broken,
        "events": found.events,
        "wall_s": wall_s,
        "peak_gib": peak_gib,
    });
    show(&described, args.output.output)?;
    Ok(if found.wrong_owner > 0 { EXIT_VIOLATED } else { 0 })
}

/// `everring sim lookups`.
///
/// # Errors
/// Standard output is closed, the folder or the file of rows cannot be written to, or what stands in that file is none.
pub fn lookups(write: Option<&Path>, kept: Option<&Path>, power_max: u8) -> anyhow::Result<u8> {
    let rows: Vec<Row> = (3..=power_max)
        .map(|power| {
            eprintln!("everring: a ring of 2^{power} members");
            large::measure(1 << power, LOOKUPS, u64::from(power))
        })
        .collect();
    let sizes: Vec<u8> = STALE_POWERS.into_iter().filter(|power| *power <= power_max).collect();
    let (smaller, largest) = sizes.split_at(sizes.len().saturating_sub(1));
    let kept = Rows::open(kept)?;
    let measure =
        |powers: &[u8]| powers.iter().map(|power| kept.measured(*power)).collect::<anyhow::Result<Vec<Stale>>>();
    // The largest takes as long as all the others.
    let stale = std::thread::scope(|scope| {
        let beside = scope.spawn(|| measure(largest));
        let mut stale = measure(smaller)?;
        stale.extend(beside.join().expect("a measurement does not panic")?);
        anyhow::Ok(stale)
    })?;
    let session = Duration::from_secs(600);
    let aged = [1, 10, 60, 600].map(|after| large::age(1_000, session, Duration::from_secs(after), 1)).into();
    let churned = SESSIONS.map(|session| {
        eprintln!("everring: 1,000 members with a median life of {session:?}");
        let length = Duration::from_secs(300);
        let config = large::config();
        (
            session,
            large::churn(&Plan { nodes: 1_000, config, session: Some(session), length, lookups_per_s: 200.0, seed: 1 }),
        )
    });
    let measured = large::Measured { rows, stale, aged, churned: churned.into() };
    let page = large::markdown(&measured, "lookups.svg");
    match write {
        None => out::bytes(page.as_bytes())?,
        Some(folder) => {
            for (name, text) in [("lookups.md", page), ("lookups.svg", large::plot(&measured.rows, &measured.stale))] {
                let path = folder.join(name);
                std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
                eprintln!("everring: wrote {}", path.display());
            }
        }
    }
    Ok(0)
}

/// How a row stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Stale")]
struct StaleRow {
    nodes: usize,
    table: f64,
    #[serde(with = "ChurnedRow")]
    churned: Churned,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Churned")]
struct ChurnedRow {
    lookups: u64,
    wrong_owner: u64,
    failed: u64,
    hops: f64,
    p99_ms: u64,
    messages_per_node_second: f64,
    crashes: u64,
    stale_successors: f64,
    stale_fingers: f64,
    wrong_successor: f64,
    entries: f64,
    looks: u64,
    broken: u64,
    events: u64,
}

/// Rows of staleness that are measured already: the largest takes most of an hour, which a run that ends early need not
/// lose.
struct Rows {
    known: Vec<Stale>,
    /// Takes each new one; none if nobody asked for it.
    file: Option<(PathBuf, Mutex<File>)>,
}

impl Rows {
    fn open(path: Option<&Path>) -> anyhow::Result<Rows> {
        let Some(path) = path else { return Ok(Rows { known: Vec::new(), file: None }) };
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("{shown} cannot be read")),
        };
        let row = |line: &str| StaleRow::deserialize(&mut serde_json::Deserializer::from_str(line));
        let known = text.lines().map(row).collect::<Result<_, _>>();
        let known = known.with_context(|| format!("{shown} holds other lines than rows; remove it to measure anew"))?;
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("{shown} cannot be written"))?;
        Ok(Rows { known, file: Some((path.to_owned(), Mutex::new(file))) })
    }

    fn measured(&self, power: u8) -> anyhow::Result<Stale> {
        let nodes = 1 << power;
        if let Some(known) = self.known.iter().find(|row| row.nodes == nodes) {
            eprintln!("everring: 2^{power} members that come and go: measured before");
            return Ok(*known);
        }
        eprintln!("everring: 2^{power} members that come and go");
        let row = large::stale(nodes);
        if let Some((path, file)) = &self.file {
            let mut line = Vec::new();
            StaleRow::serialize(&row, &mut serde_json::Serializer::new(&mut line)).context("a row is plain numbers")?;
            line.push(b'\n');
            let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
            written.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(row)
    }
}

/// `everring sim hops`.
///
/// # Errors
/// Standard output is closed.
pub fn hops(power: u8, form: Form) -> anyhow::Result<u8> {
    let began = Instant::now();
    let walked = large::measure_one(large::Strategy::Fingers, 1 << power, LOOKUPS, u64::from(power));
    let described = json!({
        "nodes": 1u64 << power,
        "hops": walked.hops,
        "hops_max": walked.hops_max,
        "entries": walked.entries,
        "lookups": walked.lookups,
        "wall_s": began.elapsed().as_secs_f64(),
        "peak_gib": peak_memory_bytes().map(|bytes| bytes as f64 / f64::from(1 << 30)),
    });
    show(&described, form)?;
    Ok(0)
}

/// `everring sim balance`.
///
/// # Errors
/// Standard output is closed.
pub fn balance(nodes_max: usize, form: Form) -> anyhow::Result<u8> {
    let sizes = [3, 4, 5, 8, 16, 32, 64, 100, 200, 500, 1_000];
    let mut lines = Vec::new();
    for nodes in sizes.into_iter().filter(|nodes| *nodes <= nodes_max) {
        for (kind, weights) in [("equal", EQUAL), ("weighted", WEIGHTED)] {
            let mut ring = Ringful::of(nodes, weights, nodes as u64);
            lines.push(balance_line(kind, nodes, None, &ring.balance()));
            let changed = ring.change(CHANGES);
            lines.push(balance_line(kind, nodes, Some(&changed), &ring.balance()));
        }
    }
    match form {
        Form::Json => out::json(&Value::Array(lines))?,
        Form::Table => {
            for line in lines {
                out::line(&line.to_string())?;
            }
        }
    }
    Ok(0)
}

fn balance_line(kind: &str, began_with: usize, changed: Option<&Changed>, balance: &Balance) -> Value {
    let Balance { nodes, by_arc, by_keys, with_copies, tokens_max } = balance;
    json!({
        "weights": kind,
        "began_with": began_with,
        "changes": changed.map_or(0, |_| CHANGES),
        "nodes": nodes,
        "max_over_mean_by_arc": by_arc,
        "max_over_mean_by_keys": by_keys,
        "max_over_mean_with_copies": with_copies,
        "tokens_max": tokens_max,
        "max_over_mean_by_arc_worst": changed.map(|changed| changed.by_arc_worst),
        "moved_over_ideal": changed.map(|changed| changed.moved_over_ideal),
        "copied_over_ideal": changed.map(|changed| changed.copied_over_ideal),
    })
}

/// `everring sim model`: exit status 1 when an invariant can be broken, a scope was cut that was to be explored whole,
/// or a planted bug was not found.
///
/// # Errors
/// Standard output is closed.
pub fn model(core: Option<ModelCore>, short: bool, form: Form) -> anyhow::Result<u8> {
    let cores = match core {
        Some(ModelCore::Ring) => vec![Core::Ring],
        Some(ModelCore::Registers) => vec![Core::Registers],
        None => vec![Core::Ring, Core::Registers],
    };
    let (mut explored, mut planted) = (Vec::new(), Vec::new());
    for core in cores {
        for named in model::scopes(core, short) {
            explored.push(explored_line(core, &named));
        }
        for bug in model::planted(core) {
            planted.push(planted_line(core, &bug));
        }
    }
    let broken = explored.iter().any(|scope| scope["shown"] != true);
    let missed = planted.iter().any(|bug| bug["violation"].is_null());
    show(&json!({"explored": explored, "planted": planted}), form)?;
    Ok(if broken || missed { EXIT_VIOLATED } else { 0 })
}

fn explored_line(core: Core, named: &model::Named) -> Value {
    let began = Instant::now();
    let found = named.check();
    let end = match (found.violation.is_some(), found.complete, named.is_partial()) {
        (true, ..) => "VIOLATED",
        (_, true, _) => "complete",
        (_, _, true) => "cut at its cap, as its name says",
        _ => "NOT SHOWN: cut at its cap before every state was reached",
    };
    eprintln!("everring: {}, {}: {} states, depth {}, {end}", core.name(), named.name, found.states, found.depth);
    let mut line = json!({
        "core": core.name(),
        "scope": named.name,
        "states": found.states,
        "depth": found.depth,
        "steps": found.steps,
        "complete": found.complete,
        "shown": named.is_shown_by(&found),
        "violation": violation_of(&found),
        "wall_s": began.elapsed().as_secs_f64(),
    });
    for (name, count) in found.counts {
        line[name] = json!(count);
    }
    line
}

fn planted_line(core: Core, bug: &model::Planted) -> Value {
    let found = bug.find();
    let what = violation_of(&found);
    json!({
        "core": core.name(),
        "rules": bug.name,
        "found": !what.is_null(),
        "states": found.states,
        "depth": found.depth,
        "violation": what,
    })
}

fn violation_of(found: &model::Explored) -> Value {
    match &found.violation {
        Some((what, way)) => json!({"what": what, "way": way}),
        None => Value::Null,
    }
}

fn chord_config(period: Duration) -> sim::large::RingConfig {
    sim::large::RingConfig { stabilize_period: period, finger_period: period, ..large::config() }
}

fn per_10k(found: &Churned) -> f64 {
    found.failed as f64 * 10_000.0 / found.lookups.max(1) as f64
}

fn show(described: &Value, form: Form) -> anyhow::Result<()> {
    match (form, described.as_object()) {
        (Form::Table, Some(fields)) => {
            for (name, value) in fields {
                match value {
                    Value::Array(items) => {
                        out::line(&format!("{name}:"))?;
                        for item in items {
                            out::line(&format!("  {item}"))?;
                        }
                    }
                    value => out::line(&format!("{name:<30} {value}"))?,
                }
            }
        }
        _ => out::json(described)?,
    }
    Ok(())
}

/// The most memory that this process has had; none where the system does not tell.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_measured_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        let first = Rows::open(Some(&path)).and_then(|rows| rows.measured(3)).expect("measured");
        let known = Rows::open(Some(&path)).expect("its own lines");
        // A fraction may come back another in its last digit, which no table shows.
        let shown =
            |row: &Stale| (row.nodes, row.churned.lookups, row.churned.events, format!("{:.9}", row.churned.hops));
        assert_eq!(known.known.iter().map(shown).collect::<Vec<_>>(), [shown(&first)]);
        assert_eq!(shown(&known.measured(3).expect("known")), shown(&first));
        assert_eq!(Rows::open(Some(&path)).expect("no line was added").known.len(), 1);
        std::fs::write(&path, "{}\n").expect("written");
        let refused = Rows::open(Some(&path)).err().expect("no row");
        assert!(refused.to_string().contains("remove it to measure anew"), "{refused}");
    }
}
