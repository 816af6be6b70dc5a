//! The killer's judgement, pure: what is seen goes in, one decision comes out.
//!
//! It is a pipeline of filters, candidates -> victims -> one strike, and each filter that leaves nobody says why. The
//! plan asks no clock and draws all chance from its seed: the same seed with the same observations decides the same.
//!
//! Invariants, each with a test:
//! - no strike while an earlier victim is not back, or any member of the ring is not ready: so never two replicas of an
//!   arc at a time;
//! - no strike while halted, nor when the fleet or the verifier cannot be seen (dead-man switch);
//! - nobody is struck who has not opted in, or whose role is not in scope; the scope is empty by default;
//! - a dry run decides and never strikes.
//!
//! Sources: chaoskube's candidates and victims; Netflix Chaos Monkey's `term.go` (refuse when in doubt).

use std::fmt;
use std::time::Duration;

use stdx::{Instant, Prng};

use crate::control::STORAGE_NODE;
use crate::faults::FaultKind;

/// What the monkey may do. The defaults reach nobody: a role must be named, and targets must opt in.
#[derive(Clone, Debug)]
pub struct MonkeyConfig {
    /// Names the whole sequence of draws.
    pub seed: u64,
    /// Mean time from one fault to the next; the times are exponential, so that no rhythm can be learned.
    pub mean: Duration,
    /// How many targets of the victim's role must be ready *beside* the victim. Default 2: a majority of three copies.
    pub healthy_min: usize,
    /// How many members the ring has at full strength; fewer ready ones block every fault.
    pub ring_members: usize,
    /// End after that many faults; none for no end.
    pub faults_max: Option<u64>,
    /// Which faults to draw from; empty for none.
    pub kinds: Vec<FaultKind>,
    /// Which roles are in scope.
    pub roles: Vec<String>,
    /// Decide, and do not act.
    pub dry_run: bool,
    /// A verifier that has seen no answer for longer than this blocks every fault.
    pub verifier_silence_max: Duration,
}

/// What the shell sees of the fleet, all at one time.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Who holds the halt switch, if it is set.
    pub halted: Option<String>,
    /// The targets, or why they cannot be seen.
    pub fleet: Result<Vec<Sighting>, String>,
    /// How long ago the verifier last got an answer.
    pub verifier_silent: Duration,
}

/// One target as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its name, unique in the fleet.
    pub name: String,
    /// Its role (`storage-node`, …).
    pub role: String,
    /// Whether it may be struck at all.
    pub opted_in: bool,
    /// Which life of it: differs after every start (the incarnation where it tells one, else the process id).
    pub life: u64,
    /// Its `service.instance.id`, where that is not its name with its life.
    pub instance_id: Option<String>,
    /// Whether it serves.
    pub health: Health,
}

/// Whether a target serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It says that it is ready, and was asked just now.
    Ready,
    /// It answers, and is not ready (yet).
    NotReady(String),
    /// It does not answer.
    Unseen(String),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Inject this fault.
    Strike(Strike),
    /// A dry run: this would have been injected.
    WouldStrike(Strike),
    /// Nothing was chosen, and why.
    Wait(Reason),
}

/// A chosen fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// The fault's number in this run, from 1.
    pub id: u64,
    /// What to do.
    pub kind: FaultKind,
    /// To whom.
    pub target: String,
    /// Which life of the target ends or suffers.
    pub life: u64,
}

/// Why nothing was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The halt switch is set.
    Halted(String),
    /// The number of faults asked for has been reached.
    Finished(u64),
    /// The time drawn has not come.
    NotDue(Duration),
    /// The dead-man switch: the fleet cannot be seen.
    FleetUnseen(String),
    /// The dead-man switch: the verifier sees no answers.
    VerifierSilent(Duration),
    /// The last victim is not back.
    VictimNotBack(String),
    /// The ring is not at full strength.
    RingWeak {
        /// Members that are ready.
        ready: usize,
        /// Members that there are.
        members: usize,
        /// The first one that is not ready, with its state.
        missing: String,
    },
    /// Nobody is in scope.
    NoCandidate {
        /// Targets looked at.
        seen: usize,
        /// Those that did not opt in.
        not_opted_in: usize,
        /// Those whose role is not in scope.
        out_of_scope: usize,
    },
    /// Too few would be left.
    TooFewHealthy {
        /// Ready targets of the role beside the victim.
        left: usize,
        /// How many there must be.
        healthy_min: usize,
    },
    /// No kind of fault is allowed.
    NoKind,
}

