//! What one gateway process holds, shared by its workers. Everything in it may be lost at any moment.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::consul::Consul;
use client::fleet::Fleet;
use membership::{BucketId, Epoch, KeyHasher, NodeId};
use replication::{RegisterKey, RequestId};
use runtime::Clock;
use stdx::{Instant, Prng};
use tokio::sync::watch;
use wire::http::ProblemCode;

use crate::catalog::Catalog;
use crate::contexts::ContextKey;
use crate::cursors::CursorKey;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::problem::Refuse;
use crate::router_client::RouterClient;
use crate::statuses::Statuses;
use crate::token::TokenKey;
use crate::watches::Watches;
use dispatch::budget::{RecentLatency, RetryBudget};

/// Requests in progress at most; more are refused with `overloaded` before anything is done for them.
pub const IN_FLIGHT_MAX: usize = 1_024;
/// How long a node that let a hedge overtake it is asked last.
const DOUBT: Duration = Duration::from_secs(1);
/// Recent writes whose keys are known by request id.
const RECENT_WRITES_MAX: usize = 4_096;

/// One gateway.
pub struct Gateway {
    /// The storage nodes.
    pub nodes: Arc<dyn Nodes>,
    /// The newest fleet known.
    pub fleet: watch::Receiver<Arc<Fleet>>,
    /// Finds keys on the ring.
    pub hasher: KeyHasher,
    /// Writes and checks session tokens.
    pub tokens: TokenKey,
    /// Writes and checks the `ETag`s of available keys.
    pub contexts: ContextKey,
    /// Writes and checks the cursors of listings.
    pub cursors: CursorKey,
    /// The machine's clocks.
    pub clock: Clock,
    /// Which buckets there are.
    pub catalog: Catalog,
    /// For lookups by fingers; none when there is no discovery to find a router in.
    pub router: Option<RouterClient>,
    /// Asks nodes how far they are; none where they are not asked.
    pub statuses: Option<Statuses>,
    /// Tells the newest view; none when there is no discovery.
    pub views: Option<Arc<dyn Views>>,
    /// Figures.
    pub metrics: Metrics,
    /// Which keys are watched here.
    pub watches: Watches,
    /// The latest Lamport time in any answer about an available key.
    latest: AtomicU64,
    in_flight: AtomicUsize,
    phase: AtomicU8,
    hedging: Mutex<Hedging>,
    recent: Mutex<RecentWrites>,
}

/// What requests learn from one another about retries.
#[derive(Debug)]
pub struct Hedging {
    /// Pays for retries.
    pub budget: RetryBudget,
    /// Sets the hedge delay.
    pub latency: RecentLatency,
    /// Until when a node is asked last.
    doubtful: BTreeMap<NodeId, Instant>,
    prng: Prng,
}

/// How far a process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// In service.
    Serving = 0,
    /// Not ready any more, but what comes is still served.
    Draining = 1,
    /// New requests are refused with `draining`.
    Stopping = 2,
}

/// Who knows which view was agreed on last.
pub trait Views: Send + Sync {
    /// Its epoch; none if it cannot be told now.
    fn newest(&self) -> Pin<Box<dyn Future<Output = Option<Epoch>> + Send + '_>>;
}

impl Views for Consul {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Option<Epoch>> + Send + '_>> {
        Box::pin(async { client::ring_changes::read(self).await.ok().map(|view| view.epoch) })
    }
}

/// What a gateway is made of.
pub struct Parts {
    /// See [`Gateway::nodes`].
    pub nodes: Arc<dyn Nodes>,
    /// See [`Gateway::fleet`].
    pub fleet: watch::Receiver<Arc<Fleet>>,
    /// The cluster's secret.
    pub secret: String,
    /// See [`Gateway::router`].
    pub router: Option<RouterClient>,
    /// See [`Gateway::statuses`].
    pub statuses: Option<Statuses>,
    /// See [`Gateway::views`].
    pub views: Option<Arc<dyn Views>>,
    /// See [`Gateway::metrics`].
    pub metrics: Metrics,
    /// Draws pauses.
    pub seed: u64,
}

impl Gateway {
    /// A gateway in service.
    pub fn new(parts: Parts) -> Gateway {
        let hedging = Hedging {
            budget: RetryBudget::default(),
            latency: RecentLatency::default(),
            doubtful: BTreeMap::new(),
            prng: Prng::from_seed(parts.seed),
        };
        Gateway {
            nodes: parts.nodes,
            fleet: parts.fleet,
            hasher: KeyHasher::new(parts.secret.as_bytes()),
            tokens: TokenKey::new(parts.secret.as_bytes()),
            contexts: ContextKey::new(parts.secret.as_bytes()),
            cursors: CursorKey::new(parts.secret.as_bytes()),
            clock: Clock::start(),
            catalog: Catalog::default(),
            router: parts.router,
            statuses: parts.statuses,
            views: parts.views,
            metrics: parts.metrics,
            watches: Watches::default(),
            latest: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            phase: AtomicU8::new(Phase::Serving as u8),
            hedging: Mutex::new(hedging),
            recent: Mutex::new(RecentWrites::default()),
        }
    }

