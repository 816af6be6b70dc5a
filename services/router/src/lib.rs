//! The router answers one question: which node holds this key? By four strategies: a directory of keys, the table of
//! all nodes, from neighbour to neighbour, and over finger tables. It also keeps looking whether the ring is in order.
//!
//! - The walk itself, [`chord::walk`], is pure: which member to ask next, and when to give up.
//! - The rest is shell: framed TCP to the storage nodes, each hop under a span, and the HTTP calls.
//!
//! What it is *not*: it stands in nobody's way. Gateways find keys by the view that they hold, so all routers may be
//! dead and reads and writes go on. It owns nothing and decides nothing: an answer by fingers is a hint, and says
//! whether it agrees with the view.
//!
//! Invariants: a lookup ends by its deadline, after at most [`chord::walk::HOPS_MAX`] hops (and one for each token,
//! from neighbour to neighbour); every answer is a route or a typed problem.
//!
//! Source: Chord (SIGCOMM 2001), section 4: `find_successor` in its iterative form.

pub mod directory;
mod lookup;
mod nodes;
mod ring_check;
mod run;
mod server;

pub use lookup::{Found, Search, by_belief, by_walk};
pub use nodes::{LiveNodes, Looking, Nodes};
pub use ring_check::{Checked, RingCheck};
pub use run::{Config, StartError, run};
pub use server::{Router, configure};
