use super::*;

const DEMANDS: Demands = Demands { faults_min: 2, requests_min: 100, failed_max: 0, downtime_ms_max: 0, traces: true };

fn good() -> Verdict {
    let fault = |id| FaultReport { id, kind: "kill".to_owned(), requests_in_flight: 5, ..FaultReport::default() };
    Verdict {
        faults: vec![fault(1), fault(2)],
        requests: Requests { total: 1_000, ok: 1_000, failed: 0, unknown: 0 },
        acked_writes: AckedWrites { total: 400, ..AckedWrites::default() },
        checks: vec![Check {
            name: "registers".to_owned(),
            level: "strict".to_owned(),
            ops: 1_000,
            decided: true,
            ..Check::default()
        }],
        traces: Traces { checked: 10, complete: 10, contradicting: 0 },
        ..Verdict::default()
    }
}

fn judged(change: impl FnOnce(&mut Verdict, &mut Circumstances)) -> Verdict {
    let mut verdict = good();
    let mut circumstances = Circumstances::default();
    change(&mut verdict, &mut circumstances);
    verdict.judge(&DEMANDS, &circumstances);
    verdict
}

#[test]
fn a_good_run_is_kept_and_says_why() {
    let verdict = judged(|_, _| {});
    assert_eq!((verdict.verdict, verdict.exit_code()), (Judgement::Kept, 0), "{:?}", verdict.because);
    assert!(verdict.text().contains("KEPT"));
    assert_eq!(verdict.because.len(), 4);
}

/// A way to spoil a good run.
type Way = fn(&mut Verdict, &mut Circumstances);

#[test]
fn every_broken_promise_is_broken() {
    let ways: [(&str, Way); 13] = [
        ("lost", |verdict, _| verdict.acked_writes.lost = 1),
        ("of these 2 of 9 (sets), such as key \"s\" lacks 2 (traces t1, t2)", |verdict, _| {
            let examples = vec!["key \"s\" lacks 2 (traces t1, t2)".to_owned()];
            verdict.acked_writes.by.insert("sets".to_owned(), Acked { total: 9, lost: 2, examples });
        }),
        ("1 keys violate level eventual (counters), such as it is not the sum (traces t3)", |verdict, _| {
            let examples = vec!["it is not the sum (traces t3)".to_owned()];
            let (name, level) = ("counters".to_owned(), "eventual".to_owned());
            verdict.checks.push(Check { name, level, ops: 3, decided: true, violations: 1, examples });
        }),
        ("violate level strict", |verdict, _| verdict.checks[0].violations = 1),
        ("missed a write", |_, circumstances| circumstances.stale_reads = 1),
        ("did not read as it was written", |verdict, _| verdict.ticks.wrong = 1),
        ("1 requests were not answered", |verdict, _| verdict.requests.failed = 1),
        ("1 requests were not answered", |verdict, _| verdict.requests.unknown = 1),
        ("for 100 ms around a fault", |verdict, _| verdict.downtime_ms.strict = 100),
        ("for 100 ms around a fault no sequential request", |verdict, _| verdict.downtime_ms.sequential = Some(100)),
        ("for 200 ms around a fault no strict request of a kind succeeded, and without", |verdict, _| {
            verdict.downtime_ms = Downtimes { strict: 200, steady: 100, ..Downtimes::default() };
        }),
        ("contradicts the history", |verdict, _| verdict.traces.contradicting = 1),
        ("other than they were written", |verdict, _| {
            verdict.replay = Some(ReplayReport { corrupt: 1, ..ReplayReport::default() });
        }),
    ];
    for (sentence, way) in ways {
        let verdict = judged(way);
        assert_eq!((verdict.verdict, verdict.exit_code()), (Judgement::Broken, 1), "{sentence}");
        assert!(verdict.because.iter().any(|reason| reason.contains(sentence)), "{sentence}: {:?}", verdict.because);
    }
}

#[test]
fn a_fault_is_not_blamed_for_what_the_machine_does_without_it() {
    let verdict = judged(|verdict, _| {
        verdict.downtime_ms = Downtimes { strict: 200, steady: 200, ..Downtimes::default() };
    });
    assert_eq!(verdict.verdict, Judgement::Kept, "{:?}", verdict.because);
    assert!(verdict.text().contains("200 ms without a fault"), "{}", verdict.text());
}

