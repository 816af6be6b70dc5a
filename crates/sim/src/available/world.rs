//! A fleet of replicas of available keys, in one thread and in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use available::{Body, Input, Kind, Level, Message, Replica, Rule};
use bytes::Bytes;
use history::{Event, EventKind, Function, Pairing, Process, Value};
use membership::{BucketId, ClusterId, Epoch, KeyHasher, Member, NodeId, Position, Ring, View};
use replication::{RegisterKey, Ticket};
use stdx::{Instant, Prng, TraceContext};

use super::client::{Client, Key};
use super::counts::Counts;
use super::disks::{End, Spoiled};
use super::network::Network;
use super::node::{Node, Times};
use super::swarm::{Places, Swarm, Theme};
use super::watch::Watch;
use crate::clock::{Clock, Timing, either_way_ms};
use crate::event_log::EventLog;
use crate::invariants::Violation;
use crate::litmus::Running;
use crate::node_log::StartFailed;

/// The wall clock at the beginning of a run.
const WALL_START_MS: u64 = 1_700_000_000_000;
/// Faults stop at this time at the latest.
const FAULTS_MAX: Duration = Duration::from_secs(60);
/// When faults have stopped, everything must be answered, and equal, within this time.
const SETTLE_MAX: Duration = Duration::from_secs(40);

/// What can happen.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// Bytes from another node reach a node.
    Arrive { from: NodeId, to: usize, bytes: Bytes },
    /// A client's operation reaches a node.
    Ask { client: usize, serial: u64, to: usize, operation: Box<available::Operation>, deadline: Instant },
    /// An answer reaches a client.
    Answer { client: usize, serial: u64, outcome: Box<available::Outcome> },
    /// A client notices that an attempt failed.
    Failed { client: usize, serial: u64 },
    /// A client does its next thing.
    Next { client: usize },
    /// A client asks another node as well.
    Hedge { client: usize, serial: u64 },
    /// A client's patience ends.
    GiveUp { client: usize, serial: u64 },
    /// A timer of a node's core.
    Tick { node: usize, incarnation: u64 },
    /// A disk has synced.
    Synced { node: usize, incarnation: u64 },
    /// A node notices that its connection to another broke.
    PeerLost { node: usize, lost: usize },
    /// A node notices that another can be reached.
    PeerFound { node: usize, found: usize },
    /// A node crashes.
    Crash { node: usize },
    /// A node starts.
    Start { node: usize },
    /// A node is stopped in its tracks, for this long.
    Pause { node: usize, length: Duration },
    /// A stopped node goes on.
    Resume { node: usize },
    /// Some links break.
    Partition,
    /// They are joined again.
    Heal { links: Vec<(usize, usize)> },
    /// Every node loses power at once.
    PowerCut,
    /// A node's disk is lost, and it starts anew.
    LoseDisk,
    /// Somebody changes the membership.
    Change,
    /// A node hears of the newest view.
    ViewNews { node: usize },
    /// A node's shell looks what is to be done for changes.
    KeepHouse { node: usize },
    /// Discovery hears that a node has copied what a change makes it a home of.
    NoteCopied { node: NodeId, change: Epoch },
    /// A node looks whether its disk has room.
    Look { node: usize, incarnation: u64 },
    /// A node looks whether its log is worth cleaning.
    Clean { node: usize, incarnation: u64 },
    /// A node reads some of its log again.
    Scrub { node: usize, incarnation: u64 },
    /// A bit flips in what a disk holds.
    Rot,
    /// A node's next sync fails.
    FailSync,
    /// A disk begins to say that it has synced when it has not.
    Lie,
    /// A node whose disk lies loses power.
    LoseLies { node: usize },
    /// A node loses power.
    LosePower { node: usize },
    /// A node that was given up is set up anew.
    Replace { node: usize },
    /// A disk fills up, or has room again.
    Fill { node: usize, full: bool },
    /// Some wall clock is set anew.
    ClockJump,
}

