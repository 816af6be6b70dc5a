//! The coordinator's half of confirming an arc, and the reads that rest on it.
//!
//! *Confirming an arc up to `c`*: a majority of the arc's replicas promises to refuse, from now on, everything up to
//! `c` from other coordinators, and reports what others had it accept since this coordinator last asked. Whatever is
//! reported and not known to be chosen is finished by a round of our own, whose ballot lies above `c`. Then every write
//! chosen up to `c` is known here, and none up to `c` can be chosen any more - but by ourselves, so that from the
//! moment a confirmation begins, our own new writes happen at times above it, by whatever promise they are made.
//!
//! *A sequential read* is answered from what is held here, at a time on one scale for all operations, the Lamport scale
//! of ballots: a write happens at the ballot at which it is chosen, or at the later time that its version tells (see
//! [`State::time`]); a read happens at the time `w` of what it shows, or, if `w` lies below the session's time, at a
//! confirmed `c` that does not. Sorted by that time, each session's operations come in their order, and each read shows
//! the last write before it: this is sequential consistency.
//! Nothing is said, and so nothing is waited for, about real time.
//!
//! What has to be so for an answer at once, without a message: what we hold of the register is known to be chosen; no
//! operation of ours is under way on it; `w` or the last finished confirmation is as new as the session.
//!
//! *A confirmation belongs to one arc epoch.* While the arc is changing it needs a majority of both replica sets; in
//! the next epoch it counts no more. That no ballot up to `c` is chosen in a later epoch either is argued in decision
//! 0054.
//!
//! *A strict read of a session* whose time lies above what is held takes its time from a confirmation, too, one that
//! began after it arrived; other strict reads ask for their key alone, as they always did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use membership::{BucketId, Epoch, NodeId, Position, ReplicaSets, Ring};
use stdx::{Instant, TraceContext};

use crate::io::{Event, Outbox, Ticket};
use crate::ledger::LedgerPosition;
use crate::message::{Body, LogPosition, RoundId, State};
use crate::replica::{Replica, Timer};
use crate::round::Waiting;
use crate::rules::{Rule, Rules};
use crate::types::{Ballot, Outcome, Receipt, RegisterKey};

/// Registers named in one report.
const REPORT_ENTRIES_MAX: usize = 256;
/// Reported registers that are finished at the same time.
const FINISHED_AT_ONCE_MAX: usize = 32;
/// How long reported registers may become chosen by themselves before we finish them: whoever writes is mostly at it.
const GRACE: Duration = Duration::from_millis(5);
/// When replicas that have not answered are asked again.
const RESEND_AFTER: Duration = Duration::from_millis(30);
/// The ticket of a round that only finishes what was reported; nobody waits for it.
pub(crate) const NOBODY: Ticket = Ticket(u64::MAX);

/// One page of what a replica says to a confirmation.
#[derive(Clone, Debug)]
pub(crate) struct ReportPage {
    /// Registers with the ballot accepted here.
    pub entries: Vec<(RegisterKey, Ballot)>,
    /// Up to where this report reaches.
    pub position: LedgerPosition,
    /// Whether more follow.
    pub more: bool,
    /// How far the log must be synced before the report may leave.
    pub wait: LogPosition,
}

/// A read that waits for a confirmation.
#[derive(Clone, Debug, Hash)]
struct Patient {
    waiting: Waiting,
    /// Which confirmations are new enough: those that began after this many had.
    arrived: u64,
}

/// A confirmation under way.
#[derive(Clone, Debug, Hash)]
struct Running {
    round: RoundId,
    up_to: u64,
    /// How many confirmations had begun before it.
    began: u64,
    /// Where each replica's report continues, and whether it is complete.
    reports: BTreeMap<NodeId, Report>,
    /// Who reported each ballot of each register.
    voters: BTreeMap<(RegisterKey, Ballot), BTreeSet<NodeId>>,
    /// What is not known to be chosen yet; meaningful once a majority's reports are complete.
    unfinished: BTreeMap<RegisterKey, Ballot>,
    /// Whether a majority's reports are complete.
    reported: bool,
    /// When registers that are still unfinished are finished by us.
    grace_until: Instant,
    timer_at: Instant,
    context: TraceContext,
}

#[derive(Clone, Debug, Default, Hash)]
struct Report {
    position: Option<LedgerPosition>,
    after: Option<RegisterKey>,
    complete: bool,
}

