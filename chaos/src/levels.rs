//! Traffic at the levels below sequential: sessions that share a few keys of an available bucket, and what is read of
//! these keys once everything has settled.
//!
//! Each client is a session: it sends the token of its last answer with the next request, so that what it has seen is
//! its own to rely on. The keys are few, so that a token has room for what the session has seen of all of them: what a
//! write takes the place of is then the same to the store and to the judge. A session whose write stays unknown begins
//! anew, as its process number in the history does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::gateway::{Action, GatewayClient, Reply, Request};
use stdx::Prng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use wire::http::Level;

use crate::conduct::{Conduct, Place, Plain, conduct, unsampled};
use crate::level_ticks::{self, LevelRecord, LevelTicks};
use crate::recorder::{Finding, Recorder};
use crate::run::join;
use crate::workload::Ask;

/// The bucket of the keys: one of those that always exist.
pub const BUCKET: &str = "sessions";
/// The levels, each with clients and keys of its own.
pub const LEVELS: [Level; 2] = [Level::Causal, Level::Eventual];
/// Keys of each level.
const KEYS: usize = 4;
/// How long replicas may take to agree at the end before what they then show is judged as it is.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Between two looks at whether they do.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Final reads of each key, each by a session of its own.
const FINAL_READS: usize = 3;
/// How long one of them may take; nobody waits for it.
const FINAL_DEADLINE: Duration = Duration::from_secs(5);
/// How often a final read is made before the key counts as unreadable.
const FINAL_TRIES: u32 = 4;

/// How much to ask.
#[derive(Clone, Debug)]
pub struct LevelsConfig {
    /// Clients of each level. Default 4.
    pub clients: usize,
    /// Requests a second at each level, all its clients together. Default 40.
    pub rate: u32,
    /// How long a client waits for an answer. Default 1 s.
    pub deadline: Duration,
    /// What every key's name begins with: another one for each run, for what an earlier run left was written by nobody
    /// that this run's judge knows.
    pub prefix: String,
}

impl Default for LevelsConfig {
    fn default() -> LevelsConfig {
        LevelsConfig { clients: 4, rate: 40, deadline: Duration::from_secs(1), prefix: String::new() }
    }
}

impl LevelsConfig {
    fn key(&self, level: Level, at: usize) -> String {
        format!("{}{}{at}", self.prefix, level.name())
    }
}

/// The sessions and the loops that measure the downtime, as they run.
pub struct Levels {
    config: LevelsConfig,
    ticks: Arc<LevelTicks>,
    traffic: JoinHandle<()>,
    ticking: JoinHandle<()>,
}

impl Levels {
    /// Starts them, in tasks of their own; they run until `stop` becomes true.
    pub fn start(
        recorder: Arc<Recorder>,
        client: GatewayClient,
        config: LevelsConfig,
        prng: Prng,
        stop: &watch::Receiver<bool>,
    ) -> Levels {
        let ticks = Arc::new(LevelTicks::default());
        let (prefix, deadline) = (config.prefix.clone(), config.deadline);
        let (counted, heard) = (Arc::clone(&ticks), Arc::clone(&recorder));
        let ticking = level_ticks::run(counted, heard, client.clone(), prefix, deadline, stop.clone());
        let traffic = run(recorder, client, config.clone(), prng, stop.clone());
        Levels { config, ticks, traffic: tokio::spawn(traffic), ticking: tokio::spawn(ticking) }
    }

    /// Waits until they have stopped, and makes the final reads: what the loops saw by level, and which keys could not
    /// be read. Of none, nothing.
    pub async fn end(
        levels: Option<Levels>,
        recorder: &Recorder,
        client: &GatewayClient,
    ) -> (BTreeMap<Level, LevelRecord>, Vec<String>) {
        let Some(Levels { config, ticks, traffic, ticking }) = levels else { return Default::default() };
        for task in [traffic, ticking] {
            join(task).await;
        }
        let unread = final_reads(recorder, client, &config).await;
        clear(client, &config).await;
        (ticks.record(), unread)
    }
}

