//! Every way that a small ring can go: the model check of the production core.
//!
//! Where the simulation draws one order of events from a seed, this takes them all, breadth first, and remembers the
//! states it has seen. It calls the same step functions as production. Time is not modelled: a timer may run out at any
//! moment, which covers every speed; each member's clock stands still.
//!
//! What can happen in a state: a message that is under way arrives (in any order, so all reordering is covered), or is
//! overtaken for ever; a member stabilizes; a newcomer starts at any contact; a member dies, or leaves; discovery tells
//! a member who lives; silence or the late notice of a broken connection tells a member of a death. Deaths keep the
//! assumptions of Zave's proof, as long as [`Scope::crashes`] lasts (and a leave is a death to all others): no member's
//! list dies as a whole, be it a list that is still on its way, and more than r members remain that no list passes
//! over. Nobody alive is ever taken for dead.
//!
//! Two grains. [`Grain::Messages`] interleaves single messages. [`Grain::Operations`] lets a question, its way and its
//! answer happen in one step, as Zave's own model does, and so reaches larger rings.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use membership::{NodeId, Position};
use stdx::{Instant, Prng};

use crate::calls::Purpose;
use crate::config::Config;
use crate::invariants::{self, MemberView, Violation};
use crate::io::{Input, Outbox};
use crate::member::{Chord, Phase};
use crate::message::{Body, CallId, Envelope, Peer};
use crate::rules::Rules;
use crate::successors::list_from;

/// How finely steps are interleaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Each message is a step of its own.
    Messages,
    /// A question and its answer are one step; only notifications travel.
    Operations,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// r, the length of successor lists.
    pub successors: usize,
    /// Members of the ideal ring that it begins with.
    pub founders: usize,
    /// Members that may come in, each at most once, between the founders.
    pub newcomers: usize,
    /// Deaths at most.
    pub crashes: usize,
    /// Members that leave at most.
    pub leaves: usize,
    /// Times at most that discovery tells a member who lives. Not those that are still joining: whom they would ask is
    /// drawn by chance, and chance is no part of a state.
    pub seeds: usize,
    /// How finely steps are interleaved.
    pub grain: Grain,
    /// States after which exploring stops, unfinished.
    pub states_max: usize,
    /// From one state in so many, repair alone must lead to the ideal ring; 0 for none.
    pub repair_one_in: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps taken, also those that led to a known state.
    pub steps: u64,
    /// The longest of the shortest ways to a state.
    pub depth: u32,
    /// Whether every state in scope was reached.
    pub complete: bool,
    /// States from which repair was followed to the ideal ring.
    pub repaired: u64,
    /// The first violation, with the steps that lead to it.
    pub violation: Option<(Violation, Vec<String>)>,
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Arrive(u16),
    Stabilize(u8),
    Start {
        newcomer: u8,
        contact: u8,
    },
    JoinAgain(u8),
    Crash(u8),
    Leave(u8),
    Seeds(u8),
    /// Silence: one question is given up.
    Silence {
        member: u8,
        call: CallId,
    },
    /// The connection broke: all questions to the dead one are given up.
    Notice {
        member: u8,
        dead: u8,
    },
}

#[derive(Clone)]
struct State<R: Rules> {
    /// By index; none for those that have not started, or are dead.
    members: Vec<Option<Rc<Chord<R>>>>,
    started: u8,
    crashed: u8,
    left: u8,
    seeded: u8,
    under_way: Vec<Rc<Envelope>>,
}

const NOW: Instant = Instant::ZERO;
/// Rounds of repair after which the ring must be ideal.
const ROUNDS_MAX: usize = 64;

