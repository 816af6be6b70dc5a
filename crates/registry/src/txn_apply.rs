//! What a transaction does.

use stdx::Instant;

use crate::command::{Answer, KvLock, Outcome, Refusal};
use crate::kv::{KvChange, KvEntry};
use crate::machine::Registry;
use crate::model::{CheckDefinition, NodeDefinition, ServiceDefinition};
use crate::txn::{TxnError, TxnOp, TxnResult, Verb};
use crate::watch::Watch;

/// What one operation gives, or why it fails.
type Given = Result<Vec<TxnResult>, String>;

impl Registry {
    /// Answers a transaction that only reads, from the state as it is.
    pub fn read_txn(&self, ops: &[TxnOp]) -> Answer {
        assert!(ops.iter().all(TxnOp::only_reads), "one that writes is a command");
        self.clone().txn(Instant::from_nanos(self.state.clock), ops.to_vec(), self.state.index)
    }

    /// Does all operations one after the other, or, when one fails, none. The others are tried nevertheless, so that
    /// all that is wrong is told at once.
    pub(crate) fn txn(&mut self, now: Instant, ops: Vec<TxnOp>, at: u64) -> Answer {
        let before = self.clone();
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for (op, wanted) in ops.into_iter().enumerate() {
            match self.txn_op(now, wanted, at) {
                Ok(given) => results.extend(given),
                Err(what) => errors.push(TxnError { op, what }),
            }
        }
        if errors.is_empty() {
            return Answer::Txn(results);
        }
        *self = before;
        Answer::TxnFailed(errors)
    }

    fn txn_op(&mut self, now: Instant, op: TxnOp, at: u64) -> Given {
        let limits = self.limits;
        match op {
            TxnOp::KvSet(write) => {
                let key = write.key.clone();
                let change = self.state.kv.put(write, at, &limits);
                self.txn_kv(change, &key, "failed to set", "index is stale")
            }
            TxnOp::KvLock(lock) => self.txn_lock(now, lock, at),
            TxnOp::KvUnlock(lock) => {
                let key = lock.key.clone();
                let change = self.state.kv.unlock(lock, at, &limits);
                self.txn_kv(change, &key, "failed to unlock", "lock isn't held, or is held by another session")
            }
            TxnOp::KvGet(key) => match self.kv(&key) {
                Some(entry) => Ok(vec![TxnResult::Kv { entry: entry.clone(), key }]),
                None => Err(format!("key {key:?} doesn't exist")),
            },
            TxnOp::KvGetOrEmpty(key) => {
                Ok(vec![TxnResult::Kv { entry: self.kv(&key).cloned().unwrap_or_default(), key }])
            }
            TxnOp::KvGetTree(prefix) => {
                let found = self.kv_under(&prefix);
                Ok(found.map(|(key, entry)| TxnResult::Kv { key: key.clone(), entry: entry.clone() }).collect())
            }
            TxnOp::KvCheckIndex { key, index } => {
                let entry = self.kv(&key).ok_or_else(|| format!("key {key:?} doesn't exist"))?;
                let now = entry.modify_index;
                let stale = || format!("failed index check for key {key:?}, current modify index {now} != {index}");
                if now == index { self.txn_written(&key) } else { Err(stale()) }
            }
            TxnOp::KvCheckSession { key, session } => {
                let entry = self.kv(&key).ok_or_else(|| format!("key {key:?} doesn't exist"))?;
                let holder = entry.session.clone().unwrap_or_default();
                let other =
                    || format!("failed session check for key {key:?}, current session {holder:?} != {session:?}");
                if holder == session { self.txn_written(&key) } else { Err(other()) }
            }
            TxnOp::KvCheckNotExists(key) => match self.kv(&key) {
                Some(_) => Err(format!("key {key:?} exists")),
                None => Ok(Vec::new()),
            },
            TxnOp::KvDelete { key, cas } => {
                let (outcome, keys) = self.state.kv.delete(&key, cas, at, &limits);
                self.changes.extend(keys.into_iter().map(Watch::Key));
                if outcome == Outcome::Done {
                    Ok(Vec::new())
                } else {
                    Err(format!("failed to delete key {key:?}, index is stale"))
                }
            }
            TxnOp::KvDeleteTree(prefix) => {
                let (_, keys) = self.state.kv.delete_tree(&prefix, at, &limits);
                self.changes.extend(keys.into_iter().map(Watch::Key));
                Ok(Vec::new())
            }
            TxnOp::Node(verb, node) => self.txn_node(verb, node, at),
            TxnOp::Service(verb, node, service) => self.txn_service(verb, node, service, at),
            TxnOp::Check(verb, node, check) => self.txn_check(now, verb, node, check, at),
            TxnOp::SessionDelete(id) => {
                self.end_session(now, &id, at);
                Ok(Vec::new())
            }
        }
    }

