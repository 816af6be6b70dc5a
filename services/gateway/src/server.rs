//! The HTTP server's side of a request: its span, its place, its trace id, and the way to its handler.

use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::{self, Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use stdx::Instant;
use telemetry::spans::{self, LiveSpan};
use telemetry::{KeyValue, SpanKind, context, names};
use wire::http::{ProblemCode, header};

use crate::gateway::{Gateway, Phase};
use crate::pages;
use crate::problem::Refuse;
use crate::records::{Head, Incoming, Upload};
use crate::routes::{self, Call, Verb};
use crate::words;

/// The most that a request's headers may hold together, in bytes. The server itself cuts off at 128 KiB.
const HEADERS_MAX_BYTES: usize = 16 << 10;

/// Adds every path of the gateway but those of `telemetry::ops`.
///
/// All lead to one handler, which reads the raw path by itself; the patterns are only for the figures by route.
pub fn configure(config: &mut ServiceConfig) {
    for pattern in [
        "/v1/buckets",
        "/v1/buckets/{bucket}",
        "/v1/kv/{bucket}",
        "/v1/kv/{bucket}/{key}*",
        "/v1/backup/{bucket}",
        "/v1/batch",
        "/v1/requests/{id}",
        "/v1/locks/{name}",
        "/v1/locks/{name}/renew",
        "/v1/ring",
        "/v1/route/{bucket}/{key}*",
        "/problems/{code}",
        "/openapi.json",
        "/docs",
    ] {
        config.service(web::resource(pattern).default_service(web::to(answer)));
    }
    config.default_service(web::to(answer));
}

/// Answers any request; nothing that goes wrong leaves here untyped.
async fn answer(request: HttpRequest, body: Payload, gateway: Data<Gateway>) -> HttpResponse {
    let started = gateway.clock.now();
    let call = routes::parse(request.method().as_str(), request.uri().path());
    let mut span = start_span(&request, &call);
    let context = span.context();
    let trace_id = context::trace_id_hex(context);
    let result = match call {
        Ok(call) => in_place(&gateway, &request, call, Upload::Stream(body), &mut span, started).await,
        Err(refuse) => Err(refuse),
    };
    let refused = result.as_ref().err().map(Refuse::code);
    let mut response = result.unwrap_or_else(|refuse| refuse.into_response(&trace_id));
    let took = gateway.clock.now().since(started);
    let headers = response.headers_mut();
    put(headers, header::TRACE_ID, &trace_id);
    put(headers, header::SERVER_TIMING, &format!("total;dur={:.3}", took.as_secs_f64() * 1e3));
    if gateway.phase() >= Phase::Draining {
        // Whoever keeps connections open hears now, and not by a reset later, that this one ends.
        put(headers, "connection", "close");
    }
    end_span(span, response.status().as_u16(), refused);
    response
}

/// Makes a typed problem of what the framework refuses by itself, such as a wrong method on `/livez`. Wrap it around
/// the whole app.
///
/// # Errors
/// Those of the services inside, of which ours have none.
pub async fn typed<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let parent = context::extract(request.headers());
    let answer = next.call(request).await?;
    let status = answer.status();
    let refused = status.is_client_error() || status.is_server_error();
    let ours = answer.headers().contains_key(CONTENT_TYPE) && answer.response().error().is_none();
    if !refused || ours {
        return Ok(answer.map_into_boxed_body());
    }
    let refuse = match status.as_u16() {
        404 => Refuse::new(ProblemCode::NoSuchPath, "nothing is at this path; `/docs` lists what there is"),
        405 => Refuse::new(ProblemCode::Method, "this path takes GET").header("allow", "GET"),
        413 => Refuse::new(ProblemCode::ValueTooLarge, "the body is larger than this path takes"),
        500.. => Refuse::new(ProblemCode::Overloaded, "the request could not be served now; try again"),
        _ => Refuse::bad_request("the request is not understood; `/docs` lists the calls"),
    };
    let span = spans::start(SpanKind::Server, "_OTHER", parent, []);
    let trace_id = context::trace_id_hex(span.context());
    let mut response = refuse.clone().into_response(&trace_id);
    put(response.headers_mut(), header::TRACE_ID, &trace_id);
    end_span(span, response.status().as_u16(), Some(refuse.code()));
    Ok(answer.into_response(response))
}

