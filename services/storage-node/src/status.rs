use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chord::Peer;
use chord::invariants::MemberView;
use membership::Epoch;
use serde::Serialize;
use wire::http::{PointersAnswer, TokenPointers};

use crate::scrub::ScrubStatus;

/// How far a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The ring has not formed yet.
    #[default]
    Starting,
    /// It takes part, and fetches what it missed while it was away.
    CatchingUp,
    /// It holds all that it should.
    Ready,
    /// It finishes what it has and takes nothing new.
    Draining,
}

/// How far the copying of registers is that makes a node a replica of arcs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copying {
    /// Arcs that it is to become a replica of.
    pub arcs: usize,
    /// Of these, how many are copied.
    pub arcs_copied: usize,
    /// Registers fetched since the start.
    pub registers: u64,
    /// Bytes fetched since the start.
    pub bytes: u64,
}

/// How far the copying of available keys is that makes a node a home of arcs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AvailableCopying {
    /// Arcs that it is to become a home of.
    pub arcs: usize,
    /// Of these, how many are copied.
    pub arcs_copied: usize,
    /// Of those that are copied, how many were counted and fingerprinted on both sides since the start, and were the
    /// same: fewer where there are writes.
    pub arcs_verified: usize,
    /// Keys that came in for such arcs since the start.
    pub keys: u64,
    /// Bytes of their states.
    pub bytes: u64,
}

/// What a node holds of available buckets, one kind of durability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AvailableStatus {
    /// Keys held, tombstones included.
    pub keys: usize,
    /// Bytes of their states, about.
    pub bytes: usize,
    /// Whether it has what it ever told anybody that it holds: else it is not counted.
    pub whole: bool,
    /// What it copies to become a home of more arcs.
    pub copying: AvailableCopying,
    /// Writes that are kept for other nodes.
    pub hints: usize,
    /// Writes kept for other nodes that these have taken since the start.
    pub hints_taken: u64,
    /// Operations that wait for their answer.
    pub waiting: usize,
}

/// The same for both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AvailableStatuses {
    /// Kept on disk.
    pub disk: AvailableStatus,
    /// Kept in memory.
    pub memory: AvailableStatus,
}

/// What `GET /status` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The node's name.
    pub name: String,
    /// Its identity, 16 hex digits.
    pub id: String,
    /// The number of this start.
    pub incarnation: u64,
    /// The epoch of its view; 0 while the ring forms.
    pub epoch: u64,
    /// How far it is.
    pub state: State,
    /// Registers held, deletions included.
    pub registers: usize,
    /// Of these, deletions that will be dropped once all replicas agree that they can. (Those that hold a fencing token
    /// stay, and are not counted.)
    pub tombstones: usize,
    /// Deletions that were dropped since the start.
    pub tombstones_dropped: u64,
    /// Bytes of current records.
    pub live_bytes: usize,
    /// Bytes that the log takes on the disk.
    pub log_bytes: u64,
    /// Registers known to lag.
    pub catch_up_remaining: usize,
    /// Registers in which it lagged and that it has read again since its start.
    pub caught_up: u64,
    /// What it copies of registers to become a replica of more arcs.
    pub copying: Copying,
    /// Whether it is leaving the ring.
    pub leaving: bool,
    /// Operations that wait for their answer.
    pub waiting: usize,
    /// What it holds of available buckets.
    pub available: AvailableStatuses,
    /// Whether the disk takes no more writes.
    pub disk_full: bool,
    /// What reading the log again has found.
    pub scrub: ScrubStatus,
    /// The next nodes on the ring, by name, after the first token.
    pub successors: Vec<String>,
    /// The node before the first token.
    pub predecessor: Option<String>,
    /// Tokens that are members of the ring, of all that this node holds.
    pub tokens_joined: usize,
    /// Tokens that this node holds.
    pub tokens: usize,
}

/// What one token that is in the ring knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Pointers {
    pub view: MemberView,
    pub fingers: Vec<Peer>,
}

/// The status and the pointers of one moment, written by the loop and read by the HTTP side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<(Status, Vec<Pointers>)>>);

impl Board {
    /// A copy of the status.
    pub fn read(&self) -> Status {
        self.lock().0.clone()
    }

    /// The pointers of all tokens, in words.
    pub fn pointers(&self) -> PointersAnswer {
        let board = self.lock();
        let (status, pointers) = &*board;
        let word = |peer: &Peer| (peer.position.to_string(), peer.node.to_string());
        let members = pointers.iter().map(|Pointers { view, fingers }| TokenPointers {
            position: view.me.position.to_string(),
            predecessor: view.predecessor.as_ref().map(word),
            successors: view.successors.iter().map(word).collect(),
            fingers: fingers.iter().map(word).collect(),
        });
        PointersAnswer { node: status.id.clone(), epoch: status.epoch, members: members.collect() }
    }

    /// Replaces both.
    pub fn write(&self, status: Status, pointers: Vec<Pointers>) {
        *self.lock() = (status, pointers);
    }

    fn lock(&self) -> MutexGuard<'_, (Status, Vec<Pointers>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copying {
    /// Arcs that are still to be copied.
    pub fn left(&self) -> usize {
        self.arcs - self.arcs_copied
    }
}

impl AvailableStatuses {
    /// Both kinds' copying together: each arc is counted with each.
    pub fn copying(&self) -> AvailableCopying {
        let (disk, memory) = (self.disk.copying, self.memory.copying);
        AvailableCopying {
            arcs: disk.arcs + memory.arcs,
            arcs_copied: disk.arcs_copied + memory.arcs_copied,
            arcs_verified: disk.arcs_verified + memory.arcs_verified,
            keys: disk.keys + memory.keys,
            bytes: disk.bytes + memory.bytes,
        }
    }
}

impl Status {
    /// Whether clients may count on this node.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready && self.epoch > Epoch(0).0
    }
}
