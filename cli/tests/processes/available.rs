//! Available buckets over real processes: what was written at each level is there after a kill, values of two sessions
//! stay side by side, a repeated request acts once, and a token is believed only as it was written.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Up, eventually, get_json, run, signal, wait_for_end_of};

/// A session of the command line: what each answer gave it goes with the next request.
#[derive(Default)]
struct Session {
    token: Option<String>,
}

impl Session {
    /// Runs a command of people; its answer as JSON.
    fn ask(&mut self, up: &Up, arguments: &[&str]) -> Value {
        let output = self.run(up, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        self.token = answer["token"].as_str().map(str::to_owned).or(self.token.take());
        answer
    }

    fn run(&self, up: &Up, arguments: &[&str]) -> Output {
        let mut arguments = [arguments, &["--output", "json", "--gateway", up.gateway()]].concat();
        if let Some(token) = &self.token {
            arguments.extend(["--token", token]);
        }
        run(&arguments)
    }
}

fn level(answer: &Value) -> &str {
    let receipt = answer["receipt"].as_str().expect("a receipt");
    receipt.strip_prefix("level=").and_then(|rest| rest.split(';').next()).expect("a level")
}

/// What a read shows, several values sorted.
fn shown(answer: &Value) -> Vec<String> {
    let body = answer["value"].as_str().expect("a value");
    if answer["outcome"] != "siblings" {
        return vec![body.to_owned()];
    }
    let siblings = client::gateway::siblings(body.as_bytes()).expect("siblings");
    let mut values: Vec<String> = siblings.iter().map(|one| String::from_utf8_lossy(&one.value).into_owned()).collect();
    values.sort();
    values
}

/// `PUT http://{gateway}{path}`: the status.
fn put(up: &Up, path: &str, body: &str) -> u16 {
    let address = up.gateway().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("the gateway listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
    let length = body.len();
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

fn is_back(up: &Up, name: &str, since: u64) -> u64 {
    eventually("a killed node does not come back", || {
        let status = get_json(&up.http(name), "/status")?;
        match (status["state"].as_str(), status["incarnation"].as_u64(), &status["available"]["memory"]["whole"]) {
            (Some("ready"), Some(now), Value::Bool(true)) if now > since => Ok(now),
            _ => Err(status.to_string()),
        }
    })
}

#[test]
fn what_was_written_at_each_level_is_there_while_a_node_is_killed_and_after() {
    let up = Up::start(&[]);
    let started = is_back(&up, "n2", 0);
    let mut sessions = [("causal", Session::default()), ("eventual", Session::default())];
    for (name, session) in &mut sessions {
        let made = session.ask(&up, &["put", name, "one", "--bucket", "sessions", "--consistency", name]);
        assert_eq!((&made["outcome"], level(&made)), (&"created".into(), *name));
    }
    signal(up.pid("n2"), Signal::KILL);
    for (name, session) in &mut sessions {
        let read = session.ask(&up, &["get", name, "--bucket", "sessions", "--consistency", name]);
        assert_eq!((shown(&read), level(&read)), (vec!["one".to_owned()], *name));
        let replaced = session.ask(&up, &["put", name, "two", "--bucket", "sessions", "--consistency", name]);
        assert_eq!(replaced["outcome"], "replaced");
    }
    is_back(&up, "n2", started);
    signal(up.pid("n1"), Signal::KILL);
    for (name, session) in &mut sessions {
        let read = session.ask(&up, &["get", name, "--bucket", "sessions", "--consistency", name]);
        assert_eq!(shown(&read), ["two"], "{read}");
    }
    // Deleted is deleted, also for others.
    let (name, session) = &mut sessions[0];
    assert_eq!(session.ask(&up, &["del", name, "--bucket", "sessions"])["outcome"], "deleted");
    let gone = Session::default().run(&up, &["get", name, "--bucket", "sessions"]);
    assert_eq!(gone.status.code(), Some(1), "{}", String::from_utf8_lossy(&gone.stderr));
    let stronger = Session::default().run(&up, &["get", name, "--bucket", "sessions", "--consistency", "strict"]);
    assert_eq!(stronger.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stronger.stderr).contains("level-not-offered"), "{stronger:?}");
}

#[test]
fn values_of_two_sessions_stay_side_by_side_until_they_are_settled() {
    let up = Up::start(&[]);
    let (mut ours, mut theirs) = (Session::default(), Session::default());
    ours.ask(&up, &["put", "cart", "apples", "--bucket", "sessions"]);
    theirs.ask(&up, &["put", "cart", "pears", "--bucket", "sessions", "--consistency", "eventual"]);
    let both = eventually("the second value does not show", || {
        let read = ours.ask(&up, &["get", "cart", "--bucket", "sessions"]);
        if shown(&read) == ["apples", "pears"] { Ok(read) } else { Err(read.to_string()) }
    });
    let etag = both["etag"].as_str().expect("an ETag").to_owned();
    signal(up.pid("n3"), Signal::KILL);
    // Anybody who has seen both can settle them, in a session or out of it.
    let settle = ["put", "cart", "apples and pears", "--bucket", "sessions", "--if-match", &etag];
    assert_eq!(Session::default().ask(&up, &settle)["outcome"], "replaced");
    assert_eq!(shown(&theirs.ask(&up, &["get", "cart", "--bucket", "sessions"])), ["apples and pears"]);
    let table = run(&["get", "cart", "--bucket", "sessions", "--gateway", up.gateway()]);
    assert_eq!(String::from_utf8_lossy(&table.stdout), "apples and pears");
}

#[test]
fn a_counter_counts_each_request_once_whoever_is_killed() {
    let up = Up::start(&[]);
    let counts = r#"{"contract":"available","type":"counter"}"#;
    assert_eq!(put(&up, "/v1/buckets/counts", counts), 201);
    let add = |by: &str, id: &str| {
        let add = ["add", "visits", by, "--bucket", "counts", "--request-id", id];
        let answer = Session::default().ask(&up, &add);
        answer["value"].as_str().expect("a number").to_owned()
    };
    assert_eq!(add("5", "request-first"), "5");
    for (node, id) in [("n1", "request-second"), ("n2", "request-third")] {
        let since = get_json(&up.http(node), "/status").expect("it runs")["incarnation"].as_u64().expect("a number");
        add("2", id);
        signal(up.pid(node), Signal::KILL);
        assert_eq!(add("2", id), add("2", id), "a repeat acts once");
        add("5", "request-first");
        is_back(&up, node, since);
    }
    let read = Session::default().ask(&up, &["get", "visits", "--bucket", "counts"]);
    assert_eq!(shown(&read), ["9"], "{read}");
    let gateway = up.gateway().trim_start_matches("http://");
    let told = get_json(gateway, "/v1/requests/request-third?bucket=counts&key=visits").expect("an answer");
    assert_eq!(told["outcome"], "done", "{told}");
    let told = get_json(gateway, "/v1/requests/request-never?bucket=counts&key=visits").expect("an answer");
    assert_eq!(told["outcome"], "unknown", "{told}");
}

#[test]
fn sets_and_maps_are_changed_from_the_command_line() {
    let up = Up::start(&[]);
    for kind in ["set", "map"] {
        let definition = format!(r#"{{"contract":"available","type":"{kind}"}}"#);
        assert_eq!(put(&up, &format!("/v1/buckets/{kind}s"), &definition), 201);
    }
    let mut session = Session::default();
    let parsed =
        |answer: &Value| -> Value { serde_json::from_str(answer["value"].as_str().expect("a value")).expect("JSON") };
    session.ask(&up, &["add", "tags", "--element", "a", "--bucket", "sets"]);
    session.ask(&up, &["add", "tags", "--element", "b", "--bucket", "sets"]);
    signal(up.pid("n1"), Signal::KILL);
    let left = session.ask(&up, &["del", "tags", "--element", "a", "--bucket", "sets"]);
    assert_eq!(parsed(&left)["elements"], serde_json::json!(["Yg=="]), "{left}");
    session.ask(&up, &["add", "user", "--field", "name", "--value", "x", "--bucket", "maps"]);
    let both = session.ask(&up, &["add", "user", "--field", "age", "--value", "7", "--bucket", "maps"]);
    assert_eq!(parsed(&both)["fields"], serde_json::json!({ "age": "Nw==", "name": "eA==" }), "{both}");
}

#[test]
fn what_is_kept_in_memory_survives_a_node_and_what_is_on_disk_the_fleet() {
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().to_str().expect("text");
    let up = Up::start(&["--data", data]);
    let started = is_back(&up, "n1", 0);
    let mut session = Session::default();
    session.ask(&up, &["put", "page", "cached", "--bucket", "cache"]);
    session.ask(&up, &["put", "user", "kept", "--bucket", "sessions"]);
    for name in ["n1", "n2", "n3"] {
        let since = if name == "n1" { started } else { is_back(&up, name, 0) };
        signal(up.pid(name), Signal::KILL);
        // Before the next one goes, this one has got back from its peers what it held.
        is_back(&up, name, since);
    }
    assert_eq!(shown(&session.ask(&up, &["get", "page", "--bucket", "cache"])), ["cached"]);
    let pids = up.pids();
    up.signal(Signal::INT);
    assert_eq!(up.wait().0, Some(0));
    wait_for_end_of(&pids);

    let up = Up::start(&["--data", data]);
    // The session goes on at another gateway, years later for all that it knows.
    assert_eq!(shown(&session.ask(&up, &["get", "user", "--bucket", "sessions"])), ["kept"]);
    let gone = session.run(&up, &["get", "page", "--bucket", "cache"]);
    assert_eq!(gone.status.code(), Some(1), "memory ends with the fleet: {gone:?}");
}

#[test]
fn a_value_whose_time_is_up_is_not_shown_and_gives_its_room_back() {
    let up = Up::start(&[]);
    assert_eq!(put(&up, "/v1/kv/sessions/short?ttl=300ms", &"x".repeat(20_000)), 201);
    assert_eq!(put(&up, "/v1/kv/sessions/long?ttl=1d", "for long"), 201);
    eventually("a value does not end", || {
        let read = run(&["get", "short", "--bucket", "sessions", "--gateway", up.gateway()]);
        if read.status.code() == Some(1) { Ok(()) } else { Err(format!("{read:?}")) }
    });
    for name in ["n1", "n2", "n3"] {
        eventually("what is over is still held", || {
            let status = get_json(&up.http(name), "/status")?;
            // What is left of it is a tombstone, for as long as its requests are remembered.
            let bytes = status["available"]["disk"]["bytes"].as_u64().ok_or("no figure")?;
            if bytes < 10_000 { Ok(()) } else { Err(format!("{name} holds {bytes} bytes")) }
        });
    }
    assert_eq!(shown(&Session::default().ask(&up, &["get", "long", "--bucket", "sessions"])), ["for long"]);
}

#[test]
fn what_an_ordered_answer_showed_goes_before_what_its_session_does_next() {
    let up = Up::start(&[]);
    let (mut writer, mut reader) = (Session::default(), Session::default());
    for round in 0..10 {
        let round = round.to_string();
        writer.ask(&up, &["put", "data", &round, "--bucket", "sessions"]);
        writer.ask(&up, &["put", "flag", &round]);
        if round == "4" {
            signal(up.pid("n2"), Signal::KILL);
        }
        let flag = reader.ask(&up, &["get", "flag"]);
        let data = reader.ask(&up, &["get", "data", "--bucket", "sessions"]);
        assert_eq!((shown(&flag), shown(&data)), (vec![round.clone()], vec![round]), "{data}");
    }
}

#[test]
fn a_token_is_believed_only_as_a_gateway_of_this_cluster_wrote_it() {
    let up = Up::start(&[]);
    let foreign = Up::start_with(&[], &[("EVERRING_CLUSTER_SECRET", "another")]);
    let mut session = Session::default();
    session.ask(&up, &["put", "k", "v", "--bucket", "sessions"]);
    let mut stranger = Session::default();
    stranger.ask(&foreign, &["put", "k", "w", "--bucket", "sessions"]);
    let token = session.token.clone().expect("a token");
    assert!(token.len() <= 512);
    let mut forged = token.clone().into_bytes();
    forged[30] = if forged[30] == b'A' { b'B' } else { b'A' };
    let broken = [
        String::from_utf8(forged).expect("text"),
        stranger.token.expect("a token"),
        token[..token.len() - 3].to_owned(),
        format!("B{}", &token[1..]),
        "A".repeat(513),
    ];
    for token in broken {
        let refused = Session { token: Some(token) }.run(&up, &["get", "k", "--bucket", "sessions"]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("bad-token"), "{refused:?}");
    }
    assert_eq!(shown(&session.ask(&up, &["get", "k", "--bucket", "sessions"])), ["v"]);
}
