use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stdx::Instant;

use crate::catalog::{Catalog, NodeRecord};
use crate::command::{Answer, Command, Refusal};
use crate::deadlines::{CheckKey, Deadlines};
use crate::kv::{Kv, KvChange, KvEntry};
use crate::model::{Check, CheckDefinition, Node, Service, ServiceDefinition, Status};
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            nodes_max: 1_000,
            services_max: 10_000,
            checks_max: 20_000,
            keys_max: 100_000,
            kv_bytes_max: 64 << 20,
            tombstones_max: 10_000,
        }
    }
}

/// The registry's state machine.
#[derive(Clone, Debug)]
pub struct Registry {
    state: State,
    deadlines: Deadlines,
    changes: BTreeSet<Watch>,
    limits: Limits,
}

/// What a snapshot holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The index of the last change; each change gets the next one. Begins at 1, which is shown for what never changed,
    /// so that the very first change is greater than what a reader waits with.
    pub(crate) index: u64,
    catalog: Catalog,
    kv: Kv,
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
        let state = State { index: 1, catalog: Catalog::default(), kv: Kv::default() };
        Registry { state, deadlines: Deadlines::default(), changes: BTreeSet::new(), limits }
    }

    /// Does what `command` says, at `now`, or says why not. A command that changes nothing uses no index.
    pub fn apply(&mut self, now: Instant, command: Command) -> Answer {
        let at = self.state.index + 1;
        assert!(self.changes.is_empty(), "the shell takes the changes of each command before the next");
        let answer = match command {
            Command::RegisterNode(definition) => self.register_node(definition, at),
            Command::DeregisterNode { node } => self.deregister_node(&node, at),
            Command::RegisterService { node, service, checks, replace_checks } => {
                self.register_service(now, &node, service, checks, replace_checks, at)
            }
            Command::DeregisterService { node, id } => self.deregister_service(&node, &id, at),
            Command::RegisterCheck { node, check } => self.register_check(now, &node, check, at),
            Command::DeregisterCheck { node, id } => self.deregister_check(&node, &id, at),
            Command::UpdateCheck { node, id, status, output } => {
                self.update_check(now, &(node, id), status, output, at)
            }
            Command::KvPut(write) => {
                let change = self.state.kv.put(write, at, &self.limits);
                self.note_keys(change)
            }
            Command::KvDelete { key, cas } => {
                let change = self.state.kv.delete(&key, cas, at, &self.limits);
                self.note_keys(change)
            }
            Command::KvDeleteTree { prefix } => {
                let change = self.state.kv.delete_tree(&prefix, at, &self.limits);
                self.note_keys(change)
            }
            Command::Tick => self.tick(now, at),
        };
        if !self.changes.is_empty() {
            self.state.index = at;
        }
        answer
    }

    /// What the last command changed. The shell wakes the readers of these and of nothing else, and asks after each
    /// command.
    pub fn take_changes(&mut self) -> BTreeSet<Watch> {
        std::mem::take(&mut self.changes)
    }

    /// When [`Command::Tick`] is next due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// The index of the last change of all.
    pub fn index(&self) -> u64 {
        self.state.index
    }

    /// The index of what `watch` shows: at least 1, and greater after each change of it.
    pub fn index_of(&self, watch: &Watch) -> u64 {
        let index = match watch {
            Watch::Key(key) => self.state.kv.index_of_key(key),
            Watch::Prefix(prefix) => self.state.kv.index_of_prefix(prefix),
            _ => self.state.catalog.index_of(watch),
        };
        index.max(1)
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
        let of_node = move |record: &'_ NodeRecord| {
            record.services.values().filter(|service| service.definition.name == name).count() > 0
        };
        self.state.catalog.nodes().filter(move |record| of_node(record)).flat_map(move |record| {
            let services = record.services.values().filter(move |service| service.definition.name == name);
            services.map(move |service| (&record.node, service))
        })
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
    pub fn kv_under(&self, prefix: &str) -> impl Iterator<Item = (&String, &KvEntry)> {
        self.state.kv.under(prefix)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// The registry that goes on from `state` at `now`, each check with a fresh deadline.
    pub(crate) fn from_state(state: State, now: Instant, limits: Limits) -> Registry {
        let mut registry = Registry { state, ..Registry::with_limits(limits) };
        let keys = registry
            .state
            .catalog
            .nodes()
            .flat_map(|record| record.checks.keys().map(|id| (record.node.definition.name.clone(), id.clone())));
        for key in keys.collect::<Vec<CheckKey>>() {
            registry.arm(now, &key);
        }
        registry
    }

    fn record(&self, node: &str) -> Option<&NodeRecord> {
        self.state.catalog.node(node)
    }

    fn note(&mut self, changes: BTreeSet<Watch>) {
        self.changes.extend(changes);
    }

    fn note_keys(&mut self, change: KvChange) -> Answer {
        self.note(change.keys.into_iter().map(Watch::Key).collect());
        change.answer
    }

    fn register_node(&mut self, definition: crate::model::NodeDefinition, at: u64) -> Answer {
        let most = self.limits.nodes_max;
        if self.record(&definition.name).is_none() && self.nodes().count() >= most {
            return Answer::Refused(Refusal::Full { what: "nodes", most });
        }
        let changes = self.state.catalog.put_node(definition, at);
        self.note(changes);
        Answer::Done
    }

    fn deregister_node(&mut self, node: &str, at: u64) -> Answer {
        let checks: Vec<String> = self.checks_on(node).map(|check| check.definition.id.clone()).collect();
        for id in checks {
            self.deadlines.set(&(node.to_owned(), id), None);
        }
        let changes = self.state.catalog.remove_node(node, at);
        self.note(changes);
        Answer::Done
    }

    fn register_service(
        &mut self,
        now: Instant,
        node: &str,
        service: ServiceDefinition,
        checks: Vec<CheckDefinition>,
        replace_checks: bool,
        at: u64,
    ) -> Answer {
        let Some(record) = self.record(node) else {
            return Answer::Refused(Refusal::UnknownNode(node.to_owned()));
        };
        let limits = self.limits;
        let new_service = !record.services.contains_key(&service.id);
        let new_checks = checks.iter().filter(|check| !record.checks.contains_key(&check.id)).count();
        if new_service && self.state.catalog.services_len() >= limits.services_max {
            return Answer::Refused(Refusal::Full { what: "services", most: limits.services_max });
        }
        if self.state.catalog.checks_len() + new_checks > limits.checks_max {
            return Answer::Refused(Refusal::Full { what: "checks", most: limits.checks_max });
        }
        let named: BTreeSet<&String> = checks.iter().map(|check| &check.id).collect();
        let belongs = |check: &&Check| check.definition.service_id.as_deref() == Some(&service.id);
        let left_over = record.checks.values().filter(belongs).map(|check| check.definition.id.clone());
        let dropped: Vec<String> = left_over.filter(|id| replace_checks && !named.contains(id)).collect();
        let service_id = service.id.clone();
        let changes = self.state.catalog.put_service(node, service, at);
        self.note(changes);
        for id in dropped {
            self.deregister_check(node, &id, at);
        }
        for mut check in checks {
            check.service_id = Some(service_id.clone());
            let key = (node.to_owned(), check.id.clone());
            let changes = self.state.catalog.put_check(node, check, true, at);
            self.note(changes);
            self.arm(now, &key);
        }
        Answer::Done
    }

    fn deregister_service(&mut self, node: &str, id: &str, at: u64) -> Answer {
        if self.service_on(node, id).is_none() {
            return Answer::Refused(Refusal::UnknownService(id.to_owned()));
        }
        let belongs = |check: &&Check| check.definition.service_id.as_deref() == Some(id);
        let checks: Vec<String> = self.checks_on(node).filter(belongs).map(|c| c.definition.id.clone()).collect();
        for check in checks {
            self.deadlines.set(&(node.to_owned(), check), None);
        }
        let changes = self.state.catalog.remove_service(node, id, at);
        self.note(changes);
        Answer::Done
    }

    fn register_check(&mut self, now: Instant, node: &str, check: CheckDefinition, at: u64) -> Answer {
        let Some(record) = self.record(node) else {
            return Answer::Refused(Refusal::UnknownNode(node.to_owned()));
        };
        let owner = check.service_id.as_ref().filter(|owner| !record.services.contains_key(*owner));
        if let Some(unknown) = owner {
            return Answer::Refused(Refusal::UnknownService(unknown.clone()));
        }
        let most = self.limits.checks_max;
        if !record.checks.contains_key(&check.id) && self.state.catalog.checks_len() >= most {
            return Answer::Refused(Refusal::Full { what: "checks", most });
        }
        let key = (node.to_owned(), check.id.clone());
        let changes = self.state.catalog.put_check(node, check, false, at);
        self.note(changes);
        self.arm(now, &key);
        Answer::Done
    }

    fn deregister_check(&mut self, node: &str, id: &str, at: u64) -> Answer {
        if self.record(node).is_none_or(|record| !record.checks.contains_key(id)) {
            return Answer::Refused(Refusal::UnknownCheck(id.to_owned()));
        }
        self.deadlines.set(&(node.to_owned(), id.to_owned()), None);
        let changes = self.state.catalog.remove_check(node, id, at);
        self.note(changes);
        Answer::Done
    }

    fn update_check(&mut self, now: Instant, key: &CheckKey, status: Status, output: String, at: u64) -> Answer {
        let Some(check) = self.state.catalog.check_mut(&key.0, &key.1) else {
            return Answer::Refused(Refusal::UnknownCheck(key.1.clone()));
        };
        if check.definition.ttl.is_none() {
            return Answer::Refused(Refusal::NoTtl(key.1.clone()));
        }
        self.set_status(now, key, status, output, at);
        Answer::Done
    }

    /// Gives a check a state and a fresh deadline. Only another status is a change: a renewal must wake nobody.
    fn set_status(&mut self, now: Instant, key: &CheckKey, status: Status, output: String, at: u64) {
        let Some(check) = self.state.catalog.check_mut(&key.0, &key.1) else { return };
        let was = check.status;
        check.status = status;
        check.output = output;
        if was != status {
            check.modify_index = at;
            let changes = self.state.catalog.note_check(&key.0, &key.1, at);
            self.note(changes);
        }
        // Critical again does not put off the end: it counts from when the check turned critical.
        if was != Status::Critical || status != Status::Critical {
            self.arm(now, key);
        }
    }

    /// Sets a check's deadline from its state.
    fn arm(&mut self, now: Instant, key: &CheckKey) {
        let check = self.record(&key.0).and_then(|record| record.checks.get(&key.1));
        let wait = check.and_then(|check| match check.status {
            Status::Passing | Status::Warning => check.definition.ttl,
            Status::Critical => check.definition.deregister_after.filter(|_| check.definition.service_id.is_some()),
        });
        self.deadlines.set(key, wait.map(|wait| now + wait));
    }

    fn tick(&mut self, now: Instant, at: u64) -> Answer {
        while let Some(key) = self.deadlines.pop_due(now) {
            let Some(check) = self.record(&key.0).and_then(|record| record.checks.get(&key.1)) else { continue };
            if check.status != Status::Critical {
                let output = match check.output.as_str() {
                    "" => "TTL expired".to_owned(),
                    last => format!("TTL expired (last output before timeout follows): {last}"),
                };
                self.set_status(now, &key, Status::Critical, output, at);
            } else if let Some(service) = check.definition.service_id.clone() {
                self.deregister_service(&key.0, &service, at);
            }
        }
        Answer::Done
    }
}
