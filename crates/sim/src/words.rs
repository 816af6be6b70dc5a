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
            Body::Confirm { round, arc, up_to, since, .. } => {
                write!(f, "confirm r{} {arc} to {up_to} since {since}", short(round))
            }
            Body::Confirmed { round, entries, more, .. } => {
                write!(f, "confirmed r{} {} entries more={more}", short(round), entries.len())
            }
            Body::OtherEpoch { view } => {
                write!(f, "other epoch{}", view.as_ref().map_or(String::new(), |view| format!(", view {}", view.epoch)))
            }
            Body::Copy { round, high, after } => {
                let after = after.as_ref().map_or(String::new(), |key| text(&key.key));
                write!(f, "copy r{} to {high} {after}", short(round))
            }
            Body::CopyPage { round, entries, more, held, .. } => {
                write!(f, "copies r{} {}{}", short(round), entries.len(), if *more { " more" } else { "" })?;
                entries.iter().try_for_each(|(key, ballot)| write!(f, " {} b{ballot}", text(&key.key)))?;
                write!(f, " of {}", held.registers)
            }
            Body::Fetch { round, keys, .. } => {
                write!(f, "fetch r{}", short(round))?;
                keys.iter().try_for_each(|key| write!(f, " {}", text(&key.key)))
            }
            Body::Fetched { round, entries } => {
                write!(f, "fetched r{}", short(round))?;
                entries
                    .iter()
                    .try_for_each(|(key, ballot, state)| write!(f, " {} b{ballot} {}", text(&key.key), Held(state)))
            }
            Body::Fenced { incarnation } => write!(f, "fenced by {incarnation}"),
            collecting => collecting_words(collecting, f),
        }
    }
}

/// What is said before tombstones are dropped.
fn collecting_words(body: &Body, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match body {
        Body::Collect { round, up_to, keys, .. } => {
            write!(f, "collect r{} up to {up_to}", round.0 % 1_000_000)?;
            keys.iter().try_for_each(|(key, ballot)| write!(f, " {} b{ballot}", text(&key.key)))
        }
        Body::Collectable { round, refused, floor } => {
            write!(f, "collectable r{} but {refused:?}, floor {floor}", round.0 % 1_000_000)
        }
        Body::Collected { up_to, keys, .. } => {
            write!(f, "collected up to {up_to}")?;
            keys.iter().try_for_each(|(key, ballot)| write!(f, " {} b{ballot}", text(&key.key)))
        }
        other => unreachable!("has its own words: {other:?}"),
    }
}

/// A ring message in a line. Positions by their first 32 bits, as no two of a run's few members share them.
pub(crate) struct RingWords<'a>(pub &'a chord::Envelope);

impl fmt::Display for RingWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |peer: &chord::Peer| peer.position.0 >> 32;
        let chord::Envelope { from, to, body } = self.0;
        write!(f, "ring {:08x} to {:08x} ", short(from), short(to))?;
        match body {
            chord::Body::Pull { call } => write!(f, "pull c{:08x}", call.0 as u32),
            chord::Body::Pulled { call, predecessor, successors } => {
                write!(f, "pulled c{:08x} after {:08x}:", call.0 as u32, predecessor.as_ref().map_or(0, short))?;
                successors.iter().try_for_each(|peer| write!(f, " {:08x}", short(peer)))
            }
            chord::Body::Notify => f.write_str("notify"),
            chord::Body::Ping { call } => write!(f, "ping c{:08x}", call.0 as u32),
            chord::Body::Pong { call } => write!(f, "pong c{:08x}", call.0 as u32),
            chord::Body::FindSuccessor { call, target, origin, hops } => {
                write!(f, "find c{:08x} {target} for {:08x} hop {hops}", call.0 as u32, short(origin))
            }
            chord::Body::Found { call, successor, hops } => {
                write!(f, "found c{:08x} {:08x} hop {hops}", call.0 as u32, short(successor))
            }
        }
    }
}

/// A state: its version, its value's end, and how many requests it remembers.
struct Held<'a>(&'a State);

impl fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { version, value, requests, fence, ends_ms } = self.0;
        let value = value.as_ref().map_or("none".to_owned(), |value| {
            let tail = value.body.len().saturating_sub(12);
            text(&value.body[tail..])
        });
        write!(f, "v{version} {value} +{}", requests.entries.len())?;
        if *fence != 0 {
            write!(f, " fence {fence}")?;
        }
        if *ends_ms != 0 { write!(f, " till {ends_ms}") } else { Ok(()) }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
