//! Storage nodes made up: one register table that all nodes share (so any replica may coordinate, as in the real ring),
//! one replica of available keys that they share likewise, and a mood for each node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix_web::App;
use actix_web::http::header::HeaderMap;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::web::{Bytes, Data};
use available::{Listing, ListingPage};
use client::fleet::Fleet;
use gateway::gateway::{Gateway, Parts};
use gateway::nodes::{Calling, Nodes, Questioning};
use gateway::{Metrics, configure};
use membership::{BucketId, ClusterId, Epoch, KeyHasher, Member, NodeId, Position, View};
use replication::{
    Ballot, Effect, Operation, Outcome, Receipt, Refusal, RegisterKey, Scan, ScanEntry, ScanOutcome, ScanPage, Version,
};
use runtime::CallError;
use stdx::{Instant, Prng, TraceContext};
use tokio::sync::watch;
use wire::http::Durability;

pub const SECRET: &str = "a test's secret";

/// What a node does with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Sound,
    /// Not connected.
    Down,
    /// Breaks the connection without having acted.
    Resets,
    /// Acts, and then breaks the connection.
    ActsAndResets,
    /// Says nothing until the deadline.
    Silent,
    Refuses(Refusal),
    /// Gives up half-way.
    GivesUp,
    /// Answers another question.
    Confused,
}

/// A call as a node saw it.
#[derive(Clone, Debug)]
pub struct Called {
    pub node: NodeId,
    pub operation: Operation,
    pub deadline: Duration,
    pub context: TraceContext,
}

#[derive(Default)]
struct State {
    registers: BTreeMap<RegisterKey, replication::State>,
    counter: u64,
    moods: BTreeMap<NodeId, Mood>,
    calls: Vec<Called>,
    available: [Option<available::Replica>; 2],
    available_calls: Vec<AvailableCalled>,
    /// What every operation on an available key is refused with, once.
    behind: Option<u64>,
    tickets: u64,
    /// Cuts that are kept, by their number, with the node that keeps them.
    cuts: BTreeMap<u64, (NodeId, Vec<ScanEntry>)>,
}

/// A call about an available key as a node saw it.
#[derive(Clone, Debug)]
pub struct AvailableCalled {
    pub node: NodeId,
    pub durability: Durability,
    pub operation: available::Operation,
}

#[derive(Default)]
pub struct FakeNodes(Mutex<State>);

impl FakeNodes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }

    pub fn set_mood(&self, node: NodeId, mood: Mood) {
        self.state().moods.insert(node, mood);
    }

    pub fn set_all(&self, mood: Mood) {
        (1..=5).for_each(|node| self.set_mood(NodeId(node), mood));
    }

    /// The next operation on an available key is refused as behind a write of this order.
    pub fn be_ahead(&self, order: u64) {
        self.state().behind = Some(order);
    }

    /// The calls about available keys so far, oldest first; forgets them.
    pub fn take_available_calls(&self) -> Vec<AvailableCalled> {
        std::mem::take(&mut self.state().available_calls)
    }

    /// Every node forgets the cuts that it keeps; how many there were.
    pub fn forget_cuts(&self) -> usize {
        std::mem::take(&mut self.state().cuts).len()
    }

    /// The calls so far, oldest first; forgets them.
    pub fn take_calls(&self) -> Vec<Called> {
        std::mem::take(&mut self.state().calls)
    }
}

impl Nodes for FakeNodes {
    fn is_up(&self, node: NodeId) -> bool {
        self.state().moods.get(&node) != Some(&Mood::Down)
    }

    fn call(&self, to: NodeId, operation: Operation, deadline: Duration, context: TraceContext) -> Calling {
        let mut state = self.state();
        state.calls.push(Called { node: to, operation: operation.clone(), deadline, context });
        // It acts after what its session has seen.
        let (operation, time) = match operation {
            Operation::InSession { operation, since, .. } => (*operation, since),
            operation => (operation, Ballot::ZERO),
        };
        let receipt = Receipt { epoch: Epoch(1), voters: vec![to, NodeId(9)], rounds: 1, time };
        let answer = match state.moods.get(&to).copied().unwrap_or_default() {
            Mood::Sound => Ok((state.act(to, operation), receipt)),
            Mood::Down => Err(CallError::NotConnected),
            Mood::Resets => Err(CallError::Reset),
            Mood::ActsAndResets => {
                state.act(to, operation);
                Err(CallError::Reset)
            }
            Mood::Silent => return silence(deadline),
            Mood::Refuses(refusal) => Ok((Outcome::Refused(refusal), receipt)),
            Mood::GivesUp => Ok((Outcome::Unknown, receipt)),
            Mood::Confused => match operation {
                Operation::Read { .. } | Operation::Outcome { .. } => {
                    Ok((Outcome::Done { effect: Effect::Unfit, value: None }, receipt))
                }
                Operation::Write(_) | Operation::InSession { .. } => Ok((Outcome::Value(None), receipt)),
            },
        };
        Box::pin(std::future::ready(answer))
    }

