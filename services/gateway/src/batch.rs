//! `POST /v1/batch`: operations one a line, and their results one a line.
//!
//! The operations are those of one session, in their order: each happens after the one before, and sees what it did.
//! Each stands for itself: one that fails is told, and the next one goes on. They share the request's deadline; what is
//! not reached before it is told as surely not done.

use std::fmt::Write as _;

use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use telemetry::context;
use wire::http::{ProblemCode, WriteOutcome, header};

use crate::listing::{NDJSON, encoded};
use crate::problem::Refuse;
use crate::records::{Head, Incoming, Upload, read_body};
use crate::routes::Verb;
use crate::words::{self, Headers};

/// Operations of one batch at most.
pub const OPERATIONS_MAX: usize = 1_000;
/// The longest batch, in bytes.
pub const BATCH_MAX_BYTES: usize = 8 << 20;

/// One line.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    op: String,
    bucket: String,
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    content_type: Option<String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    if_fence: Option<u64>,
    consistency: Option<String>,
    ttl: Option<String>,
    by: Option<i64>,
    field: Option<String>,
    request_id: Option<String>,
}

/// A line as the handler of records takes it.
#[derive(Debug)]
struct Prepared {
    verb: Verb,
    bucket: String,
    key: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Incoming<'_> {
    /// `POST /v1/batch`
    ///
    /// # Errors
    /// The problem to answer with: the batch as a whole is refused, and nothing was done.
    pub async fn batch(&mut self, body: Upload) -> Result<HttpResponse, Refuse> {
        words::query(self.request.query_string(), &[])?;
        let mut token = self.request.headers().single(header::TOKEN)?.map(str::to_owned);
        // A broken token is the batch's mistake, not that of each line.
        self.seen().await?;
        let announced = self.request.headers().single("content-length")?.and_then(|text| text.parse::<u64>().ok());
        let till = self.gateway.clock.to_tokio(self.deadline);
        let body = read_body(body, announced, BATCH_MAX_BYTES, till).await?;
        let lines: Vec<&[u8]> =
            body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
        if lines.len() > OPERATIONS_MAX {
            let detail = format!("a batch has at most {OPERATIONS_MAX} operations, this one has {}", lines.len());
            return Err(Refuse::bad_request(detail).outcome(WriteOutcome::NotDone));
        }
        let trace_id = context::trace_id_hex(self.context);
        let mut results = String::new();
        for line in lines {
            let answer = match prepare(line) {
                Ok(prepared) => self.one(prepared, &mut token).await,
                Err(refuse) => Err(refuse.outcome_or_not_done()),
            };
            let answer = answer.unwrap_or_else(|refuse| refuse.into_response(&trace_id));
            // Writing to a String cannot fail.
            let _ = writeln!(results, "{}", result_of(answer, &mut token));
        }
        let mut response = HttpResponse::Ok();
        response.content_type(NDJSON).insert_header(("cache-control", "no-store"));
        if let Some(token) = token {
            response.insert_header((header::TOKEN, token));
        }
        Ok(response.body(results))
    }

    /// Does what one line says, as if it had come as a request of its own.
    async fn one(&mut self, prepared: Prepared, token: &mut Option<String>) -> Result<HttpResponse, Refuse> {
        let Prepared { verb, bucket, key, query, mut headers, body } = prepared;
        if self.gateway.clock.now() >= self.deadline {
            let detail = "the batch's deadline passed before this operation was begun; nothing was changed";
            return Err(Refuse::new(ProblemCode::Deadline, detail).outcome_or_not_done());
        }
        if let Some(token) = token.as_deref().and_then(|token| HeaderValue::from_str(token).ok()) {
            headers.insert(HeaderName::from_static(header::TOKEN), token);
        }
        let mut incoming = Incoming {
            gateway: self.gateway,
            request: Head::made_of(&headers, &query),
            span: self.span,
            context: self.context,
            deadline: self.deadline,
            session: None,
        };
        incoming.record(verb, &bucket, &key, Upload::Whole(body)).await
    }
}

