//! Writes the yardstick's history to standard output: `cargo run -p checker --example yardstick | everring check`.
//! With the word `check` it is judged instead, from its text on, and the seconds and the peak of this process's memory
//! are printed. A number of operations may follow, and a seed. The text goes through a pipe: neither side ever has all
//! of it, so that the peak is what judging takes.

use std::io::{self, BufReader, BufWriter, Write};
use std::time::Instant;

use checker::generate::{Settings, generate};
use stdx::Prng;

/// The history is right, so that one is enough to find the checker's fault.
const VIOLATIONS_TOLD_MAX: usize = 3;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let check = arguments.next_if(|word| word == "check").is_some();
    let mut number = || arguments.next().and_then(|word| word.parse().ok());
    let settings = Settings::yardstick();
    let settings = Settings { operations: number().unwrap_or(settings.operations), ..settings };
    let seed = number().unwrap_or(1);
    if !check {
        return write(settings, seed, BufWriter::new(io::stdout().lock()));
    }
    let (reader, writer) = io::pipe()?;
    let writing = std::thread::spawn(move || write(settings, seed, BufWriter::new(writer)));
    let start = Instant::now();
    let report = checker::check(BufReader::new(reader), &checker::Options::default()).map_err(io::Error::other)?;
    let seconds = start.elapsed().as_secs_f64();
    for violation in report.violations.iter().take(VIOLATIONS_TOLD_MAX) {
        eprintln!("{}", violation.sentence);
    }
    writing.join().map_err(|_| io::Error::other("the writer panicked"))??;
    println!(
        "{:?}: {} operations, {} unknown, {} of {} keys decided, {} pieces, {} steps, {seconds:.3} s, at most {} held",
        report.verdict,
        report.ops,
        report.unknown,
        report.decided,
        report.keys,
        report.windows,
        report.steps,
        peak_rss().as_deref().unwrap_or("not known")
    );
    Ok(())
}

fn write(settings: Settings, seed: u64, output: impl Write) -> io::Result<()> {
    let mut writer = history::Writer::new(output);
    let mut written = Ok(());
    generate(settings, &mut Prng::from_seed(seed), &mut |event| {
        if written.is_ok() {
            written = writer.write(&event).map(drop);
        }
    });
    written?;
    writer.flush()
}

/// The most memory that this process ever had, as Linux tells it.
fn peak_rss() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().to_owned())
}
