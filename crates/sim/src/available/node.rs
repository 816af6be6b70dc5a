//! A simulated node: the real core, and the real log over a simulated disk.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use available::{Config, Context, Durability, Effects, Input, Limits, Outbox, Record, Replica, Rule};
use membership::{NodeId, View};
use replication::{LogPosition, RegisterKey};
use stdx::{Budget, Instant, Prng};
use store::{LogConfig, SimDisk};
use wire::node::LogRecord;

use super::lies::Word;
use super::swarm::Disks;
use crate::clock::Clock;
use crate::invariants::Violation;
use crate::node_log::{DiskFailed, NodeLog, StartFailed};

/// The secret of the simulated cluster.
const SECRET: &[u8] = b"simulated";
/// What a run draws of its nodes' settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub pass_every: Duration,
    pub memory_ms: u64,
    /// Whether nothing is written: a restart loses all.
    pub volatile: bool,
    pub disks: Disks,
    /// Bytes a second; none for the default.
    pub copy_rate: Option<u64>,
}

/// A node.
pub(super) struct Node {
    pub id: NodeId,
    planted: Option<Rule>,
    /// Its disk; survives crashes, unless it is lost.
    pub disk: SimDisk,
    /// What its disk has said of its syncs.
    pub word: Word,
    /// Decides what becomes of its disks.
    pub disk_prng: Prng,
    pub running: Option<Replica>,
    /// The log of what runs.
    pub log: Option<NodeLog<LogRecord>>,
    /// What was appended and is not yet durable, in log order; no context: the key is dropped.
    unsynced: VecDeque<(LogPosition, RegisterKey, Option<Context>)>,
    /// What a restart must give back of each key, at least.
    durable: BTreeMap<RegisterKey, Context>,
    pub incarnation: u64,
    pub paused: bool,
    /// When its core is to be told the time.
    pub tick_at: Option<Instant>,
    /// What it takes for the time.
    pub clock: Clock,
    /// Whether its disk was lost, and it has not got its data back.
    pub emptied: bool,
    /// Whether its disk will fail at one of the next calls.
    pub doomed: bool,
    /// Whether it has left, or is lost for good.
    pub gone: bool,
    /// The view that it acted on last, as its shell keeps it.
    pub kept: View,
}

impl Node {
    pub fn new(id: NodeId, view: &View, planted: Option<Rule>, clock: Clock, mut disk_prng: Prng) -> Node {
        Node {
            id,
            planted,
            disk: SimDisk::new(disk_prng.next_u64()),
            word: Word::default(),
            disk_prng,
            running: None,
            log: None,
            unsynced: VecDeque::new(),
            durable: BTreeMap::new(),
            incarnation: 0,
            paused: false,
            tick_at: None,
            clock,
            emptied: false,
            doomed: false,
            gone: false,
            kept: view.clone(),
        }
    }

    /// Starts the node on what its disk holds; also whether that is all that it must hold.
    pub fn start(
        &mut self,
        now: Instant,
        wall_ms: u64,
        view: &View,
        times: Times,
        prng: &mut Prng,
    ) -> Result<(Effects, Result<(), Violation>), StartFailed> {
        self.incarnation += 1;
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
        if let Some(rate) = times.copy_rate {
            replica.set_budget(Budget::new(rate));
        }
        let (log, restored) = NodeLog::open(&self.disk, self.log_config(times.disks.segment_bytes));
        let log = log?;
        let doubt = self.word.doubt(log.end);
        if let Some(doubt) = doubt.filter(|_| !times.disks.trusts_shorter) {
            return Err(StartFailed::Damaged(doubt.to_string()));
        }
        for (sequence, record) in restored {
            if let LogRecord::Available(record) = record {
                replica.restore(LogPosition(sequence), record);
            }
        }
        // What is trusted all the same is not looked at here: the harm is to be seen by clients.
        let remembered = self.remembers(&replica).or_else(|lost| if doubt.is_some() { Ok(()) } else { Err(lost) });
        replica.note_log_end(LogPosition(log.end));
        let mut out = Outbox::default();
        replica.begin(now, wall_ms, &mut out);
        (self.running, self.log) = (Some(replica), Some(log));
        Ok((out.drain(), remembered))
    }

    /// What a start gives back is all that was known to be durable. And it is durable from now on.
    fn remembers(&mut self, replica: &Replica) -> Result<(), Violation> {
        let held = |key: &RegisterKey| replica.table().get(key).map(|held| &held.state.context);
        let lost = self.durable.iter().find(|(key, was)| held(key).is_none_or(|is| !is.includes(was)));
        let found = lost.map(|(key, was)| {
            let name = String::from_utf8_lossy(&key.key);
            format!("node {} had {name} on its disk with {was:?}, and starts with {:?}", self.id.0, held(key))
        });
        self.durable = replica.table().iter().map(|(key, held)| (key.clone(), held.state.context.clone())).collect();
        found.map_or(Ok(()), |found| Err(Violation { invariant: "a_restart_remembers_what_was_durable", found }))
    }

