//! The cleaning of a segment of the log, some records at a time: a segment holds tens of thousands of small ones, and
//! looking at all of them at once would keep every request of this node waiting for a tenth of a second.

use std::collections::VecDeque;
use std::time::Duration;

use replication::LogPosition;
use store::{SegmentId, Sizes, framed_len};
use wire::codec::encode_log_record;
use wire::node::LogRecord;

/// Records that are looked at, or written again, in one go.
const STEP: usize = 256;
/// Bytes of them that are written again, or measured for it, in one go, unless a single one is larger.
const STEP_BYTES: u64 = 128 * 1024;
/// Between two goes: the requests that came meanwhile are served.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

/// What cleaning leaves of the log's room to the records that are on their way, in bytes.
const RESERVE_BYTES: u64 = 64 * 1024;

/// Whether the log has room for so many bytes of copies: surely, or, if it may grow, on the segments that the disk has
/// given so far. One segment never has the room for all of another one.
pub(crate) fn has_room(sizes: &Sizes, bytes: u64, may_grow: bool) -> bool {
    let growth = if may_grow { sizes.growth_bytes.unwrap_or(u64::MAX) } else { 0 };
    sizes.room_bytes.saturating_add(growth) >= bytes.saturating_add(RESERVE_BYTES)
}

/// A segment that is being cleaned.
#[derive(Debug)]
pub(crate) struct Cleaning {
    pub id: SegmentId,
    /// Not looked at yet.
    records: std::vec::IntoIter<(LogPosition, LogRecord)>,
    /// What was still current when it was looked at, and the room that the copy of each takes.
    current: VecDeque<(LogPosition, LogRecord, u64)>,
    bytes: u64,
    /// Whether the records were made from memory, because the segment is damaged: then all of them are current.
    from_memory: bool,
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
    /// Write these again, in this order.
    Copies(Copies),
}

/// Some records that are to be written again.
#[derive(Debug)]
pub(crate) struct Copies {
    pub records: Vec<(LogPosition, LogRecord)>,
    /// The room that they take.
    pub bytes: u64,
    /// Whether they are the last ones of the segment.
    pub are_last: bool,
}

impl Cleaning {
    /// Of a segment with these records, oldest first.
    pub fn new(id: SegmentId, records: Vec<(LogPosition, LogRecord)>) -> Cleaning {
        let (records, current) = (records.into_iter(), VecDeque::new());
        Cleaning { id, records, current, bytes: 0, from_memory: false, writes: false }
    }

    /// Of a damaged segment, of which these records were made from memory.
    pub fn from_memory(id: SegmentId, records: Vec<(LogPosition, LogRecord)>) -> Cleaning {
        Cleaning { from_memory: true, ..Cleaning::new(id, records) }
    }

