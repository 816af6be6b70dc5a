//! The agent's own calls that have a shape or a wait of their own.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use registry::{Registry, Resource, Service, Status, Watch};
use serde_json::{Value, json};

use crate::api::Call;
use crate::host::NODE;
use crate::params::ReadOptions;
use crate::render;
use crate::reply::{Refused, with_status};
use crate::session::NODE_CHECK;

/// `GET /v1/agent/service/:id`, which waits by the hash of its answer instead of an index.
pub(crate) async fn service(call: &Call<'_>, id: &str) -> Result<HttpResponse, Refused> {
    let options = call.params.read_options()?;
    let known = call.params.get("hash").unwrap_or_default();
    let subject = Watch::Node(NODE.to_owned());
    let deadline = tokio::time::Instant::now() + options.wait;
    loop {
        let (found, index) =
            call.host.with(|registry| (registry.service_on(NODE, id).cloned(), registry.index_of(&subject)));
        let unknown = || Refused::not_found(format!("unknown service ID: {id}"));
        let found = found.ok_or_else(unknown)?;
        call.guard.read(Resource::Service, &found.definition.name)?;
        let (body, hash) = with_hash(&found);
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if hash != known || left.is_zero() || call.host.is_closing() {
            let mut answer = with_status(StatusCode::OK, &body, call.params.pretty());
            let name = actix_web::http::header::HeaderName::from_static("x-consul-contenthash");
            if let Ok(value) = actix_web::http::header::HeaderValue::from_str(&hash) {
                answer.headers_mut().insert(name, value);
            }
            return Ok(answer);
        }
        // Whatever changes on this node may have changed this service; the hash tells.
        call.host.read(&subject, &ReadOptions { index, wait: left.max(Duration::from_millis(1)), ..options }).await?;
    }
}

fn with_hash(found: &Service) -> (Value, String) {
    let mut body = render::service(found);
    if let Value::Object(fields) = &mut body {
        fields
            .retain(|name, _| !["CreateIndex", "ModifyIndex", "PeerName", "Connect", "Proxy"].contains(&name.as_str()));
    }
    let hash = blake3::hash(body.to_string().as_bytes()).to_hex()[..16].to_owned();
    body["ContentHash"] = json!(hash);
    (body, hash)
}

/// `GET /v1/agent/health/service/{name,id}/:x`: the status says how it is, for load balancers that read no JSON.
pub(crate) fn health(call: &Call<'_>, by_name: bool, which: &str) -> Result<HttpResponse, Refused> {
    let as_text = call.params.get("format") == Some("text");
    let found = call.host.with(|registry| {
        let chosen = registry.services_on(NODE).filter(|service| {
            let definition = &service.definition;
            let named = if by_name { &definition.name } else { &definition.id };
            named == which && call.guard.sees(Resource::Service, &definition.name)
        });
        chosen.map(|service| entry(registry, service)).collect::<Vec<_>>()
    });
    let worst = found.iter().map(|(status, _)| *status).max();
    let status = match worst {
        None => StatusCode::NOT_FOUND,
        Some(Status::Passing) => StatusCode::OK,
        Some(Status::Warning) => StatusCode::TOO_MANY_REQUESTS,
        Some(Status::Critical) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let word = worst.unwrap_or(Status::Critical).to_string();
    let mut answer = if as_text {
        HttpResponse::build(status).content_type("text/plain; charset=utf-8").body(word.clone())
    } else if by_name {
        let entries: Vec<Value> = found.into_iter().map(|(_, entry)| entry).collect();
        with_status(status, &Value::Array(entries), call.params.pretty())
    } else {
        let none = || json!({"AggregatedStatus": "critical", "Service": null, "Checks": null});
        let entry = found.into_iter().next().map_or_else(none, |(_, entry)| entry);
        with_status(status, &entry, call.params.pretty())
    };
    let reason = match (worst, by_name) {
        (Some(_), _) => word,
        (None, true) => format!("ServiceName {which} Not Found"),
        (None, false) => format!("ServiceId {which} not found"),
    };
    let name = actix_web::http::header::HeaderName::from_static("x-consul-reason");
    // A name that cannot stand in a header is left out; the status says it all.
    if let Ok(value) = actix_web::http::header::HeaderValue::from_str(&reason) {
        answer.headers_mut().insert(name, value);
    }
    Ok(answer)
}

fn entry(registry: &Registry, service: &Service) -> (Status, Value) {
    // The node's own liveness is the servers' finding, not this agent's.
    let concerns = registry
        .checks_on(NODE)
        .filter(|check| check.definition.id != NODE_CHECK)
        .filter(|check| check.definition.service_id.as_ref().is_none_or(|owner| *owner == service.definition.id));
    let checks: Vec<_> = concerns.collect();
    let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Passing);
    let checks: Vec<Value> = checks.into_iter().map(|check| render::check(registry, NODE, check)).collect();
    let entry = json!({"AggregatedStatus": status.to_string(), "Service": render::service(service), "Checks": checks});
    (status, entry)
}
