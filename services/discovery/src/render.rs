//! The JSON shapes of Consul's answers.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use registry::{Check, KvEntry, Node, Registry, Service};
use serde_json::{Value, json};

use crate::host::DATACENTER;

/// A node, as the catalogue and the health calls show it.
pub(crate) fn node(node: &Node) -> Value {
    let definition = &node.definition;
    json!({
        "ID": definition.id,
        "Node": definition.name,
        "Address": definition.address,
        "Datacenter": DATACENTER,
        "TaggedAddresses": definition.tagged_addresses,
        "Meta": definition.meta,
        "CreateIndex": node.create_index,
        "ModifyIndex": node.modify_index,
    })
}

/// A service, as the agent and the health calls show it.
pub(crate) fn service(service: &Service) -> Value {
    let definition = &service.definition;
    json!({
        "ID": definition.id,
        "Service": definition.name,
        "Tags": definition.tags,
        "Meta": definition.meta,
        "Port": definition.port,
        "Address": definition.address,
        "TaggedAddresses": tagged(&definition.tagged_addresses),
        "Weights": {"Passing": definition.weights.passing, "Warning": definition.weights.warning},
        "EnableTagOverride": definition.enable_tag_override,
        "Datacenter": DATACENTER,
        "CreateIndex": service.create_index,
        "ModifyIndex": service.modify_index,
    })
}

/// An instance with its node in one object, as `catalog/service` shows it.
pub(crate) fn catalog_service(on: &Node, service: &Service) -> Value {
    let (node, definition) = (&on.definition, &service.definition);
    json!({
        "ID": node.id,
        "Node": node.name,
        "Address": node.address,
        "Datacenter": DATACENTER,
        "TaggedAddresses": node.tagged_addresses,
        "NodeMeta": node.meta,
        "ServiceKind": "",
        "ServiceID": definition.id,
        "ServiceName": definition.name,
        "ServiceTags": definition.tags,
        "ServiceAddress": definition.address,
        "ServiceTaggedAddresses": tagged(&definition.tagged_addresses),
        "ServiceWeights": {"Passing": definition.weights.passing, "Warning": definition.weights.warning},
        "ServiceMeta": definition.meta,
        "ServicePort": definition.port,
        "ServiceEnableTagOverride": definition.enable_tag_override,
        "CreateIndex": service.create_index,
        "ModifyIndex": service.modify_index,
    })
}

/// A check on the node called `on`.
pub(crate) fn check(registry: &Registry, on: &str, check: &Check) -> Value {
    let definition = &check.definition;
    let owner = definition.service_id.as_deref().and_then(|id| registry.service_on(on, id));
    json!({
        "Node": on,
        "CheckID": definition.id,
        "Name": definition.name,
        "Status": check.status.to_string(),
        "Notes": definition.notes,
        "Output": check.output,
        "ServiceID": definition.service_id.as_deref().unwrap_or_default(),
        "ServiceName": owner.map(|service| service.definition.name.as_str()).unwrap_or_default(),
        "ServiceTags": owner.map(|service| service.definition.tags.clone()).unwrap_or_default(),
        "Type": if definition.ttl.is_some() { "ttl" } else { "" },
        "Interval": "",
        "Timeout": "",
        "ExposedPort": 0,
        "Definition": {},
        "CreateIndex": check.create_index,
        "ModifyIndex": check.modify_index,
    })
}

/// A pair of the KV store; an empty value is null, as Go writes it.
pub(crate) fn pair(key: &str, entry: &KvEntry) -> Value {
    let value = if entry.value.is_empty() { Value::Null } else { Value::String(BASE64.encode(&entry.value)) };
    json!({
        "LockIndex": 0,
        "Key": key,
        "Flags": entry.flags,
        "Value": value,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    })
}

fn tagged(addresses: &BTreeMap<String, (String, u16)>) -> Value {
    addresses
        .iter()
        .map(|(network, (address, port))| (network.clone(), json!({"Address": address, "Port": port})))
        .collect()
}