    fn call_available(
        &self,
        to: NodeId,
        (durability, operation): (Durability, available::Operation),
        deadline: Duration,
        _context: TraceContext,
    ) -> Calling<available::Outcome> {
        let mut state = self.state();
        state.available_calls.push(AvailableCalled { node: to, durability, operation: operation.clone() });
        let refuse = |refusal| Ok((available::Outcome::Refused(refusal), available::Receipt::default()));
        let answer = match state.moods.get(&to).copied().unwrap_or_default() {
            Mood::Sound if state.behind.is_some() => {
                refuse(available::Refusal::Behind(state.behind.take().unwrap_or_default()))
            }
            Mood::Sound => Ok(state.act_available(durability, operation)),
            Mood::Down => Err(CallError::NotConnected),
            Mood::Resets => Err(CallError::Reset),
            Mood::ActsAndResets => {
                state.act_available(durability, operation);
                Err(CallError::Reset)
            }
            Mood::Silent => return silence(deadline),
            Mood::Refuses(_) => refuse(available::Refusal::NoQuorum),
            Mood::GivesUp => Ok((available::Outcome::Unknown, available::Receipt::default())),
            Mood::Confused => Ok((available::Outcome::Remembered(None), available::Receipt::default())),
        };
        Box::pin(std::future::ready(answer))
    }

    fn scan(&self, to: NodeId, scan: Scan, deadline: Duration, _context: TraceContext) -> Questioning<ScanOutcome> {
        let mut state = self.state();
        let answer = match state.moods.get(&to).copied().unwrap_or_default() {
            Mood::Sound | Mood::GivesUp | Mood::Confused => Ok(state.scan(to, scan)),
            Mood::Down => Err(CallError::NotConnected),
            Mood::Resets | Mood::ActsAndResets => Err(CallError::Reset),
            Mood::Silent => return silence(deadline),
            Mood::Refuses(refusal) => Ok(ScanOutcome::Refused(refusal)),
        };
        Box::pin(std::future::ready(answer))
    }

    fn list(
        &self,
        to: NodeId,
        (durability, listing): (Durability, Listing),
        deadline: Duration,
        _context: TraceContext,
    ) -> Questioning<Result<ListingPage, Epoch>> {
        let mut state = self.state();
        let answer = match state.moods.get(&to).copied().unwrap_or_default() {
            Mood::Sound | Mood::GivesUp | Mood::Confused => Ok(state.replica_of(durability).list(&listing)),
            Mood::Down => Err(CallError::NotConnected),
            Mood::Resets | Mood::ActsAndResets => Err(CallError::Reset),
            Mood::Silent => return silence(deadline),
            Mood::Refuses(_) => Ok(Err(Epoch(1))),
        };
        Box::pin(std::future::ready(answer))
    }
}

fn silence<T: Send + 'static>(deadline: Duration) -> Questioning<T> {
    Box::pin(async move {
        tokio::time::sleep(deadline).await;
        Err(CallError::Deadline)
    })
}

