//! What must hold of a ring, as functions over a snapshot of its live members: the properties by which Zave (2012,
//! 2017) judges a ring, under her names; `is_ideal` is the goal that repair must reach, and no invariant.
//!
//! A snapshot holds every member that lives, and only those: whoever is not in it counts as dead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use membership::Position;

use crate::message::Peer;

/// One live member, as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// The member.
    pub me: Peer,
    /// Who it believes comes before it.
    pub predecessor: Option<Peer>,
    /// Its successor list; empty means that it is its own successor.
    pub successors: Vec<Peer>,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the function that found it.
    pub invariant: &'static str,
    /// What should be and what is.
    pub sentence: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.sentence)
    }
}

impl std::error::Error for Violation {}

/// All safety invariants, in the order in which a failure of one explains those after it.
pub fn check(members: &[MemberView]) -> Result<(), Violation> {
    invariant_no_self_in_list(members)?;
    invariant_ordered_lists(members)?;
    invariant_one_live_successor(members)?;
    invariant_at_least_one_ring(members)?;
    invariant_at_most_one_ring(members)?;
    invariant_ordered_ring(members)?;
    invariant_no_lost_appendage(members)
}

/// All safety invariants and Zave's inductive one, for lists of `length` (r): what must hold at every moment of a ring
/// that began with r + 1 members, as long as nobody alive is taken for dead.
pub fn check_with_principals(members: &[MemberView], length: usize) -> Result<(), Violation> {
    check(members)?;
    invariant_sufficient_principals(members, length)
}

