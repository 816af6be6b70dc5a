//! The router's HTTP calls: `/v1/route/{bucket}/{key}`, `/v1/position/{identifier}` and `/v1/ring`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    ALWAYS_BUCKETS, DEADLINE_DEFAULT_MS, DEADLINE_MAX_MS, Hop, LookupKeeps, PROBLEM_JSON, Problem, ProblemCode,
    RouteAnswer, decode_key, header, percent_decode,
};
use wire::node::LookupBy;

use crate::directory::KeyDirectory;
use crate::lookup::{Found, Search, by_belief, by_table, by_walk};
use crate::nodes::Nodes;
use crate::ring_check::RingCheck;

/// What one router process holds.
pub struct Router {
    /// The storage nodes.
    pub nodes: Arc<dyn Nodes>,
    /// The newest fleet known.
    pub fleet: watch::Receiver<Arc<Fleet>>,
    /// Finds keys on the ring.
    pub hasher: KeyHasher,
    /// Who owned the keys that were asked for.
    pub directory: Mutex<KeyDirectory>,
    /// What the looks at the ring have found.
    pub check: RingCheck,
}

/// The route's pattern, its name in spans.
const ROUTE: &str = "/v1/route/{bucket}/{key}";
const POSITION: &str = "/v1/position/{identifier}";
const RING: &str = "/v1/ring";
const ALLOW: &str = "GET, HEAD";

/// Adds every path of the router but those of `telemetry::ops`.
pub fn configure(config: &mut ServiceConfig) {
    for pattern in ["/v1/route/{bucket}/{key}*", POSITION] {
        config.service(web::resource(pattern).default_service(web::to(answer)));
    }
    config.route(RING, web::get().to(ring));
    config.default_service(web::to(answer));
}

/// A question that was understood.
struct Question {
    position: Position,
    lookup: Lookup,
    within: Duration,
}

/// The strategies; those that ask members begin at the node of that name, or anywhere.
enum Lookup {
    Index { from: Option<String> },
    Table,
    Walk { by: LookupBy, from: Option<String> },
}

/// A lookup that ended at somebody.
struct Answered {
    name: &'static str,
    owner: Option<NodeId>,
    hops: Vec<Hop>,
    keeps: Option<LookupKeeps>,
}

/// `GET /v1/ring`: whether the ring is in order.
async fn ring(router: Data<Router>) -> HttpResponse {
    HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(router.check.answer())
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
        let Answered { name, owner, hops, keeps } = match lookup {
            Lookup::Table => {
                let keeps = Some(LookupKeeps { entries: fleet.ring.arcs().len() as f64, stale: None });
                by_table(position, !replicas.is_empty(), context);
                Answered { name: "table", owner: replicas.first().copied(), hops: Vec::new(), keeps }
            }
            Lookup::Walk { by, from } => {
                let starts = self.starts(&fleet, from.as_deref())?;
                self.walk(&fleet, Search { target: position, by, starts, within }, context).await
            }
            Lookup::Index { from } => {
                let starts = self.starts(&fleet, from.as_deref())?;
                self.by_index(&fleet, position, starts, within, context).await
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
            pending_change: fleet.pending_change_at(position),
            agrees_with_view: replicas.first() == Some(&owner),
            hops,
            keeps,
        })
    }

    async fn walk(&self, fleet: &Fleet, search: Search, context: TraceContext) -> Answered {
        let by = search.by;
        let name = match by {
            LookupBy::Fingers => "fingers",
            LookupBy::Neighbours => "neighbours",
        };
        let Found { owner, hops } = by_walk(&*self.nodes, fleet, search, context).await;
        let looked = self.check.answer();
        let keeps = (looked.looks > 0).then_some(match by {
            LookupBy::Fingers => LookupKeeps { entries: looked.entries, stale: Some(looked.stale_fingers) },
            LookupBy::Neighbours => LookupKeeps { entries: 2.0, stale: Some(looked.stale_successors) },
        });
        Answered { name, owner: owner.map(|peer| peer.node), hops, keeps }
    }

    /// By the directory of keys: whom it names is asked, and believed if it owns the key. A key that is not in it, or
    /// whose owner is another one by now, is found over fingers and entered.
    async fn by_index(
        &self,
        fleet: &Fleet,
        target: Position,
        starts: Vec<NodeId>,
        within: Duration,
        context: TraceContext,
    ) -> Answered {
        let believed = self.directory().believed(target);
        let (mut owner, mut hops) = (None, Vec::new());
        if let Some(believed) = believed {
            let found = by_belief(&*self.nodes, fleet, (target, believed), within, context).await;
            self.directory().checked(found.owner.is_some());
            (owner, hops) = (found.owner, found.hops);
        }
        if owner.is_none() {
            let search = Search { target, by: LookupBy::Fingers, starts, within };
            let found = by_walk(&*self.nodes, fleet, search, context).await;
            hops.extend(found.hops);
            owner = found.owner;
            if let Some(owner) = owner {
                self.directory().learn(target, owner);
            }
        }
        let directory = self.directory();
        let keeps = Some(LookupKeeps { entries: directory.entries() as f64, stale: directory.staleness() });
        Answered { name: "index", owner: owner.map(|peer| peer.node), hops, keeps }
    }

    fn directory(&self) -> MutexGuard<'_, KeyDirectory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
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
        let bad =
            || problem(ProblemCode::BadRequest, "the query takes lookup=index|table|neighbours|fingers and from=NAME");
        let value = percent_decode(value).ok_or_else(bad)?;
        match name {
            "lookup" => lookup = value,
            "from" => from = Some(value),
            _ => return Err(bad()),
        }
    }
    let lookup = match lookup.as_str() {
        "table" => Lookup::Table,
        "fingers" => Lookup::Walk { by: LookupBy::Fingers, from },
        "index" => Lookup::Index { from },
        "neighbours" => Lookup::Walk { by: LookupBy::Neighbours, from },
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
