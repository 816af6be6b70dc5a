use std::collections::{BTreeMap, BTreeSet};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use registry::{Check, Node, Registry, Service, Status, Watch};
use serde_json::{Value, json};

use crate::endpoint::Endpoint;
use crate::host::{DATACENTER, Host, NODE};
use crate::params::Params;
use crate::render;
use crate::reply::{Body, Refused, Reply};

/// Answers a GET.
pub(crate) async fn read(host: &Host, endpoint: &Endpoint, params: &Params) -> Result<HttpResponse, Refused> {
    let options = params.read_options()?;
    let (body, index) = match subject(endpoint, params)? {
        None => (local(host, endpoint)?, None),
        Some(subject) => {
            let query = Query::parse(endpoint, params)?;
            let registry = host.read(&subject, &options).await;
            (shared(&registry, endpoint, &query), Some(registry.index_of(&subject)))
        }
    };
    Ok(Reply { body, index, consistency: options.consistency, pretty: options.pretty }.response())
}

/// What a read shows, and so can wait for; none for the agent's own state.
fn subject(endpoint: &Endpoint, params: &Params) -> Result<Option<Watch>, Refused> {
    let watch = match endpoint {
        Endpoint::CatalogNodes => Watch::Nodes,
        Endpoint::CatalogServices => Watch::Services,
        Endpoint::CatalogService(name) | Endpoint::HealthService(name) | Endpoint::HealthChecks(name) => {
            Watch::Service(name.clone())
        }
        Endpoint::CatalogNode(name) | Endpoint::CatalogNodeServices(name) | Endpoint::HealthNode(name) => {
            Watch::Node(name.clone())
        }
        Endpoint::HealthState(_) => Watch::Checks,
        Endpoint::Kv(key) if params.has("recurse") || params.has("keys") => Watch::Prefix(key.clone()),
        Endpoint::Kv(key) if key.is_empty() => return Err(Refused::bad_request("Missing key name")),
        Endpoint::Kv(key) => Watch::Key(key.clone()),
        _ => return Ok(None),
    };
    Ok(Some(watch))
}

/// The parts of a read's parameters that choose among what there is; checked before the read waits.
#[derive(Debug, Default)]
struct Query {
    passing: bool,
    tags: Vec<String>,
    node_meta: Vec<(String, String)>,
    recurse: bool,
    keys: bool,
    separator: String,
    raw: bool,
}

impl Query {
    fn parse(endpoint: &Endpoint, params: &Params) -> Result<Query, Refused> {
        let of_kv = matches!(endpoint, Endpoint::Kv(_));
        let pair = |text: &str| match text.split_once(':') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text.to_owned(), String::new()),
        };
        Ok(Query {
            passing: !of_kv && params.truth("passing")?,
            tags: params.all("tag").filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
            node_meta: params.all("node-meta").map(pair).collect(),
            recurse: params.has("recurse"),
            keys: params.has("keys"),
            separator: params.get("separator").unwrap_or_default().to_owned(),
            raw: params.has("raw"),
        })
    }

    fn wants_node(&self, node: &Node) -> bool {
        self.node_meta.iter().all(|(name, value)| node.definition.meta.get(name) == Some(value))
    }

    fn wants_service(&self, service: &Service) -> bool {
        self.tags.iter().all(|tag| service.definition.tags.contains(tag))
    }
}

/// Answers from the published state.
fn shared(registry: &Registry, endpoint: &Endpoint, query: &Query) -> Body {
    let json = match endpoint {
        Endpoint::CatalogNodes => registry.nodes().filter(|node| query.wants_node(node)).map(render::node).collect(),
        Endpoint::CatalogNode(name) => node_with_services(registry, name, true),
        Endpoint::CatalogNodeServices(name) => node_with_services(registry, name, false),
        Endpoint::CatalogServices => service_names(registry, query),
        Endpoint::CatalogService(name) => {
            wanted(registry, name, query).map(|(node, service)| render::catalog_service(node, service)).collect()
        }
        Endpoint::HealthService(name) => wanted(registry, name, query)
            .filter(|(node, service)| !query.passing || passes(registry, node, service))
            .map(|(node, service)| service_entry(registry, node, service))
            .collect(),
        Endpoint::HealthNode(name) => {
            registry.checks_on(name).map(|check| render::check(registry, name, check)).collect()
        }
        Endpoint::HealthChecks(name) => service_checks(registry, name, query),
        Endpoint::HealthState(word) => checks_in_state(registry, word, query),
        Endpoint::Kv(key) => return kv(registry, key, query),
        // The rest has no subject, and is answered by `local`.
        _ => Value::Null,
    };
    Body::Json(json)
}

/// Answers from the agent's own state.
fn local(host: &Host, endpoint: &Endpoint) -> Result<Body, Refused> {
    let json = match endpoint {
        Endpoint::AgentSelf => agent_self(host),
        Endpoint::AgentMembers => json!([member(host)]),
        Endpoint::AgentServices => host.with_staged(|registry| {
            registry.services_on(NODE).map(|found| (found.definition.id.clone(), render::service(found))).collect()
        }),
        Endpoint::AgentService(id) => {
            let found = host.with_staged(|registry| registry.service_on(NODE, id).map(render::service));
            let unknown = registry::Refusal::UnknownService(id.clone()).to_string();
            found.ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, unknown))?
        }
        Endpoint::AgentChecks => host.with_staged(|registry| {
            let checks = registry.checks_on(NODE);
            checks.map(|check| (check.definition.id.clone(), render::check(registry, NODE, check))).collect()
        }),
        Endpoint::CatalogDatacenters => json!([DATACENTER]),
        Endpoint::StatusLeader => json!(host.address.to_string()),
        Endpoint::StatusPeers => json!([host.address.to_string()]),
        // The rest has a subject, and is answered by `shared`; writes do not come here.
        _ => Value::Null,
    };
    Ok(Body::Json(json))
}

