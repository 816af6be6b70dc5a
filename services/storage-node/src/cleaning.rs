//! The cleaning of a segment of the log, some records at a time: a segment holds tens of thousands of small ones, and
//! looking at all of them at once would keep every request of this node waiting for a tenth of a second.

use std::time::Duration;

use replication::LogPosition;
use store::{SegmentId, framed_len};
use wire::codec::encode_log_record;
use wire::node::LogRecord;

/// Records that are looked at, or written again, in one go.
const STEP: usize = 256;
/// Between two goes: the requests that came meanwhile are served.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

/// A segment that is being cleaned.
#[derive(Debug)]
pub(crate) struct Cleaning {
    pub id: SegmentId,
    /// Not looked at yet.
    records: std::vec::IntoIter<(LogPosition, LogRecord)>,
    /// What was still current when it was looked at, and how much room its copies take.
    current: Vec<(LogPosition, LogRecord)>,
    bytes: u64,
    /// Whether room was made sure of, and what is left is being written again.
    writes: bool,
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Call again.
    Examine,
    /// Everything was looked at: copies take so many bytes. Call again if there is room for them.
    Write { bytes: u64 },
    /// Write these again, in this order; whether they are the last ones.
    Copies(Vec<(LogPosition, LogRecord)>, bool),
}

impl Cleaning {
    /// Of a segment with these records, oldest first.
    pub fn new(id: SegmentId, records: Vec<(LogPosition, LogRecord)>) -> Cleaning {
        Cleaning { id, records: records.into_iter(), current: Vec::new(), bytes: 0, writes: false }
    }

    /// The next go. What is current may be out of date by the time it is written again: whoever does that looks again.
    pub fn step(&mut self, is_current: impl Fn(LogPosition, &LogRecord) -> bool) -> Next {
        if self.writes {
            let rest = self.current.split_off(self.current.len().min(STEP));
            return Next::Copies(std::mem::replace(&mut self.current, rest), self.current.is_empty());
        }
        for (position, record) in self.records.by_ref().take(STEP) {
            if is_current(position, &record) {
                self.bytes += framed_len(encode_log_record(&record).len() as u64);
                self.current.push((position, record));
            }
        }
        self.writes = self.records.len() == 0;
        if self.writes { Next::Write { bytes: self.bytes } } else { Next::Examine }
    }
}

#[cfg(test)]
mod tests {
    use replication::Record;

    use super::*;

    fn records(count: u64) -> Vec<(LogPosition, LogRecord)> {
        (1..=count).map(|at| (LogPosition(at), LogRecord::Register(Record::Ceiling(at)))).collect()
    }

    /// The copies in the order in which they come, the most in one go, and the bytes that were announced.
    fn clean(count: u64, is_current: impl Fn(u64) -> bool) -> (Vec<u64>, usize, u64) {
        let mut cleaning = Cleaning::new(SegmentId(1), records(count));
        let (mut copied, mut most, mut announced) = (Vec::new(), 0, None);
        loop {
            match cleaning.step(|position, _| is_current(position.0)) {
                Next::Examine => assert_eq!(announced, None, "nothing is looked at once copies are made"),
                Next::Write { bytes } => announced = Some(bytes),
                Next::Copies(copies, last) => {
                    most = most.max(copies.len());
                    copied.extend(copies.iter().map(|(position, _)| position.0));
                    if last {
                        return (copied, most, announced.expect("room is made sure of first"));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_current_is_copied_in_order_some_at_a_time() {
        let (copied, most, bytes) = clean(1_000, |position| position % 3 != 0);
        assert_eq!(copied, (1..=1_000).filter(|position| position % 3 != 0).collect::<Vec<u64>>());
        assert_eq!(most, STEP);
        let one = framed_len(encode_log_record(&LogRecord::Register(Record::Ceiling(1))).len() as u64);
        assert!(bytes >= one * copied.len() as u64, "{bytes} bytes for {} records", copied.len());
    }

    #[test]
    fn a_segment_with_nothing_current_and_one_without_records_end() {
        assert_eq!(clean(STEP as u64, |_| false), (Vec::new(), 0, 0));
        assert_eq!(clean(0, |_| true), (Vec::new(), 0, 0));
    }

    #[test]
    fn a_full_last_step_is_known_for_the_last() {
        let (copied, most, _) = clean(2 * STEP as u64, |_| true);
        assert_eq!((copied.len(), most), (2 * STEP, STEP));
    }
}
