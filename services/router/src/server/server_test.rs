use std::collections::BTreeMap;
use std::sync::Mutex;

use actix_web::App;
use actix_web::test::{TestRequest, call_service, init_service, read_body_json};
use chord::{NextHop, Peer};
use membership::{ClusterId, Epoch, Member, View};
use runtime::CallError;

use super::*;
use crate::nodes::Looking;

/// Nodes 1 to 4, each with one token at its id times 2^61, which answer by a table.
#[derive(Default)]
struct Scripted {
    hops: BTreeMap<u64, Option<NextHop>>,
    neighbours: BTreeMap<u64, Option<NextHop>>,
    asked: Mutex<Vec<(u64, Option<Position>)>>,
}

impl Nodes for Scripted {
    fn is_up(&self, node: NodeId) -> bool {
        self.hops.contains_key(&node.0)
    }

    fn lookup(
        &self,
        to: NodeId,
        _: Position,
        at: Option<Position>,
        by: LookupBy,
        _: Duration,
        _: TraceContext,
    ) -> Looking {
        self.asked.lock().expect("no panic holds it").push((to.0, at));
        let hops = if by == LookupBy::Neighbours { &self.neighbours } else { &self.hops };
        let answer = hops.get(&to.0).copied().ok_or(CallError::NotConnected);
        Box::pin(std::future::ready(answer))
    }
}

fn token(node: u64) -> Position {
    Position(node << 61)
}

fn peer(node: u64) -> Peer {
    Peer { position: token(node), node: NodeId(node) }
}

fn fleet() -> Fleet {
    let members = (1..=4).map(|id| Member {
        id: NodeId(id),
        name: format!("n{id}"),
        zone: None,
        weight: 1,
        tokens: vec![token(id)],
    });
    let view = View { epoch: Epoch(1), members: members.collect(), ..View::forming(ClusterId(7), 3, 4, 0) };
    Fleet { ring: Arc::new(view.ring()), view: Arc::new(view), nodes: BTreeMap::new() }
}

async fn ask(nodes: &Arc<Scripted>, path: &str) -> (u16, serde_json::Value) {
    ask_by("GET", nodes, path).await
}

async fn ask_by(method: &str, nodes: &Arc<Scripted>, path: &str) -> (u16, serde_json::Value) {
    let (_told, fleet) = watch::channel(Arc::new(fleet()));
    let nodes: Arc<dyn Nodes> = Arc::clone(nodes) as _;
    let hasher = KeyHasher::new(b"secret");
    let router = Router { nodes, fleet, hasher, directory: Mutex::default(), check: RingCheck::default() };
    ask_router(method, Data::new(router), path).await
}

async fn ask_plain(nodes: &Arc<Scripted>, path: &str) -> (u16, serde_json::Value) {
    let (_told, fleet) = watch::channel(Arc::new(fleet()));
    let (hasher, directory) = (KeyHasher::new(b"secret"), Mutex::default());
    let router = Router { nodes: Arc::clone(nodes) as _, fleet, hasher, directory, check: RingCheck::default() };
    let app = init_service(App::new().app_data(Data::new(router)).configure(configure)).await;
    let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
    (answer.status().as_u16(), read_body_json(answer).await)
}

async fn ask_router(method: &str, router: Data<Router>, path: &str) -> (u16, serde_json::Value) {
    let app = init_service(App::new().app_data(router).configure(configure)).await;
    let request = TestRequest::default().method(method.parse().expect("a method")).uri(path);
    let answer = call_service(&app, request.to_request()).await;
    let status = answer.status().as_u16();
    assert!(answer.headers().contains_key(header::TRACE_ID));
    assert_eq!(status == 503, answer.headers().contains_key("retry-after"));
    (status, read_body_json(answer).await)
}

#[actix_web::test]
async fn fingers_go_hop_by_hop_and_say_which_token_is_meant() {
    let hops = BTreeMap::from([(1, Some(NextHop::Ask(peer(2)))), (2, Some(NextHop::Owner(peer(3))))]);
    let nodes = Arc::new(Scripted { hops, ..Scripted::default() });
    let target = Position(token(3).0 - 5);
    let (status, answer) = ask(&nodes, &format!("/v1/position/{target}?from=n1")).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["owner"], "n3");
    assert_eq!(answer["agrees_with_view"], true);
    assert_eq!(answer["replicas"], serde_json::json!(["n3", "n4", "n1"]));
    let names: Vec<&str> =
        answer["hops"].as_array().expect("hops").iter().filter_map(|hop| hop["node"].as_str()).collect();
    assert_eq!(names, ["n1", "n2"]);
    assert_eq!(*nodes.asked.lock().expect("free"), [(1, None), (2, Some(token(2)))]);
}

#[actix_web::test]
async fn an_owner_that_the_view_does_not_name_is_shown_as_such() {
    let hops = BTreeMap::from([(1, Some(NextHop::Owner(peer(4))))]);
    let nodes = Arc::new(Scripted { hops, ..Scripted::default() });
    let (_, answer) = ask(&nodes, &format!("/v1/position/{}", Position(token(3).0 - 5))).await;
    assert_eq!((&answer["owner"], &answer["agrees_with_view"]), (&"n4".into(), &false.into()));
}

