use crate::message::Peer;
use crate::rules::Rules;

/// The list of `me` whose head is `head`, of which `rest` is the list: head + rest, cut to `length` entries and at the
/// first one that does not lead further round towards `me`. Zave's `append(head, butLast(rest))`.
pub(crate) fn list_from<R: Rules>(me: Peer, head: Peer, rest: &[Peer], length: usize) -> Vec<Peer> {
    let mut list: Vec<Peer> = Vec::with_capacity(length);
    let mut last = me.position;
    for peer in std::iter::once(&head).chain(rest) {
        let onward = peer.position.between(last, me.position);
        if list.len() == length || (R::CUT_AT_SELF && !onward) {
            break;
        }
        last = peer.position;
        list.push(*peer);
    }
    list
}

/// The nearest of `peers` that lies before `head`, seen from `me`: somebody whom `me` passes over.
pub(crate) fn nearest_before(me: Peer, head: Peer, peers: &[Peer]) -> Option<Peer> {
    let passed_over = peers.iter().filter(|peer| peer.position.between(me.position, head.position));
    passed_over.min_by_key(|peer| me.position.distance_to(peer.position)).copied()
}

#[cfg(test)]
mod tests {
    use membership::{NodeId, Position};

    use super::*;
    use crate::rules::{Correct, SelfInList};

    fn peer(at: u64) -> Peer {
        Peer { position: Position(at), node: NodeId(at) }
    }

    fn list(me: u64, head: u64, rest: &[u64], length: usize) -> Vec<u64> {
        let rest: Vec<Peer> = rest.iter().map(|at| peer(*at)).collect();
        list_from::<Correct>(peer(me), peer(head), &rest, length).iter().map(|peer| peer.position.0).collect()
    }

    #[test]
    fn a_list_is_the_head_and_its_list_minus_the_last() {
        assert_eq!(list(10, 20, &[30, 40, 50], 3), [20, 30, 40]);
        assert_eq!(list(10, 20, &[30], 3), [20, 30], "a short list is not padded");
        assert_eq!(list(u64::MAX, 5, &[9, 12], 3), [5, 9, 12], "the circle wraps");
    }

    #[test]
    fn a_list_stops_at_its_own_member() {
        assert_eq!(list(10, 20, &[30, 10, 20], 4), [20, 30]);
        assert_eq!(list(10, 20, &[30, 15, 20], 4), [20, 30], "15 lies beyond this member");
        assert_eq!(list(10, 20, &[20, 30], 4), [20], "no entry twice");
        assert!(list(10, 10, &[20], 4).is_empty());
        let planted = list_from::<SelfInList>(peer(10), peer(20), &[peer(10), peer(20)], 4);
        assert_eq!(planted, [peer(20), peer(10), peer(20)]);
    }

    #[test]
    fn whoever_is_passed_over_is_seen() {
        let peers = [peer(40), peer(25), peer(15), peer(10), peer(30)];
        assert_eq!(nearest_before(peer(10), peer(30), &peers), Some(peer(15)));
        assert_eq!(nearest_before(peer(10), peer(12), &peers), None);
    }
}
