//! What an operation on an available key costs, counted: messages between its homes and syncs of their disks, until
//! nothing is under way any more. Time stands still meanwhile, so that what replicas do by themselves is not in it.

use std::time::Duration;

use available::{Action, Change, Input, Kind, Level, Operation, Outcome, Replica, Session, Write};
use bytes::Bytes;
use replication::{RequestId, Ticket, Value};
use stdx::{Instant, TraceContext};

use super::still::{Still, WALL_MS, key};

/// Operations of each kind.
const COUNTED: u64 = 3_000;
/// Times that something is due, which is mostly a beat, between the first writes and what is counted.
const BEATS: usize = 20;
/// The keys, which stand for themselves in a session.
const KEYS: u32 = 20;

/// An operation, and what it costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The operation and its level.
    pub operation: &'static str,
    /// Messages between replicas.
    pub messages: f64,
    /// Rounds that the replica that was asked had to make before it could answer.
    pub rounds: f64,
    /// Syncs by each home of the key.
    pub syncs: f64,
}

/// Counts what reads and writes at both levels cost.
pub fn costs() -> Vec<Cost> {
    let kinds = [
        ("causal write", Level::Causal, true),
        ("causal read", Level::Causal, false),
        ("eventual write", Level::Eventual, true),
        ("eventual read", Level::Eventual, false),
    ];
    kinds.into_iter().map(|(operation, level, write)| cost(operation, level, write)).collect()
}

/// One session writes each key, then uses them in turn, and each time asks another of their homes.
fn cost(operation: &'static str, level: Level, write: bool) -> Cost {
    let mut client = Client { still: Still::new(3), session: Session::new(1), serial: 0 };
    client.still.begin();
    while !client.still.replicas.iter().all(Replica::is_whole) {
        if client.quiesce() == 0 {
            client.still.tick();
        }
    }
    client.quiesce();
    for at in 0..KEYS {
        client.ask(at, Level::Causal, true);
    }
    // Each home hears from the others how far they have come.
    for _ in 0..BEATS {
        client.still.tick();
        client.quiesce();
    }
    client.still.syncs.fill(0);
    let (mut messages, mut rounds) = (0, 0);
    for serial in 0..COUNTED {
        let (sent, made) = client.ask(serial as u32 % KEYS, level, write);
        messages += sent;
        rounds += made;
    }
    let each = |count: u64| count as f64 / COUNTED as f64;
    let syncs = each(client.still.syncs.iter().sum()) / client.still.replicas.len() as f64;
    Cost { operation, messages: each(messages), rounds: each(rounds), syncs }
}

struct Client {
    still: Still,
    session: Session,
    serial: u64,
}

impl Client {
    /// Messages until nothing is under way.
    fn quiesce(&mut self) -> u64 {
        std::iter::from_fn(|| self.still.deliver()).count() as u64
    }

    /// The messages that an operation caused, and the rounds that it waited for.
    fn ask(&mut self, at: u32, level: Level, write: bool) -> (u64, u64) {
        self.serial += 1;
        let key = key(format!("key-{at}"));
        let change = Change::Put(Value { body: Bytes::from(self.serial.to_string()), content_type: Bytes::new() });
        let action = if write {
            Action::Write(Write {
                key: key.clone(),
                kind: Kind::Value,
                request: RequestId(u128::from(self.serial)),
                first_sent_ms: WALL_MS,
                context: self.session.context(at).cloned(),
                order: self.session.order(),
                firm: false,
                change,
            })
        } else {
            Action::Read { kind: Kind::Value }
        };
        let operation = Operation { key, level, past: self.session.past.clone(), stand_in: false, action };
        let input = Input::Operation {
            ticket: Ticket(self.serial),
            operation,
            deadline: Instant::ZERO + Duration::from_secs(3_600),
            wall_ms: WALL_MS,
            context: TraceContext::NONE,
        };
        self.still.feed(self.serial as usize % 3, input);
        let messages = self.quiesce();
        let answer = self.still.answers.pop().expect("nothing stands in the way of an answer");
        match &answer.outcome {
            Outcome::Read { seen, .. } | Outcome::Done { seen, .. } => {
                self.session.observe(at, seen, level == Level::Causal, write);
            }
            other => panic!("an operation of a sound fleet is done: {other:?}"),
        }
        (messages, u64::from(answer.receipt.rounds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_one_replicas_and_a_write_is_one_round() {
        let costs = costs();
        let of = |name| costs.iter().find(|cost| cost.operation == name).expect("all are counted");
        for read in ["causal read", "eventual read"] {
            assert_eq!((of(read).messages, of(read).rounds, of(read).syncs), (0.0, 0.0, 0.0), "{read}");
        }
        for write in ["causal write", "eventual write"] {
            assert_eq!(of(write).messages, 4.0, "{write}");
            // Now and then the ceiling above all counters is raised.
            assert!((1.0..1.01).contains(&of(write).syncs), "{write}: {}", of(write).syncs);
        }
        assert_eq!((of("causal write").rounds, of("eventual write").rounds), (1.0, 0.0));
    }
}
