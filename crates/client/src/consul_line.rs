//! The way to one of discovery's addresses and back, plain or over TLS.
//!
//! By hyper and rustls, not by reqwest: reqwest's TLS takes its cryptography from one provider of the whole process,
//! and every other client in it would end the process that did not choose one first (decision 0039).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::consul::{CONNECT_TIMEOUT, ConsulError};

/// An idle connection is given up before a server would close it under the next call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// A blocking query is silent for minutes on purpose; keep-alives find out whether its server is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The longest answer that is read: a snapshot of a full registry, with room to spare.
const ANSWER_BYTES_MAX: usize = 256 << 20;
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// Where discovery is, and how it is to be spoken to.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// The base URL (`http://127.0.0.1:8500`), or several with commas between, tried in turn.
    pub urls: String,
    /// The secret of a token, for a discovery that keeps access lists.
    pub token: Option<String>,
    /// The authority (PEM) that its certificate has to come from, for `https`; none trusts the system's authorities.
    pub authority: Option<PathBuf>,
    /// The own certificate with those that lead to its authority, and its private key, both in PEM; for a discovery
    /// that takes only clients that show one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl From<&str> for Address {
    fn from(urls: &str) -> Address {
        Address { urls: urls.to_owned(), ..Address::default() }
    }
}

impl From<String> for Address {
    fn from(urls: String) -> Address {
        Address { urls, ..Address::default() }
    }
}

/// The token is nobody's business.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Address");
        shown.field("urls", &self.urls).field("authority", &self.authority).field("certificate", &self.certificate);
        shown.finish_non_exhaustive()
    }
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// No connection: the server surely did nothing.
    NotSent(Source),
    /// It may have done what it was asked for.
    Unknown(Source),
}

pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// Connections to any of the addresses. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    token: Option<HeaderValue>,
}

impl Line {
    /// Opens no connection yet.
    pub(crate) fn new(address: &Address, tls: bool) -> Result<Line, ConsulError> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEP_ALIVE));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let trusted = if tls { trust(address)? } else { trust_nobody() };
        let builder = HttpsConnectorBuilder::new().with_tls_config(trusted).https_or_http().enable_http1();
        let connector = builder.wrap_connector(connector);
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT);
        let token = address.token.as_deref().filter(|token| !token.is_empty()).map(HeaderValue::from_str).transpose();
        let mut token = token.map_err(|_| ConsulError::Token)?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Line { http: client.build(connector), token })
    }

    /// Asks, within `timeout` from the connection's opening to the answer's end.
    pub(crate) async fn ask(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, NoAnswer> {
        let mut request = Request::builder().method(method).uri(url).header(CONTENT_LENGTH, body.len());
        if let Some(token) = &self.token {
            request = request.header(TOKEN, token);
        }
        let request = request.body(Full::new(body)).map_err(|error| NoAnswer::NotSent(error.into()))?;
        let answered = async {
            let answer = self.http.request(request).await.map_err(|error| {
                if error.is_connect() { NoAnswer::NotSent(error.into()) } else { NoAnswer::Unknown(error.into()) }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(NoAnswer::Unknown)?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        let late = |_| NoAnswer::Unknown(Box::new(Late(timeout)));
        tokio::time::timeout(timeout, answered).await.map_err(late)?
    }
}

/// No answer within the time that there was for it.
#[derive(Debug, thiserror::Error)]
#[error("there was no answer within {0:?}")]
struct Late(Duration);

/// For addresses without TLS, of which one cannot change under way.
fn trust_nobody() -> ClientConfig {
    versions().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn trust(address: &Address) -> Result<ClientConfig, ConsulError> {
    let mut roots = RootCertStore::empty();
    match &address.authority {
        Some(path) => {
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| unusable(path, &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = versions().with_root_certificates(roots);
    let Some((certificate, key)) = &address.certificate else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable(certificate, &error))
}

fn versions() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("ring speaks the default versions")
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConsulError> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| unusable(path, &error))?;
    if found.is_empty() { Err(unusable(path, &"it holds no certificate")) } else { Ok(found) }
}

fn unusable(path: &Path, why: &dyn fmt::Display) -> ConsulError {
    ConsulError::Certificate { path: path.to_owned(), why: why.to_string() }
}
