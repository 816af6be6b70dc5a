//! Bugs that the simulator once found in the replica, each as the shortest order of messages that shows it.
//!
//! Node 1 coordinates a register that nodes 1, 2 and 3 hold; the test plays the disk and the other two.

use std::time::Duration;

use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{
    Answer, Ballot, Body, Change, Condition, Effects, Envelope, Input, Message, Operation, Outbox, Outcome, Refusal,
    RegisterKey, Replica, RequestId, RoundId, State, Terms, Ticket, Value, Version, Write,
};
use stdx::{Instant, Prng, TraceContext};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// Node 1, with a disk that syncs at once.
struct Node {
    replica: Replica,
    now: Instant,
    sent: Vec<Envelope>,
    answers: Vec<Answer>,
}

impl Node {
    fn start(seed: u64) -> Node {
        let replica = Replica::new(ONE, view(), Prng::from_seed(seed));
        let mut node = Node { replica, now: Instant::ZERO, sent: Vec::new(), answers: Vec::new() };
        let mut out = Outbox::default();
        node.replica.begin(node.now, &mut out);
        node.carry_out(out.drain());
        node
    }

    fn tell(&mut self, input: Input) {
        let mut out = Outbox::default();
        self.replica.handle(self.now, input, &mut out);
        self.carry_out(out.drain());
    }

    fn carry_out(&mut self, effects: Effects) {
        self.sent.extend(effects.send);
        self.answers.extend(effects.answers);
        if let Some((position, _)) = effects.persist.last() {
            self.tell(Input::Synced(*position));
        }
    }

    fn hear(&mut self, from: NodeId, body: Body) {
        // No node tells of a ballot that lies above its own counter, and 9 is the highest one here.
        let message = Message { epoch: Epoch(1), counter: 9, body };
        self.tell(Input::Message { from, incarnation: 1, message, context: TraceContext::NONE });
    }

    fn ask(&mut self, operation: Operation) {
        let (ticket, deadline) = (Ticket(operation_number(&operation)), self.now + Duration::from_secs(1));
        let (wall_ms, context) = (1_000, TraceContext::NONE);
        self.tell(Input::Operation { ticket, operation, deadline, wall_ms, context });
    }

    /// Lets timers run out, one after the other, until something that fits was said to node 2.
    fn wait_for<T>(&mut self, fits: impl Fn(&Body) -> Option<T>) -> T {
        for _ in 0..50 {
            let found = self.sent.drain(..).filter(|e| e.to == TWO).find_map(|envelope| fits(&envelope.message.body));
            if let Some(found) = found {
                return found;
            }
            self.now = self.replica.next_timeout().expect("an open round has a timer").max(self.now);
            self.tell(Input::Tick);
        }
        panic!("never said; answered: {:?}", self.answers);
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.answers.last().map(|answer| &answer.outcome)
    }
}

fn prepared(body: &Body) -> Option<(RoundId, Ballot)> {
    match body {
        Body::Prepare { round, ballot, .. } => Some((*round, *ballot)),
        _ => None,
    }
}

fn accepting(body: &Body) -> Option<(RoundId, Ballot, State, Ballot)> {
    match body {
        Body::Accept { round, ballot, state, next, .. } => Some((*round, *ballot, state.clone(), *next)),
        _ => None,
    }
}

fn queried(body: &Body) -> Option<RoundId> {
    match body {
        Body::Query { round, .. } => Some(*round),
        _ => None,
    }
}

fn promise(round: RoundId) -> Body {
    Body::Promise { round, accepted: (Ballot::ZERO, State::default()) }
}

fn nack(round: RoundId, disk_full: bool) -> Body {
    Body::Nack { round, seen: 1, disk_full }
}

/// Found by seeds 267 and 175. A round went from a prepare to an accept, or from one ballot to a higher one, under one
/// number; an answer that came twice or late then counted for what had not been asked when it was given.
#[test]
fn an_answer_to_an_earlier_ballot_does_not_count_for_a_later_one() {
    let mut node = Node::start(1);
    node.ask(put(1));
    let (first, _) = node.wait_for(prepared);
    node.hear(TWO, nack(first, false));
    node.hear(THREE, nack(first, false));
    let (second, _) = node.wait_for(prepared);
    assert_ne!(first, second, "each ballot is asked about under a number of its own");
    node.hear(TWO, promise(first));
    node.hear(THREE, promise(first));
    assert!(!node.sent.iter().any(|e| matches!(e.message.body, Body::Accept { .. })), "nobody promised this ballot");
    node.hear(TWO, promise(second));
    let (third, ..) = node.wait_for(accepting);
    for stale in [first, second] {
        node.hear(TWO, Body::Accepted { round: stale });
        node.hear(THREE, Body::Accepted { round: stale });
    }
    assert_eq!(node.outcome(), None, "only node 1 itself has accepted");
    node.hear(THREE, Body::Accepted { round: third });
    assert!(matches!(node.outcome(), Some(Outcome::Done { .. })), "{:?}", node.answers);
}

