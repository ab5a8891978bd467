//! Traces of the stages' work: begun at an answer that shows something new, ended span by span.
//!
//! Spans leave through a bounded queue that is never waited for: one that finds it full is dropped and counted. An
//! answer that brings nothing new exports nothing. Where nothing is traced, nothing is drawn, written or sent.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use courier_sdk::ConnectionName;
use jiff::Timestamp;
use rand::RngExt as _;
use tokio::sync::mpsc;

use super::Worker;
use crate::domain::event::Event;
use crate::domain::trace::{Span, SpanOutcome, Stage, TraceContext};

/// Where ended spans go, and how many polls are traced.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    sink: Option<Sink>,
}

#[derive(Debug, Clone)]
struct Sink {
    spans: mpsc::Sender<Span>,
    share: f64,
}

/// A span that has begun. Dropped without an end, it is not exported.
#[derive(Debug)]
pub(super) struct Begun {
    stage: Stage,
    /// Its identity, for what it leads to.
    pub(super) context: TraceContext,
    parent: Option<TraceContext>,
    started_at: Timestamp,
}

impl Traces {
    /// Traces a share of the answers, 0 to 1, and sends ended spans there.
    #[must_use]
    pub fn new(spans: mpsc::Sender<Span>, share: f64) -> Self {
        Self {
            sink: Some(Sink { spans, share }),
        }
    }
}

impl Worker {
    /// Begins a trace with the answer to a request that was sent at `asked_at`, if its turn to be traced has come.
    pub(super) fn begin_trace(&self, asked_at: Timestamp) -> Option<Begun> {
        let sink = self.watch.traces.sink.as_ref()?;
        if sink.share < 1.0 && self.draw() >= sink.share {
            return None;
        }
        let (trace_id, span_id) = {
            let mut draws = self.draws.lock().unwrap_or_else(PoisonError::into_inner);
            (draws.random(), draws.random())
        };
        Some(Begun {
            stage: Stage::Poll,
            context: TraceContext::new(trace_id, span_id)?,
            parent: None,
            started_at: asked_at,
        })
    }

    /// Begins a span within the trace that a row carries, if it carries one and spans are exported.
    pub(super) fn begin_span(&self, stage: Stage, parent: Option<TraceContext>) -> Option<Begun> {
        self.watch.traces.sink.as_ref()?;
        let parent = parent?;
        let span_id = {
            let mut draws = self.draws.lock().unwrap_or_else(PoisonError::into_inner);
            draws.random()
        };
        Some(Begun {
            stage,
            context: parent.child(span_id)?,
            parent: Some(parent),
            started_at: self.clock.now(),
        })
    }

    /// Begins a span of fan-out in each trace that events between two positions belong to, the first excluded.
    pub(super) fn begin_fan_out(&self, events: &[Event], after: u64, to: u64) -> Vec<Begun> {
        let passed = events
            .iter()
            .filter(|event| event.position > after && event.position <= to);
        let parents: BTreeSet<TraceContext> = passed.filter_map(|event| event.trace).collect();
        let begin = |parent| self.begin_span(Stage::FanOut, Some(parent));
        parents.into_iter().filter_map(begin).collect()
    }

    /// Ends the spans of a slice that was written.
    pub(super) fn end_fan_out(&self, spans: Vec<Begun>, connection: &ConnectionName) {
        for span in spans {
            self.end_span(span, SpanOutcome::Done, connection, Vec::new());
        }
    }

    /// Ends a span: it is exported, or dropped where more end than can leave.
    #[expect(clippy::needless_pass_by_value, reason = "a span ends once")]
    pub(super) fn end_span(
        &self,
        span: Begun,
        outcome: SpanOutcome,
        connection: &ConnectionName,
        fields: Vec<(&'static str, String)>,
    ) {
        let Some(sink) = &self.watch.traces.sink else {
            return;
        };
        let mut all = vec![("connection", connection.to_string())];
        all.extend(fields);
        let ended = Span {
            stage: span.stage,
            context: span.context,
            parent: span.parent,
            started_at: span.started_at,
            ended_at: self.clock.now(),
            outcome,
            fields: all,
        };
        if sink.spans.try_send(ended).is_err() {
            metrics::counter!("courier_spans_dropped_total", "reason" => "queue-full").increment(1);
        }
    }
}
