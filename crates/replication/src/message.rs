//! What replicas say to each other. Every message names the register and the coordinator's round, so that a late or
//! repeated one is recognised and a lost one can be sent again.

use membership::{Epoch, Position};

use crate::ledger::LedgerPosition;
use crate::memory::RequestMemory;
use crate::types::{Ballot, RegisterKey, Value, Version};

/// Numbers a coordinator's rounds since it started; an answer to another round is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundId(pub u64);

/// What a register holds: the value with its version, and the request memory. This is what ballots agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last applied write's version; zero when there was none.
    pub version: Version,
    /// The value; none when absent or deleted.
    pub value: Option<Value>,
    /// Which requests this value already contains.
    pub requests: RequestMemory,
    /// The greatest fencing token that a write named; of a lock, the last one that was granted. Stays when the value
    /// goes.
    pub fence: u64,
    /// When the value ends, milliseconds of the Unix epoch; 0 for never. It is over once a round has agreed on that:
    /// clocks only say when to propose it.
    pub ends_ms: u64,
}

impl State {
    /// Whether it is time to agree that the value is over, by a clock that shows `wall_ms`.
    pub fn is_due(&self, wall_ms: u64) -> bool {
        self.value.is_some() && self.ends_ms != 0 && self.ends_ms <= wall_ms
    }
}

/// A message between two replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's epoch. A receiver with another epoch does not act on the body.
    pub epoch: Epoch,
    /// The sender's Lamport counter; the receiver advances its own past it.
    pub counter: u64,
    /// The body.
    pub body: Body,
}

/// The body of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Phase 1: promise to refuse lower ballots, and report what you accepted.
    Prepare {
        /// The coordinator's round.
        round: RoundId,
        /// The register.
        key: RegisterKey,
        /// The ballot to promise.
        ballot: Ballot,
    },
    /// The promise.
    Promise {
        /// The round it answers.
        round: RoundId,
        /// The ballot it was accepted at, zero for never, and what was accepted.
        accepted: (Ballot, State),
    },
    /// Phase 2: accept this state, and promise `next`, the ballot of the coordinator's next write on this key.
    Accept {
        /// The coordinator's round.
        round: RoundId,
        /// The register.
        key: RegisterKey,
        /// The ballot.
        ballot: Ballot,
        /// What to accept.
        state: State,
        /// The ballot that whoever accepts promises too. Zero: none, for the round brings nothing new and only finishes
        /// what an interrupted one began; a replica whose disk is full takes such an accept all the same.
        next: Ballot,
    },
    /// Accepted, and synced.
    Accepted {
        /// The round it answers.
        round: RoundId,
    },
    /// Refused: a higher ballot was promised or accepted, or the disk is full.
    Nack {
        /// The round it answers.
        round: RoundId,
        /// The highest counter that stands in the way.
        seen: u64,
        /// Whether the reason is a full disk.
        disk_full: bool,
    },
    /// A read: report what you accepted; send the state only when your ballot differs from `known`.
    Query {
        /// The coordinator's round.
        round: RoundId,
        /// The register.
        key: RegisterKey,
        /// The ballot of the state that the coordinator already has.
        known: Ballot,
    },
    /// The answer to a read. What it reports is synced.
    Report {
        /// The round it answers.
        round: RoundId,
        /// The ballot of what is accepted here.
        ballot: Ballot,
        /// The state, unless the ballot equals the query's `known`.
        state: Option<State>,
    },
    /// This state was chosen at this ballot: a replica that lags may take it. Not answered.
    Learn {
        /// The register.
        key: RegisterKey,
        /// The ballot at which it was chosen.
        ballot: Ballot,
        /// What was chosen.
        state: State,
    },
    /// Which registers do you hold that I replicate too? Asked by a replica that catches up after a restart.
    Digest {
        /// The asker's round.
        round: RoundId,
        /// Start after this register; none for the beginning.
        after: Option<RegisterKey>,
    },
    /// One page of the answer.
    DigestPage {
        /// The round it answers.
        round: RoundId,
        /// Registers in ring order with the ballot accepted here.
        entries: Vec<(RegisterKey, Ballot)>,
        /// Whether more follow.
        more: bool,
    },
    /// Confirms an arc: refuse everything up to `up_to` from others than me, and report what they had you accept.
    Confirm {
        /// The asker's confirmation.
        round: RoundId,
        /// The arc, by its upper end.
        arc: Position,
        /// Up to which counter.
        up_to: u64,
        /// The counter above which the asker started; what it did before, it has forgotten.
        since: u64,
        /// Report what was accepted from here on; a position that the receiver cannot read asks for the whole arc.
        position: LedgerPosition,
        /// Go on after this register; none for the first page.
        after: Option<RegisterKey>,
    },
    /// The floor is promised, and this was accepted. One page of the report; what it names is synced.
    Confirmed {
        /// The confirmation it answers.
        round: RoundId,
        /// Where to go on the next time.
        position: LedgerPosition,
        /// Registers in ring order, each with the highest ballot in question.
        entries: Vec<(RegisterKey, Ballot)>,
        /// Whether more follow.
        more: bool,
    },
    /// The sender holds another view: fetch it. Sent instead of acting.
    OtherEpoch,
}

/// What a replica keeps on disk. The log's records, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A state was accepted (or learned) at a ballot.
    Accepted {
        /// The register.
        key: RegisterKey,
        /// The ballot.
        ballot: Ballot,
        /// What was accepted.
        state: State,
    },
    /// No counter above this one has been promised or used: after a restart everything up to it is refused.
    Ceiling(u64),
}

/// The number of a log record, from 1, in the order in which the core made them. 0 is "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);
