//! Blocking queries: they end when what they show changes, and not when something else does.

mod common;

use std::time::Duration;

use client::consul::{Blocking, HealthQuery, ServiceRegistration, Status};
use common::{Fixture, LONG, index, within};

fn waiting(index: u64) -> Option<Blocking> {
    Some(Blocking { index, wait: LONG })
}

fn instance(name: &str, id: &str) -> ServiceRegistration {
    ServiceRegistration::new(name, id, "127.0.0.1", 80)
}

/// Resolves once `count` different things are waited for, as the readiness page tells.
async fn until_waiting(discovery: &Fixture, count: usize) {
    // The checker waits for its node all the time.
    let wanted = format!("{} things are waited for", count + 1);
    within(async {
        loop {
            let url = format!("{}/readyz?verbose", discovery.base);
            let page = discovery.http.get(url).send().await.expect("an answer").text().await.expect("a body");
            if page.contains(&wanted) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_ends_the_wait_and_anothers_does_not() {
    let discovery = Fixture::start();
    discovery.consul.register(&instance("web", "1")).await.expect("registered");
    let before = discovery.consul.health_service("web", &HealthQuery::default(), None).await.expect("an answer");
    let waiter = tokio::spawn({
        let consul = discovery.consul.clone();
        async move { consul.health_service("web", &HealthQuery::default(), waiting(before.index)).await }
    });
    until_waiting(&discovery, 1).await;

    // Changes of others: each is acknowledged only after its waiters were woken, so the wait would have ended by now.
    discovery.consul.register(&instance("db", "1")).await.expect("registered");
    discovery.consul.kv_put("web", b"v").await.expect("written");
    discovery.consul.check_pass("service:web-1").await.expect("renewed");
    discovery.consul.deregister("db-1").await.expect("deregistered");
    until_waiting(&discovery, 1).await;
    assert!(!waiter.is_finished(), "nothing of this service has changed");

    discovery.consul.register(&instance("web", "2")).await.expect("registered");
    let after = within(waiter).await.expect("no panic").expect("an answer");
    assert!(after.index > before.index);
    assert_eq!(after.value.len(), 2);
    until_waiting(&discovery, 0).await;
    discovery.stop().await;
}

#[tokio::test]
async fn keys_and_prefixes_wake_their_own_readers_only() {
    let discovery = Fixture::start();
    let absent = discovery.consul.kv_get("a/new", None).await.expect("an answer");
    assert_eq!(absent.value, None);
    let other = discovery.consul.kv_get("b/new", None).await.expect("an answer");
    let listed = discovery.consul.kv_list("a/", None).await.expect("an answer");
    let consul = &discovery.consul;
    let of_key = tokio::spawn({
        let consul = consul.clone();
        async move { consul.kv_get("a/new", waiting(absent.index)).await }
    });
    let of_other = tokio::spawn({
        let consul = consul.clone();
        async move { consul.kv_get("b/new", waiting(other.index)).await }
    });
    let of_prefix = tokio::spawn({
        let consul = consul.clone();
        async move { consul.kv_list("a/", waiting(listed.index)).await }
    });
    until_waiting(&discovery, 3).await;
    assert!(consul.kv_cas("a/new", b"1", 0).await.expect("an answer"));
    let woken = within(of_key).await.expect("no panic").expect("an answer");
    assert_eq!(woken.value.map(|pair| pair.value), Some(b"1".to_vec()));
    let woken = within(of_prefix).await.expect("no panic").expect("an answer");
    assert_eq!(woken.value.len(), 1);
    until_waiting(&discovery, 1).await;
    assert!(!of_other.is_finished());

    // A deletion is a change too.
    let held = consul.kv_get("a/new", None).await.expect("an answer");
    let of_key = tokio::spawn({
        let consul = consul.clone();
        async move { consul.kv_get("a/new", waiting(held.index)).await }
    });
    until_waiting(&discovery, 2).await;
    let modified = held.value.expect("it stands").modify_index;
    assert!(consul.kv_delete_cas("a/new", modified).await.expect("an answer"));
    let woken = within(of_key).await.expect("no panic").expect("an answer");
    assert_eq!(woken.value, None);
    assert!(woken.index > held.index);
    of_other.abort();
    discovery.stop().await;
}

#[tokio::test]
async fn a_reader_hears_of_a_burst_of_changes_together_and_of_the_last_one_surely() {
    const CHANGES: u64 = 200;
    let discovery = Fixture::start();
    discovery.consul.kv_put("k", b"0").await.expect("written");
    let begun = std::time::Instant::now();
    let writer = tokio::spawn({
        let consul = discovery.consul.clone();
        async move {
            for number in 1..=CHANGES {
                consul.kv_put("k", number.to_string().as_bytes()).await.expect("written");
            }
        }
    });
    let (mut index, mut told) = (discovery.consul.kv_get("k", None).await.expect("an answer").index, 0);
    loop {
        let answer = within(discovery.consul.kv_get("k", waiting(index))).await.expect("an answer");
        assert!(answer.index > index, "nothing has changed, and it has been told");
        (index, told) = (answer.index, told + 1);
        if answer.value.expect("it stands").value == CHANGES.to_string().as_bytes() {
            break;
        }
    }
    // However long the changes took: each answer took 50 ms at least.
    let most = begun.elapsed().as_millis() / 50;
    assert!(told <= most, "told {told} times, at most {most} times in this time");
    writer.await.expect("no panic");
    discovery.stop().await;
}

#[tokio::test]
async fn a_check_that_is_not_renewed_turns_critical() {
    let discovery = Fixture::start();
    let registration = ServiceRegistration { ttl: Duration::from_millis(300), ..instance("web", "1") };
    discovery.consul.register(&registration).await.expect("registered");
    let passing = HealthQuery { passing: true, tag: None };
    let before = discovery.consul.health_service("web", &passing, None).await.expect("an answer");
    assert_eq!(before.value.len(), 1);
    let after =
        within(discovery.consul.health_service("web", &passing, waiting(before.index))).await.expect("an answer");
    assert_eq!(after.value.len(), 0, "it is not among the passing any more");
    let all = discovery.consul.health_service("web", &HealthQuery::default(), None).await.expect("an answer");
    let own = all.value[0].checks.iter().find(|check| check.id == "service:web-1");
    let check = own.expect("its own check");
    assert_eq!((check.status, check.output.as_str()), (Status::Critical, "TTL expired"));
    discovery.consul.check_pass("service:web-1").await.expect("renewed");
    let again = discovery.consul.health_service("web", &passing, None).await.expect("an answer");
    assert_eq!(again.value.len(), 1);
    discovery.stop().await;
}

#[tokio::test]
async fn index_zero_an_old_index_and_one_from_the_future_do_not_wait() {
    let discovery = Fixture::start();
    discovery.consul.kv_put("k", b"1").await.expect("written");
    discovery.consul.kv_put("k", b"2").await.expect("written");
    let now = index(&discovery.get("kv/k").await);
    for asked in [0, now - 1, now + 1_000] {
        let answer = discovery.get(&format!("kv/k?index={asked}&wait=10m")).await;
        assert_eq!(index(&answer), now, "asked with {asked}");
    }
    discovery.stop().await;
}

#[tokio::test]
async fn a_wait_ends_with_its_time_and_the_same_index() {
    let discovery = Fixture::start();
    let before = index(&discovery.get("health/service/web").await);
    let began = std::time::Instant::now();
    let answer = discovery.get(&format!("health/service/web?index={before}&wait=200ms")).await;
    assert_eq!(index(&answer), before);
    assert!(began.elapsed() >= Duration::from_millis(200));
    discovery.stop().await;
}

#[tokio::test]
async fn stopping_answers_those_who_wait() {
    let discovery = Fixture::start();
    let before = discovery.consul.kv_get("k", None).await.expect("an answer");
    let waiter = tokio::spawn({
        let consul = discovery.consul.clone();
        async move { consul.kv_get("k", waiting(before.index)).await }
    });
    until_waiting(&discovery, 1).await;
    discovery.stop().await;
    let answer = within(waiter).await.expect("no panic").expect("an answer, not a reset");
    assert_eq!((answer.index, answer.value), (before.index, None));
}
