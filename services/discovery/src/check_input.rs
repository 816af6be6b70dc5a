use std::time::Duration;

use registry::{CheckDefinition, ServiceDefinition, Status};

use crate::input::Fields;
use crate::reply::Refused;

/// A service with its checks.
pub(crate) type ServiceChecks = (ServiceDefinition, Vec<CheckDefinition>);

/// Consul forgets no service sooner: less is raised to this.
const DEREGISTER_AFTER_LEAST: Duration = Duration::from_secs(60);

/// Checks by which Consul's agent asks the service. Ours does not reach out to anybody.
const ACTIVE_CHECKS: [&str; 10] =
    ["HTTP", "TCP", "UDP", "GRPC", "H2PING", "Args", "Script", "DockerContainerID", "AliasService", "AliasNode"];

/// A service with the checks of its registration (`Check` and `Checks`), named as Consul names them.
pub(crate) fn service_checks(fields: &mut Fields, service: ServiceDefinition) -> Result<ServiceChecks, Refused> {
    let mut found = fields.list("Checks")?;
    found.extend(fields.fields("Check")?);
    let several = found.len() > 1;
    let mut checks = Vec::with_capacity(found.len());
    for (at, mut check) in found.into_iter().enumerate() {
        let mut definition = agent_check_fields(&mut check)?;
        if definition.id.is_empty() {
            let number = if several { format!(":{}", at + 1) } else { String::new() };
            definition.id = format!("service:{}{number}", service.id);
        }
        if definition.name.is_empty() {
            definition.name = format!("Service '{}' check", service.name);
        }
        definition.service_id = Some(service.id.clone());
        checks.push(definition);
    }
    Ok((service, checks))
}

/// The body of `PUT /v1/agent/check/register`.
pub(crate) fn agent_check(body: &[u8]) -> Result<CheckDefinition, Refused> {
    let mut fields = Fields::of_body(body)?;
    let mut check = agent_check_fields(&mut fields)?;
    if check.name.is_empty() {
        return Err(Refused::bad_request("Missing check name"));
    }
    if check.id.is_empty() {
        check.id.clone_from(&check.name);
    }
    Ok(check)
}

/// A check in the body of `PUT /v1/catalog/register`: its state is whatever its registrar says.
pub(crate) fn catalog_check(fields: &mut Fields) -> Result<CheckDefinition, Refused> {
    let name = fields.text("Name")?;
    let id = fields.first_text(&["CheckID", "ID"])?;
    let id = if id.is_empty() { name.clone() } else { id };
    if id.is_empty() {
        return Err(Refused::bad_request("Must provide a check's CheckID or Name"));
    }
    let service_id = fields.text("ServiceID")?;
    Ok(CheckDefinition {
        id,
        name,
        notes: fields.text("Notes")?,
        service_id: (!service_id.is_empty()).then_some(service_id),
        status: status(&fields.text("Status")?)?,
        output: fields.text("Output")?,
        ttl: None,
        deregister_after: None,
    })
}

/// The body of `PUT /v1/agent/check/update/:id`.
pub(crate) fn check_update(body: &[u8]) -> Result<(Status, String), Refused> {
    let mut fields = Fields::of_body(body)?;
    let word = fields.text("Status")?;
    let Some(status) = Status::parse(&word) else {
        return Err(Refused::bad_request(format!("Invalid check status: '{word}'")));
    };
    Ok((status, fields.text("Output")?))
}

fn agent_check_fields(fields: &mut Fields) -> Result<CheckDefinition, Refused> {
    if ACTIVE_CHECKS.iter().any(|kind| fields.is_set(kind)) {
        return Err(Refused::not_offered("checks other than TTL are"));
    }
    let Some(ttl) = fields.duration("TTL")?.filter(|ttl| !ttl.is_zero()) else {
        return Err(Refused::bad_request("Invalid check: TTL must be > 0 for TTL checks"));
    };
    let service_id = fields.text("ServiceID")?;
    let deregister_after = fields.duration("DeregisterCriticalServiceAfter")?.filter(|after| !after.is_zero());
    Ok(CheckDefinition {
        id: fields.first_text(&["CheckID", "ID"])?,
        name: fields.text("Name")?,
        notes: fields.text("Notes")?,
        service_id: (!service_id.is_empty()).then_some(service_id),
        status: status(&fields.text("Status")?)?,
        output: fields.text("Output")?,
        ttl: Some(ttl),
        deregister_after: deregister_after.map(|after| after.max(DEREGISTER_AFTER_LEAST)),
    })
}

/// A check that does not say how it starts, starts critical.
fn status(word: &str) -> Result<Status, Refused> {
    if word.is_empty() {
        return Ok(Status::Critical);
    }
    let refused = || Refused::bad_request("Status for checks must 'passing', 'warning', 'critical'");
    Status::parse(word).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::agent_service;

    #[test]
    fn checks_are_named_as_consul_names_them() {
        let ids = |body: &str| {
            let (_, checks) = agent_service(body.as_bytes()).expect("a registration");
            checks.into_iter().map(|check| check.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(r#"{"Name":"w","ID":"w1","Check":{"TTL":"10s"}}"#), ["service:w1"]);
        assert_eq!(
            ids(r#"{"Name":"w","Checks":[{"TTL":"1s"},{"TTL":1000000000,"CheckID":"mine"}]}"#),
            ["service:w:1", "mine"]
        );
    }

    #[test]
    fn a_check_starts_critical_and_forgets_no_sooner_than_a_minute() {
        let body = br#"{"Name":"mem","TTL":"30s","DeregisterCriticalServiceAfter":"1s"}"#;
        let check = agent_check(body).expect("a check");
        assert_eq!((check.status, check.deregister_after), (Status::Critical, Some(Duration::from_secs(60))));
    }

    #[test]
    fn checks_that_are_not_kept_are_refused() {
        let status = |body: &str| agent_check(body.as_bytes()).expect_err("refused").status.as_u16();
        assert_eq!(status(r#"{"Name":"x","HTTP":"http://y","Interval":"1s"}"#), 501);
        assert_eq!(status(r#"{"Name":"x"}"#), 400);
        assert_eq!(status(r#"{"Name":"x","TTL":"0s"}"#), 400);
        assert_eq!(status(r#"{"Name":"x","TTL":"1s","Status":"fine"}"#), 400);
        assert_eq!(status(r#"{"TTL":"1s"}"#), 400);
    }
}
