//! What a request's token lets it do.

use std::cell::Cell;

use actix_web::HttpRequest;
use actix_web::http::{StatusCode, header};
use registry::{Access, Authorizer, Registry, Resource, Token};

use crate::params::Params;
use crate::reply::Refused;

/// Whether and how access lists are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclConfig {
    /// Whether requests are held against them at all.
    pub enabled: bool,
    /// Whether what no rule speaks of is denied.
    pub default_deny: bool,
    /// A secret that may do everything, known from the start; empty for none.
    pub management_token: String,
}

impl AclConfig {
    /// What counts where no rule says anything.
    pub(crate) fn default_access(&self) -> Access {
        if self.enabled && self.default_deny { Access::Deny } else { Access::Write }
    }

    /// Consul's word for it.
    pub(crate) fn default_word(&self) -> &'static str {
        if self.default_access() == Access::Deny { "deny" } else { "allow" }
    }
}

/// One request's rights.
#[derive(Debug)]
pub(crate) struct Guard {
    authorizer: Authorizer,
    who: String,
    secret: String,
    filtered: Cell<bool>,
}

impl Guard {
    /// The rights of whoever shows `secret`.
    pub(crate) fn of(registry: &Registry, config: &AclConfig, secret: String) -> Result<Guard, Refused> {
        let is_management = !config.management_token.is_empty() && same(&secret, &config.management_token);
        let filtered = Cell::new(false);
        if !config.enabled || is_management {
            let who = "token that manages".to_owned();
            return Ok(Guard { authorizer: Authorizer::everything(), who, secret, filtered });
        }
        let found = registry.authorizer(&secret, config.default_access());
        let authorizer = found.ok_or_else(|| Refused::new(StatusCode::FORBIDDEN, "ACL not found"))?;
        let who = match registry.token_of(&secret) {
            Some(token) if token.accessor != registry::ANONYMOUS => {
                format!("token with AccessorID '{}'", token.accessor)
            }
            _ => "anonymous token".to_owned(),
        };
        Ok(Guard { authorizer, who, secret, filtered })
    }

    /// Whether `name` may be shown. What may not is left out, and the answer says that something was.
    pub(crate) fn sees(&self, resource: Resource, name: &str) -> bool {
        let sees = self.authorizer.may_read(resource, name);
        if !sees {
            self.filtered.set(true);
        }
        sees
    }

    pub(crate) fn has_filtered(&self) -> bool {
        self.filtered.get()
    }

    pub(crate) fn read(&self, resource: Resource, name: &str) -> Result<(), Refused> {
        if self.authorizer.may_read(resource, name) { Ok(()) } else { Err(self.denied(resource, "read", name)) }
    }

    pub(crate) fn write(&self, resource: Resource, name: &str) -> Result<(), Refused> {
        if self.authorizer.may_write(resource, name) { Ok(()) } else { Err(self.denied(resource, "write", name)) }
    }

    pub(crate) fn write_tree(&self, prefix: &str) -> Result<(), Refused> {
        if self.authorizer.may_write_tree(prefix) { Ok(()) } else { Err(self.denied(Resource::Key, "write", prefix)) }
    }

    /// For what would hand out or replace everything.
    pub(crate) fn manage(&self) -> Result<(), Refused> {
        if self.authorizer.manages() { Ok(()) } else { Err(self.denied(Resource::Acl, "write", "")) }
    }

    /// The token that was shown, if it is one of the registry's.
    pub(crate) fn token<'a>(&self, registry: &'a Registry) -> Option<&'a Token> {
        registry.token_of(&self.secret)
    }

    fn denied(&self, resource: Resource, what: &str, name: &str) -> Refused {
        let word = match resource {
            Resource::Key => "key",
            Resource::Service => "service",
            Resource::Node => "node",
            Resource::Session => "session",
            Resource::Event => "event",
            Resource::Agent => "agent",
            Resource::Operator => "operator",
            Resource::Acl => "acl",
        };
        let on = if name.is_empty() { String::new() } else { format!(" on {name:?}") };
        let text = format!("Permission denied: {} lacks permission '{word}:{what}'{on}", self.who);
        Refused::new(StatusCode::FORBIDDEN, text)
    }
}

/// The secret that a request shows, in any of Consul's three places; empty for none.
pub(crate) fn secret_of(request: &HttpRequest, params: &Params) -> String {
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = field(header::AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    params
        .get("token")
        .filter(|token| !token.is_empty())
        .or(field("X-Consul-Token"))
        .or(bearer)
        .unwrap_or("")
        .to_owned()
}

/// Compares in a time that does not tell how much is the same.
fn same(a: &str, b: &str) -> bool {
    blake3::hash(a.as_bytes()) == blake3::hash(b.as_bytes())
}
