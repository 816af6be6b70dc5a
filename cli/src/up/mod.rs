//! `everring up`: a whole fleet on this machine, each service its own process; with `--chaos`, a monkey and a verdict.

mod control;
mod directory;
mod door;
mod keeper;
mod plan;
mod ready;
mod show;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chaos::{FaultKind, HaltSwitch, Judgement, Load, RunConfig, Verdict};
use clap::builder::BoolishValueParser;
use clap::{Args, value_parser};
use telemetry::sink;
use tokio::runtime::Builder;

use self::control::LocalFleet;
use self::directory::DataDirectory;
use self::door::Door;
pub use self::door::{Ask, Told, ask};
pub use self::keeper::tail;
use self::keeper::{Keeper, Stage};
use self::plan::{Plan, Role, Size};
use self::ready::Prober;
use crate::args::JudgedArgs;
use crate::duration::parse as parse_duration;
use crate::signals::Interrupts;
use crate::{load, roles};

/// `everring up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Storage nodes.
    #[arg(long, env = "EVERRING_NODES", default_value_t = 5, value_parser = value_parser!(u16).range(3..=64))]
    pub nodes: u16,
    /// Gateways.
    #[arg(long, env = "EVERRING_GATEWAYS", default_value_t = 2, value_parser = value_parser!(u16).range(1..=16))]
    pub gateways: u16,
    /// Replicas of discovery: 1, 3 or 5.
    #[arg(
        long,
        env = "EVERRING_DISCOVERY_REPLICAS",
        default_value_t = 3,
        value_parser = replicas,
        value_name = "NUMBER"
    )]
    pub discovery: u16,
    /// The first gateway's port, the others follow. Without it: any free ports.
    #[arg(long, env = "EVERRING_PORT", value_parser = value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Where the fleet keeps its data, for the next time too. Without it: a temporary directory, removed at the end.
    #[arg(long, env = "EVERRING_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Keep the temporary directory.
    #[arg(long, env = "EVERRING_KEEP", value_parser = BoolishValueParser::new())]
    pub keep: bool,
    /// How long to run. Without it: until Ctrl-C, or with --chaos 60s, or with --replay until the trace ends.
    #[arg(long = "for", env = "EVERRING_FOR", value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// How long the fleet may take to become ready.
    #[arg(
        long,
        env = "EVERRING_READY_WITHIN",
        default_value = "60s",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    pub ready_within: Duration,
    /// Kill processes of the fleet at random times while clients use it, and judge whether it kept its word.
    #[arg(long, env = "EVERRING_CHAOS", value_parser = BoolishValueParser::new())]
    pub chaos: bool,
    /// Mean time between faults.
    #[arg(long, env = "EVERRING_MEAN", default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    pub mean: Duration,
    /// The faults to draw from: kill, pause.
    #[arg(long, env = "EVERRING_FAULTS", default_value = "kill", value_delimiter = ',', value_parser = fault_kind)]
    pub faults: Vec<FaultKind>,
    /// The roles that may be struck: storage-node, gateway, router, discovery.
    #[arg(
        long,
        env = "EVERRING_VICTIMS",
        default_value = chaos::STORAGE_NODE,
        value_delimiter = ',',
        value_parser = ["storage-node", "gateway", "router", "discovery"]
    )]
    pub victims: Vec<String>,
    /// End after this many faults.
    #[arg(long, env = "EVERRING_FAULTS_MAX", value_name = "NUMBER")]
    pub faults_max: Option<u64>,
    /// Decide which faults there would be, and inject none.
    #[arg(long, env = "EVERRING_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    /// No fault is injected while this file exists.
    #[arg(long, env = "EVERRING_HALT_FILE", value_name = "FILE")]
    pub halt_file: Option<PathBuf>,
    /// Play this recorded trace while the monkey kills (see `everring replay`), instead of the verifier's own traffic.
    #[arg(long, env = "EVERRING_REPLAY", value_name = "TRACE")]
    pub replay: Option<PathBuf>,
    /// How the trace is written: cloudphysics or twitter.
    #[arg(long, env = "EVERRING_FORMAT", default_value = "cloudphysics")]
    pub format: String,
    /// Play only the first so many requests of the trace.
    #[arg(long, env = "EVERRING_LIMIT", value_name = "REQUESTS")]
    pub limit: Option<usize>,
    /// Keys that the traffic's clients share.
    #[arg(long, env = "EVERRING_KEYS", default_value_t = 64, value_parser = value_parser!(u32).range(1..=100_000))]
    pub keys: u32,
    /// Open the first gateway's page in a browser.
    #[arg(long, env = "EVERRING_OPEN", value_parser = BoolishValueParser::new())]
    pub open: bool,
    #[command(flatten)]
    pub judged: JudgedArgs,
}