/// Found by seed 175: one replica refused and another was silent; neither a majority nor its impossibility was ever
/// reached, and the register hung until somebody else moved.
#[test]
fn one_refusal_and_one_silent_replica_do_not_stop_a_round() {
    let mut node = Node::start(2);
    node.ask(put(1));
    let (first, ballot) = node.wait_for(prepared);
    node.hear(TWO, Body::Nack { round: first, seen: ballot.counter + 10, disk_full: false });
    let (second, higher) = node.wait_for(|body| prepared(body).filter(|(round, _)| *round != first));
    assert!(higher.counter > ballot.counter + 10, "{higher} must get past what stood in the way of {ballot}");
    node.hear(TWO, promise(second));
    let (third, ..) = node.wait_for(accepting);
    node.hear(TWO, Body::Accepted { round: third });
    assert!(matches!(node.outcome(), Some(Outcome::Done { .. })), "{:?}", node.answers);
}

/// Found by seed 3277: rounds were numbered from 1 at each start, so an answer to a round of before the restart fitted
/// one of after it.
#[test]
fn an_answer_from_before_a_restart_does_not_count_after_it() {
    let read = || Operation::Read { key: key() };
    let mut before = Node::start(3);
    before.ask(read());
    let old = before.wait_for(queried);
    // The same node again, with the same log (it had synced nothing but a ceiling); only its chance is another.
    let mut after = Node::start(4);
    after.ask(read());
    let new = after.wait_for(queried);
    assert_ne!(old, new);
    let stale = Body::Report { round: old, ballot: Ballot { counter: 7, node: TWO }, state: Some(State::default()) };
    after.hear(TWO, stale.clone());
    after.hear(THREE, stale);
    assert_eq!(after.outcome(), None);
    after.hear(TWO, Body::Report { round: new, ballot: Ballot::ZERO, state: None });
    assert_eq!(after.outcome(), Some(&Outcome::Value(None)), "nodes 1 and 2 hold nothing");
}

/// Found by seed 8: with full disks and three different ballots on the replicas (a write was interrupted), a read needs
/// a round that finishes the write; full disks refused it, and with it the read.
#[test]
fn a_read_finishes_an_interrupted_write_although_disks_are_full() {
    let mut node = Node::start(5);
    node.tell(Input::DiskFull(true));
    node.ask(put(1));
    assert_eq!(node.outcome(), Some(&Outcome::Refused(Refusal::DiskFull)));
    node.ask(Operation::Read { key: key() });
    let query = node.wait_for(queried);
    for (from, counter) in [(TWO, 8), (THREE, 9)] {
        let ballot = Ballot { counter, node: from };
        node.hear(from, Body::Report { round: query, ballot, state: Some(held(ballot)) });
    }
    let (round, _) = node.wait_for(prepared);
    for (from, counter) in [(TWO, 8), (THREE, 9)] {
        let ballot = Ballot { counter, node: from };
        node.hear(from, Body::Promise { round, accepted: (ballot, held(ballot)) });
    }
    let (round, _, state, next) = node.wait_for(accepting);
    assert_eq!(next, Ballot::ZERO, "it brings nothing new, and says so");
    node.hear(TWO, Body::Accepted { round });
    let value = state.value.clone().expect("the state is the one of ballot 8 or 9");
    assert_eq!(node.outcome(), Some(&Outcome::Value(Some((state.version, value)))), "the full node 1 accepted, too");
}

/// Found by seed 1092: one replica refused for its full disk and the third was gone; the round was asked again until
/// its client's deadline, and later writes waited behind it without a word of why.
#[test]
fn a_full_disk_and_a_silent_replica_end_a_write_in_time() {
    let mut node = Node::start(6);
    node.ask(put(1));
    let (round, _) = node.wait_for(prepared);
    node.hear(TWO, promise(round));
    let (round, ..) = node.wait_for(accepting);
    node.hear(TWO, nack(round, true));
    while node.answers.is_empty() {
        node.now = node.replica.next_timeout().expect("the operation has a deadline").max(node.now);
        node.tell(Input::Tick);
    }
    assert_eq!(node.outcome(), Some(&Outcome::Unknown), "node 1 itself has accepted it");
    assert!(node.now < Instant::from_millis(300), "{}", node.now);
}

fn put(number: u64) -> Operation {
    let value = Value { body: Bytes::from_static(b"new"), content_type: Bytes::new() };
    let (condition, change) = (Condition::Always, Change::Put(value));
    let request = RequestId(u128::from(number));
    Operation::Write(Write {
        key: key(),
        request,
        first_sent_ms: 1_000,
        retry: false,
        condition,
        change,
        terms: Terms::default(),
    })
}

fn operation_number(operation: &Operation) -> u64 {
    match operation {
        Operation::Write(write) => write.request.0 as u64,
        Operation::Read { .. } | Operation::Outcome { .. } | Operation::InSession { .. } => 1_000,
    }
}

fn held(ballot: Ballot) -> State {
    let body = Bytes::from(ballot.to_string());
    let value = Value { body, content_type: Bytes::new() };
    State { version: Version { ballot, index: 0 }, value: Some(value), ..State::default() }
}

fn key() -> RegisterKey {
    RegisterKey { position: Position(5), bucket: BucketId(1), key: Bytes::from_static(b"k") }
}

fn view() -> View {
    let member = |id: u64| Member {
        id: NodeId(id),
        name: format!("n{id}"),
        zone: None,
        weight: 1,
        tokens: vec![Position(id * 10)],
    };
    let members = (1..=3).map(member).collect();
    View { epoch: Epoch(1), members, ..View::forming(ClusterId(1), 3, 3, 0) }
}
