use std::fmt;
use std::str::FromStr;

/// A safety rule that the core keeps; each is named by what it would be to break it.
///
/// They exist so that the checks can be checked: the simulator runs the core with one of them broken, and must find the
/// harm. Crate `replication` has them as types, so that a broken rule is not even present in production. So many more
/// fleets of that kind took three minutes to compile, so here they are values (decision 0063).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A log that is begun anew is a new actor's: nobody gives a dot away a second time.
    DotReused,
    /// Concurrent values stay side by side.
    SiblingDropped,
    /// Of two concurrent values of type last-writer the later one is shown, whichever came first here.
    MergeByArrival,
    /// A dot of an actor all of whose dots were received is gone, if it is not there, whatever late copy of it comes.
    GoneForgotten,
    /// The dots of one request count as one.
    AliasesCounted,
    /// A request that has acted here does not act again.
    RetryTwice,
    /// A tombstone is dropped only when all homes hold it, and all that could bring back what it buries.
    BuriedEarly,
    /// A hint is kept until a home has it on disk.
    HintLost,
    /// One replica answers a causal read only if it has surely received all that the session has seen.
    LaggingRead,
    /// A causal read shows only what a majority holds.
    UnstableShown,
    /// A causal write waits for a majority.
    AckAlone,
    /// A stamp leaves only when it is synced.
    SentUnsynced,
    /// Whoever says "nothing else for you up to here" knows it.
    ClaimedFalsely,
    /// After a restart nothing is stamped below what was ever claimed.
    CeilingForgotten,
    /// A replica that lost its data is not counted until it has it again.
    EmptyCounted,
    /// A stamp lies above all that the session has seen.
    StampedBelow,
    /// Reconciliation looks at every range that differs.
    RangeSkipped,
    /// A write's order is the same in all its attempts.
    OrderByAttempt,
    /// While an arc changes, a majority of both its sets holds what is acknowledged or shown.
    OldMajorityOnly,
    /// A new home has copied once it has been through with a majority of those in charge.
    CopiedFromOne,
    /// A new home counts once it has copied.
    CountedBeforeCopy,
    /// Only what acts on the change tells a new home what there is to copy: its questions wait where the change is not
    /// known yet. (So an answer from an older view cannot come; it would not count either. The bug breaks both.)
    CopiedFromOldView,
    /// A mark says nothing of an arc that became ours after the stamps were made.
    MarksOfNewArcs,
    /// Who leaves an arc drops its keys when others are in charge, and not before.
    DroppedBeforeSwitch,
    /// A pass is through once it has seen what became another state under it.
    ChangedSkipped,
    /// Who is a home no more hands on what it holds before it drops it.
    DroppedUnhanded,
    /// What a damaged part of the log held is written again before that part is given up.
    DamageDropped,
    /// A causal write whose other attempt has just acted here is acknowledged once a majority has that.
    AttemptUnsettled,
    /// A pass that is out of date when it ends does not stand for the one that is due since homes changed.
    PassPutOff,
    /// What a former home brings late is stamped by the home that takes it, and acknowledged once all homes have it.
    LateUnstamped,
    /// One replica answers a causal read only if it has surely received all that led to what it shows.
    LedUnheard,
    /// What is closed is forgotten by the replica, too, that ends it.
    ClosedRemembered,
    /// What a home reports to be the same is what it was asked about, and not what is held when the report comes.
    ReportOfAnother,
}

