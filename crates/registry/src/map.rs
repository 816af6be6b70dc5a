//! Ordered maps and sets that share what they have in common with their copies.
//!
//! A copy of the registry costs next to nothing, so readers look at one while the next command is applied, and a
//! transaction that fails half way goes back to the copy from before it.

use std::ops::Bound;

pub(crate) type Map<K, V> = rpds::RedBlackTreeMapSync<K, V>;
pub(crate) type Set<T> = rpds::RedBlackTreeSetSync<T>;

/// The part of a map whose keys start with `prefix`.
pub(crate) fn under<'a, V>(map: &'a Map<String, V>, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a V)> {
    let from: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
    map.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(prefix))
}

/// Bytes as base64 where people may read along (JSON), and as they are elsewhere.
pub(crate) mod bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&STANDARD.encode(bytes))
        } else {
            bytes.serialize(serializer)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
        } else {
            Vec::deserialize(deserializer)
        }
    }
}
