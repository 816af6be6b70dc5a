//! The HTTP client of the gateway's data path: one request, one id, as many attempts as its deadline allows.
//!
//! A request keeps its id over all attempts, so that the replicas' request memory makes a retry act once. A gateway
//! that cannot be reached, or whose connection breaks, is followed by the next one at once; one that stays silent is
//! followed by the next at half the deadline, and whichever answers first counts. The end of a request is one of three
//! things, as in a history: done (or observed), surely without effect, or unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use stdx::TraceContext;
use tokio::time::Instant;
use wire::http::{Level, Problem, Receipt, RingAnswer, RouteAnswer, WriteOutcome, header};

/// A client of several gateways that serve the same ring. Cheap to clone; clones share connections and preferences.
#[derive(Clone)]
pub struct GatewayClient {
    pub(crate) http: reqwest::Client,
    pub(crate) gateways: Arc<[String]>,
    /// Which gateway is asked first: the last one that answered.
    pub(crate) preferred: Arc<AtomicUsize>,
    /// What is left for retries after a refusal, in thousandths of a retry.
    budget_milli: Arc<AtomicI64>,
}

/// What a request does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `GET`: a read at the bucket's own level.
    Get,
    /// `PUT`: replace the value.
    Put {
        /// The value, as it is to be stored.
        value: Bytes,
        /// Its `Content-Type`; none sends `application/octet-stream`.
        content_type: Option<String>,
    },
    /// `DELETE`.
    Delete,
    /// `POST ?op=add&by=N`.
    Add(i64),
    /// `POST ?op=append`.
    Append(Bytes),
    /// `PUT /v1/locks/{key}`: take the lock, or stand in its queue for a while.
    Acquire {
        /// Who asks; the same owner is granted what it holds already.
        owner: String,
        /// How long it holds the lock without renewing it.
        ttl_ms: u64,
        /// How long it waits in the queue; 0 does not wait.
        wait_ms: u64,
    },
    /// `POST /v1/locks/{key}/renew`, of the grant that [`Request::fence`] names.
    Renew {
        /// How long the lock is held from now on.
        ttl_ms: u64,
    },
    /// `DELETE /v1/locks/{key}`, of the grant that [`Request::fence`] names.
    Release,
    /// `POST ?op=add` with the element as the body: into a set.
    Insert(Bytes),
    /// `POST ?op=remove`: an element out of a set.
    Remove(Bytes),
    /// `POST ?op=add&field=`: into a map.
    Set {
        /// The field.
        field: String,
        /// Its value.
        value: Bytes,
    },
    /// `POST ?op=remove&field=`: out of a map.
    Unset {
        /// The field.
        field: String,
    },
}

/// What a write demands of the value it replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// `If-Match: "<etag>"`; the ETag as it was received, with its quotes.
    Matches(String),
    /// `If-Match: *`.
    Exists,
    /// `If-None-Match: *`.
    Absent,
}

/// One request: everything that stays the same over its attempts.
#[derive(Clone, Debug)]
pub struct Request {
    /// The bucket.
    pub bucket: String,
    /// The key, not encoded.
    pub key: String,
    /// What to do.
    pub action: Action,
    /// On which condition; writes only.
    pub condition: Condition,
    /// The fencing token under which it is made (`If-Fence`); writes and lock calls only.
    pub fence: Option<u64>,
    /// `?consistency=`; none for the bucket's own level.
    pub level: Option<Level>,
    /// How long the value lives (`?ttl=`), in milliseconds; none for as long as the bucket says. Puts only.
    pub ttl_ms: Option<u64>,
    /// The session's newest `Everring-Token`; none begins a session.
    pub token: Option<String>,
    /// The id that makes retries harmless; see [`request_id`].
    pub request_id: String,
    /// How long the caller waits, over all attempts.
    pub deadline: Duration,
    /// The span that the attempts belong to; [`TraceContext::NONE`] for none.
    pub context: TraceContext,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It took its course, or observed something (an absent key, a condition that did not hold).
    Ok(Answer),
    /// It surely had no effect and observed nothing.
    Failed(Failure),
    /// A write that may or may not take effect, now or later.
    Unknown(Failure),
}

