//! What a request's headers and query say. Pure: text in, typed words or a refusal out. Parsed once, here, so that
//! nothing behind it meets a broken header.

use std::collections::BTreeMap;

use replication::{Ballot, Condition, REQUESTS_AGE_MAX_MS, RequestId, Terms, Version};
use wire::http::{
    DEADLINE_DEFAULT_MS, DEADLINE_MAX_MS, Level, ProblemCode, REQUEST_ID_CHARACTERS, header, percent_decode,
};

use crate::problem::Refuse;

/// The headers of a request, as far as they are ours: a name's values in the order in which they came.
pub trait Headers {
    /// The values of this header that are text; `Err` when one is not visible ASCII.
    fn values(&self, name: &'static str) -> Result<Vec<&str>, Refuse>;

    /// The only value of this header, none when it is absent.
    fn single(&self, name: &'static str) -> Result<Option<&str>, Refuse> {
        let values = self.values(name)?;
        match values.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(Refuse::bad_request(format!("the header {name} stands there more than once"))),
        }
    }
}

impl Headers for actix_web::http::header::HeaderMap {
    fn values(&self, name: &'static str) -> Result<Vec<&str>, Refuse> {
        let broken = |_| Refuse::bad_request(format!("the header {name} holds bytes that are not visible ASCII"));
        self.get_all(name).map(|value| value.to_str().map(str::trim).map_err(broken)).collect()
    }
}

/// How long the client waits, in milliseconds.
pub fn deadline_ms(headers: &impl Headers) -> Result<u32, Refuse> {
    let Some(text) = headers.single(header::DEADLINE_MS)? else { return Ok(DEADLINE_DEFAULT_MS) };
    match text.parse() {
        Ok(ms @ 1..=DEADLINE_MAX_MS) => Ok(ms),
        _ => Err(Refuse::bad_request(format!("Everring-Deadline-Ms must be 1 to {DEADLINE_MAX_MS}"))),
    }
}

/// A write's retry id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestWords {
    /// The id as the client wrote it, or as it was made here.
    pub text: String,
    /// What the replicas remember.
    pub id: RequestId,
    /// When the request was first sent, milliseconds of the Unix epoch.
    pub first_sent_ms: u64,
    /// Whether an earlier attempt may have been sent somewhere.
    pub retry: bool,
    /// Whether every attempt names a time no later than this one's by itself; else the time of the first has to be
    /// looked up.
    pub dated: bool,
}

/// The request id, from `Everring-Request-Id` or `Idempotency-Key`, or else a new one.
///
/// A UUIDv7 tells when the request was first made, so that a retry through another gateway names the same time. Its
/// time is not believed after `now_ms`, or an entry would never be forgotten, nor when it is older than anything that
/// is remembered: that client's clock is behind. What is so old that it may soon be forgotten has to be looked up.
pub fn request_words(
    headers: &impl Headers,
    now_ms: u64,
    fresh: impl FnOnce() -> String,
) -> Result<RequestWords, Refuse> {
    let ours = headers.single(header::REQUEST_ID)?;
    let theirs = headers.single(header::IDEMPOTENCY_KEY)?;
    let given = match (ours, theirs) {
        (Some(a), Some(b)) if a != b => {
            return Err(Refuse::bad_request("Everring-Request-Id and Idempotency-Key differ; send one of them"));
        }
        (a, b) => a.or(b),
    };
    let attempt = match headers.single(header::ATTEMPT)? {
        None => None,
        Some(text) => match text.parse::<u32>() {
            Ok(attempt) if attempt >= 1 => Some(attempt),
            _ => return Err(Refuse::bad_request("Everring-Attempt must be a number from 1")),
        },
    };
    let Some(text) = given else {
        let text = fresh();
        return Ok(RequestWords { id: request_id(&text), text, first_sent_ms: now_ms, retry: false, dated: true });
    };
    check_request_id(text)?;
    let believed = now_ms.saturating_sub(REQUESTS_AGE_MAX_MS)..=now_ms;
    let told_ms = uuid_v7_ms(text).filter(|told_ms| believed.contains(told_ms));
    // A first attempt may name a later time than its repeats, never an earlier one.
    let first_sent_ms = told_ms.filter(|_| attempt != Some(1)).unwrap_or(now_ms);
    let dated = told_ms.is_some_and(|told_ms| told_ms + REQUESTS_AGE_MAX_MS / 2 >= now_ms);
    let retry = attempt != Some(1);
    Ok(RequestWords { text: text.to_owned(), id: request_id(text), first_sent_ms, retry, dated })
}

