//! The tables of metrics and log fields, held against the source and the documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ehr_courier::pipeline::watch::NAMES_MAX;
use ehr_courier::telemetry::catalogue::METRICS;
use ehr_courier::telemetry::fields::FIELDS;

use crate::tidy::{Source, root, sources};

/// The code of the service itself, without comments and tests, each file as one text.
fn code() -> Vec<(String, String)> {
    let ours = |file: &Source| {
        (file.path.starts_with("src/") || file.path.starts_with("connectors/")) && !file.is_test
    };
    sources()
        .into_iter()
        .filter(ours)
        .map(|file| {
            let lines: Vec<&str> = file.code().map(|(_, line)| line).collect();
            let text = lines.join("\n");
            (file.path, text)
        })
        .collect()
}

/// What stands between the brackets of each call of a macro.
fn calls<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let call = format!("{name}!(");
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&call) {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' {
            continue;
        }
        let arguments = &text[at + call.len()..];
        found.push(&arguments[..closing(arguments)]);
    }
    found
}

/// Where the bracket closes that was open before the text.
fn closing(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The arguments of a call, cut at its own commas.
fn arguments(call: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = call;
    while !rest.trim().is_empty() {
        let (mut depth, mut quoted, mut escaped) = (0, false, false);
        let end = rest.char_indices().find_map(|(at, letter)| {
            match letter {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '(' | '[' | '{' if !quoted => depth += 1,
                ')' | ']' | '}' if !quoted => depth -= 1,
                ',' if !quoted && depth == 0 => return Some(at),
                _ => {}
            }
            None
        });
        let end = end.unwrap_or(rest.len());
        found.push(rest[..end].trim());
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    found
}

/// The name of a field: `name = value`, or a variable that gives its own.
fn field(argument: &str) -> Option<&str> {
    if argument.starts_with('"') {
        return None;
    }
    let name = argument.split('=').next().unwrap().trim();
    Some(name.trim_start_matches(['%', '?']))
}

#[test]
fn log_lines_use_the_fields_of_the_table_and_a_constant_message() {
    let known: BTreeSet<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    let mut seen = BTreeSet::new();
    let mut offences = Vec::new();
    let files = code();
    for (path, text) in &files {
        for level in ["trace", "debug", "info", "warn", "error"] {
            for call in calls(text, level) {
                let said = arguments(call);
                if !said
                    .last()
                    .is_some_and(|last| last.starts_with('"') && !last.contains('{'))
                {
                    offences.push(format!("{path}: no constant message: {level}!({call})"));
                }
                for name in said.into_iter().filter_map(field) {
                    if known.contains(name) {
                        seen.insert(name);
                    } else {
                        offences.push(format!("{path}: {name} is not in the table: {level}!({call})"));
                    }
                }
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
    assert!(seen.len() > 20, "the calls were found: {seen:?}");
    let unused: Vec<&&str> = known.difference(&seen).collect();
    assert!(unused.is_empty(), "no line uses {unused:?}");
    assert!(FIELDS.is_sorted_by_key(|(name, _)| *name));
}

#[test]
fn what_is_counted_is_what_the_table_says() {
    let known: BTreeMap<&str, &[&str]> = METRICS
        .iter()
        .map(|metric| (metric.name, metric.labels))
        .collect();
    let mut seen = BTreeSet::new();
    for (path, text) in &code() {
        for (at, _) in text.match_indices("\"courier_") {
            let name = text[at + 1..].split('"').next().unwrap();
            if path != "src/telemetry/catalogue.rs" {
                assert!(known.contains_key(name), "{path}: {name} is not in the table");
                seen.insert(name.to_owned());
            }
        }
        for kind in ["counter", "gauge", "histogram"] {
            for call in calls(text, kind) {
                let said = arguments(call);
                let name = said[0].trim_matches('"');
                let Some(labels) = known.get(name) else { continue };
                for label in said.iter().skip(1).filter_map(|part| part.split_once("=>")) {
                    let label = label.0.trim().trim_matches('"');
                    assert!(labels.contains(&label), "{path}: {name} has no label {label}");
                }
            }
        }
    }
    let unused: Vec<&str> = known
        .keys()
        .copied()
        .filter(|name| !seen.contains(*name))
        .collect();
    assert_eq!(unused, ["courier_up"], "nothing counts these");
    assert!(METRICS.is_sorted_by_key(|metric| metric.name));
}

#[test]
fn the_documents_show_the_tables() {
    let mut metrics = String::from(
        "# Metrics\n\nWritten by `UPDATE_GOLDEN=1 cargo test --test it the_documents_show_the_tables` from \
         `src/telemetry/catalogue.rs`.\n\n`/metrics` answers in Prometheus's text format. ",
    );
    writeln!(
        metrics,
        "Labels are names from the configuration and fixed words, never anything of a record. The first {NAMES_MAX} \
         connections and the first {NAMES_MAX} destinations that are counted have a label of their own; all others \
         share the label `other`: there counters and depths are summed, and of ages the largest is shown.\n\n\
         | metric | type | labels | says |\n|---|---|---|---|"
    )
    .unwrap();
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (metric.kind.as_str(), labels.join(", "));
        writeln!(
            metrics,
            "| `{}` | {kind} | {labels} | {} |",
            metric.name, metric.help
        )
        .unwrap();
    }
    held("docs/metrics.md", &metrics);

    let mut logs = String::from(
        "# Log lines\n\nWritten by `UPDATE_GOLDEN=1 cargo test --test it the_documents_show_the_tables` from \
         `src/telemetry/fields.rs`.\n\nA line has a constant message and these fields, no others. `error` says that \
         someone must act, `warn` that something is degraded but safe, `info` that a state changed; what concerns a \
         single record is said at `debug`. No line holds a record's body or id, a token, a query string or a secret, at \
         any level.\n\n| field | means |\n|---|---|\n",
    );
    for (name, meaning) in FIELDS {
        writeln!(logs, "| `{name}` | {meaning} |").unwrap();
    }
    held("docs/logs.md", &logs);
}

/// Compares a document with what it should be, or writes it on request.
fn held(path: &str, wanted: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(found, wanted, "{path} is out of date: UPDATE_GOLDEN=1 writes it");
}
