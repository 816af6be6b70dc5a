//! A simulated storage node: the real cores and the real log over a simulated disk.

use std::collections::VecDeque;
use std::time::Duration;

use chord::Config;
use membership::{Epoch, NodeId, Position, View};
use replication::{AllBut, Ballot, Effects, Input, LogPosition, Outbox, Record, RegisterKey, Replica};
use stdx::{Instant, Prng};
use store::identity::Place;
use store::{
    AppendError, Damage, Disk as _, DropError, Log, LogConfig, OpenError, ReadError, ScrubStep, SegmentId, SegmentInfo,
    SimDisk, framed_len,
};

use crate::planted::Planted;
use crate::ring_host::RingHost;

/// How often discovery is told how far a log is synced, at most. Runs are short: in production it is some seconds.
const TELL_EVERY: Duration = Duration::from_millis(40);

/// What a crash leaves behind, and what runs on it.
pub(crate) struct SimNode<C: chord::Rules> {
    /// Its identity.
    pub id: NodeId,
    /// The rules that its registers keep.
    rules: AllBut,
    /// Its places in the ring, by the view that it acts on.
    pub tokens: Vec<Position>,
    /// Its disk; survives crashes, unless it is lost.
    pub disk: SimDisk,
    /// What runs; none while the node is down.
    pub running: Option<Running<C>>,
    /// How often it was started.
    pub incarnation: u64,
    /// Where its data directory says that it is.
    pub home: Place,
    /// The latest start that its data directory notes.
    pub noted: u64,
    /// A record that discovery knows it to have synced, and when it was told of it.
    pub told: u64,
    told_at: Instant,
    /// Until when it is stopped in its tracks.
    pub paused_until: Option<Instant>,
    /// Whether it never comes back.
    pub gone: bool,
    /// Whether its disk will fail at one of the next calls.
    pub doomed: bool,
    /// Whether it takes damage in the middle of its log for a torn tail: a planted bug.
    cuts_damage: bool,
    /// The last view that it kept beside its log, which is not synced, and the one before.
    pub kept_views: [View; 2],
    /// Whether its next start is in a view that it kept.
    pub forgot: bool,
}

/// The part that a crash destroys.
pub(crate) struct Running<C: chord::Rules> {
    /// The replica.
    pub replica: Replica<AllBut>,
    /// The members of the ring.
    pub ring: RingHost<C>,
    /// The log.
    pub log: Log,
    /// Records that wait for room, in order; empty unless the disk is full.
    pub waiting: VecDeque<(LogPosition, Record)>,
    /// The last position that the core gave out.
    pub log_end: u64,
    /// Whether a sync is under way.
    pub syncing: bool,
    /// What the core was last told about the disk's room.
    pub full: bool,
    /// Whether the node will look at the disk's room.
    pub looking: bool,
    /// The segment that may go once everything up to this position is durable.
    pub dropping: Option<(SegmentId, u64)>,
    /// When the node's next timer is scheduled.
    pub tick_at: Option<Instant>,
    /// Accepted records that are not yet durable, in log order.
    pub unsynced: VecDeque<(LogPosition, Durable)>,
}

/// What a record makes durable, as far as the observer wants to know.
#[derive(Clone, Debug)]
pub(crate) enum Durable {
    /// A state at a ballot.
    Accepted(RegisterKey, Ballot),
    /// A view that is acted on.
    Acting(Epoch),
}

/// What a record takes back of what stands before it in the log.
#[derive(Clone, Debug)]
pub(crate) enum TakenBack {
    /// A register, up to this ballot.
    Register(RegisterKey, Ballot),
    /// All registers after the first position and up to the second.
    Arc(Position, Position),
}

impl TakenBack {
    pub fn of(record: &Record) -> Option<TakenBack> {
        match record {
            Record::Dropped { key, ballot } => Some(TakenBack::Register(key.clone(), *ballot)),
            Record::Cleared { low, high } => Some(TakenBack::Arc(*low, *high)),
            Record::Accepted { .. } | Record::Epoch(_) | Record::Ceiling(_) => None,
        }
    }

