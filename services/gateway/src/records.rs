//! The calls on records: parse, ask, answer.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use available::Session;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use replication::{Ballot, Change, Condition, Effect, Operation, Outcome, Value, Write};
use stdx::{Instant, TraceContext};
use telemetry::names;
use telemetry::spans::LiveSpan;
use wire::http::{Contract, Level, ProblemCode, WriteOutcome, header};

use crate::answers;
use crate::ask::{Asked, Words, whole};
use crate::available_answers::Reading;
use crate::buckets::Bucket;
use crate::gateway::Gateway;
use crate::problem::Refuse;
use crate::routes::Verb;
use crate::token::Seen;
use crate::watches;
use crate::words::{self, Headers, RequestWords};
use dispatch::Verdict;

/// One request, as every handler gets it.
pub struct Incoming<'a> {
    /// The gateway.
    pub gateway: &'a Gateway,
    /// The request line and headers.
    pub request: Head<'a>,
    /// Its server span.
    pub span: &'a mut LiveSpan,
    /// That span's context.
    pub context: TraceContext,
    /// When the answer must be on its way.
    pub deadline: Instant,
    /// What the request's session has seen in available buckets; none before it has used one.
    pub session: Option<Session>,
}

/// The part of a request that comes before its body: its headers, and its parameters.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    headers: &'a HeaderMap,
    query: &'a str,
    /// The gateway, for what goes on when the request is answered; none for a line of a batch.
    shared: Option<&'a Data<Gateway>>,
}

/// A request's body.
pub enum Upload {
    /// On its way.
    Stream(Payload),
    /// Here.
    Whole(Bytes),
}

impl<'a> Head<'a> {
    /// Of a request of its own.
    pub fn of(request: &'a HttpRequest) -> Head<'a> {
        let shared = request.app_data::<Data<Gateway>>();
        Head { headers: request.headers(), query: request.query_string(), shared }
    }

    /// Of a part of another one.
    pub fn made_of(headers: &'a HeaderMap, query: &'a str) -> Head<'a> {
        Head { headers, query, shared: None }
    }

    /// The headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The parameters, not decoded.
    pub fn query_string(&self) -> &'a str {
        self.query
    }

    /// The gateway, if it may be kept for longer than the request.
    pub fn shared(&self) -> Option<&'a Data<Gateway>> {
        self.shared
    }
}

/// Words that every data answer carries.
pub(crate) struct Trailer {
    receipt: String,
    token: String,
    request_id: Option<String>,
}

