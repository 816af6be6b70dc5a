use std::collections::{BTreeMap, BTreeSet};

use stdx::Instant;

/// A check's place: its node and its id.
pub(crate) type CheckKey = (String, String);

/// When each check must next be looked at: its TTL runs out, or its instance was critical for too long. Which of the
/// two follows from its state. At most one deadline a check.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    by_check: BTreeMap<CheckKey, Instant>,
    by_time: BTreeSet<(Instant, CheckKey)>,
}

impl Deadlines {
    /// Sets or, with none, removes the deadline of a check.
    pub(crate) fn set(&mut self, check: &CheckKey, at: Option<Instant>) {
        if let Some(before) = self.by_check.remove(check) {
            self.by_time.remove(&(before, check.clone()));
        }
        if let Some(at) = at {
            self.by_check.insert(check.clone(), at);
            self.by_time.insert((at, check.clone()));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Removes and gives a check that is due at `now`, the longest overdue first.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<CheckKey> {
        let (at, check) = self.by_time.first().cloned()?;
        if at > now {
            return None;
        }
        self.set(&check, None);
        Some(check)
    }
}
