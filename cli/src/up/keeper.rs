//! The keeper of the children: starts them, starts them again when they die, ends them in order.
//!
//! It has a thread of its own, and every child is started from it: the system kills the children when *the thread that
//! started them* ends, so that thread must live as long as the fleet.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::plan::Role;
use crate::lineage::PARENT_VARIABLE;
use crate::roles::EXIT_RETIRED;

/// What a child is started with. It stays the same over all its lives.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name, unique in the fleet.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Where it serves HTTP, `host:port`.
    pub http: String,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The file that takes its output, of all its lives.
    pub log: PathBuf,
}

/// How far the fleet is. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing is started yet.
    Held,
    /// Discovery runs.
    Discovery,
    /// All run.
    All,
    /// Gateways and routers end.
    EndFronts,
    /// Storage nodes end.
    EndNodes,
    /// Discovery ends.
    EndDiscovery,
    /// Whoever still runs is killed.
    Kill,
}

/// A child's state.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The process, while it runs.
    pub pid: Option<u32>,
    /// How often it was started.
    pub starts: u32,
    /// Whether this life has said that it is ready.
    pub ready: bool,
    /// How the last life ended, or why it did not begin.
    pub last_end: Option<String>,
    /// Whether it is not started any more.
    pub over: bool,
}

/// What is known of all children, by name.
pub type Lives = BTreeMap<String, Life>;

/// Who is in the fleet: everybody from the start, and whoever was added since.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<Vec<Spec>>>);

impl Roster {
    /// All of them, as of now.
    pub fn specs(&self) -> Vec<Spec> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The child of this name.
    pub fn find(&self, name: &str) -> Option<Spec> {
        self.specs().into_iter().find(|spec| spec.name == name)
    }

    fn push(&self, spec: Spec) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(spec);
    }
}

/// The children of one `everring up`.
pub struct Keeper {
    stage: watch::Sender<Stage>,
    lives: Arc<watch::Sender<Lives>>,
    roster: Roster,
    /// To the keeper's thread, which starts them.
    more: mpsc::UnboundedSender<Spec>,
}

/// The first wait before a dead child is started again.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// A child that lived this long begins with the first wait again.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// How long the children of each stage may take to end before they are killed; 6 s in all.
const GRACE: [(Stage, Duration); 3] = [
    (Stage::EndFronts, Duration::from_secs(2)),
    (Stage::EndNodes, Duration::from_secs(3)),
    (Stage::EndDiscovery, Duration::from_secs(1)),
];
/// Environment variables of ours that a child inherits; all others are `up`'s own, and flags tell the child instead.
const INHERITED: [&str; 7] = [
    "EVERRING_LOG",
    "EVERRING_LOG_FORMAT",
    "EVERRING_CLUSTER_SECRET",
    "EVERRING_DATA_BYTES_MAX",
    "EVERRING_SEGMENT_BYTES",
    "EVERRING_TRANSFER_BYTES_PER_SECOND",
    "EVERRING_GRACE",
];

impl Keeper {
    /// Starts the keeper's thread; no child runs before [`Keeper::reach`].
    ///
    /// # Errors
    /// The system gives no thread, or does not say which program this is.
    pub fn start(specs: Vec<Spec>, otlp_endpoint: Option<String>) -> io::Result<Keeper> {
        let program = std::env::current_exe()?;
        let (stage, staged) = watch::channel(Stage::Held);
        let lives = Arc::new(watch::Sender::new(Lives::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seen = Arc::clone(&lives);
        let (more, mut children) = mpsc::unbounded_channel::<Spec>();
        let environment = Environment { program, otlp_endpoint };
        std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                while let Some(spec) = children.recv().await {
                    tasks.spawn(keep(spec, environment.clone(), Arc::clone(&seen), staged.clone()));
                }
                tasks.join_all().await;
            });
        })?;
        let keeper = Keeper { stage, lives, roster: Roster::default(), more };
        specs.into_iter().for_each(|spec| keeper.add(spec));
        Ok(keeper)
    }

    /// Takes one more child, of a name that nobody has, and starts it when its stage is reached.
    pub fn add(&self, spec: Spec) {
        self.lives.send_modify(|lives| {
            lives.insert(spec.name.clone(), Life::default());
        });
        self.roster.push(spec.clone());
        // The thread ends with the keeper, not before.
        let _ = self.more.send(spec);
    }

    /// Who is in the fleet.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The children's states, for whoever watches or marks them.
    pub fn lives(&self) -> &Arc<watch::Sender<Lives>> {
        &self.lives
    }

    /// Goes on to this stage.
    pub fn reach(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let forward = *now < stage;
            *now = stage.max(*now);
            forward
        });
    }

    /// Ends all children in order; at most 6 s, and at once when `hurry` completes. No child is left after it.
    pub async fn end(&self, hurry: impl Future<Output = ()>) {
        let mut hurry = std::pin::pin!(hurry);
        for (stage, _) in GRACE {
            self.reach(stage);
            let ended = self.over(|role| role.end_stage() <= stage);
            tokio::select! {
                () = ended => {}
                () = &mut hurry => {
                    self.reach(Stage::Kill);
                    break;
                }
            }
        }
        self.over(|_| true).await;
    }

    /// Completes once all children of these roles are over.
    async fn over(&self, which: impl Fn(Role) -> bool) {
        let mut lives = self.lives.subscribe();
        let specs = self.roster.specs().into_iter().filter(|spec| which(spec.role));
        let names: Vec<String> = specs.map(|spec| spec.name).collect();
        let over = |lives: &Lives| names.iter().all(|name| lives.get(name).is_none_or(|life| life.over));
        // The sender is ours: it cannot be gone.
        let _ = lives.wait_for(over).await;
    }
}

