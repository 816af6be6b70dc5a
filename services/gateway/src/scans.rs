//! One step round the ring: what a bucket's keys on the next part of an arc hold.
//!
//! Of an ordered bucket a replica in charge shows a cut of the arc (decision 0070). Of an available one a majority of
//! the arc's homes is asked which keys there are, and each is read like any key at level causal.

use std::collections::BTreeSet;
use std::time::Duration;

use available::{Action, Kind, Level, Listing, ListingPage, Operation, Outcome, Past, Shown};
use bytes::Bytes;
use dispatch::Verdict;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use membership::{Arc, Epoch, NodeId, Position, is_majority};
use replication::{RegisterKey, Scan, ScanEntry, ScanOutcome, ScanPage, Value};
use runtime::CallError;
use stdx::{Instant, TraceContext};
use wire::http::{Contract, Durability, ProblemCode};

use crate::answers;
use crate::ask::Words;
use crate::available_answers;
use crate::available_ask::AvailableQuestion;
use crate::available_records::kind_of;
use crate::buckets::Bucket;
use crate::cursors::Place;
use crate::gateway::Gateway;
use crate::problem::Refuse;
use crate::words;

/// How long one node is given before another one is asked.
const NODE_PATIENCE: Duration = Duration::from_secs(1);
/// The pause after which all are asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Available keys of one step that are read at the same time.
const READ_AT_ONCE: usize = 16;
/// Values of available keys in one step, in bytes: no further key is read once there are so many.
const STEP_BYTES_MAX: usize = 1 << 20;

/// What is looked for, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// Its name.
    pub bucket_name: &'a str,
    /// Only keys that begin with this.
    pub prefix: &'a str,
    /// Whether all of an arc is to be of one cut, over any number of steps; ordered buckets only.
    pub keep: bool,
    /// Whether the values are wanted.
    pub values: bool,
    /// The most keys that are wanted.
    pub entries_max: u32,
    /// The Lamport counter of the session.
    pub since: u64,
    /// What the session has seen in available buckets.
    pub past: &'a Past,
    /// When the answer must be there.
    pub deadline: Instant,
    /// The span that it belongs to.
    pub context: TraceContext,
}

/// One key as a step found it.
#[derive(Clone, Debug)]
pub struct Item {
    /// The key.
    pub key: RegisterKey,
    /// Its `ETag`, in quotes.
    pub etag: String,
    /// What it holds.
    pub held: Held,
    /// What it adds to the session that sees it, of an available key.
    pub seen: Option<available::Seen>,
}

/// What a key holds.
#[derive(Clone, Debug)]
pub enum Held {
    /// A value of an ordered bucket: its size, and itself if it was asked for; when it ends, 0 for never.
    Value { size: u64, value: Option<Value>, ends_ms: u64 },
    /// Of an available bucket.
    Shown(Shown),
}

/// How far a step came.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it found, in ring order.
    pub items: Vec<Item>,
    /// The cut's time; 0 of an available bucket.
    pub time: u64,
    /// The arc's or the view's epoch where it was asked.
    pub epoch: Epoch,
    /// Who answered.
    pub voters: Vec<NodeId>,
    /// Whether this is the first step of its arc: an earlier one of the same arc that was not told to the end is void.
    pub begins: bool,
    /// Whether it is the last one of its arc.
    pub ends: bool,
    /// Up to where the arc reaches.
    pub through: Position,
    /// Where to go on; none when all is told.
    pub next: Option<Place>,
}

impl Gateway {
    /// The next step from a place on.
    ///
    /// # Errors
    /// `no-quorum`, `deadline` and what else keeps an arc from being read.
    pub async fn step(&self, search: &Search<'_>, place: Place) -> Result<Step, Refuse> {
        match search.bucket.definition.contract {
            Contract::Ordered => self.step_ordered(search, place).await,
            Contract::Available => self.step_available(search, place).await,
        }
    }

    async fn step_ordered(&self, search: &Search<'_>, mut place: Place) -> Result<Step, Refuse> {
        if let Some((node, cut)) = place.cut.take() {
            let scan = Scan { cut, ..self.scan_of(search, &place) };
            let patience = self.patience(search);
            if let Ok(ScanOutcome::Page(page)) = self.nodes.scan(node, scan, patience, search.context).await {
                return Ok(step_of(search, &place, node, page, false));
            }
            // The node was killed, or has given the cut up: the arc begins again.
            place.after = None;
        }
        let begins = place.after.is_none();
        let scan = self.scan_of(search, &place);
        loop {
            let mut refused = None;
            for node in self.in_charge(place.from) {
                match self.nodes.scan(node, scan.clone(), self.patience(search), search.context).await {
                    Ok(ScanOutcome::Page(page)) => return Ok(step_of(search, &place, node, page, begins)),
                    Ok(ScanOutcome::Refused(refusal)) => refused = Some(answers::not_done(refusal)),
                    Ok(ScanOutcome::Gone) => {}
                    Err(error) => self.note_silent(node, error),
                }
            }
            self.pause(search, refused).await?;
        }
    }

