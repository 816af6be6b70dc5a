use std::fmt;
use std::str::FromStr;

use replication::Rule;

use crate::command::Fleet;

/// A bug that is planted so that the checks can be checked. Its name on the command line is its `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Acknowledges what a crash can still undo.
    AckBeforeSync,
    /// Answers a strict read from one replica.
    MinorityRead,
    /// Applies a retried write a second time.
    RetryTwice,
    /// Votes after a restart as if it had promised nothing.
    CeilingForgotten,
    /// Comes back under its old identity after its disk was lost.
    Amnesia,
    /// Judges a conditional write on a state that another write has replaced.
    ConditionOnStale,
    /// Accepts below a promise.
    PromiseBroken,
    /// Drops what an interrupted round had accepted.
    AcceptedIgnored,
    /// Promises a floor and does not keep it.
    NoFloor,
    /// Takes a confirmation for finished while reported writes are not.
    ReportsUnfinished,
    /// Answers a session from a confirmation that is older than what it has seen.
    ConfirmedTooLow,
    /// Answers a strict read from a confirmation that was there before it.
    OldConfirmation,
    /// Shows what was accepted by one replica and may never be chosen.
    UnchosenShown,
    /// Forgets what the session has seen.
    SessionTimeDropped,
    /// Accepts a write at a later ballot than was promised.
    AcceptedAbovePromise,
    /// Takes the ballot of what it shows for the time at which that was written.
    TimeByBallot,
    /// Writes at a time above the ballot that it has promised for the next write.
    NextBelowTime,
    /// Hides a value whose time is up by the coordinator's own clock.
    EndByOwnClock,
    /// Lets a write through whose lock was granted to another since.
    FenceIgnored,
    /// Decides by the new replica set alone while a change is pending.
    SingleQuorum,
    /// Acts on what a coordinator with another view asks.
    StaleCoordinator,
    /// Counts a newcomer before it has copied.
    SwitchBeforeCopy,
    /// Drops an arc at the source when its change begins.
    ReleaseBeforeSwitch,
    /// Starts a copy of a data directory whose node runs, and heeds both.
    TwinHeeded,
    /// Starts a copy of a data directory as its node's next start, whatever the node did after it was copied.
    CopyTrusted,
    /// Comes back as it was on an older state of its data directory.
    RolledBackTrusted,
    /// Confirms an arc by the old replica set alone while a change is pending.
    ConfirmedByOldSet,
    /// Keeps what was confirmed of an arc over its change.
    ConfirmationKept,
    /// Drops the promised floors when an arc changes.
    FloorsDropped,
    /// Copies an arc from members that are still in its old epoch.
    CopiedFromOldEpoch,
    /// Copies an arc from a single replica.
    ArcCopiedFromOne,
    /// Acts on an old view after a restart.
    EpochForgotten,
    /// Counts what was copied as a vote, chosen or not.
    CopyUnconfirmed,
    /// Gives up a damaged part of the log without writing what it held again.
    DamageDropped,
    /// Takes damage in the middle of its log for a torn tail, and votes as if what followed had never been.
    DamageCut,
    /// Drops a tombstone that only a majority holds.
    CollectedByMajority,
    /// Drops a tombstone above every floor.
    DroppedAboveFloor,
    /// Drops a tombstone with what it remembers.
    MemoryDropped,
    /// Keeps the ring by the Chord protocol as it was published in 2001.
    PublishedChord,
    /// Never looks for whom its fingers should lead to.
    FingersNeverFixed,
}

/// The names of all planted bugs, those of available keys included.
fn all_names() -> String {
    Fleet::with_bugs().filter_map(Fleet::bug).collect::<Vec<_>>().join(", ")
}

