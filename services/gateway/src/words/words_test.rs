use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"));
    }
    map
}

fn words(pairs: &[(&'static str, &str)]) -> Result<RequestWords, Refuse> {
    request_words(&headers(pairs), NOW_MS, || "made-here".to_owned())
}

const NOW_MS: u64 = 1_800_000_000_000;
/// A second before [`NOW_MS`].
const EARLIER: &str = "01a3185c-4c18-7000-8000-000000000001";

#[test]
fn deadlines_have_bounds() {
    assert_eq!(deadline_ms(&headers(&[])).ok(), Some(5_000));
    assert_eq!(deadline_ms(&headers(&[("everring-deadline-ms", "1")])).ok(), Some(1));
    for bad in ["0", "60001", "-1", "1.5", "soon", ""] {
        assert!(deadline_ms(&headers(&[("everring-deadline-ms", bad)])).is_err(), "{bad}");
    }
    let twice = headers(&[("everring-deadline-ms", "5"), ("everring-deadline-ms", "6")]);
    assert!(deadline_ms(&twice).is_err());
}

#[test]
fn a_request_without_an_id_gets_one_and_is_no_retry() {
    let made = words(&[]).expect("no id is fine");
    assert_eq!((made.text.as_str(), made.retry, made.first_sent_ms), ("made-here", false, NOW_MS));
}

#[test]
fn a_given_id_counts_as_a_retry_unless_it_says_otherwise() {
    let given = words(&[("everring-request-id", EARLIER)]).expect("an id");
    assert!(given.retry);
    assert_eq!((given.first_sent_ms, given.dated), (NOW_MS - 1_000, true), "a UUIDv7 tells its time");
    assert!(!words(&[("everring-request-id", "order-4711")]).expect("an id").dated);
    let first = words(&[("everring-request-id", EARLIER), ("everring-attempt", "1")]).expect("an id");
    assert!(!first.retry);
    assert_eq!(first.id, given.id, "one text, one id");
    assert!(words(&[("everring-request-id", EARLIER), ("everring-attempt", "2")]).expect("an id").retry);
    let same = words(&[("idempotency-key", EARLIER)]).expect("the other name");
    assert_eq!(same.id, given.id);
}

#[test]
fn a_time_from_the_future_is_not_believed() {
    let future = "0fff0000-0000-7000-8000-000000000001";
    let told = words(&[("everring-request-id", future)]).expect("an id");
    assert_eq!((told.first_sent_ms, told.dated), (NOW_MS, false), "a repeat would tell another time");
}

#[test]
fn an_old_time_has_to_be_looked_up_and_a_very_old_one_is_a_clock_that_is_behind() {
    let seven_minutes = words(&[("everring-request-id", "01a31855-e760-7000-8000-000000000001")]).expect("an id");
    assert_eq!((seven_minutes.first_sent_ms, seven_minutes.dated), (NOW_MS - 420_000, false));
    let twelve_minutes = words(&[("everring-request-id", "01a31851-a1a0-7000-8000-000000000001")]).expect("an id");
    assert_eq!((twelve_minutes.first_sent_ms, twelve_minutes.dated), (NOW_MS, false));
}

#[test]
fn what_is_no_id_is_refused() {
    for bad in ["short", "with space in it", &"x".repeat(129)] {
        assert!(words(&[("everring-request-id", bad)]).is_err(), "{bad}");
    }
    assert!(words(&[("everring-request-id", "abcdefgh"), ("idempotency-key", "abcdefgi")]).is_err());
    assert!(words(&[("everring-request-id", "abcdefgh"), ("everring-attempt", "0")]).is_err());
}

#[test]
fn etags_are_read_back_exactly() {
    let version = Version { ballot: Ballot { counter: 12, node: membership::NodeId(0xab) }, index: 3 };
    assert_eq!(etag(version), "\"12.ab.3\"");
    assert_eq!(version_of("\"12.ab.3\""), Some(version));
    for other in ["12.ab.3", "\"12.ab\"", "\"012.ab.3\"", "\"12.AB.3\"", "W/\"12.ab.3\"", "\"\"", "\"+1.a.0\"", "\""] {
        assert_eq!(version_of(other), None, "{other}");
    }
}

#[test]
fn write_conditions() {
    let of = |pairs: &[(&'static str, &str)]| condition(&headers(pairs));
    assert_eq!(of(&[]).ok(), Some(Condition::Always));
    assert_eq!(of(&[("if-match", "*")]).ok(), Some(Condition::Exists));
    assert_eq!(of(&[("if-none-match", "*")]).ok(), Some(Condition::Absent));
    assert!(matches!(of(&[("if-match", "\"1.a.0\"")]), Ok(Condition::Matches(_))));
    for bad in ["1.a.0", "\"1.a.0\", \"2.a.0\"", "W/\"1.a.0\"", "\"other\""] {
        assert!(of(&[("if-match", bad)]).is_err(), "{bad}");
    }
    assert!(of(&[("if-none-match", "\"1.a.0\"")]).is_err());
    assert!(of(&[("if-match", "*"), ("if-none-match", "*")]).is_err());
}

#[test]
fn read_conditions_take_lists_and_weak_etags() {
    let of = |value: &str| read_conditions(&headers(&[("if-none-match", value)])).map(|read| read.none_match);
    let list = of("\"a\", W/\"1.a.0\"").expect("a list").expect("it is there");
    assert!(list.contains("\"1.a.0\"") && list.contains("\"a\"") && !list.contains("\"b\""));
    assert_eq!(of("*").ok().flatten(), Some(EtagList::Any));
    assert!(of("a").is_err());
    assert!(of("\"").is_err());
}

#[test]
fn queries_are_strict_about_names() {
    assert_eq!(query("op=add&by=5", &["op", "by"]).expect("known")["by"], "5");
    assert_eq!(query("key=a%2Fb+c", &["key"]).expect("known")["key"], "a/b c");
    assert!(query("consistancy=strict", &["consistency"]).is_err());
    assert!(query("op=add&op=add", &["op"]).is_err());
    assert!(query("op=%zz", &["op"]).is_err());
}

#[test]
fn levels_are_known_by_name() {
    let of = |text: &str| level(&query(text, &["consistency"]).expect("known"));
    assert_eq!(of("").ok(), Some(None), "the contract's own");
    assert_eq!(of("consistency=eventual").ok(), Some(Some(Level::Eventual)));
    assert!(of("consistency=best").is_err());
}

#[test]
fn an_available_bucket_offers_causal_and_less() {
    assert_eq!(available_level(None).ok(), Some(available::Level::Causal));
    assert_eq!(available_level(Some(Level::Causal)).ok(), Some(available::Level::Causal));
    assert_eq!(available_level(Some(Level::Eventual)).ok(), Some(available::Level::Eventual));
    for stronger in [Level::Strict, Level::Sequential] {
        assert_eq!(available_level(Some(stronger)).expect_err("too much").code(), ProblemCode::LevelNotOffered);
    }
}
