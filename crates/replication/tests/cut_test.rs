//! Cuts and listings on replicas whose network delays, loses and repeats, whose processes are killed, and whose
//! membership changes; all of it drawn from a seed. The test is discovery, and the clients.
//!
//! What must hold is checked from outside, by what clients can see. Each writer goes back and forth between two keys of
//! one arc, each write after the last one: so at every point of the order of that arc the first key is level with the
//! second one, or one ahead. A cut that shows anything else shows an effect without its cause.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{
    Ballot, Change, Condition, Effects, Envelope, Input, LogPosition, Operation, Outbox, Outcome, Receipt, Record,
    RegisterKey, Replica, RequestId, Scan, ScanEntry, ScanOutcome, ScanPage, Terms, Ticket, Value, Write,
};
use stdx::{Instant, Prng, TraceContext};

const NODES: u64 = 5;
const BUCKET: BucketId = BucketId(1);
const NOISE: BucketId = BucketId(2);
/// Pairs of keys, each with a writer; a fifth of them on each arc.
const PAIRS: u64 = 20;
/// Keys that nobody writes once they are there.
const STILL: u64 = 200;

fn member(number: u64) -> Member {
    let tokens = vec![Position(number * 1000)];
    Member { id: NodeId(number), name: format!("n{number}"), zone: None, weight: 1, tokens }
}

fn key(bucket: BucketId, position: u64, name: String) -> RegisterKey {
    RegisterKey { position: Position(position), bucket, key: Bytes::from(name) }
}

/// Pair `at`: both on one arc, however the ring changes, since their positions are neighbours.
fn pair(at: u64, second: bool) -> RegisterKey {
    let position = at * 5_000 / PAIRS + 100 + u64::from(second);
    key(BUCKET, position, format!("pair-{at}-{second}"))
}

fn still(at: u64) -> RegisterKey {
    key(BUCKET, at * 5_500 / STILL + 7, format!("still-{at}"))
}

struct World {
    prng: Prng,
    now: Instant,
    view: View,
    replicas: BTreeMap<NodeId, Replica>,
    logs: BTreeMap<NodeId, Vec<(LogPosition, Record)>>,
    starts: BTreeMap<NodeId, u64>,
    /// Messages under way, with the time of their arrival.
    network: Vec<(Instant, NodeId, Envelope)>,
    /// Views on their way.
    news: Vec<(Instant, NodeId, View)>,
    answers: BTreeMap<Ticket, (Outcome, Receipt)>,
    scans: BTreeMap<Ticket, ScanOutcome>,
    tickets: u64,
    loss: f64,
    /// Nodes that nothing reaches and nothing leaves.
    away: BTreeSet<NodeId>,
}

impl World {
    fn new(seed: u64, loss: f64) -> World {
        let base = View::forming(ClusterId(1), 3, NODES as usize, 0);
        let members = (1..=NODES).map(member).collect();
        let mut world = World {
            prng: Prng::from_seed(seed),
            now: Instant::ZERO,
            view: View { epoch: Epoch(1), members, ..base },
            replicas: BTreeMap::new(),
            logs: BTreeMap::new(),
            starts: BTreeMap::new(),
            network: Vec::new(),
            news: Vec::new(),
            answers: BTreeMap::new(),
            scans: BTreeMap::new(),
            tickets: 0,
            loss,
            away: BTreeSet::new(),
        };
        for number in 1..=NODES {
            world.start(NodeId(number));
        }
        world
    }

    fn start(&mut self, node: NodeId) {
        let start = self.starts.entry(node).or_default();
        *start += 1;
        let mut replica = Replica::new(node, self.view.clone(), self.prng.fork());
        replica.set_incarnation(*start);
        for (position, record) in self.logs.entry(node).or_default().clone() {
            replica.restore(position, record);
        }
        let mut out = Outbox::default();
        replica.begin(self.now, &mut out);
        self.replicas.insert(node, replica);
        self.take(node, out.drain());
    }

