//! What a write does to a state, and what a state shows.

use std::collections::BTreeMap;

use bytes::Bytes;
use replication::Value;

use crate::kind::Kind;
use crate::operation::{Change, Effect, Past as Session, Refusal, Shown, Write};
use crate::state::{Body, Entry, Past, State};
use crate::version::{Context, Dot};

/// Values side by side that a coordinator adds to at most; past it, a write must name what it has seen.
///
/// Replicas that cannot hear each other each count for themselves, so that a key can hold that many for each of them.
pub const SIBLINGS_MAX: usize = 32;
/// Elements of a set, or fields of a map, at most.
pub const ELEMENTS_MAX: usize = 4_096;
/// Bytes of one key's state at most, about.
pub const STATE_BYTES_MAX: usize = 4 << 20;

/// Whether the change can be made to a key of this kind.
pub fn fits(kind: Kind, change: &Change) -> bool {
    match change {
        Change::Put(_) => matches!(kind, Kind::Value | Kind::LastWriter),
        Change::Delete => true,
        Change::Add(_) => kind == Kind::Counter,
        Change::Insert(_) | Change::Remove(_) => kind == Kind::Set,
        Change::Set { .. } | Change::Unset(_) => kind == Kind::Map,
    }
}

/// Whether the change removes what the replica happens to hold, so that a session must find its own writes there.
pub(crate) fn rests_on_state(write: &Write, session: u64) -> bool {
    match &write.change {
        Change::Add(_) | Change::Insert(_) => false,
        Change::Put(_) => write.kind == Kind::Value && write.context.is_none() && session != 0,
        Change::Delete => true,
        Change::Remove(_) | Change::Set { .. } | Change::Unset(_) => true,
    }
}

/// Looks whether the write may be made, before anything is stamped.
pub(crate) fn judge(state: &State, write: &Write, past: &Session) -> Result<(), Refusal> {
    if !fits(write.kind, &write.change) || (!state.is_blank() && state.kind != write.kind) {
        return Err(Refusal::OtherKind(if state.is_blank() { write.kind } else { state.kind }));
    }
    match &write.change {
        _ if !write.firm && behind(state, write, past).is_some() => {
            Err(Refusal::Behind(behind(state, write, past).unwrap_or_default()))
        }
        Change::Put(_) if write.kind == Kind::Value => {
            let kept = state.distinct().filter(|entry| !replaces(write, past, entry)).count();
            if kept >= SIBLINGS_MAX { Err(Refusal::TooManySiblings) } else { Ok(()) }
        }
        Change::Insert(_) | Change::Set { .. } if state.entries.len() >= ELEMENTS_MAX => Err(Refusal::TooLarge),
        Change::Insert(_) | Change::Set { .. } if state.size() >= STATE_BYTES_MAX => Err(Refusal::TooLarge),
        _ => Ok(()),
    }
}

/// Whether a put of type value takes the place of the entry: the writer has seen it, or wrote it.
///
/// What its session wrote *later* is stamped above all that it had seen now, so that a write that comes late, as a hint
/// or a retry, never takes the place of a newer one.
fn replaces(write: &Write, past: &Session, entry: &Entry) -> bool {
    let seen = write.context.as_ref().is_some_and(|context| context.covers(entry.dot));
    let own = past.session != 0 && entry.session == past.session && entry.dot.counter <= past.counter_max();
    seen || own
}

/// The order of the latest write that this one would have to take the place of, and may not: that is later.
fn behind(state: &State, write: &Write, past: &Session) -> Option<u64> {
    let rank = write.rank(past);
    let meant = |entry: &&Entry| match &write.change {
        Change::Put(_) => write.kind == Kind::LastWriter,
        Change::Delete => write.kind != Kind::Value || write.context.is_none(),
        Change::Add(_) | Change::Insert(_) => false,
        Change::Remove(element) => is_element(&entry.body, element),
        Change::Set { name, .. } | Change::Unset(name) => is_field(&entry.body, name),
    };
    state.entries.iter().filter(meant).filter(|entry| entry.rank() > rank).map(|entry| entry.order).max()
}

