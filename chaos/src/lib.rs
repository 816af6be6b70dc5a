//! Chaos and proof: kills processes of a fleet while ordinary clients use it, and says in one verdict whether it kept
//! its word.
//!
//! - The **monkey** ([`monkey`]) decides, purely; the [`nemesis`] carries it out through a [`faults::Fault`], on the
//!   targets of a [`FleetControl`].
//! - The **verifier** ([`traffic`], [`tick`], [`recorder`], [`verifier`]) asks, writes down what it was told, holds
//!   every read against what was acknowledged, and in the end has the `checker` judge the history. Locks and the writes
//!   made under them have clients and a history of their own ([`lock_traffic`], [`lock_history`]), judged piece by
//!   piece.
//! - The **trace check** ([`trace_check`], [`trace_judge`]) names the requests that each fault met, and holds their
//!   traces against the history.
//! - Sessions at the levels below strict ([`levels`], [`level_ticks`]) run beside the strict traffic, and others that
//!   add to sets and counters ([`merges`]); each kind of values has a history of its own ([`history_file`]).
//! - The **litmus tests** ([`litmus`]) ask whether the levels are what they are called, and whether they differ.
//! - The **verdict** ([`verdict`]) is kept, broken or invalid. [`replay`] drives the same proof with a recorded trace.
//!
//! What it is *not*: it starts and restarts no process, it knows no core and no protocol, and it never repairs
//! anything. It sees the fleet as any client does, over HTTP.
//!
//! Invariants:
//! - no fault without a record made before it, and none that cannot be undone or does not undo itself;
//! - an answer that did not come is unknown, never failed, if it could have had an effect;
//! - a run that could not have seen a broken promise is never called kept.
//!
//! Sources: Jepsen (nemesis, histories, verdicts of three values), etcd's robustness tests (health before and after),
//! chaoskube and Chaos Monkey (filters, halt, "why nothing was chosen").

pub mod acknowledged;
pub mod conduct;
pub mod console;
pub mod control;
pub mod downtime;
pub mod faults;
pub mod history_file;
pub mod latency;
pub mod level_ticks;
pub mod levels;
pub mod litmus;
pub mod lock_history;
pub mod lock_traffic;
pub mod merges;
pub mod metrics;
pub mod monkey;
pub mod nemesis;
pub mod operation;
mod progress;
pub mod recorder;
pub mod replay;
mod report;
mod run;
pub mod tick;
pub mod trace_check;
pub mod trace_judge;
pub mod traffic;
pub mod verdict;
pub mod verifier;
pub mod workload;

pub use control::{FleetControl, Order, STORAGE_NODE, Target, TargetState};
pub use faults::{Fault, FaultError, FaultKind};
pub use levels::LevelsConfig;
pub use nemesis::{HaltSwitch, Shared};
pub use replay::{ReplayConfig, ReplayError, TraceFormat, read_trace};
pub use report::trace_link;
pub use run::{Load, RunConfig, RunError, run_local, run_traffic};
pub use traffic::TrafficConfig;
pub use verdict::{Demands, Judgement, Verdict};
