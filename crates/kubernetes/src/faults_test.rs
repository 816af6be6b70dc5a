//! The faults against an API that is played by the test: what it is asked, in which order, and what it may refuse.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chaos::{Fault, FaultError, FaultKind};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// What was asked: method and path, with the body.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// What the API does besides answering.
#[derive(Clone, Copy, Default)]
struct Played {
    /// The status of the answer to an Event.
    event: u16,
    /// The status of the answer to a deletion or eviction.
    deletion: u16,
    /// The pod's UID now.
    uid: &'static str,
    /// Whether the pod has its label now.
    opted_in: bool,
}

const WILLING: Played = Played { event: 201, deletion: 200, uid: "u1", opted_in: true };

fn pod(api: Played) -> Value {
    let allowed = if api.opted_in { "allowed" } else { "denied" };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "name": "n0", "namespace": "everring", "uid": api.uid, "labels": {"everring.dev/chaos": allowed}}})
}

fn client(api: Played, asked: Asked) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let asked = Arc::clone(&asked);
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.expect("a body").to_bytes();
            let what = format!("{} {}", head.method, head.uri.path());
            asked.lock().expect("nobody panicked").push((what, serde_json::from_slice(&bytes).unwrap_or(Value::Null)));
            let (status, answer) = match (head.method.as_str(), head.uri.path()) {
                ("GET", _) => (200, pod(api)),
                ("POST", path) if path.ends_with("/events") => (api.event, json!({"metadata": {}})),
                _ => (api.deletion, pod(api)),
            };
            let answer = if status < 400 {
                answer
            } else {
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "no"})
            };
            let status = StatusCode::from_u16(status).expect("a status");
            let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    });
    kube::Client::new(service, "everring")
}

async fn strike(kind: FaultKind, api: Played) -> (Result<(), FaultError>, Vec<(String, Value)>) {
    let asked = Asked::default();
    let client = client(api, Arc::clone(&asked));
    let mut fault = PodFault {
        pods: Api::namespaced(client.clone(), "everring"),
        events: Events::new(client, "everring", "monkey-1"),
        order: Order {
            strike: chaos::monkey::Strike { id: 3, kind, target: "n0".to_owned(), life: 1 },
            pause: Duration::ZERO,
            run_id: "run1".to_owned(),
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
        },
        victim: Place { pod: "n0".to_owned(), uid: "u1".to_owned() },
        traces_page: Some("http://jaeger/".to_owned()),
    };
    let done = fault.inject().await;
    let asked = asked.lock().expect("nobody panicked").clone();
    (done, asked)
}

fn paths(asked: &[(String, Value)]) -> Vec<&str> {
    asked.iter().map(|(what, _)| what.as_str()).collect()
}

const GET: &str = "GET /api/v1/namespaces/everring/pods/n0";
const EVENT: &str = "POST /apis/events.k8s.io/v1/namespaces/everring/events";
const DELETE: &str = "DELETE /api/v1/namespaces/everring/pods/n0";
const EVICT: &str = "POST /api/v1/namespaces/everring/pods/n0/eviction";

#[tokio::test]
async fn the_event_comes_first_and_the_deletion_is_of_that_very_pod() {
    let (done, asked) = strike(FaultKind::Kill, WILLING).await;
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(paths(&asked), [GET, EVENT, DELETE]);
    let event = &asked[1].1;
    assert_eq!((&event["reason"], &event["regarding"]["uid"]), (&json!("ChaosKill"), &json!("u1")));
    let note = event["note"].as_str().expect("a note");
    assert!(note.contains("fault 3 of run run1") && note.contains("http://jaeger/trace/0af7651916cd43dd"), "{note}");
    let options = &asked[2].1;
    assert_eq!(options["preconditions"]["uid"], "u1");
    assert_eq!(options["gracePeriodSeconds"], 0);
}

#[tokio::test]
async fn grace_and_eviction_are_asked_for_as_such() {
    let (done, asked) = strike(FaultKind::Delete, WILLING).await;
    assert!(done.is_ok() && paths(&asked) == [GET, EVENT, DELETE]);
    assert_eq!(asked[2].1.get("gracePeriodSeconds"), None, "the pod's own grace period");
    let (done, asked) = strike(FaultKind::Evict, Played { deletion: 201, ..WILLING }).await;
    assert!(done.is_ok() && paths(&asked) == [GET, EVENT, EVICT], "{done:?} {asked:?}");
}

#[tokio::test]
async fn without_an_event_nothing_is_done() {
    let (done, asked) = strike(FaultKind::Kill, Played { event: 403, ..WILLING }).await;
    assert!(done.is_err_and(|error| error.to_string().contains("the Event could not be written")));
    assert_eq!(paths(&asked), [GET, EVENT]);
}

#[tokio::test]
async fn another_pod_of_that_name_and_one_that_opted_out_are_left_alone() {
    for api in [Played { uid: "u2", ..WILLING }, Played { opted_in: false, ..WILLING }] {
        let (done, asked) = strike(FaultKind::Kill, api).await;
        assert!(done.is_err());
        assert_eq!(paths(&asked), [GET], "neither an Event nor a deletion");
    }
}

#[tokio::test]
async fn a_refusal_says_what_it_means() {
    for (status, words) in [(429, "disruption budget"), (404, "has gone"), (409, "has gone"), (403, "may not evict")] {
        let (done, _) = strike(FaultKind::Evict, Played { deletion: status, ..WILLING }).await;
        let said = done.expect_err("refused").to_string();
        assert!(said.contains(words), "{status}: {said}");
    }
    let (done, asked) = strike(FaultKind::Pause, WILLING).await;
    assert!(done.is_err() && asked.is_empty(), "a pod cannot be paused");
}