    fn scan_of(&self, search: &Search<'_>, place: &Place) -> Scan {
        Scan {
            bucket: search.bucket.id,
            prefix: Bytes::copy_from_slice(search.prefix.as_bytes()),
            from: place.from,
            to: place.to(),
            after: place.after.as_deref().map(|key| self.register(search.bucket.id, key)),
            cut: 0,
            keep: search.keep,
            values: search.values,
            entries_max: search.entries_max,
            since: search.since,
        }
    }

    /// The replicas in charge of a position, those last that do not answer.
    fn in_charge(&self, position: Position) -> Vec<NodeId> {
        let mut nodes = self.fleet().ring.replicas_of(position).to_vec();
        let now = self.clock.now();
        let hedging = self.hedging();
        nodes.sort_by_key(|node| (!self.nodes.is_up(*node), hedging.is_doubtful(*node, now)));
        nodes
    }

    fn patience(&self, search: &Search<'_>) -> Duration {
        self.clock.until(search.deadline).min(NODE_PATIENCE)
    }

    fn note_silent(&self, node: NodeId, error: CallError) {
        if error == CallError::Deadline {
            let now = self.clock.now();
            self.hedging().doubt(node, now);
        }
    }

    /// Waits before all are asked again.
    ///
    /// # Errors
    /// There is no time left for it: the last refusal, or that nobody answered.
    async fn pause(&self, search: &Search<'_>, refused: Option<Refuse>) -> Result<(), Refuse> {
        if self.clock.until(search.deadline) <= AGAIN_AFTER {
            let nobody = || {
                Refuse::new(
                    ProblemCode::NoQuorum,
                    "too few replicas of a part of the ring answered before the deadline",
                )
            };
            return Err(refused.unwrap_or_else(nobody));
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        Ok(())
    }

    async fn step_available(&self, search: &Search<'_>, place: Place) -> Result<Step, Refuse> {
        let listed = self.list_arc(search, &place).await?;
        let (durability, kind) = (search.bucket.definition.durability, kind_of(search.bucket.definition.value_type));
        let mut told = None;
        let (mut items, mut bytes) = (Vec::new(), 0);
        let most = (search.entries_max as usize).min(available::LISTED_MAX);
        let mut keys = listed.keys.iter().take(most).peekable();
        while keys.peek().is_some() && bytes <= STEP_BYTES_MAX {
            let some: Vec<&RegisterKey> = keys.by_ref().take(READ_AT_ONCE).collect();
            let reads = stream::iter(some.iter().map(|key| self.read_shown(search, key, (durability, kind))));
            let found: Vec<Result<Option<Item>, Refuse>> = reads.buffered(READ_AT_ONCE).collect().await;
            for item in found {
                if let Some(item) = item? {
                    bytes += size_of(&item.held) as usize;
                    items.push(item);
                }
            }
            told = some.last().map(|key| (*key).clone());
        }
        let all = keys.peek().is_none() && listed.keys.len() <= most && !listed.more;
        let begins = place.after.is_none();
        let after = told.map(|key| String::from_utf8_lossy(&key.key).into_owned());
        let next = match all {
            true => place.behind(listed.through),
            false => Some(Place { after: after.or_else(|| place.after.clone()), ..place }),
        };
        let Listed { epoch, voters, through, .. } = listed;
        Ok(Step { items, time: 0, epoch, voters, begins, ends: all, through, next })
    }

    /// Reads one key; none if it holds nothing.
    async fn read_shown(
        &self,
        search: &Search<'_>,
        key: &RegisterKey,
        (durability, kind): (Durability, Kind),
    ) -> Result<Option<Item>, Refuse> {
        let action = Action::Read { kind };
        let past = search.past.clone();
        let operation = Operation { key: key.clone(), level: Level::Causal, past, stand_in: false, action };
        let words = Words { bucket: search.bucket_name, verb: "GET", context: search.context };
        let asked = self.ask(AvailableQuestion::new(durability, operation), search.deadline, words).await;
        let Verdict::Answered { outcome: Outcome::Read { shown, seen }, .. } = asked.verdict else {
            return Err(available_answers::refusal_of(&asked.verdict, false));
        };
        self.note_latest(seen.time);
        let shown = available_answers::without_ended(shown, self.clock.wall_ms());
        if holds_nothing(&shown) {
            return Ok(None);
        }
        let etag = self.contexts.etag(key, &seen.context);
        Ok(Some(Item { key: key.clone(), etag, held: Held::Shown(shown), seen: Some(seen) }))
    }

    /// Which keys lie on the next part of an arc, as a majority of its homes has it.
    async fn list_arc(&self, search: &Search<'_>, place: &Place) -> Result<Listed, Refuse> {
        let durability = search.bucket.definition.durability;
        loop {
            let fleet = self.fleet();
            if let Some(arc) = fleet.ring.arc_of(place.from) {
                let through = end_of(place, arc);
                let listing = Listing {
                    bucket: search.bucket.id,
                    prefix: Bytes::copy_from_slice(search.prefix.as_bytes()),
                    from: place.from,
                    to: through,
                    after: place.after.as_deref().map(|key| self.register(search.bucket.id, key)),
                    epoch: arc.epoch,
                };
                if let Some(listed) = self.list_at_homes(search, arc, (durability, listing)).await {
                    return Ok(listed);
                }
            }
            self.pause(search, None).await?;
        }
    }

    /// Asks all homes of the arc at once, until enough have answered.
    async fn list_at_homes(
        &self,
        search: &Search<'_>,
        arc: &Arc,
        (durability, listing): (Durability, Listing),
    ) -> Option<Listed> {
        let through = listing.to;
        let patience = self.patience(search);
        let mut calls: FuturesUnordered<_> = arc
            .sets()
            .iter()
            .map(|node| {
                let call = self.nodes.list(node, (durability, listing.clone()), patience, search.context);
                async move { (node, call.await) }
            })
            .collect();
        let mut pages: Vec<(NodeId, ListingPage)> = Vec::new();
        while let Some((node, answer)) = calls.next().await {
            match answer {
                Ok(Ok(page)) => pages.push((node, page)),
                Ok(Err(_)) => {}
                Err(error) => self.note_silent(node, error),
            }
            if is_enough(arc, &pages) {
                return Some(union(arc, through, pages));
            }
        }
        None
    }
}

/// Keys that a majority of an arc's homes knows of.
#[derive(Debug)]
struct Listed {
    keys: Vec<RegisterKey>,
    /// Whether the homes have more.
    more: bool,
    through: Position,
    epoch: Epoch,
    voters: Vec<NodeId>,
}

/// Whether these answers hold every key that a majority holds: see [`available::Listing`].
fn is_enough(arc: &Arc, pages: &[(NodeId, ListingPage)]) -> bool {
    let counts = |node: NodeId| pages.iter().any(|(known, page)| *known == node && page.counts);
    let answered = |node: NodeId| pages.iter().any(|(known, _)| *known == node);
    is_majority(&arc.replicas, counts) && arc.next.iter().all(|next| is_majority(next, answered))
}

/// All keys that any of them lists, up to where all of them have told what they have.
fn union(arc: &Arc, through: Position, pages: Vec<(NodeId, ListingPage)>) -> Listed {
    let told = pages.iter().filter(|(_, page)| page.more).filter_map(|(_, page)| page.keys.last().cloned()).min();
    let voters = pages.iter().map(|(node, _)| *node).collect();
    let keys: BTreeSet<RegisterKey> = pages.into_iter().flat_map(|(_, page)| page.keys).collect();
    let within = |key: &RegisterKey| told.as_ref().is_none_or(|told| key <= told);
    let keys = keys.into_iter().filter(within).collect();
    Listed { keys, more: told.is_some(), through, epoch: arc.epoch, voters }
}

/// Where a listing of available keys ends: with the arc, with the circle, or with the numbers.
fn end_of(place: &Place, arc: &Arc) -> Position {
    let ahead = |position: Position| place.from.distance_to(position);
    [arc.high, place.to(), Position(u64::MAX)].into_iter().min_by_key(|end| ahead(*end)).unwrap_or(place.from)
}

fn step_of(search: &Search<'_>, place: &Place, node: NodeId, page: ScanPage, begins: bool) -> Step {
    let ScanPage { cut, time, epoch, through, entries, more } = page;
    let last = entries.last().map(|entry| String::from_utf8_lossy(&entry.key.key).into_owned());
    let next = match more {
        false => place.behind(through),
        true => {
            let cut = (search.keep && cut != 0).then_some((node, cut));
            Some(Place { after: last.or_else(|| place.after.clone()), cut, ..place.clone() })
        }
    };
    let items = entries.into_iter().map(|entry| {
        let ScanEntry { key, version, size, ends_ms, value } = entry;
        Item { key, etag: words::etag(version), held: Held::Value { size, value, ends_ms }, seen: None }
    });
    Step { items: items.collect(), time, epoch, voters: vec![node], begins, ends: !more, through, next }
}

/// Whether a key that shows this is not listed: a set without elements is as good as none.
fn holds_nothing(shown: &Shown) -> bool {
    match shown {
        Shown::Nothing => true,
        Shown::Values(values) => values.is_empty(),
        Shown::Number(_) => false,
        Shown::Elements(elements) => elements.is_empty(),
        Shown::Fields(fields) => fields.is_empty(),
    }
}

/// Bytes of what a key holds; of several values side by side, of all of them.
pub fn size_of(held: &Held) -> u64 {
    let bytes = match held {
        Held::Value { size, .. } => return *size,
        Held::Shown(Shown::Nothing) => 0,
        Held::Shown(Shown::Values(values)) => values.iter().map(|(_, value)| value.body.len()).sum(),
        Held::Shown(Shown::Number(number)) => number.to_string().len(),
        Held::Shown(Shown::Elements(elements)) => elements.iter().map(Bytes::len).sum(),
        Held::Shown(Shown::Fields(fields)) => fields.iter().map(|(name, value)| name.len() + value.len()).sum(),
    };
    bytes as u64
}

#[cfg(test)]
mod tests {
    use membership::BucketId;