    /// Where it takes something back.
    pub fn position(&self) -> Position {
        match self {
            TakenBack::Register(key, _) => key.position,
            TakenBack::Arc(_, high) => *high,
        }
    }

    /// Whether it takes back what was accepted of this register at this ballot.
    pub fn covers(&self, key: &RegisterKey, ballot: Ballot) -> bool {
        match self {
            TakenBack::Register(dropped, up_to) => dropped == key && ballot <= *up_to,
            TakenBack::Arc(low, high) => key.position.in_arc(*low, *high),
        }
    }

    /// Whether it takes back what this made durable.
    pub fn takes(&self, durable: &Durable) -> bool {
        matches!(durable, Durable::Accepted(key, ballot) if self.covers(key, *ballot))
    }
}

impl Durable {
    pub fn of(record: &Record) -> Option<Durable> {
        match record {
            Record::Accepted { key, ballot, .. } => Some(Durable::Accepted(key.clone(), *ballot)),
            Record::Epoch(epoch) => Some(Durable::Acting(*epoch)),
            Record::Ceiling(_) | Record::Dropped { .. } | Record::Cleared { .. } => None,
        }
    }
}

/// The disk failed: the process must end.
#[derive(Debug)]
pub(crate) struct DiskFailed;

/// How a start went wrong.
#[derive(Debug)]
pub(crate) enum StartFailed {
    /// The disk failed in the middle of it.
    Disk,
    /// The log is damaged: something that was acknowledged cannot be read.
    Damaged(String),
    /// The log does not open, though neither crashes nor rot can have done that.
    Log(String),
}

impl<C: chord::Rules> SimNode<C> {
    pub fn new(id: NodeId, view: &View, planted: Option<Planted>, prng: &mut Prng) -> SimNode<C> {
        let mut disk = SimDisk::new(prng.next_u64());
        let home = disk.place().expect("this is asked of nothing that can fail");
        let tokens = view.member(id).map(|member| member.tokens.clone()).unwrap_or_default();
        let (running, paused_until) = (None, None);
        let kept_views = [view.clone(), view.clone()];
        SimNode {
            id,
            rules: AllBut(planted.and_then(Planted::rule)),
            tokens,
            disk,
            running,
            incarnation: 0,
            home,
            noted: 0,
            told: 0,
            told_at: Instant::ZERO,
            paused_until,
            gone: false,
            doomed: false,
            cuts_damage: planted == Some(Planted::DamageCut),
            kept_views,
            forgot: false,
        }
    }

    /// Starts the node on what its disk holds; also answers the accepted records found there.
    pub fn start(
        &mut self,
        now: Instant,
        view: &View,
        (segment_bytes, ring): (u64, Config),
        prng: &mut Prng,
    ) -> Result<(Effects, Vec<Durable>), StartFailed> {
        assert!(self.running.is_none(), "a node is started once at a time");
        self.incarnation += 1;
        let mut replica = Replica::with_rules(self.id, view.clone(), prng.fork(), self.rules);
        replica.set_incarnation(self.incarnation);
        let config = LogConfig { segment_bytes, ..LogConfig::new(self.id.0) };
        let (log, restored) = match open(&self.disk, config.clone()) {
            (Err(OpenError::Damaged { .. }), whole) if self.cuts_damage => {
                self.cut_behind(&whole, config.clone(), prng);
                open(&self.disk, config)
            }
            opened => opened,
        };
        let log = log.map_err(|error| match error {
            OpenError::Disk(_) => StartFailed::Disk,
            error @ OpenError::Damaged { .. } => StartFailed::Damaged(stdx::error_chain(&error)),
            error => StartFailed::Log(stdx::error_chain(&error)),
        })?;
        self.tokens = view.member(self.id).map(|member| member.tokens.clone()).unwrap_or_default();
        let mut held = Vec::new();
        for (sequence, record) in restored {
            if let Some(taken) = TakenBack::of(&record) {
                held.retain(|durable| !taken.takes(durable));
            }
            held.extend(Durable::of(&record));
            replica.restore(LogPosition(sequence), record);
        }
        let mut out = Outbox::default();
        replica.begin(now, &mut out);
        self.running = Some(Running {
            replica,
            ring: RingHost::new(self.id, view, ring, prng),
            log_end: log.last_sequence(),
            log,
            waiting: VecDeque::new(),
            syncing: false,
            full: false,
            looking: false,
            dropping: None,
            tick_at: None,
            unsynced: VecDeque::new(),
        });
        Ok((out.drain(), held))
    }

