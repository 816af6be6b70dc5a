use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use membership::{NodeId, Position};
use stdx::{Instant, Prng};

use crate::calls::{Call, Calls, Purpose};
use crate::config::Config;
use crate::fingers::Fingers;
use crate::invariants::MemberView;
use crate::io::{Event, Input, Outbox};
use crate::message::{Body, CallId, Envelope, NextHop, Peer};
use crate::rules::{Correct, Rules};

/// How many questions a member has open at most: one of each purpose.
pub const CALLS_MAX: usize = 8;

/// How many seeds a member remembers; when more are given, the nearest after it and some drawn at random.
pub const SEEDS_MAX: usize = 64;

/// How many nodes routes avoid at most; a loss beyond that is only noticed by silence.
pub const SUSPECTS_MAX: usize = 64;

/// One member of the ring, or one on its way there.
#[derive(Clone, Debug)]
pub struct Chord<R: Rules = Correct> {
    pub(crate) me: Peer,
    pub(crate) config: Config,
    pub(crate) prng: Prng,
    pub(crate) phase: Phase,
    pub(crate) predecessor: Option<Peer>,
    /// At most r entries, each further round than the one before, none of them `me`; empty when alone.
    pub(crate) successors: Vec<Peer>,
    pub(crate) fingers: Fingers,
    pub(crate) finger_next: u32,
    pub(crate) calls: Calls,
    pub(crate) seeds: Vec<Peer>,
    /// Nodes whose connection broke, and until when that counts.
    pub(crate) suspects: BTreeMap<NodeId, Instant>,
    pub(crate) timers: Timers,
    rules: PhantomData<R>,
}

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Told nothing yet.
    Idle,
    /// Looking for its place. It answers nobody: it is not a member.
    Joining { contact: Peer, tries: u32 },
    /// In the ring.
    Member,
    /// Gone.
    Left,
}

/// The periodic work, each with its next time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timers {
    /// Try to join (again).
    pub(crate) join: Option<Instant>,
    /// Stabilize.
    pub(crate) stabilize: Option<Instant>,
    /// Fix the next finger.
    pub(crate) finger: Option<Instant>,
}

impl Chord<Correct> {
    /// A member to be, under the production rules. `config` must pass [`Config::validate`].
    pub fn new(me: Peer, config: Config, prng: Prng) -> Chord {
        Chord::with_rules(me, config, prng)
    }
}

impl<R: Rules> Chord<R> {
    /// As [`Chord::new`], under chosen rules.
    pub fn with_rules(me: Peer, config: Config, mut prng: Prng) -> Chord<R> {
        assert_eq!(config.validate(), Ok(()), "the shell validates the config before it makes a member");
        Chord {
            me,
            config,
            calls: Calls::new(prng.next_u64()),
            prng,
            phase: Phase::Idle,
            predecessor: None,
            successors: Vec::new(),
            fingers: Fingers::new(me.position),
            finger_next: 0,
            seeds: Vec::new(),
            suspects: BTreeMap::new(),
            timers: Timers::default(),
            rules: PhantomData,
        }
    }

