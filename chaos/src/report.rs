//! From what a run has gathered to its verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::downtime::Downtime;
use crate::latency::latencies;
use crate::level_ticks::LevelRecord;
use crate::nemesis::FaultRecord;
use crate::operation::End;
use crate::recorder::{Record, Tally};
use crate::run::{RunConfig, demands};
use crate::tick::TickRecord;
use crate::trace_check::FaultProof;
use crate::verdict::{
    Acked, AckedWrites, Check, Circumstances, Demands, DownReport, Downtimes, FaultReport, FaultRequest, GAPS_MAX,
    LockReport, ReplayReport, Requests, TickReport, Traces, Verdict,
};
use crate::verifier::FinalRead;
use wire::http::Level;

/// Everything that a run has gathered.
pub(crate) struct Evidence {
    pub(crate) seed: u64,
    pub(crate) run_id: String,
    pub(crate) demands: Demands,
    pub(crate) traces_page: Option<String>,
    pub(crate) history: Option<PathBuf>,
    pub(crate) duration: Duration,
    pub(crate) faults: Vec<FaultRecord>,
    pub(crate) proofs: BTreeMap<u64, FaultProof>,
    pub(crate) ticks: Option<TickRecord>,
    pub(crate) replay: Option<ReplayReport>,
    pub(crate) tally: Tally,
    pub(crate) record: Record,
    pub(crate) final_read: FinalRead,
    pub(crate) checks: Vec<Check>,
    /// What the loops below strict saw, by level; empty if there were none.
    pub(crate) levels: BTreeMap<Level, LevelRecord>,
    pub(crate) unread_levels: Vec<String>,
    /// Acknowledged updates of what is not ordered, by what they are called.
    pub(crate) acked: BTreeMap<&'static str, Acked>,
    /// The files of the histories of sets and counters.
    pub(crate) merge_histories: BTreeMap<&'static str, PathBuf>,
    pub(crate) lock_history: Option<PathBuf>,
    pub(crate) locks: Option<(Check, LockReport)>,
    pub(crate) circumstances: Circumstances,
    pub(crate) notes: Vec<String>,
}

/// How long after a victim's return the downtime is still looked for.
const DOWNTIME_AFTER_NS: u64 = 1_000_000_000;
/// And how long before a fault, so that the window it falls into is whole.
const DOWNTIME_BEFORE_NS: u64 = 100_000_000;
/// Keys named in a sentence.
const KEYS_NAMED_MAX: usize = 3;

impl Evidence {
    pub(crate) fn new(config: &RunConfig, history: Option<PathBuf>, with_faults: bool) -> Evidence {
        Evidence {
            seed: config.seed,
            run_id: String::new(),
            demands: config.demands.unwrap_or_else(|| demands(config, with_faults)),
            traces_page: config.traces_page.clone(),
            history,
            duration: Duration::ZERO,
            faults: Vec::new(),
            proofs: BTreeMap::new(),
            ticks: None,
            replay: None,
            tally: Tally::default(),
            record: Record::default(),
            final_read: FinalRead::default(),
            checks: Vec::new(),
            levels: BTreeMap::new(),
            unread_levels: Vec::new(),
            acked: BTreeMap::new(),
            merge_histories: BTreeMap::new(),
            lock_history: None,
            locks: None,
            circumstances: Circumstances::default(),
            notes: Vec::new(),
        }
    }

    /// Up to when a fault counts as in force: its victim's return, or the end of the run.
    fn healed_ns(&self, fault: &FaultRecord) -> u64 {
        let last = self.record.operations.last().map_or(fault.at_ns, |operation| operation.ended_ns);
        fault.healed_ns.unwrap_or(last).max(fault.at_ns)
    }

    fn injected(&self) -> impl Iterator<Item = &FaultRecord> {
        self.faults.iter().filter(|fault| fault.injected.is_ok())
    }

