//! The whole fleet in one thread and in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use history::{History, Pairing};
use membership::{BucketId, ClusterId, Epoch, KeyHasher, Member, NodeId, Ring, View, choose_tokens};
use replication::{Answer, Effects, Input, LogPosition, Operation, Record, RegisterKey, Rules, Ticket};
use stdx::{Instant, Prng, TraceContext};
use wire::node::{Frame, Payload};

use crate::client::{Client, Current, End, record_end, record_invoke};
use crate::event_log::EventLog;
use crate::invariants::{Registers, Violation};
use crate::network::{Network, Place};
use crate::node::SimNode;
use crate::swarm::Swarm;

/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(1);
/// The wall clock at the beginning of a run, in milliseconds; any number far from zero.
const WALL_START_MS: u64 = 1_700_000_000_000;
/// Faults stop at this time at the latest; clients are done long before.
const FAULTS_MAX: Duration = Duration::from_secs(120);
/// When faults have stopped, everything must be answered within this time.
const SETTLE_MAX: Duration = Duration::from_secs(20);

/// What can happen.
#[derive(Clone, Debug)]
enum Happening {
    /// Bytes reach a node.
    Arrive { from: NodeId, to: usize, bytes: Bytes },
    /// A client's operation reaches a node.
    Ask { client: usize, to: usize, serial: u64, operation: Operation },
    /// An answer reaches a client.
    Answer { client: usize, serial: u64, answer: Answer },
    /// A client does its next thing, or asks the next replica.
    Wake { client: usize, serial: u64 },
    /// A core's timer.
    Tick { node: usize, incarnation: u64 },
    /// A disk has synced.
    Synced { node: usize, incarnation: u64 },
    /// A node crashes.
    Crash { node: usize },
    /// A node starts.
    Start { node: usize },
    /// A node is stopped in its tracks, for this long.
    Pause { node: usize, length: Duration },
    /// A stopped node goes on.
    Resume { node: usize },
    /// Some links break.
    Partition,
    /// They are joined again.
    Heal { links: Vec<(usize, usize)> },
    /// Every node loses power at once.
    PowerCut,
    /// One node's disk is lost.
    LoseDisk,
}

/// A run in progress.
pub(crate) struct World<R: Rules> {
    pub swarm: Swarm,
    pub log: EventLog,
    now: Instant,
    order: u64,
    agenda: BTreeMap<(Instant, u64), Happening>,
    prng: Prng,
    network: Network,
    view: View,
    ring: Ring,
    nodes: Vec<SimNode<R>>,
    /// What came while a node was stopped.
    backlog: Vec<VecDeque<Happening>>,
    clients: Vec<Client>,
    keys: Vec<RegisterKey>,
    tickets: BTreeMap<Ticket, (usize, u64)>,
    ticket_last: u64,
    serial_last: u64,
    process_last: u64,
    line: u64,
    pairing: Pairing,
    registers: Registers,
    violation: Option<Violation>,
    amnesia: bool,
    calm: bool,
    /// Operations that were answered.
    pub answered: u64,
    /// Faults that happened.
    pub faults: u64,
}

impl<R: Rules> World<R> {
    /// The world of a seed. `amnesia` plants the node that comes back under its old identity after its disk was lost.
    pub fn new(seed: u64, keep_log: bool, amnesia: bool) -> World<R> {
        let mut prng = Prng::from_seed(seed);
        let swarm = Swarm::draw(&mut prng);
        let (view, hasher) = formed_view(&swarm, &mut prng);
        let ring = view.ring();
        let network = Network::new(prng.fork());
        let nodes = (1..=swarm.nodes).map(|id| SimNode::new(NodeId(id as u64), &mut prng)).collect();
        let keys = (0..swarm.keys).map(|at| {
            let key = Bytes::from(format!("k{at}"));
            RegisterKey { position: hasher.position(BucketId(1), &key), bucket: BucketId(1), key }
        });
        let mut world = World {
            log: EventLog::new(keep_log),
            now: Instant::ZERO,
            order: 0,
            agenda: BTreeMap::new(),
            network,
            ring,
            view,
            nodes,
            backlog: vec![VecDeque::new(); swarm.nodes],
            clients: (0..swarm.clients).map(|at| Client::new(at as u64)).collect(),
            keys: keys.collect(),
            tickets: BTreeMap::new(),
            ticket_last: 0,
            serial_last: 0,
            process_last: swarm.clients as u64,
            line: 0,
            pairing: Pairing::default(),
            registers: Registers::default(),
            violation: None,
            amnesia,
            calm: false,
            answered: 0,
            faults: 0,
            prng,
            swarm,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            self.at(Duration::ZERO, Happening::Start { node });
        }
        for client in 0..self.clients.len() {
            self.at(Duration::from_millis(1), Happening::Wake { client, serial: 0 });
        }
        self.plan_fault(self.swarm.crash_every, |world| Happening::Crash { node: world.any_node() });
        self.plan_fault(self.swarm.pause_every, |world| {
            let length = Duration::from_millis(5 + world.prng.below(1_500));
            Happening::Pause { node: world.any_node(), length }
        });
        self.plan_fault(self.swarm.partition_every, |_| Happening::Partition);
        self.plan_fault(self.swarm.power_cut_every, |_| Happening::PowerCut);
        if self.swarm.lose_disk {
            self.plan_fault(Some(Duration::from_millis(300)), |_| Happening::LoseDisk);
        }
    }

