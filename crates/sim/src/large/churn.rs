//! A ring whose members come and go all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use chord::Config;
use chord::invariants::{self, MemberView};

use super::search::{End, Search};
use super::{Crowd, Happening};

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Members; for each that dies another comes at once.
    pub nodes: usize,
    /// The members' configuration.
    pub config: Config,
    /// The median of a member's life; none for members that live for ever.
    pub session: Option<Duration>,
    /// How long, in virtual time.
    pub length: Duration,
    /// Lookups in each virtual second, in all.
    pub lookups_per_s: f64,
    /// The name of the run.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Churned {
    /// Lookups that ended.
    pub lookups: u64,
    /// Of these, at somebody else than the owner.
    pub wrong_owner: u64,
    /// Of these, nowhere within 5 s.
    pub failed: u64,
    /// Hops of those that ended rightly, on average, the owner's own word included.
    pub hops: f64,
    /// The time that 99 of 100 took at most, in milliseconds.
    pub p99_ms: u64,
    /// Messages of repair: stabilize, rectify, fingers, joins. Lookups are not among them.
    pub messages_per_node_second: f64,
    /// Members that died.
    pub crashes: u64,
    /// Of the entries in successor lists, the share that was dead, over the looks of the second half.
    pub stale_successors: f64,
    /// Of the entries in finger tables, the share that was dead.
    pub stale_fingers: f64,
    /// Of members, the share whose first successor was not the right one.
    pub wrong_successor: f64,
    /// Entries that a member keeps: successors, predecessor and fingers, on average.
    pub entries: f64,
    /// Looks at the ring.
    pub looks: u64,
    /// Looks at which an invariant was broken.
    pub broken: u64,
    /// Events simulated.
    pub events: u64,
}

/// How often the ring is looked at, in milliseconds.
const LOOK_EVERY_MS: u64 = 5_000;
/// Up to so many members all invariants are checked at each look.
const CHECKED_MAX: usize = 5_000;
/// Members that are looked at each time.
const LOOKED_AT: usize = 1_000;

/// Runs `plan`.
pub fn churn(plan: &Plan) -> Churned {
    let mut crowd = Crowd::laid_down(plan.nodes, plan.config, plan.seed);
    crowd.start();
    let mut run = Run { plan, found: Churned::default(), searches: BTreeMap::new(), next: 0, tally: Tally::default() };
    for member in 0..plan.nodes as u32 {
        run.plan_death(&mut crowd, member);
    }
    run.plan_lookup(&mut crowd);
    crowd.agenda.push(LOOK_EVERY_MS, Happening::Look);
    let end_ms = plan.length.as_millis() as u64;
    while let Some(happening) = crowd.next(end_ms) {
        match happening {
            Happening::Tick(member) => crowd.tick(member),
            Happening::Arrive(envelope) => crowd.arrive(*envelope),
            Happening::Search(id) => run.search(&mut crowd, id),
            Happening::Ask => run.ask(&mut crowd),
            Happening::Crash(member) => {
                run.found.crashes += 1;
                crowd.crash(member);
                let newcomer = crowd.join();
                run.plan_death(&mut crowd, newcomer);
            }
            Happening::Look => {
                run.look(&crowd);
                let next = crowd.now_ms + LOOK_EVERY_MS;
                crowd.agenda.push(next, Happening::Look);
            }
        }
    }
    run.finish(&crowd)
}

struct Run<'a> {
    plan: &'a Plan,
    found: Churned,
    searches: BTreeMap<u32, Search>,
    next: u32,
    tally: Tally,
}

/// Sums behind the averages.
#[derive(Default)]
struct Tally {
    hops: u64,
    times_ms: Vec<u32>,
    successors: u64,
    dead_successors: u64,
    fingers: u64,
    dead_fingers: u64,
    members: u64,
    wrong_successor: u64,
}