    fn txn_lock(&mut self, now: Instant, lock: KvLock, at: u64) -> Given {
        let key = lock.key.clone();
        if self.session(&lock.session).is_none() {
            return Err(Refusal::UnknownSession(lock.session).to_string());
        }
        let change = self.state.kv.lock(lock, now, at, &self.limits);
        if change.0 == Outcome::LockDelayed {
            return Err(format!("failed to lock key {key:?} due to lock delay"));
        }
        self.txn_kv(change, &key, "failed to lock", "lock is already held")
    }

    fn txn_kv(&mut self, (outcome, keys): KvChange, key: &str, failed: &str, why: &str) -> Given {
        self.changes.extend(keys.into_iter().map(Watch::Key));
        match outcome {
            Outcome::Done => self.txn_written(key),
            Outcome::NotSwapped | Outcome::LockDelayed => Err(format!("{failed} key {key:?}, {why}")),
            Outcome::Refused(refusal) => Err(refusal.to_string()),
        }
    }

    /// The pair as it is now, without its value.
    fn txn_written(&self, key: &str) -> Given {
        let entry = self.kv(key).map(|entry| KvEntry { value: Vec::new(), ..entry.clone() });
        Ok(entry.into_iter().map(|entry| TxnResult::Kv { key: key.to_owned(), entry }).collect())
    }

    fn txn_node(&mut self, verb: Verb, node: NodeDefinition, at: u64) -> Given {
        let name = node.name.clone();
        let index = self.node(&name).map_or(0, |node| node.modify_index);
        let stale = |doing: &str| Err(format!("failed to {doing} node {name:?}, index is stale"));
        match verb {
            Verb::Get if index == 0 => return Err(format!("node {name:?} doesn't exist")),
            Verb::Cas(wanted) if wanted != index => return stale("set"),
            Verb::DeleteCas(wanted) if wanted != index => return stale("delete"),
            Verb::Get => {}
            Verb::Set | Verb::Cas(_) => done(self.register_node(node, at))?,
            Verb::Delete | Verb::DeleteCas(_) => {
                done(self.deregister_node(&name, at))?;
                return Ok(Vec::new());
            }
        }
        Ok(self.node(&name).cloned().into_iter().map(TxnResult::Node).collect())
    }

    fn txn_service(&mut self, verb: Verb, node: String, service: ServiceDefinition, at: u64) -> Given {
        let id = service.id.clone();
        let index = self.service_on(&node, &id).map_or(0, |service| service.modify_index);
        let stale = |doing: &str| Err(format!("failed to {doing} service {id:?} on node {node:?}, index is stale"));
        match verb {
            Verb::Get if index == 0 => return Err(format!("service {id:?} on node {node:?} doesn't exist")),
            Verb::Cas(wanted) if wanted != index => return stale("set"),
            Verb::DeleteCas(wanted) if wanted != index => return stale("delete"),
            Verb::Get => {}
            Verb::Set | Verb::Cas(_) => {
                let limit = self.limits.services_max;
                if self.node(&node).is_none() {
                    return Err(Refusal::NoNodeForSession.to_string());
                }
                if index == 0 && self.state.catalog.services_len() >= limit {
                    return Err(Refusal::full("services", limit).to_string());
                }
                let changes = self.state.catalog.put_service(&node, service, at);
                self.note(changes);
            }
            Verb::Delete | Verb::DeleteCas(_) => {
                self.deregister_service(&node, &id, at);
                return Ok(Vec::new());
            }
        }
        let found = self.service_on(&node, &id).cloned();
        Ok(found.into_iter().map(|service| TxnResult::Service { node: node.clone(), service }).collect())
    }

    fn txn_check(&mut self, now: Instant, verb: Verb, node: String, check: CheckDefinition, at: u64) -> Given {
        let id = check.id.clone();
        let found = |registry: &Registry| registry.record(&node).and_then(|record| record.checks.get(&id).cloned());
        let index = found(self).map_or(0, |check| check.modify_index);
        let stale = |doing: &str| Err(format!("failed to {doing} check {id:?} on node {node:?}, index is stale"));
        match verb {
            Verb::Get if index == 0 => return Err(format!("check {id:?} on node {node:?} doesn't exist")),
            Verb::Cas(wanted) if wanted != index => return stale("set"),
            Verb::DeleteCas(wanted) if wanted != index => return stale("delete"),
            Verb::Get => {}
            Verb::Set | Verb::Cas(_) => done(self.register_check(now, &node, check, at))?,
            Verb::Delete | Verb::DeleteCas(_) => {
                self.deregister_check(&node, &id, at);
                return Ok(Vec::new());
            }
        }
        Ok(found(self).into_iter().map(|check| TxnResult::Check { node: node.clone(), check }).collect())
    }
}

fn done(answer: Answer) -> Result<(), String> {
    match answer {
        Answer::Refused(refusal) => Err(refusal.to_string()),
        _ => Ok(()),
    }
}
