use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use registry::{Answer, Command, Registry, Watch};
use stdx::Instant;
use tokio::sync::{Notify, watch};

use crate::access::AclConfig;
use crate::params::ReadOptions;

/// The name of the one node that services register with.
pub(crate) const NODE: &str = "everring";
/// The one datacenter.
pub(crate) const DATACENTER: &str = "dc1";

/// The registry with those who wait for it.
///
/// There are two copies of it. Commands change the *staged* one; the writer brings that to the disk and then makes it
/// the *shown* one. Readers see only the shown one: what they were told does not vanish in a crash.
#[derive(Debug)]
pub(crate) struct Host {
    inner: Mutex<Inner>,
    /// Wakes the writer: something is staged, or it is time to stop.
    pub(crate) staged: Condvar,
    /// Wakes the ticker: the next deadline came nearer.
    nearer: Notify,
    progress: watch::Sender<Progress>,
    closing: watch::Sender<bool>,
    started: std::time::Instant,
    /// Where the HTTP API listens.
    pub(crate) address: SocketAddr,
    /// How requests are held against the access lists.
    pub(crate) acl: AclConfig,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) staged: Registry,
    /// Counts the commands that changed something.
    pub(crate) version: u64,
    /// What was changed since the last publication.
    pub(crate) changed: BTreeSet<Watch>,
    shown: Arc<Registry>,
    waiting: BTreeMap<Watch, watch::Sender<()>>,
    pub(crate) stopping: bool,
}

/// How far the writer is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// All versions up to this one are on the disk and shown.
    published: u64,
    /// The version that the last failed attempt was to bring to the disk, and what went wrong.
    failed: Option<(u64, String)>,
}

/// A change that was taken but could not be brought to the disk. Whether it will be is unknown: the writer tries on.
#[derive(Debug)]
pub(crate) struct NotDurable(pub(crate) String);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) answer: Answer,
    /// Whether it changed anything that readers see.
    pub(crate) changed: bool,
    /// The version that has to be published before the answer may be given.
    version: u64,
}

impl Host {
    pub(crate) fn new(registry: Registry, started: std::time::Instant, address: SocketAddr, acl: AclConfig) -> Host {
        let shown = Arc::new(registry.clone());
        let (changed, waiting) = (BTreeSet::new(), BTreeMap::new());
        let inner = Inner { staged: registry, version: 0, changed, shown, waiting, stopping: false };
        Host {
            inner: Mutex::new(inner),
            staged: Condvar::new(),
            nearer: Notify::new(),
            progress: watch::channel(Progress::default()).0,
            closing: watch::channel(false).0,
            started,
            address,
            acl,
        }
    }

    /// A panic while the lock was held ends the process in release; in tests the state is still whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The published state.
    pub(crate) fn shown(&self) -> Arc<Registry> {
        Arc::clone(&self.lock().shown)
    }

