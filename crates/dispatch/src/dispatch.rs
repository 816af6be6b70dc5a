//! One request's attempts: which replica is asked when, and when the request is over.
//!
//! A pure state machine: no clock, no socket, no task. The shell makes the calls that [`Output::Ask`] names, tells what
//! became of them, and calls again at [`Dispatch::next_timeout`]. Safety never depends on it: any replica may
//! coordinate, and a repeated write acts once by its request id. What it decides is only how soon an answer comes.
//!
//! The rules: the first live replica first; a surely unsent or politely refused attempt moves on at once and costs
//! nothing; a reset moves on at once; silence asks the next as well, after the hedge delay, with at most
//! [`WAITING_MAX`] asked at a time; then the replicas are gone through again, with a jittered pause, until the
//! deadline. Hedges, further goes and attempts after a refusal for want of room are paid from a budget that all
//! requests share (see [`RetryBudget`]); what cannot be paid is slowed down, and never given up before the deadline.
//!
//! Invariants: exactly one [`Output::Finish`], at or before the first input after the deadline; a write ends as
//! [`Verdict::Unknown`] only when an attempt may have been taken; never two unanswered attempts at one node.

use std::time::Duration;

use membership::NodeId;
use replication::{Outcome, Receipt, Refusal};
use stdx::{Instant, Prng};

use crate::answer::{Answer, Manner, Told};
use crate::budget::{RetryBudget, SLOW_RETRY};

/// Attempts that may be unanswered at one time.
pub const WAITING_MAX: usize = 3;
/// Failovers after a reset that each go has without paying: two dead replicas are survived by any request.
const FREE_FAILOVERS: u32 = 2;
/// Goes through the replicas that one request may pay for: a single request must not spend everybody's budget.
const PAID_GOES_MAX: u32 = 16;
/// The pause between two goes through the replicas is drawn between these, in milliseconds.
const BACKOFF_MS: std::ops::RangeInclusive<u64> = 20..=100;

/// What a request is given when it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The key's replica set in the order of the view, owner first; and behind it whoever else may take the operation.
    pub replicas: Vec<NodeId>,
    /// Those that are not worth asking first: not connected, or silent a moment ago. Asked last.
    pub doubtful: Vec<NodeId>,
    /// When the client must have its answer.
    pub deadline: Instant,
    /// How long a replica may be silent before the next is asked as well.
    pub hedge: Duration,
    /// Whether the operation can change anything.
    pub write: bool,
}

/// What became of an attempt that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was surely not sent: nothing can come of it.
    NotSent,
    /// The connection broke, or the node went away, after it may have been sent.
    Reset,
}

/// What the machine is told.
#[derive(Clone, Debug)]
pub enum Input<O = Outcome, R = Receipt> {
    /// The request begins. Told once, first.
    Started,
    /// An attempt failed.
    Failed {
        /// The attempt's number, from [`Output::Ask`].
        attempt: u32,
        /// How.
        failure: Failure,
    },
    /// An attempt was answered, be it by a refusal.
    Answered {
        /// The attempt's number.
        attempt: u32,
        /// The coordinator's answer.
        outcome: O,
        /// How it came about.
        receipt: R,
    },
    /// Time has passed.
    Tick,
}

/// What the machine wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<O = Outcome, R = Receipt, F = Refusal> {
    /// Ask a replica to coordinate.
    Ask {
        /// Whom.
        node: NodeId,
        /// The attempt's number, from 1.
        attempt: u32,
        /// Whether an earlier attempt may have been taken by somebody.
        retry: bool,
    },
    /// The request is over. What is still unanswered is of no interest any more.
    Finish(Verdict<O, R, F>),
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<O = Outcome, R = Receipt, F = Refusal> {
    /// A coordinator answered (never by a refusal, nor with an end that it does not know).
    Answered {
        /// Which attempt it was that was answered.
        attempt: u32,
        /// Who answered.
        node: NodeId,
        /// The answer.
        outcome: O,
        /// How it came about.
        receipt: R,
    },
    /// Surely not done, and why the last replica refused; `NoQuorum` also when none could be reached.
    NotDone(F),
    /// A write that may have been taken by somebody, and the deadline passed.
    Unknown,
    /// A read that was not answered before the deadline.
    Late,
}

/// What the machine wants when coordinators answer so.
type Answers<O> = Output<O, <O as Answer>::Receipt, <O as Answer>::Refusal>;

/// An attempt that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    attempt: u32,
    node: NodeId,
}

/// What happens at `wake`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// The newest attempt has been silent for the hedge delay: pay and ask the next.
    Hedge,
    /// What could not be paid has been waited for: ask the next without paying.
    Next,
    /// The pause between two goes is over. Until then nobody is asked, whatever fails meanwhile.
    Go,
}

