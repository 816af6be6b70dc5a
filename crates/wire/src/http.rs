//! The words of the HTTP edges: header names, problem codes, receipts, and the JSON bodies that the gateway and the
//! router answer with.
//!
//! Only words live here: which code means what, and how a receipt is written and read. What leads to an answer is
//! decided by the services. Sources: RFC 9457 (problems), RFC 9110 (conditions, ranges), W3C Trace Context.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names of headers that are ours, in lower case as HTTP/2 wants them.
pub mod header {
    /// The trace that the answer belongs to, 32 hex digits; on every answer.
    pub const TRACE_ID: &str = "everring-trace-id";
    /// How a data answer came about; see [`super::Receipt`].
    pub const RECEIPT: &str = "everring-receipt";
    /// The session token, both ways; opaque to clients.
    pub const TOKEN: &str = "everring-token";
    /// The id that makes a retry harmless: 8 to 128 visible characters.
    pub const REQUEST_ID: &str = "everring-request-id";
    /// Another name of [`REQUEST_ID`] (the IETF draft's).
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// How long the client waits, in milliseconds.
    pub const DEADLINE_MS: &str = "everring-deadline-ms";
    /// Which attempt of the client's this is, from 1. `1` promises that no earlier one was sent anywhere.
    pub const ATTEMPT: &str = "everring-attempt";
    /// A fencing token that the write demands.
    pub const FENCE: &str = "if-fence";
    /// Where the time of an answer went.
    pub const SERVER_TIMING: &str = "server-timing";
}

/// The media type of every problem (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// The deadline of a request that names none, in milliseconds.
pub const DEADLINE_DEFAULT_MS: u32 = 5_000;
/// The longest deadline a client may ask for, in milliseconds.
pub const DEADLINE_MAX_MS: u32 = 60_000;
/// The longest key, in bytes after percent-decoding.
pub const KEY_MAX_BYTES: usize = 1_024;
/// The longest session token, in bytes as sent.
pub const TOKEN_MAX_BYTES: usize = 512;
/// The largest value of a bucket that names no other limit, in bytes.
pub const VALUE_MAX_DEFAULT_BYTES: u64 = 1 << 20;
/// The buckets that always exist, with their numbers.
pub const ALWAYS_BUCKETS: [(&str, u32); 4] = [("records", 1), ("sessions", 2), ("cache", 3), ("locks", 4)];
/// The shortest and longest request id, in characters.
pub const REQUEST_ID_CHARACTERS: std::ops::RangeInclusive<usize> = 8..=128;

macro_rules! problem_codes {
    ($($variant:ident $code:literal $status:literal $retryable:literal $title:literal $advice:literal;)*) => {
        /// Every problem that an answer can name. The code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ProblemCode {
            $(#[doc = $title] $variant,)*
        }

        impl ProblemCode {
            /// All codes, in the order of their status.
            pub const ALL: &'static [ProblemCode] = &[$(ProblemCode::$variant,)*];

            /// The code as it stands in an answer and in the address of its page.
            pub const fn code(self) -> &'static str {
                match self { $(ProblemCode::$variant => $code,)* }
            }

            /// The HTTP status it is answered with.
            pub const fn status(self) -> u16 {
                match self { $(ProblemCode::$variant => $status,)* }
            }

            /// What happened, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(ProblemCode::$variant => $title,)* }
            }

            /// Whether the same request may succeed when it is sent again, unchanged.
            pub const fn retryable(self) -> bool {
                match self { $(ProblemCode::$variant => $retryable,)* }
            }

            /// What the reader does next: a sentence or two for the problem's page.
            pub const fn advice(self) -> &'static str {
                match self { $(ProblemCode::$variant => $advice,)* }
            }
        }
    };
}

