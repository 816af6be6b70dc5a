//! The session token: what a session has seen, opaque to clients and authenticated.
//!
//! Untrusted input: it is size-capped, versioned and carries a keyed tag, so that a forged token is refused instead of
//! believed. It holds the newest epoch and the session's time: the Lamport counter at which the last thing that it did
//! or saw happened. Everything that it asks next happens after that. Once the session has used an available bucket it
//! also holds what it has seen there ([`Session`]). The tag covers the cluster's id too: what a session saw in a fleet
//! that was formed before with the same secret says nothing about this one.

use available::Session;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use membership::{ClusterId, Epoch, NodeId};
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
const VERSION: u8 = 3;
/// Version, epoch, and the time: its counter and its node. The session's part follows, if there is one.
const HEAD_BYTES: usize = 25;
/// How much of the tag is sent: 2^-128 for a forger.
pub(crate) const TAG_BYTES: usize = 16;
/// What is left for the session's part: three bytes become four characters.
const SESSION_BYTES_MAX: usize = TOKEN_MAX_BYTES / 4 * 3 - HEAD_BYTES - TAG_BYTES;

impl TokenKey {
    /// The key of the cluster that holds `secret`.
    pub fn new(secret: &[u8]) -> TokenKey {
        TokenKey(blake3::derive_key("everring 2026 session tokens", secret))
    }

