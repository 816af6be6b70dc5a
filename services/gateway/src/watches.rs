//! Watching a key: `GET /v1/kv/{bucket}/{key}?watch=1`, as server-sent events (WHATWG HTML, "Server-sent events").
//!
//! All who watch one key at this gateway share one look at it: a strict read, ten times a second. Strict reads one
//! after the other only go forward, at any gateway, so each event is newer than the one before, and a watch that goes
//! on at another gateway misses no state that is still in force. Changes between two looks are told as one: a watch
//! tells what is, not all that was.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpResponse, http::header::ACCEPT};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dispatch::Verdict;
use replication::{Operation, Outcome, RegisterKey, Value, Version};
use stdx::TraceContext;
use tokio::sync::watch;
use wire::http::{Contract, Level, ProblemCode};

use crate::ask::Words;
use crate::available_watches::{self, WatchedKeys};
use crate::gateway::{Gateway, Phase};
use crate::problem::Refuse;
use crate::records::Incoming;
use crate::routes::Verb;
use crate::words::{self, Headers};

/// Watches at one gateway at most; past it, `overloaded`.
const WATCHES_MAX: usize = 1_024;
/// The pause between two looks at a key.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The patience of one look.
pub(crate) const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// How often something is sent though nothing changed, so that both ends notice a broken connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often a watch looks up to see whether the gateway still serves.
const LOOK_UP_EVERY: Duration = Duration::from_secs(1);
/// The id of the event that says that there is no value.
pub(crate) const ABSENT: &str = "absent";

/// What a look found.
#[derive(Clone, Debug)]
struct Look {
    /// Which look at the key it was at this gateway, in the order in which they began, from 1.
    number: u64,
    found: Option<(Version, Value)>,
}

/// A key that is watched.
#[derive(Debug)]
struct WatchedKey {
    /// Looks that have begun.
    begun: u64,
    /// The newest that has ended; none before the first.
    looks: watch::Sender<Option<Look>>,
}

/// The keys that are watched at this gateway.
#[derive(Debug, Default)]
pub struct Watches {
    keys: Mutex<BTreeMap<RegisterKey, WatchedKey>>,
    available: Mutex<WatchedKeys>,
}

impl Watches {
    /// Refuses one watch too many.
    pub(crate) fn has_room(&self) -> Result<(), Refuse> {
        let ordered: usize = self.ordered().values().map(|key| key.looks.receiver_count()).sum();
        if ordered + available_watches::watching(&self.available()) < WATCHES_MAX {
            return Ok(());
        }
        let detail = format!("{WATCHES_MAX} watches are open at this gateway; try another one, or later");
        Err(Refuse::new(ProblemCode::Overloaded, detail))
    }

    fn ordered(&self) -> MutexGuard<'_, BTreeMap<RegisterKey, WatchedKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of available buckets.
    pub(crate) fn available(&self) -> MutexGuard<'_, WatchedKeys> {
        self.available.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the watch of a key, which somebody has to look at if no look has begun. The second part is how many have:
    /// they may be older than what whoever joins has seen, at another gateway perhaps.
    fn join(&self, key: &RegisterKey) -> Result<(watch::Receiver<Option<Look>>, u64, bool), Refuse> {
        self.has_room()?;
        let mut keys = self.ordered();
        let new = !keys.contains_key(key);
        let watched = keys.entry(key.clone()).or_insert_with(|| WatchedKey { begun: 0, looks: watch::channel(None).0 });
        Ok((watched.looks.subscribe(), watched.begun, new))
    }

    /// Begins a look: its number. None once nobody watches the key, and it is forgotten then.
    fn begin(&self, key: &RegisterKey) -> Option<u64> {
        let mut keys = self.ordered();
        let watched = keys.get_mut(key)?;
        if watched.looks.receiver_count() == 0 {
            keys.remove(key);
            return None;
        }
        watched.begun += 1;
        Some(watched.begun)
    }

