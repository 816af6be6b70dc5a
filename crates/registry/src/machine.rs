use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stdx::Instant;

use crate::acl::{Acl, Authorizer, Policy, Token};
use crate::acl_rules::Access;
use crate::catalog::{Catalog, NodeRecord};
use crate::deadlines::Deadlines;
use crate::event::{Event, Events};
use crate::kv::{Kv, KvEntry};
use crate::map::Set;
use crate::model::{Check, Node, Service};
use crate::session::{Session, Sessions};
use crate::watch::Watch;

/// How much the registry takes in. What is over is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes.
    pub nodes_max: usize,
    /// Instances of services, over all nodes.
    pub services_max: usize,
    /// Checks, over all nodes.
    pub checks_max: usize,
    /// Pairs of the KV store.
    pub keys_max: usize,
    /// Bytes of all keys and values: the whole state is written at each change.
    pub kv_bytes_max: usize,
    /// Remembered deletions of keys; see the crate's invariants.
    pub tombstones_max: usize,
    /// Sessions.
    pub sessions_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            nodes_max: 1_000,
            services_max: 20_000,
            checks_max: 60_000,
            keys_max: 100_000,
            kv_bytes_max: 64 << 20,
            tombstones_max: 10_000,
            sessions_max: 20_000,
        }
    }
}

/// The registry's state machine. A copy costs next to nothing.
#[derive(Clone, Debug)]
pub struct Registry {
    pub(crate) state: State,
    pub(crate) changes: BTreeSet<Watch>,
    pub(crate) limits: Limits,
}

/// What a snapshot holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The index of the last change; each change gets the next one. Begins at 1, which is shown for what never changed,
    /// so that the very first change is greater than what a reader waits with.
    pub(crate) index: u64,
    /// No watch's index is below this one: all was replaced there.
    pub(crate) floor: u64,
    /// The latest time that was given, in nanoseconds. What is earlier (another machine's clock) counts as this.
    pub(crate) clock: u64,
    pub(crate) catalog: Catalog,
    pub(crate) kv: Kv,
    pub(crate) sessions: Sessions,
    pub(crate) events: Events,
    pub(crate) acl: Acl,
    pub(crate) deadlines: Deadlines,
    /// Checks that follow others, which have to be looked at when those change.
    pub(crate) aliases: Set<(String, String)>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::new()
    }
}

impl Registry {
    /// An empty registry with the default limits.
    pub fn new() -> Registry {
        Registry::with_limits(Limits::default())
    }

    /// An empty registry.
    pub fn with_limits(limits: Limits) -> Registry {
        let state = State { index: 1, ..State::default() };
        Registry { state, changes: BTreeSet::new(), limits }
    }

    /// What the last command changed. The shell wakes the readers of these and of nothing else, and asks after each
    /// command.
    pub fn take_changes(&mut self) -> BTreeSet<Watch> {
        std::mem::take(&mut self.changes)
    }

    /// When [`crate::Command::Tick`] is next due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.state.deadlines.next()
    }

    /// The index of the last change of all.
    pub fn index(&self) -> u64 {
        self.state.index
    }

    /// The index of what `watch` shows: at least 1, and greater after each change of it.
    pub fn index_of(&self, watch: &Watch) -> u64 {
        let index = match watch {
            Watch::Everything => self.state.index,
            Watch::Key(key) => self.state.kv.index_of_key(key),
            Watch::Prefix(prefix) => self.state.kv.index_of_prefix(prefix),
            Watch::Sessions => self.state.sessions.index(),
            Watch::Session(id) => self.state.sessions.index_of(id),
            Watch::Events => self.state.events.index(),
            _ => self.state.catalog.index_of(watch),
        };
        index.max(self.state.floor).max(1)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.state.catalog.nodes().map(|record| &record.node)
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.record(name).map(|record| &record.node)
    }

    /// The instances on a node, by id.
    pub fn services_on(&self, node: &str) -> impl Iterator<Item = &Service> {
        self.record(node).into_iter().flat_map(|record| record.services.values())
    }

    /// The instance with this id on a node.
    pub fn service_on(&self, node: &str, id: &str) -> Option<&Service> {
        self.record(node)?.services.get(id)
    }

    /// The checks on a node, by id.
    pub fn checks_on(&self, node: &str) -> impl Iterator<Item = &Check> {
        self.record(node).into_iter().flat_map(|record| record.checks.values())
    }

    /// The instances of a service with their nodes, by node and id.
    pub fn instances_of(&self, name: &str) -> impl Iterator<Item = (&Node, &Service)> {
        self.state.catalog.instances_of(name)
    }

    /// The names of all services, in order.
    pub fn service_names(&self) -> impl Iterator<Item = &String> {
        self.state.catalog.service_names()
    }

    /// The names of all services, each with all the tags of its instances.
    pub fn service_tags(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for service in self.state.catalog.nodes().flat_map(|record| record.services.values()) {
            let tags = names.entry(service.definition.name.clone()).or_default();
            tags.extend(service.definition.tags.iter().cloned());
        }
        names
    }

    /// The pair under a key.
    pub fn kv(&self, key: &str) -> Option<&KvEntry> {
        self.state.kv.get(key)
    }

    /// The pairs under a prefix, in key order.
    pub fn kv_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KvEntry)> {
        self.state.kv.under(prefix)
    }

    /// All sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.state.sessions.all()
    }

    /// The sessions on a node.
    pub fn sessions_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Session> {
        self.state.sessions.on(node)
    }

    /// The session with this id.
    pub fn session(&self, id: &str) -> Option<&Session> {
        self.state.sessions.get(id)
    }

    /// The events with the index of each, the youngest last.
    pub fn events(&self) -> impl Iterator<Item = &(u64, Event)> {
        self.state.events.all()
    }

    /// The policies of the access lists, but for the built-in one.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.state.acl.policies()
    }

    /// The policy with this id.
    pub fn policy(&self, id: &str) -> Option<&Policy> {
        self.state.acl.policy(id)
    }

    /// The tokens of the access lists.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.state.acl.tokens()
    }

    /// The token with this accessor.
    pub fn token(&self, accessor: &str) -> Option<&Token> {
        self.state.acl.token(accessor)
    }

    /// The token that is used by this secret; the anonymous one, if it has been set, without a secret.
    pub fn token_of(&self, secret: &str) -> Option<&Token> {
        self.state.acl.token_of(secret)
    }

    /// Whether there was a first token that manages.
    pub fn is_acl_bootstrapped(&self) -> bool {
        self.state.acl.bootstrapped() != 0
    }

    /// What the holder of a secret may do; `default` where no rule says anything. None: there is no such token.
    pub fn authorizer(&self, secret: &str, default: Access) -> Option<Authorizer> {
        self.state.acl.authorizer(secret, default)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn from_state(state: State, limits: Limits) -> Registry {
        Registry { state, changes: BTreeSet::new(), limits }
    }

    pub(crate) fn record(&self, node: &str) -> Option<&NodeRecord> {
        self.state.catalog.node(node)
    }
}
