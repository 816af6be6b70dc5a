//! The shell around [`MonkeyPlan`]: looks at the fleet, records each fault before it acts, injects, and watches the
//! victim until it is back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::gateway::GatewayClient;
use futures_util::future::join_all;
use history::Value;
use serde::Deserialize;
use stdx::{Instant, TraceContext, error_chain};
use telemetry::spans::{Builder, LiveSpan};
use telemetry::{KeyValue, SpanKind, names};
use tokio::sync::watch;

use crate::control::{FleetControl, Order, STORAGE_NODE, Target};
use crate::faults::{Fault, FaultKind};
use crate::metrics::Metrics;
use crate::monkey::{Decision, Health, MonkeyPlan, Observation, Reason, Sighting, Strike};
use crate::recorder::Recorder;

/// Stops new faults, and ends those that can be ended. Cheap to clone; clones are one switch.
#[derive(Clone, Debug, Default)]
pub struct HaltSwitch {
    flag: Arc<AtomicBool>,
    told: Arc<Mutex<Option<String>>>,
    file: Option<PathBuf>,
}

/// One fault as it happened.
#[derive(Clone, Debug)]
pub struct FaultRecord {
    /// Its number, from 1.
    pub id: u64,
    /// What was done.
    pub kind: FaultKind,
    /// To whom.
    pub target: String,
    /// The victim's `service.instance.id` at the time: names return, this does not.
    pub instance_id: String,
    /// Whether the victim is a member of the ring.
    pub is_member: bool,
    /// Whether it was really injected; if not, why.
    pub injected: Result<(), String>,
    /// Whether the victim's life ended at that moment, and not some time after it.
    pub instant: bool,
    /// When it was injected, in nanoseconds since the run began.
    pub at_ns: u64,
    /// When the fleet, or we, first saw that the victim does not answer.
    pub detected_ns: Option<u64>,
    /// When the victim was last seen to be absent: nothing it answers before is its new life's.
    pub absent_until_ns: u64,
    /// When the victim was ready again.
    pub healed_ns: Option<u64>,
    /// The trace of the fault's own span.
    pub trace_id: String,
}

/// What the nemesis shares with the live display and the checks.
#[derive(Debug, Default)]
pub struct Shared {
    faults: Mutex<Vec<FaultRecord>>,
    reason: Mutex<String>,
}

/// What a nemesis needs.
pub struct Nemesis {
    /// The fleet.
    pub control: Arc<dyn FleetControl>,
    /// Asked whether the ring has noticed.
    pub gateway: GatewayClient,
    /// The history, and the verifier's heartbeat.
    pub recorder: Arc<Recorder>,
    /// The judgement.
    pub plan: MonkeyPlan,
    /// The halt switch.
    pub halt: HaltSwitch,
    /// How long a pause lasts.
    pub pause: Duration,
    /// How long, at the end of a run, the last victim is awaited.
    pub return_max: Duration,
    /// The run's id, for spans.
    pub run_id: String,
    /// Where faults are counted.
    pub metrics: Metrics,
    /// What others see of it.
    pub shared: Arc<Shared>,
}

/// How a storage node says how it is; further fields are ignored.
#[derive(Deserialize)]
struct Status {
    incarnation: u64,
    state: String,
}

/// How often the fleet is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long one process may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// How often it is asked, right after a fault, whether the ring has noticed.
const DETECT_EVERY: Duration = Duration::from_millis(4);
/// How long it is asked.
const DETECT_MAX: Duration = Duration::from_millis(500);

impl HaltSwitch {
    /// A switch that is also set while this file exists.
    pub fn with_file(file: PathBuf) -> HaltSwitch {
        HaltSwitch { file: Some(file), ..HaltSwitch::default() }
    }

    /// Sets or releases it.
    pub fn set(&self, halted: bool) {
        self.flag.store(halted, Ordering::Relaxed);
    }

    /// Sets it in the name of somebody else, or releases it for them.
    pub fn set_by(&self, who: Option<String>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = who;
    }

