use registry::Answer;

use crate::codec::Frame;
use crate::roster::Roster;

/// A replica's identity.
pub type ReplicaId = u64;

/// What happened at a replica's edge.
#[derive(Debug)]
pub enum Input {
    /// A frame came from another replica.
    Frame(ReplicaId, Frame),
    /// There is a connection with another replica, which has this name.
    Up(ReplicaId, String),
    /// The last connection with another replica broke.
    Down(ReplicaId),
    /// A read, named by a ticket, waits for a majority's word that it sees everything.
    Read(u64),
    /// The replica is to stop: somebody else should lead.
    Leave,
}

/// What a replica wants done.
#[derive(Debug)]
pub enum Output {
    /// Send a frame. It may get lost.
    Send(ReplicaId, Frame),
    /// A proposal has acted, with this answer.
    Answered(u64, Answer),
    /// A proposal's time is over. It may act later, or may have acted.
    Expired(u64),
    /// A read may be answered from the state machine now.
    Granted(u64),
    /// A read's time is over: there is no leader, or no majority.
    Denied(u64),
}

/// A proposal that was not taken: nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Too many are open already.
    #[error("too many changes are under way at this replica; try again in a moment")]
    Busy,
    /// It does not fit the log.
    #[error("the change takes {size} bytes, and at most {most} are taken at a time")]
    TooLarge {
        /// What it takes.
        size: u64,
        /// What fits.
        most: u64,
    },
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It waits to be part of a discovery.
    #[default]
    Blank,
    /// It follows, with a vote.
    Follower,
    /// It follows without a vote.
    Learner,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

/// What there is to know about a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its identity.
    pub id: ReplicaId,
    /// What it is.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<ReplicaId>,
    /// The last entry that has acted here.
    pub applied: u64,
    /// The last entry of its log.
    pub last: u64,
    /// Who votes.
    pub voters: Vec<ReplicaId>,
    /// All members.
    pub roster: Roster,
    /// Whether it was taken out for good; it must be started with an empty data directory to join as a new one.
    pub removed: bool,
}
