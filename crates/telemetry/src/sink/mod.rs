//! A trace collector and store in memory, for a fleet on a machine without Jaeger.
//!
//! It takes OTLP/HTTP (`POST /v1/traces`, protobuf) and answers the part of Jaeger's query API that the trace check
//! uses, in Jaeger's JSON: so [`crate::query::TraceQuery`] does not know which of the two it asks. It keeps nothing on
//! disk, shows no page, and does not sample. It is bounded by [`Limits`].
//!
//! | call | answer |
//! |---|---|
//! | `POST /v1/traces` | 200; 400 for what is no export request; 415 for another content type |
//! | `GET /api/services` | the services that spans are held of |
//! | `GET /api/traces/{trace id}` | the trace, 404 when it is not held |
//! | `GET /api/traces?service=` | traces, the youngest first, at most 100 or what `limit` says |
//! | `/livez /readyz /metrics /version` | as of every service |
//!
//! The search takes `operation`, `tags`, `start`, `end`, `limit`, `minDuration` and `maxDuration`, as Jaeger's does.

mod jaeger;
mod otlp;
mod pack;
mod store;

use std::fmt;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use actix_web::dev::Server;
use actix_web::web::{self, Bytes, Data, Path, PayloadConfig, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use prost::Message;
use serde_json::Value;

use crate::metrics::encode_counter;
use crate::names;
use crate::ops::{Check, Ops};

pub use store::{Limits, SPANS_OF_A_TRACE_MAX, SinkCounts};

/// The spans held. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct TraceSink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Mutex<store::Store>,
    started: Instant,
}

impl TraceSink {
    /// An empty sink.
    pub fn new(limits: Limits) -> TraceSink {
        TraceSink(Arc::new(Inner { store: Mutex::new(store::Store::new(limits)), started: Instant::now() }))
    }

    /// What it holds and has done.
    pub fn counts(&self) -> SinkCounts {
        self.store().counts()
    }

    fn store(&self) -> MutexGuard<'_, store::Store> {
        // Each change of the store is whole before anything in it can panic: what a panicked thread left is usable.
        let mut store = self.0.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.evict(self.now_ms());
        store
    }

    fn now_ms(&self) -> u64 {
        self.0.started.elapsed().as_millis() as u64
    }
}

/// Serves `sink` on `listener` until the server's handle stops it: `let server = serve(…)?; server.await`.
///
/// It leaves signals to the program around it.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(listener: TcpListener, sink: TraceSink) -> std::io::Result<Server> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(SinkCollector(sink.clone())));
    let ops = Ops::new("everring-trace-sink", env!("CARGO_PKG_VERSION"), registry, {
        let sink = sink.clone();
        move || vec![Check::new("store", true, format!("{} spans held", sink.counts().spans))]
    });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(sink.clone()))
            .app_data(PayloadConfig::new(EXPORT_BYTES_MAX))
            .configure(|config| ops.configure(config))
            .route("/v1/traces", web::post().to(take_export))
            .route("/api/services", web::get().to(services))
            .route("/api/traces", web::get().to(search))
            .route("/api/traces/{trace_id}", web::get().to(trace))
    });
    Ok(server.workers(WORKERS).disable_signals().shutdown_timeout(SHUTDOWN_S).listen(listener)?.run())
}

async fn take_export(request: HttpRequest, body: Bytes, sink: Data<TraceSink>) -> HttpResponse {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with(PROTOBUF) {
        return HttpResponse::UnsupportedMediaType().body(format!(
            "this sink takes {PROTOBUF} only, not {kind:?}; set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf\n"
        ));
    }
    match ExportTraceServiceRequest::decode(body) {
        Ok(export) => {
            let now_ms = sink.now_ms();
            otlp::insert(&mut sink.store(), now_ms, &export);
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            HttpResponse::Ok().content_type(PROTOBUF).body(answer)
        }
        Err(error) => HttpResponse::BadRequest().body(format!("this is no OTLP export request: {error}\n")),
    }
}

async fn services(sink: Data<TraceSink>) -> HttpResponse {
    let services: Value = sink.store().services().into_iter().collect();
    HttpResponse::Ok().json(jaeger::answer(services))
}

async fn search(query: Query<jaeger::SearchQuery>, sink: Data<TraceSink>) -> HttpResponse {
    let search = match query.into_inner().parse() {
        Ok(search) => search,
        Err(why) => return HttpResponse::BadRequest().json(jaeger::refusal(400, &why)),
    };
    let store = sink.store();
    let traces = store.search(&search).into_iter().filter_map(|trace_id| jaeger::trace(&store, trace_id)).collect();
    HttpResponse::Ok().json(jaeger::answer(traces))
}

async fn trace(trace_id: Path<String>, sink: Data<TraceSink>) -> HttpResponse {
    let Some(id) = crate::query::parse_id(&trace_id, 32) else {
        let why = format!("{:?} is no trace id: 1 to 32 hex digits", trace_id.as_str());
        return HttpResponse::BadRequest().json(jaeger::refusal(400, &why));
    };
    match jaeger::trace(&sink.store(), id) {
        Some(trace) => HttpResponse::Ok().json(jaeger::answer(vec![trace].into())),
        None => HttpResponse::NotFound().json(jaeger::refusal(404, "trace not found")),
    }
}

/// Reads the sink's counts at each scrape.
#[derive(Debug)]
struct SinkCollector(TraceSink);

impl Collector for SinkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.counts();
        for (name, help, value) in [
            (names::SINK_SPANS_HELD, "Spans held", counts.spans),
            (names::SINK_BYTES_HELD, "Bytes that the spans held take, as accounted", counts.bytes),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in [
            (names::SINK_SPANS_RECEIVED, "Spans taken in", counts.received),
            (names::SINK_SPANS_EVICTED, "Spans evicted by number or age", counts.evicted_spans),
            (names::SINK_TRACES_EVICTED, "Traces evicted by number or age", counts.evicted_traces),
            (names::SINK_SPANS_REFUSED, "Spans without a valid id, or beyond a bound", counts.refused),
        ] {
            encode_counter(&mut encoder, name, help, value)?;
        }
        Ok(())
    }
}

const PROTOBUF: &str = "application/x-protobuf";
/// One export request; the SDK's batches of 512 spans are far below.
const EXPORT_BYTES_MAX: usize = 16 << 20;
/// One takes spans in while the other searches.
const WORKERS: usize = 2;
/// An exporter's last batch may be under way when the sink is told to end.
const SHUTDOWN_S: u64 = 2;
