//! The verdict: kept, broken or invalid, with its reasons; as JSON (`api.md`, section 4) and for people.
//!
//! Pure: what was measured goes in. A promise seen broken outweighs everything; a run that could not have seen a break
//! (too few faults, too little load, an undecided check, missing proof) is invalid, never kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::latency::Latencies;

/// The whole verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// The judgement.
    pub verdict: Judgement,
    /// Why, as sentences.
    pub because: Vec<String>,
    /// Names the run in spans and Events; empty if it never began.
    pub run_id: String,
    /// The seed that replays the run's faults and requests.
    pub seed: u64,
    /// How long traffic ran, in seconds.
    pub duration_s: f64,
    /// Every fault.
    pub faults: Vec<FaultReport>,
    /// Requests of the recorded traffic.
    pub requests: Requests,
    /// The longest time without a success around a fault, by kind of request, in milliseconds, at a resolution of 100.
    pub downtime_ms: Downtimes,
    /// When that was, and whenever else: each time without a success, of all kinds, the longest first; at most
    /// [`GAPS_MAX`].
    pub gaps: Vec<DownReport>,
    /// How long clients waited.
    pub latency_ms: Latencies,
    /// Acknowledged writes.
    pub acked_writes: AckedWrites,
    /// The checks of the histories.
    pub checks: Vec<Check>,
    /// The traces.
    pub traces: Traces,
    /// The read-increment-write loops that measured the downtime.
    pub ticks: TickReport,
    /// Faults without a request in flight on their victim's arcs.
    pub kills_without_requests: u64,
    /// What else a reader should know; nothing here changes the judgement.
    pub notes: Vec<String>,
    /// What the clients of locks saw, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks: Option<LockReport>,
    /// Where the history is, if it was written to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
    /// Where the history of locks is, if it was written to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_history: Option<String>,
    /// Where the histories of sets and of counters are, if they were written to files.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub merge_histories: BTreeMap<String, String>,
    /// The replay's own figures, if this was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayReport>,
    /// One request that survived a fault, drawn for a terminal. In the text, not in the JSON.
    #[serde(skip)]
    pub waterfall: Option<String>,
}

/// The judgement itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Judgement {
    /// Every promise that was looked at was kept.
    Kept,
    /// A promise was seen broken.
    Broken,
    /// The run proves nothing.
    #[default]
    Invalid,
}

impl Judgement {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Judgement::Kept => "kept",
            Judgement::Broken => "broken",
            Judgement::Invalid => "invalid",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FaultReport {
    /// Its number, from 1.
    pub id: u64,
    /// `kill` or `pause`.
    pub kind: String,
    /// The victim's name.
    pub target: String,
    /// The victim's `service.instance.id`.
    pub instance_id: String,
    /// When, in seconds since the run began.
    pub at: f64,
    /// When the victim was ready again, in seconds since the run began; null if it was not seen to be.
    pub healed_at: Option<f64>,
    /// After how many milliseconds it was seen that the victim does not answer; null if that was not seen.
    pub detected_ms: Option<f64>,
    /// Requests in flight on the victim's arcs.
    pub requests_in_flight: u64,
    /// Of these, not answered in time.
    pub failed: u64,
    /// Which replicas answered them, and how many each.
    pub served_by: BTreeMap<String, u64>,
    /// The longest that one of them waited, in milliseconds.
    pub waited_ms_max: f64,
    /// Their traces: those that were looked at.
    pub trace_ids: Vec<String>,
    /// The trace of the fault itself.
    pub trace_id: String,
    /// Where a person sees that trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_url: Option<String>,
    /// The requests that were looked at, one by one.
    pub requests: Vec<FaultRequest>,
    /// Why it was not injected, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_injected: Option<String>,
}

/// One request that a fault met.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FaultRequest {
    /// Its trace.
    pub trace_id: String,
    /// Where a person sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_url: Option<String>,
    /// `read`, `write`, `cas` or `delete`.
    pub f: String,
    /// Its key.
    pub key: String,
    /// `ok`, `failed` or `unknown`.
    pub outcome: String,
    /// The replica that coordinated the answer.
    pub served_by: Option<String>,
    /// How long its client waited, in milliseconds.
    pub ms: f64,
    /// Hops to the coordinator.
    pub hops: Option<u32>,
    /// Attempts that the gateway made at replicas.
    pub attempts: Option<u32>,
}

