//! Sessions: what reads at level sequential and confirmations cost and promise, on three replicas with a perfect
//! network and disks that sync at once. Messages and records are counted, not timed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{
    AllBut, Ballot, Body, Change, Condition, Envelope, Input, LogPosition, Message, Operation, Outbox, Outcome,
    Receipt, Record, RegisterKey, Replica, RequestId, Rule, Scan, ScanOutcome, State, Terms, Ticket, Value, Version,
    Write,
};
use stdx::{Instant, Prng, TraceContext};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

struct Trio {
    now: Instant,
    view: View,
    replicas: BTreeMap<NodeId, Replica<AllBut>>,
    logs: BTreeMap<NodeId, Vec<(LogPosition, Record)>>,
    network: VecDeque<(NodeId, Envelope)>,
    answers: BTreeMap<Ticket, (Outcome, Receipt)>,
    scans: Vec<ScanOutcome>,
    sent: usize,
    rules: AllBut,
}

/// What an operation cost: messages, records, and the answer.
struct Cost {
    messages: usize,
    records: usize,
    outcome: Outcome,
    receipt: Receipt,
}

impl Cost {
    fn text(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Value(found) => found.as_ref().map(|(_, value)| String::from_utf8_lossy(&value.body).into_owned()),
            other => panic!("a read was answered by {other:?}"),
        }
    }
}

impl Trio {
    fn new() -> Trio {
        Trio::without(None)
    }

    /// One that breaks this rule.
    fn without(rule: Option<Rule>) -> Trio {
        let member = |id: u64| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: None,
            weight: 1,
            tokens: vec![Position(id * 1000)],
        };
        let mut view = View::forming(ClusterId(1), 3, 3, 0);
        view.members = (1..=3).map(member).collect();
        view.epoch = Epoch(1);
        let mut trio = Trio {
            now: Instant::ZERO,
            view,
            replicas: BTreeMap::new(),
            logs: BTreeMap::new(),
            network: VecDeque::new(),
            answers: BTreeMap::new(),
            scans: Vec::new(),
            sent: 0,
            rules: AllBut(rule),
        };
        for id in [A, B, C] {
            trio.start(id);
        }
        trio.settle();
        trio
    }

    fn start(&mut self, id: NodeId) {
        let mut replica = Replica::with_rules(id, self.view.clone(), Prng::from_seed(id.0), self.rules);
        for (position, record) in self.logs.entry(id).or_default().clone() {
            replica.restore(position, record);
        }
        let mut out = Outbox::default();
        replica.begin(self.now, &mut out);
        self.replicas.insert(id, replica);
        self.take(id, out);
    }

    fn take(&mut self, id: NodeId, mut out: Outbox) {
        let effects = out.drain();
        let last = effects.persist.last().map(|(position, _)| *position);
        self.logs.entry(id).or_default().extend(effects.persist);
        self.sent += effects.send.len();
        self.network.extend(effects.send.into_iter().map(|envelope| (id, envelope)));
        for answer in effects.answers {
            self.answers.insert(answer.ticket, (answer.outcome, answer.receipt));
        }
        self.scans.extend(effects.scans.into_iter().map(|(_, outcome)| outcome));
        if let Some(position) = last {
            self.tell(id, Input::Synced(position));
        }
    }

    fn tell(&mut self, id: NodeId, input: Input) {
        let mut out = Outbox::default();
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        replica.handle(self.now, input, &mut out);
        self.take(id, out);
    }

    fn deliver_one(&mut self) -> bool {
        let Some((from, Envelope { to, message, context })) = self.network.pop_front() else { return false };
        self.tell(to, Input::Message { from, incarnation: 1, message, context });
        true
    }

    fn settle(&mut self) {
        while self.deliver_one() {}
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            for id in [A, B, C] {
                self.tell(id, Input::Tick);
            }
            self.settle();
        }
    }

    fn submit(&mut self, at: NodeId, operation: Operation) -> Ticket {
        let ticket = Ticket(self.now.as_millis() * 1_000 + self.sent as u64 * 7 + self.answers.len() as u64);
        let deadline = self.now + Duration::from_secs(1);
        self.tell(at, Input::Operation { ticket, operation, deadline, wall_ms: 100, context: TraceContext::NONE });
        ticket
    }

    fn ask(&mut self, at: NodeId, operation: Operation) -> Cost {
        let (sent, records) = (self.sent, self.logs.values().map(Vec::len).sum::<usize>());
        let ticket = self.submit(at, operation);
        self.settle();
        for _ in 0..200 {
            if !self.answers.contains_key(&ticket) {
                self.wait(Duration::from_millis(1));
            }
        }
        let (outcome, receipt) = self.answers.remove(&ticket).expect("answered within the deadline");
        let records = self.logs.values().map(Vec::len).sum::<usize>() - records;
        Cost { messages: self.sent - sent, records, outcome, receipt }
    }
}

