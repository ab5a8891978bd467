//! What is counted: every metric with its labels and its meaning, in one place.
//!
//! `docs/metrics.md` is this table for people. Labels are names of ours and fixed words; a record's id never is one.

use metrics::Unit;

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// How a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It is what it was set to last.
    Gauge,
    /// How often what was measured, in seconds, fell into which range.
    Seconds,
}

impl Kind {
    /// The word for it in Prometheus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Seconds => "histogram",
        }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn seconds(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Seconds,
        labels,
        help,
    }
}

/// All metrics, in the order of their names.
pub const METRICS: [Metric; 38] = [
    gauge(
        "courier_amqp_blocked",
        &["destination"],
        "1 while the broker takes no messages, for want of memory or disk.",
    ),
    seconds(
        "courier_amqp_confirm_seconds",
        &["destination"],
        "From the publication of a message to the broker's confirm.",
    ),
    gauge(
        "courier_amqp_connected",
        &["destination"],
        "1 while there is a connection to the broker.",
    ),
    counter(
        "courier_amqp_connects_total",
        &["destination", "outcome"],
        "Attempts to connect to the broker: connected or refused.",
    ),
    seconds(
        "courier_attempt_seconds",
        &["destination"],
        "From the start of an attempt to its end: the webhook's answer, the broker's confirm, or the deadline.",
    ),
    counter(
        "courier_attempts_total",
        &["destination", "outcome"],
        "Attempts at deliveries: delivered, retry (failed, due again) or dead (failed, the schedule is over).",
    ),
    gauge(
        "courier_backfill_complete",
        &["connection", "feed"],
        "0 while a backfill is under way, 1 once nothing is left of it.",
    ),
    counter(
        "courier_backfill_rows_total",
        &["connection"],
        "Changes from before a feed's beginning that its backfill brought.",
    ),
    gauge(
        "courier_budget_left",
        &["connection"],
        "Requests that limits.requests_per_day leaves to the connection of any 24 hours, as far as this process has counted.",
    ),
    seconds(
        "courier_commit_seconds",
        &[],
        "What a commit of the store took, its fsync included.",
    ),
    counter(
        "courier_commits_total",
        &[],
        "Commits of the store; each is one fsync.",
    ),
    gauge(
        "courier_cursor_lag_seconds",
        &["connection", "feed"],
        "How long ago the source's last complete answer was fresh: grows while a feed stands still.",
    ),
    gauge(
        "courier_dedup_available",
        &[],
        "0 while the Redis in front of the store does not answer: the store decides alone.",
    ),
    counter(
        "courier_dedup_calls_total",
        &["operation", "outcome"],
        "Calls to the Redis in front of the store: ok, refused, failed, or skipped while it is away.",
    ),
    gauge(
        "courier_deletes_held",
        &["connection"],
        "Records that reads found deleted, too many at once: their deletes are held until a read an hour later says the same.",
    ),
    counter(
        "courier_deliveries_owed_total",
        &[],
        "Deliveries written by fan-out.",
    ),
    counter(
        "courier_disappeared_total",
        &["connection"],
        "Records that a complete listing named no longer, and that were read by themselves for it.",
    ),
    counter(
        "courier_duplicates_suppressed_total",
        &["by"],
        "Versions that a source showed again and that went no further; by what recognised them.",
    ),
    counter(
        "courier_ehr_requests_total",
        &["connection", "outcome"],
        "Requests to the source, each that was sent, those for statements and tokens too: ok, unchanged (304), throttled (429), unauthorized (401), refused (other 3xx and 4xx) or failed (5xx, no answer).",
    ),
    counter(
        "courier_events_total",
        &["connection"],
        "Events written to the log.",
    ),
    counter(
        "courier_face_refused_total",
        &[],
        "Requests to the HTTP listener without one of its tokens.",
    ),
    gauge(
        "courier_feeds_frozen",
        &["connection"],
        "Feeds of which no complete answer came for ten of their intervals, and for 15 minutes at least, as /readyz names them.",
    ),
    counter(
        "courier_late_changes_recovered_total",
        &["connection"],
        "New changes that were stamped before the instant that the cursor stood for: the overlap recovered them.",
    ),
    counter(
        "courier_late_events_total",
        &[],
        "Events among them that came after a newer version of their record: late changes that were recovered.",
    ),
    gauge(
        "courier_oldest_waiting_seconds",
        &["connection"],
        "The age of the oldest change, event or delivery that is not settled.",
    ),
    counter(
        "courier_polls_failed_total",
        &["connection", "class"],
        "Polls that failed, or proved incomplete.",
    ),
    counter(
        "courier_reconcile_recovered_total",
        &["connection"],
        "Changes that a sweep brought and that every poll had missed.",
    ),
    counter(
        "courier_reloads_total",
        &["outcome"],
        "Reloads of the configuration: applied, unchanged or refused.",
    ),
    counter(
        "courier_spans_dropped_total",
        &["reason"],
        "Spans that did not reach the collector: queue-full or export-failed.",
    ),
    counter(
        "courier_store_operations_total",
        &[],
        "Writing operations of the store; many share a commit.",
    ),
    counter(
        "courier_storms_total",
        &["connection"],
        "Polls that began to bring far more new versions than is usual, as /readyz names them while they last.",
    ),
    counter(
        "courier_superseded_total",
        &[],
        "Versions that were shown but overwritten at the source before they were read.",
    ),
    counter(
        "courier_unchanged_suppressed_total",
        &["connection"],
        "Versions with the content of the one before them that were not told of: unchanged asks for it, or a storm lasts.",
    ),
    counter(
        "courier_unusable_entries_total",
        &["connection"],
        "Entries without a usable id that were left out, counted in each answer that shows them.",
    ),
    gauge(
        "courier_up",
        &["version"],
        "1 while the service runs; its label is the version.",
    ),
    counter(
        "courier_versions_not_seen_total",
        &["connection"],
        "Earlier versions and deletes that are not told of, because their pages could not be collected.",
    ),
    gauge(
        "courier_waiting_rows",
        &["connection", "place"],
        "What waits: stage, inbox, quarantine, log (events behind fan-out), outbox, dead_letters.",
    ),
    gauge(
        "courier_watchdog_failing",
        &["part"],
        "1 where a part of the worker has not turned for longer than it may, as /readyz names it.",
    ),
];

/// Tells the recorder what each metric means.
pub(super) fn describe() {
    for metric in METRICS {
        let help = metric.help;
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, help),
            Kind::Seconds => metrics::describe_histogram!(metric.name, Unit::Seconds, help),
        }
    }
    metrics::gauge!("courier_up", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
