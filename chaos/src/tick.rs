//! Clients in a read-increment-write loop: the measure of downtime, and a count of lost increments besides.
//!
//! Each has keys of its own, so a counter must read as exactly what its loop wrote last. It goes from key to key: a few
//! keys would lie on a few arcs only, and a key that is written many times a second carries the memory of all those
//! writes, which is a load that nobody asked for. They ask often enough that each
//! window has some six answers of each kind, and no more: loops that ask as fast as they are answered leave a machine
//! that runs fleet and verifier together no time for anything else. They ask in no trace and outside the history: their
//! record is the counter itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::gateway::{Action, Answer, Condition, GatewayClient, Reply, Request, Seen};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conduct::unsampled;
use crate::downtime::Downtime;
use crate::recorder::Recorder;
use crate::traffic::Pace;

/// How many loops run: so many that no window depends on two or three arcs.
pub const TICK_CLIENTS: usize = 6;
/// How often each of them reads and writes at most. They begin one after the other, so that no window depends on the
/// delay of a single moment.
const EVERY: Duration = Duration::from_millis(100);
/// Keys, or locks, of each loop.
const KEYS_EACH: usize = 64;
/// Complaints kept as examples; the rest is counted.
const WRONG_MAX: usize = 16;
/// After a request that failed at once, a loop waits this long: a fleet in trouble is not helped by a storm.
const FAILED_PAUSE: Duration = Duration::from_millis(5);
/// How long a loop on a lock waits between two rounds: some calls in each window of the downtime, and little load
/// beside that of the others.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// How long it holds the lock at most, if the call that gives it back is lost.
const LOCK_TTL_MS: u64 = 5_000;

/// What the loops have seen.
#[derive(Clone, Debug, Default)]
pub struct TickRecord {
    /// Strict reads that were answered in time.
    pub reads: Downtime,
    /// Strict conditional writes that were answered in time.
    pub writes: Downtime,
    /// Calls on a lock that were answered in time; none where no loop makes any.
    pub locks: Option<Downtime>,
    /// Requests that were surely not done, or answered too late.
    pub failed: u64,
    /// Writes with an unknown outcome.
    pub unknown: u64,
    /// Counters that did not read as they were written: the first few, as sentences.
    pub wrong: Vec<String>,
    /// All of them.
    pub wrong_total: u64,
    /// Acknowledged increments.
    pub acknowledged: u64,
}

/// The loops' shared record.
#[derive(Default)]
pub struct Ticks {
    inner: Mutex<TickRecord>,
}

impl Ticks {
    /// What was seen so far.
    pub fn record(&self) -> TickRecord {
        self.lock().clone()
    }

    /// The longest time without a success of either kind in [from, to], nanoseconds since the run began.
    pub fn downtime_ms(&self, from_ns: u64, to_ns: u64) -> u64 {
        let record = self.lock();
        let kinds = [&record.reads, &record.writes].into_iter().chain(&record.locks);
        kinds.map(|kind| kind.longest_ms(from_ns, to_ns)).max().unwrap_or(0)
    }

    fn complain(&self, what: String) {
        let mut record = self.lock();
        record.wrong_total += 1;
        if record.wrong.len() < WRONG_MAX {
            record.wrong.push(what);
        }
    }

    fn lock(&self) -> MutexGuard<'_, TickRecord> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the loops until `stop` becomes true; `locks` adds as many that take and give back a lock.
pub async fn run(
    ticks: Arc<Ticks>,
    recorder: Arc<Recorder>,
    client: GatewayClient,
    prefix: String,
    deadline: Duration,
    locks: bool,
    stop: watch::Receiver<bool>,
) {
    let mut loops = JoinSet::new();
    ticks.lock().locks = locks.then(Downtime::default);
    for number in (0..TICK_CLIENTS).filter(|_| locks) {
        let lock = LockTick {
            ticks: Arc::clone(&ticks),
            recorder: Arc::clone(&recorder),
            gateway: client.preferring(number),
            locks: own(&format!("{prefix}tick{number}")),
            deadline,
        };
        loops.spawn(lock.run(stop.clone()));
    }
    for number in 0..TICK_CLIENTS {
        let tick = Tick {
            ticks: Arc::clone(&ticks),
            recorder: Arc::clone(&recorder),
            gateway: client.preferring(number),
            counters: own(&format!("{prefix}tick{number}")),
            deadline,
            pace: Pace::after(EVERY * number as u32 / TICK_CLIENTS as u32, EVERY),
        };
        loops.spawn(tick.run(stop.clone()));
    }
    while loops.join_next().await.is_some() {}
}

/// A loop's keys, each with what is known of it; the one at the front is next.
pub(crate) fn own<T: Default>(prefix: &str) -> VecDeque<(String, T)> {
    (0..KEYS_EACH).map(|key| (format!("{prefix}-{key}"), T::default())).collect()
}

/// What a counter may read as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counter {
    /// The last value that was acknowledged, 0 before the first.
    acknowledged: u64,
    /// The value of a write with an unknown outcome: it may be read from now on, or appear later.
    unknown: Option<u64>,
}