/// Explores all of `scope` under the rules `R`.
pub fn explore<R: Rules>(scope: &Scope) -> Explored {
    let first = State::<R>::ideal(scope);
    let mut seen: HashMap<u64, (u64, Step)> = HashMap::new();
    let mut found = Explored { states: 1, steps: 0, depth: 0, complete: false, repaired: 0, violation: None };
    let root = first.fingerprint();
    seen.insert(root, (root, Step::Crash(u8::MAX)));
    let mut level = vec![(root, first)];
    while !level.is_empty() {
        let mut next = Vec::new();
        for (from, state) in level {
            for step in state.steps(scope) {
                let mut after = state.clone();
                after.take(step, scope);
                found.steps += 1;
                let fingerprint = after.fingerprint();
                let Entry::Vacant(entry) = seen.entry(fingerprint) else { continue };
                entry.insert((from, step));
                found.states += 1;
                let mut broken = after.safe(scope).err();
                if broken.is_none() && scope.repair_one_in > 0 && fingerprint.is_multiple_of(scope.repair_one_in) {
                    found.repaired += 1;
                    broken = after.clone().repair(scope).err();
                }
                if let Some(violation) = broken {
                    found.violation = Some((violation, way_to::<R>(&seen, root, fingerprint, scope)));
                    found.depth += 1;
                    return found;
                }
                if found.states >= scope.states_max {
                    return found;
                }
                next.push((fingerprint, after));
            }
        }
        found.depth += u32::from(!next.is_empty());
        level = next;
    }
    found.complete = true;
    found
}

/// Scopes in which bugs show, the cheap ones first.
const BUGS_SHOW_IN: [Scope; 3] = [
    // Lists longer than the ring.
    Scope {
        successors: 3,
        founders: 3,
        newcomers: 0,
        crashes: 0,
        leaves: 0,
        seeds: 0,
        grain: Grain::Operations,
        states_max: 100_000,
        repair_one_in: 1,
    },
    // Newcomers that meet, and deaths beside them.
    Scope {
        successors: 2,
        founders: 4,
        newcomers: 2,
        crashes: 2,
        leaves: 0,
        seeds: 0,
        grain: Grain::Operations,
        states_max: 300_000,
        repair_one_in: 1,
    },
    // A death while an answer is under way that names another dead one.
    Scope {
        successors: 2,
        founders: 5,
        newcomers: 0,
        crashes: 2,
        leaves: 0,
        seeds: 0,
        grain: Grain::Messages,
        states_max: 2_000_000,
        repair_one_in: 64,
    },
];

/// Looks for what is wrong with the rules `R`, in one scope after the other, until it is found. What all of them came
/// to when nothing is.
pub fn find_bug<R: Rules>() -> Explored {
    let mut total = Explored { states: 0, steps: 0, depth: 0, complete: true, repaired: 0, violation: None };
    for scope in &BUGS_SHOW_IN {
        let found = explore::<R>(scope);
        total.states += found.states;
        total.steps += found.steps;
        total.depth = found.depth;
        total.complete &= found.complete;
        total.repaired += found.repaired;
        total.violation = found.violation;
        if total.violation.is_some() {
            break;
        }
    }
    total
}

/// The steps from the beginning to a state, in words: taken again one by one.
fn way_to<R: Rules>(seen: &HashMap<u64, (u64, Step)>, root: u64, to: u64, scope: &Scope) -> Vec<String> {
    let mut steps = Vec::new();
    let mut at = to;
    while at != root {
        let (from, step) = seen[&at];
        steps.push(step);
        at = from;
    }
    steps.reverse();
    let mut state = State::<R>::ideal(scope);
    let said = steps.into_iter().map(|step| {
        let words = state.words(step);
        state.take(step, scope);
        words
    });
    said.collect()
}

fn config(scope: &Scope) -> Config {
    Config { successors: scope.successors, attempts: 1, ..Config::default() }
}

/// Founders stand far apart, newcomers between them.
fn peer(index: usize, scope: &Scope) -> Peer {
    let founder = index < scope.founders;
    let at = if founder { 100 * (index as u64 + 1) } else { newcomer_position(index - scope.founders, scope) };
    Peer { position: Position(at), node: NodeId(index as u64 + 1) }
}

/// The first two share a gap, where newcomers meet; further ones go round.
fn newcomer_position(newcomer: usize, scope: &Scope) -> u64 {
    match newcomer {
        0 => 130,
        1 => 160,
        other => 100 * (1 + (other as u64 - 1) % scope.founders as u64) + 30 + other as u64,
    }
}

