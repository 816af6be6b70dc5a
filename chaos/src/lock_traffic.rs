//! Clients that contend for locks, write under them with their fencing tokens, and now and then sleep through a lease.
//!
//! A client takes a lock, writes the record that it guards (each write carries the token, `If-Fence`), renews, and
//! gives the lock back - or, as real ones do, forgets to, or sleeps until its lease is over and then tries one more
//! write. What must hold of the answers is for the checker to say (model `lock`); the writes also stand in the
//! ordinary history, where one that was fenced off counts as not done.

use std::sync::Arc;
use std::time::Duration;

use client::gateway::{Action, Failure, GatewayClient, Reply, Request, Seen};
use history::Value;
use stdx::Prng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use wire::http::Level;

use crate::conduct::{Conduct, Place, Plain, begin_span, conduct, end_span};
use crate::lock_history::{LockBook, LockFinding, LockQuestion, grant_value};
use crate::operation::{End, Kind, Operation};
use crate::recorder::{Finding, Recorder};
use crate::run::join;
use crate::traffic::TrafficConfig;
use crate::workload::Ask;

/// What a holder does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderStep {
    /// Writes the record that the lock guards.
    Write,
    /// Reads it.
    Read,
    /// Renews its lease.
    Renew,
    /// Does nothing until its lease is surely over.
    Oversleep,
    /// Gives the lock back.
    Release,
}

/// Sets of locks: one is in use while the history of the other is judged.
const SETS: u64 = 2;
/// Locks of a set.
const LOCKS: usize = 2;
/// How long a set is in use: several leases, so that what was granted at its end is over at its next turn.
const GENERATION: Duration = Duration::from_secs(8);
/// How long a lock is held without being renewed.
const TTL_MS: u64 = 1_000;
/// What a client takes off its lease: leases run by the clock of whichever replica coordinates, in whole milliseconds,
/// and clocks differ. Nobody may rely on a lease to its last moment.
const CLOCK_MARGIN_MS: u64 = 200;
/// How long who waits for a lock stands in its queue.
const WAIT_MS: u64 = 300;
/// Between two calls of a client.
const PAUSE: Duration = Duration::from_millis(40);

/// Runs the clients until `stop` becomes true, and judges what they were told; `limit` is each judgement's time.
pub async fn run(
    book: Arc<LockBook>,
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    config: TrafficConfig,
    mut prng: Prng,
    limit: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut before: Option<JoinHandle<()>> = None;
    for generation in 0.. {
        let (end, ended) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..config.lock_clients {
            let client = LockClient {
                book: Arc::clone(&book),
                recorder: Arc::clone(&recorder),
                gateway: gateway.preferring(number),
                config: config.clone(),
                generation,
                name: format!("{}c{number}-g{generation}", config.prefix),
                process: recorder.new_process(),
                writer: recorder.new_process(),
                prng: prng.fork(),
                counter: 0,
            };
            clients.spawn(client.run(ended.clone()));
        }
        let book = Arc::clone(&book);
        let generation_ends = tokio::spawn(async move {
            while clients.join_next().await.is_some() {}
            book.judge(generation, limit).await;
        });
        let stopped = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => true,
            () = tokio::time::sleep(GENERATION) => false,
        };
        let _ = end.send(true);
        // The next generation uses the locks of the one before this.
        if let Some(before) = before.replace(generation_ends) {
            join(before).await;
        }
        if stopped {
            break;
        }
    }
    if let Some(last) = before {
        join(last).await;
    }
}

/// The records that locks guard, of all sets.
pub fn guarded_records(prefix: &str) -> impl Iterator<Item = String> + '_ {
    (0..SETS as usize * LOCKS).map(move |at| guarded_record(prefix, at))
}

fn guarded_record(prefix: &str, at: usize) -> String {
    format!("{prefix}guarded{at}")
}

/// What the holder of a lock does with it.
pub fn plan(prng: &mut Prng) -> Vec<HolderStep> {
    let mut steps = Vec::new();
    for _ in 0..=prng.below(3) {
        steps.push(HolderStep::Write);
        match prng.below(4) {
            0 => steps.push(HolderStep::Renew),
            1 => steps.push(HolderStep::Read),
            _ => {}
        }
    }
    match prng.below(12) {
        0 => steps.extend([HolderStep::Oversleep, HolderStep::Write, HolderStep::Renew, HolderStep::Release]),
        1 => {}
        _ => steps.push(HolderStep::Release),
    }
    steps
}

