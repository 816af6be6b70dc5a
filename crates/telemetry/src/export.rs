//! The way of ended spans out of the process, with every one of them accounted for.
//!
//! The batch processor of the SDK drops spans when its queue is full and keeps the number to itself. A trace check that
//! does not know of drops blames the fleet for them. So the queue is bounded here, one step before it, and counted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

/// What became of the spans that this process ended, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportCounts {
    /// Taken by the collector.
    pub exported: u64,
    /// Dropped here because the queue was full.
    pub dropped: u64,
    /// Given up after retries: no collector, or it refused them.
    pub failed: u64,
}

/// The counts of all pipelines of this process together.
pub fn export_counts() -> ExportCounts {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    ExportCounts { exported: read(&EXPORTED), dropped: read(&DROPPED), failed: read(&FAILED) }
}

static EXPORTED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Spans handed to the batch processor and not yet taken out of its queue.
type Queued = Arc<AtomicUsize>;

/// A batch processor that refuses what its queue would drop.
#[derive(Debug)]
pub(crate) struct CountingProcessor {
    inner: BatchSpanProcessor,
    queued: Queued,
    queue_max: usize,
}

impl CountingProcessor {
    /// `batch` makes the processor around the counting exporter; its queue must hold `queue_max` spans.
    pub(crate) fn new<E: SpanExporter + 'static>(
        exporter: E,
        queue_max: usize,
        batch: impl FnOnce(CountingExporter<E>) -> BatchSpanProcessor,
    ) -> CountingProcessor {
        let queued = Queued::default();
        let exporter = CountingExporter { inner: exporter, queued: queued.clone(), failing: AtomicBool::new(false) };
        CountingProcessor { inner: batch(exporter), queued, queue_max }
    }
}

impl SpanProcessor for CountingProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        // The count falls only when a batch is exported, after the queue was emptied of it: so it is never below the
        // queue's length, and the inner processor never has to drop.
        if self.queued.fetch_add(1, Ordering::Relaxed) >= self.queue_max {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter that counts, and says once in the log when the collector stops taking spans.
#[derive(Debug)]
pub(crate) struct CountingExporter<E> {
    inner: E,
    queued: Queued,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let spans = batch.len();
        self.queued.fetch_sub(spans, Ordering::Relaxed);
        async move {
            let outcome = self.inner.export(batch).await;
            match &outcome {
                Ok(()) => {
                    EXPORTED.fetch_add(spans as u64, Ordering::Relaxed);
                    if self.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("the trace collector takes spans again");
                    }
                }
                Err(error) => {
                    FAILED.fetch_add(spans as u64, Ordering::Relaxed);
                    if !self.failing.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, spans, "the trace collector takes no spans; they are let go");
                    }
                }
            }
            outcome
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::{BatchConfigBuilder, SdkTracerProvider};

    use super::*;

    /// Stands still inside an export until it is let go, as a collector that hangs.
    #[derive(Debug)]
    struct Hanging {
        entered: mpsc::SyncSender<usize>,
        go: std::sync::Mutex<mpsc::Receiver<()>>,
    }

    impl SpanExporter for Hanging {
        fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
            let _ = self.entered.send(batch.len());
            let _ = self.go.lock().expect("one thread").recv();
            std::future::ready(Ok(()))
        }
    }

    #[test]
    fn a_hanging_collector_blocks_nobody_and_every_drop_is_counted() {
        let (entered, exports) = mpsc::sync_channel(16);
        let (go, gate) = mpsc::channel();
        let queue_max = 8;
        let processor = CountingProcessor::new(Hanging { entered, go: gate.into() }, queue_max, |exporter| {
            let config = BatchConfigBuilder::default()
                .with_max_queue_size(queue_max)
                .with_max_export_batch_size(1)
                .with_scheduled_delay(Duration::from_millis(1));
            BatchSpanProcessor::new(exporter, config.build())
        });
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        let tracer = provider.tracer("test");
        let before = export_counts();
        drop(tracer.start("the one in flight"));
        assert_eq!(exports.recv(), Ok(1), "the first span is in the exporter's hands");
        for _ in 0..queue_max + 5 {
            drop(tracer.start("queued or dropped"));
        }
        assert_eq!(export_counts().dropped - before.dropped, 5);
        for _ in 0..queue_max + 1 {
            let _ = go.send(());
        }
        assert!(provider.shutdown().is_ok());
        assert_eq!(export_counts().exported - before.exported, queue_max as u64 + 1);
    }
}
