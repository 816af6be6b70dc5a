//! Which positions a newcomer takes, and who takes over a leaver's: so that load stays even and nothing else moves.
//!
//! Two loads are evened out together. What a member *owns* is the sum of its arcs, and should be its weight's share of
//! the circle. What it *holds* counts its copies too. Both follow from the tokens alone, so both can be worked out for
//! each position that a token might take before it is taken.
//!
//! A newcomer cuts its arcs out of those of the members that own too much, so it takes its own share and moves nothing
//! between others. A leaver's arc lies between two others: the token before may move on into it, and the rest falls to
//! the token after. Where that border stands is free, costs no token, and moves nothing but the leaver's share; with
//! all borders chosen together, that is nearly always enough. Where it is not, somebody with room takes a piece between
//! the two, with a token of its own, and at last a small, bounded part of others' arcs may move (`leave.rs`).

mod layout;
mod leave;

use stdx::Prng;

use crate::{Member, NodeId, Position};
use layout::{Change, Layout, Load, badness};

/// Tokens that a member of weight 1 chooses when it joins.
pub const TOKENS: usize = 16;

/// Tokens that a member has at most.
pub const TOKENS_MAX: usize = 32;

/// Candidates that are worked out for each token.
const WORKED_OUT: usize = 40;
/// What an arc that is cut keeps at least, so that no token is left with next to nothing.
const KEPT_MIN: f64 = 0.1;
/// What it counts that a large arc is cut.
const LARGE_ARC_WEIGHS: f64 = 0.02;
/// Rounds in which a newcomer's tokens are moved between their neighbours, at most.
const POLISHES_MAX: usize = 16;
/// The part of its room that a token keeps clear of its neighbours then.
const CLEARANCE: u64 = 32;

/// `count` positions for `newcomer` (whose own tokens are not looked at), beside the tokens of `members`; usually
/// [`tokens_of_weight`] many.
///
/// `replication` is how many copies there are of each key. The draw comes from `prng`, so two newcomers that race for
/// the same arcs almost surely differ; discovery's compare-and-set lets one of them in at a time.
pub fn choose_tokens(
    members: &[Member],
    replication: usize,
    newcomer: &Member,
    count: usize,
    prng: &mut Prng,
) -> Vec<Position> {
    let mut everyone: Vec<Member> = members.iter().filter(|member| member.id != newcomer.id).cloned().collect();
    everyone.push(Member { tokens: Vec::new(), ..newcomer.clone() });
    let me = everyone.len() - 1;
    let mut layout = Layout::new(&everyone, replication);
    if layout.tokens.is_empty() {
        return first_tokens(count, prng);
    }
    for chosen in 0..count {
        let share = (chosen + 1) as f64 / count as f64;
        if let Some((at, position)) = best_cut(&layout, me, count - chosen, share, prng) {
            layout.insert(at, position, me);
        }
    }
    polish(&mut layout, me);
    layout.tokens_of(me)
}

/// How many tokens a newcomer of this weight chooses.
pub fn tokens_of_weight(weight: u32) -> usize {
    // Shares follow from where tokens stand, not from how many there are; a larger member only needs somewhat more
    // places to take its share from. Room is left for the arcs of those that leave.
    (TOKENS + 4 * weight.max(1).ilog2() as usize).min(TOKENS_MAX - 8)
}

/// What the members other than `leaver` hold once it is gone: each with all its tokens, in the order of `members`.
pub fn tokens_after_leave(members: &[Member], replication: usize, leaver: NodeId) -> Vec<(NodeId, Vec<Position>)> {
    let staying: Vec<Member> = members.iter().filter(|member| member.id != leaver).cloned().collect();
    let stretches = leave::stretches(members, leaver);
    let mut layout = Layout::new(&staying, replication);
    if !stretches.is_empty() && layout.tokens.len() > 1 {
        layout = leave::Estate::new(layout, &stretches).settled();
    }
    staying.iter().enumerate().map(|(at, member)| (member.id, layout.tokens_of(at))).collect()
}

/// How much of what is due to it each of `members` owns, and how much it holds, copies included: 1 is just right.
pub fn load_ratios(members: &[Member], replication: usize) -> Vec<(f64, f64)> {
    let layout = Layout::new(members, replication);
    layout.loads.iter().map(|load| (load.owned / load.owned_due, load.held / load.held_due)).collect()
}

