//! The router's HTTP calls: `/v1/route/{bucket}/{key}` and `/v1/position/{identifier}`.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use client::fleet::Fleet;
use membership::{BucketId, KeyHasher, NodeId, Position};
use rand::Rng;
use stdx::TraceContext;
use telemetry::{KeyValue, SpanKind, context, names, spans};
use tokio::sync::watch;
use wire::http::{
    ALWAYS_BUCKETS, DEADLINE_DEFAULT_MS, DEADLINE_MAX_MS, PROBLEM_JSON, Problem, ProblemCode, RouteAnswer, decode_key,
    header, percent_decode,
};

use crate::lookup::{Found, by_fingers};
use crate::nodes::Nodes;

/// What one router process holds.
pub struct Router {
    /// The storage nodes.
    pub nodes: Arc<dyn Nodes>,
    /// The newest fleet known.
    pub fleet: watch::Receiver<Arc<Fleet>>,
    /// Finds keys on the ring.
    pub hasher: KeyHasher,
}

/// The route's pattern, its name in spans.
const ROUTE: &str = "/v1/route/{bucket}/{key}";
const POSITION: &str = "/v1/position/{identifier}";
const ALLOW: &str = "GET, HEAD";

/// Adds every path of the router but those of `telemetry::ops`.
pub fn configure(config: &mut ServiceConfig) {
    for pattern in ["/v1/route/{bucket}/{key}*", POSITION] {
        config.service(web::resource(pattern).default_service(web::to(answer)));
    }
    config.default_service(web::to(answer));
}

/// A question that was understood.
struct Question {
    position: Position,
    lookup: Lookup,
    within: Duration,
}

enum Lookup {
    Table,
    /// By fingers, beginning at the node of this name, or anywhere.
    Fingers {
        from: Option<String>,
    },
}

async fn answer(request: HttpRequest, router: Data<Router>) -> HttpResponse {
    let route = if request.path().starts_with("/v1/position/") { POSITION } else { ROUTE };
    let attributes = [KeyValue::new(names::HTTP_REQUEST_METHOD, "GET"), KeyValue::new(names::HTTP_ROUTE, route)];
    let parent = context::extract(request.headers());
    let mut span = spans::start(SpanKind::Server, names::http_span("GET", route), parent, attributes);
    let trace_id = context::trace_id_hex(span.context());
    let result = match understand(&request, &router.hasher) {
        Ok(question) => router.find(question, span.context()).await,
        Err(problem) => Err(problem),
    };
    let mut response = match result {
        Ok(route) => HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(route),
        Err(problem) => refusal(*problem, &trace_id),
    };
    let status = response.status().as_u16();
    span.set(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
    if status >= 500 {
        span.fail("lookup-failed");
    }
    span.end();
    if let Ok(value) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert(HeaderName::from_static(header::TRACE_ID), value);
    }
    response
}

impl Router {
    async fn find(&self, question: Question, context: TraceContext) -> Result<RouteAnswer, Box<Problem>> {
        let fleet = Arc::clone(&self.fleet.borrow());
        let Question { position, lookup, within } = question;
        let replicas = fleet.ring.replicas_of(position);
        let (name, owner, hops) = match lookup {
            Lookup::Table => ("table", replicas.first().copied(), Vec::new()),
            Lookup::Fingers { from } => {
                let starts = self.starts(&fleet, from.as_deref())?;
                let Found { owner, hops } = by_fingers(&*self.nodes, &fleet, position, starts, within, context).await;
                ("fingers", owner.map(|peer| peer.node), hops)
            }
        };
        let Some(owner) = owner else {
            let detail = match name {
                "table" => "the ring has no member yet; it forms when enough storage nodes have started".to_owned(),
                _ => format!("{} members were asked, and none led to the owner in time", hops.len()),
            };
            return Err(problem(ProblemCode::LookupFailed, detail));
        };
        Ok(RouteAnswer {
            lookup: name.to_owned(),
            identifier: position.to_string(),
            owner: fleet.name_of(owner),
            replicas: replicas.iter().map(|node| fleet.name_of(*node)).collect(),
            epoch: fleet.view.epoch.0,
            pending_change: None,
            agrees_with_view: replicas.first() == Some(&owner),
            hops,
        })
    }