impl State {
    /// What a replica in charge answers: one page of at most three entries more than nothing, so that arcs have pages.
    fn scan(&mut self, node: NodeId, scan: Scan) -> ScanOutcome {
        let ring = fleet().ring;
        let arc = ring.arc_of(scan.from).expect("the circle is covered").clone();
        if !arc.replicas.contains(&node) {
            return ScanOutcome::Refused(Refusal::NotReplica(Epoch(1)));
        }
        let ahead = |position: Position| scan.from.distance_to(position);
        let through = if ahead(arc.high) <= ahead(scan.to) { arc.high } else { scan.to };
        let entries = match self.cuts.get(&scan.cut).filter(|(keeper, _)| *keeper == node) {
            Some((_, entries)) => entries.clone(),
            None if scan.cut != 0 => return ScanOutcome::Gone,
            None => {
                let wanted = |key: &RegisterKey| {
                    key.bucket == scan.bucket
                        && key.key.starts_with(&scan.prefix)
                        && ahead(key.position) <= ahead(through)
                };
                let mut entries: Vec<ScanEntry> = Vec::new();
                for (key, held) in self.registers.iter().filter(|(key, _)| wanted(key)) {
                    let Some(value) = held.value.clone() else { continue };
                    let (key, version, size) = (key.clone(), held.version, value.body.len() as u64);
                    entries.push(ScanEntry { key, version, size, ends_ms: held.ends_ms, value: Some(value) });
                }
                entries.sort_by_key(|entry| (ahead(entry.key.position), entry.key.clone()));
                entries
            }
        };
        let order = |key: &RegisterKey| (ahead(key.position), key.clone());
        let told = |entry: &ScanEntry| scan.after.as_ref().is_some_and(|after| order(&entry.key) <= order(after));
        let left: Vec<ScanEntry> = entries.iter().filter(|entry| !told(entry)).cloned().collect();
        let most = (scan.entries_max as usize).min(3);
        let more = left.len() > most;
        let cut = match scan.cut {
            0 if scan.keep && more => {
                self.counter += 1;
                self.cuts.insert(self.counter, (node, entries));
                self.counter
            }
            cut => cut,
        };
        let strip = |entry: ScanEntry| ScanEntry { value: entry.value.filter(|_| scan.values), ..entry };
        let entries = left.into_iter().take(most).map(strip).collect();
        ScanOutcome::Page(ScanPage { cut, time: self.counter, epoch: Epoch(1), through, entries, more })
    }

    /// The real core, alone.
    fn replica_of(&mut self, durability: Durability) -> &mut available::Replica {
        self.available[usize::from(durability == Durability::Memory)].get_or_insert_with(|| {
            let mut view = View::forming(ClusterId(7), 1, 1, 0);
            let tokens = vec![Position(1)];
            view.members.push(Member { id: NodeId(1), name: "n1".into(), zone: None, weight: 1, tokens });
            view.epoch = Epoch(1);
            let config = available::Config::default();
            let mut replica = available::Replica::new(NodeId(1), 1, view, b"secret", config, Prng::from_seed(1));
            let mut out = available::Outbox::default();
            replica.begin(Instant::ZERO, 1, &mut out);
            while let Some((last, _)) = out.drain().persist.last() {
                replica.handle(Instant::ZERO, available::Input::Synced(*last), &mut out);
            }
            replica
        })
    }

    /// The real core: its own disk has always synced already.
    fn act_available(
        &mut self,
        durability: Durability,
        operation: available::Operation,
    ) -> (available::Outcome, available::Receipt) {
        self.tickets += 1;
        let ticket = replication::Ticket(self.tickets);
        let now = Instant::from_millis(self.tickets);
        let mut out = available::Outbox::default();
        let replica = self.replica_of(durability);
        let deadline = Instant::from_millis(u64::MAX >> 24);
        let context = TraceContext::NONE;
        let wall_ms = 1;
        let mut answers = Vec::new();
        let mut input = Some(available::Input::Operation { ticket, operation, deadline, wall_ms, context });
        loop {
            let effects = out.drain();
            answers.extend(effects.answers);
            match (effects.persist.last(), input.take()) {
                (Some((last, _)), then) => {
                    replica.handle(now, available::Input::Synced(*last), &mut out);
                    input = then;
                }
                (None, Some(then)) => replica.handle(now, then, &mut out),
                (None, None) => break,
            }
        }
        let answer =
            answers.into_iter().find(|answer| answer.ticket == ticket).expect("a lone replica answers at once");
        (answer.outcome, answer.receipt)
    }

    fn act(&mut self, node: NodeId, operation: Operation) -> Outcome {
        self.counter += 1;
        let version = Version { ballot: Ballot { counter: self.counter, node }, index: 0 };
        let wall_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock past 1970").as_millis() as u64;
        let register = self.registers.entry(operation.key().clone()).or_default();
        // What is due is over as soon as somebody asks.
        if register.is_due(wall_ms) {
            register.value = None;
        }
        match operation {
            Operation::Read { .. } => Outcome::Value(register.value.clone().map(|value| (register.version, value))),
            Operation::Outcome { request, .. } => Outcome::Remembered(register.requests.find(request)),
            Operation::InSession { operation, .. } => self.act(node, *operation),
            Operation::Write(write) => register.apply(&write, version, wall_ms),
        }
    }
}