/// The tokens of the first member: even, but for some chance.
fn first_tokens(count: usize, prng: &mut Prng) -> Vec<Position> {
    let step = u64::MAX / count.max(1) as u64;
    let start = prng.next_u64();
    let at = |index: u64, jitter: u64| Position(start.wrapping_add(index * step).wrapping_add(jitter));
    (0..count as u64).map(|index| at(index, prng.below(step / 4))).collect()
}

/// What a newcomer is to take from a member with its next token.
#[derive(Clone, Copy, Debug)]
struct Cut {
    from: usize,
    piece: f64,
}

/// Whom a newcomer's tokens are to cut, the fullest first, when `left` of them are to choose: what it still wants is
/// taken so that those who give are left with one level, which cannot be lower with so many cuts. Whoever gives more
/// than others do is cut more than once.
fn cuts(layout: &Layout, me: usize, left: usize) -> Vec<Cut> {
    let wanted = (layout.loads[me].owned_due - layout.loads[me].owned).max(0.0);
    let ratio = |member: usize| layout.loads[member].owned_ratio();
    let mut givers: Vec<usize> =
        (0..layout.loads.len()).filter(|at| *at != me && layout.loads[*at].owned > 0.0).collect();
    givers.sort_by(|a, b| ratio(*b).total_cmp(&ratio(*a)));
    givers.truncate(left);
    let (mut owned, mut due, mut level) = (0.0, 0.0, 0.0);
    for (at, giver) in givers.iter().enumerate() {
        owned += layout.loads[*giver].owned;
        due += layout.loads[*giver].owned_due;
        level = ((owned - wanted) / due).max(0.0);
        if givers.get(at + 1).is_none_or(|next| ratio(*next) <= level) {
            givers.truncate(at + 1);
            break;
        }
    }
    let each = wanted / left as f64;
    let cut = |from: usize| {
        let gives = layout.loads[from].owned - level * layout.loads[from].owned_due;
        Cut { from, piece: gives / (gives / each.max(1.0)).round().max(1.0) }
    };
    givers.into_iter().map(cut).collect()
}

/// The place of one more token for `me`, one of `left`: the best of many. `share` is how far its load should be then.
fn best_cut(layout: &Layout, me: usize, left: usize, share: f64, prng: &mut Prng) -> Option<(usize, Position)> {
    let cuts = cuts(layout, me, left);
    let mut arcs: Vec<(f64, usize, f64)> = Vec::new();
    for at in 0..layout.tokens.len() {
        if let Some(Cut { piece, .. }) = cuts.iter().find(|cut| cut.from == layout.tokens[at].1) {
            // A short arc cannot give what is wanted.
            let gives = (layout.arc(at) as f64 * (1.0 - KEPT_MIN) / piece.max(1.0)).min(1.0);
            let held = layout.sets[at].members.iter().map(|member| layout.loads[*member].held_ratio());
            arcs.push((
                gives + part_of_its_owner(layout, at) + 0.5 * held.fold(0.0, f64::max) + 0.1 * prng.unit(),
                at,
                *piece,
            ));
        }
    }
    arcs.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut best: Option<(f64, usize, Position)> = None;
    for (_, at, wanted) in arcs.into_iter().take(WORKED_OUT) {
        let piece = wanted.min(layout.arc(at) as f64 * (1.0 - KEPT_MIN)) as u64;
        let position = Position(layout.low(at).0.wrapping_add(piece.max(1)));
        if layout.is_taken(position) {
            continue;
        }
        let cost = newcomers_cost(layout, &layout.insertion(at, piece as f64, me), (me, share), wanted)
            - LARGE_ARC_WEIGHS * part_of_its_owner(layout, at);
        if best.is_none_or(|(least, ..)| cost < least) {
            best = Some((cost, at, position));
        }
    }
    best.map(|(_, at, position)| (at, position))
}

/// How much of what its owner has an arc is. Large arcs are cut first: what cannot be cut up is hard to share out when
/// its owner leaves.
fn part_of_its_owner(layout: &Layout, at: usize) -> f64 {
    layout.arc(at) as f64 / layout.loads[layout.tokens[at].1].owned.max(1.0)
}

