use std::fmt;
use std::time::Duration;

use stdx::Prng;

/// The mix of faults and load of one run, drawn from its seed.
///
/// Drawing the mix too ("swarm testing", Groce and others, ISSTA 2012) finds more than one mix that has a little of
/// everything: some bugs need a fault to be *absent*.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Storage nodes.
    pub nodes: usize,
    /// Tokens a node holds.
    pub tokens: usize,
    /// Clients, each with one operation at a time.
    pub clients: usize,
    /// Keys that they share.
    pub keys: usize,
    /// Operations in all.
    pub operations: usize,
    /// The share of messages that are lost, 0 to 1.
    pub loss: f64,
    /// The share that are delivered twice.
    pub duplication: f64,
    /// The share that are held up for long, and so overtaken.
    pub straggling: f64,
    /// The longest ordinary delay.
    pub delay_max: Duration,
    /// The longest sync of a disk.
    pub sync_max: Duration,
    /// The mean time between crashes; none for no crashes.
    pub crash_every: Option<Duration>,
    /// How long a crashed node stays away at most.
    pub downtime_max: Duration,
    /// The mean time between pauses (as by SIGSTOP); none for no pauses.
    pub pause_every: Option<Duration>,
    /// The mean time between partitions; none for no partitions.
    pub partition_every: Option<Duration>,
    /// Whether partitions may cut one way only.
    pub one_way: bool,
    /// The mean time until the whole fleet loses power at once; none for never.
    pub power_cut_every: Option<Duration>,
    /// Whether one node loses its disk for good.
    pub lose_disk: bool,
    /// How impatient clients are: when they ask the next replica as well.
    pub hedge: Duration,
}

impl Swarm {
    /// Draws a mix.
    pub fn draw(prng: &mut Prng) -> Swarm {
        let mut sometimes = |one_in: u64, mean_ms: std::ops::Range<u64>| {
            let mean = mean_ms.start + prng.below(mean_ms.end - mean_ms.start);
            prng.one_in(one_in).then(|| Duration::from_millis(mean))
        };
        let crash_every = sometimes(2, 100..1_500);
        let pause_every = sometimes(3, 100..1_000);
        let partition_every = sometimes(3, 150..1_500);
        let power_cut_every = sometimes(6, 800..3_000);
        let lossy = |prng: &mut Prng, worst: f64| if prng.one_in(2) { prng.unit() * worst } else { 0.0 };
        Swarm {
            nodes: 5,
            tokens: 2,
            clients: 3 + prng.index(6),
            keys: 1 + prng.index(6),
            operations: 200 + prng.index(60),
            loss: lossy(prng, 0.10),
            duplication: lossy(prng, 0.10),
            straggling: lossy(prng, 0.05),
            delay_max: Duration::from_micros(300 + prng.below(6_000)),
            sync_max: Duration::from_micros(200 + prng.below(8_000)),
            crash_every,
            downtime_max: Duration::from_millis(20 + prng.below(600)),
            pause_every,
            partition_every,
            one_way: prng.one_in(2),
            power_cut_every,
            lose_disk: prng.one_in(4),
            hedge: Duration::from_millis(5 + prng.below(60)),
        }
    }
}

/// The block that is printed with the seed.
impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let every = |mean: &Option<Duration>| mean.map_or("never".to_owned(), |mean| format!("every {mean:?}"));
        writeln!(f, "nodes={} tokens={} clients={} keys={}", self.nodes, self.tokens, self.clients, self.keys)?;
        writeln!(f, "operations={} hedge={:?}", self.operations, self.hedge)?;
        writeln!(f, "loss={:.3} duplication={:.3} straggling={:.3}", self.loss, self.duplication, self.straggling)?;
        writeln!(f, "delay_max={:?} sync_max={:?}", self.delay_max, self.sync_max)?;
        writeln!(f, "crash {} (away up to {:?})", every(&self.crash_every), self.downtime_max)?;
        writeln!(f, "pause {}, partition {}", every(&self.pause_every), every(&self.partition_every))?;
        writeln!(f, "one_way={} power_cut {} lose_disk={}", self.one_way, every(&self.power_cut_every), self.lose_disk)
    }
}
