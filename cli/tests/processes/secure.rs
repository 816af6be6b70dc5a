//! A discovery that speaks TLS only, wants a certificate of everybody, and denies what no token allows: the fleet runs
//! on it all the same.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Ending, assert_refused, eventually, everring, run, service_with};

const MANAGEMENT: &str = "4ca1ab1e-0000-4000-8000-000000000000";
/// What the fleet needs, and `members` to look at the replicas (docs/discovery.md).
const RULES: &str = r#"key_prefix "everring/" { policy = "write" }
    service_prefix "everring-" { policy = "write" }
    node_prefix "" { policy = "read" }
    operator = "read""#;

/// Files of an authority, and of a certificate that it gave.
struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

fn files(directory: &Path) -> Files {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    Files {
        authority: write("authority.pem", &authority.pem()),
        certificate: write("certificate.pem", &certificate.pem()),
        key: write("key.pem", &key.serialize_pem()),
    }
}

/// Discovery with access lists; over TLS if there are files for it.
fn discovery(directory: &Path, files: Option<&Files>) -> (Ending, String) {
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let data = text(&directory.join("d1"));
    let mut arguments: Vec<String> =
        ["discovery", "--listen", "127.0.0.1:0", "--data", &data, "--acl", "deny"].map(str::to_owned).into();
    if let Some(files) = files {
        let tls = [("--tls-certificate", &files.certificate), ("--tls-key", &files.key)];
        for (flag, path) in tls.into_iter().chain([("--tls-client-authority", &files.authority)]) {
            arguments.extend([flag.to_owned(), text(path)]);
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    service_with(&arguments, &[("EVERRING_ACL_TOKEN", MANAGEMENT)])
}

fn put(address: &str, path: &str, body: &Value) -> Value {
    let (mut stream, body) = (TcpStream::connect(address).expect("it listens"), body.to_string());
    let head = format!("PUT {path} HTTP/1.0\r\nX-Consul-Token: {MANAGEMENT}\r\nContent-Length: {}", body.len());
    write!(stream, "{head}\r\n\r\n{body}").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// The secret of a token that may do what the fleet needs, and nothing else.
fn token(address: &str) -> String {
    put(address, "/v1/acl/policy", &json!({"Name": "fleet", "Rules": RULES}));
    let token = put(address, "/v1/acl/token", &json!({"Policies": [{"Name": "fleet"}]}));
    token["SecretID"].as_str().expect("a secret").to_owned()
}

#[test]
fn a_fleet_runs_on_a_discovery_with_tls_and_access_lists() {
    let directory = TempDir::new().expect("a directory");
    let files = files(directory.path());
    // Before it speaks TLS, since the test does not.
    let (plain, address) = discovery(directory.path(), None);
    let token = token(&address);
    drop(plain);
    let (_discovery, address) = discovery(directory.path(), Some(&files));
    let port = address.rsplit_once(':').expect("a port").1;
    let url = format!("https://localhost:{port}");
    let variables = [
        ("EVERRING_DISCOVERY", url.as_str()),
        ("EVERRING_DISCOVERY_TOKEN", token.as_str()),
        ("EVERRING_DISCOVERY_AUTHORITY", files.authority.to_str().expect("text")),
        ("EVERRING_DISCOVERY_CERTIFICATE", files.certificate.to_str().expect("text")),
        ("EVERRING_DISCOVERY_KEY", files.key.to_str().expect("text")),
    ];
    let mut services = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let data = directory.path().join(name);
        let arguments = ["storage-node", "--name", name, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"];
        let more = ["--ring-size", "3", "--data", data.to_str().expect("text")];
        services.push(service_with(&[&arguments[..], &more].concat(), &variables));
    }
    let (_gateway, gateway) = service_with(&["gateway", "--listen", "127.0.0.1:0"], &variables);
    let gateway = format!("http://{gateway}");
    eventually("the write is not taken", || {
        let output = run(&["put", "greeting", "hello", "--gateway", &gateway]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    let read = run(&["get", "greeting", "--gateway", &gateway]);
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim_end(), "hello");

    let members = |leave_out: &str| {
        let variables = variables.iter().copied().filter(|(name, _)| *name != leave_out);
        let mut command = everring(&["discovery", "members"]);
        command.envs(variables).output().expect("the program ends")
    };
    let shown = members("");
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    assert_refused(&members("EVERRING_DISCOVERY_TOKEN"), &["403", "Permission denied"]);
    assert_refused(&members("EVERRING_DISCOVERY_AUTHORITY"), &["certificate"]);
}
