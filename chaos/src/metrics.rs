//! What the monkey counts, for `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::faults::FaultKind;

/// Injected faults, by kind. Cheap to clone; a default one is counted and shown nowhere.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    faults: Family<KindLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// The metric's name; OpenMetrics adds `_total`.
pub const FAULTS: &str = "everring_chaos_faults";

impl Metrics {
    /// Makes the metric and puts it into `registry`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(FAULTS, "Faults injected", metrics.faults.clone());
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
}
