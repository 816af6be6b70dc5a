//! Who is around, and what a leader has to change about who votes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft::Raft;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use stdx::Instant;

use crate::config::Config;
use crate::journal::Journal;
use crate::roster::{Member, Roster};

/// How old what a peer said of itself may be when a discovery is founded on it.
const TOLD_MAX_TICKS: u32 = 20;
/// A learner that lacks no more entries than this gets a vote.
const NEAR: u64 = 64;
/// Newcomers that are kept in mind.
const INTRODUCED_MAX: usize = 64;

/// What a replica keeps in mind beside Raft.
#[derive(Debug, Default)]
pub(crate) struct Duties {
    /// Who is connected, and what it said last about being part of a discovery.
    peers: BTreeMap<u64, Peer>,
    introduced: BTreeMap<u64, Member>,
    next_round: Instant,
    /// The term in which this one, as its leader, proposed to give time.
    pub(crate) began: u64,
    /// The term of this one's in which time was given.
    pub(crate) time_given: u64,
    /// The term in which a tick was proposed and has not acted.
    pub(crate) ticked: u64,
}

#[derive(Debug)]
struct Peer {
    name: String,
    told: Option<(Instant, bool)>,
}

/// What to change next.
#[derive(Debug)]
pub(crate) enum Change {
    /// Let another lead, since this one is to go.
    HandOver(u64),
    /// Change who votes.
    Configuration(ConfChangeV2),
}

impl Duties {
    pub(crate) fn up(&mut self, peer: u64, name: String) {
        self.peers.insert(peer, Peer { name, told: None });
    }

    pub(crate) fn down(&mut self, peer: u64) {
        self.peers.remove(&peer);
    }

    pub(crate) fn told(&mut self, now: Instant, peer: u64, formed: bool) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.told = Some((now, formed));
        }
    }

    pub(crate) fn introduced(&mut self, member: Member) {
        if self.introduced.len() < INTRODUCED_MAX || self.introduced.contains_key(&member.id) {
            self.introduced.insert(member.id, member);
        }
    }

    pub(crate) fn take_introduced(&mut self) -> Vec<Member> {
        std::mem::take(&mut self.introduced).into_values().collect()
    }

    pub(crate) fn peers(&self) -> Vec<u64> {
        self.peers.keys().copied().collect()
    }

    pub(crate) fn formed_peers(&self) -> Vec<u64> {
        let formed = self.peers.iter().filter(|(_, peer)| matches!(peer.told, Some((_, true))));
        formed.map(|(id, _)| *id).collect()
    }

    /// Whether the next round of duties has come; then the one after it is a pause away.
    pub(crate) fn is_due(&mut self, now: Instant, pause: Duration) -> bool {
        let due = now >= self.next_round;
        if due {
            self.next_round = now + pause;
        }
        due
    }

    /// Whether this replica is to begin a discovery: it is the first of the founders by name, and each of the others is
    /// there and has just said that it is part of none. With one founder missing nobody can know.
    pub(crate) fn may_found(&self, now: Instant, config: &Config, own: &Member) -> bool {
        let first = config.founders.iter().min();
        if first.is_some_and(|first| *first != own.name) {
            return false;
        }
        let recent = config.tick * TOLD_MAX_TICKS;
        let nobody_formed = self.formed_peers().is_empty();
        nobody_formed
            && config.founders.iter().filter(|name| **name != own.name).all(|name| {
                self.peers.values().any(|peer| {
                    peer.name == *name && peer.told.is_some_and(|(at, formed)| !formed && now.since(at) <= recent)
                })
            })
    }
}