/// What this coordinator knows of one arc.
#[derive(Clone, Debug, Default, Hash)]
struct ArcView {
    /// From where each replica is asked on.
    positions: BTreeMap<NodeId, LedgerPosition>,
    /// The last finished confirmation: up to where, and how many had begun before it.
    confirmed: Option<(u64, u64)>,
    /// Our own writes must lie above this.
    asked_up_to: u64,
    running: Option<Running>,
    patient: Vec<Patient>,
}

/// All that this coordinator has confirmed and is confirming; an arc is named by its upper end.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Confirmations {
    arcs: BTreeMap<Position, ArcView>,
    /// Of each arc, the counter up to which our own rounds may have been cut short: what they had accepted is reported
    /// to us like that of others, and late messages of theirs are refused.
    cut_short: BTreeMap<Position, u64>,
    rounds: BTreeMap<RoundId, Position>,
    begun: u64,
    /// Rounds begun for reports alone; for counting.
    pub finished_for_others: u64,
}

impl<R: Rules> Replica<R> {
    /// The arc of a register, by its upper end.
    pub(crate) fn arc_end(&self, key: &RegisterKey) -> Position {
        self.ring.arc_of(key.position).map_or(key.position, |arc| arc.high)
    }

    /// Another view is in force than `before`: forgets what was confirmed in arc epochs that are over, and begins again
    /// for those who wait. What was promised to others stands on.
    pub(crate) fn follow_confirmations(&mut self, before: &Ring, out: &mut Outbox) {
        self.ledger.follow(before, &self.ring, self.rules.keeps(Rule::FloorsOutliveEpoch));
        let epoch_in = |ring: &Ring, high| ring.arc_of(high).filter(|arc| arc.high == high).map(|arc| arc.epoch);
        let over = |high: &Position| epoch_in(before, *high) != epoch_in(&self.ring, *high);
        let highs: Vec<Position> = self.confirmations.arcs.keys().copied().filter(over).collect();
        let mut patients = Vec::new();
        for high in highs {
            let known = self.confirmations.arcs.get(&high).map(|arc| (arc.positions.clone(), arc.confirmed));
            patients.append(&mut self.drop_confirmations(high));
            if let Some((positions, confirmed)) = known.filter(|_| !self.rules.keeps(Rule::ConfirmationsEndWithEpoch)) {
                let kept = ArcView { positions, confirmed, ..ArcView::default() };
                self.confirmations.arcs.insert(high, kept);
            }
        }
        // Our rounds of an epoch that is over were cut short.
        let counter = self.acceptor.counter();
        self.confirmations.cut_short.retain(|high, _| epoch_in(&self.ring, *high).is_some());
        for arc in self.ring.arcs().iter().filter(|arc| arc.is_held_by(self.me)) {
            if epoch_in(before, arc.high) != Some(arc.epoch) {
                self.confirmations.cut_short.insert(arc.high, counter);
            }
        }
        self.begin_reads_again(patients, out);
    }

    /// A round of ours was given up after it had proposed something at `counter`. It may yet be chosen, so what we
    /// confirm from now on must tell.
    pub(crate) fn note_cut_short(&mut self, key: &RegisterKey, counter: u64, out: &mut Outbox) {
        let high = self.arc_end(key);
        let known = self.confirmations.cut_short.entry(high).or_default();
        *known = (*known).max(counter);
        let asked_up_to = self.confirmations.arcs.get(&high).map_or(0, |arc| arc.asked_up_to);
        let patients = self.drop_confirmations(high);
        // Reads were answered below it: our writes stay above.
        self.confirmations.arcs.insert(high, ArcView { asked_up_to, ..ArcView::default() });
        self.begin_reads_again(patients, out);
    }

    /// Forgets what was confirmed of an arc, and what is being; those who waited for it.
    fn drop_confirmations(&mut self, high: Position) -> Vec<Patient> {
        self.close_cut(high);
        let Some(arc) = self.confirmations.arcs.remove(&high) else { return Vec::new() };
        if let Some(running) = arc.running {
            self.confirmations.rounds.remove(&running.round);
            self.timers.remove(&(running.timer_at, Timer::Confirm(running.round)));
        }
        arc.patient
    }

