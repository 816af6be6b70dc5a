//! The whole fleet in one thread and in virtual time.

mod changes;
mod clients;
mod clocks;
mod copies;
mod endings;
mod faults;
mod lies;
mod nodes;
mod rot;

pub(crate) use clients::{decoded, encoded};

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use chord::Peer;
use dispatch::Failure;
use history::History;
use membership::{BucketId, ClusterId, Epoch, KeyHasher, Member, NodeId, Ring, View, choose_tokens};
use replication::{AllBut, RegisterKey, Ticket};
use stdx::{Instant, Prng};

use crate::Options;
use crate::client::{Client, KeyKind};
use crate::clock::Timing;
use crate::event_log::EventLog;
use crate::invariants::{Registers, Violation};
use crate::litmus::{Running, Shown};
use crate::network::Network;
use crate::node::SimNode;
use crate::planted::Planted;
use crate::recorder::Recorder;
use crate::ring_watch::RingWatch;
use crate::swarm::Swarm;

/// The wall clock at the beginning of a run, in milliseconds; any number far from zero.
const WALL_START_MS: u64 = 1_700_000_000_000;
/// Faults stop at this time at the latest; clients are done long before.
const FAULTS_MAX: Duration = Duration::from_secs(120);
/// A load without faults ends within this time.
const LOAD_MAX: Duration = Duration::from_secs(3_600);
/// When faults have stopped, everything must be answered within this time.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Without faults, the ring must be ideal within this time.
const RING_IDEAL_MAX: Duration = Duration::from_secs(30);

/// What can happen.
#[derive(Clone, Debug)]
enum Happening {
    /// Bytes from another node reach a node.
    Arrive { from: (NodeId, u64), to: usize, bytes: Bytes },
    /// A client's operation reaches a node.
    Ask { client: usize, to: usize, call: u64, bytes: Bytes },
    /// An answer reaches a client.
    Answer { bytes: Bytes },
    /// A client notices that an attempt failed.
    Failed { call: u64, failure: Failure },
    /// A client does its next thing.
    Next { client: usize },
    /// A client's dispatch has a timer.
    Wake { client: usize, serial: u64 },
    /// A timer of a node's cores.
    Tick { node: usize, incarnation: u64 },
    /// A disk has synced.
    Synced { node: usize, incarnation: u64 },
    /// A node looks whether its disk has room.
    Look { node: usize, incarnation: u64 },
    /// A node looks whether its log is worth cleaning.
    Clean { node: usize, incarnation: u64 },
    /// A node looks for tombstones that can go.
    Collect { node: usize, incarnation: u64 },
    /// Discovery tells a node who belongs to the ring.
    Seeds { node: usize, incarnation: u64 },
    /// A node notices that its connection to another broke.
    PeerLost { node: usize, lost: usize, incarnation: u64 },
    /// A node notices that another can be reached.
    PeerFound { node: usize, found: usize },
    /// A node crashes.
    Crash { node: usize },
    /// A node loses power.
    LosePower { node: usize },
    /// A node loses power, and forgets the view that it has just heard of.
    Forget { node: usize },
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
    /// Somebody changes the membership.
    Change,
    /// News of the newest view reaches a node.
    ViewNews { node: usize },
    /// And a client's gateway.
    GatewayNews { client: usize },
    /// A node looks whether it has copied what it was to copy.
    KeepHouse { node: usize, incarnation: u64 },
    /// A node's word that it holds what a change gives it reaches discovery.
    NoteCopied { node: NodeId, change: Epoch },
    /// A node that belongs to the ring no more ends.
    Retire { node: usize },
    /// Somebody keeps a node's data directory as it is.
    KeepImage,
    /// Somebody uses what was kept.
    UseImage,
    /// A node whose disk was lost is set up anew.
    Replace { gone: NodeId },
    /// One node's disk is lost.
    LoseDisk,
    /// Some disks begin to say that they have synced what they have not.
    Lie,
    /// The power fails where they did.
    LoseLies,
    /// A bit flips in what a disk holds.
    Rot,
    /// A node reads some of its log again.
    Scrub { node: usize, incarnation: u64 },
    /// A node's next sync fails.
    FailSync { node: usize },
    /// Some disks fill up.
    Fill,
    /// A disk has room again.
    Empty { node: usize },
    /// Some node's wall clock is set anew.
    ClockJump,
}

/// A client's attempt that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Call {
    client: usize,
    serial: u64,
    attempt: u32,
    node: usize,
}

