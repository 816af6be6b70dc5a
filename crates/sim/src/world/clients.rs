//! Clients, their gateways' dispatches, and operations on their way.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dispatch::{Dispatch, Failure, Input, Output, Plan, Verdict};
use membership::NodeId;
use replication::{
    Answer, Ballot, Change, Condition, Input as ReplicaInput, Operation, Refusal, RequestId, Terms, Ticket,
    Value as Stored, Write,
};
use stdx::{Instant, TraceContext};
use wire::node::{Frame, OperationCall, Payload};

use super::{Call, Happening, World};
use crate::client::{Current, Drawn, End, KeyKind, Load, Purpose};
use crate::invariants::invariant_an_answer_is_no_earlier_than_what_it_shows;
use crate::litmus::ReadLevel;
use crate::network::Place;
use crate::swarm::{LULL, Swarm};

/// Most frames are no longer.
const FRAME_USUAL_BYTES: usize = 512;
/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(1);

impl<C: chord::Rules> World<C> {
    pub(super) fn next_operation(&mut self, client: usize) {
        if self.calm || self.is_out_of_work() || self.clients[client].current.is_some() {
            return;
        }
        if self.litmus.is_some() {
            return self.next_litmus_step(client);
        }
        let key = self.prng.index(self.keys.len());
        let (register, kind) = self.keys[key].clone();
        let (serial, wall_ms) = (self.serial_last + 1, self.wall_ms());
        // What a lock guards is only written under its token.
        let lock = if kind == KeyKind::Guarded { key - 1 } else { key };
        let drawn = if self.keys[lock].1 == KeyKind::Lock {
            let keys = (lock, &self.keys[lock].0, &self.keys[lock + 1].0);
            self.clients[client].draw_lock(&mut self.prng, serial, keys, wall_ms)
        } else {
            let Swarm { sessions, lives, only, lull_after, .. } = self.swarm;
            let load = Load { wall_ms, sessions, lives, only, deletes: lull_after > 0 };
            self.clients[client].draw(&mut self.prng, serial, (key, kind), &register, load)
        };
        self.begin_operation(client, drawn);
    }

    fn next_litmus_step(&mut self, client: usize) {
        let Some(running) = &self.litmus else { return };
        let Some((key, write)) = running.next(client) else { return };
        let sequential = write.is_none() && running.level == ReadLevel::Sequential;
        let (register, serial) = (self.keys[key].0.clone(), self.serial_last + 1);
        let drawn = match write {
            None => {
                let operation = Operation::Read { key: register };
                let (function, input) = (history::Function::Read, history::Value::Null);
                Drawn { key, operation, function, input, purpose: Purpose::History, sequential }
            }
            Some(value) => {
                let value = value.to_string();
                let body = Bytes::from(value.clone());
                let change = Change::Put(Stored { body, content_type: Bytes::new() });
                let (request, first_sent_ms) = (RequestId(u128::from(serial) << 64), self.wall_ms());
                let condition = Condition::Always;
                let terms = Terms::default();
                let write = Write { key: register, request, first_sent_ms, retry: false, condition, change, terms };
                let (function, input) = (history::Function::Write, history::Value::from(value));
                let operation = Operation::Write(write);
                Drawn { key, operation, function, input, purpose: Purpose::History, sequential }
            }
        };
        self.begin_operation(client, drawn);
    }

    /// Tells the litmus test how a step ended; at the end of a round all sessions go on, as new ones.
    fn end_litmus_step(&mut self, client: usize, end: &End) {
        // What is asked once all is calm is no part of the test.
        let calm = self.calm;
        let Some(running) = self.litmus.as_mut().filter(|running| !calm && !running.is_over()) else { return };
        let answered = match end {
            End::Ok { output, .. } => Some(output.as_text().and_then(|text| text.parse().ok())),
            End::Fail(_) | End::Remembered(_) | End::Info => None,
        };
        let round_over = running.ended(client, answered);
        for other in 0..self.clients.len() {
            if round_over {
                self.process_last += 1;
                (self.clients[other].process, self.clients[other].time) = (self.process_last, Ballot::ZERO);
            }
            let pause = Duration::from_micros(self.prng.below(3_000));
            self.at(pause, Happening::Next { client: other });
        }
    }

