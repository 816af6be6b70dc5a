//! From the outcome of an operation on an available key to its HTTP form. Each match is exhaustive.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder};
use available::{Context, Dot, Effect, Kind, Outcome, Refusal, Shown};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::fleet::Fleet;
use dispatch::Verdict;
use replication::{RegisterKey, Value};
use serde_json::json;
use wire::ending;
use wire::http::{Level, ProblemCode, Receipt, WriteOutcome};

use crate::answers;
use crate::contexts::ContextKey;
use crate::problem::Refuse;
use crate::range::{self, Part};
use crate::words::ReadConditions;

/// What a read demands, and when it is answered.
pub struct Reading<'a> {
    /// Its conditions.
    pub conditions: &'a ReadConditions,
    /// `Range`.
    pub range: Option<&'a str>,
    /// `If-Range`.
    pub if_range: Option<&'a str>,
    /// The gateway's wall clock, milliseconds of the Unix epoch: what is over by it is not shown.
    pub now_ms: u64,
}

/// The end of an operation on an available key.
pub type AvailableVerdict = Verdict<Outcome, available::Receipt, Refusal>;

/// The problem that a verdict without a usable answer is. `write` says whether an outcome is told.
pub fn refusal_of(verdict: &AvailableVerdict, write: bool) -> Refuse {
    let refuse = match verdict {
        Verdict::NotDone(refusal) => not_done(*refusal),
        Verdict::Unknown => answers::unknown(),
        Verdict::Late => answers::late(),
        // An answer of another kind than the question: a node of another version.
        Verdict::Answered { .. } => answers::answered_otherwise(write),
    };
    if write { refuse.outcome_or_not_done() } else { refuse }
}

fn not_done(refusal: Refusal) -> Refuse {
    match refusal {
        Refusal::NotReplica(epoch) => answers::not_done(replication::Refusal::NotReplica(epoch)),
        Refusal::NoQuorum => answers::not_done(replication::Refusal::NoQuorum),
        Refusal::Overloaded => answers::not_done(replication::Refusal::Overloaded),
        Refusal::DiskFull => answers::not_done(replication::Refusal::DiskFull),
        Refusal::Draining => answers::not_done(replication::Refusal::Draining),
        Refusal::TooOld => answers::not_done(replication::Refusal::TooOld),
        Refusal::Refilling => Refuse::new(
            ProblemCode::NoQuorum,
            "the replicas that can be reached have lost what they held and are getting it back; try again",
        ),
        Refusal::TooManySiblings => Refuse::new(
            ProblemCode::TooManySiblings,
            "the key holds as many values side by side as it may; read it, and write with If-Match and the ETag of \
             that answer, which covers them all",
        ),
        Refusal::TooLarge => Refuse::new(
            ProblemCode::ValueTooLarge,
            format!("a set or a map has at most {} elements, and about 4 MiB in all", available::ELEMENTS_MAX),
        ),
        Refusal::OtherKind(kind) => other_kind(kind),
        Refusal::Behind(_) => {
            Refuse::new(ProblemCode::Overloaded, "other writes of the key kept getting in before this one; try again")
        }
    }
}

/// The refusal of a change that keys of this type do not take.
pub fn other_kind(kind: Kind) -> Refuse {
    let takes = match kind {
        Kind::Value => "PUT and DELETE (values written at the same time stay side by side)",
        Kind::LastWriter => "PUT and DELETE",
        Kind::Counter => "`POST ?op=add&by=` and DELETE",
        Kind::Set => "`POST ?op=add` and `?op=remove` with the element as the body, and DELETE",
        Kind::Map => "`POST ?op=add&field=` with the field's value as the body, `?op=remove&field=`, and DELETE",
    };
    let detail = format!("the bucket's type is `{kind}`: its keys take {takes}");
    Refuse::new(ProblemCode::ValueUnfit, detail).with("bucket_type", kind.name()).outcome(WriteOutcome::NotDone)
}

/// The refusal of parameters that belong to another type.
pub fn wrong_words(kind: Kind) -> Refuse {
    Refuse::bad_request(format!("`by` is for counters, and `field` for maps and needed there; this key is a {kind}"))
}

/// The refusal to tell the new value of a set or map that was changed, and could then not be read.
pub fn made_and_not_read(etag: String) -> Refuse {
    Refuse::new(ProblemCode::ResultGone, "the change was made; what the key holds now could not be read in time")
        .outcome(WriteOutcome::Done)
        .with("etag", etag)
}

