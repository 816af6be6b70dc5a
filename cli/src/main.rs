//! `everring`: the one program. Each service is a role of it, `everring up` is a whole fleet on this machine, and the
//! rest are people's commands.
//!
//! What it is *not*: it holds no logic of the ring. It reads flags, starts what the other crates offer, and turns how
//! that ends into words and an exit status.
//!
//! Invariants:
//! - data goes to standard output, everything else to standard error;
//! - exit status 2 always means that the call itself could not be carried out, and standard error says why and what to
//!   do;
//! - no process that `everring up` started outlives it, however it ends;
//! - the last thing that a role does is to send its last spans.

mod args;
mod ask_discovery;
mod backup;
mod check;
mod cluster;
mod duration;
mod lineage;
mod litmus;
mod load;
mod lock;
mod out;
mod people;
mod ring;
mod roles;
#[cfg(feature = "kubernetes")]
mod scaling;
mod signals;
mod simulate;
mod simulate_ring;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

/// A node makes and drops states of tens of kilobytes with each write of a busy key; the system's allocator took a
/// seventh of the fleet's time (decision 0087).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The call cannot be carried out: wrong flags, or something in the way.
pub const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    // Before anything else: a child must not outlive its keeper even if the keeper dies right now.
    if let Err(why) = lineage::stay_with_parent() {
        eprintln!("everring: {why}");
        return ExitCode::from(EXIT_USAGE);
    }
    let Cli { log_level, command } = Cli::parse();
    match carry_out(command, log_level) {
        Ok(code) => ExitCode::from(code),
        // Whoever reads our output has seen enough.
        Err(error) if out::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("everring: {error:#}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn carry_out(command: Command, logs: Option<String>) -> anyhow::Result<u8> {
    match command {
        Command::Up(args) => up::run(*args, logs),
        Command::Discovery(args) => match args.ask {
            Some(ask) => ask_discovery::run(ask).map(|()| 0),
            None => roles::discovery(args.serve, logs).map(|()| 0),
        },
        Command::Router(args) => roles::router(args, logs).map(|()| 0),
        Command::StorageNode(args) => roles::storage_node(args, logs),
        Command::Gateway(args) => roles::gateway(args, logs).map(|()| 0),
        Command::Chaos(args) => cluster::run(*args, logs),
        Command::Get(args) => people::get(args),
        Command::Put(args) => people::put(args),
        Command::Del(args) => people::del(args),
        Command::Add(args) => people::add(args),
        Command::Lock(args) => lock::run(args),
        Command::Backup(args) => backup::save(args),
        Command::Restore(args) => backup::restore(args),
        Command::Route(args) => people::route(args),
        Command::Ring(args) => ring::run(args),
        Command::Explain(args) => people::explain(args),
        Command::Verify(args) => load::verify(args, logs),
        Command::Litmus(args) => litmus::run(args),
        Command::Replay(args) => load::replay(args, logs),
        Command::Check(args) => check::run(args),
        Command::Sim(args) => simulate::run(args),
        Command::Functions { .. } => anyhow::bail!(
            "the role `functions` is not offered yet; `everring --help` lists what is, and `everring up` starts it all"
        ),
    }
}
