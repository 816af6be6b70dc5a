//! What a write does to a state: the function that a round agrees on.

use bytes::Bytes;

use crate::lock;
use crate::memory::{Remembered, RequestMemory};
use crate::message::State;
use crate::types::{Change, Condition, Effect, Outcome, Refusal, Value, Version, Write};

/// A value made by add or append may grow to this many bytes; past it the change is [`Effect::Unfit`].
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Which of the rules that concern a state's changes are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// See [`crate::Rule::RememberRequests`].
    pub requests: bool,
    /// See [`crate::Rule::KeepFence`].
    pub fence: bool,
}

/// Ends the value if its time is up, as the version `version`.
pub(crate) fn end_if_due(state: &mut State, version: Version, wall_ms: u64) {
    if state.is_due(wall_ms) {
        state.version = version;
        state.value = None;
        state.ends_ms = 0;
    }
}

/// Forgets what a tombstone remembers, if all of it is older than a retry may be.
pub(crate) fn lapse_if_due(state: &mut State, wall_ms: u64) {
    if state.has_lapsed(wall_ms) {
        state.requests = RequestMemory::default();
        state.ends_ms = 0;
    }
}

/// Applies `write` to `state` as the version `version`, unless the state already contains the request.
///
/// The outcome is what the client gets once the new state is chosen.
pub(crate) fn apply(state: &mut State, write: &Write, version: Version, wall_ms: u64, rules: Kept) -> Outcome {
    if rules.requests {
        if let Some(effect) = state.requests.find(write.request) {
            return done(effect, write, state);
        }
        if state.requests.may_have_forgotten(write.first_sent_ms) {
            // It may have acted and been forgotten: nobody can tell any more. This holds for first attempts too: one
            // that lay in a stopped node's socket comes after the retry that acted.
            return Outcome::Refused(Refusal::TooOld);
        }
    }
    let effect = if fenced_off(state, write, rules) {
        Effect::FencedOff(state.fence)
    } else {
        effect_of(state, write, version, wall_ms)
    };
    // A failed condition is remembered too: a second attempt of the same request, still on its way, must not succeed
    // after the client was told of the failure.
    let entry = Remembered { request: write.request, first_sent_ms: write.first_sent_ms, effect };
    state.requests.remember(entry, wall_ms);
    done(effect, write, state)
}

/// Whether a greater token was seen than the write's; notes the write's, whatever else becomes of it.
fn fenced_off(state: &mut State, write: &Write, rules: Kept) -> bool {
    let Some(fence) = write.terms.fence else { return false };
    let lower = fence < state.fence;
    state.fence = state.fence.max(fence);
    lower && rules.fence
}

impl State {
    /// What a round of its own makes of the state, under the correct rules: for those who play a replica in tests of
    /// what lies around it.
    pub fn apply(&mut self, write: &Write, version: Version, wall_ms: u64) -> Outcome {
        end_if_due(self, version, wall_ms);
        apply(self, write, version, wall_ms, Kept { requests: true, fence: true })
    }
}

fn effect_of(state: &mut State, write: &Write, version: Version, wall_ms: u64) -> Effect {
    if let Change::Lock(call) = &write.change {
        return lock::apply(state, call, version, wall_ms);
    }
    let present = state.value.as_ref().map(|_| state.version);
    let holds = match write.condition {
        Condition::Always => true,
        Condition::Matches(wanted) => present == Some(wanted),
        Condition::Exists => present.is_some(),
        Condition::Absent => present.is_none(),
    };
    if !holds {
        return Effect::ConditionFailed(present);
    }
    let value = match &write.change {
        Change::Put(value) => Some(value.clone()),
        Change::Delete => None,
        Change::Add(by) => match added(state.value.as_ref(), *by) {
            Some(value) => Some(value),
            None => return Effect::Unfit,
        },
        Change::Append(tail) => match appended(state.value.as_ref(), tail) {
            Some(value) => Some(value),
            None => return Effect::Unfit,
        },
        Change::Touch => {
            let Some(at) = present else { return Effect::ConditionFailed(None) };
            state.ends_ms = ends_ms(write);
            return Effect::Replaced(at);
        }
        Change::Lock(_) => return Effect::Unfit,
    };
    // What computes its value lets it live as long as it would have, unless told otherwise.
    let keeps_time = matches!(write.change, Change::Add(_) | Change::Append(_)) && write.terms.ttl_ms.is_none();
    if !(keeps_time && present.is_some()) {
        state.ends_ms = if value.is_some() { ends_ms(write) } else { 0 };
    }
    state.version = version;
    state.value = value;
    match (present, &state.value) {
        (_, None) => Effect::Deleted(version),
        (None, Some(_)) => Effect::Created(version),
        (Some(_), Some(_)) => Effect::Replaced(version),
    }
}

