//! Backups: a consistent copy of the file while a service writes it.
//!
//! The copy is one read transaction, compacted, and marked: a service starts on it only after `recover`. It appears
//! under its name when it is whole and on the disk, and never replaces anything.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;

use super::rows::{Failure, nanos};
use super::{control, schema};
use crate::store::{Epoch, StoreError};

/// A backup that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its size.
    pub bytes: u64,
    /// The epoch of the state that it holds.
    pub epoch: Epoch,
}

/// Copies a store to a new file, beside a running service. Blocking; reads all of the store.
///
/// # Errors
/// [`StoreError::Refused`] when the target stands there already; [`StoreError::Unusable`] when there is no store, or
/// one that this version cannot read; [`StoreError::Engine`]. Nothing stands under the target's name then.
pub fn copy(database: &Path, target: &Path, now: Timestamp) -> Result<Backup, StoreError> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(taken(target));
    }
    let db = schema::open_for_reading(database)?;
    let partial = partial(target);
    remove_if_there(&partial).map_err(|error| failed(error.into()))?;
    let written = write(&db, &partial, now).and_then(|backup| {
        publish(&partial, target)?;
        Ok(backup)
    });
    let removed = remove_if_there(&partial);
    let backup = written.map_err(failed)?;
    removed.map_err(|error| failed(error.into()))?;
    Ok(backup)
}

fn write(db: &Connection, partial: &Path, now: Timestamp) -> Result<Backup, Failure> {
    // SQLite writes into an empty file that stands there, and so keeps its mode: records are the owner's alone.
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(partial)?;
    let name = partial
        .to_str()
        .ok_or_else(|| Failure::refused("the backup's path is not UTF-8: choose another".to_owned()))?;
    db.execute("VACUUM INTO ?1", [name])?;
    let copied = Connection::open(partial)?;
    // One file at every moment: no log beside the copy.
    copied.pragma_update(None, "journal_mode", "DELETE")?;
    copied.execute("UPDATE store SET copied_at = ?1", [nanos(now)])?;
    let epoch = control::epoch(&copied)?;
    copied.close().map_err(|(_, error)| error)?;
    let file = File::open(partial)?;
    file.sync_all()?;
    Ok(Backup {
        bytes: file.metadata()?.len(),
        epoch,
    })
}

/// Gives the copy its name, which must be free, and makes the name durable.
fn publish(partial: &Path, target: &Path) -> Result<(), Failure> {
    match fs::hard_link(partial, target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Failure::Answer(taken(target)));
        }
        linked => linked?,
    }
    fs::remove_file(partial)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(())
}

fn partial(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn taken(target: &Path) -> StoreError {
    StoreError::Refused {
        reason: format!("{} exists already: a backup replaces nothing", target.display()),
    }
}

fn failed(failure: Failure) -> StoreError {
    failure.named("making a backup")
}
