//! Runs that end in a verdict, against gateways that run already: `verify` and `replay`. Nobody is killed by them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chaos::{Load, ReplayConfig, RunConfig, TrafficConfig, Verdict};
use tokio::runtime::Builder;

use crate::args::{JudgedArgs, ReplayArgs, VerifyArgs};
use crate::out::{self, Form};
use crate::{roles, signals};

/// Threads of a run: one asks while the other judges.
const THREADS: usize = 2;
/// How long the runtime's last blocking calls may take.
const LINGER: Duration = Duration::from_secs(1);

/// `everring verify`.
///
/// # Errors
/// The run could not begin, or its report not be written.
pub fn verify(args: VerifyArgs, logs: Option<String>) -> anyhow::Result<u8> {
    let load = Load::Traffic(traffic(&args.judged, args.keys));
    run(args.gateways.gateway, Some(args.length.duration), load, &args.judged, logs)
}

/// `everring replay`.
///
/// # Errors
/// The trace cannot be read; or as [`verify`].
pub fn replay(args: ReplayArgs, logs: Option<String>) -> anyhow::Result<u8> {
    let load = Load::Replay(recording(&args.trace, &args.format, args.limit, &args.judged)?);
    run(args.gateways.gateway, None, load, &args.judged, logs)
}

fn run(
    gateways: Vec<String>,
    duration: Option<Duration>,
    load: Load,
    judged: &JudgedArgs,
    logs: Option<String>,
) -> anyhow::Result<u8> {
    let logs = logs.or_else(|| Some("error".to_owned()));
    let guard = roles::start_telemetry("chaos", &format!("verifier-{}", std::process::id()), logs)?;
    let config = RunConfig { gateways, duration, load, ..base(judged) };
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let ended = runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        Ok::<_, anyhow::Error>(chaos::run_traffic(config, shutdown).await?)
    });
    runtime.shutdown_timeout(LINGER);
    guard.shutdown();
    let verdict = ended?;
    show(&verdict, judged)?;
    Ok(verdict.exit_code())
}

/// What flags say about any judged run.
pub fn base(judged: &JudgedArgs) -> RunConfig {
    RunConfig {
        seed: judged.seed.unwrap_or_else(rand::random),
        report: judged.report.clone(),
        progress: !judged.quiet,
        check_limit: judged.check_limit,
        ..RunConfig::default()
    }
}

/// The verifier's own traffic.
pub fn traffic(judged: &JudgedArgs, keys: u32) -> TrafficConfig {
    let base = TrafficConfig::default();
    TrafficConfig {
        clients: judged.clients.map_or(base.clients, usize::from),
        keys: keys as usize,
        rate: judged.rate.unwrap_or(base.rate),
        deadline: judged.deadline.unwrap_or(base.deadline),
        ..base
    }
}

/// A recorded trace.
///
/// # Errors
/// It cannot be read.
pub fn recording(path: &Path, format: &str, limit: Option<usize>, judged: &JudgedArgs) -> anyhow::Result<ReplayConfig> {
    let format = chaos::TraceFormat::from_name(format)?;
    let recording = chaos::read_trace(path, format, limit);
    let recording = recording.with_context(|| format!("cannot play {}", path.display()))?;
    Ok(ReplayConfig {
        recording: Arc::new(recording),
        concurrency: judged.clients.map_or(REPLAY_CLIENTS, usize::from),
        rate: judged.rate.unwrap_or(0),
        deadline: judged.deadline.unwrap_or(REPLAY_DEADLINE),
        prefix: String::new(),
    })
}

/// Shows a verdict, and says where its report is.
///
/// # Errors
/// Standard output is closed.
pub fn show(verdict: &Verdict, judged: &JudgedArgs) -> anyhow::Result<()> {
    match judged.output.output {
        Form::Json => out::line(&verdict.to_json())?,
        Form::Table => out::bytes(verdict.text().as_bytes())?,
    }
    if let Some(report) = &judged.report {
        eprintln!("report     {}", report.display());
    }
    Ok(())
}

/// Requests at a time, each of another key.
const REPLAY_CLIENTS: usize = 16;
/// A replay asks as fast as answers come, so its requests queue: they get the interface's own default.
const REPLAY_DEADLINE: Duration = Duration::from_secs(5);
