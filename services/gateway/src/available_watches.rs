//! Watching a key of an available bucket: `GET /v1/kv/{bucket}/{key}?watch=1`, as server-sent events.
//!
//! All who watch one key at this gateway share one look at it: a causal read, ten times a second. The looks are one
//! session ([`Session`]): each happens after what the looks before it showed, and after all that the sessions of those
//! who watch had seen. So what an event shows includes what every event before it showed; an answer that shows nothing
//! new is no event. Changes between two looks are told as one: a watch tells what is, not all that was.
//!
//! An event's id is the watch's session token. It says what has been shown of the key, and in which view: a watch that
//! goes on from it, at any gateway, is told whatever came after that, and never anything before it.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data};
use available::{Action, Context, Kind, Level, Operation, Outcome, Past, Session, Shown};
use dispatch::Verdict;
use membership::Epoch;
use replication::RegisterKey;
use stdx::TraceContext;
use tokio::sync::watch;
use wire::http::{Durability, ProblemCode};

use crate::ask::Words;
use crate::available_answers;
use crate::available_ask::AvailableQuestion;
use crate::available_records::{kind_of, session_number};
use crate::buckets::Bucket;
use crate::gateway::Gateway;
use crate::problem::Refuse;
use crate::records::Incoming;
use crate::routes::Verb;
use crate::token::Seen;
use crate::watches::{self, LOOK_EVERY, LOOK_PATIENCE, Watches};
use crate::words::{self, Headers};

/// What a look found.
#[derive(Debug)]
struct Look {
    shown: Shown,
    seen: available::Seen,
    /// The view in which it was answered.
    epoch: Epoch,
    /// What it was asked to come after.
    past: Past,
}

/// The newest look at a key; none before the first.
type Looks = watch::Receiver<Option<Arc<Look>>>;

/// A key that is watched.
#[derive(Debug)]
pub(crate) struct WatchedKey {
    /// What every look comes after.
    session: Session,
    looks: watch::Sender<Option<Arc<Look>>>,
}

/// The keys of available buckets that are watched at a gateway.
pub(crate) type WatchedKeys = BTreeMap<RegisterKey, WatchedKey>;

/// Clients that watch any of them.
pub(crate) fn watching(keys: &WatchedKeys) -> usize {
    keys.values().map(|key| key.looks.receiver_count()).sum()
}

impl WatchedKey {
    fn new() -> WatchedKey {
        // Looks write nothing, so that their session needs no name.
        WatchedKey { session: Session::new(0), looks: watch::channel(None).0 }
    }

    /// All looks that begin from now on come after this.
    fn come_after(&mut self, key: &RegisterKey, past: &Past) {
        let Past { bound, seen, epoch, .. } = past.clone();
        let seen = available::Seen { vector: seen, deps: bound, epoch, ..available::Seen::default() };
        self.session.observe(session_number(key), &seen, true, false);
    }
}

impl Watches {
    /// Joins the watch of a key, for a session that has seen this much. The second part says whether it is new, so that
    /// somebody has to look.
    fn join_available(&self, key: &RegisterKey, past: &Past) -> Result<(Looks, bool), Refuse> {
        self.has_room()?;
        let mut keys = self.available();
        let new = !keys.contains_key(key);
        let watched = keys.entry(key.clone()).or_insert_with(WatchedKey::new);
        watched.come_after(key, past);
        Ok((watched.looks.subscribe(), new))
    }

    /// What the next look at a key comes after; none once nobody watches it, and the key is forgotten then.
    fn next_past(&self, key: &RegisterKey) -> Option<Past> {
        let mut keys = self.available();
        let watched = keys.get(key)?;
        if watched.looks.receiver_count() == 0 {
            keys.remove(key);
            return None;
        }
        Some(watched.session.past.clone())
    }

    /// Tells those who watch a key what a look found. The next one comes after it.
    fn tell_available(&self, key: &RegisterKey, look: Look) {
        let mut keys = self.available();
        let Some(watched) = keys.get_mut(key) else { return };
        watched.session.observe(session_number(key), &look.seen, true, false);
        watched.looks.send_replace(Some(Arc::new(look)));
    }
}

/// What is watched, as its looks need it.
struct Watched {
    bucket: String,
    key: RegisterKey,
    kind: Kind,
    durability: Durability,
}

