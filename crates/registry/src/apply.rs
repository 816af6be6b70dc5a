//! What each command does.

use std::collections::BTreeSet;

use stdx::Instant;

use crate::command::{Answer, Command, KvLock, Refusal};
use crate::deadlines::{CheckKey, Due};
use crate::kv::KvChange;
use crate::machine::{Limits, Registry};
use crate::model::{Check, CheckDefinition, CheckKind, NodeDefinition, ServiceDefinition, Status};
use crate::session::{Behavior, SessionDefinition};
use crate::snapshot::SnapshotError;
use crate::watch::Watch;

/// A session lives for at least its TTL, and for at most twice that.
const SESSION_TTL_TIMES: u32 = 2;

impl Registry {
    /// Does what `command` says, at `now`, or says why not. A command that changes nothing uses no index. Time that
    /// goes back, as it may when another machine's clock gives it, stands still instead.
    pub fn apply(&mut self, now: Instant, command: Command) -> Answer {
        assert!(self.changes.is_empty(), "the shell takes the changes of each command before the next");
        let now = now.max(Instant::from_nanos(self.state.clock));
        self.state.clock = now.as_nanos();
        let at = self.state.index + 1;
        let answer = self.apply_at(now, command, at);
        self.settle(now, at);
        if !self.changes.is_empty() {
            self.state.index = self.state.index.max(at);
        }
        answer
    }

