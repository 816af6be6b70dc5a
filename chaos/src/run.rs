//! A whole run: is all steady, traffic and faults together, a final read, the checks, one verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use client::gateway::{Action, AskError, GatewayClient, Reply, Request};
use stdx::{Instant, Prng, error_chain};
use telemetry::query::TraceQuery;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use wire::http::Level;

use crate::conduct::{Plain, Shown, unsampled};
use crate::control::{FleetControl, STORAGE_NODE};
use crate::faults::FaultKind;
use crate::history_file::Values;
use crate::level_ticks::LevelTicks;
use crate::levels::{self, Levels, LevelsConfig};
use crate::lock_history::LockBook;
use crate::lock_traffic;
use crate::merges::{self, Merges};
use crate::metrics::Metrics;
use crate::monkey::{Health, MonkeyConfig, MonkeyPlan};
use crate::nemesis::{HaltSwitch, Nemesis, Shared, sight};
use crate::progress::Progress;
use crate::recorder::{OPERATIONS_MAX, Recorder};
use crate::replay::{Replay, ReplayConfig};
use crate::report::{Evidence, compile};
use crate::tick::{self, Ticks};
use crate::trace_check::TraceCheck;
use crate::traffic::{self, TrafficConfig};
use crate::verdict::{Demands, Verdict};
use crate::verifier::{COUNTED, JUDGED, Part, acknowledged, check, final_read};

/// What drives the requests.
#[derive(Clone, Debug)]
pub enum Load {
    /// The verifier's own traffic.
    Traffic(TrafficConfig),
    /// A recorded trace; the run ends with it.
    Replay(ReplayConfig),
}