    fn begin_reads_again(&mut self, patients: Vec<Patient>, out: &mut Outbox) {
        for Patient { waiting, .. } in patients {
            if waiting.ticket.is_some_and(|ticket| !self.is_open(ticket)) {
                continue;
            }
            if self.holds(waiting.operation.key()) {
                self.begin_read(waiting, out);
            } else {
                self.end_elsewhere(waiting, out);
            }
        }
    }

    /// Whether our own write of this register may happen at the ballot: it lies above every confirmation that we began.
    pub(crate) fn lies_above_confirmations(&self, key: &RegisterKey, ballot: Ballot) -> bool {
        let arc = self.confirmations.arcs.get(&self.arc_end(key));
        !self.rules.keeps(Rule::NewWritesAbove) || arc.is_none_or(|arc| ballot.counter > arc.asked_up_to)
    }

    /// Begins a read of any level.
    pub(crate) fn begin_read(&mut self, waiting: Waiting, out: &mut Outbox) {
        let key = waiting.operation.key().clone();
        let held = self.time_held(&key);
        let asks_for_its_key = waiting.since <= held || !self.rules.keeps(Rule::StrictInSession);
        if !waiting.sequential && asks_for_its_key && self.rules.keeps(Rule::ConfirmAfterArrival) {
            return self.begin_query(key, waiting, out);
        }
        let arrived = self.confirmations.begun;
        self.serve(Patient { waiting, arrived }, out);
    }

    /// Answers a read, or lets it wait for what it needs.
    fn serve(&mut self, patient: Patient, out: &mut Outbox) {
        let Patient { waiting, arrived } = patient;
        let key = waiting.operation.key().clone();
        let arc = self.arc_end(&key);
        let confirmed = self.confirmations.arcs.get(&arc).and_then(|arc| arc.confirmed);
        let fresh = confirmed.is_some_and(|(up_to, began)| {
            let new_enough = waiting.sequential || began >= arrived || !self.rules.keeps(Rule::ConfirmAfterArrival);
            new_enough && (up_to >= waiting.since.counter || !self.rules.keeps(Rule::ConfirmToSession))
        });
        let busy = self.lanes.get(&key).is_some_and(|lane| lane.round.is_some() || !lane.queue.is_empty());
        if busy && self.rules.keeps(Rule::WaitForOwnWrite) {
            // Read in the round after it: at that round's ballot, which lies above everything that was seen.
            return self.in_a_round(&key, waiting, out);
        }
        let (held, chosen, logged) = match self.acceptor.register(&key) {
            Some(register) => (register.accepted, register.chosen, register.logged),
            None => (Ballot::ZERO, Ballot::ZERO, LogPosition(0)),
        };
        let known = (held == chosen || !self.rules.keeps(Rule::AnswerChosen)) && logged <= self.acceptor.synced();
        let time = self.time_held(&key);
        let new_enough = waiting.sequential && held > Ballot::ZERO && time >= waiting.since;
        if !fresh && !new_enough {
            self.confirmations.arcs.entry(arc).or_default().patient.push(Patient { waiting, arrived });
            return self.begin_confirmation(arc, out);
        }
        if !known || !self.is_copied(arc) {
            return self.begin_query(key, waiting, out);
        }
        let state = self.acceptor.accepted(&key).1;
        if self.must_end(&state, &waiting) {
            return self.in_a_round(&key, waiting, out);
        }
        let time = self.time_of_read(&key, &waiting, time);
        let outcome = crate::coordinator::read_outcome(self.rules, &waiting.operation, &state, waiting.wall_ms);
        let receipt = Receipt { epoch: self.view.epoch, voters: vec![self.me], rounds: 0, time };
        if let Some(ticket) = waiting.ticket {
            self.answer(ticket, outcome, receipt, out);
        }
    }

    /// When what was accepted at `ballot` happened.
    pub(crate) fn time_of(&self, ballot: Ballot, state: &State) -> Ballot {
        if self.rules.keeps(Rule::TimeOfState) { state.time(ballot) } else { ballot }
    }

    /// When what is held here of a register happened; zero where nothing is held.
    fn time_held(&self, key: &RegisterKey) -> Ballot {
        self.acceptor.register(key).map_or(Ballot::ZERO, |held| self.time_of(held.accepted, &held.state))
    }