/// How an answer came about, in a header's words.
pub fn receipt(fleet: &Fleet, receipt: &available::Receipt, level: Level, attempts: u32, hinted: bool) -> String {
    let replicas = receipt.voters.iter().map(|voter| fleet.name_of(*voter)).collect();
    let receipt = Receipt { level, epoch: receipt.epoch.0, hops: 1, replicas, attempts }.to_string();
    if hinted { format!("{receipt};hinted=true") } else { receipt }
}

/// The answer to a read that came back.
///
/// # Errors
/// `no-such-key`, `condition-failed`, `bad-range`.
pub fn read(
    tags: &ContextKey,
    key: &RegisterKey,
    shown: Shown,
    context: &Context,
    reading: &Reading<'_>,
) -> Result<HttpResponse, Refuse> {
    let etag = tags.etag(key, context);
    let shown = without_ended(shown, reading.now_ms);
    if shown == Shown::Nothing {
        if reading.conditions.matches.is_some() {
            let refuse = Refuse::new(ProblemCode::ConditionFailed, "the condition asks for a value, and there is none");
            return Err(refuse.with("etag", serde_json::Value::Null));
        }
        return Err(Refuse::new(ProblemCode::NoSuchKey, "there is no value under this key"));
    }
    if reading.conditions.matches.as_ref().is_some_and(|list| !list.contains(&etag)) {
        let detail = "the value is another version than the condition asks for";
        let refuse = Refuse::new(ProblemCode::ConditionFailed, detail);
        return Err(refuse.header("etag", etag.clone()).with("etag", etag));
    }
    if reading.conditions.none_match.as_ref().is_some_and(|list| list.contains(&etag)) {
        return Ok(HttpResponse::NotModified().insert_header(("etag", etag)).finish());
    }
    match shown {
        Shown::Values(values) if values.len() == 1 => one_value(&values[0].1, &etag, reading),
        shown => Ok(whole(tags, key, &shown, context)),
    }
}

fn one_value(value: &Value, etag: &str, reading: &Reading<'_>) -> Result<HttpResponse, Refuse> {
    let content_type = ending::split_end(&value.content_type).0;
    let len = value.body.len();
    let range = reading.range.filter(|_| reading.if_range.is_none_or(|wanted| wanted == etag));
    match range::part(range, len) {
        Part::Whole => Ok(answers::with_content(StatusCode::OK, etag, content_type).body(value.body.clone())),
        Part::Bytes(bytes) => {
            let content_range = format!("bytes {}-{}/{len}", bytes.start, bytes.end - 1);
            let mut response = answers::with_content(StatusCode::PARTIAL_CONTENT, etag, content_type);
            Ok(response.insert_header(("content-range", content_range)).body(value.body.slice(bytes)))
        }
        Part::Unsatisfiable => Err(answers::unsatisfiable(len)),
    }
}

/// All that a key shows, in one body: 300 for values side by side.
pub fn whole(tags: &ContextKey, key: &RegisterKey, shown: &Shown, context: &Context) -> HttpResponse {
    let etag = tags.etag(key, context);
    let tagged = |status| {
        let mut response = HttpResponseBuilder::new(status);
        response.insert_header(("etag", etag.clone()));
        response
    };
    match shown {
        Shown::Nothing => tagged(StatusCode::OK).json(json!({ "elements": [], "fields": {} })),
        Shown::Values(values) => {
            tagged(StatusCode::MULTIPLE_CHOICES).json(json!({ "siblings": siblings(tags, key, values) }))
        }
        Shown::Number(number) => tagged(StatusCode::OK).content_type(NUMBER).body(number.to_string()),
        Shown::Elements(elements) => tagged(StatusCode::OK).json(json!({ "elements": in_base64(elements) })),
        Shown::Fields(fields) => tagged(StatusCode::OK).json(json!({ "fields": named_fields(fields) })),
    }
}

