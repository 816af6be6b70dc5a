//! Operations, as their coordinator sees them.
//!
//! *A causal write* is stamped, synced, sent to the other homes, and answered when a majority has it on disk. *An
//! eventual
//! one* is answered when it is on disk here.
//!
//! *A causal read* is answered from what is held here if two things are known: that nothing is missing that the session
//! has seen, or is to be shown, or that led to either (our marks of the other homes reach so far), and that a majority
//! holds what is shown.
//! Otherwise the other homes are asked; what they have is merged, and what any of them lacks is sent, until a majority
//! holds the same; then it is answered.
//!
//! Why this is causal: whatever any session has seen at this level, a majority held before. So a session's past lies on
//! majorities, and what a majority says together lacks nothing of it. What one replica says lacks nothing of it if the
//! replica has all that the key's homes ever stamped up to the session's bound, since whatever led to what the session
//! has seen has lower Lamport counters than that. (Bailis and others, "Bolt-on causal consistency", 2013, call this
//! potential causality; one counter is enough to bound it.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use membership::{NodeId, Position, ReplicaSets, is_majority};
use replication::{LogPosition, RegisterKey, RequestId, Ticket};
use stdx::{Instant, TraceContext};

use crate::apply::{apply, effect_of, judge, rests_on_state, seen_by_writer, show};
use crate::io::Outbox;
use crate::kind::Kind;
use crate::message::Body;
use crate::operation::{Action, Effect, Level, Operation, Outcome, Past, Receipt, Refusal, Seen, Write};
use crate::replica::{Later, OPERATIONS_MAX, Replica, Timer};
use crate::rules::Rule;
use crate::state::State;
use crate::version::{Actor, Context, Dot, VersionVector};

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A client.
    Client(Ticket),
    /// A node that kept a write while no home could be reached.
    Hint {
        /// The node.
        from: NodeId,
        /// Its number for it.
        hint: u64,
    },
}

/// A write that is stamped, and waits until enough homes have it.
#[derive(Debug)]
pub(crate) struct Waiting {
    asker: Asker,
    pub(crate) key: RegisterKey,
    /// Whose votes decide on the key.
    pub(crate) sets: ReplicaSets,
    level: Level,
    pub(crate) have: BTreeSet<NodeId>,
    outcome: Outcome,
}

/// What is done when a round ends.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives in one map, as long as a round trip takes")]
pub(crate) enum Then {
    /// A read is answered.
    Read,
    /// A write is judged, and made if it was not made before.
    Write { write: Write, past: Past, context: TraceContext },
    /// It is told whether the request has acted.
    Remember(RequestId),
}

/// The other homes are asked for a key.
#[derive(Debug)]
pub(crate) struct Round {
    asker: Asker,
    key: RegisterKey,
    kind: Kind,
    sets: ReplicaSets,
    then: Then,
    /// What each home is known to hold, by half of its digest, and whether it counts.
    reports: BTreeMap<NodeId, (u128, bool)>,
    /// Half of the digest of what we held when it was first asked. It is asked about that as long as it has this
    /// number: a home that holds the same says no more than that, maybe late, and must be known to mean this.
    asked: u128,
    /// Once a majority has spoken: what all of it holds together, and how it is known who has it.
    settled: Option<Box<Settled>>,
    context: TraceContext,
}

#[derive(Debug)]
struct Settled {
    state: State,
    digest: u128,
    position: LogPosition,
    holders: BTreeSet<NodeId>,
    /// Messages that carry it, with their receivers.
    sent: BTreeMap<u64, NodeId>,
    ours: bool,
}

