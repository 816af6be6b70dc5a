//! What is left to do when the traffic has ended: a final read of every key, the judgement of the whole history, and
//! the count of what is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checker::{Limit, LostKey, Options};
use client::gateway::GatewayClient;
use futures_util::StreamExt;
use history::History;
use wire::http::Level;

use crate::conduct::{Conduct, Place, Shown, conduct};
use crate::history_file::Values;
use crate::recorder::{Finding, Recorder};
use crate::verdict::{Acked, Check};
use crate::workload::Ask;

/// What the final read of every ordered key found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalRead {
    /// Keys read.
    pub keys: u64,
    /// Acknowledged writes that must have been there, and were not, by the level of their traffic; and the first few
    /// keys that lack some, as sentences.
    pub lost: BTreeMap<Level, (u64, Vec<String>)>,
    /// Keys that could not be read: what they hold is not known.
    pub unread: Vec<String>,
}

/// A part of the histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of values of which kind.
    pub values: Values,
    /// What was asked at this level alone; none for all levels.
    pub level: Option<Level>,
}

/// What is judged of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The name of the check.
    pub name: &'static str,
    /// The part.
    pub part: Part,
    /// The level that it is held against.
    pub level: Level,
}

/// All that is judged, if it was asked for. Of sets and counters what was asked at level causal is held to that, and
/// all of them have to be complete in the end.
pub const JUDGED: [Judged; 8] = [
    registers("registers", Level::Strict),
    registers("sequential keys", Level::Sequential),
    registers("causal keys", Level::Causal),
    registers("eventual keys", Level::Eventual),
    merged("causal sets", Values::Sets, Some(Level::Causal)),
    merged("sets", Values::Sets, None),
    merged("causal counters", Values::Counters, Some(Level::Causal)),
    merged("counters", Values::Counters, None),
];

/// Whose lost updates the checker counts, and what they are called; those of ordered keys are counted by the final
/// read.
pub const COUNTED: [(&str, Part); 4] = [
    ("causal", Part { values: Values::Registers, level: Some(Level::Causal) }),
    ("eventual", Part { values: Values::Registers, level: Some(Level::Eventual) }),
    ("sets", Part { values: Values::Sets, level: None }),
    ("counters", Part { values: Values::Counters, level: None }),
];

const fn registers(name: &'static str, level: Level) -> Judged {
    Judged { name, part: Part { values: Values::Registers, level: Some(level) }, level }
}

const fn merged(name: &'static str, values: Values, level: Option<Level>) -> Judged {
    let judged = match level {
        Some(level) => level,
        None => Level::Eventual,
    };
    Judged { name, part: Part { values, level }, level: judged }
}

/// Keys read at a time.
const CONCURRENCY: usize = 16;
/// How long one read may take; nobody waits for it, so it may take longer than the traffic's.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How often a key is asked for before it counts as unreadable.
const READS_MAX: u32 = 4;
/// Violations told as examples.
const EXAMPLES_MAX: usize = 8;
/// Lost writes whose traces are named with their key.
const TRACES_NAMED_MAX: usize = 3;

/// Reads every ordered key that was ever written to, recorded like any other request. Each is asked for at level
/// strict, whatever its traffic asked for: only such a read may miss nothing.
pub async fn final_read(recorder: &Arc<Recorder>, client: &GatewayClient, shown: &dyn Shown) -> FinalRead {
    let keys = recorder.keys();
    let mut found = FinalRead { keys: keys.len() as u64, ..FinalRead::default() };
    let mut reads = futures_util::stream::iter(keys)
        .map(|(key, level)| async move {
            let lost = read_one(recorder, client, shown, (&key, level)).await;
            (key, level, lost)
        })
        .buffer_unordered(CONCURRENCY);
    while let Some((key, level, lost)) = reads.next().await {
        match lost {
            Some((0, _)) => {}
            Some((lost, sentence)) => {
                let of_level = found.lost.entry(level).or_default();
                of_level.0 += lost;
                if of_level.1.len() < EXAMPLES_MAX {
                    of_level.1.push(sentence);
                }
            }
            None => found.unread.push(key),
        }
    }
    found.unread.sort();
    found
}

