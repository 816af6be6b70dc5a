//! From pods to targets. Pure.
//!
//! A pod of a StatefulSet has a name that returns; one of a Deployment has not, so each of its replicas is given a
//! place (`everring-gateway/1`), and the pod that replaces a deleted one takes its place over. So "is the victim back?"
//! is one question for both.

use std::collections::BTreeMap;

use chaos::{STORAGE_NODE, Target, TargetState};
use k8s_openapi::api::core::v1::Pod;

use crate::{COMPONENT_LABEL, OPT_IN_LABEL, OPT_IN_VALUE};

/// Which pod has which place.
#[derive(Clone, Debug, Default)]
pub struct Places {
    taken: BTreeMap<String, Place>,
}

/// A pod in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pod's name.
    pub pod: String,
    /// The pod's UID: names return, this does not.
    pub uid: String,
}

/// Where a storage node serves HTTP if its pod does not name the port.
const HTTP_PORT: i32 = 8610;

impl Places {
    /// Seats all living pods, and answers with the targets.
    pub fn targets(&mut self, pods: &[Pod]) -> Vec<Target> {
        let living: Vec<&Pod> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        self.taken.retain(|_, place| living.iter().any(|pod| uid(pod) == place.uid));
        let mut targets = Vec::new();
        for pod in &living {
            let place = self.seat(pod);
            targets.push(target(pod, place));
        }
        // A storage node on its way out is still a member that is not ready.
        let leaving = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some() && role(pod) == STORAGE_NODE);
        for pod in leaving.filter(|pod| !living.iter().any(|other| name(other) == name(pod))) {
            let gone = Target { state: TargetState::Down, http: None, life: None, ..target(pod, name(pod).to_owned()) };
            targets.push(gone);
        }
        targets
    }

    /// The pod that has a place now.
    pub fn of(&self, target: &str) -> Option<&Place> {
        self.taken.get(target)
    }

    fn seat(&mut self, pod: &Pod) -> String {
        let place = Place { pod: name(pod).to_owned(), uid: uid(pod).to_owned() };
        if let Some((seat, _)) = self.taken.iter().find(|(_, known)| **known == place) {
            return seat.clone();
        }
        let seat = match replica_set(pod) {
            None => place.pod.clone(),
            Some(_) => {
                let group = format!("everring-{}", role(pod));
                let numbered = |number: usize| format!("{group}/{number}");
                let free = (1..).map(numbered).find(|seat| !self.taken.contains_key(seat));
                free.unwrap_or_else(|| place.pod.clone())
            }
        };
        self.taken.insert(seat.clone(), place);
        seat
    }
}

fn target(pod: &Pod, place: String) -> Target {
    let status = pod.status.as_ref();
    let ready = status.and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    let address = status.and_then(|status| status.pod_ip.clone()).filter(|address| !address.is_empty());
    let http = address.map(|address| match address.contains(':') {
        true => format!("[{address}]:{}", http_port(pod)),
        false => format!("{address}:{}", http_port(pod)),
    });
    let allowed = label(pod, OPT_IN_LABEL) == Some(OPT_IN_VALUE);
    let role = role(pod).to_owned();
    // A storage node's instance is its name with its incarnation, which it tells itself.
    let instance_id = (role != STORAGE_NODE).then(|| uid(pod).to_owned());
    let state = if ready { TargetState::Running } else { TargetState::Starting };
    Target { name: place, role, life: Some(life(uid(pod))), instance_id, opted_in: allowed, http, state }
}

/// Tells one pod from another of the same place, as a number.
fn life(uid: &str) -> u64 {
    // FNV-1a: the places of one fleet are few, and a collision would only delay the next fault.
    uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether a pod agreed to be struck.
pub fn opted_in(pod: &Pod) -> bool {
    label(pod, OPT_IN_LABEL) == Some(OPT_IN_VALUE)
}

/// A pod's UID.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn role(pod: &Pod) -> &str {
    label(pod, COMPONENT_LABEL).unwrap_or_default()
}

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn replica_set(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.kind == "ReplicaSet").map(|owner| owner.name.as_str())
}

fn http_port(pod: &Pod) -> i32 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.find(|port| port.name.as_deref() == Some("http")).map_or(HTTP_PORT, |port| port.container_port)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, role: &str, owner: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "uid": uid,
                "labels": {"app.kubernetes.io/component": role, "everring.dev/chaos": "allowed"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "o"}],
            },
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9000}]}]},
            "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .expect("a pod")
    }

    fn leaving(mut pod: Pod) -> Pod {
        let time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
        pod.metadata.deletion_timestamp = Some(time);
        pod
    }

    fn names(targets: &[Target]) -> Vec<&str> {
        targets.iter().map(|target| target.name.as_str()).collect()
    }

    #[test]
    fn the_pod_that_replaces_another_takes_its_place() {
        let mut places = Places::default();
        let (a, b) = (pod("gw-x1", "u1", "gateway", "ReplicaSet"), pod("gw-x2", "u2", "gateway", "ReplicaSet"));
        let first = places.targets(&[a.clone(), b.clone()]);
        assert_eq!(names(&first), ["everring-gateway/1", "everring-gateway/2"]);
        // The replacement is there while its predecessor is still leaving.
        let c = pod("gw-x3", "u3", "gateway", "ReplicaSet");
        let second = places.targets(&[leaving(a), b, c]);
        assert_eq!(names(&second), ["everring-gateway/2", "everring-gateway/1"]);
        assert_eq!(places.of("everring-gateway/1").map(|place| place.uid.as_str()), Some("u3"));
        let life =
            |targets: &[Target], name: &str| targets.iter().find(|target| target.name == name).expect("seen").life;
        assert_ne!(life(&first, "everring-gateway/1"), life(&second, "everring-gateway/1"));
        assert_eq!(life(&first, "everring-gateway/2"), life(&second, "everring-gateway/2"));
    }

    #[test]
    fn a_storage_node_keeps_its_name_and_is_missed_while_it_leaves() {
        let mut places = Places::default();
        let node = pod("everring-storage-node-0", "u1", STORAGE_NODE, "StatefulSet");
        let seen = places.targets(std::slice::from_ref(&node));
        assert_eq!(names(&seen), ["everring-storage-node-0"]);
        assert_eq!((seen[0].http.as_deref(), seen[0].instance_id.clone()), (Some("10.0.0.7:9000"), None));
        let seen = places.targets(&[leaving(node)]);
        assert_eq!((names(&seen), seen[0].state), (vec!["everring-storage-node-0"], TargetState::Down));
        assert_eq!((seen[0].http.clone(), places.of("everring-storage-node-0")), (None, None));
    }

    #[test]
    fn only_the_exact_label_opts_in() {
        let mut stranger = pod("everring-storage-node-0", "u1", STORAGE_NODE, "StatefulSet");
        assert!(opted_in(&stranger));
        for value in [Some("denied"), Some(""), Some("Allowed"), None] {
            let labels = stranger.metadata.labels.get_or_insert_default();
            match value {
                Some(value) => labels.insert(OPT_IN_LABEL.to_owned(), value.to_owned()),
                None => labels.remove(OPT_IN_LABEL),
            };
            assert!(!opted_in(&stranger), "{value:?}");
            assert!(!Places::default().targets(std::slice::from_ref(&stranger))[0].opted_in, "{value:?}");
        }
    }
}
