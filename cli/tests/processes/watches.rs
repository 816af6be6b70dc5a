//! Watches, and explanations, of an ordered and of an available key over real processes, while nodes and gateways are
//! killed and writers write: what is told only goes forward, across gateways too, and leaves nothing out that stays.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::gateway::{Action, GatewayClient, Reply, Request};
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use wire::http::Receipt;

use crate::support::{Up, eventually, get_json, signal};

const KEY: &str = "watched";
/// Whom to kill, one after the other, each once the one before is back; from the beginning again if need be.
const VICTIMS: [&str; 6] = ["n1", "g1", "n2", "g2", "n3", "g1"];
/// Kills at most, until an explanation has met a dead replica.
const KILLS_MAX: usize = 24;
/// Each so many-th value stays until every watch has told it: a state that lasts may not be left out.
const STAYS_EVERY: u64 = 10;
/// Only turns a client that is never answered again into a failure.
const ENDS_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks at a condition, and two attempts to go on.
const SOON: Duration = Duration::from_millis(10);

/// An event: which gateway told it, its id, and the values that it shows, sorted; none for `absent`.
#[derive(Clone, Debug)]
struct Event {
    gateway: usize,
    id: String,
    shows: Vec<String>,
}

impl Event {
    fn read(gateway: usize, block: &str) -> Event {
        let line = |name: &str| {
            let found = block.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_else(|| panic!("no `{name}` in {block}"))
        };
        let data: Value = serde_json::from_str(line("data: ")).expect("JSON");
        let mut shows = match line("event: ") {
            "absent" => Vec::new(),
            "value" => vec![text(&data["value"])],
            "siblings" => data["siblings"].as_array().expect("a list").iter().map(|one| text(&one["value"])).collect(),
            other => panic!("an event of another kind: {other}"),
        };
        shows.sort();
        Event { gateway, id: line("id: ").to_owned(), shows }
    }

    /// The numbers that it shows of a writer's values.
    fn numbers(&self, writer: &str) -> Vec<u64> {
        let of = |value: &String| value.strip_prefix(writer)?.strip_prefix('-')?.parse().ok();
        self.shows.iter().filter_map(of).collect()
    }
}

fn text(base64: &Value) -> String {
    String::from_utf8(STANDARD.decode(base64.as_str().expect("text")).expect("base64")).expect("text")
}

/// One watch of a key, at one gateway after the other.
struct Watch {
    path: String,
    events: Mutex<Vec<Event>>,
    /// What a gateway said instead of going on.
    refusals: Mutex<Vec<Value>>,
}

impl Watch {
    fn start(runtime: &Runtime, gateways: &[String], first: usize, bucket: &str) -> Arc<Watch> {
        let path = format!("/v1/kv/{bucket}/{KEY}?watch=1");
        let watch = Arc::new(Watch { path, events: Mutex::default(), refusals: Mutex::default() });
        runtime.spawn(Arc::clone(&watch).hold(gateways.to_vec(), first));
        watch
    }

    /// Holds it for ever: when a gateway's stream ends, it goes on at the next one, after its last event.
    async fn hold(self: Arc<Watch>, gateways: Vec<String>, first: usize) {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        for at in first.. {
            let gateway = at % gateways.len();
            let mut call = http.get(format!("{}{}", gateways[gateway], self.path));
            if let Some(last) = self.events().last() {
                call = call.header("last-event-id", &last.id);
            }
            match call.send().await {
                Ok(stream) if stream.status() == 200 => self.take(gateway, stream).await,
                Ok(refused) => {
                    let problem = refused.json().await.expect("a problem is JSON");
                    self.refusals.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
                }
                // It was killed, and is not back yet.
                Err(_) => {}
            }
            tokio::time::sleep(SOON).await;
        }
    }

