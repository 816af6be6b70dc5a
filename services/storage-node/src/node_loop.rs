//! The loop: everything that happens to a node, one thing at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::consul::Consul;
use client::fleet::{Directory, Fleet};
use client::ring_changes::{self, RingChangeError};
use membership::{ChangeError, NodeId, Position};
use replication::{Answer, ArcPrint, Effects, Event, Input, LogPosition, Ticket};
use runtime::{Clock, ConnectionId, LogEvent, LogThread, PeerEvent, Peers};
use stdx::{Instant, TraceContext};
use store::{Damage, SegmentId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use wire::http::Durability;
use wire::node::{Frame, LogRecord, OperationCall, Payload, ScanCall, Sender};

use crate::absences::Absences;
use crate::cleaning::{self, Cleaning, Next};
use crate::host::Host;
use crate::scrub::Scrub;
use crate::span_book::SpanBook;
use crate::status::{Board, Copying, Pointers, State, Status};
use crate::sweep::Sweep;
use crate::timings::Timings;
use happening::Happening;

mod available_keys;
mod happening;

/// How often the status is written and old spans are swept.
const HOUSEKEEPING_EVERY: Duration = Duration::from_millis(200);
/// How often the log is looked at for cleaning.
const CLEANING_EVERY: Duration = Duration::from_secs(2);
/// How often the ring's members are told again who is known to live: they forget whom they found silent.
const SEEDS_EVERY: Duration = Duration::from_secs(5);
/// How often values whose time is up are ended though nobody asks for them.
const END_DUE_EVERY: Duration = Duration::from_secs(1);
/// How often tombstones are looked at for those that can go. A pass looks at some thousand and begins at most 256
/// rounds, so a node sees to about 50 deletions a second. Not more often: a collection voids the promises for next
/// writes that lie below its floor, so a key that is written less often than this may take a second round trip.
const COLLECT_EVERY: Duration = Duration::from_secs(5);
/// How long a node that is told to end while it is leaving the ring waits until others hold what it held, unless told
/// otherwise.
const LEAVE_MAX: Duration = Duration::from_secs(60);
/// How often a node that cannot leave yet, since the same arcs are changing, asks again.
const LEAVE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Between two attempts to take out a member that is away.
const GIVE_UP_AGAIN_AFTER: Duration = Duration::from_secs(5);
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
    /// How far the log is synced, for whoever tells discovery.
    pub synced: watch::Sender<u64>,
    pub fleet: watch::Receiver<Arc<Fleet>>,
    pub discovery: Discovery,
    pub board: Board,
    pub timings: Timings,
    pub scrub_bytes_per_second: u64,
    pub damaged_at_start: bool,
    /// How long a member may be away and keep its place. None: for any time.
    pub grace: Option<Duration>,
}

/// Where views come from and go to.
pub(crate) struct Discovery {
    pub consul: Consul,
    pub directory: Directory,
}

/// A node at work.
pub(crate) struct NodeLoop {
    parts: Parts,
    spans: SpanBook,
    names: BTreeMap<NodeId, String>,
    callers: BTreeMap<Ticket, (ConnectionId, u64)>,
    ticket_last: u64,
    disk_full: bool,
    draining: bool,
    /// Whether the ring has a view in which this node is no member any more.
    retired: bool,
    superseded: Option<u64>,
    /// Word to discovery of what was copied, while it is under way.
    noting: Option<JoinHandle<()>>,
    /// The asking for leave, while it is under way; whether the ring lets this node go.
    leaving: Option<JoinHandle<bool>>,
    absences: Absences,
    /// The taking out of a member that is away, while it is under way.
    giving_up: Option<JoinHandle<()>>,
    scrub: Scrub,
    cleaned_at: Instant,
    /// The segment of the log that is being cleaned, and when the next go of that is due.
    cleaning: Option<Cleaning>,
    cleaning_due: Instant,
    seeded_at: Instant,
    ended_due_at: Instant,
    /// How far each table of available keys is gone through: on disk, in memory.
    sweeps: [Sweep; 2],
    collected_at: Instant,
    /// Whether it was said that this node copies.
    copying: bool,
}

