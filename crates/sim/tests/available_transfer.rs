//! The transfer of available keys when homes change: how much moves in which time, how far it says to be, and what
//! becomes of it when its target and its sources are killed. The network is perfect and disks sync at once; the test
//! is discovery. Passes as a safety net are an hour away, so nothing here rests on them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use available::{
    Action, Body, Change, Config, CopyStatus, Effects, Envelope, Event, Input, Kind, Level, Operation, Outbox, Outcome,
    Past, Record, Replica, Rule, Write,
};
use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{LogPosition, RegisterKey, RequestId, Ticket, Value};
use stdx::{Budget, Instant, Prng, TraceContext};
use wire::codec::encode_available_message;

const KEYS: u64 = 2_000;
const VALUE_BYTES: usize = 4_000;
const SAFETY_NET: Duration = Duration::from_secs(3_600);
/// What may move before it is paid for: a page that was asked for and one that was owed, and their frames.
const BURST: u64 = 2 * 300 * 1024;

/// Nodes, and all that is under way between them.
struct Fleet {
    rule: Option<Rule>,
    now: Instant,
    view: View,
    nodes: BTreeMap<NodeId, Replica>,
    logs: BTreeMap<NodeId, Vec<(LogPosition, Record)>>,
    starts: BTreeMap<NodeId, u64>,
    rates: BTreeMap<NodeId, u64>,
    network: VecDeque<(NodeId, Envelope)>,
    /// Bytes of messages with states, by whom they are charged to: who asked for them, or who sent them unasked.
    moved: BTreeMap<NodeId, u64>,
    outcomes: BTreeMap<Ticket, Outcome>,
    copied: Vec<(NodeId, u64, usize)>,
    tickets: u64,
}

fn id(number: u64) -> NodeId {
    NodeId(number)
}

fn member(number: u64, token: u64) -> Member {
    Member { id: id(number), name: format!("n{number}"), zone: None, weight: 1, tokens: vec![Position(token)] }
}

/// Keys lie evenly on (0, 5000], so a fifth of them on each arc of five nodes.
fn key(number: u64) -> RegisterKey {
    let position = Position(number * 5_000 / KEYS + 1);
    RegisterKey { position, bucket: BucketId(1), key: Bytes::from(format!("k{number}")) }
}

impl Fleet {
    /// Five nodes that hold all keys.
    fn filled(rule: Option<Rule>) -> Fleet {
        let view = View::forming(ClusterId(1), 3, 5, 0);
        let members = (1..=5).map(|number| member(number, number * 1_000)).collect();
        let mut fleet = Fleet {
            rule,
            now: Instant::ZERO,
            view: View { epoch: Epoch(1), members, ..view },
            nodes: BTreeMap::new(),
            logs: BTreeMap::new(),
            starts: BTreeMap::new(),
            rates: BTreeMap::new(),
            network: VecDeque::new(),
            moved: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            copied: Vec::new(),
            tickets: 0,
        };
        for number in 1..=5 {
            fleet.start(id(number));
        }
        fleet.wait(Duration::from_millis(500));
        for number in 0..KEYS {
            fleet.put(number);
        }
        fleet.wait(Duration::from_millis(500));
        fleet.moved.clear();
        fleet
    }

    /// Starts a node on what its log holds, with the newest view.
    fn start(&mut self, node: NodeId) {
        let start = self.starts.entry(node).or_default();
        *start += 1;
        let config = Config { pass_every: SAFETY_NET, ..Config::default() };
        let prng = Prng::from_seed(node.0 << 8 | *start);
        let mut replica = Replica::new(node, *start, self.view.clone(), b"secret", config, prng);
        if let Some(rule) = self.rule {
            replica = replica.without(rule);
        }
        if let Some(rate) = self.rates.get(&node) {
            replica.set_budget(Budget::new(*rate));
        }
        for (position, record) in self.logs.entry(node).or_default().clone() {
            replica.restore(position, record);
        }
        let mut out = Outbox::default();
        replica.begin(self.now, 1, &mut out);
        self.nodes.insert(node, replica);
        self.take(node, out.drain());
    }

