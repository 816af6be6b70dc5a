use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// A message to whoever listens. Only the youngest are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// A UUID, drawn by the shell.
    pub id: String,
    /// What it is about.
    pub name: String,
    /// Anything.
    #[serde(with = "crate::map::bytes")]
    pub payload: Vec<u8>,
    /// For which nodes it is meant: a regular expression, judged by who listens.
    pub node_filter: String,
    /// For which services.
    pub service_filter: String,
    /// For which tags.
    pub tag_filter: String,
}

/// How many events are kept, as in Consul.
const EVENTS_MAX: usize = 256;

/// The youngest events with the index of each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Events(VecDeque<(u64, Event)>);

impl Events {
    pub(crate) fn all(&self) -> impl Iterator<Item = &(u64, Event)> {
        self.0.iter()
    }

    pub(crate) fn fire(&mut self, event: Event, at: u64) {
        if self.0.len() >= EVENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((at, event));
    }

    pub(crate) fn index(&self) -> u64 {
        self.0.back().map_or(0, |(index, _)| *index)
    }
}
