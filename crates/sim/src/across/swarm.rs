//! The mix of faults and load of one run, drawn from its seed.

use std::fmt;
use std::time::Duration;

use stdx::Prng;

/// What a run over buckets of both contracts draws.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Storage nodes.
    pub nodes: usize,
    /// Tokens a node holds.
    pub tokens: usize,
    /// Sessions, each with one operation at a time.
    pub clients: usize,
    /// Ordered keys, and available ones.
    pub keys: [usize; 2],
    /// Operations in all.
    pub operations: usize,
    /// The share of messages that are lost, 0 to 1.
    pub loss: f64,
    /// The share of messages between nodes that are delivered twice.
    pub duplication: f64,
    /// The share that are held up for long, and so overtaken.
    pub straggling: f64,
    /// The longest such wait.
    pub straggle_max: Duration,
    /// The longest ordinary delay.
    pub delay_max: Duration,
    /// The longest sync of a disk.
    pub sync_max: Duration,
    /// The mean time between crashes; none for no crashes.
    pub crash_every: Option<Duration>,
    /// How long a crashed node stays away at most.
    pub downtime_max: Duration,
    /// The mean time until the whole fleet loses power at once; none for never.
    pub power_cut_every: Option<Duration>,
    /// The mean time between partitions; none for no partitions.
    pub partition_every: Option<Duration>,
    /// Whether partitions may cut one way only.
    pub one_way: bool,
    /// How long a client waits for a silent node before it asks the next as well.
    pub hedge: Duration,
    /// One in so many reads of ordered keys is strict.
    pub strict_one_in: u64,
    /// After one in so many operations, a client is another one.
    pub renew_one_in: u64,
    /// Bytes that a session's part of a token may take: what does not fit is covered by its bound.
    pub token_bytes_max: usize,
    /// How long a client waits for an operation.
    pub patience: Duration,
    /// How long a client thinks between two operations at most.
    pub think_max: Duration,
    /// The mean time between changes of membership; none for never.
    pub changes_every: Option<Duration>,
    /// The mean time between losses of a node with its disk, which another one replaces; none for never.
    pub lose_disk_every: Option<Duration>,
}

impl Swarm {
    /// Draws a mix.
    pub fn draw(prng: &mut Prng) -> Swarm {
        let mut sometimes = |one_in: u64, mean_ms: std::ops::Range<u64>| {
            let mean = mean_ms.start + prng.below(mean_ms.end - mean_ms.start);
            prng.one_in(one_in).then(|| Duration::from_millis(mean))
        };
        let crash_every = sometimes(2, 60..1_000);
        let power_cut_every = sometimes(8, 300..2_000);
        let partition_every = sometimes(2, 60..600);
        let lossy = |prng: &mut Prng, worst: f64| if prng.one_in(2) { prng.unit() * worst } else { 0.0 };
        Swarm {
            nodes: 3 + prng.index(6),
            tokens: 1 + prng.index(2),
            clients: 3 + prng.index(6),
            keys: [1 + prng.index(3), 1 + prng.index(3)],
            operations: 120 + prng.index(120),
            loss: lossy(prng, 0.15),
            duplication: lossy(prng, 0.15),
            straggling: 0.02 + lossy(prng, 0.15),
            straggle_max: Duration::from_millis(20 + prng.below(400)),
            delay_max: Duration::from_micros(300 + prng.below(6_000)),
            sync_max: Duration::from_micros(200 + prng.below(8_000)),
            crash_every,
            downtime_max: Duration::from_millis(if prng.one_in(2) { 4 } else { 20 + prng.below(400) }),
            power_cut_every,
            partition_every,
            one_way: prng.one_in(2),
            hedge: Duration::from_millis(5 + prng.below(60)),
            strict_one_in: 2 + prng.below(6),
            renew_one_in: 2 + prng.below(12),
            token_bytes_max: if prng.one_in(3) { 24 + prng.index(60) } else { 340 },
            patience: Duration::from_millis(1_500),
            think_max: Duration::from_millis(3),
            changes_every: None,
            lose_disk_every: None,
        }
    }

    /// In one of four seeds nodes join and leave, and the run is long enough for that. In half of these disks are lost,
    /// too.
    pub fn take_changes(&mut self, seed: u64, prng: &mut Prng) {
        if seed % 4 != 2 {
            return;
        }
        self.changes_every = Some(Duration::from_millis(40 + prng.below(400)));
        self.lose_disk_every = Some(Duration::from_millis(100 + prng.below(400))).filter(|_| seed % 8 == 6);
        self.operations = 300;
        self.think_max = Duration::from_millis(20);
    }

    /// The load of a litmus test: its sessions. Messages are late more often, for whoever lags is what it takes.
    pub fn run_litmus(&mut self, sessions: usize) {
        (self.clients, self.keys) = (sessions, [0; 2]);
        self.nodes = self.nodes.min(5);
        self.loss = self.loss.max(0.05);
        self.straggling = self.straggling.max(0.25);
        self.straggle_max = self.straggle_max.max(Duration::from_millis(100));
        self.hedge = self.hedge.min(Duration::from_millis(15));
        self.think_max = Duration::from_millis(12);
        (self.changes_every, self.lose_disk_every) = (None, None);
    }
}

/// The block that is printed with the seed.
impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{self:#?}")
    }
}
