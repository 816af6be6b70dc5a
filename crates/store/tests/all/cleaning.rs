//! Cleaning loses nothing that is current, at whatever call the power fails, and works on a full disk.

use std::collections::BTreeMap;

use store::{AppendError, CLEAN_SLACK_BYTES, CleanStep, Log, LogConfig, SimDisk, framed_len};

use crate::{config, open};

const KEYS: u8 = 21;
const SEEDS: u64 = 6;

type Versions = BTreeMap<u8, u32>;

/// An owner as a node is one: keys with versions, the newest record of each key is current.
#[derive(Default)]
struct Owner {
    appended: Versions,
    acknowledged: Versions,
    dropped: u64,
    moved: u64,
}

fn record(key: u8, version: u32) -> Vec<u8> {
    let mut body = vec![key];
    body.extend_from_slice(&version.to_le_bytes());
    body.resize(5 + (u64::from(version) * 31 % 120) as usize, key);
    body
}

fn parse(body: &[u8]) -> (u8, u32) {
    (body[0], u32::from_le_bytes([body[1], body[2], body[3], body[4]]))
}

/// What a log holds: the last record of each key.
fn restore(disk: &SimDisk, config: LogConfig) -> Versions {
    let (_, records) = open(disk.clone(), config).expect("a crash is no damage");
    records.iter().map(|(_, body)| parse(body)).collect()
}

impl Owner {
    fn put(&mut self, log: &mut Log, key: u8) -> Result<(), AppendError> {
        let version = self.appended.get(&key).copied().unwrap_or(0) + 1;
        log.append(&record(key, version))?;
        self.appended.insert(key, version);
        Ok(())
    }

    fn flush(&mut self, log: &mut Log) -> Option<()> {
        log.flush().ok()?;
        self.acknowledged = self.appended.clone();
        Some(())
    }

    fn clean(&mut self, log: &mut Log, budget_bytes: u64) -> Option<CleanStep> {
        let appended = &self.appended;
        let step = log.clean_step(budget_bytes, &mut |_, body| {
            let (key, version) = parse(body);
            appended[&key] == version
        });
        let step = step.ok()?;
        match &step {
            CleanStep::Examined { moved, .. } => self.moved += moved.len() as u64,
            CleanStep::Dropped { .. } => self.dropped += 1,
            _ => {}
        }
        Some(step)
    }

    /// Writes, flushes and cleans, until it is done or the power fails.
    fn work(&mut self, disk: &SimDisk) -> Option<()> {
        let (mut log, records) = open(disk.clone(), config()).ok()?;
        self.appended.extend(records.iter().map(|(_, body)| parse(body)));
        for step in 0..150u64 {
            // Key 0 is written once and most others seldom: they survive only by being moved again and again.
            let key = match step {
                0 => 0,
                _ if step % 4 == 0 => 1 + (step / 4 % u64::from(KEYS - 1)) as u8,
                _ => 1 + (step % 3) as u8,
            };
            self.put(&mut log, key).ok()?;
            if step % 3 == 2 {
                self.flush(&mut log)?;
            }
            if log.segments().count() > 3 {
                self.clean(&mut log, 300)?;
            }
        }
        self.flush(&mut log)
    }
}

