//! W3C trace context: what a caller's call brings, and what the call to the model server takes along.

use opentelemetry::trace::{SpanContext, TraceState};
use opentelemetry::{SpanId, TraceFlags, TraceId};

/// Where a forwarded row's own call stands in the traces: trace and span. Opaque to those who keep it.
pub type Origin = [u8; 24];

/// The context that a `traceparent` (and a `tracestate`) brings; nothing where it is none, so that a trace begins here.
pub(super) fn read(parent: &str, state: Option<&str>) -> Option<SpanContext> {
    let mut parts = parent.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
    // Later versions may bring more; the first brings no more than this.
    let known = version != "ff" && (version != "00" || parts.next().is_none());
    let hexadecimal =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !lengths || !known || ![version, trace, span, flags].into_iter().all(hexadecimal) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, state)).filter(SpanContext::is_valid)
}

/// The `traceparent` of a span.
pub(super) fn written(trace: TraceId, span: SpanId, flags: TraceFlags) -> String {
    format!("00-{trace}-{span}-{:02x}", flags.to_u8())
}

/// A span as others remember it.
pub(super) fn origin(trace: TraceId, span: SpanId) -> Origin {
    let mut origin = [0; 24];
    origin[..16].copy_from_slice(&trace.to_bytes());
    origin[16..].copy_from_slice(&span.to_bytes());
    origin
}

/// The span that was remembered.
pub(super) fn remembered(origin: &Origin) -> SpanContext {
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&origin[..16]);
    span.copy_from_slice(&origin[16..]);
    let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
    SpanContext::new(trace, span, TraceFlags::NOT_SAMPLED, false, TraceState::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_context_is_read_as_it_was_written() {
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("fe", false)] {
            let context = read(&format!("00-{TRACE}-{SPAN}-{flags}"), Some("a=b,c=d")).unwrap();
            assert_eq!(
                (context.trace_id().to_string(), context.span_id().to_string()),
                (TRACE.into(), SPAN.into())
            );
            assert_eq!((context.is_sampled(), context.is_remote()), (sampled, true));
            assert_eq!(context.trace_state().header(), "a=b,c=d");
            let again = written(context.trace_id(), context.span_id(), context.trace_flags());
            assert_eq!(again, format!("00-{TRACE}-{SPAN}-0{}", u8::from(sampled)));
            assert_eq!(
                remembered(&origin(context.trace_id(), context.span_id())).span_id(),
                context.span_id()
            );
        }
        assert!(read(&format!("01-{TRACE}-{SPAN}-01-later"), None).is_some());
    }

    #[test]
    fn what_is_no_context_begins_a_trace_of_our_own() {
        let upper = TRACE.to_uppercase();
        let nought = "0".repeat(32);
        for parent in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{upper}-{SPAN}-01"),
            format!("00-{nought}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-é"),
            "x".repeat(10_000),
        ] {
            assert!(read(&parent, None).is_none(), "{parent:.80}");
        }
    }
}
