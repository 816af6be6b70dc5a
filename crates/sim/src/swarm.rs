use std::fmt;
use std::time::Duration;

use stdx::Prng;

use crate::clock::Timing;
use crate::ring_host;

/// The mix of faults and load of one run, drawn from its seed.
///
/// Drawing the mix too ("swarm testing", Groce and others, ISSTA 2012) finds more than one mix that has a little of
/// everything: some bugs need a fault to be *absent*.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Storage nodes.
    pub nodes: usize,
    /// Tokens a node holds; each is a member of the ring.
    pub tokens: usize,
    /// How the ring's members behave.
    pub ring: chord::Config,
    /// Clients, each with a gateway of its own and one operation at a time.
    pub clients: usize,
    /// Keys that they write, swap and delete.
    pub registers: usize,
    /// Keys that they add to.
    pub counters: usize,
    /// Keys that they append to.
    pub journals: usize,
    /// Locks that they take, each with a key that is only written under its token.
    pub locks: usize,
    /// Whether some of what they write lives for a time only.
    pub lives: bool,
    /// How far the nodes' clocks are apart at most.
    pub clocks_apart: Duration,
    /// How often a node looks for tombstones that can go; none for never.
    pub collect_every: Option<Duration>,
    /// After so many operations, clients rest for a lull, and what was deleted before becomes old; 0 for never.
    pub lull_after: usize,
    /// How many times as fast as time all wall clocks go: what must be ten minutes old is so within seconds.
    pub wall_speed: u64,
    /// The share of messages between nodes that come a second time, after seconds.
    pub echoes: f64,
    /// Operations in all.
    pub operations: usize,
    /// How long a client pauses between two of them at most.
    pub pause_max: Duration,
    /// The share of messages that are lost, 0 to 1.
    pub loss: f64,
    /// The share of messages between nodes that are delivered twice.
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
    /// The mean time between bits that flip in what a disk holds; none for disks that spoil nothing. Of the nodes
    /// at most one at a time is in trouble by it.
    pub rot_every: Option<Duration>,
    /// How often a node reads some of its log again.
    pub scrub_every: Duration,
    /// The mean time between disks beginning to say that they have synced what the next power cut takes; none for
    /// honest ones.
    pub lies_every: Option<Duration>,
    /// The mean time between failing syncs; none for disks that never fail so.
    pub sync_failure_every: Option<Duration>,
    /// The mean time between disks filling up; none for never.
    pub fill_every: Option<Duration>,
    /// The size of the log's segments, in bytes.
    pub segment_bytes: u64,
    /// How often a node looks whether its log is worth cleaning; none for never.
    pub clean_every: Option<Duration>,
    /// The mean time between changes of membership; none for a fixed ring.
    pub changes_every: Option<Duration>,
    /// Of the changes that are begun, one in so many is abandoned.
    pub abandon_one_in: u64,
    /// How slowly news of a view travels at most.
    pub news_max: Duration,
    /// Whether some lose power as they have just heard of a view, and start in the one before it.
    pub forgetful: bool,
    /// Whether somebody starts a copy of a data directory whose node runs.
    pub twin: bool,
    /// Whether broken connections are noticed; else only silence tells.
    pub resets: bool,
    /// Whether any replica is asked first, so that coordinators compete; else the owner is, mostly.
    pub competing: bool,
    /// How long a gateway waits for a silent replica before it asks the next as well.
    pub hedge: Duration,
    /// Whether clients are sessions with a time, and read at level sequential, too.
    pub sessions: bool,
    /// The one kind of operation that clients do; none for all kinds.
    pub only: Option<Only>,
    /// How wrong clocks are, and how uneven disks.
    pub timing: Timing,
}

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Writes by clients without a session.
    Writes,
    /// Writes by sessions that go from key to key: each must come after what the session has seen.
    SessionWrites,
    /// Reads at level strict by clients without a session.
    StrictReads,
    /// Reads at level sequential.
    SequentialReads,
}

/// How long a lull is: longer than what a register remembers, as its clock has it.
pub(crate) const LULL: Duration = Duration::from_secs(4);
/// How fast clocks go where tombstones are collected: ten minutes are 2.4 s. No request is under way for so long there.
const WALL_SPEED: u64 = 250;