struct Tick {
    ticks: Arc<Ticks>,
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    counters: VecDeque<(String, Counter)>,
    deadline: Duration,
    pace: Pace,
}

/// What the next fencing token of a lock with one owner may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tokens {
    greatest: u64,
    /// The grant of the greatest one is known to be over.
    over: bool,
}

/// Takes a lock that nobody else wants, and gives it back: how long calls on locks are not answered.
struct LockTick {
    ticks: Arc<Ticks>,
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    locks: VecDeque<(String, Tokens)>,
    deadline: Duration,
}

impl Tokens {
    /// Whether a grant may have `fence`. An owner that asks again for what it may still hold is told the same token.
    fn grants(&mut self, fence: u64) -> bool {
        let expected = fence > self.greatest || (fence == self.greatest && !self.over);
        *self = Tokens { greatest: fence.max(self.greatest), over: false };
        expected
    }
}

impl LockTick {
    async fn run(mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() && !self.recorder.is_full() {
            let Some((name, mut tokens)) = self.locks.pop_front() else { return };
            let pause = if self.take_and_give_back(&name, &mut tokens).await { LOCK_PAUSE } else { FAILED_PAUSE };
            self.locks.push_back((name, tokens));
            tokio::time::sleep(pause).await;
        }
    }

    async fn take_and_give_back(&self, name: &str, tokens: &mut Tokens) -> bool {
        let take = Action::Acquire { owner: name.to_owned(), ttl_ms: LOCK_TTL_MS, wait_ms: 0 };
        let Some(taken) = self.ask(take, name, None).await else { return false };
        let Some(grant) = taken.grant() else {
            self.ticks.complain(format!("{name} is held, and nobody else wants it"));
            return false;
        };
        let before = tokens.clone();
        if !tokens.grants(grant.fence) {
            self.ticks.complain(format!("{name} is granted under token {}, after {before:?}", grant.fence));
        }
        let released = self.ask(Action::Release, name, Some(grant.fence)).await.is_some();
        tokens.over = released;
        released
    }

    async fn ask(&self, action: Action, name: &str, fence: Option<u64>) -> Option<Answer> {
        let request = Request { fence, ..unsampled(action, name, Condition::Always, self.deadline) };
        let sent = Instant::now();
        let reply = self.gateway.send(&request).await;
        let late = sent.elapsed() > self.deadline;
        let mut record = self.ticks.lock();
        match reply {
            Reply::Ok(answer) => {
                self.recorder.heard();
                match &mut record.locks {
                    Some(locks) if !late => locks.success(self.recorder.now_ns()),
                    _ => record.failed += 1,
                }
                Some(answer)
            }
            Reply::Failed(_) => {
                record.failed += 1;
                None
            }
            Reply::Unknown(_) => {
                record.unknown += 1;
                None
            }
        }
    }
}

impl Counter {
    /// Whether a read may show `value`; if so, it is known from now on.
    fn reads(&mut self, value: u64) -> bool {
        let expected = value == self.acknowledged || self.unknown == Some(value);
        if self.unknown == Some(value) {
            self.unknown = None;
        }
        self.acknowledged = value;
        expected
    }
}

