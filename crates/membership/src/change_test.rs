//! Changes step by step, and random walks through them with the invariants after each step.

use std::collections::{BTreeMap, BTreeSet};

use stdx::Prng;

use crate::{
    Change, ChangeError, ClusterId, Epoch, Member, NodeId, Position, View, choose_tokens, load_ratios, tokens_of_weight,
};

fn member(id: u64, tokens: &[u64]) -> Member {
    let tokens = tokens.iter().map(|token| Position(*token)).collect();
    Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens }
}

fn formed(members: Vec<Member>) -> View {
    let forms_with = members.len();
    View { epoch: Epoch(1), members, ..View::forming(ClusterId(1), 3, forms_with, 9) }
}

/// n1 to n5 at 100 to 500.
fn five() -> View {
    formed((1..=5).map(|id| member(id, &[id * 100])).collect())
}

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

/// The sets and the arc epoch at a position: (current, next, epoch).
fn at(view: &View, position: u64) -> (Vec<u64>, Option<Vec<u64>>, u64) {
    let ring = view.ring();
    let arc = ring.arc_of(Position(position)).expect("the ring has tokens");
    (ids(&arc.replicas), arc.next.as_ref().map(|next| ids(next)), arc.epoch.0)
}

#[test]
fn a_join_is_joint_on_its_arcs_and_nowhere_else() {
    let joining = five().begin_join(member(6, &[250])).expect("it may join");
    joining.validate().expect("the joint view is sound");
    assert_eq!(at(&joining, 201), (vec![3, 4, 5], Some(vec![6, 3, 4]), 2), "its own arc");
    assert_eq!(at(&joining, 251), (vec![3, 4, 5], None, 2), "the rest of the arc that it splits is another arc now");
    assert_eq!(at(&joining, 150), (vec![2, 3, 4], Some(vec![2, 6, 3]), 2));
    assert_eq!(at(&joining, 50), (vec![1, 2, 3], Some(vec![1, 2, 6]), 2));
    assert_eq!(at(&joining, 450), (vec![5, 1, 2], None, 1), "far away nothing is noticed");
    assert_eq!(joining.awaited(Epoch(2)), Ok(nodes(&[6])));

    let done = joining.note_copied(Epoch(2), NodeId(6)).expect("it was awaited");
    assert_eq!(at(&done, 201), (vec![6, 3, 4], None, 3));
    assert_eq!(at(&done, 251), (vec![3, 4, 5], None, 2));
    assert_eq!(at(&done, 450), (vec![5, 1, 2], None, 1));
    assert!(done.pending.is_empty());
    assert_eq!(done.note_copied(Epoch(2), NodeId(6)), Err(ChangeError::NoSuchChange(Epoch(2))));
}

#[test]
fn a_leave_waits_for_everyone_who_inherits() {
    let leaving = five().begin_leave_moving(nodes(&[3]), false, BTreeMap::new()).expect("it may leave");
    assert_eq!(at(&leaving, 250), (vec![3, 4, 5], Some(vec![4, 5, 1]), 2));
    assert_eq!(at(&leaving, 150), (vec![2, 3, 4], Some(vec![2, 4, 5]), 2));
    assert_eq!(at(&leaving, 350), (vec![4, 5, 1], None, 1));
    assert_eq!(leaving.awaited(Epoch(2)), Ok(nodes(&[1, 4, 5])));
    assert!(leaving.is_leaving(NodeId(3)));
    let mut view = leaving.note_copied(Epoch(2), NodeId(1)).expect("it is awaited");
    view = view.note_copied(Epoch(2), NodeId(4)).expect("it is awaited");
    assert_eq!(at(&view, 250).1, Some(vec![4, 5, 1]), "two of three are not all");
    view = view.note_copied(Epoch(2), NodeId(5)).expect("it is awaited");
    assert!(view.member(NodeId(3)).is_none());
    assert_eq!(at(&view, 250), (vec![4, 5, 1], None, 5), "two arcs became one, with an epoch of its own");
    assert_eq!(at(&view, 350), (vec![4, 5, 1], None, 5));
    assert_eq!(at(&view, 450), (vec![5, 1, 2], None, 1));
}

