//! What a node's clocks show, which is not the time.
//!
//! Nodes have two. A *monotonic* one runs too fast or too slowly, each at its own rate, and began somewhere else: cores
//! take it for timers and deadlines, and nothing may rest on it but when something is asked or given up. A *wall* clock
//! is off, and jumps: it ages memories of requests, ends values and leases. How far wall clocks may be apart is part of
//! what is promised (docs/consistency.md), so they keep to that bound here.

use std::time::Duration;

use stdx::{Instant, Prng};

/// A rate that is right, in parts per million.
const RATE_RIGHT: u64 = 1_000_000;
/// What a clock showed when the run began, in seconds at most.
const ORIGIN_MAX_S: u64 = 1_000;

/// A node's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When its rate changed last, and what it showed then.
    anchor: Instant,
    shown: Instant,
    /// How fast it runs, in parts per million of time.
    rate: u64,
    /// By how much its wall clock is ahead, in milliseconds.
    pub ahead_ms: i64,
}

impl Clock {
    /// One that shows the time.
    pub const RIGHT: Clock = Clock { anchor: Instant::ZERO, shown: Instant::ZERO, rate: RATE_RIGHT, ahead_ms: 0 };

    /// A clock of a run that is so wrong about time.
    pub fn draw(timing: Timing, prng: &mut Prng) -> Clock {
        if timing.drift_ppm == 0 {
            return Clock::RIGHT;
        }
        let shown = Instant::from_millis(prng.below(ORIGIN_MAX_S * 1_000));
        let rate = RATE_RIGHT - timing.drift_ppm + prng.below(2 * timing.drift_ppm + 1);
        Clock { shown, rate, ..Clock::RIGHT }
    }

    /// The same with a wall clock that is so much ahead, in milliseconds.
    pub fn ahead_by(self, ahead_ms: i64) -> Clock {
        Clock { ahead_ms, ..self }
    }

    /// What its monotonic clock shows.
    pub fn now(&self, time: Instant) -> Instant {
        self.shown + scaled(time.since(self.anchor), self.rate, RATE_RIGHT, 0)
    }

    /// The first moment at which its monotonic clock shows `due`.
    pub fn when(&self, due: Instant) -> Instant {
        self.anchor + scaled(due.since(self.shown), RATE_RIGHT, self.rate, self.rate - 1)
    }

    /// What its wall clock shows when the right one shows `wall_ms`.
    pub fn wall_ms(&self, wall_ms: u64) -> u64 {
        wall_ms.saturating_add_signed(self.ahead_ms)
    }

    /// From now on it runs as fast as time.
    pub fn run_right(&mut self, time: Instant) {
        *self = Clock { anchor: time, shown: self.now(time), rate: RATE_RIGHT, ..*self };
    }
}

/// By how much a clock is ahead, or behind: at most `max` either way, in milliseconds.
pub(crate) fn either_way_ms(max: Duration, prng: &mut Prng) -> i64 {
    let max = max.as_millis() as u64;
    prng.below(2 * max + 1) as i64 - max as i64
}

/// `length · times / by`, rounded down once `extra` is added.
fn scaled(length: Duration, times: u64, by: u64, extra: u64) -> Duration {
    let nanos = (length.as_nanos() * u128::from(times) + u128::from(extra)) / u128::from(by);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How wrong a run's clocks are, and how uneven its disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// By how much a monotonic clock runs too fast or too slowly at most, in parts per million.
    pub drift_ppm: u64,
    /// The mean time between jumps of some node's wall clock; none for never.
    pub jump_every: Option<Duration>,
    /// One node's disk, and how many times as long its syncs take; none where all are alike.
    pub slow_disk: Option<(usize, u32)>,
}

/// Tells which seeds have a timing of their own from which have none. Any number would do; with this one, the seeds
/// that once found something go on without, as the schedules that they were.
const TIMING_SALT: u64 = 152_451_576 << 20;

impl Timing {
    /// The timing of a seed: half of all have clocks that are right and disks that are alike.
    pub fn of(seed: u64, nodes: usize) -> Timing {
        let mut prng = Prng::from_seed(seed ^ TIMING_SALT);
        if prng.one_in(2) {
            return Timing::default();
        }
        // Of those with drift, a third is off by more than any clock should be.
        let drift_max = if prng.one_in(3) { 500_000 } else { 50_000 };
        let drift = 1 + prng.below(drift_max);
        let jump_every = Duration::from_millis(50 + prng.below(1_000));
        let slow_disk = (prng.index(nodes), 10 + prng.below(91) as u32);
        let [drifts, jumps, slow] = [prng.one_in(2), prng.one_in(2), prng.one_in(3)];
        Timing {
            drift_ppm: if drifts { drift } else { 0 },
            jump_every: jumps.then_some(jump_every),
            slow_disk: slow.then_some(slow_disk),
        }
    }

    /// After how long some wall clock is set anew; none where none ever is.
    pub(crate) fn jump_after(&self, prng: &mut Prng) -> Option<Duration> {
        self.jump_every.map(|mean| mean.mul_f64(0.2 + 1.6 * prng.unit()))
    }

    /// How long a node's next sync takes: at most about `max` where its disk is like the others.
    pub(crate) fn sync_length(&self, node: usize, max: Duration, prng: &mut Prng) -> Duration {
        let length = Duration::from_nanos(50_000 + prng.below(max.as_nanos() as u64));
        match self.slow_disk {
            Some((slow, times)) if slow == node => length * times,
            _ => length,
        }
    }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Timing { drift_ppm, jump_every, slow_disk } = self;
        write!(f, "drift up to {drift_ppm} ppm, jumps {jump_every:?}, slow disk {slow_disk:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_when_its_clock_says_so_and_not_before() {
        let mut prng = Prng::from_seed(1);
        for _ in 0..1_000 {
            let timing = Timing { drift_ppm: 500_000, ..Timing::default() };
            let mut clock = Clock::draw(timing, &mut prng);
            let time = Instant::from_nanos(prng.below(1 << 40));
            if prng.one_in(2) {
                clock.run_right(time);
            }
            let due = clock.now(time) + Duration::from_nanos(1 + prng.below(1 << 36));
            let when = clock.when(due);
            assert!(when > time && clock.now(when) >= due, "{clock:?}");
            let before = Instant::from_nanos(when.as_nanos() - 1);
            assert!(clock.now(before) < due, "{clock:?}");
        }
    }

    #[test]
    fn a_clock_that_is_right_shows_the_time_and_one_that_was_not_goes_on_from_where_it_was() {
        let time = Instant::from_millis(1_234);
        assert_eq!((Clock::RIGHT.now(time), Clock::RIGHT.when(time)), (time, time));
        let mut clock = Clock { rate: 2 * RATE_RIGHT, ..Clock::RIGHT };
        assert_eq!(clock.now(time), Instant::from_millis(2_468));
        clock.run_right(time);
        assert_eq!(clock.now(time + Duration::from_millis(10)), Instant::from_millis(2_478));
    }
}
