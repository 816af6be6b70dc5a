//! Whom faults can reach: the fleet as whoever runs it shows it.

use std::time::Duration;

use crate::faults::Fault;
use crate::monkey::{Health, Strike};

/// The role whose members make up the ring.
pub const STORAGE_NODE: &str = "storage-node";

/// One process that may be a victim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, unique in the fleet (`n3`).
    pub name: String,
    /// Its role (`storage-node`, `gateway`, …).
    pub role: String,
    /// What tells the process that runs now from all others of this name (a process id, a pod); none while it is down.
    /// A storage node is asked for its incarnation instead.
    pub life: Option<u64>,
    /// Its `service.instance.id`, where that is not its name with its life.
    pub instance_id: Option<String>,
    /// Whether it agreed to be struck. Who did not is never touched.
    pub opted_in: bool,
    /// Where it says how it is: `host:port` of its HTTP side. A storage node without one counts as not seen.
    pub http: Option<String>,
    /// What its keeper knows about it.
    pub state: TargetState,
}

/// What a process's keeper knows without asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// It was started and has not yet said that it is ready.
    Starting,
    /// It runs.
    Running,
    /// It has ended, and its keeper will start it again.
    Down,
}

/// A fault as it is ordered: what is to be done, and what names it wherever it is told of.
#[derive(Clone, Debug)]
pub struct Order {
    /// What was decided.
    pub strike: Strike,
    /// How long a pause lasts.
    pub pause: Duration,
    /// The run.
    pub run_id: String,
    /// The trace of the fault's own span, 32 hex digits.
    pub trace_id: String,
}

/// The fleet's keeper, as the monkey sees it: `everring up` in the same process, a cluster's API elsewhere.
pub trait FleetControl: Send + Sync {
    /// All targets, whether they opted in or not, with their present state.
    ///
    /// # Errors
    /// They cannot be seen, or we may not act on them at present; the sentence says why. Nobody is struck then.
    fn targets(&self) -> Result<Vec<Target>, String>;

    /// The fault that carries out an order. Who runs under the target's name is looked up now, right before the fault
    /// is injected, so that whoever took the victim's place in the meantime is not struck.
    ///
    /// # Errors
    /// It cannot be done to this target; the sentence says why.
    fn fault(&self, order: &Order) -> Result<Box<dyn Fault>, String>;
}

impl Target {
    /// Its health as far as its keeper can tell, for roles that are not asked themselves.
    pub fn keeper_health(&self) -> Health {
        match self.state {
            TargetState::Running => Health::Ready,
            TargetState::Starting => Health::NotReady("starting".to_owned()),
            TargetState::Down => Health::Unseen("not running".to_owned()),
        }
    }
}
