//! Crashes at every call to the disk: what was acknowledged is there, in order, and nothing is invented.

use store::identity::{self, Identity};
use store::{AppendError, Disk, LogConfig, Poisoned, SimDisk, framed_len};

use crate::{LOG_ID, Records, body, numbered, open};

const SEEDS: u64 = 40;

/// Segments that hold batches of several sectors.
fn config() -> LogConfig {
    LogConfig { segment_bytes: 2048, ..LogConfig::new(LOG_ID) }
}

fn records(disk: SimDisk) -> Records {
    open(disk, config()).expect("the log is whole").1
}

/// What a run appended (records 1 to that) and what was acknowledged, when it ended or the power failed.
#[derive(Clone, Copy, Debug)]
struct Run {
    appended: u64,
    acknowledged: u64,
}

/// How many records a whole run appends.
const RUN: u64 = 105;

/// Appends [`RUN`] records on top of `restored`, in batches of 1 to 14, over several segments.
fn run(disk: &SimDisk, restored: u64) -> Run {
    let mut run = Run { appended: restored, acknowledged: restored };
    let Ok((mut log, _)) = open(disk.clone(), config()) else { return run };
    for step in 1..=14 {
        for _ in 0..step {
            // It is written down before it is tried: an append that failed may have left nothing, but may not leave
            // more.
            run.appended += 1;
            if log.append(&body(run.appended)).is_err() {
                return run;
            }
        }
        match log.flush() {
            Ok(through) => run.acknowledged = through,
            Err(_) => return run,
        }
    }
    run
}

fn check(found: &Records, run: Run, what: &str) {
    let last = found.len() as u64;
    assert_eq!(found, &numbered(last), "{what}: in order, and as they were appended");
    assert!(run.acknowledged <= last && last <= run.appended, "{what}: {last} records after {run:?}");
}

#[test]
fn a_crash_in_any_call_keeps_what_was_acknowledged() {
    let whole = SimDisk::new(0);
    assert_eq!(run(&whole, 0).acknowledged, RUN);
    let (mut torn, mut unacknowledged) = (0, 0);
    for calls in 0..whole.calls() {
        for seed in 0..SEEDS {
            let what = format!("crash in call {calls}, seed {seed}");
            let disk = SimDisk::new(seed);
            disk.crash_after(calls);
            let first = run(&disk, 0);
            disk.crash();
            let (log, found) = open(disk.clone(), config()).unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&found, first, &what);
            torn += u64::from(log.recovery().torn_bytes > 0);
            unacknowledged += u64::from(found.len() as u64 > first.acknowledged);
            drop(log);
            disk.crash();
            assert_eq!(records(disk.clone()), found, "{what}: what was restored once is durable");

            let second = run(&disk, found.len() as u64);
            assert_eq!(second.acknowledged, found.len() as u64 + RUN, "{what}");
            disk.crash();
            assert_eq!(records(disk), numbered(second.acknowledged), "{what}: nothing that was cut came back");
        }
    }
    assert!(torn > 50 && unacknowledged > 50, "the crashes tore {torn} tails and kept {unacknowledged}");
}

#[test]
fn a_crash_in_any_call_of_recovery_loses_nothing_either() {
    let whole = SimDisk::new(0);
    run(&whole, 0);
    for calls in 0..whole.calls() {
        let disk = SimDisk::new(calls);
        disk.crash_after(calls);
        let first = run(&disk, 0);
        disk.crash();
        let begun = disk.calls();
        open(disk.fork(0), config()).expect("a crash is no damage");
        let probe = disk.fork(0);
        open(probe.clone(), config()).expect("a crash is no damage");
        for again in 0..probe.calls() - begun {
            let what = format!("crash in call {calls}, then in call {again} of recovery");
            let disk = disk.fork(again);
            disk.crash_after(again);
            assert!(open(disk.clone(), config()).is_err(), "{what}");
            disk.crash();
            let found = records(disk.clone());
            check(&found, first, &what);
            disk.crash();
            assert_eq!(records(disk), found, "{what}");
        }
    }
}

/// A killed process leaves its writes in the system's memory: its successor reads them, and must not build on what a
/// power cut can still take away. A failed sync makes it worse: the system thinks those writes done.
#[test]
fn what_a_restart_reads_is_durable_even_after_a_failed_sync() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(disk.clone(), config()).expect("a new log");
        log.append(&body(1)).expect("there is room");
        log.flush().expect("the disk works");
        for number in 2..=6 + seed % 20 {
            log.append(&body(number)).expect("there is room");
        }
        disk.fail_syncs(1);
        log.flush().expect_err("the sync fails");
        drop(log);
        let found = records(disk.clone());
        assert!(found.len() > 1, "the writes are visible");
        disk.crash();
        assert_eq!(records(disk), found, "seed {seed}");
    }
}

