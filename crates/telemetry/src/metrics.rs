//! What the services' metrics have in common: buckets that fit a key-value store; rate, errors and duration of HTTP.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::{Method, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::context::{extract, parse_traceparent, trace_id_hex};
use crate::{export_counts, names};

/// Upper bounds in seconds: 25 us, 50 us, and so on to 26 s. The usual ones begin at 5 ms, where a store's work ends.
pub fn latency_buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(25e-6, 2.0, 21)
}

/// A histogram of durations in seconds, in [`latency_buckets`].
pub fn latency_histogram() -> Histogram {
    Histogram::new(latency_buckets())
}

/// Registers the counts of exported, dropped and failed spans of this process.
pub fn register_export(registry: &mut Registry) {
    registry.register_collector(Box::new(ExportCollector));
}

/// Duration of HTTP requests, by method, route and status class; the rate and the errors follow from its counts.
///
/// Cheap to clone. `App::new().wrap(metrics.clone())`.
#[derive(Clone, Debug)]
pub struct HttpMetrics(Durations);

type Durations = Family<RequestLabels, HistogramWithExemplars<TraceLabel>, LatencyConstructor>;

impl HttpMetrics {
    /// Makes the metric and puts it into `registry`.
    pub fn register(registry: &mut Registry) -> HttpMetrics {
        let durations = Durations::new_with_constructor(LatencyConstructor);
        registry.register_with_unit(
            names::HTTP_SERVER_REQUEST_DURATION,
            "Duration of HTTP requests",
            Unit::Seconds,
            durations.clone(),
        );
        HttpMetrics(durations)
    }

    fn observe(&self, request: RequestLabels, seconds: f64, trace_id: String) {
        let exemplar = (!trace_id.is_empty()).then_some(TraceLabel { trace_id });
        self.0.get_or_create(&request).observe(seconds, exemplar, None);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabel {
    trace_id: String,
}

#[derive(Clone, Copy, Debug)]
struct LatencyConstructor;

impl MetricConstructor<HistogramWithExemplars<TraceLabel>> for LatencyConstructor {
    fn new_metric(&self) -> HistogramWithExemplars<TraceLabel> {
        HistogramWithExemplars::new(latency_buckets())
    }
}

impl<S, B> Transform<S, ServiceRequest> for HttpMetrics
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Transform = HttpMetricsService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(HttpMetricsService { service: Rc::new(service), metrics: self.clone() }))
    }
}

/// What [`HttpMetrics`] puts around an app.
#[derive(Debug)]
pub struct HttpMetricsService<S> {
    service: Rc<S>,
    metrics: HttpMetrics,
}

impl<S, B> Service<ServiceRequest> for HttpMetricsService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<ServiceResponse<B>, Error>>>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let started = Instant::now();
        let method = method_label(request.method());
        let callers = trace_id_hex(extract(request.headers()));
        let metrics = self.metrics.clone();
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let (status, route, trace_id) = match &answer {
                Ok(answer) => (answer.status(), answer.request().match_pattern(), answered_trace(answer)),
                // The route of a request that ended in an error of the framework is gone with the request.
                Err(error) => (error.as_response_error().status_code(), None, None),
            };
            // One label for all paths that match no route, or a scanner could make any number of them.
            let route = route.unwrap_or_else(|| "unmatched".to_string());
            let labels = RequestLabels { method, route, status: status_class(status) };
            metrics.observe(labels, started.elapsed().as_secs_f64(), trace_id.unwrap_or(callers));
            answer
        })
    }
}

/// The trace that the service says the request was part of, by either of the headers that name it.
fn answered_trace<B>(answer: &ServiceResponse<B>) -> Option<String> {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let named = text("everring-trace-id").filter(|id| id.len() == 32).map(str::to_string);
    named.or_else(|| text("traceparent").and_then(parse_traceparent).map(trace_id_hex))
}

/// The method, with one word for all that are not HTTP's own: it is the client's to choose.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// Reads the process's counts at each scrape.
#[derive(Debug)]
struct ExportCollector;

impl Collector for ExportCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = export_counts();
        for (name, help, value) in [
            (names::TRACE_SPANS_EXPORTED, "Spans that the collector took", counts.exported),
            (names::TRACE_SPANS_DROPPED, "Spans dropped because the export queue was full", counts.dropped),
            (names::TRACE_SPANS_FAILED, "Spans given up because no collector took them", counts.failed),
        ] {
            encode_counter(&mut encoder, name, help, value)?;
        }
        Ok(())
    }
}

/// One counter whose value is kept elsewhere.
pub(crate) fn encode_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let counter = ConstCounter::new(value);
    let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
    counter.encode(metric)
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse, web};
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[actix_web::test]
    async fn requests_are_counted_by_method_route_and_class_with_their_trace() {
        let mut registry = Registry::default();
        let metrics = HttpMetrics::register(&mut registry);
        let app = App::new().wrap(metrics).route("/v1/kv/{bucket}/{key}", web::get().to(HttpResponse::NoContent));
        let app = init_service(app).await;
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for path in ["/v1/kv/records/a", "/v1/kv/records/b", "/nothing/here"] {
            let request = TestRequest::get().uri(path).insert_header(("traceparent", parent));
            call_service(&app, request.to_request()).await;
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        let count = |route: &str, status: &str, count: u32| {
            let labels = format!("method=\"GET\",route=\"{route}\",status=\"{status}\"");
            format!("http_server_request_duration_seconds_count{{{labels}}} {count}\n")
        };
        assert!(text.contains(&count("/v1/kv/{bucket}/{key}", "2xx", 2)), "{text}");
        assert!(text.contains(&count("unmatched", "4xx", 1)), "{text}");
        assert!(text.contains("# {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"}"), "{text}");
        assert!(text.contains("le=\"0.000025\"") || text.contains("le=\"2.5e-5\""), "{text}");
    }

    #[test]
    fn the_export_counts_are_scraped() {
        let mut registry = Registry::default();
        register_export(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        assert!(text.contains("everring_trace_spans_dropped_total "), "{text}");
    }
}
