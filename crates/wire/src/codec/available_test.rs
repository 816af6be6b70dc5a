//! What is particular to changes of membership in messages and records of available keys; the simulator sends
//! everything
//! else through these bytes with each message.

use std::collections::BTreeSet;
use std::sync::Arc;

use available::{
    Actor, Body, Context, Dot, Effect, Message, Outcome, Print, Question, Range, RangeAnswer, Receipt, Record, Seen,
    ShortHash, Tenure, VersionVector,
};
use membership::{ClusterId, Epoch, Member, NodeId, Position, View};
use replication::RequestId;

use super::{
    decode_available_answer, decode_available_message, decode_available_record, encode_available_answer,
    encode_available_message, encode_available_record,
};

fn marks() -> VersionVector {
    let actor = |node| Actor { node: NodeId(node), birth: node + 1 };
    [(actor(3), 70_000), (actor(4), u64::MAX)].into_iter().collect()
}

fn message(body: Body) -> Message {
    let actor = Actor { node: NodeId(u64::MAX), birth: 3 };
    Message { epoch: Epoch(7), clock: 300, actor, start: 5, body }
}

fn view() -> View {
    let member = |id: u64| {
        let tokens = vec![Position(id << 60), Position(id)];
        Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens }
    };
    let base = View::forming(ClusterId(1), 3, 4, 0);
    let formed = View { epoch: Epoch(1), members: (1..=4).map(member).collect(), ..base };
    formed.begin_join(member(9)).expect("its tokens are free")
}

#[test]
fn messages_about_changes_are_read_back() {
    let bodies = [
        Body::OtherEpoch { view: None },
        Body::OtherEpoch { view: Some(Arc::new(view())) },
        Body::Ask {
            pass: 1 << 60,
            question: 2,
            ranges: vec![Question { range: Range { first: 3, last: u64::MAX }, print: Some(Print([7; 12])) }],
        },
        Body::Tell {
            pass: u64::MAX,
            question: 9,
            answers: vec![RangeAnswer::Same, RangeAnswer::Leaf(vec![ShortHash(5)])],
            whole: true,
            marks: marks(),
        },
    ];
    for body in bodies {
        let message = message(body);
        let bytes = encode_available_message(&message);
        assert_eq!(decode_available_message(bytes.clone()), Ok(message));
        for cut in 0..bytes.len() {
            assert!(decode_available_message(bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn what_is_known_of_arcs_is_read_back() {
    let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
    let tenure = Tenure {
        low: Position(u64::MAX),
        high: Position(1),
        epoch: Epoch(300),
        gained: true,
        copied: false,
        sources: nodes(&[1]),
        compared: nodes(&[1, 2]),
        known: [1, 2, u64::MAX].map(|id| Actor { node: NodeId(id), birth: id }).into(),
        inherited: marks(),
    };
    let record = Record::Homes { epoch: Epoch(301), tenures: vec![tenure, Tenure::default()] };
    let bytes = encode_available_record(&record);
    assert_eq!(decode_available_record(&bytes), Ok(record));
    for cut in 0..bytes.len() {
        assert!(decode_available_record(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn what_became_of_a_request_is_read_back_with_what_its_session_has_seen() {
    let actor = Actor { node: NodeId(0xa1), birth: 1 };
    let mut context = Context::new(VersionVector::new(), [Dot { counter: 300, actor }]);
    context.requests = vec![RequestId(5)];
    let vector = [(actor, 300)].into_iter().collect();
    let seen = Seen { context, vector, deps: 7, time: 300, epoch: Epoch(2) };
    for outcome in [Outcome::Remembered(None), Outcome::Remembered(Some((Effect::Replaced, seen)))] {
        let receipt = Receipt { epoch: Epoch(2), voters: vec![NodeId(0xa1)], rounds: 1 };
        let bytes = encode_available_answer(&outcome, &receipt);
        assert_eq!(decode_available_answer(bytes.clone()), Ok((outcome, receipt)));
        for cut in 0..bytes.len() {
            assert!(decode_available_answer(bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
