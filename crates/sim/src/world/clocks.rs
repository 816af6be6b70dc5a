//! Clocks that are wrong, and a disk that is slow.

use std::time::Duration;

use stdx::{Instant, Prng};

use super::{Happening, World};
use crate::clock::{Clock, either_way_ms};

impl<C: chord::Rules> World<C> {
    /// Gives the nodes the clocks of this seed, from a generator of its own: runs whose clocks are right are what they
    /// are without.
    pub(super) fn draw_clocks(&mut self, seed: u64) {
        self.clock_prng = Prng::from_seed(seed).fork();
        for node in &mut self.nodes {
            node.clock = Clock::draw(self.swarm.timing, &mut self.clock_prng).ahead_by(node.clock.ahead_ms);
        }
    }

    /// What a node's monotonic clock shows.
    pub(super) fn now_at(&self, node: usize) -> Instant {
        self.nodes[node].clock.now(self.now)
    }

    /// What a node's own wall clock shows.
    pub(super) fn wall_ms_of(&self, node: usize) -> u64 {
        self.nodes[node].clock.wall_ms(self.wall_ms())
    }

    /// What the wall clock shows that is ahead of all.
    pub(super) fn wall_ms_max(&self) -> u64 {
        self.wall_ms() + self.swarm.clocks_apart.as_millis() as u64
    }

    pub(super) fn plan_jump(&mut self) {
        let Some(after) = self.swarm.timing.jump_after(&mut self.clock_prng) else { return };
        self.at(after, Happening::ClockJump);
    }

    /// Some node's wall clock is set anew, forwards or back.
    pub(super) fn jump(&mut self) {
        if self.calm {
            return;
        }
        self.plan_jump();
        let node = self.clock_prng.index(self.nodes.len());
        let ahead_ms = either_way_ms(self.swarm.clocks_apart, &mut self.clock_prng);
        self.counts.clock_jumps += 1;
        self.log.push(self.now, format_args!("the clock of node {} is ahead by {ahead_ms} ms", node + 1));
        self.nodes[node].clock.ahead_ms = ahead_ms;
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
