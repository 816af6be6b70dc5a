//! One round of a coordinator: a quorum asked for a promise, a vote or a report on one register.

use std::collections::BTreeMap;

use membership::{Epoch, NodeId, ReplicaSets};
use stdx::{Instant, TraceContext};

use crate::io::Ticket;
use crate::message::State;
use crate::rules::{Rule, Rules};
use crate::types::{Ballot, Operation, Outcome, RegisterKey};

/// An operation that waits for its answer.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Waiting {
    /// Whom to answer; none for the replica's own repairs.
    pub ticket: Option<Ticket>,
    /// What was asked.
    pub operation: Operation,
    /// When it must have been answered.
    pub deadline: Instant,
    /// The shell's wall clock when it arrived.
    pub wall_ms: u64,
    /// Its trace.
    pub context: TraceContext,
    /// Whether a state that contains it was ever sent to an acceptor: from then on it may take effect.
    pub proposed: bool,
    /// The time of its session: it must happen at a later one.
    pub since: Ballot,
    /// Whether a read may be answered from what is confirmed; else it is strict.
    pub sequential: bool,
}

impl Waiting {
    /// An operation of the replica's own, for which nobody waits.
    pub fn internal(key: &RegisterKey) -> Waiting {
        let operation = Operation::Read { key: key.clone() };
        let (ticket, deadline, context) = (None, Instant::ZERO, TraceContext::NONE);
        let (since, sequential) = (Ballot::ZERO, false);
        Waiting { ticket, operation, deadline, wall_ms: 0, context, proposed: false, since, sequential }
    }
}

/// Where a round stands.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Phase {
    /// Asking for promises.
    Preparing {
        /// The ballot.
        ballot: Ballot,
        /// The highest accepted state among the promises.
        best: (Ballot, State),
    },
    /// Asking for votes.
    Accepting {
        /// The ballot.
        ballot: Ballot,
        /// What is proposed.
        state: State,
        /// The ballot that those who accept promise too; zero for none.
        next: Ballot,
        /// What each waiting operation is answered once the state is chosen; in the order of `waiting`.
        outcomes: Vec<Outcome>,
    },
    /// Asking what is accepted.
    Querying {
        /// The reports, our own among them.
        reports: BTreeMap<NodeId, (Ballot, Option<State>)>,
    },
    /// Refused; waits before it prepares again.
    BackingOff,
}

/// A round in progress.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Round {
    /// The register.
    pub key: RegisterKey,
    /// Whose votes decide.
    pub sets: ReplicaSets,
    /// The arc epoch that it belongs to; in the next one it starts again.
    pub epoch: Epoch,
    /// Who waits for it.
    pub waiting: Vec<Waiting>,
    /// Where it stands.
    pub phase: Phase,
    /// The counter of the last ballot at which it proposed a state; 0 for none.
    pub proposed: u64,
    /// Replicas that said yes, in the order in which they did.
    pub votes: Vec<NodeId>,
    /// Replicas that said no.
    pub refusals: Vec<NodeId>,
    /// Whether a refusal was for a full disk.
    pub disk_full: bool,
    /// Phases begun so far for these operations; for the receipt and for backing off.
    pub rounds: u32,
    /// When to ask again those who have not answered.
    pub resend_at: Instant,
    /// How often it was asked again.
    pub resends: u32,
    /// The trace of whoever caused it.
    pub context: TraceContext,
}

impl Round {
    /// A round for these operations that has not asked anyone yet.
    pub fn new(key: RegisterKey, (sets, epoch): (ReplicaSets, Epoch), waiting: Vec<Waiting>, rounds: u32) -> Round {
        let context = waiting.first().map_or(TraceContext::NONE, |first| first.context);
        Round {
            key,
            sets,
            epoch,
            waiting,
            phase: Phase::BackingOff,
            proposed: 0,
            votes: Vec::new(),
            refusals: Vec::new(),
            disk_full: false,
            rounds,
            resend_at: Instant::ZERO,
            resends: 0,
            context,
        }
    }

    /// Begins a phase: nobody has answered it yet.
    pub fn enter(&mut self, phase: Phase, resend_at: Instant) {
        self.phase = phase;
        self.votes.clear();
        self.refusals.clear();
        self.disk_full = false;
        self.resends = 0;
        self.resend_at = resend_at;
        if !matches!(self.phase, Phase::BackingOff) {
            self.rounds += 1;
        }
    }

    /// Takes those who wait no longer out of the round, and tells how many there were.
    pub fn drop_where(&mut self, gone: impl Fn(&Waiting) -> bool) -> usize {
        let stays: Vec<bool> = self.waiting.iter().map(|waiting| !gone(waiting)).collect();
        if let Phase::Accepting { outcomes, .. } = &mut self.phase {
            let mut flags = stays.iter().copied();
            outcomes.retain(|_| flags.next().unwrap_or(true));
        }
        let mut flags = stays.iter().copied();
        self.waiting.retain(|_| flags.next().unwrap_or(true));
        stays.iter().filter(|stay| !**stay).count()
    }

    /// Whether the replicas that said yes decide.
    pub fn is_decided(&self, rules: impl Rules) -> bool {
        is_quorum(rules, &self.sets, |node| self.votes.contains(&node))
    }

    /// Whether it can still be decided although the nodes for which `hopeless` holds will not say yes.
    pub fn may_be_decided(&self, rules: impl Rules, hopeless: impl Fn(NodeId) -> bool) -> bool {
        is_quorum(rules, &self.sets, |node| !hopeless(node))
    }

    /// Whether everybody has answered this phase.
    pub fn has_all_answers(&self) -> bool {
        self.sets.iter().all(|node| self.has_answered(node))
    }

    /// Whether `node` has answered this phase.
    pub fn has_answered(&self, node: NodeId) -> bool {
        let reported = matches!(&self.phase, Phase::Querying { reports } if reports.contains_key(&node));
        reported || self.votes.contains(&node) || self.refusals.contains(&node)
    }
}

/// Whether the nodes for which `says_yes` holds decide.
pub(crate) fn is_quorum(rules: impl Rules, sets: &ReplicaSets, says_yes: impl Fn(NodeId) -> bool) -> bool {
    match &sets.next {
        Some(next) if !rules.keeps(Rule::JointQuorum) => {
            next.iter().filter(|node| says_yes(**node)).count() * 2 > next.len()
        }
        _ => sets.is_quorum(says_yes),
    }
}
