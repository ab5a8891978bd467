//! Logs, metrics and traces: how they leave the process. What is logged where stays with the code that handles it.
//!
//! The names of fields and metrics are fixed: [`fields`] and [`catalogue`] list them all.

pub mod catalogue;
pub mod fields;
pub mod otlp;

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Buckets for durations in seconds: from a loopback answer to a source's time-out.
const SECONDS: [f64; 11] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Libraries whose log lines never leave, whatever the filter says: lapin writes out returned messages whole, and logins.
const SILENCED: [&str; 2] = ["lapin", "amq_protocol"];

/// Telemetry that could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error("the log filter {filter:?} is not valid; write for example `info` or `ehr_courier=debug`")]
    Filter {
        /// What was given.
        filter: String,
    },
    /// A subscriber or recorder is installed already.
    #[error("telemetry was set up twice")]
    Twice,
    /// The client for the collector of traces cannot be made.
    #[error("the export of traces cannot be set up")]
    Traces,
    /// The metrics recorder refused its settings.
    #[error("the metrics recorder cannot be set up")]
    Metrics(#[source] BuildError),
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

impl Lines {
    /// What suits standard error: text where it is a terminal.
    #[must_use]
    pub fn of_standard_error() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Text
        } else {
            Self::Json
        }
    }
}

/// Sends logs to standard error.
///
/// # Errors
/// [`TelemetryError::Filter`] for a filter that cannot be read.
pub fn init_logs(filter: &str, lines: Lines) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter).map_err(|_| TelemetryError::Filter {
        filter: filter.to_owned(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        // A line that cannot be written is lost: to say so on the same stream would panic, and end the service.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let quiet = filter_fn(|line| !SILENCED.iter().any(|library| line.target().starts_with(library)));
    let installed = match lines {
        Lines::Text => builder
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .with(quiet)
            .try_init(),
        Lines::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .finish()
            .with(quiet)
            .try_init(),
    };
    installed.map_err(|_| TelemetryError::Twice)
}

/// Installs the metrics recorder; the handle renders what `/metrics` answers.
///
/// # Errors
/// [`TelemetryError::Metrics`] when a recorder is installed already.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .map_err(TelemetryError::Metrics)?
        .install_recorder()
        .map_err(TelemetryError::Metrics)?;
    catalogue::describe();
    Ok(handle)
}
