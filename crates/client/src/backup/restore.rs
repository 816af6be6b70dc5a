//! From a file back into a bucket, by ordinary writes.
//!
//! Values that stood side by side do so again: the first one takes the place of what is there, the others are written
//! as by somebody who has seen nothing. Of a counter the difference is added; of a set or map what is not in the file
//! is removed. Of a key that others change meanwhile, what it holds afterwards depends on who came last, as always.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use wire::backup::{BackupEntry, BackupValue};
use wire::http::{BucketAnswer, Contract};

use super::file::FileReader;
use super::{BackupError, Checked, FileError, Progress, check};
use crate::gateway::{Action, Answer, Condition, GatewayClient, Reply, Request, Seen};

/// Keys that are written at the same time.
const AT_ONCE: usize = 32;
/// How long one write may take before it is sent again.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How often a write is sent before the restore is given up.
const TRIES_MAX: u32 = 6;
/// How long the bucket's definition may take.
const DEFINITION_PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of keys that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They hold afterwards what the file holds.
    Replaced,
    /// They are left as they are.
    Kept,
}

/// What a restore came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the file says of itself.
    pub file: Checked,
    /// Keys that were written.
    pub written: u64,
    /// Keys that were there, and were kept.
    pub kept: u64,
    /// Whether the bucket was made.
    pub made_bucket: bool,
}

