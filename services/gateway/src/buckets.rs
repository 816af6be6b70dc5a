//! Which buckets there are: four that always exist, and those that clients made. Pure.
//!
//! Definitions live in one register of the ring itself ([`REGISTER_KEY`] of bucket 0), changed by compare-and-set, so
//! they are as durable as the data and need no discovery. A bucket's number is never given twice: what a deleted
//! bucket held cannot reappear in a later one of the same name.

use std::collections::BTreeMap;

use membership::BucketId;
use wire::http::{
    ALWAYS_BUCKETS, BucketAnswer, BucketDefinition, Contract, Durability, ProblemCode, StoredBucket, StoredBuckets,
    ValueType,
};

use crate::problem::Refuse;

/// The bucket of the store's own registers; no name leads to it.
pub const SYSTEM_BUCKET: BucketId = BucketId(0);
/// The register that holds the definitions.
pub const REGISTER_KEY: &str = "buckets";
/// Buckets that clients can make at most. Past it, `too-many-buckets`.
pub const BUCKETS_MAX: usize = 1_024;
/// The longest name, in characters.
const NAME_MAX: usize = 64;
/// The first number for a client's bucket; those below are kept for buckets that always exist.
const FIRST_ID: u32 = 16;
/// The largest `value_max_bytes`: what the replicas and their frames are made for.
const VALUE_MAX_LIMIT: u64 = 1 << 20;

/// A bucket, resolved from its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its number.
    pub id: BucketId,
    /// Its definition.
    pub definition: BucketDefinition,
}

/// The bucket of this name, if it is one of the four that always exist.
pub fn always(name: &str) -> Option<Bucket> {
    let ordered = BucketDefinition::default();
    let available = BucketDefinition { contract: Contract::Available, ..BucketDefinition::default() };
    let (_, id) = ALWAYS_BUCKETS.into_iter().find(|(known, _)| *known == name)?;
    let definition = match name {
        "sessions" => available,
        "cache" => BucketDefinition {
            durability: Durability::Memory,
            ttl_s: Some(CACHE_TTL_S),
            value_type: ValueType::LastWriter,
            ..available
        },
        _ => ordered,
    };
    Some(Bucket { id: BucketId(id), definition })
}

/// How long the bucket `cache` will keep a value that names no time of its own.
const CACHE_TTL_S: u64 = 3_600;

/// Whether this bucket's records can be read and written, and else why not and what to do.
pub fn offered(name: &str, bucket: &Bucket) -> Result<(), Refuse> {
    if name == "locks" {
        let detail = "the bucket `locks` is reserved for the lock calls; keep records in `records`";
        return Err(Refuse::new(ProblemCode::Forbidden, detail));
    }
    let BucketDefinition { contract, durability, value_type, ttl_s, .. } = &bucket.definition;
    let plain = *durability == Durability::Disk && *value_type == ValueType::Value;
    let ends = ttl_s.is_none() || matches!(value_type, ValueType::Value | ValueType::LastWriter);
    let detail = match contract {
        Contract::Ordered if !plain => format!(
            "the bucket `{name}` is of a kind that is not offered: with contract `ordered` the durability is `disk` \
             and the type `value`; contract `available` has the others"
        ),
        Contract::Available if !ends => {
            format!("the bucket `{name}` cannot be offered: only values end by themselves, so leave `ttl_s` out")
        }
        Contract::Ordered | Contract::Available => return Ok(()),
    };
    Err(Refuse::new(ProblemCode::ContractNotOffered, detail))
}

/// Refuses what is no bucket name: 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`, a letter or digit first.
pub fn check_name(name: &str) -> Result<(), Refuse> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || b"-_.".contains(&byte))
        && name.bytes().next().is_some_and(plain);
    if fits {
        return Ok(());
    }
    Err(Refuse::bad_request(
        "a bucket's name has 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`, the first one a letter or digit",
    ))
}

/// Reads the body of a `PUT`; an empty one means all defaults.
pub fn read_definition(body: &[u8]) -> Result<BucketDefinition, Refuse> {
    if body.is_empty() {
        return Ok(BucketDefinition::default());
    }
    // A list would be read as the fields in their order, and an empty one as all defaults.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refuse::bad_request("the body is not a JSON object with a bucket's definition"));
    }
    serde_json::from_slice(body)
        .map_err(|error| Refuse::bad_request(format!("the body is not the JSON of a bucket's definition: {error}")))
}

/// The buckets that clients made, as the register holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made(StoredBuckets);

