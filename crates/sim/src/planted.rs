use std::fmt;
use std::str::FromStr;

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
    /// Decides by the new replica set alone while a change is pending.
    SingleQuorum,
    /// Acts on what a coordinator with another view asks.
    StaleCoordinator,
    /// Skips a prepare by the promise of another replica set.
    StaleGrant,
    /// Copies an arc from members that are still in the old epoch.
    CopyFromOldEpoch,
    /// Copies an arc from a single replica.
    CopyFromOne,
    /// Counts a newcomer before it has copied.
    SwitchBeforeCopy,
    /// Drops an arc at the source when its change begins.
    ReleaseBeforeSwitch,
    /// Acts on an old view after a restart.
    EpochForgotten,
    /// Starts a copy of a data directory whose node runs, and heeds both.
    TwinHeeded,
    /// Keeps the ring by the Chord protocol as it was published in 2001.
    PublishedChord,
}

/// A name that no planted bug has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no planted bug is called `{name}`; there are: {}", Planted::names().join(", "))]
pub struct UnknownPlanted {
    /// What was asked for.
    pub name: String,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 18] = [
        Planted::AckBeforeSync,
        Planted::MinorityRead,
        Planted::RetryTwice,
        Planted::CeilingForgotten,
        Planted::Amnesia,
        Planted::ConditionOnStale,
        Planted::PromiseBroken,
        Planted::AcceptedIgnored,
        Planted::SingleQuorum,
        Planted::StaleCoordinator,
        Planted::StaleGrant,
        Planted::CopyFromOldEpoch,
        Planted::CopyFromOne,
        Planted::SwitchBeforeCopy,
        Planted::ReleaseBeforeSwitch,
        Planted::EpochForgotten,
        Planted::TwinHeeded,
        Planted::PublishedChord,
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
            Planted::SingleQuorum => "single-quorum",
            Planted::StaleCoordinator => "stale-coordinator",
            Planted::StaleGrant => "stale-grant",
            Planted::CopyFromOldEpoch => "copy-from-old-epoch",
            Planted::CopyFromOne => "copy-from-one",
            Planted::SwitchBeforeCopy => "switch-before-copy",
            Planted::ReleaseBeforeSwitch => "release-before-switch",
            Planted::EpochForgotten => "epoch-forgotten",
            Planted::TwinHeeded => "twin-heeded",
            Planted::PublishedChord => "published-chord",
        }
    }

    fn names() -> Vec<&'static str> {
        Planted::ALL.iter().map(|planted| planted.name()).collect()
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
