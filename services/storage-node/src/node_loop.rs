//! The loop: everything that happens to a node, one thing at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::fleet::Fleet;
use membership::NodeId;
use replication::{Answer, Effects, Event, Input, LogPosition, Record, Ticket};
use runtime::{Clock, ConnectionId, LogEvent, LogThread, PeerEvent, Peers};
use stdx::{Instant, TraceContext};
use store::{SegmentId, framed_len};
use tokio::sync::{mpsc, watch};
use wire::codec::encode_record;
use wire::node::{Frame, OperationCall, Payload, Sender};

use crate::host::Host;
use crate::span_book::SpanBook;
use crate::status::{Board, Pointers, State, Status};

/// How often the status is written and old spans are swept.
const HOUSEKEEPING_EVERY: Duration = Duration::from_millis(200);
/// How often the log is looked at for cleaning.
const CLEANING_EVERY: Duration = Duration::from_secs(2);
/// What cleaning leaves of the log's room to the records that are on their way, in bytes.
const CLEANING_RESERVE_BYTES: u64 = 64 * 1024;
/// How often the ring's members are told again who is known to live: they forget whom they found silent.
const SEEDS_EVERY: Duration = Duration::from_secs(5);
/// How often values whose time is up are ended though nobody asks for them.
const END_DUE_EVERY: Duration = Duration::from_secs(1);
/// How long a drain waits for the operations in flight.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What the loop runs on.
pub(crate) struct Parts {
    pub id: NodeId,
    pub name: String,
    pub incarnation: u64,
    pub clock: Clock,
    pub host: Host,
    pub peers: Peers,
    pub peer_events: mpsc::Receiver<PeerEvent>,
    pub log: LogThread,
    pub log_events: mpsc::UnboundedReceiver<LogEvent>,
    pub fleet: watch::Receiver<Arc<Fleet>>,
    pub board: Board,
}

/// A node at work.
pub(crate) struct NodeLoop {
    parts: Parts,
    spans: SpanBook,
    names: BTreeMap<NodeId, String>,
    callers: BTreeMap<Ticket, (ConnectionId, u64)>,
    ticket_last: u64,
    log_end: LogPosition,
    disk_full: bool,
    draining: bool,
    cleaned_at: Instant,
    seeded_at: Instant,
    ended_due_at: Instant,
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was asked to, and all that was in flight is answered (or was waited for long enough).
    Drained,
    /// The disk failed; the sentence says how.
    DiskFailed(String),
}

impl NodeLoop {
    pub fn new(parts: Parts, first: Effects) -> NodeLoop {
        let mut node = NodeLoop {
            spans: SpanBook::default(),
            names: BTreeMap::new(),
            callers: BTreeMap::new(),
            ticket_last: 0,
            log_end: LogPosition(0),
            disk_full: false,
            draining: false,
            cleaned_at: parts.clock.now(),
            seeded_at: parts.clock.now(),
            ended_due_at: parts.clock.now(),
            parts,
        };
        node.carry_out(first);
        node
    }

