//! A torn tail is cut; damage to what was acknowledged is refused; nothing that was cut comes back.

use store::{Disk, FileEntry, OpenError, RealDisk, SegmentId, SimDisk, framed_len};

use crate::{Records, body, config, numbered, open, records, written};

const HEAD: u64 = 40;

/// Where each record of the first segment lies, if they are as [`body`] makes them.
fn place(number: u64) -> (u64, u64) {
    let start = (1..number).map(|number| framed_len(body(number).len() as u64)).sum::<u64>() + HEAD;
    (start, start + framed_len(body(number).len() as u64))
}

fn zero(disk: &SimDisk, segment: u64, from: u64, to: u64) {
    let name = SegmentId(segment).file_name();
    for offset in from..to {
        let mut byte = [0];
        disk.clone().read_at(&name, offset, &mut byte).expect("the disk works");
        assert!(disk.flip(&name, offset, byte[0]));
    }
}

fn damage(disk: &SimDisk) -> (u64, u64) {
    match open(disk.clone(), config()) {
        Err(OpenError::Damaged { segment, offset }) => (segment.0, offset),
        other => panic!("damage was not found: {other:?}"),
    }
}

fn contents(disk: &SimDisk) -> Vec<(FileEntry, Vec<u8>)> {
    let entries = disk.clone().list().expect("the disk works");
    let read = |entry: FileEntry| {
        let mut bytes = vec![0; entry.len as usize];
        disk.clone().read_at(&entry.name, 0, &mut bytes).expect("the disk works");
        (entry, bytes)
    };
    entries.into_iter().map(read).collect()
}

/// After a cut the log goes on as if the cut records had never been.
fn goes_on(disk: &SimDisk, kept: &Records) {
    let (mut log, found) = open(disk.clone(), config()).expect("a torn tail is no damage");
    assert_eq!(&found, kept);
    let mut expected = kept.clone();
    for _ in 0..4 {
        let sequence = log.append(b"new").expect("there is room");
        assert_eq!(sequence, expected.len() as u64 + 1);
        expected.push((sequence, b"new".to_vec()));
        log.flush().expect("the disk works");
        drop(log);
        disk.crash();
        let (again, found) = open(disk.clone(), config()).expect("the log is whole");
        assert_eq!(found, expected);
        log = again;
    }
}

#[test]
fn a_batch_that_ends_with_zeros_vouches_for_the_one_before_it() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(disk.clone(), config()).expect("a new log");
    for body in [b"first".as_slice(), &[7, 0, 0, 0, 0, 0, 0, 0, 0]] {
        log.append(body).expect("there is room");
        log.flush().expect("the disk works");
    }
    drop(log);
    assert!(disk.flip(&SegmentId(1).file_name(), HEAD + 6, 1));
    assert_eq!(damage(&disk), (1, HEAD));
}

#[test]
fn a_log_that_had_records_is_not_cut_down_to_none() {
    let disk = written(3);
    let (mut log, _) = open(disk.clone(), config()).expect("the log is whole");
    assert!(log.seal().expect("the disk works"), "there is a spare segment");
    let copy = log.append(b"copy").expect("there is room");
    log.flush().expect("the disk works");
    let oldest = log.oldest_segment().expect("the sealed one").id;
    log.drop_segment(oldest, copy).expect("the copy is durable");
    let active = log.segments().last().expect("the one that is written to").id;
    drop(log);
    assert!(disk.flip(&active.file_name(), HEAD + 6, 1));
    assert_eq!(damage(&disk), (active.0, HEAD));
    assert_eq!(damage(&disk), (active.0, HEAD), "it was left as it was found");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let disk = written(4);
    let (start, end) = place(4);
    for offset in start..end {
        let torn = disk.fork(offset);
        zero(&torn, 1, offset, end);
        let (log, found) = open(torn.fork(1), config()).expect("a torn tail is no damage");
        assert_eq!(found, numbered(3));
        let torn_bytes = log.recovery().torn_bytes;
        assert!(torn_bytes <= offset - start && (torn_bytes > 0) == (offset > start), "zeros at its end do not count");
        goes_on(&torn, &numbered(3));
    }
}

#[test]
fn a_file_cut_off_at_any_byte_loses_only_its_tail() {
    let (start, end) = place(4);
    for len in start..end {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = || RealDisk::open(directory.path()).expect("nobody else holds it");
        let (mut log, _) = open(disk(), config()).expect("a new log");
        for number in 1..=4 {
            log.append(&body(number)).expect("there is room");
            log.flush().expect("the disk works");
        }
        drop(log);
        let file = std::fs::OpenOptions::new().write(true).open(directory.path().join(SegmentId(1).file_name()));
        file.and_then(|file| file.set_len(len)).expect("the file is there");
        let (mut log, found) = open(disk(), config()).expect("a torn tail is no damage");
        assert_eq!(found, numbered(3));
        log.append(&body(4)).expect("the spare has room");
        log.flush().expect("the disk works");
        drop(log);
        assert_eq!(records(disk()), numbered(4));
    }
}

#[test]
fn a_flipped_byte_in_a_middle_record_is_damage() {
    let disk = written(4);
    for middle in 1..=3 {
        let (start, end) = place(middle);
        for offset in start..end {
            for mask in [1, 0x80, 0xff] {
                let damaged = disk.fork(1);
                damaged.flip(&SegmentId(1).file_name(), offset, mask);
                let before = contents(&damaged);
                assert_eq!(damage(&damaged), (1, start), "byte {offset}");
                assert_eq!(contents(&damaged), before, "what is refused is left as it was");
            }
        }
    }
}

