//! The spans of what is under way: coordinations, questions to peers, and peers' questions to us.
//!
//! A killed process loses its newest spans, so each question has a span at both ends: the asker's survives.

use std::collections::BTreeMap;
use std::time::Duration;

use membership::NodeId;
use replication::{Answer, Body, Effect, Envelope, Operation, Outcome, Refusal, RegisterKey, RoundId, Ticket};
use stdx::{Instant, TraceContext};
use telemetry::names;
use telemetry::spans::{self, LiveSpan};
use telemetry::{KeyValue, SpanKind};
use wire::http::Durability;

mod available_keys;

/// Questions whose answer never comes are forgotten after this time.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Spans that are open at most; past it new messages go untraced.
const OPEN_MAX: usize = 16_384;

/// All open spans of a node.
#[derive(Debug, Default)]
pub(crate) struct SpanBook {
    coordinations: BTreeMap<Ticket, LiveSpan>,
    asked: Open,
    answering: Open,
}

/// Names a question among those of its asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    /// About a register.
    Register(RoundId),
    /// About an available key: a message's or a round's number, from one sequence.
    Available { in_memory: bool, number: u64 },
}

impl Question {
    fn available(durability: Durability, number: u64) -> Question {
        Question::Available { in_memory: durability == Durability::Memory, number }
    }
}

#[derive(Debug)]
struct Asked {
    span: LiveSpan,
    at: Instant,
}

/// Questions that are not answered yet, by the other node.
type Open = BTreeMap<(NodeId, Question), Asked>;

/// A question leaves (a client's span) or came in (a server's): its context.
fn begin(
    open: &mut Open,
    kind: SpanKind,
    now: Instant,
    question: (NodeId, Question),
    word: &'static str,
    context: TraceContext,
    attributes: impl FnOnce() -> Vec<KeyValue>,
) -> TraceContext {
    if !context.is_some() || open.len() >= OPEN_MAX {
        return context;
    }
    let asked = open
        .entry(question)
        .or_insert_with(|| Asked { span: spans::start(kind, word, context, attributes()), at: now });
    asked.span.context()
}

impl SpanBook {
    /// An operation came in: what the core should carry as its context.
    pub fn coordinate(
        &mut self,
        ticket: Ticket,
        operation: &Operation,
        epoch: u64,
        me: &str,
        context: TraceContext,
    ) -> TraceContext {
        self.begin_coordination(ticket, verb(operation), operation.key(), (epoch, me), context)
    }

    /// It was answered.
    pub fn coordinated(&mut self, answer: &Answer, name_of: impl Fn(NodeId) -> String) {
        // A refusal or an unknown end is an error of this attempt; a failed condition is an answer.
        let failed = matches!(answer.outcome, Outcome::Refused(_) | Outcome::Unknown);
        self.end_coordination(answer.ticket, &answer.receipt.voters, (outcome_word(&answer.outcome), failed), name_of);
    }

    fn begin_coordination(
        &mut self,
        ticket: Ticket,
        verb: &'static str,
        key: &RegisterKey,
        (epoch, me): (u64, &str),
        context: TraceContext,
    ) -> TraceContext {
        if !context.is_some() || self.coordinations.len() >= OPEN_MAX {
            return context;
        }
        let attributes = vec![
            KeyValue::new(names::DB_SYSTEM_NAME, "everring"),
            KeyValue::new(names::DB_OPERATION_NAME, verb),
            KeyValue::new(names::REPLICA, me.to_owned()),
            KeyValue::new(names::EPOCH, epoch as i64),
            KeyValue::new(names::HOP, 1),
            KeyValue::new(names::KEY_ID, key_id(key)),
        ];
        let span = spans::start(SpanKind::Server, names::coordinate_span(verb), context, attributes);
        let inner = span.context();
        self.coordinations.insert(ticket, span);
        inner
    }

