//! What is made from memory when a part of the log cannot be read: all that only that part held, and nothing else.

use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use replication::{Ballot, LogPosition, Outbox, Record, RegisterKey, Replica, State, Value};
use stdx::{Instant, Prng};

const ME: NodeId = NodeId(1);

fn view() -> View {
    let mut view = View::forming(ClusterId(1), 1, 1, 0);
    let (id, name, tokens) = (ME, "n1".to_owned(), vec![Position(1000)]);
    view.members = vec![Member { id, name, zone: None, weight: 1, tokens }];
    view.epoch = Epoch(1);
    view
}

fn accepted(register: u64, counter: u64) -> Record {
    let body = Bytes::from(format!("{register} at {counter}"));
    Record::Accepted {
        key: RegisterKey { position: Position(register), bucket: BucketId(1), key: Bytes::from_static(b"k") },
        ballot: Ballot { counter, node: ME },
        state: State { value: Some(Value { body, content_type: Bytes::new() }), ..State::default() },
    }
}

/// A replica that found these records in its log, and the records that its beginning wrote.
fn restored(records: &[Record]) -> (Replica, u64) {
    let mut replica = Replica::new(ME, view(), Prng::from_seed(1));
    for (at, record) in records.iter().enumerate() {
        replica.restore(LogPosition(at as u64 + 1), record.clone());
    }
    let mut out = Outbox::default();
    replica.begin(Instant::ZERO, &mut out);
    let last = out.drain().persist.last().map_or(records.len() as u64, |(position, _)| position.0);
    (replica, last)
}

#[test]
fn what_only_the_lost_part_held_comes_from_memory() {
    let records = [accepted(1, 1), accepted(2, 2), Record::Ceiling(9), accepted(1, 3), accepted(3, 4)];
    let (replica, _) = restored(&records);
    assert_eq!(replica.held_through(LogPosition(0)), []);
    assert_eq!(replica.held_through(LogPosition(3)), [accepted(2, 2)], "register 1 stands behind the lost part, too");
    assert_eq!(replica.held_through(LogPosition(4)), [accepted(1, 3), accepted(2, 2)]);
    assert_eq!(replica.held_through(LogPosition(5)), [accepted(1, 3), accepted(2, 2), accepted(3, 4)]);
}

#[test]
fn what_was_written_again_stands_where_it_was_written() {
    let (mut replica, last) = restored(&[accepted(1, 1), accepted(2, 2), accepted(3, 3)]);
    let mut out = Outbox::default();
    replica.rewrite(replica.held_through(LogPosition(2)), &mut out);
    let written = out.drain().persist;
    let positions: Vec<u64> = written.iter().map(|(position, _)| position.0).collect();
    assert_eq!(positions, (last + 1..=last + written.len() as u64).collect::<Vec<_>>());
    assert_eq!((&written[0].1, &written[1].1), (&accepted(1, 1), &accepted(2, 2)));
    assert!(written.iter().any(|(_, record)| matches!(record, Record::Ceiling(_))), "the ceiling may have stood there");
    assert_eq!(replica.held_through(LogPosition(2)), [], "nothing is held there any more");
    assert_eq!(replica.held_through(LogPosition(last)), [accepted(3, 3)]);
    // Cleaning moves a register's place, too: a later loss of its old segment asks for nothing.
    replica.rewrite(vec![accepted(3, 3)], &mut out);
    assert_eq!(replica.held_through(LogPosition(last)), []);
}