fn key(name: &'static str) -> RegisterKey {
    RegisterKey { position: Position(500), bucket: BucketId(1), key: Bytes::from_static(name.as_bytes()) }
}

fn put(since: Ballot, name: &'static str, id: u128) -> Operation {
    let value = Value { body: Bytes::from(id.to_string()), content_type: Bytes::new() };
    let (change, condition) = (Change::Put(value), Condition::Always);
    let request = RequestId(id);
    let write =
        Write { key: key(name), request, first_sent_ms: 50, retry: false, condition, change, terms: Terms::default() };
    Operation::InSession { since, sequential: false, operation: Box::new(Operation::Write(write)) }
}

fn read(since: Ballot, name: &'static str, sequential: bool) -> Operation {
    Operation::InSession { since, sequential, operation: Box::new(Operation::Read { key: key(name) }) }
}

/// A writes 1 to `x`, and then `node` writes 2 to `y`: the time at which that was, which a session has seen.
fn x_then_y(node: NodeId) -> (Trio, Ballot) {
    let mut trio = Trio::new();
    trio.ask(A, put(Ballot::ZERO, "x", 1));
    let time = trio.ask(node, put(Ballot::ZERO, "y", 2)).receipt.time;
    (trio, time)
}

#[test]
fn a_sequential_read_of_what_the_session_wrote_costs_no_message() {
    let mut trio = Trio::new();
    let written = trio.ask(A, put(Ballot::ZERO, "x", 1));
    let time = written.receipt.time;
    assert!(time > Ballot::ZERO);
    let read = trio.ask(A, read(time, "x", true));
    assert_eq!((read.messages, read.records, read.text().as_deref()), (0, 0, Some("1")));
    assert_eq!((read.receipt.time, read.receipt.rounds), (time, 0));
}

#[test]
fn a_session_that_has_seen_more_confirms_once_and_then_reads_without_a_message() {
    let (mut trio, time) = x_then_y(A);
    let first = trio.ask(A, read(time, "x", true));
    assert_eq!(first.text().as_deref(), Some("1"));
    assert_eq!((first.messages, first.records), (4, 0), "two questions, two reports, no sync");
    assert!(first.receipt.time >= time, "the read happened after what the session had seen");
    let again = trio.ask(A, read(first.receipt.time, "x", true));
    assert_eq!((again.messages, again.text().as_deref()), (0, Some("1")));
}

#[test]
fn reads_that_wait_for_one_arc_share_a_confirmation() {
    let (mut trio, time) = x_then_y(A);
    let sent = trio.sent;
    let mut tickets = Vec::new();
    for _ in 0..10 {
        tickets.push(trio.submit(A, read(time, "x", true)));
        trio.sent += 1;
    }
    trio.settle();
    assert!(tickets.iter().all(|ticket| trio.answers.contains_key(ticket)));
    assert_eq!(trio.sent - sent - 10, 4);
}

#[test]
fn a_session_that_moves_to_another_coordinator_sees_what_it_saw() {
    let mut trio = Trio::new();
    let time = trio.ask(A, put(Ballot::ZERO, "x", 1)).receipt.time;
    for node in [B, C] {
        let found = trio.ask(node, read(time, "x", true));
        assert_eq!(found.text().as_deref(), Some("1"), "at {node:?}");
        assert!(found.receipt.time >= time);
    }
}