/// A run in progress.
pub(super) struct World {
    pub swarm: Swarm,
    pub log: EventLog,
    pub counts: Counts,
    pub(super) now: Instant,
    order: u64,
    agenda: BTreeMap<(Instant, u64), Happening>,
    pub(super) prng: Prng,
    pub(super) network: Network,
    pub(super) view: View,
    pub(super) ring: Ring,
    /// The ring before the last change of view: some gateways have not heard.
    pub(super) ring_before: Ring,
    pub(super) planted: Option<Rule>,
    pub(super) nodes: Vec<Node>,
    pub(super) backlog: Vec<VecDeque<Happening>>,
    pub(super) clients: Vec<Client>,
    pub(super) keys: Vec<Key>,
    /// Operations at their coordinators: who asked, and how.
    pub(super) tickets: BTreeMap<Ticket, (usize, u64, NodeId)>,
    pub(super) ticket_last: u64,
    pub(super) serial_last: u64,
    pub(super) process_last: u64,
    pairing: Pairing,
    line: u64,
    pub(super) violation: Option<Violation>,
    pub(super) watch: Watch,
    pub(super) litmus: Option<Running>,
    pub(super) calm: bool,
    pub(super) disks_lost: u64,
    /// Attempts on their way to a node.
    attempts: usize,
    /// Draws what clocks show.
    pub(super) clock_prng: Prng,
    /// Draws what becomes of disks, apart from what was drawn when they were simpler.
    pub(super) disk_prng: Prng,
    /// What is not mended yet; of one disk at a time.
    pub(super) spoiled: Option<Spoiled>,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, planted: Option<Rule>, keep_log: bool, litmus: Option<(Running, Level)>) -> World {
        let mut prng = Prng::from_seed(seed);
        let mut swarm = Swarm::draw(&mut prng);
        swarm.take_theme(Theme::of(seed), &mut Prng::from_seed(!seed));
        swarm.take_disks(&mut Prng::from_seed(!seed).fork().fork());
        swarm.take_timing(Timing::of(seed, swarm.nodes), &mut Prng::from_seed(!seed).fork());
        if let Some((running, level)) = &litmus {
            let level = usize::from(*level == Level::Eventual);
            swarm.run_litmus(running.test.sessions.len(), level, Places::of(seed));
        }
        let (view, hasher) = formed_view(&swarm, &mut prng);
        let skew_max = swarm.skew_max;
        let skew = |prng: &mut Prng| either_way_ms(skew_max, prng);
        let (mut clock_prng, mut disk_prng) = (Prng::from_seed(seed).fork(), Prng::from_seed(seed).fork().fork());
        let timing = swarm.timing;
        let mut drawn_clock = |ahead_ms| Clock::draw(timing, &mut clock_prng).ahead_by(ahead_ms);
        World {
            log: EventLog::new(keep_log),
            counts: Counts::default(),
            now: Instant::ZERO,
            order: 0,
            agenda: BTreeMap::new(),
            network: Network::new(&swarm, prng.fork()),
            ring: view.ring(),
            ring_before: view.ring(),
            planted,
            nodes: (1..=swarm.nodes)
                .map(|id| (NodeId(id as u64), drawn_clock(skew(&mut prng))))
                .map(|(id, clock)| Node::new(id, &view, planted, clock, disk_prng.fork()))
                .collect(),
            backlog: vec![VecDeque::new(); swarm.nodes],
            clients: (0..swarm.clients).map(|at| Client::new(at as u64, skew(&mut prng))).collect(),
            keys: keys(&swarm, &hasher),
            view,
            tickets: BTreeMap::new(),
            ticket_last: 0,
            serial_last: 0,
            process_last: swarm.clients as u64,
            pairing: Pairing::default(),
            line: 0,
            violation: None,
            watch: Watch::default(),
            litmus: litmus.map(|(running, _)| running),
            calm: true,
            disks_lost: 0,
            attempts: 0,
            clock_prng,
            disk_prng,
            spoiled: None,
            prng,
            swarm,
        }
    }

    /// Runs to the end: clients work under faults, then everything heals, settles and is read once more.
    pub fn run(&mut self) -> Result<history::History, Violation> {
        let ended = self.run_phases();
        self.counts.simulated_ms = self.now.as_millis();
        ended.inspect_err(|violation| self.log.push(self.now, format_args!("VIOLATION {violation}")))?;
        Ok(std::mem::take(&mut self.pairing).finish())
    }

    fn run_phases(&mut self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            self.at(Duration::ZERO, Happening::Start { node });
        }
        self.network.calm = true;
        self.expect("a new fleet is whole", |world| world.all_whole())?;
        self.network.calm = false;
        self.calm = false;
        self.begin();
        self.run_until(|world| world.idle() && world.is_out_of_work(), FAULTS_MAX)?;
        self.settle();
        self.expect("every operation ends", World::idle)?;
        self.expect("every change is completed, and who left has nothing", World::changes_are_over)?;
        // A client that has its answer may have asked elsewhere, too: replicas need not be equal before that is over.
        self.expect("every attempt ends", |world| world.attempts == 0 && world.running().all(|r| r.waiting() == 0))?;
        self.expect("what lost its data gets it back", |world| world.all_whole())?;
        self.expect("every hint is taken", |world| world.running().all(|replica| replica.hints().0 == 0))?;
        self.expect("replicas become equal", |world| world.differing().is_none())?;
        self.note_settled();
        self.read_everything()?;
        self.bury_everything()
    }

    fn begin(&mut self) {
        self.send_sessions();
        self.plan_fault(self.swarm.crash_every, |world| Happening::Crash { node: world.any_node() });
        self.plan_fault(self.swarm.pause_every, World::drawn_pause);
        self.plan_fault(self.swarm.partition_every, |_| Happening::Partition);
        self.plan_fault(self.swarm.power_cut_every, |_| Happening::PowerCut);
        self.plan_fault(self.swarm.lose_disk_every, |_| Happening::LoseDisk);
        self.plan_fault(self.swarm.changes_every, |_| Happening::Change);
        self.plan_fault(self.swarm.fill_every, |world| Happening::Fill { node: world.any_node(), full: true });
        self.plan_jump();
        self.plan_fault(self.swarm.disks.rot_every, |_| Happening::Rot);
        self.plan_fault(self.swarm.disks.sync_failure_every, |_| Happening::FailSync);
        self.plan_fault(self.swarm.disks.lies_every, |_| Happening::Lie);
    }

    pub(super) fn plan_fault(&mut self, every: Option<Duration>, what: impl Fn(&mut World) -> Happening) {
        let Some(mean) = every else { return };
        let wait = mean.mul_f64(0.2 + 1.6 * self.prng.unit());
        let happening = what(self);
        self.at(wait, happening);
    }

    fn drawn_pause(world: &mut World) -> Happening {
        let length = Duration::from_millis(10 + world.prng.below(700));
        Happening::Pause { node: world.any_node(), length }
    }

    fn expect(&mut self, invariant: &'static str, done: impl Fn(&World) -> bool) -> Result<(), Violation> {
        self.run_until(&done, SETTLE_MAX)?;
        if done(self) {
            return Ok(());
        }
        let differing = self.differing().map(|key| (&key.name, self.held_by_homes(key).collect::<Vec<_>>()));
        let found = format!("not so {SETTLE_MAX:?} after the faults stopped: {differing:?}");
        Err(Violation { invariant, found })
    }

    fn run_until(&mut self, done: impl Fn(&World) -> bool, at_most: Duration) -> Result<(), Violation> {
        let end = self.now + at_most;
        while !done(self) && self.now < end {
            let Some(((at, planned), happening)) = self.agenda.pop_first() else { break };
            self.now = at;
            self.log.note(at, planned);
            self.counts.events += 1;
            self.happen(happening);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    pub(super) fn at(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.attempts += usize::from(matches!(happening, Happening::Ask { .. }));
        self.agenda.insert((self.now + after, self.order), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { from, to, bytes } => self.arrive(from, to, bytes),
            Happening::Ask { client, serial, to, operation, deadline } => {
                self.attempts -= 1;
                self.ask((client, serial), to, operation, deadline);
            }
            Happening::Answer { client, serial, outcome } => self.take_answer(client, serial, *outcome),
            Happening::Failed { client, serial } => self.take_failure(client, serial),
            Happening::Next { client } => self.next_operation(client),
            Happening::Hedge { client, serial } => self.hedge(client, serial),
            Happening::GiveUp { client, serial } => self.give_up(client, serial),
            Happening::Tick { node, incarnation } => self.tick(node, incarnation),
            Happening::Synced { node, incarnation } => self.synced(node, incarnation),
            Happening::PeerLost { node, lost } => {
                if self.nodes[lost].running.is_none() {
                    self.feed(node, Input::PeerLost(NodeId(lost as u64 + 1)));
                }
            }
            Happening::PeerFound { node, found } => {
                if self.nodes[found].running.is_some() {
                    self.feed(node, Input::PeerFound(NodeId(found as u64 + 1)));
                }
            }
            Happening::Crash { node } => {
                self.crash(node);
                self.plan_fault(self.swarm.crash_every, |world| Happening::Crash { node: world.any_node() });
            }
            Happening::Start { node } => self.start(node),
            Happening::Pause { node, length } => self.pause(node, length),
            Happening::Resume { node } => self.resume(node),
            Happening::Partition => self.partition(),
            Happening::Heal { links } => self.network.heal(&links),
            Happening::PowerCut => self.power_cut(),
            Happening::LoseDisk => self.lose_disk(),
            Happening::Change => self.change(),
            Happening::ViewNews { node } => self.view_news(node),
            Happening::KeepHouse { node } => self.keep_house(node),
            Happening::NoteCopied { node, change } => self.note_copied(node, change),
            Happening::Fill { node, full } => self.fill(node, full),
            Happening::ClockJump => self.jump(),
            Happening::Look { node, incarnation } => self.look_for_room(node, incarnation),
            Happening::Clean { node, incarnation } => self.clean(node, incarnation),
            Happening::Scrub { node, incarnation } => self.scrub(node, incarnation),
            Happening::Rot => self.rot(),
            Happening::FailSync => self.fail_sync(),
            Happening::Lie => self.begin_lie(),
            Happening::LoseLies { node } => self.lose_lies(node),
            Happening::LosePower { node } => self.lose_power(node),
            Happening::Replace { node } => self.replace(node),
        }
    }

    pub(super) fn any_node(&mut self) -> usize {
        let nodes = self.nodes.len();
        self.prng.index(nodes)
    }

    pub(super) fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.now.as_millis()
    }

    fn idle(&self) -> bool {
        self.clients.iter().all(|client| client.current.is_none())
    }

    fn is_out_of_work(&self) -> bool {
        let drawn = self.serial_last >= self.swarm.operations as u64;
        self.litmus.as_ref().map_or(drawn, Running::is_over)
    }

    fn running(&self) -> impl Iterator<Item = &Replica> {
        self.nodes.iter().filter_map(|node| node.running.as_ref())
    }

    fn all_whole(&self) -> bool {
        let present = self.nodes.iter().filter(|node| !node.gone).count();
        self.running().count() == present && self.running().all(Replica::is_whole)
    }

    /// A key that two of its homes hold differently, or that one cannot tell of because it is down.
    fn differing(&self) -> Option<&Key> {
        self.keys.iter().find(|key| {
            // A tombstone that one of them has dropped is as good as none.
            let plain = |state: Option<Option<&'_ available::State>>| {
                state.map(|state| state.filter(|state| !state.is_tombstone()).cloned())
            };
            let mut states = self.held_by_homes(key).map(plain);
            let first = states.next().flatten();
            first.is_none() || states.any(|state| state != first)
        })
    }

    /// A tombstone that some home holds.
    fn tombstone(&self) -> Option<String> {
        let mut held = self.running().flat_map(|replica| replica.table().iter());
        let (key, held) = held.find(|(_, held)| held.state.is_tombstone())?;
        let homes = self.ring.replicas_of(key.position);
        Some(format!("{} at {homes:?}: {:?}", String::from_utf8_lossy(&key.key), held.state))
    }

    /// What each home holds of the key; none of one that is down.
    fn held_by_homes(&self, key: &Key) -> impl Iterator<Item = Option<Option<&available::State>>> {
        let (homes, key) = (self.ring.replicas_of(key.key.position), key.key.clone());
        let count = homes.len();
        let held = move |at: usize| {
            let replica = self.nodes[homes[at].0 as usize - 1].running.as_ref();
            replica.map(|replica| replica.table().get(&key).map(|held| &held.state))
        };
        (0..count).map(held)
    }

    // ---- Nodes.

    fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() || self.nodes[node].gone {
            return;
        }
        self.log.push(self.now, format_args!("start node {}", node + 1));
        let (now, wall_ms) = (self.now_at(node), self.wall_ms_of(node));
        let volatile = self.swarm.theme == Theme::Volatile;
        let Swarm { pass_every, memory_ms, copy_rate, disks, .. } = self.swarm;
        let times = Times { pass_every, memory_ms, copy_rate, volatile, disks };
        let view = self.view_at_start(node);
        if self.swarm.disks.rough && !self.calm && self.disk_prng.one_in(10) {
            // The power may fail again while the log is being read.
            self.nodes[node].doomed = true;
            self.nodes[node].disk.crash_after(self.disk_prng.below(8));
        }
        let (effects, remembered) = match self.nodes[node].start(now, wall_ms, &view, times, &mut self.prng) {
            Ok(started) => started,
            Err(StartFailed::Disk) => {
                self.pull_plug(node);
                return self.at(Duration::from_millis(5), Happening::Start { node });
            }
            Err(StartFailed::Damaged(found)) => return self.found_damaged(node, found),
            Err(StartFailed::Log(found)) => return self.log_does_not_open(found),
        };
        if let Err(violation) = remembered {
            self.violation.get_or_insert(violation);
        }
        self.begin_with_disk(node);
        self.carry_out(node, effects);
        self.at(Duration::from_millis(1), Happening::KeepHouse { node });
        if self.swarm.resets || self.calm {
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                self.at(Duration::from_millis(1), Happening::PeerFound { node: other, found: node });
            }
        }
    }

    fn crash(&mut self, node: usize) {
        // With memory alone, what a majority forgets is lost.
        let spared = self.swarm.theme == Theme::Volatile && !self.all_whole();
        if self.calm || self.nodes[node].running.is_none() || spared {
            return;
        }
        self.counts.faults += 1;
        match if self.swarm.disks.rough { self.disk_prng.below(4) } else { 0 } {
            // The power will fail within one of the next calls to the disk, whatever that does.
            1 => {
                self.log.push(self.now, format_args!("doom node {}", node + 1));
                self.nodes[node].doomed = true;
                self.nodes[node].disk.crash_after(self.disk_prng.below(6));
            }
            2 => self.crash_as(node, End::Killed),
            _ => self.crash_as(node, End::PowerLost),
        }
    }

    pub(super) fn stop(&mut self, node: usize, end: End) {
        match end {
            End::Killed => self.nodes[node].kill(),
            End::PowerLost => self.pull_plug(node),
        }
        self.backlog[node].clear();
        let id = NodeId(node as u64 + 1);
        let lost: Vec<Ticket> =
            self.tickets.iter().filter(|(_, (_, _, at))| *at == id).map(|(ticket, _)| *ticket).collect();
        for ticket in lost {
            let Some((client, serial, _)) = self.tickets.remove(&ticket) else { continue };
            if self.swarm.resets {
                self.at(Duration::from_millis(1), Happening::Failed { client, serial });
            }
        }
        if self.swarm.resets {
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                self.at(Duration::from_millis(1), Happening::PeerLost { node: other, lost: node });
            }
        }
    }

    fn power_cut(&mut self) {
        if self.calm {
            return;
        }
        self.counts.faults += 1;
        self.log.push(self.now, format_args!("power cut"));
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_some() {
                self.stop(node, End::PowerLost);
                let away = Duration::from_millis(1 + self.prng.below(300));
                self.at(away, Happening::Start { node });
            }
        }
        self.plan_fault(self.swarm.power_cut_every, |_| Happening::PowerCut);
    }

    fn pause(&mut self, node: usize, length: Duration) {
        if self.calm {
            return;
        }
        self.plan_fault(self.swarm.pause_every, World::drawn_pause);
        if self.nodes[node].running.is_none() || self.nodes[node].paused {
            return;
        }
        self.counts.faults += 1;
        self.log.push(self.now, format_args!("pause node {} for {length:?}", node + 1));
        self.nodes[node].paused = true;
        self.at(length, Happening::Resume { node });
    }

    fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        for happening in std::mem::take(&mut self.backlog[node]) {
            self.at(Duration::ZERO, happening);
        }
    }

    fn partition(&mut self) {
        if self.calm {
            return;
        }
        self.counts.faults += 1;
        let links = self.network.partition(&self.swarm, self.nodes.len());
        self.log.push(self.now, format_args!("partition {links:?}"));
        let length = Duration::from_millis(20 + self.prng.below(self.swarm.partition_max.as_millis() as u64));
        self.at(length, Happening::Heal { links });
        self.plan_fault(self.swarm.partition_every, |_| Happening::Partition);
    }

    /// No more faults: everything comes back, and stays.
    fn settle(&mut self) {
        self.calm = true;
        self.network.settle();
        self.settle_clocks();
        self.end_lies();
        self.log.push(self.now, format_args!("faults stop"));
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.fail_syncs(0);
            if self.nodes[node].doomed {
                self.stop(node, End::PowerLost);
            }
            self.at(Duration::from_millis(1), Happening::Start { node });
            self.at(Duration::from_millis(1), Happening::Resume { node });
            self.at(Duration::from_millis(2), Happening::Fill { node, full: false });
            for found in (0..self.nodes.len()).filter(|found| *found != node) {
                self.at(Duration::from_millis(5), Happening::PeerFound { node, found });
            }
        }
    }

    fn arrive(&mut self, from: NodeId, to: usize, bytes: Bytes) {
        if self.held_back(to, || Happening::Arrive { from, to, bytes: bytes.clone() }) {
            return;
        }
        let message = wire::codec::decode_available_message(bytes).expect("what was encoded can be decoded");
        self.log.push(self.now, format_args!("{} <- {}: {:?}", to + 1, from.0, Brief(&message)));
        self.feed(to, Input::Message { from, message, context: TraceContext::NONE });
    }

    fn tick(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation || self.held_back(node, || Happening::Tick { node, incarnation })
        {
            return;
        }
        if self.nodes[node].tick_at.is_some_and(|planned| planned <= self.now) {
            self.nodes[node].tick_at = None;
        }
        let wall_ms = self.wall_ms_of(node);
        self.feed(node, Input::Tick { wall_ms });
    }

    /// Whether the node is stopped in its tracks: then what comes waits.
    pub(super) fn held_back(&mut self, node: usize, what: impl FnOnce() -> Happening) -> bool {
        if self.nodes[node].paused {
            self.backlog[node].push_back(what());
        }
        self.nodes[node].paused
    }

    pub(super) fn feed(&mut self, node: usize, input: Input) {
        let now = self.now_at(node);
        let Some(effects) = self.nodes[node].handle(now, input) else { return };
        self.carry_out(node, effects);
    }

    /// Persist, then send, then answer; as the shell does it.
    pub(super) fn carry_out(&mut self, node: usize, effects: available::Effects) {
        let id = NodeId(node as u64 + 1);
        let incarnation = self.nodes[node].incarnation;
        self.observe(node, &effects);
        self.persist(node, effects.persist);
        if self.nodes[node].running.is_none() {
            // The disk failed under it.
            return;
        }
        for envelope in effects.send {
            let to = envelope.to.0 as usize - 1;
            let bytes = wire::codec::encode_available_message(&envelope.message);
            for after in self.network.fates(&self.swarm, Some((node, to))) {
                self.at(after, Happening::Arrive { from: id, to, bytes: bytes.clone() });
            }
        }
        for answer in effects.answers {
            let Some((client, serial, _)) = self.tickets.remove(&answer.ticket) else { continue };
            self.count_answer(client, &answer);
            let bytes = wire::codec::encode_available_answer(&answer.outcome, &answer.receipt);
            let read = wire::codec::decode_available_answer(bytes).expect("what was encoded can be decoded");
            assert_eq!(read, (answer.outcome.clone(), answer.receipt.clone()));
            for after in self.network.fates(&self.swarm, None) {
                let outcome = Box::new(answer.outcome.clone());
                self.at(after, Happening::Answer { client, serial, outcome });
            }
        }
        for event in effects.events {
            match event {
                available::Event::Buried { count } => self.counts.buried += count as u64,
                available::Event::StaleRefused => self.counts.stale_refused += 1,
                available::Event::Reconciled { .. } => self.counts.passes += 1,
                available::Event::Whole if !self.calm => self.counts.refilled += 1,
                available::Event::Released { keys } => self.counts.released += keys as u64,
                available::Event::Whole
                | available::Event::EpochDiffers { .. }
                | available::Event::ViewLearned(_)
                | available::Event::ArcCopied { .. } => {}
            }
        }
        self.note_view_of(node);
        let next = self.nodes[node].running.as_ref().and_then(Replica::next_timeout);
        if let Some(at) = next.map(|due| self.nodes[node].clock.when(due))
            && self.nodes[node].tick_at.is_none_or(|planned| at < planned)
        {
            self.order += 1;
            let at = at.max(self.now);
            self.nodes[node].tick_at = Some(at);
            self.agenda.insert((at, self.order), Happening::Tick { node, incarnation });
        }
    }

    // ---- Histories.

    pub(super) fn push(&mut self, process: u64, kind: EventKind, what: (&Function, &Key, Value)) {
        self.line += 1;
        let (function, key, value) = what;
        let process = Process::Client(process as i64);
        let name = Value::from(key.name.as_str());
        let level = Some(level_name(key.level).to_owned());
        let event = Event { level, ..Event::new(process, kind, function.clone(), name, value) };
        self.log.push(self.now, format_args!("{event:?}"));
        self.pairing.push(self.line, event).expect("a client asks once at a time and completes what it asked");
    }

    fn note_settled(&mut self) {
        self.line += 1;
        let f = Function::Other(checker::SETTLED.to_owned());
        let event = Event::new(Process::Nemesis, EventKind::Info, f, Value::Null, Value::Null);
        self.pairing.push(self.line, event).expect("a fault's line fits anywhere");
    }

    /// Reads each key at each of its homes, one after another.
    fn read_everything(&mut self) -> Result<(), Violation> {
        for at in 0..self.keys.len() {
            let homes = self.ring.replicas_of(self.keys[at].key.position);
            for home in homes.iter() {
                self.process_last += 1;
                let process = self.process_last;
                self.clients[0].renew(process);
                self.begin_read(0, at, *home);
                self.expect("every operation ends", World::idle)?;
            }
        }
        Ok(())
    }

    /// Once requests are forgotten, no tombstone is left: unless a log was lost, with the one who could say that all
    /// was received.
    fn bury_everything(&mut self) -> Result<(), Violation> {
        if self.disks_lost > 0
            || self.litmus.is_some()
            || self.view.epoch > Epoch(1)
            || self.swarm.theme == Theme::Volatile
        {
            return Ok(());
        }
        let over = self.now + Duration::from_millis(2 * self.swarm.memory_ms);
        self.run_until(|world| world.now >= over, SETTLE_MAX)?;
        self.run_until(|world| world.tombstone().is_none(), SETTLE_MAX)?;
        if let Some(found) = self.tombstone() {
            return Err(Violation { invariant: "tombstones go away", found });
        }
        self.expect("nothing comes back", |world| world.differing().is_none())
    }
}

