//! The observer of the ring: which of its invariants must hold now, and whether they do.
//!
//! Zave proves that the corrected protocol keeps its invariants as long as nobody alive is taken for dead, no member
//! loses its whole list at once, and more than r members remain that no list passes over. A fleet under faults breaks
//! these assumptions now and then: a pause longer than the patience of questions, a partition, a power cut. So the
//! observer follows the assumptions too. The ring is *sound* from the moment at which it is ideal, what is under way
//! included, until one of them is broken; while it is sound, every invariant must hold after every event, Zave's
//! inductive one among them. In the end only the ideal ring will do, and right fingers.
//!
//! What joins must leave behind cannot hold while one is under way. But from the moment at which the ring is ideal
//! until somebody comes, goes or is taken for dead it is *at rest*, and there each member's successor must stay right.
//!
//! What is under way counts as well. Zave's operations read another member's list in one step; here the list travels,
//! and its reader takes it over though its writer died meanwhile. So a member has lost its whole list, too, when all
//! entries of a list that it is about to take over are dead; and who is passed over by such a list is passed over. One
//! that was read before the ring was ideal ends up in it afterwards (seed 313). So does what a joining one has made of
//! silence before (seed 1077): soundness waits for it to be in.
//!
//! A notice says that its sender comes before the one who hears it, and that it lives, since it was just sent. One
//! that comes long after (an echo, seed 9562) is a *ghost's*: it is believed, as Zave's rectify believes it, and the
//! next notice of the living one finds out that the ghost is dead. Who asks for a ring that is in order has to wait for
//! that.

use std::collections::{BTreeMap, BTreeSet};

use chord::invariants::{self, MemberView};
use chord::{Body, CallId, Chord, Config, Envelope, Peer, Rules};
use membership::{NodeId, Position};
use stdx::Instant;

use crate::invariants::Violation;

/// A question that is not answered yet.
#[derive(Clone, Debug)]
struct Question {
    to: Peer,
    sent: u32,
    last: Instant,
    /// The lists that the asker would have if the answers that were sent so far arrived.
    under_way: Vec<Vec<Position>>,
}

/// See the module's introduction.
#[derive(Debug)]
pub(crate) struct RingWatch {
    config: Config,
    /// What the members hold, of those that are in the ring and whose node runs.
    views: BTreeMap<Position, MemberView>,
    /// Questions whose silence means death to the asker, by asker.
    open: BTreeMap<(Position, CallId), Question>,
    sound: bool,
    at_rest: bool,
    /// Places that two nodes have, as far as is known: one that lives is replaced by another (a copy of its directory
    /// was started), and both are there until the change ends. Nothing can be asked of the ring meanwhile.
    shared: BTreeSet<Position>,
    /// Whether some node runs twice: then two members share a place, and nothing can be asked of the ring.
    pub twins: bool,
    /// How often the ring became sound.
    pub sound_times: u64,
    /// How often the invariants were checked.
    pub checks: u64,
    /// How often a member took an input while the ring was at rest: each time all pointers were what they were, or the
    /// invariants of joins were held against them anew.
    pub checks_at_rest: u64,
    /// How often a member began a ring of its own beside a living one.
    pub second_rings: u64,
    /// How often a member heard that somebody comes before it who is no member, or no more.
    pub ghosts: u64,
}

impl RingWatch {
    pub fn new(config: Config) -> RingWatch {
        RingWatch {
            config,
            views: BTreeMap::new(),
            open: BTreeMap::new(),
            sound: false,
            at_rest: false,
            shared: BTreeSet::new(),
            twins: false,
            sound_times: 0,
            checks: 0,
            checks_at_rest: 0,
            second_rings: 0,
            ghosts: 0,
        }
    }

    /// A member says something to another node's member.
    pub fn sent(&mut self, now: Instant, envelope: &Envelope) {
        match &envelope.body {
            Body::Pull { call } | Body::Ping { call } => {
                let fresh = Question { to: envelope.to, sent: 0, last: now, under_way: Vec::new() };
                let question = self.open.entry((envelope.from.position, *call)).or_insert(fresh);
                question.sent += 1;
                question.last = now;
            }
            Body::Pulled { call, successors, .. } => {
                if let Some(question) = self.open.get_mut(&(envelope.to.position, *call)) {
                    let list = list_to_be(envelope.to, envelope.from, successors, self.config.successors);
                    question.under_way.push(list);
                }
            }
            _ => {}
        }
    }

