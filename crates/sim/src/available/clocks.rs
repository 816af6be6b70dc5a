//! Clocks that are wrong, and a disk that is slow.

use std::time::Duration;

use stdx::Instant;

use super::world::{Happening, World};
use crate::clock::either_way_ms;

impl World {
    /// What a node's monotonic clock shows.
    pub(super) fn now_at(&self, node: usize) -> Instant {
        self.nodes[node].clock.now(self.now)
    }

    /// What a node's own wall clock shows.
    pub(super) fn wall_ms_of(&self, node: usize) -> u64 {
        self.nodes[node].clock.wall_ms(self.wall_ms())
    }

    pub(super) fn plan_jump(&mut self) {
        let Some(after) = self.swarm.timing.jump_after(&mut self.clock_prng) else { return };
        self.at(after, Happening::ClockJump);
    }

    /// The wall clock of some node, or of some client's gateway, is set anew, forwards or back.
    pub(super) fn jump(&mut self) {
        if self.calm {
            return;
        }
        self.plan_jump();
        let ahead_ms = either_way_ms(self.swarm.skew_max, &mut self.clock_prng);
        self.counts.clock_jumps += 1;
        if self.clock_prng.one_in(3) {
            let client = self.clock_prng.index(self.clients.len());
            self.log.push(self.now, format_args!("the clock of client {client} is ahead by {ahead_ms} ms"));
            self.clients[client].skew_ms = ahead_ms;
        } else {
            let node = self.clock_prng.index(self.nodes.len());
            self.log.push(self.now, format_args!("the clock of node {} is ahead by {ahead_ms} ms", node + 1));
            self.nodes[node].clock.ahead_ms = ahead_ms;
        }
    }

    /// Clocks run right from now on, wherever they stand, and disks are alike.
    pub(super) fn settle_clocks(&mut self) {
        self.swarm.timing.slow_disk = None;
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.clock.run_right(now));
    }

    /// How long a node's next sync takes.
    pub(super) fn sync_length(&mut self, node: usize) -> Duration {
        self.swarm.timing.sync_length(node, self.swarm.sync_max, &mut self.prng)
    }
}
