//! What is explored: who asks what, and what may go wrong meanwhile.

use crate::rules::Rule;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes this value.
    Write(u8),
    /// Writes this value if there is none.
    Create(u8),
    /// Deletes what is there.
    Delete,
    /// Reads at level strict.
    Read,
    /// Reads at level sequential.
    SequentialRead,
}

/// One operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// The node that coordinates: 1, 2 or 3, or the newcomer, 4.
    pub at: u8,
    /// The key: 0 or 1; both lie on one arc.
    pub key: u8,
    /// What it does.
    pub kind: Kind,
}

/// How finely steps are interleaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Each message is a step of its own.
    Messages,
    /// A question and its answer are one step: an answer comes at once, or is lost.
    Exchanges,
}

/// What is done beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prior {
    /// What.
    pub act: Act,
    /// A node that hears nothing of it: what is said to it stays on its way.
    pub deaf: Option<u8>,
    /// Whose session it is, of the scope's clients; none for a session of its own.
    pub by: Option<u8>,
}

/// What is explored: three replicas that hold two keys, clients with a session each, and how often what may happen.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// What is done beforehand, one after the other.
    pub before: &'static [Prior],
    /// What each client does, one after the other.
    pub clients: &'static [&'static [Act]],
    /// Timers that run out: rounds that ask again or begin again, confirmations that finish what was reported.
    pub timers: u8,
    /// Nodes that crash, and are there again at once with what they had synced.
    pub crashes: u8,
    /// Messages that arrive twice.
    pub repeats: u8,
    /// Passes in which a node looks for tombstones.
    pub passes: u8,
    /// Whether an empty node takes node 3's place.
    pub replace: bool,
    /// Whether disks sync at their own pace; else at once.
    pub slow_disks: bool,
    /// How finely steps are interleaved.
    pub grain: Grain,
    /// With [`Grain::Exchanges`], answers that are lost.
    pub losses: u8,
    /// States after which exploring stops, unfinished.
    pub states_max: usize,
}

impl Scope {
    /// Nothing is done, and nothing goes wrong.
    pub const QUIET: Scope = Scope {
        before: &[],
        clients: &[],
        timers: 0,
        crashes: 0,
        repeats: 0,
        passes: 0,
        replace: false,
        slow_disks: false,
        grain: Grain::Exchanges,
        losses: 0,
        states_max: 400_000,
    };
}

/// A client's act: at which node, on which key, what.
pub const fn act(at: u8, key: u8, kind: Kind) -> Act {
    Act { at, key, kind }
}

/// A scope with its name.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// What it explores.
    pub name: &'static str,
    /// The scope.
    pub scope: Scope,
}

const fn heard(act: Act) -> Prior {
    Prior { act, deaf: None, by: None }
}

const fn unheard(act: Act, by: u8) -> Prior {
    Prior { act, deaf: Some(by), by: None }
}

const WRITE: Act = act(1, 0, Kind::Write(1));
const DELETE: Act = act(1, 0, Kind::Delete);
const STRICT: Act = act(2, 0, Kind::Read);

/// Two coordinators that both create a key.
const CREATIONS: Scope =
    Scope { clients: &[&[act(1, 0, Kind::Create(1))], &[act(2, 0, Kind::Create(2))]], timers: 1, ..Scope::QUIET };
