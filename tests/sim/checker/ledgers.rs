//! What the courier was shown, told by the sandboxes' own ledgers and by the book alike.

use std::collections::BTreeSet;

use courier_sdk::FetchMode;
use ehr_courier::sandbox::Request;
use http::{HeaderMap, Method};
use jiff::Timestamp;

use super::Findings;
use super::shown::View;
use crate::book::{Asked, RecordRef};
use crate::clinic::showings;
use crate::identity::sha256;
use crate::plan::SourcePlan;
use crate::world::{World, base_url};

/// The sandboxes' own ledgers and the book must tell the same.
pub(super) fn check_ledgers(world: &World, view: &View, findings: &mut Findings) {
    for (connection, ehr) in &world.clinics {
        let of_ledger = |deleted: bool| -> BTreeSet<(RecordRef, u64)> {
            let ledger = ehr.ledger().into_iter();
            ledger
                .filter(|shown| shown.deleted == deleted)
                .map(|shown| {
                    let record = (connection.clone(), shown.record_type, shown.id);
                    (record, shown.version_id.parse().unwrap())
                })
                .collect()
        };
        let of_book = |deleted: bool| -> BTreeSet<(RecordRef, u64)> {
            let versions = view.versions.iter();
            versions
                .filter(|((record, _), version)| {
                    record.0 == *connection && (version.sha256 == Some(sha256(b""))) == deleted
                })
                .map(|(name, _)| name.clone())
                .collect()
        };
        let contexts = view.contexts.keys().filter(|(record, _)| record.0 == *connection);
        let living = of_book(false).into_iter().chain(contexts.cloned()).collect();
        let deletes = of_book(true);
        // A delete that only a read found has no version in the book.
        let differ = of_ledger(false)
            .symmetric_difference(&living)
            .chain(deletes.difference(&of_ledger(true)))
            .cloned()
            .collect::<Vec<_>>();
        for (record, number) in differ {
            findings
                .violations
                .push(format!("the ledger and the book differ at {record:?} {number}"));
        }
    }
}

/// What stands in the sources at the end must have been asked for: a version that no answer ever showed is lost too.
pub(super) fn check_truth(world: &World, view: &View, findings: &mut Findings) {
    for source in &world.plan.sources {
        for feed in &source.feeds {
            let begin = view.begins[&(source.name.clone(), feed.record_type.clone())];
            let mut owed = present(world, source, &feed.record_type, "");
            if let (Some(journal), Some(since)) = (
                world.journals.get(&source.name),
                view.told_since.get(&(source.name.clone(), feed.name.clone())),
            ) {
                // Of what came before its beginning a feed is brought what stands.
                owed.retain(|(id, number, stamp)| {
                    stamp >= since || journal.stands(&feed.record_type, id, *number)
                });
            } else if let Some(since) = view.told_since.get(&(source.name.clone(), feed.name.clone())) {
                // What came after the first poll must have been seen whether it still stands or not.
                let all = present(world, source, &feed.record_type, "/_history");
                owed.extend(all.into_iter().filter(|(.., stamp)| stamp >= since));
            }
            for (id, number, stamp) in owed {
                let record = (source.name.clone(), feed.record_type.clone(), id);
                let seen = view
                    .versions
                    .get(&(record.clone(), number))
                    .is_some_and(|version| version.counted.is_some());
                if stamp >= begin.always_from && !seen {
                    let by = if feed.fetch == FetchMode::ByRead {
                        "reads"
                    } else {
                        "pages"
                    };
                    findings.violations.push(format!(
                        "lost: {record:?} {number} stands in the source and was never seen (by {by})"
                    ));
                }
            }
        }
    }
}

/// What stands in a source, or all that a type's history lists: id, version, stamp.
pub(super) fn present(
    world: &World,
    source: &SourcePlan,
    record_type: &str,
    history: &str,
) -> Vec<(String, u64, Timestamp)> {
    if let Some(journal) = world.journals.get(&source.name) {
        return journal
            .all()
            .into_iter()
            .filter(|(of_type, ..)| of_type == record_type)
            .map(|(_, id, number, stamp)| (id, number, stamp))
            .collect();
    }
    let ehr = &world.clinics[&source.name];
    let mut url = base_url();
    url.set_path(&format!("/fhir/{record_type}{history}"));
    url.set_query(Some("_count=1000"));
    let mut all = Vec::new();
    loop {
        let reply = ehr.answer(&Request::new(Method::GET, &url, HeaderMap::new()));
        let page = showings(Asked::FirstPage, &url, &reply);
        all.extend(page.into_iter().map(|it| (it.id, it.number, it.stamp)));
        let bundle: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let links = bundle["link"].as_array().cloned().unwrap_or_default();
        match links.iter().find(|link| link["relation"] == "next") {
            Some(link) => url = url.join(link["url"].as_str().unwrap()).unwrap(),
            None => return all,
        }
    }
}
