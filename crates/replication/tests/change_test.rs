//! Changes of membership on replicas with a perfect network and disks that sync at once; the test is discovery.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{
    AllBut, Ballot, Body, Change, Condition, Effects, Envelope, Event, Input, LogPosition, Message, Operation, Outbox,
    Outcome, REQUESTS_AGE_MAX_MS, Receipt, Record, Refusal, RegisterKey, Replica, RequestId, RoundId, Rule, State,
    Terms, Ticket, Value, Write,
};
use stdx::{Budget, Instant, Prng, TraceContext};

const KEYS: u64 = 600;

/// A ring whose replicas keep, or break, these rules.
struct Ring {
    rules: AllBut,
    now: Instant,
    view: View,
    replicas: BTreeMap<NodeId, Replica<AllBut>>,
    logs: BTreeMap<NodeId, Vec<(LogPosition, Record)>>,
    network: VecDeque<(NodeId, Envelope)>,
    answers: BTreeMap<Ticket, Outcome>,
    receipts: BTreeMap<Ticket, Receipt>,
    events: Vec<(NodeId, Event)>,
    /// Nodes that nothing reaches and nothing leaves.
    away: BTreeSet<NodeId>,
    /// Answers to a copy in which the first state is to be replaced by an older one.
    spoil: u32,
    /// States that travelled by copying.
    fetched: u64,
    tickets: u64,
}

fn id(number: u64) -> NodeId {
    NodeId(number)
}

fn member(number: u64) -> Member {
    Member { id: id(number), name: format!("n{number}"), zone: None, weight: 1, tokens: vec![Position(number * 1000)] }
}

/// Keys lie evenly on (0, 5000], so a fifth of them on each arc of five nodes.
fn key(number: u64) -> RegisterKey {
    let position = Position(number * 5000 / KEYS + 1);
    RegisterKey { position, bucket: BucketId(1), key: Bytes::from(format!("k{number}")) }
}

impl Ring {
    fn new(nodes: u64) -> Ring {
        Ring::under(AllBut(None), nodes)
    }

    fn under(rules: AllBut, nodes: u64) -> Ring {
        let members = (1..=nodes).map(member).collect();
        let base = View::forming(ClusterId(1), 3, nodes as usize, 0);
        let mut ring = Ring {
            rules,
            now: Instant::ZERO,
            view: View { epoch: Epoch(1), members, ..base },
            replicas: BTreeMap::new(),
            logs: BTreeMap::new(),
            network: VecDeque::new(),
            answers: BTreeMap::new(),
            receipts: BTreeMap::new(),
            events: Vec::new(),
            away: BTreeSet::new(),
            spoil: 0,
            fetched: 0,
            tickets: 0,
        };
        for number in 1..=nodes {
            ring.start(id(number), ring.view.clone());
        }
        ring.wait(Duration::from_millis(300));
        ring
    }

