//! Spans of protocol messages, made by the OpenTelemetry API itself.
//!
//! A protocol's steps do not nest as function calls do: a coordinator has three accepts in flight in one task. So such
//! a span is a value that is held beside the message's state, with its parent given, and ended when the answer is in.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, Status, TraceState, Tracer};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use stdx::TraceContext;

use crate::context::{from_span_context, to_context, to_span_context};
use crate::{init, names};

/// Starts a span now, as a child of `parent`, or as the root of a new trace when that is [`TraceContext::NONE`].
pub fn start(
    kind: SpanKind,
    name: impl Into<Cow<'static, str>>,
    parent: TraceContext,
    attributes: impl IntoIterator<Item = KeyValue>,
) -> LiveSpan {
    Builder::new(kind, name, parent).attributes(attributes).start()
}

/// A span with links or times of its own; [`start`] is the short form.
#[derive(Debug)]
pub struct Builder {
    span: SpanBuilder,
    links: Vec<Link>,
    parent: TraceContext,
}

impl Builder {
    /// A span that has not started yet.
    pub fn new(kind: SpanKind, name: impl Into<Cow<'static, str>>, parent: TraceContext) -> Builder {
        Builder { span: SpanBuilder::from_name(name).with_kind(kind), links: Vec::new(), parent }
    }

    /// Its attributes, as known at the start. Keys are those of [`names`].
    pub fn attributes(mut self, attributes: impl IntoIterator<Item = KeyValue>) -> Builder {
        self.span = self.span.with_attributes(attributes);
        self
    }

    /// Joins it to a span that is not its parent, such as the request that a fault hurt. No trace: no link.
    pub fn link(mut self, to: TraceContext, attributes: Vec<KeyValue>) -> Builder {
        if to.is_some() {
            self.links.push(Link::new(to_span_context(to, TraceState::NONE), attributes, 0));
        }
        self
    }

    /// When it began, if not now.
    pub fn started_at(mut self, time: SystemTime) -> Builder {
        self.span = self.span.with_start_time(time);
        self
    }

    /// Starts it with the process's own tracer, which [`crate::init()`] has set.
    pub fn start(self) -> LiveSpan {
        self.start_with(init::tracer())
    }

    /// Starts it with the tracer of a [`crate::Pipeline`], for a process that stands for several services.
    pub fn start_with(self, tracer: &SdkTracer) -> LiveSpan {
        let parent = if self.parent.is_some() { to_context(self.parent, TraceState::NONE) } else { Context::new() };
        let span = self.span.with_links(self.links);
        LiveSpan { span: tracer.build_with_context(span, &parent) }
    }
}

/// A span that has started. It ends when it is dropped, or by [`LiveSpan::end`].
#[derive(Debug)]
pub struct LiveSpan {
    span: Span,
}

impl LiveSpan {
    /// What to send along with a message, so that the receiver's span becomes a child of this one.
    pub fn context(&self) -> TraceContext {
        from_span_context(self.span.span_context())
    }

    /// Sets an attribute, its key one of [`names`]. Once only: a second value would stand beside the first.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    /// Joins it to another span, which is not its parent. No trace: no link.
    pub fn link(&mut self, to: TraceContext, attributes: Vec<KeyValue>) {
        if to.is_some() {
            self.span.add_link(to_span_context(to, TraceState::NONE), attributes);
        }
    }

    /// Marks it as failed, with `error.type` set to a low-cardinality word such as `reset` or `deadline`.
    ///
    /// Mark the attempt that failed, not the operation around it that survived.
    pub fn fail(&mut self, error_type: impl Into<Cow<'static, str>>) {
        let error_type = error_type.into();
        self.span.set_status(Status::error(error_type.clone()));
        self.span.set_attribute(KeyValue::new(names::ERROR_TYPE, error_type));
    }

    /// Ends it now.
    pub fn end(mut self) {
        self.span.end();
    }

    /// Ends it at a time that is already past.
    pub fn end_at(mut self, time: SystemTime) {
        self.span.end_with_timestamp(time);
    }
}
