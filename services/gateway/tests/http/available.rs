//! Available buckets: levels, siblings, types, request ids, session tokens.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use membership::NodeId;
use wire::http::{Durability, Receipt};

use crate::fake::{Answer, Bench, Mood};

const K: &str = "/v1/kv/sessions/k";

/// A bucket of this type, kept on disk.
pub async fn bucket(bench: &Bench, value_type: &str) -> String {
    let definition = format!(r#"{{"contract":"available","type":"{value_type}"}}"#);
    assert_eq!(bench.put(&format!("/v1/buckets/b-{value_type}"), &definition).await.status, 201);
    format!("/v1/kv/b-{value_type}/k")
}

/// The request of a session: what its last answer gave it comes along.
pub async fn ask(bench: &Bench, line: &str, token: &mut String, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut headers = headers.to_vec();
    let sent = token.clone();
    if !sent.is_empty() {
        headers.push(("everring-token", &sent));
    }
    let answer = bench.ask(line, &headers, body).await;
    let next = answer.header("everring-token");
    assert!(next.len() <= 512, "a token has at most 512 bytes");
    if !next.is_empty() {
        next.clone_into(token);
    }
    answer
}

pub fn values(answer: &Answer) -> Vec<String> {
    assert_eq!((answer.status, answer.header("content-type")), (300, "application/json"), "{answer:?}");
    let siblings = answer.json()["siblings"].as_array().expect("a list").clone();
    let text = |one: &serde_json::Value| {
        let bytes = STANDARD.decode(one["value"].as_str().expect("base64")).expect("base64");
        String::from_utf8(bytes).expect("text")
    };
    siblings.iter().map(text).collect()
}

#[actix_web::test]
async fn a_value_is_made_replaced_read_and_deleted_by_its_session() {
    let bench = Bench::new();
    let mut token = String::new();
    let missing = ask(&bench, &format!("GET {K}"), &mut token, &[], "").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "no-such-key"));
    let typed = [("content-type", "text/x-own")];
    assert_eq!(ask(&bench, &format!("PUT {K}"), &mut token, &typed, "one").await.status, 201);
    let replaced = ask(&bench, &format!("PUT {K}"), &mut token, &typed, "two").await;
    assert_eq!(replaced.status, 200);
    let read = ask(&bench, &format!("GET {K}"), &mut token, &[], "").await;
    assert_eq!((read.status, read.text(), read.header("content-type")), (200, "two", "text/x-own"));
    let etag = read.header("etag").to_owned();
    let again = ask(&bench, &format!("GET {K}"), &mut token, &[("if-none-match", &etag)], "").await;
    assert_eq!(again.status, 304);
    let part = ask(&bench, &format!("GET {K}"), &mut token, &[("range", "bytes=0-1")], "").await;
    assert_eq!((part.status, part.text()), (206, "tw"));
    assert_eq!(ask(&bench, &format!("DELETE {K}"), &mut token, &[], "").await.status, 204);
    assert_eq!(ask(&bench, &format!("GET {K}"), &mut token, &[], "").await.status, 404);
}

#[actix_web::test]
async fn an_answer_names_the_level_that_was_granted() {
    let bench = Bench::new();
    let level = |answer: &Answer| answer.header("everring-receipt").parse::<Receipt>().expect("a receipt").level;
    let made = bench.put(K, "v").await;
    assert_eq!(level(&made).name(), "causal", "the contract's own");
    for name in ["causal", "eventual"] {
        let path = format!("{K}?consistency={name}");
        assert_eq!(level(&bench.put(&path, "v").await).name(), name);
        assert_eq!(level(&bench.get(&path).await).name(), name);
    }
    for name in ["strict", "sequential"] {
        for line in ["GET", "PUT", "DELETE"] {
            let refused = bench.ask(&format!("{line} {K}?consistency={name}"), &[], "v").await;
            assert_eq!((refused.status, refused.code().as_str()), (400, "level-not-offered"), "{line} {name}");
        }
    }
}

