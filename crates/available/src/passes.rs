//! Reconciliation with peers, pass by pass: at each start, after a peer lost its log, and now and then as a safety net.
//!
//! Two passes at once, one from each side, would find the same differences: what the one fetches the other sends, and
//! everything would go over twice. So a pass that nothing waits for is put off while the other side asks, and of two
//! that begin at the same time the one of the higher node is given up. It is only ever put off, for no longer than the
//! time between two passes, and what it then finds is next to nothing.

use membership::{Epoch, NodeId};
use replication::{LogPosition, RegisterKey};
use stdx::TraceContext;

use crate::io::{Event, Outbox};
use crate::message::{Body, Record};
use crate::reconcile::{Answer, Extent, Next, PAGE_BYTES_MAX, Pass, Question, ShortHash, Step, Wanted, answer, fetch};
use crate::replica::{Later, Replica, Timer};
use crate::rules::Rule;
use crate::state::State;
use crate::transfer::WAIT_MIN;
use crate::version::VersionVector;

/// A peer's pass is taken to be over when it was not heard of for so many times the wait before a repeat.
const ASKS_AGAIN_WITHIN: u32 = 4;

impl Replica {
    /// Begins a pass with the peer if one is due, or asks again what was not answered.
    pub(crate) fn pass_on(&mut self, node: NodeId, out: &mut Outbox) {
        if self.has_nothing_with(node) {
            return;
        }
        let (now, generation) = (self.now, self.generation);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.down {
            return;
        }
        // A pass that began before somebody lost a log does not show what was lost.
        if peer.pass.as_ref().is_some_and(|pass| pass.generation < generation) {
            peer.pass = None;
            peer.pass_at = now;
        }
        if peer.pass.is_none() {
            if peer.pass_at <= now {
                let (shared, handed) = self.arcs_to_compare(node);
                if self.puts_off(node, (&shared, &handed)) {
                    return;
                }
                let awaited = shared.iter().filter(|(_, high)| self.is_copying(*high)).copied().collect();
                let id = self.prng.next_u64() >> 1;
                let mut pass = Pass::new((id, generation, self.view.epoch), (&shared, &handed), &self.table);
                pass.check(awaited);
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.pass = Some(pass);
                }
                self.drive(node, out);
            }
        } else if peer.pass_resend_at <= now {
            self.step_again(node, out);
        }
    }

    /// Whether the pass that is due with the peer waits until the peer's own is over.
    fn puts_off(&mut self, node: NodeId, arcs: (&[Extent], &[Extent])) -> bool {
        let (now, quiet, most) = (self.now, self.config.resend * ASKS_AGAIN_WITHIN, self.config.pass_every);
        let awaited = self.is_awaited(node, arcs);
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        if awaited || peer.asked_us_at.is_none_or(|at| now.since(at) >= quiet) {
            return false;
        }
        // It counts from the first time on, until one of ours has ended.
        now.since(*peer.put_off_since.get_or_insert(now)) < most
    }

    /// Whether something waits for a pass with the peer about these arcs: that we or they count, that marks show that
    /// nothing is missing, or that keys are handed on.
    fn is_awaited(&self, node: NodeId, (shared, handed): (&[Extent], &[Extent])) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let heeded = |(_, high): &Extent| {
            let tenure = self.tenure_of(*high).filter(|tenure| tenure.copied && self.is_compared(*high, node));
            tenure.is_some_and(|tenure| !tenure.gained || peer.actor.is_some_and(|actor| tenure.known.contains(&actor)))
        };
        let settled = self.whole && peer.passed >= self.generation && handed.is_empty();
        !settled || !shared.iter().all(heeded)
    }

    /// The peer asks in a pass of its own. Ours, if it began at the same time, is made when that is over.
    fn heed_asker(&mut self, node: NodeId) {
        let (now, me) = (self.now, self.me);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.asked_us_at = Some(now);
        if node > me || peer.pass.as_ref().is_none_or(Pass::has_moved_states) {
            return;
        }
        let (shared, handed) = self.arcs_to_compare(node);
        if self.puts_off(node, (&shared, &handed))
            && let Some(peer) = self.peers.get_mut(&node)
        {
            peer.pass = None;
        }
    }

    /// Takes the next step of the pass with the peer; later, if it moves states and those before are not paid for.
    pub(crate) fn drive(&mut self, node: NodeId, out: &mut Outbox) {
        let (resend_at, wait) = (self.now + self.config.resend * 2, self.must_wait());
        let another = self.another_is_asked(node);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(pass) = &mut peer.pass else { return };
        if let Some(until) = wait.max(another.filter(|_| pass.is_copy())).filter(|_| pass.moves_states()) {
            // All that wait do so until the same moment: none of them is always the first.
            let after = WAIT_MIN.mul_f64(self.prng.unit());
            return self.at(until + after, Timer::Pass(node));
        }
        peer.pass_resend_at = resend_at;
        let is_copy = pass.is_copy();
        match pass.next(&self.table) {
            Next::Ask(_) => self.step_again(node, out),
            Next::Want(_) => {
                if is_copy {
                    self.note_asked(node, resend_at);
                }
                self.step_again(node, out);
            }
            Next::Send(keys) => self.send_surplus(node, keys, out),
            Next::Over => self.pass_over(node, out),
            Next::Nothing => {}
        }
    }

    fn step_again(&mut self, node: NodeId, out: &mut Outbox) {
        let (resend_at, wait) = (self.now + self.config.resend * 2, self.must_wait());
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(pass) = &mut peer.pass else { return };
        peer.pass_resend_at = resend_at;
        if let Some(until) = wait.filter(|_| pass.sends_states()) {
            peer.pass_resend_at = until;
            return;
        }
        let (id, question) = (pass.id, pass.question);
        let body = match &pass.step {
            Step::Ready => return,
            Step::Asked(ranges) => Body::Ask { pass: id, question, ranges: ranges.clone() },
            Step::Wanted(wanted) => Body::Want { pass: id, question, wanted: wanted.clone() },
            Step::Sent(_, keys) => {
                let keys = keys.clone();
                return self.send_surplus(node, keys, out);
            }
        };
        self.tell(node, body, LogPosition(0), TraceContext::NONE, out);
    }

    /// Sends what the peer lacks, as much as fits a message; the rest follows once that has arrived.
    fn send_surplus(&mut self, node: NodeId, mut keys: Vec<RegisterKey>, out: &mut Outbox) {
        let (mut entries, mut wait, mut bytes) = (Vec::new(), LogPosition(0), 0);
        let mut fit = 0;
        for key in &keys {
            if let Some(held) = self.table.get(key) {
                bytes += held.state.size();
                if bytes > PAGE_BYTES_MAX && !entries.is_empty() {
                    break;
                }
                wait = wait.max(held.logged);
                entries.push((key.clone(), held.state.clone()));
            }
            fit += 1;
        }
        let rest = keys.split_off(fit);
        let id = self.next_number();
        let Some(pass) = self.peers.get_mut(&node).and_then(|peer| peer.pass.as_mut()) else { return };
        pass.sent += entries.len();
        pass.send_later(rest);
        pass.step = Step::Sent(id, keys);
        self.pay_for_states(entries.iter());
        self.tell(node, Body::Store { id, claim: None, entries }, wait, TraceContext::NONE, out);
    }

    fn pass_over(&mut self, node: NodeId, out: &mut Outbox) {
        let every = self.config.pass_every;
        let next = self.now + self.jittered(every);
        let (now, generation, keeps) = (self.now, self.generation, self.rules.keep(Rule::PassPutOff));
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(pass) = peer.pass.take() else { return };
        peer.passed = peer.passed.max(pass.generation);
        peer.pass_ended = Some(now);
        peer.put_off_since = None;
        // One that began before homes changed or somebody lost a log does not stand for the one that is due since then:
        // a change that copies would wait a whole round for it.
        let due = pass.generation < generation && keeps;
        peer.pass_at = if due { now } else { next };
        self.compared_with(node, &pass, out);
        out.events.push(Event::Reconciled { peer: node, fetched: pass.fetched, sent: pass.sent });
        self.become_whole(out);
    }

    /// Once all peers with whom we share keys have been compared with, a log that was begun anew is whole.
    pub(crate) fn become_whole(&mut self, out: &mut Outbox) {
        if self.whole || !self.view.is_formed() || self.view.member(self.me).is_none() {
            return;
        }
        let nothing_there = |node| self.shared_with_none(node) || self.is_gone_for_good(node);
        let all = self.peers.iter().all(|(node, peer)| peer.passed > 0 || nothing_there(*node));
        if all {
            self.whole = true;
            let position = self.log(Record::Whole, out);
            self.after(position, Later::Whole, out);
            out.events.push(Event::Whole);
        }
    }

    pub(crate) fn handle_ask(&mut self, from: NodeId, pass: u64, question: u32, ranges: &[Question], out: &mut Outbox) {
        self.heed_asker(from);
        let answers: Vec<Answer> = ranges.iter().map(|question| answer(&self.table, pass, question)).collect();
        let (whole, marks) = self.standing(ranges);
        let body = Body::Tell { pass, question, answers, whole, marks };
        // Who is told that we hold the same takes it for safe here.
        let wait = self.log_end();
        self.tell(from, body, wait, TraceContext::NONE, out);
    }

    pub(crate) fn handle_tell(
        &mut self,
        (from, epoch): (NodeId, Epoch),
        (id, question): (u64, u32),
        (whole, marks): (bool, VersionVector),
        answers: Vec<Answer>,
        out: &mut Outbox,
    ) {
        self.pay_for_answers(&answers);
        let Some(pass) = self.peers.get_mut(&from).and_then(|peer| peer.pass.as_mut()) else { return };
        // Who acts on an older view may take writes, after it has told, of which we never hear.
        if pass.id != id || (epoch < pass.epoch && self.rules.keep(Rule::CopiedFromOldView)) {
            return;
        }
        pass.heard(whole, marks);
        pass.told(question, answers, &self.table, !self.rules.keep(Rule::RangeSkipped));
        self.drive(from, out);
    }

    pub(crate) fn handle_want(&mut self, from: NodeId, pass: u64, question: u32, wanted: &[Wanted], out: &mut Outbox) {
        self.heed_asker(from);
        let entries = fetch(&self.table, pass, wanted);
        let wait = entries.iter().map(|(key, _)| self.logged(key)).max().unwrap_or(LogPosition(0));
        self.tell(from, Body::Have { pass, question, entries }, wait, TraceContext::NONE, out);
    }

    pub(crate) fn handle_have(
        &mut self,
        from: NodeId,
        id: u64,
        question: u32,
        entries: Vec<(RegisterKey, State)>,
        out: &mut Outbox,
    ) {
        // Also what comes a second time has come.
        self.pay_for_states(entries.iter());
        let known = self.peers.get(&from).and_then(|peer| peer.pass.as_ref()).map(|pass| (pass.id, pass.question));
        if known != Some((id, question)) || self.disk_full {
            return;
        }
        let ours = entries.into_iter().filter(|(key, _)| self.takes_from(from, key.position));
        let entries: Vec<(RegisterKey, State)> = ours.collect();
        let got: Vec<ShortHash> =
            entries.iter().map(|(key, state)| self.digests.digest(key, state).short(id)).collect();
        self.take_states(from, entries, out);
        if let Some(pass) = self.peers.get_mut(&from).and_then(|peer| peer.pass.as_mut()) {
            pass.had(question, &got, !self.rules.keep(Rule::ChangedSkipped));
        }
        self.let_others_ask(from, out);
        self.drive(from, out);
    }

    /// States have come from the peer that are no stamps of its own: while it makes a pass, they are of that.
    pub(crate) fn note_sender(&mut self, node: NodeId) {
        let (now, quiet) = (self.now, self.config.resend * ASKS_AGAIN_WITHIN);
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.asked_us_at.is_some_and(|at| now.since(at) < quiet)
        {
            peer.asked_us_at = Some(now);
        }
    }

    /// A message that a pass sent has arrived.
    pub(crate) fn pass_stored(&mut self, from: NodeId, id: u64, out: &mut Outbox) {
        let Some(pass) = self.peers.get_mut(&from).and_then(|peer| peer.pass.as_mut()) else { return };
        if matches!(&pass.step, Step::Sent(sent, _) if *sent == id) {
            pass.step = Step::Ready;
            self.drive(from, out);
        }
    }
}
