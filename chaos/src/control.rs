//! Whom faults can reach: the fleet as whoever runs it shows it.

use crate::monkey::Health;

/// The role whose members make up the ring.
pub const STORAGE_NODE: &str = "storage-node";

/// One process that may be a victim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, unique in the fleet (`n3`).
    pub name: String,
    /// Its role (`storage-node`, `gateway`, …).
    pub role: String,
    /// The process that runs now; none while it is down.
    pub pid: Option<u32>,
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

/// The fleet's keeper, as the monkey sees it: `everring up` in the same process, a cluster's API elsewhere.
pub trait FleetControl: Send + Sync {
    /// All targets, whether they opted in or not, with their present state.
    fn targets(&self) -> Vec<Target>;

    /// The process that runs under this name now. Asked again right before a signal is sent, so that a process number
    /// that another program got in the meantime is not struck.
    fn pid(&self, name: &str) -> Option<u32>;
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