impl Incoming<'_> {
    /// `GET /v1/kv/{bucket}/{key}?watch=1` of an available bucket.
    ///
    /// # Errors
    /// The problem to answer with.
    pub(crate) async fn watch_available(
        &mut self,
        (bucket_name, bucket): (&str, &Bucket),
        register: RegisterKey,
        asked_level: Option<wire::http::Level>,
        gateway: Data<Gateway>,
    ) -> Result<HttpResponse, Refuse> {
        if words::available_level(asked_level)? == Level::Eventual {
            let detail = "a watch is causal: at level eventual an event could be older than the one before it; leave \
                          `consistency` out, or read the key now and then with ?consistency=eventual";
            return Err(Refuse::new(ProblemCode::LevelNotOffered, detail));
        }
        let seen = self.seen().await?;
        let own = self.session(seen).clone();
        let (session, resumed) = match self.request.headers().single("last-event-id")? {
            None => (own, false),
            Some(id) => {
                let mut session = self.resumed(id).await?;
                session.follow(own.counter_max(), own.past.epoch);
                (session, true)
            }
        };
        let (found, new) = gateway.watches.join_available(&register, &session.past)?;
        if new {
            let definition = &bucket.definition;
            let watched = Watched {
                bucket: bucket_name.to_owned(),
                key: register.clone(),
                kind: kind_of(definition.value_type),
                durability: definition.durability,
            };
            actix_web::rt::spawn(look(gateway.clone(), watched));
        }
        let since = session.past.clone();
        let mut told = Told { gateway: gateway.clone(), key: register, since, session, seen, resumed, absent: true };
        Ok(watches::stream(gateway, found, move |look: &Arc<Look>| told.event(look)))
    }

    /// The session of the watch that an event's id is of.
    async fn resumed(&self, id: &str) -> Result<Session, Refuse> {
        let fleet = self.gateway.fleet();
        if !fleet.is_known() {
            let detail =
                "this gateway has not heard of the fleet yet, and cannot tell whether the Last-Event-ID is its";
            return Err(Refuse::new(ProblemCode::NoQuorum, detail));
        }
        let foreign = || {
            let detail = "the Last-Event-ID is not the id of an event of a watch of an available key in this fleet: \
                          begin without one";
            Refuse::new(ProblemCode::BadToken, detail)
        };
        let (seen, session) = self.gateway.tokens.read(fleet.view.cluster, id).map_err(|_| foreign())?;
        let session = session.ok_or_else(foreign)?;
        self.gateway.check_past(session.past.epoch.max(seen.epoch), self.deadline).await?;
        Ok(session)
    }
}

/// Looks at a key for as long as somebody watches it.
async fn look(gateway: Data<Gateway>, watched: Watched) {
    // A trace that nobody samples: a look every 100 ms would drown the others.
    let context = TraceContext { trace_id: uuid::Uuid::now_v7().as_u128(), span_id: 1, flags: 0 };
    while let Some(past) = gateway.watches.next_past(&watched.key) {
        let deadline = gateway.clock.now() + LOOK_PATIENCE;
        let words = Words { bucket: &watched.bucket, verb: Verb::Get.name(), context };
        let action = Action::Read { kind: watched.kind };
        let key = watched.key.clone();
        let operation = Operation { key, level: Level::Causal, past: past.clone(), stand_in: false, action };
        let asked = gateway.ask(AvailableQuestion::new(watched.durability, operation), deadline, words).await;
        // Without an answer nothing is known of now; whoever watches hears when there is.
        if let Verdict::Answered { outcome: Outcome::Read { shown, seen }, receipt, .. } = asked.verdict {
            gateway.note_latest(seen.time);
            let seen = available::Seen { epoch: seen.epoch.max(receipt.epoch), ..seen };
            gateway.watches.tell_available(&watched.key, Look { shown, seen, epoch: receipt.epoch, past });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One watch: what its client was told last.
struct Told {
    gateway: Data<Gateway>,
    key: RegisterKey,
    /// What its session had seen when the watch began: older looks are not for it.
    since: Past,
    /// What it has seen by now.
    session: Session,
    /// What the client's token said of ordered buckets.
    seen: Seen,
    /// Whether it goes on where another one ended, or has told something already.
    resumed: bool,
    /// Whether what was told last was that there is nothing.
    absent: bool,
}

impl Told {
    /// What a look tells this client, if that is news.
    fn event(&mut self, look: &Look) -> Option<Bytes> {
        if !comes_after(&look.past, &self.since) {
            return None;
        }
        let now_ms = self.gateway.clock.wall_ms();
        let shown = available_answers::without_ended(look.shown.clone(), now_ms);
        let absent = shown == Shown::Nothing;
        let number = session_number(&self.key);
        let none = Context::default();
        let known = self.session.context(number).unwrap_or(&none).includes(&look.seen.context);
        // A value's time may be up before its homes have deleted it.
        let ended = absent && !self.absent;
        if self.resumed && known && !ended {
            return None;
        }
        self.session.observe(number, &look.seen, true, false);
        (self.resumed, self.absent) = (true, absent);
        let cluster = self.gateway.fleet().view.cluster;
        let seen = self.seen.join(Seen { epoch: look.epoch, ..Seen::default() });
        let id = self.gateway.tokens.write(cluster, seen, Some(&self.session));
        let tags = &self.gateway.contexts;
        let (kind, data) = available_answers::event(tags, &self.key, &shown, &look.seen.context);
        Some(watches::event(&id, kind, &data))
    }
}

/// Whether a look that was asked to come after `asked` comes after all that `since` names. What is not named by its
/// actor is covered by the bound.
fn comes_after(asked: &Past, since: &Past) -> bool {
    let seen = |(actor, counter)| counter <= asked.seen.get(actor).max(asked.bound);
    asked.bound >= since.bound && asked.epoch >= since.epoch && since.seen.iter().all(seen)
}
