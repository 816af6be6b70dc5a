use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::reader::Reason;
use crate::value::Value;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its number in the history, from 0, as its writer counted; decides nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Nanoseconds since the run began, by its writer's clock; decides nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// Who asked.
    pub process: Process,
    /// Whether this is a question or which kind of answer.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// What was asked.
    pub f: Function,
    /// The key it was asked of; `null` for histories of a single object.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub key: Value,
    /// The argument in an invocation, the answer in a completion; cas carries `[old, new]`.
    pub value: Value,
    /// Of a cas that is `ok`: whether it took effect. `Some(false)` observes that the value was not `old`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
    /// How long the written value lives, in milliseconds: after that it may go away by itself, and stays away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The consistency level that was asked for, as its writer spelled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The trace of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The id under which the request may be repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Event {
    /// An event with nothing optional in it.
    pub fn new(process: Process, kind: EventKind, f: Function, key: Value, value: Value) -> Event {
        Event {
            index: None,
            time: None,
            process,
            kind,
            f,
            key,
            value,
            applied: None,
            ttl_ms: None,
            level: None,
            trace_id: None,
            request_id: None,
        }
    }

    /// Reads one line; the reason it cannot be read otherwise.
    pub(crate) fn parse(line: &str) -> Result<Event, Reason> {
        // serde would take a list of the fields' values for the object.
        if !line.trim_start().starts_with('{') {
            return Err(Reason::NotAnObject);
        }
        let raw: RawEvent = serde_json::from_str(line).map_err(Reason::NotJson)?;
        let process = match raw.process {
            Some(Value::Integer(number)) => match i64::try_from(number) {
                Ok(number) => Process::Client(number),
                Err(_) => Process::Named(number.to_string()),
            },
            Some(Value::Text(name)) => Process::from(name.as_str()),
            Some(_) => return Err(Reason::Field { name: "process", must: "be a number or a string" }),
            None => return Err(Reason::Field { name: "process", must: "be there" }),
        };
        let kind = match (raw.kind.as_ref().map(Value::as_text), &process) {
            (Some(Some(name)), _) => EventKind::named(name)?,
            (Some(None), _) => return Err(Reason::Field { name: "type", must: "be a string" }),
            // A fault is neither asked nor answered.
            (None, Process::Nemesis) => EventKind::Info,
            (None, _) => return Err(Reason::Field { name: "type", must: "be there" }),
        };
        let f = match raw.f {
            Some(Value::Text(name)) => Function::from(name.trim_start_matches(':')),
            Some(_) => return Err(Reason::Field { name: "f", must: "be a string" }),
            None if kind == EventKind::Invoke => return Err(Reason::Field { name: "f", must: "be there" }),
            None => Function::Other(String::new()),
        };
        let applied = match raw.applied {
            Some(Value::Bool(applied)) => Some(applied),
            Some(_) => return Err(Reason::Field { name: "applied", must: "be true or false" }),
            None => None,
        };
        let ttl_ms = match raw.ttl_ms {
            Some(Value::Integer(ttl_ms)) => Some(u64::try_from(ttl_ms).unwrap_or(0)),
            Some(_) => return Err(Reason::Field { name: "ttl_ms", must: "be a whole number" }),
            None => None,
        };
        Ok(Event {
            index: raw.index.and_then(|index| u64::try_from(index.as_integer()?).ok()),
            time: raw.time.and_then(|time| i64::try_from(time.as_integer()?).ok()),
            process,
            kind,
            f,
            key: raw.key.unwrap_or_default(),
            value: raw.value.unwrap_or_default(),
            applied,
            ttl_ms,
            level: raw.level.map(plain_text),
            trace_id: raw.trace_id.map(plain_text),
            request_id: raw.request_id.map(plain_text),
        })
    }
}

/// The fields as they stand; every one may be missing or of any kind, so that an error can say which is wrong.
#[derive(Deserialize)]
struct RawEvent {
    index: Option<Value>,
    time: Option<Value>,
    process: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<Value>,
    f: Option<Value>,
    key: Option<Value>,
    value: Option<Value>,
    applied: Option<Value>,
    ttl_ms: Option<Value>,
    level: Option<Value>,
    trace_id: Option<Value>,
    request_id: Option<Value>,
}

fn plain_text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        other => other.to_string(),
    }
}

/// Who asked: a client, one operation at a time, or the fault injector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A numbered client; `"3"` is read as `3`.
    Client(i64),
    /// A client with another name.
    Named(String),
    /// The fault injector; its lines are faults, not operations.
    Nemesis,
}

impl From<&str> for Process {
    fn from(name: &str) -> Process {
        let name = name.trim_start_matches(':');
        match name.parse() {
            Ok(number) => Process::Client(number),
            Err(_) if name == "nemesis" => Process::Nemesis,
            Err(_) => Process::Named(name.to_owned()),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Client(number) => write!(f, "{number}"),
            Process::Named(name) => f.write_str(name),
            Process::Nemesis => f.write_str("nemesis"),
        }
    }
}

impl Serialize for Process {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Process::Client(number) => serializer.serialize_i64(*number),
            other => serializer.collect_str(other),
        }
    }
}

/// What a line says about its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It was asked.
    Invoke,
    /// It was done, and answered.
    Ok,
    /// It surely had no effect and observed nothing.
    Fail,
    /// It is unknown whether it took effect or ever will.
    Info,
}

impl EventKind {
    fn named(name: &str) -> Result<EventKind, Reason> {
        match name.trim_start_matches(':') {
            "invoke" => Ok(EventKind::Invoke),
            "ok" => Ok(EventKind::Ok),
            "fail" => Ok(EventKind::Fail),
            "info" => Ok(EventKind::Info),
            _ => Err(Reason::Field { name: "type", must: "be one of invoke, ok, fail, info" }),
        }
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// The value of the key.
    Read,
    /// To replace the value.
    Write,
    /// To replace the value if it is a given one: `[old, new]`.
    Cas,
    /// To join a string to the end of the value.
    Append,
    /// To add a number to the value, or an element to a set.
    Add,
    /// To make the value absent.
    Delete,
    /// Anything else: a fault's kind, or an operation of another model.
    Other(String),
}

impl Function {
    /// Its name in a history.
    pub fn name(&self) -> &str {
        match self {
            Function::Read => "read",
            Function::Write => "write",
            Function::Cas => "cas",
            Function::Append => "append",
            Function::Add => "add",
            Function::Delete => "delete",
            Function::Other(name) => name,
        }
    }
}

impl From<&str> for Function {
    fn from(name: &str) -> Function {
        match name {
            "read" => Function::Read,
            "write" => Function::Write,
            "cas" => Function::Cas,
            "append" => Function::Append,
            "add" => Function::Add,
            "delete" => Function::Delete,
            other => Function::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Function {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
