//! Changes of membership: pure steps from one view to the next, each checked before it is taken.
//!
//! A change is *joint*: from its begin until its end the arcs that it touches have two replica sets, and a decision
//! needs a majority of both. It ends when every node that is new to an arc holds what a majority of the old set held.
//! Until then it can be abandoned, since the old set holds everything too. Changes that touch different arcs go on side
//! by side.
//!
//! Each step gives every arc whose sets or ends it alters the new view's epoch, and leaves all others alone. So an
//! arc's epoch names its replica sets and which keys it is about, and a change is noticed only where it matters.

use std::collections::{BTreeMap, BTreeSet};

use crate::balance::tokens_after_leave;
use crate::ring::{Placement, ReplicaSets, is_majority};
use crate::view::{Member, View};
use crate::{Epoch, NodeId, Position, Ring};

/// A change of membership under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its name: the epoch of the view in which it began.
    pub id: Epoch,
    /// What changes.
    pub change: Change,
    /// Nodes that have said that they hold all that this change makes them a replica of.
    pub copied: BTreeSet<NodeId>,
}

/// What changes in the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A member with tokens of its own enters.
    Join {
        /// Who.
        node: NodeId,
    },
    /// Members leave; their tokens go with them, and others' move so that the load stays even.
    Leave {
        /// Who.
        nodes: BTreeSet<NodeId>,
        /// Those of them who are given up with what only they hold: nobody waits for their votes.
        lost: BTreeSet<NodeId>,
        /// All tokens that a member who stays holds afterwards; those alone who hold others than before are named.
        moves: BTreeMap<NodeId, Vec<Position>>,
    },
    /// A new identity takes the tokens of one whose data is lost.
    Replace {
        /// Whose data is lost.
        gone: NodeId,
        /// Who takes its place.
        by: NodeId,
    },
}

/// Why a view cannot be changed so. The view is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no ring yet.
    #[error("the ring is still forming; wait until its first members have entered")]
    NotFormed,
    /// The identity belongs already.
    #[error("{0} is a member already")]
    AlreadyMember(String),
    /// Another member is called so.
    #[error("the ring has a member called {0} already; start the new node under a name of its own")]
    NameTaken(String),
    /// A token is held by another member: somebody else joined at the same moment. Choose anew.
    #[error("the token {0} is taken")]
    TokenTaken(Position),
    /// A newcomer without tokens, or a removal of nobody.
    #[error("the change names nobody, or a member without a token")]
    Nothing,
    /// The member is not there.
    #[error("the ring has no member {0}; `everring ring` lists them")]
    NoSuchMember(String),
    /// Too few would be left.
    #[error(
        "{left} members would be left, which cannot hold {replication} copies on distinct nodes; add a node first \
         (`everring ring add`)"
    )]
    TooFewLeft {
        /// How many would be left.
        left: usize,
        /// How many are needed.
        replication: usize,
    },
    /// Some arcs of the change are being changed already.
    #[error(
        "change {with} ({what}) is still moving some of the same arcs; wait until it is complete, or give it up with \
         `everring ring abandon {with}`"
    )]
    Overlaps {
        /// The change under way.
        with: Epoch,
        /// What it does.
        what: String,
    },
    /// Some arcs of the change have no majority that can be copied from, so that it could not end.
    #[error(
        "{arcs} arcs ({share} of all keys) have no majority of replicas that can be reached ({away} cannot); their \
         data could not be copied. Bring these nodes back first; if their data is lost for good, remove them with \
         --force, which gives up what only they held",
        share = percent(*share_ppm),
        away = away.join(", ")
    )]
    NoMajority {
        /// How many arcs.
        arcs: usize,
        /// Their share of the circle, in parts of a million.
        share_ppm: u32,
        /// The names of their replicas in charge that cannot be reached.
        away: Vec<String>,
    },
    /// Nodes that the change makes replicas cannot be reached, so that it could not end.
    #[error(
        "{away} would have to copy what the change moves, and cannot be reached; bring these nodes back first, or \
         remove them in the same call",
        away = away.join(", ")
    )]
    AwaitsAbsent {
        /// Their names.
        away: Vec<String>,
    },
    /// No change under way has this number.
    #[error("no change {0} is under way; it may be complete by now")]
    NoSuchChange(Epoch),
    /// The node has nothing to copy for this change.
    #[error("change {id} does not wait for {node}")]
    NotAwaited {
        /// The change.
        id: Epoch,
        /// The node.
        node: NodeId,
    },
}