    /// Runs to the end: first under faults, then until everything has healed and settled.
    pub fn run(&mut self) -> Result<History, Violation> {
        self.run_until(|world| world.idle() && world.serial_last >= world.swarm.operations as u64, FAULTS_MAX)?;
        self.settle();
        self.run_until(World::idle, SETTLE_MAX)?;
        if !self.idle() {
            let found = format!("an operation is unanswered {SETTLE_MAX:?} after the faults stopped");
            return Err(Violation { invariant: "every_operation_ends", found });
        }
        self.read_everything()?;
        Ok(std::mem::take(&mut self.pairing).finish())
    }

    fn run_until(&mut self, done: impl Fn(&World<R>) -> bool, at_most: Duration) -> Result<(), Violation> {
        let end = self.now + at_most;
        while !done(self) && self.now < end {
            let Some(((at, _), happening)) = self.agenda.pop_first() else { break };
            self.now = at;
            self.happen(happening);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    /// Faults are over: everybody comes back.
    fn settle(&mut self) {
        self.calm = true;
        self.network.settle();
        self.log.push(self.now, format_args!("settle"));
        for node in 0..self.nodes.len() {
            if self.nodes[node].paused_until.is_some() {
                self.at(Duration::ZERO, Happening::Resume { node });
            }
            if self.nodes[node].running.is_none() && !self.nodes[node].gone {
                self.at(Duration::ZERO, Happening::Start { node });
            }
        }
    }

    /// A last read of every key: it must be answered, and what it says closes the history.
    fn read_everything(&mut self) -> Result<(), Violation> {
        for key in 0..self.keys.len() {
            self.serial_last += 1;
            let operation = Operation::Read { key: self.keys[key].clone() };
            let current = Current {
                serial: self.serial_last,
                key,
                operation,
                function: history::Function::Read,
                input: history::Value::Null,
                deadline: Instant::ZERO,
                order: Vec::new(),
                attempts: 0,
                refused: 0,
            };
            let answered = self.answered;
            self.invoke(0, current);
            self.run_until(World::idle, SETTLE_MAX)?;
            if self.answered == answered {
                let found = format!("no final answer for k{key}, though all is calm");
                return Err(Violation { invariant: "a_calm_fleet_answers", found });
            }
        }
        Ok(())
    }

    fn idle(&self) -> bool {
        self.clients.iter().all(|client| client.current.is_none())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { from, to, bytes } => self.arrive(from, to, bytes),
            Happening::Ask { client, to, serial, operation } => self.take_operation(client, to, serial, operation),
            Happening::Answer { client, serial, answer } => self.take_answer(client, serial, &answer),
            Happening::Wake { client, serial } => self.wake(client, serial),
            Happening::Tick { node, incarnation } => self.tick(node, incarnation),
            Happening::Synced { node, incarnation } => self.synced(node, incarnation),
            Happening::Crash { node } => self.crash(node, true),
            Happening::Start { node } => self.start(node),
            Happening::Pause { node, length } => self.pause(node, length),
            Happening::Resume { node } => self.resume(node),
            Happening::Partition => self.partition(),
            Happening::Heal { links } => {
                self.log.push(self.now, format_args!("heal {links:?}"));
                self.network.heal(&links);
            }
            Happening::PowerCut => self.power_cut(),
            Happening::LoseDisk => self.lose_disk(),
        }
    }

    fn at(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.agenda.insert((self.now + after, self.order), happening);
    }

    /// Plans the next fault of a kind, exponentially distributed around its mean.
    fn plan_fault(&mut self, every: Option<Duration>, fault: impl Fn(&mut World<R>) -> Happening) {
        if let Some(mean) = every {
            let after = mean.mul_f64(-(1.0 - self.prng.unit()).ln());
            let happening = fault(self);
            self.at(after, happening);
        }
    }

    fn any_node(&mut self) -> usize {
        let nodes = self.nodes.len();
        self.prng.index(nodes)
    }

    fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.now.as_millis()
    }

