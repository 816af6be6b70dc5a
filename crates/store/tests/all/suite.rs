//! What holds on any disk: one suite, run on the simulated and on the real one.

use store::identity::{self, Identity, IdentityError};
use store::{AppendError, CleanStep, Disk, DropError, OpenError, RealDisk, SegmentId, SimDisk, framed_len};

use crate::{LOG_ID, body, config, numbered, open, records};

macro_rules! on_both_disks {
    ($($name:ident),* $(,)?) => {
        mod simulated {
            $(#[test]
            fn $name() {
                let disk = store::SimDisk::new(1);
                super::$name(|| disk.clone());
            })*
        }
        mod real {
            $(#[test]
            fn $name() {
                let directory = tempfile::tempdir().expect("a temporary directory");
                super::$name(|| store::RealDisk::open(directory.path()).expect("nobody else holds it"));
            })*
        }
    };
}

on_both_disks!(
    records_come_back_in_order,
    what_is_not_flushed_is_not_there,
    the_largest_record_fits_and_no_larger,
    a_spare_is_always_one_ahead,
    a_quota_is_a_full_disk_met_in_time,
    segments_are_read_and_dropped_in_order,
    cleaning_keeps_what_is_current,
    a_log_that_should_exist_is_missed,
    another_logs_segments_are_refused,
    the_segment_size_may_change,
    an_identity_is_kept,
    a_foreign_directory_is_refused,
);

fn records_come_back_in_order<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let (mut log, none) = open(disk(), config()).expect("a new log");
    assert!(none.is_empty() && log.recovery().created);
    for number in 1..=60 {
        assert_eq!(log.append(&body(number)), Ok(number));
        if number % 7 == 0 {
            assert_eq!(log.flush(), Ok(number));
        }
    }
    assert_eq!(log.append(b""), Ok(61), "a body may be empty");
    assert_eq!((log.flush(), log.durable(), log.flush()), (Ok(61), 61, Ok(61)));
    assert!(log.segments().count() > 4, "the script crosses segments");
    drop(log);

    let mut expected = numbered(60);
    expected.push((61, Vec::new()));
    let (mut log, found) = open(disk(), config()).expect("the log is whole");
    assert_eq!(found, expected);
    assert_eq!((log.recovery().records, log.recovery().torn_bytes), (61, 0));
    assert_eq!(log.append(&body(62)), Ok(62), "numbers go on");
    log.flush().expect("the disk works");
    drop(log);
    expected.push((62, body(62)));
    assert_eq!(records(disk()), expected);
    assert_eq!(records(disk()), expected, "reading changes nothing");
}

fn what_is_not_flushed_is_not_there<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let (mut log, _) = open(disk(), config()).expect("a new log");
    log.append(&body(1)).expect("there is room");
    log.flush().expect("the disk works");
    for number in 2..=40 {
        log.append(&body(number)).expect("there is room");
    }
    assert_eq!((log.durable(), log.last_sequence()), (1, 40));
    drop(log);
    assert_eq!(records(disk()), numbered(1));
}

fn the_largest_record_fits_and_no_larger<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let (mut log, _) = open(disk(), config()).expect("a new log");
    let max = config().body_bytes_max();
    let large = vec![9; max as usize];
    assert_eq!(log.append(&vec![9; max as usize + 1]), Err(AppendError::TooLarge { len: max + 1, max }));
    for number in 1..=3 {
        assert_eq!(log.append(&large), Ok(number));
    }
    log.flush().expect("the disk works");
    drop(log);
    assert_eq!(records(disk()), (1..=3).map(|number| (number, large.clone())).collect::<Vec<_>>());
}

fn a_spare_is_always_one_ahead<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    for number in 1..=40 {
        let (mut log, _) = open(disk(), config()).expect("the log is whole");
        log.append(&body(number)).expect("there is room");
        let segments = log.segments().count();
        assert_eq!(log.sizes().total_bytes, (segments as u64 + 1) * 1024);
        assert!(log.sizes().room_bytes >= framed_len(config().body_bytes_max()), "any record fits");
        log.flush().expect("the disk works");
        drop(log);
        assert_eq!(disk().list().expect("the disk works").len(), segments + 1);
    }
}