/// One request's attempts. `O` is what coordinators answer.
#[derive(Debug)]
pub struct Dispatch<O: Answer = Outcome> {
    plan: Plan,
    prng: Prng,
    /// The replicas in the order in which this go asks them.
    order: Vec<NodeId>,
    /// The next one of `order`.
    next: usize,
    /// At most [`WAITING_MAX`].
    waiting: Vec<Waiting>,
    attempts: u32,
    free_failovers: u32,
    paid_goes: u32,
    /// Whether this go made some replica work, so that another go has its price.
    worked: bool,
    wake: Option<(Instant, Wake)>,
    /// An attempt that was sent was never answered: it may have been taken.
    maybe_taken: bool,
    /// The newest refusal.
    refusal: Option<O::Refusal>,
    /// Whether this go met anything but refusals for want of room.
    only_full: bool,
    /// Whoever is asked would refuse it so: asking again cannot help.
    hopeless: bool,
    finished: bool,
}

impl<O: Answer> Dispatch<O> {
    /// A request that has not started. `prng` draws the pauses.
    pub fn new(plan: Plan, prng: Prng) -> Dispatch<O> {
        let (doubtful, sound): (Vec<NodeId>, Vec<NodeId>) =
            plan.replicas.iter().partition(|node| plan.doubtful.contains(node));
        Dispatch {
            order: [sound, doubtful].concat(),
            plan,
            prng,
            next: 0,
            waiting: Vec::new(),
            attempts: 0,
            free_failovers: FREE_FAILOVERS,
            paid_goes: 0,
            worked: false,
            wake: None,
            maybe_taken: false,
            refusal: None,
            only_full: true,
            hopeless: false,
            finished: false,
        }
    }

    /// Takes one input, and says what to do about it. Inputs after the end change nothing.
    pub fn handle(
        &mut self,
        now: Instant,
        input: Input<O, O::Receipt>,
        budget: &mut RetryBudget,
        out: &mut Vec<Answers<O>>,
    ) {
        if self.finished {
            return;
        }
        match input {
            Input::Started => {
                budget.earn();
                self.ask_next(now, budget, out);
            }
            Input::Failed { attempt, failure } => {
                if self.take(attempt).is_some() {
                    self.only_full = false;
                    self.handle_failed(now, failure, budget, out);
                }
            }
            Input::Answered { attempt, outcome, receipt } => {
                if let Some(Waiting { node, .. }) = self.take(attempt) {
                    self.handle_answered(now, (attempt, node), outcome, receipt, budget, out);
                }
            }
            Input::Tick => self.handle_wake(now, budget, out),
        }
        if !self.finished && now >= self.plan.deadline {
            self.finish(self.verdict_without_answer(), out);
        }
        assert!(self.waiting.len() <= WAITING_MAX, "more attempts are unanswered than may be");
    }

    /// When to call again with [`Input::Tick`] at the latest; none once it is finished.
    pub fn next_timeout(&self) -> Option<Instant> {
        let wake = self.wake.map_or(self.plan.deadline, |(at, _)| at.min(self.plan.deadline));
        (!self.finished).then_some(wake)
    }

    /// How many attempts were made so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The nodes that were asked and have not answered: doubtful, when another answered first.
    pub fn silent(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.waiting.iter().map(|waiting| waiting.node)
    }

    fn handle_failed(&mut self, now: Instant, failure: Failure, budget: &mut RetryBudget, out: &mut Vec<Answers<O>>) {
        match failure {
            Failure::NotSent => self.ask_next(now, budget, out),
            Failure::Reset => {
                self.maybe_taken = true;
                self.fail_over(now, budget, out);
            }
        }
    }

    fn handle_answered(
        &mut self,
        now: Instant,
        (attempt, node): (u32, NodeId),
        outcome: O,
        receipt: O::Receipt,
        budget: &mut RetryBudget,
        out: &mut Vec<Answers<O>>,
    ) {
        let (refusal, manner) = match outcome.told() {
            Told::Refused(refusal, manner) => (refusal, manner),
            Told::Unknown => {
                // Its coordinator gave up half-way. Asking another settles it: the request id makes that harmless.
                self.only_full = false;
                self.maybe_taken = true;
                return self.fail_over(now, budget, out);
            }
            Told::Answer => return self.finish(Verdict::Answered { attempt, node, outcome, receipt }, out),
        };
        self.only_full &= matches!(manner, Manner::Busy { full: true });
        self.refusal = Some(refusal);
        match manner {
            // Polite: the node did no work, and says that another one will.
            Manner::Elsewhere => self.ask_next(now, budget, out),
            Manner::Busy { .. } => {
                self.worked = true;
                self.pay_and_ask(now, budget, out);
            }
            Manner::Hopeless => {
                self.hopeless = true;
                self.wake = None;
                if self.waiting.is_empty() {
                    self.finish(self.verdict_without_answer(), out);
                }
            }
        }
    }

