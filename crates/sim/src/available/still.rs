//! Replicas of available keys between which messages arrive at once and whose disks sync at once, in an order that is
//! always the same: where nothing is to go wrong, and things are to be counted.

use std::collections::VecDeque;

use available::{Actor, Answer, Config, Effects, Event, Input, Message, Outbox, Replica};
use membership::{BucketId, ClusterId, Epoch, KeyHasher, Member, NodeId, Position, View};
use replication::RegisterKey;
use stdx::{Instant, Prng, TraceContext};

/// The homes of every key.
const NODES: u64 = 3;
/// What replicas take for the wall clock, always.
pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

/// The replicas that run; who else is in the view hears nothing.
pub(crate) struct Still {
    /// By the numbers of their nodes, from 1.
    pub(crate) replicas: Vec<Replica>,
    /// What was answered since it was last looked at.
    pub(crate) answers: Vec<Answer>,
    /// Syncs of each one's disk.
    pub(crate) syncs: Vec<u64>,
    /// Passes of reconciliation that each one has ended.
    pub(crate) passes: Vec<u64>,
    now: Instant,
    under_way: VecDeque<(NodeId, usize, Message)>,
}

impl Still {
    /// The first so many of three nodes, which have not begun.
    pub(crate) fn new(running: usize) -> Still {
        let view = view();
        let replica = |id| Replica::new(NodeId(id), 1, view.clone(), b"secret", Config::default(), Prng::from_seed(id));
        Still {
            replicas: (1..=NODES).take(running).map(replica).collect(),
            answers: Vec::new(),
            syncs: vec![0; running],
            passes: vec![0; running],
            now: Instant::ZERO,
            under_way: VecDeque::new(),
        }
    }

    pub(crate) fn begin(&mut self) {
        for at in 0..self.replicas.len() {
            let mut out = Outbox::default();
            self.replicas[at].begin(self.now, WALL_MS, &mut out);
            self.carry_out(at, out.drain());
        }
    }

    pub(crate) fn feed(&mut self, at: usize, input: Input) {
        let mut out = Outbox::default();
        self.replicas[at].handle(self.now, input, &mut out);
        self.carry_out(at, out.drain());
    }

    /// The next message, after it was delivered.
    pub(crate) fn deliver(&mut self) -> Option<Message> {
        let (from, to, message) = self.under_way.pop_front()?;
        self.feed(to, Input::Message { from, message: message.clone(), context: TraceContext::NONE });
        Some(message)
    }

    /// Goes on to the next time at which a replica does something by itself.
    pub(crate) fn tick(&mut self) {
        self.now = self.replicas.iter().filter_map(Replica::next_timeout).min().expect("a beat is always due");
        for at in 0..self.replicas.len() {
            self.feed(at, Input::Tick { wall_ms: WALL_MS });
        }
    }

    fn carry_out(&mut self, at: usize, effects: Effects) {
        let running = self.replicas.len() as u64;
        for envelope in effects.send.into_iter().filter(|envelope| envelope.to.0 <= running) {
            self.under_way.push_back((NodeId(at as u64 + 1), envelope.to.0 as usize - 1, envelope.message));
        }
        self.answers.extend(effects.answers);
        self.passes[at] +=
            effects.events.iter().filter(|event| matches!(event, Event::Reconciled { .. })).count() as u64;
        if let Some((position, _)) = effects.persist.last() {
            self.syncs[at] += 1;
            self.feed(at, Input::Synced(*position));
        }
    }
}

/// The actor of a node's first start.
pub(crate) const fn actor(node: u64) -> Actor {
    Actor { node: NodeId(node), birth: 1 }
}

/// A key of the one bucket.
pub(crate) fn key(name: String) -> RegisterKey {
    let name = bytes::Bytes::from(name);
    RegisterKey { position: hasher().position(BucketId(1), &name), bucket: BucketId(1), key: name }
}

fn hasher() -> KeyHasher {
    KeyHasher::new(b"still")
}

fn view() -> View {
    let mut view = View::forming(ClusterId(1), NODES as usize, NODES as usize, hasher().fingerprint());
    for id in 1..=NODES {
        let tokens = vec![Position(id << 62)];
        view.members.push(Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens });
    }
    view.epoch = Epoch(1);
    view.validate().expect("the view is sound");
    view
}