problem_codes! {
    BadKey "bad-key" 400 false "The key is not a valid key"
        "Send 1 to 1,024 bytes of UTF-8, percent-encoded where a URL needs it; `/` is allowed.";
    BadRequest "bad-request" 400 false "The request is not understood"
        "The detail names the header, parameter or body that is wrong. Correct it and send again.";
    LevelNotOffered "level-not-offered" 400 false "The bucket does not offer this consistency level"
        "Ask for the level of the bucket's contract or a weaker one.";
    BadToken "bad-token" 400 false "The session token is not one of ours"
        "Send the Everring-Token that you received last, unchanged, or none to begin a new session.";
    Unauthenticated "unauthenticated" 401 false "The request carries no valid credentials"
        "Send an `Authorization: Bearer` header with a valid token.";
    Forbidden "forbidden" 403 false "This is not allowed"
        "The detail says what is reserved and which call serves the purpose instead.";
    NoSuchKey "no-such-key" 404 false "There is no value under this key"
        "Nothing was ever stored here, or it was deleted.";
    NoSuchBucket "no-such-bucket" 404 false "There is no bucket of this name"
        "`GET /v1/buckets` lists them; `PUT /v1/buckets/{bucket}` makes one.";
    NoSuchPath "no-such-path" 404 false "There is nothing at this path"
        "`/openapi.json` and `/docs` list the paths.";
    Method "method" 405 false "The path does not take this method"
        "The Allow header lists the methods that it takes.";
    BucketDiffers "bucket-differs" 409 false "The bucket exists with another definition"
        "A bucket's definition is fixed when it is made. Use it as it is, or another name.";
    Held "held" 409 true "The lock is held by another owner"
        "Wait for it or try again later.";
    ValueUnfit "value-unfit" 409 false "The change does not fit the value that is there"
        "`add` needs a decimal integer that stays within 64 bits; `append` must keep to the largest value; in an \
         available bucket the bucket's type says what a key takes.";
    ResultGone "result-gone" 409 false "The write took effect, but the value it made has been replaced since"
        "This was a repeat of a request that acted long ago. Read the key to see what it holds now.";
    RequestTooOld "request-too-old" 409 false "The retry is too old to be told from a new request"
        "The register no longer remembers requests from that time. Read the key to see what it holds, then decide.";
    TooManySiblings "too-many-siblings" 409 false "The key holds as many values side by side as it may"
        "Read the key, settle on a value, and write it with `If-Match` and the ETag of that answer.";
    TooManyBuckets "too-many-buckets" 409 false "There are as many buckets as there can be"
        "Delete a bucket that is no longer needed, or keep several kinds of keys in one bucket by a prefix.";
    ConditionFailed "condition-failed" 412 false "The condition of the request does not hold"
        "The ETag header carries the present version, if there is a value. Read, decide, and send again.";
    FencedOff "fenced-off" 412 false "A newer fencing token has been seen"
        "Your lock was lost to another owner. Take it again before you write.";
    ValueTooLarge "value-too-large" 413 false "The value is larger than the bucket allows"
        "The bucket's `value_max_bytes` is the limit. Split the value, or use a bucket that allows more.";
    UnsupportedType "unsupported-type" 415 false "The body's media type is not taken here"
        "Send the media type that the detail names.";
    BadRange "bad-range" 416 false "The range lies outside the value"
        "The Content-Range header carries the value's length.";
    RateLimited "rate-limited" 429 true "Too many requests from this client"
        "Wait as long as the Retry-After header says.";
    HeadersTooLarge "headers-too-large" 431 false "The headers are too large"
        "Send fewer or smaller headers.";
    ContractNotOffered "contract-not-offered" 501 false "This kind of bucket is not offered yet"
        "The detail says which combinations of contract, durability and type there are.";
    NotOffered "not-offered" 501 false "This part of the interface is not offered yet"
        "The detail says what to use instead, where there is something.";
    RouterUnavailable "router-unavailable" 503 true "No router can be reached"
        "Ask again with `?lookup=table`, which the gateway answers by itself, or retry later.";
    LookupFailed "lookup-failed" 503 true "The lookup did not reach the owner"
        "The ring is under repair after a failure. Try again in a moment, or ask with `?lookup=table`.";
    NoQuorum "no-quorum" 503 true "Too few replicas of the key can be reached"
        "Retry after the time in the Retry-After header. Nothing was changed.";
    Overloaded "overloaded" 503 true "Too many requests are in progress"
        "Retry after the time in the Retry-After header, with fewer requests at once. Nothing was changed.";
    Draining "draining" 503 true "This process is about to stop"
        "Send the request to another gateway. Nothing was changed.";
    DiskFull "disk-full" 503 true "The replicas' disks are full"
        "Reads go on. Writes are taken again when the disks have room. Nothing was changed.";
    Deadline "deadline" 504 true "No answer came before the deadline"
        "A write whose outcome is `unknown`: send it again with the same request id, which acts at most once.";
}

