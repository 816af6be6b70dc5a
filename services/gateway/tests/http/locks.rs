//! Locks, fences and times to live, as a client meets them.

use std::time::Duration;

use crate::fake::{Answer, Bench};

const LOCK: &str = "/v1/locks/nightly";

async fn take(bench: &Bench, owner: &str, more: &str) -> Answer {
    bench.ask(&format!("PUT {LOCK}"), &[], &format!(r#"{{"owner":"{owner}"{more}}}"#)).await
}

fn fence(answer: &Answer) -> u64 {
    answer.json()["fence"].as_u64().unwrap_or_else(|| panic!("a token: {answer:?}"))
}

#[actix_web::test]
async fn a_lock_is_taken_shown_renewed_and_given_back() {
    let bench = Bench::new();
    let free = bench.get(LOCK).await;
    assert_eq!((free.status, free.json()["held"].as_bool()), (200, Some(false)));
    let taken = take(&bench, "a", r#","ttl_ms":60000"#).await;
    assert_eq!((taken.status, taken.json()["owner"].as_str()), (200, Some("a")));
    assert!((1..=60_000).contains(&taken.json()["expires_in_ms"].as_u64().expect("a time")), "{taken:?}");
    assert!(!taken.header("everring-receipt").is_empty());
    let again = take(&bench, "a", "").await;
    assert_eq!(fence(&again), fence(&taken), "who has it keeps it");
    let refused = take(&bench, "b", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "held"));
    assert_eq!(refused.json()["place"], 1);
    let shown = bench.get(LOCK).await.json();
    assert_eq!((shown["owner"].as_str(), shown["fence"].as_u64()), (Some("a"), Some(fence(&taken))));
    let token = fence(&taken).to_string();
    let renewed = bench.ask(&format!("POST {LOCK}/renew"), &[("if-fence", &token)], r#"{"ttl_ms":90000}"#).await;
    assert_eq!((renewed.status, fence(&renewed)), (200, fence(&taken)));
    for _ in 0..2 {
        let back = bench.ask(&format!("DELETE {LOCK}?fence={token}"), &[], "").await;
        assert_eq!(back.status, 204, "giving back is idempotent: {back:?}");
    }
    let next = take(&bench, "b", "").await;
    assert!(fence(&next) > fence(&taken));
    let late = bench.ask(&format!("POST {LOCK}/renew"), &[("if-fence", &token)], "").await;
    assert_eq!((late.status, late.code().as_str()), (412, "fenced-off"));
    assert_eq!(late.json()["outcome"], "not-done");
}

#[actix_web::test]
async fn who_waits_gets_the_lock_when_it_is_given_back() {
    let bench = Bench::new();
    let first = take(&bench, "a", "").await;
    let give_back = async {
        while bench.get(LOCK).await.json()["queue"] != serde_json::json!(["b"]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.ask(&format!("DELETE {LOCK}?fence={}", fence(&first)), &[], "").await
    };
    let (second, back) = futures_util::join!(take(&bench, "b", r#","wait_ms":4000"#), give_back);
    assert_eq!((second.status, back.status), (200, 204), "{second:?}");
    assert!(fence(&second) > fence(&first));
}

#[actix_web::test]
async fn who_waited_in_vain_has_left_the_queue() {
    let bench = Bench::new();
    take(&bench, "a", "").await;
    let refused = take(&bench, "b", r#","wait_ms":50"#).await;
    assert_eq!(refused.code(), "held");
    assert_eq!(bench.get(LOCK).await.json()["queue"], serde_json::json!([]));
}

#[actix_web::test]
async fn a_lease_that_is_over_is_the_next_ones() {
    let bench = Bench::new();
    let first = take(&bench, "a", r#","ttl_ms":1"#).await;
    let second = take(&bench, "b", r#","wait_ms":4000"#).await;
    assert_eq!(second.status, 200);
    assert!(fence(&second) > fence(&first));
}

#[actix_web::test]
async fn a_write_under_an_old_token_is_fenced_off() {
    let bench = Bench::new();
    let put = |token: &'static str, body: &'static str| {
        let bench = &bench;
        async move { bench.ask("PUT /v1/kv/records/k", &[("if-fence", token)], body).await }
    };
    assert_eq!(put("7", "seven").await.status, 201);
    assert_eq!(put("7", "seven again").await.status, 200, "the holder may write as often as it likes");
    let late = put("6", "six").await;
    assert_eq!((late.status, late.code().as_str()), (412, "fenced-off"));
    assert_eq!((late.json()["fence"].as_u64(), late.json()["outcome"].as_str()), (Some(7), Some("not-done")));
    assert_eq!(bench.get("/v1/kv/records/k").await.text(), "seven again");
    assert_eq!(bench.put("/v1/kv/records/k", "free").await.status, 200, "who names no token is not asked for one");
}

#[actix_web::test]
async fn a_value_lives_as_long_as_it_was_given() {
    let bench = Bench::new();
    assert_eq!(bench.put("/v1/kv/records/k?ttl=1h", "v").await.status, 201);
    assert_eq!(bench.get("/v1/kv/records/k").await.text(), "v");
    let touched = bench.ask("POST /v1/kv/records/k?op=touch&ttl=1ms", &[], "").await;
    assert_eq!((touched.status, touched.text()), (200, "v"));
    while bench.get("/v1/kv/records/k").await.status != 404 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.put("/v1/buckets/brief", r#"{"ttl_s":3600}"#).await.status, 201);
    assert_eq!(bench.put("/v1/kv/brief/k", "v").await.status, 201);
    let touched = bench.ask("POST /v1/kv/brief/k?op=touch&ttl=1ms", &[], "").await;
    assert_eq!(touched.status, 200);
    while bench.get("/v1/kv/brief/k").await.status != 404 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