    fn end_coordination(
        &mut self,
        ticket: Ticket,
        voters: &[NodeId],
        (outcome, failed): (&'static str, bool),
        name_of: impl Fn(NodeId) -> String,
    ) {
        let Some(mut span) = self.coordinations.remove(&ticket) else { return };
        let voters: Vec<String> = voters.iter().map(|node| name_of(*node)).collect();
        span.set(names::REPLICAS, voters.join(","));
        span.set(names::DB_RESPONSE_STATUS_CODE, outcome);
        if failed {
            span.fail(outcome);
        }
        span.end();
    }

    /// A message leaves: the context that should travel with it.
    pub fn leaving(&mut self, now: Instant, envelope: &Envelope, name: &str) -> TraceContext {
        let body = &envelope.message.body;
        if let Some(round) = answered_round(body) {
            self.answered((envelope.to, Question::Register(round)));
            return envelope.context;
        }
        let Some((word, round, key)) = question(body) else { return envelope.context };
        let attributes = || question_attributes(key, body, name);
        begin(
            &mut self.asked,
            SpanKind::Client,
            now,
            (envelope.to, Question::Register(round)),
            word,
            envelope.context,
            attributes,
        )
    }

    /// An answer of ours leaves.
    fn answered(&mut self, question: (NodeId, Question)) {
        if let Some(asked) = self.answering.remove(&question) {
            asked.span.end();
        }
    }

    /// A message came in: the context that the core should carry.
    pub fn arrived(
        &mut self,
        now: Instant,
        from: NodeId,
        body: &Body,
        me: &str,
        context: TraceContext,
    ) -> TraceContext {
        if let Some(round) = answered_round(body) {
            if let Some(mut asked) = self.asked.remove(&(from, Question::Register(round))) {
                if matches!(body, Body::Nack { .. }) {
                    asked.span.set(names::DB_RESPONSE_STATUS_CODE, "refused");
                }
                asked.span.end();
            }
            return context;
        }
        let Some((word, round, key)) = question(body) else { return context };
        let attributes = || question_attributes(key, body, me);
        begin(&mut self.answering, SpanKind::Server, now, (from, Question::Register(round)), word, context, attributes)
    }

    /// The connection to a node broke: what it was asked, it will not answer.
    pub fn lost(&mut self, node: NodeId) {
        let rounds: Vec<(NodeId, Question)> = self.asked.keys().filter(|(to, _)| *to == node).copied().collect();
        for key in rounds {
            if let Some(mut asked) = self.asked.remove(&key) {
                asked.span.fail("reset");
                asked.span.end();
            }
        }
        self.answering.retain(|(from, _), _| *from != node);
    }

    /// Forgets what was never answered.
    pub fn sweep(&mut self, now: Instant) {
        self.answering.retain(|_, asked| now.since(asked.at) < SILENCE_MAX);
        self.asked.retain(|_, asked| {
            let silent = now.since(asked.at) >= SILENCE_MAX;
            if silent {
                asked.span.fail("silence");
            }
            !silent
        });
    }
}

/// The round that a reply answers.
fn answered_round(body: &Body) -> Option<RoundId> {
    match body {
        Body::Promise { round, .. }
        | Body::Accepted { round }
        | Body::Nack { round, .. }
        | Body::Report { round, .. } => Some(*round),
        _ => None,
    }
}

/// A question's span name, round and register.
fn question(body: &Body) -> Option<(&'static str, RoundId, &RegisterKey)> {
    match body {
        Body::Prepare { round, key, .. } => Some((names::PREPARE, *round, key)),
        Body::Accept { round, key, .. } => Some((names::ACCEPT, *round, key)),
        Body::Query { round, key, .. } => Some((names::QUERY, *round, key)),
        _ => None,
    }
}

fn question_attributes(key: &RegisterKey, body: &Body, replica: &str) -> Vec<KeyValue> {
    let mut attributes =
        vec![KeyValue::new(names::KEY_ID, key_id(key)), KeyValue::new(names::REPLICA, replica.to_owned())];
    if let Body::Prepare { ballot, .. } | Body::Accept { ballot, .. } = body {
        attributes.push(KeyValue::new(names::BALLOT, ballot.to_string()));
    }
    attributes
}

fn key_id(key: &RegisterKey) -> String {
    key.position.to_string()
}

fn verb(operation: &Operation) -> &'static str {
    match operation {
        Operation::Read { .. } => "GET",
        Operation::Outcome { .. } => "OUTCOME",
        Operation::InSession { operation, .. } => verb(operation),
        Operation::Write(write) => match write.change {
            replication::Change::Put(_) => "PUT",
            replication::Change::Delete => "DELETE",
            replication::Change::Add(_) => "ADD",
            replication::Change::Append(_) => "APPEND",
            replication::Change::Touch => "TOUCH",
            replication::Change::Lock(_) => "LOCK",
        },
    }
}

fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Value(Some(_)) => "found",
        Outcome::Value(None) => "absent",
        Outcome::Remembered(_) => "remembered",
        Outcome::Unknown => "unknown",
        Outcome::Done { effect, .. } => match effect {
            Effect::Created(_) => "created",
            Effect::Replaced(_) => "replaced",
            Effect::Deleted(_) => "deleted",
            Effect::ConditionFailed(_) => "condition-failed",
            Effect::Unfit => "unfit",
            Effect::FencedOff(_) => "fenced-off",
            Effect::Granted { .. } => "granted",
            Effect::Held { .. } => "held",
            Effect::Released => "released",
            Effect::NotHeld => "not-held",
        },
        Outcome::Refused(refusal) => match refusal {
            Refusal::NotReplica(_) => "not-replica",
            Refusal::NoQuorum => "no-quorum",
            Refusal::Overloaded => "overloaded",
            Refusal::DiskFull => "disk-full",
            Refusal::Draining => "draining",
            Refusal::TooOld => "too-old",
        },
    }
}
