//! Which path is which call. Pure: text in, a [`Call`] or a refusal out.
//!
//! The raw path is read here, and not by the server's router, because a key is arbitrary percent-encoded UTF-8 with
//! slashes and line ends in it, and because broken encoding, unknown paths and wrong methods each need their typed
//! problem.

use wire::http::{ProblemCode, percent_decode};

use crate::problem::Refuse;

/// A call that the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `GET /v1/buckets`
    Buckets,
    /// `GET|PUT|DELETE /v1/buckets/{bucket}`
    Bucket(Verb, String),
    /// `GET|HEAD /v1/kv/{bucket}`
    List(String),
    /// `GET|HEAD|PUT|POST|DELETE /v1/kv/{bucket}/{key}`
    Record(Verb, String, String),
    /// `GET /v1/backup/{bucket}`
    Backup(String),
    /// `POST /v1/batch`
    Batch,
    /// `GET /v1/requests/{id}`
    Request(String),
    /// `GET|PUT|DELETE /v1/locks/{name}`
    Lock(Verb, String),
    /// `POST /v1/locks/{name}/renew`
    LockRenewal(String),
    /// `GET /v1/ring`
    Ring,
    /// `GET /v1/route/{bucket}/{key}`
    Route(String, String),
    /// `GET /v1/explain/{bucket}/{key}`
    Explain(String, String),
    /// `GET /problems/{code}`
    ProblemPage(String),
    /// `GET /openapi.json`
    OpenApi,
    /// `GET /docs`
    Docs,
}

/// The methods that some path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read.
    Get,
    /// Read without the body.
    Head,
    /// Make or replace.
    Put,
    /// Change.
    Post,
    /// Remove.
    Delete,
}

impl Verb {
    const ALL: [Verb; 5] = [Verb::Get, Verb::Head, Verb::Put, Verb::Post, Verb::Delete];

    /// The method's name.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Head => "HEAD",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        }
    }

    /// Whether it can change anything.
    pub const fn writes(self) -> bool {
        matches!(self, Verb::Put | Verb::Post | Verb::Delete)
    }
}

/// One line of the table of paths: what `/openapi.json` is held to, and `/docs` shows.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The path with its parameters, as in an OpenAPI document.
    pub pattern: &'static str,
    /// What it takes.
    pub verbs: &'static [Verb],
    /// What it is for.
    pub summary: &'static str,
}

const READ: &[Verb] = &[Verb::Get, Verb::Head];

/// Every path that the gateway answers, those of `telemetry::ops` included.
pub const ROUTES: &[Route] = &[
    Route { pattern: "/v1/buckets", verbs: READ, summary: "List the buckets" },
    Route {
        pattern: "/v1/buckets/{bucket}",
        verbs: &[Verb::Get, Verb::Head, Verb::Put, Verb::Delete],
        summary: "A bucket's definition",
    },
    Route { pattern: "/v1/kv/{bucket}", verbs: READ, summary: "Which keys there are" },
    Route {
        pattern: "/v1/kv/{bucket}/{key}",
        verbs: &[Verb::Get, Verb::Head, Verb::Put, Verb::Post, Verb::Delete],
        summary: "A record",
    },
    Route { pattern: "/v1/backup/{bucket}", verbs: READ, summary: "All that a bucket holds, arc by arc" },
    Route { pattern: "/v1/batch", verbs: &[Verb::Post], summary: "Operations one a line, each on its own" },
    Route { pattern: "/v1/requests/{id}", verbs: READ, summary: "What became of a write" },
    Route {
        pattern: "/v1/locks/{name}",
        verbs: &[Verb::Get, Verb::Head, Verb::Put, Verb::Delete],
        summary: "A lock with a lease and a fencing token",
    },
    Route { pattern: "/v1/locks/{name}/renew", verbs: &[Verb::Post], summary: "Hold a lock for longer" },
    Route { pattern: "/v1/ring", verbs: READ, summary: "The view, and who can be reached" },
    Route { pattern: "/v1/route/{bucket}/{key}", verbs: READ, summary: "Which node holds a key" },
    Route { pattern: "/v1/explain/{bucket}/{key}", verbs: READ, summary: "What each replica of a key holds" },
    Route { pattern: "/problems/{code}", verbs: READ, summary: "What a problem means" },
    Route { pattern: "/openapi.json", verbs: READ, summary: "This interface, as OpenAPI" },
    Route { pattern: "/docs", verbs: READ, summary: "This interface, for people" },
    Route { pattern: "/livez", verbs: &[Verb::Get], summary: "Whether the process answers" },
    Route { pattern: "/readyz", verbs: &[Verb::Get], summary: "Whether it can serve" },
    Route { pattern: "/metrics", verbs: &[Verb::Get], summary: "Figures, as OpenMetrics" },
    Route { pattern: "/version", verbs: &[Verb::Get], summary: "Which build this is" },
];

