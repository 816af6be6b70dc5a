//! Access lists: tokens, policies, and what they allow.
//!
//! A subset of Consul's: rules for keys, services, nodes, sessions, events, agents, the operator and the access lists
//! themselves. Roles, auth methods, identities and expiry are not here.

use serde::{Deserialize, Serialize};

use crate::acl_rules::{Access, Resource, Rules};
use crate::command::{Answer, Refusal};
use crate::map::Map;

/// The accessor of the token that stands for requests without one.
pub const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
/// The secret by which the anonymous token may also be named.
const ANONYMOUS_SECRET: &str = "anonymous";
/// The id of the policy that allows everything.
pub const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";

/// Rules under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// A UUID, drawn by the shell.
    pub id: String,
    /// Unique.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// As they were written.
    pub text: String,
    /// What they say.
    pub rules: Rules,
    /// The index at which it came.
    pub create_index: u64,
    /// The index at which it last changed.
    pub modify_index: u64,
}

/// What a client shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// By which it is spoken of; a UUID, drawn by the shell.
    pub accessor: String,
    /// By which it is used; a UUID, drawn by the shell.
    pub secret: String,
    /// Free text for people.
    pub description: String,
    /// The ids of its policies.
    pub policies: Vec<String>,
    /// Whether it was to stay in its datacenter; there is only one.
    pub local: bool,
    /// When it came, as text.
    pub create_time: String,
    /// The index at which it came.
    pub create_index: u64,
    /// The index at which it last changed.
    pub modify_index: u64,
}

/// What a token may do. Several policies with a rule for one name: the one that denies counts, else the one that lets
/// write. Several rules for one name: the exact one counts, else the longest prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    rules: Rules,
    all: bool,
    default: Access,
}

impl Authorizer {
    /// Allows everything: access lists are off, or the token manages.
    pub fn everything() -> Authorizer {
        Authorizer { rules: Rules::default(), all: true, default: Access::Write }
    }

    /// Whether `name` may be read.
    pub fn may_read(&self, resource: Resource, name: &str) -> bool {
        self.all || self.rules.access(resource, name).unwrap_or(self.default) != Access::Deny
    }

    /// Whether `name` may be written.
    pub fn may_write(&self, resource: Resource, name: &str) -> bool {
        self.all || self.rules.access(resource, name).unwrap_or(self.default) == Access::Write
    }

    /// Whether all keys under a prefix may be written.
    pub fn may_write_tree(&self, prefix: &str) -> bool {
        self.may_write(Resource::Key, prefix) && (self.all || self.rules.all_under(prefix, Access::Write))
    }

    /// Whether it may do everything whatever the rules say.
    pub fn manages(&self) -> bool {
        self.all
    }
}

/// Policies and tokens.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Acl {
    policies: Map<String, Policy>,
    tokens: Map<String, Token>,
    accessors: Map<String, String>,
    /// The index at which the first token that manages came; 0 for not yet.
    bootstrapped: u64,
}