#[test]
fn tokens_of_others_move_when_one_leaves() {
    // n2 moves on into what n3 leaves, and n1 takes some of what n5 has.
    let moves = BTreeMap::from([(NodeId(2), vec![Position(250)]), (NodeId(1), vec![Position(100), Position(440)])]);
    let leaving = five().begin_leave_moving(nodes(&[3]), false, moves).expect("it may leave");
    leaving.validate().expect("the joint view is sound");
    assert_eq!(at(&leaving, 150), (vec![2, 3, 4], Some(vec![2, 4, 1]), 2), "n1 is before n5 now");
    assert_eq!(at(&leaving, 240), (vec![3, 4, 5], Some(vec![2, 4, 1]), 2), "n2 is to own a part of what n3 leaves");
    assert_eq!(at(&leaving, 260), (vec![3, 4, 5], Some(vec![4, 1, 5]), 2), "and n4 has the rest");
    assert_eq!(at(&leaving, 430), (vec![5, 1, 2], Some(vec![1, 5, 2]), 2), "who owns it is another matter");
    assert_eq!(at(&leaving, 450), (vec![5, 1, 2], None, 2));
    assert_eq!(at(&leaving, 50), (vec![1, 2, 3], Some(vec![1, 2, 4]), 2));
    assert_eq!(leaving.awaited(Epoch(2)), Ok(nodes(&[1, 2, 4])));
    let near = leaving.begin_leave(nodes(&[1]), false);
    assert!(matches!(near, Err(ChangeError::Overlaps { .. })), "whose tokens move cannot leave: {near:?}");
    let heir = Member { name: "n2".to_owned(), ..member(77, &[1]) };
    assert!(matches!(leaving.begin_replace(NodeId(2), heir), Err(ChangeError::Overlaps { .. })));
    assert_eq!(leaving.begin_join(member(6, &[440])), Err(ChangeError::TokenTaken(Position(440))));

    let back = leaving.abandon(Epoch(2)).expect("it is under way");
    assert_eq!(back.members, five().members, "tokens stay where they are");
    let mut done = leaving;
    for node in [1, 2, 4] {
        done = done.note_copied(Epoch(2), NodeId(node)).expect("it is awaited");
    }
    assert_eq!(done.member(NodeId(2)).map(|member| member.tokens.clone()), Some(vec![Position(250)]));
    assert_eq!(at(&done, 150), (vec![2, 4, 1], None, 5));
    assert_eq!(at(&done, 240), (vec![2, 4, 1], None, 5), "two arcs became one");
    assert_eq!(at(&done, 260), (vec![4, 1, 5], None, 5));
    assert_eq!(at(&done, 430), (vec![1, 5, 2], None, 5));
}

/// Weights and zones, and one change after the other, each as a joint one; now and then two leave together.
#[test]
fn the_load_stays_even_over_joint_changes() {
    let mut prng = Prng::from_seed(7);
    let mut view = View { epoch: Epoch(1), ..View::forming(ClusterId(1), 3, 6, 9) };
    let weighed = |view: &View, id: u64, prng: &mut Prng| {
        let member = Member { weight: 1 << (id % 3), zone: None, ..newcomer(view, id, 1, prng) };
        let tokens = choose_tokens(&view.members, 3, &member, tokens_of_weight(member.weight), prng);
        Member { tokens, ..member }
    };
    for id in 1..=6 {
        let member = weighed(&view, id, &mut prng);
        view.members.push(member);
    }
    for fresh in 7..60 {
        let (count, one) = (view.members.len(), prng.index(view.members.len()));
        let next = match count > 5 && prng.one_in(2) {
            false => view.begin_join(weighed(&view, fresh, &mut prng)),
            true => {
                let two = if prng.one_in(4) { (one + 1) % count } else { one };
                view.begin_leave(BTreeSet::from([view.members[one].id, view.members[two].id]), false)
            }
        };
        view = next.expect("nothing else is under way");
        while let Some(pending) = view.pending.first() {
            let mut awaited = view.awaited(pending.id).expect("it is under way").into_iter();
            let node = awaited.find(|node| !pending.copied.contains(node)).expect("it waits for somebody");
            view = view.note_copied(pending.id, node).expect("it is awaited");
        }
        view.validate().expect("the ring is sound");
        let fullest = load_ratios(&view.members, 3).iter().map(|ratio| ratio.0).fold(0.0, f64::max);
        assert!(fullest <= 1.10, "{} members: the fullest owns {fullest} of its share", view.members.len());
        assert!(view.members.iter().all(|member| member.tokens.len() <= crate::TOKENS_MAX));
    }
}

