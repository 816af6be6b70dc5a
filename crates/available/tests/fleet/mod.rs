//! A few replicas whose disks sync at once and whose messages arrive at once, or never, for schedules by hand.
#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use available::{
    Action, Answer, Change, Config, Context, Effects, Envelope, Input, Kind, Level, Operation, Outbox, Past, Replica,
    Rule, Write,
};
use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{RegisterKey, RequestId, Ticket, Value};
use stdx::{Instant, Prng, TraceContext};

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nodes whose disks sync at once and whose messages arrive at once, or never.
pub struct Fleet {
    pub now: Instant,
    pub nodes: BTreeMap<NodeId, Replica>,
    pub cut: BTreeSet<(NodeId, NodeId)>,
    on_the_way: VecDeque<(NodeId, Envelope)>,
    pub answers: Vec<Answer>,
}

impl Fleet {
    /// Nodes 1 to `nodes` in this view, a second after they started.
    pub fn new(nodes: u64, view: &View, broken: Option<Rule>) -> Fleet {
        let now = Instant::from_millis(1);
        let (nodes_by_id, cut, on_the_way) = (BTreeMap::new(), BTreeSet::new(), VecDeque::new());
        let mut fleet = Fleet { now, nodes: nodes_by_id, cut, on_the_way, answers: Vec::new() };
        (1..=nodes).for_each(|id| fleet.start(id, view, broken));
        fleet.run(Duration::from_secs(1));
        fleet
    }

    /// A node starts, with a rule broken if one is.
    pub fn start(&mut self, id: u64, view: &View, broken: Option<Rule>) {
        let id = NodeId(id);
        let mut replica = Replica::new(id, 1, view.clone(), b"tested", Config::default(), Prng::from_seed(id.0));
        if let Some(rule) = broken {
            replica = replica.without(rule);
        }
        let mut out = Outbox::default();
        replica.begin(self.now, 0, &mut out);
        self.nodes.insert(id, replica);
        self.carry_out(id, out.drain());
    }

    /// Gives a node one input.
    pub fn tell(&mut self, id: u64, input: Input) {
        let mut out = Outbox::default();
        let Some(replica) = self.nodes.get_mut(&NodeId(id)) else { return };
        replica.handle(self.now, input, &mut out);
        self.carry_out(NodeId(id), out.drain());
    }

    fn carry_out(&mut self, id: NodeId, effects: Effects) {
        self.on_the_way.extend(effects.send.into_iter().map(|envelope| (id, envelope)));
        self.answers.extend(effects.answers);
        if let Some((position, _)) = effects.persist.last() {
            self.tell(id.0, Input::Synced(*position));
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            while let Some((from, Envelope { to, message, context })) = self.on_the_way.pop_front() {
                if !self.cut.contains(&(from, to)) {
                    self.tell(to.0, Input::Message { from, message, context });
                }
            }
            let due = self.nodes.iter().filter_map(|(id, node)| Some((node.next_timeout()?, *id))).min();
            let Some((at, id)) = due.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.tell(id.0, Input::Tick { wall_ms: self.now.as_millis() });
        }
        self.now = end;
    }

    /// Nothing arrives from one of the two at the other.
    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut.extend([(NodeId(a), NodeId(b)), (NodeId(b), NodeId(a))]);
    }

    /// They hear each other again.
    pub fn heal(&mut self, a: u64, b: u64) {
        self.cut.retain(|link| *link != (NodeId(a), NodeId(b)) && *link != (NodeId(b), NodeId(a)));
    }

    /// A session with this past asks a node for something at level causal.
    pub fn ask(&mut self, at: u64, key: RegisterKey, past: &Past, action: Action) {
        let (level, stand_in, past) = (Level::Causal, false, past.clone());
        let operation = Operation { key, level, past, stand_in, action };
        let (ticket, deadline, context) = (Ticket(at), self.now + PATIENCE, TraceContext::NONE);
        self.tell(at, Input::Operation { ticket, operation, deadline, wall_ms: 0, context });
    }
}

/// A key of this name at position 5.
pub fn key(name: &'static str) -> RegisterKey {
    RegisterKey { position: Position(5), bucket: BucketId(1), key: Bytes::from_static(name.as_bytes()) }
}

/// A formed view of nodes, each with one token.
pub fn view(members: &[(u64, u64)]) -> View {
    let mut view = View::forming(ClusterId(7), 3, members.len(), 1);
    view.members = members.iter().map(|(id, token)| member(*id, *token)).collect();
    view.epoch = Epoch(1);
    view
}

/// A node with one token.
pub fn member(id: u64, token: u64) -> Member {
    Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens: vec![Position(token)] }
}

/// Puts a value whose name is the request's number, by somebody who has seen this much of the key.
pub fn write(key: RegisterKey, request: u64, order: u64, context: Option<Context>) -> Action {
    let value = Value { body: Bytes::from(request.to_string()), content_type: Bytes::new() };
    Action::Write(Write {
        key,
        kind: Kind::Value,
        request: RequestId(u128::from(request)),
        first_sent_ms: 1,
        context,
        order,
        firm: false,
        change: Change::Put(value),
    })
}