impl ProblemCode {
    /// The code with this name.
    pub fn from_code(code: &str) -> Option<ProblemCode> {
        ProblemCode::ALL.iter().copied().find(|known| known.code() == code)
    }

    /// The address of the code's page, relative to the gateway.
    pub fn page(self) -> String {
        format!("/problems/{}", self.code())
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What became of a write: the three outcomes, as in Jepsen. A timeout is never "failed".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteOutcome {
    /// It took effect, once.
    Done,
    /// It had no effect and will have none.
    NotDone,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// The body of every answer that is not what was asked for (RFC 9457).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The address of the code's page.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
    /// A [`ProblemCode`]; text, so that a client meets a newer gateway's codes without failing.
    pub code: String,
    /// Whether the same request may succeed when sent again.
    pub retryable: bool,
    /// For writes: what became of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<WriteOutcome>,
    /// The trace to look at, 32 hex digits.
    #[serde(default)]
    pub trace_id: String,
    /// What the code needs beside these (`etag`, `allow`, `request_id`, …).
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Problem {
    /// A problem of this code; the trace is filled in where the answer is made.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Problem {
        Problem {
            kind: code.page(),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code: code.code().to_owned(),
            retryable: code.retryable(),
            outcome: None,
            trace_id: String::new(),
            more: BTreeMap::new(),
        }
    }

    /// The code, if this version knows it.
    pub fn known_code(&self) -> Option<ProblemCode> {
        ProblemCode::from_code(&self.code)
    }
}

/// The four levels, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Linearizable.
    Strict,
    /// One total order that agrees with each session's.
    Sequential,
    /// What a session has seen stays visible to it.
    Causal,
    /// Replicas converge.
    Eventual,
}

impl Level {
    /// The level as it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Strict => "strict",
            Level::Sequential => "sequential",
            Level::Causal => "causal",
            Level::Eventual => "eventual",
        }
    }

    /// The level of this name.
    pub fn from_name(name: &str) -> Option<Level> {
        [Level::Strict, Level::Sequential, Level::Causal, Level::Eventual]
            .into_iter()
            .find(|level| level.name() == name)
    }
}

/// The `Everring-Receipt` header: `level=strict;epoch=12;hops=1;replicas=n3,n1;attempts=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The level granted.
    pub level: Level,
    /// The view's epoch.
    pub epoch: u64,
    /// Hops from the gateway to the coordinator.
    pub hops: u32,
    /// Names of the replicas that voted, coordinator first.
    pub replicas: Vec<String>,
    /// How many replicas were asked to coordinate; more than 1 when one failed or was silent.
    pub attempts: u32,
}

