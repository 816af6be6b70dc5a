//! For how long nothing of a kind succeeded, in windows of 100 ms.
//!
//! Pure: successes and spans of time go in, a number comes out. A window counts as down when not one request of the
//! kind ended well in it, so a pause shorter than a window may not show, and one of two windows always does.

/// The width of a window.
pub const WINDOW_MS: u64 = 100;
const WINDOW_NS: u64 = WINDOW_MS * 1_000_000;

/// Successes of one kind of request, counted per window since the run began.
#[derive(Clone, Debug, Default)]
pub struct Downtime {
    successes: Vec<u32>,
}

/// A run of windows without a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When it began, in nanoseconds since the run began.
    pub from_ns: u64,
    /// How long it was.
    pub ms: u64,
}

/// Windows kept at most: a day. Later successes are counted in the last one.
const WINDOWS_MAX: usize = 24 * 3600 * 10;

impl Downtime {
    /// A request ended well at this time, in nanoseconds since the run began.
    pub fn success(&mut self, at_ns: u64) {
        let window = window_of(at_ns).min(WINDOWS_MAX - 1);
        if self.successes.len() <= window {
            self.successes.resize(window + 1, 0);
        }
        self.successes[window] = self.successes[window].saturating_add(1);
    }

    /// All successes.
    pub fn total(&self) -> u64 {
        self.successes.iter().map(|count| u64::from(*count)).sum()
    }

    /// The longest run of windows without a success among those that lie in [from, to], in milliseconds. The windows at
    /// the two ends count only if they lie in it wholly.
    pub fn longest_ms(&self, from_ns: u64, to_ns: u64) -> u64 {
        self.gaps(from_ns, to_ns).into_iter().map(|gap| gap.ms).max().unwrap_or(0)
    }

    /// All runs of windows without a success among those that lie wholly in [from, to].
    pub fn gaps(&self, from_ns: u64, to_ns: u64) -> Vec<Gap> {
        let first = window_of(from_ns.saturating_add(WINDOW_NS - 1));
        let mut gaps: Vec<Gap> = Vec::new();
        let mut before = None;
        for window in first..window_of(to_ns) {
            if self.successes.get(window).is_some_and(|count| *count > 0) {
                continue;
            }
            match gaps.last_mut() {
                Some(gap) if before == Some(window - 1) => gap.ms += WINDOW_MS,
                _ => gaps.push(Gap { from_ns: window as u64 * WINDOW_NS, ms: WINDOW_MS }),
            }
            before = Some(window);
        }
        gaps
    }

    /// All such runs between the first success and the last.
    pub fn gaps_inside(&self) -> Vec<Gap> {
        let (first_ns, end_ns) = self.between();
        self.gaps(first_ns, end_ns)
    }

    /// From the first success on, up to the last.
    fn between(&self) -> (u64, u64) {
        let first = self.successes.iter().position(|count| *count > 0).unwrap_or(0);
        (first as u64 * WINDOW_NS, self.successes.len() as u64 * WINDOW_NS)
    }

    /// The longest run of windows without a success between the first success and the last that no span touches, in
    /// milliseconds: what the machine does to the requests when no fault does.
    pub fn longest_outside_ms(&self, spans: &[(u64, u64)]) -> u64 {
        let (mut free_from, end_ns) = self.between();
        let mut spans = spans.to_vec();
        spans.sort_unstable();
        let mut longest = 0;
        for (from, to) in spans.into_iter().chain([(end_ns, end_ns)]) {
            longest = longest.max(self.longest_ms(free_from, from.min(end_ns)));
            free_from = free_from.max(to);
        }
        longest
    }
}

fn window_of(at_ns: u64) -> usize {
    usize::try_from(at_ns / WINDOW_NS).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn successes(at_ms: impl IntoIterator<Item = u64>) -> Downtime {
        let mut downtime = Downtime::default();
        at_ms.into_iter().for_each(|at| downtime.success(at * MS));
        downtime
    }

    #[test]
    fn a_success_in_every_window_is_no_downtime() {
        assert_eq!(successes((0..100).map(|at| at * 100 + 50)).longest_ms(0, 10_000 * MS), 0);
    }

    #[test]
    fn the_longest_quiet_run_counts_and_only_inside_the_span() {
        let downtime = successes((0..50).map(|at| at * 100).filter(|at| !(1_000..1_500).contains(at) && *at != 3_000));
        assert_eq!(downtime.longest_ms(0, 5_000 * MS), 500);
        assert_eq!(downtime.longest_ms(2_000 * MS, 5_000 * MS), 100);
        assert_eq!(downtime.longest_ms(1_250 * MS, 1_500 * MS), 200, "the half window at the start does not count");
        assert_eq!(downtime.longest_ms(2_000 * MS, 2_900 * MS), 0);
        let gaps = [(1_000, 500), (3_000, 100)].map(|(from, ms)| Gap { from_ns: from * MS, ms });
        assert_eq!(downtime.gaps(0, 5_000 * MS), gaps);
        assert_eq!(downtime.gaps_inside(), gaps);
        assert_eq!(Downtime::default().gaps_inside(), []);
    }

    #[test]
    fn outside_the_spans_is_what_no_span_touches() {
        let quiet = [0..700, 1_000..1_200, 3_000..3_500, 4_900..5_000];
        let downtime = successes((0..50).map(|at| at * 100).filter(|at| !quiet.iter().any(|run| run.contains(at))));
        let outside = |spans: &[(u64, u64)]| {
            let spans: Vec<_> = spans.iter().map(|(from, to)| (from * MS, to * MS)).collect();
            downtime.longest_outside_ms(&spans)
        };
        assert_eq!(outside(&[]), 500, "before the first success and after the last nothing was asked");
        assert_eq!(outside(&[(2_900, 3_600)]), 200);
        assert_eq!(outside(&[(2_900, 3_600), (900, 1_100)]), 100, "in any order, and in part");
        assert_eq!(outside(&[(900, 4_000), (1_000, 1_100), (4_500, 9_000)]), 0);
        assert_eq!(outside(&[(0, 5_000)]), 0);
        assert_eq!(Downtime::default().longest_outside_ms(&[]), 0);
    }

    #[test]
    fn nothing_at_all_is_downtime_throughout() {
        assert_eq!(Downtime::default().longest_ms(0, 2_000 * MS), 2_000);
    }

    #[test]
    fn a_second_without_answers_shows_whatever_its_phase() {
        for phase in 0..100 {
            let downtime = successes((0..5_000).filter(|at| !(1_000 + phase..2_000 + phase).contains(at)));
            assert!(downtime.longest_ms(0, 5_000 * MS) >= 900, "phase {phase}");
        }
    }
}
