//! What a client sees while nodes die, pause, refuse and give up.

use std::time::{Duration, Instant};

use replication::{Operation, Refusal};
use wire::http::Receipt;

use crate::fake::{Answer, Bench, Mood, fleet, replicas_of};

const K: &str = "/v1/kv/records/k";

fn attempts(answer: &Answer) -> u32 {
    answer.header("everring-receipt").parse::<Receipt>().expect("a receipt").attempts
}

#[actix_web::test]
async fn a_dead_owner_costs_no_attempt() {
    let bench = Bench::new();
    let replicas = replicas_of("k");
    bench.nodes.set_mood(replicas[0], Mood::Down);
    let made = bench.put(K, "v").await;
    assert_eq!((made.status, attempts(&made)), (201, 1), "who is known to be down is not asked first");
    assert_eq!(bench.nodes.take_calls()[0].node, replicas[1]);
}

#[actix_web::test]
async fn two_broken_connections_are_survived_and_a_write_acts_once() {
    let bench = Bench::new();
    let replicas = replicas_of("k");
    bench.nodes.set_mood(replicas[0], Mood::ActsAndResets);
    bench.nodes.set_mood(replicas[1], Mood::Resets);
    let made = bench.ask(&format!("POST {K}?op=add&by=5"), &[("everring-attempt", "1")], "").await;
    assert_eq!((made.status, made.text(), attempts(&made)), (200, "5", 3));
    let calls = bench.nodes.take_calls();
    assert_eq!(calls.iter().map(|call| call.node).collect::<Vec<_>>(), replicas);
    let retries: Vec<bool> =
        calls.iter().map(|call| matches!(&call.operation, Operation::Write(write) if write.retry)).collect();
    assert_eq!(retries, [false, true, true]);
    assert_eq!(bench.get(K).await.text(), "5");
}

#[actix_web::test]
async fn a_paused_owner_is_overtaken_and_then_asked_last() {
    let bench = Bench::new();
    let replicas = replicas_of("k");
    bench.nodes.set_mood(replicas[0], Mood::Silent);
    let started = Instant::now();
    let made = bench.put(K, "v").await;
    assert_eq!((made.status, attempts(&made)), (201, 2));
    assert!(started.elapsed() < Duration::from_secs(1), "well before the deadline of 5 s");
    bench.nodes.take_calls();
    assert_eq!(attempts(&bench.get(K).await), 1, "for a while the silent one is not asked first");
    assert_eq!(bench.nodes.take_calls()[0].node, replicas[1]);
}

#[actix_web::test]
async fn who_refuses_politely_is_followed_by_the_next() {
    let bench = Bench::new();
    let replicas = replicas_of("k");
    bench.nodes.set_mood(replicas[0], Mood::Refuses(Refusal::Draining));
    bench.nodes.set_mood(replicas[1], Mood::GivesUp);
    assert_eq!(bench.put(K, "v").await.status, 201);
}

#[actix_web::test]
async fn unreachable_replicas_leave_a_write_surely_not_done() {
    let bench = Bench::new();
    bench.nodes.set_all(Mood::Down);
    for (line, outcome) in [(format!("PUT {K}"), Some("not-done")), (format!("GET {K}"), None)] {
        let started = Instant::now();
        let refused = bench.ask(&line, &[("everring-deadline-ms", "150")], "v").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "no-quorum"), "{line}");
        assert_eq!(refused.json()["outcome"].as_str(), outcome);
        assert_eq!(refused.header("retry-after"), "1");
        assert!(started.elapsed() >= Duration::from_millis(100), "it tried until near the deadline");
        assert!(started.elapsed() < Duration::from_millis(1_000), "and not beyond it");
    }
}

#[actix_web::test]
async fn silent_replicas_leave_a_write_unknown_with_what_to_ask_by() {
    let bench = Bench::new();
    bench.nodes.set_all(Mood::Silent);
    let quick = [("everring-deadline-ms", "200")];
    let unknown = bench.ask(&format!("PUT {K}"), &quick, "v").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (504, "deadline"));
    assert_eq!(unknown.json()["outcome"], "unknown");
    let id = unknown.header("everring-request-id").to_owned();
    assert_eq!(unknown.json()["request_id"], id.as_str());
    assert!(bench.nodes.take_calls().iter().all(|call| call.deadline <= Duration::from_millis(200)));
    let late = bench.ask(&format!("GET {K}"), &quick, "").await;
    assert_eq!((late.code().as_str(), late.json()["outcome"].as_str()), ("deadline", None));
    bench.nodes.set_all(Mood::Sound);
    assert_eq!(bench.get(&format!("/v1/requests/{id}")).await.json()["outcome"], "unknown");
}