/// How far a node's wall clock is off at most, either way: by so much less than requests are remembered for that no
/// request is under way when it is forgotten.
const APART_MAX_MS: u64 = 540_000;
/// The same where clocks go fast, and so requests are under way for long by them.
const APART_FAST_MAX_MS: u64 = 120_000;
/// How far wall clocks are off at most where a lease is to be worth something.
const APART_LEASES_MAX_MS: u64 = 20;

/// Away so shortly that what was under way to the node before still arrives.
const DOWNTIME_SHORT: Duration = Duration::from_millis(4);

/// Nodes of a fleet in which some have no arc in common.
const LARGE_FLEET: usize = 8;

/// Tells which seeds have disks that lie. Any number would do; with this one, the seeds that once found something go on
/// without, as the schedules that they were.
const LIES_SALT: u64 = 18_315 << 20;

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
        let sync_failure_every = sometimes(8, 200..2_000);
        let fill_every = sometimes(4, 100..1_000);
        let clean_every = sometimes(2, 10..100);
        let changes_every = sometimes(2, 80..700);
        let lossy = |prng: &mut Prng, worst: f64| if prng.one_in(2) { prng.unit() * worst } else { 0.0 };
        let mut swarm = Swarm {
            nodes: 5,
            tokens: 2,
            ring: ring_host::config(2 + prng.index(3)),
            clients: 3 + prng.index(6),
            registers: 1 + prng.index(4),
            counters: prng.index(2),
            journals: prng.index(2),
            operations: 200 + prng.index(60),
            pause_max: Duration::from_millis(4),
            loss: lossy(prng, 0.10),
            duplication: lossy(prng, 0.10),
            straggling: lossy(prng, 0.05),
            delay_max: Duration::from_micros(300 + prng.below(6_000)),
            sync_max: Duration::from_micros(200 + prng.below(8_000)),
            crash_every,
            // Some are back before what was under way has arrived.
            downtime_max: if prng.one_in(3) { DOWNTIME_SHORT } else { Duration::from_millis(20 + prng.below(600)) },
            pause_every,
            partition_every,
            one_way: prng.one_in(2),
            power_cut_every,
            lose_disk: prng.one_in(4),
            rot_every: None,
            scrub_every: Duration::ZERO,
            lies_every: None,
            sync_failure_every,
            fill_every,
            segment_bytes: [32, 64, 128][prng.index(3)] * 1024,
            clean_every,
            changes_every,
            abandon_one_in: 3 + prng.below(10),
            news_max: Duration::from_millis(if prng.one_in(3) { 600 } else { 20 }),
            forgetful: false,
            twin: prng.one_in(6),
            resets: !prng.one_in(3),
            competing: prng.one_in(3),
            hedge: Duration::from_millis(5 + prng.below(60)),
            sessions: prng.one_in(2),
            only: None,
            locks: 0,
            lives: false,
            clocks_apart: Duration::ZERO,
            collect_every: None,
            lull_after: 0,
            wall_speed: 1,
            echoes: 0.0,
            timing: Timing::default(),
        };
        if swarm.sessions {
            swarm.draw_sessions(prng);
        }
        swarm.draw_subject(prng);
        swarm.draw_rot(&mut prng.clone().fork());
        swarm
    }

    /// Some runs have a subject of their own.
    fn draw_subject(&mut self, prng: &mut Prng) {
        if prng.one_in(8) {
            self.make_storm(prng);
        } else if prng.one_in(5) {
            self.make_churn(prng);
        } else if prng.clone().fork().fork().one_in(5) {
            // From a generator of its own, so that other seeds keep the meaning that they had before.
            self.make_graveyard(prng);
        } else if prng.clone().fork().fork().fork().one_in(4) {
            // The same.
            self.make_hearsay(prng);
        } else if !self.sessions {
            self.draw_times(prng);
        }
    }

    /// Disks that spoil what they hold. Not where a whole disk is lost: two replicas of an arc would be. From a
    /// generator of its own, so that seeds keep the meaning that they had before disks could rot.
    fn draw_rot(&mut self, prng: &mut Prng) {
        let every = Duration::from_millis(20 + prng.below(300));
        let scrub_every = Duration::from_millis(2 + prng.below(60));
        if prng.one_in(4) && !self.lose_disk && !self.twin {
            (self.rot_every, self.scrub_every) = (Some(every), scrub_every);
        }
    }

    /// Disks that lose what they said was synced. Only where whoever forgot is replaced, and not where other disks
    /// forget or spoil things: two replicas of an arc would. Half of these fleets are large enough for two at once.
    pub fn draw_lies(&mut self, seed: u64) {
        let mut prng = Prng::from_seed(seed ^ LIES_SALT);
        let every = Duration::from_millis(60 + prng.below(600));
        let is_large = prng.one_in(2);
        let forgets_otherwise = self.lose_disk || self.twin || self.rot_every.is_some();
        if prng.one_in(3) && self.changes_every.is_some() && !forgets_otherwise {
            self.lies_every = Some(every);
            if is_large {
                (self.nodes, self.tokens) = (LARGE_FLEET, 1);
            }
        }
    }

    /// What goes wrong between keys needs some; and any coordinator, so that sessions wander.
    fn draw_sessions(&mut self, prng: &mut Prng) {
        self.registers = 2 + prng.index(3);
        (self.counters, self.journals) = (0, 0);
        self.competing = !prng.one_in(4);
        if prng.one_in(2) {
            // Few arcs and late messages: a write may come to an arc that others have confirmed meanwhile.
            self.tokens = 1;
            self.straggling = self.straggling.max(0.05);
        }
    }

    /// Values that live for a time, locks, and clocks that differ.
    fn draw_times(&mut self, prng: &mut Prng) {
        self.lives = prng.one_in(3);
        if prng.one_in(3) {
            // Leases are judged by one clock: a lock is held for as long as was said.
            self.locks = 1;
        } else if prng.one_in(2) {
            self.clocks_apart = Duration::from_millis(1 + prng.below(300));
        }
    }

    /// Takes the timing of a seed over. How far wall clocks may be apart is what the promises rest on: leases on what
    /// clients allow for, everything else on requests being over before they are forgotten.
    pub(crate) fn take_timing(&mut self, timing: Timing, prng: &mut Prng) {
        self.timing = timing;
        if timing != Timing::default() && self.locks > 0 {
            // Whoever judges locks searches, and what stopped nodes leave unknown as well is more than can be searched
            // through. Runs whose clocks are right have locks and pauses.
            self.pause_every = None;
        }
        if timing.jump_every.is_none() {
            return;
        }
        let apart_max_ms = match (self.locks, self.wall_speed) {
            (0, 1) if prng.one_in(2) => APART_MAX_MS,
            (0, 1) => 2_000,
            (0, _) => APART_FAST_MAX_MS,
            _ => APART_LEASES_MAX_MS,
        };
        self.clocks_apart = Duration::from_millis(1 + prng.below(apart_max_ms));
    }

    /// The load of a litmus test: its sessions, each with a time, and fresh keys for every round.
    pub fn run_litmus(&mut self, sessions: usize) {
        self.clients = sessions;
        (self.counters, self.journals, self.locks) = (0, 0, 0);
        self.lives = false;
        (self.collect_every, self.lull_after, self.wall_speed, self.echoes) = (None, 0, 1, 0.0);
        self.registers = crate::litmus::ROUNDS * crate::litmus::VARIABLES;
        self.sessions = true;
        // Sessions wander, some replicas lag, and arcs are few, so that most are confirmed already: else nothing is
        // stale.
        self.competing = true;
        self.tokens = 1;
        self.loss = self.loss.max(0.05);
        self.straggling = self.straggling.max(0.05);
        self.rot_every = None;
        // Full disks are another subject, and take their time at the end for each key.
        self.fill_every = None;
    }

    /// One change of membership after the other, under load and among restarts: where it matters who copies what, from
    /// whom and when.
    fn make_churn(&mut self, prng: &mut Prng) {
        self.tokens = 1;
        self.registers = 2;
        (self.counters, self.journals) = (0, 0);
        self.operations = 400;
        self.competing = true;
        self.changes_every = Some(Duration::from_millis(15 + prng.below(50)));
        self.crash_every = Some(Duration::from_millis(20 + prng.below(100)));
        self.downtime_max = if prng.one_in(2) { DOWNTIME_SHORT } else { Duration::from_millis(20 + prng.below(150)) };
        self.loss = self.loss.max(0.05 + prng.unit() * 0.10);
        self.straggling = self.straggling.max(0.05);
        self.hedge = Duration::from_millis(5 + prng.below(15));
    }

    /// Changes of which some hear late, and some have heard and forgot it, among sessions that read each of some keys
    /// and seldom write: where it matters who still acts in the old arc epoch, and what was left undone in it.
    fn make_hearsay(&mut self, prng: &mut Prng) {
        self.tokens = 1;
        self.registers = 20 + prng.index(30);
        (self.counters, self.journals) = (0, 0);
        self.sessions = true;
        self.competing = true;
        self.operations = 400;
        self.changes_every = Some(Duration::from_millis(30 + prng.below(120)));
        self.news_max = Duration::from_millis(100 + prng.below(400));
        self.forgetful = prng.one_in(2);
        self.crash_every = Some(Duration::from_millis(20 + prng.below(200)));
        self.partition_every = self.partition_every.or_else(|| Some(Duration::from_millis(50 + prng.below(400))));
        self.downtime_max = if prng.one_in(2) { DOWNTIME_SHORT } else { Duration::from_millis(20 + prng.below(150)) };
        self.loss = self.loss.max(0.02 + prng.unit() * 0.13);
        self.hedge = Duration::from_millis(5 + prng.below(15));
    }

    /// Keys that are deleted, forgotten and written again, with messages from long ago under way: where it matters who
    /// drops a tombstone, and when.
    fn make_graveyard(&mut self, prng: &mut Prng) {
        self.sessions = false;
        self.tokens = 1;
        self.registers = 4 + prng.index(5);
        (self.counters, self.journals) = (0, 0);
        self.operations = 240;
        self.collect_every = Some(Duration::from_millis(40 + prng.below(400)));
        self.lull_after = 30;
        self.wall_speed = WALL_SPEED;
        self.echoes = 0.02;
        self.loss = self.loss.max(0.05 + prng.unit() * 0.15);
        self.competing = true;
        // Nobody stands still for so long that a request becomes too old on the way.
        self.pause_every = None;
        // Tombstones are collected when all are there.
        let rarely = |prng: &mut Prng| Duration::from_millis(1_000 + prng.below(5_000));
        self.crash_every = prng.one_in(2).then(|| rarely(prng));
        if prng.one_in(2) {
            // Some are away while a key is deleted and forgotten.
            self.downtime_max = Duration::from_millis(500 + prng.below(6_000));
        }
        self.partition_every = prng.one_in(3).then(|| rarely(prng));
        self.power_cut_every = None;
        self.changes_every = prng.one_in(2).then(|| rarely(prng));
        self.clean_every = self.clean_every.or(Some(Duration::from_millis(100)));
    }

    /// Many restarts among competing coordinators of one key, with messages from before them under way: where promises
    /// are at stake.
    fn make_storm(&mut self, prng: &mut Prng) {
        self.registers = 1;
        (self.counters, self.journals) = (0, 0);
        self.competing = true;
        self.crash_every = Some(Duration::from_millis(15 + prng.below(60)));
        self.downtime_max = DOWNTIME_SHORT;
        self.loss = self.loss.max(0.05);
        self.straggling = self.straggling.max(0.05);
        self.hedge = Duration::from_millis(5 + prng.below(15));
    }
}

