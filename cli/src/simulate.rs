//! `everring sim`: the deterministic simulator from the command line.

use std::time::{Duration, Instant};

use serde_json::json;
use sim::Violation;
use sim::available;
use sim::available::reconcile::{self, Load, Traffic};
use sim::command::{self, Beside, Fleet, LitmusRow, Summary};
use sim::steady::{self, Cost, Speed};

use crate::args::{Contract, SimArgs, SimCommand};
use crate::litmus::{self, Shown};
use crate::out::{self, Form};
use crate::signals::Interrupts;
use crate::simulate_ring;

/// A seed broke what must hold.
pub const EXIT_VIOLATED: u8 = 1;
/// How many seeds are run where neither a number nor a time is given.
const SEEDS_DEFAULT: u64 = 1_000;

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
        SimCommand::Litmus { seeds, first, output } => tell_litmus(&command::run_litmus(first, seeds), output.output),
        SimCommand::Replay { seed, contract, planted } => {
            let (text, violation) = command::replay_fleet(fleet_of(contract, planted), seed);
            out::bytes(text.as_bytes())?;
            Ok(exit_of(violation.as_ref()))
        }
        SimCommand::Run { seeds, duration, first, contract, planted, until_found, threads, output } => {
            let count = seeds.unwrap_or(if duration.is_some() { u64::MAX } else { SEEDS_DEFAULT });
            let fleet = fleet_of(contract, planted);
            let summary = run_seeds(fleet, (first, count), threads, (until_found, duration))?;
            match output.output {
                Form::Json => out::json(&described(&summary, first, fleet))?,
                Form::Table => out::bytes(summary.to_string().as_bytes())?,
            }
            Ok(exit_of(summary.first_violation.as_ref().map(|(_, violation)| violation)))
        }
        SimCommand::Speed { per_second, length, output } => {
            let (began, on_processor) = (Instant::now(), processor_time());
            let found = steady::speed(per_second, length);
            let on_processor = processor_time().saturating_sub(on_processor);
            speed(found, (began.elapsed(), on_processor), output.output)
        }
        SimCommand::Costs { output } => costs(steady::costs(), &available::costs::costs(), output.output),
        SimCommand::Reconcile { keys, differing, value_bytes, output } => {
            let differing = differing.unwrap_or(keys.div_ceil(100)).min(keys);
            reconcile(Load { keys, differing, value_bytes: value_bytes as usize }, output.output)
        }
        SimCommand::Ring(args) => simulate_ring::ring(&args),
        SimCommand::Lookups { write, rows, power_max } => {
            simulate_ring::lookups(write.as_deref(), rows.as_deref(), power_max)
        }
        SimCommand::Hops { power, output } => simulate_ring::hops(power, output.output),
        SimCommand::Balance { nodes, output } => simulate_ring::balance(nodes as usize, output.output),
        SimCommand::Model { of, short, output } => simulate_ring::model(of, short, output.output),
    }
}

/// Runs seeds until all are done, the time is over, or a signal comes; each that breaks something is told at once.
fn run_seeds(
    fleet: Fleet,
    seeds: (u64, u64),
    threads: Option<u16>,
    (until_found, duration): (bool, Option<Duration>),
) -> anyhow::Result<Summary> {
    let threads = match threads {
        Some(threads) => usize::from(threads),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    name_the_seed_of_a_panic(fleet);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let interrupts = {
        let _inside = runtime.enter();
        Interrupts::listen()?
    };
    let began = Instant::now();
    let over = || duration.is_some_and(|duration| began.elapsed() >= duration);
    let stop = || over() || interrupts.count() > 0;
    let found = |seed: u64, violation: &Violation| {
        let flags = fleet.replay_flags();
        eprintln!("seed {seed}: {violation}\nsee it with: everring sim replay {seed}{flags}");
    };
    Ok(command::run_fleet(fleet, seeds, threads, Beside { until_found, stop: &stop, found: &found }))
}

fn fleet_of(contract: Contract, planted: Option<Fleet>) -> Fleet {
    planted.unwrap_or(match contract {
        Contract::Ordered => Fleet::Ordered(None),
        Contract::Available => Fleet::Available(None),
        Contract::Both => Fleet::Both(None),
    })
}

/// A panic ends a release build at once, with no summary: so the panic itself tells which schedule it was.
fn name_the_seed_of_a_panic(fleet: Fleet) {
    let told_before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told_before(panic);
        if let Some(seed) = command::seed_under_way() {
            let flags = fleet.replay_flags();
            eprintln!("an assertion failed in seed {seed}; see it with: everring sim replay {seed}{flags}");
        }
    }));
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