#[actix_web::test]
async fn refusals_become_their_problems() {
    for (refusal, status, code, outcome) in [
        (Refusal::NoQuorum, 503, "no-quorum", "not-done"),
        (Refusal::Overloaded, 503, "overloaded", "not-done"),
        (Refusal::DiskFull, 503, "disk-full", "not-done"),
        (Refusal::Draining, 503, "no-quorum", "not-done"),
        (Refusal::NotReplica(membership::Epoch(2)), 503, "no-quorum", "not-done"),
        (Refusal::TooOld, 409, "request-too-old", "unknown"),
    ] {
        let bench = Bench::new();
        bench.nodes.set_all(Mood::Refuses(refusal));
        let refused = bench.ask(&format!("PUT {K}"), &[("everring-deadline-ms", "120")], "v").await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{refusal:?}");
        assert_eq!(refused.json()["outcome"], outcome, "{refusal:?}");
    }
}

#[actix_web::test]
async fn an_answer_to_another_question_is_not_passed_on() {
    let bench = Bench::new();
    bench.nodes.set_all(Mood::Confused);
    let read = bench.get(K).await;
    assert_eq!((read.status, read.code().as_str()), (503, "no-quorum"));
    assert_eq!(bench.put(K, "v").await.json()["outcome"], "unknown");
}

#[actix_web::test]
async fn before_the_ring_has_formed_there_is_no_quorum() {
    let bench = Bench::with(&std::sync::Arc::default(), client::fleet::Fleet::unknown());
    let quick = [("everring-deadline-ms", "50")];
    assert_eq!(bench.ask(&format!("GET {K}"), &quick, "").await.code(), "no-quorum");
    assert_eq!(bench.get("/v1/route/records/k").await.code(), "no-quorum");
    assert_eq!(bench.get("/v1/ring").await.json()["epoch"], 0);
}

#[actix_web::test]
async fn the_ring_and_the_route_are_shown() {
    let bench = Bench::new();
    bench.nodes.set_mood(membership::NodeId(2), Mood::Down);
    let ring = bench.get("/v1/ring").await.json();
    let members = ring["members"].as_array().expect("members");
    let alive: Vec<bool> = members.iter().filter_map(|member| member["alive"].as_bool()).collect();
    assert_eq!(alive, [true, false, true, true, true]);
    let share: f64 = members.iter().filter_map(|member| member["share"].as_f64()).sum();
    assert!((share - 1.0).abs() < 1e-9);
    let route = bench.get("/v1/route/records/k?lookup=table").await.json();
    let names: Vec<String> = replicas_of("k").iter().map(|node| fleet().name_of(*node)).collect();
    assert_eq!((&route["owner"], &route["replicas"]), (&names[0].clone().into(), &serde_json::json!(names)));
    assert_eq!(bench.get("/v1/route/records/k?lookup=fingers").await.code(), "router-unavailable");
    assert_eq!(bench.get("/v1/route/records/k?lookup=index").await.code(), "router-unavailable");
    assert_eq!(bench.get("/v1/route/records/k?lookup=luck").await.code(), "bad-request");
}

#[actix_web::test]
async fn a_repeat_at_another_gateway_is_not_made_again_however_much_was_written_since() {
    let bench = Bench::new();
    let id = [("everring-request-id", "order-4711")];
    let path = "/v1/kv/records/k";
    assert_eq!(bench.ask(&format!("PUT {path}"), &id, "first").await.status, 201);
    // A repeat soon after is told what the first was.
    let other = Bench::beside(&bench.nodes);
    assert_eq!(other.ask(&format!("PUT {path}"), &id, "first").await.status, 201);
    // More than the key remembers.
    for number in 0..=replication::REQUESTS_MAX {
        bench.put(path, &number.to_string()).await;
    }
    let late = other.ask(&format!("PUT {path}"), &id, "first").await;
    assert_eq!((late.status, late.code().as_str()), (409, "request-too-old"), "{late:?}");
    assert_eq!(late.json()["outcome"], "unknown");
    assert_eq!(bench.get(path).await.text(), replication::REQUESTS_MAX.to_string());
    // Another request of the same words on another key is another request.
    assert_eq!(other.ask("PUT /v1/kv/records/k2", &id, "first").await.status, 201);
}

#[actix_web::test]
async fn a_write_whose_first_sight_cannot_be_noted_is_not_made() {
    let bench = Bench::new();
    bench.nodes.set_all(crate::fake::Mood::Down);
    let words = [("everring-request-id", "order-4711"), ("everring-deadline-ms", "50")];
    let refused = bench.ask("PUT /v1/kv/records/k", &words, "v").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "no-quorum"), "{refused:?}");
    assert_eq!(refused.json()["outcome"], "unknown", "an earlier attempt may have been made");
    assert_eq!(refused.header("everring-request-id"), "order-4711");
}
