//! The fleet on Kubernetes, as the chaos monkey sees it: its pods are the targets, deleting and evicting them are the
//! faults, a Lease lets one monkey act at a time, and each fault is an Event on its victim. And for a storage node:
//! whether its pod, told to end, was scaled away.
//!
//! - [`pods`] is pure: from pods to targets, with a place for each replica of a Deployment whose pods change names.
//! - [`lease`] is pure: when a Lease is ours, and until when we may act on it.
//! - [`KubernetesFleet`] is the shell: it watches the pods, keeps the Lease, and makes the faults.
//!
//! What it is *not*: it decides no fault (the monkey does), and it needs no more rights than `deploy/k8s` gives it:
//! the monkey gets, lists, watches and deletes pods, creates evictions and events, and has its own Lease; a storage
//! node gets its own StatefulSet; all in one namespace.
//!
//! Invariants:
//! - a pod without the opt-in label is never touched; that is looked at again right before the fault, on the very pod
//!   (by its UID) that was chosen;
//! - no pod is touched without an Event written before;
//! - without a Lease renewed a short time ago no targets are shown, so nobody is struck (dead-man switch).
//!
//! Sources: the Kubernetes API (Lease, Eviction, preconditions of deletion, events.k8s.io/v1); client-go's election
//! (a foreign renewal is timed by one's own clock, never by the time it states).

mod error;
mod events;
mod faults;
mod fleet;
pub mod lease;
mod lease_keeper;
pub mod pods;
mod rights;
mod scaling;

pub use error::ClusterError;
pub use fleet::{KubernetesFleet, Settings};
pub use scaling::is_scaled_away;

/// A pod with this label may be struck.
pub const OPT_IN_LABEL: &str = "everring.dev/chaos";
/// The value that says so; any other value, and none, says no.
pub const OPT_IN_VALUE: &str = "allowed";
/// While the monkey's Lease has this annotation, no fault begins. Its value says who halted it, and why.
pub const HALT_ANNOTATION: &str = "everring.dev/halt";
/// All pods that run the program have this label.
pub const PROGRAM: &str = "app.kubernetes.io/name=everring";
/// The label that names a pod's role.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
