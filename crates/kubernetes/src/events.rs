//! What the monkey tells the cluster: an Event on each victim before it is struck, and one for each verdict.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use crate::error::{ClusterError, call};

/// The annotations of our Events.
const RUN_ID: &str = "everring.dev/run-id";
const TRACE_ID: &str = "everring.dev/trace-id";
/// Who reports.
const CONTROLLER: &str = "everring.dev/chaos";
/// The API takes no longer note.
const NOTE_MAX: usize = 1_000;

/// What is told.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    /// About which pod: name and UID.
    pub pod: (String, String),
    /// One word in CamelCase (`ChaosKill`).
    pub reason: String,
    /// A verb in CamelCase (`Kill`).
    pub action: &'static str,
    /// Sentences for people.
    pub text: String,
    /// The run.
    pub run_id: String,
    /// The trace, if there is one.
    pub trace_id: Option<String>,
    /// Whether it is worth a look.
    pub warning: bool,
}

/// Where Events are written.
#[derive(Clone)]
pub(crate) struct Events {
    api: Api<Event>,
    namespace: String,
    reporter: String,
}

impl Events {
    pub fn new(client: kube::Client, namespace: &str, reporter: &str) -> Events {
        Events {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            reporter: reporter.to_owned(),
        }
    }

    /// Writes one Event.
    pub async fn write(&self, note: Note) -> Result<(), ClusterError> {
        let now = MicroTime(Timestamp::now());
        let event = self.event(note, now);
        call(self.api.create(&PostParams::default(), &event)).await.map(drop)
    }

    fn event(&self, note: Note, now: MicroTime) -> Event {
        let mut annotations = BTreeMap::from([(RUN_ID.to_owned(), note.run_id)]);
        annotations.extend(note.trace_id.map(|id| (TRACE_ID.to_owned(), id)));
        let (pod, uid) = note.pod;
        let text: String = note.text.chars().take(NOTE_MAX).collect();
        Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{pod}-")),
                namespace: Some(self.namespace.clone()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            action: Some(note.action.to_owned()),
            event_time: Some(now),
            note: Some(text),
            reason: Some(note.reason),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod),
                namespace: Some(self.namespace.clone()),
                uid: Some(uid),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.reporter.clone()),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}
