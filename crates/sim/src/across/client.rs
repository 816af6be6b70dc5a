//! Clients: sessions that go from buckets of one contract to those of the other, each with the one token that a gateway
//! writes and reads.

use std::collections::BTreeMap;

use available::{Context, Kind, Session};
use bytes::Bytes;
use history::Value;
use membership::{Epoch, NodeId};
use replication::{Ballot, RegisterKey, RequestId};
use stdx::{Instant, Prng};

use super::planted::Planted;

/// A key that clients work on.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub key: RegisterKey,
    /// The merge type, of an available key; none of an ordered one.
    pub kind: Option<Kind>,
    pub name: String,
}

/// What is asked of a node.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Ordered(replication::Operation),
    Available(available::Operation),
}

/// What a node answers.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Ordered(replication::Outcome, replication::Receipt),
    Available(available::Outcome, available::Receipt),
}

/// What an answer comes to.
pub(super) enum Ended {
    /// A read's answer, as a history has it.
    Read(Value),
    /// A write took its course.
    Done,
    /// Surely nothing was done: another node is asked.
    Refused,
    /// Something may have been done.
    Unknown,
}

/// What a client is doing.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub key: usize,
    pub asked: Asked,
    /// What is written; none for a read.
    pub write: Option<String>,
    pub deadline: Instant,
    /// Nodes still to be asked, the next one last.
    pub plan: Vec<NodeId>,
    /// Attempts without an answer.
    pub waiting: u32,
    /// Whether some attempt may have acted, or may act yet.
    pub unknown: bool,
}

/// What a session's token says: the gateway's `Seen`, and the session's part of available buckets.
#[derive(Clone, Debug, Default)]
struct Token {
    epoch: Epoch,
    time: Ballot,
    session: Option<Session>,
}

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub process: u64,
    token: Token,
    /// What it has seen of each key, for `If-Match`: a token has room for the keys used last only, and the judge takes
    /// a write for one that takes the place of all that its session has seen.
    etags: BTreeMap<u32, Context>,
    /// Whether what it did last was on an ordered key.
    last_ordered: Option<bool>,
    pub current: Option<Current>,
    /// Numbers its operations; what belongs to an earlier one is not heeded.
    pub serial: u64,
}

/// How operations are asked in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub planted: Option<Planted>,
    /// The gateway's clock.
    pub wall_ms: u64,
    /// Bytes that a session's part of a token may take.
    pub token_bytes_max: usize,
}

impl Client {
    pub fn new(process: u64) -> Client {
        Client {
            process,
            token: Token::default(),
            etags: BTreeMap::new(),
            last_ordered: None,
            current: None,
            serial: 0,
        }
    }

    /// Somebody who has seen nothing yet takes its place.
    pub fn renew(&mut self, process: u64) {
        *self = Client { serial: self.serial, ..Client::new(process) };
    }

    /// The write of a value or a read, as a gateway asks it for this session; `strict` for a strict read.
    pub fn ask(
        &mut self,
        at: usize,
        key: &Key,
        (write, strict): (Option<&str>, bool),
        asking: Asking,
        prng: &mut Prng,
    ) -> Asked {
        let request = RequestId(u128::from(prng.next_u64()));
        let value =
            write.map(|text| replication::Value { body: Bytes::from(text.to_owned()), content_type: Bytes::new() });
        let (key, first_sent_ms) = (key.clone(), asking.wall_ms);
        match key.kind {
            None => {
                let operation = match value {
                    None => replication::Operation::Read { key: key.key },
                    Some(value) => replication::Operation::Write(replication::Write {
                        key: key.key,
                        request,
                        first_sent_ms,
                        retry: false,
                        condition: replication::Condition::Always,
                        change: replication::Change::Put(value),
                        terms: replication::Terms::default(),
                    }),
                };
                let sequential = write.is_none() && !strict;
                let session = self.token.session.as_ref().filter(|_| asking.planted != Some(Planted::AvailableDropped));
                Asked::Ordered(operation.in_session(available::since(self.token.time, session), sequential))
            }
            Some(kind) => {
                let (time, epoch, process) = (self.token.time, self.token.epoch, self.process);
                let session = self.token.session.get_or_insert_with(|| Session::new(process + 1));
                if asking.planted != Some(Planted::OrderedDropped) {
                    session.follow(time.counter, epoch);
                }
                let context = session.context(at as u32).or(self.etags.get(&(at as u32)));
                let context = context.filter(|context| !context.is_empty()).cloned();
                let action = match value {
                    None => available::Action::Read { kind },
                    Some(value) => available::Action::Write(available::Write {
                        key: key.key.clone(),
                        kind,
                        request,
                        first_sent_ms,
                        context,
                        order: session.order(),
                        firm: false,
                        change: available::Change::Put(value),
                    }),
                };
                let (level, past) = (available::Level::Causal, session.past.clone());
                Asked::Available(available::Operation { key: key.key, level, past, stand_in: false, action })
            }
        }
    }

