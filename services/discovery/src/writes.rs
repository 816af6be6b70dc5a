use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use registry::{Answer, Command, KvWrite, NodeDefinition, Refusal, Status};
use serde_json::json;

use crate::check_input::{agent_check, catalog_check, check_update};
use crate::endpoint::Endpoint;
use crate::host::{Host, NODE};
use crate::input::{Fields, agent_service, catalog_service};
use crate::params::Params;
use crate::reply::{Refused, written};

/// What a check says is cut to this.
const OUTPUT_MAX: usize = 4096;
/// Longer keys are refused.
const KEY_MAX: usize = 1024;

/// Does a PUT or DELETE.
pub(crate) async fn write(
    host: &Host,
    endpoint: &Endpoint,
    method: &Method,
    params: &Params,
    body: &[u8],
) -> Result<HttpResponse, Refused> {
    let node = || NODE.to_owned();
    match endpoint {
        Endpoint::RegisterService => {
            let (service, checks) = agent_service(body)?;
            let replace_checks = params.truth("replace-existing-checks")?;
            done(host, Command::RegisterService { node: node(), service, checks, replace_checks }).await
        }
        Endpoint::DeregisterService(id) => {
            done(host, Command::DeregisterService { node: node(), id: id.clone() }).await
        }
        Endpoint::RegisterCheck => done(host, Command::RegisterCheck { node: node(), check: agent_check(body)? }).await,
        Endpoint::DeregisterCheck(id) => done(host, Command::DeregisterCheck { node: node(), id: id.clone() }).await,
        Endpoint::RenewCheck(status, id) => {
            renew(host, id, *status, params.get("note").unwrap_or_default().to_owned()).await
        }
        Endpoint::UpdateCheck(id) => {
            let (status, output) = check_update(body)?;
            renew(host, id, status, output).await
        }
        Endpoint::CatalogRegister => catalog_register(host, params, body).await,
        Endpoint::CatalogDeregister => catalog_deregister(host, params, body).await,
        Endpoint::Kv(key) if *method == Method::DELETE => kv_delete(host, key, params).await,
        Endpoint::Kv(key) => kv_put(host, key, params, body).await,
        // The rest are reads, whose methods were checked before.
        _ => Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))),
    }
}

/// Gives one command and waits until it is on the disk. True: done; false: a compare-and-set that came too late.
async fn command(host: &Host, command: Command) -> Result<bool, Refused> {
    let applied = host.apply(command);
    let done = match &applied.answer {
        Answer::Done => true,
        Answer::NotSwapped => false,
        Answer::Refused(refusal) => return Err(refused(refusal)),
    };
    host.published(&applied).await.map_err(|error| not_durable(&error.0))?;
    Ok(done)
}

/// A command whose success is an empty answer.
async fn done(host: &Host, wanted: Command) -> Result<HttpResponse, Refused> {
    command(host, wanted).await?;
    Ok(HttpResponse::Ok().finish())
}

/// Renews a check. A renewal that changes no state is not waited for: after a restart each check gets a fresh TTL.
async fn renew(host: &Host, id: &str, status: Status, mut output: String) -> Result<HttpResponse, Refused> {
    let end = (0..=output.len().min(OUTPUT_MAX)).rev().find(|at| output.is_char_boundary(*at));
    output.truncate(end.unwrap_or(0));
    let applied = host.apply(Command::UpdateCheck { node: NODE.to_owned(), id: id.to_owned(), status, output });
    if let Answer::Refused(refusal) = &applied.answer {
        return Err(refused(refusal));
    }
    if applied.changed {
        host.published(&applied).await.map_err(|error| not_durable(&error.0))?;
    }
    Ok(HttpResponse::Ok().finish())
}

