//! Active checks: asks services over HTTP, TCP and gRPC how they are, and tells the registry what it found.
//!
//! One task a check; what is asked follows the registry as it is shown. Nothing is decided here but how many answers in
//! a row count ([`Streak`]); what a state means is the registry's matter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use registry::{CheckDefinition, CheckKind, Command, HttpCheck, Status, Thresholds, Watch};
use tokio::task::JoinHandle;

use crate::host::{Host, NODE, Seen};
use crate::params::{Consistency, ReadOptions};
use crate::tls;

/// What a check says is cut to this, as in Consul.
const OUTPUT_MAX: usize = 4096;
/// How much of an answer's body is read to be shown.
const BODY_MAX: usize = 64 << 10;
const REDIRECTS_MAX: usize = 10;
/// How long the list of checks is waited for before it is looked at again; a change is told at once.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

type Web = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Those who ask. Cheap to clone.
#[derive(Clone)]
struct Askers {
    web: Web,
    web_any_certificate: Web,
    grpc: Web,
    grpc_any_certificate: Web,
}

/// Keeps one task a check for as long as it is polled; they end with it.
pub(crate) async fn run(host: Arc<Host>) {
    let askers = Askers::new();
    let mut tasks: BTreeMap<String, (CheckDefinition, Task)> = BTreeMap::new();
    let subject = Watch::Node(NODE.to_owned());
    let mut index = 0;
    let mut statuses = host.statuses();
    loop {
        if !host.leads() {
            // One replica asks for all, and that is the one that leads.
            tasks.clear();
            index = 0;
            if statuses.wait_for(Seen::leads).await.is_err() {
                return;
            }
            continue;
        }
        let options = ReadOptions { index, wait: LOOK_AGAIN, consistency: Consistency::Stale, pretty: false };
        let registry = tokio::select! {
            // Whoever takes an old copy is refused nothing.
            Ok(registry) = host.read(&subject, &options) => registry,
            Ok(_) = statuses.wait_for(|seen| !seen.leads()) => continue,
            else => return,
        };
        if host.is_closing() {
            return;
        }
        index = registry.index_of(&subject);
        let wanted: BTreeMap<&String, &CheckDefinition> = registry
            .checks_on(NODE)
            .filter(|check| check.definition.kind.is_active())
            .map(|check| (&check.definition.id, &check.definition))
            .collect();
        tasks.retain(|id, (definition, _)| wanted.get(id) == Some(&&*definition));
        for (id, definition) in wanted {
            tasks.entry(id.clone()).or_insert_with(|| {
                let asking = ask_for_ever(Arc::clone(&host), askers.clone(), definition.clone());
                (definition.clone(), Task(tokio::spawn(asking)))
            });
        }
    }
}

/// A task that ends when it is dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask_for_ever(host: Arc<Host>, askers: Askers, definition: CheckDefinition) {
    // Checks that were registered together are not asked for together.
    tokio::time::sleep(definition.interval.mul_f64(rand::random_range(0.0..1.0))).await;
    let mut streak = Streak::new(definition.thresholds);
    let mut told: Option<(Status, String)> = None;
    loop {
        let asked = tokio::time::timeout(definition.timeout, askers.ask(&definition.kind)).await;
        let (found, mut output) =
            asked.unwrap_or_else(|_| (Status::Critical, format!("no answer within {:?}", definition.timeout)));
        let end = (0..=output.len().min(OUTPUT_MAX)).rev().find(|at| output.is_char_boundary(*at));
        output.truncate(end.unwrap_or(0));
        if let Some(status) = streak.note(found) {
            let now = (status, output);
            if told.as_ref() != Some(&now) {
                let (status, output) = now.clone();
                let (node, id) = (NODE.to_owned(), definition.id.clone());
                // Not agreed on: told again with the next answer.
                let agreed = host.propose(Command::CheckResult { node, id, status, output }).await;
                told = agreed.is_ok().then_some(now);
            }
        }
        tokio::time::sleep(definition.interval).await;
    }
}

/// How many good or bad answers there were in a row.
#[derive(Debug)]
struct Streak {
    thresholds: Thresholds,
    good: u32,
    bad: u32,
}

impl Streak {
    fn new(thresholds: Thresholds) -> Streak {
        Streak { thresholds, good: 0, bad: 0 }
    }

    /// Counts an answer; gives the state that now holds, or none if there are too few to change it.
    fn note(&mut self, found: Status) -> Option<Status> {
        let critical = self.thresholds.failures_before_critical.max(1);
        let warning = match self.thresholds.failures_before_warning {
            0 => critical,
            some => some,
        };
        if found == Status::Critical {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            if self.bad >= critical {
                return Some(Status::Critical);
            }
            return (self.bad >= warning).then_some(Status::Warning);
        }
        self.bad = 0;
        self.good = self.good.saturating_add(1);
        (self.good >= self.thresholds.success_before_passing).then_some(found)
    }
}

