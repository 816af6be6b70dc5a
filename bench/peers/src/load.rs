//! The closed loop: as many clients as asked for, each with one connection and one request at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use processes::cpu_seconds;
use tokio::task::JoinSet;

use crate::target::{Connection, Target};

/// The smallest value: it names its key and its write.
pub const VALUE_BYTES_MIN: usize = 32;
/// Latencies above this are shown as this, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;
/// A client whose requests fail this often in a phase gives the whole run up: there is nothing to measure.
const ERRORS_MAX: u64 = 200;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Clients.
    pub clients: usize,
    /// Keys, drawn evenly.
    pub keys: u32,
    /// The size of a value.
    pub value_bytes: usize,
}

/// What is measured at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Strict durable writes.
    Write,
    /// Strict reads.
    Read,
}

impl Phase {
    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Write => "write",
            Phase::Read => "read",
        }
    }
}

/// What a phase showed.
#[derive(Clone, Debug)]
pub struct PhaseResult {
    /// Answered requests, begun and ended in the time that counts.
    pub answered: u64,
    /// Requests without a good answer, at any time of the phase.
    pub errors: u64,
    /// The time that counts.
    pub seconds: f64,
    /// Latencies in microseconds.
    pub latency: Histogram<u64>,
    /// Processor time of the servers, by role.
    pub server_cpu: BTreeMap<&'static str, f64>,
    /// Processor time of the clients: this process.
    pub client_cpu: f64,
}

impl PhaseResult {
    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }
}

/// Where a phase is. Each client looks at it between two requests.
const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

struct ClientResult {
    latency: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

impl Load {
    /// Writes every key once.
    pub async fn fill(&self, target: &Target) -> Result<()> {
        let next = Arc::new(AtomicU32::new(0));
        let mut clients: JoinSet<Result<()>> = JoinSet::new();
        for number in 0..self.clients {
            let (next, load) = (Arc::clone(&next), *self);
            let mut connection = target.connect(number).await?;
            clients.spawn(async move {
                loop {
                    let key = next.fetch_add(1, Ordering::Relaxed);
                    if key >= load.keys {
                        return Ok(());
                    }
                    connection.write(&key_name(key), load.value(key, 0)).await?;
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.context("a client does not panic")??;
        }
        Ok(())
    }

    /// One phase: a warm-up, then the time that counts.
    pub async fn run(
        &self,
        target: &Target,
        phase: Phase,
        round: u64,
        warm_up: Duration,
        length: Duration,
    ) -> Result<PhaseResult> {
        let stage = Arc::new(AtomicU8::new(WARMING));
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let connection = target.connect(number).await?;
            let chance = Chance::new(round << 32 | (number as u64) << 1 | u64::from(phase == Phase::Read));
            let client = Client { load: *self, target: target.clone(), number, phase };
            clients.spawn(client.run(connection, chance, Arc::clone(&stage)));
        }
        tokio::time::sleep(warm_up).await;
        let (cpu_before, client_before) = (servers_cpu(target), own_cpu());
        let start = Instant::now();
        stage.store(COUNTING, Ordering::SeqCst);
        tokio::time::sleep(length).await;
        stage.store(OVER, Ordering::SeqCst);
        let seconds = start.elapsed().as_secs_f64();
        let client_cpu = own_cpu() - client_before;
        let mut server_cpu = servers_cpu(target);
        for (role, seconds) in &mut server_cpu {
            *seconds -= cpu_before.get(role).copied().unwrap_or(0.0);
        }
        let mut latency = new_histogram()?;
        let (mut errors, mut first_error) = (0, None);
        while let Some(ended) = clients.join_next().await {
            let ended = ended.context("a client does not panic")??;
            latency.add(&ended.latency).context("histograms of one shape")?;
            errors += ended.errors;
            first_error = first_error.or(ended.first_error);
        }
        if let Some(why) = first_error {
            eprintln!("peers: {} {}: {errors} errors, such as: {why}", target.name, phase.name());
        }
        ensure!(!latency.is_empty(), "{} answered no {} at all", target.name, phase.name());
        Ok(PhaseResult { answered: latency.len(), errors, seconds, latency, server_cpu, client_cpu })
    }

    /// The value that write `serial` gives to `key`: it names both, so that a read can be checked.
    fn value(&self, key: u32, serial: u64) -> Bytes {
        let mut value = format!("{}:{serial:x}:", key_name(key)).into_bytes();
        value.resize(self.value_bytes, b'.');
        value.into()
    }

    fn check(&self, key: u32, value: &[u8]) -> Result<()> {
        let name = key_name(key);
        let named = value.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'));
        ensure!(named && value.len() == self.value_bytes, "{name} read as {}", String::from_utf8_lossy(value));
        Ok(())
    }
}

/// One client of a phase.
struct Client {
    load: Load,
    target: Target,
    number: usize,
    phase: Phase,
}

impl Client {
    async fn run(self, mut connection: Connection, mut chance: Chance, stage: Arc<AtomicU8>) -> Result<ClientResult> {
        let mut result = ClientResult { latency: new_histogram()?, errors: 0, first_error: None };
        loop {
            let began = stage.load(Ordering::Relaxed);
            if began == OVER {
                return Ok(result);
            }
            let start = Instant::now();
            let outcome = self.ask(&mut connection, &mut chance).await;
            let took_us = start.elapsed().as_micros() as u64;
            match outcome {
                Ok(()) if began == COUNTING && stage.load(Ordering::Relaxed) == COUNTING => {
                    result.latency.saturating_record(took_us);
                }
                Ok(()) => {}
                Err(error) => {
                    result.errors += 1;
                    result.first_error.get_or_insert_with(|| format!("{error:#}"));
                    ensure!(result.errors < ERRORS_MAX, "a client had {ERRORS_MAX} errors; the last: {error:#}");
                    // It may be the connection that is broken.
                    connection = self.target.connect(self.number).await?;
                }
            }
        }
    }

    async fn ask(&self, connection: &mut Connection, chance: &mut Chance) -> Result<()> {
        let key = (chance.next() % u64::from(self.load.keys)) as u32;
        match self.phase {
            Phase::Write => connection.write(&key_name(key), self.load.value(key, chance.next())).await,
            Phase::Read => self.load.check(key, &connection.read(&key_name(key)).await?),
        }
    }
}

fn key_name(key: u32) -> String {
    format!("k{key:07}")
}

fn new_histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).context("a histogram's bounds")
}

fn servers_cpu(target: &Target) -> BTreeMap<&'static str, f64> {
    let mut by_role = BTreeMap::new();
    for server in target.servers.iter() {
        *by_role.entry(server.role).or_insert(0.0) += cpu_seconds(server.process.pid());
    }
    by_role
}

fn own_cpu() -> f64 {
    cpu_seconds(std::process::id())
}

/// SplitMix64: which keys a client asks for is given by the round, its number and the phase.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { clients: 1, keys: 10, value_bytes: 100 };

    #[test]
    fn a_value_names_its_key_and_has_its_length() {
        let value = LOAD.value(7, u64::MAX);
        assert_eq!(value.len(), 100);
        assert!(LOAD.check(7, &value).is_ok());
        assert!(LOAD.check(8, &value).is_err(), "another key's value");
        assert!(LOAD.check(7, &value[..99]).is_err(), "a shorter value");
        let smallest = Load { value_bytes: VALUE_BYTES_MIN, ..LOAD };
        assert!(smallest.check(9_999_999, &smallest.value(9_999_999, u64::MAX)).is_ok());
    }

    #[test]
    fn keys_are_drawn_evenly() {
        let mut chance = Chance::new(5);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[(chance.next() % 10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
