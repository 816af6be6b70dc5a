//! The copying that makes a node a replica of an arc: from a majority of the replicas in charge, once they have the
//! change's epoch, what each register holds there at the highest ballot.
//!
//! Why a majority: whatever was chosen before, a majority of the set in charge has accepted, so one of those asked has
//! it. Why only those that have the new epoch: they take part in no round of the old one any more, so nothing can be
//! chosen behind the copy without the newcomers' set. From the change's begin the newcomer takes writes and votes like
//! the others; it may, since a decision needs a majority of the old set too.
//!
//! With the registers come the floors that the sources promised, and at the end the newcomer confirms the arc: what it
//! holds and does not know to be chosen (a copied state that only one source had accepted, a vote of its own in a round
//! that failed) is finished at a higher ballot. Else such a state could become chosen merely by the change's end, at a
//! ballot below floors that reads have relied on (decision 0054).
//!
//! Ballots are asked for first, and then only the registers in which the newcomer lags. So the second of two sources
//! costs little, and a copy that was interrupted is resumed by what the disk holds. A page is done when each register
//! that it named is held at its ballot or a higher one. Of each page both sides count what they hold and take a
//! fingerprint of it; the sums agree unless writes were under way, and are told to people ([`Event::ArcCopied`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc as Shared;
use std::time::Duration;

use membership::{Epoch, NodeId, Position, ReplicaSets};
use stdx::{Budget, Instant, TraceContext, mix};

use crate::acceptor::Acceptor;
use crate::io::{Event, Outbox};
use crate::message::{Body, LogPosition, RoundId, State};
use crate::replica::{Replica, Timer};
use crate::rules::{Rule, Rules};
use crate::types::{Ballot, RegisterKey, Version};

/// Registers named on one page.
const PAGE_ENTRIES_MAX: usize = 256;
/// Registers asked for at once.
const FETCH_KEYS_MAX: usize = 64;
/// Bytes of values in one answer, unless a single one is larger.
const FETCHED_BYTES_MAX: usize = 512 * 1024;
/// Arcs that are copied at the same time.
const ARCS_AT_ONCE: usize = 4;
/// When a question that has no answer is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(150);
/// Askings after which another source is tried.
const TRIES_MAX: u32 = 3;
/// What a register's key, ballot and frame cost on the way, in bytes.
const ENTRY_BYTES: usize = 64;
/// What the work on a register costs, as if it were so many bytes: small ones are bounded by the processor and not by
/// the network, and a copy must leave the requests of clients room there too.
const WORK_BYTES: usize = 4 * 1024;

/// All copying of this replica.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Transfer {
    /// The arcs to be copied, by the token at their end.
    copies: BTreeMap<Position, ArcCopy>,
    /// Which of them each change waits for.
    changes: Vec<(Epoch, Vec<Position>)>,
    /// What came in is charged to it.
    budget: Budget,
    /// Nodes that copy now, as far as the view tells: they share the rate, since they draw on the same sources.
    at_it: u64,
    timer_at: Option<Instant>,
    registers: u64,
    bytes: u64,
}

/// One arc's copying.
#[derive(Clone, Debug, Hash)]
struct ArcCopy {
    low: Position,
    epoch: Epoch,
    /// The replicas in charge.
    sources: Shared<[NodeId]>,
    /// Those that have told all they hold.
    heard: Vec<NodeId>,
    asking: Option<Asking>,
    /// The source to try next, counted on.
    turn: usize,
    /// What the last source held as it told it, page by page.
    at_source: ArcPrint,
    /// What was held here of the same, page by page.
    held: ArcPrint,
    /// When a majority was heard: a confirmation of at least this number completes the copy.
    confirmed_by: Option<u64>,
    /// How far the log must be synced for the copy to be safe; none until it is complete.
    complete: Option<LogPosition>,
}

/// A source that is being asked.
#[derive(Clone, Debug, Hash)]
struct Asking {
    node: NodeId,
    round: RoundId,
    /// Where the next page begins: behind the last register of the last one.
    after: Option<RegisterKey>,
    /// Where the last page begins.
    page_after: Option<RegisterKey>,
    /// The last page: what is to be held before it is done.
    named: Vec<(RegisterKey, Ballot)>,
    /// Registers of it that are still to be fetched.
    wanted: VecDeque<RegisterKey>,
    /// Whether no page follows it.
    is_last: bool,
    /// What the source held of the pages so far, and what was held here once each was done.
    prints: (ArcPrint, ArcPrint),
    asked_at: Option<Instant>,
    tries: u32,
}

