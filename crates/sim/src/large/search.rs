//! Lookups while the ring changes: the router's own walk, hop by hop, over links that take time.

use chord::Peer;
use chord::walk::{Ask, Step, Walk};
use membership::{NodeId, Position};

use super::{Crowd, Happening};

/// How long an asker waits for a member that does not answer, in milliseconds; as the router does.
const SILENCE_MS: u64 = 250;
/// The pause before a lookup that failed is tried again, in milliseconds.
const AGAIN_MS: u64 = 250;
/// After this time a lookup has failed, in milliseconds: what a client waits.
const DEADLINE_MS: u64 = 5_000;
/// Members that a walk may begin at besides the asker.
const OTHERS: usize = 4;

/// A lookup under way.
pub(crate) struct Search {
    asker: NodeId,
    target: Position,
    began_ms: u64,
    walk: Walk,
    /// Whom the next event is about; none between two walks.
    asked: Option<Ask>,
    hops: u32,
}

/// How a lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It goes on.
    Not,
    /// At the owner.
    Right { hops: u32, took_ms: u64 },
    /// At somebody else.
    Wrong,
    /// Nowhere, within the deadline.
    Failed,
}

impl Crowd {
    /// A lookup of a random position by a random member; its first event is scheduled under `id`.
    pub(crate) fn begin_search(&mut self, id: u32) -> Option<Search> {
        let asker = self.anybody()?.node;
        let target = Position(self.prng.next_u64());
        let walk = self.walk_from(asker);
        let mut search = Search { asker, target, began_ms: self.now_ms, walk, asked: None, hops: 0 };
        let step = search.walk.begin();
        self.follow(id, &mut search, step, 0);
        Some(search)
    }

    fn walk_from(&mut self, asker: NodeId) -> Walk {
        let others = (0..OTHERS).filter_map(|_| self.anybody()).map(|peer| peer.node);
        Walk::new(std::iter::once(asker).chain(others).collect()).confirming()
    }

    /// The question has reached the member asked, or its silence has lasted long enough.
    pub(crate) fn search(&mut self, id: u32, search: &mut Search) -> End {
        let Some(asked) = search.asked else {
            search.walk = self.walk_from(search.asker);
            search.hops = 0;
            let step = search.walk.begin();
            return self.follow(id, search, step, 0);
        };
        let answer =
            self.member(asked.node).filter(|chord| chord.is_member()).map(|chord| chord.next_hop(search.target));
        let Some(hop) = answer else {
            let step = search.walk.failed(asked);
            return self.follow(id, search, step, 0);
        };
        let back = if asked.node == search.asker { 0 } else { self.way_ms() };
        match search.walk.answered(asked, Some(hop)) {
            // Its own word, at the moment at which it gave it.
            Step::Found(owner) => self.judge(search, owner, back),
            step => self.follow(id, search, step, back),
        }
    }

    fn judge(&self, search: &Search, owner: Peer, back: u64) -> End {
        let right = self.owner_after(search.target).is_some_and(|index| index == super::index_of(owner.node));
        match right {
            true => End::Right { hops: search.hops, took_ms: self.now_ms + back - search.began_ms },
            false => End::Wrong,
        }
    }

    fn follow(&mut self, id: u32, search: &mut Search, step: Step, back: u64) -> End {
        if self.now_ms.saturating_sub(search.began_ms) >= DEADLINE_MS {
            return End::Failed;
        }
        match step {
            Step::Ask(ask) => {
                search.asked = Some(ask);
                let own = ask.node == search.asker;
                search.hops += u32::from(!own);
                let there = if own { 0 } else { self.way_ms() };
                let dead = self.member(ask.node).is_none_or(|chord| !chord.is_member());
                let wait = if dead && !own { SILENCE_MS } else { back + there };
                self.agenda.push(self.now_ms + wait, Happening::Search(id));
            }
            Step::GiveUp | Step::Found(_) => {
                search.asked = None;
                self.agenda.push(self.now_ms + back + AGAIN_MS, Happening::Search(id));
            }
        }
        End::Not
    }
}
