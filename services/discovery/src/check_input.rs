use std::collections::BTreeMap;
use std::time::Duration;

use registry::{CheckDefinition, CheckKind, HttpCheck, ServiceDefinition, Status, Thresholds};

use crate::input::Fields;
use crate::reply::Refused;

/// A service with its checks.
pub(crate) type ServiceChecks = (ServiceDefinition, Vec<CheckDefinition>);

/// Consul forgets no service sooner: less is raised to this.
const DEREGISTER_AFTER_LEAST: Duration = Duration::from_secs(60);

/// Checks that run programs here, or ask in ways that this discovery does not know.
const NOT_OFFERED: [&str; 7] = ["UDP", "H2PING", "Args", "ScriptArgs", "Script", "DockerContainerID", "OSService"];
/// How long an active check waits for its answer when it does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Nobody is asked more often than this.
const INTERVAL_LEAST: Duration = Duration::from_secs(1);

/// A service with the checks of its registration (`Check` and `Checks`), named as Consul names them.
pub(crate) fn service_checks(fields: &mut Fields, service: ServiceDefinition) -> Result<ServiceChecks, Refused> {
    let mut found = fields.list("Checks")?;
    found.extend(fields.fields("Check")?);
    let several = found.len() > 1;
    let mut checks = Vec::with_capacity(found.len());
    for (at, mut check) in found.into_iter().enumerate() {
        // A check that says nothing is none, as in Consul.
        let Some(mut definition) = agent_check_fields(&mut check)? else { continue };
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
    if !fields.is_set("Name") {
        return Err(Refused::bad_request("Missing check name"));
    }
    let no_kind = || Refused::bad_request("Invalid check: TTL must be > 0 for TTL checks");
    let mut check = agent_check_fields(&mut fields)?.ok_or_else(no_kind)?;
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
        ..CheckDefinition::default()
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

/// None when it does not say what kind of check it is.
fn agent_check_fields(fields: &mut Fields) -> Result<Option<CheckDefinition>, Refused> {
    if NOT_OFFERED.iter().any(|kind| fields.is_set(kind)) {
        return Err(Refused::not_offered("checks other than TTL, HTTP, TCP, gRPC and alias are"));
    }
    let interval = fields.duration("Interval")?.unwrap_or_default();
    let timeout = fields.duration("Timeout")?.unwrap_or_default();
    let status = status(&fields.text("Status")?)?;
    let Some(kind) = check_kind(fields, interval)? else { return Ok(None) };
    let thresholds = Thresholds {
        success_before_passing: fields.small_number("SuccessBeforePassing")?,
        failures_before_warning: fields.small_number("FailuresBeforeWarning")?,
        failures_before_critical: fields.small_number("FailuresBeforeCritical")?,
    };
    if thresholds.failures_before_warning > thresholds.failures_before_critical.max(1)
        && thresholds.failures_before_critical != 0
    {
        let text = "Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical";
        return Err(Refused::bad_request(text));
    }
    let service_id = fields.text("ServiceID")?;
    let deregister_after = fields.duration("DeregisterCriticalServiceAfter")?.filter(|after| !after.is_zero());
    let is_active = kind.is_active();
    Ok(Some(CheckDefinition {
        id: fields.first_text(&["CheckID", "ID"])?,
        name: fields.text("Name")?,
        notes: fields.text("Notes")?,
        service_id: (!service_id.is_empty()).then_some(service_id),
        status,
        output: fields.text("Output")?,
        kind,
        interval: if is_active { interval.max(INTERVAL_LEAST) } else { Duration::ZERO },
        timeout: match (is_active, timeout.is_zero()) {
            (true, true) => TIMEOUT_DEFAULT,
            (true, false) => timeout,
            (false, _) => Duration::ZERO,
        },
        thresholds,
        deregister_after: deregister_after.map(|after| after.max(DEREGISTER_AFTER_LEAST)),
    }))
}

fn check_kind(fields: &mut Fields, interval: Duration) -> Result<Option<CheckKind>, Refused> {
    let ttl = fields.duration("TTL")?.filter(|ttl| !ttl.is_zero());
    let (http, tcp, grpc) = (fields.text("HTTP")?, fields.text("TCP")?, fields.text("GRPC")?);
    let skip_verify = fields.truth("TLSSkipVerify")?;
    let kind = if !http.is_empty() {
        CheckKind::Http(http_check(fields, http, skip_verify)?)
    } else if !tcp.is_empty() {
        if fields.truth("TCPUseTLS")? {
            return Err(Refused::not_offered("TCP checks over TLS are"));
        }
        CheckKind::Tcp { address: tcp }
    } else if !grpc.is_empty() {
        CheckKind::Grpc { target: grpc, tls: fields.truth("GRPCUseTLS")?, tls_skip_verify: skip_verify }
    } else if fields.is_set("AliasService") || fields.is_set("AliasNode") {
        let service = fields.text("AliasService")?;
        CheckKind::Alias { node: fields.text("AliasNode")?, service: (!service.is_empty()).then_some(service) }
    } else {
        return Ok(ttl.map(CheckKind::Ttl));
    };
    if kind.is_active() && interval.is_zero() {
        return Err(Refused::bad_request("Invalid check: Interval must be > 0 for HTTP, TCP or gRPC checks"));
    }
    if ttl.is_some() {
        return Err(Refused::bad_request("Invalid check: Interval and TTL cannot both be specified"));
    }
    Ok(Some(kind))
}

fn http_check(fields: &mut Fields, url: String, tls_skip_verify: bool) -> Result<HttpCheck, Refused> {
    let is_address = url.parse::<hyper::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if !is_address {
        let text = format!("Invalid check: {url:?} is not the address of a web page; give http://host:port/path");
        return Err(Refused::bad_request(text));
    }
    let mut header = BTreeMap::new();
    for (name, values) in fields.object("Header")? {
        let wrong = || Refused::bad_request("Request decode failed: Header must be an object of lists of strings");
        let values = values.as_array().ok_or_else(wrong)?;
        let values: Option<Vec<String>> = values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        header.insert(name, values.ok_or_else(wrong)?);
    }
    Ok(HttpCheck {
        url,
        method: fields.text("Method")?,
        header,
        body: fields.text("Body")?,
        tls_skip_verify,
        disable_redirects: fields.truth("DisableRedirects")?,
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
    fn active_checks_say_whom_to_ask_and_how_often() {
        let check = agent_check(br#"{"Name":"x","HTTP":"http://y/z","Header":{"A":["b"]},"Interval":"10ms"}"#);
        let check = check.expect("a check");
        let CheckKind::Http(http) = &check.kind else { panic!("it asks a web server") };
        assert_eq!((http.url.as_str(), http.header["A"].as_slice()), ("http://y/z", &["b".to_owned()][..]));
        assert_eq!((check.interval, check.timeout), (INTERVAL_LEAST, TIMEOUT_DEFAULT));
        let check = agent_check(br#"{"Name":"x","GRPC":"h:1/svc","GRPCUseTLS":true,"Interval":"5s","Timeout":"2s"}"#);
        assert!(matches!(check.expect("a check").kind, CheckKind::Grpc { tls: true, .. }));
        let check = agent_check(br#"{"Name":"x","AliasService":"web"}"#).expect("a check");
        assert_eq!(check.kind, CheckKind::Alias { node: String::new(), service: Some("web".into()) });
    }

    #[test]
    fn checks_that_are_not_kept_are_refused() {
        let status = |body: &str| agent_check(body.as_bytes()).expect_err("refused").status.as_u16();
        assert_eq!(status(r#"{"Name":"x","Args":["true"],"Interval":"1s"}"#), 501);
        assert_eq!(status(r#"{"Name":"x","HTTP":"http://y"}"#), 400);
        assert_eq!(status(r#"{"Name":"x","HTTP":"y","Interval":"1s"}"#), 400);
        assert_eq!(status(r#"{"Name":"x","TCP":"y:1","Interval":"1s","TTL":"1s"}"#), 400);
        assert_eq!(status(r#"{"Name":"x"}"#), 400);
        assert_eq!(status(r#"{"Name":"x","TTL":"0s"}"#), 400);
        assert_eq!(status(r#"{"Name":"x","TTL":"1s","Status":"fine"}"#), 400);
        assert_eq!(status(r#"{"TTL":"1s"}"#), 400);
    }
}
