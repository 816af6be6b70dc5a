//! The cores of one node, side by side: its replicas, and a ring member for each of its tokens.
//!
//! The replicas share one log, whose records are numbered in one order: before a core is asked for anything it is told
//! where the log ends. They share one budget for what they copy, too, which is handed from one to the next likewise.

use std::collections::{BTreeMap, VecDeque};

use chord::{Chord, NextHop, Peer};
use membership::{NodeId, Position, View};
use replication::{Effects, Input, LogPosition, Outbox, Record, RegisterKey, Replica};
use stdx::{Budget, Instant, Prng};
use wire::http::Durability;
use wire::node::{Finding, HeldRegister, Inquiry, LogRecord, LookupBy};

use crate::available_keys::{AvailableKeys, DURABILITIES};
use crate::recent_requests::RecentRequests;

#[cfg(test)]
mod budget_test;

/// Attempts to join after which the ring's lowest token begins a ring of its own: the fleet has just started, and
/// there is nobody to be let in by. Rings that meet become one.
const CREATE_AFTER_TRIES: u32 = 4;
/// The same for the first token of any other node, in case that the lowest one's node stays away.
const CREATE_IN_ITS_STEAD_AFTER_TRIES: u32 = 20;

/// All cores of a node.
pub(crate) struct Host {
    me: NodeId,
    pub replica: Replica,
    pub available: AvailableKeys,
    /// The last record that any core has numbered.
    log_end: LogPosition,
    /// What all replicas together may move while they copy.
    budget: Budget,
    /// Where to ask what became of a write.
    requests: RecentRequests,
    members: BTreeMap<Position, Chord>,
    lowest: Option<Position>,
    prng: Prng,
}

impl Host {
    /// The cores of a node that has restored nothing yet.
    pub fn new(me: NodeId, incarnation: u64, view: View, secret: &[u8]) -> Host {
        // The seed is the only chance that the cores get; they are deterministic from here on.
        let mut prng = Prng::from_seed(rand::random());
        let available = AvailableKeys::new(me, incarnation, &view, secret, &mut prng);
        let mut replica = Replica::new(me, view, prng.fork());
        replica.set_incarnation(incarnation);
        let (log_end, budget) = (LogPosition(0), Budget::default());
        let (requests, members) = (RecentRequests::default(), BTreeMap::new());
        Host { me, replica, available, log_end, budget, requests, members, lowest: None, prng }
    }

    /// How much all replicas together may move while they copy, in bytes a second.
    pub fn set_transfer_rate(&mut self, bytes_per_second: u64) {
        self.budget = Budget::new(bytes_per_second);
    }

    /// Takes a record back from the log, in log order.
    pub fn restore(&mut self, position: LogPosition, record: LogRecord) {
        self.log_end = position;
        match record {
            LogRecord::Register(record) => {
                self.requests.take_register(&record);
                self.replica.restore(position, record);
            }
            LogRecord::Available(record) => {
                self.requests.take_available(&record);
                self.available.restore(position, record);
            }
        }
    }

    /// The last record that any core has numbered.
    pub fn log_end(&self) -> LogPosition {
        self.log_end
    }

    /// Begins, once every record of the log is restored: what the replica wants first.
    pub fn begin(&mut self, now: Instant) -> Effects {
        self.drive(|replica, out| replica.begin(now, out))
    }

    /// Begins with available keys, likewise.
    pub fn begin_available(&mut self, durability: Durability, now: Instant, wall_ms: u64) -> available::Effects {
        self.drive_available(|keys| keys.begin(durability, now, wall_ms))
    }

    /// Gives the replica one input.
    pub fn replica(&mut self, now: Instant, input: Input) -> Effects {
        let effects = self.drive(|replica, out| replica.handle(now, input, out));
        effects.persist.iter().for_each(|(_, record)| self.requests.take_register(record));
        effects
    }

    /// Gives a replica of available keys one input.
    pub fn available(&mut self, durability: Durability, now: Instant, input: available::Input) -> available::Effects {
        match (&input, durability) {
            // Of what is kept in memory no record is made; whoever coordinates a write sends it to the other homes.
            (available::Input::Operation { operation, .. }, Durability::Memory) => {
                if let available::Action::Write(write) = &operation.action {
                    self.requests.note(write.request, write.first_sent_ms, &write.key);
                }
            }
            (available::Input::Message { message, .. }, Durability::Memory) => {
                if let available::Body::Store { entries, .. } = &message.body {
                    entries.iter().for_each(|(key, state)| self.requests.note_state(key, state));
                }
            }
            _ => {}
        }
        let effects = self.drive_available(|keys| keys.handle(durability, now, input));
        effects.persist.iter().for_each(|(_, record)| self.requests.take_available(record));
        effects
    }

