//! What is kept across a restart, and what keeps a discovery from starting.

mod common;

use client::consul::{HealthQuery, ServiceRegistration, Status};
use common::Fixture;
use discovery::{Config, Discovery, StartError};

#[tokio::test]
async fn a_restart_keeps_registrations_keys_and_indexes() {
    let data = tempfile::tempdir().expect("a scratch directory");
    let discovery = Fixture::start_at("127.0.0.1:0", Some(data.path()));
    let registration = ServiceRegistration::new("web", "1", "127.0.0.1", 80);
    discovery.consul.register(&registration).await.expect("registered");
    discovery.consul.kv_put("everring/x", b"\0\xff").await.expect("written");
    let pair = discovery.consul.kv_get("everring/x", None).await.expect("an answer");
    let own = discovery.get_json("agent/self").await;
    let address = discovery.address.clone();
    discovery.stop().await;

    let again = Fixture::start_at(&address, Some(data.path()));
    assert_eq!(again.consul.kv_get("everring/x", None).await.expect("an answer"), pair);
    let found = again.consul.health_service("web", &HealthQuery::default(), None).await.expect("an answer").value;
    assert_eq!((found.len(), found[0].checks.len()), (1, 2), "with its own check and its node's");
    assert!(found[0].checks.iter().all(|check| check.status == Status::Passing));
    again.consul.check_pass("service:web-1").await.expect("its check is known");
    assert_eq!(again.get_json("agent/self").await["Config"]["NodeID"], own["Config"]["NodeID"]);
    let modified = pair.value.expect("it was written").modify_index;
    assert!(again.consul.kv_cas("everring/x", b"new", modified).await.expect("an answer"));
    again.stop().await;
}

#[tokio::test]
async fn writers_at_once_all_find_their_writes_on_the_disk() {
    let data = tempfile::tempdir().expect("a scratch directory");
    let discovery = Fixture::start_at("127.0.0.1:0", Some(data.path()));
    let mut writers = Vec::new();
    for number in 0..40 {
        let consul = discovery.consul.clone();
        writers.push(tokio::spawn(async move { consul.kv_put(&format!("k/{number}"), b"v").await }));
    }
    for writer in writers {
        assert!(writer.await.expect("no panic").expect("an answer"));
    }
    // Read beside the running process: acknowledged is on the disk already.
    let text = std::fs::read_to_string(data.path().join("registry.json")).expect("the snapshot");
    assert!((0..40).all(|number| text.contains(&format!("\"k/{number}\""))));
    discovery.stop().await;
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_in_a_sentence() {
    let data = tempfile::tempdir().expect("a scratch directory");
    let discovery = Fixture::start_at("127.0.0.1:0", Some(data.path()));
    let bind = |listen: &str, data: Option<&std::path::Path>| {
        let config = Config { data: data.map(Into::into), ..Config::new(listen, "d") };
        Discovery::bind(config).expect_err("it must not start")
    };
    let in_use = bind(&discovery.address, None);
    assert!(matches!(in_use, StartError::PortInUse(_)));
    assert!(in_use.to_string().contains("--listen"));
    assert!(matches!(bind("127.0.0.1:0", Some(data.path())), StartError::Locked { .. }));
    assert!(matches!(bind("nowhere", None), StartError::Listen { .. }));
    discovery.stop().await;

    std::fs::write(data.path().join("registry.json"), b"{\"version\":1,").expect("writable");
    let damaged = bind("127.0.0.1:0", Some(data.path()));
    assert!(matches!(damaged, StartError::Snapshot { .. }));
    let left = std::fs::read(data.path().join("registry.json")).expect("it is still there");
    assert_eq!(left, b"{\"version\":1,", "a damaged file is left for people to look at");
    let file = data.path().join("registry.json");
    assert!(matches!(bind("127.0.0.1:0", Some(&file)), StartError::Data { .. }));
}

/// A disk that cannot be written to: the write is refused in words, reads go on, and it recovers by itself.
#[tokio::test]
async fn a_disk_that_fails_refuses_writes_and_serves_reads() {
    let data = tempfile::tempdir().expect("a scratch directory");
    let discovery = Fixture::start_at("127.0.0.1:0", Some(data.path()));
    discovery.consul.kv_put("k", b"old").await.expect("written");
    // A directory in the scratch file's place makes each write fail, whoever runs the test.
    let blocker = data.path().join("registry.json.tmp");
    std::fs::create_dir(&blocker).expect("a directory");
    let (status, text) = discovery.put("kv/k", "new").await;
    assert_eq!(status, 500);
    assert!(text.contains("could not be written to the disk"), "{text}");
    let seen = discovery.consul.kv_get("k", None).await.expect("reads go on");
    assert_eq!(seen.value.map(|pair| pair.value), Some(b"old".to_vec()), "what is not on the disk is not shown");
    std::fs::remove_dir(&blocker).expect("removable");
    let wait = Some(client::consul::Blocking { index: seen.index, wait: common::LONG });
    let healed = discovery.consul.kv_get("k", wait).await.expect("an answer");
    assert_eq!(healed.value.map(|pair| pair.value), Some(b"new".to_vec()));
    discovery.stop().await;
}
