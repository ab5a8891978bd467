//! `check`: validates a configuration and says what it amounts to.

use std::path::Path;
use std::sync::Arc;

use courier_fhir::Profile;
use courier_sdk::Clock as _;
use serde_json::json;
use tokio::sync::Notify;

use super::CliError;
use super::output::{Colour, Output};
use crate::app::Reloading;
use crate::clock::SystemClock;
use crate::config::{self, Config, Environment, LogFormat, Secrets, Surroundings};
use crate::domain::calendar::Calendar;
use crate::telemetry::Lines;

/// Loads a configuration whole, or says everything that is wrong with it.
pub(super) fn load(path: &Path, environment: &Environment) -> Result<Config, CliError> {
    load_with(path, environment, Secrets::Required)
}

/// Loads a configuration with the secrets that a command needs.
pub(super) fn load_with(
    path: &Path,
    environment: &Environment,
    secrets: Secrets<'_>,
) -> Result<Config, CliError> {
    let known_profiles = Profile::names();
    config::load(path, &surroundings(environment, &known_profiles, secrets)).map_err(CliError::Config)
}

/// How the running service reads its configuration again: the same files, and the variables it was started with.
pub(super) fn reloading(path: &Path, environment: &Environment, asked: Arc<Notify>) -> Reloading {
    let (path, environment) = (path.to_owned(), environment.clone());
    let load = move || {
        let known_profiles = Profile::names();
        config::load(
            &path,
            &surroundings(&environment, &known_profiles, Secrets::Required),
        )
    };
    Reloading {
        asked,
        load: Arc::new(load),
    }
}

fn surroundings<'a>(
    environment: &'a Environment,
    known_profiles: &'a [&'a str],
    secrets: Secrets<'a>,
) -> Surroundings<'a> {
    Surroundings {
        environment,
        known_profiles,
        includable: courier_fhir::includable,
        now: SystemClock.now(),
        secrets,
    }
}

/// How a configuration wants its log lines; one that cannot be read says so when it is loaded.
pub(super) fn log_lines(path: &Path, environment: &Environment) -> Lines {
    let format = load_with(path, environment, Secrets::Unneeded).map(|config| config.telemetry.log);
    match format.unwrap_or_default() {
        LogFormat::Auto => Lines::of_standard_error(),
        LogFormat::Text => Lines::Text,
        LogFormat::Json => Lines::Json,
    }
}

/// Runs the command.
pub(super) fn run(path: &Path, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let config = load(path, environment)?;
    let mut rows = Vec::new();
    for connection in config.connections.values() {
        for feed in &connection.feeds {
            rows.push(vec![
                connection.name.to_string(),
                feed.name.to_string(),
                feed.record_type.to_string(),
                connection.profile.clone(),
                format!("{}s", feed.every.as_secs()),
                connection.base_url.host_str().unwrap_or("-").to_owned(),
            ]);
        }
    }
    output.table(
        &["connection", "feed", "record", "profile", "every", "host"],
        &rows,
    );
    for connection in config.connections.values() {
        for line in hours(&connection.limits.calendar) {
            if output.is_json() {
                output.value(&json!({ "connection": connection.name.as_str(), "hours": line }));
            } else {
                output.line(&format!("{}: {line}", connection.name));
            }
        }
    }
    for audit in &config.audits {
        if output.is_json() {
            output.value(&json!({ "note": audit.to_string() }));
        } else {
            output.line(&format!("note: {audit}"));
        }
    }
    if !output.is_json() {
        let good = output.coloured("the configuration is valid", Colour::Green);
        output.line(&format!(
            "{good}: {} connections, {} destinations, {} subscriptions",
            config.connections.len(),
            config.destinations.len(),
            config.subscriptions.len()
        ));
    }
    Ok(())
}

/// A connection's hours, in words.
fn hours(calendar: &Calendar) -> Vec<String> {
    let peak = calendar.peak.as_ref().map(|peak| {
        let per_second = peak.requests_per_second;
        let requests = per_second.map(|count| format!(", at most {count} requests a second"));
        let every = peak
            .every
            .map(|every| format!(", polled every {}s at most", every.as_secs()));
        let (requests, every) = (requests.unwrap_or_default(), every.unwrap_or_default());
        format!("peak {}{requests}{every}", peak.window)
    });
    let maintenance = calendar.maintenance.iter();
    let maintenance = maintenance.map(|window| format!("maintenance {window}, not asked"));
    peak.into_iter().chain(maintenance).collect()
}