    fn index_of(&self, id: NodeId) -> usize {
        id.0 as usize - 1
    }
}

/// Clients.
impl<R: Rules> World<R> {
    fn wake(&mut self, client: usize, serial: u64) {
        match self.clients[client].current.as_ref() {
            None if !self.calm && self.serial_last < self.swarm.operations as u64 => {
                self.serial_last += 1;
                let key = self.prng.index(self.keys.len());
                let (serial, wall_ms) = (self.serial_last, self.wall_ms());
                let register = self.keys[key].clone();
                let current = self.clients[client].draw(&mut self.prng, serial, key, &register, wall_ms);
                self.invoke(client, current);
            }
            Some(current) if current.serial == serial => {
                if self.now >= current.deadline {
                    let end = Client::late(current);
                    self.end(client, end);
                } else {
                    self.attempt(client);
                }
            }
            _ => {}
        }
    }

    fn invoke(&mut self, client: usize, mut current: Current) {
        self.line += 1;
        record_invoke(&mut self.pairing, self.line, &self.clients[client], &current);
        current.deadline = self.now + DEADLINE;
        current.order = self.ring.replicas_of(self.keys[current.key].position).to_vec();
        // Usually the first replica is asked first, as a gateway would; sometimes any, so that coordinators compete.
        if self.prng.one_in(5) {
            let turn = self.prng.index(current.order.len());
            current.order.rotate_left(turn);
        }
        let what = (current.serial, current.function.name().to_owned(), current.key);
        self.log.push(self.now, format_args!("client {client} op {} {} k{}", what.0, what.1, what.2));
        self.clients[client].current = Some(current);
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        let Some(current) = self.clients[client].current.as_mut() else { return };
        let operation = Client::attempt(current);
        let to = current.order[current.attempts % current.order.len()];
        current.attempts += 1;
        let (serial, deadline) = (current.serial, current.deadline);
        let to = self.index_of(to);
        for fate in self.network.fates(&self.swarm, Place::Client(client), Place::Node(to)) {
            self.at(fate, Happening::Ask { client, to, serial, operation: operation.clone() });
        }
        let patience = self.swarm.hedge.mul_f64(0.5 + self.prng.unit());
        let left = deadline.since(self.now);
        self.at(patience.min(left), Happening::Wake { client, serial });
    }

    fn take_operation(&mut self, client: usize, to: usize, serial: u64, operation: Operation) {
        if self.set_aside(to, || Happening::Ask { client, to, serial, operation: operation.clone() }) {
            return;
        }
        self.ticket_last += 1;
        let ticket = Ticket(self.ticket_last);
        self.tickets.insert(ticket, (client, serial));
        let (deadline, wall_ms) = (self.now + DEADLINE, self.wall_ms());
        let context = TraceContext::NONE;
        self.handle(to, Input::Operation { ticket, operation, deadline, wall_ms, context });
    }

    fn take_answer(&mut self, client: usize, serial: u64, answer: &Answer) {
        let current = self.clients[client].current.as_ref();
        if current.is_none_or(|current| current.serial != serial) {
            return;
        }
        if let Some(end) = self.clients[client].judge(&answer.outcome) {
            self.end(client, end);
        }
    }

    fn end(&mut self, client: usize, end: End) {
        let Some(current) = self.clients[client].current.take() else { return };
        self.line += 1;
        record_end(&mut self.pairing, self.line, &self.clients[client], &current, &end);
        self.log.push(self.now, format_args!("client {client} op {} {end:?}", current.serial));
        match end {
            End::Ok { acknowledged, .. } => {
                self.answered += 1;
                if let Some(request) = acknowledged {
                    let checked = self.registers.acknowledged(&self.keys[current.key], request);
                    self.note(checked);
                }
            }
            End::Fail => {}
            End::Info => {
                // A client that does not know is a new client from now on.
                self.process_last += 1;
                self.clients[client].process = self.process_last;
            }
        }
        let pause = Duration::from_micros(self.prng.below(4_000));
        self.at(pause, Happening::Wake { client, serial: 0 });
    }
}

