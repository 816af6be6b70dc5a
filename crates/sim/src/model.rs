//! The model check of Chord's core, as the command line runs it: which scopes, and what they came to.

use chord::rules;
pub use chord::testing::explore::Explored;
use chord::testing::explore::{Grain, Scope, explore, find_bug};

/// A scope with its name.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// What it explores.
    pub name: &'static str,
    /// The scope.
    pub scope: Scope,
}

const OPERATIONS: Scope = Scope {
    successors: 2,
    founders: 4,
    newcomers: 1,
    crashes: 1,
    grain: Grain::Operations,
    states_max: 4_000_000,
    repair_one_in: 64,
};

/// The scopes that take seconds.
pub const SHORT: [Named; 2] = [
    Named { name: "4 members and a newcomer, one death", scope: OPERATIONS },
    Named {
        name: "3 members and a newcomer, single messages",
        scope: Scope { founders: 3, crashes: 0, grain: Grain::Messages, ..OPERATIONS },
    },
];

/// The scopes that take minutes.
pub const LONG: [Named; 5] = [
    SHORT[0],
    SHORT[1],
    Named { name: "4 members and 2 newcomers, one death", scope: Scope { newcomers: 2, ..OPERATIONS } },
    Named { name: "5 members and a newcomer, 2 deaths", scope: Scope { founders: 5, crashes: 2, ..OPERATIONS } },
    Named {
        name: "4 members and a newcomer, one death, single messages",
        scope: Scope { grain: Grain::Messages, ..OPERATIONS },
    },
];

/// Explores a scope under the protocol as it is.
pub fn check(named: &Named) -> Explored {
    explore::<rules::Correct>(&named.scope)
}

/// Explores small rings under each protocol with a planted bug, until it is found.
pub fn planted() -> Vec<(&'static str, Explored)> {
    vec![
        ("published-2001", find_bug::<rules::Published2001>()),
        ("no-liveness-on-stabilize", find_bug::<rules::NoLivenessOnStabilize>()),
        ("no-liveness-on-rectify", find_bug::<rules::NoLivenessOnRectify>()),
        ("no-pull-on-join", find_bug::<rules::NoPullOnJoin>()),
        ("self-in-list", find_bug::<rules::SelfInList>()),
    ]
}
