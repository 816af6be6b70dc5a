//! TLS by rustls with ring: the API's own certificate, and what active checks trust.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

/// The API's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and those that lead to its authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The authority that clients' certificates must come from, in PEM; none lets everybody connect.
    pub client_authority: Option<PathBuf>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds something else.
    #[error("cannot read {what} from {path}: {why}")]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The files do not belong together.
    #[error("the certificate cannot be used ({0}); do the certificate and the key belong together?")]
    Unusable(String),
}

/// What the server needs to speak TLS.
pub(crate) fn server_config(config: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&config.certificate, "a certificate")?;
    let key = PrivateKeyDer::from_pem_file(&config.key);
    let file = |why: String| TlsError::File { what: "a private key", path: config.key.clone(), why };
    let key = key.map_err(|error| file(error.to_string()))?;
    let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(unusable)?;
    let builder = match &config.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, "the authority of client certificates")? {
                roots.add(authority).map_err(unusable)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Unusable(error.to_string()))?)
        }
    };
    builder.with_single_cert(chain, key).map_err(unusable)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |why: String| TlsError::File { what, path: path.to_owned(), why };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| file(error.to_string()))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| file(error.to_string()))?;
    if found.is_empty() { Err(file("it holds none".to_owned())) } else { Ok(found) }
}

/// What active checks trust: the system's authorities, or anybody where a check says so.
pub(crate) fn client_config(any_certificate: bool) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("ring speaks the default versions");
    if any_certificate {
        let verifier = Arc::new(Anybody(provider()));
        return builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system_authorities());
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Debian's, Fedora's and Alpine's bundle of authorities; none makes every check over TLS critical, and say why.
fn system_authorities() -> Vec<CertificateDer<'static>> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let places = named.into_iter().chain(usual.map(PathBuf::from));
    let read = |path: PathBuf| -> io::Result<Vec<u8>> { std::fs::read(path) };
    let bundle = places.map(read).find_map(Result::ok).unwrap_or_default();
    CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes any certificate, for checks that ask for it (`TLSSkipVerify`).
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
