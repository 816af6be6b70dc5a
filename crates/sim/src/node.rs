//! A simulated storage node: the real cores and the real log over a simulated disk.

use std::collections::VecDeque;

use membership::{NodeId, View};
use replication::{Ballot, Effects, Input, LogPosition, Outbox, Record, RegisterKey, Replica, Rules};
use stdx::{Instant, Prng};
use store::{Log, LogConfig, SimDisk};

/// The log's segments in a simulation: small, so that many runs are cheap and segments change often.
const SEGMENT_BYTES: u64 = 256 * 1024;

/// What a crash leaves behind, and what runs on it.
pub(crate) struct SimNode<R: Rules> {
    /// Its identity.
    pub id: NodeId,
    /// Its disk; survives crashes, unless it is lost.
    pub disk: SimDisk,
    /// What runs; none while the node is down.
    pub running: Option<Running<R>>,
    /// How often it was started.
    pub incarnation: u64,
    /// Until when it is stopped in its tracks.
    pub paused_until: Option<Instant>,
    /// Whether it never comes back.
    pub gone: bool,
}

/// The part that a crash destroys.
pub(crate) struct Running<R: Rules> {
    /// The core.
    pub replica: Replica<R>,
    /// The log.
    pub log: Log,
    /// Whether a sync is under way.
    pub syncing: bool,
    /// When the core's next timer is scheduled.
    pub tick_at: Option<Instant>,
    /// Accepted records that are not yet durable, in log order.
    pub unsynced: VecDeque<(LogPosition, RegisterKey, Ballot)>,
}

impl<R: Rules> SimNode<R> {
    pub fn new(id: NodeId, prng: &mut Prng) -> SimNode<R> {
        let disk = SimDisk::new(prng.next_u64());
        SimNode { id, disk, running: None, incarnation: 0, paused_until: None, gone: false }
    }

    /// Starts the node on what its disk holds.
    ///
    /// # Panics
    /// When the log cannot be opened: a crash must never do that to it.
    pub fn start(&mut self, now: Instant, view: &View, prng: &mut Prng) -> Effects {
        assert!(self.running.is_none(), "a node is started once at a time");
        self.incarnation += 1;
        let mut replica = Replica::new(self.id, view.clone(), prng.fork());
        let config = LogConfig { segment_bytes: SEGMENT_BYTES, ..LogConfig::new(self.id.0) };
        let mut restored: Vec<(u64, Record)> = Vec::new();
        let log = Log::open(self.disk.clone(), config, &mut |sequence, body| {
            let record = wire::codec::decode_record(body).expect("the log gives back what was appended");
            restored.push((sequence, record));
        })
        .expect("a crash leaves a log that can be opened");
        for (sequence, record) in restored {
            replica.restore(LogPosition(sequence), record);
        }
        let mut out = Outbox::default();
        replica.begin(now, &mut out);
        let unsynced = VecDeque::new();
        self.running = Some(Running { replica, log, syncing: false, tick_at: None, unsynced });
        out.drain()
    }

    /// Gives the replica one input.
    pub fn handle(&mut self, now: Instant, input: Input) -> Effects {
        let Some(running) = &mut self.running else { return Effects::default() };
        let mut out = Outbox::default();
        running.replica.handle(now, input, &mut out);
        out.drain()
    }

    /// Pulls the plug: what was not synced may be lost, torn or kept.
    pub fn crash(&mut self) {
        self.running = None;
        self.disk.crash();
    }

    /// Whether it works at the moment.
    pub fn is_working(&self) -> bool {
        self.running.is_some() && self.paused_until.is_none()
    }
}
