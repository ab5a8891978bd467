//! Backup and recovery: what happens between a copy of the state and the accident, and what follows.

use std::collections::{BTreeMap, BTreeSet};

use super::ward::{Arrived, Ward, mode, said};

/// Waits until all of these arrived, however often; answers everything that did.
async fn collect(ward: &mut Ward, expected: &BTreeSet<String>) -> Vec<Arrived> {
    let mut arrived: Vec<Arrived> = Vec::new();
    while !expected.iter().all(|id| arrived.iter().any(|it| it.id == *id)) {
        arrived.push(ward.next().await);
    }
    arrived
}

fn write(ward: &Ward, rooms: std::ops::Range<u32>, name: &str) -> BTreeSet<String> {
    rooms.map(|room| ward.write(&format!("r{room}"), name)).collect()
}

/// The accident: the disk is gone, the copy takes its place.
fn restore(ward: &Ward) {
    for side in ["courier.db", "courier.db-wal", "courier.db-shm"] {
        match std::fs::remove_file(ward.path(side)) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
    }
    std::fs::copy(ward.path("copy.db"), ward.path("courier.db")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_and_recover_lose_nothing_and_explain_each_duplicate() {
    let mut ward = Ward::raise("1s").await;
    let mut service = ward.start().await;
    let before = write(&ward, 0..20, "Synthetic room");
    let mut arrived = collect(&mut ward, &before).await;
    ward.until(&["subscriptions", "list"], "pending", 0).await;

    // A cursor stands nowhere until the source's own time has passed what it showed.
    ward.until_some(&["cursors", "show"], "cursor").await;
    let made = &ward.rows(&["backup", "copy.db"]).await[0];
    assert_eq!(
        made["bytes"],
        std::fs::metadata(ward.path("copy.db")).unwrap().len()
    );
    assert_eq!(mode(&ward.path("copy.db")), 0o600);
    assert!(!ward.path("copy.db.partial").exists());
    let again = ward.ask(&["backup", "copy.db"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("exists already"), "{}", said(&again));

    let after = write(&ward, 10..30, "Synthetic room, painted");
    arrived.extend(collect(&mut ward, &after).await);
    let refused = ward.ask(&["recover"]).await;
    assert_eq!(
        refused.status.code(),
        Some(75),
        "a worker runs: {}",
        said(&refused)
    );
    service.kill().await.unwrap();

    restore(&ward);
    let unrecovered = ward.ask(&["run"]).await;
    assert_eq!(unrecovered.status.code(), Some(1));
    assert!(
        said(&unrecovered).contains("ehr-courier recover"),
        "{}",
        said(&unrecovered)
    );
    let report = &ward.rows(&["recover", "--rewind", "2h"]).await[0];
    assert_ne!(report["epoch"], made["epoch"]);
    assert_eq!(report["numbers_jumped_by"], 1_000_000);
    assert!(report["feeds"][0]["to"].as_str() < report["feeds"][0]["from"].as_str());

    let newest = write(&ward, 40..45, "Synthetic room, new");
    service = ward.start().await;
    let expected: BTreeSet<String> = after.union(&newest).cloned().collect();
    let late = collect(&mut ward, &expected).await;
    ward.until(&["subscriptions", "list"], "pending", 0).await;
    ward.end(service).await;
    assert!(ward.is_quiet());

    judge(&before, &after, &newest, &[arrived, late.clone()].concat());
    assert!(
        late.iter().all(|one| one.sequence > 1_000_000),
        "numbers jumped: {late:?}"
    );
    let numbers: BTreeSet<u64> = late.iter().map(|one| one.sequence).collect();
    assert_eq!(numbers.len(), late.len(), "and none is given twice");
}

/// Lost 0, phantom 0, and repeated is exactly what the backup did not know.
fn judge(
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
    newest: &BTreeSet<String>,
    arrived: &[Arrived],
) {
    let mut times: BTreeMap<&String, u32> = BTreeMap::new();
    for one in arrived {
        *times.entry(&one.id).or_default() += 1;
    }
    let all: BTreeSet<&String> = before.iter().chain(after).chain(newest).collect();
    let lost = all.iter().filter(|id| !times.contains_key(*id)).count();
    let phantom = times.keys().filter(|id| !all.contains(*id)).count();
    let repeated: BTreeSet<&String> = times.iter().filter(|(_, n)| **n > 1).map(|(id, _)| *id).collect();
    println!(
        "backup and recover: {} versions written, lost {lost}, phantom {phantom}, repeated {} of {} accepted after the \
         backup",
        all.len(),
        repeated.len(),
        after.len()
    );
    assert_eq!((lost, phantom), (0, 0));
    let unknown: BTreeSet<&String> = after.iter().collect();
    assert_eq!(
        repeated, unknown,
        "what the backup did not know comes again, and nothing else"
    );
}
