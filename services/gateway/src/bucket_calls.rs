//! The calls on buckets.

use actix_web::HttpResponse;

use crate::buckets::{self, Put};
use crate::problem::Refuse;
use crate::records::{Incoming, Upload, read_body};
use crate::routes::Verb;
use crate::words;

/// The longest definition, in bytes.
const DEFINITION_MAX_BYTES: usize = 4_096;

impl Incoming<'_> {
    /// `GET /v1/buckets`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn buckets(&mut self) -> Result<HttpResponse, Refuse> {
        words::query(self.request.query_string(), &[])?;
        let made = self.gateway.read_buckets(self.deadline, self.context).await?;
        Ok(HttpResponse::Ok().json(serde_json::json!({ "buckets": made.list() })))
    }

    /// `GET|PUT|DELETE /v1/buckets/{bucket}`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn bucket(&mut self, verb: Verb, name: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        words::query(self.request.query_string(), &[])?;
        let done = match verb {
            Verb::Get | Verb::Head => {
                let bucket = self.gateway.find_bucket(name, self.deadline, self.context).await?;
                return Ok(HttpResponse::Ok().json(buckets::answer(name, &bucket)));
            }
            Verb::Put | Verb::Post => self.put_bucket(name, body).await,
            Verb::Delete => self.delete_bucket(name).await,
        };
        done.map_err(Refuse::outcome_or_not_done)
    }

    async fn put_bucket(&mut self, name: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        let till = self.gateway.clock.to_tokio(self.deadline);
        let body = read_body(body, None, DEFINITION_MAX_BYTES, till).await?;
        let definition = buckets::read_definition(&body)?;
        let replication = self.gateway.fleet().view.replication;
        let step = |made: &buckets::Made| match made.put(name, &definition, replication)? {
            Put::Exists => Ok(None),
            Put::Make(next) => Ok(Some(next)),
        };
        // One that always exists is alike or not, whatever the register says.
        if let Some(bucket) = buckets::always(name) {
            step(&buckets::Made::default())?;
            return Ok(HttpResponse::Ok().json(buckets::answer(name, &bucket)));
        }
        let (made, changed) = self.gateway.change_buckets(self.deadline, self.context, &step).await?;
        let bucket = made.find(name).ok_or_else(|| buckets::no_such_bucket(name))?;
        let mut response = if changed { HttpResponse::Created() } else { HttpResponse::Ok() };
        Ok(response.json(buckets::answer(name, &bucket)))
    }

    async fn delete_bucket(&mut self, name: &str) -> Result<HttpResponse, Refuse> {
        let step = |made: &buckets::Made| made.remove(name).map(Some);
        self.gateway.change_buckets(self.deadline, self.context, &step).await?;
        Ok(HttpResponse::NoContent().finish())
    }
}
