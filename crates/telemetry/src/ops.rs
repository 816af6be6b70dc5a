//! The endpoints that every service has: `/livez`, `/readyz`, `/metrics`, `/version`.
//!
//! Liveness says only that this process answers: it asks no peer and no disk, or one dead peer would restart the whole
//! fleet. Readiness is the service's own list of checks.

use std::fmt::Write as _;
use std::sync::Arc;

use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// One condition of readiness, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// A short word, such as `ring`.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What a person should know: what is waited for, or how far it is.
    pub detail: String,
}

impl Check {
    /// A check with its outcome.
    pub fn new(name: &'static str, ok: bool, detail: impl Into<String>) -> Check {
        Check { name, ok, detail: detail.into() }
    }
}

/// What the endpoints answer from. Cheap to clone: one for all workers.
#[derive(Clone)]
pub struct Ops(Arc<Parts>);

struct Parts {
    service: String,
    version: String,
    registry: Registry,
    readiness: Box<dyn Fn() -> Vec<Check> + Send + Sync>,
}

impl Ops {
    /// `readiness` is called on each `/readyz`: it must answer at once, from what the service already knows.
    pub fn new(
        service: impl Into<String>,
        version: impl Into<String>,
        registry: Registry,
        readiness: impl Fn() -> Vec<Check> + Send + Sync + 'static,
    ) -> Ops {
        let (service, version) = (service.into(), version.into());
        Ops(Arc::new(Parts { service, version, registry, readiness: Box::new(readiness) }))
    }

    /// Adds the four routes: `App::new().configure(|config| ops.configure(config))`.
    pub fn configure(&self, config: &mut ServiceConfig) {
        config
            .app_data(Data::new(self.clone()))
            .route("/livez", web::get().to(livez))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(metrics))
            .route("/version", web::get().to(version));
    }

    /// The metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric cannot be encoded, which only a faulty metric of ours can bring about.
    pub fn render_metrics(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

async fn livez() -> HttpResponse {
    HttpResponse::Ok().content_type(TEXT).body("ok\n")
}

async fn readyz(request: HttpRequest, ops: Data<Ops>) -> HttpResponse {
    let checks = (ops.0.readiness)();
    let ready = checks.iter().all(|check| check.ok);
    let verbose = request.query_string().split('&').any(|part| part == "verbose" || part.starts_with("verbose="));
    let mut body = String::new();
    for check in checks.iter().filter(|check| verbose || !check.ok) {
        let mark = if check.ok { "[+]" } else { "[-]" };
        let outcome = if check.ok { "ok" } else { "not ready" };
        // Writing to a String cannot fail.
        let _ = writeln!(body, "{mark} {} {outcome}: {}", check.name, check.detail);
    }
    body.push_str(if ready { "ready\n" } else { "not ready\n" });
    let mut answer = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.content_type(TEXT).insert_header(("Cache-Control", "no-store")).body(body)
}

async fn metrics(ops: Data<Ops>) -> HttpResponse {
    match ops.render_metrics() {
        Ok(text) => HttpResponse::Ok().content_type(OPEN_METRICS).body(text),
        Err(error) => HttpResponse::ServiceUnavailable()
            .content_type(TEXT)
            .body(format!("the metrics could not be encoded ({error}); this is a bug, the service itself goes on\n")),
    }
}

async fn version(ops: Data<Ops>) -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({
        "name": ops.0.service,
        "version": ops.0.version,
        "commit": COMMIT,
    }))
}

/// Set by the build (`EVERRING_COMMIT`); `null` in the answer when it was not.
const COMMIT: Option<&str> = option_env!("EVERRING_COMMIT");
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use actix_web::http::StatusCode;
    use actix_web::{App, test};
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    async fn get(ops: &Ops, path: &str) -> (StatusCode, String, String) {
        let app = test::init_service(App::new().configure(|config| ops.configure(config))).await;
        let answer = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
        let status = answer.status();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap_or("").to_string());
        let body = test::read_body(answer).await;
        (status, kind.unwrap_or_default(), String::from_utf8_lossy(&body).into_owned())
    }

    #[actix_web::test]
    async fn readiness_follows_its_checks_and_liveness_does_not() {
        let caught_up = Arc::new(AtomicBool::new(false));
        let seen = caught_up.clone();
        let ops = Ops::new("everring-test", "0.0.0", Registry::default(), move || {
            vec![
                Check::new("ring", true, "formed, epoch 1"),
                Check::new("catch-up", seen.load(Ordering::Relaxed), "12 registers left"),
            ]
        });
        let (status, _, body) = get(&ops, "/readyz").await;
        assert_eq!(status, 503);
        assert_eq!(body, "[-] catch-up not ready: 12 registers left\nnot ready\n");
        assert_eq!(get(&ops, "/livez").await.0, 200);

        caught_up.store(true, Ordering::Relaxed);
        let (status, _, body) = get(&ops, "/readyz?verbose").await;
        assert_eq!(status, 200);
        assert!(body.starts_with("[+] ring ok: formed, epoch 1\n[+] catch-up ok"), "{body}");
        assert_eq!(get(&ops, "/readyz").await.2, "ready\n");
    }

    #[actix_web::test]
    async fn metrics_are_open_metrics_and_the_version_is_json() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("everring_test", "A count", counter.clone());
        counter.inc();
        let ops = Ops::new("everring-test", "1.2.3", registry, Vec::new);
        let (status, kind, body) = get(&ops, "/metrics").await;
        assert_eq!((status.as_u16(), kind.as_str()), (200, OPEN_METRICS));
        assert!(body.contains("everring_test_total 1") && body.ends_with("# EOF\n"), "{body}");

        let (_, kind, body) = get(&ops, "/version").await;
        assert_eq!(kind, "application/json");
        let version: serde_json::Value = serde_json::from_str(&body).expect("json");
        assert_eq!(version["name"], "everring-test");
        assert_eq!(version["version"], "1.2.3");
    }
}
