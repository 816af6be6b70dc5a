//! A home that makes a write may lack what led to it: then it cannot show that write alone, whoever asks.

mod fleet;

use std::time::Duration;

use available::{Action, Kind, Outcome, Rule, Seen, Session, Shown};
use fleet::{Fleet, key, view, write};
use replication::RegisterKey;

/// Asks at level causal, and gives the session what it was told.
fn ask(
    fleet: &mut Fleet,
    (at, name): (u64, RegisterKey),
    session: &mut Session,
    action: Action,
) -> (Option<Shown>, Seen) {
    let number = u32::from(name.key == "j");
    let wrote = matches!(action, Action::Write(_));
    fleet.ask(at, name, &session.past, action);
    fleet.run(Duration::from_millis(300));
    let (shown, seen) = match fleet.answers.pop().map(|answer| answer.outcome) {
        Some(Outcome::Read { shown, seen }) => (Some(shown), seen),
        Some(Outcome::Done { seen, .. }) => (None, seen),
        other => panic!("{other:?}"),
    };
    session.observe(number, &seen, true, wrote);
    (shown, seen)
}

/// The first home has missed a write of key `k`, and has made another one that this had led to by way of key `j`. What
/// it shows of `k` then to somebody who has seen nothing.
fn shown_where_it_was_made(broken: Option<Rule>) -> Shown {
    let mut fleet = Fleet::new(3, &view(&[(1, 1 << 62), (2, 1 << 63), (3, 3 << 62)]), broken);
    let (mut one, mut other) = (Session::new(1), Session::new(2));
    let read = || Action::Read { kind: Kind::Value };
    let (_, first) = ask(&mut fleet, (2, key("k")), &mut one, write(key("k"), 1, 1, None));
    let (_, seen) = ask(&mut fleet, (1, key("k")), &mut other, read());
    fleet.cut(1, 2);
    let order = one.order();
    ask(&mut fleet, (2, key("k")), &mut one, write(key("k"), 2, order, Some(first.context)));
    let order = one.order();
    ask(&mut fleet, (2, key("j")), &mut one, write(key("j"), 3, order, None));
    ask(&mut fleet, (3, key("j")), &mut other, read());
    let order = other.order();
    ask(&mut fleet, (1, key("k")), &mut other, write(key("k"), 4, order, Some(seen.context)));
    let (shown, _) = ask(&mut fleet, (1, key("k")), &mut Session::new(3), read());
    shown.expect("a read shows something")
}

fn bodies(shown: &Shown) -> Vec<&[u8]> {
    let Shown::Values(values) = shown else { panic!("{shown:?}") };
    values.iter().map(|(_, value)| value.body.as_ref()).collect()
}

#[test]
fn a_write_is_shown_with_what_led_to_it() {
    let shown = shown_where_it_was_made(None);
    assert_eq!(bodies(&shown), [b"2", b"4"], "they did not see each other, and the one led to the other");
}

/// The bug that the rule is against is one that this schedule shows.
#[test]
fn by_what_the_session_has_seen_alone_it_would_be_shown_without() {
    let shown = shown_where_it_was_made(Some(Rule::LedUnheard));
    assert_eq!(bodies(&shown), [b"4"]);
}
