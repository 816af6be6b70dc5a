//! What clients ask, and what they make of the answers.

use std::time::Duration;

use available::{Action, Answer, Change, Input, Kind, Level, Outcome, Refusal, Shown};
use bytes::Bytes;
use history::{EventKind, Value};
use membership::NodeId;
use replication::Ticket;
use stdx::TraceContext;

use super::Asking;
use super::client::{Current, draw_change, words};
use super::world::{Happening, World};

/// Attempts that a gateway makes at most.
const ATTEMPTS_MAX: usize = 6;
/// How much later than another one a session begins at most, where places matter.
const LATE_MAX: Duration = Duration::from_millis(60);

impl World {
    pub(super) fn next_operation(&mut self, client: usize) {
        if self.clients[client].current.is_some() {
            return;
        }
        if self.litmus.is_some() {
            return self.next_litmus_step(client);
        }
        if self.serial_last >= self.swarm.operations as u64 || self.calm {
            return;
        }
        let at = self.prng.index(self.keys.len());
        let change = draw_change(self.keys[at].kind, self.serial_last, &self.swarm, &mut self.prng);
        // Who has seen nothing of a key would delete what it never saw, and be right in that; the judge would not know.
        let change = change.filter(|change| *change != Change::Delete || self.clients[client].has_seen(at));
        let plan = self.plan(client, at, change.is_some());
        self.begin_operation(client, at, change, plan, false);
    }

    fn next_litmus_step(&mut self, client: usize) {
        let Some(running) = &self.litmus else { return };
        let Some((at, write)) = running.next(client) else {
            if !running.is_over() && !self.calm {
                self.at(Duration::from_millis(2), Happening::Next { client });
            }
            return;
        };
        if self.calm {
            return;
        }
        let change = write.map(|value| {
            Change::Put(replication::Value { body: Bytes::from(value.to_string()), content_type: Bytes::new() })
        });
        let plan = self.plan(client, at, change.is_some());
        self.begin_operation(client, at, change, plan, true);
    }

    /// The nodes that a client's gateway asks for a key, the first one last: the home that is near, or any, and now and
    /// then a stand-in.
    fn plan(&mut self, client: usize, at: usize, write: bool) -> Vec<NodeId> {
        let late = self.swarm.changes_every.is_some() && self.prng.one_in(3);
        let ring = if late { &self.ring_before } else { &self.ring };
        let homes = ring.replicas_of(self.keys[at].key.position);
        let mut order: Vec<NodeId> = homes.to_vec();
        for left in (1..order.len()).rev() {
            order.swap(left, self.prng.index(left + 1));
        }
        let near = self.clients[client].near;
        // The last of the plan is asked first. It goes round all homes, and ends with the last of these.
        order.sort_by_key(|home| Some(*home) == near);
        let others: Vec<NodeId> = (1..=self.nodes.len() as u64).map(NodeId).filter(|id| !homes.contains(id)).collect();
        let mut plan: Vec<NodeId> = order.iter().cycle().take(ATTEMPTS_MAX).copied().collect();
        if write && self.keys[at].level == Level::Eventual && self.swarm.stand_ins && !others.is_empty() {
            let stand_in = others[self.prng.index(others.len())];
            if self.prng.one_in(self.swarm.stand_in_one_in) {
                plan.push(stand_in);
            } else {
                plan.insert(ATTEMPTS_MAX - 3, stand_in);
            }
        }
        plan
    }

    pub(super) fn begin_read(&mut self, client: usize, at: usize, home: NodeId) {
        self.begin_operation(client, at, None, vec![home; ATTEMPTS_MAX], false);
    }

    fn begin_operation(&mut self, client: usize, at: usize, change: Option<Change>, plan: Vec<NodeId>, litmus: bool) {
        self.serial_last += 1;
        let serial = self.serial_last;
        let key = self.keys[at].clone();
        let named = self.prng.one_in(self.swarm.context_one_in);
        let (function, input) = words(change.as_ref());
        let wall_ms = self.wall_ms();
        let mut operation = self.clients[client].operation(at, &key, change, wall_ms, named, &mut self.prng);
        if self.line_is_final() {
            operation.level = Level::Eventual;
        }
        let process = self.clients[client].process;
        self.push(process, EventKind::Invoke, (&function, &key, input.clone()));
        let patience = self.swarm.patience;
        let deadline = self.now + patience;
        self.clients[client].serial = serial;
        self.clients[client].current =
            Some(Current { key: at, operation, function, input, deadline, plan, waiting: 0, unknown: false, litmus });
        self.at(patience, Happening::GiveUp { client, serial });
        self.ask_next(client);
    }

    /// The last reads are made at each home alone, so that each shows what it holds.
    fn line_is_final(&self) -> bool {
        self.calm && self.litmus.as_ref().is_none_or(|running| running.is_over())
    }

