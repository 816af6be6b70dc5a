//! What both benchmarks need of the operating system: child processes that end with their parent's run, their processor
//! time and memory, and what machine this is.
//!
//! This is *not* part of the product and knows nothing of what the processes do. Linux only: it reads `/proc`.
//!
//! Invariant: a [`Process`] that is dropped has ended.

mod machine;
mod process;

pub use machine::{commit, machine, machine_sentence};
pub use process::{Process, children_of, cpu_seconds, free_ports, resident_mib};