impl Tick {
    async fn run(mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() && !self.recorder.is_full() {
            self.pace.next().await;
            let Some((key, mut counter)) = self.counters.pop_front() else { return };
            let answered = self.increment(&key, &mut counter).await;
            self.counters.push_back((key, counter));
            if !answered {
                tokio::time::sleep(FAILED_PAUSE).await;
            }
        }
        // Each was read back when its turn came again; now the last increments are.
        for (key, mut counter) in std::mem::take(&mut self.counters) {
            self.read(&key, &mut counter).await;
        }
    }

    /// What the counter reads as, which is held against what it may read as. None when it was not answered.
    async fn read(&self, key: &str, counter: &mut Counter) -> Option<(u64, Answer)> {
        let read = self.ask(Action::Get, key, Condition::Always).await?;
        let value = match (&read.seen, std::str::from_utf8(&read.body).map(str::parse::<u64>)) {
            (Seen::Absent, _) => 0,
            (_, Ok(Ok(value))) => value,
            _ => u64::MAX,
        };
        let expected = counter.clone();
        if !counter.reads(value) {
            self.ticks.complain(format!("{key} reads {value}, after {expected:?}"));
        }
        Some((value, read))
    }

    /// One read and, on the condition that nothing changed, one write. False when either was not answered in time.
    async fn increment(&self, key: &str, counter: &mut Counter) -> bool {
        let Some((value, read)) = self.read(key, counter).await else { return false };
        let condition = match (read.seen, read.etag) {
            (Seen::Absent, _) => Condition::Absent,
            (_, Some(etag)) => Condition::Matches(etag),
            (_, None) => Condition::Exists,
        };
        let next = value.wrapping_add(1);
        let put = Action::Put { value: Bytes::from(next.to_string()), content_type: Some("text/plain".to_owned()) };
        // Until its end is known, the write counts as one that may act: also if this task is ended meanwhile.
        let before = counter.unknown.replace(next);
        let Some(written) = self.ask(put, key, condition).await else { return false };
        match written.seen {
            Seen::ConditionFailed => {
                // Only an earlier write of our own with an unknown outcome can have come between.
                if before.is_none() {
                    self.ticks.complain(format!("{key} was changed by nobody between a read and a write"));
                }
                counter.unknown = before;
            }
            _ => {
                *counter = Counter { acknowledged: next, unknown: None };
                self.ticks.lock().acknowledged += 1;
            }
        }
        true
    }

    async fn ask(&self, action: Action, key: &str, condition: Condition) -> Option<Answer> {
        let is_read = action == Action::Get;
        let request: Request = unsampled(action, key, condition, self.deadline);
        let sent = Instant::now();
        let reply = self.gateway.send(&request).await;
        let late = sent.elapsed() > self.deadline;
        let mut record = self.ticks.lock();
        match reply {
            Reply::Ok(answer) => {
                self.recorder.heard();
                // A late answer is an answer to the counter, but no sign that the kind was up.
                match (late, is_read) {
                    (true, _) => record.failed += 1,
                    (false, true) => record.reads.success(self.recorder.now_ns()),
                    (false, false) => record.writes.success(self.recorder.now_ns()),
                }
                Some(answer)
            }
            Reply::Failed(_) => {
                record.failed += 1;
                None
            }
            Reply::Unknown(_) => {
                debug_assert!(!is_read, "a read has no unknown outcome");
                record.unknown += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_reads_as_it_was_written() {
        let mut counter = Counter { acknowledged: 5, unknown: None };
        assert!(counter.reads(5));
        assert!(!counter.reads(4), "an acknowledged increment is gone");
    }

    #[test]
    fn tokens_of_one_owner_grow_and_stay_while_the_grant_may_last() {
        let mut tokens = Tokens::default();
        assert!(tokens.grants(7));
        assert!(tokens.grants(7), "the answer to the release was lost: it may still hold it");
        tokens.over = true;
        assert!(!tokens.clone().grants(7), "the grant was given back");
        assert!(!tokens.clone().grants(6));
        assert!(tokens.grants(8));
    }

    #[test]
    fn an_unknown_increment_may_be_there_or_not_and_is_then_settled() {
        let mut counter = Counter { acknowledged: 5, unknown: Some(6) };
        assert!(counter.reads(5));
        assert!(counter.reads(6), "it may appear later");
        assert!(!counter.reads(5), "but not go away again");
    }
}
