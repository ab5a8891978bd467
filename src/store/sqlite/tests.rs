//! What is this store's own: the file, its lock, its damage, its commits. The meaning is the contract suite's.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use courier_sdk::{Cursor, Novelty, Record, RecordId, RecordKey, RecordType, Resume, Shown};
use tempfile::TempDir;

use super::*;
use crate::domain::canonical::ContentHash;
use crate::domain::event::{Change, Content, VersionClue, VersionOrder};
use crate::domain::identity::VersionKey;
use crate::store::{BaselineProof, ContextRule, PollId, Progress, Sights, Unchanged};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn connection() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

fn feed() -> FeedName {
    FeedName::parse("appointments").unwrap()
}

fn change(record: usize, version: &str, body: Option<&'static [u8]>) -> Change {
    let key = RecordKey {
        record_type: RecordType::parse("Appointment").unwrap(),
        id: RecordId::parse(&record.to_string()).unwrap(),
    };
    let version_key = VersionKey::of_version_id(version);
    let id = EventId::derive(&connection(), &key, &version_key);
    Change {
        key,
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: Some(version.to_owned()),
        version: VersionClue::Known(version_key, id),
        order: VersionOrder {
            number: version.parse().ok(),
            stamp: Some(at(0)),
        },
        first_version: false,
        content: body.map(|body| Content {
            record: Record::new(Bytes::from_static(body)),
            hash: ContentHash::of_bytes(body),
            meaning: None,
            context: None,
        }),
        trace: None,
    }
}

fn page(fence: Fence, poll: u64, from: Option<&str>, changes: Vec<Change>) -> AcceptPage {
    AcceptPage {
        poll: PollRef {
            connection: connection(),
            feed: feed(),
            fence,
            poll: PollId(poll),
        },
        from: from.map(|text| Cursor::new(text.to_owned())),
        changes,
        oversized: Vec::new(),
        joins: None,
        progress: Progress::Done {
            cursor: Cursor::new(format!("cursor-{}", poll + 1)),
            baseline: BaselineProof::Unproven,
        },
        context: ContextRule::None,
        unchanged: Unchanged::Tell,
        sights: Sights::All,
        fresh_as_of: at(0),
        at: at(1),
    }
}

struct World {
    directory: TempDir,
    store: SqliteStore,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("courier.db"), OpenMode::Service).unwrap();
        Self { directory, store }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("courier.db")
    }

    async fn lease(&self) -> Fence {
        lease(&self.store).await
    }

    /// Copies the file as a machine finds it whose process was killed: with its log, not closed.
    fn as_a_crash_leaves_it(&self) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        for name in ["courier.db", "courier.db-wal"] {
            let from = self.directory.path().join(name);
            std::fs::copy(from, directory.path().join(name)).unwrap();
        }
        let path = directory.path().join("courier.db");
        (directory, path)
    }
}

async fn lease(store: &SqliteStore) -> Fence {
    let request = LeaseRequest {
        connection: connection(),
        holder: Holder("worker".to_owned()),
        ttl: std::time::Duration::from_secs(30),
    };
    store.acquire_lease(&request, at(0)).await.unwrap().unwrap()
}

async fn all_events(store: &SqliteStore) -> Vec<EventRow> {
    let query = EventQuery {
        limit: 1000,
        ..EventQuery::default()
    };
    store.events(&query).await.unwrap()
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_a_file_that_opens_with_everything_that_was_answered() {
    let world = World::new();
    let fence = world.lease().await;
    let changes = vec![change(1, "1", Some(b"{}")), change(2, "1", None)];
    let accepted = world
        .store
        .accept_page(&page(fence, 0, None, changes))
        .await
        .unwrap();
    assert_eq!((accepted.appended, accepted.enqueued), (1, 1));
    let (_directory, path) = world.as_a_crash_leaves_it();

    let next = SqliteStore::open(&path, OpenMode::Offline).unwrap();
    let state = next.feed(&connection(), &feed()).await.unwrap();
    assert_eq!(state.cursor, Some(Cursor::new("cursor-1".to_owned())));
    assert_eq!(state.poll, PollId(1));
    assert_eq!(all_events(&next).await.len(), 1);
    assert_eq!(next.backlog(&connection()).await.unwrap().inbox, 1);
    // The dead process's lease is void, and its fence stays spent.
    assert_eq!(lease(&next).await, Fence(fence.0 + 1));
    let late = next
        .accept_page(&page(fence, 1, Some("cursor-1"), Vec::new()))
        .await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })));
}