    fn handle_wake(&mut self, now: Instant, budget: &mut RetryBudget, out: &mut Vec<Answers<O>>) {
        let Some((at, wake)) = self.wake else { return };
        if now < at || now >= self.plan.deadline {
            return;
        }
        self.wake = None;
        match wake {
            Wake::Hedge => self.pay_and_ask(now, budget, out),
            Wake::Next => self.ask_next(now, budget, out),
            Wake::Go => {
                self.next = 0;
                self.order.clone_from(&self.plan.replicas);
                self.only_full = true;
                self.worked = false;
                self.free_failovers = FREE_FAILOVERS;
                self.ask_next(now, budget, out);
            }
        }
    }

    /// A failover after a reset: free at first, paid later.
    fn fail_over(&mut self, now: Instant, budget: &mut RetryBudget, out: &mut Vec<Answers<O>>) {
        self.worked = true;
        if self.free_failovers > 0 {
            self.free_failovers -= 1;
            self.ask_next(now, budget, out);
        } else {
            self.pay_and_ask(now, budget, out);
        }
    }

    /// Asks the next replica now if the budget has room, else after [`SLOW_RETRY`].
    fn pay_and_ask(&mut self, now: Instant, budget: &mut RetryBudget, out: &mut Vec<Answers<O>>) {
        let rest = self.order.get(self.next..).unwrap_or_default();
        let somebody_left = rest.iter().any(|node| self.waiting.iter().all(|waiting| waiting.node != *node));
        if self.pausing(now) || !somebody_left || budget.spend() {
            self.ask_next(now, budget, out);
        } else {
            self.wake = Some((now + SLOW_RETRY, Wake::Next));
        }
    }

    /// Asks the next replica that is not being waited for; past the last one, pauses before the next go.
    fn ask_next(&mut self, now: Instant, budget: &mut RetryBudget, out: &mut Vec<Answers<O>>) {
        if self.hopeless && self.waiting.is_empty() {
            return self.finish(self.verdict_without_answer(), out);
        }
        let full = self.waiting.len() == WAITING_MAX;
        if self.hopeless || full || self.pausing(now) || now >= self.plan.deadline {
            return;
        }
        while let Some(&node) = self.order.get(self.next) {
            self.next += 1;
            if self.waiting.iter().any(|waiting| waiting.node == node) {
                continue;
            }
            self.attempts += 1;
            let retry = self.maybe_taken || !self.waiting.is_empty();
            self.waiting.push(Waiting { attempt: self.attempts, node });
            self.wake = Some((now + self.plan.hedge, Wake::Hedge));
            out.push(Output::Ask { node, attempt: self.attempts, retry });
            return;
        }
        self.end_of_go(now, budget, out);
    }

    /// Whether the pause between two goes is not over yet.
    fn pausing(&self, now: Instant) -> bool {
        matches!(self.wake, Some((at, Wake::Go)) if now < at)
    }

    /// All replicas were gone through once more.
    fn end_of_go(&mut self, now: Instant, budget: &mut RetryBudget, out: &mut Vec<Answers<O>>) {
        let everyone_is_full = self.only_full && self.waiting.is_empty() && self.refusal.is_some();
        if everyone_is_full && !self.maybe_taken {
            // Overload is shed early: the client hears at once that it should come back later.
            return self.finish(self.verdict_without_answer(), out);
        }
        if self.waiting.len() >= self.plan.replicas.len() && !self.plan.replicas.is_empty() {
            // Everyone is being waited for: only an answer, a failure or the deadline can change that.
            self.wake = None;
            return;
        }
        let spread = BACKOFF_MS.end() - BACKOFF_MS.start() + 1;
        let pause = Duration::from_millis(BACKOFF_MS.start() + self.prng.below(spread));
        // Who was surely not asked was not burdened: trying again to reach dead nodes is free.
        let free = !self.worked && self.waiting.is_empty();
        let paid = !free && self.paid_goes < PAID_GOES_MAX && budget.spend();
        self.paid_goes += u32::from(paid);
        let slow = if free || paid { Duration::ZERO } else { SLOW_RETRY };
        self.wake = Some((now + pause + slow, Wake::Go));
    }

    fn take(&mut self, attempt: u32) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.attempt == attempt)?;
        Some(self.waiting.remove(at))
    }

    fn verdict_without_answer(&self) -> Verdict<O, O::Receipt, O::Refusal> {
        let maybe_taken = self.maybe_taken || !self.waiting.is_empty();
        match (self.plan.write, maybe_taken) {
            (true, true) => Verdict::Unknown,
            (false, true) => Verdict::Late,
            (_, false) => Verdict::NotDone(self.refusal.unwrap_or(O::NOBODY)),
        }
    }

    fn finish(&mut self, verdict: Verdict<O, O::Receipt, O::Refusal>, out: &mut Vec<Answers<O>>) {
        self.finished = true;
        self.wake = None;
        out.push(Output::Finish(verdict));
    }
}

#[cfg(test)]
#[path = "dispatch/dispatch_test.rs"]
mod tests;