/// The plan's state.
#[derive(Clone, Debug)]
pub struct MonkeyPlan {
    config: MonkeyConfig,
    prng: Prng,
    next_at: Instant,
    strikes: u64,
    outstanding: Option<Outstanding>,
}

/// A victim that is not back yet.
#[derive(Clone, Debug)]
struct Outstanding {
    strike: Strike,
    /// For faults that do not end the victim's life: whether the shell has undone it.
    healed: bool,
}

/// An exponential draw is cut at this multiple of its mean, so that one rare draw does not make a run void.
const INTERVAL_MAX_MEANS: f64 = 4.0;

impl Default for MonkeyConfig {
    fn default() -> MonkeyConfig {
        MonkeyConfig {
            seed: 0,
            mean: Duration::from_secs(10),
            healthy_min: 2,
            ring_members: 0,
            faults_max: None,
            kinds: vec![FaultKind::Kill],
            roles: Vec::new(),
            dry_run: false,
            verifier_silence_max: Duration::from_secs(2),
        }
    }
}

impl MonkeyPlan {
    /// A plan whose first fault comes one drawn interval after `now`.
    pub fn new(config: MonkeyConfig, now: Instant) -> MonkeyPlan {
        let mut prng = Prng::from_seed(config.seed);
        let next_at = now + interval(config.mean, &mut prng);
        MonkeyPlan { config, prng, next_at, strikes: 0, outstanding: None }
    }

    /// The plan's settings.
    pub fn config(&self) -> &MonkeyConfig {
        &self.config
    }

    /// Faults decided so far, dry ones too.
    pub fn strikes(&self) -> u64 {
        self.strikes
    }

    /// Whether a victim is still awaited.
    pub fn awaits(&self) -> Option<&str> {
        self.outstanding.as_ref().map(|outstanding| outstanding.strike.target.as_str())
    }

    /// Decides. Draws chance only when it strikes, so that how often it is asked does not move the sequence.
    pub fn decide(&mut self, now: Instant, seen: &Observation) -> Decision {
        match self.victim(now, seen) {
            Ok(victim) => self.strike(now, &victim),
            Err(reason) => Decision::Wait(reason),
        }
    }

    /// The shell has undone a fault that leaves its victim alive.
    pub fn healed(&mut self, strike_id: u64) {
        if let Some(outstanding) = self.outstanding.as_mut().filter(|known| known.strike.id == strike_id) {
            outstanding.healed = true;
        }
    }

    /// The fault could not be injected: its victim is untouched and not awaited.
    pub fn not_injected(&mut self, strike_id: u64) {
        self.outstanding = self.outstanding.take().filter(|known| known.strike.id != strike_id);
    }

    /// All guards and filters, in order; the list of possible victims, or why there is none.
    fn victim(&mut self, now: Instant, seen: &Observation) -> Result<Vec<Sighting>, Reason> {
        if let Some(who) = &seen.halted {
            return Err(Reason::Halted(who.clone()));
        }
        let fleet = seen.fleet.as_ref().map_err(|why| Reason::FleetUnseen(why.clone()))?;
        // Whether the victim is back is looked at each time, so that its return is noticed before the next is due.
        self.forget_returned(fleet);
        if let Some(most) = self.config.faults_max.filter(|most| self.strikes >= *most) {
            return Err(Reason::Finished(most));
        }
        if now < self.next_at {
            return Err(Reason::NotDue(self.next_at.since(now)));
        }
        if seen.verifier_silent > self.config.verifier_silence_max {
            return Err(Reason::VerifierSilent(seen.verifier_silent));
        }
        if let Some(outstanding) = &self.outstanding {
            return Err(Reason::VictimNotBack(outstanding.strike.target.clone()));
        }
        full_strength(fleet, self.config.ring_members)?;
        if self.config.kinds.is_empty() {
            return Err(Reason::NoKind);
        }
        victims(candidates(fleet, &self.config)?, fleet, self.config.healthy_min)
    }

    fn strike(&mut self, now: Instant, victims: &[Sighting]) -> Decision {
        let victim = &victims[self.prng.index(victims.len())];
        let kind = self.config.kinds[self.prng.index(self.config.kinds.len())];
        self.next_at = now + interval(self.config.mean, &mut self.prng);
        self.strikes += 1;
        let strike = Strike { id: self.strikes, kind, target: victim.name.clone(), life: victim.life };
        if self.config.dry_run {
            return Decision::WouldStrike(strike);
        }
        self.outstanding = Some(Outstanding { strike: strike.clone(), healed: false });
        Decision::Strike(strike)
    }

