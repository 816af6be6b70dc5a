//! What it costs to find and mend the differences between two replicas: bytes on the wire, both ways, over the bytes of
//! what differed.
//!
//! `cargo run --release -p available --example reconcile -- [KEYS [DIFFERING [VALUE_BYTES]]]`; by default a
//! million keys
//! of 100 bytes, of which one in a hundred differs. The last line is JSON.
//!
//! Three nodes are the homes of every key. One of them stamped everything, and is gone; of its last writes half have
//! reached only the first of the other two, half only the second. Nobody owes anybody anything: only a comparison finds
//! it. The two run as they would in a fleet, both with passes that are due, until they hold the same.

use std::collections::VecDeque;

use available::{
    Actor, Body, Change, Config, Context, Dot, Effects, Input, Kind, Message, Outbox, Range, Record, Replica, State,
    Write, make_for_tests as make,
};
use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, KeyHasher, Member, NodeId, Position, View};
use replication::{LogPosition, RegisterKey, RequestId, Value};
use stdx::{Instant, Prng, TraceContext};

const NODES: u64 = 3;
/// Who stamped everything.
const GONE: Actor = Actor { node: NodeId(3), birth: 1 };
const WALL_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Copy)]
struct Load {
    keys: u64,
    differing: u64,
    value_bytes: usize,
}

/// What went over the wire, by what it was for.
#[derive(Default)]
struct Traffic {
    messages: u64,
    /// Questions and answers about ranges.
    comparing: usize,
    /// Names of the states that are wanted.
    wanting: usize,
    /// States.
    states: usize,
    /// All the rest: confirmations and beats.
    rest: usize,
}

impl Traffic {
    fn count(&mut self, message: &Message) {
        let bytes = wire::codec::encode_available_message(message).len();
        self.messages += 1;
        *match &message.body {
            Body::Ask { .. } | Body::Tell { .. } => &mut self.comparing,
            Body::Want { .. } => &mut self.wanting,
            Body::Have { .. } | Body::Store { .. } => &mut self.states,
            _ => &mut self.rest,
        } += bytes;
    }

    fn bytes(&self) -> usize {
        self.comparing + self.wanting + self.states + self.rest
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let keys = numbers.next().unwrap_or(1_000_000);
    let differing = numbers.next().unwrap_or(keys / 100);
    let value_bytes = numbers.next().unwrap_or(100) as usize;
    let load = Load { keys, differing, value_bytes };
    let hasher = KeyHasher::new(b"reconcile");
    let view = view(&hasher);
    let mut replicas = [1, 2].map(|id| replica(NodeId(id), &view));
    let difference = fill(&mut replicas, &hasher, load);
    let traffic = reconcile(&mut replicas);
    let ratio = traffic.bytes() as f64 / difference as f64;
    println!("{keys} keys with values of {value_bytes} bytes, of which {differing} differ: {difference} bytes");
    println!(
        "{} messages, {} bytes: {} comparing, {} wanting, {} states, {} else",
        traffic.messages,
        traffic.bytes(),
        traffic.comparing,
        traffic.wanting,
        traffic.states,
        traffic.rest
    );
    println!(
        "{{\"reconcile_bytes_over_difference\":{ratio:.3},\"keys\":{keys},\"differing\":{differing},\
         \"value_bytes\":{value_bytes},\"difference_bytes\":{difference},\"traffic_bytes\":{},\"messages\":{}}}",
        traffic.bytes(),
        traffic.messages
    );
}

fn view(hasher: &KeyHasher) -> View {
    let mut view = View::forming(ClusterId(1), NODES as usize, NODES as usize, hasher.fingerprint());
    for id in 1..=NODES {
        let tokens = vec![Position(id << 62)];
        view.members.push(Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens });
    }
    view.epoch = Epoch(1);
    view.validate().expect("the view is sound");
    view
}

fn replica(me: NodeId, view: &View) -> Replica {
    Replica::new(me, 1, view.clone(), b"secret", Config::default(), Prng::from_seed(me.0))
}

