//! What one node knows of a key: for explanations. It decides nothing, and is told as it is, whether or not it is on
//! disk yet, or held by anybody else.

use membership::{Epoch, NodeId};
use replication::{RegisterKey, RequestId};

use crate::replica::Replica;
use crate::version::{Context, Dot};

/// Dots that are named at most, those stamped last.
pub const NAMED_MAX: usize = 64;

/// What one node knows of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The epoch of the node's view.
    pub epoch: Epoch,
    /// Whether it is a home of the key in that view.
    pub home: bool,
    /// Whether it counts there: whether it has all that it ever said that it has, or all that a majority had.
    pub counts: bool,
    /// All that it has seen of the key; empty for a key that it does not hold.
    pub context: Context,
    /// Which writes are alive there: sorted, of more than [`NAMED_MAX`] the last.
    pub alive: Vec<Dot>,
    /// How many are alive.
    pub alive_count: u64,
    /// Whether it holds that the key was deleted, and nothing else.
    pub tombstone: bool,
    /// Whether it knows that a majority of the homes holds all this.
    pub stable: bool,
    /// Homes that may lack some of its own stamps of the key.
    pub owes: Vec<NodeId>,
    /// Writes of the key that it keeps for the homes.
    pub hints: u64,
    /// How long ago its last comparison with each other home ended, milliseconds; who is not here was not compared with
    /// since the node's start.
    pub compared_ms: Vec<(NodeId, u64)>,
}

impl Replica {
    /// What is known of the key here.
    pub fn explain(&self, key: &RegisterKey) -> Known {
        let held = self.table.get(key);
        let homes: Vec<NodeId> = self.sets_of(key.position).iter().filter(|home| *home != self.me).collect();
        let mut known = Known {
            epoch: self.view.epoch,
            home: self.is_home(key.position),
            counts: self.counts_at(key.position),
            hints: self.hints.values().filter(|hint| hint.write.key == *key).count() as u64,
            ..Known::default()
        };
        known.compared_ms = homes
            .iter()
            .filter_map(|home| {
                let ended = self.peers.get(home)?.pass_ended?;
                Some((*home, self.now.since(ended).as_millis() as u64))
            })
            .collect();
        let Some(held) = held else { return known };
        let alive = &held.state.entries;
        known.alive_count = alive.len() as u64;
        known.alive = alive.iter().skip(alive.len().saturating_sub(NAMED_MAX)).map(|entry| entry.dot).collect();
        known.context = held.state.context.clone();
        known.tombstone = held.state.is_tombstone();
        known.stable = self.is_stable(key);
        let own = held.state.context.vector.get(self.actor);
        let may_lack = |home: &NodeId| own > 0 && !self.peers.get(home).is_some_and(|peer| peer.holds(key, own));
        known.owes = homes.into_iter().filter(may_lack).collect();
        known
    }

    /// The keys of which this node keeps a write with this request as a hint.
    pub fn hinted(&self, request: RequestId) -> impl Iterator<Item = &RegisterKey> {
        self.hints.values().filter(move |hint| hint.write.request == request).map(|hint| &hint.write.key)
    }
}
