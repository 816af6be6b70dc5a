//! `everring ring`: who belongs to the ring, and changes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use client::consul::Consul;
use client::ring_changes::{self, RingChangeError};
use membership::{ChangeError, Epoch, Leaving, Pending, View};
use serde_json::json;
use wire::http::{CopyProgress, RingAnswer};

use crate::args::{DiscoveryAddress, GatewaysArgs, OutputArgs};
use crate::duration;
use crate::out::{self, Form};
use crate::people::{EXIT_REFUSED, EXIT_UNKNOWN, ask_failed, block_on, client};
use crate::up::{Ask, Told, ask, tail};

/// `everring ring`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RingArgs {
    /// What to change; without it the members are shown.
    #[command(subcommand)]
    command: Option<RingCommand>,
    #[command(flatten)]
    gateways: GatewaysArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Changes of the ring. (Anywhere else than in a fleet of `everring up`, a node joins by being started: `everring
/// storage-node` with a name and a data directory of its own.)
#[derive(Debug, Subcommand)]
enum RingCommand {
    /// Start more storage nodes in the fleet that `everring up` runs here, and let them join.
    Add(AddArgs),
    /// Let nodes leave: others copy what they hold, then take over; each node's process ends by itself.
    Remove(RemoveArgs),
    /// Give up a change that is under way; nothing is lost by it.
    Abandon {
        /// The change's number, as `everring ring` shows it.
        change: u64,
        #[command(flatten)]
        at: DiscoveryArgs,
    },
}

/// Where the ring's view is.
#[derive(Debug, Args)]
struct DiscoveryArgs {
    #[command(flatten)]
    discovery: DiscoveryAddress,
    #[command(flatten)]
    output: OutputArgs,
}

/// How a change is waited for.
#[derive(Debug, Args)]
struct WaitArgs {
    /// Do not wait until the change is complete.
    #[arg(long, env = "EVERRING_NO_WAIT", value_parser = BoolishValueParser::new())]
    no_wait: bool,
    /// How long to wait.
    #[arg(long, env = "EVERRING_WITHIN", default_value = "1h", value_parser = duration::parse, value_name = "TIME")]
    within: Duration,
}

/// `everring ring add`.
#[derive(Debug, Args)]
struct AddArgs {
    /// Their names, such as n6; new ones.
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    at: DiscoveryArgs,
}

/// `everring ring remove`.
#[derive(Debug, Args)]
struct RemoveArgs {
    /// Their names.
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Remove nodes that are gone for good although no majority of some arcs is left: what only they held is given up.
    /// One that can be reached hands over what it holds all the same.
    #[arg(long, env = "EVERRING_FORCE", value_parser = BoolishValueParser::new())]
    force: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    at: DiscoveryArgs,
}

/// How often the progress of a change is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows the ring, or changes it.
///
/// # Errors
/// Nobody answers, or the call makes no sense.
pub fn run(args: RingArgs) -> anyhow::Result<u8> {
    match args.command {
        None => show(&args.gateways, args.output),
        Some(RingCommand::Add(args)) => block_on(add(args))?,
        Some(RingCommand::Remove(args)) => block_on(remove(args))?,
        Some(RingCommand::Abandon { change, at }) => block_on(abandon(change, at))?,
    }
}

fn show(gateways: &GatewaysArgs, output: OutputArgs) -> anyhow::Result<u8> {
    let client = client(gateways)?;
    let ring = match block_on(async { client.ring().await })? {
        Ok(ring) => ring,
        Err(error) => return ask_failed(error),
    };
    match output.output {
        Form::Json => out::json(&ring)?,
        Form::Table => {
            let formed = if ring.epoch == 0 { "still forming".to_owned() } else { format!("epoch {}", ring.epoch) };
            eprintln!("cluster {}, {formed}, {} copies of each key", ring.cluster, ring.replication);
            if let Some(pending) = &ring.pending_change {
                eprintln!("under way: {pending}");
            }
            out::table(&ring_rows(&ring))?;
        }
    }
    Ok(0)
}

