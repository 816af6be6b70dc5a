//! Real SIGKILLs on real child processes, real spans through a real collector, one verdict.
//!
//! One test program with one tracer: the two runs follow each other in one test.

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use chaos::{Demands, Judgement, Load, RunConfig, TrafficConfig, Verdict, run_local};
use support::{FakeFleet, Mode, settings};
use telemetry::sink::{Limits, TraceSink, serve};

async fn run(mode: Mode, otlp: &str, report: &std::path::Path) -> Verdict {
    let fleet = FakeFleet::start(mode, Some(otlp.to_owned())).await;
    let config = RunConfig {
        gateways: vec![fleet.gateway()],
        // The fake keeps one value of each key: it has no available buckets.
        levels: None,
        traces_url: Some(otlp.to_owned()),
        duration: Some(Duration::from_secs(4)),
        seed: 5,
        mean: Duration::from_millis(400),
        load: Load::Traffic(TrafficConfig { clients: 8, keys: 16, rate: 250, ..TrafficConfig::default() }),
        report: Some(report.to_owned()),
        // The gateway is a fake: how evenly a busy machine runs it is not what is tested here.
        demands: Some(Demands {
            faults_min: 2,
            requests_min: 100,
            failed_max: 0,
            downtime_ms_max: 2_000,
            traces: true,
        }),
        ..RunConfig::default()
    };
    let control = Arc::clone(&fleet);
    let verdict = run_local(control, config, std::future::pending()).await.expect("the run can begin");
    fleet.end();
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_are_met_by_requests_whose_traces_agree_or_the_verdict_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let otlp = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(serve(listener, TraceSink::new(Limits::default())).expect("the sink can serve"));
    let guard = telemetry::init(settings("everring-verifier", "v-1", Some(otlp.clone()))).expect("started once");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("report.json");

    let verdict = run(Mode::Correct, &otlp, &report).await;
    assert_eq!(verdict.verdict, Judgement::Kept, "{}", verdict.text());
    assert!(verdict.injected() >= 2, "{}", verdict.text());
    for fault in &verdict.faults {
        assert!(fault.requests_in_flight > 0 && fault.healed_at.is_some() && fault.detected_ms.is_some(), "{fault:?}");
        assert!(!fault.served_by.is_empty() && !fault.trace_ids.is_empty(), "{fault:?}");
    }
    assert!(verdict.traces.checked > 0 && verdict.traces.contradicting == 0, "{}", verdict.text());
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&report).expect("it was written")).expect("it is JSON");
    assert_eq!(kept["verdict"], "kept");
    let history = std::fs::File::open(folder.path().join("report.history.jsonl")).expect("it was written");
    let history = history::read(std::io::BufReader::new(history)).expect("it is readable");
    // Two lines a fault: its beginning and its end.
    assert_eq!(history.faults.len() as u64, 2 * verdict.injected());

    let lying = run(Mode::LyingReceipts, &otlp, &report).await;
    assert_eq!(lying.verdict, Judgement::Broken, "{}", lying.text());
    assert!(lying.traces.contradicting > 0, "{}", lying.text());
    tokio::task::spawn_blocking(|| guard.shutdown()).await.expect("it ends");
}
