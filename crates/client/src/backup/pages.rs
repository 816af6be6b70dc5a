//! What a backup and a restore ask of gateways, beside writes: questions that may be asked any number of times.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use reqwest::{Method, StatusCode};
use tokio::time::Instant;
use wire::backup::{BackupEntry, BackupPage};
use wire::http::{BucketAnswer, BucketDefinition, Problem, header};

use crate::gateway::{AskError, GRACE, GatewayClient, NAME_PLAIN, backoff};

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);

impl GatewayClient {
    /// A page of a backup: `GET /v1/backup/{bucket}`. Asked for again, at any gateway, until it comes or `patience` is
    /// over.
    ///
    /// # Errors
    /// No gateway answers in time, or one refuses for good.
    pub async fn backup_page(
        &self,
        bucket: &str,
        cursor: Option<&str>,
        patience: Duration,
    ) -> Result<(Vec<BackupEntry>, BackupPage), AskError> {
        let bucket = utf8_percent_encode(bucket, NAME_PLAIN);
        let query = cursor.map(|cursor| format!("?cursor={cursor}")).unwrap_or_default();
        let path = format!("/v1/backup/{bucket}{query}");
        let body = self.ask_until(Method::GET, &path, None, patience).await?;
        crate::backup::read_page(&body)
    }

    /// A bucket's definition; none if there is no such bucket.
    ///
    /// # Errors
    /// As [`GatewayClient::backup_page`].
    pub async fn bucket(&self, bucket: &str, patience: Duration) -> Result<Option<BucketAnswer>, AskError> {
        let path = format!("/v1/buckets/{}", utf8_percent_encode(bucket, NAME_PLAIN));
        match self.ask_until(Method::GET, &path, None, patience).await {
            Ok(body) => {
                serde_json::from_slice(&body).map(Some).map_err(|error| AskError::NotUnderstood(error.to_string()))
            }
            Err(AskError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bucket; one that is there alike is left.
    ///
    /// # Errors
    /// As [`GatewayClient::backup_page`].
    pub async fn make_bucket(
        &self,
        bucket: &str,
        definition: &BucketDefinition,
        patience: Duration,
    ) -> Result<(), AskError> {
        let path = format!("/v1/buckets/{}", utf8_percent_encode(bucket, NAME_PLAIN));
        let body = serde_json::to_vec(definition).map_err(|error| AskError::NotUnderstood(error.to_string()))?;
        self.ask_until(Method::PUT, &path, Some(body), patience).await.map(drop)
    }

    /// Asks one gateway after another for something that may be asked any number of times.
    async fn ask_until(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Bytes, AskError> {
        let till = Instant::now() + patience;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut attempts = 0;
        loop {
            let at = (first + attempts as usize) % self.gateways.len();
            attempts += 1;
            let left = till.saturating_duration_since(Instant::now()).min(ATTEMPT_MAX);
            let url = format!("http://{}{path}", self.gateways[at]);
            let mut call = self.http.request(method.clone(), url).timeout(left + GRACE);
            call = call.header(header::DEADLINE_MS, left.as_millis().max(1).to_string());
            if let Some(body) = &body {
                call = call.body(body.clone());
            }
            let answer = match call.send().await {
                Ok(response) => (response.status(), response.bytes().await),
                Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Err(error)),
            };
            let last = match answer {
                (status, Ok(body)) if status.is_success() => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(body);
                }
                (status, Ok(body)) => {
                    let problem = serde_json::from_slice::<Problem>(&body).ok();
                    let detail = problem.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), |p| p.detail);
                    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
                        return Err(AskError::Refused { status: status.as_u16(), detail });
                    }
                    detail
                }
                (_, Err(error)) => stdx::error_chain(&error),
            };
            if Instant::now() >= till {
                return Err(AskError::Unreachable { gateways: self.gateways.join(", "), last });
            }
            tokio::time::sleep(backoff(attempts)).await;
        }
    }
}