/// What a node that is told to end is to do first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It comes back: it answers what it has taken, and ends.
    Drain,
    /// It does not come back: it leaves the ring, so that others hold what it held, and takes at most this long. If
    /// it is not let go, it drains.
    Leave(Duration),
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was asked to, and all that was in flight is answered (or was waited for long enough).
    Drained,
    /// It belongs to the ring no more: others hold all that it held.
    Retired,
    /// A later start of this node is at work; its number.
    Superseded(u64),
    /// The disk failed; the sentence says how.
    DiskFailed(String),
}

impl NodeLoop {
    pub fn new(parts: Parts) -> NodeLoop {
        let mut node = NodeLoop {
            spans: SpanBook::default(),
            names: BTreeMap::new(),
            callers: BTreeMap::new(),
            ticket_last: 0,
            disk_full: false,
            draining: false,
            retired: false,
            superseded: None,
            noting: None,
            leaving: None,
            absences: Absences::new(parts.grace),
            giving_up: None,
            scrub: Scrub::new(parts.scrub_bytes_per_second, parts.damaged_at_start, parts.clock.now()),
            cleaned_at: parts.clock.now(),
            cleaning: None,
            cleaning_due: parts.clock.now(),
            seeded_at: parts.clock.now(),
            ended_due_at: parts.clock.now(),
            sweeps: Default::default(),
            collected_at: parts.clock.now(),
            copying: false,
            parts,
        };
        let first = node.parts.host.begin(node.parts.clock.now());
        node.carry_out(first);
        node.begin_available();
        node
    }

