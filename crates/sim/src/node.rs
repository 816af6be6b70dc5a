//! A simulated storage node: the real cores and the real log over a simulated disk.

use std::collections::VecDeque;
use std::time::Duration;

use chord::Config;
use membership::{Epoch, NodeId, Position, View};
use replication::{AllBut, Ballot, Effects, Input, LogPosition, Outbox, Record, RegisterKey, Replica};
use stdx::{Instant, Prng};
use store::identity::Place;
use store::{Disk as _, LogConfig, OpenError, SimDisk};

use crate::clock::Clock;
use crate::node_log::{DiskFailed, Logged, NodeLog, StartFailed, lose_syncs};
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
    /// The size of its log's segments, once it was started.
    segment_bytes: u64,
    /// Where its disk lies at the moment: the latest start that its data directory noted before.
    pub lied_since: Option<u64>,
    /// Whether it has lost something that its disk had said to be synced.
    pub lost_syncs: bool,
    /// Until when it is stopped in its tracks.
    pub paused_until: Option<Instant>,
    /// Whether it never comes back.
    pub gone: bool,
    /// Whether its disk will fail at one of the next calls.
    pub doomed: bool,
    /// Whether it takes damage in the middle of its log for a torn tail: a planted bug.
    cuts_damage: bool,
    /// What it takes for the time.
    pub clock: Clock,
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
    pub log: NodeLog<Record>,
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
            segment_bytes: 0,
            lied_since: None,
            lost_syncs: false,
            paused_until,
            gone: false,
            doomed: false,
            cuts_damage: planted == Some(Planted::DamageCut),
            clock: Clock::RIGHT,
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
        self.segment_bytes = segment_bytes;
        let config = self.log_config();
        let (log, restored) = match NodeLog::open(&self.disk, config.clone()) {
            (Err(OpenError::Damaged { .. }), whole) if self.cuts_damage => {
                self.cut_behind(&whole, config.clone(), prng);
                NodeLog::open(&self.disk, config)
            }
            opened => opened,
        };
        let log = log?;
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
            log,
            tick_at: None,
            unsynced: VecDeque::new(),
        });
        Ok((out.drain(), held))
    }

    fn log_config(&self) -> LogConfig {
        LogConfig { segment_bytes: self.segment_bytes, ..LogConfig::new(self.id.0) }
    }

    /// The planted bug: what was read before the damage is taken for all there was.
    fn cut_behind(&mut self, whole: &[(u64, Record)], config: LogConfig, prng: &mut Prng) {
        self.disk = SimDisk::new(prng.next_u64());
        let (log, _) = NodeLog::<Record>::open(&self.disk, config);
        let mut log = log.expect("an empty disk makes a new log");
        for (_, record) in whole {
            log.append(&record.encode()).expect("a new disk has room");
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
            && running.log.syncing
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
        match self.lied_since.take() {
            Some(noted) => {
                let config = self.log_config();
                if lose_syncs::<Record>(&mut self.disk, &config, self.told, prng) {
                    self.lost_syncs = true;
                    if prng.one_in(2) {
                        self.noted = noted;
                    }
                }
            }
            None => self.disk.crash(),
        }
    }

    /// Its disk does what it owes, if it lied.
    pub fn end_lies(&mut self) {
        if self.lied_since.take().is_some() {
            self.disk.set_honest(true);
            self.disk.settle();
        }
    }

    /// Whether it works at the moment.
    pub fn is_working(&self) -> bool {
        self.running.is_some() && self.paused_until.is_none()
    }
}

impl<C: chord::Rules> Running<C> {
    /// Appends all that waits and fits.
    pub fn commit(&mut self) -> Result<(), DiskFailed> {
        let unsynced = &mut self.unsynced;
        self.log.commit(|position, record| {
            // A vote that is dropped is not on the disk again because a copy of its record, written by cleaning before
            // the drop, is synced with it (seed 40407).
            if let Some(taken @ TakenBack::Register(..)) = TakenBack::of(record) {
                unsynced.retain(|(_, durable)| !taken.takes(durable));
            }
            unsynced.extend(Durable::of(record).map(|durable| (position, durable)));
        })
    }

    /// Writes what is current of the oldest segment to the log again, if that pays and there is room for it.
    pub fn clean(&mut self, segment_bytes: u64) -> Result<Option<Effects>, DiskFailed> {
        let live = self.replica.live_bytes() as u64;
        let Some(oldest) = self.log.due_for_cleaning(live, segment_bytes)? else { return Ok(None) };
        // As the disk has it, or from memory where the disk has spoiled it.
        let records = match self.log.records_of(oldest)? {
            Some(records) => records.into_iter().map(|(_, record)| record).collect(),
            None => self.replica.held_through(LogPosition(oldest.last_sequence)),
        };
        if !self.log.has_room_for(records.iter()) {
            return Ok(None);
        }
        let mut out = Outbox::default();
        self.replica.rewrite(records, &mut out);
        let effects = out.drain();
        let copied_through = effects.persist.last().map_or(self.log.end, |(position, _)| position.0);
        self.log.dropping = Some((oldest.id, copied_through));
        Ok(Some(effects))
    }
}
