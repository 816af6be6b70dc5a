//! Every process of a fleet is killed at one moment, in the middle of writes at all levels, and again and again; then
//! all that was acknowledged is read back, and what each client was told is judged.
//!
//! What this shows: nothing that was acknowledged was in a process's memory alone; what a log holds when its process
//! ends anywhere is read again, torn end and all; a fleet of which nobody was left comes back by itself, with every
//! promise kept; and a write whose answer was lost is told as unknown, at every level, and judged so.
//!
//! What it cannot show is that syncs are waited for: SIGKILL ends a process and leaves the kernel's page cache, so
//! what was written and not synced is there afterwards. The simulator is what cuts power (`Disk::crash` in
//! `crates/store/src/sim_disk.rs` keeps of what was not synced as little as it likes), and there a promise before its
//! sync is found (`everring sim bugs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chaos::levels::{Levels, LevelsEnded};
use chaos::merges::{self, Merges};
use chaos::operation::End;
use chaos::recorder::Recorder;
use chaos::verifier::{COUNTED, JUDGED, acknowledged, check, final_read};
use chaos::{LevelsConfig, TrafficConfig, traffic};
use client::gateway::GatewayClient;
use rustix::process::Signal;
use stdx::Prng;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::http::Level;

use crate::support::{Up, eventually, get_json, signal};

const LEVELS: [Level; 4] = [Level::Strict, Level::Sequential, Level::Causal, Level::Eventual];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Power is cut so often at least.
const CUTS_MIN: usize = 3;
/// And at most: until then some write at each level must have been in the middle.
const CUTS_MAX: usize = 12;
/// Writes that must have been acknowledged at each level before the next cut.
const WRITES_MIN: usize = 20;
/// A client gives up sooner than the fleet is back: what it then knows is unknown.
const DEADLINE: Duration = Duration::from_millis(300);
/// How long each judge may take.
const JUDGED_WITHIN: Duration = Duration::from_secs(60);

/// The writers and readers at all levels, as they run.
struct Load {
    recorder: Arc<Recorder>,
    gateway: GatewayClient,
    stop: watch::Sender<bool>,
    traffic: JoinHandle<()>,
    levels: Levels,
}

impl Load {
    fn start(runtime: &Runtime, gateway: GatewayClient) -> Load {
        let recorder = Arc::new(Recorder::new(None).expect("no file, no error"));
        runtime.block_on(merges::make_buckets(&gateway)).expect("the fleet is there");
        let (stop, stopped) = watch::channel(false);
        let config = TrafficConfig { keys: 16, deadline: DEADLINE, ..TrafficConfig::default() };
        let strict = traffic::run(Arc::clone(&recorder), gateway.clone(), config, Prng::from_seed(1), stopped.clone());
        let traffic = runtime.spawn(strict);
        let config = LevelsConfig { clients: 8, rate: 160, merge_rate: 80, deadline: DEADLINE, ..Default::default() };
        let _inside = runtime.enter();
        let merges = Some(Merges::new(&config));
        let levels = Levels::start(&recorder, &gateway, config, merges, Prng::from_seed(2), &stopped);
        Load { recorder, gateway, stop, traffic, levels }
    }

    /// Writes that were sent since then and ended so, by level.
    fn writes(&self, since_ns: u64, end: End) -> BTreeMap<Level, usize> {
        let mut counts: BTreeMap<Level, usize> = LEVELS.into_iter().map(|level| (level, 0)).collect();
        let ended = self.recorder.overlapping(since_ns, u64::MAX).into_iter();
        for write in ended.filter(|one| one.kind.is_write() && one.end == end && one.invoked_ns >= since_ns) {
            *counts.entry(write.level).or_default() += 1;
        }
        counts
    }

