//! Listings, page by page.

use std::collections::BTreeMap;

use membership::NodeId;
use serde_json::Value;

use crate::fake::{Bench, Mood};

/// All lines of a listing, over all its pages; how many pages there were.
async fn listed(bench: &Bench, path: &str) -> (Vec<Value>, usize) {
    let (mut lines, mut pages, mut next) = (Vec::new(), 0, Some(path.to_owned()));
    while let Some(path) = next {
        let page = bench.get(&path).await;
        assert_eq!((page.status, page.header("content-type")), (200, "application/x-ndjson"), "{page:?}");
        assert!(page.header("everring-receipt").starts_with("level="), "{page:?}");
        lines.extend(page.text().lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line")));
        let link = page.header("link");
        next = (!link.is_empty()).then(|| {
            let (path, rel) = link.strip_prefix('<').and_then(|link| link.split_once('>')).expect("a link");
            assert_eq!(rel, "; rel=\"next\"");
            path.to_owned()
        });
        pages += 1;
        assert!(pages < 1_000, "it gets on");
    }
    (lines, pages)
}

fn by_key(lines: &[Value]) -> BTreeMap<String, Value> {
    let keyed: BTreeMap<String, Value> =
        lines.iter().map(|line| (line["key"].as_str().expect("a key").to_owned(), line.clone())).collect();
    assert_eq!(keyed.len(), lines.len(), "each key once");
    keyed
}

#[actix_web::test]
async fn every_key_is_listed_once_with_its_size_and_etag() {
    let bench = Bench::new();
    let mut etags = BTreeMap::new();
    for at in 0..60 {
        let key = format!("a/{at}");
        let answer = bench.put(&format!("/v1/kv/records/{key}"), &"v".repeat(at)).await;
        etags.insert(key, answer.header("etag").to_owned());
    }
    bench.put("/v1/kv/records/%C3%A4%20b", "x").await;
    bench.put("/v1/kv/records/gone", "x").await;
    bench.ask("DELETE /v1/kv/records/gone", &[], "").await;
    let (lines, pages) = listed(&bench, "/v1/kv/records?prefix=a/&limit=7").await;
    assert!(pages >= 60 / 7, "{pages}");
    let keyed = by_key(&lines);
    assert_eq!(keyed.len(), 60);
    for (key, line) in &keyed {
        assert_eq!(line["etag"], etags[key].as_str());
        assert_eq!(line["size"], key[2..].parse::<u64>().expect("its number"));
    }
    let (all, _) = listed(&bench, "/v1/kv/records?limit=1000").await;
    let keyed = by_key(&all);
    assert_eq!(keyed.len(), 61, "a deleted key is not listed");
    assert!(keyed.contains_key("ä b"));
    let (some, _) = listed(&bench, "/v1/kv/records?prefix=%C3%A4").await;
    assert_eq!(some.len(), 1, "a prefix is any text");
    assert_eq!(listed(&bench, "/v1/kv/records?prefix=nothing").await, (vec![], 1));
}

#[actix_web::test]
async fn a_cursor_belongs_to_its_listing() {
    let bench = Bench::new();
    for at in 0..20 {
        bench.put(&format!("/v1/kv/records/a{at}"), "v").await;
    }
    let page = bench.get("/v1/kv/records?prefix=a&limit=2").await;
    let link = page.header("link");
    let cursor = link.split_once("cursor=").and_then(|(_, rest)| rest.split_once('>')).expect("a cursor").0;
    let code = async |path: String| bench.get(&path).await.code();
    assert_eq!(code(format!("/v1/kv/records?prefix=b&cursor={cursor}")).await, "bad-request");
    assert_eq!(code(format!("/v1/kv/sessions?prefix=a&cursor={cursor}")).await, "bad-request");
    assert_eq!(code(format!("/v1/kv/records?prefix=a&cursor=A{cursor}")).await, "bad-request");
    let other = Bench::beside(&bench.nodes);
    assert_eq!(other.get(&format!("/v1/kv/records?prefix=a&cursor={cursor}")).await.status, 200, "any gateway");
    for wrong in ["limit=0", "limit=1001", "limit=x", "limit=", "prefx=a", &format!("prefix={}", "k".repeat(1_025))] {
        assert_eq!(code(format!("/v1/kv/records?{wrong}")).await, "bad-request", "{wrong}");
    }
}

#[actix_web::test]
async fn a_listing_gets_by_without_a_node_and_says_when_it_cannot() {
    let bench = Bench::new();
    for at in 0..30 {
        bench.put(&format!("/v1/kv/records/{at}"), "v").await;
    }
    for mood in [Mood::Down, Mood::Resets, Mood::Refuses(replication::Refusal::Draining)] {
        bench.nodes.set_mood(NodeId(2), mood);
        let (lines, _) = listed(&bench, "/v1/kv/records?limit=1000").await;
        assert_eq!(by_key(&lines).len(), 30, "{mood:?}");
    }
    bench.nodes.set_all(Mood::Down);
    let answer = bench.ask("GET /v1/kv/records", &[("everring-deadline-ms", "100")], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "no-quorum"));
    let answer = bench.ask("GET /v1/kv/sessions", &[("everring-deadline-ms", "100")], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "no-quorum"));
}

