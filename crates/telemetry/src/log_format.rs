//! The form of a log line: JSON for machines, one coloured line for people, both with the trace's ids.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How an event becomes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFormat {
    /// One JSON object a line: `timestamp`, `level`, `target`, `message`, `trace_id`, `span_id`, `fields`.
    Json,
    /// Time, level, target, message, `key=value`, and the trace id at the end.
    Pretty,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        match self {
            LineFormat::Json => writeln!(writer, "{}", json(event, line, time)),
            LineFormat::Pretty => pretty(&mut writer, event, &line, &time),
        }
    }
}

fn json(event: &Event<'_>, line: Line, time: String) -> Value {
    let mut object = Map::new();
    object.insert("timestamp".into(), time.into());
    object.insert("level".into(), event.metadata().level().as_str().into());
    object.insert("target".into(), event.metadata().target().into());
    object.insert("message".into(), line.message.into());
    if let Some((trace_id, span_id)) = current_ids() {
        object.insert("trace_id".into(), trace_id.into());
        object.insert("span_id".into(), span_id.into());
    }
    if !line.fields.is_empty() {
        object.insert("fields".into(), Value::Object(line.fields));
    }
    Value::Object(object)
}

fn pretty(writer: &mut Writer<'_>, event: &Event<'_>, line: &Line, time: &str) -> fmt::Result {
    let level = event.metadata().level();
    let clock = time.get(CLOCK).unwrap_or(time);
    if writer.has_ansi_escapes() {
        let colour = match *level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            _ => 36,
        };
        write!(writer, "\x1b[2m{clock}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m ")?;
    } else {
        write!(writer, "{clock} {level:>5} ")?;
    }
    write!(writer, "{}: {}", event.metadata().target(), line.message)?;
    for (key, value) in &line.fields {
        match value {
            Value::String(text) if !text.contains(char::is_whitespace) => write!(writer, " {key}={text}")?,
            other => write!(writer, " {key}={other}")?,
        }
    }
    if let Some((trace_id, _)) = current_ids() {
        write!(writer, " trace_id={trace_id}")?;
    }
    writer.write_char('\n')
}

/// The ids of the span that the event happened in, if any.
fn current_ids() -> Option<(String, String)> {
    let context = Context::current();
    let span = context.span();
    let ids = span.span_context();
    ids.is_valid().then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
}

/// What an event carries.
#[derive(Default)]
struct Line {
    message: String,
    fields: Map<String, Value>,
}

impl Line {
    fn put(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_string(), value);
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.put(field, text.into()) }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.message = value.to_string() } else { self.put(field, value.into()) }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// Where `HH:MM:SS.mmm` stands in an RFC 3339 time: a person at a terminal knows the day.
const CLOCK: std::ops::Range<usize> = 11..23;