/// What is wrong with a receipt; the answer itself is not affected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no part of a receipt")]
pub struct ReceiptError(String);

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Receipt { level, epoch, hops, replicas, attempts } = self;
        let replicas = replicas.join(",");
        write!(f, "level={};epoch={epoch};hops={hops};replicas={replicas};attempts={attempts}", level.name())
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    /// Reads a receipt; parts that are not known are passed over, so that a newer gateway may add some.
    fn from_str(text: &str) -> Result<Receipt, ReceiptError> {
        let mut receipt = Receipt { level: Level::Strict, epoch: 0, hops: 0, replicas: Vec::new(), attempts: 0 };
        for part in text.split(';') {
            let broken = || ReceiptError(part.to_owned());
            let (name, value) = part.trim().split_once('=').ok_or_else(broken)?;
            match name {
                "level" => receipt.level = Level::from_name(value).ok_or_else(broken)?,
                "epoch" => receipt.epoch = value.parse().map_err(|_| broken())?,
                "hops" => receipt.hops = value.parse().map_err(|_| broken())?,
                "attempts" => receipt.attempts = value.parse().map_err(|_| broken())?,
                "replicas" => {
                    receipt.replicas = value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        Ok(receipt)
    }
}

/// Percent-decodes a part of a path or query; none when a `%` is not followed by two hex digits, or when the result is
/// not UTF-8. A plus stays a plus.
pub fn percent_decode(part: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    while let [byte, after @ ..] = rest {
        rest = match (*byte, after) {
            (b'%', [high, low, after @ ..]) => {
                decoded.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                after
            }
            (b'%', _) => return None,
            (plain, after) => {
                decoded.push(plain);
                after
            }
        };
    }
    String::from_utf8(decoded).ok()
}

/// A key as it stands in a path, decoded.
///
/// # Errors
/// What is wrong with it, as a sentence for `bad-key`.
pub fn decode_key(part: &str) -> Result<String, String> {
    let key = percent_decode(part).ok_or_else(|| {
        "the key is not percent-encoded UTF-8: a `%` needs two hex digits, and the bytes must be UTF-8".to_owned()
    })?;
    check_key(key)
}

/// A key, if it is one.
///
/// # Errors
/// What is wrong with it, as a sentence for `bad-key`.
pub fn check_key(key: String) -> Result<String, String> {
    match key.len() {
        0 => Err(format!("the key is empty; a key has 1 to {KEY_MAX_BYTES} bytes")),
        1..=KEY_MAX_BYTES => Ok(key),
        more => Err(format!("the key has {more} bytes; it may have at most {KEY_MAX_BYTES}")),
    }
}

/// A bucket's write contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contract {
    /// Each key is a register agreed by its replicas.
    Ordered,
    /// Any replica takes the write.
    Available,
}

/// What an acknowledged write has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// It is synced by a majority.
    Disk,
    /// It is in the memory of a majority.
    Memory,
}

/// How concurrent values merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueType {
    /// They do not: siblings are kept.
    Value,
    /// Sums.
    Counter,
    /// Unions.
    Set,
    /// Key by key.
    Map,
    /// The last writer's wins.
    LastWriter,
}

/// The body of `PUT /v1/buckets/{bucket}`; omitted fields take their defaults, unknown ones are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketDefinition {
    /// Default `ordered`.
    pub contract: Contract,
    /// Copies of each key. Default 3.
    pub replicas: usize,
    /// Default `disk`.
    pub durability: Durability,
    /// Seconds until a value goes away; none for never, the default.
    pub ttl_s: Option<u64>,
    /// The largest value, in bytes. Default 1 MiB.
    pub value_max_bytes: u64,
    /// Default `value`.
    #[serde(rename = "type")]
    pub value_type: ValueType,
}

impl Default for BucketDefinition {
    fn default() -> BucketDefinition {
        BucketDefinition {
            contract: Contract::Ordered,
            replicas: 3,
            durability: Durability::Disk,
            ttl_s: None,
            value_max_bytes: VALUE_MAX_DEFAULT_BYTES,
            value_type: ValueType::Value,
        }
    }
}

/// A bucket as it is kept: its number and its definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBucket {
    /// Its number, never given twice.
    pub id: u32,
    /// Its definition.
    pub definition: BucketDefinition,
}

/// All buckets that were made by clients: the JSON kept in the register `buckets` of bucket 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBuckets {
    /// The number that the next bucket gets. It only grows.
    pub next_id: u32,
    /// By name.
    pub buckets: BTreeMap<String, StoredBucket>,
}

