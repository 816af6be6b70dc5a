//! A fleet that is not one: real child processes to kill, and one in-process gateway over a plain map, which can be
//! told to break its word.

// Each test program uses another part of it.
#![allow(dead_code)]

mod locks;
mod merges;
mod siblings;

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use chaos::{Fault, FleetControl, Order, STORAGE_NODE, Target, TargetState};
use serde_json::json;
use telemetry::spans::Builder;
use telemetry::{KeyValue, LogFormat, Pipeline, Settings, SpanKind, names};

/// How the gateway treats its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A register for each key, as promised.
    Correct,
    /// Now and then a read shows the value before the last.
    StaleReads,
    /// Now and then a write is acknowledged and not done.
    LostWrites,
    /// Now and then a repeated condition is not looked at.
    BlindCas,
    /// Now and then a write gets no answer before the deadline.
    Silent,
    /// Reads give a body with one byte changed, now and then.
    CorruptBodies,
    /// Receipts name a replica that is dead.
    LyingReceipts,
    /// Fencing tokens are not looked at.
    BlindFence,
    /// Now and then a lock is granted to a second owner.
    TwoHolders,
    /// Now and then a lock is granted under a token that was given away already.
    SameToken,
    /// Now and then an addition to a set or a counter is acknowledged and not done.
    LostAdds,
    /// Now and then an addition to a counter is done twice.
    DoubleAdds,
    /// An available bucket keeps values side by side, as promised.
    SideBySide,
    /// The same, and now and then a write of it acts and gets no answer before the deadline.
    Mute,
    /// The same, and such a write is gone once somebody was shown it.
    MuteAndForgetful,
}

/// The names of the fake fleet's nodes.
pub const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
/// Every so many requests the gateway breaks its word, if it does.
const BREAK_EVERY: u64 = 25;
/// How long a killed node's keeper leaves it down.
const DOWN_FOR: Duration = Duration::from_millis(120);
/// How long a started node is not ready.
const STARTS_FOR: Duration = Duration::from_millis(120);

/// The fleet: implements what `everring up` implements, and what a gateway and storage nodes answer.
pub struct FakeFleet {
    mode: Mode,
    inner: Mutex<Inner>,
    otlp: Option<String>,
    address: Mutex<String>,
}

struct Inner {
    keys: BTreeMap<String, Register>,
    versions: u64,
    requests: u64,
    answered: BTreeMap<String, (u16, Option<String>)>,
    nodes: Vec<Node>,
    pipelines: BTreeMap<String, Pipeline>,
    locks: locks::Locks,
    merges: merges::Merges,
    siblings: siblings::Siblings,
}

#[derive(Clone, Default)]
struct Register {
    now: Option<(String, Bytes)>,
    before: Option<(String, Bytes)>,
}

struct Node {
    name: &'static str,
    incarnation: u64,
    child: Option<Child>,
    changed: Instant,
}

