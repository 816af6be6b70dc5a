//! Real storage nodes over real sockets and disks, with a real discovery; the test is their gateway.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use client::consul::Consul;
use client::fleet::{Directory, Fleet};
use membership::{BucketId, KeyHasher, NodeId};
use replication::{Change, Condition, Effect, Operation, Outcome, RegisterKey, RequestId, Terms, Value, Write};
use runtime::Peers;
use stdx::TraceContext;
use storage_node::{Config, Farewell, Parting, StartError};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use wire::http::Durability;
use wire::node::{Finding, Hello, Inquiry, PROTOCOL, Sender};

const SECRET: &str = "a secret of the test";
/// Nothing here takes nearly as long; it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<Farewell, StartError>>,
}

struct TestFleet {
    root: tempfile::TempDir,
    discovery: String,
    directory: Directory,
    peers: Peers,
    nodes: Vec<Node>,
    requests: u128,
}

impl TestFleet {
    async fn start(size: usize) -> TestFleet {
        let root = tempfile::tempdir().expect("a temporary directory");
        let bound = discovery::Discovery::bind(discovery::Config::new("127.0.0.1:0", "test"));
        let bound = bound.expect("discovery binds");
        let discovery = format!("http://{}", bound.address());
        spawn_local(bound.serve(std::future::pending()));
        let directory = Directory::start(Consul::new(&discovery).expect("an address"), None);
        let cluster = membership::ClusterId(KeyHasher::new(format!("cluster of {SECRET}").as_bytes()).fingerprint());
        let sender = Sender::Client { name: "test".to_owned() };
        let (peers, mut events) = Peers::new(Hello { protocol: PROTOCOL, cluster, sender });
        spawn_local(async move { while events.recv().await.is_some() {} });
        let mut fleet = TestFleet { root, discovery, directory, peers, nodes: Vec::new(), requests: 0 };
        for at in 0..size {
            let config = fleet.config(at, size);
            fleet.nodes.push(spawn(config));
        }
        fleet.until("every node is connected and ready", |fleet| fleet.nodes.len() == size).await;
        fleet
    }

    fn config(&self, at: usize, size: usize) -> Config {
        let any = "127.0.0.1:0".parse().expect("an address");
        Config {
            name: format!("n{}", at + 1),
            listen: any,
            peer_listen: any,
            advertise: None,
            discovery: self.discovery.as_str().into(),
            data: self.data(at),
            cluster_secret: SECRET.to_owned(),
            zone: None,
            weight: 1,
            replication: 3,
            ring_size: size,
            data_bytes_max: None,
            segment_bytes: Some(1 << 20),
            transfer_bytes_per_second: None,
            scrub_bytes_per_second: storage_node::BYTES_PER_SECOND_DEFAULT,
            grace: None,
            rejoin: false,
            trust_data: false,
        }
    }

    fn data(&self, at: usize) -> PathBuf {
        self.root.path().join(format!("n{}", at + 1))
    }

