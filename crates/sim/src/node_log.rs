//! A simulated node's log: the real one over a simulated disk, and what the log's thread does with it in production.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use replication::LogPosition;
use stdx::Prng;
use store::identity::Doubt;
use store::{
    AppendError, Damage, DropError, Log, LogConfig, OpenError, ReadError, ScrubStep, SegmentId, SegmentInfo, SimDisk,
    framed_len,
};
use wire::node::LogRecord;

/// What a log of records holds, as bytes and back.
pub(crate) trait Logged: Sized {
    fn encode(&self) -> Vec<u8>;

    /// Reads back what was appended.
    fn decode(bytes: &[u8]) -> Self;
}

impl Logged for replication::Record {
    fn encode(&self) -> Vec<u8> {
        wire::codec::encode_record(self)
    }

    fn decode(bytes: &[u8]) -> Self {
        wire::codec::decode_record(bytes).expect("the log gives back what was appended")
    }
}

impl Logged for LogRecord {
    fn encode(&self) -> Vec<u8> {
        wire::codec::encode_log_record(self)
    }

    fn decode(bytes: &[u8]) -> Self {
        wire::codec::decode_log_record(bytes).expect("the log gives back what was appended")
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

impl From<OpenError> for StartFailed {
    fn from(error: OpenError) -> StartFailed {
        match error {
            OpenError::Disk(_) => StartFailed::Disk,
            error @ OpenError::Damaged { .. } => StartFailed::Damaged(stdx::error_chain(&error)),
            error => StartFailed::Log(stdx::error_chain(&error)),
        }
    }
}

/// A log, if it opened, and the records that could be read of it, oldest first.
pub(crate) type Opened<R> = (Result<NodeLog<R>, OpenError>, Vec<(u64, R)>);

/// A node's log, with what is on its way to it.
#[derive(Debug)]
pub(crate) struct NodeLog<R> {
    log: Log,
    /// Records that wait: for room where the disk is full, or for the sync under way.
    pub waiting: VecDeque<(LogPosition, R)>,
    /// The last position that a core gave out.
    pub end: u64,
    /// Whether a sync is under way.
    pub syncing: bool,
    /// What the cores were last told about the disk's room.
    pub full: bool,
    /// Whether the node will look at the disk's room.
    pub looking: bool,
    /// The segment that may go once everything up to this position is durable.
    pub dropping: Option<(SegmentId, u64)>,
}

impl<R> Deref for NodeLog<R> {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.log
    }
}

impl<R> DerefMut for NodeLog<R> {
    fn deref_mut(&mut self) -> &mut Log {
        &mut self.log
    }
}

impl<R: Logged> NodeLog<R> {
    /// Opens a disk's log, and gives back what it restored up to where it could be read.
    pub fn open(disk: &SimDisk, config: LogConfig) -> Opened<R> {
        let mut restored = Vec::new();
        let log = Log::open(disk.clone(), config, &mut |sequence, body| restored.push((sequence, R::decode(body))));
        let log = log.map(|log| NodeLog {
            end: log.last_sequence(),
            log,
            waiting: VecDeque::new(),
            syncing: false,
            full: false,
            looking: false,
            dropping: None,
        });
        (log, restored)
    }

    /// Takes records that the cores have numbered.
    pub fn persist(&mut self, records: Vec<(LogPosition, R)>) {
        self.end = records.last().map_or(self.end, |(position, _)| position.0);
        self.waiting.extend(records);
    }

