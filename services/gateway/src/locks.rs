//! The calls on locks. What a lock is stands in `replication::lock`; here its calls get their words.
//!
//! Who waits (`wait_ms`) stands in the lock's queue, and is told when it is its turn by reading the lock again and
//! again: a read costs no sync, and the queue's order is kept whether or not anybody looks.

use std::time::Duration;

use actix_web::{HttpResponse, http::StatusCode};
use bytes::Bytes;
use replication::{Change, Condition, Effect, Lock, LockCall, Operation, Outcome, RequestId, Terms, Write};
use serde_json::{Value as Json, json};
use wire::http::{Level, ProblemCode, WriteOutcome};

use crate::answers;
use crate::buckets;
use crate::problem::Refuse;
use crate::records::{Incoming, Trailer, Upload, read_body};
use crate::routes::Verb;
use crate::token::Seen;
use crate::words;

/// The bucket whose registers are locks.
const BUCKET: &str = "locks";
/// The longest body of a lock call, in bytes.
const BODY_MAX_BYTES: usize = 4_096;
/// How long a lock is held without being renewed, in milliseconds, where the call does not say.
const TTL_DEFAULT_MS: u64 = 10_000;
/// The longest lease: a day.
const TTL_MAX_MS: u64 = 86_400_000;
/// The longest a call can wait: no longer than a request can live.
const WAIT_MAX_MS: u64 = 60_000;
/// The longest name of an owner, in bytes.
const OWNER_MAX_BYTES: usize = 256;
/// How long before a waiting call reads the lock again, at first and at most; doubled in between.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// How long a call stays in the queue beyond what it said: until it has left it by itself.
const QUEUE_GRACE_MS: u64 = 500;

/// The body of a lock call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Body {
    owner: Option<String>,
    ttl_ms: Option<u64>,
    wait_ms: Option<u64>,
    fence: Option<u64>,
}

/// A granted lock.
#[derive(Clone, Copy, Debug)]
struct Grant {
    fence: u64,
    ends_ms: u64,
}

/// What an attempt to take a lock found.
enum Tried {
    Granted(Grant),
    Held { place: u32, ends_ms: u64 },
}