/// The load of a run without faults.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    /// Operations a second, in all.
    pub per_second: u32,
    /// How long, in virtual time.
    pub length: Duration,
    /// Keys.
    pub keys: usize,
    /// The one kind of operation that clients do; none for all kinds.
    pub only: Option<Only>,
}

impl Swarm {
    /// Five nodes and a ring as in production, without a fault, under an even load.
    ///
    /// All is named, so that a kind of fault that is new cannot come in unasked.
    pub(crate) fn steady(steady: Steady) -> Swarm {
        let (per_second, clients) = (steady.per_second.max(1), 10);
        Swarm {
            nodes: 5,
            tokens: 2,
            ring: chord::Config::default(),
            clients,
            registers: steady.keys,
            counters: 0,
            journals: 0,
            locks: 0,
            lives: false,
            clocks_apart: Duration::ZERO,
            collect_every: Some(Duration::from_secs(5)),
            lull_after: 0,
            wall_speed: 1,
            echoes: 0.0,
            operations: (f64::from(per_second) * steady.length.as_secs_f64()) as usize,
            // On average half of it; what an operation takes is little beside it.
            pause_max: Duration::from_secs(2 * clients as u64) / per_second,
            loss: 0.0,
            duplication: 0.0,
            straggling: 0.0,
            delay_max: Duration::from_micros(500),
            sync_max: Duration::from_millis(2),
            crash_every: None,
            downtime_max: DOWNTIME_SHORT,
            pause_every: None,
            partition_every: None,
            one_way: false,
            power_cut_every: None,
            lose_disk: false,
            rot_every: None,
            scrub_every: Duration::ZERO,
            lies_every: None,
            sync_failure_every: None,
            fill_every: None,
            segment_bytes: 1 << 20,
            clean_every: Some(Duration::from_secs(1)),
            changes_every: None,
            abandon_one_in: 1,
            news_max: Duration::ZERO,
            forgetful: false,
            twin: false,
            resets: true,
            competing: false,
            hedge: Duration::from_millis(50),
            sessions: !matches!(steady.only, Some(Only::Writes | Only::StrictReads)),
            only: steady.only,
            timing: Timing::default(),
        }
    }
}

