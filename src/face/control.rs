//! The control socket: the admin API for whoever owns the database, on a Unix socket beside it.
//!
//! Guarantees: the socket never has a mode wider than 0600, not for a moment; what a killed service left behind is
//! replaced, and nothing but a socket ever is. The caller holds the store's lock, so no other service owns the socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// The longest path that every Unix takes: `sun_path` has 104 bytes on some, the last of them zero.
const PATH_BYTES_MAX: usize = 103;

/// How long requests in progress are waited for once the service stops.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The path does not fit into a socket's address.
    #[error(
        "the control socket's path {} has {} bytes, {PATH_BYTES_MAX} are possible: put the database into a folder with \
         a shorter path", path.display(), path.as_os_str().len()
    )]
    TooLong {
        /// The longest path that is needed.
        path: PathBuf,
    },
    /// Something else stands where the socket should.
    #[error("{} is not a socket: move it away", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// The socket cannot be made or served.
    #[error("cannot serve the control socket {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the control socket of a database is: `{database}.sock`.
#[must_use]
pub fn socket_of(database: &Path) -> PathBuf {
    beside(database, ".sock")
}

/// A bound control socket; its file goes when it is dropped.
pub struct ControlSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds the control socket of a database whose lock the caller holds.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn bind(database: &Path) -> Result<Self, ControlError> {
        let path = socket_of(database);
        // Bound within a folder that nobody else can enter, then moved into place: at no moment can a stranger connect.
        let folder = beside(database, ".sock.d");
        let within = folder.join("s");
        let fits = |path: &Path| path.as_os_str().len() <= PATH_BYTES_MAX;
        if !fits(&within) || !fits(&path) {
            return Err(ControlError::TooLong { path: within });
        }
        let standing = fs::symlink_metadata(&path);
        if standing.is_ok_and(|it| !it.file_type().is_socket()) {
            return Err(ControlError::Taken { path });
        }
        let listener = bind_within(&folder, &within, &path).map_err(|source| ControlError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            listener: Some(listener),
            path,
        })
    }

    /// Answers requests until `stop`; those in progress by then have two seconds to end.
    ///
    /// # Errors
    /// [`ControlError::Io`] when the listener fails.
    pub async fn serve(mut self, router: Router, stop: CancellationToken) -> Result<(), ControlError> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let mut serving = std::pin::pin!(serving.into_future());
        let served = tokio::select! {
            biased;
            ended = &mut serving => ended,
            // A client that never finishes its request does not keep the service alive.
            () = stop.cancelled() => tokio::time::timeout(STOP_GRACE, serving).await.unwrap_or(Ok(())),
        };
        served.map_err(|source| ControlError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket's file is gone already");
        }
    }
}

fn bind_within(folder: &Path, within: &Path, path: &Path) -> io::Result<UnixListener> {
    clear(folder, within)?;
    DirBuilder::new().mode(0o700).create(folder)?;
    let listener = UnixListener::bind(within)?;
    fs::set_permissions(within, Permissions::from_mode(0o600))?;
    fs::rename(within, path)?;
    fs::remove_dir(folder)?;
    Ok(listener)
}

/// Removes what a service left that was killed between two of the steps above.
fn clear(folder: &Path, within: &Path) -> io::Result<()> {
    for removed in [fs::remove_file(within), fs::remove_dir(folder)] {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
