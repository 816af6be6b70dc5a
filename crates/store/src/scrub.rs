use std::fmt;

use crate::error::{AppendError, Poisoned};
use crate::frame::{self, FRAME_HEAD, SEGMENT_HEAD, SegmentHead};
use crate::log::{Log, SegmentId, SegmentInfo};

/// What one step of reading the log again found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// So many bytes are as they were written. Call again.
    Whole {
        /// How many.
        bytes: u64,
    },
    /// Everything that was durable when the pass reached it has been read. The next call begins another pass.
    PassEnded,
    /// What was durable cannot be read any more. The rest of the segment is not looked at: none of it is relied on.
    Damaged(Damage),
}

/// A place in the log where what was durable cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: SegmentId,
    /// Where in its file.
    pub offset: u64,
    /// The record that begins there; 0 for the segment's own head, and where it is not known.
    pub sequence: u64,
}

/// How far the pass is. In memory only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scrubbing {
    segment: SegmentId,
    /// The next record to look at.
    sequence: u64,
    /// Where its frame begins; 0 before the head was looked at.
    offset: u64,
}

impl Log {
    /// Reads about `budget_bytes` of what is durable again (at least one record), and verifies it: the disk may have
    /// spoiled it since.
    ///
    /// Damage is told once for a segment. From then on [`Log::has_damage`] holds until that segment is dropped: the
    /// owner appends again what it still needs of it, from memory, and gives it up as in cleaning.
    pub fn scrub_step(&mut self, budget_bytes: u64) -> Result<ScrubStep, Poisoned> {
        self.check()?;
        let Some((info, at)) = self.scrub_place() else {
            self.scrubbing = None;
            return Ok(ScrubStep::PassEnded);
        };
        let last = info.last_sequence.min(self.durable);
        let Scrubbing { segment, mut sequence, mut offset } = at;
        let start = offset;
        let bytes = self.scrub_read(info, start, budget_bytes)?;
        if offset == 0 {
            let head = bytes.first_chunk::<SEGMENT_HEAD>().and_then(SegmentHead::decode);
            let expected = |head: &SegmentHead| head.segment == segment && head.first_sequence == info.first_sequence;
            if head.filter(expected).is_none() {
                return Ok(self.scrub_damaged(Damage { segment, offset: 0, sequence: 0 }));
            }
            offset = SEGMENT_HEAD as u64;
        }
        while sequence <= last {
            let rest = bytes.get((offset - start) as usize..).unwrap_or_default();
            match frame::decode(self.log_id(), rest) {
                Some(frame) if frame.stamp.sequence == sequence => {
                    offset += frame.len() as u64;
                    sequence += 1;
                }
                // The budget may have cut this frame: then it is the first one of the next step.
                _ if offset > start && start + (bytes.len() as u64) < info.used_bytes => break,
                _ => return Ok(self.scrub_damaged(Damage { segment, offset, sequence })),
            }
        }
        self.scrubbing = Some(Scrubbing { segment, sequence, offset });
        Ok(ScrubStep::Whole { bytes: offset - start })
    }

    /// Whether some segment is known to be damaged.
    pub fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Whether this segment is known to be damaged.
    pub fn is_damaged(&self, id: SegmentId) -> bool {
        self.damaged.contains(&id)
    }

    /// Notes damage that was met otherwise than by scrubbing: what is known of the segment is worth nothing any more.
    pub fn note_damaged(&mut self, id: SegmentId) {
        if self.segments.iter().any(|segment| segment.id == id) {
            self.damaged.insert(id);
        }
    }

    /// Goes on in a new segment, so that the active one can be given up; false while the disk has no room for one.
    pub fn seal(&mut self) -> Result<bool, Poisoned> {
        self.check()?;
        if self.next_sequence == self.segments().last().map_or(0, |active| active.first_sequence) {
            // Nothing was appended to it: there is nothing to give up.
            return Ok(true);
        }
        match self.switch() {
            Ok(()) => Ok(true),
            Err(AppendError::Poisoned(poisoned)) => Err(poisoned),
            Err(AppendError::Full | AppendError::FlushFirst { .. } | AppendError::TooLarge { .. }) => Ok(false),
        }
    }

    /// Up to which record something later on the disk vouches that it was durable: damage up to there is told from a
    /// torn tail, also by [`Log::open`]. 0 after opening, until more was flushed.
    pub fn vouched(&self) -> u64 {
        self.vouched
    }

    /// Where a durable record lies: its segment, the first byte of its frame, and the frame's length.
    pub fn place_of(&mut self, sequence: u64) -> Result<Option<(SegmentId, u64, u64)>, Poisoned> {
        self.check()?;
        let holds = |info: &SegmentInfo| (info.first_sequence..=info.last_sequence).contains(&sequence);
        let Some(info) = self.segments().find(holds).filter(|_| sequence <= self.durable) else { return Ok(None) };
        let bytes = self.scrub_read(info, 0, info.used_bytes)?;
        let mut offset = SEGMENT_HEAD;
        for _ in info.first_sequence..sequence {
            match frame::claimed_len(bytes.get(offset..).unwrap_or_default()) {
                Some(len) => offset += len,
                None => return Ok(None),
            }
        }
        let len = frame::claimed_len(bytes.get(offset..).unwrap_or_default());
        Ok(len.map(|len| (info.id, offset as u64, len as u64)))
    }

    /// Where to go on: the segment that is being read, or the next one that holds something durable and is not known to
    /// be damaged.
    fn scrub_place(&self) -> Option<(SegmentInfo, Scrubbing)> {
        let readable = |info: &SegmentInfo| !self.damaged.contains(&info.id) && info.first_sequence <= self.durable;
        let mut segments = self.segments().filter(readable);
        let begin =
            |info: SegmentInfo| (info, Scrubbing { segment: info.id, sequence: info.first_sequence, offset: 0 });
        let Some(at) = self.scrubbing else { return segments.next().map(begin) };
        let info = segments.find(|info| info.id >= at.segment)?;
        if info.id > at.segment {
            return Some(begin(info));
        }
        if at.sequence <= info.last_sequence.min(self.durable) {
            return Some((info, at));
        }
        segments.next().map(begin)
    }

    /// About `budget_bytes` of the segment from `offset` on, at least the head and the frame that begin there; as the
    /// disk has them, not as they were written.
    fn scrub_read(&mut self, info: SegmentInfo, offset: u64, budget_bytes: u64) -> Result<Vec<u8>, Poisoned> {
        let rest = info.used_bytes - offset;
        let least = (SEGMENT_HEAD + FRAME_HEAD) as u64;
        let mut bytes = self.scrub_read_exact(info.id, offset, rest.min(budget_bytes.max(least)))?;
        let begins = if offset == 0 { SEGMENT_HEAD } else { 0 };
        if let Some(len) = frame::claimed_len(bytes.get(begins..).unwrap_or_default())
            && begins + len > bytes.len()
            && (begins + len) as u64 <= rest
        {
            bytes = self.scrub_read_exact(info.id, offset, (begins + len) as u64)?;
        }
        Ok(bytes)
    }

    fn scrub_read_exact(&mut self, id: SegmentId, offset: u64, len: u64) -> Result<Vec<u8>, Poisoned> {
        self.disk.forget_cached(&id.file_name(), offset, len).map_err(|error| self.poison(&error))?;
        self.read_exact(id, offset, len)
    }

    fn scrub_damaged(&mut self, damage: Damage) -> ScrubStep {
        self.damaged.insert(damage.segment);
        ScrubStep::Damaged(damage)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read at byte {}", self.segment, self.offset)
    }
}
