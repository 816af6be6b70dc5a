use std::fmt;
use std::time::Duration;

use stdx::Prng;

use super::Asking;
use crate::clock::Timing;

/// The mix of faults and load of one run over available keys, drawn from its seed.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Storage nodes.
    pub nodes: usize,
    /// Tokens a node holds.
    pub tokens: usize,
    /// Sessions, each with one operation at a time.
    pub clients: usize,
    /// Keys of each merge type and level: values, last-writer values, counters, sets; causal, then eventual.
    pub keys: [[usize; 4]; 2],
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
    /// How long messages are under way at most where they go the long way, and at least half of that; none where there
    /// is no long way.
    pub far: Option<Duration>,
    /// The longest sync of a disk.
    pub sync_max: Duration,
    /// The mean time between crashes; none for no crashes.
    pub crash_every: Option<Duration>,
    /// How long a crashed node stays away at most.
    pub downtime_max: Duration,
    /// The mean time between pauses; none for no pauses.
    pub pause_every: Option<Duration>,
    /// The mean time between partitions; none for no partitions.
    pub partition_every: Option<Duration>,
    /// Whether partitions may cut one way only.
    pub one_way: bool,
    /// The mean time until the whole fleet loses power at once; none for never.
    pub power_cut_every: Option<Duration>,
    /// The mean time between losses of a disk; none for never. The node comes back empty.
    pub lose_disk_every: Option<Duration>,
    /// The mean time between disks filling up; none for never.
    pub fill_every: Option<Duration>,
    /// How far nodes' and clients' wall clocks are off at most.
    pub skew_max: Duration,
    /// Whether broken connections are noticed; else only silence tells.
    pub resets: bool,
    /// How long a client waits for a silent node before it asks the next as well.
    pub hedge: Duration,
    /// One in so many eventual writes is sent to a node that is no home of the key.
    pub stand_in_one_in: u64,
    /// One in so many writes of values names what it has seen.
    pub context_one_in: u64,
    /// One in so many operations on values is a deletion.
    pub delete_one_in: u64,
    /// How often each pair of nodes compares all.
    pub pass_every: Duration,
    /// How long a client waits for an operation.
    pub patience: Duration,
    /// How long a client thinks between two operations at most.
    pub think_max: Duration,
    /// How long requests are remembered, in milliseconds: longer than a client retries, with all clocks off the worst
    /// way.
    pub memory_ms: u64,
    /// Whether nodes that are no home of a key take eventual writes of it.
    pub stand_ins: bool,
    /// The longest partition.
    pub partition_max: Duration,
    /// The mean time between changes of membership; none for never.
    pub changes_every: Option<Duration>,
    /// After one in so many operations, a client is another one; none for never.
    pub renew_one_in: Option<u64>,
    /// What a node may move beside requests, in bytes a second; none for its default.
    pub copy_rate: Option<u64>,
    /// What becomes of a session that was left without an answer to a write. No mix draws it.
    pub asking: Asking,
    /// What is made denser.
    pub theme: Theme,
    /// How wrong clocks are, and how uneven disks.
    pub timing: Timing,
    /// What becomes of disks and logs, besides.
    pub disks: Disks,
}

/// What becomes of disks and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disks {
    /// The size of the log's segments, in bytes.
    pub segment_bytes: u64,
    /// How often a node looks whether its log is worth cleaning; none for never.
    pub clean_every: Option<Duration>,
    /// Whether processes are also killed without their machine, and the power fails within whatever a disk does.
    pub rough: bool,
    /// Whether records of the other contract stand in the log as well.
    pub shared_log: bool,
    /// The mean time between failing syncs; none for disks that never fail so.
    pub sync_failure_every: Option<Duration>,
    /// The mean time between bits that flip in what a disk holds; none for disks that spoil nothing.
    pub rot_every: Option<Duration>,
    /// How often a node reads some of its log again.
    pub scrub_every: Duration,
    /// The mean time between disks that begin to lie about their syncs; none for disks that never do.
    pub lies_every: Option<Duration>,
    /// Whether a log that is shorter than discovery was told is taken for whole: a planted bug. No mix draws it.
    pub trusts_shorter: bool,
}

impl Disks {
    /// Those that only lose what was not synced.
    const PLAIN: Disks = Disks {
        segment_bytes: 64 * 1024,
        clean_every: None,
        rough: false,
        shared_log: false,
        sync_failure_every: None,
        rot_every: None,
        scrub_every: Duration::ZERO,
        lies_every: None,
        trusts_shorter: false,
    };
}

