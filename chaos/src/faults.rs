//! What can be done to a process, and how it is undone. What can be done to a pod is in the crate `kubernetes`.
//!
//! A fault is injected, described and healed. What leaves its victim alive heals itself even if the monkey dies: see
//! [`Pause`].

use std::fmt;
use std::future::ready;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// The kinds of fault. A local fleet knows kill and pause, a cluster kill, delete and evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// SIGKILL (a pod: deleted without grace): the process ends at once; its keeper starts it again with its data.
    Kill,
    /// SIGSTOP for a while: the process is alive, and silent.
    Pause,
    /// A pod is deleted with its grace period: SIGTERM, time to drain, then the end.
    Delete,
    /// A pod is evicted: as deleted, if its disruption budget allows it.
    Evict,
}

/// Why a fault was not injected, or not healed.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The process is gone already: there is nothing to strike, and nothing was done.
    #[error("no process {0} is running")]
    Gone(u32),
    /// The system refused: the monkey may not signal this process. Nothing was done.
    #[error("process {pid} cannot be signalled")]
    Refused {
        /// The process.
        pid: u32,
        /// What the system said.
        source: std::io::Error,
    },
    /// The process that heals a pause in our stead could not be started. Nothing was done.
    #[error("the pause's healer could not be started, so the pause was not begun")]
    Healer {
        /// What the system said.
        source: std::io::Error,
    },
    /// The cluster's API did not do it. The sentence says what was asked for and what was answered.
    #[error("{0}")]
    Cluster(String),
}

/// One thing that can be done to a process.
pub trait Fault: Send {
    /// Does it.
    ///
    /// # Errors
    /// It was not done; the process is as it was.
    fn inject(&mut self) -> BoxFuture<'_, Result<(), FaultError>>;

    /// Undoes it; calling it twice, or after the victim's end, does no harm.
    ///
    /// # Errors
    /// It may still be in force.
    fn heal(&mut self) -> BoxFuture<'_, Result<(), FaultError>>;

    /// What it does, in a few words.
    fn describe(&self) -> String;

    /// Whether it acts at the moment of its injection; else the victim goes on for a while.
    fn is_instant(&self) -> bool {
        true
    }
}

/// SIGKILL. There is nothing to heal: the fleet's keeper starts the process again.
pub struct Kill {
    pid: u32,
}

/// SIGSTOP now, SIGCONT when healed - by us, or by a small process of its own should we be killed first.
pub struct Pause {
    pid: u32,
    healed_after: Duration,
    healer: Option<std::process::Child>,
}