impl Acl {
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.values()
    }

    pub(crate) fn policy(&self, id: &str) -> Option<&Policy> {
        self.policies.get(id)
    }

    pub(crate) fn token(&self, accessor: &str) -> Option<&Token> {
        self.tokens.get(accessor)
    }

    pub(crate) fn token_of(&self, secret: &str) -> Option<&Token> {
        if secret.is_empty() || secret == ANONYMOUS_SECRET {
            return self.tokens.get(ANONYMOUS);
        }
        self.tokens.get(self.accessors.get(secret)?)
    }

    pub(crate) fn bootstrapped(&self) -> u64 {
        self.bootstrapped
    }

    pub(crate) fn authorizer(&self, secret: &str, default: Access) -> Option<Authorizer> {
        let mut merged = Authorizer { rules: Rules::default(), all: false, default };
        let token = self.token_of(secret);
        if token.is_none() && !secret.is_empty() && secret != ANONYMOUS_SECRET {
            return None;
        }
        for id in token.map(|token| token.policies.as_slice()).unwrap_or_default() {
            merged.all |= id == GLOBAL_MANAGEMENT;
            if let Some(policy) = self.policies.get(id) {
                merged.rules.merge(&policy.rules);
            }
        }
        Some(merged)
    }

    pub(crate) fn set_policy(&mut self, mut policy: Policy, at: u64) -> Answer {
        if policy.id == GLOBAL_MANAGEMENT || policy.name == "global-management" {
            return refused("the policy global-management cannot be changed; create another one");
        }
        if self.policies.values().any(|other| other.name == policy.name && other.id != policy.id) {
            let text = format!("Invalid Policy: A Policy with Name {:?} already exists", policy.name);
            return Answer::Refused(Refusal::Acl(text));
        }
        if self.policies.size() >= POLICIES_MAX && !self.policies.contains_key(&policy.id) {
            return Answer::Refused(Refusal::full("policies", POLICIES_MAX));
        }
        policy.create_index = self.policies.get(&policy.id).map_or(at, |before| before.create_index);
        policy.modify_index = at;
        self.policies.insert_mut(policy.id.clone(), policy);
        Answer::Done
    }

    pub(crate) fn delete_policy(&mut self, id: &str) -> Answer {
        if id == GLOBAL_MANAGEMENT {
            return refused("Delete operation not permitted on the builtin global-management policy");
        }
        self.policies.remove_mut(id);
        let holders = self.tokens.values().filter(|token| token.policies.iter().any(|held| held == id));
        for accessor in holders.map(|token| token.accessor.clone()).collect::<Vec<_>>() {
            if let Some(token) = self.tokens.get_mut(&accessor) {
                token.policies.retain(|held| held != id);
            }
        }
        Answer::Done
    }

    pub(crate) fn set_token(&mut self, mut token: Token, at: u64) -> Answer {
        let unknown = |id: &&String| *id != GLOBAL_MANAGEMENT && !self.policies.contains_key(*id);
        if let Some(id) = token.policies.iter().find(unknown) {
            return Answer::Refused(Refusal::Acl(format!("No such ACL policy with ID {id:?}")));
        }
        let before = self.tokens.get(&token.accessor);
        let taken = self.accessors.get(&token.secret).is_some_and(|held| *held != token.accessor);
        if taken || before.is_some_and(|before| before.secret != token.secret) {
            return refused("Invalid Token: SecretID is already in use, or is not the one that the token has");
        }
        if before.is_none() && self.tokens.size() >= TOKENS_MAX {
            return Answer::Refused(Refusal::full("tokens", TOKENS_MAX));
        }
        token.create_index = before.map_or(at, |before| before.create_index);
        token.create_time = before.map_or(token.create_time, |before| before.create_time.clone());
        token.modify_index = at;
        self.accessors.insert_mut(token.secret.clone(), token.accessor.clone());
        self.tokens.insert_mut(token.accessor.clone(), token);
        Answer::Done
    }

    pub(crate) fn delete_token(&mut self, accessor: &str) -> Answer {
        if accessor == ANONYMOUS {
            return refused("Delete operation not permitted on the anonymous token");
        }
        if let Some(token) = self.tokens.get(accessor).cloned() {
            self.accessors.remove_mut(&token.secret);
            self.tokens.remove_mut(accessor);
        }
        Answer::Done
    }

    pub(crate) fn bootstrap(&mut self, token: Token, at: u64) -> Answer {
        if self.bootstrapped != 0 {
            let text = format!("ACL bootstrap no longer allowed (reset index: {})", self.bootstrapped);
            return Answer::Refused(Refusal::Acl(text));
        }
        let answer = self.set_token(token, at);
        if answer == Answer::Done {
            self.bootstrapped = at;
        }
        answer
    }
}

/// More than anybody writes by hand.
const POLICIES_MAX: usize = 10_000;
const TOKENS_MAX: usize = 100_000;

fn refused(text: &str) -> Answer {
    Answer::Refused(Refusal::Acl(text.to_owned()))
}