/// The safety invariants by name, each with what it says of the ring: what a live fleet reports.
pub fn by_name(members: &[MemberView]) -> [(&'static str, Result<(), Violation>); 8] {
    // r is not written down in a ring; the longest list tells it.
    let length = members.iter().map(|member| member.successors.len()).max().unwrap_or(0);
    [
        ("no_self_in_list", invariant_no_self_in_list(members)),
        ("ordered_lists", invariant_ordered_lists(members)),
        ("one_live_successor", invariant_one_live_successor(members)),
        ("at_least_one_ring", invariant_at_least_one_ring(members)),
        ("at_most_one_ring", invariant_at_most_one_ring(members)),
        ("ordered_ring", invariant_ordered_ring(members)),
        ("sufficient_principals", invariant_sufficient_principals(members, length)),
        ("no_lost_appendage", invariant_no_lost_appendage(members)),
    ]
}

/// Every member has a live entry in its list, or is its own successor.
pub fn invariant_one_live_successor(members: &[MemberView]) -> Result<(), Violation> {
    let live = live(members);
    for member in members {
        if !member.successors.is_empty() && !member.successors.iter().any(|peer| live.contains(&peer.position)) {
            return violated("invariant_one_live_successor", || {
                format!("{} needs one live successor, but all of {} are dead", member.me, shown(&member.successors))
            });
        }
    }
    Ok(())
}

/// Some member can reach itself by first live successors.
pub fn invariant_at_least_one_ring(members: &[MemberView]) -> Result<(), Violation> {
    if !members.is_empty() && rings(members).is_empty() {
        return violated("invariant_at_least_one_ring", || {
            format!("{} members live and none of them reaches itself", members.len())
        });
    }
    Ok(())
}

/// All members that can reach themselves can reach each other.
pub fn invariant_at_most_one_ring(members: &[MemberView]) -> Result<(), Violation> {
    match rings(members).as_slice() {
        [first, second, ..] => violated("invariant_at_most_one_ring", || {
            format!("one ring is {:?} and another is {:?}", hex(first), hex(second))
        }),
        _ => Ok(()),
    }
}

/// The ring follows the circle: between a ring member and its first live successor lies no other ring member.
pub fn invariant_ordered_ring(members: &[MemberView]) -> Result<(), Violation> {
    for ring in rings(members) {
        for (at, from) in ring.iter().enumerate() {
            let to = ring[(at + 1) % ring.len()];
            if let Some(skipped) = ring.iter().find(|other| other.between(*from, to)) {
                return violated("invariant_ordered_ring", || {
                    format!("the ring goes from {from} to {to} and passes over its own member {skipped}")
                });
            }
        }
    }
    Ok(())
}

/// Every member reaches a ring by first live successors.
pub fn invariant_no_lost_appendage(members: &[MemberView]) -> Result<(), Violation> {
    let best = best_successors(members);
    let in_ring: BTreeSet<Position> = rings(members).into_iter().flatten().collect();
    for member in members {
        let mut at = member.me.position;
        let mut steps = 0;
        while !in_ring.contains(&at) {
            steps += 1;
            match best.get(&at) {
                Some(next) if steps <= members.len() => at = *next,
                _ => {
                    return violated("invariant_no_lost_appendage", || {
                        format!("{} must reach the ring, but its way ends at {at} after {steps} steps", member.me)
                    });
                }
            }
        }
    }
    Ok(())
}

/// No member is in its own list.
pub fn invariant_no_self_in_list(members: &[MemberView]) -> Result<(), Violation> {
    match members.iter().find(|member| member.successors.iter().any(|peer| peer.position == member.me.position)) {
        Some(member) => violated("invariant_no_self_in_list", || {
            format!("{} is in its own list {}", member.me, shown(&member.successors))
        }),
        None => Ok(()),
    }
}

/// Each list leads on round the circle and ends before its own member; so it has no entry twice.
pub fn invariant_ordered_lists(members: &[MemberView]) -> Result<(), Violation> {
    for member in members {
        let mut last = member.me.position;
        for peer in &member.successors {
            if !peer.position.between(last, member.me.position) {
                return violated("invariant_ordered_lists", || {
                    format!("{}'s list {} does not lead on at {peer}", member.me, shown(&member.successors))
                });
            }
            last = peer.position;
        }
    }
    Ok(())
}

/// The members that no list passes over (Zave: principals). Her proof needs more than r of them, so a ring must not
/// lose members while it has fewer.
pub fn principals(members: &[MemberView]) -> BTreeSet<Position> {
    let mut left = live(members);
    for member in members {
        let mut last = member.me.position;
        for peer in &member.successors {
            left.retain(|other| !other.between(last, peer.position));
            last = peer.position;
        }
    }
    left
}

/// More than `length` (r) members are passed over by no list, as soon as there are that many members at all. With one
/// live successor in every list this is Zave's inductive invariant, from which all others follow. It takes accurate
/// failure detection and a ring that began with r + 1 members; one that grows from a single member gets there once its
/// newcomers are in their neighbours' lists.
pub fn invariant_sufficient_principals(members: &[MemberView], length: usize) -> Result<(), Violation> {
    let count = principals(members).len();
    if members.len() > length && count <= length {
        return violated("invariant_sufficient_principals", || {
            format!("{count} of {} members are passed over by no list, and it takes {}", members.len(), length + 1)
        });
    }
    Ok(())
}

/// What a join must leave behind, first: each member's first live successor is the member that follows it. Like
/// [`is_ideal`] a goal of repair, which may be unmet while somebody is on its way in or out.
pub fn join_invariant_right_successors(members: &[MemberView]) -> Result<(), Violation> {
    let best = best_successors(members);
    let ring: BTreeSet<Position> = members.iter().map(|member| member.me.position).collect();
    for member in members {
        let right = next_of(&ring, Position(member.me.position.0.wrapping_add(1)));
        let is = best.get(&member.me.position).copied();
        if is != right {
            return violated("join_invariant_right_successors", || {
                let shown = |position: Option<Position>| position.map_or("nobody".to_owned(), |at| at.to_string());
                format!("after {} comes {}, and its successor is {}", member.me, shown(right), shown(is))
            });
        }
    }
    Ok(())
}

/// What a join must leave behind, second: every key is at `successor(key)`. By the rule `(predecessor, self]` that
/// member claims it, and nobody else does.
pub fn join_invariant_keys_at_successor(members: &[MemberView], keys: &[Position]) -> Result<(), Violation> {
    let ring: BTreeSet<Position> = members.iter().map(|member| member.me.position).collect();
    for key in keys {
        let right: Vec<Position> = next_of(&ring, *key).into_iter().collect();
        let claims = members.iter().filter(|member| match member.predecessor {
            Some(before) => key.in_arc(before.position, member.me.position),
            None => members.len() == 1,
        });
        let claimed: Vec<Position> = claims.map(|member| member.me.position).collect();
        if claimed != right {
            return violated("join_invariant_keys_at_successor", || {
                format!("the key {key} belongs to {:?}, and is claimed by {:?}", hex(&right), hex(&claimed))
            });
        }
    }
    Ok(())
}

/// What a join must leave behind, third: finger tables are right. Each of a member's fingers is the first member at or
/// after the point that the finger is for, the highest power of two that it lies beyond.
pub fn join_invariant_right_fingers(tables: &[(Position, Vec<Position>)]) -> Result<(), Violation> {
    let ring: BTreeSet<Position> = tables.iter().map(|(me, _)| *me).collect();
    for (me, fingers) in tables {
        for finger in fingers {
            let (start, right) = right_finger(&ring, *me, *finger);
            if right != Some(*finger) {
                return violated("join_invariant_right_fingers", || {
                    let right = right.map_or("nobody".to_owned(), |at| at.to_string());
                    format!("{me}'s finger for {start} should be {right} and is {finger}")
                });
            }
        }
    }
    Ok(())
}

/// The other half of the third: no finger is missing. For each power of two that leads beyond the member's successor,
/// the first member at or after that point is in the table, unless that is the member itself or its successor.
pub fn join_invariant_full_fingers(tables: &[(Position, Vec<Position>)]) -> Result<(), Violation> {
    let ring: BTreeSet<Position> = tables.iter().map(|(me, _)| *me).collect();
    for (me, fingers) in tables {
        let Some(next) = next_of(&ring, Position(me.0.wrapping_add(1))).filter(|next| next != me) else { continue };
        for index in me.distance_to(next).max(1).ilog2() + 1..u64::BITS {
            let start = Position(me.0.wrapping_add(1 << index));
            let right = next_of(&ring, start).filter(|right| me.distance_to(*right) >= 1 << index);
            if let Some(right) = right.filter(|right| !fingers.contains(right)) {
                return violated("join_invariant_full_fingers", || {
                    format!("{me}'s finger for {start} should be {right}, and it has none there")
                });
            }
        }
    }
    Ok(())
}

/// The point that a finger of `me` is for, and who of `ring` should be it.
pub fn right_finger(ring: &BTreeSet<Position>, me: Position, finger: Position) -> (Position, Option<Position>) {
    let start = Position(me.0.wrapping_add(1 << me.distance_to(finger).max(1).ilog2()));
    (start, next_of(ring, start))
}

/// The first member at or after a point.
fn next_of(ring: &BTreeSet<Position>, point: Position) -> Option<Position> {
    ring.range(point..).next().or_else(|| ring.first()).copied()
}

/// Liveness: all pointers are globally right. Each member's predecessor is the one before it, and its list holds the
/// next `length` members, or all others when there are fewer.
pub fn is_ideal(members: &[MemberView], length: usize) -> Result<(), Violation> {
    let mut ring: Vec<Peer> = members.iter().map(|member| member.me).collect();
    ring.sort_unstable();
    let count = ring.len();
    for member in members {
        let at = ring.partition_point(|peer| *peer < member.me);
        let expected: Vec<Peer> = (1..count.min(length + 1)).map(|step| ring[(at + step) % count]).collect();
        if member.successors != expected {
            return violated("is_ideal", || {
                format!("{}'s list should be {} and is {}", member.me, shown(&expected), shown(&member.successors))
            });
        }
        let before = ring[(at + count - 1) % count];
        // A member that is alone has nobody before it; what a dead one left there does no harm.
        if count > 1 && member.predecessor != Some(before) {
            let is = member.predecessor.map_or("none".to_owned(), |peer| peer.to_string());
            return violated("is_ideal", || format!("{}'s predecessor should be {before} and is {is}", member.me));
        }
    }
    Ok(())
}

fn live(members: &[MemberView]) -> BTreeSet<Position> {
    members.iter().map(|member| member.me.position).collect()
}

/// Each member's first live successor; itself when its list is empty, nothing when the list is all dead.
fn best_successors(members: &[MemberView]) -> BTreeMap<Position, Position> {
    let live = live(members);
    let best = members.iter().filter_map(|member| {
        let first = member.successors.iter().map(|peer| peer.position).find(|position| live.contains(position));
        let own = member.successors.is_empty().then_some(member.me.position);
        Some((member.me.position, first.or(own)?))
    });
    best.collect()
}

/// The rings: each as its members in the order in which first live successors visit them.
fn rings(members: &[MemberView]) -> Vec<Vec<Position>> {
    let best = best_successors(members);
    // Which walk first came by; a walk that meets itself has closed a ring.
    let mut visited: BTreeMap<Position, usize> = BTreeMap::new();
    let mut rings = Vec::new();
    for (walk, member) in members.iter().enumerate() {
        let mut at = member.me.position;
        while !visited.contains_key(&at) {
            visited.insert(at, walk);
            match best.get(&at) {
                Some(next) => at = *next,
                None => break,
            }
        }
        let closed = visited.get(&at) == Some(&walk) && best.contains_key(&at);
        if closed {
            let start = at;
            let mut ring = vec![start];
            at = best[&start];
            while at != start {
                ring.push(at);
                at = best[&at];
            }
            rings.push(ring);
        }
    }
    rings
}

fn violated(invariant: &'static str, sentence: impl FnOnce() -> String) -> Result<(), Violation> {
    Err(Violation { invariant, sentence: sentence() })
}

fn shown(peers: &[Peer]) -> String {
    format!("[{}]", peers.iter().map(|peer| peer.position.to_string()).collect::<Vec<_>>().join(" "))
}

fn hex(positions: &[Position]) -> Vec<String> {
    positions.iter().map(Position::to_string).collect()
}

#[cfg(test)]
mod tests {
    use membership::NodeId;

    use super::*;

    fn peer(at: u64) -> Peer {
        Peer { position: Position(at), node: NodeId(at) }
    }

    fn member(at: u64, before: u64, successors: &[u64]) -> MemberView {
        let successors = successors.iter().map(|at| peer(*at)).collect();
        MemberView { me: peer(at), predecessor: Some(peer(before)), successors }
    }

    fn broken(members: &[MemberView]) -> &'static str {
        check(members).expect_err("the ring is broken").invariant
    }

    #[test]
    fn an_ideal_ring_breaks_nothing() {
        let ring = [member(1, 7, &[4, 7]), member(4, 1, &[7, 1]), member(7, 4, &[1, 4])];
        assert_eq!(check(&ring), Ok(()));
        assert_eq!(is_ideal(&ring, 2), Ok(()));
        assert_eq!(is_ideal(&ring, 4), Ok(()), "a list holds all others when there are fewer than r");
        assert_eq!(principals(&ring).len(), 3);
        let alone = [MemberView { me: peer(1), predecessor: None, successors: vec![] }];
        assert_eq!(check(&alone), Ok(()));
        assert_eq!(is_ideal(&alone, 4), Ok(()));
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn an_appendage_is_no_violation_but_not_ideal() {
        let ring = [member(1, 7, &[7]), member(4, 1, &[7, 1]), member(7, 1, &[1])];
        assert_eq!(check(&ring), Ok(()));
        assert_eq!(principals(&ring).len(), 2, "4 is passed over");
        assert_eq!(invariant_sufficient_principals(&ring, 1), Ok(()));
        let broken = invariant_sufficient_principals(&ring, 2).expect_err("one too few").sentence;
        assert!(broken.starts_with("2 of 3 members"), "{broken}");
        assert_eq!(invariant_sufficient_principals(&ring, 3), Ok(()), "there are no more than r members");
        let sentence = is_ideal(&ring, 2).expect_err("4 is outside the ring").sentence;
        assert!(sentence.contains("should be [0000000000000004 0000000000000007]"), "{sentence}");
    }

    #[test]
    fn what_a_join_must_leave_behind_is_checked_by_name() {
        let ring = [member(1, 7, &[4, 7]), member(4, 1, &[7, 1]), member(7, 4, &[1, 4])];
        let keys = [Position(1), Position(2), Position(5), Position(9)];
        assert_eq!(join_invariant_right_successors(&ring), Ok(()));
        assert_eq!(join_invariant_keys_at_successor(&ring, &keys), Ok(()));
        assert!(by_name(&ring).iter().all(|(_, found)| found.is_ok()));
        let passed_over = [member(1, 7, &[7]), member(4, 1, &[7, 1]), member(7, 1, &[1])];
        let broken = join_invariant_right_successors(&passed_over).expect_err("1 passes over 4").sentence;
        assert!(broken.contains("after 0000000000000001@"), "{broken}");
        let broken = join_invariant_keys_at_successor(&passed_over, &keys).expect_err("4 and 7 claim 2").sentence;
        assert!(broken.contains("0000000000000002 belongs to"), "{broken}");
        let at = |all: &[u64]| all.iter().map(|at| Position(*at)).collect::<Vec<_>>();
        let tables = |of_1: &[u64]| vec![(Position(1), at(of_1)), (Position(4), at(&[7, 1])), (Position(7), at(&[1]))];
        assert_eq!(join_invariant_right_fingers(&tables(&[4, 7])), Ok(()));
        let broken = join_invariant_right_fingers(&tables(&[5])).expect_err("5 is nobody").sentence;
        assert!(broken.contains("finger for 0000000000000005 should be 0000000000000007"), "{broken}");
        assert_eq!(join_invariant_full_fingers(&tables(&[7])), Ok(()), "4 is the successor, and need not be there");
        assert_eq!(join_invariant_right_fingers(&tables(&[])), Ok(()), "what is missing is not wrong");
        let broken = join_invariant_full_fingers(&tables(&[])).expect_err("nobody from 5 on").sentence;
        assert!(broken.contains("finger for 0000000000000005 should be 0000000000000007"), "{broken}");
    }

    #[test]
    fn each_breach_has_its_name() {
        assert_eq!(broken(&[member(1, 4, &[9]), member(4, 1, &[1])]), "invariant_one_live_successor");
        assert_eq!(broken(&[member(1, 4, &[4, 1]), member(4, 1, &[1])]), "invariant_no_self_in_list");
        assert_eq!(broken(&[member(1, 4, &[4, 3]), member(4, 1, &[1])]), "invariant_ordered_lists");
        let two = [member(1, 5, &[5]), member(5, 1, &[1]), member(3, 7, &[7]), member(7, 3, &[3])];
        assert_eq!(broken(&two), "invariant_at_most_one_ring");
        let twisted = [member(1, 4, &[7]), member(7, 1, &[4]), member(4, 7, &[1])];
        assert_eq!(broken(&twisted), "invariant_ordered_ring");
        let lost = [member(1, 4, &[4]), member(4, 1, &[1]), member(7, 1, &[9])];
        let violation = invariant_no_lost_appendage(&lost).expect_err("7 leads nowhere");
        assert!(violation.sentence.contains("ends at 0000000000000007"), "{violation}");
        let dead_end = [member(1, 4, &[9])];
        assert_eq!(
            invariant_at_least_one_ring(&dead_end).expect_err("nobody is left").invariant,
            "invariant_at_least_one_ring"
        );
    }
}
