//! What is not there is known only to those who would have it: a key that was never seen where homes lag behind a
//! change may have been written where they do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use available::{
    Action, Answer, Change, Config, Effects, Envelope, Input, Kind, Level, Operation, Outbox, Outcome, Past, Replica,
    Rule, Session, Shown, Write,
};
use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{RegisterKey, RequestId, Ticket, Value};
use stdx::{Instant, Prng, TraceContext};

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nodes whose disks sync at once and whose messages arrive at once, or never.
struct Fleet {
    now: Instant,
    nodes: BTreeMap<NodeId, Replica>,
    cut: BTreeSet<(NodeId, NodeId)>,
    on_the_way: VecDeque<(NodeId, Envelope)>,
    answers: Vec<Answer>,
}

impl Fleet {
    fn start(&mut self, id: u64, view: &View, broken: Option<Rule>) {
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

    fn tell(&mut self, id: u64, input: Input) {
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
    fn run(&mut self, length: Duration) {
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

    fn cut(&mut self, a: u64, b: u64) {
        self.cut.extend([(NodeId(a), NodeId(b)), (NodeId(b), NodeId(a))]);
    }

    fn ask(&mut self, at: u64, past: &Past, action: Action) {
        let (level, stand_in, past) = (Level::Causal, false, past.clone());
        let operation = Operation { key: key(), level, past, stand_in, action };
        let (ticket, deadline, context) = (Ticket(at), self.now + PATIENCE, TraceContext::NONE);
        self.tell(at, Input::Operation { ticket, operation, deadline, wall_ms: 0, context });
    }
}

fn key() -> RegisterKey {
    RegisterKey { position: Position(5), bucket: BucketId(1), key: Bytes::from_static(b"k") }
}

fn member(id: u64, token: u64) -> Member {
    Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens: vec![Position(token)] }
}

fn write() -> Action {
    let value = Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() };
    Action::Write(Write {
        key: key(),
        kind: Kind::Value,
        request: RequestId(1),
        first_sent_ms: 1,
        context: None,
        order: 1,
        firm: false,
        change: Change::Put(value),
    })
}

/// A fleet of three that a fourth has joined: the key's homes were 1, 2 and 3, and are 4, 1 and 2. Nodes 2 and 4 act on
/// that; 1 and 3 have not heard of it, and do not hear those two.
fn torn_by_a_change(broken: Option<Rule>) -> Fleet {
    let mut view = View::forming(ClusterId(7), 3, 3, 1);
    view.members = vec![member(1, 1 << 62), member(2, 1 << 63), member(3, 3 << 62)];
    view.epoch = Epoch(1);
    let now = Instant::from_millis(1);
    let (nodes, cut, on_the_way) = (BTreeMap::new(), BTreeSet::new(), VecDeque::new());
    let mut fleet = Fleet { now, nodes, cut, on_the_way, answers: Vec::new() };
    (1..=3).for_each(|id| fleet.start(id, &view, broken));
    fleet.run(Duration::from_secs(1));
    let joint = view.begin_join(member(4, 10)).expect("a newcomer");
    fleet.start(4, &joint, broken);
    (1..=3).for_each(|id| fleet.tell(id, Input::View(joint.clone())));
    fleet.run(Duration::from_secs(5));
    let copied = fleet.nodes[&NodeId(4)].copied_changes();
    let after = joint.note_copied(*copied.first().expect("it has copied"), NodeId(4)).expect("the change is pending");
    assert!(after.pending.is_empty() && after.ring().replicas_of(Position(5)).contains(&NodeId(4)));
    for (a, b) in [(1, 2), (1, 4), (3, 2), (3, 4)] {
        fleet.cut(a, b);
    }
    [2, 4].into_iter().for_each(|id| fleet.tell(id, Input::View(after.clone())));
    fleet.run(Duration::from_secs(1));
    fleet
}

/// Writes at a home that acts on the change; then the same session reads at one that does not.
fn write_and_read_where_it_lags(fleet: &mut Fleet) {
    let mut session = Session::new(9);
    fleet.ask(2, &session.past, write());
    fleet.run(Duration::from_millis(300));
    let Some(Answer { outcome: Outcome::Done { seen, .. }, .. }) = fleet.answers.pop() else {
        panic!("two of three homes take the write")
    };
    session.observe(1, &seen, true, true);
    fleet.ask(1, &session.past, Action::Read { kind: Kind::Value });
    fleet.run(Duration::from_millis(300));
}

#[test]
fn who_lags_behind_a_change_does_not_tell_a_session_that_what_it_wrote_is_not_there() {
    let mut fleet = torn_by_a_change(None);
    write_and_read_where_it_lags(&mut fleet);
    assert_eq!(fleet.answers, [], "a majority of the homes before the change says nothing of what came after it");
    fleet.cut.clear();
    fleet.run(Duration::from_secs(1));
    let Some(Answer { outcome: Outcome::Read { shown: Shown::Values(values), .. }, .. }) = fleet.answers.pop() else {
        panic!("it is read once the others are heard: {:?}", fleet.answers)
    };
    assert_eq!(values[0].1.body, "v");
}

/// The bug that the rule is against is one that this schedule shows.
#[test]
fn by_the_old_majority_alone_the_session_would_miss_its_own_write() {
    let mut fleet = torn_by_a_change(Some(Rule::OldMajorityOnly));
    write_and_read_where_it_lags(&mut fleet);
    let shown = fleet.answers.pop().map(|answer| answer.outcome);
    assert!(matches!(shown, Some(Outcome::Read { shown: Shown::Nothing, .. })), "{shown:?}");
}
