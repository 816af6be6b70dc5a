//! One child process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take from SIGTERM to its end before it is killed.
const END_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether it has ended.
const END_POLL: Duration = Duration::from_millis(10);

/// A child process. Ends when it is dropped: by SIGTERM, and by SIGKILL if that takes too long.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`; what it writes goes to `<name>.log` in `logs`.
    ///
    /// # Errors
    /// The program cannot be started, or the log not be written.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Process> {
        let log = log_file(name, logs)?;
        command.stdout(log.try_clone().context("one more file handle")?).stderr(log);
        spawn(name, command)
    }

    /// Starts `command` and waits for a line on its standard output that begins with `prefix`, which is returned too.
    ///
    /// # Errors
    /// As [`Process::start`]; also when the line does not come within `patience`.
    pub fn start_until(
        name: &str,
        mut command: Command,
        logs: &Path,
        prefix: &str,
        patience: Duration,
    ) -> Result<(Process, String)> {
        command.stdout(Stdio::piped()).stderr(log_file(name, logs)?);
        let mut process = spawn(name, command)?;
        let stdout = process.child.stdout.take().context("its standard output is piped")?;
        let line = wait_for_line(stdout, prefix.to_owned(), patience)
            .with_context(|| format!("{name} did not become ready; its log is {}", log_path(name, logs).display()))?;
        Ok((process, line))
    }

    /// What it is called in tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end and waits until it has. True if it ended by itself, with status 0.
    pub fn end(mut self) -> bool {
        self.end_now()
    }

    /// Waits for its end. True if its status is 0.
    ///
    /// # Errors
    /// It did not end within `patience`; it is ended then.
    pub fn wait(mut self, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("waiting for a child")? {
                return Ok(status.success());
            }
            thread::sleep(END_POLL);
        }
        bail!("{} did not end within {patience:?}", self.name)
    }

    fn end_now(&mut self) -> bool {
        if let Ok(Some(status)) = self.child.try_wait() {
            return status.success();
        }
        // A pid that was not waited for is still ours.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + END_MAX;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.success(),
                Ok(None) => thread::sleep(END_POLL),
                Err(_) => break,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_now();
    }
}

fn spawn(name: &str, mut command: Command) -> Result<Process> {
    let child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    Ok(Process { name: name.to_owned(), child })
}

fn log_path(name: &str, logs: &Path) -> std::path::PathBuf {
    logs.join(format!("{name}.log"))
}

fn log_file(name: &str, logs: &Path) -> Result<File> {
    let path = log_path(name, logs);
    File::create(&path).with_context(|| format!("{} cannot be written", path.display()))
}

/// Reads on after the line too, or the process would block or die on a full or closed pipe.
fn wait_for_line(stdout: ChildStdout, prefix: String, patience: Duration) -> Result<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if line.starts_with(&prefix) {
                // Only the first such line is waited for.
                let _ = tell.send(line);
            }
        }
    });
    match told.recv_timeout(patience) {
        Ok(line) => Ok(line),
        Err(RecvTimeoutError::Timeout) => bail!("no ready line within {patience:?}"),
        Err(RecvTimeoutError::Disconnected) => bail!("it ended"),
    }
}

/// The processor time that a process has used, user and system, in seconds. 0 if it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    let Some(fields) = stat_fields(pid) else { return 0.0 };
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Fields 14 and 15 of proc(5), counted from the state, which is the third.
    (ticks(11) + ticks(12)) as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The memory of a process that is in RAM, in MiB. None if it is gone.
pub fn resident_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1_024.0)
}

/// The children of a process, each with the words of its command line.
pub fn children_of(parent: u32) -> Vec<(u32, Vec<String>)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| stat_fields(*pid).and_then(|fields| fields.get(1)?.parse().ok()) == Some(parent));
    ours.map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        (pid, words.filter(|word| !word.is_empty()).collect())
    })
    .collect()
}

/// The fields of `/proc/<pid>/stat` from the third on; the second is a name that may hold spaces and brackets.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Ports on loopback that are free now. For programs that cannot take port 0 and tell; another process may be faster.
///
/// # Errors
/// The system gives none.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let bound: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().context("a free port")?;
    bound.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time_and_its_child_is_found_and_ended() {
        let me = std::process::id();
        assert!(resident_mib(me).is_some_and(|mib| mib > 0.1));
        let mut command = Command::new("sh");
        command.args(["-c", "echo hello; echo ready 1; exec sleep 600"]);
        let logs = std::env::temp_dir();
        let name = format!("processes-test-{me}");
        let patience = Duration::from_secs(10);
        let (child, line) = Process::start_until(&name, command, &logs, "ready", patience).expect("sh and sleep");
        assert_eq!(line, "ready 1");
        let pid = child.pid();
        assert!(children_of(me).iter().any(|(found, _)| *found == pid));
        assert!(!child.end(), "sleep ends by the signal, not by itself");
        assert_eq!(resident_mib(pid), None);
        assert!(children_of(me).iter().all(|(found, _)| *found != pid));
        let _ = fs::remove_file(log_path(&name, &logs));
    }

    #[test]
    fn a_child_that_ends_before_it_is_ready_is_told_of() {
        let logs = std::env::temp_dir();
        let name = format!("processes-test-early-{}", std::process::id());
        let outcome = Process::start_until(&name, Command::new("true"), &logs, "ready", Duration::from_secs(10));
        let why = format!("{:#}", outcome.expect_err("true prints nothing"));
        assert!(why.ends_with("it ended"), "{why}");
        let _ = fs::remove_file(log_path(&name, &logs));
    }

    #[test]
    fn ports_differ() {
        let ports = free_ports(6).expect("six free ports");
        let distinct: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), 6);
    }
}
