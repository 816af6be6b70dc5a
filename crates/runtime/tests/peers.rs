//! Real connections on loopback: two and three processes' worth of [`Peers`], and strangers with bare sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chord::NextHop;
use membership::{BucketId, ClusterId, Epoch, NodeId, Position};
use replication::{Ballot, Body, Operation, Outcome, Receipt, Refusal, RegisterKey, RequestId, State, Value, Version};
use runtime::{CallError, ConnectError, ConnectionId, Limits, PeerEvent, Peers};
use stdx::TraceContext;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Receiver};
use wire::codec;
use wire::frame;
use wire::node::{Frame, Hello, LookupBy, OperationCall, PROTOCOL, Payload, Sender};

/// Past this a condition that was waited for will not come; nothing below waits for time to pass.
const PATIENCE: Duration = Duration::from_secs(20);
/// A deadline that no test lets run out.
const LONG: Duration = Duration::from_secs(60);
const CLUSTER: ClusterId = ClusterId(0xc1);
/// A register on which [`serve`] keeps the caller waiting until it is told otherwise.
const HELD: &[u8] = b"held";

struct Node {
    id: NodeId,
    peers: Peers,
    events: Receiver<PeerEvent>,
    address: SocketAddr,
}

fn hello(id: u64, incarnation: u64) -> Hello {
    let sender = Sender::Node { id: NodeId(id), incarnation, name: format!("n{id}") };
    Hello { protocol: PROTOCOL, cluster: CLUSTER, sender }
}

fn client_hello() -> Hello {
    Hello { protocol: PROTOCOL, cluster: CLUSTER, sender: Sender::Client { name: "g1".into() } }
}

fn start_at(address: SocketAddr, hello: Hello, limits: Limits) -> Node {
    let id = hello.sender.node_id().unwrap_or_default();
    let (peers, events) = Peers::with_limits(hello, limits);
    let listener = std::net::TcpListener::bind(address).expect("the port is free");
    let address = listener.local_addr().expect("it is bound");
    peers.listen(listener).expect("it can listen");
    Node { id, peers, events, address }
}

fn start(id: u64) -> Node {
    start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(id, 1), Limits::default())
}

impl Node {
    fn dial(&self, others: &[&Node]) {
        self.peers.set_addresses(others.iter().map(|other| (other.id, other.address)).collect());
    }

    async fn next(&mut self) -> PeerEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event comes").expect("the peers live")
    }

    async fn until(&mut self, wanted: PeerEvent) {
        let mut seen = Vec::new();
        while seen.last() != Some(&wanted) {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(event)) => seen.push(event),
                _ => panic!("{wanted:?} did not come, but {seen:?}"),
            }
        }
    }
}

/// Polls for what has no event.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < patience, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn key(name: &[u8]) -> RegisterKey {
    RegisterKey { position: Position(7), bucket: BucketId(1), key: Bytes::copy_from_slice(name) }
}

fn read(name: &[u8]) -> Operation {
    Operation::Read { key: key(name) }
}

fn frame(payload: Payload) -> Frame {
    Frame { context: TraceContext::NONE, payload }
}

fn encoded(payload: Payload) -> Bytes {
    let mut out = BytesMut::new();
    codec::encode(&frame(payload), &mut out);
    out.freeze()
}

fn value_of(body: Bytes) -> Outcome {
    Outcome::Value(Some((Version::default(), Value { body, content_type: Bytes::new() })))
}

fn receipt() -> Receipt {
    Receipt { epoch: Epoch(1), voters: vec![NodeId(1)], rounds: 1, time: Ballot::ZERO }
}

