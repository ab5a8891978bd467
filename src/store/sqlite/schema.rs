//! The file: how it is opened, what its tables are, and how an older one is brought up to date.
//!
//! Names, ids and states are plain text, so that any SQLite tool can read them. Instants are nanoseconds since
//! 1970 (UTC) in 64 bits: years 1677 to 2262; instants outside are moved to the nearer end. Bodies, cursors and
//! links are sealed blobs. It must not know what the operations do.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::rows::Failure;
use crate::store::StoreError;

/// What each version of the file adds to the one before; the file's `user_version` counts those that were applied.
const MIGRATIONS: [&str; 8] = [
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
    include_str!("schema/0005.sql"),
    include_str!("schema/0006.sql"),
    include_str!("schema/0007.sql"),
    include_str!("schema/0008.sql"),
];

/// How long a statement waits for an operator's tool that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// All statements of the store fit with room to spare; a page must not prepare one twice.
const STATEMENTS_CACHED: usize = 192;

/// Whether opening may create the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// The service: a missing file is created.
    Service,
    /// A command that needs what is there: a mistyped path must not become an empty store.
    Offline,
    /// The command that makes a restored backup fit to go on with.
    Recovery,
}

/// Makes sure that there is a file, as far as `mode` allows; an empty one is a store of version 0.
pub(super) fn ensure_file(path: &Path, mode: OpenMode) -> Result<(), StoreError> {
    match mode {
        OpenMode::Service => create_private(path),
        OpenMode::Offline | OpenMode::Recovery => must_exist(path),
    }
}

/// Takes the exclusive lock that says "one courier works on this file"; it is held while the answer lives.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = private(OpenOptions::new().create(true).truncate(false).write(true))
        .open(PathBuf::from(name))
        .map_err(|error| engine("opening the store's lock file", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(engine("locking the store", error)),
    }
}

/// Opens the connection that writes, and brings the file up to date.
pub(super) fn open_for_writing(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db =
        Connection::open_with_flags(path, flags).map_err(|error| engine("opening the store", error))?;
    prepare(&db)
        .and_then(|()| migrate(&mut db, &MIGRATIONS))
        .map_err(|failure| failure.named("bringing the store up to date"))?;
    Ok(db)
}

/// Refuses to go on with a backup as if nothing had happened since: what was accepted and delivered after it was made is
/// not in it.
pub(super) fn check_origin(db: &Connection, path: &Path, mode: OpenMode) -> Result<(), StoreError> {
    let copied: bool = db
        .query_row("SELECT copied_at IS NOT NULL FROM store", [], |row| row.get(0))
        .map_err(|error| engine("reading the store's origin", error))?;
    match mode {
        OpenMode::Service | OpenMode::Offline if copied => Err(StoreError::Unusable {
            reason: format!(
                "the store {} is a backup: run `ehr-courier recover` once before going on with it",
                path.display()
            ),
        }),
        OpenMode::Service | OpenMode::Offline | OpenMode::Recovery => Ok(()),
    }
}

/// Opens a connection that only reads; the file must be of this version.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    must_exist(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(|error| engine("opening the store", error))?;
    settle(&db).map_err(|error| engine("opening the store", error))?;
    let version = user_version(&db).map_err(|error| engine("reading the store's version", error))?;
    if version != MIGRATIONS.len() {
        return Err(StoreError::Unusable {
            reason: format!(
                "the store is of version {version}, this ehr-courier reads version {}: run the service once, or use \
                 the ehr-courier that wrote it",
                MIGRATIONS.len()
            ),
        });
    }
    Ok(db)
}

/// What both kinds of connection need.
fn settle(db: &Connection) -> Result<(), rusqlite::Error> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Plans do not look at bound values. Otherwise most statements are compiled anew at every execution, because a
    // value might have made another plan better: a third of the writer's time, for plans that are always the same.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn prepare(db: &Connection) -> Result<(), Failure> {
    settle(db)?;
    // Readers never wait for the writer, and a commit is one sequential write with one fsync.
    db.pragma_update(None, "journal_mode", "WAL")?;
    // Each commit is fsynced before it is answered; NORMAL would lose the last ones with the power.
    db.pragma_update(None, "synchronous", "FULL")?;
    // The log is cut back to this size after a checkpoint, so that one burst does not keep its disk space for ever.
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // A checkpoint every 16 MiB of log: the default of 4 MiB would interrupt a busy writer four times as often.
    db.pragma_update(None, "wal_autocheckpoint", 4096)?;
    // Sorts of listings stay out of the file system, where they would leave PHI behind.
    db.pragma_update(None, "temp_store", "MEMORY")?;
    // 32 MiB of pages: the indexes of a busy outbox stay in memory.
    db.pragma_update(None, "cache_size", -32_768)?;
    // What was deleted is overwritten with zeros, pages that become free included: bodies are PHI. FAST would leave
    // them readable on free pages. The log keeps earlier copies until a checkpoint writes over it.
    db.pragma_update(None, "secure_delete", "ON")?;
    // Declared references hold; the tables declare none so far, and a later one must not be without effect.
    db.pragma_update(None, "foreign_keys", true)?;
    Ok(())
}

