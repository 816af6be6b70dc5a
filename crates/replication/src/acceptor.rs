//! One node's registers as an acceptor: what it promised, what it accepted, and what of that is on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use membership::{Epoch, Position};

use crate::cut::Watches;
use crate::message::{LogPosition, Record, State};
use crate::rules::{Rule, Rules};
use crate::types::{Ballot, RegisterKey};

/// How far ahead of the counter the ceiling is set. A restart skips at most this many counters.
pub(crate) const CEILING_STEP: u64 = 1 << 16;
/// The ceiling is raised when the counter comes this near, so that votes almost never wait for it.
const CEILING_MARGIN: u64 = CEILING_STEP / 2;

/// A register as this replica holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Register {
    /// Nothing below this ballot is accepted. In memory only: after a restart the ceiling stands in for it.
    pub promised: Ballot,
    /// The ballot of `state`. Invariant: `accepted <= promised`, unless the state was learned.
    pub accepted: Ballot,
    /// What was accepted.
    pub state: State,
    /// Where the log was first told of it: from its sync on it is safe.
    pub logged: LogPosition,
    /// Where the log holds it now; behind `logged` once it was written again.
    pub place: LogPosition,
    /// A ballot of our own that a majority promised with the accept of `accepted`: the next write may skip its prepare
    /// as long as `accepted` is still what that majority accepted, in the arc epoch in which it did.
    pub granted: Option<(Epoch, Ballot)>,
    /// The highest ballot at which something is known to be chosen; what is held is known to be chosen when it is
    /// `accepted`. In memory only.
    pub chosen: Ballot,
}

impl Register {
    /// When what is held happened; see [`State::time`].
    pub fn time(&self) -> Ballot {
        self.state.time(self.accepted)
    }

    /// The counter of what was promised last or happened last, whichever is greater: a register may be forgotten only
    /// where a floor of at least that stands in for it.
    pub fn latest(&self) -> u64 {
        self.promised.max(self.time()).counter
    }
}

/// The answer of an acceptor to a prepare or accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    /// Yes; tell it once the log is synced that far.
    Yes(LogPosition),
    /// No: this counter stands in the way.
    No(u64),
}

/// All registers of a node, its Lamport counter and its ceiling.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Acceptor {
    pub(crate) registers: BTreeMap<RegisterKey, Register>,
    /// What cuts of arcs that are being taken want to be set aside.
    pub(crate) watches: Watches,
    /// Registers whose value ends some day, by that day.
    endings: BTreeSet<(u64, RegisterKey)>,
    /// Registers without a value that may go some day.
    tombstones: BTreeSet<RegisterKey>,
    counter: u64,
    /// Everything up to here is refused: what was promised before the restart is not known any more.
    floor: u64,
    ceiling: u64,
    /// The highest ceiling that is synced.
    ceiling_durable: u64,
    /// Ceilings on their way to the disk, oldest first.
    ceilings_pending: VecDeque<(LogPosition, u64)>,
    log_end: LogPosition,
    synced: LogPosition,
    live_bytes: usize,
    /// The newest view that was acted on.
    epoch: Epoch,
    /// Where the log says so.
    epoch_logged: LogPosition,
}

impl Acceptor {
    /// An acceptor that has seen nothing.
    pub fn new() -> Acceptor {
        Acceptor {
            registers: BTreeMap::new(),
            watches: Watches::default(),
            endings: BTreeSet::new(),
            tombstones: BTreeSet::new(),
            counter: 0,
            floor: 0,
            ceiling: 0,
            ceiling_durable: 0,
            ceilings_pending: VecDeque::new(),
            log_end: LogPosition(0),
            synced: LogPosition(0),
            live_bytes: 0,
            epoch: Epoch(0),
            epoch_logged: LogPosition(0),
        }
    }

