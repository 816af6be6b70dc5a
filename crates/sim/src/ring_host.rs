//! The ring members of one simulated node, hosted as a storage node's shell hosts them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chord::{Chord, Config, Envelope, Event, Input, Outbox, Peer, Rules};
use membership::{NodeId, Position, View};
use stdx::{Instant, Prng};

/// Attempts to join after which the ring's lowest token begins a ring of its own; as in the shell.
const CREATE_AFTER_TRIES: u32 = 2;
/// The same for the first token of any other node; as in the shell.
const CREATE_IN_ITS_STEAD_AFTER_TRIES: u32 = 20;

/// The members of one node.
#[derive(Debug)]
pub(crate) struct RingHost<C: Rules> {
    me: NodeId,
    config: Config,
    members: BTreeMap<Position, Chord<C>>,
    lowest: Option<Position>,
}

/// What came of an input to a node's members.
#[derive(Debug, Default)]
pub(crate) struct RingEffects {
    /// Messages to other nodes.
    pub send: Vec<Envelope>,
    /// Members that began a ring of their own.
    pub created: Vec<Position>,
}

/// How members behave in a simulation: as in production, but quicker, so that short runs see many repairs.
pub(crate) fn config(successors: usize) -> Config {
    Config {
        successors,
        stabilize_period: Duration::from_millis(150),
        finger_period: Duration::from_millis(200),
        answer_timeout: Duration::from_millis(50),
        attempts: 4,
        hops_max: 64,
    }
}

impl<C: Rules> RingHost<C> {
    /// The members that `view` gives the node, none of them in the ring yet.
    pub fn new(me: NodeId, view: &View, config: Config, prng: &mut Prng) -> RingHost<C> {
        let tokens = view.member(me).map(|member| member.tokens.clone()).unwrap_or_default();
        let member = |position| (position, Chord::with_rules(Peer { position, node: me }, config, prng.fork()));
        let members = tokens.into_iter().map(member).collect();
        RingHost { me, config, members, lowest: lowest(view) }
    }

    /// Enters with the tokens that `view` gives the node now, and leaves with those that it gives it no more.
    pub fn follow(&mut self, now: Instant, view: &View, seeds: &[Peer], prng: &mut Prng) -> RingEffects {
        let mut effects = RingEffects::default();
        let mine = view.member(self.me).map(|member| member.tokens.clone()).unwrap_or_default();
        self.lowest = lowest(view);
        self.members.retain(|position, _| mine.contains(position));
        let contacts: Vec<Peer> = seeds.iter().copied().filter(|peer| peer.node != self.me).collect();
        for position in mine {
            if !self.members.contains_key(&position) {
                let me = Peer { position, node: self.me };
                self.members.insert(position, Chord::with_rules(me, self.config, prng.fork()));
                let contact = contacts[prng.index(contacts.len())];
                self.input(now, position, Input::Join { contact }, &mut effects);
            }
        }
        effects
    }

    /// Enters the ring by members of other nodes.
    pub fn enter(&mut self, now: Instant, seeds: &[Peer], prng: &mut Prng) -> RingEffects {
        let mut effects = self.seeds(now, seeds);
        let contacts: Vec<Peer> = seeds.iter().copied().filter(|peer| peer.node != self.me).collect();
        for position in self.positions() {
            let contact = contacts[prng.index(contacts.len())];
            self.input(now, position, Input::Join { contact }, &mut effects);
        }
        effects
    }

    /// Tells all members who else lives, as far as discovery knows.
    pub fn seeds(&mut self, now: Instant, seeds: &[Peer]) -> RingEffects {
        self.tell_all(now, &Input::Seeds(seeds.to_vec()))
    }

    /// A message for one of the members.
    pub fn message(&mut self, now: Instant, envelope: Envelope) -> RingEffects {
        let mut effects = RingEffects::default();
        self.input(now, envelope.to.position, Input::Message(envelope), &mut effects);
        effects
    }

    /// The connection to a node broke.
    pub fn lost(&mut self, now: Instant, node: NodeId) -> RingEffects {
        self.tell_all(now, &Input::PeerLost(node))
    }

    /// Timers.
    pub fn tick(&mut self, now: Instant) -> RingEffects {
        let mut effects = RingEffects::default();
        for position in self.positions() {
            let due = self.members[&position].next_timeout().is_some_and(|at| at <= now);
            if due {
                self.input(now, position, Input::Tick, &mut effects);
            }
        }
        effects
    }

    /// When the next timer is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.members.values().filter_map(Chord::next_timeout).min()
    }

    /// The members, in the ring or on their way there.
    pub fn members(&self) -> impl Iterator<Item = &Chord<C>> {
        self.members.values()
    }

    fn positions(&self) -> Vec<Position> {
        self.members.keys().copied().collect()
    }

    fn tell_all(&mut self, now: Instant, input: &Input) -> RingEffects {
        let mut effects = RingEffects::default();
        for position in self.positions() {
            self.input(now, position, input.clone(), &mut effects);
        }
        effects
    }

    fn create_after(&self, position: Position) -> Option<u32> {
        if self.lowest == Some(position) {
            return Some(CREATE_AFTER_TRIES);
        }
        (self.members.keys().next() == Some(&position)).then_some(CREATE_IN_ITS_STEAD_AFTER_TRIES)
    }

    /// Gives one member one input. What it says to the node's other members is delivered at once.
    fn input(&mut self, now: Instant, position: Position, input: Input, effects: &mut RingEffects) {
        let mut inputs = VecDeque::from([(position, input)]);
        while let Some((position, input)) = inputs.pop_front() {
            let patience = self.create_after(position);
            let Some(member) = self.members.get_mut(&position) else { continue };
            let mut out = Outbox::default();
            let was_member = member.is_member();
            member.handle(now, input, &mut out);
            let drained = out.drain();
            for event in drained.events {
                match event {
                    Event::JoinUnanswered { tries } if patience.is_some_and(|patience| tries >= patience) => {
                        inputs.push_back((position, Input::Create));
                    }
                    Event::Joined { successor } if !was_member && successor.position == position => {
                        effects.created.push(position);
                    }
                    _ => {}
                }
            }
            for envelope in drained.send {
                if envelope.to.node == self.me {
                    inputs.push_back((envelope.to.position, Input::Message(envelope)));
                } else {
                    effects.send.push(envelope);
                }
            }
        }
    }
}

fn lowest(view: &View) -> Option<Position> {
    view.members.iter().flat_map(|member| member.tokens.iter().copied()).min()
}