    /// The fleet as it is known now.
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.borrow())
    }

    /// Refuses what claims to have seen a view that the fleet never had: the fleet's state was set back since then, and
    /// what was seen may be gone. A newer view than ours is looked up in discovery; while that is away, it is believed.
    ///
    /// # Errors
    /// `bad-token`.
    pub async fn check_past(&self, epoch: Epoch, deadline: Instant) -> Result<(), Refuse> {
        if epoch <= self.fleet().view.epoch {
            return Ok(());
        }
        let Some(views) = &self.views else { return Ok(()) };
        let asked = tokio::time::timeout(self.clock.until(deadline) / 4, views.newest());
        match asked.await {
            Ok(Some(newest)) if newest < epoch => Err(Refuse::new(
                ProblemCode::BadToken,
                format!(
                    "the Everring-Token is from a view ({epoch}) that this fleet has not come to ({newest}): its state \
                     was set back since; what the token stands for may be gone, so begin without one"
                ),
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The register of a key.
    pub fn register(&self, bucket: BucketId, key: &str) -> RegisterKey {
        let position = self.hasher.position(bucket, key.as_bytes());
        RegisterKey { position, bucket, key: Bytes::copy_from_slice(key.as_bytes()) }
    }

    /// Takes a place among the requests in progress.
    ///
    /// # Errors
    /// `overloaded`, or `draining` once the process is stopping; nothing was done.
    pub fn enter(&self) -> Result<Place<'_>, Refuse> {
        if self.phase() == Phase::Stopping {
            let detail = "this gateway is about to stop; send the request to another one";
            return Err(Refuse::new(ProblemCode::Draining, detail).header("connection", "close"));
        }
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let place = Place { gateway: self };
        if before >= IN_FLIGHT_MAX {
            self.metrics.shed.inc();
            let detail = format!("{IN_FLIGHT_MAX} requests are in progress at this gateway; try again after a pause");
            return Err(Refuse::new(ProblemCode::Overloaded, detail));
        }
        self.metrics.in_flight.set(i64::try_from(before + 1).unwrap_or(i64::MAX));
        Ok(place)
    }

    /// How late it is, as far as this gateway has heard: a hint, so that the write of a session that has seen nothing
    /// is seldom found to be behind.
    pub fn latest(&self) -> u64 {
        self.latest.load(Ordering::Relaxed)
    }

    /// Notes the time of an answer.
    pub fn note_latest(&self, time: u64) {
        self.latest.fetch_max(time, Ordering::Relaxed);
    }

    /// Requests in progress.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// How far the process is on its way out.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Goes on to a later phase; an earlier one is ignored.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// The request memory by id.
    pub fn recent(&self) -> MutexGuard<'_, RecentWrites> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What requests have learnt; held only for a moment, never across a wait.
    pub fn hedging(&self) -> MutexGuard<'_, Hedging> {
        self.hedging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place among those in progress; given back when dropped.
pub struct Place<'a> {
    gateway: &'a Gateway,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let before = self.gateway.in_flight.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "more requests left than came in");
        self.gateway.metrics.in_flight.set(i64::try_from(before - 1).unwrap_or(i64::MAX));
    }
}

impl Hedging {
    /// A node was silent while another answered.
    pub fn doubt(&mut self, node: NodeId, now: Instant) {
        self.doubtful.insert(node, now + DOUBT);
    }

    /// A node answered.
    pub fn trust(&mut self, node: NodeId) {
        self.doubtful.remove(&node);
    }

    /// Whether a node was silent a moment ago.
    pub fn is_doubtful(&self, node: NodeId, now: Instant) -> bool {
        self.doubtful.get(&node).is_some_and(|until| now < *until)
    }

    /// Chance for one request.
    pub fn chance(&mut self) -> Prng {
        self.prng.fork()
    }
}

/// Which key a recent write named, by request id: a convenience for clients that ask this same gateway.
#[derive(Debug, Default)]
pub struct RecentWrites {
    keys: BTreeMap<RequestId, (String, String)>,
    /// The ids in the order in which they came; the oldest is forgotten first.
    order: VecDeque<RequestId>,
}

impl RecentWrites {
    /// Remembers a write.
    pub fn remember(&mut self, id: RequestId, bucket: &str, key: &str) {
        if self.keys.insert(id, (bucket.to_owned(), key.to_owned())).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > RECENT_WRITES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }

    /// The bucket and key that the write named.
    pub fn find(&self, id: RequestId) -> Option<(String, String)> {
        self.keys.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_writes_are_bounded() {
        let mut recent = RecentWrites::default();
        for id in 0..=RECENT_WRITES_MAX as u128 {
            recent.remember(RequestId(id), "records", "k");
            recent.remember(RequestId(id), "records", "k");
        }
        assert_eq!(recent.find(RequestId(0)), None, "the oldest is forgotten");
        assert!(recent.find(RequestId(1)).is_some());
        assert_eq!(recent.keys.len(), RECENT_WRITES_MAX);
    }
}
