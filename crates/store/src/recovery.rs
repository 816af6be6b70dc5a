use std::collections::VecDeque;

use crate::config::LogConfig;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::frame::{self, FORMAT_VERSION, SEGMENT_HEAD, SegmentHead};
use crate::log::{Recovery, Segment, SegmentId, Spare};

/// A log as it was found.
pub(crate) struct Restored {
    pub segments: VecDeque<Segment>,
    pub spare: Option<Spare>,
    pub next_sequence: u64,
    pub recovery: Recovery,
}

/// Reads the log, decides what a crash left of it, and makes what remains durable. Changes nothing before it has
/// decided that nothing is damaged.
pub(crate) fn restore(
    disk: &mut dyn Disk,
    config: &LogConfig,
    visit: &mut dyn FnMut(u64, &[u8]),
) -> Result<Restored, OpenError> {
    let found = survey(disk, config)?;
    let Some(last) = found.iter().rposition(|found| found.head.is_some()) else {
        return create(disk, config, &found);
    };
    let (chain, trailing) = found.split_at(last + 1);
    let mut walk = Walk { log_id: config.log_id, segments: VecDeque::new(), next_sequence: 0, data: Vec::new() };
    let batch_start = walk.chain(disk, chain, visit)?;
    let Walk { segments, next_sequence, data, .. } = walk;
    let (id, end) = segments.back().map(|last| (last.id, last.used as usize)).expect("the chain has a segment");

    let junk = frame::written_len(&data[end..]);
    // With the zeros behind it: the last frame may end with some of its own.
    if frame::vouches_for(config.log_id, next_sequence, &data[end..]) {
        return Err(OpenError::Damaged { segment: id, offset: end as u64 });
    }
    // Whoever drops a segment leaves something durable behind it: a log that has counted and holds nothing lost that.
    let first_sequence = segments.front().map_or(1, |first| first.first_sequence);
    if first_sequence > 1 && next_sequence == first_sequence {
        return Err(OpenError::Damaged { segment: id, offset: end as u64 });
    }
    let spare = trailing_spare(disk, config, SegmentId(id.0 + 1), next_sequence, trailing)?;

    // Nothing is damaged: from here on the disk is changed. The last batch may have been read from memory that never
    // reached the disk, even after a sync that failed; writing it again makes sure. The zeros keep what was cut off
    // from reappearing behind the next records.
    let mut tail = data[batch_start..end + junk].to_vec();
    tail[end - batch_start..].fill(0);
    disk.write_at(&id.file_name(), batch_start as u64, &tail)?;
    disk.sync(&id.file_name())?;
    for found in trailing.iter().filter(|found| spare.as_ref().is_none_or(|spare| spare.id != found.id)) {
        disk.remove(&found.id.file_name())?;
    }
    let recovery =
        Recovery { records: next_sequence - first_sequence, first_sequence, torn_bytes: junk as u64, created: false };
    Ok(Restored { segments, spare, next_sequence, recovery })
}

/// A segment's file.
struct Found {
    id: SegmentId,
    len: u64,
    head: Option<SegmentHead>,
}

/// All segment files in order, with the heads of those that have one of this log.
fn survey(disk: &mut dyn Disk, config: &LogConfig) -> Result<Vec<Found>, OpenError> {
    let mut all = Vec::new();
    for entry in disk.list()? {
        let Some(id) = SegmentId::from_file_name(&entry.name) else { continue };
        let mut bytes = [0; SEGMENT_HEAD];
        disk.read_at(&entry.name, 0, &mut bytes)?;
        let head = SegmentHead::decode(&bytes);
        if let Some(head) = head {
            if head.version != FORMAT_VERSION {
                return Err(OpenError::Version { segment: id, found: head.version, supported: FORMAT_VERSION });
            }
            if head.log_id != config.log_id {
                return Err(OpenError::OtherLog { segment: id, found: head.log_id, expected: config.log_id });
            }
            if head.segment != id {
                return Err(OpenError::Damaged { segment: id, offset: 0 });
            }
        }
        all.push(Found { id, len: entry.len, head });
    }
    Ok(all)
}