/// Threads of `up` itself: it drives the requests of many clients and judges their answers.
const THREADS: usize = 2;
/// How long the runtime's last blocking calls may take.
const LINGER: Duration = Duration::from_secs(1);
/// How long a chaos run lasts if nothing is said.
const CHAOS_FOR: Duration = Duration::from_secs(60);
/// Where a real collector's traces are asked for if nothing is said.
const JAEGER_QUERY: &str = "http://127.0.0.1:16686";
/// What a shell reports for a process that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

fn fault_kind(name: &str) -> Result<FaultKind, String> {
    FaultKind::from_name(name).ok_or_else(|| format!("there is no fault `{name}`; use kill or pause"))
}

fn replicas(text: &str) -> Result<u16, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err(format!("`{text}` replicas are no good: a majority is to be left when some die; use 1, 3 or 5")),
    }
}

/// Runs a fleet; the exit status is the verdict's, or 0.
///
/// # Errors
/// The fleet did not come up, or a chaos run could not begin. Nothing runs any more then.
pub fn run(mut args: UpArgs, logs: Option<String>) -> anyhow::Result<u8> {
    // What can fail on its own fails before anything is started.
    let load = match &args.replay {
        Some(trace) => Load::Replay(load::recording(trace, &args.format, args.limit, &args.judged)?),
        None => Load::Traffic(load::traffic(&args.judged, args.keys)),
    };
    args.chaos |= args.replay.is_some();
    let mut data = DataDirectory::take(args.data.as_deref(), args.keep, args.nodes, args.discovery)?;
    let size = Size { nodes: args.nodes, gateways: args.gateways, discovery: args.discovery, port: args.port };
    let plan = Plan::draw_up(size, &data.nodes(), data.path())?;
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let ended = runtime.block_on(lead(&args, load, &plan, &mut data, logs));
    runtime.shutdown_timeout(LINGER);
    let worth_a_look = !matches!(ended, Ok(0 | EXIT_INTERRUPTED));
    if worth_a_look && !data.stays() {
        data.keep();
        eprintln!("the fleet's data and logs are left in {}", data.path().display());
    }
    ended
}

/// The life of the fleet, between the first and the last process.
async fn lead(
    args: &UpArgs,
    load: Load,
    plan: &Plan,
    data: &mut DataDirectory,
    logs: Option<String>,
) -> anyhow::Result<u8> {
    let interrupts = Interrupts::listen()?;
    let traces = Traces::start()?;
    let logs = logs.or_else(|| Some("error".to_owned()));
    let guard = traces.start_telemetry(logs)?;
    let keeper = Keeper::start(plan.specs.clone(), traces.sink_endpoint.clone())?;
    let prober = Prober::new(keeper.roster(), keeper.lives())?;
    let probing = tokio::spawn(prober.clone().run());

    let work = async {
        tokio::select! {
            come_up = come_up(&keeper, &prober, args.ready_within) => come_up.map_err(anyhow::Error::msg)?,
            () = interrupts.reached(1) => return Ok(EXIT_INTERRUPTED),
        }
        let addresses = show::Addresses::new(plan, &keeper, &traces.query_url, data);
        addresses.show(args.judged.output.output, args.chaos)?;
        if args.open {
            open(&format!("http://{}/docs", plan.gateways[0]));
        }
        let door = Door::open(plan, &keeper, data).await;
        let stay = async {
            if args.chaos {
                chaos_run(args, load, plan, &keeper, &traces, &interrupts).await
            } else {
                rest(args, &keeper, &interrupts).await;
                Ok(0)
            }
        };
        tokio::select! {
            ended = stay => ended,
            never = door.serve() => match never {},
        }
    };
    let ended = work.await;
    // The first Ctrl-C may have been what ended the work; the next one after it does not wait for anybody.
    let hurry = if interrupts.count() == 0 { 1 } else { 2 };
    keeper.end(interrupts.reached(hurry)).await;
    probing.abort();
    // It waits for its last export, and the sink that takes it is driven by this runtime.
    let _ = tokio::task::spawn_blocking(move || guard.shutdown()).await;
    traces.stop().await;
    ended
}

async fn come_up(keeper: &Keeper, prober: &Prober, within: Duration) -> Result<(), String> {
    keeper.reach(Stage::Discovery);
    prober.wait(within, |role| role == Role::Discovery).await?;
    keeper.reach(Stage::All);
    prober.wait(within, |_| true).await
}