impl<R: Rules> State<R> {
    fn ideal(scope: &Scope) -> State<R> {
        let ring: Vec<Peer> = (0..scope.founders).map(|index| peer(index, scope)).collect();
        let member = |index: usize| {
            let after = (1..ring.len().min(scope.successors + 1)).map(|step| ring[(index + step) % ring.len()]);
            let mut member: Chord<R> = Chord::with_rules(ring[index], config(scope), Prng::from_seed(index as u64));
            member.phase = Phase::Member;
            member.successors = after.collect();
            member.predecessor = Some(ring[(index + ring.len() - 1) % ring.len()]);
            Some(Rc::new(member))
        };
        let mut members: Vec<Option<Rc<Chord<R>>>> = (0..scope.founders).map(member).collect();
        members.extend((0..scope.newcomers).map(|_| None));
        State { members, started: 0, crashed: 0, left: 0, seeded: 0, under_way: Vec::new() }
    }

    fn views(&self) -> Vec<MemberView> {
        let mut views: Vec<MemberView> = self.members.iter().flatten().filter_map(|member| member.view()).collect();
        views.sort_unstable_by_key(|view| view.me.position);
        views
    }

    /// All safety invariants, and where the ring began with enough members Zave's inductive one.
    fn safe(&self, scope: &Scope) -> Result<(), Violation> {
        let views = self.views();
        match scope.founders > scope.successors {
            true => invariants::check_with_principals(&views, scope.successors),
            false => invariants::check(&views),
        }
    }

    /// Whether `peer` would answer.
    fn answers(&self, peer: Peer) -> bool {
        self.at(peer).is_some_and(|member| member.is_member())
    }

    fn at(&self, peer: Peer) -> Option<&Rc<Chord<R>>> {
        self.members.get(peer.node.0 as usize - 1)?.as_ref()
    }

