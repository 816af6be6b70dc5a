//! How the fleet's services use discovery: registrations that keep themselves up, directories that outlive discovery,
//! nodes that form the ring together.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::consul::{Blocking, Consul, HealthQuery, ServiceRegistration, Status};
use client::fleet::{Directory, Fleet, STORAGE_NODE_SERVICE, VIEW_KEY};
use client::registration::Registration;
use client::ring_changes::{self, Raise, RingChangeError, note_copied};
use client::ring_forming::{EnterError, Newcomer, claim_incarnation, enter, synced, tell_synced};
use common::{Fixture, LONG, within};
use membership::{Change, ChangeError, ClusterId, Epoch, FormError, NodeId, Position, TOKENS, View};
use stdx::Prng;
use wire::node::PROTOCOL;

fn newcomer(id: u64) -> Newcomer {
    Newcomer {
        id: NodeId(id),
        name: format!("n{id}"),
        zone: None,
        cluster: None,
        hash_fingerprint: 7,
        replication: 3,
        forms_with: 5,
        protocol: PROTOCOL,
        weight: 1,
        last_view: None,
        replaces: None,
    }
}

fn storage_node(id: u64, port: u16, incarnation: u64) -> ServiceRegistration {
    let mut registration = ServiceRegistration::new(STORAGE_NODE_SERVICE, &format!("n{id}"), "127.0.0.1", port);
    for (name, value) in [
        ("node_id", NodeId(id).to_string()),
        ("name", format!("n{id}")),
        ("incarnation", incarnation.to_string()),
        ("http", format!("127.0.0.1:{}", port + 1)),
    ] {
        registration.meta.insert(name.to_owned(), value);
    }
    registration
}

/// Forms a ring of five through `consul`.
async fn form(consul: &Consul) -> View {
    let mut view = None;
    for id in 1..=5 {
        view = Some(enter(consul, &newcomer(id), &mut Prng::from_seed(id)).await.expect("it may enter"));
    }
    view.expect("five entered")
}