    /// A message reaches a member.
    pub fn arrived(&mut self, envelope: &Envelope) {
        if let Body::Pulled { call, .. } | Body::Pong { call } = envelope.body {
            self.open.remove(&(envelope.to.position, call));
        }
        let gone = !self.views.contains_key(&envelope.from.position);
        self.ghosts += u64::from(gone && envelope.body == Body::Notify);
    }

    /// Time passes for a node's members: questions that were asked often enough are given up now. True: the ring is
    /// not sound any more, for somebody alive was taken for dead.
    pub fn gives_up(&mut self, now: Instant, tokens: &[Position]) -> bool {
        let (attempts, patience) = (self.config.attempts, self.config.answer_timeout);
        let given_up = |question: &Question| question.sent >= attempts && now.since(question.last) >= patience;
        let mut wrong = false;
        for token in tokens {
            let range = (*token, CallId(0))..=(*token, CallId(u64::MAX));
            let late: Vec<_> = self.open.range(range).filter(|(_, q)| given_up(q)).map(|(id, q)| (*id, q.to)).collect();
            for (id, asked) in late {
                self.open.remove(&id);
                // Also one that was dead when it was asked first, and is back by now.
                wrong |= self.views.contains_key(&asked.position);
            }
        }
        wrong && self.break_soundness()
    }

    /// A node is told that the connection to another broke. True: the ring is not sound any more.
    pub fn told_lost(&mut self, tokens: &[Position], lost: NodeId) -> bool {
        self.open.retain(|(asker, _), question| question.to.node != lost || !tokens.contains(asker));
        self.views.values().any(|view| view.me.node == lost) && self.break_soundness()
    }

    /// Members began rings of their own. True: the ring is not sound any more.
    pub fn created(&mut self, created: &[Position]) -> bool {
        let others = self.views.keys().any(|position| !created.contains(position));
        self.second_rings += u64::from(others && !created.is_empty());
        !created.is_empty() && others && self.break_soundness()
    }

    /// A node is about to run twice: two members will share each of its places. The ring is not sound any more, and
    /// nothing is asked of it until one of the two is gone.
    pub fn twins(&mut self) {
        self.twins = true;
        self.break_soundness();
    }

    /// A node died with all its members. True: the ring is not sound any more, for too many are dead.
    pub fn crashed(&mut self, node: NodeId) -> bool {
        let gone: Vec<Position> = self.views.values().filter(|v| v.me.node == node).map(|v| v.me.position).collect();
        self.left(&gone)
    }

    /// Members are in the ring no more, and nobody was told. True: the ring is not sound any more, for too many are
    /// gone.
    pub fn left(&mut self, gone: &[Position]) -> bool {
        self.at_rest = false;
        // Where two are left, the next that they do shows it.
        self.shared.clear();
        self.views.retain(|position, _| !gone.contains(position));
        self.open.retain(|(asker, _), _| !gone.contains(asker));
        let views = self.snapshot();
        let too_few = invariants::principals(&self.with_under_way()).len() <= self.config.successors;
        let cut_off = invariants::invariant_one_live_successor(&views).is_err();
        let mut under_way = self.open.values().flat_map(|question| &question.under_way);
        let will_be_cut_off = under_way.any(|list| !list.iter().any(|entry| self.views.contains_key(entry)));
        (too_few || cut_off || will_be_cut_off) && self.break_soundness()
    }