    /// Looks at the agent's own state, which is ahead of the published one by what is on its way to the disk.
    pub(crate) fn with_staged<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        look(&self.lock().staged)
    }

    /// Gives a command to the staged registry.
    pub(crate) fn apply(&self, command: Command) -> Applied {
        let mut inner = self.lock();
        let deadline = inner.staged.next_timeout();
        let answer = inner.staged.apply(self.now(), command);
        let changes = inner.staged.take_changes();
        let changed = !changes.is_empty();
        if changed {
            inner.version += 1;
            inner.changed.extend(changes);
            self.staged.notify_one();
        }
        let next = inner.staged.next_timeout();
        if next.is_some_and(|next| deadline.is_none_or(|before| next < before)) {
            self.nearer.notify_one();
        }
        // Even a command that changed nothing waits for the version it found: an equal write that came just before it
        // may still be on its way to the disk.
        Applied { answer, changed, version: inner.version }
    }

    /// Waits until what `applied` did, or found, is on the disk and shown.
    pub(crate) async fn published(&self, applied: &Applied) -> Result<(), NotDurable> {
        let mut progress = self.progress.subscribe();
        let settled = progress.wait_for(|progress| {
            let failed = progress.failed.as_ref().is_some_and(|(version, _)| *version >= applied.version);
            progress.published >= applied.version || failed
        });
        // The sender lives in this host, so the channel cannot close while it is borrowed.
        let Ok(settled) = settled.await else { return Err(NotDurable("discovery is stopping".to_owned())) };
        match &settled.failed {
            Some((_, why)) if settled.published < applied.version => Err(NotDurable(why.clone())),
            _ => Ok(()),
        }
    }

    /// The state to answer a read from: at once, or for a blocking query when the index of what it shows has moved on,
    /// its time is over, or discovery is stopping.
    ///
    /// An index from the future is answered at once: the reader finds a smaller one and begins anew.
    pub(crate) async fn read(&self, subject: &Watch, options: &ReadOptions) -> Arc<Registry> {
        let mut closing = self.closing.subscribe();
        let deadline = tokio::time::Instant::now() + options.wait + jitter(options.wait);
        loop {
            let mut waiter = {
                let mut inner = self.lock();
                let unchanged = inner.shown.index_of(subject) == options.index;
                if options.index == 0 || !unchanged || *closing.borrow_and_update() {
                    return Arc::clone(&inner.shown);
                }
                Waiter { host: self, subject, told: inner.subscribe(subject) }
            };
            tokio::select! {
                _ = waiter.told.changed() => {}
                _ = closing.changed() => {}
                () = tokio::time::sleep_until(deadline) => return self.shown(),
            }
        }
    }

    /// The writer brought `registry` to the disk: shows it, and wakes those who wait for what changed.
    pub(crate) fn publish(&self, registry: Registry, version: u64, changed: &BTreeSet<Watch>) {
        let mut inner = self.lock();
        inner.shown = Arc::new(registry);
        if changed.contains(&Watch::Everything) {
            inner.waiting.values().for_each(|waiters| waiters.send_replace(()));
        }
        for concerned in changed.iter().flat_map(Watch::with_prefixes) {
            if let Some(waiters) = inner.waiting.get(&concerned) {
                waiters.send_replace(());
            }
        }
        drop(inner);
        self.progress.send_modify(|progress| {
            progress.published = version;
            progress.failed = None;
        });
    }

    /// The writer could not bring `version` to the disk; it will try again.
    pub(crate) fn publication_failed(&self, version: u64, changed: BTreeSet<Watch>, why: &str) {
        self.lock().changed.extend(changed);
        self.progress.send_modify(|progress| progress.failed = Some((version, why.to_owned())));
    }

    /// Why the last attempt to write the state failed; none if it went well.
    pub(crate) fn write_failure(&self) -> Option<String> {
        self.progress.borrow().failed.as_ref().map(|(_, why)| why.clone())
    }

    /// Lets the checks run out in time, for ever.
    pub(crate) async fn tick(&self) {
        loop {
            let next = self.with_staged(Registry::next_timeout);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep(at.since(self.now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => drop(self.apply(Command::Tick)),
                () = self.nearer.notified() => {}
            }
        }
    }

    /// Answers all blocking queries now, and from here on at once.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// How many kinds of things are waited for; for the metrics and tests.
    pub(crate) fn waiting_len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn now(&self) -> Instant {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos)
    }
}

impl Inner {
    fn subscribe(&mut self, subject: &Watch) -> watch::Receiver<()> {
        self.waiting.entry(subject.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    }
}

/// One waiting reader. The last one of a subject takes the subject's entry with it, so that names that nobody asks for
/// any more leave nothing behind.
struct Waiter<'a> {
    host: &'a Host,
    subject: &'a Watch,
    told: watch::Receiver<()>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut inner = self.host.lock();
        // This one's own receiver still counts.
        if inner.waiting.get(self.subject).is_some_and(|told| told.receiver_count() <= 1) {
            inner.waiting.remove(self.subject);
        }
    }
}

/// Up to a sixteenth of the wait, so that queries that began together do not end together.
fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.0..=1.0 / 16.0))
}
