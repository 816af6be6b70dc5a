//! Cuts: what the keys of a bucket on one arc held at one point of the order of all operations on that arc.
//!
//! All operations on an arc have a time on the Lamport scale of ballots (see `confirm.rs`). The cut at `c` shows of
//! each key the last write that happened at a time up to `c`: no effect without its cause, and everything that was
//! acknowledged before the cut was asked for. It is found by a confirmation up to `c`. After that every value that was
//! chosen up to `c` is known here, and none can be chosen any more - but by rounds of our own that were under way when
//! it began; those are waited for.
//!
//! Writes go on meanwhile, above `c`. The first one that would overwrite what a register held at `c` sets that aside
//! ([`Saved`]), and the cut shows what was set aside. So a cut never holds a write up, and writes seldom hold up a cut.
//! It has to be taken again, at a higher `c`, if a replica reported a ballot above `c` (it hides what lay below, which
//! may have been acknowledged before we were asked), and if what a register held at `c` is not here: it lags, or an
//! interrupted write had to be finished first.
//!
//! A cut that is asked for in several pages is kept here for a while. It shares the memory of the values with the
//! registers, so it costs what was overwritten since. It is in memory only: whoever asks for a page of a cut that is
//! gone begins the arc again, here or at another replica.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use membership::{BucketId, Epoch, Position};
use stdx::{Instant, TraceContext};

use crate::acceptor::Acceptor;
use crate::confirm::NOBODY;
use crate::io::{Outbox, Ticket};
use crate::message::State;
use crate::replica::{Replica, Timer};
use crate::round::{Phase, Round, Waiting};
use crate::rules::Rules;
use crate::types::{Ballot, Refusal, RegisterKey, Value, Version};

/// Scans that may wait for a cut at one node; past it the answer is [`Refusal::Overloaded`].
const SCANS_MAX: usize = 64;
/// Cuts that are kept for further pages; the one that was not asked for the longest makes room for a new one.
const KEPT_MAX: usize = 8;
/// How long a cut is kept after its last page.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Entries of one page at most.
pub const SCAN_ENTRIES_MAX: u32 = 1_024;
/// Values of one page at most, in bytes; a page has at least one entry all the same.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Keys of one page at most, in bytes: with the values, well below what one frame may carry.
const PAGE_KEY_BYTES_MAX: usize = 512 << 10;
/// How far above all counters that were heard of a cut is taken: others seldom use that many meanwhile.
const AHEAD: u64 = 64;
/// The pause before a cut is taken again.
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// Registers that are brought up to date at the same time, for a cut that missed what they held.
const REPAIRS_MAX: usize = 32;

/// A question: what do a bucket's keys on a stretch of the ring hold? Answered by a replica in charge of the arc that
/// the stretch begins in, up to the end of that arc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The bucket.
    pub bucket: BucketId,
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// The first position that is wanted.
    pub from: Position,
    /// The last one; a stretch from 5 to 4 is the whole circle.
    pub to: Position,
    /// Go on after this key, which lies on the stretch.
    pub after: Option<RegisterKey>,
    /// Go on with this cut, from the replica that took it; 0 for a new one.
    pub cut: u64,
    /// Whether further pages of the cut will be asked for.
    pub keep: bool,
    /// Whether the values are wanted too, and not only their sizes.
    pub values: bool,
    /// The longest page, in entries; at most [`SCAN_ENTRIES_MAX`].
    pub entries_max: u32,
    /// The Lamport counter of the asker's session: the cut is taken above it.
    pub since: u64,
}

/// One key of a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEntry {
    /// The key.
    pub key: RegisterKey,
    /// The version of its value.
    pub version: Version,
    /// The size of its value, in bytes.
    pub size: u64,
    /// When the value ends, milliseconds of the Unix epoch; 0 for never.
    pub ends_ms: u64,
    /// The value, if it was asked for.
    pub value: Option<Value>,
}

/// One page of a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// What to name for the next page of the same cut; 0 if it is not kept.
    pub cut: u64,
    /// The cut's time: the Lamport counter up to which it shows everything, and nothing beyond.
    pub time: u64,
    /// The view's epoch at this replica.
    pub epoch: Epoch,
    /// Up to which position, included, the cut reaches.
    pub through: Position,
    /// Keys with a value, in ring order.
    pub entries: Vec<ScanEntry>,
    /// Whether the cut has more of them.
    pub more: bool,
}

