//! Writes the yardstick's history to standard output: `cargo run -p checker --example yardstick | everring check`.
//! With the word `check` it is judged instead, from its text on, and the seconds are printed; a seed may follow.

use std::io::{self, BufWriter};
use std::time::Instant;

use checker::generate::{Settings, history};
use stdx::Prng;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let check = arguments.next_if(|word| word == "check").is_some();
    let seed = arguments.next().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let events = history(Settings::yardstick(), &mut Prng::from_seed(seed));
    if !check {
        return write(&events, BufWriter::new(io::stdout().lock()));
    }
    let mut text = Vec::new();
    write(&events, &mut text)?;
    let start = Instant::now();
    let report = checker::check(text.as_slice(), &checker::Options::default()).map_err(io::Error::other)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:?}: {} operations, {} unknown, {} of {} keys decided, {} steps, {seconds:.3} s",
        report.verdict, report.ops, report.unknown, report.decided, report.keys, report.steps
    );
    Ok(())
}

fn write(events: &[history::Event], output: impl io::Write) -> io::Result<()> {
    let mut writer = history::Writer::new(output);
    for event in events {
        writer.write(event)?;
    }
    writer.flush()
}
