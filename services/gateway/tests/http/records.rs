//! Records: values, ETags, conditions, ranges, changes, request ids.

use replication::{Ballot, Operation};
use wire::http::Receipt;

use crate::fake::{Bench, replicas_of};

const K: &str = "/v1/kv/records/k";

#[actix_web::test]
async fn a_record_is_made_replaced_read_and_deleted() {
    let bench = Bench::new();
    let made = bench.put(K, "one").await;
    assert_eq!((made.status, made.text()), (201, ""));
    let replaced = bench.ask(&format!("PUT {K}"), &[("content-type", "application/x-own")], "two").await;
    assert_eq!(replaced.status, 200);
    assert_ne!(made.header("etag"), replaced.header("etag"));
    let read = bench.get(K).await;
    assert_eq!((read.status, read.text(), read.header("content-type")), (200, "two", "application/x-own"));
    assert_eq!(read.header("etag"), replaced.header("etag"));
    for _ in 0..2 {
        let deleted = bench.ask(&format!("DELETE {K}"), &[], "").await;
        assert_eq!((deleted.status, deleted.text()), (204, ""), "deleting is idempotent");
    }
    let gone = bench.get(K).await;
    assert_eq!((gone.status, gone.code().as_str()), (404, "no-such-key"));
    assert!(!gone.header("everring-receipt").is_empty(), "that there is none was agreed, too");
}

#[actix_web::test]
async fn empty_values_untyped_values_and_odd_keys_are_values_and_keys() {
    let bench = Bench::new();
    for key in ["%00", "a/b//c", "%0A", "..", "%C3%A4%2F", "a+b", "a%20b"] {
        let path = format!("/v1/kv/records/{key}");
        assert_eq!(bench.ask(&format!("PUT {path}"), &[], key).await.status, 201, "{key}");
        let read = bench.get(&path).await;
        assert_eq!((read.text(), read.header("content-type")), (key, "application/octet-stream"));
    }
    assert_eq!(bench.put(K, "").await.status, 201);
    assert_eq!(bench.get(K).await.body.len(), 0);
}