/// Restores a file into a bucket, which is made as the file says if it is not there.
///
/// # Errors
/// See [`BackupError`]. If the file is not whole, nothing was done.
pub async fn restore(
    client: &GatewayClient,
    bucket: &str,
    path: &Path,
    existing: Existing,
    progress: impl Fn(Progress),
) -> Result<Restored, BackupError> {
    let at_file = |source| BackupError::File { path: path.to_owned(), source };
    let file = check(path).map_err(at_file)?;
    let made_bucket = prepare_bucket(client, bucket, &file).await?;
    let mut reader = FileReader::open(path).map_err(at_file)?;
    let mut broken: Option<FileError> = None;
    let (written, kept) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = || written.load(Ordering::Relaxed) + kept.load(Ordering::Relaxed);
    let available = file.head.definition.contract == Contract::Available;
    let job = Job { client, bucket, fingerprint: &file.end.fingerprint, existing, available };
    let entries = std::iter::from_fn(|| match reader.next_entry() {
        Ok(entry) => entry,
        Err(error) => {
            broken = Some(error);
            None
        }
    });
    let mut results = stream::iter(entries).map(|entry| job.entry(entry)).buffer_unordered(AT_ONCE);
    while let Some(result) = results.next().await {
        let counter = match result {
            Ok(true) => &written,
            Ok(false) => &kept,
            Err((key, why)) => {
                return Err(BackupError::Write { key, why, done: count(), of: file.end.end });
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        progress(Progress { entries: count(), of: Some(file.end.end), arcs: 0 });
    }
    drop(results);
    if let Some(error) = broken {
        // It was whole a moment ago: somebody is at work on it.
        return Err(at_file(error));
    }
    let (written, kept) = (written.into_inner(), kept.into_inner());
    Ok(Restored { file, written, kept, made_bucket })
}

/// Sees to it that the bucket is there, and keeps its keys as the file's did. True if it was made.
async fn prepare_bucket(client: &GatewayClient, bucket: &str, file: &Checked) -> Result<bool, BackupError> {
    let saved = &file.head.definition;
    let present: Option<BucketAnswer> = client.bucket(bucket, DEFINITION_PATIENCE).await?;
    let Some(present) = present else {
        client.make_bucket(bucket, saved, DEFINITION_PATIENCE).await?;
        return Ok(true);
    };
    let kind = |definition: &wire::http::BucketDefinition| {
        let name = |word: serde_json::Value| word.as_str().unwrap_or_default().to_owned();
        let (contract, kind) = (serde_json::to_value(definition.contract), serde_json::to_value(definition.value_type));
        format!("`{}` and type `{}`", name(contract.unwrap_or_default()), name(kind.unwrap_or_default()))
    };
    let (present, saved) = (kind(&present.definition), kind(saved));
    if present != saved {
        return Err(BackupError::OtherKind { bucket: bucket.to_owned(), present, saved });
    }
    Ok(false)
}

/// Writes one key after the other.
struct Job<'a> {
    client: &'a GatewayClient,
    bucket: &'a str,
    fingerprint: &'a str,
    existing: Existing,
    /// Whether the bucket's contract is `available`.
    available: bool,
}

/// A key that could not be written, and why.
type Failed = (String, String);

impl Job<'_> {
    /// Whether it was written; else what was there is kept.
    async fn entry(&self, entry: BackupEntry) -> Result<bool, Failed> {
        let key = entry.key.clone();
        let done = match entry {
            BackupEntry { values: Some(values), .. } => self.values(&key, values).await,
            BackupEntry { number: Some(number), .. } => self.number(&key, number).await,
            BackupEntry { elements: Some(elements), .. } => self.elements(&key, elements).await,
            BackupEntry { fields: Some(fields), .. } => self.fields(&key, fields).await,
            _ => Err("it holds nothing".to_owned()),
        };
        done.map_err(|why| (key, why))
    }

    async fn values(&self, key: &str, values: Vec<BackupValue>) -> Result<bool, String> {
        let mut first = if self.existing == Existing::Kept { Condition::Absent } else { Condition::Always };
        // An ordered bucket judges the condition itself. In an available one it is seen to here.
        if self.available {
            let found = self.read(key).await?;
            first = match found.filter(|found| found.seen != Seen::Absent) {
                Some(_) if self.existing == Existing::Kept => return Ok(false),
                Some(found) => found.etag.map_or(Condition::Always, Condition::Matches),
                None => Condition::Always,
            };
        }
        for (index, value) in values.into_iter().enumerate() {
            let bytes = decoded(&value.value)?;
            let content_type = Some(value.content_type).filter(|kind| !kind.is_empty());
            let action = Action::Put { value: bytes, content_type };
            let condition = std::mem::take(&mut first);
            let request = Request { condition, ttl_ms: value.ttl_ms, ..self.request(key, action, &index.to_string()) };
            let answer = self.write(request).await?;
            if answer.seen == Seen::ConditionFailed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn number(&self, key: &str, number: i64) -> Result<bool, String> {
        let found = self.read(key).await?.filter(|found| found.seen == Seen::Found);
        if found.is_some() && self.existing == Existing::Kept {
            return Ok(false);
        }
        let present = match found {
            None => 0,
            Some(found) => {
                let text = std::str::from_utf8(&found.body).map_err(|error| error.to_string())?;
                text.parse::<i64>().map_err(|error| format!("the counter shows no number: {error}"))?
            }
        };
        let by = number.checked_sub(present).ok_or("the counter stands too far from its number to be moved at once")?;
        self.write(self.request(key, Action::Add(by), "add")).await?;
        Ok(true)
    }

    async fn elements(&self, key: &str, elements: Vec<String>) -> Result<bool, String> {
        let present = self.json_list(key, "elements").await?;
        if present.is_some() && self.existing == Existing::Kept {
            return Ok(false);
        }
        let wanted: BTreeSet<String> = elements.into_iter().collect();
        let present: BTreeSet<String> = present.unwrap_or_default().into_iter().collect();
        for element in present.difference(&wanted) {
            let action = Action::Remove(decoded(element)?);
            self.write(self.request(key, action, &format!("remove {element}"))).await?;
        }
        for element in wanted.difference(&present) {
            let action = Action::Insert(decoded(element)?);
            self.write(self.request(key, action, &format!("insert {element}"))).await?;
        }
        Ok(true)
    }

    async fn fields(&self, key: &str, fields: Vec<(String, String)>) -> Result<bool, String> {
        let found = self.read(key).await?.filter(|found| found.seen == Seen::Found);
        let present: BTreeMap<String, String> = match &found {
            None => BTreeMap::new(),
            Some(found) => {
                let json: serde_json::Value = serde_json::from_slice(&found.body).map_err(|error| error.to_string())?;
                serde_json::from_value(json["fields"].clone()).map_err(|error| error.to_string())?
            }
        };
        if !present.is_empty() && self.existing == Existing::Kept {
            return Ok(false);
        }
        let mut wanted = BTreeMap::new();
        for (name, value) in fields {
            let name = String::from_utf8(decoded(&name)?.to_vec()).map_err(|error| error.to_string())?;
            wanted.insert(name, value);
        }
        for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
            let action = Action::Unset { field: name.clone() };
            self.write(self.request(key, action, &format!("unset {name}"))).await?;
        }
        for (name, value) in wanted.iter().filter(|(name, value)| present.get(*name) != Some(*value)) {
            let action = Action::Set { field: name.clone(), value: decoded(value)? };
            self.write(self.request(key, action, &format!("set {name}"))).await?;
        }
        Ok(true)
    }

    async fn json_list(&self, key: &str, name: &str) -> Result<Option<Vec<String>>, String> {
        let Some(found) = self.read(key).await?.filter(|found| found.seen == Seen::Found) else { return Ok(None) };
        let json: serde_json::Value = serde_json::from_slice(&found.body).map_err(|error| error.to_string())?;
        let list: Vec<String> = serde_json::from_value(json[name].clone()).map_err(|error| error.to_string())?;
        Ok((!list.is_empty()).then_some(list))
    }

    /// A request whose id is that of the same write in every restore of this file.
    fn request(&self, key: &str, action: Action, part: &str) -> Request {
        let mut hasher = blake3::Hasher::new();
        // What keeps a value is another request than what replaces it.
        let mode = if self.existing == Existing::Kept { "keep" } else { "replace" };
        for text in [self.fingerprint, self.bucket, mode, key, part] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let request_id = format!("restore-{}", &hasher.finalize().to_hex().as_str()[..32]);
        Request { request_id, deadline: WRITE_DEADLINE, ..Request::new(self.bucket, key, action) }
    }

    async fn read(&self, key: &str) -> Result<Option<Answer>, String> {
        let request = Request { deadline: WRITE_DEADLINE, ..Request::new(self.bucket, key, Action::Get) };
        self.send(request).await.map(Some)
    }

    async fn write(&self, request: Request) -> Result<Answer, String> {
        self.send(request).await
    }

    /// Sends a request until it is answered. The same id makes it act once.
    async fn send(&self, request: Request) -> Result<Answer, String> {
        let mut last = String::new();
        for _ in 0..TRIES_MAX {
            match self.client.send(&request).await {
                Reply::Ok(answer) => return Ok(answer),
                Reply::Failed(failure) | Reply::Unknown(failure) => {
                    last = format!("{}: {}", failure.code, failure.detail);
                    if failure.status.is_some_and(|status| (400..500).contains(&status) && status != 429) {
                        break;
                    }
                }
            }
        }
        Err(last)
    }
}

fn decoded(text: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| format!("a value that is not base64: {error}"))
}