/// What a run is about, beyond what it draws: some harm needs more of one thing than a mix of all has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Nothing.
    Plain,
    /// So many keys that ranges are compared part by part, while disks are lost.
    Crowded,
    /// Requests are soon forgotten, so that tombstones go away while messages of what they bury are under way.
    Hasty,
    /// Nodes that do not hear each other for long, few keys, and clients that ask everywhere at once.
    Torn,
    /// Nodes join and leave.
    Moving,
    /// Nodes join and leave, and others take the places of those whose disks are lost.
    Replaced,
    /// Nothing is written to disks: who restarts is empty. Now and then nodes join and leave.
    Volatile,
    /// Many nodes that share few arcs, so that clocks are far apart; nodes that are away for a moment only, and clients
    /// that have seen little when they meet them.
    Wide,
    /// Nodes join and leave while the network is cut, so that the old and the new homes do not hear each other.
    Rift,
    /// Nodes join and leave and copy slowly, so that they, and those they copy from, are killed in the middle of it,
    /// and changes are given up and begun anew. No pass is due by itself: nothing may rest on that.
    Slow,
    /// Disks say that they have synced, and have not; who has lost something is replaced. Nodes join and leave, too.
    Lying,
    /// Answers are late, and few keys are written everywhere at once: what was asked is asked again while what it is
    /// about changes.
    Late,
}

impl Theme {
    /// The theme of a seed: 13 of 128 are plain.
    pub fn of(seed: u64) -> Theme {
        // Seeds that once found something keep the theme that they had then: hence the odd choice.
        match (seed % 16, seed / 16 % 2) {
            (14, 0) | (11, 1) => return Theme::Wide,
            (7, 1) => return Theme::Rift,
            (0, 0) => return Theme::Slow,
            (0, 1) if (seed / 32).is_multiple_of(2) => return Theme::Lying,
            (0, 1) if seed % 128 == 48 => return Theme::Late,
            _ => {}
        }
        match seed % 16 {
            1 | 9 => Theme::Crowded,
            2 | 5 | 10 | 13 => Theme::Hasty,
            4 | 12 => Theme::Torn,
            3 | 15 => Theme::Moving,
            6 => Theme::Replaced,
            8 => Theme::Volatile,
            _ => Theme::Plain,
        }
    }
}

/// How long messages are under way at most where they go the long way: much longer than sessions of a litmus test take
/// that ask one home alone.
const FAR: Duration = Duration::from_millis(400);

/// Where the homes and the sessions of a litmus test are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// In one place.
    Together,
    /// Homes are told at very different times: many messages are late by much more than an operation takes.
    Apart,
    /// Of three homes two are far from each other, one way or both, and near the third. Each session is near one of the
    /// two, and asks that one first. So for a while each knows what the other does not.
    Far,
}

impl Places {
    /// Those of a seed.
    pub fn of(seed: u64) -> Places {
        match seed % 4 {
            0 | 2 => Places::Apart,
            1 => Places::Far,
            _ => Places::Together,
        }
    }
}

/// Away so shortly that what was under way to the node before still arrives.
const DOWNTIME_SHORT: Duration = Duration::from_millis(4);

/// How far wall clocks are off at most where nothing rests on them: twice the time for which requests are remembered in
/// production.
const SKEW_FAR_MAX_MS: u64 = 1_200_000;

/// A mean time of at least `least` milliseconds and less than `more` beyond that.
fn every(prng: &mut Prng, least: u64, more: u64) -> Option<Duration> {
    Some(Duration::from_millis(least + prng.below(more)))
}