/// Until when the value lives: from when the first attempt was received, so that a repeat says the same.
fn ends_ms(write: &Write) -> u64 {
    write.terms.ttl_ms.map_or(0, |ttl| write.first_sent_ms.saturating_add(ttl).max(1))
}

fn done(effect: Effect, write: &Write, state: &State) -> Outcome {
    let computed = matches!(write.change, Change::Add(_) | Change::Append(_) | Change::Touch);
    let version = match effect {
        Effect::Created(version) | Effect::Replaced(version) => Some(version),
        Effect::Deleted(_) | Effect::ConditionFailed(_) | Effect::Unfit | Effect::FencedOff(_) => None,
        Effect::Granted { .. } | Effect::Held { .. } | Effect::Released | Effect::NotHeld => None,
    };
    // A repeat that finds its own result replaced since then tells its effect, but no longer has the value.
    let value = if computed && version == Some(state.version) { state.value.clone() } else { None };
    Outcome::Done { effect, value }
}

fn added(value: Option<&Value>, by: i64) -> Option<Value> {
    let (sum, content_type) = match value {
        None => (by, Bytes::from_static(b"text/plain")),
        Some(value) => {
            let number: i64 = std::str::from_utf8(&value.body).ok()?.trim().parse().ok()?;
            (number.checked_add(by)?, value.content_type.clone())
        }
    };
    Some(Value { body: Bytes::from(sum.to_string()), content_type })
}

fn appended(value: Option<&Value>, tail: &Bytes) -> Option<Value> {
    let (head, content_type) = value.map_or_else(Default::default, |v| (v.body.clone(), v.content_type.clone()));
    if head.len() + tail.len() > VALUE_BYTES_MAX {
        return None;
    }
    let mut body = Vec::with_capacity(head.len() + tail.len());
    body.extend_from_slice(&head);
    body.extend_from_slice(tail);
    Some(Value { body: Bytes::from(body), content_type })
}

#[cfg(test)]
mod tests {
    use membership::{BucketId, NodeId, Position};

    use super::*;
    use crate::types::{Ballot, RegisterKey, RequestId, Terms};

    const KEPT: Kept = Kept { requests: true, fence: true };

    fn write(id: u128, condition: Condition, change: Change) -> Write {
        let key = RegisterKey { position: Position(1), bucket: BucketId(1), key: Bytes::from_static(b"k") };
        Write {
            key,
            request: RequestId(id),
            first_sent_ms: 10,
            retry: false,
            condition,
            change,
            terms: Terms::default(),
        }
    }

    fn version(counter: u64) -> Version {
        Version { ballot: Ballot { counter, node: NodeId(1) }, index: 0 }
    }

    fn put(body: &'static str) -> Change {
        Change::Put(Value { body: Bytes::from_static(body.as_bytes()), content_type: Bytes::new() })
    }

    fn effect(state: &mut State, write: &Write, at: u64) -> Effect {
        match apply(state, write, version(at), 20, KEPT) {
            Outcome::Done { effect, .. } => effect,
            other => panic!("not done: {other:?}"),
        }
    }

    #[test]
    fn conditions_look_at_the_value_not_at_the_tombstone() {
        let mut state = State::default();
        assert_eq!(effect(&mut state, &write(1, Condition::Exists, put("a")), 1), Effect::ConditionFailed(None));
        assert_eq!(effect(&mut state, &write(2, Condition::Absent, put("a")), 2), Effect::Created(version(2)));
        let stale = write(3, Condition::Matches(version(1)), put("b"));
        assert_eq!(effect(&mut state, &stale, 3), Effect::ConditionFailed(Some(version(2))));
        assert_eq!(
            effect(&mut state, &write(4, Condition::Matches(version(2)), put("b")), 4),
            Effect::Replaced(version(4))
        );
        assert_eq!(effect(&mut state, &write(5, Condition::Always, Change::Delete), 5), Effect::Deleted(version(5)));
        let deleted = write(6, Condition::Matches(version(5)), put("c"));
        assert_eq!(effect(&mut state, &deleted, 6), Effect::ConditionFailed(None), "a deletion has no ETag");
        assert_eq!(effect(&mut state, &write(7, Condition::Absent, put("c")), 7), Effect::Created(version(7)));
    }