    /// Waits until the fleet satisfies `enough` and all its running nodes answer as ready.
    async fn until(&self, what: &str, enough: impl Fn(&Fleet) -> bool) {
        let mut watch = self.directory.watch();
        let seen = std::cell::RefCell::new(Vec::new());
        let wait = async {
            loop {
                let fleet = watch.borrow_and_update().clone();
                let addresses = fleet.nodes.iter().map(|(id, node)| (*id, node.peer)).collect();
                self.peers.set_addresses(addresses);
                if enough(&fleet) && fleet.view.is_formed() && self.all_ready(&fleet, &seen).await {
                    return;
                }
                if !enough(&fleet) {
                    *seen.borrow_mut() = vec![format!(
                        "{:?} pending {:?} nodes {:?}",
                        fleet.view.epoch, fleet.view.pending, fleet.nodes
                    )];
                }
                // Either the fleet changes, or its nodes' states do, which only asking tells.
                let _ = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never came: {what}; last seen: {:#?}", seen.borrow()));
    }

    fn id_of(&self, name: &str) -> NodeId {
        self.directory.current().view.member_named(name).expect("a member").id
    }

    /// Waits until another member than `former` has this name, all that this takes is over, and three nodes are ready.
    async fn until_renewed(&self, name: &str, former: NodeId, what: &str) {
        let renewed = |fleet: &Fleet| {
            let now = fleet.view.member_named(name).expect("the name stays");
            now.id != former && fleet.view.pending.is_empty() && fleet.nodes.len() == 3
        };
        self.until(what, renewed).await;
    }

    /// Writes a record that is not there yet, and sees it acknowledged.
    async fn record(&mut self, name: &str) {
        let put = self.put(name, "v", Condition::Absent);
        assert!(matches!(self.ask(put).await, Outcome::Done { .. }));
    }

    /// Waits until the node of this name takes connections under this start.
    async fn until_connected(&self, name: &str, incarnation: u64) {
        let mut watch = self.directory.watch();
        let wait = async {
            loop {
                let nodes = watch.borrow_and_update().nodes.clone();
                self.peers.set_addresses(nodes.iter().map(|(id, node)| (*id, node.peer)).collect());
                let found = nodes.iter().find(|(_, node)| node.name == name && node.incarnation == incarnation);
                if found.is_some_and(|(id, _)| self.peers.is_up(*id)) {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{name} never came back"));
    }

    async fn all_ready(&self, fleet: &Fleet, seen: &std::cell::RefCell<Vec<String>>) -> bool {
        let mut statuses = Vec::new();
        let mut ready = true;
        for (id, node) in &fleet.nodes {
            let text = match reqwest::get(format!("http://{}/status", node.http)).await {
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            ready &= text.contains("\"state\":\"ready\"") && self.peers.is_up(*id);
            statuses.push(format!(
                "{} connected={} {:?} {text}",
                node.name,
                self.peers.is_up(*id),
                self.peers.last_error(*id)
            ));
        }
        *seen.borrow_mut() = statuses;
        ready
    }

    async fn expect_all(&self, count: usize, when: &str) {
        for at in 0..count {
            assert_eq!(self.read(&format!("k{at}")).await, Some(format!("v{at}")), "k{at} {when}");
        }
    }

    fn key(&self, name: &str) -> RegisterKey {
        let key = Bytes::copy_from_slice(name.as_bytes());
        let position = KeyHasher::new(SECRET.as_bytes()).position(BucketId(1), &key);
        RegisterKey { position, bucket: BucketId(1), key }
    }

    fn put(&mut self, name: &str, body: &str, condition: Condition) -> Operation {
        self.requests += 1;
        let value = Value { body: Bytes::copy_from_slice(body.as_bytes()), content_type: Bytes::new() };
        Operation::Write(Write {
            key: self.key(name),
            request: RequestId(self.requests),
            first_sent_ms: 1,
            retry: false,
            condition,
            change: Change::Put(value),
            terms: Terms::default(),
        })
    }

    /// Asks the replicas in turn until one answers, as a gateway does.
    async fn ask(&self, operation: Operation) -> Outcome {
        let wait = async {
            loop {
                let replicas = self.directory.current().ring.replicas_of(operation.key().position);
                for node in replicas.iter() {
                    let call =
                        self.peers.call(*node, operation.clone(), Duration::from_millis(800), TraceContext::NONE);
                    match call.await {
                        Ok((Outcome::Refused(_) | Outcome::Unknown, _)) | Err(_) => {}
                        Ok((outcome, receipt)) => {
                            assert!(receipt.voters.len() >= 2, "a majority of three voted: {receipt:?}");
                            return outcome;
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("some replica answers")
    }

    async fn read(&self, name: &str) -> Option<String> {
        match self.ask(Operation::Read { key: self.key(name) }).await {
            Outcome::Value(found) => found.map(|(_, value)| String::from_utf8_lossy(&value.body).into_owned()),
            other => panic!("a read was answered by {other:?}"),
        }
    }

    /// Stops a node politely and waits until it is gone.
    async fn stop(&mut self, at: usize) {
        self.tell_to_end(at);
        self.end_of(at).await;
    }

    fn tell_to_end(&mut self, at: usize) {
        self.nodes[at].stop.take().expect("it runs").send(()).expect("it listens");
    }

    /// How a node ends that ends well.
    async fn end_of(&mut self, at: usize) -> Farewell {
        let ended = tokio::time::timeout(PATIENCE, &mut self.nodes[at].task).await.expect("it ends");
        ended.expect("no panic").expect("no error")
    }
}

fn spawn(config: Config) -> Node {
    spawn_parting(config, Parting::Drain)
}

/// A node that ends in this way when it is told to end.
fn spawn_parting(config: Config, parting: Parting) -> Node {
    let (stop, stopped) = oneshot::channel();
    let task = spawn_local(async move {
        storage_node::run(config, async move {
            let _ = stopped.await;
            parting
        })
        .await
        .inspect_err(|error| eprintln!("a node ended: {}", stdx::error_chain(error)))
    });
    Node { stop: Some(stop), task }
}

async fn refused(config: Config) -> String {
    let run = storage_node::run(config, std::future::pending());
    let ended = tokio::time::timeout(PATIENCE, run).await.expect("a start that cannot work ends");
    stdx::error_chain(&ended.expect_err("it must be refused"))
}

#[tokio::test]
async fn a_fleet_keeps_what_it_acknowledged_while_nodes_come_and_go() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            for at in 0..20 {
                let put = fleet.put(&format!("k{at}"), &format!("v{at}"), Condition::Absent);
                assert!(matches!(fleet.ask(put).await, Outcome::Done { effect: Effect::Created(_), .. }));
            }
            let again = fleet.put("k0", "other", Condition::Absent);
            let refused = fleet.ask(again).await;
            assert!(matches!(refused, Outcome::Done { effect: Effect::ConditionFailed(Some(_)), .. }), "{refused:?}");

            fleet.stop(0).await;
            assert_eq!(fleet.read("k3").await.as_deref(), Some("v3"), "two of three answer");
            let put = fleet.put("k3", "newer", Condition::Exists);
            assert!(matches!(fleet.ask(put).await, Outcome::Done { effect: Effect::Replaced(_), .. }));

            let back = fleet.config(0, 3);
            fleet.nodes[0] = spawn(back);
            fleet.until("n1 is back and has caught up", |fleet| fleet.nodes.len() == 3).await;
            // Now the other one goes: what was written while n1 was away must be there with its help.
            fleet.stop(1).await;
            assert_eq!(fleet.read("k3").await.as_deref(), Some("newer"));
            for at in 4..20 {
                assert_eq!(fleet.read(&format!("k{at}")).await, Some(format!("v{at}")));
            }
        })
        .await;
}

#[tokio::test]
async fn a_repeated_request_acts_once_at_whichever_node() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            fleet.requests += 1;
            let add = Write {
                key: fleet.key("counter"),
                request: RequestId(fleet.requests),
                first_sent_ms: 1,
                retry: true,
                condition: Condition::Always,
                change: Change::Add(5),
                terms: Terms::default(),
            };
            let replicas = fleet.directory.current().ring.replicas_of(add.key.position);
            for node in replicas.iter() {
                let call = fleet.peers.call(*node, Operation::Write(add.clone()), PATIENCE, TraceContext::NONE);
                let (outcome, _) = call.await.expect("a healthy node answers");
                assert!(matches!(outcome, Outcome::Done { effect: Effect::Created(_), .. }), "{outcome:?}");
            }
            assert_eq!(fleet.read("counter").await.as_deref(), Some("5"));
        })
        .await;
}

/// Asks until the node's answer is as wanted.
async fn inquire(fleet: &TestFleet, node: NodeId, inquiry: &Inquiry, wanted: impl Fn(&Finding) -> bool) {
    let last = std::cell::RefCell::new(None);
    let wait = async {
        loop {
            let asked = fleet.peers.inquire(node, inquiry.clone(), Duration::from_secs(1), TraceContext::NONE);
            let finding = asked.await;
            if finding.as_ref().is_ok_and(&wanted) {
                return;
            }
            *last.borrow_mut() = Some(finding);
            tokio::task::yield_now().await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, wait).await;
    assert!(came.is_ok(), "{node:?} to {inquiry:?}: {:?}", last.borrow());
}

/// A write of a key of an available bucket, made by the first node.
async fn put_available(fleet: &TestFleet, durability: Durability, key: &RegisterKey, request: RequestId) {
    let value = Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() };
    let write = available::Write {
        key: key.clone(),
        kind: available::Kind::Value,
        request,
        first_sent_ms: 1,
        context: None,
        order: 1,
        firm: false,
        change: available::Change::Put(value),
    };
    let (level, past) = (available::Level::Causal, available::Past::default());
    let action = available::Action::Write(write);
    let operation = available::Operation { key: key.clone(), level, past, stand_in: false, action };
    let node = *fleet.directory.current().nodes.keys().next().expect("a node");
    let call = fleet.peers.call_available(node, (durability, operation), PATIENCE, TraceContext::NONE);
    let (outcome, _) = call.await.expect("a healthy node answers");
    assert!(matches!(outcome, available::Outcome::Done { .. }), "{outcome:?}");
}

#[tokio::test]
async fn each_replica_tells_what_it_holds_and_of_which_key_a_request_was_after_a_restart_too() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            let put = fleet.put("k", "four", Condition::Absent);
            fleet.ask(put).await;
            let register = fleet.key("k");
            let (disk, memory) = (RegisterKey { bucket: BucketId(2), ..register.clone() }, BucketId(3));
            let memory = RegisterKey { bucket: memory, ..register.clone() };
            put_available(&fleet, Durability::Disk, &disk, RequestId(7)).await;
            put_available(&fleet, Durability::Memory, &memory, RequestId(8)).await;
            let one = |key: &RegisterKey| Finding::Request(vec![key.clone()]);
            let (in_register, on_disk) = (one(&register), one(&disk));
            let nodes: Vec<NodeId> = fleet.directory.current().nodes.keys().copied().collect();
            for node in &nodes {
                inquire(&fleet, *node, &Inquiry::Request(RequestId(1)), |found| *found == in_register).await;
                inquire(&fleet, *node, &Inquiry::Request(RequestId(7)), |found| *found == on_disk).await;
                inquire(&fleet, *node, &Inquiry::Request(RequestId(8)), |found| *found == one(&memory)).await;
                inquire(&fleet, *node, &Inquiry::Request(RequestId(9)), |found| *found == Finding::Request(vec![]))
                    .await;
                inquire(
                    &fleet,
                    *node,
                    &Inquiry::Register(register.clone()),
                    |found| matches!(found, Finding::Register(held) if held.replica && held.size == Some(4)),
                )
                .await;
                inquire(&fleet, *node, &Inquiry::Available(Durability::Disk, disk.clone()), |found| {
                    let Finding::Available(known) = found else { return false };
                    let dot = known.alive.first().is_some_and(|dot| known.context.covers(*dot));
                    // The writer learns from the others' beats that they have it.
                    dot && known.home && known.counts && known.alive_count == 1 && known.owes.is_empty()
                })
                .await;
            }
            fleet.stop(0).await;
            let back = fleet.config(0, 3);
            fleet.nodes[0] = spawn(back);
            fleet.until("n1 is back", |fleet| fleet.nodes.len() == 3).await;
            for node in nodes {
                inquire(&fleet, node, &Inquiry::Request(RequestId(1)), |found| *found == in_register).await;
                inquire(&fleet, node, &Inquiry::Request(RequestId(7)), |found| *found == on_disk).await;
            }
        })
        .await;
}

#[tokio::test]
async fn the_ring_closes_and_looks_up_owners() {
    LocalSet::new()
        .run_until(async {
            let fleet = TestFleet::start(4).await;
            let current = fleet.directory.current();
            let all: BTreeSet<NodeId> = current.nodes.keys().copied().collect();
            let target = fleet.key("some key").position;
            let owner = current.ring.replicas_of(target)[0];
            let wait = async {
                // The ring closes by stabilizing: ask until every node finds its way to the owner.
                let mut closed = false;
                while !closed {
                    closed = true;
                    for start in &all {
                        closed &= lookup(&fleet, *start, target).await == Some(owner);
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, wait).await.expect("the ring closes");
        })
        .await;
}

/// Follows the fingers from one node to the owner, hop by hop.
async fn lookup(fleet: &TestFleet, start: NodeId, target: membership::Position) -> Option<NodeId> {
    let (mut node, mut at) = (start, None);
    for _ in 0..32 {
        let hop = fleet
            .peers
            .lookup(node, target, at, wire::node::LookupBy::Fingers, Duration::from_secs(1), TraceContext::NONE)
            .await;
        match hop.ok()?? {
            chord::NextHop::Owner(owner) => return Some(owner.node),
            chord::NextHop::Ask(next) => (node, at) = (next.node, Some(next.position)),
        }
    }
    None
}

/// Joins, leaves and a lost disk, while every record stays readable.
#[tokio::test]
async fn a_fleet_grows_shrinks_and_replaces_a_lost_disk() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            for at in 0..60 {
                let put = fleet.put(&format!("k{at}"), &format!("v{at}"), Condition::Absent);
                assert!(matches!(fleet.ask(put).await, Outcome::Done { effect: Effect::Created(_), .. }));
            }
            for at in 3..5 {
                let joins = fleet.config(at, 3);
                fleet.nodes.push(spawn(joins));
                fleet.until("it has joined", |f| f.view.members.len() == at + 1 && f.view.pending.is_empty()).await;
            }
            fleet.expect_all(60, "after two joins").await;

            // n2 leaves, and its process ends by itself.
            let consul = Consul::new(&fleet.discovery).expect("an address");
            let n2 = fleet.id_of("n2");
            let left =
                client::ring_changes::change(&consul, |view| view.begin_leave(BTreeSet::from([n2]), false)).await;
            assert!(left.expect("five can spare one").is_leaving(n2));
            let ended = tokio::time::timeout(PATIENCE, &mut fleet.nodes[1].task).await.expect("it ends");
            assert_eq!(ended.expect("no panic").expect("leaving is no failure"), Farewell::Retired);
            let back = refused(fleet.config(1, 3)).await;
            assert!(back.contains("has left the ring"), "{back}");
            fleet.until("n2 is out", |f| f.view.member(n2).is_none() && f.nodes.len() == 4).await;
            fleet.expect_all(60, "after n2 left").await;

            // n3 comes back without its data: as somebody new, under its old name, with its old tokens.
            let before = fleet.directory.current().view.member_named("n3").expect("a member").clone();
            fleet.stop(2).await;
            let emptied = Config { data: fleet.data(9), ..fleet.config(2, 3) };
            fleet.nodes[2] = spawn(emptied);
            let replaced = |f: &Fleet| {
                let now = f.view.member_named("n3").expect("the name stays");
                now.id != before.id && now.tokens == before.tokens && f.view.pending.is_empty() && f.nodes.len() == 4
            };
            fleet.until("n3 is replaced", replaced).await;
            fleet.expect_all(60, "after a lost disk").await;
        })
        .await;
}

/// A copy of a data directory is recognised, whether its node runs or has moved on.
#[tokio::test]
async fn a_copied_data_directory_is_no_second_self() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            fleet.record("k").await;
            let id = fleet.id_of("n1");
            copy_directory(&fleet.data(0), &fleet.data(8));
            let twin = Config { data: fleet.data(8), ..fleet.config(0, 3) };
            let twin = refused(twin).await;
            assert!(twin.contains("a copy of a data directory in use"), "{twin}");

            // The node starts again, so that the copy is of an earlier start; then only the copy is left.
            fleet.stop(0).await;
            let back = fleet.config(0, 3);
            fleet.nodes[0] = spawn(back);
            fleet.until("n1 is back", |fleet| fleet.nodes.len() == 3).await;
            fleet.stop(0).await;
            let restored = Config { data: fleet.data(8), ..fleet.config(0, 3) };
            fleet.nodes[0] = spawn(restored);
            fleet.until_renewed("n1", id, "the copy has become a new member").await;
            assert_eq!(fleet.read("k").await.as_deref(), Some("v"));
        })
        .await;
}