#[actix_web::test]
async fn values_of_two_sessions_stay_side_by_side_until_one_settles_them() {
    let bench = Bench::new();
    let (mut ours, mut theirs) = (String::new(), String::new());
    ask(&bench, &format!("PUT {K}"), &mut ours, &[], "ours").await;
    ask(&bench, &format!("PUT {K}"), &mut theirs, &[], "theirs").await;
    let both = bench.get(K).await;
    assert_eq!(values(&both), ["ours", "theirs"]);
    let etag = both.header("etag").to_owned();
    assert_eq!(bench.ask(&format!("GET {K}"), &[("if-none-match", &etag)], "").await.status, 304);
    // A third one comes in between: it was not seen, and so it is not settled.
    bench.put(K, "third").await;
    let settled = bench.ask(&format!("PUT {K}"), &[("if-match", &etag)], "settled").await;
    assert_eq!(settled.status, 200);
    assert_eq!(values(&bench.get(K).await), ["third", "settled"]);
    let both = bench.get(K).await;
    let etag = both.header("etag").to_owned();
    assert_eq!(bench.ask(&format!("DELETE {K}"), &[("if-match", &etag)], "").await.status, 204);
    assert_eq!(bench.get(K).await.status, 404);
}

#[actix_web::test]
async fn one_of_several_values_can_be_replaced_alone() {
    let bench = Bench::new();
    bench.put(K, "a").await;
    bench.put(K, "b").await;
    let both = bench.get(K).await;
    let first = both.json()["siblings"][0]["etag"].as_str().expect("an ETag").to_owned();
    bench.ask(&format!("PUT {K}"), &[("if-match", &first)], "c").await;
    assert_eq!(values(&bench.get(K).await), ["b", "c"]);
}

#[actix_web::test]
async fn a_session_replaces_what_it_has_read() {
    let bench = Bench::new();
    bench.put(K, "a").await;
    bench.put(K, "b").await;
    let mut token = String::new();
    assert_eq!(values(&ask(&bench, &format!("GET {K}"), &mut token, &[], "").await), ["a", "b"]);
    ask(&bench, &format!("PUT {K}"), &mut token, &[], "c").await;
    assert_eq!(bench.get(K).await.text(), "c");
}

#[actix_web::test]
async fn conditions_that_nobody_can_promise_are_refused() {
    let bench = Bench::new();
    let made = bench.put(K, "v").await;
    let etag = made.header("etag").to_owned();
    for condition in [("if-match", "*"), ("if-none-match", "*"), ("if-match", "\"1.a.0\""), ("if-fence", "3")] {
        let refused = bench.ask(&format!("PUT {K}"), &[condition], "w").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad-request"), "{condition:?}");
        assert_eq!(refused.json()["outcome"], "not-done");
    }
    let elsewhere = bench.ask("PUT /v1/kv/sessions/other", &[("if-match", &etag)], "w").await;
    assert_eq!(elsewhere.code(), "bad-request", "an ETag of another key");
    let changed = format!("\"{}A\"", etag.trim_matches('"'));
    assert_eq!(bench.ask(&format!("PUT {K}"), &[("if-match", &changed)], "w").await.code(), "bad-request");
    assert_eq!(bench.get(K).await.text(), "v");
}

#[actix_web::test]
async fn a_counter_adds_once_for_each_request_id() {
    let bench = Bench::new();
    let k = bucket(&bench, "counter").await;
    let id = [("everring-request-id", "request-one")];
    for _ in 0..3 {
        let added = bench.ask(&format!("POST {k}?op=add&by=5"), &id, "").await;
        assert_eq!((added.status, added.text()), (200, "5"), "the same request acts once");
    }
    let added = bench.ask(&format!("POST {k}?op=add&by=-2"), &[], "").await;
    assert_eq!((added.status, added.text()), (200, "3"));
    assert_eq!(bench.get(&k).await.text(), "3");
    let told = bench.get("/v1/requests/request-one").await;
    assert_eq!((told.status, &told.json()["outcome"]), (200, &"done".into()), "{told:?}");
    let told = bench.get("/v1/requests/request-two?bucket=b-counter&key=k").await;
    assert_eq!(told.json()["outcome"], "unknown", "it may yet come");
    assert_eq!(bench.put(&k, "7").await.code(), "value-unfit");
    assert_eq!(bench.ask(&format!("POST {k}?op=append"), &[], "x").await.code(), "value-unfit");
    assert_eq!(bench.ask(&format!("POST {k}?op=add&by=x"), &[], "").await.code(), "bad-request");
    assert_eq!(bench.ask(&format!("DELETE {k}"), &[], "").await.status, 204);
    assert_eq!(bench.get(&k).await.status, 404);
}

