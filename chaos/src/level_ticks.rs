//! Loops that write and read at the levels below strict, each keys of its own: the measure of their downtime.
//!
//! They are paced and go from key to key, like those of [`crate::tick`]: a few requests in each window tell whether it
//! was down, and the machine that runs fleet and verifier together has other things to do. They ask in no trace and
//! outside the history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::gateway::{Action, GatewayClient, Reply};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::http::Level;

use crate::downtime::Downtime;
use crate::levels::{self, LEVELS};
use crate::recorder::Recorder;
use crate::tick::own;
use crate::traffic::Pace;

/// Loops of each level: so many that no window depends on two or three arcs.
const LOOPS: usize = 8;
/// How often each of them writes and reads: five times in a window, all together. They begin one after the other,
/// so that no window depends on the delay of a single moment.
const EVERY: Duration = Duration::from_millis(160);

/// What the loops of one level have seen.
#[derive(Clone, Debug, Default)]
pub struct LevelRecord {
    /// Reads that were answered in time.
    pub reads: Downtime,
    /// Writes that were answered in time.
    pub writes: Downtime,
    /// Requests that were surely not done, or answered too late.
    pub failed: u64,
    /// Writes with an unknown outcome.
    pub unknown: u64,
}

/// What all of them have seen.
#[derive(Debug, Default)]
pub struct LevelTicks {
    inner: Mutex<BTreeMap<Level, LevelRecord>>,
}

impl LevelTicks {
    /// What was seen so far, by level.
    pub fn record(&self) -> BTreeMap<Level, LevelRecord> {
        self.lock().clone()
    }

    /// The longest time without a success of a kind in [from, to], nanoseconds since the run began.
    pub fn downtime_ms(&self, from_ns: u64, to_ns: u64) -> u64 {
        let all = self.lock();
        let kinds = all.values().flat_map(|record| [&record.reads, &record.writes]);
        kinds.map(|kind| kind.longest_ms(from_ns, to_ns)).max().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Level, LevelRecord>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the loops until `stop` becomes true, and deletes their keys.
pub async fn run(
    ticks: Arc<LevelTicks>,
    recorder: Arc<Recorder>,
    client: GatewayClient,
    prefix: String,
    deadline: Duration,
    stop: watch::Receiver<bool>,
) {
    let mut loops = JoinSet::new();
    for level in LEVELS {
        for number in 0..LOOPS {
            let tick = Tick {
                ticks: Arc::clone(&ticks),
                recorder: Arc::clone(&recorder),
                gateway: client.preferring(number),
                keys: own(&format!("{prefix}tick-{}{number}", level.name())),
                level,
                deadline,
                pace: Pace::after(EVERY * number as u32 / LOOPS as u32, EVERY),
            };
            loops.spawn(tick.run(stop.clone()));
        }
    }
    while loops.join_next().await.is_some() {}
}

struct Tick {
    ticks: Arc<LevelTicks>,
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    /// Each with a session: what the loop has written is its own to replace, or its values would pile up side by side.
    keys: VecDeque<(String, Option<String>)>,
    level: Level,
    deadline: Duration,
    pace: Pace,
}

impl Tick {
    async fn run(mut self, stop: watch::Receiver<bool>) {
        let mut number = 0u64;
        while !*stop.borrow() && !self.recorder.is_full() {
            self.pace.next().await;
            number += 1;
            let Some((key, mut token)) = self.keys.pop_front() else { return };
            let put = Action::Put { value: Bytes::from(number.to_string()), content_type: None };
            self.ask(put, &key, &mut token).await;
            self.ask(Action::Get, &key, &mut token).await;
            self.keys.push_back((key, token));
        }
        for (key, mut token) in std::mem::take(&mut self.keys).into_iter().rev().take(number as usize) {
            self.ask(Action::Delete, &key, &mut token).await;
        }
    }

    async fn ask(&self, action: Action, key: &str, token: &mut Option<String>) {
        let (is_read, counts) = (action == Action::Get, action != Action::Delete);
        let mut request = levels::request(self.level, action, key, self.deadline);
        request.token = token.clone();
        let sent = Instant::now();
        let reply = self.gateway.send(&request).await;
        let late = sent.elapsed() > self.deadline;
        let now_ns = self.recorder.now_ns();
        let mut all = self.ticks.lock();
        let record = all.entry(self.level).or_default();
        match reply {
            Reply::Ok(answer) => {
                match (late, is_read) {
                    _ if !counts => {}
                    (true, _) => record.failed += 1,
                    (false, true) => record.reads.success(now_ns),
                    (false, false) => record.writes.success(now_ns),
                }
                *token = answer.token.or(token.take());
            }
            Reply::Failed(_) => record.failed += 1,
            Reply::Unknown(_) => record.unknown += 1,
        }
    }
}
