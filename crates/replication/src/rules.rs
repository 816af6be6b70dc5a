/// The safety rules that the core keeps, one constant each.
///
/// They exist so that the checks can be checked: the simulator runs the same core under rules with one of them broken
/// and must find the harm. Production code runs under [`Correct`]; the constants are known when it is compiled, so a
/// broken rule is not even present in it.
pub trait Rules: Copy + Default + std::fmt::Debug + 'static {
    /// A vote waits until the record that it vouches for is synced.
    const VOTE_AFTER_SYNC: bool = true;
    /// A read needs a majority that reports the same ballot.
    const READ_MAJORITY: bool = true;
    /// A request that the value already contains is not applied again.
    const REMEMBER_REQUESTS: bool = true;
    /// After a restart, everything up to the ceiling is refused.
    const KEEP_CEILING: bool = true;
    /// A condition is judged on the state that the round builds on, not on what the coordinator happens to hold.
    const CONDITION_IN_ROUND: bool = true;
    /// An accept is refused below a promise, not merely below an accepted ballot.
    const KEEP_PROMISE: bool = true;
    /// A coordinator that finds an accepted state builds on it.
    const BUILD_ON_ACCEPTED: bool = true;
    /// While a change is pending, a decision needs a majority of both replica sets.
    const JOINT_QUORUM: bool = true;
    /// A message of another arc epoch is not acted on.
    const REFUSE_OTHER_EPOCH: bool = true;
    /// What was promised in one arc epoch does not count in the next.
    const GRANTS_END_WITH_EPOCH: bool = true;
    /// A newcomer copies from replicas that have the change's epoch already, so that no write slips in behind the copy.
    const COPY_FROM_NEW_EPOCH: bool = true;
    /// A newcomer copies from a majority of the replicas in charge.
    const COPY_FROM_MAJORITY: bool = true;
    /// A newcomer says that it holds an arc only when it has copied it.
    const COPY_BEFORE_SWITCH: bool = true;
    /// A replica drops an arc only when the new set is in charge.
    const RELEASE_AFTER_SWITCH: bool = true;
    /// After a restart no view is acted on that is older than the last one.
    const KEEP_EPOCH: bool = true;
    /// Of two processes with one identity, the one that started earlier is not heeded.
    const FENCE_TWINS: bool = true;
}

/// All rules kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Correct;
impl Rules for Correct {}

/// The rules with one of them broken, for the checks that must notice.
pub mod planted {
    use super::Rules;

    macro_rules! planted {
        ($(#[doc = $doc:literal] $name:ident breaks $rule:ident;)*) => {$(
            #[doc = $doc]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $name;
            impl Rules for $name {
                const $rule: bool = false;
            }
        )*};
    }

    planted! {
        #[doc = "Acknowledges what a crash can still undo."]
        AckBeforeSync breaks VOTE_AFTER_SYNC;
        #[doc = "Answers a read from one replica."]
        MinorityRead breaks READ_MAJORITY;
        #[doc = "Applies a retried write a second time."]
        RetryTwice breaks REMEMBER_REQUESTS;
        #[doc = "Votes after a restart as if it had promised nothing."]
        CeilingForgotten breaks KEEP_CEILING;
        #[doc = "Judges a conditional write on a state that another write has replaced."]
        ConditionOnStale breaks CONDITION_IN_ROUND;
        #[doc = "Accepts below a promise."]
        PromiseBroken breaks KEEP_PROMISE;
        #[doc = "Drops what an interrupted round had accepted."]
        AcceptedIgnored breaks BUILD_ON_ACCEPTED;
        #[doc = "Decides by a majority of the new set alone while a change is pending."]
        SingleQuorum breaks JOINT_QUORUM;
        #[doc = "Acts on what a coordinator with an older or newer view asks."]
        StaleCoordinator breaks REFUSE_OTHER_EPOCH;
        #[doc = "Skips a prepare by a promise of another replica set."]
        StaleGrant breaks GRANTS_END_WITH_EPOCH;
        #[doc = "Copies from members that are still in the old epoch."]
        CopyFromOldEpoch breaks COPY_FROM_NEW_EPOCH;
        #[doc = "Copies an arc from a single replica."]
        CopyFromOne breaks COPY_FROM_MAJORITY;
        #[doc = "Counts as a holder of an arc before it has copied it."]
        SwitchBeforeCopy breaks COPY_BEFORE_SWITCH;
        #[doc = "Drops an arc at the source when its change begins."]
        ReleaseBeforeSwitch breaks RELEASE_AFTER_SWITCH;
        #[doc = "Acts on an old view after a restart."]
        EpochForgotten breaks KEEP_EPOCH;
        #[doc = "Heeds two processes that have one identity."]
        TwinHeeded breaks FENCE_TWINS;
    }
}