/// Runs all clients until `stop` becomes true; every request that was begun is also ended.
pub async fn run(
    recorder: Arc<Recorder>,
    client: GatewayClient,
    config: LevelsConfig,
    mut prng: Prng,
    stop: watch::Receiver<bool>,
) {
    let mut clients = JoinSet::new();
    for level in LEVELS {
        for number in 0..config.clients {
            let one = Client {
                recorder: Arc::clone(&recorder),
                gateway: client.preferring(number),
                config: config.clone(),
                level,
                source: Source::new(format!("{}{number}", level.name()), prng.fork()),
                token: None,
            };
            clients.spawn(one.run(stop.clone()));
        }
    }
    while clients.join_next().await.is_some() {}
}

/// What a session asks next: pure, and named by a seed.
#[derive(Debug)]
struct Source {
    name: String,
    prng: Prng,
    written: u64,
    /// Keys of which the session has seen something. It deletes no other: who deletes what it never saw cannot be
    /// judged.
    seen: BTreeSet<usize>,
}

impl Source {
    fn new(name: String, prng: Prng) -> Source {
        Source { name, prng, written: 0, seen: BTreeSet::new() }
    }

    fn next(&mut self) -> (usize, Ask) {
        let key = self.prng.index(KEYS);
        let ask = match self.prng.below(20) {
            0..10 => Ask::Read,
            10 if self.seen.contains(&key) => Ask::Delete,
            _ => {
                self.written += 1;
                Ask::Write(format!("{}-{}", self.name, self.written))
            }
        };
        (key, ask)
    }

    fn learn(&mut self, key: usize, finding: &Finding) {
        match finding {
            Finding::Shown(values) if values.is_empty() => {}
            Finding::Shown(_) | Finding::Applied => {
                self.seen.insert(key);
            }
            // The session ends.
            Finding::Unknown => self.seen.clear(),
            Finding::Held(_) | Finding::NotApplied | Finding::FencedOff | Finding::Failed => {}
        }
    }
}

struct Client {
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    config: LevelsConfig,
    level: Level,
    source: Source,
    token: Option<String>,
}

impl Client {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut process = self.recorder.new_process();
        let every = Duration::from_secs(1) * self.config.clients.max(1) as u32 / self.config.rate.max(1);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep_until(next) => {}
            }
            // What was missed is not made up for.
            next = (next + every).max(Instant::now());
            if self.recorder.is_full() {
                return;
            }
            process = self.ask_once(process).await;
        }
    }

    async fn ask_once(&mut self, process: u64) -> u64 {
        let (at, ask) = self.source.next();
        let key = self.config.key(self.level, at);
        let place = Place { bucket: BUCKET, level: self.level, token: self.token.as_deref() };
        let deadline = self.config.deadline;
        let what = Conduct { process, key: &key, ask: &ask, body: None, fence: None, deadline, place };
        let done = conduct(&self.recorder, &self.gateway, &Plain, what).await;
        self.source.learn(at, &done.finding);
        self.token = match done.finding {
            Finding::Unknown => None,
            _ => done.token.or(self.token.take()),
        };
        done.process
    }
}

/// Waits until the keys show the same to everybody, notes in the history that all has settled, and reads them for the
/// judge. Names the keys that could not be read.
pub async fn final_reads(recorder: &Recorder, client: &GatewayClient, config: &LevelsConfig) -> Vec<String> {
    let until = Instant::now() + SETTLE_MAX;
    while !has_settled(client, config).await && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    recorder.fault(checker::SETTLED, Default::default());
    let mut unread = Vec::new();
    for (level, at) in keys() {
        for read in 0..FINAL_READS {
            if !read_once(recorder, &client.preferring(read), config, (level, at)).await {
                unread.push(format!("{BUCKET}/{}", config.key(level, at)));
            }
        }
    }
    unread.dedup();
    unread
}

