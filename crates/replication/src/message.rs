//! What replicas say to each other. Every message names the register and the coordinator's round, so that a late or
//! repeated one is recognised and a lost one can be sent again.

use std::sync::Arc;

use membership::{Epoch, Position, View};

use crate::ledger::LedgerPosition;
use crate::memory::RequestMemory;
use crate::transfer::ArcPrint;
use crate::types::{Ballot, RegisterKey, Value, Version};

/// Numbers a coordinator's rounds since it started; an answer to another round is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundId(pub u64);

/// What a register holds: the value with its version, and the request memory. This is what ballots agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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
    /// When what was accepted at the ballot `accepted` happened, on the Lamport scale of ballots: at that ballot; or,
    /// if it was written by a promise that is older than what its session had seen, at the write's own time.
    pub fn time(&self, accepted: Ballot) -> Ballot {
        accepted.max(self.version.ballot)
    }

    /// Whether it is time to agree that the value is over, by a clock that shows `wall_ms`.
    pub fn is_due(&self, wall_ms: u64) -> bool {
        self.value.is_some() && self.ends_ms != 0 && self.ends_ms <= wall_ms
    }
}

/// A message between two replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Of a question about a register or an arc, and of its answer: the arc's epoch in the sender's view. A receiver
    /// for which the arc has another epoch does not act on the body. Of all else: the epoch of the sender's view.
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
        /// The counter above which the asker started, or above which none of its rounds was cut short; what it did
        /// before, it does not know to the end.
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
    /// The sender holds another view, of the message's epoch. Sent instead of acting; a receiver whose view is newer
    /// sends it back.
    OtherEpoch {
        /// The sender's view, if it takes it for newer.
        view: Option<Arc<View>>,
    },
    /// Which registers of an arc do you hold? Asked of a replica in charge by one that is to be a replica too.
    Copy {
        /// The asker's round.
        round: RoundId,
        /// The token at the arc's end.
        high: Position,
        /// Start after this register; none for the beginning.
        after: Option<RegisterKey>,
    },
    /// One page of the answer.
    CopyPage {
        /// The round it answers.
        round: RoundId,
        /// Registers in ring order with the ballot accepted here.
        entries: Vec<(RegisterKey, Ballot)>,
        /// Whether more follow.
        more: bool,
        /// What is held here of these.
        held: ArcPrint,
        /// Every ballot up to this counter may have been promised against; the asker refuses what the sender would.
        floor: u64,
    },
    /// What do you hold of these registers? Asked for those of a page in which the asker lags.
    Fetch {
        /// The asker's round.
        round: RoundId,
        /// The token at the arc's end.
        high: Position,
        /// The registers.
        keys: Vec<RegisterKey>,
    },
    /// The answer: as many of them as one message may carry, in the order in which they were asked for.
    Fetched {
        /// The round it answers.
        round: RoundId,
        /// Each register with what is accepted here.
        entries: Vec<(RegisterKey, Ballot, State)>,
    },
    /// May these tombstones be dropped? Whoever agrees to one refuses everything of the arc up to `up_to` from then on.
    Collect {
        /// The asker's round.
        round: RoundId,
        /// The arc, by its upper end.
        arc: Position,
        /// The floor.
        up_to: u64,
        /// Registers, each with the ballot at which a state that says nothing is chosen.
        keys: Vec<(RegisterKey, Ballot)>,
    },
    /// The answer. What it rests on is synced.
    Collectable {
        /// The round it answers.
        round: RoundId,
        /// Which of the registers must stay, by their places in the question.
        refused: Vec<u32>,
        /// The floor that this replica would need: at or below it lies all that it has promised or forgotten.
        floor: u64,
    },
    /// All replicas of the arc agree: these may be dropped by whoever still holds them at these ballots. Not answered.
    Collected {
        /// The arc, by its upper end.
        arc: Position,
        /// The floor to which they agreed.
        up_to: u64,
        /// Registers with their ballots.
        keys: Vec<(RegisterKey, Ballot)>,
    },
    /// A later start of the receiver is known here, so its messages are not heeded any more: it has a twin.
    Fenced {
        /// The later start's number.
        incarnation: u64,
    },
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
    /// The register, of which this was accepted last, was dropped: what the log holds of it before this counts no more.
    Dropped {
        /// The register.
        key: RegisterKey,
        /// The ballot of what was dropped.
        ballot: Ballot,
    },
    /// What the log holds of the registers on this arc before this record counts no more.
    Cleared {
        /// The arc's lower end, excluded.
        low: Position,
        /// Its upper end, included.
        high: Position,
    },
    /// The replica acts on the view of this epoch. After a restart it acts on no earlier one.
    Epoch(Epoch),
}

/// The number of a log record, from 1, in the order in which the core made them. 0 is "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);
