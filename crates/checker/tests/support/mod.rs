//! Histories for tests, from scripts and from lists of what was asked.

// Each test program uses another part of it.
#![allow(dead_code)]

use history::{Function, Operation, Outcome, Process, Value};
use stdx::Prng;

/// A history from a script, one event a line: `process type f key value`.
pub fn jsonl(script: &str) -> String {
    let mut text = String::new();
    for (index, line) in script.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().unwrap_or("null");
        let (process, kind, f, key, value) = (word(), word(), word(), word(), word());
        let trace = if kind == "invoke" { format!(",\"trace_id\":\"trace-{}\"", index + 1) } else { String::new() };
        text += &format!("{{\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\"key\":\"{key}\",");
        text += &format!("\"value\":{value}{trace}}}\n");
    }
    text
}

/// What a session asked; 0 is absent.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub session: usize,
    pub key: u8,
    pub value: u8,
    pub read: Option<u8>,
    pub unknown: bool,
    /// For histories with more values than a byte holds.
    pub wide: u32,
}

impl Asked {
    pub fn write(session: usize, key: u8, value: u8) -> Asked {
        Asked { session, key, value, read: None, unknown: false, wide: 0 }
    }

    pub fn read(session: usize, key: u8, read: u8) -> Asked {
        Asked { session, key, value: 0, read: Some(read), unknown: false, wide: 0 }
    }

    pub fn value_of_read(&self) -> Option<u32> {
        self.read.map(|read| u32::from(read) + 256 * self.wide)
    }
}

/// The operations: all side by side, or one after another. A session's unknown operation is its process's last; what
/// the session does next is asked under the same process all the same.
pub fn operations(asked: &[Asked], one_after_another: bool) -> Vec<Operation> {
    let value = |number: u8, wide: u32| match (number, wide) {
        (0, 0) => Value::Null,
        (number, wide) => Value::from(i64::from(number) + 256 * i64::from(wide)),
    };
    let all = asked.len() as u64;
    let operation = |(index, asked): (usize, &Asked)| {
        let index = index as u64;
        let (begin, end) =
            if one_after_another { (2 * index + 1, 2 * index + 2) } else { (index + 1, all + index + 1) };
        let f = match (asked.read, asked.value, asked.wide) {
            (Some(_), ..) => Function::Read,
            (None, 0, 0) => Function::Delete,
            _ => Function::Write,
        };
        Operation {
            input: if asked.read.is_some() { Value::Null } else { value(asked.value, asked.wide) },
            output: asked.read.map_or(Value::Null, |read| value(read, asked.wide)),
            ..untold(asked.session, f, Value::from(i64::from(asked.key)), (begin, end), asked.unknown)
        }
    };
    asked.iter().enumerate().map(operation).collect()
}

/// An operation on a key that began and ended, or has no known end, at these lines, and of which nothing more is told.
pub fn untold(session: usize, f: Function, key: Value, (begin, end): (u64, u64), unknown: bool) -> Operation {
    Operation {
        process: Process::Client(session as i64),
        f,
        key,
        input: Value::Null,
        output: Value::Null,
        applied: None,
        invoked_at: begin,
        completed_at: (!unknown).then_some(end),
        invoked_ns: None,
        completed_ns: None,
        outcome: if unknown { Outcome::Info } else { Outcome::Ok },
        level: None,
        trace_id: None,
        request_id: None,
        ttl_ms: None,
    }
}

/// A store whose reads come from replicas that lag, each behind one order of all writes: sequential, and stale.
pub fn replicated(operations: usize, sessions: usize, seed: u64) -> Vec<Asked> {
    let mut prng = Prng::from_seed(seed);
    let mut log: Vec<(u8, u32)> = Vec::new();
    let mut at = vec![0usize; sessions];
    let mut asked = Vec::new();
    for _ in 0..operations {
        let session = prng.index(sessions);
        let key = prng.below(6) as u8;
        if prng.one_in(3) {
            log.push((key, log.len() as u32 + 1));
            at[session] = log.len();
            let number = log.len() as u32;
            let mut write = Asked::write(session, key, (number % 256) as u8);
            write.wide = number / 256;
            asked.push(write);
        } else {
            at[session] += prng.index(log.len() - at[session] + 1).min(4);
            let shown = log[..at[session]].iter().rev().find(|(of, _)| *of == key).map_or(0, |(_, number)| *number);
            let mut read = Asked::read(session, key, (shown % 256) as u8);
            read.wide = shown / 256;
            asked.push(read);
        }
    }
    asked
}