/// What an answered request did or saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A read found a value.
    Found,
    /// A read found several values side by side (300): JSON, see [`siblings`].
    Siblings,
    /// A read found none (404 `no-such-key`).
    Absent,
    /// A write made the value (201).
    Created,
    /// A write replaced a value, or computed a new one (200).
    Replaced,
    /// There is no value now (204).
    Deleted,
    /// 412: the condition did not hold; `etag` is what was there instead.
    ConditionFailed,
    /// 412: the fencing token is lower than one that was seen already, or its grant is over.
    FencedOff,
    /// A lock was granted, or its lease renewed (200); the body has the grant.
    Granted,
    /// 409: another owner holds the lock.
    Held,
}

/// A lock as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token: greater than that of any grant before it.
    pub fence: u64,
    /// How much longer it is held unless it is renewed, by the clock of the gateway that answered.
    pub expires_in_ms: u64,
}

/// A gateway's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it means.
    pub seen: Seen,
    /// The HTTP status.
    pub status: u16,
    /// The `ETag`, with its quotes.
    pub etag: Option<String>,
    /// The body: the value of a read, the new value of an add or append.
    pub body: Bytes,
    /// The stored `Content-Type`.
    pub content_type: Option<String>,
    /// How the answer came about; none when the gateway sent no receipt, or one of another form.
    pub receipt: Option<Receipt>,
    /// The session's token, to be sent with its next request.
    pub token: Option<String>,
    /// The trace, as the gateway names it.
    pub trace_id: Option<String>,
    /// The gateway that answered (`host:port`).
    pub gateway: String,
    /// Attempts made at gateways, 1 when the first one answered.
    pub attempts: u32,
}

impl Answer {
    /// The lock that was granted; none for any other answer, and for one of another form.
    pub fn grant(&self) -> Option<Grant> {
        let words: Value = serde_json::from_slice(&self.body).ok().filter(|_| self.seen == Seen::Granted)?;
        Some(Grant { fence: words["fence"].as_u64()?, expires_in_ms: words["expires_in_ms"].as_u64()? })
    }

    /// The problem that it tells; none for any other answer.
    pub fn problem(&self) -> Option<Problem> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A problem's code, or `deadline` or `unreachable` when no gateway said anything.
    pub code: String,
    /// A sentence.
    pub detail: String,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The trace, as the gateway names it.
    pub trace_id: Option<String>,
    /// Attempts made.
    pub attempts: u32,
}

/// Why a question about the ring (not about data) has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No gateway answered; ask again later.
    #[error("no gateway of {gateways} answered: {last}")]
    Unreachable {
        /// Which were asked.
        gateways: String,
        /// What the last one's connection said.
        last: String,
    },
    /// A gateway refused; the same question will be refused again.
    #[error("the gateway answered {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The problem's detail, or the body.
        detail: String,
    },
    /// The answer is not of the form that was asked for: this is no Everring gateway, or another version.
    #[error("the gateway's answer is not of the expected form: {0}")]
    NotUnderstood(String),
}

/// Attempts of one request at most; a deadline ends it sooner as a rule.
pub const ATTEMPTS_MAX: u32 = 32;
/// How long after its deadline a request still waits for the gateway's own typed answer about that deadline.
pub const GRACE: Duration = Duration::from_millis(100);
/// A gateway that does not take a connection within this time is treated as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a question about the ring may take at one gateway.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Every request earns a fifth of a retry, so that retries after refusals add at most 20 % load.
const BUDGET_EARNED_MILLI: i64 = 200;
/// A retry's price.
const BUDGET_RETRY_MILLI: i64 = 1_000;
/// What can be saved up: enough for a burst of refusals while a node dies.
const BUDGET_MAX_MILLI: i64 = 100_000;
/// The longest wait before a retry that follows a refusal.
const BACKOFF_MAX_MS: u64 = 100;

