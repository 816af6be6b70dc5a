//! What machine this is, and what state of the source was measured.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

/// Syncs that are timed.
const SYNCS: usize = 200;

/// The machine as JSON: cores, memory, kernel, processor, load before the run, and what one sync costs in `directory`.
pub fn machine(directory: &Path) -> Value {
    json!({
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "memory_mib": memory_mib(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "processor": processor(),
        "load_1m": load(),
        "filesystem": filesystem(directory),
        "fdatasync_us_median": sync_us(directory),
    })
}

/// The same in a sentence.
pub fn machine_sentence(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().map_or_else(|| machine[name].to_string(), str::to_owned);
    format!(
        "{} cores ({}), {} MiB, Linux {}, {} whose fdatasync takes {} us (median), load {} before the run",
        text("cores"),
        text("processor"),
        text("memory_mib"),
        text("kernel"),
        text("filesystem"),
        text("fdatasync_us_median"),
        text("load_1m")
    )
}

/// The commit of the source, `-dirty` if files differ from it; `unknown` outside a clone.
pub fn commit() -> String {
    let described = Command::new("git").args(["describe", "--always", "--abbrev=12", "--dirty"]).output();
    match described {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn memory_mib() -> u64 {
    let all = read("/proc/meminfo");
    let line = all.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) / 1_024
}

fn processor() -> String {
    let all = read("/proc/cpuinfo");
    let line = all.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    line.trim_start_matches([' ', '\t', ':']).to_owned()
}

fn load() -> f64 {
    read("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The type of the file system that holds `directory`: that of the longest mount point above it.
fn filesystem(directory: &Path) -> String {
    let directory = fs::canonicalize(directory).unwrap_or_default();
    let mounts = read("/proc/mounts");
    let parsed = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = parsed.filter(|(point, _)| directory.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// What it costs to append 4 KiB and sync them, the median of many, in microseconds. None if it cannot be tried.
fn sync_us(directory: &Path) -> Option<u64> {
    let path = directory.join(format!("sync-probe-{}", std::process::id()));
    let mut file = fs::File::create(&path).ok()?;
    let mut took: Vec<u64> = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let start = Instant::now();
        let synced = file.write_all(&[7; 4_096]).and_then(|()| file.sync_data());
        took.push(start.elapsed().as_micros() as u64);
        if synced.is_err() {
            break;
        }
    }
    let _ = fs::remove_file(&path);
    took.sort_unstable();
    (took.len() == SYNCS).then(|| took[SYNCS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let found = machine(&std::env::temp_dir());
        assert!(found["cores"].as_u64() > Some(0) && found["memory_mib"].as_u64() > Some(0), "{found}");
        assert!(found["fdatasync_us_median"].is_u64(), "{found}");
        assert!(machine_sentence(&found).contains("fdatasync"), "{found}");
    }
}
