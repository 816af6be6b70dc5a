use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::reply::Refused;
use crate::units::parse_duration;

/// How long a blocking query waits when it does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// The longest wait; more is cut down to it.
const WAIT_MOST: Duration = Duration::from_secs(10 * 60);

/// The parameters of a request, in order; a name may come several times.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

/// Which guarantee a read asks for. The default is as strong as `consistent`: both ask a majority first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    Leader,
    Stale,
    Consistent,
}

impl Consistency {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Consistency::Leader => "leader",
            Consistency::Stale => "stale",
            Consistency::Consistent => "consistent",
        }
    }
}

/// What all reads understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadOptions {
    /// Wait until the answer's index differs from this one; 0: do not wait.
    pub(crate) index: u64,
    pub(crate) wait: Duration,
    pub(crate) consistency: Consistency,
    pub(crate) pretty: bool,
}

impl Params {
    pub(crate) fn parse(query: &str) -> Params {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Params(pairs.collect())
    }

    /// Whether the name is there at all: `?stale`, `?stale=1`; Consul does not look at the value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// A number, if the name is there.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refused> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            // Consul's own words for it, and its status.
            Err(_) => {
                let status = actix_web::http::StatusCode::INTERNAL_SERVER_ERROR;
                Err(Refused::new(status, format!("strconv.ParseUint: parsing {text:?}: invalid syntax")))
            }
        }
    }

    /// `?passing`, `?passing=1`, `?passing=false`.
    pub(crate) fn truth(&self, name: &str) -> Result<bool, Refused> {
        match self.get(name) {
            None => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(_) => Err(Refused::bad_request(format!("Invalid value for ?{name}"))),
        }
    }

    /// What would change the answer's meaning and is not offered must not be passed over in silence.
    pub(crate) fn refuse_unoffered(&self, datacenter: &str) -> Result<(), Refused> {
        if self.get("dc").is_some_and(|dc| !dc.is_empty() && dc != datacenter) {
            let status = actix_web::http::StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Refused::new(status, "No path to datacenter"));
        }
        for name in ["peer", "sg"] {
            if self.get(name).is_some_and(|value| !value.is_empty()) {
                return Err(Refused::not_offered(&format!("the parameter {name} is")));
            }
        }
        for (name, what) in [("ns", "Namespaces"), ("partition", "Partitions")] {
            if self.get(name).is_some_and(|value| !value.is_empty() && value != "default") {
                let text = format!("Invalid query parameter: {name:?} - {what} are a Consul Enterprise feature");
                return Err(Refused::bad_request(text));
            }
        }
        Ok(())
    }

    /// Refuses parameters that contradict each other, as Consul does.
    pub(crate) fn refuse_conflict(&self, names: &[&str]) -> Result<(), Refused> {
        if names.iter().filter(|name| self.has(name)).count() < 2 {
            return Ok(());
        }
        let mut pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.sort();
        Err(Refused::bad_request(format!("Conflicting flags: {}", pairs.join("&"))))
    }

    pub(crate) fn read_options(&self) -> Result<ReadOptions, Refused> {
        let consistency = match (self.has("stale"), self.has("consistent")) {
            (true, true) => {
                let text = "Cannot specify ?stale with ?consistent, conflicting semantics.";
                return Err(Refused::bad_request(text));
            }
            (true, false) => Consistency::Stale,
            (false, true) => Consistency::Consistent,
            (false, false) => Consistency::Leader,
        };
        let wait = match self.get("wait") {
            None => WAIT_DEFAULT,
            // A wait that is less than nothing is none, as in Consul.
            Some(text) if text.starts_with('-') && parse_duration(&text[1..]).is_some() => WAIT_DEFAULT,
            Some(text) => match parse_duration(text) {
                None => return Err(Refused::bad_request("Invalid wait time")),
                Some(Duration::ZERO) => WAIT_DEFAULT,
                Some(wait) => wait.min(WAIT_MOST),
            },
        };
        let index = match self.get("index") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Refused::bad_request("Invalid index"))?,
        };
        Ok(ReadOptions { index, wait, consistency, pretty: self.pretty() })
    }

    pub(crate) fn pretty(&self) -> bool {
        self.has("pretty")
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let params = Params::parse("tag=a%26b&tag=c+d&recurse&n=");
        assert_eq!(params.all("tag").collect::<Vec<_>>(), ["a&b", "c d"]);
        assert!(params.has("recurse") && params.has("n") && !params.has("x"));
    }

    #[test]
    fn waits_have_a_default_and_a_bound() {
        let wait = |query: &str| Params::parse(query).read_options().map(|options| options.wait.as_secs()).ok();
        assert_eq!(wait("index=1"), Some(300));
        assert_eq!(wait("wait=0s"), Some(300));
        assert_eq!(wait("wait=10s"), Some(10));
        assert_eq!(wait("wait=1h"), Some(600));
        assert_eq!(wait("wait=-1s"), Some(300));
        assert_eq!(wait("wait=soon"), None);
        assert_eq!(wait("index=-1"), None);
        assert_eq!(wait("stale&consistent"), None);
    }
}
