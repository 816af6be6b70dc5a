//! What a former home brings after homes have changed is news to all of them, and no home's mark speaks for it.

mod fleet;

use std::collections::BTreeSet;
use std::time::Duration;

use available::{Action, Answer, Input, Kind, Outcome, Past, Rule, Session, Shown};
use fleet::{Fleet, key, view, write};
use membership::{NodeId, Position, View};

/// The key's homes were 4, 1 and 2, and are 4, 1 and 3. Node 2 has left: it stamped a write while it heard nobody, and
/// brings it to 1 and 4 when those have compared with 3. Node 3 hears nobody.
fn brought_late(broken: Option<Rule>) -> Fleet {
    let view = view(&[(4, 10), (1, 1 << 62), (2, 1 << 63), (3, 3 << 62)]);
    let mut fleet = Fleet::new(4, &view, broken);
    let joint = view.begin_leave(BTreeSet::from([NodeId(2)]), false).expect("three are left");
    (1..=4).for_each(|id| fleet.tell(id, Input::View(joint.clone())));
    fleet.run(Duration::from_secs(5));
    let after = completed(&fleet, joint);
    let homes = after.ring().replicas_of(Position(5));
    assert_eq!(homes.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 3, 4].map(NodeId)));
    [1, 3, 4].into_iter().for_each(|id| fleet.cut(2, id));
    fleet.ask(2, key("k"), &Past::default(), write(key("k"), 1, 1, None));
    fleet.run(Duration::from_millis(300));
    [1, 3, 4].into_iter().for_each(|id| fleet.tell(id, Input::View(after.clone())));
    fleet.run(Duration::from_secs(1));
    [1, 4].into_iter().for_each(|id| fleet.cut(3, id));
    [1, 4].into_iter().for_each(|id| fleet.heal(2, id));
    fleet.run(Duration::from_millis(600));
    fleet
}

/// The view in which all have copied what the change makes them homes of.
fn completed(fleet: &Fleet, joint: View) -> View {
    let copied = fleet.nodes.iter().flat_map(|(id, node)| node.copied_changes().into_iter().map(|id_of| (*id, id_of)));
    let after = copied.fold(joint, |view, (id, change)| view.note_copied(change, id).unwrap_or(view));
    assert!(after.pending.is_empty(), "{:?}", after.pending);
    after
}

/// What the session is shown of the key at a node; none if it gets no answer. It has seen that from then on.
fn read(fleet: &mut Fleet, at: u64, session: &mut Session) -> Option<Shown> {
    fleet.answers.clear();
    fleet.ask(at, key("k"), &session.past, Action::Read { kind: Kind::Value });
    fleet.run(Duration::from_millis(300));
    let Outcome::Read { shown, seen } = fleet.answers.pop()?.outcome else { return None };
    session.observe(1, &seen, true, false);
    Some(shown)
}

fn is_the_write(shown: Option<&Shown>) -> bool {
    matches!(shown, Some(Shown::Values(values)) if values.len() == 1)
}

#[test]
fn who_was_shown_what_came_late_finds_it_at_every_home_from_then_on() {
    let mut fleet = brought_late(None);
    assert_eq!(fleet.answers, [], "not acknowledged before every home has it");
    let mut session = Session::new(9);
    let first = read(&mut fleet, 1, &mut session);
    assert!(is_the_write(first.as_ref()), "two of three homes have it: {first:?}");
    assert_eq!(read(&mut fleet, 3, &mut session), None, "the third cannot know that it lacks nothing");
    fleet.cut.clear();
    fleet.run(Duration::from_secs(1));
    let done = |answer: &Answer| matches!(answer.outcome, Outcome::Done { .. });
    assert!(fleet.answers.iter().any(done), "now its writer is told: {:?}", fleet.answers);
    let last = read(&mut fleet, 3, &mut session);
    assert!(is_the_write(last.as_ref()), "{last:?}");
}

#[test]
fn whose_retry_found_it_finds_it_at_every_home_from_then_on() {
    let mut fleet = brought_late(None);
    let mut session = Session::new(9);
    fleet.ask(1, key("k"), &session.past, write(key("k"), 1, 1, None));
    fleet.run(Duration::from_millis(300));
    let Some(Answer { outcome: Outcome::Done { seen, .. }, .. }) = fleet.answers.pop() else {
        panic!("it was made, and two of three homes have it: {:?}", fleet.answers)
    };
    session.observe(1, &seen, true, true);
    assert_eq!(read(&mut fleet, 3, &mut session), None, "the third cannot know that it lacks nothing");
}

/// The bug that the rule is against is one that this schedule shows.
#[test]
fn by_the_marks_of_the_present_homes_alone_it_would_be_lost_from_sight() {
    let mut fleet = brought_late(Some(Rule::LateUnstamped));
    let done = |answer: &Answer| matches!(answer.outcome, Outcome::Done { .. });
    assert!(fleet.answers.iter().any(done), "a majority has it: {:?}", fleet.answers);
    let mut session = Session::new(9);
    let first = read(&mut fleet, 1, &mut session);
    assert!(is_the_write(first.as_ref()), "{first:?}");
    assert_eq!(read(&mut fleet, 3, &mut session), Some(Shown::Nothing));
}