    /// Takes an answer about a key in, as a gateway does before it writes the session's next token. True if the session
    /// came from a bucket of the other contract.
    pub fn take(&mut self, (at, wrote): (usize, bool), told: &Told, asking: Asking) -> bool {
        let ordered = matches!(told, Told::Ordered(..));
        let crossed = self.last_ordered.replace(ordered).is_some_and(|last| last != ordered);
        let seen = match told {
            Told::Ordered(_, receipt) => {
                self.token.time = self.token.time.max(receipt.time);
                self.token.epoch = self.token.epoch.max(receipt.epoch);
                None
            }
            Told::Available(available::Outcome::Read { seen, .. } | available::Outcome::Done { seen, .. }, receipt) => {
                self.token.epoch = self.token.epoch.max(receipt.epoch);
                Some(seen)
            }
            Told::Available(..) => None,
        };
        if let (Some(seen), Some(session)) = (seen, &mut self.token.session) {
            session.observe(at as u32, seen, true, wrote);
            self.etags.entry(at as u32).or_default().observe(&seen.context, wrote);
        }
        // The token is all that a session keeps between two answers.
        if let Some(session) = &mut self.token.session {
            *session = Session::decode(&session.encode(asking.token_bytes_max)).expect("our own token");
        }
        crossed
    }
}

impl Asked {
    /// The same operation for another node, after an attempt that may have acted.
    pub fn again(&self) -> Asked {
        let mut asked = self.clone();
        if let Asked::Ordered(operation) = &mut asked
            && let Some(write) = operation.write_mut()
        {
            write.retry = true;
        }
        asked
    }
}

impl Told {
    /// What the answer of one attempt comes to.
    pub fn judge(&self) -> Ended {
        use available::Refusal as Available;
        use replication::Refusal as Ordered;
        let text = |bytes: &Bytes| Value::from(String::from_utf8_lossy(bytes).into_owned());
        match self {
            Told::Ordered(replication::Outcome::Value(found), _) => {
                Ended::Read(found.as_ref().map_or(Value::Null, |(_, value)| text(&value.body)))
            }
            Told::Ordered(replication::Outcome::Done { .. }, _) => Ended::Done,
            Told::Ordered(replication::Outcome::Unknown | replication::Outcome::Refused(Ordered::TooOld), _) => {
                Ended::Unknown
            }
            Told::Ordered(..) => Ended::Refused,
            Told::Available(available::Outcome::Read { shown, .. }, _) => Ended::Read(match shown {
                available::Shown::Values(values) => {
                    Value::List(values.iter().map(|(_, value)| text(&value.body)).collect())
                }
                _ => Value::List(Vec::new()),
            }),
            Told::Available(available::Outcome::Done { .. }, _) => Ended::Done,
            Told::Available(available::Outcome::Unknown | available::Outcome::Refused(Available::TooOld), _) => {
                Ended::Unknown
            }
            Told::Available(..) => Ended::Refused,
        }
    }
}
