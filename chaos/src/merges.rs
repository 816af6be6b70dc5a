//! Traffic on sets and counters: sessions that add to a few of them and read them, at levels causal and eventual, in
//! available buckets of those types. What must hold of the answers, and of what is read at the end, is for the checker
//! to say: every acknowledged element is there, and every number is the sum of what was added.
//!
//! A set takes so many elements and is then left for the next one, so that its reads stay small; reads go back to the
//! one before, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::gateway::{Action, AskError, GatewayClient, Request};
use stdx::Prng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use wire::http::{BucketDefinition, Contract, Level, ValueType};

use crate::conduct::{Conduct, Place, Plain, conduct, unsampled};
use crate::history_file::Values;
use crate::levels::{LevelsConfig, UNORDERED};
use crate::recorder::{Finding, Recorder};
use crate::run::join;
use crate::traffic::Pace;
use crate::workload::Ask;

/// The kinds, and the bucket of each. The buckets are made if they are not there, and stay.
pub const KINDS: [(Values, &str); 2] = [(Values::Sets, "verified-sets"), (Values::Counters, "verified-counters")];
/// Clients of each kind at each level.
const CLIENTS: usize = 2;
/// Counters of each level.
const COUNTERS: usize = 2;
/// Elements that a set takes before the next one begins.
const ELEMENTS_MAX: usize = 48;
/// How long the making of a bucket may take.
const MAKING_MAX: Duration = Duration::from_secs(10);

/// Makes the buckets, if they are not there already.
///
/// # Errors
/// They cannot be made.
pub async fn make_buckets(client: &GatewayClient) -> Result<(), AskError> {
    for (values, bucket) in KINDS {
        let value_type = if values == Values::Sets { ValueType::Set } else { ValueType::Counter };
        let definition = BucketDefinition { contract: Contract::Available, value_type, ..BucketDefinition::default() };
        client.make_bucket(bucket, &definition, MAKING_MAX).await?;
    }
    Ok(())
}

/// The sets and counters of a run.
#[derive(Clone, Debug)]
pub struct Merges {
    config: LevelsConfig,
    /// Elements that were sent so far, by level.
    sent: Arc<[AtomicUsize; UNORDERED.len()]>,
}

/// Their clients as they run.
pub struct MergesRun {
    merges: Merges,
    traffic: JoinHandle<()>,
}

impl Merges {
    /// The sets and counters of a run, whose buckets are there.
    pub fn new(config: &LevelsConfig) -> Merges {
        Merges { config: config.clone(), sent: Arc::default() }
    }

    /// Starts the clients, in a task of their own; they run until `stop` becomes true.
    pub fn start(
        self,
        recorder: &Arc<Recorder>,
        client: &GatewayClient,
        mut prng: Prng,
        stop: &watch::Receiver<bool>,
    ) -> MergesRun {
        let mut clients = JoinSet::new();
        for (values, bucket) in KINDS {
            for (at, level) in UNORDERED.into_iter().enumerate() {
                for number in 0..CLIENTS {
                    let one = Client {
                        recorder: Arc::clone(recorder),
                        gateway: client.preferring(number),
                        merges: self.clone(),
                        place: Place { bucket, values, ..Place::of(level, None) },
                        level_at: at,
                        name: format!("{}{number}", level.name()),
                        prng: prng.fork(),
                        written: 0,
                        token: None,
                    };
                    clients.spawn(one.run(stop.clone()));
                }
            }
        }
        let traffic = tokio::spawn(async move { while clients.join_next().await.is_some() {} });
        MergesRun { merges: self, traffic }
    }

    /// Every set and counter that the run has used.
    pub fn keys(&self) -> impl Iterator<Item = (Place<'static>, String)> + '_ {
        KINDS.into_iter().flat_map(move |(values, bucket)| {
            UNORDERED.into_iter().enumerate().flat_map(move |(at, level)| {
                let place = Place { bucket, values, ..Place::of(level, None) };
                (0..self.used(values, at)).map(move |number| (place, self.key(values, level, number)))
            })
        })
    }

    /// What deletes them.
    pub fn deletions(&self) -> impl Iterator<Item = Request> + '_ {
        self.keys().map(|(place, key)| {
            let mut request = unsampled(Action::Delete, &key, Default::default(), self.config.deadline);
            place.bucket.clone_into(&mut request.bucket);
            request
        })
    }

    fn key(&self, values: Values, level: Level, number: usize) -> String {
        format!("{}{}-{}{number}", self.config.prefix, values.name(), level.name())
    }

    /// How many are in use at a level.
    fn used(&self, values: Values, level_at: usize) -> usize {
        match values {
            Values::Sets => self.sent[level_at].load(Ordering::Relaxed) / ELEMENTS_MAX + 1,
            Values::Registers | Values::Counters => COUNTERS,
        }
    }
}

