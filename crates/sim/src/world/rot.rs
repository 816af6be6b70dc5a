//! Disks that spoil what they hold.

use std::time::Duration;

use store::SegmentId;

use super::{Happening, World};
use crate::invariants::Violation;

/// Bytes of its log that a node reads again at a time.
const SCRUB_BYTES: u64 = 2_048;

/// Damage that is not mended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotten {
    node: usize,
    segment: SegmentId,
}

impl<C: chord::Rules> World<C> {
    /// A bit flips in something durable on one node's disk. Never on two nodes before the first is mended, nor while
    /// another's disk is lost: no arc may lose a majority.
    pub(super) fn rot(&mut self) {
        self.plan_fault(self.swarm.rot_every, |_| Happening::Rot);
        if self.calm || !self.is_mended() || self.lost_member().is_some() {
            return;
        }
        let node = self.any_node();
        let at = &mut self.nodes[node];
        let Some(running) = at.running.as_mut() else { return };
        let (sequence, segment) = match running.log.rot(&at.disk, &mut self.prng) {
            Ok(Some(rotted)) => rotted,
            Ok(None) => return,
            Err(_) => return self.disk_failed(node),
        };
        self.counts.faults += 1;
        self.counts.bits_rotted += 1;
        self.log.push(self.now, format_args!("a bit of record {sequence} of node {} flips", node + 1));
        self.rotten = Some(Rotten { node, segment });
        if self.prng.one_in(3) {
            // A restart finds it before any scrubbing does.
            let after = Duration::from_micros(self.prng.below(20_000));
            self.at(after, Happening::LosePower { node });
        }
    }

    /// A node reads some of its log again, and mends what it finds.
    pub(super) fn scrub(&mut self, node: usize, incarnation: u64) {
        if self.set_aside_own(node, incarnation, Happening::Scrub { node, incarnation }) {
            return;
        }
        self.at(self.swarm.scrub_every, Happening::Scrub { node, incarnation });
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        match running.log.scrub(SCRUB_BYTES) {
            Ok(None) => {}
            Ok(Some(damage)) => {
                self.counts.damage_scrubbed += 1;
                self.log.push(self.now, format_args!("node {} finds that {damage}", node + 1));
            }
            Err(_) => return self.disk_failed(node),
        }
        if self.nodes[node].running.as_ref().is_some_and(|running| running.log.has_damage()) {
            self.clean_log(node);
        }
    }

    /// A start finds its log damaged: the node has forgotten something that it promised, and comes back as another one.
    pub(super) fn found_damaged(&mut self, node: usize, found: String) {
        if self.rotten.is_none_or(|rotten| rotten.node != node) && !self.nodes[node].lost_syncs {
            return self.note(Err(Violation { invariant: "a_crash_leaves_a_log_that_opens", found }));
        }
        self.counts.damage_at_start += 1;
        self.log.push(self.now, format_args!("node {} is given up: {found}", node + 1));
        self.nodes[node].gone = true;
        let gone = self.nodes[node].id;
        let after = Duration::from_millis(self.prng.below(200));
        self.at(after, Happening::Replace { gone });
    }

    /// Whether all that rotted is mended: its segment is gone, or its node is and another has taken its place.
    fn is_mended(&mut self) -> bool {
        let Some(Rotten { node, segment }) = self.rotten else { return true };
        let at = &self.nodes[node];
        let dropped = at.running.as_ref().is_some_and(|running| running.log.segments().all(|info| info.id != segment));
        let replaced = at.gone && self.view.member(at.id).is_none() && self.view.pending.is_empty();
        if dropped || replaced {
            self.rotten = None;
        }
        self.rotten.is_none()
    }
}
