//! Jaeger's JSON: what `GET /api/traces` takes and answers (`model/json` of Jaeger's own code).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::pack::{Described, TagValue};
use super::store::{Search, SpanView, Store};

/// The parameters of `GET /api/traces`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SearchQuery {
    service: String,
    operation: String,
    /// A JSON object, all of whose values are text.
    tags: String,
    /// Microseconds since 1970.
    start: Option<u64>,
    end: Option<u64>,
    limit: Option<usize>,
    /// As Go writes durations: `1.5ms`.
    min_duration: String,
    max_duration: String,
}

impl SearchQuery {
    /// # Errors
    /// A sentence that says which parameter is wrong.
    pub(crate) fn parse(self) -> Result<Search, String> {
        if self.service.is_empty() {
            return Err("parameter 'service' is required".to_string());
        }
        let tags: BTreeMap<String, String> = match self.tags.as_str() {
            "" => BTreeMap::new(),
            tags => serde_json::from_str(tags).map_err(|error| format!("malformed 'tags' parameter: {error}"))?,
        };
        let duration = |name: &str, text: &str| match text {
            "" => Ok(None),
            text => parse_duration_us(text).map(Some).ok_or(format!("malformed '{name}' parameter: {text:?}")),
        };
        Ok(Search {
            service: self.service,
            operation: Some(self.operation).filter(|operation| !operation.is_empty()),
            tags,
            start_us: self.start.unwrap_or(0),
            end_us: self.end.unwrap_or(u64::MAX),
            duration_min_us: duration("minDuration", &self.min_duration)?.unwrap_or(0),
            duration_max_us: duration("maxDuration", &self.max_duration)?,
            limit: self.limit.unwrap_or(TRACES_DEFAULT).min(TRACES_MAX),
        })
    }
}

/// The envelope of every answer.
pub(crate) fn answer(data: Value) -> Value {
    let total = data.as_array().map_or(0, Vec::len);
    json!({"data": data, "total": total, "limit": 0, "offset": 0, "errors": null})
}

/// The envelope of a refusal.
pub(crate) fn refusal(status: u16, message: &str) -> Value {
    json!({"data": null, "total": 0, "limit": 0, "offset": 0, "errors": [{"code": status, "msg": message}]})
}

/// One trace, or nothing when it is not held.
pub(crate) fn trace(store: &Store, trace_id: u128) -> Option<Value> {
    let spans = store.trace(trace_id);
    if spans.is_empty() {
        return None;
    }
    let trace_hex = format!("{trace_id:032x}");
    let mut processes = Map::new();
    for span in &spans {
        processes.entry(process_id(span)).or_insert_with(|| {
            let process = store.process_of(span.process);
            json!({"serviceName": process.name, "tags": tags(&process)})
        });
    }
    let spans: Vec<Value> = spans.iter().map(|view| span(&trace_hex, view)).collect();
    Some(json!({"traceID": trace_hex, "spans": spans, "processes": processes, "warnings": null}))
}

fn span(trace_hex: &str, span: &SpanView<'_>) -> Value {
    let reference = |kind: &str, trace_id: &str, id: u64| {
        let id = format!("{id:016x}");
        json!({"refType": kind, "traceID": trace_id, "spanID": id})
    };
    let mut references = Vec::new();
    if span.parent != 0 {
        references.push(reference("CHILD_OF", trace_hex, span.parent));
    }
    for (trace_id, id) in &span.described.links {
        references.push(reference("FOLLOWS_FROM", &format!("{trace_id:032x}"), *id));
    }
    json!({
        "traceID": trace_hex,
        "spanID": format!("{:016x}", span.id),
        "operationName": span.described.name,
        "references": references,
        "startTime": span.start_us,
        "duration": span.duration_us,
        "tags": tags(&span.described),
        "logs": [],
        "processID": process_id(span),
        "warnings": null,
    })
}

fn process_id(span: &SpanView<'_>) -> String {
    format!("p{}", span.process + 1)
}

fn tags(described: &Described<'_>) -> Vec<Value> {
    let tag = |(key, value): &(&str, TagValue<'_>)| {
        let (kind, value): (&str, Value) = match value {
            TagValue::Text(text) => ("string", (*text).into()),
            TagValue::Int(number) => ("int64", (*number).into()),
            TagValue::Bool(truth) => ("bool", (*truth).into()),
            TagValue::Double(number) => ("float64", (*number).into()),
        };
        json!({"key": key, "type": kind, "value": value})
    };
    described.tags.iter().map(tag).collect()
}

/// Go's form of a duration: numbers with units, such as `1m30s`, `1.5ms`, `250us`. In microseconds, rounded down.
fn parse_duration_us(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total_us = 0.0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit_us = match unit {
            "ns" => 1e-3,
            "us" | "µs" | "μs" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            "m" => 60e6,
            "h" => 3_600e6,
            _ => return None,
        };
        total_us += number.parse::<f64>().ok()? * unit_us;
        rest = after;
    }
    (!text.is_empty()).then_some(total_us as u64)
}

/// Traces of an answer when the search names no limit; Jaeger's own default.
const TRACES_DEFAULT: usize = 100;
/// Traces of an answer at most.
const TRACES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, us) in [("250us", 250), ("1.5ms", 1_500), ("1m30s", 90_000_000), ("0s", 0), ("2h", 7_200_000_000)] {
            assert_eq!(parse_duration_us(text), Some(us), "{text}");
        }
        for bad in ["", "5", "ms", "5 ms", "5days", "-1s", "1..5s"] {
            assert_eq!(parse_duration_us(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_search_says_which_parameter_is_wrong() {
        let parse = |query: SearchQuery| query.parse().map(|_| ()).expect_err("a wrong parameter");
        assert!(parse(SearchQuery::default()).contains("'service'"));
        let service = || SearchQuery { service: "s".into(), ..SearchQuery::default() };
        assert!(parse(SearchQuery { tags: "{".into(), ..service() }).contains("'tags'"));
        assert!(parse(SearchQuery { tags: "{\"a\":1}".into(), ..service() }).contains("'tags'"));
        assert!(parse(SearchQuery { min_duration: "5".into(), ..service() }).contains("'minDuration'"));
    }
}
