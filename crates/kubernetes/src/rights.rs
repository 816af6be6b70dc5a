//! Whether this account may do what the monkey does: asked at the start, so that a missing right is a sentence then and
//! not a fault that fails at night.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use crate::error::{ClusterError, call};

/// Verb, group, resource, subresource; and the same for people.
const NEEDED: &[(&str, &str, &str, &str, &str)] = &[
    ("get", "", "pods", "", "get pods"),
    ("list", "", "pods", "", "list pods"),
    ("watch", "", "pods", "", "watch pods"),
    ("delete", "", "pods", "", "delete pods"),
    ("create", "", "pods", "eviction", "evict pods"),
    ("create", "events.k8s.io", "events", "", "create events"),
    ("get", "coordination.k8s.io", "leases", "", "get its lease"),
    ("update", "coordination.k8s.io", "leases", "", "update its lease"),
];

/// Asks the API about each right.
pub(crate) async fn check(client: &kube::Client, namespace: &str, lease: &str) -> Result<(), ClusterError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (verb, group, resource, subresource, words) in NEEDED {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let attributes = ResourceAttributes {
            namespace: text(namespace),
            verb: text(verb),
            group: Some((*group).to_owned()),
            resource: text(resource),
            subresource: text(subresource),
            name: (*resource == "leases").then(|| lease.to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = call(reviews.create(&PostParams::default(), &review)).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            missing.push((*words).to_owned());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(ClusterError::Rights { missing, namespace: namespace.to_owned() })
}
