//! Which nodes hold an arc: one rule for the view and for whoever chooses tokens, in a walk that ends as soon as it
//! may.

/// What a walk along the ring found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaSet {
    /// The members chosen, the owner first.
    pub members: Vec<usize>,
    /// How many tokens the walk looked at, the first one included. A change beyond them cannot change the set.
    pub walked: usize,
}

/// The first `replication` distinct members that `tokens` names in order, in distinct zones as long as there are any.
///
/// `tokens` is the owner of each token from the arc's own on, once round. `zone_of` gives a member's zone, where known;
/// `zones` is how many different zones there are, each member without one counted by itself: when all of them are met,
/// the nearest members left fill up the set.
pub(crate) fn walk(
    tokens: impl Iterator<Item = usize>,
    zone_of: impl Fn(usize) -> Option<usize>,
    replication: usize,
    zones: usize,
) -> ReplicaSet {
    let mut chosen: Vec<usize> = Vec::with_capacity(replication);
    let mut spare: Vec<usize> = Vec::new();
    let mut walked = 0;
    for member in tokens {
        walked += 1;
        if !chosen.contains(&member) && !spare.contains(&member) {
            let zone = zone_of(member);
            let zone_taken = zone.is_some() && chosen.iter().any(|other| zone_of(*other) == zone);
            match zone_taken {
                false => chosen.push(member),
                true if spare.len() < replication => spare.push(member),
                true => {}
            }
        }
        if chosen.len() >= replication.min(zones) && chosen.len() + spare.len() >= replication {
            break;
        }
    }
    // Fewer zones than copies: fill up with the nearest members that are left.
    let missing = replication.saturating_sub(chosen.len());
    chosen.extend(spare.into_iter().take(missing));
    ReplicaSet { members: chosen, walked }
}

/// Members' zones as numbers, and how many different ones there are; see [`walk`].
pub(crate) fn number_zones<'a>(zones: impl Iterator<Item = Option<&'a str>>) -> (Vec<Option<usize>>, usize) {
    let mut known: Vec<&str> = Vec::new();
    let mut without = 0;
    let numbers = zones.map(|zone| {
        let Some(zone) = zone else {
            without += 1;
            return None;
        };
        let at = known.iter().position(|other| *other == zone);
        Some(at.unwrap_or_else(|| {
            known.push(zone);
            known.len() - 1
        }))
    });
    let numbers = numbers.collect();
    (numbers, known.len() + without)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(tokens: &[usize], zones: &[Option<&str>], replication: usize) -> (Vec<usize>, usize) {
        let (numbers, count) = number_zones(zones.iter().copied());
        let found = walk(tokens.iter().copied(), |member| numbers[member], replication, count);
        (found.members, found.walked)
    }

    #[test]
    fn a_walk_ends_as_soon_as_its_set_is_full() {
        let none = [None; 5];
        assert_eq!(set(&[0, 0, 1, 2, 3, 4], &none, 3), (vec![0, 1, 2], 4));
        assert_eq!(set(&[0, 1, 0, 1], &none, 3), (vec![0, 1], 4), "there are no more");
    }

    #[test]
    fn zones_are_distinct_while_there_are_any() {
        let zones = [Some("a"), Some("a"), Some("b"), Some("c")];
        assert_eq!(set(&[0, 1, 2, 3], &zones, 3), (vec![0, 2, 3], 4));
        let two = [Some("a"), Some("a"), Some("b"), Some("b")];
        assert_eq!(set(&[0, 1, 2, 3], &two, 3), (vec![0, 2, 1], 3), "the nearest fills up");
        let mixed = [Some("a"), Some("a"), None, None];
        assert_eq!(set(&[0, 1, 2, 3], &mixed, 3), (vec![0, 2, 3], 4));
    }
}