#[test]
fn a_crash_in_any_call_of_cleaning_loses_nothing_current() {
    let whole = SimDisk::new(0);
    let mut owner = Owner::default();
    owner.work(&whole).expect("the power stays on");
    assert!(owner.dropped > 5 && owner.moved > 20, "{} dropped, {} moved", owner.dropped, owner.moved);
    let calls_whole = whole.calls();
    assert_eq!(restore(&whole, config()), owner.acknowledged);
    for calls in 0..calls_whole {
        for seed in 0..SEEDS {
            let disk = SimDisk::new(seed);
            disk.crash_after(calls);
            let mut owner = Owner::default();
            assert_eq!(owner.work(&disk), None);
            disk.crash();
            let found = restore(&disk, config());
            for key in 0..KEYS {
                let version = |versions: &Versions| versions.get(&key).copied().unwrap_or(0);
                let (least, most) = (version(&owner.acknowledged), version(&owner.appended) + 1);
                let now = version(&found);
                assert!(least <= now && now <= most, "call {calls}, seed {seed}: {least} <= {now} <= {most}");
            }
            disk.crash();
            assert_eq!(restore(&disk, config()), found, "call {calls}, seed {seed}: the same twice");

            // The successor goes on where it was, cleaning included.
            let mut successor = Owner::default();
            successor.work(&disk).expect("the power stays on");
            disk.crash();
            assert_eq!(restore(&disk, config()), successor.acknowledged);
        }
    }
}

#[test]
fn a_full_disk_is_cleaned_within_its_reserve() {
    let config = LogConfig { data_bytes_max: Some(4 * 1024), ..config() };
    let disk = SimDisk::new(1);
    let (mut log, _) = open(disk.clone(), config.clone()).expect("a new log");
    let mut owner = Owner::default();
    let mut times_full = 0;
    for step in 0..400u64 {
        owner.put(&mut log, (step % 3) as u8).expect("cleaning makes room in time");
        owner.flush(&mut log).expect("the disk works");
        times_full += u64::from(log.is_full());
        while log.is_full() {
            assert!(log.needs_cleaning(300));
            match owner.clean(&mut log, 200).expect("the disk works") {
                CleanStep::FlushFirst => owner.flush(&mut log).expect("the disk works"),
                CleanStep::Examined { .. } | CleanStep::Dropped { .. } => {}
                other => panic!("{other:?} was not expected"),
            }
        }
    }
    assert!(times_full > 10, "full {times_full} times");
    assert_eq!(restore(&disk, config), owner.acknowledged);
}

#[test]
fn without_room_for_a_copy_cleaning_stops_and_goes_on_later() {
    let disk = SimDisk::new(1);
    disk.set_capacity(3 * 1024);
    let (mut log, _) = open(disk.clone(), config()).expect("a new log");
    let mut owner = Owner::default();
    for key in 0..=u8::MAX {
        if owner.put(&mut log, key) == Err(AppendError::Full) {
            break;
        }
    }
    owner.flush(&mut log).expect("the disk works");
    while let CleanStep::Examined { .. } = owner.clean(&mut log, 1024).expect("the disk works") {}
    assert_eq!(owner.clean(&mut log, 1024), Some(CleanStep::NoRoom));
    disk.set_capacity(u64::MAX);
    assert_eq!(log.make_room(), Ok(true));
    let oldest = log.oldest_segment().expect("there are several").id;
    loop {
        match owner.clean(&mut log, 1024).expect("the disk works") {
            CleanStep::FlushFirst => owner.flush(&mut log).expect("the disk works"),
            CleanStep::Dropped { segment, .. } if segment == oldest => break,
            CleanStep::Examined { .. } => {}
            other => panic!("{other:?} was not expected"),
        }
    }
    assert_eq!(restore(&disk, config()), owner.acknowledged, "all keys are current");
}

#[test]
fn cleaning_pays_above_twice_what_is_current() {
    let disk = SimDisk::new(1);
    let config = LogConfig::new(1);
    let (mut log, _) = open(disk, config.clone()).expect("a new log");
    let body = vec![1; 1 << 20];
    assert!(!log.needs_cleaning(0), "there is nothing to drop");
    while log.sizes().total_bytes <= CLEAN_SLACK_BYTES + 2 * config.segment_bytes {
        assert_eq!(log.needs_cleaning(0), log.sizes().total_bytes > CLEAN_SLACK_BYTES);
        log.append(&body).expect("there is room");
        log.flush().expect("the disk works");
    }
    assert!(log.needs_cleaning(framed_len(8 << 20)));
    assert!(!log.needs_cleaning(framed_len(32 << 20)));
}