/// Counts of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// All.
    pub total: u64,
    /// Answered in time.
    pub ok: u64,
    /// Surely not done, or answered after the deadline.
    pub failed: u64,
    /// Writes with an unknown outcome.
    pub unknown: u64,
}

/// Times without a success that a verdict names.
pub const GAPS_MAX: usize = 32;
/// Of these, the ones that people are shown.
const GAPS_SHOWN: usize = 8;

/// A time without a success of one kind of request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DownReport {
    /// The kind of request, in words.
    pub kind: String,
    /// When it began, in seconds since the run began.
    pub at: f64,
    /// How long it was, in milliseconds, at a resolution of 100.
    pub ms: u64,
    /// The fault that was in force, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<u64>,
}

/// The longest downtimes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Downtimes {
    /// The worse of the two below.
    pub strict: u64,
    /// Strict reads.
    pub strict_read: u64,
    /// Strict writes.
    pub strict_write: u64,
    /// Reads at level sequential and the writes of their sessions, the worse of the two; null if there were none.
    pub sequential: Option<u64>,
    /// Reads and writes at level causal, the worse of the two.
    pub causal: Option<u64>,
    /// Reads and writes at level eventual.
    pub eventual: Option<u64>,
    /// Calls on a lock.
    pub lock: u64,
    /// The same measure away from every fault, the worst of all kinds: how long this machine alone keeps
    /// requests waiting. Not more than 0 where it has time for the fleet.
    pub steady: u64,
}

/// Acknowledged writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AckedWrites {
    /// All.
    pub total: u64,
    /// Missing in the final read of every key.
    pub lost: u64,
    /// The same by what they are: registers by the level of their traffic, sets, counters.
    pub by: BTreeMap<String, Acked>,
}

/// Acknowledged writes of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Acked {
    /// All.
    pub total: u64,
    /// At level sequential and above: missing in a strict read at the end. Below: neither there, nor is what took their
    /// place, once all has settled. Of counters as many as must be missing at least.
    pub lost: u64,
    /// The first few keys that lack some, as sentences with trace ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

/// One check of a history.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// The level checked.
    pub level: String,
    /// Operations looked at.
    pub ops: u64,
    /// Whether every key was decided.
    pub decided: bool,
    /// Keys whose history nothing explains.
    pub violations: u64,
    /// The first few violations, as sentences with their trace ids.
    pub examples: Vec<String>,
}

/// What came of the traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traces {
    /// Traces looked at.
    pub checked: u64,
    /// Of these, with every span that can be expected.
    pub complete: u64,
    /// Requests whose trace disagrees with the history.
    pub contradicting: u64,
}

/// What the read-increment-write loops saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TickReport {
    /// Answered reads and writes.
    pub answered: u64,
    /// Not answered in time, and surely not done.
    pub failed: u64,
    /// Writes with an unknown outcome.
    pub unknown: u64,
    /// Counters that did not read as they were written.
    pub wrong: u64,
}

/// What the clients of locks saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LockReport {
    /// Locks granted.
    pub granted: u64,
    /// Calls that found another holding the lock.
    pub held: u64,
    /// Leases renewed.
    pub renewed: u64,
    /// Renewals that came too late.
    pub lost: u64,
    /// Writes that were let through under their token.
    pub writes: u64,
    /// Writes that were refused, since a greater token had been seen.
    pub fenced_off: u64,
}

