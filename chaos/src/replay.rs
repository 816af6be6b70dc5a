//! Plays a recorded trace through the gateways, and keeps enough to judge the answers.
//!
//! The requests of one key keep their order; different keys are played side by side. A value has the recorded size and
//! is made from its key and number, so that every read can be verified byte by byte, while the history names it by its
//! number alone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::gateway::GatewayClient;
use stdx::Prng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conduct::{Conduct, Place, Shown, conduct};
use crate::latency::quantiles_of_us;
use crate::recorder::{Finding, OPERATIONS_MAX, Recorder};
use crate::verdict::ReplayReport;
use crate::workload::Ask;

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// `version,time,op,size,lbn`: block requests; operation 28 reads and 2a writes, both hexadecimal.
    CloudPhysics,
    /// `time,key,key size,value size,client,operation,ttl`: the public cache traces of Twitter.
    Twitter,
}

/// One recorded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// What it did.
    pub op: Op,
}

/// What a recorded request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read the key.
    Read,
    /// Wrote a value of this many bytes.
    Write(usize),
    /// Deleted the key.
    Delete,
}

/// A trace, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The requests, in their order; at most [`REQUESTS_MAX`].
    pub entries: Vec<Entry>,
    /// Whether more follow in the file.
    pub cut: bool,
}

/// How to play it.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// What to play.
    pub recording: Arc<Recording>,
    /// Requests at a time, each of another key. Default 16.
    pub concurrency: usize,
    /// Requests a second at most; 0 plays as fast as answers come.
    pub rate: u32,
    /// How long each may take. Default 5 s.
    pub deadline: Duration,
    /// What every key begins with; empty for the recorded keys as they are.
    pub prefix: String,
}

/// Why a trace cannot be played. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The format's name is not known.
    #[error("the format `{0}` is not offered; use cloudphysics or twitter")]
    Format(String),
    /// The file cannot be read.
    #[error("the trace cannot be read")]
    Io(#[source] io::Error),
    /// A line is not of the format.
    #[error("line {line} is not of this format: {why}")]
    Line {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// No line holds a request.
    #[error("the trace holds no request")]
    Empty,
}

/// Requests read of a trace at most: each takes its place in the history, as does each key's final read.
pub const REQUESTS_MAX: usize = OPERATIONS_MAX / 2;
/// The largest value that is played; a recorded size above it is an error of the trace.
const VALUE_MAX: usize = 1 << 20;
/// Requests that wait for one worker: enough to keep it busy, and little memory.
const QUEUE_MAX: usize = 64;
/// A longer line is no line of a trace.
const LINE_MAX: u64 = 64 * 1024;

impl TraceFormat {
    /// The format of this name.
    ///
    /// # Errors
    /// It is not one that can be played.
    pub fn from_name(name: &str) -> Result<TraceFormat, ReplayError> {
        match name {
            "cloudphysics" => Ok(TraceFormat::CloudPhysics),
            "twitter" => Ok(TraceFormat::Twitter),
            other => Err(ReplayError::Format(other.to_owned())),
        }
    }

    fn entry(self, line: &str) -> Result<Entry, String> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let size = |text: &str| match text.parse::<usize>() {
            Ok(size) if size <= VALUE_MAX => Ok(size),
            Ok(size) => Err(format!("a value of {size} bytes is larger than {VALUE_MAX}")),
            Err(_) => Err(format!("`{text}` is no size")),
        };
        match (self, fields.as_slice()) {
            (TraceFormat::CloudPhysics, [_, _, op, bytes, block]) => {
                let block: u64 = block.parse().map_err(|_| format!("`{block}` is no block number"))?;
                let op = match *op {
                    "28" => Op::Read,
                    "2a" | "2A" => Op::Write(size(bytes)?),
                    other => return Err(format!("operation `{other}` is neither 28 (read) nor 2a (write)")),
                };
                Ok(Entry { key: block.to_string(), op })
            }
            (TraceFormat::Twitter, [_, key, _, bytes, _, op, _]) if !key.is_empty() => {
                let op = match *op {
                    "get" | "gets" => Op::Read,
                    "set" | "add" | "replace" | "cas" | "append" | "prepend" | "incr" | "decr" => {
                        Op::Write(size(bytes)?)
                    }
                    "delete" => Op::Delete,
                    other => return Err(format!("operation `{other}` is not known")),
                };
                Ok(Entry { key: (*key).to_owned(), op })
            }
            (TraceFormat::CloudPhysics, fields) => Err(format!("5 fields are expected, not {}", fields.len())),
            (TraceFormat::Twitter, fields) => Err(format!("7 fields and a key are expected, not {}", fields.len())),
        }
    }
}