/// A page as it came.
pub(crate) struct Page {
    pub entries: Vec<(RegisterKey, Ballot)>,
    pub more: bool,
    /// What the sender holds of what it names here.
    pub held: ArcPrint,
    pub floor: u64,
}

/// What somebody holds of an arc: equal for two who hold the same versions of the same registers, at whatever ballots
/// they were settled last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ArcPrint {
    /// How many registers.
    pub registers: u64,
    /// A sum over their positions and versions, modulo 2^64. Positions are keyed hashes, so nobody aims at a collision.
    pub print: u64,
}

impl ArcPrint {
    fn add(&mut self, key: &RegisterKey, Version { ballot, index }: Version) {
        self.registers += 1;
        let mixed = mix(key.position.0 ^ mix(ballot.counter ^ mix(ballot.node.0 ^ mix(u64::from(index)))));
        self.print = self.print.wrapping_add(mixed);
    }

    /// What is held of two parts of an arc.
    fn with(self, other: ArcPrint) -> ArcPrint {
        let print = self.print.wrapping_add(other.print);
        ArcPrint { registers: self.registers + other.registers, print }
    }
}

/// How far this node's copying is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferStatus {
    /// Arcs that this node is to become a replica of.
    pub arcs: usize,
    /// Of these, how many are copied and synced.
    pub arcs_copied: usize,
    /// Registers that were fetched since the start.
    pub registers: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl<R: Rules> Replica<R> {
    /// What this node may take in while it copies, and what of it is spent. Where others draw on the same, as the
    /// replicas of available keys do, the shell gives it before each input and takes it back from
    /// [`Replica::budget`].
    pub fn set_budget(&mut self, budget: Budget) {
        self.transfer.budget = budget;
    }

    /// What is left of it.
    pub fn budget(&self) -> Budget {
        self.transfer.budget
    }

    /// How far the copying is.
    pub fn transfer_status(&self) -> TransferStatus {
        let copied = self.transfer.copies.values().filter(|copy| self.is_safe(copy)).count();
        TransferStatus {
            arcs: self.transfer.copies.len(),
            arcs_copied: copied,
            registers: self.transfer.registers,
            bytes: self.transfer.bytes,
        }
    }

    /// The changes for which this node holds, on its disk, all that they make it a replica of, and has not said so. To
    /// be noted in the view.
    pub fn copied_changes(&self) -> Vec<Epoch> {
        let safe = |high: &Position| self.transfer.copies.get(high).is_some_and(|copy| self.is_safe(copy));
        let changes = self.transfer.changes.iter();
        changes
            .filter(|(_, arcs)| !self.rules.keeps(Rule::CopyBeforeSwitch) || arcs.iter().all(safe))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether what this replica holds of the arc is complete: not while it is being copied.
    pub(crate) fn is_copied(&self, high: Position) -> bool {
        self.transfer.copies.get(&high).is_none_or(|copy| copy.complete.is_some())
    }

    fn is_safe(&self, copy: &ArcCopy) -> bool {
        copy.complete.is_some_and(|position| position <= self.acceptor.synced())
    }

    /// A view is in force: which arcs are to be copied? What is under way for the same arc epoch goes on.
    pub(crate) fn transfer_follow_view(&mut self, out: &mut Outbox) {
        let mut before = std::mem::take(&mut self.transfer.copies);
        for arc in self.ring.arcs().iter().filter(|arc| arc.awaits(self.me)) {
            let kept = before.remove(&arc.high).filter(|copy| copy.epoch == arc.epoch && copy.low == arc.low);
            let copy = kept.unwrap_or_else(|| ArcCopy {
                low: arc.low,
                epoch: arc.epoch,
                sources: Shared::clone(&arc.replicas),
                heard: Vec::new(),
                asking: None,
                turn: 0,
                at_source: ArcPrint::default(),
                held: ArcPrint::default(),
                confirmed_by: None,
                complete: None,
            });
            self.transfer.copies.insert(arc.high, copy);
        }
        let mut changes = Vec::new();
        for pending in self.view.pending.iter().filter(|pending| !pending.copied.contains(&self.me)) {
            let arcs = self.view.arcs_of_change(pending.id, &self.ring);
            let mine: Vec<Position> = arcs.iter().filter(|arc| arc.awaits(self.me)).map(|arc| arc.high).collect();
            if !mine.is_empty() {
                changes.push((pending.id, mine));
            }
        }
        self.transfer.changes = changes;
        self.transfer.at_it = self.view.copiers(&self.ring).len() as u64;
        self.transfer_continue(out);
    }

    /// Asks what is due, as far as the rate allows.
    pub(crate) fn transfer_continue(&mut self, out: &mut Outbox) {
        if let Some(at) = self.transfer.timer_at.take() {
            self.timers.remove(&(at, Timer::Transfer));
        }
        let under_way = self.transfer.copies.iter().filter(|(_, copy)| copy.complete.is_none());
        let highs: Vec<Position> = under_way.map(|(high, _)| *high).take(ARCS_AT_ONCE).collect();
        if highs.is_empty() {
            return;
        }
        if let Some(until) = self.transfer.budget.spent_until(self.now) {
            return self.transfer_timer(until);
        }
        if !self.disk_full {
            for high in highs {
                self.transfer_ask(high, out);
            }
        }
        self.transfer_timer(self.now + ASK_AGAIN_AFTER);
    }

    fn transfer_timer(&mut self, at: Instant) {
        if self.transfer.timer_at.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(set) = self.transfer.timer_at.replace(at) {
            self.timers.remove(&(set, Timer::Transfer));
        }
        self.timers.insert((at, Timer::Transfer));
    }

    /// Asks an arc's source the next question, or the same again, or another source.
    fn transfer_ask(&mut self, high: Position, out: &mut Outbox) {
        let round = self.next_round_id();
        let (now, down) = (self.now, &self.down);
        let Some(copy) = self.transfer.copies.get_mut(&high) else { return };
        if copy.confirmed_by.is_some() {
            return self.transfer_conclude(high, out);
        }
        if copy.asking.as_ref().is_some_and(|asking| asking.tries >= TRIES_MAX || down.contains(&asking.node)) {
            copy.asking = None;
        }
        if copy.asking.is_none() {
            copy.asking = copy.next_source(|node| !down.contains(&node)).map(|node| Asking::new(node, round));
        }
        let Some(asking) = &mut copy.asking else { return self.transfer_conclude(high, out) };
        if asking.asked_at.is_some_and(|at| now.since(at) < ASK_AGAIN_AFTER) {
            return;
        }
        if asking.asked_at.is_some() {
            asking.tries += 1;
        } else {
            // Each question has its own number, so that an answer to an earlier one is known for what it is.
            asking.round = round;
        }
        asking.asked_at = Some(now);
        let (node, epoch, round) = (asking.node, copy.epoch, asking.round);
        let body = if asking.wanted.is_empty() {
            Body::Copy { round, high, after: asking.after.clone() }
        } else {
            let keys = asking.wanted.iter().take(FETCH_KEYS_MAX).cloned().collect();
            Body::Fetch { round, high, keys }
        };
        self.tell((node, epoch), body, LogPosition(0), TraceContext::NONE, out);
    }

    /// An arc's data is here when a majority of its sources was heard. Then it is confirmed.
    fn transfer_conclude(&mut self, high: Position, out: &mut Outbox) {
        let begun = self.confirmations_begun();
        let Some(copy) = self.transfer.copies.get_mut(&high) else { return };
        let sources = ReplicaSets { current: Shared::clone(&copy.sources), next: None };
        let enough = match self.rules.keeps(Rule::CopyFromMajority) {
            true => sources.is_quorum(|node| copy.heard.contains(&node)),
            false => !copy.heard.is_empty(),
        };
        if !enough || copy.complete.is_some() {
            return;
        }
        if copy.confirmed_by.is_none() {
            copy.confirmed_by = Some(begun);
        }
        if self.rules.keeps(Rule::CopyConfirmed) {
            self.begin_confirmation(high, out);
        } else {
            self.transfer_confirmed(high, begun, out);
        }
    }

    /// A confirmation of an arc has ended: if it began after the arc's data was here, the copy is complete.
    pub(crate) fn transfer_confirmed(&mut self, high: Position, began: u64, out: &mut Outbox) {
        let log_end = self.acceptor.log_end();
        let Some(copy) = self.transfer.copies.get_mut(&high) else { return };
        if copy.complete.is_some() || copy.confirmed_by.is_none_or(|first| began < first) {
            return;
        }
        copy.complete = Some(log_end);
        out.events.push(Event::ArcCopied { high, held: copy.held, at_source: copy.at_source });
        self.transfer_timer(self.now);
    }

    pub(crate) fn handle_copy_page(&mut self, from: NodeId, round: RoundId, page: Page, out: &mut Outbox) {
        let Some(high) = self.transfer.asked(from, round) else { return };
        // A floor is promised only with a counter that is seen, so no honest one lies above the message's own.
        self.ledger.inherit(high, page.floor.min(self.acceptor.counter()));
        let Some(asking) = self.transfer.copies.get_mut(&high).and_then(|copy| copy.asking.as_mut()) else { return };
        // A page that comes twice is known by the question's answer having come already.
        let beyond = page.entries.last().map(|(key, _)| key.clone());
        if asking.asked_at.is_none() || !asking.wanted.is_empty() || (page.more && beyond.is_none()) {
            return;
        }
        asking.page_after = asking.after.clone();
        asking.after = beyond.or_else(|| asking.after.take());
        asking.is_last = !page.more;
        asking.prints.0 = asking.prints.0.with(page.held);
        let listed = page.entries.len();
        asking.named = page.entries;
        asking.want(|key| self.acceptor.accepted_ballot(key));
        asking.heard_from();
        self.transfer_pay(ENTRY_BYTES * (listed + 1));
        self.transfer_advance(high, out);
    }

    pub(crate) fn handle_fetched(
        &mut self,
        from: NodeId,
        round: RoundId,
        entries: Vec<(RegisterKey, Ballot, State)>,
        out: &mut Outbox,
    ) {
        let Some(high) = self.transfer.asked(from, round).filter(|_| !self.disk_full) else { return };
        let (mut bytes, mut work) = (0, 0);
        for (key, ballot, state) in entries {
            let asking = self.transfer.copies.get_mut(&high).and_then(|copy| copy.asking.as_mut());
            let Some(asking) = asking else { return };
            let Some(at) = asking.wanted.iter().position(|wanted| *wanted == key) else { continue };
            asking.wanted.remove(at);
            bytes += bytes_of(&key, &state);
            work += WORK_BYTES;
            self.transfer.registers += 1;
            if ballot == Ballot::ZERO {
                // The source has dropped it since it was named, which it may once all agree that it is deleted.
                asking.named.retain(|(named, _)| *named != key);
                continue;
            }
            // It may not be chosen: no harm while the old set must agree, and settled before the old set goes.
            if self.acceptor.learn(&key, ballot, &state, &mut out.persist) {
                self.ledger.note(high, key, ballot);
            }
        }
        if bytes == 0 {
            return;
        }
        self.transfer.bytes += bytes as u64;
        if let Some(asking) = self.transfer.copies.get_mut(&high).and_then(|copy| copy.asking.as_mut()) {
            asking.heard_from();
        }
        self.transfer_pay(bytes + work);
        self.transfer_advance(high, out);
    }

    /// A source answered: is it done, and with it the arc?
    fn transfer_advance(&mut self, high: Position, out: &mut Outbox) {
        let Some(copy) = self.transfer.copies.get_mut(&high) else { return };
        let Some(asking) = copy.asking.as_mut().filter(|asking| asking.wanted.is_empty()) else {
            return self.transfer_timer(self.now);
        };
        // What came must be what was named, or later. A source that gave less is asked again from the beginning,
        // another one first.
        asking.want(|key| self.acceptor.accepted_ballot(key));
        if !asking.wanted.is_empty() {
            copy.asking = None;
            return self.transfer_timer(self.now);
        }
        let until = asking.after.as_ref().filter(|_| !asking.is_last);
        let held = print_between(&self.acceptor, (copy.low, high), asking.page_after.as_ref(), until);
        asking.prints.1 = asking.prints.1.with(held);
        if asking.is_last {
            (copy.at_source, copy.held) = asking.prints;
            copy.heard.push(asking.node);
            copy.asking = None;
            self.transfer_conclude(high, out);
        }
        self.transfer_timer(self.now);
    }

    /// What came in is paid for with time.
    fn transfer_pay(&mut self, bytes: usize) {
        let shared = (bytes as u64).saturating_mul(self.transfer.at_it.max(1));
        self.transfer.budget.pay(self.now, shared);
    }

    /// Answers a newcomer, if we are in charge of what it asks for.
    pub(crate) fn give(&self, body: Body) -> Option<Body> {
        let high = match &body {
            Body::Copy { high, .. } | Body::Fetch { high, .. } => *high,
            _ => return None,
        };
        let low = self.ring.arc_of(high).filter(|arc| arc.replicas.contains(&self.me))?.low;
        match body {
            Body::Copy { round, after, .. } => {
                let mut rest = self.acceptor.of_arc((low, high), after.as_ref());
                let (mut entries, mut held) = (Vec::new(), ArcPrint::default());
                for (key, register) in rest.by_ref().take(PAGE_ENTRIES_MAX) {
                    entries.push((key.clone(), register.accepted));
                    held.add(key, register.state.version);
                }
                let more = rest.next().is_some();
                let floor = self.acceptor.floor().max(self.ledger.highest(high));
                Some(Body::CopyPage { round, entries, more, held, floor })
            }
            Body::Fetch { round, keys, .. } => {
                let (mut entries, mut bytes) = (Vec::new(), 0);
                for key in keys.into_iter().take(FETCH_KEYS_MAX) {
                    let (ballot, state, _) = self.acceptor.accepted(&key);
                    bytes += bytes_of(&key, &state);
                    if bytes > FETCHED_BYTES_MAX && !entries.is_empty() {
                        break;
                    }
                    entries.push((key, ballot, state));
                }
                Some(Body::Fetched { round, entries })
            }
            _ => None,
        }
    }
}

impl Transfer {
    /// For the model check: what came in is paid for, and nothing is asked again.
    pub(crate) fn stop_clocks(&mut self, far: Instant) {
        self.budget.forgive();
        self.timer_at = self.timer_at.map(|_| far);
    }

    /// Whether what came in is still being paid for.
    pub(crate) fn owes(&self) -> bool {
        self.budget.spent_until(Instant::ZERO).is_some()
    }

    /// What was asked is asked anew: it was refused by who did not know of the change yet.
    pub(crate) fn ask_again(&mut self) {
        for asking in self.copies.values_mut().filter_map(|copy| copy.asking.as_mut()) {
            asking.heard_from();
        }
    }

    /// The arc for which `from` is being asked under this number.
    pub(crate) fn asked(&self, from: NodeId, round: RoundId) -> Option<Position> {
        let asks = |copy: &ArcCopy| copy.asking.as_ref().is_some_and(|a| a.node == from && a.round == round);
        self.copies.iter().find(|(_, copy)| asks(copy)).map(|(high, _)| *high)
    }
}

impl ArcCopy {
    /// Whom to ask next: somebody who has not told all, in turn, and better one that can be reached. None when all
    /// have.
    fn next_source(&mut self, reachable: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let left: Vec<NodeId> = self.sources.iter().copied().filter(|node| !self.heard.contains(node)).collect();
        let near: Vec<NodeId> = left.iter().copied().filter(|node| reachable(*node)).collect();
        let choice = if near.is_empty() { left } else { near };
        self.turn = self.turn.wrapping_add(1);
        let at = self.turn.checked_rem(choice.len())?;
        choice.get(at).copied()
    }
}

impl Asking {
    fn new(node: NodeId, round: RoundId) -> Asking {
        Asking {
            node,
            round,
            after: None,
            page_after: None,
            named: Vec::new(),
            wanted: VecDeque::new(),
            is_last: false,
            prints: Default::default(),
            asked_at: None,
            tries: 0,
        }
    }

    /// Wants what was named and is not held at that ballot.
    fn want(&mut self, held: impl Fn(&RegisterKey) -> Ballot) {
        let lacking = self.named.iter().filter(|(key, ballot)| held(key) < *ballot);
        self.wanted = lacking.map(|(key, _)| key.clone()).collect();
    }

    /// It answered: the next question is due.
    fn heard_from(&mut self) {
        self.asked_at = None;
        self.tries = 0;
    }
}

/// What is held of the arc (`low`, `high`] behind `after` and up to `until`; none stands for the arc's beginning and
/// end. A page at a time, since whole arcs would hold up requests.
fn print_between(
    acceptor: &Acceptor,
    (low, high): (Position, Position),
    after: Option<&RegisterKey>,
    until: Option<&RegisterKey>,
) -> ArcPrint {
    let place = |key: &RegisterKey| (low.distance_to(key.position), key.clone());
    let end = until.map(place);
    let mut held = ArcPrint::default();
    let within = |key: &RegisterKey| end.as_ref().is_none_or(|end| place(key) <= *end);
    let entries = acceptor.of_arc((low, high), after).take_while(|(key, _)| within(key));
    entries.for_each(|(key, register)| held.add(key, register.state.version));
    held
}

fn bytes_of(key: &RegisterKey, state: &State) -> usize {
    let value = state.value.as_ref().map_or(0, |value| value.body.len() + value.content_type.len());
    ENTRY_BYTES + key.key.len() + value + 40 * state.requests.entries.len()
}