impl Incoming<'_> {
    /// `GET|PUT|DELETE /v1/locks/{name}`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn lock(&mut self, verb: Verb, name: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        let done = match verb {
            Verb::Get | Verb::Head => return self.show_lock(name).await,
            Verb::Put | Verb::Post => self.acquire(name, body).await,
            Verb::Delete => self.release(name).await,
        };
        done.map_err(Refuse::outcome_or_not_done)
    }

    /// `POST /v1/locks/{name}/renew`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn renew_lock(&mut self, name: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        let renewed = self.renew(name, body).await;
        renewed.map_err(Refuse::outcome_or_not_done)
    }

    async fn show_lock(&mut self, name: &str) -> Result<HttpResponse, Refuse> {
        words::query(self.request.query_string(), &[])?;
        let seen = self.seen().await?;
        let (lock, trailer) = self.read_lock(name, seen).await?;
        let now_ms = self.gateway.clock.wall_ms();
        let owner = |owner: &Bytes| String::from_utf8_lossy(owner).into_owned();
        let queue: Vec<String> = lock.queue.iter().map(|waiter| owner(&waiter.owner)).collect();
        let body = match &lock.holder {
            None => json!({ "held": false, "queue": queue }),
            Some(holder) => json!({
                "held": true, "owner": owner(&holder.owner), "fence": holder.fence,
                "expires_in_ms": holder.ends_ms.saturating_sub(now_ms), "queue": queue,
            }),
        };
        trailer.on(Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(body)))
    }

    async fn acquire(&mut self, name: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        let (request, seen, body) = self.lock_words(body, None).await?;
        let Body { owner, ttl_ms, wait_ms, .. } = body;
        let owner = Bytes::from(owner.unwrap_or_else(|| request.text.clone()));
        let ttl_ms = ttl_ms.unwrap_or(TTL_DEFAULT_MS);
        let left = self.deadline.since(self.gateway.clock.now());
        let wait_ms = wait_ms.unwrap_or(0).min(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let give_up = self.gateway.clock.now() + Duration::from_millis(wait_ms);
        let call = |wait_ms| LockCall::Acquire { owner: owner.clone(), ttl_ms, wait_ms };
        let queued = |wait_ms: u64| if wait_ms > 0 { wait_ms + QUEUE_GRACE_MS } else { 0 };
        let (mut tried, mut trailer) = self.try_lock(name, call(queued(wait_ms)), &request, seen).await?;
        let (mut pause, pause_max) = LOOK_AGAIN;
        while let Tried::Held { .. } = tried {
            let now = self.gateway.clock.now();
            if wait_ms == 0 {
                break;
            }
            if now + pause >= give_up {
                // Leaves the queue, and takes what it is given in that very moment.
                let again = self.another(&request);
                (tried, trailer) = self.try_lock(name, call(0), &again, seen).await?;
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(pause_max);
            let (lock, read) = self.read_lock(name, seen).await?;
            trailer = read;
            let now_ms = self.gateway.clock.wall_ms();
            match &lock.holder {
                Some(holder) if holder.owner == owner && holder.ends_ms > now_ms => {
                    tried = Tried::Granted(Grant { fence: holder.fence, ends_ms: holder.ends_ms });
                }
                Some(holder) if holder.ends_ms > now_ms => {}
                // It is over: whoever calls first has the queue moved on.
                _ => {
                    let left = give_up.since(self.gateway.clock.now());
                    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
                    let again = self.another(&request);
                    (tried, trailer) = self.try_lock(name, call(queued(left_ms)), &again, seen).await?;
                }
            }
        }
        let answer = match tried {
            Tried::Granted(grant) => Ok(self.granted(grant, &owner)),
            Tried::Held { place, ends_ms } => {
                let left_ms = ends_ms.saturating_sub(self.gateway.clock.wall_ms());
                let detail = format!(
                    "another owner holds the lock, for {left_ms} ms more unless it renews its lease; {} before you",
                    match place {
                        1 => "nobody is in the queue".to_owned(),
                        2 => "1 other is in the queue".to_owned(),
                        place => format!("{} others are in the queue", place - 1),
                    }
                );
                let refuse = Refuse::new(ProblemCode::Held, detail).outcome(WriteOutcome::NotDone);
                Err(refuse.with("place", place).with("expires_in_ms", left_ms))
            }
        };
        trailer.on(answer)
    }

    async fn renew(&mut self, name: &str, body: Upload) -> Result<HttpResponse, Refuse> {
        let query = words::query(self.request.query_string(), &["fence"])?;
        let (request, seen, body) = self.lock_words(body, query.get("fence")).await?;
        let fence = body.fence.ok_or_else(no_fence)?;
        let call = LockCall::Renew { fence, ttl_ms: body.ttl_ms.unwrap_or(TTL_DEFAULT_MS) };
        let (effect, trailer) = self.call_lock(name, call, &request, seen).await?;
        let answer = match effect {
            Effect::Granted { fence, ends_ms } => {
                let expires_in_ms = ends_ms.saturating_sub(self.gateway.clock.wall_ms());
                Ok(HttpResponse::Ok().json(json!({ "fence": fence, "expires_in_ms": expires_in_ms })))
            }
            effect => Err(lost(effect, fence)),
        };
        trailer.on(answer)
    }

    async fn release(&mut self, name: &str) -> Result<HttpResponse, Refuse> {
        let query = words::query(self.request.query_string(), &["fence"])?;
        let seen = self.seen().await?;
        let request = self.request_words()?;
        let fence = self.fence(query.get("fence"), None)?.ok_or_else(no_fence)?;
        let (effect, trailer) = self.call_lock(name, LockCall::Release { fence }, &request, seen).await?;
        let answer = match effect {
            // Deleting is idempotent: what is not held under this token is not held under it afterwards either.
            Effect::Released | Effect::NotHeld => Ok(HttpResponse::new(StatusCode::NO_CONTENT)),
            effect => Err(lost(effect, fence)),
        };
        trailer.on(answer)
    }

    /// The words that all lock calls with a body share.
    async fn lock_words(
        &mut self,
        body: Upload,
        fence: Option<&String>,
    ) -> Result<(words::RequestWords, Seen, Body), Refuse> {
        if fence.is_none() {
            words::query(self.request.query_string(), &[])?;
        }
        let (request, seen) = (self.request_words()?, self.seen().await?);
        let till = self.gateway.clock.to_tokio(self.deadline);
        let body = read_body(body, None, BODY_MAX_BYTES, till).await?;
        let mut body = read_words(&body)?;
        body.fence = self.fence(fence, body.fence)?;
        Ok((request, seen, body))
    }

    /// The token of `If-Fence`, of `?fence=` or of the body; they must agree.
    fn fence(&self, query: Option<&String>, body: Option<u64>) -> Result<Option<u64>, Refuse> {
        let query = query.map(|text| words::fence_of(text)).transpose()?;
        let named = [words::fence(self.request.headers())?, query, body];
        let mut tokens = named.into_iter().flatten();
        let first = tokens.next();
        if tokens.all(|token| Some(token) == first) {
            return Ok(first);
        }
        Err(Refuse::bad_request("the call names several fencing tokens that differ"))
    }

    /// Another request of ours for the same client's call: it must act, and not be told what the first one was.
    fn another(&self, request: &words::RequestWords) -> words::RequestWords {
        let id = RequestId(uuid::Uuid::now_v7().as_u128());
        words::RequestWords {
            id,
            first_sent_ms: self.gateway.clock.wall_ms(),
            retry: false,
            dated: true,
            ..request.clone()
        }
    }

    async fn try_lock(
        &mut self,
        name: &str,
        call: LockCall,
        request: &words::RequestWords,
        seen: Seen,
    ) -> Result<(Tried, Trailer), Refuse> {
        let (effect, trailer) = self.call_lock(name, call, request, seen).await?;
        match effect {
            Effect::Granted { fence, ends_ms } => Ok((Tried::Granted(Grant { fence, ends_ms }), trailer)),
            Effect::Held { place, ends_ms } => Ok((Tried::Held { place, ends_ms }, trailer)),
            _ => Err(answers::answered_otherwise(true)),
        }
    }

    async fn call_lock(
        &mut self,
        name: &str,
        call: LockCall,
        request: &words::RequestWords,
        seen: Seen,
    ) -> Result<(Effect, Trailer), Refuse> {
        let key = self.lock_register(name)?;
        let words::RequestWords { text, id, first_sent_ms, retry, .. } = self.first_seen(request.clone(), &key).await?;
        let (condition, terms) = (Condition::Always, Terms::default());
        self.gateway.recent().remember(id, BUCKET, name);
        let write = Write { key, request: id, first_sent_ms, retry, condition, change: Change::Lock(call), terms };
        let operation = self.in_session(Operation::Write(write), seen, Level::Strict);
        let asked = self.ask(operation, Level::Strict, BUCKET, Verb::Put).await;
        let (outcome, trailer) = self.settle(asked, Level::Strict, seen, Some(text), true)?;
        match outcome {
            Outcome::Done { effect, .. } => Ok((effect, trailer)),
            Outcome::Value(_) | Outcome::Remembered(_) | Outcome::Refused(_) | Outcome::Unknown => {
                Err(answers::answered_otherwise(true))
            }
        }
    }

    async fn read_lock(&mut self, name: &str, seen: Seen) -> Result<(Lock, Trailer), Refuse> {
        let read = self.in_session(Operation::Read { key: self.lock_register(name)? }, seen, Level::Strict);
        let asked = self.ask(read, Level::Strict, BUCKET, Verb::Get).await;
        let (outcome, trailer) = self.settle(asked, Level::Strict, seen, None, false)?;
        let lock = match outcome {
            Outcome::Value(None) => Some(Lock::default()),
            Outcome::Value(Some((_, value))) => Lock::from_bytes(&value.body),
            Outcome::Done { .. } | Outcome::Remembered(_) | Outcome::Refused(_) | Outcome::Unknown => None,
        };
        lock.map(|lock| (lock, trailer)).ok_or_else(|| answers::answered_otherwise(false))
    }

    fn lock_register(&self, name: &str) -> Result<replication::RegisterKey, Refuse> {
        let bucket = buckets::always(BUCKET).ok_or_else(|| buckets::no_such_bucket(BUCKET))?;
        Ok(self.gateway.register(bucket.id, name))
    }

    fn granted(&self, grant: Grant, owner: &[u8]) -> HttpResponse {
        let expires_in_ms = grant.ends_ms.saturating_sub(self.gateway.clock.wall_ms());
        let owner = String::from_utf8_lossy(owner);
        let body = json!({ "fence": grant.fence, "expires_in_ms": expires_in_ms, "owner": owner });
        HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(body)
    }
}

fn no_fence() -> Refuse {
    Refuse::bad_request("say under which grant: its fencing token in `If-Fence`, in `?fence=` or in the body")
}

/// A call on a lock that the caller does not hold.
fn lost(effect: Effect, fence: u64) -> Refuse {
    match effect {
        Effect::NotHeld => {
            let detail = format!("the lock is not held under token {fence}: its lease is over, or it was given back");
            Refuse::new(ProblemCode::FencedOff, detail).outcome(WriteOutcome::NotDone)
        }
        _ => answers::answered_otherwise(true),
    }
}

/// Reads the body of a lock call; an empty one means all defaults.
fn read_words(body: &[u8]) -> Result<Body, Refuse> {
    if body.is_empty() {
        return Ok(Body::default());
    }
    let wrong = |detail: &str| Refuse::bad_request(format!("the body: {detail}"));
    let Ok(Json::Object(members)) = serde_json::from_slice(body) else {
        return Err(wrong("a JSON object with owner, ttl_ms, wait_ms or fence is wanted"));
    };
    let mut read = Body::default();
    for (name, value) in members {
        let number = |most: u64| match value.as_u64() {
            Some(number) if number <= most => Ok(number),
            _ => Err(wrong(&format!("`{name}` must be a whole number up to {most}"))),
        };
        match name.as_str() {
            "owner" => {
                let owner = value.as_str().filter(|owner| (1..=OWNER_MAX_BYTES).contains(&owner.len()));
                let owner = owner.ok_or_else(|| wrong("`owner` must be a text of 1 to 256 bytes"))?;
                read.owner = Some(owner.to_owned());
            }
            "ttl_ms" => match number(TTL_MAX_MS)? {
                0 => return Err(wrong("`ttl_ms` must be at least 1")),
                ms => read.ttl_ms = Some(ms),
            },
            "wait_ms" => read.wait_ms = Some(number(WAIT_MAX_MS)?),
            "fence" => {
                let fence = value.as_u64().map(|fence| words::fence_of(&fence.to_string()));
                read.fence = Some(fence.ok_or_else(|| wrong("`fence` must be the token of the grant"))??);
            }
            other => {
                let other: String = other.chars().take(64).collect();
                return Err(wrong(&format!("`{other}` is not known; there are owner, ttl_ms, wait_ms and fence")));
            }
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_or_refused_with_a_sentence() {
        assert_eq!(read_words(b"").expect("all defaults"), Body::default());
        let whole = read_words(br#"{"owner":"me","ttl_ms":5,"wait_ms":7,"fence":9}"#).expect("a body");
        let expected = Body { owner: Some("me".to_owned()), ttl_ms: Some(5), wait_ms: Some(7), fence: Some(9) };
        assert_eq!(whole, expected);
        for wrong in [
            "[]",
            "{",
            r#"{"owner":""}"#,
            r#"{"owner":7}"#,
            r#"{"ttl_ms":0}"#,
            r#"{"ttl_ms":-1}"#,
            r#"{"ttl_ms":1.5}"#,
            r#"{"ttl_ms":86400001}"#,
            r#"{"wait_ms":60001}"#,
            r#"{"fence":0}"#,
            r#"{"fence":"7"}"#,
            r#"{"until":3}"#,
        ] {
            let refused = read_words(wrong.as_bytes()).expect_err(wrong);
            assert_eq!(refused.code(), ProblemCode::BadRequest, "{wrong}");
        }
    }
}
