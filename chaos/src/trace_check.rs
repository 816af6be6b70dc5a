//! For every fault: which requests were in flight on its victim's arcs, who answered them instead, after how long - and
//! whether their traces say so too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use client::gateway::GatewayClient;
use futures_util::StreamExt;
use telemetry::query::{Trace, TraceQuery, render_waterfall};
use tokio::sync::watch;
use wire::http::Level;

use crate::nemesis::{FaultRecord, Shared};
use crate::operation::{End, Operation};
use crate::recorder::Recorder;
use crate::trace_judge::{Death, Judgement, judge};

/// One request that a fault met, and how it fared.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Its trace, 32 hex digits.
    pub trace_id: String,
    /// `read`, `write`, `cas` or `delete`.
    pub kind: &'static str,
    /// Its key.
    pub key: String,
    /// How it ended.
    pub end: End,
    /// The replica that coordinated the answer.
    pub answered_by: Option<String>,
    /// How long its client waited, in milliseconds.
    pub waited_ms: f64,
    /// Hops to the coordinator.
    pub hops: Option<u32>,
    /// Attempts that the gateway made at replicas.
    pub attempts: Option<u32>,
}

/// What is known about one fault's requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultProof {
    /// Requests in flight on the victim's arcs between the fault and its detection.
    pub in_flight: u64,
    /// Of these, those that were not answered in time.
    pub failed: u64,
    /// The requests whose traces were looked at: at most [`TRACES_PER_FAULT_MAX`], those nearest the fault.
    pub named: Vec<Named>,
    /// Traces that were found.
    pub checked: u64,
    /// Of these, those that have all spans that can be expected.
    pub complete: u64,
    /// Requests whose trace disagrees with the history: trace id and sentence.
    pub contradicting: Vec<(String, String)>,
    /// Traces that did not come in, or lack spans: trace id and what is missing.
    pub missing: Vec<(String, String)>,
    /// The trace of a request that went on although its first replica died, drawn for a terminal.
    pub waterfall: Option<String>,
}

/// Looks at faults while the run goes on: a trace store in memory forgets.
pub struct TraceCheck {
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    traces: Option<TraceQuery>,
    shared: Arc<Shared>,
    deadline: Duration,
    routes: Mutex<BTreeMap<(&'static str, String), Vec<String>>>,
    proofs: Mutex<BTreeMap<u64, FaultProof>>,
}

/// Traces looked at for one fault at most.
pub const TRACES_PER_FAULT_MAX: usize = 40;
/// Requests that began within this time of a fault count as in flight even where the fault was seen sooner: the client
/// does not know which of them the victim had already read.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// A fault whose detection was not seen is given this window.
const WINDOW_UNSEEN: Duration = Duration::from_millis(250);
/// How long spans may take to arrive, before a trace is called incomplete.
const ARRIVAL_MAX: Duration = Duration::from_secs(12);
/// And how long where none has arrived at all.
const ARRIVAL_DOUBTFUL: Duration = Duration::from_secs(2);
/// How often an incomplete trace is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// Questions to the trace store at a time.
const ASK_CONCURRENCY: usize = 4;
/// How often new faults are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A victim that is not back by then is judged without waiting longer.
const RETURN_MAX: Duration = Duration::from_secs(10);
/// Columns of the waterfall.
const WATERFALL_WIDTH: usize = 110;

impl TraceCheck {
    /// A check of the faults in `shared`; without a trace store the requests are named by their receipts alone.
    pub fn new(
        recorder: Arc<Recorder>,
        gateway: GatewayClient,
        traces: Option<TraceQuery>,
        shared: Arc<Shared>,
        deadline: Duration,
    ) -> TraceCheck {
        let (routes, proofs) = (Mutex::default(), Mutex::default());
        TraceCheck { recorder, gateway, traces, shared, deadline, routes, proofs }
    }