impl Incoming<'_> {
    /// `GET|HEAD|PUT|POST|DELETE /v1/kv/{bucket}/{key}`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn record(&mut self, verb: Verb, bucket: &str, key: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        let done = match verb {
            Verb::Get | Verb::Head => return self.read(verb, bucket, key).await,
            Verb::Put | Verb::Post | Verb::Delete => self.write(verb, bucket, key, body).await,
        };
        // Whatever refused a write before it was asked of a replica left nothing behind.
        done.map_err(Refuse::outcome_or_not_done)
    }

    async fn read(&mut self, verb: Verb, bucket_name: &str, key: &str) -> Result<HttpResponse, Refuse> {
        let headers = self.request.headers();
        let query = words::query(self.request.query_string(), &["consistency", "watch"])?;
        let asked_level = words::level(&query)?;
        if watches::is_watch(&query)? {
            return self.watch(bucket_name, key, asked_level).await;
        }
        let conditions = words::read_conditions(headers)?;
        let range = if verb == Verb::Get { headers.single("range")? } else { None };
        let if_range = headers.single("if-range")?;
        let seen = self.seen().await?;
        let bucket = self.gateway.bucket(bucket_name, self.deadline, self.context).await?;
        if bucket.definition.contract == Contract::Available {
            let now_ms = self.gateway.clock.wall_ms();
            let reading = Reading { conditions: &conditions, range, if_range, now_ms };
            return self.read_available(verb, (bucket_name, &bucket), key, (asked_level, reading), seen).await;
        }
        let level = granted(asked_level.unwrap_or(Level::Strict));
        let read = Operation::Read { key: self.gateway.register(bucket.id, key) };
        let asked = self.ask(self.in_session(read, seen, level), level, bucket_name, verb).await;
        let (outcome, trailer) = self.settle(asked, level, seen, None, false)?;
        let answer = match outcome {
            Outcome::Value(found) => answers::read(found, &conditions, range, if_range),
            Outcome::Done { .. } | Outcome::Remembered(_) | Outcome::Refused(_) | Outcome::Unknown => {
                Err(answers::answered_otherwise(false))
            }
        };
        trailer.on(answer)
    }

    async fn write(&mut self, verb: Verb, bucket_name: &str, key: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        let gateway = self.gateway;
        let headers = self.request.headers();
        // What is wrong for every bucket is said first; what belongs to a contract once that is known.
        words::query(self.request.query_string(), &["consistency", "ttl", "op", "by", "field"])?;
        words::demand(headers)?;
        let request = self.request_words()?;
        let seen = self.seen().await?;
        let bucket = gateway.bucket(bucket_name, self.deadline, self.context).await?;
        if bucket.definition.contract == Contract::Available {
            return self.write_available(verb, (bucket_name, &bucket), key, (seen, request), body).await;
        }
        let known: &[&str] =
            if verb == Verb::Post { &["consistency", "ttl", "op", "by"] } else { &["consistency", "ttl"] };
        let query = words::query(self.request.query_string(), known)?;
        words::level(&query)?;
        let condition = words::condition(headers)?;
        let change = match verb {
            Verb::Delete => Change::Delete,
            Verb::Post => match query.get("op").map(String::as_str) {
                Some("add") => Change::Add(added(query.get("by"))?),
                Some("append") => Change::Append(self.body(body, &bucket).await?),
                Some("touch") => Change::Touch,
                Some("remove") => return Err(Refuse::not_offered("remove", "add, append and touch work today")),
                _ => return Err(Refuse::bad_request("`op` must say what to do: add, append, touch")),
            },
            Verb::Put | Verb::Get | Verb::Head => {
                let content_type = words::content_type(headers)?;
                Change::Put(Value { body: self.body(body, &bucket).await?, content_type: content_type.into() })
            }
        };
        let terms = words::terms(headers, &query, bucket.definition.ttl_s)?;
        let touches = matches!(change, Change::Touch) && condition == Condition::Always;
        let computes = matches!(change, Change::Add(_) | Change::Append(_) | Change::Touch);
        let register = gateway.register(bucket.id, key);
        let RequestWords { text, id, first_sent_ms, retry, .. } = self.first_seen(request, &register).await?;
        gateway.recent().remember(id, bucket_name, key);
        self.span.set(names::REQUEST_ID, format!("{:032x}", id.0));
        let write = Write { key: register, request: id, first_sent_ms, retry, condition, change, terms };
        let write = self.in_session(Operation::Write(write), seen, Level::Strict);
        let asked = self.ask(write, Level::Strict, bucket_name, verb).await;
        let (outcome, trailer) = self.settle(asked, Level::Strict, seen, Some(text), true)?;
        let answer = match outcome {
            Outcome::Done { effect: Effect::ConditionFailed(None), .. } if touches => {
                let detail = "there is no value under this key whose time could be set";
                Err(Refuse::new(ProblemCode::NoSuchKey, detail).outcome(WriteOutcome::NotDone))
            }
            Outcome::Done { effect, value } => answers::write(effect, value, computes),
            Outcome::Value(_) | Outcome::Remembered(_) | Outcome::Refused(_) | Outcome::Unknown => {
                Err(answers::answered_otherwise(true))
            }
        };
        trailer.on(answer)
    }

    /// `GET /v1/requests/{id}`: what became of a write.
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn outcome(&mut self, id: &str) -> Result<HttpResponse, Refuse> {
        words::check_request_id(id)?;
        let query = words::query(self.request.query_string(), &["bucket", "key"])?;
        let seen = self.seen().await?;
        let request = words::request_id(id);
        let (bucket_name, key) = match (query.get("bucket"), query.get("key")) {
            (Some(bucket), Some(key)) => (bucket.clone(), key.clone()),
            (None, None) => self.find_request(request).await?,
            _ => return Err(Refuse::bad_request("name both the bucket and the key, or neither")),
        };
        let bucket = self.gateway.bucket(&bucket_name, self.deadline, self.context).await?;
        if bucket.definition.contract == Contract::Available {
            return self.available_outcome(id, (&bucket_name, &bucket), &key, seen).await;
        }
        let operation = Operation::Outcome { key: self.gateway.register(bucket.id, &key), request };
        let operation = self.in_session(operation, seen, Level::Strict);
        let asked = self.ask(operation, Level::Strict, &bucket_name, Verb::Get).await;
        let (outcome, trailer) = self.settle(asked, Level::Strict, seen, Some(id.to_owned()), false)?;
        let answer = match outcome {
            Outcome::Remembered(effect) => {
                let (outcome, effect, etag) = answers::remembered(effect);
                Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(serde_json::json!({
                    "request_id": id, "bucket": bucket_name, "key": key,
                    "outcome": outcome, "effect": effect, "etag": etag,
                })))
            }
            Outcome::Value(_) | Outcome::Done { .. } | Outcome::Refused(_) | Outcome::Unknown => {
                Err(answers::answered_otherwise(false))
            }
        };
        trailer.on(answer)
    }

    pub(crate) async fn ask(&mut self, operation: Operation, level: Level, bucket: &str, verb: Verb) -> Asked {
        self.span.set(names::KEY_ID, operation.key().position.to_string());
        self.span.set(names::LEVEL, level.name());
        let words = Words { bucket, verb: verb.name(), context: self.context };
        self.gateway.ask(&operation, self.deadline, words).await
    }

    /// Takes an operation's end apart: the outcome with what every data answer carries, or the problem.
    pub(crate) fn settle(
        &mut self,
        asked: Asked,
        level: Level,
        seen: Seen,
        request_id: Option<String>,
        write: bool,
    ) -> Result<(Outcome, Trailer), Refuse> {
        let Verdict::Answered { outcome, receipt, .. } = asked.verdict else {
            return Err(unanswered(answers::refusal_of(&asked.verdict, write), request_id, asked.attempts));
        };
        self.span.set(names::EPOCH, whole(receipt.epoch.0));
        // When it happened, and not which version it saw: another coordinator may have settled that one again, later.
        let seen = seen.join(Seen { epoch: receipt.epoch, time: receipt.time });
        let fleet = self.gateway.fleet();
        let receipt = answers::receipt(&fleet, &receipt, level, asked.attempts);
        let token = self.gateway.tokens.write(fleet.view.cluster, seen, self.session.as_ref());
        Ok((outcome, Trailer { receipt, token, request_id }))
    }

    pub(crate) fn request_words(&self) -> Result<words::RequestWords, Refuse> {
        let now_ms = self.gateway.clock.wall_ms();
        words::request_words(self.request.headers(), now_ms, || uuid::Uuid::now_v7().to_string())
    }

    /// What the session's token says of ordered buckets. What it says of available ones is kept for the answer's token.
    ///
    /// # Errors
    /// `bad-token`: of another form, cluster or past; `no-quorum` while no fleet is known.
    pub(crate) async fn seen(&mut self) -> Result<Seen, Refuse> {
        let broken = |_| Refuse::new(ProblemCode::BadToken, "the Everring-Token is not visible ASCII");
        let Some(token) = self.request.headers().single(header::TOKEN).map_err(broken)? else {
            return Ok(Seen::default());
        };
        let fleet = self.gateway.fleet();
        if !fleet.is_known() {
            let detail =
                "this gateway has not heard of the fleet yet, and cannot tell whether the Everring-Token is its";
            return Err(Refuse::new(ProblemCode::NoQuorum, detail));
        }
        let (seen, session) = self.gateway.tokens.read(fleet.view.cluster, token)?;
        let epoch = session.as_ref().map_or(seen.epoch, |session| session.past.epoch.max(seen.epoch));
        self.gateway.check_past(epoch, self.deadline).await?;
        self.session = session;
        Ok(seen)
    }

    /// When the last of what the session has seen happened, in buckets of either contract.
    pub(crate) fn since(&self, seen: Seen) -> Ballot {
        available::since(seen.time, self.session.as_ref())
    }

    /// The operation of a session that has seen this much of ordered buckets: it happens after that, and after all that
    /// the session has seen in available ones.
    pub(crate) fn in_session(&self, operation: Operation, seen: Seen, level: Level) -> Operation {
        operation.in_session(self.since(seen), level == Level::Sequential)
    }

    /// Reads the body of a write, but no more than the bucket allows and no longer than the deadline.
    pub(crate) async fn body(&self, body: Upload, bucket: &Bucket) -> Result<Bytes, Refuse> {
        let most = usize::try_from(bucket.definition.value_max_bytes).unwrap_or(usize::MAX);
        let announced = self.request.headers().single("content-length")?.and_then(|text| text.parse::<u64>().ok());
        let till = self.gateway.clock.to_tokio(self.deadline);
        read_body(body, announced, most, till).await
    }
}

