//! Foreground load: ordinary clients of the gateways over HTTP/1.1, each with a connection of its own.
//!
//! What it is *not*: it never tries again. A request that fails counts as failed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The pause between two requests of a client under foreground load: the load is steady, and leaves room.
const PACE: Duration = Duration::from_millis(8);
/// Bytes of a value.
const VALUE_BYTES: usize = 100;

/// One connection to a gateway.
pub struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    /// Connects.
    pub fn connect(host: &str) -> Result<Client> {
        let stream = TcpStream::connect(host).with_context(|| format!("no gateway at {host}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Client { stream: BufReader::new(stream), host: host.to_owned() })
    }

    /// Writes record `key`.
    pub fn put(&mut self, key: u64) -> Result<u16> {
        let value = format!("{key:0VALUE_BYTES$}");
        self.ask(&format!(
            "PUT /v1/kv/records/f{key} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{value}",
            self.host,
            value.len()
        ))
    }

    /// Reads record `key`.
    pub fn get(&mut self, key: u64) -> Result<u16> {
        self.ask(&format!("GET /v1/kv/records/f{key} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host))
    }

    fn ask(&mut self, request: &str) -> Result<u16> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP answer")?;
        let mut length = 0;
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the gateway hung up");
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().context("a length that is no number")?;
            }
        }
        std::io::copy(&mut (&mut self.stream).take(length), &mut std::io::sink())?;
        Ok(status)
    }
}

/// Writes records 0 to `keys` with this many clients.
pub fn fill(gateways: &[String], keys: u64, clients: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<JoinHandle<Result<()>>> = (0..clients)
        .map(|at| {
            let (host, next) = (gateways[at as usize % gateways.len()].clone(), Arc::clone(&next));
            std::thread::spawn(move || {
                let mut client = Client::connect(&host)?;
                loop {
                    let key = next.fetch_add(1, Ordering::Relaxed);
                    if key >= keys {
                        return Ok(());
                    }
                    let status = client.put(key)?;
                    if !(200..300).contains(&status) {
                        bail!("a write of the filling was answered {status}");
                    }
                }
            })
        })
        .collect();
    tasks.into_iter().try_for_each(|task| task.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
}

/// An answered request, for whoever wants to look into a figure.
#[derive(Clone, Copy, Debug)]
struct Sample {
    sent: SystemTime,
    micros: u64,
    key: u64,
    write: bool,
}

/// What a while of load showed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Each answered request, the quickest first once [`Seen::p99_ms`] may be asked.
    samples: Vec<Sample>,
    /// Writes sent, answered or not.
    pub writes: u64,
    /// Requests that were not answered with 2xx.
    pub failed: u64,
    /// The first of them, in words.
    pub first_failure: Option<String>,
}

impl Seen {
    /// Requests in all.
    pub fn requests(&self) -> u64 {
        self.samples.len() as u64 + self.failed
    }

    /// Writes a line for each answered request: when it was sent (Unix seconds), the microseconds that it took, whether
    /// it was a write, and its key.
    pub fn write_samples(&self, phase: &str, to: &mut impl Write) -> std::io::Result<()> {
        for Sample { sent, micros, key, write } in &self.samples {
            let at = sent.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            writeln!(to, "{phase} {at:.6} {micros} {write} f{key}")?;
        }
        Ok(())
    }

    /// The 99th percentile in milliseconds; 0 without a request.
    pub fn p99_ms(&self) -> f64 {
        let at = (self.samples.len() * 99).div_ceil(100).saturating_sub(1);
        self.samples.get(at).map_or(0.0, |sample| sample.micros as f64 / 1_000.0)
    }
}

/// Foreground load that runs until it is ended.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// Starts this many clients; half of what they ask is writes.
    pub fn start(gateways: &[String], keys: u64, clients: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|at| {
            let (host, stop) = (gateways[at as usize % gateways.len()].clone(), Arc::clone(&stop));
            std::thread::spawn(move || ask_on(&host, keys, at, &stop))
        });
        Load { clients: clients.collect(), stop }
    }

    /// Ends it.
    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().unwrap_or_default();
            all.samples.extend(seen.samples);
            all.writes += seen.writes;
            all.failed += seen.failed;
            all.first_failure = all.first_failure.or(seen.first_failure);
        }
        all.samples.sort_unstable_by_key(|sample| sample.micros);
        all
    }
}

fn ask_on(host: &str, keys: u64, at: u64, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut client = None;
    // Keys are drawn by a linear congruence (Knuth, "The art of computer programming", vol. 2): the same every time.
    let mut draw = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !stop.load(Ordering::Relaxed) {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = (draw >> 33) % keys;
        let (began, sent) = (Instant::now(), SystemTime::now());
        let write = client.is_none() || draw & (1 << 32) == 0;
        seen.writes += u64::from(write);
        let answered = match &mut client {
            Some(client) => ask_one(client, key, write),
            none => Client::connect(host).and_then(|fresh| ask_one(none.insert(fresh), key, write)),
        };
        match answered {
            Ok(200..300) => {
                let micros = began.elapsed().as_micros() as u64;
                seen.samples.push(Sample { sent, micros, key, write });
            }
            other => {
                seen.failed += 1;
                seen.first_failure.get_or_insert_with(|| format!("{other:?}"));
                if other.is_err() {
                    client = None;
                }
            }
        }
        std::thread::sleep(PACE.saturating_sub(began.elapsed()));
    }
    seen
}

fn ask_one(client: &mut Client, key: u64, write: bool) -> Result<u16> {
    if write { client.put(key) } else { client.get(key) }
}
