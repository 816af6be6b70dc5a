use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::map::{Map, Set};

/// What is said about a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDefinition {
    /// A UUID, drawn by the shell.
    pub id: String,
    /// What people call it; may be empty.
    pub name: String,
    /// The node it lives on, which must be known.
    pub node: String,
    /// How long nobody gets its locks after its end.
    pub lock_delay: Duration,
    /// What becomes of the pairs it has locked.
    pub behavior: Behavior,
    /// How long it lives without being renewed, as a lower bound; none for as long as its checks last.
    pub ttl: Option<Duration>,
    /// Checks of its node, by id; it ends when one of them is critical or gone.
    pub node_checks: Vec<String>,
    /// The same for checks of instances.
    pub service_checks: Vec<String>,
}

/// What becomes of the pairs that a session has locked when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// They stay, unlocked.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

impl Behavior {
    /// Consul's word.
    pub fn word(self) -> &'static str {
        match self {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        }
    }
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What was said about it.
    pub definition: SessionDefinition,
    /// The index at which it came. A session never changes.
    pub create_index: u64,
}

/// The sessions. Ids that are gone leave no entry; `gone` then stands for all of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sessions {
    by_id: Map<String, Session>,
    by_node: Map<String, Set<String>>,
    changed: u64,
    gone: u64,
}

impl Sessions {
    pub(crate) fn get(&self, id: &str) -> Option<&Session> {
        self.by_id.get(id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Session> {
        self.by_id.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.size()
    }

    /// Those on a node, by id.
    pub(crate) fn on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Session> {
        let ids = self.by_node.get(node).into_iter().flat_map(Set::iter);
        ids.filter_map(|id| self.by_id.get(id))
    }

    pub(crate) fn insert(&mut self, definition: SessionDefinition, at: u64) {
        let (id, node) = (definition.id.clone(), definition.node.clone());
        let mut ids = self.by_node.get(&node).cloned().unwrap_or_default();
        ids.insert_mut(id.clone());
        self.by_node.insert_mut(node, ids);
        self.by_id.insert_mut(id, Session { definition, create_index: at });
        self.changed = at;
    }

    pub(crate) fn remove(&mut self, id: &str, at: u64) -> Option<Session> {
        let session = self.by_id.get(id)?.clone();
        self.by_id.remove_mut(id);
        let node = &session.definition.node;
        if let Some(mut ids) = self.by_node.get(node).cloned() {
            ids.remove_mut(id);
            if ids.is_empty() {
                self.by_node.remove_mut(node);
            } else {
                self.by_node.insert_mut(node.clone(), ids);
            }
        }
        self.changed = at;
        self.gone = at;
        Some(session)
    }

    pub(crate) fn index(&self) -> u64 {
        self.changed
    }

    pub(crate) fn index_of(&self, id: &str) -> u64 {
        self.by_id.get(id).map_or(self.gone, |session| session.create_index)
    }
}