    /// Answers from what is held here.
    pub fn find(&self, inquiry: &Inquiry) -> Finding {
        match inquiry {
            Inquiry::Register(key) => {
                let (ballot, state) = self.replica.inspect(key);
                let epoch = self.replica.view().epoch;
                let replica = self.replica.arc_of(key.position).is_some_and(|arc| arc.is_held_by(self.me));
                let size = state.value.as_ref().map(|value| value.body.len() as u64);
                Finding::Register(HeldRegister { epoch, replica, ballot, version: state.version, size })
            }
            Inquiry::Available(durability, key) => Finding::Available(self.available.of(*durability).explain(key)),
            Inquiry::Request(request) => {
                let hinted = DURABILITIES.into_iter().flat_map(|kept| self.available.of(kept).hinted(*request));
                let mut keys: Vec<RegisterKey> = self.requests.find(*request).chain(hinted).cloned().collect();
                keys.sort_unstable();
                keys.dedup();
                Finding::Request(keys)
            }
        }
    }

    /// Writes current records of an old segment to the log again.
    pub fn rewrite(&mut self, records: Vec<Record>) -> Effects {
        self.drive(|replica, out| replica.rewrite(records, out))
    }

    /// The same for records of available keys.
    pub fn rewrite_available(&mut self, records: Vec<(LogPosition, available::Record)>) -> available::Effects {
        self.drive_available(|keys| keys.rewrite(records))
    }

    /// Whether a record of the log still says how things are.
    pub fn is_current(&self, position: LogPosition, record: &LogRecord) -> bool {
        match record {
            LogRecord::Register(record) => self.replica.is_current(position, record),
            LogRecord::Available(record) => self.available.of(Durability::Disk).is_current(position, record),
        }
    }

    /// What the log holds at `through` or before and nowhere else, made from memory.
    pub fn held_through(&self, through: LogPosition) -> Vec<(LogPosition, LogRecord)> {
        let registers = self.replica.held_through(through).into_iter();
        let registers = registers.map(|record| (LogPosition(0), LogRecord::Register(record)));
        let available = self.available.of(Durability::Disk).held_through(through).into_iter();
        registers.chain(available.map(|(position, record)| (position, LogRecord::Available(record)))).collect()
    }

    /// Bytes that the log would hold if it held everything once.
    pub fn live_bytes(&self) -> usize {
        self.replica.live_bytes() + self.available.of(Durability::Disk).live_bytes()
    }

    fn drive(&mut self, act: impl FnOnce(&mut Replica, &mut Outbox)) -> Effects {
        let mut out = Outbox::default();
        self.replica.note_log_end(self.log_end);
        self.replica.set_budget(self.budget);
        act(&mut self.replica, &mut out);
        self.budget = self.replica.budget();
        let effects = out.drain();
        self.log_end = effects.persist.last().map_or(self.log_end, |(position, _)| *position);
        effects
    }

    fn drive_available(&mut self, act: impl FnOnce(&mut AvailableKeys) -> available::Effects) -> available::Effects {
        self.available.note_log_end(self.log_end);
        self.available.budget = self.budget;
        let effects = act(&mut self.available);
        self.budget = self.available.budget;
        self.log_end = effects.persist.last().map_or(self.log_end, |(position, _)| *position);
        effects
    }

    /// Enters the ring with each token that the view gives this node, leaves it with those that the view gives it no
    /// more, and tells those who are in it who else lives.
    pub fn follow_view(&mut self, now: Instant, view: &View) -> Vec<chord::Envelope> {
        if !view.is_formed() {
            return Vec::new();
        }
        let everyone = tokens(view);
        let contacts: Vec<Peer> = everyone.iter().copied().filter(|peer| peer.node != self.me).collect();
        let mine: Vec<Position> = view.member(self.me).map(|member| member.tokens.clone()).unwrap_or_default();
        self.lowest = everyone.iter().map(|peer| peer.position).min();
        // Those around it find that nobody answers, as when a node dies; a lookup goes on by their lists meanwhile.
        self.members.retain(|position, _| mine.contains(position));
        let mut send = Vec::new();
        for position in mine {
            if !self.members.contains_key(&position) {
                let me = Peer { position, node: self.me };
                let member = Chord::new(me, chord::Config::default(), self.prng.fork());
                self.members.insert(position, member);
                let input = match contacts.is_empty() {
                    true => chord::Input::Create,
                    false => chord::Input::Join { contact: contacts[self.prng.index(contacts.len())] },
                };
                send.extend(self.ring(now, position, input));
            }
            send.extend(self.ring(now, position, chord::Input::Seeds(everyone.clone())));
        }
        send
    }

