//! What a replica holds of one key, and how two replicas' states become one.
//!
//! A state is a dotted set (Almeida, Shoker and Baquero 2018; the DVV sets of Preguica and others are the same
//! thing for
//! plain values): entries that are alive, each with its dot, and the context of all dots that were ever seen. A dot in
//! the context without an entry is *gone*: it was replaced, removed or deleted, and never comes back. Merging keeps an
//! entry if both sides have it, or if one has it and the other has never seen it.
//!
//! Two things go beyond that:
//! - *Retries.* The attempts of one request may be stamped twice, by two replicas that have not heard of each
//!   other. The
//!   dots of one request are *aliases*: they are shown, and counted, as one, and when one of them is gone, all are.
//!   Whose entry is gone remembers its request ([`Past`]) until its replica *closes* it.
//! - *Sums.* A counter's old increments are folded into a sum by the replica that stamped them; only that replica
//!   writes
//!   its sum, so the later one of two versions of it is the right one.
//!
//! Merging is commutative, associative and idempotent: `tests/merge.rs` holds it to that.

use std::collections::BTreeSet;

use bytes::Bytes;
use replication::{RequestId, Value};

use crate::kind::Kind;
use crate::operation::Rank;
use crate::rules::{Rule, Rules};
use crate::version::{Actor, Context, Dot};

/// What an entry brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A value (types value and last-writer).
    Value(Value),
    /// An increment (type counter).
    Amount(i64),
    /// An element (type set).
    Element(Bytes),
    /// A field's value (type map).
    Field {
        /// The field.
        name: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// Nothing: a deletion that has its place among other writes (type last-writer).
    Deleted,
}

/// A write that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name and Lamport time.
    pub dot: Dot,
    /// The request whose effect it is.
    pub request: RequestId,
    /// When that was first received, milliseconds of the Unix epoch by a gateway's clock; orders nothing.
    pub first_sent_ms: u64,
    /// Its place among writes that did not see each other; at most its dot's counter, and the same in all its aliases.
    pub order: u64,
    /// The session that wrote it; 0 for none.
    pub session: u64,
    /// Whether the key held something before it, for the answer to a retry.
    pub existed: bool,
    /// What it brings.
    pub body: Body,
}

/// A write that is gone, or that never left anything (a removal): remembered so that a retry of it acts once. Of a
/// request whose place was taken before it came, the dot is that of the write that took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Past {
    /// Its name.
    pub dot: Dot,
    /// The request.
    pub request: RequestId,
    /// When that was first received.
    pub first_sent_ms: u64,
    /// Whether the key held something before it.
    pub existed: bool,
}

/// What one actor has put away of its own dots. Written by that actor only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The actor.
    pub actor: Actor,
    /// Of its dots up to here, those that are gone are forgotten.
    pub closed: u64,
    /// Its increments up to here are in `sum`.
    pub folded: u64,
    /// The sum of its folded increments.
    pub sum: i64,
    /// What `folded` was at the last deletion of the counter,
    pub base_folded: u64,
    /// and what `sum` was: it no longer counts.
    pub base: i64,
}

/// One key, as one replica holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// How concurrent writes become one value.
    pub kind: Kind,
    /// Everything that has been seen of the key.
    pub context: Context,
    /// What is alive, sorted by dot.
    pub entries: Vec<Entry>,
    /// What is gone and still remembered, sorted by dot and request.
    pub past: Vec<Past>,
    /// What was put away, sorted by actor.
    pub ledgers: Vec<Ledger>,
    /// Requests first received up to here may have been forgotten for lack of room.
    pub horizon_ms: u64,
    /// All that led to the writes of this key has Lamport counters up to this one.
    pub deps: u64,
}

impl Past {
    /// What it is found by: one write may have taken the place of requests that were not there yet.
    pub fn key(&self) -> (Dot, RequestId) {
        (self.dot, self.request)
    }
}

impl Entry {
    /// Its place among writes that did not see each other.
    pub fn rank(&self) -> Rank {
        (self.order, self.request)
    }
}

impl Ledger {
    fn of(actor: Actor) -> Ledger {
        Ledger { actor, closed: 0, folded: 0, sum: 0, base_folded: 0, base: 0 }
    }

    fn merge(&mut self, other: &Ledger) {
        self.closed = self.closed.max(other.closed);
        if other.folded > self.folded {
            (self.folded, self.sum) = (other.folded, other.sum);
        }
        if other.base_folded > self.base_folded {
            (self.base_folded, self.base) = (other.base_folded, other.base);
        }
    }
}

