//! `everring discovery members|snapshot|restore`: what people ask a running discovery.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use client::consul::{Consul, ReplicaInfo};

use crate::args::{DiscoveryAddress, DiscoveryCommand};
use crate::out::{self, Form};
use crate::people::block_on;

/// Asks, and shows the answer.
///
/// # Errors
/// Nobody answers, or the file cannot be used; the chain says what to do.
pub fn run(ask: DiscoveryCommand) -> anyhow::Result<()> {
    match ask {
        DiscoveryCommand::Members { discovery, remove, output } => {
            let replicas = block_on(members(&discovery, remove.as_deref()))??;
            show(&replicas, output.output)
        }
        DiscoveryCommand::Snapshot { file, discovery } => {
            let snapshot = block_on(connect(&discovery)?.snapshot())?.context(DOWN)?;
            write(&file, &snapshot)
        }
        DiscoveryCommand::Restore { file, discovery } => {
            let snapshot = read(&file)?;
            block_on(connect(&discovery)?.restore(snapshot))?.context("nothing was restored")?;
            eprintln!("restored: every replica now holds what {} says", file.display());
            Ok(())
        }
    }
}

const DOWN: &str = "discovery gives no answer; give the address of a replica that runs with --discovery";

fn connect(discovery: &DiscoveryAddress) -> anyhow::Result<Consul> {
    Ok(Consul::open(&discovery.address())?)
}

async fn members(discovery: &DiscoveryAddress, remove: Option<&str>) -> anyhow::Result<Vec<ReplicaInfo>> {
    let consul = connect(discovery)?;
    let replicas = consul.replicas().await.context(DOWN)?;
    let Some(named) = remove else { return Ok(replicas) };
    let found = replicas.iter().find(|replica| replica.name == named || replica.id == named);
    let found = found.with_context(|| format!("there is no replica {named}; the others are shown without --remove"))?;
    consul.remove_replica(&found.id).await.with_context(|| format!("{named} was not taken out"))?;
    // It is agreed on that it goes; who is left is known once the others have let it go.
    Ok(consul.replicas().await?.into_iter().filter(|replica| replica.id != found.id).collect())
}

fn show(replicas: &[ReplicaInfo], form: Form) -> anyhow::Result<()> {
    if let Form::Json = form {
        return out::json(&replicas);
    }
    let mut rows = vec![["NAME", "ID", "STATE", "PEERS", "HTTP"].map(str::to_owned).to_vec()];
    rows.extend(replicas.iter().map(|replica| {
        let state = match (replica.leader, replica.voter) {
            (true, _) => "leads",
            (false, true) => "votes",
            (false, false) => "catches up",
        };
        let ReplicaInfo { name, id, address, http, .. } = replica.clone();
        vec![name, id, state.to_owned(), address, http]
    }));
    out::table(&rows)
}

fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if file == Path::new("-") {
        return out::bytes(bytes);
    }
    let unwritable = || format!("cannot write {}", file.display());
    let mut made = std::fs::File::create(file).with_context(unwritable)?;
    made.write_all(bytes).and_then(|()| made.sync_all()).with_context(unwritable)?;
    eprintln!("saved {} bytes to {}", bytes.len(), file.display());
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