    fn apply_at(&mut self, now: Instant, command: Command, at: u64) -> Answer {
        let limits = self.limits;
        match command {
            Command::RegisterNode(definition) => self.register_node(definition, at),
            Command::DeregisterNode { node } => self.deregister_node(&node, at),
            Command::RegisterService { node, service, checks, replace_checks } => {
                self.register_service(now, &node, service, checks, replace_checks, at)
            }
            Command::DeregisterService { node, id } => self.deregister_service(&node, &id, at),
            Command::RegisterCheck { node, check } => self.register_check(now, &node, check, at),
            Command::DeregisterCheck { node, id } => self.deregister_check(&node, &id, at),
            Command::UpdateCheck { node, id, status, output } => {
                self.update_check(now, &(node, id), status, output, at)
            }
            Command::CheckResult { node, id, status, output } => {
                self.check_result(now, &(node, id), status, output, at)
            }
            Command::KvPut(write) => {
                let change = self.state.kv.put(write, at, &limits);
                self.note_keys(change)
            }
            Command::KvLock(lock) => self.lock_key(now, lock, at),
            Command::KvUnlock(lock) => {
                let change = self.state.kv.unlock(lock, at, &limits);
                self.note_keys(change)
            }
            Command::KvDelete { key, cas } => {
                let change = self.state.kv.delete(&key, cas, at, &limits);
                self.note_keys(change)
            }
            Command::KvDeleteTree { prefix } => {
                let change = self.state.kv.delete_tree(&prefix, at, &limits);
                self.note_keys(change)
            }
            Command::CreateSession(definition) => self.create_session(now, definition, at),
            Command::RenewSession { id } => self.renew_session(now, &id),
            Command::DestroySession { id } => {
                self.end_session(now, &id, at);
                Answer::Done
            }
            Command::FireEvent(event) => {
                self.state.events.fire(event, at);
                self.changes.insert(Watch::Events);
                Answer::Done
            }
            Command::Txn(ops) => self.txn(now, ops, at),
            Command::SetPolicy(_)
            | Command::DeletePolicy { .. }
            | Command::SetToken(_)
            | Command::DeleteToken { .. }
            | Command::BootstrapAcl(_) => self.apply_acl(command, at),
            Command::Restore { snapshot } => match self.restore(now, &snapshot, limits) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Refused(Refusal::Snapshot(stdx::error_chain(&error))),
            },
            Command::GiveTime => {
                self.give_time(now);
                Answer::Done
            }
            Command::Tick => self.tick(now, at),
        }
    }

    /// What follows from a change of the catalogue: checks that follow others change with them, and sessions end with
    /// their checks.
    fn settle(&mut self, now: Instant, at: u64) {
        let nodes = |changes: &BTreeSet<Watch>| -> Vec<String> {
            let found = changes.iter().filter_map(|change| match change {
                Watch::Node(name) => Some(name.clone()),
                _ => None,
            });
            found.collect()
        };
        if !self.state.aliases.is_empty() && !nodes(&self.changes).is_empty() {
            for key in self.state.aliases.iter().cloned().collect::<Vec<CheckKey>>() {
                if let Some((status, output)) = self.alias_state(&key) {
                    self.set_status(now, &key, status, output, at);
                }
            }
        }
        for node in nodes(&self.changes) {
            let ended = self.state.sessions.on(&node).filter(|session| self.cannot_live(&session.definition).is_some());
            for id in ended.map(|session| session.definition.id.clone()).collect::<Vec<_>>() {
                self.end_session(now, &id, at);
            }
        }
    }

    pub(crate) fn note(&mut self, changes: BTreeSet<Watch>) {
        self.changes.extend(changes);
    }

    pub(crate) fn note_keys(&mut self, (outcome, keys): KvChange) -> Answer {
        self.changes.extend(keys.into_iter().map(Watch::Key));
        outcome.into()
    }

    fn apply_acl(&mut self, command: Command, at: u64) -> Answer {
        let acl = &mut self.state.acl;
        let answer = match command {
            Command::SetPolicy(policy) => acl.set_policy(policy, at),
            Command::DeletePolicy { id } => acl.delete_policy(&id),
            Command::SetToken(token) => acl.set_token(token, at),
            Command::DeleteToken { accessor } => acl.delete_token(&accessor),
            Command::BootstrapAcl(token) => acl.bootstrap(token, at),
            // No other command is given to it.
            _ => Answer::Done,
        };
        if answer == Answer::Done {
            self.changes.insert(Watch::Acl);
        }
        answer
    }

    pub(crate) fn register_node(&mut self, definition: NodeDefinition, at: u64) -> Answer {
        let most = self.limits.nodes_max;
        if self.record(&definition.name).is_none() && self.state.catalog.nodes_len() >= most {
            return Answer::Refused(Refusal::full("nodes", most));
        }
        let changes = self.state.catalog.put_node(definition, at);
        self.note(changes);
        Answer::Done
    }

    pub(crate) fn deregister_node(&mut self, node: &str, at: u64) -> Answer {
        let checks: Vec<String> = self.checks_on(node).map(|check| check.definition.id.clone()).collect();
        for id in checks {
            self.forget_check(&(node.to_owned(), id));
        }
        let changes = self.state.catalog.remove_node(node, at);
        self.note(changes);
        Answer::Done
    }

    fn register_service(
        &mut self,
        now: Instant,
        node: &str,
        service: ServiceDefinition,
        checks: Vec<CheckDefinition>,
        replace_checks: bool,
        at: u64,
    ) -> Answer {
        let Some(record) = self.record(node) else {
            return Answer::Refused(Refusal::UnknownNode(node.to_owned()));
        };
        let Limits { services_max, checks_max, .. } = self.limits;
        let new_service = !record.services.contains_key(&service.id);
        let new_checks = checks.iter().filter(|check| !record.checks.contains_key(&check.id)).count();
        if new_service && self.state.catalog.services_len() >= services_max {
            return Answer::Refused(Refusal::full("services", services_max));
        }
        if self.state.catalog.checks_len() + new_checks > checks_max {
            return Answer::Refused(Refusal::full("checks", checks_max));
        }
        let mut dropped = Vec::new();
        if replace_checks {
            let named: BTreeSet<&String> = checks.iter().map(|check| &check.id).collect();
            let belongs = |check: &&Check| check.definition.service_id.as_deref() == Some(&service.id);
            let left_over = record.checks.values().filter(belongs).map(|check| check.definition.id.clone());
            dropped.extend(left_over.filter(|id| !named.contains(id)));
        }
        let service_id = service.id.clone();
        let changes = self.state.catalog.put_service(node, service, at);
        self.note(changes);
        for id in dropped {
            self.deregister_check(node, &id, at);
        }
        for mut check in checks {
            check.service_id = Some(service_id.clone());
            self.put_check(now, node, check, true, at);
        }
        Answer::Done
    }

    pub(crate) fn deregister_service(&mut self, node: &str, id: &str, at: u64) -> Answer {
        if self.service_on(node, id).is_none() {
            return Answer::Refused(Refusal::UnknownService(id.to_owned()));
        }
        let belongs = |check: &&Check| check.definition.service_id.as_deref() == Some(id);
        let checks: Vec<String> = self.checks_on(node).filter(belongs).map(|c| c.definition.id.clone()).collect();
        for check in checks {
            self.forget_check(&(node.to_owned(), check));
        }
        let changes = self.state.catalog.remove_service(node, id, at);
        self.note(changes);
        Answer::Done
    }

    pub(crate) fn register_check(&mut self, now: Instant, node: &str, check: CheckDefinition, at: u64) -> Answer {
        let Some(record) = self.record(node) else {
            return Answer::Refused(Refusal::UnknownNode(node.to_owned()));
        };
        let owner = check.service_id.as_ref().filter(|owner| !record.services.contains_key(*owner));
        if let Some(unknown) = owner {
            return Answer::Refused(Refusal::UnknownService(unknown.clone()));
        }
        let most = self.limits.checks_max;
        if !record.checks.contains_key(&check.id) && self.state.catalog.checks_len() >= most {
            return Answer::Refused(Refusal::full("checks", most));
        }
        self.put_check(now, node, check, false, at);
        Answer::Done
    }

    fn put_check(&mut self, now: Instant, node: &str, check: CheckDefinition, keep_state: bool, at: u64) {
        let key = (node.to_owned(), check.id.clone());
        if matches!(check.kind, CheckKind::Alias { .. }) {
            self.state.aliases.insert_mut(key.clone());
        } else {
            self.state.aliases.remove_mut(&key);
        }
        let changes = self.state.catalog.put_check(node, check, keep_state, at);
        self.note(changes);
        self.arm(now, &key);
    }

    pub(crate) fn deregister_check(&mut self, node: &str, id: &str, at: u64) -> Answer {
        if self.record(node).is_none_or(|record| !record.checks.contains_key(id)) {
            return Answer::Refused(Refusal::UnknownCheck(id.to_owned()));
        }
        self.forget_check(&(node.to_owned(), id.to_owned()));
        let changes = self.state.catalog.remove_check(node, id, at);
        self.note(changes);
        Answer::Done
    }

    fn forget_check(&mut self, key: &CheckKey) {
        self.state.deadlines.set(&Due::Check(key.clone()), None);
        self.state.aliases.remove_mut(key);
    }

    fn update_check(&mut self, now: Instant, key: &CheckKey, status: Status, output: String, at: u64) -> Answer {
        let Some(check) = self.check(key) else {
            return Answer::Refused(Refusal::UnknownCheck(key.1.clone()));
        };
        if !matches!(check.definition.kind, CheckKind::Ttl(_)) {
            return Answer::Refused(Refusal::NoTtl(key.1.clone()));
        }
        self.set_status(now, key, status, output, at);
        Answer::Done
    }

    fn check_result(&mut self, now: Instant, key: &CheckKey, status: Status, output: String, at: u64) -> Answer {
        if self.check(key).is_some_and(|check| check.definition.kind.is_active()) {
            self.set_status(now, key, status, output, at);
        }
        Answer::Done
    }

    fn check(&self, key: &CheckKey) -> Option<&Check> {
        self.record(&key.0)?.checks.get(&key.1)
    }

    /// Gives a check a state and a fresh deadline. Only another status is a change: a renewal must wake nobody.
    fn set_status(&mut self, now: Instant, key: &CheckKey, status: Status, output: String, at: u64) {
        let Some(check) = self.state.catalog.check_mut(&key.0, &key.1) else { return };
        let was = check.status;
        check.status = status;
        check.output = output;
        if was != status {
            check.modify_index = at;
            let changes = self.state.catalog.note_check(&key.0, &key.1, at);
            self.note(changes);
        }
        // Critical again does not put off the end: it counts from when the check turned critical.
        if was != Status::Critical || status != Status::Critical {
            self.arm(now, key);
        }
    }

    /// Sets a check's deadline from its state.
    fn arm(&mut self, now: Instant, key: &CheckKey) {
        let wait = self.check(key).and_then(|check| match (check.status, &check.definition.kind) {
            (Status::Critical, _) => {
                check.definition.deregister_after.filter(|_| check.definition.service_id.is_some())
            }
            (_, CheckKind::Ttl(ttl)) => Some(*ttl),
            _ => None,
        });
        self.state.deadlines.set(&Due::Check(key.clone()), wait.map(|wait| now + wait));
    }

    /// What a check that follows others says: as bad as the worst of them.
    fn alias_state(&self, key: &CheckKey) -> Option<(Status, String)> {
        let CheckKind::Alias { node, service } = &self.check(key)?.definition.kind else { return None };
        let node = if node.is_empty() { &key.0 } else { node };
        let Some(record) = self.record(node) else {
            return Some((Status::Critical, format!("Node {node:?} is not registered")));
        };
        if let Some(id) = service.as_ref().filter(|id| !record.services.contains_key(*id)) {
            return Some((Status::Critical, format!("Service {id:?} could not be found on node {node:?}")));
        }
        let concerns = |check: &&Check| {
            let owner = check.definition.service_id.as_ref();
            !matches!(check.definition.kind, CheckKind::Alias { .. })
                && owner.is_none_or(|owner| Some(owner) == service.as_ref())
        };
        let worst = record.checks.values().filter(concerns).max_by_key(|check| check.status);
        Some(match worst {
            None => (Status::Passing, "No checks found.".to_owned()),
            Some(check) if check.status == Status::Passing => (Status::Passing, "All checks passing.".to_owned()),
            Some(check) => {
                let output = format!("Aliased check {:?} failing: {}", check.definition.name, check.output);
                (check.status, output)
            }
        })
    }

    fn lock_key(&mut self, now: Instant, lock: KvLock, at: u64) -> Answer {
        if self.session(&lock.session).is_none() {
            return Answer::Refused(Refusal::UnknownSession(lock.session));
        }
        let change = self.state.kv.lock(lock, now, at, &self.limits);
        self.note_keys(change)
    }

    fn create_session(&mut self, now: Instant, definition: SessionDefinition, at: u64) -> Answer {
        if let Some(refusal) = self.cannot_live(&definition) {
            return Answer::Refused(refusal);
        }
        let most = self.limits.sessions_max;
        if self.state.sessions.len() >= most {
            return Answer::Refused(Refusal::full("sessions", most));
        }
        let id = definition.id.clone();
        self.state.sessions.insert(definition, at);
        self.changes.extend([Watch::Sessions, Watch::Session(id.clone())]);
        self.arm_session(now, &id);
        Answer::Done
    }

    /// Why a session cannot begin, or go on; none if it can.
    fn cannot_live(&self, definition: &SessionDefinition) -> Option<Refusal> {
        let Some(record) = self.record(&definition.node) else { return Some(Refusal::NoNodeForSession) };
        definition.node_checks.iter().chain(&definition.service_checks).find_map(|id| match record.checks.get(id) {
            None => Some(Refusal::NoCheckForSession(id.clone())),
            Some(check) if check.status == Status::Critical => Some(Refusal::CheckCritical(id.clone())),
            Some(_) => None,
        })
    }

    fn renew_session(&mut self, now: Instant, id: &str) -> Answer {
        if self.session(id).is_none() {
            return Answer::Refused(Refusal::NoSession(id.to_owned()));
        }
        self.arm_session(now, id);
        Answer::Done
    }

    fn arm_session(&mut self, now: Instant, id: &str) {
        let ttl = self.session(id).and_then(|session| session.definition.ttl);
        let ends = ttl.map(|ttl| now + ttl.saturating_mul(SESSION_TTL_TIMES));
        self.state.deadlines.set(&Due::Session(id.to_owned()), ends);
    }

    /// Ends a session and gives back its locks, which nobody gets for its lock delay.
    pub(crate) fn end_session(&mut self, now: Instant, id: &str, at: u64) {
        let Some(session) = self.state.sessions.remove(id, at) else { return };
        self.state.deadlines.set(&Due::Session(id.to_owned()), None);
        let deletes = session.definition.behavior == Behavior::Delete;
        let free_at = now + session.definition.lock_delay;
        let keys = self.state.kv.session_gone(id, deletes, now, free_at, at, &self.limits);
        self.changes.extend(keys.into_iter().map(Watch::Key));
        self.changes.extend([Watch::Sessions, Watch::Session(id.to_owned())]);
    }

    fn tick(&mut self, now: Instant, at: u64) -> Answer {
        while let Some(due) = self.state.deadlines.pop_due(now) {
            match due {
                Due::Session(id) => self.end_session(now, &id, at),
                Due::Check(key) => self.check_is_due(now, &key, at),
            }
        }
        Answer::Done
    }

    fn check_is_due(&mut self, now: Instant, key: &CheckKey, at: u64) {
        let Some(check) = self.check(key) else { return };
        if check.status != Status::Critical {
            let output = match check.output.as_str() {
                "" => "TTL expired".to_owned(),
                last => format!("TTL expired (last output before timeout follows): {last}"),
            };
            self.set_status(now, key, Status::Critical, output, at);
        } else if let Some(service) = check.definition.service_id.clone() {
            self.deregister_service(&key.0, &service, at);
        }
    }

    /// Goes on at `now`, whatever clock gave the times before, with an index `step` further on.
    pub(crate) fn go_on(&mut self, now: Instant, step: u64) {
        self.state.clock = now.as_nanos();
        self.state.index += step;
        self.give_time(now);
    }

    /// Gives every check and session its whole time anew.
    fn give_time(&mut self, now: Instant) {
        self.state.deadlines = Default::default();
        let nodes = self.state.catalog.nodes();
        let checks = nodes.flat_map(|record| {
            record.checks.keys().map(|id| (record.node.definition.name.clone(), id.clone())).collect::<Vec<CheckKey>>()
        });
        for key in checks.collect::<Vec<_>>() {
            self.arm(now, &key);
        }
        for id in self.sessions().map(|session| session.definition.id.clone()).collect::<Vec<_>>() {
            self.arm_session(now, &id);
        }
    }

    /// Replaces everything by what a snapshot holds. The index goes on past both, so no reader misses it.
    ///
    /// # Errors
    /// The bytes are no snapshot; nothing was changed.
    pub fn restore(&mut self, now: Instant, snapshot: &[u8], limits: Limits) -> Result<(), SnapshotError> {
        let restored = Registry::from_image(snapshot, limits)?;
        let index = self.state.index.max(restored.state.index) + 1;
        self.state = restored.state;
        self.state.index = index;
        self.state.floor = index;
        self.state.clock = now.as_nanos();
        self.give_time(now);
        self.changes.insert(Watch::Everything);
        Ok(())
    }
}
