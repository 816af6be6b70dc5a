//! The replica: one node's acceptor and coordinator behind one `handle`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use membership::{Epoch, NodeId, ReplicaSets, Ring, View};
use stdx::{Instant, Prng, TraceContext};

use crate::acceptor::{Acceptor, Vote};
use crate::catch_up::CatchUp;
use crate::collect::Collections;
use crate::confirm::{Confirmations, NOBODY, ReportPage};
use crate::cut::Cuts;
use crate::io::{Answer, Envelope, Input, Outbox, Ticket};
use crate::ledger::Ledger;
use crate::message::{Body, LogPosition, Message, Record, RoundId};
use crate::round::{Round, Waiting};
use crate::rules::{Correct, Rule, Rules};
use crate::transfer::{Page, Transfer};
use crate::types::{Ballot, Change, Condition, Operation, Outcome, Receipt, Refusal, RegisterKey};
use crate::view_change::Membership;

/// Operations that may wait at one node; past it the answer is [`Refusal::Overloaded`].
pub const OPERATIONS_MAX: usize = 8_192;
/// Values that are being ended at the same time though nobody asks for them.
const ENDED_AT_ONCE_MAX: usize = 64;
/// Values that are looked at for that at one time.
const DUE_LOOKED_AT_MAX: usize = 4_096;

/// One node's part in all registers it replicates. See the crate's introduction.
#[derive(Clone, Debug)]
pub struct Replica<R: Rules = Correct> {
    pub(crate) me: NodeId,
    pub(crate) view: View,
    pub(crate) ring: Ring,
    pub(crate) acceptor: Acceptor,
    pub(crate) prng: Prng,
    pub(crate) now: Instant,
    pub(crate) rounds: BTreeMap<RoundId, Round>,
    pub(crate) lanes: BTreeMap<RegisterKey, Lane>,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    pub(crate) down: BTreeSet<NodeId>,
    pub(crate) disk_full: bool,
    pub(crate) catch_up: CatchUp,
    pub(crate) ledger: Ledger,
    pub(crate) confirmations: Confirmations,
    pub(crate) cuts: Cuts,
    pub(crate) transfer: Transfer,
    pub(crate) membership: Membership,
    pub(crate) collections: Collections,
    pub(crate) round_last: RoundId,
    pub(crate) open: BTreeMap<Ticket, (RegisterKey, Instant)>,
    pub(crate) held: BTreeMap<LogPosition, Vec<Envelope>>,
    /// Messages to ourselves, handled before `handle` returns, so that nothing recurses.
    inbox: VecDeque<(Message, TraceContext)>,
    pub(crate) draining: bool,
    pub(crate) rules: R,
}

/// What goes on at this coordinator on one register.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Lane {
    /// Operations that wait for the round in progress to end.
    pub queue: VecDeque<Waiting>,
    /// The round that prepares or accepts; at most one, so that we never compete with ourselves.
    pub round: Option<RoundId>,
    /// Rounds that only ask; they need no order among each other.
    pub reads: Vec<RoundId>,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A client's patience ends.
    Deadline(Ticket),
    /// A round asks again, or ends its backing off.
    Round(RoundId),
    /// The catch-up asks again, or begins its next scan.
    CatchUp,
    /// A confirmation asks again, or finishes what was reported.
    Confirm(RoundId),
    /// A copy asks for its next page, or again.
    Transfer,
    /// The next registers that are not ours any more are looked for.
    Release,
    /// A cut is taken again, or somebody waits for one no longer.
    Cut,
}

impl Replica {
    /// A replica without data, in a view that may be still forming. Restore the log's records next, then call
    /// [`Replica::begin`].
    pub fn new(me: NodeId, view: View, prng: Prng) -> Replica {
        Replica::with_rules(me, view, prng, Correct)
    }
}

