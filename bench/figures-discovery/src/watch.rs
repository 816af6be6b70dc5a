//! Many instances, many that wait for changes, and steady churn: how often who is woken, how late, and what it costs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use processes::{cpu_seconds, resident_mib};
use serde_json::{Value, json};

use crate::http::Connection;
use crate::systems::{Cluster, MEMBERS};

/// Each service has one that waits for its changes.
const WATCHERS: usize = 200;
/// Connections over which instances are registered and changed.
const WRITERS: usize = 8;
/// Parts of all instances that change in a second.
const CHURN: f64 = 0.01;
/// How long one blocking query waits.
const WAIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a registration that was refused is tried again.
const INSISTED: Duration = Duration::from_secs(30);
/// Before the first look at processor time: the watchers' first answers are the longest.
const SETTLED: Duration = Duration::from_secs(3);
/// How long only one service changes, and nobody else may be woken.
const ALONE: Duration = Duration::from_secs(5);
const ALONE_EVERY: Duration = Duration::from_millis(100);

/// What writers and watchers share.
struct Shared {
    stop: AtomicBool,
    /// For each service: changes that its watcher has not been shown, with the time when each was asked for.
    pending: Vec<Mutex<VecDeque<(u64, Instant)>>>,
    /// For each service: answers that came before the time of their wait was over.
    wakeups: Vec<AtomicU64>,
    /// Of these, ones that showed nothing new.
    idle: AtomicU64,
    delays_ms: Mutex<Vec<f64>>,
    next_change: AtomicU64,
}

/// Measures one system with `instances` for `seconds`; the figures and what they rest on.
pub fn measure(cluster: &Cluster, instances: usize, seconds: u64) -> Result<(Value, Value)> {
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        pending: (0..WATCHERS).map(|_| Mutex::default()).collect(),
        wakeups: (0..WATCHERS).map(|_| AtomicU64::new(0)).collect(),
        idle: AtomicU64::new(0),
        delays_ms: Mutex::default(),
        next_change: AtomicU64::new(1),
    });
    let began = Instant::now();
    in_parallel(&cluster.addresses, |writer, connection| {
        (writer..instances).step_by(WRITERS).try_for_each(|instance| register(connection, instance, 0))
    })?;
    let registered = began.elapsed();
    for service in 0..WATCHERS {
        let (shared, address) = (Arc::clone(&shared), cluster.addresses[service % MEMBERS]);
        // It ends when it is told to, or with its server.
        thread::spawn(move || watch(&shared, address, service));
    }
    thread::sleep(SETTLED);

    let usage = || cluster.pids().into_iter().map(cpu_seconds).sum::<f64>();
    let woken = |services: std::ops::Range<usize>| -> u64 {
        shared.wakeups[services].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    };
    let (woken_before, idle_before) = (woken(0..WATCHERS), shared.idle.load(Ordering::Relaxed));
    let (began, used, first) = (Instant::now(), usage(), shared.next_change.load(Ordering::Relaxed));
    let rate = instances as f64 * CHURN;
    churn(cluster, &shared, instances, Duration::from_secs(seconds))?;
    let changes = shared.next_change.load(Ordering::Relaxed) - first;
    let took = began.elapsed().as_secs_f64();
    let cores = (usage() - used) / took;
    let unseen = until_all_seen(&shared);
    let (wakeups, idle) = (woken(0..WATCHERS) - woken_before, shared.idle.load(Ordering::Relaxed) - idle_before);
    let resident: f64 = cluster.pids().into_iter().filter_map(resident_mib).sum();
    let mut delays = shared.delays_ms.lock().unwrap_or_else(PoisonError::into_inner).clone();
    delays.sort_by(f64::total_cmp);
    let others_before = woken(1..WATCHERS);
    one_alone(cluster, &shared)?;
    let foreign = woken(1..WATCHERS) - others_before;
    shared.stop.store(true, Ordering::Relaxed);
    let figures = json!({
        "instances": instances,
        "watchers": WATCHERS,
        "wakeups_per_change": rounded(wakeups as f64 / changes.max(1) as f64),
        "delay_p99_ms": crate::failover::percentile(&delays, 99.0),
        "cpu_cores": rounded(cores),
        "rss_mib": resident.round(),
        "foreign_wakeups": foreign,
    });
    let details = json!({
        "seconds": rounded(took),
        "changes": changes,
        "changes_per_second_wanted": rate,
        "changes_per_second": rounded(changes as f64 / took),
        "wakeups": wakeups,
        "wakeups_that_showed_nothing_new": idle,
        "changes_never_shown": unseen,
        "delay_p50_ms": crate::failover::percentile(&delays, 50.0),
        "delay_max_ms": delays.last(),
        "registrations_per_second": rounded(instances as f64 / registered.as_secs_f64()),
    });
    Ok((figures, details))
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// Runs the writers, each with a connection of its own.
fn in_parallel(addresses: &[SocketAddr], work: impl Fn(usize, &mut Connection) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (work, address) = (&work, addresses[writer % MEMBERS]);
                scope.spawn(move || work(writer, &mut Connection::new(address, PATIENCE)))
            })
            .collect();
        let ended =
            writers.into_iter().map(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        ended.collect::<Result<Vec<()>>>().map(drop)
    })
}

