//! What clients ask, and what they make of the answers.

use std::time::Duration;

use history::{EventKind, Value};
use membership::NodeId;
use replication::Ticket;
use stdx::{Instant, TraceContext};

use super::client::{Asked, Asking, Current, Ended, Told};
use super::world::{Happening, World};

/// Attempts that a gateway makes at most.
const ATTEMPTS_MAX: usize = 6;

impl World {
    pub(super) fn next_operation(&mut self, client: usize) {
        if self.clients[client].current.is_some() || self.calm {
            return;
        }
        let (at, write) = match &self.litmus {
            None if self.serial_last >= self.swarm.operations as u64 => return,
            None => {
                let at = self.prng.index(self.keys.len());
                (at, self.prng.one_in(2).then(|| self.serial_last.to_string()))
            }
            Some((running, placing)) => match running.step(client) {
                None => {
                    if !running.is_over() {
                        self.at(Duration::from_millis(2), Happening::Next { client });
                    }
                    return;
                }
                Some((round, variable, write)) => {
                    let ordered = placing.is_ordered(variable);
                    (self.key(ordered, format!("{round}/{variable}")), write.map(|value| value.to_string()))
                }
            },
        };
        self.begin_operation(client, at, write);
    }

    fn asking(&self) -> Asking {
        Asking { planted: self.planted, wall_ms: self.wall_ms(), token_bytes_max: self.swarm.token_bytes_max }
    }

    fn begin_operation(&mut self, client: usize, at: usize, write: Option<String>) {
        self.serial_last += 1;
        let serial = self.serial_last;
        let (key, asking) = (self.keys[at].clone(), self.asking());
        let strict = self.prng.one_in(self.swarm.strict_one_in);
        let asked = self.clients[client].ask(at, &key, (write.as_deref(), strict), asking, &mut self.prng);
        let late = self.swarm.changes_every.is_some() && self.prng.one_in(3);
        let ring = if late { &self.ring_before } else { &self.ring };
        let mut plan: Vec<NodeId> = ring.replicas_of(key.key.position).to_vec();
        for left in (1..plan.len()).rev() {
            plan.swap(left, self.prng.index(left + 1));
        }
        let plan: Vec<NodeId> = plan.iter().cycle().take(ATTEMPTS_MAX).copied().collect();
        self.push(client, EventKind::Invoke, at, write.as_deref(), Value::Null);
        let (patience, waiting, unknown) = (self.swarm.patience, 0, false);
        let deadline = self.now + patience;
        self.clients[client].serial = serial;
        self.clients[client].current = Some(Current { key: at, asked, write, deadline, plan, waiting, unknown });
        self.at(patience, Happening::GiveUp { client, serial });
        self.ask_next(client);
    }

    /// Asks the next node of the plan.
    fn ask_next(&mut self, client: usize) {
        let (serial, hedge) = (self.clients[client].serial, self.swarm.hedge);
        let Some(current) = self.clients[client].current.as_mut() else { return };
        let Some(to) = current.plan.pop() else {
            if current.waiting == 0 {
                self.end_unanswered(client);
            }
            return;
        };
        current.waiting += 1;
        let (asked, deadline) = (Box::new(current.asked.clone()), current.deadline);
        current.asked = current.asked.again();
        let to = to.0 as usize - 1;
        for after in self.fates(None) {
            self.at(after, Happening::Ask { client, serial, to, asked: asked.clone(), deadline });
        }
        self.at(hedge, Happening::Hedge { client, serial });
    }

