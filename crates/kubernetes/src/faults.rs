//! The faults: a pod is deleted, with its grace period or without, or evicted. The cluster starts another one.

use chaos::{Fault, FaultError, FaultKind, Order};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, Preconditions};

use crate::OPT_IN_LABEL;
use crate::error::{ClusterError, call};
use crate::events::{Events, Note};
use crate::pods::{Place, opted_in, uid};

/// One fault against one pod.
pub(crate) struct PodFault {
    pub pods: Api<Pod>,
    pub events: Events,
    pub order: Order,
    pub victim: Place,
    /// Where people look at traces.
    pub traces_page: Option<String>,
}

impl Fault for PodFault {
    fn inject(&mut self) -> BoxFuture<'_, Result<(), FaultError>> {
        Box::pin(async { self.strike().await.map_err(FaultError::Cluster) })
    }

    fn heal(&mut self) -> BoxFuture<'_, Result<(), FaultError>> {
        // The pod's controller starts another one.
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_instant(&self) -> bool {
        // The node's kubelet hears of it, and ends the container, some time after the API has taken it.
        false
    }

    fn describe(&self) -> String {
        let how = match self.order.strike.kind {
            FaultKind::Kill => "deleted without grace",
            FaultKind::Evict => "evicted",
            FaultKind::Delete | FaultKind::Pause => "deleted",
        };
        format!("pod {} (UID {}) is {how}", self.victim.pod, self.victim.uid)
    }
}

impl PodFault {
    async fn strike(&self) -> Result<(), String> {
        let name = &self.victim.pod;
        if self.order.strike.kind == FaultKind::Pause {
            return Err("a pod cannot be paused; use kill, delete or evict".to_owned());
        }
        let pod = call(self.pods.get(name)).await.map_err(|error| self.refusal(error))?;
        if uid(&pod) != self.victim.uid || pod.metadata.deletion_timestamp.is_some() {
            return Err(format!("pod {name} has gone already"));
        }
        if !opted_in(&pod) {
            return Err(format!("pod {name} has no label {OPT_IN_LABEL} any more, so it is left alone"));
        }
        // Written first: a fault that takes us along still stands in the cluster's record.
        let written = self.events.write(self.note()).await;
        written.map_err(|error| format!("the Event could not be written: {}", stdx::error_chain(&error)))?;
        let preconditions = Preconditions { uid: Some(self.victim.uid.clone()), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let done = match self.order.strike.kind {
            FaultKind::Kill => {
                let options = DeleteParams { grace_period_seconds: Some(0), ..options };
                call(self.pods.delete(name, &options)).await.map(drop)
            }
            FaultKind::Delete | FaultKind::Pause => call(self.pods.delete(name, &options)).await.map(drop),
            FaultKind::Evict => {
                let eviction = EvictParams { delete_options: Some(options), ..EvictParams::default() };
                call(self.pods.evict(name, &eviction)).await.map(drop)
            }
        };
        done.map_err(|error| self.refusal(error))
    }

    fn refusal(&self, error: ClusterError) -> String {
        let (kind, pod) = (self.order.strike.kind, &self.victim.pod);
        match error.status() {
            Some(429) => format!("the disruption budget allows no eviction of pod {pod} now"),
            Some(404 | 409) => format!("pod {pod} has gone already"),
            Some(403) => format!("this account may not {kind} pod {pod}; give it the role everring-chaos"),
            _ => format!("pod {pod}: {}", stdx::error_chain(&error)),
        }
    }

    fn note(&self) -> Note {
        let Order { strike, run_id, trace_id, .. } = &self.order;
        let (action, word) = match strike.kind {
            FaultKind::Kill => ("Kill", "deleted without grace"),
            FaultKind::Evict => ("Evict", "evicted"),
            FaultKind::Delete | FaultKind::Pause => ("Delete", "deleted"),
        };
        let link = self.traces_page.as_deref().map(|page| chaos::trace_link(page, trace_id));
        let link = link.map(|link| format!("; see {link}")).unwrap_or_default();
        Note {
            pod: (self.victim.pod.clone(), self.victim.uid.clone()),
            reason: format!("Chaos{action}"),
            action,
            text: format!("{word} by the chaos monkey: fault {} of run {run_id}, trace {trace_id}{link}", strike.id),
            run_id: run_id.clone(),
            trace_id: Some(trace_id.clone()),
            warning: true,
        }
    }
}

#[cfg(test)]
#[path = "faults_test.rs"]
mod tests;
