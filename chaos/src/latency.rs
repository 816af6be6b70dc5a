//! How long clients waited: in quiet times, and while a fault was in force.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::operation::Operation;

/// The latencies of one kind of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// The verdict's `latency_ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// Requests that no fault met.
    pub steady: Quantiles,
    /// Requests that were in flight while a fault was in force, from its injection until its victim was back.
    pub fault: Quantiles,
    /// The 99th percentile of the worst second over that of the median second: 1 is perfectly even.
    pub worst_tick_ratio: f64,
}

/// A second, in nanoseconds.
const TICK_NS: u64 = 1_000_000_000;
/// A tick with fewer requests says nothing about its 99th percentile.
const TICK_REQUESTS_MIN: u64 = 20;

/// The latencies of all answered requests; `faults` are spans of time in nanoseconds since the run began.
pub fn latencies(operations: &[Operation], faults: &[(u64, u64)]) -> Latencies {
    let (mut steady, mut fault, mut tick) = (histogram(), histogram(), histogram());
    let mut ticks: Vec<u64> = Vec::new();
    let mut tick_end = TICK_NS;
    // A call on a lock may wait for its turn: that is no latency of the fleet.
    for operation in operations.iter().filter(|operation| operation.kept() && !operation.kind.is_lock_call()) {
        let us = (operation.latency_ns() / 1_000).max(1);
        let met = faults.iter().any(|(from, to)| operation.overlaps(*from, *to));
        let of_its_time = if met { &mut fault } else { &mut steady };
        of_its_time.saturating_record(us);
        // Operations lie in the order of their ends, so the ticks follow each other.
        if operation.ended_ns >= tick_end {
            end_tick(&mut tick, &mut ticks);
            tick_end = (operation.ended_ns / TICK_NS + 1) * TICK_NS;
        }
        tick.saturating_record(us);
    }
    end_tick(&mut tick, &mut ticks);
    ticks.sort_unstable();
    let worst_tick_ratio = match (ticks.last(), ticks.get(ticks.len() / 2)) {
        (Some(worst), Some(median)) => *worst as f64 / (*median).max(1) as f64,
        _ => 0.0,
    };
    Latencies { steady: quantiles(&steady), fault: quantiles(&fault), worst_tick_ratio: rounded(worst_tick_ratio) }
}

/// The quantiles of latencies given in microseconds.
pub fn quantiles_of_us(latencies_us: &[u64]) -> Quantiles {
    let mut all = histogram();
    latencies_us.iter().for_each(|us| all.saturating_record((*us).max(1)));
    quantiles(&all)
}

fn end_tick(tick: &mut Histogram<u64>, ticks: &mut Vec<u64>) {
    if tick.len() >= TICK_REQUESTS_MIN {
        ticks.push(tick.value_at_quantile(0.99));
    }
    tick.reset();
}

fn quantiles(all: &Histogram<u64>) -> Quantiles {
    if all.is_empty() {
        return Quantiles::default();
    }
    let ms = |us: u64| rounded(us as f64 / 1_000.0);
    Quantiles { p50: ms(all.value_at_quantile(0.5)), p99: ms(all.value_at_quantile(0.99)), max: ms(all.max()) }
}

/// One microsecond to a minute, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("1 to 60,000,000 with 3 digits are valid bounds")
}

/// To three digits after the point, as it is shown.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{End, Kind};

    const MS: u64 = 1_000_000;

    fn read(ended_ms: u64, took_ms: u64) -> Operation {
        Operation {
            kind: Kind::Read,
            level: wire::http::Level::Strict,
            key: "k".to_owned(),
            invoked_ns: (ended_ms - took_ms) * MS,
            ended_ns: ended_ms * MS,
            end: End::Ok,
            late: false,
            code: None,
            status: Some(200),
            trace_id: String::new(),
            request_id: String::new(),
            receipt: None,
        }
    }

    #[test]
    fn quiet_and_faulty_times_are_kept_apart() {
        let mut operations: Vec<Operation> = (0..100).map(|at| read(1_000 + at * 30, 2)).collect();
        operations.push(read(6_000, 80));
        let latencies = latencies(&operations, &[(5_950 * MS, 6_100 * MS)]);
        assert_eq!(latencies.steady.max.round(), 2.0);
        assert_eq!((latencies.fault.p50.round(), latencies.fault.max.round()), (80.0, 80.0));
    }

    #[test]
    fn the_worst_second_is_held_against_the_median_one() {
        let even = (0..5_000).map(|at| read(1_000 + at, 2));
        let slow = (0..1_000).map(|at| read(6_000 + at, 20));
        let operations: Vec<Operation> = even.chain(slow).collect();
        let ratio = latencies(&operations, &[]).worst_tick_ratio;
        assert!((9.5..10.5).contains(&ratio), "{ratio}");
    }

    #[test]
    fn nothing_asked_is_no_figure() {
        assert_eq!(latencies(&[], &[]), Latencies::default());
    }
}
