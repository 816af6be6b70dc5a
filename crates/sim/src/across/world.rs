//! The fleet of both contracts, in one thread and in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use available::Kind;
use bytes::Bytes;
use checker::litmus::Placing;
use history::{Event, EventKind, Function, History, Pairing, Process, Value};
use membership::{BucketId, Epoch, KeyHasher, NodeId, Ring, View};
use replication::Ticket;
use stdx::{Instant, Prng, TraceContext};
use wire::http::Durability;
use wire::node::Payload;

use super::client::{Asked, Client, Key, Told};
use super::node::{Effects, Node};
use super::planted::Planted;
use super::swarm::Swarm;
use crate::event_log::EventLog;
use crate::invariants::Violation;
use crate::litmus::{Running, Shown};
use crate::network::Links;
use crate::words::Words;
use crate::world::{decoded, encoded, formed_view};

/// The wall clock at the beginning of a run.
const WALL_START_MS: u64 = 1_700_000_000_000;
/// Faults stop at this time at the latest.
const FAULTS_MAX: Duration = Duration::from_secs(60);
/// When faults have stopped, everything must be answered within this time.
const SETTLE_MAX: Duration = Duration::from_secs(40);
/// The bucket of ordered keys, and that of available ones.
const BUCKETS: [BucketId; 2] = [BucketId(1), BucketId(2)];

/// What can happen.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// Bytes from another node, in this start of it, reach a node.
    Arrive { from: (NodeId, u64), to: usize, bytes: Bytes },
    /// A client's operation reaches a node.
    Ask { client: usize, serial: u64, to: usize, asked: Box<Asked>, deadline: Instant },
    /// An answer reaches a client.
    Answer { client: usize, serial: u64, told: Box<Told> },
    /// A client notices that an attempt failed.
    Failed { client: usize, serial: u64 },
    /// A client does its next thing.
    Next { client: usize },
    /// A client asks another node as well.
    Hedge { client: usize, serial: u64 },
    /// A client's patience ends.
    GiveUp { client: usize, serial: u64 },
    /// A timer of a node's cores.
    Tick { node: usize, incarnation: u64 },
    /// A disk has synced.
    Synced { node: usize, incarnation: u64 },
    /// A node notices that its connection to another broke.
    PeerLost { node: usize, lost: usize },
    /// A node notices that another can be reached.
    PeerFound { node: usize, found: usize },
    /// A node crashes.
    Crash,
    /// A node starts.
    Start { node: usize },
    /// Every node loses power at once.
    PowerCut,
    /// Some links break.
    Partition,
    /// They are joined again.
    Heal { links: Vec<(usize, usize)> },
    /// Somebody changes the membership.
    Change,
    /// A node is lost with its disk.
    LoseDisk,
    /// A node hears of the newest view.
    ViewNews { node: usize },
    /// A node's shell looks what is to be done for changes.
    KeepHouse { node: usize },
    /// Discovery hears that a node has copied what a change makes it a home of.
    NoteCopied { node: NodeId, change: Epoch },
}

/// What a run counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that were answered.
    pub answered: u64,
    /// Operations that ended unknown.
    pub unknown: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Reads of available keys that one replica answered alone.
    pub local_available: u64,
    /// Reads of available keys in all.
    pub available_reads: u64,
    /// Reads of ordered keys that one replica answered alone.
    pub local_ordered: u64,
    /// Operations by which a session went from one contract to the other.
    pub crossings: u64,
    /// Changes of membership that were completed or abandoned.
    pub changes: u64,
    /// Nodes that were lost with their disks, and replaced.
    pub disks_lost: u64,
    /// Events simulated.
    pub events: u64,
    /// Virtual time that passed, in milliseconds.
    pub simulated_ms: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.faults += other.faults;
        self.local_available += other.local_available;
        self.available_reads += other.available_reads;
        self.local_ordered += other.local_ordered;
        self.crossings += other.crossings;
        self.changes += other.changes;
        self.disks_lost += other.disks_lost;
        self.events += other.events;
        self.simulated_ms += other.simulated_ms;
    }
}

