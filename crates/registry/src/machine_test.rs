use std::time::Duration;

use stdx::Instant;

use crate::*;

pub(crate) fn node(name: &str) -> NodeDefinition {
    NodeDefinition { name: name.to_owned(), address: "127.0.0.1".to_owned(), ..NodeDefinition::default() }
}

pub(crate) fn service(id: &str, name: &str) -> ServiceDefinition {
    ServiceDefinition { id: id.to_owned(), name: name.to_owned(), port: 80, ..ServiceDefinition::default() }
}

pub(crate) fn check(service_id: &str, ttl_ms: u64, status: Status) -> CheckDefinition {
    CheckDefinition {
        id: format!("service:{service_id}"),
        service_id: Some(service_id.to_owned()),
        status,
        kind: CheckKind::Ttl(Duration::from_millis(ttl_ms)),
        deregister_after: Some(Duration::from_millis(60_000)),
        ..CheckDefinition::default()
    }
}

pub(crate) fn session(id: &str, node: &str) -> SessionDefinition {
    SessionDefinition {
        id: id.to_owned(),
        name: String::new(),
        node: node.to_owned(),
        lock_delay: Duration::from_secs(15),
        behavior: Behavior::Release,
        ttl: None,
        node_checks: Vec::new(),
        service_checks: Vec::new(),
    }
}

/// A registry with the node `a`, at time zero.
pub(crate) struct Bench(pub(crate) Registry);

impl Bench {
    pub(crate) fn new() -> Bench {
        let mut bench = Bench(Registry::new());
        bench.done(0, Command::RegisterNode(node("a")));
        bench
    }

    pub(crate) fn apply(&mut self, at_ms: u64, command: Command) -> Answer {
        let answer = self.0.apply(Instant::from_millis(at_ms), command);
        self.0.take_changes();
        answer
    }

    pub(crate) fn done(&mut self, at_ms: u64, command: Command) {
        assert_eq!(self.apply(at_ms, command.clone()), Answer::Done, "{command:?}");
    }

    fn register(&mut self, at_ms: u64, id: &str, name: &str) {
        let checks = vec![check(id, 10_000, Status::Passing)];
        let command =
            Command::RegisterService { node: "a".into(), service: service(id, name), checks, replace_checks: false };
        self.done(at_ms, command);
    }

    fn pass(&mut self, at_ms: u64, id: &str) -> Answer {
        let (status, output) = (Status::Passing, "fine".to_owned());
        self.apply(at_ms, Command::UpdateCheck { node: "a".into(), id: format!("service:{id}"), status, output })
    }

    fn status(&self, id: &str) -> Option<Status> {
        self.0.checks_on("a").find(|check| check.definition.id == format!("service:{id}")).map(|check| check.status)
    }

    fn index(&self, service: &str) -> u64 {
        self.0.index_of(&Watch::Service(service.to_owned()))
    }

    fn put(&mut self, key: &str, value: &str, cas: Option<u64>) -> Answer {
        let write = KvWrite { key: key.to_owned(), value: value.as_bytes().to_vec(), flags: 0, cas };
        self.apply(0, Command::KvPut(write))
    }

    fn delete(&mut self, key: &str, cas: Option<u64>) -> Answer {
        self.apply(0, Command::KvDelete { key: key.to_owned(), cas })
    }
}

#[test]
fn a_check_that_is_not_renewed_turns_critical_and_its_service_goes_a_minute_later() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    assert_eq!(bench.0.next_timeout(), Some(Instant::from_millis(10_000)));
    assert_eq!(bench.pass(9_000, "w1"), Answer::Done);
    bench.done(10_000, Command::Tick);
    assert_eq!(bench.status("w1"), Some(Status::Passing), "it was renewed in time");
    let before = bench.index("web");
    bench.done(19_000, Command::Tick);
    assert_eq!(bench.status("w1"), Some(Status::Critical));
    assert!(bench.index("web") > before);
    let output = bench.0.checks_on("a").next().map(|check| check.output.clone());
    assert_eq!(output.as_deref(), Some("TTL expired (last output before timeout follows): fine"));
    bench.done(78_999, Command::Tick);
    assert!(bench.0.service_on("a", "w1").is_some());
    bench.done(79_000, Command::Tick);
    assert!(bench.0.service_on("a", "w1").is_none());
    assert_eq!(bench.0.next_timeout(), None, "nothing is left to wait for");
    assert_eq!(bench.pass(80_000, "w1"), Answer::Refused(Refusal::UnknownCheck("service:w1".into())));
}

