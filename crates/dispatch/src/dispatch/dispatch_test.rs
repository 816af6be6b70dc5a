use std::collections::BTreeMap;

use membership::Epoch;

use super::*;

/// How a replica behaves in a test.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Answers a read after so many milliseconds.
    Answers(u64),
    /// Is not connected.
    Dead,
    /// Breaks the connection after so many milliseconds.
    Resets(u64),
    /// Says nothing, for ever.
    Paused,
    /// Refuses after so many milliseconds.
    Refuses(u64, Refusal),
    /// Gives up half-way after so many milliseconds.
    GivesUp(u64),
    /// Is dead until this time, then answers in a millisecond.
    DeadUntil(u64),
}

/// What a run looked like.
#[derive(Debug)]
struct Run {
    /// Who was asked, when (ms), and whether as a retry.
    asked: Vec<(u64, u64, bool)>,
    verdict: Verdict,
    ended_ms: u64,
    waiting_most: usize,
    waiting_at_end: usize,
}

fn plan(write: bool, deadline_ms: u64) -> Plan {
    Plan {
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        doubtful: Vec::new(),
        deadline: Instant::from_millis(deadline_ms),
        hedge: Duration::from_millis(30),
        write,
    }
}

/// Plays a request in virtual time against replicas 1, 2 and 3.
fn run(plan: Plan, does: [Does; 3], budget: &mut RetryBudget) -> Run {
    let mut dispatch = Dispatch::new(plan, Prng::from_seed(7));
    let mut agenda: BTreeMap<(Instant, u32), Input> = BTreeMap::new();
    let mut out = Vec::new();
    let mut asked = Vec::new();
    let (mut now, mut input, mut waiting_most) = (Instant::ZERO, Input::Started, 0);
    loop {
        dispatch.handle(now, input, budget, &mut out);
        waiting_most = waiting_most.max(dispatch.silent().count());
        for output in out.drain(..) {
            match output {
                Output::Finish(verdict) => {
                    assert_eq!(dispatch.next_timeout(), None);
                    let waiting_at_end = dispatch.silent().count();
                    return Run { asked, verdict, ended_ms: now.as_millis(), waiting_most, waiting_at_end };
                }
                Output::Ask { node, attempt, retry } => {
                    asked.push((node.0, now.as_millis(), retry));
                    let at = |ms: u64| (now + Duration::from_millis(ms), attempt);
                    let answer = |outcome| Input::Answered { attempt, outcome, receipt: Receipt::default() };
                    let failed = |failure| Input::Failed { attempt, failure };
                    match does[node.0 as usize - 1] {
                        Does::Answers(ms) => agenda.insert(at(ms), answer(Outcome::Value(None))),
                        Does::Dead => agenda.insert(at(0), failed(Failure::NotSent)),
                        Does::Resets(ms) => agenda.insert(at(ms), failed(Failure::Reset)),
                        Does::Paused => None,
                        Does::Refuses(ms, refusal) => agenda.insert(at(ms), answer(Outcome::Refused(refusal))),
                        Does::GivesUp(ms) => agenda.insert(at(ms), answer(Outcome::Unknown)),
                        Does::DeadUntil(ms) if now.as_millis() < ms => agenda.insert(at(0), failed(Failure::NotSent)),
                        Does::DeadUntil(_) => agenda.insert(at(1), answer(Outcome::Value(None))),
                    };
                }
            }
        }
        let timeout = dispatch.next_timeout().expect("an unfinished request has a timeout");
        assert!(timeout > now || !agenda.is_empty(), "time must pass");
        (now, input) = match agenda.first_key_value() {
            Some((&(at, _), _)) if at <= timeout => {
                let ((at, _), input) = agenda.pop_first().expect("it was just seen");
                (at, input)
            }
            _ => (timeout, Input::Tick),
        };
    }
}

fn nodes(run: &Run) -> Vec<u64> {
    run.asked.iter().map(|(node, _, _)| *node).collect()
}

fn answered_by(run: &Run) -> Option<(u32, u64)> {
    match &run.verdict {
        Verdict::Answered { attempt, node, .. } => Some((*attempt, node.0)),
        Verdict::NotDone(_) | Verdict::Unknown | Verdict::Late => None,
    }
}

#[test]
fn the_owner_answers_and_nobody_else_is_asked() {
    let run = run(plan(true, 1_000), [Does::Answers(2); 3], &mut RetryBudget::default());
    assert_eq!(run.asked, [(1, 0, false)]);
    assert_eq!(answered_by(&run), Some((1, 1)));
    assert_eq!(run.ended_ms, 2);
}