impl FaultKind {
    /// The kind as it is named in histories, reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            FaultKind::Kill => "kill",
            FaultKind::Pause => "pause",
            FaultKind::Delete => "delete",
            FaultKind::Evict => "evict",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<FaultKind> {
        [FaultKind::Kill, FaultKind::Pause, FaultKind::Delete, FaultKind::Evict]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// Whether the victim's process ends.
    pub const fn ends_life(self) -> bool {
        match self {
            FaultKind::Kill | FaultKind::Delete | FaultKind::Evict => true,
            FaultKind::Pause => false,
        }
    }

    /// The fault of this kind for a process; `pause` is how long a pause lasts.
    ///
    /// # Errors
    /// It is nothing that can be done to a process.
    pub fn against(self, pid: u32, pause: Duration) -> Result<Box<dyn Fault>, String> {
        match self {
            FaultKind::Kill => Ok(Box::new(Kill { pid })),
            FaultKind::Pause => Ok(Box::new(Pause { pid, healed_after: pause, healer: None })),
            FaultKind::Delete | FaultKind::Evict => {
                Err(format!("{self} is done to pods, and this is a process; use kill or pause"))
            }
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Fault for Kill {
    fn inject(&mut self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(ready(signal::send(self.pid, signal::Signal::Kill)))
    }

    fn heal(&mut self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(ready(Ok(())))
    }

    fn describe(&self) -> String {
        format!("SIGKILL to process {}", self.pid)
    }
}

impl Fault for Pause {
    fn inject(&mut self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(ready(self.begin()))
    }

    fn heal(&mut self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(ready(self.end()))
    }

    fn describe(&self) -> String {
        format!("SIGSTOP to process {} for {} ms", self.pid, self.healed_after.as_millis())
    }
}

impl Pause {
    fn begin(&mut self) -> Result<(), FaultError> {
        // The healer starts first: from here on somebody wakes the victim, whatever becomes of us. It waits a little
        // longer than we do, so that as a rule it finds the victim awake, which SIGCONT does not disturb.
        let wait_s = self.healed_after.as_secs_f64() + HEALER_MARGIN_S;
        let script = format!("sleep {wait_s:.3}; kill -CONT {}", self.pid);
        let healer = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            // A group of its own, so that the shell and its `sleep` can be ended together, and no Ctrl-C ends it early.
            .process_group(0)
            .spawn()
            .map_err(|source| FaultError::Healer { source })?;
        self.healer = Some(healer);
        let stopped = signal::send(self.pid, signal::Signal::Stop);
        if stopped.is_err() {
            self.end_healer();
        }
        stopped
    }

    fn end(&mut self) -> Result<(), FaultError> {
        let woken = match signal::send(self.pid, signal::Signal::Continue) {
            // A victim that ended in the meantime needs no waking.
            Err(FaultError::Gone(_)) => Ok(()),
            other => other,
        };
        if woken.is_ok() {
            self.end_healer();
        }
        woken
    }

    /// The victim is awake: its healer must not signal a process number that may soon be someone else's.
    fn end_healer(&mut self) {
        if let Some(mut healer) = self.healer.take() {
            // Both fail only if the healer has ended by itself, which is as good.
            let _ = signal::end_group(&healer);
            let _ = healer.wait();
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if self.healer.is_some() {
            // The last chance to undo it; if even this fails, the healer does it.
            let _ = self.end();
        }
    }
}

/// How much later than we the healer wakes a paused victim, in seconds.
const HEALER_MARGIN_S: f64 = 1.0;

mod signal {
    use super::FaultError;

    #[derive(Clone, Copy)]
    pub(super) enum Signal {
        Kill,
        Stop,
        Continue,
    }

    /// Ends the process group that this child of ours leads. The child is not waited for yet, so the number is its own.
    pub(super) fn end_group(leader: &std::process::Child) -> Result<(), FaultError> {
        let target = libc::pid_t::try_from(leader.id()).ok().filter(|target| *target > 1);
        kill(leader.id(), -target.ok_or(FaultError::Gone(leader.id()))?, libc::SIGKILL)
    }

    /// Signals exactly one process.
    pub(super) fn send(pid: u32, signal: Signal) -> Result<(), FaultError> {
        let number = match signal {
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        };
        // 0 and negative numbers mean whole groups to kill(2), and 1 is the system's own.
        let target = libc::pid_t::try_from(pid).ok().filter(|target| *target > 1).ok_or(FaultError::Gone(pid))?;
        kill(pid, target, number)
    }

    fn kill(pid: u32, target: libc::pid_t, number: libc::c_int) -> Result<(), FaultError> {
        #[allow(unsafe_code, reason = "kill(2) takes two integers by value and touches no memory of ours")]
        let result = unsafe { libc::kill(target, number) };
        if result == 0 {
            return Ok(());
        }
        let source = std::io::Error::last_os_error();
        if source.raw_os_error() == Some(libc::ESRCH) {
            return Err(FaultError::Gone(pid));
        }
        Err(FaultError::Refused { pid, source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};
    use std::time::Instant;

    use futures_util::FutureExt;

    use super::*;

    fn against(kind: FaultKind, pid: u32, pause: Duration) -> Box<dyn Fault> {
        kind.against(pid, pause).expect("it can be done to a process")
    }

    /// These faults act at once.
    fn now<T>(acting: BoxFuture<'_, T>) -> T {
        acting.now_or_never().expect("it does not wait")
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().expect("`sleep` can be started")
    }

    /// The process's state letter as the kernel tells it: `T` is stopped.
    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.trim().chars().next()
    }

    fn wait_for(pid: u32, wanted: impl Fn(Option<char>) -> bool) {
        let start = Instant::now();
        while !wanted(state(pid)) {
            assert!(start.elapsed() < Duration::from_secs(10), "process {pid} is in state {:?}", state(pid));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_kill_ends_the_process_by_sigkill() {
        let mut child = sleeper();
        let mut fault = against(FaultKind::Kill, child.id(), Duration::ZERO);
        now(fault.inject()).expect("our own child can be killed");
        assert_eq!(child.wait().expect("it has ended").signal(), Some(libc::SIGKILL));
        assert!(matches!(now(fault.inject()), Err(FaultError::Gone(_))), "a process that is gone is reported as gone");
    }

    #[test]
    fn a_pause_stops_the_process_and_healing_wakes_it() {
        let mut child = sleeper();
        let mut fault = against(FaultKind::Pause, child.id(), Duration::from_secs(60));
        now(fault.inject()).expect("our own child can be stopped");
        wait_for(child.id(), |state| state == Some('T'));
        now(fault.heal()).expect("and woken");
        wait_for(child.id(), |state| state != Some('T'));
        child.kill().expect("the test's own child");
        child.wait().expect("it has ended");
    }

    #[test]
    fn a_pause_that_is_dropped_is_healed() {
        let mut child = sleeper();
        let mut fault = against(FaultKind::Pause, child.id(), Duration::from_secs(60));
        now(fault.inject()).expect("our own child can be stopped");
        wait_for(child.id(), |state| state == Some('T'));
        drop(fault);
        wait_for(child.id(), |state| state != Some('T'));
        child.kill().expect("the test's own child");
        child.wait().expect("it has ended");
    }

    #[test]
    fn what_is_done_to_pods_is_refused_for_a_process() {
        for kind in [FaultKind::Delete, FaultKind::Evict] {
            let refused = kind.against(std::process::id(), Duration::ZERO).err();
            assert!(refused.is_some_and(|why| why.contains("pods")), "{kind}");
        }
    }

    #[test]
    fn nobody_but_one_process_is_ever_signalled() {
        for pid in [0, 1, u32::MAX] {
            let mut fault = against(FaultKind::Kill, pid, Duration::ZERO);
            assert!(matches!(now(fault.inject()), Err(FaultError::Gone(_))), "{pid} must be refused");
        }
    }
}
