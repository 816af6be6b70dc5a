//! The verdict on gateways that keep their word, and on those that do not; no faults here.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chaos::history_file::Values;
use chaos::replay::{Entry, Op, Recording};
use chaos::{Judgement, LevelsConfig, Load, ReplayConfig, RunConfig, TrafficConfig, Verdict, run_traffic};
use history::{Function, Outcome};
use support::{FakeFleet, Mode};

async fn judged(mode: Mode, load: Load, ticks: bool) -> Verdict {
    judged_with(mode, load, ticks, None).await
}

async fn judged_with(mode: Mode, load: Load, ticks: bool, levels: Option<LevelsConfig>) -> Verdict {
    let fleet = FakeFleet::start(mode, None).await;
    let config = RunConfig {
        gateways: vec![fleet.gateway()],
        levels,
        duration: Some(Duration::from_millis(1_500)),
        seed: 11,
        load,
        ticks,
        check_limit: Duration::from_secs(30),
        ..RunConfig::default()
    };
    let verdict = run_traffic(config, std::future::pending()).await.expect("the run can begin");
    fleet.end();
    verdict
}

/// Traffic whose deadline no gateway that answers at all can miss.
fn traffic() -> Load {
    traffic_within(Duration::from_secs(5))
}

fn traffic_within(deadline: Duration) -> Load {
    Load::Traffic(TrafficConfig { clients: 8, keys: 12, rate: 800, deadline, ..TrafficConfig::default() })
}

/// 400 block requests over 20 blocks.
fn replay() -> Load {
    let entry = |at: u64| Entry {
        key: (at * 7 % 20).to_string(),
        op: if at.is_multiple_of(3) { Op::Read } else { Op::Write(512 + at as usize) },
    };
    let recording = Arc::new(Recording { entries: (0..400).map(entry).collect(), cut: false });
    let deadline = Duration::from_secs(5);
    Load::Replay(ReplayConfig { recording, concurrency: 4, rate: 0, deadline, prefix: String::new() })
}

