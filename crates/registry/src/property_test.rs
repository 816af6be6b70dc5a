//! Random runs over few names, so that commands meet; the crate's invariants are checked after each.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use stdx::Instant;

use crate::machine_test::{check, node, service, session};
use crate::*;

const NODES: [&str; 2] = ["a", "b"];
const IDS: [&str; 3] = ["x", "y", "z"];
const NAMES: [&str; 3] = ["web", "db", "mail"];
const KEYS: [&str; 5] = ["k", "k/1", "k/2", "l/1", "l"];
const PREFIXES: [&str; 5] = ["", "k", "k/", "l", "none"];

#[derive(Clone, Debug)]
enum Step {
    Do(Box<Command>),
    /// Time passes, and what is due is done.
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let node_name = prop::sample::select(&NODES[..]);
    let id = prop::sample::select(&IDS[..]);
    let name = prop::sample::select(&NAMES[..]);
    let key = prop::sample::select(&KEYS[..]);
    let status = prop::sample::select(vec![Status::Passing, Status::Warning, Status::Critical]);
    let cas = prop::option::of(0..30u64);
    let command = prop_oneof![
        (node_name.clone(), 0..2u8).prop_map(|(name, port)| {
            Command::RegisterNode(NodeDefinition { address: format!("10.0.0.{port}"), ..node(name) })
        }),
        node_name.clone().prop_map(|name| Command::DeregisterNode { node: name.into() }),
        (node_name.clone(), id.clone(), name, status.clone(), 0..3u16, any::<bool>()).prop_map(
            |(node, id, name, status, port, replace_checks)| {
                let checks = vec![check(id, 10_000, status)];
                let service = ServiceDefinition { port, ..service(id, name) };
                Command::RegisterService { node: node.into(), service, checks, replace_checks }
            }
        ),
        (node_name.clone(), id.clone())
            .prop_map(|(node, id)| { Command::DeregisterService { node: node.into(), id: id.into() } }),
        (node_name.clone(), status.clone()).prop_map(|(node, status)| {
            let definition = CheckDefinition { id: "mem".into(), service_id: None, ..check("", 20_000, status) };
            Command::RegisterCheck { node: node.into(), check: definition }
        }),
        (node_name.clone(), id.clone())
            .prop_map(|(node, id)| { Command::DeregisterCheck { node: node.into(), id: format!("service:{id}") } }),
        (node_name, id, status).prop_map(|(node, id, status)| {
            let id = format!("service:{id}");
            Command::UpdateCheck { node: node.into(), id, status, output: String::new() }
        }),
        (key.clone(), 0..3u64, cas.clone()).prop_map(|(key, flags, cas)| {
            Command::KvPut(KvWrite { key: key.into(), value: vec![flags as u8], flags, cas })
        }),
        (key, cas).prop_map(|(key, cas)| Command::KvDelete { key: key.into(), cas }),
        prop::sample::select(&PREFIXES[..]).prop_map(|prefix| Command::KvDeleteTree { prefix: prefix.into() }),
        session_command(),
    ];
    prop_oneof![
        20 => command.prop_map(|command| Step::Do(Box::new(command))),
        4 => (1..70_000u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

const SESSIONS: [&str; 3] = ["s1", "s2", "s3"];

fn session_command() -> impl Strategy<Value = Command> {
    let id = prop::sample::select(&SESSIONS[..]);
    let key = prop::sample::select(&KEYS[..]);
    let lock = (key.clone(), id.clone()).prop_map(|(key, session)| KvLock {
        key: key.into(),
        value: session.as_bytes().to_vec(),
        flags: 0,
        session: session.into(),
    });
    let create = (id.clone(), prop::sample::select(&NODES[..]), any::<bool>(), any::<bool>(), any::<bool>());
    prop_oneof![
        create.prop_map(|(id, node, ttl, deletes, on_check)| Command::CreateSession(SessionDefinition {
            ttl: ttl.then_some(Duration::from_secs(10)),
            behavior: if deletes { Behavior::Delete } else { Behavior::Release },
            node_checks: if on_check { vec!["mem".into()] } else { Vec::new() },
            ..session(id, node)
        })),
        lock.clone().prop_map(Command::KvLock),
        lock.clone().prop_map(Command::KvUnlock),
        id.clone().prop_map(|id| Command::RenewSession { id: id.into() }),
        id.clone().prop_map(|id| Command::DestroySession { id: id.into() }),
        (lock, key.clone(), any::<bool>()).prop_map(|(lock, key, fails)| {
            let write = KvWrite { key: key.into(), value: b"t".to_vec(), flags: 0, cas: None };
            let mut ops = vec![TxnOp::KvSet(write), TxnOp::KvLock(lock)];
            ops.extend(fails.then(|| TxnOp::KvGet("never".into())));
            Command::Txn(ops)
        }),
    ]
}

/// What each watch shows, as text, without the indexes and what a renewal may change.
fn shown(registry: &Registry, watch: &Watch) -> String {
    let node = |node: &Node| format!("{:?}", node.definition);
    let service = |service: &Service| format!("{:?}", service.definition);
    let check = |check: &Check| format!("{:?} {}", check.definition, check.status);
    let checks = |name: &str| registry.checks_on(name).map(check).collect::<Vec<_>>().join(",");
    match watch {
        Watch::Nodes => registry.nodes().map(node).collect(),
        Watch::Node(name) => {
            let services: String = registry.services_on(name).map(service).collect();
            format!("{:?} {services} {}", registry.node(name).map(node), checks(name))
        }
        Watch::Services => format!("{:?}", registry.service_tags()),
        Watch::Service(name) => {
            let mut text = String::new();
            for (on, instance) in registry.instances_of(name) {
                let id = Some(&instance.definition.id);
                let of = |c: &&Check| c.definition.service_id.is_none() || c.definition.service_id.as_ref() == id;
                let found: Vec<String> = registry.checks_on(&on.definition.name).filter(of).map(check).collect();
                text.push_str(&format!("{} {} {found:?};", node(on), service(instance)));
            }
            text
        }
        Watch::Checks => NODES.iter().map(|name| format!("{name}: {};", checks(name))).collect(),
        Watch::Key(key) => format!("{:?}", registry.kv(key)),
        Watch::Prefix(prefix) => format!("{:?}", registry.kv_under(prefix).collect::<Vec<_>>()),
        Watch::Sessions => format!("{:?}", registry.sessions().collect::<Vec<_>>()),
        Watch::Session(id) => format!("{:?}", registry.session(id)),
        Watch::Events => format!("{:?}", registry.events().collect::<Vec<_>>()),
        Watch::Everything | Watch::Acl => String::new(),
    }
}

fn watches() -> Vec<Watch> {
    let mut all = vec![Watch::Nodes, Watch::Services, Watch::Checks, Watch::Sessions, Watch::Events];
    all.extend(SESSIONS.iter().map(|id| Watch::Session((*id).into())));
    all.extend(NODES.iter().map(|name| Watch::Node((*name).into())));
    all.extend(NAMES.iter().map(|name| Watch::Service((*name).into())));
    all.extend(KEYS.iter().map(|key| Watch::Key((*key).into())));
    all.extend(PREFIXES.iter().map(|prefix| Watch::Prefix((*prefix).into())));
    all
}

type Picture = BTreeMap<Watch, (u64, String)>;

fn picture(registry: &Registry) -> Picture {
    watches().into_iter().map(|watch| (watch.clone(), (registry.index_of(&watch), shown(registry, &watch)))).collect()
}

/// No index goes back.
fn invariant_indexes_never_go_back(before: &Picture, after: &Picture) -> Result<(), TestCaseError> {
    for (watch, (index, _)) in before {
        prop_assert!(after[watch].0 >= *index, "{watch:?} went back from {index} to {}", after[watch].0);
    }
    Ok(())
}

/// What shows something else has a greater index, and its readers are woken.
fn invariant_changes_are_told(before: &Picture, after: &Picture, woken: &[Watch]) -> Result<(), TestCaseError> {
    for (watch, (index, text)) in before {
        let (index_after, text_after) = &after[watch];
        if text != text_after {
            prop_assert!(index_after > index, "{watch:?} changed under index {index}");
            prop_assert!(woken.contains(watch), "{watch:?} changed and nobody was woken");
        }
    }
    Ok(())
}

/// A command about one service wakes no reader of another, and one about a key none of another key.
fn invariant_others_are_left_alone(before: &Registry, command: &Command, woken: &[Watch]) -> Result<(), TestCaseError> {
    let allowed: Option<Vec<String>> = match command {
        Command::RegisterService { node, service, .. } => {
            let old = before.service_on(node, &service.id).map(|old| old.definition.name.clone());
            Some([service.name.clone()].into_iter().chain(old).collect())
        }
        Command::DeregisterService { node, id } => {
            Some(before.service_on(node, id).map(|old| old.definition.name.clone()).into_iter().collect())
        }
        Command::KvPut(_)
        | Command::KvLock(_)
        | Command::KvUnlock(_)
        | Command::KvDelete { .. }
        | Command::KvDeleteTree { .. }
        | Command::Txn(_)
        | Command::CreateSession(_)
        | Command::RenewSession { .. }
        | Command::DestroySession { .. } => Some(Vec::new()),
        _ => None,
    };
    let keys: Vec<&Watch> = woken.iter().filter(|watch| matches!(watch, Watch::Key(_))).collect();
    match command {
        Command::KvPut(KvWrite { key, .. }) | Command::KvDelete { key, .. } => {
            prop_assert!(keys.iter().all(|watch| **watch == Watch::Key(key.clone())), "{keys:?}");
        }
        Command::KvLock(KvLock { key, .. }) | Command::KvUnlock(KvLock { key, .. }) => {
            prop_assert!(keys.iter().all(|watch| **watch == Watch::Key(key.clone())), "{keys:?}");
        }
        Command::KvDeleteTree { .. } | Command::Txn(_) => {}
        // Whatever ends a session gives its locks back.
        _ if before.sessions().next().is_some() => {}
        _ => prop_assert!(keys.is_empty(), "{keys:?}"),
    }
    for watch in woken {
        if let (Watch::Service(name), Some(allowed)) = (watch, &allowed) {
            prop_assert!(allowed.contains(name), "{command:?} woke the readers of {name}");
        }
    }
    Ok(())
}

/// Every lock is held by a session that lives; every session's node is there, and its checks are well.
fn invariant_locks_and_sessions_have_what_they_hang_on(registry: &Registry) -> Result<(), TestCaseError> {
    for (key, entry) in registry.kv_under("") {
        let holder = entry.session.as_ref();
        prop_assert!(holder.is_none_or(|id| registry.session(id).is_some()), "{key} is held by {holder:?}");
        let listed: Vec<&str> = SESSIONS.into_iter().filter(|id| registry.state().kv.holds(id, key)).collect();
        prop_assert_eq!(listed, holder.into_iter().map(String::as_str).collect::<Vec<_>>(), "of {}", key);
    }
    for session in registry.sessions() {
        let node = &session.definition.node;
        prop_assert!(registry.node(node).is_some(), "{session:?}");
        for id in &session.definition.node_checks {
            let check = registry.checks_on(node).find(|check| check.definition.id == *id);
            prop_assert!(check.is_some_and(|check| check.status != Status::Critical), "{session:?}");
        }
    }
    Ok(())
}

/// A transaction that fails leaves everything as it was.
fn invariant_a_failed_transaction_changes_nothing(
    before: &Registry,
    after: &Registry,
    answer: &Answer,
) -> Result<(), TestCaseError> {
    if matches!(answer, Answer::TxnFailed(_)) {
        prop_assert_eq!(picture(before), picture(after));
        prop_assert_eq!(before.index(), after.index());
    }
    Ok(())
}

fn woken_by(registry: &mut Registry) -> Vec<Watch> {
    registry.take_changes().iter().flat_map(Watch::with_prefixes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_in_random_runs(steps in prop::collection::vec(step(), 1..60)) {
        let limits = Limits { tombstones_max: 3, ..Limits::default() };
        let mut registry = Registry::with_limits(limits);
        let mut now_ms = 0;
        for step in steps {
            let before = registry.clone();
            let picture_before = picture(&before);
            match step {
                Step::Do(command) => {
                    let answer = registry.apply(Instant::from_millis(now_ms), (*command).clone());
                    invariant_a_failed_transaction_changes_nothing(&before, &registry, &answer)?;
                    let woken = woken_by(&mut registry);
                    invariant_changes_are_told(&picture_before, &picture(&registry), &woken)?;
                    invariant_others_are_left_alone(&before, &command, &woken)?;
                }
                Step::Wait(ms) => {
                    now_ms += ms;
                    registry.apply(Instant::from_millis(now_ms), Command::Tick);
                    let woken = woken_by(&mut registry);
                    invariant_changes_are_told(&picture_before, &picture(&registry), &woken)?;
                    let next = registry.next_timeout();
                    prop_assert!(next.is_none_or(|at| at > Instant::from_millis(now_ms)), "a deadline was left over");
                }
                Step::Restart => {
                    let bytes = registry.encode();
                    let decoded = Registry::decode(&bytes, Instant::from_millis(now_ms), limits);
                    registry = decoded.expect("our own snapshot");
                    prop_assert_eq!(picture(&registry), picture_before.clone(), "a restart changes nothing");
                }
            }
            invariant_indexes_never_go_back(&picture_before, &picture(&registry))?;
            invariant_locks_and_sessions_have_what_they_hang_on(&registry)?;
        }
    }

    /// What replicas do: one applies all commands, another begins from a snapshot half way. Commands and answers
    /// travel as bytes.
    #[test]
    fn a_replica_from_a_snapshot_does_not_differ(steps in prop::collection::vec(step(), 1..60), half in 0..60usize) {
        let mut first = Registry::new();
        let mut second: Option<Registry> = None;
        let mut now_ms = 0;
        for (at, step) in steps.into_iter().enumerate() {
            if at == half {
                second = Some(Registry::from_image(&first.encode(), Limits::default()).expect("our own snapshot"));
            }
            let command = match step {
                Step::Do(command) => *command,
                Step::Wait(ms) => { now_ms += ms; Command::Tick }
                Step::Restart => Command::GiveTime,
            };
            let now = Instant::from_millis(now_ms);
            let bytes = serde_json::to_vec(&command).expect("a command is JSON");
            let answer = first.apply(now, command);
            first.take_changes();
            if let Some(second) = &mut second {
                let read: Command = serde_json::from_slice(&bytes).expect("what was written is read");
                prop_assert_eq!(&second.apply(now, read), &answer);
                second.take_changes();
                prop_assert_eq!(second.next_timeout(), first.next_timeout());
                prop_assert!(second.encode() == first.encode());
            }
            let bytes = serde_json::to_vec(&answer).expect("an answer is JSON");
            prop_assert_eq!(serde_json::from_slice::<Answer>(&bytes).expect("what was written is read"), answer);
        }
    }

    #[test]
    fn the_same_commands_give_the_same_bytes(steps in prop::collection::vec(step(), 1..40)) {
        let run = || {
            let mut registry = Registry::new();
            let mut now_ms = 0;
            for step in steps.clone() {
                match step {
                    Step::Do(command) => drop(registry.apply(Instant::from_millis(now_ms), *command)),
                    Step::Wait(ms) => now_ms += ms,
                    Step::Restart => {}
                }
                registry.take_changes();
            }
            registry.encode()
        };
        prop_assert_eq!(run(), run());
    }
}
