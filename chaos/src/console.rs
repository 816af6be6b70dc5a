//! The HTTP side of a chaos process that runs by itself: health, metrics, the last verdict, and what goes on now.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::dev::Server;
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use prometheus_client::registry::Registry;
use serde_json::json;
use telemetry::ops::{Check, Ops};

use crate::nemesis::Shared;
use crate::verdict::Verdict;

/// What is shown. Cheap to clone; clones are one.
#[derive(Clone, Default)]
pub struct Console {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    runs: u64,
    running: Option<Arc<Shared>>,
    waiting: Option<String>,
    verdict: Option<String>,
}

impl Console {
    /// A run begins.
    pub fn begins(&self, shared: Arc<Shared>) {
        let mut inner = self.lock();
        inner.running = Some(shared);
        inner.waiting = None;
    }

    /// No run can begin, and why.
    pub fn waits(&self, why: &str) {
        let mut inner = self.lock();
        inner.running = None;
        inner.waiting = Some(why.to_owned());
    }

    /// A run has ended.
    pub fn ended(&self, verdict: &Verdict) {
        let mut inner = self.lock();
        inner.runs += 1;
        inner.running = None;
        inner.verdict = Some(verdict.to_json());
    }

    /// Serves until the returned server is stopped.
    ///
    /// # Errors
    /// The system refuses the server.
    pub fn serve(self, listener: TcpListener, version: &str, registry: Registry) -> std::io::Result<Server> {
        let checked = self.clone();
        let ops = Ops::new("everring-chaos", version, registry, move || checked.checks());
        let server = HttpServer::new(move || {
            let ops = ops.clone();
            App::new()
                .app_data(Data::new(self.clone()))
                .configure(move |config| ops.configure(config))
                .route("/v1/verdict", web::get().to(verdict))
                .route("/v1/status", web::get().to(status))
        });
        Ok(server.workers(1).disable_signals().shutdown_timeout(1).listen(listener)?.run())
    }

    /// Ready means: a run goes on, or its turn is being waited for. Both are a process that does what it should.
    fn checks(&self) -> Vec<Check> {
        let inner = self.lock();
        let begun = inner.running.is_some() || inner.waiting.is_some() || inner.runs > 0;
        let detail = inner.waiting.clone().unwrap_or_else(|| format!("{} runs have ended", inner.runs));
        vec![Check::new("runs", begun, detail)]
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn verdict(console: Data<Console>) -> HttpResponse {
    match console.lock().verdict.clone() {
        Some(verdict) => HttpResponse::Ok().content_type("application/json").body(verdict),
        None => HttpResponse::NotFound().content_type("application/problem+json").json(json!({
            "type": "/problems/no-verdict", "title": "No run has ended yet", "status": 404, "code": "no-verdict",
            "detail": "the first verdict comes at the end of the first run; /v1/status shows what goes on",
            "retryable": true,
        })),
    }
}

async fn status(console: Data<Console>) -> HttpResponse {
    let inner = console.lock();
    let faults = inner.running.as_ref().map(|shared| shared.faults()).unwrap_or_default();
    let shown = faults.iter().map(|fault| {
        json!({
            "id": fault.id, "kind": fault.kind.name(), "target": fault.target, "instance_id": fault.instance_id,
            "at_s": fault.at_ns as f64 / 1e9, "healed_s": fault.healed_ns.map(|at| at as f64 / 1e9),
            "trace_id": fault.trace_id, "not_injected": fault.injected.clone().err(),
        })
    });
    HttpResponse::Ok().json(json!({
        "runs": inner.runs,
        "running": inner.running.is_some(),
        "waiting": inner.waiting,
        "why_no_fault_now": inner.running.as_ref().map(|shared| shared.reason()),
        "faults": shown.collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use actix_web::test;

    use super::*;

    async fn get(console: &Console, path: &str) -> (u16, serde_json::Value) {
        let app = App::new()
            .app_data(Data::new(console.clone()))
            .route("/v1/verdict", web::get().to(verdict))
            .route("/v1/status", web::get().to(status));
        let app = test::init_service(app).await;
        let answer = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
        let status = answer.status().as_u16();
        let body = test::read_body(answer).await;
        (status, serde_json::from_slice(&body).expect("json"))
    }

    #[actix_web::test]
    async fn it_shows_what_goes_on_and_the_last_verdict() {
        let console = Console::default();
        assert!(!console.checks()[0].ok, "nothing has begun");
        let (status, problem) = get(&console, "/v1/verdict").await;
        assert_eq!((status, problem["code"].as_str()), (404, Some("no-verdict")));

        console.waits("the lease is held by another");
        assert!(console.checks()[0].ok, "to wait for one's turn is to do what one should");
        assert_eq!(get(&console, "/v1/status").await.1["waiting"], "the lease is held by another");

        console.begins(Arc::default());
        let (_, shown) = get(&console, "/v1/status").await;
        assert_eq!((&shown["running"], &shown["waiting"], &shown["runs"]), (&json!(true), &json!(null), &json!(0)));

        console.ended(&Verdict { run_id: "r1".to_owned(), ..Verdict::default() });
        let (status, shown) = get(&console, "/v1/verdict").await;
        assert_eq!((status, shown["run_id"].as_str()), (200, Some("r1")));
        assert_eq!(get(&console, "/v1/status").await.1["runs"], 1);
    }
}
