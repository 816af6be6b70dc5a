//! Does a request's trace say the same as its history? Pure: a finished request, its spans and the deaths go in.
//!
//! What a killed process had not exported is lost, so its missing spans prove nothing; everything else must fit. What
//! is looked at: the client's own span against the history, the gateway's answer, and the replica that coordinated.

use telemetry::names;
use telemetry::query::{Span, Trace};

use crate::operation::{End, Operation};

/// The end of one life of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Whose.
    pub name: String,
    /// Which life: its `service.instance.id`.
    pub instance: String,
    /// Whether it was a gateway.
    pub is_gateway: bool,
    /// When its end was ordered, in nanoseconds since the run began.
    pub at_ns: u64,
    /// By when it was surely dead: at once by a signal, later where it is given time to drain.
    pub dead_by_ns: u64,
    /// Until when its next life had surely not begun.
    pub absent_until_ns: u64,
}

/// What a trace says about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What the trace and the history disagree on, as sentences. Empty: they agree.
    pub contradictions: Vec<String>,
    /// Spans that should have come in and have not (yet). What a killed process took with it is not among them.
    pub missing: Vec<String>,
    /// The replica that coordinated the answer, by the trace where it can be told, else by the receipt.
    pub answered_by: Option<String>,
    /// Hops to it.
    pub hops: Option<u32>,
}

/// How far the clocks of two processes may differ, in microseconds, before a time is held against one of them.
pub const CLOCK_TOLERANCE_US: u64 = 20_000;
/// A process that died this soon after it answered may have taken the answer's spans with it, in nanoseconds.
const EXPORT_DELAY_NS: u64 = 2_000_000_000;

impl Judgement {
    /// All spans that can be expected are there.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Holds a trace against its request. `run_start_us` is when the run began, in microseconds since 1970.
pub fn judge(operation: &Operation, trace: &Trace, deaths: &[Death], run_start_us: u64) -> Judgement {
    let mut judgement = Judgement {
        answered_by: operation.coordinator().map(str::to_owned),
        hops: operation.receipt.as_ref().map(|receipt| receipt.hops),
        ..Judgement::default()
    };
    match trace.spans.iter().find(|span| span.parent.is_none()) {
        Some(root) => judge_root(operation, root, &mut judgement),
        None => judgement.missing.push("the client's span".to_owned()),
    }
    if operation.end == End::Ok {
        judge_gateway(operation, trace, deaths, &mut judgement);
        judge_coordinator(operation, trace, deaths, run_start_us, &mut judgement);
    }
    judgement
}

/// The client's span was made by the verifier itself, so it must tell exactly what the history tells.
fn judge_root(operation: &Operation, root: &Span, judgement: &mut Judgement) {
    let answered = operation.end == End::Ok;
    if answered && root.error {
        judgement.contradictions.push("the history says ok, the client's span says error".to_owned());
    }
    if !answered && !root.error {
        judgement.contradictions.push("the history says not answered, the client's span shows no error".to_owned());
    }
    let status = root.tag(names::HTTP_RESPONSE_STATUS_CODE);
    if let (Some(status), Some(recorded)) = (status, operation.status)
        && status != recorded.to_string()
    {
        judgement.contradictions.push(format!("the history says status {recorded}, the client's span {status}"));
    }
}

/// One of the gateways' spans must have answered what the client was told.
fn judge_gateway(operation: &Operation, trace: &Trace, deaths: &[Death], judgement: &mut Judgement) {
    let answers: Vec<&Span> =
        trace.spans.iter().filter(|span| span.service == GATEWAY && span.kind == "server").collect();
    let statuses: Vec<&str> = answers.iter().filter_map(|span| span.tag(names::HTTP_RESPONSE_STATUS_CODE)).collect();
    let recorded = operation.status.map(|status| status.to_string()).unwrap_or_default();
    if statuses.contains(&recorded.as_str()) {
        return;
    }
    if deaths.iter().any(|death| death.is_gateway && may_have_lost(death, operation)) {
        return;
    }
    if statuses.is_empty() {
        judgement.missing.push("the gateway's span".to_owned());
    } else {
        let told = statuses.join(", ");
        judgement.contradictions.push(format!("the client was answered {recorded}, the gateway's span says {told}"));
    }
}

/// Who coordinated, by the trace: the coordinator whose span names the very replicas that the receipt names. A receipt
/// names those who voted, the coordinator first if it is among them; where its own disk was the slowest, it is not.
fn coordinator_by_trace<'a>(operation: &Operation, trace: &'a Trace) -> Option<&'a str> {
    let voters = operation.receipt.as_ref()?.replicas.join(",");
    coordinations(trace).find(|span| span.tag(names::REPLICAS) == Some(voters.as_str()))?.tag(names::REPLICA)
}

