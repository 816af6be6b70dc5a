//! Asks a router, found in discovery, for a lookup by fingers.

use std::time::Duration;

use client::consul::{Consul, HealthQuery};
use membership::Position;
use stdx::TraceContext;
use telemetry::context;
use wire::http::{Problem, ProblemCode, RouteAnswer};

use crate::problem::Refuse;

/// The service that routers register as.
const ROUTER_SERVICE: &str = "everring-router";
/// Routers asked at most before giving up.
const ROUTERS_MAX: usize = 3;

/// A client of the routers.
#[derive(Clone, Debug)]
pub struct RouterClient {
    consul: Consul,
    http: reqwest::Client,
}

impl RouterClient {
    /// Finds routers by this discovery, afresh for each lookup: lookups are for explaining, not for the data path.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(consul: Consul) -> Result<RouterClient, reqwest::Error> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_millis(500)).build()?;
        Ok(RouterClient { consul, http })
    }

    /// Where a position lives, by the router's lookup of this name.
    ///
    /// # Errors
    /// `router-unavailable`: none is registered, or none of them answered; or the problem that the last one named.
    pub async fn lookup(
        &self,
        position: Position,
        lookup: &str,
        within: Duration,
        parent: TraceContext,
    ) -> Result<RouteAnswer, Refuse> {
        let unavailable = |why: String| Refuse::new(ProblemCode::RouterUnavailable, why);
        let passing = HealthQuery { passing: true, tag: None };
        let found = tokio::time::timeout(within, self.consul.health_service(ROUTER_SERVICE, &passing, None))
            .await
            .map_err(|_| unavailable("discovery did not answer in time".to_owned()))?
            .map_err(|error| unavailable(format!("no router can be found: {}", stdx::error_chain(&error))))?;
        let mut last = unavailable("no router is registered; start one with `everring router`".to_owned());
        for entry in found.value.iter().take(ROUTERS_MAX) {
            let host = if entry.service.address.is_empty() { &entry.node.address } else { &entry.service.address };
            let url = format!("http://{host}:{}/v1/position/{position}?lookup={lookup}", entry.service.port);
            match self.ask(&url, within, parent).await {
                Ok(Ok(answer)) => return Ok(answer),
                // It did its work, and says what came of it.
                Ok(Err(problem)) => {
                    let code = problem.known_code().unwrap_or(ProblemCode::RouterUnavailable);
                    last = Refuse::new(code, problem.detail);
                }
                Err(error) => {
                    last = unavailable(format!("the router at {host} did not answer: {}", stdx::error_chain(&error)));
                }
            }
        }
        Err(last)
    }

    async fn ask(
        &self,
        url: &str,
        within: Duration,
        parent: TraceContext,
    ) -> Result<Result<RouteAnswer, Problem>, reqwest::Error> {
        let mut headers = reqwest::header::HeaderMap::new();
        context::inject(parent, &mut headers);
        let answer = self.http.get(url).headers(headers).timeout(within).send().await?;
        if answer.status().is_success() { answer.json().await.map(Ok) } else { answer.json().await.map(Err) }
    }
}
