//! Merging is commutative, associative and idempotent, and loses nothing that is alive: on states that a few replicas
//! came to by making random writes and by hearing of each other in any order.

use std::collections::BTreeMap;

use available::{
    Actor, Change, Context, Dot, EntryBody, Kind, Rule, Rules, Shown, State, Write, make_for_tests as make, show,
};
use bytes::Bytes;
use membership::{BucketId, NodeId, Position};
use proptest::prelude::*;
use replication::{RegisterKey, RequestId, Value};

/// What one replica does next.
#[derive(Clone, Debug)]
enum Step {
    /// Replica, which of the last few requests it is (a repeat, if it came before), and what to do.
    Write { replica: usize, request: u8, what: u8, seen: bool },
    /// The first hears of the second.
    Hear { from: usize, to: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..3usize, 0..12u8, 0..6u8, any::<bool>()).prop_map(|(replica, request, what, seen)| Step::Write {
        replica,
        request,
        what,
        seen,
    });
    let hear = (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Hear { from, to });
    prop::collection::vec(prop_oneof![2 => write, 1 => hear], 1..24)
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

fn change(kind: Kind, what: u8) -> Change {
    let text = Bytes::from(format!("e{}", what % 3));
    match (kind, what) {
        (_, 0) => Change::Delete,
        (Kind::Value | Kind::LastWriter, _) => Change::Put(Value { body: text, content_type: Bytes::new() }),
        (Kind::Counter, _) => Change::Add(i64::from(what)),
        (Kind::Set, 1) => Change::Remove(text),
        (Kind::Set, _) => Change::Insert(text),
        (Kind::Map, 1) => Change::Unset(text),
        (Kind::Map, _) => Change::Set { name: text, value: Bytes::from(vec![what]) },
    }
}

/// The states that three replicas have after the steps, and the writes that were made. A request that a replica
/// knows of
/// does nothing there; all attempts of a request ask for the same.
fn played(kind: Kind, steps: &[Step]) -> ([State; 3], BTreeMap<RequestId, Write>) {
    let mut states: [State; 3] = std::array::from_fn(|_| State::absent(kind));
    let mut writes: BTreeMap<RequestId, Write> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Write { replica, request, what, seen } => {
                let request_id = RequestId(u128::from(*request));
                let state = &mut states[*replica];
                if state.request(request_id).is_some() {
                    continue;
                }
                let context = seen.then(|| state.context.clone());
                // At most the counter of its first dot: who sees a dot knows a time above its order.
                let order = (u64::from(*request) * 7 % 12).min(at as u64 + 1);
                let made = writes
                    .entry(request_id)
                    .or_insert_with(|| Write { order, ..write(kind, request_id, context, change(kind, *what)) });
                let actor = Actor { node: NodeId(*replica as u64 + 1), birth: 1 };
                make(state, made, Dot { counter: at as u64 + 1, actor });
            }
            Step::Hear { from, to } => {
                let heard = states[*from].clone();
                states[*to].merge(&heard, Rules::ALL, |_| false);
            }
        }
    }
    (states, writes)
}

fn write(kind: Kind, request: RequestId, context: Option<Context>, change: Change) -> Write {
    let key = RegisterKey { position: Position(1), bucket: BucketId(1), key: Bytes::from_static(b"k") };
    Write { key, kind, request, first_sent_ms: 1, context, order: 0, firm: true, change }
}

fn all_merged([a, b, c]: &[State; 3]) -> State {
    merged(&merged(a, b), c)
}

fn merged(a: &State, b: &State) -> State {
    merged_by(a, b, Rules::ALL)
}

