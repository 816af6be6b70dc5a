//! One budget for registers and available keys together: what comes in for both, counted, over the time that it took.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use available::{Actor, Body as AvailableBody, Dot, Kind, State, make_for_tests};
use bytes::{Bytes, BytesMut};
use membership::{BucketId, ClusterId, Epoch, Member};
use replication::{Body, Condition, Operation, RegisterKey, RequestId, Terms, Ticket, Value, Write};
use stdx::TraceContext;
use wire::node::{Frame, Payload};

use super::*;
use crate::available_keys::DURABILITIES;

const KEYS: u64 = 900;
const VALUE_BYTES: usize = 8_000;
const RATE: u64 = 500_000;
/// What may have been asked for when the budget was spent: four arcs' registers, and a page of available keys.
const BURST: u64 = (4 * 512 + 300) * 1024;

/// Nodes on a perfect network, with disks that sync at once.
struct Fleet {
    now: Instant,
    view: View,
    hosts: BTreeMap<NodeId, Host>,
    network: VecDeque<(NodeId, NodeId, Payload)>,
    /// Bytes that node 4 asked for and got: registers, available keys.
    got: [u64; 2],
    answered: u64,
    tickets: u64,
}

fn member(number: u64) -> Member {
    let tokens = vec![Position(number * 1_000)];
    Member { id: NodeId(number), name: format!("n{number}"), zone: None, weight: 1, tokens }
}

fn key(bucket: u32, number: u64) -> RegisterKey {
    let position = Position(number * 3_000 / KEYS + 1);
    RegisterKey { position, bucket: BucketId(bucket), key: Bytes::from(format!("k{number}")) }
}

fn value() -> Value {
    Value { body: Bytes::from(vec![b'.'; VALUE_BYTES]), content_type: Bytes::new() }
}

/// Gives it available keys that somebody stamped who is gone, so that nobody owes them and a new home must ask.
fn restore_available(host: &mut Host) {
    let gone = Actor { node: NodeId(9), birth: 1 };
    let held = (0..KEYS).map(|number| {
        let (key, dot) = (key(2, number), Dot { counter: number + 1, actor: gone });
        let write = available::Write {
            key: key.clone(),
            kind: Kind::Value,
            request: RequestId(1 << 64 | u128::from(number)),
            first_sent_ms: 1,
            context: None,
            order: 1,
            firm: false,
            change: available::Change::Put(value()),
        };
        let mut state = State::absent(Kind::Value);
        make_for_tests(&mut state, &write, dot);
        available::Record::Held { key, state }
    });
    let first = [available::Record::Born(Actor { node: host.me, birth: 1 }), available::Record::Whole];
    for (position, record) in (1..).zip(first.into_iter().chain(held)) {
        host.restore(LogPosition(position), LogRecord::Available(record));
    }
}

impl Fleet {
    fn new() -> Fleet {
        let members = (1..=3).map(member).collect();
        let view = View { epoch: Epoch(1), members, ..View::forming(ClusterId(1), 3, 3, 0) };
        let (hosts, network) = (BTreeMap::new(), VecDeque::new());
        let mut fleet = Fleet { now: Instant::ZERO, view, hosts, network, got: [0; 2], answered: 0, tickets: 0 };
        (1..=3).for_each(|number| fleet.start(NodeId(number)));
        fleet.wait(Duration::from_millis(500));
        fleet
    }

    fn start(&mut self, node: NodeId) {
        let mut host = Host::new(node, 1, self.view.clone(), b"secret");
        if node == NodeId(4) {
            host.set_transfer_rate(RATE);
        } else {
            restore_available(&mut host);
        }
        let effects = host.begin(self.now);
        self.hosts.insert(node, host);
        self.take(node, effects);
        for durability in DURABILITIES {
            let now = self.now;
            let effects = self.host(node).begin_available(durability, now, 1);
            self.take_available(node, durability, effects);
        }
    }

    fn host(&mut self, node: NodeId) -> &mut Host {
        self.hosts.get_mut(&node).expect("it runs")
    }