#[test]
fn two_dead_replicas_cost_no_time_and_no_budget() {
    let mut budget = spent();
    let run = run(plan(true, 1_000), [Does::Dead, Does::Dead, Does::Answers(3)], &mut budget);
    assert_eq!(run.asked, [(1, 0, false), (2, 0, false), (3, 0, false)]);
    assert_eq!(run.ended_ms, 3, "surely unsent attempts move on at once");
}

#[test]
fn two_resets_are_survived_without_budget_and_the_third_attempt_is_a_retry() {
    let run = run(plan(true, 1_000), [Does::Resets(1), Does::Resets(1), Does::Answers(3)], &mut spent());
    assert_eq!(run.asked, [(1, 0, false), (2, 1, true), (3, 2, true)]);
    assert_eq!(run.ended_ms, 5);
}

#[test]
fn a_doubtful_replica_is_asked_last() {
    let plan = Plan { doubtful: vec![NodeId(1)], ..plan(false, 1_000) };
    let run = run(plan, [Does::Paused, Does::Refuses(1, Refusal::Draining), Does::Answers(1)], &mut spent());
    assert_eq!(nodes(&run), [2, 3]);
}

#[test]
fn a_paused_first_replica_is_hedged_after_the_delay() {
    let run = run(plan(true, 1_000), [Does::Paused, Does::Answers(5), Does::Answers(5)], &mut RetryBudget::default());
    assert_eq!(run.asked, [(1, 0, false), (2, 30, true)]);
    assert_eq!(answered_by(&run), Some((2, 2)));
    assert_eq!(run.ended_ms, 35);
}

#[test]
fn without_budget_a_hedge_comes_late_but_comes() {
    let run = run(plan(true, 1_000), [Does::Paused, Does::Paused, Does::Answers(5)], &mut spent());
    assert_eq!(nodes(&run), [1, 2, 3]);
    assert!(run.ended_ms < 1_000, "{run:?}");
    assert_eq!(answered_by(&run), Some((3, 3)));
}

#[test]
fn three_silent_replicas_end_a_write_as_unknown_and_a_read_as_late() {
    for (write, verdict) in [(true, Verdict::Unknown), (false, Verdict::Late)] {
        let run = run(plan(write, 400), [Does::Paused; 3], &mut RetryBudget::default());
        assert_eq!(run.asked.len(), 3, "a silent node is not asked twice");
        assert_eq!((run.verdict, run.ended_ms), (verdict, 400));
    }
}

#[test]
fn all_dead_until_just_before_the_deadline_is_still_answered() {
    let run = run(plan(true, 2_000), [Does::DeadUntil(1_880); 3], &mut spent());
    assert!(answered_by(&run).is_some(), "{run:?}");
    assert!(run.ended_ms <= 1_990, "one pause is at most 100 ms: {}", run.ended_ms);
    let times: Vec<u64> = run.asked.iter().map(|(_, at, _)| *at).collect();
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]).filter(|pause| *pause > 0);
    assert!(pauses.clone().all(|pause| (20..=100).contains(&pause)), "{times:?}");
    assert!(pauses.count() > 15, "it never stopped trying");
}

#[test]
fn all_dead_is_surely_not_done() {
    let run = run(plan(true, 300), [Does::Dead; 3], &mut RetryBudget::default());
    assert_eq!((run.verdict, run.ended_ms), (Verdict::NotDone(Refusal::NoQuorum), 300));
}

#[test]
fn a_reset_makes_a_write_unknown_when_nothing_answers_later() {
    let run = run(plan(true, 300), [Does::Resets(1), Does::Dead, Does::Dead], &mut RetryBudget::default());
    assert_eq!(run.verdict, Verdict::Unknown);
}

#[test]
fn a_refusal_is_surely_not_done() {
    let refusing = Does::Refuses(10, Refusal::NoQuorum);
    let run = run(plan(true, 300), [refusing, Does::Dead, refusing], &mut RetryBudget::default());
    assert_eq!(run.verdict, Verdict::NotDone(Refusal::NoQuorum));
}

#[test]
fn a_coordinator_that_gives_up_is_followed_by_another() {
    let run = run(plan(true, 1_000), [Does::GivesUp(50), Does::Answers(1), Does::Answers(1)], &mut spent());
    assert_eq!(answered_by(&run).map(|(_, node)| node), Some(2));
    assert!(run.asked[1].2, "it may have been taken");
}

#[test]
fn polite_refusals_move_on_at_once_and_free() {
    let stale = Does::Refuses(1, Refusal::NotReplica(Epoch(2)));
    let run = run(plan(true, 1_000), [stale, Does::Refuses(1, Refusal::Draining), Does::Answers(1)], &mut spent());
    assert_eq!(run.asked, [(1, 0, false), (2, 1, false), (3, 2, false)]);
}

