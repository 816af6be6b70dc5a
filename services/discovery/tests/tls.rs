//! The API over TLS: with its certificate, and with clients that must show one of theirs.

mod common;

use std::path::Path;

use client::consul::{Address, Blocking, Consul};
use discovery::{AclConfig, Config, Discovery, StartError, TlsConfig};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

struct Signed {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
    key_der: PrivateKeyDer<'static>,
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Signed {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            key_der: PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        }
    }
}

/// Writes a certificate's files; gives what discovery is told of them.
fn files(dir: &Path, signed: &Signed, client_authority: Option<&Authority>) -> TlsConfig {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    TlsConfig {
        certificate: write("certificate.pem", &signed.certificate),
        key: write("key.pem", &signed.key),
        client_authority: client_authority.map(|authority| write("authority.pem", &authority.0.pem())),
    }
}

/// The status of one GET, or why there is none.
async fn get(address: &str, trusted: &Authority, own: Option<&Signed>) -> Result<u16, String> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(trusted.0.der().clone()).expect("an authority");
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let builder = builder.with_root_certificates(roots);
    let tls = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            builder.with_client_auth_cert(vec![own.der.clone()], own.key_der.clone_key()).expect("they belong together")
        }
    };
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let port = address.rsplit_once(':').expect("a port").1;
    let uri = format!("https://localhost:{port}/v1/catalog/services").parse().expect("an address");
    let answer = client.get(uri).await.map_err(|error| stdx::error_chain(&error))?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(status)
}

#[tokio::test]
async fn the_api_speaks_tls_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let authority = Authority::new();
    let tls = files(dir.path(), &authority.sign("localhost"), None);
    let discovery = common::Fixture::start_with(Config { tls: Some(tls), ..Config::new("127.0.0.1:0", "d") });
    assert_eq!(get(&discovery.address, &authority, None).await, Ok(200));
    assert!(get(&discovery.address, &Authority::new(), None).await.is_err(), "another authority is not trusted");
    assert!(discovery.http.get(discovery.url("catalog/services")).send().await.is_err(), "plain HTTP is not answered");
    discovery.stop().await;
}

#[tokio::test]
async fn clients_may_have_to_show_a_certificate() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let authority = Authority::new();
    let tls = files(dir.path(), &authority.sign("localhost"), Some(&authority));
    let discovery = common::Fixture::start_with(Config { tls: Some(tls), ..Config::new("127.0.0.1:0", "d") });
    assert!(get(&discovery.address, &authority, None).await.is_err());
    assert!(get(&discovery.address, &authority, Some(&Authority::new().sign("client"))).await.is_err());
    assert_eq!(get(&discovery.address, &authority, Some(&authority.sign("client"))).await, Ok(200));
    discovery.stop().await;
}

#[tokio::test]
async fn our_own_client_shows_its_certificate_and_its_token() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let authority = Authority::new();
    let tls = files(dir.path(), &authority.sign("localhost"), Some(&authority));
    let acl = AclConfig { enabled: true, default_deny: true, management_token: "secret".to_owned() };
    let config = Config { tls: Some(tls.clone()), acl, ..Config::new("127.0.0.1:0", "d") };
    let discovery = common::Fixture::start_with(config);
    let port = discovery.address.rsplit_once(':').expect("a port").1;
    let whole = Address {
        urls: format!("https://localhost:{port}"),
        token: Some("secret".to_owned()),
        authority: tls.client_authority.clone(),
        certificate: Some((tls.certificate.clone(), tls.key.clone())),
    };
    let consul = Consul::open(&whole).expect("its settings");
    assert!(consul.kv_put("k", b"v").await.expect("written"));
    // The one that waits is told over the same connection's kind.
    let before = consul.kv_get("k", None).await.expect("an answer");
    let waiting = Blocking { index: before.index, wait: common::LONG };
    let (after, written) = tokio::join!(consul.kv_get("k", Some(waiting)), consul.kv_put("k", b"w"));
    assert!(written.expect("written"));
    assert_eq!(after.expect("an answer").value.expect("it stands").value, b"w");

    let refused = async |address: Address| {
        let consul = Consul::open(&address).expect("its settings");
        stdx::error_chain(&consul.kv_get("k", None).await.expect_err("it must not be answered"))
    };
    let no_token = refused(Address { token: None, ..whole.clone() }).await;
    assert!(no_token.contains("403") && no_token.contains("Permission denied"), "{no_token}");
    let untrusted = refused(Address { authority: None, ..whole.clone() }).await;
    assert!(untrusted.contains("certificate"), "{untrusted}");
    let unknown = refused(Address { certificate: None, ..whole.clone() }).await;
    assert!(unknown.contains("does not answer"), "{unknown}");
    let plain = refused(Address { urls: format!("http://localhost:{port}"), ..whole }).await;
    assert!(plain.contains("does not answer"), "{plain}");
    discovery.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_files_is_said() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let authority = Authority::new();
    let good = files(dir.path(), &authority.sign("localhost"), None);
    let refused = |tls: TlsConfig| {
        let error = Discovery::bind(Config { tls: Some(tls), ..Config::new("127.0.0.1:0", "d") });
        let error = error.expect_err("it must not start");
        assert!(matches!(error, StartError::Tls(_)), "{error}");
        error.to_string()
    };
    let missing = refused(TlsConfig { key: dir.path().join("none"), ..good.clone() });
    assert!(missing.contains("cannot read a private key from"), "{missing}");
    let swapped = refused(TlsConfig { certificate: good.key.clone(), ..good.clone() });
    assert!(swapped.contains("it holds none"), "{swapped}");
    let other = dir.path().join("other.pem");
    std::fs::write(&other, authority.sign("localhost").key).expect("writable");
    let foreign = refused(TlsConfig { key: other, ..good });
    assert!(foreign.contains("belong together"), "{foreign}");
}
