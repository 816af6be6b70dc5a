use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{Check, CheckDefinition, Node, NodeDefinition, Service, ServiceDefinition};
use crate::watch::Watch;

/// Nodes with their services and checks, and the index of each thing that can be watched.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Catalog {
    nodes: BTreeMap<String, NodeRecord>,
    indexes: Indexes,
}

/// A node with all that is on it. Invariant: a check's `service_id` names a service of the same node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) node: Node,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) checks: BTreeMap<String, Check>,
}

/// The last change of each thing. A name that is gone leaves no entry; `gone` then stands for all of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Indexes {
    nodes: u64,
    services: u64,
    checks: u64,
    by_service: BTreeMap<String, u64>,
    by_node: BTreeMap<String, u64>,
    gone_services: u64,
    gone_nodes: u64,
}

impl Catalog {
    pub(crate) fn node(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.get(name)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    pub(crate) fn check_mut(&mut self, node: &str, id: &str) -> Option<&mut Check> {
        self.nodes.get_mut(node)?.checks.get_mut(id)
    }

    pub(crate) fn services_len(&self) -> usize {
        self.nodes.values().map(|record| record.services.len()).sum()
    }

    pub(crate) fn checks_len(&self) -> usize {
        self.nodes.values().map(|record| record.checks.len()).sum()
    }

    pub(crate) fn index_of(&self, watch: &Watch) -> u64 {
        let Indexes { nodes, services, checks, .. } = self.indexes;
        match watch {
            Watch::Nodes => nodes,
            Watch::Services => services,
            Watch::Checks => checks,
            Watch::Node(name) => self.indexes.by_node.get(name).copied().unwrap_or(self.indexes.gone_nodes),
            Watch::Service(name) => self.indexes.by_service.get(name).copied().unwrap_or(self.indexes.gone_services),
            Watch::Key(_) | Watch::Prefix(_) => 0,
        }
    }

    /// Makes a node known or changes it at index `at`; answers with what changed.
    pub(crate) fn put_node(&mut self, definition: NodeDefinition, at: u64) -> BTreeSet<Watch> {
        let name = definition.name.clone();
        let mut changes = BTreeSet::new();
        match self.nodes.get_mut(&name) {
            Some(record) if record.node.definition == definition => return changes,
            Some(record) => {
                record.node.definition = definition;
                record.node.modify_index = at;
                // The instances are shown with their node.
                changes.extend(record.services.values().map(watch_of));
            }
            None => {
                let node = Node { definition, create_index: at, modify_index: at };
                let record = NodeRecord { node, services: BTreeMap::new(), checks: BTreeMap::new() };
                self.nodes.insert(name.clone(), record);
            }
        }
        changes.extend([Watch::Nodes, Watch::Node(name)]);
        self.note(&changes, at);
        changes
    }

    /// Removes a node with all that is on it.
    pub(crate) fn remove_node(&mut self, name: &str, at: u64) -> BTreeSet<Watch> {
        let mut changes = BTreeSet::new();
        let Some(record) = self.nodes.remove(name) else { return changes };
        changes.extend(record.services.values().map(watch_of));
        changes.extend([Watch::Nodes, Watch::Node(name.to_owned())]);
        if !record.services.is_empty() {
            changes.insert(Watch::Services);
        }
        if !record.checks.is_empty() {
            changes.insert(Watch::Checks);
        }
        self.note(&changes, at);
        changes
    }

    /// Puts an instance on a node, which must be known.
    pub(crate) fn put_service(&mut self, node: &str, definition: ServiceDefinition, at: u64) -> BTreeSet<Watch> {
        let mut changes = BTreeSet::new();
        let Some(record) = self.nodes.get_mut(node) else { return changes };
        let id = definition.id.clone();
        let before = record.services.get(&id);
        if before.is_some_and(|service| service.definition == definition) {
            return changes;
        }
        // An id may come back under another name: the readers of the old name must hear of it too, and those of its
        // checks, which are shown with the name.
        changes.extend(before.map(watch_of));
        if record.checks.values().any(|check| check.definition.service_id.as_ref() == Some(&id)) {
            changes.insert(Watch::Checks);
        }
        let create_index = before.map_or(at, |service| service.create_index);
        let service = Service { definition, create_index, modify_index: at };
        changes.extend([watch_of(&service), Watch::Services, Watch::Node(node.to_owned())]);
        record.services.insert(id, service);
        self.note(&changes, at);
        changes
    }

    /// Removes an instance with its checks.
    pub(crate) fn remove_service(&mut self, node: &str, id: &str, at: u64) -> BTreeSet<Watch> {
        let mut changes = BTreeSet::new();
        let Some(record) = self.nodes.get_mut(node) else { return changes };
        let Some(service) = record.services.remove(id) else { return changes };
        let checks_before = record.checks.len();
        record.checks.retain(|_, check| check.definition.service_id.as_deref() != Some(id));
        if record.checks.len() != checks_before {
            changes.insert(Watch::Checks);
        }
        changes.extend([watch_of(&service), Watch::Services, Watch::Node(node.to_owned())]);
        self.note(&changes, at);
        changes
    }

    /// Puts a check on a node. With `keep_state`, one that was there keeps its status and output.
    pub(crate) fn put_check(
        &mut self,
        node: &str,
        definition: CheckDefinition,
        keep_state: bool,
        at: u64,
    ) -> BTreeSet<Watch> {
        let Some(record) = self.nodes.get_mut(node) else { return BTreeSet::new() };
        let id = definition.id.clone();
        let before = record.checks.get(&id);
        let (status, output) = match before {
            Some(check) if keep_state => (check.status, check.output.clone()),
            _ => (definition.status, definition.output.clone()),
        };
        if before.is_some_and(|check| check.definition == definition && check.status == status) {
            return BTreeSet::new();
        }
        let create_index = before.map_or(at, |check| check.create_index);
        let old_owner = before.and_then(|check| check.definition.service_id.clone());
        let check = Check { definition, status, output, create_index, modify_index: at };
        record.checks.insert(id.clone(), check);
        let mut changes = self.note_check(node, &id, at);
        // A check that moves from one instance to another concerns both.
        let old_service = old_owner.and_then(|owner| self.nodes.get(node)?.services.get(&owner).map(watch_of));
        changes.extend(old_service);
        self.note(&changes, at);
        changes
    }

    /// Removes a check.
    pub(crate) fn remove_check(&mut self, node: &str, id: &str, at: u64) -> BTreeSet<Watch> {
        let changes = self.note_check(node, id, at);
        if let Some(record) = self.nodes.get_mut(node) {
            record.checks.remove(id);
        }
        changes
    }

    /// Notes that a check has changed: its instance's readers must hear of it, or all of its node if it is the node's.
    pub(crate) fn note_check(&mut self, node: &str, id: &str, at: u64) -> BTreeSet<Watch> {
        let mut changes = BTreeSet::new();
        let Some(record) = self.nodes.get(node) else { return changes };
        let Some(check) = record.checks.get(id) else { return changes };
        match &check.definition.service_id {
            Some(owner) => changes.extend(record.services.get(owner).map(watch_of)),
            None => changes.extend(record.services.values().map(watch_of)),
        }
        changes.extend([Watch::Checks, Watch::Node(node.to_owned())]);
        self.note(&changes, at);
        changes
    }

    fn note(&mut self, changes: &BTreeSet<Watch>, at: u64) {
        for watch in changes {
            match watch {
                Watch::Nodes => self.indexes.nodes = at,
                Watch::Services => self.indexes.services = at,
                Watch::Checks => self.indexes.checks = at,
                Watch::Node(name) => {
                    if self.nodes.contains_key(name) {
                        self.indexes.by_node.insert(name.clone(), at);
                    } else {
                        self.indexes.by_node.remove(name);
                        self.indexes.gone_nodes = at;
                    }
                }
                Watch::Service(name) => {
                    let lives = self
                        .nodes
                        .values()
                        .any(|record| record.services.values().any(|service| service.definition.name == *name));
                    if lives {
                        self.indexes.by_service.insert(name.clone(), at);
                    } else {
                        self.indexes.by_service.remove(name);
                        self.indexes.gone_services = at;
                    }
                }
                Watch::Key(_) | Watch::Prefix(_) => {}
            }
        }
    }
}

fn watch_of(service: &Service) -> Watch {
    Watch::Service(service.definition.name.clone())
}