impl Replica {
    pub(crate) fn handle_operation(
        &mut self,
        ticket: Ticket,
        operation: Operation,
        deadline: Instant,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        // Whatever it does happens after what its session has seen.
        if self.rules.keep(Rule::StampedBelow) {
            self.clock = self.clock.max(operation.past.counter_max());
        }
        self.open.insert(ticket, deadline);
        self.at(deadline, Timer::Deadline(ticket));
        let asker = Asker::Client(ticket);
        let is_write = matches!(operation.action, Action::Write(_));
        let refusal = if self.is_draining() {
            Some(Refusal::Draining)
        } else if self.open.len() > OPERATIONS_MAX {
            Some(Refusal::Overloaded)
        } else if self.disk_full && is_write {
            Some(Refusal::DiskFull)
        } else if deadline <= self.now {
            Some(Refusal::NoQuorum)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.refuse(asker, refusal, out);
        }
        if !self.is_home(operation.key.position) {
            return self.stand_in(ticket, operation, out);
        }
        match operation.action {
            Action::Read { kind } => self.begin_read(ticket, kind, operation, context, out),
            Action::Outcome { request } => {
                let then = Then::Remember(request);
                self.begin_round(asker, operation.key, Kind::Value, then, context, out);
            }
            Action::Write(write) => self.begin_write(asker, write, operation.level, operation.past, context, out),
        }
    }

    fn begin_read(
        &mut self,
        ticket: Ticket,
        kind: Kind,
        operation: Operation,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        let key = operation.key;
        let local = match operation.level {
            Level::Eventual if self.counts_at(key.position) => true,
            Level::Eventual => return self.refuse(Asker::Client(ticket), Refusal::Refilling, out),
            Level::Causal => self.answers_alone(&key, &operation.past),
        };
        if !local {
            return self.begin_round(Asker::Client(ticket), key, kind, Then::Read, context, out);
        }
        let absent = State::absent(kind);
        let outcome = self.read_outcome(self.table.get(&key).map_or(&absent, |held| &held.state));
        let receipt = Receipt { epoch: self.view.epoch, voters: vec![self.me], rounds: 0 };
        let wait = self.logged(&key);
        self.after(wait, Later::Answer(ticket, outcome, receipt), out);
    }

    pub(crate) fn begin_write(
        &mut self,
        asker: Asker,
        write: Write,
        level: Level,
        past: Past,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        if self.rules.keep(Rule::StampedBelow) {
            // The later writer of two is the one that has seen the other: who sees this one's dot sees its order too.
            self.clock = self.clock.max(write.rank(&past).0);
        }
        if !self.counts_at(write.key.position) {
            return self.refuse(asker, Refusal::Refilling, out);
        }
        let known = self.rules.keep(Rule::RetryTwice) && self.remembers(&write);
        let rests = rests_on_state(&write, past.session) && !self.is_covered(write.key.position, &past);
        if level == Level::Causal && (known || rests || !self.knows_seen(&write)) {
            let (key, kind) = (write.key.clone(), write.kind);
            let then = Then::Write { write, past, context };
            return self.begin_round(asker, key, kind, then, context, out);
        }
        self.make_write(asker, write, level, past, context, out);
    }

    /// Whether all that the writer has seen of the key is known here: else we may not know whose it was.
    fn knows_seen(&self, write: &Write) -> bool {
        let Some(context) = &write.context else { return true };
        let none = Context::default();
        self.table.get(&write.key).map_or(&none, |held| &held.state.context).includes(context)
    }

    fn remembers(&self, write: &Write) -> bool {
        self.table.get(&write.key).is_some_and(|held| held.state.request(write.request).is_some())
    }