pub(super) fn level_name(level: Level) -> &'static str {
    match level {
        Level::Causal => "causal",
        Level::Eventual => "eventual",
    }
}

/// A message in a line.
struct Brief<'a>(&'a Message);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0.body {
            Body::Store { id, claim, entries } => {
                write!(f, "Store {id} {claim:?}")?;
                for (key, state) in entries {
                    write!(f, " {}: {:?} alive", String::from_utf8_lossy(&key.key), state.context.vector)?;
                    state
                        .entries
                        .iter()
                        .try_for_each(|entry| write!(f, " {}~{:x}", entry.dot, entry.request.0 as u16))?;
                    write!(f, " past")?;
                    state.past.iter().try_for_each(|past| write!(f, " {}~{:x}", past.dot, past.request.0 as u16))?;
                    let put_away = |l: &available::Ledger| write!(f, " {}: {} to {}", l.actor, l.sum, l.folded);
                    state.ledgers.iter().try_for_each(put_away)?;
                }
                Ok(())
            }
            other => write!(f, "{other:?}"),
        }
    }
}

fn keys(swarm: &Swarm, hasher: &KeyHasher) -> Vec<Key> {
    let mut keys = Vec::new();
    let kinds = [Kind::Value, Kind::LastWriter, Kind::Counter, Kind::Set];
    for (level, counts) in [Level::Causal, Level::Eventual].into_iter().zip(swarm.keys) {
        for (kind, count) in kinds.into_iter().zip(counts) {
            for at in 0..count {
                let name = format!("{}-{kind}-{at}", level_name(level));
                let bucket = BucketId(1 + kind as u32);
                let key = Bytes::from(name.clone());
                let position = hasher.position(bucket, &key);
                keys.push(Key { key: RegisterKey { position, bucket, key }, kind, level, name });
            }
        }
    }
    keys
}