    /// Appends all that waits and fits; `appended` is told of each.
    pub fn commit(&mut self, mut appended: impl FnMut(LogPosition, &R)) -> Result<(), DiskFailed> {
        while let Some((position, record)) = self.waiting.front() {
            match self.log.append(&record.encode()) {
                Ok(sequence) => assert_eq!(sequence, position.0, "the cores and the log number records alike"),
                // The reserve is used up. What is left keeps its order and its numbers, and waits for room.
                Err(AppendError::Full) => return Ok(()),
                Err(AppendError::Poisoned(_)) => return Err(DiskFailed),
                Err(error @ (AppendError::TooLarge { .. } | AppendError::FlushFirst { .. })) => {
                    unreachable!("runs are too small for it: {error}")
                }
            }
            appended(*position, record);
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Whether a sync is to begin: something is appended that is not durable, and none is under way. It is from now on.
    pub fn begin_sync(&mut self) -> bool {
        let begins = self.last_sequence() > self.durable() && !self.syncing;
        self.syncing |= begins;
        begins
    }

    /// Whether somebody is to look for room later on. Somebody will from now on.
    pub fn begin_look(&mut self) -> bool {
        let begins = (self.full || self.is_full()) && !self.looking;
        self.looking |= begins;
        begins
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

    /// Looks whether the disk has room (again); what to tell the cores, if that changed.
    pub fn look_for_room(&mut self) -> Result<Option<bool>, DiskFailed> {
        if self.log.is_full() {
            self.log.make_room().map_err(|_| DiskFailed)?;
        }
        let full = self.log.is_full();
        let changed = full != self.full;
        self.full = full;
        Ok(changed.then_some(full))
    }

    /// The oldest segment, if it pays to write what is current of it to the log again, where `live` bytes are.
    ///
    /// As in production, but that production only begins when the log has grown by 64 MiB. A damaged log is always
    /// worth it: what cannot be read of it is in memory.
    pub fn due_for_cleaning(&mut self, live: u64, segment_bytes: u64) -> Result<Option<SegmentInfo>, DiskFailed> {
        let active = self.log.segments().last();
        if active.is_some_and(|active| self.log.is_damaged(active.id)) {
            self.log.seal().map_err(|_| DiskFailed)?;
        }
        let sizes = self.log.sizes();
        let spared = if self.log.is_full() { live } else { 2 * live };
        let Some(oldest) = self.log.oldest_segment() else { return Ok(None) };
        let settled = self.waiting.is_empty() && self.log.durable() >= oldest.last_sequence;
        let is_due = self.log.has_damage() || sizes.total_bytes > spared + 2 * segment_bytes;
        Ok((self.dropping.is_none() && settled && is_due).then_some(oldest))
    }

    /// What a segment holds as the disk has it; none where the disk has spoiled it.
    pub fn records_of(&mut self, segment: SegmentInfo) -> Result<Option<Vec<(LogPosition, R)>>, DiskFailed> {
        if self.log.is_damaged(segment.id) {
            return Ok(None);
        }
        let mut records = Vec::new();
        let read = self.log.read_segment(segment.id, &mut |sequence, body| {
            records.push((LogPosition(sequence), R::decode(body)));
        });
        match read {
            Ok(()) => Ok(Some(records)),
            Err(ReadError::Damaged { segment, .. }) => {
                self.log.note_damaged(segment);
                Ok(None)
            }
            Err(ReadError::Unknown(_) | ReadError::Poisoned(_)) => Err(DiskFailed),
        }
    }

    /// Whether there is room for copies of these: on a full disk they need it before their segment gives any.
    pub fn has_room_for<'a>(&self, records: impl Iterator<Item = &'a R>) -> bool
    where
        R: 'a,
    {
        let bytes = framed_len(64) + records.map(|record| framed_len(record.encode().len() as u64)).sum::<u64>();
        !self.log.is_full() || bytes <= self.log.sizes().room_bytes
    }

    /// Flips a bit of something durable; of which record, and in which segment. None where there is nothing such.
    ///
    /// It is something that a later flush vouches for: what rots in the very last batch cannot be told from a torn
    /// tail, and nothing is promised of that.
    pub fn rot(&mut self, disk: &SimDisk, prng: &mut Prng) -> Result<Option<(u64, SegmentId)>, DiskFailed> {
        let first = self.log.segments().next().map_or(1, |oldest| oldest.first_sequence);
        let span = (self.log.vouched() + 1).checked_sub(first).filter(|span| *span > 0);
        let Some(span) = span else { return Ok(None) };
        let sequence = first + prng.below(span);
        let place = self.log.place_of(sequence).map_err(|_| DiskFailed)?;
        let Some((segment, offset, len)) = place else { return Ok(None) };
        let (byte, bit) = (offset + prng.below(len), prng.below(8));
        Ok(disk.flip(&segment.file_name(), byte, 1 << bit).then_some((sequence, segment)))
    }

    /// Reads some of the log again; the damage, if there is some.
    pub fn scrub(&mut self, budget_bytes: u64) -> Result<Option<Damage>, DiskFailed> {
        match self.log.scrub_step(budget_bytes).map_err(|_| DiskFailed)? {
            ScrubStep::Whole { .. } | ScrubStep::PassEnded => Ok(None),
            ScrubStep::Damaged(damage) => Ok(Some(damage)),
        }
    }
}

/// How many fates of a disk that lied are looked at for one that shows.
const FATES: usize = 6;

/// The power fails, and with it goes some of what a disk said was synced, or nothing. So much goes that it shows, by
/// what discovery was told: less cannot be told from nothing (decision 0073), and is no fault that is survived. True:
/// something is gone. The disk does what it owes from then on.
pub(crate) fn lose_syncs<R: Logged>(disk: &mut SimDisk, config: &LogConfig, told: u64, prng: &mut Prng) -> bool {
    for _ in 0..FATES {
        let fate = disk.fork(prng.next_u64());
        fate.set_honest(true);
        // A cache that is written back in order loses an end; another one leaves holes.
        if prng.one_in(2) {
            fate.crash_losing_all();
        } else {
            fate.crash();
        }
        let (opened, _) = NodeLog::<R>::open(&fate.fork(0), config.clone());
        if opened.ok().is_none_or(|log| Doubt::of_end(log.last_sequence(), Some(told)).is_some()) {
            *disk = fate;
            return true;
        }
    }
    disk.set_honest(true);
    disk.settle();
    disk.crash();
    false
}
