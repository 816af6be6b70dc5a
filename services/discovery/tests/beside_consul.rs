//! The same requests to a real Consul and to ours, side by side: good ones, bad ones and absurd ones. The statuses must
//! be the same, the texts of refusals too, and whatever Consul's answer holds ours must hold in the same kind.
//!
//! Runs when EVERRING_CONSUL_BIN names the binary, which `tests/tools/build.sh consul` builds and prints the path of.

mod common;

use std::io::Write;
use std::process::{Child, Command, Stdio};

use common::{Fixture, within};
use serde_json::Value;

struct Consul {
    child: Child,
    base: String,
}

impl Consul {
    async fn start(binary: &str) -> Consul {
        // Held until all are chosen, so that they differ.
        let held: Vec<_> = (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<String> = held.iter().map(|port| port.local_addr().expect("bound").port().to_string()).collect();
        drop(held);
        let mut command = Command::new(binary);
        command.args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-log-level", "error"]);
        command.args(["-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1"]);
        for (flag, port) in ["-http-port", "-server-port", "-serf-lan-port", "-serf-wan-port"].iter().zip(&ports) {
            command.args([*flag, port]);
        }
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("EVERRING_CONSUL_BIN={binary}: {error}"));
        let consul = Consul { child, base: format!("http://127.0.0.1:{}", ports[0]) };
        let http = reqwest::Client::new();
        within(async {
            // Its own node is in the catalogue once it has somebody in charge and has told of itself.
            loop {
                let asked = http.get(format!("{}/v1/catalog/service/consul", consul.base)).send().await;
                if let Ok(answer) = asked
                    && answer.text().await.is_ok_and(|text| text.len() > 10)
                {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
        consul
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        // It may have ended by itself; then the test has said so already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How much of two answers must be the same.
#[derive(Clone, Copy, PartialEq)]
enum Same {
    /// The text to the letter, or what Consul's JSON holds.
    Answer,
    /// The status alone: the text names libraries of Go, or something that only one of the two has.
    Status,
}

struct Answer {
    status: u16,
    headers: Vec<String>,
    text: String,
}

async fn ask(http: &reqwest::Client, base: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let request = http.request(method, format!("{base}/v1/{path}")).body(body.to_vec());
    let answer = within(request.send()).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    let names = answer.headers().keys().map(|name| name.as_str().to_owned());
    let headers = names.filter(|name| name.starts_with("x-consul-")).collect();
    Answer { status: answer.status().as_u16(), headers, text: answer.text().await.expect("a body") }
}

/// Whether `ours` has everything that `theirs` has, in the same kind. What is null may be anything, or missing.
fn covers(theirs: &Value, ours: &Value, at: &str) -> Result<(), String> {
    match (theirs, ours) {
        (Value::Null, _) => Ok(()),
        (Value::Object(theirs), Value::Object(ours)) => theirs.iter().try_for_each(|(name, value)| {
            // Whom a check asks: Consul lists what it does not ask too.
            if name == "Definition" || value.is_null() {
                return Ok(());
            }
            let found = ours.get(name).ok_or_else(|| format!("{at}.{name} is missing"))?;
            covers(value, found, &format!("{at}.{name}"))
        }),
        (Value::Array(theirs), Value::Array(ours)) => match (theirs.first(), ours.first()) {
            (Some(theirs), Some(ours)) => covers(theirs, ours, &format!("{at}[0]")),
            (Some(_), None) => Err(format!("{at} is empty")),
            (None, _) => Ok(()),
        },
        _ if std::mem::discriminant(theirs) == std::mem::discriminant(ours) => Ok(()),
        _ => Err(format!("{at} is {ours}, not {theirs}")),
    }
}

fn compare(path: &str, same: Same, theirs: &Answer, ours: &Answer) -> Result<(), String> {
    let told = || {
        format!(
            "{path}\n  consul: {} {:.300}\n  ours:   {} {:.300}",
            theirs.status, theirs.text, ours.status, ours.text
        )
    };
    if theirs.status != ours.status {
        return Err(told());
    }
    let missing: Vec<&String> = theirs.headers.iter().filter(|name| !ours.headers.contains(name)).collect();
    if !missing.is_empty() && theirs.status == 200 {
        return Err(format!("{}\n  without {missing:?}", told()));
    }
    match (same, serde_json::from_str::<Value>(&theirs.text), serde_json::from_str::<Value>(&ours.text)) {
        (Same::Status, ..) => Ok(()),
        (_, Ok(theirs), Ok(ours)) => covers(&theirs, &ours, "").map_err(|why| format!("{}\n  {why}", told())),
        (_, Err(_), Err(_)) if theirs.text.trim() == ours.text.trim() => Ok(()),
        _ => Err(told()),
    }
}

/// Nothing that one of these does is needed by another but by those right after it.
const CASES: &[(&str, &str, &str, Same)] = &[
    // Good calls.
    ("GET", "catalog/services", "", Same::Status),
    (
        "PUT",
        "agent/service/register",
        r#"{"ID":"w1","Name":"web","Tags":["v1"],"Port":80,"Address":"10.0.0.7","Meta":{"zone":"a"},
        "TaggedAddresses":{"lan":{"Address":"10.0.0.7","Port":80}},
        "Check":{"TTL":"1m","Status":"passing"}}"#,
        Same::Answer,
    ),
    ("GET", "agent/service/w1", "", Same::Answer),
    ("GET", "agent/services?filter=Service==web", "", Same::Answer),
    ("GET", "agent/checks", "", Same::Answer),
    ("GET", "agent/health/service/name/web", "", Same::Status),
    ("GET", "agent/health/service/id/w1", "", Same::Answer),
    ("GET", "agent/health/service/id/none", "", Same::Answer),
    ("GET", "agent/health/service/name/none", "", Same::Answer),
    ("PUT", "agent/check/warn/service:w1?note=low", "", Same::Answer),
    ("PUT", "agent/check/pass/service:w1", "", Same::Answer),
    (
        "PUT",
        "catalog/register",
        r#"{"Node":"n2","Address":"10.1.1.1","NodeMeta":{"rack":"r1"},
        "Service":{"Service":"db","Port":5432,"Tags":["p"]},
        "Check":{"CheckID":"up","Name":"up","Status":"passing","ServiceID":"db"}}"#,
        Same::Answer,
    ),
    ("GET", "catalog/nodes?filter=Meta.rack==r1", "", Same::Answer),
    ("GET", "catalog/service/db", "", Same::Answer),
    ("GET", "catalog/node/n2", "", Same::Answer),
    ("GET", "catalog/node/none", "", Same::Status),
    ("GET", "catalog/node-services/n2", "", Same::Answer),
    ("GET", "health/service/db?passing", "", Same::Answer),
    ("GET", "health/service/none", "", Same::Answer),
    ("GET", "health/node/n2", "", Same::Answer),
    ("GET", "health/checks/db", "", Same::Answer),
    ("GET", "health/state/passing?filter=CheckID==up", "", Same::Answer),
    ("GET", "health/state/bogus", "", Same::Answer),
    ("GET", "catalog/datacenters", "", Same::Answer),
    ("GET", "status/leader", "", Same::Answer),
    ("GET", "status/peers", "", Same::Answer),
    ("GET", "agent/members", "", Same::Status),
    ("PUT", "kv/k?flags=7", "v", Same::Answer),
    ("GET", "kv/k", "", Same::Answer),
    ("GET", "kv/k?stale", "", Same::Answer),
    ("GET", "kv/k?consistent", "", Same::Answer),
    ("GET", "kv/k?raw", "", Same::Answer),
    ("GET", "kv/none", "", Same::Answer),
    ("GET", "kv/?keys&separator=/", "", Same::Answer),
    ("GET", "kv/k?recurse", "", Same::Answer),
    ("PUT", "kv/k?cas=0", "w", Same::Answer),
    ("DELETE", "kv/none?cas=7", "", Same::Answer),
    ("PUT", "session/create", "", Same::Answer),
    ("PUT", "session/create", r#"{"TTL":"10s","LockDelay":"5s","Behavior":"delete"}"#, Same::Answer),
    ("GET", "session/list", "", Same::Answer),
    ("GET", "session/info/00000000-0000-0000-0000-000000000000", "", Same::Answer),
    ("GET", "session/node/none", "", Same::Answer),
    ("PUT", "session/destroy/00000000-0000-0000-0000-000000000000", "", Same::Answer),
    ("PUT", "txn", r#"[{"KV":{"Verb":"set","Key":"t","Value":"aGk="}},{"KV":{"Verb":"get","Key":"t"}}]"#, Same::Answer),
    ("PUT", "txn", r#"[{"KV":{"Verb":"get","Key":"t"}}]"#, Same::Status),
    (
        "PUT",
        "txn",
        r#"[{"KV":{"Verb":"set","Key":"u","Value":""}},{"KV":{"Verb":"check-not-exists","Key":"t"}}]"#,
        Same::Answer,
    ),
    ("PUT", "event/fire/deploy", "now", Same::Answer),
    ("GET", "event/list?name=none", "", Same::Status),
    ("PUT", "agent/service/maintenance/w1?enable=true&reason=x", "", Same::Answer),
    ("PUT", "agent/service/maintenance/w1?enable=false", "", Same::Answer),
    ("PUT", "agent/maintenance?enable=true", "", Same::Answer),
    ("PUT", "agent/maintenance?enable=false", "", Same::Answer),
    ("OPTIONS", "kv/k", "", Same::Answer),
    // Bad ones.
    ("GET", "catalog/services?stale&consistent", "", Same::Answer),
    ("GET", "catalog/services?wait=soon&index=1", "", Same::Answer),
    ("GET", "catalog/services?index=-1", "", Same::Answer),
    ("GET", "catalog/services?index=1&wait=-1s", "", Same::Status),
    ("GET", "kv/k?index=99999999&wait=10ms", "", Same::Answer),
    ("GET", "catalog/nodes?dc=dc9", "", Same::Answer),
    ("GET", "health/service/web?passing=maybe", "", Same::Answer),
    ("GET", "health/service/web?ns=team", "", Same::Answer),
    ("GET", "health/service/web?filter=Service.Foo==1", "", Same::Answer),
    ("GET", "health/service/web?filter=Service.Port==abc", "", Same::Status),
    ("GET", "catalog/services?filter=x", "", Same::Status),
    ("GET", "agent/services?filter=bad(", "", Same::Status),
    ("GET", "agent/checks?filter=(((((", "", Same::Status),
    ("GET", "catalog/service/", "", Same::Answer),
    ("GET", "kv/", "", Same::Answer),
    ("GET", "agent/service/none", "", Same::Answer),
    ("GET", "nothing", "", Same::Answer),
    ("GET", "txn", "", Same::Answer),
    ("POST", "agent/services", "", Same::Answer),
    ("DELETE", "catalog/register", "", Same::Answer),
    ("GET", "acl/tokens", "", Same::Answer),
    ("PUT", "agent/service/register", "{", Same::Status),
    ("PUT", "agent/service/register", "{}", Same::Answer),
    ("PUT", "agent/service/register", r#"{"Name":"w","Port":"80"}"#, Same::Status),
    ("PUT", "agent/service/register", r#"{"Name":"w","Check":{"TTL":"1s","Status":"fine"}}"#, Same::Answer),
    ("PUT", "agent/check/register", r#"{"Name":"c","TTL":"1s","ServiceID":"none"}"#, Same::Answer),
    ("PUT", "agent/check/register", r#"{"Name":"c"}"#, Same::Answer),
    ("PUT", "agent/check/register", r#"{"TTL":"1s"}"#, Same::Answer),
    ("PUT", "agent/check/pass/none", "", Same::Answer),
    ("PUT", "agent/check/deregister/none", "", Same::Answer),
    ("PUT", "agent/check/update/none", r#"{"Status":"x"}"#, Same::Answer),
    ("PUT", "agent/check/update/none", r#"{"Status":"passing"}"#, Same::Answer),
    ("PUT", "agent/service/deregister/none", "", Same::Answer),
    ("PUT", "agent/service/maintenance/none?enable=true", "", Same::Answer),
    ("PUT", "agent/service/maintenance/w1", "", Same::Answer),
    ("PUT", "agent/maintenance", "", Same::Answer),
    ("PUT", "kv/", "", Same::Answer),
    ("PUT", "kv/k?cas=x", "", Same::Answer),
    ("PUT", "kv/k?flags=x", "", Same::Answer),
    ("PUT", "kv/k?cas=1&acquire=x", "", Same::Answer),
    ("PUT", "kv/k?acquire=abc", "", Same::Answer),
    ("PUT", "kv/k?acquire=", "", Same::Answer),
    ("PUT", "kv/k?release=abc", "", Same::Answer),
    ("DELETE", "kv/k?recurse&cas=1", "", Same::Answer),
    ("PUT", "session/create", r#"{"TTL":"1s"}"#, Same::Answer),
    ("PUT", "session/create", r#"{"TTL":"x"}"#, Same::Answer),
    ("PUT", "session/create", r#"{"Behavior":"x"}"#, Same::Answer),
    ("PUT", "session/create", r#"{"Node":"nope"}"#, Same::Answer),
    ("PUT", "session/create", r#"{"Checks":["nope"]}"#, Same::Answer),
    ("PUT", "session/create", r#"{"LockDelay":"x"}"#, Same::Status),
    ("PUT", "session/renew/none", "", Same::Answer),
    ("PUT", "txn", "{", Same::Status),
    ("PUT", "txn", "[]", Same::Status),
    ("PUT", "txn", r#"[{"KV":{"Verb":"get","Key":"nope"}}]"#, Same::Status),
    ("PUT", "txn", r#"[{"KV":{"Verb":"foo","Key":"k"}}]"#, Same::Status),
    ("PUT", "txn", r#"[{"KV":{"Verb":"lock","Key":"k","Session":"x"}}]"#, Same::Answer),
    ("PUT", "txn", r#"[{"KV":{"Verb":"set","Key":"k","Value":"!"}}]"#, Same::Status),
    ("PUT", "event/fire/", "", Same::Answer),
    ("PUT", "catalog/register", r#"{"Node":"x"}"#, Same::Answer),
    ("PUT", "catalog/deregister", "{}", Same::Answer),
    ("PUT", "catalog/deregister", r#"{"Node":"nope"}"#, Same::Answer),
    ("PUT", "snapshot", "junk", Same::Status),
];

#[tokio::test]
async fn ours_answers_as_consul_does() {
    let Ok(binary) = std::env::var("EVERRING_CONSUL_BIN") else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let _ = writeln!(
            std::io::stderr(),
            "!!! SKIPPED ours_answers_as_consul_does: set EVERRING_CONSUL_BIN (tests/tools/build.sh consul)"
        );
        return;
    };
    let consul = Consul::start(&binary).await;
    let discovery = Fixture::start();
    let http = reqwest::Client::new();
    let mut differences = Vec::new();
    let too_large = vec![b'x'; (512 << 10) + 1];
    for (method, path, body, same) in CASES {
        let theirs = ask(&http, &consul.base, method, path, body.as_bytes()).await;
        let ours = ask(&http, &discovery.base, method, path, body.as_bytes()).await;
        differences.extend(compare(&format!("{method} {path} {body}"), *same, &theirs, &ours).err());
    }
    let theirs = ask(&http, &consul.base, "PUT", "kv/big", &too_large).await;
    let ours = ask(&http, &discovery.base, "PUT", "kv/big", &too_large).await;
    differences.extend(compare("PUT kv/big of 512 KiB and a byte", Same::Status, &theirs, &ours).err());
    assert!(differences.is_empty(), "{} of {} differ:\n{}", differences.len(), CASES.len() + 1, differences.join("\n"));
    discovery.stop().await;
}