fn keys() -> impl Iterator<Item = (Level, usize)> {
    LEVELS.into_iter().flat_map(|level| (0..KEYS).map(move |at| (level, at)))
}

/// Whether two looks in a row, at the two levels, show the same.
async fn has_settled(client: &GatewayClient, config: &LevelsConfig) -> bool {
    for (level, at) in keys() {
        let mut shown = Vec::new();
        for look in LEVELS {
            let mut request = request(Action::Get, &config.key(level, at), config.deadline);
            request.level = Some(look);
            match client.send(&request).await {
                // Siblings have no order that all replicas share, but their ETag names what they are.
                Reply::Ok(answer) => shown.push((answer.seen, answer.etag)),
                Reply::Failed(_) | Reply::Unknown(_) => return false,
            }
        }
        if shown[0] != shown[1] {
            return false;
        }
    }
    true
}

async fn read_once(
    recorder: &Recorder,
    client: &GatewayClient,
    config: &LevelsConfig,
    (level, at): (Level, usize),
) -> bool {
    let key = config.key(level, at);
    let mut process = recorder.new_process();
    for _ in 0..FINAL_TRIES {
        let place = Place { bucket: BUCKET, level, token: None };
        let (ask, deadline) = (&Ask::Read, FINAL_DEADLINE);
        let what = Conduct { process, key: &key, ask, body: None, fence: None, deadline, place };
        let done = conduct(recorder, client, &Plain, what).await;
        if matches!(done.finding, Finding::Shown(_)) {
            return true;
        }
        process = done.process;
    }
    false
}

/// Deletes the run's keys, so that one run after another does not fill the fleet. Nobody depends on it.
pub async fn clear(client: &GatewayClient, config: &LevelsConfig) {
    for (level, at) in keys() {
        let request = request(Action::Delete, &config.key(level, at), config.deadline);
        if let Reply::Failed(failure) | Reply::Unknown(failure) = client.send(&request).await {
            tracing::warn!(code = failure.code, "a key of the run was left in the bucket {BUCKET}");
        }
    }
}

/// A request outside the history, on a key of the available bucket.
pub(crate) fn request(action: Action, key: &str, deadline: Duration) -> Request {
    let mut request = unsampled(action, key, Default::default(), deadline);
    BUCKET.clone_into(&mut request.bucket);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_deletes_only_what_it_has_seen_and_writes_no_value_twice() {
        let mut source = Source::new("causal0".to_owned(), Prng::from_seed(1));
        let mut written = BTreeSet::new();
        let (mut seen, mut deleted) = (BTreeSet::new(), 0);
        for step in 0..2_000 {
            let (key, ask) = source.next();
            let finding = match &ask {
                Ask::Read if step % 3 == 0 => Finding::Shown(vec!["x".to_owned()]),
                Ask::Read => Finding::Shown(Vec::new()),
                _ if step % 97 == 0 => Finding::Unknown,
                _ => Finding::Applied,
            };
            match ask {
                Ask::Write(value) => assert!(written.insert(value.clone()), "{value} is written twice"),
                Ask::Delete => {
                    deleted += 1;
                    assert!(seen.contains(&key), "a deletion of what was never seen");
                }
                Ask::Read | Ask::Cas { .. } => {}
            }
            source.learn(key, &finding);
            match finding {
                Finding::Unknown => seen.clear(),
                Finding::Shown(values) if values.is_empty() => {}
                _ => {
                    seen.insert(key);
                }
            }
        }
        assert!(deleted > 20, "{deleted} deletions");
    }

    #[test]
    fn a_seed_names_one_sequence() {
        let draw = |seed| {
            let mut source = Source::new("e".to_owned(), Prng::from_seed(seed));
            (0..200).map(|_| source.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