/// A node that is told to leave does so when the change can end, and not before.
#[tokio::test]
async fn a_leave_waits_for_those_it_needs() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(5).await;
            for at in 0..20 {
                let put = fleet.put(&format!("k{at}"), &format!("v{at}"), Condition::Absent);
                assert!(matches!(fleet.ask(put).await, Outcome::Done { effect: Effect::Created(_), .. }));
            }
            // Two nodes that leave when they are told to end: one has no time to wait for anybody.
            for (at, within) in [(0, Duration::from_millis(1)), (1, PATIENCE)] {
                fleet.stop(at).await;
                fleet.nodes[at] = spawn_parting(fleet.config(at, 5), Parting::Leave(within));
            }
            fleet.until("both are back", |fleet| fleet.nodes.len() == 5).await;
            let before = fleet.directory.current().view.clone();
            let n2 = before.member_named("n2").expect("a member").id;
            fleet.stop(3).await;
            fleet.stop(4).await;

            fleet.tell_to_end(1);
            fleet.tell_to_end(0);
            assert_eq!(fleet.end_of(0).await, Farewell::Drained, "it comes back");
            let consul = Consul::new(&fleet.discovery).expect("an address");
            assert_eq!(client::ring_changes::read(&consul).await.expect("it is there"), *before, "nothing has begun");

            for at in [0, 3, 4] {
                fleet.nodes[at] = spawn(fleet.config(at, 5));
            }
            assert_eq!(fleet.end_of(1).await, Farewell::Retired);
            fleet.until("n2 is out", |f| f.view.member(n2).is_none() && f.nodes.len() == 4).await;
            fleet.expect_all(20, "after n2 left").await;
        })
        .await;
}