fn wanted<'a>(
    registry: &'a Registry,
    name: &'a str,
    query: &'a Query,
) -> impl Iterator<Item = (&'a Node, &'a Service)> {
    registry.instances_of(name).filter(|(node, service)| query.wants_node(node) && query.wants_service(service))
}

/// An instance's checks, and those of its node.
fn checks_of<'a>(registry: &'a Registry, node: &'a Node, service: &'a Service) -> impl Iterator<Item = &'a Check> {
    registry
        .checks_on(&node.definition.name)
        .filter(|check| check.definition.service_id.as_ref().is_none_or(|owner| *owner == service.definition.id))
}

fn passes(registry: &Registry, node: &Node, service: &Service) -> bool {
    checks_of(registry, node, service).all(|check| check.status == Status::Passing)
}

fn service_entry(registry: &Registry, node: &Node, service: &Service) -> Value {
    let on = &node.definition.name;
    let checks: Value = checks_of(registry, node, service).map(|check| render::check(registry, on, check)).collect();
    json!({"Node": render::node(node), "Service": render::service(service), "Checks": checks})
}

/// The names of all services with their tags, over the nodes that are wanted.
fn service_names(registry: &Registry, query: &Query) -> Value {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in registry.nodes().filter(|node| query.wants_node(node)) {
        for service in registry.services_on(&node.definition.name) {
            let tags = names.entry(&service.definition.name).or_default();
            tags.extend(service.definition.tags.iter().map(String::as_str));
        }
    }
    json!(names)
}

fn node_with_services(registry: &Registry, name: &str, as_map: bool) -> Value {
    let Some(node) = registry.node(name) else { return Value::Null };
    let services = registry.services_on(name);
    let services: Value = if as_map {
        services.map(|service| (service.definition.id.clone(), render::service(service))).collect()
    } else {
        services.map(render::service).collect()
    };
    json!({"Node": render::node(node), "Services": services})
}

fn service_checks(registry: &Registry, name: &str, query: &Query) -> Value {
    let mut found = Vec::new();
    for (node, service) in wanted(registry, name, query) {
        let own = checks_of(registry, node, service).filter(|check| check.definition.service_id.is_some());
        found.extend(own.map(|check| render::check(registry, &node.definition.name, check)));
    }
    Value::Array(found)
}

/// The checks in the state that `word` names; `any` names all. No check is in a state that does not exist.
fn checks_in_state(registry: &Registry, word: &str, query: &Query) -> Value {
    let mut found = Vec::new();
    for node in registry.nodes().filter(|node| query.wants_node(node)) {
        let name = &node.definition.name;
        let checks =
            registry.checks_on(name).filter(|check| word == "any" || Status::parse(word) == Some(check.status));
        found.extend(checks.map(|check| render::check(registry, name, check)));
    }
    Value::Array(found)
}

fn kv(registry: &Registry, key: &str, query: &Query) -> Body {
    if query.keys {
        let keys = kv_keys(registry, key, &query.separator);
        // The root is never absent, only empty.
        return if keys.is_empty() && !key.is_empty() { Body::Absent } else { Body::Json(json!(keys)) };
    }
    if query.recurse {
        let pairs: Vec<Value> = registry.kv_under(key).map(|(key, entry)| render::pair(key, entry)).collect();
        return if pairs.is_empty() { Body::Absent } else { Body::Json(Value::Array(pairs)) };
    }
    match registry.kv(key) {
        None => Body::Absent,
        Some(entry) if query.raw => Body::Raw(entry.value.clone()),
        Some(entry) => Body::Json(json!([render::pair(key, entry)])),
    }
}

/// The keys under a prefix; with a separator, only up to its first place after the prefix, each once.
fn kv_keys(registry: &Registry, prefix: &str, separator: &str) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for (key, _) in registry.kv_under(prefix) {
        let rest = &key[prefix.len()..];
        let end = if separator.is_empty() { None } else { rest.find(separator) };
        let shown = end.map_or(key.as_str(), |end| &key[..prefix.len() + end + separator.len()]);
        if keys.last().map(String::as_str) != Some(shown) {
            keys.push(shown.to_owned());
        }
    }
    keys
}

fn agent_self(host: &Host) -> Value {
    let id = host.with_staged(|registry| registry.node(NODE).map(|node| node.definition.id.clone()));
    json!({
        "Config": {
            "Datacenter": DATACENTER,
            "PrimaryDatacenter": DATACENTER,
            "NodeName": NODE,
            "NodeID": id.unwrap_or_default(),
            "Server": true,
            "Revision": "",
            "Version": env!("CARGO_PKG_VERSION"),
        },
        "DebugConfig": {},
        "Coord": null,
        "Member": member(host),
        "Stats": {},
        "Meta": {},
    })
}

/// This agent as a member of its one-agent pool; 1 is "alive".
fn member(host: &Host) -> Value {
    json!({
        "Name": NODE,
        "Addr": host.address.ip().to_string(),
        "Port": host.address.port(),
        "Tags": {"dc": DATACENTER, "role": "consul", "build": env!("CARGO_PKG_VERSION")},
        "Status": 1,
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    })
}
