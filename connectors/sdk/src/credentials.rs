//! What requests show so that the source lets them in.
//!
//! A connector asks for it before each request and says when it was refused; how it is obtained is not the
//! connector's business. It must never reach `Debug`, errors or logs.

use std::fmt;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

use crate::error::ConnectorError;

/// Lets requests in at one source.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Answers the headers that a request to the source must carry; `operation` names the request in errors.
    /// Send them to the source's own origin only.
    ///
    /// # Errors
    /// [`ConnectorError::Unauthorized`] where there is nothing to show and asking again at once is pointless;
    /// [`ConnectorError::Transient`] and [`ConnectorError::Throttled`] where whoever grants it is away or busy.
    ///
    /// # Cancel safety
    /// Safe: whoever asks next begins anew.
    async fn present(&self, operation: &str) -> Result<HeaderMap, ConnectorError>;

    /// Takes note that the source answered 401 to a request that showed this, and says whether it is worth a
    /// second request with something new.
    fn refused(&self, shown: &HeaderMap) -> Renewal;
}

/// Whether something new can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// [`Credentials::present`] will answer with something new.
    Possible,
    /// It would answer the same again.
    Pointless,
}

/// Headers that never change. `Debug` shows how many there are.
#[derive(Clone, Default)]
pub struct Fixed(HeaderMap);

/// A value that no header can carry; the value itself is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the credentials hold characters that no header can carry")]
pub struct InvalidCredential;

impl Fixed {
    /// Shows nothing: the source is open.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Shows one header.
    ///
    /// # Errors
    /// [`InvalidCredential`] when the value has other characters than visible ASCII and spaces.
    pub fn header(name: HeaderName, value: &str) -> Result<Self, InvalidCredential> {
        Ok(Self(HeaderMap::from_iter([(name, sensitive(value)?)])))
    }
}

/// Makes a header's value that no `Debug` output shows.
///
/// # Errors
/// [`InvalidCredential`] when it has other characters than visible ASCII and spaces.
pub fn sensitive(value: &str) -> Result<HeaderValue, InvalidCredential> {
    let mut value = HeaderValue::from_str(value).map_err(|_| InvalidCredential)?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fixed({} headers)", self.0.len())
    }
}

#[async_trait]
impl Credentials for Fixed {
    async fn present(&self, _operation: &str) -> Result<HeaderMap, ConnectorError> {
        Ok(self.0.clone())
    }

    fn refused(&self, _shown: &HeaderMap) -> Renewal {
        Renewal::Pointless
    }
}
