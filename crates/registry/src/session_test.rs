//! Sessions, the locks they hold, and transactions.

use std::time::Duration;

use crate::machine_test::{Bench, check, node, service, session};
use crate::*;

impl Bench {
    fn lock(&mut self, at_ms: u64, session: &str) -> Answer {
        self.apply(at_ms, Command::KvLock(lock(session)))
    }

    fn entry(&self) -> KvEntry {
        self.0.kv("k").expect("it was locked").clone()
    }

    fn txn(&mut self, ops: Vec<TxnOp>) -> Answer {
        self.apply(0, Command::Txn(ops))
    }
}

fn lock(session: &str) -> KvLock {
    KvLock { key: "k".into(), value: session.as_bytes().to_vec(), flags: 0, session: session.into() }
}

fn set(key: &str, cas: Option<u64>) -> TxnOp {
    TxnOp::KvSet(KvWrite { key: key.into(), value: b"v".to_vec(), flags: 0, cas })
}

#[test]
fn a_lock_has_one_holder_and_a_delay_after_its_session() {
    let mut bench = Bench::new();
    for id in ["s1", "s2"] {
        bench.done(0, Command::CreateSession(session(id, "a")));
    }
    assert_eq!(bench.lock(0, "none"), Answer::Refused(Refusal::UnknownSession("none".into())));
    assert_eq!(bench.lock(0, "s1"), Answer::Done);
    assert_eq!(bench.lock(0, "s2"), Answer::NotSwapped, "it is held");
    assert_eq!(bench.lock(0, "s1"), Answer::Done, "its holder may write on");
    assert_eq!((bench.entry().lock_index, bench.entry().session.as_deref()), (1, Some("s1")));
    let write = KvWrite { key: "k".into(), value: b"plain".to_vec(), flags: 0, cas: None };
    bench.done(0, Command::KvPut(write));
    assert_eq!(bench.entry().session.as_deref(), Some("s1"), "a plain write leaves the lock alone");

    assert_eq!(bench.apply(0, Command::KvUnlock(lock("s2"))), Answer::NotSwapped);
    bench.done(0, Command::KvUnlock(lock("s1")));
    assert_eq!(bench.lock(0, "s2"), Answer::Done, "a lock that was given back is free at once");
    assert_eq!(bench.entry().lock_index, 2);
    let before = bench.entry().modify_index;
    bench.done(1_000, Command::DestroySession { id: "s2".into() });
    assert_eq!(bench.entry().session, None);
    assert!(bench.entry().modify_index > before, "those who wait for the lock hear of it");
    assert_eq!(bench.lock(15_999, "s1"), Answer::NotSwapped, "the lock delay");
    assert_eq!(bench.lock(16_000, "s1"), Answer::Done);
}