fn ring_rows(ring: &RingAnswer) -> Vec<Vec<String>> {
    let mut head = ["NAME", "STATE", "ALIVE", "SHARE", "TOKENS", "ZONE", "ID"].map(str::to_owned).to_vec();
    let copying = ring.pending_change.is_some();
    if copying {
        head.extend(["ARCS COPIED", "CAME IN"].map(str::to_owned));
    }
    let rows = ring.members.iter().map(|member| {
        let mut row = vec![
            member.name.clone(),
            member.state.clone(),
            if member.alive { "yes" } else { "no" }.to_owned(),
            format!("{:.1} %", member.share * 100.0),
            member.tokens.len().to_string(),
            member.zone.clone().unwrap_or_else(|| "-".to_owned()),
            member.id.clone(),
        ];
        if copying {
            row.extend(copied(member.copying.as_ref()));
        }
        row
    });
    std::iter::once(head).chain(rows).collect()
}

/// How far a member is with copying: arcs, and what came in.
fn copied(progress: Option<&CopyProgress>) -> [String; 2] {
    let Some(CopyProgress { arcs, arcs_copied, registers, keys, bytes }) = progress else {
        return ["-", "-"].map(str::to_owned);
    };
    let mib = *bytes as f64 / (1024.0 * 1024.0);
    [format!("{arcs_copied} of {arcs}"), format!("{} keys, {mib:.1} MiB", registers + keys)]
}

async fn add(args: AddArgs) -> anyhow::Result<u8> {
    let consul = Consul::open(&args.at.discovery.address())?;
    let view = match ring_changes::read(&consul).await {
        Ok(view) => view,
        Err(error) => return change_failed(error),
    };
    if let Some(name) = args.nodes.iter().find(|name| view.member_named(name).is_some()) {
        return change_failed(RingChangeError::Refused(ChangeError::NameTaken(name.clone())));
    }
    for name in &args.nodes {
        if let Told::Refused(why) = ask(&consul, &Ask::Add(name.clone())).await? {
            eprintln!("everring: {name} is not added: {why}");
            return Ok(EXIT_REFUSED);
        }
    }
    if args.wait.no_wait {
        return told(&args.at.output, &view, false);
    }
    let end = tokio::time::Instant::now() + args.wait.within;
    let mut progress = Progress::default();
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK_EVERY).await;
        // Discovery may be away for a moment; the change goes on without it.
        let Ok(view) = ring_changes::read(&consul).await else { continue };
        let mut awaited = 0;
        for name in &args.nodes {
            match view.member_named(name) {
                Some(member) if !view.is_joining(member.id) => {}
                Some(member) => {
                    awaited += 1;
                    view.pending_of(member.id).into_iter().for_each(|pending| progress.show(&view, pending));
                }
                None => {
                    awaited += 1;
                    if let Some(code) = failed_to_start(&consul, name).await? {
                        return Ok(code);
                    }
                }
            }
        }
        if awaited == 0 {
            return told(&args.at.output, &view, true);
        }
    }
    eprintln!("everring: the change is still under way after {:?}; `everring ring` shows it", args.wait.within);
    Ok(EXIT_UNKNOWN)
}

/// Says why a node that is not in the ring yet has ended, if it has.
async fn failed_to_start(consul: &Consul, name: &str) -> anyhow::Result<Option<u8>> {
    let child = ask(consul, &Ask::Look(name.to_owned())).await.context("`everring up` has ended meanwhile")?;
    let Told::Child { last_end: Some(how), log, .. } = child else { return Ok(None) };
    eprintln!("everring: {name} did not join: it {how}; the end of {}:\n{}", log.display(), tail(&log).trim_end());
    Ok(Some(EXIT_REFUSED))
}

/// What was said of changes under way; each news is said once.
#[derive(Debug, Default)]
struct Progress(std::collections::BTreeMap<Epoch, (usize, usize)>);

