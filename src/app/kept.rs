//! Refresh tokens between their uses: one small sealed file for each connection, beside the database.
//!
//! Guarantees: a use begins only once it is certain that its successor can be written; the successor is durable before
//! anything rests on it; two uses never meet, be they of this process, of the worker before or of another command.
//! Such a file is no row of the store: a backup that is put back must not bring back a token that was spent since.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use courier_auth::{Keeper, Turn, Unkept};
use courier_sdk::ConnectionName;
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::config::{Auth, Config, Refresh};
use crate::wire::sealed::{Place, Seals};

/// A token request ends within 15 s: then its use has, too.
const USE_MAX: Duration = Duration::from_secs(20);

/// What the file holds, sealed.
#[derive(Serialize, Deserialize)]
struct Held {
    /// The digest of the token that the configuration referred to when this one was answered: where it refers to
    /// another now, someone has authorized the courier anew, and this one is of no use.
    first: String,
    token: String,
}

/// Keeps the refresh token of one connection.
pub(super) struct KeptToken(Arc<Spot>);

/// Where it is kept.
struct Spot {
    connection: ConnectionName,
    path: PathBuf,
    seals: Seals,
    first: SecretString,
    /// A token that was answered and could not be written.
    unwritten: Mutex<Option<SecretString>>,
}

/// One use: the lock is held until it is dropped.
struct Use {
    spot: Arc<Spot>,
    token: SecretString,
    _lock: File,
}

impl KeptToken {
    /// Keeps a token where the configuration says; nothing is read before it is needed.
    pub(super) fn new(refresh: &Refresh, seals: Seals) -> Self {
        Self(Arc::new(Spot {
            connection: refresh.connection.clone(),
            path: refresh.kept.clone(),
            seals,
            first: refresh.first.clone(),
            unwritten: Mutex::default(),
        }))
    }
}

#[async_trait]
impl Keeper for KeptToken {
    async fn begin(&self) -> Result<Box<dyn Turn>, Unkept> {
        let spot = Arc::clone(&self.0);
        let begun = blocking(move || {
            let lock = spot.lock()?;
            let token = spot.current()?;
            Ok(Use {
                spot,
                token,
                _lock: lock,
            })
        });
        Ok(Box::new(begun.await?))
    }
}

#[async_trait]
impl Turn for Use {
    fn token(&self) -> &SecretString {
        &self.token
    }

    async fn keep(&mut self, next: SecretString) -> Result<(), Unkept> {
        let spot = Arc::clone(&self.spot);
        let token = next.clone();
        blocking(move || spot.keep(&token)).await?;
        // Told once: from now on the kept one is used.
        if self.token.expose_secret() == self.spot.first.expose_secret() {
            warn!(
                connection = %self.spot.connection,
                "the server replaced the refresh token: the new one is kept beside the database, and the one that the \
                 configuration refers to may be spent"
            );
        }
        self.token = next;
        Ok(())
    }
}

impl Spot {
    fn lock(&self) -> Result<File, Unkept> {
        locked(&self.path).map_err(|error| self.unwritable(&error))
    }

    /// The token in force. A kept one is written anew, sealed with the key in force; another is written as far as
    /// shows that its successor can be.
    fn current(&self) -> Result<SecretString, Unkept> {
        let unwritten = self.unwritten().clone();
        let kept = match unwritten {
            Some(token) => Some(token),
            None => self
                .held()?
                .filter(|held| held.first == self.first_digest())
                .map(|held| SecretString::from(held.token)),
        };
        let written = match &kept {
            Some(token) => self.write(token),
            // What is kept of another first token stays until the server has accepted this one.
            None => self.write_beside(&self.first).map(drop),
        };
        written.map_err(|error| self.unwritable(&error))?;
        *self.unwritten() = None;
        Ok(kept.unwrap_or_else(|| self.first.clone()))
    }

    fn keep(&self, next: &SecretString) -> Result<(), Unkept> {
        if let Err(error) = self.write(next) {
            *self.unwritten() = Some(next.clone());
            let path = self.path.display();
            return Err(Unkept::ForNow(format!(
                "the server replaced the refresh token, and the new one cannot be written to {path} ({}): it is held in \
                 memory and written once that is possible; a restart before would lose it",
                error.kind()
            )));
        }
        Ok(())
    }