/// The answer to a [`Scan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanOutcome {
    /// A page.
    Page(ScanPage),
    /// This replica does not have the cut any more: begin the arc again.
    Gone,
    /// Not answered, and why; another replica may.
    Refused(Refusal),
}

/// What a register held when a cut's time had come, set aside before it was overwritten.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Saved {
    /// The ballot of `state`.
    pub accepted: Ballot,
    /// What was accepted.
    pub state: State,
    /// The highest ballot up to the cut's time at which something is known to be chosen.
    pub chosen: Ballot,
}

/// Registers of an arc whose content at a counter is wanted.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Watch {
    low: Position,
    high: Position,
    up_to: u64,
    saved: BTreeMap<RegisterKey, Saved>,
}

/// The watches of all cuts that are being taken, by the upper end of their arcs.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Watches(BTreeMap<Position, Watch>);

/// A scan that waits for its cut.
#[derive(Clone, Debug)]
struct WaitingScan {
    ticket: Ticket,
    scan: Scan,
    deadline: Instant,
    context: TraceContext,
    /// Only a confirmation that began after this many had is new enough.
    arrived: u64,
}

/// A cut that is being taken.
#[derive(Clone, Debug)]
struct OpenCut {
    up_to: u64,
    /// The number of its confirmation.
    began: u64,
    /// Whether the arc is confirmed up to it.
    confirmed: bool,
    /// Buckets with a key of which a ballot above it was reported.
    hidden: BTreeSet<BucketId>,
    /// Reported ballots that were not known to be chosen then. If one is found to be, the cut shows it; if it had to be
    /// finished above the cut, nobody knows whether it was chosen below.
    unsettled: BTreeMap<RegisterKey, Ballot>,
}

/// A cut with more pages to come.
#[derive(Clone, Debug)]
struct KeptCut {
    id: u64,
    time: u64,
    from: Position,
    through: Position,
    entries: Vec<ScanEntry>,
    used_at: Instant,
}

/// All cuts of this replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cuts {
    waiting: Vec<WaitingScan>,
    open: BTreeMap<Position, OpenCut>,
    kept: VecDeque<KeptCut>,
    /// When the next try is due.
    again_at: Option<Instant>,
}

impl<R: Rules> Replica<R> {
    pub(crate) fn handle_scan(
        &mut self,
        ticket: Ticket,
        scan: Scan,
        deadline: Instant,
        context: TraceContext,
        out: &mut Outbox,
    ) {
        if scan.cut != 0 {
            let outcome = self.kept_page(&scan);
            return out.scans.push((ticket, outcome));
        }
        let refusal = if self.arc_to_scan(&scan).is_none() {
            Some(Refusal::NotReplica(self.view.epoch))
        } else if self.draining {
            Some(Refusal::Draining)
        } else if self.cuts.waiting.len() >= SCANS_MAX {
            Some(Refusal::Overloaded)
        } else if deadline <= self.now {
            Some(Refusal::NoQuorum)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return out.scans.push((ticket, ScanOutcome::Refused(refusal)));
        }
        self.acceptor.observe(scan.since, &mut out.persist);
        self.timers.insert((deadline, Timer::Cut));
        let arrived = self.confirmations_begun();
        self.cuts.waiting.push(WaitingScan { ticket, scan, deadline, context, arrived });
    }

    /// The arc that a scan begins in, by its upper end: if we are in charge of it, and hold all of it.
    fn arc_to_scan(&self, scan: &Scan) -> Option<Position> {
        let arc = self.ring.arc_of(scan.from).filter(|arc| arc.replicas.contains(&self.me))?;
        self.is_copied(arc.high).then_some(arc.high)
    }

    /// Takes cuts on as far as they can be taken now. Called at the end of each input.
    pub(crate) fn cuts_continue(&mut self, out: &mut Outbox) {
        if self.cuts.waiting.is_empty() && self.cuts.open.is_empty() {
            return;
        }
        self.end_hopeless_scans(out);
        let highs: BTreeSet<Position> =
            self.cuts.waiting.iter().filter_map(|waiting| self.arc_to_scan(&waiting.scan)).collect();
        let open: Vec<Position> = self.cuts.open.keys().copied().filter(|high| !highs.contains(high)).collect();
        for high in open {
            self.close_cut(high);
        }
        for high in highs {
            self.cut_continue(high, out);
        }
    }

