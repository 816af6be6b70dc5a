//! `everring check`: judges a history, whoever wrote it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::Context;
use checker::{Limit, Options, Report, Verdict, Violation};

use crate::args::CheckArgs;
use crate::out::{self, Form};

/// Runs the check; the exit status is 0 valid, 1 violated, 2 unreadable, 3 undecided.
///
/// # Errors
/// The history cannot be read, or holds what the model has no meaning for; or a file cannot be written.
pub fn run(args: CheckArgs) -> anyhow::Result<u8> {
    let started = Instant::now();
    let limit = Limit::time(Duration::from_secs_f64(args.limit), move || started.elapsed());
    let options = Options { model: args.model, level: args.level, limit, ..Options::default() };
    let input: Box<dyn BufRead> = if args.history.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let file = File::open(&args.history);
        let name = args.history.display();
        Box::new(BufReader::new(file.with_context(|| format!("cannot open the history {name}"))?))
    };
    let result = checker::check(input, &options);
    let exit = checker::exit_code(&result);
    let report = result.map_err(|error| anyhow::anyhow!("{}", stdx::error_chain(&error)))?;
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write the report {}", path.display()))?;
    }
    match args.output.output {
        Form::Json => out::json(&report)?,
        Form::Table => out::bytes(text(&report).as_bytes())?,
    }
    Ok(exit)
}

fn text(report: &Report) -> String {
    let Report { verdict, model, level, ops, unknown, keys, decided, undecided, violations, .. } = report;
    let Report { left_out, windows, .. } = report;
    let word = match verdict {
        Verdict::Valid if *windows > 1 => "VALID - each piece of the history is explained, in bounded memory",
        Verdict::Valid => "VALID - every answer is explained",
        Verdict::Violated => "VIOLATED - nothing explains every answer",
        Verdict::Undecided if *left_out >= *ops && *ops > 0 => {
            "UNDECIDED - all operations promise less than the level that is checked; name theirs with --level"
        }
        Verdict::Undecided if *level == checker::Level::Eventual => {
            "UNDECIDED - no read was made after everything had settled, so there is no convergence to judge"
        }
        Verdict::Undecided => "UNDECIDED - the limit was reached first; give it longer with --limit SECONDS",
    };
    let mut text = format!(
        "{word}\nmodel {model}, level {level}: {ops} operations ({unknown} of unknown outcome) on {keys} keys, \
         {decided} decided\n"
    );
    if *left_out > 0 {
        text.push_str(&format!(
            "{left_out} operations promise less, or cannot be read at this level, and were left out\n"
        ));
    }
    if *windows > 1 {
        text.push_str(&format!("judged in {windows} pieces: a contradiction that spans several may be missed\n"));
    }
    if !undecided.is_empty() {
        let names: Vec<String> = undecided.iter().take(KEYS_SHOWN_MAX).map(ToString::to_string).collect();
        text.push_str(&format!("{} keys are undecided, such as {}\n", undecided.len(), names.join(", ")));
    }
    for violation in violations.iter().take(KEYS_SHOWN_MAX) {
        text.push_str(&violation_text(violation));
    }
    if violations.len() > KEYS_SHOWN_MAX {
        let more = violations.len() - KEYS_SHOWN_MAX;
        text.push_str(&format!("\nand {more} more keys; --output json or --report has them all\n"));
    }
    text
}

fn violation_text(violation: &Violation) -> String {
    let mut text = format!("\nkey {}, at line {}: {}\n", violation.key, violation.line, violation.sentence);
    for operation in &violation.operations {
        let until = operation.completed_line.map_or("?".to_owned(), |line| line.to_string());
        let trace = operation.trace_id.as_ref().map(|id| format!("  trace {id}")).unwrap_or_default();
        text.push_str(&format!(
            "  lines {}-{until}  process {}  {} {} -> {} {}{trace}\n",
            operation.invoked_line,
            operation.process,
            operation.f,
            operation.input,
            operation.output,
            operation.outcome,
        ));
    }
    text
}

/// Keys shown one by one in the text; the JSON has all.
const KEYS_SHOWN_MAX: usize = 5;
