//! When how much of the log is read again, and what that found. Pure: the loop asks, and tells.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use stdx::Instant;
use store::SegmentId;

/// How much is read again unless told otherwise, in bytes a second: ten gigabytes in three hours, and no disk feels it.
pub const BYTES_PER_SECOND_DEFAULT: u64 = 1 << 20;
/// Between two passes over a log that is read in no time.
const PASS_PAUSE: Duration = Duration::from_secs(60);
/// At most so much is asked for at once: what is asked for runs before the next group commit.
const AT_ONCE_MAX: u64 = 1 << 20;
/// A log that is verified faster than that (for a test, or a disk under suspicion) is read without a pause.
const RATE_WITHOUT_PAUSE: u64 = 64 << 20;

/// What reading the log again has found since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubStatus {
    /// Bytes read and verified.
    pub bytes: u64,
    /// Times at which all of the log had been.
    pub passes: u64,
    /// Places at which what was durable could not be read; one more if this start found its log damaged, and began as a
    /// new member.
    pub damage_found: u64,
    /// Segments that are damaged and still there: the node must not be restarted before they are gone.
    pub damaged_segments: usize,
}

/// The pacing.
#[derive(Debug)]
pub(crate) struct Scrub {
    bytes_per_second: u64,
    asked_at: Instant,
    /// Whether an answer is outstanding.
    asked: bool,
    not_before: Instant,
    damaged: BTreeSet<SegmentId>,
    status: ScrubStatus,
}

impl Scrub {
    /// Reads so much a second; 0 never reads.
    pub fn new(bytes_per_second: u64, damaged_at_start: bool, now: Instant) -> Scrub {
        let status = ScrubStatus { damage_found: u64::from(damaged_at_start), ..ScrubStatus::default() };
        Scrub { bytes_per_second, asked_at: now, asked: false, not_before: now, damaged: BTreeSet::new(), status }
    }

    /// How much is to be read now, if any; one question at a time.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.asked || self.bytes_per_second == 0 || now < self.not_before {
            return None;
        }
        let earned = now.since(self.asked_at).as_millis().saturating_mul(u128::from(self.bytes_per_second)) / 1_000;
        let bytes = u64::try_from(earned).unwrap_or(u64::MAX).min(AT_ONCE_MAX);
        if bytes == 0 {
            return None;
        }
        self.asked = true;
        self.asked_at = now;
        Some(bytes)
    }

    /// So much was read.
    pub fn read(&mut self, bytes: u64, pass_ended: bool, now: Instant) {
        self.asked = false;
        self.status.bytes += bytes;
        self.status.passes += u64::from(pass_ended);
        if pass_ended && self.bytes_per_second < RATE_WITHOUT_PAUSE {
            self.not_before = now + PASS_PAUSE;
            self.asked_at = self.not_before;
        }
    }

    /// Damage was found.
    pub fn found(&mut self, segment: SegmentId) {
        self.status.damage_found += 1;
        self.damaged.insert(segment);
    }

    /// A segment is gone; whether it was a damaged one.
    pub fn gone(&mut self, segment: SegmentId) -> bool {
        self.damaged.remove(&segment)
    }

    /// Whether a damaged segment is still there.
    pub fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    pub fn status(&self) -> ScrubStatus {
        ScrubStatus { damaged_segments: self.damaged.len(), ..self.status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn what_is_read_is_paced_and_one_question_is_open_at_a_time() {
        let mut scrub = Scrub::new(1_000, false, at(0));
        assert_eq!(scrub.due(at(0)), None);
        assert_eq!(scrub.due(at(200)), Some(200));
        assert_eq!(scrub.due(at(400)), None, "not answered yet");
        scrub.read(150, false, at(400));
        assert_eq!(scrub.due(at(500)), Some(300));
        scrub.read(300, true, at(500));
        assert_eq!(scrub.due(at(30_000)), None, "a pass has just ended");
        assert_eq!(scrub.due(at(61_500)), Some(1_000), "and the pause earns nothing");
        assert_eq!(scrub.status(), ScrubStatus { bytes: 450, passes: 1, ..ScrubStatus::default() });
    }

    #[test]
    fn a_long_silence_is_no_burst_and_nothing_is_nothing() {
        let mut scrub = Scrub::new(1 << 30, false, at(0));
        assert_eq!(scrub.due(at(3_600_000)), Some(AT_ONCE_MAX));
        scrub.read(AT_ONCE_MAX, true, at(3_600_000));
        assert!(scrub.due(at(3_600_001)).is_some(), "such a rate has no pause");
        assert_eq!(Scrub::new(0, false, at(0)).due(at(3_600_000)), None);
    }

    #[test]
    fn damage_counts_until_its_segment_is_gone() {
        let mut scrub = Scrub::new(1, true, at(0));
        scrub.found(SegmentId(3));
        assert!(scrub.has_damage() && !scrub.gone(SegmentId(2)));
        assert_eq!((scrub.status().damage_found, scrub.status().damaged_segments), (2, 1));
        assert!(scrub.gone(SegmentId(3)) && !scrub.has_damage());
        assert_eq!((scrub.status().damage_found, scrub.status().damaged_segments), (2, 0));
    }
}
