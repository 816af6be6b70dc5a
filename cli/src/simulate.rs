//! `everring sim`: the deterministic simulator from the command line.

use std::time::{Duration, Instant};

use serde_json::json;
use sim::Violation;
use sim::command::{self, Fleet, LitmusRow, Summary};
use sim::steady::{self, Cost, Speed};

use crate::args::{Contract, SimArgs, SimCommand};
use crate::out::{self, Form};
use crate::simulate_ring;

/// A seed broke what must hold.
pub const EXIT_VIOLATED: u8 = 1;

/// Runs a simulation; exit status 1 when something was broken.
///
/// # Errors
/// Standard output is closed.
pub fn run(args: SimArgs) -> anyhow::Result<u8> {
    match args.command {
        SimCommand::Bugs => {
            for bug in Fleet::with_bugs().filter_map(Fleet::bug) {
                out::line(bug)?;
            }
            Ok(0)
        }
        SimCommand::Litmus { seeds, first, output } => {
            let rows = command::run_litmus(first, seeds);
            match output.output {
                Form::Json => out::json(&litmus_object(&rows))?,
                Form::Table => out::bytes(litmus_table(&rows).as_bytes())?,
            }
            let broken = rows.iter().any(|row| row.violation.is_some() || (row.forbidden && row.shown.outcomes > 0));
            Ok(if broken { EXIT_VIOLATED } else { 0 })
        }
        SimCommand::Replay { seed, contract, planted } => {
            let (text, violation) = command::replay_fleet(fleet_of(contract, planted), seed);
            out::bytes(text.as_bytes())?;
            Ok(exit_of(violation.as_ref()))
        }
        SimCommand::Run { seeds, first, contract, planted, until_found, threads, output } => {
            let threads = match threads {
                Some(threads) => usize::from(threads),
                None => std::thread::available_parallelism().map_or(1, usize::from),
            };
            let fleet = fleet_of(contract, planted);
            let summary = command::run_fleet(fleet, (first, seeds), threads, until_found);
            match output.output {
                Form::Json => out::json(&described(&summary, first, fleet))?,
                Form::Table => out::bytes(summary.to_string().as_bytes())?,
            }
            if let Some((seed, _)) = &summary.first_violation {
                let how = match (fleet.bug(), fleet) {
                    (Some(bug), _) => format!(" --planted {bug}"),
                    (None, Fleet::Available(_)) => " --contract available".to_owned(),
                    (None, Fleet::Ordered(_)) => String::new(),
                };
                eprintln!("see it with: everring sim replay {seed}{how}");
            }
            Ok(exit_of(summary.first_violation.as_ref().map(|(_, violation)| violation)))
        }
        SimCommand::Speed { per_second, length, output } => {
            let (began, on_processor) = (Instant::now(), processor_time());
            let found = steady::speed(per_second, length);
            let on_processor = processor_time().saturating_sub(on_processor);
            speed(found, (began.elapsed(), on_processor), output.output)
        }
        SimCommand::Costs { output } => costs(steady::costs(), output.output),
        SimCommand::Ring(args) => simulate_ring::ring(&args),
        SimCommand::Lookups { write, power_max } => simulate_ring::lookups(write.as_deref(), power_max),
        SimCommand::Hops { power, output } => simulate_ring::hops(power, output.output),
        SimCommand::Balance { nodes, output } => simulate_ring::balance(nodes as usize, output.output),
        SimCommand::Model { of, short, output } => simulate_ring::model(of, short, output.output),
    }
}

fn fleet_of(contract: Contract, planted: Option<Fleet>) -> Fleet {
    planted.unwrap_or(match contract {
        Contract::Ordered => Fleet::Ordered(None),
        Contract::Available => Fleet::Available(None),
    })
}

/// How long this thread has been running on a processor: other work on the machine does not count. Zero where the
/// system does not say.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default())
}