    /// Ends the traffic, and reads everything back once it has settled.
    async fn end(self) -> (Arc<Recorder>, GatewayClient, LevelsEnded) {
        let Load { recorder, gateway, stop, traffic, levels } = self;
        stop.send(true).expect("somebody listens");
        traffic.await.expect("no panic");
        let ended = levels.end(&recorder, &gateway).await;
        (recorder, gateway, ended)
    }
}

/// Which start of each node is at work; all of them, and with each other.
fn all_back(up: &Up) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut starts = BTreeMap::new();
    for name in NODES {
        let status = get_json(&up.http(name), "/status")?;
        match (status["state"].as_str(), status["incarnation"].as_u64()) {
            (Some("ready"), Some(incarnation)) => starts.insert(name, incarnation),
            _ => return Err(status.to_string()),
        };
    }
    for gateway in up.gateways() {
        let ring = get_json(gateway.trim_start_matches("http://"), "/v1/ring")?;
        let members = ring["members"].as_array().ok_or("no members")?;
        if members.len() != NODES.len() || members.iter().any(|member| member["alive"] != true) {
            return Err(ring.to_string());
        }
    }
    Ok(starts)
}

/// Every process but the keeper: nodes, gateways, router, discovery.
fn cut_power(up: &Up) {
    let children = up.children();
    assert!(children.len() >= NODES.len() + up.gateways().len() + 2, "{children:?}");
    // All stand still first, so that none sees another one die.
    for which in [Signal::STOP, Signal::KILL] {
        children.values().for_each(|pid| signal(*pid, which));
    }
}

#[test]
fn a_fleet_whose_processes_all_end_at_once_keeps_what_it_acknowledged_at_every_level() {
    let up = Up::start(&["--gateways", "2"]);
    let runtime = Runtime::new().expect("threads");
    let load = Load::start(&runtime, GatewayClient::new(&up.gateways()).expect("addresses"));
    let mut starts = eventually("the fleet is not whole", || all_back(&up));
    for cut in 1.. {
        let since = load.recorder.now_ns();
        eventually("some level is not written to", || {
            let writes = load.writes(since, End::Ok);
            if writes.values().all(|count| *count >= WRITES_MIN) { Ok(()) } else { Err(format!("{writes:?}")) }
        });
        load.recorder.fault("power-cut", BTreeMap::new());
        cut_power(&up);
        starts = eventually("the fleet does not come back", || {
            let now = all_back(&up)?;
            let later = now.iter().all(|(name, start)| *start > starts[name]);
            if later { Ok(now) } else { Err(format!("{now:?} after {starts:?}")) }
        });
        let unknown = load.writes(0, End::Unknown);
        if cut >= CUTS_MIN && unknown.values().all(|count| *count > 0) {
            println!("{cut} cuts, writes of unknown outcome: {unknown:?}");
            break;
        }
        assert!(cut < CUTS_MAX, "no write at some level was in the middle of a cut: {unknown:?}");
    }
    runtime.block_on(judge(load));
}

/// Everything is read back; nothing acknowledged is missing, and every answer at every level is explained.
async fn judge(load: Load) {
    let (recorder, gateway, levels) = load.end().await;
    assert!(levels.unread.is_empty(), "{:?}", levels.unread);
    let found = final_read(&recorder, &gateway, &chaos::conduct::Plain).await;
    assert!(found.unread.is_empty() && found.lost.values().all(|(lost, _)| *lost == 0), "{found:?}");
    let record = recorder.take();
    assert_eq!((record.stale_reads_total, &record.trouble), (0, &None), "{:?}", record.stale_reads);
    for (name, part) in COUNTED {
        let acked = acknowledged(&record.histories, part).await.expect("it can be judged");
        assert!(acked.total > 0 && acked.lost == 0, "{name}: {acked:?}");
    }
    for judged in JUDGED {
        let check = check(&record.histories, judged, JUDGED_WITHIN).await;
        println!("{check:?}");
        assert!(check.ops > 0 && check.decided && check.violations == 0, "{check:?}");
    }
}
