//! The shapes, headers and statuses that ordinary Consul clients rely on, asked by plain HTTP.

mod common;

use std::io::Read;

use client::consul::ServiceRegistration;
use common::{Fixture, header, index, read};
use serde_json::{Value, json};

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
        "session/list",
        "session/info/none",
        "session/node/none",
        "event/list",
    ];
    for path in reads {
        let answer = discovery.get(path).await;
        assert!(index(&answer) >= 1, "{path}");
        assert_eq!(header(&answer, "X-Consul-KnownLeader"), "true", "{path}");
        assert_eq!(header(&answer, "X-Consul-LastContact"), "0", "{path}");
        assert_eq!(header(&answer, "X-Consul-Effective-Consistency"), "leader", "{path}");
        assert_eq!(header(&answer, "X-Consul-Query-Backend"), "blocking-query", "{path}");
        assert_eq!(header(&answer, "X-Consul-Default-Acl-Policy"), "allow", "{path}");
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
    let checks: Vec<&Value> = entry["Checks"].as_array().expect("a list").iter().collect();
    assert_eq!(checks.len(), 2, "its own, and its node's");
    let own = checks.iter().find(|check| check["CheckID"] == "service:web1").expect("its own check");
    assert_eq!(own["ServiceTags"], json!(["v1", "blue"]));
    assert!(checks.iter().any(|check| check["CheckID"] == "serfHealth" && check["Status"] == "passing"));
    assert_eq!(discovery.get_json("health/service/web?tag=green").await, json!([]));
    assert_eq!(discovery.get_json("health/checks/web").await[0]["Status"], "passing");
    assert_eq!(discovery.get_json("health/node/everring?filter=ServiceName==web").await[0]["CheckID"], "service:web1");
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
    let (status, text) = discovery.put("catalog/register", r#"{"Node":"x"}"#).await;
    assert_eq!((status, text.as_str()), (500, "Must provide address if SkipNodeUpdate is not set"));
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
    assert_eq!(read(discovery.get("kv/?keys&pretty").await).await.1, "[\n    \"a/b\",\n    \"z /%\"\n]");
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
        (
            "health/service/web?filter=Service.Port+==+x",
            500,
            "Failed to create boolean expression evaluator: Failed to coerce",
        ),
        ("health/service/web?filter=Nope==1", 500, "Selector \"Nope\" is not valid"),
        ("catalog/nodes?filter=(", 500, "Failed to create boolean expression evaluator"),
        ("agent/services?filter=bad(", 500, "no match found, expected"),
        ("health/service/web?ns=team", 400, "Enterprise"),
        ("catalog/services?dc=dc9", 500, "No path to datacenter"),
        ("kv/", 400, "Missing key name"),
        ("kv/%ff", 400, "UTF-8"),
        ("agent/service/none", 404, "unknown service ID: none"),
        ("session/info/", 400, "Missing session"),
        ("acl/tokens", 401, "ACL support disabled"),
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
        ("agent/service/register", r#"{"Name":"w","Check":{"Args":["true"],"Interval":"1s"}}"#, 501, "TTL"),
        (
            "agent/check/register",
            r#"{"Name":"c","TTL":"1s","ServiceID":"none"}"#,
            404,
            "ServiceID \"none\" does not exist",
        ),
        ("kv/k?acquire=abc", "", 500, "raft apply failed: invalid session \"abc\""),
        ("kv/k?acquire=", "", 500, "raft apply failed: missing session"),
        ("kv/k?cas=x", "", 500, "strconv.ParseUint: parsing \"x\": invalid syntax"),
        ("kv/k?cas=1&acquire=x", "", 400, "Conflicting flags: acquire=x&cas=1"),
        ("session/create", r#"{"TTL":"1s"}"#, 500, "Invalid Session TTL '1000000000', must be between [10s=24h0m0s]"),
        ("session/create", r#"{"Behavior":"x"}"#, 500, "Invalid Behavior setting 'x'"),
        ("session/create", r#"{"Node":"nope"}"#, 500, "apply failed: Missing node registration"),
        ("session/create", r#"{"Checks":["nope"]}"#, 500, "apply failed: Missing check 'nope' registration"),
        ("session/create", r#"{"LockDelay":"x"}"#, 400, "Request decode failed"),
        ("session/renew/none", "", 404, "Session id 'none' not found"),
        ("agent/service/maintenance/none?enable=true", "", 404, "Unknown service ID"),
        ("agent/service/maintenance/none", "", 400, "Missing value for enable"),
        ("agent/check/update/none", r#"{"Status":"x"}"#, 400, "Invalid check status: 'x'"),
        ("event/fire/", "", 400, "Missing name"),
        ("snapshot", "junk", 500, "failed to decompress snapshot"),
        ("txn", "{", 400, "Failed to parse body"),
        ("txn", r#"[{"KV":{"Verb":"set","Key":"t","Value":"!"}}]"#, 400, "Failed to parse body"),
    ] {
        let (found, text) = discovery.put(path, body).await;
        assert_eq!(found, status, "{path}: {text}");
        assert!(text.contains(word), "{path}: {text}");
    }
    discovery.stop().await;
}

#[tokio::test]
async fn a_method_that_a_call_does_not_take_is_refused() {
    let discovery = Fixture::start();
    let post = discovery.http.post(discovery.url("agent/services")).send().await.expect("an answer");
    assert_eq!((post.status().as_u16(), header(&post, "Allow")), (405, "OPTIONS,GET"));
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
async fn a_key_has_a_bound() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let discovery = Fixture::start();
    let most = "k".repeat(2048);
    assert_eq!(discovery.put(&format!("kv/{most}"), "1").await.1, "true");
    let (status, text) = discovery.put(&format!("kv/{most}k"), "1").await;
    assert!(status == 400 && text.contains("2049 bytes"), "{text}");
    // A megabyte of key: no client library sends it, and the server does not read it to its end.
    let mut stream = tokio::net::TcpStream::connect(&discovery.address).await.expect("connected");
    let head = format!("PUT /v1/kv/{} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1", "k".repeat(1 << 20));
    // It may hang up in the middle.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = vec![0; 64];
    let length = common::within(stream.read(&mut answer)).await.unwrap_or(0);
    let said = String::from_utf8_lossy(&answer[..length]);
    assert!(length == 0 || said.starts_with("HTTP/1.1 4"), "{said}");
    assert_eq!(read(discovery.get(&format!("kv/{most}?raw")).await).await.1, "1", "it serves on");
    discovery.stop().await;
}

#[tokio::test]
async fn it_tells_of_itself_as_every_service_does() {
    let discovery = Fixture::start();
    for (path, word) in [
        ("ui/", "<h2>Services</h2>"),
        ("livez", "ok"),
        ("readyz?verbose", "disk"),
        ("version", "discovery"),
        ("metrics", "# EOF"),
    ] {
        let answer = discovery.http.get(format!("{}/{path}", discovery.base)).send().await.expect("an answer");
        let (status, text) = read(answer).await;
        assert_eq!(status, 200, "{path}");
        assert!(text.contains(word), "{path}: {text}");
    }
    discovery.stop().await;
}

#[tokio::test]
async fn filters_choose_by_what_is_shown() {
    let discovery = Fixture::start();
    discovery.put("agent/service/register", WEB).await;
    let chosen = |filter: &str| format!("health/service/web?filter={}", filter.replace(' ', "%20"));
    for (filter, count) in [
        ("Service.Port == 8080 and blue in Service.Tags", 1),
        ("Service.Meta.zone != a", 0),
        ("Checks.Status == passing", 1),
        ("Node.Node matches `^ever`", 1),
        ("not Service.ID == web1", 0),
    ] {
        let found = discovery.get_json(&chosen(filter)).await;
        assert_eq!(found.as_array().map(Vec::len), Some(count), "{filter}");
    }
    assert_eq!(discovery.get_json("agent/services?filter=Service==nope").await, json!({}));
    assert_eq!(discovery.get_json("catalog/services?filter=ServiceName==nope").await, json!({}));
    assert_eq!(discovery.get_json("catalog/service/web?filter=ServicePort==8080").await[0]["ServiceID"], "web1");
    discovery.stop().await;
}

#[tokio::test]
async fn sessions_lock_keys() {
    let discovery = Fixture::start();
    let create = |body: &str| discovery.put("session/create", body.to_owned());
    let id_of = |(status, body): (u16, String)| {
        assert_eq!(status, 200, "{body}");
        let value: Value = serde_json::from_str(&body).expect("JSON");
        value["ID"].as_str().expect("an id").to_owned()
    };
    let one = id_of(create("").await);
    let two = id_of(create(r#"{"Name":"two","TTL":"10s","LockDelay":"0s","Behavior":"delete"}"#).await);
    let shown = &discovery.get_json(&format!("session/info/{one}")).await[0];
    assert_eq!((&shown["NodeChecks"], &shown["LockDelay"]), (&json!(["serfHealth"]), &json!(15_000_000_000_u64)));
    assert_eq!(
        (&shown["Behavior"], &shown["TTL"], &shown["ServiceChecks"]),
        (&json!("release"), &json!(""), &Value::Null)
    );
    assert_eq!(discovery.get_json("session/list").await.as_array().map(Vec::len), Some(2));
    assert_eq!(discovery.get_json("session/info/none").await, json!([]));

    assert_eq!(discovery.put(&format!("kv/lock?acquire={two}"), "held").await.1, "true");
    assert_eq!(discovery.put(&format!("kv/lock?acquire={one}"), "mine").await.1, "false");
    let pair = &discovery.get_json("kv/lock").await[0];
    assert_eq!((&pair["Session"], &pair["LockIndex"]), (&json!(two), &json!(1)));
    let renewed = discovery.put(&format!("session/renew/{two}"), "").await.1;
    assert!(renewed.contains("\"TTL\":\"10s\""), "{renewed}");
    let index = index(&discovery.get("kv/lock").await);
    assert_eq!(discovery.put(&format!("session/destroy/{two}"), "").await, (200, "true".to_owned()));
    assert_eq!(discovery.put(&format!("session/destroy/{two}"), "").await.1, "true", "again is harmless");
    let gone = discovery.get(&format!("kv/lock?index={index}&wait=10s")).await;
    assert_eq!(gone.status(), 404, "its pairs went with the session");

    assert_eq!(discovery.put(&format!("kv/lock?acquire={one}"), "mine").await.1, "true");
    assert_eq!(discovery.put(&format!("kv/lock?release={two}"), "").await.1, "false");
    assert_eq!(discovery.put(&format!("kv/lock?release={one}"), "free").await.1, "true");
    assert_eq!(discovery.put(&format!("kv/lock?acquire={one}"), "mine").await.1, "true");
    discovery.put(&format!("session/destroy/{one}"), "").await;
    let pair = &discovery.get_json("kv/lock").await[0];
    assert_eq!((pair.get("Session"), &pair["LockIndex"]), (None, &json!(2)));
    let three = id_of(create("").await);
    assert_eq!(discovery.put(&format!("kv/lock?acquire={three}"), "").await.1, "false", "the lock delay");
    discovery.stop().await;
}

#[tokio::test]
async fn transactions_are_done_whole_or_not_at_all() {
    let discovery = Fixture::start();
    let (status, body) = discovery
        .put(
            "txn",
            r#"[{"KV":{"Verb":"set","Key":"a","Value":"aGk=","Flags":7}},{"KV":{"Verb":"get","Key":"a"}},
            {"Node":{"Verb":"set","Node":{"Node":"n","Address":"10.0.0.9"}}},
            {"Service":{"Verb":"set","Node":"n","Service":{"Service":"s","Port":1}}},
            {"Check":{"Verb":"set","Check":{"Node":"n","CheckID":"c","Status":"passing","ServiceID":"s"}}}]"#,
        )
        .await;
    let value: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &value["Errors"]), (200, &Value::Null), "{body}");
    assert_eq!(value["Results"][0]["KV"]["Value"], Value::Null, "a write does not give its value back");
    assert_eq!((&value["Results"][1]["KV"]["Value"], &value["Results"][1]["KV"]["Flags"]), (&json!("aGk="), &json!(7)));
    assert_eq!(discovery.get_json("health/service/s?passing").await[0]["Node"]["Address"], "10.0.0.9");

    let failing = r#"[{"KV":{"Verb":"set","Key":"b","Value":""}},{"KV":{"Verb":"cas","Key":"a","Index":1,"Value":""}},
        {"KV":{"Verb":"get","Key":"nope"}}]"#;
    let (status, body) = discovery.put("txn", failing).await;
    let value: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &value["Results"]), (409, &Value::Null));
    assert_eq!(
        value["Errors"],
        json!([
            {"OpIndex": 1, "What": "failed to set key \"a\", index is stale"},
            {"OpIndex": 2, "What": "key \"nope\" doesn't exist"},
        ])
    );
    assert_eq!(discovery.get("kv/b").await.status(), 404);
    let (status, body) = discovery.put("txn", r#"[{"KV":{"Verb":"foo","Key":"k"}}]"#).await;
    assert_eq!(status, 409);
    assert!(body.contains("unknown KV operation: foo"), "{body}");
    let many = format!("[{}]", vec![r#"{"KV":{"Verb":"get-or-empty","Key":"k"}}"#; 129].join(","));
    assert_eq!(discovery.put("txn", many).await.0, 413);
    assert_eq!(discovery.put("txn", "[]").await.0, 200);
    discovery.stop().await;
}

#[tokio::test]
async fn events_reach_those_who_wait() {
    let discovery = Fixture::start();
    let before = index(&discovery.get("event/list").await);
    let (status, body) = discovery.put("event/fire/deploy?service=web", "now").await;
    let fired: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &fired["Payload"], &fired["ServiceFilter"]), (200, &json!("bm93"), &json!("web")));
    discovery.put("event/fire/other", "").await;
    let listed = discovery.get(&format!("event/list?name=deploy&index={before}&wait=10s")).await;
    assert!(index(&listed) > before);
    let listed: Value = listed.json().await.expect("JSON");
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["ID"]), (Some(1), &fired["ID"]));
    discovery.stop().await;
}

#[tokio::test]
async fn maintenance_is_a_critical_check() {
    let discovery = Fixture::start();
    discovery.put("agent/service/register", WEB).await;
    let by_name = |status: u16| {
        let discovery = &discovery;
        async move {
            let answer = discovery.get("agent/health/service/name/web").await;
            assert_eq!(answer.status(), status);
            answer.json::<Value>().await.expect("JSON")[0]["AggregatedStatus"].clone()
        }
    };
    assert_eq!(by_name(200).await, "passing");
    assert_eq!(discovery.put("agent/service/maintenance/web1?enable=true&reason=cleaning", "").await.0, 200);
    assert_eq!(by_name(503).await, "critical");
    assert_eq!(discovery.get_json("agent/checks").await["_service_maintenance:web1"]["Notes"], "cleaning");
    assert_eq!(discovery.get_json("health/service/web?passing").await, json!([]));
    assert_eq!(discovery.put("agent/service/maintenance/web1?enable=false", "").await.0, 200);
    assert_eq!(by_name(200).await, "passing");
    assert_eq!(discovery.put("agent/maintenance?enable=true", "").await.0, 200);
    assert_eq!(
        read(discovery.get("agent/health/service/id/web1?format=text").await).await,
        (503, "critical".to_owned())
    );
    assert_eq!(discovery.put("agent/maintenance?enable=false", "").await.0, 200);
    assert_eq!(discovery.put("agent/maintenance?enable=false", "").await.0, 200, "again is harmless");
    let none = discovery.get("agent/health/service/id/none").await;
    assert_eq!((none.status().as_u16(), header(&none, "X-Consul-Reason")), (404, "ServiceId none not found"));
    discovery.stop().await;
}

#[tokio::test]
async fn an_agents_service_is_waited_for_by_its_hash() {
    let discovery = Fixture::start();
    discovery.put("agent/service/register", WEB).await;
    let first = discovery.get("agent/service/web1").await;
    let hash = header(&first, "X-Consul-ContentHash").to_owned();
    assert_eq!(first.json::<Value>().await.expect("JSON")["ContentHash"], json!(hash));
    let same = discovery.get(&format!("agent/service/web1?hash={hash}&wait=100ms")).await;
    assert_eq!(header(&same, "X-Consul-ContentHash"), hash);
    let waiter =
        tokio::spawn(discovery.http.get(discovery.url(&format!("agent/service/web1?hash={hash}&wait=1m"))).send());
    discovery.put("agent/service/register", WEB.replace("8080", "8081")).await;
    let changed = common::within(waiter).await.expect("no panic").expect("an answer");
    assert_ne!(header(&changed, "X-Consul-ContentHash"), hash);
    assert_eq!(changed.json::<Value>().await.expect("JSON")["Port"], 8081);
    discovery.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_taken_back_and_wakes_everybody() {
    let discovery = Fixture::start();
    discovery.put("kv/old", "1").await;
    let snapshot = discovery.get("snapshot").await.bytes().await.expect("a body");
    discovery.put("kv/new", "2").await;
    discovery.put("kv/old", "3").await;
    let before = index(&discovery.get("kv/old").await);
    let waiter = tokio::spawn(discovery.http.get(discovery.url(&format!("kv/old?index={before}&wait=1m&raw"))).send());
    assert_eq!(discovery.put("snapshot", snapshot).await.0, 200);
    let woken = common::within(waiter).await.expect("no panic").expect("an answer");
    assert!(index(&woken) > before);
    assert_eq!(woken.text().await.expect("a body"), "1");
    assert_eq!(discovery.get("kv/new").await.status(), 404);
    discovery.stop().await;
}

#[tokio::test]
async fn methods_are_told_and_heads_have_no_body() {
    let discovery = Fixture::start();
    let options =
        discovery.http.request(reqwest::Method::OPTIONS, discovery.url("kv/k")).send().await.expect("an answer");
    assert_eq!((options.status().as_u16(), header(&options, "Allow")), (200, "OPTIONS,GET,PUT,DELETE"));
    discovery.put("kv/k", "v").await;
    let head = discovery.http.head(discovery.url("kv/k")).send().await.expect("an answer");
    assert_eq!((head.status().as_u16(), index(&head) > 1), (200, true));
    discovery.stop().await;
}

#[tokio::test]
async fn a_long_answer_is_packed_for_those_who_take_it_so() {
    let discovery = Fixture::start();
    for number in 0..40 {
        let registration = ServiceRegistration::new("web", &number.to_string(), "127.0.0.1", 80);
        discovery.consul.register(&registration).await.expect("registered");
    }
    let ask = async |path: &str, accepted: &str| {
        let request = discovery.http.get(discovery.url(path)).header("Accept-Encoding", accepted);
        let answer = request.send().await.expect("an answer");
        let encoding = header(&answer, "Content-Encoding").to_owned();
        (encoding, answer.bytes().await.expect("a body"))
    };
    let path = "health/service/web";
    let (encoding, plain) = ask(path, "identity").await;
    assert_eq!(encoding, "");
    let (encoding, packed) = ask(path, "gzip").await;
    assert_eq!(encoding, "gzip");
    assert!(packed.len() < plain.len() / 4, "{} of {}", packed.len(), plain.len());
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("what was packed");
    assert_eq!(unpacked, plain);
    assert_eq!(ask("status/leader", "gzip").await.0, "", "too short to be worth it");
    assert_eq!(ask("snapshot", "gzip").await.0, "", "packed already");
    assert_eq!(ask(path, "gzip;q=0").await.0, "");
    discovery.stop().await;
}