    /// Every kind of request whose downtime was measured, in words.
    fn kinds(&self) -> Vec<(String, &Downtime)> {
        let mut kinds = Vec::new();
        if let Some(ticks) = &self.ticks {
            kinds.extend([("strict reads".to_owned(), &ticks.reads), ("strict writes".to_owned(), &ticks.writes)]);
            kinds.extend(ticks.locks.iter().map(|locks| ("calls on locks".to_owned(), locks)));
        }
        for (level, record) in &self.levels {
            let name = |kind| format!("{} {kind}", level.name());
            kinds.extend([(name("reads"), &record.reads), (name("writes"), &record.writes)]);
        }
        kinds
    }

    /// Every time without a success, of every kind, the longest first.
    fn gaps(&self) -> Vec<DownReport> {
        let end_ns = self.record.operations.last().map_or(0, |operation| operation.ended_ns);
        let spans = self.fault_spans(end_ns);
        let faults: Vec<(u64, (u64, u64))> = self.injected().map(|fault| fault.id).zip(spans).collect();
        let mut gaps = Vec::new();
        for (kind, record) in self.kinds() {
            gaps.extend(record.gaps_inside().into_iter().map(|gap| {
                let end_ns = gap.from_ns + gap.ms * 1_000_000;
                let over = |(_, (from, to)): &&(u64, (u64, u64))| *from < end_ns && gap.from_ns < *to;
                let fault = faults.iter().find(over).map(|(id, _)| *id);
                DownReport { kind: kind.clone(), at: rounded(gap.from_ns as f64 / 1e9), ms: gap.ms, fault }
            }));
        }
        gaps.sort_by(|a, b| b.ms.cmp(&a.ms).then(a.at.total_cmp(&b.at)));
        gaps.truncate(GAPS_MAX);
        gaps
    }

    fn downtimes(&self) -> Downtimes {
        // After the last request nothing could succeed any more.
        let end_ns = self.record.operations.last().map_or(0, |operation| operation.ended_ns);
        let spans = self.fault_spans(end_ns);
        let worst = |kind: &Downtime| spans.iter().map(|(from, to)| kind.longest_ms(*from, *to)).max().unwrap_or(0);
        let mut downtimes = Downtimes::default();
        if let Some(ticks) = &self.ticks {
            (downtimes.strict_read, downtimes.strict_write) = (worst(&ticks.reads), worst(&ticks.writes));
            downtimes.strict = downtimes.strict_read.max(downtimes.strict_write);
            downtimes.lock = ticks.locks.as_ref().map_or(0, worst);
        }
        let Downtimes { sequential, causal, eventual, .. } = &mut downtimes;
        for (level, at) in [(Level::Sequential, sequential), (Level::Causal, causal), (Level::Eventual, eventual)] {
            let Some(record) = self.levels.get(&level) else { continue };
            *at = Some(worst(&record.reads).max(worst(&record.writes)));
        }
        let outside = self.kinds().into_iter().map(|(_, kind)| kind.longest_outside_ms(&spans));
        downtimes.steady = outside.max().unwrap_or(0);
        downtimes
    }

    /// Around each fault.
    fn fault_spans(&self, end_ns: u64) -> Vec<(u64, u64)> {
        let span = |fault: &FaultRecord| {
            let to = self.healed_ns(fault).saturating_add(DOWNTIME_AFTER_NS).min(end_ns);
            (fault.at_ns.saturating_sub(DOWNTIME_BEFORE_NS), to)
        };
        self.injected().map(span).collect()
    }

    /// The acknowledged writes of every kind. Those of ordered keys were counted as they were made.
    fn acked_writes(&self) -> AckedWrites {
        let mut by: BTreeMap<String, Acked> =
            self.acked.iter().map(|(name, acked)| ((*name).to_owned(), acked.clone())).collect();
        for (level, total) in &self.record.acknowledged {
            let (lost, examples) = self.final_read.lost.get(level).cloned().unwrap_or_default();
            by.insert(level.name().to_owned(), Acked { total: *total, lost, examples });
        }
        AckedWrites { total: by.values().map(|of| of.total).sum(), lost: by.values().map(|of| of.lost).sum(), by }
    }

