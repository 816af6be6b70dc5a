//! The services, each one a process: telemetry first, then the service until it is told to end, then the last spans.

use std::time::Duration;

use anyhow::Context;
use client::consul::{Address, Consul};
use client::fleet::VIEW_KEY;
use telemetry::{Guard, Settings};
use tokio::runtime::{Builder, Runtime};

use crate::args::{
    AclDefault, DEFAULT_SECRET, DiscoveryServeArgs, FleetArgs, GatewayArgs, RouterArgs, StorageNodeArgs,
};
use crate::{lineage, signals};

/// How long a runtime's blocking calls may go on after the service has ended.
const LINGER: Duration = Duration::from_millis(500);

/// Runs discovery until it is told to end.
///
/// # Errors
/// It did not start, or ended by itself; the chain says why and what to do.
pub fn discovery(args: DiscoveryServeArgs, logs: Option<String>) -> anyhow::Result<()> {
    let replicas = replicas(&args)?;
    let guard = start_telemetry("discovery", &instance(args.instance_id, &args.name), logs)?;
    let acl = ::discovery::AclConfig {
        enabled: args.acl.is_some(),
        default_deny: args.acl == Some(AclDefault::Deny),
        management_token: args.acl_token.unwrap_or_default(),
    };
    let tls = args.tls_certificate.zip(args.tls_key).map(|(certificate, key)| ::discovery::TlsConfig {
        certificate,
        key,
        client_authority: args.tls_client_authority,
    });
    let (listen, data, name, dns) = (args.listen, args.data, args.name, args.dns);
    let config = ::discovery::Config { listen, data, name, acl, dns, tls, replicas };
    let runtime = one_thread()?;
    let ended = runtime.block_on(async { Ok(::discovery::run(config, signals::shutdown()?).await?) });
    finish(runtime, guard);
    ended
}

/// The other replicas, if there are to be any.
fn replicas(args: &DiscoveryServeArgs) -> anyhow::Result<Option<::discovery::Replicas>> {
    if args.replicas.is_empty() && args.peer_listen.is_none() {
        return Ok(None);
    }
    let own = args.replicas.iter().find(|(name, _)| *name == args.name).map(|(_, address)| address.clone());
    let listen = args.peer_listen.clone().or(own).with_context(|| {
        format!("--replicas does not name {}; name it there, or say where it listens with --peer-listen", args.name)
    })?;
    Ok(Some(::discovery::Replicas {
        listen,
        advertise: args.advertise.clone(),
        advertise_http: args.advertise_http.clone(),
        founders: args.replicas.clone(),
        secret: args.secret.cluster_secret.clone(),
    }))
}

/// Runs a router until it is told to end.
///
/// # Errors
/// As [`discovery()`].
pub fn router(args: RouterArgs, logs: Option<String>) -> anyhow::Result<()> {
    let guard = start_telemetry("router", &instance(args.instance_id, &args.name), logs)?;
    warn_of_default_secret(&args.fleet);
    let config = ::router::Config {
        listen: args.listen,
        advertise: args.advertise,
        discovery: args.fleet.discovery.address(),
        cluster_secret: args.fleet.secret.cluster_secret,
        fleet_cache: args.fleet_cache,
        workers: usize::from(args.workers),
        drain: args.drain,
        version: VERSION.to_owned(),
        ..::router::Config::new(&args.name)
    };
    let runtime = one_thread()?;
    let ended = runtime.block_on(async {
        wait_for_discovery(&config.discovery, args.fleet.discovery_wait).await;
        Ok(::router::run(config, signals::shutdown()?).await?)
    });
    finish(runtime, guard);
    ended
}

/// Runs a gateway until it is told to end.
///
/// # Errors
/// As [`discovery()`].
pub fn gateway(args: GatewayArgs, logs: Option<String>) -> anyhow::Result<()> {
    let guard = start_telemetry("gateway", &instance(args.instance_id, &args.name), logs)?;
    warn_of_default_secret(&args.fleet);
    let config = ::gateway::Config {
        listen: args.listen,
        advertise: args.advertise,
        discovery: args.fleet.discovery.address(),
        cluster_secret: args.fleet.secret.cluster_secret,
        fleet_cache: args.fleet_cache,
        workers: usize::from(args.workers),
        drain: args.drain,
        version: VERSION.to_owned(),
        ..::gateway::Config::new(&args.name)
    };
    // One thread for the connections to the nodes, beside the workers that serve HTTP.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().context(NO_RUNTIME)?;
    let ended = runtime.block_on(async {
        wait_for_discovery(&config.discovery, args.fleet.discovery_wait).await;
        Ok(::gateway::run(config, signals::shutdown()?).await?)
    });
    finish(runtime, guard);
    ended
}