    /// The token that says this. Of a session's part that is too long, what costs least is left out.
    pub fn write(&self, cluster: ClusterId, seen: Seen, session: Option<&Session>) -> String {
        let session = session.map_or_else(Vec::new, |session| session.encode(SESSION_BYTES_MAX));
        let mut bytes = Vec::with_capacity(HEAD_BYTES + session.len() + TAG_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&seen.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&seen.time.counter.to_be_bytes());
        bytes.extend_from_slice(&seen.time.node.0.to_be_bytes());
        bytes.extend_from_slice(&session);
        let tag = self.tag(cluster, &bytes);
        bytes.extend_from_slice(&tag.as_bytes()[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token says.
    ///
    /// # Errors
    /// `bad-token`: too long, not of our form, of a later version, or not written by this cluster.
    pub fn read(&self, cluster: ClusterId, token: &str) -> Result<(Seen, Option<Session>), Refuse> {
        let bad = |detail: &str| Refuse::new(ProblemCode::BadToken, detail);
        if token.len() > TOKEN_MAX_BYTES {
            return Err(bad("an Everring-Token has at most 512 bytes"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad("the Everring-Token is not base64url"))?;
        if bytes.first() != Some(&VERSION) || bytes.len() < HEAD_BYTES + TAG_BYTES {
            return Err(bad("the Everring-Token is not of a form that this gateway writes"));
        }
        let foreign = || {
            bad("the Everring-Token was not written by this cluster, or before it was formed anew: begin without one")
        };
        let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or_else(foreign)?;
        if !begins_with(&self.tag(cluster, body), tag) {
            return Err(foreign());
        }
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&body[at..at + 8]);
            u64::from_be_bytes(eight)
        };
        let seen = Seen { epoch: Epoch(number(1)), time: Ballot { counter: number(9), node: NodeId(number(17)) } };
        let session = match &body[HEAD_BYTES..] {
            [] => None,
            bytes => Some(Session::decode(bytes).map_err(|_| bad("the Everring-Token names no session"))?),
        };
        Ok((seen, session))
    }

    fn tag(&self, cluster: ClusterId, body: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&cluster.0.to_le_bytes());
        hasher.update(body);
        hasher.finalize()
    }
}

/// The key must not reach a log.
impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

/// Whether a keyed hash begins with what was sent of it; takes the same time wherever they differ.
pub(crate) fn begins_with(hash: &blake3::Hash, tag: &[u8; TAG_BYTES]) -> bool {
    let mut whole = *hash.as_bytes();
    whole[..TAG_BYTES].copy_from_slice(tag);
    blake3::Hash::from(whole) == *hash
}

#[cfg(test)]
mod tests {
    use available::{Actor, Context, VersionVector};

    use super::*;

    const OURS: ClusterId = ClusterId(7);
    const SEEN: Seen = Seen { epoch: Epoch(3), time: Ballot { counter: 77, node: NodeId(5) } };

    #[test]
    fn what_is_written_reads_back_at_every_gateway_of_the_cluster() {
        let token = TokenKey::new(b"secret").write(OURS, SEEN, None);
        assert!(token.len() <= TOKEN_MAX_BYTES);
        assert_eq!(TokenKey::new(b"secret").read(OURS, &token).ok(), Some((SEEN, None)));
        assert!(TokenKey::new(b"other").read(OURS, &token).is_err(), "another cluster's");
        assert!(TokenKey::new(b"secret").read(ClusterId(8), &token).is_err(), "of a fleet that was formed anew");
    }

    /// A session that has seen this many keys, of twice as many actors.
    fn busy(keys: u32) -> Session {
        let mut session = Session::new(7);
        for key in 0..keys {
            let actor = |at: u32| Actor { node: NodeId(u64::from(at) << 40), birth: u64::from(at) };
            let vector: VersionVector =
                [(actor(2 * key), 1 << 40), (actor(2 * key + 1), 1 << 41)].into_iter().collect();
            let context = Context::new(vector.clone(), []);
            session.observe(
                key,
                &available::Seen { context, vector, deps: 5, time: 1 << 41, epoch: Epoch(3) },
                true,
                false,
            );
        }
        session
    }

    #[test]
    fn what_a_session_saw_in_available_buckets_comes_along() {
        let key = TokenKey::new(b"secret");
        let session = busy(3);
        let token = key.write(OURS, SEEN, Some(&session));
        assert_eq!(key.read(OURS, &token).ok(), Some((SEEN, Some(session))));
    }

    #[test]
    fn a_token_is_never_too_long_and_what_is_left_out_is_covered_by_the_bound() {
        let key = TokenKey::new(b"secret");
        let session = busy(200);
        let token = key.write(OURS, SEEN, Some(&session));
        assert!(token.len() <= TOKEN_MAX_BYTES, "{} bytes", token.len());
        let (_, read) = key.read(OURS, &token).expect("our own token");
        let read = read.expect("it has a session");
        assert!(read.counter_max() >= session.counter_max(), "no write may be stamped below what was seen");
        assert!(read.past.bound >= 5);
    }

    #[test]
    fn a_part_of_a_session_is_no_session() {
        let key = TokenKey::new(b"secret");
        let signed = |body: &[u8]| {
            let tag = key.tag(OURS, body);
            URL_SAFE_NO_PAD.encode([body, &tag.as_bytes()[..TAG_BYTES]].concat())
        };
        let bytes = URL_SAFE_NO_PAD.decode(key.write(OURS, SEEN, Some(&busy(1)))).expect("our own token");
        let body = &bytes[..bytes.len() - TAG_BYTES];
        assert!(key.read(OURS, &signed(body)).is_ok());
        for end in HEAD_BYTES + 1..body.len() {
            let refused = key.read(OURS, &signed(&body[..end])).expect_err("cut");
            assert_eq!(refused.code(), ProblemCode::BadToken);
        }
        let mut later = body.to_vec();
        later[0] = VERSION + 1;
        assert_eq!(key.read(OURS, &signed(&later)).expect_err("a later form").code(), ProblemCode::BadToken);
    }

    #[test]
    fn a_changed_token_is_refused() {
        let key = TokenKey::new(b"secret");
        let token = key.write(OURS, SEEN, Some(&busy(2)));
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("our own token");
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            let refused = key.read(OURS, &URL_SAFE_NO_PAD.encode(forged)).expect_err("a flipped bit");
            assert_eq!(refused.code(), ProblemCode::BadToken);
        }
        for broken in ["", "!", "AQ", &"A".repeat(513), &format!("{token}A")] {
            assert!(key.read(OURS, broken).is_err(), "{broken}");
        }
    }
}