#[test]
fn an_interrupted_write_is_finished_before_a_session_reads_past_it() {
    let mut trio = Trio::new();
    trio.ask(A, put(Ballot::ZERO, "x", 1));
    // The accept of the next write reaches one other replica; then its coordinator is gone.
    trio.submit(A, put(Ballot::ZERO, "x", 2));
    trio.network.retain(|(_, envelope)| envelope.to == B);
    trio.deliver_one();
    trio.network.clear();
    trio.replicas.remove(&A);
    let time = trio.ask(C, put(Ballot::ZERO, "y", 3)).receipt.time;
    let found = trio.ask(C, read(time, "x", true));
    assert_eq!(found.text().as_deref(), Some("2"), "it was reported by B, and finished");
    assert!(found.receipt.time >= time);
    assert_eq!(trio.ask(B, read(found.receipt.time, "x", true)).text().as_deref(), Some("2"));
}

/// What the read's coordinator holds is as new as the session, and a majority holds something older: it must confirm
/// the arc, and not ask for the key again and again.
#[test]
fn a_session_that_is_newer_than_what_a_majority_holds_is_answered() {
    let mut trio = Trio::new();
    trio.ask(C, put(Ballot::ZERO, "x", 1));
    let time = trio.ask(A, put(Ballot::ZERO, "y", 2)).receipt.time;
    // The accept of the next write is on one disk alone: its coordinator crashes before it has synced its own.
    trio.submit(A, put(time, "x", 3));
    let accepts = |(_, envelope): &(NodeId, Envelope)| matches!(envelope.message.body, Body::Accept { .. });
    while !trio.network.iter().any(accepts) {
        assert!(trio.deliver_one(), "it is on its way");
    }
    trio.network.retain(|said| accepts(said) && said.1.to == B);
    trio.deliver_one();
    trio.network.clear();
    let log = trio.logs.get_mut(&A).expect("it has written");
    assert!(matches!(log.pop(), Some((_, Record::Accepted { .. }))));
    trio.start(A);
    // Nothing of what it has missed.
    trio.network.clear();
    let ticket = trio.submit(B, read(time, "x", true));
    for _ in 0..100 {
        trio.deliver_one();
    }
    trio.wait(Duration::from_millis(50));
    let (outcome, receipt) = trio.answers.remove(&ticket).expect("it is answered");
    let Outcome::Value(Some((_, value))) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(&*value.body, b"1" | b"3"), "{value:?}");
    assert!(receipt.time >= time, "{} and {time}", receipt.time);
}

#[test]
fn after_a_confirmation_an_older_coordinator_cannot_write_below_it() {
    let mut trio = Trio::new();
    trio.ask(A, put(Ballot::ZERO, "x", 1));
    // A holds a promised ballot for its next write; then C confirms the arc.
    let time = trio.ask(C, put(Ballot::ZERO, "y", 2)).receipt.time;
    let seen = trio.ask(C, read(time, "x", true));
    assert_eq!(seen.text().as_deref(), Some("1"));
    let written = trio.ask(A, put(Ballot::ZERO, "x", 3));
    assert!(written.receipt.time > seen.receipt.time, "{} and {}", written.receipt.time, seen.receipt.time);
}

/// The accepts under way: ballot, version's time, and next ballot.
fn accepts_under_way(trio: &Trio) -> Vec<(Ballot, Ballot, Ballot)> {
    let accepts = trio.network.iter().filter_map(|(_, envelope)| match &envelope.message.body {
        Body::Accept { ballot, state, next, .. } => Some((*ballot, state.version.ballot, *next)),
        _ => None,
    });
    accepts.collect()
}

#[test]
fn a_session_that_goes_from_key_to_key_writes_in_one_round_trip_each() {
    let mut trio = Trio::new();
    let mut time = Ballot::ZERO;
    for name in ["x", "y", "z"] {
        time = trio.ask(A, put(time, name, 1)).receipt.time;
    }
    for (id, name) in ["z", "x", "y", "y", "x"].into_iter().enumerate() {
        let written = trio.ask(A, put(time, name, 10 + id as u128));
        assert_eq!((written.messages, written.records, written.receipt.rounds), (4, 3, 1), "{name}");
        assert!(written.receipt.time > time, "{name}: {} and {time}", written.receipt.time);
        time = written.receipt.time;
    }
}