/// What a run counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that were answered.
    pub answered: u64,
    /// Operations that ended unknown.
    pub unknown: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Operations that were refused for a full disk.
    pub disk_refusals: u64,
    /// Bits that flipped in what disks held.
    pub bits_rotted: u64,
    /// Times at which a running node found its log damaged.
    pub damage_scrubbed: u64,
    /// Times at which a start found its log damaged, so that the node was given up.
    pub damage_at_start: u64,
    /// Segments of logs that were cleaned.
    pub segments_cleaned: u64,
    /// Times at which a node told its replica that the disk is full.
    pub disks_full: u64,
    /// Checks of the ring's invariants.
    pub ring_checks: u64,
    /// Inputs that members took while the ring was at rest, with its successors still right afterwards.
    pub ring_checks_at_rest: u64,
    /// Times at which the ring was found ideal, after it had been broken.
    pub rings_healed: u64,
    /// Times at which a member began a ring of its own beside a living one.
    pub second_rings: u64,
    /// Starts on a copy of a node's directory.
    pub copies_started: u64,
    /// Directories that were put back as they had been.
    pub put_back: u64,
    /// Nodes that lost something which their disks had said to be synced.
    pub syncs_lost: u64,
    /// Of these, how many lost it at the same time as another one.
    pub syncs_lost_together: u64,
    /// Directories that a start set aside, because it knew them for copied or put back.
    pub doubted: u64,
    /// Older starts that a later one fenced off under load; only where a planted bug lets both run.
    pub twins_fenced: u64,
    /// Changes of membership that were begun.
    pub changes_begun: u64,
    /// Of these, how many were completed.
    pub changes_done: u64,
    /// Tokens that nodes gave up, or moved elsewhere, since another left.
    pub tokens_moved: u64,
    /// Arcs that were copied.
    pub arcs_copied: u64,
    /// Confirmations of arcs that ended.
    pub arcs_confirmed: u64,
    /// Registers that were dropped since others were in charge of them.
    pub released: u64,
    /// Messages that replicas sent each other.
    pub messages: u64,
    /// Syncs of disks that ended.
    pub syncs: u64,
    /// Tombstones that were dropped for good.
    pub collected: u64,
    /// Times at which a wall clock was set anew.
    pub clock_jumps: u64,
    /// Events simulated.
    pub events: u64,
    /// Virtual time that passed, in milliseconds.
    pub simulated_ms: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.faults += other.faults;
        self.disk_refusals += other.disk_refusals;
        self.bits_rotted += other.bits_rotted;
        self.damage_scrubbed += other.damage_scrubbed;
        self.damage_at_start += other.damage_at_start;
        self.segments_cleaned += other.segments_cleaned;
        self.disks_full += other.disks_full;
        self.ring_checks += other.ring_checks;
        self.ring_checks_at_rest += other.ring_checks_at_rest;
        self.rings_healed += other.rings_healed;
        self.second_rings += other.second_rings;
        self.copies_started += other.copies_started;
        self.put_back += other.put_back;
        self.syncs_lost += other.syncs_lost;
        self.syncs_lost_together += other.syncs_lost_together;
        self.doubted += other.doubted;
        self.twins_fenced += other.twins_fenced;
        self.changes_begun += other.changes_begun;
        self.changes_done += other.changes_done;
        self.tokens_moved += other.tokens_moved;
        self.arcs_copied += other.arcs_copied;
        self.arcs_confirmed += other.arcs_confirmed;
        self.released += other.released;
        self.messages += other.messages;
        self.syncs += other.syncs;
        self.collected += other.collected;
        self.clock_jumps += other.clock_jumps;
        self.events += other.events;
        self.simulated_ms += other.simulated_ms;
    }
}

