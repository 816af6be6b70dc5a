//! What the simulated fleets have in common where membership changes.

use membership::{Change, Member, NodeId, View, choose_tokens};
use stdx::Prng;

/// A node that is to join a view, with its places in the ring.
pub(crate) fn newcomer(view: &View, id: NodeId, tokens: usize, prng: &mut Prng) -> Member {
    let mut member = Member { id, name: format!("n{}", id.0), zone: None, weight: 1, tokens: Vec::new() };
    member.tokens = choose_tokens(&view.members, view.replication, &member, tokens, prng);
    member
}

/// Whether a node takes the place of one that never comes back: such a change cannot be given up.
pub(crate) fn is_replacement(change: &Change) -> bool {
    matches!(change, Change::Replace { .. })
}