#[actix_web::test]
async fn a_listing_ends_in_time_and_goes_on_behind_what_it_told() {
    let bench = Bench::new();
    bench.put("/v1/kv/records/k", "v").await;
    // The first replicas of many arcs are silent, so that each costs its patience.
    bench.nodes.set_mood(NodeId(1), Mood::Silent);
    let page = bench.ask("GET /v1/kv/records", &[("everring-deadline-ms", "300")], "").await;
    assert_eq!(page.status, 200, "{page:?}");
    bench.nodes.set_mood(NodeId(1), Mood::Sound);
    let (lines, _) = listed(&bench, "/v1/kv/records").await;
    assert_eq!(lines.len(), 1);
}

#[actix_web::test]
async fn available_keys_are_listed_with_all_that_they_hold() {
    let bench = Bench::new();
    for at in 0..40 {
        bench.put(&format!("/v1/kv/sessions/s{at}"), "four").await;
    }
    bench.put("/v1/kv/sessions/s1", "beside").await;
    bench.ask("DELETE /v1/kv/sessions/s2", &[], "").await;
    let (lines, pages) = listed(&bench, "/v1/kv/sessions?prefix=s&limit=7").await;
    assert!(pages >= 6, "{pages}");
    let keyed = by_key(&lines);
    assert_eq!(keyed.len(), 39, "a deleted key is not listed");
    assert_eq!((&keyed["s1"]["siblings"], &keyed["s1"]["size"]), (&Value::from(2), &Value::from(10)));
    assert_eq!((&keyed["s3"]["siblings"], &keyed["s3"]["size"]), (&Value::Null, &Value::from(4)));
    let etag = keyed["s1"]["etag"].as_str().expect("an ETag");
    let settled = bench.ask("PUT /v1/kv/sessions/s1", &[("if-match", etag)], "one").await;
    assert_eq!(settled.status, 200, "the ETag covers all that was listed");
    assert_eq!(bench.get("/v1/kv/sessions/s1").await.text(), "one");
    bench.ask("PUT /v1/buckets/sets", &[], r#"{"contract":"available","type":"set"}"#).await;
    bench.ask("POST /v1/kv/sets/k?op=add", &[], "abc").await;
    bench.ask("POST /v1/kv/sets/k?op=add", &[], "de").await;
    bench.ask("POST /v1/kv/sets/empty?op=add", &[], "de").await;
    bench.ask("POST /v1/kv/sets/empty?op=remove", &[], "de").await;
    let (lines, _) = listed(&bench, "/v1/kv/sets").await;
    assert_eq!((lines.len(), &lines[0]["size"]), (1, &Value::from(5)), "an empty set is as good as none");
}
