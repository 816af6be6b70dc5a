//! The one setup of logs and traces, and its end.

use std::env;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};
use tracing::{Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{EnvFilter, FilterFn, ParseError};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::export::CountingProcessor;
use crate::log_format::LineFormat;
use crate::names;

/// What one process says about itself, and where its spans go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `service.name`, such as `everring-gateway`.
    pub service_name: String,
    /// `service.instance.id`: unlike for every process that ever ran, so a restarted one differs from its predecessor.
    pub instance_id: String,
    /// `service.version`.
    pub version: String,
    /// The OTLP/HTTP collector's base address, such as `http://127.0.0.1:4318`; spans go to `/v1/traces` below it.
    /// Default: none, and spans are not exported.
    pub otlp_endpoint: Option<String>,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Which log lines: a level, or levels by crate (`info,storage_node=debug`). Default: that of the environment, see
    /// [`init`].
    pub log_filter: Option<String>,
}

impl Settings {
    /// With the endpoint of `OTEL_EXPORTER_OTLP_ENDPOINT` and the form of `EVERRING_LOG_FORMAT` (`json` or `pretty`).
    pub fn from_env(
        service_name: impl Into<String>,
        instance_id: impl Into<String>,
        version: impl Into<String>,
    ) -> Settings {
        let log_format = match env::var("EVERRING_LOG_FORMAT").as_deref() {
            Ok("json") => LogFormat::Json,
            Ok("pretty") => LogFormat::Pretty,
            _ => LogFormat::Auto,
        };
        let otlp_endpoint = env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
        Settings {
            service_name: service_name.into(),
            instance_id: instance_id.into(),
            version: version.into(),
            otlp_endpoint,
            log_format,
            log_filter: None,
        }
    }
}

/// The form of log lines on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// Why telemetry could not start. Nothing was installed; the process should say so and end.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The endpoint cannot be used.
    #[error("the OTLP endpoint {endpoint:?} cannot be used: {why}; give one such as http://127.0.0.1:4318")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// The log filter of EVERRING_LOG or RUST_LOG cannot be read.
    #[error("the log filter {filter:?} cannot be read; give one such as info or storage_node=debug,info")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Telemetry was started before in this process: a mistake in the program.
    #[error("telemetry is already started in this process")]
    AlreadyStarted,
}

/// Starts logs and traces for this process. Call it once, first of all, inside or outside an async runtime.
///
/// Log lines go to standard error, filtered by [`Settings::log_filter`], else `EVERRING_LOG`, else `RUST_LOG`, else
/// `info`. Spans are not filtered by level: a span that is missing in the middle would orphan its children.
///
/// # Errors
/// See [`InitError`].
pub fn init(settings: Settings) -> Result<Guard, InitError> {
    let (filter, text) = log_filter(settings.log_filter.clone())?;
    let pipeline = Pipeline::build(&settings)?;
    let terminal = std::io::stderr().is_terminal();
    let format = match settings.log_format {
        LogFormat::Pretty => LineFormat::Pretty,
        LogFormat::Auto if terminal => LineFormat::Pretty,
        LogFormat::Json | LogFormat::Auto => LineFormat::Json,
    };
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal && env::var_os("NO_COLOR").is_none())
        .event_format(format)
        .with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(pipeline.layer()).with(log);
    subscriber.try_init().map_err(|_| InitError::AlreadyStarted)?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    TRACER.set(pipeline.tracer.clone()).map_err(|_| InitError::AlreadyStarted)?;
    tracing::debug!(filter = text, endpoint = settings.otlp_endpoint, "telemetry started");
    Ok(Guard { pipeline })
}

/// Held by `main` until the end of the process.
#[derive(Debug)]
#[must_use = "the last spans are lost if it is not shut down"]
pub struct Guard {
    pipeline: Pipeline,
}

impl Guard {
    /// Sends what is queued and ends the export: the last act of a process, at most 5 s long.
    ///
    /// It blocks, so an async `main` calls it by `spawn_blocking`. Returns false when spans may be lost.
    pub fn shutdown(self) -> bool {
        self.pipeline.shutdown()
    }

    /// Sends what is queued. It blocks. Returns false when the collector did not take it.
    pub fn flush(&self) -> bool {
        self.pipeline.flush()
    }
}

