use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use registry::{Answer, CheckDefinition, Command, Event, Refusal, Resource, Status, TxnOp, Verb};
use serde_json::json;

use crate::api::Call;
use crate::check_input::{agent_check, catalog_check, check_update};
use crate::endpoint::Endpoint;
use crate::host::{Host, NODE};
use crate::input::{Fields, agent_service, catalog_node, catalog_service};
use crate::render;
use crate::reply::{Refused, written};

/// What a check says is cut to this.
const OUTPUT_MAX: usize = 4096;
/// Consul's names of the checks that stand for maintenance.
const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// Does a PUT of the agent, the catalogue or the events.
pub(crate) async fn write(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let node = || NODE.to_owned();
    let (host, params, body) = (call.host, &call.params, call.body.as_slice());
    match &call.endpoint {
        Endpoint::RegisterService => {
            let (service, checks) = agent_service(body)?;
            call.guard.write(Resource::Service, &service.name)?;
            let replace_checks = params.truth("replace-existing-checks")?;
            done(host, Command::RegisterService { node: node(), service, checks, replace_checks }).await
        }
        Endpoint::DeregisterService(id) => {
            own_service(call, id)?;
            done(host, Command::DeregisterService { node: node(), id: id.clone() }).await
        }
        Endpoint::ServiceMaintenance(id) => {
            let reason =
                "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";
            let on = maintenance(call)?;
            own_service(call, id)?;
            let check = maintenance_check(call, format!("{SERVICE_MAINTENANCE}{id}"), Some(id), reason);
            set_maintenance(host, on, check).await
        }
        Endpoint::AgentMaintenance => {
            let reason =
                "Maintenance mode is enabled for this node, but no reason was provided. This is a default message.";
            let on = maintenance(call)?;
            call.guard.write(Resource::Node, NODE)?;
            set_maintenance(host, on, maintenance_check(call, NODE_MAINTENANCE.to_owned(), None, reason)).await
        }
        Endpoint::RegisterCheck => {
            let check = agent_check(body)?;
            own_check(call, check.service_id.as_deref())?;
            done(host, Command::RegisterCheck { node: node(), check }).await
        }
        Endpoint::DeregisterCheck(id) => {
            own_check(call, owner_of(host, id).as_deref())?;
            done(host, Command::DeregisterCheck { node: node(), id: id.clone() }).await
        }
        Endpoint::RenewCheck(status, id) => {
            own_check(call, owner_of(host, id).as_deref())?;
            renew(host, id, *status, params.get("note").unwrap_or_default().to_owned()).await
        }
        Endpoint::UpdateCheck(id) => {
            let (status, output) = check_update(body)?;
            own_check(call, owner_of(host, id).as_deref())?;
            renew(host, id, status, output).await
        }
        Endpoint::CatalogRegister => catalog_register(call).await,
        Endpoint::CatalogDeregister => catalog_deregister(call).await,
        Endpoint::EventFire(name) => fire(call, name).await,
        // The rest are reads or answered elsewhere; methods were checked before.
        _ => Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {} not allowed", call.method))),
    }
}

/// What became of a command that was not refused.
pub(crate) type Done = Answer;

/// Gives one command and waits until it is on the disk.
pub(crate) async fn submit(host: &Host, command: Command) -> Result<Done, Refused> {
    match host.propose(command).await? {
        Answer::Refused(refusal) => Err(refused(&refusal)),
        answer => Ok(answer),
    }
}

/// True: done; false: a compare-and-set that came too late, or a lock that another session holds.
pub(crate) fn truth_of(done: &Done) -> bool {
    matches!(done, Answer::Done | Answer::Txn(_))
}

/// A command whose success is an empty answer.
async fn done(host: &Host, wanted: Command) -> Result<HttpResponse, Refused> {
    submit(host, wanted).await?;
    Ok(HttpResponse::Ok().finish())
}

/// The right to write an instance of this agent, if there is one.
fn own_service(call: &Call<'_>, id: &str) -> Result<(), Refused> {
    let name = call.host.with(|registry| registry.service_on(NODE, id).map(|found| found.definition.name.clone()));
    match name {
        Some(name) => call.guard.write(Resource::Service, &name),
        None => Err(refused(&Refusal::UnknownService(id.to_owned()))),
    }
}

/// The right to write a check: that of its instance, or of the node.
fn own_check(call: &Call<'_>, owner: Option<&str>) -> Result<(), Refused> {
    let Some(owner) = owner else { return call.guard.write(Resource::Node, NODE) };
    let name = call.host.with(|registry| registry.service_on(NODE, owner).map(|found| found.definition.name.clone()));
    match name {
        Some(name) => call.guard.write(Resource::Service, &name),
        None => Err(Refused::not_found(format!("ServiceID {owner:?} does not exist"))),
    }
}

fn owner_of(host: &Host, check: &str) -> Option<String> {
    host.with(|registry| {
        registry.checks_on(NODE).find(|found| found.definition.id == check)?.definition.service_id.clone()
    })
}

fn maintenance(call: &Call<'_>) -> Result<bool, Refused> {
    match call.params.get("enable") {
        None | Some("") => Err(Refused::bad_request("Missing value for enable")),
        Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Refused::bad_request(format!("Invalid value for enable: {other:?}"))),
    }
}