/// Refuses what is no request id.
pub fn check_request_id(text: &str) -> Result<(), Refuse> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && REQUEST_ID_CHARACTERS.contains(&text.len()) {
        return Ok(());
    }
    Err(Refuse::bad_request("a request id has 8 to 128 visible ASCII characters"))
}

/// What the replicas know a request id by.
pub fn request_id(text: &str) -> RequestId {
    let mut first = [0; 16];
    first.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    RequestId(u128::from_be_bytes(first))
}

/// The time in a UUIDv7 (RFC 9562, section 5.7); none for any other text.
fn uuid_v7_ms(text: &str) -> Option<u64> {
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    (uuid.get_version_num() == 7).then(|| (uuid.as_u128() >> 80) as u64)
}

/// A write's condition as the headers say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand<'a> {
    /// None.
    Always,
    /// `If-Match: *`
    Exists,
    /// `If-Match` with one ETag, in its quotes.
    Matches(&'a str),
    /// `If-None-Match: *`
    Absent,
}

/// A write's condition, for a register.
pub fn condition(headers: &impl Headers) -> Result<Condition, Refuse> {
    match demand(headers)? {
        Demand::Always => Ok(Condition::Always),
        Demand::Exists => Ok(Condition::Exists),
        Demand::Absent => Ok(Condition::Absent),
        Demand::Matches(etag) => version_of(etag).map(Condition::Matches).ok_or_else(wrong_match),
    }
}

/// A write's condition, of whatever bucket.
pub fn demand(headers: &impl Headers) -> Result<Demand<'_>, Refuse> {
    let matches = headers.single("if-match")?;
    let none_match = headers.single("if-none-match")?;
    match (matches, none_match) {
        (None, None) => Ok(Demand::Always),
        (Some("*"), None) => Ok(Demand::Exists),
        (Some(etag), None) if etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"') => {
            Ok(Demand::Matches(etag))
        }
        (Some(_), None) => Err(wrong_match()),
        (None, Some("*")) => Ok(Demand::Absent),
        (None, Some(_)) => Err(Refuse::bad_request("on a write, If-None-Match can only be `*`: create, never replace")),
        (Some(_), Some(_)) => Err(Refuse::bad_request("If-Match and If-None-Match cannot both hold; send one of them")),
    }
}

/// The refusal of an `If-Match` that names no version of ours.
pub fn wrong_match() -> Refuse {
    Refuse::bad_request("If-Match must be `*` or the one ETag that was received, in its quotes and not weak")
}

/// What a read demands of the version it finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadConditions {
    /// `If-Match`: any of these, or the value must at least exist.
    pub matches: Option<EtagList>,
    /// `If-None-Match`: none of these (else 304).
    pub none_match: Option<EtagList>,
}

/// A list of ETags, or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtagList {
    /// `*`
    Any,
    /// The opaque parts with their quotes, weak marks taken off.
    Of(Vec<String>),
}

impl EtagList {
    /// Whether the list names this ETag.
    pub fn contains(&self, etag: &str) -> bool {
        match self {
            EtagList::Any => true,
            EtagList::Of(etags) => etags.iter().any(|known| known == etag),
        }
    }
}

/// A read's conditions.
pub fn read_conditions(headers: &impl Headers) -> Result<ReadConditions, Refuse> {
    Ok(ReadConditions { matches: etag_list(headers, "if-match")?, none_match: etag_list(headers, "if-none-match")? })
}

fn etag_list(headers: &impl Headers, name: &'static str) -> Result<Option<EtagList>, Refuse> {
    let values = headers.values(name)?;
    if values.is_empty() {
        return Ok(None);
    }
    if values == ["*"] {
        return Ok(Some(EtagList::Any));
    }
    let broken = || Refuse::bad_request(format!("{name} is neither `*` nor a list of ETags in quotes"));
    let mut etags = Vec::new();
    // Our ETags have no comma in them, so a list falls apart at its commas; another store's ETag may not, and then
    // simply is not found to match.
    for part in values.iter().flat_map(|value| value.split(',')) {
        let etag = part.trim();
        let strong = etag.strip_prefix("W/").unwrap_or(etag);
        if strong.len() < 2 || !strong.starts_with('"') || !strong.ends_with('"') {
            return Err(broken());
        }
        etags.push(strong.to_owned());
    }
    Ok(Some(EtagList::Of(etags)))
}

/// A version as an ETag, in its quotes.
pub fn etag(version: Version) -> String {
    format!("\"{version}\"")
}

/// The version that an ETag of ours names; none for any other text, even if it differs only in leading zeros.
pub fn version_of(text: &str) -> Option<Version> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut parts = inner.splitn(3, '.');
    let counter = parts.next()?.parse().ok()?;
    let node = u64::from_str_radix(parts.next()?, 16).ok()?;
    let index = parts.next()?.parse().ok()?;
    let version = Version { ballot: Ballot { counter, node: membership::NodeId(node) }, index };
    (version.to_string() == inner).then_some(version)
}