    /// Asks the next node of the plan.
    fn ask_next(&mut self, client: usize) {
        let serial = self.clients[client].serial;
        let hedge = self.swarm.hedge;
        let Some(current) = self.clients[client].current.as_mut() else { return };
        let Some(to) = current.plan.pop() else {
            if current.waiting == 0 {
                self.end_unanswered(client);
            }
            return;
        };
        current.waiting += 1;
        let (operation, deadline) = (Box::new(current.operation.clone()), current.deadline);
        let to = to.0 as usize - 1;
        let fates = self.network.fates(&self.swarm, None);
        for after in fates {
            let operation = operation.clone();
            self.at(after, Happening::Ask { client, serial, to, operation, deadline });
        }
        self.at(hedge, Happening::Hedge { client, serial });
    }

    /// An attempt reaches a node, be its asker content with another one's answer by now or not.
    pub(super) fn ask(
        &mut self,
        (client, serial): (usize, u64),
        to: usize,
        operation: Box<available::Operation>,
        deadline: stdx::Instant,
    ) {
        if self.nodes[to].running.is_none() {
            if self.swarm.resets {
                self.at(Duration::from_millis(1), Happening::Failed { client, serial });
            }
            return;
        }
        if self.nodes[to].paused {
            // It lies in the stopped node's socket.
            let wait = Duration::from_millis(5);
            return self.at(wait, Happening::Ask { client, serial, to, operation, deadline });
        }
        self.ticket_last += 1;
        let ticket = Ticket(self.ticket_last);
        let wall_ms = self.wall_ms_of(to);
        self.tickets.insert(ticket, (client, serial, NodeId(to as u64 + 1)));
        self.log.push(self.now, format_args!("{} <- client {client}: {operation:?}", to + 1));
        let context = TraceContext::NONE;
        let bytes = wire::codec::encode_available_operation(&operation);
        let operation = wire::codec::decode_available_operation(bytes).expect("what was encoded can be decoded");
        // A deadline travels as a budget: clocks differ.
        let deadline = self.now_at(to) + deadline.since(self.now);
        let input = Input::Operation { ticket, operation, deadline, wall_ms, context };
        self.feed(to, input);
    }

    pub(super) fn hedge(&mut self, client: usize, serial: u64) {
        let silent = self.clients[client].current.as_ref().is_some_and(|current| current.waiting < 3);
        if self.clients[client].serial == serial && silent {
            self.ask_next(client);
        }
    }

    pub(super) fn take_failure(&mut self, client: usize, serial: u64) {
        if self.clients[client].serial != serial {
            return;
        }
        let Some(current) = self.clients[client].current.as_mut() else { return };
        current.waiting = current.waiting.saturating_sub(1);
        current.unknown = true;
        self.ask_next(client);
    }

    pub(super) fn give_up(&mut self, client: usize, serial: u64) {
        if self.clients[client].serial == serial && self.clients[client].current.is_some() {
            if let Some(current) = self.clients[client].current.as_mut() {
                current.unknown |= current.waiting > 0;
            }
            self.end_unanswered(client);
        }
    }

    pub(super) fn take_answer(&mut self, client: usize, serial: u64, outcome: Outcome) {
        if self.clients[client].serial != serial {
            return;
        }
        let Some(current) = self.clients[client].current.as_mut() else { return };
        current.waiting = current.waiting.saturating_sub(1);
        match outcome {
            Outcome::Refused(Refusal::TooOld) | Outcome::Unknown => {
                current.unknown = true;
                self.ask_next(client);
            }
            Outcome::Refused(Refusal::Behind(order)) => {
                current.step_forward(order);
                self.ask_next(client);
            }
            Outcome::Refused(_) => self.ask_next(client),
            Outcome::Read { shown, seen } => {
                let value = shown_value(self.keys[current.key].kind, &shown);
                self.counts.siblings += u64::from(matches!(&shown, Shown::Values(values) if values.len() > 1));
                self.end_answered(client, value, &seen);
            }
            Outcome::Done { effect, seen, .. } => {
                self.counts.hinted += u64::from(effect == available::Effect::Hinted);
                self.end_answered(client, Value::Null, &seen);
            }
            Outcome::Remembered(Some((_, seen))) => {
                self.counts.remembered += 1;
                let seen = if self.swarm.asking == Asking::Forgets { available::Seen::default() } else { seen };
                self.end_answered(client, Value::Null, &seen);
            }
            Outcome::Remembered(None) => self.end_unanswered(client),
        }
    }