    /// The time at which a read happened that shows what was written at the time `shown`.
    pub(crate) fn time_of_read(&self, key: &RegisterKey, waiting: &Waiting, shown: Ballot) -> Ballot {
        let confirmed = self.confirmations.arcs.get(&self.arc_end(key)).and_then(|arc| arc.confirmed);
        let up_to = confirmed.map_or(0, |(up_to, _)| up_to);
        let time = if shown >= waiting.since { shown } else { Ballot::end_of(up_to.max(waiting.since.counter)) };
        // What is absent may have been dropped: the read happened after that, and so does what the session does next.
        if shown == Ballot::ZERO { time.max(self.floor_of_absence(key)) } else { time }
    }

    /// Whether a read that was answered by a query has a time: its session has seen nothing newer than what it shows,
    /// or the arc is confirmed up to what it has seen.
    pub(crate) fn has_time(&self, key: &RegisterKey, waiting: &Waiting, shown: Ballot) -> bool {
        let confirmed = self.confirmations.arcs.get(&self.arc_end(key)).and_then(|arc| arc.confirmed);
        let covered = confirmed.is_some_and(|(up_to, _)| up_to >= waiting.since.counter);
        shown >= waiting.since
            || covered
            || !self.rules.keeps(Rule::ConfirmToSession)
            || !self.rules.keeps(Rule::StrictInSession)
    }

    /// Notes that what is held of a register at `ballot`, if it still is, is chosen.
    ///
    /// For cuts it counts as of its ballot, though it may have happened later: who is merely told of it may lack what
    /// it hides, and takes the cut again.
    pub(crate) fn note_chosen(&mut self, key: &RegisterKey, ballot: Ballot) {
        self.acceptor.note_chosen(key, ballot, ballot);
    }

    /// Begins to confirm the arc, unless a confirmation is under way; those who wait are looked at when it ends.
    pub(crate) fn begin_confirmation(&mut self, arc: Position, out: &mut Outbox) {
        if self.confirmations.arcs.get(&arc).is_some_and(|view| view.running.is_some()) {
            return;
        }
        let round = self.next_round_id();
        // A ballot's counter, like any: nothing that anyone begins later lies below it.
        let up_to = self.acceptor.tick(&mut out.persist);
        self.confirmations.begun += 1;
        let began = self.confirmations.begun - 1;
        let timer_at = self.now + self.jittered(RESEND_AFTER);
        let for_cut = self.cut_context(arc);
        let view = self.confirmations.arcs.entry(arc).or_default();
        view.asked_up_to = up_to;
        let context = view.patient.first().map_or(for_cut, |patient| patient.waiting.context);
        view.running = Some(Running {
            round,
            up_to,
            began,
            reports: BTreeMap::new(),
            voters: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            reported: false,
            grace_until: self.now,
            timer_at,
            context,
        });
        self.confirmations.rounds.insert(round, arc);
        self.timers.insert((timer_at, Timer::Confirm(round)));
        self.open_cut(arc, up_to, began);
        self.ask_all_to_confirm(arc, out);
    }

    /// Whether a confirmation of the arc is under way.
    pub(crate) fn is_confirming(&self, arc: Position) -> bool {
        self.confirmations.arcs.get(&arc).is_some_and(|view| view.running.is_some())
    }

    /// How many confirmations have begun: one that begins from now on has this number or a higher one.
    pub(crate) fn confirmations_begun(&self) -> u64 {
        self.confirmations.begun
    }

    /// Whose promises confirm the arc, and in which arc epoch.
    fn arc_sets(&self, arc: Position) -> (ReplicaSets, Epoch) {
        let known = self.ring.arc_of(arc).filter(|known| known.high == arc);
        known.map_or((ReplicaSets::none(), Epoch(0)), |known| (known.sets(), known.epoch))
    }

    fn ask_all_to_confirm(&mut self, arc: Position, out: &mut Outbox) {
        let nodes: Vec<NodeId> = self.arc_sets(arc).0.iter().collect();
        for node in nodes {
            self.ask_to_confirm(arc, node, out);
        }
    }

    fn ask_to_confirm(&mut self, arc: Position, node: NodeId, out: &mut Outbox) {
        let cut_short = self.confirmations.cut_short.get(&arc).copied().unwrap_or(0);
        let since = self.acceptor.floor().max(cut_short);
        let Some(view) = self.confirmations.arcs.get(&arc) else { return };
        let Some(running) = &view.running else { return };
        let report = running.reports.get(&node);
        if report.is_some_and(|report| report.complete) {
            return;
        }
        let body = Body::Confirm {
            round: running.round,
            arc,
            up_to: running.up_to,
            since,
            position: view.positions.get(&node).copied().unwrap_or_default(),
            after: report.and_then(|report| report.after.clone()),
        };
        let (context, epoch) = (running.context, self.arc_sets(arc).1);
        self.tell((node, epoch), body, LogPosition(0), context, out);
    }