/// Answers reads with the key's own name, or as many zeros as it says; tells of other events. Held calls wait for
/// their connection's release.
fn serve(node: Node) -> (Peers, SocketAddr, Receiver<(ConnectionId, u64)>, Receiver<PeerEvent>) {
    let (peers, address) = (node.peers.clone(), node.address);
    let (held, held_calls) = mpsc::channel(64);
    let (others, other_events) = mpsc::channel(64);
    let answering = node.peers.clone();
    let mut events = node.events;
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                PeerEvent::Frame { via, frame: Frame { context, payload: Payload::Operation(asked) }, .. } => {
                    let OperationCall { call, operation, .. } = asked;
                    let name = operation.key().key.clone();
                    if name == HELD {
                        held.send((via, call)).await.expect("the test listens");
                        continue;
                    }
                    let length = String::from_utf8_lossy(&name).parse().ok();
                    let body = length.map_or(name, |length: usize| Bytes::from(vec![0; length]));
                    let payload = Payload::OperationReply { call, outcome: value_of(body), receipt: receipt() };
                    answering.reply(via, Frame { context, payload });
                }
                PeerEvent::Frame {
                    via,
                    frame: Frame { payload: Payload::Lookup { call, target, at, .. }, .. },
                    ..
                } => {
                    let peer = chord::Peer { position: at.unwrap_or(target), node: NodeId(2) };
                    answering.reply(via, frame(Payload::LookupReply { call, hop: Some(NextHop::Ask(peer)) }));
                }
                other => {
                    // Some tests do not look.
                    let _ = others.try_send(other);
                }
            }
        }
    });
    (peers, address, held_calls, other_events)
}

/// A stranger that speaks as it likes.
async fn connect_raw(address: SocketAddr, hello: Hello) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(&encoded(Payload::Hello(hello))).await.expect("it is read");
    stream
}

async fn read_raw(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Payload> {
    loop {
        if let Some(bytes) = frame::split(buffer).expect("frames come") {
            return Some(codec::decode(bytes).expect("whole frames come").payload);
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(buffer)).await.expect("something comes");
        if matches!(read, Ok(0) | Err(_)) {
            return None;
        }
    }
}

/// Reads until the other end closes.
async fn closed_by_peer(stream: &mut TcpStream) {
    let mut buffer = BytesMut::new();
    while read_raw(stream, &mut buffer).await.is_some() {}
}

#[tokio::test]
async fn calls_lookups_and_messages_reach_the_other_side() {
    let mut a = start(1);
    let b = start(2);
    a.dial(&[&a, &b]);
    b.dial(&[&a]);
    let (b_id, b_peers) = (b.id, b.peers.clone());
    let (.., mut b_events) = serve(b);
    a.until(PeerEvent::Up(b_id)).await;
    assert_eq!(b_events.recv().await, Some(PeerEvent::Up(NodeId(1))));

    let context = TraceContext { trace_id: 3, span_id: 4, flags: 1 };
    let answer = a.peers.call(b_id, read(b"k"), LONG, context).await;
    assert_eq!(answer, Ok((value_of(Bytes::from_static(b"k")), receipt())));
    let hop = a.peers.lookup(b_id, Position(9), Some(Position(8)), LookupBy::Fingers, LONG, context).await;
    assert_eq!(hop, Ok(Some(NextHop::Ask(chord::Peer { position: Position(8), node: b_id }))));

    let message = replication::Message { epoch: Epoch(1), counter: 2, body: Body::OtherEpoch { view: None } };
    let sent = Frame { context, payload: Payload::Replica(message) };
    assert!(a.peers.send(b_id, sent.clone()));
    match b_events.recv().await {
        Some(PeerEvent::Frame { from, frame, .. }) => {
            assert_eq!(from, hello(1, 1).sender);
            assert_eq!(frame, sent, "context and all");
        }
        other => panic!("a frame was sent and {other:?} came"),
    }
    assert!(a.peers.is_up(b_id) && b_peers.is_up(a.id));
    assert!(!a.peers.is_up(a.id), "nobody dials himself");
    assert!(!a.peers.send(NodeId(99), sent), "a stranger is not connected");
    assert_eq!(a.peers.call(NodeId(99), read(b"k"), LONG, context).await, Err(CallError::NotConnected));
}

#[tokio::test]
async fn a_reset_fails_every_waiting_call_at_once_and_the_peer_is_found_again() {
    let mut a = start(1);
    let b = start(2);
    a.dial(&[&b]);
    let b_id = b.id;
    let (b_peers, b_address, mut held, _) = serve(b);
    a.until(PeerEvent::Up(b_id)).await;
    let calls: Vec<_> =
        (0..3).map(|_| tokio::spawn(a.peers.call(b_id, read(HELD), LONG, TraceContext::NONE))).collect();
    for _ in 0..3 {
        held.recv().await.expect("the calls arrive");
    }
    b_peers.close();
    for call in calls {
        let ended = tokio::time::timeout(PATIENCE, call).await.expect("long before its deadline").expect("no panic");
        assert_eq!(ended, Err(CallError::Reset));
    }
    a.until(PeerEvent::Down(b_id)).await;
    assert_eq!(a.peers.call(b_id, read(b"k"), LONG, TraceContext::NONE).await, Err(CallError::NotConnected));
    let unreachable = || matches!(a.peers.last_error(b_id), Some(ConnectError::Unreachable(_)));
    until("the dialler says why", unreachable).await;

    let again = start_at(b_address, hello(2, 2), Limits::default());
    let (_peers, ..) = serve(again);
    a.until(PeerEvent::Up(b_id)).await;
    assert_eq!(a.peers.last_error(b_id), None);
    assert!(a.peers.call(b_id, read(b"k"), LONG, TraceContext::NONE).await.is_ok());
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_gives_its_credit_back() {
    let mut a =
        start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(1, 1), Limits { calls_max: 2, ..Limits::default() });
    let b = start(2);
    a.dial(&[&b]);
    let (b_id, (_peers, _, mut held, _)) = (b.id, serve(b));
    a.until(PeerEvent::Up(b_id)).await;
    let call = |name, deadline| a.peers.call(b_id, read(name), deadline, TraceContext::NONE);
    assert_eq!(call(HELD, Duration::from_millis(5)).await, Err(CallError::Deadline));
    held.recv().await.expect("it did arrive");

    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(call(HELD, LONG))).collect();
    for _ in 0..2 {
        held.recv().await.expect("both have credit");
    }
    assert_eq!(call(b"k", LONG).await, Err(CallError::QueueFull), "the third has none");
    waiting[0].abort();
    for call in waiting.into_iter().take(1) {
        assert!(call.await.is_err_and(|error| error.is_cancelled()));
    }
    assert!(call(b"k", LONG).await.is_ok(), "a call that is given up gives its credit back");
}