/// Reads a body of at most `most` bytes.
///
/// # Errors
/// `value-too-large` as soon as it is known, `deadline` when the client is too slow, `bad-request` when it breaks off.
pub async fn read_body(
    body: Upload,
    announced: Option<u64>,
    most: usize,
    till: tokio::time::Instant,
) -> Result<Bytes, Refuse> {
    let too_large = || {
        let detail = format!("the bucket takes values of at most {most} bytes; the rest was not read");
        Refuse::new(ProblemCode::ValueTooLarge, detail).with("value_max_bytes", most as u64)
    };
    let mut body = match body {
        Upload::Whole(bytes) if bytes.len() > most => return Err(too_large()),
        Upload::Whole(bytes) => return Ok(bytes),
        Upload::Stream(body) => body,
    };
    if announced.is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large());
    }
    let mut whole = BytesMut::with_capacity(announced.map_or(0, |bytes| bytes as usize));
    loop {
        match tokio::time::timeout_at(till, body.next()).await {
            Err(_) => {
                let detail = "the request's body did not arrive before the deadline; nothing was changed";
                return Err(Refuse::new(ProblemCode::Deadline, detail));
            }
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(error))) => return Err(Refuse::bad_request(format!("the body broke off: {error}"))),
            Ok(Some(Ok(chunk))) if whole.len() + chunk.len() > most => return Err(too_large()),
            Ok(Some(Ok(chunk))) => whole.extend_from_slice(&chunk),
        }
    }
}