impl Run<'_> {
    fn plan_death(&self, crowd: &mut Crowd, member: u32) {
        let Some(median) = self.plan.session else { return };
        let mean = median.as_secs_f64() / std::f64::consts::LN_2;
        let life = -(1.0 - crowd.prng.unit()).ln() * mean;
        let at = crowd.now_ms + (life * 1_000.0) as u64 + 1;
        crowd.agenda.push(at, Happening::Crash(member));
    }

    fn plan_lookup(&self, crowd: &mut Crowd) {
        if self.plan.lookups_per_s > 0.0 {
            let wait = -(1.0 - crowd.prng.unit()).ln() / self.plan.lookups_per_s;
            let at = crowd.now_ms + (wait * 1_000.0).round() as u64;
            crowd.agenda.push(at, Happening::Ask);
        }
    }

    fn ask(&mut self, crowd: &mut Crowd) {
        self.next += 1;
        let id = self.next;
        if let Some(search) = crowd.begin_search(id) {
            self.searches.insert(id, search);
        }
        self.plan_lookup(crowd);
    }

    fn search(&mut self, crowd: &mut Crowd, id: u32) {
        let Some(search) = self.searches.get_mut(&id) else { return };
        let end = crowd.search(id, search);
        match end {
            End::Not => return,
            End::Right { hops, took_ms } => {
                self.tally.hops += u64::from(hops);
                self.tally.times_ms.push(took_ms as u32);
            }
            End::Wrong => self.found.wrong_owner += 1,
            End::Failed => self.found.failed += 1,
        }
        self.found.lookups += 1;
        self.searches.remove(&id);
    }

    fn look(&mut self, crowd: &Crowd) {
        self.found.looks += 1;
        self.check(crowd);
        // It began with right pointers everywhere: what comes of churn shows later.
        if u128::from(crowd.now_ms) * 2 < self.plan.length.as_millis() {
            return;
        }
        let step = (crowd.running.len() / LOOKED_AT).max(1);
        for member in crowd.running.iter().step_by(step) {
            let Some(chord) = crowd.members[*member as usize].as_ref().filter(|chord| chord.is_member()) else {
                continue;
            };
            let dead = |peer: &&chord::Peer| crowd.member(peer.node).is_none();
            let tally = &mut self.tally;
            tally.members += 1;
            tally.successors += chord.successors().len() as u64;
            tally.dead_successors += chord.successors().iter().filter(dead).count() as u64;
            tally.fingers += chord.fingers().len() as u64;
            tally.dead_fingers += chord.fingers().iter().filter(dead).count() as u64;
            let right = crowd.owner_after(membership::Position(chord.me().position.0.wrapping_add(1)));
            let is = chord.successors().first().map(|peer| super::index_of(peer.node));
            tally.wrong_successor += u64::from(is.is_some() && is != right);
        }
    }

    fn check(&mut self, crowd: &Crowd) {
        if crowd.running.len() <= CHECKED_MAX {
            let members = || crowd.running.iter().filter_map(|member| crowd.members[*member as usize].as_ref());
            let mut views: Vec<MemberView> = members().filter_map(chord::Chord::view).collect();
            views.sort_unstable_by_key(|view| view.me.position);
            // While members come and go, their successors and fingers may be behind; where nobody does, they may not.
            let at_rest = self.plan.session.is_none();
            let broken = invariants::check_with_principals(&views, self.plan.config.successors).is_err()
                || at_rest && crate::ring_watch::joined_well(members(), &[]).is_err();
            self.found.broken += u64::from(broken);
        }
    }

    fn finish(self, crowd: &Crowd) -> Churned {
        let Run { plan, mut found, mut tally, .. } = self;
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        tally.times_ms.sort_unstable();
        let at = tally.times_ms.len() * 99 / 100;
        found.p99_ms = tally.times_ms.get(at).copied().map_or(0, u64::from);
        found.hops = share(tally.hops, tally.times_ms.len() as u64);
        found.messages_per_node_second = crowd.messages as f64 / (plan.nodes as f64 * plan.length.as_secs_f64());
        found.stale_successors = share(tally.dead_successors, tally.successors);
        found.stale_fingers = share(tally.dead_fingers, tally.fingers);
        found.wrong_successor = share(tally.wrong_successor, tally.members);
        found.entries = share(tally.successors + tally.fingers, tally.members) + 1.0;
        found.events = crowd.events;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(session_s: Option<u64>) -> Plan {
        Plan {
            nodes: 200,
            config: super::super::config(),
            session: session_s.map(Duration::from_secs),
            length: Duration::from_secs(60),
            lookups_per_s: 50.0,
            seed: 3,
        }
    }

    #[test]
    fn a_quiet_ring_stays_ideal() {
        let found = churn(&plan(None));
        assert_eq!((found.wrong_owner, found.failed, found.broken), (0, 0, 0));
        assert_eq!((found.stale_successors, found.stale_fingers, found.wrong_successor), (0.0, 0.0, 0.0));
        assert!(found.lookups > 2_500, "{found:?}");
        assert!(found.hops <= 0.5 * 200f64.log2() + 1.0, "{found:?}");
    }

    #[test]
    fn under_churn_no_lookup_ends_at_the_wrong_owner() {
        let found = churn(&plan(Some(60)));
        assert!(found.crashes > 80, "{found:?}");
        assert_eq!((found.wrong_owner, found.broken), (0, 0), "{found:?}");
        assert!(found.failed * 200 < found.lookups, "{found:?}");
        assert!(found.stale_fingers > 0.0, "deaths leave traces: {found:?}");
    }

    #[test]
    fn a_seed_names_a_run() {
        let (once, again) = (churn(&plan(Some(120))), churn(&plan(Some(120))));
        assert_eq!(format!("{once:?}"), format!("{again:?}"));
    }
}