impl State {
    /// A key that nobody has written.
    pub fn absent(kind: Kind) -> State {
        State { kind, ..State::default() }
    }

    /// Whether nothing is shown: never written, or deleted.
    pub fn is_empty(&self) -> bool {
        match self.kind {
            Kind::LastWriter => self.latest().is_none_or(|entry| entry.body == Body::Deleted),
            Kind::Counter => self.entries.is_empty() && self.total() == 0,
            Kind::Value | Kind::Set | Kind::Map => self.entries.is_empty(),
        }
    }

    /// Whether nothing was ever written.
    pub fn is_blank(&self) -> bool {
        self.context.is_empty()
    }

    /// Whether the state says only that something is gone, and may be dropped once that is known everywhere.
    ///
    /// A counter with a sum is none: its ledger would start again at 0 elsewhere than here.
    pub fn is_tombstone(&self) -> bool {
        let nothing = self.entries.iter().all(|entry| entry.body == Body::Deleted);
        nothing && !self.is_blank() && self.ledgers.iter().all(|ledger| ledger.folded == 0)
    }

    /// Whether this state's context and entries include all that the other one's do.
    pub fn includes(&self, other: &State) -> bool {
        self.context.includes(&other.context)
            && self.entries.iter().all(|entry| !other.context.covers(entry.dot) || other.find(entry.dot).is_some())
    }

    /// Of all that is alive, the latest write.
    pub fn latest(&self) -> Option<&Entry> {
        self.entries.iter().max_by_key(|entry| entry.rank())
    }

    /// The live entry with this dot.
    pub fn find(&self, dot: Dot) -> Option<&Entry> {
        self.entries.binary_search_by_key(&dot, |entry| entry.dot).ok().map(|at| &self.entries[at])
    }

    /// Takes over what `other` knows. `gone` tells of a dot that our context does not cover whether it is known to be
    /// gone all the same (since everything its actor stamped up to it has been received here). True if `other` had
    /// something of that kind: it is behind.
    pub fn merge(&mut self, other: &State, rules: Rules, gone: impl Fn(Dot) -> bool) -> bool {
        let mut stale = false;
        let mut entries = Vec::with_capacity(self.entries.len().max(other.entries.len()));
        let mut ended = Vec::new();
        for entry in std::mem::take(&mut self.entries) {
            let stays = other.find(entry.dot).is_some() || !other.context.covers(entry.dot);
            if stays { entries.push(entry) } else { ended.push(entry) }
        }
        // Those that we had are in the order of their dots still, and what is added below is none that we knew of.
        let ours = entries.len();
        for entry in &other.entries {
            if self.context.covers(entry.dot) {
                let stays = entries[..ours].binary_search_by_key(&entry.dot, |known: &Entry| known.dot).is_ok();
                ended.extend((!stays).then(|| entry.clone()));
            } else if rules.keep(Rule::GoneForgotten) && gone(entry.dot) {
                stale = true;
            } else {
                entries.push(entry.clone());
            }
        }
        entries.sort_unstable_by_key(|entry| entry.dot);
        // Who ended them may not have known whose they were.
        ended.iter().for_each(|entry| self.remember(entry));
        self.kind = self.kind.max(other.kind);
        self.entries = entries;
        self.context.merge(&other.context);
        for ledger in &other.ledgers {
            self.ledger_mut(ledger.actor).merge(ledger);
        }
        self.horizon_ms = self.horizon_ms.max(other.horizon_ms);
        self.deps = self.deps.max(other.deps);
        self.past = union(&self.past, &other.past);
        self.plant_on_merge(other, rules);
        self.settle(rules);
        stale
    }

    /// The planted bugs of merging; nothing under the rules that hold.
    fn plant_on_merge(&mut self, other: &State, rules: Rules) {
        if !rules.keep(Rule::SiblingDropped) && self.kind == Kind::Value && self.entries.len() > 1 {
            self.entries.drain(..self.entries.len() - 1);
        }
        if !rules.keep(Rule::MergeByArrival) && self.kind == Kind::LastWriter && !other.entries.is_empty() {
            self.entries.retain(|entry| other.find(entry.dot).is_some());
        }
    }

