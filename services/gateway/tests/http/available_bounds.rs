//! The bounds of available buckets: each is a typed answer, and nobody's data is lost by it.

use wire::http::Receipt;

use crate::available::{bucket, values};
use crate::fake::{Bench, Mood};

const K: &str = "/v1/kv/sessions/k";

#[actix_web::test]
async fn one_sibling_too_many_is_refused_and_all_that_are_there_stay() {
    let bench = Bench::new();
    let written: Vec<String> = (0..available::SIBLINGS_MAX).map(|at| format!("v{at}")).collect();
    for value in &written {
        assert!(matches!(bench.put(K, value).await.status, 200 | 201));
    }
    let refused = bench.put(K, "one too many").await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "too-many-siblings"));
    assert_eq!(refused.json()["outcome"], "not-done");
    let all = bench.get(K).await;
    assert_eq!(values(&all), written);
    // One of them can be replaced, and the answer's ETag settles them all.
    let one = all.json()["siblings"][3]["etag"].as_str().expect("an ETag").to_owned();
    assert_eq!(bench.ask(&format!("PUT {K}"), &[("if-match", &one)], "instead").await.status, 200);
    let all = bench.get(K).await;
    assert_eq!((values(&all).len(), values(&all).contains(&"v3".to_owned())), (available::SIBLINGS_MAX, false));
    let etag = all.header("etag").to_owned();
    assert_eq!(bench.ask(&format!("PUT {K}"), &[("if-match", &etag)], "settled").await.status, 200);
    assert_eq!(bench.get(K).await.text(), "settled");
}

#[actix_web::test]
async fn a_stand_in_that_is_full_says_so_and_keeps_what_it_has() {
    let bench = Bench::new();
    bench.nodes.stand_in_with(2);
    for home in crate::fake::homes_of(2, "k") {
        bench.nodes.set_mood(home, Mood::Down);
    }
    let eventual = format!("{K}?consistency=eventual");
    let id = [("everring-request-id", "request-one")];
    for at in 0..2 {
        let headers: &[(&str, &str)] = if at == 0 { &id } else { &[] };
        let kept = bench.ask(&format!("PUT {eventual}"), headers, "v").await;
        let receipt: Receipt = kept.header("everring-receipt").parse().expect("a receipt");
        assert_eq!((kept.status, receipt.level.name()), (200, "eventual"));
        assert!(kept.header("everring-receipt").ends_with(";hinted=true"), "{kept:?}");
    }
    let line = format!("PUT {eventual}");
    let refused = bench.ask(&line, &[("everring-deadline-ms", "300")], "w").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"), "{refused:?}");
    assert_eq!(refused.json()["outcome"], "not-done");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(bench.nodes.hints(), 2, "what was acknowledged is kept");
    // A repeat of what is kept takes no room.
    assert_eq!(bench.ask(&line, &id, "v").await.status, 200);
    assert_eq!(bench.nodes.hints(), 2);
}

#[actix_web::test]
async fn one_request_id_acts_once_however_often_it_comes() {
    let bench = Bench::new();
    let k = bucket(&bench, "counter").await;
    let id = [("everring-request-id", "request-one")];
    for at in 0..1_100 {
        let added = bench.ask(&format!("POST {k}?op=add&by=5"), &id, "").await;
        assert_eq!((added.status, added.text()), (200, "5"), "time {at}");
    }
    // Nor does it take the room of others.
    assert_eq!(bench.ask(&format!("POST {k}?op=add"), &[], "").await.text(), "6");
    assert_eq!(bench.get(&k).await.text(), "6");
}

#[actix_web::test]
async fn a_repeat_that_may_have_been_forgotten_is_refused_and_not_made_twice() {
    let bench = Bench::new();
    let id = [("everring-request-id", "request-one")];
    let line = format!("PUT {K}");
    let mut etag = bench.ask(&line, &id, "first").await.header("etag").to_owned();
    // More than any replica remembers of one key.
    for at in 0..1_030 {
        let next = bench.ask(&line, &[("if-match", &etag)], &format!("v{at}")).await;
        assert_eq!(next.status, 200, "{next:?}");
        next.header("etag").clone_into(&mut etag);
    }
    let refused = bench.ask(&line, &id, "first").await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "request-too-old"), "{refused:?}");
    assert_eq!(bench.get(K).await.text(), "v1029", "the late repeat took nobody's place, and came beside nobody");
}