impl Rule {
    const NAMES: [(Rule, &'static str); 33] = [
        (Rule::DotReused, "dot-reused"),
        (Rule::SiblingDropped, "sibling-dropped"),
        (Rule::MergeByArrival, "merge-by-arrival"),
        (Rule::GoneForgotten, "gone-forgotten"),
        (Rule::AliasesCounted, "aliases-counted"),
        (Rule::RetryTwice, "available-retry-twice"),
        (Rule::BuriedEarly, "buried-early"),
        (Rule::HintLost, "hint-lost"),
        (Rule::LaggingRead, "lagging-read"),
        (Rule::UnstableShown, "unstable-shown"),
        (Rule::AckAlone, "ack-alone"),
        (Rule::SentUnsynced, "sent-unsynced"),
        (Rule::ClaimedFalsely, "claimed-falsely"),
        (Rule::CeilingForgotten, "available-ceiling-forgotten"),
        (Rule::EmptyCounted, "empty-counted"),
        (Rule::StampedBelow, "stamped-below"),
        (Rule::RangeSkipped, "range-skipped"),
        (Rule::OrderByAttempt, "order-by-attempt"),
        (Rule::OldMajorityOnly, "old-majority-only"),
        (Rule::CopiedFromOne, "copied-from-one"),
        (Rule::CountedBeforeCopy, "counted-before-copy"),
        (Rule::CopiedFromOldView, "copied-from-old-view"),
        (Rule::MarksOfNewArcs, "marks-of-new-arcs"),
        (Rule::DroppedBeforeSwitch, "dropped-before-switch"),
        (Rule::ChangedSkipped, "changed-skipped"),
        (Rule::DroppedUnhanded, "dropped-unhanded"),
        (Rule::DamageDropped, "available-damage-dropped"),
        (Rule::AttemptUnsettled, "attempt-unsettled"),
        (Rule::PassPutOff, "pass-put-off"),
        (Rule::LateUnstamped, "late-unstamped"),
        (Rule::LedUnheard, "led-unheard"),
        (Rule::ClosedRemembered, "closed-remembered"),
        (Rule::ReportOfAnother, "report-of-another"),
    ];

    /// Those whose breaking a thousand simulated schedules of the present mixes did not show to do harm. The first
    /// takes two attempts at one home that is cut off from the others in between, as in `tests/attempts.rs`; the second
    /// a source that dies in the middle of a pass, as in the simulator's `tests/available_transfer.rs`; the third was
    /// found by seed 183 before decision 0084 changed that schedule, and is in `tests/absence.rs` by hand, as the next
    /// two are in `tests/late.rs` and `tests/led.rs` (and in seed 14701 of both contracts). Of the one after these
    /// there is no schedule at present; the last is in `tests/attempts.rs`, and found by one in fifty of the
    /// simulator's seeds of late answers. They can be broken by name; nobody may count them among what the checks are
    /// known to find.
    const UNSEEN: [Rule; 7] = [
        Rule::AttemptUnsettled,
        Rule::PassPutOff,
        Rule::OldMajorityOnly,
        Rule::LateUnstamped,
        Rule::LedUnheard,
        Rule::ClosedRemembered,
        Rule::ReportOfAnother,
    ];

    /// All whose breaking the simulator is to find.
    pub fn all() -> impl Iterator<Item = Rule> {
        Rule::NAMES.iter().map(|(rule, _)| *rule).filter(|rule| !Rule::UNSEEN.contains(rule))
    }

    /// The name of the bug that breaks it.
    pub fn name(self) -> &'static str {
        Rule::NAMES.iter().find(|(rule, _)| *rule == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no rule's bug has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no planted bug of available keys is called `{0}`")]
pub struct UnknownRule(pub String);

impl FromStr for Rule {
    type Err = UnknownRule;

    fn from_str(name: &str) -> Result<Rule, UnknownRule> {
        let found = Rule::NAMES.iter().find(|(_, known)| *known == name).map(|(rule, _)| *rule);
        found.ok_or_else(|| UnknownRule(name.to_owned()))
    }
}

/// Which rules are kept: all, but in a simulation that is to notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    broken: Option<Rule>,
}

impl Rules {
    /// All rules.
    pub const ALL: Rules = Rules { broken: None };

    /// All but one.
    pub fn without(rule: Rule) -> Rules {
        Rules { broken: Some(rule) }
    }

    /// Whether the rule is kept.
    pub fn keep(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for (rule, _) in Rule::NAMES {
            assert_eq!(rule.to_string().parse(), Ok(rule));
            assert!(Rules::ALL.keep(rule) && !Rules::without(rule).keep(rule));
        }
        assert!("none".parse::<Rule>().is_err());
    }
}
