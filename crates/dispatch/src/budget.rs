//! What keeps retries and hedges from making an overload worse: a budget across requests, and how long to wait before a
//! silent replica is given up on.

use std::time::Duration;

/// A token bucket that allows about one hedge, or one more go through the replicas, for every five requests.
///
/// It slows retries down and never forbids them: a request without budget waits [`SLOW_RETRY`] longer instead. Two
/// paused replicas can therefore not fail a request whose deadline is a second, and a fleet that is slow as a whole is
/// not drowned by hedges.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    /// Thousandths of a token; at most [`BUDGET_MAX`].
    tokens: u32,
}

/// What one request earns, in thousandths of a retry: 20 %.
const EARNED: u32 = 200;
/// What one retry costs, in thousandths.
const COST: u32 = 1_000;
/// The most that can be saved up, in thousandths: a burst of 50 retries. A kill hits about that many requests at once.
const BUDGET_MAX: u32 = 50_000;

/// How long a request waits for its next attempt when the budget is spent.
pub const SLOW_RETRY: Duration = Duration::from_millis(250);

impl Default for RetryBudget {
    /// A full budget, so that the first requests after a start survive a kill as well.
    fn default() -> RetryBudget {
        RetryBudget { tokens: BUDGET_MAX }
    }
}

impl RetryBudget {
    /// A request begins: it earns its share.
    pub fn earn(&mut self) {
        self.tokens = (self.tokens + EARNED).min(BUDGET_MAX);
    }

    /// Takes the price of one retry, if it is there.
    pub fn spend(&mut self) -> bool {
        let enough = self.tokens >= COST;
        if enough {
            self.tokens -= COST;
        }
        enough
    }
}

/// The recent 99th percentile of answer times, from which the hedge delay follows.
#[derive(Clone, Debug)]
pub struct RecentLatency {
    /// The newest [`SAMPLES_MAX`] answer times in microseconds; a ring.
    samples: Vec<u32>,
    /// Where the next sample goes.
    at: usize,
    /// Worked out every [`RECOMPUTE_EVERY`] samples.
    hedge: Duration,
}

/// Answer times that are remembered.
const SAMPLES_MAX: usize = 512;
/// How often the percentile is worked out again.
const RECOMPUTE_EVERY: usize = 64;
/// A hedge never waits less: below it, ordinary jitter of a busy machine would double the load.
pub const HEDGE_MIN: Duration = Duration::from_millis(30);
/// A hedge never waits more: a percentile drifts up with the sick node that the hedge is meant to avoid.
pub const HEDGE_MAX: Duration = Duration::from_millis(200);

impl Default for RecentLatency {
    fn default() -> RecentLatency {
        RecentLatency { samples: Vec::new(), at: 0, hedge: HEDGE_MIN }
    }
}

impl RecentLatency {
    /// An attempt was answered after this long.
    pub fn record(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(micros);
        } else {
            self.samples[self.at] = micros;
        }
        self.at = (self.at + 1) % SAMPLES_MAX;
        if self.at.is_multiple_of(RECOMPUTE_EVERY) {
            let mut sorted = self.samples.clone();
            sorted.sort_unstable();
            let p99 = Duration::from_micros(u64::from(sorted[sorted.len() * 99 / 100]));
            self.hedge = p99.clamp(HEDGE_MIN, HEDGE_MAX);
        }
    }

    /// How long to wait for a silent replica before the next one is asked as well.
    pub fn hedge_delay(&self) -> Duration {
        self.hedge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_requests_earn_one_retry() {
        let mut budget = RetryBudget::default();
        while budget.spend() {}
        let mut retries = 0;
        for _ in 0..100 {
            budget.earn();
            retries += u32::from(budget.spend());
        }
        assert_eq!(retries, 20);
    }

    #[test]
    fn a_saved_budget_is_bounded() {
        let mut budget = RetryBudget::default();
        (0..10_000).for_each(|_| budget.earn());
        let mut burst = 0;
        while budget.spend() {
            burst += 1;
        }
        assert_eq!(burst, 50);
    }

    #[test]
    fn the_hedge_follows_the_percentile_between_its_bounds() {
        let mut latency = RecentLatency::default();
        assert_eq!(latency.hedge_delay(), HEDGE_MIN);
        (0..SAMPLES_MAX).for_each(|_| latency.record(Duration::from_millis(1)));
        assert_eq!(latency.hedge_delay(), HEDGE_MIN, "fast answers do not make it nervous");
        (0..SAMPLES_MAX).for_each(|_| latency.record(Duration::from_millis(80)));
        assert_eq!(latency.hedge_delay(), Duration::from_millis(80));
        (0..SAMPLES_MAX).for_each(|_| latency.record(Duration::from_secs(3)));
        assert_eq!(latency.hedge_delay(), HEDGE_MAX, "a sick node does not make it patient");
    }
}
