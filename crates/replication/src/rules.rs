/// A safety rule of the core. Breaking it plants the bug that its second sentence tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A vote waits until the record that it vouches for is synced.
    ///
    /// Broken: acknowledges what a crash can still undo.
    VoteAfterSync,
    /// A read needs a majority that reports the same ballot.
    ///
    /// Broken: answers a read from one replica.
    ReadMajority,
    /// A request that the value already contains is not applied again.
    ///
    /// Broken: applies a retried write a second time.
    RememberRequests,
    /// After a restart, everything up to the ceiling is refused.
    ///
    /// Broken: votes after a restart as if it had promised nothing.
    KeepCeiling,
    /// A condition is judged on the state that the round builds on, not on what the coordinator happens to hold.
    ///
    /// Broken: judges a conditional write on a state that another write has replaced.
    ConditionInRound,
    /// An accept is refused below a promise, not merely below an accepted ballot.
    ///
    /// Broken: accepts below a promise.
    KeepPromise,
    /// A coordinator that finds an accepted state builds on it.
    ///
    /// Broken: drops what an interrupted round had accepted.
    BuildOnAccepted,
    /// A replica that promised a floor keeps it.
    ///
    /// Broken: promises a floor and does not keep it.
    KeepFloor,
    /// A confirmation ends only when all that was reported is known to be chosen.
    ///
    /// Broken: takes a confirmation for finished while reported writes are not.
    FinishReported,
    /// A read is answered from a confirmation only if that reaches the session's time.
    ///
    /// Broken: answers a session from a confirmation that is older than what it has seen.
    ConfirmToSession,
    /// A strict read is answered only from a confirmation that began after the read arrived.
    ///
    /// Broken: answers a strict read from a confirmation that was there before it.
    ConfirmAfterArrival,
    /// After a confirmation has begun, our own writes happen at times above it.
    ///
    /// Broken: writes below its own confirmation, at a ballot that was promised before it.
    NewWritesAbove,
    /// A write for which an older promise is used is accepted at the ballot that was promised, not at its time.
    ///
    /// Broken: takes a later ballot than was promised.
    AcceptAsPromised,
    /// What was written by an older promise happened at its own, later time, not at the ballot it was accepted at.
    ///
    /// Broken: takes the ballot of what it shows for the time at which that happened.
    TimeOfState,
    /// The ballot that is promised for the next write lies above this write's time.
    ///
    /// Broken: writes at a time above the ballot that it has promised for the next write.
    NextAboveTime,
    /// A read waits for our own write of its register.
    ///
    /// Broken: answers a read beside its own write of the same register.
    WaitForOwnWrite,
    /// Only what is known to be chosen is shown without asking.
    ///
    /// Broken: shows what was accepted here and may never be chosen.
    AnswerChosen,
    /// A strict read of a session that has seen something newer takes its time from a confirmation.
    ///
    /// Broken: gives a strict read a time without confirming it.
    StrictInSession,
    /// The session's time is heeded.
    ///
    /// Broken: forgets what the session has seen.
    SessionTime,
    /// A value is over when a round has agreed on it, and not when some clock says so.
    ///
    /// Broken: hides a value whose time is up by the coordinator's own clock.
    AgreeOnEnd,
    /// A write with a fencing token that is lower than one seen is refused.
    ///
    /// Broken: lets a write through whose lock was granted to another since.
    KeepFence,
    /// While a change is pending, a decision needs a majority of both replica sets.
    ///
    /// Broken: decides by a majority of the new set alone while a change is pending.
    JointQuorum,
    /// A message of another arc epoch is not acted on.
    ///
    /// Broken: acts on what a coordinator with an older or newer view asks.
    RefuseOtherEpoch,
    /// A newcomer copies from replicas that have the change's epoch already, so that no write slips in behind the copy.
    ///
    /// Broken: copies from members that are still in the old epoch.
    CopyFromNewEpoch,
    /// A newcomer copies from a majority of the replicas in charge.
    ///
    /// Broken: copies an arc from a single replica.
    CopyFromMajority,
    /// A newcomer says that it holds an arc only when it has copied it.
    ///
    /// Broken: counts as a holder of an arc before it has copied it.
    CopyBeforeSwitch,
    /// A replica drops an arc only when the new set is in charge.
    ///
    /// Broken: drops an arc at the source when its change begins.
    ReleaseAfterSwitch,
    /// After a restart no view is acted on that is older than the last one.
    ///
    /// Broken: acts on an old view after a restart.
    KeepEpoch,
    /// Of two processes with one identity, the one that started earlier is not heeded.
    ///
    /// Broken: heeds two processes that have one identity.
    FenceTwins,
    /// While a change is pending, an arc is confirmed by a majority of both replica sets.
    ///
    /// Broken: confirms an arc by a majority of the old set alone while a change is pending.
    ConfirmJointly,
    /// What was confirmed in one arc epoch is forgotten in the next.
    ///
    /// Broken: keeps what was confirmed, and from where others report on, over a change of the arc.
    ConfirmationsEndWithEpoch,
    /// A floor that was promised in one arc epoch stands in the next.
    ///
    /// Broken: drops the promised floors when the arc changes.
    FloorsOutliveEpoch,
    /// A newcomer counts only when all that it holds is known to be chosen.
    ///
    /// Broken: counts what was copied as a vote, chosen or not.
    CopyConfirmed,
    /// What a damaged part of the log held is written again from memory before that part goes.
    ///
    /// Broken: gives up a damaged part of the log, and with it what only that part held.
    RewriteLost,
    /// A tombstone is dropped only when all replicas of its arc hold it, or nothing.
    ///
    /// Broken: drops a tombstone that only a majority holds.
    CollectFromAll,
    /// Before a tombstone is dropped, all replicas refuse everything up to a floor above it.
    ///
    /// Broken: drops a tombstone above every floor.
    FloorBeforeDrop,
    /// A tombstone's request memory is over when a round has agreed on that.
    ///
    /// Broken: drops a tombstone with what it remembers.
    AgreeOnLapse,
    /// A read that finds nothing happens after all that may have been there.
    ///
    /// Broken: gives a read of a dropped register the time before everything.
    AbsenceHasTime,
    /// A node that becomes a new replica of an arc gives up what it holds of it from an earlier membership.
    ///
    /// Broken: keeps what it holds of an arc that it left and comes to again.
    ClearBeforeCopy,
}

/// Which of the safety rules the core keeps.
///
/// It exists so that the checks can be checked: the simulator runs the same core with one rule broken and must find the
/// harm. Production code runs under [`Correct`], which is known when it is compiled, so that a broken rule is not even
/// present in it.
pub trait Rules: Copy + std::fmt::Debug + 'static {
    /// Whether `rule` is kept.
    fn keeps(self, rule: Rule) -> bool;
}

/// All rules kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Correct;

impl Rules for Correct {
    #[inline]
    fn keeps(self, _rule: Rule) -> bool {
        true
    }
}

/// All rules kept but this one, if any, for the checks that must notice. It is chosen at run time, so that a program
/// that plants many bugs holds the core once and not once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllBut(pub Option<Rule>);

impl Rules for AllBut {
    #[inline]
    fn keeps(self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}
