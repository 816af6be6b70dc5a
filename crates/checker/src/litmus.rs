//! The litmus tests as data: small programs of a few sessions, and the one outcome of each that tells levels apart.
//!
//! SB, MP, LB, IRIW and CoRR are the usual ones of memory models (Alglave, Maranget and Tautschnig, "Herding cats",
//! 2014); the session guarantees are those of Terry et al. (1994). [`Litmus::forbidden`] says from which level on the
//! outcome must never be seen; below it, it may be, and a store whose levels really differ does show it. The table is
//! held against the checkers by a test, so that the two cannot drift apart.

use crate::options::Level;

/// What a session does with a variable (0, 1, …), all of which are absent at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes a value, which no other step of the test writes.
    Write(u8, u8),
    /// Reads; 0 is absent.
    Read(u8),
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Litmus {
    /// What it is called.
    pub name: &'static str,
    /// What it asks, in a sentence.
    pub asks: &'static str,
    /// The sessions and what each does, in order.
    pub sessions: &'static [&'static [Step]],
    /// What the reads show in the outcome in question: session by session, in order; 0 is absent.
    pub outcome: &'static [u8],
    /// The weakest level that forbids the outcome.
    pub forbidden: Level,
    /// Whether each session must wait until the one before has ended: real time is part of the question.
    pub one_after_another: bool,
}

use Step::{Read, Write};
const X: u8 = 0;
const Y: u8 = 1;
const Z: u8 = 2;

/// Which variables of a test are kept under the stronger of two contracts, where one program uses both: those at even
/// places (X and Z), or those at odd ones (Y).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placing {
    /// X and Z are ordered, Y is available.
    EvenOrdered,
    /// Y is ordered, X and Z are available.
    OddOrdered,
}

// These ask the same where both variables are kept under one contract and where they are not.
const MP: Litmus = Litmus {
    name: "MP",
    asks: "message passing: may the flag be seen and the data not?",
    sessions: &[&[Write(X, 1), Write(Y, 1)], &[Read(Y), Read(X)]],
    outcome: &[1, 0],
    forbidden: Level::Causal,
    one_after_another: false,
};

const MW: Litmus = Litmus {
    name: "MW",
    asks: "monotonic writes: may a session's second write be seen without its first?",
    sessions: &[&[Write(X, 1), Write(X, 2), Write(Y, 1)], &[Read(Y), Read(X)]],
    outcome: &[1, 1],
    forbidden: Level::Causal,
    one_after_another: false,
};

const WFR: Litmus = Litmus {
    name: "WFR",
    asks: "writes follow reads: may an answer be seen without its question?",
    sessions: &[&[Write(X, 1)], &[Read(X), Write(Y, 1)], &[Read(Y), Read(X)]],
    outcome: &[1, 1, 0],
    forbidden: Level::Causal,
    one_after_another: false,
};

/// All tests.
pub const ALL: &[Litmus] = &[
    Litmus {
        name: "stale",
        asks: "may a read miss a write that was over before it began?",
        sessions: &[&[Write(X, 1)], &[Read(X)]],
        outcome: &[0],
        forbidden: Level::Strict,
        one_after_another: true,
    },
    Litmus {
        name: "SB",
        asks: "store buffering: may two sessions each miss the other's write?",
        sessions: &[&[Write(X, 1), Read(Y)], &[Write(Y, 1), Read(X)]],
        outcome: &[0, 0],
        forbidden: Level::Sequential,
        one_after_another: false,
    },
    Litmus {
        name: "IRIW",
        asks: "independent reads of independent writes: may two readers see them in different orders?",
        sessions: &[&[Write(X, 1)], &[Write(Y, 1)], &[Read(X), Read(Y)], &[Read(Y), Read(X)]],
        outcome: &[1, 0, 1, 0],
        forbidden: Level::Sequential,
        one_after_another: false,
    },
    MP,
    Litmus {
        name: "LB",
        asks: "load buffering: may a value be seen that exists only because it was seen?",
        sessions: &[&[Read(X), Write(Y, 1)], &[Read(Y), Write(X, 1)]],
        outcome: &[1, 1],
        forbidden: Level::Causal,
        one_after_another: false,
    },
    Litmus {
        name: "CoRR",
        asks: "coherence of two reads: may the second one go back behind the first?",
        sessions: &[&[Write(X, 1), Write(X, 2)], &[Read(X), Read(X)]],
        outcome: &[2, 1],
        forbidden: Level::Causal,
        one_after_another: false,
    },
    Litmus {
        name: "RYW",
        asks: "read your writes: may a session miss what it wrote?",
        sessions: &[&[Write(X, 1), Read(X)]],
        outcome: &[0],
        forbidden: Level::Causal,
        one_after_another: false,
    },
    Litmus {
        name: "MR",
        asks: "monotonic reads: may a session lose sight of what it saw?",
        sessions: &[&[Write(X, 1)], &[Read(X), Read(X)]],
        outcome: &[1, 0],
        forbidden: Level::Causal,
        one_after_another: false,
    },
    MW,
    WFR,
];

/// The tests of sessions whose variables are kept under both contracts. Together these promise level causal, whatever
/// the one contract promises alone.
pub const ACROSS: &[Litmus] = &[
    MP,
    Litmus {
        name: "RYW",
        asks: "read your writes: may a session miss what it wrote, once it has written elsewhere?",
        sessions: &[&[Write(X, 1), Write(Y, 1), Read(X)]],
        outcome: &[0],
        forbidden: Level::Causal,
        one_after_another: false,
    },
    Litmus {
        name: "MR",
        asks: "monotonic reads: may a session lose sight of what it saw, once it has read elsewhere?",
        sessions: &[&[Write(X, 1)], &[Read(X), Read(Y), Read(X)], &[Write(Y, 1)]],
        outcome: &[1, 1, 0],
        forbidden: Level::Causal,
        one_after_another: false,
    },
    MW,
    WFR,
    Litmus {
        name: "ISA2",
        asks: "may the data be missed by whoever heard of it through a third key, by way of the other bucket?",
        sessions: &[&[Write(X, 1), Write(Y, 1)], &[Read(Y), Write(Z, 1)], &[Read(Z), Read(X)]],
        outcome: &[1, 1, 0],
        forbidden: Level::Causal,
        one_after_another: false,
    },
];

impl Placing {
    /// Both.
    pub const ALL: [Placing; 2] = [Placing::EvenOrdered, Placing::OddOrdered];

    /// Whether the variable is kept under the stronger contract.
    pub fn is_ordered(self, variable: u8) -> bool {
        variable.is_multiple_of(2) == (self == Placing::EvenOrdered)
    }

    /// The heading of what is shown so: which variables are where.
    pub fn name(self) -> &'static str {
        match self {
            Placing::EvenOrdered => "X ordered, Y available",
            Placing::OddOrdered => "X available, Y ordered",
        }
    }
}

impl Litmus {
    /// Whether a store of this level may show the outcome.
    pub fn allowed_at(&self, level: Level) -> bool {
        level < self.forbidden
    }

    /// How many reads the test has.
    pub fn reads(&self) -> usize {
        self.sessions.iter().flat_map(|session| session.iter()).filter(|step| matches!(step, Read(_))).count()
    }
}
