//! Drives one operation's attempts: makes the calls that [`Dispatch`] wants, each under a span of its own, and tells it
//! what became of them. No decision is taken here.

use std::pin::Pin;
use std::time::Duration;

use client::fleet::Fleet;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use membership::NodeId;
use replication::{Operation, Outcome, Refusal, RegisterKey};
use runtime::CallError;
use stdx::{Instant, TraceContext};
use telemetry::spans::{self, LiveSpan};
use telemetry::{KeyValue, SpanKind, names};

use crate::gateway::Gateway;
use crate::nodes::{CallResult, Calling, Nodes};
use dispatch::budget::HEDGE_MIN;
use dispatch::{Answer, Dispatch, Failure, Input, Output, Plan, Verdict};

/// Stand-ins that are asked at most, when no home of a key answers.
const STAND_INS_MAX: usize = 2;

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
pub struct Asked<O: Answer = Outcome> {
    /// The end.
    pub verdict: Verdict<O, O::Receipt, O::Refusal>,
    /// Attempts made.
    pub attempts: u32,
}

/// An operation as its attempts need it, whichever contract its bucket has.
pub trait Question {
    /// What coordinators answer.
    type Outcome: Answer<Receipt: Send, Refusal: Send> + Send + 'static;

    /// The key.
    fn key(&self) -> &RegisterKey;

    /// Whether it can change anything.
    fn is_write(&self) -> bool;

    /// Whether a node that is no home of the key may take it.
    fn takes_stand_ins(&self) -> bool;

    /// Asks a node. `retry`: an earlier attempt may have been taken by somebody.
    fn call(
        &mut self,
        nodes: &dyn Nodes,
        node: NodeId,
        retry: bool,
        budget: Duration,
        context: TraceContext,
    ) -> Calling<Self::Outcome>;

    /// Takes an answer in, before the next attempt.
    fn learn(&mut self, outcome: &Self::Outcome);

    /// Why a node refused, one word for spans and metrics; none for an answer or an unknown end.
    fn refusal_word(outcome: &Self::Outcome) -> Option<&'static str>;
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
struct Attempts<'a, Q: Question> {
    gateway: &'a Gateway,
    fleet: &'a Fleet,
    question: Q,
    words: Words<'a>,
    deadline: Instant,
    open: Vec<Open>,
    calls: FuturesUnordered<Numbered<Q::Outcome>>,
}

/// A call with its attempt's number.
type Numbered<O> = Pin<Box<dyn Future<Output = (u32, CallResult<O>)> + Send>>;
/// What the machine is told.
type Told<Q> = Input<<Q as Question>::Outcome, <<Q as Question>::Outcome as Answer>::Receipt>;

