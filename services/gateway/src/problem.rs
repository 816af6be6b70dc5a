//! A request that is not answered as asked: the typed problem, the headers that belong to it, and its HTTP form.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder};
use wire::http::{PROBLEM_JSON, Problem, ProblemCode, WriteOutcome};

/// A refusal on its way to the client.
#[derive(Clone, Debug)]
pub struct Refuse {
    code: ProblemCode,
    problem: Box<Problem>,
    headers: Vec<(&'static str, String)>,
}

/// Seconds after which a client that was refused for want of room or replicas should come back.
const RETRY_AFTER_S: &str = "1";

impl Refuse {
    /// A refusal with a sentence that says what happened and what to do.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Refuse {
        let headers = match code.status() {
            429 | 503 => vec![("retry-after", RETRY_AFTER_S.to_owned())],
            _ => Vec::new(),
        };
        Refuse { code, problem: Box::new(Problem::new(code, detail)), headers }
    }

    /// Something in the request is not understood.
    pub fn bad_request(detail: impl Into<String>) -> Refuse {
        Refuse::new(ProblemCode::BadRequest, detail)
    }

    /// A documented part that is not there yet.
    pub fn not_offered(what: &str, instead: &str) -> Refuse {
        Refuse::new(ProblemCode::NotOffered, format!("{what} is not offered yet; {instead}"))
    }

    /// With a header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Refuse {
        self.headers.push((name, value.into()));
        self
    }

    /// With another member in the body.
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Refuse {
        self.problem.more.insert(name.to_owned(), value.into());
        self
    }

    /// With what became of the write.
    pub fn outcome(mut self, outcome: WriteOutcome) -> Refuse {
        self.problem.outcome = Some(outcome);
        self
    }

    /// With the outcome that a refused write has unless something better is known: nothing was sent, nothing was done.
    pub fn outcome_or_not_done(mut self) -> Refuse {
        self.problem.outcome.get_or_insert(WriteOutcome::NotDone);
        self
    }

    /// Its code.
    pub fn code(&self) -> ProblemCode {
        self.code
    }

    /// The sentence that says what happened and what to do.
    pub fn detail(&self) -> &str {
        &self.problem.detail
    }

    /// The answer. `trace_id` is 32 hex digits.
    pub fn into_response(mut self, trace_id: &str) -> HttpResponse {
        trace_id.clone_into(&mut self.problem.trace_id);
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = HttpResponseBuilder::new(status);
        for (name, value) in self.headers {
            response.insert_header((name, value));
        }
        if self.code == ProblemCode::ValueTooLarge {
            // The rest of the body is not read, so nothing else can follow on this connection.
            response.force_close();
        }
        // A problem is made of text and numbers only: it always is JSON.
        let body = serde_json::to_vec(&*self.problem).unwrap_or_default();
        response.insert_header(("cache-control", "no-store")).content_type(PROBLEM_JSON).body(body)
    }
}