/// Unreserved characters (RFC 3986) and the slash, which is a key's own.
const KEY_PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The same for what is one segment of a path.
pub(crate) const NAME_PLAIN: &AsciiSet = &KEY_PLAIN.add(b'/');

/// A new request id: a UUIDv7, whose time tells the replicas when the request was first sent.
pub fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Request {
    /// A request with a new id, a deadline of one second, no condition and no trace.
    pub fn new(bucket: &str, key: &str, action: Action) -> Request {
        Request {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            action,
            condition: Condition::Always,
            fence: None,
            level: None,
            ttl_ms: None,
            token: None,
            request_id: request_id(),
            deadline: Duration::from_secs(1),
            context: TraceContext::NONE,
        }
    }

    /// The HTTP method.
    pub fn method(&self) -> &'static str {
        match self.action {
            Action::Get => "GET",
            Action::Put { .. } | Action::Acquire { .. } => "PUT",
            Action::Delete | Action::Release => "DELETE",
            Action::Add(_)
            | Action::Append(_)
            | Action::Insert(_)
            | Action::Remove(_)
            | Action::Set { .. }
            | Action::Unset { .. }
            | Action::Renew { .. } => "POST",
        }
    }

    fn is_read(&self) -> bool {
        self.action == Action::Get
    }

    /// The route, as the gateway's spans name it.
    pub fn route(&self) -> &'static str {
        match self.action {
            Action::Get
            | Action::Put { .. }
            | Action::Delete
            | Action::Add(_)
            | Action::Append(_)
            | Action::Insert(_)
            | Action::Remove(_)
            | Action::Set { .. }
            | Action::Unset { .. } => "/v1/kv/{bucket}/{key}",
            Action::Acquire { .. } | Action::Release => "/v1/locks/{name}",
            Action::Renew { .. } => "/v1/locks/{name}/renew",
        }
    }

    fn path_and_query(&self) -> String {
        let bucket = utf8_percent_encode(&self.bucket, KEY_PLAIN);
        let key = utf8_percent_encode(&self.key, KEY_PLAIN);
        let encoded = |field: &String| utf8_percent_encode(field, KEY_PLAIN).to_string();
        let change = match &self.action {
            Action::Add(by) => Some(format!("op=add&by={by}")),
            Action::Append(_) => Some("op=append".to_owned()),
            Action::Insert(_) => Some("op=add".to_owned()),
            Action::Remove(_) => Some("op=remove".to_owned()),
            Action::Set { field, .. } => Some(format!("op=add&field={}", encoded(field))),
            Action::Unset { field } => Some(format!("op=remove&field={}", encoded(field))),
            Action::Get | Action::Put { .. } | Action::Delete => None,
            Action::Acquire { .. } | Action::Renew { .. } | Action::Release => {
                let name = utf8_percent_encode(&self.key, NAME_PLAIN);
                let renew = if matches!(self.action, Action::Renew { .. }) { "/renew" } else { "" };
                return format!("/v1/locks/{name}{renew}");
            }
        };
        let level = self.level.map(|level| format!("consistency={}", level.name()));
        let ttl = self.ttl_ms.map(|ttl_ms| format!("ttl={ttl_ms}ms"));
        let query = change.into_iter().chain(level).chain(ttl).collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/v1/kv/{bucket}/{key}{mark}{query}")
    }
}

/// How one attempt at one gateway ended.
enum Attempt {
    Answered(Answer),
    /// A typed refusal. `acted` says whether the write may have had an effect all the same.
    Refused {
        failure: Failure,
        retryable: bool,
        acted: bool,
    },
    /// The connection was never made: nothing was sent.
    NotSent(String),
    /// Sent, and the connection broke or ran out of time.
    Lost(String),
}

/// What the attempts so far add up to.
struct Progress {
    attempts: u32,
    /// Whether some attempt may have had an effect without our being told.
    may_have_acted: bool,
    last: Failure,
    /// Gateways in a row that could not be reached or broke the connection.
    unreachable: u32,
}

