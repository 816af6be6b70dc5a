use std::time::Duration;

/// Why the cluster's API is of no use. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no cluster to talk to.
    #[error(
        "no cluster is configured: there is neither a kubeconfig (KUBECONFIG or ~/.kube/config) nor a service account; \
         run this in a pod of deploy/k8s, or name a cluster with KUBECONFIG"
    )]
    NotConfigured(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API does not answer.
    #[error("the Kubernetes API does not answer; is the cluster up, and may this process reach it?")]
    Api(#[source] Box<kube::Error>),
    /// The API answered, and did not do it.
    #[error("the Kubernetes API answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The API is silent.
    #[error("the Kubernetes API did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// Rights are missing.
    #[error(
        "this account may not {} in namespace {namespace}; grant it that (the role is in \
         deploy/k8s/components/chaos/rbac.yaml), or run with the account everring-chaos",
        missing.join(", nor ")
    )]
    Rights {
        /// What it may not do.
        missing: Vec<String>,
        /// Where.
        namespace: String,
    },
    /// A pod's name is not that of one of the set's pods.
    #[error("{pod} is no pod of the StatefulSet {set}: such a pod is called {set}-N; correct EVERRING_STATEFUL_SET")]
    NotItsPod {
        /// The set.
        set: String,
        /// The pod.
        pod: String,
    },
    /// There is no such namespace, or none of our pods in it.
    #[error(
        "there is no pod labelled {} in namespace {namespace}; apply deploy/k8s there, or name its namespace with \
         --namespace",
        crate::PROGRAM
    )]
    NobodyThere {
        /// Where it was looked.
        namespace: String,
    },
    /// The Lease object is missing.
    #[error("there is no Lease {name} in namespace {namespace}; apply deploy/k8s, which has it")]
    NoLease {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
}

/// How long one call to the API may take.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(5);

/// Carries a call out within [`CALL_MAX`].
pub(crate) async fn call<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(CALL_MAX, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => {
            Err(ClusterError::Refused { status: status.code, message: status.message.clone() })
        }
        Ok(Err(error)) => Err(ClusterError::Api(Box::new(error))),
        Err(_) => Err(ClusterError::Silent(CALL_MAX)),
    }
}

impl ClusterError {
    /// The HTTP status that the API answered with, if it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClusterError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
