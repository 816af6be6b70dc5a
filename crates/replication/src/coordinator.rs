//! The coordinator's half of a replica: rounds that prepare, accept and query.

use std::collections::BTreeMap;
use std::time::Duration;

use membership::NodeId;

use crate::apply::{Kept, apply, end_if_due, lapse_if_due};
use crate::io::{Event, Outbox, Ticket};
use crate::message::{Body, LogPosition, RoundId, State};
use crate::replica::{Replica, Timer};
use crate::round::{Phase, Round, Waiting, is_quorum};
use crate::rules::{Rule, Rules};
use crate::types::{Ballot, Operation, Outcome, Receipt, Refusal, RegisterKey, Version};

/// Operations on one key that are agreed in one round at most.
pub(crate) const BATCH_MAX: usize = 64;
/// How long a round waits before it asks again those who have not answered; doubled each time.
const RESEND_AFTER: Duration = Duration::from_millis(30);
/// The longest wait between two askings.
const RESEND_AFTER_MAX: Duration = Duration::from_millis(250);
/// The wait after a first refusal, doubled with each further one.
const BACK_OFF: Duration = Duration::from_millis(2);
/// The longest such wait.
const BACK_OFF_MAX: Duration = Duration::from_millis(60);
/// Askings after which a read stops hoping for agreeing reports and settles the register by a round of its own.
const QUERY_RESENDS_MAX: u32 = 1;
/// Askings after which a round that met a full disk is given up.
const FULL_RESENDS_MAX: u32 = 1;
/// Askings after which a round that nobody waits for any more is given up.
const ORPHAN_RESENDS_MAX: u32 = 8;

impl<R: Rules> Replica<R> {
    /// Lets an operation wait for the next round on its register, which begins now unless one is under way.
    pub(crate) fn in_a_round(&mut self, key: &RegisterKey, waiting: Waiting, out: &mut Outbox) {
        self.lanes.entry(key.clone()).or_default().queue.push_back(waiting);
        self.advance_lane(key, out);
    }

