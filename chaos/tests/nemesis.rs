//! The nemesis on real processes: what it must not touch, and what it must undo.

mod support;

use std::sync::Arc;
use std::time::Duration;

use chaos::{FaultKind, HaltSwitch, Judgement, Load, RunConfig, TrafficConfig, Verdict, run_local};
use support::{FakeFleet, Mode, NODES};

fn config(fleet: &FakeFleet) -> RunConfig {
    RunConfig {
        gateways: vec![fleet.gateway()],
        // The fake keeps one value of each key: it has no available buckets.
        levels: None,
        duration: Some(Duration::from_millis(1_500)),
        seed: 3,
        mean: Duration::from_millis(150),
        pause: Duration::from_millis(300),
        load: Load::Traffic(TrafficConfig { clients: 4, keys: 8, rate: 200, ..TrafficConfig::default() }),
        ..RunConfig::default()
    }
}

fn pids(fleet: &FakeFleet) -> Vec<Option<u32>> {
    NODES.iter().map(|name| fleet.pid(name)).collect()
}

async fn judged(fleet: &Arc<FakeFleet>, config: RunConfig) -> Verdict {
    let control = Arc::clone(fleet);
    run_local(control, config, std::future::pending()).await.expect("the run can begin")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_monkey_touches_nobody_and_the_run_proves_nothing() {
    let fleet = FakeFleet::start(Mode::Correct, None).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("HALT");
    std::fs::write(&file, "").expect("written");
    let before = pids(&fleet);
    let verdict = judged(&fleet, RunConfig { halt: HaltSwitch::with_file(file), ..config(&fleet) }).await;
    assert_eq!(pids(&fleet), before);
    assert_eq!(verdict.verdict, Judgement::Invalid, "{}", verdict.text());
    assert!(verdict.because[0].contains("only 0 faults"), "{:?}", verdict.because);
    fleet.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_touches_nobody() {
    let fleet = FakeFleet::start(Mode::Correct, None).await;
    let before = pids(&fleet);
    let verdict = judged(&fleet, RunConfig { dry_run: true, ..config(&fleet) }).await;
    assert_eq!(pids(&fleet), before);
    assert_eq!((verdict.verdict, verdict.injected()), (Judgement::Kept, 0), "{}", verdict.text());
    fleet.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_end_and_leave_every_process_awake() {
    let fleet = FakeFleet::start(Mode::Correct, None).await;
    let before = pids(&fleet);
    let verdict = judged(&fleet, RunConfig { kinds: vec![FaultKind::Pause], ..config(&fleet) }).await;
    assert_eq!(pids(&fleet), before, "a pause ends no process");
    assert!(verdict.injected() > 0, "{}", verdict.text());
    for fault in &verdict.faults {
        let lasted = fault.healed_at.expect("it was healed") - fault.at;
        // The last one is healed early, with the run.
        assert!(lasted >= 0.25 || fault.id == verdict.injected(), "{fault:?}");
    }
    for pid in before.into_iter().flatten() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
        assert_ne!(state, Some('T'), "process {pid} is still stopped");
    }
    fleet.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_the_run_and_is_judged_by_what_was_seen() {
    let fleet = FakeFleet::start(Mode::Correct, None).await;
    let control = Arc::clone(&fleet);
    let config = RunConfig { duration: None, kinds: Vec::new(), ..config(&fleet) };
    let verdict = run_local(control, config, tokio::time::sleep(Duration::from_millis(800))).await;
    let verdict = verdict.expect("the run can begin");
    assert_eq!(verdict.verdict, Judgement::Kept, "{}", verdict.text());
    assert!(verdict.requests.total > 20, "{}", verdict.text());
    fleet.end();
}
