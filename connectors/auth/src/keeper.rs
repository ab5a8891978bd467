//! The seam behind which a refresh token is kept between its uses.
//!
//! A server may answer each use with a new token and let the old one end with it (RFC 6749, 6). So what was answered
//! must be durable before anything rests on it, and two uses must never meet.

use async_trait::async_trait;
use secrecy::SecretString;
use thiserror::Error;

/// Keeps one refresh token.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// Waits until nobody else uses the token, in whatever process, and begins a use of it.
    ///
    /// # Errors
    /// [`Unkept`] where the token cannot be read, or its successor could not be written: it is then not used.
    async fn begin(&self) -> Result<Box<dyn Turn>, Unkept>;
}

/// One use of a refresh token; nobody else uses it until this is dropped.
#[async_trait]
pub trait Turn: Send {
    /// The token in force.
    fn token(&self) -> &SecretString;

    /// Replaces it; durable when this returns.
    ///
    /// # Errors
    /// [`Unkept`] where it cannot be written. The keeper then holds it in memory and writes it at the next turn.
    async fn keep(&mut self, next: SecretString) -> Result<(), Unkept>;
}

/// A refresh token that cannot be read or written. The message shows nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unkept {
    /// It may be better the next time: a full disk, a file system that is away.
    #[error("{0}")]
    ForNow(String),
    /// It stays so until someone acts.
    #[error("{0}")]
    ForGood(String),
}
