//! Catching up: a replica that was away asks its peers which registers they hold, and reads those in which it lags.
//!
//! A register that was chosen while this replica was away is held by a majority of the others, so it is enough to hear
//! from all but a minority of an arc's other replicas. The scan is repeated from time to time, and slowly, since
//! messages are lost on a healthy fleet too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use membership::NodeId;
use stdx::{Instant, TraceContext};

use crate::io::{Event, Outbox};
use crate::message::{Body, LogPosition, RoundId};
use crate::replica::{Replica, Timer};
use crate::round::Waiting;
use crate::rules::Rules;
use crate::types::{Ballot, RegisterKey};

/// Registers named on one page of a digest.
const PAGE_ENTRIES_MAX: usize = 256;
/// Registers that are read at the same time.
const REPAIRS_MAX: usize = 32;
/// Lagging registers that are noted before no further page is asked for.
const LAGGING_MAX: usize = 4_096;
/// When a page that has not come is asked for again.
const PAGE_RESEND_AFTER: Duration = Duration::from_millis(100);
/// Between a page of a repeated scan and the question for the next one. A ring in good order has little to find, and
/// two nodes put their work into each page: scanned as fast as answers come, a million registers kept everybody's
/// requests waiting for seconds, each minute.
const PAGE_PAUSE: Duration = Duration::from_millis(100);
/// How long a repair may take before it is left for the next scan.
const REPAIR_DEADLINE: Duration = Duration::from_secs(2);
/// The pause after a complete scan.
const SCAN_PAUSE: Duration = Duration::from_secs(60);
/// The pause after a scan that could not repair everything.
const SCAN_PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Where the catch-up stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct CatchUp {
    /// The peers being asked; empty between scans.
    scans: BTreeMap<NodeId, Scan>,
    /// Registers known to lag, not yet being read.
    lagging: BTreeSet<RegisterKey>,
    /// Reads under way.
    repairing: usize,
    /// Registers that were read because they lagged, since the start.
    repaired: u64,
    /// Whether a repair of this scan failed.
    failed: bool,
    /// Whether one scan has been completed since the start.
    complete_once: bool,
    /// When the timer is set for.
    timer_at: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Scan {
    round: RoundId,
    after: Option<RegisterKey>,
    done: bool,
    asked_at: Option<Instant>,
    /// When the next page is due.
    not_before: Instant,
}

impl<R: Rules> Replica<R> {
    /// Whether this replica is known to have caught up since it started (a lone replica has nothing to catch up with).
    pub fn has_caught_up(&self) -> bool {
        self.catch_up.complete_once
    }

    /// Registers that are known to lag and are not read yet.
    pub fn lagging(&self) -> usize {
        self.catch_up.lagging.len() + self.catch_up.repairing
    }

    /// Registers in which this replica lagged and that it has read again since it started.
    pub fn caught_up(&self) -> u64 {
        self.catch_up.repaired
    }

    /// Begins the first scan; called when the replica starts, and when the ring forms.
    pub(crate) fn catch_up_start(&mut self, out: &mut Outbox) {
        self.catch_up.scans.clear();
        self.catch_up_continue(out);
    }

    /// Asks for pages that are due, starts repairs, and ends the scan when enough is known.
    pub(crate) fn catch_up_continue(&mut self, out: &mut Outbox) {
        if let Some(at) = self.catch_up.timer_at.take() {
            self.timers.remove(&(at, Timer::CatchUp));
        }
        if !self.view.is_formed() || self.awaits_newer_view() {
            return;
        }
        if self.catch_up.scans.is_empty() && self.lagging() == 0 {
            self.catch_up_begin_scan();
        }
        self.catch_up_ask(out);
        self.catch_up_repair(out);
        if self.scanned_enough() && self.lagging() == 0 {
            self.catch_up_end(out);
        } else {
            self.catch_up_timer(PAGE_RESEND_AFTER);
        }
    }

    fn catch_up_begin_scan(&mut self) {
        let me = self.me;
        let mine = self.ring.arcs().iter().filter(|arc| arc.replicas.contains(&me));
        let mut peers: BTreeSet<NodeId> = mine.flat_map(|arc| arc.replicas.iter().copied()).collect();
        peers.remove(&me);
        self.catch_up.failed = false;
        for node in peers {
            let round = self.next_round_id();
            self.catch_up.scans.insert(node, Scan { round, ..Scan::default() });
        }
    }

    fn catch_up_ask(&mut self, out: &mut Outbox) {
        if self.catch_up.lagging.len() >= LAGGING_MAX {
            return;
        }
        let mut due = Vec::new();
        for (node, scan) in &mut self.catch_up.scans {
            let waited = scan.asked_at.is_none_or(|at| self.now.since(at) >= PAGE_RESEND_AFTER);
            if !scan.done && waited && self.now >= scan.not_before {
                scan.asked_at = Some(self.now);
                due.push((*node, Body::Digest { round: scan.round, after: scan.after.clone() }));
            }
        }
        for (node, body) in due {
            self.tell((node, self.view.epoch), body, LogPosition(0), TraceContext::NONE, out);
        }
    }

    fn catch_up_repair(&mut self, out: &mut Outbox) {
        while self.catch_up.repairing < REPAIRS_MAX {
            let Some(key) = self.catch_up.lagging.pop_first() else { break };
            self.catch_up.repairing += 1;
            let deadline = self.now + REPAIR_DEADLINE;
            let waiting = Waiting { deadline, ..Waiting::internal(&key) };
            self.begin_query(key, waiting, out);
        }
    }

    /// A repair ended, well or not.
    pub(crate) fn catch_up_repaired(&mut self, well: bool, out: &mut Outbox) {
        assert!(self.catch_up.repairing > 0, "only repairs have no ticket");
        self.catch_up.repairing -= 1;
        self.catch_up.repaired += u64::from(well);
        self.catch_up.failed |= !well;
        let remaining = self.lagging();
        if remaining > 0 && remaining.is_multiple_of(PAGE_ENTRIES_MAX) {
            out.events.push(Event::CatchUp { remaining });
        }
        // Continued from the timer queue, not from here: a repair may end in the middle of another round's work.
        self.catch_up_timer(Duration::ZERO);
    }

    /// Whether, for each arc of ours, so many of the others were heard that a majority cannot hide among the rest.
    fn scanned_enough(&self) -> bool {
        let done = |node: &NodeId| self.catch_up.scans.get(node).is_some_and(|scan| scan.done);
        let arcs = self.ring.arcs().iter().filter(|arc| arc.replicas.contains(&self.me));
        arcs.into_iter().all(|arc| {
            let others = arc.replicas.iter().filter(|node| **node != self.me).count();
            let majority = arc.replicas.len() / 2 + 1;
            let heard = arc.replicas.iter().filter(|node| done(node)).count();
            heard + majority > others
        })
    }

    fn catch_up_end(&mut self, out: &mut Outbox) {
        let pause = if self.catch_up.failed { SCAN_PAUSE_AFTER_FAILURE } else { SCAN_PAUSE };
        if !self.catch_up.failed && !self.catch_up.complete_once {
            self.catch_up.complete_once = true;
            out.events.push(Event::CaughtUp);
        }
        self.catch_up.scans.clear();
        let pause = self.jittered(pause);
        self.catch_up_timer(pause);
    }

    /// A register is known to lag.
    pub(crate) fn catch_up_with(&mut self, key: RegisterKey) {
        if self.catch_up.lagging.len() < LAGGING_MAX {
            self.catch_up.lagging.insert(key);
            self.catch_up_timer(Duration::ZERO);
        }
    }

    fn catch_up_timer(&mut self, after: Duration) {
        let at = self.now + after;
        if self.catch_up.timer_at.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(set) = self.catch_up.timer_at.replace(at) {
            self.timers.remove(&(set, Timer::CatchUp));
        }
        self.timers.insert((at, Timer::CatchUp));
    }

    /// One page of what we hold and `asker` replicates too.
    pub(crate) fn digest_page(&self, asker: NodeId, round: RoundId, after: Option<&RegisterKey>) -> Body {
        let mut entries: Vec<(RegisterKey, Ballot)> = Vec::new();
        let mut more = false;
        for (key, register) in self.acceptor.after(after) {
            if !self.ring.replicas_of(key.position).contains(&asker) {
                continue;
            }
            if entries.len() == PAGE_ENTRIES_MAX {
                more = true;
                break;
            }
            entries.push((key.clone(), register.accepted));
        }
        Body::DigestPage { round, entries, more }
    }

    pub(crate) fn handle_digest_page(
        &mut self,
        from: NodeId,
        round: RoundId,
        entries: Vec<(RegisterKey, Ballot)>,
        more: bool,
    ) {
        let Some(scan) = self.catch_up.scans.get_mut(&from) else { return };
        if scan.round != round || scan.done {
            return;
        }
        // A page that does not get on is an old one that came late or twice.
        let beyond = entries.last().map(|(key, _)| key.clone());
        if more && beyond <= scan.after {
            return;
        }
        scan.done = !more;
        scan.after = beyond.or_else(|| scan.after.take());
        scan.asked_at = None;
        // The first scan is what a start waits for.
        let pause = if self.catch_up.complete_once { PAGE_PAUSE } else { Duration::ZERO };
        scan.not_before = self.now + pause;
        for (key, ballot) in entries {
            let ours = self.acceptor.accepted_ballot(&key);
            if ours < ballot && self.holds(&key) {
                self.catch_up.lagging.insert(key);
            }
        }
        self.catch_up_timer(Duration::ZERO);
    }
}
