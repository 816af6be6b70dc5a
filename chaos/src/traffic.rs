//! The verifier's traffic: clients that share keys, each one sequential, all of them paced together.

use std::sync::Arc;
use std::time::Duration;

use client::gateway::GatewayClient;
use stdx::Prng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conduct::{Conduct, Place, Plain, conduct};
use crate::recorder::{Finding, Recorder};
use crate::workload::{Ask, Mix, Workload};

/// How much to ask, of what.
#[derive(Clone, Debug)]
pub struct TrafficConfig {
    /// Clients, each with one request at a time. Default 16.
    pub clients: usize,
    /// Keys that they share. Default 64.
    pub keys: usize,
    /// What every key's name begins with, so that two runs against one fleet do not meet.
    pub prefix: String,
    /// Requests a second, all clients together. Default 300: enough to meet every fault, and little enough for the
    /// checker and for a laptop. 0 asks as fast as answers come.
    pub rate: u32,
    /// The shares of the kinds of request.
    pub mix: Mix,
    /// Clients that take locks and write under them, besides the others. Default 4, on two locks at a time: enough for
    /// them to stand in each other's way. 0 leaves locks out.
    pub lock_clients: usize,
    /// How long a client waits for an answer. Default 1 s, as promise P3 has it.
    pub deadline: Duration,
}

impl Default for TrafficConfig {
    fn default() -> TrafficConfig {
        TrafficConfig {
            clients: 16,
            keys: 64,
            prefix: "k".to_owned(),
            rate: 300,
            mix: Mix::default(),
            lock_clients: 4,
            deadline: Duration::from_secs(1),
        }
    }
}

impl TrafficConfig {
    /// The name of a key.
    pub fn key(&self, at: usize) -> String {
        format!("{}{at}", self.prefix)
    }
}

/// Runs all clients until `stop` becomes true; every request that was begun is also ended.
pub async fn run(
    recorder: Arc<Recorder>,
    client: GatewayClient,
    config: TrafficConfig,
    mut prng: Prng,
    stop: watch::Receiver<bool>,
) {
    let mut clients = JoinSet::new();
    for number in 0..config.clients {
        let workload = Workload::new(number as u64, config.keys, config.mix, prng.fork());
        let one = Client {
            recorder: Arc::clone(&recorder),
            // Half of the clients begin at each gateway, so that the death of one is felt and survived.
            gateway: client.preferring(number),
            config: config.clone(),
            workload,
            pace: Pace::shared(config.rate, config.clients, number),
        };
        clients.spawn(one.run(stop.clone()));
    }
    while clients.join_next().await.is_some() {}
}

struct Client {
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    config: TrafficConfig,
    workload: Workload,
    pace: Pace,
}

impl Client {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut process = self.recorder.new_process();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.pace.next() => {}
            }
            if self.recorder.is_full() {
                return;
            }
            process = self.ask_once(process).await;
        }
    }

    async fn ask_once(&mut self, process: u64) -> u64 {
        let (at, ask) = self.workload.next_ask();
        let key = self.config.key(at);
        let (deadline, place) = (self.config.deadline, Place::STRICT);
        let what = Conduct { process, key: &key, ask: &ask, body: None, fence: None, deadline, place };
        let done = conduct(&self.recorder, &self.gateway, &Plain, what).await;
        match (done.finding, ask) {
            (Finding::Held(held), _) => self.workload.saw(at, done.etag, held),
            (Finding::Applied, Ask::Write(new) | Ask::Cas { new, .. }) => {
                self.workload.saw(at, done.etag, Some(new));
            }
            (Finding::Applied, Ask::Delete) => self.workload.saw(at, None, None),
            _ => self.workload.forgot(at),
        }
        done.process
    }
}

/// When a client may ask again: evenly spaced, and without making up for what it missed, so that a slow second is not
/// followed by a burst.
pub(crate) struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// The pace of number `number` among `clients` that together ask `rate` times a second; 0 is as fast as they are
    /// answered.
    pub(crate) fn shared(rate: u32, clients: usize, number: usize) -> Pace {
        let clients = clients.max(1) as u32;
        let interval = match rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) * clients / rate,
        };
        Pace::after(interval * (number as u32) / clients, interval)
    }

    /// A pace that begins so long from now.
    pub(crate) fn after(first: Duration, interval: Duration) -> Pace {
        Pace { interval, next: Instant::now() + first }
    }

    pub(crate) async fn next(&mut self) {
        if self.interval.is_zero() {
            return;
        }
        tokio::time::sleep_until(self.next).await;
        self.next = (self.next + self.interval).max(Instant::now());
    }
}
