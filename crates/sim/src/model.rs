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
    leaves: 0,
    seeds: 0,
    grain: Grain::Operations,
    states_max: 4_000_000,
    repair_one_in: 64,
};

impl Named {
    /// Whether its name says that it is only explored up to so many states. Any other scope that is cut shows nothing.
    pub fn is_partial(&self) -> bool {
        self.name.ends_with(IN_PART)
    }

    /// Whether what was found shows that the invariants hold in all of the scope, or in the part that it promises.
    pub fn is_shown_by(&self, found: &Explored) -> bool {
        found.violation.is_none() && (found.complete || self.is_partial())
    }
}

/// How the name of a scope ends that is too large to be explored whole.
const IN_PART: &str = ", in part";

/// The scopes that take seconds.
pub const SHORT: [Named; 3] = [
    Named { name: "4 members and a newcomer, one death", scope: OPERATIONS },
    Named {
        name: "3 members and a newcomer, single messages",
        scope: Scope { founders: 3, crashes: 0, grain: Grain::Messages, ..OPERATIONS },
    },
    Named {
        name: "4 members and a newcomer, one leaves, one is told who lives",
        scope: Scope { crashes: 0, leaves: 1, seeds: 1, ..OPERATIONS },
    },
];

/// The scopes that take minutes.
pub const LONG: [Named; 7] = [
    SHORT[0],
    SHORT[1],
    SHORT[2],
    Named {
        name: "5 members, one death, one leaves, one is told who lives",
        scope: Scope { founders: 5, newcomers: 0, leaves: 1, seeds: 1, ..OPERATIONS },
    },
    Named { name: "4 members and 2 newcomers, one death", scope: Scope { newcomers: 2, ..OPERATIONS } },
    Named { name: "5 members and a newcomer, 2 deaths", scope: Scope { founders: 5, crashes: 2, ..OPERATIONS } },
    Named {
        name: "4 members and a newcomer, one death, single messages, in part",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_that_was_cut_shows_nothing_unless_its_name_says_so() {
        let whole = Named { name: "some members", scope: Scope { states_max: 50, ..OPERATIONS } };
        let part = Named { name: "some members, in part", ..whole };
        let found = check(&whole);
        assert!(!found.complete && found.violation.is_none(), "{found:?}");
        assert!(!whole.is_shown_by(&found) && part.is_shown_by(&found));
        let broken = Explored { violation: planted().remove(0).1.violation, complete: true, ..found };
        assert!(!whole.is_shown_by(&broken) && !part.is_shown_by(&broken));
    }
}
