//! The replica: one node's part in all available keys, behind one `handle`.
//!
//! See `stream.rs` for how stamps reach the other homes and how a replica knows that it has received all of them,
//! `coordinate.rs` for operations, `passes.rs` for reconciliation, `bury.rs` for tombstones, `hints.rs` for stand-ins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use membership::{Epoch, NodeId, Position, ReplicaSets, Ring, View};
use replication::{LogPosition, RegisterKey, Ticket};
use stdx::{Instant, Prng, TraceContext};

use crate::config::{Config, Durability};
use crate::coordinate::{Asker, Round, Waiting};
use crate::hints::Hint;
use crate::io::{Answer, Envelope, Input, Outbox};
use crate::message::{Body, Message, Record};
use crate::operation::{Outcome, Receipt, Refusal};
use crate::peer::Peer;
use crate::rules::{Rule, Rules};
use crate::state::State;
use crate::table::{DigestKey, Table};
use crate::transfer::Transfer;
use crate::version::{Actor, Dot};
use crate::view_change::Homes;

/// Operations that may wait at one node; past it the answer is [`Refusal::Overloaded`].
pub const OPERATIONS_MAX: usize = 8_192;
/// How far ahead the ceiling is put on disk. Greater than what a node stamps in seconds, so that it costs nothing.
const CEILING_STEP: u64 = 65_536;

/// What waits for the disk.
#[derive(Debug)]
pub(crate) enum Later {
    /// A message.
    Send(Envelope),
    /// The answer to an operation.
    Answer(Ticket, Outcome, Receipt),
    /// A stamp of ours is on disk: it may leave.
    Stamped { counter: u64, key: RegisterKey, state: Box<State>, context: TraceContext },
    /// A peer's states are on disk, and so is what its claim says.
    Claimed { from: NodeId, actor: Actor, claim: crate::message::Claim },
    /// A ceiling is on disk.
    Ceiling(u64),
    /// A round's own vote counts.
    Voted(u64),
    /// Our log is whole.
    Whole,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A client's patience ends.
    Deadline(Ticket),
    /// A round asks again.
    Round(u64),
    /// What passes have moved is paid for: the one with this node goes on.
    Pass(NodeId),
    /// The same: what this node is owed can be sent again.
    Owed(NodeId),
    /// Look after the peers.
    Beat,
}

/// One node's part in all keys of available buckets that it is a home of. See the crate's introduction.
#[derive(Debug)]
pub struct Replica {
    pub(crate) me: NodeId,
    pub(crate) actor: Actor,
    pub(crate) start: u64,
    pub(crate) config: Config,
    pub(crate) view: View,
    pub(crate) ring: Ring,
    pub(crate) homes: Homes,
    pub(crate) transfer: Transfer,
    pub(crate) prng: Prng,
    pub(crate) now: Instant,
    pub(crate) wall_ms: u64,
    pub(crate) digests: DigestKey,
    pub(crate) table: Table,
    /// The Lamport clock: the greatest counter that was used or heard of.
    pub(crate) clock: u64,
    ceiling_logged: u64,
    ceiling_synced: u64,
    log_last: LogPosition,
    pub(crate) synced: LogPosition,
    later: BTreeMap<LogPosition, Vec<Later>>,
    /// Our stamps that are not on disk yet.
    pub(crate) unsynced: BTreeSet<u64>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// Everything that an actor stamped for us is here, up to this counter.
    pub(crate) marks: BTreeMap<Actor, u64>,
    pub(crate) marks_logged: BTreeMap<Actor, u64>,
    /// Whether our data was never lost, or is back.
    pub(crate) whole: bool,
    /// Passes of an older generation do not show that nothing is missing.
    pub(crate) generation: u64,
    pub(crate) rounds: BTreeMap<u64, Round>,
    pub(crate) waiting: BTreeMap<u64, Waiting>,
    pub(crate) open: BTreeMap<Ticket, Instant>,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    pub(crate) hints: BTreeMap<u64, Hint>,
    pub(crate) hint_bytes: usize,
    pub(crate) hints_taken: u64,
    /// Hints that a home has taken not long ago: when, and when their writes were first received.
    pub(crate) hints_gone: VecDeque<(u64, u64)>,
    pub(crate) hints_told_at: Instant,
    pub(crate) graves: BTreeSet<RegisterKey>,
    pub(crate) grave_last: Option<RegisterKey>,
    pub(crate) buried_by: BTreeMap<RegisterKey, (crate::version::VersionVector, BTreeSet<NodeId>)>,
    /// The greatest counter in any tombstone that was dropped here: an absent key may rest on it.
    pub(crate) buried_max: u64,
    pub(crate) disk_full: bool,
    draining: bool,
    number_last: u64,
    born: bool,
    pub(crate) rules: Rules,
}