    pub(super) fn begin_operation(&mut self, client: usize, drawn: Drawn) {
        self.serial_last += 1;
        let serial = self.serial_last;
        self.recorder.now_ns = self.now.as_nanos() as i64;
        let line = match drawn.purpose {
            Purpose::History => self.recorder.invoke(self.clients[client].process, &drawn),
            Purpose::Outcome { .. } => self.recorder.next_line(),
        };
        let what = if drawn.purpose == Purpose::History { drawn.function.name() } else { "outcome" };
        self.log.push(self.now, format_args!("client {client} op {serial} {what} k{} {}", drawn.key, drawn.input));
        let deadline = self.now + DEADLINE;
        let plan = self.plan_attempts(client, &drawn.operation, deadline);
        let dispatch = Dispatch::new(plan, self.prng.fork());
        let current = Current { serial, line, drawn, deadline, dispatch, wake_at: None };
        self.clients[client].current = Some(current);
        self.feed(client, Input::Started);
    }

    fn plan_attempts(&mut self, client: usize, operation: &Operation, deadline: Instant) -> Plan {
        let mut replicas = self.gateways[client].sets_of(operation.key().position).iter().collect::<Vec<NodeId>>();
        // Usually the owner is asked first; sometimes any replica, so that coordinators compete.
        if self.swarm.competing || (self.swarm.only.is_none() && self.prng.one_in(20)) {
            let turn = self.prng.index(replicas.len());
            replicas.rotate_left(turn);
        }
        let doubts = |node: &NodeId| {
            let unreachable = self.swarm.resets && self.nodes[self.index_of(*node)].running.is_none();
            unreachable || self.clients[client].doubts(*node, self.now)
        };
        let doubtful = replicas.iter().copied().filter(doubts).collect();
        let write = matches!(operation, Operation::Write(_));
        Plan { replicas, doubtful, deadline, hedge: self.swarm.hedge, write }
    }

    /// Gives the client's dispatch one input, and does what it wants.
    fn feed(&mut self, client: usize, input: Input) {
        let now = self.now;
        let mut out = Vec::new();
        let whole = &mut self.clients[client];
        let Some(current) = whole.current.as_mut() else { return };
        current.dispatch.handle(now, input, &mut whole.budget, &mut out);
        for output in out {
            match output {
                Output::Ask { node, attempt, retry } => self.ask(client, node, attempt, retry),
                Output::Finish(verdict) => return self.finish_operation(client, verdict),
            }
        }
        let Some(current) = self.clients[client].current.as_mut() else { return };
        let Some(due) = current.dispatch.next_timeout() else { return };
        if current.wake_at.is_none_or(|at| due < at) {
            current.wake_at = Some(due);
            let serial = current.serial;
            self.at(due.since(now), Happening::Wake { client, serial });
        }
    }

    fn ask(&mut self, client: usize, node: NodeId, attempt: u32, retry: bool) {
        let to = self.index_of(node);
        let Some(current) = self.clients[client].current.as_ref() else { return };
        let (serial, deadline) = (current.serial, current.deadline);
        let mut operation = current.drawn.operation.clone();
        if let Some(write) = operation.write_mut() {
            write.retry |= retry;
        }
        if self.swarm.sessions && current.drawn.purpose == Purpose::History {
            let (since, sequential) = (self.clients[client].time, current.drawn.sequential);
            operation = Operation::InSession { since, sequential, operation: Box::new(operation) };
        }
        self.call_last += 1;
        let call = self.call_last;
        self.calls.insert(call, Call { client, serial, attempt, node: to });
        self.log.push(self.now, format_args!("client {client} op {serial} attempt {attempt} at node {}", to + 1));
        if self.swarm.resets && self.nodes[to].running.is_none() {
            // There is no connection: surely not sent.
            return self.at(Duration::from_micros(50), Happening::Failed { call, failure: Failure::NotSent });
        }
        let deadline_ms = budget_ms(self.now, deadline);
        let payload = Payload::Operation(OperationCall { call, deadline_ms, operation });
        let bytes = encoded(payload);
        for fate in self.network.fates(&self.swarm, Place::Client(client), Place::Node(to)) {
            self.at(fate, Happening::Ask { client, to, call, bytes: bytes.clone() });
        }
    }

