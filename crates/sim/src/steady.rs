//! A fleet without faults under an even load: how fast the simulator is, and what an operation costs.

use std::time::Duration;

use crate::{Counts, Only, Steady, Violation, run_steady};

/// The replicas of a key.
const REPLICAS: f64 = 3.0;
/// Operations after which all that comes once is over, and those that are counted.
const COUNTED: u32 = 5_000;
/// Operations a second where costs are counted: so many that what a fleet does by itself is nothing beside them.
const COUNTED_PER_SECOND: u32 = 500;
/// The keys of the counted operations: few, so that each has been written before.
const COUNTED_KEYS: usize = 20;

/// A load that was simulated; how long that took is for the caller to say.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// The load.
    pub steady: Steady,
    /// Virtual time that passed, in seconds.
    pub simulated_s: f64,
    /// What happened.
    pub counts: Counts,
}

/// Simulates five nodes under `per_second` operations of all kinds on 500 keys, for so long, in one thread.
///
/// # Errors
/// What was broken.
pub fn speed(per_second: u32, length: Duration) -> Result<Speed, Violation> {
    let steady = Steady { per_second, length, keys: 500, only: None };
    let counts = run_steady(1, steady)?;
    Ok(Speed { steady, simulated_s: counts.simulated_ms as f64 / 1_000.0, counts })
}

/// What one operation costs in a fleet that has found its way.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Which one.
    pub operation: Only,
    /// Messages between replicas.
    pub messages: f64,
    /// The same in round trips: a question to each of the other replicas, and its answer.
    pub round_trips: f64,
    /// Syncs by each replica of the key.
    pub syncs: f64,
}

/// Counts what each kind of operation costs: what a run does more that has twice as many of them.
///
/// # Errors
/// What was broken.
pub fn costs() -> Result<Vec<Cost>, Violation> {
    [Only::Writes, Only::SessionWrites, Only::StrictReads, Only::SequentialReads].into_iter().map(cost).collect()
}

fn cost(operation: Only) -> Result<Cost, Violation> {
    let run = |operations: u32| {
        let length = Duration::from_secs(1) * operations / COUNTED_PER_SECOND;
        let only = Some(operation);
        run_steady(1, Steady { per_second: COUNTED_PER_SECOND, length, keys: COUNTED_KEYS, only })
    };
    let (once, twice) = (run(COUNTED)?, run(2 * COUNTED)?);
    let each = |count: fn(&Counts) -> u64| count(&twice).saturating_sub(count(&once)) as f64 / f64::from(COUNTED);
    let messages = each(|counts| counts.messages);
    let syncs = each(|counts| counts.syncs) / REPLICAS;
    Ok(Cost { operation, messages, round_trips: messages / (2.0 * (REPLICAS - 1.0)), syncs })
}

impl Only {
    /// Its name in reports: the operation and its level.
    pub fn name(self) -> &'static str {
        match self {
            Only::Writes => "strict write",
            Only::SessionWrites => "strict write in a session",
            Only::StrictReads => "strict read",
            Only::SequentialReads => "sequential read",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_costs_what_its_level_promises() {
        let costs = costs().expect("nothing is broken");
        let of = |operation| costs.iter().find(|cost| cost.operation == operation).expect("all are counted");
        let write = of(Only::Writes);
        assert!(write.round_trips <= 1.01 && write.round_trips > 0.9, "{write:?}");
        // A sync may serve several writes, never the other way round.
        assert!(write.syncs <= 1.01 && write.syncs > 0.5, "{write:?}");
        // A ballot that was promised before the session saw something newer serves all the same.
        let session = of(Only::SessionWrites);
        assert!(session.round_trips <= 1.01 && session.round_trips > 0.9, "{session:?}");
        assert!(session.syncs <= 1.01 && session.syncs > 0.5, "{session:?}");
        let strict = of(Only::StrictReads);
        assert!(strict.round_trips <= 1.01 && strict.syncs < 0.01, "{strict:?}");
        let sequential = of(Only::SequentialReads);
        assert!(sequential.round_trips < 0.01 && sequential.syncs < 0.01, "{sequential:?}");
    }

    #[test]
    fn a_steady_load_is_as_long_and_as_dense_as_asked() {
        let length = Duration::from_secs(20);
        let counts = speed(50, length).expect("nothing is broken").counts;
        assert_eq!(counts.answered, 1_000);
        assert!((15_000..30_000).contains(&counts.simulated_ms), "{counts:?}");
        assert_eq!((counts.unknown, counts.faults), (0, 0));
    }
}