    fn start(&mut self, node: NodeId, view: View) {
        let mut replica = Replica::with_rules(node, view, Prng::from_seed(node.0), self.rules);
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
        self.network.extend(effects.send.into_iter().map(|envelope| (node, envelope)));
        for answer in effects.answers {
            self.answers.insert(answer.ticket, answer.outcome);
            self.receipts.insert(answer.ticket, answer.receipt);
        }
        self.events.extend(effects.events.into_iter().map(|event| (node, event)));
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

    fn settle(&mut self) {
        while let Some((from, Envelope { to, mut message, context })) = self.network.pop_front() {
            if let Body::Fetched { entries, .. } = &mut message.body {
                self.fetched += entries.len() as u64;
                if self.spoil > 0 {
                    self.spoil -= 1;
                    (entries[0].1, entries[0].2) = (Ballot { counter: 1, node: NodeId(0) }, State::default());
                }
            }
            if !self.away.contains(&from) && !self.away.contains(&to) {
                self.tell(to, Input::Message { from, incarnation: 1, message, context });
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            for node in self.replicas.keys().copied().collect::<Vec<_>>() {
                self.tell(node, Input::Tick);
            }
            self.settle();
        }
    }

    /// Discovery has a new view, and everybody who is not away hears of it.
    fn publish(&mut self, view: View) {
        view.validate().expect("the view is sound");
        self.view = view;
        for node in self.replicas.keys().copied().collect::<Vec<_>>() {
            if !self.away.contains(&node) {
                self.tell(node, Input::View(self.view.clone()));
            }
        }
        self.settle();
    }

    /// Nodes copy, and say so, until no change is pending.
    fn complete(&mut self) {
        for _ in 0..200 {
            self.wait(Duration::from_millis(20));
            for node in self.replicas.keys().copied().collect::<Vec<_>>() {
                for change in self.replicas[&node].copied_changes() {
                    let next = self.view.note_copied(change, node);
                    if let Ok(next) = next.map(|next| (next != self.view).then_some(next)) {
                        next.into_iter().for_each(|next| self.publish(next));
                    }
                }
            }
            if self.view.pending.is_empty() {
                // Dropping what is not one's own takes a few goes more.
                return self.wait(Duration::from_millis(50));
            }
        }
        panic!("never complete: {:?}", self.view.pending);
    }

    fn submit(&mut self, at: NodeId, operation: Operation) -> Ticket {
        self.tickets += 1;
        let (ticket, deadline) = (Ticket(self.tickets), self.now + Duration::from_secs(1));
        self.tell(at, Input::Operation { ticket, operation, deadline, wall_ms: 100, context: TraceContext::NONE });
        ticket
    }

    fn ask(&mut self, at: NodeId, operation: Operation) -> Outcome {
        let ticket = self.submit(at, operation);
        self.settle();
        if !self.answers.contains_key(&ticket) {
            self.wait(Duration::from_millis(1_100));
        }
        self.answers[&ticket].clone()
    }

    fn owner(&self, number: u64) -> NodeId {
        self.view.ring().replicas_of(key(number).position)[0]
    }

    fn put(&mut self, at: NodeId, number: u64, text: &str) -> Outcome {
        let value = Value { body: Bytes::from(text.to_owned()), content_type: Bytes::new() };
        self.write(at, number, Change::Put(value), Terms::default())
    }

    fn delete(&mut self, at: NodeId, number: u64, fence: Option<u64>) -> Outcome {
        self.write(at, number, Change::Delete, Terms { fence, ttl_ms: None })
    }

    fn write(&mut self, at: NodeId, number: u64, change: Change, terms: Terms) -> Outcome {
        self.tickets += 1;
        let (key, request) = (key(number), RequestId(u128::from(self.tickets)));
        let (first_sent_ms, retry, condition) = (1, false, Condition::Always);
        self.ask(at, Operation::Write(Write { key, request, first_sent_ms, retry, condition, change, terms }))
    }

    /// Everybody looks for tombstones, some times, long after all that was asked so far.
    fn collect(&mut self) {
        for _ in 0..6 {
            for node in self.replicas.keys().copied().collect::<Vec<_>>() {
                self.tell(node, Input::Collect { wall_ms: 1_000 + REQUESTS_AGE_MAX_MS });
                self.settle();
            }
        }
    }

    fn held(&self) -> usize {
        self.replicas.values().map(Replica::registers).sum()
    }

    /// Starts a node again on what its log holds.
    fn restart(&mut self, node: NodeId) {
        self.start(node, self.view.clone());
    }

    fn get(&mut self, at: NodeId, number: u64) -> Option<String> {
        match self.ask(at, Operation::Read { key: key(number) }) {
            Outcome::Value(found) => found.map(|(_, value)| String::from_utf8_lossy(&value.body).into_owned()),
            other => panic!("k{number} at {at}: {other:?}"),
        }
    }

    fn fill(&mut self) {
        for number in 0..KEYS {
            let at = self.owner(number);
            assert!(matches!(self.put(at, number, &format!("v{number}")), Outcome::Done { .. }));
        }
    }

    fn expect_filled(&mut self) {
        for number in 0..KEYS {
            let at = self.owner(number);
            assert_eq!(self.get(at, number), Some(format!("v{number}")), "k{number} at {at}");
        }
    }

    /// How many keys the view lets the node hold.
    fn share(&self, node: NodeId) -> usize {
        let ring = self.view.ring();
        (0..KEYS).filter(|number| ring.replicas_of(key(*number).position).contains(&node)).count()
    }
}

fn newcomer(number: u64, token: u64) -> Member {
    Member { tokens: vec![Position(token)], ..member(number) }
}

#[test]
fn a_join_moves_its_own_share_once_and_the_old_replicas_drop_it() {
    let mut ring = Ring::new(5);
    ring.fill();
    let joining = ring.view.begin_join(newcomer(6, 2500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.publish(joining);
    ring.complete();
    let share = ring.share(id(6));
    assert!(share > 200, "{share} keys");
    assert_eq!(ring.fetched, share as u64, "each of its keys travels once");
    for number in 1..=6 {
        let held = ring.replicas[&id(number)].registers();
        assert_eq!(held, ring.share(id(number)), "n{number} holds its own keys and no others");
    }
    ring.expect_filled();
}

#[test]
fn a_leave_hands_over_and_leaves_nothing_behind() {
    let mut ring = Ring::new(5);
    ring.fill();
    let share = ring.share(id(3)) as u64;
    let leaving =
        ring.view.begin_leave_moving(BTreeSet::from([id(3)]), false, BTreeMap::new()).expect("five can spare one");
    ring.publish(leaving);
    assert_eq!(ring.get(id(3), 0).as_deref(), Some("v0"), "it serves while it leaves");
    ring.complete();
    assert_eq!(ring.replicas[&id(3)].registers(), 0);
    assert_eq!(ring.fetched, share, "what it held was copied once");
    ring.expect_filled();
    assert_eq!(ring.put(id(3), 0, "late"), Outcome::Refused(Refusal::NotReplica(ring.view.epoch)));
}

/// Others' tokens move up into what a leaver had, and one takes a piece of what somebody else has: what they get they
/// copy, and what they give they drop.
#[test]
fn a_leave_that_moves_others_tokens_copies_what_moves() {
    let mut ring = Ring::new(5);
    ring.fill();
    let moves = BTreeMap::from([
        (id(2), vec![Position(2400)]),
        (id(4), vec![Position(3900)]),
        (id(1), vec![Position(1000), Position(4500)]),
    ]);
    let leaving = ring.view.begin_leave_moving(BTreeSet::from([id(3)]), false, moves).expect("five can spare one");
    ring.publish(leaving.clone());
    let held = |view: &View, node: NodeId| -> BTreeSet<u64> {
        let now = view.ring();
        (0..KEYS).filter(|number| now.sets_of(key(*number).position).current.contains(&node)).collect()
    };
    let before: Vec<BTreeSet<u64>> = (1..=5).map(|number| held(&leaving, id(number))).collect();
    assert!(matches!(ring.put(id(2), 250, "v250"), Outcome::Done { .. }), "it goes on in the middle of it");
    ring.complete();
    let mut gained = 0;
    for number in 1..=5u64 {
        let mine = held(&ring.view, id(number));
        assert_eq!(ring.replicas[&id(number)].registers(), mine.len(), "n{number} holds its own keys and no others");
        gained += mine.difference(&before[number as usize - 1]).count() as u64;
    }
    assert!(gained > 0 && ring.fetched <= gained + 1, "{} keys travelled for {gained} that moved", ring.fetched);
    ring.expect_filled();
}

/// While a change is pending, a decision needs both majorities; and one member of the old set may be away.
#[test]
fn a_joint_change_needs_both_majorities() {
    let mut ring = Ring::new(5);
    ring.fill();
    // k0 lies on n1, n2, n3; the newcomer sits before n2, so the next set is n1, n6, n2.
    let joining = ring.view.begin_join(newcomer(6, 1500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.publish(joining);
    ring.away.extend([id(2), id(3)]);
    let refused = Outcome::Refused(Refusal::NoQuorum);
    assert_eq!(ring.put(id(1), 0, "new"), refused, "n1 and n6 are a majority of the next set alone");
    ring.away = BTreeSet::from([id(1), id(6)]);
    assert_eq!(ring.put(id(2), 0, "other"), refused, "and n2, n3 of the old");
    ring.away = BTreeSet::from([id(6)]);
    ring.wait(Duration::from_millis(300));
    assert!(matches!(ring.put(id(1), 0, "v0"), Outcome::Done { .. }), "without the newcomer both have two");
    ring.away.clear();
    ring.complete();
    ring.expect_filled();
}

/// A coordinator that has not heard of a change is refused, told the view, and goes on in it.
#[test]
fn a_stale_coordinator_learns_the_view_from_those_that_refuse_it() {
    let mut ring = Ring::new(5);
    ring.fill();
    ring.away.insert(id(1));
    let joining = ring.view.begin_join(newcomer(6, 1500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.publish(joining.clone());
    ring.away.clear();
    assert_eq!(ring.replicas[&id(1)].view().epoch, Epoch(1));
    assert!(matches!(ring.put(id(1), 0, "v0"), Outcome::Done { .. }));
    assert_eq!(ring.replicas[&id(1)].view(), &joining);
    assert!(ring.events.iter().any(|(node, event)| *node == id(1) && matches!(event, Event::ViewLearned(_))));
}

/// Nobody who is still in the old epoch answers a newcomer: what it says could be out of date a moment later.
#[test]
fn a_copy_waits_for_replicas_that_know_of_the_change() {
    let mut ring = Ring::new(5);
    ring.fill();
    ring.away.extend((1..=5).map(id));
    let joining = ring.view.begin_join(newcomer(6, 1500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.publish(joining);
    // Everybody can be reached, but keeps the old view: the newcomer's questions are refused, with a view for an
    // answer.
    ring.away.clear();
    ring.wait(Duration::from_millis(400));
    assert!((1..=5).any(|number| ring.replicas[&id(number)].view().epoch == Epoch(2)), "by asking it spreads the view");
    ring.complete();
    ring.expect_filled();
}

/// A newcomer that dies in the middle goes on from what its disk holds.
#[test]
fn an_interrupted_copy_is_resumed() {
    let mut ring = Ring::new(5);
    ring.fill();
    let joining = ring.view.begin_join(newcomer(6, 2500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.replicas.get_mut(&id(6)).expect("it runs").set_budget(Budget::new(1_000_000));
    ring.publish(joining.clone());
    ring.wait(Duration::from_millis(60));
    let before = ring.fetched;
    assert!(before > 0 && (before as usize) < 200, "{before} keys were copied when it died");
    ring.replicas.remove(&id(6));
    ring.network.clear();
    ring.start(id(6), joining);
    ring.complete();
    let share = ring.share(id(6)) as u64;
    assert!(ring.fetched <= share + 64, "{} keys travelled for a share of {share}", ring.fetched);
    ring.expect_filled();
}

/// Counted and fingerprinted on both sides; and a source that gives less than it named is found out by what it named.
#[test]
fn a_copy_is_what_the_sources_named() {
    for spoil in [0, 3] {
        let mut ring = Ring::new(5);
        ring.fill();
        ring.spoil = spoil;
        let joining = ring.view.begin_join(newcomer(6, 2500)).expect("it may join");
        ring.start(id(6), joining.clone());
        ring.publish(joining);
        ring.complete();
        assert_eq!(ring.spoil, 0, "so many answers were spoilt");
        let copied = |(_, event): &(NodeId, Event)| match event {
            Event::ArcCopied { held, at_source, .. } => Some((*held, *at_source)),
            _ => None,
        };
        let copied: Vec<_> = ring.events.iter().filter_map(copied).collect();
        for (held, at_source) in &copied {
            assert_eq!(held, at_source, "nobody writes meanwhile, {spoil} answers spoilt");
        }
        assert!(copied.iter().any(|(held, _)| held.registers > 0 && held.print != 0), "{copied:?}");
        ring.expect_filled();
    }
}

/// After a restart on an older view (its cache was not synced) a node takes part in nothing until it is told the newer.
#[test]
fn a_restart_never_falls_behind_the_view_on_its_disk() {
    let mut ring = Ring::new(5);
    ring.fill();
    let before = ring.view.clone();
    let leaving = ring.view.begin_leave(BTreeSet::from([id(5)]), false).expect("five can spare one");
    ring.publish(leaving);
    ring.replicas.remove(&id(1));
    ring.network.clear();
    ring.away.extend((2..=5).map(id));
    ring.start(id(1), before);
    assert!(ring.replicas[&id(1)].awaits_newer_view());
    assert_eq!(ring.put(id(1), 0, "x"), Outcome::Refused(Refusal::NotReplica(Epoch(1))));
    assert!(!ring.replicas[&id(1)].has_caught_up());
    ring.away.clear();
    // The others' questions are refused, and they answer the refusal with their view.
    assert!(matches!(ring.put(id(2), 0, "v0"), Outcome::Done { .. }));
    ring.wait(Duration::from_millis(300));
    assert_eq!(ring.replicas[&id(1)].view().epoch, ring.view.epoch);
    ring.complete();
    ring.expect_filled();
}

/// What was promised by one replica set does not let a write skip its prepare with another.
#[test]
fn a_promise_ends_with_its_arc_epoch() {
    let mut ring = Ring::new(5);
    ring.put(id(1), 0, "a");
    let joining = ring.view.begin_join(newcomer(6, 1500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.publish(joining);
    ring.submit(id(1), Operation::Read { key: key(0) });
    ring.settle();
    let value = Value { body: Bytes::from_static(b"b"), content_type: Bytes::new() };
    let write = Write {
        key: key(0),
        request: RequestId(999),
        first_sent_ms: 1,
        retry: false,
        condition: Condition::Always,
        change: Change::Put(value),
        terms: Terms::default(),
    };
    ring.submit(id(1), Operation::Write(write));
    assert!(ring.network.iter().any(|(_, e)| matches!(e.message.body, Body::Prepare { .. })), "it prepares anew");
}

/// An abandoned join takes nothing with it.
#[test]
fn an_abandoned_join_leaves_everything_where_it_was() {
    let mut ring = Ring::new(5);
    ring.fill();
    let joining = ring.view.begin_join(newcomer(6, 2500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.publish(joining);
    ring.wait(Duration::from_millis(5));
    assert!(matches!(ring.put(id(3), 250, "v250"), Outcome::Done { .. } | Outcome::Refused(_)));
    ring.publish(ring.view.abandon(Epoch(2)).expect("it is under way"));
    ring.wait(Duration::from_millis(100));
    assert_eq!(ring.replicas[&id(6)].registers(), 0, "it drops what it had copied");
    ring.expect_filled();
}

/// Of two processes with one identity, the older is not heeded, and told so.
#[test]
fn an_older_start_is_fenced_off() {
    let mut ring = Ring::new(3);
    let say = |ring: &mut Ring, incarnation| {
        let round = replication::RoundId(7);
        let body = Body::Query { round, key: key(0), known: replication::Ballot::ZERO };
        let message = replication::Message { epoch: Epoch(1), counter: 1, body };
        ring.tell(id(2), Input::Message { from: id(1), incarnation, message, context: TraceContext::NONE });
        ring.network.pop_back().map(|(_, envelope)| envelope.message.body)
    };
    assert!(matches!(say(&mut ring, 5), Some(Body::Report { .. })));
    assert_eq!(say(&mut ring, 4), Some(Body::Fenced { incarnation: 5 }));
    let mut older = Replica::new(id(1), ring.view.clone(), Prng::from_seed(1));
    older.set_incarnation(4);
    let mut out = Outbox::default();
    older.begin(ring.now, &mut out);
    let message = replication::Message { epoch: Epoch(1), counter: 1, body: Body::Fenced { incarnation: 5 } };
    let fenced = Input::Message { from: id(2), incarnation: 1, message, context: TraceContext::NONE };
    older.handle(ring.now, fenced, &mut out);
    assert!(out.drain().events.contains(&Event::Superseded { by: 5 }));
    assert!(older.is_superseded());
}

/// A read of a session that has seen everything up to `since`, at level sequential: what it shows, and its time; none
/// if it is not answered.
fn read_in_session(ring: &mut Ring, at: NodeId, number: u64, since: Ballot) -> Option<(Option<String>, Ballot)> {
    let operation = Box::new(Operation::Read { key: key(number) });
    let outcome = ring.ask(at, Operation::InSession { since, sequential: true, operation });
    let time = ring.receipts[&Ticket(ring.tickets)].time;
    let Outcome::Value(found) = outcome else { return None };
    Some((found.map(|(_, value)| String::from_utf8_lossy(&value.body).into_owned()), time))
}

/// The time of the last write of this register that `at` coordinated.
fn time_of_write(ring: &mut Ring, at: NodeId, number: u64, text: &str) -> Ballot {
    assert!(matches!(ring.put(at, number, text), Outcome::Done { .. }));
    ring.receipts[&Ticket(ring.tickets)].time
}

/// Begins the join of n6 before n2: k0 lies on n1, n2, n3, and then on n1, n6, n2.
fn join_before_n2(ring: &mut Ring) {
    let joining = ring.view.begin_join(newcomer(6, 1500)).expect("it may join");
    ring.start(id(6), joining.clone());
    ring.publish(joining);
}

/// While an arc is changing, it is confirmed by both majorities or not at all.
fn confirms_with_the_old_set_alone(broken: Option<Rule>) -> bool {
    let mut ring = Ring::under(AllBut(broken), 5);
    ring.put(id(2), 0, "a");
    let since = time_of_write(&mut ring, id(2), 1, "b");
    ring.away.insert(id(6));
    join_before_n2(&mut ring);
    ring.away.insert(id(1));
    read_in_session(&mut ring, id(2), 0, since).is_some()
}

#[test]
fn an_arc_that_changes_is_confirmed_by_both_majorities() {
    assert!(!confirms_with_the_old_set_alone(None));
    assert!(confirms_with_the_old_set_alone(Some(Rule::ConfirmJointly)), "the planted bug shows");
}

/// What a coordinator with an old counter is answered by n3 when the arc has changed since n2 confirmed it with n3.
fn prepare_below_an_older_floor(broken: Option<Rule>) -> Body {
    let mut ring = Ring::under(AllBut(broken), 5);
    ring.put(id(2), 0, "a");
    let since = time_of_write(&mut ring, id(2), 1, "b");
    ring.away.insert(id(1));
    let (_, seen) = read_in_session(&mut ring, id(2), 0, since).expect("n2 and n3 are a majority");
    ring.away.extend([id(6), id(2)]);
    join_before_n2(&mut ring);
    // A register that nobody has heard of: nothing but the floor stands in the way.
    let fresh = RegisterKey { key: Bytes::from_static(b"fresh"), ..key(0) };
    let body = Body::Prepare { round: RoundId(7), key: fresh, ballot: Ballot { counter: seen.counter, node: id(1) } };
    let message = Message { epoch: Epoch(2), counter: 1, body };
    ring.network.clear();
    ring.tell(id(3), Input::Message { from: id(1), incarnation: 1, message, context: TraceContext::NONE });
    let answer = ring.network.pop_back().expect("it is answered").1;
    answer.message.body
}

#[test]
fn a_floor_stands_in_the_arcs_next_epoch() {
    assert!(matches!(prepare_below_an_older_floor(None), Body::Nack { .. }));
    let answer = prepare_below_an_older_floor(Some(Rule::FloorsOutliveEpoch));
    assert!(matches!(answer, Body::Promise { .. }), "the planted bug shows: {answer:?}");
}

/// n1 alone has accepted "b" when n2 and n3 confirm the arc and show "a". Then n6 takes the place of n3: n1 and n6 are
/// a majority. The time at which "b" is shown then, and that at which "a" was.
fn times_of_an_interrupted_write(broken: Option<Rule>) -> (Ballot, Ballot) {
    let mut ring = Ring::under(AllBut(broken), 5);
    ring.put(id(1), 0, "a");
    let since = time_of_write(&mut ring, id(2), 1, "x");
    ring.away.extend([id(2), id(3)]);
    assert_eq!(ring.put(id(1), 0, "b"), Outcome::Unknown);
    // Its round is forgotten, what it had accepted is not.
    let view = ring.view.clone();
    ring.replicas.remove(&id(1));
    ring.network.clear();
    ring.away = BTreeSet::from([id(1)]);
    ring.start(id(1), view);
    let (shown, seen) = read_in_session(&mut ring, id(2), 0, since).expect("n2 and n3 are a majority");
    assert_eq!(shown.as_deref(), Some("a"));
    ring.away.clear();
    join_before_n2(&mut ring);
    ring.complete();
    ring.away.extend([id(2), id(3)]);
    let (shown, time) = read_in_session(&mut ring, id(6), 0, Ballot::ZERO).expect("n1 and n6 are a majority");
    assert_eq!(shown.as_deref(), Some("b"));
    (time, seen)
}

#[test]
fn what_one_source_alone_had_accepted_is_not_chosen_by_copying_it() {
    let (time, seen) = times_of_an_interrupted_write(None);
    assert!(time > seen, "shown at {time}, but something older at {seen}");
    let (time, seen) = times_of_an_interrupted_write(Some(Rule::CopyConfirmed));
    assert!(time < seen, "the planted bug shows: {time} and {seen}");
}

/// What n1 shows a session that has seen "b" at n2, when the arc has changed since n1 confirmed it.
fn shown_after_a_change(broken: Option<Rule>) -> Option<String> {
    let mut ring = Ring::under(AllBut(broken), 5);
    (0..40).for_each(|number| drop(ring.put(id(2), number, "a")));
    let since = time_of_write(&mut ring, id(2), 1, "x");
    read_in_session(&mut ring, id(1), 0, since).expect("all are there");
    join_before_n2(&mut ring);
    ring.away.insert(id(1));
    let since = time_of_write(&mut ring, id(2), 0, "b");
    ring.away.clear();
    let (shown, time) = read_in_session(&mut ring, id(1), 0, since).expect("all are there");
    assert!(time >= since);
    shown
}

#[test]
fn a_coordinator_begins_anew_in_the_arcs_next_epoch() {
    assert_eq!(shown_after_a_change(None).as_deref(), Some("b"));
    let shown = shown_after_a_change(Some(Rule::ConfirmationsEndWithEpoch));
    assert_eq!(shown.as_deref(), Some("a"), "the planted bug shows");
}

/// Of a deleted key nothing is left once its requests are long past: not in memory, and not after a restart.
#[test]
fn a_deleted_key_is_dropped_for_good() {
    let mut ring = Ring::new(3);
    ring.put(id(1), 0, "v0");
    ring.put(id(1), 1, "v1");
    assert!(matches!(ring.delete(id(2), 0, None), Outcome::Done { .. }));
    assert_eq!((ring.held(), ring.replicas[&id(1)].tombstones()), (6, 1));
    for node in 1..=3 {
        ring.tell(id(node), Input::Collect { wall_ms: REQUESTS_AGE_MAX_MS });
        ring.settle();
    }
    assert_eq!(ring.held(), 6, "as long as the delete may be sent again, it is remembered");
    ring.collect();
    assert_eq!(ring.held(), 3, "k1 on three nodes");
    for node in 1..=3 {
        assert_eq!(ring.replicas[&id(node)].tombstones_dropped(), 1);
        ring.restart(id(node));
    }
    assert_eq!(ring.held(), 3, "the logs know that it was dropped");
    assert_eq!((ring.get(id(3), 0), ring.get(id(3), 1).as_deref()), (None, Some("v1")));
    assert!(matches!(ring.put(id(3), 0, "again"), Outcome::Done { .. }));
    assert_eq!(ring.get(id(1), 0).as_deref(), Some("again"));
}

/// A token must never go back, so what has seen one stays.
#[test]
fn a_deleted_key_that_has_seen_a_fencing_token_stays() {
    let mut ring = Ring::new(3);
    ring.put(id(1), 0, "v0");
    ring.delete(id(1), 0, Some(7));
    ring.collect();
    assert_eq!((ring.held(), ring.replicas[&id(1)].tombstones()), (3, 0));
}

/// Somebody who is away may hold what was deleted.
#[test]
fn nothing_is_dropped_while_a_replica_is_away() {
    let check = |broken: Option<Rule>, comes_back: bool| {
        let mut ring = Ring::under(AllBut(broken), 3);
        ring.put(id(1), 0, "v0");
        ring.away.insert(id(3));
        ring.delete(id(1), 0, None);
        ring.collect();
        ring.away.clear();
        // The two that have the deletion need not be those that answer.
        ring.away.insert(id(2));
        assert_eq!(ring.get(id(3), 0).is_some(), comes_back, "{broken:?}");
        ring.away.clear();
        ring.collect();
        (ring.held(), ring.get(id(3), 0))
    };
    assert_eq!(check(None, false), (0, None));
    assert_eq!(check(Some(Rule::CollectFromAll), true).1.as_deref(), Some("v0"));
}

/// Who left an arc, and comes to it again after a key was deleted and dropped there, must not bring it along. (What it
/// dropped when it left, its log gives back after a restart.)
#[test]
fn a_node_that_comes_back_to_an_arc_brings_nothing_deleted_along() {
    let check = |broken: Option<Rule>| {
        let mut ring = Ring::under(AllBut(broken), 5);
        ring.put(id(1), 0, "v0");
        // k0 lies on n1, n2, n3; then on n1, n6, n2; and then on n1, n2, n3 again.
        let joining = ring.view.begin_join(newcomer(6, 1500)).expect("it may join");
        ring.start(id(6), joining.clone());
        ring.publish(joining);
        ring.complete();
        ring.delete(id(1), 0, None);
        ring.collect();
        assert_eq!(ring.held(), 0, "{broken:?}");
        ring.restart(id(3));
        let leaving = ring.view.begin_leave_moving(BTreeSet::from([id(6)]), false, BTreeMap::new());
        ring.publish(leaving.expect("six can spare one"));
        ring.complete();
        ring.get(id(1), 0)
    };
    assert_eq!(check(None), None);
    assert_eq!(check(Some(Rule::ClearBeforeCopy)).as_deref(), Some("v0"));
}
