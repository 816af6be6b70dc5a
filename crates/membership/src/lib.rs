//! Who owns what: ring positions, tokens, views, and the replica set of each arc.
//!
//! A [`View`] is the agreed answer to "who belongs to the ring"; discovery keeps it, by compare-and-set. Chord's
//! pointers are only a routing hint: ownership is decided by the view, where the data is.
//!
//! What this crate is *not*: it does no I/O, holds no addresses (an address is a lease, kept by discovery) and does
//! not know how a value is stored or agreed on.
//!
//! Sources: Dynamo (SOSP 2007) section 4.2 for tokens and 4.3 for preference lists over distinct machines; Chord
//! (SIGCOMM 2001) for the circle and `successor(k)`.

mod balance;
mod change;
#[cfg(test)]
mod change_test;
mod identity;
mod leave;
mod position;
mod replica_set;
mod ring;
mod view;

pub use balance::{TOKENS, TOKENS_MAX, choose_tokens, load_ratios, tokens_after_leave, tokens_of_weight};
pub use change::{ArcLoss, Change, ChangeError, Pending, newcomers};
pub use identity::{BucketId, ClusterId, Epoch, NodeId};
pub use leave::Leaving;
pub use position::{KeyHasher, Position};
pub use ring::{Arc, ReplicaSets, Ring, is_majority};
pub use view::{Common, FormError, Member, PROTOCOL_UNTOLD, View, ViewError};