    /// What follows from what is known: aliases of what is gone are gone, what is closed is forgotten, and of
    /// last-writer values the latest stays.
    fn settle(&mut self, rules: Rules) {
        self.forget_closed();
        if rules.keep(Rule::AliasesCounted) {
            let gone = self.alive_and_gone();
            if !gone.is_empty() {
                self.remove(|entry| gone.contains(&entry.request));
            }
        }
        if self.kind == Kind::LastWriter
            && let Some(latest) = self.latest().map(Entry::rank)
        {
            self.remove(|entry| entry.rank() < latest);
        }
        // What has just ended may have been closed before.
        self.forget_closed();
    }

    /// Requests of which one attempt is alive here and another is gone. The fewer of the two are looked for among the
    /// others: a busy key has one value and hundreds of requests that are gone, a large set the other way round.
    fn alive_and_gone(&self) -> BTreeSet<RequestId> {
        let alive = self.entries.iter().map(|entry| entry.request);
        let gone = self.past.iter().map(|past| past.request);
        if self.entries.len() < self.past.len() {
            let alive: BTreeSet<RequestId> = alive.collect();
            gone.filter(|request| alive.contains(request)).collect()
        } else {
            let gone: BTreeSet<RequestId> = gone.collect();
            alive.filter(|request| gone.contains(request)).collect()
        }
    }

    /// Forgets the requests whose replicas have closed them.
    pub(crate) fn forget_closed(&mut self) {
        let ledgers = &self.ledgers;
        let closed =
            |dot: Dot| ledgers.iter().find(|ledger| ledger.actor == dot.actor).map_or(0, |ledger| ledger.closed);
        self.past.retain(|past| past.dot.counter > closed(past.dot));
    }

    /// What has gone is remembered for its request's sake.
    fn remember(&mut self, entry: &Entry) {
        let past =
            Past { dot: entry.dot, request: entry.request, first_sent_ms: entry.first_sent_ms, existed: entry.existed };
        self.note(past);
    }

    /// Remembers a request that leaves nothing alive.
    pub(crate) fn note(&mut self, past: Past) {
        if let Err(at) = self.past.binary_search_by_key(&past.key(), Past::key) {
            self.past.insert(at, past);
        }
    }