/// A replay's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReplayReport {
    /// Requests played.
    pub played: u64,
    /// Requests in the trace.
    pub of: u64,
    /// Requests a second.
    pub per_second: f64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Reads that found a value, of all reads.
    pub hit_ratio: f64,
    /// Latency of reads and of writes, in milliseconds.
    pub read_ms: crate::latency::Quantiles,
    /// Latency of writes, in milliseconds.
    pub write_ms: crate::latency::Quantiles,
    /// Bodies that were not what was written under their name.
    pub corrupt: u64,
}

/// What a run must have had to prove anything, and what it may show at most.
#[derive(Clone, Copy, Debug)]
pub struct Demands {
    /// Faults injected at least.
    pub faults_min: u64,
    /// Requests made at least.
    pub requests_min: u64,
    /// Requests without an answer in time at most. Promise P3 says 0.
    pub failed_max: u64,
    /// Downtime at most. Promise P3 says 0.
    pub downtime_ms_max: u64,
    /// Whether traces must have been checked.
    pub traces: bool,
}

/// What else decides, and has no place in the report.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// What made the run void: no steady state before, a history that could not be written, an unreadable key.
    pub void: Vec<String>,
    /// Reads that missed an acknowledged write, seen while the run went on.
    pub stale_reads: u64,
    /// Faults whose requests have no complete trace at all.
    pub faults_without_traces: u64,
}

impl Verdict {
    /// Judges what has been filled in: sets `verdict` and `because`.
    pub fn judge(&mut self, demands: &Demands, circumstances: &Circumstances) {
        let broken = self.broken(demands, circumstances);
        let invalid = self.invalid(demands, circumstances);
        self.verdict = match (broken.is_empty(), invalid.is_empty()) {
            (false, _) => Judgement::Broken,
            (true, false) => Judgement::Invalid,
            (true, true) => Judgement::Kept,
        };
        self.because = broken;
        self.because.extend(invalid);
        if self.because.is_empty() {
            self.because = self.kept_because();
        }
    }