#[test]
fn any_damage_before_the_last_segment_is_found() {
    let disk = written(40);
    let (log, _) = open(disk.clone(), config()).expect("the log is whole");
    let before_last: Vec<_> = log.segments().collect();
    for info in &before_last[..before_last.len() - 1] {
        for offset in 0..info.used_bytes {
            let damaged = disk.fork(1);
            damaged.flip(&info.id.file_name(), offset, 0x10);
            assert_eq!(damage(&damaged).0, info.id.0, "byte {offset}");
        }
    }
}

#[test]
fn the_head_of_the_last_segment_is_guarded_by_its_later_batches() {
    let disk = written(40);
    let (log, _) = open(disk.clone(), config()).expect("the log is whole");
    let last = log.segments().last().expect("there are several");
    assert!(last.last_sequence > last.first_sequence, "it was flushed more than once");
    for offset in 0..HEAD {
        let damaged = disk.fork(1);
        damaged.flip(&last.id.file_name(), offset, 0x10);
        assert_eq!(damage(&damaged), (last.id.0, 0), "byte {offset}");
    }
}

#[test]
fn only_the_oldest_segments_may_be_absent() {
    let disk = written(60);
    let (log, _) = open(disk.clone(), config()).expect("the log is whole");
    let infos: Vec<_> = log.segments().collect();
    for info in &infos[1..infos.len() - 1] {
        let damaged = disk.fork(1);
        damaged.clone().remove(&info.id.file_name()).expect("it is there");
        assert!(damage(&damaged).0 <= info.id.0);
    }
    disk.clone().remove(&infos[0].id.file_name()).expect("it is there");
    assert_eq!(records(disk), numbered(60)[infos[0].last_sequence as usize..]);
}

/// Of an unsynced write a disk may keep any sectors, so that a later record of the batch is there and an earlier is
/// not.
#[test]
fn a_batch_with_a_hole_is_torn_and_never_comes_back() {
    let disk = written(1);
    let (mut log, _) = open(disk.clone(), config()).expect("the log is whole");
    for _ in 0..3 {
        log.append(b"old").expect("there is room");
    }
    log.flush().expect("the disk works");
    drop(log);
    // The lost record and its successor have the length of those that will be written in their place.
    let lost = place(1).1;
    zero(&disk, 1, lost, lost + 10);
    goes_on(&disk, &numbered(1));
}

/// The same in a new segment: its head is lost, and records of its first batch are there. It is no spare as it is.
#[test]
fn a_segment_begun_without_its_head_is_torn_and_wiped() {
    let config = store::LogConfig { segment_bytes: 2048, ..config() };
    let disk = SimDisk::new(1);
    let (mut log, _) = open(disk.clone(), config.clone()).expect("a new log");
    for number in 1..=40 {
        log.append(&body(number)).expect("there is room");
    }
    log.flush().expect("the disk works");
    let second = log.segments().nth(1).expect("there are several");
    drop(log);
    for info in [2, 3, 4].map(SegmentId).iter().filter(|id| **id != second.id) {
        let name = info.file_name();
        if contents(&disk).iter().any(|(entry, _)| entry.name == name) {
            disk.clone().remove(&name).expect("it is there");
        }
    }
    zero(&disk, second.id.0, 0, 512);
    let (log, found) = open(disk.clone(), config).expect("a torn batch is no damage");
    assert_eq!(found, numbered(second.first_sequence - 1));
    assert_eq!(log.segments().count(), 1);
    let spare = contents(&disk).pop().expect("there is a spare");
    assert_eq!((spare.0.name, spare.1), (second.id.file_name(), vec![0; 2048]));
}

/// Known and accepted: what follows the last flush of a log cannot vouch for it, since there is nothing.
#[test]
fn damage_within_the_last_batch_looks_like_a_torn_tail() {
    let disk = written(3);
    disk.flip(&SegmentId(1).file_name(), place(3).0 + 30, 1);
    assert_eq!(records(disk), numbered(2));
}

#[test]
fn frames_from_elsewhere_are_not_records() {
    let disk = written(3);
    let foreign = SimDisk::new(2);
    let (mut log, _) =
        open(foreign.clone(), store::LogConfig { log_id: 77, ..config() }).expect("a new log of another id");
    for number in 1..=4 {
        log.append(&body(number)).expect("there is room");
    }
    log.flush().expect("the disk works");
    // Record 4 of another log, and record 1 of this one, where record 4 would be.
    for (source, number) in [(&foreign, 4), (&disk, 1)] {
        let mixed = disk.fork(1);
        let (start, end) = place(number);
        let mut frame = vec![0; (end - start) as usize];
        let name = SegmentId(1).file_name();
        source.clone().read_at(&name, start, &mut frame).expect("the disk works");
        mixed.clone().write_at(&name, place(4).0, &frame).expect("the disk works");
        mixed.clone().sync(&name).expect("the disk works");
        goes_on(&mixed, &numbered(3));
    }
}

#[test]
fn an_unknown_format_is_named() {
    let disk = written(1);
    let name = SegmentId(1).file_name();
    let mut head = [0; HEAD as usize];
    disk.clone().read_at(&name, 0, &mut head).expect("the disk works");
    head[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &head[16..]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.clone().write_at(&name, 0, &head).expect("the disk works");
    let refused = open(disk, config()).expect_err("the format is not ours");
    assert!(matches!(refused, OpenError::Version { found: 2, supported: 1, .. }), "{refused}");
}