/// What a `PUT` on a bucket comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It exists alike.
    Exists,
    /// It is to be made: the register's next content.
    Make(Made),
}

impl Default for Made {
    fn default() -> Made {
        Made(StoredBuckets { next_id: FIRST_ID, buckets: BTreeMap::new() })
    }
}

impl Made {
    /// Reads the register's value.
    ///
    /// # Errors
    /// It is not ours to understand, such as that of a later version.
    pub fn from_json(json: &[u8]) -> Result<Made, serde_json::Error> {
        serde_json::from_slice(json).map(Made)
    }

    /// The register's value.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps with text keys and plain fields: always JSON.
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    /// The bucket of this name.
    pub fn find(&self, name: &str) -> Option<Bucket> {
        let stored = self.0.buckets.get(name)?;
        Some(Bucket { id: BucketId(stored.id), definition: stored.definition.clone() })
    }

    /// All buckets, those that always exist first.
    pub fn list(&self) -> Vec<BucketAnswer> {
        let always = ALWAYS_BUCKETS.iter().filter_map(|(name, _)| Some(answer(name, &always(name)?)));
        let made = self.0.buckets.keys().filter_map(|name| Some(answer(name, &self.find(name)?)));
        always.chain(made).collect()
    }

    /// What making this bucket comes to.
    ///
    /// # Errors
    /// `bad-request`, `bucket-differs`, `contract-not-offered`, `too-many-buckets`; nothing changes.
    pub fn put(&self, name: &str, definition: &BucketDefinition, replication: usize) -> Result<Put, Refuse> {
        check_name(name)?;
        if let Some(known) = always(name).or_else(|| self.find(name)) {
            if known.definition == *definition {
                return Ok(Put::Exists);
            }
            let detail = format!("the bucket `{name}` exists with another definition, which is fixed");
            let present = serde_json::to_value(answer(name, &known)).unwrap_or_default();
            return Err(Refuse::new(ProblemCode::BucketDiffers, detail).with("present", present));
        }
        let bucket = Bucket { id: BucketId(self.0.next_id), definition: definition.clone() };
        offered(name, &bucket)?;
        if definition.replicas != replication {
            let detail = format!("this ring keeps {replication} copies of every key; `replicas` must be {replication}");
            return Err(Refuse::new(ProblemCode::ContractNotOffered, detail));
        }
        if !(1..=VALUE_MAX_LIMIT).contains(&definition.value_max_bytes) {
            return Err(Refuse::bad_request(format!("value_max_bytes must be 1 to {VALUE_MAX_LIMIT}")));
        }
        if self.0.buckets.len() >= BUCKETS_MAX {
            return Err(Refuse::new(ProblemCode::TooManyBuckets, format!("there are {BUCKETS_MAX} buckets already")));
        }
        let mut next = self.clone();
        let stored = StoredBucket { id: self.0.next_id, definition: bucket.definition };
        next.0.buckets.insert(name.to_owned(), stored);
        next.0.next_id += 1;
        Ok(Put::Make(next))
    }

    /// The register's content without this bucket.
    ///
    /// # Errors
    /// `forbidden` for one that always exists, `no-such-bucket`.
    pub fn remove(&self, name: &str) -> Result<Made, Refuse> {
        if always(name).is_some() {
            let detail = format!("the bucket `{name}` always exists; delete its records instead");
            return Err(Refuse::new(ProblemCode::Forbidden, detail));
        }
        let mut next = self.clone();
        match next.0.buckets.remove(name) {
            Some(_) => Ok(next),
            None => Err(no_such_bucket(name)),
        }
    }
}

/// A bucket as clients see it.
pub fn answer(name: &str, bucket: &Bucket) -> BucketAnswer {
    let definition = bucket.definition.clone();
    BucketAnswer { name: name.to_owned(), offered: offered(name, bucket).is_ok(), definition }
}