    fn steps(&self, scope: &Scope) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..self.under_way.len()).map(|at| Step::Arrive(at as u16)).collect();
        for (index, member) in self.members.iter().enumerate() {
            let Some(member) = member else { continue };
            let index = index as u8;
            let round = |purpose: &Purpose| matches!(purpose, Purpose::Head | Purpose::Better | Purpose::Rejoin);
            if member.is_member() && !member.calls.any(round) {
                steps.push(Step::Stabilize(index));
            }
            if matches!(member.phase, Phase::Joining { .. }) && member.calls.len() == 0 {
                steps.push(Step::JoinAgain(index));
            }
            for (id, call) in member.calls.iter() {
                let lost = matches!(call.body, Body::FindSuccessor { .. }) && !self.is_under_way(member.me, id);
                if lost || !self.answers(call.to) {
                    steps.push(Step::Silence { member: index, call: id });
                    if self.is_gone(call.to) {
                        steps.push(Step::Notice { member: index, dead: (call.to.node.0 - 1) as u8 });
                    }
                }
            }
            steps.extend(self.ends_of(index, member, scope));
        }
        if usize::from(self.started) < scope.newcomers {
            let contacts = self.members.iter().enumerate().filter(|(_, m)| m.as_ref().is_some_and(|m| m.is_member()));
            let newcomer = self.started;
            steps.extend(contacts.map(|(contact, _)| Step::Start { newcomer, contact: contact as u8 }));
        }
        steps
    }

    /// How it may end for a member, and what discovery may tell it.
    fn ends_of(&self, index: u8, member: &Chord<R>, scope: &Scope) -> impl Iterator<Item = Step> {
        let [dies, leaves] = [(self.crashed, scope.crashes), (self.left, scope.leaves)]
            .map(|(so_far, at_most)| member.is_member() && usize::from(so_far) < at_most);
        let may_end = (dies || leaves) && self.may_crash(index, scope);
        let told = member.is_member() && usize::from(self.seeded) < scope.seeds;
        let steps = [
            (dies && may_end, Step::Crash(index)),
            (leaves && may_end, Step::Leave(index)),
            (told, Step::Seeds(index)),
        ];
        steps.into_iter().filter_map(|(can, step)| can.then_some(step))
    }

    /// Whether it has died or left, so that its connections are broken.
    fn is_gone(&self, peer: Peer) -> bool {
        self.at(peer).is_none_or(|member| member.phase == Phase::Left)
    }

    /// Whether any message belongs to this question.
    fn is_under_way(&self, asker: Peer, id: CallId) -> bool {
        self.under_way.iter().any(|envelope| match &envelope.body {
            Body::FindSuccessor { call, origin, .. } => *call == id && *origin == asker,
            Body::Found { call, .. } => *call == id && envelope.to == asker,
            _ => false,
        })
    }

    /// Whether the death of a member keeps the assumptions.
    fn may_crash(&self, index: u8, scope: &Scope) -> bool {
        let dead = self.members[usize::from(index)].as_ref().map(|member| member.me);
        let views: Vec<MemberView> = self.views().into_iter().filter(|view| Some(view.me) != dead).collect();
        let lives = |peer: &Peer| views.iter().any(|view| view.me == *peer);
        let lists_live = self.under_way.iter().all(|envelope| match &envelope.body {
            Body::Pulled { successors, .. } => {
                list_from::<R>(envelope.to, envelope.from, successors, scope.successors).iter().any(lives)
            }
            _ => true,
        });
        lists_live
            && invariants::invariant_one_live_successor(&views).is_ok()
            && invariants::principals(&views).len() > scope.successors
    }

    fn take(&mut self, step: Step, scope: &Scope) {
        let mut out = Outbox::default();
        match step {
            Step::Arrive(at) => {
                let envelope = self.under_way.remove(usize::from(at));
                self.tell(envelope.to, Input::Message((*envelope).clone()), &mut out);
            }
            Step::Stabilize(member) => self.with(member, |chord| chord.stabilize(NOW, &mut out)),
            Step::Start { newcomer, contact } => {
                let index = scope.founders + usize::from(newcomer);
                let Some(contact) = self.members[usize::from(contact)].as_ref().map(|member| member.me) else { return };
                let me = peer(index, scope);
                self.started += 1;
                self.members[index] =
                    Some(Rc::new(Chord::with_rules(me, config(scope), Prng::from_seed(index as u64))));
                self.tell(me, Input::Join { contact }, &mut out);
            }
            Step::JoinAgain(member) => self.with(member, |chord| chord.join(NOW, &mut out)),
            Step::Crash(member) => {
                self.members[usize::from(member)] = None;
                self.crashed += 1;
            }
            Step::Leave(member) => {
                self.with(member, |chord| chord.handle(NOW, Input::Leave, &mut out));
                self.left += 1;
            }
            Step::Seeds(member) => {
                let live = self.views().iter().map(|view| view.me).collect();
                self.with(member, |chord| chord.handle(NOW, Input::Seeds(live), &mut out));
                self.seeded += 1;
            }
            Step::Silence { member, call } => self.with(member, |chord| {
                if let Some(call) = chord.calls.take(call) {
                    chord.handle_unanswered(NOW, call, &mut out);
                }
            }),
            Step::Notice { member, dead } => {
                self.with(member, |chord| chord.handle(NOW, Input::PeerLost(NodeId(u64::from(dead) + 1)), &mut out));
            }
        }
        self.send(out, scope.grain);
        self.forget_the_void();
    }

    fn with(&mut self, member: u8, act: impl FnOnce(&mut Chord<R>)) {
        if let Some(member) = &mut self.members[usize::from(member)] {
            act(Rc::make_mut(member));
        }
    }

    fn tell(&mut self, to: Peer, input: Input, out: &mut Outbox) {
        if let Some(Some(member)) = self.members.get_mut(to.node.0 as usize - 1) {
            Rc::make_mut(member).handle(NOW, input, out);
        }
    }

    /// What was said gets under way; coarsely, what must be answered is answered first.
    fn send(&mut self, mut out: Outbox, grain: Grain) {
        let mut queue = std::collections::VecDeque::from(out.drain().send);
        while let Some(envelope) = queue.pop_front() {
            if grain == Grain::Messages || envelope.body == Body::Notify {
                self.under_way.push(Rc::new(envelope));
                continue;
            }
            let mut out = Outbox::default();
            self.tell(envelope.to, Input::Message(envelope.clone()), &mut out);
            queue.extend(out.drain().send);
        }
    }

    /// Drops what can have no effect any more: messages to the dead, to those that do not answer yet, questions that
    /// nobody waits for, and a second copy of a notification.
    fn forget_the_void(&mut self) {
        let under_way = std::mem::take(&mut self.under_way);
        let mut kept: Vec<(u64, Rc<Envelope>)> = Vec::with_capacity(under_way.len());
        for envelope in under_way {
            let awaited = match &envelope.body {
                Body::Pull { call } | Body::Ping { call } => self.awaits(envelope.from, *call),
                Body::FindSuccessor { call, origin, .. } => self.awaits(*origin, *call),
                Body::Pulled { call, .. } | Body::Pong { call } | Body::Found { call, .. } => {
                    self.awaits(envelope.to, *call)
                }
                Body::Notify => Some(0),
            };
            let answer = matches!(envelope.body, Body::Pulled { .. } | Body::Pong { .. } | Body::Found { .. });
            let heard = if answer { self.at(envelope.to).is_some() } else { self.answers(envelope.to) };
            if let Some(purpose) = awaited.filter(|_| heard) {
                kept.push((fingerprint_of(&envelope, purpose), envelope));
            }
        }
        kept.sort_unstable_by_key(|(fingerprint, _)| *fingerprint);
        kept.dedup_by_key(|(fingerprint, _)| *fingerprint);
        self.under_way = kept.into_iter().map(|(_, envelope)| envelope).collect();
    }

    /// What for the question is open, as a number; none when it is not.
    fn awaits(&self, asker: Peer, call: CallId) -> Option<u8> {
        self.at(asker)?.calls.get(call).map(|call| code_of(&call.purpose))
    }

    /// Two states with one fingerprint can do the same. Time, chance and the numbers of questions are no part of it.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.started, self.crashed, self.left, self.seeded).hash(&mut hasher);
        for member in &self.members {
            let Some(member) = member else {
                0u8.hash(&mut hasher);
                continue;
            };
            match member.phase {
                // What it once held has no effect any more.
                Phase::Left => {
                    4u8.hash(&mut hasher);
                    continue;
                }
                Phase::Idle => 1u8.hash(&mut hasher),
                Phase::Joining { contact, .. } => (2u8, contact).hash(&mut hasher),
                Phase::Member => 3u8.hash(&mut hasher),
            }
            (member.predecessor, &member.successors, &member.seeds).hash(&mut hasher);
            let mut calls: Vec<(u8, Peer, [Option<Peer>; 2], u32)> = Vec::new();
            for (_, call) in member.calls.iter() {
                let (other, walked) = match call.purpose {
                    Purpose::JoinPull { walked, fallback, dead } => ([fallback, dead], walked),
                    Purpose::Rectify { candidate } => ([Some(candidate), None], 0),
                    _ => ([None; 2], 0),
                };
                calls.push((code_of(&call.purpose), call.to, other, walked));
            }
            calls.sort_unstable();
            calls.hash(&mut hasher);
        }
        for envelope in &self.under_way {
            let purpose = match &envelope.body {
                Body::Pull { call } | Body::Ping { call } => self.awaits(envelope.from, *call),
                Body::FindSuccessor { call, origin, .. } => self.awaits(*origin, *call),
                Body::Pulled { call, .. } | Body::Pong { call } | Body::Found { call, .. } => {
                    self.awaits(envelope.to, *call)
                }
                Body::Notify => Some(0),
            };
            fingerprint_of(envelope, purpose.unwrap_or_default()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Lets repair work, all being heard, until the ring is ideal.
    fn repair(mut self, scope: &Scope) -> Result<(), Violation> {
        for _ in 0..ROUNDS_MAX {
            // What is under way arrives first: where everybody waits for an answer, nobody begins a round.
            self.hear_all(scope)?;
            let views = self.views();
            let joining = self.members.iter().flatten().any(|member| matches!(member.phase, Phase::Joining { .. }));
            let ideal = invariants::is_ideal(&views, scope.successors);
            if ideal.is_ok() && (!joining || self.stranded()) {
                return Ok(());
            }
            for index in 0..self.members.len() as u8 {
                let silence = |step: &Step| matches!(step, Step::Silence { member, .. } if *member == index);
                while let Some(step) = self.steps(scope).into_iter().find(silence) {
                    self.take(step, scope);
                    self.hear_all(scope)?;
                }
                let round = |step: &Step| *step == Step::Stabilize(index) || *step == Step::JoinAgain(index);
                if let Some(step) = self.steps(scope).into_iter().find(round) {
                    self.take(step, scope);
                    self.hear_all(scope)?;
                }
            }
        }
        invariants::is_ideal(&self.views(), scope.successors)
    }

    fn hear_all(&mut self, scope: &Scope) -> Result<(), Violation> {
        while !self.under_way.is_empty() {
            self.take(Step::Arrive(0), scope);
            self.safe(scope)?;
        }
        Ok(())
    }

    /// Whether all that are outside have a dead contact and no seeds: nobody can let them in.
    fn stranded(&self) -> bool {
        let mut outside = self.members.iter().flatten().filter(|member| !member.is_member());
        outside.all(|member| match member.phase {
            Phase::Joining { contact, .. } => !self.answers(contact),
            _ => true,
        })
    }

    fn words(&self, step: Step) -> String {
        let name = |index: u8| {
            let known = self.members.get(usize::from(index)).and_then(|m| m.as_ref()).map(|m| m.me.position.0);
            known.map_or_else(|| format!("member {}", index + 1), |at| at.to_string())
        };
        match step {
            Step::Arrive(at) => {
                let Envelope { from, to, body } = &*self.under_way[usize::from(at)];
                format!("{} -> {}: {body:?}", from.position.0, to.position.0)
            }
            Step::Stabilize(member) => format!("{} stabilizes", name(member)),
            Step::Start { newcomer, contact } => format!("newcomer {} joins by {}", newcomer + 1, name(contact)),
            Step::JoinAgain(member) => format!("{} tries to join again", name(member)),
            Step::Crash(member) => format!("{} dies", name(member)),
            Step::Leave(member) => format!("{} leaves", name(member)),
            Step::Seeds(member) => format!("{} is told who lives", name(member)),
            Step::Silence { member, .. } => format!("{} waits no longer for an answer", name(member)),
            Step::Notice { member, dead } => format!("{} is told of the death of {}", name(member), name(dead)),
        }
    }
}

fn code_of(purpose: &Purpose) -> u8 {
    match purpose {
        Purpose::JoinFind => 1,
        Purpose::JoinPull { .. } => 2,
        Purpose::Head => 3,
        Purpose::Better => 4,
        Purpose::Rectify { .. } => 5,
        Purpose::Finger { .. } => 6,
        Purpose::Rejoin => 7,
    }
}

/// What a message says, without its question's number: a member has at most one question of each purpose.
fn fingerprint_of(envelope: &Envelope, purpose: u8) -> u64 {
    let mut hasher = DefaultHasher::new();
    (envelope.from, envelope.to, purpose).hash(&mut hasher);
    match &envelope.body {
        Body::Pull { .. } => 1u8.hash(&mut hasher),
        Body::Pulled { predecessor, successors, .. } => (2u8, predecessor, successors).hash(&mut hasher),
        Body::Notify => 3u8.hash(&mut hasher),
        Body::Ping { .. } => 4u8.hash(&mut hasher),
        Body::Pong { .. } => 5u8.hash(&mut hasher),
        Body::FindSuccessor { target, origin, .. } => (6u8, target, origin).hash(&mut hasher),
        Body::Found { successor, .. } => (7u8, successor).hash(&mut hasher),
    }
    hasher.finish()
}
