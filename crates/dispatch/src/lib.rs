//! Which replica is asked when: one request's attempts, failovers and hedges, and the budget that they are paid from.
//!
//! [`Dispatch`] is a pure state machine for one request; [`budget`] is what many requests share. The gateway drives
//! them over sockets, the simulator over its own network, so that retries are simulated as they are.
//!
//! What this crate is *not*: it sends nothing, has no clock, and knows neither HTTP nor what a key's value is. Safety
//! never depends on it: any replica may coordinate, and a repeated write acts once by its request id.
//!
//! Invariants: exactly one [`Output::Finish`], at or before the first input after the deadline; a write ends as
//! [`Verdict::Unknown`] only when an attempt may have been taken; never two unanswered attempts at one node.
//!
//! Sources: Dean and Barroso, "The Tail at Scale" (2013), for hedged requests; retry budgets after Finagle and Linkerd.

mod answer;
pub mod budget;
mod dispatch;

pub use answer::{Answer, Manner, Told};
pub use dispatch::{Dispatch, Failure, Input, Output, Plan, Verdict, WAITING_MAX};