    /// Gives the core one input. Others number records of the same log, so it is told first where that ends.
    pub fn handle(&mut self, now: Instant, input: Input) -> Option<Effects> {
        let (replica, log) = (self.running.as_mut()?, self.log.as_ref()?);
        let mut out = Outbox::default();
        replica.note_log_end(LogPosition(log.end));
        replica.handle(now, input, &mut out);
        Some(out.drain())
    }

    /// Hands what waits to the log. While a sync is under way it gathers, to go with the next one.
    pub fn commit(&mut self) -> Result<(), DiskFailed> {
        let Some(log) = self.log.as_mut().filter(|log| !log.syncing) else { return Ok(()) };
        let unsynced = &mut self.unsynced;
        log.commit(|position, record| match record {
            LogRecord::Available(Record::Held { key, state }) => {
                unsynced.push_back((position, key.clone(), Some(state.context.clone())));
            }
            LogRecord::Available(Record::Dropped(key)) => unsynced.push_back((position, key.clone(), None)),
            _ => {}
        })
    }

    /// The sync that was begun has ended; the last position on disk.
    pub fn synced(&mut self) -> Result<LogPosition, DiskFailed> {
        let Some(log) = self.log.as_mut() else { return Err(DiskFailed) };
        log.syncing = false;
        let through = log.flush()?;
        while self.unsynced.front().is_some_and(|(position, ..)| position.0 <= through) {
            match self.unsynced.pop_front() {
                Some((_, key, Some(context))) => drop(self.durable.insert(key, context)),
                Some((_, key, None)) => drop(self.durable.remove(&key)),
                None => {}
            }
        }
        Ok(LogPosition(through))
    }

    /// Writes what is current of the oldest segment to the log again, if that pays and there is room for it.
    pub fn clean(&mut self, segment_bytes: u64) -> Result<Option<Effects>, DiskFailed> {
        let (Some(replica), Some(log)) = (self.running.as_mut(), self.log.as_mut()) else { return Ok(None) };
        let live = replica.live_bytes() as u64;
        let Some(oldest) = log.due_for_cleaning(live, segment_bytes)? else { return Ok(None) };
        // As the disk has it, or from memory where the disk has spoiled it.
        let records: Vec<(LogPosition, LogRecord)> = match log.records_of(oldest)? {
            Some(records) => records,
            None => {
                let held = replica.held_through(LogPosition(oldest.last_sequence)).into_iter();
                held.map(|(position, record)| (position, LogRecord::Available(record))).collect()
            }
        };
        let current = |(position, record): &(LogPosition, LogRecord)| match record {
            LogRecord::Available(record) => replica.is_current(*position, record),
            // Of the others' nothing is current but the last, and that is not missed here.
            LogRecord::Register(_) => false,
        };
        let records: Vec<_> = records.into_iter().filter(current).collect();
        if !log.has_room_for(records.iter().map(|(_, record)| record)) {
            return Ok(None);
        }
        let records = records.into_iter().filter_map(|(position, record)| match record {
            LogRecord::Available(record) => Some((position, record)),
            LogRecord::Register(_) => None,
        });
        let mut out = Outbox::default();
        replica.note_log_end(LogPosition(log.end));
        replica.rewrite(records.collect(), &mut out);
        let effects = out.drain();
        let copied_through = effects.persist.last().map_or(log.end, |(position, _)| position.0);
        log.dropping = Some((oldest.id, copied_through));
        Ok(Some(effects))
    }

    /// The process is gone, and what it had handed to the disk stays.
    pub fn kill(&mut self) {
        (self.running, self.log) = (None, None);
        for (_, key, context) in std::mem::take(&mut self.unsynced) {
            // It may have been dropped: a flush that was cut short may have got so far.
            if context.is_none() {
                self.durable.remove(&key);
            }
        }
        self.paused = false;
    }

    fn log_config(&self, segment_bytes: u64) -> LogConfig {
        LogConfig { segment_bytes, ..LogConfig::new(self.id.0) }
    }

    /// Pulls the plug: what was not synced may be lost, torn or kept. A sync under way is met in the middle. True: a
    /// disk that lied has lost what it had acknowledged.
    pub fn pull_plug(&mut self, segment_bytes: u64, prng: &mut Prng) -> bool {
        let calls = prng.below(4);
        if let Some(mut log) = self.log.take().filter(|log| log.syncing) {
            self.disk.crash_after(calls);
            // Whether it got that far is exactly what nobody knows.
            let _ = log.flush();
        }
        self.kill();
        self.doomed = false;
        let config = self.log_config(segment_bytes);
        self.word.lose_power(&mut self.disk, &config, prng)
    }

    /// The disk is gone too.
    pub fn lose_disk(&mut self) {
        self.disk = SimDisk::new(self.disk_prng.next_u64());
        self.word = Word::default();
        self.durable.clear();
        self.emptied = true;
    }
}
