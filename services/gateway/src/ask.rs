//! Drives one operation's attempts: makes the calls that [`Dispatch`] wants, each under a span of its own, and tells it
//! what became of them. No decision is taken here.

use std::time::Duration;

use client::fleet::Fleet;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use membership::NodeId;
use replication::{Operation, Outcome, Refusal};
use runtime::CallError;
use stdx::{Instant, TraceContext};
use telemetry::spans::{self, LiveSpan};
use telemetry::{KeyValue, SpanKind, names};

use crate::gateway::Gateway;
use crate::nodes::{CallResult, Calling};
use dispatch::budget::HEDGE_MIN;
use dispatch::{Dispatch, Failure, Input, Output, Plan, Verdict};

/// What the spans of an operation say about it.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// The bucket's name.
    pub bucket: &'a str,
    /// The HTTP method, which is the operation's name.
    pub verb: &'static str,
    /// The span that the attempts belong to.
    pub context: TraceContext,
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The end.
    pub verdict: Verdict,
    /// Attempts made.
    pub attempts: u32,
}

/// An attempt that is not answered yet.
struct Open {
    attempt: u32,
    node: NodeId,
    hedge: bool,
    since: Instant,
    span: LiveSpan,
}

/// The attempts of one operation, as the shell sees them.
struct Attempts<'a> {
    gateway: &'a Gateway,
    fleet: &'a Fleet,
    operation: &'a Operation,
    words: Words<'a>,
    deadline: Instant,
    open: Vec<Open>,
    calls: FuturesUnordered<Numbered>,
}

/// A call with its attempt's number.
type Numbered = std::pin::Pin<Box<dyn Future<Output = (u32, CallResult)> + Send>>;

impl Gateway {
    /// Has the operation coordinated by one of its replicas, and returns by `deadline` at the latest.
    pub async fn ask(&self, operation: &Operation, deadline: Instant, words: Words<'_>) -> Asked {
        let fleet = self.fleet();
        let replicas = fleet.ring.sets_of(operation.key().position).iter().collect::<Vec<_>>();
        let now = self.clock.now();
        let (mut dispatch, mut out) = {
            let mut hedging = self.hedging();
            let doubtful = |node: &NodeId| hedging.is_doubtful(*node, now) || !self.nodes.is_up(*node);
            let plan = Plan {
                doubtful: replicas.iter().copied().filter(doubtful).collect(),
                replicas,
                deadline,
                hedge: hedging.latency.hedge_delay(),
                write: operation.write().is_some(),
            };
            (Dispatch::new(plan, hedging.chance()), Vec::new())
        };
        let calls = FuturesUnordered::new();
        let mut attempts =
            Attempts { gateway: self, fleet: &fleet, operation, words, deadline, open: Vec::new(), calls };
        let mut input = Input::Started;
        loop {
            dispatch.handle(self.clock.now(), input, &mut self.hedging().budget, &mut out);
            for output in out.drain(..) {
                match output {
                    Output::Ask { node, attempt, retry } => attempts.start(node, attempt, retry),
                    Output::Finish(verdict) => {
                        attempts.finish(&verdict);
                        return Asked { verdict, attempts: dispatch.attempts() };
                    }
                }
            }
            let timeout = dispatch.next_timeout().unwrap_or(deadline);
            input = tokio::select! {
                biased;
                Some((attempt, result)) = attempts.calls.next(), if !attempts.calls.is_empty() => {
                    attempts.ended(attempt, result)
                }
                () = tokio::time::sleep_until(self.clock.to_tokio(timeout)) => Input::Tick,
            };
        }
    }
}