impl Trailer {
    /// The words of one answer.
    pub(crate) fn new(receipt: String, token: String, request_id: Option<String>) -> Trailer {
        Trailer { receipt, token, request_id }
    }

    /// How the answer came about.
    pub(crate) fn receipt(&self) -> &str {
        &self.receipt
    }

    /// The words of an answer that took a second operation: its receipt and the newest token.
    pub(crate) fn joined(self, later: Trailer) -> Trailer {
        Trailer { token: later.token, ..self }
    }

    /// Puts the words on an answer, be it a problem.
    pub(crate) fn on(self, answer: Result<HttpResponse, Refuse>) -> Result<HttpResponse, Refuse> {
        let mut response = match answer {
            Ok(response) => response,
            Err(refuse) => return Err(self.on_refuse(refuse)),
        };
        for (name, value) in self.words() {
            // Names of nodes and request ids are visible ASCII; what is not would be left out.
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        Ok(response)
    }

    /// Puts the words on a problem.
    pub(crate) fn on_refuse(self, refuse: Refuse) -> Refuse {
        self.words().fold(refuse, |refuse, (name, value)| refuse.header(name, value))
    }

    fn words(self) -> impl Iterator<Item = (&'static str, String)> {
        let words = [
            (header::RECEIPT, Some(self.receipt)),
            (header::TOKEN, Some(self.token)),
            (header::REQUEST_ID, self.request_id),
        ];
        words.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)))
    }
}

/// The problem of an operation that nobody answered, with what its client needs to ask after it.
pub(crate) fn unanswered(mut refuse: Refuse, request_id: Option<String>, attempts: u32) -> Refuse {
    if let Some(id) = request_id {
        refuse = refuse.header(header::REQUEST_ID, id.clone()).with("request_id", id);
    }
    refuse.with("attempts", attempts)
}

pub(crate) fn added(by: Option<&String>) -> Result<i64, Refuse> {
    match by {
        None => Ok(1),
        Some(text) => text.parse().map_err(|_| Refuse::bad_request("`by` must be a decimal integer of 64 bits")),
    }
}

/// The level at which an `ordered` bucket answers a read that asks for `level`.
fn granted(level: Level) -> Level {
    match level {
        Level::Strict => Level::Strict,
        Level::Sequential | Level::Causal | Level::Eventual => Level::Sequential,
    }
}
