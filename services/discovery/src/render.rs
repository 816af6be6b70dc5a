//! The JSON shapes of Consul's answers.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use registry::{Check, CheckDefinition, CheckKind, Event, KvEntry, Node, Registry, Service};
use serde_json::{Value, json};

use crate::host::DATACENTER;
use crate::units::go_duration;

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
        "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "Connect": {},
        "PeerName": "",
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
        "ServiceSocketPath": "",
        "ServiceProxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "ServiceConnect": {},
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
    let owner = check.definition.service_id.as_deref().and_then(|id| registry.service_on(on, id));
    match owner {
        Some(service) => check_on(on, &service.definition.name, &service.definition.tags, check),
        None => check_on(on, "", &[], check),
    }
}

/// A check of the service called `service`; empty for a check of the node.
pub(crate) fn check_on(on: &str, service: &str, tags: &[String], check: &Check) -> Value {
    let definition = &check.definition;
    let shown = |duration: Duration| if duration.is_zero() { String::new() } else { go_duration(duration) };
    json!({
        "Node": on,
        "CheckID": definition.id,
        "Name": definition.name,
        "Status": check.status.to_string(),
        "Notes": definition.notes,
        "Output": check.output,
        "ServiceID": definition.service_id.as_deref().unwrap_or_default(),
        "ServiceName": service,
        "ServiceTags": tags,
        "Type": definition.kind.word(),
        "Interval": shown(definition.interval),
        "Timeout": shown(definition.timeout),
        "ExposedPort": 0,
        "Definition": how(&check.definition),
        "CreateIndex": check.create_index,
        "ModifyIndex": check.modify_index,
    })
}

/// Whom a check asks, and how; nothing for those that ask nobody.
fn how(definition: &CheckDefinition) -> Value {
    let mut how = match &definition.kind {
        CheckKind::Http(http) => json!({
            "HTTP": http.url,
            "Method": http.method,
            "Header": http.header,
            "Body": http.body,
            "TLSSkipVerify": http.tls_skip_verify,
            "DisableRedirects": http.disable_redirects,
        }),
        CheckKind::Tcp { address } => json!({ "TCP": address }),
        CheckKind::Grpc { target, tls, .. } => json!({"GRPC": target, "GRPCUseTLS": tls}),
        CheckKind::External | CheckKind::Ttl(_) | CheckKind::Alias { .. } => return json!({}),
    };
    how["Interval"] = json!(go_duration(definition.interval));
    how["Timeout"] = json!(go_duration(definition.timeout));
    if let Some(after) = definition.deregister_after {
        how["DeregisterCriticalServiceAfter"] = json!(go_duration(after));
    }
    how
}

/// A pair of the KV store; an empty value is null, as Go writes it.
pub(crate) fn pair(key: &str, entry: &KvEntry) -> Value {
    let value = if entry.value.is_empty() { Value::Null } else { Value::String(BASE64.encode(&entry.value)) };
    let mut pair = json!({
        "LockIndex": entry.lock_index,
        "Key": key,
        "Flags": entry.flags,
        "Value": value,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    });
    if let Some(session) = &entry.session {
        pair["Session"] = json!(session);
    }
    pair
}

/// An event; its place in the list is its logical time.
pub(crate) fn event(index: u64, event: &Event) -> Value {
    let payload = if event.payload.is_empty() { Value::Null } else { json!(BASE64.encode(&event.payload)) };
    json!({
        "ID": event.id,
        "Name": event.name,
        "Payload": payload,
        "NodeFilter": event.node_filter,
        "ServiceFilter": event.service_filter,
        "TagFilter": event.tag_filter,
        "Version": 1,
        "LTime": index,
    })
}

fn tagged(addresses: &BTreeMap<String, (String, u16)>) -> Value {
    addresses
        .iter()
        .map(|(network, (address, port))| (network.clone(), json!({"Address": address, "Port": port})))
        .collect()
}
