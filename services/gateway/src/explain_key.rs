//! `GET /v1/explain/{bucket}/{key}`: what each replica of a key holds, what waits for them elsewhere, and how a read of
//! it is answered now.
//!
//! Every member of the ring is asked: any of them may keep a hint. Each tells what it holds as it is, on disk or not,
//! known to a majority or not; that is no read, and promises nothing. The read beside it is one, with its receipt.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::HttpResponse;
use available::{Actor, Context, Known, Level};
use client::fleet::Fleet;
use membership::NodeId;
use replication::{Operation, Outcome, RegisterKey};
use runtime::CallError;
use serde_json::{Value, json};
use telemetry::names;
use wire::http::{Contract, Receipt};
use wire::node::{Finding, HeldRegister, Inquiry};

use crate::answers;
use crate::available_answers;
use crate::buckets::Bucket;
use crate::gateway::Gateway;
use crate::problem::Refuse;
use crate::records::{Incoming, Trailer};
use crate::routes::Verb;
use crate::token::Seen;
use crate::words;

/// How long one node is waited for, at most; a part of the request's time.
const PATIENCE_MAX: Duration = Duration::from_millis(500);

/// What a node said, or why it did not.
pub(crate) type Said = Result<Finding, CallError>;

impl Gateway {
    /// Asks all members of the ring at once, in their order.
    pub(crate) async fn inquire_all(
        &self,
        inquiry: &Inquiry,
        within: Duration,
        context: stdx::TraceContext,
    ) -> Vec<(NodeId, Said)> {
        let patience = PATIENCE_MAX.min(within / 4);
        let members: Vec<NodeId> = self.fleet().view.members.iter().map(|member| member.id).collect();
        let asked = members.iter().map(|node| async {
            // A call ends by its deadline; some other nodes' words are worth more than one node's silence.
            (*node, self.nodes.inquire(*node, inquiry.clone(), patience, context).await)
        });
        futures_util::future::join_all(asked).await
    }
}

impl Incoming<'_> {
    /// `GET /v1/explain/{bucket}/{key}`
    ///
    /// # Errors
    /// The problem to answer with. That the key cannot be read now is none: that is explained.
    pub async fn explain(&mut self, bucket_name: &str, key: &str) -> Result<HttpResponse, Refuse> {
        let gateway = self.gateway;
        words::query(self.request.query_string(), &[])?;
        let seen = self.seen().await?;
        let bucket = gateway.bucket(bucket_name, self.deadline, self.context).await?;
        let register = gateway.register(bucket.id, key);
        self.span.set(names::KEY_ID, register.position.to_string());
        let inquiry = match bucket.definition.contract {
            Contract::Ordered => Inquiry::Register(register.clone()),
            Contract::Available => Inquiry::Available(bucket.definition.durability, register.clone()),
        };
        let said = gateway.inquire_all(&inquiry, gateway.clock.until(self.deadline), self.context).await;
        let read = match bucket.definition.contract {
            Contract::Ordered => self.explained_register((bucket_name, &register), seen).await,
            Contract::Available => self.explained_read((bucket_name, &bucket), key, seen).await,
        };
        let (read, trailer) = match read {
            Ok((read, trailer)) => (read, Some(trailer)),
            Err(refuse) => {
                (json!({ "answered": false, "problem": refuse.code().code(), "how": refuse.detail() }), None)
            }
        };
        let fleet = gateway.fleet();
        let homes = fleet.ring.sets_of(register.position);
        let is_home = |node: &NodeId| homes.contains(*node);
        let told = said.iter().filter_map(|(node, said)| told(&fleet, (*node, is_home(node)), said));
        let replicas: Vec<Value> = told.collect();
        let hints: u64 = replicas.iter().filter_map(|replica| replica["hints"].as_u64()).sum();
        let answer = json!({
            "bucket": bucket_name,
            "key": key,
            "contract": bucket.definition.contract,
            "identifier": register.position.to_string(),
            "epoch": fleet.view.epoch.0,
            "pending_change": fleet.pending_change_at(register.position),
            "read": read,
            "replicas": replicas,
            "hints": hints,
        });
        let answer = Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(answer));
        match trailer {
            Some(trailer) => trailer.on(answer),
            None => answer,
        }
    }

    /// A strict read of the key, as it came about.
    async fn explained_register(
        &mut self,
        (bucket_name, register): (&str, &RegisterKey),
        seen: Seen,
    ) -> Result<(Value, Trailer), Refuse> {
        let level = wire::http::Level::Strict;
        let read = self.in_session(Operation::Read { key: register.clone() }, seen, level);
        let asked = self.ask(read, level, bucket_name, Verb::Get).await;
        let (outcome, trailer) = self.settle(asked, level, seen, None, false)?;
        let Outcome::Value(found) = outcome else { return Err(answers::answered_otherwise(false)) };
        let etag = found.as_ref().map(|(version, _)| words::etag(*version));
        let shows = if found.is_some() { "value" } else { "absent" };
        let how = "a majority of the replicas reported one ballot, or was brought to one";
        Ok((described(&trailer, (shows, etag), how), trailer))
    }

    /// A causal read of the key, as it came about.
    async fn explained_read(
        &mut self,
        (bucket_name, bucket): (&str, &Bucket),
        key: &str,
        seen: Seen,
    ) -> Result<(Value, Trailer), Refuse> {
        let target = self.target(bucket, key, Level::Causal);
        let ((shown, context), trailer) = self.read_target(&target, bucket_name, Verb::Get, seen).await?;
        let gateway = self.gateway;
        let shown = available_answers::without_ended(shown, gateway.clock.wall_ms());
        let register = gateway.register(bucket.id, key);
        let (shows, data) = available_answers::event(&gateway.contexts, &register, &shown, &context);
        let alone = trailer.receipt().parse::<Receipt>().is_ok_and(|receipt| receipt.replicas.len() == 1);
        let how = if alone {
            "one home answered alone: it lacks nothing that the session has seen, and a majority is known to hold what \
             it shows"
        } else {
            "the other homes were asked, what any of them lacked was sent, and a majority of them holds what is shown"
        };
        let etag = data["etag"].as_str().map(str::to_owned);
        Ok((described(&trailer, (shows, etag), how), trailer))
    }
}

