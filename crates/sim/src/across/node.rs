//! A simulated node of both contracts: the real cores over one log that keeps what was synced, as a storage node has
//! them.

use std::time::Duration;

use available::Config;
use membership::{NodeId, View};
use replication::{AllBut, LogPosition};
use stdx::{Instant, Prng};
use wire::node::LogRecord;

use super::planted::Planted;

/// The secret of the simulated cluster.
const SECRET: &[u8] = b"simulated";

/// What runs on a node.
#[derive(Debug)]
pub(super) struct Cores {
    pub ordered: replication::Replica<AllBut>,
    pub available: available::Replica,
}

/// What both cores want done, beside what is in the log already.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub ordered: replication::Effects,
    pub available: available::Effects,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    id: NodeId,
    planted: Option<Planted>,
    /// The view that it acted on last, as its shell keeps it.
    pub kept: View,
    /// Whether it has left for good.
    pub gone: bool,
    pub running: Option<Cores>,
    pub incarnation: u64,
    /// The log, and how many of its records are on disk.
    log: Vec<Vec<u8>>,
    durable: usize,
    /// How many records the sync under way covers.
    pub syncing: Option<usize>,
    /// When its cores are to be told the time.
    pub tick_at: Option<Instant>,
}

impl Node {
    pub fn new(id: NodeId, view: &View, planted: Option<Planted>) -> Node {
        Node {
            id,
            planted,
            kept: view.clone(),
            gone: false,
            running: None,
            incarnation: 0,
            log: Vec::new(),
            durable: 0,
            syncing: None,
            tick_at: None,
        }
    }

    /// Starts the cores on what the log holds.
    pub fn start(&mut self, now: Instant, wall_ms: u64, view: &View, prng: &mut Prng) -> Effects {
        self.incarnation += 1;
        (self.syncing, self.tick_at) = (None, None);
        let rule = self.planted.and_then(Planted::ordered_rule);
        let mut ordered = replication::Replica::with_rules(self.id, view.clone(), prng.fork(), AllBut(rule));
        ordered.set_incarnation(self.incarnation);
        let config = Config {
            beat: Duration::from_millis(20),
            resend: Duration::from_millis(40),
            pass_every: Duration::from_secs(30),
            ..Config::default()
        };
        let mut available =
            available::Replica::new(self.id, self.incarnation, view.clone(), SECRET, config, prng.fork());
        if let Some(rule) = self.planted.and_then(Planted::available_rule) {
            available = available.without(rule);
        }
        for (at, bytes) in self.log.iter().enumerate() {
            let position = LogPosition(at as u64 + 1);
            match wire::codec::decode_log_record(bytes).expect("the log gives back what was appended") {
                LogRecord::Register(record) => ordered.restore(position, record),
                LogRecord::Available(record) => available.restore(position, record),
            }
        }
        self.running = Some(Cores { ordered, available });
        let ordered = self.drive_ordered(|replica, out| replica.begin(now, out));
        let available = self.drive_available(|replica, out| replica.begin(now, wall_ms, out));
        Effects { ordered, available }
    }

    /// Gives the registers' core one input.
    pub fn ordered(&mut self, now: Instant, input: replication::Input) -> Effects {
        let ordered = self.drive_ordered(|replica, out| replica.handle(now, input, out));
        Effects { ordered, ..Effects::default() }
    }

    /// Gives the core of available keys one input.
    pub fn available(&mut self, now: Instant, input: available::Input) -> Effects {
        let available = self.drive_available(|replica, out| replica.handle(now, input, out));
        Effects { available, ..Effects::default() }
    }

    fn drive_ordered(
        &mut self,
        act: impl FnOnce(&mut replication::Replica<AllBut>, &mut replication::Outbox),
    ) -> replication::Effects {
        let end = LogPosition(self.log.len() as u64);
        let Some(cores) = self.running.as_mut() else { return replication::Effects::default() };
        let mut out = replication::Outbox::default();
        cores.ordered.note_log_end(end);
        act(&mut cores.ordered, &mut out);
        let mut effects = out.drain();
        for (position, record) in effects.persist.drain(..) {
            self.append(position, &LogRecord::Register(record));
        }
        effects
    }

    fn drive_available(
        &mut self,
        act: impl FnOnce(&mut available::Replica, &mut available::Outbox),
    ) -> available::Effects {
        let end = LogPosition(self.log.len() as u64);
        let Some(cores) = self.running.as_mut() else { return available::Effects::default() };
        let mut out = available::Outbox::default();
        cores.available.note_log_end(end);
        act(&mut cores.available, &mut out);
        let mut effects = out.drain();
        for (position, record) in effects.persist.drain(..) {
            self.append(position, &LogRecord::Available(record));
        }
        effects
    }

    fn append(&mut self, position: LogPosition, record: &LogRecord) {
        assert_eq!(position.0, self.log.len() as u64 + 1, "positions are consecutive");
        self.log.push(wire::codec::encode_log_record(record));
    }

    /// When the next timer of either core is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let cores = self.running.as_ref()?;
        [cores.ordered.next_timeout(), cores.available.next_timeout()].into_iter().flatten().min()
    }

    /// Begins a sync of what has been appended; false if there is nothing to sync, or one is under way.
    pub fn begin_sync(&mut self) -> bool {
        if self.syncing.is_some() || self.durable == self.log.len() {
            return false;
        }
        self.syncing = Some(self.log.len());
        true
    }

    /// The sync that was begun has ended; the last position on disk.
    pub fn synced(&mut self) -> LogPosition {
        self.durable = self.syncing.take().unwrap_or(self.durable);
        LogPosition(self.durable as u64)
    }

    /// The process is gone, and with it what was not synced, or some of that.
    pub fn crash(&mut self, prng: &mut Prng) {
        self.running = None;
        let unsynced = self.log.len() - self.durable;
        self.durable += prng.below(unsynced as u64 + 1) as usize;
        self.log.truncate(self.durable);
    }
}
