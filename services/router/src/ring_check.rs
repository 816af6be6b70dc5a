//! Keeps looking whether the ring is in order: every storage node's pointers, held against Chord's invariants.
//!
//! The nodes tell their pointers one after the other, so a look is no snapshot: a member may come in, or a pointer be
//! repaired, in between. Therefore a finding counts only when the next look confirms it. A node that does not answer
//! counts as dead, with all its tokens.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chord::Peer;
use chord::invariants::{self, MemberView, right_finger};
use client::fleet::Fleet;
use membership::{NodeId, Position};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use rand::Rng;
use telemetry::names;
use tokio::sync::watch;
use wire::http::{InvariantState, PointersAnswer, RingCheckAnswer, TokenPointers};

/// How often the ring is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a node may take to tell its pointers. It does so from memory.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Positions drawn at each look, to see who claims them.
const KEYS: usize = 64;

/// What the looks at the ring have found. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RingCheck(Arc<Mutex<Looks>>);

#[derive(Debug, Default)]
struct Looks {
    answer: RingCheckAnswer,
    last: Option<Instant>,
    /// Names of what the last look found broken.
    suspected: BTreeSet<&'static str>,
}

/// What one look is judged by.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Members, as they see themselves.
    pub views: Vec<MemberView>,
    /// Each member's fingers.
    pub fingers: Vec<(Position, Vec<Position>)>,
    /// Names of nodes that did not answer.
    pub silent: Vec<String>,
}

impl RingCheck {
    /// Looks at the ring from time to time, until the directory ends.
    pub async fn follow(self, fleet: watch::Receiver<Arc<Fleet>>) {
        let Ok(http) = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build() else {
            tracing::error!("no HTTP client can be made; the ring is not looked at");
            return;
        };
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while fleet.has_changed().is_ok() {
            every.tick().await;
            let known = Arc::clone(&fleet.borrow());
            if known.view.is_formed() {
                let keys: Vec<Position> = (0..KEYS).map(|_| Position(rand::rng().next_u64())).collect();
                self.judge(&look(&http, &known).await, &keys);
            }
        }
    }

