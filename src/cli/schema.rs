//! `schema`: prints a JSON Schema.

use clap::{Args, ValueEnum};

use super::output::Output;

#[derive(Debug, Args)]
pub(super) struct SchemaCommand {
    /// Which schema.
    which: Schema,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Schema {
    /// The configuration file.
    Config,
    /// A notification.
    Notification,
    /// A FHIR profile.
    Profile,
}

/// Runs the command.
pub(super) fn run(command: &SchemaCommand, output: &mut Output) {
    let text = match command.which {
        Schema::Config => serde_json::to_string_pretty(&crate::config::schema()).unwrap_or_default(),
        Schema::Notification => include_str!("../../schemas/notification.schema.json").to_owned(),
        Schema::Profile => include_str!("../../schemas/profile.schema.json").to_owned(),
    };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(schema) if output.is_json() => output.value(&schema),
        Ok(_) | Err(_) => output.line(text.trim_end()),
    }
}