    /// Takes a record back from the log, in log order, before anything else is done.
    pub fn restore(&mut self, position: LogPosition, record: Record) {
        assert!(position > self.log_end, "records come back in log order");
        self.log_end = position;
        self.synced = position;
        match record {
            Record::Ceiling(ceiling) => {
                self.ceiling = self.ceiling.max(ceiling);
                self.ceiling_durable = self.ceiling;
            }
            Record::Epoch(epoch) => self.epoch = self.epoch.max(epoch),
            Record::Dropped { key, ballot } => {
                if self.registers.get(&key).is_some_and(|register| register.accepted <= ballot) {
                    self.forget(&key);
                }
            }
            Record::Cleared { low, high } => self.forget_arc((low, high)),
            Record::Accepted { key, ballot, state } => {
                let register = self.registers.entry(key.clone()).or_default();
                // A cleaned log holds copies: the higher ballot is the newer, whatever the order.
                if ballot >= register.accepted {
                    let before = if register.accepted == Ballot::ZERO { 0 } else { size_of(&key, &register.state) };
                    self.live_bytes = self.live_bytes - before + size_of(&key, &state);
                    note_ending(&mut self.endings, &key, &register.state, &state);
                    note_tombstone(&mut self.tombstones, &key, &state);
                    *register = Register {
                        promised: ballot,
                        accepted: ballot,
                        state,
                        logged: position,
                        place: position,
                        granted: None,
                        chosen: Ballot::ZERO,
                    };
                }
            }
        }
    }

    /// The log ends here: it holds records of others too, and all of them are numbered in one order.
    pub fn note_log_end(&mut self, position: LogPosition) {
        self.log_end = self.log_end.max(position);
    }

    /// Begins to vote, after all records are restored: promises are forgotten, so everything up to the ceiling is
    /// refused.
    pub fn begin(&mut self, rules: impl Rules, persist: &mut Vec<(LogPosition, Record)>) {
        if rules.keeps(Rule::KeepCeiling) {
            self.floor = self.ceiling;
            self.counter = self.ceiling;
        } else {
            self.counter = self.registers.values().map(|register| register.accepted.counter).max().unwrap_or(0);
        }
        self.raise_ceiling(persist);
    }

    /// The Lamport counter.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Everything up to here is refused; it is another one after each start.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Notes that something is chosen at `ballot`, whether or not it is what is held. `time` is when it happened, as
    /// far as that is known; no later than that.
    pub fn note_chosen(&mut self, key: &RegisterKey, ballot: Ballot, time: Ballot) {
        self.save_for_cuts(key, time);
        self.note_chosen_for_cuts(key, ballot, time);
        let register = self.registers.entry(key.clone()).or_default();
        register.chosen = register.chosen.max(ballot);
    }

    /// Learns of a counter that someone used.
    pub fn observe(&mut self, counter: u64, persist: &mut Vec<(LogPosition, Record)>) {
        self.counter = self.counter.max(counter);
        if self.counter.saturating_add(CEILING_MARGIN) > self.ceiling {
            self.raise_ceiling(persist);
        }
    }

