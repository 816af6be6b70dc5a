//! Bugs that are planted in a fleet of both contracts, so that its checks can be checked.

/// A bug that only sessions across both contracts show, or that they show too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// What a session saw in ordered buckets is dropped when it goes on in available ones.
    OrderedDropped,
    /// What a session saw in available buckets is dropped when it goes on in ordered ones.
    AvailableDropped,
    /// A read at level causal is answered by a home that lacks what led to what its session saw.
    LaggingRead,
    /// A read at level causal is answered by a home that lacks what led to what it shows. Its seed is 14701, so it is
    /// not one of those that are to be found in fewer.
    LedUnheard,
    /// Registers forget what the session has seen.
    SessionTime,
    /// A session is answered from a confirmation that is older than what it has seen.
    ConfirmedTooLow,
}

impl Planted {
    /// All that are to be found in a thousand seeds.
    pub const ALL: [Planted; 5] = [
        Planted::OrderedDropped,
        Planted::AvailableDropped,
        Planted::LaggingRead,
        Planted::SessionTime,
        Planted::ConfirmedTooLow,
    ];

    /// Those that no fleet of one contract has: bugs of what a session carries from the one to the other.
    pub const OWN: [Planted; 2] = [Planted::OrderedDropped, Planted::AvailableDropped];

    /// Its name; of a broken rule that of the rule's bug.
    pub fn name(self) -> &'static str {
        match self {
            Planted::OrderedDropped => "ordered-dropped",
            Planted::AvailableDropped => "available-dropped",
            Planted::LaggingRead => available::Rule::LaggingRead.name(),
            Planted::LedUnheard => available::Rule::LedUnheard.name(),
            Planted::SessionTime => crate::Planted::SessionTimeDropped.name(),
            Planted::ConfirmedTooLow => crate::Planted::ConfirmedTooLow.name(),
        }
    }

    /// The rule of the registers' core that it breaks.
    pub(super) fn ordered_rule(self) -> Option<replication::Rule> {
        match self {
            Planted::SessionTime => Some(replication::Rule::SessionTime),
            Planted::ConfirmedTooLow => Some(replication::Rule::ConfirmToSession),
            _ => None,
        }
    }

    /// The rule of the available keys' core that it breaks.
    pub(super) fn available_rule(self) -> Option<available::Rule> {
        match self {
            Planted::LaggingRead => Some(available::Rule::LaggingRead),
            Planted::LedUnheard => Some(available::Rule::LedUnheard),
            _ => None,
        }
    }
}