#[tokio::test]
async fn a_second_courier_on_one_file_is_told_that_it_is_locked() {
    let world = World::new();
    let second = SqliteStore::open(&world.path(), OpenMode::Service);
    assert!(matches!(second, Err(StoreError::Locked { path }) if path == world.path()));
    let path = world.path();
    let World { directory, store } = world;
    drop(store);
    SqliteStore::open(&path, OpenMode::Offline).unwrap();
    drop(directory);
}

#[test]
fn a_command_does_not_create_a_store_at_a_mistyped_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mistyped.db");
    for opened in [
        SqliteStore::open(&path, OpenMode::Offline),
        SqliteStore::read_only(&path),
    ] {
        assert!(matches!(opened, Err(StoreError::Unusable { .. })));
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_newer_store_is_refused() {
    let world = World::new();
    let path = world.path();
    let World { directory, store } = world;
    drop(store);
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let refused = SqliteStore::open(&path, OpenMode::Service);
    assert!(matches!(refused, Err(StoreError::Unusable { reason }) if reason.contains("newer")));
    drop(directory);
}

#[cfg(unix)]
#[test]
fn the_file_and_its_side_files_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    for entry in std::fs::read_dir(world.directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn listings_read_beside_a_running_service_and_write_nothing() {
    let world = World::new();
    let fence = world.lease().await;
    let beside = SqliteStore::read_only(&world.path()).unwrap();
    let first = page(fence, 0, None, vec![change(1, "1", Some(b"{}"))]);
    world.store.accept_page(&first).await.unwrap();
    assert_eq!(all_events(&beside).await.len(), 1);
    assert_eq!(beside.feed(&connection(), &feed()).await.unwrap().poll, PollId(1));
    let refused = beside.redrive(&DeadLetterQuery::default(), at(2)).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })));
    drop(beside);
    let path = world.path();
    let World { directory, store } = world;
    drop(store);
    // A service that ended well leaves everything in the one file.
    assert!(!directory.path().join("courier.db-wal").exists());
    let after = SqliteStore::read_only(&path).unwrap();
    assert_eq!(all_events(&after).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_that_wait_share_commits() {
    let world = World::new();
    let store = Arc::new(world.store);
    let (commits, operations) = (store.commits(), store.operations());
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..100 {
        let store = Arc::clone(&store);
        writes.spawn(async move {
            let set = SetCursor {
                connection: connection(),
                feed: FeedName::parse(&format!("f{number}")).unwrap(),
                cursor: Some(Cursor::new(number.to_string())),
                note: String::new(),
                at: at(1),
            };
            store.set_cursor(&set).await.unwrap();
        });
    }
    writes.join_all().await;
    assert_eq!(store.operations() - operations, 100);
    let commits = store.commits() - commits;
    assert!(
        (1..=50).contains(&commits),
        "{commits} commits for 100 operations"
    );
    assert_eq!(store.cursors().await.unwrap().len(), 100);
}

#[tokio::test]
async fn reading_alone_commits_nothing() {
    let world = World::new();
    world.lease().await;
    let commits = world.store.commits();
    let claim = ClaimDeliveries {
        holder: Holder("worker".to_owned()),
        destination: DestinationName::parse("d").unwrap(),
        limit: 10,
        at: at(1),
    };
    world.store.claim_deliveries(&claim).await.unwrap();
    world
        .store
        .fan_out_view(&connection(), &Lane::Common, 10)
        .await
        .unwrap();
    world.store.feed(&connection(), &feed()).await.unwrap();
    world.store.due_destinations(&claim.holder, at(1)).await.unwrap();
    assert_eq!(world.store.commits(), commits);
}

#[tokio::test]
async fn an_operation_that_fails_is_undone_and_leaves_its_neighbours_intact() {
    let world = World::new();
    let writer = world.store.writer().unwrap();
    // The first operation keeps the thread busy until all three wait: they share a transaction with the second.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let busy = writer.run(Kind::Read, "waiting", move |_| Ok(held.recv().is_ok()));
    let insert = |name: &'static str, then: fn() -> Result<(), Failure>| {
        writer.run(Kind::Write, "inserting", move |db| {
            db.execute("INSERT INTO connection (name) VALUES (?1)", [name])?;
            then()
        })
    };
    let fails = || Err(Failure::refused("undo this".to_owned()));
    let (busy, first, second, third, ()) = tokio::join!(
        biased;
        busy,
        insert("a", || Ok(())),
        insert("b", fails),
        insert("c", || Ok(())),
        async { release.send(()).unwrap() },
    );
    assert!(busy.unwrap());
    first.unwrap();
    third.unwrap();
    assert!(matches!(second, Err(StoreError::Refused { .. })));
    let names = world.store.list("listing", |db| {
        let names: String =
            db.query_row("SELECT group_concat(name) FROM connection", [], |row| row.get(0))?;
        Ok(names)
    });
    assert_eq!(names.await.unwrap(), "a,c");
}