fn merged_by(a: &State, b: &State, rules: Rules) -> State {
    let mut state = a.clone();
    state.merge(b, rules, |_| false);
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn merging_does_not_depend_on_order((kind, steps) in (kinds(), steps())) {
        let [a, b, c] = played(kind, &steps).0;
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a.clone());
        let all = merged(&merged(&a, &b), &c);
        prop_assert_eq!(merged(&all, &b), all.clone());
        prop_assert!(all.includes(&a) && all.includes(&b) && all.includes(&c));
    }

    #[test]
    fn what_is_alive_anywhere_and_gone_nowhere_stays((kind, steps) in (kinds(), steps())) {
        let states = played(kind, &steps).0;
        let all = all_merged(&states);
        let gone = |dot: Dot| states.iter().any(|state| state.context.covers(dot) && state.find(dot).is_none());
        for entry in states.iter().flat_map(|state| &state.entries) {
            // A request one of whose dots is gone is gone.
            let twins = states.iter().flat_map(|state| &state.entries).filter(|twin| twin.request == entry.request);
            let past = states.iter().flat_map(|state| &state.past).any(|past| past.request == entry.request);
            let later = states.iter().flat_map(|state| &state.entries).any(|other| other.rank() > entry.rank());
            let outranked = kind == Kind::LastWriter && later;
            let stays = !past && !outranked && !twins.into_iter().any(|twin| gone(twin.dot));
            prop_assert_eq!(all.find(entry.dot).is_some(), stays, "{}", entry.dot);
        }
    }

    #[test]
    fn a_counter_counts_each_request_once(steps in steps()) {
        let adds: Vec<Step> = steps.into_iter().filter(|step| !matches!(step, Step::Write { what: 0, .. })).collect();
        let states = played(Kind::Counter, &adds).0;
        let all = all_merged(&states);
        let mut by_request = BTreeMap::new();
        for entry in states.iter().flat_map(|state| &state.entries) {
            let amount = match entry.body {
                EntryBody::Amount(by) => by,
                _ => 0,
            };
            by_request.insert(entry.request, amount);
        }
        prop_assert_eq!(all.total(), by_request.values().sum::<i64>());
    }

    /// Two requests that two replicas each stamped, in either order, must not take each other's place: seeds 139,
    /// 423, 510
    /// and 752 of the simulated fleet lost both.
    #[test]
    fn what_nobody_removed_is_there_however_often_it_was_stamped(
        (kind, steps) in (prop::sample::select(vec![Kind::LastWriter, Kind::Set, Kind::Map]), steps())
    ) {
        let removes = |step: &Step| matches!(step, Step::Write { what: 0, .. })
            || (kind != Kind::LastWriter && matches!(step, Step::Write { what: 1, .. }));
        let steps: Vec<Step> = steps.into_iter().filter(|step| !removes(step)).collect();
        let (states, writes) = played(kind, &steps);
        let mut writes: Vec<&Write> = writes.values().collect();
        writes.sort_by_key(|write| write.rank(&available::Past::default()));
        let mut expected = BTreeMap::new();
        for write in writes {
            match &write.change {
                Change::Put(value) => expected.insert(Bytes::new(), value.body.clone()),
                Change::Insert(element) => expected.insert(element.clone(), Bytes::new()),
                Change::Set { name, value } => expected.insert(name.clone(), value.clone()),
                other => unreachable!("{other:?} was left out"),
            };
        }
        let found: BTreeMap<Bytes, Bytes> = match show(&all_merged(&states)) {
            Shown::Nothing => BTreeMap::new(),
            Shown::Values(values) => values.into_iter().map(|(_, value)| (Bytes::new(), value.body)).collect(),
            Shown::Elements(elements) => elements.into_iter().map(|element| (element, Bytes::new())).collect(),
            Shown::Fields(fields) => fields.into_iter().collect(),
            Shown::Number(_) => unreachable!("no counter"),
        };
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_merge_that_goes_by_arrival_is_noticed() {
    let put = |counter, node, body: &'static str| {
        let mut state = State::absent(Kind::LastWriter);
        let value = Value { body: Bytes::from_static(body.as_bytes()), content_type: Bytes::new() };
        let dot = Dot { counter, actor: Actor { node: NodeId(node), birth: 1 } };
        let request = RequestId(u128::from(node));
        make(&mut state, &write(Kind::LastWriter, request, None, Change::Put(value)), dot);
        state
    };
    let (a, b) = (put(1, 1, "a"), put(2, 2, "b"));
    assert_eq!(show(&merged(&a, &b)), show(&merged(&b, &a)));
    let broken = Rules::without(Rule::MergeByArrival);
    assert_ne!(show(&merged_by(&a, &b, broken)), show(&merged_by(&b, &a, broken)));
}