impl GatewayClient {
    /// A client of these gateways (`host:port` or `http://host:port`), the first one preferred to begin with.
    ///
    /// # Errors
    /// No address is given, or the HTTP client cannot be built.
    pub fn new<S: AsRef<str>>(gateways: &[S]) -> Result<GatewayClient, AskError> {
        let unreachable = |last: String| AskError::Unreachable { gateways: "an empty list".to_owned(), last };
        if gateways.is_empty() {
            return Err(unreachable("no gateway address was given".to_owned()));
        }
        let plain = |address: &S| address.as_ref().trim_start_matches("http://").trim_end_matches('/').to_owned();
        // The gateways are named by address: a proxy from the environment would stand between us and what we measure.
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| unreachable(stdx::error_chain(&error)))?;
        Ok(GatewayClient {
            http,
            gateways: gateways.iter().map(plain).collect(),
            preferred: Arc::new(AtomicUsize::new(0)),
            budget_milli: Arc::new(AtomicI64::new(BUDGET_MAX_MILLI)),
        })
    }

    /// The gateways' addresses.
    pub fn gateways(&self) -> &[String] {
        &self.gateways
    }

    /// The same connections, with another first preference: spreads many clients over the gateways.
    pub fn preferring(&self, gateway: usize) -> GatewayClient {
        let preferred = Arc::new(AtomicUsize::new(gateway % self.gateways.len()));
        GatewayClient { preferred, ..self.clone() }
    }

    /// Sends a request until it is answered, surely failed, or its deadline (and [`GRACE`]) is over.
    pub async fn send(&self, request: &Request) -> Reply {
        let start = Instant::now();
        let deadline = start + request.deadline;
        let first = self.preferred.load(Ordering::Relaxed);
        self.earn();
        let mut progress = Progress::new(request);
        let mut running = FuturesUnordered::new();
        let mut next_at = Some(start);
        let mut hedge_at = (self.gateways.len() > 1).then_some(start + request.deadline / 2);
        loop {
            tokio::select! {
                biased;
                Some(attempt) = running.next(), if !running.is_empty() => {
                    match attempt {
                        Attempt::Answered(answer) => return Reply::Ok(answer),
                        other => next_at = self.weigh(&mut progress, other),
                    }
                }
                () = sleep_until(next_at), if next_at.is_some() => {
                    next_at = None;
                    let now = Instant::now();
                    if now < deadline && progress.attempts < ATTEMPTS_MAX {
                        let at = (first + progress.attempts as usize) % self.gateways.len();
                        progress.attempts += 1;
                        running.push(self.attempt(at, request, progress.attempts, deadline - now));
                    }
                }
                () = sleep_until(hedge_at), if hedge_at.is_some() => {
                    // Silence is no refusal: the first attempt keeps running, and the same id makes both act once.
                    hedge_at = None;
                    next_at = next_at.or_else(|| Some(Instant::now()));
                }
                () = tokio::time::sleep_until(deadline + GRACE) => {
                    progress.ran_out_of_time(!running.is_empty(), request);
                    return progress.end(request);
                }
            }
            if running.is_empty() && next_at.is_none() {
                return progress.end(request);
            }
        }
    }

    /// Reads a key.
    pub async fn get(&self, bucket: &str, key: &str) -> Reply {
        self.send(&Request::new(bucket, key, Action::Get)).await
    }

    /// Writes a key.
    pub async fn put(&self, bucket: &str, key: &str, value: Bytes) -> Reply {
        self.send(&Request::new(bucket, key, Action::Put { value, content_type: None })).await
    }

    /// Deletes a key.
    pub async fn delete(&self, bucket: &str, key: &str) -> Reply {
        self.send(&Request::new(bucket, key, Action::Delete)).await
    }

    /// Adds to a decimal integer.
    pub async fn add(&self, bucket: &str, key: &str, by: i64) -> Reply {
        self.send(&Request::new(bucket, key, Action::Add(by))).await
    }

    /// Appends bytes.
    pub async fn append(&self, bucket: &str, key: &str, tail: Bytes) -> Reply {
        self.send(&Request::new(bucket, key, Action::Append(tail))).await
    }

    /// Where a key lives: `GET /v1/route/{bucket}/{key}`, by the given lookup strategy or the gateway's own.
    ///
    /// # Errors
    /// No gateway answers, or the one that does refuses.
    pub async fn route(&self, bucket: &str, key: &str, lookup: Option<&str>) -> Result<RouteAnswer, AskError> {
        let bucket = utf8_percent_encode(bucket, KEY_PLAIN);
        let key = utf8_percent_encode(key, KEY_PLAIN);
        let query = lookup.map(|lookup| format!("?lookup={lookup}")).unwrap_or_default();
        self.ask(&format!("/v1/route/{bucket}/{key}{query}")).await
    }

    /// The ring as the gateway sees it: `GET /v1/ring`.
    ///
    /// # Errors
    /// No gateway answers, or the one that does refuses.
    pub async fn ring(&self) -> Result<RingAnswer, AskError> {
        self.ask("/v1/ring").await
    }

    /// What became of a write whose answer was lost: `GET /v1/requests/{id}`.
    ///
    /// # Errors
    /// No gateway answers, or the one that does refuses.
    pub async fn outcome(&self, request_id: &str) -> Result<Value, AskError> {
        self.ask(&format!("/v1/requests/{}", utf8_percent_encode(request_id, KEY_PLAIN))).await
    }

    /// Asks one gateway after another for an answer in JSON.
    ///
    /// # Errors
    /// No gateway answers, or the one that does refuses.
    pub async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = String::new();
        for step in 0..self.gateways.len() {
            let gateway = &self.gateways[(first + step) % self.gateways.len()];
            let sent = self.http.get(format!("http://{gateway}{path}")).timeout(ASK_TIMEOUT).send().await;
            let received = match sent {
                Ok(response) => (response.status(), response.bytes().await),
                Err(error) => {
                    last = stdx::error_chain(&error);
                    continue;
                }
            };
            match received {
                (status, Ok(body)) if status.is_success() => {
                    return serde_json::from_slice(&body).map_err(|error| AskError::NotUnderstood(error.to_string()));
                }
                (status, Ok(body)) => {
                    let detail = serde_json::from_slice::<Problem>(&body)
                        .map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |problem| problem.detail);
                    return Err(AskError::Refused { status: status.as_u16(), detail });
                }
                (_, Err(error)) => last = stdx::error_chain(&error),
            }
        }
        Err(AskError::Unreachable { gateways: self.gateways.join(", "), last })
    }

    /// Takes an attempt that was not answered into account; the time of the next one, if there is to be one.
    fn weigh(&self, progress: &mut Progress, attempt: Attempt) -> Option<Instant> {
        match attempt {
            Attempt::Answered(_) => None,
            Attempt::Refused { failure, retryable, acted } => {
                progress.unreachable = 0;
                progress.may_have_acted |= acted;
                progress.last = Failure { attempts: progress.attempts, ..failure };
                (retryable && self.spend()).then(|| Instant::now() + backoff(progress.attempts))
            }
            Attempt::NotSent(why) => Some(self.unreachable(progress, why)),
            Attempt::Lost(why) => {
                progress.may_have_acted = true;
                Some(self.unreachable(progress, why))
            }
        }
    }

    /// The next gateway at once; but once all of them were tried in vain, after a pause.
    fn unreachable(&self, progress: &mut Progress, why: String) -> Instant {
        progress.unreachable += 1;
        progress.last = Failure::unanswered("unreachable", why, progress.attempts);
        let now = Instant::now();
        if progress.unreachable as usize >= self.gateways.len() { now + backoff(progress.unreachable) } else { now }
    }

    async fn attempt(&self, at: usize, request: &Request, number: u32, left: Duration) -> Attempt {
        let gateway = &self.gateways[at];
        let url = format!("http://{gateway}{}", request.path_and_query());
        let method = match request.method() {
            "GET" => Method::GET,
            "PUT" => Method::PUT,
            "DELETE" => Method::DELETE,
            _ => Method::POST,
        };
        let mut call = self.http.request(method, url).headers(headers_of(request, number, left));
        match &request.action {
            Action::Put { value, .. }
            | Action::Set { value, .. }
            | Action::Append(value)
            | Action::Insert(value)
            | Action::Remove(value) => call = call.body(value.clone()),
            Action::Acquire { owner, ttl_ms, wait_ms } => {
                let words = serde_json::json!({ "owner": owner, "ttl_ms": ttl_ms, "wait_ms": wait_ms });
                call = call.body(words.to_string());
            }
            Action::Renew { ttl_ms } => call = call.body(serde_json::json!({ "ttl_ms": ttl_ms }).to_string()),
            Action::Get | Action::Delete | Action::Add(_) | Action::Unset { .. } | Action::Release => {}
        }
        let response = match call.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Attempt::NotSent(stdx::error_chain(&error)),
            Err(error) => return Attempt::Lost(stdx::error_chain(&error)),
        };
        let status = response.status();
        let headers = response.headers().clone();
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return Attempt::Lost(stdx::error_chain(&error)),
        };
        self.preferred.store(at, Ordering::Relaxed);
        read_answer(request, gateway, number, status, &headers, body)
    }

    fn earn(&self) {
        let saved = self.budget_milli.load(Ordering::Relaxed);
        // Two threads may both add at the cap; the overshoot is a fraction of one retry.
        if saved < BUDGET_MAX_MILLI {
            self.budget_milli.fetch_add(BUDGET_EARNED_MILLI, Ordering::Relaxed);
        }
    }

    fn spend(&self) -> bool {
        let before = self.budget_milli.fetch_sub(BUDGET_RETRY_MILLI, Ordering::Relaxed);
        if before < BUDGET_RETRY_MILLI {
            self.budget_milli.fetch_add(BUDGET_RETRY_MILLI, Ordering::Relaxed);
        }
        before >= BUDGET_RETRY_MILLI
    }
}

