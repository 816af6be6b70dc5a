//! What must hold.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use consensus::{Role, Status};
use registry::Registry;

/// What was seen of all replicas, ever.
#[derive(Default)]
pub struct Judge {
    /// Who led in each term.
    leaders: BTreeMap<u64, u64>,
    /// The state after each entry.
    states: BTreeMap<u64, (u64, u64)>,
    /// Values that were answered as written or read, by key: no later read may see less.
    pub seen: BTreeMap<u64, u64>,
    /// Values that somebody tried to write: no read may see more.
    pub tried: BTreeMap<u64, u64>,
    /// Who was told to hold the lock.
    pub holder: Option<u64>,
}

impl Judge {
    /// Looks at a replica after each event of it.
    pub fn look_at_role(&mut self, status: &Status) -> Result<(), String> {
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(status.id);
            if leader != status.id {
                return Err(format!("two leaders in term {}: {leader:x} and {:x}", status.term, status.id));
            }
        }
        Ok(())
    }

    /// Looks at a replica that has applied something. `image` is everything it agreed on.
    pub fn look_at_state(&mut self, status: &Status, registry: &Registry, image: &[u8]) -> Result<(), String> {
        if status.applied > 0 {
            let mut hasher = DefaultHasher::new();
            image.hash(&mut hasher);
            let state = (hasher.finish(), registry.index());
            let known = *self.states.entry(status.applied).or_insert(state);
            if known != state {
                return Err(format!("replica {:x} differs from another after entry {}", status.id, status.applied));
            }
            if let Some((index, (_, before))) = self.states.range(..status.applied).next_back()
                && *before > state.1
            {
                return Err(format!("the registry's index went back after entry {index}"));
            }
        }
        let critical = registry.checks_on("n").find(|check| check.status == registry::Status::Critical);
        match critical {
            Some(check) => Err(format!("{} expired, though its owner renewed it all the time", check.definition.id)),
            None => Ok(()),
        }
    }

    /// A read was granted: `least` is what had been seen when it began.
    pub fn judge_read(&mut self, key: u64, least: u64, value: u64) -> Result<(), String> {
        let most = self.tried.get(&key).copied().unwrap_or(0);
        if value < least {
            return Err(format!("a read of key {key} saw {value} after {least} had been seen"));
        }
        if value > most {
            return Err(format!("a read of key {key} saw {value}, which nobody wrote"));
        }
        let seen = self.seen.entry(key).or_default();
        *seen = value.max(*seen);
        Ok(())
    }
}
