use proptest::prelude::*;

use super::*;

fn node(name: &str, life: u64, health: Health) -> Sighting {
    Sighting { name: name.to_owned(), role: STORAGE_NODE.to_owned(), opted_in: true, life, instance_id: None, health }
}

fn fleet(lives: &[u64]) -> Vec<Sighting> {
    lives.iter().enumerate().map(|(at, life)| node(&format!("n{}", at + 1), *life, Health::Ready)).collect()
}

fn seen(fleet: Vec<Sighting>) -> Observation {
    Observation { halted: None, fleet: Ok(fleet), verifier_silent: Duration::ZERO }
}

fn config(seed: u64) -> MonkeyConfig {
    MonkeyConfig {
        seed,
        mean: Duration::from_secs(1),
        ring_members: 5,
        roles: vec![STORAGE_NODE.to_owned()],
        kinds: vec![FaultKind::Kill, FaultKind::Pause],
        ..MonkeyConfig::default()
    }
}

/// Late enough that any drawn interval is over.
const LATE: Instant = Instant::from_millis(3_600_000);

fn refusal(decision: Decision) -> Reason {
    match decision {
        Decision::Wait(reason) => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn strikes_when_all_is_well_and_not_before_its_time() {
    let mut plan = MonkeyPlan::new(config(7), Instant::ZERO);
    assert!(matches!(refusal(plan.decide(Instant::ZERO, &seen(fleet(&[1; 5])))), Reason::NotDue(_)));
    assert!(matches!(plan.decide(LATE, &seen(fleet(&[1; 5]))), Decision::Strike(_)));
}

#[test]
fn the_halt_switch_comes_first() {
    let mut plan = MonkeyPlan::new(config(7), Instant::ZERO);
    let mut observation = seen(fleet(&[1; 5]));
    observation.halted = Some("the file HALT".to_owned());
    assert_eq!(refusal(plan.decide(LATE, &observation)), Reason::Halted("the file HALT".to_owned()));
    observation.halted = None;
    assert!(matches!(plan.decide(LATE, &observation), Decision::Strike(_)), "released, it goes on");
}

#[test]
fn the_dead_man_switch_blocks_what_cannot_be_seen() {
    let mut plan = MonkeyPlan::new(config(7), Instant::ZERO);
    let blind = Observation { fleet: Err("connection refused".to_owned()), ..seen(Vec::new()) };
    assert!(matches!(refusal(plan.decide(LATE, &blind)), Reason::FleetUnseen(_)));
    let silent = Observation { verifier_silent: Duration::from_secs(3), ..seen(fleet(&[1; 5])) };
    let reason = refusal(plan.decide(LATE, &silent));
    assert!(reason.to_string().contains("no answer for 3.0 s"), "{reason}");
}

#[test]
fn a_killed_victim_is_awaited_until_another_life_of_it_is_ready() {
    let mut plan = MonkeyPlan::new(MonkeyConfig { kinds: vec![FaultKind::Kill], ..config(7) }, Instant::ZERO);
    let Decision::Strike(strike) = plan.decide(LATE, &seen(fleet(&[1; 5]))) else { panic!("nothing was struck") };
    let later = LATE + Duration::from_secs(3600);
    // Its old life still says "ready", as a stale answer would.
    assert_eq!(refusal(plan.decide(later, &seen(fleet(&[1; 5])))), Reason::VictimNotBack(strike.target.clone()));
    let mut returning = fleet(&[1; 5]);
    let victim = returning.iter_mut().find(|node| node.name == strike.target).expect("it is in the fleet");
    victim.life = 2;
    victim.health = Health::NotReady("catching-up".to_owned());
    assert_eq!(refusal(plan.decide(later, &seen(returning.clone()))), Reason::VictimNotBack(strike.target.clone()));
    returning.iter_mut().for_each(|node| node.health = Health::Ready);
    assert!(matches!(plan.decide(later, &seen(returning)), Decision::Strike(Strike { id: 2, .. })));
}

#[test]
fn a_paused_victim_is_awaited_until_it_is_healed() {
    let mut plan = MonkeyPlan::new(MonkeyConfig { kinds: vec![FaultKind::Pause], ..config(7) }, Instant::ZERO);
    let Decision::Strike(strike) = plan.decide(LATE, &seen(fleet(&[1; 5]))) else { panic!("nothing was struck") };
    let later = LATE + Duration::from_secs(3600);
    assert_eq!(refusal(plan.decide(later, &seen(fleet(&[1; 5])))), Reason::VictimNotBack(strike.target));
    plan.healed(strike.id);
    assert!(matches!(plan.decide(later, &seen(fleet(&[1; 5]))), Decision::Strike(_)));
}

#[test]
fn a_fault_that_could_not_be_injected_awaits_nobody() {
    let mut plan = MonkeyPlan::new(config(7), Instant::ZERO);
    let Decision::Strike(strike) = plan.decide(LATE, &seen(fleet(&[1; 5]))) else { panic!("nothing was struck") };
    plan.not_injected(strike.id);
    assert_eq!(plan.awaits(), None);
}

#[test]
fn the_scope_is_empty_by_default_and_says_so() {
    let mut plan = MonkeyPlan::new(MonkeyConfig::default(), Instant::ZERO);
    let reason = refusal(plan.decide(LATE, &seen(fleet(&[1; 5]))));
    assert_eq!(reason, Reason::NoCandidate { seen: 5, not_opted_in: 0, out_of_scope: 5 });
    let mut shy = fleet(&[1; 5]);
    shy.iter_mut().for_each(|node| node.opted_in = false);
    let mut plan = MonkeyPlan::new(config(7), Instant::ZERO);
    let reason = refusal(plan.decide(LATE, &seen(shy)));
    assert_eq!(reason, Reason::NoCandidate { seen: 5, not_opted_in: 5, out_of_scope: 0 });
}

#[test]
fn a_member_that_no_target_is_known_for_blocks() {
    let mut plan = MonkeyPlan::new(config(7), Instant::ZERO);
    let reason = refusal(plan.decide(LATE, &seen(fleet(&[1; 4]))));
    assert!(matches!(reason, Reason::RingWeak { ready: 4, members: 5, .. }), "{reason}");
}

#[test]
fn enough_of_the_role_must_be_left() {
    let mut plan = MonkeyPlan::new(MonkeyConfig { healthy_min: 5, ..config(7) }, Instant::ZERO);
    let reason = refusal(plan.decide(LATE, &seen(fleet(&[1; 5]))));
    assert_eq!(reason, Reason::TooFewHealthy { left: 4, healthy_min: 5 });
}

#[test]
fn a_dry_run_decides_and_awaits_nobody() {
    let mut plan = MonkeyPlan::new(MonkeyConfig { dry_run: true, ..config(7) }, Instant::ZERO);
    assert!(matches!(plan.decide(LATE, &seen(fleet(&[1; 5]))), Decision::WouldStrike(_)));
    assert_eq!(plan.awaits(), None);
}

#[test]
fn it_ends_after_the_faults_asked_for() {
    let mut plan = MonkeyPlan::new(MonkeyConfig { faults_max: Some(0), ..config(7) }, Instant::ZERO);
    assert_eq!(refusal(plan.decide(LATE, &seen(fleet(&[1; 5])))), Reason::Finished(0));
}

#[test]
fn the_mean_time_between_faults_is_about_the_mean() {
    let mut prng = Prng::from_seed(1);
    let total: f64 = (0..4_000).map(|_| interval(Duration::from_secs(1), &mut prng).as_secs_f64()).sum();
    let mean = total / 4_000.0;
    // Cutting at four means takes e^-4 = 1.8 % off.
    assert!((0.93..1.03).contains(&mean), "the mean is {mean}");
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![
        6 => Just(Health::Ready),
        1 => Just(Health::NotReady("starting".to_owned())),
        1 => Just(Health::Unseen("refused".to_owned())),
    ]
}

prop_compose! {
    /// One look at a fleet of five that comes and goes, at most three seconds after the one before.
    fn look()(
        nodes in prop::collection::vec((health(), 0u64..3, prop::bool::weighted(0.9)), 5),
        wait_ms in 0u64..3_000,
        halted in prop::bool::weighted(0.1),
        blind in prop::bool::weighted(0.1),
        silent_ms in prop_oneof![8 => Just(0u64), 1 => Just(9_000u64)],
    ) -> (u64, Observation) {
        let sightings = nodes.into_iter().enumerate().map(|(at, (health, life, opted_in))| {
            Sighting { opted_in, ..node(&format!("n{at}"), life, health) }
        });
        (wait_ms, Observation {
            halted: halted.then(|| "a hand".to_owned()),
            fleet: if blind { Err("dark".to_owned()) } else { Ok(sightings.collect()) },
            verifier_silent: Duration::from_millis(silent_ms),
        })
    }
}

fn decisions(seed: u64, looks: &[(u64, Observation)]) -> Vec<Decision> {
    let mut plan = MonkeyPlan::new(config(seed), Instant::ZERO);
    let mut now = Instant::ZERO;
    let decide = |(wait_ms, observation): &(u64, Observation)| {
        now = now + Duration::from_millis(*wait_ms);
        plan.decide(now, observation)
    };
    looks.iter().map(decide).collect()
}

proptest! {
    #[test]
    fn a_strike_needs_a_whole_visible_fleet_and_a_willing_victim(
        seed in any::<u64>(),
        looks in prop::collection::vec(look(), 1..80),
    ) {
        let mut struck: Option<Strike> = None;
        for (decision, (_, observation)) in decisions(seed, &looks).into_iter().zip(&looks) {
            let Decision::Strike(strike) = decision else { continue };
            prop_assert!(observation.halted.is_none());
            prop_assert_eq!(observation.verifier_silent, Duration::ZERO);
            let nodes = observation.fleet.as_ref().expect("a blind monkey does not strike");
            prop_assert!(nodes.iter().all(|node| node.health == Health::Ready), "the ring was not whole");
            let victim = nodes.iter().find(|node| node.name == strike.target).expect("the victim was seen");
            prop_assert!(victim.opted_in);
            if let Some(earlier) = struck {
                // Nobody calls `healed` here, so only a killed victim can have come back, in another life.
                prop_assert!(earlier.kind.ends_life(), "struck while {} was still paused", earlier.target);
            }
            struck = Some(strike);
        }
    }

    #[test]
    fn one_seed_and_the_same_looks_decide_the_same(
        seed in any::<u64>(),
        looks in prop::collection::vec(look(), 1..80),
    ) {
        prop_assert_eq!(decisions(seed, &looks), decisions(seed, &looks));
    }

    #[test]
    fn looking_more_often_does_not_move_the_draws(seed in any::<u64>(), extra in 0usize..50) {
        let mut calm = MonkeyPlan::new(config(seed), Instant::ZERO);
        let mut eager = MonkeyPlan::new(config(seed), Instant::ZERO);
        for _ in 0..extra {
            eager.decide(Instant::ZERO, &seen(fleet(&[1; 5])));
        }
        prop_assert_eq!(calm.decide(LATE, &seen(fleet(&[1; 5]))), eager.decide(LATE, &seen(fleet(&[1; 5]))));
    }
}
