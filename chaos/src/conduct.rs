//! One recorded and traced request: the span around it, its line in the history before and after, and what it found.

use std::time::Duration;

use bytes::Bytes;
use client::gateway::{
    Action, Answer, Condition, Failure, GatewayClient, Reply, Request, Seen, elements, request_id, siblings,
};
use stdx::TraceContext;
use telemetry::{KeyValue, SpanKind, names, spans};
use wire::http::Level;

use crate::acknowledged::Held;
use crate::history_file::Values;
use crate::operation::Kind;
use crate::recorder::{Details, Finding, Question, Recorder};
use crate::workload::Ask;

/// The bucket that the verifier and the replay use.
pub const BUCKET: &str = "records";
/// The bucket of what is asked below level sequential: one of those that always exist.
pub const AVAILABLE: &str = "sessions";

/// How a value stands in the history: as it is, or by a digest where it is large.
pub trait Shown: Send + Sync {
    /// What a read body is called in the history. Must differ for different values, and must be the name under which
    /// its write was recorded.
    fn shown(&self, key: &str, body: &Bytes) -> String;
}

/// Values that are their own names.
pub struct Plain;

/// A request to conduct.
pub struct Conduct<'a> {
    /// Who asks.
    pub process: u64,
    /// The key.
    pub key: &'a str,
    /// What; values by their names in the history.
    pub ask: &'a Ask,
    /// The body of a write, if it differs from its name in the history.
    pub body: Option<Bytes>,
    /// The fencing token of a write under a lock.
    pub fence: Option<u64>,
    /// How long its client waits.
    pub deadline: Duration,
    /// Where, and at which level.
    pub place: Place<'a>,
}

/// Which bucket a request is about, at which level, and of which session.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// What its values are.
    pub values: Values,
    /// The level that the history holds the request to.
    pub level: Level,
    /// The level that is asked for, the same or a stronger one.
    pub asked: Level,
    /// The session's token.
    pub token: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// Strict requests, each by itself.
    pub const STRICT: Place<'static> = Place::of(Level::Strict, None);

    /// Requests on registers at a level, in the bucket that keeps it.
    pub const fn of(level: Level, token: Option<&'a str>) -> Place<'a> {
        let bucket = match level {
            Level::Strict | Level::Sequential => BUCKET,
            Level::Causal | Level::Eventual => AVAILABLE,
        };
        Place { bucket, values: Values::Registers, level, asked: level, token }
    }

    /// How the history names a key.
    fn key(&self, key: &str) -> String {
        if self.bucket == BUCKET { key.to_owned() } else { format!("{}/{key}", self.bucket) }
    }
}

/// How it went.
pub struct Conducted {
    /// What it found.
    pub finding: Finding,
    /// The version that the key has now, as far as the answer told.
    pub etag: Option<String>,
    /// The process number to go on with.
    pub process: u64,
    /// Its trace, 32 hex digits.
    pub trace_id: String,
    /// The session's token from now on, as far as the answer told.
    pub token: Option<String>,
    /// How long its client waited.
    pub latency: Duration,
    /// The size of the answer's body.
    pub body_bytes: u64,
}

impl Shown for Plain {
    fn shown(&self, _key: &str, body: &Bytes) -> String {
        String::from_utf8_lossy(body).into_owned()
    }
}

