//! The calls on records of available buckets: parse, ask, answer.
//!
//! A session's token says what it has seen of the keys that it used last; a write replaces just that, or what its
//! `If-Match` names, and stays beside everything else.

use actix_web::HttpResponse;
use available::{Action, Change, Context, Kind, Level, Operation, Outcome, Session, Write};
use replication::{RegisterKey, Value};
use telemetry::names;
use wire::ending;
use wire::http::{Durability, ValueType};

use crate::answers;
use crate::ask::{Asked, Words, whole};
use crate::available_answers::{self, Reading};
use crate::available_ask::AvailableQuestion;
use crate::buckets::Bucket;
use crate::problem::Refuse;
use crate::records::{Incoming, Trailer, Upload, unanswered};
use crate::routes::Verb;
use crate::token::Seen;
use crate::words::{self, Demand, RequestWords};
use dispatch::Verdict;

/// Parameters of a `POST`.
const POST_PARAMETERS: &[&str] = &["consistency", "ttl", "op", "by", "field"];
/// Parameters of a `PUT` or `DELETE`.
const WRITE_PARAMETERS: &[&str] = &["consistency", "ttl"];

/// A key with what its bucket says about it.
pub(crate) struct Target {
    key: RegisterKey,
    kind: Kind,
    durability: Durability,
    level: Level,
}

/// What stands for a key in a session's token.
pub(crate) fn session_number(key: &RegisterKey) -> u32 {
    (key.position.0 >> 32) as u32
}

/// The merge type of a bucket's keys.
pub(crate) fn kind_of(value_type: ValueType) -> Kind {
    match value_type {
        ValueType::Value => Kind::Value,
        ValueType::Counter => Kind::Counter,
        ValueType::Set => Kind::Set,
        ValueType::Map => Kind::Map,
        ValueType::LastWriter => Kind::LastWriter,
    }
}

/// The level as answers name it.
fn named(level: Level) -> wire::http::Level {
    match level {
        Level::Causal => wire::http::Level::Causal,
        Level::Eventual => wire::http::Level::Eventual,
    }
}

