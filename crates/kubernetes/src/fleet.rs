use std::sync::{Arc, Mutex, PoisonError};

use chaos::{Fault, FaultKind, FleetControl, HaltSwitch, Order, Target, Verdict};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::reflector::Store;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use tokio::task::JoinHandle;

use crate::error::{ClusterError, call};
use crate::events::{Events, Note};
use crate::faults::PodFault;
use crate::lease_keeper::LeaseKeeper;
use crate::pods::Places;
use crate::{PROGRAM, rights};

/// Where the fleet is, and who we are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace; none takes that of the service account or the kubeconfig.
    pub namespace: Option<String>,
    /// The Lease that lets one monkey act at a time.
    pub lease: String,
    /// Who we are, unlike all others that may want the Lease: the pod's name.
    pub me: String,
    /// Our own pod's UID, which verdicts are told of; none tells none.
    pub pod_uid: Option<String>,
    /// Where people look at traces.
    pub traces_page: Option<String>,
    /// Set while the Lease says so.
    pub halt: HaltSwitch,
}

/// The pods of one namespace as the monkey's targets. The watch and the Lease end with it.
pub struct KubernetesFleet {
    pods: Api<Pod>,
    events: Events,
    store: Store<Pod>,
    lease: LeaseKeeper,
    places: Mutex<Places>,
    settings: Settings,
    namespace: String,
    tasks: Vec<JoinHandle<()>>,
}

impl KubernetesFleet {
    /// Connects, makes sure of the rights, and begins to watch.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn connect(settings: Settings) -> Result<Arc<KubernetesFleet>, ClusterError> {
        let config = kube::Config::infer().await.map_err(|error| ClusterError::NotConfigured(Box::new(error)))?;
        let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).map_err(|error| ClusterError::NotConfigured(Box::new(error)))?;
        rights::check(&client, &namespace, &settings.lease).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        if call(pods.list(&ListParams::default().labels(PROGRAM).limit(1))).await?.items.is_empty() {
            return Err(ClusterError::NobodyThere { namespace });
        }
        let lease = LeaseKeeper::new(client.clone(), &namespace, &settings.lease, &settings.me, settings.halt.clone());
        // A missing Lease, or one that cannot be read, is told now.
        lease.once().await?;
        let (store, writer) = reflector::store();
        let watched = watcher(pods.clone(), watcher::Config::default().labels(PROGRAM));
        let watching = reflector(writer, watched).default_backoff().for_each(|seen| {
            if let Err(error) = seen {
                tracing::warn!(error = stdx::error_chain(&error), "the watch of the pods broke off; it begins again");
            }
            std::future::ready(())
        });
        let tasks = vec![tokio::spawn(watching), tokio::spawn(lease.clone().run())];
        let events = Events::new(client, &namespace, &settings.me);
        let places = Mutex::default();
        Ok(Arc::new(KubernetesFleet { pods, events, store, lease, places, settings, namespace, tasks }))
    }

    /// The namespace that it watches.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether this process holds the Lease.
    ///
    /// # Errors
    /// It does not; the sentence says who does, or what is in the way.
    pub fn may_act(&self) -> Result<(), String> {
        self.lease.may_act()
    }

    /// The faults that pods know; a sentence for any other.
    ///
    /// # Errors
    /// One of them cannot be done to a pod.
    pub fn check_kinds(kinds: &[FaultKind]) -> Result<(), String> {
        match kinds.iter().find(|kind| !kind.ends_life()) {
            Some(kind) => Err(format!("a pod cannot be struck by {kind}; use kill, delete or evict")),
            None => Ok(()),
        }
    }

    /// Tells the cluster of a verdict, by an Event on our own pod.
    ///
    /// # Errors
    /// The Event was not written.
    pub async fn tell(&self, run_id: &str, verdict: &Verdict) -> Result<(), ClusterError> {
        let Some(uid) = self.settings.pod_uid.clone() else { return Ok(()) };
        let because = verdict.because.join("; ");
        let (faults, requests) = (verdict.faults.len(), verdict.requests);
        let text = format!(
            "{:?}: {faults} faults, {} requests, {} failed, {} lost writes. {because}",
            verdict.verdict, requests.total, requests.failed, verdict.acked_writes.lost
        );
        let note = Note {
            pod: (self.settings.me.clone(), uid),
            reason: format!("Verdict{:?}", verdict.verdict),
            action: "Judge",
            text,
            run_id: run_id.to_owned(),
            trace_id: None,
            warning: verdict.exit_code() != 0,
        };
        self.events.write(note).await
    }

    /// Gives the Lease up.
    pub async fn release(&self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Err(error) = self.lease.release().await {
            tracing::warn!(error = stdx::error_chain(&error), "the lease was not given up; it runs out by itself");
        }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KubernetesFleet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl FleetControl for KubernetesFleet {
    fn targets(&self) -> Result<Vec<Target>, String> {
        self.lease.may_act()?;
        let pods: Vec<Pod> = self.store.state().iter().map(|pod| (**pod).clone()).collect();
        if pods.is_empty() {
            return Err("no pods have been seen yet".to_owned());
        }
        Ok(self.places().targets(&pods))
    }

    fn fault(&self, order: &Order) -> Result<Box<dyn Fault>, String> {
        self.lease.may_act()?;
        let victim = self.places().of(&order.strike.target).cloned();
        let victim = victim.ok_or_else(|| format!("no pod has the place {} now", order.strike.target))?;
        Ok(Box::new(PodFault {
            pods: self.pods.clone(),
            events: self.events.clone(),
            order: order.clone(),
            victim,
            traces_page: self.settings.traces_page.clone(),
        }))
    }
}