fn described(trailer: &Trailer, (shows, etag): (&str, Option<String>), how: &str) -> Value {
    json!({ "answered": true, "shows": shows, "etag": etag, "receipt": trailer.receipt(), "how": how })
}

/// A node's part. Who is no home and keeps nothing for one is left out.
fn told(fleet: &Fleet, (node, home): (NodeId, bool), said: &Said) -> Option<Value> {
    let head = json!({ "node": fleet.name_of(node), "home": home, "answered": said.is_ok() });
    let body = match said {
        Ok(Finding::Register(held)) if home || held.replica => register(held),
        Ok(Finding::Available(known)) if home || known.home || known.hints > 0 => available_key(fleet, known),
        Ok(Finding::Register(_) | Finding::Available(_)) => return None,
        Ok(Finding::Request(_)) => json!({ "answered": false, "why": "it answered another question" }),
        Err(_) if !home => return None,
        Err(error) => json!({ "why": error.to_string() }),
    };
    let (Value::Object(mut head), Value::Object(body)) = (head, body) else { return None };
    head.extend(body);
    Some(Value::Object(head))
}

fn register(held: &HeldRegister) -> Value {
    let written = held.version != replication::Version::default();
    json!({
        "epoch": held.epoch.0,
        "ballot": held.ballot.to_string(),
        "version": written.then(|| words::etag(held.version)),
        "size": held.size,
        "tombstone": written && held.size.is_none(),
        "hints": 0,
    })
}

fn available_key(fleet: &Fleet, known: &Known) -> Value {
    let actor = |actor: Actor| format!("{}/{}", fleet.name_of(actor.node), actor.birth);
    let alive: Vec<String> = known.alive.iter().map(|dot| format!("{}@{}", dot.counter, actor(dot.actor))).collect();
    let owes: Vec<String> = known.owes.iter().map(|node| fleet.name_of(*node)).collect();
    let compared: BTreeMap<String, u64> =
        known.compared_ms.iter().map(|(node, ms)| (fleet.name_of(*node), *ms)).collect();
    json!({
        "epoch": known.epoch.0,
        "counts": known.counts,
        "version": version(&known.context, actor),
        "alive": known.alive_count,
        "dots": alive,
        "tombstone": known.tombstone,
        "stable": known.stable,
        "lacking": owes,
        "last_repair_ms_ago": compared,
        "hints": known.hints,
    })
}

/// All that has been seen: of each actor everything up to a counter, and lone dots beyond it.
fn version(context: &Context, actor: impl Fn(Actor) -> String) -> Value {
    let vector: BTreeMap<String, u64> = context.vector.iter().map(|(of, counter)| (actor(of), counter)).collect();
    let dots: Vec<String> = context.dots().iter().map(|dot| format!("{}@{}", dot.counter, actor(dot.actor))).collect();
    json!({ "up_to": vector, "and": dots })
}