impl Swarm {
    /// Draws a mix.
    pub fn draw(prng: &mut Prng) -> Swarm {
        let mut sometimes = |one_in: u64, mean_ms: std::ops::Range<u64>| {
            let mean = mean_ms.start + prng.below(mean_ms.end - mean_ms.start);
            prng.one_in(one_in).then(|| Duration::from_millis(mean))
        };
        let crash_every = sometimes(2, 80..1_500);
        let pause_every = sometimes(3, 100..1_000);
        let partition_every = sometimes(2, 100..1_000);
        let power_cut_every = sometimes(6, 300..2_000);
        let lose_disk_every = sometimes(3, 200..1_200);
        let fill_every = sometimes(6, 100..1_000);
        let lossy = |prng: &mut Prng, worst: f64| if prng.one_in(2) { prng.unit() * worst } else { 0.0 };
        let mut keys = [[0; 4]; 2];
        for level in &mut keys {
            for (kind, count) in level.iter_mut().enumerate() {
                *count = if kind == 0 { 1 + prng.index(4) } else { prng.index(2) };
            }
        }
        if lose_disk_every.is_some() {
            // What only one node had acknowledged goes with its disk.
            keys[1] = [0; 4];
        }
        Swarm {
            nodes: 4 + prng.index(2),
            tokens: 1 + prng.index(2),
            clients: 3 + prng.index(5),
            keys,
            operations: 160 + prng.index(80),
            loss: lossy(prng, 0.15),
            duplication: lossy(prng, 0.15),
            straggling: lossy(prng, 0.10),
            straggle_max: Duration::from_millis(20 + prng.below(1_500)),
            delay_max: Duration::from_micros(300 + prng.below(6_000)),
            sync_max: Duration::from_micros(200 + prng.below(8_000)),
            far: None,
            crash_every,
            downtime_max: if prng.one_in(3) { DOWNTIME_SHORT } else { Duration::from_millis(20 + prng.below(600)) },
            pause_every,
            partition_every,
            one_way: prng.one_in(2),
            power_cut_every,
            lose_disk_every,
            fill_every,
            skew_max: Duration::from_millis(prng.below(800)),
            resets: !prng.one_in(3),
            hedge: Duration::from_millis(5 + prng.below(60)),
            stand_in_one_in: 2 + prng.below(8),
            context_one_in: 1 + prng.below(2),
            delete_one_in: 3 + prng.below(6),
            pass_every: Duration::from_millis(if prng.one_in(2) { 100 + prng.below(900) } else { 30_000 }),
            patience: Duration::from_millis(1_500),
            think_max: Duration::from_millis(3),
            memory_ms: 4_000,
            stand_ins: true,
            partition_max: Duration::from_millis(1_500),
            changes_every: None,
            renew_one_in: None,
            copy_rate: None,
            asking: Asking::Never,
            theme: Theme::Plain,
            timing: Timing::default(),
            disks: Disks::PLAIN,
        }
    }

    /// Makes the theme's things denser.
    pub fn take_theme(&mut self, theme: Theme, prng: &mut Prng) {
        self.theme = theme;
        match theme {
            Theme::Plain => {}
            Theme::Crowded => {
                self.keys = [[100 + prng.index(200), 1, 1, 1], [0; 4]];
                self.operations = 500;
                self.lose_disk_every = every(prng, 100, 400);
            }
            Theme::Hasty => {
                // A client's patience and all clocks' errors together are shorter than the memory. A hint may
                // lie longer
                // than that.
                self.patience = Duration::from_millis(150);
                self.memory_ms = 300;
                self.skew_max = self.skew_max.min(Duration::from_millis(20));
                self.stand_ins = false;
                (self.lose_disk_every, self.delete_one_in) = (None, 2);
                self.think_max = Duration::from_millis(100);
                self.straggling = self.straggling.max(0.05);
                self.partition_every = self.partition_every.or(every(prng, 100, 400));
            }
            Theme::Torn => {
                self.clients = 8;
                self.hedge = Duration::from_millis(5);
                self.keys = [[1, 1, 0, 0], [1, 1, 0, 0]];
                self.lose_disk_every = None;
                self.loss = self.loss.max(0.1);
                self.partition_every = every(prng, 30, 100);
                self.partition_max = Duration::from_millis(600);
            }
            Theme::Moving | Theme::Replaced => {
                self.changes_every = every(prng, 50, 500);
                self.crash_every = self.crash_every.or(every(prng, 200, 1_000));
                self.pass_every = Duration::from_secs(30);
                self.operations = 400;
                self.think_max = Duration::from_millis(20);
                self.lose_disk_every = None;
                if theme == Theme::Replaced {
                    self.lose_disk_every = every(prng, 150, 500);
                    self.keys[1] = [0; 4];
                }
            }
            Theme::Volatile => {
                self.changes_every = if prng.one_in(2) { every(prng, 200, 800) } else { None };
                self.crash_every = every(prng, 40, 200);
                self.downtime_max = Duration::from_millis(20 + prng.below(200));
                (self.power_cut_every, self.lose_disk_every, self.fill_every) = (None, None, None);
                self.operations = 400;
                // What only one node had acknowledged goes with its memory.
                self.keys[1] = [0; 4];
            }
            Theme::Wide => self.take_wide(prng),
            Theme::Rift => self.take_rift(prng),
            Theme::Slow => self.take_slow(prng),
            Theme::Lying => self.take_lying(prng),
            Theme::Late => self.take_late(prng),
        }
    }

