//! Whether a pod of a StatefulSet is to come back when it ends, or was scaled away.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Api;

use crate::error::{ClusterError, call};

/// Whether `set`, in our service account's namespace, is to have fewer pods than `pod` has come to.
///
/// False for a set that is being deleted or is gone: then the whole fleet goes, and nobody is left to hold anything.
///
/// # Errors
/// See [`ClusterError`]; also when `pod` does not have the name of one of the set's pods.
pub async fn is_scaled_away(set: &str, pod: &str) -> Result<bool, ClusterError> {
    let config = kube::Config::infer().await.map_err(|error| ClusterError::NotConfigured(Box::new(error)))?;
    let namespace = config.default_namespace.clone();
    let client = kube::Client::try_from(config).map_err(|error| ClusterError::NotConfigured(Box::new(error)))?;
    asked(&Api::namespaced(client, &namespace), set, pod).await
}

async fn asked(sets: &Api<StatefulSet>, set: &str, pod: &str) -> Result<bool, ClusterError> {
    let Some(ordinal) = ordinal(set, pod) else {
        return Err(ClusterError::NotItsPod { set: set.to_owned(), pod: pod.to_owned() });
    };
    match call(sets.get(set)).await {
        Ok(set) => Ok(is_beyond(&set, ordinal)),
        Err(error) if error.status() == Some(404) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The number in a pod's name, which the controller of sets gives it.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok().filter(|ordinal| *ordinal >= 0)
}

fn is_beyond(set: &StatefulSet, ordinal: i32) -> bool {
    let Some(spec) = &set.spec else { return false };
    let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    // A set that does not say how many it has, has one.
    let pods = spec.replicas.unwrap_or(1);
    set.metadata.deletion_timestamp.is_none() && ordinal >= first.saturating_add(pods)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{StatefulSetOrdinals, StatefulSetSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn set(replicas: Option<i32>, start: Option<i32>) -> StatefulSet {
        let ordinals = start.map(|start| StatefulSetOrdinals { start: Some(start) });
        let spec = StatefulSetSpec { replicas, ordinals, ..StatefulSetSpec::default() };
        StatefulSet { spec: Some(spec), ..StatefulSet::default() }
    }

    #[test]
    fn a_pod_is_scaled_away_when_its_number_is_beyond_the_set() {
        assert!(is_beyond(&set(Some(5), None), 5));
        assert!(!is_beyond(&set(Some(5), None), 4));
        assert!(is_beyond(&set(Some(0), None), 0));
        assert!(!is_beyond(&set(Some(5), Some(3)), 7));
        assert!(is_beyond(&set(Some(5), Some(3)), 8));
        assert!(is_beyond(&set(None, None), 1));
    }

    #[test]
    fn a_set_that_is_deleted_scales_nobody_away() {
        let mut deleted = set(Some(0), None);
        deleted.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        assert!(!is_beyond(&deleted, 0));
    }

    #[test]
    fn the_number_is_the_end_of_the_name() {
        assert_eq!(ordinal("everring-storage-node", "everring-storage-node-12"), Some(12));
        for other in [
            "everring-storage-node",
            "everring-storage-node-",
            "everring-storage-node--1",
            "n1",
            "everring-storage-node-x",
        ] {
            assert_eq!(ordinal("everring-storage-node", other), None, "{other}");
        }
    }
}
