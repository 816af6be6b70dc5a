//! `GET /v1/kv/{bucket}`: which keys there are.

use std::fmt::Write as _;

use actix_web::HttpResponse;
use available::{Past, Shown};
use membership::{NodeId, Position};
use replication::Ballot;
use serde_json::json;
use wire::http::{Contract, Level, Receipt};

use crate::available_records::session_number;
use crate::cursors::{Place, Scope};
use crate::problem::Refuse;
use crate::records::{Incoming, Trailer};
use crate::scans::{Held, Item, Search, Step, size_of};
use crate::token::Seen;
use crate::words;

/// Keys of one page, if the request does not say how many.
const LIMIT_DEFAULT: u32 = 100;
/// Keys of one page at most.
const LIMIT_MAX: u32 = 1_000;
/// The longest prefix: no key is longer.
const PREFIX_MAX_BYTES: usize = wire::http::KEY_MAX_BYTES;
/// A page is answered as it is when this part of its time has passed.
const PART_OF_TIME: u32 = 2;

/// What steps add up to.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub items: Vec<Item>,
    pub seen: Seen,
    pub voters: Vec<NodeId>,
}

impl Gathered {
    pub(crate) fn take(&mut self, step: Step) {
        let time = Ballot { counter: step.time, node: NodeId(u64::MAX) };
        let time = if step.time == 0 { Ballot::ZERO } else { time };
        self.seen = self.seen.join(Seen { epoch: step.epoch, time });
        for voter in step.voters {
            if !self.voters.contains(&voter) {
                self.voters.push(voter);
            }
        }
        self.items.extend(step.items);
    }
}

impl Incoming<'_> {
    /// `GET|HEAD /v1/kv/{bucket}`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn list(&mut self, bucket_name: &str) -> Result<HttpResponse, Refuse> {
        let query = words::query(self.request.query_string(), &["prefix", "limit", "cursor"])?;
        let prefix = query.get("prefix").map_or("", String::as_str);
        if prefix.len() > PREFIX_MAX_BYTES {
            return Err(Refuse::bad_request(format!("a prefix has at most {PREFIX_MAX_BYTES} bytes")));
        }
        let limit = limit_of(query.get("limit"))?;
        let seen = self.seen().await?;
        let bucket = self.gateway.bucket(bucket_name, self.deadline, self.context).await?;
        let scope = Scope { call: "list", bucket: bucket.id, prefix };
        let mut place = match query.get("cursor") {
            Some(cursor) => Some(self.gateway.cursors.read(scope, cursor)?),
            None => Some(Place::first(Position(0))),
        };
        let past = self.past_in(bucket.definition.contract, seen);
        let mut gathered = Gathered { seen, ..Gathered::default() };
        let left = self.gateway.clock.until(self.deadline);
        let enough = self.gateway.clock.now() + left / PART_OF_TIME;
        let mut steps = 0;
        while let Some(from) = place.take() {
            let wanted = (limit as usize).saturating_sub(gathered.items.len());
            if wanted == 0 || (steps > 0 && self.gateway.clock.now() >= enough) {
                place = Some(from);
                break;
            }
            let search = Search {
                bucket: &bucket,
                bucket_name,
                prefix,
                keep: false,
                values: false,
                entries_max: wanted as u32,
                since: self.since(gathered.seen).counter,
                past: &past,
                deadline: self.deadline,
                context: self.context,
            };
            let step = match self.gateway.step(&search, from.clone()).await {
                Ok(step) => step,
                // What is found so far is an answer.
                Err(_) if steps > 0 => {
                    place = Some(from);
                    break;
                }
                Err(refuse) => return Err(refuse),
            };
            place.clone_from(&step.next);
            gathered.take(step);
            steps += 1;
        }
        let next = place.map(|place| {
            let cursor = self.gateway.cursors.write(scope, &place);
            link(bucket_name, prefix, limit, &cursor)
        });
        let mut body = String::new();
        for item in &gathered.items {
            // Writing to a String cannot fail.
            let _ = writeln!(body, "{}", line(item));
        }
        let trailer = self.gathered(&gathered, bucket.definition.contract);
        let mut response = HttpResponse::Ok();
        response.content_type(NDJSON).insert_header(("cache-control", "no-store"));
        if let Some(next) = next {
            response.insert_header(("link", next));
        }
        trailer.on(Ok(response.body(body)))
    }

    /// What the keys of a bucket are read after: of an available one, what the session has seen in buckets of either
    /// contract. An ordered one goes by [`Incoming::since`] alone.
    pub(crate) fn past_in(&mut self, contract: Contract, seen: Seen) -> Past {
        match contract {
            Contract::Ordered => Past::default(),
            Contract::Available => self.session(seen).past.clone(),
        }
    }

    /// The words of an answer that shows all this, for a session that has seen it now.
    pub(crate) fn gathered(&mut self, gathered: &Gathered, contract: Contract) -> Trailer {
        let level = match contract {
            Contract::Ordered => Level::Sequential,
            Contract::Available => {
                let session = self.session(gathered.seen);
                for item in &gathered.items {
                    if let Some(seen) = &item.seen {
                        session.observe(session_number(&item.key), seen, true, false);
                    }
                }
                Level::Causal
            }
        };
        let fleet = self.gateway.fleet();
        let replicas = gathered.voters.iter().map(|voter| fleet.name_of(*voter)).collect();
        let receipt = Receipt { level, epoch: gathered.seen.epoch.0, hops: 1, replicas, attempts: 1 }.to_string();
        Trailer::new(receipt, self.gateway.tokens.write(fleet.view.cluster, gathered.seen, self.session.as_ref()), None)
    }
}

/// The media type of one JSON document a line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

fn limit_of(text: Option<&String>) -> Result<u32, Refuse> {
    let Some(text) = text else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| Refuse::bad_request(format!("limit must be 1 to {LIMIT_MAX}")))
}

fn link(bucket: &str, prefix: &str, limit: u32, cursor: &str) -> String {
    let prefix = if prefix.is_empty() { String::new() } else { format!("prefix={}&", encoded(prefix)) };
    format!("</v1/kv/{bucket}?{prefix}limit={limit}&cursor={cursor}>; rel=\"next\"")
}

/// Percent-encodes all but unreserved characters (RFC 3986).
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn line(item: &Item) -> serde_json::Value {
    let key = String::from_utf8_lossy(&item.key.key);
    let mut line = json!({ "key": key, "size": size_of(&item.held), "etag": item.etag });
    if let Held::Shown(Shown::Values(values)) = &item.held
        && values.len() > 1
    {
        line["siblings"] = json!(values.len());
    }
    line
}