/// What the removal of members would cost an arc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArcLoss {
    /// The token at the arc's end.
    pub high: Position,
    /// Its share of the circle, in parts of a million.
    pub share_ppm: u32,
    /// Replicas in charge that can be reached.
    pub reachable: Vec<NodeId>,
    /// Replicas in charge that cannot.
    pub unreachable: Vec<NodeId>,
}

impl View {
    /// The view in which `newcomer` is joining.
    ///
    /// # Errors
    /// The newcomer cannot join, or not now.
    pub fn begin_join(&self, newcomer: Member) -> Result<View, ChangeError> {
        self.check_newcomer(&newcomer)?;
        if self.members.iter().any(|member| member.name == newcomer.name) {
            return Err(ChangeError::NameTaken(newcomer.name));
        }
        let mut taken = self.members.iter().flat_map(|member| &member.tokens).chain(self.tokens_to_come());
        if let Some(token) = taken.find(|token| newcomer.tokens.contains(token)) {
            return Err(ChangeError::TokenTaken(*token));
        }
        let change = Change::Join { node: newcomer.id };
        self.begin(change, Some(newcomer))
    }

    /// The view in which the identity `newcomer` is taking the place of `gone`, whose data is lost: its tokens, and its
    /// name.
    ///
    /// # Errors
    /// The newcomer cannot take it, or not now.
    pub fn begin_replace(&self, gone: NodeId, newcomer: Member) -> Result<View, ChangeError> {
        let Some(member) = self.member(gone) else { return Err(ChangeError::NoSuchMember(gone.to_string())) };
        let newcomer = Member { tokens: member.tokens.clone(), ..newcomer };
        self.check_newcomer(&newcomer)?;
        if self.members.iter().any(|member| member.name == newcomer.name && member.id != gone) {
            return Err(ChangeError::NameTaken(newcomer.name));
        }
        if let Some(pending) = self.pending_of(gone) {
            return Err(self.overlaps(pending));
        }
        self.begin(Change::Replace { gone, by: newcomer.id }, Some(newcomer))
    }

    /// The view in which `nodes` are leaving. If they are `lost`, what only they held is given up.
    ///
    /// What they owned is shared out evenly: tokens of others move up into it, see [`tokens_after_leave`].
    ///
    /// # Errors
    /// They cannot leave, or not now.
    pub fn begin_leave(&self, nodes: BTreeSet<NodeId>, lost: bool) -> Result<View, ChangeError> {
        self.check_leavers(&nodes)?;
        let moves = self.moves_of_leave(&nodes);
        self.begin_leave_checked(nodes, lost, moves)
    }

    /// The same, with the tokens that members who stay shall hold afterwards; without any, those who hold the next
    /// tokens inherit.
    ///
    /// # Errors
    /// They cannot leave, or not now.
    pub fn begin_leave_moving(
        &self,
        nodes: BTreeSet<NodeId>,
        lost: bool,
        moves: BTreeMap<NodeId, Vec<Position>>,
    ) -> Result<View, ChangeError> {
        self.check_leavers(&nodes)?;
        self.begin_leave_checked(nodes, lost, moves)
    }

    fn begin_leave_checked(
        &self,
        nodes: BTreeSet<NodeId>,
        lost: bool,
        moves: BTreeMap<NodeId, Vec<Position>>,
    ) -> Result<View, ChangeError> {
        let lost = if lost { nodes.clone() } else { BTreeSet::new() };
        self.begin_leave_giving_up(nodes, lost, moves)
    }