/// A run in progress.
pub(crate) struct World<C: chord::Rules> {
    pub swarm: Swarm,
    pub log: EventLog,
    pub counts: Counts,
    now: Instant,
    order: u64,
    agenda: BTreeMap<(Instant, u64), Happening>,
    prng: Prng,
    network: Network,
    /// The newest view, as discovery holds it.
    view: View,
    /// The ring as each client's gateway knows it.
    gateways: Vec<Ring>,
    nodes: Vec<SimNode<C>>,
    /// What came while a node was stopped.
    backlog: Vec<VecDeque<Happening>>,
    clients: Vec<Client>,
    keys: Vec<(RegisterKey, KeyKind)>,
    /// Operations at their coordinators: who asked.
    tickets: BTreeMap<Ticket, (usize, u64)>,
    ticket_last: u64,
    calls: BTreeMap<u64, Call>,
    call_last: u64,
    serial_last: u64,
    process_last: u64,
    recorder: Recorder,
    registers: Registers,
    watch: RingWatch,
    violation: Option<Violation>,
    rules: AllBut,
    planted: Option<Planted>,
    /// A node's data directory as somebody kept it.
    image: Option<copies::Image>,
    /// The damage that is not mended yet; at most one at a time.
    rotten: Option<rot::Rotten>,
    /// Nodes whose disks lie at the moment.
    lying: Vec<usize>,
    /// The litmus test that the clients run, if they do not draw what they do.
    litmus: Option<Running>,
    calm: bool,
    /// Lulls so far, and when the last one ends.
    lulls: u64,
    lull_until: Instant,
    /// Draws what clocks show.
    clock_prng: Prng,
}

impl<C: chord::Rules> World<C> {
    /// The world of a seed.
    pub fn new(seed: u64, options: Options, litmus: Option<Running>) -> World<C> {
        let mut prng = Prng::from_seed(seed);
        let mut swarm = Swarm::draw(&mut prng);
        if let Some(running) = &litmus {
            swarm.run_litmus(running.test.sessions.len());
        }
        let timing = Timing::of(seed, swarm.nodes);
        swarm.take_timing(timing, &mut Prng::from_seed(!seed));
        if litmus.is_none() {
            swarm.draw_lies(seed);
        }
        let mut world = World::of(swarm, prng, options, litmus);
        world.draw_clocks(seed);
        world
    }

    /// The world of a mix.
    pub fn of(swarm: Swarm, mut prng: Prng, options: Options, litmus: Option<Running>) -> World<C> {
        let Options { planted, .. } = options;
        let rules = AllBut(planted.and_then(Planted::rule));
        let (view, hasher) = formed_view(swarm.nodes, swarm.tokens, &mut prng);
        let kinds = [
            vec![KeyKind::Register; swarm.registers],
            vec![KeyKind::Counter; swarm.counters],
            vec![KeyKind::Journal; swarm.journals],
            [KeyKind::Lock, KeyKind::Guarded].repeat(swarm.locks),
        ];
        let keys = kinds.concat().into_iter().enumerate().map(|(at, kind)| {
            let key = Bytes::from(format!("k{at}"));
            (RegisterKey { position: hasher.position(BucketId(1), &key), bucket: BucketId(1), key }, kind)
        });
        let apart_ms = swarm.clocks_apart.as_millis() as u64;
        let ahead_ms: Vec<u64> = (0..swarm.nodes).map(|_| prng.below(apart_ms + 1)).collect();
        // Whoever holds a lock allows for clocks that are apart, each off either way.
        let allowance_ms = 1 + 2 * apart_ms;
        let mut world = World {
            log: EventLog::new(options.keep_log),
            counts: Counts::default(),
            now: Instant::ZERO,
            order: 0,
            agenda: BTreeMap::new(),
            network: Network::new(prng.fork()),
            gateways: vec![view.ring(); swarm.clients],
            nodes: (1..=swarm.nodes as u64).map(|id| SimNode::new(NodeId(id), &view, planted, &mut prng)).collect(),
            view,
            backlog: vec![VecDeque::new(); swarm.nodes],
            clients: (0..swarm.clients).map(|at| Client::new(at as u64, allowance_ms)).collect(),
            keys: keys.collect(),
            tickets: BTreeMap::new(),
            ticket_last: 0,
            calls: BTreeMap::new(),
            call_last: 0,
            serial_last: 0,
            process_last: swarm.clients as u64,
            recorder: Recorder::new(allowance_ms),
            registers: Registers::default(),
            watch: RingWatch::new(swarm.ring),
            violation: None,
            rules,
            planted,
            image: None,
            rotten: None,
            lying: Vec::new(),
            litmus,
            calm: true,
            lulls: 0,
            lull_until: Instant::ZERO,
            clock_prng: Prng::from_seed(0),
            prng,
            swarm,
        };
        for (node, ahead_ms) in world.nodes.iter_mut().zip(ahead_ms) {
            node.clock.ahead_ms = ahead_ms as i64;
        }
        world
    }

