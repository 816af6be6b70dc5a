//! What an operation costs and how it survives, shown on three replicas with a perfect network and disks that sync when
//! the test says so. Messages and syncs are counted, not timed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{
    Body, Change, Condition, Correct, Effect, Effects, Envelope, Input, LogPosition, Operation, Outbox, Outcome,
    Record, Refusal, RegisterKey, Replica, RequestId, Terms, Ticket, Value, Write,
};
use stdx::{Instant, Prng, TraceContext};

struct Trio {
    now: Instant,
    replicas: BTreeMap<NodeId, Replica<Correct>>,
    logs: BTreeMap<NodeId, Vec<(LogPosition, Record)>>,
    synced: BTreeMap<NodeId, u64>,
    network: VecDeque<(NodeId, Envelope)>,
    answers: Vec<(Ticket, Outcome, Vec<NodeId>, u32)>,
    view: View,
    ticket_last: u64,
    /// Nodes that nothing reaches and nothing leaves.
    dead: Vec<NodeId>,
    sent: u64,
}

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

impl Trio {
    fn new() -> Trio {
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
            replicas: BTreeMap::new(),
            logs: BTreeMap::new(),
            synced: BTreeMap::new(),
            network: VecDeque::new(),
            answers: Vec::new(),
            view,
            ticket_last: 0,
            dead: Vec::new(),
            sent: 0,
        };
        for id in [A, B, C] {
            trio.start(id);
        }
        trio.settle();
        trio
    }

    fn start(&mut self, id: NodeId) {
        let mut replica = Replica::new(id, self.view.clone(), Prng::from_seed(id.0));
        let log = self.logs.entry(id).or_default().clone();
        for (position, record) in log {
            replica.restore(position, record);
        }
        let mut out = Outbox::default();
        replica.begin(self.now, &mut out);
        self.replicas.insert(id, replica);
        self.take(id, out.drain());
    }

    /// The process dies: what was not synced is gone.
    fn crash(&mut self, id: NodeId) {
        self.replicas.remove(&id);
        let synced = self.synced.get(&id).copied().unwrap_or(0);
        self.logs.entry(id).or_default().retain(|(position, _)| position.0 <= synced);
        self.network.retain(|(_, envelope)| envelope.to != id);
    }

    fn take(&mut self, id: NodeId, effects: Effects) {
        self.logs.entry(id).or_default().extend(effects.persist);
        for envelope in effects.send {
            self.sent += 1;
            self.network.push_back((id, envelope));
        }
        for answer in effects.answers {
            self.answers.push((answer.ticket, answer.outcome, answer.receipt.voters, answer.receipt.rounds));
        }
    }

    fn tell(&mut self, id: NodeId, input: Input) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let mut out = Outbox::default();
        replica.handle(self.now, input, &mut out);
        let effects = out.drain();
        self.take(id, effects);
    }

    fn sync(&mut self, id: NodeId) {
        let end = self.logs.get(&id).and_then(|log| log.last()).map_or(0, |(position, _)| position.0);
        if self.synced.insert(id, end) != Some(end) {
            self.tell(id, Input::Synced(LogPosition(end)));
        }
    }

    fn deliver(&mut self) {
        while let Some((from, envelope)) = self.network.pop_front() {
            if !self.dead.contains(&from) && !self.dead.contains(&envelope.to) {
                let Envelope { to, message, context } = envelope;
                self.tell(to, Input::Message { from, incarnation: 1, message, context });
            }
        }
    }

    /// Delivers and syncs until nothing moves.
    fn settle(&mut self) {
        loop {
            self.deliver();
            let ids: Vec<NodeId> = self.replicas.keys().copied().collect();
            for id in ids {
                self.sync(id);
            }
            if self.network.is_empty() {
                return;
            }
        }
    }

    /// Lets time pass, in small steps.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            let ids: Vec<NodeId> = self.replicas.keys().copied().collect();
            for id in ids {
                self.tell(id, Input::Tick);
            }
            self.settle();
        }
    }

    fn submit(&mut self, at: NodeId, operation: Operation) -> Ticket {
        self.ticket_last += 1;
        let ticket = Ticket(self.ticket_last);
        let deadline = self.now + Duration::from_secs(1);
        self.tell(at, Input::Operation { ticket, operation, deadline, wall_ms: 100, context: TraceContext::NONE });
        ticket
    }

    fn answer(&self, ticket: Ticket) -> Option<&(Ticket, Outcome, Vec<NodeId>, u32)> {
        self.answers.iter().find(|(answered, ..)| *answered == ticket)
    }

    fn ask(&mut self, at: NodeId, operation: Operation) -> Outcome {
        let ticket = self.submit(at, operation);
        self.settle();
        if self.answer(ticket).is_none() {
            self.wait(Duration::from_millis(400));
        }
        self.answer(ticket).map(|(_, outcome, ..)| outcome.clone()).expect("answered within the deadline")
    }

    fn read(&mut self, at: NodeId) -> Option<String> {
        match self.ask(at, Operation::Read { key: key() }) {
            Outcome::Value(found) => found.map(|(_, value)| String::from_utf8_lossy(&value.body).into_owned()),
            other => panic!("a read was answered by {other:?}"),
        }
    }
}