fn speed(
    found: Result<Speed, Violation>,
    (wall, on_processor): (Duration, Duration),
    form: Form,
) -> anyhow::Result<u8> {
    let speed = match found {
        Ok(speed) => speed,
        Err(violation) => return broken(&violation),
    };
    let Speed { steady, simulated_s, counts } = speed;
    let wall_s = wall.as_secs_f64();
    let processor_s = if on_processor.is_zero() { wall_s } else { on_processor.as_secs_f64() };
    let times = simulated_s / processor_s.max(1e-9);
    match form {
        Form::Json => out::json(&json!({
            "per_second": steady.per_second,
            "simulated_s": simulated_s,
            "wall_s": wall_s,
            "processor_s": processor_s,
            "times": times,
            "answered": counts.answered,
            "events": counts.events,
        }))?,
        Form::Table => out::line(&format!(
            "{} operations a second: {simulated_s:.0} s simulated in {processor_s:.3} s of one core, {times:.0} times \
             as fast as life",
            steady.per_second
        ))?,
    }
    Ok(0)
}

fn costs(found: Result<Vec<Cost>, Violation>, form: Form) -> anyhow::Result<u8> {
    let costs = match found {
        Ok(costs) => costs,
        Err(violation) => return broken(&violation),
    };
    match form {
        Form::Json => {
            let described = costs.iter().map(|cost| {
                let Cost { operation, messages, round_trips, syncs } = cost;
                let counted = json!({"messages": messages, "round_trips": round_trips, "syncs_per_replica": syncs});
                (operation.name().to_owned(), counted)
            });
            out::json(&serde_json::Value::Object(described.collect()))?;
        }
        Form::Table => {
            let head = ["OPERATION", "MESSAGES", "ROUND TRIPS", "SYNCS/REPLICA"].map(str::to_owned).to_vec();
            let rows = costs.iter().map(|cost| {
                let figures = [cost.messages, cost.round_trips, cost.syncs].map(|figure| format!("{figure:.2}"));
                [vec![cost.operation.name().to_owned()], figures.to_vec()].concat()
            });
            out::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())?;
        }
    }
    Ok(0)
}

fn broken(violation: &Violation) -> anyhow::Result<u8> {
    eprintln!("everring: {violation}");
    Ok(EXIT_VIOLATED)
}

/// The rows as they stand in docs/consistency.md.
fn litmus_table(rows: &[LitmusRow]) -> String {
    let mut text = String::from("| level | test | outcome | seen | of rounds |\n|---|---|---|---|---|\n");
    for LitmusRow { level, test, forbidden, shown, violation } in rows {
        let outcome = if *forbidden { "forbidden" } else { "allowed" };
        let (level, seen, rounds) = (level.name(), shown.outcomes, shown.rounds);
        text.push_str(&format!("| {level} | {test} | {outcome} | {seen} | {rounds} |\n"));
        if let Some((seed, violation)) = violation {
            text.push_str(&format!("\nseed {seed}: {violation}\n"));
        }
    }
    text
}

fn litmus_object(rows: &[LitmusRow]) -> serde_json::Value {
    let mut levels = serde_json::Map::new();
    for row in rows {
        let level = levels.entry(row.level.name()).or_insert_with(|| json!({}));
        let (forbidden, allowed) = if row.forbidden { (row.shown.outcomes, 0) } else { (0, row.shown.outcomes) };
        level[row.test] = json!({"forbidden_seen": forbidden, "allowed_seen": allowed, "rounds": row.shown.rounds});
    }
    json!({ "litmus": levels, "violations": rows.iter().filter(|row| row.violation.is_some()).count() })
}

fn exit_of(violation: Option<&Violation>) -> u8 {
    if violation.is_some() { EXIT_VIOLATED } else { 0 }
}

fn described(summary: &Summary, first: u64, fleet: Fleet) -> serde_json::Value {
    let found = summary.first_violation.as_ref();
    json!({
        "schedules": summary.schedules,
        "first": first,
        "planted": fleet.bug(),
        "violations": summary.violations,
        "first_violation": found.map(|(seed, violation)| json!({"seed": seed, "what": violation.to_string()})),
        "answered": summary.answered,
        "unknown": summary.counts.unknown,
        "faults": summary.faults,
        "simulated_s": summary.simulated_seconds,
        "wall_s": summary.wall_seconds,
    })
}