/// Reads a line.
fn prepare(line: &[u8]) -> Result<Prepared, Refuse> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        Refuse::bad_request(format!("the line is no operation (a JSON object with op, bucket and key): {error}"))
    })?;
    let key = wire::http::check_key(line.key).map_err(|why| Refuse::new(ProblemCode::BadKey, why))?;
    let verb = match line.op.as_str() {
        "get" => Verb::Get,
        "put" => Verb::Put,
        "delete" => Verb::Delete,
        "add" | "append" | "remove" | "touch" => Verb::Post,
        _ => {
            let detail = "`op` is one of get, put, delete, add, append, remove and touch";
            return Err(Refuse::bad_request(detail));
        }
    };
    let body = match (&line.value, &line.value_base64) {
        (Some(_), Some(_)) => return Err(Refuse::bad_request("`value` and `value_base64` are two values; send one")),
        (Some(text), None) => Bytes::from(text.clone()),
        (None, Some(text)) => {
            let wrong = |_| Refuse::bad_request("`value_base64` is not base64");
            Bytes::from(STANDARD.decode(text).map_err(wrong)?)
        }
        (None, None) => Bytes::new(),
    };
    let mut headers = HeaderMap::new();
    let fence = line.if_fence.map(|fence| fence.to_string());
    for (name, value) in [
        ("content-type", line.content_type),
        ("if-match", line.if_match),
        ("if-none-match", line.if_none_match),
        (header::FENCE, fence),
        (header::REQUEST_ID, line.request_id),
    ] {
        let Some(value) = value else { continue };
        let broken = |_| Refuse::bad_request(format!("what stands for {name} holds what is no visible ASCII"));
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).map_err(broken)?);
    }
    let op = (verb == Verb::Post).then(|| line.op.clone());
    let by = line.by.map(|by| by.to_string());
    let words = [("op", op), ("by", by), ("field", line.field), ("ttl", line.ttl), ("consistency", line.consistency)];
    let query = words.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))));
    Ok(Prepared { verb, bucket: line.bucket, query: query.collect::<Vec<_>>().join("&"), key, headers, body })
}

/// An answer as a line; its token is the session's newest.
fn result_of(answer: HttpResponse, token: &mut Option<String>) -> Value {
    let status = answer.status().as_u16();
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(newest) = text(header::TOKEN) {
        *token = Some(newest);
    }
    let mut line = Map::from_iter([("status".to_owned(), json!(status))]);
    let named = [("etag", "etag"), ("receipt", header::RECEIPT), ("request_id", header::REQUEST_ID)];
    for (name, header) in named {
        if let Some(value) = text(header) {
            line.insert(name.to_owned(), json!(value));
        }
    }
    let content_type = text("content-type");
    // Whatever a record's handler answers is there as a whole.
    let body = answer.into_body().try_into_bytes().unwrap_or_default();
    let problem = content_type.as_deref() == Some(wire::http::PROBLEM_JSON);
    let siblings = status == 300;
    match serde_json::from_slice::<Value>(&body) {
        Ok(value) if problem => {
            line.insert("problem".to_owned(), value);
        }
        Ok(value) if siblings => {
            line.insert("siblings".to_owned(), value["siblings"].clone());
        }
        _ if body.is_empty() && content_type.is_none() => {}
        _ => {
            match std::str::from_utf8(&body) {
                Ok(text) => line.insert("value".to_owned(), json!(text)),
                Err(_) => line.insert("value_base64".to_owned(), json!(STANDARD.encode(&body))),
            };
            line.insert("content_type".to_owned(), json!(content_type));
        }
    }
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_request_would() {
        let line = r#"{"op":"add","bucket":"b","key":"a/ä","by":-3,"ttl":"5s","request_id":"12345678","if_fence":7}"#;
        let prepared = prepare(line.as_bytes()).expect("an operation");
        assert_eq!((prepared.verb, prepared.key.as_str()), (Verb::Post, "a/ä"));
        assert_eq!(prepared.query, "op=add&by=-3&ttl=5s");
        assert_eq!(prepared.headers.get(header::REQUEST_ID).and_then(|id| id.to_str().ok()), Some("12345678"));
        assert_eq!(prepared.headers.get(header::FENCE).and_then(|id| id.to_str().ok()), Some("7"));
        let put = prepare(br#"{"op":"put","bucket":"b","key":"k","value_base64":"AAE="}"#).expect("an operation");
        assert_eq!((put.verb, &put.body[..], put.query.as_str()), (Verb::Put, &[0, 1][..], ""));
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        for (line, code) in [
            ("7", "bad-request"),
            ("{", "bad-request"),
            (r#"{"op":"put","bucket":"b"}"#, "bad-request"),
            (r#"{"op":"brew","bucket":"b","key":"k"}"#, "bad-request"),
            (r#"{"op":"put","bucket":"b","key":"k","valu":"v"}"#, "bad-request"),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","value_base64":"dg=="}"#, "bad-request"),
            (r#"{"op":"put","bucket":"b","key":"k","value_base64":"?"}"#, "bad-request"),
            (r#"{"op":"put","bucket":"b","key":"k","content_type":"a\nb"}"#, "bad-request"),
            (r#"{"op":"put","bucket":"b","key":""}"#, "bad-key"),
        ] {
            assert_eq!(prepare(line.as_bytes()).expect_err("refused").code().code(), code, "{line}");
        }
    }
}