/// Each session writes one key and reads the other.
const STORE_BUFFERING: Scope = Scope {
    clients: &[
        &[WRITE, act(1, 1, Kind::SequentialRead)],
        &[act(2, 1, Kind::Write(2)), act(2, 0, Kind::SequentialRead)],
    ],
    ..Scope::QUIET
};
/// A key that was written and deleted; its first accept is still under way to node 3. Then it is collected, read, and
/// created anew.
const COLLECTION: Scope = Scope {
    before: &[unheard(WRITE, 3), heard(DELETE)],
    clients: &[&[STRICT, act(3, 0, Kind::Create(2))]],
    passes: 2,
    ..Scope::QUIET
};
/// The same, when node 3 has not heard of the deletion.
const COLLECTION_UNHEARD: Scope = Scope { before: &[heard(WRITE), unheard(DELETE, 3)], ..COLLECTION };
/// A session saw a value where its arc is confirmed. Another wrote a second key, of which that node has not heard, and
/// then deleted the first, which is collected. The first session goes on.
const COLLECTION_IN_SESSION: Scope = Scope {
    before: &[
        heard(WRITE),
        // What is absent is answered from a confirmation.
        Prior { act: act(2, 1, Kind::SequentialRead), deaf: None, by: Some(0) },
        Prior { act: act(2, 0, Kind::SequentialRead), deaf: None, by: Some(0) },
        Prior { act: act(1, 1, Kind::Write(2)), deaf: Some(2), by: Some(1) },
        Prior { act: DELETE, deaf: None, by: Some(1) },
    ],
    clients: &[&[act(2, 0, Kind::SequentialRead), act(2, 1, Kind::SequentialRead)], &[]],
    passes: 2,
    ..Scope::QUIET
};
/// A session writes one key, and then another one by a promise from before. Who reads them has seen an old value of the
/// first one that is newer than that promise.
const LATER_WRITE: Scope = Scope {
    before: &[
        heard(WRITE),
        Prior { act: act(2, 1, Kind::Write(1)), deaf: None, by: Some(0) },
        // From here on node 3 knows what it holds to be chosen.
        heard(act(3, 1, Kind::SequentialRead)),
    ],
    clients: &[
        &[act(2, 1, Kind::Write(2)), act(1, 0, Kind::Write(2))],
        &[act(3, 0, Kind::SequentialRead), act(3, 1, Kind::SequentialRead)],
    ],
    ..Scope::QUIET
};
/// A write by such a promise, then another one at the same coordinator, and one at another.
const LATER_WRITE_CONTESTED: Scope = Scope {
    before: &[heard(WRITE), Prior { act: act(2, 1, Kind::Write(1)), deaf: None, by: Some(0) }],
    clients: &[&[act(1, 0, Kind::Write(2))], &[act(1, 0, Kind::Write(3)), act(3, 0, Kind::Write(4))]],
    ..Scope::QUIET
};
/// A session creates a key by a promise from before it saw another one; a second coordinator creates it too, and is
/// asked again elsewhere.
const LATER_CREATION: Scope = Scope {
    before: &[heard(act(3, 0, Kind::Delete)), Prior { act: act(2, 1, Kind::Write(1)), deaf: None, by: Some(0) }],
    clients: &[
        &[act(3, 0, Kind::Create(2))],
        &[act(1, 0, Kind::Create(3)), act(2, 0, Kind::Create(4)), act(3, 0, Kind::Read)],
    ],
    ..Scope::QUIET
};
const REPLACEMENT: Scope = Scope { before: &[unheard(WRITE, 2)], clients: &[&[STRICT]], replace: true, ..Scope::QUIET };

/// What is explored within a minute, all of it.
pub const SHORT: [Named; 13] = [
    Named { name: "two creations", scope: CREATIONS },
    Named { name: "two creations, single messages", scope: Scope { timers: 0, grain: Grain::Messages, ..CREATIONS } },
    Named {
        name: "a write and two strict reads, single messages",
        scope: Scope { clients: &[&[WRITE], &[STRICT, act(3, 0, Kind::Read)]], grain: Grain::Messages, ..Scope::QUIET },
    },
    Named {
        name: "a write, a strict read, a crash, slow disks",
        scope: Scope { clients: &[&[WRITE], &[STRICT]], crashes: 1, slow_disks: true, ..Scope::QUIET },
    },
    Named {
        name: "two writes passed on as messages",
        scope: Scope {
            clients: &[
                &[WRITE, act(1, 1, Kind::Write(2))],
                &[act(2, 1, Kind::SequentialRead), act(2, 0, Kind::SequentialRead)],
            ],
            ..Scope::QUIET
        },
    },
    Named { name: "a collection, an old accept under way", scope: COLLECTION },
    Named { name: "the same with a lost answer", scope: Scope { losses: 1, clients: &[&[STRICT]], ..COLLECTION } },
    Named { name: "a collection and a crash", scope: Scope { crashes: 1, clients: &[&[STRICT]], ..COLLECTION } },
    Named { name: "a collection, its deletion unheard by one", scope: COLLECTION_UNHEARD },
    Named { name: "a collection that a session sees", scope: COLLECTION_IN_SESSION },
    Named { name: "a session's write by an older promise", scope: LATER_WRITE },
    Named { name: "a write by an older promise, contested", scope: LATER_WRITE_CONTESTED },
    Named { name: "a creation by an older promise, contested", scope: LATER_CREATION },
];

