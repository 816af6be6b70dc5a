use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stdx::Instant;

use crate::roster::Roster;

/// How far back an origin's proposals are told apart one by one. Whoever proposes keeps its open ones within it.
pub(crate) const MEMORY: u64 = 8_192;
/// Origins that are remembered: starts of replicas that proposed something.
const ORIGINS_MAX: usize = 64;

/// What replicas agree on beside the state machine itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Agreed {
    pub(crate) roster: Roster,
    /// The registry's clock at the last entry, in nanoseconds.
    pub(crate) clock: u64,
    origins: BTreeMap<u64, Origin>,
}

/// Which of an origin's proposals have acted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Origin {
    highest: u64,
    /// As ranges, both ends included, the key being the first: nearly all numbers act, and in order.
    acted: BTreeMap<u64, u64>,
    last_index: u64,
}

impl Origin {
    fn insert(&mut self, number: u64) {
        let before = self.acted.range(..number).next_back().map(|(first, last)| (*first, *last));
        let mut first = number;
        if let Some((start, last)) = before
            && last + 1 >= number
        {
            if last >= number {
                return;
            }
            first = start;
        }
        let last = self.acted.remove(&(number + 1)).unwrap_or(number);
        self.acted.insert(first, last);
        while let Some(oldest) = self.acted.first_entry().filter(|oldest| *oldest.get() + MEMORY <= self.highest) {
            oldest.remove();
        }
    }
}

impl Agreed {
    pub(crate) fn clock(&self) -> Instant {
        Instant::from_nanos(self.clock)
    }

    /// Whether a proposal has acted, or is too old to tell.
    pub(crate) fn has_acted(&self, origin: u64, number: u64) -> bool {
        self.origins.get(&origin).is_some_and(|held| {
            let range = held.acted.range(..=number).next_back();
            range.is_some_and(|(_, last)| number <= *last) || number + MEMORY <= held.highest
        })
    }

    /// Notes that a proposal acts at `index`.
    pub(crate) fn note(&mut self, origin: u64, number: u64, index: u64) {
        let held = self.origins.entry(origin).or_default();
        held.highest = held.highest.max(number);
        held.last_index = index;
        held.insert(number);
        if self.origins.len() > ORIGINS_MAX {
            let oldest = self.origins.iter().min_by_key(|(_, held)| held.last_index).map(|(origin, _)| *origin);
            self.origins.remove(&oldest.unwrap_or_default());
        }
    }

    /// With the state machine's image, as one piece.
    pub(crate) fn image(&self, machine: &[u8]) -> Vec<u8> {
        let own = serde_json::to_vec(self).expect("its keys are numbers, which JSON takes as text");
        let mut image = Vec::with_capacity(own.len() + machine.len() + 8);
        image.extend_from_slice(&(own.len() as u64).to_le_bytes());
        image.extend_from_slice(&own);
        image.extend_from_slice(machine);
        image
    }

    /// Takes an image apart.
    pub(crate) fn split(image: &[u8]) -> Result<(Agreed, &[u8]), String> {
        let short = || "it is cut short".to_owned();
        let (head, rest) = image.split_first_chunk::<8>().ok_or_else(short)?;
        let length = usize::try_from(u64::from_le_bytes(*head)).map_err(|_| short())?;
        let (own, machine) = rest.split_at_checked(length).ok_or_else(short)?;
        let agreed = serde_json::from_slice(own).map_err(|error| error.to_string())?;
        Ok((agreed, machine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proposal_acts_once_however_late_it_comes_again() {
        let mut agreed = Agreed::default();
        for number in (1..=2 * MEMORY).rev().step_by(3) {
            if !agreed.has_acted(7, number) {
                agreed.note(7, number, number);
            }
            assert!(agreed.has_acted(7, number));
        }
        assert!(!agreed.has_acted(7, 2 * MEMORY - 1), "one that has not come yet");
        assert!(agreed.has_acted(7, 1), "one so old that nobody can tell");
        assert!(!agreed.has_acted(8, 1), "another origin");
        assert!(agreed.origins[&7].acted.len() as u64 <= MEMORY);
        for number in 1..=5_000 {
            agreed.note(9, number, number);
        }
        assert_eq!(agreed.origins[&9].acted.len(), 1, "what acted in order takes no room");
    }

    #[test]
    fn origins_are_bounded_and_the_image_is_whole() {
        let mut agreed = Agreed::default();
        for origin in 1..=ORIGINS_MAX as u64 + 9 {
            agreed.note(origin, 1, origin);
        }
        assert_eq!(agreed.origins.len(), ORIGINS_MAX);
        assert!(!agreed.has_acted(9, 1) && agreed.has_acted(10, 1), "the oldest go first");
        let image = agreed.image(b"machine");
        let (read, machine) = Agreed::split(&image).expect("its own image");
        assert_eq!((read.image(machine), machine), (image.clone(), &b"machine"[..]));
        for end in 0..image.len() - b"machine".len() {
            assert!(Agreed::split(&image[..end]).is_err(), "{end}");
        }
    }
}
