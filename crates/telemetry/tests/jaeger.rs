//! The query client against a real Jaeger v2: what it answers of our spans is what our sink answers.
//!
//! Runs when EVERRING_JAEGER_BIN names the binary, which `tests/tools/build.sh jaeger` builds and prints the path of.

mod common;

use std::env;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{pipeline, shut_down, start_sink, wait_for};
use stdx::TraceContext;
use telemetry::query::{Search, Span, Trace, TraceQuery, render_waterfall};
use telemetry::sink::Limits;
use telemetry::spans::Builder;
use telemetry::{KeyValue, Pipeline, SpanKind, names};

/// A Jaeger of the test's own, killed at the end of the test however it ends.
struct Jaeger {
    child: Child,
    otlp: String,
    query: TraceQuery,
}

impl Jaeger {
    async fn start(binary: &str) -> Jaeger {
        // Held until all are chosen, so that they differ.
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<u16> = held.iter().map(|port| port.local_addr().expect("bound").port()).collect();
        drop(held);
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../observability/jaeger/local.yaml");
        let child = Command::new(binary)
            .arg("--config")
            .arg(config)
            .env("JAEGER_OTLP_PORT", ports[0].to_string())
            .env("JAEGER_QUERY_PORT", ports[1].to_string())
            .env("JAEGER_QUERY_GRPC_PORT", ports[2].to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("EVERRING_JAEGER_BIN={binary} does not start: {error}"));
        let jaeger = Jaeger {
            child,
            otlp: format!("http://127.0.0.1:{}", ports[0]),
            query: TraceQuery::new(format!("http://127.0.0.1:{}", ports[1])),
        };
        wait_for("Jaeger to answer", || jaeger.query.services()).await;
        wait_for("Jaeger to take spans", || async { TcpStream::connect(("127.0.0.1", ports[0])) }).await;
        jaeger
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request that survived a kill: an attempt that failed, one that a node answered, and a node's span whose parent was
/// lost. Returns the trace id and the number of spans sent.
fn send_a_request(gateway: &Pipeline, node: &Pipeline) -> (u128, usize) {
    let outer = Builder::new(SpanKind::Server, names::http_span("PUT", "/v1/kv/{bucket}/{key}"), TraceContext::NONE)
        .start_with(gateway.tracer());
    let fault = TraceContext { trace_id: 0x77, span_id: 0x88, flags: 1 };
    let attempt = |number: i64, replica: &'static str| {
        Builder::new(SpanKind::Client, names::db_span("PUT", "records"), outer.context())
            .attributes([KeyValue::new(names::ATTEMPT, number), KeyValue::new(names::REPLICA, replica)])
            .link(fault, vec![])
            .start_with(gateway.tracer())
    };
    let mut first = attempt(1, "n3");
    first.fail("reset");
    first.end();
    let second = attempt(2, "n1");
    let served = Builder::new(SpanKind::Server, names::coordinate_span("PUT"), second.context());
    served.attributes([KeyValue::new(names::HEDGE, false)]).start_with(node.tracer()).end();
    let lost = TraceContext { span_id: 0x1234_5678, ..outer.context() };
    Builder::new(SpanKind::Server, names::ACCEPT, lost).start_with(node.tracer()).end();
    second.end();
    (outer.context().trace_id, 5)
}

/// What the two stores must agree on: all but the tags that Jaeger adds of its own accord.
fn comparable(trace: &Trace) -> Vec<Span> {
    let mut spans = trace.spans.clone();
    for span in &mut spans {
        span.tags.retain(|key, _| key.starts_with("everring.") || key == names::ERROR_TYPE);
    }
    spans
}

async fn whole_trace(query: &TraceQuery, trace_id: u128, spans: usize) -> Trace {
    wait_for("all spans of the trace", || async {
        let trace = query.trace(trace_id).await.map_err(|error| format!("{error:?}"))?;
        trace.filter(|trace| trace.spans.len() == spans).ok_or("not all spans yet".to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_jaeger_answers_as_the_sink_does() {
    let Ok(binary) = env::var("EVERRING_JAEGER_BIN") else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let _ = writeln!(std::io::stderr(), "\n{SKIPPED}");
        return;
    };
    let jaeger = Jaeger::start(&binary).await;
    assert_eq!(jaeger.query.trace(0xabcdef).await.expect("an answer"), None, "an unknown trace is none, not an error");
    let (gateway, node) =
        (pipeline("everring-gateway", "g1-7", &jaeger.otlp), pipeline("everring-storage-node", "n1-2", &jaeger.otlp));
    let (trace_id, spans) = send_a_request(&gateway, &node);
    shut_down(vec![gateway, node]).await;
    let trace = whole_trace(&jaeger.query, trace_id, spans).await;

    let root = trace.root().expect("a root");
    assert_eq!((root.service.as_str(), root.instance.as_str(), root.error), ("everring-gateway", "g1-7", false));
    let attempts: Vec<_> = trace.children(root).collect();
    assert_eq!(attempts.len(), 2, "{trace:?}");
    assert_eq!((attempts[0].error, attempts[0].tag(names::ERROR_TYPE)), (true, Some("reset")));
    assert_eq!((attempts[1].error, attempts[1].tag(names::REPLICA)), (false, Some("n1")));
    assert_eq!(attempts[0].refs, [(0x77, 0x88)]);
    assert_eq!(trace.spans.iter().filter(|span| trace.parent_is_missing(span)).count(), 1);
    assert!(render_waterfall(&trace, 100).contains("! PUT records > n3 [reset]"), "{}", render_waterfall(&trace, 100));

    let (start_us, end_us) = (root.start_us - 1_000_000, root.start_us + 60_000_000);
    let search = Search::new("everring-gateway", start_us, end_us).tag(names::ATTEMPT, 2).tag(names::REPLICA, "n1");
    let found = jaeger.query.find(&search).await.expect("an answer");
    assert_eq!(found.iter().map(|trace| trace.id).collect::<Vec<_>>(), [trace_id]);
    for nothing in [
        search.clone().tag(names::REPLICA, "n2"),
        Search { duration_min: Some(Duration::from_secs(60)), ..search.clone() },
        Search { operation: Some("GET records".into()), ..search.clone() },
        Search { start_us: end_us, end_us: end_us + 1, ..search.clone() },
    ] {
        assert!(jaeger.query.find(&nothing).await.expect("an answer").is_empty(), "{nothing:?}");
    }
    let victims = Search::new("everring-storage-node", start_us, end_us).tag(names::SERVICE_INSTANCE_ID, "n1-2");
    assert_eq!(jaeger.query.find(&victims).await.expect("an answer").len(), 1, "a process's tag is found too");
    assert_eq!(jaeger.query.services().await.expect("services"), ["everring-gateway", "everring-storage-node"]);

    same_from_the_sink(&trace).await;
}

/// The same kind of request sent to our sink reads the same, but for ids and times.
async fn same_from_the_sink(jaegers: &Trace) {
    let sink = start_sink(Limits::default());
    let (gateway, node) =
        (pipeline("everring-gateway", "g1-7", &sink.url), pipeline("everring-storage-node", "n1-2", &sink.url));
    let (trace_id, spans) = send_a_request(&gateway, &node);
    shut_down(vec![gateway, node]).await;
    let ours = whole_trace(&sink.query, trace_id, spans).await;
    let timeless = |trace: &Trace| {
        let mut spans: Vec<_> = comparable(trace)
            .into_iter()
            .map(|span| Span { id: 0, parent: span.parent.map(|_| 0), start_us: 0, duration_us: 0, ..span })
            .collect();
        spans.sort_by(|one, other| (&one.name, &one.tags).cmp(&(&other.name, &other.tags)));
        spans
    };
    assert_eq!(timeless(&ours), timeless(jaegers));
}

const SKIPPED: &str = "SKIPPED: a_real_jaeger_answers_as_the_sink_does: no real Jaeger was asked; \
                       set EVERRING_JAEGER_BIN=$(tests/tools/build.sh jaeger) to ask one";