    fn forget_returned(&mut self, fleet: &[Sighting]) {
        let Some(Outstanding { strike, healed }) = &self.outstanding else { return };
        let back = fleet.iter().find(|seen| seen.name == strike.target).is_some_and(|seen| {
            // A killed target's last words may still say "ready": only another life is a return.
            let lives_on = if strike.kind.ends_life() { seen.life != strike.life } else { *healed };
            seen.health == Health::Ready && lives_on
        });
        if back {
            self.outstanding = None;
        }
    }
}

/// Filter 1: who may be struck at all, in the order of their names.
fn candidates(fleet: &[Sighting], config: &MonkeyConfig) -> Result<Vec<Sighting>, Reason> {
    let in_scope = |seen: &&Sighting| config.roles.contains(&seen.role);
    let mut kept: Vec<Sighting> = fleet.iter().filter(in_scope).filter(|seen| seen.opted_in).cloned().collect();
    if kept.is_empty() {
        return Err(Reason::NoCandidate {
            seen: fleet.len(),
            not_opted_in: fleet.iter().filter(in_scope).filter(|seen| !seen.opted_in).count(),
            out_of_scope: fleet.iter().filter(|seen| !in_scope(seen)).count(),
        });
    }
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(kept)
}

/// Filter 2: whose loss leaves enough of their role.
fn victims(candidates: Vec<Sighting>, fleet: &[Sighting], healthy_min: usize) -> Result<Vec<Sighting>, Reason> {
    let left_beside = |victim: &Sighting| {
        let beside = fleet.iter().filter(|seen| seen.role == victim.role && seen.name != victim.name);
        beside.filter(|seen| seen.health == Health::Ready).count()
    };
    let most_left = candidates.iter().map(left_beside).max().unwrap_or(0);
    let kept: Vec<Sighting> = candidates
        .into_iter()
        .filter(|victim| victim.health == Health::Ready && left_beside(victim) >= healthy_min)
        .collect();
    if kept.is_empty() { Err(Reason::TooFewHealthy { left: most_left, healthy_min }) } else { Ok(kept) }
}

/// The guard for arcs: every storage node is ready, whether it opted in or not, and they are as many as the ring has.
fn full_strength(fleet: &[Sighting], members: usize) -> Result<(), Reason> {
    let nodes = || fleet.iter().filter(|seen| seen.role == STORAGE_NODE);
    let ready = nodes().filter(|seen| seen.health == Health::Ready).count();
    let members = members.max(nodes().count());
    if ready >= members {
        return Ok(());
    }
    let missing = nodes().find_map(|seen| match &seen.health {
        Health::Ready => None,
        Health::NotReady(why) | Health::Unseen(why) => Some(format!("{}: {why}", seen.name)),
    });
    let missing = missing.unwrap_or_else(|| "members that no target is known for".to_owned());
    Err(Reason::RingWeak { ready, members, missing })
}

fn interval(mean: Duration, prng: &mut Prng) -> Duration {
    let means = -(1.0 - prng.unit()).ln();
    mean.mul_f64(means.min(INTERVAL_MAX_MEANS))
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Halted(who) => write!(f, "halted by {who}"),
            Reason::Finished(most) => write!(f, "all {most} faults asked for have been injected"),
            Reason::NotDue(left) => write!(f, "the next fault is due in {:.1} s", left.as_secs_f64()),
            Reason::FleetUnseen(why) => write!(f, "dead-man switch: the fleet cannot be seen ({why})"),
            Reason::VerifierSilent(silent) => {
                write!(f, "dead-man switch: the verifier has had no answer for {:.1} s", silent.as_secs_f64())
            }
            Reason::VictimNotBack(name) => write!(f, "the last victim, {name}, is not back yet"),
            Reason::RingWeak { ready, members, missing } => {
                write!(f, "the ring is not at full strength: {ready} of {members} members are ready ({missing})")
            }
            Reason::NoCandidate { seen, not_opted_in, out_of_scope } => write!(
                f,
                "nobody may be struck: of {seen} targets {out_of_scope} are out of scope and {not_opted_in} did not \
                 opt in"
            ),
            Reason::TooFewHealthy { left, healthy_min } => {
                write!(f, "a fault would leave {left} ready of its role, and {healthy_min} must be left")
            }
            Reason::NoKind => f.write_str("no kind of fault is allowed"),
        }
    }
}

#[cfg(test)]
#[path = "monkey_test.rs"]
mod tests;
