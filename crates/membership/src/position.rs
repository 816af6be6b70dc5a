use std::fmt;

use crate::BucketId;

/// A point on the identifier circle of 2^64 positions: a token's place, or a key's identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// How far `to` lies clockwise of `self`.
    pub fn distance_to(self, to: Position) -> u64 {
        to.0.wrapping_sub(self.0)
    }

    /// Whether `self` lies in the open interval (`low`, `high`), clockwise.
    ///
    /// Zave's `between` (2017): when both ends are the same point, the interval is the whole circle but that point.
    pub fn between(self, low: Position, high: Position) -> bool {
        if low == high {
            return self != low;
        }
        let reach = low.distance_to(self);
        0 < reach && reach < low.distance_to(high)
    }

    /// Whether `self` lies in the arc (`low`, `high`], clockwise: the keys that the token `high` owns when `low` is the
    /// token before it. A lone token owns the whole circle.
    pub fn in_arc(self, low: Position, high: Position) -> bool {
        self == high || self.between(low, high)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Turns (bucket, key) into a position, keyed with the cluster's secret so that no client can aim its keys at one node.
#[derive(Clone)]
pub struct KeyHasher {
    key: [u8; 32],
}

impl KeyHasher {
    /// The hasher of the cluster that holds `secret` (any length; it is stretched to a key).
    pub fn new(secret: &[u8]) -> KeyHasher {
        KeyHasher { key: blake3::derive_key("everring 2026 key identifiers", secret) }
    }

    /// The identifier of a key.
    pub fn position(&self, bucket: BucketId, key: &[u8]) -> Position {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&bucket.0.to_le_bytes());
        hasher.update(key);
        Position(first_u64(&hasher.finalize()))
    }

    /// A number that tells two secrets apart without giving either away; kept in the view, compared at every start.
    pub fn fingerprint(&self) -> u64 {
        first_u64(&blake3::Hasher::new_keyed(&self.key).update(b"fingerprint").finalize())
    }
}

/// The secret must not reach a log.
impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHasher({:016x})", self.fingerprint())
    }
}

fn first_u64(hash: &blake3::Hash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_is_clockwise_and_open() {
        let p = Position;
        assert!(p(5).between(p(1), p(9)));
        assert!(!p(1).between(p(1), p(9)));
        assert!(!p(9).between(p(1), p(9)));
        assert!(p(0).between(p(u64::MAX), p(3)), "the circle wraps");
        assert!(!p(5).between(p(9), p(1)));
        assert!(p(5).between(p(7), p(7)), "one point bounds the whole circle");
        assert!(!p(7).between(p(7), p(7)));
    }

    #[test]
    fn an_arc_is_closed_at_its_token() {
        let p = Position;
        assert!(p(9).in_arc(p(1), p(9)));
        assert!(!p(1).in_arc(p(1), p(9)));
        assert!(p(1).in_arc(p(4), p(4)), "a lone token owns everything");
        assert!(p(4).in_arc(p(4), p(4)));
    }

    #[test]
    fn positions_depend_on_secret_bucket_and_key() {
        let a = KeyHasher::new(b"a");
        let b = KeyHasher::new(b"b");
        let here = a.position(BucketId(1), b"k");
        assert_eq!(here, a.position(BucketId(1), b"k"));
        assert_ne!(here, b.position(BucketId(1), b"k"));
        assert_ne!(here, a.position(BucketId(2), b"k"));
        assert_ne!(a.fingerprint(), b.fingerprint());
        assert!(!format!("{a:?}").contains("[97"), "the secret is not printed");
    }
}