/// A name that no planted bug has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no planted bug is called `{name}`; there are: {}", all_names())]
pub struct UnknownPlanted {
    /// What was asked for.
    pub name: String,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 40] = [
        Planted::AckBeforeSync,
        Planted::MinorityRead,
        Planted::RetryTwice,
        Planted::CeilingForgotten,
        Planted::Amnesia,
        Planted::ConditionOnStale,
        Planted::PromiseBroken,
        Planted::AcceptedIgnored,
        Planted::NoFloor,
        Planted::ReportsUnfinished,
        Planted::ConfirmedTooLow,
        Planted::OldConfirmation,
        Planted::UnchosenShown,
        Planted::SessionTimeDropped,
        Planted::AcceptedAbovePromise,
        Planted::TimeByBallot,
        Planted::NextBelowTime,
        Planted::EndByOwnClock,
        Planted::FenceIgnored,
        Planted::SingleQuorum,
        Planted::StaleCoordinator,
        Planted::SwitchBeforeCopy,
        Planted::ReleaseBeforeSwitch,
        Planted::TwinHeeded,
        Planted::CopyTrusted,
        Planted::RolledBackTrusted,
        Planted::ConfirmedByOldSet,
        Planted::ConfirmationKept,
        Planted::FloorsDropped,
        Planted::CopiedFromOldEpoch,
        Planted::ArcCopiedFromOne,
        Planted::EpochForgotten,
        Planted::CopyUnconfirmed,
        Planted::DamageDropped,
        Planted::DamageCut,
        Planted::CollectedByMajority,
        Planted::DroppedAboveFloor,
        Planted::MemoryDropped,
        Planted::PublishedChord,
        Planted::FingersNeverFixed,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeSync => "ack-before-sync",
            Planted::MinorityRead => "minority-read",
            Planted::RetryTwice => "retry-twice",
            Planted::CeilingForgotten => "ceiling-forgotten",
            Planted::Amnesia => "amnesia",
            Planted::ConditionOnStale => "condition-on-stale",
            Planted::PromiseBroken => "promise-broken",
            Planted::AcceptedIgnored => "accepted-ignored",
            Planted::NoFloor => "no-floor",
            Planted::ReportsUnfinished => "reports-unfinished",
            Planted::ConfirmedTooLow => "confirmed-too-low",
            Planted::OldConfirmation => "old-confirmation",
            Planted::UnchosenShown => "unchosen-shown",
            Planted::SessionTimeDropped => "session-time-dropped",
            Planted::AcceptedAbovePromise => "accepted-above-promise",
            Planted::TimeByBallot => "time-by-ballot",
            Planted::NextBelowTime => "next-below-time",
            Planted::EndByOwnClock => "end-by-own-clock",
            Planted::FenceIgnored => "fence-ignored",
            Planted::SingleQuorum => "single-quorum",
            Planted::StaleCoordinator => "stale-coordinator",
            Planted::SwitchBeforeCopy => "switch-before-copy",
            Planted::ReleaseBeforeSwitch => "release-before-switch",
            Planted::TwinHeeded => "twin-heeded",
            Planted::CopyTrusted => "copy-trusted",
            Planted::RolledBackTrusted => "rolled-back-trusted",
            Planted::ConfirmedByOldSet => "confirmed-by-old-set",
            Planted::ConfirmationKept => "confirmation-kept",
            Planted::FloorsDropped => "floors-dropped",
            Planted::CopiedFromOldEpoch => "copied-from-old-epoch",
            Planted::ArcCopiedFromOne => "arc-copied-from-one",
            Planted::EpochForgotten => "epoch-forgotten",
            Planted::CopyUnconfirmed => "copy-unconfirmed",
            Planted::DamageDropped => "damage-dropped",
            Planted::DamageCut => "damage-cut",
            Planted::CollectedByMajority => "collected-by-majority",
            Planted::DroppedAboveFloor => "dropped-above-floor",
            Planted::MemoryDropped => "memory-dropped",
            Planted::PublishedChord => "published-chord",
            Planted::FingersNeverFixed => "fingers-never-fixed",
        }
    }

    /// The rule of the registers' core that it breaks; none if it breaks something else.
    pub(crate) fn rule(self) -> Option<Rule> {
        Some(match self {
            Planted::AckBeforeSync => Rule::VoteAfterSync,
            Planted::MinorityRead => Rule::ReadMajority,
            Planted::RetryTwice => Rule::RememberRequests,
            Planted::CeilingForgotten => Rule::KeepCeiling,
            Planted::ConditionOnStale => Rule::ConditionInRound,
            Planted::PromiseBroken => Rule::KeepPromise,
            Planted::AcceptedIgnored => Rule::BuildOnAccepted,
            Planted::NoFloor => Rule::KeepFloor,
            Planted::ReportsUnfinished => Rule::FinishReported,
            Planted::ConfirmedTooLow => Rule::ConfirmToSession,
            Planted::OldConfirmation => Rule::ConfirmAfterArrival,
            Planted::UnchosenShown => Rule::AnswerChosen,
            Planted::SessionTimeDropped => Rule::SessionTime,
            Planted::AcceptedAbovePromise => Rule::AcceptAsPromised,
            Planted::TimeByBallot => Rule::TimeOfState,
            Planted::NextBelowTime => Rule::NextAboveTime,
            Planted::EndByOwnClock => Rule::AgreeOnEnd,
            Planted::FenceIgnored => Rule::KeepFence,
            Planted::SingleQuorum => Rule::JointQuorum,
            Planted::StaleCoordinator => Rule::RefuseOtherEpoch,
            Planted::SwitchBeforeCopy => Rule::CopyBeforeSwitch,
            Planted::ReleaseBeforeSwitch => Rule::ReleaseAfterSwitch,
            Planted::TwinHeeded => Rule::FenceTwins,
            Planted::ConfirmedByOldSet => Rule::ConfirmJointly,
            Planted::ConfirmationKept => Rule::ConfirmationsEndWithEpoch,
            Planted::FloorsDropped => Rule::FloorsOutliveEpoch,
            Planted::CopiedFromOldEpoch => Rule::CopyFromNewEpoch,
            Planted::ArcCopiedFromOne => Rule::CopyFromMajority,
            Planted::EpochForgotten => Rule::KeepEpoch,
            Planted::CopyUnconfirmed => Rule::CopyConfirmed,
            Planted::DamageDropped => Rule::RewriteLost,
            Planted::CollectedByMajority => Rule::CollectFromAll,
            Planted::DroppedAboveFloor => Rule::FloorBeforeDrop,
            Planted::MemoryDropped => Rule::AgreeOnLapse,
            Planted::Amnesia | Planted::DamageCut => return None,
            Planted::CopyTrusted | Planted::RolledBackTrusted => return None,
            Planted::PublishedChord | Planted::FingersNeverFixed => return None,
        })
    }
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Planted {
    type Err = UnknownPlanted;

    fn from_str(name: &str) -> Result<Planted, UnknownPlanted> {
        let found = Planted::ALL.into_iter().find(|planted| planted.name() == name);
        found.ok_or_else(|| UnknownPlanted { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_a_wrong_one_lists_them() {
        for planted in Planted::ALL {
            assert_eq!(planted.to_string().parse(), Ok(planted));
        }
        let sentence = "2001".parse::<Planted>().expect_err("there is none").to_string();
        assert!(sentence.contains("`2001`") && sentence.contains("ack-before-sync, minority-read"), "{sentence}");
    }
}
