use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stdx::Instant;

/// The machine's clocks, in the cores' words. Copies share one origin, so their instants compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin is now; a process makes one, at its start.
    pub fn start() -> Clock {
        Clock { origin: std::time::Instant::now() }
    }

    /// Monotonic time since the origin. Stands still while the machine sleeps, on Linux.
    pub fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// How long from now until `instant`; zero when it has passed.
    pub fn until(&self, instant: Instant) -> Duration {
        instant.since(self.now())
    }

    /// A core's instant as tokio's, for its timers.
    pub fn to_tokio(&self, instant: Instant) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.until(instant)
    }

    /// The wall clock, milliseconds of the Unix epoch; 0 for a clock set before it. Orders nothing.
    pub fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_go_forward_and_convert() {
        let clock = Clock::start();
        let first = clock.now();
        let later = first + Duration::from_secs(60);
        assert!(clock.now() >= first);
        assert!(clock.until(later) > Duration::from_secs(50));
        assert_eq!(clock.until(Instant::ZERO), Duration::ZERO, "what has passed is not waited for");
        assert!(clock.wall_ms() > 1_600_000_000_000, "the wall clock counts milliseconds");
    }
}
