//! Traces, read as a collector reads them.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::scene::{Receiver, Scene, terminate};

const ENVIRONMENT: [(&str, &str); 2] = [
    ("SOURCE_TOKEN", "synthetic-token"),
    (
        "HOOK_SECRET",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ),
];

fn record() -> Value {
    let meta = json!({ "versionId": "1", "lastUpdated": "2026-01-01T00:00:11.000Z" });
    json!({ "resourceType": "Appointment", "id": "a1", "status": "booked", "meta": meta })
}

fn hexadecimal(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn succeeded(span: &Span) -> bool {
    // STATUS_CODE_OK of the protocol.
    span.status.as_ref().is_some_and(|status| status.code == 1)
}

/// What the trace is of is stopped between poll and delivery, and delivered by another process.
#[tokio::test]
async fn a_trace_spans_the_durable_queues() {
    let scene = Scene::raise(record()).await;
    scene.with(|seen| seen.receiver = Receiver::Echoes);
    let telemetry = format!("[telemetry]\notlp_endpoint = \"{}\"", scene.base);
    scene.configure(&telemetry, "fetch = \"read\"", "[\"3s\"]");
    let first = scene.start(&["run"], &ENVIRONMENT);
    scene
        .until("a refused notification", |seen| !seen.notified.is_empty())
        .await;
    terminate(first).await;
    let before = scene.with(|seen| {
        seen.receiver = Receiver::Accepts;
        seen.notified.clear();
        std::mem::take(&mut seen.spans)
    });
    assert!(
        before
            .iter()
            .all(|span| span.name != "deliver" || !succeeded(span))
    );

    let second = scene.start(&["run"], &ENVIRONMENT);
    scene
        .until("a notification", |seen| !seen.notified.is_empty())
        .await;
    terminate(second).await;

    let polls: Vec<&Span> = before.iter().filter(|span| span.name == "poll").collect();
    let [poll] = polls.as_slice() else {
        panic!("one answer brought something new, {} were traced", polls.len());
    };
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for span in &before {
        *seen.entry(span.name.as_str()).or_default() += 1;
        assert_eq!(span.trace_id, poll.trace_id, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        if span.name != "poll" {
            assert_eq!(span.parent_span_id, poll.span_id, "{}", span.name);
        }
    }
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        ["deliver", "fan_out", "fetch", "poll"]
    );

    let (after, notified) = scene.with(|seen| (seen.spans.clone(), seen.notified.clone()));
    let delivered: Vec<&Span> = after.iter().filter(|span| span.name == "deliver").collect();
    let [delivered] = delivered.as_slice() else {
        panic!("one delivery, {} spans of it", delivered.len());
    };
    assert!(succeeded(delivered));
    assert_eq!(
        delivered.trace_id, poll.trace_id,
        "the trace survived the restart"
    );
    assert_eq!(delivered.parent_span_id, poll.span_id);
    assert!(delivered.start_time_unix_nano > poll.end_time_unix_nano);
    let header = notified[0].0["traceparent"].to_str().unwrap();
    let (trace, span) = (hexadecimal(&delivered.trace_id), hexadecimal(&delivered.span_id));
    assert_eq!(header, format!("00-{trace}-{span}-01"));
}

#[tokio::test]
async fn polls_that_bring_nothing_new_are_not_exported() {
    let scene = Scene::raise(record()).await;
    let telemetry = format!("[telemetry]\notlp_endpoint = \"{}\"", scene.base);
    scene.configure(&telemetry, "", "[\"1s\"]");
    let service = scene.start(&["run"], &ENVIRONMENT);
    scene
        .until("five polls", |seen| seen.asked >= 5 && !seen.notified.is_empty())
        .await;
    terminate(service).await;
    let polls = scene.with(|seen| seen.spans.iter().filter(|span| span.name == "poll").count());
    assert_eq!(polls, 1);
}

#[tokio::test]
async fn without_a_collector_nothing_is_traced_written_or_sent() {
    let scene = Scene::raise(record()).await;
    scene.configure("", "fetch = \"read\"", "[\"1s\"]");
    let service = scene.start(&["run"], &ENVIRONMENT);
    scene
        .until("a notification", |seen| !seen.notified.is_empty())
        .await;
    terminate(service).await;
    scene.with(|seen| {
        assert!(seen.exported.is_empty());
        assert!(!seen.notified[0].0.contains_key("traceparent"));
    });
    let db = rusqlite::Connection::open(scene.folder.path().join("courier.db")).unwrap();
    let (events, traced): (i64, i64) = db
        .query_row("SELECT count(*), count(trace) FROM event", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((events, traced), (1, 0));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_its_spans_and_nothing_else() {
    let scene = Scene::raise(record()).await;
    // Bound and let go again: nobody listens there.
    let away = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    scene.configure(
        &format!("[telemetry]\notlp_endpoint = \"http://{away}\""),
        "",
        "[\"1s\"]",
    );
    let service = scene.start(&["run"], &ENVIRONMENT);
    scene
        .until("a notification", |seen| !seen.notified.is_empty())
        .await;
    let dropped = "courier_spans_dropped_total{reason=\"export-failed\"}";
    let waiting = async {
        while !scene.page("/metrics").await.contains(dropped) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let counted = tokio::time::timeout(super::scene::PATIENCE, waiting).await;
    assert!(counted.is_ok(), "the drop is never counted");
    terminate(service).await;
}

/// The standard variable serves where the file names no collector.
#[tokio::test]
async fn the_standard_variable_names_the_collector() {
    let scene = Scene::raise(record()).await;
    scene.configure("", "", "[\"1s\"]");
    let base = scene.base.clone();
    let mut environment = ENVIRONMENT.to_vec();
    environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &base));
    let service = scene.start(&["run"], &environment);
    scene
        .until("a notification", |seen| !seen.notified.is_empty())
        .await;
    terminate(service).await;
    assert!(scene.with(|seen| seen.spans.iter().any(|span| span.name == "deliver")));
}
