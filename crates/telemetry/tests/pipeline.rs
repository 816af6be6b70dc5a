//! Spans on their whole way: tracer, OTLP exporter, HTTP, sink, Jaeger's JSON, query client.

mod common;

use std::time::{Duration, SystemTime};

use actix_web::http::header::{HeaderMap as ActixHeaders, HeaderName, HeaderValue};
use common::{Sink, pipeline, shut_down, start_sink};
use stdx::TraceContext;
use telemetry::query::{QueryError, Search, TraceQuery, render_waterfall};
use telemetry::sink::Limits;
use telemetry::spans::Builder;
use telemetry::{InitError, KeyValue, Pipeline, SpanKind, context, names};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

/// What arrives at the other side of a hop that carries `context` in its headers.
fn across_a_hop(context: TraceContext) -> ActixHeaders {
    let mut sent = reqwest::header::HeaderMap::new();
    context::inject(context, &mut sent);
    let mut arrived = ActixHeaders::new();
    for (name, value) in &sent {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).expect("a name");
        arrived.insert(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    arrived
}

fn count(text: &str, metric: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{metric} is not in {text}"))
}

#[tokio::test]
async fn one_request_is_one_trace_across_two_services() {
    let Sink { url, query, sink } = start_sink(Limits::default());
    // Built inside an async runtime on purpose: services do.
    let gateway = pipeline("everring-gateway", "g1-4711", &url);
    let node = pipeline("everring-storage-node", "n3-2", &url);

    let attributes = [
        KeyValue::new(names::DB_COLLECTION_NAME, "records"),
        KeyValue::new(names::ATTEMPT, 2),
        KeyValue::new(names::HEDGE, true),
    ];
    let outer =
        Builder::new(SpanKind::Server, "PUT /v1/kv/{bucket}/{key}", TraceContext::NONE).start_with(gateway.tracer());
    let fault = TraceContext { trace_id: 7, span_id: 8, flags: 1 };
    let mut attempt = Builder::new(SpanKind::Client, names::db_span("PUT", "records"), outer.context())
        .attributes(attributes)
        .link(fault, vec![])
        .start_with(gateway.tracer());
    let arrived = context::extract(&across_a_hop(attempt.context()));
    assert_eq!(arrived, attempt.context());

    // The other service takes the context into a `tracing` span, by its own layer.
    let subscriber = tracing_subscriber::registry().with(node.layer());
    let peers_context = tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("coordinate", otel.name = "coordinate PUT", otel.kind = "server");
        assert!(context::set_parent(&span, arrived));
        let _entered = span.enter();
        assert_eq!(context::current().trace_id, arrived.trace_id);
        let accept = Builder::new(SpanKind::Client, names::ACCEPT, context::current()).start_with(node.tracer());
        accept.context()
    });
    attempt.fail("reset");
    let trace_id = attempt.context().trace_id;
    attempt.end();
    outer.end();
    shut_down(vec![gateway, node]).await;

    let trace = query.trace(trace_id).await.expect("an answer").expect("the trace");
    assert_eq!(trace.spans.len(), 4, "{trace:?}");
    let root = trace.root().expect("a root");
    assert_eq!((root.name.as_str(), root.kind.as_str(), root.error), ("PUT /v1/kv/{bucket}/{key}", "server", false));
    let attempt = trace.children(root).next().expect("the attempt");
    assert_eq!((attempt.name.as_str(), attempt.kind.as_str(), attempt.error), ("PUT records", "client", true));
    assert_eq!((attempt.service.as_str(), attempt.instance.as_str()), ("everring-gateway", "g1-4711"));
    assert_eq!(attempt.tag(names::ATTEMPT), Some("2"));
    assert_eq!(attempt.tag(names::HEDGE), Some("true"));
    assert_eq!(attempt.tag(names::ERROR_TYPE), Some("reset"));
    assert_eq!(attempt.refs, [(fault.trace_id, fault.span_id)]);
    let coordinate = trace.children(attempt).next().expect("the other service's span");
    assert_eq!((coordinate.name.as_str(), coordinate.kind.as_str()), ("coordinate PUT", "server"));
    assert_eq!((coordinate.service.as_str(), coordinate.instance.as_str()), ("everring-storage-node", "n3-2"));
    assert_eq!(trace.children(coordinate).next().map(|span| span.id), Some(peers_context.span_id));

    assert_eq!(query.services().await.expect("services"), ["everring-gateway", "everring-storage-node"]);
    let search = Search::new("everring-gateway", 0, u64::MAX / 2).tag(names::ATTEMPT, 2).tag("error", true);
    let found = query.find(&search).await.expect("an answer");
    assert_eq!(found, std::slice::from_ref(&trace));
    let by_process = Search::new("everring-storage-node", 0, u64::MAX / 2).tag("service.instance.id", "n3-2");
    assert_eq!(query.find(&by_process).await.expect("an answer").len(), 1);
    assert!(query.find(&search.tag(names::ATTEMPT, 1)).await.expect("an answer").is_empty());
    assert_eq!(sink.counts().spans, 4);
    assert!(render_waterfall(&trace, 100).contains("  ! PUT records > [reset]"), "{}", render_waterfall(&trace, 100));
}

