//! Watching a key of an available bucket.

use std::time::Duration;

use available::{Action, Level, Past};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway::gateway::Phase;

use crate::available::{ask, bucket};
use crate::fake::Bench;

const K: &str = "/v1/kv/sessions/k";

/// Waits until the key was looked at twice from now on: the second look began after this call. What each look came
/// after, oldest first.
async fn looked_at(bench: &Bench) -> Vec<Past> {
    bench.nodes.take_available_calls();
    let mut looks = Vec::new();
    while looks.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        for call in bench.nodes.take_available_calls() {
            if matches!(call.operation.action, Action::Read { .. }) {
                assert_eq!(call.operation.level, Level::Causal);
                looks.push(call.operation.past);
            }
        }
    }
    looks
}

/// An event: its id, its kind, its data.
pub type Event = (String, String, serde_json::Value);

/// The events of a stream.
pub fn events(stream: &str) -> Vec<Event> {
    let blocks = stream.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    let line = |block: &str, name: &str| {
        let found = block.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} in {block}")).to_owned()
    };
    let event = |block: &str| {
        let data = serde_json::from_str(&line(block, "data: ")).expect("JSON");
        (line(block, "id: "), line(block, "event: "), data)
    };
    blocks.map(event).collect()
}

/// What an event shows, in short: `one`, `one|two`, or its kind.
fn shown((_, kind, data): &Event) -> String {
    let text = |value: &serde_json::Value| {
        String::from_utf8(STANDARD.decode(value.as_str().expect("base64")).expect("base64")).expect("text")
    };
    let many = |values: &serde_json::Value| values.as_array().expect("a list").clone();
    match kind.as_str() {
        "value" => text(&data["value"]),
        "siblings" => many(&data["siblings"]).iter().map(|one| text(&one["value"])).collect::<Vec<_>>().join("|"),
        "elements" => many(&data["elements"]).iter().map(text).collect::<Vec<_>>().join("|"),
        _ => kind.clone(),
    }
}

#[actix_web::test]
async fn each_change_is_told_in_order_with_siblings_as_a_read_shows_them() {
    let bench = Bench::new();
    let script = async {
        looked_at(&bench).await;
        bench.put(K, "one").await;
        looked_at(&bench).await;
        bench.put(K, "two").await;
        looked_at(&bench).await;
        let both = bench.get(K).await;
        let etag = both.header("etag").to_owned();
        bench.ask(&format!("PUT {K}"), &[("if-match", &etag)], "settled").await;
        looked_at(&bench).await;
        bench.ask(&format!("DELETE {K}"), &[], "").await;
        looked_at(&bench).await;
        bench.gateway.advance(Phase::Draining);
        both
    };
    let watch = format!("{K}?watch=1");
    let (told, both) = futures_util::join!(bench.get(&watch), script);
    assert_eq!((told.status, told.header("content-type")), (200, "text/event-stream"));
    let told = events(told.text());
    let seen: Vec<String> = told.iter().map(shown).collect();
    assert_eq!(seen, ["absent", "one", "one|two", "settled", "absent"]);
    assert_eq!(told[2].2["siblings"], both.json()["siblings"], "as a read shows them");
    assert_eq!(told[2].2["etag"], both.header("etag"), "which settles them");
}

#[actix_web::test]
async fn a_look_comes_after_all_that_was_told_and_all_that_its_watchers_have_seen() {
    let bench = Bench::new();
    let (mut token, mut other) = (String::new(), String::new());
    ask(&bench, &format!("PUT {K}"), &mut token, &[], "one").await;
    // A session that saw something elsewhere, which led to what it watches.
    ask(&bench, "PUT /v1/kv/sessions/elsewhere", &mut other, &[], "v").await;
    let script = async {
        let first = looked_at(&bench).await;
        ask(&bench, &format!("PUT {K}"), &mut token, &[], "two").await;
        looked_at(&bench).await;
        let last = looked_at(&bench).await;
        bench.gateway.advance(Phase::Draining);
        (first, last)
    };
    let headers = [("everring-token", other.as_str())];
    let watch = format!("GET {K}?watch=1");
    let (told, (first, last)) = futures_util::join!(bench.ask(&watch, &headers, ""), script);
    let told = events(told.text());
    assert_eq!(told.iter().map(shown).collect::<Vec<_>>(), ["one", "two"]);
    let cluster = bench.gateway.fleet().view.cluster;
    let session = |token: &str| bench.gateway.tokens.read(cluster, token).expect("a token").1.expect("a session");
    let covers = |past: &Past, seen: &Past| {
        seen.seen.iter().all(|(actor, counter)| counter <= past.seen.get(actor).max(past.bound))
    };
    assert!(first.iter().all(|past| covers(past, &session(&other).past)), "what the watcher had seen: {first:?}");
    for event in &told {
        assert!(last.iter().all(|past| covers(past, &session(&event.0).past)), "what was told: {last:?}");
    }
    assert!(session(&told[1].0).past.seen.includes(&session(&told[0].0).past.seen), "versions only grow");
}

