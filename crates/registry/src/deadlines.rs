use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stdx::Instant;

use crate::map::{Map, Set};

/// A check's place: its node and its id.
pub(crate) type CheckKey = (String, String);

/// What has a deadline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Due {
    /// A check's TTL runs out, or its instance was critical for too long. Which of the two follows from its state.
    Check(CheckKey),
    /// A session was not renewed for too long.
    Session(String),
}

/// When each thing must next be looked at; at most one deadline each. They are part of the state: a copy that is made
/// from a snapshot acts at the same time as the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    by_due: Map<Due, Instant>,
    by_time: Set<(Instant, Due)>,
}

impl Deadlines {
    /// Sets or, with none, removes a deadline.
    pub(crate) fn set(&mut self, due: &Due, at: Option<Instant>) {
        if let Some(before) = self.by_due.get(due).copied() {
            self.by_due.remove_mut(due);
            self.by_time.remove_mut(&(before, due.clone()));
        }
        if let Some(at) = at {
            self.by_due.insert_mut(due.clone(), at);
            self.by_time.insert_mut((at, due.clone()));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Removes and gives what is due at `now`, the longest overdue first.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        let (at, due) = self.by_time.first().cloned()?;
        if at > now {
            return None;
        }
        self.set(&due, None);
        Some(due)
    }
}

/// As a list of pairs: what has a deadline is no text, which JSON's maps want.
impl Serialize for Deadlines {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.by_due.iter().map(|(due, at)| (due, at.as_nanos())))
    }
}

impl<'de> Deserialize<'de> for Deadlines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Deadlines, D::Error> {
        let mut deadlines = Deadlines::default();
        for (due, nanos) in Vec::<(Due, u64)>::deserialize(deserializer)? {
            deadlines.set(&due, Some(Instant::from_nanos(nanos)));
        }
        Ok(deadlines)
    }
}
