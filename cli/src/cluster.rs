//! `everring chaos`: the monkey and the verifier as a service on Kubernetes, one judged run after the other.

use std::net::SocketAddr;
use std::time::Duration;

use chaos::FaultKind;
use clap::builder::BoolishValueParser;
use clap::{Args, value_parser};

use crate::args::{GatewaysArgs, JudgedArgs};
use crate::duration::parse as parse_duration;

/// `everring chaos`.
#[derive(Debug, Args)]
pub struct ChaosArgs {
    /// What this process is called, unlike all others that may want the lease: the pod's name.
    #[arg(long, env = "EVERRING_NAME", default_value = "chaos")]
    pub name: String,
    /// Its pod's UID: verdicts are told as Events on that pod.
    #[arg(long, env = "EVERRING_INSTANCE_ID", value_name = "UID")]
    pub instance_id: Option<String>,
    /// Where to serve health, metrics and verdicts over HTTP (host:port; port 0 takes a free one).
    #[arg(long, env = "EVERRING_LISTEN", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    /// The namespace of the fleet. Without it: that of the service account, or of the kubeconfig.
    #[arg(long, env = "EVERRING_NAMESPACE")]
    pub namespace: Option<String>,
    /// The Lease that lets one monkey act at a time.
    #[arg(long, env = "EVERRING_LEASE", default_value = "everring-chaos")]
    pub lease: String,
    /// How long one run lasts; each has a verdict of its own.
    #[arg(
        long = "for",
        env = "EVERRING_FOR",
        default_value = "10m",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    pub duration: Duration,
    /// End after that many runs. Without it: never.
    #[arg(long, env = "EVERRING_RUNS", value_name = "NUMBER", value_parser = value_parser!(u64).range(1..))]
    pub runs: Option<u64>,
    /// Mean time between faults.
    #[arg(long, env = "EVERRING_MEAN", default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    pub mean: Duration,
    /// The faults to draw from: kill (no grace), delete, evict.
    #[arg(
        long,
        env = "EVERRING_FAULTS",
        default_value = "kill,delete,evict",
        value_delimiter = ',',
        value_parser = fault_kind
    )]
    pub faults: Vec<FaultKind>,
    /// The roles that may be struck: storage-node, gateway, router, discovery.
    #[arg(
        long,
        env = "EVERRING_VICTIMS",
        default_value = chaos::STORAGE_NODE,
        value_delimiter = ',',
        value_parser = ["storage-node", "gateway", "router", "discovery"]
    )]
    pub victims: Vec<String>,
    /// How many pods of the victim's role must be ready beside it.
    #[arg(long, env = "EVERRING_HEALTHY_MIN", default_value_t = 2, value_parser = value_parser!(u16).range(0..=1024))]
    pub healthy_min: u16,
    /// End each run's faults after this many.
    #[arg(long, env = "EVERRING_FAULTS_MAX", value_name = "NUMBER")]
    pub faults_max: Option<u64>,
    /// How long a victim may take to be back at the end of a run.
    #[arg(long, env = "EVERRING_RETURN", default_value = "120s", value_parser = parse_duration, value_name = "TIME")]
    pub return_max: Duration,
    /// Decide which faults there would be, and inject none.
    #[arg(long, env = "EVERRING_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    /// Measure the downtime too, by loops that ask as fast as they are answered.
    #[arg(long, env = "EVERRING_TICKS", value_parser = BoolishValueParser::new())]
    pub ticks: bool,
    /// Jaeger's query API, for the check of the traces. Without it that check is left out.
    #[arg(long, env = "EVERRING_JAEGER_QUERY", value_name = "URL")]
    pub traces: Option<String>,
    /// Where people reach Jaeger's pages, for links. Without it: the query API's address.
    #[arg(long, env = "EVERRING_TRACES_PAGE", value_name = "URL")]
    pub traces_page: Option<String>,
    /// Keys that the traffic's clients share.
    #[arg(long, env = "EVERRING_KEYS", default_value_t = 64, value_parser = value_parser!(u32).range(1..=100_000))]
    pub keys: u32,
    #[command(flatten)]
    pub judged: JudgedArgs,
}

fn fault_kind(name: &str) -> Result<FaultKind, String> {
    let kind = FaultKind::from_name(name).filter(|kind| kind.ends_life());
    kind.ok_or_else(|| format!("there is no fault `{name}` of a pod; use kill, delete or evict"))
}

/// Without the feature `kubernetes` there is no client of a cluster's API.
///
/// # Errors
/// Always, with a sentence.
#[cfg(not(feature = "kubernetes"))]
pub fn run(args: ChaosArgs, logs: Option<String>) -> anyhow::Result<u8> {
    drop((args, logs));
    anyhow::bail!(
        "this program was built without Kubernetes; use the image (`make images`), or build it with \
         `--features kubernetes`. On this machine, `everring up --chaos` runs a fleet and kills its processes"
    )
}

#[cfg(feature = "kubernetes")]
pub use with_cluster::run;

#[cfg(feature = "kubernetes")]
mod with_cluster {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    use anyhow::Context;
    use chaos::console::Console;
    use chaos::metrics::Metrics;
    use chaos::{Load, RunConfig, Shared, Verdict};
    use kubernetes::{KubernetesFleet, Settings};
    use prometheus_client::registry::Registry;
    use tokio::runtime::Builder;

    use super::ChaosArgs;
    use crate::signals::Interrupts;
    use crate::{load, roles};