    /// Has a session that does not know what became of its write ask for that. Whether it does so.
    fn ask_what_became(&mut self, client: usize) -> bool {
        let Some(current) = &self.clients[client].current else { return false };
        let Action::Write(write) = &current.operation.action else { return false };
        if !current.unknown || self.swarm.asking == Asking::Never || self.litmus.is_some() || self.calm {
            return false;
        }
        let (at, request) = (current.key, write.request);
        let (plan, past) = (self.plan(client, at, false), self.clients[client].session.past.clone());
        let key = self.keys[at].key.clone();
        let action = Action::Outcome { request };
        let operation = available::Operation { key, level: Level::Causal, past, stand_in: false, action };
        self.serial_last += 1;
        let (serial, patience) = (self.serial_last, self.swarm.patience);
        let deadline = self.now + patience;
        self.clients[client].serial = serial;
        if let Some(current) = &mut self.clients[client].current {
            (current.operation, current.deadline, current.plan, current.waiting) = (operation, deadline, plan, 0);
        }
        self.at(patience, Happening::GiveUp { client, serial });
        self.ask_next(client);
        true
    }

    fn end_answered(&mut self, client: usize, shown: Value, seen: &available::Seen) {
        let Some(current) = self.clients[client].current.take() else { return };
        self.counts.answered += 1;
        let key = self.keys[current.key].clone();
        let read = matches!(current.operation.action, Action::Read { .. });
        let wrote = matches!(current.operation.action, Action::Write(_));
        let causal = current.operation.level == Level::Causal;
        self.clients[client].observe(current.key as u32, seen, causal, wrote);
        let value = if read { shown.clone() } else { current.input.clone() };
        let process = self.clients[client].process;
        self.push(process, EventKind::Ok, (&current.function, &key, value));
        if current.litmus {
            self.litmus_ended(client, Some(read.then(|| crate::litmus::litmus_value(&shown)).flatten()));
        }
        self.plan_next(client);
    }

    fn end_unanswered(&mut self, client: usize) {
        if self.ask_what_became(client) {
            return;
        }
        let Some(current) = self.clients[client].current.take() else { return };
        let write = !matches!(current.operation.action, Action::Read { .. });
        let kind = if write && current.unknown { EventKind::Info } else { EventKind::Fail };
        self.counts.unknown += u64::from(kind == EventKind::Info);
        let key = self.keys[current.key].clone();
        let process = self.clients[client].process;
        self.push(process, kind, (&current.function, &key, current.input.clone()));
        if kind == EventKind::Info {
            self.process_last += 1;
            let process = self.process_last;
            self.clients[client].renew(process);
        }
        if current.litmus {
            self.litmus_ended(client, None);
        }
        self.plan_next(client);
    }

    fn litmus_ended(&mut self, client: usize, answered: Option<Option<u8>>) {
        let Some(running) = &mut self.litmus else { return };
        if running.ended(client, answered) {
            // Each round is of sessions that have seen nothing.
            for at in 0..self.clients.len() {
                self.process_last += 1;
                let process = self.process_last;
                self.clients[at].renew(process);
            }
            self.send_sessions();
        }
    }

    /// Sessions begin: all at once, or where places matter each somewhere, and some time.
    pub(super) fn send_sessions(&mut self) {
        for client in 0..self.clients.len() {
            let mut wait = Duration::from_millis(1);
            if let Some((one, other)) = self.network.far_apart() {
                let near = if self.prng.one_in(2) { one } else { other };
                self.clients[client].near = Some(NodeId(near as u64 + 1));
                wait += Duration::from_micros(self.prng.below(LATE_MAX.as_micros() as u64));
            }
            self.at(wait, Happening::Next { client });
        }
    }

    fn plan_next(&mut self, client: usize) {
        if self.swarm.renew_one_in.is_some_and(|one_in| self.prng.one_in(one_in)) && self.litmus.is_none() {
            self.process_last += 1;
            let process = self.process_last;
            self.clients[client].renew(process);
        }
        let wait = Duration::from_micros(self.prng.below(self.swarm.think_max.as_micros() as u64));
        self.at(wait, Happening::Next { client });
    }

    pub(super) fn count_answer(&mut self, client: usize, answer: &Answer) {
        let Some(current) = &self.clients[client].current else { return };
        let read = matches!(answer.outcome, Outcome::Read { .. });
        if read && current.operation.level == Level::Causal {
            self.counts.causal_reads += 1;
            self.counts.local_reads += u64::from(answer.receipt.rounds == 0);
        }
    }
}

/// What a read shows, as a history has it: a list of the values side by side (type value), one value, a number, or a
/// set's elements.
fn shown_value(kind: Kind, shown: &Shown) -> Value {
    let text = |bytes: &Bytes| Value::from(String::from_utf8_lossy(bytes).into_owned());
    match shown {
        Shown::Nothing if kind == Kind::Value => Value::List(Vec::new()),
        Shown::Nothing => Value::Null,
        Shown::Values(values) => match values.as_slice() {
            [(_, one)] if kind != Kind::Value => text(&one.body),
            values => Value::List(values.iter().map(|(_, value)| text(&value.body)).collect()),
        },
        Shown::Number(number) => Value::from(*number),
        Shown::Elements(elements) => Value::List(elements.iter().map(text).collect()),
        Shown::Fields(fields) => Value::List(fields.iter().map(|(name, _)| text(name)).collect()),
    }
}
