//! Variables that override the file: which there are, what they win over, and how others are refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ehr_courier::config::LogFormat;

use super::{CANARY, example, read, refused, root};

#[test]
fn variables_override_the_scalars_of_the_fixed_sections() {
    let overrides = [
        ("COURIER__STATE__URL", "sqlite:///var/lib/courier.db"),
        ("COURIER__STATE__RETENTION", "3d"),
        ("COURIER__HTTP__LISTEN", "[::1]:9000"),
        ("COURIER_UNRELATED", "x"),
    ];
    let config = read(&example("minimal.toml"), &overrides).unwrap();
    assert_eq!(config.state.database, PathBuf::from("/var/lib/courier.db"));
    assert_eq!(config.state.retention, Duration::from_hours(3 * 24));
    assert_eq!(config.http.listen.to_string(), "[::1]:9000");
}

#[test]
fn variables_override_how_the_courier_is_watched() {
    let written = example("minimal.toml").replacen(
        "[connections",
        "[telemetry]\nlog = \"text\"\notlp_endpoint = \"http://10.0.0.1:4318\"\ntrace_percent = 5\n\n[connections",
        1,
    );
    let standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://10.0.0.3:4318");
    let overrides = [
        ("COURIER__TELEMETRY__LOG", "json"),
        ("COURIER__TELEMETRY__OTLP_ENDPOINT", "http://10.0.0.2:4318"),
        ("COURIER__TELEMETRY__TRACE_PERCENT", "50"),
        standard,
    ];
    for text in [example("minimal.toml"), written.clone()] {
        let telemetry = read(&text, &overrides).unwrap().telemetry;
        let traces = telemetry.traces.unwrap();
        assert_eq!(telemetry.log, LogFormat::Json);
        assert_eq!(
            (traces.collector.as_str(), traces.percent),
            ("http://10.0.0.2:4318/", 50)
        );
    }
    let telemetry = read(&written, &[standard]).unwrap().telemetry;
    let traces = telemetry.traces.unwrap();
    assert_eq!(
        (traces.collector.as_str(), traces.percent),
        ("http://10.0.0.1:4318/", 5)
    );
    for (name, value, expected) in [
        ("COURIER__TELEMETRY__LOG", "jsno", "telemetry.log: unknown word"),
        (
            "COURIER__TELEMETRY__OTLP_ENDPOINT",
            CANARY,
            "telemetry.otlp_endpoint: ",
        ),
        (
            "COURIER__TELEMETRY__TRACE_PERCENT",
            CANARY,
            "telemetry.trace_percent: not between 1 and 100",
        ),
        (
            "COURIER__TELEMETRY__TRACE_PERCENT",
            "0",
            "telemetry.trace_percent: not between 1 and 100",
        ),
        (
            "COURIER__TELEMETRY__TRACE_PERCENTS",
            "5",
            "write `COURIER__TELEMETRY__TRACE_PERCENT`",
        ),
    ] {
        let errors = refused(&written, &[(name, value)]);
        assert!(errors.starts_with(name) && errors.contains(expected), "{errors}");
        assert!(!errors.contains(CANARY), "{errors}");
    }
}

#[test]
fn every_override_that_the_documentation_names_is_one() {
    let documentation = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let named: BTreeSet<&str> = documentation
        .split('`')
        .filter(|text| {
            text.strip_prefix("COURIER__")
                .is_some_and(|rest| !rest.is_empty())
        })
        .collect();
    assert!(named.len() >= 8, "{named:?}");
    for name in named {
        let errors = refused(&example("minimal.toml"), &[(name, "")]);
        assert!(!errors.contains("no variable overrides this key"), "{errors}");
    }
}

#[test]
fn an_override_stands_in_for_a_section_that_is_not_written() {
    let text = example("minimal.toml");
    let without = text
        .split_once("[connections")
        .map(|(_, rest)| format!("[connections{rest}"))
        .unwrap();
    assert!(refused(&without, &[]).contains("courier.toml: state.url: missing"));
    let overrides = [
        ("COURIER__STATE__URL", "sqlite://a.db"),
        ("COURIER__STATE__KEY", "none"),
    ];
    assert_eq!(
        read(&without, &overrides).unwrap().state.database,
        PathBuf::from("a.db")
    );
}

#[test]
fn variables_that_override_nothing_are_refused_by_name_and_without_value() {
    for (name, expected) in [
        ("COURIER__STATE__RETENTOIN", "write `COURIER__STATE__RETENTION`"),
        ("COURIER__state__url", "write `COURIER__STATE__URL`"),
        (
            "COURIER__CONNECTIONS__MERCY__EVERY",
            "no variable overrides this key",
        ),
        ("COURIER__DEDUP__TTL", "no variable overrides this key"),
        ("COURIER__HTTP__TOKENS", "a list cannot be overridden"),
        ("COURIER__", "no variable overrides this key"),
    ] {
        let errors = refused(&example("minimal.toml"), &[(name, CANARY)]);
        assert!(errors.starts_with(name) && errors.contains(expected), "{errors}");
        assert!(!errors.contains(CANARY), "{errors}");
    }
    let errors = refused(&example("minimal.toml"), &[("COURIER__STATE__RETENTION", CANARY)]);
    assert!(
        errors.starts_with("COURIER__STATE__RETENTION: state.retention: not a duration"),
        "{errors}"
    );
    let errors = refused(&example("minimal.toml"), &[("COURIER__STATE__KEY", CANARY)]);
    assert!(
        errors.contains("a key must not stand here") && !errors.contains(CANARY),
        "{errors}"
    );
}
