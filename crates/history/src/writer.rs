use std::io::{self, Write};

use crate::event::Event;

/// Writes events, one JSON object a line, and numbers those that carry no index.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    index: u64,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`, which should be buffered.
    pub fn new(output: W) -> Writer<W> {
        Writer { output, index: 0 }
    }

    /// Writes one event and answers the line (from 1) that it stands on.
    ///
    /// # Errors
    /// Those of the output; half a line may have been written.
    pub fn write(&mut self, event: &Event) -> io::Result<u64> {
        if event.index.is_some() {
            serde_json::to_writer(&mut self.output, event)?;
        } else {
            serde_json::to_writer(&mut self.output, &Event { index: Some(self.index), ..event.clone() })?;
        }
        self.output.write_all(b"\n")?;
        self.index += 1;
        Ok(self.index)
    }

    /// Hands everything to where it goes.
    ///
    /// # Errors
    /// Those of the output.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// The output itself.
    pub fn into_inner(self) -> W {
        self.output
    }
}
