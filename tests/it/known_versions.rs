//! The courier on a source whose pages name no versions, over TCP: records are read, and those that it knows are not
//! sent again.

use ehr_courier::sandbox::Faults;
use serde_json::json;

use crate::whole_histories::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_shown_again_without_its_version_is_sent_once() {
    let feed = "record = \"Patient\"\nfetch = \"read\"\ndetect = \"last-updated\"";
    let mut scene = Scene::raise(feed, 1_000, |limits| limits).await;
    let unversioned = json!({"unversioned_ids": {"share": 1.0}});
    scene
        .ehr
        .set_faults(Faults::default().merged(&unversioned).unwrap());
    for version in 1..=2 {
        scene.ehr.write("Patient", "p", "{}").unwrap();
        scene
            .until("the version", |scene| {
                scene.versions_of("Patient/p").len() >= version
            })
            .await;
        // Each poll shows the record again, because its change lies within the overlap.
        let before = scene.ehr.not_modified();
        scene
            .until("reads without the record", |scene| {
                scene.ehr.not_modified() >= before + 3
            })
            .await;
    }
    assert_eq!(scene.versions_of("Patient/p"), ["created 1", "updated 2"]);
    let ledger = scene.ehr.ledger();
    let sent: Vec<(String, u64)> = ledger
        .into_iter()
        .filter(|shown| shown.id == "p")
        .map(|shown| (shown.version_id, shown.times))
        .collect();
    assert_eq!(sent, [("1".to_owned(), 1), ("2".to_owned(), 1)]);
    scene.end().await;
}
