//! Backups over real processes: taken while writers write and a node is killed, restored into another bucket, and the
//! two compared; files that are not whole are refused before anything is written.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::gateway::{Action, GatewayClient, Reply, Request};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use wire::backup::{BackupEntry, BackupLine};

use crate::support::{Up, assert_refused, everring, run, signal};

const STILL: u64 = 300;

fn client(up: &Up) -> GatewayClient {
    GatewayClient::new(&[up.gateway()]).expect("an address")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads").block_on(work)
}

/// Sends a request until it is answered.
async fn send(client: &GatewayClient, request: Request) -> client::gateway::Answer {
    for _ in 0..20 {
        if let Reply::Ok(answer) = client.send(&request).await {
            return answer;
        }
    }
    panic!("never answered: {request:?}");
}

fn put(bucket: &str, key: &str, value: &str) -> Request {
    let action = Action::Put { value: Bytes::from(value.to_owned()), content_type: Some("text/css".to_owned()) };
    Request { deadline: Duration::from_secs(10), ..Request::new(bucket, key, action) }
}

fn program(up: &Up, arguments: &[&str]) -> Output {
    run(&[arguments, &["--output", "json", "--gateway", up.gateway()]].concat())
}

fn done(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "no bar where there is no terminal: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What a file holds, by key; the time that a value has left is another one each time.
fn held(file: &Path) -> BTreeMap<String, BackupEntry> {
    let text = std::fs::read_to_string(file).expect("a file");
    let mut held = BTreeMap::new();
    for line in text.lines() {
        if let BackupLine::Entry(mut entry) = BackupLine::read(line.as_bytes()).expect("a line") {
            for value in entry.values.iter_mut().flatten() {
                value.ttl_ms = value.ttl_ms.map(|_| 1);
            }
            let values = entry.values.as_mut();
            values.into_iter().for_each(|values| values.sort_by(|a, b| a.value.cmp(&b.value)));
            assert!(held.insert(entry.key.clone(), entry).is_none(), "each key once");
        }
    }
    held
}

/// All keys of a bucket, as its listing tells them.
fn listed(up: &Up, bucket: &str) -> Vec<String> {
    let address = up.gateway().trim_start_matches("http://");
    let (mut keys, mut next) = (Vec::new(), Some(format!("/v1/kv/{bucket}?limit=70")));
    while let Some(path) = next {
        let mut stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        for line in body.lines().filter(|line| line.starts_with('{')) {
            let line: Value = serde_json::from_str(line).expect("a JSON line");
            keys.push(line["key"].as_str().expect("a key").to_owned());
        }
        let link = head.lines().find_map(|line| line.strip_prefix("link: <"));
        next = link.and_then(|link| link.split_once('>')).map(|(path, _)| path.to_owned());
    }
    keys.sort();
    keys
}

/// Writes two keys in turn until it is told to stop.
async fn write_on(client: &GatewayClient, writer: u64, stop: &AtomicBool) -> u64 {
    let (mut number, mut token) = (0, None);
    while !stop.load(Ordering::Acquire) {
        number += 1;
        for name in ["first", "second"] {
            let request =
                Request { token: token.take(), ..put("records", &format!("{name}/{writer}"), &number.to_string()) };
            token = send(client, request).await.token;
        }
    }
    number
}

#[test]
fn a_bucket_saved_while_it_is_written_and_a_node_is_killed_comes_back_whole() {
    let up = Up::start(&[]);
    let directory = TempDir::new().expect("a directory");
    let file = |name: &str| directory.path().join(name).display().to_string();
    let client = client(&up);
    block_on(async {
        for at in 0..STILL {
            let ttl_ms = (at % 50 == 0).then_some(3_600_000);
            let request = put("records", &format!("still/{at} ä"), &"v".repeat(at as usize));
            send(&client, Request { ttl_ms, ..request }).await;
        }
    });
    let stop = AtomicBool::new(false);
    let (saved, written) = std::thread::scope(|scope| {
        let writer = |number| {
            scope.spawn({
                let (client, stop) = (&client, &stop);
                move || block_on(write_on(client, number, stop))
            })
        };
        let writers = [writer(1), writer(2)];
        let arguments = ["backup", "records", "--to", &file("one"), "--output", "json", "--gateway", up.gateway()];
        let backup = everring(&arguments).spawn().expect("the program starts");
        signal(up.pid("n2"), Signal::KILL);
        let saved = backup.wait_with_output().expect("the program ends");
        stop.store(true, Ordering::Release);
        (saved, writers.map(|writer| writer.join().expect("it ends")))
    });
    let saved = done(&saved);
    assert!(written.iter().all(|number| *number > 0), "{written:?}");
    let one = held(&directory.path().join("one"));
    assert_eq!(saved["keys"], one.len());
    for at in 0..STILL {
        let entry = &one[&format!("still/{at} ä")];
        let value = &entry.values.as_ref().expect("a value")[0];
        assert_eq!(value.content_type, "text/css");
        assert_eq!(value.ttl_ms.is_some(), at % 50 == 0);
        assert_eq!(value.value.len(), (at as usize).div_ceil(3) * 4, "its bytes");
    }

    let restored = done(&program(&up, &["restore", "copy", "--from", &file("one")]));
    assert_eq!((&restored["written"], &restored["made_bucket"]), (&saved["keys"], &Value::Bool(true)));
    done(&program(&up, &["backup", "copy", "--to", &file("two")]));
    assert_eq!(held(&directory.path().join("two")), one, "the copy holds what was saved");
    assert_eq!(listed(&up, "copy"), one.keys().cloned().collect::<Vec<_>>());

    let again = program(&up, &["backup", "copy", "--to", &file("two")]);
    assert_refused(&again, &["it is there already", "--overwrite"]);
    block_on(send(&client, put("copy", "still/7 ä", "changed")));
    let kept = done(&program(&up, &["restore", "copy", "--from", &file("one"), "--if-absent"]));
    assert_eq!((&kept["written"], &kept["kept"]), (&Value::from(0), &saved["keys"]));
    done(&program(&up, &["backup", "copy", "--to", &file("two"), "--overwrite"]));
    assert_ne!(held(&directory.path().join("two"))["still/7 ä"], one["still/7 ä"], "it was kept");
}

#[test]
fn what_stands_side_by_side_and_what_is_counted_comes_back() {
    let up = Up::start(&[]);
    let directory = TempDir::new().expect("a directory");
    let file = |name: &str| directory.path().join(name).display().to_string();
    let client = client(&up);
    let kinds = [("values", "value"), ("counters", "counter"), ("sets", "set"), ("maps", "map")];
    block_on(async {
        for (bucket, kind) in kinds {
            let definition = format!(r#"{{"contract":"available","type":"{kind}"}}"#);
            let definition = serde_json::from_str(&definition).expect("a definition");
            client.make_bucket(bucket, &definition, Duration::from_secs(30)).await.expect("it is made");
        }
        for at in 0..40 {
            let key = format!("k{at}");
            let change = |bucket: &str, action| Request {
                deadline: Duration::from_secs(10),
                ..Request::new(bucket, &key, action)
            };
            send(&client, put("values", &key, "one")).await;
            if at % 4 == 0 {
                send(&client, put("values", &key, "two")).await;
            }
            send(&client, change("counters", Action::Add(at))).await;
            let bytes = Bytes::from(format!("e{at}"));
            send(&client, change("sets", Action::Insert(bytes.clone()))).await;
            send(&client, change("sets", Action::Insert(Bytes::from_static(b"all")))).await;
            let field = format!("f{}", at % 2);
            send(&client, change("maps", Action::Set { field, value: bytes })).await;
        }
    });
    for (bucket, _) in kinds {
        let (one, two, copy) = (file(&format!("{bucket}-1")), file(&format!("{bucket}-2")), format!("{bucket}-copy"));
        let saved = done(&program(&up, &["backup", bucket, "--to", &one]));
        assert_eq!(saved["keys"], 40, "{bucket}");
        let held_one = held(Path::new(&one));
        // Twice: a repeated restore changes nothing.
        for _ in 0..2 {
            done(&program(&up, &["restore", &copy, "--from", &one]));
            done(&program(&up, &["backup", &copy, "--to", &two, "--overwrite"]));
            assert_eq!(held(Path::new(&two)), held_one, "{bucket}");
        }
        assert_eq!(listed(&up, &copy).len(), 40, "{bucket}");
    }
    let values = held(Path::new(&file("values-1")));
    assert_eq!(values["k4"].values.as_ref().map(Vec::len), Some(2), "siblings stay siblings");
    let other = program(&up, &["restore", "sets", "--from", &file("maps-1")]);
    assert_refused(&other, &["sets", "`map`", "name another bucket"]);
}

#[test]
fn a_file_that_is_not_whole_is_refused_before_anything_is_written() {
    let up = Up::start(&[]);
    let directory = TempDir::new().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let client = client(&up);
    block_on(async {
        for at in 0..20 {
            send(&client, put("records", &format!("k{at}"), "value")).await;
        }
    });
    let whole = path("whole").display().to_string();
    done(&program(&up, &["backup", "records", "--to", &whole]));
    let bytes = std::fs::read(&whole).expect("a file");
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    let cut = bytes[..bytes.len() - 20].to_vec();
    let line = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("lines") + 1;
    for (name, content, words) in [
        ("damaged", damaged, &["damaged in line", "nothing was restored"][..]),
        ("cut", cut, &["cut off", "nothing was restored"][..]),
        ("no-end", bytes[..line].to_vec(), &["cut off", "20 keys"][..]),
        ("foreign", b"{\"hello\":1}\n".to_vec(), &["no backup of a bucket"][..]),
        ("later", b"{\"everring_backup\":9}\n".to_vec(), &["form 9"][..]),
        ("empty", Vec::new(), &["no backup of a bucket"][..]),
    ] {
        std::fs::write(path(name), content).expect("room");
        let output = program(&up, &["restore", "fresh", "--from", &path(name).display().to_string()]);
        assert_refused(&output, words);
    }
    let none = program(&up, &["restore", "fresh", "--from", &path("none").display().to_string()]);
    assert_refused(&none, &["cannot be read"]);
    let absent = block_on(client.bucket("fresh", Duration::from_secs(30))).expect("an answer");
    assert_eq!(absent, None, "no bucket was made");
    let locks = program(&up, &["backup", "locks", "--to", &path("locks").display().to_string()]);
    assert_refused(&locks, &["reserved"]);
    let nothing = program(&up, &["backup", "nothing", "--to", &path("nothing").display().to_string()]);
    assert_refused(&nothing, &["no bucket"]);
    assert!(!path("locks").exists() && !path("nothing").exists());
}
