use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use replication::LogPosition;
use stdx::error_chain;
use store::{
    AppendError, Damage, DropError, Log, Poisoned, ReadError, ReadFrom, ScrubStep, SegmentId, SegmentInfo, Sizes,
};
use wire::codec;
use wire::node::LogRecord;

/// What the log's thread tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Every record up to this one is durable.
    Synced(LogPosition),
    /// The disk has become full (take no new writes), or has room again.
    Full(bool),
    /// The answer to [`LogThread::clean`], if cleaning pays: all records of the oldest segment.
    OldestSegment {
        /// The segment, for [`LogThread::drop_segment`].
        id: SegmentId,
        /// Its records, oldest first.
        records: Vec<(LogPosition, LogRecord)>,
    },
    /// The segment is gone; the next one may be cleaned.
    Dropped(SegmentId),
    /// The answer to [`LogThread::scrub`]: so many bytes were read again, and whether that was the end of a pass.
    Scrubbed {
        /// How many.
        bytes: u64,
        /// Whether all was read that was durable.
        pass_ended: bool,
    },
    /// Something that was durable cannot be read any more. Until its segment is dropped, each [`LogThread::clean`]
    /// works towards that.
    Damaged(Damage),
    /// The answer to [`LogThread::clean`] when the oldest segment is damaged: what it held is to be appended again from
    /// memory, and then it is to be dropped.
    LostSegment {
        /// The segment, for [`LogThread::drop_segment`].
        id: SegmentId,
        /// Its last record.
        through: LogPosition,
    },
    /// The disk failed. The thread has ended and what waits is not durable: the process must end, with
    /// this sentence.
    Failed(String),
}

/// The thread that owns the log, since the log blocks on the disk.
///
/// Group commit: all records that wait are appended, then flushed with one sync; while that runs the next group
/// gathers.
///
/// Cleaning is a conversation, because only the core knows what is current and only the core numbers records:
/// [`LogThread::clean`] asks; [`LogEvent::OldestSegment`] shows what the oldest segment holds; the owner has the core
/// persist the current ones again as ordinary records, hands those to [`LogThread::append`], and then calls
/// [`LogThread::drop_segment`]. A segment that was found to be damaged goes the same way, but that the owner makes the
/// copies from memory: [`LogEvent::LostSegment`] comes in place of its records. Copies need room before the segment
/// gives any: on a full disk the owner compares them with [`LogThread::sizes`] first, and calls
/// [`LogThread::keep_segment`] when they do not fit.
pub struct LogThread {
    commands: Sender<Command>,
    shared: Arc<SharedState>,
    thread: JoinHandle<()>,
}

enum Command {
    Append(Vec<(LogPosition, LogRecord)>),
    Clean { live_bytes: u64 },
    Drop { id: SegmentId, copied_through: LogPosition },
    Keep { id: SegmentId },
    Scrub { bytes: u64 },
    Stop,
}

/// What the owner can see without asking the thread.
struct SharedState {
    waiting: AtomicU64,
    sizes: Mutex<Sizes>,
}

/// How much of a segment that is to be cleaned is read between two group commits.
const READ_AT_ONCE_BYTES: u64 = 128 * 1024;
/// How often a full disk is looked at again.
const FULL_RETRY: Duration = Duration::from_millis(100);