#[test]
fn a_replacement_takes_name_and_tokens() {
    let heir = Member { name: "n2".to_owned(), ..member(77, &[1]) };
    let view = five().begin_replace(NodeId(2), heir).expect("it may");
    view.validate().expect("the joint view is sound");
    assert_eq!(at(&view, 150), (vec![2, 3, 4], Some(vec![77, 3, 4]), 2));
    assert_eq!(view.member_named("n2").map(|member| member.id), Some(NodeId(77)));
    assert_eq!(view.ring_members().filter(|member| member.name == "n2").count(), 1);
    let done = view.note_copied(Epoch(2), NodeId(77)).expect("it is awaited");
    assert!(done.member(NodeId(2)).is_none());
    assert_eq!(at(&done, 150), (vec![77, 3, 4], None, 3));
}

#[test]
fn an_abandoned_change_leaves_the_old_sets_with_new_epochs() {
    let joining = five().begin_join(member(6, &[250])).expect("it may join");
    let back = joining.abandon(Epoch(2)).expect("it is under way");
    assert_eq!(back.members, five().members);
    assert_eq!(at(&back, 150), (vec![2, 3, 4], None, 3), "a round of the joint epoch must not count in this one");
    assert_eq!(at(&back, 450), (vec![5, 1, 2], None, 1));
}

#[test]
fn changes_of_the_same_arcs_wait_and_of_others_do_not() {
    let ten = formed((1..=10).map(|id| member(id, &[id * 100])).collect());
    let one = ten.begin_join(member(11, &[250])).expect("it may join");
    let near = one.begin_join(member(12, &[350]));
    assert!(matches!(near, Err(ChangeError::Overlaps { with: Epoch(2), .. })), "{near:?}");
    assert!(matches!(one.begin_leave(nodes(&[11]), false), Err(ChangeError::Overlaps { .. })));
    let both = one.begin_join(member(12, &[750])).expect("its arcs are others");
    both.validate().expect("two changes are sound");
    assert_eq!(at(&both, 201).2, 2);
    assert_eq!(at(&both, 701).2, 3);
    let first = both.note_copied(Epoch(3), NodeId(12)).expect("the later one may be done first");
    assert_eq!(at(&first, 701), (vec![12, 8, 9], None, 4));
    assert_eq!(at(&first, 201), (vec![3, 4, 5], Some(vec![11, 3, 4]), 2), "the earlier one goes on undisturbed");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let view = five();
    assert!(matches!(view.begin_join(member(5, &[7])), Err(ChangeError::AlreadyMember(_))));
    assert!(matches!(view.begin_join(member(6, &[100])), Err(ChangeError::TokenTaken(Position(100)))));
    assert_eq!(view.begin_join(member(6, &[])), Err(ChangeError::Nothing));
    let namesake = Member { name: "n1".to_owned(), ..member(6, &[7]) };
    assert_eq!(view.begin_join(namesake), Err(ChangeError::NameTaken("n1".to_owned())));
    assert!(matches!(view.begin_leave(nodes(&[9]), false), Err(ChangeError::NoSuchMember(_))));
    let few = view.begin_leave(nodes(&[1, 2, 3]), false);
    assert_eq!(few, Err(ChangeError::TooFewLeft { left: 2, replication: 3 }));
    let forming = View::forming(ClusterId(1), 3, 3, 9);
    assert_eq!(forming.begin_join(member(1, &[1])), Err(ChangeError::NotFormed));
    assert_eq!(view.abandon(Epoch(2)), Err(ChangeError::NoSuchChange(Epoch(2))));
    let joining = view.begin_join(member(6, &[250])).expect("it may join");
    let stranger = joining.note_copied(Epoch(2), NodeId(1));
    assert_eq!(stranger, Err(ChangeError::NotAwaited { id: Epoch(2), node: NodeId(1) }));
}

#[test]
fn an_arc_without_a_majority_is_named() {
    let losses = five().arcs_without_majority(|node| node.0 > 2);
    let ends: Vec<u64> = losses.iter().map(|loss| loss.high.0).collect();
    assert_eq!(ends, [100, 500], "n1 n2 n3, and n5 n1 n2");
    assert_eq!(ids(&losses[0].unreachable), [1, 2]);
    let given_up = five().begin_leave_moving(nodes(&[1, 2]), true, BTreeMap::new()).expect("by force it goes");
    assert_eq!(at(&given_up, 50).0, [3], "nobody waits for the lost");
}

