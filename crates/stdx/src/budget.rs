use std::time::Duration;

use crate::Instant;

/// What a node may move beside the requests that it serves, in bytes a second: what was moved is paid for with time,
/// and until that is over nothing more is asked for.
///
/// So the mean is kept exactly; what was asked for at once comes at once, and is paid for afterwards. Several cores of
/// one node share a budget by handing it on: each is given it before it acts, and gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    bytes_per_second: u64,
    paid_until: Instant,
}

impl Budget {
    /// 32 MiB a second: about a quarter of what a network of a gigabit carries.
    const DEFAULT: u64 = 32 << 20;

    /// A budget of so many bytes a second, at least one, of which nothing is spent.
    pub const fn new(bytes_per_second: u64) -> Budget {
        let bytes_per_second = if bytes_per_second == 0 { 1 } else { bytes_per_second };
        Budget { bytes_per_second, paid_until: Instant::ZERO }
    }

    /// Charges it with bytes that were moved.
    pub fn pay(&mut self, now: Instant, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_until = self.paid_until.max(now) + cost;
    }

    /// Until when what was moved is still being paid for; none if that is over.
    pub fn spent_until(&self, now: Instant) -> Option<Instant> {
        Some(self.paid_until).filter(|until| *until > now)
    }

    /// Nothing is owed any more: for a model check, in which no time passes.
    pub fn forgive(&mut self) {
        self.paid_until = Instant::ZERO;
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(Budget::DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_is_paid_for_with_time_and_rest_is_not_saved_up() {
        let mut budget = Budget::new(1_000);
        assert_eq!(budget.spent_until(Instant::ZERO), None);
        budget.pay(Instant::from_millis(5_000), 500);
        budget.pay(Instant::from_millis(5_100), 250);
        assert_eq!(budget.spent_until(Instant::from_millis(5_700)), Some(Instant::from_millis(5_750)));
        assert_eq!(budget.spent_until(Instant::from_millis(5_750)), None);
    }

    #[test]
    fn the_smallest_and_the_largest_are_no_errors() {
        let mut budget = Budget::new(0);
        budget.pay(Instant::ZERO, u64::MAX);
        assert!(budget.spent_until(Instant::from_millis(1)).is_some());
        budget.forgive();
        assert_eq!(budget.spent_until(Instant::from_millis(1)), None);
        budget.pay(Instant::from_millis(1), 1);
        assert_eq!(budget.spent_until(Instant::from_millis(2)), Some(Instant::from_millis(1_001)));
    }
}
