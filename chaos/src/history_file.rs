//! One history as it is made: its lines in a file, if one is named, and its operations in memory for the judges.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use history::{Event, History, Pairing};

/// What values are to their judge. Each kind has a history of its own, since another model judges each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Values {
    /// Values that are written whole.
    Registers,
    /// Sets that elements are added to.
    Sets,
    /// Numbers that are added to.
    Counters,
}

impl Values {
    /// The checker's model of them.
    pub const fn model(self) -> checker::Model {
        match self {
            Values::Registers => checker::Model::Register,
            Values::Sets => checker::Model::Set,
            Values::Counters => checker::Model::Counter,
        }
    }

    /// What many of them are called.
    pub const fn name(self) -> &'static str {
        match self {
            Values::Registers => "registers",
            Values::Sets => "sets",
            Values::Counters => "counters",
        }
    }
}

/// The history of one kind of values.
#[derive(Default)]
pub(crate) struct HistoryFile {
    file: Option<history::Writer<BufWriter<File>>>,
    pairing: Pairing,
    lines: u64,
    trouble: Option<String>,
}

impl HistoryFile {
    /// A history that also goes to the file at `path`, if one is named.
    pub fn new(path: Option<&Path>) -> std::io::Result<HistoryFile> {
        let file = match path {
            Some(path) => Some(history::Writer::new(BufWriter::new(File::create(path)?))),
            None => None,
        };
        Ok(HistoryFile { file, ..HistoryFile::default() })
    }

    /// Writes a line.
    pub fn write(&mut self, event: Event) {
        self.lines += 1;
        if let Some(file) = self.file.as_mut()
            && let Err(error) = file.write(&event)
        {
            self.trouble.get_or_insert(format!("the history could not be written: {error}"));
        }
        if let Err(error) = self.pairing.push(self.lines, event) {
            self.trouble.get_or_insert(format!("the history contradicts itself: {error}"));
        }
    }

    /// Has the lines so far stand in the file.
    pub fn flush(&mut self) {
        if let Some(file) = self.file.as_mut()
            && let Err(error) = file.flush()
        {
            self.trouble.get_or_insert(format!("the history could not be written: {error}"));
        }
    }

    /// What is wrong with it, if anything: then it proves nothing.
    pub fn trouble(&self) -> Option<&String> {
        self.trouble.as_ref()
    }

    /// Ends it: what it holds, and what is wrong with it.
    pub fn end(mut self) -> (History, Option<String>) {
        self.flush();
        (self.pairing.finish(), self.trouble)
    }
}