    /// A node is killed: what it had sent arrives, what is on its way to it is lost.
    fn kill(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.network.retain(|(_, envelope)| envelope.to != node);
        self.tell_others(node, Input::PeerLost(node));
    }

    fn restart(&mut self, node: NodeId) {
        self.start(node);
        self.tell_others(node, Input::PeerFound(node));
    }

    fn tell_others(&mut self, node: NodeId, input: Input) {
        for other in self.ids().into_iter().filter(|other| *other != node) {
            self.tell(other, input.clone());
        }
    }

    fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    fn tell(&mut self, node: NodeId, input: Input) {
        let Some(replica) = self.nodes.get_mut(&node) else { return };
        let mut out = Outbox::default();
        replica.handle(self.now, input, &mut out);
        self.take(node, out.drain());
    }

    fn take(&mut self, node: NodeId, effects: Effects) {
        let last = effects.persist.last().map(|(position, _)| *position);
        self.logs.entry(node).or_default().extend(effects.persist);
        for envelope in &effects.send {
            let charged_to = match &envelope.message.body {
                Body::Have { .. } | Body::Tell { .. } => envelope.to,
                Body::Store { .. } => node,
                _ => continue,
            };
            *self.moved.entry(charged_to).or_default() += encode_available_message(&envelope.message).len() as u64;
        }
        self.network.extend(effects.send.into_iter().map(|envelope| (node, envelope)));
        self.outcomes.extend(effects.answers.into_iter().map(|answer| (answer.ticket, answer.outcome)));
        for event in effects.events {
            if let Event::ArcCopied { keys, verified_with, .. } = event {
                self.copied.push((node, keys, verified_with));
            }
        }
        if let Some(position) = last {
            self.tell(node, Input::Synced(position));
        }
    }

