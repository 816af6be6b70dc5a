//! The fleet as the monkey sees it.

use std::sync::Arc;

use chaos::{Fault, FleetControl, Order, Target, TargetState};
use tokio::sync::watch;

use super::keeper::{Lives, Roster};

/// The children of `everring up` as possible victims.
pub struct LocalFleet {
    /// What they were started with.
    pub roster: Roster,
    /// Their states.
    pub lives: Arc<watch::Sender<Lives>>,
    /// The roles that may be struck.
    pub victims: Vec<String>,
}

impl FleetControl for LocalFleet {
    fn targets(&self) -> Result<Vec<Target>, String> {
        let lives = self.lives.borrow();
        let life_of = |name: &str| lives.get(name).cloned().unwrap_or_default();
        // Who has left the ring is no victim any more.
        let there = self.roster.specs().into_iter().filter(|spec| !life_of(&spec.name).over);
        let targets = there.map(|spec| {
            let life = life_of(&spec.name);
            let state = match (life.pid, life.ready) {
                (None, _) => TargetState::Down,
                (Some(_), false) => TargetState::Starting,
                (Some(_), true) => TargetState::Running,
            };
            Target {
                name: spec.name.clone(),
                role: spec.role.name().to_owned(),
                life: life.pid.map(u64::from),
                instance_id: None,
                opted_in: self.victims.iter().any(|role| role == spec.role.name()),
                http: Some(spec.http.clone()),
                state,
            }
        });
        Ok(targets.collect())
    }

    fn fault(&self, order: &Order) -> Result<Box<dyn Fault>, String> {
        let pid = self.lives.borrow().get(&order.strike.target).and_then(|life| life.pid);
        let pid = pid.ok_or_else(|| "no process of this name is running".to_owned())?;
        order.strike.kind.against(pid, order.pause)
    }
}