/// Five nodes n1 to n5, four tokens each, three copies of each key.
pub fn fleet() -> Fleet {
    let tokens = |id: u64| (0..4).map(|at| Position((at * 5 + id) << 59)).collect();
    let members =
        (1..=5).map(|id| Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens: tokens(id) });
    let view = View { epoch: Epoch(1), members: members.collect(), ..View::forming(ClusterId(7), 3, 5, 0) };
    Fleet { ring: Arc::new(view.ring()), view: Arc::new(view), nodes: BTreeMap::new() }
}

/// The homes of a key of a bucket, in the order of the ring.
pub fn homes_of(bucket: u32, key: &str) -> Vec<NodeId> {
    let position = KeyHasher::new(SECRET.as_bytes()).position(BucketId(bucket), key.as_bytes());
    fleet().ring.replicas_of(position).to_vec()
}

/// The replicas of a key of the bucket `records`, owner first.
pub fn replicas_of(key: &str) -> Vec<NodeId> {
    let position = KeyHasher::new(SECRET.as_bytes()).position(BucketId(1), key.as_bytes());
    fleet().ring.replicas_of(position).to_vec()
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("visible ASCII"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The problem's code; empty when it is none.
    pub fn code(&self) -> String {
        match self.header("content-type") {
            "application/problem+json" => self.json()["code"].as_str().expect("a code").to_owned(),
            _ => String::new(),
        }
    }
}

/// A gateway over made-up nodes.
pub struct Bench {
    pub nodes: Arc<FakeNodes>,
    pub gateway: Data<Gateway>,
    _fleet: watch::Sender<Arc<Fleet>>,
}

struct Newest(Option<Epoch>);

impl gateway::gateway::Views for Newest {
    fn newest(&self) -> std::pin::Pin<Box<dyn Future<Output = Option<Epoch>> + Send + '_>> {
        Box::pin(std::future::ready(self.0))
    }
}

impl Bench {
    pub fn new() -> Bench {
        Bench::beside(&Arc::default())
    }

    /// Another gateway over the same nodes.
    pub fn beside(nodes: &Arc<FakeNodes>) -> Bench {
        Bench::with(nodes, fleet())
    }

    pub fn with(nodes: &Arc<FakeNodes>, known: Fleet) -> Bench {
        Bench::of(nodes, known, None)
    }

    /// A gateway beside a discovery whose newest view is of this epoch; one that cannot be asked, if there is none.
    pub fn of(nodes: &Arc<FakeNodes>, known: Fleet, newest: Option<Epoch>) -> Bench {
        let (told, fleet) = watch::channel(Arc::new(known));
        let gateway = Gateway::new(Parts {
            nodes: Arc::clone(nodes) as Arc<dyn Nodes>,
            fleet,
            secret: SECRET.to_owned(),
            router: None,
            statuses: None,
            views: Some(Arc::new(Newest(newest))),
            metrics: Metrics::default(),
            seed: 1,
        });
        Bench { nodes: Arc::clone(nodes), gateway: Data::new(gateway), _fleet: told }
    }

    pub async fn send(&self, request: TestRequest) -> Answer {
        let app = init_service(App::new().app_data(self.gateway.clone()).configure(configure)).await;
        let answer = call_service(&app, request.to_request()).await;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = read_body(answer).await;
        assert_ne!(status, 500, "never a bare 500");
        assert_eq!(headers.get("everring-trace-id").map(|id| id.len()), Some(32), "every answer names its trace");
        assert!(headers.contains_key("server-timing"));
        Answer { status, headers, body }
    }

    /// `METHOD path`, with headers and a body.
    pub async fn ask(&self, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let mut request = TestRequest::default().method(method.parse().expect("a method")).uri(path);
        for header in headers {
            request = request.append_header(*header);
        }
        self.send(request.set_payload(body.to_owned())).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], "").await
    }

    pub async fn put(&self, path: &str, body: &str) -> Answer {
        self.ask(&format!("PUT {path}"), &[("content-type", "text/plain")], body).await
    }
}