    /// The planted bug: what was read before the damage is taken for all there was.
    fn cut_behind(&mut self, whole: &[(u64, Record)], config: LogConfig, prng: &mut Prng) {
        self.disk = SimDisk::new(prng.next_u64());
        let (log, _) = open(&self.disk, config);
        let mut log = log.expect("an empty disk makes a new log");
        for (_, record) in whole {
            log.append(&wire::codec::encode_record(record)).expect("a new disk has room");
        }
        log.flush().expect("a new disk works");
    }

    /// Gives the replica one input.
    pub fn handle(&mut self, now: Instant, input: Input) -> Effects {
        let Some(running) = &mut self.running else { return Effects::default() };
        let mut out = Outbox::default();
        running.replica.handle(now, input, &mut out);
        out.drain()
    }

    /// The epoch of the view that it acts on; none while it is down.
    pub fn acting_epoch(&self) -> Option<Epoch> {
        self.running.as_ref().map(|running| running.replica.view().epoch)
    }

    /// What is synced: discovery is told from time to time.
    pub fn note_synced(&mut self, now: Instant, through: u64) {
        if now.since(self.told_at) >= TELL_EVERY {
            (self.told, self.told_at) = (self.told.max(through), now);
        }
    }

    /// The process ends, and what it had handed to the disk stays.
    pub fn kill(&mut self) {
        self.running = None;
        self.paused_until = None;
    }

    /// Pulls the plug: what was not synced may be lost, torn or kept. A sync under way is met in the middle.
    pub fn pull_plug(&mut self, prng: &mut Prng) {
        if let Some(mut running) = self.running.take()
            && running.syncing
        {
            self.disk.crash_after(prng.below(4));
            // Whether it got that far is exactly what nobody knows.
            let _ = running.log.flush();
        }
        self.paused_until = None;
        self.doomed = false;
        if prng.one_in(2) {
            self.kept_views[0] = self.kept_views[1].clone();
        }
        self.disk.crash();
    }

    /// Whether it works at the moment.
    pub fn is_working(&self) -> bool {
        self.running.is_some() && self.paused_until.is_none()
    }
}

/// Opens a log, and gives back what it restored up to where it could be read.
fn open(disk: &SimDisk, config: LogConfig) -> (Result<Log, OpenError>, Vec<(u64, Record)>) {
    let mut restored = Vec::new();
    let log = Log::open(disk.clone(), config, &mut |sequence, body| {
        let record = wire::codec::decode_record(body).expect("the log gives back what was appended");
        restored.push((sequence, record));
    });
    (log, restored)
}