    /// The newest view that was ever acted on here.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Notes that the view of `epoch` is acted on from now on.
    pub fn note_epoch(&mut self, epoch: Epoch, persist: &mut Vec<(LogPosition, Record)>) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.epoch_logged = self.append(Record::Epoch(epoch), persist);
        }
    }

    /// How far the log must be synced before anything may be said in the view in force: a restart must not fall behind
    /// it.
    pub fn epoch_wait(&self) -> LogPosition {
        self.epoch_logged
    }

    /// The next counter for a ballot of our own.
    pub fn tick(&mut self, persist: &mut Vec<(LogPosition, Record)>) -> u64 {
        self.observe(self.counter.saturating_add(1), persist);
        self.counter
    }

    /// How far the log must be synced before anything that uses `counter` may be said.
    pub fn ceiling_wait(&self, counter: u64) -> LogPosition {
        if counter <= self.ceiling_durable {
            return LogPosition(0);
        }
        let covering = self.ceilings_pending.iter().find(|(_, ceiling)| counter <= *ceiling);
        covering.map_or(self.log_end, |(position, _)| *position)
    }

    /// Everything up to `position` is on disk.
    pub fn synced_to(&mut self, position: LogPosition) {
        assert!(position <= self.log_end, "the log cannot be synced past its end");
        self.synced = self.synced.max(position);
        while let Some((logged, ceiling)) = self.ceilings_pending.front().copied() {
            if logged > self.synced {
                break;
            }
            self.ceiling_durable = self.ceiling_durable.max(ceiling);
            self.ceilings_pending.pop_front();
        }
    }

    /// The position of the last record.
    pub fn log_end(&self) -> LogPosition {
        self.log_end
    }

    /// How far the log is synced.
    pub fn synced(&self) -> LogPosition {
        self.synced
    }

    /// Phase 1.
    pub fn prepare(&mut self, key: &RegisterKey, ballot: Ballot) -> Vote {
        let (promised, accepted) = self.bars(key);
        // The same prepare again is not a rival: its promise was lost on the way, and stands.
        if ballot.counter <= self.floor || ballot < promised || ballot <= accepted {
            return Vote::No(promised.max(accepted).counter.max(self.floor));
        }
        let register = self.registers.entry(key.clone()).or_default();
        register.promised = ballot;
        let logged = register.logged;
        Vote::Yes(logged.max(self.ceiling_wait(ballot.counter)))
    }

    /// Phase 2.
    pub fn accept(
        &mut self,
        rules: impl Rules,
        key: &RegisterKey,
        ballot: Ballot,
        state: &State,
        next: Ballot,
        persist: &mut Vec<(LogPosition, Record)>,
    ) -> Vote {
        let (promised, accepted) = self.bars(key);
        // The same accept again is answered again: what it asks for is done, and the promise of `next` is renewed
        // below.
        if ballot != accepted {
            let bar = if rules.keeps(Rule::KeepPromise) { promised.max(accepted) } else { accepted };
            if ballot.counter <= self.floor || ballot < bar {
                return Vote::No(bar.counter.max(self.floor));
            }
            self.take(key, ballot, state, persist);
        }
        let register = self.registers.entry(key.clone()).or_default();
        register.promised = register.promised.max(ballot).max(next);
        let logged = register.logged;
        Vote::Yes(logged.max(self.ceiling_wait(ballot.counter.max(next.counter))))
    }

    /// Takes a state that is known to be chosen at `ballot`. True if it was news.
    ///
    /// No promise stands against it: a coordinator that was promised a higher ballot asked a majority, which has a
    /// member in common with the majority that accepted this state before it promised, so that coordinator knows it.
    pub fn learn(
        &mut self,
        key: &RegisterKey,
        ballot: Ballot,
        state: &State,
        persist: &mut Vec<(LogPosition, Record)>,
    ) -> bool {
        let held = self.accepted_ballot(key);
        let news = held < ballot;
        if news {
            self.take(key, ballot, state, persist);
        }
        news
    }

    /// What was promised and what was accepted.
    fn bars(&self, key: &RegisterKey) -> (Ballot, Ballot) {
        let held = self.registers.get(key);
        held.map_or((Ballot::ZERO, Ballot::ZERO), |register| (register.promised, register.accepted))
    }

    fn take(&mut self, key: &RegisterKey, ballot: Ballot, state: &State, persist: &mut Vec<(LogPosition, Record)>) {
        self.save_for_cuts(key, state.time(ballot));
        let register = self.registers.entry(key.clone()).or_default();
        let before = if register.accepted == Ballot::ZERO { 0 } else { size_of(key, &register.state) };
        assert!(ballot > register.accepted, "an accepted ballot only grows");
        register.accepted = ballot;
        note_ending(&mut self.endings, key, &register.state, state);
        note_tombstone(&mut self.tombstones, key, state);
        register.state = state.clone();
        register.granted = None;
        self.live_bytes = self.live_bytes - before + size_of(key, state);
        let position = self.append(Record::Accepted { key: key.clone(), ballot, state: state.clone() }, persist);
        let register = self.registers.entry(key.clone()).or_default();
        (register.logged, register.place) = (position, position);
    }

    /// At which ballot something is accepted; zero for nothing.
    pub fn accepted_ballot(&self, key: &RegisterKey) -> Ballot {
        self.registers.get(key).map_or(Ballot::ZERO, |register| register.accepted)
    }

    /// What is accepted, and how far the log must be synced before it may be told.
    pub fn accepted(&self, key: &RegisterKey) -> (Ballot, State, LogPosition) {
        self.registers
            .get(key)
            .map_or_else(Default::default, |register| (register.accepted, register.state.clone(), register.logged))
    }

    /// The register, if this replica has heard of it.
    pub fn register(&self, key: &RegisterKey) -> Option<&Register> {
        self.registers.get(key)
    }

    /// Notes that a quorum of the arc epoch `epoch` accepted `accepted` and promised `next` to us.
    pub fn grant(&mut self, key: &RegisterKey, epoch: Epoch, accepted: Ballot, next: Ballot) {
        if let Some(register) = self.registers.get_mut(key) {
            register.granted = (register.accepted == accepted).then_some((epoch, next));
        }
    }

    /// Uses up the granted ballot, if it still stands: the ballot, and the state to build on.
    pub fn take_grant(&mut self, key: &RegisterKey, epoch: Epoch) -> Option<(Ballot, State)> {
        let register = self.registers.get_mut(key)?;
        let (granted_in, granted) = register.granted.take()?;
        let stands = register.promised == granted && granted_in == epoch;
        stands.then(|| (granted, register.state.clone()))
    }

    /// Registers of the arc (`low`, `high`] after `after`, in ring order from its beginning.
    pub fn of_arc<'a>(
        &'a self,
        (low, high): (Position, Position),
        after: Option<&RegisterKey>,
    ) -> impl Iterator<Item = (&'a RegisterKey, &'a Register)> {
        let [near, far] = stretches(low, high);
        let beyond = after.map(|key| (low.distance_to(key.position), key.clone()));
        // A stretch that does not hold `after` lies wholly before or wholly behind it.
        let past = move |key: &RegisterKey| {
            beyond.as_ref().is_none_or(|(ahead, after)| (low.distance_to(key.position), key) > (*ahead, after))
        };
        let held = [near, far].into_iter().flat_map({
            let after = after.cloned();
            move |stretch| self.of_stretch(stretch, after.clone())
        });
        held.filter(move |(key, _)| past(key))
    }

    /// The same in the order of keys: of an arc that reaches over the end of the numbers, its end comes first.
    pub fn of_arc_by_key<'a>(
        &'a self,
        (low, high): (Position, Position),
        after: Option<&RegisterKey>,
    ) -> impl Iterator<Item = (&'a RegisterKey, &'a Register)> {
        let [near, far] = stretches(low, high);
        let after = after.cloned();
        let held = [far, near].into_iter().flat_map({
            let after = after.clone();
            move |stretch| self.of_stretch(stretch, after.clone())
        });
        held.filter(move |(key, _)| after.as_ref().is_none_or(|after| *key > after))
    }

    /// Registers of one stretch of positions; past `after`, if that lies in it.
    fn of_stretch(
        &self,
        stretch: Option<(u64, Option<u64>)>,
        after: Option<RegisterKey>,
    ) -> impl Iterator<Item = (&RegisterKey, &Register)> {
        let range = stretch.and_then(|(start, end)| {
            let here = |key: &RegisterKey| key.position.0 >= start && end.is_none_or(|end| key.position.0 < end);
            let from =
                after.filter(here).map_or_else(|| Bound::Included(RegisterKey::first_at(start)), Bound::Excluded);
            let until = end.map_or(Bound::Unbounded, |end| Bound::Excluded(RegisterKey::first_at(end)));
            let empty = match (&from, &until) {
                (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(until)) => from >= until,
                _ => false,
            };
            (!empty).then(|| self.registers.range((from, until)))
        });
        range.into_iter().flatten().filter(|(_, register)| register.accepted > Ballot::ZERO)
    }

    /// Drops registers after `after` that lie in arcs that go: how many went, and where to go on; none when the end was
    /// reached. `goes` tells of the arc that a position lies in whether it goes, and its end. At most `most` registers
    /// and arcs are looked at; what stays is passed over an arc at a time.
    pub fn release(
        &mut self,
        after: Option<RegisterKey>,
        most: usize,
        goes: impl Fn(Position) -> (bool, Position),
    ) -> (u64, Option<RegisterKey>) {
        let mut from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut gone = 0;
        for _ in 0..most {
            let Some((key, _)) = self.registers.range((from, Bound::Unbounded)).next() else { return (gone, None) };
            let key = key.clone();
            let (is_gone, end) = goes(key.position);
            if is_gone {
                gone += u64::from(self.forget(&key));
                from = Bound::Excluded(key);
            } else {
                // The arc that lies around the circle's beginning is the last one up here.
                let beyond = end.0.checked_add(1).filter(|_| end >= key.position);
                let Some(beyond) = beyond else { return (gone, None) };
                from = Bound::Included(RegisterKey::first_at(beyond));
            }
        }
        let more = match from {
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
            Bound::Unbounded => None,
        };
        (gone, more)
    }

    /// Takes a register out of the books; whether it held something.
    fn forget(&mut self, key: &RegisterKey) -> bool {
        let Some(register) = self.registers.remove(key) else { return false };
        let held = register.accepted > Ballot::ZERO;
        self.live_bytes -= if held { size_of(key, &register.state) } else { 0 };
        note_ending(&mut self.endings, key, &register.state, &State::default());
        self.tombstones.remove(key);
        held
    }

    fn forget_arc(&mut self, (low, high): (Position, Position)) {
        for (start, end) in stretches(low, high).into_iter().flatten() {
            let until = end.map_or(Bound::Unbounded, |end| Bound::Excluded(RegisterKey::first_at(end)));
            let range = self.registers.range((Bound::Included(RegisterKey::first_at(start)), until));
            for key in range.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                self.forget(&key);
            }
        }
    }

    /// Gives up all registers of the arc (`low`, `high`], also those that only the log still holds.
    pub fn clear_arc(&mut self, (low, high): (Position, Position), persist: &mut Vec<(LogPosition, Record)>) {
        self.forget_arc((low, high));
        self.append(Record::Cleared { low, high }, persist);
    }

    /// Whether nothing is accepted of the register here.
    pub fn is_absent(&self, key: &RegisterKey) -> bool {
        self.registers.get(key).is_none_or(|register| register.accepted == Ballot::ZERO)
    }

    /// Whether the register says nothing, by what was accepted at `ballot` or because nothing was, and neither a
    /// promise for a ballot above `up_to` nor a time above it would be forgotten with it, nor that something newer is
    /// chosen.
    pub fn is_at_rest(&self, rules: impl Rules, key: &RegisterKey, ballot: Ballot, up_to: u64) -> bool {
        let Some(register) = self.registers.get(key) else { return true };
        if register.latest() > up_to {
            return false;
        }
        match register.accepted {
            Ballot::ZERO => register.chosen.counter <= up_to,
            accepted => accepted == ballot && register.state.says_nothing(rules) && register.chosen <= accepted,
        }
    }

    /// Drops a register for good; whether it held something.
    pub fn drop_register(&mut self, key: &RegisterKey, persist: &mut Vec<(LogPosition, Record)>) -> bool {
        let ballot = self.accepted_ballot(key);
        let held = self.forget(key);
        if held {
            self.append(Record::Dropped { key: key.clone(), ballot }, persist);
        }
        held
    }

    /// Registers without a value that may go some day.
    pub fn tombstones(&self) -> &BTreeSet<RegisterKey> {
        &self.tombstones
    }

    /// Those after `after`, in ring order.
    pub fn tombstones_after(&self, after: Option<RegisterKey>) -> impl Iterator<Item = &RegisterKey> {
        self.tombstones.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// Registers after `after` in ring order.
    pub fn after<'a>(&'a self, after: Option<&RegisterKey>) -> impl Iterator<Item = (&'a RegisterKey, &'a Register)> {
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        self.registers.range((start, Bound::Unbounded)).filter(|(_, register)| register.accepted > Ballot::ZERO)
    }

    /// Registers whose value's time is up by a clock that shows `wall_ms`, the longest overdue first.
    pub fn due(&self, wall_ms: u64) -> impl Iterator<Item = &RegisterKey> {
        self.endings.iter().take_while(move |(ends_ms, _)| *ends_ms <= wall_ms).map(|(_, key)| key)
    }

    /// How many registers hold something, deletions included.
    pub fn len(&self) -> usize {
        self.registers.len()
    }

    /// Bytes that the log would hold if it held each register once.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Whether a record of the log is the newest of its register. A ceiling or an epoch never is: see
    /// [`Acceptor::rewrite`].
    pub fn is_current(&self, record: &Record) -> bool {
        match record {
            Record::Accepted { key, ballot, .. } => {
                self.registers.get(key).is_some_and(|register| register.accepted == *ballot)
            }
            // What these take back stands before them in the log, and is gone when they are cleaned away themselves.
            Record::Dropped { .. } | Record::Cleared { .. } => false,
            Record::Ceiling(_) | Record::Epoch(_) => false,
        }
    }

    /// Whether the log holds what the record says there, and not behind that.
    pub fn is_at(&self, position: LogPosition, record: &Record) -> bool {
        match record {
            Record::Accepted { key, .. } => self.registers.get(key).is_some_and(|register| register.place == position),
            _ => true,
        }
    }

    /// Writes those of `records` that are still current to the log again, so that their old place can be given up.
    pub fn rewrite(&mut self, records: Vec<Record>, persist: &mut Vec<(LogPosition, Record)>) {
        for record in records {
            let Record::Accepted { key, .. } = &record else { continue };
            if !self.is_current(&record) {
                continue;
            }
            let key = key.clone();
            let place = self.append(record, persist);
            if let Some(register) = self.registers.get_mut(&key) {
                register.place = place;
            }
        }
        // What holds for the whole node is written again with every part that goes. The ceiling in force may have stood
        // there; what is durable stays so until the copy is.
        self.append(Record::Ceiling(self.ceiling), persist);
        if self.epoch > Epoch(0) {
            self.append(Record::Epoch(self.epoch), persist);
        }
    }

    /// What the log holds at `through` or before and nowhere else, as records made from memory. Right for the log's
    /// oldest part only.
    pub fn held_through(&self, through: LogPosition) -> Vec<Record> {
        let held =
            self.registers.iter().filter(|(_, register)| register.accepted > Ballot::ZERO && register.place <= through);
        held.map(|(key, register)| Record::Accepted {
            key: key.clone(),
            ballot: register.accepted,
            state: register.state.clone(),
        })
        .collect()
    }

    fn raise_ceiling(&mut self, persist: &mut Vec<(LogPosition, Record)>) {
        self.ceiling = self.counter.saturating_add(CEILING_STEP);
        let position = self.append(Record::Ceiling(self.ceiling), persist);
        self.ceilings_pending.push_back((position, self.ceiling));
    }

    fn append(&mut self, record: Record, persist: &mut Vec<(LogPosition, Record)>) -> LogPosition {
        self.log_end = LogPosition(self.log_end.0 + 1);
        persist.push((self.log_end, record));
        self.log_end
    }
}

