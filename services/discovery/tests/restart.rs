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
    // A copy taken beside the running process has them all: acknowledged is on the disk already.
    let copy = tempfile::tempdir().expect("a scratch directory");
    for part in ["log", "replica"] {
        std::fs::create_dir(copy.path().join(part)).expect("a directory");
        for file in std::fs::read_dir(data.path().join(part)).expect("readable") {
            let file = file.expect("an entry");
            std::fs::copy(file.path(), copy.path().join(part).join(file.file_name())).expect("copied");
        }
    }
    let other = Fixture::start_at("127.0.0.1:0", Some(copy.path()));
    assert_eq!(other.consul.kv_list("k/", None).await.expect("an answer").value.len(), 40);
    other.stop().await;
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

    let image = data.path().join("replica/image");
    let whole = std::fs::read(&image).expect("the image");
    std::fs::write(&image, &whole[..whole.len() - 1]).expect("writable");
    let damaged = bind("127.0.0.1:0", Some(data.path()));
    assert!(matches!(damaged, StartError::Unusable { .. }));
    assert!(damaged.to_string().contains("damaged"), "{damaged}");
    assert_eq!(std::fs::read(&image).expect("still there").len(), whole.len() - 1, "it is left for people to look at");
    std::fs::write(&image, &whole).expect("writable");
    std::fs::remove_dir_all(data.path().join("log")).expect("removable");
    let lost = bind("127.0.0.1:0", Some(data.path()));
    assert!(matches!(lost, StartError::Unusable { .. }) && lost.to_string().contains("joins as a new one"), "{lost}");
    assert!(matches!(bind("127.0.0.1:0", Some(&image)), StartError::Data { .. }));
}