impl Askers {
    fn new() -> Askers {
        let web = |any_certificate: bool, only_http2: bool| {
            let builder = hyper_rustls::HttpsConnectorBuilder::new();
            let builder = builder.with_tls_config(tls::client_config(any_certificate)).https_or_http();
            let connector = if only_http2 { builder.enable_http2().build() } else { builder.enable_http1().build() };
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).http2_only(only_http2).build(connector)
        };
        Askers {
            web: web(false, false),
            web_any_certificate: web(true, false),
            grpc: web(false, true),
            grpc_any_certificate: web(true, true),
        }
    }

    async fn ask(&self, kind: &CheckKind) -> (Status, String) {
        match kind {
            CheckKind::Http(check) => {
                let web = if check.tls_skip_verify { &self.web_any_certificate } else { &self.web };
                ask_http(web, check).await.unwrap_or_else(|why| (Status::Critical, why))
            }
            CheckKind::Tcp { address } => match tokio::net::TcpStream::connect(address.as_str()).await {
                Ok(_) => (Status::Passing, format!("TCP connect {address}: Success")),
                Err(error) => (Status::Critical, format!("TCP connect {address}: {error}")),
            },
            CheckKind::Grpc { target, tls, tls_skip_verify } => {
                let web = if *tls_skip_verify { &self.grpc_any_certificate } else { &self.grpc };
                match ask_grpc(web, target, *tls).await {
                    Ok(()) => (Status::Passing, format!("gRPC check {target}: success")),
                    Err(why) => (Status::Critical, format!("gRPC check {target}: {why}")),
                }
            }
            CheckKind::External | CheckKind::Ttl(_) | CheckKind::Alias { .. } => {
                (Status::Critical, "this kind of check is not asked for".to_owned())
            }
        }
    }
}

async fn ask_http(web: &Web, check: &HttpCheck) -> Result<(Status, String), String> {
    let method = if check.method.is_empty() { "GET" } else { check.method.as_str() };
    let mut url = check.url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let mut request = Request::builder().method(method).uri(&url);
        let own = [("User-Agent", "everring-health-check"), ("Accept", "text/plain, text/*, */*")];
        for (name, value) in own {
            if !check.header.keys().any(|given| given.eq_ignore_ascii_case(name)) {
                request = request.header(name, value);
            }
        }
        for (name, value) in
            check.header.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
        {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header {name:?}: {error}"))?;
            let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(check.body.clone()))).map_err(|error| error.to_string())?;
        let answer = web.request(request).await.map_err(|error| stdx::error_chain(&error))?;
        let status = answer.status();
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(location) = location.filter(|_| status.is_redirection() && !check.disable_redirects) {
            url = resolve(&url, &location).ok_or_else(|| format!("cannot follow to {location:?}"))?;
            continue;
        }
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        let found = match status.as_u16() {
            200..=299 => Status::Passing,
            429 => Status::Warning,
            _ => Status::Critical,
        };
        return Ok((found, format!("HTTP {method} {}: {status} Output: {body}", check.url)));
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

/// Where a `Location` leads from `url`: a whole address, or a path on the same server.
fn resolve(url: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    let base: hyper::Uri = url.parse().ok()?;
    location.starts_with('/').then(|| Some(format!("{}://{}{location}", base.scheme_str()?, base.authority()?)))?
}

/// Asks by the gRPC health checking protocol (`grpc.health.v1.Health/Check`).
async fn ask_grpc(web: &Web, target: &str, tls: bool) -> Result<(), String> {
    let (authority, service) = target.split_once('/').unwrap_or((target, ""));
    let scheme = if tls { "https" } else { "http" };
    let service_length = u8::try_from(service.len()).ok().filter(|length| *length < 128);
    let service_length = service_length.ok_or("the service's name is longer than 127 bytes")?;
    // HealthCheckRequest { 1: service }, in a frame: not compressed, its length, itself.
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, service_length]);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend(message);
    let request = Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))
        .map_err(|error| error.to_string())?;
    let answer = web.request(request).await.map_err(|error| stdx::error_chain(&error))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("HTTP status {status}"));
    }
    let early = answer.headers().get("grpc-status").cloned();
    let body = Limited::new(answer.into_body(), BODY_MAX).collect().await.map_err(|error| error.to_string())?;
    let code = early.or_else(|| body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned());
    if let Some(code) = code.filter(|code| code != "0") {
        return Err(format!("gRPC status {}", code.to_str().unwrap_or("unreadable")));
    }
    match serving_status(&body.to_bytes()) {
        Some(1) => Ok(()),
        Some(other) => Err(format!("its health is {other}, which is not SERVING")),
        None => Err("the answer is no HealthCheckResponse".to_owned()),
    }
}

/// The field 1 of a HealthCheckResponse in its frame; a message without it says 0, UNKNOWN.
fn serving_status(frame: &[u8]) -> Option<u8> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    if head[0] != 0 || message.len() != usize::try_from(length).ok()? {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..=127, ..] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_change_only_after_enough_answers() {
        let thresholds =
            Thresholds { success_before_passing: 2, failures_before_warning: 1, failures_before_critical: 3 };
        let mut streak = Streak::new(thresholds);
        let (good, bad) = (Status::Passing, Status::Critical);
        let noted: Vec<_> = [good, good, bad, bad, bad, bad, good, good].map(|found| streak.note(found)).into();
        let some = Some;
        assert_eq!(
            noted,
            [None, some(good), some(Status::Warning), some(Status::Warning), some(bad), some(bad), None, some(good)]
        );
        let mut plain = Streak::new(Thresholds::default());
        assert_eq!(plain.note(bad), Some(bad));
        assert_eq!(plain.note(Status::Warning), Some(Status::Warning));
    }

    #[test]
    fn health_answers_are_read_and_nothing_else_is() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 9, 1]] {
            assert_eq!(serving_status(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn redirects_lead_to_whole_addresses_and_paths() {
        assert_eq!(resolve("http://a:1/x", "/y").as_deref(), Some("http://a:1/y"));
        assert_eq!(resolve("http://a:1/x", "https://b/").as_deref(), Some("https://b/"));
        assert_eq!(resolve("http://a:1/x", "y"), None);
    }
}