/// Keeps the index of endings when a register's state changes.
fn note_ending(endings: &mut BTreeSet<(u64, RegisterKey)>, key: &RegisterKey, before: &State, after: &State) {
    if before.ends_ms == after.ends_ms {
        return;
    }
    if before.ends_ms != 0 {
        endings.remove(&(before.ends_ms, key.clone()));
    }
    if after.ends_ms != 0 {
        endings.insert((after.ends_ms, key.clone()));
    }
}

/// Keeps the index of tombstones when a register's state changes.
fn note_tombstone(tombstones: &mut BTreeSet<RegisterKey>, key: &RegisterKey, after: &State) {
    if after.is_collectable() {
        tombstones.insert(key.clone());
    } else {
        tombstones.remove(key);
    }
}

/// The positions of the arc (`low`, `high`] as up to two stretches from a first position to an excluded last one, in
/// the order of the ring: an arc may reach over the end of the numbers.
fn stretches(low: Position, high: Position) -> [Option<(u64, Option<u64>)>; 2] {
    let wraps = low >= high;
    let near = low.0.checked_add(1).map(|start| (start, if wraps { None } else { high.0.checked_add(1) }));
    [near, wraps.then(|| (0, high.0.checked_add(1)))]
}

fn size_of(key: &RegisterKey, state: &State) -> usize {
    // A record's fixed parts come to some 64 bytes; a remembered request to about 40.
    let value = state.value.as_ref().map_or(0, |value| value.body.len() + value.content_type.len());
    64 + key.key.len() + value + 40 * state.requests.entries.len()
}
