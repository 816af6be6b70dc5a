//! When a request was first seen, for ids that do not tell it.
//!
//! A key remembers its last requests; what it had to forget for room is covered by a time, and a repeat first sent
//! before that time is refused instead of made twice. So all attempts of a request must name one time, at whichever
//! gateway they arrive. A UUIDv7 carries it. For any other id the first gateway that sees it notes the time in a
//! register of the system's own bucket, made only if it is absent: one more round before such a write (decision 0069).

use bytes::Bytes;
use replication::{
    Change, Condition, Effect, Operation, Outcome, REQUESTS_AGE_MAX_MS, RegisterKey, RequestId, Terms, Value, Write,
};
use wire::http::WriteOutcome;

use crate::answers;
use crate::ask::Words;
use crate::buckets::SYSTEM_BUCKET;
use crate::problem::Refuse;
use crate::records::{Incoming, unanswered};
use crate::words::RequestWords;
use dispatch::Verdict;

/// What the spans of these operations have for a bucket.
const BUCKET: &str = "requests";

impl Incoming<'_> {
    /// The request with the time at which any gateway first saw it on this key.
    ///
    /// # Errors
    /// What kept the note from being made or read; this attempt then did nothing, and an earlier one may have.
    pub(crate) async fn first_seen(&self, request: RequestWords, key: &RegisterKey) -> Result<RequestWords, Refuse> {
        if request.dated {
            return Ok(request);
        }
        let note = self.gateway.register(SYSTEM_BUCKET, &note_name(request.id, key));
        let first_sent_ms = match self.note_first(&note, &request).await? {
            None => request.first_sent_ms,
            Some(noted) => noted.min(request.first_sent_ms),
        };
        Ok(RequestWords { first_sent_ms, ..request })
    }

    /// Notes the time; the one that was noted before, if there is one.
    async fn note_first(&self, note: &RegisterKey, request: &RequestWords) -> Result<Option<u64>, Refuse> {
        let now_ms = request.first_sent_ms;
        let body = Bytes::from(now_ms.to_string());
        let write = Operation::Write(Write {
            key: note.clone(),
            request: RequestId(uuid::Uuid::now_v7().as_u128()),
            first_sent_ms: now_ms,
            retry: false,
            condition: Condition::Absent,
            change: Change::Put(Value { body, content_type: Bytes::new() }),
            terms: Terms { fence: None, ttl_ms: Some(REQUESTS_AGE_MAX_MS) },
        });
        match self.of_note(&write, request, "PUT").await? {
            Outcome::Done { effect: Effect::Created(_), .. } => return Ok(None),
            Outcome::Done { effect: Effect::ConditionFailed(_), .. } => {}
            _ => return Err(self.not_noted(answers::answered_otherwise(true))),
        }
        match self.of_note(&Operation::Read { key: note.clone() }, request, "GET").await? {
            // Its ten minutes ended just now, and with them what is promised of repeats.
            Outcome::Value(None) => Ok(None),
            Outcome::Value(Some((_, value))) => {
                let noted = std::str::from_utf8(&value.body).ok().and_then(|text| text.parse().ok());
                noted.map(Some).ok_or_else(|| self.not_noted(answers::answered_otherwise(true)))
            }
            _ => Err(self.not_noted(answers::answered_otherwise(true))),
        }
    }

    async fn of_note(
        &self,
        operation: &Operation,
        request: &RequestWords,
        verb: &'static str,
    ) -> Result<Outcome, Refuse> {
        let words = Words { bucket: BUCKET, verb, context: self.context };
        let asked = self.gateway.ask(operation, self.deadline, words).await;
        match asked.verdict {
            Verdict::Answered { outcome, .. } => Ok(outcome),
            verdict => {
                let refuse = answers::refusal_of(&verdict, true);
                Err(self.not_noted(unanswered(refuse, Some(request.text.clone()), asked.attempts)))
            }
        }
    }

    /// The write itself was not sent; an earlier attempt of it may have been.
    fn not_noted(&self, refuse: Refuse) -> Refuse {
        refuse.outcome(WriteOutcome::Unknown)
    }
}

/// The register in which the first sight of a request is noted: one for each key that it is about.
fn note_name(request: RequestId, key: &RegisterKey) -> String {
    format!("request/{:08x}{:016x}/{:032x}", key.bucket.0, key.position.0, request.0)
}
