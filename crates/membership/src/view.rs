use std::collections::BTreeMap;

use crate::change::{Change, Pending};
use crate::{ClusterId, Epoch, NodeId, Position};

/// The agreed configuration of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The cluster that this view is of.
    pub cluster: ClusterId,
    /// Grows with every change. 0 while the ring is forming: nobody owns anything yet.
    pub epoch: Epoch,
    /// Copies of each key, R. At least 1.
    pub replication: usize,
    /// How many members the ring forms with; the epoch becomes 1 when that many have entered.
    pub forms_with: usize,
    /// [`crate::KeyHasher::fingerprint`] of the cluster's secret.
    pub hash_fingerprint: u64,
    /// The number of the protocol that the members speak with each other; who speaks another one does not enter.
    pub protocol: u16,
    /// The members, in the order in which they entered; those too who are joining or leaving.
    pub members: Vec<Member>,
    /// Changes of membership under way, oldest first.
    pub pending: Vec<Pending>,
    /// Since which epoch each arc has had its replica sets and its extent, by the token at its end. An arc that is not
    /// named has had them since the ring formed.
    pub arc_epochs: BTreeMap<Position, Epoch>,
}

/// One storage node's entry in a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The identity from the node's data directory.
    pub id: NodeId,
    /// What people call it (`n3`); unique in the view.
    pub name: String,
    /// The failure domain, where known. Replicas prefer distinct zones.
    pub zone: Option<String>,
    /// How much it takes, beside the others: a member of weight 2 owns twice what one of weight 1 does. At least 1.
    pub weight: u32,
    /// The ring positions it holds, none of them anyone else's.
    pub tokens: Vec<Position>,
}

/// What is wrong with a view; a view that fails is never acted on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// R is 0.
    #[error("the replication factor is 0; it must be at least 1")]
    NoReplication,
    /// Two members share an identity or a name.
    #[error("two members are called {0}; each member needs an identity and a name of its own")]
    Duplicate(String),
    /// A token is held twice.
    #[error("the token {0} is held twice")]
    TokenTwice(Position),
    /// A member of a formed ring without a token.
    #[error("{0} holds no token")]
    NoToken(String),
    /// A change that is not of this view.
    #[error("the change {0} does not fit the view")]
    ChangeUnsound(Epoch),
    /// A member that would own nothing.
    #[error("{0} has weight 0; a weight is at least 1")]
    NoWeight(String),
    /// Formed, but with fewer members than copies.
    #[error(
        "{members} members cannot hold {replication} copies on distinct nodes; start more nodes or lower the \
         replication"
    )]
    TooFewMembers {
        /// How many there are.
        members: usize,
        /// How many are needed.
        replication: usize,
    },
}

/// Why a node may not enter a ring that is forming, or take its place in one that is formed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The data directory or the settings belong to another cluster.
    #[error(
        "this node belongs to cluster {ours}, the ring to cluster {theirs}; use the data directory of this cluster, \
         or another discovery"
    )]
    OtherCluster {
        /// The node's cluster.
        ours: ClusterId,
        /// The ring's.
        theirs: ClusterId,
    },
    /// Keys would hash elsewhere.
    #[error(
        "the cluster secret differs from the one this ring was formed with; give every node the same \
         EVERRING_CLUSTER_SECRET"
    )]
    OtherSecret,
    /// The program is of another generation: no member would talk to it.
    #[error(
        "this program speaks protocol {ours} with other nodes, the ring protocol {theirs}, and one number does not \
         talk to another; start the version of Everring that the ring runs, or bring the whole ring to this one: stop \
         all its storage nodes, and start them with this version"
    )]
    OtherProtocol {
        /// The program's protocol.
        ours: u16,
        /// The ring's.
        theirs: u16,
    },
    /// The name is taken by another identity: this node's data was lost or replaced.
    #[error(
        "the ring knows {name} as {theirs}, but this data directory holds {ours}: the data it had is lost or \
         replaced, and a node that forgot must not vote in its old place; bring the old directory back, or start \
         under a new name"
    )]
    Amnesia {
        /// The contested name.
        name: String,
        /// The identity found on disk.
        ours: NodeId,
        /// The identity in the view.
        theirs: NodeId,
    },
    /// The ring is formed and this node is not in it.
    #[error(
        "the ring is already formed with {members} members and {name} is not one of them; a formed ring does not yet \
         take new members"
    )]
    RingFormed {
        /// The newcomer.
        name: String,
        /// How many belong.
        members: usize,
    },
}