/// Nodes.
impl<R: Rules> World<R> {
    /// Whether what happens to a node must wait, or is lost on it.
    fn set_aside(&mut self, node: usize, happening: impl Fn() -> Happening) -> bool {
        if self.nodes[node].running.is_none() {
            return true;
        }
        if self.nodes[node].paused_until.is_some() {
            self.backlog[node].push_back(happening());
            return true;
        }
        false
    }

    fn arrive(&mut self, from: NodeId, to: usize, bytes: Bytes) {
        if self.set_aside(to, || Happening::Arrive { from, to, bytes: bytes.clone() }) {
            return;
        }
        let frame = wire::codec::decode(bytes).expect("what the fleet encodes, it decodes");
        if let Payload::Replica(message) = frame.payload {
            self.log.push(self.now, format_args!("node {} from {} {:?}", to + 1, from.0, message.body));
            self.handle(to, Input::Message { from, message, context: frame.context });
        }
    }

    fn tick(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation || self.set_aside(node, || Happening::Tick { node, incarnation })
        {
            return;
        }
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.tick_at = None;
        }
        self.handle(node, Input::Tick);
    }

    fn synced(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation
            || self.set_aside(node, || Happening::Synced { node, incarnation })
        {
            return;
        }
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        running.syncing = false;
        let through = running.log.flush().expect("the simulated disk works");
        let mut durable = Vec::new();
        while running.unsynced.front().is_some_and(|(position, ..)| position.0 <= through) {
            durable.extend(running.unsynced.pop_front());
        }
        for (_, key, ballot) in durable {
            let majority = self.view.replication / 2 + 1;
            let checked = self.registers.durable(&key, ballot, node, majority);
            self.note(checked);
        }
        self.log.push(self.now, format_args!("node {} synced {through}", node + 1));
        self.handle(node, Input::Synced(LogPosition(through)));
    }

    fn handle(&mut self, node: usize, input: Input) {
        let now = self.now;
        let effects = self.nodes[node].handle(now, input);
        self.carry_out(node, effects);
    }

    fn carry_out(&mut self, node: usize, effects: Effects) {
        for (position, record) in effects.persist {
            self.persist(node, position, &record);
        }
        let from = self.nodes[node].id;
        for envelope in effects.send {
            let to = self.index_of(envelope.to);
            let mut bytes = BytesMut::new();
            let frame = Frame { context: envelope.context, payload: Payload::Replica(envelope.message) };
            wire::codec::encode(&frame, &mut bytes);
            let bytes = bytes.freeze();
            for fate in self.network.fates(&self.swarm, Place::Node(node), Place::Node(to)) {
                self.at(fate, Happening::Arrive { from, to, bytes: bytes.clone() });
            }
        }
        for answer in effects.answers {
            let Some((client, serial)) = self.tickets.remove(&answer.ticket) else { continue };
            self.log.push(now_of(self), format_args!("node {} answers {serial} {:?}", node + 1, answer.outcome));
            for fate in self.network.fates(&self.swarm, Place::Node(node), Place::Client(client)) {
                self.at(fate, Happening::Answer { client, serial, answer: answer.clone() });
            }
        }
        self.arm(node);
    }

    fn persist(&mut self, node: usize, position: LogPosition, record: &Record) {
        if let Record::Accepted { key, ballot, state } = record {
            let checked = self.registers.accepted(key, *ballot, state);
            self.note(checked);
        }
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let sequence = running.log.append(&wire::codec::encode_record(record)).expect("the simulated disk has room");
        assert_eq!(sequence, position.0, "core and log count alike");
        if let Record::Accepted { key, ballot, .. } = record {
            running.unsynced.push_back((position, key.clone(), *ballot));
        }
        if !running.syncing {
            running.syncing = true;
            let incarnation = self.nodes[node].incarnation;
            let length = Duration::from_nanos(50_000 + self.prng.below(self.swarm.sync_max.as_nanos() as u64));
            self.at(length, Happening::Synced { node, incarnation });
        }
    }

    fn arm(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let Some(due) = running.replica.next_timeout() else { return };
        if running.tick_at.is_some_and(|at| at <= due) {
            return;
        }
        running.tick_at = Some(due);
        let incarnation = self.nodes[node].incarnation;
        self.at(due.since(self.now), Happening::Tick { node, incarnation });
    }

    fn note(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.log.push(self.now, format_args!("VIOLATION {violation:?}"));
            self.violation.get_or_insert(violation);
        }
    }
}