    #[test]
    fn a_repeat_acts_once_and_is_told_the_same() {
        let mut state = State::default();
        let add = write(1, Condition::Always, Change::Add(5));
        let first = apply(&mut state, &add, version(1), 20, KEPT);
        let again = apply(&mut state, &add, version(2), 20, KEPT);
        assert_eq!(first, again);
        assert_eq!(state.value.as_ref().map(|value| value.body.clone()), Some(Bytes::from_static(b"5")));
        assert_eq!(state.version, version(1));
    }

    #[test]
    fn a_failed_condition_stays_failed_for_its_request() {
        let mut state = State::default();
        let create = write(1, Condition::Exists, put("a"));
        assert_eq!(effect(&mut state, &create, 1), Effect::ConditionFailed(None));
        effect(&mut state, &write(2, Condition::Always, put("b")), 2);
        assert_eq!(
            effect(&mut state, &create, 3),
            Effect::ConditionFailed(None),
            "the second attempt must not succeed"
        );
    }

    #[test]
    fn a_change_that_does_not_fit_changes_nothing() {
        let mut state = State::default();
        effect(&mut state, &write(1, Condition::Always, put("text")), 1);
        assert_eq!(effect(&mut state, &write(2, Condition::Always, Change::Add(1)), 2), Effect::Unfit);
        assert_eq!(state.version, version(1));
        let mut counter = State::default();
        effect(&mut counter, &write(1, Condition::Always, Change::Add(i64::MAX)), 1);
        assert_eq!(effect(&mut counter, &write(2, Condition::Always, Change::Add(1)), 2), Effect::Unfit);
    }

    #[test]
    fn a_request_from_before_the_memory_is_not_applied() {
        let mut state = State::default();
        state.requests.horizon_ms = 50;
        let late = write(1, Condition::Always, put("a"));
        assert_eq!(apply(&mut state, &late, version(1), 60, KEPT), Outcome::Refused(Refusal::TooOld));
        assert_eq!(state.value, None);
        let fresh = Write { first_sent_ms: 51, ..write(2, Condition::Always, put("a")) };
        assert!(matches!(apply(&mut state, &fresh, version(2), 60, KEPT), Outcome::Done { .. }));
    }

    #[test]
    fn a_lower_token_is_fenced_off_also_after_a_deletion() {
        let mut state = State::default();
        let under = |id, fence, change| Write {
            terms: Terms { fence: Some(fence), ttl_ms: None },
            ..write(id, Condition::Always, change)
        };
        assert_eq!(effect(&mut state, &under(1, 5, put("a")), 1), Effect::Created(version(1)));
        assert_eq!(effect(&mut state, &under(2, 4, put("b")), 2), Effect::FencedOff(5));
        assert_eq!(effect(&mut state, &under(3, 5, Change::Delete), 3), Effect::Deleted(version(3)));
        assert_eq!(effect(&mut state, &under(4, 4, put("c")), 4), Effect::FencedOff(5));
        let failing = Write { condition: Condition::Exists, ..under(5, 9, put("d")) };
        assert_eq!(effect(&mut state, &failing, 5), Effect::ConditionFailed(None));
        assert_eq!(effect(&mut state, &under(6, 8, put("e")), 6), Effect::FencedOff(9), "9 was seen, though it failed");
        assert_eq!(effect(&mut state, &write(7, Condition::Always, put("f")), 7), Effect::Created(version(7)));
        assert_eq!(effect(&mut state, &under(2, 4, put("b")), 8), Effect::FencedOff(5), "a repeat is told the same");
    }

    #[test]
    fn a_value_lives_until_the_round_that_ends_it() {
        let mut state = State::default();
        let living =
            |id, ttl_ms, change| Write { terms: Terms { fence: None, ttl_ms }, ..write(id, Condition::Always, change) };
        effect(&mut state, &living(1, Some(30), put("1")), 1);
        assert_eq!(state.ends_ms, 40, "from when it was first received");
        assert!(!state.is_due(39) && state.is_due(40));
        effect(&mut state, &living(2, None, Change::Add(1)), 2);
        assert_eq!(state.ends_ms, 40, "an addition leaves the time as it is");
        assert_eq!(effect(&mut state, &living(3, Some(90), Change::Touch), 3), Effect::Replaced(version(2)));
        assert_eq!((state.ends_ms, state.version), (100, version(2)), "the value stays what it was");
        end_if_due(&mut state, version(4), 99);
        assert!(state.value.is_some());
        end_if_due(&mut state, version(4), 100);
        assert_eq!((state.value.as_ref(), state.version, state.ends_ms), (None, version(4), 0));
        assert_eq!(effect(&mut state, &living(5, Some(9), Change::Touch), 5), Effect::ConditionFailed(None));
        effect(&mut state, &living(6, None, put("x")), 6);
        assert!(!state.is_due(u64::MAX), "without a time it lives for ever");
    }
}
