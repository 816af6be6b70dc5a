//! Leaders are killed while clients write and read: how long nobody can write, and whether anything acknowledged is
//! lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::http::{Connection, Failed};
use crate::systems::{Cluster, Kind, MEMBERS, get, put};

const CLIENTS: usize = 6;
/// The pause of a client between two requests: the load is light, and the same for all.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a client waits for an answer before it turns to the next member.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a killed member stays away.
const AWAY: Duration = Duration::from_secs(3);
/// Between two kills.
const KILL_EVERY: Duration = Duration::from_secs(10);

/// What the clients share.
struct Shared {
    kind: Kind,
    begun: Instant,
    stop: AtomicBool,
    next_process: AtomicI64,
    history: Mutex<BufWriter<File>>,
    /// When each acknowledged write was asked and answered.
    acknowledged: Mutex<Vec<(Instant, Instant)>>,
}

/// Kills the leader `kills` times; the figures and what they rest on.
pub fn measure(mut cluster: Cluster, everring: &Path, work: &Path, kills: usize) -> Result<(Value, Value)> {
    let path = work.join(format!("history-{}.jsonl", cluster.kind.name()));
    let history = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    let shared = Arc::new(Shared {
        kind: cluster.kind,
        begun: Instant::now(),
        stop: AtomicBool::new(false),
        next_process: AtomicI64::new(0),
        history: Mutex::new(BufWriter::new(history)),
        acknowledged: Mutex::default(),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (shared, addresses) = (Arc::clone(&shared), cluster.addresses.clone());
            thread::spawn(move || Client::new(shared, addresses, number).run())
        })
        .collect();
    let mut struck = Vec::new();
    for _ in 0..kills {
        let round = Instant::now();
        let leader = cluster.until_whole()?;
        // Each kill finds the clients at work.
        thread::sleep(KILL_EVERY.saturating_sub(AWAY + round.elapsed()));
        let at = Instant::now();
        cluster.kill(leader)?;
        struck.push(at);
        thread::sleep(AWAY);
        cluster.run(leader)?;
    }
    cluster.until_whole()?;
    shared.stop.store(true, Ordering::Relaxed);
    let mut last = Vec::new();
    for client in clients {
        last.push(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
    }
    shared.history.lock().unwrap_or_else(PoisonError::into_inner).flush()?;
    let lost = lost(&cluster, &last)?;
    let acknowledged = shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut downtimes: Vec<f64> = struck.iter().filter_map(|at| downtime_ms(*at, &acknowledged)).collect();
    downtimes.sort_by(f64::total_cmp);
    let checked = Command::new(everring)
        .args(["check", "--limit", "120", "--output", "json"])
        .arg(&path)
        .output()
        .context("everring check cannot be run")?;
    let figures = json!({
        "downtime_ms": percentile(&downtimes, 50.0),
        "p99_ms": percentile(&downtimes, 99.0),
        "lost": lost,
    });
    let details = json!({
        "kills": struck.len(),
        "answered_after_each": downtimes.len() == struck.len(),
        "downtimes_ms": downtimes,
        "acknowledged_writes": acknowledged.len(),
        "everring_check_exit": checked.status.code(),
    });
    Ok((figures, details))
}

/// From a kill to the first answer to a write that was asked after it.
fn downtime_ms(at: Instant, acknowledged: &[(Instant, Instant)]) -> Option<f64> {
    let answers = acknowledged.iter().filter(|(asked, _)| *asked >= at).map(|(_, answered)| *answered);
    answers.min().map(|answered| ((answered - at).as_secs_f64() * 10_000.0).round() / 10.0)
}

/// A percentile of values in order.
pub fn percentile(sorted: &[f64], percent: f64) -> Value {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).wrapping_sub(1)).map_or(Value::Null, |value| json!(value))
}

/// Keys whose value at the end is older than the last one that was acknowledged. A write of unknown fate may come late,
/// and then stands rightly: it is nobody's loss.
fn lost(cluster: &Cluster, last: &[Written]) -> Result<u64> {
    let mut lost = 0;
    for (number, written) in last.iter().enumerate() {
        let mut connection = Connection::new(cluster.addresses[0], Duration::from_secs(10));
        let found = get(cluster.kind, &mut connection, &key_of(number));
        let found = found.map_err(|failed| anyhow::anyhow!("the last read of a key failed: {failed:?}"))?;
        let value = found.and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        lost += u64::from(value < written.acknowledged && !written.unknown.contains(&value));
    }
    Ok(lost)
}