    /// An attempt reaches a node, be its asker content with another one's answer by now or not.
    pub(super) fn ask(&mut self, (client, serial): (usize, u64), to: usize, asked: Asked, deadline: Instant) {
        if self.nodes[to].running.is_none() {
            return self.at(Duration::from_millis(1), Happening::Failed { client, serial });
        }
        self.ticket_last += 1;
        let ticket = Ticket(self.ticket_last);
        self.tickets.insert(ticket, (client, serial));
        self.log.push(self.now, format_args!("node {} <- client {client}: {asked:?}", to + 1));
        let (now, wall_ms, context) = (self.now, self.wall_ms(), TraceContext::NONE);
        let effects = match asked {
            Asked::Ordered(operation) => {
                let input = replication::Input::Operation { ticket, operation, deadline, wall_ms, context };
                self.nodes[to].ordered(now, input)
            }
            Asked::Available(operation) => {
                let input = available::Input::Operation { ticket, operation, deadline, wall_ms, context };
                self.nodes[to].available(now, input)
            }
        };
        self.carry_out(to, effects);
    }

    pub(super) fn hedge(&mut self, client: usize, serial: u64) {
        let silent = self.clients[client].current.as_ref().is_some_and(|current| current.waiting < 3);
        if self.clients[client].serial == serial && silent {
            self.ask_next(client);
        }
    }

    pub(super) fn take_failure(&mut self, client: usize, serial: u64) {
        self.attempt_failed(client, serial, true);
    }

    fn attempt_failed(&mut self, client: usize, serial: u64, unknown: bool) {
        if self.clients[client].serial != serial {
            return;
        }
        let Some(current) = self.clients[client].current.as_mut() else { return };
        current.waiting = current.waiting.saturating_sub(1);
        current.unknown |= unknown;
        self.ask_next(client);
    }

    pub(super) fn give_up(&mut self, client: usize, serial: u64) {
        if self.clients[client].serial == serial
            && let Some(current) = self.clients[client].current.as_mut()
        {
            current.unknown |= current.waiting > 0;
            self.end_unanswered(client);
        }
    }

    pub(super) fn take_answer(&mut self, client: usize, serial: u64, told: &Told) {
        if self.clients[client].serial != serial || self.clients[client].current.is_none() {
            return;
        }
        match told.judge() {
            Ended::Refused => self.attempt_failed(client, serial, false),
            Ended::Unknown => self.attempt_failed(client, serial, true),
            Ended::Done => self.end_answered(client, Value::Null, told),
            Ended::Read(value) => self.end_answered(client, value, told),
        }
    }

    fn end_answered(&mut self, client: usize, shown: Value, told: &Told) {
        let Some(current) = self.clients[client].current.take() else { return };
        self.counts.answered += 1;
        let asking = self.asking();
        self.counts.crossings +=
            u64::from(self.clients[client].take((current.key, current.write.is_some()), told, asking));
        self.push(client, EventKind::Ok, current.key, current.write.as_deref(), shown.clone());
        let read = current.write.is_none();
        self.litmus_ended(client, Some(read.then(|| crate::litmus::litmus_value(&shown)).flatten()));
        self.plan_next(client);
    }

    fn end_unanswered(&mut self, client: usize) {
        let Some(current) = self.clients[client].current.take() else { return };
        let unknown = current.write.is_some() && current.unknown;
        self.counts.unknown += u64::from(unknown);
        let kind = if unknown { EventKind::Info } else { EventKind::Fail };
        self.push(client, kind, current.key, current.write.as_deref(), Value::Null);
        if unknown {
            // A client that was left without an answer is another one from then on.
            self.renew(client);
        }
        self.litmus_ended(client, None);
        self.plan_next(client);
    }

    fn renew(&mut self, client: usize) {
        self.process_last += 1;
        self.clients[client].renew(self.process_last);
    }

    fn litmus_ended(&mut self, client: usize, answered: Option<Option<u8>>) {
        let Some((running, _)) = &mut self.litmus else { return };
        if running.ended(client, answered) {
            // Each round is of sessions that have seen nothing.
            for at in 0..self.clients.len() {
                self.renew(at);
                self.at(Duration::from_millis(1), Happening::Next { client: at });
            }
        }
    }

    fn plan_next(&mut self, client: usize) {
        if self.litmus.is_none() && self.prng.one_in(self.swarm.renew_one_in) {
            self.renew(client);
        }
        let wait = Duration::from_micros(self.prng.below(self.swarm.think_max.as_micros() as u64));
        self.at(wait, Happening::Next { client });
    }
}
