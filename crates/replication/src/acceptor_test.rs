use bytes::Bytes;
use membership::{BucketId, NodeId, Position};

use crate::acceptor::Acceptor;
use crate::message::State;
use crate::types::{Ballot, RegisterKey};

fn key(position: u64, name: &'static str) -> RegisterKey {
    RegisterKey { position: Position(position), bucket: BucketId(1), key: Bytes::from_static(name.as_bytes()) }
}

fn holding(keys: &[RegisterKey]) -> Acceptor {
    let mut acceptor = Acceptor::new();
    let ballot = Ballot { counter: 1, node: NodeId(1) };
    for key in keys {
        assert!(acceptor.learn(key, ballot, &State::default(), &mut Vec::new()));
    }
    acceptor
}

/// Arcs that end at these positions; every other one goes. The first one lies around the circle's beginning.
fn every_other_goes(ends: &[u64], first_goes: bool) -> impl Fn(Position) -> (bool, Position) {
    move |position| {
        let at = ends.partition_point(|end| *end < position.0) % ends.len();
        (at.is_multiple_of(2) == first_goes, Position(ends[at]))
    }
}

#[test]
fn what_lies_in_arcs_that_go_is_dropped_however_small_the_steps_are() {
    let positions = [0, 1, 7, 10, 11, 19, 20, 21, 22, 39, 40, 41, 55, u64::MAX - 1, u64::MAX];
    let keys: Vec<RegisterKey> = positions.iter().flat_map(|at| [key(*at, "a"), key(*at, "b")]).collect();
    for ends in [&[10, 20, 40][..], &[10, 20, 40, u64::MAX], &[5], &[u64::MAX], &[10, 40]] {
        for first_goes in [true, false] {
            for most in [1, 2, 3, 512] {
                let mut acceptor = holding(&keys);
                let goes = every_other_goes(ends, first_goes);
                let stays: Vec<RegisterKey> = keys.iter().filter(|key| !goes(key.position).0).cloned().collect();
                let (mut gone, mut after) = (0, None);
                loop {
                    let (more_gone, more) = acceptor.release(after, most, &goes);
                    gone += more_gone;
                    after = more;
                    if after.is_none() {
                        break;
                    }
                }
                let left: Vec<RegisterKey> = acceptor.registers.keys().cloned().collect();
                assert_eq!(left, stays, "arcs {ends:?}, the first goes: {first_goes}, {most} at once");
                assert_eq!(gone as usize, keys.len() - stays.len());
            }
        }
    }
}

#[test]
fn arcs_that_stay_are_passed_over_at_once() {
    let keys: Vec<RegisterKey> = (1..=1_000).map(|at| key(at, "k")).collect();
    let mut acceptor = holding(&keys);
    // Two arcs: the one that stays holds all but the last register.
    let (gone, more) = acceptor.release(None, 3, every_other_goes(&[999, 1_000], false));
    assert_eq!((gone, more), (1, None));
}