fn key_of(number: usize) -> String {
    format!("failover/k{number}")
}

/// One client: it alone writes its key, with growing numbers, and reads all.
struct Client {
    shared: Arc<Shared>,
    connections: Vec<Connection>,
    at: usize,
    number: usize,
    process: i64,
    next: i64,
    written: Written,
}

/// What became of a client's writes.
#[derive(Default)]
struct Written {
    /// The last one that was acknowledged.
    acknowledged: i64,
    /// Those of which nobody knows.
    unknown: BTreeSet<i64>,
}

impl Client {
    fn new(shared: Arc<Shared>, addresses: Vec<std::net::SocketAddr>, number: usize) -> Client {
        let connections = addresses.into_iter().map(|address| Connection::new(address, PATIENCE)).collect();
        let process = shared.next_process.fetch_add(1, Ordering::Relaxed);
        Client { shared, connections, at: number % MEMBERS, number, process, next: 1, written: Written::default() }
    }

    /// Until it is told to stop; what became of its writes.
    fn run(mut self) -> Result<Written> {
        let mut round = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            round += 1;
            if round % 3 == 0 {
                self.read((self.number + round) % CLIENTS)?
            } else {
                self.write()?
            }
            thread::sleep(PAUSE);
        }
        Ok(self.written)
    }

    fn write(&mut self) -> Result<()> {
        let (key, value) = (key_of(self.number), self.next);
        self.next += 1;
        self.note("invoke", "write", &key, json!(value))?;
        let asked = Instant::now();
        let done = put(self.shared.kind, &mut self.connections[self.at], &key, &value.to_string());
        match done {
            Ok(true) => {
                self.written.acknowledged = value;
                let mut acknowledged = self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                acknowledged.push((asked, Instant::now()));
                drop(acknowledged);
                self.note("ok", "write", &key, json!(value))
            }
            Err(Failed::NotSent) => {
                self.at = (self.at + 1) % MEMBERS;
                self.note("fail", "write", &key, json!(value))
            }
            Ok(false) | Err(Failed::Unknown) => {
                self.at = (self.at + 1) % MEMBERS;
                self.note("info", "write", &key, json!(value))?;
                self.written.unknown.insert(value);
                // Nobody knows what became of it: whoever goes on is somebody else.
                self.process = self.shared.next_process.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn read(&mut self, of: usize) -> Result<()> {
        let key = key_of(of);
        self.note("invoke", "read", &key, Value::Null)?;
        match get(self.shared.kind, &mut self.connections[self.at], &key) {
            Ok(found) => {
                let value = found.and_then(|text| text.parse::<i64>().ok());
                self.note("ok", "read", &key, json!(value))
            }
            Err(_) => {
                self.at = (self.at + 1) % MEMBERS;
                self.note("fail", "read", &key, Value::Null)
            }
        }
    }

    fn note(&self, kind: &str, f: &str, key: &str, value: Value) -> Result<()> {
        let mut history = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        let time = i64::try_from(self.shared.begun.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let line = json!({"time": time, "process": self.process, "type": kind, "f": f, "key": key, "value": value});
        writeln!(history, "{line}").context("the history cannot be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downtime_ends_with_the_first_write_that_was_asked_after_the_kill() {
        let at = Instant::now();
        let ms = Duration::from_millis;
        let before = at.checked_sub(ms(5)).expect("the machine runs longer");
        let acknowledged = [(before, at + ms(2)), (at + ms(1), at + ms(300)), (at + ms(10), at + ms(250))];
        assert_eq!(downtime_ms(at, &acknowledged), Some(250.0));
        assert_eq!(downtime_ms(at + ms(50), &acknowledged), None);
    }

    #[test]
    fn percentiles_are_of_what_was_seen() {
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 50.0), json!(2.0));
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 99.0), json!(3.0));
        assert_eq!(percentile(&[], 50.0), Value::Null);
    }
}