/// Reads a trace, packed by gzip or not; at most `limit` requests of it.
///
/// # Errors
/// See [`ReplayError`]; the first line may be a heading.
pub fn read_trace(path: &Path, format: TraceFormat, limit: Option<usize>) -> Result<Recording, ReplayError> {
    let mut file = BufReader::new(File::open(path).map_err(ReplayError::Io)?);
    let packed = file.fill_buf().map_err(ReplayError::Io)?.starts_with(&[0x1f, 0x8b]);
    if packed {
        parse(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)), format, limit)
    } else {
        parse(file, format, limit)
    }
}

fn parse(mut input: impl BufRead, format: TraceFormat, limit: Option<usize>) -> Result<Recording, ReplayError> {
    let limit = limit.unwrap_or(REQUESTS_MAX).min(REQUESTS_MAX);
    let mut recording = Recording::default();
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        let read = input.by_ref().take(LINE_MAX).read_line(&mut text).map_err(ReplayError::Io)?;
        if read == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        if recording.entries.len() == limit {
            recording.cut = true;
            break;
        }
        match format.entry(text.trim()) {
            Ok(entry) => recording.entries.push(entry),
            Err(_) if line == 1 && text.starts_with(|first: char| first.is_ascii_alphabetic()) => {}
            Err(why) => return Err(ReplayError::Line { line, why }),
        }
    }
    if recording.entries.is_empty() { Err(ReplayError::Empty) } else { Ok(recording) }
}

/// Values made from their key and number, and recognised again.
#[derive(Debug, Default)]
pub struct Bodies {
    corrupt: AtomicU64,
}

impl Bodies {
    /// The value that write number `number` leaves in `key`: `size` bytes, or as many as its own heading needs.
    pub fn body(key: &str, number: u64, size: usize) -> Bytes {
        let mut body = format!("{key}#{number}#{size};").into_bytes();
        // The heading is never cut: without it the value could not be told from another.
        let size_kept = size.max(body.len());
        let mut filler = Prng::from_seed(fnv(key.as_bytes()) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        body.reserve(size.saturating_sub(body.len()) + 8);
        while body.len() < size {
            body.extend_from_slice(&filler.next_u64().to_le_bytes());
        }
        body.truncate(size_kept);
        Bytes::from(body)
    }

    /// The name of a value in the history.
    pub fn name(number: u64) -> String {
        format!("w{number}")
    }

    /// Bodies that were not what was written under their name.
    pub fn corrupt(&self) -> u64 {
        self.corrupt.load(Ordering::Relaxed)
    }

    fn recognise(key: &str, body: &[u8]) -> Option<u64> {
        let rest = body.strip_prefix(key.as_bytes())?.strip_prefix(b"#")?;
        let end = rest.iter().position(|byte| *byte == b';')?;
        let heading = std::str::from_utf8(&rest[..end]).ok()?;
        let (number, size) = heading.split_once('#')?;
        let number = number.parse().ok()?;
        let size: usize = size.parse().ok()?;
        (size <= VALUE_MAX && Bodies::body(key, number, size) == body).then_some(number)
    }
}

impl Shown for Bodies {
    fn shown(&self, key: &str, body: &Bytes) -> String {
        match Bodies::recognise(key, body) {
            Some(number) => Bodies::name(number),
            None => {
                self.corrupt.fetch_add(1, Ordering::Relaxed);
                // Nobody wrote a value of this name, so the checker refuses it too.
                format!("corrupt-{:016x}", fnv(body))
            }
        }
    }
}

/// A trace being played.
pub struct Replay {
    recorder: Arc<Recorder>,
    config: ReplayConfig,
    bodies: Arc<Bodies>,
    figures: Mutex<Figures>,
    started: Instant,
}

#[derive(Default)]
struct Figures {
    played: u64,
    reads: u64,
    hits: u64,
    bytes_written: u64,
    bytes_read: u64,
    read_us: Vec<u64>,
    write_us: Vec<u64>,
    ended: Option<Instant>,
}

impl Replay {
    /// A replay that begins now.
    pub fn new(recorder: Arc<Recorder>, config: ReplayConfig) -> Arc<Replay> {
        let bodies = Arc::new(Bodies::default());
        Arc::new(Replay { recorder, config, bodies, figures: Mutex::default(), started: Instant::now() })
    }