    pub(super) fn take_operation(&mut self, client: usize, to: usize, call: u64, bytes: Bytes) {
        if self.nodes[to].running.is_none() {
            if self.swarm.resets {
                self.at(Duration::from_micros(100), Happening::Failed { call, failure: Failure::Reset });
            }
            return;
        }
        if self.set_aside(to, || Happening::Ask { client, to, call, bytes: bytes.clone() }) {
            return;
        }
        let Payload::Operation(OperationCall { call, deadline_ms, operation }) = decoded(bytes) else { return };
        self.ticket_last += 1;
        let ticket = Ticket(self.ticket_last);
        self.tickets.insert(ticket, (client, call));
        let deadline = self.now_at(to) + Duration::from_millis(u64::from(deadline_ms));
        let (wall_ms, context) = (self.wall_ms_of(to), TraceContext::NONE);
        self.handle(to, ReplicaInput::Operation { ticket, operation, deadline, wall_ms, context });
    }

    /// A coordinator answers.
    pub(super) fn send_answer(&mut self, node: usize, answer: Answer) {
        let Some((client, call)) = self.tickets.remove(&answer.ticket) else { return };
        self.log.push(self.now, format_args!("node {} answers call {call}: {:?}", node + 1, answer.outcome));
        self.note(invariant_an_answer_is_no_earlier_than_what_it_shows(&answer.outcome, answer.receipt.time));
        let payload = Payload::OperationReply { call, outcome: answer.outcome, receipt: answer.receipt };
        let bytes = encoded(payload);
        for fate in self.network.fates(&self.swarm, Place::Node(node), Place::Client(client)) {
            self.at(fate, Happening::Answer { bytes: bytes.clone() });
        }
    }

    pub(super) fn take_answer(&mut self, bytes: Bytes) {
        let Payload::OperationReply { call, outcome, receipt } = decoded(bytes) else { return };
        let Some(Call { client, serial, attempt, node }) = self.calls.remove(&call) else { return };
        if self.is_at(client, serial) {
            let node = self.nodes[node].id;
            self.clients[client].trust(node);
            self.feed(client, Input::Answered { attempt, outcome, receipt });
        }
    }

    pub(super) fn take_failure(&mut self, call: u64, failure: Failure) {
        let Some(Call { client, serial, attempt, .. }) = self.calls.remove(&call) else { return };
        if self.is_at(client, serial) {
            self.feed(client, Input::Failed { attempt, failure });
        }
    }

    /// The connections of clients to a node break with what is under way on them.
    pub(super) fn break_connections(&mut self, node: usize) {
        if self.swarm.resets {
            let broken: Vec<u64> = self.calls.iter().filter(|(_, c)| c.node == node).map(|(id, _)| *id).collect();
            for call in broken {
                let after = Duration::from_micros(50 + self.prng.below(2_000));
                self.at(after, Happening::Failed { call, failure: Failure::Reset });
            }
        }
    }

    pub(super) fn wake(&mut self, client: usize, serial: u64) {
        if self.is_at(client, serial) {
            if let Some(current) = self.clients[client].current.as_mut() {
                current.wake_at = None;
            }
            self.feed(client, Input::Tick);
        }
    }