fn key() -> RegisterKey {
    RegisterKey { position: Position(500), bucket: BucketId(1), key: Bytes::from_static(b"k") }
}

fn put(id: u128, body: &'static str) -> Operation {
    let value = Value { body: Bytes::from_static(body.as_bytes()), content_type: Bytes::new() };
    let change = Change::Put(value);
    let condition = Condition::Always;
    Operation::Write(Write {
        key: key(),
        request: RequestId(id),
        first_sent_ms: 50,
        retry: false,
        condition,
        change,
        terms: Terms::default(),
    })
}

fn created_or_replaced(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { effect: Effect::Created(_) | Effect::Replaced(_), .. })
}

#[test]
fn a_write_on_the_hot_path_is_one_round_trip_and_one_sync_a_replica() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    let (sent, lengths) = (trio.sent, trio.logs.values().map(Vec::len).collect::<Vec<_>>());
    let ticket = trio.submit(A, put(2, "second"));
    trio.settle();
    let (_, outcome, voters, rounds) = trio.answer(ticket).expect("answered").clone();
    assert!(created_or_replaced(&outcome), "{outcome:?}");
    assert_eq!(rounds, 1);
    assert!(voters.len() >= 2);
    assert_eq!(trio.sent - sent, 4, "two accepts, two votes");
    let now: Vec<usize> = trio.logs.values().map(Vec::len).collect();
    assert_eq!(now, lengths.iter().map(|length| length + 1).collect::<Vec<_>>(), "one record a replica");
}

#[test]
fn a_strict_read_is_one_round_trip_and_syncs_nothing() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    let (sent, length) = (trio.sent, trio.logs.values().map(Vec::len).sum::<usize>());
    assert_eq!(trio.read(A).as_deref(), Some("first"));
    assert_eq!(trio.sent - sent, 4, "two queries, two reports");
    assert_eq!(trio.logs.values().map(Vec::len).sum::<usize>(), length, "nothing was written");
}

#[test]
fn no_vote_leaves_before_its_record_is_synced() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    let ticket = trio.submit(A, put(2, "second"));
    trio.deliver();
    assert!(trio.answer(ticket).is_none(), "nobody has synced: nobody may vote");
    trio.sync(B);
    trio.deliver();
    assert!(trio.answer(ticket).is_none(), "one disk of three is no majority");
    trio.sync(C);
    trio.deliver();
    assert!(trio.answer(ticket).is_some(), "two disks are, without the coordinator's own");
}

#[test]
fn any_replica_takes_over_when_the_first_dies() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    trio.dead.push(A);
    assert!(created_or_replaced(&trio.ask(B, put(2, "second"))));
    assert_eq!(trio.read(C).as_deref(), Some("second"));
}

#[test]
fn an_interrupted_write_is_finished_or_overtaken_but_never_both() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    // The accept reaches one replica, then the coordinator dies.
    trio.submit(A, put(2, "second"));
    trio.network.retain(|(_, envelope)| envelope.to == B);
    trio.dead.push(A);
    trio.settle();
    let seen = trio.read(C);
    assert!(seen.as_deref() == Some("first") || seen.as_deref() == Some("second"));
    assert_eq!(trio.read(B), seen, "what one read settled, the next one sees");
}

