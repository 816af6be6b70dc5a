//! The calls about access lists: policies and tokens.

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use registry::{ANONYMOUS, Command, GLOBAL_MANAGEMENT, Policy, Registry, Resource, Rules, Token};
use serde_json::{Value, json};

use crate::api::Call;
use crate::endpoint::AclCall;
use crate::input::Fields;
use crate::reply::{Refused, written};
use crate::units::now_rfc3339;
use crate::writes::submit;

pub(crate) async fn answer(call: &Call<'_>, which: &AclCall) -> Result<HttpResponse, Refused> {
    if !call.host.acl.enabled {
        return Err(Refused::new(StatusCode::UNAUTHORIZED, "ACL support disabled"));
    }
    let value = match (which, &call.method) {
        (AclCall::Bootstrap, _) => bootstrap(call).await?,
        (AclCall::TokenSelf, _) => token_self(call)?,
        (_, &Method::GET) => {
            call.guard.read(Resource::Acl, "")?;
            read(&call.host.shown(), which)?
        }
        _ => {
            call.guard.write(Resource::Acl, "")?;
            write(call, which).await?
        }
    };
    Ok(written(&value, call.params.pretty()))
}

async fn bootstrap(call: &Call<'_>) -> Result<Value, Refused> {
    let mut fields = if call.body.is_empty() { Fields::default() } else { Fields::of_body(&call.body)? };
    let secret = fields.text("BootstrapSecret")?;
    let token = Token {
        accessor: new_id(),
        secret: if secret.is_empty() { new_id() } else { secret },
        description: "Bootstrap Token (Global Management)".to_owned(),
        policies: vec![GLOBAL_MANAGEMENT.to_owned()],
        create_time: now_rfc3339(),
        ..Token::default()
    };
    let accessor = token.accessor.clone();
    submit(call.host, Command::BootstrapAcl(token)).await.map_err(|refused| Refused {
        status: StatusCode::FORBIDDEN,
        text: format!("Permission denied: {}", refused.text),
        ..refused
    })?;
    shown_token(call, &accessor)
}

fn token_self(call: &Call<'_>) -> Result<Value, Refused> {
    let registry = call.host.shown();
    let token = call.guard.token(&registry);
    token.map(|token| render_token(&registry, token, true)).ok_or_else(|| {
        Refused::new(StatusCode::FORBIDDEN, "ACL not found: the token that was shown is not one of the registry's")
    })
}

fn read(registry: &Registry, which: &AclCall) -> Result<Value, Refused> {
    let no_policy = || Refused::not_found("Requested policy does not exist: ACL not found");
    let no_token = || Refused::not_found("Requested token does not exist: ACL not found");
    let global = global_management();
    Ok(match which {
        AclCall::Policies => {
            std::iter::once(&global).chain(registry.policies()).map(|policy| render_policy(policy, false)).collect()
        }
        AclCall::Policy(id) if id == GLOBAL_MANAGEMENT => render_policy(&global, true),
        AclCall::Policy(id) => render_policy(registry.policy(id).ok_or_else(no_policy)?, true),
        AclCall::PolicyByName(name) if *name == global.name => render_policy(&global, true),
        AclCall::PolicyByName(name) => {
            let found = registry.policies().find(|policy| policy.name == *name);
            render_policy(found.ok_or_else(no_policy)?, true)
        }
        AclCall::Tokens => registry.tokens().map(|token| render_token(registry, token, true)).collect(),
        AclCall::Token(accessor) => render_token(registry, registry.token(accessor).ok_or_else(no_token)?, true),
        _ => Value::Null,
    })
}

async fn write(call: &Call<'_>, which: &AclCall) -> Result<Value, Refused> {
    match (which, &call.method) {
        (AclCall::NewPolicy, _) => set_policy(call, None).await,
        (AclCall::Policy(id), &Method::PUT) => set_policy(call, Some(id)).await,
        (AclCall::Policy(id), _) => {
            submit(call.host, Command::DeletePolicy { id: id.clone() }).await.map_err(as_bad_request)?;
            Ok(json!(true))
        }
        (AclCall::NewToken, _) => set_token(call, None).await,
        (AclCall::Token(accessor), &Method::PUT) => set_token(call, Some(accessor)).await,
        (AclCall::Token(accessor), _) => {
            submit(call.host, Command::DeleteToken { accessor: accessor.clone() }).await.map_err(as_bad_request)?;
            Ok(json!(true))
        }
        (AclCall::CloneToken(accessor), _) => clone_token(call, accessor).await,
        _ => Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")),
    }
}

async fn set_policy(call: &Call<'_>, id: Option<&String>) -> Result<Value, Refused> {
    let mut fields = Fields::of_body(&call.body)?;
    let (name, text) = (fields.text("Name")?, fields.text("Rules")?);
    let named = !name.is_empty() && name.len() <= 128;
    if !named || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        let text = "Invalid Policy: invalid Name. Only alphanumeric characters, a '-' and '_' are allowed";
        return Err(Refused::bad_request(text));
    }
    let before = id.and_then(|id| call.host.with(|registry| registry.policy(id).cloned()));
    if id.is_some_and(|id| id != GLOBAL_MANAGEMENT) && before.is_none() {
        return Err(Refused::not_found("Requested policy does not exist: ACL not found"));
    }
    let rules = Rules::parse(&text).map_err(|error| Refused::bad_request(error.to_string()))?;
    let policy_id = id.cloned().unwrap_or_else(new_id);
    let description = fields.text("Description")?;
    let policy = Policy { id: policy_id.clone(), name, description, text, rules, ..Policy::default() };
    submit(call.host, Command::SetPolicy(policy)).await.map_err(as_bad_request)?;
    let registry = call.host.shown();
    let gone = || Refused::not_found("Requested policy does not exist: it was removed meanwhile");
    Ok(render_policy(registry.policy(&policy_id).ok_or_else(gone)?, true))
}

