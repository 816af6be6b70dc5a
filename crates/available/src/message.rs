//! What replicas say to each other, and what they keep on disk.
//!
//! Every message may be lost, repeated, delayed and overtaken; every one may be sent again.

use std::sync::Arc;

use membership::{Epoch, View};
use replication::{RegisterKey, RequestId};

use crate::operation::{Refusal, Write};
use crate::reconcile::{Answer, Question, Wanted};
use crate::state::State;
use crate::tenure::Tenure;
use crate::version::{Actor, VersionVector};

/// "Of what I stamped for you, nothing lies after `low` and up to `high` but what this message brings, or what you have
/// confirmed." A receiver that has everything up to `low` has everything up to `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where it begins, excluded.
    pub low: u64,
    /// Where it ends, included.
    pub high: u64,
}

/// A message between two replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's epoch. A receiver with an older one does not act on the body before it has that view.
    pub epoch: Epoch,
    /// The sender's Lamport counter.
    pub clock: u64,
    /// Who stamps the sender's writes.
    pub actor: Actor,
    /// The sender's start: its incarnation. What comes from an earlier one is not heeded.
    pub start: u64,
    /// The body.
    pub body: Body,
}

/// The body of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Take these states over; answered by `Stored` once they are on disk.
    Store {
        /// Names the message among its sender's.
        id: u64,
        /// What this message completes, if anything.
        claim: Option<Claim>,
        /// The states.
        entries: Vec<(RegisterKey, State)>,
    },
    /// They are on disk.
    Stored {
        /// Which message.
        id: u64,
        /// Everything that `of` stamped for the sender is there, up to here.
        mark: u64,
        /// Of whom.
        of: Actor,
    },
    /// How far each has the other's stamps.
    Beat {
        /// What this message completes, if anything.
        claim: Option<Claim>,
        /// Everything that `of` stamped for the sender is there, up to here.
        mark: u64,
        /// Of whom; as the sender believes, the receiver's present actor.
        of: Actor,
        /// Whether the sender wants one back.
        ask: bool,
    },
    /// What do you hold of this key? Send it only if it is another state than this one.
    Read {
        /// The asker's round.
        round: u64,
        /// The key.
        key: RegisterKey,
        /// Half of the digest of what the asker holds; 0 for nothing.
        digest: u128,
    },
    /// The answer; what it tells of is on disk.
    Report {
        /// The round it answers.
        round: u64,
        /// Whether the sender has all its data: one that lost it and is not back at what the others hold
        /// does not count.
        whole: bool,
        /// The state, unless it is the asker's.
        state: Option<State>,
    },
    /// Do this write: a stand-in kept it while no home of the key could be reached.
    Take {
        /// Names the hint among its sender's.
        hint: u64,
        /// The write.
        write: Write,
        /// The session that wrote it.
        session: u64,
        /// What had led to it.
        deps: u64,
    },
    /// It is done and on disk, or refused for good.
    Taken {
        /// Which hint.
        hint: u64,
        /// Why it was not done, if so.
        refused: Option<Refusal>,
    },
    /// No write that the sender keeps as a hint, or ever will, was first received before this time, milliseconds of
    /// the Unix
    /// epoch; said now and then to everybody, so that its request is remembered as long as it may come.
    Hints {
        /// The time.
        from_ms: u64,
    },
    /// How do these ranges look where you are?
    Ask {
        /// The asker's pass.
        pass: u64,
        /// Names the question in the pass.
        question: u32,
        /// The ranges.
        ranges: Vec<Question>,
    },
    /// So.
    Tell {
        /// The pass.
        pass: u64,
        /// The question.
        question: u32,
        /// An answer to each range, in order.
        answers: Vec<Answer>,
        /// Whether the sender has all that it is to hold of what it is in charge of.
        whole: bool,
        /// In the ranges that were asked about, everything that an actor stamped up to here is with the sender, or
        /// gone.
        marks: VersionVector,
    },
    /// Send what you hold under these hashes.
    Want {
        /// The pass.
        pass: u64,
        /// The question.
        question: u32,
        /// Which states, by the leaf that they lie in.
        wanted: Vec<Wanted>,
    },
    /// Here.
    Have {
        /// The pass.
        pass: u64,
        /// The question.
        question: u32,
        /// The states.
        entries: Vec<(RegisterKey, State)>,
    },
    /// Do you hold exactly these tombstones, and all that could bring back what they bury?
    Bury {
        /// The tombstones, by their contexts' vectors.
        keys: Vec<(RegisterKey, VersionVector)>,
    },
    /// These, yes; and what that rests on is on disk.
    Buried {
        /// The tombstones.
        keys: Vec<(RegisterKey, VersionVector)>,
    },
    /// All homes hold these tombstones: drop them.
    Drop {
        /// The tombstones.
        keys: Vec<(RegisterKey, VersionVector)>,
    },
    /// The sender holds another view: this one, or it asks for the receiver's.
    OtherEpoch {
        /// The sender's view, if it is the newer one.
        view: Option<Arc<View>>,
    },
}

/// What a replica keeps on disk, in the order in which it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The first record of a log: whose it is.
    Born(Actor),
    /// A key's state.
    Held {
        /// The key.
        key: RegisterKey,
        /// Its state.
        state: State,
    },
    /// A key's tombstone was dropped.
    Dropped(RegisterKey),
    /// No counter above this one has been used or claimed.
    Ceiling(u64),
    /// Everything that this actor stamped for us is there, up to here.
    Mark {
        /// The actor.
        actor: Actor,
        /// Up to here.
        counter: u64,
    },
    /// All homes that share an arc with us have been compared with since the log was begun: we count.
    Whole,
    /// A write that is kept for a home.
    Hint {
        /// Its number.
        id: u64,
        /// The write.
        write: Write,
        /// The session that wrote it.
        session: u64,
        /// What had led to it.
        deps: u64,
    },
    /// A home has it.
    HintGone {
        /// Its number.
        id: u64,
        /// Its request, which may come again.
        request: RequestId,
    },
    /// The view that is acted on, and what is known of the arcs that it makes us a home of. The last one holds.
    Homes {
        /// The view's epoch.
        epoch: Epoch,
        /// The arcs.
        tenures: Vec<Tenure>,
    },
}
