//! `GET /v1/backup/{bucket}`: all that a bucket holds, arc by arc.
//!
//! One answer is one part of one arc. All parts of an arc are of one cut, which one of its replicas keeps between the
//! answers; the cursor says which, so any gateway can go on. If that replica is gone, the arc begins again with another
//! cut, and the page says so.

use std::fmt::Write as _;

use actix_web::HttpResponse;
use available::Shown;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use membership::Position;
use replication::{SCAN_ENTRIES_MAX, Value};
use wire::backup::{BackupEntry, BackupPage, BackupPageLine, BackupValue};
use wire::ending;

use crate::cursors::{Place, Scope};
use crate::listing::{Gathered, NDJSON};
use crate::problem::Refuse;
use crate::records::Incoming;
use crate::scans::{Held, Item, Search};
use crate::words;

impl Incoming<'_> {
    /// `GET /v1/backup/{bucket}`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn backup(&mut self, bucket_name: &str) -> Result<HttpResponse, Refuse> {
        let query = words::query(self.request.query_string(), &["cursor"])?;
        let seen = self.seen().await?;
        let bucket = self.gateway.bucket(bucket_name, self.deadline, self.context).await?;
        let scope = Scope { call: "backup", bucket: bucket.id, prefix: "" };
        let fleet = self.gateway.fleet();
        let place = match query.get("cursor") {
            Some(cursor) => self.gateway.cursors.read(scope, cursor)?,
            // Begun where an arc does, the circle falls into whole arcs.
            None => {
                Place::first(fleet.ring.arcs().first().map_or(Position(0), |arc| Position(arc.high.0.wrapping_add(1))))
            }
        };
        let past = self.past_in(bucket.definition.contract, seen);
        let search = Search {
            bucket: &bucket,
            bucket_name,
            prefix: "",
            keep: true,
            values: true,
            entries_max: SCAN_ENTRIES_MAX,
            since: self.since(seen).counter,
            past: &past,
            deadline: self.deadline,
            context: self.context,
        };
        let step = self.gateway.step(&search, place).await?;
        let now_ms = self.gateway.clock.wall_ms();
        let entries: Vec<BackupEntry> = step.items.iter().map(|item| entry_of(item, now_ms)).collect();
        let page = BackupPage {
            entries: entries.len() as u64,
            begins: step.begins,
            ends: step.ends,
            through: format!("{:016x}", step.through.0),
            time: step.time,
            cluster: format!("{:016x}", fleet.view.cluster.0),
            epoch: step.epoch.0,
            next: step.next.as_ref().map(|place| self.gateway.cursors.write(scope, place)),
        };
        let mut body = String::new();
        for entry in &entries {
            push_line(&mut body, entry);
        }
        push_line(&mut body, &BackupPageLine { page });
        let mut gathered = Gathered { seen, ..Gathered::default() };
        gathered.take(step);
        let trailer = self.gathered(&gathered, bucket.definition.contract);
        let mut response = HttpResponse::Ok();
        trailer.on(Ok(response.content_type(NDJSON).insert_header(("cache-control", "no-store")).body(body)))
    }
}

fn push_line(body: &mut String, line: &impl serde::Serialize) {
    // Text, numbers and lists of them: always JSON. Writing to a String cannot fail.
    let _ = writeln!(body, "{}", serde_json::to_string(line).unwrap_or_default());
}

fn entry_of(item: &Item, now_ms: u64) -> BackupEntry {
    let entry = BackupEntry { key: String::from_utf8_lossy(&item.key.key).into_owned(), ..BackupEntry::default() };
    let encoded = |bytes: &Bytes| STANDARD.encode(bytes);
    match &item.held {
        Held::Value { value, ends_ms, .. } => {
            let ends_ms = (*ends_ms != 0).then_some(*ends_ms);
            let values = value.iter().map(|value| value_of(value, &value.content_type, ends_ms, now_ms));
            BackupEntry { values: Some(values.collect()), ..entry }
        }
        Held::Shown(Shown::Nothing) => entry,
        Held::Shown(Shown::Values(values)) => {
            let of = |value: &Value| {
                let (content_type, ends_ms) = ending::split_end(&value.content_type);
                value_of(value, content_type, ends_ms, now_ms)
            };
            BackupEntry { values: Some(values.iter().map(|(_, value)| of(value)).collect()), ..entry }
        }
        Held::Shown(Shown::Number(number)) => BackupEntry { number: Some(*number), ..entry },
        Held::Shown(Shown::Elements(elements)) => {
            BackupEntry { elements: Some(elements.iter().map(encoded).collect()), ..entry }
        }
        Held::Shown(Shown::Fields(fields)) => {
            let fields = fields.iter().map(|(name, value)| (encoded(name), encoded(value)));
            BackupEntry { fields: Some(fields.collect()), ..entry }
        }
    }
}

fn value_of(value: &Value, content_type: &[u8], ends_ms: Option<u64>, now_ms: u64) -> BackupValue {
    BackupValue {
        value: STANDARD.encode(&value.body),
        content_type: String::from_utf8_lossy(content_type).into_owned(),
        // What is due and not yet over has a last moment.
        ttl_ms: ends_ms.map(|ends_ms| ends_ms.saturating_sub(now_ms).max(1)),
    }
}
