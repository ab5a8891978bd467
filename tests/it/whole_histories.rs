//! The courier on a source with a history, over TCP: deletes and context arrive; a history that is too long is caught
//! up by a search, and gone on with afterwards.

use std::collections::{BTreeMap, BTreeSet};

use ehr_courier::pipeline::limits::Limits;
use serde_json::Value;

pub(crate) mod scene;

use scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn versions_deletes_and_context_arrive_in_order() {
    let feed = "record = \"Appointment\"\ninclude = [\"Appointment:patient\"]";
    let mut scene = Scene::raise(feed, 1_000, |limits| limits).await;
    scene
        .ehr
        .write("Patient", "p-1", r#"{"multipleBirthInteger" : 2e0}"#)
        .unwrap();
    let text =
        r#"{"participant":[{"actor":{"reference":"Patient/p-1"}},{"actor":{"reference":"Patient/gone"}}]}"#;
    scene.ehr.write("Appointment", "a", text).unwrap();
    scene.ehr.write("Appointment", "a", "{}").unwrap();
    scene.ehr.delete("Appointment", "a").unwrap();
    scene
        .until("the delete", |scene| {
            scene.versions_of("Appointment/a").len() >= 3
        })
        .await;
    assert_eq!(
        scene.versions_of("Appointment/a"),
        ["created 1", "updated 2", "deleted 3"]
    );
    let bodies: BTreeMap<&str, &str> = scene
        .arrived
        .iter()
        .filter(|(subject, ..)| subject == "Appointment/a")
        .map(|(_, _, version, body)| (version.as_str(), std::str::from_utf8(body).unwrap()))
        .collect();
    let first: Value = serde_json::from_str(bodies["1"]).unwrap();
    assert_eq!(first["datacontenttype"], "application/json");
    assert_eq!(first["data"]["record"]["id"], "a");
    assert_eq!(first["data"]["included"][0]["id"], "p-1");
    assert_eq!(first["data"]["missing"], serde_json::json!(["Patient/gone"]));
    assert!(bodies["1"].contains("2e0"), "byte for byte");
    let second: Value = serde_json::from_str(bodies["2"]).unwrap();
    assert_eq!(second["data"]["included"], serde_json::json!([]));
    assert!(!bodies["3"].contains("\"data\""));
    // What was only context is no event.
    assert!(scene.versions_of("Patient/p-1").is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_longer_than_a_stage_is_caught_up_by_a_search_and_gone_on_with() {
    let feed = "record = \"Patient\"\noverlap = \"0s\"";
    let small = |limits| Limits {
        stage: 20,
        pages_per_turn: 2,
        ..limits
    };
    let mut scene = Scene::raise(feed, 4, small).await;
    for number in 0..60 {
        scene
            .ehr
            .write("Patient", &format!("p{}", number % 3), "{}")
            .unwrap();
    }
    let current = ["Patient/p0", "Patient/p1", "Patient/p2"];
    let caught_up = |scene: &Scene| {
        current.iter().all(|subject| {
            scene
                .versions_of(subject)
                .last()
                .is_some_and(|last| last.ends_with(" 20"))
        })
    };
    scene.until("the current state", caught_up).await;
    assert!(scene.arrived.len() < 60, "the versions between were given up");
    // The next poll begins here: what was given up lies before.
    scene.ehr.write("Patient", "between", "{}").unwrap();
    scene
        .until("the next poll", |scene| {
            !scene.versions_of("Patient/between").is_empty()
        })
        .await;
    for _ in 0..3 {
        scene.ehr.write("Patient", "later", "{}").unwrap();
    }
    scene
        .until("the history again", |scene| {
            scene.versions_of("Patient/later").len() >= 3
        })
        .await;
    assert_eq!(
        scene.versions_of("Patient/later"),
        ["created 1", "updated 2", "updated 3"]
    );
    let ids: BTreeSet<_> = scene
        .arrived
        .iter()
        .map(|(subject, _, version, _)| (subject, version))
        .collect();
    assert_eq!(ids.len(), scene.arrived.len(), "nothing twice");
    scene.end().await;
}
