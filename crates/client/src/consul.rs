//! A small typed client of the Consul HTTP API (version 1).
//!
//! Only documented calls are made and only documented fields are read, so that it works against a real Consul as well
//! as against our discovery. A call that is not blocking takes at most [`CALL_TIMEOUT`]; a blocking one at most its
//! wait time, the server's jitter and [`CALL_TIMEOUT`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::{Method, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

pub use crate::consul_line::Address;
use crate::consul_line::{Answer, Line, NoAnswer, Source};
pub use crate::consul_types::{
    AgentService, CatalogService, HealthCheck, KvPair, Node, ReplicaInfo, ServiceEntry, ServiceRegistration, Status,
};
use crate::consul_types::{KvPairJson, ReplicasJson};

/// The bound on a call that does not block.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The bound on opening a connection: discovery is near, or it is not there.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of one Consul agent, or of our discovery with all its replicas. Cloning shares its connections.
///
/// Of several addresses the last one that worked is asked. When it does not answer, or says that it sees no leader, the
/// next one is asked at once; but for a compare-and-set whose fate is unknown, which is the caller's to look into.
#[derive(Clone, Debug)]
pub struct Consul {
    line: Line,
    bases: Arc<[String]>,
    /// Which of them is asked first; shared by all clones.
    current: Arc<AtomicUsize>,
}

/// A call, so that it can be made at one address after the other.
struct Call<'a> {
    method: Method,
    call: &'a str,
    query: &'a [(&'static str, String)],
    body: Bytes,
    timeout: Duration,
    /// Whether doing it twice is as good as once.
    repeatable: bool,
}

/// Waits in the server until the answer's index passes `index`, for at most `wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// The index of the last answer; 0 answers at once.
    pub index: u64,
    /// How long to wait for a change; Consul adds up to a sixteenth.
    pub wait: Duration,
}

/// An answer with the index to block on next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexed<T> {
    /// `X-Consul-Index`, at least 1. When it is below the one asked with, ask with 0 next: the server started anew.
    pub index: u64,
    /// The answer.
    pub value: T,
}

/// Which instances of a service are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthQuery {
    /// Only those whose checks all pass.
    pub passing: bool,
    /// Only those with this tag.
    pub tag: Option<String>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// The base URL is not one. No call was made; the settings must be changed.
    #[error(
        "{0:?} is not the address of a discovery; give a URL such as http://127.0.0.1:8500, or several with \
         commas between"
    )]
    Address(String),
    /// No answer came. A write may have been done or not; the caller may try again.
    #[error("discovery at {base} does not answer")]
    Unreachable {
        /// The base URL that was tried last.
        base: String,
        /// What went wrong on the way.
        #[source]
        source: Source,
    },
    /// A file with a certificate or a key cannot be used. No call was made; the settings must be changed.
    #[error("{path} cannot be used to speak with discovery over TLS: {why}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The token cannot be sent. No call was made; the settings must be changed.
    #[error("discovery's token holds characters that no token has")]
    Token,
    /// The server refused. Nothing was changed, unless `status` is 5xx.
    #[error("discovery answered {status} to {call}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Which call it was.
        call: String,
        /// What the server said.
        message: String,
    },
    /// The answer is not what Consul's documents promise: something else listens at that address.
    #[error("the answer to {call} is not what Consul gives ({why}); is something else listening there?")]
    Unreadable {
        /// Which call it was.
        call: String,
        /// What was expected or missing.
        why: String,
    },
}

impl ConsulError {
    /// Whether the server has no such thing (404): an agent that has forgotten a check answers so.
    pub fn is_unknown(&self) -> bool {
        matches!(self, ConsulError::Refused { status: 404, .. })
    }
}

impl Consul {
    /// A client of the agent at `base_urls` (`http://127.0.0.1:8500`), or of any of several, separated by commas. Opens
    /// no connection yet.
    ///
    /// # Errors
    /// [`ConsulError::Address`].
    pub fn new(base_urls: &str) -> Result<Consul, ConsulError> {
        Consul::open(&Address::from(base_urls))
    }

