//! Which transport between gateway and storage node: framed TCP of ours, or actix-web's HTTP/1.1 with reqwest?
//!
//! Both serve the same calls in one process on loopback: 64 in flight, bodies of 100 B and 16 KiB both ways (an append
//! that answers with the value). Rounds alternate between the transports, so that the machine's moods hit both alike.
//!
//! `cargo run --release -p runtime --example transport_bench [ROUNDS] [SECONDS A ROUND]`

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::{App, HttpServer, web};
use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, NodeId, Position};
use replication::{
    Ballot, Change, Condition, Effect, Operation, Outcome, Receipt, RegisterKey, RequestId, Terms, Value, Version,
    Write,
};
use runtime::{PeerEvent, Peers};
use stdx::TraceContext;
use wire::node::{Frame, Hello, PROTOCOL, Payload, Sender};

const IN_FLIGHT: usize = 64;
const SERVER: NodeId = NodeId(1);
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Figures {
    latencies_us: Vec<u32>,
    elapsed: Duration,
}

impl Figures {
    fn add(&mut self, mut other: Figures) {
        self.latencies_us.append(&mut other.latencies_us);
        self.elapsed += other.elapsed;
    }

    fn line(&mut self) -> String {
        self.latencies_us.sort_unstable();
        let count = self.latencies_us.len();
        let at = |share: f64| self.latencies_us.get((count as f64 * share) as usize).copied().unwrap_or_default();
        let rate = count as f64 / self.elapsed.as_secs_f64();
        format!("{rate:>9.0} round trips/s   p50 {:>6} us   p99 {:>6} us", at(0.5), at(0.99))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: u32 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(2), |text| text.parse())?;
    // Either server has a runtime and threads of its own, as it would have in a process of its own.
    let http = serve_http()?;
    let framed = serve_framed()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async move {
        let peers = connect(framed).await;
        let client = reqwest::Client::builder().tcp_nodelay(true).pool_max_idle_per_host(IN_FLIGHT).build()?;
        for length in [100usize, 16 << 10] {
            let (mut over_frames, mut over_http) = (Figures::default(), Figures::default());
            for _ in 0..rounds {
                over_frames.add(run(seconds, || frame_call(peers.clone(), length)).await);
                over_http.add(run(seconds, || http_call(client.clone(), http, length)).await);
            }
            println!("{length:>6} B, {IN_FLIGHT} in flight, {rounds} rounds of {seconds} s each, interleaved");
            println!("  framed TCP          {}", over_frames.line());
            println!("  actix-web + reqwest {}", over_http.line());
        }
        Ok(())
    })
}

/// Keeps `IN_FLIGHT` calls going for some seconds.
async fn run<F>(seconds: u64, call: impl Fn() -> F) -> Figures
where
    F: Caller,
{
    let over = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let workers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (over, mut call) = (Arc::clone(&over), call());
            tokio::spawn(async move {
                let mut latencies_us = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    call.call().await;
                    latencies_us.push(start.elapsed().as_micros() as u32);
                }
                latencies_us
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    over.store(true, Ordering::Relaxed);
    let mut figures = Figures::default();
    for worker in workers {
        figures.latencies_us.append(&mut worker.await.expect("a worker does not panic"));
    }
    figures.elapsed = start.elapsed();
    figures
}

/// One worker's way of calling.
trait Caller: Send + 'static {
    fn call(&mut self) -> impl Future<Output = ()> + Send;
}

struct FrameCall {
    peers: Peers,
    body: Bytes,
}

fn frame_call(peers: Peers, length: usize) -> FrameCall {
    FrameCall { peers, body: Bytes::from(vec![7; length]) }
}

impl Caller for FrameCall {
    async fn call(&mut self) {
        let write = Write {
            key: RegisterKey { position: Position(1), bucket: BucketId(1), key: Bytes::from_static(b"some/key") },
            request: RequestId(1),
            first_sent_ms: 1,
            retry: false,
            condition: Condition::Always,
            change: Change::Append(self.body.clone()),
            terms: Terms::default(),
        };
        let answer = self.peers.call(SERVER, Operation::Write(write), DEADLINE, TraceContext::NONE).await;
        match answer {
            Ok((Outcome::Done { value: Some(value), .. }, _)) => assert_eq!(value.body.len(), self.body.len()),
            other => panic!("a call went wrong: {other:?}"),
        }
    }
}

struct HttpCall {
    client: reqwest::Client,
    url: String,
    body: Bytes,
}

fn http_call(client: reqwest::Client, address: SocketAddr, length: usize) -> HttpCall {
    HttpCall { client, url: format!("http://{address}/append/some/key"), body: Bytes::from(vec![7; length]) }
}

impl Caller for HttpCall {
    async fn call(&mut self) {
        let request = self.client.post(&self.url).header("everring-deadline-ms", "1000").body(self.body.clone());
        let answer = request.send().await.expect("the server answers");
        assert_eq!(answer.bytes().await.expect("whole").len(), self.body.len());
    }
}

fn serve_http() -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let app = || App::new().route("/append/{key:.*}", web::post().to(async |body: Bytes| body));
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(app).workers(1).listen(listener).expect("it can listen");
            server.run().await.expect("it serves");
        });
    });
    Ok(address)
}

fn hello(sender: Sender) -> Hello {
    Hello { protocol: PROTOCOL, cluster: ClusterId(1), sender }
}

fn serve_framed() -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let node = Sender::Node { id: SERVER, incarnation: 1, name: "n1".into() };
            let (peers, mut events) = Peers::new(hello(node));
            peers.listen(listener).expect("it can listen");
            while let Some(event) = events.recv().await {
                let PeerEvent::Frame { via, frame: Frame { context, payload }, .. } = event else { continue };
                let Payload::Operation(asked) = payload else { continue };
                let Operation::Write(Write { change: Change::Append(body), .. }) = asked.operation else { continue };
                let value = Some(Value { body, content_type: Bytes::new() });
                let outcome = Outcome::Done { effect: Effect::Replaced(Version::default()), value };
                let receipt = Receipt { epoch: Epoch(1), voters: vec![SERVER], rounds: 1, time: Ballot::ZERO };
                let payload = Payload::OperationReply { call: asked.call, outcome, receipt };
                assert!(peers.reply(via, Frame { context, payload }), "64 answers fit");
            }
        });
    });
    Ok(address)
}

async fn connect(address: SocketAddr) -> Peers {
    let (peers, mut events) = Peers::new(hello(Sender::Client { name: "bench".into() }));
    peers.set_addresses([(SERVER, address)].into());
    assert_eq!(events.recv().await, Some(PeerEvent::Up(SERVER)));
    peers
}