    /// Who holds it, if it is set.
    pub fn holder(&self) -> Option<String> {
        if self.flag.load(Ordering::Relaxed) {
            return Some("the switch".to_owned());
        }
        if let Some(who) = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(who);
        }
        let file = self.file.as_ref()?;
        match file.try_exists() {
            Ok(true) => Some(format!("the file {}", file.display())),
            Ok(false) => None,
            // Who cannot see the switch must take it as set.
            Err(error) => Some(format!("the file {}, which cannot be looked for: {error}", file.display())),
        }
    }
}

impl Shared {
    /// The faults so far.
    pub fn faults(&self) -> Vec<FaultRecord> {
        self.locked().clone()
    }

    /// Why nothing is being done right now.
    pub fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn locked(&self) -> MutexGuard<'_, Vec<FaultRecord>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_reason(&self, reason: &Reason) {
        let text = reason.to_string();
        let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        // The count-down of an ordinary wait is no news.
        if *known != text && !matches!(reason, Reason::NotDue(_)) {
            tracing::debug!(reason = %text, "no fault now");
        }
        *known = text;
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut FaultRecord)) {
        if let Some(record) = self.locked().iter_mut().find(|record| record.id == id) {
            change(record);
        }
    }
}

/// A fault in force.
struct Active {
    strike: Strike,
    fault: Box<dyn Fault>,
    span: LiveSpan,
    heal_at_ns: u64,
    undone: bool,
}