#[test]
fn failing_again_does_not_put_off_the_end() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    let (id, status) = ("service:w1".to_owned(), Status::Critical);
    let fail = Command::UpdateCheck { node: "a".into(), id, status, output: "down".into() };
    bench.done(1_000, fail.clone());
    bench.done(50_000, fail);
    assert_eq!(bench.0.next_timeout(), Some(Instant::from_millis(61_000)));
    assert_eq!(bench.pass(60_000, "w1"), Answer::Done);
    bench.done(61_000, Command::Tick);
    assert_eq!(bench.status("w1"), Some(Status::Passing), "it came back in time");
}

#[test]
fn renewing_and_registering_alike_change_no_index() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    let (service, all) = (bench.index("web"), bench.0.index());
    assert_eq!(bench.pass(1_000, "w1"), Answer::Done);
    bench.register(2_000, "w1", "web");
    assert_eq!((bench.index("web"), bench.0.index()), (service, all));
    assert_eq!(bench.0.next_timeout(), Some(Instant::from_millis(12_000)), "but both renew the TTL");
}

#[test]
fn a_registration_keeps_the_state_of_the_checks_it_had() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    bench.done(10_000, Command::Tick);
    bench.register(11_000, "w1", "web");
    assert_eq!(bench.status("w1"), Some(Status::Critical), "Consul's rule: only a renewal revives it");
}

#[test]
fn checks_left_out_go_only_if_asked() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    let other = CheckDefinition { id: "extra".into(), ..check("w1", 1_000, Status::Passing) };
    bench.done(0, Command::RegisterCheck { node: "a".into(), check: other });
    bench.register(0, "w1", "web");
    assert_eq!(bench.0.checks_on("a").count(), 2);
    let checks = vec![check("w1", 10_000, Status::Passing)];
    let service = service("w1", "web");
    bench.done(0, Command::RegisterService { node: "a".into(), service, checks, replace_checks: true });
    assert_eq!(bench.0.checks_on("a").count(), 1);
    assert_eq!(bench.0.next_timeout(), Some(Instant::from_millis(10_000)), "its deadline went with it");
}

#[test]
fn one_service_does_not_disturb_another() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    bench.register(0, "d1", "db");
    let before = bench.index("web");
    bench.register(0, "d2", "db");
    bench.done(0, Command::DeregisterService { node: "a".into(), id: "d1".into() });
    bench.done(0, Command::DeregisterService { node: "a".into(), id: "d2".into() });
    assert_eq!(bench.index("web"), before);
    assert!(bench.index("db") > before, "a service that is gone keeps an index that does not go back");
}

#[test]
fn an_id_that_changes_its_name_concerns_both_names() {
    let mut bench = Bench::new();
    bench.register(0, "x", "old");
    let before = bench.index("old");
    bench.register(0, "x", "new");
    assert!(bench.index("old") > before && bench.index("new") > before);
    assert_eq!(bench.0.instances_of("old").count(), 0);
}

#[test]
fn compare_and_set_swaps_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.put("k", "1", Some(7)), Answer::NotSwapped, "there is nothing to replace");
    assert_eq!(bench.put("k", "1", Some(0)), Answer::Done);
    assert_eq!(bench.put("k", "2", Some(0)), Answer::NotSwapped, "0 creates only");
    let index = bench.0.kv("k").expect("it was created").modify_index;
    assert_eq!(bench.put("k", "2", Some(index)), Answer::Done);
    assert_eq!(bench.put("k", "3", Some(index)), Answer::NotSwapped);
    assert_eq!(bench.0.kv("k").expect("it stands").value, b"2");
    assert_eq!(bench.delete("k", Some(0)), Answer::NotSwapped, "0 deletes nothing");
    assert_eq!(bench.delete("k", Some(index)), Answer::NotSwapped);
    assert_eq!(bench.delete("k", None), Answer::Done);
    assert_eq!(bench.delete("k", Some(5)), Answer::Done, "there is nothing left to delete");
}