    fn take(&mut self, node: NodeId, effects: Effects) {
        let last = effects.persist.last().map(|(position, _)| *position);
        self.logs.entry(node).or_default().extend(effects.persist);
        for envelope in effects.send {
            if self.away.contains(&node) || self.away.contains(&envelope.to) {
                continue;
            }
            let copies = u64::from(self.prng.unit() >= self.loss) + u64::from(self.prng.unit() < self.loss);
            for _ in 0..copies {
                let late = self.prng.unit() < 0.05;
                let micros = 100 + self.prng.below(if late { 20_000 } else { 1_500 });
                self.network.push((self.now + Duration::from_micros(micros), node, envelope.clone()));
            }
        }
        for answer in effects.answers {
            self.answers.insert(answer.ticket, (answer.outcome, answer.receipt));
        }
        for (ticket, outcome) in effects.scans {
            assert!(self.scans.insert(ticket, outcome).is_none(), "a scan is answered once");
        }
        if let Some(position) = last {
            self.tell(node, Input::Synced(position));
        }
    }

    fn tell(&mut self, node: NodeId, input: Input) {
        let Some(replica) = self.replicas.get_mut(&node) else { return };
        let mut out = Outbox::default();
        replica.handle(self.now, input, &mut out);
        let effects = out.drain();
        self.take(node, effects);
    }