/// The ballot is the one that was promised, and what is newer stands beside it. The promise for the next write covers
/// both, so that nobody can build on this at a ballot below its time.
#[test]
fn a_write_by_an_older_promise_is_accepted_at_it_and_has_a_later_time() {
    let mut trio = Trio::new();
    trio.submit(A, put(Ballot::ZERO, "x", 1));
    trio.deliver_one();
    while accepts_under_way(&trio).is_empty() {
        assert!(trio.deliver_one());
    }
    let promised = accepts_under_way(&trio)[0].2;
    trio.settle();
    let seen = trio.ask(B, put(Ballot::ZERO, "y", 2)).receipt.time;
    assert!(seen > promised, "the session has seen something newer than the promise");
    trio.submit(A, put(seen, "x", 3));
    let (ballot, time, next) = accepts_under_way(&trio)[0];
    assert_eq!(ballot, promised);
    assert!(time > seen && next > time, "{seen}, {time}, {next}");
    trio.settle();
    for (node, sequential) in [(A, true), (B, true), (C, true), (B, false), (C, false)] {
        let found = trio.ask(node, read(Ballot::ZERO, "x", sequential));
        assert_eq!((found.text().as_deref(), found.receipt.time), (Some("3"), time), "at {node:?}, {sequential}");
    }
}

/// The ballot lies below the cut, and the write does not: what it overwrites is set aside, and the cut is not taken
/// again.
#[test]
fn a_cut_shows_what_a_write_above_it_replaces_by_a_promise_from_below() {
    let (mut trio, time) = x_then_y(A);
    let sent = trio.sent;
    let (bucket, ends) = (BucketId(1), Position(500));
    let scan = Scan {
        bucket,
        prefix: Bytes::new(),
        from: ends,
        to: ends,
        after: None,
        cut: 0,
        keep: false,
        values: true,
        entries_max: 9,
        since: 0,
    };
    let deadline = trio.now + Duration::from_secs(1);
    trio.tell(A, Input::Scan { ticket: Ticket(1), scan, deadline, context: TraceContext::NONE });
    let write = trio.submit(A, put(time, "x", 3));
    let (ballot, above, _) = accepts_under_way(&trio)[0];
    trio.settle();
    let [ScanOutcome::Page(page)] = &trio.scans[..] else { panic!("{:?}", trio.scans) };
    assert!(ballot.counter <= page.time && page.time < above.counter, "{ballot}, {}, {above}", page.time);
    let shown = page.entries.iter().map(|entry| entry.value.as_ref().map(|value| value.body.clone()));
    assert_eq!(shown.collect::<Vec<_>>(), [Some(Bytes::from_static(b"1")), Some(Bytes::from_static(b"2"))]);
    assert_eq!((trio.sent - sent, trio.answers[&write].1.time), (8, above), "one confirmation, one write");
}

/// A newcomer may tell of what it merely copied, and has promised nothing with.
#[test]
fn a_round_builds_on_no_state_that_is_later_than_its_ballot() {
    let mut trio = Trio::new();
    trio.submit(A, put(Ballot::ZERO, "x", 1));
    let prepares = |trio: &Trio| {
        let found = trio.network.iter().find_map(|(_, envelope)| match &envelope.message.body {
            Body::Prepare { round, ballot, .. } => Some((*round, *ballot)),
            _ => None,
        });
        found.expect("a promise is asked for")
    };
    let (round, ballot) = prepares(&trio);
    trio.network.clear();
    let late = Ballot { counter: ballot.counter + 9, node: C };
    let state = State { version: Version { ballot: late, index: 0 }, ..State::default() };
    let accepted = (Ballot { counter: 0, node: C }, state);
    let message = Message { epoch: Epoch(1), counter: 1, body: Body::Promise { round, accepted } };
    trio.tell(A, Input::Message { from: B, incarnation: 1, message, context: TraceContext::NONE });
    assert_eq!(accepts_under_way(&trio), []);
    assert!(prepares(&trio).1 > late);
}

