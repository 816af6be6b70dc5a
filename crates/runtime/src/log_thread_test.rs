use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use membership::{BucketId, NodeId, Position};
use replication::{Ballot, LogPosition, Record, RegisterKey, State, Value};
use store::{Log, LogConfig, SegmentId, SimDisk};
use wire::codec;
use wire::node::LogRecord;

use crate::{LogEvent, LogThread};

const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> LogConfig {
    LogConfig { segment_bytes: 4096, data_bytes_max: Some(4 * 4096), ..LogConfig::new(7) }
}

/// The `counter`-th state of one of a few registers.
fn record(register: u64, counter: u64) -> LogRecord {
    let body = Bytes::from(vec![counter as u8; 100]);
    LogRecord::Register(Record::Accepted {
        key: RegisterKey { position: Position(register), bucket: BucketId(1), key: Bytes::from_static(b"k") },
        ballot: Ballot { counter, node: NodeId(1) },
        state: State { value: Some(Value { body, content_type: Bytes::new() }), ..State::default() },
    })
}

fn start(disk: &SimDisk) -> (LogThread, Receiver<LogEvent>) {
    let log = Log::open(disk.clone(), config(), &mut |_, _| {}).expect("the disk works");
    let (sender, events) = channel();
    let report = move |event| {
        let _ = sender.send(event);
    };
    (LogThread::start(log, report, |_| {}).expect("a thread can be had"), events)
}

fn restored(disk: &SimDisk) -> Vec<(u64, LogRecord)> {
    let mut records = Vec::new();
    let mut visit =
        |sequence, body: &[u8]| records.push((sequence, codec::decode_log_record(body).expect("it was encoded here")));
    Log::open(disk.clone(), config(), &mut visit).expect("nothing is damaged");
    records
}

fn next(events: &Receiver<LogEvent>) -> LogEvent {
    events.recv_timeout(PATIENCE).expect("an event comes")
}

fn synced(events: &Receiver<LogEvent>, position: u64) {
    loop {
        match next(events) {
            LogEvent::Synced(reached) if reached >= LogPosition(position) => return,
            LogEvent::Synced(_) => {}
            other => panic!("{other:?} came before record {position} was durable"),
        }
    }
}

#[test]
fn what_is_told_as_synced_survives_a_crash_as_it_was() {
    let disk = SimDisk::new(1);
    let (thread, events) = start(&disk);
    let records: Vec<_> = (1..=5).map(|n| (LogPosition(n), record(n, n))).collect();
    thread.append(records[..2].to_vec());
    thread.append(Vec::new());
    thread.append(records[2..].to_vec());
    synced(&events, 5);
    assert_eq!(thread.waiting(), 0);
    assert!(thread.sizes().used_bytes > 500, "the sizes are those after the flush");
    disk.crash();
    let expected: Vec<_> = records.into_iter().map(|(position, record)| (position.0, record)).collect();
    assert_eq!(restored(&disk), expected);
}

#[test]
fn a_stop_flushes_first_and_a_later_start_counts_on() {
    let disk = SimDisk::new(2);
    let (thread, _events) = start(&disk);
    thread.append(vec![(LogPosition(1), LogRecord::Register(Record::Ceiling(10)))]);
    thread.stop();
    let (thread, events) = start(&disk);
    thread.append(vec![(LogPosition(2), LogRecord::Register(Record::Ceiling(20)))]);
    synced(&events, 2);
    thread.stop();
    assert_eq!(
        restored(&disk),
        [(1, LogRecord::Register(Record::Ceiling(10))), (2, LogRecord::Register(Record::Ceiling(20)))]
    );
}

#[test]
fn all_that_waits_is_one_group() {
    let disk = SimDisk::new(3);
    let log = Log::open(disk, config(), &mut |_, _| {}).expect("the disk works");
    let (sender, events) = channel();
    let (release, released) = channel::<()>();
    // The first event holds the thread up, as a slow sync would.
    let report = move |event| {
        let _ = sender.send(event);
        let _ = released.recv();
    };
    let thread = LogThread::start(log, report, |_| {}).expect("a thread can be had");
    thread.append(vec![(LogPosition(1), LogRecord::Register(Record::Ceiling(1)))]);
    assert_eq!(next(&events), LogEvent::Synced(LogPosition(1)));
    for n in 2..=50 {
        thread.append(vec![(LogPosition(n), LogRecord::Register(Record::Ceiling(n)))]);
    }
    drop(release);
    assert_eq!(next(&events), LogEvent::Synced(LogPosition(50)), "one flush for all of them");
}

