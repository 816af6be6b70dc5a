//! The trace context: where it is taken from, and how it goes into and out of HTTP headers.
//!
//! The current context is OpenTelemetry's, which a `tracing` span becomes while it is entered and which [`within`] sets
//! for a future. So whichever of the two is innermost is the parent of what is started next.

use std::future::Future;

use actix_web::http::header::HeaderMap as ActixHeaders;
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use reqwest::header::{HeaderMap, HeaderValue};
use stdx::TraceContext;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The W3C header that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";
/// The W3C header that carries the vendors' own parts; passed on as it came.
pub const TRACESTATE: &str = "tracestate";

/// The context of the innermost entered `tracing` span or [`within`] future; [`TraceContext::NONE`] when there is none.
pub fn current() -> TraceContext {
    from_span_context(Context::current().span().span_context())
}

/// The trace id as it is shown to people and looked up in Jaeger: 32 hex digits; empty when there is no trace.
pub fn trace_id_hex(context: TraceContext) -> String {
    if context.is_some() { format!("{:032x}", context.trace_id) } else { String::new() }
}

/// Runs `future` as part of `context`: log lines, `tracing` spans and [`current`] inside it belong to that trace.
pub fn within<F: Future>(context: TraceContext, future: F) -> impl Future<Output = F::Output> {
    let parent = if context.is_some() { to_context(context, TraceState::NONE) } else { Context::current() };
    future.with_context(parent)
}

/// Makes `context` the parent of `span`. Call it before the span is entered: afterwards its ids are fixed.
///
/// Returns false when the span takes no parent any more (or no OpenTelemetry layer is installed): nothing has changed.
pub fn set_parent(span: &tracing::Span, context: TraceContext) -> bool {
    context.is_some() && span.set_parent(to_context(context, TraceState::NONE)).is_ok()
}

/// As [`set_parent`], with the parent and the `tracestate` of a request's headers.
pub fn set_parent_from(span: &tracing::Span, headers: &ActixHeaders) -> bool {
    let context = extract(headers);
    if !context.is_some() {
        return false;
    }
    let state = headers.get(TRACESTATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let state = state.parse().unwrap_or(TraceState::NONE);
    span.set_parent(to_context(context, state)).is_ok()
}

/// The context that a caller sent; [`TraceContext::NONE`] when the header is absent, doubled or not strictly W3C.
pub fn extract(headers: &ActixHeaders) -> TraceContext {
    let mut values = headers.get_all(TRACEPARENT);
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(parse_traceparent).unwrap_or_default(),
        _ => TraceContext::NONE,
    }
}

/// Writes `context` into the headers of a call. Does nothing when there is no trace.
///
/// The `tracestate` of the current context goes along if it is of the same trace.
pub fn inject(context: TraceContext, headers: &mut HeaderMap) {
    if !context.is_some() {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
    let current = Context::current();
    let span = current.span();
    let state = span.span_context().trace_state().header();
    if trace_id_of(span.span_context()) == context.trace_id
        && !state.is_empty()
        && let Ok(value) = HeaderValue::from_str(&state)
    {
        headers.insert(TRACESTATE, value);
    }
}

/// Reads a `traceparent`, strictly: lower-case hex, fields of exact length, no all-zero id, no version `ff`.
///
/// A version after 00 may have more fields behind the four known ones (W3C Trace Context, section 3.2.4); version 00
/// may not.
pub fn parse_traceparent(header: &str) -> Option<TraceContext> {
    let bytes = header.as_bytes();
    if bytes.len() < TRACEPARENT_LEN || [2, 35, 52].iter().any(|&dash| bytes[dash] != b'-') {
        return None;
    }
    let version = hex(&bytes[0..2])? as u8;
    let well_ended = match version {
        0xff => false,
        0 => bytes.len() == TRACEPARENT_LEN,
        _ => bytes.len() == TRACEPARENT_LEN || bytes[TRACEPARENT_LEN] == b'-',
    };
    let trace_id = hex(&bytes[3..35])?;
    let span_id = hex(&bytes[36..52])? as u64;
    let flags = hex(&bytes[53..55])? as u8;
    (well_ended && trace_id != 0 && span_id != 0).then_some(TraceContext { trace_id, span_id, flags })
}

/// The OpenTelemetry context that stands for a caller elsewhere.
pub(crate) fn to_context(context: TraceContext, state: TraceState) -> Context {
    Context::new().with_remote_span_context(to_span_context(context, state))
}

pub(crate) fn to_span_context(context: TraceContext, state: TraceState) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        TraceFlags::new(context.flags),
        true,
        state,
    )
}

pub(crate) fn from_span_context(span: &SpanContext) -> TraceContext {
    if !span.is_valid() {
        return TraceContext::NONE;
    }
    TraceContext {
        trace_id: trace_id_of(span),
        span_id: u64::from_be_bytes(span.span_id().to_bytes()),
        flags: span.trace_flags().to_u8(),
    }
}

fn trace_id_of(span: &SpanContext) -> u128 {
    u128::from_be_bytes(span.trace_id().to_bytes())
}

/// Lower-case hex only: the standard refuses capitals.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// `00-` + 32 + `-` + 16 + `-` + 2.
const TRACEPARENT_LEN: usize = 55;

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName as ActixName, HeaderValue as ActixValue};
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_own_example_is_read() {
        let context = parse_traceparent(GOOD).expect("well formed");
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(context.flags, 1);
        assert_eq!(context.to_string(), GOOD);
    }

    #[test]
    fn what_the_standard_refuses_is_refused() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse_traceparent(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_with_more_fields_is_read() {
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later";
        assert!(parse_traceparent(later).is_some());
    }

    #[test]
    fn two_headers_are_no_header() {
        let mut headers = ActixHeaders::new();
        let name = ActixName::from_static(TRACEPARENT);
        headers.append(name.clone(), ActixValue::from_static(GOOD));
        assert!(extract(&headers).is_some());
        headers.append(name, ActixValue::from_static(GOOD));
        assert_eq!(extract(&headers), TraceContext::NONE);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace_id in 1u128.., span_id in 1u64.., flags: u8) {
            let context = TraceContext { trace_id, span_id, flags };
            let mut headers = HeaderMap::new();
            inject(context, &mut headers);
            let sent = headers[TRACEPARENT].to_str().expect("ascii");
            prop_assert_eq!(parse_traceparent(sent), Some(context));
            prop_assert_eq!(from_span_context(&to_span_context(context, TraceState::NONE)), context);
        }

        #[test]
        fn no_text_at_all_makes_the_parser_panic(text in "\\PC{0,70}") {
            let _ = parse_traceparent(&text);
        }

        #[test]
        fn a_changed_character_is_never_read_as_the_same_context(at in 0usize..55, to in "[0-9a-gA-F-]") {
            let mut changed = GOOD.to_string();
            changed.replace_range(at..=at, &to);
            if let Some(context) = parse_traceparent(&changed) {
                // A version that this program does not know is read as the four fields of version 00.
                prop_assert!(changed == GOOD || at < 2 || context.to_string() == changed);
            }
        }
    }
}