#[actix_web::test]
async fn the_table_asks_nobody() {
    let nodes = Arc::new(Scripted::default());
    let (status, answer) = ask(&nodes, "/v1/route/records/some/key?lookup=table").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["hops"], serde_json::json!([]));
    let expected = KeyHasher::new(b"secret").position(BucketId(1), b"some/key");
    assert_eq!(answer["identifier"], expected.to_string());
    assert!(nodes.asked.lock().expect("free").is_empty());
}

#[actix_web::test]
async fn neighbours_are_walked_by_their_own_pointers() {
    let hops = BTreeMap::from([(1, None)]);
    let neighbours = BTreeMap::from([
        (1, Some(NextHop::Ask(peer(2)))),
        (2, Some(NextHop::Ask(peer(3)))),
        (3, Some(NextHop::Owner(peer(4)))),
    ]);
    let nodes = Arc::new(Scripted { hops, neighbours, ..Scripted::default() });
    let target = Position(token(4).0.wrapping_sub(5));
    let (status, answer) = ask(&nodes, &format!("/v1/position/{target}?lookup=neighbours&from=n1")).await;
    assert_eq!((status, &answer["owner"]), (200, &"n4".into()), "{answer}");
    assert_eq!(answer["hops"].as_array().map(Vec::len), Some(3));
    assert_eq!(answer["lookup"], "neighbours");
}

#[actix_web::test]
async fn the_directory_asks_the_owner_that_it_remembers_and_learns_when_it_is_wrong() {
    let hops = BTreeMap::from([(1, Some(NextHop::Owner(peer(3)))), (3, Some(NextHop::Owner(peer(3))))]);
    let nodes = Arc::new(Scripted { hops, ..Scripted::default() });
    let (_told, fleet) = watch::channel(Arc::new(fleet()));
    let (hasher, directory) = (KeyHasher::new(b"secret"), Mutex::default());
    let router = Router { nodes: Arc::clone(&nodes) as _, fleet, hasher, directory, check: RingCheck::default() };
    let router = Data::new(router);
    let target = Position(token(3).0 - 5);
    let path = format!("/v1/position/{target}?lookup=index&from=n1");
    let (_, first) = ask_router("GET", router.clone(), &path).await;
    assert_eq!((&first["owner"], &first["keeps"]["entries"]), (&"n3".into(), &1.0.into()), "{first}");
    let (_, second) = ask_router("GET", router.clone(), &path).await;
    assert_eq!((&second["hops"][0]["node"], second["hops"].as_array().map(Vec::len)), (&"n3".into(), Some(1)));
    assert_eq!(second["keeps"]["stale"], 0.0);
    // The owner is another one by now: n2 was remembered wrongly.
    router.directory().learn(target, peer(2));
    let (_, third) = ask_router("GET", router.clone(), &path).await;
    let names: Vec<&str> =
        third["hops"].as_array().expect("hops").iter().filter_map(|hop| hop["node"].as_str()).collect();
    assert_eq!((names, &third["owner"]), (vec!["n2", "n1"], &"n3".into()));
    assert_eq!(third["keeps"]["stale"], 0.5);
    assert_eq!(router.directory().believed(target), Some(peer(3)));
}

#[actix_web::test]
async fn the_state_of_the_ring_can_be_asked_for() {
    let nodes = Arc::new(Scripted::default());
    let (status, answer) = ask_plain(&nodes, "/v1/ring").await;
    assert_eq!((status, &answer["looks"]), (200, &0.into()), "{answer}");
}

#[actix_web::test]
async fn a_walk_that_leads_nowhere_is_a_typed_problem() {
    let nodes = Arc::new(Scripted { hops: BTreeMap::from([(1, None), (2, None)]), ..Scripted::default() });
    let (status, answer) = ask(&nodes, "/v1/route/records/k").await;
    assert_eq!((status, &answer["code"]), (503, &"lookup-failed".into()));
    assert_eq!(nodes.asked.lock().expect("free").len(), 2, "each connected node was a beginning");
}

#[actix_web::test]
async fn what_is_not_understood_is_a_typed_problem() {
    let nodes = Arc::new(Scripted::default());
    for (path, code) in [
        ("/v1/route/records/%zz", "bad-key"),
        ("/v1/route/records/", "bad-key"),
        ("/v1/route/mine/k", "no-such-bucket"),
        ("/v1/route/records", "no-such-path"),
        ("/nothing", "no-such-path"),
        ("/v1/position/12", "bad-request"),
        ("/v1/position/+000000000000001", "bad-request"),
        ("/v1/route/records/k?lookup=guess", "bad-request"),
        ("/v1/route/records/k?look=table", "bad-request"),
        ("/v1/route/records/k?from=n9", "bad-request"),
    ] {
        let (status, answer) = ask(&nodes, path).await;
        assert_eq!(answer["code"], code, "{path}: {answer}");
        assert_eq!(answer["status"], status, "{path}");
    }
    let (status, answer) = ask_by("POST", &nodes, "/v1/route/records/k").await;
    assert_eq!((status, &answer["code"]), (405, &"method".into()));
}