fn coordinations(trace: &Trace) -> impl Iterator<Item = &Span> {
    trace.spans.iter().filter(|span| span.kind == "server" && span.name.starts_with("coordinate "))
}

/// The receipt names a coordinator: its span must be there if it lived, and must not be there if it was dead.
fn judge_coordinator(
    operation: &Operation,
    trace: &Trace,
    deaths: &[Death],
    run_start_us: u64,
    judgement: &mut Judgement,
) {
    let by_trace = coordinator_by_trace(operation, trace);
    if let Some(name) = by_trace {
        judgement.answered_by = Some(name.to_owned());
    }
    let Some(name) = by_trace.or(operation.coordinator()) else { return };
    let spans: Vec<&Span> = coordinations(trace)
        .filter(|span| span.tag(names::REPLICA) == Some(name) || span.instance.starts_with(&format!("{name}-")))
        .collect();
    for death in deaths.iter().filter(|death| death.name == name) {
        let death_us = run_start_us + death.dead_by_ns / 1_000;
        let risen = spans.iter().find(|span| {
            span.instance == death.instance && span.start_us > death_us.saturating_add(CLOCK_TOLERANCE_US)
        });
        if let Some(span) = risen {
            let late_ms = (span.start_us - death_us) / 1_000;
            let sentence = format!("{} began to coordinate {late_ms} ms after it was killed", death.instance);
            judgement.contradictions.push(sentence);
        }
        let wholly_absent = operation.invoked_ns > death.dead_by_ns && operation.ended_ns < death.absent_until_ns;
        if spans.is_empty() && wholly_absent {
            let sentence = format!("the receipt names {name}, which was dead from before the request until after it");
            judgement.contradictions.push(sentence);
        }
    }
    if by_trace.is_some() {
        return;
    }
    let died = deaths.iter().any(|death| death.name == name && may_have_lost(death, operation));
    if let Some(sentence) = other_voters(operation, trace) {
        judgement.contradictions.push(sentence);
    } else if spans.is_empty() && !died {
        // A span may be lost on its way (a full queue, an export that timed out): alone that contradicts nothing.
        judgement.missing.push(format!("the span of {name}"));
    }
}

/// Where the client asked once, and one attempt of the gateway was answered, that answer is the receipt's: a
/// coordinator whose span names other voters contradicts it.
fn other_voters(operation: &Operation, trace: &Trace) -> Option<String> {
    let root = trace.spans.iter().find(|span| span.parent.is_none())?;
    let attempts = trace.spans.iter().filter(|span| span.service == GATEWAY && span.kind == "client" && !span.error);
    let [attempt] = attempts.collect::<Vec<_>>()[..] else { return None };
    if root.tag(names::HTTP_REQUEST_RESEND_COUNT).is_some() {
        return None;
    }
    let coordination = trace.spans.iter().find(|span| span.parent == Some(attempt.id))?;
    let (voters, receipt) = (coordination.tag(names::REPLICAS)?, operation.receipt.as_ref()?);
    let (told, who) = (receipt.replicas.join(","), coordination.tag(names::REPLICA)?);
    (voters != told).then(|| format!("the receipt names {told}, and the span of {who}, which answered, {voters}"))
}

/// Whether a process that died may have lost its spans of this request: it lived at some time of it, and may have died
/// before they can be counted on to have been exported.
fn may_have_lost(death: &Death, operation: &Operation) -> bool {
    death.dead_by_ns >= operation.invoked_ns && death.at_ns <= operation.ended_ns.saturating_add(EXPORT_DELAY_NS)
}

const GATEWAY: &str = "everring-gateway";

#[cfg(test)]
#[path = "trace_judge_test.rs"]
mod tests;
