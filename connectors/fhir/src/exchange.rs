//! One request to the source: address, headers, credentials, limits.
//!
//! Guarantees: credentials go to the base address's origin only, and never into `Debug`, errors or logs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use courier_sdk::{AtLimit, ConnectorError, Http, HttpError, HttpRequest, HttpResponse};
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::{answer, query};

/// Credentials for the source.
#[derive(Clone)]
pub enum Auth {
    /// None are sent.
    None,
    /// HTTP Basic.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A fixed bearer token.
    Bearer(SecretString),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic",
            Self::Bearer(_) => "Bearer",
        })
    }
}

/// Sends requests to one source.
pub(crate) struct Exchange {
    pub(crate) base: Url,
    pub(crate) auth: Auth,
    pub(crate) http: Arc<dyn Http>,
    pub(crate) deadline: Duration,
}

/// Which answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A search, with unknown parameters refused.
    Search,
    /// One record.
    Record,
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nothing was sent.
    NotSent(ConnectorError),
    /// There is no complete answer.
    Broken(HttpError),
}

impl NoAnswer {
    /// The caller's error.
    pub(crate) fn of(self, operation: &str) -> ConnectorError {
        match self {
            Self::NotSent(error) => error,
            Self::Broken(error) => answer::broken(operation.to_owned(), &error),
        }
    }
}

impl Exchange {
    /// Asks for one address.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    pub(crate) async fn get(
        &self,
        operation: &str,
        url: Url,
        wanted: Wanted,
        bytes_max: usize,
    ) -> Result<HttpResponse, NoAnswer> {
        if !query::same_origin(&self.base, &url) {
            let reason = "the address leads to another origin than base_url".to_owned();
            return Err(NoAnswer::NotSent(forbidden(operation, reason)));
        }
        let request = HttpRequest {
            method: Method::GET,
            url,
            headers: self.headers(operation, wanted).map_err(NoAnswer::NotSent)?,
            body: Bytes::new(),
            deadline: self.deadline,
            response_bytes_max: bytes_max,
            at_limit: AtLimit::Fail,
        };
        self.http.send(request).await.map_err(NoAnswer::Broken)
    }

    fn headers(&self, operation: &str, wanted: Wanted) -> Result<HeaderMap, ConnectorError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/fhir+json"));
        // HAPI answers a repeated search from a cache for a minute unless told otherwise.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if wanted == Wanted::Search {
            headers.insert(
                HeaderName::from_static("prefer"),
                HeaderValue::from_static("handling=strict"),
            );
        }
        let credentials = match &self.auth {
            Auth::None => return Ok(headers),
            Auth::Basic { user, password } => {
                let pair = SecretString::from(format!("{user}:{}", password.expose_secret()));
                format!("Basic {}", STANDARD.encode(pair.expose_secret()))
            }
            Auth::Bearer(token) => format!("Bearer {}", token.expose_secret()),
        };
        let mut value = HeaderValue::try_from(credentials).map_err(|_| {
            forbidden(
                operation,
                "the credentials hold characters that no header can carry".to_owned(),
            )
        })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(headers)
    }
}

fn forbidden(operation: &str, reason: String) -> ConnectorError {
    ConnectorError::Forbidden {
        operation: operation.to_owned(),
        reason,
    }
}