#[test]
fn what_proves_nothing_is_invalid() {
    let ways: [(&str, Way); 8] = [
        ("the check registers had nothing to judge", |verdict, _| verdict.checks[0].ops = 0),
        ("only 1 faults", |verdict, _| verdict.faults.truncate(1)),
        ("only 1 faults", |verdict, _| verdict.faults[0].not_injected = Some("gone".to_owned())),
        ("only 99 requests", |verdict, _| verdict.requests.total = 99),
        ("was not decided", |verdict, _| verdict.checks[0].decided = false),
        ("no history was checked", |verdict, _| verdict.checks.clear()),
        ("met no request", |verdict, _| verdict.kills_without_requests = 1),
        ("no complete trace", |_, circumstances| circumstances.faults_without_traces = 1),
    ];
    for (sentence, way) in ways {
        let verdict = judged(way);
        assert_eq!((verdict.verdict, verdict.exit_code()), (Judgement::Invalid, 3), "{sentence}");
        assert!(verdict.because.iter().any(|reason| reason.contains(sentence)), "{sentence}: {:?}", verdict.because);
    }
    let void = judged(|_, circumstances| circumstances.void.push("the ring was not steady before".to_owned()));
    assert_eq!(void.verdict, Judgement::Invalid);
}

#[test]
fn it_says_when_nothing_succeeded_and_under_which_fault() {
    let verdict = judged(|verdict, _| {
        let gap = |fault| DownReport { kind: "causal writes".to_owned(), at: 12.3, ms: 200, fault };
        verdict.gaps = vec![gap(Some(2)), gap(None)];
    });
    let text = verdict.text();
    assert!(text.contains("200 ms at 12.3 s: causal writes, fault 2\n"), "{text}");
    assert!(text.contains("200 ms at 12.3 s: causal writes, without a fault\n"), "{text}");
}

#[test]
fn broken_outweighs_invalid_and_both_are_told() {
    let verdict = judged(|verdict, _| {
        verdict.acked_writes.lost = 3;
        verdict.faults.clear();
    });
    assert_eq!(verdict.verdict, Judgement::Broken);
    assert_eq!(verdict.because.len(), 2);
}

#[test]
fn the_report_has_the_names_that_the_interface_promises() {
    let report: serde_json::Value = serde_json::from_str(&judged(|_, _| {}).to_json()).expect("it is JSON");
    for name in [
        "verdict",
        "because",
        "seed",
        "duration_s",
        "faults",
        "requests",
        "downtime_ms",
        "latency_ms",
        "acked_writes",
        "checks",
        "traces",
    ] {
        assert!(!report[name].is_null(), "{name}");
    }
    assert_eq!(report["verdict"], "kept");
    let fault = &report["faults"][0];
    for name in [
        "id",
        "kind",
        "target",
        "at",
        "healed_at",
        "detected_ms",
        "requests_in_flight",
        "failed",
        "served_by",
        "trace_ids",
    ] {
        assert!(fault.get(name).is_some(), "{name}");
    }
    for name in ["total", "ok", "failed", "unknown"] {
        assert!(report["requests"].get(name).is_some(), "{name}");
    }
    for level in ["strict", "sequential", "causal", "eventual"] {
        assert!(report["downtime_ms"].get(level).is_some(), "{level}");
    }
    for name in ["total", "lost", "by"] {
        assert!(report["acked_writes"].get(name).is_some(), "{name}");
    }
    for name in ["p50", "p99", "max"] {
        assert!(
            report["latency_ms"]["steady"].get(name).is_some() && report["latency_ms"]["fault"].get(name).is_some()
        );
    }
    assert!(report["latency_ms"].get("worst_tick_ratio").is_some());
    for name in ["name", "level", "ops", "decided", "violations"] {
        assert!(report["checks"][0].get(name).is_some(), "{name}");
    }
    for name in ["checked", "complete", "contradicting"] {
        assert!(report["traces"].get(name).is_some(), "{name}");
    }
}

#[test]
fn a_run_without_a_trace_store_may_do_without_traces() {
    let mut verdict = good();
    verdict.traces = Traces::default();
    let circumstances = Circumstances { faults_without_traces: 2, ..Circumstances::default() };
    verdict.judge(&Demands { traces: false, ..DEMANDS }, &circumstances);
    assert_eq!(verdict.verdict, Judgement::Kept);
}
