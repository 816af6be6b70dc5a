//! What a replica knows of another one, and what it owes it.

use std::collections::{BTreeMap, VecDeque};

use replication::RegisterKey;
use stdx::Instant;

use crate::message::Claim;
use crate::reconcile::Pass;
use crate::version::Actor;

/// Messages whose confirmation is awaited; what is dropped of them is sent again under another id.
const SENT_MAX: usize = 16_384;
/// Marks that wait until they are confirmed; more are let go, since later ones say more.
const UNCONFIRMED_MAX: usize = 64;
/// Claims that wait for what comes before them.
const CLAIMS_MAX: usize = 1_024;

/// A stamp that a peer is not known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    /// Our newest stamp of the key.
    pub latest: u64,
    /// No stamp of the key before this one is missing there.
    pub oldest: u64,
}

/// Another replica.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Who stamps its writes; none before it was heard.
    pub actor: Option<Actor>,
    /// Its newest start that was heard.
    pub start: u64,
    /// Whether it has said, since that start, how far it has our stamps. Until then we do not know what we owe it.
    pub known: bool,
    /// It has everything that we stamped for it up to here.
    pub acked: u64,
    /// As `acked`, and we have everything that it stamped before it said so.
    pub confirmed: u64,
    /// The Lamport counter of its last message.
    pub clock: u64,
    /// Marks that become confirmed once we have all that it stamped up to a counter.
    unconfirmed: VecDeque<(u64, u64)>,
    /// What we owe it, by key,
    owed: BTreeMap<RegisterKey, Owed>,
    /// and by our newest stamp of the key.
    by_latest: BTreeMap<u64, RegisterKey>,
    /// Our last claim in the chain of those that came with stamps.
    pub said: u64,
    /// What we sent, by message: our stamps with their keys.
    sent: BTreeMap<u64, Vec<(u64, RegisterKey)>>,
    /// Its claims that lie beyond a gap.
    claims: Vec<Claim>,
    /// When what is owed is sent again.
    pub resend_at: Instant,
    /// Whether the connection is known to be broken.
    pub down: bool,
    /// The highest mark and claim that we told it.
    pub told: (u64, u64),
    /// When it was last asked for a beat.
    pub asked_at: Instant,
    /// No hint of it is of a write that was first received before this time; 0 until it has said so.
    pub hints_from_ms: u64,
    /// The newest generation of passes of which one with it has ended.
    pub passed: u64,
    /// The pass under way.
    pub pass: Option<Pass>,
    /// When the next pass begins.
    pub pass_at: Instant,
    /// When the last one ended, since this node's start.
    pub pass_ended: Option<Instant>,
    /// When the pass's step is asked again.
    pub pass_resend_at: Instant,
    /// When it last asked something in a pass of its own; none since its start.
    pub asked_us_at: Option<Instant>,
    /// Since when our pass is put off because of that, until one has ended.
    pub put_off_since: Option<Instant>,
}

impl Peer {
    pub fn new() -> Peer {
        Peer {
            actor: None,
            start: 0,
            known: false,
            acked: 0,
            confirmed: 0,
            clock: 0,
            unconfirmed: VecDeque::new(),
            owed: BTreeMap::new(),
            by_latest: BTreeMap::new(),
            said: 0,
            sent: BTreeMap::new(),
            claims: Vec::new(),
            resend_at: Instant::ZERO,
            down: false,
            told: (0, 0),
            asked_at: Instant::ZERO,
            hints_from_ms: 0,
            passed: 0,
            pass: None,
            pass_at: Instant::ZERO,
            pass_ended: None,
            pass_resend_at: Instant::ZERO,
            asked_us_at: None,
            put_off_since: None,
        }
    }

    /// It has started again: what we knew of how far it has come is void.
    pub fn restarted(&mut self, start: u64) {
        self.start = start;
        self.known = false;
        (self.acked, self.confirmed) = (0, 0);
        self.unconfirmed.clear();
        self.owed.clear();
        self.by_latest.clear();
        self.sent.clear();
        self.claims.clear();
        self.told = (0, 0);
        self.pass = None;
        self.asked_us_at = None;
    }

    /// Notes that the peer lacks our stamp `counter` of the key, and maybe those since `oldest`.
    pub fn owe(&mut self, key: &RegisterKey, counter: u64, oldest: u64) {
        let owed = self.owed.entry(key.clone()).or_insert(Owed { latest: counter, oldest });
        if owed.latest != counter {
            self.by_latest.remove(&owed.latest);
            owed.latest = owed.latest.max(counter);
        }
        owed.oldest = owed.oldest.min(oldest);
        self.by_latest.insert(owed.latest, key.clone());
    }