/// A query's parameters. A name that `known` does not list is refused, so that a slip of the pen is not passed over.
pub fn query(raw: &str, known: &[&str]) -> Result<BTreeMap<String, String>, Refuse> {
    let mut parameters = BTreeMap::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |part: &str| {
            percent_decode(&part.replace('+', " "))
                .ok_or_else(|| Refuse::bad_request("the query is not percent-encoded UTF-8"))
        };
        let (name, value) = (decode(name)?, decode(value)?);
        if !known.contains(&name.as_str()) {
            let name: String = name.chars().take(64).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Refuse::bad_request(format!("`{name}` is no parameter of this call; it takes: {known}")));
        }
        if parameters.insert(name.clone(), value).is_some() {
            return Err(Refuse::bad_request(format!("the parameter `{name}` is given twice")));
        }
    }
    Ok(parameters)
}

/// The level asked for by `?consistency=`; none when the request leaves it to the bucket's contract.
pub fn level(parameters: &BTreeMap<String, String>) -> Result<Option<Level>, Refuse> {
    let Some(name) = parameters.get("consistency") else { return Ok(None) };
    let wrong = || Refuse::bad_request("consistency must be one of strict, sequential, causal, eventual");
    Level::from_name(name).map(Some).ok_or_else(wrong)
}

/// The level of an operation on an `available` bucket: causal, or eventual if that is asked for.
pub fn available_level(asked: Option<Level>) -> Result<available::Level, Refuse> {
    match asked {
        None | Some(Level::Causal) => Ok(available::Level::Causal),
        Some(Level::Eventual) => Ok(available::Level::Eventual),
        Some(stronger @ (Level::Strict | Level::Sequential)) => {
            let detail = format!(
                "the bucket's contract is `available`, which offers causal and eventual, and not {}; ask for one of \
                 these, or keep the key in a bucket with contract `ordered`",
                stronger.name()
            );
            Err(Refuse::new(ProblemCode::LevelNotOffered, detail))
        }
    }
}

/// What a write says beside its condition: `If-Fence`, and `?ttl=`, or else the bucket's own time in seconds.
pub fn terms(
    headers: &impl Headers,
    parameters: &BTreeMap<String, String>,
    bucket_ttl_s: Option<u64>,
) -> Result<Terms, Refuse> {
    let ttl_ms = match parameters.get("ttl") {
        Some(text) => Some(ttl_ms(text)?),
        None => bucket_ttl_s.map(|seconds| seconds.saturating_mul(1_000)),
    };
    Ok(Terms { fence: fence(headers)?, ttl_ms })
}

/// The fencing token of `If-Fence`.
pub fn fence(headers: &impl Headers) -> Result<Option<u64>, Refuse> {
    headers.single(header::FENCE)?.map(fence_of).transpose()
}

/// A fencing token as it was granted: a whole number from 1.
pub fn fence_of(text: &str) -> Result<u64, Refuse> {
    let wrong = || Refuse::bad_request("a fencing token is the whole number that the lock was granted with");
    text.parse().ok().filter(|fence| (1..=FENCE_MAX).contains(fence)).ok_or_else(wrong)
}

/// A time to live: a whole number with its unit, `ms`, `s`, `m`, `h` or `d`.
fn ttl_ms(text: &str) -> Result<u64, Refuse> {
    let wrong =
        || Refuse::bad_request("ttl must be a whole number and a unit of ms, s, m, h or d, up to 365d: ttl=30s");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.filter(|ms| (1..=TTL_MAX_MS).contains(ms)).ok_or_else(wrong)
}

/// The longest time to live: a year.
const TTL_MAX_MS: u64 = 365 * 86_400_000;
/// The greatest fencing token that is taken. A greater one would leave no room for those to come.
const FENCE_MAX: u64 = u64::MAX >> 2;

/// The `Content-Type` to keep beside a value; empty for none.
pub fn content_type(headers: &impl Headers) -> Result<String, Refuse> {
    let text = headers.single("content-type")?.unwrap_or_default();
    if text.len() > CONTENT_TYPE_MAX_BYTES {
        let detail = format!("the Content-Type has more than {CONTENT_TYPE_MAX_BYTES} bytes");
        return Err(Refuse::new(ProblemCode::UnsupportedType, detail));
    }
    Ok(text.to_owned())
}

/// The longest `Content-Type` that is kept, in bytes.
const CONTENT_TYPE_MAX_BYTES: usize = 256;

#[cfg(test)]
#[path = "words/words_test.rs"]
mod tests;
