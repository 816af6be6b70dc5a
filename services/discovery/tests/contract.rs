//! The shapes, headers and statuses that ordinary Consul clients rely on, asked by plain HTTP.

mod common;

use common::{Fixture, header, index, read};
use serde_json::json;

const WEB: &str = r#"{"ID":"web1","Name":"web","Tags":["v1","blue"],"Address":"10.0.0.7","Port":8080,
    "Meta":{"zone":"a"},"Check":{"TTL":"10s","Status":"passing","DeregisterCriticalServiceAfter":"1m"}}"#;

#[tokio::test]
async fn every_read_carries_consuls_headers() {
    let discovery = Fixture::start();
    let reads = [
        "catalog/services",
        "catalog/nodes",
        "catalog/node/everring",
        "catalog/service/none",
        "health/service/none",
        "health/node/none",
        "health/checks/none",
        "health/state/any",
        "kv/none",
        "kv/none?recurse",
        "kv/?keys",
    ];
    for path in reads {
        let answer = discovery.get(path).await;
        assert!(index(&answer) >= 1, "{path}");
        assert_eq!(header(&answer, "X-Consul-KnownLeader"), "true", "{path}");
        assert_eq!(header(&answer, "X-Consul-LastContact"), "0", "{path}");
        assert_eq!(header(&answer, "X-Consul-Effective-Consistency"), "leader", "{path}");
    }
    for (query, word) in [("stale", "stale"), ("consistent", "consistent")] {
        let answer = discovery.get(&format!("catalog/services?{query}")).await;
        assert_eq!(header(&answer, "X-Consul-Effective-Consistency"), word);
    }
    for path in ["agent/self", "agent/services", "agent/checks", "agent/members", "status/leader"] {
        let answer = discovery.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(header(&answer, "X-Consul-KnownLeader"), "true", "{path}");
    }
    discovery.stop().await;
}

#[tokio::test]
async fn a_service_is_shown_in_all_its_places() {
    let discovery = Fixture::start();
    assert_eq!(discovery.put("agent/service/register", WEB).await, (200, String::new()));

    let agent = discovery.get_json("agent/services").await;
    assert_eq!(agent["web1"]["Service"], "web");
    assert_eq!(agent["web1"]["Weights"], json!({"Passing": 1, "Warning": 1}));
    assert_eq!(discovery.get_json("agent/service/web1").await["Port"], 8080);
    let check = &discovery.get_json("agent/checks").await["service:web1"];
    assert_eq!(
        (&check["Status"], &check["Type"], &check["Name"]),
        (&json!("passing"), &json!("ttl"), &json!("Service 'web' check"))
    );

    assert_eq!(discovery.get_json("catalog/services").await, json!({"web": ["blue", "v1"]}));
    let catalog = discovery.get_json("catalog/service/web").await;
    assert_eq!(catalog[0]["ServiceID"], "web1");
    assert_eq!(catalog[0]["ServiceAddress"], "10.0.0.7");
    assert_eq!(catalog[0]["Node"], "everring");
    assert_eq!(catalog[0]["Address"], "127.0.0.1");
    assert_eq!(catalog[0]["ServiceMeta"], json!({"zone": "a"}));

    let health = discovery.get_json("health/service/web?passing&tag=v1&tag=blue").await;
    let entry = &health[0];
    assert_eq!(entry["Node"]["Node"], "everring");
    assert_eq!(entry["Node"]["Datacenter"], "dc1");
    assert_eq!(entry["Service"]["ID"], "web1");
    assert_eq!(entry["Service"]["Tags"], json!(["v1", "blue"]));
    assert_eq!(entry["Checks"][0]["CheckID"], "service:web1");
    assert_eq!(entry["Checks"][0]["ServiceTags"], json!(["v1", "blue"]));
    assert_eq!(discovery.get_json("health/service/web?tag=green").await, json!([]));
    assert_eq!(discovery.get_json("health/checks/web").await[0]["Status"], "passing");
    assert_eq!(discovery.get_json("health/node/everring").await[0]["ServiceName"], "web");
    assert_eq!(discovery.get_json("health/state/critical").await, json!([]));
    assert_eq!(discovery.get_json("catalog/node/everring").await["Services"]["web1"]["Port"], 8080);
    assert_eq!(discovery.get_json("catalog/node/none").await, json!(null));

    assert_eq!(discovery.put("agent/check/warn/service:web1?note=busy", "").await.0, 200);
    let warned = discovery.get_json("health/state/warning").await;
    assert_eq!(warned[0]["Output"], "busy");
    assert_eq!(discovery.get_json("health/service/web?passing").await, json!([]));
    let update = r#"{"Status":"passing","Output":"calm"}"#;
    assert_eq!(discovery.put("agent/check/update/service:web1", update).await.0, 200);
    assert_eq!(discovery.get_json("health/checks/web").await[0]["Output"], "calm");

    assert_eq!(discovery.put("agent/service/deregister/web1", "").await.0, 200);
    assert_eq!(discovery.get_json("health/service/web").await, json!([]));
    assert_eq!(discovery.get_json("agent/checks").await, json!({}));
    discovery.stop().await;
}