#[test]
fn a_minority_answers_neither_reads_nor_writes() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    trio.dead.extend([B, C]);
    let read = trio.submit(A, Operation::Read { key: key() });
    let write = trio.submit(A, put(2, "second"));
    trio.wait(Duration::from_millis(1_100));
    assert_eq!(trio.answer(read).map(|answer| &answer.1), Some(&Outcome::Refused(Refusal::NoQuorum)));
    assert_eq!(trio.answer(write).map(|answer| &answer.1), Some(&Outcome::Unknown), "it was proposed: it may yet be");
}

#[test]
fn a_restarted_replica_refuses_what_it_may_have_promised_away() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    trio.crash(B);
    trio.start(B);
    trio.settle();
    // A still holds the ballot that B promised before; C carries the vote, and B's refusal is healed by teaching it.
    assert!(created_or_replaced(&trio.ask(A, put(2, "second"))));
    trio.wait(Duration::from_millis(300));
    let (ballot, state) = trio.replicas[&B].inspect(&key());
    assert_eq!(state.value.map(|value| value.body), Some(Bytes::from_static(b"second")), "at {ballot}");
}

#[test]
fn a_replica_that_was_away_catches_up_before_it_counts_as_ready() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    trio.crash(C);
    assert!(created_or_replaced(&trio.ask(A, put(2, "second"))));
    trio.start(C);
    assert!(!trio.replicas[&C].has_caught_up());
    trio.wait(Duration::from_millis(500));
    assert!(trio.replicas[&C].has_caught_up());
    let (_, state) = trio.replicas[&C].inspect(&key());
    assert_eq!(state.value.map(|value| value.body), Some(Bytes::from_static(b"second")));
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    for id in [A, B, C] {
        trio.tell(id, Input::DiskFull(true));
    }
    assert_eq!(trio.ask(A, put(2, "second")), Outcome::Refused(Refusal::DiskFull));
    assert_eq!(trio.read(A).as_deref(), Some("first"));
    for id in [A, B, C] {
        trio.tell(id, Input::DiskFull(false));
    }
    assert!(created_or_replaced(&trio.ask(A, put(3, "third"))));
}

#[test]
fn operations_that_wait_for_one_key_share_a_round() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    let tickets: Vec<Ticket> = (2..12).map(|id| trio.submit(A, put(id, "more"))).collect();
    let sent = trio.sent;
    trio.settle();
    assert!(
        tickets.iter().all(|ticket| trio.answer(*ticket).is_some_and(|(_, outcome, ..)| created_or_replaced(outcome)))
    );
    assert_eq!(trio.sent - sent + 2, 8, "one round for the first, one for the nine that waited");
}

#[test]
fn another_epochs_message_is_answered_but_not_acted_on() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    let ticket = trio.submit(A, put(2, "second"));
    for (_, envelope) in &mut trio.network {
        envelope.message.epoch = Epoch(9);
    }
    let (from, envelope) = trio.network.pop_front().expect("an accept is on its way");
    trio.network.clear();
    trio.tell(
        envelope.to,
        Input::Message { from, incarnation: 1, message: envelope.message, context: TraceContext::NONE },
    );
    let (_, reply) = trio.network.front().expect("an answer");
    assert_eq!(reply.message.body, Body::OtherEpoch { view: None }, "our view is the older one");
    assert!(trio.answer(ticket).is_none());
}

#[test]
fn a_draining_node_finishes_what_it_has_and_takes_nothing_new() {
    let mut trio = Trio::new();
    trio.ask(A, put(1, "first"));
    let under_way = trio.submit(A, put(2, "second"));
    trio.tell(A, Input::Drain);
    let late = trio.submit(A, put(3, "third"));
    trio.settle();
    assert!(trio.answer(under_way).is_some_and(|(_, outcome, ..)| created_or_replaced(outcome)));
    assert_eq!(trio.answer(late).map(|answer| &answer.1), Some(&Outcome::Refused(Refusal::Draining)));
}