    fn ids(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    fn tell(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let effects = self.host(node).replica(now, input);
        self.take(node, effects);
    }

    fn tell_available(&mut self, node: NodeId, durability: Durability, input: available::Input) {
        let now = self.now;
        let effects = self.host(node).available(durability, now, input);
        self.take_available(node, durability, effects);
    }

    fn take(&mut self, node: NodeId, effects: Effects) {
        self.answered += effects.answers.len() as u64;
        let sent = effects.send.into_iter().map(|envelope| (node, envelope.to, Payload::Replica(envelope.message)));
        self.network.extend(sent);
        if let Some((position, _)) = effects.persist.last() {
            self.synced(node, *position);
        }
    }

    /// There is one log for both.
    fn synced(&mut self, node: NodeId, position: LogPosition) {
        self.tell(node, Input::Synced(position));
        self.tell_available(node, Durability::Disk, available::Input::Synced(position));
    }

    fn take_available(&mut self, node: NodeId, durability: Durability, effects: available::Effects) {
        self.answered += effects.answers.len() as u64;
        for available::Envelope { to, message, .. } in effects.send {
            self.network.push_back((node, to, Payload::Available { durability, message }));
        }
        if let Some((position, _)) = effects.persist.last() {
            self.synced(node, *position);
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, payload)) = self.network.pop_front() {
            let context = TraceContext::NONE;
            let bytes = |payload: &Payload| {
                let mut frame = BytesMut::new();
                wire::codec::encode(&Frame { context, payload: payload.clone() }, &mut frame);
                frame.len() as u64
            };
            if to == NodeId(4) {
                match &payload {
                    Payload::Replica(message)
                        if matches!(message.body, Body::CopyPage { .. } | Body::Fetched { .. }) =>
                    {
                        self.got[0] += bytes(&payload);
                    }
                    Payload::Available { message, .. } if matches!(message.body, AvailableBody::Have { .. }) => {
                        self.got[1] += bytes(&payload);
                    }
                    _ => {}
                }
            }
            match payload {
                Payload::Replica(message) => self.tell(to, Input::Message { from, incarnation: 1, message, context }),
                Payload::Available { durability, message } => {
                    self.tell_available(to, durability, available::Input::Message { from, message, context });
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.hosts.values().filter_map(Host::next_timeout).min().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            for node in self.ids() {
                self.tell(node, Input::Tick);
                for durability in DURABILITIES {
                    self.tell_available(node, durability, available::Input::Tick { wall_ms: 1 });
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// Writes the register of this number.
    fn fill(&mut self, number: u64) {
        let key = key(1, number);
        let home = self.view.ring().replicas_of(key.position)[0];
        self.tickets += 1;
        let (ticket, request) = (Ticket(self.tickets), RequestId(u128::from(self.tickets)));
        let (change, terms, condition) = (replication::Change::Put(value()), Terms::default(), Condition::Always);
        let operation =
            Operation::Write(Write { key, request, first_sent_ms: 1, retry: false, condition, change, terms });
        let (deadline, wall_ms, context) = (self.now + Duration::from_secs(1), 1, TraceContext::NONE);
        self.tell(home, Input::Operation { ticket, operation, deadline, wall_ms, context });
        self.settle();
    }

    fn publish(&mut self, view: View) {
        self.view = view;
        for node in self.ids() {
            self.tell(node, Input::View(self.view.clone()));
            for durability in DURABILITIES {
                self.tell_available(node, durability, available::Input::View(self.view.clone()));
            }
        }
    }
}

#[test]
fn registers_and_available_keys_keep_to_one_budget_together() {
    let mut fleet = Fleet::new();
    (0..KEYS).for_each(|number| fleet.fill(number));
    assert_eq!(fleet.answered, KEYS);
    let joining = fleet.view.begin_join(member(4)).expect("it may join");
    let begun = fleet.now;
    fleet.publish(joining);
    fleet.start(NodeId(4));
    let (mut both, change) = (0, fleet.view.pending[0].id);
    loop {
        fleet.wait(Duration::from_millis(100));
        let elapsed_ms = fleet.now.since(begun).as_millis() as u64;
        let (paid, [registers, keys]) = (RATE * elapsed_ms / 1_000, fleet.got);
        assert!(registers + keys <= paid + BURST, "{registers} and {keys} bytes, {paid} of them paid for");
        let host = fleet.host(NodeId(4));
        let lacks = |copied: usize, arcs: usize| u64::from(copied < arcs);
        let (registers, keys) = (host.replica.transfer_status(), host.available.of(Durability::Disk).copy_status());
        both += lacks(registers.arcs_copied, registers.arcs) * lacks(keys.arcs_copied, keys.arcs);
        if host.replica.copied_changes().contains(&change) && host.available.copied_changes().contains(&change) {
            break;
        }
        assert!(elapsed_ms < 120_000, "never copied: {registers:?}, {keys:?}");
    }
    assert!(both > 10, "neither waits for the other to end: seen {both} times");
    assert!(fleet.got[0] > BURST / 4 && fleet.got[1] > BURST / 4, "{:?}", fleet.got);
}
