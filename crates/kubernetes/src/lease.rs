//! One monkey at a time, by a Lease of the cluster. Pure: what is read goes in, what to do comes out.
//!
//! Times of renewal that others state are never compared with our clock: a foreign Lease is free once *we* have seen no
//! change of it for its whole duration. Ours counts from before the renewal was sent, and ends a third early.

use std::time::Duration;

use stdx::Instant;

/// How long a Lease stays its holder's after a renewal.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long after its last renewal the holder still acts: the rest is for whatever it has begun.
pub const ACT_WITHIN: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// A Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; empty or none: nobody.
    pub holder: Option<String>,
    /// Changes with each renewal.
    pub version: String,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is ours: renew it.
    Renew,
    /// It is free: take it. Somebody else may be faster, which the write then finds out.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// One candidate's knowledge.
#[derive(Clone, Debug)]
pub struct LeaseState {
    me: String,
    /// What was last seen of a foreign holder, and since when it is unchanged.
    foreign: Option<(Seen, Instant)>,
    renewed_at: Option<Instant>,
}

impl LeaseState {
    /// A candidate that holds nothing.
    pub fn new(me: &str) -> LeaseState {
        LeaseState { me: me.to_owned(), foreign: None, renewed_at: None }
    }

    /// What to do about the Lease as it was just read.
    pub fn decide(&mut self, now: Instant, seen: &Seen) -> Step {
        let holder = seen.holder.as_deref().unwrap_or_default();
        if holder == self.me {
            self.foreign = None;
            return Step::Renew;
        }
        self.renewed_at = None;
        if holder.is_empty() {
            return Step::Take;
        }
        match &self.foreign {
            Some((known, since)) if known == seen => {
                if now.since(*since) >= DURATION {
                    Step::Take
                } else {
                    Step::Wait
                }
            }
            _ => {
                self.foreign = Some((seen.clone(), now));
                Step::Wait
            }
        }
    }

    /// A write that made or kept us the holder was accepted; `sent_at` is when it was sent.
    pub fn renewed(&mut self, sent_at: Instant) {
        self.foreign = None;
        self.renewed_at = Some(sent_at);
    }

    /// Whether we may act.
    ///
    /// # Errors
    /// We may not; the sentence says why.
    pub fn may_act(&self, now: Instant) -> Result<(), String> {
        match (self.renewed_at, &self.foreign) {
            (Some(at), _) if now.since(at) < ACT_WITHIN => Ok(()),
            (Some(at), _) => Err(format!("the lease was last renewed {} s ago", now.since(at).as_secs())),
            (None, Some((seen, _))) => {
                Err(format!("the lease is held by {}", seen.holder.as_deref().unwrap_or("somebody")))
            }
            (None, None) => Err("the lease is not taken yet".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn seen(holder: &str, version: &str) -> Seen {
        Seen { holder: Some(holder.to_owned()).filter(|holder| !holder.is_empty()), version: version.to_owned() }
    }

    #[test]
    fn a_free_lease_is_taken_and_renewed() {
        let mut one = LeaseState::new("one");
        assert!(one.may_act(at(0)).is_err());
        assert_eq!(one.decide(at(0), &seen("", "1")), Step::Take);
        one.renewed(at(0));
        assert_eq!(one.may_act(at(9)), Ok(()));
        assert_eq!(one.decide(at(9), &seen("one", "2")), Step::Renew);
    }

    #[test]
    fn who_cannot_renew_stops_before_another_may_begin() {
        let (mut one, mut two) = (LeaseState::new("one"), LeaseState::new("two"));
        one.renewed(at(0));
        // Two reads it right after that renewal, at the earliest.
        assert_eq!(two.decide(at(0), &seen("one", "1")), Step::Wait);
        let last_act = (0..100).rev().find(|second| one.may_act(at(*second)).is_ok()).expect("it may act at first");
        let takes = (0..100).find(|second| two.decide(at(*second), &seen("one", "1")) == Step::Take);
        assert!(last_act + 5 <= takes.expect("it is free one day"), "five seconds lie between the two");
    }

    #[test]
    fn a_renewed_foreign_lease_is_never_taken_whatever_its_times_say() {
        let mut two = LeaseState::new("two");
        for second in 0..100 {
            assert_eq!(two.decide(at(second), &seen("one", &second.to_string())), Step::Wait);
        }
        assert!(two.may_act(at(100)).is_err_and(|why| why.contains("held by one")));
    }

    #[test]
    fn a_lost_lease_ends_the_right_at_once() {
        let mut one = LeaseState::new("one");
        one.renewed(at(0));
        assert_eq!(one.decide(at(1), &seen("two", "5")), Step::Wait);
        assert!(one.may_act(at(1)).is_err());
    }
}
