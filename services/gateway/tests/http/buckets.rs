//! Buckets: definitions, limits, and data that must not come back.

use crate::fake::{Bench, Mood};

#[actix_web::test]
async fn a_bucket_is_made_once_and_known_to_all_gateways() {
    let bench = Bench::new();
    let other = Bench::beside(&bench.nodes);
    assert_eq!(other.get("/v1/kv/mine/k").await.code(), "no-such-bucket");
    assert_eq!(bench.ask("PUT /v1/buckets/mine", &[], "{}").await.status, 201);
    assert_eq!(other.ask("PUT /v1/buckets/mine", &[], "").await.status, 200, "it exists alike");
    let differs = other.ask("PUT /v1/buckets/mine", &[], r#"{"value_max_bytes":10}"#).await;
    assert_eq!((differs.status, differs.code().as_str()), (409, "bucket-differs"));
    assert_eq!(other.put("/v1/kv/mine/k", "v").await.status, 201, "what was not known is looked up");
    let names: Vec<String> = other.get("/v1/buckets").await.json()["buckets"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|bucket| bucket["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names, ["records", "sessions", "cache", "locks", "mine"]);
    let shown = other.get("/v1/buckets/mine").await.json();
    assert_eq!((&shown["contract"], &shown["type"]), (&"ordered".into(), &"value".into()));
}

#[actix_web::test]
async fn what_a_deleted_bucket_held_does_not_come_back() {
    let bench = Bench::new();
    bench.ask("PUT /v1/buckets/mine", &[], "").await;
    bench.put("/v1/kv/mine/k", "old").await;
    assert_eq!(bench.ask("DELETE /v1/buckets/mine", &[], "").await.status, 204);
    assert_eq!(bench.get("/v1/kv/mine/k").await.code(), "no-such-bucket");
    assert_eq!(bench.ask("DELETE /v1/buckets/mine", &[], "").await.code(), "no-such-bucket");
    assert_eq!(bench.ask("PUT /v1/buckets/mine", &[], "").await.status, 201);
    assert_eq!(bench.get("/v1/kv/mine/k").await.code(), "no-such-key");
}

#[actix_web::test]
async fn a_buckets_largest_value_is_kept_to() {
    let bench = Bench::new();
    bench.ask("PUT /v1/buckets/small", &[], r#"{"value_max_bytes":4}"#).await;
    assert_eq!(bench.put("/v1/kv/small/k", "1234").await.status, 201);
    let large = bench.put("/v1/kv/small/k", "12345").await;
    assert_eq!((large.status, large.code().as_str()), (413, "value-too-large"));
    assert_eq!(large.json()["outcome"], "not-done");
    assert_eq!(bench.ask("POST /v1/kv/small/k?op=append", &[], "12345").await.status, 413);
    assert_eq!(bench.get("/v1/kv/small/k").await.text(), "1234");
}

#[actix_web::test]
async fn kinds_that_are_not_offered_say_so() {
    let bench = Bench::new();
    for (line, body, code) in [
        ("PUT /v1/kv/locks/k", "v", "forbidden"),
        ("PUT /v1/buckets/b", r#"{"type":"counter"}"#, "contract-not-offered"),
        ("PUT /v1/buckets/b", r#"{"contract":"available","type":"map","ttl_s":5}"#, "contract-not-offered"),
        ("PUT /v1/buckets/records", r#"{"contract":"available"}"#, "bucket-differs"),
        ("DELETE /v1/buckets/records", "", "forbidden"),
        ("PUT /v1/buckets/B", "", "bad-request"),
        ("PUT /v1/buckets/b", "{", "bad-request"),
    ] {
        assert_eq!(bench.ask(line, &[], body).await.code(), code, "{line} {body}");
    }
    assert_eq!(bench.ask("PUT /v1/buckets/records", &[], "").await.status, 200);
}

#[actix_web::test]
async fn records_go_on_when_the_definitions_cannot_be_read() {
    let bench = Bench::new();
    bench.nodes.set_all(Mood::Down);
    let quick = [("everring-deadline-ms", "60")];
    assert_eq!(bench.ask("GET /v1/buckets", &quick, "").await.code(), "no-quorum");
    assert_eq!(bench.ask("PUT /v1/buckets/mine", &quick, "").await.json()["outcome"], "not-done");
    assert_eq!(bench.ask("GET /v1/buckets/records", &quick, "").await.status, 200, "the four need no reading");
}