    /// 0 kept, 1 broken, 3 invalid; 2 is for a call that could not be understood.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Judgement::Kept => 0,
            Judgement::Broken => 1,
            Judgement::Invalid => 3,
        }
    }

    /// The report as it is written to a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("text, numbers and lists of them are always JSON")
    }

    /// Faults that were really injected.
    pub fn injected(&self) -> u64 {
        self.faults.iter().filter(|fault| fault.not_injected.is_none()).count() as u64
    }

    fn broken(&self, demands: &Demands, circumstances: &Circumstances) -> Vec<String> {
        let mut because = Vec::new();
        let mut say = |broken: bool, what: String| {
            if broken {
                because.push(what);
            }
        };
        let AckedWrites { total, lost, by } = &self.acked_writes;
        say(*lost > 0, format!("{lost} of {total} acknowledged writes are lost"));
        for (name, Acked { total, lost, examples }) in by {
            let example = examples.first().map(|example| format!(", such as {example}")).unwrap_or_default();
            say(*lost > 0, format!("of these {lost} of {total} ({name}){example}"));
        }
        for check in &self.checks {
            let Check { name, level, violations, examples, .. } = check;
            let example = examples.first().map(|example| format!(", such as {example}")).unwrap_or_default();
            say(*violations > 0, format!("{violations} keys violate level {level} ({name}){example}"));
        }
        let stale = circumstances.stale_reads;
        say(stale > 0, format!("{stale} reads missed a write that had been acknowledged before"));
        say(
            self.ticks.wrong > 0,
            format!("{} times a counter did not read as it was written, or a lock erred", self.ticks.wrong),
        );
        if let Some(replay) = &self.replay {
            say(replay.corrupt > 0, format!("{} bodies came back other than they were written", replay.corrupt));
        }
        let unanswered = self.requests.failed + self.requests.unknown + self.ticks.failed + self.ticks.unknown;
        say(
            unanswered > demands.failed_max,
            format!("{unanswered} requests were not answered in time ({} may be)", demands.failed_max),
        );
        // A fault is blamed for what the machine does not do without it.
        let Downtimes { strict, sequential, causal, eventual, lock, steady, .. } = self.downtime_ms;
        let strict = strict.max(lock);
        let without = if steady > 0 { format!(", and without a fault for {steady} ms at most") } else { String::new() };
        let below = [("sequential", sequential), ("causal", causal), ("eventual", eventual)];
        for (level, down) in [("strict", Some(strict))].into_iter().chain(below) {
            let down = down.unwrap_or(0);
            say(
                down > demands.downtime_ms_max.max(steady),
                format!("for {down} ms around a fault no {level} request of a kind succeeded{without}"),
            );
        }
        let contradicting = self.traces.contradicting;
        say(contradicting > 0, format!("{contradicting} requests have a trace that contradicts the history"));
        because
    }

    fn invalid(&self, demands: &Demands, circumstances: &Circumstances) -> Vec<String> {
        let mut because = circumstances.void.clone();
        let mut say = |invalid: bool, what: String| {
            if invalid {
                because.push(what);
            }
        };
        let faults = self.injected();
        say(
            faults < demands.faults_min,
            format!("only {faults} faults were injected, and {} are needed", demands.faults_min),
        );
        let requests = self.requests.total;
        say(
            requests < demands.requests_min,
            format!("only {requests} requests were made, and {} are needed", demands.requests_min),
        );
        for check in self.checks.iter().filter(|check| !check.decided) {
            say(true, format!("the check {} was not decided in its time", check.name));
        }
        for check in self.checks.iter().filter(|check| check.ops == 0) {
            say(true, format!("the check {} had nothing to judge", check.name));
        }
        say(self.checks.is_empty(), "no history was checked".to_owned());
        let unmet = self.kills_without_requests;
        say(unmet > 0, format!("{unmet} faults met no request, so they prove nothing"));
        let untraced = circumstances.faults_without_traces;
        say(demands.traces && untraced > 0, format!("for {untraced} faults no complete trace of a request came in"));
        because
    }

    fn kept_because(&self) -> Vec<String> {
        let Requests { total, .. } = self.requests;
        vec![
            format!("{} faults, and each of {total} requests was answered in time", self.injected()),
            format!("all {} acknowledged writes are there", self.acked_writes.total),
            "every history is explained at its level".to_owned(),
            match self.traces.checked {
                0 => "no trace was asked for, so none contradicts the history".to_owned(),
                checked => format!("{checked} traces agree with the history"),
            },
        ]
    }

    /// The verdict for people, without colours.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let word = match self.verdict {
            Judgement::Kept => "KEPT - Everring kept its word",
            Judgement::Broken => "BROKEN - Everring did not keep its word",
            Judgement::Invalid => "INVALID - this run proves nothing",
        };
        writeln!(out, "verdict    {word}")?;
        for reason in &self.because {
            writeln!(out, "           - {reason}")?;
        }
        writeln!(out, "run        {:.1} s, seed {}", self.duration_s, self.seed)?;
        let answered: u64 = self.faults.iter().map(|fault| fault.requests_in_flight).sum();
        writeln!(out, "faults     {} injected; {answered} requests were in flight on their arcs", self.injected())?;
        let Requests { total, ok, failed, unknown } = self.requests;
        writeln!(out, "requests   {total}: {ok} ok, {failed} failed, {unknown} unknown")?;
        let Downtimes { strict_read, strict_write, sequential, causal, eventual, lock, steady, .. } = self.downtime_ms;
        write!(out, "downtime   strict reads {strict_read} ms, strict writes {strict_write} ms")?;
        if self.locks.is_some() {
            write!(out, ", calls on locks {lock} ms")?;
        }
        for (level, down) in [("sequential", sequential), ("causal", causal), ("eventual", eventual)] {
            if let Some(down) = down {
                write!(out, ", {level} {down} ms")?;
            }
        }
        write!(out, " (100 ms windows)")?;
        match steady {
            0 => writeln!(out)?,
            steady => writeln!(out, "; {steady} ms without a fault: this machine is too busy to tell less apart")?,
        }
        for DownReport { kind, at, ms, fault } in self.gaps.iter().take(GAPS_SHOWN) {
            let fault = fault.map_or("without a fault".to_owned(), |fault| format!("fault {fault}"));
            writeln!(out, "           {ms} ms at {at:.1} s: {kind}, {fault}")?;
        }
        let Latencies { steady, fault, worst_tick_ratio } = self.latency_ms;
        writeln!(
            out,
            "latency    p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; under faults p50 {:.1}, p99 {:.1}, max {:.1}; worst \
             second {worst_tick_ratio:.1} x the median's p99",
            steady.p50, steady.p99, steady.max, fault.p50, fault.p99, fault.max
        )?;
        let AckedWrites { total, lost, by } = &self.acked_writes;
        let by: Vec<String> = by.iter().map(|(name, of)| format!("{name} {}", of.total)).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        writeln!(out, "writes     {total} acknowledged, {lost} lost{by}")?;
        if let Some(LockReport { granted, held, renewed, lost, writes, fenced_off }) = self.locks {
            writeln!(
                out,
                "locks      {granted} granted, {held} held by others, {renewed} renewed, {lost} lost; {writes} writes \
                 under them, {fenced_off} fenced off"
            )?;
        }
        for Check { name, level, ops, decided, violations, .. } in &self.checks {
            let decided = if *decided { "decided" } else { "NOT decided" };
            writeln!(out, "check      {name}, {level}: {ops} operations, {decided}, {violations} violations")?;
        }
        let Traces { checked, complete, contradicting } = self.traces;
        writeln!(out, "traces     {checked} checked, {complete} complete, {contradicting} contradicting")?;
        self.write_replay(out)?;
        self.write_faults(out)?;
        for note in &self.notes {
            writeln!(out, "note       {note}")?;
        }
        if let Some(waterfall) = &self.waterfall {
            writeln!(out, "\nA request that went on although the first replica it asked was killed:\n\n{waterfall}")?;
        }
        Ok(())
    }

    fn write_replay(&self, out: &mut String) -> std::fmt::Result {
        let Some(replay) = &self.replay else { return Ok(()) };
        writeln!(
            out,
            "replay     {} of {} requests, {:.0} a second, hit ratio {:.3}; {:.1} MiB written, {:.1} MiB read",
            replay.played,
            replay.of,
            replay.per_second,
            replay.hit_ratio,
            replay.bytes_written as f64 / MIB,
            replay.bytes_read as f64 / MIB,
        )?;
        writeln!(
            out,
            "           reads p50 {:.1} ms, p99 {:.1} ms; writes p50 {:.1} ms, p99 {:.1} ms",
            replay.read_ms.p50, replay.read_ms.p99, replay.write_ms.p50, replay.write_ms.p99
        )
    }

    fn write_faults(&self, out: &mut String) -> std::fmt::Result {
        for fault in self.faults.iter().take(FAULTS_SHOWN_MAX) {
            let by: Vec<String> = fault.served_by.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let healed =
                fault.healed_at.map_or("not back".to_owned(), |at| format!("back after {:.1} s", at - fault.at));
            writeln!(
                out,
                "  {:>3} {} {} at {:>6.1} s, {healed}: {} in flight, {} failed, answered by {}, waited <= {:.1} ms",
                fault.id,
                fault.kind,
                fault.target,
                fault.at,
                fault.requests_in_flight,
                fault.failed,
                if by.is_empty() { "nobody".to_owned() } else { by.join(", ") },
                fault.waited_ms_max,
            )?;
        }
        if self.faults.len() > FAULTS_SHOWN_MAX {
            writeln!(out, "      and {} more in the report", self.faults.len() - FAULTS_SHOWN_MAX)?;
        }
        Ok(())
    }
}

const MIB: f64 = 1024.0 * 1024.0;
/// Faults listed one by one in the text; the JSON has all.
const FAULTS_SHOWN_MAX: usize = 40;

#[cfg(test)]
#[path = "verdict_test.rs"]
mod tests;
