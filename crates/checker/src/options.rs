use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// What to check, and how long.
#[derive(Debug)]
pub struct Options {
    /// The sequential meaning of the operations.
    pub model: Model,
    /// The promise that the history is held against.
    pub level: Level,
    /// When to give up; no limit unless one is given.
    pub limit: Limit,
    /// A history of more operations than this is judged piece by piece, in bounded memory.
    pub whole_max: usize,
}

/// Operations of a history that are held in memory at once unless an option says otherwise: some 200 MB of them.
pub const WHOLE_MAX: usize = 500_000;

impl Default for Options {
    fn default() -> Options {
        Options { model: Model::default(), level: Level::default(), limit: Limit::default(), whole_max: WHOLE_MAX }
    }
}

/// The sequential meaning of the operations on one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// A value: read, write, cas, append (joins strings), add (integers, absent counts 0), delete. Absent at first.
    #[default]
    Register,
    /// A set that only grows: add (an element), read (a list). Empty at first.
    Set,
    /// A number: add, read. 0 at first. Judged by bounds, which is weaker than model register with the same operations.
    Counter,
    /// A lock with fencing tokens: acquire, release, use (a write that carries a token).
    Lock,
}

/// The promise that a history is held against.
///
/// Weaker levels come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Replicas converge once updates stop, and what was deleted does not come back.
    Eventual,
    /// What a session has seen, and all that led to it, stays visible to it.
    Causal,
    /// One order of all operations on all keys, agreeing with each session's order.
    Sequential,
    /// Linearizable.
    #[default]
    Strict,
}

/// A model or a level that cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownName {
    /// No such model.
    #[error("model `{0}` is not offered: use register, set, counter or lock")]
    Model(String),
    /// No such level.
    #[error("level `{0}` is not offered: use strict, sequential, causal or eventual")]
    Level(String),
}

impl FromStr for Model {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Model, UnknownName> {
        match name {
            "register" => Ok(Model::Register),
            "set" => Ok(Model::Set),
            "counter" => Ok(Model::Counter),
            "lock" => Ok(Model::Lock),
            other => Err(UnknownName::Model(other.to_owned())),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::Register => "register",
            Model::Set => "set",
            Model::Counter => "counter",
            Model::Lock => "lock",
        })
    }
}

impl FromStr for Level {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Level, UnknownName> {
        match name {
            "strict" => Ok(Level::Strict),
            "sequential" => Ok(Level::Sequential),
            "causal" => Ok(Level::Causal),
            "eventual" => Ok(Level::Eventual),
            other => Err(UnknownName::Level(other.to_owned())),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Strict => "strict",
            Level::Sequential => "sequential",
            Level::Causal => "causal",
            Level::Eventual => "eventual",
        })
    }
}

/// When a check gives up and says `Undecided` of what is left.
pub struct Limit {
    steps_max: u64,
    time: Option<(Duration, Box<dyn Fn() -> Duration>)>,
}

impl Limit {
    /// Never, but for memory: a search that outgrows its share gives up all the same.
    pub fn none() -> Limit {
        Limit { steps_max: u64::MAX, time: None }
    }

    /// After `steps` transitions tried, over all keys; the same on every machine.
    pub fn steps(steps: u64) -> Limit {
        Limit { steps_max: steps, time: None }
    }

    /// Once `elapsed`, which must not run backwards, answers `limit` or more.
    pub fn time(limit: Duration, elapsed: impl Fn() -> Duration + 'static) -> Limit {
        Limit { steps_max: u64::MAX, time: Some((limit, Box::new(elapsed))) }
    }
}

impl Default for Limit {
    fn default() -> Limit {
        Limit::none()
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.as_ref().map(|(limit, _)| limit);
        f.debug_struct("Limit").field("steps_max", &self.steps_max).field("time", &time).finish()
    }
}

/// What is left of a [`Limit`].
pub(crate) struct Budget<'a> {
    limit: &'a Limit,
    steps: u64,
    over: bool,
}

/// How many steps pass between two looks at the clock: some tens of microseconds of search.
const STEPS_PER_LOOK: u64 = 1024;

impl<'a> Budget<'a> {
    pub(crate) fn new(limit: &'a Limit) -> Budget<'a> {
        let mut budget = Budget { limit, steps: 0, over: false };
        budget.look();
        budget
    }

    /// Takes one step; false when there are none left.
    pub(crate) fn spend(&mut self) -> bool {
        self.steps += 1;
        if self.steps > self.limit.steps_max {
            self.over = true;
        } else if self.steps.is_multiple_of(STEPS_PER_LOOK) {
            self.look();
        }
        !self.over
    }

    /// Whether the limit has been reached, by the clock too.
    pub(crate) fn is_over(&mut self) -> bool {
        self.look();
        self.over
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    fn look(&mut self) {
        if let Some((limit, elapsed)) = &self.limit.time {
            self.over |= elapsed() >= *limit;
        }
    }
}
