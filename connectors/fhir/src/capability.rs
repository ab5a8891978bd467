//! What a server says of itself: which of its types have a history, and by which parameters they are searched. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::bundle::BodyError;
use crate::depth;

/// What a server says of the types that it offers.
pub(crate) type Offers = BTreeMap<String, TypeOffer>;

/// What a server says of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TypeOffer {
    /// Whether it keeps a history of the type.
    pub(crate) history: bool,
    /// The search parameters that it names.
    pub(crate) parameters: BTreeSet<String>,
}

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
    /// Those that all types share.
    #[serde(default, rename = "searchParam")]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Offered {
    #[serde(rename = "type")]
    record_type: String,
    #[serde(default)]
    interaction: Vec<Interaction>,
    #[serde(default, rename = "searchParam")]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Interaction {
    code: String,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
}

/// Reads what is offered of each type out of a `CapabilityStatement`.
pub(crate) fn offers(body: &[u8], depth_max: usize) -> Result<Offers, BodyError> {
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
    let mut offers = Offers::new();
    let servers = statement.rest.into_iter();
    for rest in servers.filter(|rest| rest.mode.as_deref() != Some("client")) {
        for offered in rest.resource {
            let shared = rest.parameters.iter().map(|parameter| parameter.name.clone());
            let own = offered.parameters.into_iter().map(|parameter| parameter.name);
            let offer = offers.entry(offered.record_type).or_default();
            offer.history |= offered.interaction.iter().any(|it| it.code == "history-type");
            offer.parameters.extend(own.chain(shared));
        }
    }
    Ok(offers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_and_parameters_are_those_that_the_servers_part_names() {
        let text = r#"{"resourceType":"CapabilityStatement","rest":[
            {"mode":"client","resource":[{"type":"Task","interaction":[{"code":"history-type"}]}]},
            {"mode":"server","searchParam":[{"name":"_lastUpdated"}],"resource":[
                {"type":"Patient","interaction":[{"code":"read"},{"code":"history-type"}]},
                {"type":"Slot","interaction":[{"code":"history-instance"}],"searchParam":[{"name":"start"}]},
                {"type":"Group"}]}]}"#;
        let offers = offers(text.as_bytes(), 64).unwrap();
        let told: Vec<_> = offers
            .iter()
            .map(|(name, offer)| (name.as_str(), offer.history, offer.parameters.len()))
            .collect();
        assert_eq!(
            told,
            [("Group", false, 1), ("Patient", true, 1), ("Slot", false, 2)]
        );
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
            assert!(offers(text.as_bytes(), 64).is_err(), "{text}");
        }
    }
}