    /// A tenth of a millisecond passes.
    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(100);
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.network).into_iter().partition(|(at, ..)| *at <= now);
        self.network = later;
        let due: Vec<(Instant, NodeId, Envelope)> = due;
        for (_, from, Envelope { to, message, context }) in due {
            let incarnation = self.starts.get(&from).copied().unwrap_or(1);
            self.tell(to, Input::Message { from, incarnation, message, context });
        }
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.news).into_iter().partition(|n| n.0 <= now);
        self.news = later;
        for (_, node, view) in due {
            self.tell(node, Input::View(view));
        }
        let timed = |replica: &Replica| replica.next_timeout().is_some_and(|at| at <= now);
        for node in self.replicas.iter().filter(|(_, r)| timed(r)).map(|(id, _)| *id).collect::<Vec<_>>() {
            self.tell(node, Input::Tick);
        }
    }

    fn publish(&mut self, view: View) {
        view.validate().expect("the view is sound");
        self.view = view;
        for node in self.replicas.keys().copied().collect::<Vec<_>>() {
            let at = self.now + Duration::from_micros(self.prng.below(30_000));
            self.news.push((at, node, self.view.clone()));
        }
    }

    /// Discovery hears who has copied what.
    fn note_copied(&mut self) {
        for node in self.replicas.keys().copied().collect::<Vec<_>>() {
            for change in self.replicas[&node].copied_changes() {
                if let Ok(next) = self.view.note_copied(change, node)
                    && next != self.view
                {
                    self.publish(next);
                }
            }
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn somebody(&mut self, position: Position) -> NodeId {
        let nodes = self.view.ring().replicas_of(position);
        nodes[self.prng.below(nodes.len() as u64) as usize]
    }

    fn kill(&mut self, node: NodeId) {
        self.replicas.remove(&node);
        self.start(node);
    }
}

/// A client that writes the two keys of a pair in turn.
struct Writer {
    at: u64,
    /// How many writes were acknowledged: the first key's number is half of it, rounded up.
    done: u64,
    since: Ballot,
    asked: Option<(Ticket, Instant)>,
    retry: bool,
}

impl Writer {
    fn new(at: u64) -> Writer {
        Writer { at, done: 0, since: Ballot::ZERO, asked: None, retry: false }
    }

    /// What the keys hold at least: the first, the second.
    fn acknowledged(&self) -> (u64, u64) {
        (self.done.div_ceil(2), self.done / 2)
    }

    fn drive(&mut self, world: &mut World) {
        if let Some((ticket, deadline)) = self.asked {
            match world.answers.remove(&ticket) {
                Some((Outcome::Done { .. }, receipt)) => {
                    self.done += 1;
                    self.since = self.since.max(receipt.time);
                    (self.asked, self.retry) = (None, false);
                }
                Some(_) => (self.asked, self.retry) = (None, true),
                None if world.now > deadline + Duration::from_millis(20) => (self.asked, self.retry) = (None, true),
                None => return,
            }
        }
        let key = pair(self.at, !self.done.is_multiple_of(2));
        let number = self.done / 2 + 1;
        let request = RequestId((u128::from(self.at) << 64) + u128::from(self.done) + 1);
        let value = Value { body: Bytes::from(number.to_string()), content_type: Bytes::new() };
        let node = world.somebody(key.position);
        let write = Write {
            key,
            request,
            first_sent_ms: 1,
            retry: self.retry,
            condition: Condition::Always,
            change: Change::Put(value),
            terms: Terms::default(),
        };
        let operation = Operation::Write(write);
        let operation = Operation::InSession { since: self.since, sequential: false, operation: Box::new(operation) };
        let (ticket, deadline) = (world.ticket(), world.now + Duration::from_millis(50));
        self.asked = Some((ticket, deadline));
        world.tell(node, Input::Operation { ticket, operation, deadline, wall_ms: 100, context: TraceContext::NONE });
    }
}

/// A client that goes round the ring, arc by arc.
struct Lister {
    from: Position,
    to: Position,
    after: Option<RegisterKey>,
    cut: u64,
    keep: bool,
    entries_max: u32,
    asked: Option<(Ticket, Instant, NodeId)>,
    /// Of the cut that is being read, by key; and what was acknowledged when it was asked for.
    cut_entries: Vec<ScanEntry>,
    acknowledged: Vec<(u64, u64)>,
    listed: BTreeSet<RegisterKey>,
    cuts: u64,
    done: bool,
}

impl Lister {
    fn new(keep: bool, entries_max: u32, start: u64) -> Lister {
        Lister {
            from: Position(start),
            to: Position(start.wrapping_sub(1)),
            after: None,
            cut: 0,
            keep,
            entries_max,
            asked: None,
            cut_entries: Vec::new(),
            acknowledged: Vec::new(),
            listed: BTreeSet::new(),
            cuts: 0,
            done: false,
        }
    }

    fn drive(&mut self, world: &mut World, writers: &[Writer]) {
        if self.done {
            return;
        }
        if let Some((ticket, deadline, node)) = self.asked {
            match world.scans.remove(&ticket) {
                Some(ScanOutcome::Page(page)) => self.take(page),
                Some(ScanOutcome::Gone) => self.again(),
                Some(ScanOutcome::Refused(_)) => {}
                // The node was killed.
                None if world.now > deadline + Duration::from_millis(20) => self.again(),
                None => return,
            }
            self.asked = (self.cut != 0).then_some((ticket, deadline, node));
            if self.done {
                return;
            }
        }
        if self.cut == 0 && self.cut_entries.is_empty() {
            self.acknowledged = writers.iter().map(Writer::acknowledged).collect();
        }
        let node = match self.asked {
            Some((.., node)) => node,
            None => world.somebody(self.from),
        };
        let scan = Scan {
            bucket: BUCKET,
            prefix: Bytes::new(),
            from: self.from,
            to: self.to,
            after: self.after.clone(),
            cut: self.cut,
            keep: self.keep,
            values: self.keep,
            entries_max: self.entries_max,
            since: 0,
        };
        let (ticket, deadline) = (world.ticket(), world.now + Duration::from_millis(500));
        self.asked = Some((ticket, deadline, node));
        world.tell(node, Input::Scan { ticket, scan, deadline, context: TraceContext::NONE });
    }

    /// The cut is gone: the arc begins again.
    fn again(&mut self) {
        if self.keep {
            (self.cut, self.after) = (0, None);
            self.cut_entries.clear();
        }
    }

    fn take(&mut self, page: ScanPage) {
        assert!(page.entries.len() <= self.entries_max as usize);
        assert!(!page.more || !page.entries.is_empty(), "a page gets on");
        self.cut_entries.extend(page.entries);
        if page.more {
            self.after = self.cut_entries.last().map(|entry| entry.key.clone());
            self.cut = page.cut;
            assert_eq!(self.keep, page.cut != 0);
            return;
        }
        let entries = std::mem::take(&mut self.cut_entries);
        if self.keep {
            self.judge_cut(&entries);
        }
        for entry in entries {
            assert!(self.listed.insert(entry.key.clone()), "listed twice: {:?}", entry.key);
        }
        (self.cut, self.after) = (0, None);
        self.done = page.through == self.to;
        self.from = Position(page.through.0.wrapping_add(1));
    }

    /// Each pair of the arc is as it was at one point of its order, and that lies behind all that was acknowledged.
    fn judge_cut(&mut self, entries: &[ScanEntry]) {
        self.cuts += 1;
        let held: BTreeMap<&RegisterKey, u64> = entries.iter().map(|entry| (&entry.key, number(entry))).collect();
        let of = |key: RegisterKey| held.get(&key).copied().unwrap_or(0);
        let within = |key: &RegisterKey| entries.iter().any(|entry| entry.key == *key);
        for (at, (first, second)) in self.acknowledged.iter().enumerate() {
            let keys = (pair(at as u64, false), pair(at as u64, true));
            if !within(&keys.0) && !within(&keys.1) {
                continue;
            }
            let (a, b) = (of(keys.0), of(keys.1));
            assert!(b <= a && a <= b + 1, "pair {at}: {a} and {b} were never there together");
            assert!(a >= *first && b >= *second, "pair {at}: {a}, {b}, and {first}, {second} was acknowledged before");
        }
    }
}

fn number(entry: &ScanEntry) -> u64 {
    let Some(value) = &entry.value else { return 0 };
    std::str::from_utf8(&value.body).expect("text").parse().expect("a number")
}

/// Puts what nobody changes, and one of another bucket beside each.
fn seed_still(world: &mut World) {
    let keys = (0..STILL).flat_map(|at| [still(at), RegisterKey { bucket: NOISE, ..still(at) }]);
    let mut left: BTreeMap<RegisterKey, Option<Ticket>> = keys.map(|key| (key, None)).collect();
    while !left.is_empty() {
        for (index, (key, asked)) in left.clone().into_iter().enumerate() {
            let done = asked.and_then(|ticket| world.answers.remove(&ticket));
            if matches!(done, Some((Outcome::Done { .. }, _))) {
                left.remove(&key);
            } else if asked.is_none() || done.is_some() {
                let (ticket, deadline) = (world.ticket(), world.now + Duration::from_millis(500));
                let node = world.somebody(key.position);
                let value = Value { body: Bytes::from_static(b"7"), content_type: Bytes::new() };
                let write = Write {
                    key: key.clone(),
                    request: RequestId((9 << 90) + index as u128 + (u128::from(key.bucket.0) << 70)),
                    first_sent_ms: 1,
                    retry: true,
                    condition: Condition::Always,
                    change: Change::Put(value),
                    terms: Terms::default(),
                };
                let (operation, context) = (Operation::Write(write), TraceContext::NONE);
                world.tell(node, Input::Operation { ticket, operation, deadline, wall_ms: 100, context });
                left.insert(key, Some(ticket));
            }
        }
        world.step();
    }
}

/// Runs writers, two that list with cuts and one that lists without, kills and a join; checks all of them.
fn run(seed: u64, loss: f64, kills: bool, joins: bool) -> u64 {
    let mut world = World::new(seed, loss);
    seed_still(&mut world);
    let mut writers: Vec<Writer> = (0..PAIRS).map(Writer::new).collect();
    let mut listers = [Lister::new(true, 7, 1_001), Lister::new(true, 100, 0), Lister::new(false, 9, 0)];
    let begin = world.now;
    let mut steps = 0;
    while listers.iter().any(|lister| !lister.done) {
        steps += 1;
        if joins && steps == 20 {
            let view = world.view.begin_join(Member { tokens: vec![Position(2_500)], ..member(6) });
            let view = view.expect("it may join");
            world.start(NodeId(6));
            world.publish(view);
        }
        if kills && world.prng.unit() < 0.002 {
            let node = NodeId(1 + world.prng.below(NODES));
            world.kill(node);
        }
        writers.iter_mut().for_each(|writer| writer.drive(&mut world));
        listers.iter_mut().for_each(|lister| lister.drive(&mut world, &writers));
        world.note_copied();
        world.step();
        assert!(world.now.since(begin) < Duration::from_secs(60), "seed {seed}: a listing never ends");
    }
    for lister in &listers {
        for at in 0..STILL {
            assert!(lister.listed.contains(&still(at)), "seed {seed}: {at} was there all the time, and is not listed");
        }
        assert!(lister.listed.iter().all(|key| key.bucket == BUCKET), "another bucket's");
    }
    assert!(writers.iter().all(|writer| writer.done > 0), "the writers got on meanwhile");
    listers.iter().map(|lister| lister.cuts).sum()
}

/// How many seeds each test runs: few in the suite, as many as are asked for where somebody looks for more.
fn seeds() -> u64 {
    std::env::var("EVERRING_CUT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

#[test]
fn a_cut_is_one_point_of_an_arcs_order_while_writes_go_on() {
    for seed in 0..seeds() {
        assert!(run(seed, 0.0, false, false) >= 10);
    }
}

#[test]
fn nor_do_loss_and_kills_change_that() {
    for seed in 100..100 + seeds() {
        run(seed, 0.03, true, false);
    }
}

#[test]
fn a_listing_across_a_join_loses_no_key_and_doubles_none() {
    for seed in 200..200 + seeds() {
        run(seed, 0.01, seed % 2 == 0, true);
    }
}

/// A replica that was out of hearing takes its cut at a counter that lies below what the others have come to meanwhile.
#[test]
fn what_was_acknowledged_out_of_hearing_is_in_the_cut() {
    let mut world = World::new(7, 0.0);
    let key = pair(3, false);
    let nodes = world.view.ring().replicas_of(key.position);
    world.away.insert(nodes[2]);
    for number in 1..=200u64 {
        let value = Value { body: Bytes::from(number.to_string()), content_type: Bytes::new() };
        let write = Write {
            key: key.clone(),
            request: RequestId(u128::from(number)),
            first_sent_ms: 1,
            retry: false,
            condition: Condition::Always,
            change: Change::Put(value),
            terms: Terms::default(),
        };
        let (ticket, deadline) = (world.ticket(), world.now + Duration::from_secs(5));
        let (operation, context) = (Operation::Write(write), TraceContext::NONE);
        world.tell(nodes[0], Input::Operation { ticket, operation, deadline, wall_ms: 100, context });
        while !world.answers.contains_key(&ticket) {
            world.step();
        }
    }
    world.away.clear();
    let scan = Scan {
        bucket: BUCKET,
        prefix: Bytes::new(),
        from: key.position,
        to: key.position,
        after: None,
        cut: 0,
        keep: false,
        values: true,
        entries_max: 10,
        since: 0,
    };
    let (ticket, deadline) = (world.ticket(), world.now + Duration::from_secs(5));
    world.tell(nodes[2], Input::Scan { ticket, scan, deadline, context: TraceContext::NONE });
    while !world.scans.contains_key(&ticket) {
        world.step();
    }
    let Some(ScanOutcome::Page(page)) = world.scans.remove(&ticket) else { panic!("no page") };
    assert_eq!(page.entries.iter().map(number).collect::<Vec<_>>(), [200]);
}