    /// Draws what becomes of disks. They spoil nothing where whole disks are lost: two homes of a key would be.
    pub fn take_disks(&mut self, prng: &mut Prng) {
        if self.theme == Theme::Volatile {
            return;
        }
        let drawn = [32, 64, 128][prng.index(3)];
        // A key that all write holds the memory of many requests.
        let segment_bytes = if self.theme == Theme::Late { 128 } else { drawn } * 1024;
        let clean_every = Some(Duration::from_millis(10 + prng.below(90))).filter(|_| prng.one_in(2));
        let sync_failure_every = every(prng, 200, 1_800).filter(|_| prng.one_in(6));
        let (rough, shared_log) = (prng.one_in(2), prng.one_in(2));
        let rot_every = every(prng, 20, 300).filter(|_| prng.one_in(3) && self.lose_disk_every.is_none());
        let scrub_every = Duration::from_millis(2 + prng.below(60));
        let lies_every = if self.theme == Theme::Lying { every(prng, 50, 250) } else { None };
        // One replica at a time forgets something.
        let rot_every = rot_every.filter(|_| lies_every.is_none());
        self.disks = Disks {
            segment_bytes,
            clean_every,
            rough,
            shared_log,
            sync_failure_every,
            rot_every,
            scrub_every,
            lies_every,
            trusts_shorter: false,
        };
        if rot_every.is_some() {
            // What only one node had acknowledged goes with its disk.
            self.keys[1] = [0; 4];
        }
    }

    /// Takes the timing of a seed over. How far wall clocks may be apart is what two promises rest on: that a tombstone
    /// goes no sooner than the requests which it remembers, and that hints are of late. Where there are neither, they
    /// may be apart by any length.
    pub fn take_timing(&mut self, timing: Timing, prng: &mut Prng) {
        self.timing = timing;
        if timing.jump_every.is_some() && prng.one_in(4) {
            self.skew_max = Duration::from_millis(prng.below(SKEW_FAR_MAX_MS));
            (self.stand_ins, self.delete_one_in) = (false, u64::MAX);
        }
    }

    fn take_wide(&mut self, prng: &mut Prng) {
        (self.nodes, self.tokens, self.clients) = (8, 1, 8);
        self.keys = [[2, 4, 2, 1], [0; 4]];
        self.operations = 400;
        (self.renew_one_in, self.context_one_in) = (Some(2), 4);
        self.crash_every = every(prng, 10, 60);
        self.downtime_max = DOWNTIME_SHORT;
        (self.power_cut_every, self.lose_disk_every, self.fill_every) = (None, None, None);
        self.resets = false;
    }

    fn take_rift(&mut self, prng: &mut Prng) {
        self.clients = 8;
        self.hedge = Duration::from_millis(10);
        self.keys = [[2, 1, 1, 1], [0; 4]];
        self.operations = 500;
        self.changes_every = every(prng, 50, 300);
        self.partition_every = every(prng, 30, 150);
        self.partition_max = Duration::from_millis(400);
        self.lose_disk_every = None;
    }

    fn take_lying(&mut self, prng: &mut Prng) {
        self.changes_every = every(prng, 100, 800).filter(|_| prng.one_in(2));
        self.crash_every = self.crash_every.or(every(prng, 200, 1_000));
        self.operations = 400;
        self.think_max = Duration::from_millis(20);
        self.lose_disk_every = None;
        // What only one node had acknowledged goes with its disk.
        self.keys[1] = [0; 4];
    }

    fn take_late(&mut self, prng: &mut Prng) {
        (self.clients, self.hedge) = (8, Duration::from_millis(5));
        self.keys = [[1, 0, 0, 0], [0; 4]];
        self.operations = 400;
        (self.loss, self.straggling) = (0.05, 0.6);
        self.straggle_max = Duration::from_millis(100 + prng.below(300));
        (self.crash_every, self.pause_every) = (None, None);
        self.partition_every = every(prng, 40, 80);
        self.partition_max = Duration::from_millis(250);
        (self.power_cut_every, self.lose_disk_every, self.fill_every) = (None, None, None);
    }