/// Begins a new log where there is none. What an interrupted beginning left behind is only zeros.
fn create(disk: &mut dyn Disk, config: &LogConfig, found: &[Found]) -> Result<Restored, OpenError> {
    let mut data = Vec::new();
    for found in found {
        read_whole(disk, found, &mut data)?;
        if !frame::is_blank(&data) {
            return Err(OpenError::Damaged { segment: found.id, offset: 0 });
        }
    }
    if !config.may_create {
        return Err(OpenError::Missing);
    }
    for found in found {
        disk.remove(&found.id.file_name())?;
    }
    let head = SegmentHead { version: FORMAT_VERSION, log_id: config.log_id, segment: SegmentId(1), first_sequence: 1 };
    let name = head.segment.file_name();
    disk.create(&name, config.segment_bytes)?;
    disk.write_at(&name, 0, &head.encode())?;
    disk.sync(&name)?;
    let segment = Segment {
        id: head.segment,
        first_sequence: head.first_sequence,
        capacity: config.segment_bytes,
        used: SEGMENT_HEAD as u64,
    };
    let recovery = Recovery { first_sequence: head.first_sequence, created: true, ..Recovery::default() };
    Ok(Restored { segments: VecDeque::from([segment]), spare: None, next_sequence: head.first_sequence, recovery })
}

/// Reading the segments in order.
struct Walk {
    log_id: u64,
    segments: VecDeque<Segment>,
    next_sequence: u64,
    /// The segment that was read last.
    data: Vec<u8>,
}

impl Walk {
    /// Reads all segments; those before the last one must be whole. Returns where in the last one its last batch
    /// begins.
    fn chain(
        &mut self,
        disk: &mut dyn Disk,
        chain: &[Found],
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<usize, OpenError> {
        let mut batch_start = 0;
        for (index, found) in chain.iter().enumerate() {
            let expected = chain[0].id.0 + index as u64;
            let damaged = |offset| OpenError::Damaged { segment: SegmentId(expected), offset };
            let Some(head) = found.head.filter(|_| found.id.0 == expected) else { return Err(damaged(0)) };
            if index > 0 && head.first_sequence != self.next_sequence {
                return Err(damaged(0));
            }
            self.next_sequence = head.first_sequence;
            read_whole(disk, found, &mut self.data)?;
            let end_sequence = chain.get(index + 1).and_then(|next| next.head).map(|next| next.first_sequence);
            let (start, end) = self.segment(end_sequence, visit);
            if index + 1 < chain.len() && end_sequence != Some(self.next_sequence) {
                return Err(match end_sequence {
                    Some(_) => damaged(end as u64),
                    None => OpenError::Damaged { segment: SegmentId(expected + 1), offset: 0 },
                });
            }
            batch_start = start;
            self.segments.push_back(Segment {
                id: found.id,
                first_sequence: head.first_sequence,
                capacity: found.len,
                used: end as u64,
            });
        }
        Ok(batch_start)
    }

    /// Reads one segment's records, up to `end_sequence` or to the first frame that is not the next record. Returns
    /// where its last batch begins (0 when that is the first one, which was written with the head) and where its
    /// records end.
    fn segment(&mut self, end_sequence: Option<u64>, visit: &mut dyn FnMut(u64, &[u8])) -> (usize, usize) {
        let (mut batch_start, mut offset, mut flushed) = (0, SEGMENT_HEAD, None);
        while Some(self.next_sequence) != end_sequence {
            match frame::decode(self.log_id, &self.data[offset..]) {
                Some(frame) if frame.stamp.sequence == self.next_sequence => {
                    if flushed.is_some_and(|flushed| flushed != frame.stamp.flushed) {
                        batch_start = offset;
                    }
                    flushed = Some(frame.stamp.flushed);
                    visit(self.next_sequence, frame.body);
                    offset += frame.len();
                    self.next_sequence += 1;
                }
                _ => break,
            }
        }
        (batch_start, offset)
    }
}

/// Judges the files after the last segment: the spare, if it is fit for use; anything else may go, unless it holds what
/// was acknowledged.
fn trailing_spare(
    disk: &mut dyn Disk,
    config: &LogConfig,
    next_id: SegmentId,
    next_sequence: u64,
    trailing: &[Found],
) -> Result<Option<Spare>, OpenError> {
    let mut spare = None;
    let mut data = Vec::new();
    for found in trailing {
        read_whole(disk, found, &mut data)?;
        if frame::vouches_for(config.log_id, next_sequence, &data) {
            return Err(OpenError::Damaged { segment: found.id, offset: 0 });
        }
        if found.id == next_id && found.len == config.segment_bytes && frame::is_blank(&data) {
            spare = Some(Spare { id: found.id, len: found.len });
        }
    }
    Ok(spare)
}

fn read_whole(disk: &mut dyn Disk, found: &Found, data: &mut Vec<u8>) -> Result<(), OpenError> {
    data.clear();
    data.resize(found.len as usize, 0);
    let read = disk.read_at(&found.id.file_name(), 0, data)?;
    data.truncate(read);
    Ok(())
}