/// Registers an instance, or changes it: `change` is what its watcher recognises it by.
fn register(connection: &mut Connection, instance: usize, change: u64) -> Result<()> {
    let (service, node) = (instance % WATCHERS, instance / WATCHERS);
    let id = format!("i{instance}");
    let body = json!({
        "Node": format!("node-{node}"),
        "Address": format!("10.0.{}.{}", node / 250, node % 250 + 1),
        "SkipNodeUpdate": change > 0,
        "Service": {
            "ID": id,
            "Service": format!("service-{service}"),
            "Tags": ["v1", "blue"],
            "Port": 8_000 + instance % 1_000,
            "Meta": {"zone": "a", "change": change.to_string()},
        },
        "Check": {
            "Node": format!("node-{node}"),
            "CheckID": format!("service:{id}"),
            "Name": "alive",
            "Status": "passing",
            "ServiceID": id,
        },
    });
    let (body, until) = (body.to_string(), Instant::now() + INSISTED);
    loop {
        let why = match connection.ask("PUT", "/v1/catalog/register", body.as_bytes()) {
            Ok((200, _)) => return Ok(()),
            Ok((status, said)) => format!("{status} {}", String::from_utf8_lossy(&said)),
            Err(failed) => format!("{failed:?}"),
        };
        // A leader may be elected meanwhile; saying the same once more does no harm.
        if Instant::now() > until {
            bail!("{id} was not registered: {why}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Changes instances at an even rate, each writer its own services', so that a service's changes have an order.
fn churn(cluster: &Cluster, shared: &Shared, instances: usize, duration: Duration) -> Result<()> {
    let pause = Duration::from_secs_f64(WRITERS as f64 / (instances as f64 * CHURN));
    let began = Instant::now();
    in_parallel(&cluster.addresses, |writer, connection| {
        let mut next = began + pause.mul_f64(writer as f64 / WRITERS as f64);
        let mut instance = writer;
        while next < began + duration {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            change(connection, shared, instance)?;
            // The next one is of another service, and none is chosen twice before all were.
            instance = (instance + WRITERS) % instances;
            next += pause;
        }
        Ok(())
    })
}

fn change(connection: &mut Connection, shared: &Shared, instance: usize) -> Result<()> {
    let number = shared.next_change.fetch_add(1, Ordering::Relaxed);
    let mut pending = shared.pending[instance % WATCHERS].lock().unwrap_or_else(PoisonError::into_inner);
    pending.push_back((number, Instant::now()));
    drop(pending);
    register(connection, instance, number)
}

/// Changes the first service only, for a while.
fn one_alone(cluster: &Cluster, shared: &Shared) -> Result<()> {
    let mut connection = Connection::new(cluster.addresses[0], PATIENCE);
    let until = Instant::now() + ALONE;
    while Instant::now() < until {
        change(&mut connection, shared, 0)?;
        thread::sleep(ALONE_EVERY);
    }
    if until_all_seen(shared) > 0 {
        bail!("a change of one service alone was not shown");
    }
    Ok(())
}

/// Waits for the watchers to see what they have not; how many changes they never saw.
fn until_all_seen(shared: &Shared) -> usize {
    let until = Instant::now() + PATIENCE;
    loop {
        let locked = shared.pending.iter().map(|pending| pending.lock().unwrap_or_else(PoisonError::into_inner).len());
        let left: usize = locked.sum();
        if left == 0 || Instant::now() > until {
            return left;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the changes of a service, again and again.
fn watch(shared: &Shared, address: SocketAddr, service: usize) {
    let mut connection = Connection::new(address, WAIT + WAIT / 16 + PATIENCE);
    let mut index = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let path = format!("/v1/health/service/service-{service}?passing&index={index}&wait={}s", WAIT.as_secs());
        let Ok((200, body)) = connection.ask("GET", &path, b"") else {
            // It ends with the measurement; until then it goes on asking.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let told_at = Instant::now();
        let told = connection.index().unwrap_or(0);
        // The first answer is no wake-up, and neither is the end of a wait.
        if index != 0 && told != index {
            shared.wakeups[service].fetch_add(1, Ordering::Relaxed);
            if take_shown(shared, service, newest_change(&body), told_at) == 0 {
                shared.idle.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            take_shown(shared, service, newest_change(&body), told_at);
        }
        index = told;
    }
}

/// Notes how late each change was shown that this answer shows first; how many these are.
fn take_shown(shared: &Shared, service: usize, newest: u64, told_at: Instant) -> usize {
    let mut pending = shared.pending[service].lock().unwrap_or_else(PoisonError::into_inner);
    let mut shown = Vec::new();
    while let Some((_, asked)) = pending.front().copied().filter(|(number, _)| *number <= newest) {
        pending.pop_front();
        shown.push((told_at - asked).as_secs_f64() * 1_000.0);
    }
    drop(pending);
    let count = shown.len();
    shared.delays_ms.lock().unwrap_or_else(PoisonError::into_inner).extend(shown);
    count
}

/// The greatest number of a change in an answer.
fn newest_change(body: &[u8]) -> u64 {
    const MARK: &str = "\"change\":\"";
    let text = String::from_utf8_lossy(body);
    let numbers = text.match_indices(MARK).filter_map(|(at, _)| {
        let rest = &text[at + MARK.len()..];
        rest.split('"').next()?.parse::<u64>().ok()
    });
    numbers.max().unwrap_or(0)
}

/// What other people's clients say, by the script that obtains them.
pub fn clients(script: &std::path::Path, address: SocketAddr, wanted: &[&str]) -> Result<Value> {
    let mut command = std::process::Command::new(script);
    let output = command.arg(address.to_string()).args(wanted).output().context("the clients' script cannot be run")?;
    eprint!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().context("the clients' script said nothing")?;
    serde_json::from_str(last).with_context(|| format!("the clients' script ended with {last:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_shows_the_newest_of_its_changes() {
        let body = br#"[{"Service":{"Meta":{"change":"7","zone":"a"}}},{"Service":{"Meta":{"change":"12"}}}]"#;
        assert_eq!(newest_change(body), 12);
        assert_eq!(newest_change(b"[]"), 0);
    }

    #[test]
    fn what_is_shown_is_taken_once() {
        let shared = Shared {
            stop: AtomicBool::new(false),
            pending: vec![Mutex::default()],
            wakeups: vec![AtomicU64::new(0)],
            idle: AtomicU64::new(0),
            delays_ms: Mutex::default(),
            next_change: AtomicU64::new(1),
        };
        let now = Instant::now();
        shared.pending[0].lock().expect("nobody panicked").extend([(1, now), (4, now), (5, now)]);
        let later = now + Duration::from_millis(20);
        assert_eq!(take_shown(&shared, 0, 4, later), 2);
        assert_eq!(take_shown(&shared, 0, 4, later), 0);
        assert_eq!(shared.pending[0].lock().expect("nobody panicked").len(), 1);
        assert_eq!(*shared.delays_ms.lock().expect("nobody panicked"), [20.0, 20.0]);
    }
}