#[test]
fn a_number_that_differs_from_the_logs_ends_it() {
    let disk = SimDisk::new(4);
    let (thread, events) = start(&disk);
    thread.append(vec![(LogPosition(2), LogRecord::Register(Record::Ceiling(1)))]);
    assert!(matches!(next(&events), LogEvent::Failed(_)), "numbers that differ must not be vouched for");
    thread.stop();
}

#[test]
fn a_failed_sync_is_the_end() {
    let disk = SimDisk::new(5);
    let (thread, events) = start(&disk);
    thread.append(vec![(LogPosition(1), LogRecord::Register(Record::Ceiling(1)))]);
    synced(&events, 1);
    disk.fail_syncs(1);
    thread.append(vec![(LogPosition(2), LogRecord::Register(Record::Ceiling(2)))]);
    assert!(matches!(next(&events), LogEvent::Failed(_)));
    thread.append(vec![(LogPosition(3), LogRecord::Register(Record::Ceiling(3)))]);
    assert!(events.recv_timeout(PATIENCE).is_err(), "nothing is told after the end");
}

/// What a core does: keeps the newest record of each register and its position, and numbers new ones.
#[derive(Default)]
struct Core {
    last: u64,
    current: BTreeMap<Position, (LogPosition, LogRecord)>,
}

impl Core {
    fn persist(&mut self, record: LogRecord) -> (LogPosition, LogRecord) {
        self.last += 1;
        let LogRecord::Register(Record::Accepted { key, .. }) = &record else {
            panic!("only registers are written here")
        };
        self.current.insert(key.position, (LogPosition(self.last), record.clone()));
        (LogPosition(self.last), record)
    }

    /// The answer to an offered segment: its current records, again.
    fn copies(&mut self, offered: Vec<(LogPosition, LogRecord)>) -> Vec<(LogPosition, LogRecord)> {
        let is_current = |position: &LogPosition| self.current.values().any(|(current, _)| current == position);
        let copies: Vec<_> = offered.into_iter().filter(|(position, _)| is_current(position)).collect();
        copies.into_iter().map(|(_, record)| self.persist(record)).collect()
    }
}