    pub(crate) fn begin_leave_giving_up(
        &self,
        nodes: BTreeSet<NodeId>,
        lost: BTreeSet<NodeId>,
        moves: BTreeMap<NodeId, Vec<Position>>,
    ) -> Result<View, ChangeError> {
        if let Some(pending) = moves.keys().find_map(|node| self.pending_of(*node)) {
            return Err(self.overlaps(pending));
        }
        self.begin(Change::Leave { nodes, lost, moves }, None)
    }

    pub(crate) fn check_leavers(&self, nodes: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        if nodes.is_empty() {
            return Err(ChangeError::Nothing);
        }
        for node in nodes {
            if self.member(*node).is_none() {
                return Err(ChangeError::NoSuchMember(node.to_string()));
            }
            if let Some(pending) = self.pending_of(*node) {
                return Err(self.overlaps(pending));
            }
        }
        // Whoever is joining may yet be abandoned, so it does not count.
        let stays = |member: &&Member| self.counts(member.id, &|_| false) && !self.is_leaving(member.id);
        let left = self.members.iter().filter(stays).filter(|member| !nodes.contains(&member.id)).count();
        if left < self.replication {
            return Err(ChangeError::TooFewLeft { left, replication: self.replication });
        }
        Ok(())
    }

    /// Whose tokens are others, and which, once `leavers` are gone.
    pub(crate) fn moves_of_leave(&self, leavers: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Vec<Position>> {
        // What is under way is taken for done.
        let staying = self.members.iter().filter(|member| !self.is_leaving(member.id));
        let mut members: Vec<Member> = staying.cloned().collect();
        members.iter_mut().for_each(|member| member.tokens = self.tokens_then(member).to_vec());
        let before = members.clone();
        for leaver in leavers {
            let after = tokens_after_leave(&members, self.replication, *leaver);
            members.retain(|member| member.id != *leaver);
            for (member, (_, tokens)) in members.iter_mut().zip(after) {
                member.tokens = tokens;
            }
        }
        let was =
            |member: &Member| before.iter().find(|other| other.id == member.id).map(|other| sorted(&other.tokens));
        let others = members.into_iter().filter(|member| was(member) != Some(sorted(&member.tokens)));
        others.map(|member| (member.id, member.tokens)).collect()
    }

    /// The view in which `node` is known to hold all that change `id` makes it a replica of. With the last awaited node
    /// the change is complete.
    ///
    /// # Errors
    /// There is no such change, or it does not wait for the node.
    pub fn note_copied(&self, id: Epoch, node: NodeId) -> Result<View, ChangeError> {
        if !self.awaited(id)?.contains(&node) {
            return Err(ChangeError::NotAwaited { id, node });
        }
        if self.pending_change(id)?.copied.contains(&node) {
            // Said twice: nothing changes.
            return Ok(self.clone());
        }
        let mut next = self.clone();
        next.epoch = Epoch(self.epoch.0 + 1);
        for pending in next.pending.iter_mut().filter(|pending| pending.id == id) {
            pending.copied.insert(node);
        }
        next.complete_if_copied(id)
    }

    /// The view in which change `id` was never made: its newcomers are out, its leavers stay.
    ///
    /// Nothing is lost by it: whatever was decided meanwhile, a majority of the set in charge decided it too.
    ///
    /// # Errors
    /// There is no such change.
    pub fn abandon(&self, id: Epoch) -> Result<View, ChangeError> {
        let pending = self.pending_change(id)?.clone();
        let mut next = self.clone();
        next.epoch = Epoch(self.epoch.0 + 1);
        next.pending.retain(|other| other.id != id);
        match pending.change {
            Change::Join { node } | Change::Replace { by: node, .. } => next.remove(node),
            Change::Leave { .. } => {}
        }
        next.settle_epochs(&self.ring());
        Ok(next)
    }

    /// The nodes that must copy data before change `id` is complete; those that have said so included.
    ///
    /// # Errors
    /// There is no such change.
    pub fn awaited(&self, id: Epoch) -> Result<BTreeSet<NodeId>, ChangeError> {
        self.pending_change(id)?;
        let ring = self.ring();
        let arcs = self.arcs_of_change(id, &ring);
        Ok(newcomers(&arcs))
    }

    /// The arcs of `ring`, which is this view's, that change `id` moves.
    pub fn arcs_of_change<'a>(&self, id: Epoch, ring: &'a Ring) -> Vec<&'a crate::Arc> {
        let (base, alone) = (Placement::of(self, |_| false), Placement::of(self, |made| made == id));
        let moved = |high| base.replicas_at(high) != alone.replicas_at(high);
        ring.arcs().iter().filter(|arc| arc.next.is_some() && moved(arc.high)).collect()
    }

    /// The nodes that copy for a change under way, by what the view tells. `ring` is this view's.
    pub fn copiers(&self, ring: &Ring) -> BTreeSet<NodeId> {
        let of = |pending: &Pending| {
            let newcomers = newcomers(&self.arcs_of_change(pending.id, ring));
            newcomers.difference(&pending.copied).copied().collect::<Vec<NodeId>>()
        };
        self.pending.iter().flat_map(of).collect()
    }

    /// The change by which `node` joins, leaves, is replaced or gets other tokens.
    pub fn pending_of(&self, node: NodeId) -> Option<&Pending> {
        self.pending.iter().find(|pending| pending.change.concerns(node))
    }

    /// Whether `node` is a member that is on its way out.
    pub fn is_leaving(&self, node: NodeId) -> bool {
        self.pending.iter().any(|pending| match &pending.change {
            Change::Leave { nodes, .. } => nodes.contains(&node),
            Change::Replace { gone, .. } => *gone == node,
            Change::Join { .. } => false,
        })
    }

    /// Whether `node` is on its way in.
    pub fn is_joining(&self, node: NodeId) -> bool {
        self.pending.iter().any(|pending| pending.change.newcomer() == Some(node))
    }

    /// The arcs of which no majority could be reached, if only `reachable` nodes can: a change of them would never end,
    /// since the new replicas copy from a majority.
    pub fn arcs_without_majority(&self, reachable: impl Fn(NodeId) -> bool) -> Vec<ArcLoss> {
        let mut losses = Vec::new();
        for arc in self.ring().arcs().iter().filter(|arc| !is_majority(&arc.replicas, &reachable)) {
            let (here, away) = arc.replicas.iter().copied().partition(|node| reachable(*node));
            let share_ppm = (arc.share() * 1e6) as u32;
            losses.push(ArcLoss { high: arc.high, share_ppm, reachable: here, unreachable: away });
        }
        losses
    }

    /// A change in words, with the members' names.
    pub fn describe(&self, change: &Change) -> String {
        match change {
            Change::Join { node } => format!("{} joins", self.name_of(*node)),
            Change::Replace { gone, by } => format!("{} ({by}) takes the place of {gone}", self.name_of(*by)),
            Change::Leave { nodes, lost, .. } => {
                let told = |names: Vec<String>, how| (!names.is_empty()).then(|| format!("{} {how}", names.join(", ")));
                let leaving = told(self.names_of(nodes.difference(lost).copied()), "leaving");
                let given_up = told(self.names_of(lost.iter().copied()), "given up");
                leaving.into_iter().chain(given_up).collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// Whether the member's tokens count once the changes that `made` picks are made.
    pub(crate) fn counts(&self, node: NodeId, made: &impl Fn(Epoch) -> bool) -> bool {
        self.pending.iter().filter(|pending| pending.change.names(node)).all(|pending| {
            let enters = pending.change.newcomer() == Some(node);
            enters == made(pending.id)
        })
    }

    /// The tokens that a member holds once the changes that `made` picks are made.
    pub(crate) fn tokens_with<'a>(&'a self, member: &'a Member, made: &impl Fn(Epoch) -> bool) -> &'a [Position] {
        let mut changes = self.pending.iter().filter(|pending| made(pending.id));
        changes.find_map(|pending| pending.change.tokens_of(member.id)).unwrap_or(&member.tokens)
    }

    /// The tokens that a member holds once all is done that is under way.
    fn tokens_then<'a>(&'a self, member: &'a Member) -> &'a [Position] {
        self.tokens_with(member, &|_| true)
    }

    /// Tokens that changes under way give to members who have others now.
    fn tokens_to_come(&self) -> impl Iterator<Item = &Position> {
        self.members.iter().flat_map(|member| self.tokens_then(member))
    }

    /// Members that are given up with their data.
    pub(crate) fn lost(&self) -> BTreeSet<NodeId> {
        let lost = |pending: &Pending| match &pending.change {
            Change::Leave { lost, .. } => lost.clone(),
            Change::Join { .. } | Change::Replace { .. } => BTreeSet::new(),
        };
        self.pending.iter().flat_map(lost).collect()
    }

    fn check_newcomer(&self, newcomer: &Member) -> Result<(), ChangeError> {
        if !self.is_formed() {
            return Err(ChangeError::NotFormed);
        }
        if self.member(newcomer.id).is_some() {
            return Err(ChangeError::AlreadyMember(newcomer.name.clone()));
        }
        if newcomer.tokens.is_empty() {
            return Err(ChangeError::Nothing);
        }
        Ok(())
    }

    fn begin(&self, change: Change, newcomer: Option<Member>) -> Result<View, ChangeError> {
        if !self.is_formed() {
            return Err(ChangeError::NotFormed);
        }
        let mut next = self.clone();
        next.epoch = Epoch(self.epoch.0 + 1);
        let id = next.epoch;
        next.members.extend(newcomer);
        next.pending.push(Pending { id, change, copied: BTreeSet::new() });
        if let Some(with) = next.first_overlap(id) {
            return Err(self.overlaps(with));
        }
        next.settle_epochs(&self.ring());
        next.complete_if_copied(id)
    }

    /// An older change that moves an arc which change `id` moves too.
    ///
    /// Of each arc, one change at most may matter: alone, or with all the others.
    fn first_overlap(&self, id: Epoch) -> Option<&Pending> {
        let base = Placement::of(self, |_| false);
        let (alone, all) = (Placement::of(self, |made| made == id), Placement::of(self, |_| true));
        let ring = self.ring();
        self.pending.iter().filter(|pending| pending.id != id).find(|other| {
            let theirs = Placement::of(self, |made| made == other.id);
            let both = Placement::of(self, |made| made == other.id || made == id);
            ring.arcs().iter().any(|arc| {
                let at = |placement: &Placement<'_>| placement.replicas_at(arc.high);
                let (before, ours, other) = (at(&base), at(&alone), at(&theirs));
                let apart = (ours == before && at(&both) == other) || (other == before && at(&both) == ours);
                let combined = at(&all) == before || at(&all) == ours || ours == before;
                !apart || !combined
            })
        })
    }

    fn complete_if_copied(self, id: Epoch) -> Result<View, ChangeError> {
        let pending = self.pending_change(id)?.clone();
        let before = self.ring();
        let arcs = self.arcs_of_change(id, &before);
        if !newcomers(&arcs).is_subset(&pending.copied) {
            return Ok(self);
        }
        let moved: Vec<Position> = arcs.into_iter().map(|arc| arc.high).collect();
        let mut next = self;
        next.pending.retain(|other| other.id != id);
        match pending.change {
            Change::Join { .. } => {}
            Change::Replace { gone, .. } => next.remove(gone),
            Change::Leave { nodes, moves, .. } => {
                nodes.into_iter().for_each(|node| next.remove(node));
                for member in &mut next.members {
                    if let Some(tokens) = moves.get(&member.id) {
                        member.tokens.clone_from(tokens);
                    }
                }
            }
        }
        // The sets that take over must be those that were copied to: another change must not have altered them.
        let after = next.ring();
        let expected = |old: &crate::Arc| match (&old.next, moved.contains(&old.high)) {
            (Some(copied), true) => ReplicaSets { current: copied.clone(), next: None },
            _ => old.sets(),
        };
        let disturbed = before.arcs().iter().any(|old| after.sets_of(old.high) != expected(old));
        if let Some(other) = next.pending.first().filter(|_| disturbed) {
            return Err(next.overlaps(other));
        }
        next.settle_epochs(&before);
        Ok(next)
    }

    fn remove(&mut self, node: NodeId) {
        self.members.retain(|member| member.id != node);
    }

    /// Gives the arcs whose sets or ends differ from those `before` the epoch of this view; the others keep theirs.
    ///
    /// The ends too, since what is said of an arc as a whole (it is confirmed, it is copied) must not be taken for said
    /// of a longer one.
    fn settle_epochs(&mut self, before: &Ring) {
        let ring = self.ring();
        let epoch_of = |arc: &crate::Arc| {
            let same = |old: &&crate::Arc| (old.low, old.high) == (arc.low, arc.high) && old.sets() == arc.sets();
            before.arc_of(arc.high).filter(same).map_or(self.epoch, |old| old.epoch)
        };
        let epochs = ring.arcs().iter().map(|arc| (arc.high, epoch_of(arc)));
        let epochs = epochs.filter(|(_, epoch)| *epoch != Epoch(1)).collect();
        self.arc_epochs = epochs;
    }

    fn pending_change(&self, id: Epoch) -> Result<&Pending, ChangeError> {
        self.pending.iter().find(|pending| pending.id == id).ok_or(ChangeError::NoSuchChange(id))
    }

    fn overlaps(&self, pending: &Pending) -> ChangeError {
        ChangeError::Overlaps { with: pending.id, what: self.describe(&pending.change) }
    }
}

impl Change {
    /// Whether the change is about `node`.
    pub fn names(&self, node: NodeId) -> bool {
        match self {
            Change::Join { node: one } => *one == node,
            Change::Replace { gone, by } => *gone == node || *by == node,
            Change::Leave { nodes, .. } => nodes.contains(&node),
        }
    }

    /// The tokens that `node`, who stays, holds after it; none if it keeps those that it has.
    pub fn tokens_of(&self, node: NodeId) -> Option<&[Position]> {
        match self {
            Change::Leave { moves, .. } => moves.get(&node).map(Vec::as_slice),
            Change::Join { .. } | Change::Replace { .. } => None,
        }
    }

    /// Whether the change is about `node` or moves its tokens.
    pub fn concerns(&self, node: NodeId) -> bool {
        self.names(node) || self.tokens_of(node).is_some()
    }

    /// Who enters by it.
    pub fn newcomer(&self) -> Option<NodeId> {
        match self {
            Change::Join { node } | Change::Replace { by: node, .. } => Some(*node),
            Change::Leave { .. } => None,
        }
    }
}

/// Who is in the next replica set of one of `arcs` and not in the one in charge.
pub fn newcomers(arcs: &[&crate::Arc]) -> BTreeSet<NodeId> {
    arcs.iter().flat_map(|arc| arc.sets().newcomers().collect::<Vec<_>>()).collect()
}

/// Parts of a million as a percentage with one decimal place.
fn percent(ppm: u32) -> String {
    format!("{:.1} %", f64::from(ppm) / 10_000.0)
}

fn sorted(tokens: &[Position]) -> Vec<Position> {
    let mut tokens = tokens.to_vec();
    tokens.sort_unstable();
    tokens
}
