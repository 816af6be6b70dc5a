use actix_web::http::{Method, StatusCode};
use registry::Status;

use crate::reply::Refused;

/// A call that is offered, with what its path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    AgentSelf,
    AgentMembers,
    AgentServices,
    AgentService(String),
    AgentChecks,
    RegisterService,
    DeregisterService(String),
    RegisterCheck,
    DeregisterCheck(String),
    RenewCheck(Status, String),
    UpdateCheck(String),
    CatalogDatacenters,
    CatalogNodes,
    CatalogNode(String),
    CatalogNodeServices(String),
    CatalogServices,
    CatalogService(String),
    CatalogRegister,
    CatalogDeregister,
    HealthService(String),
    HealthNode(String),
    HealthChecks(String),
    HealthState(String),
    Kv(String),
    StatusLeader,
    StatusPeers,
}

impl Endpoint {
    /// The call that a path (decoded, without `/v1/`) names.
    ///
    /// # Errors
    /// Unknown paths, and those of Consul's calls that are left out.
    pub(crate) fn parse(path: &str) -> Result<Endpoint, Refused> {
        let exact = match path {
            "agent/self" => Endpoint::AgentSelf,
            "agent/members" => Endpoint::AgentMembers,
            "agent/services" => Endpoint::AgentServices,
            "agent/checks" => Endpoint::AgentChecks,
            "agent/service/register" => Endpoint::RegisterService,
            "agent/check/register" => Endpoint::RegisterCheck,
            "catalog/datacenters" => Endpoint::CatalogDatacenters,
            "catalog/nodes" => Endpoint::CatalogNodes,
            "catalog/services" => Endpoint::CatalogServices,
            "catalog/register" => Endpoint::CatalogRegister,
            "catalog/deregister" => Endpoint::CatalogDeregister,
            "status/leader" => Endpoint::StatusLeader,
            "status/peers" => Endpoint::StatusPeers,
            "kv" => Endpoint::Kv(String::new()),
            _ => return Endpoint::parse_named(path),
        };
        Ok(exact)
    }

    /// The methods that it takes.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Endpoint::Kv(_) => &[Method::GET, Method::PUT, Method::DELETE],
            Endpoint::RegisterService
            | Endpoint::DeregisterService(_)
            | Endpoint::RegisterCheck
            | Endpoint::DeregisterCheck(_)
            | Endpoint::RenewCheck(..)
            | Endpoint::UpdateCheck(_)
            | Endpoint::CatalogRegister
            | Endpoint::CatalogDeregister => &[Method::PUT],
            _ => &[Method::GET],
        }
    }

    /// Refuses a method that the call does not take, saying which it takes.
    pub(crate) fn check_method(&self, method: &Method) -> Result<(), Refused> {
        if self.methods().contains(method) {
            return Ok(());
        }
        let allow = match self.methods() {
            [one] if *one == Method::GET => "GET",
            [one] if *one == Method::PUT => "PUT",
            _ => "GET, PUT, DELETE",
        };
        let text = format!("method {method} not allowed");
        Err(Refused { allow: Some(allow), ..Refused::new(StatusCode::METHOD_NOT_ALLOWED, text) })
    }

    /// Paths that end in a name, which may hold slashes.
    fn parse_named(path: &str) -> Result<Endpoint, Refused> {
        type Make = fn(String) -> Endpoint;
        let named: [(&str, Make); 15] = [
            ("kv/", Endpoint::Kv),
            ("agent/service/deregister/", Endpoint::DeregisterService),
            ("agent/check/deregister/", Endpoint::DeregisterCheck),
            ("agent/check/pass/", |id| Endpoint::RenewCheck(Status::Passing, id)),
            ("agent/check/warn/", |id| Endpoint::RenewCheck(Status::Warning, id)),
            ("agent/check/fail/", |id| Endpoint::RenewCheck(Status::Critical, id)),
            ("agent/check/update/", Endpoint::UpdateCheck),
            ("catalog/node/", Endpoint::CatalogNode),
            ("catalog/node-services/", Endpoint::CatalogNodeServices),
            ("catalog/service/", Endpoint::CatalogService),
            ("health/service/", Endpoint::HealthService),
            ("health/node/", Endpoint::HealthNode),
            ("health/checks/", Endpoint::HealthChecks),
            ("health/state/", Endpoint::HealthState),
            // Last of its kind: its prefix is also that of the two below it in Consul's tree.
            ("agent/service/", Endpoint::AgentService),
        ];
        if let Some(what) = not_offered(path) {
            return Err(Refused::not_offered(what));
        }
        if path.starts_with("acl/") {
            return Err(Refused::new(StatusCode::UNAUTHORIZED, "ACL support disabled"));
        }
        for (prefix, make) in named {
            match path.strip_prefix(prefix) {
                Some("") if prefix != "kv/" => return Err(Refused::bad_request("Missing name or ID in the path")),
                Some(name) => return Ok(make(name.to_owned())),
                None => {}
            }
        }
        Err(Refused::new(StatusCode::NOT_FOUND, "Invalid URL path: not a recognized HTTP API endpoint"))
    }
}

