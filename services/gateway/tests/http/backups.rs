//! Backups, page by page.

use std::collections::BTreeMap;

use membership::NodeId;
use serde_json::{Value, json};

use crate::fake::{Bench, Mood};

/// One page: its entries, and what it says of itself.
async fn page(bench: &Bench, bucket: &str, cursor: Option<&str>) -> (Vec<Value>, Value) {
    let query = cursor.map(|cursor| format!("?cursor={cursor}")).unwrap_or_default();
    let answer = bench.get(&format!("/v1/backup/{bucket}{query}")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"), "{answer:?}");
    let mut lines: Vec<Value> =
        answer.text().lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let page = lines.pop().expect("a last line")["page"].clone();
    assert_eq!(page["entries"], lines.len());
    (lines, page)
}

/// All entries, as a client puts them together; how many arcs were begun again.
async fn saved(bench: &Bench, bucket: &str, mut between: impl FnMut(&Value)) -> (BTreeMap<String, Value>, usize) {
    let (mut whole, mut arc, mut again, mut cursor) = (Vec::new(), Vec::new(), 0, None);
    for _ in 0..1_000 {
        let (entries, page) = page(bench, bucket, cursor.as_deref()).await;
        if page["begins"] == true && !arc.is_empty() {
            arc.clear();
            again += 1;
        }
        arc.extend(entries);
        if page["ends"] == true {
            whole.append(&mut arc);
        }
        between(&page);
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => {
                assert!(arc.is_empty(), "the last arc is told to the end");
                let keyed: BTreeMap<String, Value> = whole
                    .iter()
                    .map(|entry| (entry["key"].as_str().expect("a key").to_owned(), entry.clone()))
                    .collect();
                assert_eq!(keyed.len(), whole.len(), "each key once");
                return (keyed, again);
            }
        }
    }
    panic!("it never ends");
}

#[actix_web::test]
async fn a_backup_holds_every_value_with_its_type_and_its_time() {
    let bench = Bench::new();
    for at in 0..50 {
        bench.put(&format!("/v1/kv/records/k{at}"), &format!("v{at}")).await;
    }
    bench.ask("PUT /v1/kv/records/k7?ttl=1h", &[("content-type", "text/css")], "short").await;
    let (keyed, again) = saved(&bench, "records", |_| {}).await;
    assert_eq!((keyed.len(), again), (50, 0));
    assert_eq!(keyed["k3"]["values"], json!([{"value": "djM=", "content_type": "text/plain"}]));
    let short = &keyed["k7"]["values"][0];
    assert_eq!((&short["value"], &short["content_type"]), (&json!("c2hvcnQ="), &json!("text/css")));
    let ttl_ms = short["ttl_ms"].as_u64().expect("it ends");
    assert!((3_000_000..=3_600_000).contains(&ttl_ms), "{ttl_ms}");
}

#[actix_web::test]
async fn an_arc_whose_cut_is_lost_begins_again() {
    let bench = Bench::new();
    for at in 0..120 {
        bench.put(&format!("/v1/kv/records/k{at}"), "v").await;
    }
    let mut lost = 0;
    let nodes = std::sync::Arc::clone(&bench.nodes);
    let (keyed, again) = saved(&bench, "records", |page| {
        if page["ends"] == false && lost < 5 {
            lost += nodes.forget_cuts();
        }
    })
    .await;
    assert_eq!(keyed.len(), 120);
    assert!(again >= 1 && lost >= 1, "{again} of {lost}");
    bench.nodes.set_mood(NodeId(3), Mood::Down);
    let (keyed, _) = saved(&bench, "records", |_| {}).await;
    assert_eq!(keyed.len(), 120, "any replica in charge will do");
}

#[actix_web::test]
async fn an_available_bucket_is_saved_with_all_that_stands_side_by_side() {
    let bench = Bench::new();
    for at in 0..30 {
        bench.put(&format!("/v1/kv/sessions/s{at}"), "one").await;
    }
    bench.put("/v1/kv/sessions/s4", "two").await;
    let (keyed, _) = saved(&bench, "sessions", |_| {}).await;
    assert_eq!(keyed.len(), 30);
    let values: Vec<&str> =
        keyed["s4"]["values"].as_array().expect("values").iter().filter_map(|value| value["value"].as_str()).collect();
    assert_eq!(values, ["b25l", "dHdv"]);
    for (name, kind, change, held) in [
        ("counters", "counter", "?op=add&by=5", json!({"key": "k", "number": 5})),
        ("sets", "set", "?op=add", json!({"key": "k", "elements": ["Ynk="]})),
        ("maps", "map", "?op=add&field=f", json!({"key": "k", "fields": [["Zg==", "Ynk="]]})),
    ] {
        let definition = json!({"contract": "available", "type": kind}).to_string();
        bench.ask(&format!("PUT /v1/buckets/{name}"), &[], &definition).await;
        bench.ask(&format!("POST /v1/kv/{name}/k{change}"), &[], "by").await;
        let (keyed, _) = saved(&bench, name, |_| {}).await;
        assert_eq!(keyed.into_values().collect::<Vec<_>>(), [held]);
    }
}