/// Paths that the interface documents and that are not offered yet, with what serves instead.
const NOT_YET: &[(&str, &str)] = &[
    ("/v1/sessions", "a record in the bucket `records` can hold a session"),
    ("/v1/sites", "a record with a Content-Type can hold a file"),
    ("/site/", "a record with a Content-Type can hold a file"),
    ("/v1/functions", "functions come with a later version"),
    ("/fn/", "functions come with a later version"),
];

/// What a request line asks for.
///
/// # Errors
/// `no-such-path`, `method` with the methods allowed, `bad-key`, `bad-request` for broken encoding elsewhere, and
/// `not-offered` for what is documented and not there yet.
pub fn parse(method: &str, path: &str) -> Result<Call, Refuse> {
    let verb = Verb::ALL.into_iter().find(|verb| verb.name() == method);
    let (route, call): (&str, Option<Call>) = match *segments(path).as_slice() {
        ["openapi.json"] => ("/openapi.json", Some(Call::OpenApi)),
        ["docs"] => ("/docs", Some(Call::Docs)),
        ["problems", code] => ("/problems/{code}", Some(Call::ProblemPage(decode(code)?))),
        ["v1", "ring"] => ("/v1/ring", Some(Call::Ring)),
        ["v1", "buckets"] => ("/v1/buckets", Some(Call::Buckets)),
        ["v1", "buckets", bucket] => {
            let bucket = decode(bucket)?;
            ("/v1/buckets/{bucket}", verb.map(|verb| Call::Bucket(verb, bucket)))
        }
        ["v1", "backup", bucket] => ("/v1/backup/{bucket}", Some(Call::Backup(decode(bucket)?))),
        ["v1", "batch"] => ("/v1/batch", Some(Call::Batch)),
        ["v1", "requests", id] => ("/v1/requests/{id}", Some(Call::Request(decode(id)?))),
        ["v1", "locks", name] => {
            let name = decode_key(name)?;
            ("/v1/locks/{name}", verb.map(|verb| Call::Lock(verb, name)))
        }
        ["v1", "locks", name, "renew"] => ("/v1/locks/{name}/renew", Some(Call::LockRenewal(decode_key(name)?))),
        ["v1", "kv", bucket] => ("/v1/kv/{bucket}", Some(Call::List(decode(bucket)?))),
        ["v1", "kv", bucket, key] => {
            let (bucket, key) = (decode(bucket)?, decode_key(key)?);
            ("/v1/kv/{bucket}/{key}", verb.map(|verb| Call::Record(verb, bucket, key)))
        }
        ["v1", "route", bucket, key] => {
            ("/v1/route/{bucket}/{key}", Some(Call::Route(decode(bucket)?, decode_key(key)?)))
        }
        ["v1", "explain", bucket, key] => {
            ("/v1/explain/{bucket}/{key}", Some(Call::Explain(decode(bucket)?, decode_key(key)?)))
        }
        // `telemetry::ops` takes their GET before it comes here.
        ["livez" | "readyz" | "metrics" | "version"] => return Err(wrong_method(method, &[Verb::Get])),
        _ => return Err(no_such_path(path)),
    };
    let verbs = ROUTES.iter().find(|known| known.pattern == route).map_or(READ, |known| known.verbs);
    match (verb, call) {
        (Some(verb), Some(call)) if verbs.contains(&verb) => Ok(call),
        _ => Err(wrong_method(method, verbs)),
    }
}

/// The pattern of [`ROUTES`] that a call belongs to: the low-cardinality name for spans and metrics.
pub fn pattern(call: &Call) -> &'static str {
    match call {
        Call::Buckets => "/v1/buckets",
        Call::Bucket(..) => "/v1/buckets/{bucket}",
        Call::List(_) => "/v1/kv/{bucket}",
        Call::Record(..) => "/v1/kv/{bucket}/{key}",
        Call::Backup(_) => "/v1/backup/{bucket}",
        Call::Batch => "/v1/batch",
        Call::Request(_) => "/v1/requests/{id}",
        Call::Lock(..) => "/v1/locks/{name}",
        Call::LockRenewal(_) => "/v1/locks/{name}/renew",
        Call::Ring => "/v1/ring",
        Call::Route(..) => "/v1/route/{bucket}/{key}",
        Call::Explain(..) => "/v1/explain/{bucket}/{key}",
        Call::ProblemPage(_) => "/problems/{code}",
        Call::OpenApi => "/openapi.json",
        Call::Docs => "/docs",
    }
}

