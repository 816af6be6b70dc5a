//! The directory of keys: lookup by a key index table. Pure.
//!
//! An entry says who owned a key's position when that was last found out. It is a belief: it is asked before it is
//! trusted, and a wrong one is replaced. It holds the keys that were asked for, up to a bound; what was entered first
//! goes first.

use std::collections::{BTreeMap, VecDeque};

use chord::Peer;
use membership::Position;

/// Keys remembered at most; an entry takes about 100 bytes.
pub const ENTRIES_MAX: usize = 100_000;

/// See the module's introduction.
#[derive(Debug)]
pub struct KeyDirectory {
    entries: BTreeMap<Position, Peer>,
    order: VecDeque<Position>,
    entries_max: usize,
    asked: u64,
    stale: u64,
}

impl Default for KeyDirectory {
    fn default() -> KeyDirectory {
        KeyDirectory::with_max(ENTRIES_MAX)
    }
}

impl KeyDirectory {
    /// One that remembers at most so many keys.
    pub fn with_max(entries_max: usize) -> KeyDirectory {
        KeyDirectory { entries: BTreeMap::new(), order: VecDeque::new(), entries_max, asked: 0, stale: 0 }
    }

    /// Who is believed to own a key.
    pub fn believed(&self, key: Position) -> Option<Peer> {
        self.entries.get(&key).copied()
    }

    /// A belief was held against its owner's own word.
    pub fn checked(&mut self, right: bool) {
        self.asked += 1;
        self.stale += u64::from(!right);
    }

    /// Who owns a key was found out.
    pub fn learn(&mut self, key: Position, owner: Peer) {
        if self.entries.insert(key, owner).is_none() {
            self.order.push_back(key);
        }
        if self.entries.len() > self.entries_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// How many keys it holds.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Of the beliefs that were checked, the share that was wrong; none before the first.
    pub fn staleness(&self) -> Option<f64> {
        (self.asked > 0).then(|| self.stale as f64 / self.asked as f64)
    }
}

#[cfg(test)]
mod tests {
    use membership::NodeId;

    use super::*;

    fn peer(at: u64) -> Peer {
        Peer { position: Position(at), node: NodeId(at) }
    }

    #[test]
    fn it_remembers_up_to_its_bound_and_counts_what_was_stale() {
        let mut directory = KeyDirectory::with_max(2);
        assert_eq!(directory.staleness(), None);
        for key in [1, 2, 3] {
            directory.learn(Position(key), peer(10));
        }
        assert_eq!((directory.believed(Position(1)), directory.entries()), (None, 2));
        directory.learn(Position(3), peer(20));
        assert_eq!(directory.believed(Position(3)), Some(peer(20)), "the newest word counts");
        assert_eq!(directory.entries(), 2);
        directory.checked(true);
        directory.checked(false);
        assert_eq!(directory.staleness(), Some(0.5));
    }
}