/// What the log's thread does in production.
impl<C: chord::Rules> Running<C> {
    /// Appends all that waits and fits.
    pub fn commit(&mut self) -> Result<(), DiskFailed> {
        while let Some((position, record)) = self.waiting.front() {
            match self.log.append(&wire::codec::encode_record(record)) {
                Ok(sequence) => assert_eq!(sequence, position.0, "the core and the log number records alike"),
                // The reserve is used up. What is left keeps its order and its numbers, and waits for room.
                Err(AppendError::Full) => return Ok(()),
                Err(AppendError::Poisoned(_)) => return Err(DiskFailed),
                Err(error @ (AppendError::TooLarge { .. } | AppendError::FlushFirst { .. })) => {
                    unreachable!("runs are too small for it: {error}")
                }
            }
            if let Some(durable) = Durable::of(record) {
                self.unsynced.push_back((*position, durable));
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Makes durable what is appended, and drops the segment whose copies are; the last durable position.
    pub fn flush(&mut self) -> Result<u64, DiskFailed> {
        let through = self.log.flush().map_err(|_| DiskFailed)?;
        if let Some((segment, copied_through)) = self.dropping {
            match self.log.drop_segment(segment, copied_through) {
                Ok(()) => self.dropping = None,
                Err(DropError::NotDurable { .. }) => {}
                Err(DropError::Poisoned(_)) => return Err(DiskFailed),
                Err(error @ DropError::NotOldest(_)) => unreachable!("only the oldest is cleaned: {error}"),
            }
        }
        Ok(through)
    }

    /// Looks whether the disk has room (again); what to tell the core, if that changed.
    pub fn look_for_room(&mut self) -> Result<Option<bool>, DiskFailed> {
        if self.log.is_full() {
            self.log.make_room().map_err(|_| DiskFailed)?;
        }
        let full = self.log.is_full();
        let changed = full != self.full;
        self.full = full;
        Ok(changed.then_some(full))
    }

    /// Writes what is current of the oldest segment to the log again, if that pays and there is room for it.
    ///
    /// As in production, but that production only begins when the log has grown by 64 MiB. A damaged log is always
    /// worth it: what cannot be read of it is in memory.
    pub fn clean(&mut self, segment_bytes: u64) -> Result<Option<Effects>, DiskFailed> {
        let active = self.log.segments().last();
        if active.is_some_and(|active| self.log.is_damaged(active.id)) {
            self.log.seal().map_err(|_| DiskFailed)?;
        }
        let (sizes, live) = (self.log.sizes(), self.replica.live_bytes() as u64);
        let spared = if self.log.is_full() { live } else { 2 * live };
        let Some(oldest) = self.log.oldest_segment() else { return Ok(None) };
        let settled = self.waiting.is_empty() && self.log.durable() >= oldest.last_sequence;
        let is_due = self.log.has_damage() || sizes.total_bytes > spared + 2 * segment_bytes;
        if self.dropping.is_some() || !settled || !is_due {
            return Ok(None);
        }
        let records = self.records_of(oldest)?;
        let sizes_of = records.iter().map(|record| framed_len(wire::codec::encode_record(record).len() as u64));
        let bytes = framed_len(64) + sizes_of.sum::<u64>();
        // On a full disk copies need room before the segment gives any.
        if self.log.is_full() && bytes > sizes.room_bytes {
            return Ok(None);
        }
        let mut out = Outbox::default();
        self.replica.rewrite(records, &mut out);
        let effects = out.drain();
        let copied_through = effects.persist.last().map_or(self.log_end, |(position, _)| position.0);
        self.dropping = Some((oldest.id, copied_through));
        Ok(Some(effects))
    }

    /// What the oldest segment holds: as the disk has it, or from memory where the disk has spoiled it.
    fn records_of(&mut self, oldest: SegmentInfo) -> Result<Vec<Record>, DiskFailed> {
        if !self.log.is_damaged(oldest.id) {
            let mut records = Vec::new();
            let read = self.log.read_segment(oldest.id, &mut |_, body| {
                records.push(wire::codec::decode_record(body).expect("the log gives back what was appended"));
            });
            match read {
                Ok(()) => return Ok(records),
                Err(ReadError::Damaged { segment, .. }) => self.log.note_damaged(segment),
                Err(ReadError::Unknown(_) | ReadError::Poisoned(_)) => return Err(DiskFailed),
            }
        }
        Ok(self.replica.held_through(LogPosition(oldest.last_sequence)))
    }

    /// Reads some of the log again; the damage, if there is some.
    pub fn scrub(&mut self, budget_bytes: u64) -> Result<Option<Damage>, DiskFailed> {
        match self.log.scrub_step(budget_bytes).map_err(|_| DiskFailed)? {
            ScrubStep::Whole { .. } | ScrubStep::PassEnded => Ok(None),
            ScrubStep::Damaged(damage) => Ok(Some(damage)),
        }
    }
}