    /// Answers those who wait no longer, and those whose arc is not ours any more.
    fn end_hopeless_scans(&mut self, out: &mut Outbox) {
        let waiting = std::mem::take(&mut self.cuts.waiting);
        for scan in waiting {
            let refusal = match self.arc_to_scan(&scan.scan) {
                None => Refusal::NotReplica(self.view.epoch),
                Some(_) if scan.deadline <= self.now => Refusal::NoQuorum,
                Some(_) => {
                    self.cuts.waiting.push(scan);
                    continue;
                }
            };
            self.timers.remove(&(scan.deadline, Timer::Cut));
            out.scans.push((scan.ticket, ScanOutcome::Refused(refusal)));
        }
        // Others may have the same deadline.
        for waiting in &self.cuts.waiting {
            self.timers.insert((waiting.deadline, Timer::Cut));
        }
    }

    fn cut_continue(&mut self, high: Position, out: &mut Outbox) {
        let Some(open) = self.cuts.open.get(&high) else {
            let due = self.cuts.again_at.is_none_or(|at| at <= self.now);
            if due && !self.is_confirming(high) {
                let counter = self.acceptor.counter().saturating_add(AHEAD);
                self.acceptor.observe(counter, &mut out.persist);
                self.begin_confirmation(high, out);
            }
            return;
        };
        if !open.confirmed || self.has_own_round_below(high, open.up_to) {
            return;
        }
        let Some(open) = self.cuts.open.remove(&high) else { return };
        let watch = self.acceptor.watches.0.remove(&high);
        let mut troubled = BTreeSet::new();
        for waiting in std::mem::take(&mut self.cuts.waiting) {
            let served = self.arc_to_scan(&waiting.scan) == Some(high) && waiting.arrived <= open.began;
            match served.then(|| self.take_cut(&waiting.scan, high, &open, watch.as_ref())) {
                Some(Ok(page)) => {
                    self.timers.remove(&(waiting.deadline, Timer::Cut));
                    out.scans.push((waiting.ticket, ScanOutcome::Page(page)));
                }
                Some(Err(keys)) => {
                    troubled.extend(keys);
                    self.cuts.waiting.push(waiting);
                }
                None => self.cuts.waiting.push(waiting),
            }
        }
        if !self.cuts.waiting.is_empty() {
            let at = self.now + AGAIN_AFTER;
            self.cuts.again_at = Some(at);
            self.timers.insert((at, Timer::Cut));
        }
        for key in troubled {
            self.bring_up_to_date(key, out);
        }
    }

    /// A confirmation of the arc begins: if somebody waits for a cut of it, this is the one.
    pub(crate) fn open_cut(&mut self, high: Position, up_to: u64, began: u64) {
        let wanted = self.cuts.waiting.iter().any(|waiting| self.arc_to_scan(&waiting.scan) == Some(high));
        let Some(arc) = self.ring.arc_of(high).filter(|arc| wanted && arc.high == high) else { return };
        let watch = Watch { low: arc.low, high, up_to, saved: BTreeMap::new() };
        self.acceptor.watches.0.insert(high, watch);
        let open = OpenCut { up_to, began, confirmed: false, hidden: BTreeSet::new(), unsettled: BTreeMap::new() };
        self.cuts.open.insert(high, open);
    }

    /// The trace of whoever waits for a cut of the arc.
    pub(crate) fn cut_context(&self, high: Position) -> TraceContext {
        let first = self.cuts.waiting.iter().find(|waiting| self.arc_to_scan(&waiting.scan) == Some(high));
        first.map_or(TraceContext::NONE, |waiting| waiting.context)
    }

    /// The confirmation was given up: whoever waits begins again.
    pub(crate) fn close_cut(&mut self, high: Position) {
        self.cuts.open.remove(&high);
        self.acceptor.watches.0.remove(&high);
    }

    /// The cut's confirmation was told of ballots above it, in these buckets, and of these that are not known to be
    /// chosen.
    pub(crate) fn note_reported_for_cut(
        &mut self,
        high: Position,
        above: BTreeSet<BucketId>,
        unsettled: BTreeMap<RegisterKey, Ballot>,
    ) {
        if let Some(open) = self.cuts.open.get_mut(&high) {
            open.hidden.extend(above);
            open.unsettled.extend(unsettled);
        }
    }

