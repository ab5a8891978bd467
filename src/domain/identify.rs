//! From what a connector saw to what the ledger can judge: the version-key rungs applied to one change.

use courier_sdk::{ChangeRef, ConnectionName, Meaning, Record, Shown, VersionRule};

use super::canonical::ContentHash;
use super::event::{Change, Content, VersionClue, VersionOrder};
use super::identity::{EventId, VersionKey};

/// The id of a change that stands on the first rung: known without a look at the record.
#[must_use]
pub fn id_at_first_rung(
    connection: &ConnectionName,
    change: &ChangeRef,
    rule: &VersionRule,
) -> Option<(VersionKey, EventId)> {
    let version_id = change.version_id.as_deref().filter(|_| rule.trust_version_id)?;
    let version = VersionKey::of_version_id(version_id);
    let id = EventId::derive(connection, &change.key, &version);
    Some((version, id))
}

/// Works out a change's identity as far as the answer allows, on the first rung that the profile trusts, and asks what
/// its record says, if it came along.
#[must_use]
pub fn identify(
    connection: &ConnectionName,
    change: ChangeRef,
    rule: &VersionRule,
    meaning: impl Fn(&Record) -> Option<Meaning>,
) -> Change {
    let content = change.record.clone().map(|record| {
        let hash = ContentHash::of_record(record.bytes(), &rule.volatile_paths)
            .unwrap_or_else(|_| ContentHash::of_bytes(record.bytes()));
        Content {
            meaning: meaning(&record),
            record,
            hash,
            context: None,
        }
    });
    let version = clue(connection, &change, rule, content.as_ref());
    let number = change
        .version_id
        .as_deref()
        .filter(|_| rule.trust_version_id && rule.numeric_order);
    let is_first =
        rule.trust_version_id && rule.first_version.is_some() && rule.first_version == change.version_id;
    Change {
        version,
        order: VersionOrder {
            number: number.and_then(|id| id.parse().ok()),
            stamp: change.last_updated,
        },
        first_version: is_first,
        key: change.key,
        shown: change.shown,
        novelty: change.novelty,
        version_id: change.version_id,
        content,
        trace: None,
    }
}

fn clue(
    connection: &ConnectionName,
    change: &ChangeRef,
    rule: &VersionRule,
    content: Option<&Content>,
) -> VersionClue {
    if let Some((version, id)) = id_at_first_rung(connection, change, rule) {
        return VersionClue::Known(version, id);
    }
    let known = |version: VersionKey| {
        let id = EventId::derive(connection, &change.key, &version);
        VersionClue::Known(version, id)
    };
    match (change.shown, change.last_updated, content) {
        (Shown::Deleted, Some(deleted), _) => known(VersionKey::of_delete_time(deleted)),
        (Shown::Deleted, None, _) => VersionClue::InferredDelete,
        (_, Some(changed), Some(content)) if rule.trust_last_updated => {
            known(VersionKey::of_time(changed, &content.hash))
        }
        (_, _, Some(_)) => VersionClue::ByContent,
        (_, _, None) => VersionClue::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use courier_sdk::{Novelty, Record, RecordId, RecordKey, RecordType};

    use super::*;

    fn change(version_id: Option<&str>, stamp: Option<&str>, body: Option<&str>) -> ChangeRef {
        ChangeRef {
            key: RecordKey {
                record_type: RecordType::parse("Patient").unwrap(),
                id: RecordId::parse("1").unwrap(),
            },
            shown: Shown::State,
            novelty: Novelty::Announce,
            version_id: version_id.map(str::to_owned),
            last_updated: stamp.map(|text| text.parse().unwrap()),
            record: body.map(|text| Record::new(Bytes::copy_from_slice(text.as_bytes()))),
        }
    }

    fn rule(trust_version_id: bool, trust_last_updated: bool) -> VersionRule {
        VersionRule {
            trust_version_id,
            numeric_order: true,
            trust_last_updated,
            first_version: Some("1".to_owned()),
            volatile_paths: Vec::new(),
        }
    }

    fn rung(change: ChangeRef, rule: &VersionRule) -> String {
        match identify(&ConnectionName::parse("c").unwrap(), change, rule, |_| None).version {
            VersionClue::Known(version, _) => version.as_str().chars().take(2).collect(),
            VersionClue::ByContent => "h:".to_owned(),
            VersionClue::InferredDelete => "d:".to_owned(),
            VersionClue::Unknown => "?".to_owned(),
        }
    }

    #[test]
    fn a_change_stands_on_the_first_rung_that_the_profile_trusts() {
        let stamp = Some("2026-01-01T00:00:00Z");
        let rows = [
            (change(Some("7"), stamp, Some("{}")), rule(true, true), "v:"),
            (change(Some("7"), stamp, Some("{}")), rule(false, true), "t:"),
            (change(None, stamp, Some("{}")), rule(true, true), "t:"),
            (change(None, stamp, Some("{}")), rule(true, false), "h:"),
            (change(None, None, Some("{}")), rule(true, true), "h:"),
            (change(None, stamp, None), rule(true, true), "?"),
        ];
        for (change, rule, expected) in rows {
            assert_eq!(rung(change, &rule), expected);
        }
    }

    #[test]
    fn the_same_instant_in_two_spellings_is_one_version() {
        let rule = rule(false, true);
        let connection = ConnectionName::parse("c").unwrap();
        let [a, b] = ["2026-01-01T00:00:00.898575850+00:00", "2026-01-01T00:00:00.898Z"].map(|stamp| {
            identify(&connection, change(None, Some(stamp), Some("{}")), &rule, |_| {
                None
            })
            .version
        });
        assert_eq!(a, b);
    }

    #[test]
    fn numbers_order_only_where_they_are_trusted() {
        let connection = ConnectionName::parse("c").unwrap();
        assert_eq!(
            identify(
                &connection,
                change(Some("7"), None, None),
                &rule(true, true),
                |_| None
            )
            .order
            .number,
            Some(7)
        );
        assert_eq!(
            identify(
                &connection,
                change(Some("7"), None, None),
                &rule(false, true),
                |_| None
            )
            .order
            .number,
            None
        );
        assert_eq!(
            identify(
                &connection,
                change(Some("a7"), None, None),
                &rule(true, true),
                |_| None
            )
            .order
            .number,
            None
        );
    }
}