#[test]
fn deletions_do_not_move_an_index_back_even_when_forgotten() {
    let mut bench = Bench::new();
    bench.0 = Registry::with_limits(Limits { tombstones_max: 4, ..Limits::default() });
    let prefix = Watch::Prefix("p/".to_owned());
    for round in 0..20 {
        bench.put(&format!("p/{round}"), "v", None);
        let put = bench.0.index_of(&prefix);
        bench.delete(&format!("p/{round}"), None);
        assert!(bench.0.index_of(&prefix) > put, "round {round}");
    }
    let last = bench.0.index_of(&prefix);
    for round in 0..20 {
        bench.put(&format!("q/{round}"), "v", None);
        bench.delete(&format!("q/{round}"), None);
    }
    assert!(bench.0.index_of(&prefix) >= last);
}

#[test]
fn what_is_over_the_limits_is_refused_and_changes_nothing() {
    let limits = Limits {
        nodes_max: 1,
        services_max: 1,
        checks_max: 1,
        keys_max: 2,
        kv_bytes_max: 10,
        tombstones_max: 4,
        sessions_max: 1,
    };
    let mut bench = Bench::new();
    bench.0 = Registry::with_limits(limits);
    bench.done(0, Command::RegisterNode(node("a")));
    bench.register(0, "w1", "web");
    bench.put("k", "123456789", None);
    let index = bench.0.index();
    let full = |answer: Answer| matches!(answer, Answer::Refused(Refusal::Full { .. }));
    assert!(full(bench.apply(0, Command::RegisterNode(node("b")))));
    let (service, checks) = (service("w2", "web"), Vec::new());
    assert!(full(
        bench.apply(0, Command::RegisterService { node: "a".into(), service, checks, replace_checks: false })
    ));
    let extra = CheckDefinition { id: "extra".into(), ..check("w1", 1, Status::Passing) };
    assert!(full(bench.apply(0, Command::RegisterCheck { node: "a".into(), check: extra })));
    assert!(full(bench.put("l", "", None)));
    assert!(full(bench.put("k", "1234567890", None)));
    assert_eq!(bench.0.index(), index);
    assert_eq!(bench.put("k", "1", None), Answer::Done, "a smaller value fits");
    assert_eq!(bench.put("l", "", None), Answer::Done);
    assert!(full(bench.put("m", "", None)), "two keys are the most");
}

#[test]
fn a_restart_keeps_everything_and_gives_fresh_deadlines() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    bench.put("k", "v\0\u{ff}", None);
    let (service_index, all) = (bench.index("web"), bench.0.index());
    let later = Instant::from_millis(500);
    let mut bench = Bench(Registry::decode(&bench.0.encode(), later, Limits::default()).expect("our own snapshot"));
    assert_eq!(bench.status("w1"), Some(Status::Passing));
    assert_eq!(bench.0.kv("k").map(|entry| entry.value.clone()), Some("v\0\u{ff}".as_bytes().to_vec()));
    assert_eq!(bench.index("web"), service_index, "what did not change keeps its index");
    assert_eq!(bench.0.next_timeout(), Some(Instant::from_millis(10_500)));
    bench.put("k", "w", None);
    assert!(bench.0.index() > all + 1, "an index that was shown but not written is never given again");
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let decode = |bytes: &[u8]| Registry::decode(bytes, Instant::ZERO, Limits::default());
    assert!(matches!(decode(b""), Err(SnapshotError::Json(_))));
    assert!(matches!(decode(b"{\"version\":9}"), Err(SnapshotError::Version(9))));
    let whole = Registry::new().encode();
    assert!(matches!(decode(&whole[..whole.len() - 1]), Err(SnapshotError::Json(_))), "a torn file");
}