    pub(crate) fn confirm_cut(&mut self, high: Position, began: u64) {
        if let Some(open) = self.cuts.open.get_mut(&high).filter(|open| open.began == began) {
            open.confirmed = true;
        }
    }

    /// Whether somebody waits for a cut of this arc.
    pub(crate) fn awaits_cut(&self, high: Position) -> bool {
        self.cuts.open.contains_key(&high)
    }

    /// Whether a round of ours on the arc may yet happen at a time up to this counter.
    fn has_own_round_below(&self, high: Position, up_to: u64) -> bool {
        let below = |round: &Round| match &round.phase {
            Phase::Accepting { ballot, state, .. } => state.time(*ballot).counter <= up_to,
            Phase::Preparing { ballot, .. } if ballot.counter <= up_to => true,
            Phase::Preparing { .. } | Phase::Querying { .. } | Phase::BackingOff => {
                (1..=up_to).contains(&round.proposed)
            }
        };
        self.rounds.values().any(|round| below(round) && self.arc_end(&round.key) == high)
    }

    /// The first page of a cut that is complete; else the keys of which it is not known what they held.
    fn take_cut(
        &mut self,
        scan: &Scan,
        high: Position,
        open: &OpenCut,
        watch: Option<&Watch>,
    ) -> Result<ScanPage, Vec<RegisterKey>> {
        if open.hidden.contains(&scan.bucket) {
            return Err(Vec::new());
        }
        let through = end_of(scan, high);
        let most = if scan.keep { usize::MAX } else { page_entries(scan) };
        let (mut entries, mut troubled) = (Vec::new(), Vec::new());
        for (key, register) in self.acceptor.stretch(scan.from, through) {
            let wanted = key.bucket == scan.bucket && key.key.starts_with(&scan.prefix);
            if !wanted || scan.after.as_ref().is_some_and(|after| order(scan.from, key) <= order(scan.from, after)) {
                continue;
            }
            let saved = watch.and_then(|watch| watch.saved.get(key));
            let (accepted, state, chosen) = match saved {
                Some(saved) => (saved.accepted, &saved.state, saved.chosen),
                None => (register.accepted, &register.state, register.chosen),
            };
            let reported = open.unsettled.get(key).copied().unwrap_or_default();
            if accepted != chosen || chosen < reported {
                troubled.push(key.clone());
            } else if let Some(value) = &state.value {
                entries.push(ScanEntry {
                    key: key.clone(),
                    version: state.version,
                    size: value.body.len() as u64,
                    ends_ms: state.ends_ms,
                    value: Some(value.clone()),
                });
            }
            if entries.len() > most {
                break;
            }
        }
        if !troubled.is_empty() {
            return Err(troubled);
        }
        let from = scan.from;
        let mut cut = KeptCut { id: 0, time: open.up_to, from, through, entries, used_at: self.now };
        let mut page = self.page(&cut, scan);
        if scan.keep && page.more {
            cut.id = self.next_round_id().0;
            page.cut = cut.id;
            self.keep_cut(cut);
        }
        Ok(page)
    }

    fn keep_cut(&mut self, cut: KeptCut) {
        self.drop_old_cuts();
        if self.cuts.kept.len() >= KEPT_MAX {
            self.cuts.kept.pop_front();
        }
        self.cuts.kept.push_back(cut);
    }

    fn drop_old_cuts(&mut self) {
        let now = self.now;
        self.cuts.kept.retain(|kept| now.since(kept.used_at) < KEPT_FOR);
    }

    /// A further page of a cut that is kept.
    fn kept_page(&mut self, scan: &Scan) -> ScanOutcome {
        self.drop_old_cuts();
        let at = self.cuts.kept.iter().position(|kept| kept.id == scan.cut);
        let Some(mut cut) = at.and_then(|at| self.cuts.kept.remove(at)) else { return ScanOutcome::Gone };
        let page = self.page(&cut, scan);
        // The last page may be asked for again: its answer may be lost. Time takes the cut away.
        cut.used_at = self.now;
        self.cuts.kept.push_back(cut);
        ScanOutcome::Page(page)
    }

