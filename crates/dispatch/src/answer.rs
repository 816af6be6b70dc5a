//! What the machine makes of a coordinator's answer, for each of the two write contracts.

use std::fmt::Debug;

/// What coordinators answer.
pub trait Answer: Clone + Debug {
    /// How an answer came about.
    type Receipt: Clone + Debug;
    /// Why an attempt was surely not done.
    type Refusal: Copy + Debug;

    /// The refusal to tell when nobody could be asked.
    const NOBODY: Self::Refusal;

    /// What it comes to.
    fn told(&self) -> Told<Self::Refusal>;
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<F> {
    /// The answer to what was asked.
    Answer,
    /// The attempt may have acted, or may yet.
    Unknown,
    /// It surely has not.
    Refused(F, Manner),
}

/// What a refusal means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// The node did no work; another one will, or the same once it is asked otherwise.
    Elsewhere,
    /// It had work, or has too much of it already (`full`): to ask again has its price.
    Busy {
        /// Whether for want of room.
        full: bool,
    },
    /// Nobody would take it.
    Hopeless,
}

impl Answer for replication::Outcome {
    type Receipt = replication::Receipt;
    type Refusal = replication::Refusal;

    const NOBODY: replication::Refusal = replication::Refusal::NoQuorum;

    fn told(&self) -> Told<replication::Refusal> {
        use replication::{Outcome, Refusal};
        let refusal = match self {
            Outcome::Refused(refusal) => *refusal,
            Outcome::Unknown => return Told::Unknown,
            Outcome::Value(_) | Outcome::Done { .. } | Outcome::Remembered(_) => return Told::Answer,
        };
        let manner = match refusal {
            Refusal::NotReplica(_) | Refusal::Draining => Manner::Elsewhere,
            Refusal::NoQuorum => Manner::Busy { full: false },
            Refusal::Overloaded | Refusal::DiskFull => Manner::Busy { full: true },
            Refusal::TooOld => Manner::Hopeless,
        };
        Told::Refused(refusal, manner)
    }
}

impl Answer for available::Outcome {
    type Receipt = available::Receipt;
    type Refusal = available::Refusal;

    const NOBODY: available::Refusal = available::Refusal::NoQuorum;

    fn told(&self) -> Told<available::Refusal> {
        use available::{Outcome, Refusal};
        let refusal = match self {
            Outcome::Refused(refusal) => *refusal,
            Outcome::Unknown => return Told::Unknown,
            Outcome::Read { .. } | Outcome::Done { .. } | Outcome::Remembered(_) => return Told::Answer,
        };
        let manner = match refusal {
            // Whoever asks gives a write that is behind another order, and asks the next.
            Refusal::NotReplica(_) | Refusal::Draining | Refusal::Refilling | Refusal::Behind(_) => Manner::Elsewhere,
            Refusal::NoQuorum => Manner::Busy { full: false },
            Refusal::Overloaded | Refusal::DiskFull => Manner::Busy { full: true },
            Refusal::TooOld | Refusal::TooManySiblings | Refusal::TooLarge | Refusal::OtherKind(_) => Manner::Hopeless,
        };
        Told::Refused(refusal, manner)
    }
}