    /// Holds one look against the invariants.
    pub fn judge(&self, checked: &Checked, keys: &[Position]) {
        let Checked { views, fingers, silent } = checked;
        let mut found: Vec<(&'static str, Result<(), invariants::Violation>)> = invariants::by_name(views).into();
        found.push(("right_successors", invariants::join_invariant_right_successors(views)));
        found.push(("keys_at_successor", invariants::join_invariant_keys_at_successor(views, keys)));
        found.push(("right_fingers", invariants::join_invariant_right_fingers(fingers)));
        let mut looks = self.lock();
        let before = std::mem::take(&mut looks.suspected);
        let answer = &mut looks.answer;
        answer.looks += 1;
        answer.members = views.len();
        answer.silent.clone_from(silent);
        let mut suspected = BTreeSet::new();
        for (name, result) in found {
            let state = state_of(&mut answer.invariants, name);
            state.holds = result.is_ok() || !before.contains(name);
            if let Err(violation) = result {
                state.found_broken += 1;
                state.found = Some(violation.sentence);
                suspected.insert(name);
            }
        }
        (answer.entries, answer.stale_successors, answer.stale_fingers) = staleness(views, fingers);
        looks.suspected = suspected;
        looks.last = Some(Instant::now());
    }

    /// What was found up to now.
    pub fn answer(&self) -> RingCheckAnswer {
        let looks = self.lock();
        let age = looks.last.map(|last| u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX));
        RingCheckAnswer { age_ms: age, ..looks.answer.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Looks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state_of<'a>(states: &'a mut Vec<InvariantState>, name: &str) -> &'a mut InvariantState {
    let at = states.iter().position(|state| state.name == name).unwrap_or_else(|| {
        states.push(InvariantState { name: name.to_owned(), holds: true, found_broken: 0, found: None });
        states.len() - 1
    });
    &mut states[at]
}

/// Pointers that a member keeps on average; the share of successors that are not there; the share of wrong fingers.
fn staleness(views: &[MemberView], fingers: &[(Position, Vec<Position>)]) -> (f64, f64, f64) {
    let ring: BTreeSet<Position> = views.iter().map(|view| view.me.position).collect();
    let successors = || views.iter().flat_map(|view| &view.successors);
    let dead = successors().filter(|peer| !ring.contains(&peer.position)).count();
    let (mut all, mut wrong) = (0, 0);
    for (me, table) in fingers {
        all += table.len();
        wrong += table.iter().filter(|finger| right_finger(&ring, *me, **finger).1 != Some(**finger)).count();
    }
    let pointers = successors().count() + all + views.iter().filter(|view| view.predecessor.is_some()).count();
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    (share(pointers, views.len()), share(dead, successors().count()), share(wrong, all))
}

/// Asks every storage node of the view for its pointers, all at once.
async fn look(http: &reqwest::Client, fleet: &Fleet) -> Checked {
    let asked = fleet.view.members.iter().map(|member| {
        let address = fleet.nodes.get(&member.id).map(|node| node.http.clone()).filter(|http| !http.is_empty());
        let (http, name) = (http.clone(), member.name.clone());
        tokio::spawn(async move {
            let Some(address) = address else { return Err(name) };
            let answer = http.get(format!("http://{address}/v1/pointers")).send().await.map_err(|_| name.clone())?;
            answer.json::<PointersAnswer>().await.map_err(|_| name)
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut checked = Checked::default();
    for answer in asked {
        match answer.await {
            Ok(Ok(pointers)) => take_in(&mut checked, &pointers),
            Ok(Err(silent)) => checked.silent.push(silent),
            Err(error) => tracing::error!(%error, "a look at a node ended by itself"),
        }
    }
    checked.views.sort_unstable_by_key(|view| view.me.position);
    checked
}

fn take_in(checked: &mut Checked, pointers: &PointersAnswer) {
    let Some(node) = number(&pointers.node).map(NodeId) else { return };
    for TokenPointers { position, predecessor, successors, fingers } in &pointers.members {
        let Some(position) = number(position).map(Position) else { continue };
        let predecessor = predecessor.as_ref().and_then(peer);
        let successors = successors.iter().filter_map(peer).collect();
        checked.views.push(MemberView { me: Peer { position, node }, predecessor, successors });
        checked.fingers.push((position, fingers.iter().filter_map(peer).map(|peer| peer.position).collect()));
    }
}

fn peer((position, node): &(String, String)) -> Option<Peer> {
    Some(Peer { position: Position(number(position)?), node: NodeId(number(node)?) })
}

fn number(hex: &str) -> Option<u64> {
    u64::from_str_radix(hex, 16).ok()
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Invariant {
    invariant: String,
}

/// The findings as gauges.
impl Collector for RingCheck {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let answer = self.answer();
        let broken = Family::<Invariant, Gauge>::default();
        for state in &answer.invariants {
            let label = Invariant { invariant: state.name.clone() };
            broken.get_or_create(&label).set(i64::from(!state.holds));
        }
        let help = "1 when two looks in a row found this invariant of the ring broken";
        broken.encode(encoder.encode_descriptor(names::RING_INVARIANT_BROKEN, help, None, broken.metric_type())?)?;
        let gauges = [
            (names::RING_LOOKS, "Looks at the ring since the router started", answer.looks as f64),
            (names::RING_MEMBERS, "Tokens that were members of the ring at the last look", answer.members as f64),
            (names::RING_STALE_SUCCESSORS, "Share of successor pointers to members not there", answer.stale_successors),
            (names::RING_STALE_FINGERS, "Share of fingers that are not right", answer.stale_fingers),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Peer {
        Peer { position: Position(position), node: NodeId(position) }
    }

    fn member(me: u64, before: u64, successors: &[u64]) -> MemberView {
        let successors = successors.iter().map(|position| at(*position)).collect();
        MemberView { me: at(me), predecessor: Some(at(before)), successors }
    }

    fn whole() -> Checked {
        let views = vec![member(1, 7, &[4, 7]), member(4, 1, &[7, 1]), member(7, 4, &[1, 4])];
        let fingers = vec![(Position(1), vec![Position(4)]), (Position(4), vec![]), (Position(7), vec![Position(1)])];
        Checked { views, fingers, silent: Vec::new() }
    }

    #[test]
    fn a_finding_counts_when_the_next_look_confirms_it() {
        let (check, keys) = (RingCheck::default(), [Position(2), Position(6)]);
        check.judge(&whole(), &keys);
        let answer = check.answer();
        assert_eq!((answer.looks, answer.members, answer.invariants.len()), (1, 3, 11));
        assert!(answer.invariants.iter().all(|state| state.holds && state.found_broken == 0), "{answer:?}");
        assert_eq!((answer.stale_successors, answer.stale_fingers), (0.0, 0.0));

        let mut passed_over = whole();
        passed_over.views[0].successors = vec![at(7), at(9)];
        check.judge(&passed_over, &keys);
        let state = |answer: &RingCheckAnswer| {
            let found = answer.invariants.iter().find(|state| state.name == "right_successors");
            found.map(|state| (state.holds, state.found_broken)).expect("it is among them")
        };
        assert_eq!(state(&check.answer()), (true, 1), "it may be on its way to being repaired");
        check.judge(&passed_over, &keys);
        assert_eq!(state(&check.answer()), (false, 2));
        assert!(check.answer().stale_successors > 0.0, "9 is not there");
        check.judge(&whole(), &keys);
        assert_eq!(state(&check.answer()), (true, 2));
    }

    #[test]
    fn pointers_are_read_from_their_words() {
        let mut checked = Checked::default();
        let word = |position: u64| (format!("{position:016x}"), format!("{:016x}", position / 16));
        let token = TokenPointers {
            position: word(0x21).0,
            predecessor: Some(word(0x11)),
            successors: vec![word(0x31), ("not hex".to_owned(), String::new())],
            fingers: vec![word(0x41)],
        };
        let pointers = PointersAnswer { node: word(0x21).1, epoch: 1, members: vec![token] };
        take_in(&mut checked, &pointers);
        assert_eq!(checked.views[0].me, Peer { position: Position(0x21), node: NodeId(2) });
        assert_eq!(checked.views[0].successors.len(), 1, "what cannot be read is left out");
        assert_eq!(checked.fingers, [(Position(0x21), vec![Position(0x41)])]);
    }
}