fn a_quota_is_a_full_disk_met_in_time<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let config = store::LogConfig { data_bytes_max: Some(4 * 1024 + 1023), ..config() };
    let (mut log, _) = open(disk(), config.clone()).expect("a new log");
    let mut appended = 0;
    while !log.is_full() {
        log.append(&body(appended + 1)).expect("it is not full");
        appended += 1;
    }
    assert_eq!(log.segments().count(), 4);
    let told_full_at = appended;
    let refused = loop {
        match log.append(&body(appended + 1)) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Full);
    assert!(appended >= told_full_at + 5, "there is a reserve for what is in flight");
    assert_eq!(log.flush(), Ok(appended), "what was appended has its room");
    assert_eq!(log.make_room(), Ok(false));
    drop(log);

    let (mut log, found) = open(disk(), config).expect("a full log can be opened");
    assert_eq!(found, numbered(appended));
    assert!(log.is_full());
    let oldest = log.oldest_segment().expect("there are several");
    log.drop_segment(oldest.id, 0).expect("all is durable");
    assert!(!log.is_full(), "the room of the dropped one is the next spare's");
    log.append(&body(appended + 1)).expect("there is room again");
    log.flush().expect("the disk works");
    drop(log);
    assert_eq!(records(disk()), numbered(appended + 1)[oldest.last_sequence as usize..]);
}

fn segments_are_read_and_dropped_in_order<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let (mut log, _) = open(disk(), config()).expect("a new log");
    assert_eq!(log.oldest_segment(), None, "the only segment is appended to");
    assert_eq!(log.drop_segment(SegmentId(1), 0), Err(DropError::NotOldest(SegmentId(1))));
    for number in 1..=60 {
        log.append(&body(number)).expect("there is room");
    }
    let oldest = log.oldest_segment().expect("there are several");
    let not_durable = log.drop_segment(oldest.id, 0);
    assert_eq!(not_durable, Err(DropError::NotDurable { needed: oldest.last_sequence + 1, durable: 0 }));
    log.flush().expect("the disk works");

    let mut found = Vec::new();
    for info in log.segments().collect::<Vec<_>>() {
        let first = found.len() as u64 + 1;
        assert_eq!(info.first_sequence, first);
        log.read_segment(info.id, &mut |sequence, body| found.push((sequence, body.to_vec()))).expect("it is whole");
        assert_eq!(info.last_sequence, found.len() as u64);
    }
    assert_eq!(found, numbered(60));

    log.append(&body(61)).expect("there is room");
    assert_eq!(log.drop_segment(oldest.id, 61), Err(DropError::NotDurable { needed: 61, durable: 60 }));
    assert_eq!(log.drop_segment(SegmentId(2), 0), Err(DropError::NotOldest(SegmentId(2))));
    log.flush().expect("the disk works");
    log.drop_segment(oldest.id, 61).expect("the copies are durable");
    assert!(log.read_segment(oldest.id, &mut |_, _| {}).is_err());
    drop(log);
    let (log, found) = open(disk(), config()).expect("a gap at the start is legal");
    assert_eq!(found, numbered(61)[oldest.last_sequence as usize..]);
    assert_eq!(log.recovery().first_sequence, oldest.last_sequence + 1);
}

fn cleaning_keeps_what_is_current<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let (mut log, _) = open(disk(), config()).expect("a new log");
    assert_eq!(log.clean_step(100, &mut |_, _| true).expect("the disk works"), CleanStep::Idle);
    for number in 1..=40 {
        log.append(&body(number)).expect("there is room");
    }
    assert_eq!(log.clean_step(100, &mut |_, _| true).expect("the disk works"), CleanStep::FlushFirst);
    log.flush().expect("the disk works");
    let oldest = log.oldest_segment().expect("there are several");
    let mut moved = Vec::new();
    let mut last = log.last_sequence();
    loop {
        match log.clean_step(100, &mut |sequence, body| sequence % 2 == 0 && !body.is_empty()).expect("it works") {
            CleanStep::Examined { segment, bytes, moved: some } => {
                assert_eq!(segment, oldest.id);
                assert!(0 < bytes && bytes <= 124, "one record at least, about 100 bytes");
                moved.extend(some);
            }
            CleanStep::FlushFirst => {
                assert!(log.segments().any(|info| info.id == oldest.id));
                last = log.flush().expect("the disk works");
            }
            CleanStep::Dropped { segment, bytes } => {
                assert_eq!((segment, bytes), (oldest.id, 1024));
                break;
            }
            other => panic!("{other:?} was not expected"),
        }
    }
    let even: Vec<_> = (oldest.first_sequence..=oldest.last_sequence).filter(|number| number % 2 == 0).collect();
    assert_eq!(moved.iter().map(|moved| moved.from).collect::<Vec<_>>(), even);
    assert_eq!(moved.iter().map(|moved| moved.to).collect::<Vec<_>>(), (41..=last).collect::<Vec<_>>());
    drop(log);
    let copies = moved.iter().map(|moved| (moved.to, body(moved.from)));
    let expected: Vec<_> = numbered(40).drain(oldest.last_sequence as usize..).chain(copies).collect();
    assert_eq!(records(disk()), expected);
}

