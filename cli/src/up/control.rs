//! The fleet as the monkey sees it.

use std::sync::Arc;

use chaos::{FleetControl, Target, TargetState};
use tokio::sync::watch;

use super::keeper::{Lives, Spec};

/// The children of `everring up` as possible victims.
pub struct LocalFleet {
    /// What they were started with.
    pub specs: Arc<[Spec]>,
    /// Their states.
    pub lives: Arc<watch::Sender<Lives>>,
    /// The roles that may be struck.
    pub victims: Vec<String>,
}

impl FleetControl for LocalFleet {
    fn targets(&self) -> Vec<Target> {
        let lives = self.lives.borrow();
        let targets = self.specs.iter().map(|spec| {
            let life = lives.get(&spec.name).cloned().unwrap_or_default();
            let state = match (life.pid, life.ready) {
                (None, _) => TargetState::Down,
                (Some(_), false) => TargetState::Starting,
                (Some(_), true) => TargetState::Running,
            };
            Target {
                name: spec.name.clone(),
                role: spec.role.name().to_owned(),
                pid: life.pid,
                opted_in: self.victims.iter().any(|role| role == spec.role.name()),
                http: Some(spec.http.clone()),
                state,
            }
        });
        targets.collect()
    }

    fn pid(&self, name: &str) -> Option<u32> {
        self.lives.borrow().get(name).and_then(|life| life.pid)
    }
}
