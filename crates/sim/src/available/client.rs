//! Clients: sessions that ask one thing at a time, through a gateway of their own that tries one node after another.

use std::collections::BTreeMap;

use available::{Action, Change, Context, Kind, Level, Operation, Seen, Session, Write};
use bytes::Bytes;
use history::{Function, Value};
use membership::NodeId;
use replication::{RegisterKey, RequestId};
use stdx::{Instant, Prng};

use super::swarm::Swarm;

/// Bytes that a session's part of a token may take.
const TOKEN_BYTES_MAX: usize = 340;

/// A key that clients work on.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub key: RegisterKey,
    pub kind: Kind,
    pub level: Level,
    pub name: String,
}

/// What a client is doing.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub key: usize,
    pub operation: Operation,
    pub function: Function,
    pub input: Value,
    pub deadline: Instant,
    /// Nodes still to be asked, the next one last.
    pub plan: Vec<NodeId>,
    /// Attempts without an answer.
    pub waiting: u32,
    /// Whether some attempt may have acted, or may act yet.
    pub unknown: bool,
    /// The step of a litmus test that it is.
    pub litmus: bool,
}

impl Current {
    /// A later write is there. While no other attempt can have been made, this one becomes a later one still.
    pub fn step_forward(&mut self, order: u64) {
        let Action::Write(write) = &mut self.operation.action else { return };
        if self.waiting == 0 && !self.unknown {
            write.order = order + 1;
        } else {
            write.firm = true;
        }
    }
}

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub process: u64,
    pub session: Session,
    pub current: Option<Current>,
    /// Numbers its operations; a timer for an earlier one is not heeded.
    pub serial: u64,
    pub skew_ms: i64,
    /// The node that its gateway asks first, where places matter.
    pub near: Option<NodeId>,
    /// What it has seen of each key, for `If-Match`: a token has room for the keys used last only.
    pub etags: BTreeMap<u32, Context>,
}

impl Client {
    pub fn new(process: u64, skew_ms: i64) -> Client {
        let session = Session::new(process + 1);
        Client { process, session, current: None, serial: 0, skew_ms, near: None, etags: BTreeMap::new() }
    }

    /// Takes an answer about a key in.
    pub fn observe(&mut self, key: u32, seen: &Seen, causal: bool, wrote: bool) {
        self.session.observe(key, seen, causal, wrote);
        // The token is all that a session keeps between two answers.
        let bytes = self.session.encode(TOKEN_BYTES_MAX);
        self.session = Session::decode(&bytes).expect("our own token");
        self.etags.entry(key).or_default().observe(&seen.context, wrote);
    }

    /// A client that was left without an answer is another one from then on.
    pub fn renew(&mut self, process: u64) {
        *self = Client { serial: self.serial, ..Client::new(process, self.skew_ms) };
    }

    /// Whether it has seen anything of the key.
    pub fn has_seen(&self, key: usize) -> bool {
        self.etags.get(&(key as u32)).is_some_and(|context| !context.is_empty())
    }

    /// The write of a `change` or a read, as a gateway would ask.
    pub fn operation(
        &self,
        at: usize,
        key: &Key,
        change: Option<Change>,
        wall_ms: u64,
        named: bool,
        prng: &mut Prng,
    ) -> Operation {
        let number = at as u32;
        // A key that its token had no room for, and that it has read again since, is known there in part.
        let knows_all = |etag: &&Context| {
            let known = self.session.context(number);
            known.is_some_and(|known| {
                known.includes(etag) && etag.requests.iter().all(|request| known.requests.contains(request))
            })
        };
        let etag = self.etags.get(&number).filter(|etag| named || !knows_all(etag));
        let context = etag.or(self.session.context(number)).filter(|context| !context.is_empty()).cloned();
        let action = match change {
            None => Action::Read { kind: key.kind },
            Some(change) => Action::Write(Write {
                key: key.key.clone(),
                kind: key.kind,
                request: RequestId(u128::from(prng.next_u64())),
                first_sent_ms: wall_ms.saturating_add_signed(self.skew_ms),
                context,
                order: self.session.order(),
                firm: false,
                change,
            }),
        };
        Operation { key: key.key.clone(), level: key.level, past: self.session.past.clone(), stand_in: true, action }
    }
}

/// What a client draws to do with a key: nothing for a read.
pub(super) fn draw_change(kind: Kind, serial: u64, swarm: &Swarm, prng: &mut Prng) -> Option<Change> {
    let text = || Bytes::from(serial.to_string());
    if prng.one_in(2) {
        return None;
    }
    Some(match kind {
        Kind::Value | Kind::LastWriter if prng.one_in(swarm.delete_one_in) => Change::Delete,
        Kind::Value | Kind::LastWriter => Change::Put(replication::Value { body: text(), content_type: Bytes::new() }),
        Kind::Counter => Change::Add(1 + prng.below(9) as i64),
        Kind::Set | Kind::Map => Change::Insert(text()),
    })
}

/// How a change stands in a history.
pub(super) fn words(change: Option<&Change>) -> (Function, Value) {
    let text = |bytes: &Bytes| Value::from(String::from_utf8_lossy(bytes).into_owned());
    match change {
        None => (Function::Read, Value::Null),
        Some(Change::Put(value)) => (Function::Write, text(&value.body)),
        Some(Change::Delete) => (Function::Delete, Value::Null),
        Some(Change::Add(by)) => (Function::Add, Value::from(*by)),
        Some(Change::Insert(element)) => (Function::Add, text(element)),
        Some(other) => unreachable!("no client of the simulator asks for {other:?}"),
    }
}