impl MergesRun {
    /// Waits until all clients have ended; every request that was begun has then ended, too.
    pub async fn ended(self) -> Merges {
        join(self.traffic).await;
        self.merges
    }
}

struct Client {
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    merges: Merges,
    place: Place<'static>,
    level_at: usize,
    name: String,
    prng: Prng,
    written: u64,
    token: Option<String>,
}

impl Client {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut process = self.recorder.new_process();
        let all = (KINDS.len() * UNORDERED.len() * CLIENTS) as u32;
        let every = Duration::from_secs(1) * all / self.merges.config.merge_rate.max(1);
        // They do not ask all at once.
        let mut pace = Pace::after(every.mul_f64(self.prng.unit()), every);
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
        let (number, ask) = self.next();
        let key = self.merges.key(self.place.values, self.place.level, number);
        let place = Place { token: self.token.as_deref(), ..self.place };
        let deadline = self.merges.config.deadline;
        let what = Conduct { process, key: &key, ask: &ask, body: None, fence: None, deadline, place };
        let done = conduct(&self.recorder, &self.gateway, &Plain, what).await;
        self.token = match done.finding {
            // The session ends, as its process number in the history does.
            Finding::Unknown => None,
            _ => done.token.or(self.token.take()),
        };
        done.process
    }

    /// What to ask next, and of which set or counter.
    fn next(&mut self) -> (usize, Ask) {
        let reads = self.prng.below(2) == 0;
        match self.place.values {
            Values::Sets if reads => {
                let newest = self.merges.used(Values::Sets, self.level_at) - 1;
                (newest - (self.prng.index(4) / 3).min(newest), Ask::Read)
            }
            Values::Sets => {
                self.written += 1;
                let before = self.merges.sent[self.level_at].fetch_add(1, Ordering::Relaxed);
                (before / ELEMENTS_MAX, Ask::Insert(format!("{}-{}", self.name, self.written)))
            }
            Values::Registers | Values::Counters if reads => (self.prng.index(COUNTERS), Ask::Read),
            Values::Registers | Values::Counters => {
                let by = 1 + self.prng.below(9);
                (self.prng.index(COUNTERS), Ask::Add(i64::try_from(by).unwrap_or(1)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn client(values: Values, merges: &Merges, number: usize) -> Client {
        Client {
            recorder: Arc::new(Recorder::new(None).expect("no file is needed")),
            gateway: GatewayClient::new(&["127.0.0.1:1"]).expect("an address"),
            merges: merges.clone(),
            place: Place { values, ..Place::of(Level::Causal, None) },
            level_at: 0,
            name: format!("causal{number}"),
            prng: Prng::from_seed(number as u64),
            written: 0,
            token: None,
        }
    }

    #[test]
    fn no_element_is_added_twice_and_no_set_outgrows_its_bound_or_is_forgotten() {
        let merges = Merges::new(&LevelsConfig::default());
        let mut clients = [0, 1].map(|number| client(Values::Sets, &merges, number));
        let (mut elements, mut sizes, mut reads) = (BTreeSet::new(), [0; 40], 0);
        for step in 0..2_000 {
            let (number, ask) = clients[step % 2].next();
            match ask {
                Ask::Insert(element) => {
                    assert!(elements.insert(element), "an element that was added before");
                    sizes[number] += 1;
                }
                Ask::Read => reads += 1,
                other => panic!("{other:?} of a set"),
            }
        }
        assert!(reads > 800 && elements.len() > 800, "{reads} reads, {} elements", elements.len());
        assert!(sizes.iter().all(|size| *size <= ELEMENTS_MAX), "{sizes:?}");
        let used: BTreeSet<String> = merges.keys().map(|(_, key)| key).collect();
        for number in sizes.iter().enumerate().filter(|(_, size)| **size > 0).map(|(number, _)| number) {
            assert!(used.contains(&merges.key(Values::Sets, Level::Causal, number)), "set {number} is never read");
        }
    }

    #[test]
    fn counters_only_grow_and_are_all_read_at_the_end() {
        let merges = Merges::new(&LevelsConfig::default());
        let mut client = client(Values::Counters, &merges, 0);
        let asked: BTreeSet<usize> = (0..200)
            .map(|_| client.next())
            .map(|(number, ask)| {
                assert!(matches!(ask, Ask::Read | Ask::Add(1..=9)), "{ask:?}");
                number
            })
            .collect();
        assert_eq!(asked.len(), COUNTERS);
        let counters = merges.keys().filter(|(place, _)| place.values == Values::Counters).count();
        assert_eq!(counters, COUNTERS * UNORDERED.len());
    }
}