/// A bucket as `GET /v1/buckets` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketAnswer {
    /// Its name.
    pub name: String,
    /// Whether its records can be read and written today.
    pub offered: bool,
    /// Its definition.
    #[serde(flatten)]
    pub definition: BucketDefinition,
}

/// `GET /v1/route/{bucket}/{key}`: which node holds a key, and how that was found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// Which lookup answered: `index`, `table`, `neighbours` or `fingers`.
    pub lookup: String,
    /// The key's identifier on the ring, 16 hex digits.
    pub identifier: String,
    /// The owner's name.
    pub owner: String,
    /// Names of the replica set in the answering service's view, owner first.
    pub replicas: Vec<String>,
    /// That view's epoch.
    pub epoch: u64,
    /// The changes of membership under way, in words; null while there are none.
    pub pending_change: Option<String>,
    /// Whether the owner found is the one that the view names. A ring under repair may differ for a while.
    pub agrees_with_view: bool,
    /// The nodes that were asked, in order; empty for a lookup by table, which asks nobody.
    pub hops: Vec<Hop>,
    /// What this kind of lookup keeps, and how much of it is out of date; none where nobody has looked yet.
    #[serde(default)]
    pub keeps: Option<LookupKeeps>,
}

/// What a kind of lookup costs beside its hops.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LookupKeeps {
    /// Entries: keys of the directory, tokens of the table, or pointers that a token keeps, on average.
    pub entries: f64,
    /// The share of these, 0 to 1, that was found to be out of date; none when none was looked at.
    pub stale: Option<f64>,
}

/// `GET /v1/pointers` of a storage node: what each of its tokens knows of the ring. Positions are 16 hex digits, nodes
/// are identities of as many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PointersAnswer {
    /// The node.
    pub node: String,
    /// The epoch of its view.
    pub epoch: u64,
    /// Its tokens that are members of the ring.
    pub members: Vec<TokenPointers>,
}

/// What one token knows. Each pointer is (position, node).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenPointers {
    /// Its position.
    pub position: String,
    /// Who comes before it.
    pub predecessor: Option<(String, String)>,
    /// Who comes after it, nearest first.
    pub successors: Vec<(String, String)>,
    /// Its distinct fingers, nearest first.
    pub fingers: Vec<(String, String)>,
}

/// `GET /v1/ring` of a router: whether the ring is in order, as last looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RingCheckAnswer {
    /// Times that the ring was looked at.
    pub looks: u64,
    /// How long ago the last look was, in milliseconds; none before the first.
    pub age_ms: Option<u64>,
    /// Tokens that were members of the ring then.
    pub members: usize,
    /// Storage nodes that did not tell their pointers, by name: they count as dead.
    pub silent: Vec<String>,
    /// Each invariant. What a change under way may break for a moment counts only when two looks in a row find it.
    pub invariants: Vec<InvariantState>,
    /// Pointers that a token keeps on average, fingers included.
    pub entries: f64,
    /// The share of successor pointers to members that are not there.
    pub stale_successors: f64,
    /// The share of fingers that are not right.
    pub stale_fingers: f64,
}

/// How an invariant fares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InvariantState {
    /// Its name, that of the function that checks it.
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// Looks at which it was found broken, those included that the next one did not confirm.
    pub found_broken: u64,
    /// What was found last.
    pub found: Option<String>,
}

/// One step of a lookup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// The node that was asked.
    pub node: String,
    /// How long its answer took, in microseconds.
    pub us: u64,
}

/// `GET /v1/ring`: who belongs, who holds how much, who can be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingAnswer {
    /// The cluster, 16 hex digits.
    pub cluster: String,
    /// The view's epoch; 0 while the ring is forming.
    pub epoch: u64,
    /// Copies of each key.
    pub replication: usize,
    /// A membership change under way; always null while membership is fixed.
    pub pending_change: Option<String>,
    /// The members, in the order in which they entered.
    pub members: Vec<RingMember>,
}