    fn gather_circumstances(&mut self) {
        let circumstances = &mut self.circumstances;
        circumstances.stale_reads = self.record.stale_reads_total;
        circumstances.void.extend(self.record.trouble.take());
        self.final_read.unread.append(&mut self.unread_levels);
        let unread = &self.final_read.unread;
        if !unread.is_empty() {
            let some = unread.iter().take(KEYS_NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
            circumstances.void.push(format!("{} keys could not be read at the end, such as {some}", unread.len()));
        }
        for fault in self.faults.iter().filter(|fault| fault.injected.is_ok() && fault.healed_ns.is_none()) {
            circumstances.void.push(format!("{} was not back at the end, after fault {}", fault.target, fault.id));
        }
        let untraced = |proof: &&FaultProof| proof.in_flight > 0 && proof.complete == 0;
        circumstances.faults_without_traces = self.proofs.values().filter(untraced).count() as u64;
    }
}

/// The verdict on what was gathered.
pub(crate) async fn compile(mut evidence: Evidence) -> Verdict {
    evidence.gather_circumstances();
    let spans: Vec<(u64, u64)> = evidence.injected().map(|fault| (fault.at_ns, evidence.healed_ns(fault))).collect();
    let proofs = &evidence.proofs;
    let sum = |of: fn(&FaultProof) -> u64| proofs.values().map(of).sum::<u64>();
    let Tally { total, ok, failed, unknown, .. } = evidence.tally;
    let without = evidence.injected().filter(|fault| proofs.get(&fault.id).is_none_or(|proof| proof.in_flight == 0));
    let mut verdict = Verdict {
        seed: evidence.seed,
        run_id: evidence.run_id.clone(),
        duration_s: rounded(evidence.duration.as_secs_f64()),
        faults: evidence.faults.iter().map(|fault| evidence.fault_report(fault)).collect(),
        requests: Requests { total, ok, failed, unknown },
        downtime_ms: evidence.downtimes(),
        gaps: evidence.gaps(),
        latency_ms: latencies(&evidence.record.operations, &spans),
        acked_writes: evidence.acked_writes(),
        checks: evidence.checks.iter().chain(evidence.locks.as_ref().map(|(check, _)| check)).cloned().collect(),
        traces: Traces {
            checked: sum(|proof| proof.checked),
            complete: sum(|proof| proof.complete),
            contradicting: sum(|proof| proof.contradicting.len() as u64),
        },
        ticks: tick_report(evidence.ticks.as_ref(), &evidence.levels),
        kills_without_requests: without.count() as u64,
        locks: evidence.locks.as_ref().map(|(_, report)| *report),
        history: evidence.history.as_ref().map(|path| path.display().to_string()),
        lock_history: evidence.lock_history.as_ref().map(|path| path.display().to_string()),
        merge_histories: {
            let named = |(name, path): (&&str, &PathBuf)| ((*name).to_owned(), path.display().to_string());
            evidence.merge_histories.iter().map(named).collect()
        },
        replay: evidence.replay.clone(),
        waterfall: proofs.values().find_map(|proof| proof.waterfall.clone()),
        notes: evidence.notes.clone(),
        ..Verdict::default()
    };
    verdict.notes.extend(evidence.ticks.iter().flat_map(|ticks| ticks.wrong.iter().cloned()));
    let stale = evidence.record.stale_reads.iter().take(KEYS_NAMED_MAX);
    verdict.notes.extend(stale.map(|read| {
        let held = read.held.as_deref().unwrap_or("nothing");
        format!("{} read as {held}, missing {} acknowledged writes (trace {})", read.key, read.missed, read.trace_id)
    }));
    for (sort, of) in [("contradicts", contradicting as fn(&FaultProof) -> &Vec<(String, String)>), ("lacks", missing)]
    {
        let examples = proofs.values().flat_map(of).take(KEYS_NAMED_MAX);
        verdict.notes.extend(examples.map(|(trace, what)| format!("trace {trace} {sort}: {what}")));
    }
    verdict.judge(&evidence.demands, &evidence.circumstances);
    verdict
}

fn contradicting(proof: &FaultProof) -> &Vec<(String, String)> {
    &proof.contradicting
}

fn missing(proof: &FaultProof) -> &Vec<(String, String)> {
    &proof.missing
}

fn tick_report(ticks: Option<&TickRecord>, levels: &BTreeMap<Level, LevelRecord>) -> TickReport {
    let mut report = TickReport::default();
    if let Some(ticks) = ticks {
        report.answered = ticks.reads.total() + ticks.writes.total() + ticks.locks.as_ref().map_or(0, Downtime::total);
        (report.failed, report.unknown, report.wrong) = (ticks.failed, ticks.unknown, ticks.wrong_total);
    }
    for record in levels.values() {
        report.answered += record.reads.total() + record.writes.total();
        report.failed += record.failed;
        report.unknown += record.unknown;
    }
    report
}

impl Evidence {
    /// Where a person sees a trace.
    fn trace_url(&self, trace_id: &str) -> Option<String> {
        self.traces_page.as_deref().map(|page| trace_link(page, trace_id))
    }