#[actix_web::test]
async fn a_set_has_elements_and_a_map_has_fields() {
    let bench = Bench::new();
    let k = bucket(&bench, "set").await;
    let elements = |answer: &Answer| answer.json()["elements"].clone();
    assert_eq!(bench.ask(&format!("POST {k}?op=add"), &[], "a").await.status, 200);
    let added = bench.ask(&format!("POST {k}?op=add"), &[], "b").await;
    assert_eq!(elements(&added), serde_json::json!([STANDARD.encode("a"), STANDARD.encode("b")]));
    let removed = bench.ask(&format!("POST {k}?op=remove"), &[], "a").await;
    assert_eq!((removed.status, elements(&removed)), (200, serde_json::json!([STANDARD.encode("b")])));
    assert_eq!(elements(&bench.get(&k).await), serde_json::json!([STANDARD.encode("b")]));
    assert_eq!(bench.ask(&format!("POST {k}?op=add&by=3"), &[], "").await.code(), "bad-request");

    let k = bucket(&bench, "map").await;
    let set = bench.ask(&format!("POST {k}?op=add&field=name"), &[], "x").await;
    assert_eq!(set.json()["fields"], serde_json::json!({ "name": STANDARD.encode("x") }));
    let set = bench.ask(&format!("POST {k}?op=add&field=name"), &[], "y").await;
    assert_eq!(set.json()["fields"], serde_json::json!({ "name": STANDARD.encode("y") }));
    assert_eq!(bench.ask(&format!("POST {k}?op=add"), &[], "z").await.code(), "bad-request", "which field?");
    assert_eq!(bench.ask(&format!("POST {k}?op=remove&field=name"), &[], "").await.status, 200);
    assert_eq!(bench.get(&k).await.status, 404);
}

#[actix_web::test]
async fn of_last_writer_values_the_latest_is_shown() {
    let bench = Bench::new();
    let k = bucket(&bench, "last-writer").await;
    bench.put(&k, "one").await;
    assert_eq!(bench.put(&k, "two").await.status, 200);
    assert_eq!(bench.get(&k).await.text(), "two");
    assert_eq!(bench.ask(&format!("DELETE {k}"), &[], "").await.status, 204);
    assert_eq!(bench.get(&k).await.status, 404);
}

#[actix_web::test]
async fn a_write_that_is_behind_is_asked_again_as_a_later_one() {
    let bench = Bench::new();
    let k = bucket(&bench, "last-writer").await;
    bench.nodes.be_ahead(5_000);
    let made = bench.put(&k, "v").await;
    assert_eq!(made.status, 201);
    let receipt: Receipt = made.header("everring-receipt").parse().expect("a receipt");
    assert_eq!(receipt.attempts, 2);
    let calls = bench.nodes.take_available_calls();
    let order = |at: usize| match &calls[at].operation.action {
        available::Action::Write(write) => (write.order, write.firm),
        other => panic!("{other:?}"),
    };
    assert!(order(0).0 < 5_000 && order(1) == (5_001, false), "{calls:?}");
}