    use super::*;

    fn key(position: u64) -> RegisterKey {
        RegisterKey { position: Position(position), bucket: BucketId(1), key: Bytes::from(position.to_string()) }
    }

    fn arc(replicas: &[u64], next: Option<&[u64]>) -> Arc {
        let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>().into();
        let (low, high) = (Position(10), Position(20));
        Arc { low, high, replicas: nodes(replicas), next: next.map(nodes), epoch: Epoch(2) }
    }

    fn page(keys: &[u64], more: bool, counts: bool) -> ListingPage {
        ListingPage { keys: keys.iter().map(|at| key(*at)).collect(), more, counts }
    }

    #[test]
    fn enough_is_a_majority_that_counts_and_one_of_the_next_set_that_knows_the_epoch() {
        let of = |pages: &[(u64, bool)]| -> Vec<(NodeId, ListingPage)> {
            pages.iter().map(|(node, counts)| (NodeId(*node), page(&[], false, *counts))).collect()
        };
        let still = arc(&[1, 2, 3], None);
        assert!(!is_enough(&still, &of(&[(1, true)])));
        assert!(!is_enough(&still, &of(&[(1, true), (2, false)])), "one that lost its data does not count");
        assert!(is_enough(&still, &of(&[(1, true), (3, true)])));
        let joint = arc(&[1, 2, 3], Some(&[1, 4, 5]));
        assert!(!is_enough(&joint, &of(&[(2, true), (3, true)])), "the change may be over without them");
        assert!(is_enough(&joint, &of(&[(1, true), (2, true), (4, false)])));
    }

