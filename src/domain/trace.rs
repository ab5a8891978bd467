//! Traces: what ties one stage's work on a change to that of the stages before it, across queues and restarts.
//!
//! A trace begins at the answer of a poll that showed something new. Its [`TraceContext`] is written beside the
//! change and then beside the event, so that whoever fetches, fans out or delivers it, in this process or a later
//! one, adds its [`Span`] to the same trace. Ids are drawn by the caller.

use std::fmt::{self, Write as _};

use jiff::Timestamp;

/// A span's identity, as W3C Trace Context has it: 16 bytes for the trace, 8 for the span. Always sampled: what is
/// not sampled has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

impl TraceContext {
    /// Makes a context of drawn bytes; all zeros are no id and answer `None`.
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8]) -> Option<Self> {
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id })
    }

    /// The identity of another span of the same trace.
    #[must_use]
    pub fn child(self, span_id: [u8; 8]) -> Option<Self> {
        Self::new(self.trace_id, span_id)
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(self) -> [u8; 16] {
        self.trace_id
    }

    /// The span.
    #[must_use]
    pub fn span_id(self) -> [u8; 8] {
        self.span_id
    }

    /// Reads the spelling of a `traceparent` header, version 00, sampled.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (trace, rest) = text.strip_prefix("00-")?.split_at_checked(32)?;
        let (span, flags) = rest.strip_prefix('-')?.split_at_checked(16)?;
        (flags == "-01").then_some(())?;
        Self::new(bytes(trace)?, bytes(span)?)
    }
}

impl fmt::Display for TraceContext {
    /// Writes the value of a `traceparent` header: `00-{trace}-{span}-01`, 55 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        hexadecimal(f, &self.trace_id)?;
        f.write_char('-')?;
        hexadecimal(f, &self.span_id)?;
        f.write_str("-01")
    }
}

fn hexadecimal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let decoded = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
    decoded.try_into().ok()
}

/// Which stage's work a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// One answer of a poll and its hand-over.
    Poll,
    /// One record read.
    Fetch,
    /// One slice of fan-out, as far as it concerns the trace.
    FanOut,
    /// One attempt at one delivery.
    Deliver,
}

impl Stage {
    /// The span's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Fetch => "fetch",
            Self::FanOut => "fan_out",
            Self::Deliver => "deliver",
        }
    }
}

/// One stage's work within a trace, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What was done.
    pub stage: Stage,
    /// Which span it is.
    pub context: TraceContext,
    /// The poll's span; absent on that one itself.
    pub parent: Option<TraceContext>,
    /// When the work began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Whether it failed.
    pub outcome: SpanOutcome,
    /// Names of the log's fields and their values: names of ours, ids of events and counts; no record id, no PHI.
    pub fields: Vec<(&'static str, String)>,
}

/// Whether a span's work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanOutcome {
    /// It was.
    Done,
    /// It was not; it may be tried again, in a span of its own.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_spelt_as_the_traceparent_header_has_it_and_read_back() {
        let context = TraceContext::new([0x4b; 16], [0xf0, 0, 0, 0, 0, 0, 0, 7]).unwrap();
        let text = context.to_string();
        assert_eq!(text, "00-4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b-f000000000000007-01");
        assert_eq!(TraceContext::parse(&text), Some(context));
        let child = context.child([1; 8]).unwrap();
        assert_eq!(child.trace_id(), context.trace_id());
    }

    #[test]
    fn what_is_no_context_is_refused() {
        let good = "00-4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b-f000000000000007-01";
        for bad in [
            "",
            "00-",
            &good.replace("00-4", "01-4"),
            &good.replace("-01", "-00"),
            &good.replace('b', "B"),
            &good.replace('b', "é"),
            &format!("{good}-x"),
            "00-00000000000000000000000000000000-f000000000000007-01",
            "00-4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b-0000000000000000-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
        assert_eq!(TraceContext::new([0; 16], [1; 8]), None);
    }
}