    /// As [`Consul::new`], with a token, and over TLS where the address says `https`.
    ///
    /// # Errors
    /// [`ConsulError::Address`], [`ConsulError::Certificate`], [`ConsulError::Token`].
    pub fn open(address: &Address) -> Result<Consul, ConsulError> {
        let bases = address.urls.split(',').map(|base| base.trim().trim_end_matches('/').to_owned());
        let bases: Vec<String> = bases.collect();
        let mut tls = false;
        for base in &bases {
            let parsed: Option<Uri> = base.parse().ok();
            let has_host = parsed.as_ref().and_then(Uri::host).is_some_and(|host| !host.is_empty());
            match parsed.as_ref().and_then(Uri::scheme_str) {
                Some("http") if has_host => {}
                Some("https") if has_host => tls = true,
                _ => return Err(ConsulError::Address(address.urls.clone())),
            }
        }
        Ok(Consul { line: Line::new(address, tls)?, bases: bases.into(), current: Arc::default() })
    }

    /// The base URL that is asked first.
    pub fn base(&self) -> &str {
        &self.bases[self.current.load(Ordering::Relaxed) % self.bases.len()]
    }

    /// Registers a service with its TTL check (`PUT /v1/agent/service/register`); again is harmless.
    ///
    /// A check that the agent already knows keeps its status: renew it afterwards.
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn register(&self, registration: &ServiceRegistration) -> Result<(), ConsulError> {
        let body = registration.body().to_string();
        self.put("agent/service/register", &[], body.into_bytes()).await.map(|_| ())
    }

    /// Removes a service and its checks (`PUT /v1/agent/service/deregister/:id`).
    ///
    /// # Errors
    /// See [`ConsulError`]; a 404 says that the agent did not know it.
    pub async fn deregister(&self, service_id: &str) -> Result<(), ConsulError> {
        self.put(&format!("agent/service/deregister/{}", segment(service_id)), &[], Vec::new()).await.map(|_| ())
    }

    /// Renews a TTL check as passing (`PUT /v1/agent/check/pass/:id`).
    ///
    /// # Errors
    /// See [`ConsulError`]; a 404 says that the agent has forgotten the check: register again.
    pub async fn check_pass(&self, check_id: &str) -> Result<(), ConsulError> {
        self.put(&format!("agent/check/pass/{}", segment(check_id)), &[], Vec::new()).await.map(|_| ())
    }

    /// Turns a TTL check critical (`PUT /v1/agent/check/fail/:id`), saying why.
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn check_fail(&self, check_id: &str, note: &str) -> Result<(), ConsulError> {
        let query = [("note", note.to_owned())];
        self.put(&format!("agent/check/fail/{}", segment(check_id)), &query, Vec::new()).await.map(|_| ())
    }

    /// The services registered with this agent, by id (`GET /v1/agent/services`).
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn agent_services(&self) -> Result<BTreeMap<String, AgentService>, ConsulError> {
        let response = self.get("agent/services", Vec::new(), None).await?;
        read_json("agent/services", &response)
    }

    /// The names of all services with their tags (`GET /v1/catalog/services`).
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn catalog_services(
        &self,
        blocking: Option<Blocking>,
    ) -> Result<Indexed<BTreeMap<String, Vec<String>>>, ConsulError> {
        self.get_indexed("catalog/services", Vec::new(), blocking).await
    }

    /// The instances of a service, whatever their health (`GET /v1/catalog/service/:service`).
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn catalog_service(
        &self,
        name: &str,
        blocking: Option<Blocking>,
    ) -> Result<Indexed<Vec<CatalogService>>, ConsulError> {
        self.get_indexed(&format!("catalog/service/{}", segment(name)), Vec::new(), blocking).await
    }

