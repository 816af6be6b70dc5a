//! The keys that a replica holds, in ring order, and fingerprints of ranges of them.
//!
//! A range's fingerprint is the sum (modulo 2^256) of the digests of what lies in it, so it can be kept up to date by
//! one addition and one subtraction a write. Sums of plain hashes can be forged (Wagner 2002); these are keyed with a
//! secret of the cluster, so that no client can compute them (Meyer, "Range-based set reconciliation", 2023, on the
//! choice of fingerprints). A pass salts what it sends, so that two ranges that happen to look alike look different the
//! next time.

use std::collections::BTreeMap;

use bytes::Bytes;
use membership::{BucketId, Position};
use replication::{LogPosition, RegisterKey};

use crate::reconcile::{Print, Range, ShortHash};
use crate::state::State;
use crate::version::Context;

/// The fingerprint of one key's state: everything in it but the bodies of its entries, which their dots stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub(crate) [u8; 32]);

/// The secret that digests are keyed with; the same at all replicas of a cluster.
#[derive(Clone)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    /// The key of the cluster that holds `secret`.
    pub fn new(secret: &[u8]) -> DigestKey {
        DigestKey(blake3::derive_key("everring 2026 digests of states", secret))
    }

    /// The digest of a key's state.
    pub fn digest(&self, key: &RegisterKey, state: &State) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let mut words: Vec<u64> = vec![key.position.0, u64::from(key.bucket.0), key.key.len() as u64];
        push_context(&mut words, &state.context);
        words.push(state.entries.len() as u64);
        for entry in &state.entries {
            words.extend([entry.dot.counter, entry.dot.actor.node.0, entry.dot.actor.birth]);
        }
        words.push(state.past.len() as u64);
        for past in &state.past {
            words.extend([past.dot.counter, past.dot.actor.node.0, past.dot.actor.birth]);
        }
        for ledger in &state.ledgers {
            words.extend([ledger.actor.node.0, ledger.actor.birth, ledger.closed, ledger.folded]);
            words.push(ledger.base_folded);
        }
        words.extend([state.horizon_ms, state.deps, state.kind as u64]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        hasher.update(&key.key);
        hasher.update(&bytes);
        Digest(*hasher.finalize().as_bytes())
    }
}

/// The secret must not reach a log.
impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey")
    }
}

fn push_context(words: &mut Vec<u64>, context: &Context) {
    words.push(context.vector.len() as u64);
    for (actor, counter) in context.vector.iter() {
        words.extend([actor.node.0, actor.birth, counter]);
    }
    words.push(context.dots().len() as u64);
    for dot in context.dots() {
        words.extend([dot.counter, dot.actor.node.0, dot.actor.birth]);
    }
}

impl Digest {
    /// Half of it: enough to say "the same".
    pub fn half(&self) -> u128 {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        u128::from_le_bytes(half)
    }

    /// A quarter of it, another one for each of four passes in turn.
    pub fn short(&self, pass: u64) -> ShortHash {
        let at = (pass % 4) as usize * 8;
        let mut short = [0; 8];
        short.copy_from_slice(&self.0[at..at + 8]);
        ShortHash(u64::from_le_bytes(short))
    }
}

/// One key.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its state.
    pub state: State,
    /// Where the log says so.
    pub logged: LogPosition,
    /// Whether a majority of its homes is known to hold all of it.
    pub stable: bool,
    digest: Digest,
}

impl Held {
    /// The state's fingerprint.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// A sum of digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    /// Little-endian words of a number modulo 2^256.
    words: [u64; 4],
    count: u64,
}

impl Sum {
    fn add(&mut self, digest: &Digest) {
        self.join(&Sum { words: words_of(digest), count: 1 });
    }

    fn join(&mut self, other: &Sum) {
        let mut carry = false;
        for (word, add) in self.words.iter_mut().zip(other.words) {
            let (sum, over) = word.overflowing_add(add);
            let (sum, over_carry) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, over || over_carry);
        }
        self.count += other.count;
    }

    fn subtract(&mut self, digest: &Digest) {
        let mut borrow = false;
        for (word, take) in self.words.iter_mut().zip(words_of(digest)) {
            let (rest, under) = word.overflowing_sub(take);
            let (rest, under_borrow) = rest.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (rest, under || under_borrow);
        }
        self.count -= 1;
    }
}

fn words_of(digest: &Digest) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.0.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

/// All keys of a replica.
#[derive(Clone, Debug)]
pub struct Table {
    key: DigestKey,
    held: BTreeMap<RegisterKey, Held>,
    /// Sums of digests by the first 16 bits of the position: a range's sum is that of its cells, and of the keys at its
    /// two ends.
    cells: BTreeMap<u16, Sum>,
    bytes: usize,
}

impl Table {
    /// An empty one.
    pub fn new(key: DigestKey) -> Table {
        Table { key, held: BTreeMap::new(), cells: BTreeMap::new(), bytes: 0 }
    }

    /// How many keys there are, tombstones included.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Bytes that all states take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is held of a key.
    pub fn get(&self, key: &RegisterKey) -> Option<&Held> {
        self.held.get(key)
    }

