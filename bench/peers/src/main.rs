//! The load tool of `make bench-peers`: Everring beside etcd and beside a bare HTTP handler, on one machine, in one
//! interleaved run.
//!
//! Each target answers the same requests from the same number of clients: strict durable writes, then strict reads, of
//! values of one size over one set of keys. The loop is closed: a client asks again when it has its answer. The targets
//! take turns in short rounds, so that whatever else the machine does meets all of them; what counts is the ratio
//! within a round, not the figure of one phase.
//!
//! This is *not* a test of correctness (the verifier is), though every answer is looked at: a read must bring the value
//! of its key, in its length. And it is not an open-model load: latency under a given rate is another question.
//!
//! Clients, servers and all else share the machine's cores, so the client's own processor time is shown beside the
//! servers'.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

mod ceiling;
mod etcd;
mod everring;
mod http;
mod load;
mod perf;
mod report;
mod target;

use crate::load::{Load, Phase};
use crate::report::{Measured, Report};
use crate::target::Target;

/// Measures Everring beside its peers.
#[derive(Debug, Parser)]
#[command(name = "peers", max_term_width = 110, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the benchmark. A flag that is given twice counts as it was given last.
    #[command(args_override_self = true)]
    Run(RunArgs),
    /// Serve the bare handler that is the ceiling (started by `run`, in a process of its own).
    Ceiling {
        /// Threads that serve.
        #[arg(long, default_value_t = 2)]
        workers: usize,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The `everring` program.
    #[arg(long, env = "EVERRING_BIN")]
    everring: PathBuf,
    /// The `etcd` program. Without it etcd is left out.
    #[arg(long, env = "ETCD_BIN")]
    etcd: Option<PathBuf>,
    /// Where data directories and logs go, a folder on a real disk. What is made there is removed at the end.
    #[arg(long)]
    work: PathBuf,
    /// Where the result is written as JSON too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds: in each one every target is measured once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each phase that count; a warm-up goes before.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Clients, each with one connection and one request at a time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u32,
    /// The size of a value in bytes.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Only these targets, by name and separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Samples the servers of Everring with `perf` in the last round, into this folder.
    #[arg(long)]
    perf: Option<PathBuf>,
}

/// The targets, in the order of their turns.
const TARGETS: [&str; 5] = ["everring-3", "everring-5", "etcd-grpc", "etcd-json", "actix"];
/// Before each phase, not counted: connections are opened in it, and buffers and caches find their sizes.
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Ceiling { workers } => ceiling::serve(workers),
        Command::Run(args) => run(&args),
    }
}

fn run(args: &RunArgs) -> Result<()> {
    ensure!(args.value_bytes >= load::VALUE_BYTES_MIN, "values need {} bytes at least", load::VALUE_BYTES_MIN);
    ensure!(args.clients > 0 && args.keys > 0 && args.rounds > 0, "clients, keys and rounds must be 1 or more");
    if let Some(unknown) = args.only.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        bail!("no target is called `{unknown}`; there are: {}", TARGETS.join(", "));
    }
    std::fs::create_dir_all(&args.work).with_context(|| format!("{} cannot be made", args.work.display()))?;
    let machine = processes::machine(&args.work);
    let directory = args.work.join(format!("peers-{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let measured = runtime.block_on(measure(args, &directory));
    let report = match measured {
        Ok(measured) => Report { machine, measured, clients: args.clients, args: settings(args) },
        // The logs stay: they say why.
        Err(error) => return Err(error.context(format!("see the logs in {}", directory.display()))),
    };
    std::fs::remove_dir_all(&directory).with_context(|| format!("{} cannot be removed", directory.display()))?;
    print!("{}", report.text());
    let json = report.json().to_string();
    if let Some(out) = &args.out {
        std::fs::write(out, format!("{json}\n")).with_context(|| format!("{} cannot be written", out.display()))?;
    }
    println!("{json}");
    Ok(())
}

fn settings(args: &RunArgs) -> report::Settings {
    report::Settings {
        rounds: args.rounds,
        seconds: args.seconds,
        warm_up_s: WARM_UP.as_secs_f64(),
        keys: args.keys,
        value_bytes: args.value_bytes,
    }
}

async fn measure(args: &RunArgs, directory: &Path) -> Result<Vec<Measured>> {
    let mut targets = Vec::new();
    for name in TARGETS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        if let Some(target) = start(name, args, directory, &targets).await? {
            targets.push(target);
        }
    }
    ensure!(!targets.is_empty(), "nothing is left to measure");
    let load = Load { clients: args.clients, keys: args.keys, value_bytes: args.value_bytes };
    for target in &targets {
        eprintln!("peers: {}: writing {} keys", target.name, args.keys);
        load.fill(target).await.with_context(|| format!("filling {}", target.name))?;
    }
    let length = Duration::from_secs_f64(args.seconds);
    let mut measured: Vec<Measured> = targets.iter().map(Measured::new).collect();
    for round in 0..args.rounds {
        for (target, measured) in targets.iter().zip(&mut measured) {
            for phase in [Phase::Write, Phase::Read] {
                let sampling = match &args.perf {
                    Some(into) if round + 1 == args.rounds && target.name.starts_with("everring") => {
                        perf::start(target, phase, into, WARM_UP, length)?
                    }
                    _ => Vec::new(),
                };
                let result = load.run(target, phase, u64::from(round), WARM_UP, length).await?;
                perf::finish(sampling)?;
                let (name, each) = (&target.name, result.per_second());
                eprintln!("peers: round {}: {name} {}: {each:.0}/s", round + 1, phase.name());
                measured.results_mut(phase).push(result);
            }
        }
    }
    Ok(measured)
}

/// Starts the processes of a target; none if it cannot be had here.
async fn start(name: &str, args: &RunArgs, directory: &Path, before: &[Target]) -> Result<Option<Target>> {
    eprintln!("peers: starting {name}");
    let own = directory.join(name);
    std::fs::create_dir_all(&own).with_context(|| format!("{} cannot be made", own.display()))?;
    let target = match name {
        "everring-3" => everring::start(name, &args.everring, 3, &own).await?,
        "everring-5" => everring::start(name, &args.everring, 5, &own).await?,
        "etcd-grpc" | "etcd-json" => {
            let Some(program) = &args.etcd else {
                eprintln!("peers: {name} is LEFT OUT: no etcd was given");
                return Ok(None);
            };
            // One cluster serves both ways to ask it.
            match before.iter().find_map(|target| target.cluster()) {
                Some(cluster) => etcd::target(name, cluster),
                None => etcd::target(name, etcd::start(program, &own).await?),
            }
        }
        "actix" => ceiling::start(name, &own)?,
        other => bail!("no target is called `{other}`"),
    };
    Ok(Some(target))
}