#[test]
fn a_full_log_is_told_and_goes_on_when_cleaned() {
    let disk = SimDisk::new(6);
    let (thread, events) = start(&disk);
    let mut core = Core::default();
    // Register 0 is written once and stays current; the others replace each other.
    thread.append(vec![core.persist(record(0, 1))]);
    let (mut full, mut counter) = (false, 1);
    let mut dropped = Vec::new();
    // Eight times what fits. As a core would, it writes nothing while the disk is full, and cleans instead.
    while core.last < 800 {
        if !full {
            counter += 1;
            thread.append(vec![core.persist(record(1 + counter % 3, counter))]);
        }
        match next(&events) {
            LogEvent::Full(now) => {
                full = now;
                thread.clean(0);
            }
            LogEvent::OldestSegment { id, records } => {
                thread.append(core.copies(records));
                thread.drop_segment(id, LogPosition(core.last));
                // A second request while one is open changes nothing.
                thread.clean(0);
            }
            LogEvent::Dropped(id) => dropped.push(id),
            LogEvent::Synced(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    let in_order: Vec<_> = (1..=dropped.len() as u64).map(SegmentId).collect();
    assert!(dropped.len() > 10, "only {} segments were dropped", dropped.len());
    assert_eq!(dropped, in_order, "always the oldest");
    thread.stop();
    disk.crash();
    let mut newest = BTreeMap::new();
    for (sequence, record) in restored(&disk) {
        let LogRecord::Register(Record::Accepted { key, .. }) = &record else { panic!("only registers were written") };
        newest.insert(key.position, (LogPosition(sequence), record));
    }
    assert_eq!(newest, core.current, "every current record outlived its segment");
}

/// Reads the whole log again, and asks for cleaning as soon as damage is told; gives back what is offered as lost.
fn scrubbed_until_lost(thread: &LogThread, events: &Receiver<LogEvent>) -> (SegmentId, LogPosition) {
    thread.scrub(1 << 20);
    let mut told = None;
    loop {
        match next(events) {
            LogEvent::Damaged(damage) => {
                assert_eq!(told.replace(damage.segment), None, "damage is told once");
                thread.clean(u64::MAX);
            }
            LogEvent::LostSegment { id, through } => {
                assert_eq!(told, Some(id));
                return (id, through);
            }
            LogEvent::Scrubbed { pass_ended, .. } => assert!(pass_ended, "a megabyte is all there is"),
            LogEvent::Synced(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[test]
fn a_damaged_segment_is_told_and_goes_once_its_records_came_again_from_memory() {
    // In a segment behind the active one, and in the active one itself.
    for (records, spoiled) in [(60, 1), (5, 1)] {
        let disk = SimDisk::new(9);
        let (thread, events) = start(&disk);
        let mut core = Core::default();
        thread.append((1..=records).map(|n| core.persist(record(n, n))).collect());
        synced(&events, records);
        assert!(disk.flip(&SegmentId(spoiled).file_name(), 100, 8));
        let (id, through) = scrubbed_until_lost(&thread, &events);
        assert_eq!(id, SegmentId(spoiled));
        let lost: Vec<_> = core.current.values().filter(|(at, _)| *at <= through).map(|(_, of)| of.clone()).collect();
        assert!(!lost.is_empty());
        thread.append(lost.into_iter().map(|record| core.persist(record)).collect());
        thread.drop_segment(id, LogPosition(core.last));
        while next(&events) != LogEvent::Dropped(id) {}
        thread.stop();
        let mut newest = BTreeMap::new();
        for (sequence, record) in restored(&disk) {
            let LogRecord::Register(Record::Accepted { key, .. }) = &record else {
                panic!("only registers were written")
            };
            newest.insert(key.position, (LogPosition(sequence), record));
        }
        assert_eq!(newest, core.current, "nothing that was held is lost with the segment");
    }
}

#[test]
fn damage_that_cleaning_meets_is_told_like_any_other() {
    let disk = SimDisk::new(10);
    let (thread, events) = start(&disk);
    thread.append(vec![(LogPosition(1), record(1, 1))]);
    let mut last = 1;
    loop {
        match next(&events) {
            // Full, so that cleaning pays.
            LogEvent::Full(true) => {
                last = 200;
                assert!(disk.flip(&SegmentId(1).file_name(), 100, 8));
                thread.clean(0);
            }
            LogEvent::Damaged(damage) => {
                assert_eq!(damage.segment, SegmentId(1));
                assert!(matches!(next(&events), LogEvent::LostSegment { id: SegmentId(1), .. }));
                return;
            }
            LogEvent::Synced(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
        if last < 200 {
            last += 1;
            thread.append(vec![(LogPosition(last), record(last, last))]);
        }
    }
}

#[test]
fn a_segment_that_is_kept_is_offered_again() {
    let disk = SimDisk::new(7);
    let (thread, events) = start(&disk);
    let mut last = 0;
    let mut offers = Vec::new();
    while offers.len() < 2 {
        if offers.is_empty() && last < 200 {
            last += 1;
            thread.append(vec![(LogPosition(last), record(last, last))]);
        }
        match next(&events) {
            LogEvent::Full(true) => {
                // The owner stops here; what it has handed over still fits.
                last = 200;
                thread.clean(0);
            }
            LogEvent::OldestSegment { id, .. } => {
                offers.push(id);
                thread.keep_segment(id);
                thread.clean(0);
            }
            LogEvent::Synced(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(offers, [SegmentId(1), SegmentId(1)]);
}

#[test]
fn what_does_not_fit_waits_in_order_until_there_is_room() {
    let disk = SimDisk::new(8);
    let config = LogConfig { data_bytes_max: None, ..config() };
    disk.set_capacity(3 * 4096);
    let log = Log::open(disk.clone(), config.clone(), &mut |_, _| {}).expect("the disk works");
    let (sender, events) = channel();
    let report = move |event| {
        let _ = sender.send(event);
    };
    let thread = LogThread::start(log, report, |_| {}).expect("a thread can be had");
    thread.append((1..=150).map(|n| (LogPosition(n), record(n, n))).collect());
    let mut full = false;
    let mut reached = 0;
    while !full || reached == 0 {
        match next(&events) {
            LogEvent::Full(now) => full = now,
            LogEvent::Synced(position) => reached = position.0,
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert!(reached < 150, "150 records of 150 bytes and more do not fit in 12 KiB");
    assert_eq!(thread.waiting(), 150 - reached);
    disk.set_capacity(1 << 20);
    while full || reached < 150 {
        match next(&events) {
            LogEvent::Full(now) => full = now,
            LogEvent::Synced(position) => reached = position.0,
            other => panic!("unexpected: {other:?}"),
        }
    }
    thread.stop();
    let mut restored = Vec::new();
    let mut visit = |sequence, body: &[u8]| restored.push((sequence, codec::decode_log_record(body)));
    Log::open(disk, config, &mut visit).expect("nothing is damaged");
    let expected: Vec<_> = (1..=150).map(|n| (n, Ok(record(n, n)))).collect();
    assert_eq!(restored, expected);
}
