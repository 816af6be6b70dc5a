//! Watching a key.

use std::time::Duration;

use gateway::gateway::Phase;
use replication::Operation;

use crate::fake::Bench;

const K: &str = "/v1/kv/records/k";

/// Waits until the key was looked at twice from now on: the second look began after this call.
async fn looked_at(bench: &Bench) {
    bench.nodes.take_calls();
    let mut looks = 0;
    while looks < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        looks += bench.nodes.take_calls().iter().filter(|c| matches!(c.operation, Operation::Read { .. })).count();
    }
}

/// The events of a stream: id, kind, and the value in its data.
fn events(stream: &str) -> Vec<(String, String, String)> {
    let value = |data: &serde_json::Value| data["value"].as_str().unwrap_or_default().to_owned();
    crate::available_watches::events(stream).into_iter().map(|(id, kind, data)| (id, kind, value(&data))).collect()
}

#[actix_web::test]
async fn each_change_is_told_and_the_stream_ends_when_the_gateway_drains() {
    let bench = Bench::new();
    let script = async {
        looked_at(&bench).await;
        let one = bench.put(K, "one").await.header("etag").to_owned();
        looked_at(&bench).await;
        bench.put(K, "two").await;
        looked_at(&bench).await;
        bench.ask(&format!("DELETE {K}"), &[], "").await;
        looked_at(&bench).await;
        bench.gateway.advance(Phase::Draining);
        one
    };
    let watch = format!("{K}?watch=1");
    let (told, one) = futures_util::join!(bench.get(&watch), script);
    assert_eq!((told.status, told.header("content-type")), (200, "text/event-stream"));
    let told = events(told.text());
    let seen: Vec<(&str, &str)> = told.iter().map(|(_, kind, value)| (kind.as_str(), value.as_str())).collect();
    assert_eq!(seen, [("absent", ""), ("value", "b25l"), ("value", "dHdv"), ("absent", "")]);
    assert_eq!(told[1].0, one.trim_matches('"'), "an event's id is the version that the ETag names");
}

#[actix_web::test]
async fn a_watch_goes_on_after_the_last_event() {
    let bench = Bench::new();
    let etag = bench.put(K, "one").await.header("etag").to_owned();
    let script = async {
        looked_at(&bench).await;
        bench.put(K, "two").await;
        looked_at(&bench).await;
        bench.gateway.advance(Phase::Draining);
    };
    let (line, last) = (format!("GET {K}?watch=1"), [("last-event-id", etag.trim_matches('"'))]);
    let (told, ()) = futures_util::join!(bench.ask(&line, &last, ""), script);
    let told = events(told.text());
    assert_eq!(told.len(), 1, "what was told is not told again: {told:?}");
    assert_eq!(told[0].2, "dHdv");
}
