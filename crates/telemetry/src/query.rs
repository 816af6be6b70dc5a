//! A client of Jaeger's query API (`/api/traces`), of a real Jaeger v2 or of [`crate::sink`].

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

mod waterfall;

pub use waterfall::render_waterfall;

/// Asks for traces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TraceQuery {
    http: reqwest::Client,
    base_url: String,
}

/// Why there was no answer. Nothing has changed anywhere; asking again is harmless.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The query service was not reached, or did not answer in time.
    #[error("the trace store at {url} gave no answer")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It answered with a refusal.
    #[error("the trace store at {url} refused with {status}: {body}")]
    Refused {
        /// What was asked.
        url: String,
        /// Its status.
        status: StatusCode,
        /// The beginning of what it said.
        body: String,
    },
    /// It answered something that is not Jaeger's JSON.
    #[error("the trace store at {url} answered what is no trace; is it a Jaeger?")]
    Unreadable {
        /// What was asked.
        url: String,
        /// Where the reading failed.
        source: serde_json::Error,
    },
}

/// What to look for. A trace is found if one of its spans fits in every respect.
#[derive(Clone, Debug)]
pub struct Search {
    /// The span's service; required.
    pub service: String,
    /// The span's name.
    pub operation: Option<String>,
    /// Tags that the span, or its process, must have.
    pub tags: BTreeMap<String, String>,
    /// The span starts not before this, in microseconds since 1970.
    pub start_us: u64,
    /// And not after this.
    pub end_us: u64,
    /// The span took at least this long.
    pub duration_min: Option<Duration>,
    /// At most this many traces, the youngest first. Default 1,000.
    pub limit: usize,
}

impl Search {
    /// All traces that `service` took part in between the two times, in microseconds since 1970.
    pub fn new(service: impl Into<String>, start_us: u64, end_us: u64) -> Search {
        Search {
            service: service.into(),
            operation: None,
            tags: BTreeMap::new(),
            start_us,
            end_us,
            duration_min: None,
            limit: 1_000,
        }
    }

    /// Asks for a tag too.
    pub fn tag(mut self, key: impl Into<String>, value: impl ToString) -> Search {
        self.tags.insert(key.into(), value.to_string());
        self
    }
}

/// One request's spans, as far as they came in, by their start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The trace id.
    pub id: u128,
    /// Its spans. A span whose parent is not among them lost it with a killed process, or it has not come yet.
    pub spans: Vec<Span>,
}

/// One step of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The span's id.
    pub id: u64,
    /// The id of the span that caused it; none for a root.
    pub parent: Option<u64>,
    /// The span's name.
    pub name: String,
    /// `service.name` of its process.
    pub service: String,
    /// `service.instance.id` of its process; empty when it has none.
    pub instance: String,
    /// When it began, in microseconds since 1970 by its own machine's clock.
    pub start_us: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// `client`, `server`, `internal`, `producer`, `consumer`, or empty.
    pub kind: String,
    /// Its attributes as text, without `span.kind`.
    pub tags: BTreeMap<String, String>,
    /// Its links: trace id and span id.
    pub refs: Vec<(u128, u64)>,
    /// Whether it is marked as failed.
    pub error: bool,
}

impl TraceQuery {
    /// `base_url` is where `/api/traces` begins, such as `http://127.0.0.1:16686`.
    pub fn new(base_url: impl Into<String>) -> TraceQuery {
        // No setting of this client can fail (it has no TLS), and the plain one serves as well.
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().unwrap_or_default();
        TraceQuery { http, base_url: base_url.into().trim_end_matches('/').to_string() }
    }