/// A copy of the present data directory, while its node is away: what the node went on to promise is not in it.
#[tokio::test]
async fn a_copy_of_the_present_is_used_by_nobody_unasked() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            fleet.record("k").await;
            let id = fleet.id_of("n1");
            copy_directory(&fleet.data(0), &fleet.data(8));
            fleet.stop(0).await;

            // With one of the others alone, nobody could copy what the two of them may have decided.
            fleet.stop(1).await;
            let copy = Config { data: fleet.data(8), ..fleet.config(0, 3) };
            let refusal = refused(copy.clone()).await;
            for part in ["it is a copy, or was moved", "Start the other nodes", "--trust-data"] {
                assert!(refusal.contains(part), "{part} is missing in: {refusal}");
            }
            fleet.nodes[1] = spawn(fleet.config(1, 3));
            fleet.until_connected("n2", 2).await;
            fleet.nodes[0] = spawn(copy);
            fleet.until_renewed("n1", id, "the copy has become a new member").await;
            assert_eq!(fleet.read("k").await.as_deref(), Some("v"));
        })
        .await;
}

/// Whoever moves directories whole can say so, be it all of them, and keeps the members.
#[tokio::test]
async fn a_fleet_that_is_moved_whole_is_trusted_when_its_people_say_so() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            fleet.record("k").await;
            let before = fleet.directory.current().view.clone();
            for at in 0..3 {
                fleet.stop(at).await;
                copy_directory(&fleet.data(at), &fleet.data(at + 5));
            }
            let moved = |fleet: &TestFleet, at| Config { data: fleet.data(at + 5), ..fleet.config(at, 3) };
            for at in 0..3 {
                let refusal = refused(moved(&fleet, at)).await;
                assert!(refusal.contains("it is a copy, or was moved"), "{refusal}");
            }
            for at in 0..3 {
                fleet.nodes[at] = spawn(Config { trust_data: true, ..moved(&fleet, at) });
            }
            fleet.until("all are back", |fleet| fleet.nodes.len() == 3).await;
            assert_eq!(fleet.read("k").await.as_deref(), Some("v"));
            // From now on that is where they are.
            fleet.stop(1).await;
            fleet.nodes[1] = spawn(moved(&fleet, 1));
            fleet.until("n2 is back without a word", |fleet| fleet.nodes.len() == 3).await;
            assert_eq!(fleet.directory.current().view.members, before.members);
        })
        .await;
}