impl FakeFleet {
    /// Starts the processes and the gateway; `otlp` is where its spans go, if anywhere.
    pub async fn start(mode: Mode, otlp: Option<String>) -> Arc<FakeFleet> {
        let node = |name| Node { name, incarnation: 1, child: Some(sleeper()), changed: long_ago() };
        let inner = Inner {
            keys: BTreeMap::new(),
            versions: 0,
            requests: 0,
            answered: BTreeMap::new(),
            nodes: NODES.map(node).into(),
            pipelines: BTreeMap::new(),
            locks: locks::Locks::default(),
            merges: merges::Merges::default(),
            siblings: siblings::Siblings::default(),
        };
        let fleet = Arc::new(FakeFleet { mode, inner: Mutex::new(inner), otlp, address: Mutex::default() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        *fleet.address.lock().expect("nobody panicked") = address;
        let data = Data::from(Arc::clone(&fleet));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .app_data(PayloadConfig::new(2 << 20))
                .route("/v1/kv/{bucket}/{key}", web::get().to(get))
                .route("/v1/kv/{bucket}/{key}", web::put().to(put))
                .route("/v1/kv/{bucket}/{key}", web::delete().to(delete))
                .route("/v1/kv/{bucket}/{key}", web::post().to(merges::add))
                .route("/v1/buckets/{bucket}", web::put().to(merges::make))
                .route("/v1/locks/{name}", web::put().to(locks::acquire))
                .route("/v1/locks/{name}", web::delete().to(locks::release))
                .route("/v1/locks/{name}/renew", web::post().to(locks::renew))
                .route("/v1/ring", web::get().to(ring))
                .route("/v1/route/{bucket}/{key}", web::get().to(route))
                .route("/node/{name}/status", web::get().to(status))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)
        .expect("it listens")
        .run();
        tokio::spawn(server);
        fleet
    }

    /// `host:port` of the gateway.
    pub fn gateway(&self) -> String {
        self.address.lock().expect("nobody panicked").clone()
    }

    /// The process of a node.
    pub fn pid(&self, name: &str) -> Option<u32> {
        let inner = self.lock();
        inner.nodes.iter().find(|node| node.name == name)?.child.as_ref().map(Child::id)
    }

    /// Ends all child processes of ours.
    pub fn end(&self) {
        for node in &mut self.lock().nodes {
            if let Some(mut child) = node.child.take() {
                child.kill().expect("our own child");
                child.wait().expect("it has ended");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.nodes.iter_mut().for_each(Node::keep);
        inner
    }

    /// Makes the spans of a gateway and a coordinator, as the real ones do.
    fn trace(&self, inner: &mut Inner, request: &HttpRequest, status: u16, coordinator: &str) {
        let Some(otlp) = &self.otlp else { return };
        let parent = telemetry::context::extract(request.headers());
        if !parent.is_some() || parent.flags & 1 == 0 {
            return;
        }
        let method = request.method().as_str().to_owned();
        let gateway = inner.pipeline(otlp, "everring-gateway", "g1-1".to_owned());
        let mut span = Builder::new(SpanKind::Server, format!("{method} /v1/kv/{{bucket}}/{{key}}"), parent)
            .start_with(gateway.tracer());
        span.set(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
        let incarnation = inner.nodes.iter().find(|node| node.name == coordinator).map_or(0, |node| node.incarnation);
        let node = inner.pipeline(otlp, "everring-storage-node", format!("{coordinator}-{incarnation}"));
        Builder::new(SpanKind::Server, names::coordinate_span(&method), span.context())
            .attributes([KeyValue::new(names::REPLICA, coordinator.to_owned())])
            .start_with(node.tracer())
            .end();
        span.end();
    }

    /// The replicas that vote, coordinator first, and how many were asked.
    fn voters(&self, inner: &Inner, key: &str) -> (Vec<&'static str>, usize) {
        let set = replica_set(key);
        let alive = |name: &&str| inner.nodes.iter().any(|node| node.name == *name && node.is_alive());
        if self.mode == Mode::LyingReceipts
            && let Some(dead) = set.iter().find(|name| !alive(name))
        {
            return (vec![dead], 1);
        }
        let voters: Vec<&'static str> = set.iter().copied().filter(alive).collect();
        let asked = 1 + set.iter().position(alive).unwrap_or(0);
        (voters, asked)
    }
}

impl FleetControl for FakeFleet {
    fn targets(&self) -> Result<Vec<Target>, String> {
        let address = self.gateway();
        let inner = self.lock();
        let target = |node: &Node| Target {
            name: node.name.to_owned(),
            role: STORAGE_NODE.to_owned(),
            life: node.child.as_ref().map(|child| u64::from(child.id())),
            instance_id: None,
            opted_in: true,
            http: Some(format!("{address}/node/{}", node.name)),
            state: if node.child.is_some() { TargetState::Running } else { TargetState::Down },
        };
        Ok(inner.nodes.iter().map(target).collect())
    }

    fn fault(&self, order: &Order) -> Result<Box<dyn Fault>, String> {
        let pid = self.pid(&order.strike.target).ok_or("it is not running")?;
        order.strike.kind.against(pid, order.pause)
    }
}

impl Inner {
    fn pipeline(&mut self, otlp: &str, service: &str, instance_id: String) -> Pipeline {
        let build = || {
            Pipeline::build(&settings(service, &instance_id, Some(otlp.to_owned())))
                .expect("the endpoint is well formed")
        };
        self.pipelines.entry(instance_id.clone()).or_insert_with(build).clone()
    }

    fn breaks(&mut self) -> bool {
        self.requests += 1;
        self.requests.is_multiple_of(BREAK_EVERY)
    }
}

impl Node {
    /// What a keeper does: notices the end of its child, and starts another one a little later.
    fn keep(&mut self) {
        match self.child.as_mut() {
            Some(child) => {
                let ended = child.try_wait().expect("our own child").is_some();
                if ended {
                    self.child = None;
                    self.changed = Instant::now();
                }
            }
            None if self.changed.elapsed() > DOWN_FOR => {
                self.child = Some(sleeper());
                self.incarnation += 1;
                self.changed = Instant::now();
            }
            None => {}
        }
    }

    fn is_alive(&self) -> bool {
        self.child.is_some()
    }

    fn is_ready(&self) -> bool {
        self.is_alive() && self.changed.elapsed() > STARTS_FOR
    }
}

/// The settings of one service's telemetry.
pub fn settings(service: &str, instance_id: &str, otlp_endpoint: Option<String>) -> Settings {
    Settings {
        service_name: service.to_owned(),
        instance_id: instance_id.to_owned(),
        version: "0.0.0".to_owned(),
        otlp_endpoint,
        log_format: LogFormat::Auto,
        log_filter: None,
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("600").spawn().expect("`sleep` can be started")
}

/// A time before which everything was settled.
fn long_ago() -> Instant {
    Instant::now().checked_sub(STARTS_FOR * 2).unwrap_or_else(Instant::now)
}

/// Three of the nodes, by the key's bytes.
fn replica_set(key: &str) -> [&'static str; 3] {
    let first = key.bytes().map(usize::from).sum::<usize>() % NODES.len();
    [NODES[first], NODES[(first + 1) % NODES.len()], NODES[(first + 2) % NODES.len()]]
}

fn answer(
    fleet: &FakeFleet,
    inner: &mut Inner,
    request: &HttpRequest,
    status: u16,
    key: &str,
) -> actix_web::HttpResponseBuilder {
    let (voters, asked) = fleet.voters(inner, key);
    fleet.trace(inner, request, status, voters.first().copied().unwrap_or_default());
    let mut response = HttpResponse::build(status.try_into().expect("a status"));
    let replicas = voters.join(",");
    response.insert_header((
        "everring-receipt",
        format!("level=strict;epoch=1;hops=1;replicas={replicas};attempts={asked}"),
    ));
    response
}

fn problem(mut response: actix_web::HttpResponseBuilder, status: u16, code: &str) -> HttpResponse {
    response.content_type("application/problem+json").json(json!({
        "type": format!("/problems/{code}"), "title": code, "status": status, "detail": "as the test wants it",
        "code": code, "retryable": false, "outcome": "not-done", "trace_id": "",
    }))
}

async fn get(fleet: Data<FakeFleet>, request: HttpRequest, path: Path<(String, String)>) -> HttpResponse {
    let (bucket, key) = path.into_inner();
    let inner = &mut *fleet.lock();
    if siblings::are_kept(fleet.mode, &bucket) {
        return siblings::get(&fleet, inner, &request, &key);
    }
    if let Some(shown) = inner.merges.shown(&bucket, &key) {
        return answer(&fleet, inner, &request, 200, &key).body(shown);
    }
    let breaks = inner.breaks();
    let register = inner.keys.get(&key).cloned().unwrap_or_default();
    let shown = if breaks && fleet.mode == Mode::StaleReads { register.before } else { register.now };
    let Some((etag, body)) = shown else {
        let response = answer(&fleet, inner, &request, 404, &key);
        return problem(response, 404, "no-such-key");
    };
    let body = if breaks && fleet.mode == Mode::CorruptBodies && !body.is_empty() {
        let mut bytes = body.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        Bytes::from(bytes)
    } else {
        body
    };
    answer(&fleet, inner, &request, 200, &key).insert_header((header::ETAG, etag)).body(body)
}

async fn put(fleet: Data<FakeFleet>, request: HttpRequest, path: Path<(String, String)>, body: Bytes) -> HttpResponse {
    write(fleet, request, path.into_inner(), Some(body)).await
}

async fn delete(fleet: Data<FakeFleet>, request: HttpRequest, path: Path<(String, String)>) -> HttpResponse {
    write(fleet, request, path.into_inner(), None).await
}

async fn write(
    fleet: Data<FakeFleet>,
    request: HttpRequest,
    (bucket, key): (String, String),
    body: Option<Bytes>,
) -> HttpResponse {
    if siblings::are_kept(fleet.mode, &bucket) {
        return siblings::write(&fleet, &request, &key, body).await;
    }
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let breaks = fleet.lock().breaks();
    if breaks && fleet.mode == Mode::Silent {
        no_answer().await;
    }
    let inner = &mut *fleet.lock();
    let request_id = text("everring-request-id").expect("our client always names its requests");
    if let Some((status, etag)) = inner.answered.get(&request_id).cloned() {
        return ended(&fleet, inner, &request, status, etag, &key);
    }
    if let Some(fence) = locks::fence_of(&request)
        && inner.locks.passes(fleet.mode, &key, fence).is_err()
    {
        return problem(answer(&fleet, inner, &request, 412, &key), 412, "fenced-off");
    }
    let register = inner.keys.entry(key.clone()).or_default();
    let present = register.now.as_ref().map(|(etag, _)| etag.clone());
    let holds = match (text("if-match"), text("if-none-match")) {
        (Some(etag), _) => present.as_deref() == Some(etag.as_str()),
        (None, Some(_)) => present.is_none(),
        (None, None) => true,
    };
    let blind = breaks && fleet.mode == Mode::BlindCas;
    if !holds && !blind {
        return ended(&fleet, inner, &request, 412, present, &key);
    }
    inner.versions += 1;
    let etag = format!("\"{}.1.0\"", inner.versions);
    let register = inner.keys.entry(key.clone()).or_default();
    let status = match (&body, &register.now) {
        (None, _) => 204,
        (Some(_), None) => 201,
        (Some(_), Some(_)) => 200,
    };
    if !(breaks && fleet.mode == Mode::LostWrites) {
        register.before = register.now.take();
        register.now = body.map(|body| (etag.clone(), body));
    }
    let etag = (status != 204).then_some(etag);
    inner.answered.insert(request_id, (status, etag.clone()));
    ended(&fleet, inner, &request, status, etag, &key)
}

/// Longer than any deadline of these tests; the connection is then given up by the client.
async fn no_answer() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

fn ended(
    fleet: &FakeFleet,
    inner: &mut Inner,
    request: &HttpRequest,
    status: u16,
    etag: Option<String>,
    key: &str,
) -> HttpResponse {
    let mut response = answer(fleet, inner, request, status, key);
    if let Some(etag) = etag {
        response.insert_header((header::ETAG, etag));
    }
    if status == 412 { problem(response, 412, "condition-failed") } else { response.finish() }
}

async fn ring(fleet: Data<FakeFleet>) -> HttpResponse {
    let inner = fleet.lock();
    let member = |node: &Node| {
        json!({"id": "0000000000000001", "name": node.name, "zone": null, "state": "member",
               "alive": node.is_alive(), "share": 0.2, "tokens": []})
    };
    let members: Vec<_> = inner.nodes.iter().map(member).collect();
    HttpResponse::Ok().json(json!({"cluster": "0000000000000001", "epoch": 1, "replication": 3,
                                   "pending_change": null, "members": members}))
}

async fn route(path: Path<(String, String)>) -> HttpResponse {
    let set = replica_set(&path.1);
    HttpResponse::Ok().json(json!({"lookup": "table", "identifier": "0000000000000001", "owner": set[0],
        "replicas": set, "epoch": 1, "pending_change": null, "agrees_with_view": true, "hops": []}))
}

async fn status(fleet: Data<FakeFleet>, name: Path<String>) -> HttpResponse {
    let inner = fleet.lock();
    match inner.nodes.iter().find(|node| node.name == name.as_str() && node.is_alive()) {
        Some(node) => HttpResponse::Ok().json(json!({"name": node.name, "id": "1", "incarnation": node.incarnation,
            "epoch": 1, "state": if node.is_ready() { "ready" } else { "starting" }, "registers": 0})),
        // A dead node's port refuses; a gateway that stands for it can only say so.
        None => HttpResponse::BadGateway().finish(),
    }
}
