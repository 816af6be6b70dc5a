use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// A service as it is to be registered with the agent, with one TTL check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRegistration {
    /// Unique on the agent; ours are `<service>-<name>`.
    pub id: String,
    /// The service's name, shared by all its instances.
    pub name: String,
    /// The host that others reach it at.
    pub address: String,
    /// The port that others reach it at.
    pub port: u16,
    /// Free words to find it by.
    pub tags: Vec<String>,
    /// Free pairs to tell about it.
    pub meta: BTreeMap<String, String>,
    /// How long after the last renewal its check turns critical.
    pub ttl: Duration,
    /// How long after its check has turned critical it is forgotten; Consul takes no less than 1 minute.
    pub deregister_after: Duration,
}

impl ServiceRegistration {
    /// A registration with the fleet's times: a TTL of 10 s, forgotten 1 minute after it has turned critical.
    pub fn new(name: &str, instance: &str, address: &str, port: u16) -> ServiceRegistration {
        ServiceRegistration {
            id: format!("{name}-{instance}"),
            name: name.to_owned(),
            address: address.to_owned(),
            port,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            ttl: Duration::from_secs(10),
            deregister_after: Duration::from_secs(60),
        }
    }

    /// The id of its TTL check, as Consul derives it.
    pub fn check_id(&self) -> String {
        format!("service:{}", self.id)
    }

    /// The body of `PUT /v1/agent/service/register`.
    pub(crate) fn body(&self) -> serde_json::Value {
        serde_json::json!({
            "ID": self.id,
            "Name": self.name,
            "Address": self.address,
            "Port": self.port,
            "Tags": self.tags,
            "Meta": self.meta,
            "Check": {
                "CheckID": self.check_id(),
                "TTL": format!("{}ms", self.ttl.as_millis()),
                "DeregisterCriticalServiceAfter": format!("{}ms", self.deregister_after.as_millis()),
                "Status": "passing",
            },
        })
    }
}

/// A pair of the KV store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPair {
    /// Its key, without a leading slash.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The number that its writer attached.
    pub flags: u64,
    /// The index at which it was created.
    pub create_index: u64,
    /// The index of its last change: what compare-and-set compares.
    pub modify_index: u64,
    /// How often a session has locked it.
    pub lock_index: u64,
}

/// An instance of a service with the node it runs on and its checks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceEntry {
    /// The agent's node.
    pub node: Node,
    /// The instance.
    pub service: AgentService,
    /// The node's checks and the instance's.
    #[serde(default, deserialize_with = "null_is_default")]
    pub checks: Vec<HealthCheck>,
}

/// A node of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Its name.
    pub node: String,
    /// Its address: an instance without one of its own is reached there.
    pub address: String,
    /// Its datacenter.
    #[serde(default)]
    pub datacenter: String,
    /// Free pairs about it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
}

/// An instance of a service, as the agent and the health calls show it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AgentService {
    /// Unique on its node.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    #[serde(rename = "Service")]
    pub name: String,
    /// Free words.
    #[serde(rename = "Tags", default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Free pairs.
    #[serde(rename = "Meta", default, deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
    /// Its own address; empty means its node's.
    #[serde(rename = "Address", default)]
    pub address: String,
    /// Its port.
    #[serde(rename = "Port", default)]
    pub port: u16,
}

/// An instance of a service, as the catalogue shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CatalogService {
    /// Its node's name.
    #[serde(rename = "Node")]
    pub node: String,
    /// Its node's address.
    #[serde(rename = "Address")]
    pub node_address: String,
    /// Unique on its node.
    #[serde(rename = "ServiceID")]
    pub id: String,
    /// The service's name.
    #[serde(rename = "ServiceName")]
    pub name: String,
    /// Its own address; empty means its node's.
    #[serde(rename = "ServiceAddress", default)]
    pub address: String,
    /// Its port.
    #[serde(rename = "ServicePort", default)]
    pub port: u16,
    /// Free words.
    #[serde(rename = "ServiceTags", default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Free pairs.
    #[serde(rename = "ServiceMeta", default, deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
}

/// What a check found last.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HealthCheck {
    /// Unique on its node.
    #[serde(rename = "CheckID")]
    pub id: String,
    /// Its state.
    #[serde(rename = "Status")]
    pub status: Status,
    /// What it said last.
    #[serde(rename = "Output", default)]
    pub output: String,
    /// The instance it belongs to; empty for a node's check.
    #[serde(rename = "ServiceID", default)]
    pub service_id: String,
}

/// A replica of discovery, or a server of Consul.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Its identity.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    #[serde(rename = "Node")]
    pub name: String,
    /// Where the others reach it.
    #[serde(rename = "Address")]
    pub address: String,
    /// Where its HTTP API is; Consul does not say.
    #[serde(rename = "HTTPAddress", default)]
    pub http: String,
    /// Whether it leads.
    #[serde(rename = "Leader")]
    pub leader: bool,
    /// Whether it votes.
    #[serde(rename = "Voter")]
    pub voter: bool,
}

/// The replicas, as the operator's call gives them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReplicasJson {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) servers: Vec<ReplicaInfo>,
}

/// The states of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Passing,
    /// It works, but somebody should look.
    Warning,
    /// It does not work, or has not been heard of in time.
    Critical,
}

/// The KV store's JSON, with the value in base64 (null when it is empty).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KvPairJson {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    #[serde(default)]
    pub(crate) flags: u64,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
    #[serde(default)]
    pub(crate) lock_index: u64,
}

/// Consul, being written in Go, writes `null` for an empty list or map.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Consul 1.x answers for an instance without tags, meta or checks.
    #[test]
    fn an_entry_with_nulls_is_readable() {
        let text = r#"{"Node":{"ID":"x","Node":"a","Address":"10.0.0.1","Datacenter":"dc1","Meta":null},
            "Service":{"ID":"w","Service":"web","Tags":null,"Meta":null,"Address":"","Port":80},"Checks":null}"#;
        let entry: ServiceEntry = serde_json::from_str(text).expect("Consul writes this");
        assert_eq!((entry.service.port, entry.checks.len(), entry.node.meta.len()), (80, 0, 0));
    }
}