/// What changes no version has none to tell its time by.
#[test]
fn a_write_that_fails_in_a_session_asks_for_a_promise() {
    let (mut trio, time) = x_then_y(A);
    let Operation::InSession { mut operation, .. } = put(time, "x", 3) else { unreachable!("it is in a session") };
    operation.write_mut().expect("it is a write").condition = Condition::Absent;
    let failed = trio.ask(A, Operation::InSession { since: time, sequential: false, operation });
    assert!(matches!(failed.outcome, Outcome::Done { .. }), "{:?}", failed.outcome);
    assert_eq!((failed.messages, failed.receipt.rounds), (8, 2));
    assert!(failed.receipt.time > time);
}

/// Another coordinator that begins its round before the write's messages have come finds it or has it refused; both
/// orders are those of the times.
#[test]
fn a_write_by_an_older_promise_that_one_replica_has_is_finished_by_another_coordinator() {
    for reaches in [None, Some(B)] {
        let mut trio = Trio::new();
        trio.ask(A, put(Ballot::ZERO, "x", 1));
        let seen = trio.ask(B, put(Ballot::ZERO, "y", 2)).receipt.time;
        trio.submit(A, put(seen, "x", 3));
        let (_, time, _) = accepts_under_way(&trio)[0];
        trio.network.retain(|(_, envelope)| Some(envelope.to) == reaches);
        trio.deliver_one();
        trio.network.clear();
        trio.replicas.remove(&A);
        let written = trio.ask(C, put(Ballot::ZERO, "x", 4));
        assert!(reaches.is_none() || written.receipt.time > time, "{} and {time}", written.receipt.time);
        let found = trio.ask(B, read(written.receipt.time, "x", true));
        assert_eq!((found.text().as_deref(), found.receipt.time), (Some("4"), written.receipt.time));
    }
}

#[test]
fn our_own_writes_happen_after_our_confirmations_and_keep_their_promises() {
    let (mut trio, time) = x_then_y(A);
    let seen = trio.ask(A, read(time, "x", true));
    for id in 3..5 {
        let written = trio.ask(A, put(Ballot::ZERO, "x", id));
        assert!(written.receipt.time > seen.receipt.time, "{} and {}", written.receipt.time, seen.receipt.time);
        assert_eq!(written.messages, 4);
    }
}

/// After another's confirmation the promise is worth nothing; who has promised that one its floor knows so.
#[test]
fn a_promise_below_anothers_confirmation_is_not_tried() {
    let (mut trio, time) = x_then_y(C);
    let seen = trio.ask(C, read(time, "x", true));
    let written = trio.ask(A, put(Ballot::ZERO, "x", 3));
    assert_eq!((written.messages, written.receipt.rounds), (8, 2));
    assert!(written.receipt.time > seen.receipt.time);
}

#[test]
fn a_strict_read_of_a_session_gets_a_time_of_its_own() {
    let (mut trio, time) = x_then_y(A);
    let found = trio.ask(A, read(time, "x", false));
    assert_eq!(found.text().as_deref(), Some("1"));
    assert!(found.receipt.time >= time);
    assert_eq!((found.messages, found.records), (4, 0));
    trio.ask(B, put(Ballot::ZERO, "x", 5));
    assert_eq!(trio.ask(A, read(time, "x", false)).text().as_deref(), Some("5"), "and it is strict");
}

#[test]
fn a_replica_that_was_started_again_has_its_floors_in_its_ceiling() {
    let (mut trio, time) = x_then_y(C);
    let seen = trio.ask(C, read(time, "x", true));
    for node in [B, C] {
        trio.replicas.remove(&node);
        trio.network.clear();
        trio.start(node);
    }
    trio.settle();
    let written = trio.ask(A, put(Ballot::ZERO, "x", 3));
    assert!(written.receipt.time > seen.receipt.time);
    let found = trio.ask(C, read(seen.receipt.time, "x", true));
    assert!(found.text().is_some());
}

