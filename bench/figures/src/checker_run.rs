//! The checker's yardstick: a history of 100,000 operations, of 20 clients on 200 keys, with unknowns.

use std::fs::File;
use std::io::BufWriter;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use checker::generate::{Settings, history};
use history::Writer;
use serde_json::{Value, json};
use stdx::Prng;

use crate::everring::{Everring, words};
use crate::{Extent, Part, rounded};

/// Judges it by `everring check`, from the start of the process to its end.
pub fn measure(everring: &Everring, _extent: Extent, seed: u64) -> Result<Part> {
    let path = everring.file("yardstick.jsonl");
    let file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    let mut writer = Writer::new(BufWriter::new(file));
    for event in history(Settings::yardstick(), &mut Prng::from_seed(seed)) {
        writer.write(&event).context("writing the yardstick")?;
    }
    writer.flush().context("writing the yardstick")?;
    let start = Instant::now();
    let finished = everring.run(&words(&["check", &path.display().to_string(), "--output", "json"]))?;
    let seconds = start.elapsed().as_secs_f64();
    let report = finished.json()?;
    ensure!(finished.code == Some(0), "the yardstick is valid, but the checker says {}", report["verdict"]);
    let kept = ["verdict", "ops", "unknown", "keys", "decided", "steps"];
    let details = kept.iter().map(|name| ((*name).to_owned(), report[name].clone())).collect();
    Ok(Part { figures: vec![("checker_seconds", json!(rounded(seconds)))], details: Value::Object(details) })
}
