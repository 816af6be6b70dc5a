//! Checks that discovery makes itself: over HTTP, TCP and gRPC.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use common::{Fixture, index, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A web server that answers every request with the status that stands in the cell.
async fn web(status: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let status = status.load(Ordering::Relaxed);
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

/// Resolves once the check is in the wanted state; gives what it says.
async fn until(discovery: &Fixture, check: &str, wanted: &str) -> String {
    within(async {
        let mut at = 0;
        loop {
            let answer = discovery.get(&format!("health/node/everring?index={at}&wait=10s")).await;
            at = index(&answer);
            let checks: Value = answer.json().await.expect("JSON");
            let found = checks.as_array().expect("a list").iter().find(|found| found["CheckID"] == check);
            if let Some(found) = found.filter(|found| found["Status"] == wanted) {
                return found["Output"].as_str().expect("a text").to_owned();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_web_server_is_asked_again_and_again() {
    let discovery = Fixture::start();
    let status = Arc::new(AtomicU16::new(200));
    let port = web(Arc::clone(&status)).await;
    let body = format!(
        r#"{{"Name":"web","Port":{port},
            "Check":{{"HTTP":"http://127.0.0.1:{port}/health","Interval":"1s","Timeout":"5s"}}}}"#
    );
    assert_eq!(discovery.put("agent/service/register", body).await.0, 200);
    let shown = discovery.get_json("agent/checks").await["service:web"].clone();
    assert_eq!((&shown["Type"], &shown["Interval"], &shown["Timeout"]), (&"http".into(), &"1s".into(), &"5s".into()));
    let output = until(&discovery, "service:web", "passing").await;
    assert!(output.contains("200") && output.contains("hello"), "{output}");
    status.store(429, Ordering::Relaxed);
    until(&discovery, "service:web", "warning").await;
    status.store(500, Ordering::Relaxed);
    until(&discovery, "service:web", "critical").await;
    let (status, text) = discovery.put("agent/check/pass/service:web", "").await;
    assert!(status == 500 && text.contains("does not have associated TTL"), "{text}");
    discovery.stop().await;
}

#[tokio::test]
async fn a_port_is_tried() {
    let discovery = Fixture::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let body = format!(r#"{{"Name":"port","TCP":"{address}","Interval":"1s"}}"#);
    assert_eq!(discovery.put("agent/check/register", body).await.0, 200);
    assert!(until(&discovery, "port", "passing").await.contains("Success"));
    drop(listener);
    until(&discovery, "port", "critical").await;
    discovery.stop().await;
}

/// A server of the gRPC health protocol over HTTP/2, which says the status that stands in the cell.
async fn grpc(status: Arc<AtomicU8>) -> u16 {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Bytes, Frame};
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let status = Arc::clone(&status);
            let answer = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let status = status.load(Ordering::Relaxed);
                async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let asked = request.into_body().collect().await.expect("a body").to_bytes();
                    assert_eq!(&asked[..], b"\0\0\0\0\x05\x0a\x03svc", "the service's name in its frame");
                    let mut trailers = hyper::HeaderMap::new();
                    trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
                    let frames: Vec<Result<Frame<Bytes>, std::convert::Infallible>> = vec![
                        Ok(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    let answer = hyper::Response::builder().header("content-type", "application/grpc").body(body);
                    answer.map_err(|error| error.to_string())
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(async move { drop(server.serve_connection(io, answer).await) });
        }
    });
    port
}

#[tokio::test]
async fn grpc_health_is_asked_for() {
    let discovery = Fixture::start();
    let status = Arc::new(AtomicU8::new(1));
    let port = grpc(Arc::clone(&status)).await;
    let body = format!(r#"{{"Name":"rpc","GRPC":"127.0.0.1:{port}/svc","Interval":"1s"}}"#);
    assert_eq!(discovery.put("agent/check/register", body).await.0, 200);
    until(&discovery, "rpc", "passing").await;
    status.store(2, Ordering::Relaxed);
    let output = until(&discovery, "rpc", "critical").await;
    assert!(output.contains("not SERVING"), "{output}");
    discovery.stop().await;
}

#[tokio::test]
async fn a_check_that_is_removed_is_asked_for_no_more() {
    let discovery = Fixture::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let body = format!(r#"{{"Name":"port","TCP":"{address}","Interval":"1s"}}"#);
    discovery.put("agent/check/register", body).await;
    until(&discovery, "port", "passing").await;
    assert_eq!(discovery.put("agent/check/deregister/port", "").await.0, 200);
    let gone = discovery.get_json("health/node/everring").await;
    assert!(gone.as_array().expect("a list").iter().all(|check| check["CheckID"] != "port"));
    discovery.stop().await;
}
