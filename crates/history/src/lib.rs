//! Histories: what clients asked and were told, one JSON object a line, in Jepsen's shape (`api.md`, section 3).
//!
//! It reads histories whoever wrote them, writes our own, and pairs invocations with completions into [`Operation`]s.
//! It is *not* a judge: what a history means for a consistency level is the `checker` crate's business. It opens no
//! file and asks no clock; a caller hands in a `BufRead` or a `Write`.
//!
//! Invariants:
//! - The order of the lines is the order of the events. `index` and `time` are carried along and decide nothing.
//! - A process has at most one open operation; whatever breaks this is an error that names the line.
//! - An operation that was never answered, or answered `info`, is [`Outcome::Info`]: unknown, and open for ever.
//! - Every error names the line and the reason.
//!
//! ```
//! let text = r#"{"process":0,"type":"invoke","f":"write","key":"k","value":1}
//! {"process":0,"type":"ok","f":"write","key":"k","value":1}"#;
//! let history = history::read(text.as_bytes()).expect("two good lines");
//! assert_eq!(history.operations.len(), 1);
//! ```

mod event;
mod operation;
mod reader;
mod value;
mod writer;

pub use event::{Event, EventKind, Function, Process};
pub use operation::{Fault, History, OpenOperations, Operation, Outcome, Paired, Pairing};
pub use reader::{HistoryError, LINE_BYTES_MAX, Reader, Reason, read};
pub use value::{Float, Value};
pub use writer::Writer;
