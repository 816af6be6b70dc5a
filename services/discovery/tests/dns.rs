//! DNS as a resolver asks it, over UDP and TCP.

mod common;

use std::net::SocketAddr;
use std::str::FromStr;

use common::{Fixture, within};
use discovery::Config;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

fn start() -> (Fixture, SocketAddr) {
    let discovery = Fixture::start_with(Config { dns: Some("127.0.0.1:0".into()), ..Config::new("127.0.0.1:0", "d") });
    let at = discovery.dns.expect("it answers DNS");
    (discovery, at)
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

async fn by_udp(at: SocketAddr, message: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let bytes = message.to_vec().expect("a message");
    let mut answer = vec![0; 65_536];
    socket.send_to(&bytes, at).await.expect("sent");
    let (length, _) = within(socket.recv_from(&mut answer)).await.expect("an answer");
    let read = Message::from_vec(&answer[..length]).expect("a message");
    assert_eq!(read.metadata.id, message.metadata.id);
    (read, length)
}

async fn by_tcp(at: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(at).await.expect("connected");
    let bytes = message.to_vec().expect("a message");
    stream.write_all(&u16::try_from(bytes.len()).expect("short").to_be_bytes()).await.expect("sent");
    stream.write_all(&bytes).await.expect("sent");
    let length = within(stream.read_u16()).await.expect("an answer");
    let mut answer = vec![0; usize::from(length)];
    within(stream.read_exact(&mut answer)).await.expect("an answer");
    Message::from_vec(&answer).expect("a message")
}

async fn ask(at: SocketAddr, name: &str, kind: RecordType) -> Message {
    by_udp(at, &question(name, kind, None)).await.0
}

fn data(message: &Message) -> Vec<String> {
    let mut found: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    found.sort();
    found
}

async fn register(discovery: &Fixture, id: &str, address: &str, port: u16, status: &str, tags: &str) {
    let body = format!(
        r#"{{"ID":"{id}","Name":"web","Address":"{address}","Port":{port},"Tags":[{tags}],
            "Weights":{{"Passing":5,"Warning":2}},"Check":{{"TTL":"1m","Status":"{status}"}}}}"#
    );
    assert_eq!(discovery.put("agent/service/register", body).await.0, 200);
}

#[tokio::test]
async fn services_are_found_by_name_tag_and_srv() {
    let (discovery, at) = start();
    register(&discovery, "w1", "10.0.0.1", 8001, "passing", r#""blue""#).await;
    register(&discovery, "w2", "10.0.0.2", 8002, "warning", r#""green""#).await;
    register(&discovery, "w3", "10.0.0.3", 8003, "critical", r#""blue""#).await;
    assert_eq!(data(&ask(at, "web.service.consul.", RecordType::A).await), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(data(&ask(at, "WEB.service.dc1.Consul.", RecordType::A).await), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(data(&ask(at, "green.web.service.consul.", RecordType::A).await), ["10.0.0.2"]);
    let found = ask(at, "_web._blue.service.consul.", RecordType::SRV).await;
    let RData::SRV(srv) = &found.answers[0].data else { panic!("an SRV record") };
    assert_eq!(
        (found.answers.len(), srv.port, srv.weight, srv.target.to_string()),
        (1, 8001, 5, "0a000001.addr.dc1.consul.".into())
    );
    assert_eq!(found.answers[0].ttl, 0);
    assert_eq!(found.additionals[0].data.to_string(), "10.0.0.1", "the target's address comes along");
    assert_eq!(ask(at, "_web._tcp.service.consul.", RecordType::SRV).await.answers.len(), 2);
    assert_eq!(data(&ask(at, "0a000001.addr.dc1.consul.", RecordType::A).await), ["10.0.0.1"]);
    assert_eq!(data(&ask(at, "everring.node.consul.", RecordType::A).await), ["127.0.0.1"]);
    assert_eq!(data(&by_tcp(at, &question("web.service.consul.", RecordType::A, None)).await).len(), 2);
    discovery.stop().await;
}

#[tokio::test]
async fn what_there_is_not_is_said_in_the_usual_ways() {
    let (discovery, at) = start();
    register(&discovery, "w1", "10.0.0.1", 80, "passing", "").await;
    for (name, kind, code) in [
        ("none.service.consul.", RecordType::A, ResponseCode::NXDomain),
        ("nope.web.service.consul.", RecordType::A, ResponseCode::NXDomain),
        ("none.node.consul.", RecordType::A, ResponseCode::NXDomain),
        ("zz.addr.consul.", RecordType::A, ResponseCode::NXDomain),
        ("web.service.dc9.consul.", RecordType::A, ResponseCode::NXDomain),
        ("web.service.consul.", RecordType::AAAA, ResponseCode::NoError),
        ("example.com.", RecordType::A, ResponseCode::Refused),
    ] {
        let answer = ask(at, name, kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
        let apex = answer.authorities.iter().any(|record| matches!(record.data, RData::SOA(_)));
        assert_eq!(apex, code != ResponseCode::Refused, "{name}");
    }
    assert_eq!(ask(at, "consul.", RecordType::NS).await.answers.len(), 1);
    discovery.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_comes_whole_by_tcp() {
    let (discovery, at) = start();
    for number in 0..100 {
        register(&discovery, &format!("w{number}"), &format!("10.1.0.{number}"), 80, "passing", "").await;
    }
    let (cut, length) = by_udp(at, &question("web.service.consul.", RecordType::A, None)).await;
    assert!(cut.metadata.truncation && length <= 512 && !cut.answers.is_empty(), "{length} bytes");
    let (more, length) = by_udp(at, &question("web.service.consul.", RecordType::A, Some(1232))).await;
    assert!(more.metadata.truncation && length <= 1232 && more.answers.len() > cut.answers.len());
    let whole = by_tcp(at, &question("web.service.consul.", RecordType::A, None)).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
    discovery.stop().await;
}

#[tokio::test]
async fn a_name_leads_to_another_name_and_junk_is_survived() {
    let (discovery, at) = start();
    register(&discovery, "w1", "db.example.com", 80, "passing", "").await;
    assert_eq!(data(&ask(at, "web.service.consul.", RecordType::A).await), ["db.example.com."]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    for junk in [&b""[..], b"\0", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", &[0xc0; 600]] {
        socket.send_to(junk, at).await.expect("sent");
    }
    assert_eq!(ask(at, "web.service.consul.", RecordType::SRV).await.answers.len(), 1);
    discovery.stop().await;
}