impl Nemesis {
    /// Injects faults until `stop` becomes true, then waits for the last victim.
    pub async fn run(mut self, http: reqwest::Client, mut stop: watch::Receiver<bool>) {
        let mut active: Option<Active> = None;
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let seen = self.look(&http).await;
            let now = Instant::from_nanos(self.recorder.now_ns());
            active = self.watch_victim(active, &seen).await;
            match self.plan.decide(now, &seen) {
                Decision::Wait(reason) => self.shared.set_reason(&reason),
                Decision::WouldStrike(strike) => {
                    tracing::info!(fault = strike.id, kind = %strike.kind, target = %strike.target, "dry run");
                    self.begin_span(&strike, &seen, true).0.end();
                }
                Decision::Strike(strike) => {
                    active = self.strike(strike, &seen).await;
                }
            }
        }
        self.wait_for_last_victim(active, &http).await;
    }

    /// One look at everything that the plan wants to know.
    pub async fn look(&self, http: &reqwest::Client) -> Observation {
        let fleet = match self.control.targets() {
            Ok(targets) => sight(http, targets).await,
            Err(why) => Err(why),
        };
        Observation { halted: self.halt.holder(), fleet, verifier_silent: self.recorder.silent_for() }
    }

    async fn strike(&mut self, strike: Strike, seen: &Observation) -> Option<Active> {
        let (span, instance_id) = self.begin_span(&strike, seen, false);
        let trace_id = telemetry::context::trace_id_hex(span.context());
        // Recorded before it acts: a fault that kills us too still stands in the history.
        self.recorder.fault(strike.kind.name(), fault_value(&strike, &instance_id, &trace_id, "begin"));
        let is_member = seen.fleet.iter().flatten().any(|seen| seen.name == strike.target && seen.role == STORAGE_NODE);
        let (run_id, pause) = (self.run_id.clone(), self.pause);
        let order = Order { strike: strike.clone(), pause, run_id, trace_id: trace_id.clone() };
        let mut fault = match self.control.fault(&order) {
            Ok(fault) => fault,
            Err(why) => {
                self.not_injected(&strike, span, &why);
                return None;
            }
        };
        let what = fault.describe();
        tracing::warn!(fault = strike.id, kind = %strike.kind, target = %strike.target, %what, "fault");
        let at_ns = self.recorder.now_ns();
        self.recorder.fault_begins(strike.id);
        let injected = fault.inject().await.map_err(|error| error_chain(&error));
        self.shared.locked().push(FaultRecord {
            id: strike.id,
            kind: strike.kind,
            target: strike.target.clone(),
            instance_id,
            is_member,
            injected: injected.clone(),
            instant: fault.is_instant(),
            at_ns,
            detected_ns: None,
            absent_until_ns: self.recorder.now_ns(),
            healed_ns: None,
            trace_id,
        });
        if let Err(why) = injected {
            self.recorder.fault_ends();
            self.not_injected(&strike, span, &why);
            return None;
        }
        self.metrics.fault(strike.kind);
        let heal_at_ns = at_ns + u64::try_from(self.pause.as_nanos()).unwrap_or(u64::MAX);
        if strike.kind.ends_life() && is_member {
            self.detect(&strike).await;
        }
        Some(Active { strike, fault, span, heal_at_ns, undone: false })
    }

    /// The victim is untouched, and the record says so too.
    fn not_injected(&mut self, strike: &Strike, mut span: LiveSpan, why: &str) {
        tracing::error!(fault = strike.id, why, "the fault could not be injected");
        let trace_id = telemetry::context::trace_id_hex(span.context());
        self.recorder.fault(strike.kind.name(), fault_value(strike, "", &trace_id, "not-injected"));
        span.fail("not-injected");
        self.plan.not_injected(strike.id);
    }

    /// Asks a gateway, again and again, until it says that the victim is not alive.
    async fn detect(&self, strike: &Strike) {
        let until = tokio::time::Instant::now() + DETECT_MAX;
        while tokio::time::Instant::now() < until {
            if let Ok(ring) = self.gateway.ring().await
                && ring.members.iter().any(|member| member.name == strike.target && !member.alive)
            {
                let now_ns = self.recorder.now_ns();
                self.shared.change(strike.id, |record| record.detected_ns = Some(now_ns));
                return;
            }
            tokio::time::sleep(DETECT_EVERY).await;
        }
    }

    /// Follows the victim: notes when it was seen gone, wakes it when its time is over, notes when it is back.
    async fn watch_victim(&mut self, active: Option<Active>, seen: &Observation) -> Option<Active> {
        let mut active = active?;
        let now_ns = self.recorder.now_ns();
        if !active.strike.kind.ends_life() && !active.undone && (now_ns >= active.heal_at_ns || seen.halted.is_some()) {
            match active.fault.heal().await {
                Ok(()) => {
                    active.undone = true;
                    self.plan.healed(active.strike.id);
                }
                Err(error) => {
                    tracing::error!(fault = active.strike.id, error = %error_chain(&error), "the fault is not healed");
                }
            }
        }
        let sighting = seen.fleet.iter().flatten().find(|sighting| sighting.name == active.strike.target);
        // Who does not answer has no life that could be told from the victim's.
        let other_life = sighting.is_some_and(|sighting| {
            sighting.life != active.strike.life && !matches!(sighting.health, Health::Unseen(_))
        });
        let ready = sighting.is_some_and(|sighting| sighting.health == Health::Ready);
        let back = ready && if active.strike.kind.ends_life() { other_life } else { active.undone };
        self.shared.change(active.strike.id, |record| {
            if !back && !other_life {
                record.absent_until_ns = now_ns;
            }
            if !ready && record.detected_ns.is_none() {
                record.detected_ns = Some(now_ns);
            }
        });
        if !back {
            return Some(active);
        }
        self.shared.change(active.strike.id, |record| record.healed_ns = Some(now_ns));
        let trace_id = telemetry::context::trace_id_hex(active.span.context());
        let kind = active.strike.kind.name();
        self.recorder.fault(kind, fault_value(&active.strike, "", &trace_id, "healed"));
        active.span.end();
        self.recorder.fault_ends();
        None
    }

    async fn wait_for_last_victim(&mut self, mut active: Option<Active>, http: &reqwest::Client) {
        if let Some(active) = active.as_mut().filter(|active| !active.strike.kind.ends_life()) {
            active.heal_at_ns = 0;
        }
        let until = tokio::time::Instant::now() + self.return_max;
        while active.is_some() && tokio::time::Instant::now() < until {
            let seen = self.look(http).await;
            active = self.watch_victim(active, &seen).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn begin_span(&self, strike: &Strike, seen: &Observation, dry_run: bool) -> (LiveSpan, String) {
        let sighting = seen.fleet.iter().flatten().find(|sighting| sighting.name == strike.target);
        let role = sighting.map_or("", |sighting| sighting.role.as_str());
        let instance_id = sighting.and_then(|sighting| sighting.instance_id.clone());
        let instance_id = instance_id.unwrap_or_else(|| format!("{}-{}", strike.target, strike.life));
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let attributes = [
            KeyValue::new(names::CHAOS_RUN_ID, self.run_id.clone()),
            KeyValue::new(names::CHAOS_SEED, signed(self.plan.config().seed)),
            KeyValue::new(names::CHAOS_FAULT_ID, signed(strike.id)),
            KeyValue::new(names::CHAOS_FAULT_KIND, strike.kind.name()),
            KeyValue::new(names::CHAOS_VICTIM_NAME, strike.target.clone()),
            KeyValue::new(names::CHAOS_VICTIM_SERVICE, format!("everring-{role}")),
            KeyValue::new(names::CHAOS_VICTIM_INSTANCE_ID, instance_id.clone()),
            KeyValue::new(names::CHAOS_DRY_RUN, dry_run),
        ];
        let name = names::chaos_span(strike.kind);
        let span = Builder::new(SpanKind::Internal, name, TraceContext::NONE).attributes(attributes).start();
        (span, instance_id)
    }
}

/// Asks every target how it is, all at once.
///
/// # Errors
/// There are targets that should say how they are, and not one did: then it is we who cannot see.
pub async fn sight(http: &reqwest::Client, targets: Vec<Target>) -> Result<Vec<Sighting>, String> {
    let asked = targets.iter().filter(|target| target.role == STORAGE_NODE).count();
    let sightings = join_all(targets.into_iter().map(|target| sight_one(http, target))).await;
    let unseen = |seen: &&Sighting| seen.role == STORAGE_NODE && matches!(seen.health, Health::Unseen(_));
    if asked == 0 {
        return Err("no storage node is known".to_owned());
    }
    if sightings.iter().filter(unseen).count() == asked {
        return Err(format!("none of {asked} storage nodes says how it is"));
    }
    Ok(sightings)
}

async fn sight_one(http: &reqwest::Client, target: Target) -> Sighting {
    let (health, life) = match &target.http {
        Some(address) if target.role == STORAGE_NODE => match status(http, address).await {
            Ok(Status { incarnation, state }) if state == "ready" => (Health::Ready, incarnation),
            Ok(Status { incarnation, state }) => (Health::NotReady(state), incarnation),
            Err(why) => (Health::Unseen(why), 0),
        },
        None if target.role == STORAGE_NODE => (Health::Unseen("its address is not known".to_owned()), 0),
        _ => (target.keeper_health(), target.life.unwrap_or(0)),
    };
    let Target { name, role, opted_in, instance_id, .. } = target;
    Sighting { name, role, opted_in, life, instance_id, health }
}

async fn status(http: &reqwest::Client, address: &str) -> Result<Status, String> {
    let asked = http.get(format!("http://{address}/status")).timeout(STATUS_TIMEOUT).send().await;
    let answer = asked.map_err(|error| error_chain(&error))?;
    answer.json().await.map_err(|error| error_chain(&error))
}

fn fault_value(strike: &Strike, instance_id: &str, trace_id: &str, phase: &str) -> BTreeMap<String, Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut value = BTreeMap::from([
        ("id".to_owned(), Value::Integer(i128::from(strike.id))),
        ("target".to_owned(), text(&strike.target)),
        ("phase".to_owned(), text(phase)),
        ("trace_id".to_owned(), text(trace_id)),
    ]);
    if !instance_id.is_empty() {
        value.insert("instance_id".to_owned(), text(instance_id));
    }
    value
}
