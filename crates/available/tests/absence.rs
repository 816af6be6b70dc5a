//! What is not there is known only to those who would have it: a key that was never seen where homes lag behind a
//! change may have been written where they do not.

mod fleet;

use std::time::Duration;

use available::{Action, Answer, Input, Kind, Outcome, Rule, Session, Shown};
use fleet::{Fleet, key, member, view, write};
use membership::{NodeId, Position};

/// A fleet of three that a fourth has joined: the key's homes were 1, 2 and 3, and are 4, 1 and 2. Nodes 2 and 4 act on
/// that; 1 and 3 have not heard of it, and do not hear those two.
fn torn_by_a_change(broken: Option<Rule>) -> Fleet {
    let view = view(&[(1, 1 << 62), (2, 1 << 63), (3, 3 << 62)]);
    let mut fleet = Fleet::new(3, &view, broken);
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
    fleet.ask(2, key("k"), &session.past, write(key("k"), 1, 1, None));
    fleet.run(Duration::from_millis(300));
    let Some(Answer { outcome: Outcome::Done { seen, .. }, .. }) = fleet.answers.pop() else {
        panic!("two of three homes take the write")
    };
    session.observe(1, &seen, true, true);
    fleet.ask(1, key("k"), &session.past, Action::Read { kind: Kind::Value });
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
    assert_eq!(values[0].1.body, "1");
}

/// The bug that the rule is against is one that this schedule shows.
#[test]
fn by_the_old_majority_alone_the_session_would_miss_its_own_write() {
    let mut fleet = torn_by_a_change(Some(Rule::OldMajorityOnly));
    write_and_read_where_it_lags(&mut fleet);
    let shown = fleet.answers.pop().map(|answer| answer.outcome);
    assert!(matches!(shown, Some(Outcome::Read { shown: Shown::Nothing, .. })), "{shown:?}");
}
