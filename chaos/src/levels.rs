//! Traffic at the levels below strict: sessions that share a few keys of each level, and what is read of these keys
//! once everything has settled. Level sequential has its keys in the ordered bucket, where each write is ordered and a
//! read may be stale; causal and eventual have theirs in an available one.
//!
//! Each client is a session: it sends the token of its last answer with the next request, so that what it has seen is
//! its own to rely on. It goes from key to key, since that is what these levels are about. The keys are few, so that a
//! token has room for what the session has seen of all of them: what a write takes the place of is then the same to the
//! store and to the judge. A session whose write stays unknown begins anew, as its process number in the history does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::gateway::{Action, GatewayClient, Reply, Request};
use stdx::Prng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use wire::http::Level;

use crate::conduct::{self, Conduct, Place, Plain, conduct, unsampled};
use crate::level_ticks::{self, LevelRecord, LevelTicks};
use crate::merges::{Merges, MergesRun};
use crate::recorder::{Finding, Recorder};
use crate::run::join;
use crate::traffic::Pace;
use crate::workload::Ask;

/// The levels, each with clients and keys of its own.
pub const LEVELS: [Level; 3] = [Level::Sequential, Level::Causal, Level::Eventual];
/// Those at which replicas may differ until everything has settled.
pub(crate) const UNORDERED: [Level; 2] = [Level::Causal, Level::Eventual];
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
    /// Requests a second on sets and counters, all together. Default 16; 0 leaves them out.
    pub merge_rate: u32,
    /// How long a client waits for an answer. Default 1 s.
    pub deadline: Duration,
    /// What every key's name begins with: another one for each run, for what an earlier run left was written by nobody
    /// that this run's judge knows.
    pub prefix: String,
}

impl Default for LevelsConfig {
    fn default() -> LevelsConfig {
        let deadline = Duration::from_secs(1);
        LevelsConfig { clients: 4, rate: 40, merge_rate: 16, deadline, prefix: String::new() }
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
    merges: Option<MergesRun>,
}

/// What is left of them when they have ended.
pub struct LevelsEnded {
    config: LevelsConfig,
    merges: Option<Merges>,
    /// What the loops saw, by level.
    pub record: BTreeMap<Level, LevelRecord>,
    /// Keys that could not be read at the end.
    pub unread: Vec<String>,
}

impl Levels {
    /// Starts them, in tasks of their own; they run until `stop` becomes true. `merges` are the sets and counters,
    /// whose buckets are there already.
    pub fn start(
        recorder: &Arc<Recorder>,
        client: &GatewayClient,
        config: LevelsConfig,
        merges: Option<Merges>,
        mut prng: Prng,
        stop: &watch::Receiver<bool>,
    ) -> Levels {
        let ticks = Arc::new(LevelTicks::default());
        let (prefix, deadline) = (config.prefix.clone(), config.deadline);
        let (counted, heard) = (Arc::clone(&ticks), Arc::clone(recorder));
        let ticking = tokio::spawn(level_ticks::run(counted, heard, client.clone(), prefix, deadline, stop.clone()));
        let merges = merges.map(|merges| merges.start(recorder, client, prng.fork(), stop));
        let traffic = run(Arc::clone(recorder), client.clone(), config.clone(), prng, stop.clone());
        Levels { config, ticks, traffic: tokio::spawn(traffic), ticking, merges }
    }

    /// What the loops see, as they see it.
    pub fn ticks(&self) -> Arc<LevelTicks> {
        Arc::clone(&self.ticks)
    }