    /// Runs until `shutdown` is told and everything in flight is answered, or until the disk fails.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Ended {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING_EVERY);
        let mut drain_until: Option<Instant> = None;
        self.follow_fleet();
        loop {
            let now = self.parts.clock.now();
            let due = self.parts.host.next_timeout().unwrap_or(now + Duration::from_secs(1));
            let due = self.parts.clock.to_tokio(due.min(now + Duration::from_secs(1)));
            tokio::select! {
                event = self.parts.peer_events.recv() => match event {
                    Some(event) => self.take_peer_event(event),
                    None => return Ended::Drained,
                },
                event = self.parts.log_events.recv() => match event {
                    Some(LogEvent::Failed(sentence)) => return Ended::DiskFailed(sentence),
                    Some(event) => self.take_log_event(event),
                    None => return Ended::DiskFailed("the log's thread has ended".to_owned()),
                },
                Ok(()) = self.parts.fleet.changed() => self.follow_fleet(),
                () = tokio::time::sleep_until(due) => self.tick(),
                _ = housekeeping.tick() => self.keep_house(),
                () = &mut shutdown, if !self.draining => {
                    self.begin_drain();
                    drain_until = Some(now + DRAIN_MAX);
                }
            }
            let late = drain_until.is_some_and(|until| self.parts.clock.now() >= until);
            if self.draining && (self.callers.is_empty() || late) {
                self.keep_house();
                self.parts.peers.flush(Duration::from_millis(500)).await;
                self.parts.peers.close();
                self.parts.log.stop();
                return Ended::Drained;
            }
        }
    }

    fn begin_drain(&mut self) {
        tracing::info!(waiting = self.callers.len(), "draining");
        self.draining = true;
        self.parts.peers.go_away();
        self.tell_replica(Input::Drain);
        self.keep_house();
    }

    fn take_peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Up(node) => {
                tracing::info!(peer = %self.name_of(node), "connected");
                self.tell_replica(Input::PeerFound(node));
            }
            PeerEvent::Down(node) => {
                tracing::warn!(peer = %self.name_of(node), "connection lost");
                self.spans.lost(node);
                self.tell_replica(Input::PeerLost(node));
                let now = self.parts.clock.now();
                let send = self.parts.host.ring_lost(now, node);
                self.send_ring(send);
            }
            PeerEvent::Frame { from, via, frame } => self.take_frame(&from, via, frame),
        }
    }

    fn take_frame(&mut self, from: &Sender, via: ConnectionId, frame: Frame) {
        let now = self.parts.clock.now();
        match frame.payload {
            Payload::Replica(message) => {
                // Only a node that said who it is votes.
                let Some(peer) = from.node_id() else { return };
                let context = self.spans.arrived(now, peer, &message.body, &self.parts.name, frame.context);
                self.tell_replica(Input::Message { from: peer, message, context });
            }
            Payload::Chord(envelope) => {
                if from.node_id() == Some(envelope.from.node) {
                    let send = self.parts.host.ring_message(now, envelope);
                    self.send_ring(send);
                }
            }
            Payload::Operation(call) => self.take_operation(via, call, frame.context),
            Payload::Lookup { call, target, at, by } => {
                let hop = self.parts.host.next_hop(target, at, by);
                let payload = Payload::LookupReply { call, hop };
                self.parts.peers.reply(via, Frame { context: frame.context, payload });
            }
            Payload::OperationReply { .. }
            | Payload::LookupReply { .. }
            | Payload::Hello(_)
            | Payload::GoAway
            | Payload::Ping => {}
        }
    }

    fn take_operation(&mut self, via: ConnectionId, call: OperationCall, context: TraceContext) {
        self.ticket_last += 1;
        let ticket = Ticket(self.ticket_last);
        let epoch = self.parts.host.replica.view().epoch.0;
        let context = self.spans.coordinate(ticket, &call.operation, epoch, &self.parts.name, context);
        self.callers.insert(ticket, (via, call.call));
        let deadline = self.parts.clock.now() + Duration::from_millis(u64::from(call.deadline_ms));
        let wall_ms = self.parts.clock.wall_ms();
        self.tell_replica(Input::Operation { ticket, operation: call.operation, deadline, wall_ms, context });
    }

    fn take_log_event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Synced(position) => self.tell_replica(Input::Synced(position)),
            LogEvent::Full(full) => {
                if full {
                    tracing::error!("the disk is full: writes are refused, reads go on; make room or raise the quota");
                } else {
                    tracing::info!("the disk has room again");
                }
                self.disk_full = full;
                self.tell_replica(Input::DiskFull(full));
            }
            LogEvent::OldestSegment { id, records } => {
                let records = records.into_iter().map(|(_, record)| record);
                self.clean(id, records.filter(|record| self.parts.host.replica.is_current(record)).collect());
            }
            LogEvent::Dropped(id) => tracing::debug!(segment = id.0, "a segment of the log was cleaned"),
            LogEvent::Failed(_) => {}
        }
    }

    /// Writes the current records of an old segment to the log again, and then gives the segment up.
    fn clean(&mut self, id: SegmentId, current: Vec<Record>) {
        let copies: u64 = current.iter().map(|record| framed_len(encode_record(record).len() as u64)).sum();
        if self.parts.log.sizes().room_bytes < copies + CLEANING_RESERVE_BYTES {
            // Copies that wait for room would hold up everything behind them: better to wait until there is room.
            self.parts.log.keep_segment(id);
            return;
        }
        let effects = self.parts.host.rewrite(current);
        self.carry_out(effects);
        self.parts.log.drop_segment(id, self.log_end);
    }

    fn follow_fleet(&mut self) {
        let fleet = Arc::clone(&self.parts.fleet.borrow_and_update());
        let addresses = fleet.nodes.iter().map(|(id, node)| (*id, node.peer)).collect();
        self.parts.peers.set_addresses(addresses);
        self.names = fleet.view.members.iter().map(|member| (member.id, member.name.clone())).collect();
        self.tell_replica(Input::View((*fleet.view).clone()));
        self.seed_ring();
    }

    /// Enters the ring with every token, and says who else is known to live.
    fn seed_ring(&mut self) {
        let now = self.parts.clock.now();
        self.seeded_at = now;
        let view = self.parts.host.replica.view().clone();
        let send = self.parts.host.follow_view(now, &view);
        self.send_ring(send);
    }

    fn tick(&mut self) {
        self.tell_replica(Input::Tick);
        let now = self.parts.clock.now();
        let send = self.parts.host.ring_tick(now);
        self.send_ring(send);
    }

    fn tell_replica(&mut self, input: Input) {
        let now = self.parts.clock.now();
        let effects = self.parts.host.replica(now, input);
        self.carry_out(effects);
    }

    /// Persist, then send, then answer: the core holds back what must wait for the disk.
    fn carry_out(&mut self, effects: Effects) {
        if let Some((last, _)) = effects.persist.last() {
            self.log_end = *last;
            self.parts.log.append(effects.persist);
        }
        let now = self.parts.clock.now();
        for envelope in effects.send {
            let name = self.names.get(&envelope.to).map_or("", String::as_str);
            let context = self.spans.leaving(now, &envelope, name);
            // A message that cannot be sent is a lost one: the core asks again.
            self.parts.peers.send(envelope.to, Frame { context, payload: Payload::Replica(envelope.message) });
        }
        for answer in effects.answers {
            self.answer(answer);
        }
        for event in effects.events {
            match event {
                Event::CaughtUp => tracing::info!("caught up with the other replicas"),
                Event::CatchUp { remaining } => tracing::info!(remaining, "catching up"),
                Event::EpochDiffers { peer } => tracing::warn!(peer = %self.name_of(peer), "holds another view"),
                Event::Contention { by } => tracing::debug!(by = %self.name_of(by), "a ballot was refused"),
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        let names = &self.names;
        self.spans.coordinated(&answer, |node| name_in(names, node));
        let Some((via, call)) = self.callers.remove(&answer.ticket) else { return };
        let payload = Payload::OperationReply { call, outcome: answer.outcome, receipt: answer.receipt };
        self.parts.peers.reply(via, Frame { context: TraceContext::NONE, payload });
    }

    fn send_ring(&self, envelopes: Vec<chord::Envelope>) {
        for envelope in envelopes {
            let to = envelope.to.node;
            self.parts.peers.send(to, Frame { context: TraceContext::NONE, payload: Payload::Chord(envelope) });
        }
    }

    fn keep_house(&mut self) {
        let now = self.parts.clock.now();
        self.spans.sweep(now);
        if now.since(self.cleaned_at) >= CLEANING_EVERY && !self.draining {
            self.cleaned_at = now;
            self.parts.log.clean(self.parts.host.replica.live_bytes() as u64);
        }
        if now.since(self.seeded_at) >= SEEDS_EVERY {
            self.seed_ring();
        }
        if now.since(self.ended_due_at) >= END_DUE_EVERY {
            self.ended_due_at = now;
            let effects = self.parts.host.replica(now, Input::EndDue { wall_ms: self.parts.clock.wall_ms() });
            self.carry_out(effects);
        }
        self.parts.board.write(self.status());
        let members = self.parts.host.members();
        let pointers = members.filter_map(|m| Some(Pointers { view: m.view()?, fingers: m.fingers().to_vec() }));
        self.parts.board.write_pointers(pointers.collect());
    }

    fn status(&self) -> Status {
        let replica = &self.parts.host.replica;
        let epoch = replica.view().epoch.0;
        let state = match (self.draining, epoch, replica.has_caught_up()) {
            (true, _, _) => State::Draining,
            (_, 0, _) => State::Starting,
            (_, _, false) => State::CatchingUp,
            (_, _, true) => State::Ready,
        };
        let first = self.parts.host.members().next();
        let successors = first.into_iter().flat_map(|member| member.successors());
        Status {
            name: self.parts.name.clone(),
            id: self.parts.id.to_string(),
            incarnation: self.parts.incarnation,
            epoch,
            state,
            registers: replica.registers(),
            live_bytes: replica.live_bytes(),
            log_bytes: self.parts.log.sizes().total_bytes,
            catch_up_remaining: replica.lagging(),
            waiting: replica.waiting(),
            disk_full: self.disk_full,
            successors: successors.map(|peer| self.name_of(peer.node)).collect(),
            predecessor: first.and_then(|member| member.predecessor()).map(|peer| self.name_of(peer.node)),
            tokens_joined: self.parts.host.members().filter(|member| member.is_member()).count(),
            tokens: self.parts.host.members().count(),
        }
    }

    fn name_of(&self, node: NodeId) -> String {
        name_in(&self.names, node)
    }
}

fn name_in(names: &BTreeMap<NodeId, String>, node: NodeId) -> String {
    names.get(&node).cloned().unwrap_or_else(|| node.to_string())
}
