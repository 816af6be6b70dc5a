//! `everring litmus`: are the levels of a running fleet what they are called?

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
            let (level, test) = (row.level.name(), row.test.name);
            eprintln!("everring: level {level} is broken: {test} on {keys}, traces {}", traces.join(" "));
        }
    }
    let never_whole: Vec<&LitmusRow> = rows.iter().filter(|row| row.rounds == 0).collect();
    if rows.iter().any(LitmusRow::is_broken) {
        return Ok(EXIT_BROKEN);
    }
    if let Some(row) = never_whole.first() {
        let (level, test, of) = (row.level.name(), row.test.name, never_whole.len());
        eprintln!("everring: {test} at level {level} ({of} such cases) was never answered whole; ask for longer");
        return Ok(EXIT_INVALID);
    }
    Ok(0)
}

/// What a test showed at a level.
pub struct Shown {
    /// The level's name.
    pub level: &'static str,
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
            level: row.level.name(),
            test: row.test.name,
            forbidden: row.is_forbidden(),
            seen: row.outcomes,
            rounds: row.rounds,
        }
    }
}

/// The table of docs/consistency.md: a line for each test, a column for each level.
pub fn table(rows: impl Iterator<Item = Shown>) -> String {
    let mut levels: Vec<&str> = Vec::new();
    let mut tests: Vec<(&str, Vec<String>)> = Vec::new();
    for Shown { level, test, forbidden, seen, rounds } in rows {
        if !levels.contains(&level) {
            levels.push(level);
        }
        let outcome = if forbidden { ", forbidden" } else { "" };
        let cell = format!("{} of {}{outcome}", grouped(seen), grouped(rounds));
        match tests.iter_mut().find(|(known, _)| *known == test) {
            Some((_, cells)) => cells.push(cell),
            None => tests.push((test, vec![cell])),
        }
    }
    let mut text = format!("| test | {} |\n|---|{}\n", levels.join(" | "), "---|".repeat(levels.len()));
    for (test, cells) in tests {
        text.push_str(&format!("| {test} | {} |\n", cells.join(" | ")));
    }
    text
}

/// The same by level and test.
pub fn described(rows: impl Iterator<Item = Shown>) -> Value {
    let mut levels = Map::new();
    for Shown { level, test, forbidden, seen, rounds } in rows {
        let tests = levels.entry(level).or_insert_with(|| json!({}));
        let (forbidden_seen, allowed_seen) = if forbidden { (seen, 0) } else { (0, seen) };
        tests[test] = json!({
            "forbidden": forbidden,
            "forbidden_seen": forbidden_seen,
            "allowed_seen": allowed_seen,
            "rounds": rounds,
        });
    }
    Value::Object(levels)
}