#[test]
fn overload_everywhere_is_reported_at_once() {
    let full = Does::Refuses(1, Refusal::Overloaded);
    let run = run(plan(true, 5_000), [full; 3], &mut RetryBudget::default());
    assert_eq!(run.verdict, Verdict::NotDone(Refusal::Overloaded));
    assert_eq!(run.ended_ms, 3, "the client hears early that it should come back later");
}

#[test]
fn one_overloaded_replica_is_passed_over() {
    let full = Does::Refuses(1, Refusal::Overloaded);
    let run = run(plan(true, 5_000), [full, Does::Answers(1), full], &mut RetryBudget::default());
    assert_eq!(answered_by(&run), Some((2, 2)));
}

#[test]
fn a_request_too_old_is_not_asked_again() {
    let old = Does::Refuses(1, Refusal::TooOld);
    let alone = run(plan(true, 5_000), [old; 3], &mut RetryBudget::default());
    assert_eq!((alone.verdict, alone.asked.len()), (Verdict::NotDone(Refusal::TooOld), 1));
    let after_silence = run(plan(true, 500), [Does::Paused, old, old], &mut RetryBudget::default());
    assert_eq!(after_silence.verdict, Verdict::Unknown, "the silent one may have taken it");
    assert_eq!(nodes(&after_silence), [1, 2]);
}

#[test]
fn an_empty_replica_set_ends_at_the_deadline() {
    let plan = Plan { replicas: Vec::new(), ..plan(true, 200) };
    let run = run(plan, [Does::Dead; 3], &mut RetryBudget::default());
    assert_eq!((run.verdict, run.ended_ms), (Verdict::NotDone(Refusal::NoQuorum), 200));
}

#[test]
fn answers_after_the_end_change_nothing() {
    let mut dispatch = Dispatch::new(plan(true, 100), Prng::from_seed(1));
    let (mut budget, mut out) = (RetryBudget::default(), Vec::new());
    dispatch.handle(Instant::ZERO, Input::Started, &mut budget, &mut out);
    dispatch.handle(Instant::from_millis(100), Input::Tick, &mut budget, &mut out);
    assert_eq!(out.pop(), Some(Output::Finish(Verdict::Unknown)));
    out.clear();
    let late = Input::Answered { attempt: 1, outcome: Outcome::Value(None), receipt: Receipt::default() };
    dispatch.handle(Instant::from_millis(101), late, &mut budget, &mut out);
    assert_eq!(out, []);
}

/// Draws behaviours at random and holds every run to the module's invariants, with a full and with an empty budget.
#[test]
fn invariants_hold_for_drawn_behaviours() {
    let mut prng = Prng::from_seed(11);
    for round in 0..6_000 {
        let does = [(); 3].map(|()| drawn(&mut prng));
        let full = round % 2 == 0;
        let mut budget = if full { RetryBudget::default() } else { spent() };
        let run = run(plan(true, 1_000), does, &mut budget);
        assert!(run.ended_ms <= 1_000, "{does:?}: {run:?}");
        assert!(run.waiting_most <= WAITING_MAX, "{does:?}: {run:?}");
        // Without budget a request is slowed down, so a node that comes back late may be met too late.
        let answers = |does: &Does| matches!(does, Does::Answers(_)) || full && matches!(does, Does::DeadUntil(_));
        if does.iter().any(answers) {
            assert!(answered_by(&run).is_some(), "one replica that answers is enough: {does:?}: {run:?}");
        }
        let may_take = |does: &Does| matches!(does, Does::Resets(_) | Does::Paused | Does::GivesUp(_));
        if !does.iter().any(may_take) && run.waiting_at_end == 0 {
            assert_ne!(run.verdict, Verdict::Unknown, "{does:?}: {run:?}");
        }
    }
}

fn drawn(prng: &mut Prng) -> Does {
    match prng.below(8) {
        0 => Does::Dead,
        1 => Does::Resets(prng.below(60)),
        2 => Does::Paused,
        3 => Does::Refuses(prng.below(60), Refusal::Draining),
        4 => Does::Refuses(prng.below(60), Refusal::NoQuorum),
        5 => Does::GivesUp(prng.below(60)),
        6 => Does::DeadUntil(prng.below(700)),
        _ => Does::Answers(prng.below(60)),
    }
}

/// A budget with nothing in it.
fn spent() -> RetryBudget {
    let mut budget = RetryBudget::default();
    while budget.spend() {}
    budget
}