impl Load {
    /// How long its clients wait for an answer.
    fn deadline(&self) -> Duration {
        match self {
            Load::Traffic(traffic) => traffic.deadline,
            Load::Replay(replay) => replay.deadline,
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The gateways' addresses.
    pub gateways: Vec<String>,
    /// Where traces are asked for (Jaeger's query API); none leaves the trace check out.
    pub traces_url: Option<String>,
    /// Where people look at traces (the base URL of Jaeger's page); none leaves the links out of the report.
    pub traces_page: Option<String>,
    /// How long traffic runs; none: until shutdown, or the replay's end.
    pub duration: Option<Duration>,
    /// Names the faults and the requests.
    pub seed: u64,
    /// Mean time between faults.
    pub mean: Duration,
    /// Which faults.
    pub kinds: Vec<FaultKind>,
    /// Whose roles are in scope.
    pub roles: Vec<String>,
    /// How many of the victim's role must be left ready.
    pub healthy_min: usize,
    /// Faults at most.
    pub faults_max: Option<u64>,
    /// How long a pause lasts.
    pub pause: Duration,
    /// How long the last victim is awaited at the end.
    pub return_max: Duration,
    /// Decide faults and do not inject them.
    pub dry_run: bool,
    /// Stops the faults.
    pub halt: HaltSwitch,
    /// What drives the requests.
    pub load: Load,
    /// The sessions at the levels below strict, and those on sets and counters, that run beside the traffic; none
    /// leaves them out. Beside a replay there are none.
    pub levels: Option<LevelsConfig>,
    /// Whether the read-increment-write loops run, which measure the downtime.
    pub ticks: bool,
    /// What the run must have had, and may show; none derives it from the rest.
    pub demands: Option<Demands>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// Where the history goes; none puts it beside the report, or nowhere. Those of locks, sets and counters go beside
    /// it.
    pub history: Option<PathBuf>,
    /// Whether progress is shown on standard error.
    pub progress: bool,
    /// How long the checker may take.
    pub check_limit: Duration,
    /// How long the fleet may take to become steady before anything begins.
    pub steady_max: Duration,
    /// Where faults are counted.
    pub metrics: Metrics,
    /// What every key of the traffic begins with; none takes another one for each run. The keys of a given one are
    /// deleted before the traffic begins, so that one run after another does not fill the fleet.
    pub keys_prefix: Option<String>,
    /// What others see of the run while it goes on.
    pub shared: Arc<Shared>,
}

/// Why a run could not begin, or its report not be kept. The verdict on the fleet is not touched by it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The gateways cannot be used.
    #[error("the gateways cannot be used")]
    Gateways(#[source] AskError),
    /// The HTTP client for the fleet cannot be made.
    #[error("no HTTP client can be made")]
    Http(#[source] reqwest::Error),
    /// A file cannot be written.
    #[error("{path} cannot be written")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// How often it is looked whether the fleet is steady.
const STEADY_EVERY: Duration = Duration::from_millis(200);
/// Requests that must go well, one after the other, before the fleet counts as steady.
const STEADY_REQUESTS: u32 = 20;
/// Traffic goes on this long after the last victim's return, so that its return is under load too.
const AFTER_LAST: Duration = Duration::from_millis(1_500);
/// A run is void with less than this share of the requests that it was to make.
const LOAD_MIN: f64 = 0.2;

impl Default for RunConfig {
    fn default() -> RunConfig {
        RunConfig {
            gateways: Vec::new(),
            traces_url: None,
            traces_page: None,
            duration: Some(Duration::from_secs(60)),
            seed: 0,
            mean: Duration::from_secs(8),
            kinds: vec![FaultKind::Kill],
            roles: vec![STORAGE_NODE.to_owned()],
            healthy_min: 2,
            faults_max: None,
            pause: Duration::from_secs(2),
            return_max: Duration::from_secs(20),
            dry_run: false,
            halt: HaltSwitch::default(),
            load: Load::Traffic(TrafficConfig::default()),
            levels: Some(LevelsConfig::default()),
            ticks: true,
            demands: None,
            report: None,
            history: None,
            progress: false,
            check_limit: Duration::from_secs(120),
            steady_max: Duration::from_secs(60),
            metrics: Metrics::default(),
            keys_prefix: None,
            shared: Arc::default(),
        }
    }
}

/// Runs traffic and faults against a fleet, and judges. `shutdown` ends it early; it is judged all the same.
///
/// # Errors
/// It could not begin, or a file could not be written.
pub async fn run_local(
    control: Arc<dyn FleetControl>,
    config: RunConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<Verdict, RunError> {
    run(Some(control), config, shutdown).await
}

/// Runs traffic without faults of ours against any gateways, and judges.
///
/// # Errors
/// It could not begin, or a file could not be written.
pub async fn run_traffic(config: RunConfig, shutdown: impl Future<Output = ()>) -> Result<Verdict, RunError> {
    run(None, config, shutdown).await
}

async fn run(
    control: Option<Arc<dyn FleetControl>>,
    config: RunConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<Verdict, RunError> {
    let gateway = GatewayClient::new(&config.gateways).map_err(RunError::Gateways)?;
    let http = reqwest::Client::builder().no_proxy().build().map_err(RunError::Http)?;
    let history_path = history_path(&config);
    let recorder = Recorder::new(history_path.as_deref())
        .map_err(|source| RunError::File { path: history_path.clone().unwrap_or_default(), source })?;
    let mut evidence = Evidence::new(&config, history_path, control.is_some());
    let mut shutdown = std::pin::pin!(shutdown);
    let steady = tokio::select! {
        steady = become_steady(control.as_deref(), &gateway, &http, &config) => steady,
        () = &mut shutdown => Err("it was ended before the fleet was steady".to_owned()),
    };
    match steady {
        Ok(members) => {
            let mut fleet = Fleet { control, gateway, http, members, merges: merges_are_wanted(&config) };
            if let Err(why) = clear_keys(&fleet.gateway, &config).await {
                evidence.circumstances.void.push(why);
            }
            if fleet.merges
                && let Err(error) = merges::make_buckets(&fleet.gateway).await
            {
                fleet.merges = false;
                let why = error_chain(&error);
                evidence.circumstances.void.push(format!("the buckets of sets and counters cannot be made: {why}"));
            }
            // The clock of the run starts with the traffic, not with the wait before it.
            let recorder = Arc::new(recorder.restarted());
            if fleet.merges {
                keep_merges(&recorder, &mut evidence)?;
            }
            evidence.lock_history = lock_history_path(&config, evidence.history.as_deref());
            let book = LockBook::new(Arc::clone(&recorder), evidence.lock_history.as_deref())
                .map_err(|source| RunError::File { path: evidence.lock_history.clone().unwrap_or_default(), source })?;
            drive(fleet, (recorder, Arc::new(book)), &config, shutdown, &mut evidence).await;
        }
        Err(why) => evidence.circumstances.void.push(format!("the fleet was not steady before the run: {why}")),
    }
    let verdict = compile(evidence).await;
    if let Some(path) = &config.report {
        std::fs::write(path, verdict.to_json()).map_err(|source| RunError::File { path: path.clone(), source })?;
    }
    Ok(verdict)
}

struct Fleet {
    control: Option<Arc<dyn FleetControl>>,
    gateway: GatewayClient,
    http: reqwest::Client,
    members: usize,
    /// Whether there are buckets for sets and counters.
    merges: bool,
}

/// Everything that runs side by side, and the order in which it ends: faults, then load, then the watchers.
async fn drive(
    fleet: Fleet,
    (recorder, book): (Arc<Recorder>, Arc<LockBook>),
    config: &RunConfig,
    mut shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
    evidence: &mut Evidence,
) {
    let shared = Arc::clone(&config.shared);
    let ticks = Arc::new(Ticks::default());
    let (stop_faults, faults_stopped) = watch::channel(false);
    let (stop_load, load_stopped) = watch::channel(false);
    let (stop_watchers, watchers_stopped) = watch::channel(false);
    let prefix = config.keys_prefix.clone().unwrap_or_else(|| format!("{}-", run_id(&recorder)));
    evidence.run_id = run_id(&recorder);
    let deadline = config.load.deadline();

    let load = start_load(&fleet, &recorder, config, &prefix, &load_stopped).await;
    evidence.notes.extend(load.note.clone());
    let locking = start_locks(&fleet, &recorder, &book, config, &prefix, &load_stopped);
    let locks = locking.is_some();
    let ticking =
        config.ticks.then(|| start_ticks(&fleet, &recorder, &ticks, &prefix, (deadline, locks), &load_stopped));
    let levels = start_levels(&fleet, &recorder, config, &evidence.run_id, &load_stopped);
    let nemesis = start_nemesis(&fleet, &recorder, config, &shared, &faults_stopped);
    let traces = config.traces_url.as_ref().map(TraceQuery::new);
    let trace_check =
        Arc::new(TraceCheck::new(Arc::clone(&recorder), fleet.gateway.clone(), traces, Arc::clone(&shared), deadline));
    let checking = tokio::spawn({
        let trace_check = Arc::clone(&trace_check);
        let stopped = load_stopped.clone();
        async move { trace_check.run(stopped).await }
    });
    let level_ticks = levels.as_ref().map(Levels::ticks);
    let showing = start_progress(&recorder, config, (&ticks, level_ticks), &load_stopped, watchers_stopped);

    let Driving { mut handle, replay, .. } = load;
    let began = tokio::time::Instant::now();
    tokio::select! {
        () = sleep_for(config.duration) => {}
        () = &mut shutdown => {}
        ended = &mut handle => ended.unwrap_or_else(resume),
    }
    evidence.duration = began.elapsed();
    let _ = stop_faults.send(true);
    if let Some(nemesis) = nemesis {
        join(nemesis).await;
        tokio::time::sleep(AFTER_LAST).await;
    }
    let _ = stop_load.send(true);
    if !handle.is_finished() {
        join(handle).await;
    }
    join_some(ticking).await;
    join_some(locking).await;
    let bodies = replay.as_ref().map(|replay| replay.bodies());
    let shown: &dyn Shown = bodies.as_ref().map_or(&Plain, |bodies| bodies.as_ref());
    read_back(&recorder, &fleet.gateway, levels, shown, evidence).await;
    join(checking).await;
    let _ = stop_watchers.send(true);
    join_some(showing).await;

    evidence.faults = shared.faults();
    evidence.proofs = trace_check.proofs();
    evidence.ticks = config.ticks.then(|| ticks.record());
    evidence.replay = replay.map(|replay| replay.report());
    let locks = locks.then_some(&*book);
    conclude(&recorder, locks, config.check_limit, evidence).await;
}

/// Reads everything for the last time: what has to settle, once it has, and what is ordered. Then the sessions' keys
/// are deleted.
async fn read_back(
    recorder: &Arc<Recorder>,
    gateway: &GatewayClient,
    levels: Option<Levels>,
    shown: &dyn Shown,
    evidence: &mut Evidence,
) {
    let levels = match levels {
        Some(levels) => Some(levels.end(recorder, gateway).await),
        None => None,
    };
    evidence.final_read = final_read(recorder, gateway, shown).await;
    if let Some(levels) = levels {
        levels.clear(gateway).await;
        (evidence.levels, evidence.unread_levels) = (levels.record, levels.unread);
    }
}

/// Takes the record over, and has its history judged; that of the locks was judged on the way.
async fn conclude(recorder: &Recorder, locks: Option<&LockBook>, check_limit: Duration, evidence: &mut Evidence) {
    if let Some(book) = locks {
        let (check, report, trouble) = book.conclude();
        evidence.circumstances.void.extend(trouble);
        evidence.locks = Some((check, report));
    }
    evidence.tally = recorder.tally();
    evidence.record = recorder.take();
    if evidence.record.operations.len() >= OPERATIONS_MAX {
        let note = format!("the record reached its bound of {OPERATIONS_MAX} requests, so the traffic ended early");
        evidence.notes.push(note);
    }
    let histories = std::mem::take(&mut evidence.record.histories);
    // Strict requests are there in every run; of the rest only what was asked for is judged and counted.
    let was_asked = |part: Part| match (part.values, part.level) {
        (Values::Registers, Some(level)) => level == Level::Strict || evidence.levels.contains_key(&level),
        (values, _) => histories.contains_key(&values),
    };
    for judged in JUDGED.into_iter().filter(|judged| was_asked(judged.part)) {
        evidence.checks.push(check(&histories, judged, check_limit).await);
    }
    for (name, part) in COUNTED.into_iter().filter(|(_, part)| was_asked(*part)) {
        match acknowledged(&histories, part).await {
            Ok(acked) => drop(evidence.acked.insert(name, acked)),
            Err(why) => evidence.circumstances.void.push(format!("the lost updates of {name} were not counted: {why}")),
        }
    }
}

/// Whether the run has traffic on sets and counters.
fn merges_are_wanted(config: &RunConfig) -> bool {
    let levels = config.levels.as_ref().filter(|levels| levels.merge_rate > 0);
    levels.is_some() && matches!(config.load, Load::Traffic(_))
}

/// Has sets and counters have histories of their own, beside that of registers.
fn keep_merges(recorder: &Recorder, evidence: &mut Evidence) -> Result<(), RunError> {
    for (values, _) in merges::KINDS {
        let beside = |path: &PathBuf| path.with_extension(format!("{}.jsonl", values.name()));
        let path = evidence.history.as_ref().map(beside);
        recorder
            .keep(values, path.as_deref())
            .map_err(|source| RunError::File { path: path.clone().unwrap_or_default(), source })?;
        evidence.merge_histories.extend(path.map(|path| (values.name(), path)));
    }
    Ok(())
}

/// The line on standard error, in a task of its own; none where nobody is to see it.
fn start_progress(
    recorder: &Arc<Recorder>,
    config: &RunConfig,
    (ticks, level_ticks): (&Arc<Ticks>, Option<Arc<LevelTicks>>),
    load_stopped: &watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
) -> Option<JoinHandle<()>> {
    let (recorder, shared, ticks) = (Arc::clone(recorder), Arc::clone(&config.shared), Arc::clone(ticks));
    let (duration, load_stopped) = (config.duration, load_stopped.clone());
    let progress = Progress { recorder, shared, ticks, level_ticks, duration, load_stopped };
    config.progress.then(|| tokio::spawn(progress.show(stop)))
}

/// The loops that measure the downtime, in a task of their own.
fn start_ticks(
    fleet: &Fleet,
    recorder: &Arc<Recorder>,
    ticks: &Arc<Ticks>,
    prefix: &str,
    (deadline, locks): (Duration, bool),
    stop: &watch::Receiver<bool>,
) -> JoinHandle<()> {
    let (ticks, recorder, gateway) = (Arc::clone(ticks), Arc::clone(recorder), fleet.gateway.clone());
    let deadline = deadline.min(Duration::from_secs(1));
    tokio::spawn(tick::run(ticks, recorder, gateway, prefix.to_owned(), deadline, locks, stop.clone()))
}

/// The clients of locks, in a task of their own; none where the load has none.
fn start_locks(
    fleet: &Fleet,
    recorder: &Arc<Recorder>,
    book: &Arc<LockBook>,
    config: &RunConfig,
    prefix: &str,
    stop: &watch::Receiver<bool>,
) -> Option<JoinHandle<()>> {
    let Load::Traffic(traffic) = &config.load else { return None };
    let traffic = TrafficConfig { prefix: prefix.to_owned(), ..traffic.clone() };
    let prng = Prng::from_seed(config.seed ^ 0x6c6f_636b_7300_0000);
    let (book, recorder, gateway) = (Arc::clone(book), Arc::clone(recorder), fleet.gateway.clone());
    let limit = config.check_limit;
    (traffic.lock_clients > 0)
        .then(|| tokio::spawn(lock_traffic::run(book, recorder, gateway, traffic, prng, limit, stop.clone())))
}

/// The sessions below strict, beside traffic of our own.
fn start_levels(
    fleet: &Fleet,
    recorder: &Arc<Recorder>,
    config: &RunConfig,
    run_id: &str,
    stop: &watch::Receiver<bool>,
) -> Option<Levels> {
    let Load::Traffic(_) = config.load else { return None };
    let levels = config.levels.clone()?;
    let levels = LevelsConfig { prefix: format!("{run_id}-{}", levels.prefix), ..levels };
    // Drawn apart from the faults and from the other traffic.
    let prng = Prng::from_seed(config.seed ^ 0x6c65_7665_6c73);
    let merges = fleet.merges.then(|| Merges::new(&levels));
    Some(Levels::start(recorder, &fleet.gateway, levels, merges, prng, stop))
}

/// The load as it runs.
struct Driving {
    handle: JoinHandle<()>,
    replay: Option<Arc<Replay>>,
    note: Option<String>,
}

async fn start_load(
    fleet: &Fleet,
    recorder: &Arc<Recorder>,
    config: &RunConfig,
    prefix: &str,
    stop: &watch::Receiver<bool>,
) -> Driving {
    let (recorder, gateway, stop) = (Arc::clone(recorder), fleet.gateway.clone(), stop.clone());
    match &config.load {
        Load::Traffic(traffic) => {
            let traffic = TrafficConfig { prefix: format!("{prefix}{}", traffic.prefix), ..traffic.clone() };
            // Drawn apart from the faults, so that the number of requests does not move them.
            let prng = Prng::from_seed(config.seed ^ 0x7472_6166_6669_6373);
            let handle = tokio::spawn(traffic::run(recorder, gateway, traffic, prng, stop));
            Driving { handle, replay: None, note: None }
        }
        Load::Replay(replay) => {
            let mut replay = replay.clone();
            let mut note = replay.recording.cut.then(|| "the trace was cut short".to_owned());
            if replay.prefix.is_empty() && holds_some(&gateway, &replay).await {
                replay.prefix = prefix.to_owned();
                note = Some(format!("the trace's keys hold values already, so `{prefix}` stands before each of them"));
            }
            let replay = Replay::new(recorder, replay);
            let handle = tokio::spawn(Arc::clone(&replay).run(gateway, stop));
            Driving { handle, replay: Some(replay), note }
        }
    }
}

fn start_nemesis(
    fleet: &Fleet,
    recorder: &Arc<Recorder>,
    config: &RunConfig,
    shared: &Arc<Shared>,
    stop: &watch::Receiver<bool>,
) -> Option<JoinHandle<()>> {
    let control = Arc::clone(fleet.control.as_ref()?);
    let monkey = MonkeyConfig {
        seed: config.seed,
        mean: config.mean,
        healthy_min: config.healthy_min,
        ring_members: fleet.members,
        faults_max: config.faults_max,
        kinds: config.kinds.clone(),
        roles: config.roles.clone(),
        dry_run: config.dry_run,
        ..MonkeyConfig::default()
    };
    tracing::info!(seed = config.seed, mean_ms = config.mean.as_millis() as u64, "the monkey starts");
    let nemesis = Nemesis {
        control,
        gateway: fleet.gateway.clone(),
        recorder: Arc::clone(recorder),
        plan: MonkeyPlan::new(monkey, Instant::from_nanos(recorder.now_ns())),
        halt: config.halt.clone(),
        pause: config.pause,
        return_max: config.return_max,
        run_id: run_id(recorder),
        metrics: config.metrics.clone(),
        shared: Arc::clone(shared),
    };
    Some(tokio::spawn(nemesis.run(fleet.http.clone(), stop.clone())))
}

/// Waits until every member is ready and requests go well; how many members there are.
async fn become_steady(
    control: Option<&dyn FleetControl>,
    gateway: &GatewayClient,
    http: &reqwest::Client,
    config: &RunConfig,
) -> Result<usize, String> {
    let until = tokio::time::Instant::now() + config.steady_max;
    loop {
        let why = match look_for_steadiness(control, gateway, http, config).await {
            Ok(members) => return Ok(members),
            Err(why) => why,
        };
        if tokio::time::Instant::now() >= until {
            return Err(why);
        }
        tokio::time::sleep(STEADY_EVERY).await;
    }
}

async fn look_for_steadiness(
    control: Option<&dyn FleetControl>,
    gateway: &GatewayClient,
    http: &reqwest::Client,
    config: &RunConfig,
) -> Result<usize, String> {
    let mut members = 0;
    if let Some(control) = control {
        let ring = gateway.ring().await.map_err(|error| error_chain(&error))?;
        if ring.epoch == 0 {
            return Err(format!("the ring is not formed; {} members have entered", ring.members.len()));
        }
        members = ring.members.len();
        let fleet = sight(http, control.targets()?).await?;
        if let Some(seen) = fleet.iter().find(|seen| seen.health != Health::Ready) {
            return Err(format!("{} is {:?}", seen.name, seen.health));
        }
        if let Some(member) = ring.members.iter().find(|member| !member.alive) {
            return Err(format!("the gateway is not connected to {}", member.name));
        }
    }
    for at in 0..STEADY_REQUESTS {
        let (key, within) = (format!("steady{at}"), Duration::from_secs(1));
        expect_answer(gateway, "a read", &unsampled(Action::Get, &key, Default::default(), within)).await?;
        if config.levels.is_some() {
            let request = levels::request(Level::Causal, Action::Get, &key, within);
            expect_answer(gateway, "a causal read", &request).await?;
        }
    }
    Ok(members)
}

async fn expect_answer(gateway: &GatewayClient, what: &str, request: &Request) -> Result<(), String> {
    match gateway.send(request).await {
        Reply::Ok(_) => Ok(()),
        Reply::Failed(failure) | Reply::Unknown(failure) => {
            Err(format!("{what} is answered {}: {}", failure.code, failure.detail))
        }
    }
}

/// Deletes what an earlier run left under the same prefix. What that one had still in flight has long run into its
/// deadline, and a deletion that is acknowledged is above whatever a replica may still hold of it.
async fn clear_keys(gateway: &GatewayClient, config: &RunConfig) -> Result<(), String> {
    let (Some(prefix), Load::Traffic(traffic)) = (&config.keys_prefix, &config.load) else { return Ok(()) };
    let traffic = TrafficConfig { prefix: format!("{prefix}{}", traffic.prefix), ..traffic.clone() };
    let guarded = lock_traffic::guarded_records(prefix).filter(|_| traffic.lock_clients > 0);
    for key in (0..traffic.keys).map(|at| traffic.key(at)).chain(guarded) {
        let request = unsampled(Action::Delete, &key, Default::default(), CLEAR_DEADLINE);
        if let Reply::Failed(failure) | Reply::Unknown(failure) = gateway.send(&request).await {
            return Err(format!("the key {key} of an earlier run could not be deleted: {}", failure.code));
        }
    }
    Ok(())
}

/// How long the deletion of one key may take.
const CLEAR_DEADLINE: Duration = Duration::from_secs(5);

/// Whether any of the first keys that the trace writes holds a value already, as after an earlier replay.
async fn holds_some(gateway: &GatewayClient, replay: &ReplayConfig) -> bool {
    for entry in replay.recording.entries.iter().take(SAMPLED_KEYS) {
        let request = unsampled(Action::Get, &entry.key, Default::default(), replay.deadline);
        if matches!(gateway.send(&request).await, Reply::Ok(answer) if answer.status == 200) {
            return true;
        }
    }
    false
}

/// Keys of a trace that are looked at before it is played.
const SAMPLED_KEYS: usize = 64;

/// What the run's configuration demands of it, where nothing else is said.
pub(crate) fn demands(config: &RunConfig, with_faults: bool) -> Demands {
    let asked = match (&config.load, config.duration) {
        (Load::Replay(replay), _) => replay.recording.entries.len() as f64,
        (Load::Traffic(traffic), Some(duration)) => f64::from(traffic.rate.clamp(1, 100)) * duration.as_secs_f64(),
        (Load::Traffic(_), None) => 0.0,
    };
    Demands {
        faults_min: u64::from(with_faults && !config.dry_run && !config.kinds.is_empty()),
        requests_min: ((asked * LOAD_MIN) as u64).max(1),
        failed_max: 0,
        downtime_ms_max: 0,
        traces: config.traces_url.is_some(),
    }
}

/// Names a run: its start in milliseconds, in hexadecimal.
fn run_id(recorder: &Recorder) -> String {
    let since = recorder.started_at().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", since.as_millis())
}

fn history_path(config: &RunConfig) -> Option<PathBuf> {
    let beside = || config.report.as_ref().map(|report| report.with_extension("history.jsonl"));
    config.history.clone().or_else(beside)
}

/// Beside the history, if there are clients of locks.
fn lock_history_path(config: &RunConfig, history: Option<&Path>) -> Option<PathBuf> {
    match &config.load {
        Load::Traffic(traffic) if traffic.lock_clients > 0 => Some(history?.with_extension("locks.jsonl")),
        Load::Traffic(_) | Load::Replay(_) => None,
    }
}

async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// A task of ours that panicked takes the run with it: its proof would be missing a part.
pub(crate) async fn join(handle: JoinHandle<()>) {
    handle.await.unwrap_or_else(resume);
}

fn resume(error: JoinError) {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn join_some(handle: Option<JoinHandle<()>>) {
    if let Some(handle) = handle {
        join(handle).await;
    }
}