/// Makes the change, as `dot`. The state's context must include all earlier dots of the same actor.
///
/// Whatever a write removes without having seen it is earlier than itself, in an order that all attempts of a request
/// share. Otherwise two requests, each stamped by two replicas, could each remove the other, and nothing would be left.
pub(crate) fn apply(state: &mut State, write: &Write, past: &Session, dot: Dot) -> Effect {
    let session = past.session;
    let existed = !state.is_empty();
    let rank = write.rank(past);
    let earlier = |entry: &Entry| entry.rank() < rank;
    state.kind = write.kind;
    let body =
        match &write.change {
            Change::Put(value) => {
                state.remove(|entry| {
                    if write.kind == Kind::LastWriter { earlier(entry) } else { replaces(write, past, entry) }
                });
                merge_context(state, write, dot);
                Some(Body::Value(value.clone()))
            }
            Change::Delete => {
                match &write.context {
                    Some(_) if write.kind == Kind::Value => {
                        state.remove(|entry| replaces(write, past, entry));
                        merge_context(state, write, dot);
                    }
                    _ => {
                        state.remove(earlier);
                        merge_context(state, write, dot);
                        state.reset_sums();
                    }
                }
                (write.kind == Kind::LastWriter).then_some(Body::Deleted)
            }
            Change::Add(by) => Some(Body::Amount(*by)),
            Change::Insert(element) => {
                state.remove(|entry| is_element(&entry.body, element) && earlier(entry));
                Some(Body::Element(element.clone()))
            }
            Change::Remove(element) => {
                state.remove(|entry| is_element(&entry.body, element) && earlier(entry));
                None
            }
            Change::Set { name, value } => {
                state.remove(|entry| is_field(&entry.body, name) && earlier(entry));
                Some(Body::Field { name: name.clone(), value: value.clone() })
            }
            Change::Unset(name) => {
                state.remove(|entry| is_field(&entry.body, name) && earlier(entry));
                None
            }
        };
    state.context.include(dot.actor, dot.counter);
    state.deps = state.deps.max(past.counter_max());
    let (request, first_sent_ms) = (write.request, write.first_sent_ms);
    let effect = effect_of(&write.change, existed);
    // A last-writer value that comes behind a later one leaves nothing.
    let late = write.kind == Kind::LastWriter && state.latest().is_some_and(|latest| latest.rank() > rank);
    match body.filter(|_| !late) {
        Some(body) => state.insert(Entry { dot, request, first_sent_ms, order: rank.0, session, existed, body }),
        None => state.note(Past { dot, request, first_sent_ms, existed }),
    }
    effect
}

/// Makes a change to a state by itself, outside of any replica: for tests of merging.
#[doc(hidden)]
pub fn make_for_tests(state: &mut State, write: &Write, dot: Dot) -> Effect {
    apply(state, write, &Session::default(), dot)
}

/// What the writer has seen is gone, also what has not come here yet.
fn merge_context(state: &mut State, write: &Write, dot: Dot) {
    let Some(context) = &write.context else { return };
    state.context.merge(context);
    for request in &context.requests {
        state.remove(|entry| entry.request == *request);
        state.note(Past { dot, request: *request, first_sent_ms: write.first_sent_ms, existed: true });
    }
}

/// How the change acts, or acted, on a key that held something (`existed`) or nothing.
pub(crate) fn effect_of(change: &Change, existed: bool) -> Effect {
    match change {
        Change::Delete | Change::Remove(_) | Change::Unset(_) => Effect::Deleted,
        _ if existed => Effect::Replaced,
        _ => Effect::Created,
    }
}

fn is_element(body: &Body, wanted: &Bytes) -> bool {
    matches!(body, Body::Element(element) if element == wanted)
}

fn is_field(body: &Body, wanted: &Bytes) -> bool {
    matches!(body, Body::Field { name, .. } if name == wanted)
}

/// What a state shows.
pub fn show(state: &State) -> Shown {
    if state.is_empty() {
        return Shown::Nothing;
    }
    match state.kind {
        Kind::Value => values(state.distinct()),
        Kind::LastWriter => values(state.latest().into_iter()),
        Kind::Counter => Shown::Number(state.total()),
        Kind::Set => {
            let mut elements: Vec<Bytes> = state.entries.iter().filter_map(element).collect();
            elements.sort_unstable();
            elements.dedup();
            Shown::Elements(elements)
        }
        Kind::Map => {
            // A later value of a field takes the earlier one's place.
            let mut entries: Vec<&Entry> = state.entries.iter().collect();
            entries.sort_by_key(|entry| entry.rank());
            let fields: BTreeMap<Bytes, Bytes> = entries.into_iter().filter_map(field).collect();
            Shown::Fields(fields.into_iter().collect())
        }
    }
}

fn values<'a>(entries: impl Iterator<Item = &'a Entry>) -> Shown {
    let value = |entry: &Entry| -> Option<(Dot, Value)> {
        match &entry.body {
            Body::Value(value) => Some((entry.dot, value.clone())),
            _ => None,
        }
    };
    Shown::Values(entries.filter_map(value).collect())
}

fn element(entry: &Entry) -> Option<Bytes> {
    match &entry.body {
        Body::Element(element) => Some(element.clone()),
        _ => None,
    }
}

fn field(entry: &Entry) -> Option<(Bytes, Bytes)> {
    match &entry.body {
        Body::Field { name, value } => Some((name.clone(), value.clone())),
        _ => None,
    }
}

/// What somebody who wrote `dot` with `context` has seen of the key: that, and no more.
pub(crate) fn seen_by_writer(state: &State, write: &Write, dot: Dot) -> Context {
    let mut context = match write.kind {
        Kind::Value => write.context.clone().unwrap_or_default(),
        Kind::LastWriter => state.context.clone(),
        Kind::Counter | Kind::Set | Kind::Map => return state.context.clone(),
    };
    // The dots that other attempts of the same request may have got are meant as well.
    context.requests = vec![write.request];
    context.add(dot);
    context
}