/// The traces of one service: a tracer and its export.
///
/// [`init`] makes the process's own. Programs that stand for more than one service, such as tests, make more.
#[derive(Clone, Debug)]
pub struct Pipeline {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Pipeline {
    /// # Errors
    /// [`InitError::Endpoint`]. A collector that does not answer is no error: it may come later.
    pub fn build(settings: &Settings) -> Result<Pipeline, InitError> {
        let resource = Resource::builder().with_attributes([
            KeyValue::new(names::SERVICE_NAME, settings.service_name.clone()),
            KeyValue::new(names::SERVICE_INSTANCE_ID, settings.instance_id.clone()),
            KeyValue::new(names::SERVICE_VERSION, settings.version.clone()),
            KeyValue::new(names::SERVICE_NAMESPACE, "everring"),
        ]);
        let mut provider = SdkTracerProvider::builder().with_resource(resource.build());
        if let Some(endpoint) = &settings.otlp_endpoint {
            provider = provider.with_span_processor(export_to(endpoint)?);
        }
        let provider = provider.build();
        let tracer = provider.tracer("everring");
        Ok(Pipeline { provider, tracer })
    }

    /// For [`crate::spans::Builder::start_with`].
    pub fn tracer(&self) -> &SdkTracer {
        &self.tracer
    }

    /// The layer that turns `tracing` spans into this service's. It takes every span of ours and no events: a log line
    /// is found by its trace id, and an error that is logged on a survived attempt must not mark the span.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        OpenTelemetryLayer::new(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(FilterFn::new(is_ours))
    }

    /// Sends what is queued. It blocks. Returns false when the collector did not take it.
    pub fn flush(&self) -> bool {
        self.provider.force_flush().is_ok()
    }

    /// Sends what is queued and ends the export, at most 5 s long. It blocks. Returns false when spans may be lost.
    pub fn shutdown(&self) -> bool {
        self.provider.shutdown_with_timeout(SHUTDOWN_MAX).is_ok()
    }
}

/// The process's tracer. Before [`init`] one that exports nothing, so that a core's shell can be tested without it.
pub(crate) fn tracer() -> &'static SdkTracer {
    static UNSET: OnceLock<SdkTracer> = OnceLock::new();
    TRACER.get().unwrap_or_else(|| UNSET.get_or_init(|| SdkTracerProvider::builder().build().tracer("everring")))
}

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

fn log_filter(asked: Option<String>) -> Result<(EnvFilter, String), InitError> {
    let given = |name| env::var(name).ok().filter(|filter| !filter.trim().is_empty());
    let filter = asked.or_else(|| given("EVERRING_LOG")).or_else(|| given("RUST_LOG"));
    let filter = filter.unwrap_or_else(|| "info".to_string());
    match EnvFilter::builder().parse(&filter) {
        Ok(parsed) => Ok((parsed, filter)),
        Err(source) => Err(InitError::Filter { filter, source }),
    }
}

fn export_to(endpoint: &str) -> Result<CountingProcessor, InitError> {
    let refuse = |why: &str| InitError::Endpoint { endpoint: endpoint.to_string(), why: why.to_string() };
    if !endpoint.starts_with("http://") {
        return Err(refuse("it must begin with http:// (TLS is left to a collector beside the process)"));
    }
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    // The blocking HTTP client starts a runtime of its own, which panics inside another one: so it is made on a
    // thread that has none.
    let built = std::thread::spawn(move || {
        opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_endpoint(url)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
    });
    let exporter = built.join().map_err(|_| refuse("its client could not be made"))?;
    let exporter = exporter.map_err(|error| refuse(&error.to_string()))?;
    let queue_max = number_from_env("OTEL_BSP_MAX_QUEUE_SIZE").map_or(QUEUE_MAX, |spans| spans as usize).max(1);
    let delay = number_from_env("OTEL_BSP_SCHEDULE_DELAY").map_or(SCHEDULE_DELAY, Duration::from_millis);
    Ok(CountingProcessor::new(exporter, queue_max, |exporter| {
        let config = BatchConfigBuilder::default().with_max_queue_size(queue_max).with_scheduled_delay(delay);
        BatchSpanProcessor::new(exporter, config.build())
    }))
}

fn number_from_env(name: &str) -> Option<u64> {
    env::var(name).ok()?.trim().parse().ok()
}

/// The libraries' own spans would tell of each poll of each connection, the exporter's among them.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && !LIBRARIES.iter().any(|library| metadata.target().starts_with(library))
}

const LIBRARIES: [&str; 10] =
    ["actix", "h2", "hyper", "mio", "opentelemetry", "reqwest", "rustls", "tokio", "tower", "want"];
/// Short, because a killed process loses what it has not yet sent.
const SCHEDULE_DELAY: Duration = Duration::from_millis(300);
/// Spans that wait for export: some seconds of a busy gateway. When it is full, spans are dropped and counted.
const QUEUE_MAX: usize = 8_192;
/// One export, all its retries together: must fit into [`SHUTDOWN_MAX`].
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// The most that a process that ends waits for the collector.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
