use crate::error::{AppendError, CleanError, DropError};
use crate::frame::{self, SEGMENT_HEAD};
use crate::log::{Log, SegmentId, SegmentInfo};

/// What one step of cleaning did, and what the next one needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanStep {
    /// There is nothing to clean: all records are in the segment that is appended to.
    Idle,
    /// Some records of the oldest segment were looked at. Call again.
    Examined {
        /// Which segment.
        segment: SegmentId,
        /// How much of it, in bytes.
        bytes: u64,
        /// The current records among them, which were appended again.
        moved: Vec<Moved>,
    },
    /// The copies must be durable first: call again after a [`Log::flush`].
    FlushFirst,
    /// There is no room for the next copy: call again when there is. Nothing is lost by stopping here.
    NoRoom,
    /// The oldest segment is gone.
    Dropped {
        /// Which one it was.
        segment: SegmentId,
        /// What it took on the disk, in bytes.
        bytes: u64,
    },
}

/// A record that was appended again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its old number, which is about to go.
    pub from: u64,
    /// The number of its copy.
    pub to: u64,
}

/// How far the oldest segment has been cleaned. In memory only: after a restart cleaning begins again, and copies of
/// copies do no harm.
pub(crate) struct Cleaning {
    segment: SegmentId,
    /// The next record to look at.
    sequence: u64,
    /// Where its frame begins.
    offset: u64,
    /// The last record appended when the end was reached.
    copied_through: Option<u64>,
}

impl Log {
    /// One bounded step of freeing the oldest segment: look at about `budget_bytes` of it (at least one record) and
    /// append again what is current; or, when all was looked at and the copies are durable, drop it.
    ///
    /// It never flushes: the copies ride on the owner's next group commit. `is_current(sequence, body)` must judge by
    /// what has been *appended* to this log: a record is out of date only when the one that replaced it was appended
    /// already (else a crash could lose both), and no record is current whose replacement was (else its copy would come
    /// after it).
    pub fn clean_step(
        &mut self,
        budget_bytes: u64,
        is_current: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<CleanStep, CleanError> {
        self.check()?;
        let Some(oldest) = self.oldest_segment() else { return Ok(CleanStep::Idle) };
        if self.durable < oldest.last_sequence {
            return Ok(CleanStep::FlushFirst);
        }
        let mut cleaning = self.cleaning.take().filter(|cleaning| cleaning.segment == oldest.id).unwrap_or(Cleaning {
            segment: oldest.id,
            sequence: oldest.first_sequence,
            offset: SEGMENT_HEAD as u64,
            copied_through: None,
        });
        let step = match cleaning.copied_through {
            None => self.clean_copy(oldest, &mut cleaning, budget_bytes, is_current),
            Some(copied_through) => self.clean_drop(oldest, copied_through),
        };
        self.cleaning = Some(cleaning);
        step
    }

    fn clean_copy(
        &mut self,
        oldest: SegmentInfo,
        cleaning: &mut Cleaning,
        budget_bytes: u64,
        is_current: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<CleanStep, CleanError> {
        let start = cleaning.offset;
        let bytes = self.read_frames(oldest, start, budget_bytes)?;
        let mut moved = Vec::new();
        let mut stopped = None;
        while cleaning.sequence <= oldest.last_sequence {
            let rest = &bytes[(cleaning.offset - start) as usize..];
            let frame = match frame::decode(self.log_id(), rest) {
                Some(frame) if frame.stamp.sequence == cleaning.sequence => frame,
                // The budget cut this frame: it is the first one of the next step.
                _ if cleaning.offset > start && start + (bytes.len() as u64) < oldest.used_bytes => break,
                _ => return Err(CleanError::Damaged { segment: oldest.id, offset: cleaning.offset }),
            };
            if is_current(cleaning.sequence, frame.body) {
                match self.append(frame.body) {
                    Ok(to) => moved.push(Moved { from: cleaning.sequence, to }),
                    Err(AppendError::FlushFirst { .. }) => {
                        stopped = Some(CleanStep::FlushFirst);
                        break;
                    }
                    // A segment size that was made smaller leaves records that no longer fit: they cannot be moved.
                    Err(AppendError::Full | AppendError::TooLarge { .. }) => {
                        stopped = Some(CleanStep::NoRoom);
                        break;
                    }
                    Err(AppendError::Poisoned(poisoned)) => return Err(poisoned.into()),
                }
            }
            cleaning.offset += frame.len() as u64;
            cleaning.sequence += 1;
        }
        if cleaning.sequence > oldest.last_sequence {
            cleaning.copied_through = Some(self.last_sequence());
        }
        match stopped {
            // What was copied before it stopped must be told.
            Some(step) if cleaning.offset == start => Ok(step),
            _ => Ok(CleanStep::Examined { segment: oldest.id, bytes: cleaning.offset - start, moved }),
        }
    }

    fn clean_drop(&mut self, oldest: SegmentInfo, copied_through: u64) -> Result<CleanStep, CleanError> {
        match self.drop_segment(oldest.id, copied_through) {
            Ok(()) => Ok(CleanStep::Dropped { segment: oldest.id, bytes: oldest.bytes }),
            Err(DropError::NotDurable { .. }) => Ok(CleanStep::FlushFirst),
            Err(DropError::NotOldest(_)) => Ok(CleanStep::Idle),
            Err(DropError::Poisoned(poisoned)) => Err(poisoned.into()),
        }
    }
}