/// The refusal of a name that leads to no bucket.
pub fn no_such_bucket(name: &str) -> Refuse {
    let shown: String = name.chars().take(NAME_MAX).collect();
    Refuse::new(
        ProblemCode::NoSuchBucket,
        format!("there is no bucket `{shown}`; `PUT /v1/buckets/{{bucket}}` makes one"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(refused: Result<impl std::fmt::Debug, Refuse>) -> &'static str {
        refused.expect_err("must be refused").code().code()
    }

    fn make(made: &Made, name: &str) -> Made {
        match made.put(name, &BucketDefinition::default(), 3).expect("a new bucket") {
            Put::Make(next) => next,
            Put::Exists => panic!("{name} is new"),
        }
    }

    #[test]
    fn numbers_are_never_given_twice() {
        let once = make(&Made::default(), "a");
        let removed = once.remove("a").expect("it is there");
        let again = make(&removed, "a");
        assert_ne!(once.find("a").expect("there").id, again.find("a").expect("there").id);
        assert!(removed.find("a").is_none());
        assert!(once.find("a").expect("there").id >= BucketId(FIRST_ID));
    }

    #[test]
    fn the_register_reads_back() {
        let made = make(&make(&Made::default(), "a"), "b.c-d_1");
        assert_eq!(Made::from_json(&made.to_json()).expect("our own JSON"), made);
        assert!(Made::from_json(b"{}").is_err());
    }

    #[test]
    fn an_alike_bucket_exists_and_a_different_one_is_refused() {
        let made = make(&Made::default(), "a");
        let put = |name, definition: &BucketDefinition| made.put(name, definition, 3);
        assert_eq!(put("a", &BucketDefinition::default()).expect("alike"), Put::Exists);
        assert_eq!(put("records", &BucketDefinition::default()).expect("alike"), Put::Exists);
        let other = BucketDefinition { value_max_bytes: 10, ..BucketDefinition::default() };
        assert_eq!(code(put("a", &other)), "bucket-differs");
        assert_eq!(code(put("sessions", &BucketDefinition::default())), "bucket-differs");
    }

    #[test]
    fn what_is_not_offered_says_so() {
        let of = |json: &str| Made::default().put("b", &read_definition(json.as_bytes()).expect("JSON"), 3);
        assert!(of("{}").is_ok() && of("").is_ok());
        for (durability, kind) in [("disk", "value"), ("memory", "counter"), ("disk", "map"), ("memory", "last-writer")]
        {
            let json = format!(r#"{{"contract":"available","durability":"{durability}","type":"{kind}"}}"#);
            assert!(of(&json).is_ok(), "{json}");
        }
        assert!(of(r#"{"contract":"available","ttl_s":5}"#).is_ok());
        for json in [
            r#"{"contract":"available","type":"set","ttl_s":5}"#,
            r#"{"durability":"memory"}"#,
            r#"{"type":"counter"}"#,
            r#"{"type":"last-writer"}"#,
            r#"{"replicas":5}"#,
        ] {
            assert_eq!(code(of(json)), "contract-not-offered", "{json}");
        }
        assert_eq!(code(of(r#"{"value_max_bytes":0}"#)), "bad-request");
        assert_eq!(code(of(r#"{"value_max_bytes":9999999}"#)), "bad-request");
    }

    #[test]
    fn broken_definitions_and_names_are_refused() {
        for broken in ["{", "[]", "7", r#"{"contract":"none"}"#, r#"{"contrct":"ordered"}"#, r#"{"replicas":-1}"#] {
            assert_eq!(code(read_definition(broken.as_bytes())), "bad-request", "{broken}");
        }
        for name in ["", "A", "-a", ".", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert_eq!(code(check_name(name)), "bad-request", "{name}");
        }
    }

    #[test]
    fn the_four_that_always_exist() {
        let made = Made::default();
        let offered: Vec<(String, bool)> = made.list().into_iter().map(|b| (b.name, b.offered)).collect();
        let expected = [("records", true), ("sessions", true), ("cache", true), ("locks", false)];
        assert_eq!(offered, expected.map(|(name, offered)| (name.to_owned(), offered)));
        assert_eq!(code(made.remove("records")), "forbidden");
        assert_eq!(code(made.remove("nothing")), "no-such-bucket");
        assert_eq!(code(super::offered("locks", &always("locks").expect("always"))), "forbidden");
        let cache = always("cache").expect("always").definition;
        assert_eq!((cache.contract, cache.durability), (Contract::Available, Durability::Memory));
        assert_eq!(cache.value_type, ValueType::LastWriter, "a cache shows one value");
    }

    #[test]
    fn there_are_only_so_many() {
        let full = (0..BUCKETS_MAX).fold(Made::default(), |made, at| make(&made, &format!("b{at}")));
        assert_eq!(code(full.put("one-more", &BucketDefinition::default(), 3)), "too-many-buckets");
        let bytes = full.to_json().len();
        assert!(bytes < 1 << 19, "the register stays well below the largest value: {bytes}");
    }
}