#[tokio::test]
async fn who_does_not_belong_here_is_refused_with_the_reason() {
    let a = start(1);
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let other_cluster = Hello { cluster: ClusterId(0xbad), ..hello(2, 1) };
    let other_protocol = Hello { protocol: PROTOCOL + 1, ..hello(3, 1) };
    let strangers = [
        start_at(local, other_cluster, Limits::default()),
        start_at(local, other_protocol, Limits::default()),
        start_at(local, hello(1, 1), Limits::default()),
        start_at(local, client_hello(), Limits::default()),
    ];
    let addresses = (2..=5).map(NodeId).zip(strangers.iter().map(|stranger| stranger.address));
    a.peers.set_addresses(addresses.collect());
    let error_of = |node| a.peers.last_error(NodeId(node));
    until("each has its reason", || (2..=5).all(|node| error_of(node).is_some())).await;
    assert_eq!(error_of(2), Some(ConnectError::OtherCluster { theirs: ClusterId(0xbad), ours: CLUSTER }));
    assert_eq!(error_of(3), Some(ConnectError::OtherProtocol { theirs: PROTOCOL + 1, ours: PROTOCOL }));
    assert_eq!(error_of(4), Some(ConnectError::OwnIdentity));
    let found = "client \"g1\"".to_string();
    assert_eq!(error_of(5), Some(ConnectError::WrongNode { expected: NodeId(5), found }));
    for mut refused in [a].into_iter().chain(strangers.into_iter().take(2)) {
        assert!(refused.events.try_recv().is_err(), "neither end takes the other for a peer");
    }
}

#[tokio::test]
async fn of_two_processes_with_one_identity_the_older_is_fenced_off() {
    let mut a = start(1);
    let mut second = connect_raw(a.address, hello(2, 2)).await;
    a.until(PeerEvent::Up(NodeId(2))).await;
    let mut first = connect_raw(a.address, hello(2, 1)).await;
    closed_by_peer(&mut first).await;
    assert!(a.peers.is_up(NodeId(2)), "the newer one stays");
    let mut third = connect_raw(a.address, hello(2, 3)).await;
    closed_by_peer(&mut second).await;
    let mut buffer = BytesMut::new();
    assert!(matches!(read_raw(&mut third, &mut buffer).await, Some(Payload::Hello(_))));
    assert!(matches!(read_raw(&mut third, &mut buffer).await, Some(Payload::Ping)), "the newest one is kept");
    assert!(a.peers.is_up(NodeId(2)));
}