#[actix_web::test]
async fn a_watch_goes_on_at_another_gateway_with_what_came_after_its_last_event() {
    let bench = Bench::new();
    bench.put(K, "one").await;
    let watch = async |last: Option<&str>| {
        let at = Bench::beside(&bench.nodes);
        let headers: Vec<(&str, &str)> = last.map(|last| ("last-event-id", last)).into_iter().collect();
        let line = format!("GET {K}?watch=1");
        let (told, ()) = futures_util::join!(at.ask(&line, &headers, ""), async {
            looked_at(&at).await;
            at.gateway.advance(Phase::Draining);
        });
        events(told.text())
    };
    let first = watch(None).await;
    assert_eq!(first.iter().map(shown).collect::<Vec<_>>(), ["one"]);
    assert_eq!(watch(Some(&first[0].0)).await, [], "what was told is not told again");
    bench.put(K, "two").await;
    bench.put(K, "three").await;
    let later = watch(Some(&first[0].0)).await;
    assert_eq!(later.iter().map(shown).collect::<Vec<_>>(), ["one|two|three"], "nothing that came after is left out");
    bench.ask(&format!("DELETE {K}"), &[], "").await;
    let gone = watch(Some(&later[0].0)).await;
    assert_eq!(gone.iter().map(shown).collect::<Vec<_>>(), ["absent"]);
    assert_eq!(watch(Some(&gone[0].0)).await, []);
    assert_eq!(watch(Some(&first[0].0)).await.iter().map(shown).collect::<Vec<_>>(), ["absent"]);
}

#[actix_web::test]
async fn the_resumed_watch_asks_for_all_that_the_first_one_showed() {
    let bench = Bench::new();
    bench.put(K, "one").await;
    let line = format!("GET {K}?watch=1");
    let (told, _) = futures_util::join!(bench.ask(&line, &[], ""), async {
        looked_at(&bench).await;
        bench.gateway.advance(Phase::Draining);
    });
    let id = events(told.text())[0].0.clone();
    let at = Bench::beside(&bench.nodes);
    let headers = [("last-event-id", id.as_str())];
    let (_, looks) = futures_util::join!(at.ask(&line, &headers, ""), async {
        let looks = looked_at(&at).await;
        at.gateway.advance(Phase::Draining);
        looks
    });
    let cluster = bench.gateway.fleet().view.cluster;
    let past = bench.gateway.tokens.read(cluster, &id).expect("a token").1.expect("a session").past;
    assert!(past.seen.counter_max() > 0);
    assert!(looks.iter().all(|look| look.seen.includes(&past.seen) && look.epoch >= past.epoch), "{looks:?}");
}

#[actix_web::test]
async fn two_watch_one_key_with_one_look_and_types_are_shown_as_reads_show_them() {
    let bench = Bench::new();
    let (set, counter) = (bucket(&bench, "set").await, bucket(&bench, "counter").await);
    let script = async {
        bench.ask(&format!("POST {set}?op=add"), &[], "a").await;
        bench.ask(&format!("POST {set}?op=add"), &[], "b").await;
        bench.ask(&format!("POST {counter}?op=add&by=5"), &[], "").await;
        looked_at(&bench).await;
        looked_at(&bench).await;
        looked_at(&bench).await;
        bench.gateway.advance(Phase::Draining);
    };
    let (sets, counters) = (format!("{set}?watch=1"), format!("{counter}?watch=1"));
    let (one, two, number, ()) = futures_util::join!(bench.get(&sets), bench.get(&sets), bench.get(&counters), script);
    for told in [&one, &two] {
        assert_eq!(events(told.text()).last().map(shown).as_deref(), Some("a|b"));
    }
    assert_eq!(events(number.text()).last().map(shown).as_deref(), Some("5"));
}

#[actix_web::test]
async fn what_a_watch_cannot_have_is_refused() {
    let bench = Bench::new();
    for level in ["eventual", "strict", "sequential"] {
        let refused = bench.get(&format!("{K}?watch=1&consistency={level}")).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "level-not-offered"), "{level}");
    }
    let refused = bench.ask(&format!("GET {K}?watch=1"), &[("accept", "application/json")], "").await;
    assert_eq!(refused.code(), "bad-request");
    for forged in ["absent", "12.ab.0", "AAAA"] {
        let refused = bench.ask(&format!("GET {K}?watch=1"), &[("last-event-id", forged)], "").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad-token"), "{forged}");
    }
    let refused = bench.ask(&format!("GET {K}?watch=1"), &[("everring-token", "AAAA")], "").await;
    assert_eq!(refused.code(), "bad-token");
}