    fn fault_report(&self, fault: &FaultRecord) -> FaultReport {
        fault_report(self, fault, self.proofs.get(&fault.id).unwrap_or(&FaultProof::default()))
    }
}

/// The page of a trace in Jaeger, below the base URL of its pages.
pub fn trace_link(page: &str, trace_id: &str) -> String {
    format!("{}/trace/{trace_id}", page.trim_end_matches('/'))
}

fn fault_report(evidence: &Evidence, fault: &FaultRecord, proof: &FaultProof) -> FaultReport {
    let seconds = |at_ns: u64| rounded(at_ns as f64 / 1e9);
    let mut served_by: BTreeMap<String, u64> = BTreeMap::new();
    for name in proof.named.iter().filter_map(|named| named.answered_by.clone()) {
        *served_by.entry(name).or_default() += 1;
    }
    FaultReport {
        id: fault.id,
        kind: fault.kind.name().to_owned(),
        target: fault.target.clone(),
        instance_id: fault.instance_id.clone(),
        at: seconds(fault.at_ns),
        healed_at: fault.healed_ns.map(seconds),
        detected_ms: fault.detected_ns.map(|at| rounded(at.saturating_sub(fault.at_ns) as f64 / 1e6)),
        requests_in_flight: proof.in_flight,
        failed: proof.failed,
        served_by,
        waited_ms_max: rounded(proof.named.iter().map(|named| named.waited_ms).fold(0.0, f64::max)),
        trace_ids: proof.named.iter().map(|named| named.trace_id.clone()).collect(),
        trace_id: fault.trace_id.clone(),
        trace_url: evidence.trace_url(&fault.trace_id),
        requests: proof.named.iter().map(|named| fault_request(evidence, named)).collect(),
        not_injected: fault.injected.clone().err(),
    }
}

fn fault_request(evidence: &Evidence, named: &crate::trace_check::Named) -> FaultRequest {
    let outcome = match named.end {
        End::Ok => "ok",
        End::Failed => "failed",
        End::Unknown => "unknown",
    };
    FaultRequest {
        trace_id: named.trace_id.clone(),
        trace_url: evidence.trace_url(&named.trace_id),
        f: named.kind.to_owned(),
        key: named.key.clone(),
        outcome: outcome.to_owned(),
        served_by: named.answered_by.clone(),
        ms: rounded(named.waited_ms),
        hops: named.hops,
        attempts: named.attempts,
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
