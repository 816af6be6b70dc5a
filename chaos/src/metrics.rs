//! What the monkey and the verifier count, for `/metrics`.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use telemetry::names;

use crate::faults::FaultKind;
use crate::verdict::{Judgement, Verdict};

/// The counts. Cheap to clone; default ones are counted and shown nowhere.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    faults: Family<KindLabel, Counter>,
    runs: Family<VerdictLabel, Counter>,
    requests: Family<OutcomeLabel, Counter>,
    lost_writes: Counter,
    last_verdict: Gauge<f64, AtomicU64>,
    acting: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl Metrics {
    /// Makes the metrics and puts them into `registry`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(names::CHAOS_FAULTS, "Faults injected", metrics.faults.clone());
        registry.register(names::CHAOS_RUNS, "Chaos runs that have ended", metrics.runs.clone());
        registry.register(names::CHAOS_REQUESTS, "Requests of the verifier in ended runs", metrics.requests.clone());
        registry.register(
            names::CHAOS_LOST_WRITES,
            "Acknowledged writes that were found missing",
            metrics.lost_writes.clone(),
        );
        registry.register_with_unit(
            names::CHAOS_LAST_VERDICT,
            "When the last run ended, in seconds since 1970; before the first, when the process began",
            Unit::Seconds,
            metrics.last_verdict.clone(),
        );
        registry.register(names::CHAOS_ACTING, "1 when this monkey may act", metrics.acting.clone());
        // Shown from the start, so that "none" can be told from "not known".
        for judgement in [Judgement::Kept, Judgement::Broken, Judgement::Invalid] {
            drop(metrics.runs.get_or_create(&VerdictLabel { verdict: judgement.name() }));
        }
        for kind in [FaultKind::Kill, FaultKind::Delete, FaultKind::Evict] {
            drop(metrics.faults.get_or_create(&KindLabel { kind: kind.name() }));
        }
        metrics.last_verdict.set(now_s());
        for outcome in ["ok", "failed", "unknown"] {
            drop(metrics.requests.get_or_create(&OutcomeLabel { outcome }));
        }
        metrics
    }

    /// One fault was injected.
    pub fn fault(&self, kind: FaultKind) {
        self.faults.get_or_create(&KindLabel { kind: kind.name() }).inc();
    }

    /// How many of a kind.
    pub fn faults(&self, kind: FaultKind) -> u64 {
        self.faults.get_or_create(&KindLabel { kind: kind.name() }).get()
    }

    /// A run has ended.
    pub fn judged(&self, verdict: &Verdict) {
        self.runs.get_or_create(&VerdictLabel { verdict: verdict.verdict.name() }).inc();
        let requests = &verdict.requests;
        for (outcome, number) in [("ok", requests.ok), ("failed", requests.failed), ("unknown", requests.unknown)] {
            self.requests.get_or_create(&OutcomeLabel { outcome }).inc_by(number);
        }
        self.lost_writes.inc_by(verdict.acked_writes.lost);
        self.last_verdict.set(now_s());
    }

    /// Whether we may act.
    pub fn acting(&self, acting: bool) {
        self.acting.set(i64::from(acting));
    }
}

/// The wall clock, for people.
fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