impl Replica {
    /// A replica without data, in its start number `incarnation`, in a view that may be still forming.
    /// Restore the log's
    /// records next, then call [`Replica::begin`].
    pub fn new(me: NodeId, incarnation: u64, view: View, secret: &[u8], config: Config, prng: Prng) -> Replica {
        let digests = DigestKey::new(secret);
        Replica {
            me,
            actor: Actor { node: me, birth: incarnation },
            start: incarnation,
            config,
            ring: view.ring(),
            homes: Homes::default(),
            transfer: Transfer::default(),
            view,
            prng,
            now: Instant::ZERO,
            wall_ms: 0,
            table: Table::new(digests.clone()),
            digests,
            clock: 0,
            ceiling_logged: 0,
            ceiling_synced: 0,
            log_last: LogPosition(0),
            synced: LogPosition(0),
            later: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            peers: BTreeMap::new(),
            marks: BTreeMap::new(),
            marks_logged: BTreeMap::new(),
            whole: false,
            generation: 0,
            rounds: BTreeMap::new(),
            waiting: BTreeMap::new(),
            open: BTreeMap::new(),
            timers: BTreeSet::new(),
            hints: BTreeMap::new(),
            hint_bytes: 0,
            hints_taken: 0,
            hints_gone: VecDeque::new(),
            hints_told_at: Instant::ZERO,
            graves: BTreeSet::new(),
            grave_last: None,
            buried_by: BTreeMap::new(),
            buried_max: 0,
            disk_full: false,
            draining: false,
            // An answer to what was asked before a restart must not be taken for one to what is asked now.
            number_last: incarnation << 32,
            born: false,
            rules: Rules::ALL,
        }
    }

    /// The same replica with one rule broken, before anything else is done with it: for simulations that must notice.
    pub fn without(mut self, rule: Rule) -> Replica {
        self.rules = Rules::without(rule);
        if rule == Rule::DotReused {
            self.actor.birth = 0;
        }
        self
    }

    /// Takes a record back from the log, in log order.
    pub fn restore(&mut self, position: LogPosition, record: Record) {
        (self.log_last, self.synced) = (position, position);
        match record {
            Record::Born(actor) => (self.actor, self.born) = (actor, true),
            Record::Held { key, state } => {
                self.clock = self.clock.max(state.context.vector.counter_max());
                self.table.put(&key, state, position);
            }
            Record::Dropped(key) => self.table.remove(&key),
            Record::Ceiling(ceiling) => {
                (self.ceiling_logged, self.ceiling_synced) = (ceiling, ceiling);
            }
            Record::Mark { actor, counter } => {
                self.marks.insert(actor, counter);
                self.marks_logged.insert(actor, counter);
            }
            Record::Whole => self.whole = true,
            Record::Hint { id, write, session, deps } => self.keep_hint(id, Hint::new(write, session, deps)),
            Record::HintGone { id, .. } => self.forget_hint(id),
            Record::Homes { epoch, tenures } => self.restore_homes(position, epoch, tenures),
        }
    }

    /// The log ends at this position: others append to it too. Our records are numbered on from there.
    pub fn note_log_end(&mut self, position: LogPosition) {
        self.log_last = self.log_last.max(position);
    }