/// Runs until the time is over or somebody interrupts, and says who died meanwhile.
async fn rest(args: &UpArgs, keeper: &Keeper, interrupts: &Interrupts) {
    let time_over = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time_over => {}
        () = interrupts.reached(1) => {}
        () = show::deaths(keeper.lives()) => {}
    }
}

async fn chaos_run(
    args: &UpArgs,
    load: Load,
    plan: &Plan,
    keeper: &Keeper,
    traces: &Traces,
    interrupts: &Interrupts,
) -> anyhow::Result<u8> {
    let mut judged = args.judged.clone();
    judged
        .report
        .get_or_insert_with(|| std::env::temp_dir().join(format!("everring-report-{}.json", std::process::id())));
    let base = load::base(&judged);
    let duration = args.duration.or_else(|| args.replay.is_none().then_some(CHAOS_FOR));
    let config = RunConfig {
        gateways: plan.gateways.clone(),
        traces_url: Some(traces.query_url.clone()),
        duration,
        mean: args.mean,
        kinds: args.faults.clone(),
        roles: args.victims.clone(),
        faults_max: args.faults_max,
        dry_run: args.dry_run,
        halt: args.halt_file.clone().map(HaltSwitch::with_file).unwrap_or_default(),
        load,
        ..base
    };
    eprintln!("seed       {} (the same faults again: --seed {})", config.seed, config.seed);
    let fleet = LocalFleet {
        roster: keeper.roster().clone(),
        lives: Arc::clone(keeper.lives()),
        victims: args.victims.clone(),
    };
    let run = chaos::run_local(Arc::new(fleet), config, interrupts.reached(1));
    let verdict = tokio::select! {
        verdict = run => verdict?,
        // The first Ctrl-C asks for the verdict, the second one does not wait for it.
        () = interrupts.reached(2) => return Ok(EXIT_INTERRUPTED),
    };
    load::show(&verdict, &judged)?;
    Ok(exit_of(&verdict))
}

fn exit_of(verdict: &Verdict) -> u8 {
    match verdict.verdict {
        Judgement::Kept => 0,
        Judgement::Broken | Judgement::Invalid => verdict.exit_code(),
    }
}

/// Where traces go and are asked for: a real collector if the environment names one, else a sink of our own.
struct Traces {
    /// The sink's address; none for a real collector, whose address the children inherit.
    sink_endpoint: Option<String>,
    /// Jaeger's query API.
    query_url: String,
    server: Option<(tokio::task::JoinHandle<std::io::Result<()>>, SinkHandle)>,
}

type SinkHandle = Box<dyn FnOnce() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Traces {
    fn start() -> anyhow::Result<Traces> {
        let collector = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").is_ok_and(|endpoint| !endpoint.is_empty());
        if collector {
            let query_url = std::env::var("EVERRING_JAEGER_QUERY").unwrap_or_else(|_| JAEGER_QUERY.to_owned());
            return Ok(Traces { sink_endpoint: None, query_url, server: None });
        }
        let listener = TcpListener::bind("127.0.0.1:0").context("this machine has no free port")?;
        let address = format!("http://{}", listener.local_addr()?);
        let server = sink::serve(listener, sink::TraceSink::new(sink::Limits::default()))?;
        let handle = server.handle();
        let stop: SinkHandle = Box::new(move || Box::pin(async move { handle.stop(false).await }));
        let server = Some((tokio::spawn(server), stop));
        Ok(Traces { sink_endpoint: Some(address.clone()), query_url: address, server })
    }

    /// The verifier's and the monkey's own spans.
    fn start_telemetry(&self, logs: Option<String>) -> anyhow::Result<telemetry::Guard> {
        let instance = format!("up-{}", std::process::id());
        let mut settings = telemetry::Settings::from_env("everring-chaos", instance, roles::VERSION);
        settings.log_filter = logs;
        settings.otlp_endpoint = self.sink_endpoint.clone().or(settings.otlp_endpoint);
        Ok(telemetry::init(settings)?)
    }

    async fn stop(self) {
        if let Some((serving, stop)) = self.server {
            stop().await;
            // How the server ended matters to nobody any more.
            let _ = serving.await;
        }
    }
}

/// Opens a page in whatever browser there is; the fleet runs on without one.
fn open(url: &str) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let opened = Command::new(opener).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match opened {
        // Waited for on a thread of its own, so that it leaves no dead entry behind.
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(error) => eprintln!("no browser could be opened ({error}); open {url} yourself"),
    }
}