#[actix_web::test]
async fn an_etag_of_another_key_holds_in_no_bucket() {
    let bench = Bench::new();
    let ordered = "/v1/kv/records/k";
    bench.put(ordered, "ours").await;
    let theirs = bench.put("/v1/kv/records/other", "theirs").await.header("etag").to_owned();
    let available = bench.put(K, "v").await.header("etag").to_owned();
    for line in ["PUT", "DELETE"] {
        let refused = bench.ask(&format!("{line} {ordered}"), &[("if-match", &theirs)], "w").await;
        assert_eq!((refused.status, refused.code().as_str()), (412, "condition-failed"), "{line}");
        assert_eq!(refused.json()["outcome"], "not-done");
        let now = bench.get(ordered).await;
        assert_eq!(refused.header("etag"), now.header("etag"), "the present one is told");
        let refused = bench.ask(&format!("{line} {ordered}"), &[("if-match", &available)], "w").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad-request"), "{line}: of an available key");
        let refused = bench.ask(&format!("{line} {K}"), &[("if-match", &theirs)], "w").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad-request"), "{line}: of an ordered key");
    }
    assert_eq!(bench.get(ordered).await.text(), "ours");
    assert_eq!(bench.get(K).await.text(), "v");
}

#[actix_web::test]
async fn a_time_to_live_ends_the_value_that_has_it_and_no_other() {
    let bench = Bench::new();
    bench.put(K, "lasting").await;
    assert_eq!(bench.put(&format!("{K}?ttl=1ms"), "short").await.status, 200);
    let mut read = bench.get(K).await;
    while read.status == 300 {
        assert_eq!(values(&read), ["lasting", "short"]);
        read = bench.get(K).await;
    }
    assert_eq!((read.status, read.text()), (200, "lasting"));
    for ttl in ["0s", "-1s", "5", "x", "366d"] {
        let refused = bench.put(&format!("{K}?ttl={ttl}"), "w").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad-request"), "{ttl}");
    }
    // Elements have no time: what would be forgotten in silence is refused.
    let set = bucket(&bench, "set").await;
    let refused = bench.ask(&format!("POST {set}?op=add&ttl=5s"), &[], "a").await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad-request"));
    assert_eq!(bench.get(&set).await.status, 404);
    assert_eq!(bench.get(K).await.text(), "lasting");
}

#[actix_web::test]
async fn the_version_of_a_sibling_stands_for_that_one_alone() {
    let bench = Bench::new();
    for value in ["a", "b", "c"] {
        bench.put(K, value).await;
    }
    let all = bench.get(K).await;
    let etag = |at: usize| all.json()["siblings"][at]["etag"].as_str().expect("an ETag").to_owned();
    assert_eq!(bench.ask(&format!("DELETE {K}"), &[("if-match", &etag(0))], "").await.status, 204);
    assert_eq!(values(&bench.get(K).await), ["b", "c"]);
    assert_eq!(bench.ask(&format!("PUT {K}"), &[("if-match", &etag(1))], "d").await.status, 200);
    assert_eq!(values(&bench.get(K).await), ["c", "d"]);
    // Of one whose place is taken: the write stays beside what it has not seen.
    assert_eq!(bench.ask(&format!("PUT {K}"), &[("if-match", &etag(1))], "e").await.status, 200);
    assert_eq!(values(&bench.get(K).await), ["c", "d", "e"]);
    // A read's condition is about all that is there.
    let refused = bench.ask(&format!("GET {K}"), &[("if-match", &etag(2))], "").await;
    assert_eq!((refused.status, refused.code().as_str()), (412, "condition-failed"));
}
