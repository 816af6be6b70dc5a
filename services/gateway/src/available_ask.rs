//! An operation on an available key, as its attempts need it.

use std::time::Duration;

use available::{Action, Level, Operation, Outcome, Refusal};
use membership::NodeId;
use replication::RegisterKey;
use stdx::TraceContext;
use wire::http::Durability;

use crate::ask::Question;
use crate::nodes::{Calling, Nodes};

/// An operation with what its attempts have learnt.
#[derive(Clone, Debug)]
pub struct AvailableQuestion {
    /// Where the bucket's keys are kept.
    pub durability: Durability,
    /// What is asked.
    pub operation: Operation,
    /// A write that is there already is later than ours, with this order.
    behind: Option<u64>,
}

impl AvailableQuestion {
    /// Nothing is learnt yet.
    pub fn new(durability: Durability, operation: Operation) -> AvailableQuestion {
        AvailableQuestion { durability, operation, behind: None }
    }

    /// A write that is behind another one becomes a later one still, as long as it was surely made nowhere. Else it is
    /// made as it is: attempts of one write must not differ in their order (decision 0064).
    fn step_forward(&mut self, retry: bool) {
        let Some(behind) = self.behind.take() else { return };
        let Action::Write(write) = &mut self.operation.action else { return };
        if retry {
            write.firm = true;
        } else {
            write.order = write.order.max(behind.saturating_add(1));
        }
    }
}

impl Question for AvailableQuestion {
    type Outcome = Outcome;

    fn key(&self) -> &RegisterKey {
        &self.operation.key
    }

    fn is_write(&self) -> bool {
        matches!(self.operation.action, Action::Write(_))
    }

    fn takes_stand_ins(&self) -> bool {
        self.is_write() && self.operation.level == Level::Eventual && self.operation.stand_in
    }

    fn call(
        &mut self,
        nodes: &dyn Nodes,
        node: NodeId,
        retry: bool,
        budget: Duration,
        context: TraceContext,
    ) -> Calling<Outcome> {
        self.step_forward(retry);
        nodes.call_available(node, (self.durability, self.operation.clone()), budget, context)
    }

    fn learn(&mut self, outcome: &Outcome) {
        if let Outcome::Refused(Refusal::Behind(order)) = outcome {
            self.behind = self.behind.max(Some(*order));
        }
    }

    fn refusal_word(outcome: &Outcome) -> Option<&'static str> {
        let Outcome::Refused(refusal) = outcome else { return None };
        Some(match refusal {
            Refusal::NotReplica(_) => "not-replica",
            Refusal::NoQuorum => "no-quorum",
            Refusal::Overloaded => "overloaded",
            Refusal::DiskFull => "disk-full",
            Refusal::Draining => "draining",
            Refusal::Refilling => "refilling",
            Refusal::TooOld => "too-old",
            Refusal::TooManySiblings => "too-many-siblings",
            Refusal::TooLarge => "too-large",
            Refusal::OtherKind(_) => "other-kind",
            Refusal::Behind(_) => "behind",
        })
    }
}

#[cfg(test)]
mod tests {
    use available::{Change, Kind, Past, Write};
    use bytes::Bytes;
    use membership::{BucketId, Position};
    use replication::RequestId;

    use super::*;

    fn write(order: u64) -> AvailableQuestion {
        let key = RegisterKey { position: Position(1), bucket: BucketId(2), key: Bytes::from_static(b"k") };
        let write = Write {
            key: key.clone(),
            kind: Kind::LastWriter,
            request: RequestId(1),
            first_sent_ms: 1,
            context: None,
            order,
            firm: false,
            change: Change::Delete,
        };
        let action = Action::Write(write);
        let operation = Operation { key, level: Level::Causal, past: Past::default(), stand_in: false, action };
        AvailableQuestion::new(Durability::Disk, operation)
    }

    fn order_of(question: &AvailableQuestion) -> (u64, bool) {
        match &question.operation.action {
            Action::Write(write) => (write.order, write.firm),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_write_that_is_behind_becomes_later_while_it_was_made_nowhere() {
        let mut question = write(3);
        question.learn(&Outcome::Refused(Refusal::Behind(9)));
        question.step_forward(false);
        assert_eq!(order_of(&question), (10, false));
    }

    #[test]
    fn a_write_that_may_have_been_made_keeps_its_order() {
        let mut question = write(3);
        question.learn(&Outcome::Refused(Refusal::Behind(9)));
        question.step_forward(true);
        assert_eq!(order_of(&question), (3, true));
        question.step_forward(false);
        assert_eq!(order_of(&question), (3, true), "what was learnt is used once");
    }

    #[test]
    fn only_eventual_writes_are_taken_by_stand_ins() {
        let mut question = write(1);
        question.operation.stand_in = true;
        assert!(!question.takes_stand_ins(), "a causal one needs a majority of the homes");
        question.operation.level = Level::Eventual;
        assert!(question.takes_stand_ins());
        question.operation.action = Action::Read { kind: Kind::Value };
        assert!(!question.takes_stand_ins());
    }
}
