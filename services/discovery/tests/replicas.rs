//! Several replicas over real sockets and disks: they form, forward, outlive ends, say when they are a minority, and
//! take in one that lost its disk.

mod common;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use client::consul::{Consul, ReplicaInfo, ServiceRegistration};
use common::{Fixture, LONG, header};
use discovery::{Config, Replicas};
use tempfile::TempDir;

/// Three replicas, each with a directory of its own.
struct Trio {
    data: TempDir,
    founders: Vec<(String, String)>,
    https: Vec<String>,
    running: Vec<Option<Fixture>>,
}

/// A port that was free just now.
fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

impl Trio {
    async fn start() -> Trio {
        let founders = (1..=3).map(|number| (format!("d{number}"), free())).collect();
        let data = tempfile::tempdir().expect("a scratch directory");
        let https = (1..=3).map(|_| free()).collect();
        let mut trio = Trio { data, founders, https, running: vec![None, None, None] };
        for at in 0..3 {
            trio.run(at);
        }
        trio.until_whole().await;
        trio
    }

    fn run(&mut self, at: usize) {
        let (name, peer) = self.founders[at].clone();
        let replicas = Replicas {
            listen: peer,
            advertise: None,
            advertise_http: None,
            founders: self.founders.clone(),
            secret: "secret".to_owned(),
        };
        let data = Some(self.data.path().join(&name));
        let config = Config { data, replicas: Some(replicas), ..Config::new(&self.https[at], &name) };
        self.running[at] = Some(Fixture::start_with(config));
    }

    fn at(&self, at: usize) -> &Fixture {
        self.running[at].as_ref().expect("it runs")
    }

    /// One that runs.
    fn any(&self) -> &Fixture {
        self.running.iter().flatten().next().expect("one runs")
    }

    /// A client of all three.
    fn client(&self) -> Consul {
        let urls: Vec<String> = self.https.iter().map(|http| format!("http://{http}")).collect();
        Consul::new(&urls.join(",")).expect("addresses")
    }

    /// Stops one. It lets another one lead first; how it is when it cannot is shown by `everring up --chaos`, and by
    /// the simulation.
    async fn end(&mut self, at: usize) {
        self.running[at].take().expect("it runs").stop().await;
    }

    /// Until three vote, and all that run know who leads.
    async fn until_whole(&self) -> Vec<ReplicaInfo> {
        eventually(async || {
            let replicas = self.any().consul.replicas().await.ok()?;
            let votes = replicas.iter().filter(|replica| replica.voter).count();
            (votes == 3 && replicas.len() == 3 && replicas.iter().any(|replica| replica.leader)).then_some(replicas)
        })
        .await
    }

    async fn leader(&self) -> usize {
        let replicas = self.until_whole().await;
        let leader = replicas.into_iter().find(|replica| replica.leader).expect("one leads");
        self.founders.iter().position(|(name, _)| *name == leader.name).expect("a founder")
    }

    async fn stop(self) {
        for fixture in self.running.into_iter().flatten() {
            fixture.stop().await;
        }
    }
}

