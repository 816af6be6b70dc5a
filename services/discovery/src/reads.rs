use std::collections::{BTreeMap, BTreeSet};

use actix_web::HttpResponse;
use registry::filter::Filter;
use registry::{Check, Node, Registry, Resource, Service, Status, Watch};
use serde_json::{Value, json};

use crate::access::Guard;
use crate::api::Call;
use crate::endpoint::Endpoint;
use crate::host::{DATACENTER, Host, NODE};
use crate::kv::{self, KvQuery};
use crate::params::Params;
use crate::raft_calls;
use crate::render;
use crate::reply::{Body, Refused, Reply};
use crate::session;
use crate::shapes::filter_of;

/// Answers a GET.
pub(crate) async fn read(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let options = call.params.read_options()?;
    let query = Query::parse(&call.endpoint, &call.params)?;
    let (body, index) = match subject(&call.endpoint, &call.params)? {
        None => (Body::Json(local(call, &query)?), None),
        Some(subject) => {
            allow(call)?;
            let registry = call.host.read(&subject, &options).await?;
            let body = Shown { registry: &registry, query: &query, guard: &call.guard }.body(&call.endpoint);
            (body, Some(registry.index_of(&subject)))
        }
    };
    let filtered = call.guard.has_filtered();
    let contact = call.host.contact();
    let reply = Reply { body, index, contact, consistency: options.consistency, pretty: options.pretty, filtered };
    let mut answer = reply.response();
    if call.params.has("cached") {
        // Every answer is as fresh as an uncached one.
        let name = actix_web::http::header::HeaderName::from_static("x-cache");
        answer.headers_mut().insert(name, actix_web::http::header::HeaderValue::from_static("MISS"));
    }
    Ok(answer)
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
        Endpoint::SessionInfo(id) => Watch::Session(id.clone()),
        Endpoint::SessionNode(_) | Endpoint::SessionList => Watch::Sessions,
        Endpoint::EventList => Watch::Events,
        _ => return Ok(None),
    };
    Ok(Some(watch))
}

/// Calls that are refused, not thinned out, when the token may not see what they name.
fn allow(call: &Call<'_>) -> Result<(), Refused> {
    match &call.endpoint {
        Endpoint::Kv(key) if !call.params.has("recurse") && !call.params.has("keys") => {
            call.guard.read(Resource::Key, key)
        }
        _ => Ok(()),
    }
}

/// The parts of a read's parameters that choose among what there is; checked before the read waits.
#[derive(Debug, Default)]
struct Query {
    passing: bool,
    tags: Vec<String>,
    node_meta: Vec<(String, String)>,
    kv: KvQuery,
    /// Only events of this name.
    name: Option<String>,
    filter: Option<Filter>,
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
            kv: KvQuery::parse(params),
            name: params.get("name").filter(|name| !name.is_empty()).map(str::to_owned),
            filter: filter_of(endpoint, params)?,
        })
    }

    fn wants_node(&self, node: &Node) -> bool {
        self.node_meta.iter().all(|(name, value)| node.definition.meta.get(name) == Some(value))
    }

    fn wants_service(&self, service: &Service) -> bool {
        self.tags.iter().all(|tag| service.definition.tags.contains(tag))
    }

    fn passes(&self, shown: &Value) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(shown))
    }

    /// What of a list passes the filter.
    fn list(&self, shown: impl Iterator<Item = Value>) -> Value {
        shown.filter(|value| self.passes(value)).collect()
    }
}

/// The published state, as one request may see it.
struct Shown<'a> {
    registry: &'a Registry,
    query: &'a Query,
    guard: &'a Guard,
}

impl<'a> Shown<'a> {
    fn body(&self, endpoint: &Endpoint) -> Body {
        let registry = self.registry;
        let json = match endpoint {
            Endpoint::CatalogNodes => self.query.list(self.nodes().map(render::node)),
            Endpoint::CatalogNode(name) => self.node_with_services(name, true),
            Endpoint::CatalogNodeServices(name) => self.node_with_services(name, false),
            Endpoint::CatalogServices => self.service_names(),
            Endpoint::CatalogService(name) => {
                let shown = self.instances(name).map(|(node, service)| render::catalog_service(node, service));
                self.query.list(shown)
            }
            Endpoint::HealthService(name) => {
                let chosen = self
                    .instances(name)
                    .filter(|(node, service)| !self.query.passing || self.is_passing(node, service));
                self.query.list(chosen.map(|(node, service)| self.service_entry(node, service)))
            }
            Endpoint::HealthNode(name) => {
                self.query.list(self.checks_on(name).map(|check| render::check(registry, name, check)))
            }
            Endpoint::HealthChecks(name) => self.service_checks(name),
            Endpoint::HealthState(word) => self.checks_in_state(word),
            Endpoint::Kv(key) => return kv::read(registry, key, &self.query.kv, self.guard),
            Endpoint::SessionInfo(id) => self.sessions(registry.session(id).into_iter()),
            Endpoint::SessionNode(name) => self.sessions(registry.sessions_on(name)),
            Endpoint::SessionList => self.sessions(registry.sessions()),
            Endpoint::EventList => self.events(),
            // The rest has no subject, and is answered by `local`.
            _ => Value::Null,
        };
        Body::Json(json)
    }

