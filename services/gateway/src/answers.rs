//! From a domain outcome to its HTTP form: the one place where the two meet. Each match is exhaustive.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder};
use client::fleet::Fleet;
use replication::{Effect, Refusal, Value, Version};
use wire::http::{Level, ProblemCode, Receipt, WriteOutcome};

use crate::problem::Refuse;
use crate::range::{self, Part};
use crate::words::{ReadConditions, etag};
use dispatch::Verdict;

/// The problem that a verdict without a usable answer is. `write` says whether an outcome is told.
pub fn refusal_of(verdict: &Verdict, write: bool) -> Refuse {
    let refuse = match verdict {
        Verdict::NotDone(refusal) => not_done(*refusal),
        Verdict::Unknown => unknown(),
        Verdict::Late => late(),
        // An answer of another kind than the question: a node of another version.
        Verdict::Answered { .. } => answered_otherwise(write),
    };
    if write { refuse.outcome_or_not_done() } else { refuse }
}

/// A write that may have acted, and was not answered in time.
pub fn unknown() -> Refuse {
    Refuse::new(
        ProblemCode::Deadline,
        "the deadline passed after a replica may have taken the write: it is unknown whether it took effect; send it \
         again with the same request id, which acts at most once, or ask GET /v1/requests/{id}",
    )
    .outcome(WriteOutcome::Unknown)
}

/// A read that was not answered in time.
pub fn late() -> Refuse {
    Refuse::new(ProblemCode::Deadline, "no replica answered the read before the deadline")
}

/// A storage node answered another question than was asked: it is of another version.
pub fn answered_otherwise(write: bool) -> Refuse {
    let refuse = Refuse::new(ProblemCode::NoQuorum, "a storage node answered in a form that is not known here");
    if write { refuse.outcome(WriteOutcome::Unknown) } else { refuse }
}

/// What a request ends with that no replica took.
pub fn not_done(refusal: Refusal) -> Refuse {
    match refusal {
        Refusal::NoQuorum => Refuse::new(
            ProblemCode::NoQuorum,
            "too few replicas of the key could be reached before the deadline; nothing was changed",
        ),
        Refusal::NotReplica(epoch) => Refuse::new(
            ProblemCode::NoQuorum,
            format!("the nodes hold another view of the ring (epoch {epoch}); this gateway will have it in a moment"),
        ),
        Refusal::Overloaded => {
            Refuse::new(ProblemCode::Overloaded, "all replicas of the key have too much to do; nothing was changed")
        }
        Refusal::DiskFull => {
            Refuse::new(ProblemCode::DiskFull, "the disks of the key's replicas are full; reads go on")
        }
        Refusal::Draining => {
            Refuse::new(ProblemCode::NoQuorum, "the replicas that can be reached are about to stop; try again")
        }
        Refusal::TooOld => Refuse::new(
            ProblemCode::RequestTooOld,
            "this request id is older than what the key remembers, so it cannot be told whether it acted before",
        )
        .outcome(WriteOutcome::Unknown),
    }
}

/// How an answer came about, in a header's words.
pub fn receipt(fleet: &Fleet, receipt: &replication::Receipt, level: Level, attempts: u32) -> String {
    let replicas = receipt.voters.iter().map(|voter| fleet.name_of(*voter)).collect();
    Receipt { level, epoch: receipt.epoch.0, hops: 1, replicas, attempts }.to_string()
}

/// The answer to a read that came back.
///
/// # Errors
/// `no-such-key`, `condition-failed`, `bad-range`.
pub fn read(
    found: Option<(Version, Value)>,
    conditions: &ReadConditions,
    range: Option<&str>,
    if_range: Option<&str>,
) -> Result<HttpResponse, Refuse> {
    let Some((version, value)) = found else {
        if conditions.matches.is_some() {
            return Err(condition_failed(None));
        }
        return Err(Refuse::new(ProblemCode::NoSuchKey, "there is no value under this key"));
    };
    let tag = etag(version);
    if conditions.matches.as_ref().is_some_and(|list| !list.contains(&tag)) {
        return Err(condition_failed(Some(version)));
    }
    if conditions.none_match.as_ref().is_some_and(|list| list.contains(&tag)) {
        return Ok(HttpResponse::NotModified().insert_header(("etag", tag)).finish());
    }
    let len = value.body.len();
    let range = range.filter(|_| if_range.is_none_or(|wanted| wanted == tag));
    match range::part(range, len) {
        Part::Whole => Ok(with_value(StatusCode::OK, version, &value).body(value.body)),
        Part::Bytes(bytes) => {
            let content_range = format!("bytes {}-{}/{len}", bytes.start, bytes.end - 1);
            let body = value.body.slice(bytes);
            let mut response = with_value(StatusCode::PARTIAL_CONTENT, version, &value);
            Ok(response.insert_header(("content-range", content_range)).body(body))
        }
        Part::Unsatisfiable => Err(unsatisfiable(len)),
    }
}

