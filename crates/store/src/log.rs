use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use stdx::error_chain;

use crate::clean::Cleaning;
use crate::config::LogConfig;
use crate::disk::{Disk, DiskError};
use crate::error::{AppendError, DropError, FlushError, OpenError, Poisoned, ReadError};
use crate::frame::{self, FORMAT_VERSION, FRAME_HEAD, SEGMENT_HEAD, SegmentHead, Stamp, framed_len};
use crate::recovery;
use crate::scrub::Scrubbing;

/// A segment's number, from 1; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// What a log holds of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Which one.
    pub id: SegmentId,
    /// The number of its first record.
    pub first_sequence: u64,
    /// The number of its last record; `first_sequence - 1` when it has none.
    pub last_sequence: u64,
    /// What it takes on the disk, in bytes.
    pub bytes: u64,
    /// What of that is written or about to be, in bytes.
    pub used_bytes: u64,
}

/// What a log takes and has left, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// All segments with records, and the spare: what it takes on the disk.
    pub total_bytes: u64,
    /// Frames and heads in them, current or not.
    pub used_bytes: u64,
    /// What can surely be appended still, frames included.
    pub room_bytes: u64,
    /// What may be added to that by further segments, if the disk has them; none where only the disk is the limit.
    pub growth_bytes: Option<u64>,
    /// Appended and not flushed.
    pub pending_bytes: u64,
}

/// Where the reading of a segment goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFrom {
    sequence: u64,
    offset: u64,
}

/// What [`Log::open`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records given to the visitor.
    pub records: u64,
    /// The first record's number; greater than 1 once segments have been dropped.
    pub first_sequence: u64,
    /// Bytes of a torn flush that were cut off. None of its records had been acknowledged.
    pub torn_bytes: u64,
    /// Whether there was no log and a new one was made.
    pub created: bool,
}

/// The append-only record log. See the crate's documentation for what it keeps and what it cannot.
///
/// It blocks on the disk, so it belongs on a thread of its own. Dropping it does not flush.
pub struct Log {
    pub(crate) disk: Box<dyn Disk>,
    config: LogConfig,
    /// Oldest first; never empty. Only the last one, the active one, is appended to.
    pub(crate) segments: VecDeque<Segment>,
    /// The next segment, preallocated; none while the disk is full.
    spare: Option<Spare>,
    /// What the next flush writes, in the order of the segments; at most one entry each.
    pending: Vec<Pending>,
    pending_bytes: u64,
    /// The last flush's buffer, kept for the next one.
    scratch: Vec<u8>,
    pub(crate) next_sequence: u64,
    pub(crate) durable: u64,
    pub(crate) cleaning: Option<Cleaning>,
    pub(crate) scrubbing: Option<Scrubbing>,
    /// Segments that are known to hold damage, until they are dropped.
    pub(crate) damaged: BTreeSet<SegmentId>,
    /// What a later flush vouches for: see [`Log::vouched`].
    pub(crate) vouched: u64,
    poison: Option<Poisoned>,
    recovery: Recovery,
}

/// A segment in use.
pub(crate) struct Segment {
    pub id: SegmentId,
    pub first_sequence: u64,
    /// The file's length.
    pub capacity: u64,
    /// The end of its last frame, unflushed ones included.
    pub used: u64,
}

/// A segment not yet in use: all zeros.
pub(crate) struct Spare {
    pub id: SegmentId,
    pub len: u64,
}

struct Pending {
    segment: SegmentId,
    offset: u64,
    bytes: Vec<u8>,
}

/// The most that may be appended without a flush, in bytes. Past it, [`AppendError::FlushFirst`].
pub const PENDING_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Cleaning begins when the log takes this much more than twice what is current, in bytes.
pub const CLEAN_SLACK_BYTES: u64 = 64 * 1024 * 1024;
const SCRATCH_BYTES_MAX: usize = 1024 * 1024;