    /// Answers as a replica of the arc: promises the floor, reports what others had it accept.
    pub(crate) fn confirm_as_replica(
        &mut self,
        from: NodeId,
        (arc, up_to, since): (Position, u64, u64),
        position: LedgerPosition,
        after: Option<RegisterKey>,
    ) -> Option<ReportPage> {
        let known = self.ring.arc_of(arc).filter(|known| known.high == arc)?;
        if !known.is_held_by(self.me) || !known.is_held_by(from) {
            return None;
        }
        let ends = (known.low, known.high);
        self.ledger.promise(arc, from, if self.rules.keeps(Rule::KeepFloor) { up_to } else { 0 }, since);
        let start = self.acceptor.floor();
        // Counted from 1, so that 0 asks for the whole arc: it also holds what was accepted in earlier arc epochs.
        let here = LedgerPosition { start, count: self.ledger.count(arc) + 1 };
        let told = position.count.checked_sub(1).filter(|_| position.start == start);
        let remembered = told.and_then(|count| self.ledger.accepted_since(arc, count, from, since));
        // A position of another start, or one long past, is answered with the whole arc.
        let all: Box<dyn Iterator<Item = (RegisterKey, Ballot)> + '_> = match remembered {
            Some(registers) => {
                let wanted = move |entry: &(RegisterKey, Ballot)| after.as_ref().is_none_or(|after| entry.0 > *after);
                // Of what was dropped since, all replicas held the tombstone, the asker too.
                let held = |entry: &(RegisterKey, Ballot)| !self.acceptor.is_absent(&entry.0);
                Box::new(registers.into_iter().filter(held).filter(wanted))
            }
            None => {
                let held = self.acceptor.of_arc_by_key(ends, after.as_ref());
                Box::new(held.map(|(key, held)| (key.clone(), held.accepted)))
            }
        };
        let mut entries: Vec<(RegisterKey, Ballot)> = all.take(REPORT_ENTRIES_MAX + 1).collect();
        let more = entries.len() > REPORT_ENTRIES_MAX;
        entries.truncate(REPORT_ENTRIES_MAX);
        // A report vouches for what it names.
        let logged = entries.iter().filter_map(|(key, _)| self.acceptor.register(key)).map(|held| held.logged).max();
        Some(ReportPage { entries, position: here, more, wait: logged.unwrap_or_default() })
    }

    /// Takes a replica's report.
    pub(crate) fn handle_confirmed(
        &mut self,
        from: NodeId,
        round: RoundId,
        position: LedgerPosition,
        (entries, more): (Vec<(RegisterKey, Ballot)>, bool),
        out: &mut Outbox,
    ) {
        let Some(arc) = self.confirmations.rounds.get(&round).copied() else { return };
        let sets = self.arc_sets(arc).0;
        let (me, copies) = (self.me, !self.is_copied(arc));
        let Some(running) = self.confirmations.arcs.get_mut(&arc).and_then(|view| view.running.as_mut()) else {
            return;
        };
        let report = running.reports.entry(from).or_default();
        let beyond = entries.last().map(|(key, _)| key.clone());
        // A page that does not get on is an old one that came late or twice.
        if report.complete || !sets.contains(from) || (more && beyond <= report.after) {
            return;
        }
        // What is accepted between two pages is told from the first page's position on, next time.
        report.position = report.position.or(Some(position));
        report.after = beyond.or_else(|| report.after.take());
        report.complete = !more;
        for entry in entries {
            running.voters.entry(entry).or_default().insert(from);
        }
        let complete = |node: NodeId| running.reports.get(&node).is_some_and(|report| report.complete);
        // What a newcomer holds without knowing whether it is chosen must be settled too before it counts.
        let enough = confirms(self.rules, &sets, complete) && (!copies || complete(me));
        if more {
            self.ask_to_confirm(arc, from, out);
        } else if enough {
            self.judge_reported(arc, &sets);
        }
        self.confirm_continue(arc, out);
    }

    /// What a majority has reported: which of it is known to be chosen, and which is unfinished.
    fn judge_reported(&mut self, arc: Position, sets: &ReplicaSets) {
        let (now, awaits_cut) = (self.now, self.awaits_cut(arc));
        let Some(running) = self.confirmations.arcs.get_mut(&arc).and_then(|view| view.running.as_mut()) else {
            return;
        };
        if !running.reported {
            running.reported = true;
            running.grace_until = now + GRACE;
        }
        let mut highest: BTreeMap<&RegisterKey, Ballot> = BTreeMap::new();
        for (key, ballot) in running.voters.keys() {
            let known = highest.entry(key).or_insert(*ballot);
            *known = (*known).max(*ballot);
        }
        let mut chosen = Vec::new();
        let mut unfinished = BTreeMap::new();
        for (key, ballot) in highest {
            let voters = running.voters.get(&(key.clone(), ballot));
            if voters.is_some_and(|voters| confirms(self.rules, sets, |node| voters.contains(&node))) {
                chosen.push((key.clone(), ballot));
            } else {
                unfinished.insert(key.clone(), ballot);
            }
        }
        let told = awaits_cut.then(|| {
            let above = running.voters.keys().filter(|(_, ballot)| ballot.counter > running.up_to);
            let above: BTreeSet<BucketId> = above.map(|(key, _)| key.bucket).collect();
            (above, unfinished.clone())
        });
        running.unfinished = if self.rules.keeps(Rule::FinishReported) { unfinished } else { BTreeMap::new() };
        if let Some((above, unsettled)) = told {
            self.note_reported_for_cut(arc, above, unsettled);
        }
        for (key, ballot) in chosen {
            self.note_chosen(&key, ballot);
        }
    }

    /// Looks at all confirmations whose reports are complete: some of their registers may have been chosen meanwhile.
    pub(crate) fn confirm_continue_all(&mut self, out: &mut Outbox) {
        let reported: Vec<Position> = self
            .confirmations
            .rounds
            .values()
            .copied()
            .filter(|arc| {
                let running = self.confirmations.arcs.get(arc).and_then(|view| view.running.as_ref());
                running.is_some_and(|running| running.reported)
            })
            .collect();
        for arc in reported {
            self.confirm_continue(arc, out);
        }
    }

    fn confirm_continue(&mut self, arc: Position, out: &mut Outbox) {
        let acceptor = &self.acceptor;
        let Some(view) = self.confirmations.arcs.get_mut(&arc) else { return };
        let Some(running) = view.running.as_mut().filter(|running| running.reported) else { return };
        running
            .unfinished
            .retain(|key, ballot| acceptor.register(key).is_none_or(|register| register.chosen < *ballot));
        if running.unfinished.is_empty() {
            return self.confirm_end(arc, out);
        }
        if self.now < running.grace_until {
            return;
        }
        let keys: Vec<RegisterKey> = running.unfinished.keys().take(FINISHED_AT_ONCE_MAX).cloned().collect();
        let context = running.context;
        for key in keys {
            if self.lanes.get(&key).is_some_and(|lane| lane.round.is_some() || !lane.queue.is_empty()) {
                continue;
            }
            self.confirmations.finished_for_others += 1;
            let deadline = self.now;
            let waiting = Waiting { ticket: Some(NOBODY), deadline, context, ..Waiting::internal(&key) };
            self.in_a_round(&key, waiting, out);
        }
    }

    fn confirm_end(&mut self, arc: Position, out: &mut Outbox) {
        let Some(view) = self.confirmations.arcs.get_mut(&arc) else { return };
        let Some(running) = view.running.take() else { return };
        for (node, report) in running.reports {
            // Only of a complete report is everything before its position known.
            if let Some(position) = report.position.filter(|_| report.complete) {
                view.positions.insert(node, position);
            }
        }
        view.confirmed = Some((running.up_to, running.began));
        let patients = std::mem::take(&mut view.patient);
        self.confirmations.rounds.remove(&running.round);
        self.timers.remove(&(running.timer_at, Timer::Confirm(running.round)));
        out.events.push(Event::ArcConfirmed { high: arc, up_to: running.up_to });
        self.confirm_cut(arc, running.began);
        self.transfer_confirmed(arc, running.began, out);
        for patient in patients {
            // Those whose deadline has passed were answered.
            if patient.waiting.ticket.is_some_and(|ticket| self.is_open(ticket)) {
                self.serve(patient, out);
            }
        }
    }

    pub(crate) fn handle_confirm_timer(&mut self, round: RoundId, out: &mut Outbox) {
        let Some(arc) = self.confirmations.rounds.get(&round).copied() else { return };
        let around = self.jittered(RESEND_AFTER);
        let at = self.now + around;
        let open: BTreeSet<Ticket> = self.open_tickets(&arc);
        let copies = !self.is_copied(arc) || self.awaits_cut(arc);
        let Some(view) = self.confirmations.arcs.get_mut(&arc) else { return };
        view.patient.retain(|patient| patient.waiting.ticket.is_some_and(|ticket| open.contains(&ticket)));
        if view.patient.is_empty() && !copies {
            // Nobody waits for it any more. What was promised to us stays promised.
            view.running = None;
            self.confirmations.rounds.remove(&round);
            return;
        }
        let Some(running) = view.running.as_mut() else { return };
        running.timer_at = at;
        self.timers.insert((at, Timer::Confirm(round)));
        self.ask_all_to_confirm(arc, out);
        self.confirm_continue(arc, out);
    }

    /// Which of the reads that wait for the arc are not answered yet.
    fn open_tickets(&self, arc: &Position) -> BTreeSet<Ticket> {
        let patient = self.confirmations.arcs.get(arc).map_or(&[][..], |view| &view.patient);
        let tickets = patient.iter().filter_map(|patient| patient.waiting.ticket);
        tickets.filter(|ticket| self.is_open(*ticket)).collect()
    }

    /// Answers a read that a query has settled, unless its time needs a confirmation first.
    pub(crate) fn end_query(
        &mut self,
        waiting: Waiting,
        shown: Ballot,
        (outcome, receipt): (Outcome, Receipt),
        out: &mut Outbox,
    ) {
        let key = waiting.operation.key().clone();
        if waiting.ticket.is_some() && !self.has_time(&key, &waiting, shown) {
            // Not to `serve`: what is held may be as new as the session and yet not be what a majority holds (say, a
            // tombstone that the others have dropped), and then it would only ask again, and again.
            let (arc, arrived) = (self.arc_end(&key), self.confirmations.begun);
            self.confirmations.arcs.entry(arc).or_default().patient.push(Patient { waiting, arrived });
            return self.begin_confirmation(arc, out);
        }
        let time = self.time_of_read(&key, &waiting, shown);
        self.end(waiting.ticket, outcome, Receipt { time, ..receipt }, out);
    }
}