#[test]
fn a_session_ends_with_its_time_its_checks_or_its_node() {
    let mut bench = Bench::new();
    let ttl =
        SessionDefinition { ttl: Some(Duration::from_secs(10)), behavior: Behavior::Delete, ..session("s1", "a") };
    bench.done(0, Command::CreateSession(ttl));
    assert_eq!(bench.lock(0, "s1"), Answer::Done);
    bench.done(15_000, Command::RenewSession { id: "s1".into() });
    bench.done(34_999, Command::Tick);
    assert!(bench.0.session("s1").is_some(), "the TTL is a lower bound, and was renewed");
    bench.done(35_000, Command::Tick);
    assert!(bench.0.session("s1").is_none() && bench.0.kv("k").is_none(), "its pair goes with it");
    let renewed = bench.apply(35_000, Command::RenewSession { id: "s1".into() });
    assert_eq!(renewed, Answer::Refused(Refusal::NoSession("s1".into())));

    let checks = vec![check("w1", 10_000, Status::Passing)];
    let register =
        Command::RegisterService { node: "a".into(), service: service("w1", "web"), checks, replace_checks: false };
    bench.done(40_000, register);
    let on_check = || SessionDefinition { node_checks: vec!["service:w1".into()], ..session("s2", "a") };
    bench.done(40_000, Command::CreateSession(on_check()));
    bench.done(50_000, Command::Tick);
    assert!(bench.0.session("s2").is_none(), "its check turned critical");
    let refused = bench.apply(50_000, Command::CreateSession(on_check()));
    assert_eq!(refused, Answer::Refused(Refusal::CheckCritical("service:w1".into())));
    let unknown = SessionDefinition { node_checks: vec!["none".into()], ..session("s3", "a") };
    let refused = bench.apply(50_000, Command::CreateSession(unknown));
    assert_eq!(refused, Answer::Refused(Refusal::NoCheckForSession("none".into())));
    assert_eq!(
        bench.apply(50_000, Command::CreateSession(session("s3", "b"))),
        Answer::Refused(Refusal::NoNodeForSession)
    );

    bench.done(50_000, Command::CreateSession(session("s4", "a")));
    bench.done(50_000, Command::DeregisterNode { node: "a".into() });
    assert_eq!(bench.0.sessions().count(), 0);
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let mut bench = Bench::new();
    let Answer::Txn(results) = bench.txn(vec![set("x", Some(0)), set("y", None), TxnOp::KvGet("x".into())]) else {
        panic!("it can be done")
    };
    assert_eq!(results.len(), 3);
    let index = bench.0.kv("x").expect("it was set").modify_index;
    assert_eq!(bench.0.kv("y").map(|entry| entry.modify_index), Some(index), "one index for all of it");

    let state = bench.0.encode();
    let failed = bench.txn(vec![
        set("z", None),
        TxnOp::KvDeleteTree(String::new()),
        TxnOp::Node(Verb::Set, node("b")),
        set("x", Some(9)),
        TxnOp::KvGet("gone".into()),
    ]);
    let Answer::TxnFailed(errors) = failed else { panic!("two of its operations cannot be done") };
    assert_eq!(errors.iter().map(|error| error.op).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(errors[0].what, "failed to set key \"x\", index is stale");
    assert_eq!(bench.0.encode(), state, "nothing was changed");

    let done = bench.txn(vec![
        TxnOp::KvCheckIndex { key: "x".into(), index },
        TxnOp::KvDelete { key: "x".into(), cas: Some(index) },
    ]);
    assert!(matches!(done, Answer::Txn(_)) && bench.0.kv("x").is_none());
    assert!(matches!(bench.txn(vec![TxnOp::KvCheckNotExists("y".into())]), Answer::TxnFailed(_)));
    let read = bench.0.read_txn(&[TxnOp::KvGetTree(String::new())]);
    assert!(matches!(read, Answer::Txn(results) if results.len() == 1));
}

#[test]
fn a_transaction_reaches_the_catalogue_and_sessions() {
    let mut bench = Bench::new();
    bench.done(0, Command::CreateSession(session("s1", "a")));
    let done = bench.txn(vec![
        TxnOp::Node(Verb::Cas(0), node("b")),
        TxnOp::Service(Verb::Set, "b".into(), service("w", "web")),
        TxnOp::Check(Verb::Set, "b".into(), check("w", 1_000, Status::Passing)),
        TxnOp::KvLock(lock("s1")),
        TxnOp::KvCheckSession { key: "k".into(), session: "s1".into() },
        TxnOp::KvUnlock(lock("s1")),
        TxnOp::SessionDelete("s1".into()),
    ]);
    assert!(matches!(&done, Answer::Txn(results) if results.len() == 6), "{done:?}");
    assert_eq!((bench.0.instances_of("web").count(), bench.0.sessions().count()), (1, 0));
    let node_index = bench.0.node("b").expect("it was set").modify_index;
    let gone = bench.txn(vec![
        TxnOp::Service(Verb::Delete, "b".into(), service("w", "web")),
        TxnOp::Node(Verb::DeleteCas(node_index), node("b")),
    ]);
    assert_eq!(gone, Answer::Txn(Vec::new()));
    assert!(bench.0.node("b").is_none());
    for op in [
        TxnOp::Node(Verb::Get, node("b")),
        TxnOp::Service(Verb::Set, "b".into(), service("w", "web")),
        TxnOp::Check(Verb::Cas(7), "a".into(), check("w", 1, Status::Passing)),
    ] {
        assert!(matches!(bench.txn(vec![op.clone()]), Answer::TxnFailed(_)), "{op:?}");
    }
}

#[test]
fn tokens_follow_their_policies() {
    let mut bench = Bench::new();
    let rules = Rules::parse("key_prefix \"app/\" { policy = \"write\" }").expect("rules");
    let policy = Policy { id: "p".into(), name: "app".into(), rules, ..Policy::default() };
    let token = |accessor: &str, policies: &[&str]| Token {
        accessor: accessor.into(),
        secret: format!("secret-{accessor}"),
        policies: policies.iter().map(|id| (*id).to_owned()).collect(),
        ..Token::default()
    };
    bench.done(0, Command::BootstrapAcl(token("boot", &[GLOBAL_MANAGEMENT])));
    assert!(matches!(bench.apply(0, Command::BootstrapAcl(token("again", &[]))), Answer::Refused(Refusal::Acl(_))));
    bench.done(0, Command::SetPolicy(policy.clone()));
    bench.done(0, Command::SetToken(token("t", &["p"])));
    assert!(matches!(bench.apply(0, Command::SetToken(token("u", &["none"]))), Answer::Refused(Refusal::Acl(_))));
    let double = Policy { id: "q".into(), ..policy };
    assert!(matches!(bench.apply(0, Command::SetPolicy(double)), Answer::Refused(Refusal::Acl(_))));

    let may = |bench: &Bench, secret: &str, key: &str| {
        bench
            .0
            .authorizer(secret, Access::Deny)
            .map(|of| (of.may_read(Resource::Key, key), of.may_write(Resource::Key, key)))
    };
    assert_eq!(may(&bench, "secret-t", "app/x"), Some((true, true)));
    assert_eq!(may(&bench, "secret-t", "other"), Some((false, false)));
    assert_eq!(may(&bench, "secret-boot", "other"), Some((true, true)));
    assert_eq!(may(&bench, "", "app/x"), Some((false, false)));
    assert_eq!(may(&bench, "stranger", "app/x"), None);
    let reads = Rules::parse("key_prefix \"\" { policy = \"read\" }").expect("rules");
    bench.done(
        0,
        Command::SetPolicy(Policy { id: "r".into(), name: "reads".into(), rules: reads, ..Policy::default() }),
    );
    bench.done(0, Command::SetToken(Token { secret: "anonymous".into(), ..token(ANONYMOUS, &["r"]) }));
    assert_eq!(may(&bench, "", "app/x"), Some((true, false)));
    bench.done(0, Command::DeletePolicy { id: "p".into() });
    assert_eq!(may(&bench, "secret-t", "app/x"), Some((false, false)), "its policy is gone");
    bench.done(0, Command::DeleteToken { accessor: "t".into() });
    assert_eq!(may(&bench, "secret-t", "app/x"), None);
    let copy = Registry::from_image(&bench.0.encode(), Limits::default()).expect("our own snapshot");
    assert!(copy.is_acl_bootstrapped() && copy.token_of("secret-boot").is_some());
}
