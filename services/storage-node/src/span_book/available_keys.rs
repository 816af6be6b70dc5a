//! The same for available keys: a state that is sent and confirmed, and a key that is asked for and reported.

use available::{Action, Answer, Body, Change, Effect, Envelope, Operation, Outcome, Refusal};
use membership::NodeId;
use replication::{RegisterKey, Ticket};
use stdx::{Instant, TraceContext};
use telemetry::{KeyValue, SpanKind, names};
use wire::http::Durability;

use super::{Question, SpanBook, begin, key_id};

impl SpanBook {
    /// An operation came in: what the core should carry as its context.
    pub fn coordinate_available(
        &mut self,
        ticket: Ticket,
        operation: &Operation,
        epoch: u64,
        me: &str,
        context: TraceContext,
    ) -> TraceContext {
        self.begin_coordination(ticket, verb(operation), &operation.key, (epoch, me), context)
    }

    /// It was answered.
    pub fn coordinated_available(&mut self, answer: &Answer, name_of: impl Fn(NodeId) -> String) {
        let failed = matches!(answer.outcome, Outcome::Refused(_) | Outcome::Unknown);
        self.end_coordination(answer.ticket, &answer.receipt.voters, (outcome_word(&answer.outcome), failed), name_of);
    }

    /// A message leaves: the context that should travel with it.
    pub fn available_leaving(
        &mut self,
        now: Instant,
        durability: Durability,
        envelope: &Envelope,
        name: &str,
    ) -> TraceContext {
        let body = &envelope.message.body;
        if let Some(number) = answered(body) {
            self.answered((envelope.to, Question::available(durability, number)));
            return envelope.context;
        }
        let Some((word, number, key)) = question(body) else { return envelope.context };
        let question = (envelope.to, Question::available(durability, number));
        begin(&mut self.asked, SpanKind::Client, now, question, word, envelope.context, || attributes(key, name))
    }

    /// A message came in: the context that the core should carry.
    pub fn available_arrived(
        &mut self,
        now: Instant,
        (from, durability): (NodeId, Durability),
        body: &Body,
        me: &str,
        context: TraceContext,
    ) -> TraceContext {
        if let Some(number) = answered(body) {
            if let Some(asked) = self.asked.remove(&(from, Question::available(durability, number))) {
                asked.span.end();
            }
            return context;
        }
        let Some((word, number, key)) = question(body) else { return context };
        let question = (from, Question::available(durability, number));
        begin(&mut self.answering, SpanKind::Server, now, question, word, context, || attributes(key, me))
    }
}

/// The question that an answer is to.
fn answered(body: &Body) -> Option<u64> {
    match body {
        Body::Stored { id, .. } => Some(*id),
        Body::Report { round, .. } => Some(*round),
        _ => None,
    }
}

/// A question's span name, number and key. What repairs many keys at once belongs to no request.
fn question(body: &Body) -> Option<(&'static str, u64, &RegisterKey)> {
    match body {
        Body::Store { id, entries, .. } => match entries.as_slice() {
            [(key, _)] => Some((names::STORE, *id, key)),
            _ => None,
        },
        Body::Read { round, key, .. } => Some((names::QUERY, *round, key)),
        _ => None,
    }
}

fn attributes(key: &RegisterKey, replica: &str) -> Vec<KeyValue> {
    vec![KeyValue::new(names::KEY_ID, key_id(key)), KeyValue::new(names::REPLICA, replica.to_owned())]
}

fn verb(operation: &Operation) -> &'static str {
    match &operation.action {
        Action::Read { .. } => "GET",
        Action::Outcome { .. } => "OUTCOME",
        Action::Write(write) => match write.change {
            Change::Put(_) => "PUT",
            Change::Delete => "DELETE",
            Change::Add(_) | Change::Insert(_) | Change::Set { .. } => "ADD",
            Change::Remove(_) | Change::Unset(_) => "REMOVE",
        },
    }
}

fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Read { shown: available::Shown::Nothing, .. } => "absent",
        Outcome::Read { .. } => "found",
        Outcome::Remembered(_) => "remembered",
        Outcome::Unknown => "unknown",
        Outcome::Done { effect, .. } => match effect {
            Effect::Created => "created",
            Effect::Replaced => "replaced",
            Effect::Deleted => "deleted",
            Effect::Hinted => "hinted",
        },
        Outcome::Refused(refusal) => match refusal {
            Refusal::NotReplica(_) => "not-replica",
            Refusal::NoQuorum => "no-quorum",
            Refusal::Overloaded => "overloaded",
            Refusal::DiskFull => "disk-full",
            Refusal::Draining => "draining",
            Refusal::Refilling => "refilling",
            Refusal::TooOld => "too-old",
            Refusal::TooManySiblings => "too-many-siblings",
            Refusal::TooLarge => "too-large",
            Refusal::OtherKind(_) => "other-kind",
            Refusal::Behind(_) => "behind",
        },
    }
}