/// Random changes on random rings: after each step, each arc has a majority to copy from and its epoch names its sets.
#[test]
fn every_walk_keeps_the_invariants() {
    let mut moved = 0;
    for seed in 0..60 {
        let mut prng = Prng::from_seed(seed);
        let mut view = View { epoch: Epoch(1), ..View::forming(ClusterId(1), 3, 5, 9) };
        for id in 1..=5 + prng.below(4) {
            let newcomer = newcomer(&view, id, 3, &mut prng);
            view.members.push(newcomer);
        }
        let mut owners = std::collections::BTreeMap::new();
        let mut last = 100;
        let mut steps = 0;
        for _ in 0..120 {
            last += 1;
            let Ok(next) = step(&view, last, &mut prng) else { continue };
            steps += 1;
            next.validate().expect("a step leads to a sound view");
            assert_eq!(next.epoch.0, view.epoch.0 + 1);
            moved += view.members.iter().filter(|member| tokens_differ(&next, member)).count();
            check_step(&view, &next);
            for probe in 0..64u64 {
                let position = Position(probe << 58);
                let arc = next.ring().arc_of(position).cloned().expect("there are tokens");
                let known = owners.entry((arc.high, arc.epoch)).or_insert_with(|| arc.clone());
                assert_eq!(*known, arc, "one owner set, and one extent, for each arc epoch");
            }
            view = next;
        }
        assert!(steps > 30, "seed {seed} made only {steps} steps");
    }
    assert!(moved > 300, "tokens of those who stayed moved only {moved} times");
}

fn tokens_differ(next: &View, member: &Member) -> bool {
    next.member(member.id).is_some_and(|now| now.tokens != member.tokens)
}

fn newcomer(view: &View, id: u64, tokens: usize, prng: &mut Prng) -> Member {
    let zone = prng.one_in(3).then(|| format!("z{}", prng.below(3)));
    let weight = 1 << prng.below(3);
    let member = Member { id: NodeId(id), name: format!("n{id}"), zone, weight, tokens: Vec::new() };
    let tokens = choose_tokens(&view.members, view.replication, &member, tokens, prng);
    Member { tokens, ..member }
}

fn step(view: &View, fresh: u64, prng: &mut Prng) -> Result<View, ChangeError> {
    let anyone = view.members[prng.index(view.members.len())].id;
    let newcomer = |prng: &mut Prng| {
        let tokens = 1 + prng.index(3);
        newcomer(view, fresh, tokens, prng)
    };
    match (prng.below(6), view.pending.first()) {
        (0, _) => view.begin_join(newcomer(prng)),
        (1, _) => view.begin_leave(BTreeSet::from([anyone]), false),
        (2, _) => view.begin_replace(anyone, newcomer(prng)),
        (3, Some(pending)) if prng.one_in(3) => view.abandon(pending.id),
        (_, Some(_)) => {
            let pending = &view.pending[prng.index(view.pending.len())];
            let awaited = view.awaited(pending.id)?;
            let next = awaited.into_iter().find(|node| !pending.copied.contains(node));
            view.note_copied(pending.id, next.expect("a pending change waits for somebody"))
        }
        _ => Err(ChangeError::Nothing),
    }
}

/// What one step may do to an arc: nothing; begin a change; end it with the sets it led to; or go back.
fn check_step(before: &View, after: &View) {
    let (old, new) = (before.ring(), after.ring());
    for arc in new.arcs().iter().chain(old.arcs()) {
        let (was, is) = (old.sets_of(arc.high), new.sets_of(arc.high));
        let (began, ended) = (is.next.is_some(), was.next.is_some());
        let allowed = was == is
            || (began && !ended && was.current == is.current)
            || (ended && !began && (was.next.as_ref() == Some(&is.current) || was.current == is.current));
        assert!(allowed, "at {}: {was:?} became {is:?}", arc.high);
        if was != is {
            let epoch = new.arc_of(arc.high).map(|arc| arc.epoch);
            assert_eq!(epoch, Some(after.epoch), "an arc that changes gets the view's epoch");
        }
        let kept = is.current.iter().filter(|node| was.contains(**node)).count();
        assert_eq!(kept, is.current.len(), "nobody is in charge who was not at least copying");
    }
    assert!(!matches!(after.pending.last().map(|p| &p.change), Some(Change::Leave { lost, .. }) if !lost.is_empty()));
}
