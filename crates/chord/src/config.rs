use std::time::Duration;

/// How a member behaves. `successors` must be equal on all members of a ring; the rest may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Length r of the successor list, 2 to 32. The ring survives r - 1 deaths between two repairs. Default 4: with the
    /// default periods a burst of three is repaired within seconds.
    pub successors: usize,
    /// Mean time between two stabilizations. Default 500 ms; each wait is drawn from 3/4 to 5/4 of it, so that members
    /// do not fall into step.
    pub stabilize_period: Duration,
    /// Mean time between two finger lookups, jittered alike. Default 500 ms. A table of d distinct fingers is fresh
    /// after d of these.
    pub finger_period: Duration,
    /// How long one transmission of a question waits before it is sent again. Default 200 ms; it should exceed the
    /// longest usual round trip.
    pub answer_timeout: Duration,
    /// How often a question is sent before the peer counts as dead for this purpose, 1 to 16. Default 3: one lost
    /// message must not cost a live member its place in a list. Death is thus noticed after `attempts x
    /// answer_timeout`.
    pub attempts: u32,
    /// How many members may pass a lookup on before it is dropped, at least 1. Default 256: a ring whose fingers are
    /// not filled in yet is walked by successors.
    pub hops_max: u32,
}

/// What is wrong with a [`Config`]. Nothing was started; the operator changes the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// r is out of range.
    #[error("the successor list has length {0}; it must be 2 to 32, for with one entry the first death cuts the ring")]
    Successors(usize),
    /// A time of zero would spin.
    #[error("{0} is zero; give it some milliseconds")]
    Zero(&'static str),
    /// Attempts out of range.
    #[error("{0} attempts; a question is asked 1 to 16 times")]
    Attempts(u32),
    /// No hop allowed.
    #[error("hops_max is 0; no lookup could leave its member")]
    Hops,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            successors: 4,
            stabilize_period: Duration::from_millis(500),
            finger_period: Duration::from_millis(500),
            answer_timeout: Duration::from_millis(200),
            attempts: 3,
            hops_max: 256,
        }
    }
}

impl Config {
    /// Whether the fields are in range. [`crate::Chord::new`] takes only a config that passes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(2..=32).contains(&self.successors) {
            return Err(ConfigError::Successors(self.successors));
        }
        let times = [
            ("stabilize_period", self.stabilize_period),
            ("finger_period", self.finger_period),
            ("answer_timeout", self.answer_timeout),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(ConfigError::Zero(name));
        }
        if !(1..=16).contains(&self.attempts) {
            return Err(ConfigError::Attempts(self.attempts));
        }
        if self.hops_max == 0 {
            return Err(ConfigError::Hops);
        }
        Ok(())
    }

    /// How long after a question was first sent a silent peer counts as dead.
    pub fn silence_max(&self) -> Duration {
        self.answer_timeout * self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_out_of_range_is_refused_with_a_sentence() {
        assert_eq!(Config::default().validate(), Ok(()));
        let short = Config { successors: 1, ..Config::default() };
        assert!(short.validate().expect_err("r is at least 2").to_string().contains("length 1"));
        let spin = Config { finger_period: Duration::ZERO, ..Config::default() };
        assert_eq!(spin.validate(), Err(ConfigError::Zero("finger_period")));
        assert_eq!(Config { attempts: 0, ..Config::default() }.validate(), Err(ConfigError::Attempts(0)));
        assert_eq!(Config { hops_max: 0, ..Config::default() }.validate(), Err(ConfigError::Hops));
    }
}
