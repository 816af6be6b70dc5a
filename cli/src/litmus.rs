//! `everring litmus`: are the levels of a running fleet what they are called?

use std::collections::BTreeMap;

use chaos::litmus::{self, LitmusConfig, LitmusRow};
use serde_json::{Map, Value, json};
use sim::large::grouped;

use crate::args::LitmusArgs;
use crate::out::{self, Form};
use crate::people::block_on;

/// An outcome was seen that its level forbids.
const EXIT_BROKEN: u8 = 1;
/// Some test was never played to its end at some level: nothing is shown.
const EXIT_INVALID: u8 = 3;

/// Runs the tests; exit status 1 when a level broke its promise, 3 when a test was never whole.
///
/// # Errors
/// No gateway is given, or standard output is closed.
pub fn run(args: LitmusArgs) -> anyhow::Result<u8> {
    let config = LitmusConfig {
        gateways: args.gateways.gateway,
        duration: args.length.duration,
        lanes: usize::from(args.lanes),
        rate: args.rate,
        seed: args.seed.unwrap_or_else(rand::random),
        deadline: args.deadline,
    };
    let rows = block_on(litmus::run(&config))??;
    match args.output.output {
        Form::Json => out::json(&json!({
            "litmus": described(rows.iter().map(Shown::from)),
            "broken": rows.iter().filter(|row| row.is_broken()).count(),
            "unclear": rows.iter().map(|row| row.unclear).sum::<u64>(),
        }))?,
        Form::Table => out::bytes(table(rows.iter().map(Shown::from)).as_bytes())?,
    }
    for row in rows.iter().filter(|row| row.is_broken()) {
        if let Some((keys, traces)) = &row.first {
            let (column, test) = (row.column.name(), row.test.name);
            eprintln!("everring: {column}: {test} was seen on {keys}, traces {}", traces.join(" "));
        }
    }
    let never_whole: Vec<&LitmusRow> = rows.iter().filter(|row| row.rounds == 0).collect();
    if rows.iter().any(LitmusRow::is_broken) {
        return Ok(EXIT_BROKEN);
    }
    if let Some(row) = never_whole.first() {
        let (column, test, of) = (row.column.name(), row.test.name, never_whole.len());
        eprintln!("everring: {test}, {column} ({of} such cases) was never answered whole; ask for longer");
        return Ok(EXIT_INVALID);
    }
    Ok(0)
}

/// What a test showed at a level, or across buckets of both contracts.
pub struct Shown {
    /// The level's name; or which variables were kept under which contract.
    pub column: &'static str,
    /// The test's name.
    pub test: &'static str,
    /// Whether the level forbids the outcome.
    pub forbidden: bool,
    /// How often it was seen.
    pub seen: u64,
    /// Of how many rounds.
    pub rounds: u64,
}

impl From<&LitmusRow> for Shown {
    fn from(row: &LitmusRow) -> Shown {
        Shown {
            column: row.column.name(),
            test: row.test.name,
            forbidden: row.is_forbidden(),
            seen: row.outcomes,
            rounds: row.rounds,
        }
    }
}

/// The table of docs/consistency.md: a line for each test, a column for each level and for each way to keep variables
/// under both contracts. Not every test is played in every column.
pub fn table(rows: impl Iterator<Item = Shown>) -> String {
    let mut columns: Vec<&str> = Vec::new();
    let mut tests: Vec<(&str, BTreeMap<&str, String>)> = Vec::new();
    for Shown { column, test, forbidden, seen, rounds } in rows {
        if !columns.contains(&column) {
            columns.push(column);
        }
        let outcome = if forbidden { ", forbidden" } else { "" };
        let cell = format!("{} of {}{outcome}", grouped(seen), grouped(rounds));
        match tests.iter_mut().find(|(known, _)| *known == test) {
            Some((_, cells)) => _ = cells.insert(column, cell),
            None => tests.push((test, BTreeMap::from([(column, cell)]))),
        }
    }
    let mut text = format!("| test | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    for (test, cells) in tests {
        let cells: Vec<&str> = columns.iter().map(|column| cells.get(column).map_or("", String::as_str)).collect();
        text.push_str(&format!("| {test} | {} |\n", cells.join(" | ")));
    }
    text
}

/// The same by column and test.
pub fn described(rows: impl Iterator<Item = Shown>) -> Value {
    let mut columns = Map::new();
    for Shown { column, test, forbidden, seen, rounds } in rows {
        let tests = columns.entry(column).or_insert_with(|| json!({}));
        let (forbidden_seen, allowed_seen) = if forbidden { (seen, 0) } else { (0, seen) };
        tests[test] = json!({
            "forbidden": forbidden,
            "forbidden_seen": forbidden_seen,
            "allowed_seen": allowed_seen,
            "rounds": rounds,
        });
    }
    Value::Object(columns)
}