    fn nodes(&self) -> impl Iterator<Item = &'a Node> {
        let wanted = self.registry.nodes().filter(|node| self.query.wants_node(node));
        wanted.filter(|node| self.guard.sees(Resource::Node, &node.definition.name))
    }

    fn instances(&self, name: &str) -> impl Iterator<Item = (&'a Node, &'a Service)> {
        let sees_service = self.guard.sees(Resource::Service, name);
        self.registry.instances_of(name).filter(move |(node, service)| {
            sees_service
                && self.query.wants_node(node)
                && self.query.wants_service(service)
                && self.guard.sees(Resource::Node, &node.definition.name)
        })
    }

    fn checks_on(&self, node: &str) -> impl Iterator<Item = &'a Check> {
        let sees_node = self.guard.sees(Resource::Node, node);
        self.registry.checks_on(node).filter(move |_| sees_node)
    }

    /// An instance's checks, and those of its node.
    fn checks_of(&self, node: &Node, service: &Service) -> impl Iterator<Item = &'a Check> {
        let id = service.definition.id.clone();
        let concerns = move |check: &&Check| check.definition.service_id.as_ref().is_none_or(|owner| *owner == id);
        self.registry.checks_on(&node.definition.name).filter(concerns)
    }

    fn is_passing(&self, node: &Node, service: &Service) -> bool {
        self.checks_of(node, service).all(|check| check.status == Status::Passing)
    }

    fn service_entry(&self, node: &Node, service: &Service) -> Value {
        let on = &node.definition.name;
        let checks: Value =
            self.checks_of(node, service).map(|check| render::check(self.registry, on, check)).collect();
        json!({"Node": render::node(node), "Service": render::service(service), "Checks": checks})
    }

    /// The names of all services with their tags, over the nodes that are wanted.
    fn service_names(&self) -> Value {
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for name in self.registry.service_names() {
            for (_, service) in self.instances(name) {
                let definition = &service.definition;
                let seen = self.query.filter.is_none()
                    || self.query.passes(&json!({
                        "ServiceName": definition.name,
                        "ServiceTags": definition.tags,
                        "ServiceMeta": definition.meta,
                    }));
                if seen {
                    names.entry(&definition.name).or_default().extend(definition.tags.iter().map(String::as_str));
                }
            }
        }
        json!(names)
    }

    fn node_with_services(&self, name: &str, as_map: bool) -> Value {
        let node = self.registry.node(name).filter(|_| self.guard.sees(Resource::Node, name));
        let Some(node) = node else { return Value::Null };
        let seen =
            self.registry.services_on(name).filter(|found| self.guard.sees(Resource::Service, &found.definition.name));
        let shown = seen.map(|found| (found.definition.id.clone(), render::service(found)));
        let services = shown.filter(|(_, value)| self.query.passes(value));
        let services: Value = if as_map { services.collect() } else { services.map(|(_, value)| value).collect() };
        json!({"Node": render::node(node), "Services": services})
    }

    fn service_checks(&self, name: &str) -> Value {
        let mut found = Vec::new();
        for (node, service) in self.instances(name) {
            let own = self.checks_of(node, service).filter(|check| check.definition.service_id.is_some());
            found.extend(own.map(|check| render::check(self.registry, &node.definition.name, check)));
        }
        self.query.list(found.into_iter())
    }

    /// The checks in the state that `word` names; `any` names all. No check is in a state that does not exist.
    fn checks_in_state(&self, word: &str) -> Value {
        let mut found = Vec::new();
        for node in self.nodes() {
            let name = &node.definition.name;
            let checks = self.registry.checks_on(name);
            let chosen = checks.filter(|check| word == "any" || Status::parse(word) == Some(check.status));
            found.extend(chosen.map(|check| render::check(self.registry, name, check)));
        }
        self.query.list(found.into_iter())
    }

    fn sessions(&self, found: impl Iterator<Item = &'a registry::Session>) -> Value {
        found.filter(|held| self.guard.sees(Resource::Session, &held.definition.node)).map(session::render).collect()
    }

    fn events(&self) -> Value {
        let named = |name: &str| self.query.name.as_ref().is_none_or(|wanted| wanted == name);
        let chosen = self.registry.events().filter(|(_, event)| named(&event.name));
        let seen = chosen.filter(|(_, event)| self.guard.sees(Resource::Event, &event.name));
        seen.map(|(index, event)| render::event(*index, event)).collect()
    }
}

/// Answers from the agent's own state.
fn local(call: &Call<'_>, query: &Query) -> Result<Value, Refused> {
    let (host, guard) = (call.host, &call.guard);
    Ok(match &call.endpoint {
        Endpoint::AgentSelf => {
            guard.read(Resource::Agent, NODE)?;
            agent_self(host)
        }
        Endpoint::AgentMembers => {
            if guard.sees(Resource::Node, NODE) {
                raft_calls::members(host)
            } else {
                json!([])
            }
        }
        Endpoint::AgentServices => host.with(|registry| {
            let seen = registry.services_on(NODE).filter(|found| guard.sees(Resource::Service, &found.definition.name));
            let shown = seen.map(|found| (found.definition.id.clone(), render::service(found)));
            shown.filter(|(_, value)| query.passes(value)).collect()
        }),
        Endpoint::AgentChecks => host.with(|registry| {
            // Consul's agents do not show their node's own liveness, which is their servers' finding.
            let own = registry.checks_on(NODE).filter(|check| check.definition.id != session::NODE_CHECK);
            let shown = own
                .filter(|_| guard.sees(Resource::Node, NODE))
                .map(|check| (check.definition.id.clone(), render::check(registry, NODE, check)));
            shown.filter(|(_, value)| query.passes(value)).collect()
        }),
        Endpoint::CatalogDatacenters => json!([DATACENTER]),
        Endpoint::StatusLeader => raft_calls::leader(host),
        Endpoint::StatusPeers => raft_calls::peers(host),
        // The rest has a subject, and is answered by `Shown`; writes do not come here.
        _ => Value::Null,
    })
}

fn agent_self(host: &Host) -> Value {
    let id = host.with(|registry| registry.node(NODE).map(|node| node.definition.id.clone()));
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
        "Member": raft_calls::own_member(host),
        "Stats": {},
        "Meta": {},
    })
}