/// An older state of the same start is put back in the same place: the log ends before what was synced.
#[tokio::test]
async fn a_directory_that_was_rolled_back_begins_anew() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            let id = fleet.id_of("n1");
            let consul = Consul::new(&fleet.discovery).expect("an address");
            let told = async || client::ring_forming::synced(&consul, id).await.expect("it answers").unwrap_or(0);
            fleet.record("k").await;
            copy_directory(&fleet.data(0), &fleet.data(8));
            let before = told().await;
            let wait = async {
                let mut count = 0;
                while told().await <= before + 1 {
                    count += 1;
                    fleet.record(&format!("k{count}")).await;
                }
                count
            };
            let count =
                tokio::time::timeout(PATIENCE, wait).await.expect("discovery is told how far the log is synced");
            fleet.stop(0).await;
            let log = fleet.data(0).join("log");
            for entry in std::fs::read_dir(&log).expect("it is there").flatten() {
                std::fs::remove_file(entry.path()).expect("it can be removed");
            }
            copy_directory(&fleet.data(8), &fleet.data(0));
            fleet.nodes[0] = spawn(fleet.config(0, 3));
            fleet.until_renewed("n1", id, "what was put back has become a new member").await;
            for at in 1..=count {
                assert_eq!(fleet.read(&format!("k{at}")).await.as_deref(), Some("v"));
            }
        })
        .await;
}

