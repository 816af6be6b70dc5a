//! Cursors: where a listing or a backup goes on. Opaque to clients, and valid at every gateway of the cluster.
//!
//! They come back from outside, so they carry a keyed tag over themselves and over what they are a place in: the call,
//! the bucket and the prefix. A forged one could hide keys from whoever trusts the listing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use membership::{BucketId, NodeId, Position};

use crate::problem::Refuse;
use crate::token::{TAG_BYTES, begins_with};

/// A place on the ring, as far as it was gone round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The position that was begun at; it ends just before that.
    pub start: Position,
    /// The first position that is not told to the end.
    pub from: Position,
    /// The last key that was told behind that.
    pub after: Option<String>,
    /// The cut that is being told, and which node keeps it.
    pub cut: Option<(NodeId, u64)>,
}

/// What a cursor is a place in.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The call.
    pub call: &'static str,
    /// The bucket.
    pub bucket: BucketId,
    /// Only keys that begin with this.
    pub prefix: &'a str,
}

/// Writes and checks cursors. All gateways of a cluster derive the same key from its secret.
#[derive(Clone)]
pub struct CursorKey([u8; 32]);

/// The form's version, the first byte.
const VERSION: u8 = 1;
/// Version, start, from, node and cut; the last key follows, behind a byte that says whether there is one.
const HEAD_BYTES: usize = 34;
/// The longest cursor, in characters.
const CURSOR_MAX_CHARACTERS: usize = 1_536;

impl Place {
    /// The place where everything begins: the whole circle from `start` on.
    pub fn first(start: Position) -> Place {
        Place { start, from: start, after: None, cut: None }
    }

    /// The last position that is wanted.
    pub fn to(&self) -> Position {
        Position(self.start.0.wrapping_sub(1))
    }

    /// The place behind `through`, which was told to the end; none if that was all.
    pub fn behind(&self, through: Position) -> Option<Place> {
        let from = Position(through.0.wrapping_add(1));
        (through != self.to()).then_some(Place { start: self.start, from, after: None, cut: None })
    }
}

impl CursorKey {
    /// The key of the cluster that holds `secret`.
    pub fn new(secret: &[u8]) -> CursorKey {
        CursorKey(blake3::derive_key("everring 2026 cursors", secret))
    }

    /// The cursor that says this.
    pub fn write(&self, scope: Scope<'_>, place: &Place) -> String {
        let (node, cut) = place.cut.unwrap_or((NodeId(0), 0));
        let mut bytes = vec![VERSION];
        for number in [place.start.0, place.from.0, node.0, cut] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.push(u8::from(place.after.is_some()));
        bytes.extend_from_slice(place.after.as_deref().unwrap_or_default().as_bytes());
        let tag = self.tag(scope, &bytes);
        bytes.extend_from_slice(&tag.as_bytes()[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a cursor says.
    ///
    /// # Errors
    /// `bad-request`: it was not written by this cluster for this very call, bucket and prefix.
    pub fn read(&self, scope: Scope<'_>, cursor: &str) -> Result<Place, Refuse> {
        let foreign = || {
            Refuse::bad_request(
                "the cursor is none that was given out for this call, bucket and prefix; take it from the `Link` \
                 header, unchanged, or leave it out to begin anew",
            )
        };
        if cursor.len() > CURSOR_MAX_CHARACTERS {
            return Err(foreign());
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| foreign())?;
        let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or_else(foreign)?;
        let ours = body.len() >= HEAD_BYTES && body[0] == VERSION && begins_with(&self.tag(scope, body), tag);
        if !ours {
            return Err(foreign());
        }
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&body[1 + 8 * at..9 + 8 * at]);
            u64::from_be_bytes(eight)
        };
        let after = std::str::from_utf8(&body[HEAD_BYTES..]).map_err(|_| foreign())?;
        Ok(Place {
            start: Position(number(0)),
            from: Position(number(1)),
            after: (body[HEAD_BYTES - 1] == 1).then(|| after.to_owned()),
            cut: (number(3) != 0).then(|| (NodeId(number(2)), number(3))),
        })
    }

    fn tag(&self, scope: Scope<'_>, body: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&scope.bucket.0.to_le_bytes());
        for text in [scope.call, scope.prefix] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(body);
        hasher.finalize()
    }
}

/// The key must not reach a log.
impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope<'static> = Scope { call: "list", bucket: BucketId(1), prefix: "a/" };

    fn places() -> [Place; 3] {
        let first = Place::first(Position(7));
        let after = Place { from: Position(9), after: Some(String::new()), ..first.clone() };
        let cut = Place { after: Some("ä".repeat(512)), cut: Some((NodeId(3), 5)), ..after.clone() };
        [first, after, cut]
    }

    #[test]
    fn a_place_comes_back_at_every_gateway_of_the_cluster() {
        for place in places() {
            let cursor = CursorKey::new(b"secret").write(SCOPE, &place);
            assert!(cursor.len() <= CURSOR_MAX_CHARACTERS, "{}", cursor.len());
            assert_eq!(CursorKey::new(b"secret").read(SCOPE, &cursor).ok(), Some(place));
        }
    }

    #[test]
    fn a_cursor_of_something_else_or_a_changed_one_is_refused() {
        let key = CursorKey::new(b"secret");
        for place in places() {
            let cursor = key.write(SCOPE, &place);
            let refused = |key: &CursorKey, scope, cursor: &str| {
                assert_eq!(key.read(scope, cursor).expect_err("foreign").code().code(), "bad-request");
            };
            refused(&CursorKey::new(b"other"), SCOPE, &cursor);
            refused(&key, Scope { call: "backup", ..SCOPE }, &cursor);
            refused(&key, Scope { bucket: BucketId(2), ..SCOPE }, &cursor);
            refused(&key, Scope { prefix: "a", ..SCOPE }, &cursor);
            let bytes = URL_SAFE_NO_PAD.decode(&cursor).expect("our own cursor");
            for at in 0..bytes.len() {
                let mut forged = bytes.clone();
                forged[at] ^= 1;
                refused(&key, SCOPE, &URL_SAFE_NO_PAD.encode(forged));
            }
            for broken in ["", "!", "AQ", &cursor[..cursor.len() - 4], &"A".repeat(2_000)] {
                refused(&key, SCOPE, broken);
            }
        }
    }

    #[test]
    fn the_circle_ends_where_it_began() {
        let place = Place::first(Position(7));
        assert_eq!(place.to(), Position(6));
        let next = place.behind(Position(u64::MAX)).expect("there is more");
        assert_eq!((next.start, next.from), (Position(7), Position(0)));
        assert_eq!(next.behind(Position(6)), None);
    }
}