    /// Judges a write on what is held here, and stamps it, unless it was made before.
    fn make_write(
        &mut self,
        asker: Asker,
        write: Write,
        level: Level,
        past: Past,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        let state = self.state_of(&write.key, write.kind);
        if self.rules.keep(Rule::RetryTwice)
            && let Some((dot, existed)) = state.request(write.request)
        {
            let outcome = self.done_before(&state, &write, dot, existed);
            let wait = self.logged(&write.key);
            let receipt = Receipt { epoch: self.view.epoch, voters: vec![self.me], rounds: 1 };
            return self.answer_asker(asker, outcome, receipt, wait, out);
        }
        // A hint was acknowledged: it is made, whatever may have been forgotten.
        let hinted = matches!(asker, Asker::Hint { .. });
        if self.rules.keep(Rule::RetryTwice) && !hinted && write.first_sent_ms <= state.horizon_ms {
            return self.refuse(asker, Refusal::TooOld, out);
        }
        let write = Write { firm: write.firm || hinted, ..write };
        if let Err(refusal) = judge(&state, &write, &past) {
            return self.refuse(asker, refusal, out);
        }
        self.stamp(asker, write, level, past, state, context, out);
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of the operation, and used once")]
    fn stamp(
        &mut self,
        asker: Asker,
        write: Write,
        level: Level,
        past: Past,
        mut state: State,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        let key = write.key.clone();
        let counter = self.next_counter(out);
        let dot = Dot { counter, actor: self.actor };
        let fixed = self.rules.keep(Rule::OrderByAttempt);
        let write = if fixed { write } else { Write { order: counter, ..write } };
        let everywhere = self.everywhere(key.position);
        let oldest_kept_ms = self.wall_ms.saturating_sub(self.config.memory_ms);
        let ages = (oldest_kept_ms, self.hints_from_ms());
        state.put_away(self.actor, everywhere, ages, self.config.limits);
        let effect = apply(&mut state, &write, &past, dot);
        if self.rules.keep(Rule::ClosedRemembered) {
            // What this has ended may have been closed while it was alive. Whoever merges it forgets it at once.
            state.forget_closed();
        }
        let outcome = done(&state, &write, dot, effect);
        let level = if self.rules.keep(Rule::AckAlone) { level } else { Level::Eventual };
        let sets = self.sets_of(key.position);
        let waiting = Waiting { asker, key: key.clone(), sets, level, have: BTreeSet::new(), outcome };
        self.waiting.insert(counter, waiting);
        self.put_stamped(&key, state, counter, context, out);
    }

    /// Up to which of our stamps every other home of these keys has said that it has them, with all of its own before.
    fn everywhere(&self, position: Position) -> u64 {
        let sets = self.sets_of(position);
        // What a home has said of our stamps, it has said of the arcs that it and we had before.
        let up_to = |home: NodeId| match self.peers.get(&home) {
            Some(peer) if self.is_compared(position, home) => peer.confirmed,
            _ => 0,
        };
        sets.iter().filter(|home| *home != self.me).map(up_to).min().unwrap_or(u64::MAX)
    }

    /// A home has our stamp on disk.
    pub(crate) fn written(&mut self, counter: u64, home: NodeId, out: &mut Outbox) {
        let Some(waiting) = self.waiting.get_mut(&counter) else { return };
        waiting.have.insert(home);
        self.written_enough(counter, out);
    }

    /// Answers a write if enough homes have it.
    pub(crate) fn written_enough(&mut self, counter: u64, out: &mut Outbox) {
        let Some(waiting) = self.waiting.get(&counter) else { return };
        let late = !waiting.sets.contains(self.me) && self.rules.keep(Rule::LateUnstamped);
        let enough = match waiting.level {
            // We are a home no more: the writer names our stamp alone, of which no home says how far it has come.
            Level::Causal if late => waiting.sets.iter().all(|home| waiting.have.contains(&home)),
            Level::Causal => self.is_quorum(&waiting.sets, |home| waiting.have.contains(&home)),
            Level::Eventual => waiting.have.iter().any(|home| waiting.sets.contains(*home)),
        };
        if !enough || (self.rules.keep(Rule::SentUnsynced) && !waiting.have.contains(&self.me)) {
            return;
        }
        let Some(waiting) = self.waiting.remove(&counter) else { return };
        let rounds = u32::from(waiting.level == Level::Causal);
        let receipt = Receipt { epoch: self.view.epoch, voters: waiting.have.into_iter().collect(), rounds };
        self.answer_asker(waiting.asker, waiting.outcome, receipt, LogPosition(0), out);
    }

    /// A home has our stamps of the key up to `counter`.
    pub(crate) fn delivered(&mut self, home: NodeId, key: &RegisterKey, counter: u64, out: &mut Outbox) {
        let stamps: Vec<u64> =
            self.waiting.range(..=counter).filter(|(_, w)| w.key == *key).map(|(counter, _)| *counter).collect();
        for stamp in stamps {
            self.written(stamp, home, out);
        }
    }

    /// A home has told how far it has come.
    pub(crate) fn delivered_up_to(&mut self, home: NodeId, out: &mut Outbox) {
        let Some(peer) = self.peers.get(&home) else { return };
        let held = |(counter, waiting): (&u64, &Waiting)| peer.holds(&waiting.key, *counter).then_some(*counter);
        let stamps: Vec<u64> =
            self.waiting.iter().filter(|(at, _)| !self.unsynced.contains(at)).filter_map(held).collect();
        for stamp in stamps {
            self.written(stamp, home, out);
        }
    }

    fn answer_asker(&mut self, asker: Asker, outcome: Outcome, receipt: Receipt, wait: LogPosition, out: &mut Outbox) {
        match asker {
            Asker::Client(ticket) => self.after(wait, Later::Answer(ticket, outcome, receipt), out),
            Asker::Hint { from, hint } => {
                let refused = match outcome {
                    Outcome::Refused(refusal) => Some(refusal),
                    _ => None,
                };
                self.tell(from, Body::Taken { hint, refused }, wait, TraceContext::NONE, out);
            }
        }
    }

    /// How a write that acted before, as `dot`, is answered.
    fn done_before(&self, state: &State, write: &Write, dot: Dot, existed: bool) -> Outcome {
        let mut outcome = done(state, write, dot, effect_of(&write.change, existed));
        if let Outcome::Done { seen, .. } = &mut outcome {
            self.rest_on_homes(state, write.key.position, dot, seen);
        }
        outcome
    }

    /// Of a stamp whose actor is a home no more, no home says how far it has come: who is told of it has seen, too, the
    /// stamps of those homes that brought it.
    fn rest_on_homes(&self, state: &State, position: Position, dot: Dot, seen: &mut Seen) {
        if !self.sets_of(position).contains(dot.actor.node) && self.rules.keep(Rule::LateUnstamped) {
            seen.vector.merge(&state.context.vector);
        }
    }

    /// Whether a causal read is answered from what is held here, for a session with this past.
    fn answers_alone(&self, key: &RegisterKey, past: &Past) -> bool {
        // A write may have been made where something was missing that had led to it. What a round has settled lacks
        // nothing: what led to it was on a majority's disks before.
        let held = self.table.get(key).filter(|held| !held.stable && self.rules.keep(Rule::LedUnheard));
        let bound = past.bound.max(held.map_or(0, |held| held.state.deps));
        self.is_covered(key.position, &Past { bound, ..past.clone() }) && self.is_stable(key)
    }

    /// Whether nothing is missing here that the session has seen of these homes' keys, or that led to it.
    fn is_covered(&self, position: Position, past: &Past) -> bool {
        if !self.rules.keep(Rule::LaggingRead) {
            return true;
        }
        if !self.counts_at(position) || past.epoch > self.view.epoch {
            return false;
        }
        let sets = self.sets_of(position);
        let mut others = sets.iter().filter(|home| *home != self.me);
        let all_there = others.all(|home| {
            let Some(peer) = self.peers.get(&home) else { return false };
            let Some(actor) = self.actor_of(home) else { return false };
            if !self.is_compared(position, home) && self.rules.keep(Rule::MarksOfNewArcs) {
                return false;
            }
            let need = past.bound.max(past.seen.get(actor));
            peer.passed >= self.generation && self.mark(actor) >= need
        });
        // Of a node that began a new log, what it stamped before is here since the comparison that followed; of one
        // that began a log which we have not heard of, nothing is known.
        let heard = |(actor, _): (Actor, u64)| {
            !sets.contains(actor.node) || self.actor_of(actor.node).is_some_and(|present| actor.birth <= present.birth)
        };
        all_there && past.seen.iter().all(heard)
    }

    /// Who stamps a home's writes at present, as far as we know.
    fn actor_of(&self, home: NodeId) -> Option<Actor> {
        if home == self.me {
            return Some(self.actor);
        }
        let heard = self.peers.get(&home).and_then(|peer| peer.actor);
        // Not heard since we started: then the last one of whom our log knows. (It cannot have stamped anything for
        // these keys under another name: a new actor compares with all homes first.)
        heard.or_else(|| self.marks.keys().copied().filter(|actor| actor.node == home).max())
    }

    /// Whether a majority of the homes is known to hold what we hold of the key.
    pub(crate) fn is_stable(&self, key: &RegisterKey) -> bool {
        let sets = self.sets_of(key.position);
        let Some(held) = self.table.get(key) else { return true };
        if held.stable || !self.rules.keep(Rule::UnstableShown) {
            return true;
        }
        held.state.context.vector.iter().all(|(actor, counter)| {
            // One that is not on our disk yet has not left, and so is owed to nobody so far.
            if actor == self.actor && self.unsynced.contains(&counter) {
                return false;
            }
            // A stamp is on its own replica's disk before it leaves.
            let has = |home: NodeId| match self.peers.get(&home) {
                Some(peer) if actor == self.actor => peer.holds(key, counter),
                _ => home == actor.node && self.actor_of(home) == Some(actor),
            };
            self.is_quorum(&sets, |home| home == self.me || (self.is_compared(key.position, home) && has(home)))
        })
    }

    fn begin_round(
        &mut self,
        asker: Asker,
        key: RegisterKey,
        kind: Kind,
        then: Then,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        let number = self.next_number();
        let (reports, sets) = (BTreeMap::new(), self.sets_of(key.position));
        let asked = self.half_digest(&key);
        let round = Round { asker, key, kind, sets, then, reports, asked, settled: None, context };
        self.rounds.insert(number, round);
        self.look_after_round(number, self.config.resend / 2);
        self.ask_homes(number, out);
        self.round_settle(number, out);
    }

    /// The round's homes are asked again, or sent what they lack, after about this time.
    fn look_after_round(&mut self, number: u64, wait: Duration) {
        let again = self.now + self.jittered(wait);
        self.at(again, Timer::Round(number));
    }

    fn ask_homes(&mut self, number: u64, out: &mut Outbox) {
        let fixed = self.rules.keep(Rule::ReportOfAnother);
        let Some(round) = self.rounds.get(&number) else { return };
        let digest = if fixed { round.asked } else { self.half_digest(&round.key) };
        let Some(round) = self.rounds.get_mut(&number) else { return };
        round.asked = digest;
        let (key, context) = (round.key.clone(), round.context);
        let silent: Vec<NodeId> =
            round.sets.iter().filter(|home| *home != self.me && !round.reports.contains_key(home)).collect();
        for home in silent {
            let body = Body::Read { round: number, key: key.clone(), digest };
            self.tell(home, body, LogPosition(0), context, out);
        }
    }

    /// Half of the digest of what is held of the key; 0 for nothing.
    fn half_digest(&self, key: &RegisterKey) -> u128 {
        self.table.get(key).map_or(0, |held| held.digest().half())
    }

    pub(crate) fn handle_read(
        &mut self,
        from: NodeId,
        round: u64,
        key: &RegisterKey,
        digest: u128,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        if !self.is_home(key.position) {
            return;
        }
        let held = self.table.get(key);
        let same = self.half_digest(key) == digest;
        let state = held.filter(|_| !same).map(|held| held.state.clone());
        let state = if same { None } else { Some(state.unwrap_or_default()) };
        let (whole, wait) = (self.counts_at(key.position), self.logged(key));
        self.tell(from, Body::Report { round, whole, state }, wait, context, out);
    }

    pub(crate) fn handle_report(
        &mut self,
        from: NodeId,
        number: u64,
        whole: bool,
        state: Option<State>,
        out: &mut Outbox,
    ) {
        let Some(round) = self.rounds.get(&number) else { return };
        if !round.sets.contains(from) || round.reports.contains_key(&from) {
            return;
        }
        let (key, asked) = (round.key.clone(), round.asked);
        let digest = match &state {
            None => asked,
            Some(state) if state.is_blank() => 0,
            Some(state) => self.digests.digest(&key, state).half(),
        };
        if let Some(state) = state.filter(|state| !state.is_blank()) {
            self.take_states(from, vec![(key, state)], out);
        }
        if let Some(round) = self.rounds.get_mut(&number) {
            round.reports.insert(from, (digest, whole));
        }
        self.round_settle(number, out);
    }

    /// Once a majority has spoken, settles what it holds together, and sends it to those that lack some of it.
    fn round_settle(&mut self, number: u64, out: &mut Outbox) {
        let Some(round) = self.rounds.get(&number) else { return };
        let counts = |home: NodeId| match round.reports.get(&home) {
            Some((_, whole)) => *whole,
            None => home == self.me && self.counts_at(round.key.position),
        };
        // The set in charge has everything; the next one only what is new.
        if round.settled.is_some() || !is_majority(&round.sets.current, counts) {
            return;
        }
        let (key, kind) = (round.key.clone(), round.kind);
        let state = self.state_of(&key, kind);
        // What is not there is on nobody's disk, so no home of the next set vouches for it by holding it. Those in
        // charge may be in charge no more, and not know: one of the others would tell, or not answer in this view.
        let spoken = |home: NodeId| home == self.me || round.reports.contains_key(&home);
        if state.is_blank() && !self.is_quorum(&round.sets, spoken) {
            return;
        }
        let digest = self.half_digest(&key);
        let position = self.logged(&key);
        let Some(round) = self.rounds.get_mut(&number) else { return };
        let holders =
            round.reports.iter().filter(|(_, (theirs, _))| *theirs == digest).map(|(node, _)| *node).collect();
        let settled = Settled { state, digest, position, holders, sent: BTreeMap::new(), ours: false };
        round.settled = Some(Box::new(settled));
        self.send_settled(number, out);
        self.after(position, Later::Voted(number), out);
    }

    fn send_settled(&mut self, number: u64, out: &mut Outbox) {
        let Some(round) = self.rounds.get(&number) else { return };
        let Some(settled) = &round.settled else { return };
        let enough = self.is_quorum(&round.sets, |home| home == self.me || settled.holders.contains(&home));
        if enough || settled.state.is_blank() || !self.rules.keep(Rule::UnstableShown) {
            return;
        }
        let lacking: Vec<NodeId> =
            round.sets.iter().filter(|home| *home != self.me && !settled.holders.contains(home)).collect();
        let (key, state) = (round.key.clone(), settled.state.clone());
        let (position, context) = (settled.position, round.context);
        for home in lacking {
            let id = self.next_number();
            if let Some(settled) = self.rounds.get_mut(&number).and_then(|round| round.settled.as_mut()) {
                settled.sent.insert(id, home);
            }
            let entries = vec![(key.clone(), state.clone())];
            self.tell(home, Body::Store { id, claim: None, entries }, position, context, out);
        }
    }

    /// What a round has settled is on our disk.
    pub(crate) fn round_voted(&mut self, number: u64, out: &mut Outbox) {
        if let Some(settled) = self.rounds.get_mut(&number).and_then(|round| round.settled.as_mut()) {
            settled.ours = true;
            self.round_end(number, out);
        }
    }

    /// A home has stored what a message brought.
    pub(crate) fn round_stored(&mut self, from: NodeId, id: u64, out: &mut Outbox) {
        let holder = |(number, round): (&u64, &Round)| {
            round.settled.as_ref().is_some_and(|settled| settled.sent.get(&id) == Some(&from)).then_some(*number)
        };
        let Some(number) = self.rounds.iter().find_map(holder) else { return };
        if let Some(settled) = self.rounds.get_mut(&number).and_then(|round| round.settled.as_mut()) {
            settled.holders.insert(from);
        }
        self.round_end(number, out);
    }

    fn round_end(&mut self, number: u64, out: &mut Outbox) {
        let Some(round) = self.rounds.get(&number) else { return };
        let Some(settled) = &round.settled else { return };
        let blank = settled.state.is_blank() || !self.rules.keep(Rule::UnstableShown);
        let held = |home: NodeId| home == self.me || settled.holders.contains(&home);
        let enough = settled.ours && self.is_quorum(&round.sets, held);
        if !(enough || (blank && settled.ours)) {
            return;
        }
        let Some(round) = self.rounds.remove(&number) else { return };
        let Some(settled) = round.settled else { return };
        if let Some(held) = self.table.get(&round.key)
            && held.digest().half() == settled.digest
        {
            let digest = held.digest();
            self.table.note_stable(&round.key, digest);
        }
        let rounds = if settled.sent.is_empty() { 1 } else { 2 };
        let voters = std::iter::once(self.me).chain(settled.holders).collect();
        let receipt = Receipt { epoch: self.view.epoch, voters, rounds };
        match round.then {
            Then::Read => {
                let outcome = self.read_outcome(&settled.state);
                self.answer_asker(round.asker, outcome, receipt, LogPosition(0), out);
            }
            Then::Remember(request) => {
                let mut found = remembered(&settled.state, request);
                if let Some((dot, seen)) = settled.state.request(request).map(|(dot, _)| dot).zip(found.as_mut()) {
                    self.rest_on_homes(&settled.state, round.key.position, dot, &mut seen.1);
                }
                let outcome = Outcome::Remembered(found);
                self.answer_asker(round.asker, outcome, receipt, LogPosition(0), out);
            }
            Then::Write { write, past, context } => {
                let heeds = self.rules.keep(Rule::RetryTwice) && self.rules.keep(Rule::AttemptUnsettled);
                let Some((dot, existed)) = settled.state.request(write.request).filter(|_| heeds) else {
                    return self.write_settled(round.asker, write, past, context, out);
                };
                // All that was settled is on a majority's disks, and the request with it.
                let outcome = self.done_before(&settled.state, &write, dot, existed);
                self.answer_asker(round.asker, outcome, receipt, LogPosition(0), out);
            }
        }
    }

    /// Makes a causal write of which the round that was made for it has found no earlier attempt.
    fn write_settled(&mut self, asker: Asker, write: Write, past: Past, context: TraceContext, out: &mut Outbox) {
        if self.rules.keep(Rule::RetryTwice) && self.rules.keep(Rule::AttemptUnsettled) && self.remembers(&write) {
            // Another attempt has acted here since, and nobody else may have it yet: what it did is settled first.
            let (key, kind) = (write.key.clone(), write.kind);
            return self.begin_round(asker, key, kind, Then::Write { write, past, context }, context, out);
        }
        self.make_write(asker, write, Level::Causal, past, context, out);
    }

    fn read_outcome(&self, state: &State) -> Outcome {
        // Of a key that is absent it is not known whether something led to that.
        let deps = if state.is_blank() { self.buried_max } else { state.deps };
        let time = state.context.counter_max();
        let (context, vector) = (state.context.clone(), state.context.vector.clone());
        let seen = Seen { context, vector, deps, time, ..Seen::default() };
        Outcome::Read { shown: show(state), seen }
    }

    /// The homes have changed: what waits for them begins again with the present ones, or ends.
    pub(crate) fn restart_rounds(&mut self, out: &mut Outbox) {
        let numbers: Vec<u64> = self.rounds.keys().copied().collect();
        for number in numbers {
            let Some(round) = self.rounds.get(&number) else { continue };
            let sets = self.ring.sets_of(round.key.position);
            if sets == round.sets {
                continue;
            }
            if !sets.contains(self.me) {
                let asker = round.asker;
                self.rounds.remove(&number);
                self.refuse(asker, Refusal::NotReplica(self.view.epoch), out);
                continue;
            }
            let Some(round) = self.rounds.remove(&number) else { continue };
            let asked = self.half_digest(&round.key);
            let mut number = number;
            if self.rules.keep(Rule::ReportOfAnother) {
                // What was asked of the homes before is another question.
                number = self.next_number();
                self.look_after_round(number, self.config.resend / 2);
            }
            let (reports, settled) = (BTreeMap::new(), None);
            self.rounds.insert(number, Round { sets, reports, asked, settled, ..round });
            self.ask_homes(number, out);
            self.round_settle(number, out);
        }
        let counters: Vec<u64> = self.waiting.keys().copied().collect();
        for counter in counters {
            self.written_enough(counter, out);
        }
    }

    /// Asks those again that have not answered.
    pub(crate) fn round_again(&mut self, number: u64, out: &mut Outbox) {
        let Some(round) = self.rounds.get(&number) else { return };
        if round.settled.is_none() {
            self.ask_homes(number, out);
            self.round_settle(number, out);
        } else {
            self.send_settled(number, out);
        }
        self.look_after_round(number, self.config.resend);
    }

    pub(crate) fn handle_deadline(&mut self, ticket: Ticket, out: &mut Outbox) {
        if !self.open.contains_key(&ticket) {
            return;
        }
        self.rounds.retain(|_, round| round.asker != Asker::Client(ticket));
        let stamped =
            self.waiting.iter().find(|(_, waiting)| waiting.asker == Asker::Client(ticket)).map(|(at, _)| *at);
        let outcome = match stamped {
            Some(counter) => {
                self.waiting.remove(&counter);
                Outcome::Unknown
            }
            None => Outcome::Refused(Refusal::NoQuorum),
        };
        let receipt = Receipt { epoch: self.view.epoch, ..Receipt::default() };
        self.answer(ticket, outcome, receipt, out);
    }
}

/// The answer to a write that acted as `dot`.
fn done(state: &State, write: &Write, dot: Dot, effect: Effect) -> Outcome {
    let context = seen_by_writer(state, write, dot);
    let (vector, deps) = if write.kind == Kind::Value {
        ([(dot.actor, dot.counter)].into_iter().collect::<VersionVector>(), 0)
    } else {
        // The answer tells of what others wrote, too.
        (state.context.vector.clone(), state.deps)
    };
    let number = (write.kind == Kind::Counter).then(|| state.total());
    let time = state.context.counter_max().max(dot.counter);
    Outcome::Done { effect, number, seen: Seen { context, vector, deps, time, ..Seen::default() } }
}

/// How a request acted that a state contains, and what its session has seen with that: the request's own write, as when
/// it is repeated. What the writer knew when it asked is not told here, so that all that led to the state goes before.
fn remembered(state: &State, request: RequestId) -> Option<(Effect, Seen)> {
    let (dot, existed) = state.request(request)?;
    let effect = if existed { Effect::Replaced } else { Effect::Created };
    let mut context = Context::new(VersionVector::default(), [dot]);
    // The dots that other attempts of the request may have got are meant as well.
    context.requests = vec![request];
    let vector = [(dot.actor, dot.counter)].into_iter().collect();
    let time = state.context.counter_max().max(dot.counter);
    Some((effect, Seen { context, vector, deps: state.deps, time, ..Seen::default() }))
}