impl Progress {
    fn show(&mut self, view: &View, pending: &Pending) {
        let news = (pending.copied.len(), view.awaited(pending.id).map_or(0, |awaited| awaited.len()));
        if self.0.insert(pending.id, news) != Some(news) {
            let (copied, of) = news;
            eprintln!("{}: {copied} of {of} nodes have copied their share", view.describe(&pending.change));
        }
    }
}

async fn remove(args: RemoveArgs) -> anyhow::Result<u8> {
    let consul = Consul::open(&args.at.discovery.address())?;
    let view = match ring_changes::read(&consul).await {
        Ok(view) => view,
        Err(error) => return change_failed(error),
    };
    let mut nodes = BTreeSet::new();
    for name in &args.nodes {
        match view.member_named(name) {
            Some(member) => nodes.insert(member.id),
            None => return change_failed(RingChangeError::Refused(ChangeError::NoSuchMember(name.clone()))),
        };
    }
    let leaving = match ring_changes::leave(&consul, &nodes, args.force).await {
        Ok(leaving) => leaving,
        Err(error) => return change_failed(error),
    };
    if !leaving.lost.is_empty() {
        eprintln!("{}", given_up(&view, &leaving));
    }
    match leaving.id {
        Some(id) if !args.wait.no_wait => wait(&consul, id, &args).await,
        id => told(&args.at.output, &leaving.view, id.is_none()),
    }
}

/// Says what a forced leave may lose: no more than what nobody but the lost held.
fn given_up(view: &View, leaving: &Leaving) -> String {
    let names = view.names_of(leaving.lost.iter().copied()).join(", ");
    let share: f64 = leaving.losses.iter().map(|loss| f64::from(loss.share_ppm) / 10_000.0).sum();
    let arcs = leaving.losses.len();
    let bare = leaving.losses.iter().filter(|loss| loss.reachable.is_empty()).count();
    let all = if bare > 0 { format!("; of {bare} of them nobody is left, so all is lost") } else { String::new() };
    format!("giving up what only {names} held: up to {share:.1} % of all keys, in {arcs} arcs{all}")
}

/// Waits for the end of the change and shows its progress.
async fn wait(consul: &Consul, id: Epoch, args: &RemoveArgs) -> anyhow::Result<u8> {
    let end = tokio::time::Instant::now() + args.wait.within;
    let mut progress = Progress::default();
    while tokio::time::Instant::now() < end {
        // Discovery may be away for a moment; the change goes on without it.
        if let Ok(view) = ring_changes::read(consul).await {
            let Some(pending) = view.pending.iter().find(|pending| pending.id == id) else {
                return told(&args.at.output, &view, true);
            };
            progress.show(&view, pending);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    eprintln!("everring: the change is still under way after {:?}; `everring ring` shows it", args.wait.within);
    Ok(EXIT_UNKNOWN)
}

async fn abandon(change: u64, at: DiscoveryArgs) -> anyhow::Result<u8> {
    let consul = Consul::open(&at.discovery.address())?;
    match ring_changes::change(&consul, |view| view.abandon(Epoch(change))).await {
        Ok(view) => told(&at.output, &view, true),
        Err(error) => change_failed(error),
    }
}

fn told(output: &OutputArgs, view: &View, complete: bool) -> anyhow::Result<u8> {
    let mut members: Vec<&str> = view.members.iter().map(|member| member.name.as_str()).collect();
    members.sort_unstable();
    match output.output {
        Form::Json => out::json(&json!({"epoch": view.epoch.0, "complete": complete, "members": members}))?,
        Form::Table => {
            let how = if complete { "done" } else { "begun" };
            out::line(&format!("{how}: epoch {}, members {}", view.epoch, members.join(", ")))?;
        }
    }
    Ok(0)
}

fn change_failed(error: RingChangeError) -> anyhow::Result<u8> {
    match error {
        RingChangeError::Refused(_) | RingChangeError::NoRing => {
            eprintln!("everring: {error}");
            Ok(EXIT_REFUSED)
        }
        error => bail!("{}", stdx::error_chain(&error)),
    }
}