/// A run in progress.
pub(super) struct World {
    pub swarm: Swarm,
    pub log: EventLog,
    pub counts: Counts,
    pub(super) now: Instant,
    order: u64,
    agenda: BTreeMap<(Instant, u64), Happening>,
    pub(super) prng: Prng,
    links: Links,
    pub(super) view: View,
    pub(super) ring: Ring,
    /// The ring before the last change of view: some gateways have not heard.
    pub(super) ring_before: Ring,
    hasher: KeyHasher,
    pub(super) planted: Option<Planted>,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) keys: Vec<Key>,
    /// Operations at their coordinators: who asked.
    pub(super) tickets: BTreeMap<Ticket, (usize, u64)>,
    pub(super) ticket_last: u64,
    pub(super) serial_last: u64,
    pub(super) process_last: u64,
    pairing: Pairing,
    line: u64,
    pub(super) violation: Option<Violation>,
    pub(super) litmus: Option<(Running, Placing)>,
    pub(super) calm: bool,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, planted: Option<Planted>, keep_log: bool, litmus: Option<(Running, Placing)>) -> World {
        let mut prng = Prng::from_seed(seed);
        let mut swarm = Swarm::draw(&mut prng);
        swarm.take_changes(seed, &mut Prng::from_seed(!seed));
        if let Some((running, _)) = &litmus {
            swarm.run_litmus(running.test.sessions.len());
        }
        let (view, hasher) = formed_view(swarm.nodes, swarm.tokens, &mut prng);
        let mut world = World {
            log: EventLog::new(keep_log),
            counts: Counts::default(),
            now: Instant::ZERO,
            order: 0,
            agenda: BTreeMap::new(),
            links: Links::default(),
            ring: view.ring(),
            ring_before: view.ring(),
            hasher,
            planted,
            nodes: (1..=swarm.nodes).map(|id| Node::new(NodeId(id as u64), &view, planted)).collect(),
            clients: (0..swarm.clients).map(|at| Client::new(at as u64)).collect(),
            keys: Vec::new(),
            view,
            tickets: BTreeMap::new(),
            ticket_last: 0,
            serial_last: 0,
            process_last: swarm.clients as u64,
            pairing: Pairing::default(),
            line: 0,
            violation: None,
            litmus,
            calm: true,
            prng,
            swarm,
        };
        for (at, ordered) in [true, false].into_iter().enumerate() {
            for number in 0..world.swarm.keys[at] {
                world.key(ordered, format!("{}-{number}", if ordered { "ordered" } else { "available" }));
            }
        }
        world
    }

    /// The key of this name, by its index; a new one, if there is none yet.
    pub(super) fn key(&mut self, ordered: bool, name: String) -> usize {
        if let Some(at) = self.keys.iter().position(|key| key.name == name) {
            return at;
        }
        let bucket = BUCKETS[usize::from(!ordered)];
        let key = Bytes::from(name.clone());
        let position = self.hasher.position(bucket, &key);
        let kind = (!ordered).then_some(Kind::Value);
        self.keys.push(Key { key: replication::RegisterKey { position, bucket, key }, kind, name });
        self.keys.len() - 1
    }

    /// What a litmus test has shown.
    pub fn shown(&self) -> Shown {
        self.litmus.as_ref().map(|(running, _)| running.shown).unwrap_or_default()
    }

    /// Runs to the end: clients work under faults, then everything heals and every operation ends.
    pub fn run(&mut self) -> Result<History, Violation> {
        for node in 0..self.nodes.len() {
            self.at(Duration::ZERO, Happening::Start { node });
        }
        self.expect("a new fleet is whole", World::all_whole)?;
        self.calm = false;
        for client in 0..self.clients.len() {
            self.at(Duration::from_millis(1), Happening::Next { client });
        }
        self.plan_fault(self.swarm.crash_every, Happening::Crash);
        self.plan_fault(self.swarm.power_cut_every, Happening::PowerCut);
        self.plan_fault(self.swarm.partition_every, Happening::Partition);
        self.plan_fault(self.swarm.changes_every, Happening::Change);
        self.plan_fault(self.swarm.lose_disk_every, Happening::LoseDisk);
        self.run_until(|world| world.is_idle() && world.is_out_of_work(), FAULTS_MAX);
        self.settle();
        self.expect("every operation ends", World::is_idle)?;
        self.expect("every change is completed, and who left has nothing", World::changes_are_over)?;
        self.counts.simulated_ms = self.now.as_millis();
        Ok(std::mem::take(&mut self.pairing).finish())
    }

    pub(super) fn plan_fault(&mut self, every: Option<Duration>, what: Happening) {
        let Some(mean) = every else { return };
        let wait = mean.mul_f64(0.2 + 1.6 * self.prng.unit());
        self.at(wait, what);
    }

    fn expect(&mut self, invariant: &'static str, done: impl Fn(&World) -> bool) -> Result<(), Violation> {
        self.run_until(&done, SETTLE_MAX);
        if let Some(violation) = self.violation.take() {
            return Err(violation);
        }
        if done(self) {
            return Ok(());
        }
        Err(Violation { invariant, found: format!("not so {SETTLE_MAX:?} after the faults stopped") })
    }

    fn run_until(&mut self, done: impl Fn(&World) -> bool, at_most: Duration) {
        let end = self.now + at_most;
        while !done(self) && self.now < end {
            let Some(((at, planned), happening)) = self.agenda.pop_first() else { return };
            self.now = at;
            self.log.note(at, planned);
            self.counts.events += 1;
            self.happen(happening);
        }
    }

    pub(super) fn at(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.agenda.insert((self.now + after, self.order), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { from, to, bytes } => self.arrive(from, to, bytes),
            Happening::Ask { client, serial, to, asked, deadline } => self.ask((client, serial), to, *asked, deadline),
            Happening::Answer { client, serial, told } => self.take_answer(client, serial, &told),
            Happening::Failed { client, serial } => self.take_failure(client, serial),
            Happening::Next { client } => self.next_operation(client),
            Happening::Hedge { client, serial } => self.hedge(client, serial),
            Happening::GiveUp { client, serial } => self.give_up(client, serial),
            Happening::Tick { node, incarnation } => self.tick(node, incarnation),
            Happening::Synced { node, incarnation } => self.synced(node, incarnation),
            Happening::PeerLost { node, lost } => {
                if self.nodes[lost].running.is_none() {
                    let id = id_of(lost);
                    self.feed(node, replication::Input::PeerLost(id), available::Input::PeerLost(id));
                }
            }
            Happening::PeerFound { node, found } => {
                if self.nodes[found].running.is_some() {
                    let id = id_of(found);
                    self.feed(node, replication::Input::PeerFound(id), available::Input::PeerFound(id));
                }
            }
            Happening::Crash => self.crash_one(),
            Happening::Start { node } => self.start(node),
            Happening::PowerCut => self.power_cut(),
            Happening::Partition => self.partition(),
            Happening::Heal { links } => self.links.heal(&links),
            Happening::Change => self.change(),
            Happening::LoseDisk => self.lose_disk(),
            Happening::ViewNews { node } => self.view_news(node),
            Happening::KeepHouse { node } => self.keep_house(node),
            Happening::NoteCopied { node, change } => self.note_copied(node, change),
        }
    }

    pub(super) fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.now.as_millis()
    }

    fn is_idle(&self) -> bool {
        self.clients.iter().all(|client| client.current.is_none())
    }

    fn is_out_of_work(&self) -> bool {
        let drawn = self.serial_last >= self.swarm.operations as u64;
        self.litmus.as_ref().map_or(drawn, |(running, _)| running.is_over())
    }

    fn all_whole(&self) -> bool {
        self.nodes.iter().all(|node| node.running.as_ref().is_some_and(|cores| cores.available.is_whole()))
    }

    // ---- Nodes.

    fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() || self.nodes[node].gone {
            return;
        }
        self.log.push(self.now, format_args!("start node {}", node + 1));
        let (now, wall_ms) = (self.now, self.wall_ms());
        let view = self.view_at_start(node);
        let effects = self.nodes[node].start(now, wall_ms, &view, &mut self.prng);
        self.carry_out(node, effects);
        if self.swarm.changes_every.is_some() {
            self.at(Duration::from_millis(1), Happening::KeepHouse { node });
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.at(Duration::from_millis(1), Happening::PeerFound { node: other, found: node });
        }
    }

    fn stop(&mut self, node: usize) {
        self.log.push(self.now, format_args!("node {} stops", node + 1));
        self.nodes[node].crash(&mut self.prng);
        let away = Duration::from_micros(1_000 + self.prng.below(self.swarm.downtime_max.as_micros() as u64));
        self.at(away, Happening::Start { node });
        self.tell_of_loss(node);
    }

    /// Connections to a node that is gone break.
    pub(super) fn tell_of_loss(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.at(Duration::from_millis(1), Happening::PeerLost { node: other, lost: node });
        }
    }

    fn crash_one(&mut self) {
        if self.calm {
            return;
        }
        let node = self.prng.index(self.nodes.len());
        if self.nodes[node].running.is_some() {
            self.counts.faults += 1;
            self.stop(node);
        }
        self.plan_fault(self.swarm.crash_every, Happening::Crash);
    }

    fn power_cut(&mut self) {
        if self.calm {
            return;
        }
        self.counts.faults += 1;
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_some() {
                self.stop(node);
            }
        }
        self.plan_fault(self.swarm.power_cut_every, Happening::PowerCut);
    }

    fn partition(&mut self) {
        if self.calm {
            return;
        }
        self.counts.faults += 1;
        let links = self.links.partition(&mut self.prng, self.swarm.one_way, self.nodes.len());
        self.log.push(self.now, format_args!("partition {links:?}"));
        let length = Duration::from_millis(20 + self.prng.below(600));
        self.at(length, Happening::Heal { links });
        self.plan_fault(self.swarm.partition_every, Happening::Partition);
    }

    /// No more faults: everything comes back, and stays.
    fn settle(&mut self) {
        self.calm = true;
        self.links.heal_all();
        self.log.push(self.now, format_args!("faults stop"));
        for node in 0..self.nodes.len() {
            self.at(Duration::from_millis(1), Happening::Start { node });
            for found in (0..self.nodes.len()).filter(|found| *found != node) {
                self.at(Duration::from_millis(5), Happening::PeerFound { node, found });
            }
        }
    }

    /// The delays after which copies of a message arrive; none when it is lost. Clients reach every node, and what they
    /// ask is delivered once at most.
    pub(super) fn fates(&mut self, link: Option<(usize, usize)>) -> Vec<Duration> {
        if link.is_some_and(|link| self.links.is_cut(link)) {
            return Vec::new();
        }
        if self.calm {
            return vec![Duration::from_micros(200)];
        }
        if self.prng.chance(self.swarm.loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(link.is_some() && self.prng.chance(self.swarm.duplication));
        (0..copies).map(|_| self.delay()).collect()
    }

    fn delay(&mut self) -> Duration {
        let ordinary = Duration::from_nanos(50_000 + self.prng.below(self.swarm.delay_max.as_nanos() as u64));
        if self.prng.chance(self.swarm.straggling) {
            return ordinary + Duration::from_nanos(self.prng.below(self.swarm.straggle_max.as_nanos() as u64));
        }
        ordinary
    }

    fn arrive(&mut self, (from, incarnation): (NodeId, u64), to: usize, bytes: Bytes) {
        if self.nodes[to].running.is_none() {
            return;
        }
        let (now, context) = (self.now, TraceContext::NONE);
        let effects = match decoded(bytes) {
            Payload::Replica(message) => {
                self.log.push(now, format_args!("node {} from {}: {}", to + 1, from.0, Words(&message.body)));
                self.nodes[to].ordered(now, replication::Input::Message { from, incarnation, message, context })
            }
            Payload::Available { message, .. } => {
                self.log.push(now, format_args!("node {} from {}: {:?}", to + 1, from.0, message.body));
                self.nodes[to].available(now, available::Input::Message { from, message, context })
            }
            other => unreachable!("nodes say nothing else to each other: {other:?}"),
        };
        self.carry_out(to, effects);
    }

    fn tick(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation {
            return;
        }
        if self.nodes[node].tick_at.is_some_and(|planned| planned <= self.now) {
            self.nodes[node].tick_at = None;
        }
        let wall_ms = self.wall_ms();
        self.feed(node, replication::Input::Tick, available::Input::Tick { wall_ms });
    }

    fn synced(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation || self.nodes[node].running.is_none() {
            return;
        }
        let position = self.nodes[node].synced();
        self.feed(node, replication::Input::Synced(position), available::Input::Synced(position));
    }

    /// Tells both cores of a node.
    pub(super) fn feed(&mut self, node: usize, ordered: replication::Input, available: available::Input) {
        let now = self.now;
        let effects = self.nodes[node].ordered(now, ordered);
        self.carry_out(node, effects);
        let effects = self.nodes[node].available(now, available);
        self.carry_out(node, effects);
    }

    pub(super) fn carry_out(&mut self, node: usize, effects: Effects) {
        let incarnation = self.nodes[node].incarnation;
        if self.nodes[node].begin_sync() {
            let wait = Duration::from_nanos(50_000 + self.prng.below(self.swarm.sync_max.as_nanos() as u64));
            self.at(wait, Happening::Synced { node, incarnation });
        }
        for envelope in effects.ordered.send {
            self.send(node, envelope.to, Payload::Replica(envelope.message));
        }
        for envelope in effects.available.send {
            let durability = Durability::Disk;
            self.send(node, envelope.to, Payload::Available { durability, message: envelope.message });
        }
        for answer in effects.ordered.answers {
            let local = answer.receipt.rounds == 0 && matches!(answer.outcome, replication::Outcome::Value(_));
            self.counts.local_ordered += u64::from(local);
            self.answer(answer.ticket, Told::Ordered(answer.outcome, answer.receipt));
        }
        for answer in effects.available.answers {
            let read = matches!(answer.outcome, available::Outcome::Read { .. });
            self.counts.available_reads += u64::from(read);
            self.counts.local_available += u64::from(read && answer.receipt.rounds == 0);
            self.answer(answer.ticket, Told::Available(answer.outcome, answer.receipt));
        }
        let mut learned =
            effects.ordered.events.iter().any(|event| matches!(event, replication::Event::ViewLearned(_)));
        learned |= effects.available.events.iter().any(|event| matches!(event, available::Event::ViewLearned(_)));
        if learned {
            // What one core hears from another node, the shell tells both.
            self.at(Duration::from_micros(500), Happening::ViewNews { node });
        }
        self.note_view_of(node);
        let next = self.nodes[node].next_timeout();
        if let Some(at) = next
            && self.nodes[node].tick_at.is_none_or(|planned| at < planned)
        {
            let at = at.max(self.now);
            self.nodes[node].tick_at = Some(at);
            self.order += 1;
            self.agenda.insert((at, self.order), Happening::Tick { node, incarnation });
        }
    }

    fn send(&mut self, node: usize, to: NodeId, payload: Payload) {
        let (from, to) = ((id_of(node), self.nodes[node].incarnation), to.0 as usize - 1);
        let bytes = encoded(payload);
        for after in self.fates(Some((node, to))) {
            self.at(after, Happening::Arrive { from, to, bytes: bytes.clone() });
        }
    }

    fn answer(&mut self, ticket: Ticket, told: Told) {
        let Some((client, serial)) = self.tickets.remove(&ticket) else { return };
        for after in self.fates(None) {
            self.at(after, Happening::Answer { client, serial, told: Box::new(told.clone()) });
        }
    }

    // ---- Histories.

    pub(super) fn push(&mut self, client: usize, kind: EventKind, at: usize, write: Option<&str>, shown: Value) {
        self.line += 1;
        let process = Process::Client(self.clients[client].process as i64);
        let (function, value) = match write {
            Some(text) => (Function::Write, Value::from(text)),
            None => (Function::Read, shown),
        };
        let level = if self.keys[at].kind.is_none() { "sequential" } else { "causal" };
        let name = Value::from(self.keys[at].name.as_str());
        let event = Event { level: Some(level.to_owned()), ..Event::new(process, kind, function, name, value) };
        self.log.push(self.now, format_args!("{event:?}"));
        self.pairing.push(self.line, event).expect("a client asks once at a time and completes what it asked");
    }
}

/// The identity of a node by its index.
pub(super) fn id_of(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}