fn formed_view(swarm: &Swarm, prng: &mut Prng) -> (View, KeyHasher) {
    let hasher = KeyHasher::new(&prng.next_u64().to_le_bytes());
    let mut view = View::forming(ClusterId(7), 3, swarm.nodes, hasher.fingerprint());
    for id in 1..=swarm.nodes as u64 {
        let tokens = tokens_in_widest_gaps(&view, swarm.tokens, prng);
        view.members.push(Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens });
    }
    view.epoch = Epoch(1);
    view.validate().expect("the drawn view is sound");
    (view, hasher)
}

/// Positions for a newcomer, each in the widest gap that is left. Plainer than what `membership` chooses, and drawn so
/// that the seeds that once found something go on being the schedules that found it, however that is mended.
fn tokens_in_widest_gaps(view: &View, count: usize, prng: &mut Prng) -> Vec<Position> {
    let mut all: Vec<Position> = view.members.iter().flat_map(|member| member.tokens.clone()).collect();
    let mut chosen = Vec::with_capacity(count);
    for _ in 0..count {
        all.sort_unstable();
        let gap = |at: usize| {
            let next = all[(at + 1) % all.len()];
            let width = if all.len() == 1 { u64::MAX } else { all[at].distance_to(next) };
            (all[at], width)
        };
        let token = match (0..all.len()).map(gap).max_by_key(|(_, width)| *width) {
            None => Position(prng.next_u64()),
            Some((low, width)) => Position(low.0.wrapping_add(width / 4).wrapping_add(prng.below(width / 2).max(1))),
        };
        all.push(token);
        chosen.push(token);
    }
    chosen
}
