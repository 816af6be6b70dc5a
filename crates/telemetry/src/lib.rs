//! Tracing, logs and metrics of every Everring process: one setup, one set of names, one way to carry a trace on.
//!
//! What it is:
//! - [`init()`]: spans to OTLP/HTTP, log lines with trace ids to standard error;
//! - [`context`]: the trace context in and out of HTTP headers; [`spans`]: spans of protocol messages;
//! - [`names`]: every span, attribute and metric name, held against `observability/conventions.md` by a test;
//! - [`ops`] and [`metrics`]: the endpoints and figures that every service has;
//! - [`sink`]: an in-memory stand-in for Jaeger; [`query`]: a client of either.
//!
//! What it is not: a place for the meaning of a span. Which attempt counts as failed, and which fault hurt which
//! request, is decided where it happens. It names no core and no service.
//!
//! Sources: W3C Trace Context; OpenTelemetry semantic conventions 1.44 (HTTP and database: stable); Jaeger's JSON of
//! `/api/traces`.
//!
//! Invariants:
//! - one OpenTelemetry in the tree: no other crate names `opentelemetry*`;
//! - a filter on log levels never removes a span, so it never orphans one;
//! - without an endpoint spans still have valid ids, and nothing is queued for export;
//! - a full export queue drops and counts spans; it never blocks the caller;
//! - the last thing that a process does is [`Guard::shutdown`].

pub mod context;
mod export;
mod init;
mod log_format;
pub mod metrics;
pub mod names;
pub mod ops;
pub mod query;
pub mod sink;
pub mod spans;

pub use export::{ExportCounts, export_counts};
pub use init::{Guard, InitError, LogFormat, Pipeline, Settings, init};
pub use opentelemetry::trace::SpanKind;
pub use opentelemetry::{KeyValue, Value};