/// Applies the migrations that the file lacks, each in one transaction with its number.
fn migrate(db: &mut Connection, migrations: &[&str]) -> Result<(), Failure> {
    let version = user_version(db)?;
    if version > migrations.len() {
        return Err(Failure::Answer(StoreError::Unusable {
            reason: format!(
                "the store is of version {version}, newer than this ehr-courier, which knows versions up to {}: \
                 use the newer ehr-courier",
                migrations.len()
            ),
        }));
    }
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if version == 0 && tables > 0 {
        return Err(Failure::Answer(StoreError::Unusable {
            reason: "the file is an SQLite database, but not a store of ehr-courier: choose another path"
                .to_owned(),
        }));
    }
    for (index, migration) in migrations.iter().enumerate().skip(version) {
        let tx = db.transaction()?;
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))?;
        tx.commit()?;
    }
    Ok(())
}

fn user_version(db: &Connection) -> Result<usize, rusqlite::Error> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    // A negative version is none of ours: newer than anything known.
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

fn create_private(path: &Path) -> Result<(), StoreError> {
    private(OpenOptions::new().create(true).truncate(false).write(true))
        .open(path)
        .map(drop)
        .map_err(|error| engine("creating the store", error))
}

fn must_exist(path: &Path) -> Result<(), StoreError> {
    if path.is_file() {
        return Ok(());
    }
    Err(StoreError::Unusable {
        reason: format!("there is no store at {}", path.display()),
    })
}

/// Files with records in them are the owner's alone; SQLite gives its side files the same mode.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn engine(operation: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Engine {
        operation,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_each_earlier_version_is_brought_up_to_date_and_keeps_its_rows() {
        let steps = [
            "CREATE TABLE a(x) STRICT; ".replace("a(x)", "a(x INTEGER)"),
            "ALTER TABLE a ADD COLUMN y TEXT".to_owned(),
        ];
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, &steps[..1]).unwrap();
        db.execute("INSERT INTO a(x) VALUES (7)", []).unwrap();
        migrate(&mut db, &steps).unwrap();
        migrate(&mut db, &steps).unwrap();
        assert_eq!(user_version(&db).unwrap(), 2);
        let row: (i64, Option<String>) = db
            .query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(row, (7, None));
    }

    #[test]
    fn a_migration_that_fails_leaves_the_version_before_it_whole() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, &["CREATE TABLE a(x)"]).unwrap();
        assert!(migrate(&mut db, &["CREATE TABLE a(x)", "CREATE TABLE b(x); NONSENSE"]).is_err());
        assert_eq!(user_version(&db).unwrap(), 1);
        let b: i64 = db
            .query_row("SELECT count(*) FROM sqlite_master WHERE name = 'b'", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(b, 0);
    }

    #[test]
    fn what_was_deleted_is_not_left_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("courier.db");
        ensure_file(&path, OpenMode::Service).unwrap();
        let db = open_for_writing(&path).unwrap();
        db.execute_batch("CREATE TABLE body(x TEXT)").unwrap();
        let body = "Gwendolyn Testperson ".repeat(2_000);
        db.execute("INSERT INTO body(x) VALUES (?1)", [&body]).unwrap();
        db.execute("DELETE FROM body", []).unwrap();
        drop(db);
        let left = std::fs::read(&path).unwrap();
        assert!(left.len() > body.len(), "the freed pages are still there");
        assert!(!left.windows(9).any(|window| window == b"Gwendolyn"));
    }

    #[test]
    fn a_newer_store_and_a_database_of_another_program_are_refused() {
        let mut newer = Connection::open_in_memory().unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        let mut foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("CREATE TABLE theirs(x)").unwrap();
        for db in [&mut newer, &mut foreign] {
            let refused = migrate(db, &MIGRATIONS);
            assert!(matches!(
                refused,
                Err(Failure::Answer(StoreError::Unusable { .. }))
            ));
        }
    }
}
