//! Samples of where the servers' processor time goes, by Linux's `perf`, one file for each role.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use processes::Process;

use crate::load::Phase;
use crate::target::Target;

/// Samples a second and processor.
const FREQUENCY: &str = "499";
/// How long `perf` may take to write its file.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// Starts to sample a target's servers for the time that counts.
pub fn start(target: &Target, phase: Phase, into: &Path, warm_up: Duration, length: Duration) -> Result<Vec<Process>> {
    std::fs::create_dir_all(into).with_context(|| format!("{} cannot be made", into.display()))?;
    let mut roles: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for server in target.servers.iter() {
        roles.entry(server.role).or_default().push(server.process.pid().to_string());
    }
    let seconds = format!("{:.1}", (warm_up + length).as_secs_f64());
    let start = |(role, pids): (&str, Vec<String>)| {
        let name = format!("{}-{}-{role}", target.name, phase.name());
        let file = into.join(format!("{name}.data"));
        let mut command = Command::new("perf");
        command.args(["record", "--freq", FREQUENCY, "--pid", &pids.join(","), "--output"]).arg(file);
        command.args(["--", "sleep", &seconds]);
        Process::start(&name, command, into)
    };
    roles.into_iter().filter(|(role, _)| *role != "discovery").map(start).collect()
}

/// Waits until the samples are written.
pub fn finish(sampling: Vec<Process>) -> Result<()> {
    for process in sampling {
        let name = process.name().to_owned();
        ensure!(process.wait(WRITE_MAX)?, "perf failed for {name}; its log is beside its data");
    }
    Ok(())
}