struct LockClient {
    book: Arc<LockBook>,
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    config: TrafficConfig,
    generation: u64,
    name: String,
    /// Its number in the history of locks.
    process: u64,
    /// Its number in the history of records.
    writer: u64,
    prng: Prng,
    counter: u64,
}

/// A lock that is held, and under which token.
struct Holding {
    lock: String,
    record: String,
    fence: u64,
}

impl LockClient {
    async fn run(mut self, end: watch::Receiver<bool>) {
        while !*end.borrow() && !self.recorder.is_full() {
            let set = usize::try_from(self.generation % SETS).unwrap_or(0);
            let at = set * LOCKS + self.prng.index(LOCKS);
            let prefix = &self.config.prefix;
            let (lock, record) = (format!("{prefix}lock{at}"), guarded_record(prefix, at));
            if let Some(fence) = self.acquire(&lock).await {
                self.hold(Holding { lock, record, fence }, end.clone()).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn acquire(&mut self, lock: &str) -> Option<u64> {
        self.counter += 1;
        // Another owner each time: one that asks again would be granted what it may still hold.
        let owner = format!("{}-{}", self.name, self.counter);
        let wait_ms = if self.prng.below(4) == 0 { WAIT_MS } else { 0 };
        let action = Action::Acquire { owner, ttl_ms: TTL_MS, wait_ms };
        match self.call(Kind::Acquire, lock, action, None, Value::Null).await {
            LockFinding::Granted(fence, _) => Some(fence),
            _ => None,
        }
    }

    async fn hold(&mut self, held: Holding, mut end: watch::Receiver<bool>) {
        for step in plan(&mut self.prng) {
            tokio::time::sleep(PAUSE).await;
            match step {
                HolderStep::Write => self.write(&held).await,
                HolderStep::Read => {
                    let (key, deadline) = (held.record.as_str(), self.config.deadline);
                    let (process, place) = (self.writer, Place::STRICT);
                    let what = Conduct { process, key, ask: &Ask::Read, body: None, fence: None, deadline, place };
                    self.writer = conduct(&self.recorder, &self.gateway, &Plain, what).await.process;
                }
                HolderStep::Renew => {
                    let (action, input) =
                        (Action::Renew { ttl_ms: TTL_MS }, grant_value(held.fence, Some(RELIED_ON_MS)));
                    self.call(Kind::Renew, &held.lock, action, Some(held.fence), input).await;
                }
                HolderStep::Oversleep => {
                    let nap = Duration::from_millis(TTL_MS + CLOCK_MARGIN_MS + self.prng.below(TTL_MS));
                    tokio::select! {
                        _ = end.wait_for(|end| *end) => {}
                        () = tokio::time::sleep(nap) => {}
                    }
                }
                HolderStep::Release => {
                    let input = grant_value(held.fence, None);
                    self.call(Kind::Release, &held.lock, Action::Release, Some(held.fence), input).await;
                }
            }
        }
    }

    /// A write under the lock: a line in either history.
    async fn write(&mut self, held: &Holding) {
        self.counter += 1;
        let ask = Ask::Write(format!("{}-{}", self.name, self.counter));
        let question = LockQuestion {
            generation: self.generation,
            process: self.process,
            f: "use",
            lock: held.lock.clone(),
            input: grant_value(held.fence, None),
            trace_id: String::new(),
        };
        self.book.ask(&question);
        let (key, deadline) = (held.record.as_str(), self.config.deadline);
        let (process, fence, place) = (self.writer, Some(held.fence), Place::STRICT);
        let what = Conduct { process, key, ask: &ask, body: None, fence, deadline, place };
        let done = conduct(&self.recorder, &self.gateway, &Plain, what).await;
        self.writer = done.process;
        let question = LockQuestion { trace_id: done.trace_id, ..question };
        self.process = self.book.answer(
            &question,
            match done.finding {
                Finding::Applied => LockFinding::Done,
                Finding::FencedOff => LockFinding::FencedOff,
                Finding::Failed | Finding::NotApplied => LockFinding::Failed,
                Finding::Unknown | Finding::Held(_) | Finding::Shown(_) | Finding::Number(_) => LockFinding::Unknown,
            },
        );
    }

    /// A call on the lock itself: a line in the history of locks, and a request among those that are counted.
    async fn call(&mut self, kind: Kind, lock: &str, action: Action, fence: Option<u64>, input: Value) -> LockFinding {
        let deadline = self.config.deadline;
        let mut request = Request { fence, deadline, ..Request::new(kind.bucket(), lock, action) };
        let span = begin_span(&mut request, self.process);
        let trace_id = telemetry::context::trace_id_hex(request.context);
        let question = LockQuestion {
            generation: self.generation,
            process: self.process,
            f: kind.name(),
            lock: lock.to_owned(),
            input,
            trace_id: trace_id.clone(),
        };
        self.book.ask(&question);
        let invoked_ns = self.recorder.now_ns();
        let reply = self.gateway.send(&request).await;
        end_span(span, &reply, &self.recorder);
        let finding = finding_of(&reply);
        self.process = self.book.answer(&question, finding);
        let ended_ns = self.recorder.now_ns();
        let (code, status, receipt) = match reply {
            Reply::Ok(answer) => (None, Some(answer.status), answer.receipt),
            Reply::Failed(Failure { code, status, .. }) | Reply::Unknown(Failure { code, status, .. }) => {
                (Some(code), status, None)
            }
        };
        self.recorder.ended(Operation {
            kind,
            level: Level::Strict,
            key: lock.to_owned(),
            invoked_ns,
            ended_ns,
            end: match finding {
                LockFinding::Failed => End::Failed,
                LockFinding::Unknown => End::Unknown,
                _ => End::Ok,
            },
            late: Duration::from_nanos(ended_ns.saturating_sub(invoked_ns)) > deadline,
            code,
            status,
            trace_id,
            request_id: request.request_id,
            receipt,
        });
        finding
    }
}

/// How long a client relies on its lease.
const RELIED_ON_MS: u64 = TTL_MS - CLOCK_MARGIN_MS;

fn finding_of(reply: &Reply) -> LockFinding {
    match reply {
        Reply::Failed(_) => LockFinding::Failed,
        Reply::Unknown(_) => LockFinding::Unknown,
        Reply::Ok(answer) => match answer.seen {
            // A grant of another form names no token to work under: to us it is as good as unknown.
            Seen::Granted => {
                answer.grant().map_or(LockFinding::Unknown, |grant| LockFinding::Granted(grant.fence, RELIED_ON_MS))
            }
            Seen::Held => LockFinding::Held,
            Seen::FencedOff => LockFinding::FencedOff,
            Seen::Deleted => LockFinding::Done,
            _ => LockFinding::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_write_and_some_sleep_and_some_forget() {
        let mut prng = Prng::from_seed(4);
        let plans: Vec<Vec<HolderStep>> = (0..2_000).map(|_| plan(&mut prng)).collect();
        assert!(plans.iter().all(|steps| steps[0] == HolderStep::Write));
        let having = |step: HolderStep| plans.iter().filter(|steps| steps.contains(&step)).count();
        let slept = having(HolderStep::Oversleep);
        assert!((100..250).contains(&slept), "{slept} of 2,000 sleep");
        let forgot = plans.len() - having(HolderStep::Release);
        assert!((100..250).contains(&forgot), "{forgot} of 2,000 forget to give it back");
        assert!(having(HolderStep::Renew) > 400 && having(HolderStep::Read) > 400);
        for steps in plans.iter().filter(|steps| steps.contains(&HolderStep::Oversleep)) {
            let at = steps.iter().position(|step| *step == HolderStep::Oversleep).expect("it is there");
            assert_eq!(steps[at + 1], HolderStep::Write, "who slept tries its write");
        }
    }

    #[test]
    fn leases_of_a_set_are_over_at_its_next_turn() {
        assert!(GENERATION > Duration::from_millis(2 * TTL_MS) && RELIED_ON_MS < TTL_MS);
    }
}