    #[test]
    fn of_pages_of_different_reach_only_what_all_have_told_is_taken() {
        let pages = vec![(NodeId(1), page(&[12, 14, 18], true, true)), (NodeId(2), page(&[13, 14], true, true))];
        let listed = union(&arc(&[1, 2, 3], None), Position(20), pages);
        assert_eq!(listed.keys, [key(12), key(13), key(14)]);
        assert!(listed.more);
        let pages = vec![(NodeId(1), page(&[15, 16], false, true)), (NodeId(2), page(&[], false, true))];
        let listed = union(&arc(&[1, 2, 3], None), Position(20), pages);
        assert_eq!((listed.keys, listed.more), (vec![key(15), key(16)], false));
    }

    #[test]
    fn an_arc_ends_where_the_circle_does() {
        let place = Place::first(Position(15));
        assert_eq!(end_of(&place, &arc(&[1], None)), Position(20));
        let wrapping = Arc { low: Position(100), high: Position(14), ..arc(&[1], None) };
        let behind = Place { from: Position(101), ..place.clone() };
        assert_eq!(end_of(&behind, &wrapping), Position(u64::MAX), "a listing does not reach over the end");
        let last = Place { from: Position(0), ..place };
        assert_eq!(end_of(&last, &Arc { high: Position(16), ..wrapping }), Position(14));
    }
}
