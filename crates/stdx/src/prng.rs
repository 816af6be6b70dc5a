use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The seeded source of chance that a core is given when it is made.
///
/// ChaCha8 gives the same sequence on every platform and in every release, so a printed seed replays a run anywhere.
#[derive(Clone, Debug)]
pub struct Prng(ChaCha8Rng);

impl Prng {
    /// The generator that `seed` names.
    pub fn from_seed(seed: u64) -> Prng {
        Prng(ChaCha8Rng::seed_from_u64(seed))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, each equally likely (to within 2^-64 of it); 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the wide product: no modulo bias worth naming, and exactly one draw a call, so that a
        // change of bounds does not shift the rest of a replayed sequence.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An index below `len`, which must not be 0.
    pub fn index(&mut self, len: usize) -> usize {
        assert!(len > 0, "an empty list has no index to draw");
        self.below(len as u64) as usize
    }

    /// True once in `one_in` draws on average.
    pub fn one_in(&mut self, one_in: u64) -> bool {
        self.below(one_in.max(1)) == 0
    }

    /// True with probability `p` (0 to 1).
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A generator of its own, for a part whose number of draws must not move those of the others.
    pub fn fork(&mut self) -> Prng {
        Prng::from_seed(self.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_sequence() {
        let draws = |seed| {
            let mut prng = Prng::from_seed(seed);
            (0..4).map(|_| prng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn below_covers_its_range_and_no_more() {
        let mut prng = Prng::from_seed(1);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[prng.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(prng.below(0), 0);
    }
}
