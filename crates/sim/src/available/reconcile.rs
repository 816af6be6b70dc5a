//! What it costs to find and mend the differences between two replicas of available keys: bytes on the wire, both ways,
//! over the bytes of what differed.
//!
//! Three nodes are the homes of every key. One of them stamped everything, and is gone; of its last writes half have
//! reached only the first of the other two, half only the second. Nobody owes anybody anything: only a comparison finds
//! it. The two run as they would in a fleet, both with passes that are due, until they hold the same.

use available::{
    Actor, Body, Change, Context, Dot, Kind, Message, Range, Record, Replica, State, Write, make_for_tests as make,
};
use bytes::Bytes;
use membership::Epoch;
use replication::{LogPosition, RegisterKey, RequestId, Value};
use stdx::Prng;

use super::still::{Still, WALL_MS, actor, key};

/// Who stamped everything.
const GONE: Actor = actor(3);

/// What two replicas hold.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Keys of the bucket.
    pub keys: u64,
    /// Those that one of the two has an older state of.
    pub differing: u64,
    /// The size of each value.
    pub value_bytes: usize,
}

/// What went over the wire, by what it was for, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// The newer states of the keys that differed: what no reconciliation can do without.
    pub difference: usize,
    /// Messages, both ways. A number, not bytes.
    pub messages: u64,
    /// Questions and answers about ranges.
    pub comparing: usize,
    /// Names of the states that are wanted.
    pub wanting: usize,
    /// States.
    pub states: usize,
    /// All the rest: confirmations and beats.
    pub rest: usize,
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

    /// All that went over the wire.
    pub fn bytes(&self) -> usize {
        self.comparing + self.wanting + self.states + self.rest
    }
}

/// Fills two replicas and lets them find out what differs.
pub fn run(load: Load) -> Traffic {
    let mut still = Still::new(2);
    let difference = fill(&mut still.replicas, load);
    Traffic { difference, ..reconcile(&mut still) }
}

/// Puts the data into both replicas' logs, read back; the bytes of the newer states of the keys that differ.
fn fill(replicas: &mut [Replica], load: Load) -> usize {
    let mut position = LogPosition(0);
    let mut restore = |replicas: &mut [Replica], which: &[usize], record: Record| {
        position = LogPosition(position.0 + 1);
        for at in which {
            replicas[*at].restore(position, record.clone());
        }
    };
    for at in [0, 1] {
        restore(replicas, &[at], Record::Born(actor(at as u64 + 1)));
    }
    restore(replicas, &[0, 1], Record::Whole);
    let (mut prng, mut difference) = (Prng::from_seed(1), 0);
    for number in 0..load.keys {
        let key = key(format!("key-{number}"));
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

/// Runs both until they hold the same and each has ended a pass.
fn reconcile(still: &mut Still) -> Traffic {
    let mut traffic = Traffic::default();
    still.begin();
    while still.passes.contains(&0) || !is_equal(&still.replicas) {
        match still.deliver() {
            Some(message) => traffic.count(&message),
            None => still.tick(),
        }
    }
    traffic
}

fn is_equal(replicas: &[Replica]) -> bool {
    let all = Range { first: 0, last: u64::MAX };
    replicas[0].table().print(all, 1) == replicas[1].table().print(all, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_costs_little_more_than_the_states_that_differ() {
        let traffic = run(Load { keys: 5_000, differing: 50, value_bytes: 100 });
        assert!(traffic.states >= traffic.difference, "every newer state goes over once: {traffic:?}");
        assert!(traffic.bytes() < 3 * traffic.difference, "{traffic:?}");
    }

    /// What waits for the budget is not found, and moved, by the other side's pass as well. Of half of the keys that
    /// differ the older state is fetched, too: the asker does not know which of two is newer.
    #[test]
    fn what_waits_for_the_budget_goes_over_once() {
        let traffic = run(Load { keys: 2_000, differing: 400, value_bytes: 10_000 });
        assert!(10 * traffic.states < 16 * traffic.difference, "{traffic:?}");
    }
}