/// A replacement has too many ways to go them all within a minute; so many of its states, breadth first, contain its
/// end.
pub const FIRST_WAYS: Named =
    Named { name: "a replacement, in part", scope: Scope { states_max: 20_000, ..REPLACEMENT } };

/// What takes longer, most of it complete; all together some minutes on a quiet machine.
pub const LONG: [Named; 6] = [
    Named { name: "store buffering", scope: Scope { states_max: STATES_LONG, ..STORE_BUFFERING } },
    Named {
        name: "a collection, single messages",
        scope: Scope { clients: &[&[STRICT]], grain: Grain::Messages, states_max: STATES_LONG, ..COLLECTION },
    },
    Named { name: "two creations and a crash", scope: Scope { crashes: 1, states_max: STATES_LONG, ..CREATIONS } },
    Named {
        name: "a collection, an echo and a crash",
        scope: Scope { repeats: 1, crashes: 1, clients: &[&[STRICT]], states_max: STATES_LONG, ..COLLECTION },
    },
    Named { name: "a replacement", scope: Scope { states_max: STATES_LONG, ..REPLACEMENT } },
    Named {
        name: "a replacement, single messages, in part",
        scope: Scope { grain: Grain::Messages, states_max: STATES_LONG, ..REPLACEMENT },
    },
];
/// So many states of each of them are explored at most, breadth first.
const STATES_LONG: usize = 400_000;

/// A rule that is broken, with a scope in which that shows.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// What it does then.
    pub name: &'static str,
    /// The rule.
    pub rule: Rule,
    /// The scope.
    pub scope: Scope,
}

/// Rules that are broken, each with a scope in which that shows. Names are those of the simulator's planted bugs, where
/// it has them.
pub const PLANTED: [Planted; 11] = [
    Planted { name: "promise-broken", rule: Rule::KeepPromise, scope: CREATIONS },
    Planted { name: "accepted-ignored", rule: Rule::BuildOnAccepted, scope: CREATIONS },
    Planted { name: "ceiling-forgotten", rule: Rule::KeepCeiling, scope: Scope { crashes: 1, ..CREATIONS } },
    Planted { name: "no-floor", rule: Rule::KeepFloor, scope: STORE_BUFFERING },
    Planted { name: "collected-by-majority", rule: Rule::CollectFromAll, scope: COLLECTION_UNHEARD },
    Planted { name: "dropped-above-floor", rule: Rule::FloorBeforeDrop, scope: COLLECTION },
    Planted { name: "absence-without-time", rule: Rule::AbsenceHasTime, scope: COLLECTION_IN_SESSION },
    Planted { name: "switch-before-copy", rule: Rule::CopyBeforeSwitch, scope: REPLACEMENT },
    Planted { name: "accepted-above-promise", rule: Rule::AcceptAsPromised, scope: LATER_CREATION },
    Planted { name: "time-by-ballot", rule: Rule::TimeOfState, scope: LATER_WRITE },
    Planted { name: "next-below-time", rule: Rule::NextAboveTime, scope: LATER_WRITE_CONTESTED },
];