#[actix_web::test]
async fn what_is_kept_in_memory_is_kept_apart_and_ends_by_itself() {
    let bench = Bench::new();
    assert_eq!(bench.put("/v1/kv/cache/k?ttl=365d", "v").await.status, 201);
    let call = &bench.nodes.take_available_calls()[0];
    assert_eq!(call.durability, Durability::Memory);
    assert_eq!(bench.get("/v1/kv/cache/k").await.text(), "v");
    assert_eq!(bench.put(&format!("{K}?ttl=1ms"), "v").await.status, 201);
    let mut read = bench.get(K).await;
    while read.status != 404 {
        assert_eq!(read.text(), "v");
        read = bench.get(K).await;
    }
    assert_eq!(bench.ask(&format!("POST {K}?op=touch"), &[], "").await.code(), "not-offered");
    assert_eq!(bench.ask(&format!("DELETE {K}?ttl=5s"), &[], "").await.code(), "bad-request");
}

#[actix_web::test]
async fn an_eventual_write_is_taken_by_a_stand_in_and_a_causal_one_is_not() {
    let bench = Bench::new();
    let homes = crate::fake::homes_of(2, "k");
    homes.iter().for_each(|home| bench.nodes.set_mood(*home, Mood::Down));
    let made = bench.put(&format!("{K}?consistency=eventual"), "v").await;
    assert_eq!(made.status, 201);
    let asked: Vec<NodeId> = bench.nodes.take_available_calls().iter().map(|call| call.node).collect();
    assert!(asked.iter().any(|node| !homes.contains(node)), "{asked:?}");
    let refused = bench.ask(&format!("PUT {K}"), &[("everring-deadline-ms", "50")], "w").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "no-quorum"));
    assert_eq!(refused.json()["outcome"], "not-done");
    let asked: Vec<NodeId> = bench.nodes.take_available_calls().iter().map(|call| call.node).collect();
    assert!(asked.iter().all(|node| homes.contains(node)), "{asked:?}");
}

#[actix_web::test]
async fn a_write_whose_node_died_is_made_once_by_another() {
    let bench = Bench::new();
    let k = bucket(&bench, "counter").await;
    let first =
        bench.gateway.fleet().ring.replicas_of(bench.gateway.register(membership::BucketId(16), "k").position)[0];
    bench.nodes.set_mood(first, Mood::ActsAndResets);
    let added = bench.ask(&format!("POST {k}?op=add&by=4"), &[], "").await;
    assert_eq!((added.status, added.text()), (200, "4"), "{added:?}");
}

#[actix_web::test]
async fn what_a_session_saw_in_either_kind_of_bucket_goes_before_what_it_does_in_the_other() {
    let bench = Bench::new();
    let mut token = String::new();
    ask(&bench, &format!("PUT {K}"), &mut token, &[], "v").await;
    bench.nodes.take_calls();
    ask(&bench, "PUT /v1/kv/records/k", &mut token, &[], "v").await;
    let since = match &bench.nodes.take_calls()[0].operation {
        replication::Operation::InSession { since, .. } => since.counter,
        other => panic!("a session that has seen something asks as one: {other:?}"),
    };
    assert!(since > 0);
    bench.nodes.take_available_calls();
    ask(&bench, &format!("GET {K}"), &mut token, &[], "").await;
    let past = bench.nodes.take_available_calls()[0].operation.past.clone();
    assert!(past.bound >= since && past.session != 0, "{past:?}");
}