impl Log {
    /// Opens the log and gives each record, oldest first, to `visit`.
    ///
    /// The tail of a flush that a crash interrupted is cut off; what remains is durable when this returns, whether or
    /// not it was acknowledged. On an error, forget what `visit` was given.
    pub fn open(
        disk: impl Disk + 'static,
        config: LogConfig,
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<Log, OpenError> {
        config.validate()?;
        let mut disk: Box<dyn Disk> = Box::new(disk);
        let restored = recovery::restore(&mut *disk, &config, visit)?;
        let mut log = Log {
            disk,
            config,
            segments: restored.segments,
            spare: restored.spare,
            pending: Vec::new(),
            pending_bytes: 0,
            scratch: Vec::new(),
            next_sequence: restored.next_sequence,
            durable: restored.next_sequence - 1,
            cleaning: None,
            scrubbing: None,
            damaged: BTreeSet::new(),
            vouched: 0,
            poison: None,
            recovery: restored.recovery,
        };
        log.make_spare().map_err(OpenError::Disk)?;
        Ok(log)
    }

    /// What opening found.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Appends a record and returns its number. It is in memory only, until [`Log::flush`].
    ///
    /// The disk is touched only when a segment is full and the next spare is made.
    pub fn append(&mut self, body: &[u8]) -> Result<u64, AppendError> {
        self.check()?;
        let (len, max) = (body.len() as u64, self.config.body_bytes_max());
        if len > max {
            return Err(AppendError::TooLarge { len, max });
        }
        if self.pending_bytes + framed_len(len) > PENDING_BYTES_MAX {
            return Err(AppendError::FlushFirst { pending: self.pending_bytes });
        }
        let active = self.active();
        if active.used + framed_len(len) > active.capacity {
            self.switch()?;
        }
        let stamp = Stamp { sequence: self.next_sequence, flushed: self.durable };
        let log_id = self.config.log_id;
        frame::encode(log_id, stamp, body, self.pending_of_active());
        self.active_mut().used += framed_len(len);
        self.pending_bytes += framed_len(len);
        self.next_sequence += 1;
        Ok(stamp.sequence)
    }

    /// Makes all appended records durable; returns the number of the last durable one.
    ///
    /// On an error the log is poisoned for ever, and whether the appended records survive is unknown: the process must
    /// stop. A sync that failed once may "succeed" when repeated although the data is lost.
    pub fn flush(&mut self) -> Result<u64, FlushError> {
        self.check()?;
        // In order, each segment synced before the next is written: only the last segment can ever be torn.
        for pending in std::mem::take(&mut self.pending) {
            let name = pending.segment.file_name();
            let written = self.disk.write_at(&name, pending.offset, &pending.bytes);
            if let Err(error) = written.and_then(|()| self.disk.sync(&name)) {
                return Err(self.poison(&error));
            }
            self.scratch = pending.bytes;
        }
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH_BYTES_MAX);
        self.pending_bytes = 0;
        if self.durable < self.next_sequence - 1 {
            self.vouched = self.durable;
        }
        self.durable = self.next_sequence - 1;
        Ok(self.durable)
    }

    /// The number of the last record that is durable; 0 before the first.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The number of the last appended record; 0 before the first.
    pub fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Whether the disk is full: the spare segment could not be made.
    ///
    /// [`Log::append`] still works until the active segment is full. That reserve is for what is in flight and for
    /// cleaning; take no new work. It ends when [`Log::make_room`] or dropping a segment could make a spare.
    pub fn is_full(&self) -> bool {
        self.spare.is_none()
    }

    /// Tries again to make the spare segment, if it is missing; returns whether there is one. Call it now and then
    /// while the log is full.
    pub fn make_room(&mut self) -> Result<bool, Poisoned> {
        self.check()?;
        self.make_spare().map_err(|error| self.poison(&error))?;
        Ok(self.spare.is_some())
    }

    /// What the log takes and has left.
    pub fn sizes(&self) -> Sizes {
        let active = self.active();
        let spare_room = self.spare.as_ref().map_or(0, |spare| spare.len - SEGMENT_HEAD as u64);
        Sizes {
            total_bytes: self.total_bytes(),
            used_bytes: self.segments.iter().map(|segment| segment.used).sum(),
            // A record may leave an end of the active segment unused, so only one of the two is sure.
            room_bytes: (active.capacity - active.used).max(spare_room),
            growth_bytes: self.config.data_bytes_max.map(|max| max.saturating_sub(self.total_bytes())),
            pending_bytes: self.pending_bytes,
        }
    }