    /// The trace, or none when the store does not have it (yet: spans take up to a second to arrive).
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn trace(&self, trace_id: u128) -> Result<Option<Trace>, QueryError> {
        let url = format!("{}/api/traces/{trace_id:032x}", self.base_url);
        match self.get(&url, &[]).await {
            Ok(traces) => Ok(traces.into_iter().find(|trace| trace.id == trace_id)),
            Err(QueryError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The traces that fit.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn find(&self, search: &Search) -> Result<Vec<Trace>, QueryError> {
        let url = format!("{}/api/traces", self.base_url);
        let mut parameters = vec![
            ("service", search.service.clone()),
            ("start", search.start_us.to_string()),
            ("end", search.end_us.to_string()),
            ("limit", search.limit.to_string()),
        ];
        parameters.extend(search.operation.clone().map(|operation| ("operation", operation)));
        parameters.extend(search.duration_min.map(|min| ("minDuration", format!("{}us", min.as_micros()))));
        if !search.tags.is_empty() {
            let tags: serde_json::Map<String, Value> =
                search.tags.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
            parameters.push(("tags", Value::Object(tags).to_string()));
        }
        self.get(&url, &parameters).await
    }

    /// The services that the store knows, sorted.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn services(&self) -> Result<Vec<String>, QueryError> {
        let url = format!("{}/api/services", self.base_url);
        let body = self.body(&url, &[]).await?;
        let answer: Answer<String> =
            serde_json::from_slice(&body).map_err(|source| QueryError::Unreadable { url, source })?;
        let mut services = answer.data.unwrap_or_default();
        services.sort();
        Ok(services)
    }

    async fn get(&self, url: &str, parameters: &[(&str, String)]) -> Result<Vec<Trace>, QueryError> {
        let body = self.body(url, parameters).await?;
        let answer: Answer<JaegerTrace> =
            serde_json::from_slice(&body).map_err(|source| QueryError::Unreadable { url: url.to_string(), source })?;
        Ok(answer.data.unwrap_or_default().into_iter().map(Trace::from).collect())
    }

    async fn body(&self, url: &str, parameters: &[(&str, String)]) -> Result<Vec<u8>, QueryError> {
        let unreachable = |source| QueryError::Unreachable { url: url.to_string(), source };
        let answer = self.http.get(url).query(parameters).send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let body = String::from_utf8_lossy(&body).chars().take(REFUSAL_CHARS_MAX).collect();
        Err(QueryError::Refused { url: url.to_string(), status, body })
    }
}

impl Trace {
    /// The span that began the request: the first of those that have no parent, else of those whose parent is missing.
    pub fn root(&self) -> Option<&Span> {
        let without_parent = self.spans.iter().find(|span| span.parent.is_none());
        without_parent.or_else(|| self.spans.iter().find(|span| self.parent_is_missing(span)))
    }

    /// The spans that `span` caused, by their start.
    pub fn children(&self, span: &Span) -> impl Iterator<Item = &Span> {
        let id = span.id;
        self.spans.iter().filter(move |child| child.parent == Some(id) && child.id != id)
    }

    /// The span of this id.
    pub fn span(&self, id: u64) -> Option<&Span> {
        self.spans.iter().find(|span| span.id == id)
    }

    /// Whether the span names a parent that did not come in.
    pub fn parent_is_missing(&self, span: &Span) -> bool {
        span.parent.is_some_and(|parent| self.span(parent).is_none())
    }

    /// From the first start to the last end, in microseconds.
    pub fn duration_us(&self) -> u64 {
        let end = self.spans.iter().map(Span::end_us).max().unwrap_or(0);
        end.saturating_sub(self.start_us())
    }

    /// When its first span began, in microseconds since 1970.
    pub fn start_us(&self) -> u64 {
        self.spans.iter().map(|span| span.start_us).min().unwrap_or(0)
    }
}

impl Span {
    /// An attribute of [`crate::names`], as text.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.get(key).map(String::as_str)
    }

    /// When it ended, in microseconds since 1970.
    pub fn end_us(&self) -> u64 {
        self.start_us.saturating_add(self.duration_us)
    }
}

/// Reads a hex id of 1 to `digits_max` digits: Jaeger has left out leading zeros at times.
pub(crate) fn parse_id(hex: &str, digits_max: usize) -> Option<u128> {
    let well_formed = !hex.is_empty() && hex.len() <= digits_max && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    well_formed.then(|| u128::from_str_radix(hex, 16).ok()).flatten()
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<Vec<T>>,
}

#[derive(Deserialize)]
struct JaegerTrace {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<JaegerSpan>,
    processes: BTreeMap<String, JaegerProcess>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerSpan {
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: String,
    #[serde(default)]
    references: Vec<JaegerReference>,
    start_time: u64,
    duration: u64,
    #[serde(default)]
    tags: Vec<JaegerTag>,
    #[serde(rename = "processID")]
    process_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerReference {
    ref_type: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerProcess {
    service_name: String,
    #[serde(default)]
    tags: Vec<JaegerTag>,
}

#[derive(Deserialize)]
struct JaegerTag {
    key: String,
    value: Value,
}

impl JaegerTag {
    fn text(&self) -> String {
        match &self.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

impl From<JaegerTrace> for Trace {
    fn from(jaeger: JaegerTrace) -> Trace {
        let id = parse_id(&jaeger.trace_id, 32).unwrap_or(0);
        let mut spans: Vec<Span> = jaeger.spans.iter().map(|span| read_span(id, span, &jaeger.processes)).collect();
        spans.sort_by_key(|span| (span.start_us, span.id));
        Trace { id, spans }
    }
}

fn read_span(trace_id: u128, span: &JaegerSpan, processes: &BTreeMap<String, JaegerProcess>) -> Span {
    let reference = |reference: &JaegerReference| {
        (parse_id(&reference.trace_id, 32).unwrap_or(0), parse_id(&reference.span_id, 16).unwrap_or(0) as u64)
    };
    let mut parent = None;
    let mut refs = Vec::new();
    for given in &span.references {
        let (of_trace, id) = reference(given);
        // Jaeger shows a link as a reference too; the parent is the first child-of within the trace.
        if given.ref_type == "CHILD_OF" && of_trace == trace_id && parent.is_none() {
            parent = Some(id);
        } else {
            refs.push((of_trace, id));
        }
    }
    let mut tags: BTreeMap<String, String> = span.tags.iter().map(|tag| (tag.key.clone(), tag.text())).collect();
    let process = processes.get(&span.process_id);
    let instance = process.and_then(|process| process.tags.iter().find(|tag| tag.key == INSTANCE));
    Span {
        id: parse_id(&span.span_id, 16).unwrap_or(0) as u64,
        parent,
        name: span.operation_name.clone(),
        service: process.map(|process| process.service_name.clone()).unwrap_or_default(),
        instance: instance.map(JaegerTag::text).unwrap_or_default(),
        start_us: span.start_time,
        duration_us: span.duration,
        kind: tags.remove("span.kind").unwrap_or_default(),
        refs,
        error: tags.get("error").is_some_and(|error| error == "true")
            || tags.get("otel.status_code").is_some_and(|code| code == "ERROR"),
        tags,
    }
}

const INSTANCE: &str = crate::names::SERVICE_INSTANCE_ID;
/// A store that takes longer is as good as absent: the check that asks has a deadline of its own.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is quoted of a refusal.
const REFUSAL_CHARS_MAX: usize = 300;
