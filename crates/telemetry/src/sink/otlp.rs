//! What an OTLP export request says, put into the store.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};

use super::pack::{Described, TagValue};
use super::store::{NewSpan, Store};

pub(crate) fn insert(store: &mut Store, now_ms: u64, request: &ExportTraceServiceRequest) {
    for resource in &request.resource_spans {
        let shown = Shown::of(resource.resource.iter().flat_map(|resource| &resource.attributes));
        let name = shown.tags.iter().find(|(key, _)| *key == SERVICE_NAME);
        let service = name.map_or("unknown_service", |(_, value)| value.as_str());
        let mut tags = shown.tags();
        tags.retain(|(key, _)| *key != SERVICE_NAME);
        let process = Described { name: service, tags, links: vec![] };
        insert_spans(store, now_ms, &process, resource);
    }
}

fn insert_spans(store: &mut Store, now_ms: u64, process: &Described<'_>, resource: &ResourceSpans) {
    for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
        // Asked for each span: an eviction in between may have let the process go.
        let number = store.process(process);
        let shown = Shown::of(&span.attributes);
        let mut tags = shown.tags();
        tags.extend(tags_of_kind_and_status(span));
        let links = span.links.iter().map(|link| (id_128(&link.trace_id), id_64(&link.span_id))).collect();
        let start_us = span.start_time_unix_nano / 1_000;
        let duration_us = (span.end_time_unix_nano / 1_000).saturating_sub(start_us);
        let new = NewSpan {
            trace_id: id_128(&span.trace_id),
            id: id_64(&span.span_id),
            parent: id_64(&span.parent_span_id),
            start_us,
            duration_us,
            described: Described { name: &span.name, tags, links },
        };
        store.insert(now_ms, number, &new);
    }
}

/// The tags by which Jaeger shows what OTLP keeps in fields.
fn tags_of_kind_and_status(span: &Span) -> Vec<(&str, TagValue<'_>)> {
    let mut tags = Vec::new();
    let kind = match span.kind() {
        SpanKind::Internal => Some("internal"),
        SpanKind::Server => Some("server"),
        SpanKind::Client => Some("client"),
        SpanKind::Producer => Some("producer"),
        SpanKind::Consumer => Some("consumer"),
        SpanKind::Unspecified => None,
    };
    tags.extend(kind.map(|kind| ("span.kind", TagValue::Text(kind))));
    if let Some(status) = &span.status {
        match status.code() {
            StatusCode::Error => {
                tags.push(("otel.status_code", TagValue::Text("ERROR")));
                tags.push(("error", TagValue::Bool(true)));
                if !status.message.is_empty() {
                    tags.push(("otel.status_description", TagValue::Text(&status.message)));
                }
            }
            StatusCode::Ok => tags.push(("otel.status_code", TagValue::Text("OK"))),
            StatusCode::Unset => {}
        }
    }
    tags
}

/// Attributes whose values are made printable where they are lists or bytes.
struct Shown<'a> {
    tags: Vec<(&'a str, Plain<'a>)>,
}

enum Plain<'a> {
    Borrowed(TagValue<'a>),
    Made(String),
}

impl Plain<'_> {
    fn as_str(&self) -> &str {
        match self {
            Plain::Borrowed(TagValue::Text(text)) => text,
            Plain::Made(text) => text,
            Plain::Borrowed(_) => "",
        }
    }
}

impl<'a> Shown<'a> {
    fn of(attributes: impl IntoIterator<Item = &'a KeyValue>) -> Shown<'a> {
        let tags = attributes.into_iter().filter_map(|attribute| {
            let value = attribute.value.as_ref()?.value.as_ref()?;
            Some((attribute.key.as_str(), plain(value)))
        });
        Shown { tags: tags.collect() }
    }

    fn tags(&self) -> Vec<(&str, TagValue<'_>)> {
        let tags = self.tags.iter().map(|(key, value)| match value {
            Plain::Borrowed(value) => (*key, value.clone()),
            Plain::Made(text) => (*key, TagValue::Text(text)),
        });
        tags.collect()
    }
}

fn plain(value: &Value) -> Plain<'_> {
    match value {
        Value::StringValue(text) => Plain::Borrowed(TagValue::Text(text)),
        Value::BoolValue(truth) => Plain::Borrowed(TagValue::Bool(*truth)),
        Value::IntValue(number) => Plain::Borrowed(TagValue::Int(*number)),
        Value::DoubleValue(number) => Plain::Borrowed(TagValue::Double(*number)),
        other => Plain::Made(printed(other)),
    }
}

/// Lists and maps as JSON, as Jaeger shows them.
fn printed(value: &Value) -> String {
    fn json(value: Option<&Value>) -> serde_json::Value {
        let of = |value: &Option<AnyValue>| json(value.as_ref().and_then(|value| value.value.as_ref()));
        match value {
            Some(Value::StringValue(text)) => text.as_str().into(),
            Some(Value::BoolValue(truth)) => (*truth).into(),
            Some(Value::IntValue(number)) => (*number).into(),
            Some(Value::DoubleValue(number)) => (*number).into(),
            Some(Value::ArrayValue(list)) => list.values.iter().map(|value| json(value.value.as_ref())).collect(),
            Some(Value::KvlistValue(map)) => {
                map.values.iter().map(|pair| (pair.key.clone(), of(&pair.value))).collect()
            }
            Some(Value::BytesValue(bytes)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
            // A reference into a table of the profiling signal: not of traces.
            Some(Value::StringValueStrindex(_)) | None => serde_json::Value::Null,
        }
    }
    json(Some(value)).to_string()
}

/// 0, which is no valid id, for anything but 16 bytes.
fn id_128(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_be_bytes)
}

/// 0 for anything but 8 bytes; for a parent that means that there is none.
fn id_64(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

const SERVICE_NAME: &str = crate::names::SERVICE_NAME;