    /// How its values are recognised.
    pub fn bodies(&self) -> Arc<Bodies> {
        Arc::clone(&self.bodies)
    }

    /// Plays everything, or until `stop` becomes true; every request that was begun is also ended.
    pub async fn run(self: Arc<Replay>, client: GatewayClient, stop: watch::Receiver<bool>) {
        let mut workers = JoinSet::new();
        let mut queues = Vec::new();
        for number in 0..self.config.concurrency.max(1) {
            let (sender, receiver) = mpsc::channel(QUEUE_MAX);
            queues.push(sender);
            workers.spawn(Arc::clone(&self).work(client.preferring(number), receiver, stop.clone()));
        }
        self.feed(queues, stop).await;
        while workers.join_next().await.is_some() {}
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(Instant::now());
    }

    /// The figures so far.
    pub fn report(&self) -> ReplayReport {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = (figures.ended.unwrap_or_else(Instant::now) - self.started).as_secs_f64();
        let ratio = |part: u64, whole: f64| if whole > 0.0 { part as f64 / whole } else { 0.0 };
        ReplayReport {
            played: figures.played,
            of: self.config.recording.entries.len() as u64,
            per_second: ratio(figures.played, seconds),
            bytes_written: figures.bytes_written,
            bytes_read: figures.bytes_read,
            hit_ratio: ratio(figures.hits, figures.reads as f64),
            read_ms: quantiles_of_us(&figures.read_us),
            write_ms: quantiles_of_us(&figures.write_us),
            corrupt: self.bodies.corrupt(),
        }
    }

    async fn feed(&self, queues: Vec<mpsc::Sender<(u64, Entry)>>, mut stop: watch::Receiver<bool>) {
        let interval = match self.config.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) / rate,
        };
        let mut next = Instant::now();
        for (number, entry) in self.config.recording.entries.iter().enumerate() {
            if !interval.is_zero() {
                tokio::time::sleep_until(next).await;
                next += interval;
            }
            let key = format!("{}{}", self.config.prefix, entry.key);
            // All requests of a key go to one worker, which plays them one after the other.
            let queue = &queues[(fnv(key.as_bytes()) % queues.len() as u64) as usize];
            let entry = Entry { key, op: entry.op };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                sent = queue.send((number as u64, entry)) => if sent.is_err() { return },
            }
        }
    }

    async fn work(
        self: Arc<Replay>,
        client: GatewayClient,
        mut queue: mpsc::Receiver<(u64, Entry)>,
        stop: watch::Receiver<bool>,
    ) {
        let mut process = self.recorder.new_process();
        while let Some((number, entry)) = queue.recv().await {
            if *stop.borrow() || self.recorder.is_full() {
                return;
            }
            process = self.play(&client, process, number, &entry).await;
        }
    }

    async fn play(&self, client: &GatewayClient, process: u64, number: u64, entry: &Entry) -> u64 {
        let (ask, body) = match entry.op {
            Op::Read => (Ask::Read, None),
            Op::Write(size) => (Ask::Write(Bodies::name(number)), Some(Bodies::body(&entry.key, number, size))),
            Op::Delete => (Ask::Delete, None),
        };
        let written = body.as_ref().map_or(0, Bytes::len) as u64;
        let (deadline, place) = (self.config.deadline, Place::STRICT);
        let what = Conduct { process, key: &entry.key, ask: &ask, body, fence: None, deadline, place };
        let done = conduct(&self.recorder, client, self.bodies.as_ref(), what).await;
        let us = u64::try_from(done.latency.as_micros()).unwrap_or(u64::MAX);
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.played += 1;
        match done.finding {
            Finding::Held(held) => {
                figures.reads += 1;
                figures.hits += u64::from(held.is_some());
                figures.bytes_read += done.body_bytes;
                figures.read_us.push(us);
            }
            Finding::Applied => {
                figures.bytes_written += written;
                figures.write_us.push(us);
            }
            Finding::Shown(_)
            | Finding::Number(_)
            | Finding::NotApplied
            | Finding::FencedOff
            | Finding::Failed
            | Finding::Unknown => {}
        }
        done.process
    }
}

/// FNV-1a: spreads keys over workers and names corrupt bodies. Nothing is kept secret by it.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[path = "replay_test.rs"]
mod tests;
