use wire::http::{Level, Receipt};

use super::*;
use crate::operation::Kind;

const MS: u64 = 1_000_000;
const RUN_START_US: u64 = 1_700_000_000_000_000;

/// A write sent at 1,000 ms and answered at 1,020 ms, coordinated by n2.
fn write() -> Operation {
    Operation {
        kind: Kind::Write,
        level: wire::http::Level::Strict,
        key: "k1".to_owned(),
        invoked_ns: 1_000 * MS,
        ended_ns: 1_020 * MS,
        end: End::Ok,
        late: false,
        code: None,
        status: Some(201),
        trace_id: "1".to_owned(),
        request_id: "r".to_owned(),
        receipt: Some(Receipt {
            level: Level::Strict,
            epoch: 1,
            hops: 1,
            replicas: vec!["n2".to_owned(), "n3".to_owned()],
            attempts: 2,
        }),
    }
}

fn span(id: u64, parent: Option<u64>, service: &str, instance: &str, kind: &str, name: &str, at_ms: u64) -> Span {
    Span {
        id,
        parent,
        name: name.to_owned(),
        service: service.to_owned(),
        instance: instance.to_owned(),
        start_us: RUN_START_US + at_ms * 1_000,
        duration_us: 5_000,
        kind: kind.to_owned(),
        ..Span::default()
    }
}

fn tagged(mut span: Span, key: &str, value: &str) -> Span {
    span.tags.insert(key.to_owned(), value.to_owned());
    span
}

/// The trace that fits [`write`]: the gateway asked n1, which was killed, and then n2.
fn trace() -> Trace {
    let status = names::HTTP_RESPONSE_STATUS_CODE;
    let mut failed = tagged(span(3, Some(2), GATEWAY, "g1-9", "client", "PUT records", 1_001), names::REPLICA, "n1");
    failed.error = true;
    Trace {
        id: 1,
        spans: vec![
            tagged(span(1, None, "everring-verifier", "v-1", "client", "PUT /v1", 1_000), status, "201"),
            tagged(span(2, Some(1), GATEWAY, "g1-9", "server", "PUT /v1", 1_001), status, "201"),
            failed,
            tagged(span(4, Some(2), GATEWAY, "g1-9", "client", "PUT records", 1_005), names::REPLICA, "n2"),
            tagged(
                span(5, Some(4), "everring-storage-node", "n2-4", "server", "coordinate PUT", 1_006),
                names::REPLICA,
                "n2",
            ),
        ],
    }
}

fn death(name: &str, instance: &str, at_ms: u64, absent_until_ms: u64) -> Death {
    Death {
        name: name.to_owned(),
        instance: instance.to_owned(),
        is_gateway: name.starts_with('g'),
        at_ns: at_ms * MS,
        dead_by_ns: at_ms * MS,
        absent_until_ns: absent_until_ms * MS,
    }
}

fn judged(operation: &Operation, trace: &Trace, deaths: &[Death]) -> Judgement {
    judge(operation, trace, deaths, RUN_START_US)
}

fn contradiction(operation: &Operation, trace: &Trace, deaths: &[Death]) -> String {
    judged(operation, trace, deaths).contradictions.first().cloned().unwrap_or_default()
}

#[test]
fn a_request_that_survived_names_the_replica_that_answered_instead() {
    let judgement = judged(&write(), &trace(), &[death("n1", "n1-1", 1_001, 1_500)]);
    assert_eq!(
        judgement,
        Judgement { answered_by: Some("n2".to_owned()), hops: Some(1), ..Judgement::default() },
        "the failed attempt inside does not mark the whole"
    );
    assert!(judgement.is_complete());
}

#[test]
fn the_clients_span_must_tell_what_the_history_tells() {
    let mut wrong = trace();
    wrong.spans[0].error = true;
    assert!(contradiction(&write(), &wrong, &[]).contains("the client's span says error"));
    let mut wrong = trace();
    wrong.spans[0].tags.insert(names::HTTP_RESPONSE_STATUS_CODE.to_owned(), "503".to_owned());
    assert!(contradiction(&write(), &wrong, &[]).contains("status 201, the client's span 503"));
    let unanswered = Operation { end: End::Unknown, status: None, receipt: None, ..write() };
    assert!(contradiction(&unanswered, &trace(), &[]).contains("shows no error"));
}

#[test]
fn the_gateway_must_have_answered_what_the_client_was_told() {
    let mut wrong = trace();
    wrong.spans[1].tags.insert(names::HTTP_RESPONSE_STATUS_CODE.to_owned(), "412".to_owned());
    assert!(contradiction(&write(), &wrong, &[]).contains("answered 201, the gateway's span says 412"));
    let mut cut = trace();
    cut.spans.remove(1);
    assert_eq!(judged(&write(), &cut, &[]).missing, ["the gateway's span"]);
    assert!(judged(&write(), &cut, &[death("g1", "g1-9", 1_500, 1_900)]).is_complete(), "it died before its export");
}

