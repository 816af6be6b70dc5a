//! The repository's own checks: which crate may know which, and what no file may contain.
//!
//! - [`tidy`] holds every file against the rules of ARCHITECTURE.md that a compiler does not check; a test runs it.
//! - [`deps`] holds Cargo.lock and the licences of everything in it against the dependency policy.
//! - [`measure`] prints how large, how commented and how tested each crate is, for people to discuss.
//!
//! What it is *not*: a linter of taste (rustfmt and clippy are that), and no part of the program: no crate depends on
//! it. It reads files and changes none.
//!
//! Invariants: nothing here needs the network; the same files give the same complaints, in the same order; each
//! complaint names a file, a line where there is one, and what to do.

pub mod deps;
mod lexer;
pub mod measure;
mod ratchet;
mod rooms;
mod source;
mod text;
pub mod tidy;
mod tree;

use std::fmt;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// The file, from the root of the repository.
    pub path: String,
    /// The line, from 1; 0 for the whole file.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Complaint {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Complaint {
        Complaint { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

pub use tree::workspace_root;