#[tokio::test]
async fn garbage_closes_its_own_connection_and_no_other() {
    let mut a = start(1);
    let b = start(2);
    a.dial(&[&b]);
    let (b_id, (_peers, b_address, ..)) = (b.id, serve(b));
    a.until(PeerEvent::Up(b_id)).await;

    let whole = encoded(Payload::Ping).to_vec();
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", &[0xff; 100], &damaged, &[0; 64]];
    for bytes in garbage {
        let mut stranger = TcpStream::connect(b_address).await.expect("it listens");
        stranger.write_all(bytes).await.expect("it takes bytes");
        closed_by_peer(&mut stranger).await;
        let mut after_hello = connect_raw(b_address, client_hello()).await;
        after_hello.write_all(bytes).await.expect("it takes bytes");
        closed_by_peer(&mut after_hello).await;
    }
    let mut out_of_step = connect_raw(b_address, client_hello()).await;
    out_of_step.write_all(&encoded(Payload::Hello(client_hello()))).await.expect("it takes bytes");
    closed_by_peer(&mut out_of_step).await;

    assert!(a.events.try_recv().is_err(), "the good connection never broke");
    assert!(a.peers.call(b_id, read(b"k"), LONG, TraceContext::NONE).await.is_ok());
}

#[tokio::test]
async fn a_slow_reader_fills_its_own_queue_and_holds_up_nobody() {
    let limits = Limits { queue_bytes_max: 8 << 20, silence_max: LONG, ..Limits::default() };
    let mut a = start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(1, 1), limits);
    let b = start(2);
    a.dial(&[&b]);
    let (b_id, _served) = (b.id, serve(b));
    a.until(PeerEvent::Up(b_id)).await;
    // Says Hello and reads nothing.
    let _slow = connect_raw(a.address, hello(3, 1)).await;
    a.until(PeerEvent::Up(NodeId(3))).await;

    let value = Value { body: Bytes::from(vec![1; 1 << 20]), content_type: Bytes::new() };
    let state = State { value: Some(value), ..State::default() };
    let body = Body::Learn { key: key(b"k"), ballot: replication::Ballot::ZERO, state };
    let large = frame(Payload::Replica(replication::Message { epoch: Epoch(1), counter: 1, body }));
    let mut taken = 0;
    // The kernel's buffers take some, the queue eight; tens of them must not fit.
    while a.peers.send(NodeId(3), large.clone()) {
        taken += 1;
        assert!(taken < 64, "the queue has no bound");
        tokio::task::yield_now().await;
    }
    assert!(taken >= 8, "the queue takes what it may: {taken}");
    assert!(!a.peers.flush(Duration::ZERO).await, "much is left to be written");
    let calls = (0..100).map(|_| a.peers.call(b_id, read(b"k"), LONG, TraceContext::NONE));
    for answer in futures_util::future::join_all(calls).await {
        assert!(answer.is_ok(), "the other peer is served as ever");
    }
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_answered_by_a_refusal() {
    let limits = Limits { queue_bytes_max: 4 << 20, ..Limits::default() };
    let (_peers, address, ..) = serve(start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(1, 1), limits));
    let mut client = connect_raw(address, client_hello()).await;
    let calls = 40;
    for call in 0..calls {
        let operation = read((1 << 20).to_string().as_bytes());
        let asked = encoded(Payload::Operation(OperationCall { call, deadline_ms: 60_000, operation }));
        client.write_all(&asked).await.expect("it is read");
    }
    let mut buffer = BytesMut::new();
    let (mut values, mut refusals) = (0, 0);
    while values + refusals < calls {
        match read_raw(&mut client, &mut buffer).await {
            Some(Payload::OperationReply { outcome: Outcome::Value(Some(_)), .. }) => values += 1,
            Some(Payload::OperationReply { outcome: Outcome::Refused(Refusal::Overloaded), .. }) => refusals += 1,
            Some(Payload::Hello(_) | Payload::Ping) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert!(values >= 3 && refusals >= 1, "{values} values and {refusals} refusals");
}

#[tokio::test]
async fn the_queue_is_bounded_in_frames() {
    let limits = Limits { queue_frames_max: 4, ..Limits::default() };
    let mut a = start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(1, 1), limits);
    let _b = connect_raw(a.address, hello(2, 1)).await;
    a.until(PeerEvent::Up(NodeId(2))).await;
    assert!(a.peers.flush(PATIENCE).await);
    // The test's one thread is not given up in between, so nothing is written.
    let sent: Vec<bool> = (0..6).map(|_| a.peers.send(NodeId(2), frame(Payload::Ping))).collect();
    assert_eq!(sent, [true, true, true, true, false, false]);
    assert!(a.peers.flush(PATIENCE).await);
    assert!(a.peers.send(NodeId(2), frame(Payload::Ping)), "what is written makes room");
    let huge = Value { body: Bytes::from(vec![0; frame::FRAME_BYTES_MAX]), content_type: Bytes::new() };
    let huge = Payload::OperationReply {
        call: 1,
        outcome: Outcome::Done { effect: replication::Effect::Unfit, value: Some(huge) },
        receipt: receipt(),
    };
    assert!(!a.peers.send(NodeId(2), frame(huge)), "a frame past the bound is not sent");
}