async fn set_token(call: &Call<'_>, accessor: Option<&String>) -> Result<Value, Refused> {
    let mut fields = if call.body.is_empty() { Fields::default() } else { Fields::of_body(&call.body)? };
    for name in ["Roles", "ServiceIdentities", "NodeIdentities", "TemplatedPolicies", "ExpirationTTL", "ExpirationTime"]
    {
        if fields.is_set(name) {
            return Err(Refused::not_offered("tokens with roles, identities or an expiry are"));
        }
    }
    let registry = call.host.shown();
    let before = accessor.and_then(|accessor| registry.token(accessor));
    // The anonymous token is always there to be given policies.
    if accessor.is_some_and(|accessor| accessor != ANONYMOUS) && before.is_none() {
        return Err(Refused::not_found("Cannot find token to update: ACL not found"));
    }
    let mut policies = Vec::new();
    for mut link in fields.list("Policies")? {
        policies.push(policy_of(&registry, &link.text("ID")?, &link.text("Name")?)?);
    }
    let given = fields.text("AccessorID")?;
    let fresh = if given.is_empty() { new_id() } else { given };
    let accessor = accessor.cloned().unwrap_or(fresh);
    let secret = fields.text("SecretID")?;
    let secret = match before {
        Some(before) => before.secret.clone(),
        None if accessor == ANONYMOUS => "anonymous".to_owned(),
        None if secret.is_empty() => new_id(),
        None => secret,
    };
    let token = Token {
        accessor: accessor.clone(),
        secret,
        description: fields.text("Description")?,
        policies,
        local: fields.truth("Local")?,
        create_time: now_rfc3339(),
        ..Token::default()
    };
    submit(call.host, Command::SetToken(token)).await.map_err(as_bad_request)?;
    shown_token(call, &accessor)
}

async fn clone_token(call: &Call<'_>, accessor: &str) -> Result<Value, Refused> {
    let mut fields = if call.body.is_empty() { Fields::default() } else { Fields::of_body(&call.body)? };
    let found = call.host.with(|registry| registry.token(accessor).cloned());
    let original = found.ok_or_else(|| Refused::not_found("Cannot find token to clone: ACL not found"))?;
    if original.accessor == ANONYMOUS {
        return Err(Refused::bad_request("Cannot clone the anonymous token"));
    }
    let description = fields.text("Description")?;
    let token = Token {
        accessor: new_id(),
        secret: new_id(),
        description: if description.is_empty() { original.description } else { description },
        create_time: now_rfc3339(),
        ..original
    };
    let accessor = token.accessor.clone();
    submit(call.host, Command::SetToken(token)).await.map_err(as_bad_request)?;
    shown_token(call, &accessor)
}

fn policy_of(registry: &Registry, id: &str, name: &str) -> Result<String, Refused> {
    if id == GLOBAL_MANAGEMENT || name == "global-management" {
        return Ok(GLOBAL_MANAGEMENT.to_owned());
    }
    let found = registry.policies().find(|policy| policy.id == id || (id.is_empty() && policy.name == name));
    let which = if id.is_empty() { name } else { id };
    let unknown = || Refused::bad_request(format!("No such ACL policy with name or ID {which:?}"));
    found.map(|policy| policy.id.clone()).ok_or_else(unknown)
}

fn shown_token(call: &Call<'_>, accessor: &str) -> Result<Value, Refused> {
    let registry = call.host.shown();
    let gone = || Refused::not_found("Requested token does not exist: it was removed meanwhile");
    Ok(render_token(&registry, registry.token(accessor).ok_or_else(gone)?, true))
}

fn global_management() -> Policy {
    Policy {
        id: GLOBAL_MANAGEMENT.to_owned(),
        name: "global-management".to_owned(),
        description: "A policy that grants unlimited access".to_owned(),
        text: "acl = \"write\"\noperator = \"write\"".to_owned(),
        create_index: 1,
        modify_index: 1,
        ..Policy::default()
    }
}

fn render_policy(policy: &Policy, with_rules: bool) -> Value {
    let mut value = json!({
        "ID": policy.id,
        "Name": policy.name,
        "Description": policy.description,
        "Datacenters": null,
        "Hash": hash_of(&[&policy.name, &policy.description, &policy.text]),
        "CreateIndex": policy.create_index,
        "ModifyIndex": policy.modify_index,
    });
    if with_rules {
        value["Rules"] = json!(policy.text);
    }
    value
}

fn render_token(registry: &Registry, token: &Token, with_secret: bool) -> Value {
    let name_of = |id: &String| match registry.policy(id) {
        Some(policy) => policy.name.clone(),
        None => "global-management".to_owned(),
    };
    let policies: Vec<Value> = token.policies.iter().map(|id| json!({"ID": id, "Name": name_of(id)})).collect();
    json!({
        "AccessorID": token.accessor,
        "SecretID": if with_secret { token.secret.as_str() } else { "<hidden>" },
        "Description": token.description,
        "Policies": policies,
        "Local": token.local,
        "CreateTime": token.create_time,
        "Hash": hash_of(&[&token.description, &token.policies.join(",")]),
        "CreateIndex": token.create_index,
        "ModifyIndex": token.modify_index,
    })
}

fn hash_of(parts: &[&str]) -> String {
    use base64::Engine;
    let hash = blake3::hash(parts.join("\0").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash.as_bytes())
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn as_bad_request(refused: Refused) -> Refused {
    if refused.status == StatusCode::INTERNAL_SERVER_ERROR && !refused.text.contains("disk") {
        return Refused { status: StatusCode::BAD_REQUEST, ..refused };
    }
    refused
}