#[test]
fn the_whole_arc_is_compared_page_by_page_by_a_coordinator_that_has_forgotten() {
    let mut trio = Trio::new();
    let names: Vec<&'static str> = (0..600).map(|n| &*Box::leak(format!("k{n}").into_boxed_str())).collect();
    for (id, name) in names.iter().enumerate() {
        trio.ask(A, put(Ballot::ZERO, name, id as u128 + 1));
    }
    trio.replicas.remove(&C);
    trio.network.clear();
    trio.start(C);
    trio.settle();
    let time = trio.ask(A, put(Ballot::ZERO, "y", 1_000)).receipt.time;
    let sent = trio.sent;
    let found = trio.ask(C, read(time, names[7], true));
    assert_eq!(found.text().as_deref(), Some("8"));
    let messages = trio.sent - sent;
    assert!(
        messages < 40,
        "{messages} messages for 600 registers on pages of 256: what was chosen was not finished again"
    );
}

/// B writes `y` twice. C knows that the first is chosen, and hears nothing of the second: the time of that.
fn y_behind_c(trio: &mut Trio) -> Ballot {
    trio.ask(B, put(Ballot::ZERO, "y", 11));
    assert_eq!(trio.ask(C, read(Ballot::ZERO, "y", false)).text().as_deref(), Some("11"));
    let ticket = trio.submit(B, put(Ballot::ZERO, "y", 12));
    trio.network.retain(|(_, envelope)| envelope.to != C);
    trio.settle();
    trio.answers.remove(&ticket).expect("A and B are a majority").1.time
}

/// One session has written `y` and then reads `x`, another has written `x` at the time `written` and then reads `y`, at
/// C: whether the one was shown no more than the first `x`, and the other no more than the first `y`. Then each wrote
/// before the other, and there is no order of the two.
fn is_buffered(trio: &mut Trio, x: &Cost, written: Ballot) -> bool {
    let y = trio.ask(C, read(written, "y", true));
    (x.text().as_deref(), y.text().as_deref()) == (Some("1"), Some("11"))
}

#[test]
fn a_write_below_what_its_coordinator_has_confirmed_is_in_no_order() {
    let buffered = |rule| {
        let mut trio = Trio::without(rule);
        // A is promised a ballot for the next write of `x` that lies below all that follows.
        trio.ask(A, put(Ballot::ZERO, "x", 1));
        let time = y_behind_c(&mut trio);
        let x = trio.ask(A, read(time, "x", true));
        let written = trio.ask(A, put(Ballot::ZERO, "x", 2)).receipt.time;
        is_buffered(&mut trio, &x, written)
    };
    assert!(!buffered(None));
    assert!(buffered(Some(Rule::NewWritesAbove)));
}

#[test]
fn a_strict_read_that_takes_its_time_from_no_confirmation_is_in_no_order() {
    let buffered = |rule| {
        let mut trio = Trio::without(rule);
        trio.ask(A, put(Ballot::ZERO, "x", 1));
        let time = y_behind_c(&mut trio);
        let x = trio.ask(B, read(time, "x", false));
        let written = trio.ask(A, put(Ballot::ZERO, "x", 2)).receipt.time;
        is_buffered(&mut trio, &x, written)
    };
    assert!(!buffered(None));
    assert!(buffered(Some(Rule::StrictInSession)));
}

#[test]
fn a_read_beside_its_coordinators_own_write_is_in_no_order() {
    let buffered = |rule| {
        let mut trio = Trio::without(rule);
        trio.ask(B, put(Ballot::ZERO, "x", 1));
        // A has taken a ballot for its write, and its questions are under way.
        let write = trio.submit(A, put(Ballot::ZERO, "x", 2));
        let late = std::mem::take(&mut trio.network);
        assert!(late.iter().all(|(_, said)| matches!(said.message.body, Body::Prepare { .. })));
        // What B does from now on happens later.
        trio.ask(B, put(Ballot::ZERO, "z", 21));
        let time = y_behind_c(&mut trio);
        let x = trio.ask(A, read(time, "x", true));
        trio.network.extend(late);
        trio.settle();
        let (_, receipt) = trio.answers.remove(&write).expect("its questions have arrived");
        is_buffered(&mut trio, &x, receipt.time)
    };
    assert!(!buffered(None));
    assert!(buffered(Some(Rule::WaitForOwnWrite)));
}