#[actix_web::test]
async fn what_a_session_is_told_to_be_done_goes_before_what_it_asks_next() {
    let bench = Bench::new();
    let id = [("everring-request-id", "request-lost")];
    // The answer was lost, and its token with it.
    bench.ask(&format!("PUT {K}"), &id, "v").await;
    let mut token = String::new();
    for query in ["", "?bucket=sessions&key=k"] {
        let told = ask(&bench, &format!("GET /v1/requests/request-lost{query}"), &mut token, &[], "").await;
        assert_eq!((told.status, &told.json()["outcome"]), (200, &"done".into()), "{told:?}");
    }
    bench.nodes.take_available_calls();
    let read = ask(&bench, &format!("GET {K}"), &mut token, &[], "").await;
    assert_eq!(read.text(), "v");
    let past = bench.nodes.take_available_calls()[0].operation.past.clone();
    assert!(past.seen.counter_max() > 0, "the home must have the write: {past:?}");
    // It counts as the session's own: its next write takes that one's place.
    let mut token = String::new();
    ask(&bench, "GET /v1/requests/request-lost", &mut token, &[], "").await;
    assert_eq!(ask(&bench, &format!("PUT {K}"), &mut token, &[], "w").await.status, 200);
    assert_eq!(bench.get(K).await.text(), "w");
    // Nothing is added by what is not known.
    let mut token = String::new();
    let told = ask(&bench, "GET /v1/requests/request-never?bucket=sessions&key=k", &mut token, &[], "").await;
    assert_eq!(told.json()["outcome"], "unknown");
    bench.nodes.take_available_calls();
    ask(&bench, &format!("GET {K}"), &mut token, &[], "").await;
    let past = bench.nodes.take_available_calls()[0].operation.past.clone();
    assert!(past.seen.is_empty() && past.bound == 0, "{past:?}");
}

#[actix_web::test]
async fn listings_and_backups_of_an_available_bucket_come_after_what_ordered_buckets_showed_the_session() {
    let bench = Bench::new();
    let mut token = String::new();
    ask(&bench, &format!("PUT {K}"), &mut token, &[], "v").await;
    ask(&bench, "PUT /v1/kv/records/flag", &mut token, &[], "up").await;
    let session = [("everring-token", token.as_str())];
    let bucket = K.rsplit_once('/').expect("a bucket and a key").0;
    for path in [bucket.to_owned(), bucket.replace("/kv/", "/backup/")] {
        bench.nodes.take_available_calls();
        let mut next = Some(path.clone());
        while let Some(page) = next.take() {
            let page = bench.ask(&format!("GET {page}"), &session, "").await;
            assert_eq!(page.status, 200, "{page:?}");
            // A backup is told arc by arc; its last line says where it goes on.
            let last = page.text().lines().last().map(serde_json::from_str::<serde_json::Value>);
            let last = last.and_then(Result::ok).unwrap_or_default();
            next = last["page"]["next"].as_str().map(|cursor| format!("{path}?cursor={cursor}"));
        }
        let calls = bench.nodes.take_available_calls();
        assert!(!calls.is_empty(), "{path}: the key was read");
        // Who asks as somebody new may be shown what was there before the flag went up.
        assert!(calls.iter().all(|call| call.operation.past.bound > 0), "{path}: {calls:?}");
    }
}

#[actix_web::test]
async fn a_session_of_available_buckets_alone_asks_for_what_it_saw_and_no_more() {
    let bench = Bench::new();
    let mut token = String::new();
    ask(&bench, &format!("PUT {K}"), &mut token, &[], "v").await;
    for _ in 0..2 {
        bench.nodes.take_available_calls();
        ask(&bench, &format!("GET {K}"), &mut token, &[], "").await;
        let past = bench.nodes.take_available_calls()[0].operation.past.clone();
        // The actor of its own write, and not every actor's writes up to that time.
        assert!(past.seen.counter_max() > 0 && past.bound < past.seen.counter_max(), "{past:?}");
    }
}

#[actix_web::test]
async fn a_token_that_is_not_ours_is_refused_and_moves_nothing() {
    let bench = Bench::new();
    let mut token = String::new();
    ask(&bench, &format!("PUT {K}"), &mut token, &[], "v").await;
    let cut = token[..token.len() - 4].to_owned();
    let mut forged = token.clone().into_bytes();
    forged[40] = if forged[40] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("still text");
    for broken in [cut, forged, "A".repeat(513), "A".repeat(300), "?".to_owned()] {
        for line in [format!("GET {K}"), format!("PUT {K}"), "GET /v1/kv/records/k".to_owned()] {
            let refused = bench.ask(&line, &[("everring-token", &broken)], "w").await;
            assert_eq!((refused.status, refused.code().as_str()), (400, "bad-token"), "{line} {broken}");
        }
    }
    assert_eq!(bench.get(K).await.text(), "v");
}