/// Asks again and again until there is something.
async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, found).await.expect("this must not take so long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_replica_takes_writes_and_shows_those_of_the_others() {
    let trio = Trio::start().await;
    for at in 0..3 {
        let key = format!("k{at}");
        assert!(trio.at(at).consul.kv_put(&key, b"v").await.expect("written"));
        for other in 0..3 {
            let answer = trio.at(other).get(&format!("kv/{key}?raw")).await;
            assert_eq!(header(&answer, "X-Consul-KnownLeader"), "true");
            assert_eq!(answer.text().await.expect("a body"), "v", "written at {at}, read at {other}");
            let consistent = trio.at(other).get(&format!("kv/{key}?raw&consistent")).await;
            assert_eq!(header(&consistent, "X-Consul-Effective-Consistency"), "consistent");
        }
    }
    let both = trio.at(0).get("kv/k0?stale&consistent").await;
    assert_eq!(both.status().as_u16(), 400);
    let mut indexes = BTreeSet::new();
    for at in 0..3 {
        let leader = trio.at(at).get_json("status/leader").await;
        assert_eq!(leader, trio.at(0).get_json("status/leader").await);
        assert_eq!(trio.at(at).get_json("status/peers").await.as_array().map(Vec::len), Some(3));
        assert_eq!(trio.at(at).get_json("agent/members").await.as_array().map(Vec::len), Some(3));
        indexes.insert(common::index(&trio.at(at).get("kv/k2").await));
    }
    assert_eq!(indexes.len(), 1, "an index means the same at every replica");
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_is_replaced_and_what_was_acknowledged_is_there() {
    let mut trio = Trio::start().await;
    let client = trio.client();
    let registration = ServiceRegistration::new("web", "1", "127.0.0.1", 80);
    client.register(&registration).await.expect("registered");
    for round in 0..3 {
        let leader = trio.leader().await;
        trio.end(leader).await;
        let key = format!("r{round}");
        // The same client, which the old leader's address is one of.
        eventually(async || client.kv_put(&key, b"v").await.ok()).await;
        client.check_pass("service:web-1").await.expect("known at whoever answers");
        trio.run(leader);
        trio.until_whole().await;
        for before in 0..=round {
            let found = trio.at(leader).consul.kv_get(&format!("r{before}"), None).await.expect("an answer");
            assert!(found.value.is_some(), "the one that was away has caught up");
        }
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_only_reads_stale_and_says_so() {
    let mut trio = Trio::start().await;
    trio.client().kv_put("k", b"v").await.expect("written");
    trio.until_whole().await;
    // Each has it before two end.
    for at in 0..3 {
        trio.at(at).consul.kv_get("k", None).await.expect("an answer");
    }
    trio.end(0).await;
    trio.end(1).await;
    let last = trio.at(2);
    let stale = eventually(async || {
        let answer = last.get("kv/k?stale&raw").await;
        (header(&answer, "X-Consul-KnownLeader") == "false").then_some(answer)
    })
    .await;
    assert_eq!(header(&stale, "X-Consul-Effective-Consistency"), "stale");
    assert!(header(&stale, "X-Consul-LastContact").parse::<u64>().is_ok());
    assert_eq!(stale.text().await.expect("a body"), "v");
    for path in ["kv/k", "kv/k?consistent", "catalog/services"] {
        let answer = last.get(path).await;
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.expect("a body")),
            (500, "No cluster leader".to_owned())
        );
    }
    assert_eq!(last.put("kv/k", "new").await, (500, "No cluster leader".to_owned()));
    let ready = reqwest::get(format!("{}/readyz", last.base)).await.expect("an answer");
    assert!(!ready.status().is_success());
    // The others return: it goes on, and what nobody was told of may have happened or not.
    trio.run(0);
    trio.run(1);
    trio.until_whole().await;
    eventually(async || trio.client().kv_put("k", b"newer").await.ok()).await;
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_its_disk_joins_as_a_new_one() {
    let mut trio = Trio::start().await;
    trio.client().kv_put("k", b"v").await.expect("written");
    let before = trio.until_whole().await;
    trio.end(2).await;
    std::fs::remove_dir_all(trio.data.path().join("d3")).expect("removable");
    trio.run(2);
    let id = |replicas: &[ReplicaInfo]| replicas.iter().find(|one| one.name == "d3").map(|one| one.id.clone());
    let after = eventually(async || {
        let replicas = trio.until_whole().await;
        (id(&replicas) != id(&before)).then_some(replicas)
    })
    .await;
    assert_eq!(after.len(), 3, "its old self is gone: {after:?}");
    let found = trio.at(2).consul.kv_get("k", None).await.expect("an answer");
    assert_eq!(found.value.map(|pair| pair.value), Some(b"v".to_vec()));
    // It has a vote: with another one gone, two of three go on.
    trio.end(0).await;
    eventually(async || trio.client().kv_put("k", b"w").await.ok()).await;
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_restored_at_every_replica() {
    let trio = Trio::start().await;
    let client = trio.client();
    client.kv_put("old", b"v").await.expect("written");
    let snapshot = trio.at(1).consul.snapshot().await.expect("a snapshot");
    client.kv_put("new", b"v").await.expect("written");
    let index = client.kv_get("new", None).await.expect("an answer").index;
    trio.at(2).consul.restore(snapshot).await.expect("restored");
    for at in 0..3 {
        let consul = &trio.at(at).consul;
        assert!(consul.kv_get("old", None).await.expect("an answer").value.is_some());
        let gone = consul.kv_get("new", None).await.expect("an answer");
        assert!(gone.value.is_none() && gone.index != index, "a reader who waits with the old index hears of it");
    }
    let (status, text) = trio.at(0).put("snapshot", "nonsense").await;
    assert!(status == 500 && text.contains("snapshot"), "{status} {text}");
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_taken_out_goes_and_knows_it() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    let victim = &trio.founders[(leader + 1) % 3].0;
    let found = trio.until_whole().await.into_iter().find(|one| one.name == *victim).expect("it is there");
    trio.client().remove_replica(&found.id).await.expect("taken out");
    let at_leader = &trio.at(leader).consul;
    let left = eventually(async || at_leader.replicas().await.ok().filter(|left| left.len() == 2)).await;
    assert!(left.iter().all(|replica| replica.id != found.id && replica.voter));
    let base = &trio.at((leader + 1) % 3).base;
    eventually(async || {
        let text = reqwest::get(format!("{base}/readyz?verbose")).await.ok()?.text().await.ok()?;
        text.contains("it was taken out").then_some(())
    })
    .await;
    trio.stop().await;
}

/// A replica of its own, which looks for the others where `list` says.
fn alone(data: &TempDir, list: &[(String, String)], own: usize) -> Fixture {
    let (name, peer) = list[own].clone();
    let founders = if own == 0 { vec![list[0].clone()] } else { vec![list[0].clone(), list[own].clone()] };
    let secret = "secret".to_owned();
    let replicas = Replicas { listen: peer, advertise: None, advertise_http: None, founders, secret };
    let data = Some(data.path().join(&name));
    Fixture::start_with(Config { data, replicas: Some(replicas), ..Config::new("127.0.0.1:0", &name) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_grows_to_three_and_to_five_and_shrinks_again() {
    let data = tempfile::tempdir().expect("a scratch directory");
    let list: Vec<(String, String)> = (1..=5).map(|number| (format!("d{number}"), free())).collect();
    let mut running = vec![alone(&data, &list, 0)];
    assert!(running[0].consul.kv_put("k", b"of one").await.expect("written"));
    let voters = async |consul: &Consul, count: usize| {
        eventually(async || {
            let replicas = consul.replicas().await.ok()?;
            let whole = replicas.len() == count && replicas.iter().all(|replica| replica.voter);
            whole.then_some(replicas)
        })
        .await
    };
    for count in [3, 5] {
        while running.len() < count {
            running.push(alone(&data, &list, running.len()));
        }
        voters(&running[0].consul, count).await;
        for one in &running {
            let found = one.consul.kv_get("k", None).await.expect("an answer").value;
            assert_eq!(found.map(|pair| pair.value), Some(b"of one".to_vec()), "it has what there was before");
        }
    }
    // Of five, two may be away at once, the first one of all among them.
    for one in running.drain(..2) {
        one.stop().await;
    }
    let left: Vec<String> = running.iter().map(|one| one.base.clone()).collect();
    let client = Consul::new(&left.join(",")).expect("addresses");
    eventually(async || client.kv_put("k", b"of three").await.ok()).await;
    let replicas = client.replicas().await.expect("an answer");
    for name in ["d1", "d2"] {
        let gone = replicas.iter().find(|replica| replica.name == name).expect("it is still one of them");
        client.remove_replica(&gone.id).await.expect("taken out");
    }
    voters(&client, 3).await;
    // Three of three bear the loss of one, which three of five would not.
    running.remove(0).stop().await;
    eventually(async || client.kv_put("k", b"of two").await.ok()).await;
    for name in ["d3", "d4"] {
        let gone = client.replicas().await.expect("an answer").into_iter().find(|replica| replica.name == name);
        client.remove_replica(&gone.expect("it is one of them").id).await.expect("taken out");
        eventually(async || {
            let left = running[1].consul.replicas().await.ok()?;
            left.iter().all(|replica| replica.name != name).then_some(())
        })
        .await;
    }
    let last = running.pop().expect("the fifth");
    voters(&last.consul, 1).await;
    assert!(last.consul.kv_put("k", b"of one again").await.expect("written"));
    last.stop().await;
    running.remove(0).stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_another_secret_is_not_let_in() {
    let trio = Trio::start().await;
    let peer = free();
    let mut founders = trio.founders.clone();
    founders.push(("d4".to_owned(), peer.clone()));
    let replicas =
        Replicas { listen: peer, advertise: None, advertise_http: None, founders, secret: "other".to_owned() };
    let config = Config { replicas: Some(replicas), ..Config::new("127.0.0.1:0", "d4") };
    let stranger = Fixture::start_with(config);
    // It is refused a write for as long as it is part of nothing.
    assert_eq!(stranger.put("kv/k", "v").await, (500, "No cluster leader".to_owned()));
    assert_eq!(trio.until_whole().await.len(), 3);
    stranger.stop().await;
    trio.stop().await;
}