/// Runs a storage node until it is told to end.
///
/// # Errors
/// As [`discovery()`]; also when its disk fails.
pub fn storage_node(args: StorageNodeArgs, logs: Option<String>) -> anyhow::Result<u8> {
    let fleet = args.fleet;
    let config = storage_node::Config {
        name: args.name.clone(),
        listen: args.listen,
        peer_listen: args.peer_listen,
        advertise: args.advertise,
        discovery: fleet.discovery.address(),
        data: args.data,
        cluster_secret: fleet.secret.cluster_secret.clone(),
        // A cluster that does not tell zones gives an empty one.
        zone: args.zone.filter(|zone| !zone.is_empty()),
        weight: args.weight,
        replication: usize::from(args.replication),
        ring_size: usize::from(args.ring_size),
        data_bytes_max: args.data_bytes_max,
        segment_bytes: args.segment_bytes,
        transfer_bytes_per_second: args.transfer_bytes_per_second,
        scrub_bytes_per_second: args.scrub_bytes_per_second,
        grace: Some(args.grace).filter(|grace| !grace.is_zero()),
        rejoin: args.rejoin,
        trust_data: args.trust_data,
    };
    // The loop is one thread by its nature: a second one would only cost memory.
    let runtime = one_thread()?;
    let node = runtime.block_on(async {
        wait_for_discovery(&config.discovery, fleet.discovery_wait).await;
        storage_node::Node::enter(config).await
    })?;
    // Named after the incarnation, which is known only now: a trace must tell one life of a node from the next.
    let guard = start_telemetry("storage-node", &format!("{}-{}", args.name, node.incarnation()), logs)?;
    warn_of_default_secret(&fleet);
    let ended = runtime.block_on(async {
        let told = signals::shutdown()?;
        let within = args.leave_within;
        #[cfg(feature = "kubernetes")]
        if let (Some(set), Some(within)) = (args.stateful_set, within) {
            return Ok(node.run(crate::scaling::parting(told, set, args.name, within)).await?);
        }
        let parting = within.map_or(storage_node::Parting::Drain, storage_node::Parting::Leave);
        Ok(node
            .run(async move {
                told.await;
                parting
            })
            .await?)
    });
    finish(runtime, guard);
    ended.map(|farewell: storage_node::Farewell| match farewell {
        storage_node::Farewell::Drained => 0,
        storage_node::Farewell::Retired => EXIT_RETIRED,
    })
}

/// Starts logs and traces of a role.
///
/// # Errors
/// The endpoint or the log filter cannot be used.
pub fn start_telemetry(role: &str, instance: &str, logs: Option<String>) -> anyhow::Result<Guard> {
    let settings = Settings::from_env(format!("everring-{role}"), instance, VERSION);
    Ok(telemetry::init(Settings { log_filter: logs, ..settings })?)
}

/// The exit status of a storage node that has left the ring: whoever keeps it need not start it again.
pub const EXIT_RETIRED: u8 = 5;
/// The version that is told to everybody who asks.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
const NO_RUNTIME: &str = "the system gives no threads; look at its limits on processes";

/// What a process is called in traces.
fn instance(given: Option<String>, name: &str) -> String {
    given.unwrap_or_else(|| format!("{name}-{}", std::process::id()))
}

/// Waits until discovery answers, or for as long as was said; the start itself then tells what is in the way. All of a
/// fleet's processes start at once in a cluster, and one that ended at once would be started again ever more slowly.
async fn wait_for_discovery(address: &Address, within: Duration) {
    // An address that cannot be used is told by the start.
    let Ok(consul) = Consul::open(address) else { return };
    let until = tokio::time::Instant::now() + within;
    while tokio::time::Instant::now() < until {
        match consul.kv_get(VIEW_KEY, None).await {
            Ok(_) => return,
            Err(error) => {
                tracing::info!(error = stdx::error_chain(&error), url = address.urls, "waiting for discovery");
            }
        }
        tokio::time::sleep(DISCOVERY_EVERY).await;
    }
}

/// How often a discovery that does not answer yet is asked.
const DISCOVERY_EVERY: Duration = Duration::from_millis(250);

fn one_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context(NO_RUNTIME)
}

/// The runtime first, so that every span has ended; then the spans.
fn finish(runtime: Runtime, guard: Guard) {
    runtime.shutdown_timeout(LINGER);
    if !guard.shutdown() {
        tracing::warn!("the last spans may be lost: the collector did not take them");
    }
}

fn warn_of_default_secret(fleet: &FleetArgs) {
    // `everring up` listens on this machine alone.
    if fleet.secret.cluster_secret == DEFAULT_SECRET && !lineage::is_kept() {
        tracing::warn!("the cluster secret is the one that everybody knows; set EVERRING_CLUSTER_SECRET");
    }
}