impl<R: Rules> Replica<R> {
    /// [`Replica::new`], under `rules`.
    pub fn with_rules(me: NodeId, view: View, mut prng: Prng, rules: R) -> Replica<R> {
        // Nobody owns anything while the ring is forming: who has entered so far would be taken for its replicas.
        let ring = if view.is_formed() { view.ring() } else { Ring::default() };
        // Rounds are numbered from a random start: an answer to a round of the process before the restart must not pass
        // for one of ours. (Half of the numbers are left to count in.)
        let round_last = RoundId(prng.next_u64() >> 1);
        Replica {
            me,
            view,
            ring,
            acceptor: Acceptor::new(),
            prng,
            now: Instant::ZERO,
            rounds: BTreeMap::new(),
            lanes: BTreeMap::new(),
            timers: BTreeSet::new(),
            down: BTreeSet::new(),
            disk_full: false,
            catch_up: CatchUp::default(),
            ledger: Ledger::default(),
            confirmations: Confirmations::default(),
            cuts: Cuts::default(),
            transfer: Transfer::default(),
            membership: Membership::default(),
            collections: Collections::default(),
            round_last,
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            inbox: VecDeque::new(),
            draining: false,
            rules,
        }
    }

    /// Takes a record back from the log, in log order.
    pub fn restore(&mut self, position: LogPosition, record: Record) {
        self.acceptor.restore(position, record);
    }

    /// The log ends at this position: others append to it too. Our records are numbered on from there.
    pub fn note_log_end(&mut self, position: LogPosition) {
        self.acceptor.note_log_end(position);
    }

    /// Begins to take part, once every record is restored.
    pub fn begin(&mut self, now: Instant, out: &mut Outbox) {
        self.now = now;
        self.acceptor.begin(self.rules, &mut out.persist);
        self.begin_in_view(out);
        self.catch_up_start(out);
        self.settle_inbox(out);
    }

