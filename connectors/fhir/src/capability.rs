//! What a server says of itself: which record types it offers a history of. Pure.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::bundle::BodyError;
use crate::depth;

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "resourceType")]
    resource_type: String,
    #[serde(default)]
    rest: Vec<Rest>,
}

#[derive(Deserialize)]
struct Rest {
    mode: Option<String>,
    #[serde(default)]
    resource: Vec<Offered>,
}

#[derive(Deserialize)]
struct Offered {
    #[serde(rename = "type")]
    record_type: String,
    #[serde(default)]
    interaction: Vec<Interaction>,
}

#[derive(Deserialize)]
struct Interaction {
    code: String,
}

/// Reads the record types whose history is offered out of a `CapabilityStatement`.
pub(crate) fn with_history(body: &[u8], depth_max: usize) -> Result<BTreeSet<String>, BodyError> {
    let unreadable = || BodyError::Unreadable("not a CapabilityStatement".to_owned());
    if !depth::within(body, depth_max) {
        return Err(BodyError::Unreadable(format!(
            "nested deeper than {depth_max} levels"
        )));
    }
    let statement: Statement = serde_json::from_slice(body).map_err(|_| unreadable())?;
    if statement.resource_type != "CapabilityStatement" {
        return Err(unreadable());
    }
    let servers = statement
        .rest
        .into_iter()
        .filter(|rest| rest.mode.as_deref() != Some("client"));
    let offered = servers.flat_map(|rest| rest.resource);
    let by_history = |one: &Offered| one.interaction.iter().any(|it| it.code == "history-type");
    Ok(offered.filter(by_history).map(|one| one.record_type).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_with_a_history_are_those_whose_interactions_say_so() {
        let text = r#"{"resourceType":"CapabilityStatement","rest":[
            {"mode":"client","resource":[{"type":"Task","interaction":[{"code":"history-type"}]}]},
            {"mode":"server","resource":[
                {"type":"Patient","interaction":[{"code":"read"},{"code":"history-type"}]},
                {"type":"Slot","interaction":[{"code":"history-instance"}]},
                {"type":"Group"}]}]}"#;
        let offered = with_history(text.as_bytes(), 64).unwrap();
        assert_eq!(offered.into_iter().collect::<Vec<_>>(), ["Patient"]);
    }

    #[test]
    fn anything_else_is_no_statement() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"resourceType":"Bundle"}"#,
            r#"{"resourceType":"CapabilityStatement","rest":7}"#,
        ] {
            assert!(with_history(text.as_bytes(), 64).is_err(), "{text}");
        }
    }
}
