use std::collections::BTreeMap;

use stdx::Instant;

use crate::request::Request;

/// The proposals of this replica that have not acted yet, as far as it knows.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    proposals: BTreeMap<u64, Proposal>,
}

#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) request: Request,
    pub(crate) until: Instant,
    /// To whom in which term it was given last, and when.
    pub(crate) given: Option<(u64, u64, Instant)>,
}

impl Pending {
    pub(crate) fn insert(&mut self, request: Request, until: Instant) {
        self.proposals.insert(request.number, Proposal { request, until, given: None });
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<Proposal> {
        self.proposals.remove(&number)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Proposal> {
        self.proposals.values_mut()
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.proposals.keys().copied()
    }

    /// The smallest number that is still pending.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.proposals.keys().next().copied()
    }

    /// When the first of them is given up. They are all as patient, so the oldest comes first.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.proposals.values().next().map(|proposal| proposal.until)
    }

    /// Those whose time is over.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<u64> {
        let over: Vec<u64> =
            self.proposals.iter().take_while(|(_, held)| held.until <= now).map(|(number, _)| *number).collect();
        for number in &over {
            self.proposals.remove(number);
        }
        over
    }
}
