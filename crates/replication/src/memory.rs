//! The request memory: which requests a register's value already contains, so that a retry acts once.
//!
//! It is part of the register's agreed state, not a table beside it: only what travels with the value can tell whether
//! *this* value contains a request. It is bounded in number and in age; what was forgotten is covered by a horizon, and
//! a retry from before the horizon is refused instead of applied a second time.

use crate::types::{Effect, RequestId};

/// One remembered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remembered {
    /// The request.
    pub request: RequestId,
    /// When its first attempt was received, milliseconds of the Unix epoch.
    pub first_sent_ms: u64,
    /// How it acted.
    pub effect: Effect,
}

/// The requests that a value contains, oldest applied first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestMemory {
    /// At most [`REQUESTS_MAX`] entries.
    pub entries: Vec<Remembered>,
    /// The newest `first_sent_ms` among those that were forgotten; 0 when none was.
    pub horizon_ms: u64,
}

/// Entries a register remembers at most. Past it, the oldest is forgotten and the horizon moves.
pub const REQUESTS_MAX: usize = 256;
/// How long an entry is kept at least, unless pushed out for room: ten minutes.
pub const REQUESTS_AGE_MAX_MS: u64 = 600_000;

impl RequestMemory {
    /// How the request acted, if this value contains it.
    pub fn find(&self, request: RequestId) -> Option<Effect> {
        // Retries are recent: look from the newest.
        self.entries.iter().rev().find(|entry| entry.request == request).map(|entry| entry.effect)
    }

    /// Whether a retry first sent at this time may have been forgotten.
    pub fn may_have_forgotten(&self, first_sent_ms: u64) -> bool {
        first_sent_ms <= self.horizon_ms
    }

    /// Whether all that is remembered is older than a retry may be, by a clock that shows `wall_ms`.
    pub(crate) fn has_lapsed(&self, wall_ms: u64) -> bool {
        let oldest_kept = wall_ms.saturating_sub(REQUESTS_AGE_MAX_MS);
        self.horizon_ms < oldest_kept && self.entries.iter().all(|known| known.first_sent_ms < oldest_kept)
    }

    /// Adds a request that the value now contains, and forgets those older than ten minutes or too many.
    pub fn remember(&mut self, entry: Remembered, wall_ms: u64) {
        let oldest_kept = wall_ms.saturating_sub(REQUESTS_AGE_MAX_MS);
        let mut forgotten = self.horizon_ms;
        // Whatever the reason: a clock that is behind makes an entry look old that has just been made.
        self.entries.retain(|known| {
            let kept = known.first_sent_ms >= oldest_kept;
            forgotten = if kept { forgotten } else { forgotten.max(known.first_sent_ms) };
            kept
        });
        if self.entries.len() >= REQUESTS_MAX {
            forgotten = forgotten.max(self.entries.remove(0).first_sent_ms);
        }
        self.horizon_ms = forgotten;
        self.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Version;

    fn entry(id: u128, first_sent_ms: u64) -> Remembered {
        Remembered { request: RequestId(id), first_sent_ms, effect: Effect::Deleted(Version::default()) }
    }

    #[test]
    fn what_is_pushed_out_moves_the_horizon() {
        let mut memory = RequestMemory::default();
        for id in 0..=REQUESTS_MAX as u64 {
            memory.remember(entry(u128::from(id), 1_000 + id), 2_000);
        }
        assert_eq!(memory.entries.len(), REQUESTS_MAX);
        assert_eq!(memory.find(RequestId(0)), None);
        assert!(memory.may_have_forgotten(1_000), "the forgotten one is not told from a new one");
        assert!(!memory.may_have_forgotten(1_001));
        assert!(memory.find(RequestId(5)).is_some());
    }

    #[test]
    fn a_memory_has_lapsed_when_its_newest_entry_and_its_horizon_have() {
        let mut memory = RequestMemory::default();
        memory.remember(entry(1, 1_000), 1_000);
        memory.remember(entry(2, 5_000), 5_000);
        assert!(!memory.has_lapsed(5_000 + REQUESTS_AGE_MAX_MS));
        assert!(memory.has_lapsed(5_001 + REQUESTS_AGE_MAX_MS));
        memory.horizon_ms = 7_000;
        assert!(!memory.has_lapsed(5_001 + REQUESTS_AGE_MAX_MS), "what was pushed out may come again too");
    }

    #[test]
    fn what_is_forgotten_for_its_age_moves_the_horizon_too() {
        let mut memory = RequestMemory::default();
        memory.remember(entry(1, 1_000), 1_000);
        memory.remember(entry(2, 1_000 + REQUESTS_AGE_MAX_MS + 1), 1_000 + REQUESTS_AGE_MAX_MS + 1);
        assert_eq!(memory.entries.len(), 1);
        assert_eq!(memory.horizon_ms, 1_000);
    }
}
