use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use serde::Serialize;
use serde_json::Value;

use crate::host::Contact;
use crate::params::Consistency;

/// A call that was not done, as Consul says it: a status and a line of plain text.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// The methods that the path takes, when that is what was wrong.
    pub(crate) allow: Option<String>,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused { status, text: text.into(), allow: None }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, text)
    }

    /// What Consul's servers say to its agents, which hand it on with this status whatever it is.
    pub(crate) fn by_server(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::NOT_FOUND, text)
    }

    /// For what this discovery leaves out: `what` begins the sentence.
    pub(crate) fn not_offered(what: &str) -> Refused {
        let text = format!("{what} not offered by this discovery; use a full Consul where that is needed");
        Refused::new(StatusCode::NOT_IMPLEMENTED, text)
    }

    pub(crate) fn response(self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status);
        if let Some(allow) = self.allow {
            answer.insert_header((header::ALLOW, allow));
        }
        answer.insert_header(NO_SNIFF).content_type(TEXT).body(self.text)
    }
}

/// An answer to a read, before it is put into HTTP.
#[derive(Debug)]
pub(crate) enum Body {
    Json(Value),
    /// The bare bytes of a value.
    Raw(Vec<u8>),
    /// There is no such thing; the index still tells what to wait with.
    Absent,
}

/// An answer in the shape that Consul's clients expect.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) body: Body,
    /// None for what cannot be waited for.
    pub(crate) index: Option<u64>,
    pub(crate) contact: Contact,
    pub(crate) consistency: Consistency,
    pub(crate) pretty: bool,
    /// Whether some of what there is was left out because the token may not see it.
    pub(crate) filtered: bool,
}

impl Reply {
    pub(crate) fn response(self) -> HttpResponse {
        let status = if matches!(self.body, Body::Absent) { StatusCode::NOT_FOUND } else { StatusCode::OK };
        let mut answer = HttpResponse::build(status);
        // Go's client gives up on a read without these two, before it has read the rest.
        answer.insert_header(("X-Consul-LastContact", self.contact.last_contact_ms.to_string()));
        answer.insert_header(("X-Consul-KnownLeader", self.contact.known_leader.to_string()));
        answer.insert_header(("X-Consul-Effective-Consistency", self.consistency.word()));
        if let Some(index) = self.index {
            answer.insert_header(("X-Consul-Index", index.max(1)));
            answer.insert_header(("X-Consul-Query-Backend", "blocking-query"));
        }
        if self.filtered {
            answer.insert_header(("X-Consul-Results-Filtered-By-ACLs", "true"));
        }
        match self.body {
            Body::Json(value) => answer.content_type("application/json").body(json_text(&value, self.pretty)),
            // A stored value must never run as a page (CVE-2020-25864).
            Body::Raw(bytes) => answer.insert_header(NO_SNIFF).content_type(TEXT).body(bytes),
            Body::Absent => answer.finish(),
        }
    }
}

/// A JSON answer to a write.
pub(crate) fn written(value: &Value, pretty: bool) -> HttpResponse {
    with_status(StatusCode::OK, value, pretty)
}

/// A JSON answer with another status.
pub(crate) fn with_status(status: StatusCode, value: &Value, pretty: bool) -> HttpResponse {
    HttpResponse::build(status).content_type("application/json").body(json_text(value, pretty))
}

/// Four spaces a level, as Go's programs write it.
fn json_text(value: &Value, pretty: bool) -> String {
    if !pretty {
        return value.to_string();
    }
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    // Writing to memory cannot fail.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter));
    String::from_utf8_lossy(&text).into_owned()
}

const TEXT: &str = "text/plain; charset=utf-8";
const NO_SNIFF: (header::HeaderName, HeaderValue) =
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