/// How much worse a change makes things while a newcomer's load grows: there it counts how far it should be by now
/// (`share` of what is due), and that it gets what it wants.
fn newcomers_cost(layout: &Layout, change: &Change, (me, share): (usize, f64), wanted: f64) -> f64 {
    let mut cost = 0.0;
    for (member, by) in &change.owned {
        let Load { owned, owned_due, .. } = layout.loads[*member];
        cost += match *member == me {
            true => 4.0 * ((by - wanted) / owned_due).powi(2),
            false => badness((owned + by) / owned_due) - badness(owned / owned_due),
        };
    }
    for (member, by) in &change.held {
        let Load { held, held_due, .. } = layout.loads[*member];
        cost += match *member == me {
            true => ((held + by) / held_due - share).powi(2),
            false => badness((held + by) / held_due) - badness(held / held_due),
        };
    }
    cost
}

/// Moves the newcomer's tokens between their neighbours until that makes nothing better.
fn polish(layout: &mut Layout, me: usize) {
    for _ in 0..POLISHES_MAX {
        let mut better = 0.0;
        for token in layout.tokens_of(me) {
            let at = layout.place_of(token);
            let (back, on) = (layout.arc(at), layout.arc(layout.after(at)));
            let clear = (back / 2).saturating_add(on / 2) / CLEARANCE + 1;
            let (by, cost) = layout.best_shift(at, back.saturating_sub(clear), on.saturating_sub(clear));
            if cost < 0.0 {
                layout.shift(at, by);
                better -= cost;
            }
        }
        if better < 1e-9 {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::layout::CIRCLE;
    use crate::{ClusterId, Epoch, View};

    fn join(members: &mut Vec<Member>, id: u64, weight: u32, zone: Option<&str>, prng: &mut Prng) {
        let zone = zone.map(str::to_owned);
        let mut member = Member { id: NodeId(id), name: format!("n{id}"), zone, weight, tokens: Vec::new() };
        member.tokens = choose_tokens(members, 3, &member, tokens_of_weight(weight), prng);
        members.push(member);
    }

    fn leave(members: &mut Vec<Member>, id: NodeId) {
        let after = tokens_after_leave(members, 3, id);
        members.retain(|member| member.id != id);
        assert_eq!(after.len(), members.len());
        for (member, (id, tokens)) in members.iter_mut().zip(after) {
            assert_eq!(member.id, id);
            member.tokens = tokens;
        }
    }

    fn fullest(members: &[Member]) -> f64 {
        load_ratios(members, 3).iter().map(|ratio| ratio.0).fold(0.0, f64::max)
    }

    /// The share of the circle that has another owner.
    fn moved(before: &[Member], after: &[Member]) -> f64 {
        let tokens = |members: &[Member]| {
            let of = members.iter().flat_map(|member| member.tokens.iter().map(|token| (*token, member.id)));
            let mut tokens: Vec<(Position, NodeId)> = of.collect();
            tokens.sort_unstable();
            tokens
        };
        let (before, after) = (tokens(before), tokens(after));
        let owner = |tokens: &[(Position, NodeId)], at: Position| {
            tokens[tokens.partition_point(|token| token.0 < at) % tokens.len()].1
        };
        let mut ends: Vec<Position> = before.iter().chain(&after).map(|token| token.0).collect();
        ends.sort_unstable();
        ends.dedup();
        let arcs = ends.iter().enumerate().filter(|(_, end)| owner(&before, **end) != owner(&after, **end));
        arcs.map(|(at, end)| ends[(at + ends.len() - 1) % ends.len()].distance_to(*end) as f64 / CIRCLE).sum()
    }

    #[test]
    fn the_fullest_of_any_number_owns_little_more_than_its_share() {
        let (mut members, mut prng) = (Vec::new(), Prng::from_seed(3));
        for id in 1..=120 {
            join(&mut members, id, 1, None, &mut prng);
            assert_eq!(members.last().map(|member| member.tokens.len()), Some(TOKENS));
            if id >= 3 {
                let ratios = load_ratios(&members, 3);
                let worst = ratios.iter().fold((0.0f64, 0.0f64), |(a, b), (o, h)| (a.max(*o), b.max(*h)));
                assert!(worst.0 <= 1.06 && worst.1 <= 1.15, "{id} members: {worst:?}");
            }
        }
    }

    #[test]
    fn weights_are_kept_to_also_as_members_come_and_go() {
        for count in [3, 7, 30, 60] {
            let (mut members, mut prng) = (Vec::<Member>::new(), Prng::from_seed(count));
            for id in 1..=count + 60 {
                if id > count && prng.one_in(2) && members.len() > 3 {
                    let leaver = members[prng.index(members.len())].id;
                    leave(&mut members, leaver);
                }
                join(&mut members, id, 1 << (id % 3), None, &mut prng);
                if id >= count {
                    assert!(fullest(&members) <= 1.10, "{} members: {}", members.len(), fullest(&members));
                    assert!(members.iter().all(|member| member.tokens.len() <= TOKENS_MAX));
                }
            }
        }
    }

    #[test]
    fn a_newcomer_moves_its_own_share_and_a_leaver_little_more_than_its_own() {
        let (mut members, mut prng) = (Vec::new(), Prng::from_seed(9));
        for id in 1..=9 {
            join(&mut members, id, 1, None, &mut prng);
        }
        let before = members.clone();
        join(&mut members, 10, 1, None, &mut prng);
        let came = moved(&before, &members);
        assert!((0.09..0.105).contains(&came), "a tenth is due to the tenth member, and {came} moved");
        let before = members.clone();
        leave(&mut members, NodeId(4));
        let went = moved(&before, &members);
        assert!(went < 0.11 * 1.1, "{went} moved when one of ten left");
        assert!(fullest(&members) <= 1.10, "{}", fullest(&members));
    }

    #[test]
    fn load_stays_even_through_a_hundred_changes_of_which_many_are_leaves() {
        for (count, leaves_of_4, seed) in [(3, 2, 1), (5, 2, 2), (60, 3, 3), (110, 4, 4)] {
            let (mut members, mut prng) = (Vec::<Member>::new(), Prng::from_seed(seed));
            for id in 1..=count {
                join(&mut members, id, 1, None, &mut prng);
            }
            for id in count + 1..=count + 100 {
                if prng.below(4) < leaves_of_4 && members.len() > 3 {
                    let leaver = members[prng.index(members.len())].id;
                    leave(&mut members, leaver);
                } else {
                    join(&mut members, id, 1, None, &mut prng);
                }
                assert!(members.iter().all(|member| member.tokens.len() <= TOKENS_MAX), "too many tokens");
                assert!(fullest(&members) <= 1.10, "from {count}: {} members, {}", members.len(), fullest(&members));
            }
        }
    }

    #[test]
    fn the_last_but_one_may_leave_and_a_stranger_changes_nothing() {
        let (mut members, mut prng) = (Vec::new(), Prng::from_seed(8));
        join(&mut members, 1, 1, None, &mut prng);
        join(&mut members, 2, 1, None, &mut prng);
        let unchanged: Vec<(NodeId, Vec<Position>)> =
            members.iter().map(|member| (member.id, sorted(&member.tokens))).collect();
        assert_eq!(tokens_after_leave(&members, 3, NodeId(9)), unchanged);
        leave(&mut members, NodeId(1));
        assert!(fullest(&members) == 1.0 && !members[0].tokens.is_empty());
        assert_eq!(tokens_after_leave(&members, 3, NodeId(2)), []);
    }

    fn sorted(tokens: &[Position]) -> Vec<Position> {
        let mut tokens = tokens.to_vec();
        tokens.sort_unstable();
        tokens
    }

    #[test]
    fn copies_are_counted_where_the_view_puts_them() {
        let (mut members, mut prng) = (Vec::new(), Prng::from_seed(7));
        for id in 1..=9 {
            let zone = [Some("a"), Some("b"), Some("c"), None][id as usize % 4];
            join(&mut members, id, 1 << (id % 2), zone, &mut prng);
        }
        let layout = Layout::new(&members, 3);
        let view = View { epoch: Epoch(1), members, ..View::forming(ClusterId(1), 3, 9, 0) };
        for (arc, (token, set)) in view.ring().arcs().iter().zip(layout.tokens.iter().zip(&layout.sets)) {
            let ids: Vec<NodeId> = set.members.iter().map(|at| view.members[*at].id).collect();
            assert_eq!((arc.high, &*arc.replicas), (token.0, ids.as_slice()));
        }
    }

    #[test]
    fn zones_share_the_copies() {
        let (mut members, mut prng) = (Vec::new(), Prng::from_seed(5));
        for id in 1..=12 {
            join(&mut members, id, 1, Some(["a", "b", "c"][id as usize % 3]), &mut prng);
        }
        let ratios = load_ratios(&members, 3);
        assert!(ratios.iter().all(|(owned, held)| *owned <= 1.10 && *held <= 1.25), "{ratios:?}");
    }
}
