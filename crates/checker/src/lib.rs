//! The judge of histories: is there an order of the operations that explains every answer?
//!
//! [`check()`] reads a history and decides each key by itself: level strict is linearizability (Herlihy and Wing 1990),
//! which holds for a history exactly when it holds for each of its objects. The search of model `register` linearizes
//! just in time, as Lowe (2017) calls it: see `search.rs` for the method and why its short cuts are sound. Models
//! `set`, `counter` and `lock` are judged by their own rules (`set.rs`, `counter.rs`, `lock.rs`). The weaker levels
//! look at all keys together: `sequential.rs`, `causal.rs`, `eventual.rs` say what each means and where its bounds are.
//! The litmus tests that tell the levels apart are data: [`litmus`].
//!
//! It knows nothing of how Everring works. It has no clock: a caller who wants a limit in seconds passes one in.
//!
//! Invariants:
//! - `Violated` is never said of a history that some order explains; a failed operation explains nothing.
//! - `Valid` is never said unless an order was found (model `counter`: unless every read lies within its bounds; levels
//!   causal and eventual: unless none of their patterns is there; in windows: within each).
//! - A limit that runs out gives `Undecided`, never a guess.
//! - The same history and the same limit in steps give the same report.
//!
//! ```
//! let text = r#"{"process":0,"type":"invoke","f":"write","key":"k","value":1}
//! {"process":0,"type":"ok","f":"write","key":"k","value":1}
//! {"process":1,"type":"invoke","f":"read","key":"k"}
//! {"process":1,"type":"ok","f":"read","key":"k","value":null}"#;
//! let report = checker::check(text.as_bytes(), &checker::Options::default()).expect("a readable history");
//! assert_eq!(report.verdict, checker::Verdict::Violated);
//! ```

mod causal;
mod check;
mod claims;
mod counter;
mod eventual;
mod explain;
pub mod generate;
mod growing;
pub mod litmus;
mod lock;
mod lost;
mod options;
mod order;
mod problem;
mod register;
mod report;
mod search;
mod sequential;
mod sequential_search;
mod set;
mod shrink;
mod sight;
mod stream;
mod weaker;

pub use causal::Guarantee;
pub use check::{CheckError, SETTLED, check, check_history, check_operations, exit_code};
pub use lost::{LostKey, LostWrites, lost_once_settled, lost_writes};
pub use options::{Level, Limit, Model, Options, UnknownName, WHOLE_MAX};
pub use report::{OffendingOperation, Report, Verdict, Violation};
pub use weaker::{GuaranteeBroken, session_guarantees};