/// Sets the protocol of the ring's view, as a fleet of other programs would have it.
async fn speak(fleet: &TestFleet, protocol: u16) -> membership::View {
    let consul = Consul::new(&fleet.discovery).expect("an address");
    let set = client::ring_changes::change(&consul, |view| {
        Ok(membership::View { epoch: membership::Epoch(view.epoch.0 + 1), protocol, ..view.clone() })
    });
    set.await.expect("discovery takes it")
}

/// A fleet goes on to another protocol when it is stopped as a whole and started again, and in no other way.
#[tokio::test]
async fn a_fleet_goes_on_to_another_protocol_together() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;
            fleet.record("k").await;
            let consul = Consul::new(&fleet.discovery).expect("an address");
            let read = async || client::ring_changes::read(&consul).await.expect("it is there");

            for (spoken, told) in [(PROTOCOL - 1, "stop all its storage nodes"), (PROTOCOL + 1, "start the version")] {
                let view = speak(&fleet, spoken).await;
                let newcomer = refused(fleet.config(3, 3)).await;
                for part in [format!("protocol {PROTOCOL} "), format!("the ring protocol {spoken},"), told.to_owned()] {
                    assert!(newcomer.contains(&part), "{part} is missing in: {newcomer}");
                }
                assert_eq!(read().await, view, "no epoch, no change");
            }
            // A member is refused too where the ring is further than its program.
            fleet.stop(0).await;
            let member = refused(fleet.config(0, 3)).await;
            assert!(member.contains(&format!("the ring protocol {},", PROTOCOL + 1)), "{member}");

            // Where it is behind, the member waits until nobody speaks the old one any more.
            let view = speak(&fleet, PROTOCOL - 1).await;
            fleet.nodes[0] = spawn(fleet.config(0, 3));
            fleet.stop(1).await;
            assert_eq!(read().await, view, "n3 is still at work");
            fleet.stop(2).await;
            for at in [1, 2] {
                fleet.nodes[at] = spawn(fleet.config(at, 3));
            }
            fleet.until("all are back, in the new one", |f| f.view.protocol == PROTOCOL && f.nodes.len() == 3).await;
            assert_eq!(fleet.read("k").await.as_deref(), Some("v"));
        })
        .await;
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("it has a type").is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    LocalSet::new()
        .run_until(async {
            let mut fleet = TestFleet::start(3).await;

            let locked = refused(fleet.config(0, 3)).await;
            assert!(locked.contains("in use by another process"), "{locked}");

            // A node of n1's name without its data must not vote in its place, and n1 is there.
            let forgetful = Config { data: fleet.data(7), ..fleet.config(0, 3) };
            let forgetful = refused(forgetful).await;
            assert!(forgetful.contains("must not vote"), "{forgetful}");
            fleet.stop(0).await;

            let other_cluster = Config { cluster_secret: "another".to_owned(), ..fleet.config(0, 3) };
            let other_cluster = refused(other_cluster).await;
            assert!(other_cluster.contains("belongs to the cluster"), "{other_cluster}");

            let other_name = Config { name: "n7".to_owned(), ..fleet.config(0, 3) };
            let other_name = refused(other_name).await;
            assert!(other_name.contains("n1"), "{other_name}");

            let nowhere = Config { discovery: "http://127.0.0.1:9".into(), data: fleet.data(6), ..fleet.config(6, 3) };
            let nowhere = refused(nowhere).await;
            assert!(nowhere.contains("start it first"), "{nowhere}");

            let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let taken = Config { listen: holder.local_addr().expect("bound"), ..fleet.config(0, 3) };
            let taken = refused(taken).await;
            assert!(taken.contains("cannot listen"), "{taken}");
        })
        .await;
}
