//! What every pure core shares: virtual time, budgets of bytes, seeded chance, a mixer of bits, the opaque trace
//! context, and the printing of error chains.
//!
//! This crate is deliberately *not* a drawer of helpers. A thing belongs here when at least two pure crates need it
//! and it has no I/O, no clock and no randomness of its own.

mod budget;
mod chain;
mod mix;
mod prng;
mod time;
mod trace_context;

pub use budget::Budget;
pub use chain::error_chain;
pub use mix::mix;
pub use prng::Prng;
pub use time::Instant;
pub use trace_context::TraceContext;
