//! The model checks of the cores, as the command line runs them: which scopes, and what they came to.

use chord::rules;
use chord::testing::explore as ring;
use replication::Rule;
use replication::testing::explore as registers;
use replication::testing::scopes;

/// Which core is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Chord: the ring that keeps itself.
    Ring,
    /// The registers: rounds, floors, collected tombstones and a changed replica set.
    Registers,
}

impl Core {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Core::Ring => "ring",
            Core::Registers => "registers",
        }
    }
}

/// A scope with its name.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// What it explores.
    pub name: &'static str,
    scope: Scope,
}

#[derive(Clone, Copy, Debug)]
enum Scope {
    Ring(ring::Scope),
    Registers(scopes::Scope),
}

/// A protocol with a planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Its name.
    pub name: &'static str,
    bug: Bug,
}

/// Explores small rings until a bug is found.
type Find = fn() -> ring::Explored;

#[derive(Clone, Copy, Debug)]
enum Bug {
    Ring(Find),
    Registers(Rule, scopes::Scope),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps taken, also those that led to a known state.
    pub steps: u64,
    /// The longest of the shortest ways to a state.
    pub depth: u32,
    /// Whether every state in scope was reached.
    pub complete: bool,
    /// What shows that the scope is worth something, by name: states from which repair was followed, histories that
    /// were judged, and the like.
    pub counts: Vec<(&'static str, u64)>,
    /// What is broken first, with the steps that lead to it.
    pub violation: Option<(String, Vec<String>)>,
}

const OPERATIONS: ring::Scope = ring::Scope {
    successors: 2,
    founders: 4,
    newcomers: 1,
    crashes: 1,
    leaves: 0,
    seeds: 0,
    grain: ring::Grain::Operations,
    states_max: 4_000_000,
    repair_one_in: 64,
};

/// The ring's scopes that take seconds.
const RING_SHORT: [(&str, ring::Scope); 3] = [
    ("4 members and a newcomer, one death", OPERATIONS),
    (
        "3 members and a newcomer, single messages",
        ring::Scope { founders: 3, crashes: 0, grain: ring::Grain::Messages, ..OPERATIONS },
    ),
    (
        "4 members and a newcomer, one leaves, one is told who lives",
        ring::Scope { crashes: 0, leaves: 1, seeds: 1, ..OPERATIONS },
    ),
];

/// Those that take minutes.
const RING_LONG: [(&str, ring::Scope); 4] = [
    (
        "5 members, one death, one leaves, one is told who lives",
        ring::Scope { founders: 5, newcomers: 0, leaves: 1, seeds: 1, ..OPERATIONS },
    ),
    ("4 members and 2 newcomers, one death", ring::Scope { newcomers: 2, ..OPERATIONS }),
    ("5 members and a newcomer, 2 deaths", ring::Scope { founders: 5, crashes: 2, ..OPERATIONS }),
    (
        "4 members and a newcomer, one death, single messages, in part",
        ring::Scope { grain: ring::Grain::Messages, ..OPERATIONS },
    ),
];

/// The scopes of a core: those that take seconds, and unless it shall be short, those that take minutes.
pub fn scopes(core: Core, short: bool) -> Vec<Named> {
    match core {
        Core::Ring => {
            let more: &[(&str, ring::Scope)] = if short { &[] } else { &RING_LONG };
            let all = RING_SHORT.iter().chain(more);
            all.map(|(name, scope)| Named { name, scope: Scope::Ring(*scope) }).collect()
        }
        Core::Registers => {
            let more: &[scopes::Named] = if short { &[scopes::FIRST_WAYS] } else { &scopes::LONG };
            let all = scopes::SHORT.iter().chain(more);
            all.map(|named| Named { name: named.name, scope: Scope::Registers(named.scope) }).collect()
        }
    }
}

/// The planted bugs that the model check of a core finds.
pub fn planted(core: Core) -> Vec<Planted> {
    match core {
        Core::Ring => {
            let bugs: [(_, Find); 5] = [
                ("published-2001", ring::find_bug::<rules::Published2001>),
                ("no-liveness-on-stabilize", ring::find_bug::<rules::NoLivenessOnStabilize>),
                ("no-liveness-on-rectify", ring::find_bug::<rules::NoLivenessOnRectify>),
                ("no-pull-on-join", ring::find_bug::<rules::NoPullOnJoin>),
                ("self-in-list", ring::find_bug::<rules::SelfInList>),
            ];
            bugs.into_iter().map(|(name, find)| Planted { name, bug: Bug::Ring(find) }).collect()
        }
        Core::Registers => scopes::PLANTED
            .iter()
            .map(|planted| Planted { name: planted.name, bug: Bug::Registers(planted.rule, planted.scope) })
            .collect(),
    }
}

/// How the name of a scope ends that is too large to be explored whole.
const IN_PART: &str = ", in part";

impl Named {
    /// Whether its name says that it is only explored up to so many states. Any other scope that is cut shows nothing.
    pub fn is_partial(&self) -> bool {
        self.name.ends_with(IN_PART)
    }

    /// Whether what was found shows that what must hold holds in all of the scope, or in the part that it promises.
    pub fn is_shown_by(&self, found: &Explored) -> bool {
        found.violation.is_none() && (found.complete || self.is_partial())
    }

    /// Explores the scope under the protocol as it is.
    pub fn check(&self) -> Explored {
        match &self.scope {
            Scope::Ring(scope) => of_ring(ring::explore::<rules::Correct>(scope)),
            Scope::Registers(scope) => of_registers(registers::explore(scope, None)),
        }
    }
}

impl Planted {
    /// Explores until the bug is found, or nothing is left.
    pub fn find(&self) -> Explored {
        match &self.bug {
            Bug::Ring(find) => of_ring(find()),
            Bug::Registers(rule, scope) => of_registers(registers::explore(scope, Some(*rule))),
        }
    }
}

fn of_ring(found: ring::Explored) -> Explored {
    let ring::Explored { states, steps, depth, complete, repaired, violation } = found;
    let violation = violation.map(|(violation, way)| (violation.to_string(), way));
    Explored { states, steps, depth, complete, counts: vec![("repaired", repaired)], violation }
}

fn of_registers(found: registers::Explored) -> Explored {
    let registers::Explored { states, steps, depth, complete, histories, dropped, changed, violation } = found;
    let counts =
        vec![("histories", histories as u64), ("states_after_a_drop", dropped), ("states_after_a_change", changed)];
    let violation = violation.map(|(sentence, way)| (format!("not so: {sentence}"), way));
    Explored { states, steps, depth, complete, counts, violation }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_that_was_cut_shows_nothing_unless_its_name_says_so() {
        let whole = Named { name: "some members", scope: Scope::Ring(ring::Scope { states_max: 50, ..OPERATIONS }) };
        let part = Named { name: "some members, in part", ..whole };
        let found = whole.check();
        assert!(!found.complete && found.violation.is_none(), "{found:?}");
        assert!(!whole.is_shown_by(&found) && part.is_shown_by(&found));
        let violation = Some(("broken".to_owned(), Vec::new()));
        let broken = Explored { violation, complete: true, ..found };
        assert!(!whole.is_shown_by(&broken) && !part.is_shown_by(&broken));
    }
}