    fn take_slow(&mut self, prng: &mut Prng) {
        self.changes_every = every(prng, 30, 200);
        self.crash_every = every(prng, 50, 250);
        self.downtime_max = Duration::from_millis(20 + prng.below(200));
        self.pass_every = Duration::from_secs(600);
        self.copy_rate = Some(60_000 + prng.below(400_000));
        self.keys = [[20 + prng.index(40), 1, 1, 1], [2, 1, 0, 0]];
        self.operations = 400;
        self.think_max = Duration::from_millis(40);
        (self.power_cut_every, self.lose_disk_every, self.fill_every) = (None, None, None);
    }

    /// The load of a litmus test: its sessions, and fresh keys of single values for every round.
    pub fn run_litmus(&mut self, sessions: usize, level: usize, places: Places) {
        self.clients = sessions;
        if level == 1 && self.theme == Theme::Volatile {
            // What only one node had acknowledged would go with its memory, and not break the level.
            self.theme = Theme::Plain;
        }
        self.keys = [[0; 4]; 2];
        self.keys[level][0] = crate::litmus::ROUNDS * crate::litmus::VARIABLES;
        self.tokens = 1;
        self.loss = self.loss.max(0.05);
        self.straggling = self.straggling.max(0.05);
        match places {
            Places::Together => {}
            Places::Apart => (self.straggling, self.straggle_max) = (0.4, Duration::from_millis(400)),
            Places::Far => (self.nodes, self.far) = (3, Some(FAR)),
        }
        (self.lose_disk_every, self.fill_every, self.changes_every) = (None, None, None);
        (self.disks.rot_every, self.disks.lies_every) = (None, None);
        self.context_one_in = 1;
    }
}

/// The block that is printed with the seed.
impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let every = |mean: &Option<Duration>| mean.map_or("never".to_owned(), |mean| format!("every {mean:?}"));
        writeln!(f, "nodes={} tokens={} keys={:?}", self.nodes, self.tokens, self.keys)?;
        writeln!(f, "clients={} operations={} hedge={:?}", self.clients, self.operations, self.hedge)?;
        writeln!(f, "loss={:.3} duplication={:.3}", self.loss, self.duplication)?;
        writeln!(f, "straggling={:.3} up to {:?}", self.straggling, self.straggle_max)?;
        writeln!(f, "delay_max={:?} sync_max={:?} skew_max={:?}", self.delay_max, self.sync_max, self.skew_max)?;
        writeln!(f, "the long way takes {:?}", self.far)?;
        writeln!(f, "crash {} (away up to {:?})", every(&self.crash_every), self.downtime_max)?;
        writeln!(f, "pause {}, power cut {}", every(&self.pause_every), every(&self.power_cut_every))?;
        writeln!(f, "partition {} one_way={}", every(&self.partition_every), self.one_way)?;
        writeln!(f, "lost disk {}, full disk {}", every(&self.lose_disk_every), every(&self.fill_every))?;
        writeln!(f, "resets={} stand-ins 1 in {}", self.resets, self.stand_in_one_in)?;
        writeln!(f, "contexts 1 in {}, deletions 1 in {}", self.context_one_in, self.delete_one_in)?;
        writeln!(f, "passes every {:?}, patience {:?}, memory {} ms", self.pass_every, self.patience, self.memory_ms)?;
        writeln!(f, "changes {}, another client 1 in {:?}", every(&self.changes_every), self.renew_one_in)?;
        writeln!(f, "copies at {:?} bytes a second", self.copy_rate)?;
        writeln!(f, "theme {:?}, thinking up to {:?}, stand-ins {}", self.theme, self.think_max, self.stand_ins)?;
        let Disks { segment_bytes, clean_every, rough, shared_log, .. } = self.disks;
        writeln!(f, "segments of {segment_bytes}, cleaned {}", every(&clean_every))?;
        writeln!(f, "rough={rough} shared_log={shared_log}")?;
        let Disks { sync_failure_every, rot_every, scrub_every, lies_every, .. } = self.disks;
        writeln!(f, "failing sync {}, rot {}", every(&sync_failure_every), every(&rot_every))?;
        writeln!(f, "scrubbing every {scrub_every:?}, lost syncs {}", every(&lies_every))?;
        writeln!(f, "{}", self.timing)
    }
}