    /// The instances of a service with their checks (`GET /v1/health/service/:service`).
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn health_service(
        &self,
        name: &str,
        wanted: &HealthQuery,
        blocking: Option<Blocking>,
    ) -> Result<Indexed<Vec<ServiceEntry>>, ConsulError> {
        let mut query = Vec::new();
        if wanted.passing {
            query.push(("passing", "true".to_owned()));
        }
        if let Some(tag) = &wanted.tag {
            query.push(("tag", tag.clone()));
        }
        self.get_indexed(&format!("health/service/{}", segment(name)), query, blocking).await
    }

    /// The pair under `key`, if there is one (`GET /v1/kv/:key`). An absent key can be blocked on too.
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn kv_get(&self, key: &str, blocking: Option<Blocking>) -> Result<Indexed<Option<KvPair>>, ConsulError> {
        let pairs = self.kv_read(key, Vec::new(), blocking).await?;
        Ok(Indexed { index: pairs.index, value: pairs.value.into_iter().next() })
    }

    /// All pairs under `prefix`, in key order (`GET /v1/kv/:prefix?recurse`).
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn kv_list(&self, prefix: &str, blocking: Option<Blocking>) -> Result<Indexed<Vec<KvPair>>, ConsulError> {
        self.kv_read(prefix, vec![("recurse", "true".to_owned())], blocking).await
    }

    /// Writes a pair whatever stands there (`PUT /v1/kv/:key`).
    ///
    /// # Errors
    /// See [`ConsulError`]; without an answer the write may have been done.
    pub async fn kv_put(&self, key: &str, value: &[u8]) -> Result<bool, ConsulError> {
        self.kv_write(Method::PUT, key, &[], value.to_vec()).await
    }

    /// Writes a pair if its modify index still is `modify_index`; 0 means that it must not exist.
    ///
    /// True: written. False: another write came first.
    ///
    /// # Errors
    /// See [`ConsulError`]; without an answer the write may have been done.
    pub async fn kv_cas(&self, key: &str, value: &[u8], modify_index: u64) -> Result<bool, ConsulError> {
        self.kv_write(Method::PUT, key, &[("cas", modify_index.to_string())], value.to_vec()).await
    }

    /// Deletes a pair (`DELETE /v1/kv/:key`); an absent one too.
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn kv_delete(&self, key: &str) -> Result<bool, ConsulError> {
        self.kv_write(Method::DELETE, key, &[], Vec::new()).await
    }

    /// Deletes a pair if its modify index still is `modify_index`, which is not 0.
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn kv_delete_cas(&self, key: &str, modify_index: u64) -> Result<bool, ConsulError> {
        self.kv_write(Method::DELETE, key, &[("cas", modify_index.to_string())], Vec::new()).await
    }

    /// The replicas (`GET /v1/operator/raft/configuration`).
    ///
    /// # Errors
    /// See [`ConsulError`]; without a leader a replica refuses.
    pub async fn replicas(&self) -> Result<Vec<ReplicaInfo>, ConsulError> {
        let call = "operator/raft/configuration";
        let response = self.get(call, Vec::new(), None).await?;
        let found: ReplicasJson = read_json(call, &response)?;
        Ok(found.servers)
    }

    /// Takes a replica out for good (`DELETE /v1/operator/raft/peer?id=`).
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn remove_replica(&self, id: &str) -> Result<(), ConsulError> {
        let (call, query) = ("operator/raft/peer", [("id", id.to_owned())]);
        let method = Method::DELETE;
        let made = Call { method, call, query: &query, body: Bytes::new(), timeout: CALL_TIMEOUT, repeatable: false };
        accept(call, self.send(made).await?).map(drop)
    }

    /// Everything that it holds (`GET /v1/snapshot`), packed.
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn snapshot(&self) -> Result<Vec<u8>, ConsulError> {
        let response = self.get("snapshot", Vec::new(), None).await?;
        Ok(response.body.to_vec())
    }

    /// Replaces everything that it holds by a snapshot (`PUT /v1/snapshot`).
    ///
    /// # Errors
    /// See [`ConsulError`].
    pub async fn restore(&self, snapshot: Vec<u8>) -> Result<(), ConsulError> {
        self.put("snapshot", &[], snapshot).await.map(drop)
    }