/// The refusal of a range that lies outside a value of `len` bytes.
pub fn unsatisfiable(len: usize) -> Refuse {
    let detail = format!("the value has {len} bytes, and the range is none of them or is not a range");
    Refuse::new(ProblemCode::BadRange, detail).header("content-range", format!("bytes */{len}"))
}

/// The answer to a write that took its course. `value` is what an add or append made.
///
/// # Errors
/// `condition-failed`, `value-unfit`, `result-gone`.
pub fn write(effect: Effect, value: Option<Value>, computes: bool) -> Result<HttpResponse, Refuse> {
    match effect {
        Effect::Created(version) | Effect::Replaced(version) if computes => match value {
            Some(value) => Ok(with_value(StatusCode::OK, version, &value).body(value.body)),
            None => Err(Refuse::new(
                ProblemCode::ResultGone,
                "this repeats a request that took effect before, and the value it made has been replaced since",
            )
            .outcome(WriteOutcome::Done)
            .with("etag", etag(version))),
        },
        Effect::Created(version) => Ok(HttpResponse::Created().insert_header(("etag", etag(version))).finish()),
        Effect::Replaced(version) => Ok(HttpResponse::Ok().insert_header(("etag", etag(version))).finish()),
        Effect::Deleted(_) => Ok(HttpResponse::NoContent().finish()),
        Effect::ConditionFailed(present) => Err(condition_failed(present).outcome(WriteOutcome::NotDone)),
        Effect::Unfit => Err(Refuse::new(
            ProblemCode::ValueUnfit,
            "the value is no decimal integer, or the result would not fit into 64 bits or the largest value",
        )
        .outcome(WriteOutcome::NotDone)),
        Effect::FencedOff(seen) => Err(fenced_off(seen)),
        // The answers of locks, which are asked by calls of their own.
        Effect::Granted { .. } | Effect::Held { .. } | Effect::Released | Effect::NotHeld => {
            Err(answered_otherwise(true))
        }
    }
}

/// The refusal of a write whose fencing token is too low.
fn fenced_off(seen: u64) -> Refuse {
    let detail = format!("a write with the greater fencing token {seen} was here before; the lock has gone to another");
    Refuse::new(ProblemCode::FencedOff, detail).with("fence", seen).outcome(WriteOutcome::NotDone)
}

/// What became of a write, as `GET /v1/requests/{id}` tells it: the outcome, the effect's name, and the ETag it left.
pub fn remembered(effect: Option<Effect>) -> (WriteOutcome, &'static str, Option<String>) {
    match effect {
        // It is not in the register now; an attempt still on its way may yet put it there.
        None => (WriteOutcome::Unknown, "none-seen", None),
        Some(Effect::Created(version)) => (WriteOutcome::Done, "created", Some(etag(version))),
        Some(Effect::Replaced(version)) => (WriteOutcome::Done, "replaced", Some(etag(version))),
        Some(Effect::Deleted(_)) => (WriteOutcome::Done, "deleted", None),
        Some(Effect::ConditionFailed(_)) => (WriteOutcome::NotDone, "condition-failed", None),
        Some(Effect::Unfit) => (WriteOutcome::NotDone, "value-unfit", None),
        Some(Effect::FencedOff(_)) => (WriteOutcome::NotDone, "fenced-off", None),
        Some(Effect::Granted { .. }) => (WriteOutcome::Done, "granted", None),
        Some(Effect::Held { .. }) => (WriteOutcome::NotDone, "held", None),
        Some(Effect::Released) => (WriteOutcome::Done, "released", None),
        Some(Effect::NotHeld) => (WriteOutcome::NotDone, "not-held", None),
    }
}

fn condition_failed(present: Option<Version>) -> Refuse {
    let code = ProblemCode::ConditionFailed;
    match present {
        Some(version) => Refuse::new(code, "the value is another version than the condition asks for")
            .header("etag", etag(version))
            .with("etag", etag(version)),
        None => {
            Refuse::new(code, "the condition asks for a value, and there is none").with("etag", serde_json::Value::Null)
        }
    }
}

fn with_value(status: StatusCode, version: Version, value: &Value) -> HttpResponseBuilder {
    with_content(status, &etag(version), &value.content_type)
}

/// The head of an answer with a stored value of this type.
pub fn with_content(status: StatusCode, etag: &str, content_type: &[u8]) -> HttpResponseBuilder {
    let mut response = HttpResponseBuilder::new(status);
    response.insert_header(("etag", etag)).insert_header(("accept-ranges", "bytes"));
    // A stored type came in as a header of visible characters; what came without one is only bytes.
    let content_type = std::str::from_utf8(content_type).ok().filter(|kind| !kind.is_empty());
    response.insert_header(("content-type", content_type.unwrap_or(UNTYPED)));
    // A stored page must not be taken for another type than it was stored as.
    response.insert_header(("x-content-type-options", "nosniff"));
    response
}

/// The type of a value that was stored without one.
const UNTYPED: &str = "application/octet-stream";