    /// A message for one of our tokens.
    pub fn ring_message(&mut self, now: Instant, envelope: chord::Envelope) -> Vec<chord::Envelope> {
        let position = envelope.to.position;
        self.ring(now, position, chord::Input::Message(envelope))
    }

    /// The connection to a node broke.
    pub fn ring_lost(&mut self, now: Instant, node: NodeId) -> Vec<chord::Envelope> {
        let positions: Vec<Position> = self.members.keys().copied().collect();
        positions.into_iter().flat_map(|position| self.ring(now, position, chord::Input::PeerLost(node))).collect()
    }

    /// Timers of the ring's members.
    pub fn ring_tick(&mut self, now: Instant) -> Vec<chord::Envelope> {
        let due = |member: &Chord| member.next_timeout().is_some_and(|at| at <= now);
        let positions: Vec<Position> = self.members.iter().filter(|(_, m)| due(m)).map(|(p, _)| *p).collect();
        positions.into_iter().flat_map(|position| self.ring(now, position, chord::Input::Tick)).collect()
    }

    /// When the next timer of any core is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let ring = self.members.values().filter_map(Chord::next_timeout);
        ring.chain(self.replica.next_timeout()).chain(self.available.next_timeout()).min()
    }

    /// Which way to a position: from one token, or from the one of ours that lies nearest before it.
    pub fn next_hop(&self, target: Position, at: Option<Position>, by: LookupBy) -> Option<NextHop> {
        let member = match at {
            Some(position) => self.members.get(&position),
            None => {
                let joined = self.members.values().filter(|member| member.is_member());
                joined.min_by_key(|member| member.me().position.distance_to(target))
            }
        };
        member.filter(|member| member.is_member()).map(|member| match by {
            LookupBy::Fingers => member.next_hop(target),
            LookupBy::Neighbours => member.next_neighbour(target),
        })
    }

    /// The members of the ring that this node runs.
    pub fn members(&self) -> impl Iterator<Item = &Chord> {
        self.members.values()
    }

    /// After how many unanswered joins a token may begin a ring of its own; never, for most.
    fn create_after(&self, position: Position) -> Option<u32> {
        if self.lowest == Some(position) {
            return Some(CREATE_AFTER_TRIES);
        }
        (self.members.keys().next() == Some(&position)).then_some(CREATE_IN_ITS_STEAD_AFTER_TRIES)
    }

    /// Gives one member one input. What it says to our other members is delivered at once; the rest is returned.
    fn ring(&mut self, now: Instant, position: Position, input: chord::Input) -> Vec<chord::Envelope> {
        let mut send = Vec::new();
        let mut inputs = VecDeque::from([(position, input)]);
        while let Some((position, input)) = inputs.pop_front() {
            let patience = self.create_after(position);
            let Some(member) = self.members.get_mut(&position) else { continue };
            let mut out = chord::Outbox::default();
            member.handle(now, input, &mut out);
            let effects = out.drain();
            for event in effects.events {
                match event {
                    chord::Event::JoinUnanswered { tries } if patience.is_some_and(|patience| tries >= patience) => {
                        inputs.push_back((position, chord::Input::Create));
                    }
                    event => tracing::debug!(token = %position, ?event, "ring"),
                }
            }
            for envelope in effects.send {
                if envelope.to.node == self.me {
                    inputs.push_back((envelope.to.position, chord::Input::Message(envelope)));
                } else {
                    send.push(envelope);
                }
            }
        }
        send
    }
}

/// Every token of every member.
fn tokens(view: &View) -> Vec<Peer> {
    let of = |member: &membership::Member| {
        let node = member.id;
        member.tokens.iter().map(|position| Peer { position: *position, node }).collect::<Vec<_>>()
    };
    view.ring_members().flat_map(of).collect()
}