#[tokio::test]
async fn after_a_failed_commit_every_waiting_and_every_later_operation_fails() {
    let world = World::new();
    let writer = world.store.writer().unwrap();
    let tables = writer.run(Kind::Write, "creating tables", |db| {
        db.execute_batch(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY);
             CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
        )?;
        Ok(())
    });
    tables.await.unwrap();
    // A reference that dangles is found by the commit, as a failing disk is.
    let broken = writer.run(Kind::Write, "breaking the commit", |db| {
        db.execute("INSERT INTO child (id) VALUES (1)", [])?;
        Ok(())
    });
    let broken = broken.await;
    assert!(matches!(
        broken,
        Err(StoreError::Engine {
            operation: "breaking the commit",
            ..
        })
    ));
    let later = world.store.feed(&connection(), &feed()).await;
    let Err(StoreError::Engine { source, .. }) = later else {
        panic!("the store went on");
    };
    assert!(source.to_string().starts_with("an earlier commit failed"));
}

#[tokio::test]
async fn a_damaged_body_is_an_error_that_says_so_and_shows_nothing_of_it() {
    let world = World::new();
    let fence = world.lease().await;
    let first = page(fence, 0, None, vec![change(1, "1", Some(b"{\"secret\":1}"))]);
    world.store.accept_page(&first).await.unwrap();
    let damage = world.store.write("damaging", |db| {
        db.execute("UPDATE event SET body = x'0163726170'", [])?;
        Ok(())
    });
    damage.await.unwrap();
    let Err(StoreError::Engine { operation, source }) =
        world.store.fan_out_view(&connection(), &Lane::Common, 10).await
    else {
        panic!("a damaged body was read");
    };
    assert_eq!(operation, "reading the event log");
    assert_eq!(source.to_string(), "the stored body cannot be decompressed");
}

#[tokio::test]
async fn bodies_cursors_and_links_are_in_the_file_in_plain_text_only_without_a_key() {
    let key = Seals::encrypted(&[7; 32], []).unwrap();
    for (seals, in_plain_text) in [(Seals::plain(), true), (key, false)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("courier.db");
        let store = SqliteStore::open_sealed(&path, OpenMode::Service, &seals).unwrap();
        let fence = lease(&store).await;
        // Short texts, which the compression leaves as they are.
        let changes = vec![
            change(1, "1", None),
            change(2, "1", Some(b"{\"v\":\"needle-body\"}")),
        ];
        let mut first = page(fence, 0, None, changes);
        first.progress = Progress::Page(Resume::new("needle-link".to_owned()));
        store.accept_page(&first).await.unwrap();
        let mut staged = page(
            fence,
            0,
            None,
            vec![change(3, "1", Some(b"{\"v\":\"needle-stage\"}"))],
        );
        staged.poll.feed = FeedName::parse("history").unwrap();
        staged.progress = Progress::Done {
            cursor: Cursor::new("needle-cursor".to_owned()),
            baseline: BaselineProof::Unproven,
        };
        store.stage_page(&staged).await.unwrap();
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        for needle in ["needle-body", "needle-link", "needle-stage", "needle-cursor"] {
            let found = bytes
                .windows(needle.len())
                .any(|window| window == needle.as_bytes());
            assert_eq!(found, in_plain_text, "{needle}");
        }
        let read = store.feed(&connection(), &feed()).await.unwrap();
        assert_eq!(read.resume.unwrap().as_str(), "needle-link");
    }
}

#[tokio::test]
async fn a_page_that_is_shown_again_writes_only_its_feed() {
    let world = World::new();
    let fence = world.lease().await;
    let changes: Vec<Change> = (0..200).map(|record| change(record, "1", Some(b"{}"))).collect();
    let first = page(fence, 0, None, changes.clone());
    assert_eq!(world.store.accept_page(&first).await.unwrap().appended, 200);
    let again = page(fence, 1, Some("cursor-1"), changes);
    let total = || world.store.read_latest("counting", |db| Ok(db.total_changes()));
    let before = total().await.unwrap();
    assert_eq!(world.store.accept_page(&again).await.unwrap().known, 200);
    assert!(total().await.unwrap() - before <= 2);
}
