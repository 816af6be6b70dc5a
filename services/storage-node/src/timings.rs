//! What a node takes its time for: syncs of its log, and steps of its loop.
//!
//! Both stand in the way of every request, so both are histograms for those who watch, and a slow one is a line in the
//! log for those who ask why.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use telemetry::metrics::latency_histogram;
use telemetry::names;

/// From here on it is worth a line: clients notice, and a disk or a processor that is always so slow is too slow.
const SLOW: Duration = Duration::from_millis(100);

/// How long things took since the start. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Timings {
    syncs: Histogram,
    steps: Histogram,
}

impl Default for Timings {
    fn default() -> Timings {
        Timings { syncs: latency_histogram(), steps: latency_histogram() }
    }
}

impl Timings {
    /// Puts both into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let (syncs, steps) = (self.syncs.clone(), self.steps.clone());
        registry.register_with_unit(names::NODE_LOG_SYNC, "Duration of syncs of the log", Unit::Seconds, syncs);
        registry.register_with_unit(names::NODE_STEP, "Duration of steps of the node's loop", Unit::Seconds, steps);
    }

    /// What was appended took this long to become durable.
    pub fn sync(&self, took: Duration) {
        self.syncs.observe(took.as_secs_f64());
        if took >= SLOW {
            let took_ms = took.as_millis() as u64;
            tracing::warn!(took_ms, "the disk was slow to sync; writes waited for it");
        }
    }

    /// The loop did `what`, and nothing else for so long.
    pub fn step(&self, what: &'static str, took: Duration) {
        self.steps.observe(took.as_secs_f64());
        if took >= SLOW {
            let took_ms = took.as_millis() as u64;
            tracing::warn!(took_ms, what, "the node was busy with one thing; all others waited");
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn what_took_its_time_is_counted_by_how_long() {
        let timings = Timings::default();
        let mut registry = Registry::default();
        timings.register(&mut registry);
        timings.sync(Duration::from_millis(2));
        timings.sync(Duration::from_millis(250));
        timings.step("a message", Duration::from_micros(10));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes all");
        assert!(text.contains("everring_node_log_sync_seconds_count 2"), "{text}");
        assert!(text.contains("everring_node_step_seconds_bucket{le=\"0.000025\"} 1"), "{text}");
    }
}
