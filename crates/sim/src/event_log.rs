use std::fmt::{self, Write};

use stdx::Instant;

/// What happened in a run, one line an event, in order. Two runs of one seed give the same bytes.
#[derive(Debug, Default)]
pub struct EventLog {
    text: String,
    keep: bool,
    hash: u64,
}

/// FNV-1a, 64 bits: enough to tell two runs apart, and the same in every release of the toolchain.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl EventLog {
    /// A log that keeps its text (`keep`), or only a fingerprint of the run.
    pub fn new(keep: bool) -> EventLog {
        EventLog { keep, hash: FNV_OFFSET, ..EventLog::default() }
    }

    /// Notes that an event takes place. Its time and its place in the order of all that was planned depend on every
    /// decision before it, so they stand for it in the fingerprint.
    pub(crate) fn note(&mut self, at: Instant, planned: u64) {
        for word in [at.as_nanos(), planned] {
            self.hash = (self.hash ^ word).wrapping_mul(FNV_PRIME);
        }
    }

    /// Adds a line, if lines are kept: to put them into words takes longer than many an event.
    pub fn push(&mut self, at: Instant, what: fmt::Arguments<'_>) {
        if self.keep {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{at} {what}");
        }
    }

    /// The text so far; empty unless it is kept.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A fingerprint of all events.
    pub fn fingerprint(&self) -> u64 {
        self.hash
    }
}