    /// Where a walk may begin: at the named node, or at the connected nodes in an order drawn for each walk, so that no
    /// node bears all beginnings.
    fn starts(&self, fleet: &Fleet, from: Option<&str>) -> Result<Vec<NodeId>, Box<Problem>> {
        if let Some(name) = from {
            let Some(member) = fleet.view.member_named(name) else {
                return Err(problem(ProblemCode::BadRequest, "`from` must be the name of a member; see /v1/ring"));
            };
            return Ok(vec![member.id]);
        }
        let members = fleet.view.members.iter().map(|member| member.id);
        let mut starts: Vec<NodeId> = members.filter(|node| self.nodes.is_up(*node)).collect();
        if !starts.is_empty() {
            let by = rand::rng().next_u64() as usize % starts.len();
            starts.rotate_left(by);
        }
        Ok(starts)
    }
}

fn understand(request: &HttpRequest, hasher: &KeyHasher) -> Result<Question, Box<Problem>> {
    let position = position_of(request.uri().path(), hasher)?;
    if !["GET", "HEAD"].contains(&request.method().as_str()) {
        let mut refused = problem(ProblemCode::Method, format!("this path takes {ALLOW}"));
        refused.more.insert("allow".to_owned(), ALLOW.into());
        return Err(refused);
    }
    let (mut lookup, mut from) = ("fingers".to_owned(), None);
    for pair in request.query_string().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = || problem(ProblemCode::BadRequest, "the query takes lookup=table|fingers and from=NAME");
        let value = percent_decode(value).ok_or_else(bad)?;
        match name {
            "lookup" => lookup = value,
            "from" => from = Some(value),
            _ => return Err(bad()),
        }
    }
    let lookup = match lookup.as_str() {
        "table" => Lookup::Table,
        "fingers" => Lookup::Fingers { from },
        "index" | "neighbours" => {
            return Err(problem(
                ProblemCode::NotOffered,
                format!("lookup={lookup} is not offered yet; use table or fingers"),
            ));
        }
        _ => return Err(problem(ProblemCode::BadRequest, "`lookup` must be one of table, fingers, index, neighbours")),
    };
    let deadline_ms = match request.headers().get(header::DEADLINE_MS) {
        None => DEADLINE_DEFAULT_MS,
        Some(value) => match value.to_str().ok().and_then(|text| text.parse().ok()) {
            Some(ms @ 1..=DEADLINE_MAX_MS) => ms,
            _ => {
                return Err(problem(
                    ProblemCode::BadRequest,
                    format!("Everring-Deadline-Ms must be 1 to {DEADLINE_MAX_MS}"),
                ));
            }
        },
    };
    Ok(Question { position, lookup, within: Duration::from_millis(u64::from(deadline_ms)) })
}

/// The position that a path is about.
fn position_of(path: &str, hasher: &KeyHasher) -> Result<Position, Box<Problem>> {
    if let Some(identifier) = path.strip_prefix("/v1/position/") {
        let digits = identifier.len() == 16 && identifier.bytes().all(|byte| byte.is_ascii_hexdigit());
        return u64::from_str_radix(identifier, 16)
            .ok()
            .filter(|_| digits)
            .map(Position)
            .ok_or_else(|| problem(ProblemCode::BadRequest, "an identifier has 16 hex digits"));
    }
    let route = path.strip_prefix("/v1/route/").and_then(|rest| rest.split_once('/'));
    let Some((bucket, key)) = route else {
        let detail = "a router answers /v1/route/{bucket}/{key} and /v1/position/{identifier}";
        return Err(problem(ProblemCode::NoSuchPath, detail));
    };
    let key = decode_key(key).map_err(|why| problem(ProblemCode::BadKey, why))?;
    let Some((_, id)) = ALWAYS_BUCKETS.into_iter().find(|(name, _)| *name == bucket) else {
        let detail =
            "a router reads no data, so it knows only the buckets that always exist; ask a gateway's /v1/route";
        return Err(problem(ProblemCode::NoSuchBucket, detail));
    };
    Ok(hasher.position(BucketId(id), key.as_bytes()))
}

fn problem(code: ProblemCode, detail: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::new(code, detail))
}

fn refusal(mut problem: Problem, trace_id: &str) -> HttpResponse {
    trace_id.clone_into(&mut problem.trace_id);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = HttpResponseBuilder::new(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header(("retry-after", "1"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.insert_header(("allow", ALLOW));
    }
    // A problem is made of text and numbers only: it always is JSON.
    response.content_type(PROBLEM_JSON).body(serde_json::to_vec(&problem).unwrap_or_default())
}

#[cfg(test)]
#[path = "server/server_test.rs"]
mod tests;