/// What is the same for all children.
#[derive(Clone)]
struct Environment {
    program: PathBuf,
    otlp_endpoint: Option<String>,
}

/// Keeps one child alive from its first stage to its last.
async fn keep(
    spec: Spec,
    environment: Environment,
    lives: Arc<watch::Sender<Lives>>,
    mut stage: watch::Receiver<Stage>,
) {
    let change = |change: &dyn Fn(&mut Life)| {
        lives.send_modify(|lives| change(lives.entry(spec.name.clone()).or_default()));
    };
    let end_stage = spec.role.end_stage();
    reached(&mut stage, spec.role.start_stage()).await;
    let mut backoff = BACKOFF_FIRST;
    let mut retired = false;
    while *stage.borrow() < end_stage {
        let began = Instant::now();
        let ended = match spawn(&spec, &environment) {
            Ok(mut child) => {
                let pid = child.id();
                change(&|life| {
                    *life = Life { pid, starts: life.starts + 1, ready: false, ..life.clone() };
                });
                let status = tokio::select! {
                    status = child.wait() => status,
                    () = reached(&mut stage, end_stage) => end(&mut child, &mut stage, end_stage).await,
                };
                if matches!(&status, Ok(status) if status.code() == Some(i32::from(EXIT_RETIRED))) {
                    retired = true;
                }
                status.map_or_else(|error| format!("was lost sight of ({error})"), describe)
            }
            Err(error) => format!("could not be started ({error})"),
        };
        // At once: whoever sees its end must also see whether it is the last.
        change(&|life| {
            *life = Life { pid: None, ready: false, last_end: Some(ended.clone()), over: retired, ..life.clone() };
        });
        if retired {
            break;
        }
        backoff = if began.elapsed() >= STEADY_AFTER { BACKOFF_FIRST } else { backoff };
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = reached(&mut stage, end_stage) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
    change(&|life| life.over = true);
}

/// Completes once the stage is reached; a keeper that is gone counts as the last stage.
async fn reached(stage: &mut watch::Receiver<Stage>, at: Stage) {
    let _ = stage.wait_for(|stage| *stage >= at).await;
}

fn spawn(spec: &Spec, environment: &Environment) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&spec.log)?;
    let mut command = Command::new(&environment.program);
    command.args(&spec.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| name.starts_with("EVERRING_") && !INHERITED.contains(&name));
        if ours {
            command.env_remove(name);
        }
    }
    command.env(PARENT_VARIABLE, std::process::id().to_string());
    if let Some(endpoint) = &environment.otlp_endpoint {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    }
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // glibc gives each thread a heap of its own: a dozen processes would hold many times what they use.
        command.env("MALLOC_ARENA_MAX", "2");
    }
    command.spawn()
}

/// SIGTERM, a while of grace, SIGKILL; the child has ended after it.
async fn end(child: &mut Child, stage: &mut watch::Receiver<Stage>, end_stage: Stage) -> io::Result<ExitStatus> {
    let grace = GRACE.iter().find(|(stage, _)| *stage == end_stage).map_or(Duration::ZERO, |(_, grace)| *grace);
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
        // It may be gone already; and one that is stopped only hears the signal once it goes on.
        let _ = kill_process(pid, Signal::TERM);
        let _ = kill_process(pid, Signal::CONT);
    }
    tokio::select! {
        status = child.wait() => return status,
        () = tokio::time::sleep(grace) => {}
        () = reached(stage, Stage::Kill) => {}
    }
    child.start_kill()?;
    child.wait().await
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a log, for people.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL_BYTES)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    last.iter().map(|line| format!("  | {line}\n")).collect()
}

const TAIL_LINES: usize = 12;
const TAIL_BYTES: usize = 8 << 10;