/// The block that is printed with the seed.
impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let every = |mean: &Option<Duration>| mean.map_or("never".to_owned(), |mean| format!("every {mean:?}"));
        writeln!(f, "nodes={} tokens={} successors={}", self.nodes, self.tokens, self.ring.successors)?;
        writeln!(f, "clients={} operations={} hedge={:?}", self.clients, self.operations, self.hedge)?;
        writeln!(f, "registers={} counters={} journals={}", self.registers, self.counters, self.journals)?;
        writeln!(f, "locks={} lives={} clocks_apart={:?}", self.locks, self.lives, self.clocks_apart)?;
        writeln!(
            f,
            "collecting {} lull_after={} wall_speed={} echoes={:.3}",
            every(&self.collect_every),
            self.lull_after,
            self.wall_speed,
            self.echoes
        )?;
        writeln!(f, "loss={:.3} duplication={:.3} straggling={:.3}", self.loss, self.duplication, self.straggling)?;
        writeln!(f, "delay_max={:?} sync_max={:?}", self.delay_max, self.sync_max)?;
        writeln!(f, "crash {} (away up to {:?})", every(&self.crash_every), self.downtime_max)?;
        writeln!(f, "pause {}, partition {}", every(&self.pause_every), every(&self.partition_every))?;
        writeln!(
            f,
            "one_way={} power_cut {} lose_disk={}",
            self.one_way,
            every(&self.power_cut_every),
            self.lose_disk
        )?;
        writeln!(f, "failing sync {}, full disk {}", every(&self.sync_failure_every), every(&self.fill_every))?;
        writeln!(f, "segment_bytes={} cleaning {}", self.segment_bytes, every(&self.clean_every))?;
        writeln!(f, "rot {} (scrubbing every {:?})", every(&self.rot_every), self.scrub_every)?;
        writeln!(f, "lost syncs {}", every(&self.lies_every))?;
        writeln!(
            f,
            "changes {} (abandoned 1 in {}), news up to {:?}, forgetful={} twin={}",
            every(&self.changes_every),
            self.abandon_one_in,
            self.news_max,
            self.forgetful,
            self.twin
        )?;
        writeln!(f, "resets={} competing={} sessions={}", self.resets, self.competing, self.sessions)?;
        writeln!(f, "{}", self.timing)
    }
}
