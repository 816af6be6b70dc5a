//! The router answers one question: which node holds this key? By finger tables, hop by hop, and by the node table.
//!
//! - [`walk`] is the walk itself, pure: which member to ask next, and when to give up.
//! - The rest is shell: framed TCP to the storage nodes, each hop under a span, and the HTTP calls.
//!
//! What it is *not*: it stands in nobody's way. Gateways find keys by the view that they hold, so all routers may be
//! dead and reads and writes go on. It owns nothing and decides nothing: an answer by fingers is a hint, and says
//! whether it agrees with the view.
//!
//! Invariants: a lookup ends by its deadline, after at most [`walk::HOPS_MAX`] hops; every answer is a route or a
//! typed problem.
//!
//! Source: Chord (SIGCOMM 2001), section 4: `find_successor` in its iterative form.

mod lookup;
mod nodes;
mod run;
mod server;
pub mod walk;

pub use lookup::{Found, by_fingers};
pub use nodes::{LiveNodes, Looking, Nodes};
pub use run::{Config, StartError, run};
pub use server::{Router, configure};
