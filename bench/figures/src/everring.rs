//! The program under measurement, and the commands that were run.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::found::rounded;

/// The program.
pub struct Everring {
    program: PathBuf,
    work: PathBuf,
    commands: RefCell<Vec<String>>,
}

/// What a command left.
pub struct Finished {
    /// Its exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
}

impl Finished {
    /// Its standard output as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(self.stdout.trim()).context("its standard output is no JSON")
    }
}

impl Everring {
    /// `program`, with a folder for files.
    pub fn new(program: PathBuf, work: PathBuf) -> Everring {
        Everring { program, work, commands: RefCell::default() }
    }

    /// A file in the work folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// The work folder.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The commands so far, as a person would type them.
    pub fn commands(&self) -> Vec<String> {
        self.commands.borrow().clone()
    }

    /// The size of the program.
    pub fn binary_mib(&self) -> Result<f64> {
        let size = std::fs::metadata(&self.program).with_context(|| format!("no {}", self.program.display()))?.len();
        Ok(rounded(size as f64 / 1_048_576.0))
    }

    /// A command that is to be started; it is noted.
    pub fn command(&self, args: &[String]) -> Command {
        let words = std::iter::once("everring".to_owned()).chain(args.iter().map(|word| {
            // The work folder is this machine's own and gone afterwards.
            word.replace(&self.work.display().to_string(), "WORK")
        }));
        self.commands.borrow_mut().push(words.collect::<Vec<_>>().join(" "));
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null());
        // Flags that somebody set for a fleet of their own must not change what is measured.
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("EVERRING_")) {
            command.env_remove(variable);
        }
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        command
    }

    /// Runs a command to its end. What it says on standard error is passed on.
    pub fn run(&self, args: &[String]) -> Result<Finished> {
        let output = self.command(args).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("{} cannot be run", self.program.display()))?;
        Ok(Finished { code: output.status.code(), stdout: String::from_utf8_lossy(&output.stdout).into_owned() })
    }
}

/// Words of a command line.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
