//! The simulated network: who loses, repeats and delays what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use membership::NodeId;
use stdx::{Instant, Prng};

use super::{Kind, Plan};
use crate::message::{Body, CallId, Envelope};

/// The messages under way, in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Network {
    under_way: BTreeMap<(Instant, u64), Envelope>,
    sent: u64,
    /// How many transmissions of a question and its answers were lost. An accurate run loses at most all but one of the
    /// attempts, so that silence means death.
    lost: BTreeMap<CallId, u32>,
    /// Nodes that hear and are heard by nobody, in a wild run.
    pub(super) cut: BTreeSet<NodeId>,
}

/// The longest time for which a late copy may wander.
const LATE_MAX: Duration = Duration::from_millis(3000);

impl Network {
    pub(super) fn send(&mut self, now: Instant, envelope: Envelope, plan: &Plan, quiet: bool, prng: &mut Prng) {
        // All draws are made for every message, so that a lost one does not shift the rest of the run.
        let delay = Duration::from_nanos(1 + prng.below(plan.delay_max.as_nanos() as u64));
        let late = Duration::from_nanos(prng.below(LATE_MAX.as_nanos() as u64));
        let unlucky = !quiet && plan.loss_one_in > 0 && prng.one_in(plan.loss_one_in);
        let repeated = !quiet && plan.repeat_one_in > 0 && prng.one_in(plan.repeat_one_in);
        if self.cut.contains(&envelope.from.node) != self.cut.contains(&envelope.to.node) {
            return;
        }
        if repeated {
            self.put(now + late, envelope.clone());
        }
        if unlucky && self.may_lose(&envelope, plan) {
            return;
        }
        self.put(now + delay, envelope);
    }

    fn may_lose(&mut self, envelope: &Envelope, plan: &Plan) -> bool {
        let call = match envelope.body {
            Body::Notify => return true,
            Body::Pull { call } | Body::Pulled { call, .. } | Body::Ping { call } | Body::Pong { call } => call,
            Body::FindSuccessor { .. } | Body::Found { .. } => return true,
        };
        let lost = self.lost.entry(call).or_insert(0);
        *lost += 1;
        plan.kind == Kind::Wild || *lost < plan.config.attempts
    }

    fn put(&mut self, at: Instant, envelope: Envelope) {
        self.sent += 1;
        self.under_way.insert((at, self.sent), envelope);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.under_way.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn deliver(&mut self, now: Instant) -> Option<Envelope> {
        let key = *self.under_way.keys().next()?;
        if key.0 > now { None } else { self.under_way.remove(&key) }
    }
}