impl LogThread {
    /// Starts the thread. `report` is called on it, so it must only pass the event on; as must `synced`, which is told
    /// how long each sync took.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        log: Log,
        report: impl FnMut(LogEvent) + Send + 'static,
        synced: impl FnMut(Duration) + Send + 'static,
    ) -> std::io::Result<LogThread> {
        let (commands, received) = channel();
        let shared = Arc::new(SharedState { waiting: AtomicU64::new(0), sizes: Mutex::new(log.sizes()) });
        let mut worker = Worker {
            log,
            report: Box::new(report),
            synced: Box::new(synced),
            shared: Arc::clone(&shared),
            waiting: VecDeque::new(),
            full: false,
            offered: None,
            reading: None,
            drop: None,
        };
        let thread = thread::Builder::new().name("log".into()).spawn(move || {
            if let Err(failure) = worker.run(&received) {
                worker.tell(LogEvent::Failed(failure));
            }
        })?;
        Ok(LogThread { commands, shared, thread })
    }

    /// Has these records appended and made durable. Never waits.
    ///
    /// Their positions must follow on those given before, and the first on the log's last: the core and the log count
    /// alike, and a difference ends the process. What waits here is bounded by what the core has in flight; see
    /// [`LogThread::waiting`].
    pub fn append(&self, records: Vec<(LogPosition, LogRecord)>) {
        if !records.is_empty() {
            self.shared.waiting.fetch_add(records.len() as u64, Ordering::Relaxed);
            self.tell(Command::Append(records));
        }
    }

    /// Cleans the oldest segment if that pays when the current records take `live_bytes` on disk. Answered by
    /// [`LogEvent::OldestSegment`], or not at all. One segment at a time: until it is dropped, more requests are
    /// ignored.
    pub fn clean(&self, live_bytes: u64) {
        self.tell(Command::Clean { live_bytes });
    }

    /// Drops the segment that was offered, once everything up to `copied_through` is durable.
    ///
    /// `copied_through` is the last position that the core had given out when it judged the last of the segment's
    /// records: what replaced a record that is not current lies at or before it, as do the copies of those that are.
    pub fn drop_segment(&self, id: SegmentId, copied_through: LogPosition) {
        self.tell(Command::Drop { id, copied_through });
    }

    /// Gives up cleaning the segment that was offered; it may be offered again.
    pub fn keep_segment(&self, id: SegmentId) {
        self.tell(Command::Keep { id });
    }

    /// Reads about `bytes` of the log again and verifies them. Answered by [`LogEvent::Scrubbed`], or by
    /// [`LogEvent::Damaged`] and that.
    pub fn scrub(&self, bytes: u64) {
        self.tell(Command::Scrub { bytes });
    }

    /// Records that were handed over and are not durable yet.
    pub fn waiting(&self) -> u64 {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// What the log took and had left after the last flush.
    pub fn sizes(&self) -> Sizes {
        *self.shared.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flushes what was handed over, ends the thread and closes the log. On a full disk what does not fit is not waited
    /// for.
    pub fn stop(self) {
        self.tell(Command::Stop);
        // A thread that panicked has said so by `Failed`.
        let _ = self.thread.join();
    }

    /// The thread is gone only after `Failed`, which the owner has been told: nothing more to say here.
    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// A segment that is being read to be offered: a part of it between two group commits, which must not wait for all.
struct Reading {
    segment: SegmentInfo,
    from: Option<ReadFrom>,
    records: Vec<(LogPosition, LogRecord)>,
}

struct Worker {
    log: Log,
    report: Box<dyn FnMut(LogEvent) + Send>,
    synced: Box<dyn FnMut(Duration) + Send>,
    shared: Arc<SharedState>,
    /// Handed over and not appended, because the disk is full.
    waiting: VecDeque<(LogPosition, LogRecord)>,
    /// What was last told about the disk's room.
    full: bool,
    /// The segment that is being cleaned.
    offered: Option<SegmentId>,
    /// The same while it is being read.
    reading: Option<Reading>,
    /// The drop that waits for its copies to be durable.
    drop: Option<(SegmentId, LogPosition)>,
}

impl Worker {
    /// Until the owner stops it; the error is the sentence to end with.
    fn run(&mut self, commands: &Receiver<Command>) -> Result<(), String> {
        loop {
            self.tell_room()?;
            let first = if self.reading.is_some() {
                match commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            } else if self.full {
                match commands.recv_timeout(FULL_RETRY) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            } else {
                match commands.recv() {
                    Ok(command) => Some(command),
                    Err(_) => return Ok(()),
                }
            };
            let (mut clean, mut scrub) = (None, None);
            let mut stop = false;
            // Everything that waits joins the group.
            for command in first.into_iter().chain(commands.try_iter()) {
                match command {
                    Command::Append(records) => self.waiting.extend(records),
                    Command::Clean { live_bytes } => clean = Some(live_bytes),
                    Command::Drop { id, copied_through } => self.drop = Some((id, copied_through)),
                    Command::Keep { id } => self.offered = self.offered.filter(|offered| *offered != id),
                    Command::Scrub { bytes } => scrub = Some(bytes),
                    Command::Stop => stop = true,
                }
            }
            self.commit()?;
            self.drop_if_durable()?;
            if stop {
                return Ok(());
            }
            if let Some(live_bytes) = clean {
                self.begin_reading(live_bytes)?;
            }
            self.read_on()?;
            if let Some(bytes) = scrub {
                self.scrub(bytes)?;
            }
        }
    }

    fn tell(&mut self, event: LogEvent) {
        (self.report)(event);
    }

    /// Appends all that waits and fits, and makes it durable.
    fn commit(&mut self) -> Result<(), String> {
        while let Some((position, record)) = self.waiting.front() {
            let position = position.0;
            match self.log.append(&codec::encode_log_record(record)) {
                Ok(sequence) => {
                    assert_eq!(sequence, position, "the core and the log number records alike");
                    self.waiting.pop_front();
                }
                Err(AppendError::FlushFirst { .. }) => self.flush()?,
                // The reserve is used up. What is left keeps its order and its numbers, and waits for room.
                Err(AppendError::Full) => break,
                Err(error @ (AppendError::TooLarge { .. } | AppendError::Poisoned(_))) => {
                    return Err(error_chain(&error));
                }
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), String> {
        let before = self.log.durable();
        if self.log.last_sequence() == before {
            return Ok(());
        }
        let began = Instant::now();
        let durable = self.log.flush().map_err(|error: Poisoned| error_chain(&error))?;
        (self.synced)(began.elapsed());
        self.shared.waiting.fetch_sub(durable - before, Ordering::Relaxed);
        *self.shared.sizes.lock().unwrap_or_else(PoisonError::into_inner) = self.log.sizes();
        self.tell(LogEvent::Synced(LogPosition(durable)));
        Ok(())
    }

    fn tell_room(&mut self) -> Result<(), String> {
        if self.log.is_full() {
            self.log.make_room().map_err(|error| error_chain(&error))?;
        }
        let full = self.log.is_full();
        if full != self.full {
            self.full = full;
            self.tell(LogEvent::Full(full));
        }
        if !full && !self.waiting.is_empty() {
            self.commit()?;
        }
        Ok(())
    }

    /// Begins to read the oldest segment for its owner, if cleaning pays.
    fn begin_reading(&mut self, live_bytes: u64) -> Result<(), String> {
        let active = self.log.segments().last();
        if active.is_some_and(|active| self.log.is_damaged(active.id)) {
            // It can go only when another one is written to.
            self.log.seal().map_err(|error| error_chain(&error))?;
        }
        let Some(oldest) = self.log.oldest_segment() else { return Ok(()) };
        // While records wait for room there is none for copies, which would have to wait behind them.
        let is_settled = self.waiting.is_empty() && self.log.durable() >= oldest.last_sequence;
        let is_due = self.log.has_damage() || self.log.needs_cleaning(live_bytes);
        if self.offered.is_some() || !is_settled || !is_due {
            return Ok(());
        }
        if self.log.is_damaged(oldest.id) {
            self.offer_lost(oldest);
            return Ok(());
        }
        self.offered = Some(oldest.id);
        self.reading = Some(Reading { segment: oldest, from: None, records: Vec::new() });
        Ok(())
    }

    /// Reads a part of the segment that is to be offered, and offers it after the last.
    fn read_on(&mut self) -> Result<(), String> {
        let Some(Reading { segment, from, mut records }) = self.reading.take() else { return Ok(()) };
        let mut malformed = None;
        let mut visit = |sequence, body: &[u8]| match codec::decode_log_record(body) {
            Ok(record) => records.push((LogPosition(sequence), record)),
            Err(error) => malformed = Some(format!("record {sequence} of the log: {}", error_chain(&error))),
        };
        let read = self.log.read_segment_part(segment.id, from, READ_AT_ONCE_BYTES, &mut visit);
        if let Some(malformed) = malformed {
            return Err(malformed);
        }
        match read {
            Ok(None) => self.tell(LogEvent::OldestSegment { id: segment.id, records }),
            Ok(from) => self.reading = Some(Reading { segment, from, records }),
            Err(ReadError::Damaged { offset, .. }) => {
                self.log.note_damaged(segment.id);
                self.tell(LogEvent::Damaged(Damage { segment: segment.id, offset, sequence: 0 }));
                self.offer_lost(segment);
            }
            Err(error @ (ReadError::Unknown(_) | ReadError::Poisoned(_))) => return Err(error_chain(&error)),
        }
        Ok(())
    }

    fn offer_lost(&mut self, oldest: SegmentInfo) {
        self.offered = Some(oldest.id);
        self.tell(LogEvent::LostSegment { id: oldest.id, through: LogPosition(oldest.last_sequence) });
    }

    fn scrub(&mut self, bytes: u64) -> Result<(), String> {
        let (mut read, mut pass_ended) = (0, false);
        while read < bytes && !pass_ended {
            match self.log.scrub_step(bytes - read).map_err(|error| error_chain(&error))? {
                ScrubStep::Whole { bytes } => read += bytes,
                ScrubStep::PassEnded => pass_ended = true,
                ScrubStep::Damaged(damage) => self.tell(LogEvent::Damaged(damage)),
            }
        }
        self.tell(LogEvent::Scrubbed { bytes: read, pass_ended });
        Ok(())
    }

    fn drop_if_durable(&mut self) -> Result<(), String> {
        let Some((id, copied_through)) = self.drop else { return Ok(()) };
        match self.log.drop_segment(id, copied_through.0) {
            Ok(()) => {
                self.drop = None;
                self.offered = None;
                self.tell(LogEvent::Dropped(id));
                Ok(())
            }
            // Tried again after the next flush.
            Err(DropError::NotDurable { .. }) => Ok(()),
            Err(error @ (DropError::NotOldest(_) | DropError::Poisoned(_))) => Err(error_chain(&error)),
        }
    }
}

/// A panic must not leave the owner waiting for a `Synced` that never comes.
impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell(LogEvent::Failed("the log's thread panicked; see the message before".into()));
        }
    }
}