async fn catalog_register(host: &Host, params: &Params, body: &[u8]) -> Result<HttpResponse, Refused> {
    let mut fields = Fields::of_body(body)?;
    let name = fields.text("Node")?;
    let address = fields.text("Address")?;
    if name.is_empty() || address.is_empty() {
        return Err(Refused::bad_request("Must provide node and address"));
    }
    let node = NodeDefinition {
        id: fields.text("ID")?,
        name: name.clone(),
        address,
        tagged_addresses: fields.pairs("TaggedAddresses")?,
        meta: fields.pairs("NodeMeta")?,
    };
    let service = fields.fields("Service")?.map(|mut service| catalog_service(&mut service)).transpose()?;
    let mut checks = Vec::new();
    for mut check in fields.list("Checks")?.into_iter().chain(fields.fields("Check")?) {
        checks.push(catalog_check(&mut check)?);
    }
    let known = host.with_staged(|registry| registry.node(&name).is_some());
    if !(known && fields.truth("SkipNodeUpdate")?) {
        command(host, Command::RegisterNode(node)).await?;
    }
    if let Some(service) = service {
        let (checks, replace_checks) = (Vec::new(), false);
        command(host, Command::RegisterService { node: name.clone(), service, checks, replace_checks }).await?;
    }
    for check in checks {
        command(host, Command::RegisterCheck { node: name.clone(), check }).await?;
    }
    Ok(written(&json!(true), params.pretty()))
}

/// Removes a check, else a service, else the whole node; what is not there is as good as removed.
async fn catalog_deregister(host: &Host, params: &Params, body: &[u8]) -> Result<HttpResponse, Refused> {
    let mut fields = Fields::of_body(body)?;
    let node = fields.text("Node")?;
    if node.is_empty() {
        return Err(Refused::bad_request("Must provide node"));
    }
    let (service, check) = (fields.text("ServiceID")?, fields.text("CheckID")?);
    let wanted = match (service.is_empty(), check.is_empty()) {
        (_, false) => Command::DeregisterCheck { node, id: check },
        (false, true) => Command::DeregisterService { node, id: service },
        (true, true) => Command::DeregisterNode { node },
    };
    let applied = host.apply(wanted);
    host.published(&applied).await.map_err(|error| not_durable(&error.0))?;
    Ok(written(&json!(true), params.pretty()))
}

async fn kv_put(host: &Host, key: &str, params: &Params, body: &[u8]) -> Result<HttpResponse, Refused> {
    check_key(key)?;
    refuse_locks(params)?;
    let flags = params.number("flags")?.unwrap_or(0);
    let write = KvWrite { key: key.to_owned(), value: body.to_vec(), flags, cas: params.number("cas")? };
    let done = command(host, Command::KvPut(write)).await?;
    Ok(written(&json!(done), params.pretty()))
}

async fn kv_delete(host: &Host, key: &str, params: &Params) -> Result<HttpResponse, Refused> {
    refuse_locks(params)?;
    let cas = params.number("cas")?;
    let wanted = if params.has("recurse") {
        if cas.is_some() {
            return Err(Refused::bad_request("Conflicting flags: cas & recurse"));
        }
        Command::KvDeleteTree { prefix: key.to_owned() }
    } else {
        check_key(key)?;
        Command::KvDelete { key: key.to_owned(), cas }
    };
    let done = command(host, wanted).await?;
    Ok(written(&json!(done), params.pretty()))
}

fn check_key(key: &str) -> Result<(), Refused> {
    if key.is_empty() {
        return Err(Refused::bad_request("Missing key name"));
    }
    if key.len() > KEY_MAX {
        return Err(Refused::bad_request(format!("The key is {} bytes long; at most {KEY_MAX} are taken", key.len())));
    }
    Ok(())
}

/// A lock that is not kept must not seem to be: the writer would believe to hold it.
fn refuse_locks(params: &Params) -> Result<(), Refused> {
    if params.has("acquire") || params.has("release") {
        return Err(Refused::not_offered("sessions, and so locks on keys, are"));
    }
    Ok(())
}

fn refused(refusal: &Refusal) -> Refused {
    let status = match refusal {
        Refusal::UnknownNode(_) | Refusal::UnknownService(_) | Refusal::UnknownCheck(_) => StatusCode::NOT_FOUND,
        Refusal::NoTtl(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Refusal::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
    };
    Refused::new(status, refusal.to_string())
}

fn not_durable(why: &str) -> Refused {
    let text =
        format!("The change could not be written to the disk ({why}); it may still be, so read before trying again");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}
