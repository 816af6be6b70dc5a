//! Litmus tests in the simulator: the sessions of a test run its program again and again on fresh keys, under the run's
//! faults, and what their reads show is counted.

use checker::litmus::{Litmus, Step};

/// Which level the reads ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// Strict.
    Strict,
    /// Sequential, each session with its time.
    Sequential,
    /// Causal, of available keys.
    Causal,
    /// Eventual, of available keys.
    Eventual,
}

impl ReadLevel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ReadLevel::Strict => "strict",
            ReadLevel::Sequential => "sequential",
            ReadLevel::Causal => "causal",
            ReadLevel::Eventual => "eventual",
        }
    }
}

/// How many times a test's program is run in one run.
pub const ROUNDS: usize = 24;
/// Variables that a test of [`checker::litmus::ALL`] has at most. Those across contracts name their keys themselves.
pub const VARIABLES: usize = 2;

/// What a run has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Rounds of which every operation was answered.
    pub rounds: u64,
    /// Of these, how many showed the outcome in question.
    pub outcomes: u64,
}

impl Shown {
    /// Adds what another run has shown.
    pub fn add(&mut self, other: Shown) {
        self.rounds += other.rounds;
        self.outcomes += other.outcomes;
    }
}

/// The value that a litmus read shows; of several the last one, which the tests below causal do not distinguish.
pub(crate) fn litmus_value(shown: &history::Value) -> Option<u8> {
    let one = match shown {
        history::Value::List(list) => list.last()?,
        one => one,
    };
    one.as_text()?.parse().ok()
}

/// A test that is being run.
#[derive(Debug)]
pub(crate) struct Running {
    pub test: &'static Litmus,
    pub level: ReadLevel,
    pub shown: Shown,
    round: usize,
    /// How far each session has come in its program.
    done: Vec<usize>,
    /// What each session's reads have shown; none for one that was not answered.
    seen: Vec<Vec<Option<u8>>>,
    /// Whether every operation of the round was answered so far.
    whole: bool,
}

impl Running {
    pub fn new(test: &'static Litmus, level: ReadLevel) -> Running {
        let sessions = test.sessions.len();
        let (done, seen) = (vec![0; sessions], vec![Vec::new(); sessions]);
        Running { test, level, shown: Shown::default(), round: 0, done, seen, whole: true }
    }

    pub fn is_over(&self) -> bool {
        self.round == ROUNDS
    }

    /// What the session does next: the index of the key, and the value to write, if it is a write. None if it waits for
    /// others, or all is over.
    pub fn next(&self, session: usize) -> Option<(usize, Option<u8>)> {
        let (round, variable, write) = self.step(session)?;
        Some((round * VARIABLES + usize::from(variable), write))
    }

    /// The same, with the round and the variable.
    pub fn step(&self, session: usize) -> Option<(usize, u8, Option<u8>)> {
        if self.is_over() {
            return None;
        }
        let earlier_wait =
            self.test.one_after_another && (0..session).any(|other| self.done[other] < self.test.sessions[other].len());
        let step = self.test.sessions.get(session)?.get(self.done[session]).filter(|_| !earlier_wait)?;
        Some(match step {
            Step::Write(variable, value) => (self.round, *variable, Some(*value)),
            Step::Read(variable) => (self.round, *variable, None),
        })
    }

    /// The session's step has ended: `Some` of what a read showed, or of nothing for a write; `None` if unanswered.
    /// True when that ended the round.
    pub fn ended(&mut self, session: usize, answered: Option<Option<u8>>) -> bool {
        let Some(step) = self.test.sessions.get(session).and_then(|steps| steps.get(self.done[session])) else {
            return false;
        };
        self.done[session] += 1;
        self.whole &= answered.is_some();
        if matches!(step, Step::Read(_)) {
            self.seen[session].push(answered.flatten());
        }
        let over = self.done.iter().zip(self.test.sessions).all(|(done, steps)| *done == steps.len());
        if over {
            let shown: Vec<u8> = self.seen.iter().flatten().map(|seen| seen.unwrap_or(0)).collect();
            self.shown.rounds += u64::from(self.whole);
            self.shown.outcomes += u64::from(self.whole && shown == self.test.outcome);
            self.round += 1;
            self.whole = true;
            self.done.fill(0);
            self.seen.iter_mut().for_each(Vec::clear);
        }
        over
    }
}
