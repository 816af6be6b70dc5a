//! Scrubbing finds any flipped bit of what is durable, and the log goes on without the damaged segment.

use store::{Damage, Log, ScrubStep, SegmentId, SimDisk};

use crate::{body, config, numbered, open, records, written};

const HEAD: u64 = 40;

/// Reads everything again, in steps of `budget` bytes; the first damage, if there is some.
fn scrub(log: &mut Log, budget: u64) -> Option<Damage> {
    loop {
        match log.scrub_step(budget).expect("the disk works") {
            ScrubStep::Whole { bytes } => assert!(bytes > 0, "a step that gets nowhere never ends"),
            ScrubStep::PassEnded => return None,
            ScrubStep::Damaged(damage) => return Some(damage),
        }
    }
}

fn reopened(disk: &SimDisk) -> Log {
    open(disk.clone(), config()).expect("the log is whole").0
}

#[test]
fn a_whole_log_is_whole_in_steps_of_any_size_and_pass_after_pass() {
    let disk = written(60);
    for budget in [1, 50, 333, 4_096, 1 << 20] {
        let mut log = reopened(&disk);
        assert!(log.segments().count() > 3, "several segments");
        for _ in 0..2 {
            assert_eq!(scrub(&mut log, budget), None, "budget {budget}");
        }
    }
}

#[test]
fn what_is_not_flushed_is_not_looked_at_and_what_came_since_is() {
    let disk = written(3);
    let mut log = reopened(&disk);
    log.append(&body(4)).expect("there is room");
    assert_eq!(scrub(&mut log, 64), None);
    log.flush().expect("the disk works");
    let (segment, offset, _) = log.place_of(4).expect("the disk works").expect("it is durable");
    assert!(disk.flip(&segment.file_name(), offset + 20, 1));
    assert_eq!(scrub(&mut log, 64), Some(Damage { segment, offset, sequence: 4 }));
}

#[test]
fn any_flipped_bit_is_found_where_it_is() {
    let disk = written(30);
    for sequence in [1, 2, 7, 15, 30] {
        let (segment, offset, len) = reopened(&disk).place_of(sequence).expect("it works").expect("it is durable");
        for byte in offset..offset + len {
            let spoiled = disk.fork(byte);
            let mut log = reopened(&spoiled);
            assert!(spoiled.flip(&segment.file_name(), byte, 1 << (byte % 8)));
            let found = scrub(&mut log, 200);
            assert_eq!(found, Some(Damage { segment, offset, sequence }), "byte {byte}");
            assert!(log.has_damage() && log.is_damaged(segment));
            assert_eq!(scrub(&mut log, 200), None, "damage is told once");
        }
    }
    for byte in 0..HEAD {
        let spoiled = disk.fork(byte);
        let mut log = reopened(&spoiled);
        assert!(spoiled.flip(&SegmentId(2).file_name(), byte, 4));
        let head = Damage { segment: SegmentId(2), offset: 0, sequence: 0 };
        assert_eq!(scrub(&mut log, 200), Some(head), "byte {byte} of a head");
    }
}

#[test]
fn a_damaged_segment_goes_once_what_it_held_was_appended_again() {
    let disk = written(30);
    let mut log = reopened(&disk);
    let oldest = log.oldest_segment().expect("there are several");
    assert!(disk.flip(&oldest.id.file_name(), HEAD + 30, 1));
    assert_eq!(scrub(&mut log, 100).map(|damage| damage.segment), Some(oldest.id));
    for number in oldest.first_sequence..=oldest.last_sequence {
        log.append(&body(number)).expect("there is room");
    }
    log.flush().expect("the disk works");
    log.drop_segment(oldest.id, log.last_sequence()).expect("its copies are durable");
    assert!(!log.has_damage());
    assert_eq!(scrub(&mut log, 100), None);
    drop(log);
    let mut bodies: Vec<Vec<u8>> = records(disk).into_iter().map(|(_, body)| body).collect();
    let mut expected: Vec<Vec<u8>> = numbered(30).into_iter().map(|(_, body)| body).collect();
    bodies.sort();
    expected.sort();
    assert_eq!(bodies, expected);
}

#[test]
fn the_active_segment_can_be_given_up_too() {
    let disk = written(3);
    let mut log = reopened(&disk);
    let active = log.segments().last().expect("there is always one");
    assert!(disk.flip(&active.id.file_name(), HEAD + 10, 1));
    assert!(scrub(&mut log, 100).is_some());
    assert_eq!(log.oldest_segment(), None, "it is still written to");
    assert!(log.seal().expect("the disk works"));
    assert!(log.seal().expect("the disk works"), "an empty one is as good as a new one");
    for number in 1..=3 {
        log.append(&body(number)).expect("there is room");
    }
    log.flush().expect("the disk works");
    log.drop_segment(active.id, log.last_sequence()).expect("its copies are durable");
    drop(log);
    let found: Vec<Vec<u8>> = records(disk).into_iter().map(|(_, body)| body).collect();
    assert_eq!(found, (1..=3).map(body).collect::<Vec<_>>());
}

#[test]
fn a_later_flush_vouches_for_what_was_durable_before_it() {
    let disk = written(2);
    let mut log = reopened(&disk);
    assert_eq!(log.vouched(), 0, "not known yet");
    log.flush().expect("the disk works");
    assert_eq!(log.vouched(), 0, "nothing was written");
    for sequence in 3..=4 {
        log.append(&body(sequence)).expect("there is room");
        log.flush().expect("the disk works");
        assert_eq!(log.vouched(), sequence - 1);
    }
    let (segment, offset, _) = log.place_of(3).expect("it works").expect("it is durable");
    drop(log);
    assert!(disk.flip(&segment.file_name(), offset, 1));
    assert!(open(disk, config()).is_err(), "what is vouched for is no torn tail");
}