/// The next change that the roster asks for, one at a time.
pub(crate) fn next_change(raft: &Raft<Journal>, configuration: &ConfState, roster: &Roster) -> Option<Change> {
    if raft.has_pending_conf() || !configuration.voters_outgoing.is_empty() {
        return None;
    }
    let inside = everybody(configuration);
    let change = |kind: ConfChangeType, id: u64| single(kind, id);
    let to_go = roster.removed.iter().copied().find(|id| inside.contains(id) && !is_only_voter(configuration, *id));
    if let Some(id) = to_go {
        if id != raft.id {
            return Some(configured(vec![change(ConfChangeType::RemoveNode, id)]));
        }
        let heir = configuration.voters.iter().copied().find(|other| *other != id && !roster.removed.contains(other));
        return heir.map(Change::HandOver);
    }
    let outside = roster.members.keys().copied().find(|id| !inside.contains(id) && !roster.removed.contains(id));
    if let Some(id) = outside {
        return Some(configured(vec![change(ConfChangeType::AddLearnerNode, id)]));
    }
    let last = raft.raft_log.last_index();
    let ready = configuration.learners.iter().copied().find(|id| {
        raft.prs().get(*id).is_some_and(|progress| progress.recent_active && progress.matched + NEAR >= last)
    })?;
    // Who comes back without its data under the same name takes its old self's place, in one joint change.
    let name = roster.members.get(&ready).map(|member| &member.name);
    let former = roster.members.values().filter(|member| Some(&member.name) == name && member.id != ready);
    let former = former.filter(|member| inside.contains(&member.id) && member.id != raft.id);
    let mut changes = vec![change(ConfChangeType::AddNode, ready)];
    changes.extend(former.map(|member| change(ConfChangeType::RemoveNode, member.id)));
    Some(configured(changes))
}

/// All that the configuration names.
pub(crate) fn everybody(configuration: &ConfState) -> BTreeSet<u64> {
    let ConfState { voters, learners, voters_outgoing, learners_next, .. } = configuration;
    [voters, learners, voters_outgoing, learners_next].into_iter().flatten().copied().collect()
}

fn is_only_voter(configuration: &ConfState, id: u64) -> bool {
    configuration.voters == [id]
}

fn single(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    ConfChangeSingle { change_type: kind, node_id: id, ..ConfChangeSingle::default() }
}

fn configured(changes: Vec<ConfChangeSingle>) -> Change {
    Change::Configuration(ConfChangeV2 { changes: changes.into(), ..ConfChangeV2::default() })
}

/// What the change does, beside Raft's own form of it: so that nothing here has to parse that one.
pub(crate) fn encode_change(change: &ConfChangeV2) -> Vec<u8> {
    let list: Vec<(u8, u64)> = change.changes.iter().map(|one| (one.change_type as u8, one.node_id)).collect();
    serde_json::to_vec(&list).expect("numbers are JSON")
}

/// The change that [`encode_change`] wrote; nothing is Raft's own step out of a joint configuration.
pub(crate) fn decode_change(context: &[u8]) -> Result<ConfChangeV2, String> {
    if context.is_empty() {
        return Ok(ConfChangeV2::default());
    }
    let list: Vec<(u8, u64)> = serde_json::from_slice(context).map_err(|error| error.to_string())?;
    let mut change = ConfChangeV2::default();
    for (kind, id) in list {
        let kind = match kind {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            _ => return Err(format!("there is no change of kind {kind}")),
        };
        change.changes.push(single(kind, id));
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_as_it_was_written() {
        let Change::Configuration(change) =
            configured(vec![single(ConfChangeType::AddNode, 7), single(ConfChangeType::RemoveNode, u64::MAX)])
        else {
            panic!("it is one");
        };
        assert_eq!(decode_change(&encode_change(&change)), Ok(change));
        assert_eq!(decode_change(&[]), Ok(ConfChangeV2::default()));
        assert!(decode_change(b"[[9,1]]").is_err() && decode_change(b"x").is_err());
    }

    #[test]
    fn only_the_first_founder_begins_and_only_when_all_say_that_there_is_nothing() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let config = Config::new(names.to_vec());
        let own = |name: &str| Member { id: 1, name: name.into(), peer: String::new(), http: String::new() };
        let now = Instant::from_millis(10_000);
        let mut duties = Duties::default();
        duties.up(2, "b".into());
        duties.up(3, "c".into());
        duties.told(now, 2, false);
        assert!(!duties.may_found(now, &config, &own("a")), "c has said nothing");
        duties.told(now, 3, false);
        assert!(duties.may_found(now, &config, &own("a")));
        assert!(!duties.may_found(now, &config, &own("b")));
        assert!(!duties.may_found(now + Duration::from_secs(5), &config, &own("a")), "that was long ago");
        duties.told(now, 3, true);
        assert!(!duties.may_found(now, &config, &own("a")), "there is one already");
        assert!(Duties::default().may_found(now, &Config::new(vec!["a".into()]), &own("a")), "alone");
    }
}