/// Takes a place among the requests in progress, and hands the call to its handler.
async fn in_place(
    gateway: &Gateway,
    request: &HttpRequest,
    call: Call,
    body: Upload,
    span: &mut LiveSpan,
    started: Instant,
) -> Result<HttpResponse, Refuse> {
    let context = span.context();
    let writes = match &call {
        Call::Record(verb, ..) | Call::Bucket(verb, _) | Call::Lock(verb, _) => verb.writes(),
        Call::LockRenewal(_) | Call::Batch => true,
        _ => false,
    };
    let admit = || {
        check_headers(request.headers())?;
        let deadline = started + patience(words::deadline_ms(request.headers())?);
        Ok((gateway.enter()?, deadline))
    };
    let (_place, deadline) =
        admit().map_err(|refuse: Refuse| if writes { refuse.outcome_or_not_done() } else { refuse })?;
    let head = Head::of(request);
    let mut incoming = Incoming { gateway, request: head, span, context, deadline, session: None };
    match call {
        Call::Record(verb, bucket, key) => incoming.record(verb, &bucket, &key, body).await,
        Call::List(bucket) => incoming.list(&bucket).await,
        Call::Backup(bucket) => incoming.backup(&bucket).await,
        Call::Batch => incoming.batch(body).await.map_err(Refuse::outcome_or_not_done),
        Call::Buckets => incoming.buckets().await,
        Call::Bucket(verb, name) => incoming.bucket(verb, &name, body).await,
        Call::Request(id) => incoming.outcome(&id).await,
        Call::Lock(verb, name) => incoming.lock(verb, &name, body).await,
        Call::LockRenewal(name) => incoming.renew_lock(&name, body).await,
        Call::Ring => incoming.ring().await,
        Call::Route(bucket, key) => incoming.route(&bucket, &key).await,
        Call::ProblemPage(code) => pages::problem(&code),
        Call::OpenApi => Ok(pages::openapi()),
        Call::Docs => Ok(pages::docs()),
    }
}

/// How long we work on a request whose client waits `deadline_ms`: a little less, so that the answer is there in time.
fn patience(deadline_ms: u32) -> Duration {
    let whole = Duration::from_millis(u64::from(deadline_ms));
    whole - (whole / 20).min(Duration::from_millis(20))
}

fn check_headers(headers: &HeaderMap) -> Result<(), Refuse> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes <= HEADERS_MAX_BYTES {
        return Ok(());
    }
    let detail = format!("the headers have {bytes} bytes; {HEADERS_MAX_BYTES} are the most");
    Err(Refuse::new(ProblemCode::HeadersTooLarge, detail))
}

fn start_span(request: &HttpRequest, call: &Result<Call, Refuse>) -> LiveSpan {
    let method = match request.method().as_str() {
        "HEAD" => Verb::Head.name(),
        "GET" => Verb::Get.name(),
        "PUT" => Verb::Put.name(),
        "POST" => Verb::Post.name(),
        "DELETE" => Verb::Delete.name(),
        _ => "_OTHER",
    };
    let mut attributes =
        vec![KeyValue::new(names::HTTP_REQUEST_METHOD, method), KeyValue::new(names::URL_SCHEME, "http")];
    let name = match call {
        Ok(call) => {
            let route = routes::pattern(call);
            attributes.push(KeyValue::new(names::HTTP_ROUTE, route));
            names::http_span(method, route)
        }
        // A path that is not known would make a name of its own for every request of a scanner.
        Err(_) => method.to_owned(),
    };
    if let Some(peer) = request.peer_addr() {
        attributes.push(KeyValue::new(names::CLIENT_ADDRESS, peer.ip().to_string()));
    }
    spans::start(SpanKind::Server, name, context::extract(request.headers()), attributes)
}

fn end_span(mut span: LiveSpan, status: u16, refused: Option<ProblemCode>) {
    span.set(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
    // As the semantic conventions have it: what is the client's mistake does not mark a server's span.
    if status >= 500 {
        span.fail(refused.map_or("5xx", ProblemCode::code));
    }
    span.end();
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
