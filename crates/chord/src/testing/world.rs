//! The simulated nodes and what befalls them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use membership::{NodeId, Position};
use stdx::{Instant, Prng};

use super::network::Network;
use super::{Kind, Outcome, Plan};
use crate::invariants::{self, MemberView, Violation};
use crate::io::{Input, Outbox};
use crate::member::Chord;
use crate::message::Peer;
use crate::rules::Rules;

/// What is going to happen at a set time.
#[derive(Clone, Debug)]
enum Fate {
    /// A node starts, or starts again with the same tokens.
    Start(NodeId),
    /// A node dies with all its tokens.
    Crash(NodeId),
    /// `to` is told that the connection to `about` broke.
    Loss {
        to: NodeId,
        about: NodeId,
    },
    /// Discovery tells a node who lives.
    Seeds(NodeId),
    /// A burst of deaths begins.
    Burst,
    /// Wild runs only: some nodes are cut off, or all links are whole again.
    Cut,
    Mend,
    /// The last fault is over.
    Quiet,
}

pub(super) struct World<'a, R: Rules> {
    plan: &'a Plan,
    prng: Prng,
    now: Instant,
    network: Network,
    fates: BTreeMap<(Instant, u64), Fate>,
    fated: u64,
    /// Each node's tokens.
    tokens: BTreeMap<NodeId, Vec<Peer>>,
    /// The tokens of those nodes that run, members or joining.
    running: BTreeMap<Position, Chord<R>>,
    /// What those of them that are members hold, kept up to date by [`World::tell`].
    views: BTreeMap<Position, MemberView>,
    /// Whether a view changed since the invariants were checked.
    changed: bool,
    formed: bool,
    quiet_since: Option<Instant>,
    outcome: Outcome,
    logging: bool,
}

/// How long the first members may take to form the ideal ring.
const FORM_MAX: Duration = Duration::from_secs(60);

/// A run that has not ended after so many events is a defect of the simulation or a storm of messages.
const EVENTS_MAX: u64 = 1_000_000;