#[test]
fn a_coordinator_that_lived_must_have_its_span() {
    let mut cut = trace();
    cut.spans.remove(4);
    let judgement = judged(&write(), &cut, &[death("n1", "n1-1", 1_001, 1_500)]);
    assert_eq!(judgement.missing, ["the span of n2"]);
    assert!(judgement.contradictions.is_empty(), "an export that failed contradicts nothing: {judgement:?}");
    cut.spans.remove(1);
    assert_eq!(judged(&write(), &cut, &[]).missing, ["the gateway's span", "the span of n2"]);
}

#[test]
fn a_receipt_with_other_voters_than_its_coordinators_span_is_wrong() {
    let mut other = trace();
    other.spans[4].tags.insert(names::REPLICAS.to_owned(), "n2,n7".to_owned());
    let sentence = "the receipt names n2,n3, and the span of n2, which answered, n2,n7";
    assert_eq!(contradiction(&write(), &other, &[]), sentence);

    // Where the answer may be another attempt's, or come by another gateway, it is not told.
    let mut two = other.clone();
    two.spans[2].error = false;
    assert!(judged(&write(), &two, &[]).contradictions.is_empty());
    other.spans[0].tags.insert(names::HTTP_REQUEST_RESEND_COUNT.to_owned(), "1".to_owned());
    assert!(judged(&write(), &other, &[]).contradictions.is_empty());
}

#[test]
fn a_coordinator_that_did_not_vote_itself_is_told_by_its_span() {
    // The receipt of write() names n2; here n3 coordinated, and its own disk was slower than the others'.
    let mut other = trace();
    other.spans[4].instance = "n3-1".to_owned();
    other.spans[4].tags.insert(names::REPLICA.to_owned(), "n3".to_owned());
    let voters = write().receipt.expect("it was answered").replicas.join(",");
    let mut unlike = other.clone();
    other.spans[4].tags.insert(names::REPLICAS.to_owned(), voters);
    let judgement = judged(&write(), &other, &[]);
    assert_eq!(judgement.answered_by.as_deref(), Some("n3"));
    assert!(judgement.is_complete() && judgement.contradictions.is_empty(), "{judgement:?}");
    assert!(contradiction(&write(), &other, &[death("n3", "n3-1", 900, 1_400)]).contains("n3-1 began to coordinate"));
    unlike.spans[4].tags.insert(names::REPLICAS.to_owned(), "n7,n8".to_owned());
    assert!(contradiction(&write(), &unlike, &[]).contains("the span of n3, which answered, n7,n8"));
}

#[test]
fn the_missing_spans_of_a_killed_victim_are_expected() {
    let mut cut = trace();
    cut.spans.remove(4);
    for at_ms in [1_010, 1_020, 1_300] {
        let judgement = judged(&write(), &cut, &[death("n2", "n2-4", at_ms, at_ms + 400)]);
        assert!(judgement.is_complete() && judgement.contradictions.is_empty(), "{at_ms}: {judgement:?}");
    }
    let long_after = judged(&write(), &cut, &[death("n2", "n2-4", 60_000, 60_400)]);
    assert!(!long_after.is_complete(), "a death a minute later explains nothing");
}

#[test]
fn the_dead_do_not_answer() {
    let deaths = [death("n2", "n2-4", 900, 1_400)];
    assert!(contradiction(&write(), &trace(), &deaths).contains("n2-4 began to coordinate 106 ms after"));
    let mut cut = trace();
    cut.spans.remove(4);
    assert!(contradiction(&write(), &cut, &deaths).contains("which was dead from before the request"));
}

#[test]
fn who_is_given_time_to_end_may_answer_until_then() {
    let drains = |dead_by_ms: u64| Death { dead_by_ns: dead_by_ms * MS, ..death("n2", "n2-4", 900, dead_by_ms) };
    let judgement = judged(&write(), &trace(), &[drains(1_400)]);
    assert!(judgement.contradictions.is_empty() && judgement.is_complete(), "{judgement:?}");
    assert!(contradiction(&write(), &trace(), &[drains(950)]).contains("n2-4 began to coordinate 56 ms after"));
    let mut cut = trace();
    cut.spans.remove(4);
    assert!(judged(&write(), &cut, &[drains(1_400)]).is_complete(), "it may have taken its span along");
}

#[test]
fn the_next_life_of_a_victim_may_answer() {
    let mut later = trace();
    later.spans[4].instance = "n2-5".to_owned();
    let judgement = judged(&write(), &later, &[death("n2", "n2-4", 500, 900)]);
    assert!(judgement.contradictions.is_empty() && judgement.is_complete(), "{judgement:?}");
}

#[test]
fn clocks_may_differ_a_little() {
    let judgement = judged(&write(), &trace(), &[death("n2", "n2-4", 1_000, 1_400)]);
    assert!(judgement.contradictions.is_empty(), "{judgement:?}");
}

#[test]
fn without_a_root_nothing_is_complete() {
    let mut cut = trace();
    cut.spans.remove(0);
    assert_eq!(judged(&write(), &cut, &[]).missing, ["the client's span"]);
    assert!(!judged(&write(), &Trace::default(), &[]).is_complete());
}