/// For the model check, in which a timer may run out at any moment and clocks stand still.
impl Confirmations {
    /// Puts all that is to happen at some time off to `far`.
    pub(crate) fn stop_clocks(&mut self, far: Instant) {
        for running in self.arcs.values_mut().filter_map(|arc| arc.running.as_mut()) {
            (running.timer_at, running.grace_until) = (far, far);
        }
    }

    /// Those who write have had their time to finish by themselves.
    pub(crate) fn end_grace(&mut self, round: RoundId) {
        let running =
            self.rounds.get(&round).and_then(|arc| self.arcs.get_mut(arc)).and_then(|arc| arc.running.as_mut());
        if let Some(running) = running {
            running.grace_until = Instant::ZERO;
        }
    }

    /// The arc that is being confirmed under this number.
    pub(crate) fn arc_asked(&self, round: RoundId) -> Option<Position> {
        self.rounds.get(&round).copied()
    }

    /// Whether `from`'s answer to this question is still waited for.
    pub(crate) fn waits_for(&self, round: RoundId, from: NodeId) -> bool {
        let running = self.rounds.get(&round).and_then(|arc| self.arcs.get(arc)).and_then(|arc| arc.running.as_ref());
        let answered = |running: &Running| running.reports.get(&from).is_some_and(|report| report.complete);
        running.is_some_and(|running| !answered(running))
    }
}

/// Whether the nodes for which `says_yes` holds confirm an arc that has these sets.
fn confirms(rules: impl Rules, sets: &ReplicaSets, says_yes: impl Fn(NodeId) -> bool) -> bool {
    let current = ReplicaSets { current: Arc::clone(&sets.current), next: None };
    if rules.keeps(Rule::ConfirmJointly) { sets.is_quorum(says_yes) } else { current.is_quorum(says_yes) }
}
