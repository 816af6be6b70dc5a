use std::fmt;

/// The part of a W3C trace context that travels with a request: which trace it belongs to and which span caused it.
///
/// Cores carry it and copy it, and never look inside. The all-zero value means "not traced".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The 128-bit trace id; 0 when there is none.
    pub trace_id: u128,
    /// The 64-bit id of the span that caused this message.
    pub span_id: u64,
    /// W3C trace flags; bit 0 is "sampled".
    pub flags: u8,
}

impl TraceContext {
    /// No trace.
    pub const NONE: TraceContext = TraceContext { trace_id: 0, span_id: 0, flags: 0 };

    /// Whether there is a trace at all.
    pub fn is_some(&self) -> bool {
        self.trace_id != 0
    }
}

/// The `traceparent` header's form (W3C Trace Context, version 00).
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}
