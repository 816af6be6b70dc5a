//! The model check of the registers: every way that a few operations on a few replicas can go.

pub mod explore;
mod history;
pub mod scopes;
mod still;

pub use scopes::{Act, Grain, Kind, Prior, Scope, act};