impl Attempts<'_> {
    fn start(&mut self, node: NodeId, attempt: u32, retry: bool) {
        let gateway = self.gateway;
        let now = gateway.clock.now();
        let hedge = !self.open.is_empty();
        let span = self.span(node, attempt, hedge);
        let mut operation = self.operation.clone();
        if let Some(write) = operation.write_mut() {
            write.retry |= retry;
        }
        let call: Calling = gateway.nodes.call(node, operation, budget_of(now, self.deadline), span.context());
        self.open.push(Open { attempt, node, hedge, since: now, span });
        self.calls.push(Box::pin(async move { (attempt, call.await) }));
    }

    fn span(&self, node: NodeId, attempt: u32, hedge: bool) -> LiveSpan {
        let Words { bucket, verb, context } = self.words;
        let mut attributes = vec![
            KeyValue::new(names::DB_SYSTEM_NAME, "everring"),
            KeyValue::new(names::DB_COLLECTION_NAME, bucket.to_owned()),
            KeyValue::new(names::DB_OPERATION_NAME, verb),
            KeyValue::new(names::ATTEMPT, i64::from(attempt)),
            KeyValue::new(names::HOP, 1),
            KeyValue::new(names::EPOCH, whole(self.fleet.view.epoch.0)),
            KeyValue::new(names::KEY_ID, self.operation.key().position.to_string()),
            KeyValue::new(names::REPLICA, self.fleet.name_of(node)),
        ];
        if hedge {
            attributes.push(KeyValue::new(names::HEDGE, true));
        }
        if attempt > 1 {
            attributes.push(KeyValue::new(names::HTTP_REQUEST_RESEND_COUNT, i64::from(attempt - 1)));
        }
        spans::start(SpanKind::Client, names::db_span(verb, bucket), context, attributes)
    }

    /// Closes an attempt's span, and turns its result into what the machine is told.
    fn ended(&mut self, attempt: u32, result: CallResult) -> Input {
        let word = word_of(&result);
        if let Some(at) = self.open.iter().position(|open| open.attempt == attempt) {
            let Open { node, hedge, since, mut span, .. } = self.open.remove(at);
            self.gateway.metrics.attempt(word.unwrap_or("answered"), hedge);
            match word {
                Some(word) => span.fail(word),
                None => {
                    let mut hedging = self.gateway.hedging();
                    hedging.latency.record(self.gateway.clock.now().since(since));
                    hedging.trust(node);
                }
            }
            span.end();
        }
        match result {
            Ok((outcome, receipt)) => Input::Answered { attempt, outcome, receipt },
            Err(error) => Input::Failed { attempt, failure: failure_of(error) },
        }
    }

    /// Closes what is left open: these attempts were overtaken, or the deadline has passed.
    fn finish(&mut self, verdict: &Verdict) {
        let now = self.gateway.clock.now();
        let answered = matches!(verdict, Verdict::Answered { .. });
        let word = if answered { "silent" } else { "deadline" };
        for Open { node, hedge, since, mut span, .. } in self.open.drain(..) {
            self.gateway.metrics.attempt(word, hedge);
            // One that was asked only a moment ago has not shown anything yet.
            if now.since(since) >= HEDGE_MIN {
                self.gateway.hedging().doubt(node, now);
            }
            span.fail(word);
            span.end();
        }
    }
}

/// How long a node is given: a little less than is left, so that its typed refusal arrives before our own deadline.
fn budget_of(now: Instant, deadline: Instant) -> Duration {
    let left = deadline.since(now);
    let margin = (left / 10).min(Duration::from_millis(10));
    (left - margin).max(Duration::from_millis(1))
}

fn failure_of(error: CallError) -> Failure {
    match error {
        CallError::NotConnected | CallError::QueueFull | CallError::GoingAway => Failure::NotSent,
        CallError::Reset | CallError::Deadline => Failure::Reset,
    }
}

/// Why an attempt failed, one word for spans and metrics; none when it was answered.
fn word_of(result: &CallResult) -> Option<&'static str> {
    match result {
        Ok((Outcome::Refused(refusal), _)) => Some(refusal_word(*refusal)),
        Ok((Outcome::Unknown, _)) => Some("unknown"),
        Ok((Outcome::Value(_) | Outcome::Done { .. } | Outcome::Remembered(_), _)) => None,
        Err(CallError::NotConnected) => Some("not-connected"),
        Err(CallError::Reset) => Some("reset"),
        Err(CallError::Deadline) => Some("deadline"),
        Err(CallError::GoingAway) => Some("going-away"),
        Err(CallError::QueueFull) => Some("queue-full"),
    }
}

fn refusal_word(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotReplica(_) => "not-replica",
        Refusal::NoQuorum => "no-quorum",
        Refusal::Overloaded => "overloaded",
        Refusal::DiskFull => "disk-full",
        Refusal::Draining => "draining",
        Refusal::TooOld => "too-old",
    }
}

/// A count as span attributes hold it.
pub fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_a_little_less_time_than_is_left() {
        let of = |left_ms| budget_of(Instant::ZERO, Instant::from_millis(left_ms));
        assert_eq!(of(1_000), Duration::from_millis(990));
        assert_eq!(of(50), Duration::from_millis(45));
        assert_eq!(of(0), Duration::from_millis(1));
    }

    #[test]
    fn only_what_was_surely_not_sent_is_told_so() {
        assert_eq!(failure_of(CallError::NotConnected), Failure::NotSent);
        assert_eq!(failure_of(CallError::Reset), Failure::Reset);
        assert_eq!(failure_of(CallError::Deadline), Failure::Reset);
    }
}