/// The protocol of a view that does not say which: views tell it since this one.
pub const PROTOCOL_UNTOLD: u16 = 5;

/// What a node must have in common with the ring that it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// The cluster of its data directory.
    pub cluster: ClusterId,
    /// [`crate::KeyHasher::fingerprint`] of its cluster secret.
    pub hash_fingerprint: u64,
    /// The protocol that its program speaks.
    pub protocol: u16,
}

impl View {
    /// An empty view that forms a ring of `forms_with` members, who speak [`PROTOCOL_UNTOLD`].
    pub fn forming(cluster: ClusterId, replication: usize, forms_with: usize, hash_fingerprint: u64) -> View {
        View {
            cluster,
            epoch: Epoch(0),
            replication,
            forms_with,
            hash_fingerprint,
            protocol: PROTOCOL_UNTOLD,
            members: Vec::new(),
            pending: Vec::new(),
            arc_epochs: BTreeMap::new(),
        }
    }

    /// Whether the ring is in force.
    pub fn is_formed(&self) -> bool {
        self.epoch > Epoch(0)
    }

    /// The member with this identity.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The member with this name.
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        // Where one takes the place of another of that name, the newcomer is meant.
        self.members.iter().rev().find(|member| member.name == name)
    }

    /// The view with `newcomer` in it: unchanged if it already belongs, formed if it is the last one awaited.
    ///
    /// # Errors
    /// The node may not enter, and nothing has changed; see [`FormError`] for who must act. What it lacks in common
    /// with the ring is told before all else, so that a refusal for its name or for a formed ring may be answered by a
    /// change.
    pub fn admit(&self, newcomer: &Member, common: &Common) -> Result<View, FormError> {
        self.check_common(common)?;
        if let Some(holder) = self.member_named(&newcomer.name).filter(|holder| holder.id != newcomer.id) {
            let (ours, theirs) = (newcomer.id, holder.id);
            return Err(FormError::Amnesia { name: newcomer.name.clone(), ours, theirs });
        }
        if self.member(newcomer.id).is_some() {
            return Ok(self.clone());
        }
        if self.is_formed() {
            return Err(FormError::RingFormed { name: newcomer.name.clone(), members: self.members.len() });
        }
        let mut next = self.clone();
        next.members.push(newcomer.clone());
        if next.members.len() == next.forms_with {
            next.epoch = Epoch(1);
        }
        Ok(next)
    }

    /// Whether a node may have to do with this ring at all, member or not.
    ///
    /// # Errors
    /// It is of another cluster, or its keys would hash elsewhere, or no member would understand it.
    pub fn check_common(&self, common: &Common) -> Result<(), FormError> {
        let Common { cluster, hash_fingerprint, protocol } = *common;
        if cluster != self.cluster {
            return Err(FormError::OtherCluster { ours: cluster, theirs: self.cluster });
        }
        if hash_fingerprint != self.hash_fingerprint {
            return Err(FormError::OtherSecret);
        }
        if protocol != self.protocol {
            return Err(FormError::OtherProtocol { ours: protocol, theirs: self.protocol });
        }
        Ok(())
    }

    /// The view in which the members speak `protocol`; this one if they speak it already, or a later one: the number
    /// only grows.
    ///
    /// It is a step like any other, so that nodes with an older view hear of it; no arc changes.
    pub fn speaking(&self, protocol: u16) -> View {
        if protocol <= self.protocol {
            return self.clone();
        }
        let epoch = if self.is_formed() { Epoch(self.epoch.0 + 1) } else { self.epoch };
        View { epoch, protocol, ..self.clone() }
    }

    /// Whether the view may be acted on.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn validate(&self) -> Result<(), ViewError> {
        if self.replication == 0 {
            return Err(ViewError::NoReplication);
        }
        for (at, member) in self.members.iter().enumerate() {
            let mut earlier = self.members[..at].iter();
            let alike = |other: &&Member| other.name == member.name && !self.replaces(member.id, other.id);
            if earlier.any(|other| other.id == member.id || alike(&other)) {
                return Err(ViewError::Duplicate(member.name.clone()));
            }
            if member.weight == 0 {
                return Err(ViewError::NoWeight(member.name.clone()));
            }
            if self.is_formed() && member.tokens.is_empty() {
                return Err(ViewError::NoToken(member.name.clone()));
            }
        }
        self.validate_changes()?;
        let now = self.members.iter().filter(|member| !self.is_heir(member.id)).map(|member| member.tokens.as_slice());
        let stays = |member: &&Member| self.counts(member.id, &|_| true);
        let then = self.members.iter().filter(stays).map(|member| self.tokens_with(member, &|_| true));
        distinct(now)?;
        distinct(then)?;
        if self.is_formed() {
            let enough = |members: usize| members >= self.replication;
            for members in [self.members_with(|_| false), self.members_with(|_| true)] {
                if !enough(members) {
                    return Err(ViewError::TooFewMembers { members, replication: self.replication });
                }
            }
        }
        Ok(())
    }

    /// Every change is of a formed ring and about members, and no later than the view.
    fn validate_changes(&self) -> Result<(), ViewError> {
        for pending in &self.pending {
            let known = match &pending.change {
                Change::Join { node } => self.member(*node).is_some(),
                Change::Leave { nodes, lost, moves } => {
                    nodes.iter().all(|node| self.member(*node).is_some())
                        && lost.is_subset(nodes)
                        && moves.iter().all(|(node, tokens)| !tokens.is_empty() && self.is_moved_once(*node))
                }
                Change::Replace { gone, by } => {
                    let tokens = |id: &NodeId| self.member(*id).map(|member| &member.tokens);
                    tokens(gone).is_some() && tokens(gone) == tokens(by)
                }
            };
            if !known || pending.id > self.epoch || pending.id <= Epoch(1) {
                return Err(ViewError::ChangeUnsound(pending.id));
            }
        }
        match self.arc_epochs.values().find(|epoch| **epoch > self.epoch) {
            Some(epoch) => Err(ViewError::ChangeUnsound(*epoch)),
            None => Ok(()),
        }
    }

    /// Whether `node` is a member whose tokens one change moves, and which no other is about.
    fn is_moved_once(&self, node: NodeId) -> bool {
        let mut changes = self.pending.iter().filter(|pending| pending.change.concerns(node));
        let only = changes.next().is_some_and(|pending| !pending.change.names(node)) && changes.next().is_none();
        only && self.member(node).is_some()
    }

    /// How many members count once the changes that `made` picks are made.
    fn members_with(&self, made: impl Fn(Epoch) -> bool) -> usize {
        self.members.iter().filter(|member| self.counts(member.id, &made)).count()
    }

    fn is_heir(&self, node: NodeId) -> bool {
        self.pending.iter().any(|pending| matches!(pending.change, Change::Replace { by, .. } if by == node))
    }

    fn replaces(&self, heir: NodeId, other: NodeId) -> bool {
        self.pending.iter().any(|pending| pending.change == Change::Replace { gone: other, by: heir })
    }

    /// The members that take part in the ring: all but those whose place another takes.
    pub fn ring_members(&self) -> impl Iterator<Item = &Member> {
        let replaced = |id: NodeId| {
            self.pending.iter().any(|pending| matches!(pending.change, Change::Replace { gone, .. } if gone == id))
        };
        self.members.iter().filter(move |member| !replaced(member.id))
    }
}

