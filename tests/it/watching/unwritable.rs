//! Standard error that cannot be written: log lines are lost, and the service goes on.

use std::time::Duration;

use serde_json::json;

use super::scene::{Scene, binary, terminate};

#[tokio::test]
async fn a_service_whose_log_cannot_be_written_goes_on_delivering() {
    let scene = Scene::raise(json!({
        "resourceType": "Appointment", "id": "a1", "status": "booked",
        "meta": { "versionId": "1", "lastUpdated": "2026-11-20T10:00:00Z" },
    }))
    .await;
    scene.configure("", "", "[\"1s\"]");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut service = binary(scene.folder.path(), &["run", "--log", "trace"])
        .env("SOURCE_TOKEN", "a-token-for-tests")
        .env("HOOK_SECRET", super::leaks::signing_secret())
        .stderr(full)
        .spawn()
        .unwrap();
    scene
        .until("a notification", |seen| !seen.notified.is_empty())
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(service.try_wait().unwrap().is_none(), "it still runs");
    terminate(service).await;
}
