use std::time::Duration;

/// Growing, jittered pauses between attempts: full jitter, so that a fleet does not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses of up to `first`, then up to twice as long each time, never over `most`.
    pub(crate) fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, next: first }
    }

    /// An attempt went well: the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to pause now: between half of the step and all of it.
    pub(crate) fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (self.next * 2).min(self.most);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again() {
        let most = Duration::from_millis(400);
        let mut backoff = Backoff::new(Duration::from_millis(100), most);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            last = backoff.pause();
            assert!(last <= most);
        }
        assert!(last >= most / 2, "after many failures the pause is near its bound, not {last:?}");
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}
