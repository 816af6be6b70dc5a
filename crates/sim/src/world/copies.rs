//! Data directories that are copied, or put back as they were (decision 0073).

use std::time::Duration;

use replication::{Body, Message, Rule, Rules as _};
use store::identity::Doubt;
use store::{Disk as _, SimDisk};
use wire::node::Payload;

use super::clients::encoded;
use super::{Happening, World};
use crate::node::SimNode;
use crate::planted::Planted;

/// A node's data directory as it was at some moment.
pub(super) struct Image {
    node: usize,
    disk: SimDisk,
    /// The start that it notes.
    noted: u64,
    /// How far the log was synced then.
    synced: u64,
    /// Whether it is a copy elsewhere, and not to be put back in its place.
    elsewhere: bool,
}

impl<C: chord::Rules> World<C> {
    /// Somebody keeps the data directory of a node that runs, and uses it later: starts a copy of it elsewhere, or puts
    /// it back in its place. The planted bug starts it at once, beside the first, as the same start.
    pub(super) fn keep_image(&mut self) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].running.is_some()).collect();
        if self.calm || running.is_empty() {
            return;
        }
        self.counts.faults += 1;
        let node = running[self.prng.index(running.len())];
        if !self.rules.keeps(Rule::FenceTwins) {
            self.log.push(self.now, format_args!("node {} gets a twin", node + 1));
            let disk = self.nodes[node].disk.fork(self.prng.next_u64());
            let noted = self.nodes[node].incarnation;
            return self.start_twin(node, disk, noted);
        }
        // A lost disk as well would be more than one replica of an arc may lose.
        if self.swarm.lose_disk {
            return;
        }
        let elsewhere = self.prng.one_in(2);
        let (seed, noted) = (self.prng.next_u64(), self.nodes[node].incarnation);
        let disk = if elsewhere { self.nodes[node].disk.copy(seed) } else { self.nodes[node].disk.fork(seed) };
        let synced = self.nodes[node].running.as_ref().map_or(0, |running| running.log.durable());
        self.log.push(self.now, format_args!("the directory of node {} is kept, up to {synced}", node + 1));
        self.image = Some(Image { node, disk, noted, synced, elsewhere });
        let after = Duration::from_millis(5 + self.prng.below(400));
        self.at(after, Happening::UseImage);
    }

    /// Uses what was kept.
    pub(super) fn use_image(&mut self) {
        let Some(image) = self.image.take() else { return };
        if self.calm || self.nodes[image.node].gone {
            return;
        }
        if image.elsewhere { self.use_copy(image) } else { self.put_back(image) }
    }

    /// Starts a copy. If its original answers where its registration says, it does not start. Otherwise, where the
    /// original is down, stopped, cut off or slow, it is known for a copy by its place.
    fn use_copy(&mut self, image: Image) {
        let Image { node, disk, noted, .. } = image;
        // Discovery has let a later start in since, or will not know who replaces whom.
        let is_old = noted < self.nodes[node].incarnation;
        if is_old || self.swarm.changes_every.is_none() || !self.leave_behind(node) {
            return self.log.push(self.now, format_args!("a copy of node {} is refused", node + 1));
        }
        self.log.push(self.now, format_args!("a copy of node {} starts", node + 1));
        self.counts.copies_started += 1;
        if self.has(Planted::CopyTrusted) {
            self.watch.twins();
        }
        self.start_twin(node, disk, noted);
    }

    /// Puts a directory back in its place, while its node is down.
    fn put_back(&mut self, image: Image) {
        let Image { node, disk, noted, synced, .. } = image;
        let at = &self.nodes[node];
        let forgets = at.running.as_ref().is_none_or(|running| running.log.durable() > synced);
        if noted == at.incarnation && at.told <= synced && forgets {
            // So young that nobody can tell: what decision 0073 cannot show.
            return;
        }
        self.log.push(self.now, format_args!("node {} is put back to {synced}", node + 1));
        self.nodes[node].pull_plug(&mut self.prng);
        self.nodes[node].disk = disk;
        self.nodes[node].disk.crash();
        self.nodes[node].noted = noted;
        self.counts.put_back += 1;
        self.after_crash(node);
    }

    /// A second process of a node, on another disk.
    fn start_twin(&mut self, node: usize, disk: SimDisk, noted: u64) {
        let (id, view) = (self.nodes[node].id, self.view.clone());
        let mut twin = SimNode::new(id, &view, self.planted, &mut self.prng);
        disk.crash();
        twin.disk = disk;
        twin.home = self.nodes[node].home;
        twin.told = self.nodes[node].told;
        (twin.incarnation, twin.noted) = (noted, noted);
        self.nodes.push(twin);
        self.backlog.push(std::collections::VecDeque::new());
        let node = self.nodes.len() - 1;
        self.at(Duration::ZERO, Happening::Start { node });
    }

    /// What a start thinks of its data directory before it opens the log, as the shell does it.
    pub(super) fn doubt_before(&mut self, node: usize) -> Option<Doubt> {
        // Who takes an empty directory for its own does not ask where that lies.
        let trusts_copies = self.has(Planted::CopyTrusted) || self.has(Planted::Amnesia);
        let trusts_older = self.has(Planted::RolledBackTrusted);
        let at = &mut self.nodes[node];
        let place = at.disk.place().expect("this is asked of nothing that can fail");
        let copied = Doubt::of_place(Some(at.home), place).filter(|_| !trusts_copies);
        let last = at.incarnation;
        let older = (at.noted < last && !trusts_older).then_some(Doubt::Older { last });
        let doubt = copied.or(older);
        if doubt.is_none() {
            (at.home, at.noted) = (place, last + 1);
        }
        doubt
    }

    /// What a start thinks of its log, once that is open.
    pub(super) fn doubt_of_end(&self, node: usize) -> Option<Doubt> {
        let at = &self.nodes[node];
        let held = at.running.as_ref()?.log.last_sequence();
        let trusts_any = self.has(Planted::RolledBackTrusted) || self.has(Planted::Amnesia);
        Doubt::of_end(held, Some(at.told)).filter(|_| !trusts_any)
    }

    /// A data directory is in doubt: it is set aside, and a new member takes the node's place.
    pub(super) fn set_doubted_aside(&mut self, node: usize, doubt: Doubt) {
        self.log.push(self.now, format_args!("the directory of node {} is set aside: {doubt}", node + 1));
        self.counts.doubted += 1;
        self.nodes[node].kill();
        self.nodes[node].gone = true;
        if self.swarm.changes_every.is_some() {
            let gone = self.nodes[node].id;
            let after = Duration::from_millis(self.prng.below(200));
            self.at(after, Happening::Replace { gone });
        }
    }

    /// Whether a node is not seen to answer: it is down, or is stopped now, or cut off, or merely slow.
    fn leave_behind(&mut self, node: usize) -> bool {
        let length = Duration::from_millis(5 + self.prng.below(400));
        match self.prng.below(4) {
            0 if self.nodes[node].is_working() => {
                self.nodes[node].paused_until = Some(self.now + length);
                self.at(length, Happening::Resume { node });
            }
            1 => {
                let others = (0..self.nodes.len()).filter(|other| *other != node);
                let links: Vec<(usize, usize)> = others.flat_map(|other| [(node, other), (other, node)]).collect();
                self.network.cut(&links);
                self.at(length, Happening::Heal { links });
            }
            2 => {}
            _ => return !self.nodes[node].is_working(),
        }
        true
    }

    /// Whether a later start of the same node has its place. One that was set aside before it took part has not.
    pub(super) fn is_outdated(&self, node: usize) -> bool {
        let SimNode { id, incarnation, .. } = &self.nodes[node];
        let fenced = self.rules.keeps(Rule::FenceTwins);
        let later = |other: &SimNode<C>| other.id == *id && other.incarnation > *incarnation && !other.gone;
        fenced && self.nodes.iter().any(later)
    }

    /// Faults are over: an older start that still runs connects to its peers anew, and is told of the later one.
    pub(super) fn tell_outdated(&mut self) {
        let outdated = |node: &usize| self.nodes[*node].running.is_some() && self.is_outdated(*node);
        for to in (0..self.nodes.len()).filter(outdated).collect::<Vec<_>>() {
            let id = self.nodes[to].id;
            let latest = self.nodes.iter().filter(|node| node.id == id).map(|node| node.incarnation).max();
            let body = Body::Fenced { incarnation: latest.unwrap_or_default() };
            let message = Message { epoch: self.view.epoch, counter: 0, body };
            let Some(peer) = self.nodes.iter().find(|node| node.id != id && !node.gone) else { continue };
            let (from, bytes) = ((peer.id, peer.incarnation), encoded(Payload::Replica(message)));
            self.at(Duration::from_millis(2), Happening::Arrive { from, to, bytes });
        }
    }
}
