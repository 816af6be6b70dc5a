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
    /// By name, or by id.
    AgentHealth {
        by_name: bool,
        which: String,
    },
    RegisterService,
    DeregisterService(String),
    ServiceMaintenance(String),
    AgentMaintenance,
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
    SessionCreate,
    SessionDestroy(String),
    SessionRenew(String),
    SessionInfo(String),
    SessionNode(String),
    SessionList,
    Txn,
    EventFire(String),
    EventList,
    Snapshot,
    RaftConfiguration,
    RaftPeer,
    StatusLeader,
    StatusPeers,
    Acl(AclCall),
}

/// A call of the access lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AclCall {
    Bootstrap,
    Policies,
    NewPolicy,
    Policy(String),
    PolicyByName(String),
    Tokens,
    NewToken,
    TokenSelf,
    Token(String),
    CloneToken(String),
}

impl Endpoint {
    /// The call that a path (decoded, without `/v1/`) names.
    ///
    /// # Errors
    /// Unknown paths, and those of Consul's calls that are left out.
    pub(crate) fn parse(path: &str) -> Result<Endpoint, Refused> {
        if let Some(path) = path.strip_prefix("acl/") {
            return AclCall::parse(path).map(Endpoint::Acl);
        }
        let exact = match path {
            "agent/self" => Endpoint::AgentSelf,
            "agent/members" => Endpoint::AgentMembers,
            "agent/services" => Endpoint::AgentServices,
            "agent/checks" => Endpoint::AgentChecks,
            "agent/maintenance" => Endpoint::AgentMaintenance,
            "agent/service/register" => Endpoint::RegisterService,
            "agent/check/register" => Endpoint::RegisterCheck,
            "catalog/datacenters" => Endpoint::CatalogDatacenters,
            "catalog/nodes" => Endpoint::CatalogNodes,
            "catalog/services" => Endpoint::CatalogServices,
            "catalog/register" => Endpoint::CatalogRegister,
            "catalog/deregister" => Endpoint::CatalogDeregister,
            "session/create" => Endpoint::SessionCreate,
            "session/list" => Endpoint::SessionList,
            "txn" => Endpoint::Txn,
            "event/list" => Endpoint::EventList,
            "snapshot" => Endpoint::Snapshot,
            "operator/raft/configuration" => Endpoint::RaftConfiguration,
            "operator/raft/peer" => Endpoint::RaftPeer,
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
            Endpoint::Kv(_) | Endpoint::Acl(AclCall::Policy(_) | AclCall::Token(_)) => {
                &[Method::GET, Method::PUT, Method::DELETE]
            }
            Endpoint::Snapshot => &[Method::GET, Method::PUT],
            Endpoint::RaftPeer => &[Method::DELETE],
            Endpoint::RegisterService
            | Endpoint::DeregisterService(_)
            | Endpoint::ServiceMaintenance(_)
            | Endpoint::AgentMaintenance
            | Endpoint::RegisterCheck
            | Endpoint::DeregisterCheck(_)
            | Endpoint::RenewCheck(..)
            | Endpoint::UpdateCheck(_)
            | Endpoint::CatalogRegister
            | Endpoint::CatalogDeregister
            | Endpoint::SessionCreate
            | Endpoint::SessionDestroy(_)
            | Endpoint::SessionRenew(_)
            | Endpoint::Txn
            | Endpoint::EventFire(_)
            | Endpoint::Acl(AclCall::Bootstrap | AclCall::NewPolicy | AclCall::NewToken | AclCall::CloneToken(_)) => {
                &[Method::PUT]
            }
            _ => &[Method::GET],
        }
    }

    /// The methods as the `Allow` field lists them.
    pub(crate) fn allow(&self) -> String {
        let names: Vec<&str> = self.methods().iter().map(Method::as_str).collect();
        format!("OPTIONS,{}", names.join(","))
    }

    /// Refuses a method that the call does not take, saying which it takes.
    pub(crate) fn check_method(&self, method: &Method) -> Result<(), Refused> {
        // HEAD is a GET whose body is not sent.
        if self.methods().contains(method) {
            return Ok(());
        }
        let text = format!("method {method} not allowed");
        Err(Refused { allow: Some(self.allow()), ..Refused::new(StatusCode::METHOD_NOT_ALLOWED, text) })
    }