/// Sends one request and records it.
pub async fn conduct(recorder: &Recorder, client: &GatewayClient, shown: &dyn Shown, what: Conduct<'_>) -> Conducted {
    let (kind, old, new, action, condition) = parts(what.ask, what.body);
    let Place { bucket, values, level, asked, token } = what.place;
    let (fence, deadline) = (what.fence, what.deadline);
    let mut request = Request { condition, fence, deadline, ..Request::new(bucket, what.key, action) };
    request.level = named(asked, *what.ask == Ask::Read);
    request.token = token.map(str::to_owned);
    let span = begin_span(&mut request, what.process);
    let trace_id = telemetry::context::trace_id_hex(request.context);
    let asked = recorder.ask(Question {
        process: what.process,
        kind,
        values,
        level,
        key: what.place.key(what.key),
        old,
        new,
        trace_id: trace_id.clone(),
        request_id: request.request_id.clone(),
    });
    let sent = tokio::time::Instant::now();
    let reply = client.send(&request).await;
    let latency = sent.elapsed();
    end_span(span, &reply, recorder);
    let finding = finding_of(kind, &reply, |answer| match (values, level) {
        (Values::Registers, Level::Strict | Level::Sequential) => {
            Some(Finding::Held((answer.seen == Seen::Found).then(|| shown.shown(what.key, &answer.body))))
        }
        (Values::Registers, Level::Causal | Level::Eventual) => side_by_side(answer),
        (Values::Sets, _) => set(answer),
        (Values::Counters, _) => counter(answer),
    });
    let token = match &reply {
        Reply::Ok(answer) => answer.token.clone(),
        Reply::Failed(_) | Reply::Unknown(_) => None,
    };
    let (etag, body_bytes, details) = match reply {
        Reply::Ok(answer) => {
            let details = Details { status: Some(answer.status), receipt: answer.receipt, ..details(what.deadline) };
            (answer.etag, answer.body.len() as u64, details)
        }
        Reply::Failed(Failure { code, status, .. }) | Reply::Unknown(Failure { code, status, .. }) => {
            (None, 0, Details { code: Some(code), status, ..details(what.deadline) })
        }
    };
    let process = recorder.answer(asked, &finding, details);
    Conducted { finding, etag, process, trace_id, token, latency, body_bytes }
}

/// What `?consistency=` says: nothing where there is but one level.
pub(crate) fn named(level: Level, is_read: bool) -> Option<Level> {
    let is_offered = match level {
        Level::Strict => false,
        Level::Sequential => is_read,
        Level::Causal | Level::Eventual => true,
    };
    is_offered.then_some(level)
}

/// Begins the span of a request, and has the request carry it.
pub(crate) fn begin_span(request: &mut Request, process: u64) -> spans::LiveSpan {
    let (method, route) = (request.method(), request.route());
    let attributes = [
        KeyValue::new(names::HTTP_REQUEST_METHOD, method),
        KeyValue::new(names::HTTP_ROUTE, route),
        KeyValue::new(names::PROCESS, i64::try_from(process).unwrap_or(i64::MAX)),
    ];
    let span = spans::start(SpanKind::Client, names::http_span(method, route), TraceContext::NONE, attributes);
    request.context = span.context();
    span
}

/// Ends it with what came of the request.
pub(crate) fn end_span(mut span: spans::LiveSpan, reply: &Reply, recorder: &Recorder) {
    describe(&mut span, reply);
    if let Some(fault) = recorder.fault_in_force() {
        // A store that keeps a sample keeps this trace: the proof of the fault will ask for it.
        span.set(names::CHAOS_FAULT_ID, i64::try_from(fault).unwrap_or(i64::MAX));
    }
    span.end();
}

/// A request outside the history and outside every trace: its context is valid and not sampled, so that a tight loop
/// does not crowd the recorded requests' spans out of the exporters' queues.
pub fn unsampled(action: Action, key: &str, condition: Condition, deadline: Duration) -> Request {
    let mut request = Request { condition, deadline, ..Request::new(BUCKET, key, action) };
    request.request_id = request_id();
    // The request id is random enough to name a trace that nobody keeps.
    let digits: String = request.request_id.chars().filter(char::is_ascii_hexdigit).collect();
    let trace_id = u128::from_str_radix(&digits, 16).unwrap_or(1);
    request.context = TraceContext { trace_id, span_id: (trace_id as u64).max(1), flags: 0 };
    request
}

fn details(deadline: Duration) -> Details {
    Details { deadline, ..Details::default() }
}

