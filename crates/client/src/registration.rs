//! Keeps one service registered: renews its TTL check every [`RENEWAL`], and registers again when the agent has
//! forgotten it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::backoff::Backoff;
pub use crate::consul::ServiceRegistration;
use crate::consul::{Consul, ConsulError};

/// How often the check is renewed: three times within the usual TTL of 10 s.
pub const RENEWAL: Duration = Duration::from_secs(3);

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// A service that is kept registered until it is deregistered. Dropping it only stops the renewal: the check then turns
/// critical by itself, which is what a crash looks like too.
#[derive(Debug)]
pub struct Registration {
    consul: Consul,
    service_id: String,
    registered: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Registration {
    /// Registers in the background, for as long as it takes. Must be called within a tokio runtime.
    pub fn start(consul: Consul, registration: ServiceRegistration) -> Registration {
        Registration::keep(consul, registration, false)
    }

    /// Registers now, and keeps it up from then on: for a service that must not start without discovery.
    ///
    /// # Errors
    /// The first registration's; nothing runs then.
    pub async fn register(consul: Consul, registration: ServiceRegistration) -> Result<Registration, ConsulError> {
        consul.register(&registration).await?;
        consul.check_pass(&registration.check_id()).await?;
        Ok(Registration::keep(consul, registration, true))
    }

    /// Whether discovery knew of the service at the last attempt.
    pub fn is_registered(&self) -> bool {
        *self.registered.borrow()
    }

    /// A receiver of [`Registration::is_registered`].
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.registered.clone()
    }

    /// Stops renewing and takes the service out of discovery. One that discovery does not know is as good as taken out.
    ///
    /// # Errors
    /// Discovery did not take it; the check will turn critical by itself.
    pub async fn deregister(self) -> Result<(), ConsulError> {
        self.task.abort();
        match self.consul.deregister(&self.service_id).await {
            Err(error) if error.is_unknown() => Ok(()),
            done => done,
        }
    }

    fn keep(consul: Consul, registration: ServiceRegistration, already: bool) -> Registration {
        let (told, registered) = watch::channel(already);
        let service_id = registration.id.clone();
        let task = tokio::spawn(renew(consul.clone(), registration, told));
        Registration { consul, service_id, registered, task }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Renews for ever.
async fn renew(consul: Consul, registration: ServiceRegistration, told: watch::Sender<bool>) {
    let check_id = registration.check_id();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let mut ticks = tokio::time::interval(RENEWAL.min(registration.ttl / 3).max(RETRY_FIRST));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        loop {
            let known = *told.borrow();
            match renew_once(&consul, &registration, &check_id, known).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(error = stdx::error_chain(&error), service = registration.id, "not renewed");
                    told.send_replace(false);
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
        backoff.reset();
        told.send_replace(true);
    }
}

async fn renew_once(
    consul: &Consul,
    registration: &ServiceRegistration,
    check_id: &str,
    known: bool,
) -> Result<(), ConsulError> {
    if known {
        match consul.check_pass(check_id).await {
            // Whatever the agent's version answers for a check that it has forgotten (404, or 500 in old ones), the
            // remedy is the same, and registering again is harmless.
            Err(ConsulError::Refused { .. }) => {}
            renewed => return renewed,
        }
    }
    consul.register(registration).await?;
    // An agent that knew the check keeps its status across a registration, so it has to be renewed too.
    consul.check_pass(check_id).await
}