    /// Paths that end in a name, which may hold slashes.
    fn parse_named(path: &str) -> Result<Endpoint, Refused> {
        type Make = fn(String) -> Endpoint;
        // What is missing when the name is empty, in Consul's words. Longer prefixes come before their beginnings.
        let named: [(&str, &str, Make); 24] = [
            ("kv/", "", Endpoint::Kv),
            ("agent/service/deregister/", "Missing service ID", Endpoint::DeregisterService),
            ("agent/service/maintenance/", "Missing service ID", Endpoint::ServiceMaintenance),
            ("agent/check/deregister/", "Missing check ID", Endpoint::DeregisterCheck),
            ("agent/check/pass/", "Missing check ID", |id| Endpoint::RenewCheck(Status::Passing, id)),
            ("agent/check/warn/", "Missing check ID", |id| Endpoint::RenewCheck(Status::Warning, id)),
            ("agent/check/fail/", "Missing check ID", |id| Endpoint::RenewCheck(Status::Critical, id)),
            ("agent/check/update/", "Missing check ID", Endpoint::UpdateCheck),
            ("agent/health/service/name/", "Missing service name", |which| Endpoint::AgentHealth {
                by_name: true,
                which,
            }),
            ("agent/health/service/id/", "Missing serviceID", |which| Endpoint::AgentHealth { by_name: false, which }),
            ("catalog/node/", "Missing node name", Endpoint::CatalogNode),
            ("catalog/node-services/", "Missing node name", Endpoint::CatalogNodeServices),
            ("catalog/service/", "Missing service name", Endpoint::CatalogService),
            ("health/service/", "Missing service name", Endpoint::HealthService),
            ("health/node/", "Missing node name", Endpoint::HealthNode),
            ("health/checks/", "Missing service name", Endpoint::HealthChecks),
            ("health/state/", "Missing check state", Endpoint::HealthState),
            ("session/destroy/", "Missing session", Endpoint::SessionDestroy),
            ("session/renew/", "Missing session", Endpoint::SessionRenew),
            ("session/info/", "Missing session", Endpoint::SessionInfo),
            ("session/node/", "Missing node name", Endpoint::SessionNode),
            ("event/fire/", "Missing name", Endpoint::EventFire),
            ("agent/service/", "Missing service ID", Endpoint::AgentService),
            ("agent/check/", "", |_| Endpoint::AgentChecks),
        ];
        for (prefix, missing, make) in named {
            match path.strip_prefix(prefix) {
                Some(_) if prefix == "agent/check/" => return Err(unknown()),
                Some("") if prefix != "kv/" => return Err(Refused::bad_request(missing)),
                Some(name) => return Ok(make(name.to_owned())),
                None => {}
            }
        }
        match not_offered(path) {
            Some(what) => Err(Refused::not_offered(what)),
            None => Err(unknown()),
        }
    }
}

impl AclCall {
    /// The call that a path below `acl/` names.
    fn parse(path: &str) -> Result<AclCall, Refused> {
        let call = match path {
            "bootstrap" => AclCall::Bootstrap,
            "policies" => AclCall::Policies,
            "policy" => AclCall::NewPolicy,
            "tokens" => AclCall::Tokens,
            "token" => AclCall::NewToken,
            "token/self" => AclCall::TokenSelf,
            _ => {
                let (kind, name) = path.split_once('/').unwrap_or((path, ""));
                match (kind, name.strip_prefix("name/"), name.strip_suffix("/clone")) {
                    ("policy", Some(name), _) => AclCall::PolicyByName(name.to_owned()),
                    ("policy", None, _) => AclCall::Policy(name.to_owned()),
                    ("token", _, Some(id)) => AclCall::CloneToken(id.to_owned()),
                    ("token", _, None) => AclCall::Token(name.to_owned()),
                    _ => {
                        let what = "roles, auth methods, logins and replication of access lists are";
                        return Err(Refused::not_offered(what));
                    }
                }
            }
        };
        Ok(call)
    }
}

fn unknown() -> Refused {
    Refused::not_found("Invalid URL path: not a recognized HTTP API endpoint")
}

/// The calls of Consul that are left out: the sentence's beginning.
fn not_offered(path: &str) -> Option<&'static str> {
    let left_out = [
        ("agent/connect/", "Connect is"),
        ("agent/", "this agent call is"),
        ("catalog/connect/", "Connect is"),
        ("catalog/gateway-services/", "Connect is"),
        ("connect/", "Connect is"),
        ("health/connect/", "Connect is"),
        ("health/ingress/", "Connect is"),
        ("discovery-chain/", "Connect is"),
        ("exported-services", "Connect is"),
        ("imported-services", "Connect is"),
        ("config", "the configuration entries are"),
        ("coordinate/", "network coordinates are"),
        ("internal/", "this internal call is"),
        ("operator/", "the operator's calls are"),
        ("peering", "peering is"),
        ("query", "prepared queries are"),
    ];
    left_out.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, what)| *what)
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
        assert_eq!(parse("acl/policy/name/x"), Endpoint::Acl(AclCall::PolicyByName("x".into())));
        assert_eq!(parse("acl/token/x/clone"), Endpoint::Acl(AclCall::CloneToken("x".into())));
        assert_eq!(parse("session/list").allow(), "OPTIONS,GET");
    }

    #[test]
    fn what_is_left_out_says_so_and_what_is_unknown_is_not_found() {
        for path in ["query", "peering", "connect/ca/roots", "agent/metrics", "config/x", "acl/login", "operator/usage"]
        {
            assert_eq!(status(path), 501, "{path}");
        }
        assert_eq!(status("health/connect/web"), 501);
        for path in ["", "nothing", "catalog", "kvx", "health", "session/x", "agent/check/x"] {
            assert_eq!(status(path), 404, "{path}");
        }
        assert_eq!(status("health/service/"), 400);
    }
}