fn a_log_that_should_exist_is_missed<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let existing = store::LogConfig { may_create: false, ..config() };
    assert!(matches!(open(disk(), existing.clone()), Err(OpenError::Missing)));
    assert!(disk().list().expect("the disk works").is_empty(), "nothing half-started");
    open(disk(), config()).expect("a new log");
    open(disk(), existing).expect("now there is one");
}

fn another_logs_segments_are_refused<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    open(disk(), config()).expect("a new log");
    let other = store::LogConfig { log_id: LOG_ID + 1, ..config() };
    let refused = open(disk(), other).expect_err("the segment is of another log");
    assert!(matches!(refused, OpenError::OtherLog { found: LOG_ID, .. }), "{refused}");
}

fn the_segment_size_may_change<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let mut next = 1;
    for segment_bytes in [1024, 4096, 1500, 65_536, 1024] {
        let (mut log, found) =
            open(disk(), store::LogConfig { segment_bytes, ..config() }).expect("sizes may be mixed");
        assert_eq!(found, numbered(next - 1));
        for _ in 0..70 {
            log.append(&body(next)).expect("there is room");
            next += 1;
        }
        log.flush().expect("the disk works");
    }
    assert_eq!(records(disk()), numbered(next - 1));
}

fn an_identity_is_kept<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let first = Identity { cluster: 1, node: 2, log: LOG_ID, incarnation: 0, place: None };
    assert_eq!(identity::load(&mut disk()).expect("the disk works"), None);
    identity::create(&mut disk(), first).expect("there was none");
    assert!(matches!(identity::create(&mut disk(), first), Err(IdentityError::Exists { found: 2 })));
    assert_eq!(identity::load(&mut disk()).expect("the disk works"), Some(first));
    let second = identity::bump_incarnation(&mut disk(), first, 0).expect("the disk works");
    let third = identity::bump_incarnation(&mut disk(), second, 41).expect("the disk works");
    assert_eq!((second.incarnation, third.incarnation), (1, 41));
    assert_eq!(identity::load(&mut disk()).expect("the disk works"), Some(third));
    open(disk(), config()).expect("the log stands beside it");
}

fn a_foreign_directory_is_refused<D: Disk + 'static>(mut disk: impl FnMut() -> D) {
    let ours = Identity { cluster: 1, node: 2, log: LOG_ID, incarnation: 0, place: None };
    identity::create(&mut disk(), ours).expect("there was none");
    let found = identity::load(&mut disk()).expect("the disk works").expect("it was made");
    found.check(1, None).expect("our cluster, any node");
    found.check(1, Some(2)).expect("our cluster and node");
    let cluster = found.check(9, Some(2)).expect_err("another cluster").to_string();
    assert!(cluster.contains("belongs to the cluster 0000000000000001, not to 0000000000000009"), "{cluster}");
    let node = found.check(1, Some(9)).expect_err("another node").to_string();
    assert!(node.contains("belongs to the node 0000000000000002, not to 0000000000000009"), "{node}");
}

#[test]
fn a_directory_has_one_process() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a").join("b");
    let first = RealDisk::open(&path).expect("it is made");
    let refused = RealDisk::open(&path).err().expect("it is held").to_string();
    assert!(refused.contains("is in use by another process"), "{refused}");
    drop(first);
    RealDisk::open(&path).expect("it was given up");
    std::fs::write(path.join("file"), b"").expect("a file");
    let refused = RealDisk::open(path.join("file")).err().expect("a file is no directory");
    assert!(refused.to_string().starts_with("cannot "), "{refused}");
}

#[test]
fn unflushed_records_are_bounded() {
    let config = store::LogConfig::new(LOG_ID);
    let (mut log, _) = open(SimDisk::new(1), config).expect("a new log");
    let body = vec![1; 1 << 20];
    let mut appended = 0;
    let refused = loop {
        match log.append(&body) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::FlushFirst { pending } if pending <= store::PENDING_BYTES_MAX));
    assert_eq!(log.flush(), Ok(appended));
    log.append(&body).expect("nothing waits any more");
}
