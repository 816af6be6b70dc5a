//! The bucket definitions as this gateway last saw them, and how they are read and changed.
//!
//! A definition that is held may be [`FRESH`] old. So for that long after a bucket was deleted, another gateway may
//! still serve its old data; the number of a bucket made anew differs, so the two never mix. When the register cannot
//! be read, what is held stays in use: data outlives the catalogue's arc.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use replication::{Change, Condition, Effect, Operation, Outcome, RequestId, Terms, Value, Version, Write};
use stdx::{Instant, TraceContext};
use wire::http::ProblemCode;

use crate::answers;
use crate::ask::Words;
use crate::buckets::{self, Bucket, Made, REGISTER_KEY, SYSTEM_BUCKET};
use crate::gateway::Gateway;
use crate::problem::Refuse;
use dispatch::Verdict;

/// How old a held definition may be before it is read again.
const FRESH: Duration = Duration::from_secs(3);
/// How often a change is tried when other gateways change the register at the same time.
const CHANGES_MAX: usize = 16;

/// What is held of the register.
#[derive(Debug, Default)]
pub struct Catalog {
    held: Mutex<Option<Held>>,
    /// One read serves all requests that wait for it.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Held {
    made: Arc<Made>,
    version: Option<Version>,
    read_at: Instant,
}

/// A change of the register: none when there is nothing to change.
pub type Step<'a> = &'a (dyn Fn(&Made) -> Result<Option<Made>, Refuse> + Sync);

impl Gateway {
    /// The bucket of this name, if its records can be read and written.
    ///
    /// # Errors
    /// `no-such-bucket`, `forbidden`, `contract-not-offered`; or what keeps the register from being read.
    pub async fn bucket(&self, name: &str, deadline: Instant, context: TraceContext) -> Result<Bucket, Refuse> {
        let bucket = self.find_bucket(name, deadline, context).await?;
        buckets::offered(name, &bucket)?;
        Ok(bucket)
    }

    /// The bucket of this name, offered or not.
    ///
    /// # Errors
    /// `no-such-bucket`, or what keeps the register from being read.
    pub async fn find_bucket(&self, name: &str, deadline: Instant, context: TraceContext) -> Result<Bucket, Refuse> {
        if let Some(bucket) = buckets::always(name) {
            return Ok(bucket);
        }
        buckets::check_name(name).map_err(|_| buckets::no_such_bucket(name))?;
        let held = self.catalog.held();
        let known = held.as_ref().and_then(|held| held.made.find(name));
        let fresh = held.as_ref().is_some_and(|held| self.clock.now().since(held.read_at) < FRESH);
        match (known, fresh) {
            (Some(bucket), true) => Ok(bucket),
            (Some(bucket), false) => match self.read_buckets(deadline, context).await {
                Ok(made) => made.find(name).ok_or_else(|| buckets::no_such_bucket(name)),
                Err(_) => Ok(bucket),
            },
            // A bucket that is not known may have been made a moment ago at another gateway.
            (None, _) => {
                let made = self.read_buckets(deadline, context).await?;
                made.find(name).ok_or_else(|| buckets::no_such_bucket(name))
            }
        }
    }

    /// The register, read now; or by another request after this one began to wait.
    ///
    /// # Errors
    /// What kept it from being read.
    pub async fn read_buckets(&self, deadline: Instant, context: TraceContext) -> Result<Arc<Made>, Refuse> {
        let asked_at = self.clock.now();
        let _turn = tokio::time::timeout(self.clock.until(deadline), self.catalog.reading.lock())
            .await
            .map_err(|_| Refuse::new(ProblemCode::Deadline, "the bucket definitions were not read in time"))?;
        if let Some(held) = self.catalog.held().filter(|held| held.read_at >= asked_at) {
            return Ok(held.made);
        }
        Ok(self.read_register(deadline, context).await?.made)
    }

    /// Changes the register by compare-and-set; returns what it then holds, and whether there was anything to change.
    ///
    /// # Errors
    /// What the step refuses, or what kept the change from being made. With outcome `unknown` it may have been made.
    pub async fn change_buckets(
        &self,
        deadline: Instant,
        context: TraceContext,
        step: Step<'_>,
    ) -> Result<(Arc<Made>, bool), Refuse> {
        for _ in 0..CHANGES_MAX {
            let read = self.read_register(deadline, context).await?;
            let Some(next) = step(&read.made)? else { return Ok((read.made, false)) };
            let write = self.buckets_write(&next, read.version);
            let asked = self.ask(&write, deadline, words("PUT", context)).await;
            match asked.verdict {
                Verdict::Answered {
                    outcome: Outcome::Done { effect: Effect::Created(version) | Effect::Replaced(version), .. },
                    ..
                } => {
                    let made = Arc::new(next);
                    self.catalog.hold(Held {
                        made: Arc::clone(&made),
                        version: Some(version),
                        read_at: self.clock.now(),
                    });
                    return Ok((made, true));
                }
                Verdict::Answered { .. } => continue,
                other => return Err(answers::refusal_of(&other, true)),
            }
        }
        let detail = "other gateways kept changing the bucket definitions at the same time; try again";
        Err(Refuse::new(ProblemCode::Overloaded, detail))
    }

    async fn read_register(&self, deadline: Instant, context: TraceContext) -> Result<Held, Refuse> {
        let read_at = self.clock.now();
        let operation = Operation::Read { key: self.register(SYSTEM_BUCKET, REGISTER_KEY) };
        let asked = self.ask(&operation, deadline, words("GET", context)).await;
        let found = match asked.verdict {
            Verdict::Answered { outcome: Outcome::Value(found), .. } => found,
            other => return Err(answers::refusal_of(&other, false)),
        };
        let (version, made) = match found {
            None => (None, Made::default()),
            Some((version, value)) => match Made::from_json(&value.body) {
                Ok(made) => (Some(version), made),
                Err(error) => {
                    tracing::error!(%error, "the bucket definitions cannot be read; was a newer gateway running here?");
                    let detail = "the bucket definitions are of a form that this gateway does not know; upgrade it";
                    return Err(Refuse::new(ProblemCode::NotOffered, detail));
                }
            },
        };
        let held = Held { made: Arc::new(made), version, read_at };
        self.catalog.hold(held.clone());
        Ok(held)
    }

    fn buckets_write(&self, next: &Made, version: Option<Version>) -> Operation {
        let value = Value { body: next.to_json().into(), content_type: "application/json".into() };
        Operation::Write(Write {
            key: self.register(SYSTEM_BUCKET, REGISTER_KEY),
            request: RequestId(uuid::Uuid::now_v7().as_u128()),
            first_sent_ms: self.clock.wall_ms(),
            retry: false,
            condition: version.map_or(Condition::Absent, Condition::Matches),
            change: Change::Put(value),
            terms: Terms::default(),
        })
    }
}

impl Catalog {
    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what was read or written, unless something newer is held already.
    fn hold(&self, next: Held) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|known| known.read_at <= next.read_at) {
            *held = Some(next);
        }
    }
}

fn words(verb: &'static str, context: TraceContext) -> Words<'static> {
    Words { bucket: "everring", verb, context }
}
