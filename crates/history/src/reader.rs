use std::io::{self, BufRead, Read};

use crate::event::{Event, Process};
use crate::operation::{History, Pairing};

/// The longest line that is read, in bytes: 16 MiB, room for a value of the largest size with every byte escaped.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Reads a whole history and pairs its lines into operations.
///
/// # Errors
/// The first line that cannot be read or does not fit what went before.
pub fn read(input: impl BufRead) -> Result<History, HistoryError> {
    let mut pairing = Pairing::default();
    for event in Reader::new(input) {
        let (line, event) = event?;
        pairing.push(line, event)?;
    }
    Ok(pairing.finish())
}

/// Reads events one by one, with the number of their line (from 1). Blank lines are passed over.
///
/// After an error it ends: what follows a broken line cannot be trusted to be whole.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    line: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Reader<R> {
        Reader { input, line: 0, buffer: Vec::new(), ended: false }
    }

    /// The next event; `None` at the end.
    fn next_event(&mut self) -> Result<Option<(u64, Event)>, HistoryError> {
        loop {
            self.line += 1;
            let line = self.line;
            let failed = |reason| HistoryError { line, reason };
            self.buffer.clear();
            let mut bounded = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
            let bytes = bounded.read_until(b'\n', &mut self.buffer).map_err(|error| failed(Reason::Io(error)))?;
            if bytes == 0 {
                return Ok(None);
            }
            if bytes > LINE_BYTES_MAX {
                return Err(failed(Reason::TooLong));
            }
            let text = std::str::from_utf8(&self.buffer).map_err(|_| failed(Reason::NotUtf8))?;
            // Some editors put a byte order mark before the first line.
            let text = text.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() {
                return Event::parse(text).map(|event| Some((line, event))).map_err(failed);
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<(u64, Event), HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_event().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Why a history cannot be read; nothing of it may be used.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct HistoryError {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The source failed; reading again may help.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// The line is longer than [`LINE_BYTES_MAX`].
    #[error("is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// The line is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// The line is JSON's beginning or no JSON at all; a history that was cut off ends so.
    #[error("is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// The line is not an object.
    #[error("is not a JSON object")]
    NotAnObject,
    /// A field is missing or of the wrong kind.
    #[error("`{name}` must {must}")]
    Field {
        /// The field.
        name: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// A process asked a second time before it was answered.
    #[error("process {process} invokes while its operation of line {open} is still open")]
    StillOpen {
        /// The process.
        process: Process,
        /// The line of the open invocation.
        open: u64,
    },
    /// An answer without a question.
    #[error("process {process} completes an operation that it never invoked")]
    NeverInvoked {
        /// The process.
        process: Process,
    },
    /// An answer to another question than the one that is open.
    #[error("process {process} completes another `{field}` than it invoked on line {open}")]
    Mismatch {
        /// The process.
        process: Process,
        /// The field that differs.
        field: &'static str,
        /// The line of the open invocation.
        open: u64,
    },
}
