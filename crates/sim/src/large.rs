//! Rings of many members: the production core of Chord, up to a million of them, in virtual time.
//!
//! Where the fleet's simulation asks whether anything breaks, this measures: how many hops a lookup takes, what a
//! member must keep, how many messages repair costs, and what becomes of all that while members come and go. It begins
//! with a ring that has formed, laid down with right pointers; from there on every pointer is the protocol's own.
//!
//! What is held against the truth. A member *counts* from the moment at which its successor has taken it for its
//! predecessor, until it dies; the owner of a key is the first one that counts at or after it. A lookup ends when the
//! owner itself says that it is the one, and is *wrong* if at that moment somebody else owned the key.
//!
//! Deaths are noticed by silence alone. Nobody says goodbye, and no connection breaks.

mod agenda;
mod churn;
mod search;
mod strategies;
mod tables;

use std::collections::BTreeMap;

use chord::{Chord, Config, Envelope, Event, Input, Outbox, Peer};
use membership::{NodeId, Position};
use stdx::{Instant, Prng};

use agenda::Agenda;
pub use chord::Config as RingConfig;
pub use churn::{Churned, Plan, churn};
pub use strategies::{Row, Strategy, Walked, measure, measure_one};
pub use tables::{Aged, Measured, Stale, age, grouped, markdown, plot, stale};

/// The shortest way of a message, one way, in milliseconds.
const WAY_MIN_MS: u64 = 1;
/// The longest.
const WAY_MAX_MS: u64 = 40;

/// Members, by the number that stands in their `NodeId`.
pub(crate) struct Crowd {
    config: Config,
    prng: Prng,
    now_ms: u64,
    agenda: Agenda,
    members: Vec<Option<Chord>>,
    /// When a member's next tick is scheduled, in milliseconds.
    tick_at: Vec<u64>,
    /// Those that count, by position.
    owners: BTreeMap<Position, u32>,
    /// The numbers of those that run, for drawing one.
    running: Vec<u32>,
    place_in_running: Vec<u32>,
    /// Messages sent.
    messages: u64,
    /// Events that happened.
    events: u64,
}

/// What can happen.
pub(crate) enum Happening {
    /// A member's timer.
    Tick(u32),
    /// A message arrives.
    Arrive(Box<Envelope>),
    /// A lookup's question reaches the member asked, or is given up.
    Search(u32),
    /// A member dies.
    Crash(u32),
    /// A lookup begins.
    Ask,
    /// The ring is looked at.
    Look,
}

/// How members of a large ring behave: as in production, but for the successor list, which must outlive a median life
/// of a minute.
pub fn config() -> Config {
    Config { successors: 8, ..Config::default() }
}

impl Crowd {
    /// An ideal ring of `count` members at random positions.
    pub fn laid_down(count: usize, config: Config, seed: u64) -> Crowd {
        let mut prng = Prng::from_seed(seed);
        let mut positions: Vec<Position> = Vec::with_capacity(count);
        positions.extend((0..count).map(|_| Position(prng.next_u64())));
        positions.sort_unstable();
        positions.dedup();
        let ring: Vec<Peer> =
            positions.into_iter().enumerate().map(|(at, position)| Peer { position, node: node_of(at) }).collect();
        let count = ring.len();
        let mut crowd = Crowd {
            config,
            now_ms: 0,
            agenda: Agenda::default(),
            members: Vec::with_capacity(count),
            tick_at: vec![u64::MAX; count],
            owners: ring.iter().enumerate().map(|(at, peer)| (peer.position, at as u32)).collect(),
            running: (0..count as u32).collect(),
            place_in_running: (0..count as u32).collect(),
            messages: 0,
            events: 0,
            prng,
        };
        for at in 0..count {
            let member = crowd.member_in(&ring, at);
            crowd.members.push(Some(member));
        }
        crowd
    }

    fn member_in(&mut self, ring: &[Peer], at: usize) -> Chord {
        let (me, count) = (ring[at], ring.len());
        let behind = |step: usize| ring[(at + step) % count];
        let successors = (1..count.min(self.config.successors + 1)).map(behind).collect();
        // Entries up to the distance of the first successor are that one.
        let first = me.position.distance_to(behind(1 % count).position).max(1).ilog2();
        let fingers = (first..64).map(|index| {
            let start = Position(me.position.0.wrapping_add(1 << index));
            ring[ring.partition_point(|peer| peer.position < start) % count]
        });
        let mut fingers: Vec<Peer> = fingers.filter(|finger| *finger != me).collect();
        fingers.dedup();
        let chord = Chord::new(me, self.config, self.prng.fork());
        chord.laid_down(Instant::ZERO, behind(count - 1), successors, fingers)
    }

    /// Starts everybody's timers.
    pub fn start(&mut self) {
        for at in 0..self.members.len() as u32 {
            self.arm(at);
        }
    }

