//! Finger tables on a ring of a hundred members: lookups end at the owner, in about half of log2 N hops (Chord 2001,
//! section 6.3).

use std::collections::BTreeMap;

use chord::{Chord, Config, Envelope, Input, NextHop, Outbox, Peer};
use membership::{NodeId, Position};
use stdx::{Instant, Prng};

/// A network without delay and loss: a message arrives before time goes on.
struct Ring {
    members: BTreeMap<Position, Chord>,
    now: Instant,
}

impl Ring {
    fn tell(&mut self, position: Position, input: Input) {
        let mut inputs = vec![(position, input)];
        while let Some((position, input)) = inputs.pop() {
            let Some(member) = self.members.get_mut(&position) else { continue };
            let mut out = Outbox::default();
            member.handle(self.now, input, &mut out);
            let send: Vec<Envelope> = out.drain().send;
            inputs.extend(send.into_iter().map(|envelope| (envelope.to.position, Input::Message(envelope))));
        }
    }

    fn settle(&mut self, until: Instant) {
        loop {
            let timers = self.members.iter().filter_map(|(position, chord)| Some((chord.next_timeout()?, *position)));
            match timers.min() {
                Some((at, position)) if at <= until => {
                    self.now = at;
                    self.tell(position, Input::Tick);
                }
                _ => return,
            }
        }
    }

    /// An iterative lookup from `start`: the owner, and how many members were asked beside the first.
    fn lookup(&self, start: Position, target: Position) -> (Peer, u32) {
        let mut at = start;
        for hops in 0..64 {
            match self.members[&at].next_hop(target) {
                NextHop::Owner(owner) => return (owner, hops),
                NextHop::Ask(next) => {
                    assert!(next.position.distance_to(target) < at.distance_to(target), "each step leads nearer");
                    at = next.position;
                }
            }
        }
        panic!("the lookup of {target} from {start} does not end");
    }
}

#[test]
fn lookups_end_at_the_owner_in_about_half_of_log_n_hops() {
    const MEMBERS: usize = 100;
    let mut prng = Prng::from_seed(8);
    let mut ring = Ring { members: BTreeMap::new(), now: Instant::ZERO };
    let mut first = None;
    for node in 0..MEMBERS {
        let me = Peer { position: Position(prng.next_u64()), node: NodeId(node as u64) };
        ring.members.insert(me.position, Chord::new(me, Config::default(), prng.fork()));
        let contact = *first.get_or_insert(me);
        ring.tell(me.position, if contact == me { Input::Create } else { Input::Join { contact } });
        let later = ring.now + Config::default().stabilize_period * 2;
        ring.settle(later);
        ring.now = later;
    }
    ring.settle(ring.now + Config::default().finger_period * 80);

    let views: Vec<_> = ring.members.values().filter_map(Chord::view).collect();
    assert_eq!(chord::invariants::is_ideal(&views, Config::default().successors), Ok(()));
    let positions: Vec<Position> = ring.members.keys().copied().collect();
    let (mut total, mut longest) = (0, 0);
    for _ in 0..2_000 {
        let target = Position(prng.next_u64());
        let owner = positions.iter().find(|position| **position >= target).unwrap_or(&positions[0]);
        let (found, hops) = ring.lookup(positions[prng.index(MEMBERS)], target);
        assert_eq!(found.position, *owner);
        total += hops;
        longest = longest.max(hops);
    }
    let mean = f64::from(total) / 2_000.0;
    let log = (MEMBERS as f64).log2();
    println!("mean {mean:.2} hops, longest {longest}, log2 N = {log:.2}");
    assert!(mean <= log / 2.0, "{mean} hops on average");
    let widest = ring.members.values().map(|member| member.fingers().len()).max();
    assert!(widest <= Some(12), "only distinct fingers are kept, and {widest:?} are too many for {MEMBERS}");
}
