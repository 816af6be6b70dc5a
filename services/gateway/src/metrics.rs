//! The gateway's own figures, beside those that every service has.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Figures of one gateway. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Requests in progress.
    pub in_flight: Gauge,
    /// Requests refused because too many were in progress.
    pub shed: Counter,
    attempts: Family<AttemptLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    /// `answered`, or why not: one low-cardinality word.
    result: &'static str,
    /// Whether it was sent because an earlier one was silent.
    hedge: &'static str,
}

impl Metrics {
    /// The figures, registered.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register("everring_gateway_requests_in_flight", "Requests in progress", metrics.in_flight.clone());
        registry.register(
            "everring_gateway_requests_shed",
            "Requests refused because too many were in progress",
            metrics.shed.clone(),
        );
        registry.register(
            "everring_gateway_attempts",
            "Attempts at storage nodes, by how they ended",
            metrics.attempts.clone(),
        );
        metrics
    }

    /// An attempt at a storage node ended.
    pub fn attempt(&self, result: &'static str, hedge: bool) {
        let hedge = if hedge { "true" } else { "false" };
        self.attempts.get_or_create(&AttemptLabels { result, hedge }).inc();
    }
}