/// The path's parts. A key is everything after its bucket, slashes included, so such paths have at most four parts.
fn segments(path: &str) -> Vec<&str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    if ["v1/kv/", "v1/route/", "v1/explain/"].iter().any(|prefix| path.starts_with(prefix)) {
        path.splitn(4, '/').collect()
    } else {
        path.split('/').collect()
    }
}

fn no_such_path(path: &str) -> Refuse {
    match NOT_YET.iter().find(|(prefix, _)| path.starts_with(prefix)) {
        Some((prefix, instead)) => Refuse::not_offered(prefix.trim_end_matches('/'), instead),
        None => Refuse::new(ProblemCode::NoSuchPath, "nothing is at this path; `/docs` lists what there is"),
    }
}

fn wrong_method(method: &str, verbs: &[Verb]) -> Refuse {
    let allow = verbs.iter().map(|verb| verb.name()).collect::<Vec<_>>().join(", ");
    // A method's name is a token of visible characters, but it may be long.
    let method: String = method.chars().take(32).collect();
    Refuse::new(ProblemCode::Method, format!("this path takes {allow}, not {method}")).header("allow", allow)
}

fn decode(part: &str) -> Result<String, Refuse> {
    percent_decode(part).ok_or_else(|| Refuse::bad_request("a part of the path is not percent-encoded UTF-8"))
}

fn decode_key(part: &str) -> Result<String, Refuse> {
    wire::http::decode_key(part).map_err(|why| Refuse::new(ProblemCode::BadKey, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(method: &str, path: &str) -> &'static str {
        parse(method, path).expect_err("must be refused").code().code()
    }

    fn key(path: &str) -> String {
        match parse("GET", path).expect("a record") {
            Call::Record(Verb::Get, bucket, key) => {
                assert_eq!(bucket, "records");
                key
            }
            other => panic!("not a record: {other:?}"),
        }
    }

    #[test]
    fn keys_are_any_utf8_with_slashes() {
        assert_eq!(key("/v1/kv/records/a/b//c"), "a/b//c");
        assert_eq!(key("/v1/kv/records/a%2Fb"), "a/b");
        assert_eq!(key("/v1/kv/records/%0A%00"), "\n\0");
        assert_eq!(key("/v1/kv/records/%C3%A4+b"), "ä+b", "a plus is a plus");
        assert_eq!(key("/v1/kv/records/../x"), "../x", "dots are part of the key");
        assert_eq!(key("/v1/kv/records//"), "/");
        assert_eq!(key(&format!("/v1/kv/records/{}", "k".repeat(1_024))).len(), 1_024);
    }

    #[test]
    fn broken_keys_are_named_as_such() {
        for broken in ["", "%", "%2", "%zz", "%FF", "%C3", &"k".repeat(1_025)] {
            assert_eq!(code("GET", &format!("/v1/kv/records/{broken}")), "bad-key", "{broken}");
        }
        assert_eq!(code("GET", "/v1/kv/%zz/k"), "bad-request");
    }

    #[test]
    fn unknown_paths_and_methods_are_told_apart() {
        assert_eq!(code("GET", "/"), "no-such-path");
        assert_eq!(code("GET", "/v2/kv/records/k"), "no-such-path");
        assert_eq!(code("GET", "/v1/ring/"), "no-such-path");
        assert_eq!(code("POST", "/v1/ring"), "method");
        assert_eq!(code("PATCH", "/v1/kv/records/k"), "method");
        assert_eq!(code("BREW", "/v1/buckets/b"), "method");
        assert_eq!(code("POST", "/v1/locks/l"), "method");
        assert_eq!(code("GET", "/v1/locks"), "no-such-path");
        assert_eq!(code("GET", "/v1/locks/"), "bad-key");
        assert_eq!(code("POST", "/v1/sessions"), "not-offered");
        assert_eq!(code("PUT", "/v1/kv/records"), "method");
        assert_eq!(code("GET", "/v1/kv/%zz"), "bad-request");
    }

    #[test]
    fn every_call_has_its_line_in_the_table() {
        for (method, path) in [
            ("GET", "/v1/buckets"),
            ("PUT", "/v1/buckets/b"),
            ("GET", "/v1/kv/b"),
            ("POST", "/v1/kv/b/k"),
            ("GET", "/v1/backup/b"),
            ("POST", "/v1/batch"),
            ("GET", "/v1/requests/r"),
            ("PUT", "/v1/locks/l"),
            ("POST", "/v1/locks/l/renew"),
            ("GET", "/v1/ring"),
            ("GET", "/v1/route/b/k"),
            ("GET", "/v1/explain/b/k"),
            ("GET", "/problems/method"),
            ("GET", "/openapi.json"),
            ("GET", "/docs"),
        ] {
            let call = parse(method, path).expect("a call");
            assert!(ROUTES.iter().any(|route| route.pattern == pattern(&call)), "{path}");
        }
    }
}