    /// Whether cleaning pays, when the frames of all current records ([`framed_len`]) take `live_bytes`: the log takes
    /// more than twice that and [`CLEAN_SLACK_BYTES`], or the disk is full and a whole segment could be won.
    pub fn needs_cleaning(&self, live_bytes: u64) -> bool {
        let total = self.total_bytes();
        let full = self.is_full() && total > live_bytes.saturating_add(2 * self.config.segment_bytes);
        self.segments.len() > 1 && (full || total > live_bytes.saturating_mul(2).saturating_add(CLEAN_SLACK_BYTES))
    }

    /// The oldest segment, unless it is also the one that is appended to.
    pub fn oldest_segment(&self) -> Option<SegmentInfo> {
        self.segments().next().filter(|_| self.segments.len() > 1)
    }

    /// All segments with records, oldest first; the last one is appended to.
    pub fn segments(&self) -> impl Iterator<Item = SegmentInfo> + '_ {
        let ends = self.segments.iter().skip(1).map(|next| next.first_sequence).chain([self.next_sequence]);
        self.segments.iter().zip(ends).map(|(segment, end)| SegmentInfo {
            id: segment.id,
            first_sequence: segment.first_sequence,
            last_sequence: end - 1,
            bytes: segment.capacity,
            used_bytes: segment.used,
        })
    }

    /// Reads a segment's durable records, oldest first. On an error, forget what `visit` was given.
    pub fn read_segment(&mut self, id: SegmentId, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), ReadError> {
        let mut from = None;
        loop {
            from = self.read_segment_part(id, from, u64::MAX, visit)?;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// The same for about `budget_bytes` of it, at least one record: where to go on, or none at its end.
    pub fn read_segment_part(
        &mut self,
        id: SegmentId,
        from: Option<ReadFrom>,
        budget_bytes: u64,
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<Option<ReadFrom>, ReadError> {
        self.check()?;
        let info = self.segments().find(|info| info.id == id).ok_or(ReadError::Unknown(id))?;
        let last = info.last_sequence.min(self.durable);
        let begin = ReadFrom { sequence: info.first_sequence, offset: SEGMENT_HEAD as u64 };
        let ReadFrom { mut sequence, mut offset } = from.unwrap_or(begin);
        let start = offset;
        let bytes = self.read_frames(info, start, budget_bytes)?;
        while sequence <= last {
            match frame::decode(self.config.log_id, bytes.get((offset - start) as usize..).unwrap_or_default()) {
                Some(frame) if frame.stamp.sequence == sequence => {
                    visit(sequence, frame.body);
                    offset += frame.len() as u64;
                    sequence += 1;
                }
                // The budget may have cut this frame: it is the first one of the next part.
                _ if offset > start && start + (bytes.len() as u64) < info.used_bytes => break,
                _ => return Err(ReadError::Damaged { segment: id, offset }),
            }
        }
        Ok((sequence <= last).then_some(ReadFrom { sequence, offset }))
    }

    /// About `budget_bytes` of the segment from `offset` on, at least the frame that begins there.
    pub(crate) fn read_frames(
        &mut self,
        segment: SegmentInfo,
        offset: u64,
        budget_bytes: u64,
    ) -> Result<Vec<u8>, Poisoned> {
        let rest = segment.used_bytes - offset;
        let mut bytes = self.read_exact(segment.id, offset, rest.min(budget_bytes.max(FRAME_HEAD as u64)))?;
        if let Some(len) = frame::claimed_len(&bytes).filter(|len| *len > bytes.len() && *len as u64 <= rest) {
            bytes = self.read_exact(segment.id, offset, len as u64)?;
        }
        Ok(bytes)
    }

    /// These bytes of the segment's file, as far as there are any.
    pub(crate) fn read_exact(&mut self, id: SegmentId, offset: u64, len: u64) -> Result<Vec<u8>, Poisoned> {
        let mut bytes = vec![0; len as usize];
        let read = self.disk.read_at(&id.file_name(), offset, &mut bytes);
        bytes.truncate(read.map_err(|error| self.poison(&error))?);
        Ok(bytes)
    }

    /// Removes the oldest segment. `copied_through` is the last record that was appended when its current records had
    /// all been appended again; everything up to it must be durable.
    pub fn drop_segment(&mut self, id: SegmentId, copied_through: u64) -> Result<(), DropError> {
        self.check()?;
        if self.segments.len() < 2 || self.segments[0].id != id {
            return Err(DropError::NotOldest(id));
        }
        // Something durable must stay behind: an empty log would have forgotten how far it had counted.
        let needed = copied_through.max(self.segments[1].first_sequence);
        if self.durable < needed {
            return Err(DropError::NotDurable { needed, durable: self.durable });
        }
        self.disk.remove(&id.file_name()).map_err(|error| self.poison(&error))?;
        self.segments.pop_front();
        self.damaged.remove(&id);
        self.make_spare().map_err(|error| self.poison(&error))?;
        Ok(())
    }

    /// The id that the log's bytes carry.
    pub(crate) fn log_id(&self) -> u64 {
        self.config.log_id
    }

    pub(crate) fn check(&self) -> Result<(), Poisoned> {
        self.poison.clone().map_or(Ok(()), Err)
    }

    /// Remembers the first failure of the disk, and gives it back.
    pub(crate) fn poison(&mut self, error: &DiskError) -> Poisoned {
        self.poison.get_or_insert_with(|| Poisoned { reason: error_chain(error) }).clone()
    }

    /// Goes on in the spare segment, and makes the next spare.
    pub(crate) fn switch(&mut self) -> Result<(), AppendError> {
        let Some(spare) = self.spare.take() else { return Err(AppendError::Full) };
        let head = SegmentHead {
            version: FORMAT_VERSION,
            log_id: self.config.log_id,
            segment: spare.id,
            first_sequence: self.next_sequence,
        };
        self.segments.push_back(Segment {
            id: spare.id,
            first_sequence: self.next_sequence,
            capacity: spare.len,
            used: SEGMENT_HEAD as u64,
        });
        // The head is written with the segment's first records, in one write: a segment with a head has been begun.
        self.pending.push(Pending { segment: spare.id, offset: 0, bytes: head.encode().to_vec() });
        self.pending_bytes += SEGMENT_HEAD as u64;
        self.make_spare().map_err(|error| self.poison(&error).into())
    }

    /// Makes the spare segment if there is none and there is room for it.
    fn make_spare(&mut self) -> Result<(), DiskError> {
        let len = self.config.segment_bytes;
        let fits = self.config.data_bytes_max.is_none_or(|max| self.total_bytes().saturating_add(len) <= max);
        if self.spare.is_some() || !fits {
            return Ok(());
        }
        let id = SegmentId(self.active().id.0 + 1);
        match self.disk.create(&id.file_name(), len) {
            Ok(()) => self.spare = Some(Spare { id, len }),
            Err(DiskError::Full) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn total_bytes(&self) -> u64 {
        let spare = self.spare.as_ref().map_or(0, |spare| spare.len);
        self.segments.iter().map(|segment| segment.capacity).sum::<u64>() + spare
    }

    fn pending_of_active(&mut self) -> &mut Vec<u8> {
        let (segment, offset) = (self.active().id, self.active().used);
        if self.pending.last().is_none_or(|last| last.segment != segment) {
            self.pending.push(Pending { segment, offset, bytes: std::mem::take(&mut self.scratch) });
        }
        let last = self.pending.last_mut().expect("one was pushed just now if there was none");
        &mut last.bytes
    }

    fn active(&self) -> &Segment {
        self.segments.back().expect("a log always has a segment: open makes one and drop leaves one")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("a log always has a segment: open makes one and drop leaves one")
    }
}

const FILE_PREFIX: &str = "segment-";
const FILE_SUFFIX: &str = ".log";

impl SegmentId {
    /// The name of the segment's file.
    pub fn file_name(self) -> String {
        format!("{FILE_PREFIX}{:016x}{FILE_SUFFIX}", self.0)
    }

    /// The segment whose file has that name, if it is one's.
    pub(crate) fn from_file_name(name: &str) -> Option<SegmentId> {
        let digits = name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX)?;
        let id = SegmentId(u64::from_str_radix(digits, 16).ok()?);
        (id.file_name() == name).then_some(id)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// Nothing that it holds is worth printing whole.
impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("durable", &self.durable)
            .field("last_sequence", &self.last_sequence())
            .field("segments", &self.segments.len())
            .field("full", &self.is_full())
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

/// A log is made to be owned by a thread of its own.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Log>();
};

/// A frame takes at least its head, so the number of unflushed records fits the 32 bits of a frame's lag.
const _: () = assert!(PENDING_BYTES_MAX / (FRAME_HEAD as u64) < u32::MAX as u64);
