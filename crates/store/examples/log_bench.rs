//! What the log costs on a real disk: records and bytes a second, and the median sync, for several batch sizes.
//!
//! `cargo run --release -p store --example log_bench -- [DIRECTORY]` (a temporary directory unless given).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::identity::Place;
use store::{Disk, DiskError, FileEntry, Log, LogConfig, RealDisk};

const BODY_BYTES: usize = 200;
const RUN: Duration = Duration::from_secs(3);
const BATCHES: [usize; 4] = [1, 16, 64, 1024];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let parent = std::env::args().nth(1).map_or(temporary.path().to_path_buf(), Into::into);
    println!("{BODY_BYTES} B records; {} s each", RUN.as_secs());
    for batch in BATCHES {
        let directory = tempfile::tempdir_in(&parent)?;
        let syncs = Arc::new(Mutex::new(Vec::new()));
        let disk = Timed { disk: RealDisk::open(directory.path())?, syncs: syncs.clone() };
        let mut log = Log::open(disk, LogConfig::new(1), &mut |_, _| {})?;
        let body = [7; BODY_BYTES];
        let (mut records, mut flushes) = (0u64, Vec::new());
        syncs.lock().expect("no thread panicked").clear();
        let start = Instant::now();
        while start.elapsed() < RUN {
            let began = Instant::now();
            for _ in 0..batch {
                log.append(&body)?;
            }
            log.flush()?;
            flushes.push(began.elapsed());
            records += batch as u64;
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut syncs = std::mem::take(&mut *syncs.lock().expect("no thread panicked"));
        println!(
            "batch {batch:>4}: {:>9.0} records/s {:>7.2} MB/s  fdatasync p50 {:>6} us  batch p50 {:>6} us p99 {:>6} us",
            records as f64 / seconds,
            (records * BODY_BYTES as u64) as f64 / seconds / 1e6,
            percentile_us(&mut syncs, 50),
            percentile_us(&mut flushes, 50),
            percentile_us(&mut flushes, 99),
        );
    }
    Ok(())
}

fn percentile_us(times: &mut [Duration], percent: usize) -> u128 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_micros()
}

/// A disk that notes how long each sync took.
struct Timed {
    disk: RealDisk,
    syncs: Arc<Mutex<Vec<Duration>>>,
}

impl Disk for Timed {
    fn place(&mut self) -> Result<Place, DiskError> {
        self.disk.place()
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        self.disk.list()
    }

    fn create(&mut self, name: &str, len: u64) -> Result<(), DiskError> {
        self.disk.create(name, len)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.write_at(name, offset, bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        let start = Instant::now();
        let result = self.disk.sync(name);
        self.syncs.lock().expect("no thread panicked").push(start.elapsed());
        result
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.disk.read_at(name, offset, buffer)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.replace(name, bytes)
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }
}
