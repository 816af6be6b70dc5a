//! What a session had written or seen before it did something, asked many times of one history.

use std::collections::{BTreeSet, HashMap};

use crate::claims::{ABSENT, Claims, Seen, Word};

/// Answers by looking up, instead of by walking the history each time.
#[derive(Debug)]
pub(crate) struct Sight<'c, 'a> {
    claims: &'c Claims<'a>,
    /// Where a chain first saw a word of a key.
    first: HashMap<(u32, u32, Word), u32>,
    /// Keys on which some read showed several values keep concurrent writes; the others settle on one.
    siblings: BTreeSet<u32>,
}

impl<'c, 'a> Sight<'c, 'a> {
    pub fn of(claims: &'c Claims<'a>) -> Sight<'c, 'a> {
        let (mut first, mut siblings) = (HashMap::new(), BTreeSet::new());
        for claim in &claims.claims {
            for word in words(&claim.seen) {
                first.entry((claim.chain, claim.key, *word)).or_insert(claim.place);
            }
            if matches!(claim.seen, Seen::Siblings(_)) {
                siblings.insert(claim.key);
            }
        }
        Sight { claims, first, siblings }
    }

    /// Whether values of the key stay side by side.
    pub fn keeps_siblings(&self, key: u32) -> bool {
        self.siblings.contains(&key)
    }

    /// Whether the session of `by` had itself made the write `writer` before.
    pub fn had_written(&self, by: u32, writer: u32) -> bool {
        let (chain, last) = self.before(by);
        let written = &self.claims.claims[writer as usize];
        written.chain == chain && written.place <= last
    }

    /// Whether `by` itself, or its session before, had seen what `writer` wrote to the same key.
    pub fn had_seen(&self, by: u32, writer: u32) -> bool {
        let (chain, last) = self.before(by);
        let own = &self.claims.claims[by as usize];
        let word = self.claims.claims[writer as usize].wrote.unwrap_or(ABSENT);
        words(&own.seen).contains(&word) || self.first.get(&(chain, own.key, word)).is_some_and(|first| *first <= last)
    }

    /// The chain and the place in it up to which all came before the claim. One of unknown outcome stands alone, after
    /// what its session did before.
    fn before(&self, index: u32) -> (u32, u32) {
        let claim = &self.claims.claims[index as usize];
        match claim.after {
            Some(before) => (self.claims.claims[before as usize].chain, self.claims.claims[before as usize].place),
            None => (claim.chain, claim.place.saturating_sub(1)),
        }
    }
}

/// The words that were seen, one or several.
pub(crate) fn words(seen: &Seen) -> &[Word] {
    match seen {
        Seen::Equal(word) => std::slice::from_ref(word),
        Seen::Siblings(words) => words,
        Seen::Nothing | Seen::NotEqual(_) => &[],
    }
}