#[actix_web::test]
async fn every_data_answer_has_its_receipt_token_and_trace() {
    let bench = Bench::new();
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let made = bench.ask(&format!("PUT {K}"), &[("traceparent", traceparent)], "v").await;
    assert_eq!(made.header("everring-trace-id"), "4bf92f3577b34da6a3ce929d0e0e4736", "the caller's trace goes on");
    let owner = replicas_of("k")[0];
    let receipt: Receipt = made.header("everring-receipt").parse().expect("a receipt");
    assert_eq!((receipt.level.name(), receipt.epoch, receipt.hops, receipt.attempts), ("strict", 1, 1, 1));
    assert_eq!(receipt.replicas[0], format!("n{}", owner.0));
    let called = &bench.nodes.take_calls()[0];
    assert_eq!(called.node, owner, "one hop: the owner coordinates");
    assert_eq!(format!("{:032x}", called.context.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_ne!(called.context.span_id, 0x00f0_67aa_0ba9_02b7, "the attempt is a span of its own");
    let token = made.header("everring-token").to_owned();
    assert_eq!(bench.ask(&format!("GET {K}"), &[("everring-token", &token)], "").await.status, 200);
}

#[actix_web::test]
async fn conditions_on_writes() {
    let bench = Bench::new();
    let put = |headers: &'static [(&'static str, &'static str)], body: &'static str| {
        let bench = &bench;
        async move { bench.ask(&format!("PUT {K}"), headers, body).await }
    };
    assert_eq!(put(&[("if-match", "*")], "x").await.code(), "condition-failed");
    let made = put(&[("if-none-match", "*")], "one").await;
    assert_eq!(made.status, 201);
    let again = put(&[("if-none-match", "*")], "two").await;
    assert_eq!((again.status, again.code().as_str()), (412, "condition-failed"));
    assert_eq!(again.header("etag"), made.header("etag"), "the present version is told");
    assert_eq!(again.json()["etag"], made.header("etag"));
    assert_eq!(again.json()["outcome"], "not-done");
    let etag = made.header("etag").to_owned();
    let swapped = bench.ask(&format!("PUT {K}"), &[("if-match", &etag)], "two").await;
    assert_eq!(swapped.status, 200);
    assert_eq!(bench.ask(&format!("DELETE {K}"), &[("if-match", &etag)], "").await.status, 412, "that one is stale");
    assert_eq!(bench.get(K).await.text(), "two");
}

#[actix_web::test]
async fn conditions_on_reads() {
    let bench = Bench::new();
    let etag = bench.put(K, "v").await.header("etag").to_owned();
    let unchanged = bench.ask(&format!("GET {K}"), &[("if-none-match", &etag)], "").await;
    assert_eq!((unchanged.status, unchanged.text(), unchanged.header("etag")), (304, "", etag.as_str()));
    let weak = format!("\"x\", W/{etag}");
    assert_eq!(bench.ask(&format!("GET {K}"), &[("if-none-match", &weak)], "").await.status, 304);
    assert_eq!(bench.ask(&format!("GET {K}"), &[("if-none-match", "\"other\"")], "").await.status, 200);
    assert_eq!(bench.ask(&format!("GET {K}"), &[("if-match", "\"other\"")], "").await.code(), "condition-failed");
    assert_eq!(bench.ask("GET /v1/kv/records/none", &[("if-match", "*")], "").await.code(), "condition-failed");
}

#[actix_web::test]
async fn parts_of_a_value() {
    let bench = Bench::new();
    let etag = bench.put(K, "0123456789").await.header("etag").to_owned();
    let range = |range: &'static str| {
        let bench = &bench;
        async move { bench.ask(&format!("GET {K}"), &[("range", range)], "").await }
    };
    let part = range("bytes=2-4").await;
    assert_eq!((part.status, part.text(), part.header("content-range")), (206, "234", "bytes 2-4/10"));
    assert_eq!(range("bytes=-3").await.text(), "789");
    assert_eq!(range("bytes=0-1,4-5").await.status, 200, "several parts at once are answered by the whole");
    let outside = range("bytes=10-").await;
    assert_eq!((outside.status, outside.code().as_str()), (416, "bad-range"));
    assert_eq!(outside.header("content-range"), "bytes */10");
    let if_range = |of: &str| [("range", "bytes=0-0"), ("if-range", of)].map(|(n, v)| (n.to_owned(), v.to_owned()));
    for (of, status) in [(etag.as_str(), 206), ("\"older\"", 200)] {
        let headers = if_range(of);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(bench.ask(&format!("GET {K}"), &headers, "").await.status, status);
    }
}

#[actix_web::test]
async fn add_and_append_answer_the_new_value() {
    let bench = Bench::new();
    let post = |query: &'static str, body: &'static str| {
        let bench = &bench;
        async move { bench.ask(&format!("POST {K}?{query}"), &[], body).await }
    };
    let first = post("op=add&by=5", "").await;
    assert_eq!((first.status, first.text()), (200, "5"));
    assert_eq!(post("op=add&by=-7", "").await.text(), "-2");
    assert_eq!(post("op=add", "").await.text(), "-1");
    assert_eq!(post("op=append", "x").await.text(), "-1x");
    let unfit = post("op=add", "").await;
    assert_eq!((unfit.status, unfit.code().as_str()), (409, "value-unfit"));
    assert_eq!(unfit.json()["outcome"], "not-done");
}

#[actix_web::test]
async fn a_repeat_acts_once_through_any_gateway() {
    let bench = Bench::new();
    let other = Bench::beside(&bench.nodes);
    let id = [("everring-request-id", "request-0001")];
    let line = format!("POST {K}?op=add&by=5");
    assert_eq!(bench.ask(&line, &id, "").await.text(), "5");
    assert_eq!(other.ask(&line, &id, "").await.text(), "5");
    assert_eq!(other.ask(&line, &[("idempotency-key", "request-0001")], "").await.text(), "5");
    assert_eq!(bench.ask(&line, &[], "").await.text(), "10");
    let late = bench.ask(&line, &id, "").await;
    assert_eq!((late.status, late.code().as_str()), (409, "result-gone"), "it acted, but its value is no more");
    assert_eq!(late.json()["outcome"], "done");
}

#[actix_web::test]
async fn what_became_of_a_write() {
    let bench = Bench::new();
    let other = Bench::beside(&bench.nodes);
    let id = [("everring-request-id", "request-0001")];
    let etag = bench.ask(&format!("PUT {K}"), &id, "v").await.header("etag").to_owned();
    let done = bench.get("/v1/requests/request-0001").await;
    assert_eq!((&done.json()["outcome"], &done.json()["etag"]), (&"done".into(), &etag.into()));
    let named = other.get("/v1/requests/request-0001?bucket=records&key=k").await;
    assert_eq!(named.json()["outcome"], "done");
    let found = other.get("/v1/requests/request-0001").await;
    assert_eq!(
        (&found.json()["outcome"], &found.json()["key"]),
        (&"done".into(), &"k".into()),
        "the nodes know the key"
    );
    assert_eq!(other.get("/v1/requests/request-0001?key=k").await.code(), "bad-request");
    assert_eq!(other.get("/v1/requests/short?bucket=records&key=k").await.code(), "bad-request");
    let never = other.get("/v1/requests/request-0002?bucket=records&key=k").await;
    assert_eq!(never.json()["outcome"], "unknown", "it may still be on its way");
    let failing = [("everring-request-id", "request-0003"), ("if-none-match", "*")];
    assert_eq!(bench.ask(&format!("PUT {K}"), &failing, "w").await.status, 412);
    assert_eq!(bench.get("/v1/requests/request-0003").await.json()["outcome"], "not-done");
}

#[actix_web::test]
async fn a_weaker_level_on_an_ordered_bucket_is_served_at_sequential() {
    let bench = Bench::new();
    bench.put(K, "v").await;
    for level in ["strict", "sequential", "causal", "eventual"] {
        let read = bench.get(&format!("{K}?consistency={level}")).await;
        assert_eq!(read.status, 200, "{level}");
        let granted = if level == "strict" { "strict" } else { "sequential" };
        assert!(read.header("everring-receipt").starts_with(&format!("level={granted};")));
        let call = bench.nodes.take_calls().pop().expect("a storage node was asked");
        let session = matches!(call.operation, Operation::InSession { sequential: true, since: Ballot::ZERO, .. });
        assert_eq!(session, level != "strict");
    }
}
