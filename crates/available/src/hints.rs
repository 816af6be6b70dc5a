//! Hints: eventual writes that a node keeps for a key's homes while none of them can be reached.
//!
//! A hint is the client's write itself, not a state: the stand-in stamps nothing. Whichever home takes it makes
//! it as if
//! it came from the client, under the same request id, so that a hint that is taken twice, or whose client asked
//! elsewhere too, acts once. Hints are bounded and counted. They are on disk before the write is acknowledged, and are
//! kept until a home has the write on disk, however long that takes: homes remember requests as long as some node may
//! still bring them as hints ([`Replica::hints_from_ms`]).

use membership::NodeId;
use replication::{LogPosition, Ticket};
use stdx::{Instant, TraceContext};

use crate::coordinate::Asker;
use crate::io::Outbox;
use crate::message::{Body, Record};
use crate::operation::{Action, Effect, Level, Operation, Outcome, Past, Receipt, Refusal, Seen, Write};
use crate::replica::{Later, Replica};
use crate::rules::Rule;

/// Hints that are offered at one time.
const OFFERED_AT_ONCE_MAX: usize = 64;

/// A write that is kept for a home.
#[derive(Clone, Debug)]
pub(crate) struct Hint {
    pub write: Write,
    pub session: u64,
    pub deps: u64,
    /// How often it was offered to a home.
    offered: u32,
    offer_at: Instant,
    /// Where the log says so.
    pub logged: LogPosition,
}

impl Hint {
    pub fn new(write: Write, session: u64, deps: u64) -> Hint {
        Hint { write, session, deps, offered: 0, offer_at: Instant::ZERO, logged: LogPosition(0) }
    }

    fn size(&self) -> usize {
        use crate::operation::Change;
        let body = match &self.write.change {
            Change::Put(value) => value.body.len() + value.content_type.len(),
            Change::Insert(element) | Change::Remove(element) => element.len(),
            Change::Set { name, value } => name.len() + value.len(),
            Change::Unset(name) => name.len(),
            Change::Add(_) | Change::Delete => 8,
        };
        body + self.write.key.key.len() + 128
    }
}

impl Replica {
    /// An operation for a key of which this node is no home.
    pub(crate) fn stand_in(&mut self, ticket: Ticket, operation: Operation, out: &mut Outbox) {
        let epoch = self.view.epoch;
        let (level, allowed) = (operation.level, operation.stand_in);
        let Action::Write(write) = operation.action else {
            return self.refuse(Asker::Client(ticket), Refusal::NotReplica(epoch), out);
        };
        if level != Level::Eventual || !allowed || !self.view.is_formed() {
            return self.refuse(Asker::Client(ticket), Refusal::NotReplica(epoch), out);
        }
        if !crate::apply::fits(write.kind, &write.change) {
            return self.refuse(Asker::Client(ticket), Refusal::OtherKind(write.kind), out);
        }
        if write.first_sent_ms < self.hints_taken_from_ms() {
            // Those who could bring it twice have been told that there is none so old.
            return self.refuse(Asker::Client(ticket), Refusal::TooOld, out);
        }
        // The session's next write of the key takes its place, wherever it is by then.
        let time = write.rank(&operation.past).0;
        let mut seen = Seen { time, ..Seen::default() };
        if matches!(write.kind, crate::kind::Kind::Value | crate::kind::Kind::LastWriter) {
            seen.context = write.context.clone().unwrap_or_default();
            seen.context.requests.push(write.request);
        }
        let again = self.hints.values().find(|hint| hint.write.request == write.request).map(|hint| hint.logged);
        let wait = match again {
            Some(logged) => logged,
            None => {
                let hint = Hint::new(write, operation.past.session, operation.past.counter_max());
                let full = self.hint_bytes + hint.size() > self.config.hint_bytes_max;
                if full || self.hints.len() >= self.config.hints_max {
                    return self.refuse(Asker::Client(ticket), Refusal::Overloaded, out);
                }
                self.take_hint(hint, out)
            }
        };
        let outcome = Outcome::Done { effect: Effect::Hinted, number: None, seen };
        let receipt = Receipt { epoch, voters: vec![self.me], rounds: 0 };
        self.after(wait, Later::Answer(ticket, outcome, receipt), out);
    }

    fn take_hint(&mut self, hint: Hint, out: &mut Outbox) -> LogPosition {
        let id = self.next_number();
        let record = Record::Hint { id, write: hint.write.clone(), session: hint.session, deps: hint.deps };
        let logged = self.log(record, out);
        self.keep_hint(id, Hint { logged, ..hint });
        logged
    }

    pub(crate) fn keep_hint(&mut self, id: u64, hint: Hint) {
        self.hint_bytes += hint.size();
        if let Some(old) = self.hints.insert(id, hint) {
            self.hint_bytes -= old.size();
        }
    }

    pub(crate) fn forget_hint(&mut self, id: u64) {
        if let Some(hint) = self.hints.remove(&id) {
            self.hint_bytes -= hint.size();
        }
    }

    /// New hints are of writes that were first received since then: half of the time for which requests are
    /// remembered ago.
    fn hints_taken_from_ms(&self) -> u64 {
        self.wall_ms.saturating_sub(self.config.memory_ms / 2)
    }