    fn held(&self) -> Result<Option<Held>, Unkept> {
        let sealed = match fs::read(&self.path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Unkept::ForNow(
                    self.sentence("cannot be read", &error.kind().to_string()),
                ));
            }
        };
        let unusable = |why: &str| Unkept::ForGood(self.sentence("cannot be opened", why));
        let names = [self.connection.as_str()];
        let opened = self.seals.open(&sealed, Place::new("refresh token", &names));
        let opened = opened.map_err(|error| unusable(&error.to_string()))?;
        let held = serde_json::from_slice(&opened).map_err(|_| unusable("it is damaged"))?;
        Ok(Some(held))
    }

    /// Writes the file whole, so that there is the old or the new one at any moment, and durable.
    fn write(&self, token: &SecretString) -> io::Result<()> {
        let new = self.write_beside(token)?;
        fs::rename(&new, &self.path)?;
        File::open(folder(&self.path))?.sync_all()
    }

    fn write_beside(&self, token: &SecretString) -> io::Result<PathBuf> {
        let held = Held {
            first: self.first_digest(),
            token: token.expose_secret().to_owned(),
        };
        let names = [self.connection.as_str()];
        let body = SecretString::from(serde_json::to_string(&held)?);
        let sealed = self
            .seals
            .seal(
                body.expose_secret().as_bytes(),
                Place::new("refresh token", &names),
            )
            .map_err(io::Error::other)?;
        let new = with_ending(&self.path, ".new");
        let mut file = private(&new, OpenOptions::new().write(true).create(true).truncate(true))?;
        file.write_all(&sealed)?;
        file.sync_all()?;
        Ok(new)
    }

    fn first_digest(&self) -> String {
        let bytes = self.first.expose_secret().as_bytes();
        HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
    }

    fn unwritten(&self) -> std::sync::MutexGuard<'_, Option<SecretString>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwritable(&self, error: &io::Error) -> Unkept {
        let why = format!(
            "{}; it is not used before its successor can be kept",
            error.kind()
        );
        Unkept::ForNow(self.sentence("cannot be written", &why))
    }

    fn sentence(&self, what: &str, why: &str) -> String {
        format!("the refresh token's file {} {what}: {why}", self.path.display())
    }
}

impl Drop for Spot {
    /// A reload ends this keeper: what could not be written gets its last chance.
    fn drop(&mut self) {
        let unwritten = self.unwritten().take();
        if let Some(token) = unwritten
            && let Err(error) = self.write(&token)
        {
            error!(connection = %self.connection, %error, "a refresh token is lost: authorize the courier anew");
        }
    }
}

/// Waits until no use of a refresh token is under way: its answer may hold the successor. One use ends in time.
pub(super) async fn settled(config: &Config) {
    for entry in config.connections.values() {
        let Auth::OAuth(oauth) = &entry.auth else { continue };
        let Some(refresh) = &oauth.refresh else { continue };
        let path = refresh.kept.clone();
        let waited = blocking(move || locked(&path).map_err(|error| Unkept::ForNow(error.to_string())));
        match tokio::time::timeout(USE_MAX, waited).await {
            Ok(Ok(_unlocked)) => {}
            Ok(Err(_)) | Err(_) => {
                warn!(connection = %entry.name, "a use of the refresh token may still be under way");
            }
        }
    }
}

/// Locks the file beside this one; blocking, for as long as somebody else holds it.
fn locked(path: &Path) -> io::Result<File> {
    let folder = folder(path);
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let lock = with_ending(path, ".lock");
    let file = private(&lock, OpenOptions::new().write(true).create(true).truncate(false))?;
    file.lock()?;
    Ok(file)
}

fn private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).open(path)
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Runs what blocks apart from the tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unkept> + Send + 'static,
) -> Result<T, Unkept> {
    let mut working = JoinSet::new();
    working.spawn_blocking(work);
    match working.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(_)) | None => Err(Unkept::ForNow(
            "the refresh token's file was given up on".to_owned(),
        )),
    }
}
