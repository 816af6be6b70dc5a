//! `everring litmus`: are the levels of a running fleet what they are called?

use chaos::litmus::{self, LitmusConfig, LitmusRow};
use serde_json::{Map, Value, json};

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
        Form::Json => out::json(&described(&rows))?,
        Form::Table => out::bytes(table(&rows).as_bytes())?,
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

/// The rows as they stand in docs/consistency.md.
fn table(rows: &[LitmusRow]) -> String {
    let mut text = String::from("| level | test | outcome | seen | of rounds |\n|---|---|---|---|---|\n");
    for row in rows {
        let outcome = if row.is_forbidden() { "forbidden" } else { "allowed" };
        let (level, test) = (row.level.name(), row.test.name);
        text.push_str(&format!("| {level} | {test} | {outcome} | {} | {} |\n", row.outcomes, row.rounds));
    }
    text
}

fn described(rows: &[LitmusRow]) -> Value {
    let mut levels = Map::new();
    for row in rows {
        let level = levels.entry(row.level.name()).or_insert_with(|| json!({}));
        let (forbidden, allowed) = if row.is_forbidden() { (row.outcomes, 0) } else { (0, row.outcomes) };
        level[row.test.name] = json!({
            "forbidden_seen": forbidden,
            "allowed_seen": allowed,
            "rounds": row.rounds,
            "unclear": row.unclear,
        });
    }
    json!({ "litmus": levels, "broken": rows.iter().filter(|row| row.is_broken()).count() })
}
