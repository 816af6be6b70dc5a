use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::map::{Map, Set};
use crate::model::{Check, CheckDefinition, Node, NodeDefinition, Service, ServiceDefinition};
use crate::watch::Watch;

/// Nodes with their services and checks, and the index of each thing that can be watched.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Catalog {
    nodes: Map<String, NodeRecord>,
    /// Where the instances of each service are: node and id.
    instances: Map<String, Set<(String, String)>>,
    services_len: usize,
    checks_len: usize,
    indexes: Indexes,
}

/// A node with all that is on it. Invariant: a check's `service_id` names a service of the same node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) node: Node,
    pub(crate) services: Map<String, Service>,
    pub(crate) checks: Map<String, Check>,
}

/// The last change of each thing. A name that is gone leaves no entry; `gone` then stands for all of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Indexes {
    nodes: u64,
    services: u64,
    checks: u64,
    by_service: Map<String, u64>,
    by_node: Map<String, u64>,
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

    pub(crate) fn nodes_len(&self) -> usize {
        self.nodes.size()
    }

    pub(crate) fn services_len(&self) -> usize {
        self.services_len
    }

    pub(crate) fn checks_len(&self) -> usize {
        self.checks_len
    }

    /// The instances of a service, by node and id.
    pub(crate) fn instances_of(&self, name: &str) -> impl Iterator<Item = (&Node, &Service)> {
        self.instances.get(name).into_iter().flat_map(Set::iter).filter_map(|(node, id)| {
            let record = self.nodes.get(node)?;
            Some((&record.node, record.services.get(id)?))
        })
    }

    /// The names of all services.
    pub(crate) fn service_names(&self) -> impl Iterator<Item = &String> {
        self.instances.keys()
    }

    fn add_instance(&mut self, name: &str, node: &str, id: &str) {
        let mut places = self.instances.get(name).cloned().unwrap_or_default();
        places.insert_mut((node.to_owned(), id.to_owned()));
        self.instances.insert_mut(name.to_owned(), places);
        self.services_len += 1;
    }

    fn drop_instance(&mut self, name: &str, node: &str, id: &str) {
        self.services_len -= 1;
        let Some(mut places) = self.instances.get(name).cloned() else { return };
        places.remove_mut(&(node.to_owned(), id.to_owned()));
        if places.is_empty() {
            self.instances.remove_mut(name);
        } else {
            self.instances.insert_mut(name.to_owned(), places);
        }
    }

    pub(crate) fn index_of(&self, watch: &Watch) -> u64 {
        let Indexes { nodes, services, checks, .. } = &self.indexes;
        match watch {
            Watch::Nodes => *nodes,
            Watch::Services => *services,
            Watch::Checks => *checks,
            Watch::Node(name) => self.indexes.by_node.get(name).copied().unwrap_or(self.indexes.gone_nodes),
            Watch::Service(name) => self.indexes.by_service.get(name).copied().unwrap_or(self.indexes.gone_services),
            _ => 0,
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
                let record = NodeRecord { node, services: Map::default(), checks: Map::default() };
                self.nodes.insert_mut(name.clone(), record);
            }
        }
        changes.extend([Watch::Nodes, Watch::Node(name)]);
        self.note(&changes, at);
        changes
    }

    /// Removes a node with all that is on it.
    pub(crate) fn remove_node(&mut self, name: &str, at: u64) -> BTreeSet<Watch> {
        let mut changes = BTreeSet::new();
        let Some(record) = self.nodes.get(name).cloned() else { return changes };
        self.nodes.remove_mut(name);
        self.checks_len -= record.checks.size();
        for service in record.services.values() {
            self.drop_instance(&service.definition.name, name, &service.definition.id);
        }
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
        let Some(record) = self.nodes.get(node) else { return changes };
        let id = definition.id.clone();
        let before = record.services.get(&id).cloned();
        if before.as_ref().is_some_and(|service| service.definition == definition) {
            return changes;
        }
        // An id may come back under another name: the readers of the old name must hear of it too, and those of its
        // checks, which are shown with the name.
        changes.extend(before.as_ref().map(watch_of));
        if record.checks.values().any(|check| check.definition.service_id.as_ref() == Some(&id)) {
            changes.insert(Watch::Checks);
        }
        if let Some(before) = &before {
            self.drop_instance(&before.definition.name, node, &id);
        }
        self.add_instance(&definition.name, node, &id);
        let create_index = before.map_or(at, |service| service.create_index);
        let service = Service { definition, create_index, modify_index: at };
        changes.extend([watch_of(&service), Watch::Services, Watch::Node(node.to_owned())]);
        if let Some(record) = self.nodes.get_mut(node) {
            record.services.insert_mut(id, service);
        }
        self.note(&changes, at);
        changes
    }

    /// Removes an instance with its checks.
    pub(crate) fn remove_service(&mut self, node: &str, id: &str, at: u64) -> BTreeSet<Watch> {
        let mut changes = BTreeSet::new();
        let Some(record) = self.nodes.get_mut(node) else { return changes };
        let Some(service) = record.services.get(id).cloned() else { return changes };
        record.services.remove_mut(id);
        let belongs = |check: &&Check| check.definition.service_id.as_deref() == Some(id);
        let own: Vec<String> =
            record.checks.values().filter(belongs).map(|check| check.definition.id.clone()).collect();
        for check in &own {
            record.checks.remove_mut(check);
        }
        if !own.is_empty() {
            changes.insert(Watch::Checks);
        }
        self.checks_len -= own.len();
        self.drop_instance(&service.definition.name, node, id);
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
        let before = record.checks.get(&id).cloned();
        let (status, output) = match &before {
            Some(check) if keep_state => (check.status, check.output.clone()),
            _ => (definition.status, definition.output.clone()),
        };
        let is_same =
            |check: &Check| check.definition == definition && check.status == status && check.output == output;
        if before.as_ref().is_some_and(is_same) {
            return BTreeSet::new();
        }
        let create_index = before.as_ref().map_or(at, |check| check.create_index);
        self.checks_len += usize::from(before.is_none());
        let old_owner = before.and_then(|check| check.definition.service_id);
        let check = Check { definition, status, output, create_index, modify_index: at };
        record.checks.insert_mut(id.clone(), check);
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
        if let Some(record) = self.nodes.get_mut(node)
            && record.checks.remove_mut(id)
        {
            self.checks_len -= 1;
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
                        self.indexes.by_node.insert_mut(name.clone(), at);
                    } else {
                        self.indexes.by_node.remove_mut(name);
                        self.indexes.gone_nodes = at;
                    }
                }
                Watch::Service(name) => {
                    let lives = self.instances.contains_key(name);
                    if lives {
                        self.indexes.by_service.insert_mut(name.clone(), at);
                    } else {
                        self.indexes.by_service.remove_mut(name);
                        self.indexes.gone_services = at;
                    }
                }
                _ => {}
            }
        }
    }
}

fn watch_of(service: &Service) -> Watch {
    Watch::Service(service.definition.name.clone())
}