    /// Takes one input at time `now`, which must not go backwards, and pushes what is to be done.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        match input {
            Input::Create if matches!(self.phase, Phase::Idle | Phase::Joining { .. }) => {
                self.calls.clear();
                self.become_member(now, Vec::new(), out);
            }
            Input::Join { contact } if matches!(self.phase, Phase::Idle | Phase::Joining { .. }) => {
                self.phase = Phase::Joining { contact, tries: 0 };
                self.join(now, out);
            }
            Input::Create | Input::Join { .. } => {}
            Input::Message(envelope) => self.handle_message(now, envelope, out),
            Input::PeerLost(node) => self.handle_peer_lost(now, node, out),
            Input::Seeds(seeds) => self.handle_seeds(seeds),
            Input::Tick => self.handle_tick(now, out),
            Input::Leave => {
                self.phase = Phase::Left;
                self.calls.clear();
                self.timers = Timers::default();
                out.events.push(Event::Left);
            }
        }
        assert!(self.calls.len() <= CALLS_MAX, "{} open calls: each purpose has at most one", self.calls.len());
        assert!(self.successors.len() <= self.config.successors, "the list is longer than r");
    }

    /// When to send the next [`Input::Tick`]; none when nothing is awaited.
    pub fn next_timeout(&self) -> Option<Instant> {
        let Timers { join, stabilize, finger } = self.timers;
        [join, stabilize, finger, self.calls.next_deadline()].into_iter().flatten().min()
    }

    /// This member.
    pub fn me(&self) -> Peer {
        self.me
    }

    /// Whether it is in the ring; before that its answers about routes mean nothing.
    pub fn is_member(&self) -> bool {
        self.phase == Phase::Member
    }

    /// The successor list, nearest first; empty when alone, for then it is its own successor.
    pub fn successors(&self) -> &[Peer] {
        &self.successors
    }

    /// Who is believed to come before it.
    pub fn predecessor(&self) -> Option<Peer> {
        self.predecessor
    }

    /// The distinct members of the finger table, nearest first; at most 64.
    pub fn fingers(&self) -> &[Peer] {
        self.fingers.distinct()
    }

    /// One step of an iterative lookup. Nodes whose connection broke are avoided where there is another way. Every
    /// step leads nearer to `target`, so a walk ends. Meaningful for members only; one that is joining points to its
    /// contact.
    pub fn next_hop(&self, target: Position) -> NextHop {
        if let Phase::Joining { contact, .. } = self.phase {
            return NextHop::Ask(contact);
        }
        match self.predecessor {
            Some(before) if target.in_arc(before.position, self.me.position) => NextHop::Owner(self.me),
            _ => self.route(target, None, true),
        }
    }

    /// One step of a walk from neighbour to neighbour, the way of a ring without fingers: to the successor or to the
    /// predecessor, whichever lies nearer to `target`. Meaningful for members only.
    pub fn next_neighbour(&self, target: Position) -> NextHop {
        let me = self.me.position;
        let before = self.predecessor.filter(|_| !self.successors.is_empty());
        match (before, self.successors.first()) {
            (Some(before), _) if target.in_arc(before.position, me) => NextHop::Owner(self.me),
            (_, Some(next)) if target.in_arc(me, next.position) => NextHop::Owner(*next),
            (Some(before), _) if target.distance_to(me) < me.distance_to(target) => NextHop::Ask(before),
            (_, Some(next)) => NextHop::Ask(*next),
            (_, None) => NextHop::Owner(self.me),
        }
    }

    /// A member laid down in a ring that has formed, with what it would have found out by now: where a simulation
    /// begins with more members than could join one by one. Fingers may be given in any order.
    pub fn laid_down(
        mut self,
        now: Instant,
        predecessor: Peer,
        successors: Vec<Peer>,
        fingers: impl IntoIterator<Item = Peer>,
    ) -> Chord<R> {
        assert!(successors.len() <= self.config.successors, "the list is longer than r");
        self.phase = Phase::Member;
        self.predecessor = Some(predecessor);
        self.successors = successors;
        for finger in fingers {
            self.fingers.set(self.fingers.last_index_of(finger), finger);
        }
        // Anywhere in its period, so that members are not in step.
        self.timers.stabilize = Some(now + self.config.stabilize_period.mul_f64(self.prng.unit()));
        self.timers.finger = Some(now + self.config.finger_period.mul_f64(self.prng.unit()));
        self
    }

    /// What the invariants look at; none when it is not a member.
    pub fn view(&self) -> Option<MemberView> {
        self.is_member().then(|| MemberView {
            me: self.me,
            predecessor: self.predecessor,
            successors: self.successors.clone(),
        })
    }

    fn handle_message(&mut self, now: Instant, envelope: Envelope, out: &mut Outbox) {
        let Envelope { from, to, body } = envelope;
        // A message that was meant for another token, or for an earlier node at this position, says nothing to us; one
        // that seems to come from ourselves is an old one of our former self.
        if to != self.me || from.position == self.me.position || self.phase == Phase::Left {
            return;
        }
        self.suspects.remove(&from.node);
        match body {
            Body::Pulled { call, predecessor, successors } => {
                if let Some(call) = self.answered(call, Some(from)) {
                    self.handle_pulled(now, call, predecessor, &successors, out);
                }
            }
            // The predecessor lives, so whoever claimed its place does not get it.
            Body::Pong { call } => drop(self.answered(call, Some(from))),
            Body::Found { call, successor, .. } => {
                if let Some(call) = self.answered(call, None) {
                    self.handle_found(now, call, successor, out);
                }
            }
            // Only a member answers: an answer vouches for being one, and adoption relies on it.
            Body::Pull { .. } | Body::Ping { .. } | Body::Notify | Body::FindSuccessor { .. } if !self.is_member() => {}
            Body::Pull { call } => {
                let (predecessor, successors) = (self.predecessor, self.successors.clone());
                self.send(from, Body::Pulled { call, predecessor, successors }, out);
            }
            Body::Ping { call } => self.send(from, Body::Pong { call }, out),
            Body::Notify => self.rectify(now, from, out),
            Body::FindSuccessor { call, target, origin, hops } => {
                self.handle_find_successor(call, target, origin, hops, out);
            }
        }
    }

    /// A successor's answer, to join or to stabilize.
    fn handle_pulled(&mut self, now: Instant, call: Call, before: Option<Peer>, list: &[Peer], out: &mut Outbox) {
        match call.purpose {
            Purpose::JoinPull { walked, dead, .. } => {
                self.handle_join_pulled(now, (call.to, walked, dead), before, list, out);
            }
            Purpose::Head => self.handle_head_pulled(now, call.to, before, list, out),
            Purpose::Better => self.handle_better_pulled(call.to, list, out),
            Purpose::JoinFind | Purpose::Rectify { .. } | Purpose::Finger { .. } | Purpose::Rejoin => {}
        }
    }

    fn handle_found(&mut self, now: Instant, call: Call, successor: Peer, out: &mut Outbox) {
        match call.purpose {
            Purpose::JoinFind => self.handle_join_found(now, successor, out),
            Purpose::Finger { index } => self.handle_finger_found(index, successor),
            Purpose::Rejoin if self.successors.is_empty() && successor.position != self.me.position => {
                self.consider(now, successor, out);
            }
            Purpose::Rejoin | Purpose::JoinPull { .. } | Purpose::Head | Purpose::Better | Purpose::Rectify { .. } => {}
        }
    }

    fn handle_peer_lost(&mut self, now: Instant, node: NodeId, out: &mut Outbox) {
        if node == self.me.node || self.phase == Phase::Left {
            return;
        }
        if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.insert(node, now + self.config.silence_max() + self.config.stabilize_period * 2);
        }
        self.fingers.remove_node(node);
        for id in self.calls.to_node(node) {
            if let Some(call) = self.calls.take(id) {
                self.handle_unanswered(now, call, out);
            }
        }
    }

    fn handle_seeds(&mut self, mut seeds: Vec<Peer>) {
        let me = self.me.position;
        seeds.retain(|seed| seed.position != me);
        seeds.sort_unstable_by_key(|seed| (me.distance_to(seed.position), seed.node));
        seeds.dedup_by_key(|seed| seed.position);
        // Half of the room is for those that may be better successors, half for contacts from all round the circle.
        while seeds.len() > SEEDS_MAX {
            let far = SEEDS_MAX / 2 + self.prng.index(seeds.len() - SEEDS_MAX / 2);
            seeds.remove(far);
        }
        self.seeds = seeds;
    }

    fn handle_tick(&mut self, now: Instant, out: &mut Outbox) {
        self.suspects.retain(|_, until| *until > now);
        for id in self.calls.due(now) {
            let Some(call) = self.calls.get_mut(id) else { continue };
            if call.attempts_left > 0 {
                call.attempts_left -= 1;
                call.deadline = now + self.config.answer_timeout;
                let (to, body) = (call.to, call.body.clone());
                self.send(to, body, out);
            } else if let Some(call) = self.calls.take(id) {
                self.handle_unanswered(now, call, out);
            }
        }
        if self.timers.join.is_some_and(|at| at <= now) {
            self.join(now, out);
        }
        if self.timers.stabilize.is_some_and(|at| at <= now) {
            self.timers.stabilize = Some(now + self.jittered(self.config.stabilize_period));
            self.stabilize(now, out);
        }
        if self.timers.finger.is_some_and(|at| at <= now) {
            self.timers.finger = Some(now + self.jittered(self.config.finger_period));
            self.fix_finger(now, out);
        }
    }

    /// A question stayed without an answer, or its connection broke.
    pub(crate) fn handle_unanswered(&mut self, now: Instant, call: Call, out: &mut Outbox) {
        self.fingers.remove(call.to);
        match call.purpose {
            Purpose::JoinFind | Purpose::JoinPull { .. } => {
                self.handle_join_unanswered(now, (call.to, call.purpose), out)
            }
            Purpose::Head => self.handle_head_unanswered(now, call.to, out),
            Purpose::Better => {
                self.seeds.retain(|seed| *seed != call.to);
                if self.successors.is_empty() && self.predecessor == Some(call.to) {
                    // Alone with a dead predecessor: only a seed leads back, and it is asked when there is none.
                    self.predecessor = None;
                }
                self.notify(out);
            }
            Purpose::Rectify { candidate } => {
                if self.predecessor == Some(call.to) {
                    self.adopt_predecessor(candidate, out);
                }
            }
            Purpose::Finger { index } => self.finger_next = index + 1,
            Purpose::Rejoin => self.seeds.retain(|seed| *seed != call.to),
        }
    }

    /// Closes an open question, if this answers one. A pull or ping is answered by the one who was asked; a lookup by
    /// whoever knows.
    fn answered(&mut self, id: CallId, by: Option<Peer>) -> Option<Call> {
        let call = self.calls.get(id)?;
        let fits = match by {
            Some(from) => call.to == from && matches!(call.body, Body::Pull { .. } | Body::Ping { .. }),
            None => matches!(call.body, Body::FindSuccessor { .. }),
        };
        if fits { self.calls.take(id) } else { None }
    }

    pub(crate) fn become_member(&mut self, now: Instant, successors: Vec<Peer>, out: &mut Outbox) {
        self.phase = Phase::Member;
        self.predecessor = None;
        self.timers.join = None;
        out.events.push(Event::Joined { successor: successors.first().copied().unwrap_or(self.me) });
        self.successors = successors;
        self.timers.stabilize = Some(now + self.jittered(self.config.stabilize_period));
        self.timers.finger = Some(now + self.jittered(self.config.finger_period));
        self.stabilize(now, out);
    }

    /// Asks `to`, and again until it has answered or `attempts` transmissions went unanswered.
    pub(crate) fn ask(&mut self, now: Instant, to: Peer, purpose: Purpose, out: &mut Outbox) {
        let call = self.calls.fresh_id();
        let body = match purpose {
            Purpose::JoinPull { .. } | Purpose::Head | Purpose::Better => Body::Pull { call },
            Purpose::Rectify { .. } => Body::Ping { call },
            Purpose::JoinFind | Purpose::Rejoin => self.find(call, Position(self.me.position.0.wrapping_add(1))),
            Purpose::Finger { index } => self.find(call, self.fingers.start(index)),
        };
        let deadline = now + self.config.answer_timeout;
        let attempts_left = self.config.attempts - 1;
        self.calls.insert(call, Call { to, purpose, body: body.clone(), attempts_left, deadline });
        self.send(to, body, out);
    }

    fn find(&self, call: CallId, target: Position) -> Body {
        Body::FindSuccessor { call, target, origin: self.me, hops: 0 }
    }

    pub(crate) fn send(&self, to: Peer, body: Body, out: &mut Outbox) {
        out.send.push(Envelope { from: self.me, to, body });
    }

    /// A wait around `period`, from 3/4 to 5/4 of it.
    pub(crate) fn jittered(&mut self, period: Duration) -> Duration {
        period.mul_f64(0.75 + 0.5 * self.prng.unit())
    }
}