#[tokio::test]
async fn the_agent_says_who_it_is() {
    let discovery = Fixture::start();
    let own = discovery.get_json("agent/self").await;
    assert_eq!(own["Config"]["Datacenter"], "dc1", "Prometheus waits for this one");
    assert_eq!(own["Config"]["NodeName"], "everring");
    assert_eq!(discovery.get_json("agent/members").await[0]["Status"], 1);
    assert_eq!(discovery.get_json("catalog/datacenters").await, json!(["dc1"]));
    assert_eq!(discovery.get_json("status/leader").await, json!(discovery.address));
    assert_eq!(discovery.get_json("status/peers").await, json!([discovery.address]));
    discovery.stop().await;
}

#[tokio::test]
async fn the_catalogue_takes_other_nodes() {
    let discovery = Fixture::start();
    let body = r#"{"Node":"db-host","Address":"10.1.1.1","NodeMeta":{"rack":"r1"},
        "Service":{"Service":"db","Port":5432,"Tags":["primary"]},
        "Check":{"CheckID":"db-up","Name":"up","Status":"passing","ServiceID":"db"}}"#;
    assert_eq!(discovery.put("catalog/register", body).await, (200, "true".to_owned()));
    let entry = &discovery.get_json("health/service/db?passing&node-meta=rack:r1").await[0];
    assert_eq!((&entry["Node"]["Address"], &entry["Service"]["ID"]), (&json!("10.1.1.1"), &json!("db")));
    assert_eq!(discovery.get_json("health/service/db?node-meta=rack:r2").await, json!([]));
    assert_eq!(discovery.get_json("catalog/nodes").await.as_array().map(Vec::len), Some(2));
    assert_eq!(discovery.put("catalog/deregister", r#"{"Node":"db-host"}"#).await, (200, "true".to_owned()));
    assert_eq!(discovery.get_json("catalog/service/db").await, json!([]));
    assert_eq!(discovery.put("catalog/register", r#"{"Node":"x"}"#).await.0, 400);
    discovery.stop().await;
}

#[tokio::test]
async fn keys_have_consuls_shapes() {
    let discovery = Fixture::start();
    assert_eq!(discovery.put("kv/a/b?flags=42", "hello").await, (200, "true".to_owned()));
    let pair = &discovery.get_json("kv/a/b").await[0];
    assert_eq!((&pair["Key"], &pair["Value"], &pair["Flags"]), (&json!("a/b"), &json!("aGVsbG8="), &json!(42)));
    assert_eq!((&pair["CreateIndex"], &pair["LockIndex"]), (&pair["ModifyIndex"], &json!(0)));
    assert!(pair.get("Session").is_none());

    let raw = discovery.get("kv/a/b?raw").await;
    assert!(header(&raw, "Content-Type").starts_with("text/plain"));
    assert_eq!(header(&raw, "X-Content-Type-Options"), "nosniff");
    assert_eq!(raw.text().await.expect("a body"), "hello");

    discovery.put("kv/a/c/d", "").await;
    discovery.put("kv/a/c/e", "").await;
    discovery.put("kv/z%20%2F%25", "odd").await;
    assert_eq!(discovery.get_json("kv/a/?keys&separator=/").await, json!(["a/b", "a/c/"]));
    assert_eq!(discovery.get_json("kv/?keys").await, json!(["a/b", "a/c/d", "a/c/e", "z /%"]));
    let listed = discovery.get_json("kv/a/c?recurse").await;
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["Value"]), (Some(2), &json!(null)));

    assert_eq!(discovery.delete("kv/a/c?recurse").await, (200, "true".to_owned()));
    let absent = discovery.get("kv/a/c?recurse").await;
    assert_eq!(absent.status(), 404);
    assert!(index(&absent) > listed[0]["ModifyIndex"].as_u64().expect("an index"), "deletions move an index on");
    assert_eq!(read(absent).await.1, "");
    assert_eq!(read(discovery.get("kv/?keys&pretty").await).await.1, "[\n  \"a/b\",\n  \"z /%\"\n]\n");
    discovery.stop().await;
}

#[tokio::test]
async fn compare_and_set_answers_true_or_false() {
    let discovery = Fixture::start();
    let truth = (200, "true".to_owned());
    let untruth = (200, "false".to_owned());
    assert_eq!(discovery.put("kv/k?cas=5", "0").await, untruth, "there is nothing to replace");
    assert_eq!(discovery.put("kv/k?cas=0", "1").await, truth);
    assert_eq!(discovery.put("kv/k?cas=0", "2").await, untruth, "0 creates only");
    let modified = discovery.get_json("kv/k").await[0]["ModifyIndex"].as_u64().expect("an index");
    assert_eq!(discovery.put(&format!("kv/k?cas={modified}"), "2").await, truth);
    assert_eq!(discovery.put(&format!("kv/k?cas={modified}"), "3").await, untruth);
    assert_eq!(read(discovery.get("kv/k?raw").await).await.1, "2");
    assert_eq!(discovery.delete("kv/k?cas=0").await, untruth, "0 deletes nothing");
    assert_eq!(discovery.delete(&format!("kv/k?cas={modified}")).await, untruth);
    assert_eq!(discovery.delete("kv/k").await, truth);
    assert_eq!(discovery.delete("kv/k").await, truth, "an absent key is as good as deleted");
    discovery.stop().await;
}

#[tokio::test]
async fn refusals_are_plain_text_with_consuls_statuses() {
    let discovery = Fixture::start();
    let both = discovery.get("catalog/services?stale&consistent").await;
    assert_eq!(both.status(), 400);
    assert!(header(&both, "Content-Type").starts_with("text/plain"));
    assert!(both.text().await.expect("a body").starts_with("Cannot specify ?stale with ?consistent"));

    for (path, status, word) in [
        ("health/service/web?wait=soon", 400, "Invalid wait time"),
        ("health/service/web?index=x", 400, "Invalid index"),
        ("health/service/web?passing=maybe", 400, "Invalid value for ?passing"),
        ("health/service/web?filter=Service.Port+==+1", 501, "filter"),
        ("health/service/web?ns=team", 400, "Enterprise"),
        ("catalog/services?dc=dc9", 500, "No path to datacenter"),
        ("kv/", 400, "Missing key name"),
        ("kv/%ff", 400, "UTF-8"),
        ("agent/service/none", 404, "Unknown service ID \"none\""),
        ("session/list", 501, "sessions are not offered"),
        ("connect/ca/roots", 501, "not offered"),
        ("query", 501, "not offered"),
        ("nothing", 404, "Invalid URL path"),
    ] {
        let (found, text) = read(discovery.get(path).await).await;
        assert_eq!(found, status, "{path}: {text}");
        assert!(text.contains(word), "{path}: {text}");
    }
    for (path, body, status, word) in [
        ("agent/check/pass/none", "", 404, "Unknown check ID \"none\""),
        ("agent/service/deregister/none", "", 404, "Unknown service ID"),
        ("agent/service/register", "{", 400, "Request decode failed"),
        ("agent/service/register", "{}", 400, "Missing service name"),
        ("agent/service/register", r#"{"Name":"w","Check":{"HTTP":"http://x","Interval":"1s"}}"#, 501, "TTL"),
        ("agent/check/register", r#"{"Name":"c","TTL":"1s","ServiceID":"none"}"#, 404, "Unknown service ID"),
        ("kv/k?acquire=abc", "", 501, "sessions"),
        ("kv/k?cas=x", "", 400, "Invalid cas"),
        ("txn", "[]", 501, "transactions are not offered"),
    ] {
        let (found, text) = discovery.put(path, body).await;
        assert_eq!(found, status, "{path}: {text}");
        assert!(text.contains(word), "{path}: {text}");
    }
    let post = discovery.http.post(discovery.url("agent/services")).send().await.expect("an answer");
    assert_eq!((post.status().as_u16(), header(&post, "Allow")), (405, "GET"));
    assert_eq!(post.text().await.expect("a body"), "method POST not allowed");
    discovery.stop().await;
}

#[tokio::test]
async fn a_value_has_a_bound() {
    let discovery = Fixture::start();
    let most = vec![b'x'; 512 << 10];
    assert_eq!(discovery.put("kv/big", most.clone()).await, (200, "true".to_owned()));
    let (status, text) = discovery.put("kv/bigger", [most, vec![b'x']].concat()).await;
    assert_eq!(status, 413);
    assert!(text.contains("524288"), "{text}");
    assert_eq!(discovery.get("kv/bigger").await.status(), 404);
    discovery.stop().await;
}

#[tokio::test]
async fn it_tells_of_itself_as_every_service_does() {
    let discovery = Fixture::start();
    for (path, word) in [("livez", "ok"), ("readyz?verbose", "disk"), ("version", "discovery"), ("metrics", "# EOF")] {
        let answer = discovery.http.get(format!("{}/{path}", discovery.base)).send().await.expect("an answer");
        let (status, text) = read(answer).await;
        assert_eq!(status, 200, "{path}");
        assert!(text.contains(word), "{path}: {text}");
    }
    discovery.stop().await;
}
