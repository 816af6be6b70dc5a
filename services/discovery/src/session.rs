//! The calls about sessions.

use std::time::Duration;

use actix_web::HttpResponse;
use registry::{Behavior, Command, Refusal, Resource, Session, SessionDefinition};
use serde_json::{Value, json};

use crate::api::Call;
use crate::host::NODE;
use crate::input::Fields;
use crate::reply::{Refused, written};
use crate::units::{go_duration, parse_duration};
use crate::writes::submit;

const TTL_LEAST: Duration = Duration::from_secs(10);
const TTL_MOST: Duration = Duration::from_secs(24 * 3600);
const LOCK_DELAY_DEFAULT: Duration = Duration::from_secs(15);
const LOCK_DELAY_MOST: Duration = Duration::from_secs(60);
/// The check that says whether a node is there; sessions hang on it unless they say otherwise.
pub(crate) const NODE_CHECK: &str = "serfHealth";

/// `PUT /v1/session/create`.
pub(crate) async fn create(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let definition = definition(&call.body)?;
    call.guard.write(Resource::Session, &definition.node)?;
    let id = definition.id.clone();
    submit(call.host, Command::CreateSession(definition)).await.map_err(|refused| Refused {
        // Consul's agents put these words before what their servers say.
        text: format!("apply failed: {}", refused.text),
        ..refused
    })?;
    Ok(written(&json!({ "ID": id }), call.params.pretty()))
}

fn definition(body: &[u8]) -> Result<SessionDefinition, Refused> {
    let mut fields = if body.is_empty() { Fields::default() } else { Fields::of_body(body)? };
    let lock_delay = fields.lock_delay("LockDelay")?.unwrap_or(LOCK_DELAY_DEFAULT).min(LOCK_DELAY_MOST);
    let behavior = match fields.text("Behavior")?.as_str() {
        "" | "release" => Behavior::Release,
        "delete" => Behavior::Delete,
        other => return Err(Refused::by_server(format!("Invalid Behavior setting '{other}'"))),
    };
    // Both names of the list are in use; given but empty means that the session hangs on no check.
    let old = fields.texts_if_given("Checks")?;
    let new = fields.texts_if_given("NodeChecks")?;
    let node_checks = match (new, old) {
        (Some(new), Some(old)) => [new, old].concat(),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => vec![NODE_CHECK.to_owned()],
    };
    let mut service_checks = Vec::new();
    for mut check in fields.list("ServiceChecks")? {
        service_checks.push(check.text("ID")?);
    }
    let node = fields.text("Node")?;
    Ok(SessionDefinition {
        id: uuid::Uuid::new_v4().to_string(),
        name: fields.text("Name")?,
        node: if node.is_empty() { NODE.to_owned() } else { node },
        lock_delay,
        behavior,
        ttl: ttl(&fields.text("TTL")?)?,
        node_checks,
        service_checks,
    })
}

fn ttl(text: &str) -> Result<Option<Duration>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let Some(ttl) = parse_duration(text) else {
        return Err(Refused::by_server(format!("Session TTL '{text}' invalid: time: invalid duration {text:?}")));
    };
    if ttl.is_zero() {
        return Ok(None);
    }
    if !(TTL_LEAST..=TTL_MOST).contains(&ttl) {
        let nanos = ttl.as_nanos();
        let text = format!("Invalid Session TTL '{nanos}', must be between [10s=24h0m0s]");
        return Err(Refused::by_server(text));
    }
    Ok(Some(ttl))
}

/// `PUT /v1/session/destroy/:id`: one that is not there is as good as gone.
pub(crate) async fn destroy(call: &Call<'_>, id: &str) -> Result<HttpResponse, Refused> {
    let node = call.host.with(|registry| registry.session(id).map(|session| session.definition.node.clone()));
    if let Some(node) = node {
        call.guard.write(Resource::Session, &node)?;
    }
    submit(call.host, Command::DestroySession { id: id.to_owned() }).await?;
    Ok(written(&json!(true), call.params.pretty()))
}

/// `PUT /v1/session/renew/:id`.
pub(crate) async fn renew(call: &Call<'_>, id: &str) -> Result<HttpResponse, Refused> {
    let found = call.host.with(|registry| registry.session(id).cloned());
    let Some(session) = found else {
        return Err(Refused::not_found(Refusal::NoSession(id.to_owned()).to_string()));
    };
    call.guard.write(Resource::Session, &session.definition.node)?;
    submit(call.host, Command::RenewSession { id: id.to_owned() }).await?;
    Ok(written(&json!([render(&session)]), call.params.pretty()))
}

/// A session in Consul's shape.
pub(crate) fn render(session: &Session) -> Value {
    let definition = &session.definition;
    let service_checks: Vec<Value> =
        definition.service_checks.iter().map(|id| json!({"ID": id, "Namespace": ""})).collect();
    json!({
        "ID": definition.id,
        "Name": definition.name,
        "Node": definition.node,
        "LockDelay": u64::try_from(definition.lock_delay.as_nanos()).unwrap_or(u64::MAX),
        "Behavior": definition.behavior.word(),
        "TTL": definition.ttl.map(go_duration).unwrap_or_default(),
        "NodeChecks": definition.node_checks,
        "ServiceChecks": if service_checks.is_empty() { Value::Null } else { Value::Array(service_checks) },
        "CreateIndex": session.create_index,
        "ModifyIndex": session.create_index,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_consuls_defaults() {
        let session = definition(b"").expect("nothing need be said");
        assert_eq!(session.node_checks, [NODE_CHECK]);
        assert_eq!((session.lock_delay, session.ttl), (LOCK_DELAY_DEFAULT, None));
        let session =
            definition(br#"{"LockDelay":"0s","TTL":"10s","Behavior":"delete","NodeChecks":[]}"#).expect("one");
        assert_eq!((session.lock_delay, session.ttl), (Duration::ZERO, Some(TTL_LEAST)));
        assert!(session.node_checks.is_empty());
        assert_eq!(definition(br#"{"LockDelay":5}"#).expect("one").lock_delay, Duration::from_secs(5), "seconds");
        assert_eq!(definition(br#"{"LockDelay":"2h"}"#).expect("one").lock_delay, LOCK_DELAY_MOST);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        for (body, word) in [
            (&br#"{"TTL":"1s"}"#[..], "must be between"),
            (br#"{"TTL":"25h"}"#, "must be between"),
            (br#"{"TTL":"soon"}"#, "invalid duration"),
            (br#"{"Behavior":"keep"}"#, "Invalid Behavior"),
            (br#"{"LockDelay":"x"}"#, "LockDelay"),
            (br#"{"Checks":"x"}"#, "Checks"),
        ] {
            let refused = definition(body).expect_err("out of bounds");
            assert!(refused.text.contains(word), "{}", refused.text);
        }
    }
}