fn maintenance_check(call: &Call<'_>, id: String, service: Option<&str>, reason: &str) -> CheckDefinition {
    let given = call.params.get("reason").filter(|reason| !reason.is_empty());
    CheckDefinition {
        id,
        name: if service.is_some() { "Service Maintenance Mode" } else { "Node Maintenance Mode" }.to_owned(),
        notes: given.unwrap_or(reason).to_owned(),
        service_id: service.map(str::to_owned),
        status: Status::Critical,
        ..CheckDefinition::default()
    }
}

/// Maintenance is a check that is critical for as long as it lasts.
async fn set_maintenance(host: &Host, on: bool, check: CheckDefinition) -> Result<HttpResponse, Refused> {
    if on {
        return done(host, Command::RegisterCheck { node: NODE.to_owned(), check }).await;
    }
    match submit(host, Command::DeregisterCheck { node: NODE.to_owned(), id: check.id }).await {
        // It was not on.
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(HttpResponse::Ok().finish()),
        Err(error) => Err(error),
        Ok(_) => Ok(HttpResponse::Ok().finish()),
    }
}

async fn fire(call: &Call<'_>, name: &str) -> Result<HttpResponse, Refused> {
    call.guard.write(Resource::Event, name)?;
    let given = |name: &str| call.params.get(name).unwrap_or_default().to_owned();
    let event = Event {
        id: uuid::Uuid::new_v4().to_string(),
        name: name.to_owned(),
        payload: call.body.clone(),
        node_filter: given("node"),
        service_filter: given("service"),
        tag_filter: given("tag"),
    };
    submit(call.host, Command::FireEvent(event.clone())).await?;
    Ok(written(&render::event(0, &event), call.params.pretty()))
}

/// Renews a check. A renewal that changes no state is not waited for: after a restart each check gets a fresh TTL.
async fn renew(host: &Host, id: &str, status: Status, mut output: String) -> Result<HttpResponse, Refused> {
    let end = (0..=output.len().min(OUTPUT_MAX)).rev().find(|at| output.is_char_boundary(*at));
    output.truncate(end.unwrap_or(0));
    done(host, Command::UpdateCheck { node: NODE.to_owned(), id: id.to_owned(), status, output }).await
}

async fn catalog_register(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let mut fields = Fields::of_body(&call.body)?;
    let service = fields.fields("Service")?.map(|mut service| catalog_service(&mut service)).transpose()?;
    let mut checks = Vec::new();
    for mut check in fields.list("Checks")?.into_iter().chain(fields.fields("Check")?) {
        checks.push(catalog_check(&mut check)?);
    }
    let skip_node = fields.truth("SkipNodeUpdate")?;
    let node = catalog_node(&mut fields)?;
    if node.name.is_empty() {
        return Err(Refused::by_server("Must provide node"));
    }
    let known = call.host.with(|registry| registry.node(&node.name).is_some());
    if node.address.is_empty() && !skip_node {
        return Err(Refused::by_server("Must provide address if SkipNodeUpdate is not set"));
    }
    let name = node.name.clone();
    match &service {
        Some(service) => call.guard.write(Resource::Service, &service.name)?,
        None => call.guard.write(Resource::Node, &name)?,
    }
    // All of it or nothing, and one write to the disk.
    let mut ops = Vec::new();
    if !(known && skip_node) {
        call.guard.write(Resource::Node, &name)?;
        ops.push(TxnOp::Node(Verb::Set, node));
    }
    ops.extend(service.map(|service| TxnOp::Service(Verb::Set, name.clone(), service)));
    ops.extend(checks.into_iter().map(|check| TxnOp::Check(Verb::Set, name.clone(), check)));
    if let Answer::TxnFailed(errors) = submit(call.host, Command::Txn(ops)).await? {
        let why = errors.into_iter().next().map(|error| error.what).unwrap_or_default();
        return Err(Refused::by_server(why));
    }
    Ok(written(&json!(true), call.params.pretty()))
}

/// Removes a check, else a service, else the whole node; what is not there is as good as removed.
async fn catalog_deregister(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let mut fields = Fields::of_body(&call.body)?;
    let node = fields.text("Node")?;
    if node.is_empty() {
        return Err(Refused::by_server("Must provide node"));
    }
    let (service, check) = (fields.text("ServiceID")?, fields.text("CheckID")?);
    let name =
        call.host.with(|registry| registry.service_on(&node, &service).map(|found| found.definition.name.clone()));
    match name.filter(|_| check.is_empty()) {
        Some(name) => call.guard.write(Resource::Service, &name)?,
        None => call.guard.write(Resource::Node, &node)?,
    }
    let wanted = match (service.is_empty(), check.is_empty()) {
        (_, false) => Command::DeregisterCheck { node, id: check },
        (false, true) => Command::DeregisterService { node, id: service },
        (true, true) => Command::DeregisterNode { node },
    };
    match submit(call.host, wanted).await {
        Err(error) if error.status != StatusCode::NOT_FOUND => Err(error),
        _ => Ok(written(&json!(true), call.params.pretty())),
    }
}

/// What a refusal of the registry means to Consul's clients.
fn refused(refusal: &Refusal) -> Refused {
    let status = match refusal {
        Refusal::UnknownNode(_) | Refusal::UnknownService(_) | Refusal::UnknownCheck(_) | Refusal::NoSession(_) => {
            StatusCode::NOT_FOUND
        }
        Refusal::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::NoTtl(_)
        | Refusal::UnknownSession(_)
        | Refusal::NoNodeForSession
        | Refusal::NoCheckForSession(_)
        | Refusal::CheckCritical(_)
        | Refusal::Acl(_)
        | Refusal::Snapshot(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refused::new(status, refusal.to_string())
}
