//! Traces leave as OpenTelemetry spans, over OTLP/HTTP, in batches.
//!
//! The collector is the operator's own machinery, so requests to it do not pass the address guard; nothing but spans
//! is ever sent there. One that does not answer costs nothing else: the queue is bounded, a request has a deadline,
//! and what cannot leave is dropped and counted.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::TelemetryError;
use crate::domain::trace::{Span, SpanOutcome, Stage, TraceContext};

/// Spans that may wait to leave: some two seconds of a busy courier's.
const QUEUE_SPANS_MAX: usize = 4_096;

/// Spans of one request: what collectors take in one message without effort.
const BATCH_SPANS_MAX: usize = 512;

/// The first span of a batch waits so long for company.
const COMPANY: Duration = Duration::from_millis(500);

/// A request to the collector, from connecting to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// What waits at the end of the service has this long to leave.
const FLUSH: Duration = Duration::from_secs(5);

/// The name of the service and of the scope of its spans.
const SERVICE: &str = "ehr-courier";

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Exporter {
    collector: SpanExporter,
    spans: mpsc::Receiver<Span>,
    scope: InstrumentationScope,
    refused: bool,
}

/// Makes an exporter to a collector's base address (`/v1/traces` is added) and the queue that feeds it.
///
/// # Errors
/// [`TelemetryError::Traces`] when the client cannot be made.
pub fn exporting(collector: &Url) -> Result<(mpsc::Sender<Span>, Exporter), TelemetryError> {
    let client = reqwest::Client::builder()
        .timeout(DEADLINE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|_| TelemetryError::Traces)?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{}/v1/traces", collector.as_str().trim_end_matches('/')))
        .with_timeout(DEADLINE)
        .build()
        .map_err(|_| TelemetryError::Traces)?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder_empty()
        .with_service_name(SERVICE)
        .with_attribute(version);
    exporter.set_resource(&resource.build());
    let (sender, spans) = mpsc::channel(QUEUE_SPANS_MAX);
    let exporter = Exporter {
        collector: exporter,
        spans,
        scope: InstrumentationScope::builder(SERVICE).build(),
        refused: false,
    };
    Ok((sender, exporter))
}

impl Exporter {
    /// Sends what ends until `stop`, then what still waits, as far as that leaves within five seconds.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            // Cancel safe: what was not received stays in the queue.
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                received = self.spans.recv() => received,
            };
            let Some(first) = received else { break };
            batch.push(first);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(COMPANY) => {}
            }
            while batch.len() < BATCH_SPANS_MAX
                && let Ok(next) = self.spans.try_recv()
            {
                batch.push(next);
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        self.spans.close();
        let flush = async {
            while self.spans.recv_many(&mut batch, BATCH_SPANS_MAX).await > 0 {
                self.send(std::mem::take(&mut batch)).await;
            }
        };
        if tokio::time::timeout(FLUSH, flush).await.is_err() {
            warn!("the collector of traces was too slow: the last spans are lost");
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let spans = batch.len() as u64;
        let data = batch.into_iter().map(|span| self.data(span)).collect();
        let refused = self.collector.export(data).await.is_err();
        if refused {
            metrics::counter!("courier_spans_dropped_total", "reason" => "export-failed").increment(spans);
        }
        match (self.refused, refused) {
            (false, true) => warn!(
                spans,
                "the collector of traces does not take spans: they are dropped"
            ),
            (true, false) => info!("the collector of traces takes spans again"),
            (true, true) | (false, false) => {}
        }
        self.refused = refused;
    }

    fn data(&self, span: Span) -> SpanData {
        let fields = span.fields.into_iter();
        SpanData {
            span_context: identity(span.context),
            parent_span_id: span
                .parent
                .map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id())),
            parent_span_is_remote: span.parent.is_some(),
            span_kind: match span.stage {
                Stage::Poll | Stage::Fetch => SpanKind::Client,
                Stage::FanOut => SpanKind::Internal,
                Stage::Deliver => SpanKind::Producer,
            },
            name: span.stage.as_str().into(),
            start_time: SystemTime::from(span.started_at),
            end_time: SystemTime::from(span.ended_at),
            attributes: fields
                .map(|(name, value)| KeyValue::new(format!("courier.{name}"), value))
                .collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match span.outcome {
                SpanOutcome::Done => Status::Ok,
                SpanOutcome::Failed => Status::error("failed"),
            },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn identity(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id()),
        SpanId::from_bytes(context.span_id()),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    )
}