fn parts(ask: &Ask, body: Option<Bytes>) -> (Kind, Held, Held, Action, Condition) {
    let put = |name: &String| Action::Put {
        value: body.clone().unwrap_or_else(|| Bytes::from(name.clone())),
        content_type: None,
    };
    match ask {
        Ask::Read => (Kind::Read, None, None, Action::Get, Condition::Always),
        Ask::Write(new) => (Kind::Write, None, Some(new.clone()), put(new), Condition::Always),
        Ask::Cas { etag, old, new } => {
            let condition = etag.clone().map_or(Condition::Absent, Condition::Matches);
            (Kind::Cas, old.clone(), Some(new.clone()), put(new), condition)
        }
        Ask::Delete => (Kind::Delete, None, None, Action::Delete, Condition::Always),
        Ask::Insert(element) => {
            let insert = Action::Insert(Bytes::from(element.clone()));
            (Kind::Add, None, Some(element.clone()), insert, Condition::Always)
        }
        Ask::Add(by) => (Kind::Add, None, Some(by.to_string()), Action::Add(*by), Condition::Always),
    }
}

/// What a request found; `shown` tells what the answer to a read means. One that cannot be read has shown nothing; the
/// count of failures has it.
fn finding_of(kind: Kind, reply: &Reply, shown: impl Fn(&Answer) -> Option<Finding>) -> Finding {
    match reply {
        Reply::Failed(_) => Finding::Failed,
        Reply::Unknown(_) => Finding::Unknown,
        Reply::Ok(answer) if kind == Kind::Read => shown(answer).unwrap_or(Finding::Failed),
        Reply::Ok(answer) => match answer.seen {
            Seen::ConditionFailed => Finding::NotApplied,
            Seen::FencedOff => Finding::FencedOff,
            _ => Finding::Applied,
        },
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Values that stay side by side.
fn side_by_side(answer: &Answer) -> Option<Finding> {
    Some(Finding::Shown(match answer.seen {
        Seen::Found => vec![text(&answer.body)],
        Seen::Siblings => siblings(&answer.body).ok()?.iter().map(|one| text(&one.value)).collect(),
        _ => Vec::new(),
    }))
}

/// What two answers to a read have in common if they show the same.
pub(crate) fn identity(values: Values, answer: Answer) -> (Option<String>, Option<Finding>) {
    match values {
        // Siblings have no order that all replicas share, but their ETag names what they are.
        Values::Registers => (answer.etag, None),
        Values::Sets => (None, set(&answer)),
        Values::Counters => (None, counter(&answer)),
    }
}

/// The elements of a set, in an order that does not depend on who answers.
fn set(answer: &Answer) -> Option<Finding> {
    let mut shown: Vec<String> = match answer.seen {
        Seen::Found => elements(&answer.body).ok()?.iter().map(text).collect(),
        _ => Vec::new(),
    };
    shown.sort();
    Some(Finding::Shown(shown))
}

/// The number of a counter.
fn counter(answer: &Answer) -> Option<Finding> {
    Some(Finding::Number(match answer.seen {
        Seen::Found => text(&answer.body).parse().ok()?,
        _ => 0,
    }))
}

fn describe(span: &mut spans::LiveSpan, reply: &Reply) {
    match reply {
        Reply::Ok(answer) => {
            span.set(names::HTTP_RESPONSE_STATUS_CODE, i64::from(answer.status));
            span.set(names::OUTCOME, "done");
            if answer.attempts > 1 {
                // A retried and survived attempt is not an error of the whole.
                span.set(names::HTTP_REQUEST_RESEND_COUNT, i64::from(answer.attempts - 1));
            }
        }
        Reply::Failed(failure) | Reply::Unknown(failure) => {
            if let Some(status) = failure.status {
                span.set(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
            }
            let outcome = if matches!(reply, Reply::Failed(_)) { "not-done" } else { "unknown" };
            span.set(names::OUTCOME, outcome);
            span.fail(failure.code.clone());
        }
    }
}