    /// Begins to take part, once every record is restored.
    pub fn begin(&mut self, now: Instant, wall_ms: u64, out: &mut Outbox) {
        (self.now, self.wall_ms) = (now, wall_ms);
        if self.rules.keep(Rule::CeilingForgotten) {
            self.clock = self.clock.max(self.ceiling_logged);
        }
        // Nor is it known which hints a home took shortly before.
        self.hints_gone.push_back((wall_ms, 0));
        // Which tombstones were dropped before is not kept.
        self.buried_max = self.clock;
        if !self.born {
            let actor = self.actor;
            self.log(Record::Born(actor), out);
            self.born = true;
        }
        if !self.whole {
            self.generation = 1;
        }
        if !self.rules.keep(Rule::EmptyCounted) {
            self.whole = true;
        }
        self.raise_ceiling(out);
        let tombstones = self.table.iter().filter(|(_, held)| held.state.is_tombstone());
        self.graves = tombstones.map(|(key, _)| key.clone()).collect();
        self.meet_peers();
        self.begin_in_view(out);
        self.timers.insert((now, Timer::Beat));
        self.handle_timers(out);
    }

    /// Takes one input and says what is to be done.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        self.now = self.now.max(now);
        match input {
            Input::Operation { ticket, operation, deadline, wall_ms, context } => {
                self.wall_ms = self.wall_ms.max(wall_ms);
                self.handle_operation(ticket, operation, deadline, context, out);
            }
            Input::Message { from, message, context } => self.handle_message(from, message, context, out),
            Input::Synced(position) => self.handle_synced(position, out),
            Input::DiskFull(full) => self.disk_full = full,
            Input::PeerLost(node) => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.down = true;
                }
            }
            Input::PeerFound(node) => self.handle_found(node, out),
            Input::View(view) => {
                self.handle_view(view, out);
            }
            Input::Tick { wall_ms } => self.wall_ms = self.wall_ms.max(wall_ms),
            Input::Drain => self.draining = true,
        }
        self.handle_timers(out);
    }

    /// When [`Input::Tick`] is due at the latest; none when nothing waits for time.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The view in force here.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// All keys that are held.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether our data was never lost, or is back: else we are not counted, and stamp nothing.
    pub fn is_whole(&self) -> bool {
        self.whole && self.counts_everywhere()
    }

    /// Hints that are kept here for homes that could not be reached, and how many were taken by a home since the start.
    pub fn hints(&self) -> (usize, u64) {
        (self.hints.len(), self.hints_taken)
    }

    /// Everything that `actor` stamped for us is here, up to this counter.
    pub(crate) fn mark(&self, actor: Actor) -> u64 {
        self.marks.get(&actor).copied().unwrap_or(0)
    }

    /// Operations that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.open.len()
    }

    /// Bytes the log would hold if it held each key once.
    pub fn live_bytes(&self) -> usize {
        self.table.bytes() + self.hint_bytes + 64 * self.marks.len()
    }

    /// Whether a record of the log still says how things are.
    pub fn is_current(&self, position: LogPosition, record: &Record) -> bool {
        match record {
            Record::Born(_) | Record::Whole => true,
            Record::Held { key, .. } => self.table.get(key).is_some_and(|held| held.logged == position),
            Record::Dropped(_) | Record::HintGone { .. } => false,
            Record::Ceiling(ceiling) => *ceiling == self.ceiling_logged,
            Record::Mark { actor, counter } => self.marks_logged.get(actor) == Some(counter),
            Record::Hint { id, .. } => self.hints.contains_key(id),
            Record::Homes { .. } => self.are_current_homes(position),
        }
    }

    /// Writes those of these old records that are still current to the log again; once the last of the new positions is
    /// synced, the old ones may go.
    pub fn rewrite(&mut self, records: Vec<(LogPosition, Record)>, out: &mut Outbox) {
        for (position, record) in records {
            if !self.is_current(position, &record) {
                continue;
            }
            let at = self.log(record.clone(), out);
            match record {
                Record::Held { key, .. } => self.table.moved(&key, at),
                Record::Homes { .. } => self.homes_moved(at),
                _ => {}
            }
        }
    }

    /// What the log holds at `through` or before and nowhere else, as records made from memory, for
    /// [`Replica::rewrite`]: for a part of the log that cannot be read any more. Right for the log's oldest part only.
    ///
    /// What is in memory was restored from a whole log or logged since, so nothing is forgotten by it. Whoever *starts*
    /// on a damaged log has no such memory, and must not come back as the one it was.
    pub fn held_through(&self, through: LogPosition) -> Vec<(LogPosition, Record)> {
        if !self.rules.keep(Rule::DamageDropped) {
            return Vec::new();
        }
        let unplaced = |record| (LogPosition(0), record);
        let mut records = vec![unplaced(Record::Born(self.actor)), unplaced(Record::Ceiling(self.ceiling_logged))];
        records.extend(self.whole.then_some(unplaced(Record::Whole)));
        let marks = self.marks_logged.iter();
        records.extend(marks.map(|(actor, counter)| unplaced(Record::Mark { actor: *actor, counter: *counter })));
        records.extend(self.hints.iter().filter(|(_, hint)| hint.logged <= through).map(|(id, hint)| {
            let Hint { write, session, deps, .. } = hint.clone();
            unplaced(Record::Hint { id: *id, write, session, deps })
        }));
        records.extend(self.homes_through(through));
        let held = self.table.iter().filter(|(_, held)| held.logged <= through);
        records.extend(
            held.map(|(key, held)| (held.logged, Record::Held { key: key.clone(), state: held.state.clone() })),
        );
        records
    }

    /// Whose votes decide on a key: the homes in charge, and while that changes the next ones.
    pub(crate) fn sets_of(&self, position: Position) -> ReplicaSets {
        self.ring.sets_of(position)
    }

    /// The homes that are in charge of a key.
    pub(crate) fn homes(&self, position: Position) -> Arc<[NodeId]> {
        self.ring.replicas_of(position)
    }

    pub(crate) fn is_home(&self, position: Position) -> bool {
        self.sets_of(position).contains(self.me)
    }

    /// How many of a key's homes are a majority.
    pub(crate) fn majority(homes: &[NodeId]) -> usize {
        homes.len() / 2 + 1
    }

    /// Where the log ends.
    pub(crate) fn log_end(&self) -> LogPosition {
        self.log_last
    }

    /// A number that was not used before, in this start or an earlier one.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.number_last += 1;
        self.number_last
    }

    pub(crate) fn log(&mut self, record: Record, out: &mut Outbox) -> LogPosition {
        self.log_last = LogPosition(self.log_last.0 + 1);
        match self.config.durability {
            Durability::Disk => out.persist.push((self.log_last, record)),
            // What nobody writes has nothing to wait for.
            Durability::Memory => self.synced = self.log_last,
        }
        self.log_last
    }

    /// Does it once the log is synced up to `position`.
    pub(crate) fn after(&mut self, position: LogPosition, what: Later, out: &mut Outbox) {
        if position <= self.synced {
            self.run_later(what, out);
        } else {
            self.later.entry(position).or_default().push(what);
        }
    }

    fn handle_synced(&mut self, position: LogPosition, out: &mut Outbox) {
        self.synced = self.synced.max(position);
        let still = self.later.split_off(&LogPosition(position.0 + 1));
        for what in std::mem::replace(&mut self.later, still).into_values().flatten() {
            self.run_later(what, out);
        }
    }

    fn run_later(&mut self, what: Later, out: &mut Outbox) {
        match what {
            Later::Send(envelope) => out.send.push(envelope),
            Later::Answer(ticket, outcome, receipt) => self.answer(ticket, outcome, receipt, out),
            Later::Stamped { counter, key, state, context } => self.stamp_leaves(counter, &key, *state, context, out),
            Later::Claimed { from, actor, claim } => self.take_claim(from, actor, claim, out),
            Later::Ceiling(ceiling) => self.ceiling_synced = self.ceiling_synced.max(ceiling),
            Later::Voted(round) => self.round_voted(round, out),
            Later::Whole => self.whole = true,
        }
    }

    pub(crate) fn message(&self, body: Body) -> Message {
        Message { epoch: self.view.epoch, clock: self.clock, actor: self.actor, start: self.start, body }
    }

    /// Says `body` to `to`, once the log is synced to `wait`.
    pub(crate) fn tell(&mut self, to: NodeId, body: Body, wait: LogPosition, context: TraceContext, out: &mut Outbox) {
        let envelope = Envelope { to, message: self.message(body), context };
        let wait = wait.max(self.view_logged());
        self.after(wait, Later::Send(envelope), out);
    }

    /// Puts a state into the table and the log; where the log says so.
    pub(crate) fn put(&mut self, key: &RegisterKey, state: State, out: &mut Outbox) -> LogPosition {
        let position = self.log(Record::Held { key: key.clone(), state: state.clone() }, out);
        if state.is_tombstone() {
            self.graves.insert(key.clone());
        } else {
            self.graves.remove(key);
        }
        self.table.put(key, state, position);
        position
    }

    /// Merges what `from` told into what is held. True if it is behind: it shows something alive that is known to be
    /// gone.
    pub(crate) fn merge(&mut self, from: NodeId, key: &RegisterKey, incoming: &State, out: &mut Outbox) -> bool {
        let absent = State::absent(incoming.kind);
        let before = self.table.get(key).map_or(&absent, |held| &held.state);
        let mut state = before.clone();
        let stale = state.merge(incoming, self.rules, |dot| self.is_gone(key.position, dot));
        let changed = state != *before;
        self.clock = self.clock.max(incoming.context.vector.counter_max());
        let late = self.is_outsider(from, key.position) && self.counts_at(key.position);
        if changed && late && self.rules.keep(Rule::LateUnstamped) {
            // Marks of the homes say nothing of it. So it is our news, by a stamp that no entry has.
            let counter = self.next_counter(out);
            state.context.include(self.actor, counter);
            self.put_stamped(key, state, counter, TraceContext::NONE, out);
        } else if changed {
            self.put(key, state, out);
        }
        stale
    }

    /// Puts a state into the table and the log that we have just stamped; it leaves for the other homes once it is on
    /// disk.
    pub(crate) fn put_stamped(
        &mut self,
        key: &RegisterKey,
        state: State,
        counter: u64,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        let position = self.put(key, state.clone(), out);
        self.unsynced.insert(counter);
        let stamped = Later::Stamped { counter, key: key.clone(), state: Box::new(state), context };
        let wait = if self.rules.keep(Rule::SentUnsynced) { position } else { LogPosition(0) };
        self.after(wait, stamped, out);
    }

    /// Whether the node is no home of these keys, and only brings what it took while it was one.
    fn is_outsider(&self, node: NodeId, position: Position) -> bool {
        !self.sets_of(position).contains(node)
    }

    /// Whether states of these keys are taken from the node. Who is a home no more brings what a home has to stamp; one
    /// that is in charge and does not count must not. (One that is only to be in charge need not: the others compare
    /// with it once it is, and none of them answers alone before.)
    pub(crate) fn takes_from(&self, node: NodeId, position: Position) -> bool {
        let awaits = !self.homes(position).contains(&self.me);
        let may = awaits || self.counts_at(position) || !self.rules.keep(Rule::LateUnstamped);
        self.is_home(position) && (may || !self.is_outsider(node, position))
    }

    /// Whether a dot that our state does not have is known to be gone: everything its actor stamped up to it was here.
    pub(crate) fn is_gone(&self, position: Position, dot: Dot) -> bool {
        self.is_known(position, dot.actor, dot.counter)
    }

    /// What is held of a key, or that nothing is.
    pub(crate) fn state_of(&self, key: &RegisterKey, kind: crate::kind::Kind) -> State {
        self.table.get(key).map_or_else(|| State::absent(kind), |held| held.state.clone())
    }

    /// Up to where the log must be synced for what is held of the key to be on disk.
    pub(crate) fn logged(&self, key: &RegisterKey) -> LogPosition {
        self.table.get(key).map_or(LogPosition(0), |held| held.logged)
    }

    /// The next counter to stamp with, above all that was heard of.
    pub(crate) fn next_counter(&mut self, out: &mut Outbox) -> u64 {
        self.clock += 1;
        if self.clock > self.ceiling_logged {
            self.raise_ceiling(out);
        }
        self.clock
    }

    /// Up to where we may claim: what lies above the ceiling on disk might be used again after a restart.
    pub(crate) fn ceiling(&self) -> u64 {
        if self.rules.keep(Rule::CeilingForgotten) { self.ceiling_synced } else { u64::MAX }
    }

    pub(crate) fn raise_ceiling(&mut self, out: &mut Outbox) {
        if self.clock + CEILING_STEP / 2 < self.ceiling_logged {
            return;
        }
        let ceiling = self.clock + CEILING_STEP;
        self.ceiling_logged = ceiling;
        let position = self.log(Record::Ceiling(ceiling), out);
        self.after(position, Later::Ceiling(ceiling), out);
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, mut outcome: Outcome, receipt: Receipt, out: &mut Outbox) {
        if let Outcome::Read { seen, .. } | Outcome::Done { seen, .. } | Outcome::Remembered(Some((_, seen))) =
            &mut outcome
        {
            seen.epoch = self.view.epoch;
        }
        if let Some(deadline) = self.open.remove(&ticket) {
            self.timers.remove(&(deadline, Timer::Deadline(ticket)));
            out.answers.push(Answer { ticket, outcome, receipt });
        }
    }

    pub(crate) fn refuse(&mut self, asker: Asker, refusal: Refusal, out: &mut Outbox) {
        match asker {
            Asker::Client(ticket) => {
                let receipt = Receipt { epoch: self.view.epoch, ..Receipt::default() };
                self.answer(ticket, Outcome::Refused(refusal), receipt, out);
            }
            Asker::Hint { from, hint } => self.refuse_hint(from, hint, refusal, out),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// A random wait around `around`, from three quarters to five quarters of it.
    pub(crate) fn jittered(&mut self, around: std::time::Duration) -> std::time::Duration {
        around.mul_f64(0.75 + self.prng.unit() / 2.0)
    }

    pub(crate) fn at(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, timer));
    }

    fn handle_timers(&mut self, out: &mut Outbox) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > self.now {
                break;
            }
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Deadline(ticket) => self.handle_deadline(ticket, out),
                Timer::Round(round) => self.round_again(round, out),
                Timer::Pass(node) => self.drive(node, out),
                Timer::Owed(node) => self.look_after(node, out),
                Timer::Beat => {
                    self.beat(out);
                    let wait = self.config.beat;
                    let next = self.now + self.jittered(wait);
                    self.at(next, Timer::Beat);
                }
            }
        }
    }

    pub(crate) fn handle_message(&mut self, from: NodeId, message: Message, context: TraceContext, out: &mut Outbox) {
        if from == self.me || !self.is_in_time(from, &message, context, out) {
            return;
        }
        // Who has left may still have something to hand on.
        self.peers.entry(from).or_insert_with(Peer::new);
        if !self.meet(from, message.actor, message.start) {
            return;
        }
        self.clock = self.clock.max(message.clock);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.clock = message.clock;
        }
        self.handle_body((from, message.epoch), message.actor, message.body, context, out);
    }

    fn handle_body(
        &mut self,
        (from, epoch): (NodeId, Epoch),
        actor: Actor,
        body: Body,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        match body {
            Body::Store { id, claim, entries } => self.handle_store(from, actor, (id, claim), entries, context, out),
            Body::Stored { id, mark, of } => self.handle_stored(from, id, mark, of, out),
            Body::Beat { claim, mark, of, ask } => self.handle_beat(from, actor, claim, (mark, of), ask, out),
            Body::Read { round, key, digest } => self.handle_read(from, round, &key, digest, context, out),
            Body::Report { round, whole, state } => self.handle_report(from, round, whole, state, out),
            Body::Take { hint, write, session, deps } => {
                self.handle_take(from, hint, Hint::new(write, session, deps), context, out);
            }
            Body::Taken { hint, refused } => self.handle_taken(hint, refused, out),
            Body::Hints { from_ms } => self.handle_hints(from, from_ms),
            Body::Ask { pass, question, ranges } => self.handle_ask(from, pass, question, &ranges, out),
            Body::Tell { pass, question, answers, whole, marks } => {
                self.handle_tell((from, epoch), (pass, question), (whole, marks), answers, out);
            }
            Body::Want { pass, question, wanted } => self.handle_want(from, pass, question, &wanted, out),
            Body::Have { pass, question, entries } => self.handle_have(from, pass, question, entries, out),
            Body::Bury { keys } => self.handle_bury(from, keys, out),
            Body::Buried { keys } => self.handle_buried(from, keys, out),
            Body::Drop { keys } => self.handle_drop(keys, out),
            Body::OtherEpoch { view } => self.handle_other_epoch(from, epoch, view, out),
        }
    }
}