/// Faults.
impl<R: Rules> World<R> {
    fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() || self.nodes[node].gone {
            return;
        }
        self.log.push(self.now, format_args!("start node {}", node + 1));
        let view = self.view.clone();
        let effects = self.nodes[node].start(self.now, &view, &mut self.prng);
        self.carry_out(node, effects);
    }

    fn crash(&mut self, node: usize, planned: bool) {
        if planned {
            self.plan_fault(self.swarm.crash_every, |world| Happening::Crash { node: world.any_node() });
        }
        if self.calm || self.nodes[node].running.is_none() {
            return;
        }
        self.faults += 1;
        self.log.push(self.now, format_args!("crash node {}", node + 1));
        self.nodes[node].crash();
        self.nodes[node].paused_until = None;
        self.backlog[node].clear();
        let away = Duration::from_nanos(self.prng.below(self.swarm.downtime_max.as_nanos() as u64));
        self.at(away, Happening::Start { node });
    }

    fn pause(&mut self, node: usize, length: Duration) {
        self.plan_fault(self.swarm.pause_every, |world| {
            let length = Duration::from_millis(5 + world.prng.below(1_500));
            Happening::Pause { node: world.any_node(), length }
        });
        if self.calm || !self.nodes[node].is_working() {
            return;
        }
        self.faults += 1;
        self.log.push(self.now, format_args!("pause node {} for {length:?}", node + 1));
        self.nodes[node].paused_until = Some(self.now + length);
        self.at(length, Happening::Resume { node });
    }

    fn resume(&mut self, node: usize) {
        let Some(until) = self.nodes[node].paused_until else { return };
        if !self.calm && self.now < until {
            return;
        }
        self.log.push(self.now, format_args!("resume node {}", node + 1));
        self.nodes[node].paused_until = None;
        for happening in std::mem::take(&mut self.backlog[node]) {
            self.at(Duration::ZERO, happening);
        }
    }

    fn partition(&mut self) {
        self.plan_fault(self.swarm.partition_every, |_| Happening::Partition);
        if self.calm {
            return;
        }
        self.faults += 1;
        let links = self.network.partition(&self.swarm);
        self.log.push(self.now, format_args!("cut {links:?}"));
        let length = Duration::from_millis(20 + self.prng.below(800));
        self.at(length, Happening::Heal { links });
    }

    fn power_cut(&mut self) {
        self.plan_fault(self.swarm.power_cut_every, |_| Happening::PowerCut);
        for node in 0..self.nodes.len() {
            self.crash(node, false);
        }
    }

    /// One node loses its disk. It forgot what it promised, so it must not come back as the one it was; the planted bug
    /// lets it.
    fn lose_disk(&mut self) {
        if self.calm {
            return;
        }
        self.faults += 1;
        let node = self.any_node();
        self.log.push(self.now, format_args!("node {} loses its disk", node + 1));
        self.nodes[node].crash();
        self.nodes[node].paused_until = None;
        self.backlog[node].clear();
        self.nodes[node].disk = store::SimDisk::new(self.prng.next_u64());
        self.nodes[node].gone = !self.amnesia;
        if self.amnesia {
            self.at(Duration::from_millis(1), Happening::Start { node });
        }
    }
}

fn now_of<R: Rules>(world: &World<R>) -> Instant {
    world.now
}

/// A formed view of the run's nodes, with tokens and hash key of its own.
fn formed_view(swarm: &Swarm, prng: &mut Prng) -> (View, KeyHasher) {
    let hasher = KeyHasher::new(&prng.next_u64().to_le_bytes());
    let mut view = View::forming(ClusterId(7), 3, swarm.nodes, hasher.fingerprint());
    for id in 1..=swarm.nodes as u64 {
        let taken: Vec<_> = view.members.iter().flat_map(|member| member.tokens.clone()).collect();
        let tokens = choose_tokens(&taken, swarm.tokens, prng);
        view.members.push(Member { id: NodeId(id), name: format!("n{id}"), zone: None, tokens });
    }
    view.epoch = Epoch(1);
    view.validate().expect("the drawn view is sound");
    (view, hasher)
}