/// Puts the data into both replicas' logs, read back; the bytes of the newer states of the keys that differ.
fn fill(replicas: &mut [Replica; 2], hasher: &KeyHasher, load: Load) -> usize {
    let mut position = LogPosition(0);
    let mut restore = |replicas: &mut [Replica; 2], which: &[usize], record: Record| {
        position = LogPosition(position.0 + 1);
        for at in which {
            replicas[*at].restore(position, record.clone());
        }
    };
    for at in [0, 1] {
        let actor = Actor { node: NodeId(at as u64 + 1), birth: 1 };
        restore(replicas, &[at], Record::Born(actor));
    }
    restore(replicas, &[0, 1], Record::Whole);
    let (mut prng, mut difference) = (Prng::from_seed(1), 0);
    for number in 0..load.keys {
        let name = Bytes::from(format!("key-{number}"));
        let key = RegisterKey { position: hasher.position(BucketId(1), &name), bucket: BucketId(1), key: name };
        let mut state = State::absent(Kind::Value);
        write(&mut state, &key, number + 1, load, &mut prng);
        restore(replicas, &[0, 1], Record::Held { key: key.clone(), state: state.clone() });
        if number < load.differing {
            write(&mut state, &key, load.keys + number + 1, load, &mut prng);
            difference += bytes_of(&key, &state);
            restore(replicas, &[number as usize % 2], Record::Held { key, state });
        }
    }
    // What both have has come in order; of what came after there are gaps.
    restore(replicas, &[0, 1], Record::Mark { actor: GONE, counter: load.keys });
    difference
}

/// A write by a client that had read the key.
fn write(state: &mut State, key: &RegisterKey, counter: u64, load: Load, prng: &mut Prng) {
    let body: Vec<u8> = (0..load.value_bytes).map(|_| prng.next_u64() as u8).collect();
    let context = Some(state.context.clone()).filter(|context| *context != Context::default());
    let write = Write {
        key: key.clone(),
        kind: Kind::Value,
        request: RequestId(u128::from(prng.next_u64()) << 64 | u128::from(counter)),
        // Longer ago than requests are remembered.
        first_sent_ms: WALL_MS - 3_600_000,
        context,
        order: counter,
        firm: false,
        change: Change::Put(Value { body: Bytes::from(body), content_type: Bytes::from_static(b"text/plain") }),
    };
    make(state, &write, Dot { counter, actor: GONE });
}

/// What a key's state takes on the wire: a message that brings it, less one that brings nothing.
fn bytes_of(key: &RegisterKey, state: &State) -> usize {
    let bytes = |entries| {
        let body = Body::Have { pass: 0, question: 0, entries };
        let message = Message { epoch: Epoch(1), clock: 0, actor: GONE, start: 1, body };
        wire::codec::encode_available_message(&message).len()
    };
    bytes(vec![(key.clone(), state.clone())]) - bytes(Vec::new())
}

/// Runs both until they hold the same and no pass is under way.
fn reconcile(replicas: &mut [Replica; 2]) -> Traffic {
    let (mut traffic, mut now, mut under_way) = (Traffic::default(), Instant::ZERO, VecDeque::new());
    let mut passes = [0; 2];
    for at in [0, 1] {
        let mut out = Outbox::default();
        replicas[at].begin(now, WALL_MS, &mut out);
        carry_out(replicas, at, out.drain(), now, &mut under_way, &mut passes);
    }
    while passes.contains(&0) || !is_equal(replicas) {
        let Some((to, message)) = under_way.pop_front() else {
            now = replicas.iter().filter_map(Replica::next_timeout).min().expect("a beat is always due");
            for at in [0, 1] {
                feed(replicas, at, Input::Tick { wall_ms: WALL_MS }, now, &mut under_way, &mut passes);
            }
            continue;
        };
        traffic.count(&message);
        let from = NodeId(2 - to as u64);
        let input = Input::Message { from, message, context: TraceContext::NONE };
        feed(replicas, to, input, now, &mut under_way, &mut passes);
    }
    traffic
}

fn is_equal(replicas: &[Replica; 2]) -> bool {
    let all = Range { first: 0, last: u64::MAX };
    replicas[0].table().print(all, 1) == replicas[1].table().print(all, 1)
}

fn feed(
    replicas: &mut [Replica; 2],
    at: usize,
    input: Input,
    now: Instant,
    under_way: &mut VecDeque<(usize, Message)>,
    passes: &mut [u32; 2],
) {
    let mut out = Outbox::default();
    replicas[at].handle(now, input, &mut out);
    carry_out(replicas, at, out.drain(), now, under_way, passes);
}

/// Disks sync at once; messages between the two arrive in order, and nobody hears the third.
fn carry_out(
    replicas: &mut [Replica; 2],
    at: usize,
    effects: Effects,
    now: Instant,
    under_way: &mut VecDeque<(usize, Message)>,
    passes: &mut [u32; 2],
) {
    for envelope in effects.send.into_iter().filter(|envelope| envelope.to != GONE.node) {
        under_way.push_back((envelope.to.0 as usize - 1, envelope.message));
    }
    passes[at] +=
        effects.events.iter().filter(|event| matches!(event, available::Event::Reconciled { .. })).count() as u32;
    if let Some((position, _)) = effects.persist.last() {
        feed(replicas, at, Input::Synced(*position), now, under_way, passes);
    }
}
