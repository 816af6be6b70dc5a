//! The session token: what a session has seen, opaque to clients and authenticated.
//!
//! Untrusted input: it is size-capped, versioned and carries a keyed tag, so that a forged token is refused instead of
//! believed. It holds the newest epoch and the session's time: the Lamport counter at which the last thing that it did
//! or saw happened. Everything that it asks next happens after that.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use membership::{Epoch, NodeId};
use replication::Ballot;
use wire::http::{ProblemCode, TOKEN_MAX_BYTES};

use crate::problem::Refuse;

/// What a session has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The newest epoch.
    pub epoch: Epoch,
    /// The session's time, a place on the Lamport scale of ballots; zero for a new session.
    pub time: Ballot,
}

impl Seen {
    /// What a session that saw both has seen.
    pub fn join(self, other: Seen) -> Seen {
        Seen { epoch: self.epoch.max(other.epoch), time: self.time.max(other.time) }
    }
}

/// Writes and checks tokens. All gateways of a cluster derive the same key from its secret.
#[derive(Clone)]
pub struct TokenKey([u8; 32]);

/// The form's version, the first byte.
const VERSION: u8 = 2;
/// Version, epoch, and the time: its counter and its node.
const BODY_BYTES: usize = 25;
/// How much of the tag is sent: 2^-128 for a forger.
const TAG_BYTES: usize = 16;

impl TokenKey {
    /// The key of the cluster that holds `secret`.
    pub fn new(secret: &[u8]) -> TokenKey {
        TokenKey(blake3::derive_key("everring 2026 session tokens", secret))
    }

    /// The token that says this.
    pub fn write(&self, seen: Seen) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + TAG_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&seen.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&seen.time.counter.to_be_bytes());
        bytes.extend_from_slice(&seen.time.node.0.to_be_bytes());
        let tag = blake3::keyed_hash(&self.0, &bytes);
        bytes.extend_from_slice(&tag.as_bytes()[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token says.
    ///
    /// # Errors
    /// `bad-token`: too long, not of our form, of a later version, or not written by this cluster.
    pub fn read(&self, token: &str) -> Result<Seen, Refuse> {
        let bad = |detail: &str| Refuse::new(ProblemCode::BadToken, detail);
        if token.len() > TOKEN_MAX_BYTES {
            return Err(bad("an Everring-Token has at most 512 bytes"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad("the Everring-Token is not base64url"))?;
        if bytes.first() != Some(&VERSION) || bytes.len() != BODY_BYTES + TAG_BYTES {
            return Err(bad("the Everring-Token is not of a form that this gateway writes"));
        }
        let (body, tag) = bytes.split_at(BODY_BYTES);
        let expected = blake3::keyed_hash(&self.0, body);
        let mut whole = *expected.as_bytes();
        whole[..TAG_BYTES].copy_from_slice(tag);
        // Comparison of two hashes takes the same time wherever they differ.
        if blake3::Hash::from(whole) != expected {
            return Err(bad("the Everring-Token was not written by this cluster"));
        }
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&body[at..at + 8]);
            u64::from_be_bytes(eight)
        };
        Ok(Seen { epoch: Epoch(number(1)), time: Ballot { counter: number(9), node: NodeId(number(17)) } })
    }
}

/// The key must not reach a log.
impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Seen = Seen { epoch: Epoch(3), time: Ballot { counter: 77, node: NodeId(5) } };

    #[test]
    fn what_is_written_reads_back_at_every_gateway_of_the_cluster() {
        let token = TokenKey::new(b"secret").write(SEEN);
        assert!(token.len() <= TOKEN_MAX_BYTES);
        assert_eq!(TokenKey::new(b"secret").read(&token).ok(), Some(SEEN));
        assert!(TokenKey::new(b"other").read(&token).is_err(), "another cluster's");
    }

    #[test]
    fn a_changed_token_is_refused() {
        let key = TokenKey::new(b"secret");
        let token = key.write(SEEN);
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("our own token");
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            let refused = key.read(&URL_SAFE_NO_PAD.encode(forged)).expect_err("a flipped bit");
            assert_eq!(refused.code(), ProblemCode::BadToken);
        }
        for broken in ["", "!", "AQ", &"A".repeat(513), &format!("{token}A")] {
            assert!(key.read(broken).is_err(), "{broken}");
        }
    }
}
