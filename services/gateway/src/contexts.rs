//! `ETag`s of available keys: what somebody has seen of a key, for `If-Match`.
//!
//! A write replaces what its writer has seen and nothing else, so the tag of an answer holds just that: the context of
//! what it showed. It comes back from outside, where anything can be made up; a context that claims too much would
//! discard values. So it carries a keyed tag over itself, the bucket and the key.

use available::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use replication::RegisterKey;
use wire::codec;

use crate::token::{TAG_BYTES, begins_with};

/// Writes and checks the tags. All gateways of a cluster derive the same key from its secret.
#[derive(Clone)]
pub struct ContextKey([u8; 32]);

impl ContextKey {
    /// The key of the cluster that holds `secret`.
    pub fn new(secret: &[u8]) -> ContextKey {
        ContextKey(blake3::derive_key("everring 2026 etags of available keys", secret))
    }

    /// The `ETag` of an answer about this key that showed all that is in the context.
    pub fn etag(&self, key: &RegisterKey, context: &Context) -> String {
        let mut bytes = codec::encode_available_context(context).to_vec();
        let tag = self.tag(key, &bytes);
        bytes.extend_from_slice(&tag.as_bytes()[..TAG_BYTES]);
        format!("\"{}\"", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What an `ETag` of ours stands for; none for any other text.
    pub fn context(&self, key: &RegisterKey, etag: &str) -> Option<Context> {
        let inner = etag.strip_prefix('"')?.strip_suffix('"')?;
        let bytes = URL_SAFE_NO_PAD.decode(inner).ok()?;
        let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
        let ours = begins_with(&self.tag(key, body), tag);
        ours.then(|| codec::decode_available_context(Bytes::copy_from_slice(body)).ok())?
    }

    fn tag(&self, key: &RegisterKey, body: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&key.bucket.0.to_le_bytes());
        hasher.update(&(key.key.len() as u64).to_le_bytes());
        hasher.update(&key.key);
        hasher.update(body);
        hasher.finalize()
    }
}

/// The key must not reach a log.
impl std::fmt::Debug for ContextKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContextKey")
    }
}

#[cfg(test)]
mod tests {
    use available::{Actor, Dot};
    use membership::{BucketId, NodeId, Position};
    use replication::RequestId;

    use super::*;

    fn key(bucket: u32, name: &'static str) -> RegisterKey {
        RegisterKey { position: Position(1), bucket: BucketId(bucket), key: Bytes::from_static(name.as_bytes()) }
    }

    fn context() -> Context {
        let actor = |node| Actor { node: NodeId(node), birth: 3 };
        let vector = [(actor(1), 9), (actor(2), 300)].into_iter().collect();
        let mut context = Context::new(vector, [Dot { counter: 12, actor: actor(1) }]);
        context.requests.push(RequestId(5));
        context
    }

    #[test]
    fn a_tag_says_the_same_at_every_gateway_of_the_cluster() {
        let etag = ContextKey::new(b"secret").etag(&key(2, "k"), &context());
        assert_eq!(ContextKey::new(b"secret").context(&key(2, "k"), &etag), Some(context()));
    }

    #[test]
    fn a_tag_of_another_key_bucket_or_cluster_stands_for_nothing() {
        let ours = ContextKey::new(b"secret");
        let etag = ours.etag(&key(2, "k"), &context());
        assert_eq!(ours.context(&key(2, "other"), &etag), None);
        assert_eq!(ours.context(&key(3, "k"), &etag), None);
        assert_eq!(ContextKey::new(b"other").context(&key(2, "k"), &etag), None);
    }

    #[test]
    fn a_changed_tag_stands_for_nothing() {
        let ours = ContextKey::new(b"secret");
        let etag = ours.etag(&key(2, "k"), &context());
        let bytes = URL_SAFE_NO_PAD.decode(etag.trim_matches('"')).expect("our own tag");
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            let forged = format!("\"{}\"", URL_SAFE_NO_PAD.encode(forged));
            assert_eq!(ours.context(&key(2, "k"), &forged), None, "byte {at}");
        }
        for other in ["", "\"", "\"\"", "\"AAAA\"", "\"12.ab.3\"", "W/\"AAAA\""] {
            assert_eq!(ours.context(&key(2, "k"), other), None, "{other}");
        }
    }
}