impl Incoming<'_> {
    /// `GET|HEAD /v1/kv/{bucket}/{key}` of an available bucket.
    ///
    /// # Errors
    /// The problem to answer with.
    pub(crate) async fn read_available(
        &mut self,
        verb: Verb,
        (bucket_name, bucket): (&str, &Bucket),
        key: &str,
        (asked_level, reading): (Option<wire::http::Level>, Reading<'_>),
        seen: Seen,
    ) -> Result<HttpResponse, Refuse> {
        let target = self.target(bucket, key, words::available_level(asked_level)?);
        let ((shown, context), trailer) = self.read_target(&target, bucket_name, verb, seen).await?;
        // By the time at which it is shown.
        let reading = Reading { now_ms: self.gateway.clock.wall_ms(), ..reading };
        let answer = available_answers::read(&self.gateway.contexts, &target.key, shown, &context, &reading);
        trailer.on(answer)
    }

    /// `PUT|POST|DELETE /v1/kv/{bucket}/{key}` of an available bucket.
    ///
    /// # Errors
    /// The problem to answer with.
    pub(crate) async fn write_available(
        &mut self,
        verb: Verb,
        (bucket_name, bucket): (&str, &Bucket),
        key: &str,
        (seen, request): (Seen, RequestWords),
        body: Upload,
    ) -> Result<HttpResponse, Refuse> {
        let gateway = self.gateway;
        let headers = self.request.headers();
        let known = if verb == Verb::Post { POST_PARAMETERS } else { WRITE_PARAMETERS };
        let query = words::query(self.request.query_string(), known)?;
        let level = words::available_level(words::level(&query)?)?;
        let terms = words::terms(headers, &query, bucket.definition.ttl_s)?;
        if terms.fence.is_some() {
            let detail = "a fencing token cannot be checked in an available bucket, where any replica takes the write \
                          by itself; keep what a lock guards in a bucket with contract `ordered`";
            return Err(Refuse::bad_request(detail));
        }
        let target = self.target(bucket, key, level);
        let context = self.context_of(&target, verb)?;
        let change = match verb {
            Verb::Delete => Change::Delete,
            Verb::Post => self.post_change(&target, &query, bucket, body).await?,
            Verb::Put | Verb::Get | Verb::Head => {
                if !matches!(target.kind, Kind::Value | Kind::LastWriter) {
                    return Err(available_answers::other_kind(target.kind));
                }
                let ends_ms = terms.ttl_ms.map(|ttl_ms| gateway.clock.wall_ms().saturating_add(ttl_ms));
                let content_type = ending::with_end(words::content_type(headers)?.as_bytes(), ends_ms);
                Change::Put(Value { body: self.body(body, bucket).await?, content_type })
            }
        };
        if query.contains_key("ttl") && verb != Verb::Put {
            return Err(Refuse::bad_request("in an available bucket only a PUT can say how long its value lasts"));
        }
        self.make_change(&target, bucket_name, verb, (change, context, request), seen).await
    }

    async fn make_change(
        &mut self,
        target: &Target,
        bucket_name: &str,
        verb: Verb,
        (change, context, request): (Change, Option<Context>, RequestWords),
        seen: Seen,
    ) -> Result<HttpResponse, Refuse> {
        let gateway = self.gateway;
        let RequestWords { text, id, first_sent_ms, .. } = self.first_seen(request, &target.key).await?;
        gateway.recent().remember(id, bucket_name, &String::from_utf8_lossy(&target.key.key));
        self.span.set(names::REQUEST_ID, format!("{:032x}", id.0));
        let session = self.session(seen);
        let write = Write {
            key: target.key.clone(),
            kind: target.kind,
            request: id,
            first_sent_ms,
            context,
            order: session.order().max(gateway.latest().saturating_add(1)),
            firm: false,
            change,
        };
        let asked = self.ask_available(target, Action::Write(write), bucket_name, verb, seen).await;
        let (outcome, trailer) = self.settle_available(asked, target, seen, Some(text), true)?;
        let Outcome::Done { effect, number, seen: shown } = outcome else {
            return trailer.on(Err(answers::answered_otherwise(true)));
        };
        let etag = gateway.contexts.etag(&target.key, &shown.context);
        if verb != Verb::Post || target.kind == Kind::Counter || effect == available::Effect::Hinted {
            return trailer.on(Ok(available_answers::write(effect, number, etag, verb == Verb::Post)));
        }
        // A set's or map's new value has to be read: the answer to the write does not bring it.
        match self.read_target(target, bucket_name, Verb::Get, seen).await {
            Ok(((shown, context), read)) => {
                let answer = available_answers::whole(&gateway.contexts, &target.key, &shown, &context);
                trailer.joined(read).on(Ok(answer))
            }
            Err(_) => trailer.on(Err(available_answers::made_and_not_read(etag))),
        }
    }

    /// `GET /v1/requests/{id}` of an available bucket.
    ///
    /// # Errors
    /// The problem to answer with.
    pub(crate) async fn available_outcome(
        &mut self,
        id: &str,
        (bucket_name, bucket): (&str, &Bucket),
        key: &str,
        seen: Seen,
    ) -> Result<HttpResponse, Refuse> {
        let target = self.target(bucket, key, Level::Causal);
        let action = Action::Outcome { request: words::request_id(id) };
        let asked = self.ask_available(&target, action, bucket_name, Verb::Get, seen).await;
        let (outcome, trailer) = self.settle_available(asked, &target, seen, Some(id.to_owned()), false)?;
        let answer = match outcome {
            Outcome::Remembered(found) => {
                let (outcome, effect) = available_answers::remembered(found.map(|(effect, _)| effect));
                Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(serde_json::json!({
                    "request_id": id, "bucket": bucket_name, "key": key,
                    "outcome": outcome, "effect": effect, "etag": null,
                })))
            }
            _ => Err(answers::answered_otherwise(false)),
        };
        trailer.on(answer)
    }

    pub(crate) fn target(&self, bucket: &Bucket, key: &str, level: Level) -> Target {
        let definition = &bucket.definition;
        Target {
            key: self.gateway.register(bucket.id, key),
            kind: kind_of(definition.value_type),
            durability: definition.durability,
            level,
        }
    }

    /// The request's session; one that has used no available bucket before begins here.
    pub(crate) fn session(&mut self, seen: Seen) -> &mut Session {
        let session = self.session.get_or_insert_with(|| Session::new(rand::random::<u64>().max(1)));
        // What ordered buckets showed the session led to what it does here.
        session.follow(seen.time.counter, seen.epoch);
        session
    }

    /// What the writer has seen of the key: as its condition says, or else its session.
    fn context_of(&self, target: &Target, verb: Verb) -> Result<Option<Context>, Refuse> {
        let not_here = |what: &str| {
            Refuse::bad_request(format!(
                "{what} cannot be promised in an available bucket, where any replica takes the write by itself; keep \
                 the key in a bucket with contract `ordered`"
            ))
        };
        match words::demand(self.request.headers())? {
            Demand::Always => {
                let known = self.session.as_ref().and_then(|session| session.context(session_number(&target.key)));
                Ok(known.filter(|context| !context.is_empty()).cloned())
            }
            Demand::Matches(_) if verb == Verb::Post => {
                Err(Refuse::bad_request("`add` and `remove` depend on nothing that was seen: leave If-Match out"))
            }
            Demand::Matches(etag) => {
                let context = self.gateway.contexts.context(&target.key, etag);
                context.map(Some).ok_or_else(|| {
                    Refuse::bad_request("If-Match must be the one ETag that was received of this key, in its quotes")
                })
            }
            Demand::Exists => Err(not_here("`If-Match: *`")),
            Demand::Absent => Err(not_here("`If-None-Match: *`")),
        }
    }

    async fn post_change(
        &self,
        target: &Target,
        query: &std::collections::BTreeMap<String, String>,
        bucket: &Bucket,
        body: Upload,
    ) -> Result<Change, Refuse> {
        let op = query.get("op").map(String::as_str);
        let field = query.get("field").map(|name| bytes::Bytes::copy_from_slice(name.as_bytes()));
        let (by, is_map) = (query.get("by"), target.kind == Kind::Map);
        if field.is_some() != is_map || (by.is_some() && target.kind != Kind::Counter) {
            return Err(available_answers::wrong_words(target.kind));
        }
        match (op, target.kind, field) {
            (Some("add"), Kind::Counter, _) => Ok(Change::Add(crate::records::added(by)?)),
            (Some("add"), Kind::Set, _) => Ok(Change::Insert(self.body(body, bucket).await?)),
            (Some("remove"), Kind::Set, _) => Ok(Change::Remove(self.body(body, bucket).await?)),
            (Some("add"), Kind::Map, Some(name)) => Ok(Change::Set { name, value: self.body(body, bucket).await? }),
            (Some("remove"), Kind::Map, Some(name)) => Ok(Change::Unset(name)),
            (Some("add" | "remove" | "append"), _, _) => Err(available_answers::other_kind(target.kind)),
            (Some("touch"), _, _) => {
                Err(Refuse::not_offered("touch", "a PUT with `?ttl=` says how long a value lasts"))
            }
            _ => Err(Refuse::bad_request("`op` must say what to do: add or remove")),
        }
    }

    pub(crate) async fn read_target(
        &mut self,
        target: &Target,
        bucket_name: &str,
        verb: Verb,
        seen: Seen,
    ) -> Result<((available::Shown, Context), Trailer), Refuse> {
        let action = Action::Read { kind: target.kind };
        let asked = self.ask_available(target, action, bucket_name, verb, seen).await;
        let (outcome, trailer) = self.settle_available(asked, target, seen, None, false)?;
        match outcome {
            Outcome::Read { shown, seen } => Ok(((shown, seen.context), trailer)),
            _ => Err(trailer.on_refuse(answers::answered_otherwise(false))),
        }
    }

    async fn ask_available(
        &mut self,
        target: &Target,
        action: Action,
        bucket: &str,
        verb: Verb,
        seen: Seen,
    ) -> Asked<Outcome> {
        self.span.set(names::KEY_ID, target.key.position.to_string());
        self.span.set(names::LEVEL, named(target.level).name());
        let past = self.session(seen).past.clone();
        let stand_in = target.level == Level::Eventual;
        let operation = Operation { key: target.key.clone(), level: target.level, past, stand_in, action };
        let words = Words { bucket, verb: verb.name(), context: self.context };
        let question = AvailableQuestion::new(target.durability, operation);
        self.gateway.ask(question, self.deadline, words).await
    }

    /// Takes an operation's end apart, and its answer into the session.
    fn settle_available(
        &mut self,
        asked: Asked<Outcome>,
        target: &Target,
        seen: Seen,
        request_id: Option<String>,
        write: bool,
    ) -> Result<(Outcome, Trailer), Refuse> {
        let Verdict::Answered { outcome, mut receipt, node, .. } = asked.verdict else {
            let refuse = available_answers::refusal_of(&asked.verdict, write);
            return Err(unanswered(refuse, request_id, asked.attempts));
        };
        self.span.set(names::EPOCH, whole(receipt.epoch.0));
        let shown = match &outcome {
            Outcome::Read { seen, .. } | Outcome::Done { seen, .. } => Some(seen),
            Outcome::Remembered(found) => found.as_ref().map(|(_, seen)| seen),
            Outcome::Refused(_) | Outcome::Unknown => None,
        };
        if let Some(shown) = shown {
            self.gateway.note_latest(shown.time);
            let (number, causal) = (session_number(&target.key), target.level == Level::Causal);
            self.session(seen).observe(number, shown, causal, write);
        }
        let seen = seen.join(Seen { epoch: receipt.epoch, ..Seen::default() });
        let hinted = matches!(outcome, Outcome::Done { effect: available::Effect::Hinted, .. });
        // The coordinator first, as in every receipt.
        receipt.voters.sort_by_key(|voter| *voter != node);
        let fleet = self.gateway.fleet();
        let receipt = available_answers::receipt(&fleet, &receipt, named(target.level), asked.attempts, hinted);
        let token = self.gateway.tokens.write(fleet.view.cluster, seen, self.session.as_ref());
        Ok((outcome, Trailer::new(receipt, token, request_id)))
    }
}
