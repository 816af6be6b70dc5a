use stdx::Prng;

use crate::Position;

/// Ring positions for a newcomer that will hold `count` tokens, beside the tokens that are `taken`.
///
/// Random positions balance badly (16 each on 12 nodes: the fullest holds 1.44 times the mean), so each token is the
/// best of many candidates: the one that splits the widest gap left, near its middle. The draw comes from `prng`, so
/// two newcomers that race for the same gap do not collide on one position.
pub fn choose_tokens(taken: &[Position], count: usize, prng: &mut Prng) -> Vec<Position> {
    let mut all: Vec<Position> = taken.to_vec();
    let mut chosen = Vec::with_capacity(count);
    for _ in 0..count {
        all.sort_unstable();
        let token = match widest_gap(&all) {
            None => Position(prng.next_u64()),
            // The middle half of the gap, so that the halves differ by at most 3 to 1 and two racers almost surely
            // differ.
            Some((low, width)) => Position(low.0.wrapping_add(width / 4).wrapping_add(prng.below(width / 2).max(1))),
        };
        if !all.contains(&token) {
            all.push(token);
            chosen.push(token);
        }
    }
    chosen
}

/// The start and width of the widest gap between neighbours of a sorted list.
fn widest_gap(sorted: &[Position]) -> Option<(Position, u64)> {
    let count = sorted.len();
    let gaps = (0..count).map(|at| {
        let next = sorted[(at + 1) % count];
        let width = if count == 1 { u64::MAX } else { sorted[at].distance_to(next) };
        (sorted[at], width)
    });
    gaps.max_by_key(|(_, width)| *width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterId, Epoch, Member, NodeId, View};

    #[test]
    fn the_load_is_more_even_than_chance() {
        let mut prng = Prng::from_seed(3);
        let mut view = View { epoch: Epoch(1), ..View::forming(ClusterId(1), 3, 5, 0) };
        for id in 1..=5 {
            let taken: Vec<Position> = view.members.iter().flat_map(|member| member.tokens.clone()).collect();
            let tokens = choose_tokens(&taken, 16, &mut prng);
            assert_eq!(tokens.len(), 16);
            view.members.push(Member { id: NodeId(id), name: format!("n{id}"), zone: None, tokens });
        }
        view.validate().expect("tokens are distinct");
        let ring = view.ring();
        let fullest = view.members.iter().map(|member| ring.share_of(member.id)).fold(0.0, f64::max);
        assert!(fullest < 0.2 * 1.5, "the fullest of five holds {fullest}");
    }
}