#[tokio::test]
async fn a_future_carries_its_trace_across_awaits_and_beats_no_inner_span() {
    let without_export = Pipeline::build(&common::settings("everring-test", "t1", None)).expect("a pipeline");
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(without_export.layer()));
    let given = TraceContext { trace_id: 5, span_id: 6, flags: 1 };
    context::within(given, async {
        tokio::task::yield_now().await;
        assert_eq!(context::current(), given);
        let inner = tracing::debug_span!("inner");
        let inside = async { context::current() }.instrument(inner).await;
        assert_eq!(inside.trace_id, given.trace_id);
        assert_ne!(inside.span_id, given.span_id);
        assert_eq!(context::current(), given);
    })
    .await;
    assert_eq!(context::current(), TraceContext::NONE);
}

#[tokio::test]
async fn explicit_times_are_kept() {
    let Sink { url, query, .. } = start_sink(Limits::default());
    let verifier = pipeline("everring-verifier", "v1", &url);
    let began = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_123);
    let span = Builder::new(SpanKind::Client, "GET", TraceContext::NONE).started_at(began);
    let span = span.start_with(verifier.tracer());
    let trace_id = span.context().trace_id;
    span.end_at(began + Duration::from_micros(250));
    shut_down(vec![verifier]).await;
    let trace = query.trace(trace_id).await.expect("an answer").expect("the trace");
    assert_eq!((trace.spans[0].start_us, trace.spans[0].duration_us), (1_700_000_000_000_123, 250));
}

#[tokio::test]
async fn without_an_endpoint_ids_are_valid_and_nothing_is_sent() {
    let pipeline = Pipeline::build(&common::settings("everring-test", "t1", None)).expect("a pipeline");
    let span = Builder::new(SpanKind::Server, "GET", TraceContext::NONE).start_with(pipeline.tracer());
    let context = span.context();
    assert!(context.is_some() && context.span_id != 0 && context.flags & 1 == 1);
    drop(span);
    assert!(pipeline.shutdown());
    // Before `init` too, so that a shell can be tested by itself.
    assert!(telemetry::spans::start(SpanKind::Client, names::QUERY, TraceContext::NONE, []).context().is_some());
}

#[tokio::test]
async fn the_sink_evicts_whole_traces_and_says_so() {
    let Sink { url, query, sink } = start_sink(Limits { spans_max: 100, ..Limits::default() });
    let service = pipeline("everring-gateway", "g1", &url);
    let mut ids = Vec::new();
    for _ in 0..60 {
        let root = Builder::new(SpanKind::Server, "GET", TraceContext::NONE).start_with(service.tracer());
        let child = Builder::new(SpanKind::Client, "GET records", root.context()).start_with(service.tracer());
        ids.push(root.context().trace_id);
        child.end();
        root.end();
    }
    shut_down(vec![service]).await;
    assert_eq!((sink.counts().spans, sink.counts().evicted_traces), (100, 10));
    assert_eq!(query.trace(ids[9]).await.expect("an answer"), None);
    assert_eq!(query.trace(ids[10]).await.expect("an answer").expect("held").spans.len(), 2);
    let metrics = reqwest::get(format!("{url}/metrics")).await.expect("metrics").text().await.expect("text");
    assert_eq!(count(&metrics, "everring_sink_spans_held"), 100);
    assert_eq!(count(&metrics, "everring_sink_spans_evicted_total"), 20);
    assert_eq!(count(&metrics, "everring_sink_traces_evicted_total"), 10);
}

#[tokio::test]
async fn the_sink_refuses_what_it_cannot_read() {
    let Sink { url, query, sink } = start_sink(Limits::default());
    let http = reqwest::Client::new();
    let post = |kind: &'static str, body: &'static str| {
        http.post(format!("{url}/v1/traces")).header("content-type", kind).body(body).send()
    };
    assert_eq!(post("application/json", "{}").await.expect("an answer").status(), 415);
    assert_eq!(post("application/x-protobuf", "not protobuf").await.expect("an answer").status(), 400);
    assert_eq!(post("application/x-protobuf", "").await.expect("an answer").status(), 200, "an empty request is one");
    let get = |path: &str| http.get(format!("{url}{path}")).send();
    assert_eq!(get("/api/traces").await.expect("an answer").status(), 400);
    assert_eq!(get("/api/traces/xyz").await.expect("an answer").status(), 400);
    assert_eq!(get("/api/traces/1f").await.expect("an answer").status(), 404);
    assert_eq!(get("/livez").await.expect("an answer").status(), 200);
    assert_eq!(query.trace(0x1f).await.expect("an answer"), None);
    let nameless = query.find(&Search::new("", 0, 1)).await;
    assert!(matches!(nameless, Err(QueryError::Refused { status, .. }) if status == 400), "{nameless:?}");
    assert_eq!(sink.counts().spans, 0);
}

#[tokio::test]
async fn a_store_that_is_not_there_is_named() {
    // Port 9 (discard) of loopback: nothing listens there in any test environment.
    let gone = TraceQuery::new("http://127.0.0.1:9").trace(1).await;
    assert!(matches!(&gone, Err(QueryError::Unreachable { url, .. }) if url.contains("127.0.0.1:9")), "{gone:?}");
    for endpoint in ["https://collector:4318", "collector:4318", ""] {
        let refused = Pipeline::build(&common::settings("everring-test", "t1", Some(endpoint)));
        let Err(InitError::Endpoint { why, .. }) = refused else { panic!("{endpoint:?} was taken") };
        assert!(why.contains("http://"), "{why}");
    }
}