    /// Runs to the end: the ring forms, then clients work under faults, then everything heals and settles.
    pub fn run(&mut self) -> Result<History, Violation> {
        let ended = self.run_phases();
        self.counts.ring_checks = self.watch.checks;
        self.counts.ring_checks_at_rest = self.watch.checks_at_rest;
        self.counts.rings_healed = self.watch.sound_times;
        self.counts.second_rings = self.watch.second_rings;
        self.counts.simulated_ms = self.now.as_millis();
        ended.inspect_err(|violation| self.log.push(self.now, format_args!("VIOLATION {violation}")))?;
        Ok(std::mem::take(&mut self.recorder).finish())
    }

    /// Runs until all operations are done, without anything that comes afterwards.
    pub fn run_load(&mut self) -> Result<History, Violation> {
        self.form()?;
        self.begin();
        self.run_until(|world| world.idle() && world.is_out_of_work(), LOAD_MAX)?;
        self.counts.simulated_ms = self.now.as_millis();
        Ok(std::mem::take(&mut self.recorder).finish())
    }

    fn form(&mut self) -> Result<(), Violation> {
        self.note_view();
        for node in 0..self.nodes.len() {
            self.at(Duration::ZERO, Happening::Start { node });
        }
        self.network.calm = true;
        self.expect_ideal_ring("the ring has not formed")?;
        self.network.calm = false;
        self.calm = false;
        Ok(())
    }

    fn run_phases(&mut self) -> Result<(), Violation> {
        self.form()?;
        self.begin();
        self.run_until(|world| world.idle() && world.is_out_of_work(), FAULTS_MAX)?;
        self.settle();
        self.run_until(World::idle, SETTLE_MAX)?;
        if !self.idle() {
            let found = format!("an operation is unanswered {SETTLE_MAX:?} after the faults stopped");
            return Err(Violation { invariant: "every_operation_ends", found });
        }
        self.expect_changes_complete()?;
        self.expect_ideal_ring("the ring has not healed")?;
        let ghosts = self.watch.ghosts;
        self.look_up_everything()?;
        self.expect_joined_well()?;
        self.ask_for_unknown_ends()?;
        self.read_everything()?;
        self.expect_ghosts_forgotten(ghosts)?;
        self.expect_keys_at_successor()?;
        self.run_out_of_room()
    }

    fn begin(&mut self) {
        for client in 0..self.clients.len() {
            self.at(Duration::from_millis(1), Happening::Next { client });
        }
        self.plan_fault(self.swarm.crash_every, |world| Happening::Crash { node: world.any_node() });
        self.plan_fault(self.swarm.pause_every, World::drawn_pause);
        self.plan_fault(self.swarm.partition_every, |_| Happening::Partition);
        self.plan_fault(self.swarm.power_cut_every, |_| Happening::PowerCut);
        self.plan_fault(self.swarm.sync_failure_every, |world| Happening::FailSync { node: world.any_node() });
        self.plan_fault(self.swarm.fill_every, |_| Happening::Fill);
        self.plan_fault(self.swarm.changes_every, |_| Happening::Change);
        self.plan_fault(self.swarm.rot_every, |_| Happening::Rot);
        self.plan_fault(self.swarm.lies_every, |_| Happening::Lie);
        self.plan_jump();
        if self.swarm.twin {
            self.plan_fault(Some(Duration::from_millis(200)), |_| Happening::KeepImage);
        }
        if self.swarm.lose_disk {
            self.plan_fault(Some(Duration::from_millis(300)), |_| Happening::LoseDisk);
        }
    }

