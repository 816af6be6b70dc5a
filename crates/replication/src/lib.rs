//! Replicated registers: each key is a value agreed by its replicas through a leaderless, log-free Paxos.
//!
//! A [`Replica`] is one node's whole part in it: acceptor for every register it holds, and coordinator for the
//! operations that are sent to it. It is a pure state machine: no clock, socket, disk or chance of its own.
//!
//! Sources: Rystsov, "CASPaxos: Replicated State Machines without logs" (2018) for the register; Lamport, "Paxos made
//! simple" (2001) for the two phases. The departures (a ceiling instead of synced promises, the next ballot promised
//! with an accept, a chosen state taught to those that lag) are argued where they stand.
//!
//! `confirm.rs` and `ledger.rs` add the level sequential: floors, confirmations of arcs, and reads without a message.
//! `cut.rs` shows a bucket's keys on an arc as they were at one point of the order of all operations.
//! `collect.rs` drops the registers of deleted keys.

mod acceptor;
#[cfg(test)]
mod acceptor_test;
mod apply;
mod catch_up;
mod collect;
mod confirm;
mod coordinator;
mod cut;
mod io;
mod ledger;
mod lock;
mod memory;
mod message;
mod replica;
mod round;
mod rules;
pub mod testing;
mod transfer;
mod types;
mod view_change;

pub use apply::VALUE_BYTES_MAX;
pub use cut::{SCAN_ENTRIES_MAX, Scan, ScanEntry, ScanOutcome, ScanPage};
pub use io::{Answer, Effects, Envelope, Event, Input, Outbox, Ticket};
pub use ledger::LedgerPosition;
pub use lock::{Holder, Lock, WAITERS_MAX, Waiter};
pub use memory::{REQUESTS_AGE_MAX_MS, REQUESTS_MAX, Remembered, RequestMemory};
pub use message::{Body, LogPosition, Message, Record, RoundId, State};
pub use replica::{OPERATIONS_MAX, Replica};
pub use rules::{AllBut, Correct, Rule, Rules};
pub use transfer::{ArcPrint, TransferStatus};
pub use types::{
    Ballot, Change, Condition, Effect, LockCall, Operation, Outcome, Receipt, Refusal, RegisterKey, RequestId, Terms,
    Value, Version, Write,
};