/// What operations cost: those of ordered buckets, and those of available ones.
fn costs(
    ordered: Result<Vec<Cost>, Violation>,
    available: &[available::costs::Cost],
    form: Form,
) -> anyhow::Result<u8> {
    let ordered = match ordered {
        Ok(costs) => costs,
        Err(violation) => return broken(&violation),
    };
    let ordered = ordered.iter().map(|cost| (cost.operation.name(), [cost.messages, cost.round_trips, cost.syncs]));
    let available = available.iter().map(|cost| (cost.operation, [cost.messages, cost.rounds, cost.syncs]));
    let costs = ordered.chain(available);
    match form {
        Form::Json => {
            let described = costs.map(|(operation, [messages, round_trips, syncs])| {
                let counted = json!({"messages": messages, "round_trips": round_trips, "syncs_per_replica": syncs});
                (operation.to_owned(), counted)
            });
            out::json(&serde_json::Value::Object(described.collect()))?;
        }
        Form::Table => {
            let head = ["OPERATION", "MESSAGES", "ROUND TRIPS", "SYNCS/REPLICA"].map(str::to_owned).to_vec();
            let rows = costs.map(|(operation, figures)| {
                let figures = figures.map(|figure| format!("{figure:.2}"));
                [vec![operation.to_owned()], figures.to_vec()].concat()
            });
            out::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())?;
        }
    }
    Ok(0)
}

fn reconcile(load: Load, form: Form) -> anyhow::Result<u8> {
    let traffic = reconcile::run(load);
    let Traffic { difference, messages, comparing, wanting, states, rest } = traffic;
    let Load { keys, differing, value_bytes } = load;
    let (bytes, times) = (traffic.bytes(), traffic.bytes() as f64 / difference as f64);
    match form {
        Form::Json => out::json(&json!({
            "keys": keys,
            "differing": differing,
            "value_bytes": value_bytes,
            "difference_bytes": difference,
            "traffic_bytes": bytes,
            "times": times,
            "messages": messages,
            "comparing_bytes": comparing,
            "wanting_bytes": wanting,
            "states_bytes": states,
            "rest_bytes": rest,
        }))?,
        Form::Table => {
            out::line(&format!(
                "{keys} keys with values of {value_bytes} bytes, of which {differing} differ: {difference} bytes"
            ))?;
            out::line(&format!(
                "{messages} messages, {bytes} bytes, {times:.2} times what differs: {comparing} comparing, {wanting} \
                 wanting, {states} states, {rest} else"
            ))?;
        }
    }
    Ok(0)
}

fn broken(violation: &Violation) -> anyhow::Result<u8> {
    eprintln!("everring: {violation}");
    Ok(EXIT_VIOLATED)
}

impl From<&LitmusRow> for Shown {
    fn from(row: &LitmusRow) -> Shown {
        let (seen, rounds) = (row.shown.outcomes, row.shown.rounds);
        Shown { column: row.column, test: row.test, forbidden: row.forbidden, seen, rounds }
    }
}

fn tell_litmus(rows: &[LitmusRow], form: Form) -> anyhow::Result<u8> {
    let shown = rows.iter().map(Shown::from);
    let violations = rows.iter().filter(|row| row.violation.is_some()).count();
    match form {
        Form::Json => out::json(&json!({"litmus": litmus::described(shown), "violations": violations}))?,
        Form::Table => out::bytes(litmus::table(shown).as_bytes())?,
    }
    for LitmusRow { column, test, violation, .. } in rows {
        if let Some((seed, violation)) = violation {
            eprintln!("everring: seed {seed} broke {test}, {column}: {violation}");
        }
    }
    let seen = rows.iter().any(|row| row.forbidden && row.shown.outcomes > 0);
    Ok(if seen || violations > 0 { EXIT_VIOLATED } else { 0 })
}

fn exit_of(violation: Option<&Violation>) -> u8 {
    if violation.is_some() { EXIT_VIOLATED } else { 0 }
}

fn described(summary: &Summary, first: u64, fleet: Fleet) -> serde_json::Value {
    let found = summary.first_violation.as_ref();
    json!({
        "schedules": summary.schedules,
        "first": first,
        "next": summary.next,
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
