use std::fmt::{self, Write};

use stdx::Instant;

/// What happened in a run, one line an event, in order. Two runs of one seed give the same bytes.
#[derive(Debug, Default)]
pub struct EventLog {
    text: String,
    keep: bool,
    line: String,
    hash: u64,
    lines: u64,
}

/// FNV-1a, 64 bits: enough to tell two logs apart, and the same in every release of the toolchain.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl EventLog {
    /// A log that keeps its text (`keep`), or only a fingerprint of it.
    pub fn new(keep: bool) -> EventLog {
        EventLog { keep, hash: FNV_OFFSET, ..EventLog::default() }
    }

    /// Adds a line.
    pub fn push(&mut self, at: Instant, what: fmt::Arguments<'_>) {
        self.line.clear();
        // Writing to a String cannot fail.
        let _ = writeln!(self.line, "{at} {what}");
        for byte in self.line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        self.lines += 1;
        if self.keep {
            self.text.push_str(&self.line);
        }
    }

    /// The text so far; empty unless it is kept.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A fingerprint of all lines.
    pub fn fingerprint(&self) -> u64 {
        self.hash
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}
