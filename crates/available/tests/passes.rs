//! Who is asked in a pass puts its own off; but only one that nothing waits for, and not for ever.

use std::time::Duration;

use available::{Actor, Body, Config, Input, Message, Outbox, Question, Range, Record, Replica};
use membership::{ClusterId, Epoch, Member, NodeId, Position, View};
use replication::LogPosition;
use stdx::{Instant, Prng, TraceContext};

const EVERYTHING: Range = Range { first: 0, last: u64::MAX };
/// Between two questions of the asker, and shorter than what is taken for its silence.
const STEP: Duration = Duration::from_millis(100);

/// One home of two, whose disk syncs at once; the test is the other one.
struct Home {
    replica: Replica,
    now: Instant,
    peer: NodeId,
    /// Questions to the peer that were sent since they were last counted.
    asks: usize,
    question: u32,
}

impl Home {
    /// Starts `me` with a log that is whole, or with a new one.
    fn started(me: u64, peer: u64, whole: bool) -> Home {
        let mut view = View::forming(ClusterId(1), 2, 2, 0);
        for id in [1, 2] {
            let tokens = vec![Position(id << 62)];
            view.members.push(Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens });
        }
        view.epoch = Epoch(1);
        let mut replica = Replica::new(NodeId(me), 1, view, b"s", Config::default(), Prng::from_seed(me));
        if whole {
            replica.restore(LogPosition(1), Record::Born(actor(me)));
            replica.restore(LogPosition(2), Record::Whole);
        }
        let mut home = Home { replica, now: Instant::ZERO, peer: NodeId(peer), asks: 0, question: 0 };
        let mut out = Outbox::default();
        home.replica.begin(home.now, 1, &mut out);
        home.carry_out(out);
        // What was asked before the peer was heard of is asked anew.
        home.hears(Body::Beat { claim: None, mark: 0, of: actor(me), ask: false });
        home.asks = 0;
        home.wait();
        assert_eq!(home.asked(), 1, "a pass is due at each start");
        home
    }

    fn feed(&mut self, input: Input) {
        let mut out = Outbox::default();
        self.replica.handle(self.now, input, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, mut out: Outbox) {
        let effects = out.drain();
        let asks = effects.send.iter().filter(|envelope| matches!(envelope.message.body, Body::Ask { .. }));
        self.asks += asks.count();
        if let Some((position, _)) = effects.persist.last() {
            self.feed(Input::Synced(*position));
        }
    }

    /// How often it has asked.
    fn asked(&mut self) -> usize {
        std::mem::take(&mut self.asks)
    }

    /// The peer asks in a pass of its own.
    fn is_asked(&mut self) {
        self.question += 1;
        let ranges = vec![Question { range: EVERYTHING, print: None }];
        self.hears(Body::Ask { pass: 7, question: self.question, ranges });
    }

    fn hears(&mut self, body: Body) {
        let (from, epoch, actor) = (self.peer, Epoch(1), actor(self.peer.0));
        let message = Message { epoch, clock: 0, actor, start: 1, body };
        self.feed(Input::Message { from, message, context: TraceContext::NONE });
    }

    fn wait(&mut self) {
        self.now = self.now + STEP;
        self.feed(Input::Tick { wall_ms: 1 });
    }

    /// The peer asks again and again, for `length`; how often it was asked itself meanwhile.
    fn asked_while_it_asks(&mut self, length: Duration) -> usize {
        let end = self.now + length;
        while self.now < end {
            self.is_asked();
            self.wait();
        }
        self.asked()
    }
}

fn actor(node: u64) -> Actor {
    Actor { node: NodeId(node), birth: 1 }
}

/// How long a pass may be put off at most.
fn most() -> Duration {
    Config::default().pass_every
}

#[test]
fn of_two_passes_that_begin_together_the_higher_nodes_waits_for_the_end_of_the_other() {
    let mut higher = Home::started(2, 1, true);
    assert_eq!(higher.asked_while_it_asks(most() / 2), 0);
    // The peer has ended, or died.
    (0..10).for_each(|_| higher.wait());
    assert!(higher.asked() > 0, "a dead peer does not hold it up");
    let mut lower = Home::started(1, 2, true);
    assert!(lower.asked_while_it_asks(most() / 2) > 0);
}

#[test]
fn a_pass_is_not_put_off_for_longer_than_until_the_next_is_due() {
    let mut home = Home::started(2, 1, true);
    assert_eq!(home.asked_while_it_asks(most() - 2 * STEP), 0);
    assert!(home.asked_while_it_asks(10 * STEP) > 0);
    assert!(home.asked_while_it_asks(most()) > 0, "it is not given up again before it has ended");
}

#[test]
fn a_pass_that_something_waits_for_is_not_put_off() {
    let mut empty = Home::started(2, 1, false);
    assert!(empty.asked_while_it_asks(10 * STEP) > 0, "it counts only once it has been through with everybody");
}
