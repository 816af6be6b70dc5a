//! What only real processes show: `init`, log lines, an orderly end, and a kill.

mod common;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use common::{Sink, pipeline, settings, shut_down, start_sink};
use stdx::TraceContext;
use telemetry::query::render_waterfall;
use telemetry::sink::Limits;
use telemetry::spans::{self, Builder};
use telemetry::{KeyValue, SpanKind, context, names};

const ENDPOINT: &str = "TELEMETRY_TEST_ENDPOINT";
const PARENT: &str = "TELEMETRY_TEST_PARENT";

/// Not a test of its own: the process that the tests below start, which is this program again. It takes a request from
/// `PARENT`, logs a line, calls on (the context goes to standard output), and waits to be told to end.
#[test]
fn child_process() {
    let (Ok(endpoint), Ok(parent)) = (env::var(ENDPOINT), env::var(PARENT)) else { return };
    actix_web::rt::System::new().block_on(async move {
        let guard = telemetry::init(settings("everring-gateway", "g1-1", Some(&endpoint))).expect("init");
        let parent = context::parse_traceparent(&parent).expect("a traceparent");
        let server = spans::start(SpanKind::Server, names::http_span("GET", "/v1/ring"), parent, []);
        let replica = [KeyValue::new(names::REPLICA, "n3")];
        let client = spans::start(SpanKind::Client, names::db_span("GET", "records"), server.context(), replica);
        context::within(server.context(), async { tracing::info!(attempt = 1, "asking a replica") }).await;
        tracing::debug!("filtered out");
        println!("\nCONTEXT {}", client.context());
        let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
        told.expect("no panic").expect("told to end");
        drop((client, server));
        assert!(tokio::task::spawn_blocking(|| guard.shutdown()).await.expect("no panic"));
    });
}

/// Starts the process and gives the context that it sends on.
fn start_child(endpoint: &str, parent: TraceContext) -> (Child, TraceContext) {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "child_process", "--nocapture"])
        .env(ENDPOINT, endpoint)
        .env(PARENT, parent.to_string())
        .env("EVERRING_LOG", "info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let sent = lines.find_map(|line| context::parse_traceparent(line.strip_prefix("CONTEXT ")?));
    // Read to the end: the child's test harness fails when it cannot print its result.
    std::thread::spawn(move || lines.for_each(drop));
    (child, sent.expect("the child sends a context on"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_sends_everything_and_log_lines_carry_the_trace() {
    let Sink { url, query, .. } = start_sink(Limits::default());
    let parent = TraceContext { trace_id: 0xfeed, span_id: 0xbeef, flags: 1 };
    let (mut child, sent) = start_child(&url, parent);
    writeln!(child.stdin.take().expect("piped"), "end").expect("told");
    let mut log = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut log).expect("the log");
    assert!(child.wait().expect("ended").success(), "{log}");

    let trace = query.trace(parent.trace_id).await.expect("an answer").expect("sent before the end");
    assert_eq!(trace.spans.len(), 2, "{trace:?}");
    let server = trace.root().expect("a root");
    assert_eq!((server.parent, server.instance.as_str()), (Some(parent.span_id), "g1-1"));
    assert_eq!(sent.trace_id, parent.trace_id);

    let line = log.lines().find(|line| line.contains("asking a replica")).expect("the line");
    let line: serde_json::Value = serde_json::from_str(line).expect("one JSON object");
    assert_eq!(line["trace_id"], format!("{:032x}", parent.trace_id));
    assert_eq!(line["span_id"], format!("{:016x}", server.id));
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["fields"]["attempt"], 1);
    assert!(!log.contains("filtered out"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_a_gap_that_the_tree_shows() {
    let Sink { url, query, .. } = start_sink(Limits::default());
    let verifier = pipeline("everring-verifier", "v1", &url);
    let node = pipeline("everring-storage-node", "n3-2", &url);
    let outer = Builder::new(SpanKind::Client, "GET /v1/ring", TraceContext::NONE).start_with(verifier.tracer());
    let (mut child, sent) = start_child(&url, outer.context());
    let served = Builder::new(SpanKind::Server, names::coordinate_span("GET"), sent).start_with(node.tracer());
    child.kill().expect("killed");
    child.wait().expect("gone");
    served.end();
    let trace_id = outer.context().trace_id;
    outer.end();
    shut_down(vec![verifier, node]).await;

    let trace = query.trace(trace_id).await.expect("an answer").expect("the trace");
    assert_eq!(trace.spans.len(), 2, "the killed process's spans are absent: {trace:?}");
    assert_eq!(trace.root().map(|root| root.service.as_str()), Some("everring-verifier"));
    let gap = trace.spans.iter().find(|span| trace.parent_is_missing(span)).expect("a gap");
    assert_eq!(gap.parent, Some(sent.span_id));
    let text = render_waterfall(&trace, 100);
    assert!(text.contains("\n? coordinate GET"), "{text}");
}