impl<'a, R: Rules> World<'a, R> {
    pub(super) fn new(plan: &'a Plan, logging: bool) -> World<'a, R> {
        let mut prng = Prng::from_seed(plan.seed ^ 0x5eed);
        let mut tokens = BTreeMap::new();
        for node in 1..=(plan.nodes + plan.latecomers) as u64 {
            let own = (0..plan.tokens).map(|_| Peer { position: Position(prng.next_u64()), node: NodeId(node) });
            tokens.insert(NodeId(node), own.collect());
        }
        let outcome =
            Outcome { events: 0, crashes: 0, joins: 0, healed_after: None, violation: None, log: String::new() };
        World {
            plan,
            prng,
            now: Instant::ZERO,
            network: Network::default(),
            fates: BTreeMap::new(),
            fated: 0,
            tokens,
            running: BTreeMap::new(),
            views: BTreeMap::new(),
            changed: true,
            formed: false,
            quiet_since: None,
            outcome,
            logging,
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        for node in 1..=self.plan.nodes as u64 {
            let at = Duration::from_millis(if node == 1 { 0 } else { self.prng.below(1500) });
            self.fate(at, Fate::Start(NodeId(node)));
        }
        while self.outcome.violation.is_none() && self.outcome.healed_after.is_none() {
            self.step();
            self.outcome.events += 1;
            if let Err(violation) = self.judge() {
                self.note(|| format!("violation {violation}"));
                self.outcome.violation = Some((self.now, violation));
            }
        }
        self.outcome
    }

    /// The next event: a message, a timer or a fate, whichever comes first.
    fn step(&mut self) {
        let timers = self.running.iter().filter_map(|(position, chord)| Some((chord.next_timeout()?, *position)));
        let timer = timers.min();
        let fate = self.fates.keys().next().copied();
        let message = self.network.next();
        let times = [timer.map(|(at, _)| at), fate.map(|(at, _)| at), message];
        let Some(at) = times.into_iter().flatten().min() else { return };
        self.now = self.now.max(at);
        if let Some(envelope) = self.network.deliver(self.now) {
            let to = envelope.to;
            self.note(|| format!("deliver {} -> {} {:?}", envelope.from, envelope.to, envelope.body));
            self.tell(to.position, Input::Message(envelope));
        } else if let Some(key) = fate.filter(|(at, _)| *at <= self.now) {
            if let Some(fate) = self.fates.remove(&key) {
                self.note(|| format!("fate {fate:?}"));
                self.happen(fate);
            }
        } else if let Some((_, position)) = timer {
            self.note(|| format!("tick {position}"));
            self.tell(position, Input::Tick);
        }
    }

    fn happen(&mut self, fate: Fate) {
        match fate {
            Fate::Start(node) => self.start(node),
            Fate::Crash(node) => self.crash(node),
            Fate::Loss { to, about } => {
                // An accurate run gives no notice of a death that is over: the connection would be a new one.
                let over = self.tokens[&about].iter().any(|peer| self.running.contains_key(&peer.position));
                if !over || self.plan.kind == Kind::Wild {
                    self.tell_node(to, &Input::PeerLost(about));
                }
            }
            Fate::Seeds(node) => {
                let seeds = self.running.values().map(Chord::me).collect();
                self.tell_node(node, &Input::Seeds(seeds));
                let joining = self.running_tokens(node).any(|chord| !chord.is_member());
                if joining || (self.plan.seeds && self.quiet_since.is_none()) || self.plan.kind == Kind::Wild {
                    self.fate_within(300, 2000, Fate::Seeds(node));
                }
            }
            Fate::Burst => self.burst(),
            Fate::Cut => {
                for node in self.running_nodes() {
                    if self.prng.one_in(3) {
                        self.network.cut.insert(node);
                    }
                }
            }
            Fate::Mend => self.network.cut.clear(),
            Fate::Quiet => {
                self.network.cut.clear();
                self.quiet_since = Some(self.now);
                self.changed = true;
            }
        }
    }

    /// The first node creates the ring; whoever starts later joins it by a member that discovery names.
    fn start(&mut self, node: NodeId) {
        for me in self.tokens[&node].clone() {
            if self.running.contains_key(&me.position) {
                continue;
            }
            let contacts: Vec<Peer> = self.running.values().filter(|other| other.is_member()).map(Chord::me).collect();
            let chord = Chord::with_rules(me, self.plan.config, self.prng.fork());
            self.running.insert(me.position, chord);
            self.outcome.joins += 1;
            let input = match contacts.as_slice() {
                [] => Input::Create,
                _ => Input::Join { contact: contacts[self.prng.index(contacts.len())] },
            };
            self.tell(me.position, input);
        }
        self.fate_within(0, 500, Fate::Seeds(node));
    }

    fn crash(&mut self, node: NodeId) {
        let before = self.running.len();
        if self.plan.kind == Kind::Accurate && !self.may_crash(node) {
            return;
        }
        self.running.retain(|_, chord| chord.me().node != node);
        self.views.retain(|_, view| view.me.node != node);
        self.changed = true;
        if self.running.len() == before {
            return;
        }
        self.outcome.crashes += 1;
        for other in self.running_nodes() {
            // Late, and for some never: silence has to do.
            if !self.prng.one_in(4) {
                let wait = Duration::from_nanos(self.prng.below(self.plan.rest.as_nanos() as u64 / 3));
                self.fate(wait, Fate::Loss { to: other, about: node });
            }
        }
        // One in three stays away: what pointed to it must let go of it. The others are back before or after that.
        if !self.prng.one_in(3) {
            self.fate_within(0, self.plan.rest.as_millis() as u64, Fate::Start(node));
        }
    }

    /// Whether a death leaves as many members that no list passes over as Zave's proof takes, r + 1. Members that came
    /// in a moment ago are still passed over, so it is not enough to count all.
    fn may_crash(&self, node: NodeId) -> bool {
        let left: Vec<MemberView> = self.views.values().filter(|view| view.me.node != node).cloned().collect();
        invariants::principals(&left).len() > self.plan.config.successors
    }

    /// Within a short time, fewer tokens die than a list is long: no member can lose its whole list. Nor does the ring
    /// fall below r + 1 members, the least that Zave's proof takes. A wild run keeps none of this.
    fn burst(&mut self) {
        let wild = self.plan.kind == Kind::Wild;
        let tokens = self.plan.tokens;
        let room = self.plan.config.successors - 1;
        let mut nodes = self.running_nodes();
        let members = self.views.len();
        let spare = members.saturating_sub(self.plan.config.successors + 1);
        let mut victims = if wild { self.prng.index(nodes.len().max(1)) } else { room.min(spare) / tokens };
        while victims > 0 && !nodes.is_empty() {
            victims -= 1;
            let node = nodes.remove(self.prng.index(nodes.len()));
            // In a sudden burst all die at once; in others death meets repair half done.
            let span = if self.prng.one_in(2) { 5 } else { self.plan.rest.as_millis() as u64 / 4 };
            self.fate_within(0, span, Fate::Crash(node));
        }
        let nodes = self.running_nodes();
        if wild && !nodes.is_empty() {
            for _ in 0..4 {
                let [to, about] = [self.prng.index(nodes.len()), self.prng.index(nodes.len())].map(|at| nodes[at]);
                self.fate_within(0, 2000, Fate::Loss { to, about });
            }
            if self.prng.one_in(2) {
                self.fate_within(0, 1000, Fate::Cut);
                self.fate_within(1000, 4000, Fate::Mend);
            }
        }
    }

    /// Once the first members stand in an ideal ring, the faults are laid out: bursts with rests between them, and
    /// newcomers at any time.
    fn lay_out_faults(&mut self) {
        self.formed = true;
        let mut at = Duration::ZERO;
        for _ in 0..self.plan.bursts {
            self.fate(at, Fate::Burst);
            at += self.plan.rest.mul_f64(2.0 + 0.5 * self.prng.unit());
        }
        for late in 0..self.plan.latecomers {
            let when = Duration::from_nanos(self.prng.below(at.as_nanos() as u64));
            self.fate(when, Fate::Start(NodeId((self.plan.nodes + late) as u64 + 1)));
        }
        self.fate(at, Fate::Quiet);
    }

    /// Checks what must hold now, and what must hold by now.
    fn judge(&mut self) -> Result<(), Violation> {
        let patience = if self.formed { self.plan.heal_max } else { FORM_MAX };
        let since = if self.formed { self.quiet_since } else { Some(Instant::ZERO) };
        let late = self.outcome.events > EVENTS_MAX || since.is_some_and(|since| self.now.since(since) > patience);
        if !self.changed && !late {
            return Ok(());
        }
        self.changed = false;
        let views: Vec<MemberView> = self.views.values().cloned().collect();
        if self.plan.kind == Kind::Accurate {
            // Before the first members stand in a ring there are too few that no list passes over.
            match self.formed {
                true => invariants::check_with_principals(&views, self.plan.config.successors)?,
                false => invariants::check(&views)?,
            }
        }
        let Some(since) = since else { return Ok(()) };
        let ideal = invariants::is_ideal(&views, self.plan.config.successors);
        let outside = self.running.len() - views.len();
        let awaited = self.fates.values().any(|fate| matches!(fate, Fate::Start(_) | Fate::Crash(_)));
        if ideal.is_ok() && outside == 0 && !awaited {
            if self.formed {
                self.outcome.healed_after = Some(self.now.since(since));
            } else {
                self.lay_out_faults();
            }
        } else if late {
            ideal?;
            let sentence = format!("all should be members by now, and {outside} are still joining");
            return Err(Violation { invariant: "all_joined", sentence });
        }
        Ok(())
    }

    fn tell_node(&mut self, node: NodeId, input: &Input) {
        for peer in self.tokens[&node].clone() {
            self.tell(peer.position, input.clone());
        }
    }

    fn tell(&mut self, position: Position, input: Input) {
        let Some(chord) = self.running.get_mut(&position) else { return };
        let mut out = Outbox::default();
        chord.handle(self.now, input, &mut out);
        let seen = self.views.get(&position);
        let same = seen.is_some_and(|view| {
            view.predecessor == chord.predecessor() && view.successors.as_slice() == chord.successors()
        });
        if let Some(view) = chord.view().filter(|_| !same) {
            self.views.insert(position, view);
            self.changed = true;
        }
        let effects = out.drain();
        let quiet = self.quiet_since.is_some();
        for event in effects.events {
            self.note(|| format!("event {position} {event:?}"));
        }
        for envelope in effects.send {
            self.network.send(self.now, envelope, self.plan, quiet, &mut self.prng);
        }
    }

    fn fate(&mut self, wait: Duration, fate: Fate) {
        self.fated += 1;
        self.fates.insert((self.now + wait, self.fated), fate);
    }

    /// A fate after `least_ms` and less than `span_ms` more.
    fn fate_within(&mut self, least_ms: u64, span_ms: u64, fate: Fate) {
        let wait = Duration::from_millis(least_ms + self.prng.below(span_ms));
        self.fate(wait, fate);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.logging {
            // Writing to a string cannot fail.
            let _ = writeln!(self.outcome.log, "{} {}", self.now, line());
        }
    }

    fn running_tokens(&self, node: NodeId) -> impl Iterator<Item = &Chord<R>> {
        self.running.values().filter(move |chord| chord.me().node == node)
    }

    fn running_nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.running.values().map(|chord| chord.me().node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}