#[track_caller]
fn assert_broken(verdict: &Verdict, reason: &str) {
    assert_eq!(verdict.verdict, Judgement::Broken, "{}", verdict.text());
    assert!(verdict.because.iter().any(|because| because.contains(reason)), "{:?}", verdict.because);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correct_gateway_keeps_its_word() {
    let verdict = judged(Mode::Correct, traffic(), true).await;
    assert_eq!(verdict.verdict, Judgement::Kept, "{}", verdict.text());
    assert!(verdict.requests.total > 300, "{}", verdict.text());
    assert!(verdict.acked_writes.total > 50 && verdict.checks[0].decided);
    assert!(verdict.ticks.answered > 100, "{}", verdict.text());
}

/// Few calls on records, so that those on locks have all the time; as many clients as stand in each other's way.
fn lock_traffic() -> Load {
    let deadline = Duration::from_secs(5);
    Load::Traffic(TrafficConfig {
        clients: 1,
        keys: 2,
        rate: 50,
        lock_clients: 12,
        deadline,
        ..TrafficConfig::default()
    })
}

async fn judged_locks(mode: Mode, ticks: bool) -> Verdict {
    let fleet = FakeFleet::start(mode, None).await;
    let config = RunConfig {
        gateways: vec![fleet.gateway()],
        // Long enough for some to oversleep their leases and be overtaken.
        duration: Some(Duration::from_secs(6)),
        seed: 11,
        load: lock_traffic(),
        // The fake gateway is no available bucket.
        levels: None,
        ticks,
        check_limit: Duration::from_secs(30),
        ..RunConfig::default()
    };
    let verdict = run_traffic(config, std::future::pending()).await.expect("the run can begin");
    fleet.end();
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_that_keep_their_word_are_kept_and_sleepers_are_fenced_off() {
    let verdict = judged_locks(Mode::Correct, true).await;
    assert_eq!(verdict.verdict, Judgement::Kept, "{}", verdict.text());
    let locks = verdict.locks.expect("there were clients of locks");
    assert!(locks.granted > 20 && locks.held > 0 && locks.writes > 20, "{}", verdict.text());
    assert!(locks.fenced_off > 0, "nobody slept through its lease, so nothing is shown: {}", verdict.text());
    let check = verdict.checks.iter().find(|check| check.name == "locks").expect("locks are judged");
    assert!(check.decided && check.ops > 60, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_looked_at_is_found() {
    assert_broken(&judged_locks(Mode::BlindFence, false).await, "(locks)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_holders_are_found() {
    assert_broken(&judged_locks(Mode::TwoHolders, false).await, "(locks)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_given_twice_is_found() {
    assert_broken(&judged_locks(Mode::SameToken, false).await, "(locks)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_keeps_one_value_of_those_that_did_not_see_each_other_is_found_at_both_levels() {
    // As a register the fake is right; as an available bucket it loses acknowledged writes.
    let verdict = judged_with(Mode::Correct, traffic(), false, Some(LevelsConfig::default())).await;
    assert_broken(&verdict, "violate level causal");
    assert_broken(&verdict, "violate level eventual");
    for ordered in ["level strict", "level sequential", "(sets)", "(counters)"] {
        assert!(verdict.because.iter().all(|because| !because.contains(ordered)), "{:?}", verdict.because);
    }
    let checks: Vec<&str> = verdict.checks.iter().map(|check| check.name.as_str()).collect();
    let registers = ["registers", "sequential keys", "causal keys", "eventual keys"];
    let merged = ["causal sets", "sets", "causal counters", "counters"];
    assert_eq!(checks, [&registers[..], &merged, &["locks"]].concat());
    assert!(verdict.checks.iter().all(|check| check.decided && check.ops > 5), "{}", verdict.text());
    // What is not there at the end is counted, and told with its key and traces.
    let by = &verdict.acked_writes.by;
    let names: Vec<&str> = by.keys().map(String::as_str).collect();
    assert_eq!(names, ["causal", "counters", "eventual", "sequential", "sets", "strict"]);
    assert!(by.values().all(|of| of.total > 0), "{}", verdict.text());
    for name in ["strict", "sequential", "sets", "counters"] {
        assert_eq!(by[name].lost, 0, "{name}: {}", verdict.text());
    }
    for name in ["causal", "eventual"] {
        assert!(by[name].lost > 0 && by[name].examples[0].contains("traces"), "{by:?}");
        assert_broken(&verdict, &format!("({name}), such as key \"sessions/"));
    }
    assert_eq!(verdict.acked_writes.lost, by.values().map(|of| of.lost).sum::<u64>());
}

/// More requests on sets and counters than usual, so that a short run shows enough.
fn many_merges() -> LevelsConfig {
    LevelsConfig { merge_rate: 400, deadline: Duration::from_secs(5), ..LevelsConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_additions_are_found_counted_and_in_the_histories_that_are_left() {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let fleet = FakeFleet::start(Mode::LostAdds, None).await;
    let config = RunConfig {
        gateways: vec![fleet.gateway()],
        levels: Some(many_merges()),
        duration: Some(Duration::from_millis(1_500)),
        load: traffic(),
        ticks: false,
        history: Some(directory.path().join("history.jsonl")),
        ..RunConfig::default()
    };
    let verdict = run_traffic(config, std::future::pending()).await.expect("the run can begin");
    fleet.end();
    for (name, model) in [("sets", checker::Model::Set), ("counters", checker::Model::Counter)] {
        assert_broken(&verdict, &format!("violate level eventual ({name})"));
        let acked = &verdict.acked_writes.by[name];
        assert!(acked.lost > 0 && acked.lost < acked.total, "{}", verdict.text());
        assert_broken(&verdict, &format!("({name}), such as key \"verified-{name}/"));
        assert!(acked.examples[0].contains("(trace"), "{acked:?}");
        // The history that was left is one that `everring check` reads, with the same judgement.
        let path = directory.path().join(format!("history.{name}.jsonl"));
        assert_eq!(verdict.merge_histories[name], path.display().to_string());
        let file = std::io::BufReader::new(std::fs::File::open(&path).expect("it was left"));
        let options = checker::Options { model, level: checker::Level::Eventual, ..checker::Options::default() };
        let report = checker::check(file, &options).expect("readable");
        assert_eq!(report.verdict, checker::Verdict::Violated, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_addition_that_is_done_twice_is_found() {
    let verdict = judged_with(Mode::DoubleAdds, traffic(), false, Some(many_merges())).await;
    assert_broken(&verdict, "violate level eventual (counters)");
    assert!(verdict.because.iter().all(|because| !because.contains("(sets)")), "{:?}", verdict.because);
    assert_eq!(verdict.acked_writes.by["counters"].lost, 0, "nothing is lost by it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_go_back_are_found_at_level_sequential() {
    let levels = LevelsConfig { rate: 400, deadline: Duration::from_secs(5), ..LevelsConfig::default() };
    let verdict = judged_with(Mode::StaleReads, traffic(), false, Some(levels)).await;
    assert_broken(&verdict, "violate level sequential (sequential keys)");
    let check = verdict.checks.iter().find(|check| check.name == "sequential keys").expect("it is judged");
    assert!(check.examples[0].contains("traces"), "{check:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_reads_are_found() {
    assert_broken(&judged(Mode::StaleReads, traffic(), false).await, "violate level strict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_writes_are_found_and_counted() {
    let verdict = judged(Mode::LostWrites, traffic(), false).await;
    assert_broken(&verdict, "violate level strict");
    assert_broken(&verdict, "missed a write that had been acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_is_not_looked_at_is_found() {
    assert_broken(&judged(Mode::BlindCas, traffic(), false).await, "violate level strict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_unknown_and_breaks_promise_three_without_breaking_the_history() {
    let verdict = judged(Mode::Silent, traffic_within(Duration::from_millis(400)), false).await;
    assert_broken(&verdict, "were not answered in time");
    assert!(verdict.requests.unknown > 0, "{}", verdict.text());
    assert_eq!((verdict.checks[0].violations, verdict.acked_writes.lost), (0, 0), "{}", verdict.text());
}

const LEVELS: [&str; 4] = ["strict", "sequential", "causal", "eventual"];

/// A run with sessions below strict whose history is left: the verdict, and its writes by level, and by whether their
/// outcome is known.
async fn judged_sessions(mode: Mode) -> (Verdict, BTreeMap<(Values, &'static str, bool), u64>) {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let fleet = FakeFleet::start(mode, None).await;
    let deadline = Duration::from_millis(400);
    let config = RunConfig {
        gateways: vec![fleet.gateway()],
        levels: Some(LevelsConfig { rate: 300, merge_rate: 400, deadline, ..LevelsConfig::default() }),
        duration: Some(Duration::from_secs(3)),
        load: traffic_within(Duration::from_secs(5)),
        ticks: false,
        history: Some(directory.path().join("history.jsonl")),
        check_limit: Duration::from_secs(30),
        ..RunConfig::default()
    };
    let verdict = run_traffic(config, std::future::pending()).await.expect("the run can begin");
    fleet.end();
    let mut writes = BTreeMap::new();
    let files = [
        (Values::Registers, "history.jsonl"),
        (Values::Sets, "history.sets.jsonl"),
        (Values::Counters, "history.counters.jsonl"),
    ];
    for (values, name) in files {
        let file = std::fs::File::open(directory.path().join(name)).expect("it was left");
        let history = history::read(std::io::BufReader::new(file)).expect("readable");
        for write in history.operations.iter().filter(|operation| operation.f != Function::Read) {
            let named = |level: &&str| write.level.as_deref() == Some(*level);
            let level = LEVELS.into_iter().find(named).expect("each names its level");
            *writes.entry((values, level, write.outcome != Outcome::Info)).or_default() += 1;
        }
    }
    (verdict, writes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_available_bucket_that_keeps_its_word_keeps_every_level() {
    let (verdict, writes) = judged_sessions(Mode::SideBySide).await;
    let violated = verdict.checks.iter().find(|check| !check.decided || check.violations > 0);
    assert_eq!((violated.map(|check| &check.name), verdict.acked_writes.lost), (None, 0), "{}", verdict.text());
    for level in ["causal", "eventual"] {
        assert!(writes[&(Values::Registers, level, true)] > 20, "{writes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_at_the_weaker_levels_is_unknown_and_explains_what_is_shown() {
    let (verdict, writes) = judged_sessions(Mode::Mute).await;
    assert_broken(&verdict, "were not answered in time");
    for values in [Values::Registers, Values::Sets, Values::Counters] {
        for level in ["causal", "eventual"] {
            let unknown = writes.get(&(values, level, false)).copied().unwrap_or_default();
            assert!(unknown > 0, "{values:?} {level}: {writes:?}");
        }
    }
    // What acted without an answer may be shown, and counts in no sum that has to be there.
    for check in &verdict.checks {
        assert!(check.decided && check.violations == 0, "{check:?}");
    }
    assert_eq!(verdict.acked_writes.lost, 0, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_had_no_answer_and_was_seen_may_not_vanish() {
    let (verdict, writes) = judged_sessions(Mode::MuteAndForgetful).await;
    assert!(writes[&(Values::Registers, "causal", false)] > 0, "{writes:?}");
    assert_broken(&verdict, "violate level causal (causal keys)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_forgets_is_found_by_the_loops() {
    assert_broken(&judged(Mode::LostWrites, traffic(), true).await, "a counter did not read as it was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_played_in_order_and_judged() {
    let verdict = judged(Mode::Correct, replay(), false).await;
    assert_eq!(verdict.verdict, Judgement::Kept, "{}", verdict.text());
    let replay = verdict.replay.clone().expect("it was a replay");
    assert_eq!((replay.played, replay.of, replay.corrupt), (400, 400, 0));
    assert!(replay.hit_ratio > 0.5 && replay.bytes_written > 266 * 512, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_sees_a_single_changed_byte() {
    let verdict = judged(Mode::CorruptBodies, replay(), false).await;
    assert_broken(&verdict, "other than they were written");
    assert!(verdict.checks[0].violations > 0, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_cannot_be_reached_is_void_not_broken() {
    let config = RunConfig {
        // A port of this machine that nothing listens on: it was free a moment ago and is closed again.
        gateways: vec![
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").to_string(),
        ],
        steady_max: Duration::from_millis(100),
        ..RunConfig::default()
    };
    let verdict = run_traffic(config, std::future::pending()).await.expect("an invalid run is a verdict too");
    assert_eq!((verdict.verdict, verdict.exit_code()), (Judgement::Invalid, 3), "{}", verdict.text());
    assert!(verdict.because[0].contains("not steady before the run"), "{:?}", verdict.because);
}