    /// Begins the next round on a register if operations wait and none is under way.
    pub(crate) fn advance_lane(&mut self, key: &RegisterKey, out: &mut Outbox) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.round.is_some() {
            return;
        }
        if lane.queue.is_empty() {
            if lane.reads.is_empty() {
                self.lanes.remove(key);
            }
            return;
        }
        let batch = lane.queue.len().min(BATCH_MAX);
        let waiting: Vec<Waiting> = lane.queue.drain(..batch).collect();
        let id = self.next_round_id();
        let since = waiting.iter().map(|waiting| waiting.since).max().unwrap_or(Ballot::ZERO);
        let (sets, epoch) = self.sets_of(key);
        let round = Round::new(key.clone(), (sets, epoch), waiting, 0);
        self.rounds.insert(id, round);
        self.lanes.entry(key.clone()).or_default().round = Some(id);
        let arc = self.arc_end(key);
        // What we have promised to another's confirmation ourselves, others surely have.
        let stands = |ballot| self.ledger.bar(arc, ballot).is_none();
        match self.acceptor.take_grant(key, epoch).filter(|(ballot, _)| stands(*ballot)) {
            Some((ballot, state)) if ballot > since && self.lies_above_confirmations(key, ballot) => {
                self.begin_accept(id, ballot, state, out);
            }
            Some((ballot, state)) => self.begin_accept_later(id, ballot, state, out),
            None => self.begin_prepare(id, out),
        }
    }

    fn begin_prepare(&mut self, id: RoundId, out: &mut Outbox) {
        let ballot = self.fresh_ballot(out);
        let id = self.enter(id, Phase::Preparing { ballot, best: (Ballot::ZERO, State::default()) }, RESEND_AFTER);
        self.ask(id, None, out);
    }

    /// Proposes `base` with the waiting writes applied.
    fn begin_accept(&mut self, id: RoundId, ballot: Ballot, base: State, out: &mut Outbox) {
        let Some(round) = self.rounds.get(&id) else { return };
        // A round without a write only finishes what was begun. It asks for no next ballot, by which full disks know
        // it.
        let ends =
            round.waiting.iter().any(|waiting| base.is_due(waiting.wall_ms)) && self.rules.keeps(Rule::AgreeOnEnd);
        let lapses = round.waiting.iter().any(|waiting| base.has_lapsed(waiting.wall_ms));
        let writes = ends || lapses || round.waiting.iter().any(is_write);
        let (state, outcomes) = self.apply_waiting(round, base, ballot);
        let next = if writes { self.fresh_ballot(out) } else { Ballot::ZERO };
        self.propose(id, (ballot, next), state, outcomes, out);
    }

    /// The same by a promise that is older than what these operations must come after: they happen at a later time than
    /// the ballot at which they are agreed on, which the version tells whoever finds it.
    ///
    /// That takes a new version. What changes none (a condition that fails, a read) asks for a promise.
    fn begin_accept_later(&mut self, id: RoundId, ballot: Ballot, base: State, out: &mut Outbox) {
        // In this order: whoever accepts promises the next ballot too, so that every round which finds this state has a
        // ballot above its time.
        let first = self.fresh_ballot(out);
        let second = self.fresh_ballot(out);
        let (time, next) = if self.rules.keeps(Rule::NextAboveTime) { (first, second) } else { (second, first) };
        let Some(round) = self.rounds.get(&id) else { return };
        let (state, outcomes) = self.apply_waiting(round, base, time);
        if state.version.ballot != time {
            return self.begin_prepare(id, out);
        }
        let ballot = if self.rules.keeps(Rule::AcceptAsPromised) { ballot } else { time };
        self.propose(id, (ballot, next), state, outcomes, out);
    }

    /// A ballot of our own above all that was seen.
    fn fresh_ballot(&mut self, out: &mut Outbox) -> Ballot {
        Ballot { counter: self.acceptor.tick(&mut out.persist), node: self.me }
    }

    /// What becomes of `base` by the operations that wait for the round, if they happen at `time`; and their outcomes.
    fn apply_waiting(&self, round: &Round, base: State, time: Ballot) -> (State, Vec<Outcome>) {
        let mut state = base;
        let mut outcomes = Vec::with_capacity(round.waiting.len());
        for (index, waiting) in round.waiting.iter().enumerate() {
            let version = Version { ballot: time, index: index as u32 };
            if self.rules.keeps(Rule::AgreeOnEnd) {
                end_if_due(&mut state, version, waiting.wall_ms);
            }
            lapse_if_due(&mut state, waiting.wall_ms);
            let kept =
                Kept { requests: self.rules.keeps(Rule::RememberRequests), fence: self.rules.keeps(Rule::KeepFence) };
            outcomes.push(match &waiting.operation {
                Operation::Write(write) => apply(&mut state, write, version, waiting.wall_ms, kept),
                read => read_outcome(self.rules, read, &state, waiting.wall_ms),
            });
        }
        (state, outcomes)
    }

    /// Asks for votes on `state`.
    fn propose(
        &mut self,
        id: RoundId,
        (ballot, next): (Ballot, Ballot),
        state: State,
        outcomes: Vec<Outcome>,
        out: &mut Outbox,
    ) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        round.proposed = ballot.counter;
        for waiting in round.waiting.iter_mut().filter(|waiting| is_write(waiting)) {
            waiting.proposed = true;
        }
        let id = self.enter(id, Phase::Accepting { ballot, state, next, outcomes }, RESEND_AFTER);
        self.ask(id, None, out);
    }

    /// A read: what does a majority hold?
    pub(crate) fn begin_query(&mut self, key: RegisterKey, waiting: Waiting, out: &mut Outbox) {
        let id = self.next_round_id();
        let round = Round::new(key.clone(), self.sets_of(&key), vec![waiting], 0);
        self.rounds.insert(id, round);
        self.lanes.entry(key).or_default().reads.push(id);
        let id = self.enter(id, Phase::Querying { reports: BTreeMap::new() }, RESEND_AFTER);
        self.ask(id, None, out);
    }

    /// Begins a phase under a number of its own: an answer to an earlier phase must never count in a later one.
    fn enter(&mut self, id: RoundId, phase: Phase, timer_after: Duration) -> RoundId {
        let resend_at = self.now + self.jittered(timer_after);
        let Some(mut round) = self.rounds.remove(&id) else { return id };
        let renewed = self.next_round_id();
        self.timers.remove(&(round.resend_at, Timer::Round(id)));
        if let Some(lane) = self.lanes.get_mut(&round.key) {
            for held in lane.round.iter_mut().chain(&mut lane.reads).filter(|held| **held == id) {
                *held = renewed;
            }
        }
        round.enter(phase, resend_at);
        self.rounds.insert(renewed, round);
        self.timers.insert((resend_at, Timer::Round(renewed)));
        renewed
    }

    /// Sends the phase's question to the replicas that have not answered it, or to `only` one of them.
    fn ask(&mut self, id: RoundId, only: Option<NodeId>, out: &mut Outbox) {
        let Some(round) = self.rounds.get(&id) else { return };
        let key = round.key.clone();
        let body = match &round.phase {
            Phase::Preparing { ballot, .. } => Body::Prepare { round: id, key, ballot: *ballot },
            Phase::Accepting { ballot, state, next, .. } => {
                Body::Accept { round: id, key, ballot: *ballot, state: state.clone(), next: *next }
            }
            Phase::Querying { .. } => {
                let known = self.acceptor.accepted_ballot(&key);
                Body::Query { round: id, key, known }
            }
            Phase::BackingOff => return,
        };
        let (context, epoch) = (round.context, round.epoch);
        let wanted = |node: &NodeId| only.is_none_or(|one| one == *node) && !round.has_answered(*node);
        let nodes: Vec<NodeId> = round.sets.iter().filter(wanted).collect();
        for node in nodes {
            let body = match &body {
                // Our own report must carry the state: the others leave it out when they hold the same.
                Body::Query { round, key, .. } if node == self.me => {
                    Body::Query { round: *round, key: key.clone(), known: NEVER }
                }
                body => body.clone(),
            };
            self.tell((node, epoch), body, LogPosition(0), context, out);
        }
    }

    /// Asks a node that can be reached again what it has not answered.
    pub(crate) fn ask_again(&mut self, node: NodeId, out: &mut Outbox) {
        let ids: Vec<RoundId> = self.rounds.keys().copied().collect();
        for id in ids {
            self.ask(id, Some(node), out);
        }
    }

    pub(crate) fn handle_promise(&mut self, from: NodeId, id: RoundId, accepted: (Ballot, State), out: &mut Outbox) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        if round.has_answered(from) || !round.sets.contains(from) {
            return;
        }
        let Phase::Preparing { ballot, best } = &mut round.phase else { return };
        let better = if self.rules.keeps(Rule::BuildOnAccepted) { accepted.0 > best.0 } else { from == self.me };
        if better {
            *best = accepted;
        }
        let (ballot, base, time) = (*ballot, best.1.clone(), best.1.time(best.0));
        round.votes.push(from);
        if !round.is_decided(self.rules) {
            return;
        }
        if time < ballot {
            self.begin_accept(id, ballot, base, out);
        } else {
            // Whoever voted for it has promised a ballot above its time, but who copied it has not.
            self.acceptor.observe(time.counter, &mut out.persist);
            self.begin_prepare(id, out);
        }
    }

    pub(crate) fn handle_accepted(&mut self, from: NodeId, id: RoundId, out: &mut Outbox) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        if round.has_answered(from) || !round.sets.contains(from) {
            return;
        }
        if !matches!(round.phase, Phase::Accepting { .. }) {
            return;
        }
        round.votes.push(from);
        if round.is_decided(self.rules) {
            self.finish_accept(id, out);
        }
    }

    fn finish_accept(&mut self, id: RoundId, out: &mut Outbox) {
        let Some(round) = self.forget_round(id) else { return };
        let Phase::Accepting { ballot, state, next, outcomes } = round.phase else { return };
        self.acceptor.grant(&round.key, round.epoch, ballot, next);
        // Of our own we know what they hide: a promise stands only while what we hold is the last that was chosen.
        self.acceptor.note_chosen(&round.key, ballot, state.time(ballot));
        for node in &round.refusals {
            // It refused what is now chosen: it may take it all the same, and would lag otherwise.
            let learn = Body::Learn { key: round.key.clone(), ballot, state: state.clone() };
            self.tell((*node, round.epoch), learn, LogPosition(0), round.context, out);
        }
        let receipt = Receipt { time: state.time(ballot), ..self.receipt(&round.votes, round.rounds) };
        for (waiting, outcome) in round.waiting.into_iter().zip(outcomes) {
            self.end(waiting.ticket, outcome, receipt.clone(), out);
        }
        self.advance_lane(&round.key, out);
    }

    pub(crate) fn handle_nack(&mut self, from: NodeId, id: RoundId, seen: u64, disk_full: bool, out: &mut Outbox) {
        self.acceptor.observe(seen, &mut out.persist);
        let Some(round) = self.rounds.get_mut(&id) else { return };
        if round.has_answered(from) || !round.sets.contains(from) {
            return;
        }
        if !matches!(round.phase, Phase::Preparing { .. } | Phase::Accepting { .. }) {
            return;
        }
        round.refusals.push(from);
        round.disk_full |= disk_full;
        out.events.push(Event::Contention { by: from });
        // As long as a majority can still say yes, a refusal changes nothing; one that stays silent is not waited for
        // longer than the next timer.
        let hopeless = |node: NodeId| round.refusals.contains(&node) || self.down.contains(&node);
        if round.may_be_decided(self.rules, hopeless) {
            return;
        }
        if round.disk_full {
            self.give_up_for_disk(id, out);
        } else {
            self.back_off(id);
        }
    }

    /// Waits a little, then prepares again with a higher ballot.
    fn back_off(&mut self, id: RoundId) {
        let rounds = self.rounds.get(&id).map_or(0, |round| round.rounds);
        let around = BACK_OFF.saturating_mul(1 << rounds.min(6)).min(BACK_OFF_MAX);
        self.enter(id, Phase::BackingOff, around);
    }

    fn give_up_for_disk(&mut self, id: RoundId, out: &mut Outbox) {
        let Some(round) = self.forget_round(id) else { return };
        if round.proposed > 0 {
            self.note_cut_short(&round.key, round.proposed, out);
        }
        let receipt = self.receipt(&[], round.rounds);
        // What only reads shared the round by chance: they go on without the writes, in a round that full disks take.
        let (writes, reads): (Vec<Waiting>, Vec<Waiting>) = round.waiting.into_iter().partition(is_write);
        let ended_a_value = matches!(round.phase, Phase::Accepting { next, .. } if next > Ballot::ZERO);
        let (refused, mut go_on) = if writes.is_empty() && !ended_a_value { (reads, writes) } else { (writes, reads) };
        for read in &mut go_on {
            // They see the value even if its time is up: as long as nobody can write its end, it is not over.
            read.wall_ms = 0;
        }
        self.lanes.entry(round.key.clone()).or_default().queue.extend(go_on);
        for waiting in refused {
            let outcome = if waiting.proposed { Outcome::Unknown } else { Outcome::Refused(Refusal::DiskFull) };
            self.end(waiting.ticket, outcome, receipt.clone(), out);
        }
        self.advance_lane(&round.key, out);
    }

    pub(crate) fn handle_report(
        &mut self,
        from: NodeId,
        id: RoundId,
        ballot: Ballot,
        state: Option<State>,
        out: &mut Outbox,
    ) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        if !round.sets.contains(from) {
            return;
        }
        let Phase::Querying { reports } = &mut round.phase else { return };
        reports.entry(from).or_insert((ballot, state));
        self.judge_reports(id, out);
    }

    /// Ends a query as soon as a majority reports one ballot: its state is chosen, and nothing newer was chosen before
    /// the query began, since a majority of its own would have had a member among these.
    fn judge_reports(&mut self, id: RoundId, out: &mut Outbox) {
        let Some(round) = self.rounds.get(&id) else { return };
        let Phase::Querying { reports } = &round.phase else { return };
        let agrees = |node: NodeId, ballot: Ballot| reports.get(&node).is_some_and(|(reported, _)| *reported == ballot);
        let is_chosen = |ballot: &Ballot| {
            !self.rules.keeps(Rule::ReadMajority) || is_quorum(self.rules, &round.sets, |node| agrees(node, *ballot))
        };
        let chosen = reports.values().map(|(ballot, _)| *ballot).find(is_chosen);
        if let Some(ballot) = chosen {
            let sent = reports.values().find_map(|(reported, state)| state.as_ref().filter(|_| *reported == ballot));
            // The others leave the state out when it is the one that we hold; else our own report is on its way with
            // it.
            let held = self.acceptor.register(&round.key).filter(|register| register.accepted == ballot);
            if let Some(state) = sent.or(held.map(|register| &register.state)).cloned() {
                self.finish_query(id, ballot, state, out);
            }
            return;
        }
        let all_asked = round.sets.iter().all(|node| reports.contains_key(&node) || self.down.contains(&node));
        if all_asked && is_quorum(self.rules, &round.sets, |node| reports.contains_key(&node)) {
            self.settle(id, out);
        }
    }

    fn finish_query(&mut self, id: RoundId, ballot: Ballot, state: State, out: &mut Outbox) {
        let Some(round) = self.forget_round(id) else { return };
        let Phase::Querying { reports } = round.phase else { return };
        let mut voters = Vec::new();
        for (node, (reported, _)) in &reports {
            if *reported == ballot {
                voters.push(*node);
            } else if *reported < ballot && *node != self.me {
                let learn = Body::Learn { key: round.key.clone(), ballot, state: state.clone() };
                self.tell((*node, round.epoch), learn, LogPosition(0), round.context, out);
            }
        }
        // A bare tombstone says no more than that nothing is held, and is about to be dropped by those who hold it.
        let news = ballot > Ballot::ZERO && !(self.acceptor.is_absent(&round.key) && state.is_bare());
        if news && !self.disk_full {
            self.acceptor.learn(&round.key, ballot, &state, &mut out.persist);
        }
        if news {
            self.note_chosen(&round.key, ballot);
        }
        let receipt = self.receipt(&voters, round.rounds);
        let time = self.time_of(ballot, &state);
        for waiting in round.waiting {
            if self.must_end(&state, &waiting) {
                self.lanes.entry(round.key.clone()).or_default().queue.push_back(waiting);
                continue;
            }
            let outcome = read_outcome(self.rules, &waiting.operation, &state, waiting.wall_ms);
            self.end_query(waiting, time, (outcome, receipt.clone()), out);
        }
        self.advance_lane(&round.key, out);
    }

    /// Whether a read that found `state` must first have the value's end agreed on.
    pub(crate) fn must_end(&self, state: &State, waiting: &Waiting) -> bool {
        self.rules.keeps(Rule::AgreeOnEnd) && !self.disk_full && state.is_due(waiting.wall_ms)
    }

    /// The reports disagree: an interrupted write must be finished, or overtaken, before a read can be answered.
    fn settle(&mut self, id: RoundId, out: &mut Outbox) {
        let Some(round) = self.forget_round(id) else { return };
        let lane = self.lanes.entry(round.key.clone()).or_default();
        lane.queue.extend(round.waiting);
        self.advance_lane(&round.key, out);
    }

    pub(crate) fn handle_round_timer(&mut self, id: RoundId, out: &mut Outbox) {
        let now = self.now;
        let Some(round) = self.rounds.get_mut(&id) else { return };
        // Clients' deadlines have timers of their own; the replica's own repairs end here.
        let expired = round.drop_where(|waiting| waiting.ticket.is_none() && waiting.deadline <= now);
        round.resends += 1;
        let orphaned = round.waiting.is_empty() && (round.resends > ORPHAN_RESENDS_MAX || !started(&round.phase));
        let resends = round.resends;
        let phase_is_query = matches!(round.phase, Phase::Querying { .. });
        let backing_off = matches!(round.phase, Phase::BackingOff);
        let refused = !round.refusals.is_empty() && !round.disk_full;
        // Full disks stay full for long: who is silent beside them is asked once more, and then waited for no longer.
        let full = round.disk_full && resends > FULL_RESENDS_MAX;
        for _ in 0..expired {
            self.catch_up_repaired(false, out);
        }
        if orphaned {
            if let Some(round) = self.forget_round(id) {
                if round.proposed > 0 {
                    self.note_cut_short(&round.key, round.proposed, out);
                }
                self.advance_lane(&round.key, out);
            }
        } else if backing_off {
            self.begin_prepare(id, out);
        } else if refused {
            self.back_off(id);
        } else if full {
            self.give_up_for_disk(id, out);
        } else if phase_is_query && resends > QUERY_RESENDS_MAX && self.reports_disagree(id) {
            self.settle(id, out);
        } else {
            let around = RESEND_AFTER.saturating_mul(1 << resends.min(4)).min(RESEND_AFTER_MAX);
            let at = now + self.jittered(around);
            if let Some(round) = self.rounds.get_mut(&id) {
                round.resend_at = at;
                self.timers.insert((at, Timer::Round(id)));
            }
            self.ask(id, None, out);
        }
    }

    fn reports_disagree(&self, id: RoundId) -> bool {
        let Some(Round { phase: Phase::Querying { reports }, .. }) = self.rounds.get(&id) else { return false };
        let mut ballots = reports.values().map(|(ballot, _)| *ballot);
        ballots.next().is_some_and(|first| ballots.any(|other| other != first))
    }

    /// Takes a round out of the books.
    pub(crate) fn forget_round(&mut self, id: RoundId) -> Option<Round> {
        let round = self.rounds.remove(&id)?;
        self.timers.remove(&(round.resend_at, Timer::Round(id)));
        if let Some(lane) = self.lanes.get_mut(&round.key) {
            lane.reads.retain(|read| *read != id);
            if lane.round == Some(id) {
                lane.round = None;
            }
        }
        Some(round)
    }

    /// Nobody waits for this ticket any more; its round goes on.
    pub(crate) fn drop_waiting(&mut self, key: &RegisterKey, ticket: Ticket) {
        let Some(lane) = self.lanes.get(key) else { return };
        let ids: Vec<RoundId> = lane.round.iter().chain(&lane.reads).copied().collect();
        for id in ids {
            let Some(round) = self.rounds.get_mut(&id) else { continue };
            round.drop_where(|waiting| waiting.ticket == Some(ticket));
        }
    }

    pub(crate) fn end(&mut self, ticket: Option<Ticket>, outcome: Outcome, receipt: Receipt, out: &mut Outbox) {
        match ticket {
            Some(ticket) => self.answer(ticket, outcome, receipt, out),
            None => self.catch_up_repaired(true, out),
        }
    }

    fn receipt(&self, votes: &[NodeId], rounds: u32) -> Receipt {
        let others = votes.iter().copied().filter(|node| *node != self.me);
        let own = votes.contains(&self.me).then_some(self.me);
        Receipt { epoch: self.view.epoch, voters: own.into_iter().chain(others).collect(), rounds, time: Ballot::ZERO }
    }
}

/// No state has this ballot, so a query that names it gets the state whatever it is.
const NEVER: Ballot = Ballot { counter: u64::MAX, node: NodeId(u64::MAX) };

/// Whether the phase may already have had an effect that should be brought to an end.
fn started(phase: &Phase) -> bool {
    matches!(phase, Phase::Accepting { .. })
}

fn is_write(waiting: &Waiting) -> bool {
    matches!(waiting.operation, Operation::Write(_))
}

/// What a read of `state` answers. (The time counts only under the planted rule that hides a value by a clock.)
pub(crate) fn read_outcome(rules: impl Rules, operation: &Operation, state: &State, wall_ms: u64) -> Outcome {
    match operation {
        Operation::Read { .. } if !rules.keeps(Rule::AgreeOnEnd) && state.is_due(wall_ms) => Outcome::Value(None),
        Operation::Outcome { request, .. } => Outcome::Remembered(state.requests.find(*request)),
        Operation::Read { .. } | Operation::Write(_) | Operation::InSession { .. } => {
            Outcome::Value(state.value.clone().map(|value| (state.version, value)))
        }
    }
}