    fn is_at(&self, client: usize, serial: u64) -> bool {
        self.clients[client].current.as_ref().is_some_and(|current| current.serial == serial)
    }

    fn finish_operation(&mut self, client: usize, verdict: Verdict) {
        let now = self.now;
        let Some(current) = self.clients[client].current.take() else { return };
        if let Verdict::Answered { receipt, .. } = &verdict {
            self.clients[client].time = self.clients[client].time.max(receipt.time);
            self.clients[client].doubt(current.dispatch.silent(), now);
        }
        self.calls.retain(|_, call| call.client != client);
        let end = self.clients[client].judge(&current.drawn, verdict);
        self.log.push(now, format_args!("client {client} op {} ends {end:?}", current.serial));
        match current.drawn.purpose {
            Purpose::History => self.finish_recorded(client, &current, &end),
            Purpose::Outcome { of_line } => {
                if let End::Remembered(effect) = end {
                    self.counts.answered += 1;
                    let learned = self.recorder.learn(of_line, current.line, effect, self.wall_ms_max());
                    self.note(learned);
                }
            }
        }
        let rests = self.swarm.lull_after > 0 && self.serial_last / self.swarm.lull_after as u64 > self.lulls;
        if rests {
            self.lulls += 1;
            self.lull_until = self.now + LULL;
        }
        let pause = Duration::from_micros(self.prng.below(self.swarm.pause_max.as_micros() as u64));
        let pause = self.lull_until.since(now) + pause;
        self.at(pause, Happening::Next { client });
    }

    fn finish_recorded(&mut self, client: usize, current: &Current, end: &End) {
        self.recorder.now_ns = self.now.as_nanos() as i64;
        self.recorder.complete(self.clients[client].process, current.line, &current.drawn, end);
        self.end_litmus_step(client, end);
        match end {
            End::Ok { acknowledged, .. } => {
                self.counts.answered += 1;
                if let Some(request) = acknowledged {
                    let checked = self.registers.acknowledged(current.drawn.operation.key(), *request);
                    self.note(checked);
                }
            }
            End::Fail(refusal) => self.counts.disk_refusals += u64::from(*refusal == Some(Refusal::DiskFull)),
            End::Remembered(_) => {}
            End::Info => {
                // A client that does not know is a new client from now on. Half of them ask what became of it.
                self.counts.unknown += 1;
                self.process_last += 1;
                self.clients[client].process = self.process_last;
                self.clients[client].time = Ballot::ZERO;
                self.clients[client].holds.clear();
                if self.prng.one_in(2)
                    && self.litmus.is_none()
                    && !self.calm
                    && let Some(drawn) = self.outcome_query(current.line)
                {
                    self.begin_operation(client, drawn);
                }
            }
        }
    }

    /// The question what became of the unknown write of this line.
    pub(super) fn outcome_query(&self, of_line: u64) -> Option<Drawn> {
        let unknown = self.recorder.unknown.get(&of_line)?;
        let operation = Operation::Outcome { key: unknown.write.key.clone(), request: unknown.write.request };
        let (function, input) = (history::Function::Read, history::Value::Null);
        Some(Drawn {
            key: unknown.key,
            operation,
            function,
            input,
            purpose: Purpose::Outcome { of_line },
            sequential: false,
        })
    }
}

/// How long a node is given: a little less than is left, as the gateway does it.
fn budget_ms(now: Instant, deadline: Instant) -> u32 {
    let left = deadline.since(now);
    let margin = (left / 10).min(Duration::from_millis(10));
    u32::try_from((left - margin).as_millis()).unwrap_or(u32::MAX).max(1)
}

pub(crate) fn encoded(payload: Payload) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FRAME_USUAL_BYTES);
    wire::codec::encode(&Frame { context: TraceContext::NONE, payload }, &mut bytes);
    bytes.freeze()
}

pub(crate) fn decoded(bytes: Bytes) -> Payload {
    wire::codec::decode(bytes).expect("what the fleet encodes, it decodes").payload
}
