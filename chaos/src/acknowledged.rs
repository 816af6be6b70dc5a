//! Whether acknowledged writes are still there: looked at with every read while the run goes on, and once more by a
//! final read of every key.
//!
//! One rule serves both. A read that shows write X, although another write W of the key was *sent after X had ended*
//! and acknowledged before the read was sent, has lost W: values are unique, so X cannot have been written again. The
//! rule finds losses at once and names them; that nothing else is wrong is for the checker to decide.

use std::collections::BTreeMap;

/// What a key may hold, as the history writes it: a unique value, or nothing.
pub type Held = Option<String>;

/// The writes of one key that were sent, and those of them that were acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// When the write of a value ended; `None` while it is in flight or unknown, so that it may act at any time. The
    /// key's deletions are kept apart, since "nothing" is not unique.
    ended: BTreeMap<String, Option<u64>>,
    /// Deletions by the time they were sent and a number: when each ended, `None` as above.
    deletions: BTreeMap<(u64, u64), Option<u64>>,
    /// Acknowledged writes and deletions: (ended, sent), in the order of their ends.
    acknowledged: Vec<(u64, u64)>,
    /// The greatest `sent` among `acknowledged` up to each place.
    newest_sent: Vec<u64>,
}

/// A write that was sent: what it leaves in the key, when it was sent, and a number that no other write of the key has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The value, or none for a deletion.
    pub held: Held,
    /// When it was sent, in nanoseconds since the run began.
    pub at_ns: u64,
    /// Its number.
    pub number: u64,
}

impl Acknowledged {
    /// A write is being sent; from now on it may act, until it is acknowledged or withdrawn.
    pub fn sent(&mut self, write: &Sent) {
        self.set_ended(write, None);
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, write: &Sent, ended_ns: u64) {
        self.set_ended(write, Some(ended_ns));
        // Clients end in almost the order in which they tell it: the place is near the end of the list.
        let place = self.acknowledged.partition_point(|(ended, _)| *ended <= ended_ns);
        self.acknowledged.insert(place, (ended_ns, write.at_ns));
        self.newest_sent.truncate(place);
        for (_, sent) in &self.acknowledged[place..] {
            let newest = self.newest_sent.last().copied().unwrap_or(0).max(*sent);
            self.newest_sent.push(newest);
        }
    }

    /// A write surely had no effect.
    pub fn withdrawn(&mut self, write: &Sent) {
        match &write.held {
            Some(value) => self.ended.remove(value),
            None => self.deletions.remove(&(write.at_ns, write.number)),
        };
    }

    /// How many acknowledged writes.
    pub fn total(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// How many acknowledged writes a read sent at `sent_ns`, that showed `held`, must have shown instead.
    pub fn lost(&self, held: &Held, sent_ns: u64) -> u64 {
        let known = self.acknowledged.partition_point(|(ended, _)| *ended < sent_ns);
        let Some(newest) = known.checked_sub(1).and_then(|last| self.newest_sent.get(last)).copied() else { return 0 };
        let Some(shown_ended) = self.shown_ended(held) else { return 0 };
        if newest <= shown_ended {
            return 0;
        }
        self.acknowledged[..known].iter().filter(|(_, sent)| *sent > shown_ended).count() as u64
    }

    /// When the write of what was shown had ended at the latest; none when it may be in flight still.
    fn shown_ended(&self, held: &Held) -> Option<u64> {
        match held {
            // A value that nobody wrote is the checker's to find.
            Some(value) => self.ended.get(value).copied().flatten(),
            // Before any deletion, "nothing" is what every key begins with.
            None => self.deletions.values().try_fold(0, |latest, ended| ended.map(|ended| latest.max(ended))),
        }
    }

    fn set_ended(&mut self, write: &Sent, ended: Option<u64>) {
        match &write.held {
            Some(value) => self.ended.insert(value.clone(), ended),
            None => self.deletions.insert((write.at_ns, write.number), ended),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Held {
        Some(name.to_owned())
    }

    fn write(held: &Held, at_ns: u64) -> Sent {
        Sent { held: held.clone(), at_ns, number: at_ns }
    }

    fn done(key: &mut Acknowledged, held: &Held, at_ns: u64, ended_ns: u64) {
        key.sent(&write(held, at_ns));
        key.acknowledged(&write(held, at_ns), ended_ns);
    }

    #[test]
    fn the_newest_value_loses_nothing() {
        let mut key = Acknowledged::default();
        done(&mut key, &value("a"), 10, 20);
        done(&mut key, &value("b"), 30, 40);
        assert_eq!(key.lost(&value("b"), 50), 0);
    }

    #[test]
    fn an_older_value_has_lost_all_that_came_after() {
        let mut key = Acknowledged::default();
        done(&mut key, &value("a"), 10, 20);
        done(&mut key, &value("b"), 30, 40);
        done(&mut key, &value("c"), 50, 60);
        assert_eq!(key.lost(&value("a"), 70), 2);
        assert_eq!(key.lost(&value("a"), 45), 1, "c was not acknowledged yet when this read was sent");
        assert_eq!(key.lost(&value("a"), 35), 0);
    }

    #[test]
    fn concurrent_writes_may_be_ordered_either_way_and_told_in_any_order() {
        let mut key = Acknowledged::default();
        done(&mut key, &value("b"), 20, 40);
        done(&mut key, &value("a"), 10, 30);
        assert_eq!(key.lost(&value("a"), 50), 0);
        assert_eq!(key.lost(&value("b"), 50), 0);
        done(&mut key, &value("c"), 42, 45);
        assert_eq!((key.lost(&value("a"), 50), key.lost(&value("b"), 44)), (1, 0));
    }

    #[test]
    fn a_write_that_may_still_act_may_have_come_last() {
        let mut key = Acknowledged::default();
        key.sent(&write(&value("a"), 10));
        done(&mut key, &value("b"), 30, 40);
        assert_eq!(key.lost(&value("a"), 50), 0);
        key.sent(&write(&None, 45));
        assert_eq!(key.lost(&None, 50), 0);
        key.withdrawn(&write(&None, 45));
        assert_eq!(key.lost(&None, 50), 1, "the deletion had surely no effect, so b is missing");
    }

    #[test]
    fn nothing_needs_a_deletion_to_explain_it() {
        let mut key = Acknowledged::default();
        assert_eq!(key.lost(&None, 5), 0, "nothing was written yet");
        done(&mut key, &value("a"), 10, 20);
        assert_eq!(key.lost(&None, 30), 1);
        done(&mut key, &None, 30, 40);
        assert_eq!(key.lost(&None, 50), 0);
        done(&mut key, &value("b"), 50, 60);
        assert_eq!(key.lost(&None, 70), 1);
    }
}
