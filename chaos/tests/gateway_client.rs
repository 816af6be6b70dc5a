//! The gateway client's three outcomes, against servers that do exactly what a test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::gateway::{Action, Condition, GatewayClient, Reply, Request, Seen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::http::{Problem, ProblemCode, WriteOutcome};

/// What a server does with one connection.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Reads the request and closes the connection.
    Break,
    /// Reads the request and says nothing.
    Silence,
    /// Answers this status, code, outcome and whether a retry may help.
    Problem(u16, &'static str, &'static str, bool),
    /// Answers this status with an ETag and a body.
    Answer(u16, &'static str),
}

/// A server that acts its script connection by connection, the last act for ever, and keeps the heads it was sent.
struct Scripted {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

async fn scripted(script: &[Act]) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    let mut script: VecDeque<Act> = script.iter().copied().collect();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let act = if script.len() > 1 { script.pop_front() } else { script.front().copied() };
            tokio::spawn(serve(stream, act.expect("a script has an act"), Arc::clone(&kept)));
        }
    });
    Scripted { address, heads }
}

async fn serve(mut stream: TcpStream, act: Act, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    heads.lock().expect("nobody panicked").push(String::from_utf8_lossy(&head).to_lowercase());
    let (status, more, body) = match act {
        Act::Break => return,
        Act::Silence => {
            // Held open until the client gives up.
            let _ = stream.read(&mut buffer).await;
            return;
        }
        Act::Problem(status, code, outcome, retryable) => {
            let mut problem = Problem::new(ProblemCode::Deadline, "as the script wants it");
            problem.status = status;
            problem.code = code.to_owned();
            problem.retryable = retryable;
            problem.outcome = Some(if outcome == "unknown" { WriteOutcome::Unknown } else { WriteOutcome::NotDone });
            let body = serde_json::to_string(&problem).expect("a problem is JSON");
            (status, "content-type: application/problem+json\r\n".to_owned(), body)
        }
        Act::Answer(status, body) => {
            let receipt = "everring-receipt: level=strict;epoch=1;hops=1;replicas=n2,n3;attempts=1\r\n";
            (status, format!("etag: \"7.1.0\"\r\n{receipt}"), body.to_owned())
        }
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\n{more}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn put() -> Request {
    let action = Action::Put { value: Bytes::from_static(b"v"), content_type: None };
    Request { deadline: Duration::from_millis(600), ..Request::new("records", "a key/ä", action) }
}

fn get() -> Request {
    Request { deadline: Duration::from_millis(600), ..Request::new("records", "k", Action::Get) }
}

async fn sent(gateways: &[&str], request: &Request) -> (Reply, Duration) {
    let client = GatewayClient::new(gateways).expect("addresses are given");
    let start = Instant::now();
    let reply = client.send(request).await;
    (reply, start.elapsed())
}

fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn an_answer_is_told_with_its_etag_and_receipt() {
    let server = scripted(&[Act::Answer(201, "")]).await;
    let (reply, _) = sent(&[&server.address], &put()).await;
    let Reply::Ok(answer) = reply else { panic!("{reply:?}") };
    assert_eq!((answer.seen, answer.etag.as_deref(), answer.attempts), (Seen::Created, Some("\"7.1.0\""), 1));
    assert_eq!(answer.receipt.expect("it was sent").replicas, ["n2", "n3"]);
    let heads = server.heads.lock().expect("nobody panicked");
    assert!(heads[0].starts_with("put /v1/kv/records/a%20key/%c3%a4 "), "{}", heads[0]);
    assert_eq!(header(&heads[0], "everring-attempt"), "1");
    let deadline: u64 = header(&heads[0], "everring-deadline-ms").parse().expect("a number");
    assert!((1..=600).contains(&deadline));
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_passed_over_with_the_same_id() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a port");
    let server = scripted(&[Act::Answer(200, "")]).await;
    let request = put();
    let (reply, took) = sent(&[&nobody.to_string(), &server.address], &request).await;
    assert!(matches!(reply, Reply::Ok(ref answer) if answer.attempts == 2), "{reply:?}");
    assert!(took < Duration::from_millis(300), "at once, not at the hedge: {took:?}");
    let heads = server.heads.lock().expect("nobody panicked");
    assert_eq!(header(&heads[0], "everring-request-id"), request.request_id);
    assert_eq!(header(&heads[0], "everring-attempt"), "2");
}

#[tokio::test]
async fn a_broken_connection_is_followed_by_the_next_gateway() {
    let first = scripted(&[Act::Break]).await;
    let second = scripted(&[Act::Answer(200, "")]).await;
    let request = put();
    let (reply, took) = sent(&[&first.address, &second.address], &request).await;
    assert!(matches!(reply, Reply::Ok(_)), "{reply:?}");
    assert!(took < Duration::from_millis(300), "{took:?}");
    let ids = |server: &Scripted| header(&server.heads.lock().expect("nobody panicked")[0], "everring-request-id");
    assert_eq!(ids(&first), ids(&second));
}

#[tokio::test]
async fn a_silent_gateway_is_hedged_within_the_deadline() {
    let first = scripted(&[Act::Silence]).await;
    let second = scripted(&[Act::Answer(200, "")]).await;
    let (reply, took) = sent(&[&first.address, &second.address], &put()).await;
    assert!(matches!(reply, Reply::Ok(_)), "{reply:?}");
    assert!((Duration::from_millis(300)..Duration::from_millis(600)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn without_any_answer_a_write_is_unknown_and_a_read_has_failed() {
    for act in [Act::Silence, Act::Break] {
        let server = scripted(&[act]).await;
        let (reply, took) = sent(&[&server.address], &put()).await;
        assert!(matches!(reply, Reply::Unknown(_)), "{act:?}: {reply:?}");
        assert!(took < Duration::from_millis(1_500), "{act:?}: {took:?}");
        let (reply, _) = sent(&[&server.address], &get()).await;
        assert!(matches!(reply, Reply::Failed(_)), "{act:?}: {reply:?}");
    }
}

#[tokio::test]
async fn a_write_that_never_left_has_failed() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a port");
    let (reply, _) = sent(&[&nobody.to_string()], &put()).await;
    assert!(matches!(reply, Reply::Failed(ref failure) if failure.code == "unreachable"), "{reply:?}");
}

#[tokio::test]
async fn a_refusal_is_failed_or_unknown_as_it_says() {
    for (act, code, unknown) in [
        (Act::Problem(504, "deadline", "unknown", false), "deadline", true),
        (Act::Problem(503, "no-quorum", "not-done", false), "no-quorum", false),
        (Act::Problem(413, "value-too-large", "not-done", false), "value-too-large", false),
        (Act::Answer(500, "no JSON"), "http-500", true),
        (Act::Answer(400, "no JSON"), "http-400", false),
    ] {
        let server = scripted(&[act]).await;
        let (reply, _) = sent(&[&server.address], &put()).await;
        match reply {
            Reply::Unknown(failure) if unknown => assert_eq!(failure.code, code),
            Reply::Failed(failure) if !unknown => assert_eq!(failure.code, code),
            other => panic!("{act:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_retried() {
    let server = scripted(&[Act::Problem(503, "overloaded", "not-done", true), Act::Answer(200, "")]).await;
    let (reply, _) = sent(&[&server.address], &put()).await;
    assert!(matches!(reply, Reply::Ok(ref answer) if answer.attempts == 2), "{reply:?}");
}

#[tokio::test]
async fn a_refusal_after_a_lost_attempt_does_not_make_the_write_undone() {
    let server = scripted(&[Act::Break, Act::Problem(413, "value-too-large", "not-done", false)]).await;
    let (reply, _) = sent(&[&server.address], &put()).await;
    assert!(matches!(reply, Reply::Unknown(_)), "the first attempt may have acted: {reply:?}");
}

#[tokio::test]
async fn observations_are_no_failures() {
    let server = scripted(&[Act::Problem(404, "no-such-key", "not-done", false)]).await;
    let (reply, _) = sent(&[&server.address], &get()).await;
    assert!(matches!(reply, Reply::Ok(ref answer) if answer.seen == Seen::Absent), "{reply:?}");
    let server = scripted(&[Act::Problem(412, "condition-failed", "not-done", false)]).await;
    let request = Request { condition: Condition::Matches("\"1.1.0\"".to_owned()), ..put() };
    let (reply, _) = sent(&[&server.address], &request).await;
    assert!(matches!(reply, Reply::Ok(ref answer) if answer.seen == Seen::ConditionFailed), "{reply:?}");
    assert_eq!(header(&server.heads.lock().expect("nobody panicked")[0], "if-match"), "\"1.1.0\"");
    let server = scripted(&[Act::Problem(404, "no-such-bucket", "not-done", false)]).await;
    let (reply, _) = sent(&[&server.address], &get()).await;
    assert!(matches!(reply, Reply::Failed(_)), "a bucket that is not there is no absent key: {reply:?}");
}

#[tokio::test]
async fn no_address_is_refused() {
    assert!(GatewayClient::new::<&str>(&[]).is_err());
}
