//! Runs seeds of the simulated fleet of available keys, with a rule broken if one is named, and says which found harm:
//! `cargo run --release -p sim --example available -- FIRST COUNT [RULE]`, or `replay SEED [RULE]` for one seed's log.
//!
//! It is what the long runs in decisions and commit messages were made with; the tests run fewer seeds of the same.

use std::process::ExitCode;

use available::Rule;
use sim::available::{Counts, run};

const USAGE: &str = "use: available FIRST COUNT [RULE], or: available replay SEED [RULE]";
/// How often a long run says how far it is.
const TOLD_EVERY: u64 = 1_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let rule = match words.get(2).map(|name| name.parse::<Rule>()) {
        None => None,
        Some(Ok(rule)) => Some(rule),
        Some(Err(unknown)) => return refuse(&unknown.to_string()),
    };
    match (words.first(), words.get(1).map(|number| number.parse::<u64>())) {
        (Some(&"replay"), Some(Ok(seed))) => replay(seed, rule),
        (Some(first), Some(Ok(count))) => match first.parse() {
            Ok(first) => run_seeds(first, count, rule),
            Err(_) => refuse(USAGE),
        },
        _ => refuse(USAGE),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

fn replay(seed: u64, rule: Option<Rule>) -> ExitCode {
    let report = run(seed, rule, true);
    println!("{}\n{}", report.swarm, report.log.text());
    ended(report.violation.is_some())
}

fn run_seeds(first: u64, count: u64, rule: Option<Rule>) -> ExitCode {
    let (mut counts, mut found) = (Counts::default(), 0);
    for seed in first..first + count {
        let report = run(seed, rule, false);
        counts.add(&report.counts);
        if let Some(violation) = report.violation {
            found += 1;
            let text = violation.to_string();
            println!("seed {seed} ({:?}): {}", report.swarm.theme, text.chars().take(300).collect::<String>());
        }
        if (seed - first + 1).is_multiple_of(TOLD_EVERY) {
            println!("{} seeds, {found} with a violation", seed - first + 1);
        }
    }
    println!("{count} seeds from {first}: {found} with a violation; {counts:?}");
    ended(found > 0)
}

fn ended(harm: bool) -> ExitCode {
    if harm { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
