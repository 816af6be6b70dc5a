//! What is left to do when the traffic has ended: a final read of every key, and the judgement of the whole history.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checker::{Limit, Options};
use client::gateway::GatewayClient;
use futures_util::StreamExt;
use history::History;
use wire::http::Level;

use crate::conduct::{Conduct, Place, Shown, conduct};
use crate::recorder::{Finding, Recorder};
use crate::verdict::Check;
use crate::workload::Ask;

/// What the final read of every key found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalRead {
    /// Keys read.
    pub keys: u64,
    /// Acknowledged writes that must have been there, and were not.
    pub lost: u64,
    /// Keys that could not be read: what they hold is not known.
    pub unread: Vec<String>,
}

/// Keys read at a time.
const CONCURRENCY: usize = 16;
/// How long one read may take; nobody waits for it, so it may take longer than the traffic's.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How often a key is asked for before it counts as unreadable.
const READS_MAX: u32 = 4;
/// Violations told as examples.
const EXAMPLES_MAX: usize = 8;

/// Reads every key that was ever written to, recorded like any other request.
pub async fn final_read(recorder: &Arc<Recorder>, client: &GatewayClient, shown: &dyn Shown) -> FinalRead {
    let keys = recorder.keys();
    let mut found = FinalRead { keys: keys.len() as u64, ..FinalRead::default() };
    let mut reads = futures_util::stream::iter(keys)
        .map(|key| async move {
            let lost = read_one(recorder, client, shown, &key).await;
            (key, lost)
        })
        .buffer_unordered(CONCURRENCY);
    while let Some((key, lost)) = reads.next().await {
        match lost {
            Some(lost) => found.lost += lost,
            None => found.unread.push(key),
        }
    }
    found.unread.sort();
    found
}

/// How many acknowledged writes are missing from the key; none if it could not be read.
async fn read_one(recorder: &Recorder, client: &GatewayClient, shown: &dyn Shown, key: &str) -> Option<u64> {
    let mut process = recorder.new_process();
    for _ in 0..READS_MAX {
        let (deadline, place) = (READ_DEADLINE, Place::STRICT);
        let what = Conduct { process, key, ask: &Ask::Read, body: None, fence: None, deadline, place };
        let done = conduct(recorder, client, shown, what).await;
        if let Finding::Held(held) = done.finding {
            return Some(recorder.lost(key, &held));
        }
        process = done.process;
    }
    None
}

/// Judges what a history has of one level, in a thread of its own, within `limit`.
pub async fn check(history: &History, level: Level, name: &str, limit: Duration) -> Check {
    let of_level = |operation: &&history::Operation| operation.level.as_deref() == Some(level.name());
    let operations: Vec<_> = history.operations.iter().filter(of_level).cloned().collect();
    let history = History { operations, faults: history.faults.clone(), events: history.events };
    let ops = history.operations.len() as u64;
    let judged = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let limit = Limit::time(limit, move || start.elapsed());
        checker::check_history(&history, &Options { level: judged_as(level), limit, ..Options::default() })
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
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn history(lines: &[&str]) -> History {
        let text = lines.join("\n");
        history::read(text.as_bytes()).expect("a history")
    }

    /// One operation of a process at a level, from its call to its answer.
    fn operation(process: u64, level: &str, f: &str, asked: &str, answered: &str) -> String {
        let line = |kind: &str, value: &str| {
            let told = format!(r#""type":"{kind}","value":{value},"level":"{level}""#);
            format!(r#"{{"process":{process},"f":"{f}","key":"k",{told}}}"#)
        };
        format!("{}\n{}", line("invoke", asked), line("ok", answered))
    }

    async fn judged(level: Level, lines: &[String]) -> Check {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        check(&history(&lines), level, "available keys", LIMIT).await
    }

    #[tokio::test]
    async fn a_session_that_misses_its_own_write_is_found_and_only_at_its_level() {
        let write = operation(1, "causal", "write", r#""a""#, r#""a""#);
        let sound = [write.clone(), operation(1, "causal", "read", "null", r#"["a"]"#)];
        let check = judged(Level::Causal, &sound).await;
        assert_eq!((check.decided, check.violations, check.ops), (true, 0, 2), "{check:?}");
        let forgetful = [write, operation(1, "causal", "read", "null", "[]")];
        let check = judged(Level::Causal, &forgetful).await;
        assert!(check.violations > 0, "{check:?}");
        assert_eq!(judged(Level::Strict, &forgetful).await.ops, 0, "of another level");
    }

    #[tokio::test]
    async fn replicas_that_do_not_agree_once_all_has_settled_are_found() {
        let settled = r#"{"process":"nemesis","type":"info","f":"settled","value":{}}"#.to_owned();
        let read = |process, shown| operation(process, "eventual", "read", "null", shown);
        let begin = [
            operation(1, "eventual", "write", r#""a""#, r#""a""#),
            operation(2, "eventual", "write", r#""b""#, r#""b""#),
            // Before everything has settled, replicas may differ.
            read(3, r#"["a"]"#),
            read(4, r#"["b"]"#),
            settled,
        ];
        let both = r#"["a","b"]"#;
        let check = judged(Level::Eventual, &[&begin[..], &[read(5, both), read(6, both)]].concat()).await;
        assert_eq!((check.decided, check.violations), (true, 0), "{check:?}");
        let apart = judged(Level::Eventual, &[&begin[..], &[read(5, both), read(6, r#"["b"]"#)]].concat()).await;
        assert!(apart.violations > 0, "{apart:?}");
        let unread = judged(Level::Eventual, &begin).await;
        assert!(!unread.decided, "no final read shows nothing: {unread:?}");
    }
}
