//! `cargo run -p xtask -- tidy|deps|measure`: the repository's own checks. See the library for what they are.

use std::io;
use std::process::ExitCode;

use xtask::{Complaint, deps, measure, tidy, workspace_root};

const USAGE: &str = "usage: cargo run -p xtask -- WHAT
  tidy      holds every file against the rules that a compiler does not check
  deps      holds Cargo.lock and the licences of what is in it against the policy
  measure   prints how large, how commented and how tested each crate is";

fn main() -> ExitCode {
    let root = workspace_root();
    let what = std::env::args().nth(1);
    let result = match what.as_deref() {
        Some("tidy") => tidy::check(&root).map(|complaints| judged("tidy", &complaints)),
        Some("deps") => deps::check_licences(&root).map(|complaints| judged("deps", &complaints)),
        Some("measure") => measure::table(&root).map(|table| {
            print!("{table}");
            true
        }),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    ended(result)
}

fn judged(check: &str, complaints: &[Complaint]) -> bool {
    for complaint in complaints {
        println!("{complaint}");
    }
    println!("{check}: {} complaints", complaints.len());
    complaints.is_empty()
}

fn ended(result: io::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the check could not be carried out: {error}");
            ExitCode::from(2)
        }
    }
}