    /// The next go. What is current may be out of date by the time it is written again: whoever does that looks again.
    pub fn step(&mut self, is_current: impl Fn(LogPosition, &LogRecord) -> bool) -> Next {
        let mut bytes = 0;
        if self.writes {
            let mut records = Vec::new();
            while records.len() < STEP && bytes < STEP_BYTES {
                let Some((position, record, len)) = self.current.pop_front() else { break };
                records.push((position, record));
                bytes += len;
            }
            return Next::Copies(Copies { records, bytes, are_last: self.current.is_empty() });
        }
        for (position, record) in self.records.by_ref().take(STEP) {
            if self.from_memory || is_current(position, &record) {
                let len = framed_len(encode_log_record(&record).len() as u64);
                bytes += len;
                self.current.push_back((position, record, len));
            }
            if bytes >= STEP_BYTES {
                break;
            }
        }
        self.bytes += bytes;
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

    /// What a cleaning did.
    #[derive(Debug, Default, PartialEq)]
    struct Done {
        /// The copies, in the order in which they came.
        copied: Vec<u64>,
        /// The most of them in one go, and the most bytes.
        most: (usize, u64),
        /// The bytes that were announced.
        bytes: u64,
        /// Goes before the first copy.
        examined: usize,
    }

    fn clean(mut cleaning: Cleaning, is_current: impl Fn(u64) -> bool) -> Done {
        let (mut done, mut sum, mut announced) = (Done::default(), 0, false);
        loop {
            match cleaning.step(|position, _| is_current(position.0)) {
                Next::Examine => assert!(!announced, "nothing is looked at once copies are made"),
                Next::Write { bytes } => (done.bytes, announced) = (bytes, true),
                Next::Copies(Copies { records, bytes, are_last }) => {
                    assert!(announced, "room is made sure of first");
                    done.most = (done.most.0.max(records.len()), done.most.1.max(bytes));
                    done.copied.extend(records.iter().map(|(position, _)| position.0));
                    sum += bytes;
                    if are_last {
                        assert_eq!(done.bytes, sum, "and for all");
                        return done;
                    }
                    continue;
                }
            }
            done.examined += 1;
        }
    }

    fn small(count: u64) -> Cleaning {
        Cleaning::new(SegmentId(1), records(count))
    }

    #[test]
    fn what_is_current_is_copied_in_order_some_at_a_time() {
        let Done { copied, most, bytes, .. } = clean(small(1_000), |position| position % 3 != 0);
        assert_eq!(copied, (1..=1_000).filter(|position| position % 3 != 0).collect::<Vec<u64>>());
        assert_eq!(most.0, STEP);
        let one = framed_len(encode_log_record(&LogRecord::Register(Record::Ceiling(1))).len() as u64);
        assert!(bytes >= one * copied.len() as u64, "{bytes} bytes for {} records", copied.len());
    }

    #[test]
    fn what_was_made_from_memory_is_all_current() {
        let cleaning = Cleaning::from_memory(SegmentId(1), records(3));
        assert_eq!(clean(cleaning, |_| false).copied, [1, 2, 3]);
    }

    #[test]
    fn a_segment_of_which_all_is_current_has_room_where_the_log_may_grow() {
        let segment = 16 << 20;
        let sizes = |growth_bytes| Sizes {
            total_bytes: 3 * segment,
            used_bytes: 2 * segment,
            room_bytes: segment - 32,
            growth_bytes,
            pending_bytes: 0,
        };
        let room = |growth, may_grow| has_room(&sizes(growth), segment - 32, may_grow);
        assert!(room(None, true) && room(Some(segment), true));
        assert!(!room(None, false) && !room(Some(0), true), "neither a full disk nor a quota that is used up has it");
        assert!(has_room(&sizes(Some(0)), segment / 2, false));
    }

    #[test]
    fn large_records_are_copied_few_at_a_time() {
        let body = bytes::Bytes::from(vec![7; 50 * 1024]);
        let large = |at| {
            let key = bytes::Bytes::from_static(b"k");
            let key =
                replication::RegisterKey { position: membership::Position(at), bucket: membership::BucketId(1), key };
            let value = Some(replication::Value { body: body.clone(), content_type: bytes::Bytes::new() });
            let ballot = replication::Ballot { counter: at, node: membership::NodeId(1) };
            let state = replication::State { value, ..Default::default() };
            (LogPosition(at), LogRecord::Register(Record::Accepted { key, ballot, state }))
        };
        let done = clean(Cleaning::new(SegmentId(1), (1..=20).map(large).collect()), |_| true);
        assert_eq!(done.copied, (1..=20).collect::<Vec<u64>>());
        assert!(done.examined >= 6 && done.most.1 < 4 * 52 * 1024, "{done:?}");
    }

    #[test]
    fn a_segment_with_nothing_current_and_one_without_records_end() {
        for done in [clean(small(STEP as u64), |_| false), clean(small(0), |_| true)] {
            assert_eq!((done.copied, done.most, done.bytes), (Vec::new(), (0, 0), 0));
        }
    }

    #[test]
    fn a_full_last_step_is_known_for_the_last() {
        let Done { copied, most, .. } = clean(small(2 * STEP as u64), |_| true);
        assert_eq!((copied.len(), most.0), (2 * STEP, STEP));
    }
}