    /// Takes what a stream tells, until it breaks. What is broken off in the middle was not told.
    async fn take(&self, gateway: usize, mut stream: reqwest::Response) {
        let mut rest = Vec::new();
        while let Ok(Some(bytes)) = stream.chunk().await {
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = rest.drain(..end + 2).collect();
                let block = std::str::from_utf8(&block).expect("text");
                if !block.starts_with(':') {
                    let event = Event::read(gateway, block);
                    self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
        }
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last value of this writer that it told; 0 for none.
    fn latest(&self, writer: &str) -> u64 {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.last().and_then(|event| event.numbers(writer).last().copied()).unwrap_or(0)
    }
}

/// Writes `{name}-1`, `{name}-2` and so on, as one session; each once, however often it has to be sent.
struct Writer {
    name: &'static str,
    bucket: &'static str,
    /// The last number that was acknowledged.
    done: AtomicU64,
    watches: Vec<Arc<Watch>>,
}

impl Writer {
    async fn write(self: Arc<Writer>, gateway: GatewayClient, mut stop: watch::Receiver<bool>) {
        let mut token: Option<String> = None;
        for number in 1.. {
            let value = format!("{}-{number}", self.name).into();
            let mut request = Request::new(self.bucket, KEY, Action::Put { value, content_type: None });
            request.token.clone_from(&token);
            let answer = loop {
                if let Reply::Ok(answer) = gateway.send(&request).await {
                    break answer;
                }
            };
            token = answer.token.or(token);
            self.done.store(number, Ordering::Relaxed);
            while number.is_multiple_of(STAYS_EVERY) && !self.is_told(number) && !*stop.borrow() {
                // Whatever comes first; then it is looked again.
                let _ = tokio::time::timeout(SOON, stop.changed()).await;
            }
            if *stop.borrow() {
                return;
            }
        }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn is_told(&self, number: u64) -> bool {
        self.watches.iter().all(|watch| watch.latest(self.name) >= number)
    }

    fn wait_until_told(&self, number: u64) {
        eventually("a watch does not tell what was written", || {
            let latest: Vec<u64> = self.watches.iter().map(|watch| watch.latest(self.name)).collect();
            if self.is_told(number) { Ok(()) } else { Err(format!("{} {number}: told {latest:?}", self.name)) }
        });
    }

    /// What each of its watches told of its values: they only go forward, none comes back once it is replaced, and none
    /// that stayed is left out. `siblings` says whether an event may show what somebody else wrote beside it.
    fn judge(&self, siblings: bool) {
        for watch in &self.watches {
            let events = watch.events();
            let shown: Vec<Vec<u64>> = events.iter().map(|event| event.numbers(self.name)).collect();
            let first = shown.iter().position(|numbers| !numbers.is_empty()).expect("it was told");
            let at_most_one = shown[first..].iter().all(|numbers| numbers.len() == 1);
            assert!(at_most_one, "{}: its own value is replaced, and then told in each event: {shown:?}", self.name);
            let numbers: Vec<u64> = shown[first..].iter().flatten().copied().collect();
            let forward = |two: &[u64]| if siblings { two[0] <= two[1] } else { two[0] < two[1] };
            assert!(numbers.windows(2).all(forward), "{}: went back or told again: {numbers:?}", self.name);
            assert_eq!(numbers.last(), Some(&self.done()), "{}: the end", self.name);
            let stayed = (1..=self.done()).filter(|number| number.is_multiple_of(STAYS_EVERY));
            let missed: Vec<u64> = stayed.filter(|number| !numbers.contains(number)).collect();
            assert!(missed.is_empty(), "{}: left out {missed:?} of {numbers:?}", self.name);
            let resumed = events.windows(2).filter(|two| two[0].gateway != two[1].gateway).count();
            assert!(resumed > 0, "{}: it never went on at another gateway", self.name);
            // A gateway that has just started may not know the fleet yet, and says so.
            let refusals = watch.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(refusals.iter().all(|problem| problem["retryable"] == true), "{refusals:?}");
        }
    }
}

/// What explanations were like.
#[derive(Default)]
struct Explained {
    answers: AtomicU64,
    /// Those that told of a replica that did not answer.
    of_the_dead: AtomicU64,
}

/// Asks for explanations of a key, at one gateway after the other, and holds each against its form.
async fn explain(explained: Arc<Explained>, gateways: Vec<String>, bucket: &'static str, stop: watch::Receiver<bool>) {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let (mut identifier, mut newest) = (None, 0_u64);
    for at in 0.. {
        if *stop.borrow() {
            return;
        }
        let url = format!("{}/v1/explain/{bucket}/{KEY}", gateways[at % gateways.len()]);
        let Ok(answer) = http.get(url).send().await else {
            tokio::time::sleep(SOON).await;
            continue;
        };
        let status = answer.status().as_u16();
        // One that is cut off by a kill is none.
        let Ok(body) = answer.bytes().await else { continue };
        let told: Value = serde_json::from_slice(&body).expect("JSON, whatever happens");
        if status != 200 {
            assert!(status == 503 && told["retryable"] == true && told["code"].is_string(), "{status} {told}");
            continue;
        }
        let contract = if bucket == "records" { "ordered" } else { "available" };
        assert_eq!((&told["bucket"], &told["key"], &told["contract"]), (&bucket.into(), &KEY.into(), &contract.into()));
        let place = told["identifier"].as_str().map(str::to_owned).expect("an identifier");
        assert_eq!(*identifier.get_or_insert_with(|| place.clone()), place, "a key stays where it is");
        let dead = judge_replicas(&told);
        let read = &told["read"];
        if read["answered"] == true {
            let receipt: Receipt = read["receipt"].as_str().expect("a receipt").parse().expect("of its form");
            assert!(["value", "siblings", "absent"].iter().any(|kind| read["shows"] == *kind), "{told}");
            assert!(!receipt.replicas.is_empty() && read["how"].is_string(), "{told}");
            if bucket == "records" {
                // Strict reads one after the other only go forward.
                let etag = read["etag"].as_str().map_or("0", |etag| etag.trim_matches('"'));
                let version = etag.split('.').next().and_then(|counter| counter.parse().ok()).expect("a version");
                assert!(version >= newest, "{version} after {newest}: {told}");
                newest = version;
            }
        } else {
            assert!(read["problem"].is_string() && read["how"].is_string(), "{told}");
        }
        explained.answers.fetch_add(1, Ordering::Relaxed);
        explained.of_the_dead.fetch_add(u64::from(dead), Ordering::Relaxed);
    }
}

/// Each of the three homes is told of once, with what it holds, or with why it did not say. Whether one did not.
fn judge_replicas(told: &Value) -> bool {
    let mut names = BTreeMap::new();
    for replica in told["replicas"].as_array().expect("a list") {
        let answered = replica["answered"].as_bool().expect("it is said");
        let word = if answered { &replica["epoch"] } else { &replica["why"] };
        assert!(replica["home"] == true && !word.is_null(), "{told}");
        names.insert(replica["node"].as_str().expect("a name").to_owned(), answered);
    }
    assert_eq!(names.keys().collect::<Vec<_>>(), ["n1", "n2", "n3"], "{told}");
    names.values().any(|answered| !answered)
}

/// Ends a process, and waits until another one has its place.
fn kill_and_wait(up: &Up, name: &str) {
    let before = up.children()[name];
    signal(before, Signal::KILL);
    eventually("who was killed does not come back", || {
        let now = up.children().get(name).copied().filter(|pid| *pid != before);
        now.ok_or_else(|| format!("{name} does not run"))?;
        let path = if name.starts_with('g') { "/v1/ring" } else { "/status" };
        let told = get_json(&up.http(name), path)?;
        let ready = name.starts_with('g') || told["state"] == "ready";
        if ready { Ok(()) } else { Err(told.to_string()) }
    });
}

#[test]
fn watches_go_forward_and_leave_nothing_out_while_nodes_and_gateways_are_killed() {
    let up = Up::start(&["--gateways", "2"]);
    let runtime = Runtime::new().expect("threads");
    let gateways = up.gateways();
    let client = GatewayClient::new(&gateways).expect("addresses");
    let watches = |bucket: &str| -> Vec<Arc<Watch>> {
        (0..2).map(|first| Watch::start(&runtime, &gateways, first, bucket)).collect()
    };
    let (ordered, available) = (watches("records"), watches("sessions"));
    for watch in ordered.iter().chain(&available) {
        eventually("a watch tells nothing", || watch.events().pop().ok_or_else(|| watch.path.clone()));
    }
    let writer = |name, bucket, watches: &Vec<Arc<Watch>>| {
        Arc::new(Writer { name, bucket, done: AtomicU64::new(0), watches: watches.clone() })
    };
    // Of the available key two sessions write, neither of which has seen the other: their values stay side by side.
    let writers =
        [writer("o", "records", &ordered), writer("a", "sessions", &available), writer("b", "sessions", &available)];
    let (stop, stopped) = watch::channel(false);
    let spawn = |writer: &Arc<Writer>| runtime.spawn(Arc::clone(writer).write(client.clone(), stopped.clone()));
    let writing: Vec<_> = writers.iter().map(spawn).collect();
    let explained = Arc::new(Explained::default());
    let explaining = ["records", "sessions"]
        .map(|bucket| runtime.spawn(explain(Arc::clone(&explained), gateways.clone(), bucket, stopped.clone())));

    for (kill, victim) in VICTIMS.iter().cycle().enumerate() {
        if kill >= VICTIMS.len() && explained.of_the_dead.load(Ordering::Relaxed) > 0 {
            break;
        }
        assert!(kill < KILLS_MAX, "no explanation told of a dead replica");
        kill_and_wait(&up, victim);
        // Whatever was killed, watches and writers go on.
        for writer in &writers {
            let next = writer.done() + 1;
            writer.wait_until_told(next);
        }
    }
    stop.send(true).expect("somebody listens");
    for task in writing.into_iter().chain(explaining) {
        let ended = runtime.block_on(async { tokio::time::timeout(ENDS_WITHIN, task).await });
        ended.expect("a client that was told to stop is answered, or is not, and ends").expect("no panic");
    }
    for writer in &writers {
        writer.wait_until_told(writer.done());
        writer.judge(writer.bucket == "sessions");
    }
    let told = explained.answers.load(Ordering::Relaxed);
    println!("{:?} written, {told} explanations", writers.each_ref().map(|writer| writer.done()));
    ends_with_absent(&runtime, &client, &ordered, &available);
}

/// An event's id is a session that has seen what the event shows; and the end of a key is told, too.
fn ends_with_absent(runtime: &Runtime, client: &GatewayClient, ordered: &[Arc<Watch>], available: &[Arc<Watch>]) {
    let last = available[0].events().pop().expect("it was told");
    for first in 0..2 {
        let mut request = Request::new("sessions", KEY, Action::Get);
        request.token = Some(last.id.clone());
        let Reply::Ok(answer) = runtime.block_on(client.preferring(first).send(&request)) else { panic!("no answer") };
        let values = client::gateway::siblings(&answer.body).expect("two values");
        let mut values: Vec<String> =
            values.iter().map(|one| String::from_utf8_lossy(&one.value).into_owned()).collect();
        values.sort();
        assert_eq!(values, last.shows);
    }
    for bucket in ["records", "sessions"] {
        let mut request = Request::new(bucket, KEY, Action::Delete);
        request.token = (bucket == "sessions").then(|| last.id.clone());
        let deleted = runtime.block_on(client.send(&request));
        assert!(matches!(deleted, Reply::Ok(_)), "{deleted:?}");
    }
    for watch in ordered.iter().chain(available) {
        eventually("a watch does not tell the end", || {
            let last = watch.events().pop().expect("it was told");
            if last.shows.is_empty() { Ok(()) } else { Err(format!("{}: {last:?}", watch.path)) }
        });
    }
}
