//! What only a real socket shows: HEAD without a body, an early 413, a body that never ends, keys with raw line ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer};
use gateway::configure;

use crate::fake::Bench;

/// A server on a free port.
fn serve(bench: &Bench) -> (SocketAddr, ServerHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has one");
    let gateway = bench.gateway.clone();
    let server = HttpServer::new(move || App::new().app_data(gateway.clone()).configure(configure))
        .workers(1)
        .disable_signals()
        .listen(listener)
        .expect("it listens")
        .run();
    let handle = server.handle();
    tokio::spawn(server);
    (address, handle)
}

/// Sends bytes, and reads until the server closes the connection.
async fn exchange(address: SocketAddr, request: String) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it ends");
        String::from_utf8(answer).expect("text")
    })
    .await
    .expect("it does not panic")
}

fn head_of(answer: &str) -> (&str, &str) {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[actix_web::test]
async fn a_head_has_the_length_and_no_body() {
    let bench = Bench::new();
    bench.put("/v1/kv/records/a%0Ab", "12345").await;
    let (address, server) = serve(&bench);
    let line = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(address, line("HEAD", "/v1/kv/records/a%0Ab")).await;
    let (head, body) = head_of(&answer);
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 5"), "{head}");
    assert_eq!(body, "");
    let answer = exchange(address, line("HEAD", "/v1/kv/records/none")).await;
    let (head, body) = head_of(&answer);
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert_eq!(body, "");
    server.stop(false).await;
}

#[actix_web::test]
async fn a_value_too_large_is_refused_before_it_is_sent() {
    let bench = Bench::new();
    let (address, server) = serve(&bench);
    let request = "PUT /v1/kv/records/k HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n".to_owned();
    let answer = exchange(address, request).await;
    let (head, body) = head_of(&answer);
    assert!(head.starts_with("HTTP/1.1 413") && body.contains("value-too-large"), "{answer}");
    assert!(bench.nodes.take_calls().is_empty());
    server.stop(false).await;
}

#[actix_web::test]
async fn a_body_that_does_not_arrive_ends_at_the_deadline() {
    let bench = Bench::new();
    let (address, server) = serve(&bench);
    let started = Instant::now();
    let request = "PUT /v1/kv/records/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\neverring-deadline-ms: 200\r\n\
                   content-length: 10\r\n\r\nhalf"
        .to_owned();
    let answer = exchange(address, request).await;
    let (head, body) = head_of(&answer);
    assert!(head.starts_with("HTTP/1.1 504") && body.contains("\"outcome\":\"not-done\""), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(5));
    server.stop(false).await;
}

#[actix_web::test]
async fn requests_one_after_another_share_a_connection() {
    let bench = Bench::new();
    let (address, server) = serve(&bench);
    let put =
        |close: &str| format!("POST /v1/kv/records/n?op=add HTTP/1.1\r\nhost: x\r\n{close}content-length: 0\r\n\r\n");
    let answer = exchange(address, put("") + &put("connection: close\r\n")).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert!(answer.ends_with("\r\n\r\n2"), "{answer}");
    server.stop(false).await;
}