impl Progress {
    fn new(request: &Request) -> Progress {
        let last = Failure::unanswered("deadline", format!("no answer within {:?}", request.deadline), 0);
        Progress { attempts: 0, may_have_acted: false, last, unreachable: 0 }
    }

    fn ran_out_of_time(&mut self, in_flight: bool, request: &Request) {
        if in_flight {
            self.may_have_acted = true;
            let detail = format!("no answer within {:?}", request.deadline);
            self.last = Failure::unanswered("deadline", detail, self.attempts);
        }
    }

    /// A read that got no answer surely had no effect; a write only if no attempt of it can have arrived.
    fn end(self, request: &Request) -> Reply {
        if self.may_have_acted && !request.is_read() { Reply::Unknown(self.last) } else { Reply::Failed(self.last) }
    }
}

impl Failure {
    fn unanswered(code: &str, detail: String, attempts: u32) -> Failure {
        Failure { code: code.to_owned(), detail, status: None, trace_id: None, attempts }
    }
}

fn headers_of(request: &Request, number: u32, left: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: String| {
        // What is no header value (a control character in an id) is left out: the gateway then refuses or does without.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put(header::REQUEST_ID, request.request_id.clone());
    put(header::ATTEMPT, number.to_string());
    put(header::DEADLINE_MS, left.as_millis().max(1).to_string());
    if let Some(token) = &request.token {
        put(header::TOKEN, token.clone());
    }
    if request.context.is_some() {
        put("traceparent", request.context.to_string());
    }
    match &request.condition {
        Condition::Always => {}
        Condition::Matches(etag) => put("if-match", etag.clone()),
        Condition::Exists => put("if-match", "*".to_owned()),
        Condition::Absent => put("if-none-match", "*".to_owned()),
    }
    if let Some(fence) = request.fence {
        put(header::FENCE, fence.to_string());
    }
    if let Action::Put { content_type, .. } = &request.action {
        put("content-type", content_type.clone().unwrap_or_else(|| "application/octet-stream".to_owned()));
    }
    headers
}

fn read_answer(
    request: &Request,
    gateway: &str,
    attempts: u32,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> Attempt {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    // A problem in JSON, whatever its media type says; a success has none.
    let problem = (!status.is_success()).then(|| serde_json::from_slice::<Problem>(&body).ok()).flatten();
    let code = problem.as_ref().map_or_else(|| format!("http-{}", status.as_u16()), |problem| problem.code.clone());
    let takes = matches!(request.action, Action::Acquire { .. } | Action::Renew { .. });
    let seen = match (request.is_read(), status.as_u16(), code.as_str()) {
        (_, 200, _) if takes => Some(Seen::Granted),
        (_, 409, "held") if takes => Some(Seen::Held),
        (true, 200 | 206, _) => Some(Seen::Found),
        (true, 300, _) => Some(Seen::Siblings),
        (true, 404, "no-such-key") => Some(Seen::Absent),
        (false, 201, _) => Some(Seen::Created),
        // 202: a stand-in keeps it, who does not know the new value.
        (false, 200 | 202, _) => Some(Seen::Replaced),
        (false, 204, _) => Some(Seen::Deleted),
        (false, 412, "condition-failed") => Some(Seen::ConditionFailed),
        (false, 412, "fenced-off") => Some(Seen::FencedOff),
        _ => None,
    };
    let trace_id = text(header::TRACE_ID);
    if let Some(seen) = seen {
        return Attempt::Answered(Answer {
            seen,
            status: status.as_u16(),
            etag: text("etag"),
            body,
            content_type: text("content-type"),
            receipt: text(header::RECEIPT).and_then(|receipt| receipt.parse().ok()),
            token: text(header::TOKEN),
            trace_id,
            gateway: gateway.to_owned(),
            attempts,
        });
    }
    // Who does not say `not-done` may have done it; only a refusal of the request itself (4xx) never has.
    let acted = match problem.as_ref().and_then(|problem| problem.outcome) {
        Some(outcome) => outcome != WriteOutcome::NotDone,
        None => !status.is_client_error(),
    };
    let retryable = problem.as_ref().map_or(status == StatusCode::SERVICE_UNAVAILABLE, |problem| problem.retryable);
    let detail = problem.map_or_else(String::new, |problem| problem.detail);
    let failure = Failure { code, detail, status: Some(status.as_u16()), trace_id, attempts };
    Attempt::Refused { failure, retryable, acted }
}

/// One of several values that a key of an available bucket shows side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// The value.
    pub value: Bytes,
    /// Its `ETag`: a write on it replaces this value alone. The answer's own covers them all.
    pub etag: String,
}

/// The values in the body of an answer with [`Seen::Siblings`].
///
/// # Errors
/// The body is not of that form.
pub fn siblings(body: &[u8]) -> Result<Vec<Sibling>, AskError> {
    let wrong = |why: String| AskError::NotUnderstood(format!("siblings: {why}"));
    let body: Value = serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    let listed = body["siblings"].as_array().ok_or_else(|| wrong("there is no list of them".to_owned()))?;
    listed
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().ok_or_else(|| wrong(format!("one has no `{name}`")));
            let value = BASE64.decode(text("value")?).map_err(|error| wrong(error.to_string()))?;
            Ok(Sibling { value: Bytes::from(value), etag: text("etag")?.to_owned() })
        })
        .collect()
}

/// The elements of a set, from the body of a read.
///
/// # Errors
/// The body is not of the expected form.
pub fn elements(body: &[u8]) -> Result<Vec<Bytes>, AskError> {
    let wrong = |why: String| AskError::NotUnderstood(format!("elements: {why}"));
    let body: Value = serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    let listed = body["elements"].as_array().ok_or_else(|| wrong("there is no list of them".to_owned()))?;
    let element = |one: &Value| BASE64.decode(one.as_str().unwrap_or("-")).map(Bytes::from);
    listed.iter().map(element).collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))
}

/// Full jitter: a random wait below a bound that doubles with each attempt.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let bound_ms = (4u64 << attempt.min(8)).min(BACKOFF_MAX_MS);
    Duration::from_micros(rand::random_range(0..=bound_ms * 1_000))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