/// The first fleet seen that is as wanted.
async fn until(directory: &Directory, wanted: impl FnMut(&Arc<Fleet>) -> bool) -> Arc<Fleet> {
    let mut fleets = directory.watch();
    let found = within(fleets.wait_for(wanted)).await.expect("the directory lives");
    Arc::clone(&found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_race_all_get_in_with_tokens_of_their_own() {
    let discovery = Fixture::start();
    let mut racers = Vec::new();
    for id in 1..=5 {
        let consul = discovery.consul.clone();
        // The same seed for all: they draw the same tokens, and only compare-and-set keeps them apart.
        racers.push(tokio::spawn(async move { enter(&consul, &newcomer(id), &mut Prng::from_seed(1)).await }));
    }
    for racer in racers {
        within(racer).await.expect("no panic").expect("each gets in");
    }
    let view = enter(&discovery.consul, &newcomer(3), &mut Prng::from_seed(9)).await.expect("a member returns");
    assert_eq!((view.epoch, view.members.len()), (Epoch(1), 5));
    let tokens: BTreeSet<Position> = view.members.iter().flat_map(|member| member.tokens.clone()).collect();
    assert_eq!(tokens.len(), 5 * TOKENS);
    let late = enter(&discovery.consul, &newcomer(6), &mut Prng::from_seed(1)).await.expect("a formed ring takes it");
    assert!(late.is_joining(NodeId(6)) && late.epoch == Epoch(2), "{late:?}");
    let later = enter(&discovery.consul, &newcomer(7), &mut Prng::from_seed(1)).await;
    assert!(matches!(later, Err(EnterError::Change(ChangeError::Overlaps { .. }))), "{later:?}");
    let namesake = Newcomer { name: "n2".to_owned(), ..newcomer(8) };
    let refused = enter(&discovery.consul, &namesake, &mut Prng::from_seed(1)).await;
    assert!(matches!(refused, Err(EnterError::Refused(FormError::Amnesia { .. }))), "{refused:?}");
    for wrong in
        [Newcomer { cluster: Some(ClusterId(99)), ..newcomer(8) }, Newcomer { hash_fingerprint: 1, ..newcomer(8) }]
    {
        let refused = enter(&discovery.consul, &wrong, &mut Prng::from_seed(1)).await;
        assert!(matches!(refused, Err(EnterError::Refused(_))), "{refused:?}");
    }
    let heir = Newcomer { replaces: Some(NodeId(2)), ..namesake };
    let waits = enter(&discovery.consul, &heir, &mut Prng::from_seed(1)).await;
    assert!(matches!(waits, Err(EnterError::Change(ChangeError::Overlaps { .. }))), "{waits:?}");
    let joined = note_copied(&discovery.consul, NodeId(6), &[Epoch(2)]).await.expect("it is awaited");
    assert_eq!(joined.map(|view| (view.epoch, view.pending.len())), Some((Epoch(3), 0)));
    let replaced = enter(&discovery.consul, &heir, &mut Prng::from_seed(1)).await.expect("its turn has come");
    assert!(replaced.is_leaving(NodeId(2)) && replaced.is_joining(NodeId(8)), "{replaced:?}");
    discovery.consul.kv_put(VIEW_KEY, b"not a view").await.expect("written");
    let spoilt = enter(&discovery.consul, &newcomer(1), &mut Prng::from_seed(1)).await;
    assert!(matches!(spoilt, Err(EnterError::View(_))));
    discovery.stop().await;
}

/// Neither as a newcomer, nor in a lost one's place, nor as a member that returns; and nothing begins by it.
#[tokio::test]
async fn who_speaks_another_protocol_does_not_enter() {
    let discovery = Fixture::start();
    let view = form(&discovery.consul).await;
    assert_eq!(view.protocol, PROTOCOL, "the first one's");
    let heir = Newcomer { name: "n2".to_owned(), replaces: Some(NodeId(2)), ..newcomer(8) };
    for other in [PROTOCOL - 1, PROTOCOL + 1] {
        for who in [newcomer(6), heir.clone(), newcomer(1)] {
            let who = Newcomer { protocol: other, ..who };
            let refused = enter(&discovery.consul, &who, &mut Prng::from_seed(1)).await.expect_err("must be refused");
            let text = refused.to_string();
            let EnterError::Refused(FormError::OtherProtocol { ours, theirs }) = refused else { panic!("{text}") };
            assert_eq!((ours, theirs), (other, PROTOCOL));
            for part in [format!("protocol {other} "), format!("protocol {PROTOCOL},"), "stop all".to_owned()] {
                assert!(text.contains(&part), "{part} is missing in: {text}");
            }
        }
    }
    assert_eq!(ring_changes::read(&discovery.consul).await.expect("it is there"), view, "no epoch, no change");
    discovery.stop().await;
}

#[tokio::test]
async fn a_member_raises_the_protocol_when_no_other_is_at_work() {
    let discovery = Fixture::start();
    let consul = &discovery.consul;
    let view = form(consul).await;
    consul.register(&storage_node(1, 9_000, 1)).await.expect("registered");
    consul.register(&storage_node(2, 9_100, 1)).await.expect("registered");
    let raise =
        async |node| ring_changes::raise_protocol(consul, NodeId(node), PROTOCOL + 1).await.expect("discovery answers");
    assert!(matches!(raise(6).await, Raise::NotAMember));
    assert!(matches!(raise(1).await, Raise::Awaits(names) if names == ["n2"]), "itself it does not wait for");
    assert_eq!(ring_changes::read(consul).await.expect("it is there"), view);

    consul.check_fail("service:everring-storage-node-n2", "stopped").await.expect("failed");
    let raised = raise(1).await;
    let Raise::Raised(raised) = raised else { panic!("{raised:?}") };
    assert_eq!((raised.protocol, raised.epoch, raised.pending.len()), (PROTOCOL + 1, Epoch(2), 0));
    let later = Newcomer { protocol: PROTOCOL + 1, ..newcomer(2) };
    assert_eq!(enter(consul, &later, &mut Prng::from_seed(1)).await.expect("it may return"), raised);
    let earlier = enter(consul, &newcomer(3), &mut Prng::from_seed(1)).await;
    assert!(matches!(earlier, Err(EnterError::Refused(FormError::OtherProtocol { .. }))), "{earlier:?}");
    discovery.stop().await;
}

/// However a leave is asked for, it does not begin while it could not end.
#[tokio::test]
async fn a_leave_that_an_arc_would_not_survive_does_not_begin() {
    let discovery = Fixture::start();
    let consul = &discovery.consul;
    let view = form(consul).await;
    for id in 3..=5u16 {
        consul.register(&storage_node(u64::from(id), 9_000 + 10 * id, 1)).await.expect("registered");
    }
    let named = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
    let refusal = |error| match error {
        RingChangeError::Refused(ChangeError::NoMajority { away, .. }) => away,
        other => panic!("{other:?}"),
    };
    let given_up = ring_changes::give_up(consul, NodeId(1)).await.expect_err("n2 is away too");
    assert_eq!(refusal(given_up), ["n1", "n2"]);
    for (nodes, force, away) in [
        (named(&[1]), false, vec!["n1", "n2"]),
        (named(&[1, 2]), false, vec!["n1", "n2"]),
        (named(&[4]), false, vec!["n1", "n2"]),
        (named(&[4]), true, vec!["n1", "n2"]),
        (named(&[1]), true, vec!["n2"]),
    ] {
        let refused = ring_changes::leave(consul, &nodes, force).await.expect_err("it could not end");
        assert_eq!(refusal(refused), away, "{nodes:?}, by force: {force}");
    }
    assert_eq!(ring_changes::read(consul).await.expect("it is there"), view, "no epoch, no change");

    let forced = ring_changes::leave(consul, &named(&[1, 2]), true).await.expect("three are left");
    assert_eq!(forced.lost, named(&[1, 2]));
    assert!(!forced.losses.is_empty() && forced.losses.iter().all(|loss| loss.unreachable.len() == 2), "{forced:?}");
    let id = forced.id.expect("somebody must copy");
    ring_changes::change(consul, |view| view.abandon(id)).await.expect("it is under way");

    consul.register(&storage_node(2, 9_020, 1)).await.expect("registered");
    let alone = ring_changes::give_up(consul, NodeId(1)).await.expect("the others can spare it");
    let alone = alone.expect("it was this call that began it");
    let Change::Leave { lost, .. } = &alone.pending[0].change else { panic!("{alone:?}") };
    assert!(alone.is_leaving(NodeId(1)) && lost.is_empty());
    discovery.stop().await;
}

#[tokio::test]
async fn what_was_synced_only_grows() {
    let discovery = Fixture::start();
    let known = async || synced(&discovery.consul, NodeId(7)).await.expect("discovery answers");
    let tell = async |record| tell_synced(&discovery.consul, NodeId(7), record).await.expect("discovery answers");
    assert_eq!(known().await, None);
    tell(0).await;
    assert_eq!(known().await, Some(0));
    tell(70).await;
    tell(50).await;
    assert_eq!(known().await, Some(70), "an older start may still speak");
    discovery.stop().await;
}

#[tokio::test]
async fn incarnations_only_grow() {
    let discovery = Fixture::start();
    let claim = async |incarnation| {
        claim_incarnation(&discovery.consul, NodeId(7), incarnation).await.expect("discovery answers")
    };
    assert_eq!(claim(1).await, None);
    assert_eq!(claim(1).await, Some(1), "a copy of the data directory starts under the same number");
    assert_eq!(claim(2).await, None);
    assert_eq!(claim(9).await, None, "starts without discovery were counted by the disk alone");
    assert_eq!(claim(3).await, Some(9), "a directory from a backup");
    discovery.stop().await;
}

#[tokio::test]
async fn a_directory_follows_the_view_and_outlives_discovery() {
    let data = tempfile::tempdir().expect("a scratch directory");
    let discovery = Fixture::start_at("127.0.0.1:0", Some(data.path()));
    let address = discovery.address.clone();
    let cache = data.path().join("fleet.json");
    let directory = Directory::start(discovery.consul.clone(), Some(cache.clone()));
    assert!(!directory.current().is_known());
    let view = form(&discovery.consul).await;
    discovery.consul.register(&storage_node(1, 9_000, 1)).await.expect("registered");
    let fleet = until(&directory, |fleet| fleet.view.is_formed() && !fleet.nodes.is_empty()).await;
    assert_eq!(*fleet.view, view);
    assert_eq!(fleet.ring.arcs().len(), 5 * TOKENS);
    assert_eq!(fleet.nodes[&NodeId(1)].peer.port(), 9_000);
    assert_eq!(fleet.nodes[&NodeId(1)].http, "127.0.0.1:9001");
    discovery.stop().await;

    // Discovery is dead: the fleet stays, and a newcomer starts from the cache.
    assert_eq!(*directory.current(), *fleet);
    let dead = Consul::new(&format!("http://{address}")).expect("an address");
    let started_without = Directory::start(dead, Some(cache));
    assert_eq!(*started_without.current(), *fleet);

    // Discovery is back: both hear of changes again.
    let again = Fixture::start_at(&address, Some(data.path()));
    again.consul.register(&storage_node(1, 9_500, 2)).await.expect("registered");
    for directory in [&directory, &started_without] {
        let moved = until(directory, |fleet| fleet.nodes[&NodeId(1)].incarnation == 2).await;
        assert_eq!((moved.nodes[&NodeId(1)].peer.port(), &*moved.view), (9_500, &view));
    }
    drop((directory, started_without));
    again.stop().await;
}

#[tokio::test]
async fn a_critical_node_keeps_its_address() {
    let discovery = Fixture::start();
    let directory = Directory::start(discovery.consul.clone(), None);
    let short = ServiceRegistration { ttl: Duration::from_millis(200), ..storage_node(1, 9_000, 1) };
    discovery.consul.register(&short).await.expect("registered");
    until(&directory, |fleet| fleet.nodes.contains_key(&NodeId(1))).await;
    let passing = HealthQuery { passing: true, tag: None };
    let mut index = 0;
    loop {
        let wait = Some(Blocking { index, wait: LONG });
        let found = within(discovery.consul.health_service(STORAGE_NODE_SERVICE, &passing, wait)).await;
        let found = found.expect("an answer");
        if found.value.is_empty() {
            break;
        }
        index = found.index;
    }
    // A later change that the directory must see shows that it has seen the critical state too.
    discovery.consul.register(&storage_node(2, 9_100, 1)).await.expect("registered");
    let fleet = until(&directory, |fleet| fleet.nodes.contains_key(&NodeId(2))).await;
    assert_eq!(fleet.nodes[&NodeId(1)].peer.port(), 9_000);
    drop(directory);
    discovery.stop().await;
}

#[tokio::test]
async fn a_registration_comes_back_after_discovery_forgot_it() {
    let discovery = Fixture::start();
    let address = discovery.address.clone();
    let short = ServiceRegistration { ttl: Duration::from_millis(600), ..storage_node(1, 9_000, 1) };
    let registration = Registration::register(discovery.consul.clone(), short).await.expect("registered");
    assert!(registration.is_registered());
    discovery.stop().await;

    // Without a data directory the new one knows nothing.
    let again = Fixture::start_at(&address, None);
    let mut index = 0;
    loop {
        let wait = Some(Blocking { index, wait: LONG });
        let found = within(again.consul.health_service(STORAGE_NODE_SERVICE, &HealthQuery::default(), wait)).await;
        let found = found.expect("an answer");
        if found.value.iter().any(|entry| entry.checks.iter().all(|check| check.status == Status::Passing)) {
            break;
        }
        index = found.index;
    }
    registration.deregister().await.expect("deregistered");
    let left = again.consul.catalog_service(STORAGE_NODE_SERVICE, None).await.expect("an answer");
    assert_eq!(left.value, []);
    again.stop().await;
}

#[tokio::test]
async fn a_registration_revives_a_check_that_ran_out() {
    let discovery = Fixture::start();
    discovery.consul.register(&storage_node(1, 9_000, 1)).await.expect("registered");
    discovery.consul.check_fail("service:everring-storage-node-n1", "gone").await.expect("failed");
    let registration = Registration::start(discovery.consul.clone(), storage_node(1, 9_000, 2));
    let mut registered = registration.watch();
    within(registered.wait_for(|registered| *registered)).await.expect("it lives");
    let found = discovery.consul.health_service(STORAGE_NODE_SERVICE, &HealthQuery::default(), None).await;
    let found = found.expect("an answer").value;
    assert_eq!((found.len(), found[0].checks.len()), (1, 2), "with its own check and its node's");
    assert!(found[0].checks.iter().all(|check| check.status == Status::Passing));
    assert_eq!(found[0].service.meta["incarnation"], "2");
    registration.deregister().await.expect("deregistered");
    discovery.stop().await;
}
