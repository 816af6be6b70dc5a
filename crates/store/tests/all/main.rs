//! The log on both disks, under crashes, damage, full disks and cleaning.

mod cleaning;
mod crash;
mod damage;
mod scrubbing;
mod suite;

use store::{Disk, Log, LogConfig, OpenError, SimDisk};

/// The log of these tests.
pub const LOG_ID: u64 = 0x10c;

/// Records as they are restored: numbers and bodies.
pub type Records = Vec<(u64, Vec<u8>)>;

/// Small segments, so that a short script crosses many.
pub fn config() -> LogConfig {
    LogConfig { segment_bytes: 1024, ..LogConfig::new(LOG_ID) }
}

/// Opens the log and gives back what it restored.
pub fn open(disk: impl Disk + 'static, config: LogConfig) -> Result<(Log, Records), OpenError> {
    let mut records = Vec::new();
    let log = Log::open(disk, config, &mut |sequence, body| records.push((sequence, body.to_vec())))?;
    Ok((log, records))
}

/// What opening restores.
pub fn records(disk: impl Disk + 'static) -> Records {
    open(disk, config()).expect("the log is whole").1
}

/// A body that tells its number, of a length that varies with it.
pub fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(8 + (number * 37 % 90) as usize, number as u8);
    body
}

/// The records 1 to `last`, as [`body`] makes them.
pub fn numbered(last: u64) -> Records {
    (1..=last).map(|number| (number, body(number))).collect()
}

/// A log with the records 1 to `last`, flushed one by one.
pub fn written(last: u64) -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(disk.clone(), config()).expect("a new log");
    for number in 1..=last {
        log.append(&body(number)).expect("there is room");
        log.flush().expect("the disk works");
    }
    disk
}
