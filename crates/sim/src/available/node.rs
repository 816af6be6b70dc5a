//! A simulated node: the real core, and a disk that keeps what was synced.

use std::time::Duration;

use available::{Config, Durability, Effects, Limits, Outbox, Record, Replica, Rule};
use membership::{NodeId, View};
use replication::LogPosition;
use stdx::{Instant, Prng};

use crate::clock::Clock;

/// The secret of the simulated cluster.
const SECRET: &[u8] = b"simulated";
/// What a run draws of its nodes' settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub pass_every: Duration,
    pub memory_ms: u64,
    /// Whether nothing is written: a restart loses all.
    pub volatile: bool,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub id: NodeId,
    planted: Option<Rule>,
    pub running: Option<Replica>,
    pub incarnation: u64,
    /// The log, and how many of its records are on disk.
    log: Vec<Vec<u8>>,
    durable: usize,
    /// How many records the sync under way covers.
    pub syncing: Option<usize>,
    pub paused: bool,
    /// When its core is to be told the time.
    pub tick_at: Option<Instant>,
    /// What it takes for the time.
    pub clock: Clock,
    /// Whether its disk was lost, and it has not got its data back.
    pub emptied: bool,
    /// Whether it has left, or is lost for good.
    pub gone: bool,
    /// The view that it acted on last, as its shell keeps it.
    pub kept: View,
}

impl Node {
    pub fn new(id: NodeId, view: &View, planted: Option<Rule>, clock: Clock) -> Node {
        Node {
            id,
            planted,
            running: None,
            incarnation: 0,
            log: Vec::new(),
            durable: 0,
            syncing: None,
            paused: false,
            tick_at: None,
            clock,
            emptied: false,
            gone: false,
            kept: view.clone(),
        }
    }

    pub fn start(&mut self, now: Instant, wall_ms: u64, view: &View, times: Times, prng: &mut Prng) -> Effects {
        self.incarnation += 1;
        self.syncing = None;
        self.tick_at = None;
        let config = Config {
            beat: Duration::from_millis(20),
            resend: Duration::from_millis(40),
            pass_every: times.pass_every,
            memory_ms: times.memory_ms,
            limits: Limits { remembered: 24, remembered_max: 512, alive_max: 512 },
            hints_max: 64,
            durability: if times.volatile { Durability::Memory } else { Durability::Disk },
            ..Config::default()
        };
        let mut replica = Replica::new(self.id, self.incarnation, view.clone(), SECRET, config, prng.fork());
        if let Some(rule) = self.planted {
            replica = replica.without(rule);
        }
        for (at, bytes) in self.log.iter().enumerate() {
            let record = wire::codec::decode_available_record(bytes).expect("the log gives back what was appended");
            replica.restore(LogPosition(at as u64 + 1), record);
        }
        let mut out = Outbox::default();
        replica.begin(now, wall_ms, &mut out);
        self.running = Some(replica);
        out.drain()
    }

    pub fn append(&mut self, records: &[(LogPosition, Record)]) {
        for (position, record) in records {
            assert_eq!(position.0, self.log.len() as u64 + 1, "positions are consecutive");
            self.log.push(wire::codec::encode_available_record(record));
        }
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
        self.paused = false;
        let unsynced = self.log.len() - self.durable;
        let torn = self.durable + prng.below(unsynced as u64 + 1) as usize;
        self.log.truncate(torn);
        self.durable = torn;
    }

    /// The disk is gone too.
    pub fn lose_disk(&mut self) {
        self.log.clear();
        self.durable = 0;
        self.emptied = true;
    }
}