    fn run_until(&mut self, done: impl Fn(&World<C>) -> bool, at_most: Duration) -> Result<(), Violation> {
        let end = self.now + at_most;
        while !done(self) && self.now < end {
            let Some(((at, planned), happening)) = self.agenda.pop_first() else { break };
            self.now = at;
            self.log.note(at, planned);
            self.counts.events += 1;
            self.registers.wall_ms = self.wall_ms_max();
            self.happen(happening);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { from, to, bytes } => self.arrive(from, to, bytes),
            Happening::Ask { client, to, call, bytes } => self.take_operation(client, to, call, bytes),
            Happening::Answer { bytes } => self.take_answer(bytes),
            Happening::Failed { call, failure } => self.take_failure(call, failure),
            Happening::Next { client } => self.next_operation(client),
            Happening::Wake { client, serial } => self.wake(client, serial),
            Happening::Tick { node, incarnation } => self.tick(node, incarnation),
            Happening::Synced { node, incarnation } => self.synced(node, incarnation),
            Happening::Look { node, incarnation } => self.look_for_room(node, incarnation),
            Happening::Clean { node, incarnation } => self.clean(node, incarnation),
            Happening::Collect { node, incarnation } => self.collect(node, incarnation),
            Happening::Seeds { node, incarnation } => self.tell_seeds(node, incarnation),
            Happening::PeerLost { node, lost, incarnation } => self.peer_lost(node, lost, incarnation),
            Happening::PeerFound { node, found } => self.peer_found(node, found),
            Happening::Crash { node } => self.crash(node, true),
            Happening::LosePower { node } => self.crash(node, false),
            Happening::Forget { node } => self.forget(node),
            Happening::Start { node } => self.start(node),
            Happening::Pause { node, length } => self.pause(node, length),
            Happening::Resume { node } => self.resume(node),
            Happening::Partition => self.partition(),
            Happening::Heal { links } => self.heal(&links),
            Happening::PowerCut => self.power_cut(),
            Happening::Lie => self.begin_lies(),
            Happening::LoseLies => self.lose_lies(),
            Happening::Rot => self.rot(),
            Happening::Scrub { node, incarnation } => self.scrub(node, incarnation),
            Happening::Change => self.change(),
            Happening::ViewNews { node } => self.view_news(node),
            Happening::GatewayNews { client } => self.gateways[client] = self.view.ring(),
            Happening::KeepHouse { node, incarnation } => self.keep_house(node, incarnation),
            Happening::NoteCopied { node, change } => self.note_copied(node, change),
            Happening::Retire { node } => self.retire(node),
            Happening::KeepImage => self.keep_image(),
            Happening::UseImage => self.use_image(),
            Happening::Replace { gone } => self.replace(gone),
            Happening::LoseDisk => self.lose_disk(),
            Happening::FailSync { node } => self.fail_sync(node),
            Happening::Fill => self.fill(),
            Happening::Empty { node } => self.nodes[node].disk.set_capacity(u64::MAX),
            Happening::ClockJump => self.jump(),
        }
    }

    fn at(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.agenda.insert((self.now + after, self.order), happening);
    }

    /// What the litmus test has shown, if one was run.
    pub fn shown(&self) -> Option<Shown> {
        self.litmus.as_ref().map(|running| running.shown)
    }

    /// Whether clients have done all that they had to do.
    fn is_out_of_work(&self) -> bool {
        let drawn = self.serial_last >= self.swarm.operations as u64;
        self.litmus.as_ref().map_or(drawn, Running::is_over)
    }

    fn idle(&self) -> bool {
        self.clients.iter().all(|client| client.current.is_none())
    }

    fn any_node(&mut self) -> usize {
        let nodes = self.nodes.len();
        self.prng.index(nodes)
    }

    fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.now.as_millis() * self.swarm.wall_speed
    }

    /// The process of an identity. If it has two, now one and now the other.
    fn index_of(&self, id: NodeId) -> usize {
        let lives = self.lives(id);
        let fits = |node: &usize| self.nodes[*node].id == id && self.nodes[*node].gone != lives;
        let mut processes = (0..self.nodes.len()).filter(fits);
        let first = processes.next().expect("only nodes that exist are spoken of");
        let turn = (self.order % 2) as usize;
        processes.next().filter(|_| turn == 1).unwrap_or(first)
    }

    /// Every token of the view, as the shell takes them for seeds: nobody is asked who is alive.
    fn everyone(&self) -> Vec<Peer> {
        let members = self.view.ring_members();
        members.flat_map(|m| m.tokens.iter().map(|position| Peer { position: *position, node: m.id })).collect()
    }

    /// Whether a node has a process that is not gone for good.
    fn lives(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.id == id && !node.gone)
    }

    /// How many tokens the nodes have that belong to the ring and have their disks.
    fn present_tokens(&self) -> usize {
        let members = self.view.ring_members().filter(|member| self.lives(member.id));
        members.map(|member| member.tokens.len()).sum()
    }

    /// Whether this bug is planted.
    fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    fn note(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.violation.get_or_insert(violation);
        }
    }
}

/// A formed view of the run's nodes, with tokens and hash key of its own.
pub(crate) fn formed_view(nodes: usize, tokens: usize, prng: &mut Prng) -> (View, KeyHasher) {
    let hasher = KeyHasher::new(&prng.next_u64().to_le_bytes());
    let mut view = View::forming(ClusterId(7), 3, nodes, hasher.fingerprint());
    for id in 1..=nodes as u64 {
        let mut member = Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens: Vec::new() };
        member.tokens = choose_tokens(&view.members, view.replication, &member, tokens, prng);
        view.members.push(member);
    }
    view.epoch = Epoch(1);
    view.validate().expect("the drawn view is sound");
    (view, hasher)
}