    async fn kv_read(
        &self,
        key: &str,
        query: Vec<(&'static str, String)>,
        blocking: Option<Blocking>,
    ) -> Result<Indexed<Vec<KvPair>>, ConsulError> {
        let call = format!("kv/{}", path(key));
        let response = self.send_get(&call, query, blocking).await?;
        let index = read_index(&call, &response)?;
        if response.status == StatusCode::NOT_FOUND {
            return Ok(Indexed { index, value: Vec::new() });
        }
        let pairs: Vec<KvPairJson> = read_json(&call, &accept(&call, response)?)?;
        let value: Result<Vec<KvPair>, ConsulError> = pairs.into_iter().map(|pair| read_pair(&call, pair)).collect();
        Ok(Indexed { index, value: value? })
    }

    async fn kv_write(
        &self,
        method: Method,
        key: &str,
        query: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> Result<bool, ConsulError> {
        let call = format!("kv/{}", path(key));
        let repeatable = query.is_empty();
        let made = Call { method, call: &call, query, body: body.into(), timeout: CALL_TIMEOUT, repeatable };
        read_json(&call, &accept(&call, self.send(made).await?)?)
    }

    async fn put(&self, call: &str, query: &[(&'static str, String)], body: Vec<u8>) -> Result<Answer, ConsulError> {
        let body = body.into();
        let made = Call { method: Method::PUT, call, query, body, timeout: CALL_TIMEOUT, repeatable: true };
        accept(call, self.send(made).await?)
    }

    async fn get_indexed<T: DeserializeOwned>(
        &self,
        call: &str,
        query: Vec<(&'static str, String)>,
        blocking: Option<Blocking>,
    ) -> Result<Indexed<T>, ConsulError> {
        let response = self.get(call, query, blocking).await?;
        let index = read_index(call, &response)?;
        Ok(Indexed { index, value: read_json(call, &response)? })
    }

    async fn get(
        &self,
        call: &str,
        query: Vec<(&'static str, String)>,
        blocking: Option<Blocking>,
    ) -> Result<Answer, ConsulError> {
        accept(call, self.send_get(call, query, blocking).await?)
    }

    async fn send_get(
        &self,
        call: &str,
        mut query: Vec<(&'static str, String)>,
        blocking: Option<Blocking>,
    ) -> Result<Answer, ConsulError> {
        let mut timeout = CALL_TIMEOUT;
        if let Some(Blocking { index, wait }) = blocking {
            query.push(("index", index.to_string()));
            query.push(("wait", format!("{}ms", wait.as_millis())));
            timeout += wait + wait / 16;
        }
        let (method, query) = (Method::GET, &query[..]);
        self.send(Call { method, call, query, body: Bytes::new(), timeout, repeatable: true }).await
    }

    /// Makes a call at the address that worked last, else at the others in turn.
    async fn send(&self, call: Call<'_>) -> Result<Answer, ConsulError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for at in (0..self.bases.len()).map(|step| (first + step) % self.bases.len()) {
            let base = &self.bases[at];
            let url = url(base, &call);
            let answer = self.line.ask(call.method.clone(), &url, call.body.clone(), call.timeout).await;
            let again = match &answer {
                Err(NoAnswer::NotSent(_)) => true,
                Err(NoAnswer::Unknown(_)) => call.repeatable,
                Ok(answer) => call.repeatable && answer.status == StatusCode::INTERNAL_SERVER_ERROR,
            };
            let answer = answer.map_err(|no_answer| {
                let (NoAnswer::NotSent(source) | NoAnswer::Unknown(source)) = no_answer;
                ConsulError::Unreachable { base: base.clone(), source }
            });
            if !again {
                self.current.store(at, Ordering::Relaxed);
                return answer;
            }
            last = Some(answer);
        }
        last.unwrap_or_else(|| Err(ConsulError::Address(String::new())))
    }
}

fn url(base: &str, call: &Call<'_>) -> String {
    let mut url = format!("{base}/v1/{}", call.call);
    for (at, (name, value)) in call.query.iter().enumerate() {
        url.push(if at == 0 { '?' } else { '&' });
        url.push_str(name);
        url.push('=');
        url.push_str(&segment(value));
    }
    url
}

/// Keeps in a path segment what RFC 3986 calls unreserved, and the colon of check ids.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The same for keys, whose slashes stay.
const KEY: &AsciiSet = &SEGMENT.remove(b'/');

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn path(key: &str) -> String {
    utf8_percent_encode(key, KEY).to_string()
}

/// The answer if it is a success; else what the server said.
fn accept(call: &str, answer: Answer) -> Result<Answer, ConsulError> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let message = String::from_utf8_lossy(&answer.body).trim().to_owned();
    Err(ConsulError::Refused { status: answer.status.as_u16(), call: call.to_owned(), message })
}

/// The index to block on next. Refusals carry none, so they are told apart first.
fn read_index(call: &str, answer: &Answer) -> Result<u64, ConsulError> {
    let header = answer.headers.get("X-Consul-Index");
    let index = header.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    match index {
        Some(index) => Ok(index.max(1)),
        None if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND => {
            Err(unreadable(call, "the header X-Consul-Index is missing"))
        }
        None => Ok(1),
    }
}

fn read_json<T: DeserializeOwned>(call: &str, answer: &Answer) -> Result<T, ConsulError> {
    serde_json::from_slice(&answer.body).map_err(|error| unreadable(call, &error.to_string()))
}

fn read_pair(call: &str, pair: KvPairJson) -> Result<KvPair, ConsulError> {
    let decoded = BASE64.decode(pair.value.unwrap_or_default());
    let value = decoded.map_err(|error| unreadable(call, &format!("a value is not base64: {error}")))?;
    let KvPairJson { key, flags, create_index, modify_index, lock_index, .. } = pair;
    Ok(KvPair { key, value, flags, create_index, modify_index, lock_index })
}

fn unreadable(call: &str, why: &str) -> ConsulError {
    ConsulError::Unreadable { call: call.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_http_are_taken() {
        assert_eq!(Consul::new("http://127.0.0.1:8500/").expect("an address").base(), "http://127.0.0.1:8500");
        let several = Consul::new("http://a:1, http://b:2/").expect("addresses");
        assert_eq!(&several.bases[..], ["http://a:1", "http://b:2"]);
        for bad in ["", "127.0.0.1:8500", "ftp://x", "http://", "http://a,", "http://a,b"] {
            assert!(matches!(Consul::new(bad), Err(ConsulError::Address(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_cannot_be_trusted_or_sent_is_said_at_once_and_a_secret_is_not_shown() {
        let secure = Address { token: Some("hidden".to_owned()), ..Address::from("https://a:1") };
        let consul = Consul::open(&secure).expect("the system's authorities will do");
        for shown in [format!("{secure:?}"), format!("{consul:?}")] {
            assert!(!shown.contains("hidden"), "{shown}");
        }
        let missing = Address { authority: Some("no-such-file.pem".into()), ..secure.clone() };
        assert!(matches!(Consul::open(&missing), Err(ConsulError::Certificate { .. })));
        let odd = Address { token: Some("a\nb".to_owned()), ..secure };
        assert!(matches!(Consul::open(&odd), Err(ConsulError::Token)));
    }

    #[test]
    fn a_query_is_part_of_the_address() {
        let query = [("index", "7".to_owned()), ("note", "a b&c".to_owned())];
        let (method, timeout) = (Method::GET, CALL_TIMEOUT);
        let call = Call { method, call: "kv/x", query: &query, body: Bytes::new(), timeout, repeatable: true };
        assert_eq!(url("http://h:1", &call), "http://h:1/v1/kv/x?index=7&note=a%20b%26c");
    }

    #[test]
    fn keys_keep_their_slashes_and_names_do_not() {
        assert_eq!(path("everring/a b?c"), "everring/a%20b%3Fc");
        assert_eq!(segment("service:a/b"), "service:a%2Fb");
    }
}