    /// No hint that is kept here, is under way from here, or will be, is of a write first received before this time.
    fn own_hints_from_ms(&self) -> u64 {
        let kept = self.hints.values().map(|hint| hint.write.first_sent_ms);
        let under_way = self.hints_gone.front().map(|(_, first_sent_ms)| *first_sent_ms);
        kept.chain(under_way).fold(self.hints_taken_from_ms(), u64::min)
    }

    /// No node of the view brings a hint of a write that was first received before this time, as far as all have said.
    pub(crate) fn hints_from_ms(&self) -> u64 {
        let members = self.peers.iter().filter(|(node, _)| self.view.member(**node).is_some());
        let others = members.map(|(_, peer)| peer.hints_from_ms);
        others.fold(self.own_hints_from_ms(), u64::min)
    }

    /// Says now and then to everybody how old hints from here can be.
    pub(crate) fn tell_of_hints(&mut self, out: &mut Outbox) {
        if self.hints_told_at > self.now {
            return;
        }
        let every = std::time::Duration::from_millis(self.config.memory_ms / 4);
        self.hints_told_at = self.now + self.jittered(every);
        let kept_from_ms = self.hints_taken_from_ms();
        while self.hints_gone.front().is_some_and(|(gone_ms, _)| *gone_ms < kept_from_ms) {
            self.hints_gone.pop_front();
        }
        let from_ms = self.own_hints_from_ms();
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            self.tell(node, Body::Hints { from_ms }, LogPosition(0), TraceContext::NONE, out);
        }
    }

    pub(crate) fn handle_hints(&mut self, from: NodeId, from_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&from) {
            // What was true stays true, and messages overtake each other.
            peer.hints_from_ms = peer.hints_from_ms.max(from_ms);
        }
    }

    /// Offers hints to the homes of their keys, one home after the other, less and less often.
    pub(crate) fn deliver_hints(&mut self, out: &mut Outbox) {
        let (now, resend) = (self.now, self.config.resend);
        let due = |hint: &Hint, synced: LogPosition| hint.offer_at <= now && hint.logged <= synced;
        let ids: Vec<u64> = self
            .hints
            .iter()
            .filter(|(_, hint)| due(hint, self.synced))
            .map(|(id, _)| *id)
            .take(OFFERED_AT_ONCE_MAX)
            .collect();
        for id in ids {
            let Some(position) = self.hints.get(&id).map(|hint| hint.write.key.position) else { continue };
            let homes = self.homes(position);
            let reachable = |home: &&NodeId| self.peers.get(home).is_some_and(|peer| !peer.down);
            let up: Vec<NodeId> = homes.iter().filter(reachable).copied().collect();
            let Some(hint) = self.hints.get_mut(&id) else { continue };
            hint.offer_at = now + resend * (1 << hint.offered.min(6));
            let to = if up.is_empty() { &homes[..] } else { &up[..] };
            let Some(home) = to.get(hint.offered as usize % to.len().max(1)).copied() else { continue };
            hint.offered += 1;
            let (write, session, deps) = (hint.write.clone(), hint.session, hint.deps);
            let body = Body::Take { hint: id, write, session, deps };
            self.tell(home, body, LogPosition(0), TraceContext::NONE, out);
            if !self.rules.keep(Rule::HintLost) {
                self.forget_hint(id);
            }
        }
    }

    pub(crate) fn handle_take(&mut self, from: NodeId, id: u64, hint: Hint, context: TraceContext, out: &mut Outbox) {
        if self.disk_full || !self.is_home(hint.write.key.position) {
            return;
        }
        let past = Past { session: hint.session, bound: hint.deps, ..Past::default() };
        self.clock = self.clock.max(hint.deps);
        let asker = Asker::Hint { from, hint: id };
        self.begin_write(asker, hint.write, Level::Eventual, past, context, out);
    }

    /// A home does not take a hint: for good, or for now, of which it says nothing.
    pub(crate) fn refuse_hint(&mut self, from: NodeId, hint: u64, refusal: Refusal, out: &mut Outbox) {
        if matches!(refusal, Refusal::OtherKind(_) | Refusal::TooLarge) {
            let body = Body::Taken { hint, refused: Some(refusal) };
            self.tell(from, body, LogPosition(0), TraceContext::NONE, out);
        }
    }

    pub(crate) fn handle_taken(&mut self, id: u64, _refused: Option<Refusal>, out: &mut Outbox) {
        let Some(hint) = self.hints.get(&id) else { return };
        let (request, first_sent_ms) = (hint.write.request, hint.write.first_sent_ms);
        // A message that brings it again may be under way. What went before and is no older tells nothing that this one
        // does not tell for longer, so the first one is always the oldest.
        while self.hints_gone.back().is_some_and(|(_, before)| *before >= first_sent_ms) {
            self.hints_gone.pop_back();
        }
        self.hints_gone.push_back((self.wall_ms, first_sent_ms));
        self.log(Record::HintGone { id, request }, out);
        self.forget_hint(id);
        self.hints_taken += 1;
    }
}