#[tokio::test]
async fn a_refused_frame_does_not_hold_up_those_before_it() {
    // No ping comes to the rescue.
    let limits = Limits { ping_interval: LONG, silence_max: LONG, queue_bytes_max: 80_000, ..Limits::default() };
    let mut a = start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(1, 1), limits);
    let mut b = connect_raw(a.address, hello(2, 1)).await;
    a.until(PeerEvent::Up(NodeId(2))).await;
    let mut buffer = BytesMut::new();
    assert!(matches!(read_raw(&mut b, &mut buffer).await, Some(Payload::Hello(_))));
    assert_eq!(read_raw(&mut b, &mut buffer).await, Some(Payload::Ping), "the first one, which comes at once");
    assert!(a.peers.flush(PATIENCE).await);
    let body = |length| Value { body: Bytes::from(vec![0; length]), content_type: Bytes::new() };
    let reply = |call, length| {
        let outcome = Outcome::Value(Some((Version::default(), body(length))));
        frame(Payload::OperationReply { call, outcome, receipt: receipt() })
    };
    for call in 0..17 {
        assert!(a.peers.send(NodeId(2), reply(call, 4000)), "a small one is always taken");
    }
    assert!(!a.peers.send(NodeId(2), reply(17, 20_000)), "a large one would be too much");
    let mut calls = Vec::new();
    while calls.len() < 17 {
        match read_raw(&mut b, &mut buffer).await {
            Some(Payload::OperationReply { call, .. }) => calls.push(call),
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(calls, (0..17).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_is_leaving_gets_no_new_calls_and_answers_the_old() {
    let mut a = start(1);
    let b = start(2);
    a.dial(&[&b]);
    let (b_id, (b_peers, b_address, mut held, _)) = (b.id, serve(b));
    a.until(PeerEvent::Up(b_id)).await;
    let waiting = tokio::spawn(a.peers.call(b_id, read(HELD), LONG, TraceContext::NONE));
    let (via, call) = held.recv().await.expect("it arrives");
    b_peers.go_away();
    until("the word arrives", || a.peers.is_going_away(b_id)).await;
    assert_eq!(a.peers.call(b_id, read(b"k"), LONG, TraceContext::NONE).await, Err(CallError::GoingAway));
    assert!(a.peers.is_up(b_id) && a.peers.send(b_id, frame(Payload::Ping)), "messages still go");

    let payload = Payload::OperationReply { call, outcome: Outcome::Unknown, receipt: receipt() };
    assert!(b_peers.reply(via, frame(payload)));
    assert!(b_peers.flush(PATIENCE).await);
    b_peers.close();
    assert_eq!(waiting.await.expect("no panic"), Ok((Outcome::Unknown, receipt())), "flushed before it closed");
    a.until(PeerEvent::Down(b_id)).await;
    assert!(!a.peers.is_going_away(b_id));

    // Who leaves also says so to those that come late.
    let late = start_at(b_address, hello(2, 2), Limits::default());
    late.peers.go_away();
    a.until(PeerEvent::Up(b_id)).await;
    until("it is said after the Hello", || a.peers.is_going_away(b_id)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_beside_small_calls_all_arrive_whole() {
    let mut a = start(1);
    let b = start(2);
    a.dial(&[&b]);
    let (b_id, _served) = (b.id, serve(b));
    a.until(PeerEvent::Up(b_id)).await;
    let lengths = (0..400).map(|index| match index % 20 {
        0 => 1 << 20,
        1 => 4096 + index,
        2 => 65_536 + index,
        _ => index,
    });
    let calls = lengths.map(|length: usize| {
        let call = a.peers.call(b_id, read(length.to_string().as_bytes()), LONG, TraceContext::NONE);
        async move { (length, call.await) }
    });
    for (length, answer) in futures_util::future::join_all(calls).await {
        match answer {
            Ok((Outcome::Value(Some((_, value))), _)) => assert_eq!(value.body, Bytes::from(vec![0; length])),
            other => panic!("a value of {length} bytes was asked for, and {other:?} came"),
        }
    }
}

#[tokio::test]
async fn of_three_one_dies_and_the_others_go_on() {
    let (mut a, mut b, c) = (start(1), start(2), start(3));
    for node in [&a, &b, &c] {
        node.dial(&[&a, &b, &c]);
    }
    let (mut a_up, mut b_up) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        a_up.push(a.next().await);
        b_up.push(b.next().await);
    }
    a_up.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(a_up, [PeerEvent::Up(NodeId(2)), PeerEvent::Up(NodeId(3))]);
    c.peers.close();
    a.until(PeerEvent::Down(NodeId(3))).await;
    b.until(PeerEvent::Down(NodeId(3))).await;
    assert!(a.peers.is_up(NodeId(2)) && b.peers.is_up(NodeId(1)));
    let (b_peers, ..) = serve(b);
    assert!(a.peers.call(NodeId(2), read(b"k"), LONG, TraceContext::NONE).await.is_ok());

    // A node that is no longer wanted is let go, an accepted connection stays.
    b_peers.set_addresses(BTreeMap::new());
    a.peers.set_addresses(BTreeMap::new());
    a.until(PeerEvent::Down(NodeId(2))).await;
}

#[tokio::test]
async fn a_silent_peer_is_let_go_and_a_pinging_one_is_kept() {
    let limits = Limits {
        ping_interval: Duration::from_millis(20),
        silence_max: Duration::from_millis(400),
        ..Limits::default()
    };
    let mut a = start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(1, 1), limits);
    let mut silent = connect_raw(a.address, hello(2, 1)).await;
    a.until(PeerEvent::Up(NodeId(2))).await;
    let b = start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(3, 1), limits);
    a.dial(&[&b]);
    a.until(PeerEvent::Up(b.id)).await;
    let mut buffer = BytesMut::new();
    assert!(matches!(read_raw(&mut silent, &mut buffer).await, Some(Payload::Hello(_))));
    for _ in 0..3 {
        assert_eq!(read_raw(&mut silent, &mut buffer).await, Some(Payload::Ping));
    }
    assert_eq!(a.next().await, PeerEvent::Down(NodeId(2)), "and only that one, although the other says as little");
    closed_by_peer(&mut silent).await;
    assert!(a.peers.is_up(b.id));
}

#[tokio::test]
async fn a_changed_address_is_dialled_anew() {
    let mut a = start(1);
    let (old, new) = (start(2), start_at(SocketAddr::from(([127, 0, 0, 1], 0)), hello(2, 2), Limits::default()));
    a.dial(&[&old]);
    a.until(PeerEvent::Up(NodeId(2))).await;
    a.dial(&[&new]);
    let (_peers, _, _, mut events) = serve(new);
    assert_eq!(events.recv().await, Some(PeerEvent::Up(a.id)), "the new address is dialled");
    until("calls go there", || a.peers.is_up(NodeId(2))).await;
    let request = Operation::Outcome { key: key(b"k"), request: RequestId(1) };
    assert!(a.peers.call(NodeId(2), request, LONG, TraceContext::NONE).await.is_ok());
}