    /// Notes that the peer holds our stamps of the key up to `counter`.
    pub fn delivered(&mut self, key: &RegisterKey, counter: u64) {
        let Some(owed) = self.owed.get_mut(key) else { return };
        if counter < owed.latest {
            owed.oldest = owed.oldest.max(counter + 1);
            return;
        }
        self.by_latest.remove(&owed.latest);
        self.owed.remove(key);
    }

    /// Owes it nothing any more of the keys that `still` is false for.
    pub fn stop_owing(&mut self, still: impl Fn(&RegisterKey) -> bool) {
        self.owed.retain(|key, _| still(key));
        let owed = &self.owed;
        self.by_latest.retain(|_, key| owed.contains_key(key));
    }

    /// Whether the peer is known to hold our stamp of the key.
    pub fn holds(&self, key: &RegisterKey, counter: u64) -> bool {
        self.known && (self.acked >= counter || self.owed.get(key).is_none_or(|owed| owed.oldest > counter))
    }

    /// The first stamp that it may lack; none if it lacks none.
    pub fn lacks_from(&self) -> Option<u64> {
        self.owed.values().map(|owed| owed.oldest).min()
    }

    /// The keys that are owed, those stamped first first.
    pub fn owed(&self) -> impl Iterator<Item = (u64, &RegisterKey)> {
        self.by_latest.iter().map(|(counter, key)| (*counter, key))
    }

    /// Whether anything is owed.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Remembers what a message brought.
    pub fn sent(&mut self, id: u64, stamps: Vec<(u64, RegisterKey)>) {
        self.sent.insert(id, stamps);
        if self.sent.len() > SENT_MAX {
            self.sent.pop_first();
        }
    }

    /// What a confirmed message brought.
    pub fn confirm(&mut self, id: u64) -> Vec<(u64, RegisterKey)> {
        self.sent.remove(&id).unwrap_or_default()
    }

    /// It has everything up to here.
    pub fn ack(&mut self, mark: u64) {
        if mark <= self.acked {
            return;
        }
        self.acked = mark;
        while let Some((&latest, _)) = self.by_latest.first_key_value()
            && latest <= mark
        {
            if let Some((_, key)) = self.by_latest.pop_first() {
                self.owed.remove(&key);
            }
        }
    }

    /// It has just said that it has our stamps up to `mark`; we have its own up to `theirs`.
    pub fn confirm_later(&mut self, mark: u64, theirs: u64) {
        if self.unconfirmed.len() < UNCONFIRMED_MAX {
            self.unconfirmed.push_back((self.clock, mark));
        }
        while let Some(&(clock, mark)) = self.unconfirmed.front()
            && clock <= theirs
        {
            self.confirmed = self.confirmed.max(mark);
            self.unconfirmed.pop_front();
        }
    }

    /// Takes its claim in; how far we have its stamps now, from `mark` on.
    pub fn claim(&mut self, mark: u64, claim: Claim) -> u64 {
        let mut mark = mark;
        if claim.high <= mark {
            return mark;
        }
        if claim.low > mark {
            if self.claims.len() < CLAIMS_MAX {
                self.claims.push(claim);
            }
            return mark;
        }
        mark = claim.high;
        while let Some(at) = self.claims.iter().position(|waiting| waiting.low <= mark) {
            mark = mark.max(self.claims.swap_remove(at).high);
        }
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use membership::{BucketId, Position};

    fn key(position: u64) -> RegisterKey {
        RegisterKey { position: Position(position), bucket: BucketId(1), key: Bytes::from_static(b"k") }
    }

    #[test]
    fn an_older_stamp_of_a_key_is_missed_until_a_newer_one_arrived() {
        let mut peer = Peer::new();
        peer.known = true;
        peer.owe(&key(1), 5, 5);
        peer.owe(&key(1), 9, 9);
        assert_eq!(peer.lacks_from(), Some(5), "the state of 9 brings 5 along, but only once it has come");
        assert!(!peer.holds(&key(1), 5));
        peer.delivered(&key(1), 5);
        assert_eq!(peer.lacks_from(), Some(6));
        assert!(peer.holds(&key(1), 5) && !peer.holds(&key(1), 9));
        peer.delivered(&key(1), 9);
        assert_eq!(peer.lacks_from(), None);
        assert!(!peer.owes());
    }

    #[test]
    fn claims_wait_for_what_comes_before_them() {
        let mut peer = Peer::new();
        assert_eq!(peer.claim(10, Claim { low: 20, high: 30 }), 10);
        assert_eq!(peer.claim(10, Claim { low: 30, high: 40 }), 10);
        assert_eq!(peer.claim(10, Claim { low: 5, high: 20 }), 40);
        assert_eq!(peer.claim(40, Claim { low: 1, high: 20 }), 40);
    }
}