/// The same when the failed batch was the first of its segment, and its head with it.
#[test]
fn a_segments_head_is_durable_too_after_a_failed_sync() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(disk.clone(), config()).expect("a new log");
        let mut next = 1;
        loop {
            let active = log.segments().last().expect("there is always one");
            if active.used_bytes + framed_len(body(next).len() as u64) > active.bytes {
                break;
            }
            log.append(&body(next)).expect("there is room");
            log.flush().expect("the disk works");
            next += 1;
        }
        log.append(&body(next)).expect("the spare has room");
        disk.fail_syncs(1);
        log.flush().expect_err("the sync fails");
        drop(log);
        assert_eq!(records(disk.clone()), numbered(next), "the writes are visible");
        disk.crash();
        assert_eq!(records(disk), numbered(next), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_poisons_the_log_for_ever() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(disk.clone(), config()).expect("a new log");
    for number in 1..=60 {
        log.append(&body(number)).expect("there is room");
    }
    log.flush().expect("the disk works");
    log.append(&body(61)).expect("there is room");
    disk.fail_syncs(1);
    let error = log.flush().expect_err("the sync fails");
    assert!(error.to_string().contains("the process must stop"), "{error}");
    assert!(error.reason.contains("cannot sync segment-"), "{error}");
    let before = disk.calls();
    let poisoned = |result: Poisoned| assert_eq!(result, error);
    poisoned(log.flush().expect_err("poisoned"));
    assert_eq!(log.append(b"more"), Err(AppendError::Poisoned(error.clone())));
    poisoned(log.make_room().expect_err("poisoned"));
    let oldest = log.oldest_segment().expect("there are several").id;
    assert!(log.drop_segment(oldest, 0).is_err() && log.read_segment(oldest, &mut |_, _| {}).is_err());
    assert!(log.clean_step(100, &mut |_, _| true).is_err());
    assert_eq!((disk.calls(), log.durable()), (before, 60), "a poisoned log leaves the disk alone");
}

#[test]
fn a_full_disk_is_met_before_a_record_is() {
    let disk = SimDisk::new(1);
    disk.set_capacity(3 * 2048 + 100);
    let (mut log, _) = open(disk.clone(), config()).expect("a new log");
    let mut appended = 0;
    let refused = loop {
        let was_full = log.is_full();
        match log.append(&body(appended + 1)) {
            Ok(_) => appended += 1,
            Err(error) => {
                assert!(was_full, "it was told before");
                break error;
            }
        }
    };
    assert_eq!(refused, AppendError::Full);
    assert_eq!(log.flush(), Ok(appended));
    drop(log);
    disk.crash();
    let (mut log, found) = open(disk.clone(), config()).expect("a full log can be opened");
    assert_eq!(found, numbered(appended));
    assert_eq!((log.is_full(), log.make_room()), (true, Ok(false)));
    disk.set_capacity(u64::MAX);
    assert_eq!((log.make_room(), log.is_full()), (Ok(true), false));
    log.append(&body(appended + 1)).expect("there is room again");
    log.flush().expect("the disk works");
    assert_eq!(records(disk), numbered(appended + 1));
}

#[test]
fn a_disk_too_full_for_a_log_is_a_typed_error() {
    let disk = SimDisk::new(1);
    disk.set_capacity(1000);
    let refused = open(disk.clone(), config()).expect_err("no segment fits");
    assert!(matches!(refused, store::OpenError::Disk(store::DiskError::Full)), "{refused}");
    assert!(disk.clone().list().expect("the disk works").is_empty(), "nothing half-started");
}

#[test]
fn an_identity_is_the_old_or_the_new_one_after_a_crash() {
    let old = Identity { cluster: 1, node: 2, log: 3, incarnation: 4, place: None };
    let mut seen = [false; 2];
    for seed in 0..20 {
        let mut disk = SimDisk::new(seed);
        let old = Identity { place: disk.place().ok(), ..old };
        identity::create(&mut disk, old).expect("there was none");
        disk.crash_after(0);
        identity::bump_incarnation(&mut disk, old, 0).expect_err("the power fails");
        disk.crash();
        let found = identity::load(&mut disk).expect("it is whole").expect("it was durable");
        assert_eq!(Identity { incarnation: 4, ..found }, old);
        seen[(found.incarnation - 4) as usize] = true;
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_seed_names_one_crash() {
    let outcome = |seed| {
        let disk = SimDisk::new(seed);
        disk.crash_after(29);
        run(&disk, 0);
        disk.crash();
        let mut bytes = Vec::new();
        for entry in disk.clone().list().expect("the disk works") {
            let mut content = vec![0; entry.len as usize];
            disk.clone().read_at(&entry.name, 0, &mut content).expect("the disk works");
            bytes.push((entry, content));
        }
        bytes
    };
    assert_eq!(outcome(5), outcome(5));
    assert!((0..10).any(|seed| outcome(seed) != outcome(5)), "seeds differ");
}
