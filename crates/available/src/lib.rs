//! Available buckets: any home of a key takes a write, at level causal or eventual, and replicas become equal.
//!
//! Each write is stamped with a *dot*, which is its replica's Lamport time; each key's state is a dotted set with
//! a causal
//! context (`version.rs`, `state.rs`). Concurrent writes stay side by side, or become one by the bucket's merge type
//! (`kind.rs`). [`Replica`] is one node's whole part: a pure state machine, as the ordered buckets' one is. It gets
//! time and chance as arguments, and never does anything itself.
//!
//! Invariants:
//! - What a causal answer shows, a majority of the key's homes has on disk.
//! - A stamp is on its replica's disk before anybody else hears of it; no dot is ever given to two writes.
//! - Whatever is below a mark and not there is gone for good.
//! - Merging is commutative, associative and idempotent. Nothing is ordered by a wall clock; it ages the memory of
//!   requests, and nothing else.
//!
//! Sources: Preguica and others, "Dotted version vectors" (2010; the sets: Goncalves and others, 2012); Almeida, Shoker
//! and Baquero, "Delta state replicated data types" (2018); Goncalves, Almeida, Baquero and Fonte, "Concise server-wide
//! causality management" (2015) for dots numbered by the server, and tombstones that need not stay; Meyer, "Range-based
//! set reconciliation" (2023); Bailis and others, "Bolt-on causal consistency" (2013); DeCandia and others, "Dynamo"
//! (2007) for hints and repair while reading.

mod apply;
mod bury;
mod config;
mod coordinate;
mod explain;
mod hints;
mod io;
mod kind;
mod listing;
mod message;
mod operation;
mod passes;
mod peer;
mod reconcile;
mod replica;
mod rules;
mod session;
mod state;
mod stream;
mod table;
mod tenure;
mod transfer;
mod version;
mod view_change;

#[doc(hidden)]
pub use apply::make_for_tests;
pub use apply::{ELEMENTS_MAX, SIBLINGS_MAX, STATE_BYTES_MAX, fits, show};
pub use config::{Config, Durability};
pub use explain::{Known, NAMED_MAX};
pub use io::{Answer, Effects, Envelope, Event, Input, Outbox};
pub use kind::{Kind, UnknownKind};
pub use listing::{LISTED_MAX, Listing, ListingPage};
pub use message::{Body, Claim, Message, Record};
pub use operation::{
    Action, Change, Effect, Level, Operation, Outcome, Past, Rank, Receipt, Refusal, Seen, Shown, Write,
};
pub use reconcile::{Answer as RangeAnswer, Print, Question, Range, ShortHash, Wanted};
pub use replica::{OPERATIONS_MAX, Replica};
pub use rules::{Rule, Rules, UnknownRule};
pub use session::{BadSession, Session, since};
pub use state::{Body as EntryBody, Entry, Ledger, Limits, Past as PastRequest, State};
pub use table::{Digest, DigestKey, Held, Table};
pub use tenure::Tenure;
pub use transfer::CopyStatus;
pub use version::{Actor, Context, Dot, VersionVector};
