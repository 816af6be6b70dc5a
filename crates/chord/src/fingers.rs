use membership::{NodeId, Position};

use crate::message::Peer;

/// The finger table: entry i, 0 to 63, is the first member at distance 2^i or more. Chord 2001, section 4.3.
///
/// Neighbouring entries are mostly equal, so only the distinct members are kept, nearest first. Of two members whose
/// distances have the same highest bit only the nearer is anyone's entry; there are thus never more than 64.
/// Fingers make lookups short and nothing else: no invariant needs them, so a wrong or missing one costs hops at most.
#[derive(Clone, Debug)]
pub(crate) struct Fingers {
    me: Position,
    distinct: Vec<Peer>,
}

impl Fingers {
    pub(crate) fn new(me: Position) -> Fingers {
        Fingers { me, distinct: Vec::new() }
    }

    /// Where entry `index` (0 to 63) begins.
    pub(crate) fn start(&self, index: u32) -> Position {
        Position(self.me.0.wrapping_add(1 << index))
    }

    /// The highest index whose entry `peer` can be; `peer` is not the table's own member.
    pub(crate) fn last_index_of(&self, peer: Peer) -> u32 {
        self.me.distance_to(peer.position).max(1).ilog2()
    }

    /// Entry `index` is `peer`: whatever was thought to lie between its start and `peer` is gone.
    pub(crate) fn set(&mut self, index: u32, peer: Peer) {
        let reach = self.me.distance_to(peer.position);
        let start = 1u64 << index;
        if reach < start {
            self.cut(index);
            return;
        }
        let last = self.last_index_of(peer);
        self.distinct.retain(|other| {
            let distance = self.me.distance_to(other.position);
            (distance < start || distance >= reach) && distance.max(1).ilog2() != last
        });
        let at = self.distinct.partition_point(|other| self.me.distance_to(other.position) < reach);
        self.distinct.insert(at, peer);
    }

    /// There is nobody at or after the start of entry `index`.
    pub(crate) fn cut(&mut self, index: u32) {
        self.distinct.retain(|other| self.me.distance_to(other.position) < 1 << index);
    }

    pub(crate) fn remove(&mut self, peer: Peer) {
        self.distinct.retain(|other| *other != peer);
    }

    pub(crate) fn remove_node(&mut self, node: NodeId) {
        self.distinct.retain(|other| other.node != node);
    }

    pub(crate) fn distinct(&self) -> &[Peer] {
        &self.distinct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(at: u64) -> Peer {
        Peer { position: Position(at), node: NodeId(at) }
    }

    fn ats(fingers: &Fingers) -> Vec<u64> {
        fingers.distinct().iter().map(|peer| peer.position.0).collect()
    }

    #[test]
    fn an_entry_replaces_what_lay_before_it() {
        let mut fingers = Fingers::new(Position(100));
        fingers.set(3, peer(110));
        fingers.set(5, peer(140));
        assert_eq!(ats(&fingers), [110, 140]);
        fingers.set(3, peer(112));
        assert_eq!(ats(&fingers), [112, 140], "110 is gone: 112 is the first at 108 or later");
        fingers.set(3, peer(140));
        assert_eq!(ats(&fingers), [140]);
        fingers.set(4, peer(105));
        assert_eq!(ats(&fingers), [] as [u64; 0], "the first from 116 on is 105, so nobody is in between");
    }

    #[test]
    fn the_table_stays_small_on_a_crowded_circle() {
        let mut fingers = Fingers::new(Position(u64::MAX - 3));
        for index in 0..64 {
            let at = fingers.start(index).0.wrapping_add(u64::from(index) / 3);
            fingers.set(index, peer(at));
        }
        assert!(fingers.distinct().len() <= 64);
        let far = fingers.distinct().last().expect("the table is filled");
        assert_eq!(fingers.last_index_of(*far), 63);
        fingers.remove_node(far.node);
        assert!(!fingers.distinct().iter().any(|peer| fingers.last_index_of(*peer) == 63));
    }
}