    /// One asks while the other judges.
    const THREADS: usize = 2;
    /// How long the runtime's last blocking calls may take.
    const LINGER: Duration = Duration::from_secs(1);
    /// How often it is looked whether our turn has come.
    const TURN_EVERY: Duration = Duration::from_secs(1);
    /// Between two runs, so that one that cannot begin is not tried again at once.
    const BETWEEN_RUNS: Duration = Duration::from_secs(5);
    /// How long the verdict may take once the process was asked to end.
    const VERDICT_MAX: Duration = Duration::from_secs(40);
    /// The keys of all runs: each deletes what the one before left.
    const KEYS_PREFIX: &str = "chaos-";

    /// Runs until it is told to end, or all runs asked for have ended; the exit status is the worst verdict's.
    ///
    /// # Errors
    /// The cluster cannot be used, or a run could not begin.
    pub fn run(args: ChaosArgs, logs: Option<String>) -> anyhow::Result<u8> {
        let instance = args.instance_id.clone().unwrap_or_else(|| format!("{}-{}", args.name, std::process::id()));
        let guard = roles::start_telemetry("chaos", &instance, logs)?;
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let ended = runtime.block_on(serve(&args));
        runtime.shutdown_timeout(LINGER);
        guard.shutdown();
        ended
    }

    async fn serve(args: &ChaosArgs) -> anyhow::Result<u8> {
        let interrupts = Interrupts::listen()?;
        let listener = TcpListener::bind(args.listen)
            .with_context(|| format!("cannot listen on {}; choose another address with --listen", args.listen))?;
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        telemetry::metrics::register_export(&mut registry);
        let console = Console::default();
        let server = console.clone().serve(listener, roles::VERSION, registry)?;
        let handle = server.handle();
        let serving = tokio::spawn(server);

        let halt = chaos::HaltSwitch::default();
        let fleet = KubernetesFleet::connect(Settings {
            namespace: args.namespace.clone(),
            lease: args.lease.clone(),
            me: args.name.clone(),
            pod_uid: args.instance_id.clone(),
            traces_page: page(args),
            halt: halt.clone(),
        })
        .await?;
        tracing::info!(namespace = fleet.namespace(), lease = args.lease, "the cluster is there");
        let service = Service { args, fleet: Arc::clone(&fleet), console, metrics, halt };
        let worst = tokio::select! {
            worst = service.runs(&interrupts) => worst,
            // The first one asks for the verdict of the run that goes on; the second does not wait for it.
            () = interrupts.reached(2) => Ok(0),
            // Nor does the pod's grace period: where the whole fleet is taken away, nothing can be read any more.
            () = long_after(&interrupts) => Ok(0),
        };
        fleet.release().await;
        handle.stop(true).await;
        // How the server ended matters to nobody any more.
        let _ = serving.await;
        worst
    }

    /// Some time after the first request to end.
    async fn long_after(interrupts: &Interrupts) {
        interrupts.reached(1).await;
        tokio::time::sleep(VERDICT_MAX).await;
    }

    struct Service<'a> {
        args: &'a ChaosArgs,
        fleet: Arc<KubernetesFleet>,
        console: Console,
        metrics: Metrics,
        halt: chaos::HaltSwitch,
    }

    impl Service<'_> {
        async fn runs(&self, interrupts: &Interrupts) -> anyhow::Result<u8> {
            let mut worst = 0;
            let mut ended = 0;
            while self.args.runs.is_none_or(|most| ended < most) {
                tokio::select! {
                    () = self.turn() => {}
                    () = interrupts.reached(1) => break,
                }
                let verdict = self.one(interrupts.reached(1)).await?;
                worst = worst.max(verdict.exit_code());
                ended += 1;
                if interrupts.count() > 0 {
                    break;
                }
                tokio::time::sleep(BETWEEN_RUNS).await;
            }
            Ok(worst)
        }

        /// Waits until this process holds the lease.
        async fn turn(&self) {
            while let Err(why) = self.fleet.may_act() {
                self.metrics.acting(false);
                self.console.waits(&why);
                tokio::time::sleep(TURN_EVERY).await;
            }
            self.metrics.acting(true);
        }

        async fn one(&self, shutdown: impl Future<Output = ()>) -> anyhow::Result<Verdict> {
            let args = self.args;
            let shared = Arc::new(Shared::default());
            let config = RunConfig {
                gateways: args.gateways.gateway.clone(),
                traces_url: args.traces.clone(),
                traces_page: page(args),
                duration: Some(args.duration),
                mean: args.mean,
                kinds: args.faults.clone(),
                roles: args.victims.clone(),
                healthy_min: usize::from(args.healthy_min),
                faults_max: args.faults_max,
                return_max: args.return_max,
                dry_run: args.dry_run,
                halt: self.halt.clone(),
                load: Load::Traffic(load::traffic(&args.judged, args.keys)),
                ticks: args.ticks,
                metrics: self.metrics.clone(),
                keys_prefix: Some(KEYS_PREFIX.to_owned()),
                shared: Arc::clone(&shared),
                ..load::base(&args.judged)
            };
            tracing::info!(seed = config.seed, "a run begins");
            self.console.begins(shared);
            let control: Arc<dyn chaos::FleetControl> = self.fleet.clone();
            let verdict = chaos::run_local(control, config, shutdown).await?;
            self.metrics.judged(&verdict);
            self.console.ended(&verdict);
            load::show(&verdict, &args.judged)?;
            tracing::info!(verdict = verdict.verdict.name(), run_id = verdict.run_id, "a run has ended");
            if let Err(error) = self.fleet.tell(&verdict.run_id, &verdict).await {
                tracing::warn!(error = stdx::error_chain(&error), "the verdict's Event was not written");
            }
            Ok(verdict)
        }
    }

    fn page(args: &ChaosArgs) -> Option<String> {
        args.traces_page.clone().or_else(|| args.traces.clone())
    }
}