    /// Runs until `shutdown` is told and everything in flight is answered, or until the disk fails.
    pub async fn run(mut self, shutdown: impl Future<Output = Parting>) -> Ended {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING_EVERY);
        let mut drain_until: Option<Instant> = None;
        let mut told_to_end = false;
        let mut leave_until: Option<Instant> = None;
        self.follow_fleet();
        loop {
            let now = self.parts.clock.now();
            let due = self.parts.host.next_timeout().unwrap_or(now + Duration::from_secs(1));
            let due = self.parts.clock.to_tokio(due.min(now + Duration::from_secs(1)));
            let cleaning_due = self.parts.clock.to_tokio(self.cleaning_due);
            let happening = tokio::select! {
                event = self.parts.peer_events.recv() => event.map_or(Happening::End(Ended::Drained), Happening::Peer),
                event = self.parts.log_events.recv() => Happening::of_log(event),
                Ok(()) = self.parts.fleet.changed() => Happening::Fleet,
                () = tokio::time::sleep_until(due) => Happening::Timer,
                _ = housekeeping.tick() => Happening::Housekeeping,
                () = tokio::time::sleep_until(cleaning_due), if self.cleaning.is_some() => Happening::Cleaning,
                parting = &mut shutdown, if !told_to_end => {
                    told_to_end = true;
                    let within = match parting {
                        Parting::Drain => None,
                        Parting::Leave(within) => Some(within),
                    };
                    leave_until = (within.is_some() || self.is_leaving()).then(|| now + within.unwrap_or(LEAVE_MAX));
                    self.leaving = within.map(|_| self.ask_for_leave());
                    Happening::Told
                }
                granted = async { self.leaving.as_mut().expect("guarded").await }, if self.leaving.is_some() => {
                    self.leaving = None;
                    if !granted.unwrap_or(false) {
                        leave_until = None;
                    }
                    Happening::Told
                }
            };
            if let Some(ended) = self.take(happening) {
                return ended;
            }
            if let Some(by) = self.superseded {
                return Ended::Superseded(by);
            }
            // Told to end while it is leaving, it serves on until others hold all that it held.
            let left = leave_until.is_none_or(|until| self.parts.clock.now() >= until);
            // Who has left still hands on what only it knows.
            let gone = self.retired && self.parts.host.available.is_released();
            if !self.draining && (gone || (told_to_end && left)) {
                self.begin_drain();
                drain_until = Some(now + DRAIN_MAX);
            }
            let late = drain_until.is_some_and(|until| self.parts.clock.now() >= until);
            if self.draining && (self.callers.is_empty() || late) {
                self.keep_house();
                self.parts.peers.flush(Duration::from_millis(500)).await;
                self.parts.peers.close();
                self.parts.log.stop();
                return if self.retired { Ended::Retired } else { Ended::Drained };
            }
        }
    }

    /// Does what is to be done now, and notes how long it took: nothing else happens meanwhile.
    fn take(&mut self, happening: Happening) -> Option<Ended> {
        let (began, what) = (self.parts.clock.now(), happening.name());
        match happening {
            Happening::Peer(event) => self.take_peer_event(event),
            Happening::Log(event) => self.take_log_event(event),
            Happening::Fleet => self.follow_fleet(),
            Happening::Timer => self.tick(),
            Happening::Housekeeping => self.keep_house(),
            Happening::Cleaning => self.clean_some(),
            Happening::Told => {}
            Happening::End(ended) => return Some(ended),
        }
        self.parts.timings.step(what, self.parts.clock.now().since(began));
        None
    }

    fn begin_drain(&mut self) {
        tracing::info!(waiting = self.callers.len(), "draining");
        self.draining = true;
        if let Some(asking) = self.leaving.take() {
            // The time to be let go is over: its leave must not begin behind its back.
            asking.abort();
        }
        self.parts.peers.go_away();
        self.tell_replica(Input::Drain);
        self.tell_available(|| available::Input::Drain);
        self.keep_house();
    }

    fn take_peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Up(node) => {
                tracing::info!(peer = %self.name_of(node), "connected");
                self.tell_replica(Input::PeerFound(node));
                self.tell_available(|| available::Input::PeerFound(node));
            }
            PeerEvent::Down(node) => {
                tracing::warn!(peer = %self.name_of(node), "connection lost");
                self.spans.lost(node);
                self.tell_replica(Input::PeerLost(node));
                self.tell_available(|| available::Input::PeerLost(node));
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
                let Sender::Node { id: peer, incarnation, .. } = *from else { return };
                let context = self.spans.arrived(now, peer, &message.body, &self.parts.name, frame.context);
                self.tell_replica(Input::Message { from: peer, incarnation, message, context });
            }
            Payload::Chord(envelope) => {
                if from.node_id() == Some(envelope.from.node) {
                    let send = self.parts.host.ring_message(now, envelope);
                    self.send_ring(send);
                }
            }
            Payload::Operation(call) => self.take_operation(via, call, frame.context),
            Payload::Available { durability, message } => {
                let Some(peer) = from.node_id() else { return };
                self.take_available(peer, durability, message, frame.context);
            }
            Payload::AvailableOperation(call) => self.take_available_operation(via, call, frame.context),
            Payload::Lookup { call, target, at, by } => {
                let hop = self.parts.host.next_hop(target, at, by);
                let payload = Payload::LookupReply { call, hop };
                self.parts.peers.reply(via, Frame { context: frame.context, payload });
            }
            Payload::Scan(call) => self.take_scan(via, call, frame.context),
            Payload::List { call, durability, listing } => {
                let listed = self.parts.host.available.of(durability).list(&listing);
                let payload = Payload::ListReply { call, listed };
                self.parts.peers.reply(via, Frame { context: frame.context, payload });
            }
            Payload::Inquiry { call, inquiry } => {
                let finding = self.parts.host.find(&inquiry);
                let payload = Payload::InquiryReply { call, finding };
                self.parts.peers.reply(via, Frame { context: frame.context, payload });
            }
            Payload::OperationReply { .. }
            | Payload::InquiryReply { .. }
            | Payload::ScanReply { .. }
            | Payload::ListReply { .. }
            | Payload::AvailableReply { .. }
            | Payload::LookupReply { .. }
            | Payload::Hello(_)
            | Payload::GoAway
            | Payload::Ping => {}
        }
    }

    fn take_operation(&mut self, via: ConnectionId, call: OperationCall, context: TraceContext) {
        let ticket = self.next_ticket();
        let epoch = self.parts.host.replica.view().epoch.0;
        let context = self.spans.coordinate(ticket, &call.operation, epoch, &self.parts.name, context);
        self.callers.insert(ticket, (via, call.call));
        let deadline = self.parts.clock.now() + Duration::from_millis(u64::from(call.deadline_ms));
        let wall_ms = self.parts.clock.wall_ms();
        self.tell_replica(Input::Operation { ticket, operation: call.operation, deadline, wall_ms, context });
    }

    fn take_scan(&mut self, via: ConnectionId, call: ScanCall, context: TraceContext) {
        let ScanCall { call, deadline_ms, scan } = call;
        let ticket = self.next_ticket();
        self.callers.insert(ticket, (via, call));
        let deadline = self.parts.clock.now() + Duration::from_millis(u64::from(deadline_ms));
        self.tell_replica(Input::Scan { ticket, scan, deadline, context });
    }

    fn take_log_event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Synced(position) => {
                self.parts.synced.send_replace(position.0);
                self.tell_replica(Input::Synced(position));
                self.tell_available_of(Durability::Disk, available::Input::Synced(position));
            }
            LogEvent::Full(full) => {
                if full {
                    tracing::error!("the disk is full: writes are refused, reads go on; make room or raise the quota");
                } else {
                    tracing::info!("the disk has room again");
                }
                self.disk_full = full;
                self.tell_replica(Input::DiskFull(full));
                self.tell_available_of(Durability::Disk, available::Input::DiskFull(full));
            }
            LogEvent::OldestSegment { id, records } => self.begin_cleaning(Cleaning::new(id, records)),
            LogEvent::Dropped(id) => self.take_dropped(id),
            LogEvent::Scrubbed { bytes, pass_ended } => {
                self.scrub.read(bytes, pass_ended, self.parts.clock.now());
            }
            LogEvent::Damaged(damage) => self.take_damage(damage),
            LogEvent::LostSegment { id, through } => {
                let held = self.parts.host.held_through(through);
                let records = held.len();
                tracing::warn!(segment = id.0, records, "what the damaged segment held is written again from memory");
                self.begin_cleaning(Cleaning::from_memory(id, held));
            }
            LogEvent::Failed(_) => {}
        }
    }

    /// What was durable cannot be read any more. It is still in memory, so it is written again, and the segment
    /// given up; a restart before that would make this node a new member, which copies all from its peers.
    fn take_damage(&mut self, damage: Damage) {
        let Damage { segment, offset, sequence } = damage;
        tracing::error!(
            segment = segment.0,
            file = %segment,
            offset,
            record = sequence,
            "the disk has spoiled the log; what it held is written again from memory; do not restart this node before \
             that is done, and look at the disk"
        );
        self.scrub.found(segment);
        self.parts.log.clean(self.parts.host.live_bytes() as u64);
    }

    fn take_dropped(&mut self, id: SegmentId) {
        if self.scrub.gone(id) {
            tracing::info!(segment = id.0, "the damaged segment is gone; the log is whole again");
        } else {
            tracing::debug!(segment = id.0, "a segment of the log was cleaned");
        }
        // The next one at once, if that pays: records may come faster than a segment each [`CLEANING_EVERY`].
        if self.scrub.has_damage() || !self.draining {
            self.parts.log.clean(self.parts.host.live_bytes() as u64);
        }
    }

    fn begin_cleaning(&mut self, cleaning: Cleaning) {
        self.cleaning = Some(cleaning);
        self.cleaning_due = self.parts.clock.now();
    }

    /// Writes some of the current records of an old segment to the log again, and after the last gives the segment up.
    fn clean_some(&mut self) {
        let Some(mut cleaning) = self.cleaning.take() else { return };
        let host = &self.parts.host;
        match cleaning.step(|position, record| host.is_current(position, record)) {
            Next::Examine => {}
            Next::Write { bytes } if self.has_room(bytes, true) => {}
            Next::Copies(copies) if self.has_room(copies.bytes, false) => {
                self.write_again(copies.records);
                if copies.are_last {
                    return self.parts.log.drop_segment(cleaning.id, self.parts.host.log_end());
                }
            }
            // Copies that wait for room would hold up everything behind them: better to wait until there is room. What
            // was copied already is not current there any more, and so not copied again.
            Next::Write { .. } | Next::Copies(_) => return self.parts.log.keep_segment(cleaning.id),
        }
        self.cleaning = Some(cleaning);
        self.cleaning_due = self.parts.clock.now() + cleaning::PAUSE;
    }

    fn has_room(&self, bytes: u64, may_grow: bool) -> bool {
        cleaning::has_room(&self.parts.log.sizes(), bytes, may_grow && !self.disk_full)
    }

    fn write_again(&mut self, records: Vec<(LogPosition, LogRecord)>) {
        let (mut registers, mut available) = (Vec::new(), Vec::new());
        for (position, record) in records {
            match record {
                LogRecord::Register(record) => registers.push(record),
                LogRecord::Available(record) => available.push((position, record)),
            }
        }
        let effects = self.parts.host.rewrite(registers);
        self.carry_out(effects);
        let effects = self.parts.host.rewrite_available(available);
        self.carry_out_available(Durability::Disk, effects);
    }

    fn follow_fleet(&mut self) {
        let fleet = Arc::clone(&self.parts.fleet.borrow_and_update());
        let addresses = fleet.nodes.iter().map(|(id, node)| (*id, node.peer)).collect();
        self.parts.peers.set_addresses(addresses);
        self.names = fleet.view.members.iter().map(|member| (member.id, member.name.clone())).collect();
        self.retired |= fleet.view.is_formed() && fleet.view.member(self.parts.id).is_none();
        self.tell_replica(Input::View((*fleet.view).clone()));
        self.tell_available(|| available::Input::View((*fleet.view).clone()));
        self.seed_ring();
    }

    /// Tells discovery that this node is to leave; waits its turn while another change of the same arcs is under way,
    /// and for members who are away if the change could not end without them.
    fn ask_for_leave(&self) -> JoinHandle<bool> {
        let (consul, directory) = (self.parts.discovery.consul.clone(), self.parts.discovery.directory.clone());
        let (id, already) = (self.parts.id, self.is_leaving());
        tokio::spawn(async move {
            if already {
                return true;
            }
            loop {
                match ring_changes::leave(&consul, &BTreeSet::from([id]), false).await {
                    Ok(leaving) => {
                        tracing::info!(epoch = %leaving.view.epoch, "leaving the ring");
                        directory.learn(leaving.view);
                        return true;
                    }
                    // These pass: the other change ends, or the absent come back.
                    Err(RingChangeError::Refused(
                        wait @ (ChangeError::Overlaps { .. }
                        | ChangeError::NoMajority { .. }
                        | ChangeError::AwaitsAbsent { .. }),
                    )) => {
                        tracing::info!(%wait, "waiting to leave the ring");
                    }
                    Err(RingChangeError::Refused(refusal)) => {
                        tracing::error!(%refusal, "this node cannot leave the ring; it ends as for a restart");
                        return false;
                    }
                    Err(error) => {
                        tracing::warn!(error = stdx::error_chain(&error), "discovery was not told of leaving")
                    }
                }
                tokio::time::sleep(LEAVE_AGAIN_AFTER).await;
            }
        })
    }

    fn is_leaving(&self) -> bool {
        self.parts.host.replica.view().is_leaving(self.parts.id)
    }

    /// Takes a member out of the ring that has been away for longer than the grace period, so that what it held has all
    /// its copies again.
    fn give_up_absent(&mut self, now: Instant) {
        let view = self.parts.host.replica.view();
        let Some(absent) = self.absences.look(view, self.parts.id, |id| self.parts.peers.is_up(id), now) else {
            return;
        };
        if self.draining || self.giving_up.as_ref().is_some_and(|giving_up| !giving_up.is_finished()) {
            return;
        }
        let (consul, directory) = (self.parts.discovery.consul.clone(), self.parts.discovery.directory.clone());
        let name = self.name_of(absent);
        self.giving_up = Some(tokio::spawn(async move {
            match ring_changes::give_up(&consul, absent).await {
                Ok(Some(view)) => {
                    tracing::warn!(node = name, epoch = %view.epoch, "away beyond the grace period: taken out");
                    directory.learn(view);
                }
                // Discovery sees it, or somebody was quicker.
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(node = name, error = stdx::error_chain(&error), "away, and cannot be taken out");
                }
            }
            tokio::time::sleep(GIVE_UP_AGAIN_AFTER).await;
        }));
    }

    /// Tells discovery of changes for which all is copied; the change is complete with the last one's word.
    fn note_copied(&mut self) {
        let available = self.parts.host.available.copied_changes();
        let mut changes = self.parts.host.replica.copied_changes();
        changes.retain(|change| available.contains(change));
        let under_way = self.noting.as_ref().is_some_and(|noting| !noting.is_finished());
        if changes.is_empty() || under_way {
            return;
        }
        let (id, consul) = (self.parts.id, self.parts.discovery.consul.clone());
        let directory = self.parts.discovery.directory.clone();
        self.noting = Some(tokio::spawn(async move {
            match ring_changes::note_copied(&consul, id, &changes).await {
                Ok(Some(view)) => directory.learn(view),
                Ok(None) => {}
                // Said again the next time that the house is kept.
                Err(error) => tracing::warn!(error = stdx::error_chain(&error), "discovery was not told of a copy"),
            }
        }));
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
        self.tick_available();
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
        let records = effects.persist.into_iter().map(|(position, record)| (position, LogRecord::Register(record)));
        self.parts.log.append(records.collect());
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
        for (ticket, outcome) in effects.scans {
            self.reply(ticket, |call| Payload::ScanReply { call, outcome });
        }
        for event in effects.events {
            match event {
                Event::CaughtUp => tracing::info!("caught up with the other replicas"),
                Event::CatchUp { remaining } => tracing::info!(remaining, "catching up"),
                Event::EpochDiffers { peer } => tracing::debug!(peer = %self.name_of(peer), "holds another view"),
                Event::ViewLearned(view) => self.parts.discovery.directory.learn(view),
                Event::ArcCopied { high, held, at_source } => self.log_copied(high, held, at_source),
                Event::ArcConfirmed { high, up_to } => tracing::trace!(%high, up_to, "an arc is confirmed"),
                Event::Released { registers } => tracing::info!(registers, "others hold them now: dropped"),
                Event::Collected { registers } => tracing::debug!(registers, "tombstones dropped for good"),
                Event::PeerFenced { peer, incarnation } => {
                    tracing::warn!(peer = %self.name_of(peer), incarnation, "an older start of this node still speaks");
                }
                Event::Superseded { by } => {
                    tracing::error!(by, "a later start of this node is at work; ending");
                    self.superseded = Some(by);
                }
                Event::Contention { by } => tracing::debug!(by = %self.name_of(by), "a ballot was refused"),
            }
        }
    }

    fn log_copied(&self, high: Position, held: ArcPrint, at_source: ArcPrint) {
        let status = self.parts.host.replica.transfer_status();
        let (copied, of, bytes) = (status.arcs_copied, status.arcs, status.bytes);
        let (registers, print) = (held.registers, format_args!("{:016x}", held.print));
        // Writes that were under way make the two differ.
        let (there, print_there) = (at_source.registers, format_args!("{:016x}", at_source.print));
        tracing::info!(
            arc = %high, registers, %print, at_source = there, print_at_source = %print_there, arcs_copied = copied, of,
            bytes, "an arc is copied"
        );
    }

    fn answer(&mut self, answer: Answer) {
        let names = &self.names;
        self.spans.coordinated(&answer, |node| name_in(names, node));
        let Answer { ticket, outcome, receipt } = answer;
        self.reply(ticket, |call| Payload::OperationReply { call, outcome, receipt });
    }

    fn next_ticket(&mut self) -> Ticket {
        self.ticket_last += 1;
        Ticket(self.ticket_last)
    }

    /// Answers the call that the ticket is of; one of our own has no caller.
    fn reply(&mut self, ticket: Ticket, payload: impl FnOnce(u64) -> Payload) {
        if let Some((via, call)) = self.callers.remove(&ticket) {
            self.parts.peers.reply(via, Frame { context: TraceContext::NONE, payload: payload(call) });
        }
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
        if let Some(bytes) = self.scrub.due(now) {
            self.parts.log.scrub(bytes);
        }
        if now.since(self.cleaned_at) >= CLEANING_EVERY && !self.draining {
            self.cleaned_at = now;
            self.parts.log.clean(self.parts.host.live_bytes() as u64);
        }
        if now.since(self.seeded_at) >= SEEDS_EVERY {
            self.seed_ring();
        }
        if now.since(self.ended_due_at) >= END_DUE_EVERY {
            self.ended_due_at = now;
            let effects = self.parts.host.replica(now, Input::EndDue { wall_ms: self.parts.clock.wall_ms() });
            self.carry_out(effects);
            self.sweep_available();
        }
        if now.since(self.collected_at) >= COLLECT_EVERY {
            self.collected_at = now;
            let effects = self.parts.host.replica(now, Input::Collect { wall_ms: self.parts.clock.wall_ms() });
            self.carry_out(effects);
        }
        self.note_copied();
        self.give_up_absent(now);
        let members = self.parts.host.members();
        let pointers = members.filter_map(|m| Some(Pointers { view: m.view()?, fingers: m.fingers().to_vec() }));
        let pointers = pointers.collect();
        let status = self.status();
        self.log_copying(&status);
        self.parts.board.write(status, pointers);
    }

    /// Says when copying begins and when it is over.
    fn log_copying(&mut self, status: &Status) {
        let (registers, keys) = (status.copying, status.available.copying());
        let copies = registers.arcs + keys.arcs > 0;
        if copies && !self.copying {
            let (arcs, arcs_of_available_keys) = (registers.arcs, keys.arcs);
            tracing::info!(arcs, arcs_of_available_keys, "copying: a change makes this node a replica of them");
        } else if self.copying && !copies {
            let (bytes, bytes_of_available_keys) = (registers.bytes, keys.bytes);
            tracing::info!(
                registers = registers.registers,
                bytes,
                available_keys = keys.keys,
                bytes_of_available_keys,
                "copying is over: so much since the start"
            );
        }
        self.copying = copies;
    }

    fn status(&self) -> Status {
        let replica = &self.parts.host.replica;
        let epoch = replica.view().epoch.0;
        let transfer = replica.transfer_status();
        let holds_all = replica.has_caught_up() && !replica.view().is_joining(self.parts.id) && !self.available_lags();
        let state = match (self.draining, epoch, holds_all) {
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
            tombstones: replica.tombstones(),
            tombstones_dropped: replica.tombstones_dropped(),
            live_bytes: self.parts.host.live_bytes(),
            log_bytes: self.parts.log.sizes().total_bytes,
            catch_up_remaining: replica.lagging(),
            caught_up: replica.caught_up(),
            copying: Copying {
                arcs: transfer.arcs,
                arcs_copied: transfer.arcs_copied,
                registers: transfer.registers,
                bytes: transfer.bytes,
            },
            leaving: self.is_leaving(),
            waiting: replica.waiting(),
            available: self.available_status(),
            disk_full: self.disk_full,
            scrub: self.scrub.status(),
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