    /// Removes the entries that `which` names; they are gone for good.
    pub(crate) fn remove(&mut self, which: impl Fn(&Entry) -> bool) {
        // Who removes one dot of a request removes all.
        let requests: BTreeSet<RequestId> = self.entries.iter().filter(|e| which(e)).map(|e| e.request).collect();
        let (gone, alive): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| requests.contains(&entry.request));
        self.entries = alive;
        for entry in &gone {
            self.remember(entry);
        }
    }

    /// Adds an entry that was just stamped.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let at = self.entries.partition_point(|known| known.dot < entry.dot);
        self.entries.insert(at, entry);
    }

    /// The effect that the request had here, if it has acted: its dot, and whether the key held something before.
    pub fn request(&self, request: RequestId) -> Option<(Dot, bool)> {
        let alive = self.entries.iter().find(|entry| entry.request == request).map(|entry| (entry.dot, entry.existed));
        alive.or_else(|| self.past.iter().find(|past| past.request == request).map(|past| (past.dot, past.existed)))
    }

    /// The live entries, each request once: that of its smallest dot.
    pub fn distinct(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().enumerate().filter_map(|(at, entry)| {
            let again = self.entries[..at].iter().any(|earlier| earlier.request == entry.request);
            (!again).then_some(entry)
        })
    }

    /// A counter's number.
    pub fn total(&self) -> i64 {
        let put_away = self.ledgers.iter().map(|ledger| ledger.sum.wrapping_sub(ledger.base));
        let alive = self.distinct().map(|entry| match entry.body {
            Body::Amount(by) => by,
            _ => 0,
        });
        put_away.chain(alive).fold(0, i64::wrapping_add)
    }

    pub(crate) fn ledger_mut(&mut self, actor: Actor) -> &mut Ledger {
        let at = match self.ledgers.binary_search_by_key(&actor, |ledger| ledger.actor) {
            Ok(at) => at,
            Err(at) => {
                self.ledgers.insert(at, Ledger::of(actor));
                at
            }
        };
        &mut self.ledgers[at]
    }

    /// Puts away what this actor stamped and every home is known to hold, up to the counter `everywhere`: the oldest
    /// increments are folded, the oldest requests forgotten once they are older than `oldest_kept_ms` or too many, and
    /// cannot come as hints, which those first received before `hints_from_ms` cannot.
    pub(crate) fn put_away(
        &mut self,
        actor: Actor,
        everywhere: u64,
        (oldest_kept_ms, hints_from_ms): (u64, u64),
        limits: Limits,
    ) {
        self.fold(actor, everywhere, limits);
        let own: Vec<Past> = self.past.iter().copied().filter(|past| past.dot.actor == actor).collect();
        let mut closed = self.ledgers.iter().find(|ledger| ledger.actor == actor).map_or(0, |ledger| ledger.closed);
        let closed_before = closed;
        for (at, past) in own.iter().enumerate() {
            let left = own.len() - at;
            // What is alive and was stamped before is closed with it.
            let alive = self.entries.iter().filter(|entry| entry.dot.actor == actor && entry.dot < past.dot);
            let first_sent_ms = alive.map(|entry| entry.first_sent_ms).fold(past.first_sent_ms, u64::max);
            let old = first_sent_ms < oldest_kept_ms;
            let everywhere = past.dot.counter <= everywhere && first_sent_ms < hints_from_ms;
            let safe = everywhere && (old || left > limits.remembered);
            if !safe && left <= limits.remembered_max {
                break;
            }
            self.horizon_ms = self.horizon_ms.max(first_sent_ms);
            closed = past.dot.counter;
        }
        if closed > closed_before {
            self.ledger_mut(actor).closed = closed;
            self.past.retain(|past| past.dot.actor != actor || past.dot.counter > closed);
        }
    }

    fn fold(&mut self, actor: Actor, everywhere: u64, limits: Limits) {
        if self.kind != Kind::Counter {
            return;
        }
        let own: Vec<(Dot, RequestId, i64)> = self
            .entries
            .iter()
            .filter(|entry| entry.dot.actor == actor)
            .filter_map(|entry| match entry.body {
                Body::Amount(by) => Some((entry.dot, entry.request, by)),
                _ => None,
            })
            .collect();
        let (mut folded, mut sum) = (0, 0i64);
        for (at, (dot, request, by)) in own.iter().enumerate() {
            // Of aliases the smallest dot's replica folds: who folds one, ends all.
            let first = self.entries.iter().find(|entry| entry.request == *request).map(|entry| entry.dot);
            let safe = dot.counter <= everywhere && first == Some(*dot);
            if !safe && own.len() - at <= limits.alive_max {
                break;
            }
            sum = sum.wrapping_add(*by);
            folded = dot.counter;
        }
        if folded > 0 {
            let ledger = self.ledger_mut(actor);
            (ledger.folded, ledger.sum) = (folded, ledger.sum.wrapping_add(sum));
            self.remove(|entry| entry.dot.actor == actor && entry.dot.counter <= folded);
        }
    }

    /// What no longer counts once a counter is deleted.
    pub(crate) fn reset_sums(&mut self) {
        for ledger in &mut self.ledgers {
            (ledger.base_folded, ledger.base) = (ledger.folded, ledger.sum);
        }
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        let bodies: usize = self
            .entries
            .iter()
            .map(|entry| match &entry.body {
                Body::Value(value) => value.body.len() + value.content_type.len(),
                Body::Amount(_) | Body::Deleted => 8,
                Body::Element(element) => element.len(),
                Body::Field { name, value } => name.len() + value.len(),
            })
            .sum();
        let vector = 24 * (self.context.vector.len() + self.context.dots().len());
        64 + vector + 64 * self.entries.len() + bodies + 56 * self.past.len() + 56 * self.ledgers.len()
    }
}

/// What either remembers, sorted as both are. Of two that differ in what they tell of one request the smaller one, so
/// that it does not matter whose came first.
fn union(ours: &[Past], theirs: &[Past]) -> Vec<Past> {
    let mut all = Vec::with_capacity(ours.len().max(theirs.len()) + 1);
    let (mut ours, mut theirs) = (ours.iter().copied().peekable(), theirs.iter().copied().peekable());
    while let (Some(our), Some(their)) = (ours.peek(), theirs.peek()) {
        let order = our.key().cmp(&their.key());
        let next = if order.is_eq() {
            our.min(their)
        } else if order.is_lt() {
            our
        } else {
            their
        };
        all.push(*next);
        ours.next_if(|_| order.is_le());
        theirs.next_if(|_| order.is_ge());
    }
    all.extend(ours.chain(theirs));
    all
}

/// How much a key's state may remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one actor that are kept, though younger than the memory's age.
    pub remembered: usize,
    /// Requests of one actor that are kept though not every home is known to hold them.
    pub remembered_max: usize,
    /// Increments of one actor that are kept alive until every home is known to hold them.
    pub alive_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { remembered: 256, remembered_max: 1_024, alive_max: 1_024 }
    }
}
