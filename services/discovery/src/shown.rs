use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use consensus::StateMachine;
use registry::{Answer, Command, Limits, Registry, Watch};
use stdx::Instant;
use tokio::sync::watch;

/// A replica's copy of the registry, with those who wait for it to change. The replica's thread changes it, when the
/// replicas have agreed; everybody reads it. Whoever reads has a copy that stays as it is: the registry shares what two
/// copies have in common.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    registry: RwLock<Arc<Registry>>,
    waiting: Mutex<BTreeMap<Watch, watch::Sender<()>>>,
}

impl Shown {
    pub(crate) fn new(registry: Registry) -> Shown {
        Shown { registry: RwLock::new(Arc::new(registry)), waiting: Mutex::default() }
    }

    /// A panic while the lock was held ends the process in release; in tests the state is still whole.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    pub(crate) fn waiting_len(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Watch, watch::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> T {
        let mut registry = self.registry.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let changed = Arc::make_mut(&mut registry);
        let done = change(changed);
        let changes = changed.take_changes();
        drop(registry);
        self.wake(&changes);
        done
    }

    fn wake(&self, changes: &BTreeSet<Watch>) {
        if changes.is_empty() {
            return;
        }
        let waiting = self.waiting();
        if changes.contains(&Watch::Everything) {
            waiting.values().for_each(|waiters| waiters.send_replace(()));
        }
        for concerned in changes.iter().flat_map(Watch::with_prefixes) {
            if let Some(waiters) = waiting.get(&concerned) {
                waiters.send_replace(());
            }
        }
    }
}

/// The machine that the replicas keep equal.
#[derive(Clone, Debug)]
pub(crate) struct Machine(pub(crate) Arc<Shown>);

impl StateMachine for Machine {
    fn apply(&mut self, now: Instant, command: Command) -> Answer {
        self.0.change(|registry| registry.apply(now, command))
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.0.registry().next_timeout()
    }

    fn image(&self) -> Vec<u8> {
        self.0.registry().image()
    }

    fn become_image(&mut self, image: &[u8]) -> Result<(), String> {
        let restored = Registry::from_image(image, Limits::default()).map_err(|error| stdx::error_chain(&error))?;
        self.0.change(|registry| *registry = restored);
        // What was jumped over is not known one by one, so everybody looks for themselves.
        self.0.waiting().values().for_each(|waiters| waiters.send_replace(()));
        Ok(())
    }
}

/// One waiting reader. The last one of a subject takes the subject's entry with it, so that names that nobody asks for
/// any more leave nothing behind.
pub(crate) struct Waiter<'a> {
    shown: &'a Shown,
    subject: &'a Watch,
    told: watch::Receiver<()>,
}

impl<'a> Waiter<'a> {
    pub(crate) fn new(shown: &'a Shown, subject: &'a Watch) -> Waiter<'a> {
        let told = shown.waiting().entry(subject.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiter { shown, subject, told }
    }

    /// Until something of the subject has changed.
    pub(crate) async fn told(&mut self) {
        // The sender lives in the table for as long as this waits.
        let _ = self.told.changed().await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shown.waiting();
        // This one's own receiver still counts.
        if waiting.get(self.subject).is_some_and(|told| told.receiver_count() <= 1) {
            waiting.remove(self.subject);
        }
    }
}
