//! Batches: operations one a line.

use serde_json::{Value, json};

use crate::fake::{Answer, Bench, Mood};

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"), "{answer:?}");
    answer.text().lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn batch(operations: &[Value]) -> String {
    operations.iter().map(|operation| format!("{operation}\n")).collect()
}

#[actix_web::test]
async fn each_operation_is_answered_in_its_place_and_by_itself() {
    let bench = Bench::new();
    let body = batch(&[
        json!({"op": "put", "bucket": "records", "key": "a", "value": "1", "content_type": "text/plain"}),
        json!({"op": "get", "bucket": "records", "key": "a"}),
        json!({"op": "put", "bucket": "records", "key": "a", "value": "2", "if_none_match": "*"}),
        json!({"op": "get", "bucket": "records", "key": "nothing"}),
        json!({"op": "brew", "bucket": "records", "key": "a"}),
        json!({"op": "add", "bucket": "records", "key": "n", "by": 5}),
        json!({"op": "add", "bucket": "records", "key": "n", "by": 2}),
        json!({"op": "put", "bucket": "sessions", "key": "s", "value_base64": "/w=="}),
        json!({"op": "get", "bucket": "sessions", "key": "s"}),
        json!({"op": "get", "bucket": "no-bucket", "key": "s"}),
        json!({"op": "delete", "bucket": "records", "key": "a"}),
        json!({"op": "put", "bucket": "records", "key": "", "value": "x"}),
    ]);
    let answer = bench.ask("POST /v1/batch", &[], &body).await;
    let results = lines(&answer);
    let statuses: Vec<u64> = results.iter().filter_map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [201, 200, 412, 404, 400, 200, 200, 201, 200, 404, 204, 400], "{results:?}");
    assert_eq!((&results[1]["value"], &results[1]["content_type"]), (&json!("1"), &json!("text/plain")));
    assert_eq!(results[0]["etag"], results[1]["etag"]);
    assert_eq!(results[2]["problem"]["code"], "condition-failed");
    assert_eq!(results[2]["problem"]["outcome"], "not-done");
    assert_eq!(results[3]["problem"]["code"], "no-such-key");
    assert_eq!(results[6]["value"], "7", "they happen in their order");
    assert_eq!(results[8]["value_base64"], "/w==");
    assert!(results[0]["receipt"].as_str().is_some_and(|receipt| receipt.starts_with("level=strict")));
    assert!(!answer.header("everring-token").is_empty(), "the session goes on");
}

#[actix_web::test]
async fn a_repeated_batch_acts_once_by_its_request_ids() {
    let bench = Bench::new();
    let add = json!({"op": "add", "bucket": "records", "key": "n", "by": 5, "request_id": "once-and-only"});
    for _ in 0..2 {
        let answer = bench.ask("POST /v1/batch", &[], &batch(std::slice::from_ref(&add))).await;
        assert_eq!(lines(&answer)[0]["request_id"], "once-and-only");
    }
    assert_eq!(bench.get("/v1/kv/records/n").await.text(), "5");
}

#[actix_web::test]
async fn a_batch_has_bounds_and_one_deadline() {
    let bench = Bench::new();
    let get = json!({"op": "get", "bucket": "records", "key": "k"});
    let many = batch(&vec![get.clone(); 1_001]);
    assert_eq!(bench.ask("POST /v1/batch", &[], &many).await.code(), "bad-request");
    let large = format!("{}\n", "x".repeat((8 << 20) + 1));
    assert_eq!(bench.ask("POST /v1/batch", &[], &large).await.code(), "value-too-large");
    assert_eq!(lines(&bench.ask("POST /v1/batch", &[], "\n\n").await).len(), 0, "nothing is asked");
    let broken = bench.ask("POST /v1/batch", &[("everring-token", "forged")], &batch(&[get])).await;
    assert_eq!(broken.code(), "bad-token");
    bench.nodes.set_all(Mood::Silent);
    let put = |at: u64| json!({"op": "put", "bucket": "records", "key": at.to_string(), "value": "v"});
    let puts: Vec<Value> = (0..3).map(put).collect();
    let answer = bench.ask("POST /v1/batch", &[("everring-deadline-ms", "150")], &batch(&puts)).await;
    let results = lines(&answer);
    assert_eq!(results[0]["problem"]["code"], "deadline");
    assert_eq!(results[0]["problem"]["outcome"], "unknown", "it was asked for");
    assert_eq!(results[2]["problem"]["outcome"], "not-done", "it was not reached");
}