    /// Tells those who watch a key what a look found.
    fn tell(&self, key: &RegisterKey, look: Look) {
        if let Some(watched) = self.ordered().get(key) {
            watched.looks.send_replace(Some(look));
        }
    }
}

impl Incoming<'_> {
    /// `GET /v1/kv/{bucket}/{key}?watch=1`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn watch(
        &mut self,
        bucket_name: &str,
        key: &str,
        asked_level: Option<Level>,
    ) -> Result<HttpResponse, Refuse> {
        let headers = self.request.headers();
        let accepts = headers.get(ACCEPT).is_none_or(|accept| {
            let accept = accept.to_str().unwrap_or_default();
            ["text/event-stream", "text/*", "*/*"].iter().any(|kind| accept.contains(kind))
        });
        if !accepts {
            return Err(Refuse::bad_request("a watch is told as text/event-stream, which `Accept` rules out"));
        }
        let last = headers.single("last-event-id")?.map(str::to_owned);
        let Some(gateway) = self.request.shared().cloned() else {
            return Err(Refuse::new(ProblemCode::Overloaded, "this gateway cannot keep a watch now"));
        };
        let bucket = self.gateway.bucket(bucket_name, self.deadline, self.context).await?;
        let register = self.gateway.register(bucket.id, key);
        if bucket.definition.contract == Contract::Available {
            return self.watch_available((bucket_name, &bucket), register, asked_level, gateway).await;
        }
        let (looks, since, new) = gateway.watches.join(&register)?;
        if new {
            actix_web::rt::spawn(look(gateway.clone(), bucket_name.to_owned(), register));
        }
        Ok(stream(gateway, looks, news(since, last)))
    }
}

/// What each look tells a client that was told `last` before, if that is news. Strict reads one after the other only go
/// forward: so a look tells it nothing unless it began after all that the client has seen, hence after it came.
fn news(since: u64, mut last: Option<String>) -> impl FnMut(&Look) -> Option<Bytes> {
    move |look| {
        let id = look.found.as_ref().map_or(ABSENT.to_owned(), |(version, _)| version.to_string());
        // What its client was told last is no news.
        if look.number <= since || last.as_ref() == Some(&id) {
            return None;
        }
        let (kind, data) = told(look.found.as_ref());
        let event = event(&id, kind, &data);
        last = Some(id);
        Some(event)
    }
}

/// The answer to a watch: of each look, what is `news` to this client. It ends when the gateway is about to stop.
pub(crate) fn stream<T: Clone + 'static>(
    gateway: Data<Gateway>,
    found: watch::Receiver<Option<T>>,
    news: impl FnMut(&T) -> Option<Bytes> + 'static,
) -> HttpResponse {
    let events = futures_util::stream::unfold((gateway, found, news), |(gateway, mut found, mut news)| async move {
        let bytes = next(&gateway, &mut found, &mut news).await?;
        Some((Ok::<_, actix_web::Error>(bytes), (gateway, found, news)))
    });
    let mut response = HttpResponse::Ok();
    response.insert_header(("cache-control", "no-store")).content_type("text/event-stream");
    response.streaming(events)
}

/// Whether the request asks for a watch.
///
/// # Errors
/// `bad-request` for any other value than 1.
pub fn is_watch(query: &BTreeMap<String, String>) -> Result<bool, Refuse> {
    match query.get("watch").map(String::as_str) {
        None => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(_) => Err(Refuse::bad_request("`watch` is 1, or is left out")),
    }
}