    /// A node's members took an input. Checks what must hold.
    pub fn touched<'a, C: Rules + 'a>(&mut self, members: impl Iterator<Item = &'a Chord<C>>) -> Result<(), Violation> {
        self.checks_at_rest += u64::from(self.at_rest);
        let mut changed = false;
        for member in members {
            let position = member.me().position;
            let other = self.views.get(&position).is_some_and(|view| view.me.node != member.me().node);
            if other && member.is_member() {
                self.shared.insert(position);
                self.break_soundness();
            }
            let same = self.views.get(&position).is_some_and(|view| {
                view.predecessor == member.predecessor() && view.successors.as_slice() == member.successors()
            });
            if let Some(view) = member.view().filter(|_| !same) {
                let known = self.views.insert(position, view).is_some();
                self.at_rest &= known;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        self.check().map_err(|violation| violation_of(&violation))
    }

    fn check(&mut self) -> Result<(), invariants::Violation> {
        if self.twins || !self.shared.is_empty() {
            return Ok(());
        }
        let (views, length) = (self.snapshot(), self.config.successors);
        if self.sound {
            self.checks += 1;
            invariants::check_with_principals(&views, length)?;
        }
        if self.at_rest {
            invariants::join_invariant_right_successors(&views)?;
        }
        if self.at_rest && self.sound {
            return Ok(());
        }
        if views.len() > length && invariants::is_ideal(&views, length).is_ok() {
            self.at_rest = true;
            let passed_over = views.len() - invariants::principals(&self.with_under_way()).len();
            // Who is about to join may have taken a living member for dead.
            let joining = self.open.keys().any(|(asker, _)| !self.views.contains_key(asker));
            if !self.sound && passed_over == 0 && !joining {
                self.sound_times += 1;
                self.sound = true;
            }
        }
        Ok(())
    }

    /// How many members are in the ring.
    pub fn members(&self) -> usize {
        self.views.len()
    }

    /// What keeps the ring from being ideal.
    pub fn ideal(&self) -> Result<(), Violation> {
        invariants::is_ideal(&self.snapshot(), self.config.successors).map_err(|violation| violation_of(&violation))
    }

    fn snapshot(&self) -> Vec<MemberView> {
        self.views.values().cloned().collect()
    }

    /// What the members hold, and what each would hold if an answer that is on its way arrived: a list that is taken
    /// over may pass over who came since it was read.
    fn with_under_way(&self) -> Vec<MemberView> {
        let mut views = self.snapshot();
        for ((asker, _), question) in &self.open {
            let Some(view) = self.views.get(asker) else { continue };
            // A list is judged by its positions.
            let to_be = |list: &Vec<Position>| MemberView {
                successors: list.iter().map(|position| Peer { position: *position, node: view.me.node }).collect(),
                ..view.clone()
            };
            views.extend(question.under_way.iter().map(to_be));
        }
        views
    }

    fn break_soundness(&mut self) -> bool {
        self.at_rest = false;
        std::mem::replace(&mut self.sound, false)
    }
}

/// The list that `asker` takes over from `head`: it leads on round the circle and ends before the asker.
fn list_to_be(asker: Peer, head: Peer, rest: &[Peer], length: usize) -> Vec<Position> {
    let mut last = asker.position;
    let onward = std::iter::once(&head).chain(rest).map(|peer| peer.position).take_while(|position| {
        let onward = position.between(last, asker.position);
        last = *position;
        onward
    });
    onward.take(length).collect()
}

/// What an ideal ring owes to everybody: each key is claimed by its successor alone, and fingers are right and all
/// there.
pub(crate) fn joined_well<'a, C: Rules + 'a>(
    members: impl Iterator<Item = &'a Chord<C>>,
    keys: &[Position],
) -> Result<(), Violation> {
    let members: Vec<&Chord<C>> = members.filter(|member| member.is_member()).collect();
    let views: Vec<MemberView> = members.iter().filter_map(|member| member.view()).collect();
    let fingers_of = |member: &&Chord<C>| member.fingers().iter().map(|peer| peer.position).collect();
    let tables: Vec<(Position, Vec<Position>)> = members.iter().map(|m| (m.me().position, fingers_of(m))).collect();
    invariants::join_invariant_right_successors(&views)
        .and_then(|()| invariants::join_invariant_keys_at_successor(&views, keys))
        .and_then(|()| invariants::join_invariant_right_fingers(&tables))
        .and_then(|()| invariants::join_invariant_full_fingers(&tables))
        .map_err(|violation| violation_of(&violation))
}

fn violation_of(violation: &invariants::Violation) -> Violation {
    Violation { invariant: violation.invariant, found: violation.sentence.clone() }
}

#[cfg(test)]
mod tests {
    use chord::Correct;
    use stdx::Prng;

    use super::*;
    use crate::ring_host;

    fn peer(at: u64) -> Peer {
        Peer { position: Position(at), node: NodeId(at) }
    }

    fn view(at: u64, before: u64, successors: &[u64]) -> MemberView {
        let successors = successors.iter().map(|at| peer(*at)).collect();
        MemberView { me: peer(at), predecessor: Some(peer(before)), successors }
    }

    /// Members 10, 20, 30, 40 with lists of two. 25 came in between 20 and 30 and died at once; 20 has it in its list
    /// still, and 10 does not know of it.
    fn ring_with_a_fresh_death() -> RingWatch {
        let mut watch = RingWatch::new(ring_host::config(2));
        let views = [
            view(10, 50, &[20, 30]),
            view(20, 10, &[25, 30]),
            view(30, 20, &[40, 50]),
            view(40, 30, &[50, 10]),
            view(50, 40, &[10, 20]),
        ];
        watch.views.extend(views.map(|view| (view.me.position, view)));
        watch.sound = true;
        watch
    }

    fn say(watch: &mut RingWatch, from: u64, to: u64, body: Body) -> Envelope {
        let envelope = Envelope { from: peer(from), to: peer(to), body };
        watch.sent(Instant::ZERO, &envelope);
        envelope
    }

    #[test]
    fn only_those_who_are_gone_are_ghosts() {
        let mut watch = ring_with_a_fresh_death();
        let alive = say(&mut watch, 20, 30, Body::Notify);
        watch.arrived(&alive);
        assert_eq!(watch.ghosts, 0);
        let dead = say(&mut watch, 25, 30, Body::Notify);
        watch.arrived(&dead);
        assert_eq!(watch.ghosts, 1);
    }

    #[test]
    fn a_list_that_died_on_its_way_ends_soundness() {
        let mut watch = ring_with_a_fresh_death();
        let call = CallId(7);
        say(&mut watch, 10, 20, Body::Pull { call });
        let successors = vec![peer(25), peer(30)];
        say(&mut watch, 20, 10, Body::Pulled { call, predecessor: Some(peer(10)), successors });
        // Member 10 holds [20 30], and 30 lives. But [20 25] is what it will hold.
        assert!(watch.crashed(NodeId(20)), "10 is about to lose its whole list");
        assert!(!watch.sound);
    }

    #[test]
    fn a_death_that_no_list_dies_of_does_not() {
        let mut watch = ring_with_a_fresh_death();
        let call = CallId(7);
        say(&mut watch, 10, 20, Body::Pull { call });
        let successors = vec![peer(25), peer(30)];
        let answer = say(&mut watch, 20, 10, Body::Pulled { call, predecessor: Some(peer(10)), successors });
        // It arrived: from here on the list that the member holds counts.
        watch.arrived(&answer);
        assert!(!watch.crashed(NodeId(20)), "10 holds [20 30], and four members that nobody passes over are left");
        assert!(watch.sound);
    }

    #[test]
    fn an_invariant_is_checked_while_the_ring_is_sound_only() {
        let mut watch = RingWatch::new(ring_host::config(2));
        let mut member: Chord<Correct> = Chord::new(peer(10), ring_host::config(2), Prng::from_seed(1));
        member.handle(Instant::ZERO, chord::Input::Create, &mut chord::Outbox::default());
        watch.views.insert(Position(20), view(20, 10, &[30]));
        assert_eq!(watch.touched(std::iter::once(&member)), Ok(()), "20's list is dead, and the ring was never sound");
        watch.sound = true;
        watch.views.remove(&Position(10));
        let violation = watch.touched(std::iter::once(&member)).expect_err("now it counts");
        assert_eq!(violation.invariant, "invariant_one_live_successor");
    }
}