#[test]
fn a_copy_from_a_snapshot_acts_at_the_same_time() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    bench.done(
        3_000,
        Command::CreateSession(SessionDefinition { ttl: Some(Duration::from_secs(10)), ..session("s", "a") }),
    );
    let mut copy = Registry::from_image(&bench.0.encode(), Limits::default()).expect("our own snapshot");
    assert_eq!(copy.next_timeout(), bench.0.next_timeout());
    for at_ms in [10_000, 23_000, 70_000] {
        bench.done(at_ms, Command::Tick);
        assert_eq!(copy.apply(Instant::from_millis(at_ms), Command::Tick), Answer::Done);
        copy.take_changes();
        assert_eq!(copy.encode(), bench.0.encode(), "at {at_ms} ms");
    }
    assert_eq!((bench.0.sessions().count(), bench.0.services_on("a").count()), (0, 0));
}

#[test]
fn time_that_goes_back_stands_still() {
    let mut bench = Bench::new();
    bench.register(50_000, "w1", "web");
    assert_eq!(bench.pass(20_000, "w1"), Answer::Done);
    assert_eq!(bench.0.next_timeout(), Some(Instant::from_millis(60_000)));
}

#[test]
fn a_check_follows_another_instance() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    let alias = CheckDefinition {
        id: "alias".into(),
        kind: CheckKind::Alias { node: String::new(), service: Some("w1".into()) },
        ..CheckDefinition::default()
    };
    let state =
        |bench: &Bench| bench.0.checks_on("a").find(|check| check.definition.id == "alias").map(|check| check.status);
    bench.done(0, Command::RegisterCheck { node: "a".into(), check: alias });
    assert_eq!(state(&bench), Some(Status::Passing));
    bench.done(10_000, Command::Tick);
    assert_eq!(state(&bench), Some(Status::Critical));
    assert_eq!(bench.pass(11_000, "w1"), Answer::Done);
    assert_eq!(state(&bench), Some(Status::Passing));
    bench.done(12_000, Command::DeregisterService { node: "a".into(), id: "w1".into() });
    assert_eq!(state(&bench), Some(Status::Critical));
}

#[test]
fn only_active_checks_take_results() {
    let mut bench = Bench::new();
    bench.register(0, "w1", "web");
    let active = CheckDefinition {
        id: "tcp".into(),
        kind: CheckKind::Tcp { address: "x:1".into() },
        ..CheckDefinition::default()
    };
    bench.done(0, Command::RegisterCheck { node: "a".into(), check: active });
    for (id, now) in [("tcp", Status::Passing), ("service:w1", Status::Passing), ("gone", Status::Passing)] {
        let (status, output) = (if id == "tcp" { now } else { Status::Critical }, "said".to_owned());
        bench.done(1, Command::CheckResult { node: "a".into(), id: id.into(), status, output });
    }
    assert_eq!(bench.status("w1"), Some(Status::Passing), "a TTL check hears its owner only");
    let renew =
        Command::UpdateCheck { node: "a".into(), id: "tcp".into(), status: Status::Passing, output: String::new() };
    assert_eq!(bench.apply(2, renew), Answer::Refused(Refusal::NoTtl("tcp".into())));
}

#[test]
fn a_restored_snapshot_replaces_everything_and_moves_every_index_on() {
    let mut bench = Bench::new();
    bench.put("old", "1", None);
    let snapshot = bench.0.encode();
    for round in 0..5 {
        bench.put("new", &round.to_string(), None);
    }
    let before = bench.0.index();
    let answer = bench.0.apply(Instant::from_millis(9), Command::Restore { snapshot });
    assert_eq!((answer, bench.0.take_changes().contains(&Watch::Everything)), (Answer::Done, true));
    assert!(bench.0.kv("new").is_none() && bench.0.kv("old").is_some());
    for watch in [Watch::Key("new".into()), Watch::Nodes, Watch::Sessions, Watch::Service("none".into())] {
        assert!(bench.0.index_of(&watch) > before, "{watch:?}");
    }
    let junk = Command::Restore { snapshot: b"junk".to_vec() };
    assert!(matches!(bench.apply(9, junk), Answer::Refused(Refusal::Snapshot(_))));
}