/// Looks at a key for as long as somebody watches it.
async fn look(gateway: Data<Gateway>, bucket: String, key: RegisterKey) {
    let read = Operation::Read { key: key.clone() };
    // A trace that nobody samples: a look every 100 ms would drown the others.
    let context = TraceContext { trace_id: uuid::Uuid::now_v7().as_u128(), span_id: 1, flags: 0 };
    while let Some(number) = gateway.watches.begin(&key) {
        let deadline = gateway.clock.now() + LOOK_PATIENCE;
        let words = Words { bucket: &bucket, verb: Verb::Get.name(), context };
        let asked = gateway.ask(&read, deadline, words).await;
        // Without an answer nothing is known of now; whoever watches hears when there is.
        if let Verdict::Answered { outcome: Outcome::Value(found), .. } = asked.verdict {
            gateway.watches.tell(&key, Look { number, found });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The next bytes to send; none once the gateway is about to stop.
async fn next<T: Clone>(
    gateway: &Gateway,
    found: &mut watch::Receiver<Option<T>>,
    news: &mut impl FnMut(&T) -> Option<Bytes>,
) -> Option<Bytes> {
    let silent_till = tokio::time::Instant::now() + KEEP_ALIVE;
    loop {
        if gateway.phase() >= Phase::Draining {
            return None;
        }
        let newest = found.borrow_and_update().clone();
        if let Some(event) = newest.and_then(|newest| news(&newest)) {
            return Some(event);
        }
        let look_up = tokio::time::Instant::now() + LOOK_UP_EVERY;
        // Wakes for a look, and now and then to see whether the gateway still serves.
        match tokio::time::timeout_at(silent_till.min(look_up), found.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return None,
            Err(_) if tokio::time::Instant::now() >= silent_till => {
                return Some(Bytes::from_static(b": alive\n\n"));
            }
            Err(_) => {}
        }
    }
}

/// What an event tells: `value` with the ETag, type and body (base64), or `absent`.
fn told(found: Option<&(Version, Value)>) -> (&'static str, serde_json::Value) {
    let Some((version, value)) = found else { return (ABSENT, serde_json::json!({})) };
    let content_type = String::from_utf8_lossy(&value.content_type);
    let (etag, body) = (words::etag(*version), STANDARD.encode(&value.body));
    ("value", serde_json::json!({ "etag": etag, "content_type": content_type, "value": body }))
}

/// One event. Neither its id nor JSON on one line has a line end in it.
pub(crate) fn event(id: &str, kind: &str, data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("id: {id}\nevent: {kind}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use membership::{BucketId, NodeId, Position};
    use replication::Ballot;

    use super::*;

    fn look(number: u64, counter: Option<u64>) -> Look {
        let version = |counter| Version { ballot: Ballot { counter, node: NodeId(1) }, index: 0 };
        let value = Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() };
        Look { number, found: counter.map(|counter| (version(counter), value)) }
    }

    /// A watch goes on at a gateway where somebody else watches the key: what was found there before it came may be
    /// older than what it was told elsewhere.
    #[test]
    fn a_look_that_began_before_a_client_came_tells_it_nothing() {
        let (watches, bucket) = (Watches::default(), BucketId(1));
        let key = RegisterKey { position: Position(1), bucket, key: Bytes::from_static(b"k") };
        let (held, since, new) = watches.join(&key).expect("there is room");
        assert_eq!((since, new), (0, true));
        assert_eq!(watches.begin(&key), Some(1));
        watches.tell(&key, look(1, Some(44)));
        assert_eq!(watches.begin(&key), Some(2));
        // Look 2 is under way: it may have been answered before what this client saw was written.
        for last in ["46.1.0", ABSENT] {
            let (mut looks, since, new) = watches.join(&key).expect("there is room");
            assert_eq!((since, new), (2, false));
            let mut news = news(since, Some(last.to_owned()));
            let present = looks.borrow_and_update().clone().expect("a look has ended");
            assert_eq!(news(&present), None, "it would go back");
            assert_eq!(news(&look(2, Some(45))), None);
            assert!(news(&look(3, Some(47))).is_some_and(|event| event.starts_with(b"id: 47.1.0\n")));
            assert_eq!(news(&look(4, Some(47))), None, "nothing twice");
        }
        drop(held);
        assert_eq!(watches.begin(&key), None, "nobody watches it any more");
    }
}
