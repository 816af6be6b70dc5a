//! Keeps the Lease, and reads the halt annotation that stands on it.

use std::sync::{Arc, Mutex, PoisonError};

use chaos::HaltSwitch;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use stdx::Instant;

use crate::HALT_ANNOTATION;
use crate::error::{ClusterError, call};
use crate::lease::{DURATION, LeaseState, RENEW_EVERY, Seen, Step};

/// What the keeper and those who ask it share.
#[derive(Clone)]
pub(crate) struct LeaseKeeper {
    api: Api<Lease>,
    name: String,
    namespace: String,
    me: String,
    halt: HaltSwitch,
    state: Arc<Mutex<LeaseState>>,
    began: tokio::time::Instant,
}

impl LeaseKeeper {
    pub fn new(client: kube::Client, namespace: &str, name: &str, me: &str, halt: HaltSwitch) -> LeaseKeeper {
        LeaseKeeper {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            me: me.to_owned(),
            halt,
            state: Arc::new(Mutex::new(LeaseState::new(me))),
            began: tokio::time::Instant::now(),
        }
    }

    /// Whether we may act now.
    pub fn may_act(&self) -> Result<(), String> {
        self.lock(|state, now| state.may_act(now))
    }

    /// Takes the Lease when it can be had, and renews it, for ever.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.once().await {
                tracing::warn!(error = stdx::error_chain(&error), lease = self.name, "the lease was not renewed");
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }

    /// One look at the Lease, and what follows from it.
    pub async fn once(&self) -> Result<(), ClusterError> {
        let read = call(self.api.get(&self.name)).await;
        let lease = read.map_err(|error| match error.status() {
            Some(404) => ClusterError::NoLease { name: self.name.clone(), namespace: self.namespace.clone() },
            _ => error,
        })?;
        self.note_halt(&lease);
        let sent_at = self.now();
        let step = self.lock(|state, now| state.decide(now, &seen(&lease)));
        if step == Step::Wait {
            return Ok(());
        }
        if step == Step::Take {
            tracing::info!(lease = self.name, me = self.me, "taking the lease");
        }
        let written = call(self.api.replace(&self.name, &PostParams::default(), &self.ours(lease, step))).await;
        match written {
            Ok(_) => self.lock(|state, _| state.renewed(sent_at)),
            // Somebody else was faster; the next look shows who.
            Err(error) if error.status() == Some(409) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives the Lease up, so that the next one need not wait for it to run out.
    pub async fn release(&self) -> Result<(), ClusterError> {
        let mut lease = call(self.api.get(&self.name)).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            return Ok(());
        }
        spec.holder_identity = None;
        call(self.api.replace(&self.name, &PostParams::default(), &lease)).await.map(drop)
    }

    fn note_halt(&self, lease: &Lease) {
        let halted = lease.metadata.annotations.as_ref().and_then(|all| all.get(HALT_ANNOTATION));
        self.halt.set_by(halted.map(|why| format!("the annotation {HALT_ANNOTATION} of lease {}: {why}", self.name)));
    }

    fn ours(&self, mut lease: Lease, step: Step) -> Lease {
        let spec = lease.spec.get_or_insert_default();
        let now = MicroTime(Timestamp::now());
        if step == Step::Take {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        *spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(now),
            ..spec.clone()
        };
        lease
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.began.elapsed()
    }

    fn lock<T>(&self, what: impl FnOnce(&mut LeaseState, Instant) -> T) -> T {
        let now = self.now();
        what(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

fn seen(lease: &Lease) -> Seen {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    let holder = holder.filter(|holder| !holder.is_empty());
    // An annotation changes this too, which only makes us wait longer.
    Seen { holder, version: lease.metadata.resource_version.clone().unwrap_or_default() }
}