    /// Waits until they have stopped, and makes the final reads of what has to settle first.
    pub async fn end(self, recorder: &Recorder, client: &GatewayClient) -> LevelsEnded {
        let Levels { config, ticks, traffic, ticking, merges } = self;
        join(traffic).await;
        join(ticking).await;
        let merges = match merges {
            Some(merges) => Some(merges.ended().await),
            None => None,
        };
        let unread = final_reads(recorder, client, &config, merges.as_ref()).await;
        LevelsEnded { config, merges, record: ticks.record(), unread }
    }
}

impl LevelsEnded {
    /// Deletes the run's keys, so that one run after another does not fill the fleet. Nobody depends on it.
    pub async fn clear(&self, client: &GatewayClient) {
        let delete = |level, key: &str| request(level, Action::Delete, key, self.config.deadline);
        let keys = LEVELS.into_iter().flat_map(keys).map(|(level, at)| delete(level, &self.config.key(level, at)));
        for request in keys.chain(self.merges.iter().flat_map(Merges::deletions)) {
            if let Reply::Failed(failure) | Reply::Unknown(failure) = client.send(&request).await {
                tracing::warn!(code = failure.code, "a key of the run was left in the bucket {}", request.bucket);
            }
        }
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
            Finding::Shown(_) | Finding::Held(Some(_)) | Finding::Applied => {
                self.seen.insert(key);
            }
            // The session ends.
            Finding::Unknown => self.seen.clear(),
            Finding::Held(None) | Finding::Number(_) | Finding::NotApplied | Finding::FencedOff | Finding::Failed => {}
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
        let mut pace = Pace::after(Duration::ZERO, every);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = pace.next() => {}
            }
            if self.recorder.is_full() {
                return;
            }
            process = self.ask_once(process).await;
        }
    }

    async fn ask_once(&mut self, process: u64) -> u64 {
        let (at, ask) = self.source.next();
        let key = self.config.key(self.level, at);
        let place = Place::of(self.level, self.token.as_deref());
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
async fn final_reads(
    recorder: &Recorder,
    client: &GatewayClient,
    config: &LevelsConfig,
    merges: Option<&Merges>,
) -> Vec<String> {
    let of = |(level, at)| (Place::of(level, None), config.key(level, at));
    let registers = UNORDERED.into_iter().flat_map(keys).map(of);
    let keys: Vec<(Place<'static>, String)> = registers.chain(merges.into_iter().flat_map(Merges::keys)).collect();
    let until = Instant::now() + SETTLE_MAX;
    while !have_settled(client, &keys).await && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    recorder.fault(checker::SETTLED, Default::default());
    let mut unread = Vec::new();
    for (place, key) in &keys {
        for read in 0..FINAL_READS {
            if !read_once(recorder, &client.preferring(read), *place, key).await {
                unread.push(format!("{}/{key}", place.bucket));
            }
        }
    }
    unread.dedup();
    unread
}

fn keys(level: Level) -> impl Iterator<Item = (Level, usize)> {
    (0..KEYS).map(move |at| (level, at))
}

/// Whether two looks in a row at each key, at the two levels, show the same.
async fn have_settled(client: &GatewayClient, keys: &[(Place<'static>, String)]) -> bool {
    for (place, key) in keys {
        let mut shown = Vec::new();
        for look in UNORDERED {
            let mut request = request(look, Action::Get, key, FINAL_DEADLINE);
            place.bucket.clone_into(&mut request.bucket);
            match client.send(&request).await {
                Reply::Ok(answer) => shown.push((answer.seen, conduct::identity(place.values, answer))),
                Reply::Failed(_) | Reply::Unknown(_) => return false,
            }
        }
        if shown[0] != shown[1] {
            return false;
        }
    }
    true
}

async fn read_once(recorder: &Recorder, client: &GatewayClient, place: Place<'_>, key: &str) -> bool {
    let mut process = recorder.new_process();
    for _ in 0..FINAL_TRIES {
        let (ask, deadline) = (&Ask::Read, FINAL_DEADLINE);
        let what = Conduct { process, key, ask, body: None, fence: None, deadline, place };
        let done = conduct(recorder, client, &Plain, what).await;
        if matches!(done.finding, Finding::Shown(_) | Finding::Number(_)) {
            return true;
        }
        process = done.process;
    }
    false
}

/// A request outside the history, on a register in the bucket that keeps the level.
pub(crate) fn request(level: Level, action: Action, key: &str, deadline: Duration) -> Request {
    let is_read = action == Action::Get;
    let mut request = unsampled(action, key, Default::default(), deadline);
    Place::of(level, None).bucket.clone_into(&mut request.bucket);
    request.level = conduct::named(level, is_read);
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
                Ask::Read | Ask::Cas { .. } | Ask::Insert(_) | Ask::Add(_) => {}
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
