//! The protocol's decisions that a check must be able to get wrong on purpose. Each is a constant, correct by
//! default, so production code pays nothing; the planted variants prove that the invariants can fail.

use std::fmt;

/// Which protocol a member follows.
pub trait Rules: fmt::Debug + Clone {
    /// Ask a better successor itself before adopting it (Zave: stabilize from predecessor).
    const LIVENESS_ON_STABILIZE: bool = true;
    /// Ping the present predecessor when another member claims its place, and let the dead go (Zave: rectify).
    const LIVENESS_ON_RECTIFY: bool = true;
    /// Pull the successor's list before becoming a member (Zave: join).
    const PULL_BEFORE_JOIN: bool = true;
    /// Cut the list where it reaches oneself.
    const CUT_AT_SELF: bool = true;
    /// Take better successors also from seeds and from a neighbour's list, so that split and twisted rings heal.
    const HEAL_FROM_LISTS: bool = true;
    /// Look from time to time for whom each finger should lead to.
    const FIX_FINGERS: bool = true;
}

/// Zave's corrected protocol, with our healing.
#[derive(Clone, Debug)]
pub struct Correct;

impl Rules for Correct {}

/// Planted: the protocol of SIGCOMM 2001 with its successor list: nothing is asked before it is adopted, and a
/// predecessor is never doubted.
#[derive(Clone, Debug)]
pub struct Published2001;

impl Rules for Published2001 {
    const LIVENESS_ON_STABILIZE: bool = false;
    const LIVENESS_ON_RECTIFY: bool = false;
    const PULL_BEFORE_JOIN: bool = false;
    const HEAL_FROM_LISTS: bool = false;
}

/// Planted: a better successor is adopted unasked.
#[derive(Clone, Debug)]
pub struct NoLivenessOnStabilize;

impl Rules for NoLivenessOnStabilize {
    const LIVENESS_ON_STABILIZE: bool = false;
}

/// Planted: a predecessor is never doubted.
#[derive(Clone, Debug)]
pub struct NoLivenessOnRectify;

impl Rules for NoLivenessOnRectify {
    const LIVENESS_ON_RECTIFY: bool = false;
}

/// Planted: a newcomer is a member as soon as it knows one successor, which may be dead by then.
#[derive(Clone, Debug)]
pub struct NoPullOnJoin;

impl Rules for NoPullOnJoin {
    const PULL_BEFORE_JOIN: bool = false;
}

/// Planted: the paper's protocol alone. It is correct while failure detection is, and cannot mend what a wrong
/// suspicion splits: found in wild runs only.
#[derive(Clone, Debug)]
pub struct NoHealing;

impl Rules for NoHealing {
    const HEAL_FROM_LISTS: bool = false;
}

/// Planted: a short ring's lists run on past oneself.
#[derive(Clone, Debug)]
pub struct SelfInList;

impl Rules for SelfInList {
    const CUT_AT_SELF: bool = false;
}

/// Planted: fingers are never looked for. Lookups still end at the owner, by way of the lists alone.
#[derive(Clone, Debug)]
pub struct FingersNeverFixed;

impl Rules for FingersNeverFixed {
    const FIX_FINGERS: bool = false;
}