    /// Takes one input and says what is to be done.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        self.now = self.now.max(now);
        if self.membership.superseded {
            return;
        }
        match input {
            Input::Operation { ticket, operation, deadline, wall_ms, context } => {
                let (operation, since, sequential) = match operation {
                    Operation::InSession { since, sequential, operation } => (*operation, since, sequential),
                    operation => (operation, Ballot::ZERO, false),
                };
                let since = if self.rules.keeps(Rule::SessionTime) { since } else { Ballot::ZERO };
                let ticket = Some(ticket);
                let waiting =
                    Waiting { ticket, operation, deadline, wall_ms, context, proposed: false, since, sequential };
                // Whatever it does happens after what its session has seen.
                self.acceptor.observe(since.counter, &mut out.persist);
                self.handle_operation(waiting, out);
            }
            Input::Scan { ticket, scan, deadline, context } => self.handle_scan(ticket, scan, deadline, context, out),
            Input::Message { from, incarnation, message, context } => {
                if from != self.me && self.is_heeded(from, incarnation, context, out) {
                    self.acceptor.observe(message.counter, &mut out.persist);
                    self.handle_message(from, message, context, out);
                }
            }
            Input::Synced(position) => self.handle_synced(position, out),
            Input::DiskFull(full) => self.disk_full = full,
            Input::PeerLost(node) => {
                self.down.insert(node);
            }
            Input::PeerFound(node) => {
                if self.down.remove(&node) {
                    self.ask_again(node, out);
                }
                self.transfer_continue(out);
            }
            Input::View(view) => {
                self.handle_view(view, out);
            }
            Input::EndDue { wall_ms } => self.end_due(wall_ms, out),
            Input::Collect { wall_ms } => self.collect(wall_ms, out),
            Input::Tick => {}
            Input::Drain => self.draining = true,
        }
        self.handle_timers(out);
        self.settle_inbox(out);
        self.confirm_continue_all(out);
        self.settle_inbox(out);
        // Twice: what the first one begins may be complete at once, where nobody else has to be asked.
        for _ in 0..2 {
            self.cuts_continue(out);
            self.settle_inbox(out);
        }
    }

    /// When [`Input::Tick`] is due at the latest; none when nothing waits for time.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The view in force here.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The arc of a position here, with its replica sets and its epoch.
    pub fn arc_of(&self, position: membership::Position) -> Option<&membership::Arc> {
        self.ring.arc_of(position)
    }

    /// How many registers are held, deletions included.
    pub fn registers(&self) -> usize {
        self.acceptor.len()
    }

    /// Bytes the log would hold if it held each register once; the log is worth cleaning when it is much longer.
    pub fn live_bytes(&self) -> usize {
        self.acceptor.live_bytes()
    }

    /// Operations that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.open.len()
    }

    /// Whether the record at this place of the log still says how things are, and no copy of it stands behind it.
    pub fn is_current(&self, position: LogPosition, record: &Record) -> bool {
        self.acceptor.is_current(record) && self.acceptor.is_at(position, record)
    }

    /// Writes those of these old records that are still current to the log again; once the last of the new positions is
    /// synced, the old ones may go.
    pub fn rewrite(&mut self, records: Vec<Record>, out: &mut Outbox) {
        self.acceptor.rewrite(records, &mut out.persist);
    }

    /// Records, made from memory, of what the log holds at `through` or before and nowhere else, for
    /// [`Replica::rewrite`]: that part, which must be the log's oldest, was found to be damaged.
    ///
    /// What is in memory was restored from a whole log or accepted since, so it is what the log had: nothing that was
    /// promised is forgotten, and no peer is needed. Whoever *starts* on a damaged log has no such memory, and must not
    /// come back as the one it was.
    pub fn held_through(&self, through: LogPosition) -> Vec<Record> {
        if self.rules.keeps(Rule::RewriteLost) { self.acceptor.held_through(through) } else { Vec::new() }
    }

    /// What is accepted here: for explanations and for the simulator's invariants.
    pub fn inspect(&self, key: &RegisterKey) -> (crate::Ballot, crate::State) {
        let (ballot, state, _) = self.acceptor.accepted(key);
        (ballot, state)
    }

    /// The counter up to which this replica refuses what others propose on the register's arc; for the observer of a
    /// simulation.
    pub fn floor_against_others(&self, key: &RegisterKey) -> u64 {
        self.acceptor.floor().max(self.ledger.against_others(self.arc_end(key), self.me))
    }

    fn handle_operation(&mut self, mut waiting: Waiting, out: &mut Outbox) {
        let key = waiting.operation.key().clone();
        let refusal = if !self.holds(&key) {
            Some(Refusal::NotReplica(self.view.epoch))
        } else if self.draining {
            Some(Refusal::Draining)
        } else if self.open.len() >= OPERATIONS_MAX {
            Some(Refusal::Overloaded)
        } else if self.disk_full && matches!(waiting.operation, Operation::Write(_)) {
            Some(Refusal::DiskFull)
        } else if waiting.deadline <= self.now {
            Some(Refusal::NoQuorum)
        } else {
            None
        };
        if let Some(ticket) = waiting.ticket {
            if let Some(refusal) = refusal {
                let receipt = Receipt { epoch: self.view.epoch, ..Receipt::default() };
                out.answers.push(Answer { ticket, outcome: Outcome::Refused(refusal), receipt });
                return;
            }
            self.open.insert(ticket, (key.clone(), waiting.deadline));
            self.timers.insert((waiting.deadline, Timer::Deadline(ticket)));
        }
        if !self.rules.keeps(Rule::ConditionInRound) {
            self.judge_early(&mut waiting);
        }
        match waiting.operation {
            Operation::Read { .. } | Operation::Outcome { .. } => self.begin_read(waiting, out),
            Operation::Write(_) | Operation::InSession { .. } => {
                self.in_a_round(&key, waiting, out);
            }
        }
    }

    /// Begins rounds that end values whose time is up, on those registers whose first replica that is not known to be
    /// down we are.
    fn end_due(&mut self, wall_ms: u64, out: &mut Outbox) {
        if self.disk_full || self.draining || !self.rules.keeps(Rule::AgreeOnEnd) {
            return;
        }
        let ours = |key: &&RegisterKey| {
            let replicas = self.ring.replicas_of(key.position);
            let first = replicas.iter().find(|node| !self.down.contains(*node));
            first == Some(&self.me)
        };
        let due = self.acceptor.due(wall_ms).take(DUE_LOOKED_AT_MAX).filter(ours).take(ENDED_AT_ONCE_MAX);
        for key in due.cloned().collect::<Vec<_>>() {
            if self.lanes.contains_key(&key) {
                // Whatever is under way ends it, or the next time does.
                continue;
            }
            let waiting = Waiting { wall_ms, ticket: Some(NOBODY), ..Waiting::internal(&key) };
            self.in_a_round(&key, waiting, out);
        }
    }

    /// The planted lost update: a condition judged on what this replica happens to hold.
    fn judge_early(&self, waiting: &mut Waiting) {
        if let Operation::Write(write) = &mut waiting.operation {
            let (_, state, _) = self.acceptor.accepted(&write.key);
            let present = state.value.as_ref().map(|_| state.version);
            let holds = match write.condition {
                Condition::Matches(wanted) => present == Some(wanted),
                Condition::Absent => present.is_none(),
                Condition::Exists | Condition::Always => false,
            };
            if holds && matches!(write.change, Change::Put(_)) {
                write.condition = Condition::Always;
            }
        }
    }

    /// A message from a node, ourselves included.
    fn handle_message(&mut self, from: NodeId, message: Message, context: TraceContext, out: &mut Outbox) {
        if let Some(epoch) = self.arc_epoch_asked(&message.body)
            && epoch != Some(message.epoch)
            && self.refuses_other_epoch(&message.body)
        {
            if from != self.me {
                self.refuse_other_epoch(from, (message.epoch, epoch), context, out);
            }
            return;
        }
        self.handle_body(from, message, context, out);
    }

    fn handle_body(&mut self, from: NodeId, message: Message, context: TraceContext, out: &mut Outbox) {
        let Message { epoch, body, .. } = message;
        match body {
            Body::Prepare { .. } | Body::Accept { .. } | Body::Query { .. } => {
                if let Some((reply, wait)) = self.vote(body, out) {
                    self.tell((from, epoch), reply, wait, context, out);
                }
            }
            Body::Promise { round, accepted } => self.handle_promise(from, round, accepted, out),
            Body::Accepted { round } => self.handle_accepted(from, round, out),
            Body::Nack { round, seen, disk_full } => self.handle_nack(from, round, seen, disk_full, out),
            Body::Report { round, ballot, state } => self.handle_report(from, round, ballot, state, out),
            Body::Learn { key, ballot, state } => {
                if self.holds(&key) && !self.disk_full && self.may_be_taught(&key, ballot, &state) {
                    self.acceptor.learn(&key, ballot, &state, &mut out.persist);
                    self.note_chosen(&key, ballot);
                }
            }
            Body::Confirm { round, arc, up_to, since, position, after } => {
                let report = self.confirm_as_replica(from, (arc, up_to, since), position, after);
                if let Some(ReportPage { entries, position, more, wait }) = report {
                    let reply = Body::Confirmed { round, position, entries, more };
                    self.tell((from, epoch), reply, wait, context, out);
                }
            }
            Body::Confirmed { round, position, entries, more } => {
                self.handle_confirmed(from, round, position, (entries, more), out);
            }
            Body::Digest { round, after } => {
                let page = self.digest_page(from, round, after.as_ref());
                self.tell((from, self.view.epoch), page, LogPosition(0), context, out);
            }
            Body::DigestPage { round, entries, more } => self.handle_digest_page(from, round, entries, more),
            Body::OtherEpoch { view } => self.handle_other_epoch(from, epoch, view, out),
            Body::Copy { .. } | Body::Fetch { .. } => {
                if let Some(page) = self.give(body) {
                    self.tell((from, epoch), page, LogPosition(0), context, out);
                }
            }
            Body::CopyPage { round, entries, more, held, floor } => {
                self.handle_copy_page(from, round, Page { entries, more, held, floor }, out);
            }
            Body::Fetched { round, entries } => self.handle_fetched(from, round, entries, out),
            Body::Collect { round, arc, up_to, keys } => {
                if let Some((refused, floor, wait)) = self.agree_to_collect(arc, up_to, &keys) {
                    let reply = Body::Collectable { round, refused, floor };
                    self.tell((from, epoch), reply, wait, context, out);
                }
            }
            Body::Collectable { round, refused, floor } => {
                self.handle_collectable(from, round, (refused, floor), out);
            }
            Body::Collected { arc, up_to, keys } => self.drop_collected(arc, up_to, &keys, out),
            Body::Fenced { incarnation } => self.handle_fenced(incarnation, out),
        }
    }

    /// Answers as an acceptor: the reply, and how far the log must be synced before it may leave.
    fn vote(&mut self, body: Body, out: &mut Outbox) -> Option<(Body, LogPosition)> {
        let (round, vote, yes) = match body {
            Body::Prepare { round, key, ballot } => {
                if !self.holds(&key) {
                    return None;
                }
                let bar = self.ledger.bar(self.arc_end(&key), ballot);
                let vote = bar.map_or_else(|| self.acceptor.prepare(&key, ballot), Vote::No);
                let (ballot, state, _) = self.acceptor.accepted(&key);
                (round, vote, Body::Promise { round, accepted: (ballot, state) })
            }
            Body::Accept { round, key, ballot, state, next } => {
                if !self.holds(&key) {
                    return None;
                }
                // An accept without a next ballot only finishes what was begun, so that reads can be answered: the
                // log's reserve has room for that, and there is no more than one such for each interrupted write.
                if self.disk_full && next != Ballot::ZERO {
                    return Some((Body::Nack { round, seen: 0, disk_full: true }, LogPosition(0)));
                }
                let (arc, before) = (self.arc_end(&key), self.acceptor.register(&key).map(|held| held.accepted));
                // What is accepted already is only answered again.
                let bar = self.ledger.bar(arc, ballot).filter(|_| before != Some(ballot));
                let accept = || self.acceptor.accept(self.rules, &key, ballot, &state, next, &mut out.persist);
                let vote = bar.map_or_else(accept, Vote::No);
                if matches!(vote, Vote::Yes(_)) && before != Some(ballot) {
                    self.ledger.note(arc, key, ballot);
                }
                (round, vote, Body::Accepted { round })
            }
            Body::Query { round, key, known } => {
                if !self.holds(&key) {
                    return None;
                }
                let (ballot, state, logged) = self.acceptor.accepted(&key);
                let state = (ballot != known).then_some(state);
                (round, Vote::Yes(logged), Body::Report { round, ballot, state })
            }
            other => unreachable!("not a question to an acceptor: {other:?}"),
        };
        Some(match vote {
            Vote::Yes(wait) => (yes, wait),
            Vote::No(seen) => (Body::Nack { round, seen, disk_full: false }, LogPosition(0)),
        })
    }

    /// Whether this node is a replica of the register in its view.
    pub(crate) fn holds(&self, key: &RegisterKey) -> bool {
        self.ring.arc_of(key.position).is_some_and(|arc| arc.is_held_by(self.me))
    }

    /// Says `body` to `to` (ourselves included), once the log is synced to `wait`. The epoch is the arc's that the
    /// message is about.
    pub(crate) fn tell(
        &mut self,
        (to, epoch): (NodeId, Epoch),
        body: Body,
        wait: LogPosition,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        let counter = self.acceptor.counter();
        // Whatever leaves names a counter, and a counter may only be used once the ceiling above it is on disk.
        let wait = wait.max(self.acceptor.ceiling_wait(counter)).max(self.acceptor.epoch_wait());
        let message = Message { epoch, counter, body };
        let envelope = Envelope { to, message, context };
        if self.rules.keeps(Rule::VoteAfterSync) && wait > self.acceptor.synced() {
            self.held.entry(wait).or_default().push(envelope);
        } else {
            self.release(envelope, out);
        }
    }

    fn release(&mut self, envelope: Envelope, out: &mut Outbox) {
        if envelope.to == self.me {
            self.inbox.push_back((envelope.message, envelope.context));
        } else {
            out.send.push(envelope);
        }
    }

    fn handle_synced(&mut self, position: LogPosition, out: &mut Outbox) {
        self.acceptor.synced_to(position);
        let still_held = self.held.split_off(&LogPosition(position.0 + 1));
        for (_, envelopes) in std::mem::replace(&mut self.held, still_held) {
            for envelope in envelopes {
                self.release(envelope, out);
            }
        }
    }

    pub(crate) fn settle_inbox(&mut self, out: &mut Outbox) {
        while let Some((message, context)) = self.inbox.pop_front() {
            self.handle_message(self.me, message, context, out);
        }
    }

    fn handle_timers(&mut self, out: &mut Outbox) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > self.now {
                break;
            }
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Deadline(ticket) => self.handle_deadline(ticket, out),
                Timer::Round(round) => self.handle_round_timer(round, out),
                Timer::CatchUp => self.catch_up_continue(out),
                Timer::Confirm(round) => self.handle_confirm_timer(round, out),
                Timer::Transfer => self.transfer_continue(out),
                Timer::Release => self.release_continue(out),
                // Looked at after each input.
                Timer::Cut => {}
            }
        }
    }

    fn handle_deadline(&mut self, ticket: Ticket, out: &mut Outbox) {
        let Some((key, _)) = self.open.get(&ticket).cloned() else { return };
        let mut proposed = false;
        if let Some(lane) = self.lanes.get_mut(&key) {
            let is_it = |waiting: &Waiting| waiting.ticket == Some(ticket);
            lane.queue.retain(|waiting| {
                proposed |= is_it(waiting) && waiting.proposed;
                !is_it(waiting)
            });
            for round in lane.round.iter().chain(&lane.reads) {
                // The round goes on: others may wait for it, and what was proposed should be finished.
                if let Some(waiting) = self.rounds.get(round).and_then(|r| r.waiting.iter().find(|w| is_it(w))) {
                    proposed |= waiting.proposed;
                }
            }
            self.drop_waiting(&key, ticket);
        }
        self.advance_lane(&key, out);
        let outcome = if proposed { Outcome::Unknown } else { Outcome::Refused(Refusal::NoQuorum) };
        let receipt = Receipt { epoch: self.view.epoch, ..Receipt::default() };
        self.answer(ticket, outcome, receipt, out);
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, outcome: Outcome, receipt: Receipt, out: &mut Outbox) {
        if let Some((_, deadline)) = self.open.remove(&ticket) {
            self.timers.remove(&(deadline, Timer::Deadline(ticket)));
            out.answers.push(Answer { ticket, outcome, receipt });
        }
    }

    /// Whether somebody still waits for this answer.
    pub(crate) fn is_open(&self, ticket: Ticket) -> bool {
        self.open.contains_key(&ticket)
    }

    pub(crate) fn next_round_id(&mut self) -> RoundId {
        self.round_last = RoundId(self.round_last.0 + 1);
        self.round_last
    }

    /// A random wait around `around`, from half to one and a half of it.
    pub(crate) fn jittered(&mut self, around: Duration) -> Duration {
        around.mul_f64(0.5 + self.prng.unit())
    }

    /// Whose votes decide on the register, and in which arc epoch.
    pub(crate) fn sets_of(&self, key: &RegisterKey) -> (ReplicaSets, Epoch) {
        self.ring.arc_of(key.position).map_or((ReplicaSets::none(), Epoch(0)), |arc| (arc.sets(), arc.epoch))
    }
}
