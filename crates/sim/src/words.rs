//! How messages look in the event log: short, and all that tells two of them apart.

use std::fmt;

use replication::{Body, State};

/// A replica's message in a line.
pub(crate) struct Words<'a>(pub &'a Body);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounds are numbered from a random start: their last digits are enough.
        let short = |round: &replication::RoundId| round.0 % 1_000_000;
        match self.0 {
            Body::Prepare { round, key, ballot } => {
                write!(f, "prepare r{} {} b{ballot}", short(round), text(&key.key))
            }
            Body::Promise { round, accepted: (ballot, state) } => {
                write!(f, "promise r{} b{ballot} {}", short(round), Held(state))
            }
            Body::Accept { round, key, ballot, state, next } => {
                write!(f, "accept r{} {} b{ballot} next {next} {}", short(round), text(&key.key), Held(state))
            }
            Body::Accepted { round } => write!(f, "accepted r{}", short(round)),
            Body::Nack { round, seen, disk_full } => {
                write!(f, "nack r{} seen {seen}{}", short(round), if *disk_full { " full" } else { "" })
            }
            Body::Query { round, key, known } => write!(f, "query r{} {} b{known}", short(round), text(&key.key)),
            Body::Report { round, ballot, state } => {
                write!(f, "report r{} b{ballot}", short(round))?;
                state.as_ref().map_or(Ok(()), |state| write!(f, " {}", Held(state)))
            }
            Body::Learn { key, ballot, state } => write!(f, "learn {} b{ballot} {}", text(&key.key), Held(state)),
            Body::Digest { round, after } => {
                let after = after.as_ref().map_or(String::new(), |key| text(&key.key));
                write!(f, "digest r{} {after}", short(round))
            }
            Body::DigestPage { round, entries, more } => {
                write!(f, "page r{} {}{}", short(round), entries.len(), if *more { " more" } else { "" })?;
                entries.iter().try_for_each(|(key, ballot)| write!(f, " {} b{ballot}", text(&key.key)))
            }
            Body::OtherEpoch => f.write_str("other epoch"),
        }
    }
}

/// A state: its version, its value's end, and how many requests it remembers.
struct Held<'a>(&'a State);

impl fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { version, value, requests } = self.0;
        let value = value.as_ref().map_or("none".to_owned(), |value| {
            let tail = value.body.len().saturating_sub(12);
            text(&value.body[tail..])
        });
        write!(f, "v{version} {value} +{}", requests.entries.len())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
