//! Standard output: data only, as a table or as JSON.

use std::io::{self, Write};

use serde::Serialize;

/// The form of what a command says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document.
    Json,
}

/// Writes bytes as they are.
///
/// # Errors
/// Standard output is closed or full.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}

/// Writes a text and a line end.
///
/// # Errors
/// As [`bytes()`].
pub fn line(text: &str) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes one JSON document.
///
/// # Errors
/// As [`bytes()`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Writes rows with their columns aligned; the last column is as long as it is.
///
/// # Errors
/// As [`bytes()`].
pub fn table(rows: &[Vec<String>]) -> anyhow::Result<()> {
    bytes(aligned(rows).as_bytes())
}

/// Whether an error only says that the reader of our output is gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = aligned(&[row(["NAME", "ALIVE", "SHARE"]), row(["n10", "yes", "0.2"]), row(["é", "no", ""])]);
        assert_eq!(text, "NAME  ALIVE  SHARE\nn10   yes    0.2\né     no\n");
    }
}