    /// Delivers all that is under way, and what follows from it, in no time.
    fn settle(&mut self) {
        while let Some((from, Envelope { to, message, context })) = self.network.pop_front() {
            self.tell(to, Input::Message { from, message, context });
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.due().is_some_and(|due| due <= end) {
            self.tick();
            self.settle();
        }
        self.now = end;
    }

    /// Goes on to when the next timer runs out. What is said then is under way.
    fn tick(&mut self) {
        self.now = self.due().map_or(self.now, |due| due.max(self.now));
        for node in self.ids() {
            self.tell(node, Input::Tick { wall_ms: self.now.as_millis() });
        }
    }

    /// When somebody does something by itself.
    fn due(&self) -> Option<Instant> {
        self.nodes.values().filter_map(Replica::next_timeout).min()
    }

    /// Waits until it is so; whether it came to be so in the time.
    fn wait_until(&mut self, at_most: Duration, done: impl Fn(&Fleet) -> bool) -> bool {
        let end = self.now + at_most;
        while !done(self) && self.now < end {
            self.wait(Duration::from_millis(1));
        }
        done(self)
    }

    /// Discovery has a new view, and everybody hears of it before anything else happens.
    fn publish(&mut self, view: View) {
        view.validate().expect("the view is sound");
        self.view = view;
        for node in self.ids() {
            self.tell(node, Input::View(self.view.clone()));
        }
    }

    /// A node with this token is to join, at this many bytes a second.
    fn join(&mut self, number: u64, token: u64, rate: u64) {
        let joining = self.view.begin_join(member(number, token)).expect("it may join");
        self.rates.insert(id(number), rate);
        self.publish(joining);
        self.start(id(number));
    }

    /// Nodes copy, and say so, until no change is pending; whether that came in the time.
    fn complete(&mut self, at_most: Duration) -> bool {
        let end = self.now + at_most;
        while !self.view.pending.is_empty() && self.now < end {
            self.wait(Duration::from_millis(50));
            for node in self.ids() {
                for change in self.nodes[&node].copied_changes() {
                    if let Ok(next) = self.view.note_copied(change, node)
                        && next != self.view
                    {
                        self.publish(next);
                    }
                }
            }
        }
        self.view.pending.is_empty()
    }

    fn status(&self, number: u64) -> CopyStatus {
        self.nodes.get(&id(number)).map(Replica::copy_status).unwrap_or_default()
    }

    fn put(&mut self, number: u64) {
        self.tickets += 1;
        let (key, ticket) = (key(number), Ticket(self.tickets));
        let home = self.view.ring().replicas_of(key.position)[0];
        let write = Write {
            key: key.clone(),
            kind: Kind::Value,
            request: RequestId(u128::from(self.tickets)),
            first_sent_ms: 1,
            context: None,
            order: self.tickets,
            firm: false,
            change: Change::Put(Value { body: Bytes::from(vec![b'.'; VALUE_BYTES]), content_type: Bytes::new() }),
        };
        let (past, action) = (Past::default(), Action::Write(write));
        let operation = Operation { key, level: Level::Causal, past, stand_in: false, action };
        let (deadline, wall_ms, context) = (self.now + Duration::from_secs(1), 1, TraceContext::NONE);
        self.tell(home, Input::Operation { ticket, operation, deadline, wall_ms, context });
        self.settle();
        assert!(matches!(self.outcomes.get(&ticket), Some(Outcome::Done { .. })), "k{number}");
    }

    /// How many keys the node is a home of, or is to become one of.
    fn share(&self, number: u64) -> u64 {
        let ring = self.view.ring();
        let held = (0..KEYS).filter(|at| ring.sets_of(key(*at).position).contains(id(number)));
        held.count() as u64
    }

    fn held(&self, number: u64) -> u64 {
        self.nodes.get(&id(number)).map_or(0, |replica| replica.table().len() as u64)
    }

    /// Each node may move so much in a second, now and when it starts again.
    fn set_rates(&mut self, rate: u64) {
        for (node, replica) in &mut self.nodes {
            self.rates.insert(*node, rate);
            replica.set_budget(Budget::new(rate));
        }
    }

    fn moved_by(&self, number: u64) -> u64 {
        self.moved.get(&id(number)).copied().unwrap_or(0)
    }
}

/// What moves in each node's name keeps to its budget, and the target says how far it is.
#[test]
fn a_transfer_keeps_to_the_budget_and_says_how_far_it_is() {
    const RATE: u64 = 400_000;
    let mut fleet = Fleet::filled(None);
    fleet.set_rates(RATE);
    let begun = fleet.now;
    fleet.join(6, 2_500, RATE);
    let (share, mut midway) = (fleet.share(6), 0);
    while fleet.status(6).arcs_copied < 3 {
        fleet.wait(Duration::from_millis(100));
        let elapsed_ms = fleet.now.since(begun).as_millis() as u64;
        for number in 1..=6 {
            let (moved, paid) = (fleet.moved_by(number), RATE * elapsed_ms / 1_000);
            assert!(moved <= paid + BURST, "n{number} moved {moved} bytes, {paid} of them paid for");
        }
        let status = fleet.status(6);
        assert_eq!(status.arcs, 3);
        midway += u64::from(status.keys > 0 && status.keys < share);
        assert!(elapsed_ms < 120_000, "{status:?}");
    }
    assert!(midway > 5, "it was seen {midway} times in the middle");
    let in_all: u64 = (1..=6).map(|number| fleet.moved_by(number)).sum();
    assert!(in_all > 2 * BURST, "{in_all} bytes say nothing of a rate");
    let status = fleet.status(6);
    assert_eq!((status.arcs_verified, status.keys), (3, share), "nobody writes");
    assert!(status.bytes >= share * VALUE_BYTES as u64, "{status:?}");
    assert_eq!(fleet.copied.iter().map(|(_, keys, _)| keys).sum::<u64>(), share);
    assert!(fleet.copied.iter().all(|(node, _, verified_with)| *node == id(6) && *verified_with >= 2));
    assert!(fleet.complete(Duration::from_secs(1)));
}

/// The target dies in the middle of its passes, and each of the sources in the middle of a pass with it: what was
/// copied is kept, and the rest is asked for again.
#[test]
fn a_transfer_outlives_its_target_and_its_sources() {
    let mut fleet = Fleet::filled(None);
    fleet.set_rates(400_000);
    fleet.join(6, 2_500, 400_000);
    let share = fleet.share(6);
    let mut held = 0;
    for killed in [6, 1, 2, 6, 3] {
        let more = fleet.wait_until(Duration::from_secs(60), |fleet| fleet.held(6) > held);
        held = fleet.held(6);
        assert!(more && held < share, "{held} of {share} before n{killed} is killed");
        assert!(fleet.status(6).arcs_copied < 3);
        fleet.kill(id(killed));
        fleet.wait(Duration::from_millis(100));
        fleet.restart(id(killed));
        assert!(fleet.held(6) >= held, "what was copied is kept");
    }
    assert!(fleet.complete(Duration::from_secs(60)), "{:?}", fleet.status(6));
    assert_eq!(fleet.held(6), share);
}

/// A source that does not come back holds up nothing: the others are enough.
#[test]
fn a_transfer_ends_without_one_source() {
    let mut fleet = Fleet::filled(None);
    fleet.set_rates(400_000);
    fleet.join(6, 2_500, 400_000);
    assert!(fleet.wait_until(Duration::from_secs(60), |fleet| fleet.held(6) > 0));
    fleet.kill(id(3));
    assert!(fleet.complete(Duration::from_secs(60)), "{:?}", fleet.status(6));
    assert_eq!(fleet.held(6), fleet.share(6));
}

/// The target of a transfer dies when it has fetched all and not compared it with everybody, and a source with it;
/// while they are down the change is given up and begun anew. Of that the target hears with passes under way that say
/// nothing of the new change. They end, and do not stand for those that are due.
fn killed_while_the_change_begins_anew(rule: Option<Rule>) -> bool {
    let (target, source) = (4, 3);
    let mut fleet = Fleet::filled(rule);
    fleet.set_rates(1_000_000);
    let leave = |view: &View| {
        let leaving = view.begin_leave_moving(BTreeSet::from([id(1)]), false, BTreeMap::new());
        leaving.expect("five can spare one")
    };
    fleet.publish(leave(&fleet.view));
    assert!(fleet.wait_until(Duration::from_secs(60), |fleet| fleet.held(target) == fleet.share(target)));
    let status = fleet.status(target);
    assert!(status.keys > 0 && status.arcs_copied < status.arcs, "{status:?}");
    for killed in [target, source] {
        fleet.kill(id(killed));
    }
    for killed in [source, target] {
        fleet.restart(id(killed));
    }
    let asks = |fleet: &Fleet| {
        let from_target = fleet.network.iter().filter(|(from, _)| *from == id(target));
        from_target.filter(|(_, envelope)| matches!(envelope.message.body, Body::Ask { .. })).count()
    };
    // It has met the others again: what it asks now it asks those who run now.
    fleet.settle();
    while asks(&fleet) == 0 {
        fleet.settle();
        fleet.tick();
    }
    let given_up = fleet.view.abandon(fleet.view.pending[0].id).expect("it is under way");
    fleet.publish(leave(&given_up));
    fleet.settle();
    fleet.complete(Duration::from_secs(30))
}

#[test]
fn a_pass_of_before_a_change_does_not_put_off_the_one_that_is_due() {
    assert!(killed_while_the_change_begins_anew(None));
    assert!(!killed_while_the_change_begins_anew(Some(Rule::PassPutOff)), "the arcs would wait for the safety net");
}