/// How many acknowledged writes are missing from the key, in numbers and in words; none if it could not be read.
async fn read_one(
    recorder: &Recorder,
    client: &GatewayClient,
    shown: &dyn Shown,
    (key, level): (&str, Level),
) -> Option<(u64, String)> {
    let mut process = recorder.new_process();
    for _ in 0..READS_MAX {
        let (deadline, place) = (READ_DEADLINE, Place { level, ..Place::STRICT });
        let what = Conduct { process, key, ask: &Ask::Read, body: None, fence: None, deadline, place };
        let done = conduct(recorder, client, shown, what).await;
        if let Finding::Held(held) = done.finding {
            let (lost, shown) = (recorder.lost(key, &held), held.as_deref().unwrap_or("nothing"));
            return Some((lost, format!("key {key} reads {shown} and lacks {lost} (trace {})", done.trace_id)));
        }
        process = done.process;
    }
    None
}

impl Part {
    /// It alone, with all faults.
    fn of(self, histories: &BTreeMap<Values, History>) -> History {
        let Some(history) = histories.get(&self.values) else { return History::default() };
        let belongs = |operation: &&history::Operation| {
            self.level.is_none_or(|level| operation.level.as_deref() == Some(level.name()))
        };
        let operations: Vec<_> = history.operations.iter().filter(belongs).cloned().collect();
        History { operations, faults: history.faults.clone(), events: history.events }
    }
}

/// Counts the acknowledged updates of a part, and those that are lost in what was read after everything had settled.
///
/// # Errors
/// The history cannot be judged; the sentence says why.
pub async fn acknowledged(histories: &BTreeMap<Values, History>, part: Part) -> Result<Acked, String> {
    let (history, model) = (part.of(histories), part.values.model());
    let found = tokio::task::spawn_blocking(move || checker::lost_once_settled(&history, model))
        .await
        .map_err(|error| format!("the count of lost updates did not come to an end: {error}"))?
        .map_err(|error| stdx::error_chain(&error))?;
    Ok(Acked {
        total: found.acknowledged,
        lost: found.lost.iter().map(|key| key.at_least).sum(),
        examples: found.lost.iter().take(EXAMPLES_MAX).map(sentence).collect(),
    })
}

fn sentence(lost: &LostKey) -> String {
    let LostKey { key, found, trace_id, at_least, suspects } = lost;
    let traces = suspects.iter().filter_map(|suspect| suspect.trace_id.as_deref());
    let traces: Vec<&str> = traces.take(TRACES_NAMED_MAX).collect();
    match traces.as_slice() {
        // Any of the additions may be the missing one.
        [] => {
            let read = trace_id.as_deref().unwrap_or("not known");
            format!("key {key} reads {found} and lacks {at_least} at least (trace {read})")
        }
        traces => format!("key {key} lacks {at_least} (traces {})", traces.join(", ")),
    }
}

/// Judges a part of the histories, in a thread of its own, within `limit`.
pub async fn check(histories: &BTreeMap<Values, History>, judged: Judged, limit: Duration) -> Check {
    let Judged { name, part, level } = judged;
    let history = part.of(histories);
    let (ops, model) = (history.operations.len() as u64, part.values.model());
    let judged = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let limit = Limit::time(limit, move || start.elapsed());
        checker::check_history(&history, &Options { model, level: judged_as(level), limit, ..Options::default() })
    })
    .await;
    let base = Check { name: name.to_owned(), level: level.name().to_owned(), ops, ..Check::default() };
    match judged {
        Ok(Ok(report)) => {
            let examples = report.violations.iter().take(EXAMPLES_MAX).map(|violation| {
                let traces = violation.trace_ids.join(", ");
                format!("{} (traces {traces})", violation.sentence)
            });
            Check {
                decided: report.undecided.is_empty() && report.decided == report.keys,
                violations: report.violations.len() as u64,
                examples: examples.collect(),
                ..base
            }
        }
        Ok(Err(error)) => Check { examples: vec![stdx::error_chain(&error)], ..base },
        Err(error) => Check { examples: vec![format!("the check did not come to an end: {error}")], ..base },
    }
}

/// The checker's word for a level.
pub(crate) fn judged_as(level: Level) -> checker::Level {
    match level {
        Level::Strict => checker::Level::Strict,
        Level::Sequential => checker::Level::Sequential,
        Level::Causal => checker::Level::Causal,
        Level::Eventual => checker::Level::Eventual,
    }
}

#[cfg(test)]
#[path = "verifier_test.rs"]
mod tests;