    /// Notes that a majority holds what is held here.
    pub(crate) fn note_stable(&mut self, key: &RegisterKey, digest: Digest) {
        if let Some(held) = self.held.get_mut(key).filter(|held| held.digest == digest) {
            held.stable = true;
        }
    }

    /// Puts a key's state in the place of what was there.
    pub fn put(&mut self, key: &RegisterKey, state: State, logged: LogPosition) {
        let digest = self.key.digest(key, &state);
        self.bytes += state.size() + key.key.len();
        let held = Held { state, logged, digest, stable: false };
        let old = self.held.insert(key.clone(), held);
        let cell = self.cells.entry(cell_of(key)).or_default();
        if let Some(old) = old {
            cell.subtract(&old.digest);
            self.bytes -= old.state.size() + key.key.len();
        }
        cell.add(&digest);
    }

    /// The same state stands elsewhere in the log now.
    pub(crate) fn moved(&mut self, key: &RegisterKey, logged: LogPosition) {
        if let Some(held) = self.held.get_mut(key) {
            held.logged = logged;
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &RegisterKey) {
        let Some(old) = self.held.remove(key) else { return };
        self.bytes -= old.state.size() + key.key.len();
        let cell = self.cells.entry(cell_of(key)).or_default();
        cell.subtract(&old.digest);
        if cell.count == 0 {
            self.cells.remove(&cell_of(key));
        }
    }

    /// The keys of a range, in ring order.
    pub fn range(&self, range: Range) -> impl Iterator<Item = (&RegisterKey, &Held)> {
        let at = |position| RegisterKey { position: Position(position), bucket: BucketId(0), key: Bytes::new() };
        let from = std::ops::Bound::Included(at(range.first));
        let to = match range.last.checked_add(1) {
            Some(after) => std::ops::Bound::Excluded(at(after)),
            None => std::ops::Bound::Unbounded,
        };
        self.held.range((from, to))
    }

    /// All keys, in ring order.
    pub fn iter(&self) -> impl Iterator<Item = (&RegisterKey, &Held)> {
        self.held.iter()
    }

    /// The range's fingerprint as this pass sees it, and how many keys lie in it.
    pub fn print(&self, range: Range, pass: u64) -> (Print, u64) {
        let sum = self.sum(range);
        let mut hasher = blake3::Hasher::new_keyed(&self.key.0);
        hasher.update(&pass.to_le_bytes());
        hasher.update(&sum.count.to_le_bytes());
        for word in sum.words {
            hasher.update(&word.to_le_bytes());
        }
        let mut print = [0; 12];
        print.copy_from_slice(&hasher.finalize().as_bytes()[..12]);
        (Print(print), sum.count)
    }

    fn sum(&self, range: Range) -> Sum {
        let mut sum = Sum::default();
        let (low, high) = ((range.first >> 48) as u16, (range.last >> 48) as u16);
        let scan = |range: Range, sum: &mut Sum| self.range(range).for_each(|(_, held)| sum.add(&held.digest));
        // Whole cells are those strictly between the two that the ends lie in; ends that are a cell's own are scanned
        // all the same, which costs a cell's keys.
        if low == high {
            scan(range, &mut sum);
            return sum;
        }
        scan(Range { first: range.first, last: (u64::from(low) << 48) | ((1 << 48) - 1) }, &mut sum);
        scan(Range { first: u64::from(high) << 48, last: range.last }, &mut sum);
        if high - low > 1 {
            self.cells.range(low + 1..high).for_each(|(_, cell)| sum.join(cell));
        }
        sum
    }
}

fn cell_of(key: &RegisterKey) -> u16 {
    (key.position.0 >> 48) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Dot};

    fn key(position: u64) -> RegisterKey {
        RegisterKey { position: Position(position), bucket: BucketId(1), key: Bytes::from(position.to_string()) }
    }

    fn state(counter: u64) -> State {
        State { context: Context::of(Dot { counter, actor: Actor::default() }), ..State::default() }
    }

    #[test]
    fn a_print_depends_on_what_is_there_and_not_on_how_it_came() {
        let positions = [0, 5, 1 << 47, 1 << 48, (1 << 48) + 7, 3 << 60, u64::MAX];
        let mut one = Table::new(DigestKey::new(b"s"));
        let mut other = Table::new(DigestKey::new(b"s"));
        for at in positions {
            one.put(&key(at), state(1), LogPosition(1));
        }
        for at in positions.iter().rev() {
            other.put(&key(*at), state(9), LogPosition(1));
            other.put(&key(*at), state(1), LogPosition(2));
            other.put(&key(at ^ 2), state(2), LogPosition(3));
        }
        for at in positions {
            other.remove(&key(at ^ 2));
        }
        for first in positions {
            for last in positions.into_iter().filter(|last| *last >= first) {
                let range = Range { first, last };
                let (print, count) = one.print(range, 3);
                assert_eq!((print, count), other.print(range, 3), "{range:?}");
                assert_eq!(count, positions.iter().filter(|at| (first..=last).contains(at)).count() as u64);
                assert_ne!(print, one.print(range, 4).0, "a pass salts");
            }
        }
        assert_eq!(one.bytes(), other.bytes());
        other.put(&key(5), state(2), LogPosition(4));
        let all = Range { first: 0, last: u64::MAX };
        assert_ne!(one.print(all, 3).0, other.print(all, 3).0);
    }
}