/// The calls of Consul that are left out: the sentence's beginning.
fn not_offered(path: &str) -> Option<&'static str> {
    let left_out = [
        ("agent/service/maintenance/", "the maintenance mode of a service is"),
        ("agent/maintenance", "the maintenance mode of an agent is"),
        ("agent/health/", "the agent's local health calls are"),
        ("agent/connect/", "Connect is"),
        ("agent/", "this agent call is"),
        ("catalog/connect/", "Connect is"),
        ("catalog/gateway-services/", "Connect is"),
        ("connect/", "Connect is"),
        ("health/connect/", "Connect is"),
        ("health/ingress/", "Connect is"),
        ("discovery-chain/", "Connect is"),
        ("config", "the configuration entries are"),
        ("coordinate/", "network coordinates are"),
        ("event/", "events are"),
        ("internal/", "this internal call is"),
        ("operator/", "the operator's calls are"),
        ("peering", "peering is"),
        ("query", "prepared queries are"),
        ("session/", "sessions are"),
        ("snapshot", "snapshots over HTTP are"),
        ("txn", "transactions are"),
    ];
    let offered_agent = ["agent/service/", "agent/check/"];
    let found = left_out.iter().find(|(prefix, _)| path.starts_with(prefix));
    let (prefix, what) = found?;
    let is_offered = *prefix == "agent/" && offered_agent.iter().any(|prefix| path.starts_with(prefix));
    (!is_offered).then_some(*what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Endpoint {
        Endpoint::parse(path).unwrap_or_else(|refused| panic!("{path} is offered, but: {}", refused.text))
    }

    fn status(path: &str) -> u16 {
        Endpoint::parse(path).expect_err("this must be refused").status.as_u16()
    }

    #[test]
    fn paths_name_calls() {
        assert_eq!(parse("agent/service/web-1"), Endpoint::AgentService("web-1".into()));
        assert_eq!(parse("agent/service/deregister/a/b"), Endpoint::DeregisterService("a/b".into()));
        assert_eq!(parse("agent/check/fail/c"), Endpoint::RenewCheck(Status::Critical, "c".into()));
        assert_eq!(parse("kv/a/b"), Endpoint::Kv("a/b".into()));
        assert_eq!(parse("kv/"), Endpoint::Kv(String::new()));
    }

    #[test]
    fn what_is_left_out_says_so_and_what_is_unknown_is_not_found() {
        for path in ["session/create", "txn", "query", "peering", "connect/ca/roots", "agent/metrics", "config/x"] {
            assert_eq!(status(path), 501, "{path}");
        }
        assert_eq!(status("health/connect/web"), 501);
        assert_eq!(status("acl/token/self"), 401);
        for path in ["", "nothing", "catalog", "kvx", "health"] {
            assert_eq!(status(path), 404, "{path}");
        }
        assert_eq!(status("health/service/"), 400);
    }
}