    /// What is proven so far, by fault.
    pub fn proofs(&self) -> BTreeMap<u64, FaultProof> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at every fault once its requests have ended, until `stop` becomes true and none is left.
    pub async fn run(&self, stop: watch::Receiver<bool>) {
        loop {
            // Read before the faults are: what is injected later is looked at in another turn.
            let last_turn = *stop.borrow();
            for fault in self.shared.faults() {
                if self.proofs().contains_key(&fault.id) || fault.injected.is_err() {
                    continue;
                }
                if self.requests_have_ended(&fault) {
                    let proof = self.examine(&fault).await;
                    self.proofs.lock().unwrap_or_else(PoisonError::into_inner).insert(fault.id, proof);
                } else if last_turn {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
            let looked_at = self.proofs().len();
            let faults = self.shared.faults().iter().filter(|fault| fault.injected.is_ok()).count();
            if last_turn && looked_at >= faults {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn requests_have_ended(&self, fault: &FaultRecord) -> bool {
        let since = |at_ns: u64| Duration::from_nanos(self.recorder.now_ns().saturating_sub(at_ns));
        let (_, to_ns) = window(fault);
        let answered = since(to_ns) > self.deadline + client::gateway::GRACE;
        answered && (fault.healed_ns.is_some() || since(fault.at_ns) > RETURN_MAX)
    }

    async fn examine(&self, fault: &FaultRecord) -> FaultProof {
        let (from_ns, to_ns) = window(fault);
        let mut met = Vec::new();
        let strict = |operation: &Operation| operation.level == Level::Strict;
        for operation in self.recorder.overlapping(from_ns, to_ns).into_iter().filter(strict) {
            // A victim outside the ring (a gateway) may have had any request.
            if !fault.is_member || self.replicas(operation.kind.bucket(), &operation.key).await.contains(&fault.target)
            {
                met.push(operation);
            }
        }
        let mut proof = FaultProof {
            in_flight: met.len() as u64,
            failed: met.iter().filter(|operation| !operation.kept()).count() as u64,
            ..FaultProof::default()
        };
        met.sort_by_key(|operation| operation.invoked_ns.abs_diff(from_ns));
        met.truncate(TRACES_PER_FAULT_MAX);
        // A store that had nothing of the last fault is not waited for as long again.
        let had_nothing = self.proofs().values().last().is_some_and(|last| last.in_flight > 0 && last.checked == 0);
        let until = tokio::time::Instant::now() + if had_nothing { ARRIVAL_DOUBTFUL } else { ARRIVAL_MAX };
        let looked_at: Vec<_> = futures_util::stream::iter(met)
            .map(|operation| async move {
                let (judgement, trace) = self.ask(&operation, until).await;
                (operation, judgement, trace)
            })
            .buffered(ASK_CONCURRENCY)
            .collect()
            .await;
        for (operation, judgement, trace) in looked_at {
            proof.add(&operation, judgement, trace, &fault.target);
        }
        proof
    }

    /// Asks for a trace until it has all that can be expected, or `until` has come.
    async fn ask(&self, operation: &Operation, until: tokio::time::Instant) -> (Judgement, Option<Trace>) {
        let start = self.recorder.started_at().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run_start_us = u64::try_from(start.as_micros()).unwrap_or(u64::MAX);
        let by_receipt = || Judgement {
            answered_by: operation.coordinator().map(str::to_owned),
            hops: operation.receipt.as_ref().map(|receipt| receipt.hops),
            ..Judgement::default()
        };
        let Some(traces) = &self.traces else { return (by_receipt(), None) };
        let id = u128::from_str_radix(&operation.trace_id, 16).unwrap_or(0);
        loop {
            let (judgement, trace) = match traces.trace(id).await {
                Ok(Some(trace)) => {
                    let deaths = deaths(&self.shared.faults());
                    (judge(operation, &trace, &deaths, run_start_us), Some(trace))
                }
                Ok(None) => (Judgement { missing: vec!["the whole trace".to_owned()], ..by_receipt() }, None),
                Err(error) => (Judgement { missing: vec![stdx::error_chain(&error)], ..by_receipt() }, None),
            };
            if judgement.is_complete() || tokio::time::Instant::now() >= until {
                return (judgement, trace);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn replicas(&self, bucket: &'static str, key: &str) -> Vec<String> {
        let place = (bucket, key.to_owned());
        let known = self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        if let Some(replicas) = known {
            return replicas;
        }
        match self.gateway.route(bucket, key, Some("table")).await {
            Ok(route) => {
                let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
                routes.insert(place, route.replicas.clone());
                route.replicas
            }
            // Not kept: the next fault asks again.
            Err(_) => Vec::new(),
        }
    }
}

impl FaultProof {
    fn add(&mut self, operation: &Operation, judgement: Judgement, trace: Option<Trace>, victim: &str) {
        let trace_id = operation.trace_id.clone();
        self.checked += u64::from(trace.is_some());
        self.complete += u64::from(trace.is_some() && judgement.is_complete());
        self.contradicting.extend(judgement.contradictions.iter().map(|what| (trace_id.clone(), what.clone())));
        if !judgement.is_complete() {
            self.missing.push((trace_id.clone(), judgement.missing.join("; ")));
        }
        let attempts = operation.receipt.as_ref().map(|receipt| receipt.attempts);
        let survived = operation.kept()
            && attempts.is_some_and(|attempts| attempts > 1)
            && judgement.answered_by.as_deref().is_some_and(|name| name != victim);
        if let Some(trace) = trace.filter(|_| survived && self.waterfall.is_none() && judgement.is_complete()) {
            self.waterfall = Some(render_waterfall(&trace, WATERFALL_WIDTH));
        }
        self.named.push(Named {
            trace_id,
            kind: operation.kind.name(),
            key: operation.key.clone(),
            end: operation.end,
            answered_by: judgement.answered_by,
            waited_ms: operation.latency_ns() as f64 / 1e6,
            hops: judgement.hops,
            attempts,
        });
    }
}

/// From the fault to its detection, in nanoseconds since the run began.
fn window(fault: &FaultRecord) -> (u64, u64) {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let to = match fault.detected_ns {
        Some(detected) => detected.max(fault.at_ns + nanos(WINDOW_MIN)),
        None => fault.at_ns + nanos(WINDOW_UNSEEN),
    };
    (fault.at_ns, to)
}

/// By when a victim is surely dead. Given time to end, it is so only when its next life serves in its place; where that
/// life is another pod, both may be there for a while.
fn dead_by(fault: &FaultRecord) -> u64 {
    if fault.instant {
        return fault.at_ns;
    }
    fault.healed_ns.unwrap_or(fault.at_ns).max(fault.absent_until_ns)
}

/// The faults that ended a life.
fn deaths(faults: &[FaultRecord]) -> Vec<Death> {
    let ended = faults.iter().filter(|fault| fault.kind.ends_life() && fault.injected.is_ok());
    ended
        .map(|fault| Death {
            name: fault.target.clone(),
            instance: fault.instance_id.clone(),
            is_gateway: !fault.is_member,
            at_ns: fault.at_ns,
            dead_by_ns: dead_by(fault),
            absent_until_ns: fault.absent_until_ns,
        })
        .collect()
}