    /// Takes the next thing that happens until `end_ms`; none when nothing happens until then.
    pub fn next(&mut self, end_ms: u64) -> Option<Happening> {
        let (at, happening) = self.agenda.pop(end_ms)?;
        self.now_ms = at;
        self.events += 1;
        Some(happening)
    }

    pub fn tick(&mut self, member: u32) {
        if self.tick_at[member as usize] == self.now_ms {
            self.tick_at[member as usize] = u64::MAX;
            self.tell(member, Input::Tick);
        }
    }

    pub fn arrive(&mut self, envelope: Envelope) {
        let to = index_of(envelope.to.node);
        self.tell(to, Input::Message(envelope));
    }

    /// Gives a member an input and sends what it says.
    pub fn tell(&mut self, member: u32, input: Input) {
        let now = Instant::from_millis(self.now_ms);
        let Some(chord) = self.members[member as usize].as_mut() else { return };
        let mut out = Outbox::default();
        chord.handle(now, input, &mut out);
        let effects = out.drain();
        for event in effects.events {
            if let Event::PredecessorChanged(peer) = event {
                self.settle(member, peer);
            }
        }
        for envelope in effects.send {
            self.messages += 1;
            let way = self.way_ms();
            self.agenda.push(self.now_ms + way, Happening::Arrive(Box::new(envelope)));
        }
        self.arm(member);
    }

    /// `member` has taken `peer` for its predecessor: from now on it counts, if nobody that counts lies in between.
    fn settle(&mut self, member: u32, peer: Peer) {
        let lives = self.members[index_of(peer.node) as usize].is_some();
        let Some(me) = self.members[member as usize].as_ref().map(Chord::me) else { return };
        let next = self.owner_after(Position(peer.position.0.wrapping_add(1)));
        let between =
            next.is_some_and(|next| next != member && self.position(next).between(peer.position, me.position));
        if lives && !between {
            self.owners.insert(peer.position, index_of(peer.node));
        }
    }

    /// The one that owns a position, by the truth.
    pub fn owner_after(&self, target: Position) -> Option<u32> {
        self.owners.range(target..).next().or_else(|| self.owners.iter().next()).map(|(_, owner)| *owner)
    }

    fn position(&self, member: u32) -> Position {
        self.members[member as usize].as_ref().map_or(Position(0), |chord| chord.me().position)
    }

    /// A newcomer at a random position, let in by somebody at random.
    pub fn join(&mut self) -> u32 {
        let at = self.members.len() as u32;
        let me = Peer { position: Position(self.prng.next_u64()), node: node_of(at as usize) };
        let seeds: Vec<Peer> = (0..SEEDS).filter_map(|_| self.anybody()).collect();
        let chord = Chord::new(me, self.config, self.prng.fork());
        self.members.push(Some(chord));
        self.tick_at.push(u64::MAX);
        self.place_in_running.push(self.running.len() as u32);
        self.running.push(at);
        let contact = seeds.first().copied();
        self.tell(at, Input::Seeds(seeds));
        match contact {
            Some(contact) => self.tell(at, Input::Join { contact }),
            None => self.tell(at, Input::Create),
        }
        at
    }

    pub fn crash(&mut self, member: u32) {
        let Some(chord) = self.members[member as usize].take() else { return };
        if self.owners.get(&chord.me().position) == Some(&member) {
            self.owners.remove(&chord.me().position);
        }
        let place = self.place_in_running[member as usize];
        self.running.swap_remove(place as usize);
        if let Some(moved) = self.running.get(place as usize) {
            self.place_in_running[*moved as usize] = place;
        }
    }

    /// Somebody who is in the ring.
    pub fn anybody(&mut self) -> Option<Peer> {
        for _ in 0..64 {
            let drawn = self.running[self.prng.index(self.running.len())];
            let member = self.members[drawn as usize].as_ref().filter(|chord| chord.is_member());
            if let Some(chord) = member {
                return Some(chord.me());
            }
        }
        None
    }

    pub fn member(&self, node: NodeId) -> Option<&Chord> {
        self.members.get(index_of(node) as usize)?.as_ref()
    }

    fn way_ms(&mut self) -> u64 {
        WAY_MIN_MS + self.prng.below(WAY_MAX_MS - WAY_MIN_MS + 1)
    }

    fn arm(&mut self, member: u32) {
        let due = self.members[member as usize].as_ref().and_then(Chord::next_timeout);
        let Some(due) = due else { return };
        let due_ms = due.as_nanos().div_ceil(1_000_000).max(self.now_ms);
        if due_ms < self.tick_at[member as usize] {
            self.tick_at[member as usize] = due_ms;
            self.agenda.push(due_ms, Happening::Tick(member));
        }
    }
}

/// How many members discovery names to a newcomer.
const SEEDS: usize = 8;

fn node_of(index: usize) -> NodeId {
    NodeId(index as u64 + 1)
}

fn index_of(node: NodeId) -> u32 {
    node.0 as u32 - 1
}
