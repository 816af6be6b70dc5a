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
    /// A replica that promised a floor keeps it.
    const KEEP_FLOOR: bool = true;
    /// A confirmation ends only when all that was reported is known to be chosen.
    const FINISH_REPORTED: bool = true;
    /// A read is answered from a confirmation only if that reaches the session's time.
    const CONFIRM_TO_SESSION: bool = true;
    /// A strict read is answered only from a confirmation that began after the read arrived.
    const CONFIRM_AFTER_ARRIVAL: bool = true;
    /// After a confirmation has begun, our own writes use ballots above it.
    const NEW_WRITES_ABOVE: bool = true;
    /// A read waits for our own write of its register.
    const WAIT_FOR_OWN_WRITE: bool = true;
    /// Only what is known to be chosen is shown without asking.
    const ANSWER_CHOSEN: bool = true;
    /// A strict read of a session that has seen something newer takes its time from a confirmation.
    const STRICT_IN_SESSION: bool = true;
    /// The session's time is heeded.
    const SESSION_TIME: bool = true;
    /// A value is over when a round has agreed on it, and not when some clock says so.
    const AGREE_ON_END: bool = true;
    /// A write with a fencing token that is lower than one seen is refused.
    const KEEP_FENCE: bool = true;
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
        #[doc = "Promises a floor and does not keep it."]
        NoFloor breaks KEEP_FLOOR;
        #[doc = "Takes a confirmation for finished while reported writes are not."]
        ReportsUnfinished breaks FINISH_REPORTED;
        #[doc = "Answers a session from a confirmation that is older than what it has seen."]
        ConfirmedTooLow breaks CONFIRM_TO_SESSION;
        #[doc = "Answers a strict read from a confirmation that was there before it."]
        OldConfirmation breaks CONFIRM_AFTER_ARRIVAL;
        #[doc = "Writes below its own confirmation, by a promise from before it."]
        WriteBelow breaks NEW_WRITES_ABOVE;
        #[doc = "Answers a read beside its own write of the same register."]
        ReadBesideWrite breaks WAIT_FOR_OWN_WRITE;
        #[doc = "Shows what was accepted here and may never be chosen."]
        UnchosenShown breaks ANSWER_CHOSEN;
        #[doc = "Gives a strict read a time without confirming it."]
        StrictOutOfSession breaks STRICT_IN_SESSION;
        #[doc = "Forgets what the session has seen."]
        SessionTimeDropped breaks SESSION_TIME;
        #[doc = "Hides a value whose time is up by the coordinator's own clock."]
        EndByOwnClock breaks AGREE_ON_END;
        #[doc = "Lets a write through whose lock was granted to another since."]
        FenceIgnored breaks KEEP_FENCE;
    }
}