impl Gateway {
    /// Has the operation, of either contract, coordinated by one of its replicas, and returns by `deadline` at the
    /// latest.
    pub async fn ask<Q: Question>(&self, question: Q, deadline: Instant, words: Words<'_>) -> Asked<Q::Outcome> {
        let fleet = self.fleet();
        let replicas = asked_nodes(&fleet, &question);
        let now = self.clock.now();
        let (mut dispatch, mut out) = {
            let mut hedging = self.hedging();
            let doubtful = |node: &NodeId| hedging.is_doubtful(*node, now) || !self.nodes.is_up(*node);
            let plan = Plan {
                doubtful: replicas.iter().copied().filter(doubtful).collect(),
                replicas,
                deadline,
                hedge: hedging.latency.hedge_delay(),
                write: question.is_write(),
            };
            (Dispatch::<Q::Outcome>::new(plan, hedging.chance()), Vec::new())
        };
        let calls = FuturesUnordered::new();
        let mut attempts =
            Attempts { gateway: self, fleet: &fleet, question, words, deadline, open: Vec::new(), calls };
        let mut input = Input::Started;
        loop {
            dispatch.handle(self.clock.now(), input, &mut self.hedging().budget, &mut out);
            for output in out.drain(..) {
                match output {
                    Output::Ask { node, attempt, retry } => attempts.start(node, attempt, retry),
                    Output::Finish(verdict) => {
                        attempts.finish(matches!(verdict, Verdict::Answered { .. }));
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

/// The nodes to ask: the key's replicas, and behind them the stand-ins, those first that follow on the ring.
fn asked_nodes(fleet: &Fleet, question: &impl Question) -> Vec<NodeId> {
    let position = question.key().position;
    let mut nodes: Vec<NodeId> = fleet.ring.sets_of(position).iter().collect();
    if question.takes_stand_ins() {
        let others = fleet.view.ring_members().map(|member| member.id).filter(|node| !nodes.contains(node));
        // Another start for each key, so that no node stands in for all.
        let mut others: Vec<NodeId> = others.collect();
        if !others.is_empty() {
            let first = (position.0 % others.len() as u64) as usize;
            others.rotate_left(first);
        }
        nodes.extend(others.into_iter().take(STAND_INS_MAX));
    }
    nodes
}

impl<Q: Question> Attempts<'_, Q> {
    fn start(&mut self, node: NodeId, attempt: u32, retry: bool) {
        let gateway = self.gateway;
        let now = gateway.clock.now();
        let hedge = !self.open.is_empty();
        let span = self.span(node, attempt, hedge);
        let budget = budget_of(now, self.deadline);
        let call = self.question.call(gateway.nodes.as_ref(), node, retry, budget, span.context());
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
            KeyValue::new(names::KEY_ID, self.question.key().position.to_string()),
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
    fn ended(&mut self, attempt: u32, result: CallResult<Q::Outcome>) -> Told<Q> {
        let word = word_of::<Q>(&result);
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
            Ok((outcome, receipt)) => {
                self.question.learn(&outcome);
                Input::Answered { attempt, outcome, receipt }
            }
            Err(error) => Input::Failed { attempt, failure: failure_of(error) },
        }
    }

    /// Closes what is left open: these attempts were overtaken, or the deadline has passed.
    fn finish(&mut self, answered: bool) {
        let now = self.gateway.clock.now();
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

impl Question for &Operation {
    type Outcome = Outcome;

    fn key(&self) -> &RegisterKey {
        Operation::key(self)
    }

    fn is_write(&self) -> bool {
        self.write().is_some()
    }

    fn takes_stand_ins(&self) -> bool {
        false
    }

    fn call(
        &mut self,
        nodes: &dyn Nodes,
        node: NodeId,
        retry: bool,
        budget: Duration,
        context: TraceContext,
    ) -> Calling<Outcome> {
        let mut operation = (*self).clone();
        if let Some(write) = operation.write_mut() {
            write.retry |= retry;
        }
        nodes.call(node, operation, budget, context)
    }

    fn learn(&mut self, _outcome: &Outcome) {}

    fn refusal_word(outcome: &Outcome) -> Option<&'static str> {
        let Outcome::Refused(refusal) = outcome else { return None };
        Some(match refusal {
            Refusal::NotReplica(_) => "not-replica",
            Refusal::NoQuorum => "no-quorum",
            Refusal::Overloaded => "overloaded",
            Refusal::DiskFull => "disk-full",
            Refusal::Draining => "draining",
            Refusal::TooOld => "too-old",
        })
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
fn word_of<Q: Question>(result: &CallResult<Q::Outcome>) -> Option<&'static str> {
    match result {
        Ok((outcome, _)) if matches!(outcome.told(), dispatch::Told::Unknown) => Some("unknown"),
        Ok((outcome, _)) => Q::refusal_word(outcome),
        Err(CallError::NotConnected) => Some("not-connected"),
        Err(CallError::Reset) => Some("reset"),
        Err(CallError::Deadline) => Some("deadline"),
        Err(CallError::GoingAway) => Some("going-away"),
        Err(CallError::QueueFull) => Some("queue-full"),
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
