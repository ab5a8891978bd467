//! A roster that the source keeps: the members of one of its groups.

use std::sync::PoisonError;

use courier_sdk::{ConnectorError, Ids, RecordId, RecordKey, RecordType};
use serde::Deserialize;

use crate::answer::{self, Asked};
use crate::exchange::Wanted;
use crate::{FhirConnector, bundle, depth, query};

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    member: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    entity: Option<Entity>,
    inactive: Option<bool>,
}

#[derive(Deserialize)]
struct Entity {
    reference: Option<String>,
}

impl FhirConnector {
    /// Reads the group's present members and remembers them.
    pub(super) async fn read_members(&self, id: &RecordId) -> Result<Ids, ConnectorError> {
        let operation = || "read Group".to_owned();
        let key = RecordKey {
            record_type: RecordType::parse("Group").map_err(|error| ConnectorError::Unreadable {
                operation: operation(),
                reason: error.to_string(),
            })?,
            id: id.clone(),
        };
        let url = query::read(&self.exchange.base, &key);
        let limit = self.limits.record_bytes_max;
        let asked = self.exchange.get("read Group", url, Wanted::Record, limit);
        let response = asked.await.map_err(|error| error.of("read Group"))?;
        if response.status.as_u16() != 200 {
            return Err(answer::refusal(
                operation(),
                &response,
                Asked::Read,
                self.clock.now(),
            ));
        }
        bundle::record(&response.body, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation(), &error))?;
        let members = members(&response.body, self.limits.json_depth_max).ok_or_else(|| {
            ConnectorError::Unreadable {
                operation: operation(),
                reason: "not a Group".to_owned(),
            }
        })?;
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.insert(id.clone(), members.clone());
        Ok(members)
    }

    /// The members as they were read last; read now where they never were.
    pub(super) async fn members(&self, id: &RecordId) -> Result<Ids, ConnectorError> {
        let kept = self
            .groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned();
        match kept {
            Some(members) => Ok(members),
            None => self.read_members(id).await,
        }
    }
}

/// The patients among a group's active members, each once, in its order.
fn members(body: &[u8], depth_max: usize) -> Option<Ids> {
    if !depth::within(body, depth_max) {
        return None;
    }
    let group: Group = serde_json::from_slice(body).ok()?;
    let mut ids: Vec<RecordId> = Vec::new();
    let active = group
        .member
        .into_iter()
        .filter(|member| member.inactive != Some(true));
    for reference in active.filter_map(|member| member.entity?.reference) {
        let mut segments = reference.rsplit('/');
        let id = segments.next().and_then(|id| RecordId::parse(id).ok());
        if segments.next() == Some("Patient")
            && let Some(id) = id
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Some(Ids(ids.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patients_among_the_active_members_are_the_roster() {
        let body = r#"{"resourceType":"Group","id":"g","member":[
            {"entity":{"reference":"Patient/1"}},{"entity":{"reference":"Patient/2"},"inactive":true},
            {"entity":{"reference":"https://ehr.example/fhir/Patient/3"}},{"entity":{"reference":"Device/4"}},
            {"entity":{"reference":"Patient/1"}},{"entity":{}},{}]}"#;
        let ids = members(body.as_bytes(), 64).unwrap();
        let texts: Vec<&str> = ids.0.iter().map(RecordId::as_str).collect();
        assert_eq!(texts, ["1", "3"]);
        assert!(members(b"7", 64).is_none());
        assert_eq!(members(b"{}", 64).unwrap().0.len(), 0);
    }
}
