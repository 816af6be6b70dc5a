//! What a client of the verifier asks next: pure, and named by a seed.
//!
//! Clients share a few keys, so that their operations meet; every value is written once, so that a read tells which
//! write it saw. A conditional write names the version its client last saw, which another may have replaced since: that
//! it is then refused is an observation too.

use std::collections::BTreeMap;

use stdx::Prng;

use crate::acknowledged::Held;

/// The shares of the kinds of request, as parts of their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Reads.
    pub read: u32,
    /// Unconditional writes.
    pub write: u32,
    /// Conditional writes; a client that has not seen the key reads it instead.
    pub cas: u32,
    /// Deletions.
    pub delete: u32,
}

/// One thing to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read the key.
    Read,
    /// Write this value.
    Write(String),
    /// Write `new` if the key still holds `old`, whose version is `etag` (none: the key was absent).
    Cas {
        /// The version last seen.
        etag: Option<String>,
        /// What it held.
        old: Held,
        /// What to write.
        new: String,
    },
    /// Delete the key.
    Delete,
    /// Put this element into the set.
    Insert(String),
    /// Add this to the counter.
    Add(i64),
}

/// One client's source of requests.
#[derive(Clone, Debug)]
pub struct Workload {
    client: u64,
    keys: usize,
    mix: Mix,
    prng: Prng,
    written: u64,
    seen: BTreeMap<usize, (Option<String>, Held)>,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix { read: 50, write: 30, cas: 15, delete: 5 }
    }
}

impl Workload {
    /// The requests of client number `client` over `keys` keys (at least one).
    pub fn new(client: u64, keys: usize, mix: Mix, prng: Prng) -> Workload {
        assert!(keys > 0, "a workload needs a key");
        Workload { client, keys, mix, prng, written: 0, seen: BTreeMap::new() }
    }

    /// The next request: which key, and what.
    pub fn next_ask(&mut self) -> (usize, Ask) {
        let key = self.prng.index(self.keys);
        let Mix { read, write, cas, delete } = self.mix;
        let draw = self.prng.below(u64::from(read + write + cas + delete).max(1)) as u32;
        let ask = if draw < read {
            Ask::Read
        } else if draw < read + write {
            Ask::Write(self.unique_value())
        } else if draw < read + write + cas {
            match self.seen.get(&key).cloned() {
                Some((etag, old)) => Ask::Cas { etag, old, new: self.unique_value() },
                None => Ask::Read,
            }
        } else {
            Ask::Delete
        };
        (key, ask)
    }

    /// The client now knows what the key held, and under which version. A value without a version cannot be named in a
    /// condition, and is forgotten.
    pub fn saw(&mut self, key: usize, etag: Option<String>, held: Held) {
        if held.is_some() && etag.is_none() {
            self.forgot(key);
        } else {
            self.seen.insert(key, (etag.filter(|_| held.is_some()), held));
        }
    }

    /// The client no longer knows what the key holds.
    pub fn forgot(&mut self, key: usize) {
        self.seen.remove(&key);
    }

    fn unique_value(&mut self) -> String {
        self.written += 1;
        format!("c{}-{}", self.client, self.written)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn workload(seed: u64) -> Workload {
        Workload::new(3, 8, Mix::default(), Prng::from_seed(seed))
    }

    fn draw(count: usize, mut workload: Workload) -> Vec<(usize, Ask)> {
        let mut asks = Vec::new();
        for _ in 0..count {
            let (key, ask) = workload.next_ask();
            if ask == Ask::Read {
                workload.saw(key, Some("\"1.1.0\"".to_owned()), Some("x".to_owned()));
            }
            asks.push((key, ask));
        }
        asks
    }

    #[test]
    fn a_seed_names_one_sequence() {
        assert_eq!(draw(500, workload(1)), draw(500, workload(1)));
        assert_ne!(draw(500, workload(1)), draw(500, workload(2)));
    }

    #[test]
    fn every_kind_and_key_is_drawn_and_no_value_twice() {
        let asks = draw(4_000, workload(5));
        let keys: BTreeSet<usize> = asks.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys.len(), 8);
        let mut values = BTreeSet::new();
        let (mut cas, mut deletes) = (0, 0);
        for (_, ask) in &asks {
            match ask {
                Ask::Read => {}
                Ask::Write(value) => assert!(values.insert(value.clone()), "{value} is written twice"),
                Ask::Cas { new, .. } => {
                    cas += 1;
                    assert!(values.insert(new.clone()), "{new} is written twice");
                }
                Ask::Delete => deletes += 1,
                Ask::Insert(_) | Ask::Add(_) => unreachable!("of registers alone"),
            }
        }
        assert!((400..800).contains(&cas), "{cas} of 4,000 are conditional");
        assert!((120..300).contains(&deletes), "{deletes} of 4,000 are deletions");
    }

    #[test]
    fn a_condition_names_what_was_seen_last() {
        let only_cas = Mix { read: 0, write: 0, cas: 1, delete: 0 };
        let mut workload = Workload::new(1, 1, only_cas, Prng::from_seed(1));
        assert_eq!(workload.next_ask(), (0, Ask::Read), "nothing was seen yet");
        workload.saw(0, Some("\"2\"".to_owned()), Some("a".to_owned()));
        let cas = |etag: Option<&str>, old: Option<&str>, new: &str| Ask::Cas {
            etag: etag.map(str::to_owned),
            old: old.map(str::to_owned),
            new: new.to_owned(),
        };
        assert_eq!(workload.next_ask(), (0, cas(Some("\"2\""), Some("a"), "c1-1")));
        workload.saw(0, Some("\"3\"".to_owned()), None);
        assert_eq!(workload.next_ask(), (0, cas(None, None, "c1-2")), "an absent key has no version to match");
        workload.forgot(0);
        assert_eq!(workload.next_ask(), (0, Ask::Read));
    }
}