impl AsRef<View> for View {
    fn as_ref(&self) -> &View {
        self
    }
}

/// No token is there twice.
fn distinct<'a>(tokens: impl Iterator<Item = &'a [Position]>) -> Result<(), ViewError> {
    let mut tokens: Vec<Position> = tokens.flatten().copied().collect();
    tokens.sort_unstable();
    match tokens.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ViewError::TokenTwice(pair[0])),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: Common = Common { cluster: ClusterId(1), hash_fingerprint: 9, protocol: PROTOCOL_UNTOLD };

    fn member(id: u64, zone: Option<&str>, tokens: &[u64]) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: zone.map(str::to_owned),
            weight: 1,
            tokens: tokens.iter().map(|token| Position(*token)).collect(),
        }
    }

    fn view(members: Vec<Member>) -> View {
        let forms_with = members.len();
        View { epoch: Epoch(1), members, ..View::forming(ClusterId(1), 3, forms_with, 9) }
    }

    #[test]
    fn a_replica_set_is_the_next_distinct_nodes() {
        let ring = view(vec![
            member(1, None, &[10, 20]),
            member(2, None, &[30]),
            member(3, None, &[40]),
            member(4, None, &[50]),
        ])
        .ring();
        let set = |at: u64| ring.replicas_of(Position(at)).iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(set(5), [1, 2, 3], "the second token of n1 does not count twice");
        assert_eq!(set(21), [2, 3, 4]);
        assert_eq!(set(51), [1, 2, 3], "past the last token the circle wraps");
        assert_eq!(set(50), [4, 1, 2], "an arc is closed at its token");
    }

    #[test]
    fn replicas_prefer_distinct_zones_and_still_number_r() {
        let ring = view(vec![
            member(1, Some("a"), &[10]),
            member(2, Some("a"), &[20]),
            member(3, Some("b"), &[30]),
            member(4, Some("a"), &[40]),
        ])
        .ring();
        let ids: Vec<u64> = ring.replicas_of(Position(1)).iter().map(|id| id.0).collect();
        assert_eq!(ids, [1, 3, 2]);
    }

    #[test]
    fn shares_add_up_to_the_circle() {
        let view = view(vec![member(1, None, &[1 << 62]), member(2, None, &[1 << 63]), member(3, None, &[u64::MAX])]);
        let ring = view.ring();
        let total: f64 = view.members.iter().map(|member| ring.share_of(member.id)).sum();
        assert!((total - 1.0).abs() < 1e-9, "{total}");
    }

    #[test]
    fn a_ring_forms_when_the_last_awaited_member_enters() {
        let forming = View::forming(ClusterId(1), 2, 2, 9);
        let one = forming.admit(&member(1, None, &[10]), &COMMON).expect("a forming ring takes members");
        assert!(!one.is_formed());
        let two = one.admit(&member(2, None, &[20]), &COMMON).expect("a forming ring takes members");
        assert_eq!(two.epoch, Epoch(1));
        assert_eq!(two.admit(&member(1, None, &[10]), &COMMON), Ok(two.clone()), "a member returns to its place");
    }

    #[test]
    fn strangers_and_the_forgetful_are_refused() {
        let formed = view(vec![member(1, None, &[10]), member(2, None, &[20]), member(3, None, &[30])]);
        let refused = |member, common| formed.admit(&member, &common).expect_err("must be refused");
        assert!(matches!(refused(member(4, None, &[40]), COMMON), FormError::RingFormed { .. }));
        let returning = |common| refused(member(1, None, &[10]), common);
        assert!(matches!(returning(Common { cluster: ClusterId(2), ..COMMON }), FormError::OtherCluster { .. }));
        assert!(matches!(returning(Common { hash_fingerprint: 8, ..COMMON }), FormError::OtherSecret));
        let forgetful = Member { id: NodeId(77), ..member(1, None, &[10]) };
        assert!(matches!(refused(forgetful, COMMON), FormError::Amnesia { .. }));
    }

    #[test]
    fn who_speaks_another_protocol_is_refused_before_anything_else_is_looked_at() {
        let formed = view(vec![member(1, None, &[10]), member(2, None, &[20]), member(3, None, &[30])]);
        for protocol in [PROTOCOL_UNTOLD - 1, PROTOCOL_UNTOLD + 1] {
            let other = Common { protocol, ..COMMON };
            let expected = Err(FormError::OtherProtocol { ours: protocol, theirs: PROTOCOL_UNTOLD });
            let forgetful = Member { id: NodeId(77), ..member(1, None, &[10]) };
            for newcomer in [member(4, None, &[40]), member(1, None, &[10]), forgetful] {
                assert_eq!(formed.admit(&newcomer, &other), expected);
            }
        }
    }

    #[test]
    fn the_protocol_only_grows_and_moves_nothing() {
        let formed = view(vec![member(1, None, &[10]), member(2, None, &[20]), member(3, None, &[30])]);
        let raised = formed.speaking(PROTOCOL_UNTOLD + 1);
        assert_eq!((raised.epoch, raised.protocol), (Epoch(2), PROTOCOL_UNTOLD + 1), "a step that spreads");
        assert_eq!(raised.ring(), formed.ring());
        assert_eq!(raised.speaking(PROTOCOL_UNTOLD), raised);
        let forming = View::forming(ClusterId(1), 2, 2, 9).speaking(PROTOCOL_UNTOLD + 1);
        assert_eq!((forming.epoch, forming.protocol), (Epoch(0), PROTOCOL_UNTOLD + 1), "it does not form by that");
    }

    #[test]
    fn a_bad_view_is_not_acted_on() {
        assert_eq!(
            view(vec![member(1, None, &[10]), member(2, None, &[10]), member(3, None, &[1])]).validate(),
            Err(ViewError::TokenTwice(Position(10)))
        );
        assert!(matches!(view(vec![member(1, None, &[10])]).validate(), Err(ViewError::TooFewMembers { .. })));
        assert!(matches!(
            view(vec![member(1, None, &[10]), member(1, None, &[20])]).validate(),
            Err(ViewError::Duplicate(_))
        ));
        assert!(matches!(view(vec![member(1, None, &[])]).validate(), Err(ViewError::NoToken(_))));
    }
}