/// What an event of a watch tells, and its kind: what a read of the key shows, as JSON, with the read's ETag.
pub fn event(
    tags: &ContextKey,
    key: &RegisterKey,
    shown: &Shown,
    context: &Context,
) -> (&'static str, serde_json::Value) {
    let etag = tags.etag(key, context);
    match shown {
        Shown::Nothing => (crate::watches::ABSENT, json!({})),
        Shown::Values(values) if values.len() == 1 => {
            let value = &values[0].1;
            let content_type = String::from_utf8_lossy(ending::split_end(&value.content_type).0);
            let body = STANDARD.encode(&value.body);
            ("value", json!({ "etag": etag, "content_type": content_type, "value": body }))
        }
        Shown::Values(values) => ("siblings", json!({ "etag": etag, "siblings": siblings(tags, key, values) })),
        Shown::Number(number) => {
            let body = STANDARD.encode(number.to_string());
            ("value", json!({ "etag": etag, "content_type": NUMBER, "value": body }))
        }
        Shown::Elements(elements) => ("elements", json!({ "etag": etag, "elements": in_base64(elements) })),
        Shown::Fields(fields) => ("fields", json!({ "etag": etag, "fields": named_fields(fields) })),
    }
}

fn siblings(tags: &ContextKey, key: &RegisterKey, values: &[(Dot, Value)]) -> Vec<serde_json::Value> {
    values.iter().map(|(dot, value)| sibling(tags, key, *dot, value)).collect()
}

fn in_base64(elements: &[bytes::Bytes]) -> Vec<String> {
    elements.iter().map(|element| STANDARD.encode(element)).collect()
}

fn named_fields(fields: &[(bytes::Bytes, bytes::Bytes)]) -> serde_json::Map<String, serde_json::Value> {
    let named = |(name, value): &(bytes::Bytes, bytes::Bytes)| {
        (String::from_utf8_lossy(name).into_owned(), json!(STANDARD.encode(value)))
    };
    fields.iter().map(named).collect()
}

/// The type of a counter's number.
const NUMBER: &str = "text/plain; charset=utf-8";

fn sibling(tags: &ContextKey, key: &RegisterKey, dot: Dot, value: &Value) -> serde_json::Value {
    let content_type = String::from_utf8_lossy(ending::split_end(&value.content_type).0).into_owned();
    let etag = tags.etag(key, &Context::of(dot));
    json!({ "value": STANDARD.encode(&value.body), "content_type": content_type, "etag": etag })
}

/// What is shown once values whose time is up are left out.
pub fn without_ended(shown: Shown, now_ms: u64) -> Shown {
    let Shown::Values(values) = shown else { return shown };
    let lasts = |value: &Value| ending::split_end(&value.content_type).1.is_none_or(|ends_ms| now_ms < ends_ms);
    let values: Vec<_> = values.into_iter().filter(|(_, value)| lasts(value)).collect();
    if values.is_empty() { Shown::Nothing } else { Shown::Values(values) }
}

/// The answer to a write that took its course. `computes`: it is asked for the new value.
pub fn write(effect: Effect, number: Option<i64>, etag: String, computes: bool) -> HttpResponse {
    let tagged = |status| {
        let mut response = HttpResponseBuilder::new(status);
        response.insert_header(("etag", etag.clone()));
        response
    };
    match (effect, number) {
        (Effect::Created | Effect::Replaced | Effect::Deleted, Some(number)) if computes => {
            tagged(StatusCode::OK).content_type(NUMBER).body(number.to_string())
        }
        // A stand-in keeps it, who does not know what the key holds.
        (Effect::Hinted, _) if computes => tagged(StatusCode::ACCEPTED).finish(),
        (Effect::Created, _) => tagged(StatusCode::CREATED).finish(),
        (Effect::Replaced | Effect::Hinted, _) => tagged(StatusCode::OK).finish(),
        (Effect::Deleted, _) => HttpResponse::NoContent().finish(),
    }
}

/// What became of a write, as `GET /v1/requests/{id}` tells it: the outcome, and the effect's name.
pub fn remembered(effect: Option<Effect>) -> (WriteOutcome, &'static str) {
    match effect {
        // No majority knows of it now; an attempt still on its way, or a hint, may yet bring it.
        None => (WriteOutcome::Unknown, "none-seen"),
        Some(Effect::Created) => (WriteOutcome::Done, "created"),
        Some(Effect::Replaced) => (WriteOutcome::Done, "replaced"),
        Some(Effect::Deleted) => (WriteOutcome::Done, "deleted"),
        Some(Effect::Hinted) => (WriteOutcome::Done, "hinted"),
    }
}