    fn page(&self, cut: &KeptCut, scan: &Scan) -> ScanPage {
        let is_told = |entry: &ScanEntry| {
            scan.after.as_ref().is_some_and(|after| order(cut.from, &entry.key) <= order(cut.from, after))
        };
        let start = cut.entries.partition_point(is_told);
        let (mut entries, mut bytes, mut key_bytes) = (Vec::new(), 0, 0);
        let mut more = false;
        for entry in &cut.entries[start..] {
            bytes += if scan.values { entry.size as usize } else { 0 };
            key_bytes += entry.key.key.len();
            let full = entries.len() >= page_entries(scan) || bytes > PAGE_BYTES_MAX || key_bytes > PAGE_KEY_BYTES_MAX;
            if full && !entries.is_empty() {
                more = true;
                break;
            }
            let value = entry.value.clone().filter(|_| scan.values);
            entries.push(ScanEntry { value, ..entry.clone() });
        }
        ScanPage { cut: cut.id, time: cut.time, epoch: self.view.epoch, through: cut.through, entries, more }
    }

    /// Sees to it that what is held of a register is known to be chosen, so that the next cut may show it.
    fn bring_up_to_date(&mut self, key: RegisterKey, out: &mut Outbox) {
        let (held, chosen) = self
            .acceptor
            .register(&key)
            .map_or((Ballot::ZERO, Ballot::ZERO), |register| (register.accepted, register.chosen));
        if held == chosen || self.lanes.contains_key(&key) || self.lanes.len() >= REPAIRS_MAX {
            return;
        }
        if held < chosen {
            self.catch_up_with(key);
        } else {
            let waiting = Waiting { ticket: Some(NOBODY), deadline: self.now, ..Waiting::internal(&key) };
            self.in_a_round(&key, waiting, out);
        }
    }
}

impl Acceptor {
    /// Sets aside what a register holds for the cuts that show it, if something above them is about to be held, or
    /// known to be chosen.
    pub(crate) fn save_for_cuts(&mut self, key: &RegisterKey, ballot: Ballot) {
        for watch in self.watches.0.values_mut() {
            let concerns = key.position.in_arc(watch.low, watch.high) && ballot.counter > watch.up_to;
            if concerns && !watch.saved.contains_key(key) {
                let saved = self.registers.get(key).map_or_else(Saved::default, |register| Saved {
                    accepted: register.accepted,
                    state: register.state.clone(),
                    chosen: register.chosen,
                });
                watch.saved.insert(key.clone(), saved);
            }
        }
    }

    /// Something was chosen at `ballot`, and happened at `time`: cuts at or above that whose register was set aside
    /// must know.
    pub(crate) fn note_chosen_for_cuts(&mut self, key: &RegisterKey, ballot: Ballot, time: Ballot) {
        for watch in self.watches.0.values_mut().filter(|watch| time.counter <= watch.up_to) {
            if let Some(saved) = watch.saved.get_mut(key) {
                saved.chosen = saved.chosen.max(ballot);
            }
        }
    }

    /// All registers from a position to another one, both included, in ring order; also those of which it is only known
    /// that something was chosen.
    fn stretch(
        &self,
        from: Position,
        to: Position,
    ) -> impl Iterator<Item = (&RegisterKey, &crate::acceptor::Register)> {
        let until = |to: Position| {
            to.0.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded(RegisterKey::first_at(next)))
        };
        let wraps = to < from;
        let near = (Bound::Included(RegisterKey::first_at(from.0)), if wraps { Bound::Unbounded } else { until(to) });
        let far = wraps.then(|| self.registers.range((Bound::Unbounded, until(to))));
        self.registers.range(near).chain(far.into_iter().flatten())
    }
}

/// Where the answer to a scan ends: at the end of the arc, or of the stretch, whichever comes first.
fn end_of(scan: &Scan, high: Position) -> Position {
    if scan.from.distance_to(high) <= scan.from.distance_to(scan.to) { high } else { scan.to }
}

/// A key's place in the order of a stretch that begins at `from`.
fn order(from: Position, key: &RegisterKey) -> (u64, &RegisterKey) {
    (from.distance_to(key.position), key)
}

fn page_entries(scan: &Scan) -> usize {
    scan.entries_max.clamp(1, SCAN_ENTRIES_MAX) as usize
}