/// One member of [`RingAnswer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingMember {
    /// Its identity, 16 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its failure domain, where known.
    pub zone: Option<String>,
    /// `member`, `joining` (also while the ring is forming) or `leaving`.
    pub state: String,
    /// Whether the answering process is connected to it now.
    pub alive: bool,
    /// The share of all keys that it owns, 0 to 1.
    pub share: f64,
    /// Its ring positions, 16 hex digits each.
    pub tokens: Vec<String>,
    /// While a change is under way: how far it is with copying, if it says so in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying: Option<CopyProgress>,
}

/// How far a node is with copying what it is to hold. Registers are the keys of ordered buckets, `keys` those of
/// available ones; what came in is counted since the node's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Arcs that it is to hold and copies now; an arc counts once for each table that it has keys in.
    pub arcs: u64,
    /// Of these, how many are copied.
    pub arcs_copied: u64,
    /// Registers that came in.
    pub registers: u64,
    /// Available keys that came in.
    pub keys: u64,
    /// Bytes of both.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_found_again() {
        for (at, code) in ProblemCode::ALL.iter().enumerate() {
            assert_eq!(ProblemCode::from_code(code.code()), Some(*code));
            assert!(ProblemCode::ALL[..at].iter().all(|other| other.code() != code.code()), "{code} stands twice");
            assert!((400..600).contains(&code.status()) && code.status() != 500, "{code} is no bare 500");
            assert!(code.advice().ends_with('.'), "{code}: the advice is a sentence");
        }
        assert_eq!(ProblemCode::from_code("nonsense"), None);
    }

    #[test]
    fn the_interface_names_these_codes_and_statuses() {
        let promised = "bad-key 400, bad-request 400, level-not-offered 400, bad-token 400, unauthenticated 401, \
            forbidden 403, no-such-key 404, no-such-bucket 404, method 405, bucket-differs 409, held 409, \
            condition-failed 412, fenced-off 412, value-too-large 413, unsupported-type 415, bad-range 416, \
            rate-limited 429, headers-too-large 431, no-quorum 503, overloaded 503, draining 503, deadline 504";
        for line in promised.split(", ") {
            let (code, status) = line.trim().split_once(' ').expect("a code and a status");
            let known = ProblemCode::from_code(code).unwrap_or_else(|| panic!("{code} is missing"));
            assert_eq!(known.status().to_string(), status, "{code}");
        }
    }

    #[test]
    fn a_problem_is_flat_json_and_reads_back() {
        let mut problem = Problem::new(ProblemCode::ConditionFailed, "it is there already");
        problem.outcome = Some(WriteOutcome::NotDone);
        problem.more.insert("etag".to_owned(), "\"3.1.0\"".into());
        let json = serde_json::to_value(&problem).expect("a problem is JSON");
        assert_eq!(json["type"], "/problems/condition-failed");
        assert_eq!(json["outcome"], "not-done");
        assert_eq!(json["etag"], "\"3.1.0\"");
        let back: Problem = serde_json::from_value(json).expect("it reads back");
        assert_eq!(back, problem);
        assert_eq!(back.known_code(), Some(ProblemCode::ConditionFailed));
    }

    #[test]
    fn percent_decoding_is_strict() {
        assert_eq!(percent_decode("a%2Fb+c").as_deref(), Some("a/b+c"));
        assert_eq!(percent_decode("%C3%a4").as_deref(), Some("\u{e4}"));
        for broken in ["%", "%2", "a%", "%zz", "%+1", "%FF", "%C3"] {
            assert_eq!(percent_decode(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_receipt_reads_back_and_ignores_what_it_does_not_know() {
        let text = "level=strict;epoch=12;hops=1;replicas=n3,n1;attempts=1";
        let receipt: Receipt = text.parse().expect("the interface's own example");
        assert_eq!(receipt.replicas, ["n3", "n1"]);
        assert_eq!(receipt.to_string(), text);
        assert_eq!(format!("{text};later=x").parse::<Receipt>().expect("additions are passed over"), receipt);
        assert!("level=best".parse::<Receipt>().is_err());
        assert!("epoch".parse::<Receipt>().is_err());
    }
}
